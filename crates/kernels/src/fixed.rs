//! A row of numbers in fixed point, and its dot products with packed rows in whole numbers.
//!
//! # Mathematics
//! The 32 numbers of a block are `x = f·(h + l·2⁻¹⁵)` with whole `h` and `l` of 15 bits and a power of two `f`, exact to 2⁻²⁹ of the
//! block's largest number. A packed block has the numbers `d·q + m` with whole `q`, so that its part of the dot product is
//! `d·f·(Σ q·h + 2⁻¹⁵·Σ q·l) + m·Σ x`. The two sums of products are exact, and only one rounding for each block follows: as exact as
//! f32, where a single product of 8 bits would be off by 2⁻⁸ of the largest number. A pair of 16-bit products is one instruction, so the
//! two sums take half the time of turning every `q` into f32.

use crate::formats::Format;
use crate::simd::{Level, vectorised};
use std::arch::x86_64::*;

/// Numbers of a block, here and in every format that is multiplied.
const BLOCK: usize = 32;

/// What one of a low part stands for.
const PART: f32 = 1.0 / 32_768.0; // 2⁻¹⁵

/// The block's largest number has this power of two once it is divided by the factor: fifteen bits with a sign are never exceeded.
const LARGEST: u32 = 13;

/// The exponents, as f32 stores them, of the largest numbers of blocks that are taken: factors and their products with those of packed
/// blocks are neither subnormal nor infinite.
const TAKEN: std::ops::Range<u32> = 64..191;

/// 32 numbers of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block {
    high: [i16; BLOCK],
    low: [i16; BLOCK],
    factor: f32,
    sum: f32,
}

/// The row in the order in which a format's numbers come out of its bytes. None where the format is not offered, or a block has a number
/// that is not finite or only numbers close to the ends of what f32 can hold.
pub(crate) fn blocks(level: Level, format: Format, x: &[f32]) -> Option<Vec<Block>> {
    let paired = match format {
        Format::Q4_0 | Format::Q4_1 => true,
        Format::Q8_0 => false,
        _ => return None,
    };
    let mut blocks = vec![Block { high: [0; BLOCK], low: [0; BLOCK], factor: 0.0, sum: 0.0 }; x.len() / BLOCK];
    let mut taken = true;
    split(level, x, paired, &mut blocks, &mut taken);
    taken.then_some(blocks)
}

vectorised! {
    /// Writes blocks, in pairs of bytes where `paired`, and whether all of them are taken.
    fn split(x: &[f32], paired: bool, out: &mut [Block], taken: &mut bool) = split_body
}

#[inline(always)]
fn split_body<const FMA: bool>(x: &[f32], paired: bool, out: &mut [Block], taken: &mut bool) {
    // Adding 1.5·2²³ rounds to whole numbers and leaves the whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LOW: f32 = 32_768.0; // 2¹⁵
    for (x, out) in x.as_chunks::<BLOCK>().0.iter().zip(out) {
        // As bits, sizes are in the order of the numbers, and what is not finite is the largest.
        let largest = x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7FFF_FFFF));
        let exponent = largest >> 23;
        if largest == 0 {
            *out = Block { high: [0; BLOCK], low: [0; BLOCK], factor: 0.0, sum: 0.0 };
            continue;
        }
        if !TAKEN.contains(&exponent) {
            *taken = false;
            return;
        }
        let power = f32::from_bits((LARGEST + 254 - exponent) << 23);
        let mut parts = [[0; BLOCK]; 2];
        let [high, low] = &mut parts;
        for ((x, high), low) in x.iter().zip(high).zip(low) {
            let exact = x * power;
            let shifted = exact + ROUND;
            *high = shifted.to_bits() as i16;
            *low = ((exact - (shifted - ROUND)) * LOW + ROUND).to_bits() as i16;
        }
        let mut sums = [0.0; 8];
        for eight in x.as_chunks::<8>().0 {
            sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x);
        }
        let [high, low] = if paired { [pairs(parts[0]), pairs(parts[1])] } else { parts };
        *out = Block { high, low, factor: f32::from_bits((exponent - LARGEST) << 23), sum: sums.iter().sum() };
    }
}

/// The order of numbers in pairs of bytes: the lower four bits of a byte are a number of the first half, the upper four one of the second.
#[inline(always)]
fn pairs(x: [i16; BLOCK]) -> [i16; BLOCK] {
    let mut out = [0; BLOCK];
    for (out, start) in out.as_chunks_mut::<8>().0.iter_mut().zip([0, 16, 1, 17]) {
        for (at, out) in out.iter_mut().enumerate() {
            *out = x[start + 2 * at];
        }
    }
    out
}

/// The dot products of packed rows with a row that [`blocks`] gave for the same format.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn avx2(format: Format, bytes: &[u8], x: &[Block], out: &mut [f32]) {
    match format {
        Format::Q4_0 => fours::<18>(bytes, x, out),
        Format::Q4_1 => fours::<20>(bytes, x, out),
        Format::Q8_0 => eights(bytes, x, out),
        _ => panic!("there are no whole numbers in {}", format.name()),
    }
}

/// The same with registers of twice the width.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")]
pub(crate) fn avx512(format: Format, bytes: &[u8], x: &[Block], out: &mut [f32]) {
    match format {
        Format::Q4_0 => wide_fours::<18>(bytes, x, out),
        Format::Q4_1 => wide_fours::<20>(bytes, x, out),
        Format::Q8_0 => wide_eights(bytes, x, out),
        _ => panic!("there are no whole numbers in {}", format.name()),
    }
}

/// Four rows of four bits at a time, each in a quarter of the registers.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")]
fn wide_fours<const BYTES: usize>(bytes: &[u8], x: &[Block], out: &mut [f32]) {
    let rows = bytes.as_chunks::<BYTES>().0;
    for (i, out) in out.chunks_mut(4).enumerate() {
        // Fewer rows at the end are filled up with the last of them.
        let row = |at: usize| &rows[(4 * i + at.min(out.len() - 1)) * x.len()..][..x.len()];
        let dots = four_rows([row(0), row(1), row(2), row(3)], x);
        out.copy_from_slice(&dots[..out.len()]);
    }
}

/// The dot products of four rows.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")]
fn four_rows<const BYTES: usize>(rows: [&[[u8; BYTES]]; 4], x: &[Block]) -> [f32; 4] {
    const { assert!(BYTES == 18 || BYTES == 20) };
    let four = _mm512_set1_epi16(15);
    let places = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    let mut sums = [_mm512_setzero_ps(); 2];
    let mut least = _mm256_setzero_ps();
    let [first, second, third, fourth] = rows.map(|row| &row[..x.len()]);
    for (at, x) in x.iter().enumerate() {
        let blocks = [&first[at], &second[at], &third[at], &fourth[at]];
        let [a, b, c, d] = blocks.map(|block| i32::from_le_bytes([block[0], block[1], block[2], block[3]]));
        // d and m of each row; without m, what stands in its place is not looked at.
        let factors = _mm256_cvtph_ps(_mm_setr_epi32(a, b, c, d));
        let d = _mm512_permutexvar_ps(places, _mm512_castps256_ps512(factors));
        let factor = _mm512_mul_ps(d, _mm512_set1_ps(x.factor));
        // SAFETY: the last sixteen bytes of each block are read.
        let [a, b, c, d] = blocks.map(|block| unsafe { _mm_loadu_si128(block.as_ptr().add(BYTES - 16).cast()) });
        let [low, high] = [[a, b], [c, d]].map(|[a, b]| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b));
        let bytes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        let mut numbers = [
            _mm512_and_si512(bytes, four),
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), four),
            _mm512_and_si512(_mm512_srli_epi16::<8>(bytes), four),
            _mm512_srli_epi16::<12>(bytes),
        ];
        if BYTES == 18 {
            for numbers in &mut numbers {
                *numbers = _mm512_sub_epi16(*numbers, _mm512_set1_epi16(8));
            }
        } else {
            least = _mm256_fmadd_ps(factors, _mm256_set1_ps(x.sum), least);
        }
        for (sum, x) in sums.iter_mut().zip([&x.high, &x.low]) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|part| {
                // SAFETY: eight of the 32 numbers are read.
                let x = unsafe { _mm_loadu_si128(x.as_ptr().add(8 * part).cast()) };
                _mm512_madd_epi16(numbers[part], _mm512_broadcast_i32x4(x))
            });
            let whole = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), factor, *sum);
        }
    }
    let [high, low] = sums;
    let sum = _mm512_fmadd_ps(low, _mm512_set1_ps(PART), high);
    let parts = [
        _mm512_castps512_ps128(sum),
        _mm512_extractf32x4_ps::<1>(sum),
        _mm512_extractf32x4_ps::<2>(sum),
        _mm512_extractf32x4_ps::<3>(sum),
    ];
    let mut dots = [0.0; 4];
    for (dot, part) in dots.iter_mut().zip(parts) {
        *dot = total(part);
    }
    if BYTES == 20 {
        let mut ends = [0.0; 8];
        // SAFETY: there is room for eight numbers.
        unsafe { _mm256_storeu_ps(ends.as_mut_ptr(), least) };
        for (dot, [_, least]) in dots.iter_mut().zip(ends.as_chunks::<2>().0) {
            *dot += least;
        }
    }
    dots
}

/// Rows of eight bits one by one, each block in one register.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")]
fn wide_eights(bytes: &[u8], x: &[Block], out: &mut [f32]) {
    for (row, out) in bytes.as_chunks::<34>().0.chunks_exact(x.len()).zip(out) {
        let mut sums = [_mm512_setzero_ps(); 2];
        for (block, x) in row.iter().zip(x) {
            let d = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(i16::from_le_bytes([block[0], block[1]]))));
            let factor = _mm512_mul_ps(_mm512_broadcastss_ps(d), _mm512_set1_ps(x.factor));
            // SAFETY: the block's last 32 bytes are read.
            let numbers = _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(block.as_ptr().add(2).cast()) });
            for (sum, x) in sums.iter_mut().zip([&x.high, &x.low]) {
                // SAFETY: all 32 numbers are read.
                let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_madd_epi16(numbers, x)), factor, *sum);
            }
        }
        let [high, low] = sums;
        *out = _mm512_reduce_add_ps(_mm512_fmadd_ps(low, _mm512_set1_ps(PART), high));
    }
}

/// Two rows of four bits at a time, each in a half of the registers.
#[target_feature(enable = "avx2,fma,f16c")]
fn fours<const BYTES: usize>(bytes: &[u8], x: &[Block], out: &mut [f32]) {
    let rows = bytes.as_chunks::<BYTES>().0;
    for (i, out) in out.chunks_mut(2).enumerate() {
        let row = |at: usize| &rows[at * x.len()..][..x.len()];
        // A last row without another is paired with itself.
        let [first, second] = pair(row(2 * i), row(2 * i + out.len() - 1), x);
        out[0] = first;
        if let Some(out) = out.get_mut(1) {
            *out = second;
        }
    }
}

/// The dot products of two rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn pair<const BYTES: usize>(first: &[[u8; BYTES]], second: &[[u8; BYTES]], x: &[Block]) -> [f32; 2] {
    const { assert!(BYTES == 18 || BYTES == 20) };
    let four = _mm256_set1_epi16(15);
    let mut sums = [_mm256_setzero_ps(); 2];
    let mut least = _mm_setzero_ps();
    for ((first, second), x) in first.iter().zip(second).zip(x) {
        let ends = [first, second].map(|block| i32::from_le_bytes([block[0], block[1], block[2], block[3]]));
        // d and m of the first row, then of the second; without m, what stands in its place is not looked at.
        let factors = _mm_cvtph_ps(_mm_unpacklo_epi32(_mm_cvtsi32_si128(ends[0]), _mm_cvtsi32_si128(ends[1])));
        let places = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
        let d = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(factors), places);
        let factor = _mm256_mul_ps(d, _mm256_set1_ps(x.factor));
        // SAFETY: the last sixteen bytes of each block are read.
        let bytes = unsafe {
            let [first, second] = [first, second].map(|block| block.as_ptr().add(BYTES - 16).cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(_mm_loadu_si128(first)), _mm_loadu_si128(second))
        };
        let mut numbers = [
            _mm256_and_si256(bytes, four),
            _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), four),
            _mm256_and_si256(_mm256_srli_epi16::<8>(bytes), four),
            _mm256_srli_epi16::<12>(bytes),
        ];
        if BYTES == 18 {
            for numbers in &mut numbers {
                *numbers = _mm256_sub_epi16(*numbers, _mm256_set1_epi16(8));
            }
        } else {
            least = _mm_fmadd_ps(factors, _mm_set1_ps(x.sum), least);
        }
        for (sum, x) in sums.iter_mut().zip([&x.high, &x.low]) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|part| {
                // SAFETY: eight of the 32 numbers are read.
                let x = unsafe { _mm_loadu_si128(x.as_ptr().add(8 * part).cast()) };
                _mm256_madd_epi16(numbers[part], _mm256_broadcastsi128_si256(x))
            });
            let whole = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
            *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), factor, *sum);
        }
    }
    let sum = joined(sums);
    let halves = [_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum)];
    let least = [_mm_cvtss_f32(_mm_movehdup_ps(least)), _mm_cvtss_f32(_mm_shuffle_ps::<3>(least, least))];
    let [first, second] = halves.map(|half| total(half));
    if BYTES == 18 { [first, second] } else { [first + least[0], second + least[1]] }
}

/// Rows of eight bits one by one.
#[target_feature(enable = "avx2,fma,f16c")]
fn eights(bytes: &[u8], x: &[Block], out: &mut [f32]) {
    for (row, out) in bytes.as_chunks::<34>().0.chunks_exact(x.len()).zip(out) {
        let mut sums = [_mm256_setzero_ps(); 2];
        for (block, x) in row.iter().zip(x) {
            let d = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(i16::from_le_bytes([block[0], block[1]]))));
            let factor = _mm256_mul_ps(_mm256_broadcastss_ps(d), _mm256_set1_ps(x.factor));
            let numbers = [2, 18].map(|at| {
                // SAFETY: half of the block's last 32 bytes is read.
                _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(block.as_ptr().add(at).cast()) })
            });
            for (sum, x) in sums.iter_mut().zip([&x.high, &x.low]) {
                let [a, b] = [0, 1].map(|part| {
                    // SAFETY: sixteen of the 32 numbers are read.
                    let x = unsafe { _mm256_loadu_si256(x.as_ptr().add(16 * part).cast()) };
                    _mm256_madd_epi16(numbers[part], x)
                });
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(a, b)), factor, *sum);
            }
        }
        let sum = joined(sums);
        *out = total(_mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum)));
    }
}

/// The sums of high and of low parts as one.
#[target_feature(enable = "avx2,fma,f16c")]
fn joined([high, low]: [__m256; 2]) -> __m256 {
    _mm256_fmadd_ps(low, _mm256_set1_ps(PART), high)
}

/// The sum of four numbers.
#[target_feature(enable = "avx2,fma,f16c")]
fn total(four: __m128) -> f32 {
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [Format; 3] = [Format::Q4_0, Format::Q4_1, Format::Q8_0];

    /// The numbers that a block stands for.
    fn numbers(block: &Block) -> [f64; BLOCK] {
        let number = |at: usize| {
            f64::from(block.factor) * (f64::from(block.high[at]) + f64::from(block.low[at]) * 0.5f64.powi(15))
        };
        std::array::from_fn(number)
    }

    #[test]
    fn numbers_in_fixed_point_are_exact_to_a_small_part_of_the_largest() {
        let x: Vec<f32> = (0..8 * BLOCK).map(|i| ((i * 37 % 101) as f32 - 50.3) * 1.7f32.powi(i as i32 % 29)).collect();
        for level in Level::available() {
            for (x, block) in x.chunks(BLOCK).zip(blocks(level, Format::Q8_0, &x).unwrap()) {
                let most = x.iter().fold(0.0, |most: f64, x| most.max(f64::from(x.abs())));
                for (x, got) in x.iter().zip(numbers(&block)) {
                    assert!((f64::from(*x) - got).abs() <= most * 0.5f64.powi(29), "{x} and {got} at {level:?}");
                }
            }
        }
    }

    #[test]
    fn a_largest_number_that_rounds_up_is_not_turned_around() {
        let x = [f32::from_bits(0x3FFF_FFFF), -f32::from_bits(0x3FFF_FFFF)].repeat(BLOCK / 2);
        for level in Level::available() {
            let got = numbers(&blocks(level, Format::Q8_0, &x).unwrap()[0]);
            assert!(x.iter().zip(got).all(|(x, got)| f64::from(*x) == got), "{got:?}");
        }
    }

    #[test]
    fn the_order_of_four_bits_is_that_of_the_bytes() {
        let x: Vec<f32> = (0..BLOCK).map(|i| i as f32).collect();
        for level in Level::available() {
            let got = numbers(&blocks(level, Format::Q4_1, &x).unwrap()[0]);
            for (at, got) in got.iter().enumerate() {
                // Four bits of a word of two bytes: lower and upper of the first, lower and upper of the second.
                let byte = at % 8 * 2 + at / 16;
                assert_eq!(*got, (byte + at / 8 % 2 * 16) as f64);
            }
        }
    }

    #[test]
    fn blocks_out_of_range_are_left_to_f32_and_zeros_are_not() {
        for level in Level::available() {
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-30, f32::MIN_POSITIVE / 2.0] {
                let mut x = [0.0; 3 * BLOCK];
                assert!(blocks(level, Format::Q4_0, &x).is_some());
                x[BLOCK + 3] = odd;
                assert!(FORMATS.iter().all(|&format| blocks(level, format, &x).is_none()), "{odd} {level:?}");
            }
        }
    }
}
