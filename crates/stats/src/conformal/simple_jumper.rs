use super::Betting;
use acclimate_core::Method;
use serde::{Deserialize, Serialize};

/// Bets that p-values are small, large or even, and moves money between the three.
///
/// # Mathematics
/// Three accounts $C_\epsilon$, $\epsilon \in \{-1, 0, 1\}$, begin at $\tfrac13$. At each step, with $C$ the sum of all,
/// $$C_\epsilon \leftarrow (1 - J)\, C_\epsilon + \tfrac J3\, C, \qquad
///   C_\epsilon \leftarrow C_\epsilon\, \big(1 + \epsilon\,(p - \tfrac12)\big).$$
/// The sum is a martingale for even p-values.
///
/// # When to use
/// The first choice for a watch over a long stream: it sees a change late in the stream and in either direction. A small $J$ is
/// right for changes that last.
///
/// # Differences
/// None.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{SimpleJumper, Watch};
///
/// let mut watch = Watch::new(&SimpleJumper::default(), 0);
/// (0..100).for_each(|t| watch.bet(f64::from(t % 10) / 10.0 + 0.05));
/// (0..60).for_each(|_| watch.bet(0.99));
/// assert!(watch.alarm(1e-3));
/// ```
///
/// # References
/// Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman, *Retrain or Not Retrain: Conformal Test Martingales for Change-Point
/// Detection*, COPA 2021, arXiv:2102.10439.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "simple_jumper", title = "Simple Jumper martingale", catalogue = [], paper = "arxiv:2102.10439", year = 2021)]
#[method(case = "", case = "jump = 0.2")]
pub struct SimpleJumper {
    /// The share of the money that is dealt out anew at each step, $J$.
    #[method(min = 0, max = 1)]
    pub jump: f64,
}

impl Default for SimpleJumper {
    fn default() -> Self {
        Self { jump: 0.01 }
    }
}

/// The share of the money in each account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JumperState {
    shares: [f64; 3],
}

impl Betting for SimpleJumper {
    type State = JumperState;

    fn begin(&self) -> JumperState {
        JumperState { shares: [1.0 / 3.0; 3] }
    }

    fn bet(&self, state: &mut JumperState, p: f64) -> f64 {
        for (share, epsilon) in state.shares.iter_mut().zip([-1.0, 0.0, 1.0]) {
            *share = ((1.0 - self.jump) * *share + self.jump / 3.0) * (1.0 + epsilon * (p - 0.5));
        }
        let growth: f64 = state.shares.iter().sum();
        state.shares = state.shares.map(|share| share / growth);
        growth.ln()
    }
}
