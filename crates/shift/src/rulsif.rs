use crate::kliep::Bells;
use crate::ratio::{Gamma, GammaRule, centres, drawn_order};
use crate::{Align, Aligned, Host, Lesson, Source, Target, ratio};
use acclimate_core::{Card, Error, Method, Result};
use acclimate_stats::{kernel::rbf, learn::select, linalg};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Fits the density of the target over a mixture of both by least squares, with one linear solve.
///
/// # Mathematics
/// With bells $\phi_l(x) = e^{-\gamma |x - c_l|^2}$ around at most `centres` rows of the target, $\theta^\top \phi$ estimates
/// $$r_\alpha(x) = \frac{p_t(x)}{\alpha p_t(x) + (1 - \alpha) p_s(x)} \le \frac1\alpha \qquad\text{by}\qquad
///   \theta = (H + \lambda I)^{-1} h,$$
/// $$H = \frac\alpha m \sum_j \phi(x'_j)\phi(x'_j)^\top + \frac{1 - \alpha}{n} \sum_i \phi(x_i) \phi(x_i)^\top, \qquad h = \frac1m \sum_j \phi(x'_j).$$
/// Values below zero become zero, and weights are brought to mean one over the source. Among several widths and penalties those are kept with
/// the least $\frac12 \theta^\top H \theta - h^\top \theta$ on held-out folds of both domains.
///
/// # When to use
/// Covariate shift where the plain ratio would explode: `alpha` bounds it at $1/\alpha$. The same rows, penalty and width give the same
/// numbers, so it is steadier than KLIEP. `alpha = 0` is uLSIF.
///
/// # Differences
/// The authors' programs choose by a closed form of leaving one out on as many rows as the smaller domain has; here folds of both
/// domains choose.
///
/// # Example
/// ```
/// use acclimate_shift::Rulsif;
/// use acclimate_core::Method;
///
/// let method = Rulsif::from_table(&"alpha = 0.5\ngammas = [\"median\"]\npenalties = [0.1]".parse().unwrap())?;
/// assert_eq!(method.alpha, 0.5);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Yamada, Suzuki, Kanamori, Hachiya and Sugiyama, *Relative density-ratio estimation for robust distribution comparison*, Neural Computation
/// 25, 2013, arXiv:1106.4729.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "rulsif", title = "RuLSIF", catalogue = [28], paper = "arxiv:1106.4729", year = 2013)]
#[method(validate = Self::some, case = "", case = "gammas = [0.5]\npenalties = [0.1]\nalpha = 0.5")]
pub struct Rulsif {
    /// The share of the target in the mixture, $\alpha$.
    #[method(min = 0, max = 1)]
    pub alpha: f64,
    /// Widths of the bells, $\gamma$, each a number, `auto`, `scale` or `median`.
    pub gammas: Vec<Gamma>,
    /// Penalties $\lambda$.
    pub penalties: Vec<f64>,
    /// Bells at most.
    #[method(min = 1)]
    pub centres: usize,
    /// Folds that choose among widths and penalties.
    #[method(min = 2)]
    pub folds: usize,
}

impl Default for Rulsif {
    fn default() -> Self {
        let numbers = [0.01, 0.1, 1.0, 10.0].map(Gamma::Number);
        let gammas = numbers.into_iter().chain([Gamma::Rule(GammaRule::Median)]).collect();
        Self { alpha: 0.1, gammas, penalties: vec![1e-3, 1e-2, 1e-1, 1.0], centres: 100, folds: 5 }
    }
}

#[doc = include_str!("ulsif.md")]
pub const ULSIF: Card =
    Card { name: "ulsif", title: "uLSIF", paper: "-", year: 2009, doc: include_str!("ulsif.md"), ..Rulsif::CARD };

/// What the linear system is made of.
struct Moments {
    quadratic: Array2<f64>,
    linear: Array1<f64>,
}

impl Align for Rulsif {
    type View = Bells;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Bells>> {
        let who = Self::CARD.name;
        let gammas: Vec<f64> =
            self.gammas.iter().map(|gamma| gamma.of(who, source.x, target.x)).collect::<Result<_>>()?;
        let centres = select(target.x, &centres(target.x, self.centres, host.seed, "rulsif centres"));
        let (gamma, penalty) = if gammas.len() * self.penalties.len() == 1 {
            (gammas[0], self.penalties[0])
        } else {
            self.least(&gammas, &centres, source, target, host)?
        };
        let moments =
            self.moments(rbf(source.x, centres.view(), gamma).view(), rbf(target.x, centres.view(), gamma).view());
        let mut view = Bells { heights: moments.solve(penalty)?, centres, gamma };
        let (weights, mean) = ratio::mean_one(who, view.at(source.x))?;
        view.heights /= mean;
        let mut facts = ratio::facts(weights.view());
        facts.extend([("gamma", gamma), ("penalty", penalty)]);
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view })
    }
}

impl Moments {
    fn solve(&self, penalty: f64) -> Result<Array1<f64>> {
        let mut system = self.quadratic.clone();
        system.diag_mut().mapv_inplace(|entry| entry + penalty);
        Ok(linalg::solve_positive(system.view(), self.linear.view().insert_axis(Axis(1)))?.remove_axis(Axis(1)))
    }

    fn loss(&self, theta: &Array1<f64>) -> f64 {
        0.5 * theta.dot(&self.quadratic.dot(theta)) - self.linear.dot(theta)
    }
}

impl Rulsif {
    fn some(&self) -> Result<()> {
        let why = |param, value: String, why: &str| {
            Err(Error::Param { method: Self::CARD.name, param, value, why: why.to_owned() })
        };
        if self.gammas.is_empty() {
            return why("gammas", "[]".to_owned(), "must hold a width");
        }
        if self.penalties.is_empty() || self.penalties.iter().any(|penalty| penalty.is_nan() || *penalty <= 0.0) {
            return why("penalties", format!("{:?}", self.penalties), "must hold positive numbers");
        }
        Ok(())
    }

    fn moments(&self, source: ArrayView2<'_, f64>, target: ArrayView2<'_, f64>) -> Moments {
        let square = |bells: ArrayView2<'_, f64>, share: f64| {
            linalg::product(bells.t(), bells) * (share / bells.nrows().max(1) as f64)
        };
        let quadratic = square(target, self.alpha) + square(source, 1.0 - self.alpha);
        Moments { quadratic, linear: linalg::column_means(target) }
    }

    /// The width and penalty with the least loss on held-out folds.
    fn least(
        &self,
        gammas: &[f64],
        centres: &Array2<f64>,
        source: &Source<'_>,
        target: &Target<'_>,
        host: &Host<'_>,
    ) -> Result<(f64, f64)> {
        if source.x.nrows().min(target.x.nrows()) < self.folds {
            return Err(Error::Other(format!(
                "{}: a domain has fewer rows than the {} folds; give one of `gammas` and of `penalties`",
                Self::CARD.name,
                self.folds
            )));
        }
        let folds = |rows: ArrayView2<'_, f64>| -> Vec<Vec<usize>> {
            let order = drawn_order(rows, host.seed, "rulsif folds");
            let pick = |fold| order.iter().skip(fold).step_by(self.folds).copied().collect();
            (0..self.folds).map(pick).collect()
        };
        let (of_source, of_target) = (folds(source.x), folds(target.x));
        let mut best = (f64::INFINITY, (gammas[0], self.penalties[0]));
        for gamma in gammas {
            let (near, far) = (rbf(source.x, centres.view(), *gamma), rbf(target.x, centres.view(), *gamma));
            let part = |fold: usize| {
                let (near, far) = (near.select(Axis(0), &of_source[fold]), far.select(Axis(0), &of_target[fold]));
                self.moments(near.view(), far.view())
            };
            let parts: Vec<Moments> = (0..self.folds).map(part).collect();
            let others = |held: usize| {
                let rest = || parts.iter().enumerate().filter(move |(fold, _)| *fold != held).map(|(_, part)| part);
                let share = 1.0 / (self.folds - 1) as f64;
                let mut sum = Moments {
                    quadratic: Array2::zeros(parts[0].quadratic.dim()),
                    linear: Array1::zeros(parts[0].linear.len()),
                };
                for part in rest() {
                    sum.quadratic.scaled_add(share, &part.quadratic);
                    sum.linear.scaled_add(share, &part.linear);
                }
                sum
            };
            let trained: Vec<Moments> = (0..self.folds).map(others).collect();
            for penalty in &self.penalties {
                let loss =
                    |(train, held): (&Moments, &Moments)| -> Result<f64> { Ok(held.loss(&train.solve(*penalty)?)) };
                let loss = trained.iter().zip(&parts).map(loss).sum::<Result<f64>>()?;
                if loss < best.0 {
                    best = (loss, (*gamma, *penalty));
                }
            }
        }
        Ok(best.1)
    }
}
