//! Whose moments a batch norm uses: a choice of its own, independent of training and of autodiff.

use crate::{Error, Result, Site};
use burn::tensor::Tensor;

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
        let [batch, channels, height, width] = x.dims();
        if batch * height * width < 2 {
            return Err(Error::Unsupported {
                who: format!("batch norm `{}`", site.name),
                what: "take statistics from a single number per channel".to_owned(),
                instead: "use larger batches or the stored statistics".to_owned(),
            });
        }
        let flat = x.clone().swap_dims(0, 1).reshape([channels, batch * height * width]);
        let mean = flat.clone().mean_dim(1);
        let variance = (flat - mean.clone()).square().mean_dim(1);
        Ok(Moments { mean: mean.reshape([channels]), variance: variance.reshape([channels]) })
    }
}
