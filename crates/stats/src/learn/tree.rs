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
/// A split is better than another when it is worth more by this factor: rounding must not choose between equals.
const TIE: f64 = 1.0 + 1e-10;

impl Learner for Tree {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        let table = Table::new(NAME, x, y, weights)?;
        let growth = Growth { depth: self.depth, min_leaf: self.min_leaf, share: 1.0, penalty: 0.0 };
        let grower = Grower::new(NAME, table.x.view(), growth)?;
        let grown = grower.grow(&table.y, &table.weights.to_vec(), None);
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
    /// Added to the weight of every leaf of numbers, so that their sums are shrunk towards zero; a split must then gain something.
    pub(super) penalty: f64,
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
pub(super) struct Grower {
    growth: Growth,
    /// `[features, rows]`.
    columns: Array2<f64>,
    /// The rows in the order of each feature.
    order: Vec<Vec<u32>>,
    /// Whether no two rows have the same value of the feature, so that a split fits between any two.
    distinct: Vec<bool>,
}

/// A feature, its values and the rows of a stretch in its order.
#[derive(Clone, Copy)]
struct Scan<'a> {
    feature: usize,
    column: &'a [f64],
    rows: &'a [u32],
    distinct: bool,
}

impl Scan<'_> {
    /// Whether a threshold fits between this row and the next.
    fn parts(&self, at: usize) -> bool {
        self.distinct || self.value(at) < self.value(at + 1)
    }

    fn value(&self, at: usize) -> f64 {
        self.column[self.rows[at] as usize]
    }
}

/// A stretch of the sorted rows that is still to be split.
struct Stretch {
    start: usize,
    end: usize,
    depth: usize,
    /// The split whose right branch it is.
    parent: Option<usize>,
}

/// A split and what it is worth, `above / below`.
struct Split {
    feature: usize,
    threshold: f64,
    above: f64,
    below: f64,
}

impl Grower {
    pub(super) fn new(who: &'static str, x: ArrayView2<'_, f64>, growth: Growth) -> Result<Self> {
        let refuse = |param, value: f64, why: &str| {
            Err(Error::Param { method: who, param, value: value.to_string(), why: why.to_owned() })
        };
        if !(growth.min_leaf >= 0.0 && growth.min_leaf.is_finite()) {
            return refuse("min_leaf", growth.min_leaf, "must be finite and not negative");
        }
        if !(growth.share > 0.0 && growth.share <= 1.0) {
            return refuse("share", growth.share, "must be above zero and at most one");
        }
        if u32::try_from(x.nrows()).is_err() {
            return Err(Error::Other(format!("{who}: there are more rows than 4294967295; leave some out")));
        }
        let columns = columns(x);
        let (order, distinct) =
            (0..columns.nrows()).into_par_iter().map(|feature| sorted(columns.row(feature))).unzip();
        Ok(Self { growth, columns, order, distinct })
    }

    /// A tree on the rows with weight. `rng` draws the features that are looked at, where that is not all.
    pub(super) fn grow(&self, y: &Labels, weights: &[f64], mut rng: Option<Rng>) -> Grown {
        let (features, shallow) = (self.order.len(), self.growth.depth.unwrap_or(usize::MAX));
        let n = weights.iter().filter(|weight| **weight > 0.0).count();
        let mut order: Vec<Vec<u32>> = self.order.iter().map(|order| with_weight(order, weights, n)).collect();
        // Without a feature there is nothing to split, yet the leaf needs its rows.
        if order.is_empty() {
            order.push(with_weight(&(0..weights.len() as u32).collect::<Vec<_>>(), weights, n));
        }
        // Weight and number side by side: the search for splits reads them together, in the order of each feature. Without a penalty
        // numbers may start anywhere, and near zero they keep their digits.
        let pairs: Vec<[f64; 2]> = match y {
            Labels::Numbers(of) => {
                let origin = if self.growth.penalty > 0.0 { 0.0 } else { of[0] };
                weights.iter().zip(of).map(|(weight, number)| [*weight, *number - origin]).collect()
            }
            Labels::Classes { .. } => Vec::new(),
        };
        let mut grown = Grown { nodes: Vec::new(), answers: Vec::new() };
        let mut left = vec![false; weights.len()];
        let mut aside = vec![0; n];
        let mut looked: Vec<usize> = (0..features).collect();
        let count = ((self.growth.share * features as f64).round() as usize).clamp(1, features.max(1));
        let mut stack = vec![Stretch { start: 0, end: n, depth: 0, parent: None }];
        while let Some(Stretch { start, end, depth, parent }) = stack.pop() {
            let here = grown.nodes.len();
            if let Some(Node::Split { right, .. }) = parent.map(|parent| &mut grown.nodes[parent]) {
                *right = here;
            }
            let rows = &order[0][start..end];
            let split = if depth >= shallow || features == 0 || pure(y, rows) {
                None
            } else {
                if let Some(rng) = rng.as_mut().filter(|_| count < features) {
                    rng.shuffle(&mut looked);
                }
                self.split(y, &order, start..end, (weights, &pairs), &looked, count)
            };
            let Some(split) = split else {
                grown.nodes.push(Node::Leaf(grown.answers.len()));
                grown.answers.push(self.answer(y, rows, weights));
                continue;
            };
            let column = self.columns.row(split.feature);
            for row in rows {
                left[*row as usize] = column[*row as usize] <= split.threshold;
            }
            // Where both branches will be leaves, one list of their rows is enough.
            let lists = if depth + 1 >= shallow { 1 } else { order.len() };
            let mut middle = start;
            for order in &mut order[..lists] {
                middle = start + part(&mut order[start..end], &left, &mut aside);
            }
            grown.nodes.push(Node::Split { feature: split.feature, threshold: split.threshold, right: 0 });
            stack.push(Stretch { start: middle, end, depth: depth + 1, parent: Some(here) });
            stack.push(Stretch { start, end: middle, depth: depth + 1, parent: None });
        }
        grown
    }

    /// Shares of the classes, or the mean.
    fn answer(&self, y: &Labels, rows: &[u32], weights: &[f64]) -> Vec<f64> {
        match y {
            Labels::Classes { of, count } => {
                let (total, mut shares) = class_sums(rows, weights, of, *count);
                shares.iter_mut().for_each(|share| *share /= total);
                shares
            }
            Labels::Numbers(of) => {
                let (total, mean) = mean(rows, |row| [weights[row], of[row]]);
                // The plain mean keeps its bits where there is no penalty.
                let shrunk = if self.growth.penalty > 0.0 { total / (total + self.growth.penalty) } else { 1.0 };
                vec![mean * shrunk]
            }
        }
    }

    /// The best split by the first `count` features of `looked`, and by more while there is none.
    fn split(
        &self,
        y: &Labels,
        order: &[Vec<u32>],
        at: std::ops::Range<usize>,
        (weights, pairs): (&[f64], &[[f64; 2]]),
        looked: &[usize],
        count: usize,
    ) -> Option<Split> {
        let rows = &order[0][at.clone()];
        let all = match y {
            Labels::Classes { of, count } => Sums::Classes(of, class_sums(rows, weights, of, *count)),
            Labels::Numbers(_) => Sums::Numbers(mean(rows, |row| pairs[row])),
        };
        let mut best: Option<Split> = None;
        for (seen, feature) in looked.iter().enumerate() {
            if seen >= count && best.is_some() {
                break;
            }
            let column = self.columns.row(*feature);
            let column = column.to_slice().expect("columns lie in one piece");
            let (rows, distinct) = (&order[*feature][at.clone()], self.distinct[*feature]);
            let scan = Scan { feature: *feature, column, rows, distinct };
            if scan.value(0) < scan.value(rows.len() - 1) {
                match &all {
                    Sums::Numbers(all) => self.scan_numbers(scan, pairs, *all, &mut best),
                    Sums::Classes(of, all) => self.scan_classes(scan, weights, of, all, &mut best),
                }
            }
        }
        match all {
            // What all rows together are worth is what a split has to beat.
            Sums::Numbers((total, mean)) if self.growth.penalty > 0.0 => {
                let whole = (total * mean) * (total * mean) / (total + self.growth.penalty);
                best.filter(|best| best.above / best.below > whole * (1.0 + 1e-9))
            }
            _ => best,
        }
    }

    /// The squared error falls by `Σ s² / (w + penalty)` over both sides, where `s` are their sums; without a penalty around the mean of all.
    fn scan_numbers(&self, scan: Scan<'_>, pairs: &[[f64; 2]], (total, mean): (f64, f64), best: &mut Option<Split>) {
        let penalty = self.growth.penalty;
        let (centre, whole) = if penalty > 0.0 { (0.0, total * mean) } else { (mean, 0.0) };
        let (mut weight, mut sum) = (0.0, 0.0);
        for (at, row) in scan.rows[..scan.rows.len() - 1].iter().enumerate() {
            let [own, number] = pairs[*row as usize];
            weight += own;
            sum += own * (number - centre);
            if scan.parts(at) {
                let (rest, left, right) = (whole - sum, weight + penalty, total - weight + penalty);
                let above = sum * sum * right + rest * rest * left;
                self.offer(best, scan, at, (above, left * right), (weight, total - weight));
            }
        }
    }

    /// Gini's impurity falls with `Σ s² / w` over both sides and all classes, where `s` are the weights of a class there.
    fn scan_classes(
        &self,
        scan: Scan<'_>,
        weights: &[f64],
        of: &[usize],
        (total, sums): &(f64, Vec<f64>),
        best: &mut Option<Split>,
    ) {
        let mut right = sums.clone();
        let mut left = vec![0.0; sums.len()];
        let mut right_squares: f64 = right.iter().map(|sum| sum * sum).sum();
        let (mut weight, mut left_squares) = (0.0, 0.0);
        for (at, row) in scan.rows[..scan.rows.len() - 1].iter().enumerate() {
            let (own, class) = (weights[*row as usize], of[*row as usize]);
            weight += own;
            left_squares += own * (2.0 * left[class] + own);
            right_squares -= own * (2.0 * right[class] - own);
            left[class] += own;
            right[class] -= own;
            if scan.parts(at) {
                let rest = total - weight;
                let worth = (left_squares * rest + right_squares * weight, weight * rest);
                self.offer(best, scan, at, worth, (weight, rest));
            }
        }
    }

    /// Takes the split after a row when its leaves are large enough and it is worth more than the best.
    #[inline]
    fn offer(
        &self,
        best: &mut Option<Split>,
        scan: Scan<'_>,
        at: usize,
        (above, below): (f64, f64),
        (left, right): (f64, f64),
    ) {
        let better = best.as_ref().is_none_or(|best| above * best.below > best.above * below * TIE);
        if better && right > 0.0 && left >= self.growth.min_leaf && right >= self.growth.min_leaf {
            let (low, high) = (scan.value(at), scan.value(at + 1));
            let middle = low + (high - low) / 2.0;
            let threshold = if middle < high { middle } else { low };
            *best = Some(Split { feature: scan.feature, threshold, above, below });
        }
    }
}

/// Labels of a stretch and their sums.
enum Sums<'a> {
    Classes(&'a [usize], (f64, Vec<f64>)),
    Numbers((f64, f64)),
}

/// Places in rising order, and whether all values differ; of equal values in their own order. As whole numbers in the order of the floats, which sort fastest.
fn sorted(column: ArrayView1<'_, f64>) -> (Vec<u32>, bool) {
    let key = |value: f64| {
        // Adding zero makes one zero of both.
        let bits = (value + 0.0).to_bits();
        u128::from(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    };
    let mut keyed: Vec<u128> =
        column.iter().zip(0_u32..).map(|(value, at)| key(*value) << 32 | u128::from(at)).collect();
    keyed.sort_unstable();
    let distinct = keyed.windows(2).all(|pair| pair[0] >> 32 != pair[1] >> 32);
    (keyed.into_iter().map(|keyed| (keyed & 0xffff_ffff) as u32).collect(), distinct)
}

/// Those of some rows that have weight, `n` of them, in their order. Without a branch: which rows a tree draws cannot be foreseen.
fn with_weight(rows: &[u32], weights: &[f64], n: usize) -> Vec<u32> {
    if n == rows.len() {
        return rows.to_vec();
    }
    let mut kept = vec![0; n + 1];
    let mut at = 0;
    for row in rows {
        kept[at] = *row;
        at += usize::from(weights[*row as usize] > 0.0);
    }
    kept.truncate(n);
    kept
}

/// Brings the rows on the left to the front, both sides in their order, and counts them.
fn part(rows: &mut [u32], left: &[bool], aside: &mut [u32]) -> usize {
    let (mut front, mut back) = (0, 0);
    for at in 0..rows.len() {
        let row = rows[at];
        rows[front] = row;
        aside[back] = row;
        let is_left = left[row as usize];
        front += usize::from(is_left);
        back += usize::from(!is_left);
    }
    rows[front..].copy_from_slice(&aside[..back]);
    front
}

fn pure(y: &Labels, rows: &[u32]) -> bool {
    match y {
        Labels::Classes { of, .. } => rows.windows(2).all(|pair| of[pair[0] as usize] == of[pair[1] as usize]),
        Labels::Numbers(of) => rows.windows(2).all(|pair| of[pair[0] as usize] == of[pair[1] as usize]),
    }
}

/// The sum of the weights, and that of each class.
fn class_sums(rows: &[u32], weights: &[f64], of: &[usize], count: usize) -> (f64, Vec<f64>) {
    let (mut total, mut sums) = (0.0, vec![0.0; count]);
    for row in rows {
        total += weights[*row as usize];
        sums[of[*row as usize]] += weights[*row as usize];
    }
    (total, sums)
}

/// The sum of the weights, and the mean; equal numbers have exactly that as their mean.
fn mean(rows: &[u32], pair: impl Fn(usize) -> [f64; 2]) -> (f64, f64) {
    let [_, first] = pair(rows[0] as usize);
    let (mut total, mut sum) = (0.0, 0.0);
    for row in rows {
        let [weight, number] = pair(*row as usize);
        total += weight;
        sum += weight * (number - first);
    }
    (total, first + sum / total)
}
