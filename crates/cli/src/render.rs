//! Text for people: tables, wrapped paragraphs, and the doc text of methods.

use anyhow::Result;
use console::{Term, measure_text_width, style};
use std::io::Write;

/// Widest line of running text.
const WIDEST: usize = 100;

/// Writes to stdout at once. A closed pipe or a full disk is an error, not a panic.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a line to stderr, where nobody may be left to read it.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// JSON with a line end.
pub(crate) fn json(value: &serde_json::Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Columns for running text on stdout.
pub(crate) fn width() -> usize {
    let terminal = Term::stdout();
    terminal.size_checked().map_or(WIDEST, |(_, columns)| usize::from(columns)).clamp(40, WIDEST)
}

/// Bold on a terminal, plain elsewhere.
pub(crate) fn bold(text: &str) -> String {
    style(text).bold().to_string()
}

/// Breaks a paragraph into lines of at most `width` columns, each after `indent` blanks.
pub(crate) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![];
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + measure_text_width(&line) + 1 + measure_text_width(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

/// Rows as columns two blanks apart; the last column is wrapped.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let size = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell)).max();
    let sizes: Vec<usize> = (0..columns.saturating_sub(1)).filter_map(size).collect();
    let indent = 2 + sizes.iter().map(|size| size + 2).sum::<usize>();
    let mut text = String::new();
    for row in rows {
        text.push_str("  ");
        for (cell, size) in row.iter().zip(&sizes) {
            text.push_str(cell);
            text.push_str(&" ".repeat(size - measure_text_width(cell) + 2));
        }
        let last = row.get(sizes.len()).map(String::as_str).unwrap_or_default();
        text.push_str(wrap(last, width().max(indent + 30), indent).trim_start());
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Names and what they stand for, a line each. Paths and commands stay whole, so that they can be copied.
pub(crate) fn facts(rows: &[(&str, String)]) -> String {
    let longest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, what)| format!("  {}{}  {what}\n", bold(name), " ".repeat(longest - name.len()))).collect()
}

/// A method's doc text: headings, paragraphs, lists, code and displayed formulas.
pub(crate) fn document(doc: &str, width: usize) -> String {
    let mut text = String::new();
    let mut paragraph = String::new();
    // Inside code, inside a formula, and whether the line before was part of one.
    let (mut code, mut formula, mut behind) = (false, false, false);
    for line in doc.lines() {
        let bare = line.trim();
        let displayed = !code && (formula || bare.starts_with("$$"));
        if behind != displayed {
            flush(&mut paragraph, &mut text, width);
            blank(&mut text);
            behind = displayed;
        }
        let item = bare.starts_with("- ") || bare.starts_with("* ");
        if bare.starts_with("```") {
            flush(&mut paragraph, &mut text, width);
            code = !code;
        } else if code {
            // What rustdoc hides of an example is no use to a reader either.
            if bare != "#" && !bare.starts_with("# ") {
                text.push_str(format!("      {line}").trim_end());
                text.push('\n');
            }
        } else if displayed {
            let ends = bare.strip_prefix("$$").filter(|_| !formula).unwrap_or(bare).contains("$$");
            formula = !ends;
            text.push_str(&format!("      {}\n", bare.trim_matches('$').trim()));
        } else if bare.starts_with('#') {
            flush(&mut paragraph, &mut text, width);
            text.push_str(&format!("{}\n", bold(bare.trim_start_matches('#').trim())));
        } else if bare.is_empty() {
            flush(&mut paragraph, &mut text, width);
            blank(&mut text);
        } else {
            if item {
                flush(&mut paragraph, &mut text, width);
            }
            paragraph.push_str(bare);
            paragraph.push(' ');
        }
    }
    flush(&mut paragraph, &mut text, width);
    text
}

/// A blank line, unless there is one.
fn blank(text: &mut String) {
    if !text.ends_with("\n\n") && !text.is_empty() {
        text.push('\n');
    }
}

fn flush(paragraph: &mut String, text: &mut String, width: usize) {
    if !paragraph.is_empty() {
        // Links of rustdoc lead nowhere on a terminal.
        let plain = paragraph.replace("[`", "`").replace("`]", "`");
        text.push_str(&wrap(&plain, width, 2));
        paragraph.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_stand_alone() {
        assert_eq!(wrap("a bb ccc", 6, 2), "  a bb\n  ccc\n");
        assert_eq!(wrap("abcdefghij k", 6, 0), "abcdefghij\nk\n");
    }

    #[test]
    fn doc_text_keeps_formulas_and_drops_hidden_lines() {
        let doc = "One.\n\n# Mathematics\nIf $a$ then\n$$x = 1,\n  y = 2.$$\nand so on.\n\n# Example\n```\nuse a;\n# Ok(())\n```\n";
        let text = document(doc, 100);
        assert!(text.starts_with("  One.\n\n"), "{text}");
        assert!(text.contains("  If $a$ then\n\n      x = 1,\n      y = 2.\n\n  and so on.\n"), "{text}");
        assert!(text.contains("      use a;\n") && !text.contains("Ok(())"), "{text}");
    }

    #[test]
    fn tables_align() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&rows), "  a    b\n  ccc  d\n");
    }
}
