use crate::{Host, TestTime};
use acclimate_core::{Batch, Inputs, Method, Normaliser, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Normalises every batch by its own statistics instead of those stored at training.
///
/// # Mathematics
/// At every batch norm, with mean and variance of channel $c$ over the batch and all pixels ($n$ numbers, divided by $n$):
/// $$y = \gamma_c\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \varepsilon}} + \beta_c.$$
///
/// Nothing is trained and nothing is remembered: a prediction depends on its batch alone.
///
/// # When to use
/// A network with batch norms under a shift of the inputs' look (noise, contrast, weather), with mixed classes and batches of 50 and
/// more. It costs no gradient. With small batches or class-sorted streams the statistics say more about the batch than about the
/// shift, and it harms.
///
/// # Differences
/// None.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{BatchStatistics, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), BatchStatistics::default());
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let logits = stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert_eq!(logits.dims(), [20, 3]);
/// assert_eq!(stream.report().counts.backwards, 0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Nado et al., *Evaluating Prediction-Time Batch Normalization for Robustness under Covariate Shift*, 2020, arXiv:2006.10963.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "batch_statistics", title = "Prediction-time batch normalization", catalogue = [])]
#[method(paper = "arxiv:2006.10963", year = 2020, needs(batch_norm, batch), promises(order_invariant))]
pub struct BatchStatistics {}

/// Nothing.
#[derive(Clone, Debug, Record)]
pub struct BatchStatisticsState {}

impl TestTime for BatchStatistics {
    type State = BatchStatisticsState;

    fn prepare(&self, _: &mut Host<'_>) -> Result<BatchStatisticsState> {
        Ok(BatchStatisticsState {})
    }

    fn step(&self, batch: &Inputs, _: &mut BatchStatisticsState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        Ok(host.forward_under(batch, &Batch)?.logits)
    }

    fn under(&self, _: &mut BatchStatisticsState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        pass(&Batch)
    }
}
