use super::Sets;
use acclimate_core::Method;
use serde::{Deserialize, Serialize};

/// Sets that take classes from the likeliest down until they hold enough.
///
/// # Mathematics
/// With classes in falling order of probability, $\rho_c$ the sum of those before $c$ and $u$ uniform,
/// $$s_c(x) = \rho_c(x) + u\, p_c(x), \qquad C(x) = \{c : s_c(x) \le \hat q\}, \qquad
///   \hat q = s_{(\lceil (n+1)(1-\alpha) \rceil)} \text{ of } s_{y_i}(x_i).$$
/// Without `randomised`, $u = 1$. It covers at least $1 - \alpha$ for exchangeable rows; with true probabilities and randomised, exactly
/// so for each row.
///
/// # When to use
/// When coverage should be even between easy and hard rows. Sets are larger than those of `lac`, and with many unlikely classes much larger:
/// then `raps`.
///
/// # Differences
/// The paper randomises at new rows and at calibration rows alike; here `randomised` rules both. Of equal probabilities the first class comes
/// first. A draw depends on the seed and the number of the row.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Aps, CalibratedSets};
/// use ndarray::array;
///
/// let (method, held) = (Aps { randomised: false }, array![[0.7, 0.3], [0.6, 0.4], [0.25, 0.75]]);
/// let fit = CalibratedSets::new(&method, held.view(), &[0, 0, 1], None, &[], 0)?;
/// let sets = fit.sets(&method, array![[0.5, 0.5], [0.875, 0.125]].view(), None, &[], 0.25)?;
/// assert_eq!(sets, [vec![0], vec![]]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Romano, Sesia and Candès, *Classification with Valid and Adaptive Coverage*, NeurIPS 2020, arXiv:2006.02544.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "aps", title = "APS", catalogue = [], paper = "arxiv:2006.02544", year = 2020)]
#[method(needs(labels), case = "", case = "randomised = false")]
pub struct Aps {
    /// Draws how much of a class's own probability counts; else all of it does.
    pub randomised: bool,
}

impl Default for Aps {
    fn default() -> Self {
        Self { randomised: true }
    }
}

impl Sets for Aps {
    fn scores(&self, probabilities: &[f64], draw: f64) -> Vec<f64> {
        cumulated(probabilities, if self.randomised { draw } else { 1.0 }).into_iter().map(|(score, _)| score).collect()
    }
}

/// Of each class the probability of those before it and the share `own` of its own, and its place, from one.
pub(super) fn cumulated(probabilities: &[f64], own: f64) -> Vec<(f64, usize)> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    let (mut scores, mut before) = (vec![(0.0, 0); probabilities.len()], 0.0);
    for (place, class) in order.into_iter().enumerate() {
        scores[class] = (before + own * probabilities[class], place + 1);
        before += probabilities[class];
    }
    scores
}
