//! Principal axes.

use acclimate_core::{Error, Result};
use acclimate_stats::linalg::{column_means, covariance, symmetric_eigen};
use ndarray::{Array1, Array2, ArrayView2, s};

/// The mean of rows and the first of their principal axes as columns, most variance first, the largest number of each axis positive.
///
/// # Errors
/// When there are fewer columns, or rows, than axes are asked for.
pub(crate) fn principal(
    method: &'static str,
    x: ArrayView2<'_, f64>,
    components: Option<usize>,
) -> Result<(Array1<f64>, Array2<f64>)> {
    let most = x.nrows().min(x.ncols());
    let axes = components.unwrap_or(most);
    if axes > most {
        let why = format!("must be at most {most}, the smaller of rows and columns");
        return Err(Error::Param { method, param: "components", value: axes.to_string(), why });
    }
    let (_, vectors) = symmetric_eigen(covariance(x, 0).view())?;
    Ok((column_means(x), signed(vectors.slice(s![.., ..;-1]).slice(s![.., ..axes]).to_owned())))
}

/// Turns columns so that the largest number of each is positive.
pub(crate) fn signed(mut axes: Array2<f64>) -> Array2<f64> {
    for mut axis in axes.columns_mut() {
        let largest = axis.iter().fold(0.0_f64, |best, x| if x.abs() > best.abs() { *x } else { best });
        if largest < 0.0 {
            axis *= -1.0;
        }
    }
    axes
}
