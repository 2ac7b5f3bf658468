//! The inner loop: a tile of rows and columns whose sums stay in registers.

use super::Start;
use crate::simd::{Kind, Level};
use portable::portable;
#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512, avx512_pairs};

/// Rows a tile has at most, over all levels.
pub(super) const MOST_ROWS: usize = 12;
/// Columns of a panel at most, over all levels.
const MOST_COLUMNS: usize = 32;

/// A term that is packed: what the inner loop reads.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    /// The left side's first number of the block of rows.
    pub(super) left: *const f32,
    pub(super) strides: [usize; 2],
    /// The panel's first number.
    pub(super) panel: *const f32,
    /// Numbers from one inner index to the next.
    pub(super) step: usize,
    pub(super) inner: usize,
    /// Whether each number is a pair of bf16 numbers of two inner indices.
    pub(super) pairs: bool,
}

/// A block of rows of one panel of `width` numbers for each inner index, of which `count` are columns of the result. It says whether this
/// begins the sums, and whether it completes them.
///
/// # Safety
/// The left sides must have `rows` rows, and the block at `out` must belong to the caller, and be written where sums are begun or it is
/// added.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn block_of(
    level: Level,
    width: usize,
    packings: &[Packing],
    [rows, count]: [usize; 2],
    start: Start<'_>,
    (out, [down, across]): (*mut f32, [usize; 2]),
    [first, last]: [bool; 2],
) {
    let most = most_rows(level);
    // A tile that is not one of whole rows in the output is computed here.
    let beside = count < width || across != 1;
    let mut edge = [0.0; MOST_ROWS * MOST_COLUMNS];
    // What is added at the end: one row for all, or the rows of a tile.
    let mut ends = [0.0; MOST_ROWS * MOST_COLUMNS];
    if let Start::Columns(start) = start {
        ends[..count].copy_from_slice(start);
    }
    let zeros = [0.0; MOST_COLUMNS];
    let mut moved: Vec<Packing> = packings.to_vec();
    for row in (0..rows).step_by(most) {
        let taken = most.min(rows - row);
        for (moved, packing) in moved.iter_mut().zip(packings) {
            // Nothing is read of an empty part.
            moved.left = packing.left.wrapping_add(row * packing.strides[0]);
        }
        let end = match start {
            Start::Rows(start) => {
                for (ends, start) in ends.chunks_exact_mut(MOST_COLUMNS).zip(&start[row..row + taken]) {
                    ends.fill(*start);
                }
                (ends.as_ptr(), MOST_COLUMNS)
            }
            Start::Zero | Start::Columns(_) | Start::Output => (ends.as_ptr(), 0),
        };
        // SAFETY: by the caller's promise; `edge` has room for all rows and whole vectors.
        unsafe {
            let place = out.add(row * down);
            let (to, stride) = if beside { (edge.as_mut_ptr(), MOST_COLUMNS) } else { (place, down) };
            let mut from = (to.cast_const(), stride);
            if first && !matches!(start, Start::Output) {
                from = (zeros.as_ptr(), 0);
            } else if beside {
                for i in 0..taken {
                    for j in 0..count {
                        to.add(i * stride + j).write(place.add(i * down + j * across).read());
                    }
                }
            }
            // What is left of the terms starts from the sums of the pairs.
            let (pairs, others) = moved.split_at(moved.iter().take_while(|packing| packing.pairs).count());
            if !pairs.is_empty() {
                tile(level, width, taken, pairs, from, (to, stride), (last && others.is_empty()).then_some(end));
                from = (to.cast_const(), stride);
            }
            if pairs.is_empty() || !others.is_empty() {
                tile(level, width, taken, others, from, (to, stride), last.then_some(end));
            }
            if beside {
                for (i, edge) in edge.chunks_exact(MOST_COLUMNS).take(taken).enumerate() {
                    let place = place.add(i * down);
                    if across == 1 {
                        place.copy_from_nonoverlapping(edge.as_ptr(), count);
                    } else {
                        for (j, number) in edge[..count].iter().enumerate() {
                            place.add(j * across).write(*number);
                        }
                    }
                }
            }
        }
    }
}

/// Rows of a block at a level.
fn most_rows(level: Level) -> usize {
    match level.kind() {
        Kind::Portable => PORTABLE_ROWS,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => 6,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => 12,
    }
}

/// Rows of a block at the portable level: AArch64 has 32 vector registers, the base set of x86-64 sixteen.
const PORTABLE_ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 3 };

/// The sums of a block of `rows` rows and `width` columns.
///
/// # Safety
/// As of the functions that [`tiles!`] defines.
unsafe fn tile(
    level: Level,
    width: usize,
    rows: usize,
    packings: &[Packing],
    start: (*const f32, usize),
    out: (*mut f32, usize),
    end: Option<(*const f32, usize)>,
) {
    macro_rules! by_rows {
        ($tile:ident, $lanes:literal, $($rows:literal)*) => {
            match (rows, width > $lanes) {
                // SAFETY: by the caller's promise.
                $(($rows, false) => unsafe { $tile::<$rows, 1>(packings, start, out, end) },)*
                // SAFETY: as above.
                $(($rows, true) => unsafe { $tile::<$rows, 2>(packings, start, out, end) },)*
                _ => unreachable!("blocks have no more rows"),
            }
        };
    }
    match level.kind() {
        Kind::Portable => by_rows!(portable, 8, 1 2 3 4 5 6),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => by_rows!(avx2, 8, 1 2 3 4 5 6),
        // Pairs are made at this level alone, where `Level::has_bf16` holds.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if packings.iter().any(|packing| packing.pairs) => {
            by_rows!(avx512_pairs, 16, 1 2 3 4 5 6 7 8 9 10 11 12)
        }
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => by_rows!(avx512, 16, 1 2 3 4 5 6 7 8 9 10 11 12),
    }
}

/// Columns of a panel where the right side has so many.
pub(super) fn width(level: Level, columns: usize) -> usize {
    let lanes = match level.kind() {
        Kind::Portable => 8,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => 8,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => 16,
    };
    if columns <= lanes { lanes } else { 2 * lanes }
}

/// Defines a function that computes `ROWS` rows of `VECTORS` vectors in registers.
macro_rules! tiles {
    (
        $(#[$meta:meta])* $name:ident, $vector:ty, $lanes:literal,
        zero $zero:expr, load $load:expr, splat $splat:expr, fma $fma:expr, add $add:expr, normal $normal:expr, store $store:expr
    ) => {
        /// The sums of a tile, begun at `start` and, where there is an `end`, completed with it: each is a place and the distance of rows.
        ///
        /// # Safety
        /// All places must hold `ROWS` rows of whole vectors, and the processor must have the instructions.
        $(#[$meta])*
        pub(super) unsafe fn $name<const ROWS: usize, const VECTORS: usize>(
            packings: &[Packing],
            (start, start_stride): (*const f32, usize),
            (out, stride): (*mut f32, usize),
            end: Option<(*const f32, usize)>,
        ) {
            // SAFETY: by the caller's promise.
            unsafe {
                let mut sums: [[$vector; VECTORS]; ROWS] = [[$zero; VECTORS]; ROWS];
                for i in 0..ROWS {
                    for j in 0..VECTORS {
                        sums[i][j] = $load(start.add(i * start_stride + j * $lanes));
                    }
                }
                for packing in packings {
                    let [row, step] = packing.strides;
                    // Every fourth row has a pointer; the others lie one, two or three distances further on.
                    let mut left = [packing.left; 3];
                    for (i, left) in left.iter_mut().enumerate() {
                        *left = left.wrapping_add(4 * i * row);
                    }
                    let mut panel = packing.panel;
                    for _ in 0..packing.inner {
                        let mut right = [$zero; VECTORS];
                        for j in 0..VECTORS {
                            right[j] = $load(panel.add(j * $lanes));
                        }
                        for i in 0..ROWS {
                            let number = $splat(left[i / 4].wrapping_add(i % 4 * row));
                            for j in 0..VECTORS {
                                sums[i][j] = $fma(number, right[j], sums[i][j]);
                            }
                        }
                        panel = panel.wrapping_add(packing.step);
                        left = left.map(|left| left.wrapping_add(step));
                    }
                }
                for i in 0..ROWS {
                    for j in 0..VECTORS {
                        let sum = match end {
                            Some((end, end_stride)) => {
                                $normal($add(sums[i][j], $load(end.add(i * end_stride + j * $lanes))))
                            }
                            None => sums[i][j],
                        };
                        $store(out.add(i * stride + j * $lanes), sum);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Packing;
    use std::arch::x86_64::*;

    /// Zeros instead of subnormal numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn normal_512(x: __m512) -> __m512 {
        let large = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(f32::MIN_POSITIVE));
        _mm512_maskz_mov_ps(large, x)
    }

    tiles! {
        #[target_feature(enable = "avx512f,avx512dq")]
        avx512, __m512, 16,
        zero _mm512_setzero_ps(),
        load |at| _mm512_loadu_ps(at),
        splat |at: *const f32| _mm512_set1_ps(*at),
        fma |a, b, c| _mm512_fmadd_ps(a, b, c),
        add |a, b| _mm512_add_ps(a, b),
        normal |x| normal_512(x),
        store |at, x| _mm512_storeu_ps(at, x)
    }

    tiles! {
        #[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
        avx512_pairs, __m512, 16,
        zero _mm512_setzero_ps(),
        load |at| _mm512_loadu_ps(at),
        splat |at: *const f32| _mm512_set1_ps(*at),
        fma |a, b, c| _mm512_dpbf16_ps(c, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)),
        add |a, b| _mm512_add_ps(a, b),
        normal |x| normal_512(x),
        store |at, x| _mm512_storeu_ps(at, x)
    }

    tiles! {
        #[target_feature(enable = "avx2,fma")]
        avx2, __m256, 8,
        zero _mm256_setzero_ps(),
        load |at| _mm256_loadu_ps(at),
        splat |at: *const f32| _mm256_set1_ps(*at),
        fma |a, b, c| _mm256_fmadd_ps(a, b, c),
        add |a, b| _mm256_add_ps(a, b),
        normal |x| {
            let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(size, _mm256_set1_ps(f32::MIN_POSITIVE)), x)
        },
        store |at, x| _mm256_storeu_ps(at, x)
    }
}

mod portable {
    use super::Packing;
    use crate::simd::{PORTABLE_FMA, mul_add, normal};

    tiles! {
        portable, [f32; 8], 8,
        zero [0.0; 8],
        load |at: *const f32| at.cast::<[f32; 8]>().read(),
        splat |at: *const f32| *at,
        fma |a: f32, b: [f32; 8], c: [f32; 8]| {
            let mut sum = c;
            for (sum, b) in sum.iter_mut().zip(b) {
                *sum = mul_add::<PORTABLE_FMA>(a, b, *sum);
            }
            sum
        },
        add |a: [f32; 8], b: [f32; 8]| std::array::from_fn(|i| a[i] + b[i]),
        normal |x: [f32; 8]| x.map(normal),
        store |at: *mut f32, x| at.cast::<[f32; 8]>().write(x)
    }
}
