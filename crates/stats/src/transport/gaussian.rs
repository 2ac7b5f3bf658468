use crate::linalg::{symmetric_eigen, symmetric_function};
use acclimate_core::{Error, Result};
use ndarray::{Array2, ArrayView2};

/// The matrix `A` of the cheapest map `x ↦ (x − μ_s) A + μ_t` between normal distributions with these covariances, under squared distances:
/// `S^{-1/2} (S^{1/2} T S^{1/2})^{1/2} S^{-1/2}`. It is symmetric, and `A S A = T`.
///
/// # Errors
/// When a covariance is not square, the sizes differ, or that of the source is singular.
pub fn gaussian_map(source: ArrayView2<'_, f64>, target: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    if source.dim() != target.dim() {
        let expected = format!("{:?} as the source's", source.shape());
        return Err(Error::Shape {
            what: "covariance of the target".to_owned(),
            expected,
            got: target.shape().to_vec(),
        });
    }
    let (values, vectors) = symmetric_eigen(source)?;
    let largest = values.iter().copied().fold(0.0, f64::max);
    // Below this an eigenvalue is rounding of those above.
    if values.iter().any(|value| *value <= 1e-14 * largest || *value <= 0.0) {
        return Err(Error::Other(
            "the covariance of the source is singular, so that no map is the cheapest; add to its diagonal".to_owned(),
        ));
    }
    let of = |f: fn(f64) -> f64| (&vectors * &values.mapv(f)).dot(&vectors.t());
    let (root, inverse) = (of(f64::sqrt), of(|value| 1.0 / value.sqrt()));
    let middle = symmetric_function(root.dot(&target).dot(&root).view(), |value| value.max(0.0).sqrt())?;
    let map = inverse.dot(&middle).dot(&inverse);
    Ok((&map + &map.t()) * 0.5)
}
