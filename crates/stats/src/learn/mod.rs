//! Learners that take a weight for each row.

mod boosted;
mod calibrate;
mod forest;
mod kernel;
mod kernel_ridge;
mod logistic;
mod nearest;
mod newton;
mod quantile_forest;
mod quantile_regression;
mod ridge;
mod svc;
mod table;
mod tree;

pub use boosted::Boosted;
pub use calibrate::{Bcts, Platt, Temperature};
pub use forest::Forest;
pub use kernel::Kernel;
pub use kernel_ridge::KernelRidge;
pub use logistic::Logistic;
pub use nearest::Nearest;
pub use quantile_forest::{FittedQuantileForest, QuantileForest};
pub use quantile_regression::QuantileRegression;
pub use ridge::{Linear, Ridge};
pub use svc::Svc;
pub use tree::Tree;

use acclimate_core::{Error, Result};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// What the rows of a table are called or measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Labels {
    /// The class of each row, counted from zero.
    Classes {
        /// One for each row.
        of: Vec<usize>,
        /// How many classes there are, also those that no row has.
        count: usize,
    },
    /// A number for each row.
    Numbers(Vec<f64>),
}

impl Labels {
    /// How many rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes { of, .. } => of.len(),
            Self::Numbers(numbers) => numbers.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of the rows at `rows`, in that order.
    pub fn select(&self, rows: &[usize]) -> Self {
        match self {
            Self::Classes { of, count } => {
                Self::Classes { of: rows.iter().map(|row| of[*row]).collect(), count: *count }
            }
            Self::Numbers(numbers) => Self::Numbers(rows.iter().map(|row| numbers[*row]).collect()),
        }
    }

    /// The classes and how many there are.
    ///
    /// # Errors
    /// When these are numbers; `who` is named.
    pub fn classes(&self, who: &str) -> Result<(&[usize], usize)> {
        match self {
            Self::Classes { of, count } => Ok((of, *count)),
            Self::Numbers(_) => Err(Error::Unsupported {
                who: who.to_owned(),
                what: "work on numbers".to_owned(),
                instead: "give classes".to_owned(),
            }),
        }
    }

    /// The numbers.
    ///
    /// # Errors
    /// When these are classes; `who` is named.
    pub fn numbers(&self, who: &str) -> Result<&[f64]> {
        match self {
            Self::Numbers(numbers) => Ok(numbers),
            Self::Classes { .. } => Err(Error::Unsupported {
                who: who.to_owned(),
                what: "work on classes".to_owned(),
                instead: "give numbers".to_owned(),
            }),
        }
    }
}

/// A learner with its settings: fits rows, their labels and their weights.
pub trait Learner: Debug + Send + Sync {
    /// Fits. `x` is `[rows, features]`; a weight of zero leaves its row out, one of two counts it twice; none is one for each.
    ///
    /// # Errors
    /// When sizes do not agree, numbers are not finite, weights are negative or all zero, or labels are of the wrong kind.
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>>;

    /// What [`Fitted::save`] gave, as a fitted learner again.
    ///
    /// # Errors
    /// When it has another form.
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn Fitted>>;
}

/// A fitted learner.
pub trait Fitted: Debug + Send + Sync {
    /// Of classes their probabilities, `[rows, classes]`; of numbers the predictions, `[rows, 1]`.
    ///
    /// # Errors
    /// When the number of features is another than at the fit.
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>>;

    /// Of classes the values of which the largest decides, `[rows, classes]`; else as [`Fitted::answers`].
    ///
    /// # Errors
    /// As there.
    fn decisions(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.answers(x)
    }

    /// All that was fitted, so that it is read back bit for bit.
    fn save(&self) -> serde_json::Value;
}

/// The class with the largest value in each row; of equals the first.
pub fn largest(values: ArrayView2<'_, f64>) -> Vec<usize> {
    let best = |row: ArrayView1<'_, f64>| {
        let mut best = 0;
        for (class, value) in row.iter().enumerate() {
            if *value > row[best] {
                best = class;
            }
        }
        best
    };
    values.axis_iter(Axis(0)).map(best).collect()
}

/// The rows at `rows`, in that order.
pub fn select(x: ArrayView2<'_, f64>, rows: &[usize]) -> Array2<f64> {
    x.select(Axis(0), rows)
}

/// Refuses tables that no learner can use: sizes that differ, numbers that are not finite, weights below zero or all zero.
///
/// # Errors
/// As said; `who` and the row are named.
pub fn check(who: &str, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<()> {
    let rows = x.nrows();
    let sized = |what: &str, got: usize| {
        let what = format!("{who}: {what}");
        if got == rows { Ok(()) } else { Err(Error::Shape { what, expected: format!("[{rows}]"), got: vec![got] }) }
    };
    sized("labels", y.len())?;
    if rows == 0 {
        return Err(Error::Other(format!("{who}: there is no row to fit; give at least one")));
    }
    finite(who, x)?;
    match y {
        Labels::Classes { of, count } => {
            if let Some(row) = of.iter().position(|class| class >= count) {
                let class = of[row];
                return Err(Error::Other(format!(
                    "{who}: row {} has class {class} of {count}; classes count from zero",
                    row + 1
                )));
            }
        }
        Labels::Numbers(numbers) => {
            if let Some(row) = numbers.iter().position(|number| !number.is_finite()) {
                return Err(Error::Other(format!(
                    "{who}: the label of row {} is not finite; leave the row out",
                    row + 1
                )));
            }
        }
    }
    if let Some(weights) = weights {
        sized("weights", weights.len())?;
        if let Some(row) = weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
            let weight = weights[row];
            return Err(Error::Other(format!(
                "{who}: the weight of row {} is {weight}; weights are finite and not negative",
                row + 1
            )));
        }
        if weights.sum() <= 0.0 {
            return Err(Error::Other(format!("{who}: all weights are zero; give at least one row some weight")));
        }
    }
    Ok(())
}

/// Refuses numbers that are not finite.
///
/// # Errors
/// With the row and column, counted from one.
pub fn finite(who: &str, x: ArrayView2<'_, f64>) -> Result<()> {
    match x.indexed_iter().find(|(_, number)| !number.is_finite()) {
        Some(((row, column), number)) => Err(Error::Other(format!(
            "{who}: row {}, column {} is {number}; fill gaps in or leave the row out",
            row + 1,
            column + 1
        ))),
        None => Ok(()),
    }
}
