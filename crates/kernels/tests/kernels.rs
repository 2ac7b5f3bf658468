//! Kernels against the same formulas composed of Burn operations in f64, and those against differences and known numbers.

#![allow(clippy::unwrap_used)] // a missing gradient or value is what these tests look for

mod common;

use acclimate_kernels::{Visible, attention, composed, gelu, gelu_tanh, layer_norm, rms_norm, rotary, swiglu};
use burn::tensor::{DType, Device, Tensor};
use common::{numbers, tensor, values};

fn random<const D: usize>(shape: [usize; D], size: f64, seed: u64, kind: DType) -> Tensor<D> {
    let values: Vec<f64> = numbers(shape.iter().product(), seed).into_iter().map(|x| x * size).collect();
    tensor(&values, shape, kind)
}

fn tracked<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.autodiff().require_grad()
}

/// Asserts that two tensors agree within `relative` of the number or of the tensor's largest.
fn assert_close(name: &str, got: &[f64], wanted: &[f64], relative: f64) {
    assert_eq!(got.len(), wanted.len(), "{name}: sizes");
    let largest = wanted.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= relative * largest.max(1e-30), "{name}[{i}]: {got}, not {wanted} of {largest}");
        assert!(!(*got as f32).is_subnormal(), "{name}[{i}]: {got} is subnormal");
    }
}

/// Result and gradients of one function of rank-3 tensors and vectors, with a random gradient coming in; an input not tracked gives none.
type Outcome = (Vec<f64>, Vec<Option<Vec<f64>>>);

fn attention_outcome(
    f: fn(Tensor<3>, Tensor<3>, Tensor<3>, &Visible, usize) -> Tensor<3>,
    [q, k, v]: [Tensor<3>; 3],
    visible: Visible,
    heads: usize,
    which: [bool; 3],
) -> Outcome {
    let kind = q.dtype();
    let [q, k, v] = [(q, which[0]), (k, which[1]), (v, which[2])].map(|(x, on)| if on { tracked(x) } else { x });
    let out = f(q.clone(), k.clone(), v.clone(), &visible, heads);
    let weight = random(out.dims(), 1.0, 99, kind);
    if which == [false; 3] {
        assert!(!out.is_autodiff(), "plain inputs must record nothing");
        return (values(out), vec![None, None, None]);
    }
    let grads = (out.clone() * weight).sum().backward();
    (values(out), [q, k, v].into_iter().zip(which).map(|(x, on)| on.then(|| values(x.grad(&grads).unwrap()))).collect())
}

fn norm_outcome(
    f: fn(Tensor<3>, Tensor<1>, Tensor<1>, f64) -> Tensor<3>,
    x: Tensor<3>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    which: [bool; 3],
) -> Outcome {
    let x = if which[0] { tracked(x) } else { x };
    let [scale, shift] = [(scale, which[1]), (shift, which[2])].map(|(x, on)| if on { tracked(x) } else { x });
    let out = f(x.clone(), scale.clone(), shift.clone(), 1e-5);
    if which == [false; 3] {
        assert!(!out.is_autodiff());
        return (values(out), vec![None, None, None]);
    }
    let weight = random(out.dims(), 1.0, 98, x.dtype());
    let grads = (out.clone() * weight).sum().backward();
    let dx = which[0].then(|| values(x.grad(&grads).unwrap()));
    let rest = [(scale, which[1]), (shift, which[2])].map(|(x, on)| on.then(|| values(x.grad(&grads).unwrap())));
    (values(out), std::iter::once(dx).chain(rest).collect())
}

fn unary_outcome(f: fn(Tensor<2>) -> Tensor<2>, x: Tensor<2>) -> [Vec<f64>; 2] {
    let (x, weight) = (tracked(x.clone()), random(x.dims(), 1.0, 97, x.dtype()));
    let out = f(x.clone());
    let grads = (out.clone() * weight).sum().backward();
    [values(out), values(x.grad(&grads).unwrap())]
}

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

/// Inputs of attention in one number type: queries, keys and values, mask.
fn attention_inputs(
    [batch, queries, keys, features]: [usize; 4],
    size: f64,
    hidden: f64,
    kind: DType,
) -> ([Tensor<3>; 3], Visible) {
    let q = random([batch, queries, features], size, 1, kind);
    let [k, v] = [2, 3].map(|seed| random([batch, keys, features], size, seed, kind));
    // Row by row a longer tail is hidden, never all.
    let mask: Vec<f64> = (0..batch * keys)
        .map(|i| if i % keys >= keys.saturating_sub(i / keys * 3).max(1) { hidden } else { 0.0 })
        .collect();
    ([q, k, v], Visible::Keys(tensor(&mask, [batch, keys], kind)))
}

#[test]
fn gelu_is_exact_to_the_last_digits() {
    let grid: Vec<f64> = (0..4001).map(|i| f64::from((i as f32 - 2000.0) * 0.01)).collect();
    for (ours, reference) in [
        (gelu as fn(Tensor<2>) -> Tensor<2>, composed::gelu as fn(Tensor<2>) -> Tensor<2>),
        (gelu_tanh, composed::gelu_tanh),
    ] {
        let got = unary_outcome(ours, tensor(&grid, [1, 4001], DType::F32));
        let wanted = unary_outcome(reference, tensor(&grid, [1, 4001], DType::F64));
        assert_close("value", &got[0], &wanted[0], 1e-6);
        assert_close("gradient", &got[1], &wanted[1], 1e-6);
        // In f64 the composed tail cancels below −7; above that every number is right relative to itself.
        for ((x, got), wanted) in grid.iter().zip(&got[0]).zip(&wanted[0]).filter(|((x, _), _)| **x > -5.0) {
            assert!((got - wanted).abs() <= 1e-5 * wanted.abs(), "gelu({x}) = {got}, not {wanted}");
        }
    }
}

#[test]
fn gelu_knows_odd_shapes_strides_and_extremes() {
    for shape in [[1, 1], [1, 7], [129, 33], [0, 5], [257, 128]] {
        let got = unary_outcome(gelu, random(shape, 3.0, 5, DType::F32));
        let wanted = unary_outcome(gelu, random(shape, 3.0, 5, DType::F64));
        assert_close("value", &got[0], &wanted[0], 1e-5);
        assert_close("gradient", &got[1], &wanted[1], 1e-5);
    }
    let got = unary_outcome(gelu, random([33, 65], 3.0, 5, DType::F32).transpose());
    let wanted = unary_outcome(gelu, random([33, 65], 3.0, 5, DType::F64).transpose());
    assert_close("transposed", &got[0], &wanted[0], 1e-5);
    assert_close("gradient of transposed", &got[1], &wanted[1], 1e-5);

    let odd = [1e4, -1e4, 1e30, -1e30, 1e-40, -1e-40, -12.9, -13.1, 0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    for f in [gelu as fn(Tensor<2>) -> Tensor<2>, gelu_tanh] {
        let [value, slope] = unary_outcome(f, tensor(&odd, [1, 12], DType::F32));
        assert!(value[..9].iter().chain(&slope[..9]).all(|x| x.is_finite() && !(*x as f32).is_subnormal()));
        assert_eq!((value[0], value[1]), (1e4, 0.0));
        assert_eq!(value[9], f64::INFINITY);
        assert!(value[10].is_nan() && value[11].is_nan() && slope[11].is_nan());
    }
    assert!((values(gelu(tensor(&[1.0], [1], DType::F32)))[0] - 0.841_344_746).abs() < 1e-7);
}

#[test]
fn attention_agrees_with_f64_on_odd_shapes() {
    let cases: [([usize; 4], usize); 9] = [
        ([1, 1, 1, 1], 1),
        ([2, 1, 129, 24], 3),
        ([3, 129, 129, 40], 2),
        ([2, 16, 21, 64], 4),
        ([1, 5, 3, 12], 12),
        ([2, 40, 1300, 16], 2),
        ([0, 4, 4, 8], 2),
        ([2, 0, 4, 8], 2),
        ([2, 4, 0, 8], 2),
    ];
    for (sizes, heads) in cases {
        for hidden in [-1e9, f64::NEG_INFINITY] {
            let run = |kind| {
                let (inputs, mask) = attention_inputs(sizes, 2.0, hidden, kind);
                attention_outcome(attention, inputs, mask, heads, [true; 3])
            };
            let name = format!("{sizes:?} with {heads} heads");
            let got = run(DType::F32);
            if sizes.contains(&0) {
                assert!(got.0.iter().chain(got.1.iter().flatten().flatten()).all(|x| *x == 0.0), "{name}");
            } else {
                assert_outcomes(&name, &got, &run(DType::F64), 1e-5);
            }
        }
    }
}

#[test]
fn attention_mixes_plain_and_tracked_inputs() {
    for bits in 0..8 {
        let which = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
        let run = |f, kind| {
            let (inputs, mask) = attention_inputs([3, 10, 13, 24], 2.0, -1e9, kind);
            attention_outcome(f, inputs, mask, 2, which)
        };
        let name = format!("tracked {which:?}");
        assert_outcomes(&name, &run(attention, DType::F32), &run(composed::attention, DType::F64), 1e-5);
    }
}

#[test]
fn attention_reads_strided_inputs_and_merges_views() {
    let turned = |kind| {
        let q = random([24, 2, 9], 1.0, 1, kind).permute([1, 2, 0]);
        // One packed projection cut into keys and values.
        let packed = random([2, 11, 48], 1.0, 2, kind);
        let (k, v) = (packed.clone().narrow(2, 0, 24), packed.narrow(2, 24, 24));
        let mask = Visible::Keys(random([2, 11], 1.0, 4, kind));
        attention_outcome(attention, [q, k, v], mask, 3, [true; 3])
    };
    assert_outcomes("strided", &turned(DType::F32), &turned(DType::F64), 1e-5);
}

#[test]
fn a_wholly_hidden_row_gives_zeros_and_nan_stays() {
    for kind in [DType::F32, DType::F64] {
        let ([q, k, v], _) = attention_inputs([2, 3, 4, 8], 1.0, 0.0, kind);
        let mask = Visible::Keys(tensor(&[vec![f64::NEG_INFINITY; 4], vec![0.0; 4]].concat(), [2, 4], kind));
        let (out, grads) = attention_outcome(attention, [q.clone(), k.clone(), v.clone()], mask, 2, [true; 3]);
        assert!(out[..24].iter().all(|x| *x == 0.0) && out[24..].iter().all(|x| x.is_finite() && *x != 0.0));
        for grads in grads.iter().flatten() {
            let half = grads.len() / 2;
            assert!(grads[..half].iter().all(|x| *x == 0.0) && grads[half..].iter().all(|x| x.is_finite()));
        }
        // Hidden by finite numbers alone: finite, and weights that sum to one.
        let mask = Visible::Keys(Tensor::full([2, 4], -1e9, (&Device::flex(), kind)));
        let ones = v.ones_like();
        let (out, _) = attention_outcome(attention, [q.clone(), k.clone(), ones], mask, 2, [true; 3]);
        assert!(out.iter().all(|x| (x - 1.0).abs() < 1e-6));
        let mask = Visible::Keys(tensor(&[f64::NAN; 8], [2, 4], kind));
        assert!(attention_outcome(attention, [q, k, v], mask, 2, [true; 3]).0.iter().all(|x| x.is_nan()));
    }
}

#[test]
fn attention_never_gives_subnormal_numbers() {
    // Masks just around where exp would give subnormal numbers, tiny values, and scores in the ten thousands.
    for (size, hidden) in [(2.0, -90.0), (2.0, -86.0), (1e-20, -1e9), (1e-38, 0.0), (100.0, -1e9), (1e4, -1e9)] {
        let (inputs, mask) = attention_inputs([4, 33, 33, 32], size, hidden, DType::F32);
        let (out, grads) = attention_outcome(attention, inputs, mask, 2, [true; 3]);
        for x in out.iter().chain(grads.iter().flatten().flatten()) {
            assert!(x.is_finite() && !(*x as f32).is_subnormal(), "{x} at size {size}, mask {hidden}");
        }
    }
}

#[test]
fn layer_norm_agrees_with_f64() {
    for [batch, length, features] in
        [[1, 1, 1], [1, 1, 7], [2, 129, 33], [3, 5, 384], [1, 3, 20_000], [0, 4, 8], [2, 0, 8]]
    {
        for bits in [7, 0, 1, 2, 4, 5, 6] {
            let which = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
            let run = |f, kind| {
                let x = random([batch, length, features], 3.0, 1, kind) + 0.5;
                let [scale, shift] = [2, 3].map(|seed| random([features], 1.0, seed, kind));
                norm_outcome(f, x, scale, shift, which)
            };
            let name = format!("{batch}×{length}×{features}, tracked {which:?}");
            let got = run(layer_norm, DType::F32);
            if batch * length == 0 {
                assert!(got.1.iter().flatten().flatten().all(|x| *x == 0.0), "{name}");
            } else if features == 1 {
                // The row is its own mean: the result is the shift, the gradient zero.
                assert!(got.1[0].iter().flatten().all(|x| x.abs() < 1e-3));
            } else {
                assert_outcomes(&name, &got, &run(composed::layer_norm, DType::F64), 1e-5);
            }
        }
    }
}

#[test]
fn layer_norm_knows_strides_and_extremes() {
    let run = |kind| {
        let x = random([16, 2, 9], 3.0, 1, kind).permute([1, 2, 0]);
        norm_outcome(layer_norm, x, random([16], 1.0, 2, kind), random([16], 1.0, 3, kind), [true; 3])
    };
    assert_outcomes("permuted", &run(DType::F32), &run(DType::F64), 1e-5);
    for size in [1e4, 1e-20, 1e-38, 0.0] {
        let x = random([2, 3, 48], size, 1, DType::F32);
        let [scale, shift] = [2, 3].map(|seed| random([48], size, seed, DType::F32));
        let (out, grads) = norm_outcome(layer_norm, x, scale, shift, [true; 3]);
        for x in out.iter().chain(grads.iter().flatten().flatten()) {
            assert!(x.is_finite() && !(*x as f32).is_subnormal(), "{x} at size {size}");
        }
    }
}

/// The composed gradients in f64 against differences of the composed values.
#[test]
fn composed_gradients_agree_with_differences() {
    let kind = DType::F64;
    let step = 1e-6;
    let shifted = |x: &Tensor<3>, at: usize, by: f64| {
        let shape = x.dims();
        let mut numbers = values(x.clone());
        numbers[at] += by;
        tensor(&numbers, shape, kind)
    };
    let objective = |out: Tensor<3>| {
        let weight = random(out.dims(), 1.0, 99, kind);
        values((out * weight).sum())[0]
    };
    let (inputs, mask) = attention_inputs([2, 3, 4, 6], 1.0, -1e9, kind);
    let (_, grads) = attention_outcome(composed::attention, inputs.clone(), mask.clone(), 2, [true; 3]);
    for which in 0..3 {
        let wanted = grads[which].as_ref().unwrap();
        for (at, wanted) in wanted.iter().enumerate() {
            let run = |by| {
                let mut inputs = inputs.clone();
                inputs[which] = shifted(&inputs[which], at, by);
                let [q, k, v] = inputs;
                objective(composed::attention(q, k, v, &mask, 2))
            };
            let slope = (run(step) - run(-step)) / (2.0 * step);
            assert!((slope - wanted).abs() < 1e-7, "attention {which}[{at}]: {slope}, not {wanted}");
        }
    }
    let x = random([1, 3, 5], 2.0, 1, kind);
    let [scale, shift] = [2, 3].map(|seed| random([5], 1.0, seed, kind));
    for (name, f) in [
        (
            "norm",
            Box::new(|x| composed::layer_norm(x, scale.clone(), shift.clone(), 1e-5))
                as Box<dyn Fn(Tensor<3>) -> Tensor<3>>,
        ),
        ("gelu", Box::new(composed::gelu)),
        ("rms_norm", Box::new(|x| composed::rms_norm(x, scale.clone(), 1e-5))),
        ("swiglu", Box::new(|x: Tensor<3>| composed::swiglu(x.clone() + 0.3, x * 0.7))),
        ("gelu_tanh", Box::new(composed::gelu_tanh)),
    ] {
        let leaf = tracked(x.clone());
        let grads = (f(leaf.clone()) * random([1, 3, 5], 1.0, 99, kind)).sum().backward();
        let wanted = values(leaf.grad(&grads).unwrap());
        for (at, wanted) in wanted.iter().enumerate() {
            let run = |by| objective(f(shifted(&x, at, by)));
            let slope = (run(step) - run(-step)) / (2.0 * step);
            assert!((slope - wanted).abs() < 1e-7, "{name}[{at}]: {slope}, not {wanted}");
        }
    }
}

#[test]
fn other_number_types_take_the_composed_path() {
    let x = random([3, 5], 2.0, 1, DType::F64);
    assert!((values(gelu(x.clone()))[3] - values(composed::gelu(x))[3]).abs() == 0.0);
    let x = random([3, 5], 2.0, 1, DType::BF16);
    assert_eq!(gelu(x.clone()).dtype(), DType::BF16);
    let wanted = values(gelu(x.clone().cast(DType::F64)));
    assert!(values(gelu(x)).iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 0.03));
}

#[test]
fn a_tracked_input_beside_an_untracked_autodiff_one() {
    let run = |kind| {
        let ([q, k, v], mask) = attention_inputs([2, 5, 6, 8], 1.0, -1e9, kind);
        let (q, k) = (tracked(q), k.autodiff());
        let out = attention(q.clone(), k.clone(), v, &mask, 2);
        let grads = (out.clone() * out.clone()).sum().backward();
        assert!(k.grad(&grads).is_none());
        (values(out), vec![Some(values(q.grad(&grads).unwrap()))])
    };
    assert_outcomes("mixed", &run(DType::F32), &run(DType::F64), 1e-5);
}

/// Under gradient checkpointing inputs may be computed again before a backward pass.
#[test]
fn gradients_are_the_same_under_checkpointing() {
    let device = Device::flex().autodiff();
    let run = |device: &Device| {
        let x = Tensor::<3>::from_data(random([2, 9, 24], 2.0, 1, DType::F32).into_data(), device).require_grad();
        let (scale, mask) =
            (Tensor::ones([24], &Device::flex()), Visible::Keys(Tensor::zeros([2, 9], &Device::flex())));
        let y = layer_norm(gelu(x.clone() * 2.0) + 1.0, scale, Tensor::zeros([24], &Device::flex()), 1e-5);
        let out = attention(y.clone() * 3.0, y.clone(), y, &mask, 2);
        let grads = (out.clone() * out.clone() * out.clone()).sum().backward();
        (values(out), vec![Some(values(x.grad(&grads).unwrap()))])
    };
    assert_outcomes("checkpointing", &run(&device.clone().gradient_checkpointing()), &run(&device), 1e-6);
}

/// Queries, keys and values with fewer heads of keys, and runs of several kinds: causal over what was read before, documents beside
/// each other, padding in front, none at all.
fn reading(heads: usize, groups: usize, kind: DType) -> Vec<(&'static str, [Tensor<3>; 3], Visible)> {
    let width = 8;
    let inputs = |[batch, queries, keys]: [usize; 3]| {
        let q = random([batch, queries, heads * width], 2.0, 1, kind);
        let [k, v] = [2, 3].map(|seed| random([batch, keys, groups * width], 2.0, seed, kind));
        [q, k, v]
    };
    let runs = |[batch, queries, _]: [usize; 3], run: &dyn Fn(usize, usize) -> [usize; 2]| {
        let all = (0..batch).flat_map(|row| (0..queries).map(move |query| (row, query)));
        Visible::Runs(all.map(|(row, query)| run(row, query).map(|at| at as u32)).collect())
    };
    let case =
        |name, sizes: [usize; 3], run: &dyn Fn(usize, usize) -> [usize; 2]| (name, inputs(sizes), runs(sizes, run));
    let starts = [0, 0, 0, 3, 3, 5, 5, 5, 5, 5, 5, 11];
    vec![
        case("causal", [2, 150, 150], &|_, query| [0, query + 1]),
        case("one after many", [2, 1, 70], &|_, _| [0, 70]),
        case("some after many", [1, 5, 40], &|_, query| [0, 36 + query]),
        case("documents", [1, 12, 12], &|_, query| [starts[query], query + 1]),
        case("padding in front", [3, 20, 20], &|row, query| [(4 * row).min(query + 1), query + 1]),
        case("windows", [1, 30, 30], &|_, query| [query.saturating_sub(4), query + 1]),
        case("none", [1, 3, 6], &|_, _| [2, 2]),
        case("unseen keys", [1, 4, 9], &|_, query| [3, 5 + query / 2]),
    ]
}

#[test]
fn runs_of_keys_and_groups_of_heads_agree_with_f64() {
    for (heads, groups) in [(4, 4), (6, 2), (3, 1)] {
        for ((name, inputs, visible), (_, wide, _)) in
            reading(heads, groups, DType::F32).into_iter().zip(reading(heads, groups, DType::F64))
        {
            for which in [[true; 3], [true, false, false], [false, true, false], [false, false, true], [false; 3]] {
                let run =
                    |f, inputs: &[Tensor<3>; 3]| attention_outcome(f, inputs.clone(), visible.clone(), heads, which);
                let name = format!("{name}, {heads} heads in {groups} groups, tracked {which:?}");
                assert_outcomes(&name, &run(attention, &inputs), &run(composed::attention, &wide), 1e-5);
            }
        }
    }
}

#[test]
fn keys_that_no_query_sees_have_no_gradient_and_no_influence() {
    for kind in [DType::F32, DType::F64] {
        let (_, [q, k, v], visible) = reading(6, 2, kind).pop().unwrap();
        let (out, grads) =
            attention_outcome(attention, [q.clone(), k.clone(), v.clone()], visible.clone(), 6, [true; 3]);
        for gradient in grads[1..].iter().flatten() {
            let row = |key: usize| &gradient[key * 16..][..16];
            assert!((0..9).all(|key| row(key).iter().all(|x| *x == 0.0) != (3..6).contains(&key)), "{gradient:?}");
        }
        let nan = Tensor::full([1, 3, 16], f64::NAN, (&Device::flex(), kind));
        let broken = |x: Tensor<3>| Tensor::cat(vec![nan.clone(), x.narrow(1, 3, 6)], 1);
        // A weight of zero does not hide a NaN from a product; keys outside every run are not in it.
        if kind == DType::F32 {
            assert_eq!(attention_outcome(attention, [q, broken(k), broken(v)], visible, 6, [false; 3]).0, out);
        }
    }
}

#[test]
fn grouped_heads_share_keys_under_a_mask_too() {
    let run = |f, kind| {
        let q = random([2, 5, 48], 1.0, 1, kind);
        let [k, v] = [2, 3].map(|seed| random([2, 7, 16], 1.0, seed, kind));
        attention_outcome(f, [q, k, v], Visible::Keys(random([2, 7], 1.0, 4, kind)), 6, [true; 3])
    };
    assert_outcomes("mask", &run(attention, DType::F32), &run(composed::attention, DType::F64), 1e-5);
}

/// Result and gradients of a function of two inputs of one shape.
fn pair_outcome(f: impl Fn(Tensor<3>, Tensor<3>) -> Tensor<3>, [x, y]: [Tensor<3>; 2], which: [bool; 2]) -> Outcome {
    let [x, y] = [(x, which[0]), (y, which[1])].map(|(x, on)| if on { tracked(x) } else { x });
    let out = f(x.clone(), y.clone());
    if which == [false; 2] {
        assert!(!out.is_autodiff(), "plain inputs must record nothing");
        return (values(out), vec![None, None]);
    }
    let grads = (out.clone() * random(out.dims(), 1.0, 96, x.dtype())).sum().backward();
    let of = |(x, on): (Tensor<3>, bool)| on.then(|| values(x.grad(&grads).unwrap()));
    (values(out), [x, y].into_iter().zip(which).map(of).collect())
}

#[test]
fn a_gate_agrees_with_f64_and_knows_extremes() {
    for which in [[true; 2], [true, false], [false, true], [false; 2]] {
        for size in [1.0, 30.0] {
            let run = |kind| pair_outcome(swiglu, [1, 2].map(|seed| random([3, 70, 101], size, seed, kind)), which);
            assert_outcomes(&format!("swiglu, {which:?}"), &run(DType::F32), &run(DType::F64), 1e-5);
        }
    }
    let gate = tensor(&[-1e30, -100.0, -87.0, 0.0, 100.0, f64::NAN], [1, 1, 6], DType::F32);
    let out = values(swiglu(gate.clone(), gate.ones_like()));
    assert_eq!(out[..2], [0.0, 0.0]);
    assert!(
        out[2] <= 0.0 && !(out[2] as f32).is_subnormal() && out[3..5] == [0.0, 100.0] && out[5].is_nan(),
        "{out:?}"
    );
    let none = || Tensor::<3>::zeros([0, 2, 3], &Device::flex());
    assert!(values(swiglu(none(), none())).is_empty());
}

#[test]
fn rotation_agrees_with_f64_and_turns_back() {
    for [batch, length, heads, width] in [[1, 1, 1, 2], [2, 37, 3, 8], [1, 70, 9, 64], [0, 3, 2, 4], [2, 0, 2, 4]] {
        let angles = |kind: DType| {
            let angle = random([batch, length, width / 2], 3.0, 5, DType::F64);
            [angle.clone().cos().cast(kind), angle.sin().cast(kind)]
        };
        let run = |kind| {
            let [cos, sin] = angles(kind);
            let x = random([batch, length, heads * width], 1.0, 6, kind);
            let turn = |x, _| rotary(x, cos.clone(), sin.clone(), heads);
            pair_outcome(turn, [x.clone(), x], [true, false])
        };
        assert_outcomes(&format!("rotary {length}"), &run(DType::F32), &run(DType::F64), 1e-6);
        let ([cos, sin], x) = (angles(DType::F32), random([batch, length, heads * width], 1.0, 6, DType::F32));
        let there = rotary(x.clone(), cos.clone(), sin.clone(), heads);
        assert_close("there and back", &values(rotary(there, cos, -sin, heads)), &values(x), 1e-6);
    }
}

#[test]
fn rms_norm_agrees_with_f64() {
    for [batch, length, features] in [[1, 1, 7], [2, 129, 33], [3, 5, 576], [1, 3, 20_000]] {
        for which in [[true; 2], [true, false], [false, true], [false; 2]] {
            let run = |kind| {
                let x = random([batch, length, features], 2.0, 1, kind);
                let scale = random([1, 1, features], 1.0, 2, kind);
                pair_outcome(|x, scale| rms_norm(x, scale.reshape([features]), 1e-5), [x, scale], which)
            };
            assert_outcomes(&format!("{features} features, {which:?}"), &run(DType::F32), &run(DType::F64), 1e-5);
        }
    }
}
