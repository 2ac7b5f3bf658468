//! Convolutions and norms by channel against the same formulas composed of Burn operations in f64.

#![allow(clippy::unwrap_used)] // a missing gradient or value is what these tests look for

mod common;

use acclimate_kernels::{Activation, Conv2d, add, batch_norm, channel_moments, composed, conv1d, conv2d, normalise};
use burn::tensor::{DType, Device, Tensor};
use common::{numbers, tensor, values};

fn random<const D: usize>(shape: [usize; D], seed: u64, kind: DType) -> Tensor<D> {
    tensor(&numbers(shape.iter().product(), seed), shape, kind)
}

fn tracked<const D: usize>(x: Tensor<D>, on: bool) -> Tensor<D> {
    if on { x.autodiff().require_grad() } else { x }
}

fn gradient<const D: usize>(x: &Tensor<D>, grads: &burn::tensor::Gradients, on: bool) -> Option<Vec<f64>> {
    on.then(|| values(x.grad(grads).unwrap()))
}

/// Asserts that two lists agree within `relative` of the largest number.
fn assert_close(name: &str, got: &[f64], wanted: &[f64], relative: f64) {
    assert_eq!(got.len(), wanted.len(), "{name}: sizes");
    let largest = wanted.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= relative * largest.max(1e-30), "{name}[{i}]: {got}, not {wanted} of {largest}");
        assert!(!(*got as f32).is_subnormal(), "{name}[{i}]: {got} is subnormal");
    }
}

/// The result, and the gradients of those inputs that were tracked.
type Outcome = (Vec<f64>, Vec<Option<Vec<f64>>>);

fn assert_outcomes(name: &str, got: &Outcome, wanted: &Outcome, relative: f64) {
    assert_close(name, &got.0, &wanted.0, relative);
    for (i, (got, wanted)) in got.1.iter().zip(&wanted.1).enumerate() {
        match (got, wanted) {
            (Some(got), Some(wanted)) => assert_close(&format!("{name}, gradient {i}"), got, wanted, relative),
            (None, None) => {}
            _ => panic!("{name}: gradient {i} given by one only"),
        }
    }
}

type Convolution = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, Conv2d) -> Tensor<4>;

fn conv_outcome(
    f: Convolution,
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    conv: Conv2d,
    which: [bool; 3],
) -> Outcome {
    let kind = x.dtype();
    let (x, weight) = (tracked(x, which[0]), tracked(weight, which[1]));
    let bias = bias.map(|bias| tracked(bias, which[2]));
    let out = f(x.clone(), weight.clone(), bias.clone(), conv);
    if which == [false; 3] {
        assert!(!out.is_autodiff(), "plain inputs must record nothing");
        return (values(out), vec![]);
    }
    let slopes = random(out.dims(), 99, kind);
    let grads = (out.clone() * slopes).sum().backward();
    let bias = bias.and_then(|bias| gradient(&bias, &grads, which[2]));
    (values(out), vec![gradient(&x, &grads, which[0]), gradient(&weight, &grads, which[1]), bias])
}

/// Input `[batch, channels, height, width]`, outputs, kernel, and the walk.
type Case = ([usize; 4], usize, [usize; 2], Conv2d);

fn plain() -> Conv2d {
    Conv2d::default()
}

fn padded(pad: usize, stride: usize) -> Conv2d {
    Conv2d { stride: [stride; 2], padding: [[pad; 2]; 2], ..plain() }
}

/// Odd sizes, every path, several panels of pixels, several parts of channels, a kernel wider than its input.
fn cases() -> Vec<Case> {
    let depthwise = |channels, conv| Conv2d { groups: channels, ..conv };
    let uneven = Conv2d { padding: [[0, 1], [2, 3]], ..plain() };
    vec![
        ([2, 3, 9, 7], 5, [3, 3], padded(1, 1)),
        ([3, 70, 5, 5], 9, [3, 3], padded(1, 1)),
        ([5, 4, 4, 4], 17, [3, 3], padded(1, 2)),
        ([1, 2, 20, 33], 8, [3, 3], padded(1, 2)),
        ([2, 6, 8, 8], 6, [1, 1], padded(0, 2)),
        ([3, 11, 7, 7], 13, [1, 1], plain()),
        ([1, 2, 1, 1], 3, [3, 3], padded(1, 1)),
        ([3, 19, 9, 13], 21, [3, 3], padded(1, 1)),
        ([2, 16, 14, 16], 40, [3, 3], padded(2, 1)),
        ([3, 32, 16, 10], 32, [3, 3], Conv2d { groups: 2, ..plain() }),
        ([2, 4, 6, 9], 4, [2, 3], uneven),
        ([2, 4, 11, 12], 6, [3, 2], Conv2d { stride: [3, 2], dilation: [2, 3], groups: 2, ..padded(2, 1) }),
        ([1, 3, 6, 6], 4, [3, 3], Conv2d { stride: [2, 1], ..plain() }),
        ([2, 3, 9, 7], 3, [3, 3], depthwise(3, padded(1, 1))),
        ([1, 2, 40, 41], 2, [5, 5], depthwise(2, padded(2, 1))),
        ([2, 3, 13, 12], 3, [5, 5], depthwise(3, Conv2d { stride: [2, 2], padding: [[1, 2], [2, 2]], ..plain() })),
        ([2, 3, 8, 9], 3, [3, 3], depthwise(3, Conv2d { stride: [2, 3], padding: [[0, 1]; 2], ..plain() })),
        ([1, 2, 9, 9], 2, [3, 2], depthwise(2, Conv2d { dilation: [2, 3], stride: [1, 2], ..padded(3, 1) })),
        ([2, 3, 5, 6], 6, [3, 3], Conv2d { groups: 3, ..padded(1, 1) }),
        ([1, 1, 1, 300], 2, [1, 9], Conv2d { padding: [[0, 0], [4, 4]], ..plain() }),
    ]
}

#[test]
fn convolutions_are_those_of_burn_in_f64() {
    for (shape, outputs, [rows, columns], conv) in cases() {
        let name = format!("{shape:?} to {outputs} by {rows}×{columns}, {conv:?}");
        let kernel = [outputs, shape[1] / conv.groups, rows, columns];
        let run = |f: Convolution, kind, bias: bool, which| {
            let bias = bias.then(|| random([outputs], 3, kind));
            conv_outcome(f, random(shape, 1, kind), random(kernel, 2, kind), bias, conv, which)
        };
        for (bias, which) in [
            (true, [true, true, true]),
            (false, [true, false, false]),
            (true, [false, true, false]),
            (true, [false, false, true]),
            (true, [false; 3]),
        ] {
            let (got, wanted) = (run(conv2d, DType::F32, bias, which), run(composed::conv2d, DType::F64, bias, which));
            // A sum of up to 1600 products in f32, each within 6e-8 of numbers that mostly cancel.
            assert_outcomes(&name, &got, &wanted, 4e-6);
        }
    }
}

#[test]
fn a_line_is_convolved_like_a_row() {
    let run = |kind| {
        let conv = Conv2d { stride: [7, 2], padding: [[9, 9], [1, 2]], ..plain() };
        let (x, weight) = (random([2, 4, 13], 1, kind), random([6, 4, 3], 2, kind));
        values(conv1d(x, weight, Some(random([6], 3, kind)), conv))
    };
    let (got, wanted) = (run(DType::F32), run(DType::F64));
    assert_eq!(got.len(), 2 * 6 * 7);
    assert_close("line", &got, &wanted, 1e-6);
}

#[test]
fn strided_inputs_are_read_right() {
    for groups in [1, 4] {
        let run = |f: Convolution, kind| {
            let x = random([2, 9, 8, 6], 1, kind).swap_dims(1, 3).narrow(1, 1, 4);
            let weight = random([3, 4 / groups, 3, 4], 2, kind).swap_dims(0, 3);
            conv_outcome(f, x, weight, None, Conv2d { groups, ..padded(1, 1) }, [true, true, false])
        };
        assert_outcomes("strided", &run(conv2d, DType::F32), &run(composed::conv2d, DType::F64), 2e-6);
    }
}

#[test]
fn empty_inputs_give_zeros_and_the_bias() {
    let bias = || Some(tensor(&[1.0, 2.0], [2], DType::F32));
    let out = conv2d(random([0, 3, 4, 4], 1, DType::F32), random([2, 3, 3, 3], 2, DType::F32), bias(), plain());
    assert_eq!(out.dims(), [0, 2, 2, 2]);
    let out = conv2d(random([1, 0, 1, 2], 1, DType::F32), random([2, 0, 1, 1], 2, DType::F32), bias(), plain());
    assert_eq!(values(out), [1.0, 1.0, 2.0, 2.0]);
    let x = random([0, 3, 4, 4], 1, DType::F32);
    let ones = || Tensor::ones([3], (&Device::flex(), DType::F32));
    assert_eq!(batch_norm(x.clone(), [ones(), ones()], 1e-5, Activation::Relu).dims(), [0, 3, 4, 4]);
    assert_eq!(normalise(x, [ones(), ones()], [ones(), ones()], 1e-5, Activation::Identity).dims(), [0, 3, 4, 4]);
}

#[test]
fn infinities_and_nan_reach_the_pixels_that_see_them() {
    for (groups, bad) in [(1, f64::INFINITY), (1, f64::NAN), (2, f64::NEG_INFINITY), (2, f64::NAN)] {
        let mut x = numbers(2 * 2 * 36, 1);
        x[2 * 36 + 14] = bad;
        let run = |f: Convolution, kind| {
            let weight = random([2, 2 / groups, 3, 3], 2, kind);
            values(f(tensor(&x, [2, 2, 6, 6], kind), weight, None, Conv2d { groups, ..padded(1, 1) }))
        };
        for (i, (got, wanted)) in run(conv2d, DType::F32).iter().zip(run(composed::conv2d, DType::F64)).enumerate() {
            if wanted.is_finite() {
                assert!((got - wanted).abs() < 1e-5, "{i}: {got}, not {wanted}");
            } else {
                assert!(
                    got.is_nan() == wanted.is_nan() && (got.is_nan() || *got == wanted),
                    "{i}: {got}, not {wanted}"
                );
            }
        }
    }
}

#[test]
fn infinities_do_not_spread_to_neighbours_in_the_fast_way() {
    for bad in [f64::INFINITY, f64::NAN] {
        let mut x = numbers(16 * 400, 1);
        x[5 * 400 + 123] = bad;
        let run = |f: Convolution, kind| {
            values(f(tensor(&x, [1, 16, 20, 20], kind), random([16, 16, 3, 3], 2, kind), None, padded(1, 1)))
        };
        let (got, wanted) = (run(conv2d, DType::F32), run(composed::conv2d, DType::F64));
        assert_eq!(wanted.iter().filter(|x| !x.is_finite()).count(), 9 * 16);
        assert!(got.iter().zip(&wanted).all(|(got, wanted)| got.is_finite() == wanted.is_finite()));
    }
}

#[test]
fn tiny_numbers_become_zero_and_not_subnormal() {
    for groups in [1, 4] {
        let x = random([2, 4, 9, 9], 1, DType::F32) * 1e-30;
        let weight = random([4, 4 / groups, 3, 3], 2, DType::F32) * 1e-9;
        let (out, grads) =
            conv_outcome(conv2d, x, weight, None, Conv2d { groups, ..padded(1, 1) }, [true, true, false]);
        assert!(out.iter().chain(grads.iter().flatten().flatten()).all(|x| !(*x as f32).is_subnormal()));
        assert!(out.contains(&0.0), "some results must be too small");
    }
}

#[test]
#[should_panic(expected = "does not fit into")]
fn a_kernel_beyond_its_input_is_refused() {
    conv2d(random([1, 1, 2, 2], 1, DType::F32), random([1, 1, 3, 3], 2, DType::F32), None, plain());
}

type Norm = fn(Tensor<4>, [Tensor<1>; 4], Activation) -> Tensor<4>;

/// Inputs `x`, mean, variance, scale and shift; those tracked get gradients.
fn norm_outcome(f: Norm, shape: [usize; 4], kind: DType, activation: Activation, which: [bool; 5]) -> Outcome {
    let channels = shape[1];
    // Scales that take many numbers beyond both bounds of ReLU6, and a mean that dwarfs the spread.
    let x = tracked((random(shape, 1, DType::F32) + 30.0).cast(kind), which[0]);
    let vector = |seed, size: f64, base: f64| (random([channels], seed, DType::F32) * size + base).cast(kind);
    let plain = [vector(2, 0.5, 30.0), vector(3, 0.2, 0.5), vector(4, 4.0, 1.0), vector(5, 2.0, 1.0)];
    let mut i = 0;
    let vectors = plain.map(|v| {
        i += 1;
        tracked(v, which[i])
    });
    let out = f(x.clone(), vectors.clone(), activation);
    if which == [false; 5] {
        assert!(!out.is_autodiff());
        return (values(out), vec![]);
    }
    let grads = (out.clone() * random(shape, 98, kind)).sum().backward();
    let rest = vectors.iter().zip(&which[1..]).map(|(v, on)| gradient(v, &grads, *on));
    (values(out), std::iter::once(gradient(&x, &grads, which[0])).chain(rest).collect())
}

const SHAPES: [[usize; 4]; 4] = [[3, 5, 7, 9], [2, 3, 2, 1], [1, 2, 40, 70], [33, 3, 4, 4]];

#[test]
fn normalising_is_that_of_burn_in_f64() {
    let fused: Norm = |x, [m, v, a, b], after| normalise(x, [m, v], [a, b], 1e-3, after);
    let reference: Norm = |x, [m, v, a, b], after| composed::normalise(x, [m, v], [a, b], 1e-3, after);
    for shape in SHAPES {
        for after in [Activation::Identity, Activation::Relu, Activation::Relu6] {
            for which in [
                [true; 5],
                [true, false, false, false, false],
                [false, false, false, true, true],
                [false, true, false, false, false],
                [true, false, true, false, true],
                [false; 5],
            ] {
                let got = norm_outcome(fused, shape, DType::F32, after, which);
                let wanted = norm_outcome(reference, shape, DType::F64, after, which);
                // A few roundings, and sums of up to 2800 numbers that mostly cancel.
                assert_outcomes(&format!("{shape:?} {after:?} {which:?}"), &got, &wanted, 1e-5);
            }
        }
    }
}

#[test]
fn norms_by_own_moments_are_those_of_burn_in_f64() {
    let fused: Norm = |x, [_, _, a, b], after| batch_norm(x, [a, b], 1e-3, after);
    let pieces: Norm = |x, [_, _, a, b], after| {
        let (mean, variance) = channel_moments(x.clone());
        normalise(x, [mean, variance], [a, b], 1e-3, after)
    };
    let reference: Norm = |x, [_, _, a, b], after| {
        let (mean, variance) = composed::channel_moments(x.clone());
        composed::normalise(x, [mean, variance], [a, b], 1e-3, after)
    };
    for shape in SHAPES {
        for after in [Activation::Identity, Activation::Relu, Activation::Relu6] {
            for which in [
                [true, false, false, true, true],
                [false, false, false, true, true],
                [true, false, false, false, false],
            ] {
                let wanted = norm_outcome(reference, shape, DType::F64, after, which);
                for f in [fused, pieces] {
                    let got = norm_outcome(f, shape, DType::F32, after, which);
                    // The mean, about 30, is rounded to 2e-6, which a factor up to 10 enlarges.
                    assert_outcomes(&format!("{shape:?} {after:?} {which:?}"), &got, &wanted, 5e-5);
                }
            }
        }
    }
}

#[test]
fn a_variance_far_from_zero_keeps_its_digits() {
    let x = random([8, 2, 16, 16], 1, DType::F32) * 0.01 + 1000.0;
    let ((mean, variance), (wanted_mean, wanted)) =
        (channel_moments(x.clone()), composed::channel_moments(x.cast(DType::F64)));
    assert_close("mean", &values(mean), &values(wanted_mean), 1e-7);
    // The f32 inputs are the same; the mean is rounded to 6e-5, whose square is a thousandth of a thousandth of the variance.
    assert_close("variance", &values(variance), &values(wanted), 2e-4);
}

#[test]
fn sums_are_clipped_and_pass_gradients_between_the_bounds() {
    for after in [Activation::Identity, Activation::Relu, Activation::Relu6] {
        let run = |f: fn(Tensor<2>, Tensor<2>, Activation) -> Tensor<2>, kind| {
            let [x, y] = [1, 2].map(|seed| tracked(random([37, 500], seed, kind) * 6.0, true));
            let out = f(x.clone(), y.clone(), after);
            let grads = (out.clone() * random([37, 500], 3, kind)).sum().backward();
            (values(out), vec![gradient(&x, &grads, true), gradient(&y, &grads, true)])
        };
        let (got, wanted) = (run(add, DType::F32), run(|x, y, after| composed::activate(x + y, after), DType::F64));
        assert_outcomes(&format!("{after:?}"), &got, &wanted, 1e-6);
    }
    let x = tensor(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY], [3], DType::F32);
    let out = values(add(x.clone(), x.zeros_like(), Activation::Relu6));
    assert!(out[0].is_nan());
    assert_eq!(out[1..], [6.0, 0.0]);
}
