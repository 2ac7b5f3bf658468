//! The same functions composed of Burn operations: what runs on other devices and number types, and the reference in tests.

use burn::tensor::{DType, Tensor};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// [`gelu`](crate::gelu) from `erf`, so that its gradient is exact too (the stock gradient of some devices is approximate).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let twice_cdf = (x.clone() * FRAC_1_SQRT_2).erf() + 1.0;
    x * twice_cdf * 0.5
}

/// [`gelu_tanh`](crate::gelu_tanh).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = (x.clone() * x.clone() * 0.044_715 + 1.0) * x.clone() * FRAC_2_PI.sqrt();
    x * (inner.tanh() + 1.0) * 0.5
}

/// [`attention`](crate::attention); keeps the scores for the backward pass.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, mask: Tensor<2>, heads: usize) -> Tensor<3> {
    let ([batch, queries, features], [_, keys, _]) = (q.dims(), k.dims());
    if q.shape().num_elements() == 0 {
        return q;
    }
    if keys == 0 {
        return q.zeros_like();
    }
    let width = features / heads;
    let split = |x: Tensor<3>, length: usize| x.reshape([batch, length, heads, width]).swap_dims(1, 2);
    let scores = split(q, queries).matmul(split(k, keys).transpose()) / (width as f64).sqrt();
    let scores = scores + mask.detach().reshape([batch, 1, 1, keys]);
    // A finite bound below every useful score: a row of −∞ alone then has the sum zero instead of NaN.
    let least = if scores.dtype() == DType::F16 { -65_504.0 } else { f64::from(f32::MIN) };
    let most = scores.clone().detach().max_dim(3).clamp_min(least);
    let weights = (scores - most).exp();
    // The largest weight is 1 before division, so a sum below 1 is zero.
    let sum = weights.clone().sum_dim(3).clamp_min(0.5);
    (weights / sum).matmul(split(v, keys)).swap_dims(1, 2).reshape([batch, queries, features])
}

/// [`layer_norm`](crate::layer_norm).
pub fn layer_norm(x: Tensor<3>, scale: Tensor<1>, shift: Tensor<1>, eps: f64) -> Tensor<3> {
    let features = scale.dims()[0];
    if x.shape().num_elements() == 0 {
        return x;
    }
    let centred = x.clone() - x.mean_dim(2);
    let deviation = ((centred.clone() * centred.clone()).mean_dim(2) + eps).sqrt();
    centred / deviation * scale.reshape([1, 1, features]) + shift.reshape([1, 1, features])
}
