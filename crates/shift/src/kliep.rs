use crate::ratio::{Gamma, GammaRule, centres, drawn_order};
use crate::{Align, Aligned, Host, Lesson, Source, Target, View, ratio};
use acclimate_core::{Error, Method, Result};
use acclimate_stats::{kernel::rbf, learn::select, linalg};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Fits the ratio of densities as a sum of bells under which the target is likeliest.
///
/// # Mathematics
/// With $w(x) = \sum_l \alpha_l e^{-\gamma |x - c_l|^2}$ over at most `centres` rows $c_l$ of the target,
/// $$\max_{\alpha \ge 0}\ \frac1m \sum_j \log w(x'_j) \qquad\text{where}\quad \frac1n \sum_i w(x_i) = 1.$$
/// With $b_l$ the mean of the $l$-th bell over the source and $\beta_l = b_l \alpha_l$ this is the likelihood of a mixture with shares $\beta$
/// of the components $M_{jl} = e^{-\gamma |x'_j - c_l|^2} / b_l$. The steps $\beta_l \leftarrow \beta_l\, \frac1m \sum_j M_{jl} / (M\beta)_j$, none
/// of which lowers it, are followed by Newton's with the shares at or above zero. It ends when
/// $\max_l \frac1m \sum_j M_{jl} / (M\beta)_j \le 1 + 10^{-9}$; that is how much the mean log-likelihood is at most below the largest. Of several
/// widths the one whose ratio makes held-out folds of the target likeliest is kept.
///
/// # When to use
/// Covariate shift in a few columns, standardised, when the ratio is wanted at rows to come too. `outside` is the share of target rows that
/// no bell joins to the source.
///
/// # Differences
/// skada multiplies the step of the likelihood by the machine's epsilon, so that its weights are only what the constraint makes of equal
/// $\alpha$, and takes centres with replacement; `compat = true` steps so, with centres as here. The paper ascends by gradients.
///
/// # Example
/// ```
/// use acclimate_shift::Kliep;
/// use acclimate_core::Method;
///
/// let method = Kliep::from_table(&"gammas = [0.1, 1.0, \"scale\"]".parse().unwrap())?;
/// assert_eq!(method.gammas.len(), 3);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Sugiyama et al., *Direct importance estimation for covariate shift adaptation*, Annals of the Institute of Statistical Mathematics 60,
/// 2008, doi:10.1007/s10463-008-0197-x.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "kliep", title = "KLIEP", catalogue = [28], paper = "doi:10.1007/s10463-008-0197-x", year = 2008)]
#[method(validate = Self::some, case = "", case = "gammas = [0.5]\ncentres = 10")]
pub struct Kliep {
    /// Widths of the bells, $\gamma$, each a number, `auto`, `scale` or `median`; one is taken as it is.
    pub gammas: Vec<Gamma>,
    /// Bells at most.
    #[method(min = 1)]
    pub centres: usize,
    /// Folds of the target that choose among widths.
    #[method(min = 2)]
    pub folds: usize,
    /// Steps as skada 0.4.0 does.
    pub compat: bool,
}

impl Default for Kliep {
    fn default() -> Self {
        let numbers = [0.01, 0.1, 1.0, 10.0].map(Gamma::Number);
        let gammas = numbers.into_iter().chain([Gamma::Rule(GammaRule::Scale)]).collect();
        Self { gammas, centres: 100, folds: 5, compat: false }
    }
}

/// A sum of Gaussian bells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bells {
    /// Their middles.
    pub centres: Array2<f64>,
    /// Their heights.
    pub heights: Array1<f64>,
    /// Their width, $\gamma$.
    pub gamma: f64,
}

impl Bells {
    /// The value at each row; none is below zero.
    pub fn at(&self, rows: ArrayView2<'_, f64>) -> Array1<f64> {
        rbf(rows, self.centres.view(), self.gamma).dot(&self.heights).mapv(|value| value.max(0.0))
    }
}

impl View for Bells {
    fn weigh(&self, rows: ArrayView2<'_, f64>) -> Option<Result<Array1<f64>>> {
        Some(Ok(self.at(rows)))
    }
}

impl Align for Kliep {
    type View = Bells;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Bells>> {
        let who = Self::CARD.name;
        let gammas: Vec<f64> =
            self.gammas.iter().map(|gamma| gamma.of(who, source.x, target.x)).collect::<Result<_>>()?;
        let gamma = if gammas.len() == 1 { gammas[0] } else { self.likeliest(&gammas, source, target, host)? };
        let (mut bells, outside) = self.fit(gamma, source.x, target.x, host.seed)?;
        let weights = bells.at(source.x);
        let (weights, mean) = if self.compat { (weights, 1.0) } else { ratio::mean_one(who, weights)? };
        bells.heights /= mean;
        let mut facts = ratio::facts(weights.view());
        facts.extend([("outside", outside), ("gamma", gamma)]);
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view: bells })
    }
}

impl Kliep {
    fn some(&self) -> Result<()> {
        if self.gammas.is_empty() {
            let (param, value) = ("gammas", "[]".to_owned());
            return Err(Error::Param { method: Self::CARD.name, param, value, why: "must hold a width".to_owned() });
        }
        Ok(())
    }

    /// The bells of one width, and the share of the target that they do not join to the source.
    fn fit(
        &self,
        gamma: f64,
        source: ArrayView2<'_, f64>,
        target: ArrayView2<'_, f64>,
        seed: u64,
    ) -> Result<(Bells, f64)> {
        let centres = select(target, &centres(target, self.centres, seed, "kliep centres"));
        let likely = rbf(target, centres.view(), gamma);
        let mean = rbf(source, centres.view(), gamma).mean_axis(Axis(0)).expect("a source has a row");
        if self.compat {
            return Ok((Bells { heights: constrained(&likely, &mean), centres, gamma }, 0.0));
        }
        // A bell that no source row feels has no bound; without it some rows of the target may have none.
        let kept: Vec<usize> = (0..mean.len()).filter(|l| mean[*l] > 1e-100).collect();
        let components = likely.select(Axis(1), &kept) / &mean.select(Axis(0), &kept);
        let near: Vec<usize> =
            (0..components.nrows()).filter(|j| components.row(*j).iter().any(|m| *m > 0.0)).collect();
        if near.is_empty() {
            return Err(Error::Other(format!(
                "{}: no row of the target is near the source at gamma {gamma}; give a smaller one, or use a method that moves rows",
                Self::CARD.name
            )));
        }
        let shares = mixture(&components.select(Axis(0), &near))?;
        let mut heights = Array1::zeros(mean.len());
        for (place, share) in kept.into_iter().zip(shares) {
            heights[place] = share / mean[place];
        }
        let outside = 1.0 - near.len() as f64 / target.nrows() as f64;
        Ok((Bells { centres, heights, gamma }, outside))
    }

    /// The width whose ratio makes held-out rows of the target likeliest.
    fn likeliest(&self, gammas: &[f64], source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<f64> {
        let rows = target.x.nrows();
        if rows < self.folds {
            return Err(Error::Other(format!(
                "{}: {rows} rows of the target cannot be split into {} folds; give one of `gammas`",
                Self::CARD.name,
                self.folds
            )));
        }
        let order = drawn_order(target.x, host.seed, "kliep folds");
        let pick = |fold: usize, held: bool| -> Vec<usize> {
            let places = (0..rows).filter(|place| (place % self.folds == fold) == held);
            let mut rows: Vec<usize> = places.map(|place| order[place]).collect();
            rows.sort_unstable();
            rows
        };
        let score = |gamma: f64, fold: usize| -> f64 {
            // A width at which nothing meets is not a fault while there are others.
            let Ok((bells, _)) = self.fit(gamma, source.x, select(target.x, &pick(fold, false)).view(), host.seed)
            else {
                return f64::NEG_INFINITY;
            };
            let found = bells.at(select(target.x, &pick(fold, true)).view());
            found.mapv(|w| (w + f64::EPSILON).ln()).mean().unwrap_or(0.0)
        };
        let jobs: Vec<(f64, usize)> =
            gammas.iter().flat_map(|gamma| (0..self.folds).map(move |fold| (*gamma, fold))).collect();
        let scores: Vec<f64> = jobs.into_par_iter().map(|(gamma, fold)| score(gamma, fold)).collect();
        let mut best = (f64::NEG_INFINITY, gammas[0]);
        for (gamma, scores) in gammas.iter().zip(scores.chunks(self.folds)) {
            let score = scores.iter().sum::<f64>();
            if score > best.0 {
                best = (score, *gamma);
            }
        }
        Ok(best.1)
    }
}

/// The shares of a mixture, with sum one, under which rows with these densities in each component are likeliest.
fn mixture(m: &Array2<f64>) -> Result<Array1<f64>> {
    let rows = m.nrows() as f64;
    let mut shares = Array1::from_elem(m.ncols(), 1.0 / m.ncols() as f64);
    // A product with a transposed matrix strides over memory; a copy does not.
    let turned = m.t().as_standard_layout().to_owned();
    let ratios = |shares: &Array1<f64>| turned.dot(&m.dot(shares).mapv(|p| 1.0 / p)) / rows;
    for round in 0..300 {
        let ratio = ratios(&shares);
        if ratio.iter().copied().fold(0.0, f64::max) <= 1.0 + 1e-9 {
            break;
        }
        if round < 20 {
            shares *= &ratio;
        } else if !newton(m, &mut shares)? {
            shares *= &ratios(&shares);
        }
        let sum = shares.sum();
        shares /= sum;
    }
    Ok(shares)
}

/// One step of Newton's on `Σ β − mean log(M β)` over `β ≥ 0`; false where none lowers it.
fn newton(m: &Array2<f64>, shares: &mut Array1<f64>) -> Result<bool> {
    let rows = m.nrows() as f64;
    let value = |shares: &Array1<f64>| shares.sum() - m.dot(shares).mapv(f64::ln).sum() / rows;
    let scaled = m / &m.dot(&*shares).insert_axis(Axis(1));
    let mut hessian = scaled.t().dot(&scaled) / rows;
    let ridge = 1e-12 * hessian.diag().sum();
    hessian.diag_mut().mapv_inplace(|entry| entry + ridge);
    // The quadratic model at β is ½ zᵀ H z − (s + H β)ᵀ z with the slope s = ratio − 1.
    let linear = scaled.sum_axis(Axis(0)) / rows - 1.0 + hessian.dot(&*shares);
    let direction = nonnegative(&hessian, &linear, shares)? - &*shares;
    let (before, mut rate) = (value(shares), 1.0);
    while rate > 1e-6 {
        let moved = &*shares + &(&direction * rate);
        let after = value(&moved);
        if after.is_finite() && after < before {
            *shares = moved;
            return Ok(true);
        }
        rate *= 0.5;
    }
    Ok(false)
}

/// Minimises `½ zᵀ H z − cᵀ z` over `z ≥ 0` by the active set of Lawson and Hanson, from the places that `start` has above a trace.
fn nonnegative(h: &Array2<f64>, c: &Array1<f64>, start: &Array1<f64>) -> Result<Array1<f64>> {
    let size = c.len();
    let trace = 1e-3 / size as f64;
    let mut z = start.mapv(|share| if share > trace { share } else { 0.0 });
    let mut active: Vec<usize> = (0..size).filter(|l| z[*l] > 0.0).collect();
    for round in 0..10 * size {
        let own = h.select(Axis(0), &active).select(Axis(1), &active);
        let best = linalg::solve_positive(own.view(), c.select(Axis(0), &active).insert_axis(Axis(1)).view())?;
        if round < 6 && best.iter().any(|best| *best <= 0.0) {
            // At first all that the unbounded solution has below zero leave at once; the rounds below bring back what left too soon.
            active.iter().zip(&best).filter(|(_, best)| **best <= 0.0).for_each(|(l, _)| z[*l] = 0.0);
            active.retain(|l| z[*l] > 0.0);
            continue;
        }
        let below = |(l, best): (&usize, &f64)| if *best <= 0.0 { z[*l] / (z[*l] - best) } else { 1.0 };
        let reach = active.iter().zip(&best).map(below).fold(1.0, f64::min);
        for (l, best) in active.iter().zip(&best) {
            let moved = z[*l] + reach * (best - z[*l]);
            z[*l] = if reach < 1.0 && *best <= 0.0 && moved <= 1e-14 { 0.0 } else { moved };
        }
        if reach < 1.0 {
            active.retain(|l| z[*l] > 0.0);
            continue;
        }
        let pull = c - &h.dot(&z);
        let Some(next) = (0..size).filter(|l| !active.contains(l)).max_by(|a, b| pull[*a].total_cmp(&pull[*b])) else {
            break;
        };
        if pull[next] <= 1e-12 {
            break;
        }
        active.push(next);
    }
    Ok(z)
}

/// What skada's loop comes to: steps of the likelihood that are lost in rounding, and the constraint.
fn constrained(likely: &Array2<f64>, mean: &Array1<f64>) -> Array1<f64> {
    let mut alpha = Array1::<f64>::ones(mean.len());
    let mut before = likely.dot(&alpha).mapv(f64::ln).sum();
    let turned = likely.t().as_standard_layout().to_owned();
    for _ in 0..1000 {
        alpha = &alpha + &(turned.dot(&likely.dot(&alpha).mapv(|w| 1.0 / w)) * f64::EPSILON);
        alpha = &alpha + &(mean * ((1.0 - mean.dot(&alpha)) / mean.dot(mean)));
        alpha.mapv_inplace(|a| a.max(0.0));
        alpha /= mean.dot(&alpha);
        let after = likely.dot(&alpha).mapv(|w| (w + f64::EPSILON).ln()).sum();
        if (after - before).abs() < 1e-6 {
            break;
        }
        before = after;
    }
    alpha
}
