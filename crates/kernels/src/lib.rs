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
//!   the choice (read once), and `off` leaves everything to Burn's own operations, for comparison;
//! - results that do not depend on the number of threads.
//!
//! Second derivatives are not offered: Burn has none.

// Kernels need vector instructions chosen at run time, buffers that are not cleared first, and the raw interface of `gemm`.
// Every block says why it is sound.
#![allow(unsafe_code)]

#[cfg(feature = "allocator")]
pub mod allocator;
mod attention;
mod batch_norm;
pub mod composed;
mod conv;
mod depthwise;
mod dots;
mod elementwise;
mod extension;
#[cfg(target_arch = "x86_64")]
mod fixed;
mod formats;
mod gate;
mod implicit;
mod linear;
mod memory;
pub mod moments;
mod norm;
mod packed;
mod pairwise;
mod panel;
mod product;
mod real;
mod rotary;
mod simd;
mod sinkhorn;
mod sum;
mod tile;
mod vocabulary;
mod walk;
mod winograd;

pub use batch_norm::{batch_norm, channel_moments, normalise};
use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor};
pub use conv::{Conv2d, conv1d, conv2d};
use extension::Fused;
pub use formats::Format;
pub use packed::{Matrix, Packed};
pub use pairwise::{Measure, pairwise};
pub use sinkhorn::{Sinkhorn, Transport, plan, sinkhorn};
use std::sync::Arc;
pub use sum::{Activation, add};

/// Exact GELU, `x·Φ(x)` with Φ the normal distribution function, any shape. As in PyTorch −∞ gives NaN.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_kernels(&x) {
        return composed::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu(x.into_dispatch()))
}

/// GELU by the hyperbolic tangent, `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, any shape.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_kernels(&x) {
        return composed::gelu_tanh(x);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_gelu_tanh(x.into_dispatch()))
}

/// Which keys a query sees.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each pass")]
pub enum Visible {
    /// Numbers added to every query's scores `q·k/√width`, `[batch, keys]`: 0 keeps a key, −∞ or a large negative number (−1e9) hides
    /// it. They get no gradient.
    Keys(Tensor<2>),
    /// For each query one run of keys, the first and the one after the last; row after row, `batch × queries` runs. Reading from left
    /// to right, documents beside each other and padding at either end are such runs. Keys outside the runs cost nothing.
    Runs(Arc<[[u32; 2]]>),
}

/// Softmax attention of several heads; no scores are kept, the backward pass computes them again.
///
/// - `q` `[batch, queries, heads·width]`; `k` and `v` `[batch, keys, groups·width]`, as the projections give them. Each of the `groups`
///   heads of keys and values serves `heads/groups` heads of queries that stand beside each other. Queries and keys may differ in
///   number (prefix keys, keys from before).
/// - `visible` says which keys a query sees.
///
/// Returns `[batch, queries, heads·width]`. A query that sees no key gives zeros and zero gradients, where PyTorch gives NaN; where all
/// are hidden by finite numbers, its weights follow what rounding leaves of the scores. The processor kernel drops weights below e⁻⁵⁰
/// of the largest.
///
/// # Panics
/// If the shapes do not fit each other, `heads` does not divide the features, or a run leads beyond the keys.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, visible: &Visible, heads: usize) -> Tensor<3> {
    let ([batch, queries, features], [_, keys, key_features]) = (q.dims(), k.dims());
    assert!(heads > 0 && features.is_multiple_of(heads), "{heads} heads do not divide {features} features");
    let width = (features / heads).max(1);
    assert!(
        key_features.is_multiple_of(width) && (features == 0 || heads.is_multiple_of((key_features / width).max(1))),
        "{key_features} features of the keys are no heads of width {width} that divide {heads}"
    );
    assert_eq!(k.dims(), [batch, keys, key_features], "keys must have the batch of the queries {:?}", q.dims());
    assert_eq!(v.dims(), k.dims(), "values must have the shape of the keys");
    let mut fused = has_kernels(&q) && has_kernels(&k) && has_kernels(&v);
    match visible {
        Visible::Keys(mask) => {
            assert_eq!(mask.dims(), [batch, keys], "the mask must be [batch, keys]");
            fused &= has_kernels(mask);
        }
        Visible::Runs(runs) => {
            assert_eq!(runs.len(), batch * queries, "a run for each query of each row");
            assert!(runs.iter().all(|run| run[1] as usize <= keys), "a run leads beyond {keys} keys");
        }
    }
    if !fused {
        return composed::attention(q, k, v, visible, heads);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(match visible {
        Visible::Keys(mask) => <Dispatch as Fused>::fused_attention(q, k, v, mask.clone().into_dispatch(), heads),
        Visible::Runs(runs) => <Dispatch as Fused>::fused_attention_runs(q, k, v, runs.clone(), heads),
    })
}

/// A norm by the root of the mean square over the last axis, `x/√(mean(x²) + eps)·scale`.
///
/// `x` `[batch, length, features]`, `scale` `[features]`. Only the gradients of tracked inputs are computed.
///
/// # Panics
/// If `scale` does not have as many numbers as `x` has features.
pub fn rms_norm(x: Tensor<3>, scale: Tensor<1>, eps: f64) -> Tensor<3> {
    let [_, _, features] = x.dims();
    assert_eq!(scale.dims(), [features], "scale must have {features} numbers");
    if !(has_kernels(&x) && has_kernels(&scale)) {
        return composed::rms_norm(x, scale, eps);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_rms_norm(x.into_dispatch(), scale.into_dispatch(), eps))
}

/// `gate·σ(gate)·up`, number by number, any shape.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "a gate must have the shape of what it gates");
    if !(has_kernels(&gate) && has_kernels(&up)) {
        return composed::swiglu(gate, up);
    }
    Tensor::from_dispatch(<Dispatch as Fused>::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Turns pairs of numbers by an angle of their position: of each head of `x` `[batch, length, heads·width]` the halves `(a, b)` become
/// `(a·cos − b·sin, b·cos + a·sin)`. `cos` and `sin` are `[batch, length, width/2]` and get no gradient.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn rotary(x: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, length, features] = x.dims();
    assert!(
        heads > 0 && features.is_multiple_of(2 * heads),
        "{heads} heads of pairs do not divide {features} features"
    );
    let angles = [batch, length, features / heads / 2];
    assert_eq!((cos.dims(), sin.dims()), (angles, angles), "cosines and sines must be {angles:?}");
    if ![&x, &cos, &sin].iter().all(|x| has_kernels(x)) {
        return composed::rotary(x, cos, sin, heads);
    }
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Fused>::fused_rotary(x, cos, sin, heads))
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
    if !(has_kernels(&x) && has_kernels(&scale) && has_kernels(&shift)) {
        return composed::layer_norm(x, scale, shift, eps);
    }
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Fused>::fused_layer_norm(x, scale, shift, eps))
}

/// Whether tensors of this number type where this one lies have kernels of their own.
fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && lies_here(x)
}

/// Whether a tensor lies where there are kernels, and these are in use.
fn lies_here<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    let on_processor = match device.as_dispatch() {
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        device => matches!(device, DispatchDevice::Flex(_)),
    };
    on_processor && simd::in_use()
}
