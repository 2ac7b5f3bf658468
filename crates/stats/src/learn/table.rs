//! What all learners ask of the rows they are given and of what was saved.

use super::{Labels, check, finite, select};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::de::DeserializeOwned;

/// The rows that count, in memory row by row.
pub(super) struct Table {
    pub(super) x: Array2<f64>,
    pub(super) y: Labels,
    pub(super) weights: Array1<f64>,
}

impl Table {
    /// Checks the rows and leaves out those without weight.
    pub(super) fn new(
        who: &str,
        x: ArrayView2<'_, f64>,
        y: &Labels,
        weights: Option<ArrayView1<'_, f64>>,
    ) -> Result<Self> {
        check(who, x, y, weights)?;
        let whole = |y: &Labels, weights| Self { x: x.as_standard_layout().into_owned(), y: y.clone(), weights };
        let Some(weights) = weights else { return Ok(whole(y, Array1::ones(x.nrows()))) };
        let rows: Vec<usize> = (0..weights.len()).filter(|row| weights[*row] > 0.0).collect();
        if rows.len() == weights.len() {
            return Ok(whole(y, weights.to_owned()));
        }
        let weights = rows.iter().map(|row| weights[*row]).collect();
        Ok(Self { x: select(x, &rows), y: y.select(&rows), weights })
    }
}

/// Refuses rows to answer that are not as wide as those of the fit, or not finite.
pub(super) fn queries(who: &str, x: ArrayView2<'_, f64>, features: usize) -> Result<()> {
    if x.ncols() != features {
        let (what, expected) = (format!("{who}: rows to answer"), format!("[rows, {features}]"));
        return Err(Error::Shape { what, expected, got: x.shape().to_vec() });
    }
    finite(who, x)
}

/// Reads a saved fit.
pub(super) fn restored<F: DeserializeOwned>(who: &str, saved: serde_json::Value) -> Result<F> {
    serde_json::from_value(saved)
        .map_err(|e| Error::Other(format!("{who}: the saved fit cannot be read ({e}); fit again")))
}

/// A fit as JSON.
pub(super) fn saved<F: serde::Serialize>(fitted: &F) -> serde_json::Value {
    serde_json::to_value(fitted).expect("a fit is made of numbers, lists and tables with string keys")
}

/// Refuses a setting that is not positive and finite.
pub(super) fn positive(method: &'static str, param: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::Param { method, param, value: value.to_string(), why: "must be positive and finite".to_owned() })
}

/// Refuses a count of zero.
pub(super) fn counted(method: &'static str, param: &'static str, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::Param { method, param, value: value.to_string(), why: "must be at least one".to_owned() })
}

/// `log(1 + exp(x))` without overflow.
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + exp(−x))` without overflow.
pub(super) fn logistic(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// The largest of some numbers.
pub(super) fn top(row: ArrayView1<'_, f64>) -> f64 {
    row.fold(f64::NEG_INFINITY, |top, value| top.max(*value))
}

/// Turns each row into probabilities, `exp` of each value over their sum, and gives the logarithm of that sum for each row.
pub(super) fn softmax(values: &mut Array2<f64>) -> Array1<f64> {
    let each = |mut row: ndarray::ArrayViewMut1<'_, f64>| {
        let most = top(row.view());
        row.mapv_inplace(|value| (value - most).exp());
        let sum = row.sum();
        row /= sum;
        most + sum.ln()
    };
    values.rows_mut().into_iter().map(each).collect()
}

/// The classes that have rows, and the place of each row's among them.
pub(super) fn present(of: &[usize], count: usize) -> (Vec<usize>, Vec<usize>) {
    let mut place = vec![usize::MAX; count];
    of.iter().for_each(|class| place[*class] = 0);
    let classes: Vec<usize> = (0..count).filter(|class| place[*class] == 0).collect();
    classes.iter().enumerate().for_each(|(at, class)| place[*class] = at);
    (classes, of.iter().map(|class| place[*class]).collect())
}

/// Probabilities of `count` classes out of the scores of those that have rows: of the second where there are two.
pub(super) fn probabilities(mut scores: Array2<f64>, classes: &[usize], count: usize) -> Array2<f64> {
    let mut answers = Array2::zeros((scores.nrows(), count));
    match classes {
        [only] => answers.column_mut(*only).fill(1.0),
        [low, high] => {
            for (row, score) in scores.iter().enumerate() {
                // Each from its own side: a small share keeps its digits.
                answers[[row, *low]] = logistic(-score);
                answers[[row, *high]] = logistic(*score);
            }
        }
        classes => {
            softmax(&mut scores);
            for (place, class) in classes.iter().enumerate() {
                answers.column_mut(*class).assign(&scores.column(place));
            }
        }
    }
    answers
}
