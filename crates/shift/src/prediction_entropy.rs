use crate::{Case, Score};
use acclimate_core::{Method, Result};
use ndarray::{ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

/// How sure the fit is of its answers to unseen rows of the target.
///
/// # Mathematics
/// With the probabilities $p_{ic}$ of class $c$ for the unseen row $i$ of the target, $0 \log 0 = 0$:
/// $$s = \frac1n \sum_{i=1}^n \sum_c p_{ic} \log p_{ic} \le 0.$$
///
/// # When to use
/// It is cheap and needs no source, and asks for calibrated probabilities. A fit that is sure of one class for all rows scores highest:
/// [`InfoMax`](crate::InfoMax) and [`Bnm`](crate::Bnm) ask for several classes too.
///
/// # Differences
/// skada 0.4.0 takes the mean over rows and classes, a factor of the number of classes smaller; the choice between fits is the same.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::{PredictionEntropy, SCORES};
///
/// assert!(SCORES.iter().any(|score| score.card.name == PredictionEntropy::CARD.name));
/// ```
///
/// # References
/// Morerio, Cavazza and Murino, *Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain Adaptation*, ICLR 2018,
/// arXiv:1711.10288.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "prediction_entropy", title = "Prediction entropy", catalogue = [28], paper = "arxiv:1711.10288", year = 2018)]
#[method(case = "")]
pub struct PredictionEntropy {}

impl Score for PredictionEntropy {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        case.held.y.classes(Self::CARD.name)?;
        Ok(-mean_entropy(case.fit.answers(case.target_held.x)?.view()))
    }
}

/// The mean over rows of their entropy.
pub(crate) fn mean_entropy(answers: ArrayView2<'_, f64>) -> f64 {
    answers.rows().into_iter().map(entropy).sum::<f64>() / answers.nrows().max(1) as f64
}

/// The entropy of a row of probabilities.
pub(crate) fn entropy(p: ArrayView1<'_, f64>) -> f64 {
    p.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum()
}
