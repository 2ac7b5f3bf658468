//! Numbers as tensor files store them: decoding, and rounding to nearest, ties to even.

pub use safetensors::Dtype as Stored;

/// Whether numbers of this type can be read: the four usual floating types.
pub(crate) fn is_float(stored: Stored) -> bool {
    matches!(stored, Stored::F64 | Stored::F32 | Stored::BF16 | Stored::F16)
}

/// Appends the numbers of little-endian bytes, widened without loss; of a type that is no float, none.
pub fn decode(stored: Stored, raw: &[u8], out: &mut Vec<f64>) {
    match stored {
        Stored::F64 => out.extend(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b))),
        Stored::F32 => out.extend(raw.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)))),
        Stored::BF16 => out.extend(raw.as_chunks().0.iter().map(|b| f64::from(bf16_to_f32(*b)))),
        Stored::F16 => out.extend(raw.as_chunks().0.iter().map(|b| f64::from(f16_to_f32(*b)))),
        _ => {}
    }
}

/// As [`decode`], in single precision.
pub(crate) fn decode_f32(stored: Stored, raw: &[u8], out: &mut Vec<f32>) {
    match stored {
        Stored::F32 => out.extend(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Stored::BF16 => out.extend(raw.as_chunks().0.iter().map(|b| bf16_to_f32(*b))),
        Stored::F16 => out.extend(raw.as_chunks().0.iter().map(|b| f16_to_f32(*b))),
        _ => {}
    }
}

/// Appends numbers as little-endian bytes of a floating type, each rounded to the nearest that the type has, of two equally near ones to
/// the even one.
///
/// # Errors
/// The first finite number that would become infinite. A type that is no float takes no number, and the first is returned.
pub fn encode(numbers: &[f64], stored: Stored, out: &mut Vec<u8>) -> Result<(), f64> {
    let start = out.len();
    // Which one overflowed is looked for afterwards: the loops stay without branches.
    let infinite = match stored {
        Stored::F64 => {
            out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            return Ok(());
        }
        Stored::F32 => {
            out.extend(numbers.iter().flat_map(|&x| (x as f32).to_le_bytes()));
            |raw: &[u8]| raw.first_chunk().is_some_and(|b| f32::from_le_bytes(*b).is_infinite())
        }
        Stored::BF16 => {
            out.extend(numbers.iter().flat_map(|&x| f32_to_bf16(odd(x)).to_le_bytes()));
            |raw: &[u8]| raw.first_chunk().is_some_and(|b| bf16_to_f32(*b).is_infinite())
        }
        Stored::F16 => {
            out.extend(numbers.iter().flat_map(|&x| f32_to_f16(odd(x)).to_le_bytes()));
            |raw: &[u8]| raw.first_chunk().is_some_and(|b| f16_to_f32(*b).is_infinite())
        }
        _ => return numbers.first().map_or(Ok(()), |&x| Err(x)),
    };
    let raw = out[start..].chunks_exact(stored.bitsize() / 8);
    match numbers.iter().zip(raw).find(|(x, raw)| infinite(raw) && x.is_finite()) {
        Some((&x, _)) => Err(x),
        None => Ok(()),
    }
}

fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, (bits >> 10) & 0x1f, u32::from(bits & 0x3ff));
    match exponent {
        0 => (fraction as f32 * 2f32.powi(-24)).copysign(f32::from_bits(sign | 1f32.to_bits())),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        e => f32::from_bits(sign | (u32::from(e) + 112) << 23 | fraction << 13),
    }
}

/// The single-precision number next to `x` towards zero, its last bit set where anything was cut off. Rounding that to fewer digits gives
/// what rounding `x` at once gives; rounding the nearest one would round twice.
fn odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() {
        return near;
    }
    let bits = near.to_bits() - u32::from(back.abs() > x.abs());
    f32::from_bits(bits | 1)
}

fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // Half of the last place, a little less where that place is even: a tie then falls to the even neighbour.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn f32_to_f16(x: f32) -> u16 {
    let (sign, bits) = ((x.to_bits() >> 16 & 0x8000) as u16, x.to_bits() & 0x7fff_ffff);
    let size = match f32::from_bits(bits) {
        size if size.is_nan() => 0x7e00,
        // From halfway between the largest number and the next power of two on.
        size if size >= 65520.0 => 0x7c00,
        // Numbers from a half to one are as far apart as the smallest halves: the addition rounds.
        size if size < 2f32.powi(-14) => ((size + 0.5).to_bits() - 0.5f32.to_bits()) as u16,
        _ => ((bits + 0xfff + (bits >> 13 & 1) - (112 << 23)) >> 13) as u16,
    };
    sign | size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of a type with so many bits of exponent and fraction, by their place in order from zero.
    fn number(place: u64, exponent: i32, fraction: i32) -> f64 {
        let (e, f) = ((place >> fraction) as i32, (place & ((1 << fraction) - 1)) as f64);
        let bias = (1 << (exponent - 1)) - 1;
        match e {
            0 => f * 2f64.powi(1 - bias - fraction),
            _ => (1.0 + f * 2f64.powi(-fraction)) * 2f64.powi(e - bias),
        }
    }

    /// Nearest by search among all numbers of the type, ties to the even place; the place after the largest is infinity.
    fn nearest(x: f64, exponent: i32, fraction: i32) -> u16 {
        let infinity = ((1u64 << exponent) - 1) << fraction;
        let size = x.abs();
        let (mut low, mut high) = (0, infinity);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if number(middle, exponent, fraction) <= size { low = middle } else { high = middle }
        }
        // Differences of neighbours are exact in f64 here.
        let (below, above) = (size - number(low, exponent, fraction), number(high, exponent, fraction) - size);
        let place = if below < above || (below == above && low % 2 == 0) { low } else { high };
        place as u16 | (u16::from(x.is_sign_negative()) << 15)
    }

    /// Around every boundary of both types: each number, the halfway points, and the neighbours of both in f64 and f32.
    fn candidates(exponent: i32, fraction: i32) -> Vec<f64> {
        let infinity = ((1u64 << exponent) - 1) << fraction;
        let places = (0..200).chain((200..infinity).step_by(97)).chain(infinity - 200..infinity);
        let mut all = vec![1e300, f64::MIN_POSITIVE, 65519.99, 65520.0, 3.4e38];
        for place in places {
            let (here, next) = (number(place, exponent, fraction), number(place + 1, exponent, fraction));
            for x in [here, here.midpoint(next)] {
                let near = x as f32;
                all.extend([x, x.next_up(), x.next_down(), near.next_up().into(), near.next_down().into()]);
            }
        }
        all.iter().flat_map(|&x| [x, -x]).collect()
    }

    #[test]
    fn rounding_finds_the_nearest_number_by_bits() {
        for (stored, exponent, fraction) in [(Stored::BF16, 8, 7), (Stored::F16, 5, 10)] {
            let largest = number((((1u64 << exponent) - 1) << fraction) - 1, exponent, fraction);
            for x in candidates(exponent, fraction) {
                let mut raw = vec![];
                let done = encode(&[x], stored, &mut raw);
                let want = nearest(x, exponent, fraction);
                assert_eq!(u16::from_le_bytes([raw[0], raw[1]]), want, "{stored} of {x:e}");
                let mut back = vec![];
                decode(stored, &raw, &mut back);
                assert_eq!(done.is_err(), back[0].abs() > largest, "{stored} of {x:e}");
            }
        }
    }

    #[test]
    fn what_a_type_has_survives_it() {
        for (stored, exponent, fraction) in [(Stored::BF16, 8, 7), (Stored::F16, 5, 10)] {
            for place in 0..((1u64 << exponent) - 1) << fraction {
                for x in [number(place, exponent, fraction), -number(place, exponent, fraction)] {
                    let (mut raw, mut back) = (vec![], vec![]);
                    encode(&[x], stored, &mut raw).unwrap();
                    decode(stored, &raw, &mut back);
                    assert_eq!(back[0].to_bits(), x.to_bits(), "{stored} of {x:e}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_and_overflow_is_told() {
        for stored in [Stored::F64, Stored::F32, Stored::BF16, Stored::F16] {
            let (mut raw, mut back) = (vec![], vec![]);
            encode(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY], stored, &mut raw).unwrap();
            decode(stored, &raw, &mut back);
            assert!(back[0].is_nan() && back[1..] == [f64::INFINITY, f64::NEG_INFINITY], "{stored}");
        }
        assert_eq!(encode(&[1.0, -7e4, 1e5], Stored::F16, &mut vec![]), Err(-7e4));
        assert_eq!(encode(&[1e39], Stored::F32, &mut vec![]), Err(1e39));
        assert_eq!(encode(&[3.4e38], Stored::BF16, &mut vec![]), Err(3.4e38));
        assert_eq!(encode(&[1.0], Stored::I64, &mut vec![]), Err(1.0));
    }
}
