use super::round::rounded_in_place;
use super::{balanced, check};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

/// Settings of the entropic problems.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sinkhorn {
    /// Weight of the entropy, in the unit of the costs.
    pub reg: f64,
    /// The error of the marginals at which it ends: the sum of their differences, as a share of all mass.
    pub tolerance: f64,
    /// Steps at most, each over rows and columns.
    pub steps: usize,
}

impl Default for Sinkhorn {
    fn default() -> Self {
        Self { reg: 1.0, tolerance: 1e-9, steps: 10_000 }
    }
}

impl Sinkhorn {
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str, value: f64| {
            Err(Error::Other(format!("entropic transport: `{what}` is {value}; it is finite and positive")))
        };
        if !(self.reg > 0.0 && self.reg.is_finite()) {
            return wrong("reg", self.reg);
        }
        if !(self.tolerance > 0.0 && self.tolerance.is_finite()) {
            return wrong("tolerance", self.tolerance);
        }
        Ok(())
    }
}

/// How good an entropic answer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certificate {
    /// The sum of the differences between the marginals and the masses before rounding, as a share of all mass.
    pub marginal: f64,
    /// What the answer costs above the value of its potentials, which nothing can be below.
    pub gap: f64,
    /// Steps that were made.
    pub steps: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

/// The entropic coupling.
#[derive(Clone, Debug)]
pub struct Entropic {
    /// `[source, target]`, with the marginals that were asked for.
    pub coupling: Array2<f64>,
    /// The potential of each point of the source; the coupling is `a b exp((f + g − C) / reg)` for masses of one in all.
    pub f: Array1<f64>,
    /// The potential of each point of the target.
    pub g: Array1<f64>,
    /// What the coupling costs without its entropy.
    pub cost: f64,
    /// How near it is to the best.
    pub certificate: Certificate,
}

/// The coupling that lowers `⟨P, C⟩ + reg KL(P | a bᵀ)` for masses of one in all; others are scaled to that and back.
///
/// Rows and columns are scaled in turn by a kernel around the potentials that were found so far. Scalings that grow are taken up into the
/// potentials, a kernel that underflows is made anew around hard minima, and small weights are reached by way of larger ones. So any weight
/// gives finite numbers, at the price of products; the answer is rounded to exact marginals and says how good it is.
///
/// # Errors
/// When sizes differ, a number is not finite, a mass is negative, one side has more mass than the other, or a weight is not positive.
pub fn sinkhorn(
    cost: ArrayView2<'_, f64>,
    a: ArrayView1<'_, f64>,
    b: ArrayView1<'_, f64>,
    settings: &Sinkhorn,
) -> Result<Entropic> {
    check(cost, a, b)?;
    settings.check()?;
    let total = balanced(a, b)?;
    let held = |masses: ArrayView1<'_, f64>| -> Vec<usize> {
        masses.iter().enumerate().filter(|(_, mass)| **mass > 0.0).map(|(at, _)| at).collect()
    };
    let (rows, columns) = (held(a), held(b));
    if rows.len() == a.len() && columns.len() == b.len() {
        let standard = cost.as_standard_layout();
        return solve(standard.view(), &(&a / total), &(&b / b.sum()), total, settings);
    }
    // Points without mass take no part; afterwards they get the potentials that the others give them.
    let (few_a, few_b) = (a.select(Axis(0), &rows), b.select(Axis(0), &columns));
    let few = cost.select(Axis(0), &rows).select(Axis(1), &columns);
    let part = solve(few.view(), &(&few_a / total), &(&few_b / few_b.sum()), total, settings)?;
    let mut coupling = Array2::zeros(cost.dim());
    for ((i, j), mass) in part.coupling.indexed_iter() {
        coupling[[rows[i], columns[j]]] = *mass;
    }
    let wide = cost.select(Axis(1), &columns);
    let mut f = soft_least(wide.view(), &part.g, &(&few_b / few_b.sum()).mapv(f64::ln), settings.reg);
    let tall = cost.select(Axis(0), &rows);
    let mut g = soft_least(tall.t(), &part.f, &(&few_a / total).mapv(f64::ln), settings.reg);
    for (at, f_at) in rows.iter().zip(&part.f) {
        f[*at] = *f_at;
    }
    for (at, g_at) in columns.iter().zip(&part.g) {
        g[*at] = *g_at;
    }
    Ok(Entropic { coupling, f, g, ..part })
}

/// `−reg log Σ_j exp(log_b_j + (g_j − C_ij) / reg)` of each row, which never overflows.
pub(super) fn soft_least(cost: ArrayView2<'_, f64>, g: &Array1<f64>, log_b: &Array1<f64>, reg: f64) -> Array1<f64> {
    let one = |row: ArrayView1<'_, f64>| {
        let exponents: Vec<f64> = row.iter().zip(g).zip(log_b).map(|((c, g), log)| log + (g - c) / reg).collect();
        let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        -reg * (largest + exponents.iter().map(|exponent| (exponent - largest).exp()).sum::<f64>().ln())
    };
    let rows: Vec<f64> = (0..cost.nrows()).into_par_iter().map(|i| one(cost.row(i))).collect();
    rows.into()
}

/// Rows that one task takes; fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 64;
/// Scalings beyond this or its inverse go into the potentials: a kernel's numbers reach 1e-308.
const SCALE: f64 = 1e30;

/// The kernel `exp((f + g − C) / reg)` and the scalings of its rows and columns.
struct Kernel<'a> {
    cost: ArrayView2<'a, f64>,
    a: &'a [f64],
    b: &'a [f64],
    f: Vec<f64>,
    g: Vec<f64>,
    u: Vec<f64>,
    v: Vec<f64>,
    values: Vec<f64>,
}

impl Kernel<'_> {
    fn build(&mut self, reg: f64) {
        let (cost, g, m) = (self.cost, &self.g, self.b.len());
        let fill = |((i, row), f): ((usize, &mut [f64]), &f64)| {
            for ((value, cost), g) in row.iter_mut().zip(cost.row(i)).zip(g) {
                *value = ((f + g - cost) / reg).exp();
            }
        };
        self.values.par_chunks_mut(m).enumerate().zip(&self.f).for_each(fill);
        self.u.fill(1.0);
        self.v.fill(1.0);
    }

    /// Takes the scalings up into the potentials.
    fn absorb(&mut self, reg: f64) {
        for (potential, scale) in self.f.iter_mut().zip(&self.u).chain(self.g.iter_mut().zip(&self.v)) {
            *potential += reg * scale.ln();
        }
    }

    /// Potentials under which each row and each column has a pair at its cost: no sum of the kernel underflows.
    fn tighten(&mut self) {
        self.g.fill(f64::INFINITY);
        for (row, f) in self.cost.rows().into_iter().zip(&self.f) {
            for (g, cost) in self.g.iter_mut().zip(row) {
                *g = g.min(cost - f);
            }
        }
        for (f, row) in self.f.iter_mut().zip(self.cost.rows()) {
            *f = row.iter().zip(&self.g).map(|(cost, g)| cost - g).fold(f64::INFINITY, f64::min);
        }
    }

    /// Scales rows, then columns. Gives the error of the rows before that, or nothing where a sum under- or overflowed.
    fn step(&mut self) -> Option<f64> {
        let m = self.b.len();
        let weights: Vec<f64> = self.b.iter().zip(&self.v).map(|(b, v)| b * v).collect();
        let task = |((values, u), a): ((&[f64], &mut [f64]), &[f64])| {
            let (mut sums, mut error) = (vec![0.0; m], 0.0);
            for ((row, u), a) in values.chunks_exact(m).zip(u).zip(a) {
                let sum = dot(row, &weights);
                error += a * (*u * sum - 1.0).abs();
                *u = 1.0 / sum;
                let scale = a * *u;
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += scale * value;
                }
            }
            (sums, error)
        };
        let parts: Vec<(Vec<f64>, f64)> = (self.values.par_chunks(ROWS * m))
            .zip(self.u.par_chunks_mut(ROWS))
            .zip(self.a.par_chunks(ROWS))
            .map(task)
            .collect();
        let (mut sums, mut error) = (vec![0.0; m], 0.0);
        for (part, e) in parts {
            error += e;
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum += part;
            }
        }
        for (v, sum) in self.v.iter_mut().zip(sums) {
            *v = 1.0 / sum;
        }
        let sound = |scale: &f64| *scale > 0.0 && scale.is_finite();
        (error.is_finite() && self.u.iter().chain(&self.v).all(sound)).then_some(error)
    }

    fn grown(&self) -> bool {
        self.u.iter().chain(&self.v).any(|scale| !(1.0 / SCALE..=SCALE).contains(scale))
    }
}

/// The scalar product in lanes that do not wait for each other.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0; LANES];
    let (x, y) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in x.zip(y) {
        for at in 0..LANES {
            lanes[at] += x[at] * y[at];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// [`sinkhorn`] of positive masses of one in all.
fn solve(
    cost: ArrayView2<'_, f64>,
    a: &Array1<f64>,
    b: &Array1<f64>,
    total: f64,
    settings: &Sinkhorn,
) -> Result<Entropic> {
    let (n, m) = cost.dim();
    let (least, most) = cost.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), c| (l.min(*c), h.max(*c)));
    let (av, bv) = (a.to_vec(), b.to_vec());
    let mut kernel = Kernel {
        cost,
        a: &av,
        b: &bv,
        f: vec![0.0; n],
        g: vec![0.0; m],
        u: vec![1.0; n],
        v: vec![1.0; m],
        values: vec![0.0; n * m],
    };
    kernel.tighten();
    // Weights fall fivefold to the one that is asked for: each finds the neighbourhood of the next in a few steps.
    let mut weights = vec![settings.reg];
    while weights[0] < (most - least) / 25.0 {
        weights.insert(0, weights[0] * 5.0);
    }
    let (mut steps, mut error) = (0, f64::INFINITY);
    for (stage, reg) in weights.iter().enumerate() {
        let last = stage + 1 == weights.len();
        let (tolerance, limit) = if last { (settings.tolerance, settings.steps) } else { (0.05, 30) };
        kernel.build(*reg);
        let (mut here, mut broken) = (0, false);
        while here < limit {
            let Some(found) = kernel.step() else {
                if broken {
                    return Err(Error::Numeric {
                        who: "entropic transport".to_owned(),
                        step: steps as u64 + 1,
                        what: "masses differ by too many orders of magnitude; leave out the smallest".to_owned(),
                    });
                }
                broken = true;
                kernel.tighten();
                kernel.build(*reg);
                continue;
            };
            (here, steps, error, broken) = (here + 1, steps + 1, found, false);
            // The error is that of before the step, which has only lowered it; the first step finds that of a start.
            if here > 1 && error <= tolerance {
                break;
            }
            if kernel.grown() {
                kernel.absorb(*reg);
                kernel.build(*reg);
            }
        }
        kernel.absorb(*reg);
    }
    let reg = settings.reg;
    let mut values = std::mem::take(&mut kernel.values);
    let scale = |((row, u), a): ((&mut [f64], &f64), &f64)| {
        for ((value, v), b) in row.iter_mut().zip(&kernel.v).zip(&bv) {
            *value *= u * a * v * b;
        }
    };
    values.par_chunks_mut(m).zip(&kernel.u).zip(&av).for_each(scale);
    let mut coupling = Array2::from_shape_vec((n, m), values).expect("n times m values");
    let sum = coupling.sum();
    let (f, g) = (Array1::from_vec(kernel.f), Array1::from_vec(kernel.g));
    let dual = a.dot(&f) + b.dot(&g) - reg * (sum - 1.0);
    if settings.steps == 0 {
        error = (&coupling.sum_axis(Axis(1)) - a).mapv(f64::abs).sum()
            + (&coupling.sum_axis(Axis(0)) - b).mapv(f64::abs).sum();
    }
    rounded_in_place(&mut coupling, a.view(), b.view());
    let (log_a, log_b) = (a.mapv(f64::ln), b.mapv(f64::ln));
    let worth = |i: usize| {
        let (mut carried, mut entropy) = (0.0, 0.0);
        for ((mass, cost), log_b) in coupling.row(i).iter().zip(cost.row(i)).zip(&log_b) {
            carried += mass * cost;
            if *mass > 0.0 {
                entropy += mass * (mass.ln() - log_a[i] - log_b);
            }
        }
        (carried, entropy)
    };
    let parts: Vec<(f64, f64)> = (0..n).into_par_iter().map(worth).collect();
    let (carried, entropy) = parts.iter().fold((0.0, 0.0), |(c, e), (carried, entropy)| (c + carried, e + entropy));
    let gap = carried + reg * entropy - dual;
    coupling *= total;
    let certificate = Certificate { marginal: error, gap, steps, converged: error <= settings.tolerance };
    Ok(Entropic { coupling, f, g, cost: carried * total, certificate })
}
