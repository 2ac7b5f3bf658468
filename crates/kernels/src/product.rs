//! Products of small matrices in slices, on the thread that asks.

use crate::panel::{Left, Right, Start, Term, multiply_here};
use crate::simd::{Level, fold, mul_add, normal, total, vectorised};
use std::mem::MaybeUninit;

/// Columns of a single row that are added up together.
const TOGETHER: usize = 32;

/// A matrix in a slice: its numbers and its row and column strides, one of which must be one.
pub(crate) type Operand<'a> = (&'a [f32], [usize; 2]);

/// `out = factor·a·b` for `[rows, columns, inner]` sizes; `out` must be a whole row-major matrix. No result is subnormal.
pub(crate) fn product(
    level: Level,
    sizes: [usize; 3],
    factor: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    (out, strides): (&mut [f32], [usize; 2]),
) {
    let [rows, columns, _] = sizes;
    assert!((rows - 1) * strides[0] + (columns - 1) * strides[1] < out.len());
    // SAFETY: the largest offset was checked, and `out` is borrowed mutably.
    unsafe { product_into(level, sizes, factor, a, b, (out.as_mut_ptr(), strides), false) };
}

/// [`product`] through a pointer; adds to `out` if `accumulate`, else `out` is not read. All sizes must be positive.
///
/// # Safety
/// The matrix at `out` must lie in memory no one else uses meanwhile, written before if `accumulate`.
pub(crate) unsafe fn product_into(
    level: Level,
    [rows, columns, inner]: [usize; 3],
    factor: f32,
    (a, a_strides): Operand<'_>,
    (b, b_strides): Operand<'_>,
    out: (*mut f32, [usize; 2]),
    accumulate: bool,
) {
    if let (1, [_, 1], (out, [_, 1])) = (rows, a_strides, out) {
        // SAFETY: by the caller's promise; numbers are as good as room for numbers.
        let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<MaybeUninit<f32>>(), columns) };
        // Nothing is read twice, so nothing is packed.
        match b_strides {
            [1, stride] => dots(level, factor, &a[..inner], b, stride, out, accumulate),
            [stride, _] => rows_of(level, factor, &a[..inner], b, stride, out, accumulate),
        }
        return;
    }
    let right = match b_strides {
        [stride, 1] => Right::Rows(b, stride),
        [1, stride] => Right::Turned(b, stride),
        _ => unreachable!("one stride of a right side is one"),
    };
    let term = Term { left: Left { numbers: a, strides: a_strides }, right, inner, factor };
    let start = if accumulate { Start::Output } else { Start::Zero };
    // SAFETY: by the caller's promise.
    unsafe { multiply_here(level, [rows, columns], &term, start, out) };
}

vectorised! {
    /// `out[c] = factor·Σ a[i]·b[c·stride + i]`, added to what is there if `accumulate`; only then is `out` read, and must be written.
    fn dots(factor: f32, a: &[f32], b: &[f32], stride: usize, out: &mut [MaybeUninit<f32>], accumulate: bool) = dots_body
}
vectorised! {
    /// `out[c] = factor·Σ a[i]·b[i·stride + c]`, with the rest as in [`dots`].
    fn rows_of(factor: f32, a: &[f32], b: &[f32], stride: usize, out: &mut [MaybeUninit<f32>], accumulate: bool) = rows_of_body
}

#[inline(always)]
fn dots_body<const FMA: bool>(
    factor: f32,
    a: &[f32],
    b: &[f32],
    stride: usize,
    out: &mut [MaybeUninit<f32>],
    accumulate: bool,
) {
    let product = |sum, [a, b]: [f32; 2]| mul_add::<FMA>(a, b, sum);
    for (column, out) in out.iter_mut().enumerate() {
        let sum = total(fold([a, &b[column * stride..][..a.len()]], 0.0, product));
        put(out, factor * sum, accumulate);
    }
}

#[inline(always)]
fn rows_of_body<const FMA: bool>(
    factor: f32,
    a: &[f32],
    b: &[f32],
    stride: usize,
    out: &mut [MaybeUninit<f32>],
    accumulate: bool,
) {
    let (whole, rest) = out.as_chunks_mut::<TOGETHER>();
    let done = whole.len() * TOGETHER;
    for (at, out) in whole.iter_mut().enumerate() {
        let mut sums = [0.0; TOGETHER];
        for (i, a) in a.iter().enumerate() {
            let row: &[f32; TOGETHER] = b[i * stride + at * TOGETHER..].first_chunk().expect("a row has all columns");
            for (sum, b) in sums.iter_mut().zip(row) {
                *sum = mul_add::<FMA>(*a, *b, *sum);
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| put(out, factor * sum, accumulate));
    }
    for (at, out) in rest.iter_mut().enumerate() {
        let sum = a.iter().enumerate().map(|(i, a)| a * b[i * stride + done + at]).sum::<f32>();
        put(out, factor * sum, accumulate);
    }
}

#[inline(always)]
fn put(out: &mut MaybeUninit<f32>, sum: f32, accumulate: bool) {
    // SAFETY: what is added to was written, by the promise of who asks.
    let before = if accumulate { unsafe { out.assume_init() } } else { 0.0 };
    out.write(normal(before + sum));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row of either side, around the columns that are added up together.
    #[test]
    fn a_single_row_is_multiplied_like_many() {
        for [columns, inner] in [[1, 1], [5, 64], [33, 7], [64, 131], [70, 3]] {
            let numbers =
                |count: usize, by: usize| (0..count).map(|i| ((i * by) % 17) as f32 - 8.0).collect::<Vec<_>>();
            let (a, b) = (numbers(2 * inner, 5), numbers(inner * columns, 7));
            for level in Level::available() {
                for strides in [[columns, 1], [1, inner]] {
                    let mut two = vec![0.0; 2 * columns];
                    product(level, [2, columns, inner], 0.5, (&a, [inner, 1]), (&b, strides), (&mut two, [columns, 1]));
                    let mut one = vec![1.0; columns];
                    let sizes = [1, columns, inner];
                    product(level, sizes, 0.5, (&a, [inner, 1]), (&b, strides), (&mut one, [columns, 1]));
                    // Small whole numbers: sums are exact in any order.
                    assert_eq!(one, two[..columns], "{level:?} {strides:?}");
                    // SAFETY: the slice is ours and written.
                    unsafe {
                        product_into(
                            level,
                            sizes,
                            0.5,
                            (&a, [inner, 1]),
                            (&b, strides),
                            (one.as_mut_ptr(), [columns, 1]),
                            true,
                        );
                    }
                    assert!(one.iter().zip(&two).all(|(one, two)| *one == 2.0 * two), "{level:?} {strides:?}");
                }
            }
        }
    }
}
