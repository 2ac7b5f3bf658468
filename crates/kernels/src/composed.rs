//! The same functions composed of Burn operations: what runs on other devices and number types, and the reference in tests.

use crate::{Activation, Conv2d, Visible};
use burn::tensor::{
    DType, Int, Tensor, TensorData, activation, module,
    ops::{ConvOptions, PadMode},
};
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
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, visible: &Visible, heads: usize) -> Tensor<3> {
    let ([batch, queries, features], [_, keys, key_features]) = (q.dims(), k.dims());
    if q.shape().num_elements() == 0 {
        return q;
    }
    if keys == 0 {
        return q.zeros_like();
    }
    let width = features / heads;
    let groups = key_features / width;
    let q = q.reshape([batch, queries, heads, width]).swap_dims(1, 2);
    // Each head of the keys for every head of its group.
    let split = |x: Tensor<3>| -> Tensor<4> {
        let each = x.reshape([batch, keys, groups, 1, width]).expand([batch, keys, groups, heads / groups, width]);
        each.reshape([batch, keys, heads, width]).swap_dims(1, 2)
    };
    let mask = match visible {
        Visible::Keys(mask) => mask.clone().detach().reshape([batch, 1, 1, keys]),
        Visible::Runs(runs) => {
            let seen = |run: &[u32; 2], key: usize| key >= run[0] as usize && key < run[1] as usize;
            let add = |(run, key)| if seen(run, key) { 0f32 } else { f32::NEG_INFINITY };
            let mask: Vec<f32> = runs.iter().flat_map(|run| (0..keys).map(move |key| add((run, key)))).collect();
            let data = TensorData::new(mask, [batch, 1, queries, keys]);
            Tensor::<4>::from_data(data, (&q.device(), DType::F32)).cast(q.dtype())
        }
    };
    let scores = q.matmul(split(k).transpose()) / (width as f64).sqrt() + mask;
    // A finite bound below every useful score: a row of −∞ alone then has the sum zero instead of NaN.
    let least = if scores.dtype() == DType::F16 { -65_504.0 } else { f64::from(f32::MIN) };
    let most = scores.clone().detach().max_dim(3).clamp_min(least);
    let weights = (scores - most).exp();
    // The largest weight is 1 before division, so a sum below 1 is zero.
    let sum = weights.clone().sum_dim(3).clamp_min(0.5);
    (weights / sum).matmul(split(v)).swap_dims(1, 2).reshape([batch, queries, features])
}

/// [`rms_norm`](crate::rms_norm).
pub fn rms_norm(x: Tensor<3>, scale: Tensor<1>, eps: f64) -> Tensor<3> {
    let features = scale.dims()[0];
    if x.shape().num_elements() == 0 {
        return x;
    }
    let root = ((x.clone() * x.clone()).mean_dim(2) + eps).sqrt();
    x / root * scale.reshape([1, 1, features])
}

/// [`swiglu`](crate::swiglu).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gate.clone() * activation::sigmoid(gate) * up
}

/// [`rotary`](crate::rotary).
pub fn rotary(x: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, length, features] = x.dims();
    if x.shape().num_elements() == 0 {
        return x;
    }
    let half = features / heads / 2;
    let x = x.reshape([batch, length, heads, 2 * half]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let [cos, sin] = [cos, sin].map(|x| x.detach().reshape([batch, length, 1, half]));
    let halves = vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    Tensor::cat(halves, 3).reshape([batch, length, features])
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

/// `−log softmax(scores)[target]` of each row of `scores` `[rows, words]`, for `targets` `[rows]`: `[rows]`. See
/// [`Matrix::cross_entropy`](crate::Matrix::cross_entropy).
pub fn cross_entropy(scores: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    activation::log_softmax(scores, 1).gather(1, targets.unsqueeze_dim(1)).squeeze_dim::<1>(1).neg()
}

/// [`conv2d`](crate::conv2d).
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: Conv2d) -> Tensor<4> {
    let ([batch, inputs, height, width], [outputs, _, rows, columns]) = (x.dims(), weight.dims());
    let [result_height, result_width] =
        conv.result([height, width], [rows, columns]).expect("the kernel must fit into the padded input");
    if batch * inputs * outputs * height * width == 0 {
        let zeros = Tensor::zeros([batch, outputs, result_height, result_width], (&x.device(), x.dtype()));
        return match bias {
            Some(bias) => zeros + bias.reshape([1, outputs, 1, 1]),
            None => zeros,
        };
    }
    let pairs = conv.padding.map(|[before, after]| (before, after));
    let x = if pairs == [(0, 0); 2] { x } else { x.pad(pairs, PadMode::Constant(0.0)) };
    module::conv2d(x, weight, bias, ConvOptions::new(conv.stride, [0, 0], conv.dilation, conv.groups))
}

/// [`moments`](crate::moments).
pub fn moments(x: Tensor<4>) -> (Tensor<1>, Tensor<1>) {
    let [batch, channels, height, width] = x.dims();
    let flat = x.swap_dims(0, 1).reshape([channels, batch * height * width]);
    let mean = flat.clone().mean_dim(1);
    let variance = (flat - mean.clone()).square().mean_dim(1);
    (mean.reshape([channels]), variance.reshape([channels]))
}

/// [`normalise`](crate::normalise).
pub fn normalise(
    x: Tensor<4>,
    [mean, variance]: [Tensor<1>; 2],
    [scale, shift]: [Tensor<1>; 2],
    eps: f64,
    activation: Activation,
) -> Tensor<4> {
    let channels = x.dims()[1];
    if x.shape().num_elements() == 0 {
        return x;
    }
    let [mean, variance, scale, shift] = [mean, variance, scale, shift].map(|v| v.reshape([1, channels, 1, 1]));
    activate((x - mean) / (variance + eps).sqrt() * scale + shift, activation)
}

/// An activation by itself.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Identity => x,
        Activation::Relu => activation::relu(x),
        Activation::Relu6 => {
            let most = Tensor::full(x.dims(), 6.0, (&x.device(), x.dtype()));
            let x = activation::relu(x);
            let above = x.clone().greater_equal(most.clone());
            x.mask_where(above, most)
        }
    }
}
