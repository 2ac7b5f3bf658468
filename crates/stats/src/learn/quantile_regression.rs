use super::ridge::FittedLinear;
use super::table::{Table, restored};
use super::{Fitted, Labels, Learner};
use crate::linalg::{solve_positive, svd};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

/// Linear quantile regression: least `Σ wᵢ ρ(yᵢ − xᵢβ − b)` with the pinball loss `ρ(r) = max(level · r, (level − 1) · r)`.
///
/// A linear program, solved by a primal-dual interior point method with a predictor and a corrector (Portnoy and Koenker 1997) until the gap
/// to a lower bound is a ten-billionth of the loss of the start. Of equally good coefficients it takes those in the span of the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantileRegression {
    /// The quantile, between zero and one.
    pub level: f64,
    /// Whether to fit a constant.
    pub intercept: bool,
}

impl Default for QuantileRegression {
    fn default() -> Self {
        Self { level: 0.5, intercept: true }
    }
}

const NAME: &str = "quantile_regression";
const SHORT: f64 = 0.99995; // of the way to the bound, as Portnoy and Koenker take

impl Learner for QuantileRegression {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        if !(self.level > 0.0 && self.level < 1.0) {
            let (value, why) = (self.level.to_string(), "must lie between zero and one".to_owned());
            return Err(Error::Param { method: NAME, param: "level", value, why });
        }
        let table = Table::new(NAME, x, y, weights)?;
        let y = table.y.numbers(NAME)?;
        // Columns of one size, so that features of different scale do not look dependent; then a basis of what they span.
        let size = |column: ArrayView1<'_, f64>| column.fold(0.0_f64, |size, value| size.max(value.abs()));
        let sizes: Array1<f64> =
            table.x.columns().into_iter().map(size).map(|s| if s > 0.0 { s } else { 1.0 }).collect();
        let mut columns = Array2::ones((table.x.nrows(), x.ncols() + 1));
        columns.slice_mut(s![.., 1..]).assign(&(&table.x / &sizes));
        if !self.intercept {
            columns.column_mut(0).fill(0.0);
        }
        let (u, spans, vt) = svd(columns.view())?;
        let floor = spans.first().copied().unwrap_or(0.0) * 1e-12;
        let kept = spans.iter().filter(|span| **span > floor).count();
        let basis = u.slice(s![.., ..kept]);
        // Around their mean and in units of the farthest, so that a level far from zero costs no digits.
        let shift = if self.intercept { ArrayView1::from(y).dot(&table.weights) / table.weights.sum() } else { 0.0 };
        let unit = y.iter().fold(0.0_f64, |unit, value| unit.max((value - shift).abs()));
        let unit = if unit > 0.0 { unit } else { 1.0 };
        // A weight multiplies its row: the loss of `w r` is `w` times that of `r`. All are divided by the largest.
        let weights = &table.weights / table.weights.fold(0.0_f64, |most, weight| most.max(*weight));
        let rows = &basis * &weights.view().insert_axis(Axis(1));
        let right = ArrayView1::from(y).mapv(|y| (y - shift) / unit) * &weights;
        let along = interior(&rows, &right, self.level)?;
        let found = vt.slice(s![..kept, ..]).t().dot(&(along / spans.slice(s![..kept]))) * unit;
        let coefficients = &found.slice(s![1..]) / &sizes;
        let intercept = if self.intercept { found[0] + shift } else { 0.0 };
        Ok(Box::new(FittedLinear { coefficients, intercept }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedLinear>(NAME, value)?))
    }
}

/// The coefficients of least pinball loss of `right − rows · β`.
///
/// Its dual: most `rightᵀ a` over `0 ≤ a ≤ 1` under `rowsᵀ a = (1 − level) rowsᵀ 1`. With `s = 1 − a` and multipliers `z` of `a ≥ 0` and `w`
/// of `s ≥ 0`, at the optimum `rows β + w − z = right` and `a z = s w = 0`. Both sides start feasible and stay so.
fn interior(rows: &Array2<f64>, right: &Array1<f64>, level: f64) -> Result<Array1<f64>> {
    let n = right.len();
    let mut a = Array1::from_elem(n, 1.0 - level);
    let mut s = Array1::from_elem(n, level);
    let normal = |scale: &Array1<f64>, right: &Array1<f64>| -> Result<Array1<f64>> {
        let mut system = rows.t().dot(&(rows * &scale.view().insert_axis(Axis(1))));
        // Where all rows but some are decided, the rest may not span all: a rounding's worth keeps the system solvable.
        let lift = system.diag().fold(f64::MIN_POSITIVE, |most, own| most.max(*own)) * 1e-15;
        system.diag_mut().mapv_inplace(|own| own + lift);
        Ok(solve_positive(system.view(), rows.t().dot(right).insert_axis(Axis(1)).view())?.column(0).to_owned())
    };
    let mut beta = normal(&Array1::ones(n), right)?;
    let residual = right - &rows.dot(&beta);
    let start = residual.mapv(f64::abs).sum();
    if start == 0.0 {
        return Ok(beta);
    }
    let lift = start / n as f64 + f64::MIN_POSITIVE;
    let mut w = residual.mapv(|r| r.max(0.0) + lift);
    let mut z = residual.mapv(|r| (-r).max(0.0) + lift);
    let mut gap = a.dot(&z) + s.dot(&w);
    for _ in 0..200 {
        if gap <= 1e-10 * start {
            break;
        }
        let q = (&z / &a + &w / &s).mapv(f64::recip);
        // With products `a z` and `s w` to be changed by these.
        let direction = |of_a: &Array1<f64>, of_s: &Array1<f64>| -> Result<_> {
            let pull = of_a / &a - of_s / &s;
            // The multipliers change by `rows dβ = dz − dw`.
            let d_beta = normal(&q, &(&pull * &q))?;
            let d_a = &q * &(&pull - &rows.dot(&d_beta));
            let d_z = (of_a - &(&z * &d_a)) / &a;
            let d_w = (of_s + &(&w * &d_a)) / &s;
            Ok((d_beta, d_a, d_z, d_w))
        };
        let room = |x: &Array1<f64>, d: &Array1<f64>, sign: f64| {
            let each = x.iter().zip(d).filter(|(_, d)| sign * **d < 0.0).map(|(x, d)| -x / (sign * d));
            each.fold(f64::INFINITY, f64::min)
        };
        let (_, d_a, d_z, d_w) = direction(&-(&a * &z), &-(&s * &w))?;
        let primal = room(&a, &d_a, 1.0).min(room(&s, &d_a, -1.0)).min(1.0);
        let dual = room(&z, &d_z, 1.0).min(room(&w, &d_w, 1.0)).min(1.0);
        let ahead =
            (&a + &(&d_a * primal)).dot(&(&z + &(&d_z * dual))) + (&s - &(&d_a * primal)).dot(&(&w + &(&d_w * dual)));
        let centre = (ahead / gap).powi(3) * gap / (2 * n) as f64;
        let of_a = (&d_a * &d_z + &a * &z).mapv(|value| centre - value);
        let of_s = (&d_a * &d_w - &s * &w).mapv(|value| centre + value);
        let (d_beta, d_a, d_z, d_w) = direction(&of_a, &of_s)?;
        let primal = (SHORT * room(&a, &d_a, 1.0).min(room(&s, &d_a, -1.0))).min(1.0);
        let dual = (SHORT * room(&z, &d_z, 1.0).min(room(&w, &d_w, 1.0))).min(1.0);
        a.scaled_add(primal, &d_a);
        s.scaled_add(-primal, &d_a);
        z.scaled_add(dual, &d_z);
        w.scaled_add(dual, &d_w);
        beta.scaled_add(dual, &d_beta);
        let next = a.dot(&z) + s.dot(&w);
        // Rounding ends what can be gained.
        if !next.is_finite() || (next >= gap && gap <= 1e-7 * start) {
            break;
        }
        gap = next;
    }
    if gap <= 1e-7 * start && beta.iter().all(|number| number.is_finite()) {
        return Ok(beta);
    }
    Err(Error::Other(format!("{NAME}: the least loss was not reached; bring the features to one scale")))
}
