//! What no compiler checks: names, lists, leftovers and freshness. Each rule is a function from texts to findings.
use crate::golden::{self, Golden};
use crate::{FAMILIES, claims, files, read, registry};
use acclimate::Family;
use anyhow::Result;
use std::fmt;
use std::path::Path;

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the root.
    pub file: String,
    /// The line, counted from one; zero for the whole file.
    pub line: usize,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

fn finding(file: &str, line: usize, what: impl Into<String>) -> Finding {
    Finding { file: file.to_owned(), line, what: what.into() }
}

/// What a run of all rules found.
#[derive(Debug, Default)]
pub struct Report {
    /// Things to mend; any of them fails the check.
    pub findings: Vec<Finding>,
    /// Things to look at, such as long files.
    pub notes: Vec<Finding>,
}

/// Lines in a source file above which it is worth a look.
const LONG: usize = 600;

/// Folders at the root that are read.
const TREES: [&str; 12] = [
    ".cargo",
    ".ci",
    ".config",
    "benches",
    "claims",
    "crates",
    "docs",
    "examples",
    "golden",
    "reference",
    "schema",
    "xtask",
];

/// Runs every rule over the workspace at `root`.
pub fn run(root: &Path, families: &[Family]) -> Result<Report> {
    let mut report = Report::default();
    let mut rust = Vec::new();
    for tree in TREES {
        for file in files(root, tree)? {
            let Some((_, extension)) = file.rsplit_once('.') else { continue };
            if !["rs", "toml", "md", "py", "json"].contains(&extension) {
                continue;
            }
            let text = read(&root.join(&file))?;
            report.findings.extend(text_rules(&file, extension, &text));
            if extension == "rs" {
                if text.lines().count() > LONG {
                    report.notes.push(finding(&file, 0, format!("{} lines; is it one room?", text.lines().count())));
                }
                rust.push((file, text));
            } else if file.starts_with("crates/") && file.ends_with("/Cargo.toml") {
                report.findings.extend(description(&file, &text));
            }
        }
    }
    for family in FAMILIES {
        let inside: Vec<(&str, &str)> = rust
            .iter()
            .filter(|(file, _)| file.starts_with(&format!("crates/{family}/src/")))
            .map(|(file, text)| (file.as_str(), text.as_str()))
            .collect();
        report.findings.extend(methods(family, &inside));
    }
    report.findings.extend(parameters(&glossary(&read(&root.join("STYLE.md"))?), families));
    report.findings.extend(changelog(&read(&root.join("CHANGELOG.md"))?));
    for method in golden::methods(root, "golden", ".json")? {
        if golden::status(root, &method) == Golden::Stale {
            let script = golden::script(root, &method).unwrap_or_else(|| format!("reference/{method}.py"));
            let named = script.trim_start_matches("reference/").trim_end_matches(".py");
            let what = format!("not of {script} as it stands; run `{}`", golden::remedy(named));
            report.findings.push(finding(&format!("golden/{method}.json"), 0, what));
        }
    }
    for name in claims::stale(root)? {
        let what = format!("not of claims/{name}.toml as it stands; run `cargo xtask claims {name}`");
        report.findings.push(finding(&format!("claims/{name}.result.json"), 0, what));
    }
    Ok(report)
}

/// Leftovers and machine paths, by line. This file names them all, so it is not held to that rule.
fn text_rules(file: &str, extension: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let code = ["rs", "py"].contains(&extension);
    let names_them = file == "xtask/src/tidy.rs";
    if text.contains('\r') {
        found.push(finding(file, 0, "line ends of another system; use `\\n`"));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(finding(file, 0, "no line end at the end"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let mut add = |what: String| found.push(finding(file, number, what));
        if extension != "md" && line.ends_with([' ', '\t']) {
            add("blanks at the end of the line".to_owned());
        }
        if extension == "rs" && line.contains('\t') {
            add("a tab; use four blanks".to_owned());
        }
        if names_them {
            continue;
        }
        if code {
            for leftover in ["TODO", "FIXME", "todo!", "dbg!(", "unimplemented!", "#[ignore"] {
                if line.contains(leftover) {
                    add(format!("`{leftover}`: finish it or leave it out"));
                }
            }
        }
        if let Some(path) = machine_path(line) {
            add(format!("`{path}` is a path of one machine"));
        }
        if extension == "rs" && !file.starts_with("crates/kernels/") && is_unsafe(line) {
            add("`unsafe` outside `kernels`".to_owned());
        }
    }
    found
}

/// The start of an absolute path below a home, temporary or mount folder.
fn machine_path(line: &str) -> Option<&'static str> {
    const TOPS: [&str; 5] = ["/home/", "/root/", "/tmp/", "/Users/", "/work/"];
    TOPS.into_iter().find(|top| {
        line.match_indices(top)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~/}>*".contains(c)))
    })
}

fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["allow(unsafe_code", "unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
        .iter()
        .any(|word| code.contains(word))
}

fn description(file: &str, manifest: &str) -> Option<Finding> {
    let table: Option<toml::Table> = manifest.parse().ok();
    let given =
        table.is_some_and(|table| table["package"].get("description").is_some_and(|text| text.as_str() != Some("")));
    (!given).then(|| finding(file, 0, "the package has no `description`"))
}

/// Method files of a family against its lists: named like the card, listed, in order.
fn methods(family: &str, files: &[(&str, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut listed = Vec::new();
    for (file, text) in files {
        if let Some(module) = registry::unsorted(text) {
            found.push(finding(file, 0, format!("`{module}` is out of alphabetic order in `methods!`")));
        }
        listed.extend(registry::listed(text));
    }
    for (file, text) in files {
        let names = card_names(text);
        let stem = file.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
        if names.len() > 1 {
            found.push(finding(file, 0, format!("{} methods in one file; one method is one file", names.len())));
        }
        for name in names {
            if name != stem {
                found.push(finding(file, 0, format!("the card is named `{name}`, the file `{stem}.rs`")));
            }
            if !listed.iter().any(|(module, _)| *module == stem) {
                let what = format!("`{stem}` is not in the `methods!` list of crates/{family}/src/lib.rs");
                found.push(finding(file, 0, what));
            }
        }
    }
    found
}

/// The `name = "…"` of each `#[method(…)]` that stands on a struct deriving `Method`.
fn card_names(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let derives = text.match_indices("#[derive(").filter(|(at, _)| text[..*at].ends_with('\n'));
    for (at, _) in derives {
        let rest = &text[at..];
        let Some((derive, after)) = rest.split_once(")]") else { continue };
        if !derive.split(|c: char| !c.is_alphanumeric()).any(|word| word == "Method") {
            continue;
        }
        let name = after.split_once("name = \"").and_then(|(_, name)| name.split_once('"'));
        found.push(name.map_or("", |(name, _)| name));
    }
    found
}

/// The names that parameters must not have, each with the right ones: the first and last column of the table in STYLE.md.
fn glossary(style: &str) -> Vec<(String, String)> {
    let rows = style.lines().skip_while(|line| *line != "| name | meaning | not |").skip(2);
    let mut found = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        if let [right, _, refused] = cells[..] {
            found.extend(refused.split(", ").map(|name| (name.trim_matches('`').to_owned(), right.to_owned())));
        }
    }
    found
}

/// Config fields against the glossary.
fn parameters(glossary: &[(String, String)], families: &[Family]) -> Vec<Finding> {
    let mut found = Vec::new();
    for card in families.iter().flat_map(|family| &family.cards).map(|view| &view.card) {
        for param in card.params {
            if let Some((refused, right)) = glossary.iter().find(|(refused, _)| refused == param.name) {
                found.push(finding(
                    card.file,
                    0,
                    format!("the field `{refused}` is called {right} here; see STYLE.md"),
                ));
            }
        }
    }
    found
}

fn changelog(text: &str) -> Option<Finding> {
    let first = text.lines().find(|line| line.starts_with("## "));
    (first != Some("## [Unreleased]")).then(|| finding("CHANGELOG.md", 0, "the first version is not `## [Unreleased]`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::ParamInfo;

    fn whats(found: Vec<Finding>) -> String {
        found.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn leftovers_are_found_by_line() {
        let text = "fn f() {\n    todo!()\n}\n";
        assert_eq!(whats(text_rules("a.rs", "rs", text)), "a.rs:2: `todo!`: finish it or leave it out");
        assert_eq!(whats(text_rules("a.md", "md", "TODO is a word\n")), "");
    }

    #[test]
    fn blanks_tabs_and_line_ends_are_found() {
        assert!(whats(text_rules("a.rs", "rs", "a \n")).contains("blanks"));
        assert!(whats(text_rules("a.rs", "rs", "\ta\n")).contains("tab"));
        assert!(whats(text_rules("a.rs", "rs", "a\r\n")).contains("another system"));
        assert!(whats(text_rules("a.rs", "rs", "a")).contains("no line end"));
    }

    #[test]
    fn machine_paths_are_told_from_urls_and_relative_ones() {
        assert_eq!(machine_path("see \"/home/ada/model\""), Some("/home/"));
        assert_eq!(machine_path("/tmp/x"), Some("/tmp/"));
        assert_eq!(machine_path("https://example.com/home/x and ../tmp/x and $HOME/work/x"), None);
    }

    #[test]
    fn unsafe_code_is_told_from_words() {
        assert!(is_unsafe("    unsafe { f() }"));
        assert!(is_unsafe("#[allow(unsafe_code)]"));
        assert!(!is_unsafe("// unsafe is only in kernels"));
        assert!(!is_unsafe("style-src 'unsafe-inline'"));
    }

    #[test]
    fn a_method_file_is_named_and_listed() {
        let list = "methods! { pub static M: dyn O = [dog::Dog]; }\n";
        let dog =
            "/// Text.\n#[derive(Clone, Debug, Method)]\n#[method(name = \"dog\", title = \"DoG\")]\npub struct Dog;\n";
        let lib = ("crates/optim/src/lib.rs", list);
        assert_eq!(methods("optim", &[lib, ("crates/optim/src/dog.rs", dog)]), []);
        let text = whats(methods("optim", &[lib, ("crates/optim/src/dowg.rs", dog)]));
        assert!(text.contains("the card is named `dog`, the file `dowg.rs`"), "{text}");
        assert!(text.contains("`dowg` is not in the `methods!` list"), "{text}");
        let twice = dog.repeat(2);
        assert!(whats(methods("optim", &[lib, ("crates/optim/src/dog.rs", &twice)])).contains("2 methods in one file"));
    }

    #[test]
    fn a_crate_needs_a_description() {
        assert!(description("Cargo.toml", "[package]\nname = \"a\"\n").is_some());
        assert!(description("Cargo.toml", "[package]\nname = \"a\"\ndescription = \"b\"\n").is_none());
    }

    #[test]
    fn names_outside_the_glossary_are_refused() {
        let glossary = glossary(&read(&crate::root().unwrap().join("STYLE.md")).unwrap());
        assert!(glossary.contains(&("betas".to_owned(), "`beta1`, `beta2`".to_owned())), "{glossary:?}");
        let mut families = crate::pages::tests::families();
        assert_eq!(parameters(&glossary, &families), []);
        let wrong = ParamInfo { name: "lora_r", ty: "usize", doc: "", min: None, max: None, above: false };
        families[0].cards[0].card.params = Box::leak(Box::new([wrong]));
        assert!(whats(parameters(&glossary, &families)).contains("the field `lora_r` is called `rank` here"));
    }

    #[test]
    fn the_changelog_begins_with_what_is_unreleased() {
        assert_eq!(changelog("# Changelog\n\n## [Unreleased]\n"), None);
        assert!(changelog("# Changelog\n\n## [0.1.0]\n").is_some());
    }
}
