use crate::{
    Host, TestTime,
    statistics::{Kept, averages, mixed, predicted},
};
use acclimate_core::{BatchNorm, Inputs, Method, Normaliser, Params, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Normalises by running averages that begin at the stored statistics and follow the stream.
///
/// # Mathematics
/// At every batch norm, with the moments of the batch $\mu_t, v_t$ (divided by $n$) and running ones that begin at the stored moments
/// $$\mu \leftarrow (1 - m)\,\mu + m\,\mu_t, \qquad v \leftarrow (1 - m)\,v + m\,v_t, \qquad
///   y = \gamma\,\frac{x - \mu}{\sqrt{v + \varepsilon}} + \beta.$$
/// The average moves before it is used, once in each pass, from the first norm to the last, so that later norms measure what earlier ones
/// have already put right. Gradients of a method above flow through $\mu_t$ and $v_t$ of the batch alone. $m = 1$ is `batch_statistics`,
/// $m = 0$ the deployed model. Nothing is trained; each norm remembers two numbers for each channel.
///
/// # When to use
/// Long streams of small batches or of neighbours that share a class, with shifts that last longer than $1/m$ batches. This is the norm of
/// RoTTA; with `momentum` 0.1 it is what tables call an exponential moving average (EMA) of statistics. After a sudden shift it lags.
///
/// # Differences
/// RoTTA moves these averages only when it learns from its memory of the stream; alone, every batch moves them. A public port of the
/// exponential average takes two passes, of which the first, under the statistics of the batch, moves the averages; here one pass does both.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{Host, Reset, RobustBn, Stream};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), RobustBn::default());
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let batch = tiny::images(1, 4, DType::F32);
/// assert_ne!(stream.step(&batch)?.to_data(), stream.step(&batch)?.to_data());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Yuan, Xie and Li, *Robust Test-Time Adaptation in Dynamic Scenarios*, CVPR 2023, arXiv:2303.13899.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "robust_bn", title = "Robust batch normalization", catalogue = [])]
#[method(
    paper = "arxiv:2303.13899",
    year = 2023,
    needs(batch_norm),
    promises(order_invariant),
    case = "",
    case = "momentum = 0.5"
)]
pub struct RobustBn {
    /// How far each batch moves the averages, $m$.
    #[method(min = 0, max = 1)]
    pub momentum: f64,
}

impl Default for RobustBn {
    fn default() -> Self {
        Self { momentum: 0.05 }
    }
}

/// The running averages of every norm.
#[derive(Clone, Debug, Record)]
pub struct RobustBnState {
    /// `site.mean` and `site.variance`, `[channels]`.
    #[record(own)]
    pub averages: Params,
}

impl TestTime for RobustBn {
    type State = RobustBnState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<RobustBnState> {
        Ok(RobustBnState { averages: averages(host)? })
    }

    fn step(&self, batch: &Inputs, state: &mut RobustBnState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        predicted(self, batch, state, host)
    }

    fn under(&self, state: &mut RobustBnState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        let running = Running { momentum: self.momentum, kept: Kept::new(&state.averages) };
        pass(&running)?;
        state.averages = running.kept.into_params();
        Ok(())
    }
}

/// One pass, with the averages as it finds and leaves them.
struct Running {
    momentum: f64,
    kept: Kept,
}

impl Normaliser for Running {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let now = mixed(&self.kept.moments(norm.site)?, &norm.own()?, self.momentum);
        self.kept.put_moments(norm.site, &now);
        Ok(norm.by(now))
    }
}
