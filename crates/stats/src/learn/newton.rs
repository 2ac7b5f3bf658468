use crate::linalg::solve_positive;
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, Axis};

/// Loss, gradient and curvature at a point.
pub(super) struct At {
    pub(super) loss: f64,
    pub(super) gradient: Array1<f64>,
    pub(super) curvature: Array2<f64>,
}

/// The least of a convex function that has one: Newton's steps, halved while they do not descend.
///
/// A step is the last when it promises less than rounding of the loss; by then the distance shrinks quadratically.
pub(super) fn least(
    who: &str,
    start: Array1<f64>,
    mut at: impl FnMut(&Array1<f64>) -> Result<At>,
) -> Result<Array1<f64>> {
    let mut point = start;
    let mut here = at(&point)?;
    for _ in 0..500 {
        let direction = -downhill(&here)?;
        let promise = -here.gradient.dot(&direction);
        if promise <= 1e-14 * (1.0 + here.loss.abs()) {
            return Ok(point + direction);
        }
        let mut share = 1.0;
        loop {
            let next = &point + &(&direction * share);
            let there = at(&next)?;
            if there.loss <= here.loss - 1e-4 * share * promise {
                (point, here) = (next, there);
                break;
            }
            share /= 2.0;
            // A step so short is rounding: this is as low as the loss can be seen to get.
            if share < 1e-10 {
                return Ok(point);
            }
        }
    }
    Err(Error::Other(format!("{who}: the least loss was not reached; bring the features to one scale, or lower `c`")))
}

/// The inverse of the curvature times the gradient. Where the curvature is singular to rounding, its diagonal is raised until it is not.
fn downhill(at: &At) -> Result<Array1<f64>> {
    let right = at.gradient.clone().insert_axis(Axis(1));
    let size = at.curvature.diag().fold(f64::MIN_POSITIVE, |size, value| size.max(value.abs()));
    let mut lift = 0.0;
    loop {
        let mut curvature = at.curvature.clone();
        curvature.diag_mut().mapv_inplace(|value| value + lift * size);
        match solve_positive(curvature.view(), right.view()) {
            Ok(found) if found.iter().all(|number| number.is_finite()) => return Ok(found.column(0).to_owned()),
            Err(e) if lift > 1.0 => return Err(e),
            _ => lift = if lift == 0.0 { 1e-14 } else { lift * 100.0 },
        }
    }
}
