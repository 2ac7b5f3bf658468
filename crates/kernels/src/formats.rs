//! The packed number formats of GGUF files, and how their blocks are unpacked.
//!
//! Unpacking rounds as the `gguf` package does, operation by operation: no fused multiply-add here.

use crate::simd::{fold, mul_add, total, vectorised};

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
    /// 4 bits, with 6-bit factors and least numbers for 32 of 256 numbers.
    Q4K,
    /// 5 bits, with 6-bit factors and least numbers for 32 of 256 numbers.
    Q5K,
    /// 6 bits, with 8-bit factors for 16 of 256 numbers.
    Q6K,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
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
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
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
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// Numbers of a row that [`dots`] unpacks at a time: a multiple of every block that stays in the first-level cache.
pub(crate) const SEGMENT: usize = 1024;

vectorised! {
    /// Unpacks the same columns of several rows: the bytes of each start `stride` bytes after those of the row before, and
    /// give `width` numbers of `out`.
    fn unpack(format: Format, bytes: &[u8], stride: usize, width: usize, out: &mut [f32]) = unpack_body
}
vectorised! {
    /// The dot products of packed rows with the rows of `x`, `width` numbers each: `out` `[rows, rows of x]`.
    fn dots(format: Format, bytes: &[u8], width: usize, x: &[f32], out: &mut [f32]) = dots_body
}

#[inline(always)]
fn unpack_body<const FMA: bool>(format: Format, bytes: &[u8], stride: usize, width: usize, out: &mut [f32]) {
    let used = width / format.block() * format.bytes();
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        unpack_row(format, &bytes[row * stride..][..used], out);
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
            unpack_row(format, packed, numbers);
            for (x, sum) in x.chunks_exact(width).zip(sums.iter_mut()) {
                let x = &x[i * SEGMENT..][..numbers.len()];
                *sum += total(fold([numbers, x], 0.0, |sum, [a, b]| mul_add::<FMA>(a, b, sum)));
            }
        }
    }
}

/// Unpacks whole blocks.
#[inline(always)]
fn unpack_row(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F16 => blocks(bytes, out, |x: &[u8; 2], out: &mut [f32; 1]| out[0] = half(x)),
        Format::Bf16 => blocks(bytes, out, |x: &[u8; 2], out: &mut [f32; 1]| {
            let x = u32::from(u16::from_le_bytes(*x)) << 16;
            out[0] = f32::from_bits(if x & 0x7F80_0000 == 0 { x & 0x8000_0000 } else { x });
        }),
        Format::Q4_0 => blocks(bytes, out, q4_0),
        Format::Q4_1 => blocks(bytes, out, q4_1),
        Format::Q5_0 => blocks(bytes, out, q5_0),
        Format::Q5_1 => blocks(bytes, out, q5_1),
        Format::Q8_0 => blocks(bytes, out, q8_0),
        Format::Q4K => blocks(bytes, out, q4k),
        Format::Q5K => blocks(bytes, out, q5k),
        Format::Q6K => blocks(bytes, out, q6k),
    }
}

/// Calls `f` with each block of bytes and its place among the numbers.
#[inline(always)]
fn blocks<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    f: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        f(block, out);
    }
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

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block);
    for (i, q) in block[2..].iter().enumerate() {
        out[i] = d * (i32::from(q & 15) - 8) as f32;
        out[i + 16] = d * (i32::from(q >> 4) - 8) as f32;
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, least) = (half(block), half(&block[2..]));
    for (i, q) in block[4..].iter().enumerate() {
        out[i] = d * f32::from(q & 15) + least;
        out[i + 16] = d * f32::from(q >> 4) + least;
    }
}

/// The number whose lower four bits are given and whose fifth is bit `i` of `high`.
#[inline(always)]
fn five(low: u8, high: u32, i: usize) -> i32 {
    i32::from(low) | ((high >> i & 1) << 4) as i32
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half(block), u32::from_le_bytes([block[2], block[3], block[4], block[5]]));
    for (i, q) in block[6..].iter().enumerate() {
        out[i] = d * (five(q & 15, high, i) - 16) as f32;
        out[i + 16] = d * (five(q >> 4, high, i + 16) - 16) as f32;
    }
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, least) = (half(block), half(&block[2..]));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, q) in block[8..].iter().enumerate() {
        out[i] = d * five(q & 15, high, i) as f32 + least;
        out[i + 16] = d * five(q >> 4, high, i + 16) as f32 + least;
    }
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block);
    for (q, out) in block[2..].iter().zip(out) {
        *out = d * f32::from(*q as i8);
    }
}

/// Factor and least number of sub-block `j` of 8; the twelve bytes hold six bits of each.
#[inline(always)]
fn six(block: &[u8], j: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, least) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (half(block) * f32::from(scale), half(&block[2..]) * f32::from(least))
}

#[inline(always)]
fn q4k(block: &[u8; 144], out: &mut [f32; 256]) {
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (d, least) = six(block, j);
        let shift = 4 * (j % 2);
        for (q, out) in block[16 + j / 2 * 32..][..32].iter().zip(out) {
            *out = d * f32::from(q >> shift & 15) - least;
        }
    }
}

#[inline(always)]
fn q5k(block: &[u8; 176], out: &mut [f32; 256]) {
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (d, least) = six(block, j);
        let shift = 4 * (j % 2);
        for ((q, high), out) in block[48 + j / 2 * 32..][..32].iter().zip(&block[16..48]).zip(out) {
            *out = d * f32::from(q >> shift & 15 | (high >> j & 1) << 4) - least;
        }
    }
}

#[inline(always)]
fn q6k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(&block[208..]);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (part, quarter) = (j / 4, j % 4);
        let low = &block[part * 64 + quarter % 2 * 32..][..32];
        let high = &block[128 + part * 32..][..32];
        let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
        for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let d = d * f32::from(block[192 + 2 * j + k] as i8);
            for ((q, high), out) in low[16 * k..][..16].iter().zip(&high[16 * k..][..16]).zip(out) {
                *out = d * (i32::from(q >> low_shift & 15 | (high >> high_shift & 3) << 4) - 32) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                unpack_row(format, bytes, out);
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
            for width in [256, 1024 + 256, 2048] {
                let (rows, few) = (5, 3);
                let bytes = bytes(rows * width / format.block() * format.bytes());
                let mut numbers = vec![0.0; rows * width];
                unpack_row(format, &bytes, &mut numbers);
                let x: Vec<f32> = (0..few * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
                for level in Level::available() {
                    let mut out = vec![f32::NAN; rows * few];
                    dots(level, format, &bytes, width, &x, &mut out);
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
    fn half_reads_every_number() {
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
            let size = match exponent {
                0 => fraction * 0.5f64.powi(14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
            };
            let (got, wanted) = (half(&bits.to_le_bytes()), size as f32);
            let wanted = if bits >> 15 == 1 { -wanted } else { wanted };
            assert!(got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan(), "{bits:#x}: {got}");
        }
    }
}
