use crate::linalg::solve_positive;
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, Axis};

/// A convex function.
pub(super) trait Convex {
    /// Its value and gradient.
    fn at(&self, point: &Array1<f64>) -> (f64, Array1<f64>);

    /// Its second derivatives.
    fn curvature(&self, point: &Array1<f64>) -> Curvature<'_>;
}

/// A matrix by what it makes of a direction.
pub(super) type Directed<'a> = Box<dyn Fn(&Array1<f64>) -> Array1<f64> + 'a>;

/// Second derivatives.
pub(super) enum Curvature<'a> {
    Dense(Array2<f64>),
    /// Their diagonal, and their product with a direction, where they are too many.
    Product(Array1<f64>, Directed<'a>),
}

/// The least of a convex function that has one: Newton's steps, halved while they do not descend.
///
/// A step is the last when it promises less than rounding of the loss; by then the distance shrinks quadratically.
pub(super) fn least(who: &str, start: Array1<f64>, function: &dyn Convex) -> Result<Array1<f64>> {
    let mut point = start;
    let (mut loss, mut gradient) = function.at(&point);
    for _ in 0..500 {
        let direction = -match function.curvature(&point) {
            Curvature::Dense(curvature) => downhill(&curvature, &gradient)?,
            Curvature::Product(diagonal, times) => conjugate(&diagonal, &*times, &gradient),
        };
        let promise = -gradient.dot(&direction);
        if promise <= 1e-14 * (1.0 + loss.abs()) {
            return Ok(point + direction);
        }
        let mut share = 1.0;
        loop {
            let next = &point + &(&direction * share);
            let there = function.at(&next);
            if there.0 <= loss - 1e-4 * share * promise {
                (point, (loss, gradient)) = (next, there);
                break;
            }
            share /= 2.0;
            // A step so short is rounding: this is as low as the loss can be seen to get.
            if share < 1e-10 {
                return Ok(point);
            }
        }
    }
    Err(Error::Other(format!("{who}: the least loss was not reached; bring the features to one scale")))
}

/// The inverse of the curvature times the gradient. Where the curvature is singular to rounding, its diagonal is raised until it is not.
fn downhill(curvature: &Array2<f64>, gradient: &Array1<f64>) -> Result<Array1<f64>> {
    // In units in which the diagonal is one, so that parameters of different scale do not look singular.
    let unit = curvature.diag().mapv(|own| if own > 0.0 { own.sqrt().recip() } else { 1.0 });
    let scaled = curvature * &unit * unit.view().insert_axis(Axis(1));
    let right = (gradient * &unit).insert_axis(Axis(1));
    let mut lift = 0.0;
    loop {
        let mut scaled = scaled.clone();
        scaled.diag_mut().mapv_inplace(|value| value + lift);
        match solve_positive(scaled.view(), right.view()) {
            Ok(found) if found.iter().all(|number| number.is_finite()) => return Ok(&found.column(0) * &unit),
            Err(e) if lift > 1.0 => return Err(e),
            _ => lift = if lift == 0.0 { 1e-14 } else { lift * 100.0 },
        }
    }
}

/// The same by conjugate gradients, preconditioned by the diagonal.
fn conjugate(
    diagonal: &Array1<f64>,
    times: &dyn Fn(&Array1<f64>) -> Array1<f64>,
    gradient: &Array1<f64>,
) -> Array1<f64> {
    let ready = |residual: &Array1<f64>| residual / &diagonal.mapv(|own| if own > 0.0 { own } else { 1.0 });
    let mut found = Array1::zeros(gradient.len());
    let mut residual = gradient.clone();
    let mut direction = ready(&residual);
    let mut size = residual.dot(&direction);
    // Far from the least a rough direction will do; near it, where `size` is small, the steps are to shrink the distance quadratically.
    let enough = size * size.clamp(1e-16, 1e-2);
    for _ in 0..4 * gradient.len() {
        let product = times(&direction);
        let bend = direction.dot(&product);
        if size <= enough || bend <= 0.0 {
            break;
        }
        let step = size / bend;
        found.scaled_add(step, &direction);
        residual.scaled_add(-step, &product);
        let next = ready(&residual);
        let grown = residual.dot(&next);
        direction = next + &(&direction * (grown / size));
        size = grown;
    }
    found
}
