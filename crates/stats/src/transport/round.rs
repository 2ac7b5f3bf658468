use super::{balanced, check};
use acclimate_core::Result;
use ndarray::{Array1, Array2, ArrayView1, Axis};

/// The coupling near `coupling` that has the marginals `a` and `b`: rows and columns with too much are scaled down, and what is then missing
/// is added as a product (Altschuler, Weed and Rigollet 2017). It moves at most twice the error of the marginals.
///
/// # Errors
/// When sizes differ, a number is not finite or a mass negative, or one side has more mass than the other.
pub fn round(coupling: &Array2<f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Result<Array2<f64>> {
    check(coupling.view(), a, b)?;
    balanced(a, b)?;
    let mut rounded = coupling.mapv(|mass| mass.max(0.0));
    rounded_in_place(&mut rounded, a, b);
    Ok(rounded)
}

/// [`round`] of a coupling without negative moves.
pub(super) fn rounded_in_place(coupling: &mut Array2<f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) {
    let share = |want: &f64, have: f64| if have > *want { want / have } else { 1.0 };
    for (mut row, a) in coupling.rows_mut().into_iter().zip(a) {
        let share = share(a, row.sum());
        if share < 1.0 {
            row *= share;
        }
    }
    let sums = coupling.sum_axis(Axis(0));
    let shares: Array1<f64> = b.iter().zip(&sums).map(|(b, have)| share(b, *have)).collect();
    *coupling *= &shares;
    let missing = |want: ArrayView1<'_, f64>, have: Array1<f64>| (&want - &have).mapv(|mass| mass.max(0.0));
    let (rows, columns) = (missing(a, coupling.sum_axis(Axis(1))), missing(b, coupling.sum_axis(Axis(0))));
    let all = columns.sum();
    if all > 0.0 {
        for (mut row, mass) in coupling.rows_mut().into_iter().zip(&rows) {
            if *mass > 0.0 {
                row.scaled_add(mass / all, &columns);
            }
        }
    }
}
