use super::{Bounds, Held, Interval, Intervals, interval::columns};
use crate::quantile;
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};

/// Intervals from cross-validation: every row calibrates, by the fit that has not seen it.
///
/// # Mathematics
/// Row $i$ lies in fold $k(i)$; $\mu_{-k}$ is the fit without fold $k$, and $R_i = |y_i - \mu_{-k(i)}(x_i)|$. Then
/// $$C(x) = \Big[\, \lfloor \alpha(n+1) \rfloor\text{-th smallest of } \mu_{-k(i)}(x) - R_i,\;\;
///   \lceil (1-\alpha)(n+1) \rceil\text{-th smallest of } \mu_{-k(i)}(x) + R_i \,\Big].$$
/// For exchangeable rows it covers at least $1 - 2\alpha - \sqrt{2/n}$, and nearly $1 - \alpha$ in practice. Under weights the ranks are
/// masses, as in split prediction.
///
/// # When to use
/// When rows are too few to hold some out. It needs a fit for each of $K$ folds (5 to 20) and their predictions at every new row. Answers
/// are `[rows, 1]` at calibration, out of fold, with `folds`; `[rows, K]` at new rows, a column for each fold.
///
/// # Differences
/// A new row costs time of order $n$ and no matrix of all pairs of rows is made. In a group of `mondrian` without a row of some fold the
/// columns are still those of all folds.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, CvPlus, Held};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[1.0], [2.0], [3.0], [4.0]], [1.5, 1.0, 3.2, 4.1]);
/// let held = Held { folds: &[0, 1, 0, 1], ..Held::new(answers.view(), &truths) };
/// let fit = Calibrated::new(&CvPlus::default(), &held, None, &[])?;
/// let found = fit.intervals(array![[7.0, 8.0]].view(), None, &[], 0.4)?;
/// assert_eq!((found[0].lower, found[0].upper), (6.8, 8.1));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Barber, Candès, Ramdas and Tibshirani, *Predictive Inference with the Jackknife+*, Annals of Statistics 2021, arXiv:1905.02928.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "cv_plus", title = "CV+", catalogue = [], paper = "arxiv:1905.02928", year = 2021)]
#[method(needs(labels))]
pub struct CvPlus {}

/// What CV+ and jackknife+ keep: the error of each row, its weight and the column of new answers that goes with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlusFit {
    errors: Vec<f64>,
    weights: Vec<f64>,
    columns: Vec<usize>,
}

impl Intervals for CvPlus {
    type Fit = PlusFit;

    fn calibrate(&self, held: &Held<'_>, weights: &[f64]) -> Result<PlusFit> {
        columns("cv_plus", held.answers.ncols(), 1, "predictions out of fold")?;
        if held.folds.len() != held.truths.len() {
            return Err(Error::Other("cv_plus: the fold of each calibration row is not given; set `folds`".to_owned()));
        }
        PlusFit::new("cv_plus", held, held.folds.to_vec(), weights)
    }
}

impl PlusFit {
    pub(super) fn new(who: &str, held: &Held<'_>, columns: Vec<usize>, weights: &[f64]) -> Result<Self> {
        let rows = held.answers.rows().into_iter().zip(held.truths);
        let errors: Vec<f64> = rows.map(|(answers, truth)| (truth - answers[0]).abs()).collect();
        if let Some(row) = errors.iter().position(|error| !error.is_finite()) {
            return Err(Error::Other(format!("{who}: the truth of row {} is not finite; leave the row out", row + 1)));
        }
        Ok(Self { errors, weights: weights.to_vec(), columns })
    }
}

impl Bounds for PlusFit {
    fn bounds(&self, answers: &[f64], weight: f64, alpha: f64) -> Result<Interval> {
        let last = self.columns.iter().max().map_or(0, |last| last + 1);
        if answers.len() < last {
            columns("plus", answers.len(), last, "a prediction by the fit without each fold")?;
        }
        let centres = self.columns.iter().map(|column| answers[*column]);
        Ok(plus(centres, &self.errors, &self.weights, weight, alpha))
    }
}

/// The interval out of a centre, an error and a weight for each calibration row.
pub(super) fn plus(
    centres: impl Iterator<Item = f64> + Clone,
    errors: &[f64],
    weights: &[f64],
    weight: f64,
    alpha: f64,
) -> Interval {
    let mass = (1.0 - alpha) * (weights.iter().sum::<f64>() + weight);
    let end = |sign: f64| {
        let rows = centres.clone().zip(errors).zip(weights);
        let mut pairs: Vec<(f64, f64)> = rows.map(|((c, error), weight)| (sign * c + error, *weight)).collect();
        sign * quantile::reach(&mut pairs, mass)
    };
    Interval { lower: end(-1.0), upper: end(1.0) }
}
