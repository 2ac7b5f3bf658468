use super::{Recent, Tails, Tracker};
use crate::quantile;
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Calibrates by past scores that count less the older they are.
///
/// # Mathematics
/// Scores $s_1, \ldots, s_n$ from the oldest to the newest have the fixed weights $w_i = \rho^{\,n + 1 - i}$, the new one has 1, and
/// $$\hat q = \inf\Big\{ s : \sum_{i : s_i \le s} w_i \ge (1 - \alpha)\Big(\sum_i w_i + 1\Big) \Big\}.$$
/// Coverage is at least $1 - \alpha - \sum_i \tilde w_i\, d_{TV}(Z, Z^i)$, with $\tilde w$ summing to one and $Z^i$ the data with the $i$-th row
/// and the new one exchanged: rows that are near in time are nearly exchangeable and have the weight.
///
/// # When to use
/// Slow drift, where a guarantee for each step is wanted and not one over a long run. The $1/(1-\rho)$ last scores count; they must exceed
/// $1/\alpha$ or the interval is infinite.
///
/// # Differences
/// The paper also lets the learner treat rows unequally, which is the model's business here. Scores older than `window` are dropped.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Nexcp, Stream};
///
/// let past: Vec<f64> = (1..=20).map(f64::from).collect();
/// let mut stream = Stream::new(&Nexcp { decay: 0.9, ..Default::default() }, &past, 0.5)?;
/// assert_eq!(stream.predict(0.0)?.upper, 16.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Barber, Candès, Ramdas and Tibshirani, *Conformal Prediction Beyond Exchangeability*, Annals of Statistics 2023, arXiv:2202.13415.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "nexcp", title = "NexCP", catalogue = [], paper = "arxiv:2202.13415", year = 2023)]
#[method(needs(labels), case = "", case = "decay = 0.95\nwindow = 60\ntails = \"each\"")]
pub struct Nexcp {
    /// The weight of a score over that of the next one, $\rho$.
    #[method(above = 0, max = 1)]
    pub decay: f64,
    /// Scores that are remembered.
    #[method(min = 1)]
    pub window: usize,
    /// Whether the size of errors is followed, `both`, or each sign apart, `each`.
    pub tails: Tails,
}

impl Default for Nexcp {
    fn default() -> Self {
        Self { decay: 0.99, window: 1000, tails: Tails::Both }
    }
}

/// The last scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NexcpState {
    scores: Recent,
}

impl Tracker for Nexcp {
    type State = NexcpState;

    fn tails(&self) -> Tails {
        self.tails
    }

    fn begin(&self, past: &[f64], _: f64) -> Result<NexcpState> {
        Ok(NexcpState { scores: Recent::new(self.window, past) })
    }

    fn threshold(&self, state: &NexcpState, alpha: f64) -> f64 {
        let mut weight = 1.0;
        let mut pairs = Vec::with_capacity(state.scores.in_time().len());
        for score in state.scores.in_time().iter().rev() {
            weight *= self.decay;
            pairs.push((*score, weight));
        }
        let total: f64 = pairs.iter().map(|(_, weight)| weight).sum();
        quantile::reach(&mut pairs, (1.0 - alpha) * (total + 1.0))
    }

    fn learn(&self, state: &mut NexcpState, score: f64, _: bool, _: f64) {
        state.scores.push(score);
    }
}
