//! From a name to encoded rows.

use crate::encode::Encoded;
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::{Prepared, Task, TaskSpec};
use acclimate_core::{Error, Gguf, Model, Result};
use acclimate_data::{
    Assets, COMPLETION_NAMES, ChatTemplate, Columns, Examples, Inputs, Labels, MESSAGES_NAMES, PAIR_NAMES,
    PROMPT_NAMES, Source, TARGET_NAMES, TEXT_NAMES, Target, Tokenizer, WORDS_NAMES,
};
use acclimate_data::{ReadOptions, Table, split};
use acclimate_models::{Base, gguf_file};
use burn::tensor::Device;

/// A model with what encodes its inputs.
pub struct Loaded {
    /// The frozen model.
    pub model: Box<dyn Model>,
    /// The tokenizer, for models over text.
    pub tokenizer: Option<Tokenizer>,
    /// How the model wants dialogues written, where it says so.
    pub template: Option<ChatTemplate>,
}

impl Loaded {
    /// Loads a model by name.
    ///
    /// # Errors
    /// An empty or unknown name, nothing fetched in offline mode, or a broken folder.
    pub fn open(name: &str, base: Base, max_length: usize, assets: &Assets) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::Other(
                "no model given; name one with `--model`, such as `--model asset:minilm`".to_owned(),
            ));
        }
        let place = Source::parse(name)?.resolve(assets)?;
        let folder = if place.is_dir() { place.as_path() } else { place.parent().unwrap_or(&place) };
        let file = folder.join("tokenizer.json");
        let (gguf, device) = (gguf_file(&place)?.map(|file| Gguf::read(&file)).transpose()?, Device::flex());
        let model = match &gguf {
            Some(gguf) => acclimate_models::load_gguf(gguf, base, &device)?,
            None => acclimate_models::load(&place, base, &device)?,
        };
        let tokenizer = match &gguf {
            _ if file.exists() => Some(Tokenizer::from_file(&file, max_length)?),
            Some(gguf) => Some(Tokenizer::from_gguf(gguf, max_length)?),
            None => None,
        };
        let template = match &gguf {
            Some(gguf) => ChatTemplate::from_gguf(gguf)?,
            None => ChatTemplate::from_folder(folder)?,
        };
        Ok(Self { model, tokenizer, template })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| Error::Other("texts need a model folder with a tokenizer.json".to_owned()))
    }

    /// Rows that a language model can learn from: long texts cut into pieces of `max_length` tokens, and dialogues of which something that
    /// the assistant says is left within that length. Also how many rows are not among them.
    ///
    /// # Errors
    /// A model without a tokenizer, messages that its template refuses, or no row that is left.
    pub fn readable(&self, examples: Examples, kind: TaskKind) -> Result<(Examples, usize)> {
        if kind == TaskKind::LanguageModelling {
            let Inputs::Texts(texts) = &examples.inputs else { return Ok((examples, 0)) };
            let tokenizer = self.tokenizer()?;
            let mut pieces = vec![];
            for text in texts {
                pieces.extend(tokenizer.pieces(text)?);
            }
            let mut kept = Vec::with_capacity(pieces.len());
            for piece in &pieces {
                if tokenizer.text_document(piece)?.words() > 0 {
                    kept.push(piece.clone());
                }
            }
            let (n, dropped) = (kept.len(), pieces.len() - kept.len());
            return some(Examples { inputs: Inputs::Texts(kept), labels: Labels::Text(n) }, dropped);
        }
        let Inputs::Dialogues(dialogues) = &examples.inputs else { return Ok((examples, 0)) };
        let mut kept = vec![];
        for (row, messages) in dialogues.iter().enumerate() {
            if self.tokenizer()?.dialogue(self.template.as_ref(), messages)?.0.words() > 0 {
                kept.push(row);
            }
        }
        some(examples.select(&kept), dialogues.len() - kept.len())
    }

    /// Encodes rows for a task.
    ///
    /// # Errors
    /// As [`Encoded::new`].
    pub fn encode(&self, inputs: &Inputs, kind: TaskKind) -> Result<(Encoded, Option<Encoded>)> {
        let text = (self.tokenizer.as_ref(), self.template.as_ref());
        let encode = |inputs: &Inputs| Encoded::new(inputs, text, self.model.image(), kind);
        match (inputs, kind) {
            (Inputs::Pairs(pairs), TaskKind::Similarity | TaskKind::Retrieval) => {
                let (left, right): (Vec<String>, Vec<String>) = pairs.iter().cloned().unzip();
                Ok((encode(&Inputs::Texts(left))?, Some(encode(&Inputs::Texts(right))?)))
            }
            _ => Ok((encode(inputs)?, None)),
        }
    }

    /// Encodes labelled rows.
    ///
    /// # Errors
    /// As [`Encoded::new`].
    pub fn prepare(&self, examples: &Examples, kind: TaskKind) -> Result<Prepared> {
        let (left, right) = self.encode(&examples.inputs, kind)?;
        Ok(Prepared { left, right, labels: Some(examples.labels.clone()) })
    }
}

/// Rows, refused where none are left.
fn some(examples: Examples, dropped: usize) -> Result<(Examples, usize)> {
    if examples.is_empty() {
        return Err(Error::Other(
            "no row has a word to learn within the length; raise `max_length`, or shorten the prompts".to_owned(),
        ));
    }
    Ok((examples, dropped))
}

/// A table with the columns its source is known by.
pub struct Opened {
    /// The table.
    pub table: Table,
    /// The columns.
    pub columns: Columns,
}

impl Opened {
    /// The columns, with a second text or words of a usual name where the task needs them and none are named.
    pub fn columns_for(&self, kind: TaskKind) -> Columns {
        let mut columns = self.columns.clone();
        let usual =
            |names: &[&str]| names.iter().find(|n| self.table.columns.iter().any(|c| c == *n)).map(|n| (*n).to_owned());
        match kind {
            TaskKind::Similarity | TaskKind::Retrieval => columns.pair = columns.pair.or_else(|| usual(&PAIR_NAMES)),
            TaskKind::TokenClassification => {
                let text = columns.text.take();
                columns.words = columns.words.or_else(|| usual(&WORDS_NAMES)).or(text).or_else(|| usual(&TEXT_NAMES));
            }
            _ => {}
        }
        columns
    }
}

/// Opens a table by name; the recipe's column names go before those the source is known by.
///
/// # Errors
/// An empty or unknown name, or a file that cannot be read.
pub fn open(name: &str, recipe: &Recipe, assets: &Assets) -> Result<Opened> {
    if name.is_empty() {
        return Err(Error::Other("no data given; name a file with `--data`, such as `--data reviews.csv`".to_owned()));
    }
    let (table, known) = match Source::parse(name)? {
        Source::Asset(asset) => assets.table(&asset)?,
        source => {
            let file = source.resolve(assets)?;
            let options = ReadOptions {
                separator: recipe.separator,
                encoding: recipe.encoding,
                // A text, where other tasks want a row for each line.
                whole: recipe.task == TaskKind::LanguageModelling,
                ..ReadOptions::default()
            };
            let table = Table::read(&file, &options)?;
            (table, Columns::default())
        }
    };
    let pick = |own: &Option<String>, known: Option<String>| own.clone().or(known);
    let columns = Columns {
        text: pick(&recipe.text, known.text),
        pair: pick(&recipe.pair, known.pair),
        words: pick(&recipe.words, known.words),
        image: pick(&recipe.image, known.image),
        messages: pick(&recipe.messages, known.messages),
        prompt: pick(&recipe.prompt, known.prompt),
        completion: pick(&recipe.completion, known.completion),
        choices: pick(&recipe.choices, known.choices),
        features: known.features,
        divide_by: known.divide_by,
        target: pick(&recipe.target, known.target),
    };
    Ok(Opened { table, columns })
}

/// How the recipe wants the target read.
fn target(recipe: &Recipe) -> Target {
    let names = recipe.classes.clone();
    match recipe.task {
        TaskKind::Auto if recipe.cuts.is_empty() && names.is_none() => Target::Auto,
        TaskKind::Auto | TaskKind::Classification if recipe.cuts.is_empty() => Target::Classes { names },
        TaskKind::Auto | TaskKind::Classification => Target::Cuts { cuts: recipe.cuts.clone(), names },
        TaskKind::MultiLabel => Target::MultiLabel { names },
        TaskKind::TokenClassification => Target::Tokens { names },
        TaskKind::Regression | TaskKind::Similarity => Target::Numbers,
        TaskKind::Retrieval => Target::Pairs,
        TaskKind::LanguageModelling => Target::Text,
        TaskKind::Instruction => Target::Dialogue,
        TaskKind::MultipleChoice => Target::Choice,
    }
}

/// What a table without a target is for: dialogues, or text alone.
fn untargeted(opened: &Opened) -> Option<TaskKind> {
    let (columns, all) = (&opened.columns, &opened.table.columns);
    let has =
        |given: &Option<String>, names: &[&str]| given.is_some() || all.iter().any(|c| names.contains(&c.as_str()));
    if has(&columns.target, &TARGET_NAMES) || !columns.features.is_empty() {
        return None;
    }
    let asked = has(&columns.prompt, &PROMPT_NAMES) && has(&columns.completion, &COMPLETION_NAMES);
    if has(&columns.messages, &MESSAGES_NAMES) || asked {
        return Some(TaskKind::Instruction);
    }
    (all.len() == 1 && has(&columns.text, &TEXT_NAMES)).then_some(TaskKind::LanguageModelling)
}

/// Labelled rows of a recipe and the task they make.
///
/// # Errors
/// As [`Examples::read`], and rows that do not fit the task.
pub fn labelled(opened: &Opened, recipe: &Recipe) -> Result<(Examples, TaskSpec)> {
    let task = match recipe.task {
        TaskKind::Auto => untargeted(opened).unwrap_or_default(),
        task => task,
    };
    let recipe = &Recipe { task, ..recipe.clone() };
    let columns = opened.columns_for(recipe.task);
    let examples = Examples::read(&opened.table, &columns, &target(recipe))?;
    if recipe.task == TaskKind::Similarity && !matches!(examples.inputs, Inputs::Pairs(_)) {
        return Err(Error::Other(
            "the task `similarity` needs two texts a row; name the second one's column with `pair`".to_owned(),
        ));
    }
    let mut spec = TaskSpec {
        kind: recipe.task,
        names: examples.labels.names().to_vec(),
        weights: vec![],
        scale: [0.0, 1.0],
        cuts: recipe.cuts.clone(),
    };
    if recipe.task == TaskKind::Auto {
        spec.kind = match &examples.labels {
            Labels::Classes { .. } => TaskKind::Classification,
            Labels::MultiLabel { .. } => TaskKind::MultiLabel,
            Labels::Tokens { .. } => TaskKind::TokenClassification,
            Labels::Numbers(_) => TaskKind::Regression,
            Labels::Pairs(_) => TaskKind::Retrieval,
            Labels::Text(_) => TaskKind::LanguageModelling,
            Labels::Choice(_) => TaskKind::MultipleChoice,
        };
    }
    Ok((examples, spec))
}

/// Completes a task with what only the training rows may tell: class weights, and the mean and spread of numbers.
pub fn fit_task(mut spec: TaskSpec, train: &Labels, class_balance: bool) -> Box<dyn Task> {
    match train {
        Labels::Classes { index, names } if class_balance => spec.weights = split::class_weights(index, names.len()),
        Labels::Numbers(numbers) if spec.kind == TaskKind::Similarity => {
            let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            spec.scale = [low, (high - low).max(f64::MIN_POSITIVE)];
        }
        Labels::Numbers(numbers) => {
            let n = numbers.len().max(1) as f64;
            let mean = numbers.iter().sum::<f64>() / n;
            let variance = numbers.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            spec.scale = [mean, if variance > 0.0 { variance.sqrt() } else { 1.0 }];
        }
        _ => {}
    }
    spec.build()
}

/// Rows to train on and rows to report on.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Training rows.
    pub train: Examples,
    /// Untouched rows.
    pub test: Option<Examples>,
}

/// Splits rows as the recipe says; the split depends on the seed alone.
///
/// # Errors
/// More rows asked for than there are.
pub fn divide(all: Examples, test: Option<Examples>, recipe: &Recipe) -> Result<Parts> {
    let n = all.len();
    let (mut train, test) = match test {
        Some(test) => ((0..n).collect::<Vec<_>>(), Some(test)),
        None => {
            let wanted = recipe.test_rows.map_or(recipe.test_share, |rows| rows as f64 / n as f64);
            if wanted >= 1.0 {
                return Err(Error::Other(format!(
                    "`test_rows` asks for {} of {n} rows; some must stay to train on",
                    recipe.test_rows.unwrap_or(n)
                )));
            }
            if wanted == 0.0 {
                ((0..n).collect(), None)
            } else {
                let split = split::stratified(&all.labels.strata(), wanted, recipe.seed)?;
                (split.train, Some(all.select(&split.held_out)))
            }
        }
    };
    if let Some(rows) = recipe.train_rows {
        if rows > train.len() {
            return Err(Error::Other(format!(
                "`train_rows` asks for {rows} rows; {} are left beside the test rows",
                train.len()
            )));
        }
        let strata = all.select(&train).labels.strata();
        let picked = split::few_shot(&strata, split::Shots::Total(rows), recipe.seed)?;
        train = picked.into_iter().map(|at| train[at]).collect();
    }
    Ok(Parts { train: all.select(&train), test })
}
