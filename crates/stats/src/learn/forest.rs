use super::table::{Table, counted, restored};
use super::tree::{FittedTrees, Grower, Grown, Growth, width};
use super::{Fitted, Labels, Learner};
use acclimate_core::{Result, Rng};
use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A random forest: the average of trees, each on rows drawn with replacement and splitting by the best of some features drawn anew.
///
/// Every row with weight is as likely to be drawn; its weight then counts in the tree as often as it was drawn. Tree `t` depends on the seed
/// and `t` alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forest {
    /// How many trees.
    pub trees: usize,
    /// How many splits one after another at most; none is as many as there are.
    pub depth: Option<usize>,
    /// The least sum of weights in a leaf.
    pub min_leaf: f64,
    /// Of the features, the share looked at for a split; none is the root of their number for classes and all for numbers.
    pub share: Option<f64>,
    /// Whether rows are drawn.
    pub bootstrap: bool,
    /// Names the draws.
    pub seed: u64,
}

impl Default for Forest {
    fn default() -> Self {
        Self { trees: 100, depth: None, min_leaf: 0.0, share: None, bootstrap: true, seed: 0 }
    }
}

const NAME: &str = "forest";

impl Learner for Forest {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        let table = Table::new(NAME, x, y, weights)?;
        let of_classes = (x.ncols().max(1) as f64).sqrt().recip();
        let share = self.share.unwrap_or(if matches!(y, Labels::Classes { .. }) { of_classes } else { 1.0 });
        let growth = Growth { depth: self.depth, min_leaf: self.min_leaf, share, penalty: 0.0 };
        let trees = plant(NAME, &table, growth, self.trees, self.bootstrap, self.seed)?;
        Ok(Box::new(FittedTrees { features: x.ncols(), width: width(y), trees }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedTrees>(NAME, value)?))
    }
}

/// Trees on drawn rows.
pub(super) fn plant(
    who: &'static str,
    table: &Table,
    growth: Growth,
    trees: usize,
    bootstrap: bool,
    seed: u64,
) -> Result<Vec<Grown>> {
    counted(who, "trees", trees)?;
    let grower = Grower::new(who, table.x.view(), growth)?;
    let grow = |tree: usize| {
        let mut rng = Rng::new(seed, "forest", tree as u64);
        let mut weights = table.weights.to_vec();
        if bootstrap {
            let mut drawn = vec![0.0; weights.len()];
            for _ in 0..drawn.len() {
                drawn[rng.below(weights.len())] += 1.0;
            }
            weights.iter_mut().zip(drawn).for_each(|(weight, drawn)| *weight *= drawn);
        }
        grower.grow(&table.y, &weights, Some(rng))
    };
    Ok((0..trees).into_par_iter().map(grow).collect())
}
