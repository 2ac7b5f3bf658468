//! Questions and answers out of dictionaries of the dictd server: an `.index` and a gzipped `.dict.dz`.
//!
//! A line of the index is a headword, an offset and a length, the two as digits of base 64. The article begins with a
//! heading (the headword, how it is spoken, its part of speech) up to the first blank line.

use std::collections::BTreeSet;

use acclimate_core::{Error, Result};

/// The digits of base 64, from zero.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Columns that lines are wrapped at.
const WIDTH: usize = 79;

/// A line of the result; a structure, because it must come out the same everywhere.
#[derive(serde::Serialize)]
struct Row {
    prompt: String,
    completion: String,
}

/// A line of JSON for each article with a heading and a body: `prompt`, which is `ask` with the headword for its `{}`,
/// and `completion`, which is the body without the indentation, line ends and braces of the format.
///
/// # Errors
/// An index that is malformed or points outside of the dictionary; an article that is not UTF-8.
pub(crate) fn json_lines(name: &str, index: &[u8], dictionary: &[u8], ask: &str) -> Result<String> {
    let (mut articles, mut words) = (BTreeSet::new(), BTreeSet::new());
    for (row, line) in index.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let cells: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
        let bad = || Error::format(name, format!("line {}: is no headword, offset and length", row + 1));
        let [word, offset, length] = cells[..] else { return Err(bad()) };
        let (offset, length) = number(offset).zip(number(length)).ok_or_else(bad)?;
        // What the dictionary tells of itself.
        if !word.starts_with(b"00-database") && !word.starts_with(b"00database") {
            articles.insert((offset, length));
            words.insert(String::from_utf8_lossy(word).to_lowercase());
        }
    }
    let mut out = String::new();
    for (offset, length) in articles {
        let bytes = offset.checked_add(length).and_then(|end| dictionary.get(offset..end));
        let bytes = bytes.ok_or_else(|| Error::format(name, "points outside of its dictionary"))?;
        let article =
            std::str::from_utf8(bytes).map_err(|_| Error::format(name, "has an article that is not UTF-8"))?;
        let (heading, body) = article.trim_start().split_once("\n\n").unwrap_or((article, ""));
        let word = heading.lines().next().unwrap_or_default().trim();
        let completion = unlinked(&flowing(body), &words);
        if !word.is_empty() && !completion.is_empty() {
            let row = Row { prompt: ask.replace("{}", word), completion };
            out.push_str(&serde_json::to_string(&row).expect("strings are valid JSON"));
            out.push('\n');
        }
    }
    Ok(out)
}

fn number(digits: &[u8]) -> Option<usize> {
    let value = |byte: &u8| DIGITS.iter().position(|digit| digit == byte);
    digits.iter().try_fold(0usize, |sum, byte| sum.checked_mul(64)?.checked_add(value(byte)?))
}

/// Text without layout: a line that ended because the next word did not fit goes on, paragraphs are one blank line
/// apart, spaces are plain and hyphens within words gone where they only allow a break.
fn flowing(body: &str) -> String {
    let mut text = String::new();
    let mut before: Option<&str> = None;
    let plain = body.replace('\u{ad}', "").replace('\u{a0}', " ");
    for line in plain.lines().map(str::trim_end) {
        let word = line.split_whitespace().next();
        match (before, word) {
            (_, None) => {}
            (None, Some(_)) if text.is_empty() => text.push_str(line.trim()),
            (None, Some(_)) => text.extend(["\n\n", line.trim()]),
            (Some(before), Some(word)) => {
                let wrapped = before.chars().count() + 1 + word.chars().count() > WIDTH;
                text.extend([if wrapped { " " } else { "\n" }, line.trim()]);
            }
        }
        before = word.map(|_| line);
    }
    text
}

/// Takes the braces off links, which hold a headword, and what wrapping did to it.
fn unlinked(text: &str, words: &BTreeSet<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, opened)) = rest.split_once('{') {
        out.push_str(before);
        let link =
            opened.split_once('}').map(|(link, after)| (link.split_whitespace().collect::<Vec<_>>().join(" "), after));
        match link {
            Some((link, after)) if words.contains(&link.to_lowercase()) => {
                out.push_str(&link);
                rest = after;
            }
            _ => {
                out.push('{');
                rest = opened;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const DICTIONARY: &str = concat!(
        "about\n\n    this file\n\n",
        "foo\n /foo/, n.\n\n    A name for whatever is spoken of just now, for want of a better, like {Bar\n    None}, ",
        "{\n    bar none}s and { baz }.\n\n    if (x) {\n    y;\n    }\n\n\n",
        "Bar None\n\n    1. Na\u{ad}ïve\u{a0}one.\n",
    );

    fn index(rows: &[(&str, &str, &str)]) -> Vec<u8> {
        rows.iter().flat_map(|(word, offset, length)| format!("{word}\t{offset}\t{length}\n").into_bytes()).collect()
    }

    /// An offset or length, as the format writes it.
    fn digits(number: usize) -> String {
        [number / 64, number % 64].map(|digit| char::from(DIGITS[digit])).iter().collect()
    }

    #[test]
    fn articles_become_questions_and_answers() {
        let (foo, bar) = (DICTIONARY.find("foo").unwrap(), DICTIONARY.find("Bar None\n\n").unwrap());
        let (start, end) = (digits(foo), digits(bar - foo));
        let index = index(&[
            ("00-database-info", "A", "X"),
            ("bar none", &digits(bar), &digits(DICTIONARY.len() - bar)),
            ("foo", &start, &end),
            ("fu", &start, &end),
        ]);
        let got = json_lines("x", &index, DICTIONARY.as_bytes(), "What is {}?").unwrap();
        let rows: Vec<serde_json::Value> = got.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let text = "A name for whatever is spoken of just now, for want of a better, like Bar None, bar nones and { baz }.\n\nif (x) {\ny;\n}";
        assert_eq!(
            rows,
            [
                serde_json::json!({"prompt": "What is foo?", "completion": text}),
                serde_json::json!({"prompt": "What is Bar None?", "completion": "1. Naïve one."}),
            ]
        );
    }

    #[test]
    fn damage_is_an_error() {
        let read = |rows: &[(&str, &str, &str)], dictionary: &[u8]| {
            json_lines("x", &index(rows), dictionary, "{}").map_err(|error| error.to_string())
        };
        assert!(read(&[("a", "A", "D")], b"a\n\nb").is_ok_and(|rows| rows.is_empty()));
        assert!(read(&[("a", "A", "E")], b"a\n\nb").is_ok_and(|rows| !rows.is_empty()));
        assert!(read(&[("a", "A", "F")], b"a\n\nb").unwrap_err().contains("outside of"));
        assert!(read(&[("a", "A", "E")], b"a\n\n\xff").unwrap_err().contains("not UTF-8"));
        assert!(read(&[("a", "A", "=")], b"").unwrap_err().contains("line 1"));
        assert!(read(&[("a", "//////////////", "A")], b"").unwrap_err().contains("line 1"));
        assert!(json_lines("x", b"a\tA\n", b"", "{}").is_err());
    }
}
