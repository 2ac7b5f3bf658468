//! The packed number formats of GGUF files, and how their blocks are unpacked.
//!
//! Unpacking rounds as the `gguf` package does, operation by operation: no fused multiply-add here.

use crate::simd::{LANES, mul_add, total, vectorised};
use std::hint::black_box;

/// How numbers are stored: blocks of a row, as GGUF files have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 16-bit IEEE floats.
    F16,
    /// The upper halves of f32; subnormal ones are read as zero.
    Bf16,
    /// 4 bits and a factor for 32 numbers.
    Q4_0,
    /// 4 bits, a factor and a least number for 32 numbers.
    Q4_1,
    /// 5 bits and a factor for 32 numbers.
    Q5_0,
    /// 5 bits, a factor and a least number for 32 numbers.
    Q5_1,
    /// 8 bits and a factor for 32 numbers.
    Q8_0,
    /// 2 bits, with 4-bit factors and least numbers for 16 of 256 numbers.
    Q2K,
    /// 3 bits, with 6-bit factors for 16 of 256 numbers.
    Q3K,
    /// 4 bits, with 6-bit factors and least numbers for 32 of 256 numbers.
    Q4K,
    /// 5 bits, with 6-bit factors and least numbers for 32 of 256 numbers.
    Q5K,
    /// 6 bits, with 8-bit factors for 16 of 256 numbers.
    Q6K,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 12] = [
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The format of a GGML type number; none for f32 and for formats not offered.
    pub fn from_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// GGML's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Numbers in a block; a row is a whole number of blocks.
    pub fn block(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// Numbers of a row that [`unpacked_dots`] unpacks at a time: a multiple of every block that stays in the first-level cache.
pub(crate) const SEGMENT: usize = 1024;

vectorised! {
    /// Unpacks the same columns of several rows: the bytes of each start `stride` bytes after those of the row before, and
    /// give `width` numbers of `out`.
    fn unpack(format: Format, bytes: &[u8], stride: usize, width: usize, out: &mut [f32]) = unpack_body
}
vectorised! {
    /// [`dots`](crate::dots::dots) of any format, by way of unpacked numbers.
    fn unpacked_dots(format: Format, bytes: &[u8], width: usize, x: &[f32], out: &mut [f32]) = dots_body
}

#[inline(always)]
fn unpack_body<const FMA: bool>(format: Format, bytes: &[u8], stride: usize, width: usize, out: &mut [f32]) {
    let used = width / format.block() * format.bytes();
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        unpack_row::<FMA>(format, &bytes[row * stride..][..used], out);
    }
}

#[inline(always)]
fn dots_body<const FMA: bool>(format: Format, bytes: &[u8], width: usize, x: &[f32], out: &mut [f32]) {
    let stride = width / format.block() * format.bytes();
    let segment_bytes = SEGMENT / format.block() * format.bytes();
    let mut scratch = [0.0; SEGMENT];
    for (packed, sums) in bytes.chunks_exact(stride).zip(out.chunks_exact_mut(x.len() / width)) {
        sums.fill(0.0);
        for (i, packed) in packed.chunks(segment_bytes).enumerate() {
            let numbers = &mut scratch[..packed.len() / format.bytes() * format.block()];
            unpack_row::<FMA>(format, packed, numbers);
            for (x, sum) in x.chunks_exact(width).zip(sums.iter_mut()) {
                let x = &x[i * SEGMENT..][..numbers.len()];
                *sum += dot::<FMA>(numbers, x);
            }
        }
    }
}

/// `Σ a·b`.
#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] = mul_add::<FMA>(a[i], b[i], sums[i]);
        }
    }
    for ((a, b), sum) in a_rest.iter().zip(b_rest).zip(&mut sums) {
        *sum = mul_add::<FMA>(*a, *b, *sum);
    }
    total(sums)
}

/// Unpacks whole blocks.
#[inline(always)]
fn unpack_row<const FMA: bool>(format: Format, bytes: &[u8], out: &mut [f32]) {
    // Not a function that takes another: the inner one might not be inlined, and would then be compiled without vectors.
    macro_rules! blocks {
        ($unpack:ident) => {
            for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                // Hidden from the compiler, which otherwise makes vectors of one number from each of several blocks.
                $unpack(black_box(block), out);
            }
        };
    }
    match format {
        Format::F16 => f16::<FMA>(bytes, out),
        Format::Bf16 => bf16(bytes, out),
        Format::Q4_0 => blocks!(q4_0),
        Format::Q4_1 => blocks!(q4_1),
        Format::Q5_0 => blocks!(q5_0),
        Format::Q5_1 => blocks!(q5_1),
        Format::Q8_0 => blocks!(q8_0),
        Format::Q2K => blocks!(q2k),
        Format::Q3K => blocks!(q3k),
        Format::Q4K => blocks!(q4k),
        Format::Q5K => blocks!(q5k),
        Format::Q6K => blocks!(q6k),
    }
}

#[inline(always)]
fn f16<const FMA: bool>(bytes: &[u8], out: &mut [f32]) {
    let ((eights, rest), (out, out_rest)) = (bytes.as_chunks::<16>(), out.as_chunks_mut::<8>());
    for (bytes, out) in eights.iter().zip(out) {
        *out = halves::<FMA>(bytes);
    }
    for (pair, out) in rest.as_chunks::<2>().0.iter().zip(out_rest) {
        *out = half(pair);
    }
}

#[inline(always)]
fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (pair, out) in bytes.as_chunks().0.iter().zip(out) {
        let x = u32::from(u16::from_le_bytes(*pair)) << 16;
        *out = f32::from_bits(if x & 0x7F80_0000 == 0 { x & 0x8000_0000 } else { x });
    }
}

/// Eight 16-bit floats, in one instruction where there is one.
#[inline(always)]
fn halves<const FMA: bool>(bytes: &[u8; 16]) -> [f32; 8] {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut out = [0.0; 8];
        // SAFETY: on this architecture only `vectorised!` sets FMA, and only for processors that have F16C; 16 bytes are read
        // and 32 written, at any address.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast()))) };
        return out;
    }
    std::array::from_fn(|i| half(&bytes[2 * i..]))
}

/// A 16-bit float without branches; a subnormal one is put together as a difference of normal numbers.
#[inline(always)]
fn half(bytes: &[u8]) -> f32 {
    const LEAST: u32 = 113 << 23; // 2⁻¹⁴
    let bits = u32::from(bytes[0]) | u32::from(bytes[1]) << 8;
    let (sign, shifted) = ((bits & 0x8000) << 16, (bits & 0x7FFF) << 13);
    let size = match bits & 0x7C00 {
        0 => (f32::from_bits(LEAST | shifted) - f32::from_bits(LEAST)).to_bits(),
        0x7C00 => shifted | 0x7F80_0000,
        _ => shifted + (112 << 23),
    };
    f32::from_bits(size | sign)
}

/// Part of a block's bytes as an array, whose loops the compiler turns into vectors; arrays of more than 16 in part only, which made
/// some formats half as fast.
#[inline(always)]
fn part<const N: usize>(block: &[u8], start: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&block[start..start + N]);
    part
}

/// `d·number + least`, rounded after each of the two.
#[inline(always)]
fn scale<const N: usize>(numbers: [i8; N], d: f32, least: f32, out: &mut [f32]) {
    for (out, q) in out[..N].iter_mut().zip(numbers) {
        *out = d * f32::from(q) + least;
    }
}

/// [`scale`] where the least number is zero, and the sign of zero kept.
#[inline(always)]
fn scale_only<const N: usize>(numbers: [i8; N], d: f32, out: &mut [f32]) {
    for (out, q) in out[..N].iter_mut().zip(numbers) {
        *out = d * f32::from(q);
    }
}

/// The lower and the upper four bits.
#[inline(always)]
fn four<const N: usize>(packed: [u8; N]) -> [[i8; N]; 2] {
    [packed.map(|q| (q & 15) as i8), packed.map(|q| (q >> 4) as i8)]
}

/// The lower and the upper four bits with a fifth from the bits of `high`, in the same order.
#[inline(always)]
fn five(packed: [u8; 16], high: [u8; 4]) -> [[i8; 16]; 2] {
    let mut fifth = [0; 32];
    for (bits, fifth) in high.into_iter().zip(fifth.as_chunks_mut().0) {
        *fifth = sixteens(bits);
    }
    // Hidden from the compiler, which otherwise takes the four numbers apart again.
    let fifth = black_box(fifth);
    let [mut low, mut upper] = four(packed);
    for i in 0..16 {
        low[i] |= fifth[i] as i8;
        upper[i] |= fifth[16 + i] as i8;
    }
    [low, upper]
}

/// 16 for each bit that is set, lowest first, and 0 for the others.
#[inline(always)]
fn sixteens(bits: u8) -> [u8; 8] {
    // Each byte keeps one bit; adding 127 carries it to the byte's highest, never into the next byte.
    let bits = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    ((bits + 0x7F7F_7F7F_7F7F_7F7F) >> 3 & 0x1010_1010_1010_1010).to_le_bytes()
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let (d, [low, high]) = (half(block), four(part::<16>(block, 2)));
    scale_only(low.map(|q| q - 8), d, out);
    scale_only(high.map(|q| q - 8), d, &mut out[16..]);
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, least, [low, high]) = (half(block), half(&block[2..]), four(part::<16>(block, 4)));
    scale(low, d, least, out);
    scale(high, d, least, &mut out[16..]);
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, [low, high]) = (half(block), five(part(block, 6), part(block, 2)));
    scale_only(low.map(|q| q - 16), d, out);
    scale_only(high.map(|q| q - 16), d, &mut out[16..]);
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, least, [low, high]) = (half(block), half(&block[2..]), five(part(block, 8), part(block, 4)));
    scale(low, d, least, out);
    scale(high, d, least, &mut out[16..]);
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block);
    for at in [0, 16] {
        scale_only(part::<16>(block, 2 + at).map(|q| q as i8), d, &mut out[at..]);
    }
}

#[inline(always)]
fn q2k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, least, parts) = (half(&block[80..]), half(&block[82..]), part::<16>(block, 0));
    for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let numbers = two(block, 16, k).map(|q| q as i8);
        scale(numbers, d * f32::from(parts[k] & 15), -(least * f32::from(parts[k] >> 4)), out);
    }
}

#[inline(always)]
fn q3k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (d, parts) = (half(&block[108..]), part::<12>(block, 96));
    for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (low, high) = (parts[k % 8] >> (k / 8 * 4) & 15, parts[8 + k % 4] >> (k / 4 * 2) & 3);
        let (lower, third) = (two(block, 32, k), part::<16>(block, k % 2 * 16));
        let mut numbers = [0; 16];
        for i in 0..16 {
            // A number without its third bit is four less.
            numbers[i] = (lower[i] | (third[i] >> (k / 2) & 1) << 2) as i8 - 4;
        }
        scale_only(numbers, d * f32::from((low | high << 4) as i8 - 32), out);
    }
}

/// The lower two bits of part `k` of sixteen numbers; 128 numbers share 32 bytes, the first of which is at `start`.
#[inline(always)]
fn two(block: &[u8], start: usize, k: usize) -> [u8; 16] {
    part::<16>(block, start + k / 8 * 32 + k % 2 * 16).map(|q| q >> (k % 8 / 2 * 2) & 3)
}

/// Factor and least number of the eight parts of a block; twelve bytes hold six bits of each.
#[inline(always)]
fn six(block: &[u8]) -> [(f32, f32); 8] {
    let (d, least, packed) = (half(block), half(&block[2..]), part::<12>(block, 4));
    let mut parts = [(0.0, 0.0); 8];
    for j in 0..4 {
        let [first, second, both] = [packed[j], packed[j + 4], packed[j + 8]];
        parts[j] = (d * f32::from(first & 63), least * f32::from(second & 63));
        let (first, second) = (both & 15 | first >> 6 << 4, both >> 4 | second >> 6 << 4);
        parts[j + 4] = (d * f32::from(first), least * f32::from(second));
    }
    parts
}

#[inline(always)]
fn q4k(block: &[u8; 144], out: &mut [f32; 256]) {
    let parts = six(block);
    for (j, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let [(d, least), (next_d, next_least)] = [parts[2 * j], parts[2 * j + 1]];
        for at in [0, 16] {
            let [low, high] = four(part::<16>(block, 16 + 32 * j + at));
            scale(low, d, -least, &mut out[at..]);
            scale(high, next_d, -next_least, &mut out[32 + at..]);
        }
    }
}

#[inline(always)]
fn q5k(block: &[u8; 176], out: &mut [f32; 256]) {
    let parts = six(block);
    for (j, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let [(d, least), (next_d, next_least)] = [parts[2 * j], parts[2 * j + 1]];
        for at in [0, 16] {
            let ([mut low, mut high], fifth) = (four(part::<16>(block, 48 + 32 * j + at)), part::<16>(block, 16 + at));
            for i in 0..16 {
                low[i] |= (fifth[i] >> (2 * j) << 4 & 16) as i8;
                high[i] |= (fifth[i] >> (2 * j + 1) << 4 & 16) as i8;
            }
            scale(low, d, -least, &mut out[at..]);
            scale(high, next_d, -next_least, &mut out[32 + at..]);
        }
    }
}

#[inline(always)]
fn q6k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (d, scales) = (half(&block[208..]), part::<16>(block, 192).map(|scale| f32::from(scale as i8)));
    for (j, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        // 128 numbers share 32 bytes of upper bits; their lower bits are the lower, then the upper halves of 64 bytes.
        let (side, quarter) = (j / 2, j % 2);
        let low = part::<64>(block, 64 * side).map(|q| q >> (4 * quarter) & 15);
        let high = part::<32>(block, 128 + 32 * side);
        for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut numbers = [0; 16];
            for (i, q) in numbers.iter_mut().enumerate() {
                let upper = high[k % 2 * 16 + i] >> (4 * quarter + k / 2 * 2) & 3;
                *q = (low[16 * k + i] | upper << 4) as i8 - 32;
            }
            scale_only(numbers, d * scales[4 * j + k], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dots::{Few, dots};
    use crate::simd::Level;

    /// Bytes that are finite numbers in every format: no byte is 0x7C or more, so that no factor is infinite.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * i * 31 + i * 7 + i / 5) as u8 % 0x7C).collect()
    }

    #[test]
    fn every_level_unpacks_the_same_numbers() {
        for format in Format::ALL {
            let (width, rows) = (768, 3);
            let stride = width / format.block() * format.bytes();
            let bytes = bytes(rows * stride);
            let mut wanted = vec![0.0; rows * width];
            for (bytes, out) in bytes.chunks(stride).zip(wanted.chunks_mut(width)) {
                unpack_row::<false>(format, bytes, out);
            }
            assert!(wanted.iter().all(|x| x.is_finite() && !x.is_subnormal()), "{format:?}");
            assert!(wanted.iter().any(|x| *x != 0.0));
            for level in Level::available() {
                let mut out = vec![f32::NAN; rows * width];
                unpack(level, format, &bytes, stride, width, &mut out);
                assert!(out.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?} {level:?}");
                // The middle third of the columns alone.
                let (first, mut part) = (256 / format.block() * format.bytes(), vec![f32::NAN; rows * 256]);
                unpack(level, format, &bytes[first..], stride, 256, &mut part);
                for (row, part) in part.chunks(256).enumerate() {
                    assert_eq!(part, &wanted[row * width + 256..][..256], "{format:?} {level:?}");
                }
            }
        }
    }

    /// Sums of `n` products in any order err by at most `n·2⁻²⁴` of the sum of their sizes (to first order).
    #[test]
    fn dots_are_sums_of_products_at_every_level() {
        for format in Format::ALL {
            for (width, few) in [(256, 1), (1024 + 256, 1), (1024 + 256, 2), (2048, 3), (512, 4)] {
                let rows = 7;
                let bytes = bytes(rows * width / format.block() * format.bytes());
                let mut numbers = vec![0.0; rows * width];
                unpack_row::<false>(format, &bytes, &mut numbers);
                let x: Vec<f32> = (0..few * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
                for level in Level::available() {
                    let mut out = vec![f32::NAN; rows * few];
                    dots(level, format, &bytes, &Few::new(level, format, width, &x), &mut out);
                    for (i, got) in out.iter().enumerate() {
                        let pairs = numbers[i / few * width..][..width].iter().zip(&x[i % few * width..]);
                        let products = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b));
                        let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                        let bound = width as f64 * 0.5f64.powi(24) * size * 1.001;
                        assert!((f64::from(*got) - sum).abs() <= bound, "{format:?} {level:?}: {got}, not {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_half_is_read_at_every_level() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let levels: Vec<Vec<f32>> = Level::available()
            .into_iter()
            .map(|level| {
                let mut out = vec![0.0; 1 << 16];
                unpack(level, Format::F16, &bytes, bytes.len(), 1 << 16, &mut out);
                out
            })
            .collect();
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
            let size = match exponent {
                0 => fraction * 0.5f64.powi(14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
            };
            let wanted = if bits >> 15 == 1 { -size as f32 } else { size as f32 };
            for got in levels.iter().map(|level| level[usize::from(bits)]).chain([half(&bits.to_le_bytes())]) {
                assert!(got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan(), "{bits:#x}: {got}");
            }
        }
    }
}
