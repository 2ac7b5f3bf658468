//! Softmax attention on slices, one task per row of the batch and head. Scores live in a task's scratch memory, a block of queries
//! at a time, and are computed again in the backward pass.

use crate::memory::{Output, Shared};
use crate::product::{product, product_into};
use crate::simd::{Level, exp, fold, largest, mul_add, normal, total, vectorised};
use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// Scores a task holds at a time: small enough for the second-level cache.
const SCORES: usize = 32_768;

/// Weights below this power of e of the largest are dropped: the sum does not see them, and what is computed from them stays far
/// from the subnormal numbers.
const LEAST: f32 = -50.0;

/// Which keys the queries see.
#[derive(Clone, Debug)]
pub(crate) enum Sight {
    /// Numbers added to the scores, `[batch, keys]`.
    Mask(FlexTensor),
    /// One run of keys for each query of each row.
    Runs(Arc<[[u32; 2]]>),
}

/// The inputs, and what follows from their shapes.
struct Problem {
    level: Level,
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// Heads of keys and values; each serves a group of the queries' heads.
    groups: usize,
    width: usize,
    q: FlexTensor,
    k: Rows,
    v: Rows,
    sight: Sight,
    /// Blocks of queries of each row of the batch.
    blocks: Vec<Vec<Block>>,
}

/// Keys or values of each row of the batch, each key's numbers together and one key after another.
struct Rows {
    tensor: FlexTensor,
    /// Where the first row begins, and how far it is to the next: rows may be cut from longer ones.
    first: usize,
    stride: usize,
}

impl Rows {
    fn new(tensor: &FlexTensor) -> Self {
        let layout = tensor.layout();
        let apart = |tensor: FlexTensor| {
            let [_, keys, features] = dims(&tensor);
            Self { tensor, first: 0, stride: keys * features }
        };
        match layout.strides() {
            &[row, key, 1] if row >= 0 && key == layout.shape()[2] as isize => {
                Self { tensor: tensor.clone(), first: layout.start_offset(), stride: row as usize }
            }
            _ => apart(tensor.to_contiguous()),
        }
    }

    /// The numbers of a row of the batch from its `at`th on.
    fn of(&self, row: usize, at: usize) -> &[f32] {
        &self.tensor.storage::<f32>()[self.first + row * self.stride + at..]
    }
}

/// Queries handled at a time, and the keys that any of them sees.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    count: usize,
    key: usize,
    keys: usize,
}

impl Problem {
    fn new(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, sight: &Sight, heads: usize) -> Self {
        let (q, k, v) = (q.to_contiguous(), Rows::new(k), Rows::new(v));
        let sight = match sight {
            Sight::Mask(mask) => Sight::Mask(mask.to_contiguous()),
            Sight::Runs(runs) => Sight::Runs(runs.clone()),
        };
        let ([batch, queries, features], [_, keys, key_features]) = (dims(&q), dims(&k.tensor));
        let width = features / heads;
        let groups = key_features.checked_div(width).unwrap_or(heads);
        let most = (SCORES / keys.max(1)).max(16).min(queries);
        let blocks = (0..batch).map(|row| match &sight {
            Sight::Mask(_) => (0..queries)
                .step_by(most.max(1))
                .map(|first| Block { first, count: most.min(queries - first), key: 0, keys })
                .collect(),
            Sight::Runs(runs) => blocks(&runs[row * queries..][..queries], most),
        });
        let blocks = blocks.collect();
        Self { level: Level::best(), batch, queries, keys, heads, groups, width, q, k, v, sight, blocks }
    }

    fn is_empty(&self) -> bool {
        self.batch * self.queries * self.keys * self.width * self.heads == 0
    }

    /// Numbers from a query to the next, and from a key to the next.
    fn strides(&self) -> [usize; 2] {
        [self.heads * self.width, self.groups * self.width]
    }

    /// Where a head of a row starts among the queries, and its group among the keys.
    fn starts(&self, row: usize, head: usize) -> [usize; 2] {
        let [queries, keys] = self.strides();
        [row * self.queries * queries + head * self.width, row * self.keys * keys + self.group(head)]
    }

    /// Where a head's group starts among the numbers of a key.
    fn group(&self, head: usize) -> usize {
        head / (self.heads / self.groups) * self.width
    }

    /// Room for the scores of the largest block.
    fn scratch(&self) -> Vec<f32> {
        vec![0.0; self.blocks.iter().flatten().map(|block| block.count * block.keys).max().unwrap_or(0)]
    }

    /// `1/√width`.
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The weights of a block's queries, `[count, keys]`.
    fn weights(&self, row: usize, head: usize, block: Block, out: &mut [f32]) {
        let ([query_stride, key_stride], [query_start, _]) = (self.strides(), self.starts(row, head));
        let q = &self.q.storage::<f32>()[query_start + block.first * query_stride..];
        let k = self.k.of(row, block.key * key_stride + self.group(head));
        let sizes = [block.count, block.keys, self.width];
        product(self.level, sizes, self.scale(), (q, [query_stride, 1]), (k, [1, key_stride]), (out, [block.keys, 1]));
        match &self.sight {
            Sight::Mask(mask) => softmax_rows(self.level, out, &mask.storage::<f32>()[row * self.keys..][..self.keys]),
            Sight::Runs(runs) => {
                let runs = &runs[row * self.queries + block.first..][..block.count];
                softmax_runs(self.level, out, block.keys, runs, block.key);
            }
        }
    }

    /// Writes zeros into the columns of one head.
    ///
    /// # Safety
    /// The rows must lie within the output, and no other task may use these columns.
    unsafe fn clear_head(&self, out: Shared, start: usize, rows: usize, stride: usize) {
        for row in 0..rows {
            // SAFETY: by the caller's promise; zero bytes are the number zero.
            unsafe { out.at(start + row * stride).write_bytes(0, self.width) };
        }
    }
}

/// Cuts queries into blocks of at most `most` that look at one stretch of keys: one document, or a part of it.
fn blocks(runs: &[[u32; 2]], most: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = vec![];
    for (at, &[first, end]) in runs.iter().enumerate() {
        let (key, keys) = (first as usize, end.saturating_sub(first) as usize);
        match blocks.last_mut() {
            Some(block) if block.count < most && block.keys > 0 && keys > 0 && block.key == key => {
                block.count += 1;
                block.keys = block.keys.max(keys);
            }
            _ => blocks.push(Block { first: at, count: 1, key, keys }),
        }
    }
    blocks
}

/// `softmax(q·kᵀ/√width + mask)·v` per head.
pub(crate) fn forward(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, sight: &Sight, heads: usize) -> FlexTensor {
    let problem = Problem::new(q, k, v, sight, heads);
    let shape = problem.q.layout().shape().clone();
    if problem.is_empty() {
        return FlexTensor::zeros(shape, DType::F32);
    }
    let mut out = Output::new(shape);
    let shared = out.shared();
    let (width, [query_stride, key_stride]) = (problem.width, problem.strides());
    (0..problem.batch * heads).into_par_iter().for_each_init(
        || problem.scratch(),
        |weights, task| {
            let (row, head) = (task / heads, task % heads);
            let [query_start, _] = problem.starts(row, head);
            for &block in &problem.blocks[row] {
                let (at, Block { count, keys, .. }) = (query_start + block.first * query_stride, block);
                if keys == 0 {
                    // SAFETY: the columns of this head in this row of the batch belong to this task alone and lie within the output.
                    unsafe { problem.clear_head(shared, at, count, query_stride) };
                    continue;
                }
                let weights = &mut weights[..count * keys];
                problem.weights(row, head, block, weights);
                let v = problem.v.of(row, block.key * key_stride + problem.group(head));
                // SAFETY: as above.
                unsafe {
                    let to = (shared.at(at), [query_stride, 1]);
                    product_into(
                        problem.level,
                        [count, width, keys],
                        1.0,
                        (weights, [keys, 1]),
                        (v, [key_stride, 1]),
                        to,
                        false,
                    );
                }
            }
        },
    );
    // SAFETY: each task wrote the columns of its head for all queries; together they are the whole tensor.
    unsafe { out.finish() }
}

/// The gradients of `q`, `k` and `v`, those `needed`.
pub(crate) fn backward(
    [q, k, v]: [&FlexTensor; 3],
    sight: &Sight,
    gradient: &FlexTensor,
    heads: usize,
    needed: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let problem = Problem::new(q, k, v, sight, heads);
    let shapes: [Shape; 3] = [&problem.q, &problem.k.tensor, &problem.v.tensor].map(|x| x.layout().shape().clone());
    if problem.is_empty() {
        let mut needed = needed.into_iter();
        return shapes.map(|shape| needed.next()?.then(|| FlexTensor::zeros(shape, DType::F32)));
    }
    let gradient = gradient.to_contiguous();
    let gradient = gradient.storage::<f32>();
    let mut flags = needed.into_iter();
    let mut outputs = shapes.map(|shape| flags.next()?.then(|| Output::new(shape)));
    let [dq, dk, dv] = outputs.each_mut().map(|out| out.as_mut().map(Output::shared));
    let (width, scale, [query_stride, key_stride]) = (problem.width, problem.scale(), problem.strides());
    let per_group = heads / problem.groups;
    let (query_row, key_row) = ([query_stride, 1], [key_stride, 1]);
    let scratch = || [(); 2].map(|()| problem.scratch());
    // A task has all heads of a group: their keys and values are its own.
    (0..problem.batch * problem.groups).into_par_iter().for_each_init(scratch, |[weights, slopes], task| {
        let (row, group) = (task / problem.groups, task % problem.groups);
        let [_, key_start] = problem.starts(row, group * per_group);
        for out in [dk, dv].into_iter().flatten() {
            // SAFETY: the columns of this group in this row of the batch belong to this task alone and lie within the output.
            unsafe { problem.clear_head(out, key_start, problem.keys, key_stride) };
        }
        for head in group * per_group..(group + 1) * per_group {
            let [query_start, _] = problem.starts(row, head);
            for &block in &problem.blocks[row] {
                let (start, Block { count, keys, .. }) = (query_start + block.first * query_stride, block);
                if keys == 0 {
                    if let Some(dq) = dq {
                        // SAFETY: the columns of this head in this row of the batch belong to this task alone.
                        unsafe { problem.clear_head(dq, start, count, query_stride) };
                    }
                    continue;
                }
                let (weights, slopes) = (&mut weights[..count * keys], &mut slopes[..count * keys]);
                let (gradient, from) = (&gradient[start..], key_start + block.key * key_stride);
                problem.weights(row, head, block, weights);
                if let Some(dv) = dv {
                    // SAFETY: as above; the columns were cleared, and every block adds.
                    unsafe {
                        let to = (dv.at(from), key_row);
                        product_into(
                            problem.level,
                            [keys, width, count],
                            1.0,
                            (weights, [1, keys]),
                            (gradient, query_row),
                            to,
                            true,
                        );
                    }
                }
                if dq.is_none() && dk.is_none() {
                    continue;
                }
                let [k, v] = [&problem.k, &problem.v].map(|x| x.of(row, block.key * key_stride + problem.group(head)));
                let sizes = [count, keys, width];
                product(problem.level, sizes, 1.0, (gradient, query_row), (v, [1, key_stride]), (slopes, [keys, 1]));
                softmax_rows_backward(problem.level, weights, slopes, keys);
                if let Some(dq) = dq {
                    // SAFETY: as above; each block writes other queries.
                    unsafe {
                        let to = (dq.at(start), query_row);
                        product_into(
                            problem.level,
                            [count, width, keys],
                            scale,
                            (slopes, [keys, 1]),
                            (k, key_row),
                            to,
                            false,
                        );
                    }
                }
                if let Some(dk) = dk {
                    let q = &problem.q.storage::<f32>()[start..];
                    // SAFETY: as for `dv`.
                    unsafe {
                        let to = (dk.at(from), key_row);
                        product_into(
                            problem.level,
                            [keys, width, count],
                            scale,
                            (slopes, [1, keys]),
                            (q, query_row),
                            to,
                            true,
                        );
                    }
                }
            }
        }
    });
    // SAFETY: each task wrote the columns of its heads and its group for all rows; together they are the whole tensors.
    outputs.map(|out| out.map(|out| unsafe { out.finish() }))
}

/// The sizes of a tensor of rank 3.
fn dims(x: &FlexTensor) -> [usize; 3] {
    let shape = x.layout().shape();
    [shape[0], shape[1], shape[2]]
}

vectorised! {
    /// Softmax of rows as long as the mask, which is added first.
    fn softmax_rows(rows: &mut [f32], mask: &[f32]) = softmax_rows_body
}
vectorised! {
    /// Softmax of each row over its run of keys, the first of which is key number `first`; zero elsewhere.
    fn softmax_runs(rows: &mut [f32], keys: usize, runs: &[[u32; 2]], first: usize) = softmax_runs_body
}
vectorised! {
    /// Turns gradients of weights into gradients of scores: `weight·(slope − Σ weight·slope)` over each row.
    fn softmax_rows_backward(weights: &[f32], slopes: &mut [f32], keys: usize) = softmax_rows_backward_body
}

#[inline(always)]
fn softmax_rows_body<const FMA: bool>(rows: &mut [f32], mask: &[f32]) {
    for row in rows.chunks_exact_mut(mask.len()) {
        for (x, mask) in row.iter_mut().zip(mask) {
            *x += mask;
        }
        softmax::<FMA>(row);
    }
}

#[inline(always)]
fn softmax_runs_body<const FMA: bool>(rows: &mut [f32], keys: usize, runs: &[[u32; 2]], first: usize) {
    for (row, &[start, end]) in rows.chunks_exact_mut(keys).zip(runs) {
        let (start, end) = (start as usize - first, end as usize - first);
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        softmax::<FMA>(&mut row[start..end]);
    }
}

#[inline(always)]
fn softmax<const FMA: bool>(row: &mut [f32]) {
    let most = largest(row);
    // In a row of −∞ alone every weight is zero; NaN among them stays.
    let most = if most == f32::NEG_INFINITY { 0.0 } else { most };
    for x in row.iter_mut() {
        *x = exp::<FMA>(*x - most, LEAST);
    }
    let sum = total(fold([&*row], 0.0, |sum, [x]| sum + x));
    let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

#[inline(always)]
fn softmax_rows_backward_body<const FMA: bool>(weights: &[f32], slopes: &mut [f32], keys: usize) {
    for (weights, slopes) in weights.chunks_exact(keys).zip(slopes.chunks_exact_mut(keys)) {
        let product = |sum, [weight, slope]: [f32; 2]| mul_add::<FMA>(weight, slope, sum);
        let mean = total(fold([weights, &*slopes], 0.0, product));
        for (slope, weight) in slopes.iter_mut().zip(weights) {
            *slope = normal(weight * (*slope - mean));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The products read weights and slopes, so these must be free of subnormal numbers, not only the results.
    #[test]
    fn weights_and_slopes_are_never_subnormal() {
        let keys = 131;
        let mask: Vec<f32> = (0..keys).map(|i| -(i as f32)).collect();
        for level in Level::available() {
            let mut weights = vec![0.5; 2 * keys];
            softmax_rows(level, &mut weights, &mask);
            assert!(weights[..keys].iter().all(|x| !x.is_subnormal()), "{level:?}");
            assert!((weights[..keys].iter().sum::<f32>() - 1.0).abs() < 1e-6);
            // Whatever follows from a weight by one more product of ordinary size stays normal too.
            assert!(weights.iter().all(|x| *x == 0.0 || *x > 1e-24));
            let mut slopes: Vec<f32> = (0..2 * keys).map(|i| (i % 7) as f32 * 1e-18).collect();
            softmax_rows_backward(level, &weights, &mut slopes, keys);
            assert!(slopes.iter().all(|x| !x.is_subnormal()), "{level:?}");
        }
    }
}
