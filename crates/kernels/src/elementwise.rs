//! GELU, exact and by the hyperbolic tangent, on slices.

use crate::memory::Output;
use crate::simd::{Level, exp, mul_add, normal, polynomial, vectorised};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Numbers handled by one task: small enough to stay in the second-level cache.
pub(crate) const CHUNK: usize = 16_384;

/// Below this power of e the kernels here round to zero, far enough from the subnormal numbers for a few more factors.
const LEAST: f32 = -80.0;

/// Writes a number for each number of `x`.
type Kernel = fn(Level, &[f32], &mut [MaybeUninit<f32>]);

/// Writes a number for each number of `x` and its gradient.
type BackwardKernel = fn(Level, &[f32], &[f32], &mut [MaybeUninit<f32>]);

/// `out[i] = f(x[i])` by chunks.
pub(crate) fn map(x: &FlexTensor, kernel: Kernel) -> FlexTensor {
    let (x, level) = (x.to_contiguous(), Level::best());
    let mut out = Output::new(x.layout().shape().clone());
    let (input, slots) = (x.storage::<f32>(), out.slots());
    if slots.len() <= CHUNK {
        kernel(level, input, slots);
    } else {
        let pairs = slots.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
        pairs.for_each(|(out, input)| kernel(level, input, out));
    }
    // SAFETY: the chunks cover all slots, and a kernel writes one number for each input.
    unsafe { out.finish() }
}

/// `out[i] = f(x[i], gradient[i])` by chunks.
pub(crate) fn map_backward(x: &FlexTensor, gradient: &FlexTensor, kernel: BackwardKernel) -> FlexTensor {
    let (x, gradient, level) = (x.to_contiguous(), gradient.to_contiguous(), Level::best());
    let mut out = Output::new(x.layout().shape().clone());
    let (input, gradient, slots) = (x.storage::<f32>(), gradient.storage::<f32>(), out.slots());
    assert_eq!(input.len(), gradient.len(), "a gradient must have the shape of its tensor");
    if slots.len() <= CHUNK {
        kernel(level, input, gradient, slots);
    } else {
        let triples = slots.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
        triples.for_each(|((out, input), gradient)| kernel(level, input, gradient, out));
    }
    // SAFETY: the chunks cover all slots, and a kernel writes one number for each input.
    unsafe { out.finish() }
}

vectorised! {
    /// Exact GELU.
    fn gelu(x: &[f32], out: &mut [MaybeUninit<f32>]) = gelu_body
}
vectorised! {
    /// The gradient of exact GELU.
    fn gelu_backward(x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) = gelu_backward_body
}
vectorised! {
    /// GELU by the hyperbolic tangent.
    fn gelu_tanh(x: &[f32], out: &mut [MaybeUninit<f32>]) = gelu_tanh_body
}
vectorised! {
    /// The gradient of GELU by the hyperbolic tangent.
    fn gelu_tanh_backward(x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) = gelu_tanh_backward_body
}

#[inline(always)]
fn gelu_body<const FMA: bool>(x: &[f32], out: &mut [MaybeUninit<f32>]) {
    for (out, &x) in out.iter_mut().zip(x) {
        out.write(normal(x * normal_cdf::<FMA>(x).0));
    }
}

#[inline(always)]
fn gelu_backward_body<const FMA: bool>(x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) {
    for ((out, &x), &gradient) in out.iter_mut().zip(x).zip(gradient) {
        let (cdf, bell) = normal_cdf::<FMA>(x);
        out.write(normal(gradient * mul_add::<FMA>(x * 0.398_942_3, bell, cdf)));
    }
}

#[inline(always)]
fn gelu_tanh_body<const FMA: bool>(x: &[f32], out: &mut [MaybeUninit<f32>]) {
    for (out, &x) in out.iter_mut().zip(x) {
        out.write(normal(x * tanh_cdf::<FMA>(x).0));
    }
}

#[inline(always)]
fn gelu_tanh_backward_body<const FMA: bool>(x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) {
    for ((out, &x), &gradient) in out.iter_mut().zip(x).zip(gradient) {
        let (cdf, slope) = tanh_cdf::<FMA>(x);
        out.write(normal(gradient * mul_add::<FMA>(x, slope, cdf)));
    }
}

/// `Φ(x)` with a relative error of some 1e-6 in the lower tail and less elsewhere, and `exp(−x²/2)`.
///
/// The tail divided by the bell is a polynomial in `1/(1 + 0.3·|x|)` fitted on |x| ≤ 13 to a relative error of 6e-8; subtracting
/// from one only above zero, where nothing cancels, keeps small values right to their last digits.
#[inline(always)]
fn normal_cdf<const FMA: bool>(x: f32) -> (f32, f32) {
    let bell = exp::<FMA>(-0.5 * x * x, LEAST);
    let t = 1.0 / mul_add::<FMA>(0.3, x.abs(), 1.0);
    let tail = bell
        * polynomial::<FMA, 9>(
            t,
            [
                0.038_270_94,
                -0.168_643_25,
                0.227_577_43,
                -0.075_264_91,
                0.141_675_3,
                0.095_051_29,
                0.121_825_844,
                0.119_501,
                6.382_846e-6,
            ],
        );
    (if x > 0.0 { 1.0 - tail } else { tail }, bell)
}

/// `(1 + tanh(u))/2` with `u = √(2/π)·(x + 0.044715·x³)`, which is `1/(1 + e⁻²ᵘ)`, and its derivative.
#[inline(always)]
fn tanh_cdf<const FMA: bool>(x: f32) -> (f32, f32) {
    const TWICE: f32 = 1.595_769;
    const CUBIC: f32 = TWICE * 0.044_715;
    // Beyond 1e4 the value is 0 or 1 long since; the bound keeps the square finite.
    let square = if x.abs() > 1e4 { 1e8 } else { x * x };
    let doubled = x * mul_add::<FMA>(CUBIC, square, TWICE);
    let small = exp::<FMA>(-doubled.abs(), LEAST);
    let inverse = 1.0 / (1.0 + small);
    let value = if doubled > 0.0 { inverse } else { small * inverse };
    let slope = small * inverse * inverse * mul_add::<FMA>(3.0 * CUBIC, square, TWICE);
    (value, slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the same numbers up to rounding, whatever the length left over after whole vectors.
    #[test]
    fn levels_agree() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) * 0.03).collect();
        let run = |kernel: BackwardKernel, level| {
            let mut out = vec![MaybeUninit::new(f32::NAN); x.len()];
            kernel(level, &x, &x, &mut out);
            // SAFETY: made from a number and then written.
            out.into_iter().map(|x| unsafe { x.assume_init() }).collect::<Vec<_>>()
        };
        for kernel in [gelu_backward as BackwardKernel, gelu_tanh_backward] {
            let all: Vec<_> = Level::available().into_iter().map(|level| run(kernel, level)).collect();
            for other in &all[1..] {
                assert!(all[0].iter().zip(other).all(|(a, b)| (a - b).abs() <= 2e-6 * (1.0 + a.abs())));
            }
        }
    }
}
