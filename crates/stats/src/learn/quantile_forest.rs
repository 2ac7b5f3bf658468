use super::forest::plant;
use super::table::{Table, queries, restored, saved};
use super::tree::{Grown, Growth};
use super::{Fitted, Labels, Learner};
use acclimate_core::{Error, Result};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A quantile regression forest (Meinshausen 2006): the distribution of a number given the features, as weights of the rows of the fit.
///
/// A row weighs, on average over the trees, its share of the leaf that the query falls into, among all rows of the fit that fall there,
/// whether the tree has drawn them or not. A quantile is the least number at which the weights add up to the level. Learners answer with the
/// mean under these weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantileForest {
    /// How many trees.
    pub trees: usize,
    /// How many splits one after another at most; none is as many as there are.
    pub depth: Option<usize>,
    /// The least sum of weights in a leaf.
    pub min_leaf: f64,
    /// Of the features, the share looked at for a split.
    pub share: f64,
    /// Whether rows are drawn.
    pub bootstrap: bool,
    /// Names the draws.
    pub seed: u64,
}

impl Default for QuantileForest {
    fn default() -> Self {
        Self { trees: 100, depth: None, min_leaf: 5.0, share: 1.0, bootstrap: true, seed: 0 }
    }
}

const NAME: &str = "quantile_forest";
/// Sums of weights that should equal a level may miss it by rounding.
const ROUNDING: f64 = 1e-12;

impl QuantileForest {
    /// Fits; the type can be asked for quantiles.
    ///
    /// # Errors
    /// As [`Learner::fit`].
    pub fn grow(
        &self,
        x: ArrayView2<'_, f64>,
        y: &Labels,
        weights: Option<ArrayView1<'_, f64>>,
    ) -> Result<FittedQuantileForest> {
        let table = Table::new(NAME, x, y, weights)?;
        let numbers = table.y.numbers(NAME)?;
        let growth = Growth { depth: self.depth, min_leaf: self.min_leaf, share: self.share, penalty: 0.0 };
        let trees = plant(NAME, &table, growth, self.trees, self.bootstrap, self.seed)?;
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| numbers[*a].total_cmp(&numbers[*b]));
        let leaves = |tree: Grown| {
            let mut rows = vec![Vec::new(); tree.answers.len()];
            let mut sums = vec![0.0; rows.len()];
            for (place, row) in order.iter().enumerate() {
                let leaf = tree.leaf(table.x.row(*row));
                rows[leaf].push(place);
                sums[leaf] += table.weights[*row];
            }
            (tree, rows, sums)
        };
        let trees = trees.into_par_iter().map(leaves).map(|(tree, rows, sums)| Grove { tree, rows, sums }).collect();
        Ok(FittedQuantileForest {
            features: x.ncols(),
            numbers: order.iter().map(|row| numbers[*row]).collect(),
            weights: order.iter().map(|row| table.weights[*row]).collect(),
            order,
            trees,
        })
    }
}

impl Learner for QuantileForest {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(self.grow(x, y, weights)?))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedQuantileForest>(NAME, value)?))
    }
}

/// A tree with the rows of its leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Grove {
    tree: Grown,
    /// Places in the order of the numbers.
    rows: Vec<Vec<usize>>,
    sums: Vec<f64>,
}

/// A fitted [`QuantileForest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FittedQuantileForest {
    features: usize,
    /// In rising order.
    numbers: Vec<f64>,
    weights: Vec<f64>,
    /// The row of the fit, of those with weight, that each number came from.
    order: Vec<usize>,
    trees: Vec<Grove>,
}

impl FittedQuantileForest {
    /// The weights of the rows of the fit, in the order of their numbers.
    fn sorted_weights(&self, row: ArrayView1<'_, f64>, out: &mut [f64]) {
        let share = (self.trees.len() as f64).recip();
        for Grove { tree, rows, sums } in &self.trees {
            let leaf = tree.leaf(row);
            for place in &rows[leaf] {
                out[*place] += share * self.weights[*place] / sums[leaf];
            }
        }
    }

    /// How much each row of the fit that had weight counts for each of `x`, `[rows, rows of the fit]`; each row adds up to one.
    ///
    /// # Errors
    /// When the number of features is another than at the fit.
    pub fn weights(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.features)?;
        let mut weights = Array2::zeros((x.nrows(), self.numbers.len()));
        let mut sorted = vec![0.0; self.numbers.len()];
        for (row, mut out) in x.rows().into_iter().zip(weights.rows_mut()) {
            sorted.fill(0.0);
            self.sorted_weights(row, &mut sorted);
            for (row, weight) in self.order.iter().zip(&sorted) {
                out[*row] = *weight;
            }
        }
        Ok(weights)
    }

    /// The quantiles of the number given each row of `x`, `[rows, levels]`.
    ///
    /// # Errors
    /// When the number of features is another than at the fit, or a level is not between zero and one.
    pub fn quantiles(&self, x: ArrayView2<'_, f64>, levels: &[f64]) -> Result<Array2<f64>> {
        if let Some(level) = levels.iter().find(|level| !(0.0..=1.0).contains(*level)) {
            let why = "must lie between zero and one".to_owned();
            return Err(Error::Param { method: NAME, param: "levels", value: level.to_string(), why });
        }
        let mut rising: Vec<usize> = (0..levels.len()).collect();
        rising.sort_by(|a, b| levels[*a].total_cmp(&levels[*b]));
        let last = self.numbers.len() - 1;
        self.each(x, levels.len(), |weights, out| {
            // From one positive weight to the next, so that no level is answered by a row that does not count.
            let (mut sum, mut answer) = (0.0, self.numbers[last]);
            let mut places = (0..=last).filter(|place| weights[*place] > 0.0);
            let mut more = true;
            for level in &rising {
                while more && (sum < levels[*level] - ROUNDING || sum == 0.0) {
                    match places.next() {
                        Some(place) => (sum, answer) = (sum + weights[place], self.numbers[place]),
                        None => more = false,
                    }
                }
                out[*level] = answer;
            }
        })
    }

    /// Fills a row of answers out of the weights of each row of `x`.
    fn each(
        &self,
        x: ArrayView2<'_, f64>,
        width: usize,
        fill: impl Fn(&[f64], &mut [f64]) + Sync,
    ) -> Result<Array2<f64>> {
        queries(NAME, x, self.features)?;
        let mut answers = Array2::zeros((x.nrows(), width));
        let out = answers.as_slice_mut().expect("made here");
        out.par_chunks_mut(width.max(1)).with_min_len(16).enumerate().for_each_init(
            || vec![0.0; self.numbers.len()],
            |weights, (row, out)| {
                weights.fill(0.0);
                self.sorted_weights(x.index_axis(Axis(0), row), weights);
                fill(weights, out);
            },
        );
        Ok(answers)
    }
}

impl Fitted for FittedQuantileForest {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.each(x, 1, |weights, out| out[0] = weights.iter().zip(&self.numbers).map(|(w, y)| w * y).sum())
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
