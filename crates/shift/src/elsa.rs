use crate::prior::{Answers, Moment, Moments, PriorEstimate, Priors, Use, by_answers};
use crate::{Align, Aligned, Bbse, Host, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::learn::Labels;
use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// Finds the target's shares of classes by linear systems whose moments are chosen for little variance.
///
/// # Mathematics
/// Under label shift every $h$ gives $E_s[\omega_Y h(X)] = E_t[h(X)]$, linear in $\omega$. With probabilities $f(x)$ under the source's shares, $n$
/// and $m$ rows, $r = n/m$ and working weights $\omega^0$,
/// $$h(x) = \frac{f(x)}{\sum_c f_c(x) \big[ (\omega^0_c)^2 + r\, \omega^0_c \big]}, \qquad
///   A = \frac1n \sum_i h(x_i) e_{y_i}^\top, \quad b = \frac1m \sum_j h(x'_j), \qquad A \hat\omega = b.$$
/// The divisor is the variance of the residual at $x$, up to a factor, so this is the best instrument for the restriction
/// $p_s(x) E_s[\omega_Y \mid x] = p_t(x)$ where $f$ and $\omega^0$ are right; where they are not, the estimate is still consistent. $\omega^0$ is
/// soft BBSE, and after each solve the weights found, at least `clip`. $\sum_c \hat p_c \hat\omega_c = 1$ holds for every $\omega^0$, and
/// $\omega^0 = 1$ is soft BBSE. Covariance, intervals and what happens to negative weights are those of BBSE with this $h$.
///
/// # When to use
/// Label shift with a probabilistic learner, without calibrating it: where BBSE varies more and EM needs calibration. Read the intervals.
///
/// # Differences
/// The abstract (linear systems from the geometry of influence functions, no calibration) and the authors' answers to their reviewers (the
/// estimator takes the source's $p(y \mid x)$ and is consistent when it is wrong) confirm this form. The printed $h$ could not be
/// compared: the one here is derived from the variance of the moments.
///
/// # Example
/// ```
/// use acclimate_shift::Elsa;
/// use acclimate_stats::learn::Labels;
/// use ndarray::array;
///
/// let y = Labels::Classes { of: vec![0, 0, 1, 1], count: 2 };
/// let source = array![[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]];
/// let found = Elsa::default().weights(source.view(), &y, array![[0.9, 0.1], [0.5, 0.5]].view())?;
/// assert!(found.prior[0] > 0.5 && found.intervals[0][1] > found.prior[0]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Tian, Zhang and Zhao, *ELSA: Efficient Label Shift Adaptation through the Lens of Semiparametric Models*, ICML 2023, arXiv:2305.19123.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "elsa", title = "ELSA", catalogue = [60], paper = "arxiv:2305.19123", year = 2023)]
#[method(needs(labels), case = "", case = "refinements = 0\nuse = \"answers\"")]
pub struct Elsa {
    /// Solves after the first, each from the weights of the one before.
    pub refinements: usize,
    /// The least working weight.
    #[method(above = 0)]
    pub clip: f64,
    /// What the shares are used for: `rows` or `answers`.
    #[serde(rename = "use")]
    pub r#use: Use,
    /// Folds in which the learner answers source rows that it has not seen.
    #[method(min = 2)]
    pub folds: usize,
}

impl Default for Elsa {
    fn default() -> Self {
        Self { refinements: 1, clip: 1e-3, r#use: Use::Rows, folds: 5 }
    }
}

impl Elsa {
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
        let first = Bbse { moment: Moment::Soft, ..Bbse::default() }.weights(source, labels, target)?;
        let mut found = self.from(&first.weights, source, labels, target)?;
        for _ in 0..self.refinements {
            found = self.from(&found.weights, source, labels, target)?;
        }
        Ok(found)
    }

    /// One solve from given working weights.
    ///
    /// # Errors
    /// As [`Elsa::weights`].
    pub fn from(
        &self,
        working: &[f64],
        source: ArrayView2<'_, f64>,
        labels: &Labels,
        target: ArrayView2<'_, f64>,
    ) -> Result<PriorEstimate> {
        let answers = Answers::new(Self::CARD.name, source, labels, target)?;
        let ratio = source.nrows() as f64 / target.nrows() as f64;
        let spread: Vec<f64> = working.iter().map(|w| w.max(self.clip)).map(|w| w * w + ratio * w).collect();
        let moment = |probabilities: ArrayView2<'_, f64>| -> Array2<f64> {
            let mut found = probabilities.to_owned();
            for mut row in found.rows_mut() {
                let variance: f64 = row.iter().zip(&spread).map(|(p, s)| p * s).sum();
                if variance > 0.0 {
                    row /= variance;
                }
            }
            found
        };
        let moments = Moments::new(moment(source), answers.of, moment(target));
        let weights = moments.solve(&answers.shares)?;
        moments.estimate(answers.of, &answers.shares, weights)
    }
}

impl Align for Elsa {
    type View = Priors;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Priors>> {
        let estimate = |held: ArrayView2<'_, f64>, seen: ArrayView2<'_, f64>| self.weights(held, source.y, seen);
        by_answers(Self::CARD.name, (source, target, host), self.folds, self.r#use, estimate)
    }
}
