//! The Gaussian kernel of both domains' rows, and the components of it that transfer.

use crate::affine::width;
use crate::{Source, Target, View};
use acclimate_core::Result;
use acclimate_stats::linalg::{product, squared_distances, symmetric_eigen, symmetric_function};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate, s};
use serde::{Deserialize, Serialize};

/// `exp(−γ |a − b|²)` between all rows of `a` and of `b`.
pub(crate) fn gaussian(gamma: f64, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    squared_distances(a, b).mapv_into(|square| (-gamma * square).exp())
}

/// Rows shown by their kernel with the rows of the fit, times a matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelMap {
    rows: Array2<f64>,
    gamma: f64,
    matrix: Array2<f64>,
}

impl View for KernelMap {
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.rows.ncols(), rows)?;
        Ok(product(gaussian(self.gamma, rows, self.rows.view()).view(), self.matrix.view()))
    }
}

/// The rows of both domains, the source first, and their kernel.
#[derive(Debug)]
pub(crate) struct Stacked {
    /// The rows.
    pub(crate) rows: Array2<f64>,
    /// The width of the kernel.
    pub(crate) gamma: f64,
    /// How many rows are the source's.
    pub(crate) sources: usize,
    /// One over the number of rows of its domain for each row, negative for the target: `ℓ`, with which `L = ℓ ℓᵀ` and
    /// `ℓᵀ K ℓ` is the squared discrepancy of the domains.
    pub(crate) balance: Array1<f64>,
}

impl Stacked {
    /// Both domains; a width that is not given is one over the number of columns.
    pub(crate) fn new(source: &Source<'_>, target: &Target<'_>, gamma: Option<f64>) -> Self {
        let rows = concatenate(Axis(0), &[source.x, target.x]).expect("domains of one width");
        let (m, n) = (source.x.nrows(), target.x.nrows());
        let balance = (0..m + n).map(|row| if row < m { 1.0 / m as f64 } else { -1.0 / n as f64 }).collect();
        let gamma = gamma.unwrap_or(1.0 / rows.ncols().max(1) as f64);
        Self { rows, gamma, sources: m, balance }
    }

    /// The whole kernel.
    pub(crate) fn kernel(&self) -> Array2<f64> {
        gaussian(self.gamma, self.rows.view(), self.rows.view())
    }

    /// `F` with `K = F Fᵀ` up to `1e-13` in each entry, by Cholesky with pivots. Smooth kernels of few columns have a low rank, which
    /// makes all that follows cheap.
    pub(crate) fn factor(&self) -> Array2<f64> {
        let n = self.rows.nrows();
        let mut left = Array1::<f64>::ones(n);
        // A column of the factor is a row here, so that it lies in one piece.
        let mut columns: Vec<Array1<f64>> = Vec::new();
        while columns.len() < n {
            let pivot = (0..n).fold(0, |best, row| if left[row] > left[best] { row } else { best });
            if left[pivot] < 1e-13 {
                break;
            }
            let mut column =
                gaussian(self.gamma, self.rows.slice(s![pivot..=pivot, ..]), self.rows.view()).row(0).to_owned();
            for before in &columns {
                column.scaled_add(-before[pivot], before);
            }
            column /= left[pivot].sqrt();
            for (left, entry) in left.iter_mut().zip(&column) {
                *left = (*left - entry * entry).max(0.0);
            }
            left[pivot] = 0.0;
            columns.push(column);
        }
        Array2::from_shape_fn((n, columns.len()), |(row, column)| columns[column][row])
    }

    /// The leading solutions of `K H K a = θ (D + μ K L K) a` as columns with `aᵀ K H K a = 1`, largest `θ` first, where `D` is diagonal
    /// and `H` centres. There are fewer than asked for where the kernel has no more.
    ///
    /// With `K = F Fᵀ` and `B` the matrix on the right, `a = B⁻¹ F R z / θ` where `R R = Fᵀ H F` and `R (Fᵀ B⁻¹ F) R z = θ z`: as many
    /// equations as `F` has columns. `K L K` has rank one, so `B⁻¹` is written down.
    pub(crate) fn leading(
        &self,
        factor: ArrayView2<'_, f64>,
        diagonal: ArrayView1<'_, f64>,
        mu: f64,
        components: usize,
    ) -> Result<Array2<f64>> {
        let u = factor.dot(&factor.t().dot(&self.balance));
        let divided = &factor / &diagonal.insert_axis(Axis(1));
        let scaled = &u / &diagonal;
        let share = mu / (1.0 + mu * u.dot(&scaled));
        let along = u.dot(&divided);
        let inverse = divided - &(scaled.insert_axis(Axis(1)) * &along.insert_axis(Axis(0)) * share);
        let spread = product(factor.t(), inverse.view());
        let centred = &factor - &(factor.sum_axis(Axis(0)) / factor.nrows() as f64);
        let root = symmetric_function(product(centred.t(), centred.view()).view(), |value| value.max(0.0).sqrt())?;
        let problem = product(product(root.view(), spread.view()).view(), root.view());
        let (values, vectors) = symmetric_eigen(problem.view())?;
        let floor = values.last().copied().unwrap_or(0.0).max(0.0) * 1e-14;
        let kept: Vec<usize> = (0..values.len()).rev().filter(|at| values[*at] > floor).take(components).collect();
        let mut leading = product(inverse.view(), root.dot(&vectors.select(Axis(1), &kept)).view());
        for (mut column, at) in leading.columns_mut().into_iter().zip(kept) {
            column /= values[at];
        }
        Ok(leading)
    }

    /// The kernel map with these columns, each turned so that the shown rows lean to the positive side, and what it shows of the source.
    pub(crate) fn map(self, mut matrix: Array2<f64>) -> (KernelMap, Array2<f64>) {
        let mut shown = product(self.kernel().view(), matrix.view());
        for (mut column, mut coefficients) in shown.columns_mut().into_iter().zip(matrix.columns_mut()) {
            let mean = column.sum() / column.len() as f64;
            if column.iter().map(|value| (value - mean).powi(3)).sum::<f64>() < 0.0 {
                column *= -1.0;
                coefficients *= -1.0;
            }
        }
        let source = shown.slice(s![..self.sources, ..]).to_owned();
        (KernelMap { rows: self.rows, gamma: self.gamma, matrix }, source)
    }
}
