use crate::prior::{Answers, Moment, Moments, PriorEstimate, Priors, Use, by_answers};
use crate::{Align, Aligned, Host, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::learn::Labels;
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

/// Finds the target's shares of classes by inverting the learner's table of confusions.
///
/// # Mathematics
/// Under label shift $p(x \mid y)$ is common and the shares are $\omega_c p_c$. With moments $h(x)$ of the answers, one for the answered
/// class (`hard`) or the probabilities (`soft`), on rows that the learner has not seen,
/// $$A = \frac1n \sum_i h(x_i)\, e_{y_i}^\top, \qquad b = \frac1m \sum_j h(x'_j), \qquad A\, \omega = b.$$
/// $\sum_c \hat p_c \omega_c = 1$ follows. Where a weight is negative or $A$ nearly singular, $|A\omega - b|^2$ is least over $\omega \ge 0$
/// with that sum. To first order
/// $$\operatorname{cov} \hat\omega = A^{-1} \big( \tfrac1n \operatorname{cov}_s(\omega_y h) + \tfrac1m \operatorname{cov}_t(h) \big) A^{-\top},$$
/// and for the shares the first covariance is within classes; intervals are at 95 %.
///
/// # When to use
/// Label shift with any learner, calibrated or not: only its confusions must be those of the source. `condition` tells how well they can be
/// inverted. `soft` varies less than `hard`.
///
/// # Differences
/// The paper sets negative weights to zero, after which the shares no longer sum to one. Answers to source rows come from folds that have not
/// seen them, where the paper sets a part of the source aside.
///
/// # Example
/// ```
/// use acclimate_shift::Bbse;
/// use acclimate_stats::learn::Labels;
/// use ndarray::array;
///
/// let y = Labels::Classes { of: vec![0, 0, 1, 1], count: 2 };
/// let source = array![[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]];
/// let found = Bbse::default().weights(source.view(), &y, source.view())?;
/// assert!((found.prior[0] - 0.5).abs() < 1e-12);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Lipton, Wang and Smola, *Detecting and correcting for label shift with black box predictors*, ICML 2018, arXiv:1802.03916.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "bbse", title = "BBSE", catalogue = [60], paper = "arxiv:1802.03916", year = 2018)]
#[method(needs(labels), case = "", case = "moment = \"hard\"\nuse = \"answers\"")]
pub struct Bbse {
    /// What of the answers is averaged: `hard` or `soft`.
    pub moment: Moment,
    /// What the shares are used for: `rows` or `answers`.
    #[serde(rename = "use")]
    pub r#use: Use,
    /// Folds in which the learner answers source rows that it has not seen.
    #[method(min = 2)]
    pub folds: usize,
}

impl Default for Bbse {
    fn default() -> Self {
        Self { moment: Moment::Soft, r#use: Use::Rows, folds: 5 }
    }
}

impl Bbse {
    /// The estimate from probabilities `[rows, classes]` alone; those of the source must come from fits that have not seen its rows.
    ///
    /// # Errors
    /// When sizes differ, numbers are not probabilities, or a class has no row in the source.
    pub fn weights(
        &self,
        source: ArrayView2<'_, f64>,
        labels: &Labels,
        target: ArrayView2<'_, f64>,
    ) -> Result<PriorEstimate> {
        let answers = Answers::new(Self::CARD.name, source, labels, target)?;
        let moments = Moments::new(self.moment.of(source), answers.of, self.moment.of(target));
        let weights = moments.solve(&answers.shares)?;
        moments.estimate(answers.of, &answers.shares, weights)
    }
}

impl Align for Bbse {
    type View = Priors;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Priors>> {
        let estimate = |held: ArrayView2<'_, f64>, seen: ArrayView2<'_, f64>| self.weights(held, source.y, seen);
        by_answers(Self::CARD.name, (source, target, host), self.folds, self.r#use, estimate)
    }
}
