use super::Betting;
use acclimate_core::Method;
use serde::{Deserialize, Serialize};

/// Bets that p-values are small, by all powers at once.
///
/// # Mathematics
/// The power martingale of $\epsilon \in (0, 1]$ multiplies the money by $\epsilon p^{\epsilon - 1}$. The mixture is their mean over the
/// midpoints $\epsilon_j = (j - \tfrac12)/m$,
/// $$M_t = \frac1m \sum_{j=1}^m \prod_{s \le t} \epsilon_j\, p_s^{\epsilon_j - 1},$$
/// which is a martingale itself for even p-values.
///
/// # When to use
/// To find rows that are stranger than before, when nothing is known of the change. While there is none its money falls to nothing, and it is
/// slow to see a late change: `simple_jumper` is not.
///
/// # Differences
/// Vovk's mixture is the integral over $\epsilon$; the mean over a grid is as valid, and near it for a fine grid.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{SimpleMixture, Watch};
///
/// let mut watch = Watch::new(&SimpleMixture::default(), 0);
/// (0..20).for_each(|_| watch.bet(0.01));
/// assert!(watch.alarm(1e-3));
/// ```
///
/// # References
/// Vovk, Nouretdinov and Gammerman, *Testing Exchangeability On-Line*, ICML 2003.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "simple_mixture", title = "Simple mixture martingale", catalogue = [], paper = "-", year = 2003)]
#[method(case = "", case = "points = 5")]
pub struct SimpleMixture {
    /// Points of the grid, $m$.
    #[method(min = 1)]
    pub points: usize,
}

impl Default for SimpleMixture {
    fn default() -> Self {
        Self { points: 100 }
    }
}

/// How many p-values there were and the sum of their logarithms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MixtureState {
    count: f64,
    logs: f64,
}

impl SimpleMixture {
    fn log_capital(&self, state: &MixtureState) -> f64 {
        let epsilon = |j: usize| (j as f64 + 0.5) / self.points as f64;
        let power = |j| state.count * epsilon(j).ln() + (epsilon(j) - 1.0) * state.logs;
        let most = (0..self.points).map(power).fold(f64::NEG_INFINITY, f64::max);
        most + ((0..self.points).map(|j| (power(j) - most).exp()).sum::<f64>() / self.points as f64).ln()
    }
}

impl Betting for SimpleMixture {
    type State = MixtureState;

    fn begin(&self) -> MixtureState {
        MixtureState::default()
    }

    fn bet(&self, state: &mut MixtureState, p: f64) -> f64 {
        let before = if state.count == 0.0 { 0.0 } else { self.log_capital(state) };
        state.count += 1.0;
        state.logs += p.ln();
        self.log_capital(state) - before
    }
}
