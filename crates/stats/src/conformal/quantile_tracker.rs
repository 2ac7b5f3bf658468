use super::{Recent, Tails, Tracker};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Follows the quantile of scores by steps up after a miss and down after a hit.
///
/// # Mathematics
/// $$q_{t+1} = q_t + \eta_t\,(\mathrm{err}_t - \alpha), \qquad \mathrm{err}_t = 1\{s_t > q_t\},$$
/// the gradient step on the pinball loss. With fixed $\eta$ and scores in $[0, b]$, on any stream,
/// $\big|\tfrac1T \sum \mathrm{err}_t - \alpha\big| \le (b + \eta)/(\eta T)$. With `relative` the step is
/// $\eta_t = \eta\,(\max - \min)$ over the last `window` scores before $t$. $q_1$ is the conformal quantile of the scores from before
/// the stream; zero where there is none.
///
/// # When to use
/// The simplest method with a guarantee on any stream; intervals are never infinite. `pid` adds to it.
///
/// # Differences
/// The authors begin at zero and with no scores. The bound is stated for a fixed step; a relative one is what they run.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{QuantileTracker, Stream};
///
/// let method = QuantileTracker { lr: 0.5, relative: false, ..Default::default() };
/// let mut stream = Stream::new(&method, &[], 0.1)?;
/// stream.predict(0.0)?;
/// stream.observe(1.0)?;
/// assert_eq!(stream.predict(0.0)?.upper, 0.5 * 0.9);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Angelopoulos, Candès and Tibshirani, *Conformal PID Control for Time Series Prediction*, NeurIPS 2023, arXiv:2307.16895.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "quantile_tracker", title = "Quantile tracking", catalogue = [], paper = "arxiv:2307.16895", year = 2023)]
#[method(needs(labels), case = "", case = "lr = 0.2\nrelative = false\ntails = \"each\"")]
pub struct QuantileTracker {
    /// The step, $\eta$; in units of the scores unless it is relative.
    #[method(above = 0)]
    pub lr: f64,
    /// Takes the step as a share of the range of recent scores.
    pub relative: bool,
    /// How many scores are recent.
    #[method(min = 1)]
    pub window: usize,
    /// Whether the size of errors is followed, `both`, or each sign apart, `each`.
    pub tails: Tails,
}

impl Default for QuantileTracker {
    fn default() -> Self {
        Self { lr: 0.1, relative: true, window: 100, tails: Tails::Both }
    }
}

/// The threshold and the recent scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackerState {
    pub(super) scores: Recent,
    /// The threshold, $q_t$.
    pub threshold: f64,
}

impl TrackerState {
    /// Begins at the conformal quantile of past scores, at the largest where there are too few, at zero where there is none.
    pub(super) fn begin(window: usize, past: &[f64], alpha: f64) -> Self {
        let start = Recent::new(past.len(), past);
        let threshold = start.threshold(alpha);
        let threshold = if threshold.is_finite() { threshold } else { start.sorted().last().copied().unwrap_or(0.0) };
        Self { scores: Recent::new(window, past), threshold }
    }

    /// The unit of steps: the range of recent scores where they are relative; one before the first.
    pub(super) fn unit(&self, relative: bool) -> f64 {
        if relative { self.scores.spread().unwrap_or(1.0) } else { 1.0 }
    }

    pub(super) fn learn(&mut self, rate: f64, score: f64, missed: bool, alpha: f64) {
        self.threshold += rate * (f64::from(u8::from(missed)) - alpha);
        self.scores.push(score);
    }
}

impl Tracker for QuantileTracker {
    type State = TrackerState;

    fn tails(&self) -> Tails {
        self.tails
    }

    fn begin(&self, past: &[f64], alpha: f64) -> Result<TrackerState> {
        Ok(TrackerState::begin(self.window, past, alpha))
    }

    fn threshold(&self, state: &TrackerState, _: f64) -> f64 {
        state.threshold
    }

    fn learn(&self, state: &mut TrackerState, score: f64, missed: bool, alpha: f64) {
        state.learn(self.lr * state.unit(self.relative), score, missed, alpha);
    }
}
