//! Factorisations of dense matrices; the one place that knows the library behind them.

use acclimate_core::{Error, Result};
use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

fn mat(a: ArrayView2<'_, f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
}

fn array(a: MatRef<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.nrows(), a.ncols()), |(i, j)| a[(i, j)])
}

fn failed(what: &str) -> Error {
    Error::Numeric { who: "linear algebra".to_owned(), step: 1, what: what.to_owned() }
}

fn square(what: &str, a: ArrayView2<'_, f64>) -> Result<()> {
    if a.nrows() == a.ncols() {
        return Ok(());
    }
    Err(Error::Shape { what: what.to_owned(), expected: "a square matrix".to_owned(), got: a.shape().to_vec() })
}

/// The product of two matrices on all cores.
pub fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    // Small products are not worth a copy.
    if a.nrows() * a.ncols() * b.ncols() < 1 << 16 {
        return a.dot(&b);
    }
    array((mat(a) * mat(b)).as_ref())
}

/// Eigenvalues in rising order and eigenvectors as columns, of a symmetric matrix; the lower triangle is read.
///
/// # Errors
/// When it is not square, or the iteration does not converge.
pub fn symmetric_eigen(a: ArrayView2<'_, f64>) -> Result<(Array1<f64>, Array2<f64>)> {
    square("eigenvectors", a)?;
    let found = mat(a).self_adjoint_eigen(Side::Lower).map_err(|_| failed("eigenvalues were not found"))?;
    let values = found.S().column_vector();
    Ok(((0..values.nrows()).map(|i| values[i]).collect(), array(found.U())))
}

/// `U`, the singular values in falling order and `Vᵀ`, thin.
///
/// # Errors
/// When the iteration does not converge.
pub fn svd(a: ArrayView2<'_, f64>) -> Result<(Array2<f64>, Array1<f64>, Array2<f64>)> {
    let found = mat(a).thin_svd().map_err(|_| failed("singular values were not found"))?;
    let values = found.S().column_vector();
    Ok((array(found.U()), (0..values.nrows()).map(|i| values[i]).collect(), array(found.V().transpose())))
}

/// The lower triangle `L` with `L Lᵀ = a`.
///
/// # Errors
/// When `a` is not square or not positive definite.
pub fn cholesky(a: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    square("Cholesky factor", a)?;
    let found =
        mat(a).llt(Side::Lower).map_err(|_| failed("a matrix is not positive definite; add to its diagonal"))?;
    Ok(array(found.L()))
}

/// Solves `a x = b` with a symmetric positive definite `a`.
///
/// # Errors
/// As [`cholesky`].
pub fn solve_positive(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    square("a system of equations", a)?;
    let found =
        mat(a).llt(Side::Lower).map_err(|_| failed("a matrix is not positive definite; add to its diagonal"))?;
    Ok(array(found.solve(mat(b)).as_ref()))
}

/// Solves `a x = b` with a square `a`.
///
/// # Errors
/// When `a` is not square or singular.
pub fn solve(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    square("a system of equations", a)?;
    let solution = array(mat(a).partial_piv_lu().solve(mat(b)).as_ref());
    if solution.iter().all(|number| number.is_finite()) { Ok(solution) } else { Err(failed("a matrix is singular")) }
}

/// The solution of least length of the least-squares problem `min |a x − b|`; singular values below `1e-13` of the largest count as zero.
///
/// # Errors
/// When the iteration does not converge.
pub fn least_squares(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    let (u, s, vt) = svd(a)?;
    let floor = s.first().copied().unwrap_or(0.0) * 1e-13;
    let mut coefficients = u.t().dot(&b);
    for (mut row, s) in coefficients.rows_mut().into_iter().zip(&s) {
        row *= if *s > floor { 1.0 / s } else { 0.0 };
    }
    Ok(vt.t().dot(&coefficients))
}

/// `f` of a symmetric matrix, by its eigenvalues: a square root, an inverse square root.
///
/// # Errors
/// As [`symmetric_eigen`].
pub fn symmetric_function(a: ArrayView2<'_, f64>, f: impl Fn(f64) -> f64) -> Result<Array2<f64>> {
    let (values, vectors) = symmetric_eigen(a)?;
    Ok((&vectors * &values.mapv(f)).dot(&vectors.t()))
}

/// An orthonormal basis of the columns, `Q` of a thin QR factorisation whose `R` has no negative diagonal.
pub fn orthonormal(a: ArrayView2<'_, f64>) -> Array2<f64> {
    let found = mat(a).qr();
    let mut q = array(found.compute_thin_Q().as_ref());
    for (mut column, i) in q.columns_mut().into_iter().zip(0..) {
        if found.thin_R()[(i, i)] < 0.0 {
            column *= -1.0;
        }
    }
    q
}

/// The mean of each column.
pub fn column_means(a: ArrayView2<'_, f64>) -> Array1<f64> {
    a.sum_axis(ndarray::Axis(0)) / (a.nrows().max(1) as f64)
}

/// The covariance of the columns, divided by the number of rows less `freedom`.
pub fn covariance(a: ArrayView2<'_, f64>, freedom: usize) -> Array2<f64> {
    let centred = &a - &column_means(a);
    product(centred.t(), centred.view()) / (a.nrows().saturating_sub(freedom).max(1) as f64)
}

/// The squared Euclidean distances between all rows of `a` and all of `b`; none is negative.
pub fn squared_distances(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    use rayon::prelude::*;
    let mut found = Array2::zeros((a.nrows(), b.nrows()));
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let width = b.nrows().max(1);
    let squares = |(i, row): (usize, &mut [f64])| {
        let from: ArrayView1<'_, f64> = a.row(i);
        for (value, to) in row.iter_mut().zip(b.rows()) {
            // Differences, not the expanded square: equal rows are at exactly zero.
            *value = from.iter().zip(to).map(|(x, y)| (x - y) * (x - y)).sum();
        }
    };
    found.as_slice_mut().expect("made here").par_chunks_mut(width).enumerate().for_each(squares);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn close(a: &Array2<f64>, b: &Array2<f64>) {
        assert!((a - b).iter().all(|d| d.abs() < 1e-12), "{a} {b}");
    }

    fn positive() -> Array2<f64> {
        array![[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]]
    }

    #[test]
    fn factors_multiply_back() {
        let a = positive();
        let (values, vectors) = symmetric_eigen(a.view()).unwrap();
        close(&(&vectors * &values).dot(&vectors.t()), &a);
        assert!(values.windows(2).into_iter().all(|pair| pair[0] <= pair[1]));
        let l = cholesky(a.view()).unwrap();
        close(&l.dot(&l.t()), &a);
        let tall = array![[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]];
        let (u, s, vt) = svd(tall.view()).unwrap();
        close(&(&u * &s).dot(&vt), &tall);
        let q = orthonormal(tall.view());
        close(&q.t().dot(&q), &Array2::eye(2));
        let root = symmetric_function(a.view(), f64::sqrt).unwrap();
        close(&root.dot(&root), &a);
    }

    #[test]
    fn solutions_solve_and_singular_systems_are_refused() {
        let (a, b) = (positive(), array![[1.0], [2.0], [3.0]]);
        close(&a.dot(&solve(a.view(), b.view()).unwrap()), &b);
        close(&a.dot(&solve_positive(a.view(), b.view()).unwrap()), &b);
        close(&a.dot(&least_squares(a.view(), b.view()).unwrap()), &b);
        assert!(solve(Array2::zeros((3, 3)).view(), b.view()).is_err());
        assert!(cholesky((-a).view()).is_err());
        // Of all solutions the shortest: a repeated column shares its coefficient.
        let wide = array![[1.0, 1.0], [2.0, 2.0]];
        close(&least_squares(wide.view(), array![[2.0], [4.0]].view()).unwrap(), &array![[1.0], [1.0]]);
    }

    #[test]
    fn large_products_equal_small_ones() {
        let a = Array2::from_shape_fn((60, 50), |(i, j)| ((i * 7 + j * 3) % 11) as f64 - 5.0);
        let b = Array2::from_shape_fn((50, 40), |(i, j)| ((i * 5 + j) % 13) as f64 - 6.0);
        close(&product(a.view(), b.view()), &a.dot(&b));
        let squares = squared_distances(a.view(), a.view());
        assert!((0..60).all(|i| squares[[i, i]] == 0.0));
    }
}
