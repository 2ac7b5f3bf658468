use crate::density::{Bandwidth, BandwidthRule, KernelDensity, outside};
use crate::{Align, Aligned, Host, Lesson, Source, Target, View, ratio};
use acclimate_core::{Method, Result};
use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

/// Weighs each source row by a kernel estimate of the target's density over one of the source's.
///
/// # Mathematics
/// With Gaussian bells of width $h$ around $n$ rows of $d$ features,
/// $$\hat p(x) = \frac1n \sum_i (2\pi h^2)^{-d/2} e^{-|x - x_i|^2 / 2h^2}, \qquad w(x) = \frac{\hat p_t(x)}{\hat p_s(x)},$$
/// brought to mean one over the source. `scott` is $h = n^{-1/(d+4)}$ and `silverman` $h = (n (d+2)/4)^{-1/(d+4)}$, each with the
/// domain's own $n$. All is computed in logarithms.
///
/// # When to use
/// Covariate shift in a few standardised columns: the labels given a row stay as they are, and the source reaches wherever the target is. The
/// estimate fades beyond about five columns. `outside` is the share of target rows where the source is rarer than at 99 of 100 of its own rows;
/// nothing can be learned there by weights.
///
/// # Differences
/// None: equals skada's `DensityReweight` on scikit-learn's `KernelDensity`. Where that underflows, the logarithms here do not.
///
/// # Example
/// ```
/// use acclimate_shift::KdeWeights;
/// use acclimate_core::Method;
///
/// let method = KdeWeights::from_table(&"bandwidth = \"scott\"".parse().unwrap())?;
/// assert!(KdeWeights::from_table(&"bandwidth = \"wide\"".parse().unwrap()).is_err());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Sugiyama and Müller, *Input-dependent estimation of generalization error under covariate shift*, Statistics & Decisions 23, 2005,
/// doi:10.1524/stnd.2005.23.4.249. Lalou et al., *SKADA-Bench*, arXiv:2407.11676.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "kde_weights", title = "KDE weights", catalogue = [28], paper = "doi:10.1524/stnd.2005.23.4.249", year = 2005)]
#[method(case = "", case = "bandwidth = 0.5", case = "bandwidth = \"silverman\"")]
pub struct KdeWeights {
    /// The width of a bell: a number, `scott` or `silverman`.
    pub bandwidth: Bandwidth,
}

impl Default for KdeWeights {
    fn default() -> Self {
        Self { bandwidth: Bandwidth::Rule(BandwidthRule::Scott) }
    }
}

/// Both densities.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KdeRatio {
    source: KernelDensity,
    target: KernelDensity,
    log_mean: f64,
}

impl View for KdeRatio {
    fn weigh(&self, rows: ArrayView2<'_, f64>) -> Option<Result<Array1<f64>>> {
        Some(Ok((self.target.log(rows) - self.source.log(rows) - self.log_mean).mapv(f64::exp)))
    }
}

impl Align for KdeWeights {
    type View = KdeRatio;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<KdeRatio>> {
        let density = |rows: ArrayView2<'_, f64>| -> Result<KernelDensity> {
            let bandwidth = self.bandwidth.of(Self::CARD.name, rows.nrows(), rows.ncols())?;
            Ok(KernelDensity { rows: rows.to_owned(), bandwidth })
        };
        let (from, to) = (density(source.x)?, density(target.x)?);
        let logs = to.log(source.x) - from.log(source.x);
        let (weights, log_mean) = ratio::mean_one_of_logs(Self::CARD.name, &logs)?;
        let mut facts = ratio::facts(weights.view());
        facts.push(("outside", outside(&from.log_unseen(), &from.log(target.x))));
        let view = KdeRatio { source: from, target: to, log_mean };
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view })
    }
}
