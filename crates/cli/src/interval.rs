//! `acclimate interval`: intervals and sets for a table of predictions.

use crate::flags::settings;
use crate::predict::Form;
use crate::render;
use acclimate::interval::{Answer, Outcome, Plan, Told, run};
use acclimate_core::{Error, write_whole};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;

const HELP: &str = "\
Examples:
  acclimate interval held.csv new.csv --method split --coverage 0.9 --out intervals.csv
  acclimate interval held.csv new.csv --method cqr --answers low,high --group country
  acclimate interval held.jsonl new.jsonl --method raps --truths labelled.csv --truth label --out sets.jsonl
  acclimate interval held.csv new.csv --method split --shift covariate --features age,income
  acclimate interval held.jsonl new.jsonl --method lac --shift label
  acclimate interval before.csv series.csv --method pid --state pid.json --out intervals.csv

The first table has the model's answers to rows whose truth is known and that the model was not fitted on; the second the answers
to new rows. Files are csv, tsv, jsonl, parquet or `asset:NAME`; what `acclimate predict --out answers.jsonl` writes is such a table.
Methods for numbers read a column `prediction` (`split` also a second with its scale, `cqr` two: `lower`, `upper`), those for classes a
column for each class, `p_CLASS`. Methods of streams answer each row before they look at its truth; an empty truth never came.
`acclimate methods list --family stats` shows all.";

/// Gives predictions intervals, or sets of classes, that hold the truth as often as asked.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct IntervalCommand {
    /// Rows whose truth is known: for calibration, of a stream those before it.
    #[arg(value_name = "CALIBRATION")]
    calibration: String,
    /// Rows to answer.
    #[arg(value_name = "ROWS")]
    rows: Option<String>,
    /// The method.
    #[arg(long, value_name = "METHOD")]
    method: String,
    /// The method's settings as TOML, such as `floor = 0.1`.
    #[arg(long, value_name = "SETTINGS", default_value = "")]
    settings: String,
    /// The share of truths that shall lie inside.
    #[arg(long, value_name = "SHARE", default_value_t = Plan::default().coverage)]
    coverage: f64,
    /// The column with the truth.
    #[arg(long, value_name = "COLUMN")]
    truth: Option<String>,
    /// Another table with the truth of the calibration rows, row by row.
    #[arg(long, value_name = "DATA")]
    truths: Option<String>,
    /// The columns with the model's answers, parted by commas.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    answers: Vec<String>,
    /// The same in the second table, where they are called otherwise: for `cv_plus` the answers of each fold's fit.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', requires = "rows")]
    new_answers: Vec<String>,
    /// The column with the fold of a calibration row, for `cv_plus`.
    #[arg(long, value_name = "COLUMN")]
    fold: Option<String>,
    /// The column with the group of a row: coverage holds in each.
    #[arg(long, value_name = "COLUMN")]
    group: Option<String>,
    /// Coverage holds for each class, whatever their shares.
    #[arg(long)]
    by_class: bool,
    /// What differs between the two tables.
    #[arg(long, value_name = "KIND", value_enum)]
    shift: Option<Kind>,
    /// The column with the density of new rows over that of calibration rows, at each row.
    #[arg(long, value_name = "COLUMN", conflicts_with = "features")]
    weight: Option<String>,
    /// The columns by which that density is estimated, parted by commas.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    features: Vec<String>,
    /// The method of weights that estimates it.
    #[arg(long, value_name = "METHOD", default_value_t = Plan::default().ratio)]
    ratio: String,
    /// The largest weight of a row; one is the mean of estimated weights.
    #[arg(long, value_name = "WEIGHT")]
    clip: Option<f64>,
    /// The share of each class among new rows, in the order of the columns, parted by commas; estimated where it is not given.
    #[arg(long, value_name = "SHARES", value_delimiter = ',')]
    shares: Vec<f64>,
    /// Rows of a stream that come before the truth of a row.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    delay: usize,
    /// The file in which a stream is kept: the next table goes on from there.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for the answers, `.csv`, `.tsv` or `.jsonl`; without it they go to stdout.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The file for a page, `.html`.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The numbers as JSON on stdout in place of the summary; without `--out` no answers are shown.
    #[arg(long)]
    json: bool,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

/// What differs between the two tables.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Where rows lie.
    Covariate,
    /// The shares of the classes.
    Label,
}

impl IntervalCommand {
    pub(crate) fn run(self) -> Result<()> {
        let form = self.out.as_deref().map(Form::of).transpose()?;
        let (out, report, json) = (self.out.clone(), self.report.clone(), self.json);
        let outcome = run(&self.plan()?)?;
        for warning in &outcome.warnings {
            render::say(&format!("warning: {warning}"));
        }
        if let Some(file) = &report {
            outcome.write_page(file)?;
        }
        if let (Some(file), Some(form)) = (&out, form) {
            write_whole(file, table(&outcome, &form)?.as_bytes())?;
        }
        let files = [("written to", out.as_ref()), ("report", report.as_ref())];
        let files: Vec<(String, String)> =
            files.into_iter().filter_map(|(name, file)| Some((name.to_owned(), file?.display().to_string()))).collect();
        if json {
            return render::print(&render::json(&serde_json::to_value(&outcome)?)?);
        }
        let text = described(&outcome, files);
        if out.is_some() || outcome.answers.is_empty() {
            return render::print(&text);
        }
        render::say(text.trim_end());
        render::print(&table(&outcome, &Form::Cells(b'\t'))?)
    }

    fn plan(self) -> Result<Plan, Error> {
        let told = self.shift.map(|kind| match kind {
            Kind::Covariate => Told::Covariate,
            Kind::Label => Told::Label,
        });
        // What only one kind of shift reads says which it is.
        let covariate = (self.weight.is_some() || !self.features.is_empty()).then_some(Told::Covariate);
        let label = (!self.shares.is_empty()).then_some(Told::Label);
        Ok(Plan {
            calibration: self.calibration,
            rows: self.rows,
            method: self.method,
            settings: settings("--settings", &self.settings)?,
            coverage: self.coverage,
            truth: self.truth,
            truths: self.truths,
            answers: self.answers,
            new_answers: self.new_answers,
            fold: self.fold,
            group: self.group,
            by_class: self.by_class,
            shift: told.or(covariate).or(label),
            weight: self.weight,
            features: self.features,
            ratio: self.ratio,
            clip: self.clip,
            shares: self.shares,
            delay: self.delay,
            state: self.state,
            seed: self.seed,
            offline: self.offline,
        })
    }
}

/// An end of an interval; JSON has no word for infinity.
fn end(number: f64) -> Value {
    if number.is_finite() { json!(number) } else { json!(number.to_string()) }
}

fn table(outcome: &Outcome, form: &Form) -> Result<String> {
    let name = |class: &usize| outcome.names[*class].clone();
    let row = |(row, answer): (usize, &Answer)| match answer {
        Answer::Interval(interval) => vec![json!(row + 1), end(interval.lower), end(interval.upper)],
        Answer::Set { of, .. } => vec![json!(row + 1), of.iter().map(name).collect(), json!(of.len())],
    };
    let header: &[&str] = if outcome.classes { &["row", "set", "size"] } else { &["row", "lower", "upper"] };
    form.table(header, outcome.answers.iter().enumerate().map(row))
}

fn described(outcome: &Outcome, files: Vec<(String, String)>) -> String {
    let told = [outcome.facts_told(), files].concat();
    let facts: Vec<(&str, String)> = told.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let mut text = render::facts(&facts);
    for (title, rows) in outcome.tables() {
        text.push_str(&format!("\n{}\n{}", render::bold(title), render::table(&rows)));
    }
    text
}
