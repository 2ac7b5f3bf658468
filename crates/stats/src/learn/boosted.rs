use super::table::{Table, counted, logistic, positive, present, probabilities, queries, restored, saved, softmax};
use super::tree::{Grower, Grown, Growth};
use super::{Fitted, Labels, Learner};
use acclimate_core::{Error, Result};
use ndarray::{Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

/// Boosted trees of classes by the second-order steps of XGBoost (Chen and Guestrin 2016), with exact splits and no draws.
///
/// Scores `F` start at zero. A step adds `lr` times a tree, for each class where there are more than two, which lowers the log loss to second
/// order: with slopes `g = w (p − y)` and curvatures `h = w p (1 − p)`, twice that with more than two classes, a leaf's value is
/// `−Σ g / (Σ h + penalty)`, and a split is worth `Σ (Σ g)² / (Σ h + penalty)` over its sides less that of the whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Boosted {
    /// How many trees follow each other.
    pub steps: usize,
    /// The share of each that is added.
    pub lr: f64,
    /// How many splits one after another at most.
    pub depth: usize,
    /// The least sum of curvatures in a leaf.
    pub min_leaf: f64,
    /// The price of the squared values of leaves.
    pub penalty: f64,
}

impl Default for Boosted {
    fn default() -> Self {
        Self { steps: 100, lr: 0.3, depth: 6, min_leaf: 1.0, penalty: 1.0 }
    }
}

const NAME: &str = "boosted";
/// A curvature is not less: XGBoost's.
const LEAST: f64 = 1e-16;

impl Learner for Boosted {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        counted(NAME, "steps", self.steps)?;
        positive(NAME, "penalty", self.penalty)?;
        if !(self.lr > 0.0 && self.lr <= 1.0) {
            let (value, why) = (self.lr.to_string(), "must be above zero and at most one".to_owned());
            return Err(Error::Param { method: NAME, param: "lr", value, why });
        }
        let table = Table::new(NAME, x, y, weights)?;
        let (of, count) = table.y.classes(NAME)?;
        let (classes, of) = present(of, count);
        let outputs = if classes.len() == 2 { 1 } else { classes.len() };
        let growth = Growth { depth: Some(self.depth), min_leaf: self.min_leaf, share: 1.0, penalty: self.penalty };
        let grower = Grower::new(NAME, table.x.view(), growth)?;
        let rows = of.len();
        let mut scores = Array2::<f64>::zeros((rows, outputs));
        let mut trees = Vec::new();
        for _ in 0..if classes.len() > 1 { self.steps } else { 0 } {
            let mut shares = scores.clone();
            if outputs == 1 {
                shares.mapv_inplace(logistic);
            } else {
                softmax(&mut shares);
            }
            let step: Vec<Grown> = (0..outputs)
                .map(|output| {
                    let class = if outputs == 1 { 1 } else { output };
                    let curve = |row: usize| {
                        let share = shares[[row, output]];
                        (share * (1.0 - share) * if outputs == 1 { 1.0 } else { 2.0 }).max(LEAST)
                    };
                    let wish = |row: usize| f64::from(u8::from(of[row] == class)) - shares[[row, output]];
                    // The mean of `wish / curve` under the curvatures is the sum of slopes over that of curvatures.
                    let numbers = Labels::Numbers((0..rows).map(|row| wish(row) / curve(row)).collect());
                    let curves: Vec<f64> = (0..rows).map(|row| table.weights[row] * curve(row)).collect();
                    grower.grow(&numbers, &curves, None)
                })
                .collect();
            for (output, tree) in step.iter().enumerate() {
                for (row, x) in table.x.rows().into_iter().enumerate() {
                    scores[[row, output]] += self.lr * tree.answers[tree.leaf(x)][0];
                }
            }
            trees.push(step);
        }
        Ok(Box::new(FittedBoosted { features: x.ncols(), classes, count, lr: self.lr, trees }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedBoosted>(NAME, value)?))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FittedBoosted {
    features: usize,
    /// Those that have rows.
    classes: Vec<usize>,
    count: usize,
    lr: f64,
    /// Step by step, one for each output.
    trees: Vec<Vec<Grown>>,
}

impl Fitted for FittedBoosted {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.features)?;
        let outputs = if self.classes.len() == 2 { 1 } else { self.classes.len() };
        let mut scores = Array2::zeros((x.nrows(), outputs));
        for (x, mut scores) in x.rows().into_iter().zip(scores.rows_mut()) {
            for step in &self.trees {
                for (score, tree) in scores.iter_mut().zip(step) {
                    *score += self.lr * tree.answers[tree.leaf(x)][0];
                }
            }
        }
        Ok(probabilities(scores, &self.classes, self.count))
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
