//! What kind of shift lies between two tables, how sure that is, and what to do about it.

use crate::domains::{Answered, Question};
use crate::report::{Report, Section, Tone, Verdict};
use acclimate_core::Result;
use acclimate_shift::{Diagnosis, DiagnosisSettings, Kind, Pair, Standing};
use acclimate_stats::learn::Labels;
use acclimate_stats::two_sample::ColumnTest;
use serde::Serialize;
use std::path::Path;

/// Columns that are shown.
const SHOWN: usize = 12;
/// Weights that leave a smaller share of the source than this are not advised without a word.
const FEW: f64 = 0.1;

/// A column and what differs in it.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnFinding {
    /// Its name.
    pub name: String,
    /// What the tests say.
    #[serde(flatten)]
    pub test: ColumnTest,
    /// Whether it changed, with a chance of error of the level for all columns together.
    pub changed: bool,
}

/// What to do if a kind of shift is the true one.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// The kind.
    pub kind: Kind,
    /// What to do and what to mind.
    pub what: String,
    /// The methods that mend it, best first.
    pub methods: &'static [&'static str],
    /// A command that does it.
    pub command: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Rows of the source.
    pub source_rows: usize,
    /// Rows of the target.
    pub target_rows: usize,
    /// Columns, or features of a model, that were compared.
    pub features: usize,
    /// The column with the labels.
    pub label: Option<String>,
    /// Whether labels of the target were looked at.
    pub target_labels: bool,
    /// In a sentence.
    pub sentence: String,
    /// The kinds that the rows leave open.
    pub standing: Vec<Kind>,
    /// All tests.
    pub diagnosis: Diagnosis,
    /// The columns, those that changed most surely first.
    pub columns: Vec<ColumnFinding>,
    /// Columns that were not compared, and why.
    pub left_out: Vec<(String, String)>,
    /// What to do, kind by kind.
    pub advice: Vec<Advice>,
    /// The names of the classes.
    #[serde(skip)]
    classes: Vec<String>,
}

/// Reads two tables and compares them. Labels of the target are used where the table has them and `with_labels` says so.
///
/// # Errors
/// As [`Question::open`], and domains with too few rows.
///
/// # Example
/// ```
/// use acclimate::{diagnose::run, domains::Question, shift::DiagnosisSettings};
///
/// let folder = std::env::temp_dir().join("acclimate diagnose example");
/// std::fs::create_dir_all(&folder)?;
/// let table = |from: i32| (0..40).map(|row| format!("{}\n", from + row * 7 % 40)).collect::<String>();
/// let (old, new) = (folder.join("old.csv"), folder.join("new.csv"));
/// std::fs::write(&old, format!("age\n{}", table(20)))?;
/// std::fs::write(&new, format!("age\n{}", table(45)))?;
/// let (source, target) = (old.display().to_string(), new.display().to_string());
/// let found = run(&Question { source, target, ..Question::default() }, true, &DiagnosisSettings::default())?;
/// assert!(found.diagnosis.changed && found.columns[0].changed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(question: &Question, with_labels: bool, settings: &DiagnosisSettings) -> Result<Outcome> {
    let Answered { domains, label, classes, source, target } = question.open()?;
    let target = target.filter(|_| with_labels);
    let (names, tested): (Vec<String>, Vec<_>) = domains.columns.into_iter().unzip();
    // Tests of a model's features are of one thing seen in many ways, and their names mean nothing.
    let tested = if question.model.is_some() { vec![] } else { tested };
    let pair = Pair {
        source: domains.source.view(),
        labels: source.as_ref(),
        target: domains.target.view(),
        target_labels: target.as_ref(),
        columns: &tested,
    };
    let diagnosis = Diagnosis::new(&pair, settings)?;
    let mut columns: Vec<ColumnFinding> = names
        .into_iter()
        .zip(&diagnosis.columns)
        .map(|(name, test)| ColumnFinding { name, test: *test, changed: test.adjusted <= settings.level })
        .collect();
    columns
        .sort_by(|a, b| a.test.adjusted.total_cmp(&b.test.adjusted).then(b.test.distance.total_cmp(&a.test.distance)));
    let standing = diagnosis.standing();
    let numbers = matches!(source, Some(Labels::Numbers(_)));
    let advice = standing.iter().map(|kind| advice(*kind, &diagnosis, question, source.is_some(), numbers)).collect();
    Ok(Outcome {
        source_rows: domains.source.nrows(),
        target_rows: domains.target.nrows(),
        features: domains.features.len(),
        sentence: sentence(&diagnosis, &standing, label.is_some(), target.is_some()),
        label,
        target_labels: target.is_some(),
        standing,
        columns,
        left_out: domains.left_out,
        advice,
        diagnosis,
        classes,
    })
}

fn sentence(found: &Diagnosis, standing: &[Kind], labels: bool, target_labels: bool) -> String {
    if !found.changed {
        return format!(
            "No shift was found (p = {:.3}): the target's rows are like the source's, as far as so many rows tell.",
            found.p
        );
    }
    let names: Vec<String> = standing.iter().map(Kind::to_string).collect();
    let told = match standing {
        [] => "none of the kinds that were tried accounts for it".to_owned(),
        [one] => format!("of the kinds that were tried only {one} accounts for it"),
        _ => format!("{} account for it", names.join(", ")),
    };
    let more = match (standing.len() > 1, labels, target_labels) {
        (true, true, false) => "; labels of some rows of the target would tell them apart",
        (true, false, _) => "; labels of the source would tell more",
        _ => "",
    };
    format!("The target differs from the source (p ≤ {:.3}); {told}{more}.", found.p)
}

fn advice(kind: Kind, found: &Diagnosis, question: &Question, labels: bool, numbers: bool) -> Advice {
    let effective = 100.0 * found.effective_share;
    let (methods, what): (&[&str], String) = match kind {
        Kind::None => (&[], "use the model as it is".to_owned()),
        Kind::Label if numbers => (&["retasa"], "weigh rows of the source by what they are labelled with".to_owned()),
        Kind::Label => (
            &["em", "elsa", "bbse"],
            "correct the model's answers by the new shares of the classes; `acclimate interval --shift label` keeps coverage".to_owned(),
        ),
        Kind::Covariate if found.effective_share < FEW => (
            &["kliep", "gaussian_weights", "rulsif"],
            format!(
                "weights leave {effective:.0} % of the source's rows, effectively: label rows of the target, or weigh and trust it little"
            ),
        ),
        Kind::Covariate => (
            &["kliep", "gaussian_weights", "rulsif"],
            format!(
                "weigh rows of the source by how likely they are in the target ({effective:.0} % of them are left, effectively); \
                 `acclimate interval --shift covariate` keeps coverage"
            ),
        ),
        Kind::Conditional => (
            &["coral", "lin_ot", "map_ot"],
            "map the source onto the target, if rows only moved and kept their labels; if what they mean changed, label rows of the target"
                .to_owned(),
        ),
        Kind::Subspace => (&["explained"], "turn the source over, if rows kept their labels; check with labels of the target".to_owned()),
    };
    let command = (labels && !methods.is_empty()).then(|| {
        let label = question.label.as_ref().map_or_else(String::new, |label| format!(" --label {label}"));
        let model = question.model.as_ref().map_or_else(String::new, |model| format!(" --model {model}"));
        let (source, target) = (&question.source, &question.target);
        format!("acclimate align {source} {target}{label}{model} --methods {}", methods[0])
    });
    Advice { kind, what, methods, command }
}

impl Outcome {
    /// Names and values: the same on the page and on a terminal.
    pub fn facts_told(&self) -> Vec<(String, String)> {
        let found = &self.diagnosis;
        let mut rows = vec![
            (
                "rows".to_owned(),
                format!(
                    "{} of the source, {} of the target, {} columns",
                    self.source_rows, self.target_rows, self.features
                ),
            ),
            (
                "strength".to_owned(),
                format!(
                    "told apart with an area under the curve of {:.3}; weights leave {:.0} % of the source, effectively",
                    found.area,
                    100.0 * found.effective_share
                ),
            ),
        ];
        if !found.shares.is_empty() && self.classes.len() == found.shares.len() {
            let told =
                self.classes.iter().zip(&found.shares).map(|(name, [old, new])| format!("{name} {old:.3} → {new:.3}"));
            rows.push((
                "shares".to_owned(),
                format!("{}, if it is a label shift", told.collect::<Vec<_>>().join(", ")),
            ));
        }
        if !self.left_out.is_empty() {
            let told = self.left_out.iter().map(|(name, why)| format!("`{name}` {why}"));
            rows.push(("left out".to_owned(), told.collect::<Vec<_>>().join("; ")));
        }
        rows
    }

    /// Tables with a title and a heading each.
    pub fn tables(&self) -> Vec<(&'static str, Vec<Vec<String>>)> {
        let words = |row: &[&str]| row.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let p = |p: f64| format!("{p:.3}");
        let mut tests = vec![words(&["test", "p", "statistic", ""])];
        tests.extend(self.diagnosis.tests.iter().map(|test| {
            words(&[test.name, &p(test.tested.p), &format!("{:.4}", test.tested.statistic), test.statistic])
        }));
        let mut kinds = vec![words(&["kind", "", "p", "tested by"])];
        kinds.extend(self.diagnosis.kinds.iter().map(|found| {
            let stands = match found.standing {
                Standing::Compatible => "stands",
                Standing::Refuted => "refuted",
                Standing::Untestable => "cannot be refuted",
                Standing::Untried => "not tried",
            };
            words(&[found.kind.name(), stands, &found.p.map_or_else(|| "–".to_owned(), p), &found.why])
        }));
        let mut tables = vec![("Has anything changed?", tests), ("Which kinds account for it?", kinds)];
        if !self.columns.is_empty() {
            let mut rows = vec![words(&["column", "distance", "p", "p of all together", ""])];
            rows.extend(self.columns.iter().take(SHOWN).map(|column| {
                let changed = if column.changed { "changed" } else { "" };
                words(&[
                    &column.name,
                    &format!("{:.3}", column.test.distance),
                    &p(column.test.p),
                    &p(column.test.adjusted),
                    changed,
                ])
            }));
            tables.push(("Column by column", rows));
        }
        tables
    }

    /// What to do, a paragraph for each kind.
    pub fn advice_told(&self) -> Vec<String> {
        let told = |advice: &Advice| {
            let command = advice.command.as_ref().map_or_else(String::new, |command| format!(": {command}"));
            format!("If it is {}: {}{command}", advice.kind, advice.what)
        };
        match self.advice.as_slice() {
            [Advice { kind: Kind::None, what, .. }] => vec![format!("Nothing is to be mended: {what}.")],
            advice => advice.iter().map(told).collect(),
        }
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_page(&self, file: &Path) -> Result<()> {
        let mut sections = vec![
            Section::Text { title: "What to do".to_owned(), paragraphs: self.advice_told() },
            Section::Facts { title: "The two domains".to_owned(), rows: self.facts_told() },
        ];
        for (title, mut rows) in self.tables() {
            let header = rows.remove(0);
            sections.push(Section::Table { title: title.to_owned(), note: String::new(), header, rows });
        }
        let report = Report {
            title: "What differs".to_owned(),
            subtitle: format!("{} rows of the source, {} of the target", self.source_rows, self.target_rows),
            verdict: Verdict {
                chosen: String::new(),
                gain: None,
                interval: None,
                sentence: self.sentence.clone(),
                tone: if self.diagnosis.changed { Tone::Bad } else { Tone::Neutral },
            },
            sections,
        };
        report.write(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::find;
    use acclimate_shift::ALIGN;

    #[test]
    fn methods_that_are_advised_exist() {
        let found = Diagnosis {
            changed: true,
            p: 0.0,
            tests: vec![],
            columns: vec![],
            area: 1.0,
            effective_share: 1.0,
            kinds: vec![],
            likeliest: Kind::None,
            shares: vec![],
        };
        for kind in [Kind::None, Kind::Label, Kind::Conditional, Kind::Subspace, Kind::Covariate] {
            for numbers in [false, true] {
                for name in advice(kind, &found, &Question::default(), true, numbers).methods {
                    assert!(find(ALIGN, name).is_ok(), "{name}");
                }
            }
        }
    }
}
