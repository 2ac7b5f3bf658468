use super::{Bounds, Held, Interval, Intervals, interval::columns};
use crate::quantile::Scores;
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Widens or narrows a predicted range of quantiles until it covers.
///
/// # Mathematics
/// A model predicts a lower quantile $\ell_i$ and an upper one $u_i$. `sides = "both"` calibrates one number,
/// $$E_i = \max(\ell_i - y_i,\; y_i - u_i), \qquad C(x) = [\ell(x) - \hat q,\; u(x) + \hat q], \qquad
///   \hat q = E_{(\lceil (n+1)(1-\alpha) \rceil)};$$
/// `"each"` calibrates $\ell_i - y_i$ and $y_i - u_i$ apart, each at $\alpha/2$. Coverage is at least $1 - \alpha$ for exchangeable rows.
/// $\hat q$ may be negative: a range that was too wide shrinks, and may become empty, where its ends cross.
///
/// # When to use
/// When errors are of unlike size over rows and a model of quantiles is at hand (a forest, boosting with the pinball loss): intervals follow
/// it. `"each"` keeps both tails at $\alpha/2$ and is wider. Answers are `[rows, 2]`: lower, then upper.
///
/// # Differences
/// None from the paper. The MAPIE package calls `"each"` (its default) `symmetric_correction=False`.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, Cqr, Held};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[0.0, 1.0], [0.0, 2.0], [1.0, 3.0]], [1.5, 1.0, 0.8]);
/// let fit = Calibrated::new(&Cqr::default(), &Held::new(answers.view(), &truths), None, &[])?;
/// let found = fit.intervals(array![[4.0, 5.0]].view(), None, &[], 0.25)?;
/// assert_eq!((found[0].lower, found[0].upper), (3.5, 5.5));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Romano, Patterson and Candès, *Conformalized Quantile Regression*, NeurIPS 2019, arXiv:1905.03222.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "cqr", title = "CQR", catalogue = [], paper = "arxiv:1905.03222", year = 2019)]
#[method(needs(labels), case = "", case = "sides = \"each\"")]
pub struct Cqr {
    /// Whether the two ends are calibrated together, `both`, or apart, `each`.
    pub sides: Sides,
}

/// How the ends of an interval are calibrated in [`Cqr`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sides {
    /// One correction for both.
    #[default]
    Both,
    /// A correction for each, at half the share of misses.
    Each,
}

/// How far truths lay outside of their ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CqrFit {
    /// Of both ends, or of the lower.
    below: Scores,
    /// Of the upper end where it is calibrated apart.
    above: Option<Scores>,
}

impl Intervals for Cqr {
    type Fit = CqrFit;

    const COLUMNS: &'static [&'static str] = &["lower", "upper"];

    fn calibrate(&self, held: &Held<'_>, weights: &[f64]) -> Result<CqrFit> {
        columns("cqr", held.answers.ncols(), 2, "lower and upper quantile")?;
        let rows = || held.answers.rows().into_iter().zip(held.truths);
        let below = rows().map(|(answers, truth)| answers[0] - truth);
        let above = rows().map(|(answers, truth)| truth - answers[1]);
        Ok(match self.sides {
            Sides::Both => {
                CqrFit { below: Scores::new("cqr", below.zip(above).map(|(b, a)| b.max(a)), weights)?, above: None }
            }
            Sides::Each => {
                CqrFit { below: Scores::new("cqr", below, weights)?, above: Some(Scores::new("cqr", above, weights)?) }
            }
        })
    }
}

impl Bounds for CqrFit {
    fn bounds(&self, answers: &[f64], weight: f64, alpha: f64) -> Result<Interval> {
        columns("cqr", answers.len(), 2, "lower and upper quantile")?;
        let (below, above) = match &self.above {
            None => {
                let both = self.below.threshold(alpha, weight);
                (both, both)
            }
            Some(above) => (self.below.threshold(alpha / 2.0, weight), above.threshold(alpha / 2.0, weight)),
        };
        Ok(Interval { lower: answers[0] - below, upper: answers[1] + above })
    }
}
