use super::kernel::columns;
use super::table::{Table, queries, restored, saved};
use super::{Fitted, Labels, Learner};
use acclimate_core::{Error, Result, Rng};
use ndarray::{Array2, ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A tree of splits (CART): each takes the feature and threshold after which the labels differ least, by Gini's impurity of classes or
/// the squared error of numbers.
///
/// Thresholds lie in the middle between neighbouring values. Of equally good splits the first feature's lowest is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tree {
    /// How many splits one after another at most; none is as many as there are.
    pub depth: Option<usize>,
    /// The least sum of weights in a leaf.
    pub min_leaf: f64,
}

const NAME: &str = "tree";

impl Learner for Tree {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        let table = Table::new(NAME, x, y, weights)?;
        let grower = Grower::new(NAME, &table, Growth { depth: self.depth, min_leaf: self.min_leaf, share: 1.0 })?;
        let grown = grower.grow(table.weights.to_vec(), None);
        Ok(Box::new(FittedTrees { features: x.ncols(), width: width(y), trees: vec![grown] }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedTrees>(NAME, value)?))
    }
}

/// How a tree grows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    pub(super) depth: Option<usize>,
    pub(super) min_leaf: f64,
    /// Of the features, how many are looked at for a split, at least one.
    pub(super) share: f64,
}

/// How many values an answer has.
pub(super) fn width(y: &Labels) -> usize {
    if let Labels::Classes { count, .. } = y { *count } else { 1 }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Node {
    /// Up to the threshold the next node, above it `right`.
    Split { feature: usize, threshold: f64, right: usize },
    /// Its place among the leaves.
    Leaf(usize),
}

/// A tree with an answer in each leaf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Grown {
    /// The root first; a split's left branch follows it.
    nodes: Vec<Node>,
    pub(super) answers: Vec<Vec<f64>>,
}

impl Grown {
    /// The leaf of a row.
    pub(super) fn leaf(&self, row: ArrayView1<'_, f64>) -> usize {
        let mut at = 0;
        loop {
            match self.nodes[at] {
                Node::Leaf(leaf) => return leaf,
                Node::Split { feature, threshold, right } => {
                    at = if row[feature] <= threshold { at + 1 } else { right }
                }
            }
        }
    }
}

/// Trees whose answers are averaged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FittedTrees {
    pub(super) features: usize,
    pub(super) width: usize,
    pub(super) trees: Vec<Grown>,
}

impl Fitted for FittedTrees {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.features)?;
        let mut answers = Array2::zeros((x.nrows(), self.width));
        let average = |(row, out): (usize, &mut [f64])| {
            for tree in &self.trees {
                for (sum, value) in out.iter_mut().zip(&tree.answers[tree.leaf(x.row(row))]) {
                    *sum += value;
                }
            }
            out.iter_mut().for_each(|sum| *sum /= self.trees.len() as f64);
        };
        let out = answers.as_slice_mut().expect("made here");
        out.par_chunks_mut(self.width.max(1)).with_min_len(64).enumerate().for_each(average);
        Ok(answers)
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}

/// Grows trees on one table, whose columns it has sorted once.
pub(super) struct Grower<'a> {
    growth: Growth,
    /// `[features, rows]`.
    columns: Array2<f64>,
    /// The rows in the order of each feature.
    order: Vec<Vec<u32>>,
    y: &'a Labels,
    /// Numbers around their mean, so that sums keep their digits.
    around: Vec<f64>,
}

/// A stretch of the sorted rows that is still to be split.
struct Stretch {
    start: usize,
    end: usize,
    depth: usize,
    /// The split whose right branch it is.
    parent: Option<usize>,
}

struct Split {
    feature: usize,
    threshold: f64,
    /// What is to be largest, over `below`.
    above: f64,
    below: f64,
}

impl<'a> Grower<'a> {
    pub(super) fn new(who: &'static str, table: &'a Table, growth: Growth) -> Result<Self> {
        let refuse = |param, value: f64, why: &str| {
            Err(Error::Param { method: who, param, value: value.to_string(), why: why.to_owned() })
        };
        if !(growth.min_leaf >= 0.0 && growth.min_leaf.is_finite()) {
            return refuse("min_leaf", growth.min_leaf, "must be finite and not negative");
        }
        if !(growth.share > 0.0 && growth.share <= 1.0) {
            return refuse("share", growth.share, "must be above zero and at most one");
        }
        if u32::try_from(table.x.nrows()).is_err() {
            return Err(Error::Other(format!("{who}: there are more rows than 4294967295; leave some out")));
        }
        let columns = columns(table.x.view());
        let sorted = |feature: usize| {
            let mut keyed: Vec<(f64, u32)> = columns.row(feature).iter().copied().zip(0..).collect();
            keyed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            keyed.into_iter().map(|(_, row)| row).collect()
        };
        let order = (0..columns.nrows()).into_par_iter().map(sorted).collect();
        let around = match &table.y {
            Labels::Numbers(numbers) => {
                let mean = table.weights.dot(&ArrayView1::from(numbers)) / table.weights.sum();
                numbers.iter().map(|number| number - mean).collect()
            }
            Labels::Classes { .. } => Vec::new(),
        };
        Ok(Self { growth, columns, order, y: &table.y, around })
    }

    /// A tree on the rows with weight. `rng` draws the features that are looked at, where that is not all.
    pub(super) fn grow(&self, weights: Vec<f64>, mut rng: Option<Rng>) -> Grown {
        let rows: Vec<u32> = (0..weights.len() as u32).filter(|row| weights[*row as usize] > 0.0).collect();
        let (n, features) = (rows.len(), self.order.len());
        let mut order: Vec<Vec<u32>> = if n == weights.len() {
            self.order.clone()
        } else {
            let counts = |order: &Vec<u32>| order.iter().copied().filter(|row| weights[*row as usize] > 0.0).collect();
            self.order.iter().map(counts).collect()
        };
        // Without a feature there is nothing to split, yet the leaf needs its rows.
        if order.is_empty() {
            order.push(rows);
        }
        let mut grown = Grown { nodes: Vec::new(), answers: Vec::new() };
        let mut left = vec![false; weights.len()];
        let mut aside = Vec::with_capacity(n);
        let mut looked: Vec<usize> = (0..features).collect();
        let count = ((self.growth.share * features as f64).round() as usize).clamp(1, features.max(1));
        let mut stack = vec![Stretch { start: 0, end: n, depth: 0, parent: None }];
        while let Some(Stretch { start, end, depth, parent }) = stack.pop() {
            let here = grown.nodes.len();
            if let Some(Node::Split { right, .. }) = parent.map(|parent| &mut grown.nodes[parent]) {
                *right = here;
            }
            let rows = &order[0][start..end];
            let deep = self.growth.depth.is_some_and(|most| depth >= most);
            let split = if deep || features == 0 || self.pure(rows) {
                None
            } else {
                if let Some(rng) = rng.as_mut().filter(|_| count < features) {
                    rng.shuffle(&mut looked);
                }
                self.split(&order, start..end, &weights, &looked, count)
            };
            let Some(split) = split else {
                grown.nodes.push(Node::Leaf(grown.answers.len()));
                grown.answers.push(self.answer(rows, &weights));
                continue;
            };
            let column = self.columns.row(split.feature);
            for row in rows {
                left[*row as usize] = column[*row as usize] <= split.threshold;
            }
            let mut middle = start;
            for order in &mut order {
                aside.clear();
                middle = start;
                for at in start..end {
                    let row = order[at];
                    if left[row as usize] {
                        order[middle] = row;
                        middle += 1;
                    } else {
                        aside.push(row);
                    }
                }
                order[middle..end].copy_from_slice(&aside);
            }
            grown.nodes.push(Node::Split { feature: split.feature, threshold: split.threshold, right: 0 });
            stack.push(Stretch { start: middle, end, depth: depth + 1, parent: Some(here) });
            stack.push(Stretch { start, end: middle, depth: depth + 1, parent: None });
        }
        grown
    }

    fn pure(&self, rows: &[u32]) -> bool {
        match self.y {
            Labels::Classes { of, .. } => rows.windows(2).all(|pair| of[pair[0] as usize] == of[pair[1] as usize]),
            Labels::Numbers(of) => rows.windows(2).all(|pair| of[pair[0] as usize] == of[pair[1] as usize]),
        }
    }

    /// Shares of the classes, or the mean.
    fn answer(&self, rows: &[u32], weights: &[f64]) -> Vec<f64> {
        let total: f64 = rows.iter().map(|row| weights[*row as usize]).sum();
        match self.y {
            Labels::Classes { of, count } => {
                let mut shares = vec![0.0; *count];
                for row in rows {
                    shares[of[*row as usize]] += weights[*row as usize];
                }
                shares.into_iter().map(|share| share / total).collect()
            }
            Labels::Numbers(of) => {
                let first = of[rows[0] as usize];
                let sum: f64 = rows.iter().map(|row| weights[*row as usize] * (of[*row as usize] - first)).sum();
                vec![first + sum / total]
            }
        }
    }

    /// The best split by the first `count` features of `looked`, and by more while there is none.
    fn split(
        &self,
        order: &[Vec<u32>],
        at: std::ops::Range<usize>,
        weights: &[f64],
        looked: &[usize],
        count: usize,
    ) -> Option<Split> {
        let mut best: Option<Split> = None;
        for (seen, feature) in looked.iter().enumerate() {
            if seen >= count && best.is_some() {
                break;
            }
            let rows = &order[*feature][at.clone()];
            let column = self.columns.row(*feature);
            let column = column.to_slice().expect("columns lie in one piece");
            if column[rows[0] as usize] < column[rows[rows.len() - 1] as usize] {
                match self.y {
                    Labels::Numbers(_) => self.scan_numbers(rows, column, weights, *feature, &mut best),
                    Labels::Classes { of, count } => {
                        self.scan_classes(rows, column, weights, *feature, (of, *count), &mut best);
                    }
                }
            }
        }
        best
    }

    /// The squared error falls by `d² W / (w₋ w₊)`, where `d` is the sum on the left around the mean of all.
    fn scan_numbers(&self, rows: &[u32], column: &[f64], weights: &[f64], feature: usize, best: &mut Option<Split>) {
        let (mut total, mut sum) = (0.0, 0.0);
        for row in rows {
            total += weights[*row as usize];
            sum += weights[*row as usize] * self.around[*row as usize];
        }
        let mean = sum / total;
        let (mut weight, mut apart) = (0.0, 0.0);
        for pair in rows.windows(2) {
            let row = pair[0] as usize;
            weight += weights[row];
            apart += weights[row] * (self.around[row] - mean);
            let (low, high) = (column[row], column[pair[1] as usize]);
            if low < high {
                self.offer(best, (feature, low, high), apart * apart, (weight, total - weight));
            }
        }
    }

    /// Gini's impurity falls with `Σ s₋² / w₋ + Σ s₊² / w₊`, where `s` are the sums of weights of each class.
    fn scan_classes(
        &self,
        rows: &[u32],
        column: &[f64],
        weights: &[f64],
        feature: usize,
        (of, count): (&[usize], usize),
        best: &mut Option<Split>,
    ) {
        let mut right = vec![0.0; count];
        let mut total = 0.0;
        for row in rows {
            total += weights[*row as usize];
            right[of[*row as usize]] += weights[*row as usize];
        }
        let mut left = vec![0.0; count];
        let mut right_squares: f64 = right.iter().map(|sum| sum * sum).sum();
        let (mut weight, mut left_squares) = (0.0, 0.0);
        for pair in rows.windows(2) {
            let row = pair[0] as usize;
            let (own, class) = (weights[row], of[row]);
            weight += own;
            left_squares += own * (2.0 * left[class] + own);
            right_squares -= own * (2.0 * right[class] - own);
            left[class] += own;
            right[class] -= own;
            let (low, high) = (column[row], column[pair[1] as usize]);
            if low < high {
                let rest = total - weight;
                self.offer(best, (feature, low, high), left_squares * rest + right_squares * weight, (weight, rest));
            }
        }
    }

    /// Takes a split when its leaves are large enough and `above / (left · right)` is more than the best's.
    fn offer(
        &self,
        best: &mut Option<Split>,
        (feature, low, high): (usize, f64, f64),
        above: f64,
        (left, right): (f64, f64),
    ) {
        let below = left * right;
        let better = best.as_ref().is_none_or(|best| above * best.below > best.above * below);
        if better && below > 0.0 && left >= self.growth.min_leaf && right >= self.growth.min_leaf {
            let middle = low + (high - low) / 2.0;
            let threshold = if middle < high { middle } else { low };
            *best = Some(Split { feature, threshold, above, below });
        }
    }
}
