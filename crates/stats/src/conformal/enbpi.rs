use super::{Interval, Online, Recent};
use crate::quantile;
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Intervals from the quantiles of the last errors of an ensemble, as narrow as the two tails allow.
///
/// # Mathematics
/// With signed residuals $\hat\varepsilon_i = (y_i - \hat f_{-i}(x_i)) / \hat\sigma_i$, at first those of rows left out of bootstraps
/// (`left_out`), then those of the stream, and $Q$ the empirical quantile of the last `window` of them,
/// $$C_t = \hat f(x_t) + \hat\sigma_t\,[\,Q(\beta^*),\; Q(1 - \alpha + \beta^*)\,], \qquad
///   \beta^* = \arg\min_{\beta \in \{0, \ldots, \alpha\}} Q(1 - \alpha + \beta) - Q(\beta)$$
/// over `bins` equal steps of $\beta$; one bin is $\beta = \alpha/2$. Coverage goes to $1 - \alpha$ for errors that mix strongly and a
/// consistent ensemble.
///
/// # When to use
/// Time series and any model, without data held out. Where errors depend on those before, `spci` is narrower; where they drift, `aci` and
/// `pid` hold coverage.
///
/// # Differences
/// Levels are exact: the authors' code rounds them up to whole per cents, and an `alpha` of 0.005 asks for something else there. The quantile is
/// the smallest residual that reaches the level; theirs interpolates. Residuals slide one by one, as truths come.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Enbpi, Stream};
///
/// let past: Vec<f64> = (-10..=10).map(f64::from).collect();
/// let mut stream = Stream::new(&Enbpi { bins: 1, ..Default::default() }, &past, 0.2)?;
/// assert_eq!(stream.predict(100.0)?.upper, 108.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Xu and Xie, *Conformal Prediction Interval for Dynamic Time-Series*, ICML 2021, arXiv:2010.09107.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "enbpi", title = "EnbPI", catalogue = [], paper = "arxiv:2010.09107", year = 2021)]
#[method(needs(labels), case = "", case = "window = 40\nbins = 1")]
pub struct Enbpi {
    /// Residuals that are remembered.
    #[method(min = 1)]
    pub window: usize,
    /// Places tried for the lower tail.
    #[method(min = 1)]
    pub bins: usize,
}

impl Default for Enbpi {
    fn default() -> Self {
        Self { window: 300, bins: 5 }
    }
}

/// The last residuals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnbpiState {
    residuals: Recent,
    alpha: f64,
}

impl Online for Enbpi {
    type State = EnbpiState;

    fn start(&self, past: &[f64], alpha: f64) -> Result<EnbpiState> {
        Ok(EnbpiState { residuals: Recent::new(self.window, past), alpha })
    }

    fn range(&self, state: &EnbpiState, _: usize) -> Result<Interval> {
        let sorted = state.residuals.sorted();
        if sorted.is_empty() {
            return Ok(Interval::ALL);
        }
        Ok(narrowest(self.bins, state.alpha, |level| quantile::of_sorted(sorted, level)))
    }

    fn observe(&self, state: &mut EnbpiState, residual: f64, _: Interval) -> Result<()> {
        state.residuals.push(residual);
        Ok(())
    }
}

/// The narrowest range between a lower level and one that lies `1 − alpha` above; of equals the lowest.
pub(super) fn narrowest(bins: usize, alpha: f64, quantile: impl Fn(f64) -> f64) -> Interval {
    let beta = |bin: usize| if bins == 1 { alpha / 2.0 } else { alpha * bin as f64 / (bins - 1) as f64 };
    let range = |bin| Interval { lower: quantile(beta(bin)), upper: quantile(1.0 - alpha + beta(bin)) };
    (1..bins).map(range).fold(range(0), |best, next| if next.width() < best.width() { next } else { best })
}
