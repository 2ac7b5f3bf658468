//! The same functions composed of Burn operations: what runs on other devices and number types, and the reference in tests.

use crate::moments::{Adamw, DadaptAdam, DadaptAdamStep};
use crate::pairwise::Measure;
use crate::sinkhorn::{Sinkhorn, Transport};
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

/// [`channel_moments`](crate::channel_moments).
pub fn channel_moments(x: Tensor<4>) -> (Tensor<1>, Tensor<1>) {
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

/// [`moments::adamw`](crate::moments::adamw).
pub fn adamw(g: Tensor<1>, [m, v]: [Tensor<1>; 2], step: Adamw) -> (Tensor<1>, [Tensor<1>; 2]) {
    let Adamw { beta1, beta2, root, eps, rate } = step;
    let m = m * beta1 + g.clone() * (1.0 - beta1);
    let v = v * beta2 + g.square() * (1.0 - beta2);
    (m.clone() / (v.clone().sqrt() / root + eps) * -rate, [m, v])
}

/// [`moments::dadapt_adam`](crate::moments::dadapt_adam).
pub fn dadapt_adam(g: Tensor<1>, [m, v, s]: [Tensor<1>; 3], step: DadaptAdam) -> DadaptAdamStep {
    let DadaptAdam { beta1, beta2, eps, rate, scale } = step;
    let b = beta2.sqrt();
    let product = wide(g.clone() * (s.clone() / (v.clone().sqrt() + eps))).sum();
    let m = m * beta1 + g.clone() * (scale * rate * (1.0 - beta1));
    let v = v * beta2 + g.clone().square() * (1.0 - beta2);
    let s = s * b + g * (rate * (1.0 - b));
    let norm = wide(s.clone().abs()).sum();
    let movement = -m.clone() / (v.clone().sqrt() + eps);
    DadaptAdamStep { movement, state: [m, v, s], product, norm }
}

/// [`moments::moved`](crate::moments::moved).
pub fn moved(x: Tensor<1>, movement: Tensor<1>, factor: f64) -> (Tensor<1>, Tensor<1>) {
    let x = if factor == 1.0 { x } else { x * factor };
    let next = x + movement;
    (next.clone(), wide(next.abs()).sum())
}

/// The potentials of [`sinkhorn`](crate::sinkhorn), the iterations and the last error.
pub fn sinkhorn(
    cost: Tensor<2>,
    a: Tensor<1>,
    b: Tensor<1>,
    settings: &Sinkhorn,
) -> (Tensor<1>, Tensor<1>, usize, f64) {
    let ([n, m], epsilon) = (cost.dims(), settings.epsilon);
    let scores = cost / -epsilon;
    let (log_a, log_b) = (a.log().reshape([n, 1]), b.clone().log().reshape([1, m]));
    let (mut f, mut g) = (log_a.zeros_like(), log_b.zeros_like());
    let (mut iterations, mut error) = (0, f64::INFINITY);
    while iterations < settings.iterations && error > settings.tolerance {
        f = -log_sum(scores.clone() + log_b.clone() + g.clone(), 1);
        let log = log_sum(scores.clone() + log_a.clone() + f.clone(), 0);
        let off = ((g + log.clone()).exp() - 1.0).abs().reshape([m]) * b.clone();
        // A place without mass may have an infinite potential.
        let off = off.mask_fill(b.clone().equal_elem(0.0), 0.0).sum();
        error = off.into_data().iter::<f64>().sum();
        g = -log;
        iterations += 1;
    }
    ((f * epsilon).reshape([n]), (g * epsilon).reshape([m]), iterations, error)
}

/// `log Σ exp(x)` along an axis; −∞ where all are.
fn log_sum(x: Tensor<2>, axis: usize) -> Tensor<2> {
    let least = if x.dtype() == DType::F16 { -65_504.0 } else { f64::from(f32::MIN) };
    let most = x.clone().max_dim(axis).clamp_min(least);
    (x - most.clone()).exp().sum_dim(axis).log() + most
}

/// [`pairwise`](crate::pairwise), of `x` and itself if `same`.
pub fn pairwise(x: Tensor<2>, y: Tensor<2>, same: bool, measure: Measure) -> Tensor<2> {
    let ([n, features], [m, _]) = (x.dims(), y.dims());
    let squares = |x: Tensor<2>| (x.clone() * x).sum_dim(1);
    let products = |x: Tensor<2>, y: Tensor<2>| x.matmul(y.transpose());
    let sums = match measure {
        _ if n * m == 0 => return Tensor::zeros([n, m], (&x.device(), x.dtype())),
        Measure::SquaredEuclidean | Measure::Rbf(_) => {
            let both = squares(x.clone()) + squares(y.clone()).transpose();
            (both - products(x, y) * 2.0).clamp_min(0.0)
        }
        Measure::L1 | Measure::Laplace(_) => {
            let (x, y) = (x.reshape([n, 1, features]), y.reshape([1, m, features]));
            (x - y).abs().sum_dim(2).reshape([n, m])
        }
        Measure::Cosine => {
            // A row of zeros keeps its products of zero.
            let norm = |x: Tensor<2>| {
                let square = squares(x);
                square.clone().mask_fill(square.equal_elem(0.0), 1.0).sqrt()
            };
            let lengths = norm(x.clone()) * norm(y.clone()).transpose();
            (-products(x, y) / lengths + 1.0).clamp(0.0, 2.0)
        }
    };
    let out = match measure {
        Measure::Rbf(gamma) | Measure::Laplace(gamma) => (sums * -gamma).exp(),
        _ => sums,
    };
    if !same {
        return out;
    }
    let diagonal = Tensor::<2>::eye(n, &out.device()).equal_elem(1.0);
    out.mask_fill(diagonal, measure.own())
}

/// [`plan`](crate::plan).
pub fn plan(solution: &Transport, cost: Tensor<2>, a: Tensor<1>, b: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [n, m] = cost.dims();
    let rows = (solution.f.clone() / epsilon + a.log()).reshape([n, 1]);
    let columns = (solution.g.clone() / epsilon + b.log()).reshape([1, m]);
    (rows + columns - cost / epsilon).exp()
}

/// [`moments::squares`](crate::moments::squares).
pub fn squares(x: Tensor<1>) -> Tensor<1> {
    wide(x).square().sum()
}

fn wide(x: Tensor<1>) -> Tensor<1> {
    x.cast(DType::F64)
}
