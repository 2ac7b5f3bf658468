use super::{Recent, Tails, Tracker};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Asks for more or less coverage than wanted, by what was missed so far.
///
/// # Mathematics
/// With $\hat q_t(a)$ the $\lceil (n+1)(1-a) \rceil$-th of the last $n$ scores, infinite for $a \le 0$ and minus infinity for $a \ge 1$,
/// $$C_t = \{y : s_t(y) \le \hat q_t(\alpha_t)\}, \qquad \alpha_{t+1} = \alpha_t + \gamma\,(\alpha - \mathrm{err}_t),
///   \qquad \alpha_1 = \alpha.$$
/// On any stream, without any assumption, $\big|\tfrac1T \sum \mathrm{err}_t - \alpha\big| \le
/// \dfrac{\max(\alpha, 1 - \alpha) + \gamma}{\gamma T}$.
///
/// # When to use
/// Streams that drift, with any model. A large $\gamma$ follows fast and gives infinite or empty intervals at times; `dtaci` chooses
/// it by itself, `quantile_tracker` has no infinite ones.
///
/// # Differences
/// The paper refits the model and the calibration; here scores are those of the stream, the last `window` of them. The quantile has the
/// conformal rank, which the code of `pid`'s authors leaves out. MAPIE 1.6 rounds $\alpha_t$ to two digits; here none is rounded.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Aci, Stream};
///
/// let mut stream = Stream::new(&Aci::default(), &[0.5, -1.0, 0.25, 2.0], 0.25)?;
/// assert_eq!(stream.predict(10.0)?.upper, 12.0);
/// assert!(stream.observe(11.0)?);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Gibbs and Candès, *Adaptive Conformal Inference Under Distribution Shift*, NeurIPS 2021, arXiv:2106.00170.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "aci", title = "ACI", catalogue = [], paper = "arxiv:2106.00170", year = 2021)]
#[method(needs(labels), case = "gamma = 0.05", case = "window = 50\ntails = \"each\"")]
pub struct Aci {
    /// The step, $\gamma$.
    #[method(above = 0)]
    pub gamma: f64,
    /// Scores that are remembered.
    #[method(min = 1)]
    pub window: usize,
    /// Whether the size of errors is followed, `both`, or each sign apart, `each`.
    pub tails: Tails,
}

impl Default for Aci {
    fn default() -> Self {
        Self { gamma: 0.005, window: 1000, tails: Tails::Both }
    }
}

/// The last scores and the level asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AciState {
    scores: Recent,
    /// The share of misses asked for at the next step, $\alpha_t$; it may lie outside of `[0, 1]`.
    pub alpha: f64,
}

impl Tracker for Aci {
    type State = AciState;

    fn tails(&self) -> Tails {
        self.tails
    }

    fn begin(&self, past: &[f64], alpha: f64) -> Result<AciState> {
        Ok(AciState { scores: Recent::new(self.window, past), alpha })
    }

    fn threshold(&self, state: &AciState, _: f64) -> f64 {
        state.scores.threshold(state.alpha)
    }

    fn learn(&self, state: &mut AciState, score: f64, missed: bool, alpha: f64) {
        state.alpha += self.gamma * (alpha - f64::from(u8::from(missed)));
        state.scores.push(score);
    }
}
