use crate::minimise::{Stop, minimise};
use crate::principal::principal;
use crate::{Affine, Align, Aligned, Host, Lesson, Mapped, Source, Target};
use acclimate_core::{Error, Method, Result};
use acclimate_stats::learn::select;
use acclimate_stats::linalg::{column_means, covariance, orthonormal, product, solve, symmetric_eigen};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Projects both domains onto directions that tell the classes of the source apart and in which the domains are alike.
///
/// # Mathematics
/// $W$ with orthonormal columns lowers $F(W) + \mu D(W)$. For discriminants,
/// $F = \operatorname{tr} W^\top S_W W / \operatorname{tr} W^\top S_B W$ with the scatter within and between the classes of the source;
/// for `pca`, $F = -\operatorname{tr} W^\top C_s W$. $D = \int (p_s - p_t)^2$ is between densities of the projected rows
/// $z = W^\top x$ by Gaussian windows:
/// $$D = \frac{1}{n_s^2} \sum_{ij} G_{2\Sigma_s}(z_i - z_j) + \frac{1}{n_t^2} \sum_{kl} G_{2\Sigma_t}(z_k - z_l) -
///   \frac{2}{n_s n_t} \sum_{ik} G_{\Sigma_s + \Sigma_t}(z_i - z_k), \qquad
///   G_\Sigma(z) = \frac{e^{-z^\top \Sigma^{-1} z / 2}}{\sqrt{\lvert 2\pi\Sigma \rvert}},$$
/// where $\Sigma = h^2 \big((1 - \rho)\, C + \rho \operatorname{tr}(C)\, I\big)$ with the covariance $C$ of the domain's projected rows.
/// It is minimised by L-BFGS over $V$ with $W$ from $V = W R$, from the first and from the last principal axes of all rows, and the
/// lower of the two minima is kept.
///
/// # When to use
/// When some directions are shared by the domains and others are not: a mirrored or unrelated direction can be left out. With as many
/// components as columns nothing can be left out. Each value costs all pairs of rows.
///
/// # Differences
/// The paper's windows have any width; here it is tied to the spread. skada 0.4.0 takes the scatter between classes as that within and
/// the total scatter as that between, so that it looks for directions in which classes are *not* apart; takes the square root of
/// $z^\top \Sigma^{-1} z$; leaves out $\lvert 2\pi\Sigma \rvert$; and begins at the first columns alone: `compat = true` does all four,
/// and cuts more components than columns down, which is refused otherwise. Its locality preserving projection is not offered.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Tsl;
///
/// assert!(Tsl { components: Some(1), mu: 10.0, ..Tsl::default() }.check().is_ok());
/// ```
///
/// # References
/// Si, Tao and Geng, *Bregman Divergence-Based Regularization for Transfer Subspace Learning*, IEEE Transactions on Knowledge and Data
/// Engineering 22, 2010, doi:10.1109/TKDE.2009.126.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "tsl", title = "Transfer Subspace Learning", catalogue = [28])]
#[method(paper = "doi:10.1109/TKDE.2009.126", year = 2010, needs(labels))]
#[method(case = "", case = "components = 1\nobjective = \"pca\"", case = "components = 1\ncompat = true")]
pub struct Tsl {
    /// How many directions; none is one less than there are classes.
    pub components: Option<usize>,
    /// What the directions are to do besides: `discriminants` or `pca`.
    pub objective: Objective,
    /// What a difference of the domains costs, $\mu$.
    #[method(min = 0)]
    pub mu: f64,
    /// How far covariances are drawn to a multiple of the identity, $\rho$.
    #[method(min = 0, max = 1)]
    pub shrinkage: f64,
    /// The width of the windows over the spread, $h$.
    #[method(above = 0)]
    pub bandwidth: f64,
    /// Steps at most.
    pub steps: usize,
    /// The largest number of the gradient at which it ends.
    #[method(min = 0)]
    pub tolerance: f64,
    /// Follows skada 0.4.0 in what the page names.
    pub compat: bool,
}

impl Default for Tsl {
    fn default() -> Self {
        let objective = Objective::Discriminants;
        let (mu, shrinkage, bandwidth, steps, tolerance) = (1.0, 1e-4, 1.0, 300, 1e-4);
        Self { components: None, objective, mu, shrinkage, bandwidth, steps, tolerance, compat: false }
    }
}

/// What directions are for in [`Tsl`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Fisher's: classes are apart.
    #[default]
    Discriminants,
    /// The source varies much.
    Pca,
}

impl Align for Tsl {
    type View = Mapped;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Mapped>> {
        let (of, count) = source.y.classes(Self::CARD.name)?;
        let features = source.x.ncols();
        let asked = self.components.unwrap_or(count.saturating_sub(1).clamp(1, features));
        let components = if self.compat { asked.min(features) } else { asked };
        if components == 0 || components > features {
            let (value, why) = (asked.to_string(), format!("must be between 1 and {features}, the number of columns"));
            return Err(Error::Param { method: Self::CARD.name, param: "components", value, why });
        }
        let problem = Problem::new(self, source.x, target.x, of, count);
        let starts = if self.compat {
            vec![Array2::eye(features).slice(s![.., ..components]).to_owned()]
        } else {
            let both = concatenate(Axis(0), &[source.x, target.x]).expect("domains of one width");
            let axes = leading(both.view(), features)?;
            let first = axes.slice(s![.., ..components]).to_owned();
            if components == features {
                vec![first]
            } else {
                vec![first, axes.slice(s![.., features - components..]).to_owned()]
            }
        };
        let mut best: Option<(Vec<f64>, f64)> = None;
        for start in starts {
            let stop = Stop { steps: self.steps, gradient: self.tolerance };
            let found = minimise(|flat| problem.at(flat, components), start.into_iter().collect(), stop)?;
            if best.as_ref().is_none_or(|best| found.1 < best.1) {
                best = Some(found);
            }
        }
        let (flat, value) = best.expect("there is a start");
        let matrix = orthonormal(matrix(&flat, components).view());
        let map = Affine::projection(Array1::zeros(features), matrix);
        let lesson = Lesson { x: map.of(source.x)?, y: source.y.clone(), weights: None };
        let view = Mapped { source: map.clone(), target: Some(map) };
        Ok(Aligned { lesson, facts: vec![("objective", value)], view })
    }
}

/// All principal axes, also those in which fewer rows than columns do not vary.
fn leading(x: ArrayView2<'_, f64>, features: usize) -> Result<Array2<f64>> {
    if x.nrows() >= features {
        return Ok(principal(Tsl::CARD.name, x, None)?.1);
    }
    let (_, vectors) = symmetric_eigen(covariance(x, 0).view())?;
    Ok(crate::principal::signed(vectors.slice(s![.., ..;-1]).to_owned()))
}

fn matrix(flat: &[f64], components: usize) -> Array2<f64> {
    let features = flat.len() / components;
    Array2::from_shape_vec((features, components), flat.to_vec()).expect("as many numbers as the start has")
}

/// What does not change while directions are sought.
struct Problem<'a> {
    method: &'a Tsl,
    x: [Array2<f64>; 2],
    covariances: [Array2<f64>; 2],
    /// The matrices of the ratio of traces; without the second, minus a trace.
    above: Array2<f64>,
    below: Option<Array2<f64>>,
}

impl<'a> Problem<'a> {
    fn new(
        method: &'a Tsl,
        source: ArrayView2<'_, f64>,
        target: ArrayView2<'_, f64>,
        of: &[usize],
        count: usize,
    ) -> Self {
        let covariances = [covariance(source, 0), covariance(target, 0)];
        let shrunk = |c: &Array2<f64>| {
            c * (1.0 - method.shrinkage) + Array2::<f64>::eye(c.nrows()) * (method.shrinkage * c.diag().sum())
        };
        let (above, below) = match method.objective {
            Objective::Pca => (shrunk(&covariances[0]), None),
            Objective::Discriminants => {
                let rows_of = |class: usize| -> Vec<usize> { (0..of.len()).filter(|row| of[*row] == class).collect() };
                let classes: Vec<Vec<usize>> = (0..count).map(rows_of).filter(|rows| !rows.is_empty()).collect();
                let means: Vec<Array1<f64>> =
                    classes.iter().map(|rows| column_means(select(source, rows).view())).collect();
                let root = |rows: &Vec<usize>| (rows.len() as f64).sqrt();
                let about = if method.compat { Array1::zeros(source.ncols()) } else { column_means(source) };
                let mut scaled = Array2::zeros((means.len(), source.ncols()));
                for ((mut row, mean), rows) in scaled.rows_mut().into_iter().zip(&means).zip(&classes) {
                    row.assign(&((mean - &about) * root(rows)));
                }
                if method.compat {
                    (shrunk(&covariance(scaled.view(), 0)), Some(shrunk(&covariances[0])))
                } else {
                    let between = scaled.t().dot(&scaled) / of.len() as f64;
                    (&covariances[0] - &between, Some(between))
                }
            }
        };
        Self { method, x: [source.to_owned(), target.to_owned()], covariances, above, below }
    }

    /// The value at `V`, and its gradient through the directions of `V`.
    fn at(&self, flat: &[f64], components: usize) -> Result<(f64, Vec<f64>)> {
        let v = matrix(flat, components);
        let w = orthonormal(v.view());
        let (mut value, mut gradient) = self.ratio(&w);
        if self.method.mu > 0.0 {
            let (apart, by) = self.divergence(&w)?;
            value += self.method.mu * apart;
            gradient.scaled_add(self.method.mu, &by);
        }
        // Of V = W R with the gradient Ḡ of W: (Ḡ + W S) R⁻ᵀ, S the lower triangle of −Ḡᵀ W and its mirror image.
        let r = w.t().dot(&v);
        let product = -gradient.t().dot(&w);
        let mirrored = Array2::from_shape_fn((components, components), |(i, j)| product[[i.max(j), i.min(j)]]);
        let through = solve(r.view(), (gradient + w.dot(&mirrored)).t())?;
        Ok((value, through.t().iter().copied().collect()))
    }

    fn ratio(&self, w: &Array2<f64>) -> (f64, Array2<f64>) {
        let trace = |matrix: &Array2<f64>| {
            let times = matrix.dot(w);
            ((&times * w).sum(), times * 2.0)
        };
        let (above, up) = trace(&self.above);
        match &self.below {
            None => (-above, -up),
            Some(below) => {
                let (below, down) = trace(below);
                (above / below, up / below - down * (above / (below * below)))
            }
        }
    }

    /// The squared difference of the domains' densities, and its gradient.
    fn divergence(&self, w: &Array2<f64>) -> Result<(f64, Array2<f64>)> {
        let rho = self.method.shrinkage;
        let square = if self.method.compat { 1.0 } else { self.method.bandwidth * self.method.bandwidth };
        let components = w.ncols();
        let identity = Array2::<f64>::eye(components);
        let shown = [self.x[0].dot(w), self.x[1].dot(w)];
        let spread = |domain: usize| {
            let inner = w.t().dot(&self.covariances[domain].dot(w));
            let trace = inner.diag().sum();
            (inner * (1.0 - rho) + &identity * (rho * trace)) * square
        };
        let spreads = [spread(0), spread(1)];
        let mut value = 0.0;
        let mut gradient = Array2::zeros(w.dim());
        let mut by_spread = [Array2::<f64>::zeros((components, components)), Array2::zeros((components, components))];
        for (a, b, times) in [(0, 0, 1.0), (1, 1, 1.0), (0, 1, -2.0)] {
            let sum = &spreads[a] + &spreads[b];
            let inverse = solve(sum.view(), identity.view())?;
            let (values, _) = symmetric_eigen(sum.view())?;
            let height = if self.method.compat {
                1.0
            } else {
                values.iter().map(|value| (2.0 * std::f64::consts::PI * value).powf(-0.5)).product()
            };
            let times = times * height / (shown[a].nrows() * shown[b].nrows()) as f64;
            let (sum, falls) = self.pairs(&shown[a], &shown[b], &inverse);
            value += times * sum;
            // Σ f_ij (x_i − x_j)(x_i − x_j)ᵀ over all pairs.
            let (xa, xb) = (&self.x[a], &self.x[b]);
            let cross = product(xa.t(), product(falls.view(), xb.view()).view());
            let own = |x: &Array2<f64>, sums: Array1<f64>| product((x * &sums.insert_axis(Axis(1))).t(), x.view());
            let outer = own(xa, falls.sum_axis(Axis(1))) + own(xb, falls.sum_axis(Axis(0))) - &cross - cross.t();
            let outer = outer * times;
            gradient += &(outer.dot(w).dot(&inverse) * 2.0);
            let mut here = -inverse.dot(&w.t().dot(&outer.dot(w))).dot(&inverse);
            if !self.method.compat {
                here.scaled_add(-0.5 * times * sum, &inverse);
            }
            by_spread[a] += &here;
            by_spread[b] += &here;
        }
        for (by, covariance) in by_spread.iter().zip(&self.covariances) {
            let times = covariance.dot(w);
            gradient += &(times.dot(by) * (2.0 * (1.0 - rho) * square));
            gradient += &(times * (2.0 * rho * by.diag().sum() * square));
        }
        Ok((value, gradient))
    }

    /// The sum of the windows' values over all pairs of shown rows, and for each pair the derivative by `zᵀ Σ⁻¹ z`.
    fn pairs(&self, a: &Array2<f64>, b: &Array2<f64>, inverse: &Array2<f64>) -> (f64, Array2<f64>) {
        let compat = self.method.compat;
        let mut falls = Array2::zeros((a.nrows(), b.nrows()));
        let width = b.nrows().max(1);
        let windows = |(row, falls): (usize, &mut [f64])| {
            let from = a.row(row);
            let mut sum = 0.0;
            for (fall, to) in falls.iter_mut().zip(b.rows()) {
                let mut square = 0.0;
                for i in 0..from.len() {
                    let along: f64 = (0..from.len()).map(|j| inverse[[i, j]] * (from[j] - to[j])).sum();
                    square += along * (from[i] - to[i]);
                }
                let square = square.max(0.0);
                let distance = square.sqrt();
                let window = (-0.5 * if compat { distance } else { square }).exp();
                sum += window;
                *fall = match (compat, distance > 0.0) {
                    (false, _) => -0.5 * window,
                    (true, true) => -0.25 * window / distance,
                    (true, false) => 0.0,
                };
            }
            sum
        };
        // A sum for each row, added up in order: the result does not depend on the number of threads.
        let slice = falls.as_slice_mut().expect("made here");
        let sums: Vec<f64> = slice.par_chunks_mut(width).enumerate().map(windows).collect();
        (sums.into_iter().sum(), falls)
    }
}
