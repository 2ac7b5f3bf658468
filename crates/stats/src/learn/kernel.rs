use ndarray::{Array2, ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How like two rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// `exp(−γ |a − b|²)`.
    Rbf,
    /// `aᵀb`.
    Linear,
}

/// A kernel and its width.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Likeness {
    pub(super) kernel: Kernel,
    pub(super) gamma: f64,
}

impl Likeness {
    /// Of one row with each of others, which are given as columns, `[features, others]`, in one piece.
    ///
    /// A feature at a time for all others: so the sums of several are made at once.
    pub(super) fn fill(&self, from: ArrayView1<'_, f64>, columns: ArrayView2<'_, f64>, out: &mut [f64]) {
        out.fill(0.0);
        for (from, column) in from.iter().zip(columns.rows()) {
            let column = column.to_slice().expect("columns lie in one piece");
            match self.kernel {
                Kernel::Rbf => out.iter_mut().zip(column).for_each(|(sum, to)| *sum += (from - to) * (from - to)),
                Kernel::Linear => out.iter_mut().zip(column).for_each(|(sum, to)| *sum += from * to),
            }
        }
        if self.kernel == Kernel::Rbf {
            out.iter_mut().for_each(|value| *value *= -self.gamma);
            exponentials(out);
        }
    }

    /// Of a row with itself.
    pub(super) fn own(&self, row: ArrayView1<'_, f64>) -> f64 {
        match self.kernel {
            Kernel::Rbf => 1.0,
            Kernel::Linear => row.dot(&row),
        }
    }

    /// Of each row of `x` with each of `other`, `[rows, others]`.
    pub(super) fn values(&self, x: ArrayView2<'_, f64>, other: ArrayView2<'_, f64>) -> Array2<f64> {
        let columns = columns(other);
        let mut values = Array2::zeros((x.nrows(), other.nrows()));
        let (width, out) = (other.nrows().max(1), values.as_slice_mut().expect("made here"));
        let fill = |(row, out): (usize, &mut [f64])| self.fill(x.row(row), columns.view(), out);
        out.par_chunks_mut(width).with_min_len(16).enumerate().for_each(fill);
        values
    }
}

/// Rows as columns, in one piece.
pub(super) fn columns(x: ArrayView2<'_, f64>) -> Array2<f64> {
    x.t().as_standard_layout().into_owned()
}

/// One over the number of features times the variance of all numbers; one where all are equal.
pub(super) fn scale(x: ArrayView2<'_, f64>) -> f64 {
    let numbers = x.len().max(1) as f64;
    let mean = x.sum() / numbers;
    let variance = x.fold(0.0, |sum, number| sum + (number - mean) * (number - mean)) / numbers;
    let scale = 1.0 / (x.ncols() as f64 * variance);
    if scale.is_finite() && scale > 0.0 { scale } else { 1.0 }
}

/// `exp` of numbers not above zero, within two units in the last place; below −708 it is zero.
///
/// The loop has no call and no branch, so several numbers are done at a time: the kernel's values are what a fit waits for.
fn exponentials(values: &mut [f64]) {
    use std::f64::consts::LOG2_E;
    const ROUND: f64 = 6_755_399_441_055_744.0; // 3·2⁵¹: adding it leaves the nearest whole number in the low bits
    // ln 2 in two parts, of which the first has so few bits that its multiples here are exact.
    const HIGH: f64 = 6.931_471_803_691_238e-1;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    // One over the factorials; |r| is at most half of ln 2. Even and odd powers apart, so that neither sum waits for the other.
    const EVEN: [f64; 7] =
        [1.0 / 479_001_600.0, 1.0 / 3_628_800.0, 1.0 / 40_320.0, 1.0 / 720.0, 1.0 / 24.0, 1.0 / 2.0, 1.0];
    const ODD: [f64; 7] =
        [1.0 / 6_227_020_800.0, 1.0 / 39_916_800.0, 1.0 / 362_880.0, 1.0 / 5_040.0, 1.0 / 120.0, 1.0 / 6.0, 1.0];
    for value in values {
        let x = if *value > -708.0 { *value } else { -708.0 };
        let shifted = x * LOG2_E + ROUND;
        let whole = shifted - ROUND;
        let r = (x - whole * HIGH) - whole * LOW;
        let square = r * r;
        let (mut even, mut odd) = (EVEN[0], ODD[0]);
        for (of_even, of_odd) in EVEN[1..].iter().zip(&ODD[1..]) {
            even = even * square + of_even;
            odd = odd * square + of_odd;
        }
        let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
        *value = if *value < -708.0 { 0.0 } else { (even + odd * r) * power };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_equal_those_of_the_standard_library() {
        let arguments: Vec<f64> = (0..200_000).map(|i| -(i as f64) * 3.7e-3).chain([-1e-300, -707.9, -1e9]).collect();
        let mut values = arguments.clone();
        exponentials(&mut values);
        for (x, got) in arguments.iter().zip(values) {
            let expected = if *x < -708.0 { 0.0 } else { x.exp() };
            assert!((got - expected).abs() <= 2.0 * f64::EPSILON * expected, "{x}: {got} for {expected}");
        }
    }
}
