//! The arithmetic of kernels that exist for f32 and f64.

use crate::{lies_here, simd};
use burn::backend::Flex;
use burn::tensor::{DType, Element, Shape, Tensor, TensorData};
use burn_flex::FlexTensor;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number type that has kernels.
pub(crate) trait Real:
    Element
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    const ZERO: Self;
    /// −∞.
    const LOWEST: Self;
    /// The nearest number.
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn ln(self) -> Self;
    fn abs(self) -> Self;
    /// `self·b + c`, fused where that is an instruction.
    fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self;
    /// `eˣ` for numbers below 80, exactly zero long before the result would be subnormal. NaN stays NaN.
    fn exp<const FMA: bool>(self) -> Self;
    /// Zero instead of a subnormal number.
    fn normal(self) -> Self;
    /// The numbers of a contiguous tensor of this type.
    fn numbers(tensor: &FlexTensor) -> &[Self];
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const LOWEST: Self = Self::NEG_INFINITY;

    fn of(x: f64) -> Self {
        x as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn ln(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }
    #[inline(always)]
    fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self {
        simd::mul_add::<FMA>(self, b, c)
    }
    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        simd::exp::<FMA>(self, -80.0)
    }
    #[inline(always)]
    fn normal(self) -> Self {
        simd::normal(self)
    }
    fn numbers(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const LOWEST: Self = Self::NEG_INFINITY;

    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
    fn ln(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }
    #[inline(always)]
    fn mul_add<const FMA: bool>(self, b: Self, c: Self) -> Self {
        if FMA { self.mul_add(b, c) } else { self * b + c }
    }
    /// As for f32, with Taylor's polynomial: the rest is at most ln 2/2, whose fourteenth power over 14! is below 5e-18.
    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        // Adding and taking away 1.5·2⁵² rounds to whole numbers and leaves the whole number in the low bits.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
        const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
        const LEAST: f64 = -700.0;
        const INVERSE_FACTORIALS: [f64; 14] = [
            1.0 / 6_227_020_800.0,
            1.0 / 479_001_600.0,
            1.0 / 39_916_800.0,
            1.0 / 3_628_800.0,
            1.0 / 362_880.0,
            1.0 / 40_320.0,
            1.0 / 5040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
            1.0,
        ];
        let bounded = if self < LEAST { LEAST } else { self };
        let shifted = Real::mul_add::<FMA>(bounded, std::f64::consts::LOG2_E, ROUND);
        let whole = shifted - ROUND;
        let rest = Real::mul_add::<FMA>(whole, -LN2_LOW, Real::mul_add::<FMA>(whole, -LN2_HIGH, bounded));
        let mut value = INVERSE_FACTORIALS[0];
        let mut i = 1;
        while i < INVERSE_FACTORIALS.len() {
            value = Real::mul_add::<FMA>(value, rest, INVERSE_FACTORIALS[i]);
            i += 1;
        }
        let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
        if self < LEAST { 0.0 } else { power * value }
    }
    #[inline(always)]
    fn normal(self) -> Self {
        if self.abs() < Self::MIN_POSITIVE { 0.0 } else { self }
    }
    fn numbers(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
}

/// The types that have such kernels, told at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F64,
}

impl Kind {
    /// The type of a tensor, where it has a kernel on its device.
    pub(crate) fn of<const D: usize>(x: &Tensor<D>) -> Option<Self> {
        match x.dtype() {
            _ if !lies_here(x) => None,
            DType::F32 => Some(Self::F32),
            DType::F64 => Some(Self::F64),
            _ => None,
        }
    }
}

/// The same numbers without a tape.
pub(crate) fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}

/// The numbers of a plain tensor for which [`Kind::of`] found a kernel, in row-major order.
pub(crate) fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.try_into_primitive::<Flex>().expect("the kernels' device has this backend").to_contiguous()
}

/// A tensor of these numbers.
pub(crate) fn tensor<T: Real, const D: usize>(values: Vec<T>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(values, Shape::from(shape))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_in_f64_is_right_to_the_last_digits_and_never_subnormal() {
        for i in -80_000..8_000 {
            let x = f64::from(i) * 0.01;
            for y in [Real::exp::<true>(x), Real::exp::<false>(x)] {
                let wanted = if x < -700.0 { 0.0 } else { x.exp() };
                assert!(!y.is_subnormal() && (y - wanted).abs() <= 1e-15 * wanted, "exp({x}) = {y}, not {wanted}");
            }
        }
        assert_eq!(Real::exp::<true>(f64::NEG_INFINITY), 0.0);
        assert!(Real::exp::<true>(f64::NAN).is_nan());
    }
}
