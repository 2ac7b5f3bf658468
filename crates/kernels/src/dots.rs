//! Dot products of packed rows with a few rows of numbers.
//!
//! A matrix that is read once for a single row of numbers takes its time in unpacking. The formats of most files go from bytes to
//! products without leaving the registers, in f32 or as whole numbers; the others are unpacked a segment at a time.

#[cfg(target_arch = "x86_64")]
use crate::fixed;
use crate::formats::{Format, unpacked_dots};
#[cfg(target_arch = "x86_64")]
use crate::simd::Kind;
use crate::simd::Level;

/// A few rows of numbers that packed rows are multiplied with.
pub(crate) struct Few<'a> {
    x: &'a [f32],
    width: usize,
    /// A single row in fixed point, where that is faster.
    #[cfg(target_arch = "x86_64")]
    fixed: Option<Vec<fixed::Block>>,
}

impl<'a> Few<'a> {
    /// The rows of `x`, `width` numbers each, for products with rows packed in this format at this level.
    ///
    /// A single row is put in fixed point where there are instructions for it. Several share what is unpacked: no gain there.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(crate) fn new(level: Level, format: Format, width: usize, x: &'a [f32]) -> Self {
        Self {
            x,
            width,
            #[cfg(target_arch = "x86_64")]
            fixed: (level.kind() > Kind::Portable && x.len() == width)
                .then(|| fixed::blocks(level, format, x))
                .flatten(),
        }
    }
}

/// The dot products of packed rows with the rows of `few`, made for this level and format: `out` `[rows, rows of few]`.
pub(crate) fn dots(level: Level, format: Format, bytes: &[u8], few: &Few<'_>, out: &mut [f32]) {
    let Few { x, width, .. } = *few;
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: a `Level` of a kind exists only where the processor has all its features.
        let done = unsafe {
            match (level.kind(), &few.fixed) {
                (Kind::Portable, _) => false,
                (Kind::Avx2, Some(x)) => {
                    fixed::avx2(format, bytes, x, out);
                    true
                }
                (Kind::Avx512, Some(x)) => {
                    fixed::avx512(format, bytes, x, out);
                    true
                }
                (Kind::Avx2, None) => x86::avx2(format, bytes, width, x, out),
                (Kind::Avx512, None) => x86::avx512(format, bytes, width, x, out),
            }
        };
        if done {
            return;
        }
    }
    unpacked_dots(level, format, bytes, width, x, out);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::formats::Format;
    use std::arch::x86_64::*;

    /// Numbers of a block of every format here.
    const BLOCK: usize = 32;

    /// A register of f32 numbers.
    ///
    /// # Safety
    /// Of every function here: the processor must have the register's instructions.
    trait Vector: Copy {
        /// Numbers it holds.
        const WIDTH: usize;
        unsafe fn zero() -> Self;
        /// Reads [`Self::WIDTH`] numbers, which must exist.
        unsafe fn load(from: *const f32) -> Self;
        /// `a·b + self`.
        unsafe fn plus(self, a: Self, b: Self) -> Self;
        /// The sum of two.
        unsafe fn and(self, other: Self) -> Self;
        /// The sum of its numbers.
        unsafe fn total(self) -> f32;
    }

    /// The blocks of a format, `BYTES` each, in registers.
    trait Blocks<V, const BYTES: usize, const PARTS: usize> {
        /// The numbers of a block, rounded as `unpack` does.
        ///
        /// # Safety
        /// The processor must have the register's instructions.
        unsafe fn numbers(block: &[u8; BYTES]) -> [V; PARTS];
    }

    impl Vector for __m512 {
        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn plus(self, a: Self, b: Self) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        unsafe fn and(self, other: Self) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn total(self) -> f32 {
            // SAFETY: by the caller's promise.
            unsafe { _mm512_reduce_add_ps(self) }
        }
    }

    impl Vector for __m256 {
        const WIDTH: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn plus(self, a: Self, b: Self) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        unsafe fn and(self, other: Self) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn total(self) -> f32 {
            // SAFETY: by the caller's promise.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
    }

    /// The f16 number at a place of a block, as the first of four.
    ///
    /// # Safety
    /// The processor must have F16C.
    #[inline(always)]
    unsafe fn factor<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> __m128 {
        let bits = i32::from(i16::from_le_bytes([block[at], block[at + 1]]));
        // SAFETY: by the caller's promise.
        unsafe { _mm_cvtph_ps(_mm_cvtsi32_si128(bits)) }
    }

    /// The sixteen numbers that four bits can mean: `d·q + least` or, without a least number, `d·(q − 8)`.
    ///
    /// # Safety
    /// The processor must have AVX-512.
    #[inline(always)]
    unsafe fn table(d: __m128, least: Option<__m128>) -> __m512 {
        // SAFETY: by the caller's promise.
        unsafe {
            let d = _mm512_broadcastss_ps(d);
            let steps =
                _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
            match least {
                Some(least) => _mm512_add_ps(_mm512_mul_ps(d, steps), _mm512_broadcastss_ps(least)),
                None => _mm512_mul_ps(d, _mm512_sub_ps(steps, _mm512_set1_ps(8.0))),
            }
        }
    }

    /// Looks up the lower, then the upper four bits of sixteen bytes. The table looks at four bits only, so none are cut off.
    ///
    /// # Safety
    /// The processor must have AVX-512 and the sixteen bytes exist.
    #[inline(always)]
    unsafe fn look_up(table: __m512, bytes: *const u8) -> [__m512; 2] {
        // SAFETY: by the caller's promise.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast()));
            [_mm512_permutexvar_ps(bytes, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), table)]
        }
    }

    /// The lower, then the upper four bits of sixteen bytes, as bytes.
    ///
    /// # Safety
    /// The processor must have AVX2 and the sixteen bytes exist.
    #[inline(always)]
    unsafe fn four(bytes: *const u8) -> [__m128i; 2] {
        // SAFETY: by the caller's promise.
        unsafe {
            let (bytes, low) = (_mm_loadu_si128(bytes.cast()), _mm_set1_epi8(15));
            [_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16::<4>(bytes), low)]
        }
    }

    /// `d·q` for twice sixteen signed bytes.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[inline(always)]
    unsafe fn scaled(d: __m128, low: __m128i, high: __m128i) -> [__m256; 4] {
        // SAFETY: by the caller's promise.
        unsafe {
            let (d, [a, b], [c, e]) = (_mm256_broadcastss_ps(d), signed(low), signed(high));
            [_mm256_mul_ps(d, a), _mm256_mul_ps(d, b), _mm256_mul_ps(d, c), _mm256_mul_ps(d, e)]
        }
    }

    /// Sixteen signed bytes as numbers.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[inline(always)]
    unsafe fn signed(bytes: __m128i) -> [__m256; 2] {
        // SAFETY: by the caller's promise.
        unsafe {
            let upper = _mm_unpackhi_epi64(bytes, bytes);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper))]
        }
    }

    struct Q4_0;
    struct Q4_1;
    struct Q8_0;

    impl Blocks<__m512, 18, 2> for Q4_0 {
        #[inline(always)]
        unsafe fn numbers(block: &[u8; 18]) -> [__m512; 2] {
            // SAFETY: by the caller's promise; the last sixteen bytes are read.
            unsafe { look_up(table(factor(block, 0), None), block.as_ptr().add(2)) }
        }
    }

    impl Blocks<__m256, 18, 4> for Q4_0 {
        #[inline(always)]
        unsafe fn numbers(block: &[u8; 18]) -> [__m256; 4] {
            // SAFETY: by the caller's promise; the last sixteen bytes are read.
            unsafe {
                let ([low, high], half) = (four(block.as_ptr().add(2)), _mm_set1_epi8(8));
                scaled(factor(block, 0), _mm_sub_epi8(low, half), _mm_sub_epi8(high, half))
            }
        }
    }

    impl Blocks<__m512, 20, 2> for Q4_1 {
        #[inline(always)]
        unsafe fn numbers(block: &[u8; 20]) -> [__m512; 2] {
            // SAFETY: by the caller's promise; the last sixteen bytes are read.
            unsafe { look_up(table(factor(block, 0), Some(factor(block, 2))), block.as_ptr().add(4)) }
        }
    }

    impl Blocks<__m256, 20, 4> for Q4_1 {
        #[inline(always)]
        unsafe fn numbers(block: &[u8; 20]) -> [__m256; 4] {
            // SAFETY: by the caller's promise; the last sixteen bytes are read.
            unsafe {
                let ([low, high], least) = (four(block.as_ptr().add(4)), _mm256_broadcastss_ps(factor(block, 2)));
                let [a, b, c, d] = scaled(factor(block, 0), low, high);
                let [a, b] = [_mm256_add_ps(a, least), _mm256_add_ps(b, least)];
                [a, b, _mm256_add_ps(c, least), _mm256_add_ps(d, least)]
            }
        }
    }

    impl Blocks<__m512, 34, 2> for Q8_0 {
        #[inline(always)]
        unsafe fn numbers(block: &[u8; 34]) -> [__m512; 2] {
            // SAFETY: by the caller's promise; the last 32 bytes are read.
            unsafe {
                let d = _mm512_broadcastss_ps(factor(block, 0));
                let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.as_ptr().add(2).cast()));
                let high = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.as_ptr().add(18).cast()));
                [_mm512_mul_ps(d, _mm512_cvtepi32_ps(low)), _mm512_mul_ps(d, _mm512_cvtepi32_ps(high))]
            }
        }
    }

    impl Blocks<__m256, 34, 4> for Q8_0 {
        #[inline(always)]
        unsafe fn numbers(block: &[u8; 34]) -> [__m256; 4] {
            // SAFETY: by the caller's promise; the last 32 bytes are read.
            unsafe {
                let low = _mm_loadu_si128(block.as_ptr().add(2).cast());
                scaled(factor(block, 0), low, _mm_loadu_si128(block.as_ptr().add(18).cast()))
            }
        }
    }

    /// All dot products with `FEW` rows of `x`. There are two sums of each product at least, and so many rows of the matrix at once that
    /// sums seldom wait for each other while all of them, and a block, stay in registers.
    macro_rules! all {
        ($vector:ty, $format:ty, $parts:literal, [$(($few:literal, $rows:literal, $sums:literal)),+], $bytes:ident, $width:ident, $x:ident, $out:ident) => {
            match $x.len() / $width {
                // SAFETY: by the caller's promise.
                $($few => unsafe { tiles::<$vector, $format, _, $parts, $rows, $few, $sums>($bytes, $width, $x, $out) },)+
                few => panic!("at most four rows of numbers, not {few}"),
            }
        };
    }

    /// Rows of the matrix `ROWS` at a time, and the rest one by one.
    ///
    /// # Safety
    /// The processor must have the register's instructions.
    #[inline(always)]
    unsafe fn tiles<
        V,
        B,
        const BYTES: usize,
        const PARTS: usize,
        const ROWS: usize,
        const FEW: usize,
        const SUMS: usize,
    >(
        bytes: &[u8],
        width: usize,
        x: &[f32],
        out: &mut [f32],
    ) where
        V: Vector,
        B: Blocks<V, BYTES, PARTS>,
    {
        let (blocks, count) = (bytes.as_chunks::<BYTES>().0, width / BLOCK);
        let x: [&[[f32; BLOCK]]; FEW] = std::array::from_fn(|i| x[i * width..][..width].as_chunks().0);
        let (tiles, rest) = out.as_chunks_mut::<FEW>().0.as_chunks_mut::<ROWS>();
        let done = tiles.len() * ROWS;
        for (i, out) in tiles.iter_mut().enumerate() {
            // SAFETY: by the caller's promise.
            *out = unsafe { tile::<V, B, BYTES, PARTS, ROWS, FEW, SUMS>(&blocks[i * ROWS * count..], count, x) };
        }
        for (i, out) in rest.iter_mut().enumerate() {
            // SAFETY: by the caller's promise.
            [*out] = unsafe { tile::<V, B, BYTES, PARTS, 1, FEW, SUMS>(&blocks[(done + i) * count..], count, x) };
        }
    }

    /// The dot products of `ROWS` rows of `count` blocks.
    ///
    /// # Safety
    /// The processor must have the register's instructions.
    #[inline(always)]
    unsafe fn tile<
        V,
        B,
        const BYTES: usize,
        const PARTS: usize,
        const ROWS: usize,
        const FEW: usize,
        const SUMS: usize,
    >(
        blocks: &[[u8; BYTES]],
        count: usize,
        x: [&[[f32; BLOCK]]; FEW],
    ) -> [[f32; FEW]; ROWS]
    where
        V: Vector,
        B: Blocks<V, BYTES, PARTS>,
    {
        const { assert!(PARTS * V::WIDTH == BLOCK && PARTS.is_multiple_of(SUMS)) };
        let rows: [&[[u8; BYTES]]; ROWS] = std::array::from_fn(|i| &blocks[i * count..][..count]);
        let x = x.map(|x| &x[..count]);
        // SAFETY: by the caller's promise; the parts of a block of `x` lie within it.
        unsafe {
            // No closures with vectors here: one that is not inlined would be compiled without the instructions.
            let mut sums = [[[V::zero(); SUMS]; FEW]; ROWS];
            for at in 0..count {
                for row in 0..ROWS {
                    let numbers = B::numbers(&rows[row][at]);
                    for few in 0..FEW {
                        let x = x[few][at].as_ptr();
                        for part in 0..PARTS {
                            let sum = &mut sums[row][few][part % SUMS];
                            *sum = sum.plus(numbers[part], V::load(x.add(part * V::WIDTH)));
                        }
                    }
                }
            }
            let mut totals = [[0.0; FEW]; ROWS];
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sums) in totals.iter_mut().zip(sums) {
                    let mut sum = sums[0];
                    for other in &sums[1..] {
                        sum = sum.and(*other);
                    }
                    *total = sum.total();
                }
            }
            totals
        }
    }

    /// Whether the format is one of these; then all of `out` is written.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")]
    pub(super) fn avx512(format: Format, bytes: &[u8], width: usize, x: &[f32], out: &mut [f32]) -> bool {
        match format {
            Format::Q4_0 => all!(__m512, Q4_0, 2, [(1, 4, 2), (2, 2, 2), (3, 1, 2), (4, 1, 2)], bytes, width, x, out),
            Format::Q4_1 => all!(__m512, Q4_1, 2, [(1, 4, 2), (2, 2, 2), (3, 1, 2), (4, 1, 2)], bytes, width, x, out),
            Format::Q8_0 => all!(__m512, Q8_0, 2, [(1, 4, 2), (2, 2, 2), (3, 1, 2), (4, 1, 2)], bytes, width, x, out),
            _ => return false,
        }
        true
    }

    /// Whether the format is one of these; then all of `out` is written.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2(format: Format, bytes: &[u8], width: usize, x: &[f32], out: &mut [f32]) -> bool {
        match format {
            Format::Q4_0 => all!(__m256, Q4_0, 4, [(1, 1, 4), (2, 1, 4), (3, 1, 2), (4, 1, 2)], bytes, width, x, out),
            Format::Q4_1 => all!(__m256, Q4_1, 4, [(1, 1, 4), (2, 1, 4), (3, 1, 2), (4, 1, 2)], bytes, width, x, out),
            Format::Q8_0 => all!(__m256, Q8_0, 4, [(1, 1, 4), (2, 1, 4), (3, 1, 2), (4, 1, 2)], bytes, width, x, out),
            _ => return false,
        }
        true
    }
}
