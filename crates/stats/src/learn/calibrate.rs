use super::newton::{At, least};
use super::table::{logistic, softplus};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, array};
use serde::{Deserialize, Serialize};

/// Platt's logistic: the probability of the class above zero is `1 / (1 + exp(−(slope · value + offset)))`.
///
/// It has the least log loss against targets `(n₊ + 1)/(n₊ + 2)` and `1/(n₋ + 2)`, where `n` is the sum of the weights of a class, so it is
/// finite also where the values separate the classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    /// What the value is multiplied by.
    pub slope: f64,
    /// What is added.
    pub offset: f64,
}

impl Platt {
    /// Fits to values of a decision and whether each row is of the class above zero.
    ///
    /// # Errors
    /// When sizes do not agree, there is no row with weight, or numbers are not finite.
    pub fn fit(values: &[f64], high: &[bool], weights: Option<&[f64]>) -> Result<Self> {
        let rows = values.len();
        for (what, got) in [("labels", high.len()), ("weights", weights.map_or(rows, <[f64]>::len))] {
            if got != rows {
                let what = format!("platt: {what}");
                return Err(Error::Shape { what, expected: format!("[{rows}]"), got: vec![got] });
            }
        }
        let weight = |row: usize| weights.map_or(1.0, |weights| weights[row]);
        let sum = |class: bool| (0..rows).filter(|row| high[*row] == class).map(weight).sum::<f64>();
        let (above, below) = (sum(true), sum(false));
        let fine = |row: usize| values[row].is_finite() && weight(row).is_finite() && weight(row) >= 0.0;
        if !(above + below > 0.0 && (0..rows).all(fine)) {
            return Err(Error::Other(
                "platt: values and weights must be finite, weights not negative and some above zero; leave other rows out"
                    .to_owned(),
            ));
        }
        // In units of their own size, so that the curvature is well conditioned.
        let unit = values.iter().fold(0.0_f64, |unit, value| unit.max(value.abs()));
        let unit = if unit > 0.0 { unit } else { 1.0 };
        let target = |high: bool| if high { (above + 1.0) / (above + 2.0) } else { 1.0 / (below + 2.0) };
        let start = array![0.0, ((above + 1.0) / (below + 1.0)).ln()];
        let found = least("platt", start, |point| {
            let mut at = At { loss: 0.0, gradient: Array1::zeros(2), curvature: Array2::zeros((2, 2)) };
            for row in 0..rows {
                let (value, weight, target) = (values[row] / unit, weight(row), target(high[row]));
                let z = point[0] * value + point[1];
                let p = logistic(z);
                at.loss += weight * (softplus(z) - target * z);
                let (pull, bend) = (weight * (p - target), weight * p * (1.0 - p));
                at.gradient += &array![pull * value, pull];
                at.curvature += &array![[bend * value * value, bend * value], [bend * value, bend]];
            }
            Ok(at)
        })?;
        Ok(Self { slope: found[0] / unit, offset: found[1] })
    }

    /// The probability of the class above zero.
    pub fn probability(&self, value: f64) -> f64 {
        logistic(self.slope * value + self.offset)
    }
}
