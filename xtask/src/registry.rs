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
    let name = |text: &str| text.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned);
    let after = lines.iter().rposition(|text| name(text).is_some_and(|name| *name < *module));
    let at = match after.map(|i| i + 1).or_else(|| lines.iter().position(|text| name(text).is_some())) {
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
    let row = format!("{module}::{ty}");
    let places = places(body);
    let (at, text) = match (places.iter().find(|(_, other)| *other > module), places.last()) {
        // Before the first that is greater, in its form: on the same line or on one of its own.
        (Some((next, _)), _) => (next.start, format!("{row},{}", space_before(body, next.start))),
        (None, Some((last, _))) => {
            let space = space_before(body, last.start);
            if space.contains('\n') {
                let line_end = body[last.end..].find('\n').map_or(body.len(), |i| last.end + i);
                (line_end, format!("{space}{row},"))
            } else {
                (last.end, format!(", {row}"))
            }
        }
        (None, None) => (0, row),
    };
    let at = range.start + at;
    Ok(format!("{}{text}{}", &source[..at], &source[at..]))
}

/// The line break and indent before an entry, or one blank where it shares its line.
fn space_before(body: &str, entry: usize) -> &str {
    let space = body[..entry].rfind(|c: char| !c.is_whitespace()).map_or(0, |i| i + 1);
    let space = &body[space..entry];
    space.rfind('\n').map_or(" ", |line| &space[line..])
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
    let split = |(place, module): (Range<usize>, &str)| (module.to_owned(), body[place][module.len() + 2..].to_owned());
    places(body).into_iter().map(split).collect()
}

/// Where each `module::Type` stands, and its module; comments are left out.
fn places(body: &str) -> Vec<(Range<usize>, &str)> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in body.split_inclusive('\n') {
        let mut at = start;
        for part in line.split("//").next().unwrap_or_default().split(',') {
            let entry = part.trim();
            if let Some((module, _)) = entry.split_once("::") {
                let begin = at + part.len() - part.trim_start().len();
                found.push((begin..begin + entry.len(), module));
            }
            at += part.len() + 1;
        }
        start += line.len();
    }
    found
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
    fn a_name_that_goes_on_comes_after() {
        let grown = insert(ONE_LINE, INTERFACE, "dog2", "Dog2").unwrap();
        assert!(grown.contains("mod dog;\nmod dog2;") && grown.contains("[dog::Dog, dog2::Dog2, "), "{grown}");
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
        assert!(grown.contains("= [\n        a::A,\n        b::B,\n        c::C, // the third\n    ];"), "{grown}");
        let grown = insert(&grown, INTERFACE, "d", "D").unwrap();
        assert!(grown.contains("        c::C, // the third\n        d::D,\n    ];"), "{grown}");
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
