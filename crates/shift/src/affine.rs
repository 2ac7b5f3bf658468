//! Rows less a point, times a matrix, plus a point.

use crate::View;
use acclimate_core::{Error, Result};
use acclimate_stats::linalg::product;
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// `(x − before) · matrix + after` for each row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Affine {
    /// What is taken from each row.
    pub before: Array1<f64>,
    /// `[features, features shown]`.
    pub matrix: Array2<f64>,
    /// What is added at the end.
    pub after: Array1<f64>,
}

impl Affine {
    /// Rows less a point, times a matrix.
    pub(crate) fn projection(before: Array1<f64>, matrix: Array2<f64>) -> Self {
        let after = Array1::zeros(matrix.ncols());
        Self { before, matrix, after }
    }

    /// Maps rows.
    ///
    /// # Errors
    /// When they have another width than at the fit.
    pub fn of(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.before.len(), rows)?;
        Ok(product((&rows - &self.before).view(), self.matrix.view()) + &self.after)
    }
}

/// Refuses rows of another width than at the fit.
pub(crate) fn width(features: usize, rows: ArrayView2<'_, f64>) -> Result<()> {
    if rows.ncols() == features {
        return Ok(());
    }
    let expected = format!("[rows, {features}], as at the fit");
    Err(Error::Shape { what: "rows to show".to_owned(), expected, got: rows.shape().to_vec() })
}

/// Each domain under a map of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mapped {
    /// The map of the source.
    pub source: Affine,
    /// The map of the target; none leaves it as it is.
    pub target: Option<Affine>,
}

impl View for Mapped {
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        match &self.target {
            Some(map) => map.of(rows),
            None => width(self.source.before.len(), rows).map(|()| rows.to_owned()),
        }
    }

    fn show_source(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.source.of(rows)
    }
}
