//! `acclimate predict` and `acclimate eval`: the patch of a run at work.

use crate::{Use, flags, render, tune};
use acclimate::Recipe;
use acclimate::dataset::Opened;
use acclimate::gate::Score;
use acclimate::models::{Base, Sampling};
use acclimate::recipe::{AdapterRecipe, TaskKind};
use acclimate::saved::Answering;
use acclimate::stream::{Cut, Read, Reader};
use acclimate::tasks::{Answer, answers};
use acclimate::write::Writing;
use acclimate_core::{Error, find, write_whole};
use acclimate_data::{Inputs, Message};
use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Answers for rows or prompts, with the patch of a run or a language model as it is.
#[derive(Args)]
pub(crate) struct Predict {
    #[command(flatten)]
    with: Use,
    /// A prompt in place of rows; may be given several times. The answer is shown as it is written.
    #[arg(long, short, value_name = "TEXT", conflicts_with = "data")]
    prompt: Vec<String>,
    /// Goes on from the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Most tokens of a written answer.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// What scores are divided by before a word is drawn; 0 takes the likeliest.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Words are drawn from the likeliest ones that together have this share.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// A text that ends the answer; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for the answers, `.jsonl`, `.csv` or `.tsv`; without it they go to stdout.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A JSON object per row on stdout.
    #[arg(long)]
    json: bool,
}

/// Scores labelled rows or texts, with the patch of a run or a language model as it is.
#[derive(Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    with: Use,
    /// The column with the target, if it is not the run's.
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// What is scored, for a language model without a run: `language_modelling`, `instruction` or `multiple_choice`.
    #[arg(long)]
    task: Option<String>,
    /// A test-time method that adapts to each text while it is read, such as `dynamic_evaluation`.
    #[arg(long, value_name = "METHOD")]
    adapt: Option<String>,
    /// The method's settings as TOML, such as `lr = 0.03, decay = 0.001`.
    #[arg(long, value_name = "SETTINGS", requires = "adapt", default_value = "")]
    adapt_settings: String,
    /// What adapts: the method of the patch.
    #[arg(long, value_name = "METHOD", requires = "adapt", default_value = "full")]
    adapter: String,
    /// Tokens between two updates.
    #[arg(long, value_name = "N", requires = "adapt", default_value_t = Cut::default().segment)]
    segment: usize,
    /// Tokens before a segment that are read again.
    #[arg(long, value_name = "N", requires = "adapt", default_value_t = Cut::default().context)]
    context: usize,
    /// A text like those the model was trained on, for methods that measure there.
    #[arg(long, value_name = "DATA", requires = "adapt")]
    reference: Option<String>,
    /// Only so many characters of each text.
    #[arg(long, value_name = "N", requires = "adapt")]
    characters: Option<usize>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// The recipe of a run, with what the flags say over it.
fn recipe(with: &Use, target: Option<&String>, task: Option<&String>) -> Result<Recipe> {
    let near = with.run.iter().flat_map(|run| [Some(run.as_path()), run.parent()]);
    let file = near.flatten().map(|folder| folder.join("recipe.toml")).find(|file| file.is_file());
    let mut table = file.map(|file| Recipe::read(&file)).transpose()?.unwrap_or_default();
    for (key, value) in [("base", with.base.as_ref()), ("task", task)] {
        if let Some(value) = value {
            table.insert(key.to_owned(), value.clone().into());
        }
    }
    let mut recipe = Recipe::from_table(&table)?;
    let given = [&with.text, &with.pair, &with.words, &with.image, &with.prompts];
    let kept = [&mut recipe.text, &mut recipe.pair, &mut recipe.words, &mut recipe.image, &mut recipe.prompt];
    for (given, kept) in given.into_iter().zip(kept).filter(|(given, _)| given.is_some()) {
        kept.clone_from(given);
    }
    recipe.target = target.cloned().or(recipe.target);
    recipe.offline = with.offline;
    if let (None, Some(model)) = (&with.run, &with.model) {
        recipe.model.clone_from(model);
    }
    Ok(recipe)
}

/// The patched model, or a language model as it is.
fn answering(with: &Use, recipe: &Recipe) -> Result<Answering> {
    Ok(match &with.run {
        Some(run) => Answering::open(run, with.model.as_deref(), with.offline)?,
        None => Answering::bare(recipe)?,
    })
}

/// The rows, with the columns of the run unless others are named.
fn table(with: &Use, recipe: &Recipe, kind: TaskKind) -> Result<Opened> {
    let data = with.data.as_deref().unwrap_or_default();
    Ok(Answering::open_table(data, &Recipe { task: kind, ..recipe.clone() })?)
}

impl Predict {
    pub(crate) fn run(&self) -> Result<()> {
        let form = self.out.as_deref().map(Form::of).transpose()?;
        let recipe = recipe(&self.with, None, None)?;
        let answering = answering(&self.with, &recipe)?;
        let answers = if answering.writes() {
            match self.write(&answering, &recipe, form.is_none())? {
                Some(answers) => answers,
                None => return Ok(()),
            }
        } else {
            let inputs = answering.inputs(&table(&self.with, &recipe, answering.task.kind())?)?;
            answers(answering.task.as_ref(), &answering.predict(&inputs)?)
        };
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

    /// Written answers; nothing where they were shown on the way.
    fn write(&self, answering: &Answering, recipe: &Recipe, to_terminal: bool) -> Result<Option<Vec<Answer>>> {
        let inputs = match self.prompt.is_empty() {
            // Texts to go on from are rows: only scoring wants a file as one text.
            true => answering.inputs(&table(&self.with, recipe, TaskKind::Auto)?)?,
            false => Inputs::Dialogues(self.prompt.iter().map(|prompt| vec![Message::new("user", prompt)]).collect()),
        };
        let (max_tokens, temperature, top_p, seed) = (self.max_tokens, self.temperature, self.top_p, self.seed);
        let sampling = Sampling { temperature, top_p, max_tokens, seed };
        let writing = Writing { sampling, stop: self.stop.clone(), raw: self.raw };
        let shown = to_terminal && !self.json && self.prompt.len() == 1;
        let mut out = std::io::stdout().lock();
        let texts = answering.write(&inputs, &writing, &mut |_, piece| {
            if shown {
                // A reader that has gone away ends the program when the last line is printed.
                let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
            }
            Ok(())
        })?;
        drop(out);
        if shown {
            render::print("\n")?;
            return Ok(None);
        }
        let answer =
            |text: String| Answer { answer: Value::String(text), probability: None, probabilities: Map::new() };
        Ok(Some(texts.into_iter().map(answer).collect()))
    }
}

impl Eval {
    pub(crate) fn run(&self) -> Result<()> {
        let mut recipe = recipe(&self.with, self.target.as_ref(), self.task.as_ref())?;
        if let Some(method) = &self.adapt {
            if self.with.base.is_none() && self.with.run.is_none() {
                recipe.base = Base::Dense;
            }
            return self.stream(method, &recipe);
        }
        let answering = answering(&self.with, &recipe)?;
        let examples = answering.labelled(&table(&self.with, &recipe, answering.task.kind())?)?;
        let (score, metrics) = answering.evaluate(&examples, 0)?;
        let metric = answering.task.metric();
        if self.json {
            let metrics: Map<String, Value> = metrics.into_iter().map(|(name, x)| (name, json!(x))).collect();
            let all = json!({ "rows": examples.inputs.len(), "metric": metric, "score": score, "metrics": metrics });
            return render::print(&render::json(&all)?);
        }
        self.show(examples.inputs.len(), metric, score, metrics)
    }

    fn show(&self, n: usize, metric: &str, score: Score, metrics: Vec<(String, f64)>) -> Result<()> {
        let mut rows = vec![vec![render::bold(metric), format!("{}, 95 % interval", tune::score(score))]];
        let others = metrics.into_iter().filter(|(name, _)| name != metric);
        rows.extend(others.map(|(name, x)| vec![name, format!("{x:.3}")]));
        render::print(&format!("{n} rows\n{}", render::table(&rows)))
    }

    /// Texts read by a model that adapts to them.
    fn stream(&self, method: &str, recipe: &Recipe) -> Result<()> {
        let settings = flags::settings("--adapt-settings", &self.adapt_settings)?;
        let method = find(acclimate::tta::METHODS, method)?.build(&settings)?;
        let texts = |opened: &Opened| -> Result<Vec<String>> {
            match Inputs::read(&opened.table, &opened.columns_for(TaskKind::LanguageModelling))? {
                Inputs::Texts(texts) => Ok(texts),
                _ => {
                    Err(Error::Other("adapting on the way needs texts; name their column with `--text`".to_owned())
                        .into())
                }
            }
        };
        let wanted = Recipe { task: TaskKind::LanguageModelling, ..recipe.clone() };
        let rows = texts(&table(&self.with, &wanted, TaskKind::LanguageModelling)?)?;
        let reference = match &self.reference {
            Some(data) => Some(texts(&Answering::open_table(data, &wanted)?)?.join("\n")),
            None => None,
        };
        let answering = answering(&self.with, &wanted)?;
        let adapter = AdapterRecipe { method: self.adapter.clone(), ..AdapterRecipe::default() };
        let cut = Cut { segment: self.segment.max(1), context: self.context };
        let (loaded, tuned, reference) = (&answering.loaded, &answering.patch, reference.as_deref());
        let reader = Reader { loaded, tuned, method: method.as_ref(), adapter: &adapter, reference, cut };
        let mut read = Read::default();
        let mut last = std::time::Instant::now();
        for text in rows {
            let text: String = text.chars().take(self.characters.unwrap_or(usize::MAX)).collect();
            let more = reader.read(&text, &mut |read, all| {
                if last.elapsed().as_secs() >= 5 {
                    last = std::time::Instant::now();
                    let (before, after) = (read.before / read.tokens as f64, read.after / read.tokens as f64);
                    let done = read.segments.len();
                    render::say(&format!(
                        "segment {done}/{all}: {before:.3} nats per token as it is, {after:.3} adapting"
                    ));
                }
            })?;
            read = read.and(more);
        }
        let lines = [("as it is", read.before), (method.card().name, read.after)].map(|(name, nats)| {
            let loss = nats / read.tokens as f64;
            (name, loss, loss.exp(), read.bits(nats))
        });
        if self.json {
            let line = |(_, loss, perplexity, bits): &(&str, f64, f64, f64)| json!({ "loss": loss, "perplexity": perplexity, "bits_per_character": bits });
            let all = json!({ "tokens": read.tokens, "characters": read.characters, "segment": cut.segment,
                "context": cut.context, "method": method.card().name, "settings": method.settings(),
                "adapter": self.adapter, "before": line(&lines[0]), "after": line(&lines[1]) });
            return render::print(&render::json(&all)?);
        }
        let mut rows =
            vec![["", "loss, nats per token", "perplexity", "bits per character"].map(str::to_owned).to_vec()];
        rows.extend(lines.map(|(name, loss, perplexity, bits)| {
            vec![render::bold(name), format!("{loss:.4}"), format!("{perplexity:.2}"), format!("{bits:.4}")]
        }));
        let head =
            format!("{} tokens, {} characters, {} tokens at a time\n", read.tokens, read.characters, cut.segment);
        render::print(&(head + &render::table(&rows)))
    }
}

/// How answers are written.
pub(crate) enum Form {
    /// A JSON object per line.
    Lines,
    /// Cells with this separator, below a header.
    Cells(u8),
}

impl Form {
    /// The form a file's name asks for; refused before any work is done for a file that cannot be written.
    pub(crate) fn of(file: &Path) -> Result<Self, Error> {
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

    /// Rows under a header; in a cell the items of a list are joined by `|`.
    pub(crate) fn table(&self, header: &[&str], rows: impl Iterator<Item = Vec<Value>>) -> Result<String> {
        let Self::Cells(separator) = self else {
            let object = |row: Vec<Value>| header.iter().map(|name| (*name).to_owned()).zip(row).collect();
            return Ok(rows.map(|row| Value::Object(object(row)).to_string() + "\n").collect());
        };
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let mut cells = csv::WriterBuilder::new().delimiter(*separator).from_writer(vec![]);
        cells.write_record(header)?;
        for row in rows {
            cells.write_record(row.iter().map(text))?;
        }
        Ok(String::from_utf8(cells.into_inner().map_err(|e| e.into_error())?)?)
    }

    fn write(&self, answers: &[Answer]) -> Result<String> {
        if let Self::Lines = self {
            let line = |(row, answer): (usize, &Answer)| {
                let mut object = json!({ "row": row + 1 });
                if let (Value::Object(object), Value::Object(rest)) = (&mut object, serde_json::to_value(answer)?) {
                    object.extend(rest);
                }
                Ok(object.to_string() + "\n")
            };
            return answers.iter().enumerate().map(line).collect();
        }
        let row = |(row, answer): (usize, &Answer)| {
            let probability = answer.probability.map_or(String::new(), |p| format!("{p:.6}"));
            vec![json!(row + 1), json!(answer.text()), json!(probability)]
        };
        self.table(&["row", "answer", "probability"], answers.iter().enumerate().map(row))
    }
}
