use crate::linalg::squared_distances;
use ndarray::{Array2, ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What it costs to carry mass from one point to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The square of the Euclidean distance.
    #[default]
    Sqeuclidean,
    /// One less the cosine of the angle; a point of zeros has no direction and is at one from all.
    Cosine,
    /// The sum of the absolute differences.
    Cityblock,
}

/// The costs between all rows of `x` and all of `y`.
pub fn costs(metric: Metric, x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) -> Array2<f64> {
    match metric {
        Metric::Sqeuclidean => squared_distances(x, y),
        Metric::Cityblock => pairs(x, y, |from, to| from.iter().zip(to).map(|(a, b)| (a - b).abs()).sum()),
        Metric::Cosine => {
            let directions = |z: ArrayView2<'_, f64>| {
                let mut z = z.to_owned();
                for mut row in z.rows_mut() {
                    let length = row.dot(&row).sqrt();
                    row /= if length > 0.0 { length } else { 1.0 };
                }
                z
            };
            let (x, y) = (directions(x), directions(y));
            // Rounding may take the cosine of equal directions above one.
            pairs(x.view(), y.view(), |from, to| (1.0 - from.dot(&to)).max(0.0))
        }
    }
}

fn pairs(
    x: ArrayView2<'_, f64>,
    y: ArrayView2<'_, f64>,
    cost: impl Fn(ArrayView1<'_, f64>, ArrayView1<'_, f64>) -> f64 + Sync,
) -> Array2<f64> {
    let mut found = Array2::zeros((x.nrows(), y.nrows()));
    let width = y.nrows().max(1);
    let fill = |(i, row): (usize, &mut [f64])| {
        for (found, to) in row.iter_mut().zip(y.rows()) {
            *found = cost(x.row(i), to);
        }
    };
    found.as_slice_mut().expect("made here").par_chunks_mut(width).enumerate().for_each(fill);
    found
}

/// The median of all costs; of an even number of them the mean of the two in the middle. Zero of none.
pub fn median(costs: ArrayView2<'_, f64>) -> f64 {
    let mut all: Vec<f64> = costs.iter().copied().collect();
    let middle = all.len() / 2;
    if all.is_empty() {
        return 0.0;
    }
    let (below, upper, _) = all.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if middle * 2 + 1 == costs.len() {
        return upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    0.5 * (lower + upper)
}
