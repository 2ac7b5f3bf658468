//! The innermost product: a few rows times a few columns, all sums in registers.
//!
//! `a` is packed `[inner][rows]`, `b` holds a row of columns for each inner index. What surrounds it packs and places; see `implicit`.

use crate::simd::{Kind, Level};

/// Rows and columns of a tile at a level.
pub(crate) fn size(level: Level) -> [usize; 2] {
    match level.kind() {
        Kind::Portable => [4, 8],
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => [4, 24],
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => [8, 32],
    }
}

/// Writes `a·b` to the tile at the start of `c`, whose rows are `stride` apart, or adds it there.
///
/// The rows of `b` are `pitch` apart. There are as many inner indices as `a` has columns of [`size`]`(level)[0]` numbers.
pub(crate) fn multiply(
    level: Level,
    a: &[f32],
    (b, pitch): (&[f32], usize),
    (c, stride): (&mut [f32], usize),
    add: bool,
) {
    let [rows, columns] = size(level);
    let inner = a.len() / rows;
    assert!(inner > 0 && (inner - 1) * pitch + columns <= b.len(), "the panel is too short");
    assert!((rows - 1) * stride + columns <= c.len(), "the tile does not fit");
    match level.kind() {
        Kind::Portable => portable::<4, 8>(a, (b, pitch), (c, stride), add),
        // SAFETY: a `Level` of this kind exists only where the processor has these features; the sizes were checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2(inner, a.as_ptr(), (b.as_ptr(), pitch), (c.as_mut_ptr(), stride), add) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512(inner, a.as_ptr(), (b.as_ptr(), pitch), (c.as_mut_ptr(), stride), add) },
    }
}

fn portable<const ROWS: usize, const COLUMNS: usize>(
    a: &[f32],
    (b, pitch): (&[f32], usize),
    (c, stride): (&mut [f32], usize),
    add: bool,
) {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (k, a) in a.as_chunks::<ROWS>().0.iter().enumerate() {
        let b = &b[k * pitch..][..COLUMNS];
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = crate::simd::mul_add::<{ crate::simd::PORTABLE_FMA }>(*a, *b, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (c, sum) in c[row * stride..].iter_mut().zip(sums) {
            *c = if add { *c + sum } else { *sum };
        }
    }
}

/// The same with vectors of one width, whose operations the arguments name.
#[cfg(target_arch = "x86_64")]
macro_rules! tile {
    ($name:ident, $features:literal, $rows:literal, $vectors:literal, $lanes:literal,
     $zero:ident, $load:ident, $store:ident, $splat:ident, $fma:ident, $add:ident) => {
        /// # Safety
        /// The processor must have the features, and the sizes must fit as [`multiply`] checks.
        #[target_feature(enable = $features)]
        unsafe fn $name(
            inner: usize,
            a: *const f32,
            (b, pitch): (*const f32, usize),
            (c, stride): (*mut f32, usize),
            add: bool,
        ) {
            use std::arch::x86_64::*;
            let mut sums = [[$zero(); $vectors]; $rows];
            // SAFETY: the caller checked that the last row of each operand lies within its slice.
            unsafe {
                for k in 0..inner {
                    let b: [_; $vectors] = std::array::from_fn(|v| $load(b.add(k * pitch + v * $lanes)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let a = $splat(*a.add(k * $rows + row));
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum = $fma(a, b, *sum);
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        let c = c.add(row * stride + v * $lanes);
                        $store(c, if add { $add($load(c), *sum) } else { *sum });
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tile!(
    avx512,
    "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c",
    8,
    2,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps
);
#[cfg(target_arch = "x86_64")]
tile!(
    avx2,
    "avx2,fma,f16c",
    4,
    3,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_multiplies() {
        let inner = 37;
        for level in Level::available() {
            let [rows, columns] = size(level);
            let (pitch, stride) = (columns + 3, columns + 5);
            let a: Vec<f32> = (0..inner * rows).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..inner * pitch).map(|i| (i % 11) as f32 - 5.0).collect();
            let mut c = vec![1.0; rows * stride];
            for (add, base) in [(false, 0.0), (true, 1.0)] {
                c.fill(1.0);
                multiply(level, &a, (&b, pitch), (&mut c, stride), add);
                for row in 0..rows {
                    for column in 0..columns {
                        // Whole numbers below 2²⁴: exact in any order.
                        let sum: f32 = (0..inner).map(|k| a[k * rows + row] * b[k * pitch + column]).sum();
                        assert_eq!(c[row * stride + column], base + sum);
                    }
                    assert!(c[row * stride + columns..][..stride - columns].iter().all(|x| *x == 1.0));
                }
            }
        }
    }
}
