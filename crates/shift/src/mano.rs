use crate::{Case, Score};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// The norm of the matrix of answers to unseen rows of the target.
///
/// # Mathematics
/// With the probabilities $p_{ic}$ of $n$ rows and $k$ classes,
/// $$s = \Big( \frac{1}{nk} \sum_{i=1}^n \sum_{c=1}^k p_{ic}^{\,q} \Big)^{1/q}.$$
/// It lies between $1/k$, where no answer prefers a class, and $k^{-1/q}$, where all are sure.
///
/// # When to use
/// As [`PredictionEntropy`](crate::PredictionEntropy), of which it is a relative that depends less on the smallest probabilities. A fit
/// that is sure of one class for all rows scores highest.
///
/// # Differences
/// The paper makes probabilities of a network's logits by a softmax or by its Taylor polynomial, whichever their spread suggests; a
/// learner's answers are probabilities already, as in skada.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Mano;
///
/// assert_eq!(Mano::default().order, 4.0);
/// assert!(Mano { order: 0.5 }.check().is_err());
/// ```
///
/// # References
/// Xie, Odonnat, Feofanov, Deng, Zhang and An, *MaNo: Exploiting Matrix Norm for Unsupervised Accuracy Estimation Under Distribution
/// Shifts*, NeurIPS 2024, arXiv:2405.18979.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "mano", title = "MaNo", catalogue = [28], paper = "arxiv:2405.18979", year = 2024, case = "", case = "order = 2")]
pub struct Mano {
    /// The order of the norm, $q$.
    #[method(min = 1)]
    pub order: f64,
}

impl Default for Mano {
    fn default() -> Self {
        Self { order: 4.0 }
    }
}

impl Score for Mano {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        case.held.y.classes(Self::CARD.name)?;
        let answers = case.fit.answers(case.target_held.x)?;
        let sum: f64 = answers.iter().map(|p| p.powf(self.order)).sum();
        Ok((sum / answers.len().max(1) as f64).powf(1.0 / self.order))
    }
}
