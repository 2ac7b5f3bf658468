//! What features of each class looked like at training.

use crate::{Host, Seen};
use acclimate_core::{AnyTensor, Error, Inputs, Result};
use burn::tensor::{DType, Device};

/// Features of the host's labelled reference batches as `pass` sees them, in f64, and the class of each row.
#[derive(Clone, Debug)]
pub(crate) struct Labelled {
    /// `[rows, width]`, one row after another.
    pub(crate) features: Vec<f64>,
    /// How wide a row is.
    pub(crate) width: usize,
    /// One for each row.
    pub(crate) classes: Vec<usize>,
    /// How many classes the head tells apart.
    pub(crate) of: usize,
    /// Of what type the features were.
    pub(crate) dtype: DType,
    /// Where they were.
    pub(crate) device: Device,
}

impl Labelled {
    /// Sees the reference batches.
    ///
    /// # Errors
    /// When `who` has no labelled reference batches, a label is no class of the head, or a class has no row.
    pub(crate) fn see(
        who: &str,
        host: &mut Host<'_>,
        mut pass: impl FnMut(&mut Host<'_>, &Inputs) -> Result<Seen>,
    ) -> Result<Self> {
        let refused = |what: &str, instead: &str| {
            Err(Error::Unsupported { who: who.to_owned(), what: what.to_owned(), instead: instead.to_owned() })
        };
        let (batches, labels) = (host.reference_batches(), host.reference_labels());
        if batches.is_empty() || labels.is_empty() {
            return refused(
                "measure classes without labelled reference batches",
                "give the host some, with their classes",
            );
        }
        let (mut rows, mut width, mut of, mut kind) = (vec![], 0, 0, None);
        for batch in batches {
            let Seen { logits, features } = pass(host, batch)?;
            (width, of) = (features.dims()[1], logits.dims()[1]);
            kind = Some((features.dtype(), features.device()));
            rows.extend(AnyTensor::from(features).to_f64s());
        }
        let (dtype, device) = kind.expect("there is a batch");
        let seen = Self { features: rows, width, classes: labels.concat(), of, dtype, device };
        if let Some(class) = seen.classes.iter().find(|class| **class >= seen.of) {
            let what = format!("measure class {class}: the head tells {} classes apart", seen.of);
            return refused(&what, "give the classes of the model's own head, counted from 0");
        }
        if let Some(class) = (0..seen.of).find(|class| !seen.classes.contains(class)) {
            return refused(
                &format!("measure class {class}, of which there is no row"),
                "give reference rows of every class",
            );
        }
        Ok(seen)
    }

    /// The rows of a class.
    pub(crate) fn rows(&self, class: usize) -> impl Iterator<Item = &[f64]> {
        self.features.chunks(self.width).zip(&self.classes).filter(move |(_, of)| **of == class).map(|(row, _)| row)
    }

    /// The mean of each class, `[classes, width]`, one class after another.
    pub(crate) fn means(&self) -> Vec<f64> {
        let mut means = vec![0.0; self.of * self.width];
        for (class, mean) in means.chunks_mut(self.width).enumerate() {
            let count = self.rows(class).count() as f64;
            for row in self.rows(class) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / count);
            }
        }
        means
    }

    /// Numbers as a tensor of the features' kind.
    pub(crate) fn tensor(&self, values: Vec<f64>, shape: &[usize]) -> AnyTensor {
        AnyTensor::from_f64s(values, shape, self.dtype, &self.device)
    }
}
