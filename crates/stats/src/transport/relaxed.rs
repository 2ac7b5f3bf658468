use super::{Certificate, Plan, Sinkhorn, check, exact, sinkhorn::soft_least};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// A coupling whose marginals are near the masses, not equal to them.
#[derive(Clone, Debug)]
pub struct Unbalanced {
    /// `[source, target]`.
    pub coupling: Array2<f64>,
    /// The potential of each point of the source.
    pub f: Array1<f64>,
    /// The potential of each point of the target.
    pub g: Array1<f64>,
    /// The cost and the penalties of the coupling.
    pub value: f64,
    /// How far the marginals moved in the last step and how near the value is to the best.
    pub certificate: Certificate,
}

/// The coupling that lowers `⟨P, C⟩ + reg KL(P | a bᵀ) + marginal KL(P 1 | a) + marginal KL(Pᵀ 1 | b)`, where masses may differ in sum.
///
/// The potentials are damped soft minima, `f = −λ reg log Σ_j b_j exp((g_j − C_ij) / reg)` with `λ = marginal / (marginal + reg)`, in the
/// domain of logarithms.
///
/// # Errors
/// When sizes differ, a number is not finite, a mass is negative, or a weight is not positive.
pub fn unbalanced(
    cost: ArrayView2<'_, f64>,
    a: ArrayView1<'_, f64>,
    b: ArrayView1<'_, f64>,
    marginal: f64,
    settings: &Sinkhorn,
) -> Result<Unbalanced> {
    check(cost, a, b)?;
    settings.check()?;
    if !(marginal > 0.0 && marginal.is_finite()) {
        return Err(Error::Other(format!(
            "unbalanced transport: the weight of the marginals is {marginal}; it is positive (use `sinkhorn` to hold them exactly)"
        )));
    }
    let reg = settings.reg;
    let damping = marginal / (marginal + reg);
    let back = cost.t().as_standard_layout().to_owned();
    let (log_a, log_b) = (a.mapv(f64::ln), b.mapv(f64::ln));
    let (mut f, mut g) = (Array1::zeros(a.len()), Array1::zeros(b.len()));
    let (mut steps, mut moved) = (0, f64::INFINITY);
    while steps < settings.steps && moved > settings.tolerance {
        let next = soft_least(cost, &g, &log_b, reg) * damping;
        g = soft_least(back.view(), &next, &log_a, reg) * damping;
        // A change of a potential by δ changes its row by the share δ / reg.
        moved = next.iter().zip(&f).map(|(next, f): (&f64, &f64)| (next - f).abs()).fold(0.0, f64::max) / reg;
        f = next;
        steps += 1;
    }
    let mut coupling = Array2::zeros(cost.dim());
    let mut cheap = 0.0;
    for ((i, j), mass) in coupling.indexed_iter_mut() {
        let exponent = (f[i] + g[j] - cost[[i, j]]) / reg;
        let free: f64 = a[i] * b[j];
        if free > 0.0 {
            *mass = free * exponent.exp();
            // ⟨P, C⟩ + reg KL, with KL(p | q) = p log(p / q) − p + q.
            cheap += *mass * (cost[[i, j]] + reg * exponent) + reg * (free - *mass);
        }
    }
    let apart = |have: Array1<f64>, want: ArrayView1<'_, f64>| -> f64 {
        have.iter().zip(want).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() - p + q } else { *q }).sum()
    };
    let value = cheap + marginal * (apart(coupling.sum_axis(Axis(1)), a) + apart(coupling.sum_axis(Axis(0)), b));
    let gain = |masses: ArrayView1<'_, f64>, potentials: &Array1<f64>| -> f64 {
        masses.iter().zip(potentials).map(|(mass, p)| -marginal * mass * (-p / marginal).exp_m1()).sum()
    };
    let dual = gain(a, &f) + gain(b, &g) - reg * (coupling.sum() - a.sum() * b.sum());
    let certificate = Certificate { marginal: moved, gap: value - dual, steps, converged: moved <= settings.tolerance };
    Ok(Unbalanced { coupling, f, g, value, certificate })
}

/// The cheapest coupling that carries only `mass`: each side may keep the rest. The potentials of [`Plan`] are those of the problem with
/// one more point on each side that takes what stays, without these two; `f` and `g` are never positive at points that keep some.
///
/// # Errors
/// When sizes differ, a number is not finite, a mass is negative, or more is to go than a side has.
pub fn partial(cost: ArrayView2<'_, f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>, mass: f64) -> Result<Plan> {
    check(cost, a, b)?;
    let (from, to) = (a.sum(), b.sum());
    // A full coupling may be asked for by a sum with other rounding.
    let most = from.min(to) * (1.0 + 1e-12);
    if !(mass >= 0.0 && mass <= most) {
        return Err(Error::Other(format!(
            "partial transport: {mass} is to go and the sides have {from} and {to}; ask for a mass from zero to the smaller"
        )));
    }
    let (rows, columns) = cost.dim();
    let largest = cost.iter().fold(0.0, |largest: f64, cost| largest.max(cost.abs()));
    let wide = Array2::from_shape_fn((rows + 1, columns + 1), |(i, j)| match (i < rows, j < columns) {
        (true, true) => cost[[i, j]],
        // Between the points that take the rest nothing goes: a detour by two real points is cheaper.
        (false, false) => 2.0 * largest + 1.0,
        _ => 0.0,
    });
    let more = |masses: ArrayView1<'_, f64>, rest: f64| -> Array1<f64> {
        masses.iter().copied().chain([rest.max(0.0)]).collect()
    };
    let (a, b) = (more(a, to - mass), more(b, from - mass));
    let mut plan = exact(wide.view(), a.view(), b.view())?;
    // What is left of differences of masses by rounding is no move.
    let rounding = f64::EPSILON * from.max(to);
    plan.moves.retain(|(i, j, mass)| *i < rows && *j < columns && *mass > rounding);
    plan.cost = plan.moves.iter().map(|(i, j, mass)| cost[[*i, *j]] * mass).sum();
    plan.f = plan.f.slice(ndarray::s![..rows]).to_owned();
    plan.g = plan.g.slice(ndarray::s![..columns]).to_owned();
    Ok(plan)
}
