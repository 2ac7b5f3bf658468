use super::{Held, Intervals, cv_plus::PlusFit, interval::columns};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Intervals from fits that each leave one row out.
///
/// # Mathematics
/// With $\mu_{-i}$ fitted on all rows but $i$ and $R_i = |y_i - \mu_{-i}(x_i)|$,
/// $$C(x) = \Big[\, \lfloor \alpha(n+1) \rfloor\text{-th smallest of } \mu_{-i}(x) - R_i,\;\;
///   \lceil (1-\alpha)(n+1) \rceil\text{-th smallest of } \mu_{-i}(x) + R_i \,\Big].$$
/// For exchangeable rows it covers at least $1 - 2\alpha$, whatever the learner; for stable learners $1 - \alpha$. It is CV+ with a fold
/// for each row.
///
/// # When to use
/// A few hundred rows and a learner that is fitted fast, or leaves rows out by a formula (linear, ridge, kernels). Answers are `[rows, 1]`
/// at calibration; `[rows, n]` at new rows, a column for each calibration row. Under `mondrian` give the rows' numbers as `folds`.
///
/// # Differences
/// None from the paper. A new row costs time and memory of order $n$.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, Held, JackknifePlus};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[1.0], [2.0], [3.0]], [1.5, 1.0, 3.25]);
/// let fit = Calibrated::new(&JackknifePlus::default(), &Held::new(answers.view(), &truths), None, &[])?;
/// let found = fit.intervals(array![[7.0, 8.0, 9.0]].view(), None, &[], 0.25)?;
/// assert_eq!((found[0].lower, found[0].upper), (6.5, 9.25));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Barber, Candès, Ramdas and Tibshirani, *Predictive Inference with the Jackknife+*, Annals of Statistics 2021, arXiv:1905.02928.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "jackknife_plus", title = "Jackknife+", catalogue = [], paper = "arxiv:1905.02928", year = 2021)]
#[method(needs(labels))]
pub struct JackknifePlus {}

impl Intervals for JackknifePlus {
    type Fit = PlusFit;

    fn calibrate(&self, held: &Held<'_>, weights: &[f64]) -> Result<PlusFit> {
        columns("jackknife_plus", held.answers.ncols(), 1, "predictions by the fit without the row")?;
        PlusFit::new("jackknife_plus", held, own(held), weights)
    }
}

/// The column of each row: its number among all rows, which `folds` holds where only some of them are given.
fn own(held: &Held<'_>) -> Vec<usize> {
    if held.folds.is_empty() { (0..held.truths.len()).collect() } else { held.folds.to_vec() }
}
