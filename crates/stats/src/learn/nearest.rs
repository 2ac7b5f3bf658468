use super::table::{Table, counted, queries, restored, saved};
use super::{Fitted, Labels, Learner};
use crate::linalg::squared_distances;
use acclimate_core::Result;
use ndarray::{Array2, ArrayView1, ArrayView2, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Nearest neighbours: the shares of the classes, or the mean, of the rows nearest by Euclidean distance.
///
/// Rows are taken in until their weights add up to `neighbours`; those at the distance where this happens share what is left in proportion to
/// their weights. So a row of weight two is two rows, and the order of rows does not matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nearest {
    /// How many rows answer.
    pub neighbours: usize,
}

impl Default for Nearest {
    fn default() -> Self {
        Self { neighbours: 5 }
    }
}

const NAME: &str = "nearest";
/// Rows to answer at a time: their distances are held together.
const CHUNK: usize = 256;

impl Learner for Nearest {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        counted(NAME, "neighbours", self.neighbours)?;
        let Table { x, y, weights } = Table::new(NAME, x, y, weights)?;
        Ok(Box::new(FittedNearest { neighbours: self.neighbours, x, y, weights: weights.to_vec() }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedNearest>(NAME, value)?))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FittedNearest {
    neighbours: usize,
    x: Array2<f64>,
    y: Labels,
    weights: Vec<f64>,
}

impl FittedNearest {
    /// The rows that answer, with their shares, out of all distances.
    fn near(&self, distances: ArrayView1<'_, f64>) -> Vec<(usize, f64)> {
        let mut all: Vec<(f64, usize)> = distances.iter().copied().zip(0..).collect();
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let enough = self.neighbours as f64;
        let mut head = (2 * self.neighbours).min(all.len());
        loop {
            if head < all.len() {
                all.select_nth_unstable_by(head, order);
            }
            all[..head].sort_unstable_by(order);
            let (mut found, mut sum, mut start) = (Vec::new(), 0.0, 0);
            while start < head {
                let end = start + all[start..head].iter().take_while(|(far, _)| *far == all[start].0).count();
                // Rows at this distance may stand beyond the head.
                if end == head && head < all.len() {
                    break;
                }
                let group: f64 = all[start..end].iter().map(|(_, row)| self.weights[*row]).sum();
                let share = ((enough - sum) / group).min(1.0);
                found.extend(all[start..end].iter().map(|(_, row)| (*row, self.weights[*row] * share)));
                sum += group;
                start = end;
                if sum >= enough {
                    break;
                }
            }
            if sum >= enough || head == all.len() {
                let total = sum.min(enough);
                return found.into_iter().map(|(row, share)| (row, share / total)).collect();
            }
            head = (2 * head).min(all.len());
        }
    }
}

impl Fitted for FittedNearest {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.x.ncols())?;
        let width = if let Labels::Classes { count, .. } = &self.y { *count } else { 1 };
        let mut answers = Array2::zeros((x.nrows(), width));
        for start in (0..x.nrows()).step_by(CHUNK) {
            let chunk = start..(start + CHUNK).min(x.nrows());
            let distances = squared_distances(x.slice(s![chunk.clone(), ..]), self.x.view());
            let near: Vec<Vec<(usize, f64)>> =
                (0..chunk.len()).into_par_iter().map(|row| self.near(distances.row(row))).collect();
            for (row, near) in chunk.zip(near) {
                for (from, share) in near {
                    match &self.y {
                        Labels::Classes { of, .. } => answers[[row, of[from]]] += share,
                        Labels::Numbers(numbers) => answers[[row, 0]] += share * numbers[from],
                    }
                }
            }
        }
        Ok(answers)
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
