//! Optimal transport between weighted samples.
//!
//! [`exact`] is the linear programme with its dual, [`sinkhorn`] the entropic one with a certificate, [`unbalanced`] and [`partial`] leave
//! mass behind, [`barycentre`] and [`free_barycentre`] are means of distributions, [`round`] puts the marginals of a coupling right,
//! [`gaussian_map`] is the map between normal distributions.

mod barycentre;
mod cost;
mod exact;
mod gaussian;
mod relaxed;
mod round;
mod sinkhorn;

pub use barycentre::{Barycentre, Measure, barycentre, free_barycentre};
pub use cost::{Metric, costs, median};
pub use exact::{Plan, exact};
pub use gaussian::gaussian_map;
pub use relaxed::{Unbalanced, partial, unbalanced};
pub use round::round;
pub use sinkhorn::{Certificate, Entropic, Sinkhorn, sinkhorn};

use acclimate_core::{Error, Result};
use ndarray::{Array1, ArrayView1, ArrayView2};

/// The same mass for each of `n` points, one in all.
pub fn uniform(n: usize) -> Array1<f64> {
    Array1::from_elem(n, 1.0 / n.max(1) as f64)
}

/// Refuses what is no transport problem: sizes that differ, costs that are not finite, masses that are negative or nothing in all.
fn check(cost: ArrayView2<'_, f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Result<()> {
    if cost.dim() != (a.len(), b.len()) {
        return Err(Error::Shape {
            what: "transport: costs".to_owned(),
            expected: format!("[{}, {}] for these masses", a.len(), b.len()),
            got: cost.shape().to_vec(),
        });
    }
    if let Some(((i, j), cost)) = cost.indexed_iter().find(|(_, cost)| !cost.is_finite()) {
        return Err(Error::Other(format!(
            "transport: the cost from point {} to point {} is {cost}; costs are finite: put a large one where no mass may go",
            i + 1,
            j + 1
        )));
    }
    masses("the source", a)?;
    masses("the target", b)
}

fn masses(whose: &str, masses: ArrayView1<'_, f64>) -> Result<()> {
    if let Some(at) = masses.iter().position(|mass| !mass.is_finite() || *mass < 0.0) {
        let mass = masses[at];
        return Err(Error::Other(format!(
            "transport: point {} of {whose} has mass {mass}; masses are finite and not negative",
            at + 1
        )));
    }
    let sum = masses.sum();
    if sum > 0.0 && sum.is_finite() {
        return Ok(());
    }
    Err(Error::Other(format!("transport: {whose} has mass {sum} in all; give at least one point some")))
}

/// The mass of the source, where the target has as much up to rounding.
fn balanced(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Result<f64> {
    let (from, to) = (a.sum(), b.sum());
    // A sum of n numbers is off by about n roundings; a difference of a billionth is one that somebody made.
    if (from - to).abs() <= 1e-9 * from.max(to) {
        return Ok(from);
    }
    Err(Error::Other(format!(
        "transport: the source has mass {from} and the target {to}; scale one to the other, or use the partial or unbalanced form"
    )))
}
