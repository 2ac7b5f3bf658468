use crate::{Case, Score};
use acclimate_core::{Error, Method, Result, Rng};
use acclimate_stats::learn::select;
use acclimate_stats::linalg::{column_means, solve_positive};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

/// The error on unseen rows of the source, weighted in the learner's own features, with a control for the weights.
///
/// # Mathematics
/// A logistic regression tells the rows that the fit has seen apart by domain, as they are shown to the learner. For the unseen rows $i$ of
/// the source, with the loss $\ell_i = -\log p_{i y_i}$,
/// $$w_i = \frac{n_s}{n_t} \cdot \frac{P(\text{target} \mid z_i)}{P(\text{source} \mid z_i)}, \qquad
///   s = -\big( \overline{w \ell} + \eta\, \bar w - \eta \big), \qquad
///   \eta = -\frac{\operatorname{cov}(w \ell, w)}{\operatorname{var}(w)}.$$
/// Since the weights have mean one in expectation, the terms with $\eta$ take out variance and no more. Where all weights are equal,
/// $\eta = 0$.
///
/// # When to use
/// As [`ImportanceWeighted`](crate::ImportanceWeighted), with more columns than a density can be estimated in. It trusts the source's
/// labels, so it sees nothing of classes that moved.
///
/// # Differences
/// skada 0.4.0 multiplies the column of weights with a row of losses, so that the mean is $\bar w \bar\ell$ and
/// $\eta = -\ell_1 \ell_2$ of the first two rows; shows rows of the source as if they were of the target; and splits the unseen
/// rows of the source, a third of which it judges, to fit the regression on the rest and the target's unseen rows: `compat = true`. With
/// `weights = "largest"` the weights are divided by the largest of them, which Musgrave, Belongie and Lim call DEVN.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Dev;
///
/// let devn = Dev::from_table(&toml::toml! { weights = "largest" })?;
/// assert_eq!(devn.to_table()["weights"].as_str(), Some("largest"));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// You, Wang, Long and Jordan, *Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation*, ICML 2019,
/// <https://proceedings.mlr.press/v97/you19a.html>. Musgrave, Belongie and Lim, *Three New Validators and a Large-Scale Benchmark Ranking
/// for Unsupervised Domain Adaptation*, arXiv:2208.07360.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dev", title = "Deep Embedded Validation", catalogue = [28], paper = "arxiv:2208.07360", year = 2019)]
#[method(case = "", case = "weights = \"largest\"", case = "compat = true")]
pub struct Dev {
    /// How weights are scaled: `plain`, or `largest` for DEVN.
    pub weights: Scaling,
    /// The price of a wrong answer against the size of the regression's coefficients.
    #[method(above = 0)]
    pub c: f64,
    /// Follows skada 0.4.0 in what the page names.
    pub compat: bool,
}

impl Default for Dev {
    fn default() -> Self {
        Self { weights: Scaling::Plain, c: 1.0, compat: false }
    }
}

/// How the weights of [`Dev`] are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Not at all.
    #[default]
    Plain,
    /// Divided by the largest.
    Largest,
}

/// Probabilities closer to zero or one count as this far away.
const SURE: f64 = 1e-15;

/// Weights that differ by less than this share are equal.
const EQUAL: f64 = 1e-9;

impl Score for Dev {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        let (of, _) = case.held.y.classes(Self::CARD.name)?;
        let view = &case.fit.view;
        let rows = self.judged(case);
        if rows.len() < 2 {
            return Err(Error::Other(format!(
                "dev: {} unseen rows of the source are too few; give two or more",
                rows.len()
            )));
        }
        let held = select(case.held.x, &rows);
        let (source, target, shown) = if self.compat {
            let rest: Vec<usize> = (0..of.len()).filter(|row| !rows.contains(row)).collect();
            let rest = select(case.held.x, &rest);
            (view.show(rest.view())?, view.show(case.target_held.x)?, view.show(held.view())?)
        } else {
            (view.show_source(case.source.x)?, view.show(case.target.x)?, view.show_source(held.view())?)
        };
        let odds = target_odds(source.view(), target.view(), shown.view(), self.c)?;
        let mut weights = odds * (source.nrows() as f64 / target.nrows() as f64);
        if self.weights == Scaling::Largest {
            let most = weights.iter().fold(0.0_f64, |most, weight| most.max(*weight));
            weights /= most.max(f64::MIN_POSITIVE);
        }
        let answers = case.fit.source_answers(held.view())?;
        let loss = |(at, row): (usize, &usize)| -answers[[at, of[*row]]].clamp(SURE, 1.0 - SURE).ln();
        let losses: Array1<f64> = rows.iter().enumerate().map(loss).collect();
        let mean = weights.sum() / weights.len() as f64;
        let (weighted, eta) = if self.compat {
            (
                mean * losses.sum() / losses.len() as f64,
                if variance(&weights) > 0.0 { -losses[0] * losses[1] } else { 0.0 },
            )
        } else {
            let weighted = &weights * &losses;
            let eta = control(&weighted, &weights);
            (weighted.sum() / weighted.len() as f64, eta)
        };
        Ok(-(weighted + eta * mean - eta))
    }
}

impl Dev {
    /// The unseen rows of the source that are judged: all, or with `compat` a third, drawn by the seed.
    fn judged(&self, case: &Case<'_>) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..case.held.y.len()).collect();
        if self.compat {
            Rng::new(case.host.seed, "dev", 0).shuffle(&mut rows);
            rows.truncate((0.33 * rows.len() as f64).ceil() as usize);
        }
        rows
    }
}

fn variance(weights: &Array1<f64>) -> f64 {
    let mean = weights.sum() / weights.len() as f64;
    weights.iter().map(|weight| (weight - mean) * (weight - mean)).sum()
}

/// What takes most variance out of the mean of `weighted`: minus the slope of its regression on the weights.
fn control(weighted: &Array1<f64>, weights: &Array1<f64>) -> f64 {
    let spread = variance(weights);
    let mean = weights.sum() / weights.len() as f64;
    // What is left of equal weights is rounding, and a slope over that is noise.
    if spread <= weights.len() as f64 * (EQUAL * mean).powi(2) {
        return 0.0;
    }
    -weighted.iter().zip(weights).map(|(value, weight)| value * (weight - mean)).sum::<f64>() / spread
}

/// The odds of the target against the source at `rows`, by a logistic regression of the domain with `½ |β|² + c Σ loss`, the intercept
/// free. Newton's steps, halved until the objective falls.
fn target_odds(
    source: ArrayView2<'_, f64>,
    target: ArrayView2<'_, f64>,
    rows: ArrayView2<'_, f64>,
    c: f64,
) -> Result<Array1<f64>> {
    // About the mean, so that the intercept and the coefficients do not pull at each other.
    let both = concatenate(Axis(0), &[source, target]).expect("shown by one view");
    let middle = column_means(both.view());
    let with_one = |x: ArrayView2<'_, f64>| {
        let ones = Array2::ones((x.nrows(), 1));
        concatenate(Axis(1), &[(&x - &middle).view(), ones.view()]).expect("as many rows")
    };
    let x = with_one(both.view());
    let width = x.ncols();
    let signs: Array1<f64> = (0..x.nrows()).map(|row| if row < source.nrows() { -1.0 } else { 1.0 }).collect();
    let ridge: Array1<f64> = (0..width).map(|at| if at + 1 < width { 1.0 } else { 0.0 }).collect();
    // log(1 + e⁻ᶻ) without an overflow.
    let loss = |z: f64| (-z.abs()).exp().ln_1p() + (-z).max(0.0);
    let objective = |beta: &Array1<f64>| {
        let losses: f64 = (x.dot(beta) * &signs).iter().map(|z| loss(*z)).sum();
        0.5 * (beta * beta * &ridge).sum() + c * losses
    };
    let mut beta = Array1::<f64>::zeros(width);
    let mut value = objective(&beta);
    for _ in 0..100 {
        let wrong = (x.dot(&beta) * &signs).mapv(|z| 1.0 / (1.0 + z.exp()));
        let gradient = &beta * &ridge - x.t().dot(&(&wrong * &signs)) * c;
        let curved = wrong.mapv(|p| (c * p * (1.0 - p)).max(1e-12)).insert_axis(Axis(1));
        let hessian = (&x * &curved).t().dot(&x) + Array2::from_diag(&ridge);
        let step = solve_positive(hessian.view(), gradient.view().insert_axis(Axis(1)))?.column(0).to_owned();
        let mut share = 1.0;
        let next = loop {
            let next = &beta - &(&step * share);
            let found = objective(&next);
            if found <= value || share < 1e-10 {
                value = found.min(value);
                break next;
            }
            share *= 0.5;
        };
        let moved = (&next - &beta).iter().fold(0.0_f64, |most, by| most.max(by.abs()));
        beta = next;
        if moved < 1e-12 * (1.0 + beta.iter().fold(0.0_f64, |most, by| most.max(by.abs()))) {
            break;
        }
    }
    Ok(with_one(rows).dot(&beta).mapv(f64::exp))
}
