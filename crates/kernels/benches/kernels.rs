//! Fused against composed and stock operations: medians of paired ratios, forward alone and with the backward pass.
//!
//! Single times say little on a shared machine; in each round both versions run one after the other, and only their ratio counts.

#![allow(clippy::print_stdout)] // the table is the result

use acclimate_kernels::{
    Format, Matrix, Measure, Packed, Sinkhorn, Visible, attention, composed, gelu, gelu_tanh, layer_norm, moments,
    pairwise, rms_norm, rotary, sinkhorn, swiglu,
};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData, activation};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 15;

/// Prints how many times as long `other` takes as `ours`, with the lower and the upper quartile.
fn compare(name: &str, ours: impl Fn(), other: impl Fn()) {
    let time = |f: &dyn Fn()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    ours();
    other();
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            // Which runs first alternates.
            if round % 2 == 0 {
                let ours = time(&ours);
                time(&other) / ours
            } else {
                let other = time(&other);
                other / time(&ours)
            }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let [low, middle, high] = [ROUNDS / 4, ROUNDS / 2, ROUNDS * 3 / 4].map(|i| ratios[i]);
    println!("{name:<52} {middle:5.2}  ({low:.2}–{high:.2})");
}

/// Forward, and forward with backward, of two functions of tensors on the plain device.
fn compare_both<const N: usize>(
    name: &str,
    inputs: [Tensor<3>; N],
    ours: impl Fn([Tensor<3>; N]) -> Tensor<3>,
    other: impl Fn([Tensor<3>; N]) -> Tensor<3>,
) {
    let forward = |f: &dyn Fn([Tensor<3>; N]) -> Tensor<3>| {
        black_box(f(inputs.clone()));
    };
    compare(&format!("{name}, forward"), || forward(&ours), || forward(&other));
    let both = |f: &dyn Fn([Tensor<3>; N]) -> Tensor<3>| {
        let leaves = inputs.clone().map(|x| x.autodiff().require_grad());
        let grads = f(leaves.clone()).sum().backward();
        black_box(leaves.map(|x| x.grad(&grads)));
    };
    compare(&format!("{name}, with backward"), || both(&ours), || both(&other));
}

fn main() {
    let device = Device::flex();
    let normal = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let (batch, length, features, heads) = (16, 128, 384, 12);
    println!("time of other / time of fused, median (quartiles) of {ROUNDS} pairs");

    let wide = || [normal([batch, length, 4 * features])];
    compare_both("gelu against stock", wide(), |[x]| gelu(x), |[x]| activation::gelu(x));
    compare_both("gelu_tanh against composed", wide(), |[x]| gelu_tanh(x), |[x]| composed::gelu_tanh(x));

    let lengths: Vec<usize> = (0..batch).map(|row| length - row * length / (2 * batch)).collect();
    let mask = |hidden: f32| {
        let mask: Vec<f32> =
            (0..batch * length).map(|i| if i % length < lengths[i / length] { 0.0 } else { hidden }).collect();
        Visible::Keys(Tensor::<1>::from_floats(mask.as_slice(), &device).reshape([batch, length]))
    };
    for (name, hidden) in [("full", 0.0), ("padded −1e9", -1e9), ("padded −∞", f32::NEG_INFINITY)] {
        let mask = mask(hidden);
        let inputs = [0; 3].map(|_| normal([batch, length, features]));
        compare_both(
            &format!("attention, {name}, against composed"),
            inputs,
            |[q, k, v]| attention(q, k, v, &mask, heads),
            |[q, k, v]| composed::attention(q, k, v, &mask, heads),
        );
    }

    // Hidden keys must not cost more than others; subnormal numbers would make them cost several times as much.
    let (full, padded) = (mask(0.0), mask(-88.0));
    compare_both(
        "fused attention, padded −88, against full",
        [0; 3].map(|_| normal([batch, length, features])),
        |[q, k, v]| attention(q, k, v, &full, heads),
        |[q, k, v]| attention(q, k, v, &padded, heads),
    );

    let (scale, shift) = (Tensor::<1>::ones([features], &device), Tensor::<1>::zeros([features], &device));
    compare_both(
        "layer_norm against composed",
        [normal([batch, length, features])],
        |[x]| layer_norm(x, scale.clone(), shift.clone(), 1e-5),
        |[x]| composed::layer_norm(x, scale.clone(), shift.clone(), 1e-5),
    );

    // A decoder of width 576 with nine heads in three groups reads 512 words, as one text and as eight.
    let (length, features, inner, heads, groups) = (512, 576, 1536, 9, 3);
    for documents in [1, 8] {
        let start = |at: usize| at / (length / documents) * (length / documents);
        let runs = Visible::Runs((0..length).map(|at| [start(at) as u32, at as u32 + 1]).collect());
        let keys = features / heads * groups;
        compare_both(
            &format!("attention from left to right, {documents} texts, against composed"),
            [normal([1, length, features]), normal([1, length, keys]), normal([1, length, keys])],
            |[q, k, v]| attention(q, k, v, &runs, heads),
            |[q, k, v]| composed::attention(q, k, v, &runs, heads),
        );
    }
    let scale = Tensor::<1>::ones([features], &device);
    compare_both(
        "rms_norm against composed",
        [normal([1, length, features])],
        |[x]| rms_norm(x, scale.clone(), 1e-5),
        |[x]| composed::rms_norm(x, scale.clone(), 1e-5),
    );
    compare_both(
        "swiglu against composed",
        [0; 2].map(|_| normal([1, length, inner])),
        |[gate, up]| swiglu(gate, up),
        |[gate, up]| composed::swiglu(gate, up),
    );
    let (cos, sin) = (normal([1, length, features / heads / 2]).cos(), normal([1, length, features / heads / 2]).sin());
    compare_both(
        "rotary against composed",
        [normal([1, length, features])],
        |[x]| rotary(x, cos.clone(), sin.clone(), heads),
        |[x]| composed::rotary(x, cos.clone(), sin.clone(), heads),
    );
    packed_matrices(&device);
    steps(&device);
    pairs(&device);
}

/// A step of D-Adapt Adam over four million numbers, with gradients, and without any for so long that their moments vanish.
fn steps(device: &Device) {
    let step = moments::DadaptAdam { beta1: 0.9, beta2: 0.999, eps: 1e-8, rate: 1e-3, scale: 1.0 };
    let normal = |size: f64| Tensor::<1>::random([4 << 20], Distribution::Normal(0.0, size), device);
    for (name, size) in [("", 1.0), (", moments that vanish", 1.2e-38)] {
        let (g, state) = (normal(1.0) * if size < 1.0 { 0.0 } else { 1.0 }, [0; 3].map(|_| normal(size).abs()));
        compare(
            &format!("dadapt_adam{name}, against composed"),
            || drop(black_box(moments::dadapt_adam(g.clone(), state.clone(), step))),
            || drop(black_box(composed::dadapt_adam(g.clone(), state.clone(), step))),
        );
    }
}

/// Measures of a thousand rows, and transport between them; far rows have powers of e that vanish.
fn pairs(device: &Device) {
    let normal = |size: f64| Tensor::<2>::random([1000, 64], Distribution::Normal(0.0, size), device);
    for (name, size) in [("", 1.0), (", far", 4.0)] {
        let (x, y) = (normal(size), normal(size));
        for measure in [Measure::SquaredEuclidean, Measure::Rbf(0.05)] {
            compare(
                &format!("pairwise {measure:?}{name}, against composed"),
                || drop(black_box(pairwise(x.clone(), Some(y.clone()), measure))),
                || drop(black_box(composed::pairwise(x.clone(), y.clone(), false, measure))),
            );
        }
        let (cost, even) = (pairwise(x, Some(y), Measure::SquaredEuclidean), Tensor::<1>::full([1000], 1e-3, device));
        let settings = Sinkhorn { epsilon: 1.0, iterations: 5, tolerance: 0.0 };
        compare(
            &format!("sinkhorn{name}, five iterations, against composed"),
            || drop(black_box(sinkhorn(cost.clone(), even.clone(), even.clone(), &settings))),
            || drop(black_box(composed::sinkhorn(cost.clone(), even.clone(), even.clone(), &settings))),
        );
    }
}

/// A matrix of Q4_1 blocks with small factors.
fn packed(dims: [usize; 2], device: &Device) -> Packed {
    let format = Format::Q4_1;
    let count = dims[0] * dims[1] / format.block() * format.bytes();
    // Bytes 1 and 3 of a block hold the factors' exponents.
    let byte = |i: usize| if matches!(i % 20, 1 | 3) { 0x1C } else { (i * i / 7) as u8 };
    let bytes: Vec<u8> = (0..count).map(byte).collect();
    Packed::new(format, dims, bytes.into(), device).expect("the bytes were counted")
}

/// The sizes of a small language model.
fn packed_matrices(device: &Device) {
    let normal = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
    for (dims, rows) in [([1536, 576], 1), ([49_152, 576], 1), ([1536, 576], 4), ([1536, 576], 16), ([1536, 576], 512)]
    {
        let matrix = packed(dims, device);
        let (matrix, dense, x) = (Matrix::from(matrix.clone()), Matrix::from(matrix.dense()), normal([rows, dims[1]]));
        let name = format!("packed {dims:?}, {rows} rows, against dense");
        let forward = |matrix: &Matrix| {
            black_box(matrix.linear(x.clone(), None));
        };
        compare(&format!("{name}, forward"), || forward(&matrix), || forward(&dense));
        let both = |matrix: &Matrix| {
            let leaf = x.clone().autodiff().require_grad();
            black_box(leaf.grad(&matrix.linear(leaf.clone(), None).sum().backward()));
        };
        compare(&format!("{name}, with backward"), || both(&matrix), || both(&dense));
    }

    // Above, the caches keep a matrix from one call to the next. A decoder comes back to one only after all others.
    let layer = [[576, 576], [192, 576], [192, 576], [576, 576], [1536, 576], [1536, 576], [576, 1536]];
    let layers: Vec<Matrix> = (0..30).flat_map(|_| layer.map(|dims| packed(dims, device).into())).collect();
    let dense: Vec<Matrix> = layers.iter().map(|matrix| matrix.dense().into()).collect();
    for rows in [1, 4] {
        let inputs = [576, 1536].map(|width| normal([rows, width]));
        let pass = |matrices: &[Matrix]| {
            for matrix in matrices {
                black_box(matrix.linear(inputs[usize::from(matrix.dims()[1] > 576)].clone(), None));
            }
        };
        let name = format!("packed, 30 layers, {rows} rows, against dense, forward");
        compare(&name, || pass(&layers), || pass(&dense));
    }

    let (rows, outputs) = (256, 49_152);
    let matrix = packed([outputs, 576], device);
    let (matrix, dense, x) = (Matrix::from(matrix.clone()), Matrix::from(matrix.dense()), normal([rows, 576]));
    let ids: Vec<i64> = (0..rows).map(|i| (i * 191) as i64).collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [rows]), device);
    let composed = |x: Tensor<2>| {
        let scores = activation::log_softmax(dense.linear(x, None), 1);
        scores.gather(1, ids.clone().unsqueeze_dim(1)).squeeze_dim::<1>(1).neg()
    };
    for (kind, matrix) in [("packed", &matrix), ("dense", &dense)] {
        let fused = |x: Tensor<2>| matrix.cross_entropy(x, ids.clone());
        let forward = |f: &dyn Fn(Tensor<2>) -> Tensor<1>| {
            black_box(f(x.clone()));
        };
        let name = format!("{kind} cross_entropy against composed");
        compare(&format!("{name}, forward"), || forward(&fused), || forward(&composed));
        let both = |f: &dyn Fn(Tensor<2>) -> Tensor<1>| {
            let leaf = x.clone().autodiff().require_grad();
            black_box(leaf.grad(&f(leaf.clone()).sum().backward()));
        };
        compare(&format!("{name}, with backward"), || both(&fused), || both(&composed));
    }
}
