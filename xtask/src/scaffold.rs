//! `new`: the files and lines of one more method.
use crate::{read, registry, write};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;

/// A family that has a template.
struct Template {
    family: &'static str,
    /// The erased trait of the list that the method goes to.
    interface: &'static str,
    text: &'static str,
}

const TEMPLATES: [Template; 5] = [
    Template { family: "optim", interface: "AnyOptimiser", text: include_str!("../templates/optim.rs.txt") },
    Template { family: "peft", interface: "AnyWeight", text: include_str!("../templates/peft.rs.txt") },
    Template { family: "shift", interface: "AnyAlign", text: include_str!("../templates/shift.rs.txt") },
    Template { family: "stats", interface: "AnyEstimator", text: include_str!("../templates/stats.rs.txt") },
    Template { family: "tta", interface: "AnyTestTime", text: include_str!("../templates/tta.rs.txt") },
];

const REFERENCE: &str = include_str!("../templates/reference.py.txt");

/// What is known of a method before its first line is written.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `optim`, `peft`, `shift`, `stats` or `tta`.
    pub family: String,
    /// Registry name in snake case.
    pub name: String,
    /// The title as the paper spells it.
    pub title: String,
    /// `arxiv:ID` or `-`.
    pub paper: String,
    /// Year of publication.
    pub year: u16,
    /// Its number in the catalogue of papers.
    pub catalogue: Option<u16>,
}

impl Plan {
    /// A plan from what the command line says; the year of an arXiv number is its first two digits.
    pub fn new(
        method: &str,
        title: &str,
        arxiv: Option<&str>,
        year: Option<u16>,
        catalogue: Option<u16>,
    ) -> Result<Self> {
        let (family, name) = method.split_once('/').with_context(|| format!("`{method}` is not FAMILY/NAME"))?;
        let snake = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        ensure!(snake, "`{name}` is not in snake case");
        let paper = arxiv.map_or("-".to_owned(), |id| format!("arxiv:{id}"));
        let dated = arxiv.and_then(|id| id.get(..2)?.parse::<u16>().ok()).map(|year| 2000 + year);
        let year = year.or(dated).context("`--year` is needed where `--arxiv` does not tell it")?;
        Ok(Self { family: family.to_owned(), name: name.to_owned(), title: title.to_owned(), paper, year, catalogue })
    }

    /// The type's name: the registry name in Rust's case.
    pub fn ty(&self) -> String {
        let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
        self.name.split('_').filter(|word| !word.is_empty()).map(capital).collect()
    }

    fn fill(&self, template: &str) -> String {
        template
            .replace("@FAMILY@", &self.family)
            .replace("@NAME@", &self.name)
            .replace("@TYPE@", &self.ty())
            .replace("@TITLE@", &self.title)
            .replace("@PAPER@", &self.paper)
            .replace("@YEAR@", &self.year.to_string())
            .replace("@CATALOGUE@", &self.catalogue.map(|n| n.to_string()).unwrap_or_default())
    }

    fn changelog_line(&self) -> String {
        let paper = match self.paper.strip_prefix("arxiv:") {
            Some(id) => format!(" ([arXiv:{id}](https://arxiv.org/abs/{id}))"),
            None => String::new(),
        };
        format!("- `{}/{}`: {}{paper}.", self.family, self.name, self.title)
    }
}

/// Writes the method's file, its reference script, its `mod` and list lines and its changelog line; answers with the files.
/// Nothing is written when any of it is refused.
pub fn create(root: &Path, plan: &Plan) -> Result<Vec<String>> {
    let Some(template) = TEMPLATES.iter().find(|template| template.family == plan.family) else {
        let known: Vec<&str> = TEMPLATES.iter().map(|template| template.family).collect();
        bail!("there is no template for `{}`; the families are {}", plan.family, known.join(", "));
    };
    let source = format!("crates/{}/src/{}.rs", plan.family, plan.name);
    let script = format!("reference/{}/{}.py", plan.family, plan.name);
    for file in [&source, &script] {
        ensure!(!root.join(file).exists(), "{file} exists already");
    }
    let lib = format!("crates/{}/src/lib.rs", plan.family);
    let changelog = "CHANGELOG.md".to_owned();
    let texts = [
        (source, plan.fill(template.text)),
        (script, plan.fill(REFERENCE)),
        (
            lib.clone(),
            registry::insert(&read(&root.join(&lib))?, template.interface, &plan.name, &plan.ty()).context(lib)?,
        ),
        (changelog.clone(), added(&read(&root.join(&changelog))?, &plan.changelog_line())?),
    ];
    for (file, text) in &texts {
        write(&root.join(file), text)?;
    }
    Ok(texts.into_iter().map(|(file, _)| file).collect())
}

/// The changelog with a line at the end of what is added under Unreleased.
fn added(changelog: &str, line: &str) -> Result<String> {
    let mut lines: Vec<&str> = changelog.lines().collect();
    let head =
        lines.iter().position(|line| *line == "## [Unreleased]").context("CHANGELOG.md has no `## [Unreleased]`")?;
    let until = |from: usize, sign: &str, lines: &[&str]| {
        lines[from..].iter().position(|line| line.starts_with(sign)).map_or(lines.len(), |i| from + i)
    };
    let end = until(head + 1, "## ", &lines);
    let Some(section) = (head..end).find(|&i| lines[i] == "### Added") else {
        lines.splice(head + 1..head + 1, ["", "### Added", "", line]);
        return Ok(lines.join("\n") + "\n");
    };
    let mut at = until(section + 1, "##", &lines);
    while lines[at - 1].is_empty() && at > section + 2 {
        at -= 1;
    }
    lines.insert(at, line);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(method: &str) -> Result<Plan> {
        Plan::new(method, "D-Adapted Lion", Some("2301.07733"), None, Some(1))
    }

    #[test]
    fn a_plan_is_read_from_its_name() {
        let plan = plan("optim/dadapt_lion").unwrap();
        assert_eq!((plan.ty().as_str(), plan.year), ("DadaptLion", 2023));
        assert!(super::Plan::new("dog", "", None, Some(2023), None).is_err());
        assert!(super::Plan::new("optim/DoG", "", None, Some(2023), None).is_err());
        assert!(super::Plan::new("optim/dog", "", None, None, None).is_err());
    }

    #[test]
    fn everything_is_written_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            &root.join("crates/optim/src/lib.rs"),
            "//! Text.\n\nmethods! { pub static M: dyn AnyOptimiser = []; }\n",
        )
        .unwrap();
        let plan = plan("optim/dadapt_lion").unwrap();
        assert!(create(root, &plan).is_err(), "there is no changelog");
        assert!(!root.join("crates/optim/src/dadapt_lion.rs").exists());
        write(&root.join("CHANGELOG.md"), "# Changelog\n\n## [Unreleased]\n").unwrap();
        assert_eq!(create(root, &plan).unwrap().len(), 4);
        let source = read(&root.join("crates/optim/src/dadapt_lion.rs")).unwrap();
        assert!(source.contains("pub struct DadaptLion {") && !source.contains('@'), "{source}");
        assert!(read(&root.join("crates/optim/src/lib.rs")).unwrap().contains("[dadapt_lion::DadaptLion]"));
        let error = create(root, &plan).unwrap_err().to_string();
        assert_eq!(error, "crates/optim/src/dadapt_lion.rs exists already");
    }

    #[test]
    fn every_family_has_a_template() {
        assert_eq!(TEMPLATES.each_ref().map(|template| template.family), crate::FAMILIES);
    }

    #[test]
    fn the_changelog_line_ends_the_list() {
        let text = "# C\n\n## [Unreleased]\n\n### Added\n\n- one\n\n### Fixed\n\n- two\n\n## [0.1.0]\n";
        assert!(added(text, "- new").unwrap().contains("- one\n- new\n\n### Fixed"));
        assert!(
            added("## [Unreleased]\n\n## [0.1.0]\n", "- new").unwrap().contains("### Added\n\n- new\n\n## [0.1.0]")
        );
        assert!(added("## [0.1.0]\n", "- new").is_err());
    }
}
