//! The `mod` lines and the `methods!` list of a family's `lib.rs`, read and extended as text.
use anyhow::{Context, Result, ensure};
use std::ops::Range;

/// The `module::Type` entries of the file's `methods!` lists, in the order written; presets are not among them.
pub fn listed(source: &str) -> Vec<(String, String)> {
    lists(source).into_iter().flat_map(|range| entries(&source[range])).collect()
}

/// The first module of a list that does not come after the one before it.
pub fn unsorted(source: &str) -> Option<String> {
    lists(source).into_iter().find_map(|range| {
        let names: Vec<String> = entries(&source[range]).into_iter().map(|(module, _)| module).collect();
        names.windows(2).find(|pair| pair[0] >= pair[1]).map(|pair| pair[1].clone())
    })
}

/// The file with one more method in the list of `interface`: a `mod` line and a list entry, both in alphabetic order.
pub fn insert(source: &str, interface: &str, module: &str, ty: &str) -> Result<String> {
    ensure!(!listed(source).iter().any(|(m, _)| m == module), "`{module}` is listed already");
    insert_entry(&insert_mod(source, module), interface, module, ty)
}

fn insert_mod(source: &str, module: &str) -> String {
    let line = format!("mod {module};");
    let mut lines: Vec<&str> = source.lines().collect();
    let is_mod = |text: &str| text.starts_with("mod ") && text.ends_with(';');
    let after = lines.iter().rposition(|text| is_mod(text) && **text < *line);
    let at = match after.map(|i| i + 1).or_else(|| lines.iter().position(|text| is_mod(text))) {
        Some(at) => at,
        // The first module goes below the `//!` text.
        None => lines.iter().position(|text| !text.starts_with("//!")).unwrap_or(lines.len()),
    };
    lines.insert(at, &line);
    lines.join("\n") + "\n"
}

fn insert_entry(source: &str, interface: &str, module: &str, ty: &str) -> Result<String> {
    let declared =
        |open: usize| source[..open].rfind("dyn ").map(|at| source[at + 4..open].trim_end_matches("= [").trim());
    let range = lists(source)
        .into_iter()
        .find(|range| declared(range.start) == Some(interface))
        .with_context(|| format!("there is no `methods!` list of `dyn {interface}` to add to"))?;
    let body = &source[range.clone()];
    let mut rows: Vec<String> = entries(body).into_iter().map(|(m, t)| format!("{m}::{t}")).collect();
    rows.push(format!("{module}::{ty}"));
    rows.sort();
    let one_line = rows.join(", ");
    let line_start = source[..range.start].rfind('\n').map_or(0, |i| i + 1);
    let before = &source[line_start..range.start];
    let text = if !body.contains('\n') && before.len() + one_line.len() < 116 {
        one_line
    } else {
        let indent = " ".repeat(before.len() - before.trim_start().len());
        rows.iter().map(|row| format!("\n{indent}    {row},")).collect::<String>() + "\n" + &indent
    };
    Ok(format!("{}{text}{}", &source[..range.start], &source[range.end..]))
}

/// What stands between `= [` and `]` in each `methods!` call.
fn lists(source: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (call, _) in source.match_indices("methods!") {
        let line_start = source[..call].rfind('\n').map_or(0, |i| i + 1);
        if source[line_start..call].contains("//") {
            continue;
        }
        let open = source[call..].find("= [").map(|i| call + i + 3);
        let close = open.and_then(|open| source[open..].find(']').map(|i| open + i));
        if let (Some(open), Some(close)) = (open, close) {
            found.push(open..close);
        }
    }
    found
}

fn entries(body: &str) -> Vec<(String, String)> {
    let code: String = body.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    code.split(',')
        .filter_map(|entry| entry.trim().split_once("::"))
        .map(|(m, t)| (m.to_owned(), t.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACE: &str = "Optimiser";
    const ONE_LINE: &str = "//! Text about `methods!`.\nmod dog;\nmod prodigy;\n\nmethods! { pub static METHODS: dyn Optimiser = [dog::Dog, prodigy::Prodigy]; }\n";

    #[test]
    fn a_method_takes_its_place() {
        let grown = insert(ONE_LINE, INTERFACE, "dowg", "Dowg").unwrap();
        assert!(grown.contains("mod dog;\nmod dowg;\nmod prodigy;\n"), "{grown}");
        assert!(grown.contains("= [dog::Dog, dowg::Dowg, prodigy::Prodigy];"), "{grown}");
        assert_eq!(unsorted(&grown), None);
    }

    #[test]
    fn the_first_and_the_last_place_are_found() {
        let first = insert(ONE_LINE, INTERFACE, "adam", "Adam").unwrap();
        assert!(first.contains("`methods!`.\nmod adam;\nmod dog;"), "{first}");
        let last = insert(ONE_LINE, INTERFACE, "sgd", "Sgd").unwrap();
        assert!(last.contains("mod prodigy;\nmod sgd;\n\n"), "{last}");
    }

    #[test]
    fn an_empty_list_takes_its_first_method() {
        let source = "//! Text.\n\nmethods! {\n    pub static METHODS: dyn Optimiser = [];\n}\n";
        let grown = insert(source, INTERFACE, "sgd", "Sgd").unwrap();
        assert_eq!(
            grown,
            "//! Text.\nmod sgd;\n\nmethods! {\n    pub static METHODS: dyn Optimiser = [sgd::Sgd];\n}\n"
        );
    }

    #[test]
    fn a_list_of_many_lines_keeps_its_form() {
        let source = "mod a;\nmethods! {\n    pub static ALL: dyn Optimiser = [\n        a::A,\n        c::C, // the third\n    ];\n}\n";
        let grown = insert(source, INTERFACE, "b", "B").unwrap();
        assert!(grown.contains("= [\n        a::A,\n        b::B,\n        c::C,\n    ];"), "{grown}");
        assert!(insert(&grown, INTERFACE, "b", "B").is_err());
    }

    #[test]
    fn the_list_of_the_interface_is_chosen() {
        let source = "methods! { pub static A: dyn One = [a::A]; }\nmethods! { pub static B: dyn Two = [b::B]; }\n";
        let grown = insert(source, "Two", "c", "C").unwrap();
        assert!(grown.contains("dyn One = [a::A];") && grown.contains("dyn Two = [b::B, c::C];"), "{grown}");
        let error = insert(source, "Three", "c", "C").unwrap_err().to_string();
        assert_eq!(error, "there is no `methods!` list of `dyn Three` to add to");
    }

    #[test]
    fn disorder_is_named() {
        assert_eq!(unsorted("methods! { static A: dyn T = [b::B, a::A]; }"), Some("a".to_owned()));
    }
}
