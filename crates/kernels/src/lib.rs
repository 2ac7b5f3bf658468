//! Fused operations with a portable default.
//!
//! Each function runs a kernel of its own where there is one (f32 on the processor, `Device::flex()`) and the same formula composed
//! of Burn operations ([`composed`]) for every other number type and device. Both have gradients. Plain and autodiff tensors may be
//! mixed: a plain tensor is a constant, and if all are plain nothing is recorded.
//!
//! What the processor kernels promise beyond the formula:
//! - **no subnormal number** in a result or a gradient: what is too small for a normal f32 is exactly zero, since one subnormal
//!   operand makes a product tens of times slower;
//! - the best vector instructions the processor offers, chosen when the program runs; `ACCLIMATE_SIMD=avx2` or `portable` lowers
//!   the choice (read once);
//! - results that do not depend on the number of threads.
//!
//! Second derivatives are not offered: Burn has none.

// Kernels need vector instructions chosen at run time, buffers that are not cleared first, and the raw interface of `gemm`.
// Every block says why it is sound.
#![allow(unsafe_code)]

mod attention;
pub mod composed;
mod elementwise;
mod extension;
mod memory;
mod norm;
mod simd;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};
use extension::Fused;

/// Exact GELU, `x·Φ(x)` with Φ the normal distribution function, any shape. As in PyTorch −∞ gives NaN.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_kernels(&x.device(), x.dtype()) {
        return composed::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu(x.into_dispatch()))
}

/// GELU by the hyperbolic tangent, `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, any shape.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_kernels(&x.device(), x.dtype()) {
        return composed::gelu_tanh(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu_tanh(x.into_dispatch()))
}

/// Softmax attention of several heads; no scores are kept, the backward pass computes them again.
///
/// - `q` `[batch, queries, heads·width]`; `k` and `v` `[batch, keys, heads·width]`, as the projections give them. Queries and keys
///   may differ in number (prefix keys).
/// - `mask` `[batch, keys]` is added to the scores `q·k/√width`: 0 keeps a key, −∞ or a large negative number (−1e9) hides it. It
///   gets no gradient.
///
/// Returns `[batch, queries, heads·width]`. A row whose keys are all hidden by −∞ gives zeros and zero gradients, where PyTorch
/// gives NaN; hidden by finite numbers alone, its weights follow what rounding leaves of the scores. The processor kernel drops
/// weights below e⁻⁵⁰ of the largest.
///
/// # Panics
/// If the shapes do not fit each other or `heads` does not divide the features.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, mask: Tensor<2>, heads: usize) -> Tensor<3> {
    let ([batch, _, features], [_, keys, _]) = (q.dims(), k.dims());
    assert!(heads > 0 && features.is_multiple_of(heads), "{heads} heads do not divide {features} features");
    assert_eq!(
        k.dims(),
        [batch, keys, features],
        "keys must be [batch, keys, features] like the queries {:?}",
        q.dims()
    );
    assert_eq!(v.dims(), k.dims(), "values must have the shape of the keys");
    assert_eq!(mask.dims(), [batch, keys], "the mask must be [batch, keys]");
    let all =
        [(q.device(), q.dtype()), (k.device(), k.dtype()), (v.device(), v.dtype()), (mask.device(), mask.dtype())];
    if !all.iter().all(|(device, kind)| has_kernels(device, *kind)) {
        return composed::attention(q, k, v, mask, heads);
    }
    let (q, k, v, mask) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), mask.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Fused>::fused_attention(q, k, v, mask, heads))
}

/// Layer norm over the last axis, `(x − mean)/√(variance + eps)·scale + shift` with the biased variance.
///
/// `x` `[batch, length, features]`, `scale` and `shift` `[features]`. Only the gradients of tracked inputs are computed.
///
/// # Panics
/// If `scale` or `shift` does not have as many numbers as `x` has features.
pub fn layer_norm(x: Tensor<3>, scale: Tensor<1>, shift: Tensor<1>, eps: f64) -> Tensor<3> {
    let [_, _, features] = x.dims();
    assert_eq!((scale.dims(), shift.dims()), ([features], [features]), "scale and shift must have {features} numbers");
    let all = [(x.device(), x.dtype()), (scale.device(), scale.dtype()), (shift.device(), shift.dtype())];
    if !all.iter().all(|(device, kind)| has_kernels(device, *kind)) {
        return composed::layer_norm(x, scale, shift, eps);
    }
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Fused>::fused_layer_norm(x, scale, shift, eps))
}

/// Whether tensors of this number type on this device have kernels of their own.
fn has_kernels(device: &Device, kind: DType) -> bool {
    let on_processor = match device.as_dispatch() {
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        device => matches!(device, DispatchDevice::Flex(_)),
    };
    on_processor && kind == DType::F32
}
