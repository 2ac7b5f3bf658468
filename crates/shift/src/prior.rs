//! Shares of classes in the target: estimates with intervals, and what to do with them.

use crate::{Aligned, Host, Lesson, Source, Target, View};
use acclimate_core::{Error, Result};
use acclimate_stats::learn::{Labels, finite, largest};
use acclimate_stats::{linalg, qp::Qp};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// What is known of the shares of classes in the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriorEstimate {
    /// The share of each class in the target over that in the source.
    pub weights: Vec<f64>,
    /// The share of each class in the target; they sum to one.
    pub prior: Vec<f64>,
    /// The covariance of the weights.
    pub covariance: Array2<f64>,
    /// 95 % intervals of the shares, within zero and one.
    pub intervals: Vec<[f64; 2]>,
    /// The condition number of the system that was solved; beyond some thousands the rows say little about the classes.
    pub condition: f64,
}

/// What an estimate of the shares is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// Source rows are weighed by their class, and the learner is fitted on them.
    Rows,
    /// The learner stays as it is, and its probabilities are multiplied by the weights of their classes.
    Answers,
}

/// What of the learner's answer is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// One for the class that is answered, zero for the others.
    Hard,
    /// The probabilities.
    Soft,
}

impl Moment {
    /// The moments of each row.
    pub fn of(self, probabilities: ArrayView2<'_, f64>) -> Array2<f64> {
        match self {
            Self::Soft => probabilities.to_owned(),
            Self::Hard => {
                let mut one = Array2::zeros(probabilities.dim());
                for (row, class) in largest(probabilities).into_iter().enumerate() {
                    one[[row, class]] = 1.0;
                }
                one
            }
        }
    }
}

/// How the shares of a target reach the learner's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priors {
    /// The share of each class in the target.
    pub prior: Vec<f64>,
    /// 95 % intervals of the shares.
    pub interval: Vec<[f64; 2]>,
    /// The share of each class in the target over that in the source.
    pub weights: Vec<f64>,
    /// What calibrates the answers before they are put right.
    pub calibration: Option<Calibration>,
    /// Whether answers are put right; otherwise the lesson is.
    pub corrects: bool,
}

impl View for Priors {
    fn correct(&self, answers: Array2<f64>) -> Result<Array2<f64>> {
        if !self.corrects {
            return Ok(answers);
        }
        if answers.ncols() != self.weights.len() {
            let expected = format!("[rows, {}]", self.weights.len());
            return Err(Error::Shape { what: "answers".to_owned(), expected, got: answers.shape().to_vec() });
        }
        let calibrated = match &self.calibration {
            Some(calibration) => calibration.apply(answers.view()),
            None => answers,
        };
        Ok(reweigh(calibrated.view(), &self.weights))
    }
}

/// Probabilities under other shares of classes: `p'_c ∝ p_c w_c`. A row that would be all zero stays as it is.
pub fn reweigh(probabilities: ArrayView2<'_, f64>, weights: &[f64]) -> Array2<f64> {
    let mut found = probabilities.to_owned();
    for mut row in found.rows_mut() {
        let sum: f64 = row.iter().zip(weights).map(|(p, w)| p * w).sum();
        if sum > 0.0 {
            row.iter_mut().zip(weights).for_each(|(p, w)| *p *= w / sum);
        }
    }
    found
}

/// Labels of the source beside probabilities of both domains, checked, with the shares of the source.
pub(crate) struct Answers<'a> {
    pub(crate) of: &'a [usize],
    pub(crate) target: ArrayView2<'a, f64>,
    pub(crate) shares: Vec<f64>,
}

impl<'a> Answers<'a> {
    pub(crate) fn new(
        who: &str,
        source: ArrayView2<'a, f64>,
        labels: &'a Labels,
        target: ArrayView2<'a, f64>,
    ) -> Result<Self> {
        let (of, count) = labels.classes(who)?;
        if count < 2 {
            return Err(Error::Other(format!(
                "{who}: there is one class, whose share is one; give two classes or more"
            )));
        }
        for (what, found, rows) in [("source", source, of.len()), ("target", target, target.nrows())] {
            if found.dim() != (rows, count) || rows == 0 {
                let what = format!("{who}: probabilities of the {what}");
                return Err(Error::Shape { what, expected: format!("[{rows}, {count}]"), got: found.shape().to_vec() });
            }
            finite(who, found)?;
            if let Some(((row, class), p)) = found.indexed_iter().find(|(_, p)| **p < 0.0) {
                return Err(Error::Other(format!(
                    "{who}: row {}, class {class} of the {what} has probability {p}; give probabilities, not scores",
                    row + 1
                )));
            }
        }
        let mut shares = vec![0.0; count];
        of.iter().for_each(|class| shares[*class] += 1.0 / of.len() as f64);
        if let Some(class) = shares.iter().position(|share| *share == 0.0) {
            return Err(Error::Other(format!(
                "{who}: no row of the source has class {class}, so nothing tells its share in the target; leave the class out or label a row"
            )));
        }
        Ok(Self { of, target, shares })
    }
}

/// Moments `h(x)` of both domains: `A = mean h(x) onehot(y)ᵀ` and `b = mean h(x')`, with `A ω = b`.
pub(crate) struct Moments {
    pub(crate) source: Array2<f64>,
    pub(crate) target: Array2<f64>,
    pub(crate) a: Array2<f64>,
    pub(crate) b: Array1<f64>,
}

impl Moments {
    pub(crate) fn new(source: Array2<f64>, of: &[usize], target: Array2<f64>) -> Self {
        let classes = source.ncols();
        let mut a = Array2::zeros((classes, classes));
        for (h, class) in source.rows().into_iter().zip(of) {
            a.column_mut(*class).scaled_add(1.0 / of.len() as f64, &h);
        }
        Self { b: linalg::column_means(target.view()), source, target, a }
    }

    /// The largest singular value of `A` over the smallest.
    pub(crate) fn condition(&self) -> Result<f64> {
        let (_, values, _) = linalg::svd(self.a.view())?;
        Ok(values.first().copied().unwrap_or(0.0) / values.last().copied().unwrap_or(0.0).max(1e-300))
    }

    /// The weights that solve the moments; where some are negative or the system is nearly singular, the nearest that are not negative and
    /// give shares with sum one.
    pub(crate) fn solve(&self, shares: &[f64]) -> Result<Vec<f64>> {
        if self.condition()? < 1e12 {
            let found = linalg::solve(self.a.view(), self.b.view().insert_axis(Axis(1)))?;
            if found.iter().all(|weight| *weight >= 0.0) && self.condition()? < 1e4 {
                return Ok(found.into_iter().collect());
            }
        }
        let classes = shares.len();
        // The slightest pull towards the source's own shares where the moments leave a choice.
        let ridge = 1e-10 * self.a.iter().map(|a| a * a).sum::<f64>();
        let quadratic = self.a.t().dot(&self.a) + Array2::<f64>::eye(classes) * ridge;
        let linear = -self.a.t().dot(&self.b) - ridge;
        let coefficients = Array1::from(shares.to_vec());
        let (lower, start) = (Array1::zeros(classes), Array1::ones(classes));
        let upper = coefficients.mapv(|share| 1.0 / share);
        let qp = Qp {
            quadratic: quadratic.view(),
            linear: linear.view(),
            lower: lower.view(),
            upper: upper.view(),
            coefficients: coefficients.view(),
            slab: [1.0, 1.0],
        };
        Ok(qp.solve(start.view(), 1e-12, 0.0, 100_000)?.x.to_vec())
    }

    /// The estimate with the covariance that the moments' own spread gives it, to first order.
    pub(crate) fn estimate(&self, of: &[usize], shares: &[f64], weights: Vec<f64>) -> Result<PriorEstimate> {
        let condition = self.condition()?;
        let classes = shares.len();
        let target = linalg::covariance(self.target.view(), 0) / self.target.nrows() as f64;
        let rows = of.len() as f64;
        // For the weights the counts of classes vary too; for the shares only the moments within classes do.
        let within = |r: usize, weighed: bool| -> Array1<f64> {
            let class = of[r];
            if weighed {
                &self.source.row(r) * weights[class]
            } else {
                (&self.source.row(r) - &(&self.a.column(class) / shares[class])) * weights[class]
            }
        };
        let spread = |weighed: bool| -> Array2<f64> {
            let mut all = Array2::zeros((of.len(), classes));
            for r in 0..of.len() {
                all.row_mut(r).assign(&within(r, weighed));
            }
            linalg::covariance(all.view(), 0) / rows
        };
        let inverse = linalg::least_squares(self.a.view(), Array2::eye(classes).view())?;
        let sandwich = |middle: Array2<f64>| inverse.dot(&middle).dot(&inverse.t());
        let covariance = sandwich(spread(true) + &target);
        let of_shares = sandwich(spread(false) + &target);
        let deviations: Vec<f64> = (0..classes).map(|c| shares[c] * of_shares[[c, c]].max(0.0).sqrt()).collect();
        Ok(finish(weights, shares, covariance, &deviations, condition))
    }
}

/// The estimate with shares of sum one and intervals of so many standard deviations.
pub(crate) fn finish(
    weights: Vec<f64>,
    shares: &[f64],
    covariance: Array2<f64>,
    deviations: &[f64],
    condition: f64,
) -> PriorEstimate {
    /// The 97.5th percentile of the normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    let raw: Vec<f64> = weights.iter().zip(shares).map(|(weight, share)| (weight * share).max(0.0)).collect();
    let sum: f64 = raw.iter().sum();
    let prior: Vec<f64> = raw.iter().map(|share| share / sum).collect();
    let around = |(share, deviation): (&f64, &f64)| {
        [(share - Z * deviation).clamp(0.0, 1.0), (share + Z * deviation).clamp(0.0, 1.0)]
    };
    let intervals = prior.iter().zip(deviations).map(around).collect();
    PriorEstimate { weights, prior, covariance, intervals, condition }
}

/// What to learn from, what to tell, and how to answer.
pub(crate) type Used = (Lesson, Vec<(&'static str, f64)>, Priors);

/// What to learn from and how to answer, by an estimate.
pub(crate) fn used(
    source: &Source<'_>,
    found: PriorEstimate,
    how: Use,
    calibration: Option<Calibration>,
) -> Result<Used> {
    let (of, _) = source.y.classes("label shift")?;
    let rows: Array1<f64> = of.iter().map(|class| found.weights[*class].max(0.0)).collect();
    let (rows, _) = crate::ratio::mean_one("label shift", rows)?;
    let mut facts = crate::ratio::facts(rows.view());
    facts.push(("condition", found.condition));
    let lesson = match how {
        Use::Rows => Lesson::weighted(source, rows),
        Use::Answers => Lesson::of(source),
    };
    let weights = found.weights.iter().map(|weight| weight.max(0.0)).collect();
    let (prior, interval, corrects) = (found.prior, found.intervals, how == Use::Answers);
    Ok((lesson, facts, Priors { prior, interval, weights, calibration, corrects }))
}

/// Aligns by `estimate`, which sees the learner's answers to rows of the source that it was not fitted on, in `folds` folds, and to the target.
pub(crate) fn by_answers(
    who: &'static str,
    (source, target, host): (&Source<'_>, &Target<'_>, &Host<'_>),
    folds: usize,
    how: Use,
    estimate: impl FnOnce(ArrayView2<'_, f64>, ArrayView2<'_, f64>) -> Result<PriorEstimate>,
) -> Result<Aligned<Priors>> {
    source.y.classes(who)?;
    let seen = host.learn(&Lesson::of(source))?.answers(target.x)?;
    let found = estimate(host.unseen(source, folds)?.view(), seen.view())?;
    let (lesson, facts, view) = used(source, found, how, None)?;
    Ok(Aligned { lesson, facts, view })
}

/// Temperature scaling with a bias for each class: `softmax(scale · log p + bias)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// One over the temperature.
    pub scale: f64,
    /// Added to the logarithm of each class; the first is zero.
    pub bias: Vec<f64>,
}

impl Calibration {
    /// Fits by maximum likelihood on held-out probabilities.
    ///
    /// # Errors
    /// When sizes differ or labels are numbers.
    pub fn fit(probabilities: ArrayView2<'_, f64>, labels: &Labels) -> Result<Self> {
        let (of, classes) = labels.classes("calibration")?;
        if probabilities.dim() != (of.len(), classes) {
            let expected = format!("[{}, {classes}]", of.len());
            return Err(Error::Shape {
                what: "probabilities".to_owned(),
                expected,
                got: probabilities.shape().to_vec(),
            });
        }
        let logs = probabilities.mapv(log);
        let loss = |at: &Self| -> f64 {
            let answers = at.softmax(&logs);
            -of.iter().enumerate().map(|(row, class)| answers[[row, *class]].max(1e-300).ln()).sum::<f64>()
                / of.len() as f64
        };
        let mut at = Self { scale: 1.0, bias: vec![0.0; classes] };
        for _ in 0..100 {
            // Newton's step in the scale and all biases but the first.
            let answers = at.softmax(&logs);
            let (mut slope, mut curve) = (Array1::<f64>::zeros(classes), Array2::<f64>::zeros((classes, classes)));
            for (row, class) in of.iter().enumerate() {
                let (p, z) = (answers.row(row), logs.row(row));
                let mean = p.dot(&z);
                slope[0] += mean - z[*class];
                curve[[0, 0]] += p.iter().zip(&z).map(|(p, z)| p * (z - mean) * (z - mean)).sum::<f64>();
                for c in 1..classes {
                    slope[c] += p[c] - f64::from(u8::from(c == *class));
                    curve[[0, c]] += p[c] * (z[c] - mean);
                    for d in 1..classes {
                        curve[[c, d]] += if c == d { p[c] } else { 0.0 } - p[c] * p[d];
                    }
                }
            }
            for c in 1..classes {
                curve[[c, 0]] = curve[[0, c]];
            }
            let rows = of.len() as f64;
            slope /= rows;
            curve /= rows;
            // Separated rows have no largest likelihood: the ridge keeps the steps finite, and their number ends the search.
            curve.diag_mut().mapv_inplace(|entry| entry + 1e-9);
            if slope.iter().all(|slope| slope.abs() < 1e-10) {
                break;
            }
            let step = linalg::solve_positive(curve.view(), slope.view().insert_axis(Axis(1)))?;
            let (before, mut rate) = (loss(&at), 1.0);
            loop {
                let mut moved = at.clone();
                moved.scale = (at.scale - rate * step[[0, 0]]).clamp(1e-3, 1e3);
                (1..classes).for_each(|c| moved.bias[c] = at.bias[c] - rate * step[[c, 0]]);
                if loss(&moved) <= before {
                    at = moved;
                    break;
                }
                rate *= 0.5;
                if rate < 1e-8 {
                    return Ok(at);
                }
            }
        }
        Ok(at)
    }

    /// Calibrated probabilities.
    pub fn apply(&self, probabilities: ArrayView2<'_, f64>) -> Array2<f64> {
        self.softmax(&probabilities.mapv(log))
    }

    fn softmax(&self, logs: &Array2<f64>) -> Array2<f64> {
        let mut found = logs * self.scale;
        for mut row in found.rows_mut() {
            row.iter_mut().zip(&self.bias).for_each(|(value, bias)| *value += bias);
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.mapv_inplace(|value| (value - top).exp());
            let sum = row.sum();
            row /= sum;
        }
        found
    }
}

/// The logarithm of a probability that may have been rounded to zero.
fn log(p: f64) -> f64 {
    p.max(1e-30).ln()
}
