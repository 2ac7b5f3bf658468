use super::{Bounds, Held, Interval, Intervals, cv_plus::plus, interval::columns};
use acclimate_core::{Error, Method, Result};
use ndarray::{ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

/// Jackknife+ with the fits of a bootstrap: a row's own prediction is that of the fits which did not draw it.
///
/// # Mathematics
/// Of $B$ fits $\mu_b$ on bootstraps $S_b$, $\mu_{-i}(x)$ is the mean or median of $\mu_b(x)$ over the $b$ with $i \notin S_b$, and
/// $R_i = |y_i - \mu_{-i}(x_i)|$. The interval is that of jackknife+. If $B$ was drawn from a binomial, $\mathrm{Bin}(B_0,
/// (1 - \tfrac{1}{n+1})^n)$, it covers at least $1 - 2\alpha$.
///
/// # When to use
/// When the model is an ensemble of bootstraps anyhow (a forest, bagging): intervals cost no fit. Take 25 fits or more: a row that
/// every fit has drawn cannot calibrate. Answers are `[rows, B]`, at calibration with `bags`, which say what each fit has drawn.
///
/// # Differences
/// Rows that all fits have drawn are left out, and the fit says how many are left; some packages give them a prediction that has seen them.
/// $B$ is taken as given, as in all implementations that we know.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, Held, JackknifePlusAb};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[1.0, 9.0], [9.0, 2.0], [1.0, 3.0]], [1.5, 1.0, 2.25]);
/// let bags = array![[false, true], [true, false], [false, false]];
/// let held = Held { bags: Some(bags.view()), ..Held::new(answers.view(), &truths) };
/// let fit = Calibrated::new(&JackknifePlusAb::default(), &held, None, &[])?;
/// let found = fit.intervals(array![[6.0, 8.0]].view(), None, &[], 0.25)?;
/// assert_eq!((found[0].lower, found[0].upper), (5.5, 9.0));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Kim, Xu and Barber, *Predictive Inference Is Free with the Jackknife+-after-Bootstrap*, NeurIPS 2020, arXiv:2002.09025.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "jackknife_plus_ab", title = "Jackknife+-after-bootstrap", catalogue = [], paper = "arxiv:2002.09025", year = 2020)]
#[method(needs(labels), case = "", case = "aggregate = \"median\"")]
pub struct JackknifePlusAb {
    /// How the fits are joined: `mean` or `median`.
    pub aggregate: Aggregate,
}

/// How several predictions become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Their mean.
    #[default]
    Mean,
    /// Their median; of an even number the mean of the middle two.
    Median,
}

impl Aggregate {
    /// Of these numbers; of none nothing.
    pub fn of(self, numbers: impl Iterator<Item = f64>) -> Option<f64> {
        let mut numbers: Vec<f64> = numbers.collect();
        let count = numbers.len();
        if count == 0 {
            return None;
        }
        Some(match self {
            Self::Mean => numbers.iter().sum::<f64>() / count as f64,
            Self::Median => {
                numbers.sort_by(f64::total_cmp);
                (numbers[(count - 1) / 2] + numbers[count / 2]) / 2.0
            }
        })
    }
}

/// The error, the weight and the fits of each row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BagFit {
    aggregate: Aggregate,
    errors: Vec<f64>,
    weights: Vec<f64>,
    /// The fits that have not drawn each row.
    unseen: Vec<Vec<usize>>,
    fits: usize,
}

impl BagFit {
    /// How many rows calibrate.
    pub fn rows(&self) -> usize {
        self.errors.len()
    }
}

/// The prediction of each row by the fits that have not drawn it; none where all have. Both are `[rows, fits]`.
///
/// # Errors
/// When they differ in shape.
pub fn left_out(
    answers: ArrayView2<'_, f64>,
    bags: ArrayView2<'_, bool>,
    aggregate: Aggregate,
) -> Result<Vec<Option<f64>>> {
    if answers.dim() != bags.dim() {
        let (what, expected) = ("what each fit drew".to_owned(), format!("{:?}, as the answers", answers.shape()));
        return Err(Error::Shape { what, expected, got: bags.shape().to_vec() });
    }
    let rows = answers.rows().into_iter().zip(bags.rows());
    let one = |(answers, drawn): (ArrayView1<'_, f64>, ArrayView1<'_, bool>)| {
        aggregate.of(answers.iter().zip(drawn).filter(|(_, drawn)| !**drawn).map(|(answer, _)| *answer))
    };
    Ok(rows.map(one).collect())
}

impl Intervals for JackknifePlusAb {
    type Fit = BagFit;

    fn calibrate(&self, held: &Held<'_>, weights: &[f64]) -> Result<BagFit> {
        let bags = held.bags.ok_or_else(|| {
            let what = "jackknife_plus_ab: `bags` must say for each calibration row which fits drew it";
            Error::Other(what.to_owned())
        })?;
        let fits = held.answers.ncols();
        let (mut errors, mut kept, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
        let own = left_out(held.answers, bags, self.aggregate)?;
        for (row, (answer, truth)) in own.into_iter().zip(held.truths).enumerate() {
            if !truth.is_finite() {
                let what = format!("jackknife_plus_ab: the truth of row {} is not finite; leave the row out", row + 1);
                return Err(Error::Other(what));
            }
            if let Some(answer) = answer {
                errors.push((truth - answer).abs());
                kept.push(weights[row]);
                unseen.push((0..fits).filter(|fit| !bags[[row, *fit]]).collect());
            }
        }
        Ok(BagFit { aggregate: self.aggregate, errors, weights: kept, unseen, fits })
    }
}

impl Bounds for BagFit {
    fn bounds(&self, answers: &[f64], weight: f64, alpha: f64) -> Result<Interval> {
        columns("jackknife_plus_ab", answers.len(), self.fits, "a prediction by each fit")?;
        let centre = |free: &Vec<usize>| {
            self.aggregate.of(free.iter().map(|fit| answers[*fit])).expect("rows without such a fit are left out")
        };
        let centres: Vec<f64> = self.unseen.iter().map(centre).collect();
        Ok(plus(centres.into_iter(), &self.errors, &self.weights, weight, alpha))
    }
}
