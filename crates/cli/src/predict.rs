//! `acclimate predict` and `acclimate eval`: the patch of a run at work.

use crate::{Use, render, tune};
use acclimate::Recipe;
use acclimate::dataset::Opened;
use acclimate::saved::Answering;
use acclimate::tasks::{Answer, answers};
use acclimate_core::{Error, write_whole};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Answers for rows, with the patch of a run.
#[derive(Args)]
pub(crate) struct Predict {
    #[command(flatten)]
    with: Use,
    /// The file for the answers, `.jsonl`, `.csv` or `.tsv`; without it they go to stdout.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A JSON object per row on stdout.
    #[arg(long)]
    json: bool,
}

/// Scores labelled rows, with the patch of a run.
#[derive(Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    with: Use,
    /// The column with the target, if it is not the run's.
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// The patched model and the rows, with the columns of the run unless others are named.
fn open(with: &Use, target: Option<&String>) -> Result<(Answering, Opened)> {
    let near = [Some(with.run.as_path()), with.run.parent()];
    let file = near.into_iter().flatten().map(|folder| folder.join("recipe.toml")).find(|file| file.is_file());
    let mut recipe = match file {
        Some(file) => Recipe::from_table(&Recipe::read(&file)?)?,
        None => Recipe::default(),
    };
    let given = [&with.text, &with.pair, &with.words, &with.image];
    let kept = [&mut recipe.text, &mut recipe.pair, &mut recipe.words, &mut recipe.image];
    for (given, kept) in given.into_iter().zip(kept).filter(|(given, _)| given.is_some()) {
        kept.clone_from(given);
    }
    recipe.target = target.cloned().or(recipe.target);
    recipe.offline = with.offline;
    let opened = Answering::open_table(&with.data, &recipe)?;
    Ok((Answering::open(&with.run, with.model.as_deref(), with.offline)?, opened))
}

impl Predict {
    pub(crate) fn run(&self) -> Result<()> {
        let form = self.out.as_deref().map(Form::of).transpose()?;
        let (answering, opened) = open(&self.with, None)?;
        let inputs = answering.inputs(&opened)?;
        let outputs = answering.predict(&inputs)?;
        let answers = answers(answering.task.as_ref(), &outputs);
        match (&self.out, form) {
            (Some(file), Some(form)) => {
                write_whole(file, form.write(&answers)?.as_bytes())?;
                render::say(&format!("{} answers in {}", answers.len(), file.display()));
                Ok(())
            }
            _ if self.json => render::print(&Form::Lines.write(&answers)?),
            _ => render::print(&Form::Cells(b'\t').write(&answers)?),
        }
    }
}

impl Eval {
    pub(crate) fn run(&self) -> Result<()> {
        let (answering, opened) = open(&self.with, self.target.as_ref())?;
        let examples = answering.labelled(&opened)?;
        let (score, metrics) = answering.evaluate(&examples, 0)?;
        let metric = answering.task.metric();
        if self.json {
            let metrics: serde_json::Map<String, Value> =
                metrics.into_iter().map(|(name, x)| (name, json!(x))).collect();
            let all = json!({ "rows": examples.inputs.len(), "metric": metric, "score": score, "metrics": metrics });
            return render::print(&render::json(&all)?);
        }
        let mut rows = vec![vec![render::bold(metric), format!("{}, 95 % interval", tune::score(score))]];
        let others = metrics.into_iter().filter(|(name, _)| name != metric);
        rows.extend(others.map(|(name, x)| vec![name, format!("{x:.3}")]));
        render::print(&format!("{} rows\n{}", examples.inputs.len(), render::table(&rows)))
    }
}

/// How answers are written.
enum Form {
    /// A JSON object per line.
    Lines,
    /// Cells with this separator, below a header.
    Cells(u8),
}

impl Form {
    /// The form a file's name asks for; refused before any work is done for a file that cannot be written.
    fn of(file: &Path) -> Result<Self, Error> {
        let form = match file.extension().and_then(|end| end.to_str()) {
            Some("jsonl" | "ndjson") => Self::Lines,
            Some("csv") => Self::Cells(b','),
            Some("tsv") => Self::Cells(b'\t'),
            _ => return Err(Error::format(file, "is no kind of file for answers; use .jsonl, .csv or .tsv")),
        };
        if file.exists() && !file.is_file() {
            return Err(Error::format(file, "is there already and is no plain file; choose another name"));
        }
        match file.ancestors().skip(1).find(|above| above.exists()) {
            Some(above) if !above.is_dir() => Err(Error::format(file, format!("`{}` is no folder", above.display()))),
            _ => Ok(form),
        }
    }

    fn write(&self, answers: &[Answer]) -> Result<String> {
        let Self::Cells(separator) = self else {
            let line = |(row, answer): (usize, &Answer)| {
                let mut object = json!({ "row": row + 1 });
                if let (Value::Object(object), Value::Object(rest)) = (&mut object, serde_json::to_value(answer)?) {
                    object.extend(rest);
                }
                Ok(object.to_string() + "\n")
            };
            return answers.iter().enumerate().map(line).collect();
        };
        let mut cells = csv::WriterBuilder::new().delimiter(*separator).from_writer(vec![]);
        cells.write_record(["row", "answer", "probability"])?;
        for (row, answer) in answers.iter().enumerate() {
            let probability = answer.probability.map_or(String::new(), |p| format!("{p:.6}"));
            cells.write_record([(row + 1).to_string(), answer.text(), probability])?;
        }
        Ok(String::from_utf8(cells.into_inner().map_err(|e| e.into_error())?)?)
    }
}
