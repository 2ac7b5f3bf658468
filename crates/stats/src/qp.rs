//! Convex quadratic programs over a box and one slab, with a certificate.

use acclimate_core::{Error, Result};
use ndarray::{Array1, ArrayView1, ArrayView2};

/// Minimises `½ xᵀ Q x + cᵀ x` where `lower ≤ x ≤ upper` and `slab[0] ≤ aᵀ x ≤ slab[1]`.
///
/// Two variables move at a time, those that promise the largest gain, along the direction that keeps `aᵀ x`; a variable without cost
/// stands for `aᵀ x` itself. Every iterate is feasible, and a step costs two columns of `Q`.
#[derive(Clone, Copy, Debug)]
pub struct Qp<'a> {
    /// Symmetric and positive semi-definite.
    pub quadratic: ArrayView2<'a, f64>,
    /// `c`.
    pub linear: ArrayView1<'a, f64>,
    /// The smallest values.
    pub lower: ArrayView1<'a, f64>,
    /// The largest values, finite.
    pub upper: ArrayView1<'a, f64>,
    /// `a`; no entry is zero.
    pub coefficients: ArrayView1<'a, f64>,
    /// The bounds of `aᵀ x`; equal ones make an equation.
    pub slab: [f64; 2],
}

/// Where [`Qp::solve`] ended.
#[derive(Clone, Debug)]
pub struct QpSolution {
    /// The point; feasible to rounding.
    pub x: Array1<f64>,
    /// The value there.
    pub value: f64,
    /// How far the value is at most above the smallest: the duality gap.
    pub gap: f64,
    /// How many pairs were moved.
    pub updates: usize,
}

impl Qp<'_> {
    /// Minimises from a feasible `start` until the conditions of optimality hold to `tolerance`, in units of the gradient over `a`,
    /// the gap is at most `share` of the value, or `most` pairs have moved; the gap tells how good the end is.
    ///
    /// # Errors
    /// When sizes differ, the start is not feasible, or numbers are not finite.
    pub fn solve(&self, start: ArrayView1<'_, f64>, tolerance: f64, share: f64, most: usize) -> Result<QpSolution> {
        let n = self.linear.len();
        let sizes = [self.quadratic.nrows(), self.quadratic.ncols(), self.lower.len(), self.upper.len()];
        if sizes.iter().chain(&[self.coefficients.len(), start.len()]).any(|size| *size != n) {
            let what = "quadratic program".to_owned();
            return Err(Error::Shape { what, expected: format!("{n} of everything"), got: sizes.to_vec() });
        }
        let quadratic = self.quadratic.as_standard_layout();
        let a = |t: usize| if t < n { self.coefficients[t] } else { -1.0 };
        let low = |t: usize| if t < n { self.lower[t] } else { self.slab[0] };
        let high = |t: usize| if t < n { self.upper[t] } else { self.slab[1] };
        let diagonal = |t: usize| if t < n { quadratic[[t, t]] / (a(t) * a(t)) } else { 0.0 };
        let mut x: Vec<f64> = start.to_vec();
        x.push(self.coefficients.dot(&start));
        let room = 1e-9 * (1.0 + x[n].abs());
        if (0..=n).any(|t| !(x[t] >= low(t) - room && x[t] <= high(t) + room)) {
            return Err(Error::Other(
                "quadratic program: the start is outside the constraints; give one inside".to_owned(),
            ));
        }
        let mut gradient: Vec<f64> = (&quadratic.dot(&start) + &self.linear).to_vec();
        gradient.push(0.0);
        if gradient.iter().any(|number| !number.is_finite()) {
            return Err(Error::Other("quadratic program: numbers are not finite; look at the rows".to_owned()));
        }
        let mut updates = 0;
        while updates < most {
            // The gap costs as much as choosing a pair.
            if share > 0.0 && updates % 64 == 63 {
                let (at, slope) = (ArrayView1::from(&x[..n]), ArrayView1::from(&gradient[..n]));
                let value = 0.5 * (at.dot(&slope) + at.dot(&self.linear));
                if self.gap(at, slope) <= share * value.abs() {
                    break;
                }
            }
            // The variable whose `aᵀ x` rises with the largest gain, then the partner of the largest decrease to second order.
            let (mut best, mut first) = (f64::NEG_INFINITY, None);
            let mut worst = f64::INFINITY;
            for t in 0..=n {
                let score = -gradient[t] / a(t);
                let (rises, falls) =
                    if a(t) > 0.0 { (x[t] < high(t), x[t] > low(t)) } else { (x[t] > low(t), x[t] < high(t)) };
                if rises && score > best {
                    (best, first) = (score, Some(t));
                }
                if falls {
                    worst = worst.min(score);
                }
            }
            let Some(i) = first else { break };
            if best - worst <= tolerance {
                break;
            }
            let row_i = (i < n).then(|| quadratic.row(i));
            let (mut gain, mut second) = (0.0, None);
            let diagonal_i = diagonal(i);
            for t in 0..=n {
                let falls = if a(t) > 0.0 { x[t] > low(t) } else { x[t] < high(t) };
                let slope = best + gradient[t] / a(t);
                if !falls || slope <= 0.0 {
                    continue;
                }
                let cross = if t < n { row_i.map_or(0.0, |row| row[t] / (a(i) * a(t))) } else { 0.0 };
                let curve = (diagonal_i + diagonal(t) - 2.0 * cross).max(1e-12);
                if slope * slope / curve > gain {
                    (gain, second) = (slope * slope / curve, Some((t, slope / curve)));
                }
            }
            let Some((j, step)) = second else { break };
            let reach = |t: usize, up: bool| {
                let bound = if up == (a(t) > 0.0) { high(t) } else { low(t) };
                ((bound - x[t]) * a(t)).abs()
            };
            let (reach_i, reach_j) = (reach(i, true), reach(j, false));
            let step = step.min(reach_i).min(reach_j);
            for (t, move_by, all) in [(i, step / a(i), step == reach_i), (j, -step / a(j), step == reach_j)] {
                // Exactly at the bound, so that rounding leaves no sliver to move along.
                x[t] = if all { if move_by > 0.0 { high(t) } else { low(t) } } else { x[t] + move_by };
                if t < n {
                    let row = quadratic.row(t);
                    for (gradient, entry) in gradient.iter_mut().zip(&row) {
                        *gradient += entry * move_by;
                    }
                }
            }
            updates += 1;
        }
        x.truncate(n);
        Ok(self.certify(Array1::from(x), updates))
    }

    /// The value and the gap at a point, from its own gradient.
    fn certify(&self, x: Array1<f64>, updates: usize) -> QpSolution {
        let product = self.quadratic.dot(&x);
        let value = 0.5 * x.dot(&product) + self.linear.dot(&x);
        let gradient = product + self.linear;
        let gap = self.gap(x.view(), gradient.view());
        QpSolution { x, value, gap, updates }
    }

    /// The duality gap by the multiplier of the slab that the gradient suggests, or none.
    fn gap(&self, x: ArrayView1<'_, f64>, gradient: ArrayView1<'_, f64>) -> f64 {
        let multiplier_at = |t: usize| -gradient[t] / self.coefficients[t];
        let mut inner: Vec<f64> =
            (0..x.len()).filter(|t| x[*t] > self.lower[*t] && x[*t] < self.upper[*t]).map(multiplier_at).collect();
        if inner.is_empty() {
            inner = (0..x.len()).map(multiplier_at).collect();
        }
        let middle = inner.len() / 2;
        let median = if inner.is_empty() { 0.0 } else { *inner.select_nth_unstable_by(middle, f64::total_cmp).1 };
        let sum = self.coefficients.dot(&x);
        let at = |multiplier: f64| {
            let least = |t: usize| {
                let r = gradient[t] + multiplier * self.coefficients[t];
                r * x[t] - (r * self.lower[t]).min(r * self.upper[t])
            };
            // The slab's own part of the bound: the multiplier times how far the sum is from the end that it pushes to.
            let slab =
                if multiplier > 0.0 { multiplier * (self.slab[1] - sum) } else { multiplier * (self.slab[0] - sum) };
            (0..x.len()).map(least).sum::<f64>() + slab.max(0.0)
        };
        at(0.0).min(at(median)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::rbf;
    use ndarray::{Array2, array};

    #[test]
    fn the_projection_of_a_point_is_known() {
        // |x − (2, −1, 0.5)|² over 0 ≤ x ≤ 1 with sum one: (1, 0, 0).
        let (q, c) = (Array2::eye(3), array![-2.0, 1.0, -0.5]);
        let (zero, one) = (Array1::zeros(3), Array1::ones(3));
        let qp = Qp {
            quadratic: q.view(),
            linear: c.view(),
            lower: zero.view(),
            upper: one.view(),
            coefficients: one.view(),
            slab: [1.0, 1.0],
        };
        let found = qp.solve(array![0.2, 0.3, 0.5].view(), 1e-12, 0.0, 1000).unwrap();
        assert!((&found.x - &array![1.0, 0.0, 0.0]).iter().all(|d| d.abs() < 1e-12), "{}", found.x);
        assert!(found.gap < 1e-9);
        assert!(qp.solve(zero.view(), 1e-12, 0.0, 1000).is_err());
    }

    #[test]
    fn gaps_bound_what_is_missing_and_constraints_hold() {
        let rows =
            Array2::from_shape_fn((40, 2), |(i, j)| ((i * 7 + j * 13) % 11) as f64 / 5.0 - 1.0 + (i as f64) * 0.01);
        let q = rbf(rows.view(), rows.view(), 0.7);
        let c = Array1::from_shape_fn(40, |i| ((i * i) % 17) as f64 / -4.0);
        let (zero, five) = (Array1::zeros(40), Array1::from_elem(40, 5.0));
        let a = Array1::from_shape_fn(40, |i| if i % 3 == 0 { -1.0 } else { 0.5 + i as f64 / 40.0 });
        let qp = Qp {
            quadratic: q.view(),
            linear: c.view(),
            lower: zero.view(),
            upper: five.view(),
            coefficients: a.view(),
            slab: [-3.0, 2.0],
        };
        let rough = qp.solve(zero.view(), 1e-2, 0.0, 100_000).unwrap();
        let fine = qp.solve(zero.view(), 1e-10, 0.0, 1_000_000).unwrap();
        assert!(rough.value - fine.value <= rough.gap + 1e-9 && fine.gap < 1e-6, "{} {}", rough.gap, fine.gap);
        let sum = a.dot(&fine.x);
        assert!((-3.0 - 1e-9..=2.0 + 1e-9).contains(&sum), "{sum}");
        assert!(fine.x.iter().all(|x| (0.0..=5.0).contains(x)));
    }
}
