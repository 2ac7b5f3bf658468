//! Products with dense weights and low-rank updates: against the same formula in f64, with gradients, odd shapes, views and nothing at all.

#![allow(clippy::unwrap_used)] // a missing gradient is what these tests look for

mod common;

use acclimate_kernels::{Format, Matrix, Packed};
use burn::tensor::{DType, Device, Tensor};
use common::{numbers, tensor, values};

/// Numbers between −1 and 1 that look random, the same for the same shape.
fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let seed = shape.iter().fold(1, |seed, size| 31 * seed + *size as u64);
    tensor(&numbers(shape.iter().product(), seed), shape, DType::F32)
}

/// The difference must stay within `allowed` of the largest number.
fn assert_close<const D: usize>(what: &str, got: Tensor<D>, wanted: Tensor<D>, allowed: f64) {
    assert_eq!(got.dims(), wanted.dims(), "{what}");
    let (got, wanted) = (values(got), values(wanted));
    let most = wanted.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(&wanted).enumerate() {
        assert!((a - b).abs() <= allowed * most, "{what}, number {i}: {a}, not {b}");
    }
}

/// `x·Wᵀ + bias + factor·(x·aᵀ)·bᵀ` in f64 and the gradients of all five, for the upstream gradient `g`.
fn composed(
    inputs: [Tensor<2>; 4],
    bias: Tensor<1>,
    factor: f64,
    g: &Tensor<2>,
) -> (Tensor<2>, [Tensor<2>; 4], Tensor<1>) {
    let leaves = inputs.map(|x| x.cast(DType::F64).autodiff().require_grad());
    let bias = bias.cast(DType::F64).autodiff().require_grad();
    let [x, w, a, b] = leaves.clone();
    let update = (x.clone().matmul(a.transpose()) * factor).matmul(b.transpose());
    let out = x.matmul(w.transpose()) + update + bias.clone().unsqueeze();
    let grads = (out.clone() * g.clone().cast(DType::F64).autodiff()).sum().backward();
    let gradients = leaves.map(|x| x.grad(&grads).unwrap_or_else(|| x.inner().zeros_like()));
    (out.inner(), gradients, bias.grad(&grads).unwrap())
}

const SHAPES: [[usize; 4]; 8] = [
    // Rows, outputs, inputs, rank.
    [1, 1, 1, 1],
    [3, 40, 17, 2],
    [32, 33, 100, 8],
    [33, 16, 5, 4],
    [70, 64, 96, 8],
    [130, 7, 2100, 3],
    [45, 2100, 9, 1],
    [200, 35, 31, 12],
];

#[test]
fn low_rank_updates_and_all_gradients_agree_with_f64() {
    for [rows, outputs, inputs, rank] in SHAPES {
        let all = [random([rows, inputs]), random([outputs, inputs]), random([rank, inputs]), random([outputs, rank])];
        let (bias, g, factor) = (random([outputs]), random([rows, outputs]), 0.75);
        let name = format!("{rows}×{outputs}×{inputs}, rank {rank}");
        let (wanted, [dx, _, da, db], dbias) = composed(all.clone(), bias.clone(), factor, &g);
        let [x, w, a, b] = all;
        let plain = Matrix::from(w.clone()).low_rank(x.clone(), Some(bias.clone()), [a.clone(), b.clone()], factor);
        let leaves = [x, a, b].map(|x| x.autodiff().require_grad());
        let bias = bias.autodiff().require_grad();
        let [x, a, b] = leaves.clone();
        let out = Matrix::from(w).low_rank(x, Some(bias.clone()), [a, b], factor);
        assert_eq!(values(out.clone().inner()), values(plain), "{name}: tracked and plain are the same");
        assert_close(&name, out.clone().inner(), wanted, 2e-6);
        let grads = (out * g.autodiff()).sum().backward();
        for (what, leaf, wanted) in [("x", &leaves[0], dx), ("a", &leaves[1], da), ("b", &leaves[2], db)] {
            assert_close(&format!("{name}, gradient of {what}"), leaf.grad(&grads).unwrap(), wanted, 2e-6);
        }
        assert_close(&format!("{name}, gradient of the bias"), bias.grad(&grads).unwrap(), dbias, 2e-6);
    }
}

#[test]
fn weights_have_gradients_where_they_are_trained() {
    for [rows, outputs, inputs, _] in SHAPES {
        let (x, w) = (random([rows, inputs]), random([outputs, inputs]));
        let (bias, g) = (random([outputs]), random([rows, outputs]));
        let none = [Tensor::zeros([1, inputs], &Device::flex()), Tensor::zeros([outputs, 1], &Device::flex())];
        let [a, b] = none;
        let (wanted, [dx, dw, ..], dbias) = composed([x.clone(), w.clone(), a, b], bias.clone(), 1.0, &g);
        let leaves = [x, w].map(|x| x.autodiff().require_grad());
        let bias = bias.autodiff().require_grad();
        let [x, w] = leaves.clone();
        let out = Matrix::from(w).linear(x, Some(bias.clone()));
        let name = format!("{rows}×{outputs}×{inputs}");
        assert_close(&name, out.clone().inner(), wanted, 2e-6);
        let grads = (out * g.autodiff()).sum().backward();
        assert_close(&format!("{name}, gradient of x"), leaves[0].grad(&grads).unwrap(), dx, 2e-6);
        assert_close(&format!("{name}, gradient of the weight"), leaves[1].grad(&grads).unwrap(), dw, 2e-6);
        assert_close(&format!("{name}, gradient of the bias"), bias.grad(&grads).unwrap(), dbias, 2e-6);
    }
}

/// Finite differences of the kernel itself.
#[test]
fn gradients_are_slopes() {
    let (x, w, a, b) = (random([5, 6]), random([4, 6]), random([2, 6]), random([4, 2]));
    let f = |x: Tensor<2>, a: Tensor<2>, b: Tensor<2>| {
        Matrix::from(w.clone()).low_rank(x, None, [a, b], 0.5).powf_scalar(2.0).sum()
    };
    let leaves = [x.clone(), a.clone(), b.clone()].map(|x| x.autodiff().require_grad());
    let [tx, ta, tb] = leaves.clone();
    let grads = f(tx, ta, tb).backward();
    for (which, leaf) in leaves.iter().enumerate() {
        let gradient = leaf.grad(&grads).unwrap();
        let direction = random(gradient.dims());
        let along: f64 = values((gradient * direction.clone()).sum())[0];
        let step = 1e-2;
        let moved = |sign: f64| {
            let mut at = [x.clone(), a.clone(), b.clone()];
            at[which] = at[which].clone() + direction.clone() * (sign * step);
            let [x, a, b] = at;
            values(f(x, a, b))[0]
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        assert!((along - slope).abs() <= 2e-3 * (1.0 + slope.abs()), "{which}: {along}, not {slope}");
    }
}

#[test]
fn views_are_read_as_they_lie() {
    let (x, w) = (random([40, 9]), random([9, 20]));
    let (view, weight) = (x.clone().transpose().narrow(0, 2, 5), w.clone().transpose().narrow(1, 1, 7));
    let narrow = view.clone().narrow(1, 3, 7);
    let out = Matrix::from(weight.clone()).linear(narrow.clone(), None);
    let wanted = narrow.cast(DType::F64).matmul(weight.cast(DType::F64).transpose());
    assert_close("views", out, wanted, 2e-6);
}

#[test]
fn nothing_gives_nothing() {
    let empty = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &Device::flex());
    let bias = random([4]);
    let linear = |x: Tensor<2>, w: Tensor<2>| Matrix::from(w).linear(x, None);
    assert_eq!(linear(empty([0, 3]), random([4, 3])).dims(), [0, 4]);
    assert_eq!(linear(random([5, 3]), empty([0, 3])).dims(), [5, 0]);
    // A sum of nothing is the bias.
    let out = Matrix::from(empty([4, 0])).linear(empty([2, 0]), Some(bias.clone()));
    assert_eq!(values(out), [values(bias.clone()), values(bias)].concat());
    let leaf = empty([0, 3]).autodiff().require_grad();
    let grads = Matrix::from(random([4, 3])).linear(leaf.clone(), None).sum().backward();
    assert_eq!(leaf.grad(&grads).unwrap().dims(), [0, 3]);
}

#[test]
fn infinities_and_nan_go_where_they_must() {
    let device = Device::flex();
    let x = Tensor::<2>::from_floats([[f32::INFINITY, 1.0], [f32::NAN, 1.0], [1.0, 1.0]], &device);
    let w = Tensor::<2>::from_floats([[1.0, 2.0], [-1.0, 2.0], [0.0, 2.0]], &device);
    let out = values(Matrix::from(w).linear(x, None));
    assert_eq!(out[..2], [f64::INFINITY, f64::NEG_INFINITY]);
    assert!(out[2..6].iter().all(|x| x.is_nan()));
    assert_eq!(out[6..], [3.0, 1.0, 2.0]);
}

#[test]
fn packed_weights_take_low_rank_updates() {
    for rows in [2, 50] {
        let bytes: Vec<u8> = (0..40 * 2 * 34).map(|i| if i % 34 == 1 { 0x2C } else { (i * 31 % 251) as u8 }).collect();
        let matrix = Packed::new(Format::Q8_0, [40, 64], bytes.into(), &Device::flex()).unwrap();
        let (x, a, b, g) = (random([rows, 64]), random([3, 64]), random([40, 3]), random([rows, 40]));
        let (bias, dense) = (random([40]), matrix.dense());
        let (wanted, [dx, _, da, db], _) = composed([x.clone(), dense, a.clone(), b.clone()], bias.clone(), 2.0, &g);
        let leaves = [x, a, b].map(|x| x.autodiff().require_grad());
        let [x, a, b] = leaves.clone();
        let out = Matrix::from(matrix).low_rank(x, Some(bias), [a, b], 2.0);
        assert_close("result", out.clone().inner(), wanted, 2e-6);
        let grads = (out * g.autodiff()).sum().backward();
        for (what, leaf, wanted) in [("x", &leaves[0], dx), ("a", &leaves[1], da), ("b", &leaves[2], db)] {
            assert_close(what, leaf.grad(&grads).unwrap(), wanted, 2e-6);
        }
    }
}
