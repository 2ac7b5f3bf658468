//! Rows of a table as a model takes them, encoded once.

use crate::recipe::TaskKind;
use acclimate_core::{AnyTensor, Error, Inputs, Model, Result, Tokens};
use acclimate_data::{self as data, ChatTemplate, Document, Tokenizer};
use burn::tensor::{DType, Device};
use std::path::Path;

/// Encoded rows.
#[derive(Clone, Debug)]
pub struct Encoded {
    rows: Rows,
    /// How many rows were longer than the limit and were cut.
    pub truncated: usize,
}

#[derive(Clone, Debug)]
enum Rows {
    Tokens(Vec<TokenRow>),
    /// Of each row a document, or one for each of its choices.
    Documents(Vec<Vec<Document>>),
    Images {
        shape: [usize; 3],
        values: Vec<f32>,
    },
    Features {
        width: usize,
        values: Vec<f32>,
    },
}

#[derive(Clone, Debug)]
struct TokenRow {
    ids: Vec<u32>,
    types: Vec<u32>,
    /// Position of the first token of each word that fits.
    starts: Vec<usize>,
}

impl Encoded {
    /// Encodes inputs for a model and a task. Texts and words need a tokenizer; images take the model's shape `[channels, height, width]`;
    /// dialogues and choices go through the chat template where there is one.
    ///
    /// # Errors
    /// A text without a tokenizer, a broken image, words of which none fits, or messages that the template refuses.
    pub fn new(
        inputs: &data::Inputs,
        (tokenizer, template): (Option<&Tokenizer>, Option<&ChatTemplate>),
        image: Option<[usize; 3]>,
        kind: TaskKind,
    ) -> Result<Self> {
        let tokenizer =
            || tokenizer.ok_or_else(|| Error::Other("texts need a model folder with a tokenizer.json".to_owned()));
        let encoded = match inputs {
            data::Inputs::Texts(texts) if kind.is_text() => {
                let tokenizer = tokenizer()?;
                let rows = texts.iter().map(|text| Ok(vec![tokenizer.text_document(text)?])).collect::<Result<_>>()?;
                return Ok(Self { rows: Rows::Documents(rows), truncated: 0 });
            }
            data::Inputs::Dialogues(dialogues) => {
                let (tokenizer, mut truncated) = (tokenizer()?, 0);
                let mut rows = Vec::with_capacity(dialogues.len());
                for messages in dialogues {
                    let (document, cut) = tokenizer.dialogue(template, messages)?;
                    truncated += usize::from(cut);
                    rows.push(vec![document]);
                }
                return Ok(Self { rows: Rows::Documents(rows), truncated });
            }
            data::Inputs::Choices(questions) => {
                let tokenizer = tokenizer()?;
                let row = |question: &data::Choices| {
                    let choices = question.choices.iter();
                    choices.map(|choice| tokenizer.choice(template, &question.prompt, choice)).collect()
                };
                let rows = questions.iter().map(row).collect::<Result<_>>()?;
                return Ok(Self { rows: Rows::Documents(rows), truncated: 0 });
            }
            data::Inputs::Texts(texts) => tokenizer()?.texts(texts)?,
            data::Inputs::Pairs(pairs) => tokenizer()?.pairs(pairs)?,
            data::Inputs::Words(rows) => tokenizer()?.words(rows)?,
            data::Inputs::Images(files) => {
                let shape = image.ok_or_else(|| Error::Other("images need a model over images".to_owned()))?;
                let mut values = Vec::with_capacity(files.len() * shape.iter().product::<usize>());
                for file in files {
                    values.extend(pixels(file, shape)?);
                }
                return Ok(Self { rows: Rows::Images { shape, values }, truncated: 0 });
            }
            data::Inputs::Features { width, values } => {
                if let Some(shape) = image.filter(|shape| shape.iter().product::<usize>() == *width) {
                    return Ok(Self::images(shape, values.clone()));
                }
                return Ok(Self { rows: Rows::Features { width: *width, values: values.clone() }, truncated: 0 });
            }
        };
        let rows = encoded.rows.into_iter().map(|row| {
            let mut starts = vec![];
            for (at, word) in row.words.iter().enumerate() {
                // A word that the tokenizer makes nothing of, such as a mark of zero width, stands at the one after it: the others
                // keep their labels.
                while word.is_some_and(|word| starts.len() <= word) {
                    starts.push(at);
                }
            }
            TokenRow { ids: row.ids, types: row.type_ids, starts }
        });
        Ok(Self { rows: Rows::Tokens(rows.collect()), truncated: encoded.truncated })
    }

    /// Images that are in memory already, row after row, `[rows, channels, height, width]`.
    pub fn images(shape: [usize; 3], values: Vec<f32>) -> Self {
        Self { rows: Rows::Images { shape, values }, truncated: 0 }
    }

    /// Rows of numbers with each column at mean 0 and standard deviation 1 over some of the rows; other rows as they are.
    pub fn standardised(&self, over: &[usize]) -> Self {
        let Rows::Features { width, values } = &self.rows else { return self.clone() };
        let (width, mut values, n) = (*width, values.clone(), over.len().max(1) as f64);
        for column in 0..width {
            let told = || over.iter().map(|&row| f64::from(values[row * width + column]));
            let mean = told().sum::<f64>() / n;
            let deviation = (told().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            // A column that is the same everywhere tells nothing: it is moved alone.
            let scale = if deviation > 0.0 { 1.0 / deviation } else { 1.0 };
            for x in values[column..].iter_mut().step_by(width) {
                *x = ((f64::from(*x) - mean) * scale) as f32;
            }
        }
        Self { rows: Rows::Features { width, values }, truncated: self.truncated }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Tokens(rows) => rows.len(),
            Rows::Documents(rows) => rows.len(),
            Rows::Images { shape, values } => values.len() / shape.iter().product::<usize>().max(1),
            Rows::Features { width, values } => values.len() / (*width).max(1),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a row costs, for batches of like length: tokens, or one.
    pub fn lengths(&self, rows: &[usize]) -> Vec<usize> {
        match &self.rows {
            Rows::Tokens(all) => rows.iter().map(|&row| all[row].ids.len()).collect(),
            Rows::Documents(all) => {
                rows.iter().map(|&row| all[row].iter().map(|document| document.ids.len()).sum()).collect()
            }
            _ => vec![1; rows.len()],
        }
    }

    /// Positions of the first tokens of a row's words, as many as fit.
    pub fn word_starts(&self, row: usize) -> &[usize] {
        match &self.rows {
            Rows::Tokens(rows) => &rows[row].starts,
            _ => &[],
        }
    }

    /// The documents of rows, one row's after another's.
    pub fn documents(&self, rows: &[usize]) -> Vec<&Document> {
        match &self.rows {
            Rows::Documents(all) => rows.iter().flat_map(|&row| &all[row]).collect(),
            _ => vec![],
        }
    }

    /// How many documents a row has: choices, or one.
    pub fn choices(&self, row: usize) -> usize {
        match &self.rows {
            Rows::Documents(all) => all[row].len(),
            _ => 0,
        }
    }

    /// The pixels of a row, where rows are images.
    pub fn pixels(&self, row: usize) -> Option<([usize; 3], &[f32])> {
        match &self.rows {
            Rows::Images { shape, values } => {
                let size = shape.iter().product::<usize>();
                Some((*shape, &values[row * size..][..size]))
            }
            _ => None,
        }
    }

    /// Where a batch's index tensors live.
    pub fn device(&self, model: &dyn Model) -> Device {
        model.like().1
    }

    /// A batch of rows on the model's device in its number type.
    ///
    /// # Panics
    /// When a row is out of range.
    pub fn batch(&self, rows: &[usize], model: &dyn Model) -> Inputs {
        let (dtype, device) = model.like();
        match &self.rows {
            Rows::Tokens(all) => {
                let rows: Vec<_> = rows.iter().map(|&row| (all[row].ids.clone(), all[row].types.clone())).collect();
                Inputs::Tokens(Tokens::new(&rows, dtype, &device))
            }
            Rows::Documents(all) => {
                let documents: Vec<_> =
                    rows.iter().flat_map(|&row| &all[row]).map(|d| (d.ids.clone(), vec![])).collect();
                Inputs::Tokens(Tokens::new(&documents, dtype, &device))
            }
            Rows::Images { shape: [c, h, w], values } => Inputs::Images(
                gather(values, c * h * w, rows, &[rows.len(), *c, *h, *w], dtype, &device).get().expect("rank 4"),
            ),
            Rows::Features { width, values } => {
                Inputs::Rows(gather(values, *width, rows, &[rows.len(), *width], dtype, &device).get().expect("rank 2"))
            }
        }
    }
}

/// The pixels of an image file in a model's shape `[channels, height, width]`.
///
/// # Errors
/// As [`data::Image::read`].
pub(crate) fn pixels(file: &Path, [channels, height, width]: [usize; 3]) -> Result<Vec<f32>> {
    let kind = if channels == 1 { data::Channels::Gray } else { data::Channels::Rgb };
    Ok(data::Image::read(file, kind, Some((height as u32, width as u32)))?.values)
}

fn gather(values: &[f32], size: usize, rows: &[usize], shape: &[usize], dtype: DType, device: &Device) -> AnyTensor {
    let picked: Vec<f32> = rows.iter().flat_map(|&row| &values[row * size..][..size]).copied().collect();
    AnyTensor::from_f32s(picked, shape, device).cast(dtype)
}
