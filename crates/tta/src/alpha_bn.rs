use crate::{
    Host, TestTime,
    statistics::{mixed, predicted},
};
use acclimate_core::{BatchNorm, Error, Inputs, Method, Normaliser, Record, Result, SiteKind, matches};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Normalises by a mixture of the statistics stored at training and those of the batch, which serves batches of any size.
///
/// # Mathematics
/// At every batch norm, with stored moments $\mu_s, v_s$, those of the batch $\mu_t, v_t$ (divided by $n$) and the weight $\rho$ of
/// the batch
/// $$\mu = (1-\rho)\,\mu_s + \rho\,\mu_t, \qquad v = (1-\rho)\,v_s + \rho\,v_t, \qquad
///   y = \gamma\,\frac{x - \mu}{\sqrt{v + \varepsilon}} + \beta.$$
/// `mixture_variance` adds $\rho(1-\rho)(\mu_s - \mu_t)^2$, with which $v$ is the variance of a sample that holds both in these shares.
/// With `source_rows` $= n_0$ a batch of $n$ rows has $\rho = n/(n + n_0)$. $\rho = 0$ is the deployed model, $\rho = 1$ is
/// `batch_statistics`. Gradients of a method above flow through $\mu_t$ and $v_t$. Nothing is trained or remembered.
///
/// # When to use
/// In place of `batch_statistics` wherever batches may be small or their classes uneven, alone or as the statistics of another method.
/// The best weight grows with the batch: about 0.5 for one image, 0.7 for two, 0.9 from four on; `source_rows` between 0.5 and 1 follows
/// that.
///
/// # Differences
/// The paper's $\alpha$ is the weight of the stored statistics, $1 - \rho$. A public port takes the batch's variance divided by
/// $n - 1$, which for a single number is none; here it is divided by $n$. `mixture_variance`, `source_rows` and `site_weights` are not in
/// the paper.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{AlphaBn, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let method = AlphaBn { source_rows: Some(1.0), ..AlphaBn::default() };
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let one = stream.step(&tiny::images(1, 1, DType::F32))?;
/// assert_eq!(one.dims(), [1, 3]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// You, Li and Zhao, *Test-time Batch Statistics Calibration for Covariate Shift*, 2021, arXiv:2110.04065.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "alpha_bn", title = "α-BN", catalogue = [14], paper = "arxiv:2110.04065", year = 2021)]
#[method(needs(batch_norm), promises(order_invariant), validate = Self::weights_are_shares)]
#[method(case = "", case = "source_rows = 1.0\nmixture_variance = true", case = "site_weights = { \"stem.*\" = 1.0 }")]
pub struct AlphaBn {
    /// Weight of the batch's statistics, $\rho$.
    #[method(min = 0, max = 1)]
    pub target_weight: f64,
    /// How many rows the stored statistics are worth, $n_0$: then the weight follows from the batch, in place of `target_weight`.
    #[method(min = 0)]
    pub source_rows: Option<f64>,
    /// Counts the distance between the two means into the variance.
    pub mixture_variance: bool,
    /// Weights at single norms: a site's name or a pattern such as `"stages.0.*"`; the first that means a site holds.
    pub site_weights: BTreeMap<String, f64>,
}

impl Default for AlphaBn {
    fn default() -> Self {
        Self { target_weight: 0.5, source_rows: None, mixture_variance: false, site_weights: BTreeMap::new() }
    }
}

/// Nothing.
#[derive(Clone, Debug, Record)]
pub struct AlphaBnState {}

impl TestTime for AlphaBn {
    type State = AlphaBnState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<AlphaBnState> {
        let norms = || host.model().sites().iter().filter(|site| site.kind == SiteKind::BatchNorm);
        match self.site_weights.keys().find(|pattern| !norms().any(|site| matches(pattern, &site.name))) {
            Some(pattern) => Err(Error::unknown("batch norm", pattern, norms().map(|site| site.name.as_str()))),
            None => Ok(AlphaBnState {}),
        }
    }

    fn step(&self, batch: &Inputs, state: &mut AlphaBnState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        predicted(self, batch, state, host)
    }

    fn under(&self, _: &mut AlphaBnState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        pass(self)
    }
}

impl Normaliser for AlphaBn {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let weight = self.weight(&norm.site.name, norm.x.dims()[0]);
        if weight == 1.0 {
            return norm.by_own();
        }
        let source = norm.source()?;
        if weight == 0.0 {
            return Ok(norm.by(source));
        }
        let own = norm.own()?;
        let mut moments = mixed(&source, &own, weight);
        if self.mixture_variance {
            moments.variance = moments.variance + (own.mean - source.mean).square() * (weight * (1.0 - weight));
        }
        Ok(norm.by(moments))
    }
}

impl AlphaBn {
    /// The batch's weight at a norm.
    fn weight(&self, site: &str, rows: usize) -> f64 {
        let own = self.site_weights.iter().find(|(pattern, _)| matches(pattern, site)).map(|(_, weight)| *weight);
        let by_rows = |known: f64| rows as f64 / (rows as f64 + known);
        own.unwrap_or_else(|| self.source_rows.map_or(self.target_weight, by_rows))
    }

    fn weights_are_shares(&self) -> Result<()> {
        match self.site_weights.iter().find(|(_, weight)| !(0.0..=1.0).contains(*weight)) {
            Some((pattern, weight)) => Err(Error::Param {
                method: Self::CARD.name,
                param: "site_weights",
                value: format!("{pattern} = {weight}"),
                why: "must be between 0 and 1".to_owned(),
            }),
            None => Ok(()),
        }
    }
}
