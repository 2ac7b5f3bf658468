//! Sinkhorn's iteration against POT's numbers and laws, and pairwise measures against plain loops in f64.

#![allow(clippy::unwrap_used)] // a missing gradient or value is what these tests look for

mod common;

use acclimate_kernels::{Measure, Sinkhorn, composed, pairwise, plan, sinkhorn};
use burn::tensor::{DType, Tensor};
use common::{numbers, tensor, values};
use serde_json::Value;
use std::path::Path;

fn tracked<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.autodiff().require_grad()
}

/// Asserts that numbers agree within `bound` of one or of themselves, and that none is subnormal.
fn assert_close(name: &str, got: &[f64], wanted: &[f64], bound: f64) {
    assert_eq!(got.len(), wanted.len(), "{name}: sizes");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let same = got == wanted || (got - wanted).abs() <= bound * (1.0 + wanted.abs());
        assert!(same, "{name}[{i}]: {got}, not {wanted}");
        assert!(!(*got as f32).is_subnormal(), "{name}[{i}]: {got} is subnormal");
    }
}

/// Masses that sum to one.
fn masses(count: usize, seed: u64) -> Vec<f64> {
    let raw: Vec<f64> = numbers(count, seed).into_iter().map(|x| 1.2 + x).collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|x| x / sum).collect()
}

const SETTINGS: Sinkhorn = Sinkhorn { epsilon: 0.2, iterations: 5000, tolerance: 1e-12 };

#[test]
fn transports_are_those_of_pot() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/kernels/sinkhorn.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let list = |value: &Value| -> Vec<f64> {
            value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let input = |name: &str| list(&case["inputs"][name]);
        let (a, b) = (input("a"), input("b"));
        let (n, m) = (a.len(), b.len());
        let epsilon = case["config"]["epsilon"].as_f64().unwrap();
        // In single precision the masses stop a few last digits away from right.
        for (kind, name, iterations, tolerance) in
            [(DType::F64, "f64", 200_000, 1e-14), (DType::F32, "f32", 3000, 1e-6)]
        {
            let bound = golden["header"]["tolerance"][name].as_f64().unwrap();
            let settings = Sinkhorn { epsilon, iterations, tolerance };
            let (cost, a, b) = (tensor(&input("cost"), [n, m], kind), tensor(&a, [n], kind), tensor(&b, [m], kind));
            let found = sinkhorn(cost.clone(), a.clone(), b.clone(), &settings);
            let expected = |name: &str| list(&case["expected"][name]);
            let name = format!("{} in {name}", case["name"]);
            let moved = plan(&found, cost, a, b, epsilon);
            assert_close(&format!("plan, {name}"), &values(moved), &expected("plan"), bound);
            assert_close(&name, &values(found.value), &[case["expected"]["value"].as_f64().unwrap()], bound);
            let (f, g) = (values(found.f), values(found.g));
            let f_at_zero: Vec<f64> = f.iter().map(|x| x - f[0]).collect();
            let g_from_zero: Vec<f64> = g.iter().map(|x| x + f[0]).collect();
            assert_close(&format!("f, {name}"), &f_at_zero, &expected("f"), bound);
            assert_close(&format!("g, {name}"), &g_from_zero, &expected("g"), bound);
        }
    }
}

#[test]
fn odd_sizes_and_strides_agree_with_the_composed_iteration() {
    // No error is below zero: all iterations are made.
    let settings = Sinkhorn { iterations: 25, tolerance: -1.0, ..SETTINGS };
    for [n, m] in [[1, 1], [3, 129], [129, 3], [70, 1100], [600, 33]] {
        let cost: Vec<f64> = numbers(n * m, 3).into_iter().map(|x| 1.0 + x).collect();
        let cost = tensor(&cost, [m, n], DType::F64).transpose();
        let (a, b) = (tensor(&masses(n, 4), [n], DType::F64), tensor(&masses(m, 5), [m], DType::F64));
        let (f, g, iterations, error) = composed::sinkhorn(cost.clone(), a.clone(), b.clone(), &settings);
        for (kind, bound) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
            let cast = |x: &Tensor<1>| x.clone().cast(kind);
            let found = sinkhorn(cost.clone().cast(kind), cast(&a), cast(&b), &settings);
            assert_eq!(found.iterations, iterations);
            assert_close("f", &values(found.f), &values(f.clone()), bound);
            assert_close("g", &values(found.g), &values(g.clone()), bound);
            assert_close("error", &[found.error], &[error], bound);
        }
    }
}

/// A pair at infinite cost carries nothing, and a place without mass takes no part.
#[test]
fn forbidden_pairs_and_empty_places_carry_nothing() {
    let cost = [0.0, f64::INFINITY, 1.0, 0.5, 0.3, 0.1, 2.0, 1.0, 0.0];
    for (kind, bound) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
        let cost = tensor(&cost, [3, 3], kind);
        let (a, b) = (tensor(&[0.5, 0.0, 0.5], [3], kind), tensor(&[0.25, 0.25, 0.5], [3], kind));
        let settings = Sinkhorn { tolerance: if kind == DType::F64 { 1e-13 } else { 1e-6 }, ..SETTINGS };
        let found = sinkhorn(tracked(cost.clone()), a.clone(), b.clone(), &settings);
        assert!(values(found.value.clone())[0].is_finite());
        let moved = values(plan(&found, cost, a, b, SETTINGS.epsilon));
        assert_eq!((moved[1], &moved[3..6]), (0.0, &[0.0; 3][..]));
        assert_close("rows", &[moved[0] + moved[2], moved[6] + moved[7] + moved[8]], &[0.5, 0.5], bound);
    }
}

/// Costs so far apart that every power of e would vanish without the largest taken away first.
#[test]
fn a_small_entropy_term_leaves_the_assignment() {
    let cost: Vec<f64> = (0..64).map(|i| ((i / 8) as f64 - (i % 8) as f64).abs() * 50.0).collect();
    let even = [0.125; 8];
    for kind in [DType::F64, DType::F32] {
        let settings = Sinkhorn { epsilon: 0.01, iterations: 50, tolerance: 1e-6 };
        let (cost, even) = (tensor(&cost, [8, 8], kind), tensor(&even, [8], kind));
        let found = sinkhorn(cost.clone(), even.clone(), even.clone(), &settings);
        assert!(found.error <= 1e-6, "{}", found.error);
        let moved = values(plan(&found, cost, even.clone(), even, 0.01));
        let wanted: Vec<f64> = (0..64).map(|i| if i / 8 == i % 8 { 0.125 } else { 0.0 }).collect();
        assert_close("plan", &moved, &wanted, 1e-6);
    }
}

#[test]
fn the_gradient_by_the_cost_is_the_plan_and_the_slope_of_the_value() {
    let (n, m) = (4, 6);
    let cost: Vec<f64> = numbers(n * m, 7);
    let (a, b) = (tensor(&masses(n, 8), [n], DType::F64), tensor(&masses(m, 9), [m], DType::F64));
    let value = |cost: &[f64]| {
        let found = sinkhorn(tensor(cost, [n, m], DType::F64), a.clone(), b.clone(), &SETTINGS);
        values(found.value)[0]
    };
    let leaf = tracked(tensor(&cost, [n, m], DType::F64));
    let found = sinkhorn(leaf.clone(), a.clone(), b.clone(), &SETTINGS);
    assert_close("value", &values(found.value.clone()), &[value(&cost)], 1e-12);
    let slopes = values(leaf.grad(&(found.value.clone() * 3.0).backward()).unwrap());
    let moved = values(plan(&found, leaf, a.clone(), b.clone(), SETTINGS.epsilon));
    let thrice: Vec<f64> = moved.iter().map(|x| 3.0 * x).collect();
    assert_close("gradient", &slopes, &thrice, 1e-14);
    for at in [0, 7, 23] {
        let shifted = |by: f64| {
            let mut cost = cost.clone();
            cost[at] += by;
            value(&cost)
        };
        // A difference of fourth order in 1e-4 of numbers right to 1e-12.
        let slope = (shifted(1e-4) - shifted(-1e-4)) / 2e-4;
        assert!((slope - moved[at]).abs() < 1e-7, "{slope}, not {}", moved[at]);
    }
}

const MEASURES: [Measure; 5] =
    [Measure::SquaredEuclidean, Measure::Cosine, Measure::L1, Measure::Rbf(0.3), Measure::Laplace(0.2)];

/// A measure of two rows by the definition.
fn measured(x: &[f64], y: &[f64], measure: Measure) -> f64 {
    let sum = |term: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| term(*x, *y)).sum::<f64>();
    let squares = sum(&|x, y| (x - y) * (x - y));
    let sizes = sum(&|x, y| (x - y).abs());
    match measure {
        Measure::SquaredEuclidean => squares,
        Measure::L1 => sizes,
        Measure::Rbf(gamma) => (-gamma * squares).exp(),
        Measure::Laplace(gamma) => (-gamma * sizes).exp(),
        Measure::Cosine => {
            let norms = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
            if norms == 0.0 { 1.0 } else { (1.0 - sum(&|x, y| x * y) / norms).clamp(0.0, 2.0) }
        }
    }
}

#[test]
fn measures_agree_with_their_definitions() {
    for [n, m, features] in [[1, 1, 1], [3, 5, 7], [130, 257, 33], [129, 2, 64], [5, 4, 0], [0, 3, 2], [3, 0, 2]] {
        let (x, y) = (numbers(n * features, 11), numbers(m * features, 12));
        let row = |x: &[f64], i: usize| x[i * features..][..features].to_vec();
        for measure in MEASURES {
            let pair = |at: usize| measured(&row(&x, at / m), &row(&y, at % m), measure);
            let wanted: Vec<f64> = (0..n * m).map(pair).collect();
            for (kind, bound) in [(DType::F64, 1e-13), (DType::F32, 5e-6)] {
                let (x, y) = (tensor(&x, [n, features], kind), tensor(&y, [m, features], kind));
                let name = format!("{measure:?} of {n}×{m}×{features}");
                let got = pairwise(x.clone(), Some(y.clone()), measure);
                assert_eq!((got.dims(), got.dtype()), ([n, m], kind));
                assert_close(&name, &values(got), &wanted, bound);
                if features > 0 {
                    let turned = |x: Tensor<2>| x.transpose().clone().transpose();
                    assert_close(&name, &values(pairwise(turned(x), Some(y), measure)), &wanted, bound);
                }
            }
        }
    }
}

#[test]
fn rows_far_from_zero_keep_the_digits_of_their_distance() {
    let near: Vec<f64> = numbers(40 * 8, 13).into_iter().map(|x| f64::from((1000.0 + x) as f32)).collect();
    let row = |i: usize| near[i * 8..][..8].to_vec();
    let wanted: Vec<f64> =
        (0..1600).map(|at| measured(&row(at / 40), &row(at % 40), Measure::SquaredEuclidean)).collect();
    let got = values(pairwise(tensor(&near, [40, 8], DType::F32), None, Measure::SquaredEuclidean));
    assert_close("squares", &got, &wanted, 1e-6);
}

#[test]
fn a_row_is_exactly_at_itself() {
    let x: Vec<f64> = numbers(200 * 19, 14).into_iter().map(|x| 30.0 * x).collect();
    for kind in [DType::F32, DType::F64] {
        for measure in MEASURES {
            let own = if matches!(measure, Measure::Rbf(_) | Measure::Laplace(_)) { 1.0 } else { 0.0 };
            for x in [tensor(&x, [200, 19], kind), tracked(tensor(&x, [200, 19], kind))] {
                let got = values(pairwise(x, None, measure));
                assert!((0..200).all(|i| got[i * 201] == own), "{measure:?}");
            }
        }
    }
}

#[test]
fn infinities_and_numbers_that_vanish_are_as_the_definitions_have_them() {
    let x = tensor(&[f64::INFINITY, 0.0, 0.0, 0.0, 1e-30, 2e-30, f64::NAN, 0.0], [4, 2], DType::F32);
    let y = tensor(&[0.0, 0.0, 100.0, 100.0], [2, 2], DType::F32);
    let of = |measure| values(pairwise(x.clone(), Some(y.clone()), measure));
    let squares = of(Measure::SquaredEuclidean);
    assert_eq!(squares[..4], [f64::INFINITY, f64::INFINITY, 0.0, 20_000.0]);
    assert!(squares[6].is_nan() && !(squares[4] as f32).is_subnormal());
    // The square of 1e-20 is no normal number.
    let near = pairwise(tensor(&[1e-20, 0.0], [1, 2], DType::F32), Some(y.clone()), Measure::SquaredEuclidean);
    assert_eq!(values(near)[0], 0.0);
    let kernel = of(Measure::Rbf(0.01));
    assert_eq!(kernel[..4], [0.0, 0.0, 1.0, 0.0], "e⁻²⁰⁰ is zero");
    assert!(kernel[6].is_nan());
    assert_eq!(of(Measure::L1)[..4], [f64::INFINITY, f64::INFINITY, 0.0, 200.0]);
    assert_eq!(of(Measure::Cosine)[2..4], [1.0, 1.0]);
}

/// Gradients of both inputs, with random slopes coming in.
fn gradients(f: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<2>, x: Tensor<2>, y: Tensor<2>) -> [Vec<f64>; 3] {
    let [x, y] = [x, y].map(tracked);
    let out = f(x.clone(), y.clone());
    let [n, m] = out.dims();
    let weights = tensor(&numbers(n * m, 17), [n, m], out.dtype());
    let grads = (out.clone() * weights).sum().backward();
    [values(out), values(x.grad(&grads).unwrap()), values(y.grad(&grads).unwrap())]
}

#[test]
fn gradients_agree_with_the_composed_measures_in_f64() {
    for [n, m, features] in [[3, 5, 7], [130, 140, 9]] {
        let (x, y) = (numbers(n * features, 15), numbers(m * features, 16));
        for measure in MEASURES {
            let of = |kind| (tensor(&x, [n, features], kind), tensor(&y, [m, features], kind));
            let (x, y) = of(DType::F32);
            let got = gradients(|x, y| pairwise(x, Some(y), measure), x, y);
            let (x, y) = of(DType::F64);
            let wanted = gradients(|x, y| composed::pairwise(x, y, false, measure), x, y);
            for (got, wanted) in got.iter().zip(&wanted) {
                assert_close(&format!("{measure:?} of {n}×{m}"), got, wanted, 2e-5);
            }
        }
    }
}

#[test]
fn a_matrix_with_itself_has_the_gradient_of_both_sides() {
    let x = numbers(20 * 3, 18);
    for measure in [Measure::SquaredEuclidean, Measure::Rbf(0.5)] {
        let slopes = |kind| {
            let leaf = tracked(tensor(&x, [20, 3], kind));
            let weights = tensor(&numbers(400, 19), [20, 20], kind);
            let grads = (pairwise(leaf.clone(), None, measure) * weights).sum().backward();
            values(leaf.grad(&grads).unwrap())
        };
        assert_close(&format!("{measure:?}"), &slopes(DType::F32), &slopes(DType::F64), 2e-5);
    }
}

#[test]
#[should_panic(expected = "rows must have features of one number")]
fn rows_of_other_features_are_refused() {
    let of = |features| tensor(&vec![0.0; features], [1, features], DType::F32);
    drop(pairwise(of(2), Some(of(3)), Measure::L1));
}
