//! `acclimate merge`: a plain checkpoint out of a model and a patch.

use crate::render;
use acclimate::merge::{Change, Drift, Merge, OutputDrift, Precision, TensorDrift, check_out};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Rows of the table of tensors.
const ROWS: usize = 12;

/// Share of a change that may be lost without a word.
const LITTLE: f64 = 0.05;

/// Writes the tuned model as a plain checkpoint that needs no patch, and tells what that does to its weights.
#[derive(Args)]
pub(crate) struct MergeCommand {
    /// The run folder, or a patch folder.
    #[arg(long, short, value_name = "FOLDER")]
    run: PathBuf,
    /// The new folder.
    #[arg(long, short, value_name = "FOLDER", required_unless_present = "check")]
    out: Option<PathBuf>,
    /// The model, where it has moved since the run.
    #[arg(long, short)]
    model: Option<String>,
    /// How numbers are stored: `keep` (each tensor as the model has it), `f32`, `bf16` or `f16`.
    #[arg(long, value_name = "TYPE", default_value = "keep")]
    dtype: String,
    /// Tells what merging would do, and writes nothing.
    #[arg(long)]
    check: bool,
    /// Loads the merged model and the model with its patch, and compares their outputs.
    #[arg(long, conflicts_with = "check")]
    verify: bool,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl MergeCommand {
    pub(crate) fn run(&self) -> Result<()> {
        let out = self.out.as_deref().filter(|_| !self.check);
        let precision = Precision::parse(&self.dtype)?;
        if let Some(out) = out {
            check_out(out)?;
        }
        let merge = Merge::open(&self.run, self.model.as_deref(), precision, self.offline)?;
        let drift = merge.drift()?;
        // The report is there before anything is written, so that a full disk does not take it along.
        if !self.json {
            render::print(&report(&drift))?;
        }
        if let Some(out) = out {
            merge.write(out, &drift)?;
        }
        let outputs = out.filter(|_| self.verify).map(|out| merge.compare_outputs(out)).transpose()?;
        if self.json {
            let mut all = serde_json::to_value(&drift)?;
            all["out"] = json!(out);
            all["outputs"] = json!(outputs);
            return render::print(&render::json(&all)?);
        }
        let Some(out) = out else { return Ok(()) };
        let mut facts = vec![
            ("checkpoint", out.display().to_string()),
            ("verified", format!("{} changed tensors read back, bit for bit", drift.tensors.len())),
        ];
        if let Some(OutputDrift { features, scores }) = outputs {
            let scores = scores.map_or(String::new(), |scores| format!(", of scores {scores:.1e}"));
            facts.push((
                "outputs",
                format!("largest difference of features {features:.1e}{scores}, of the largest value"),
            ));
        }
        render::print(&format!("\n{}", render::facts(&facts)))
    }
}

/// The tensors that change most, and all together.
fn report(drift: &Drift) -> String {
    let head = ["tensor", "change", "largest", "lost in rounding", "rounding", "stored"];
    let mut rows = vec![head.map(render::bold).to_vec()];
    let mut worst: Vec<&TensorDrift> = drift.tensors.iter().collect();
    let size = |tensor: &TensorDrift| tensor.change.relative.unwrap_or(f64::INFINITY);
    worst.sort_by(|a, b| size(b).total_cmp(&size(a)));
    rows.extend(worst.iter().take(ROWS).map(|tensor| row(&tensor.tensor, &tensor.change, types(tensor))));
    let hidden = worst.len().saturating_sub(ROWS);
    if hidden > 0 {
        rows.push(vec![format!("{hidden} more")]);
    }
    let all = match drift.tensors.len() {
        1 => "1 tensor".to_owned(),
        n => format!("all {n}"),
    };
    rows.push(row(&render::bold(&all), &drift.total, String::new()));
    let mut text = render::table(&rows) + "\n";
    let mut say = |line: &str| text.push_str(&render::wrap(line, render::width(), 2));
    let untouched = &drift.untouched;
    match untouched.rounding {
        Some(rounding) => say(&format!(
            "{} other tensors are rounded, by {} of their size.",
            untouched.tensors,
            percent(Some(rounding))
        )),
        None => say(&format!("{} other tensors stay as they are.", untouched.tensors)),
    }
    if drift.total.lost.is_some_and(|lost| lost > LITTLE) {
        say(&format!("Rounding loses {} of what was tuned; `--dtype f32` loses nothing.", percent(drift.total.lost)));
    }
    drift.notes.iter().for_each(|note| say(&format!("Note: {note}.")));
    text
}

fn row(name: &str, change: &Change, types: String) -> Vec<String> {
    let largest = format!("{:.2e}", change.largest);
    vec![name.to_owned(), percent(change.relative), largest, percent(change.lost), percent(change.rounding), types]
}

fn types(tensor: &TensorDrift) -> String {
    if tensor.from == tensor.to { tensor.to.clone() } else { format!("{} as {}", tensor.from, tensor.to) }
}

/// A share of the whole with three digits; small ones as a power of ten.
fn percent(share: Option<f64>) -> String {
    match share.map(|share| 100.0 * share) {
        None => "–".to_owned(),
        Some(0.0) => "0 %".to_owned(),
        Some(percent) if percent < 0.01 => format!("{percent:.1e} %"),
        Some(percent) if percent < 10.0 => format!("{percent:.2} %"),
        Some(percent) => format!("{percent:.0} %"),
    }
}
