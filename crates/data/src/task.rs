//! What a table is used for: inputs, and labels where there are any.
//!
//! [`Inputs`] holds no labels, so whatever receives only inputs cannot look at them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use acclimate_core::{Error, Result};

use crate::chat::{ASSISTANT, Message};
use crate::table::{Table, Value};

/// Column names tried for the text, in this order.
pub const TEXT_NAMES: [&str; 6] = ["text", "sentence", "content", "review", "premise", "query"];
/// Column names tried for the second text of a pair.
pub const PAIR_NAMES: [&str; 5] = ["text_pair", "sentence2", "hypothesis", "passage", "positive"];
/// Column names tried for the words of a row.
pub const WORDS_NAMES: [&str; 2] = ["tokens", "words"];
/// Column names tried for image files.
pub const IMAGE_NAMES: [&str; 2] = ["image", "path"];
/// Column names tried for whole dialogues.
pub const MESSAGES_NAMES: [&str; 2] = ["messages", "conversations"];
/// Column names tried for what is asked.
pub const PROMPT_NAMES: [&str; 3] = ["prompt", "instruction", "question"];
/// Column names tried for what is to be answered.
pub const COMPLETION_NAMES: [&str; 4] = ["completion", "response", "output", "answer"];
/// Column names tried for the answers to choose from.
pub const CHOICES_NAMES: [&str; 2] = ["choices", "options"];
/// Column names tried for the right one of the choices, after those of [`TARGET_NAMES`].
const ANSWER_NAMES: [&str; 1] = ["answer"];
/// The column that goes on where an instruction ends.
const INPUT_NAME: &str = "input";
/// Column names tried for the target.
pub const TARGET_NAMES: [&str; 10] =
    ["label", "labels", "class", "target", "rating", "score", "tags", "ner_tags", "category", "y"];

/// More distinct fractional numbers than this are not taken for classes.
const MAX_NUMBER_CLASSES: usize = 50;

/// Which columns hold what; what is absent is found by the usual names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// The text, or the first text of a pair.
    pub text: Option<String>,
    /// The second text of a pair. Only used when named here, or when the task is about pairs.
    pub pair: Option<String>,
    /// The words of a row, for labels per word.
    pub words: Option<String>,
    /// Paths of images, relative to the table's folder.
    pub image: Option<String>,
    /// Numeric columns, in the order of the features; excludes the others.
    pub features: Vec<String>,
    /// What features are divided by, such as 255 for the bytes of pixels.
    pub divide_by: Option<f32>,
    /// Whole dialogues: lists of `role` and `content`, or of `from` and `value`.
    pub messages: Option<String>,
    /// What is asked. A column `instruction` is followed by the row's `input`, where there is one.
    pub prompt: Option<String>,
    /// What is to be answered.
    pub completion: Option<String>,
    /// The answers to choose from.
    pub choices: Option<String>,
    /// The target.
    pub target: Option<String>,
}

/// What the target column means.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Lists are several labels (or labels per word where words are), text and few whole numbers are classes, other
    /// numbers are numbers.
    Auto,
    /// One class per row. `names` fixes their order and refuses others; without it they are sorted, whole numbers by
    /// value.
    Classes {
        /// The classes, in order.
        names: Option<Vec<String>>,
    },
    /// Classes cut out of a number: below the first cut, from the first up to the second, and so on.
    Cuts {
        /// The cuts, ascending.
        cuts: Vec<f64>,
        /// One name more than cuts; without it "0", "1", ….
        names: Option<Vec<String>>,
    },
    /// Any number of labels per row: a list, or text cut at `|`.
    MultiLabel {
        /// The labels, in order.
        names: Option<Vec<String>>,
    },
    /// A label per word: a list, or text cut at white space.
    Tokens {
        /// The labels, in order.
        names: Option<Vec<String>>,
    },
    /// A finite number per row.
    Numbers,
    /// No target: the second text of a row belongs to its first, other rows' do not.
    Pairs,
    /// No target: a text is predicted token by token.
    Text,
    /// No target: the assistant's turns of a dialogue are predicted.
    Dialogue,
    /// The right one of several choices: its position from zero, its letter from `A`, or its text, the same way in all
    /// rows. Where more than one way fits all rows the first of these holds.
    Choice,
}

/// What a model is given, without labels.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub enum Inputs {
    /// A text per row.
    Texts(Vec<String>),
    /// Two texts per row.
    Pairs(Vec<(String, String)>),
    /// Words per row.
    Words(Vec<Vec<String>>),
    /// An image file per row.
    Images(Vec<PathBuf>),
    /// `width` numbers per row, row after row.
    Features {
        /// Numbers per row.
        width: usize,
        /// Rows times `width` numbers.
        values: Vec<f32>,
    },
    /// A dialogue per row.
    Dialogues(Vec<Vec<Message>>),
    /// A question with its answers to choose from per row.
    Choices(Vec<Choices>),
}

/// A question with its answers to choose from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Choices {
    /// The question.
    pub prompt: String,
    /// The answers, at least two.
    pub choices: Vec<String>,
}

/// What is to be predicted, a row each.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub enum Labels {
    /// One class per row.
    Classes {
        /// Class names.
        names: Vec<String>,
        /// Position of each row's class in `names`.
        index: Vec<usize>,
    },
    /// Any number of labels per row.
    MultiLabel {
        /// Label names.
        names: Vec<String>,
        /// For each row, whether each label holds.
        rows: Vec<Vec<bool>>,
    },
    /// A label per word.
    Tokens {
        /// Label names.
        names: Vec<String>,
        /// For each row, the position of each word's label in `names`.
        rows: Vec<Vec<usize>>,
    },
    /// A number per row.
    Numbers(Vec<f64>),
    /// The two texts of each of this many rows belong together.
    Pairs(usize),
    /// Each of this many rows is its own target.
    Text(usize),
    /// The position of the right choice per row.
    Choice(Vec<usize>),
}

/// Inputs with their labels.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Examples {
    /// What the model sees.
    pub inputs: Inputs,
    /// What it should say.
    pub labels: Labels,
}

impl Inputs {
    /// Reads the inputs of a table; a target column is not looked at.
    ///
    /// # Errors
    /// No column of a usual name, an unknown column, an empty cell, a feature that is no finite number, or a dialogue or a
    /// list of choices of another form.
    pub fn read(table: &Table, columns: &Columns) -> Result<Self> {
        if !columns.features.is_empty() {
            return features(table, &columns.features, columns.divide_by);
        }
        let (words, image) = (found(table, &columns.words, &WORDS_NAMES), found(table, &columns.image, &IMAGE_NAMES));
        if columns.choices.is_some() {
            return choices(table, columns);
        }
        if columns.messages.is_some() || columns.prompt.is_some() {
            return dialogues(table, columns, false);
        }
        let named = columns.words.is_some() || columns.image.is_some();
        let text = if named { columns.text.clone() } else { found(table, &columns.text, &TEXT_NAMES) };
        match (text, words, image) {
            (Some(text), _, _) => {
                let texts = table.texts(&text)?;
                match &columns.pair {
                    None => Ok(Self::Texts(texts)),
                    Some(pair) => Ok(Self::Pairs(texts.into_iter().zip(table.texts(pair)?).collect())),
                }
            }
            (None, Some(words), _) => {
                let rows = table.lists(&words, None)?;
                match rows.iter().position(Vec::is_empty) {
                    Some(row) => Err(table.row_error(row, &words, "has no words; fill it or drop the row")),
                    None => Ok(Self::Words(rows)),
                }
            }
            (None, None, Some(image)) => {
                let folder = if table.file.is_dir() { None } else { table.file.parent() };
                let path = |path: String| folder.map_or_else(|| PathBuf::from(&path), |folder| folder.join(&path));
                Ok(Self::Images(table.texts(&image)?.into_iter().map(path).collect()))
            }
            (None, None, None) if found(table, &None, &CHOICES_NAMES).is_some() => choices(table, columns),
            (None, None, None) if found(table, &None, &[&MESSAGES_NAMES[..], &PROMPT_NAMES].concat()).is_some() => {
                dialogues(table, columns, false)
            }
            (None, None, None) => {
                Err(no_column(table, "input", "text", &[&TEXT_NAMES[..], &WORDS_NAMES[..], &IMAGE_NAMES[..]].concat()))
            }
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(rows) => rows.len(),
            Self::Pairs(rows) => rows.len(),
            Self::Words(rows) => rows.len(),
            Self::Images(rows) => rows.len(),
            Self::Features { width, values } => values.len() / width,
            Self::Dialogues(rows) => rows.len(),
            Self::Choices(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows at `index`, in that order.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn select(&self, index: &[usize]) -> Self {
        match self {
            Self::Texts(rows) => Self::Texts(pick(rows, index)),
            Self::Pairs(rows) => Self::Pairs(pick(rows, index)),
            Self::Words(rows) => Self::Words(pick(rows, index)),
            Self::Images(rows) => Self::Images(pick(rows, index)),
            Self::Features { width, values } => {
                let row = |&row: &usize| values[row * width..(row + 1) * width].iter().copied();
                Self::Features { width: *width, values: index.iter().flat_map(row).collect() }
            }
            Self::Dialogues(rows) => Self::Dialogues(pick(rows, index)),
            Self::Choices(rows) => Self::Choices(pick(rows, index)),
        }
    }
}

impl Labels {
    /// Reads the labels in a column, whatever the inputs are.
    ///
    /// # Errors
    /// An unknown column; a cell that is absent, not a number where numbers are needed, or not among the given names, with
    /// its row; labels that belong to words or choices.
    pub fn read(table: &Table, column: &str, target: &Target) -> Result<Self> {
        read_labels(table, column, target, &Inputs::Features { width: 1, values: vec![0.0; table.len()] })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes { index, .. } => index.len(),
            Self::MultiLabel { rows, .. } => rows.len(),
            Self::Tokens { rows, .. } => rows.len(),
            Self::Numbers(rows) => rows.len(),
            Self::Pairs(rows) | Self::Text(rows) => *rows,
            Self::Choice(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of classes or labels; none where labels have no names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Classes { names, .. } | Self::MultiLabel { names, .. } | Self::Tokens { names, .. } => names,
            Self::Numbers(_) | Self::Pairs(_) | Self::Text(_) | Self::Choice(_) => &[],
        }
    }

    /// The rows at `index`, in that order; names stay.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn select(&self, index: &[usize]) -> Self {
        match self {
            Self::Classes { names, index: all } => Self::Classes { names: names.clone(), index: pick(all, index) },
            Self::MultiLabel { names, rows } => Self::MultiLabel { names: names.clone(), rows: pick(rows, index) },
            Self::Tokens { names, rows } => Self::Tokens { names: names.clone(), rows: pick(rows, index) },
            Self::Numbers(rows) => Self::Numbers(pick(rows, index)),
            Self::Pairs(_) => Self::Pairs(index.len()),
            Self::Text(_) => Self::Text(index.len()),
            Self::Choice(rows) => Self::Choice(pick(rows, index)),
        }
    }

    /// What splits should spread evenly: the class, the first label that holds, or the fifth of the range of ranks a
    /// number falls in; the same for all rows of other labels.
    pub fn strata(&self) -> Vec<usize> {
        const PARTS: usize = 5;
        match self {
            Self::Classes { index, .. } => index.clone(),
            Self::MultiLabel { rows, names } => {
                rows.iter().map(|row| row.iter().position(|&holds| holds).unwrap_or(names.len())).collect()
            }
            Self::Numbers(numbers) => {
                let mut order: Vec<usize> = (0..numbers.len()).collect();
                order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
                let mut strata = vec![0; numbers.len()];
                order.iter().enumerate().for_each(|(rank, &row)| strata[row] = rank * PARTS / numbers.len());
                strata
            }
            Self::Tokens { .. } | Self::Pairs(_) | Self::Text(_) | Self::Choice(_) => vec![0; self.len()],
        }
    }
}

impl Examples {
    /// Reads inputs and labels of a table.
    ///
    /// # Errors
    /// Those of [`Inputs::read`]; no target column of a usual name; a target that is absent, not a number where
    /// numbers are needed, NaN, or not among the given names, with its row; a class target with a single class; a
    /// dialogue in which the assistant has no turn.
    pub fn read(table: &Table, columns: &Columns, target: &Target) -> Result<Self> {
        match target {
            Target::Text => {
                let text = found(table, &columns.text, &TEXT_NAMES);
                let text = text.ok_or_else(|| no_column(table, "text", "text", &TEXT_NAMES))?;
                let inputs = Inputs::Texts(table.texts(&text)?);
                return Ok(Self { labels: Labels::Text(inputs.len()), inputs });
            }
            Target::Dialogue => {
                let inputs = dialogues(table, columns, true)?;
                return Ok(Self { labels: Labels::Text(inputs.len()), inputs });
            }
            Target::Choice => {
                let inputs = choices(table, columns)?;
                let names = [&TARGET_NAMES[..], &ANSWER_NAMES].concat();
                let column = found(table, &columns.target, &names);
                let column = column.ok_or_else(|| no_column(table, "target", "target", &names))?;
                let labels = read_labels(table, &column, target, &inputs)?;
                return Ok(Self { inputs, labels });
            }
            _ => {}
        }
        if *target == Target::Pairs {
            let pair = found(table, &columns.pair, &PAIR_NAMES);
            let pair = pair.ok_or_else(|| no_column(table, "second text", "pair", &PAIR_NAMES))?;
            let inputs = Inputs::read(table, &Columns { pair: Some(pair), ..columns.clone() })?;
            return Ok(Self { labels: Labels::Pairs(inputs.len()), inputs });
        }
        let column = found(table, &columns.target, &TARGET_NAMES);
        let column = column.ok_or_else(|| no_column(table, "target", "target", &TARGET_NAMES))?;
        table.column(&column)?;
        let mut columns = columns.clone();
        if matches!(target, Target::Tokens { .. }) {
            let words = found(table, &columns.words, &WORDS_NAMES);
            columns.words = words.or_else(|| found(table, &columns.text, &TEXT_NAMES));
            columns.text = None;
        }
        let inputs = Inputs::read(table, &columns)?;
        let labels = read_labels(table, &column, target, &inputs)?;
        Ok(Self { inputs, labels })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The rows at `index`, in that order.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn select(&self, index: &[usize]) -> Self {
        Self { inputs: self.inputs.select(index), labels: self.labels.select(index) }
    }
}

fn pick<T: Clone>(rows: &[T], index: &[usize]) -> Vec<T> {
    index.iter().map(|&row| rows[row].clone()).collect()
}

/// The column given, or the first of the usual names that the table has.
pub(crate) fn found(table: &Table, given: &Option<String>, names: &[&str]) -> Option<String> {
    let usual = || names.iter().find(|name| table.columns.iter().any(|column| column == *name));
    given.clone().or_else(|| usual().map(|name| (*name).to_owned()))
}

fn no_column(table: &Table, what: &str, key: &str, tried: &[&str]) -> Error {
    let list = |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let columns: Vec<&str> = table.columns.iter().map(String::as_str).take(20).collect();
    let what =
        format!("has no {what} column; name it with `{key}` (tried {}; there are {})", list(tried), list(&columns));
    Error::format(&table.file, what)
}

fn features(table: &Table, names: &[String], divide_by: Option<f32>) -> Result<Inputs> {
    let by = divide_by.unwrap_or(1.0);
    if !(by.is_finite() && by > 0.0) {
        let (value, why) = (by.to_string(), "must be positive".to_owned());
        return Err(Error::Param { method: "features", param: "divide_by", value, why });
    }
    let columns = names.iter().map(|name| table.numbers(name)).collect::<Result<Vec<_>>>()?;
    let row = |row| columns.iter().map(move |column: &Vec<f64>| column[row] as f32 / by);
    Ok(Inputs::Features { width: names.len(), values: (0..table.len()).flat_map(row).collect() })
}

fn read_labels(table: &Table, column: &str, target: &Target, inputs: &Inputs) -> Result<Labels> {
    match target {
        Target::Auto => read_labels(table, column, &guess(table, column, inputs)?, inputs),
        Target::Classes { names } => classes(table, column, names.as_deref()),
        Target::Cuts { cuts, names } => cut_classes(table, column, cuts, names.as_deref()),
        Target::MultiLabel { names } => {
            let lists = table.lists(column, Some('|'))?;
            let names = list_names(&lists, names.as_deref());
            if names.is_empty() {
                return Err(table.row_error(0, column, "has no label, nor has any other row; check the column"));
            }
            let mut rows = vec![vec![false; names.len()]; lists.len()];
            for (row, label) in lists.iter().enumerate().flat_map(|(row, list)| list.iter().map(move |l| (row, l))) {
                rows[row][position(table, row, column, label, &names)?] = true;
            }
            Ok(Labels::MultiLabel { names, rows })
        }
        Target::Tokens { names } => {
            let Inputs::Words(words) = inputs else {
                return Err(Error::Unsupported {
                    who: format!("column `{column}`"),
                    what: "label words where the inputs are not words".into(),
                    instead: "name the column of words with `words`".into(),
                });
            };
            let lists = table.lists(column, None)?;
            let names = list_names(&lists, names.as_deref());
            let mut rows = Vec::with_capacity(lists.len());
            for (row, list) in lists.iter().enumerate() {
                let (got, need) = (list.len(), words[row].len());
                if got != need {
                    let what = format!("has {got} labels for {need} words; give one per word");
                    return Err(table.row_error(row, column, what));
                }
                rows.push(list.iter().map(|l| position(table, row, column, l, &names)).collect::<Result<_>>()?);
            }
            Ok(Labels::Tokens { names, rows })
        }
        Target::Numbers => Ok(Labels::Numbers(table.numbers(column)?)),
        Target::Pairs => Ok(Labels::Pairs(inputs.len())),
        Target::Text | Target::Dialogue => Ok(Labels::Text(inputs.len())),
        Target::Choice => {
            let Inputs::Choices(rows) = inputs else {
                return Err(Error::Unsupported {
                    who: format!("column `{column}`"),
                    what: "name a choice where the inputs have none".into(),
                    instead: "name the column of choices with `choices`".into(),
                });
            };
            let answers = table.texts(column)?;
            let places = |way: Way| -> Vec<usize> {
                let place = |(answer, row): (&String, &Choices)| way(answer.trim(), &row.choices);
                answers.iter().zip(rows).map_while(place).collect()
            };
            // A number may be a place or a choice's own text: all rows of a table mean the same.
            let best = [place_of_number, place_of_letter, place_of_text].map(places);
            let best = best.into_iter().rev().max_by_key(Vec::len).expect("there are three");
            match best.len() {
                row if row < answers.len() => {
                    let (answer, last) = (&answers[row], rows[row].choices.len() - 1);
                    let what =
                        format!("is none of the choices, got `{answer}`; give 0 to {last}, a letter, or the text");
                    Err(table.row_error(row, column, format!("{what}, the same way in all rows")))
                }
                _ => Ok(Labels::Choice(best)),
            }
        }
    }
}

/// How an answer says which of the choices it is.
type Way = fn(&str, &[String]) -> Option<usize>;

fn place_of_number(answer: &str, choices: &[String]) -> Option<usize> {
    answer.parse().ok().filter(|&place| place < choices.len())
}

fn place_of_letter(answer: &str, choices: &[String]) -> Option<usize> {
    let letter = answer.parse::<char>().ok()?.to_ascii_uppercase();
    ('A'..='Z').position(|other| other == letter).filter(|&place| place < choices.len())
}

fn place_of_text(answer: &str, choices: &[String]) -> Option<usize> {
    choices.iter().position(|choice| choice.trim() == answer)
}

/// What is asked in each row: an instruction goes on with the row's `input`, after a blank line.
fn prompts(table: &Table, columns: &Columns) -> Result<Vec<String>> {
    let column = found(table, &columns.prompt, &PROMPT_NAMES);
    let column = column.ok_or_else(|| no_column(table, "prompt", "prompt", &PROMPT_NAMES))?;
    let mut prompts = table.texts(&column)?;
    if column == "instruction"
        && let Ok(input) = table.column(INPUT_NAME)
    {
        for (prompt, row) in prompts.iter_mut().zip(&table.rows) {
            if let Some(input) = row[input].text().filter(|input| !input.trim().is_empty()) {
                *prompt = format!("{prompt}\n\n{input}");
            }
        }
    }
    Ok(prompts)
}

fn choices(table: &Table, columns: &Columns) -> Result<Inputs> {
    let column = found(table, &columns.choices, &CHOICES_NAMES);
    let column = column.ok_or_else(|| no_column(table, "choices", "choices", &CHOICES_NAMES))?;
    let lists = table.lists(&column, Some('|'))?;
    let mut rows = Vec::with_capacity(lists.len());
    for (row, (prompt, choices)) in prompts(table, columns)?.into_iter().zip(lists).enumerate() {
        if choices.len() < 2 {
            let what = format!("has {} choices, two are needed; give a list, or text cut at `|`", choices.len());
            return Err(table.row_error(row, &column, what));
        }
        rows.push(Choices { prompt, choices });
    }
    Ok(Inputs::Choices(rows))
}

/// Dialogues out of a column of turns, or of prompts and, with `answered`, completions.
fn dialogues(table: &Table, columns: &Columns, answered: bool) -> Result<Inputs> {
    if let Some(column) = found(table, &columns.messages, &MESSAGES_NAMES) {
        let cell = table.column(&column)?;
        let rows = table.rows.iter().enumerate().map(|(row, cells)| {
            let turns = messages(&cells[cell]).map_err(|what| table.row_error(row, &column, what))?;
            if answered && !turns.iter().any(|turn| turn.role == ASSISTANT) {
                let what = "has no turn of the assistant to learn from; add one or drop the row";
                return Err(table.row_error(row, &column, what));
            }
            Ok(turns)
        });
        return Ok(Inputs::Dialogues(rows.collect::<Result<_>>()?));
    }
    let mut rows: Vec<_> =
        prompts(table, columns)?.into_iter().map(|prompt| vec![Message::new("user", prompt)]).collect();
    if answered {
        let column = found(table, &columns.completion, &COMPLETION_NAMES);
        let column = column.ok_or_else(|| no_column(table, "completion", "completion", &COMPLETION_NAMES))?;
        for (row, completion) in rows.iter_mut().zip(table.texts(&column)?) {
            row.push(Message::new(ASSISTANT, completion));
        }
    }
    Ok(Inputs::Dialogues(rows))
}

/// The turns in a cell, or what is wrong with it.
fn messages(cell: &Value) -> Result<Vec<Message>, String> {
    let Value::Objects(turns) = cell else {
        return Err("is no list of turns; give objects with `role` and `content` in a .jsonl file".into());
    };
    let turn = |(place, turn): (usize, &serde_json::Map<String, serde_json::Value>)| {
        let text = |names: [&str; 2]| names.iter().find_map(|name| turn.get(*name)?.as_str());
        let (Some(role), Some(content)) = (text(["role", "from"]), text(["content", "value"])) else {
            let place = place + 1;
            return Err(format!(
                "turn {place} has no `role` and `content` of text, nor `from` and `value`; correct it"
            ));
        };
        let role = match role {
            "human" => "user",
            "gpt" | "bot" | "model" => ASSISTANT,
            "system" | "user" | ASSISTANT => role,
            role => {
                let place = place + 1;
                return Err(format!(
                    "turn {place} is of the unknown role `{role}`; use `system`, `user` or `assistant`, or drop the row"
                ));
            }
        };
        if role != "system" && content.trim().is_empty() {
            return Err(format!("turn {} of the {role} is empty; fill it or drop the row", place + 1));
        }
        Ok(Message::new(role, content))
    };
    turns.iter().enumerate().map(turn).collect()
}

fn guess(table: &Table, column: &str, inputs: &Inputs) -> Result<Target> {
    let cell = table.column(column)?;
    if matches!(inputs, Inputs::Words(_)) {
        return Ok(Target::Tokens { names: None });
    }
    if table.rows.iter().any(|row| matches!(row[cell], Value::List(_))) {
        return Ok(Target::MultiLabel { names: None });
    }
    let text = |row: &Vec<Value>| row[cell].text().map(|text| text.trim().parse::<f64>());
    let numbers: Option<Vec<f64>> = table.rows.iter().filter_map(text).map(Result::ok).collect();
    let classes = numbers.is_none_or(|numbers| {
        let distinct: BTreeSet<u64> = numbers.iter().map(|n| n.to_bits()).collect();
        distinct.len() <= MAX_NUMBER_CLASSES && numbers.iter().all(|n| n.fract() == 0.0)
    });
    Ok(if classes { Target::Classes { names: None } } else { Target::Numbers })
}

/// Whole numbers by value, then everything else by text.
fn sort_names(names: &mut [String]) {
    match names.iter().map(|name| name.parse::<i64>().ok()).collect::<Option<Vec<_>>>() {
        Some(_) => names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default()),
        None => names.sort(),
    }
}

fn list_names(lists: &[Vec<String>], given: Option<&[String]>) -> Vec<String> {
    given.map_or_else(
        || {
            let distinct: BTreeSet<&String> = lists.iter().flatten().collect();
            let mut names: Vec<String> = distinct.into_iter().cloned().collect();
            sort_names(&mut names);
            names
        },
        <[String]>::to_vec,
    )
}

fn position(table: &Table, row: usize, column: &str, label: &str, names: &[String]) -> Result<usize> {
    names.iter().position(|name| name == label).ok_or_else(|| {
        let near = acclimate_core::nearest(label, names.iter().map(String::as_str)).join("`, `");
        table.row_error(row, column, format!("holds `{label}`, which is none of the labels; the nearest are `{near}`"))
    })
}

fn classes(table: &Table, column: &str, given: Option<&[String]>) -> Result<Labels> {
    let cell = table.column(column)?;
    let mut texts = Vec::with_capacity(table.len());
    for (row, cells) in table.rows.iter().enumerate() {
        let text = cells[cell].text().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| table.row_error(row, column, "has no class; fill it or drop the row"))?;
        if text == "NaN" {
            return Err(table.row_error(row, column, "is not a class, got `NaN`; correct it or drop the row"));
        }
        texts.push(text);
    }
    let names = match given {
        Some(names) => names.to_vec(),
        None => {
            let distinct: BTreeSet<&String> = texts.iter().collect();
            let fractions = distinct.iter().filter(|t| t.parse::<f64>().is_ok_and(|n| n.fract() != 0.0)).count();
            if fractions > MAX_NUMBER_CLASSES {
                let what = format!("has {} different numbers; give `cuts`, or ask for numbers", distinct.len());
                return Err(table.row_error(0, column, what));
            }
            let mut names: Vec<String> = distinct.into_iter().cloned().collect();
            sort_names(&mut names);
            names
        }
    };
    if names.len() < 2 {
        let what = format!("has `{}` in every row; two classes are needed", names.join(""));
        return Err(table.row_error(0, column, what));
    }
    let find = |(row, text): (usize, &String)| position(table, row, column, text, &names);
    let index = texts.iter().enumerate().map(find).collect::<Result<_>>()?;
    Ok(Labels::Classes { names, index })
}

fn cut_classes(table: &Table, column: &str, cuts: &[f64], given: Option<&[String]>) -> Result<Labels> {
    let param = |param, value: String, why: String| Error::Param { method: "classes", param, value, why };
    if cuts.is_empty() || !cuts.is_sorted_by(|a, b| a < b) || cuts.iter().any(|cut| !cut.is_finite()) {
        return Err(param("cuts", format!("{cuts:?}"), "must be finite, ascending and at least one".into()));
    }
    let names = given.map_or_else(|| (0..=cuts.len()).map(|class| class.to_string()).collect(), <[String]>::to_vec);
    if names.len() != cuts.len() + 1 {
        return Err(param("names", format!("{names:?}"), format!("must be {}, one more than cuts", cuts.len() + 1)));
    }
    let class = |number: f64| cuts.iter().filter(|&&cut| number >= cut).count();
    Ok(Labels::Classes { names, index: table.numbers(column)?.into_iter().map(class).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[&str], rows: &[&[&str]]) -> Table {
        let cell = |cell: &&str| if cell.is_empty() { Value::Null } else { Value::Text((*cell).into()) };
        Table {
            file: "data.csv".into(),
            columns: columns.iter().map(|c| (*c).into()).collect(),
            rows: rows.iter().map(|row| row.iter().map(cell).collect()).collect(),
        }
    }

    fn read(table: &Table, target: Target) -> Result<Examples> {
        Examples::read(table, &Columns::default(), &target)
    }

    #[test]
    fn usual_names_are_found_and_others_listed() {
        let data = table(&["id", "review", "rating"], &[&["1", "good", "2"], &["2", "bad", "10"]]);
        let got = read(&data, Target::Auto).unwrap();
        assert_eq!(got.inputs, Inputs::Texts(vec!["good".into(), "bad".into()]));
        assert_eq!(got.labels, Labels::Classes { names: vec!["2".into(), "10".into()], index: vec![0, 1] });
        let data = table(&["a", "b"], &[&["1", "2"]]);
        let error = read(&data, Target::Auto).unwrap_err().to_string();
        assert!(error.starts_with("data.csv: has no target column; name it with `target` (tried `label`"), "{error}");
        let columns = Columns { target: Some("raiting".into()), ..Columns::default() };
        let error = Examples::read(&data, &columns, &Target::Auto).unwrap_err().to_string();
        assert_eq!(error, "unknown column `raiting`; the nearest are `a`, `b`");
    }

    #[test]
    fn numbers_are_cut_into_classes() {
        let data = table(&["text", "score"], &[&["a", "-2.5"], &["b", "0"], &["c", "0.5"], &["d", "3.25"]]);
        let cut = Target::Cuts { cuts: vec![-0.5, 0.5], names: None };
        let labels = read(&data, cut).unwrap().labels;
        let names = ["0", "1", "2"].map(str::to_owned).to_vec();
        assert_eq!(labels, Labels::Classes { names, index: vec![0, 1, 2, 2] });
        assert_eq!(read(&data, Target::Auto).unwrap().labels, Labels::Numbers(vec![-2.5, 0.0, 0.5, 3.25]));
        assert!(read(&data, Target::Cuts { cuts: vec![1.0, 1.0], names: None }).is_err());
        assert!(read(&data, Target::Cuts { cuts: vec![1.0], names: Some(vec!["a".into()]) }).is_err());
    }

    #[test]
    fn bad_targets_name_their_row() {
        let data = |cell| table(&["text", "score"], &[&["a", "1"], &["b", cell]]);
        let error = |cell, target| read(&data(cell), target).unwrap_err().to_string();
        let place = "data.csv: row 2, column `score`: ";
        assert_eq!(error("", Target::Numbers), format!("{place}is empty; fill it or drop the row"));
        assert_eq!(
            error("NaN", Target::Numbers),
            format!("{place}is not finite, got `NaN`; correct it or drop the row")
        );
        assert!(error("good", Target::Numbers).starts_with(&format!("{place}is not a number, got `good`")));
        assert_eq!(error("", Target::Auto), format!("{place}has no class; fill it or drop the row"));
        let names = Target::Classes { names: Some(vec!["0".into(), "1".into()]) };
        assert!(error("7", names).starts_with(&format!("{place}holds `7`, which is none of the labels")));
        assert!(error("1", Target::Auto).contains("two classes are needed"));
    }

    #[test]
    fn labels_of_many_kinds() {
        let data = table(&["text", "labels"], &[&["a b", "x|y"], &["c", ""], &["d", "y"]]);
        let labels = read(&data, Target::MultiLabel { names: None }).unwrap().labels;
        let rows = vec![vec![true, true], vec![false, false], vec![false, true]];
        assert_eq!(labels, Labels::MultiLabel { names: vec!["x".into(), "y".into()], rows });
        assert_eq!(labels.strata(), [0, 2, 1]);
        let error = read(&table(&["text", "labels"], &[&["a", ""]]), Target::MultiLabel { names: None }).unwrap_err();
        assert!(error.to_string().contains("has no label, nor has any other row"), "{error}");

        let data = table(&["tokens", "tags"], &[&["Ann runs", "B-PER O"], &["he", "O"]]);
        let got = read(&data, Target::Auto).unwrap();
        assert_eq!(
            got.labels,
            Labels::Tokens { names: vec!["B-PER".into(), "O".into()], rows: vec![vec![0, 1], vec![1]] }
        );
        let data = table(&["tokens", "tags"], &[&["Ann runs", "O"]]);
        let error = read(&data, Target::Auto).unwrap_err().to_string();
        assert!(error.contains("has 1 labels for 2 words"), "{error}");

        let data = table(&["query", "passage"], &[&["q1", "p1"], &["q2", "p2"]]);
        let got = read(&data, Target::Pairs).unwrap();
        assert_eq!(got.select(&[1]).inputs, Inputs::Pairs(vec![("q2".into(), "p2".into())]));
        assert_eq!(got.labels.len(), 2);
    }

    #[test]
    fn texts_and_dialogues_are_their_own_targets() {
        let data = table(&["text", "label"], &[&["a", ""], &["b", ""]]);
        let got = read(&data, Target::Text).unwrap();
        assert_eq!((got.inputs.len(), got.select(&[1]).labels), (2, Labels::Text(1)));

        let user = |content: &str| Message::new("user", content);
        let data = table(&["instruction", "input", "output"], &[&["Add.", "1 2", "3"], &["Hi", "", "Ho"]]);
        let got = read(&data, Target::Dialogue).unwrap();
        let rows = vec![
            vec![user("Add.\n\n1 2"), Message::new("assistant", "3")],
            vec![user("Hi"), Message::new("assistant", "Ho")],
        ];
        assert_eq!(got, Examples { inputs: Inputs::Dialogues(rows), labels: Labels::Text(2) });
        let inputs = Inputs::read(&data, &Columns::default()).unwrap();
        assert_eq!(inputs.select(&[1]), Inputs::Dialogues(vec![vec![user("Hi")]]));
        let error = read(&table(&["prompt"], &[&["a"]]), Target::Dialogue).unwrap_err().to_string();
        assert!(error.contains("has no completion column; name it with `completion` (tried `completion`"), "{error}");
    }

    #[test]
    fn dialogues_are_lists_of_turns() {
        let read = |lines: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("turns.jsonl");
            std::fs::write(&file, lines).unwrap();
            let table = Table::read(&file, &Default::default())?;
            Examples::read(&table, &Columns::default(), &Target::Dialogue)
        };
        let got = read(
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
            {"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#,
        );
        let turns = vec![Message::new("user", "a"), Message::new("assistant", "b")];
        assert_eq!(got.unwrap().inputs, Inputs::Dialogues(vec![turns.clone(), turns]));
        let error = |lines| read(lines).unwrap_err().to_string();
        let got = error(r#"{"messages": [{"role": "user", "content": "a"}]}"#);
        assert!(got.ends_with("turns.jsonl: row 1, column `messages`: has no turn of the assistant to learn from; add one or drop the row"), "{got}");
        let got = error(r#"{"messages": [{"role": "user", "text": "a"}]}"#);
        assert!(got.contains("row 1, column `messages`: turn 1 has no `role` and `content` of text"), "{got}");
        let got = error(r#"{"messages": [{"role": "critic", "content": "a"}]}"#);
        assert!(got.contains("row 1, column `messages`: turn 1 is of the unknown role `critic`; use"), "{got}");
        let got = error(r#"{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": " "}]}"#);
        assert!(got.contains("row 1, column `messages`: turn 2 of the user is empty; fill it"), "{got}");
        let got = error(r#"{"messages": "a"}"#);
        assert!(got.contains("row 1, column `messages`: is no list of turns; give objects"), "{got}");
        assert!(
            error(r#"{"messages": [{"role": "user", "content": "a"}, 1]}"#).contains("with something else among them")
        );
    }

    #[test]
    fn choices_are_named_in_three_ways() {
        let rows = |answers: [&str; 2]| {
            let rows: [&[&str]; 2] = [&["q", "1|0|4", answers[0]], &["q", "x|y|z", answers[1]]];
            table(&["question", "choices", "answer"], &rows)
        };
        let labels = |answers| read(&rows(answers), Target::Choice).unwrap().labels;
        assert_eq!(labels(["1", "2"]), Labels::Choice(vec![1, 2]));
        assert_eq!(labels(["c", "A"]), Labels::Choice(vec![2, 0]));
        assert_eq!(labels(["1", "y"]), Labels::Choice(vec![0, 1]));
        let data = rows(["0", "0"]);
        let got = read(&data, Target::Choice).unwrap();
        let first = Choices { prompt: "q".into(), choices: ["1", "0", "4"].map(str::to_owned).to_vec() };
        assert_eq!(got.inputs.select(&[0]), Inputs::Choices(vec![first]));
        assert_eq!(Inputs::read(&data, &Columns::default()).unwrap(), got.inputs);
        let error = |row: &[&str]| {
            read(&table(&["question", "choices", "answer"], &[row]), Target::Choice).unwrap_err().to_string()
        };
        let got = error(&["q", "x|y", "c"]);
        assert_eq!(
            got,
            "data.csv: row 1, column `answer`: is none of the choices, got `c`; give 0 to 1, a letter, or the text, the same way in all rows"
        );
        assert!(error(&["q", "x", "x"]).contains("row 1, column `choices`: has 1 choices, two are needed"));
    }

    #[test]
    fn inputs_do_not_look_at_labels() {
        let data = table(&["text", "label"], &[&["a", ""], &["b", "NaN"]]);
        assert_eq!(Inputs::read(&data, &Columns::default()).unwrap().len(), 2);
        let data = table(&["x", "z"], &[&["1", "2"], &["3", "4"]]);
        let columns = Columns { features: vec!["z".into(), "x".into()], ..Columns::default() };
        let features = Inputs::read(&data, &columns).unwrap();
        assert_eq!(features.select(&[1, 0]), Inputs::Features { width: 2, values: vec![4.0, 3.0, 2.0, 1.0] });
    }
}
