use crate::{Affine, Align, Aligned, Estimate, Host, Lesson, Mapped, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::{column_means, product, symmetric_eigen};
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// Gives the source the mean and the covariance of the target.
///
/// # Mathematics
/// With means $\mu$ and covariances $C$ of the source and the target, a row of the source becomes
/// $$x \mapsto (x - \mu_s)\, C_s^{-1/2} C_t^{1/2} + \mu_t,$$
/// where the roots are symmetric. Directions in which the source does not vary (its eigenvalue is below $10^{-12}$ of the largest) are left
/// out of $C_s^{-1/2}$. The target stays as it is. Equal domains give the identity, and where $C_s$ has full rank the mapped source has
/// the covariance $C_t$.
///
/// # When to use
/// When columns were rescaled, rotated or moved between the domains, and the classes have like shares in both. Where shares differ, or
/// only part of the source is met, it moves classes onto each other. With more columns than rows take `estimate = "ledoit_wolf"`.
///
/// # Differences
/// The paper adds the identity to both covariances and does not move means; the identity depends on the unit of each column. skada 0.4.0
/// puts both domains around zero where this puts the source around the target's mean, which is the same but for learners that look at
/// the spread over all columns at once, and takes Ledoit and Wolf's estimate, its default, about the mean also where `centred` is set.
/// `compat = true` does both.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::{ALIGN, Coral};
///
/// let coral = acclimate_core::find(ALIGN, Coral::CARD.name)?.build(&toml::toml! { estimate = "ledoit_wolf" })?;
/// assert_eq!(coral.settings()["estimate"].as_str(), Some("ledoit_wolf"));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Sun, Feng and Saenko, *Return of Frustratingly Easy Domain Adaptation*, AAAI 2016, arXiv:1511.05547. Ledoit and Wolf, *A
/// well-conditioned estimator for large-dimensional covariance matrices*, Journal of Multivariate Analysis 88, 2004.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "coral", title = "CORAL", catalogue = [28], paper = "arxiv:1511.05547", year = 2016)]
#[method(case = "", case = "estimate = \"ledoit_wolf\"", case = "centred = true")]
pub struct Coral {
    /// How covariances are estimated: `plain` or `ledoit_wolf`.
    pub estimate: Estimate,
    /// Takes both domains to be centred at zero: no mean is removed, and covariances are second moments.
    pub centred: bool,
    /// Centres both domains at zero and takes Ledoit and Wolf's estimate about the mean always, as skada 0.4.0 does.
    pub compat: bool,
}

impl Align for Coral {
    type View = Mapped;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Mapped>> {
        let moment = |x: ArrayView2<'_, f64>| {
            let about = self.estimate.of(x);
            if !self.centred || (self.compat && self.estimate == Estimate::LedoitWolf) {
                return about;
            }
            let mean = column_means(x).insert_axis(ndarray::Axis(0));
            about + mean.t().dot(&mean)
        };
        let whiten = power(moment(source.x), -0.5)?;
        let matrix = product(whiten.view(), power(moment(target.x), 0.5)?.view());
        let features = source.x.ncols();
        let mean = |x: ArrayView2<'_, f64>| if self.centred { Array1::zeros(features) } else { column_means(x) };
        let (before, after) = (mean(source.x), mean(target.x));
        let view = if self.compat {
            let target = Affine::projection(after, Array2::eye(features));
            Mapped { source: Affine::projection(before, matrix), target: Some(target) }
        } else {
            Mapped { source: Affine { before, matrix, after }, target: None }
        };
        let lesson = Lesson { x: view.source.of(source.x)?, y: source.y.clone(), weights: None };
        Ok(Aligned { lesson, facts: Vec::new(), view })
    }
}

/// A power of a covariance in the directions in which there is some.
fn power(covariance: Array2<f64>, exponent: f64) -> Result<Array2<f64>> {
    let (values, vectors) = symmetric_eigen(covariance.view())?;
    let floor = values.last().copied().unwrap_or(0.0) * 1e-12;
    let powers = values.mapv(|value| if value > floor { value.powf(exponent) } else { 0.0 });
    Ok(product((&vectors * &powers).view(), vectors.t()))
}
