use super::{Sinkhorn, check, exact, sinkhorn::soft_least};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

/// A distribution on points.
#[derive(Clone, Copy, Debug)]
pub struct Measure<'a> {
    /// `[points, features]`.
    pub points: ArrayView2<'a, f64>,
    /// The mass of each point.
    pub masses: ArrayView1<'a, f64>,
}

/// A mean of distributions on given points.
#[derive(Clone, Debug)]
pub struct Barycentre {
    /// The mass of each point, one in all.
    pub masses: Array1<f64>,
    /// The largest sum of differences between the mean and the marginal of a coupling.
    pub marginal: f64,
    /// Steps that were made.
    pub steps: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

fn shares(weights: &[f64], measures: usize) -> Result<Vec<f64>> {
    let sum: f64 = weights.iter().sum();
    let sound = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0) && sum > 0.0 && sum.is_finite();
    if measures == 0 || weights.len() != measures || !sound {
        return Err(Error::Other(format!(
            "barycentre: {} weights for {measures} distributions; give each a weight that is not negative, and one a positive one",
            weights.len()
        )));
    }
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

/// The masses on given points that lower `Σ_k w_k OT_reg(·, b_k)`, by Bregman projections in the domain of logarithms. `costs` holds for each
/// distribution the costs from the points to its own, `[points, its points]`, and its masses. The entropy is that of the couplings alone, so
/// the mean is blurred by about the root of `reg`.
///
/// # Errors
/// When sizes differ, a number is not finite, a mass is negative, or no weight is positive.
pub fn barycentre(
    costs: &[(ArrayView2<'_, f64>, ArrayView1<'_, f64>)],
    weights: &[f64],
    settings: &Sinkhorn,
) -> Result<Barycentre> {
    let weights = shares(weights, costs.len())?;
    settings.check()?;
    let points = costs[0].0.nrows();
    let even = super::uniform(points);
    for (cost, masses) in costs {
        check(*cost, even.view(), *masses)?;
    }
    let reg = settings.reg;
    let log_b: Vec<Array1<f64>> = costs.iter().map(|(_, b)| (b / b.sum()).mapv(f64::ln)).collect();
    let back: Vec<Array2<f64>> = costs.iter().map(|(cost, _)| cost.t().as_standard_layout().to_owned()).collect();
    // `f` are potentials against the counting measure of the points.
    let flat = Array1::zeros(points);
    let mut f = vec![Array1::<f64>::zeros(points); costs.len()];
    let (mut log, mut steps, mut apart) = (Array1::<f64>::zeros(points), 0, f64::INFINITY);
    while steps < settings.steps && apart > settings.tolerance {
        // log (K v_k) for each distribution; the mean is their geometric mean.
        let seen: Vec<Array1<f64>> = (0..costs.len())
            .map(|k| {
                let g = soft_least(back[k].view(), &f[k], &flat, reg);
                soft_least(costs[k].0, &g, &log_b[k], reg) / -reg
            })
            .collect();
        // The couplings' marginals on the points, exp(f / reg) K v, against the mean of before.
        apart = if steps == 0 {
            f64::INFINITY
        } else {
            let off = |(f, seen): (&Array1<f64>, &Array1<f64>)| -> f64 {
                let marginal = (f / reg + seen).mapv(f64::exp);
                (marginal - log.mapv(f64::exp)).mapv(f64::abs).sum()
            };
            f.iter().zip(&seen).map(off).fold(0.0, f64::max)
        };
        log = weights.iter().zip(&seen).fold(Array1::zeros(points), |log, (weight, seen)| log + seen * *weight);
        for (f, seen) in f.iter_mut().zip(&seen) {
            *f = (&log - seen) * reg;
        }
        steps += 1;
    }
    let masses = log.mapv(f64::exp);
    let sum = masses.sum();
    Ok(Barycentre { masses: masses / sum, marginal: apart, steps, converged: apart <= settings.tolerance })
}

/// Points with given masses that lower `Σ_k w_k OT(·, measure_k)` under squared distances: each point goes to the weighted mean of where the
/// exact couplings send it, until no point moves more than `tolerance` or `steps` are made. It is a local minimum that depends on `start`.
///
/// # Errors
/// When sizes differ, a number is not finite, a mass is negative, sums of masses differ, or no weight is positive.
pub fn free_barycentre(
    measures: &[Measure<'_>],
    weights: &[f64],
    start: ArrayView2<'_, f64>,
    masses: ArrayView1<'_, f64>,
    tolerance: f64,
    steps: usize,
) -> Result<Array2<f64>> {
    let weights = shares(weights, measures.len())?;
    let mut points = start.to_owned();
    for _ in 0..steps {
        let mut next = Array2::zeros(points.dim());
        for (measure, weight) in measures.iter().zip(&weights) {
            if measure.points.ncols() != points.ncols() {
                return Err(Error::Shape {
                    what: "barycentre: points of a distribution".to_owned(),
                    expected: format!("{} features", points.ncols()),
                    got: measure.points.shape().to_vec(),
                });
            }
            let cost = crate::linalg::squared_distances(points.view(), measure.points);
            let plan = exact(cost.view(), masses, measure.masses)?;
            for (i, j, mass) in plan.moves {
                next.row_mut(i).scaled_add(weight * mass / masses[i], &measure.points.row(j));
            }
        }
        // A point without mass is sent nowhere.
        for (at, mass) in masses.iter().enumerate() {
            if *mass == 0.0 {
                next.row_mut(at).assign(&points.row(at));
            }
        }
        let moved = (&next - &points).fold(0.0, |most: f64, by| most.max(by.abs()));
        points = next;
        if moved <= tolerance {
            break;
        }
    }
    Ok(points)
}
