//! A quantile forest that reads a series' own past: its features are the series itself, shifted.

use crate::quantile;
use acclimate_core::Rng;
use rayon::prelude::*;

/// A forest that predicts the law of the next numbers of a series from the last ones.
///
/// Every feature of every row is a number of the series, so one sorted order of the series serves all features, and a level of a tree
/// costs one walk along it for each lag.
#[derive(Clone, Copy, Debug)]
pub struct ResidualForest {
    /// How many last numbers are read.
    pub lags: usize,
    /// How many trees.
    pub trees: usize,
    /// How deep each is.
    pub depth: usize,
    /// Whether each tree draws its rows.
    pub bootstrap: bool,
    /// The weight of a row over that of the next one.
    pub decay: f64,
    /// How many numbers lie between the last one read and the one predicted.
    pub ahead: usize,
    /// Names the draws.
    pub seed: u64,
    /// Numbers the draws.
    pub step: u64,
}

/// A row in a tree: its weight, its weighted target less the mean of its node, and the node. Node zero is for rows that do not count.
#[derive(Clone, Copy, Default)]
struct Slot {
    target: f64,
    weight: f32,
    node: u32,
}

/// A node in the walk along a feature, and the best split found.
#[derive(Clone, Copy, Default)]
struct Node {
    total: f64,
    mean: f64,
    target: f64,
    weight: f64,
    best: f64,
    /// The lag and the value up to which rows go left.
    split: Option<(usize, f64)>,
}

impl ResidualForest {
    /// Targets of past rows with their weights in the law of what follows the end of the series, in rising order of the targets. Weights
    /// sum to one. Empty where the series is too short for a row.
    pub fn law(&self, series: &[f64]) -> Vec<(f64, f64)> {
        let Some(rows) = series.len().checked_sub(self.lags + self.ahead).filter(|rows| *rows > 0) else {
            return Vec::new();
        };
        let mut order: Vec<u32> = (0..series.len() as u32).collect();
        order.sort_by(|a, b| series[*a as usize].total_cmp(&series[*b as usize]));
        let leaves: Vec<Vec<f64>> =
            (0..self.trees).into_par_iter().map(|tree| self.leaf(series, rows, &order, tree)).collect();
        let offset = self.lags + self.ahead;
        let share = |row: usize| leaves.iter().map(|leaf| leaf[row]).sum::<f64>() / self.trees as f64;
        let targets = order.iter().filter_map(|at| (*at as usize).checked_sub(offset).map(|row| (row, *at as usize)));
        targets.map(|(row, at)| (series[at], share(row))).filter(|(_, weight)| *weight > 0.0).collect()
    }

    /// The weight of each row in the leaf of one tree that the end of the series falls into.
    fn leaf(&self, series: &[f64], rows: usize, order: &[u32], tree: usize) -> Vec<f64> {
        // Rows stand behind as many empty slots as there are lags: a walk along any lag stays inside.
        let mut slots = vec![Slot::default(); series.len() + self.lags];
        let query = &series[series.len() - self.lags..];
        let mut counts = vec![if self.bootstrap { 0.0 } else { 1.0 }; rows];
        if self.bootstrap {
            let mut rng = Rng::new(self.seed, "residual forest", self.step * self.trees as u64 + tree as u64);
            for _ in 0..rows {
                counts[rng.below(rows)] += 1.0;
            }
        }
        for (row, count) in counts.iter().enumerate() {
            let age = (rows - 1 - row) as f64;
            let weight = if self.decay == 1.0 { *count } else { count * self.decay.powf(age) };
            slots[self.lags + row].weight = weight as f32;
            slots[self.lags + row].node = u32::from(weight > 0.0);
        }
        let mut nodes = vec![Node::default(); 2];
        let (mut fresh, mut at) = (1..2, 1);
        for level in 0..=self.depth {
            self.centre(series, rows, &mut slots, &mut nodes, fresh.start);
            if level == self.depth {
                break;
            }
            for lag in 0..self.lags {
                walk(series, order, &slots[self.lags - lag..], lag, &mut nodes);
            }
            let next = nodes.len();
            let mut children = vec![0; next];
            for node in fresh.clone() {
                if nodes[node].split.is_some() {
                    children[node] = nodes.len();
                    nodes.extend([Node::default(); 2]);
                }
                // A node is split once; later walks pass it by.
                nodes[node].total = 0.0;
            }
            for row in 0..rows {
                let slot = &mut slots[self.lags + row];
                if let Some((lag, value)) = nodes[slot.node as usize].split {
                    slot.node = (children[slot.node as usize] + usize::from(series[row + lag] > value)) as u32;
                }
            }
            while let Some((lag, value)) = nodes[at].split.filter(|_| children.get(at).is_some_and(|c| *c > 0)) {
                at = children[at] + usize::from(query[lag] > value);
            }
            fresh = next..nodes.len();
            if fresh.is_empty() {
                break;
            }
        }
        let inside = |slot: &Slot| if slot.node as usize == at { f64::from(slot.weight) } else { 0.0 };
        let rows = &slots[self.lags..self.lags + rows];
        let total: f64 = rows.iter().map(inside).sum();
        rows.iter().map(|slot| inside(slot) / total).collect()
    }

    /// Fills in what new nodes weigh, and the targets of their rows less the node's mean.
    fn centre(&self, series: &[f64], rows: usize, slots: &mut [Slot], nodes: &mut [Node], from: usize) {
        let target = |row: usize| series[row + self.lags + self.ahead];
        let of = |slot: &Slot| (slot.node as usize >= from && slot.node > 0).then_some(slot.node as usize);
        for row in 0..rows {
            let slot = slots[self.lags + row];
            if let Some(node) = of(&slot) {
                nodes[node].total += f64::from(slot.weight);
                nodes[node].mean += f64::from(slot.weight) * target(row);
            }
        }
        for node in &mut nodes[from..] {
            node.mean /= node.total;
            node.best = 0.0;
        }
        for row in 0..rows {
            let slot = &mut slots[self.lags + row];
            if let Some(node) = of(slot) {
                let apart = target(row) - nodes[node].mean;
                slot.target = f64::from(slot.weight) * apart;
                // A split must take away more than rounding of the spread and of the mean leaves behind.
                let mean = nodes[node].mean;
                nodes[node].best += f64::from(slot.weight) * (1e-12 * apart * apart + 1e-24 * mean * mean);
            }
        }
    }
}

/// Walks along one lag in the order of the series and keeps the best split of each node. With centred targets the gain of a split with
/// the sum `s` and the weight `w` on its left is `s² / w + s² / (total − w)`.
fn walk(series: &[f64], order: &[u32], slots: &[Slot], lag: usize, nodes: &mut [Node]) {
    for node in nodes.iter_mut() {
        (node.target, node.weight) = (0.0, 0.0);
    }
    for (place, at) in order.iter().enumerate() {
        let slot = slots[*at as usize];
        let node = &mut nodes[slot.node as usize];
        node.target += slot.target;
        node.weight += f64::from(slot.weight);
        let gain = node.target * node.target * node.total / (node.weight * (node.total - node.weight));
        if gain > node.best {
            // Only between two values: the next row of the node decides.
            let next = order[place + 1..].iter().find(|next| slots[**next as usize].node == slot.node);
            let (here, next) = (series[*at as usize], next.map(|next| series[*next as usize]));
            if let Some(next) = next.filter(|next| *next > here) {
                node.best = gain;
                let middle = here + (next - here) / 2.0;
                node.split = Some((lag, if middle < next { middle } else { here }));
            }
        }
    }
}

/// The smallest target at which the share of the law reaches `level`.
pub(super) fn quantile_of(law: &[(f64, f64)], level: f64) -> f64 {
    let mut reached = 0.0;
    let wanted = level * (1.0 - quantile::SLACK);
    for (target, weight) in law {
        reached += weight;
        if reached >= wanted {
            return *target;
        }
    }
    law.last().map_or(f64::NAN, |(target, _)| *target)
}
