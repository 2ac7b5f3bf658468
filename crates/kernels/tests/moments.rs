//! Steps of optimisers against the same steps composed in f64.

#![allow(clippy::unwrap_used)] // a missing value is what these tests look for

use acclimate_kernels::{composed, moments};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Waves, with zeros and numbers at the edge of what is normal in between.
fn wave(count: usize, by: usize, positive: bool) -> Vec<f64> {
    let number = |i: usize| match i % 7 {
        3 => 0.0,
        5 => 1.2e-38,
        _ => ((i * by % 97) as f64 - 48.0) * 0.02,
    };
    (0..count).map(|i| if positive { number(i).abs() } else { number(i) }).collect()
}

fn tensor(values: &[f64], kind: DType) -> Tensor<1> {
    Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), (&Device::flex(), DType::F64)).cast(kind)
}

fn values(x: Tensor<1>) -> Vec<f64> {
    x.cast(DType::F64).into_data().try_into_vec_as::<f64>().unwrap()
}

fn assert_close(name: &str, got: Tensor<1>, wanted: Tensor<1>) {
    let (got, wanted) = (values(got), values(wanted));
    assert_eq!(got.len(), wanted.len(), "{name}: sizes");
    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        // What is too small for a normal number is zero.
        let bound = 2e-6 * wanted.abs() + 3e-30;
        assert!((got - wanted).abs() <= bound, "{name}[{i}]: {got}, not {wanted}");
        assert!(!(*got as f32).is_subnormal(), "{name}[{i}]: {got} is subnormal");
    }
}

const COUNTS: [usize; 6] = [0, 1, 17, 16_384, 16_385, 50_003];
const ADAMW: moments::Adamw = moments::Adamw { beta1: 0.9, beta2: 0.99, root: 0.4, eps: 1e-8, rate: 3e-3 };
const DADAPT: moments::DadaptAdam = moments::DadaptAdam { beta1: 0.9, beta2: 0.99, eps: 1e-8, rate: 1e-2, scale: 16.0 };

fn inputs(count: usize, kind: DType) -> [Tensor<1>; 4] {
    [13, 29, 31, 37].map(|by| tensor(&wave(count, by, by == 31), kind))
}

#[test]
fn steps_agree_with_f64_whatever_is_left_over_after_whole_chunks() {
    for count in COUNTS {
        let [g, m, v, s] = inputs(count, DType::F32);
        let [wide_g, wide_m, wide_v, wide_s] = [&g, &m, &v, &s].map(|x| x.clone().cast(DType::F64));
        let (movement, state) = moments::adamw(g.clone(), [m.clone(), v.clone()], ADAMW);
        let (wanted, wanted_state) = composed::adamw(wide_g.clone(), [wide_m.clone(), wide_v.clone()], ADAMW);
        assert_close("adamw", movement, wanted);
        state.into_iter().zip(wanted_state).for_each(|(got, wanted)| assert_close("adamw", got, wanted));

        let got = moments::dadapt_adam(g, [m, v, s], DADAPT);
        let terms = wide_g.clone() * wide_s.clone() / (wide_v.clone().sqrt() + DADAPT.eps);
        let sizes: f64 = values(terms).iter().map(|x| x.abs()).sum();
        let wanted = composed::dadapt_adam(wide_g, [wide_m, wide_v, wide_s], DADAPT);
        assert_close("movement", got.movement, wanted.movement);
        got.state.into_iter().zip(wanted.state).for_each(|(got, wanted)| assert_close("state", got, wanted));
        assert_eq!((got.product.dtype(), got.norm.dtype()), (DType::F64, DType::F64));
        assert_close("norm", got.norm, wanted.norm);
        let (got, wanted) = (values(got.product)[0], values(wanted.product)[0]);
        // Terms of both signs: each is right to a few of its own last digits.
        assert!((got - wanted).abs() <= 1e-6 * sizes, "{got}, not {wanted}");
    }
}

#[test]
fn movements_and_squares_agree_with_f64() {
    for count in COUNTS {
        let [x, movement, ..] = inputs(count, DType::F32);
        let wide = [&x, &movement].map(|x| x.clone().cast(DType::F64));
        let (next, size) = moments::moved(x.clone(), movement, 0.75);
        let (wanted, wanted_size) = composed::moved(wide[0].clone(), wide[1].clone(), 0.75);
        assert_close("next", next, wanted);
        assert_close("size", size, wanted_size);
        assert_close("squares", moments::squares(x), composed::squares(wide[0].clone()));
    }
}

#[test]
fn what_another_handle_holds_is_not_written_over() {
    let [g, m, v, s] = inputs(40, DType::F32);
    let before = [&g, &m, &v, &s].map(|x| values(x.clone()));
    let step = moments::dadapt_adam(g.clone(), [m.clone(), v.clone(), s.clone()], DADAPT);
    let (next, _) = moments::moved(m.clone(), step.movement.clone(), 1.0);
    assert_ne!(values(next), values(step.movement));
    assert_eq!([&g, &m, &v, &s].map(|x| values(x.clone())), before);
}

#[test]
fn strides_are_followed() {
    let [g, m, v, s] = inputs(60, DType::F32);
    let turned = |x: &Tensor<1>| -> Tensor<1> {
        let x = x.clone().reshape([6, 10]).transpose();
        // A tensor of any rank may stand for its numbers.
        Tensor::from_dispatch(x.into_dispatch())
    };
    let got = moments::dadapt_adam(turned(&g), [turned(&m), turned(&v), turned(&s)], DADAPT);
    let flat = |x: &Tensor<1>| x.clone().reshape([6, 10]).transpose().reshape([60]);
    let wanted = moments::dadapt_adam(flat(&g), [flat(&m), flat(&v), flat(&s)], DADAPT);
    assert_eq!(values(got.movement.reshape([60])), values(wanted.movement));
    assert_eq!(values(got.product), values(wanted.product));
}

#[test]
fn numbers_that_are_not_finite_show_in_the_sums() {
    for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut x = wave(100, 13, false);
        x[41] = broken;
        let (x, zero) = (tensor(&x, DType::F32), tensor(&[0.0; 100], DType::F32));
        assert!(!values(moments::squares(x.clone()))[0].is_finite());
        assert!(!values(moments::moved(x, zero, 1.0).1)[0].is_finite());
    }
    // Squares of the largest numbers are finite in f64.
    assert!(values(moments::squares(tensor(&[3e38; 50], DType::F32)))[0].is_finite());
}
