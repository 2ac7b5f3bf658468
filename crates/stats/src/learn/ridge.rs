use super::table::{Table, queries, restored, saved};
use super::{Fitted, Labels, Learner};
use crate::linalg::svd;
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Least squares without a penalty; of equally good coefficients the shortest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Linear {
    /// Whether to fit a constant.
    pub intercept: bool,
}

impl Default for Linear {
    fn default() -> Self {
        Self { intercept: true }
    }
}

impl Learner for Linear {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        let table = Table::new("linear", x, y, weights)?;
        Ok(Box::new(shrunk(&table, table.y.numbers("linear")?, 0.0, self.intercept)?))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedLinear>("linear", value)?))
    }
}

/// Least squares with a penalty: least `Σ wᵢ (yᵢ − xᵢβ − b)² + penalty · |β|²`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ridge {
    /// The price of the squared coefficients.
    pub penalty: f64,
    /// Whether to fit a constant, which bears no penalty.
    pub intercept: bool,
}

impl Default for Ridge {
    fn default() -> Self {
        Self { penalty: 1.0, intercept: true }
    }
}

impl Learner for Ridge {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        if !(self.penalty >= 0.0 && self.penalty.is_finite()) {
            let (value, why) = (self.penalty.to_string(), "must be finite and not negative".to_owned());
            return Err(Error::Param { method: "ridge", param: "penalty", value, why });
        }
        let table = Table::new("ridge", x, y, weights)?;
        Ok(Box::new(shrunk(&table, table.y.numbers("ridge")?, self.penalty, self.intercept)?))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedLinear>("ridge", value)?))
    }
}

/// By singular values, which lose no digits to a square of the table. Without a penalty those below `1e-13` of the largest count as zero.
fn shrunk(table: &Table, y: &[f64], penalty: f64, intercept: bool) -> Result<FittedLinear> {
    let root = table.weights.mapv(f64::sqrt);
    let total = table.weights.sum();
    let y = ArrayView1::from(y);
    let (means, mean) = if intercept {
        (table.weights.dot(&table.x) / total, table.weights.dot(&y) / total)
    } else {
        (Array1::zeros(table.x.ncols()), 0.0)
    };
    let x = (&table.x - &means) * root.view().insert_axis(Axis(1));
    let (u, sizes, vt) = svd(x.view())?;
    let mut along = u.t().dot(&((&y - mean) * &root));
    let floor = sizes.first().copied().unwrap_or(0.0) * 1e-13;
    for (along, size) in along.iter_mut().zip(&sizes) {
        *along *= if penalty > 0.0 || *size > floor { size / (size * size + penalty) } else { 0.0 };
    }
    let coefficients = vt.t().dot(&along);
    Ok(FittedLinear { intercept: mean - means.dot(&coefficients), coefficients })
}

/// A weighted sum of features and a constant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FittedLinear {
    pub(super) coefficients: Array1<f64>,
    pub(super) intercept: f64,
}

impl Fitted for FittedLinear {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries("linear model", x, self.coefficients.len())?;
        Ok((x.dot(&self.coefficients) + self.intercept).insert_axis(Axis(1)))
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
