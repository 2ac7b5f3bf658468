//! `acclimate compare`: finished runs beside each other.

use crate::{render, tune};
use acclimate::compare::{Compared, Comparison, compare};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use toml::{Table, Value};

const HELP: &str = "\
Examples:
  acclimate compare runs/lora runs/hra runs/vera
  acclimate compare runs/lora runs/hra --json

Runs must agree in all but the method, that is in every key but `adapter` and `optim`, and in model and rows.";

/// Puts finished runs that differ in the method alone beside each other.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Compare {
    /// Run folders.
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The comparison as JSON.
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(&self) -> Result<()> {
        let comparison = compare(&self.runs)?;
        render::print(&match self.json {
            true => render::json(&serde_json::to_value(&comparison)?)?,
            false => describe(&comparison),
        })
    }
}

fn describe(comparison: &Comparison) -> String {
    let Comparison { metric, untouched, runs, notes } = comparison;
    let rows = if *untouched { "on untouched rows" } else { "cross-fitted" };
    let head = ["run", "adapter", "optimiser", "kept", "score", "trained", "time"].map(render::bold);
    let mut table = vec![head.to_vec()];
    table.extend(runs.iter().map(cells));
    let mut text = format!("{} {rows}, with 95 % intervals\n{}", render::bold(metric), render::table(&table));
    for note in notes {
        text.push_str(&render::wrap(&format!("note: {note}"), render::width(), 0));
    }
    text
}

fn cells(run: &Compared) -> Vec<String> {
    vec![
        run.folder.display().to_string(),
        method("adapter", &run.adapter),
        method("optim", &run.optim),
        run.kept.name().to_owned(),
        run.score.map_or("–".to_owned(), tune::score),
        run.trained.to_string(),
        time(run.training_seconds),
    ]
}

/// A method's name, and the settings that are not as they come.
fn method(name: &str, section: &Table) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let defaults = Table::try_from(acclimate::Recipe::default()).unwrap_or_default();
    let usual = |key: &str| defaults.get(name).and_then(|section| section.get(key));
    let settings: Vec<String> = section
        .iter()
        .filter(|(key, value)| *key != "method" && usual(key) != Some(*value))
        .map(|(key, value)| format!("{key} {}", text(value)))
        .collect();
    let name = section.get("method").map(text).unwrap_or_default();
    if settings.is_empty() { name } else { format!("{name}: {}", settings.join(", ")) }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}
