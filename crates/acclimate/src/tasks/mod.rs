//! Tasks: what is predicted, the loss that teaches it and the numbers that judge it. One file each.
mod answer;
mod choice;
mod classes;
mod embed;
mod multi_label;
mod numbers;
mod text;
mod words;

use crate::encode::Encoded;
use crate::recipe::TaskKind;
use acclimate_core::{Error, Model, Pass, Result};
use acclimate_data::{Labels, Target};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use answer::{Answer, answers};
pub use choice::Choice;
pub use classes::Classes;
pub use embed::{Retrieval, Similarity};
pub use multi_label::MultiLabel;
pub use numbers::Numbers;
pub use text::Text;
pub use words::Words;

/// Encoded inputs with their labels.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the model sees, or the first of two texts.
    pub left: Encoded,
    /// The second of two texts that are encoded apart.
    pub right: Option<Encoded>,
    /// What it should say; absent for inputs without labels.
    pub labels: Option<Labels>,
}

impl Prepared {
    /// The labels.
    ///
    /// # Errors
    /// When there are none.
    pub fn labels(&self) -> Result<&Labels> {
        self.labels
            .as_ref()
            .ok_or_else(|| Error::Other("this needs labelled rows; name the column with `target`".to_owned()))
    }
}

/// What a model says about rows: one vector per row, whose meaning the task knows.
pub type Outputs = Vec<Vec<f64>>;

/// What is predicted. A task sees a model, rows and a pass; it knows no method.
pub trait Task: Send + Sync + std::fmt::Debug {
    /// The kind, as a recipe writes it.
    fn kind(&self) -> TaskKind;

    /// How many numbers the head gives, or nothing where the model's features themselves are the answer.
    fn outputs(&self) -> Option<usize>;

    /// The name of the score.
    fn metric(&self) -> &'static str;

    /// The mean loss over rows.
    ///
    /// # Errors
    /// The model's, or missing labels.
    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>>;

    /// What the mean of [`Task::loss`] was taken over: rows, or labelled words. Accumulation weighs micro-batches by it.
    fn weight(&self, data: &Prepared, rows: &[usize]) -> f64 {
        let _ = data;
        rows.len() as f64
    }

    /// What the model says about rows.
    ///
    /// # Errors
    /// The model's.
    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs>;

    /// The score of answers, higher is better.
    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64;

    /// What the loss of answers would be were they as sure as they ought to be. Epochs are compared by it; where a task has none, by the loss.
    fn refinement(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Option<f64> {
        let _ = (outputs, labels);
        None
    }

    /// Every number worth reporting, the score first.
    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)>;

    /// An answer in words.
    fn describe(&self, output: &[f64]) -> String;

    /// Whether answers are judged beside each other, as embeddings are; those of different fits are then not comparable.
    fn is_relative(&self) -> bool {
        false
    }

    /// What each row adds where the score is a mean over rows that are judged beside all others: intervals then draw who is judged,
    /// not what they are judged beside, and the work of judging is done once.
    fn row_scores(&self, outputs: &[&Vec<f64>]) -> Option<Vec<f64>> {
        let _ = outputs;
        None
    }

    /// The class a row is put into, where there are classes.
    fn class(&self, output: &[f64]) -> Option<usize> {
        let _ = output;
        None
    }

    /// Class names, where there are classes.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// The probe's loss on features, where a linear probe makes sense.
    fn probe(&self) -> Option<ProbeLoss> {
        None
    }

    /// What is needed to build the task again.
    fn spec(&self) -> TaskSpec;
}

/// The convex loss of a linear probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeLoss {
    /// Multinomial logistic regression.
    Softmax,
    /// One logistic regression per label.
    Sigmoid,
    /// Ridge regression.
    Squared,
}

/// A task as a file keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The kind.
    pub kind: TaskKind,
    /// Class or label names.
    pub names: Vec<String>,
    /// Weights of the classes in the loss, empty for equal ones.
    pub weights: Vec<f64>,
    /// Mean and standard deviation of a numeric target in training.
    pub scale: [f64; 2],
    /// Cuts that turned a number into classes.
    pub cuts: Vec<f64>,
}

impl TaskSpec {
    /// The task.
    pub fn build(&self) -> Box<dyn Task> {
        let spec = self.clone();
        match self.kind {
            TaskKind::MultiLabel => Box::new(MultiLabel(spec)),
            TaskKind::TokenClassification => Box::new(Words(spec)),
            TaskKind::Regression => Box::new(Numbers(spec)),
            TaskKind::Similarity => Box::new(Similarity(spec)),
            TaskKind::Retrieval => Box::new(Retrieval(spec)),
            TaskKind::LanguageModelling | TaskKind::Instruction => Box::new(Text(spec)),
            TaskKind::MultipleChoice => Box::new(Choice(spec)),
            TaskKind::Auto | TaskKind::Classification => Box::new(Classes(spec)),
        }
    }

    /// How the target column of new data is to be read.
    pub fn target(&self) -> Target {
        let names = Some(self.names.clone());
        match self.kind {
            TaskKind::MultiLabel => Target::MultiLabel { names },
            TaskKind::TokenClassification => Target::Tokens { names },
            TaskKind::Regression | TaskKind::Similarity => Target::Numbers,
            TaskKind::Retrieval => Target::Pairs,
            TaskKind::LanguageModelling => Target::Text,
            TaskKind::Instruction => Target::Dialogue,
            TaskKind::MultipleChoice => Target::Choice,
            TaskKind::Auto | TaskKind::Classification if self.cuts.is_empty() => Target::Classes { names },
            TaskKind::Auto | TaskKind::Classification => Target::Cuts { cuts: self.cuts.clone(), names },
        }
    }
}

/// The logits of rows.
///
/// # Errors
/// When neither the patch nor the model has a head.
fn logits(model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<2>> {
    let out = model.forward(&data.left.batch(rows, model), pass)?;
    out.logits.ok_or_else(|| Error::Other("neither the patch nor the model has a head for this task".to_owned()))
}

/// Rows of a tensor on the host.
pub(crate) fn host(tensor: Tensor<2>) -> Outputs {
    let width = tensor.dims()[1];
    let values = acclimate_core::AnyTensor::from(tensor).to_f64s();
    values.chunks(width.max(1)).map(<[f64]>::to_vec).collect()
}

pub(crate) fn argmax(output: &[f64]) -> usize {
    (0..output.len()).max_by(|&a, &b| output[a].total_cmp(&output[b]).then(b.cmp(&a))).unwrap_or(0)
}

pub(crate) fn softmax(output: &[f64]) -> Vec<f64> {
    let most = output.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = output.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|x| x / sum).collect()
}

const MISMATCH: &str = "labels are read for the task they belong to";
