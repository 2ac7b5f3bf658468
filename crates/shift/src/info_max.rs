use crate::prediction_entropy::{entropy, mean_entropy};
use crate::{Case, Score};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::column_means;
use serde::{Deserialize, Serialize};

/// The mutual information of rows and answers: sure answers, of several classes.
///
/// # Mathematics
/// With the probabilities $p_i$ of the unseen rows of the target, their mean $\bar p$ and the entropy $H$,
/// $$s = H(\bar p) - \frac1n \sum_{i=1}^n H(p_i) \ge 0.$$
/// It is largest, $\log k$, where answers are sure and each of the $k$ classes has as many rows, and zero where all answers are equal.
///
/// # When to use
/// In place of [`PredictionEntropy`](crate::PredictionEntropy) where fits may collapse to one class. It prefers equal shares of classes,
/// which is wrong where the target's are not.
///
/// # Differences
/// None. It was published to train classifiers; as a score both terms count alike.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::InfoMax;
///
/// assert_eq!(InfoMax::CARD.name, "info_max");
/// ```
///
/// # References
/// Shi and Sha, *Information-Theoretical Learning of Discriminative Clusters for Unsupervised Domain Adaptation*, ICML 2012,
/// arXiv:1206.6438.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "info_max", title = "Information maximisation", catalogue = [28], paper = "arxiv:1206.6438", year = 2012)]
#[method(case = "")]
pub struct InfoMax {}

impl Score for InfoMax {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        case.held.y.classes(Self::CARD.name)?;
        let answers = case.fit.answers(case.target_held.x)?;
        Ok(entropy(column_means(answers.view()).view()) - mean_entropy(answers.view()))
    }
}
