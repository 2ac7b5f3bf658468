use crate::{Align, Aligned, Host, Lesson, Plain, Source, Target, ratio};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::squared_distances;
use ndarray::{Array1, ArrayView2, Axis, concatenate, s};
use serde::{Deserialize, Serialize};

/// Weighs each source row by how many target rows have it as their nearest.
///
/// # Mathematics
/// With the cells $V_i = \{x : |x - x_i| \le |x - x_j| \text{ for all } j\}$ around source rows,
/// $$w_i = \text{smoothing} + \#\{j : x'_j \in V_i\},$$
/// brought to mean one. A target row equally far from several source rows is divided among them.
///
/// # When to use
/// Covariate shift without anything to set. Most source rows may end at zero; `smoothing = 1` keeps all a little. Needs a target
/// of some size, for the weights are counts.
///
/// # Differences
/// skada counts by the class that a nearest-neighbour classifier of row numbers answers, gives a tie to one of the rows, and leaves the
/// counts at their own scale. It also takes the rows that are not of the source by `~` on a list of places, which are the places counted from
/// the end: with the source first that are as many last rows as the source has, rows of the source among them where it is the larger.
/// `compat = true` does all that, for rows that lie source first.
///
/// # Example
/// ```
/// use acclimate_shift::NearestWeights;
/// use acclimate_core::Method;
///
/// let method = NearestWeights::from_table(&"smoothing = 1".parse().unwrap())?;
/// assert_eq!(method.smoothing, 1.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Loog, *Nearest neighbor-based importance weighting*, MLSP 2012, doi:10.1109/MLSP.2012.6349714.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "nearest_weights", title = "Nearest-neighbour weights", catalogue = [28])]
#[method(paper = "doi:10.1109/MLSP.2012.6349714", year = 2012)]
#[method(case = "", case = "smoothing = 1.0")]
pub struct NearestWeights {
    /// What is added to each count.
    #[method(min = 0)]
    pub smoothing: f64,
    /// Counts and scales as skada 0.4.0 does.
    pub compat: bool,
}

impl Align for NearestWeights {
    type View = Plain;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Plain>> {
        let weights = if self.compat {
            let all = concatenate![Axis(0), source.x, target.x];
            let last = s![all.nrows().saturating_sub(source.x.nrows()).., ..];
            counts(source.x, all.slice(last), false) + self.smoothing
        } else {
            ratio::mean_one(Self::CARD.name, counts(source.x, target.x, true) + self.smoothing)?.0
        };
        let facts = ratio::facts(weights.view());
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view: Plain {} })
    }
}

/// How many of `rows` have each of `source` as their nearest; of ties each gets a part, or the first all.
fn counts(source: ArrayView2<'_, f64>, rows: ArrayView2<'_, f64>, shared: bool) -> Array1<f64> {
    let mut counts = Array1::zeros(source.nrows());
    for row in squared_distances(rows, source).rows() {
        let least = row.iter().copied().fold(f64::INFINITY, f64::min);
        let ties = row.iter().filter(|d| **d == least).count();
        let (many, part) = if shared { (ties, 1.0 / ties.max(1) as f64) } else { (1, 1.0) };
        for (place, _) in row.iter().enumerate().filter(|(_, d)| **d == least).take(many) {
            counts[place] += part;
        }
    }
    counts
}
