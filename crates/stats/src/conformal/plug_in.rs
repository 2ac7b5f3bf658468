use super::Betting;
use acclimate_core::Method;
use serde::{Deserialize, Serialize};

/// Bets by the density that p-values have had so far.
///
/// # Mathematics
/// Of $n$ past p-values $n_b$ lie in the $b$-th of $B$ equal parts of $[0, 1]$. The money grows by
/// $$f(p) = B\,\frac{n_{b(p)} + 1}{n + B}, \qquad \int_0^1 f = 1,$$
/// so it is a martingale for even p-values. Its growth per step goes to the information that the true density, on this grid, has against
/// the even one: no fixed bet grows faster.
///
/// # When to use
/// When the change may give p-values of any shape, such as many near the middle. It learns slowly with many parts and forgets nothing.
///
/// # Differences
/// Fedorova and others estimate the density by a kernel with reflection at the ends; a histogram needs no width and sums exactly.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{PlugIn, Watch};
///
/// let mut watch = Watch::new(&PlugIn::default(), 0);
/// (0..60).for_each(|_| watch.bet(0.55));
/// assert!(watch.alarm(1e-3));
/// ```
///
/// # References
/// Fedorova, Gammerman, Nouretdinov and Vovk, *Plug-in Martingales for Testing Exchangeability on-line*, ICML 2012, arXiv:1204.3251.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "plug_in", title = "Plug-in martingale", catalogue = [], paper = "arxiv:1204.3251", year = 2012)]
#[method(case = "", case = "parts = 4")]
pub struct PlugIn {
    /// Parts of the histogram, $B$.
    #[method(min = 1)]
    pub parts: usize,
}

impl Default for PlugIn {
    fn default() -> Self {
        Self { parts: 10 }
    }
}

/// The p-values counted in each part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlugInState {
    counts: Vec<u64>,
}

impl Betting for PlugIn {
    type State = PlugInState;

    fn begin(&self) -> PlugInState {
        PlugInState { counts: vec![0; self.parts] }
    }

    fn bet(&self, state: &mut PlugInState, p: f64) -> f64 {
        let parts = state.counts.len();
        let total: u64 = state.counts.iter().sum();
        let count = &mut state.counts[((p * parts as f64) as usize).min(parts - 1)];
        let growth = parts as f64 * (*count + 1) as f64 / (total + parts as u64) as f64;
        *count += 1;
        growth.ln()
    }
}
