//! Products of small matrices in slices, on the thread that asks.

use crate::panel::{Left, Right, Start, Term, multiply_here};
use crate::simd::Level;

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
