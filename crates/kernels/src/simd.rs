//! Vector instructions chosen when the program runs, and the arithmetic the kernels share.
//!
//! A loop is written once as an `#[inline(always)]` function over `const FMA: bool`; [`vectorised!`] compiles it for each level and
//! calls the one the processor can run. A macro of this size needs no crate: `multiversion` looks the level up on every call and
//! offers neither the cap nor the `FMA` parameter, without which the portable version would call a library function per number.

use std::sync::OnceLock;

/// The vector instructions to use. A value exists only for a level this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level(Kind);

/// What a [`Level`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Whether the portable level may use fused multiply-add: part of the base set on AArch64, a library call per number elsewhere.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

impl Level {
    /// Every level of this processor, lowest first.
    pub(crate) fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut levels = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let [avx2, fma] = [is_x86_feature_detected!("avx2"), is_x86_feature_detected!("fma")];
            if avx2 && fma && is_x86_feature_detected!("f16c") {
                levels.push(Self(Kind::Avx2));
                let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
                if wide && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512bw") {
                    levels.push(Self(Kind::Avx512));
                }
            }
        }
        levels
    }

    /// What to match on.
    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// Whether there are dot products of pairs of bf16 numbers at this level.
    pub(crate) fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// The best level, at most what `ACCLIMATE_SIMD` names; an unknown name caps nothing.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let levels = Self::available();
            let most = match std::env::var("ACCLIMATE_SIMD").as_deref() {
                Ok("portable") => 1,
                Ok("avx2") => 2,
                _ => levels.len(),
            };
            levels[most.min(levels.len()) - 1]
        })
    }
}

/// Whether kernels run at all: not where `ACCLIMATE_SIMD` is `off`.
pub(crate) fn in_use() -> bool {
    static IN_USE: OnceLock<bool> = OnceLock::new();
    *IN_USE.get_or_init(|| std::env::var("ACCLIMATE_SIMD").as_deref() != Ok("off"))
}

/// Defines `fn name(level, arguments…)` which runs `body::<FMA>(arguments…)` compiled for the level.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        pub(crate) fn $name(level: $crate::simd::Level, $($arg: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")]
            fn avx512($($arg: $kind),*) {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $kind),*) {
                $body::<true>($($arg),*)
            }
            match level.kind() {
                $crate::simd::Kind::Portable => $body::<{ $crate::simd::PORTABLE_FMA }>($($arg),*),
                // SAFETY: a `Level` of this kind exists only where the processor has all these features.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Kind::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use vectorised;

/// Partial results a row is folded into, so that the compiler can use vectors and hide latency.
pub(crate) const LANES: usize = 32;

/// `a·b + c`, fused where that is an instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The polynomial with these coefficients, highest power first.
#[inline(always)]
pub(crate) fn polynomial<const FMA: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut value = coefficients[0];
    let mut i = 1;
    while i < N {
        value = mul_add::<FMA>(value, x, coefficients[i]);
        i += 1;
    }
    value
}

/// `eˣ` for `x ≤ 0`, exactly zero below `least`, which must be −86 or more; relative error below 3e-7. NaN stays NaN.
///
/// The cut is what keeps subnormal numbers out of everything computed from the result.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32, least: f32) -> f32 {
    // Adding and taking away 1.5·2²³ rounds to whole numbers and leaves the whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x < least { least } else { x };
    let shifted = mul_add::<FMA>(bounded, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = mul_add::<FMA>(whole, -LN2_LOW, mul_add::<FMA>(whole, -LN2_HIGH, bounded));
    let fraction =
        polynomial::<FMA, 7>(rest, [0.001_383_679_5, 0.008_374_858, 0.041_668_23, 0.166_664_2, 0.499_999_9, 1.0, 1.0]);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < least { 0.0 } else { power * fraction }
}

/// Zero instead of a subnormal number.
#[inline(always)]
pub(crate) fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

/// Folds rows of equal length into partial results, number by number.
#[inline(always)]
pub(crate) fn fold<const N: usize>(rows: [&[f32]; N], start: f32, f: impl Fn(f32, [f32; N]) -> f32) -> [f32; LANES] {
    let mut partial = [start; LANES];
    let parts = rows.map(|row| row.as_chunks::<LANES>());
    for at in 0..parts[0].0.len() {
        let block: [&[f32; LANES]; N] = parts.map(|(blocks, _)| &blocks[at]);
        for i in 0..LANES {
            partial[i] = f(partial[i], block.map(|x| x[i]));
        }
    }
    for i in 0..parts[0].1.len() {
        partial[i] = f(partial[i], parts.map(|(_, rest)| rest[i]));
    }
    partial
}

/// One result of all partial ones, which are put together in halves.
#[inline(always)]
fn one(partial: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    #[inline(always)]
    fn half<const N: usize>(x: &[f32], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
        let mut out = [0.0; N];
        for (i, out) in out.iter_mut().enumerate() {
            *out = f(x[i], x[i + N]);
        }
        out
    }
    // Each width is a constant: a loop over widths becomes one instruction per number.
    let sixteen: [f32; 16] = half(&partial, &f);
    let eight: [f32; 8] = half(&sixteen, &f);
    let four: [f32; 4] = half(&eight, &f);
    let two: [f32; 2] = half(&four, &f);
    f(two[0], two[1])
}

/// The sum of partial results, in pairs.
#[inline(always)]
pub(crate) fn total(partial: [f32; LANES]) -> f32 {
    one(partial, |a, b| a + b)
}

/// The largest number of a row; −∞ where there is none, and what is no number is passed over.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let larger = |most: f32, x: f32| if x > most { x } else { most };
    one(fold([row], f32::NEG_INFINITY, |most, [x]| larger(most, x)), larger)
}

vectorised! {
    /// Replaces subnormal numbers by zero.
    fn flush(values: &mut [f32]) = flush_body
}

#[inline(always)]
fn flush_body<const FMA: bool>(values: &mut [f32]) {
    for x in values {
        *x = normal(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_and_never_subnormal() {
        for i in 0..200_000 {
            let x = -(i as f32) * 5e-4;
            let (with, without, exact) = (exp::<true>(x, -86.0), exp::<false>(x, -86.0), f64::from(x).exp());
            for y in [with, without] {
                assert!(!y.is_subnormal());
                let wanted = if x < -86.0 { 0.0 } else { exact };
                assert!((f64::from(y) - wanted).abs() <= 3e-7 * wanted, "exp({x}) = {y}, not {wanted}");
            }
        }
        assert_eq!(exp::<true>(f32::NEG_INFINITY, -80.0), 0.0);
        assert!(exp::<true>(f32::NAN, -80.0).is_nan());
        assert_eq!(exp::<false>(0.0, -80.0), 1.0);
    }

    #[test]
    fn every_available_level_flushes() {
        for level in Level::available() {
            let mut values: Vec<f32> = (0..67).map(|i| if i % 2 == 0 { 1e-40 } else { i as f32 }).collect();
            values.push(f32::NAN);
            flush(level, &mut values);
            assert!(values[..67].iter().enumerate().all(|(i, x)| *x == if i % 2 == 0 { 0.0 } else { i as f32 }));
            assert!(values[67].is_nan());
        }
    }
}
