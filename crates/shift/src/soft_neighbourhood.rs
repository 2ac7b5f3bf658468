use crate::prediction_entropy::entropy;
use crate::{Case, Score};
use acclimate_core::{Method, Result};
use ndarray::{Array1, Axis};
use serde::{Deserialize, Serialize};

/// How many neighbours rows of the target have among the answers.
///
/// # Mathematics
/// The probabilities of each unseen row of the target, scaled to length one, are $\hat p_i$. Each row spreads its attention over the
/// others, and the score is the mean entropy of that:
/// $$q_{ij} = \frac{e^{\hat p_i^\top \hat p_j / \tau}}{\sum_{k \ne i} e^{\hat p_i^\top \hat p_k / \tau}} \ (j \ne i), \qquad
///   s = -\frac1n \sum_i \sum_{j \ne i} q_{ij} \log q_{ij}.$$
/// It is at most $\log(n - 1)$, where all answers are alike.
///
/// # When to use
/// Many classes: a fit that spreads a class over several answers scores low. A fit that gives all rows one class scores highest, so it
/// wants a check on collapse beside it.
///
/// # Differences
/// The authors, and skada 0.4.0, leave $j = i$ in with $-1/\tau$ in place of $1/\tau$; at the default temperature that adds
/// less than $10^{-15}$ where another row has a like answer, and less than $10^{-7}$ where none has.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::SoftNeighbourhood;
///
/// assert_eq!(SoftNeighbourhood::default().temperature, 0.05);
/// assert!(SoftNeighbourhood { temperature: 0.0 }.check().is_err());
/// ```
///
/// # References
/// Saito, Kim, Teterwak, Sclaroff, Darrell and Saenko, *Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft
/// Neighborhood Density*, ICCV 2021, arXiv:2108.10860.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "soft_neighbourhood", title = "Soft Neighborhood Density", catalogue = [28], paper = "arxiv:2108.10860")]
#[method(year = 2021, case = "")]
pub struct SoftNeighbourhood {
    /// The divisor of likenesses, $\tau$.
    #[method(above = 0)]
    pub temperature: f64,
}

impl Default for SoftNeighbourhood {
    fn default() -> Self {
        Self { temperature: 0.05 }
    }
}

impl Score for SoftNeighbourhood {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        case.held.y.classes(Self::CARD.name)?;
        let answers = case.fit.answers(case.target_held.x)?;
        let lengths = answers.map_axis(Axis(1), |row| row.dot(&row).sqrt());
        let scaled = answers / lengths.insert_axis(Axis(1));
        let alike = scaled.dot(&scaled.t()) / self.temperature;
        let mut total = 0.0;
        for (i, row) in alike.rows().into_iter().enumerate() {
            let others = row.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, value)| *value);
            let most = others.clone().fold(f64::NEG_INFINITY, f64::max);
            let attention: Array1<f64> = others.map(|value| (value - most).exp()).collect();
            let sum = attention.sum();
            total += entropy((attention / sum).view());
        }
        Ok(total / alike.nrows().max(1) as f64)
    }
}
