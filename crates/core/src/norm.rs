//! Whose moments a batch norm uses: a choice of its own, independent of training and of autodiff.

use crate::{Activation, Error, Params, Result, Site};
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

/// A batch norm about to be applied.
#[derive(Debug)]
pub struct BatchNorm<'a> {
    /// Where it is.
    pub site: &'a Site,
    /// `[batch, channels, height, width]`.
    pub x: Tensor<4>,
    /// Factor of each channel after normalising, `[channels]`.
    pub scale: Tensor<1>,
    /// What is added to each channel then, `[channels]`.
    pub shift: Tensor<1>,
    /// Added to variances before the root is taken.
    pub eps: f64,
    pub(crate) weights: &'a Params,
    pub(crate) after: Activation,
}

impl BatchNorm<'_> {
    /// The moments stored with the model.
    ///
    /// # Errors
    /// When the weights lack them.
    pub fn source(&self) -> Result<Moments> {
        let stored = |field: &str| self.weights.get::<1>(&format!("{}.{field}", self.site.name));
        Ok(Moments { mean: stored("running_mean")?, variance: stored("running_var")? })
    }

    /// The batch's own moments, over rows and pixels.
    ///
    /// # Errors
    /// When there is but one number for each channel.
    pub fn own(&self) -> Result<Moments> {
        self.check_own()?;
        let (mean, variance) = acclimate_kernels::channel_moments(self.x.clone());
        Ok(Moments { mean, variance })
    }

    /// The moments of each row by itself, over its pixels: `[batch, channels]` each.
    pub fn rows(&self) -> [Tensor<2>; 2] {
        let [batch, channels, height, width] = self.x.dims();
        let x = self.x.clone().reshape([1, batch * channels, height, width]);
        let (mean, variance) = acclimate_kernels::channel_moments(x);
        [mean, variance].map(|moment| moment.reshape([batch, channels]))
    }

    /// Normalised by these moments.
    pub fn by(self, moments: Moments) -> Tensor<4> {
        let Moments { mean, variance } = moments;
        acclimate_kernels::normalise(self.x, [mean, variance], [self.scale, self.shift], self.eps, self.after)
    }

    /// Normalised by the batch's own moments, taken and used in one go; gradients flow through them.
    ///
    /// # Errors
    /// As [`BatchNorm::own`].
    pub fn by_own(self) -> Result<Tensor<4>> {
        self.check_own()?;
        Ok(acclimate_kernels::batch_norm(self.x, [self.scale, self.shift], self.eps, self.after))
    }

    /// Each row normalised by moments of its own, `[batch, channels]` each.
    pub fn by_rows(self, moments: [Tensor<2>; 2]) -> Tensor<4> {
        let [batch, channels, height, width] = self.x.dims();
        let all = batch * channels;
        // Each row's channels are the channels of one image.
        let x = self.x.reshape([1, all, height, width]);
        let moments = moments.map(|moment| moment.reshape([all]));
        let vectors =
            [self.scale, self.shift].map(|v| v.unsqueeze_dim::<2>(0).expand([batch, channels]).reshape([all]));
        acclimate_kernels::normalise(x, moments, vectors, self.eps, self.after)
            .reshape([batch, channels, height, width])
    }

    fn check_own(&self) -> Result<()> {
        let [batch, _, height, width] = self.x.dims();
        if batch * height * width < 2 {
            return Err(Error::Unsupported {
                who: format!("batch norm `{}`", self.site.name),
                what: "take statistics from a single number per channel".to_owned(),
                instead: "use larger batches or the stored statistics".to_owned(),
            });
        }
        Ok(())
    }
}

/// Says whose moments a batch norm uses.
pub trait Normaliser: Send + Sync {
    /// Normalises: one of `by`, `by_own` and `by_rows` of [`BatchNorm`].
    ///
    /// # Errors
    /// When the batch cannot give moments.
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>>;
}

/// The moments stored with the model.
#[derive(Clone, Copy, Debug)]
pub struct Source;

impl Normaliser for Source {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let moments = norm.source()?;
        Ok(norm.by(moments))
    }
}

/// The moments of the batch at hand.
#[derive(Clone, Copy, Debug)]
pub struct Batch;

impl Normaliser for Batch {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        norm.by_own()
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
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let moments = norm.own()?;
        let [batch, _, height, width] = norm.x.dims();
        let count = (batch * height * width) as f64;
        let mut sums = self.0.lock().expect("nothing panics while the sums are held");
        let sum = sums
            .get(&norm.site.name)
            .map_or_else(|| Sum { count, moments: moments.clone() }, |sum| sum.and(count, &moments));
        sums.insert(norm.site.name.clone(), sum);
        Ok(norm.by(moments))
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
        let weights = Params::default();
        let norm = |x: Tensor<4>| BatchNorm {
            site: &site,
            x,
            scale: Tensor::ones([3], (&device, DType::F64)),
            shift: Tensor::zeros([3], (&device, DType::F64)),
            eps: 1e-5,
            weights: &weights,
            after: Activation::Identity,
        };
        let all = norm(x.clone()).own().unwrap();
        let recording = Recording::default();
        for part in [x.clone().narrow(0, 0, 1), x.clone().narrow(0, 1, 3), x.narrow(0, 4, 2)] {
            recording.normalise(norm(part)).unwrap();
        }
        let params = recording.into_params();
        for (name, expected) in [("norm.running_mean", all.mean), ("norm.running_var", all.variance)] {
            let (got, expected) = (params.any(name).unwrap().to_f64s(), AnyTensor::from(expected).to_f64s());
            // A dozen roundings in f64 of numbers below ten.
            assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-13), "{name}: {got:?} {expected:?}");
        }
    }
}
