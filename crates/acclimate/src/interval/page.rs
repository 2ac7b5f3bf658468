//! The page of calibrated intervals and sets.

use super::{Judged, Outcome};
use crate::gate::Score;
use crate::report::{Report, Section, Series, Tone, Verdict};
use acclimate_core::Result;
use std::path::Path;

/// Rows of a stream in one point of its curves, at least.
const WINDOW: usize = 50;
/// Points of a curve at most.
const POINTS: usize = 200;

/// A share in per cent with its interval.
fn share(score: Score) -> String {
    format!("{:.1} % ({:.1} to {:.1})", 100.0 * score.value, 100.0 * score.low, 100.0 * score.high)
}

/// A level in per cent, without zeros at its end.
fn level(share: f64) -> String {
    format!("{} %", (share * 1e6).round() / 1e4)
}

/// A number as short as it can be told.
fn short(value: f64) -> String {
    if !value.is_finite() {
        "–".to_owned()
    } else if value != 0.0 && !(0.01..100_000.0).contains(&value.abs()) {
        format!("{value:.3e}")
    } else {
        format!("{value:.3}")
    }
}

impl Outcome {
    /// What a size is.
    fn unit(&self) -> &'static str {
        if self.classes { "classes in a set" } else { "width" }
    }

    /// Names and values: the same on the page and on a terminal.
    pub fn facts_told(&self) -> Vec<(String, String)> {
        let with = self.exchange.as_ref().map_or(String::new(), |exchange| format!(", with `{exchange}`"));
        let mut rows = vec![
            ("method".to_owned(), format!("{}{with}", self.method)),
            ("coverage asked".to_owned(), level(self.coverage)),
            ("calibration rows".to_owned(), self.calibration_rows.to_string()),
        ];
        let judged = |what: &str, judged: &Judged| {
            let sized = format!(
                "{} {} ({} to {})",
                self.unit(),
                short(judged.size.value),
                short(judged.size.low),
                short(judged.size.high)
            );
            (what.to_owned(), format!("{} inside, {sized}, over {} rows", share(judged.coverage), judged.rows))
        };
        rows.extend(self.held.as_ref().map(|held| judged("held-out rows", held)));
        rows.extend(self.facts.iter().map(|(name, value)| (name.clone(), short(*value))));
        if let (Some(nothing), Some(empty)) = (self.says_nothing, self.empty) {
            let size = self.size.map_or_else(|| "–".to_owned(), short);
            let what = if self.classes { "hold all classes" } else { "are infinite" };
            rows.push((
                "answers".to_owned(),
                format!(
                    "{}, {} {size} on average; {:.1} % {what}, {:.1} % are empty",
                    self.rows,
                    self.unit(),
                    100.0 * nothing,
                    100.0 * empty
                ),
            ));
        }
        rows.extend(self.judged.as_ref().map(|seen| judged("rows with a truth", seen)));
        rows
    }

    fn judged_row(&self, name: String, judged: &Judged) -> Vec<String> {
        let rows = judged.rows.to_string();
        vec![
            name,
            rows,
            share(judged.coverage),
            short(judged.size.value),
            format!("{:.1} %", 100.0 * judged.says_nothing),
        ]
    }

    /// The table of what other levels cost, and that of groups: a heading each, then rows.
    pub fn tables(&self) -> Vec<(&'static str, Vec<Vec<String>>)> {
        let head = |first: &str| {
            let nothing = if self.classes { "all classes" } else { "infinite" };
            [first, "rows", "inside, 95 % interval", self.unit(), nothing].map(str::to_owned).to_vec()
        };
        let mut tables = vec![];
        if !self.levels.is_empty() {
            let row = |level: &super::Level| self.judged_row(format!("{:.0} %", 100.0 * level.asked), &level.judged);
            tables.push((
                "What coverage costs",
                std::iter::once(head("asked")).chain(self.levels.iter().map(row)).collect(),
            ));
        }
        if !self.groups.is_empty() {
            let rows = self.groups.iter().map(|(name, judged)| self.judged_row(name.clone(), judged));
            tables.push(("Group by group", std::iter::once(head("group")).chain(rows).collect()));
        }
        tables
    }

    /// Coverage and width along a stream.
    fn curves(&self) -> Vec<Section> {
        if self.course.is_empty() {
            return vec![];
        }
        let per = (self.course.len().div_ceil(POINTS)).max(WINDOW).min(self.course.len());
        let (mut inside, mut width) = (vec![], vec![]);
        for (at, (course, answers)) in self.course.chunks(per).zip(self.answers.chunks(per)).enumerate() {
            let row = (at * per + course.len()) as f64;
            let known: Vec<bool> = course.iter().flatten().copied().collect();
            let held = known.iter().filter(|held| **held).count() as f64;
            let sizes: Vec<f64> = answers.iter().map(super::Answer::size).filter(|size| size.is_finite()).collect();
            inside.push((row, 100.0 * held / known.len() as f64));
            width.push((row, sizes.iter().sum::<f64>() / sizes.len() as f64));
        }
        let asked = [1.0, self.course.len() as f64].map(|row| (row, 100.0 * self.coverage)).to_vec();
        let line = |name: &str, points, emphasis| Series { name: name.to_owned(), points, emphasis };
        let section = |title: &str, y: &str, series| Section::Curves {
            title: title.to_owned(),
            note: format!("Each point is {per} rows."),
            x: "row".to_owned(),
            y: y.to_owned(),
            log_y: false,
            series,
        };
        vec![
            section(
                "Coverage on the way",
                "inside, %",
                vec![line("asked", asked, false), line(&self.method, inside, true)],
            ),
            section("Width on the way", "mean width", vec![line(&self.method, width, true)]),
        ]
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_page(&self, file: &Path) -> Result<()> {
        let seen = self.held.as_ref().or(self.judged.as_ref());
        let sentence = match seen {
            Some(judged) => {
                format!("Asked for {}; {} of the truths lay inside.", level(self.coverage), share(judged.coverage))
            }
            None => format!("Asked for {}; no truth was there to measure it.", level(self.coverage)),
        };
        let tone = if self.warnings.is_empty() { Tone::Neutral } else { Tone::Bad };
        let mut sections = vec![Section::Facts { title: "Calibration".to_owned(), rows: self.facts_told() }];
        if !self.warnings.is_empty() {
            sections.insert(0, Section::Text { title: "Warnings".to_owned(), paragraphs: self.warnings.clone() });
        }
        sections.extend(self.curves());
        for (title, mut rows) in self.tables() {
            let header = rows.remove(0);
            let note = "On calibration rows that calibration has not seen, in five folds.".to_owned();
            sections.push(Section::Table { title: title.to_owned(), note, header, rows });
        }
        let report = Report {
            title: if self.classes { "Sets of classes" } else { "Intervals" }.to_owned(),
            subtitle: format!("{}, {} rows", self.method, self.rows),
            verdict: Verdict { chosen: String::new(), gain: None, interval: None, sentence, tone },
            sections,
        };
        report.write(file)
    }
}
