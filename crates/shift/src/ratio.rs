//! Weights of source rows: scale, effective rows, facts, and choices among rows that do not look at their order.

use acclimate_core::{Error, Result, Rng};
use acclimate_stats::kernel;
use ndarray::{Array1, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

/// How many rows of equal weight would be as sure as these: `(Σ w)² / Σ w²`, after Kish.
pub fn effective_rows(weights: ArrayView1<'_, f64>) -> f64 {
    let squares = weights.dot(&weights);
    if squares > 0.0 { weights.sum().powi(2) / squares } else { 0.0 }
}

/// Named numbers about weights for the report.
pub fn facts(weights: ArrayView1<'_, f64>) -> Vec<(&'static str, f64)> {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    vec![("effective rows", effective_rows(weights)), ("largest weight", largest)]
}

/// The weights over their mean, and the mean.
///
/// # Errors
/// When the mean is zero or not finite: no row of the source lies where the target is.
pub fn mean_one(who: &str, weights: Array1<f64>) -> Result<(Array1<f64>, f64)> {
    let mean = weights.mean().unwrap_or(0.0);
    if mean > 0.0 && mean.is_finite() {
        return Ok((weights / mean, mean));
    }
    Err(Error::Other(format!(
        "{who}: all weights of the source are zero or one is not finite: no row of the source lies near the target; widen the kernel, or \
         use a method that moves rows"
    )))
}

/// [`mean_one`] of weights whose logarithms are given; the logarithm of the mean comes along. Nothing overflows.
///
/// # Errors
/// As there.
pub fn mean_one_of_logs(who: &str, logs: &Array1<f64>) -> Result<(Array1<f64>, f64)> {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (weights, mean) = mean_one(who, logs.mapv(|log| (log - top).exp()))?;
    Ok((weights, mean.ln() + top))
}

/// The width of a Gaussian kernel `exp(−γ |x − x'|²)`: a number, or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Gamma {
    /// As given.
    Number(f64),
    /// By a rule.
    Rule(GammaRule),
}

/// How data choose a [`Gamma`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GammaRule {
    /// One over the number of features.
    Auto,
    /// One over the number of features and the variance of all entries of both domains.
    Scale,
    /// One over twice the squared median distance between rows of both domains.
    Median,
}

impl Gamma {
    /// The number for these rows.
    ///
    /// # Errors
    /// When a given number is not positive.
    pub fn of(self, who: &'static str, source: ArrayView2<'_, f64>, target: ArrayView2<'_, f64>) -> Result<f64> {
        let features = source.ncols().max(1) as f64;
        let or_one = |found: f64| if found.is_finite() && found > 0.0 { found } else { 1.0 };
        match self {
            Self::Number(gamma) if gamma > 0.0 && gamma.is_finite() => Ok(gamma),
            Self::Number(gamma) => {
                let why = "must be positive".to_owned();
                Err(Error::Param { method: who, param: "gamma", value: gamma.to_string(), why })
            }
            Self::Rule(GammaRule::Auto) => Ok(1.0 / features),
            Self::Rule(GammaRule::Scale) => {
                let count = (source.len() + target.len()) as f64;
                let mean = (source.sum() + target.sum()) / count;
                let square = |x: &f64| (x - mean) * (x - mean);
                let spread = source.iter().chain(target).map(square).sum::<f64>() / count;
                Ok(or_one(1.0 / (features * spread)))
            }
            Self::Rule(GammaRule::Median) => {
                let median = kernel::median_distance(ndarray::concatenate![ndarray::Axis(0), source, target].view());
                Ok(or_one(1.0 / (2.0 * median * median)))
            }
        }
    }
}

/// All rows in an order that depends on their numbers and the seed, not on the order in which they came.
pub(crate) fn drawn_order(rows: ArrayView2<'_, f64>, seed: u64, purpose: &str) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.nrows()).collect();
    order.sort_by(|a, b| {
        let pairs = rows.row(*a).into_iter().zip(rows.row(*b)).map(|(a, b)| a.total_cmp(b));
        pairs.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    Rng::new(seed, purpose, 0).shuffle(&mut order);
    order
}

/// At most `count` rows as centres of kernels: all, in their order, where there are no more, else drawn without replacement.
pub(crate) fn centres(rows: ArrayView2<'_, f64>, count: usize, seed: u64, purpose: &str) -> Vec<usize> {
    if rows.nrows() <= count {
        return (0..rows.nrows()).collect();
    }
    let mut drawn = drawn_order(rows, seed, purpose);
    drawn.truncate(count);
    drawn
}
