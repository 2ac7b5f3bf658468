use super::{Bounds, Held, Interval, Intervals, interval::columns};
use crate::quantile::Scores;
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};

/// An interval around a prediction, as wide as the errors on rows that the model has not seen.
///
/// # Mathematics
/// With predictions $\mu_i$ and truths $y_i$ of $n$ calibration rows, and scales $s_i > 0$ where a second column of answers gives them,
/// $$R_i = \frac{|y_i - \mu_i|}{s_i + \text{floor}}, \qquad
///   C(x) = \mu(x) \pm \hat q \,(s(x) + \text{floor}), \qquad \hat q = R_{(\lceil (n+1)(1-\alpha) \rceil)}.$$
/// If calibration rows and the new one are exchangeable, $P(y \in C) \ge 1 - \alpha$, and at most $1 - \alpha + 1/(n+1)$ where scores do not
/// tie. Given the calibration rows, coverage follows $\mathrm{Beta}(k, n + 1 - k)$ with $k = \lceil (n+1)(1-\alpha) \rceil$. Where $k > n$
/// the interval is infinite. Under weights $w_i$ and $w$ of the new row $\hat q$ is the smallest score up to which lies
/// $(1-\alpha)(\sum w_i + w)$.
///
/// # When to use
/// The first choice where some rows can be held out. With scales (another model's guess of the size of the error) intervals are wide
/// where errors are. Answers are `[rows, 1]`, or `[rows, 2]` with scales.
///
/// # Differences
/// The conformal rank is exact at any `alpha`; an interpolated quantile, as some packages take, covers less. `floor` is zero unless
/// it is set; the scale alone must then be positive.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, Held, Split};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[1.0], [2.0], [3.0], [4.0]], [1.5, 1.0, 3.2, 4.1]);
/// let fit = Calibrated::new(&Split::default(), &Held::new(answers.view(), &truths), None, &[])?;
/// let found = fit.intervals(array![[7.0]].view(), None, &[], 0.4)?;
/// assert!((found[0].upper - 7.5).abs() < 1e-12);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Papadopoulos, Proedrou, Vovk and Gammerman, *Inductive Confidence Machines for Regression*, ECML 2002, doi:10.1007/3-540-36755-1_29;
/// Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, *Distribution-Free Predictive Inference for Regression*, JASA 2018, arXiv:1604.04173.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "split", title = "Split conformal prediction", catalogue = [], paper = "arxiv:1604.04173", year = 2002)]
#[method(needs(labels), case = "", case = "floor = 0.1")]
pub struct Split {
    /// Added to each scale, so that a model that is very sure is not believed wholly; without scales it changes nothing.
    #[method(min = 0)]
    pub floor: f64,
}

/// The errors on calibration rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitFit {
    scores: Scores,
    scaled: bool,
    floor: f64,
}

impl Intervals for Split {
    type Fit = SplitFit;

    fn calibrate(&self, held: &Held<'_>, weights: &[f64]) -> Result<SplitFit> {
        let scaled = held.answers.ncols() == 2;
        if !scaled {
            columns("split", held.answers.ncols(), 1, "or 2 with a scale for each row")?;
        }
        let mut scores = Vec::with_capacity(held.truths.len());
        for (answers, truth) in held.answers.rows().into_iter().zip(held.truths) {
            scores.push((truth - answers[0]).abs() / scale(scaled, answers.get(1), self.floor)?);
        }
        Ok(SplitFit { scores: Scores::new("split", scores, weights)?, scaled, floor: self.floor })
    }
}

impl Bounds for SplitFit {
    fn bounds(&self, answers: &[f64], weight: f64, alpha: f64) -> Result<Interval> {
        columns("split", answers.len(), 1 + usize::from(self.scaled), "as the calibration rows")?;
        let far = self.scores.threshold(alpha, weight) * scale(self.scaled, answers.get(1), self.floor)?;
        Ok(Interval { lower: answers[0] - far, upper: answers[0] + far })
    }
}

fn scale(scaled: bool, given: Option<&f64>, floor: f64) -> Result<f64> {
    let scale = if scaled { given.copied().unwrap_or(1.0) + floor } else { 1.0 };
    if scale > 0.0 {
        return Ok(scale);
    }
    Err(Error::Other(format!("split: a scale is `{scale}`; scales are positive: give others or raise `floor`")))
}
