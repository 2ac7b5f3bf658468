//! What is written out of the catalogue of methods: the book's pages, the recipe schema and the bibliography.
use crate::golden::{self, Golden};
use crate::{evidence, files, read, schema, write};
use acclimate::{CardView, Family};
use acclimate_core::{Card, ParamInfo};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const PAGES: &str = "docs/book/src/catalogue";
const SUMMARY: &str = "docs/book/src/SUMMARY.md";
/// Everything from this heading of the summary on is generated.
const SUMMARY_MARK: &str = "# Catalogue";

/// Every generated file by its path, with its text.
pub fn generate(root: &Path, families: &[Family]) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for family in families {
        for view in &family.cards {
            let method = format!("{}/{}", family.name, view.card.name);
            let text =
                page(family, view, golden::status(root, &method)).with_context(|| format!("the page of {method}"))?;
            out.insert(format!("{PAGES}/{method}.md"), text);
        }
    }
    out.insert(format!("{PAGES}/index.md"), index(families));
    out.insert(SUMMARY.to_owned(), summary(&read(&root.join(SUMMARY))?, families)?);
    out.insert("schema/recipe.schema.json".to_owned(), schema::recipe(families)?);
    out.insert("docs/references.bib".to_owned(), bibliography(families));
    let evidence = evidence::table(root, families)?;
    out.insert("crates/acclimate/src/evidence.json".to_owned(), serde_json::to_string_pretty(&evidence)? + "\n");
    Ok(out)
}

/// Writes the generated files and removes pages of methods that are gone; answers with what changed.
pub fn update(root: &Path, families: &[Family]) -> Result<Vec<String>> {
    let wanted = generate(root, families)?;
    let changed = differences(root, &wanted)?;
    for file in &changed {
        match wanted.get(file) {
            Some(text) => write(&root.join(file), text)?,
            None => std::fs::remove_file(root.join(file)).with_context(|| format!("{file} cannot be removed"))?,
        }
    }
    Ok(changed)
}

/// Fails when a generated file is not what the catalogue says.
pub fn check(root: &Path, families: &[Family]) -> Result<()> {
    let stale = differences(root, &generate(root, families)?)?;
    ensure!(stale.is_empty(), "out of date: {}; run `cargo xtask gen` and commit what it writes", stale.join(", "));
    Ok(())
}

/// Files that are missing, differ, or are pages of no method.
fn differences(root: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut found: Vec<String> = wanted
        .iter()
        .filter(|(file, text)| read(&root.join(file)).ok().as_ref() != Some(text))
        .map(|(file, _)| file.clone())
        .collect();
    found.extend(files(root, PAGES)?.into_iter().filter(|file| !wanted.contains_key(file)));
    Ok(found)
}

fn page(family: &Family, view: &CardView, golden: Golden) -> Result<String> {
    let card = &view.card;
    let (sentence, rest) = card.doc.trim().split_once("\n\n").unwrap_or((card.doc.trim(), ""));
    ensure!(sentence.ends_with('.'), "the first sentence has no full stop");
    let mut text = format!("# {}\n\n{}\n\n", card.title, sentence);
    writeln!(text, "`{}` in [{}](../index.md#{}){}", card.name, family.title, family.name, paper_clause(card)?)?;
    let badges = badges(card)?;
    if !badges.is_empty() {
        writeln!(text, "\n{badges}")?;
    }
    if !view.preset.is_empty() {
        writeln!(text, "\nA preset: these settings lie under your own.\n\n```toml\n{}\n```", view.preset.trim())?;
    }
    writeln!(text, "\n{}\n", demoted(rest))?;
    writeln!(text, "## Parameters\n")?;
    if card.params.is_empty() {
        writeln!(text, "None.")?;
    } else {
        writeln!(text, "| name | type | default | range | meaning |\n|---|---|---|---|---|")?;
        for param in card.params {
            let default =
                view.defaults.get(param.name).map_or("none".to_owned(), |value| format!("`{}`", written(value)));
            let meaning = param.doc.trim().replace('\n', " ").replace('|', "\\|");
            writeln!(text, "| `{}` | `{}` | {default} | {} | {meaning} |", param.name, param.ty, range(param))?;
        }
    }
    writeln!(text, "\n## Evidence\n")?;
    let method = format!("{}/{}", family.name, card.name);
    match golden {
        Golden::Fresh => writeln!(
            text,
            "Golden numbers: [golden/{method}.json]({UP}golden/{method}.json), whose header names the source and the script."
        )?,
        Golden::Stale => writeln!(text, "Golden numbers: stale; renew with `{}`.", golden::remedy(&method))?,
        Golden::Missing => writeln!(text, "Golden numbers: none.")?,
    }
    for (check, reason) in card.waivers {
        writeln!(text, "\nThe check `{check}` does not apply: {reason}.")?;
    }
    writeln!(text, "\nSource: [{0}]({UP}{0})", card.file.replace('\\', "/"))?;
    Ok(text)
}

/// From a page up to the root.
const UP: &str = "../../../../../";

fn paper_clause(card: &Card) -> Result<String> {
    let link = match card.paper.split_once(':') {
        Some(("arxiv", id)) => format!("[arXiv:{id}](https://arxiv.org/abs/{id})"),
        Some(("doi", id)) => format!("[doi:{id}](https://doi.org/{id})"),
        _ => {
            ensure!(card.paper == "-", "the paper `{}` is neither `arxiv:ID`, `doi:ID` nor `-`", card.paper);
            return Ok(".".to_owned());
        }
    };
    Ok(format!(", {}, {link}.", card.year))
}

/// A variant's snake-case name, as serialised, in words.
fn words(value: impl serde::Serialize) -> Result<String> {
    let name = serde_json::to_value(value)?;
    Ok(name.as_str().context("needs and promises are plain names")?.replace('_', " "))
}

fn badges(card: &Card) -> Result<String> {
    let mut badges = Vec::new();
    for need in card.needs {
        badges.push(format!("**needs** {}", words(need)?));
    }
    for promise in card.promises {
        badges.push(format!("**promises** {}", words(promise)?));
    }
    Ok(badges.join(" · "))
}

/// The doc text with headings one level deeper, and code fences named `rust` without the lines that rustdoc hides.
fn demoted(doc: &str) -> String {
    let mut fenced = false;
    let mut out = Vec::new();
    for line in doc.lines() {
        if line.starts_with("```") {
            let opens = !fenced;
            fenced = !fenced;
            out.push(if opens && line == "```" { "```rust".to_owned() } else { line.to_owned() });
        } else if fenced {
            if line != "#" && !line.starts_with("# ") {
                out.push(line.to_owned());
            }
        } else if line.starts_with('#') {
            out.extend([String::new(), format!("#{line}"), String::new()]);
        } else {
            out.push(line.to_owned());
        }
    }
    let mut text = out.join("\n");
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text.trim().to_owned()
}

/// A value as one types it: small numbers with an exponent.
fn written(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(x) => format!("{x:?}"),
        other => other.to_string(),
    }
}

fn range(param: &ParamInfo) -> String {
    let bound = |x: f64| format!("{x:?}").trim_end_matches(".0").to_owned();
    match (param.min.map(bound), param.max.map(bound)) {
        (None, None) => "any".to_owned(),
        (Some(min), None) => format!("{} {min}", if param.above { ">" } else { "≥" }),
        (None, Some(max)) => format!("≤ {max}"),
        (Some(min), Some(max)) => format!("{}{min}, {max}]", if param.above { "(" } else { "[" }),
    }
}

fn index(families: &[Family]) -> String {
    let mut text =
        "# Catalogue\n\nEvery method, by family. The pages are written from the methods' own sources.\n".to_owned();
    for family in families {
        text += &format!("\n<a id=\"{}\"></a>\n\n## {}\n\n{}\n", family.name, family.title, family.about.trim());
        if family.cards.is_empty() {
            continue;
        }
        text += "\n| method | year | what it is | needs |\n|---|---|---|---|\n";
        for view in &family.cards {
            let card = &view.card;
            let needs: Vec<String> = card.needs.iter().filter_map(|need| words(need).ok()).collect();
            let year = if card.paper == "-" { String::new() } else { card.year.to_string() };
            text += &format!(
                "| [{}]({}/{}.md) | {year} | {} | {} |\n",
                card.title,
                family.name,
                card.name,
                card.summary().replace('\n', " ").replace('|', "\\|"),
                needs.join(", ")
            );
        }
    }
    text
}

fn summary(current: &str, families: &[Family]) -> Result<String> {
    let kept = current
        .find(&format!("\n{SUMMARY_MARK}\n"))
        .map(|at| &current[..=at])
        .with_context(|| format!("{SUMMARY} has no line `{SUMMARY_MARK}`, below which the methods are listed"))?;
    let mut text = format!("{kept}{SUMMARY_MARK}\n\n- [All methods](catalogue/index.md)\n");
    for family in families {
        for view in &family.cards {
            text += &format!("  - [{}](catalogue/{}/{}.md)\n", view.card.title, family.name, view.card.name);
        }
    }
    Ok(text)
}

/// One entry per paper; methods that share one are named together.
fn bibliography(families: &[Family]) -> String {
    let mut papers: BTreeMap<&str, Vec<(&Family, &Card)>> = BTreeMap::new();
    for family in families {
        for view in &family.cards {
            papers.entry(view.card.paper).or_default().push((family, &view.card));
        }
    }
    papers.remove("-");
    let mut text = "% Written by `cargo xtask gen` from the methods' cards.\n".to_owned();
    for (paper, cards) in papers {
        let (kind, id) = paper.split_once(':').unwrap_or(("misc", paper));
        let key: String = id.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        let methods: Vec<String> =
            cards.iter().map(|(family, card)| format!("{}/{}", family.name, card.name)).collect();
        let place = if kind == "doi" {
            format!("doi = {{{id}}}")
        } else {
            format!("eprint = {{{id}}},\n  archiveprefix = {{arXiv}}")
        };
        let card = cards[0].1;
        text += &format!(
            "\n@misc{{{kind}_{key},\n  note = {{{}}},\n  year = {{{}}},\n  {place},\n  keywords = {{{}}}\n}}\n",
            reference(card),
            card.year,
            methods.join(", ")
        );
    }
    text
}

/// The first paragraph under the heading References, without Markdown's signs, or the title.
fn reference(card: &Card) -> String {
    let section = card.doc.split_once("# References\n").map_or("", |(_, after)| after);
    let paragraph = section.trim().split("\n\n").next().unwrap_or_default().trim_start_matches("- ");
    let plain = paragraph.replace('\n', " ").replace(['*', '`', '{', '}'], "").replace('&', "\\&");
    if plain.is_empty() { card.title.to_owned() } else { plain }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use acclimate_core::{Need, Promise};

    pub(crate) fn families() -> Vec<Family> {
        let card = Card {
            name: "dog",
            title: "DoG",
            catalogue: &[1],
            paper: "arxiv:2302.12022",
            year: 2023,
            doc: "A step as long as the way so far.\n\n# Mathematics\n$x$\n# Example\n```\n# hidden();\nshown();\n```\n\n# References\nIvgi, *DoG*,\n2023.",
            params: &[ParamInfo {
                name: "eps",
                ty: "f64",
                doc: "Guards the division.",
                min: Some(0.0),
                max: None,
                above: true,
            }],
            needs: &[Need::Gradients],
            promises: &[Promise::LearningRateFree],
            targets: &[],
            waivers: &[],
            file: "crates/optim/src/dog.rs",
            line: 9,
        };
        let defaults = toml::Table::from_iter([("eps".to_owned(), toml::Value::Float(1e-8))]);
        let cards = vec![CardView { card, defaults, preset: "", evidence: Default::default() }];
        vec![
            Family { name: "optim", title: "Optimisers", about: "They move.", cards },
            Family { name: "peft", title: "Adapters", about: "They change.", cards: vec![] },
        ]
    }

    #[test]
    fn a_page_has_its_parts_in_order() {
        let families = families();
        let text = page(&families[0], &families[0].cards[0], Golden::Missing).unwrap();
        let parts = [
            "# DoG\n\nA step as long as the way so far.\n",
            "[arXiv:2302.12022](https://arxiv.org/abs/2302.12022).",
            "**needs** gradients · **promises** learning rate free",
            "\n## Mathematics\n\n$x$\n",
            "```rust\nshown();\n```",
            "| `eps` | `f64` | `1e-8` | > 0 | Guards the division. |",
            "Golden numbers: none.",
            "[crates/optim/src/dog.rs](../../../../../crates/optim/src/dog.rs)",
        ];
        let mut at = 0;
        for part in parts {
            at += text[at..].find(part).unwrap_or_else(|| panic!("`{part}` is missing or out of order in\n{text}"));
        }
        assert!(!text.contains("hidden"));
    }

    #[test]
    fn ranges_read_as_one_types_them() {
        let text = |min, max, above| range(&ParamInfo { name: "", ty: "f64", doc: "", min, max, above });
        assert_eq!(text(Some(1e-30), None, false), "≥ 1e-30");
        assert_eq!(text(Some(0.0), Some(1.0), true), "(0, 1]");
        assert_eq!(text(None, None, false), "any");
    }

    #[test]
    fn a_sentence_without_a_full_stop_is_refused() {
        let mut families = families();
        families[0].cards[0].card.doc = "No stop\n\n# Mathematics";
        assert!(page(&families[0], &families[0].cards[0], Golden::Fresh).is_err());
    }

    #[test]
    fn the_summary_keeps_what_people_wrote() {
        let text = summary("# Summary\n\n- [Start](start.md)\n\n# Catalogue\n\n- old\n", &families()).unwrap();
        assert!(text.starts_with("# Summary\n\n- [Start](start.md)\n\n# Catalogue\n\n- [All methods]"), "{text}");
        assert!(text.ends_with("  - [DoG](catalogue/optim/dog.md)\n"), "{text}");
        assert!(summary("# Summary\n", &[]).is_err());
    }

    #[test]
    fn the_bibliography_has_one_entry_per_paper() {
        let text = bibliography(&families());
        assert!(text.contains("@misc{arxiv_2302_12022,\n  note = {Ivgi, DoG, 2023.},\n  year = {2023}"), "{text}");
    }

    #[test]
    fn what_is_out_of_date_is_named_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(&root.join(SUMMARY), "# Summary\n\n# Catalogue\n").unwrap();
        write(&root.join("docs/book/src/catalogue/optim/gone.md"), "").unwrap();
        let error = check(root, &families()).unwrap_err().to_string();
        assert!(error.contains("catalogue/optim/dog.md") && error.contains("catalogue/optim/gone.md"), "{error}");
        assert!(error.contains("`cargo xtask gen`"), "{error}");
        update(root, &families()).unwrap();
        check(root, &families()).unwrap();
        assert!(update(root, &families()).unwrap().is_empty());
    }
}
