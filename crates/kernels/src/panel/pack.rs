//! Right sides as panels: copied, turned, unpacked or as pairs of bf16 numbers.

use super::{Left, Part, Right, Term};
use crate::packed::Packed;
use crate::simd::{Kind, Level, vectorised};
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

thread_local! {
    /// What a task has unpacked. No task waits for another while it holds this.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The left side as pairs of bf16 numbers, each row filled up to whole pairs.
pub(super) fn pairs(level: Level, term: &Term<'_>, rows: usize) -> Vec<u32> {
    let mut pairs = vec![0; rows * term.inner.div_ceil(2)];
    by_row(term, &mut pairs, term.inner.div_ceil(2), |row, out| pair_row(level, row, out));
    pairs
}

/// The left side rounded to bf16, row after row.
pub(super) fn rounded(level: Level, term: &Term<'_>, rows: usize) -> Vec<f32> {
    let mut rounded = vec![0.0; rows * term.inner];
    by_row(term, &mut rounded, term.inner, |row, out| round_row(level, row, out));
    rounded
}

/// Each row of the left side with its place of `stride` numbers in a copy.
fn by_row<T: Send>(term: &Term<'_>, copy: &mut [T], stride: usize, make: impl Fn(&[f32], &mut [T]) + Sync) {
    let (Left { numbers, strides: [down, along] }, inner) = (term.left, term.inner);
    assert_eq!(along, 1, "what is rounded lies row by row");
    if stride > 0 {
        copy.par_chunks_mut(stride).enumerate().for_each(|(row, out)| make(&numbers[row * down..][..inner], out));
    }
}

/// Writes some columns of a term's right side as panels `[deep, width]`, with zeros beyond the columns. The parts of all terms that
/// make up a panel are `deep` rows together; this one starts `offset` numbers after the panel.
pub(super) fn pack(
    level: Level,
    part: &Part<'_>,
    columns: Range<usize>,
    [width, deep, offset]: [usize; 3],
    out: &mut [MaybeUninit<f32>],
) {
    let (inner, factor) = (&part.inner, part.term.factor);
    let own = part.deep() * width;
    if own == 0 {
        return;
    }
    // Each panel: its first column from here, how many there are, and the part of it that is this term's.
    let panels = out.chunks_exact_mut(width * deep).enumerate().map(|(i, out)| {
        let from = i * width;
        (from, width.min(columns.len() - from), &mut out[offset..][..own])
    });
    if let Some(matrix) = part.bf16 {
        for (from, count, out) in panels {
            let columns = columns.start + from..columns.start + from + count;
            if matches!(part.term.right, Right::PackedTurned(_)) {
                pair_turned(level, matrix, inner.clone(), columns, width, out);
            } else {
                pair_rows(level, matrix, inner.clone(), columns, width, out);
            }
        }
        return;
    }
    let fill = |numbers: &[f32], stride: usize, turned: bool| {
        for (from, count, out) in panels {
            if turned {
                pack_turned(level, &numbers[from * stride..], stride, [count, inner.len()], Some(factor), width, out);
            } else {
                pack_rows(level, &numbers[from..], stride, count, factor, width, out);
            }
        }
    };
    match part.term.right {
        Right::Rows(numbers, stride) => fill(&numbers[inner.start * stride + columns.start..], stride, false),
        Right::Turned(numbers, stride) => fill(&numbers[columns.start * stride + inner.start..], stride, true),
        Right::Packed(matrix) => {
            unpacked(matrix, inner.clone(), columns.clone(), |numbers| fill(numbers, columns.len(), false))
        }
        Right::PackedTurned(matrix) => {
            unpacked(matrix, columns.clone(), inner.clone(), |numbers| fill(numbers, inner.len(), true))
        }
    }
}

/// Calls `then` with the numbers of some rows and columns of a packed matrix.
fn unpacked(matrix: &Packed, rows: Range<usize>, columns: Range<usize>, then: impl FnOnce(&[f32])) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(scratch.len().max(rows.len() * columns.len()), 0.0);
        matrix.unpack(rows, columns, scratch);
        then(scratch);
    });
}

/// Writes pairs of the rows of a bf16 matrix `[inner, columns]` as a panel.
fn pair_rows(
    level: Level,
    matrix: &Packed,
    inner: Range<usize>,
    columns: Range<usize>,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let (numbers, [_, stride]) = (matrix.bf16(), matrix.dims());
    for (row, out) in inner.clone().step_by(2).zip(out.chunks_exact_mut(width)) {
        let row_at = |row: usize| &numbers[row * stride + columns.start..][..columns.len()];
        let (out, beyond) = out.split_at_mut(columns.len());
        // The last row may have no other.
        let other = if row + 1 < inner.end { row_at(row + 1) } else { &[] };
        pair(level, row_at(row), other, out);
        beyond.fill(MaybeUninit::new(0.0));
    }
}

/// Writes pairs of the columns of a bf16 matrix `[columns, inner]` as a panel.
fn pair_turned(
    level: Level,
    matrix: &Packed,
    inner: Range<usize>,
    columns: Range<usize>,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let (numbers, [_, stride]) = (matrix.bf16(), matrix.dims());
    SCRATCH.with_borrow_mut(|scratch| {
        let (pairs, count) = (inner.len().div_ceil(2), columns.len());
        scratch.resize(scratch.len().max(count * pairs), 0.0);
        for (row, out) in columns.zip(scratch.chunks_exact_mut(pairs)) {
            let row = &numbers[row * stride + inner.start..][..inner.len()];
            let (whole, rest) = row.as_chunks::<2>();
            for (out, [low, high]) in out.iter_mut().zip(whole) {
                *out = f32::from_bits(joined(*low, *high));
            }
            if let ([low], Some(out)) = (rest, out.last_mut()) {
                *out = f32::from_bits(joined(*low, [0; 2]));
            }
        }
        pack_turned(level, scratch, pairs, [count, pairs], None, width, out);
    });
}

vectorised! {
    /// Pairs of the numbers of two rows; a row that is not there is zeros.
    fn pair(low: &[[u8; 2]], high: &[[u8; 2]], out: &mut [MaybeUninit<f32>]) = pair_body
}
vectorised! {
    /// Rounds a row to bf16, in pairs; the last pair may lack its other number.
    fn pair_row(numbers: &[f32], out: &mut [u32]) = pair_row_body
}
vectorised! {
    /// Rounds a row to bf16.
    fn round_row(numbers: &[f32], out: &mut [f32]) = round_row_body
}

#[inline(always)]
fn pair_body<const FMA: bool>(low: &[[u8; 2]], high: &[[u8; 2]], out: &mut [MaybeUninit<f32>]) {
    if high.is_empty() {
        for (out, low) in out.iter_mut().zip(low) {
            out.write(f32::from_bits(joined(*low, [0; 2])));
        }
    } else {
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            out.write(f32::from_bits(joined(*low, *high)));
        }
    }
}

/// Two bf16 numbers in one.
#[inline(always)]
fn joined([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    u32::from_le_bytes([a, b, c, d])
}

#[inline(always)]
fn round_row_body<const FMA: bool>(numbers: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(numbers) {
        *out = f32::from_bits(to_bf16(*x) << 16);
    }
}

#[inline(always)]
fn pair_row_body<const FMA: bool>(numbers: &[f32], out: &mut [u32]) {
    let (whole, rest) = numbers.as_chunks::<2>();
    for (out, [low, high]) in out.iter_mut().zip(whole) {
        *out = to_bf16(*low) | to_bf16(*high) << 16;
    }
    if let ([low], Some(out)) = (rest, out.last_mut()) {
        *out = to_bf16(*low);
    }
}

/// The nearest bf16 number, ties to even, as its bits; NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

vectorised! {
    /// Copies rows of `count` numbers, `stride` apart, times a factor.
    fn pack_rows(
        numbers: &[f32], stride: usize, count: usize, factor: f32, width: usize, out: &mut [MaybeUninit<f32>],
    ) = pack_rows_body
}
/// Copies columns of `count` rows, `stride` apart, of `inner` numbers each, times a factor. Without a factor the bits are left
/// alone: they may be pairs.
fn pack_turned(
    level: Level,
    numbers: &[f32],
    stride: usize,
    [count, inner]: [usize; 2],
    factor: Option<f32>,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let squares = match level.kind() {
        Kind::Portable => [0, 0],
        #[cfg(target_arch = "x86_64")]
        _ => [count / 8 * 8, inner / 8 * 8],
    };
    let [across, along] = squares;
    #[cfg(target_arch = "x86_64")]
    if across > 0 && along > 0 {
        assert!((across - 1) * stride + along <= numbers.len() && along * width <= out.len() && across <= width);
        // SAFETY: the sizes were checked, and these levels have AVX2.
        unsafe { turn(numbers.as_ptr(), stride, squares, factor, out.as_mut_ptr().cast(), width) };
    }
    for (i, out) in out.chunks_exact_mut(width).enumerate().take(inner) {
        let done = if i < along { across } else { 0 };
        for (column, out) in out.iter_mut().enumerate().skip(done) {
            let number = if column < count { numbers[column * stride + i] } else { 0.0 };
            out.write(factor.map_or(number, |factor| factor * number));
        }
    }
}

#[inline(always)]
fn pack_rows_body<const FMA: bool>(
    numbers: &[f32],
    stride: usize,
    count: usize,
    factor: f32,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let row = &numbers[i * stride..][..count];
        let (out, beyond) = out.split_at_mut(count);
        for (out, x) in out.iter_mut().zip(row) {
            out.write(factor * x);
        }
        for out in beyond {
            out.write(0.0);
        }
    }
}
/// Turns squares of eight: `out[j·width + i] = factor·numbers[i·stride + j]` for `i` below `count` and `j` below `inner`, which must be
/// multiples of eight. Without a factor the bits are left alone.
///
/// # Safety
/// All these places must exist, and the processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn turn(
    numbers: *const f32,
    stride: usize,
    [count, inner]: [usize; 2],
    factor: Option<f32>,
    out: *mut f32,
    width: usize,
) {
    use std::arch::x86_64::*;
    let scale = _mm256_set1_ps(factor.unwrap_or(1.0));
    for j in (0..inner).step_by(8) {
        for i in (0..count).step_by(8) {
            // SAFETY: by the caller's promise.
            unsafe {
                let row = |k: usize| {
                    let row = _mm256_loadu_ps(numbers.add((i + k) * stride + j));
                    if factor.is_some() { _mm256_mul_ps(scale, row) } else { row }
                };
                let pairs = |k| {
                    let (a, b) = (row(k), row(k + 1));
                    [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)]
                };
                let fours = |k| {
                    let ([a, b], [c, d]) = (pairs(k), pairs(k + 2));
                    [
                        _mm256_shuffle_ps::<0x44>(a, c),
                        _mm256_shuffle_ps::<0xEE>(a, c),
                        _mm256_shuffle_ps::<0x44>(b, d),
                        _mm256_shuffle_ps::<0xEE>(b, d),
                    ]
                };
                let (upper, lower) = (fours(0), fours(4));
                for k in 0..4 {
                    let at = |row: usize| out.add((j + row) * width + i);
                    _mm256_storeu_ps(at(k), _mm256_permute2f128_ps::<0x20>(upper[k], lower[k]));
                    _mm256_storeu_ps(at(k + 4), _mm256_permute2f128_ps::<0x31>(upper[k], lower[k]));
                }
            }
        }
    }
}
