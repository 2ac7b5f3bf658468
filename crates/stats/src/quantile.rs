//! Quantiles: of weighted rows, by the convention of conformal prediction, and the loss whose least value they are.

use acclimate_core::{Error, Result};
use serde::{Deserialize, Serialize};

// A level such as 0.1 is not a binary number: a mass that is reached up to rounding is reached.
pub(crate) const SLACK: f64 = 1e-12;

/// The pinball loss of saying `quantile` at `level` where `truth` came.
pub fn pinball(level: f64, quantile: f64, truth: f64) -> f64 {
    let miss = truth - quantile;
    if miss > 0.0 { level * miss } else { (level - 1.0) * miss }
}

/// The smallest of sorted values at which the share of those up to it reaches `level`; of none not-a-number.
pub fn of_sorted(sorted: &[f64], level: f64) -> f64 {
    let rank = (level * sorted.len() as f64 * (1.0 - SLACK)).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The smallest value at which the weights of all values up to it reach `mass`; infinity where they never do. The pairs of a value and its
/// weight are reordered; the time grows with their number.
pub fn reach(pairs: &mut [(f64, f64)], mass: f64) -> f64 {
    let (mut pairs, mut left) = (pairs, mass * (1.0 - SLACK));
    loop {
        if pairs.is_empty() {
            return f64::INFINITY;
        }
        let middle = pairs.len() / 2;
        pairs.select_nth_unstable_by(middle, |a, b| a.0.total_cmp(&b.0));
        let below: f64 = pairs[..middle].iter().map(|(_, weight)| weight).sum();
        let (value, weight) = pairs[middle];
        if below >= left && middle > 0 {
            pairs = &mut pairs[..middle];
        } else if below + weight >= left {
            return value;
        } else {
            left -= below + weight;
            pairs = &mut pairs[middle + 1..];
        }
    }
}

/// The rank of the conformal quantile among `rows` scores, `⌈(rows + 1)(1 − alpha)⌉`, from one; none where it is beyond the last.
pub fn conformal_rank(rows: usize, alpha: f64) -> Option<usize> {
    let rank = ((rows as f64 + 1.0) * (1.0 - alpha) * (1.0 - SLACK)).ceil().max(1.0) as usize;
    (rank <= rows).then_some(rank)
}

/// Scores of calibration rows, sorted, with the weights that rows have; low scores are likely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    sorted: Vec<f64>,
    /// The weight of all scores up to each.
    mass: Vec<f64>,
}

impl Scores {
    /// Sorts. `weights` is empty where all rows count alike.
    ///
    /// # Errors
    /// When a score is not finite, or a weight negative or not finite; `who` and the row are named.
    pub fn new(who: &str, scores: impl IntoIterator<Item = f64>, weights: &[f64]) -> Result<Self> {
        let mut pairs: Vec<(f64, f64)> =
            scores.into_iter().enumerate().map(|(row, s)| (s, weights.get(row).copied().unwrap_or(1.0))).collect();
        if !weights.is_empty() && weights.len() != pairs.len() {
            let what = format!("{who}: weights of calibration rows");
            return Err(Error::Shape { what, expected: format!("[{}]", pairs.len()), got: vec![weights.len()] });
        }
        if let Some(row) = pairs.iter().position(|(score, _)| !score.is_finite()) {
            return Err(Error::Other(format!(
                "{who}: the score of calibration row {} is {}; leave rows out whose prediction or truth is not finite",
                row + 1,
                pairs[row].0
            )));
        }
        check_weights(who, weights)?;
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut total = 0.0;
        let mass = pairs.iter().map(|(_, weight)| {
            total += weight;
            total
        });
        let mass = mass.collect();
        Ok(Self { sorted: pairs.into_iter().map(|(score, _)| score).collect(), mass })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The scores in rising order.
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }

    /// The weight of all rows together.
    pub fn total(&self) -> f64 {
        self.mass.last().copied().unwrap_or(0.0)
    }

    /// The smallest score up to which lie `1 − alpha` of the mass of all rows and of a new one of this weight, whose own score counts as
    /// infinite. Infinity where the rows do not hold so much: the new row weighs too much, or there are too few.
    pub fn threshold(&self, alpha: f64, weight: f64) -> f64 {
        let wanted = (1.0 - alpha) * (self.total() + weight) * (1.0 - SLACK);
        let at = self.mass.partition_point(|mass| *mass < wanted);
        self.sorted.get(at).copied().unwrap_or(f64::INFINITY)
    }

    /// The conformal p-value of a new row of this score and weight: the share of the mass with scores as high. Of ties, the new row among
    /// them, the share `tie` counts: one is safe, a uniform draw is exact.
    pub fn p_value(&self, score: f64, weight: f64, tie: f64) -> f64 {
        let upto = |at: usize| if at == 0 { 0.0 } else { self.mass[at - 1] };
        let below = upto(self.sorted.partition_point(|s| *s < score));
        let within = upto(self.sorted.partition_point(|s| *s <= score));
        (self.total() - within + tie * (within - below + weight)) / (self.total() + weight)
    }
}

/// Refuses weights that are negative or not finite.
///
/// # Errors
/// As said; `who` and the row are named.
pub fn check_weights(who: &str, weights: &[f64]) -> Result<()> {
    match weights.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        Some(row) => Err(Error::Other(format!(
            "{who}: the weight of row {} is {}; weights are finite and not negative",
            row + 1,
            weights[row]
        ))),
        None => Ok(()),
    }
}

/// Refuses a rate of misses that is not between zero and one.
///
/// # Errors
/// As said; `who` is named.
pub fn check_alpha(who: &str, alpha: f64) -> Result<()> {
    if alpha > 0.0 && alpha < 1.0 {
        return Ok(());
    }
    Err(Error::Other(format!("{who}: `alpha`, the share of misses, must lie between 0 and 1, got `{alpha}`")))
}
