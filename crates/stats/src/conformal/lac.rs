use super::Sets;
use acclimate_core::Method;
use serde::{Deserialize, Serialize};

/// The smallest sets on average: all classes whose probability is above one threshold.
///
/// # Mathematics
/// The score of class $c$ is $1 - p_c(x)$, and
/// $$C(x) = \{c : 1 - p_c(x) \le \hat q\}, \qquad \hat q = s_{(\lceil (n+1)(1-\alpha) \rceil)} \text{ of } s_i = 1 - p_{y_i}(x_i).$$
/// It covers at least $1 - \alpha$ for exchangeable rows. With true probabilities no sets of this coverage are smaller on average.
///
/// # When to use
/// When the average size matters most. Sets of hard rows may be empty and those of easy rows cover more than asked: coverage given the
/// row is uneven; `aps` is evener.
///
/// # Differences
/// None from the paper; sets may be empty, as there.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{CalibratedSets, Lac};
/// use ndarray::array;
///
/// let held = array![[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]];
/// let fit = CalibratedSets::new(&Lac::default(), held.view(), &[0, 1, 1], None, &[], 0)?;
/// let sets = fit.sets(&Lac::default(), array![[0.5, 0.5], [0.9, 0.1]].view(), None, &[], 0.25)?;
/// assert_eq!(sets, [vec![0, 1], vec![0]]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Sadinle, Lei and Wasserman, *Least Ambiguous Set-Valued Classifiers with Bounded Error Levels*, JASA 2019, arXiv:1609.00451.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "lac", title = "LAC", catalogue = [], paper = "arxiv:1609.00451", year = 2019)]
#[method(needs(labels))]
pub struct Lac {}

impl Sets for Lac {
    fn scores(&self, probabilities: &[f64], _: f64) -> Vec<f64> {
        probabilities.iter().map(|p| 1.0 - p).collect()
    }
}
