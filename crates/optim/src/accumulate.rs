//! Gradient accumulation.

use crate::batch::{BatchTest, Scatter, Spread};
use acclimate_core::{Error, Params, Result};

/// The weighted mean of losses and gradients over micro-batches, equal to those of the whole batch up to rounding.
///
/// The weight of a micro-batch is what its loss is the mean of: rows, or words where the loss is a mean over words. Equal
/// weights for unequal micro-batches would give rare words too much or too little.
#[derive(Debug, Default)]
pub struct Accumulator {
    mean: Option<Params>,
    loss: f64,
    weight: f64,
    scatter: Option<Scatter>,
}

impl Accumulator {
    /// One that also keeps what a test of the batch's size needs: a number for each micro-batch, for coordinates an f64 for each parameter,
    /// and for the tests along the gradient the gradients of up to 64 micro-batches.
    pub fn for_test(test: BatchTest) -> Self {
        Self { scatter: Some(Scatter::new(test)), ..Self::default() }
    }

    /// Adds the mean loss of a micro-batch and its gradients. One of weight zero, such as a batch without a labelled word, is
    /// left out: its mean is not a number.
    pub fn add(&mut self, gradients: Params, loss: f64, weight: f64) {
        if weight == 0.0 {
            return;
        }
        if let Some(scatter) = &mut self.scatter {
            scatter.add(&gradients, weight, self.mean.as_ref().map(|mean| (mean, self.weight)));
        }
        self.weight += weight;
        let share = weight / self.weight;
        // The first share is one: a single batch comes out bit for bit.
        self.mean = Some(match self.mean.take() {
            None => gradients,
            Some(mean) => mean.zip(&gradients, |mean, g| mean * (1.0 - share) + g * share),
        });
        self.loss += share * (loss - self.loss);
    }

    /// How far the micro-batches lie apart, where that is kept and there are two or more.
    pub fn spread(&self) -> Option<Spread> {
        self.scatter.as_ref()?.spread(self.mean.as_ref()?, self.weight)
    }

    /// The mean loss and the mean gradients.
    ///
    /// # Errors
    /// When nothing of positive weight was added.
    pub fn finish(self) -> Result<(f64, Params)> {
        let nothing = || Error::Other("a batch has no labelled item to learn from; check the labels".to_owned());
        Ok((self.loss, self.mean.ok_or_else(nothing)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::AnyTensor;
    use burn::tensor::{DType, Device};

    fn gradients(values: &[f64]) -> Params {
        let mut params = Params::default();
        params.insert("x", AnyTensor::from_f64s(values.to_vec(), &[values.len()], DType::F64, &Device::flex()));
        params
    }

    #[test]
    fn unequal_micro_batches_give_the_mean_over_items() {
        let mut sum = Accumulator::default();
        sum.add(gradients(&[1.0, 4.0]), 2.0, 3.0);
        sum.add(gradients(&[f64::NAN, f64::NAN]), f64::NAN, 0.0);
        sum.add(gradients(&[5.0, 0.0]), 6.0, 1.0);
        let (loss, mean) = sum.finish().unwrap();
        assert!((loss - 3.0).abs() < 1e-15);
        assert_eq!(mean.any("x").unwrap().to_f64s(), [2.0, 3.0]);
    }

    #[test]
    fn one_batch_comes_out_bit_for_bit() {
        let mut sum = Accumulator::default();
        sum.add(gradients(&[0.1, 0.3]), 0.7, 7.0);
        let (loss, mean) = sum.finish().unwrap();
        assert_eq!(loss.to_bits(), 0.7_f64.to_bits());
        assert_eq!(mean.any("x").unwrap().to_f64s(), [0.1, 0.3]);
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        assert!(Accumulator::default().finish().unwrap_err().to_string().contains("no labelled item"));
    }
}
