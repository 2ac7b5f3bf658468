//! Whose moments a batch norm uses: a choice of its own, independent of training and of autodiff.

use crate::{Error, Params, Result, Site};
use burn::tensor::Tensor;
use std::{collections::BTreeMap, sync::Mutex};

/// Mean and variance per channel, `[channels]` each.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Mean.
    pub mean: Tensor<1>,
    /// Variance (divided by n, not n − 1, when taken from a batch).
    pub variance: Tensor<1>,
}

/// Supplies the moments of a batch norm. A pure function of the batch and the source's moments: nothing is written back.
pub trait Normaliser: Send + Sync {
    /// The moments to normalise `x` `[batch, channels, height, width]` with.
    ///
    /// # Errors
    /// When the batch cannot give moments.
    fn moments(&self, site: &Site, x: &Tensor<4>, source: Moments) -> Result<Moments>;

    /// Whether the moments are always the batch's own, so that they may be taken and used in one go, without asking for them.
    ///
    /// # Errors
    /// When the batch cannot give moments.
    fn takes_own(&self, site: &Site, x: &Tensor<4>) -> Result<bool> {
        let _ = (site, x);
        Ok(false)
    }
}

/// The moments stored with the model.
#[derive(Clone, Copy, Debug)]
pub struct Source;

impl Normaliser for Source {
    fn moments(&self, _: &Site, _: &Tensor<4>, source: Moments) -> Result<Moments> {
        Ok(source)
    }
}

/// The moments of the batch at hand.
#[derive(Clone, Copy, Debug)]
pub struct Batch;

impl Normaliser for Batch {
    fn moments(&self, site: &Site, x: &Tensor<4>, _: Moments) -> Result<Moments> {
        self.takes_own(site, x)?;
        let (mean, variance) = acclimate_kernels::channel_moments(x.clone());
        Ok(Moments { mean, variance })
    }

    fn takes_own(&self, site: &Site, x: &Tensor<4>) -> Result<bool> {
        let [batch, _, height, width] = x.dims();
        if batch * height * width < 2 {
            return Err(Error::Unsupported {
                who: format!("batch norm `{}`", site.name),
                what: "take statistics from a single number per channel".to_owned(),
                instead: "use larger batches or the stored statistics".to_owned(),
            });
        }
        Ok(true)
    }
}

/// The moments of each batch, added up on the way: what to store after a training with batch statistics. For passes without a
/// gradient tape.
#[derive(Debug, Default)]
pub struct Recording(Mutex<BTreeMap<String, Sum>>);

/// Mean and variance over `count` numbers per channel.
#[derive(Debug)]
struct Sum {
    count: f64,
    moments: Moments,
}

impl Sum {
    /// The moments over both, by the rule for joining two samples: no difference of large squares.
    fn and(&self, count: f64, more: &Moments) -> Self {
        let (total, step) = (self.count + count, more.mean.clone() - self.moments.mean.clone());
        let share = count / total;
        let variance = self.moments.variance.clone() * (1.0 - share) + more.variance.clone() * share;
        let moments = Moments {
            mean: self.moments.mean.clone() + step.clone() * share,
            variance: variance + step.square() * (share * (1.0 - share)),
        };
        Self { count: total, moments }
    }
}

impl Normaliser for Recording {
    fn moments(&self, site: &Site, x: &Tensor<4>, source: Moments) -> Result<Moments> {
        let moments = Batch.moments(site, x, source)?;
        let [batch, _, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        let mut sums = self.0.lock().expect("nothing panics while the sums are held");
        let sum = sums
            .get(&site.name)
            .map_or_else(|| Sum { count, moments: moments.clone() }, |sum| sum.and(count, &moments));
        sums.insert(site.name.clone(), sum);
        Ok(moments)
    }
}

impl Recording {
    /// Mean and variance over all batches seen, as `site.running_mean` and `site.running_var`.
    pub fn into_params(self) -> Params {
        let mut params = Params::default();
        for (site, Sum { moments, .. }) in self.0.into_inner().expect("nothing panics while the sums are held") {
            params.insert(format!("{site}.running_mean"), moments.mean);
            params.insert(format!("{site}.running_var"), moments.variance);
        }
        params
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyTensor, Rng, SiteKind};
    use burn::tensor::{DType, Device};

    #[test]
    fn recorded_moments_are_those_of_all_batches_together() {
        let site = Site { name: "norm".to_owned(), kind: SiteKind::BatchNorm, out: 3, input: 1, bias: true };
        let device = Device::flex();
        let x =
            Rng::new(0, "images", 0).normal_tensor(&[6, 3, 2, 2], 2.0, DType::F64, &device).get::<4>().unwrap() + 5.0;
        let none = || Moments {
            mean: Tensor::zeros([3], (&device, DType::F64)),
            variance: Tensor::ones([3], (&device, DType::F64)),
        };
        let all = Batch.moments(&site, &x, none()).unwrap();
        let recording = Recording::default();
        for part in [x.clone().narrow(0, 0, 1), x.clone().narrow(0, 1, 3), x.narrow(0, 4, 2)] {
            recording.moments(&site, &part, none()).unwrap();
        }
        let params = recording.into_params();
        for (name, expected) in [("norm.running_mean", all.mean), ("norm.running_var", all.variance)] {
            let (got, expected) = (params.any(name).unwrap().to_f64s(), AnyTensor::from(expected).to_f64s());
            // A dozen roundings in f64 of numbers below ten.
            assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-13), "{name}: {got:?} {expected:?}");
        }
    }
}
