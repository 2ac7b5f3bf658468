use crate::density::{Gaussian, Shrinkage, ShrinkageRule, outside};
use crate::{Align, Aligned, Host, Lesson, Source, Target, View, ratio};
use acclimate_core::{Method, Result};
use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

/// Weighs each source row by the density of a Gaussian fitted to the target over that of one fitted to the source.
///
/// # Mathematics
/// $$w(x) = \frac{N(x;\, \mu_t, \Sigma_t)}{N(x;\, \mu_s, \Sigma_s)},$$
/// brought to mean one over the source. `ledoit_wolf` standardises the features, takes $(1-s) C + s \operatorname{tr}(C)/d \cdot I$ with
/// $s = \min\big(1, \tfrac1n (\tfrac1n\sum_i |x_i|^4 - |C|_F^2) / |C - \operatorname{tr}(C)/d\, I|_F^2\big)$ and turns the scales back; a
/// number is $s$ itself, on the features as they are.
///
/// # When to use
/// Domains that are one cloud each. A target wider than the source gives weights that grow without bound away from the source's middle; look
/// at `effective rows`. `outside` is as for KDE weights, by the source's Gaussian.
///
/// # Differences
/// skada leaves the weights at their own scale, which a learner with a penalty sees; `compat = true` does so too.
///
/// # Example
/// ```
/// use acclimate_shift::GaussianWeights;
/// use acclimate_core::Method;
///
/// let method = GaussianWeights::from_table(&"shrinkage = 0.1".parse().unwrap())?;
/// assert!(!method.compat);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Shimodaira, *Improving predictive inference under covariate shift by weighting the log-likelihood function*, J. Stat. Planning and
/// Inference 90, 2000, doi:10.1016/S0378-3758(00)00115-4. Ledoit and Wolf, *A well-conditioned estimator for large-dimensional covariance
/// matrices*, J. Multivariate Analysis 88, 2004, doi:10.1016/S0047-259X(03)00096-4.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "gaussian_weights", title = "Gaussian weights", catalogue = [28])]
#[method(paper = "doi:10.1016/S0378-3758(00)00115-4", year = 2000)]
#[method(case = "", case = "shrinkage = 0.2")]
pub struct GaussianWeights {
    /// The share of the identity in both covariances: a number from zero to one, or `ledoit_wolf`.
    pub shrinkage: Shrinkage,
    /// Leaves the weights at the scale of the densities, as skada 0.4.0 does.
    pub compat: bool,
}

impl Default for GaussianWeights {
    fn default() -> Self {
        Self { shrinkage: Shrinkage::Rule(ShrinkageRule::LedoitWolf), compat: false }
    }
}

/// Both Gaussians.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GaussianRatio {
    source: Gaussian,
    target: Gaussian,
    log_mean: f64,
}

impl View for GaussianRatio {
    fn weigh(&self, rows: ArrayView2<'_, f64>) -> Option<Result<Array1<f64>>> {
        Some(Ok((self.target.log(rows) - self.source.log(rows) - self.log_mean).mapv(f64::exp)))
    }
}

impl Align for GaussianWeights {
    type View = GaussianRatio;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<GaussianRatio>> {
        let who = Self::CARD.name;
        let (from, to) = (Gaussian::fit(who, source.x, self.shrinkage)?, Gaussian::fit(who, target.x, self.shrinkage)?);
        let logs = to.log(source.x) - from.log(source.x);
        let (mut weights, mut log_mean) = ratio::mean_one_of_logs(who, &logs)?;
        if self.compat {
            (weights, log_mean) = (logs.mapv(f64::exp), 0.0);
        }
        let mut facts = ratio::facts(weights.view());
        facts.push(("outside", outside(&from.log(source.x), &from.log(target.x))));
        let view = GaussianRatio { source: from, target: to, log_mean };
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view })
    }
}
