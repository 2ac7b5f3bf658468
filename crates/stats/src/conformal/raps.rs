use super::{Sets, aps::cumulated};
use acclimate_core::Method;
use serde::{Deserialize, Serialize};

/// Sets as of APS that pay for every class beyond a few.
///
/// # Mathematics
/// With the place $o_c$ of class $c$ in falling order of probability, from one,
/// $$s_c(x) = \rho_c(x) + u\, p_c(x) + \lambda\, (o_c - k)_+, \qquad C(x) = \{c : s_c(x) \le \hat q\},$$
/// with $\rho$, $u$ and $\hat q$ as in `aps`. Coverage is at least $1 - \alpha$ for exchangeable rows, whatever $\lambda$ and $k$.
///
/// # When to use
/// Many classes with a long tail of noisy probabilities: sets are far smaller than those of `aps`. $k$ near the number of classes that a
/// set must often hold, $\lambda$ from 0.001 (even) to 1 (small); choose them on rows that do not calibrate.
///
/// # Differences
/// The authors tune $\lambda$ and $k$ on a part of the rows; here they are settings. Sets may be empty, as with the authors'
/// `allow_zero_sets`. The MAPIE package tunes on rows that it holds back and always keeps the likeliest class.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{AnySets, Raps};
///
/// let method = Raps { penalty: 0.5, free: 1, randomised: false };
/// assert_eq!(method.scores_any(&[0.25, 0.75], 0.3), [1.5, 0.75]);
/// ```
///
/// # References
/// Angelopoulos, Bates, Malik and Jordan, *Uncertainty Sets for Image Classifiers using Conformal Prediction*, ICLR 2021,
/// arXiv:2009.14193.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "raps", title = "RAPS", catalogue = [], paper = "arxiv:2009.14193", year = 2021)]
#[method(needs(labels), case = "", case = "penalty = 0.3\nfree = 1\nrandomised = false")]
pub struct Raps {
    /// What each class beyond the free ones pays, $\lambda$.
    #[method(min = 0)]
    pub penalty: f64,
    /// How many classes are free, $k$.
    pub free: usize,
    /// Draws how much of a class's own probability counts; else all of it does.
    pub randomised: bool,
}

impl Default for Raps {
    fn default() -> Self {
        Self { penalty: 0.01, free: 5, randomised: true }
    }
}

impl Sets for Raps {
    fn scores(&self, probabilities: &[f64], draw: f64) -> Vec<f64> {
        let scores = cumulated(probabilities, if self.randomised { draw } else { 1.0 });
        scores.into_iter().map(|(score, place)| score + self.penalty * place.saturating_sub(self.free) as f64).collect()
    }
}
