use super::{Tails, Tracker, quantile_tracker::TrackerState};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// Steers the threshold of a stream: by the last miss, by all misses so far, and by a forecast of the score.
///
/// # Mathematics
/// $$q_{t+1} = \underbrace{p_{t+1}}_{p_{t+1} = p_t + \eta_t(\mathrm{err}_t - \alpha)} +
///   \underbrace{K \tan\!\Big( E_t \frac{\log(t+1)}{C\,(t+1)} \Big)}_{\text{integrator}} + \underbrace{g_{t+1}}_{\text{scorecaster}},
///   \qquad E_t = \sum_{i \le t} (\mathrm{err}_i - \alpha),$$
/// where the tangent is infinite beyond $\pm\pi/2$. So $|E_T| \le \tfrac\pi2 C (T+1)/\log(T+1) + 1$ on any stream, whatever the other
/// two terms do, and the share of misses goes to $\alpha$. $g$ is zero, the running mean $m_{t+1} = a s_t + (1-a) m_t$ (`average`), or
/// with half of the slope $b$ of scores over time (`theta`)
/// $$g_{t+1} = m_{t+1} + \tfrac b2 \cdot \frac{1 - (1-a)^t}{a}.$$
///
/// # When to use
/// Streams with shifts and trends that errors show: the integrator takes out lasting bias, the scorecaster foresees the score. A small
/// `saturation` holds coverage tighter and gives infinite intervals sooner.
///
/// # Differences
/// With `relative` the step and the integrator are in units of the range of recent scores; the authors take the step so and leave $K$ in units
/// of the score. Their code leaves the newest miss out of $E_t$: `compat = true` does so too. Their scorecaster fits the smoothing of
/// a Theta model anew at each step; here it is set. The start is as for `quantile_tracker`.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Pid, Stream};
///
/// let mut stream = Stream::new(&Pid::default(), &[0.5, -1.0, 0.25, 2.0], 0.25)?;
/// assert_eq!(stream.predict(10.0)?.upper, 12.0);
/// stream.observe(14.0)?;
/// assert!(stream.predict(10.0)?.upper > 12.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Angelopoulos, Candès and Tibshirani, *Conformal PID Control for Time Series Prediction*, NeurIPS 2023, arXiv:2307.16895.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "pid", title = "Conformal PID control", catalogue = [], paper = "arxiv:2307.16895", year = 2023)]
#[method(
    needs(labels),
    case = "",
    case = "scorecaster = \"theta\"\nlr = 0.05\nsaturation = 2.0\ntails = \"each\"",
    case = "scorecaster = \"average\"\nrelative = false\ncompat = true"
)]
pub struct Pid {
    /// The step of the tracked quantile, $\eta$.
    #[method(min = 0)]
    pub lr: f64,
    /// The weight of the integrator, $K$; with zero there is none.
    #[method(min = 0)]
    pub integral: f64,
    /// How many misses the integrator bears before it is infinite, $C$.
    #[method(above = 0)]
    pub saturation: f64,
    /// What foresees the score: `none`, `average` or `theta`.
    pub scorecaster: Scorecaster,
    /// How much the newest score counts in the running mean, $a$.
    #[method(above = 0, max = 1)]
    pub smoothing: f64,
    /// Takes `lr` and `integral` as shares of the range of recent scores.
    pub relative: bool,
    /// How many scores are recent.
    #[method(min = 1)]
    pub window: usize,
    /// Whether the size of errors is followed, `both`, or each sign apart, `each`.
    pub tails: Tails,
    /// Leaves the newest miss out of the integrator.
    pub compat: bool,
}

impl Default for Pid {
    fn default() -> Self {
        Self {
            lr: 0.1,
            integral: 0.5,
            saturation: 5.0,
            scorecaster: Scorecaster::None,
            smoothing: 0.2,
            relative: true,
            window: 100,
            tails: Tails::Both,
            compat: false,
        }
    }
}

/// What foresees the score in [`Pid`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorecaster {
    /// Nothing.
    #[default]
    None,
    /// A running mean.
    Average,
    /// A running mean and half of the trend.
    Theta,
}

/// The tracked quantile, the misses and what the scorecaster knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PidState {
    tracker: TrackerState,
    steps: u64,
    /// Misses less the share that was wanted.
    excess: f64,
    /// What the last miss added to it.
    newest: f64,
    mean: f64,
    /// Scores seen by the scorecaster, their sum, and that of scores times their number.
    seen: f64,
    sum: f64,
    moment: f64,
}

impl PidState {
    fn foresee(&mut self, smoothing: f64, score: f64) {
        self.mean = if self.seen == 0.0 { score } else { smoothing * score + (1.0 - smoothing) * self.mean };
        self.seen += 1.0;
        self.sum += score;
        self.moment += self.seen * score;
    }
}

impl Pid {
    fn foreseen(&self, state: &PidState) -> f64 {
        let (n, a) = (state.seen, self.smoothing);
        match self.scorecaster {
            Scorecaster::Theta if n >= 2.0 => {
                let slope = 12.0 * (state.moment - state.sum * (n + 1.0) / 2.0) / (n * (n * n - 1.0));
                state.mean + slope / 2.0 * (1.0 - (1.0 - a).powf(n)) / a
            }
            Scorecaster::None => 0.0,
            _ => state.mean,
        }
    }

    fn integrator(&self, state: &PidState) -> f64 {
        let late = self.compat && state.steps > 0;
        let (excess, count) = if late {
            (state.excess - state.newest, state.steps as f64)
        } else {
            (state.excess, state.steps as f64 + 1.0)
        };
        let angle = excess * count.ln() / (self.saturation * count);
        if self.integral == 0.0 || angle == 0.0 {
            return 0.0;
        }
        if angle.abs() >= FRAC_PI_2 {
            return angle.signum() * f64::INFINITY;
        }
        self.integral * state.tracker.unit(self.relative) * angle.tan()
    }
}

impl Tracker for Pid {
    type State = PidState;

    fn tails(&self) -> Tails {
        self.tails
    }

    fn begin(&self, past: &[f64], alpha: f64) -> Result<PidState> {
        let tracker = TrackerState::begin(self.window, past, alpha);
        let (steps, zero) = (0, 0.0);
        let mut state =
            PidState { tracker, steps, excess: zero, newest: zero, mean: zero, seen: zero, sum: zero, moment: zero };
        for score in past {
            state.foresee(self.smoothing, *score);
        }
        state.tracker.threshold -= self.foreseen(&state);
        Ok(state)
    }

    fn threshold(&self, state: &PidState, _: f64) -> f64 {
        state.tracker.threshold + self.integrator(state) + self.foreseen(state)
    }

    fn learn(&self, state: &mut PidState, score: f64, missed: bool, alpha: f64) {
        state.newest = f64::from(u8::from(missed)) - alpha;
        state.excess += state.newest;
        state.steps += 1;
        let rate = self.lr * state.tracker.unit(self.relative);
        state.tracker.learn(rate, score, missed, alpha);
        state.foresee(self.smoothing, score);
    }
}
