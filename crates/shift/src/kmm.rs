use crate::ratio::{Gamma, GammaRule, drawn_order};
use crate::{Align, Aligned, Host, Lesson, Plain, Source, Target, ratio};
use acclimate_core::{Method, Result};
use acclimate_stats::{kernel::rbf, learn::select, qp::Qp};
use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

/// Weighs the source rows so that their mean in a kernel's space meets the target's.
///
/// # Mathematics
/// With the kernel $k(x, x') = e^{-\gamma |x - x'|^2}$, $K_{ij} = k(x_i, x_j)$ on the source's $n$ rows and
/// $\kappa_i = \frac n m \sum_j k(x_i, x'_j)$ over the target's $m$,
/// $$\min_\beta\ \tfrac12 \beta^\top K \beta - \kappa^\top \beta \qquad\text{where}\quad 0 \le \beta_i \le B, \quad
///   \Big|\sum_i \beta_i - n\Big| \le n \varepsilon, \qquad \varepsilon = 1 - 1/\sqrt n.$$
/// The value is $\frac{n^2}{2} |\frac1n \sum_i \beta_i \phi(x_i) - \frac1m \sum_j \phi(x'_j)|^2$ and a constant. Pairs of weights move until
/// `gap`, what is at most missing to the smallest value as a share of it, is below `tolerance`. The weights are brought to mean one.
///
/// # When to use
/// Covariate shift in any number of columns where distances mean something; standardise first. Weights exist for the given source rows
/// alone. A wide kernel meets few moments and gives smooth weights, a narrow one many and gives spikes.
///
/// # Differences
/// skada's default solver is Frank and Wolfe's, which ignores the bound $B$ and stops after `1000` steps wherever it is; it leaves
/// the weights at their own scale. `compat = true` does so.
///
/// # Example
/// ```
/// use acclimate_shift::Kmm;
/// use acclimate_core::Method;
///
/// let method = Kmm::from_table(&"gamma = 0.1\nbound = 10.0".parse().unwrap())?;
/// assert!(Kmm::from_table(&"bound = 0.5".parse().unwrap()).is_err());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Huang, Gretton, Borgwardt, Schölkopf and Smola, *Correcting sample selection bias by unlabeled data*, NeurIPS 2006,
/// doi:10.7551/mitpress/7503.003.0080.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "kmm", title = "KMM", catalogue = [28], paper = "doi:10.7551/mitpress/7503.003.0080", year = 2006)]
#[method(case = "", case = "gamma = \"median\"\nbound = 10.0")]
pub struct Kmm {
    /// The kernel's width, $\gamma$: a number, `auto`, `scale` or `median`.
    pub gamma: Gamma,
    /// The largest weight, $B$.
    #[method(min = 1)]
    pub bound: f64,
    /// How far the mean weight may be from one, $\varepsilon$; none is $1 - 1/\sqrt n$.
    #[method(min = 0)]
    pub slack: Option<f64>,
    /// The pairs of weights that move at most, for each source row.
    #[method(min = 1)]
    pub steps: usize,
    /// What may be missing to the smallest value, as a share of it.
    #[method(above = 0)]
    pub tolerance: f64,
    /// Solves and scales as skada 0.4.0 does.
    pub compat: bool,
}

impl Default for Kmm {
    fn default() -> Self {
        Self {
            gamma: Gamma::Rule(GammaRule::Auto),
            bound: 1000.0,
            slack: None,
            steps: 200,
            tolerance: 1e-3,
            compat: false,
        }
    }
}

impl Align for Kmm {
    type View = Plain;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Plain>> {
        let (who, n) = (Self::CARD.name, source.x.nrows());
        // The smallest value is flat, and where a search for it ends depends on the order of rows: one of their own is taken.
        let order = drawn_order(source.x, 0, who);
        let (x, t) = (select(source.x, &order), select(target.x, &drawn_order(target.x, 0, who)));
        let given = |found: Array1<f64>| {
            let mut weights = Array1::zeros(n);
            for (row, weight) in order.iter().zip(found) {
                weights[*row] = weight;
            }
            weights
        };
        let gamma = self.gamma.of(who, x.view(), t.view())?;
        let k = rbf(x.view(), x.view(), gamma);
        let across = rbf(x.view(), t.view(), gamma);
        let kappa = across.mean_axis(ndarray::Axis(1)).expect("a target has a row") * n as f64;
        let root = (n as f64).sqrt();
        let slack = self.slack.unwrap_or((root - 1.0) / root) * n as f64;
        let slab = [(n as f64 - slack).max(0.0), n as f64 + slack];
        if self.compat {
            let weights = given(frank_wolfe(&k, &kappa, slab));
            let facts = ratio::facts(weights.view());
            return Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view: Plain {} });
        }
        let (zero, one) = (Array1::zeros(n), Array1::ones(n));
        let (upper, linear) = (Array1::from_elem(n, self.bound), -&kappa);
        let qp = Qp {
            quadratic: k.view(),
            linear: linear.view(),
            lower: zero.view(),
            upper: upper.view(),
            coefficients: one.view(),
            slab,
        };
        let scale = kappa.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let found = qp.solve(one.view(), 1e-12 * scale, self.tolerance, self.steps.saturating_mul(n))?;
        let (weights, _) = ratio::mean_one(who, given(found.x))?;
        let mut facts = ratio::facts(weights.view());
        facts.push(("gap", found.gap / found.value.abs().max(f64::MIN_POSITIVE)));
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view: Plain {} })
    }
}

/// A thousand steps towards the corner of `{x ≥ 0, slab}` that the gradient points at.
fn frank_wolfe(k: &Array2<f64>, kappa: &Array1<f64>, [low, high]: [f64; 2]) -> Array1<f64> {
    let mut x = Array1::<f64>::zeros(kappa.len());
    // The first gradient is taken at equal weights, of which the first step keeps nothing.
    let mut product = k.sum_axis(ndarray::Axis(1)) * ((high - low) / 2.0 / kappa.len() as f64);
    for step in 1..=1000 {
        let at = |i: usize| product[i] - kappa[i];
        let corner = (1..kappa.len()).fold(0, |best, i| if at(i) < at(best) { i } else { best });
        let size = if at(corner) >= 0.0 { low } else { high };
        let rate = 2.0 / (f64::from(step) + 1.0);
        x *= 1.0 - rate;
        x[corner] += rate * size;
        product *= 1.0 - rate;
        product.scaled_add(rate * size, &k.row(corner));
    }
    x
}
