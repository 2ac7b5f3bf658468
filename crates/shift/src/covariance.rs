//! Estimates of a covariance.

use acclimate_stats::linalg::{column_means, covariance, product};
use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// How a covariance is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// From the rows alone.
    #[default]
    Plain,
    /// Drawn towards a multiple of the identity by Ledoit and Wolf's amount, after each column was given variance one.
    LedoitWolf,
}

impl Estimate {
    /// The covariance, divided by the number of rows.
    pub fn of(self, x: ArrayView2<'_, f64>) -> Array2<f64> {
        match self {
            Self::Plain => covariance(x, 0),
            Self::LedoitWolf => {
                let mut scale = covariance(x, 0).diag().mapv(f64::sqrt);
                scale.mapv_inplace(|scale| if scale > 0.0 { scale } else { 1.0 });
                let shrunk = ledoit_wolf((&x / &scale).view());
                shrunk * &scale * &scale.insert_axis(Axis(1))
            }
        }
    }
}

/// Ledoit and Wolf's (2004) estimate: the covariance `S` and `μ I` with the mean variance `μ`, mixed so that the expected squared error is
/// least.
pub fn ledoit_wolf(x: ArrayView2<'_, f64>) -> Array2<f64> {
    let (rows, width) = (x.nrows().max(1) as f64, x.ncols().max(1) as f64);
    let centred = &x - &column_means(x);
    let plain = product(centred.t(), centred.view()) / rows;
    let squares = centred.mapv(|value| value * value);
    let mean = plain.diag().sum() / width;
    let fourth = squares.sum_axis(Axis(1)).mapv(|length| length * length).sum() / rows;
    let square = plain.mapv(|value| value * value).sum();
    let distance = (square - width * mean * mean) / width;
    let noise = ((fourth - square) / (rows * width)).min(distance);
    let share = if noise > 0.0 { noise / distance } else { 0.0 };
    plain * (1.0 - share) + Array2::<f64>::eye(x.ncols()) * (share * mean)
}
