use crate::{Host, TestTime, statistics::predicted};
use acclimate_core::{BatchNorm, Inputs, Method, Moments, Normaliser, Record, Result};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Normalises each input by the stored statistics, corrected by its own where these differ by more than chance would have it.
///
/// # Mathematics
/// At every batch norm with stored moments $\mu_s, v_s$, an input with mean $m$ and variance $s$ over its $n$ pixels ($s$ divided by
/// $n - 1$), and $\psi_\lambda(x) = \operatorname{sign}(x) \max(|x| - \lambda, 0)$,
/// $$\mu = \mu_s + \psi_{k e}(m - \mu_s), \quad e = \sqrt{\frac{v_s + \varepsilon}{n}}, \qquad
///   v = \max\big(v_s + \psi_{k f}(s - v_s),\ 0\big), \quad f = (v_s + \varepsilon) \sqrt{\frac{2}{n - 1}},$$
/// where $e$ and $f$ are what $m$ and $s$ of $n$ independent normal numbers would vary by. With $k = 0$ each input is normalised by itself,
/// with a large $k$ by the stored statistics. Maps of one pixel keep the stored ones. Nothing is trained or remembered.
///
/// # When to use
/// Streams whose batches say nothing, because they are small or of one class: each input is seen alone. The paper trains networks with this
/// norm; one that was trained with ordinary batch norms keeps more of its accuracy under larger $k$.
///
/// # Differences
/// None.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{Host, Iabn, Reset, Stream};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), Iabn::default());
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let one = stream.step(&tiny::images(1, 1, DType::F32))?;
/// assert_eq!(one.dims(), [1, 3]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Gong et al., *NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation*, NeurIPS 2022, arXiv:2208.05117.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "iabn", title = "Instance-aware batch normalization", catalogue = [])]
#[method(paper = "arxiv:2208.05117", year = 2022, needs(batch_norm), promises(order_invariant))]
#[method(case = "", case = "deviations = 0.5")]
pub struct Iabn {
    /// Standard errors by which an input may differ before it counts, $k$.
    #[method(min = 0)]
    pub deviations: f64,
}

impl Default for Iabn {
    fn default() -> Self {
        Self { deviations: 4.0 }
    }
}

/// Nothing.
#[derive(Clone, Debug, Record)]
pub struct IabnState {}

impl TestTime for Iabn {
    type State = IabnState;

    fn prepare(&self, _: &mut Host<'_>) -> Result<IabnState> {
        Ok(IabnState {})
    }

    fn step(&self, batch: &Inputs, state: &mut IabnState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        predicted(self, batch, state, host)
    }

    fn under(&self, _: &mut IabnState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        pass(self)
    }
}

impl Normaliser for Iabn {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let stored = norm.source()?;
        Ok(aware(norm, stored, self.deviations))
    }
}

/// Normalised by moments that each row corrects where its own differ by more than so many standard errors.
pub(crate) fn aware(norm: BatchNorm<'_>, base: Moments, deviations: f64) -> Tensor<4> {
    let [_, _, height, width] = norm.x.dims();
    let n = (height * width) as f64;
    if n <= 1.0 {
        return norm.by(base);
    }
    let [mean, variance] = norm.rows();
    let variance = variance * (n / (n - 1.0));
    let (centre, spread) = (base.mean.unsqueeze_dim::<2>(0), base.variance.unsqueeze_dim::<2>(0));
    let error_of_mean = ((spread.clone() + norm.eps) / n).sqrt() * deviations;
    let error_of_variance = (spread.clone() + norm.eps) * (deviations * (2.0 / (n - 1.0)).sqrt());
    let beyond =
        |x: Tensor<2>, error: Tensor<2>| activation::relu(x.clone() - error.clone()) - activation::relu(-(x + error));
    let mean = centre.clone() + beyond(mean - centre, error_of_mean);
    let variance = activation::relu(spread.clone() + beyond(variance - spread, error_of_variance));
    norm.by_rows([mean, variance])
}
