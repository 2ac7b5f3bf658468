//! Softmax attention on slices, one task per row of the batch and head. Scores live in a task's scratch memory, a block of queries
//! at a time, and are computed again in the backward pass.

use crate::memory::{Output, Shared};
use crate::simd::{Level, exp, flush, fold, mul_add, normal, total, vectorised};
use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Scores a task holds at a time: small enough for the second-level cache.
const SCORES: usize = 32_768;

/// Weights below this power of e of the largest are dropped: the sum does not see them, and what is computed from them stays far
/// from the subnormal numbers.
const LEAST: f32 = -50.0;

/// The inputs, and what follows from their shapes.
struct Problem {
    level: Level,
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    features: usize,
    width: usize,
    /// Queries handled at a time.
    block: usize,
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    mask: FlexTensor,
}

/// What one task works on: slices that start at its head.
struct Head<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: &'a [f32],
    /// Where the head starts in the queries' and the keys' tensors.
    query_start: usize,
    key_start: usize,
}

impl Problem {
    fn new(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, mask: &FlexTensor, heads: usize) -> Self {
        let [q, k, v, mask] = [q, k, v, mask].map(FlexTensor::to_contiguous);
        let ([batch, queries, features], keys) = (dims(&q), dims(&k)[1]);
        let block = (SCORES / keys.max(1)).max(16).min(queries);
        let width = features / heads;
        Self { level: Level::best(), batch, queries, keys, heads, features, width, block, q, k, v, mask }
    }

    fn is_empty(&self) -> bool {
        self.batch * self.queries * self.keys * self.features == 0
    }

    fn head(&self, task: usize) -> Head<'_> {
        let (row, head) = (task / self.heads, task % self.heads);
        let query_start = row * self.queries * self.features + head * self.width;
        let key_start = row * self.keys * self.features + head * self.width;
        Head {
            q: &self.q.storage::<f32>()[query_start..],
            k: &self.k.storage::<f32>()[key_start..],
            v: &self.v.storage::<f32>()[key_start..],
            mask: &self.mask.storage::<f32>()[row * self.keys..][..self.keys],
            query_start,
            key_start,
        }
    }

    /// First query and number of queries of each block.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.queries).step_by(self.block).map(|first| (first, self.block.min(self.queries - first)))
    }

    /// `1/√width`.
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The weights of `count` queries from `first` on, `[count, keys]`.
    fn weights(&self, head: &Head<'_>, first: usize, count: usize, out: &mut [f32]) {
        let (row, q) = ([self.features, 1], &head.q[first * self.features..]);
        let columns = [1, self.features];
        product([count, self.keys, self.width], self.scale(), (q, row), (head.k, columns), (out, [self.keys, 1]));
        softmax_rows(self.level, out, head.mask);
    }

    /// Replaces subnormal numbers by zero in the columns of one head.
    ///
    /// # Safety
    /// `rows` rows from `start` on must be written, and no other task may use these columns.
    unsafe fn flush_head(&self, out: Shared, start: usize, rows: usize) {
        for row in 0..rows {
            // SAFETY: by the caller's promise.
            let values = unsafe { std::slice::from_raw_parts_mut(out.at(start + row * self.features), self.width) };
            flush(self.level, values);
        }
    }
}

/// `softmax(q·kᵀ/√width + mask)·v` per head.
pub(crate) fn forward(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, mask: &FlexTensor, heads: usize) -> FlexTensor {
    let problem = Problem::new(q, k, v, mask, heads);
    let shape = problem.q.layout().shape().clone();
    if problem.is_empty() {
        return FlexTensor::zeros(shape, DType::F32);
    }
    let mut out = Output::new(shape);
    let shared = out.shared();
    let (keys, width, row) = (problem.keys, problem.width, [problem.features, 1]);
    (0..problem.batch * heads).into_par_iter().for_each_init(
        || vec![0.0; problem.block * keys],
        |weights, task| {
            let head = problem.head(task);
            for (first, count) in problem.blocks() {
                let weights = &mut weights[..count * keys];
                problem.weights(&head, first, count, weights);
                // SAFETY: the columns of this head in this row of the batch belong to this task alone and lie within the output.
                unsafe {
                    let at = shared.at(head.query_start + first * problem.features);
                    product_into([count, width, keys], 1.0, (weights, [keys, 1]), (head.v, row), (at, row), false);
                }
            }
            // SAFETY: the loop wrote every query's row of this head.
            unsafe { problem.flush_head(shared, head.query_start, problem.queries) };
        },
    );
    // SAFETY: each task wrote the columns of its head for all queries; together they are the whole tensor.
    unsafe { out.finish() }
}

/// The gradients of `q`, `k` and `v`, those `needed`.
pub(crate) fn backward(
    [q, k, v]: [&FlexTensor; 3],
    mask: &FlexTensor,
    gradient: &FlexTensor,
    heads: usize,
    needed: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let problem = Problem::new(q, k, v, mask, heads);
    let shapes: [Shape; 3] = [&problem.q, &problem.k, &problem.v].map(|x| x.layout().shape().clone());
    if problem.is_empty() {
        let mut needed = needed.into_iter();
        return shapes.map(|shape| needed.next()?.then(|| FlexTensor::zeros(shape, DType::F32)));
    }
    let gradient = gradient.to_contiguous();
    let gradient = gradient.storage::<f32>();
    let mut flags = needed.into_iter();
    let mut outputs = shapes.map(|shape| flags.next()?.then(|| Output::new(shape)));
    let [dq, dk, dv] = outputs.each_mut().map(|out| out.as_mut().map(Output::shared));
    let (keys, width, features, scale) = (problem.keys, problem.width, problem.features, problem.scale());
    let (row, column) = ([features, 1], [1, features]);
    let scratch = || [(); 2].map(|()| vec![0.0; problem.block * keys]);
    (0..problem.batch * heads).into_par_iter().for_each_init(scratch, |[weights, slopes], task| {
        let head = problem.head(task);
        for (first, count) in problem.blocks() {
            let (weights, slopes) = (&mut weights[..count * keys], &mut slopes[..count * keys]);
            let (start, more) = (head.query_start + first * features, first > 0);
            let gradient = &gradient[start..];
            problem.weights(&head, first, count, weights);
            if let Some(dv) = dv {
                // SAFETY: the columns of this head in this row of the batch belong to this task alone and lie within the output;
                // the first block writes them, later ones add.
                unsafe {
                    let at = dv.at(head.key_start);
                    product_into([keys, width, count], 1.0, (weights, [1, keys]), (gradient, row), (at, row), more);
                }
            }
            if dq.is_none() && dk.is_none() {
                continue;
            }
            product([count, keys, width], 1.0, (gradient, row), (head.v, column), (slopes, [keys, 1]));
            softmax_rows_backward(problem.level, weights, slopes, keys);
            if let Some(dq) = dq {
                // SAFETY: as above; each block writes other queries.
                unsafe {
                    product_into(
                        [count, width, keys],
                        scale,
                        (slopes, [keys, 1]),
                        (head.k, row),
                        (dq.at(start), row),
                        false,
                    );
                }
            }
            if let Some(dk) = dk {
                let q = &head.q[first * features..];
                // SAFETY: as for `dv`.
                unsafe {
                    let at = dk.at(head.key_start);
                    product_into([keys, width, count], scale, (slopes, [1, keys]), (q, row), (at, row), more);
                }
            }
        }
        let parts = [(dq, head.query_start, problem.queries), (dk, head.key_start, keys), (dv, head.key_start, keys)];
        for (out, start, rows) in parts {
            if let Some(out) = out {
                // SAFETY: the blocks wrote every row of this head.
                unsafe { problem.flush_head(out, start, rows) };
            }
        }
    });
    // SAFETY: each task wrote the columns of its head for all rows; together they are the whole tensors.
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
    /// Turns gradients of weights into gradients of scores: `weight·(slope − Σ weight·slope)` over each row.
    fn softmax_rows_backward(weights: &[f32], slopes: &mut [f32], keys: usize) = softmax_rows_backward_body
}

#[inline(always)]
fn softmax_rows_body<const FMA: bool>(rows: &mut [f32], mask: &[f32]) {
    for row in rows.chunks_exact_mut(mask.len()) {
        for (x, mask) in row.iter_mut().zip(mask) {
            *x += mask;
        }
        let larger = |most: f32, [x]: [f32; 1]| if x > most { x } else { most };
        let most = fold([&*row], f32::NEG_INFINITY, larger).into_iter().fold(f32::NEG_INFINITY, f32::max);
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

/// A matrix in a slice: its numbers and its row and column strides.
type Operand<'a> = (&'a [f32], [usize; 2]);

/// `out = factor·a·b` for `[rows, columns, inner]` sizes on one thread; `out` must be a whole row-major matrix.
fn product(sizes: [usize; 3], factor: f32, a: Operand<'_>, b: Operand<'_>, (out, strides): (&mut [f32], [usize; 2])) {
    assert!(last(sizes[0], sizes[1], strides) < out.len());
    // SAFETY: the largest offset was checked, and `out` is borrowed mutably.
    unsafe { product_into(sizes, factor, a, b, (out.as_mut_ptr(), strides), false) };
}

/// [`product`] through a pointer; adds to `out` if `accumulate`, else `out` is not read. All sizes must be positive.
///
/// # Safety
/// The matrix at `out` must lie in memory no one else uses meanwhile, written before if `accumulate`.
unsafe fn product_into(
    [m, n, k]: [usize; 3],
    factor: f32,
    (a, a_strides): Operand<'_>,
    (b, b_strides): Operand<'_>,
    (out, strides): (*mut f32, [usize; 2]),
    accumulate: bool,
) {
    assert!(last(m, k, a_strides) < a.len() && last(k, n, b_strides) < b.len());
    let [[a_row, a_column], [b_row, b_column], [row, column]] =
        [a_strides, b_strides, strides].map(|strides| strides.map(|stride| stride as isize));
    let (a, b, none) = (a.as_ptr(), b.as_ptr(), gemm::Parallelism::None);
    // SAFETY: the largest offsets of `a` and `b` were checked; `out` is right by the caller's promise.
    unsafe {
        gemm::gemm(
            m, n, k, out, column, row, accumulate, a, a_column, a_row, b, b_column, b_row, 1.0, factor, false, false,
            false, none,
        );
    }
}

/// The offset of a matrix's last number.
fn last(rows: usize, columns: usize, strides: [usize; 2]) -> usize {
    (rows - 1) * strides[0] + (columns - 1) * strides[1]
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
