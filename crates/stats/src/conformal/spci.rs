use super::{Interval, Online, ResidualForest, enbpi::narrowest, residual_forest::quantile_of};
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Narrow intervals on a series: the next error's quantiles are predicted from the last errors.
///
/// # Mathematics
/// With signed residuals $\hat\varepsilon_i = (y_i - \hat f(x_i)) / \hat\sigma_i$ and the rows
/// $(\hat\varepsilon_{i-w}, \ldots, \hat\varepsilon_{i-1}) \mapsto \hat\varepsilon_i$ of the last `history` of them, a quantile forest gives
/// the law of the next one given the last $w$: a past row $i$ weighs, in the mean over trees, its share of the leaf that the query falls into.
/// With $Q$ the quantile of that law, the smallest residual that reaches the level,
/// $$C_t = \hat f(x_t) + \hat\sigma_t\,[\,Q(\beta^*),\; Q(1 - \alpha + \beta^*)\,], \qquad
///   \beta^* = \arg\min_{\beta \in \{0, \ldots, \alpha\}} Q(1 - \alpha + \beta) - Q(\beta).$$
/// The forest is fitted anew at each step. A tree splits where the squared error falls most. While $k$ truths are still to come the target
/// is $\hat\varepsilon_{i+k}$. Trees of depth zero without bootstrap are `enbpi` on the residuals that have $w$ before them. Coverage goes to $1 - \alpha$ where the
/// forest is consistent; for residuals $\varepsilon_t = \rho\,\varepsilon_{t-1} + \eta_t$ the best width is $\sqrt{1-\rho^2}$ of that of `enbpi`.
///
/// # When to use
/// Time series whose errors hang together, with any model. With few residuals (under some hundreds) or independent ones it gains nothing on
/// `enbpi`; under drift, that no past row shows, `pid` or `aci` hold coverage. Deeper trees and fewer lags follow strong dependence closer.
///
/// # Differences
/// The authors' code sets up the levels in single precision and interpolates between residuals. Here rows lie `history` back at
/// most, not as many as the training rows. With fewer than `lags + 2` residuals the quantiles are those of all; with none the interval is
/// infinite. Drawn rows depend on the seed and the number of the step, so a restored stream goes on alike.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Spci, Stream};
///
/// let past: Vec<f64> = (0..60).map(|t| f64::from(t % 2)).collect();
/// let mut stream = Stream::new(&Spci { lags: 2, ..Default::default() }, &past, 0.1)?;
/// let next = stream.predict(100.0)?;
/// assert_eq!((next.lower, next.upper), (100.0, 100.0));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Xu and Xie, *Sequential Predictive Conformal Inference for Time Series*, ICML 2023, arXiv:2212.03463; Meinshausen, *Quantile
/// Regression Forests*, JMLR 2006.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "spci", title = "SPCI", catalogue = [164], paper = "arxiv:2212.03463", year = 2023)]
#[method(
    needs(labels),
    case = "lags = 5",
    case = "lags = 3\ntrees = 3\ndepth = 4\nbins = 1\nbootstrap = false",
    case = "lags = 4\nhistory = 60\ndecay = 0.98\nseed = 7"
)]
pub struct Spci {
    /// Last residuals that the forest reads, $w$.
    #[method(min = 1)]
    pub lags: usize,
    /// Residuals that are remembered.
    #[method(min = 2)]
    pub history: usize,
    /// Trees of the forest.
    #[method(min = 1)]
    pub trees: usize,
    /// Depth of each tree.
    #[method(max = 30)]
    pub depth: usize,
    /// Places tried for the lower tail.
    #[method(min = 1)]
    pub bins: usize,
    /// Whether each tree draws its rows with replacement; else it has all.
    pub bootstrap: bool,
    /// The weight of a row over that of the next one; one counts all alike.
    #[method(above = 0, max = 1)]
    pub decay: f64,
    /// Names the draws.
    pub seed: u64,
}

impl Default for Spci {
    fn default() -> Self {
        Self { lags: 100, history: 3000, trees: 10, depth: 2, bins: 5, bootstrap: true, decay: 1.0, seed: 0 }
    }
}

/// The last residuals and how many truths have come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpciState {
    residuals: VecDeque<f64>,
    steps: u64,
    alpha: f64,
}

impl Online for Spci {
    type State = SpciState;

    fn start(&self, past: &[f64], alpha: f64) -> Result<SpciState> {
        if self.history < self.lags + 2 {
            return Err(Error::Param {
                method: "spci",
                param: "history",
                value: self.history.to_string(),
                why: format!("must exceed `lags` ({}) by two", self.lags),
            });
        }
        let residuals = past[past.len().saturating_sub(self.history)..].iter().copied().collect();
        Ok(SpciState { residuals, steps: 0, alpha })
    }

    fn range(&self, state: &SpciState, ahead: usize) -> Result<Interval> {
        let series: Vec<f64> = state.residuals.iter().copied().collect();
        let Self { lags, trees, depth, bootstrap, decay, seed, .. } = *self;
        let forest = |lags, trees, depth, bootstrap| ResidualForest {
            lags,
            trees,
            depth,
            bootstrap,
            decay,
            ahead: if lags == 0 { 0 } else { ahead },
            seed,
            step: state.steps,
        };
        let law = if series.len() < lags + ahead + 2 {
            forest(0, 1, 0, false).law(&series)
        } else {
            forest(lags, trees, depth, bootstrap).law(&series)
        };
        if law.is_empty() {
            return Ok(Interval::ALL);
        }
        Ok(narrowest(self.bins, state.alpha, |level| quantile_of(&law, level)))
    }

    fn observe(&self, state: &mut SpciState, residual: f64, _: Interval) -> Result<()> {
        if state.residuals.len() >= self.history {
            state.residuals.pop_front();
        }
        state.residuals.push_back(residual);
        state.steps += 1;
        Ok(())
    }
}
