//! `acclimate diagnose`: what differs between two tables.

use crate::render;
use acclimate::diagnose::{Outcome, run};
use acclimate::domains::Question;
use acclimate::shift::DiagnosisSettings;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

const HELP: &str = "\
Examples:
  acclimate diagnose last-year.csv this-year.csv
  acclimate diagnose source.csv target.csv --label income --columns age,hours --report shift.html
  acclimate diagnose reviews.csv tweets.csv --model asset:minilm --label label

Columns that both tables have are compared: numbers and categories as they are, texts and images as a model's features. With labels of
the source a label shift is tried; where the target has labels too (or a few rows of it, in a table of their own), covariate and
conditional shift are told apart. Labels of the target are used by these tests alone; `--blind` leaves them out.";

/// Tells what kind of shift lies between two tables, how sure that is, which columns changed, and what to do.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct DiagnoseCommand {
    /// The table that is known.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The table to work in.
    #[arg(value_name = "TARGET")]
    target: String,
    #[command(flatten)]
    domains: Columns,
    /// Leaves labels of the target out.
    #[arg(long)]
    blind: bool,
    /// The chance of a false alarm.
    #[arg(long, value_name = "SHARE", default_value_t = DiagnosisSettings::default().level)]
    level: f64,
    /// Exchanges of rows in each test.
    #[arg(long, value_name = "NUMBER", default_value_t = DiagnosisSettings::default().permutations)]
    permutations: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for a page, `.html`.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// Which columns of two tables are looked at.
#[derive(Args)]
pub(crate) struct Columns {
    /// The column with the labels, if it has none of the usual names.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// The columns to look at, parted by commas; without it all that both tables have.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    columns: Vec<String>,
    /// A model whose features of texts or images stand for the rows.
    #[arg(long, short, conflicts_with = "columns")]
    model: Option<String>,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

impl Columns {
    pub(crate) fn question(self, source: String, target: String) -> Question {
        let Self { label, columns, model, offline } = self;
        Question { source, target, label, columns, model, offline }
    }
}

impl DiagnoseCommand {
    pub(crate) fn run(self) -> Result<()> {
        let settings = DiagnosisSettings {
            level: self.level,
            permutations: self.permutations,
            seed: self.seed,
            ..DiagnosisSettings::default()
        };
        let outcome = run(&self.domains.question(self.source, self.target), !self.blind, &settings)?;
        if let Some(file) = &self.report {
            outcome.write_page(file)?;
        }
        if self.json {
            return render::print(&render::json(&serde_json::to_value(&outcome)?)?);
        }
        let mut text = described(&outcome);
        if let Some(file) = &self.report {
            text.push_str(&render::facts(&[("report", file.display().to_string())]));
        }
        render::print(&text)
    }
}

fn described(outcome: &Outcome) -> String {
    let mut text = render::wrap(&outcome.sentence, render::width(), 0);
    text.push('\n');
    let told = outcome.facts_told();
    text.push_str(&render::facts(&told.iter().map(|(name, what)| (name.as_str(), what.clone())).collect::<Vec<_>>()));
    for (title, rows) in outcome.tables() {
        text.push_str(&format!("\n{}\n{}", render::bold(title), render::table(&rows)));
    }
    text.push('\n');
    for advice in outcome.advice_told() {
        text.push_str(&render::wrap(&advice, render::width(), 0));
    }
    text
}
