//! Matrix products on slices, on one thread.

/// A matrix in a slice: its numbers and its row and column strides.
pub(crate) type Operand<'a> = (&'a [f32], [usize; 2]);

/// `out = factor·a·b` for `[rows, columns, inner]` sizes on one thread; `out` must be a whole row-major matrix.
pub(crate) fn product(
    sizes: [usize; 3],
    factor: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    (out, strides): (&mut [f32], [usize; 2]),
) {
    assert!(last(sizes[0], sizes[1], strides) < out.len());
    // SAFETY: the largest offset was checked, and `out` is borrowed mutably.
    unsafe { product_into(sizes, factor, a, b, (out.as_mut_ptr(), strides), false) };
}

/// [`product`] through a pointer; adds to `out` if `accumulate`, else `out` is not read. All sizes must be positive.
///
/// # Safety
/// The matrix at `out` must lie in memory no one else uses meanwhile, written before if `accumulate`.
pub(crate) unsafe fn product_into(
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
