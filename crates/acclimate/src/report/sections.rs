//! The blocks of the page.

use super::text::{Esc, count, fixed, signed};
use super::{ExampleRow, PictureItem, Section, Tone, Verdict, chart, picture};

/// Confusion matrices with more classes than this show shades only; the counts are in the tooltips.
const MAX_COUNTED: usize = 14;

pub(super) fn verdict(v: &Verdict) -> String {
    let gain = v.gain.filter(|g| g.is_finite());
    let (class, word) = match (v.tone, gain, v.interval) {
        (Tone::Good, ..) => ("good", "Win"),
        (Tone::Bad, None, _) => ("bad", "Warning"),
        (Tone::Bad, ..) => ("bad", "Loss"),
        (Tone::Neutral, None, _) if v.chosen.is_empty() => ("neutral", "Result"),
        (Tone::Neutral, None, _) => ("neutral", "No comparison"),
        (Tone::Neutral, Some(_), None) => ("neutral", "Not proven"),
        (Tone::Neutral, Some(_), Some(_)) => ("neutral", "Tie"),
    };
    let number =
        gain.map_or(String::new(), |g| format!("<p class=\"number\">{}<span> points</span></p>\n", signed(g, 1)));
    let drawn = match (gain, v.interval) {
        (Some(g), Some(i)) if i.low.is_finite() && i.high.is_finite() => chart::gain(g, i),
        _ => String::new(),
    };
    let chosen = match v.chosen.as_str() {
        "" => String::new(),
        chosen => format!("<p class=\"small\">Chosen: <b>{}</b></p>\n", Esc(chosen)),
    };
    format!(
        "<section class=\"verdict {class}\" aria-label=\"Verdict\">\n<div>\n<p class=\"word\">{word}</p>\n{number}</div>\n\
         <div>\n<p class=\"sentence\">{}</p>\n{drawn}{chosen}</div>\n</section>\n",
        Esc(&v.sentence)
    )
}

pub(super) fn section(s: &Section) -> String {
    match s {
        Section::Facts { title, rows } => block(title, "", &facts(rows)),
        Section::Candidates { title, note, score, rows } => block(title, note, &chart::candidates(score, rows)),
        Section::Curves { title, note, x, y, log_y, series } => {
            block(title, note, &chart::curves(title, x, y, *log_y, series))
        }
        Section::Confusion { title, labels, before, after } => {
            block(title, "", &confusion(labels, before.as_deref(), after))
        }
        Section::Examples { title, note, rows } => block(title, note, &examples(title, rows)),
        Section::Pictures { title, note, items } => block(title, note, &pictures(items)),
        Section::Table { title, note, header, rows } => block(title, note, &table(title, header, rows)),
        Section::Text { title, paragraphs } => block(title, "", &prose(paragraphs)),
    }
}

fn block(title: &str, note: &str, body: &str) -> String {
    let note = match note {
        "" => String::new(),
        n => format!("<p class=\"note\">{}</p>\n", Esc(n)),
    };
    format!("<section>\n<h2 dir=\"auto\">{}</h2>\n{note}{body}</section>\n", Esc(title))
}

fn empty(sentence: &str) -> String {
    format!("<p class=\"empty\">{sentence}</p>\n")
}

fn facts(rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return empty("There are no facts to show.");
    }
    let items: String =
        rows.iter().map(|(k, v)| format!("<div><dt>{}</dt><dd dir=\"auto\">{}</dd></div>\n", Esc(k), Esc(v))).collect();
    format!("<dl class=\"facts\">\n{items}</dl>\n")
}

fn prose(paragraphs: &[String]) -> String {
    if paragraphs.is_empty() {
        return empty("There is nothing to add.");
    }
    paragraphs.iter().map(|p| format!("<p dir=\"auto\">{}</p>\n", Esc(p))).collect()
}

fn confusion(labels: &[String], before: Option<&[Vec<u64>]>, after: &[Vec<u64>]) -> String {
    if labels.is_empty() {
        return empty("There are no classes to compare.");
    }
    let one = |name: &str, counts: &[Vec<u64>]| {
        let at = |r: usize, c: usize| counts.get(r).and_then(|row| row.get(c)).copied().unwrap_or(0);
        let n = labels.len();
        let dense = n > MAX_COUNTED;
        let total: u128 = (0..n).flat_map(|r| (0..n).map(move |c| (r, c))).map(|(r, c)| u128::from(at(r, c))).sum();
        let right: u128 = (0..n).map(|r| u128::from(at(r, r))).sum();
        let caption = if total == 0 {
            format!("{name}: no rows")
        } else {
            let share = 100.0 * right as f64 / total as f64;
            format!("{name}: {} of {} right ({} %)", fixed(right as f64, 0), fixed(total as f64, 0), fixed(share, 1))
        };
        let head: String = labels.iter().map(|l| format!("<th scope=\"col\"><span>{}</span></th>", Esc(l))).collect();
        let body: String = labels
            .iter()
            .enumerate()
            .map(|(r, label)| {
                let sum: u128 = (0..n).map(|c| u128::from(at(r, c))).sum();
                let cells: String = (0..n)
                    .map(|c| {
                        let v = at(r, c);
                        let share = if sum == 0 { 0.0 } else { v as f64 / sum as f64 };
                        let text = if dense { String::new() } else { fixed(v as f64, 0) };
                        let (kind, strong) = if r == c { ("hit", 0.75) } else { ("miss", 0.9) };
                        // Where the shade calls for text of the other brightness: `mid` on dark pages, `strong` on all.
                        let shade = match share {
                            0.0 => " zero",
                            s if s > strong => " strong",
                            s if s > 0.55 => " mid",
                            _ => "",
                        };
                        format!(
                            "<td class=\"{kind}{shade}\" style=\"--v:{:.0}%\" title=\"{} as {}: {} ({} %)\">{text}</td>",
                            100.0 * share,
                            Esc(label),
                            Esc(&labels[c]),
                            fixed(v as f64, 0),
                            fixed(100.0 * share, 1)
                        )
                    })
                    .collect();
                format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", Esc(label))
            })
            .collect();
        format!(
            "<div class=\"scroll\"><table class=\"confusion{}\">\n<caption>{caption}</caption>\n\
             <thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n",
            if dense { " dense" } else { "" }
        )
    };
    let left = before.map(|b| one("Before", b)).unwrap_or_default();
    format!(
        "<div class=\"pair\">\n{left}{}</div>\n<p class=\"small\">Rows are the truth, columns the prediction. \
         Shades are shares of a row: blue for right answers, orange for errors.</p>\n",
        one("After", after)
    )
}

fn examples(title: &str, rows: &[ExampleRow]) -> String {
    if rows.is_empty() {
        return empty("No example changed its prediction.");
    }
    let items: String = rows
        .iter()
        .map(|r| {
            let (class, sign) = match r.good {
                Some(true) => ("good", "✓ better"),
                Some(false) => ("bad", "✗ worse"),
                None => ("neutral", "changed"),
            };
            let drawn = r.picture.as_ref().map(|p| picture::picture(p, "the example")).unwrap_or_default();
            let text = match r.text.as_deref() {
                None | Some("") => String::new(),
                Some(t) => format!("<p class=\"text\" dir=\"auto\">{}</p>", Esc(t)),
            };
            let truth = match &r.truth {
                None => String::new(),
                Some(t) => format!("<span class=\"truth\">truth <b>{}</b></span>", Esc(t)),
            };
            format!(
                "<li>{drawn}<div>{text}<p class=\"change\"><span class=\"sign {class}\">{sign}</span>\
                 <span><span class=\"was\">{}</span> <span class=\"arrow\">→</span> <b>{}</b></span>{truth}</p></div></li>\n",
                Esc(&r.before),
                Esc(&r.after)
            )
        })
        .collect();
    format!(
        "<div class=\"scroll tall\" role=\"region\" aria-label=\"{}\" tabindex=\"0\"><ul class=\"examples\">\n{items}</ul></div>\n\
         <p class=\"small\">{}.</p>\n",
        Esc(title),
        count(rows.len(), "example", "examples")
    )
}

fn pictures(items: &[PictureItem]) -> String {
    if items.is_empty() {
        return empty("There are no pictures to show.");
    }
    let all: String = items
        .iter()
        .map(|i| {
            let (class, sign) = match i.tone {
                Tone::Good => ("good", "✓ "),
                Tone::Neutral => ("neutral", ""),
                Tone::Bad => ("bad", "✗ "),
            };
            format!(
                "<figure>{}<figcaption><span class=\"sign {class}\">{sign}</span>{}</figcaption></figure>\n",
                picture::picture(&i.picture, &i.caption),
                Esc(&i.caption)
            )
        })
        .collect();
    format!("<div class=\"pictures\">\n{all}</div>\n")
}

fn table(title: &str, header: &[String], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return empty("The table has no rows.");
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(header.len());
    let cell = |row: &[String], c: usize| row.get(c).cloned().unwrap_or_default();
    let numeric: Vec<bool> = (0..columns)
        .map(|c| {
            let mut filled = rows.iter().map(|r| cell(r, c)).filter(|s| !s.trim().is_empty()).peekable();
            filled.peek().is_some() && filled.all(|s| is_number(&s))
        })
        .collect();
    let class = |c: usize| if numeric[c] { " class=\"num\"" } else { "" };
    let head = if header.is_empty() {
        String::new()
    } else {
        let cells: String =
            (0..columns).map(|c| format!("<th scope=\"col\"{}>{}</th>", class(c), Esc(&cell(header, c)))).collect();
        format!("<thead><tr>{cells}</tr></thead>\n")
    };
    let body: String = rows
        .iter()
        .map(|r| {
            let cells: String =
                (0..columns).map(|c| format!("<td{} dir=\"auto\">{}</td>", class(c), Esc(&cell(r, c)))).collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!(
        "<div class=\"scroll tall\" role=\"region\" aria-label=\"{}\" tabindex=\"0\"><table class=\"plain\">\n{head}\
         <tbody>\n{body}</tbody>\n</table></div>\n",
        Esc(title)
    )
}

/// Whether a cell reads as a number, with or without a sign, thousands commas, a per cent sign or a dash for none.
fn is_number(s: &str) -> bool {
    let bare: String = s
        .trim()
        .trim_end_matches('%')
        .trim_end()
        .chars()
        .filter(|c| *c != ',')
        .map(|c| if c == '−' { '-' } else { c })
        .collect();
    matches!(bare.as_str(), "-" | "–" | "—") || bare.parse::<f64>().is_ok()
}
