//! Kernels between rows, and the widths that data suggest.

use crate::linalg::squared_distances;
use ndarray::{Array2, ArrayView2};

/// The Gaussian kernel `exp(−gamma |a − b|²)` between all rows of `a` and all of `b`.
pub fn rbf(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, gamma: f64) -> Array2<f64> {
    use rayon::prelude::*;
    let mut found = Array2::zeros((a.nrows(), b.nrows()));
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    let width = b.nrows().max(1);
    let row = |(i, row): (usize, &mut [f64])| {
        let from = a.row(i);
        for (value, to) in row.iter_mut().zip(b.rows()) {
            let square: f64 = from.iter().zip(to).map(|(x, y)| (x - y) * (x - y)).sum();
            *value = (-gamma * square).exp();
        }
    };
    // To wake other threads costs more than a small matrix.
    let serial = found.len() < 1 << 17;
    let numbers = found.as_slice_mut().expect("made here");
    if serial {
        numbers.chunks_mut(width).enumerate().for_each(row);
    } else {
        numbers.par_chunks_mut(width).enumerate().for_each(row);
    }
    found
}

/// The median distance between two different rows; zero where there is none.
pub fn median_distance(a: ArrayView2<'_, f64>) -> f64 {
    let squares = squared_distances(a, a);
    let mut pairs: Vec<f64> = squares.indexed_iter().filter(|((i, j), _)| i < j).map(|(_, square)| *square).collect();
    if pairs.is_empty() {
        return 0.0;
    }
    let middle = pairs.len() / 2;
    pairs.select_nth_unstable_by(middle, f64::total_cmp).1.sqrt()
}

/// The mean over rows of the distance to the `n`-th nearest row, where each row is its own first.
pub fn nth_distance(a: ArrayView2<'_, f64>, n: usize) -> f64 {
    let mut squares = squared_distances(a, a);
    let place = n.clamp(1, a.nrows().max(1)) - 1;
    let nth = |mut row: ndarray::ArrayViewMut1<'_, f64>| {
        let row = row.as_slice_mut().expect("distances are made in rows");
        row.select_nth_unstable_by(place, f64::total_cmp).1.sqrt()
    };
    squares.rows_mut().into_iter().map(nth).sum::<f64>() / a.nrows().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn widths_and_kernels_of_three_points_are_known() {
        let a = array![[0.0], [1.0], [3.0]];
        assert_eq!(median_distance(a.view()), 2.0);
        assert_eq!(nth_distance(a.view(), 1), 0.0);
        assert!((nth_distance(a.view(), 2) - 4.0 / 3.0).abs() < 1e-15);
        assert!((rbf(a.view(), a.view(), 0.5)[[0, 2]] - (-4.5f64).exp()).abs() < 1e-16);
    }
}
