//! Laws that hold for exact arithmetic.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use acclimate_core::{AnyOptimiser, AnyTensor, Params, Role};
use acclimate_optim::{Adamw, DadaptAdam, DadaptSgd, Host, HostSettings, Sgd};
use burn::tensor::{DType, Device};
use common::{Problem, distance, flat};

const PLAIN: DadaptSgd = DadaptSgd { d0: 1e-6, growth_rate: f64::INFINITY, momentum: 0.0 };

const PACKAGE: DadaptAdam = DadaptAdam {
    d0: 1e-6,
    lr: 1.0,
    growth_rate: f64::INFINITY,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    bias_correction: false,
};

/// d after 10 and 50 steps and x after 50, to the digits of the catalogue's table.
fn table(optimiser: &dyn AnyOptimiser, d10: f64, d50: f64, x50: [f64; 3]) {
    let path = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 50).plain(optimiser);
    assert!((path[10].d() / d10 - 1.0).abs() < 1e-10, "{}", path[10].d());
    assert!((path[50].d() / d50 - 1.0).abs() < 1e-10, "{}", path[50].d());
    assert!(distance(&flat(&path[50].params), &x50) < 1e-8);
}

#[test]
fn the_catalogue_table_holds_for_sgd() {
    table(&PLAIN, 9.8007448281e-5, 2.0057588879, [0.889591366, -2.00000000, 0.571664501]);
    let momentum = DadaptSgd { momentum: 0.9, ..PLAIN };
    table(&momentum, 9.8009509462e-5, 6.2274278119, [1.31670073, -1.63703061, 1.06916976]);
}

#[test]
fn the_catalogue_table_holds_for_adam() {
    table(&PACKAGE, 0.46166397329, 3.9620233790, [1.13162982, -2.15277530, 3.13061324]);
    let corrected = DadaptAdam { bias_correction: true, ..PACKAGE };
    table(&corrected, 4.2606561685e-4, 2.3000872322, [1.00753445, -1.74911567, 2.43170385]);
}

fn adaptive() -> [Box<dyn AnyOptimiser>; 4] {
    [Box::new(DadaptSgd::default()), Box::new(PLAIN), Box::new(PACKAGE), Box::new(DadaptAdam::default())]
}

#[test]
fn d_never_decreases() {
    let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 200);
    for optimiser in adaptive() {
        let path = problem.plain(optimiser.as_ref());
        assert!(path.windows(2).all(|pair| pair[1].d() >= pair[0].d()), "{optimiser:?}");
        assert!(path[200].d() > path[0].d(), "{optimiser:?}");
    }
}

#[test]
fn d_of_sgd_without_momentum_is_at_most_twice_the_distance() {
    for (a, c) in [
        ([1.0, 10.0, 0.1], [1.0, -2.0, 3.0]),
        ([5.0, 5.0, 5.0], [0.1, 0.0, 0.0]),
        ([1e-3, 1.0, 100.0], [9.0, 1.0, -4.0]),
    ] {
        let bound = 2.0 * c.iter().map(|c: &f64| c * c).sum::<f64>().sqrt();
        let path = Problem::quadratic(&a, &c, 2000).plain(&PLAIN);
        assert!(path.iter().all(|point| point.d() <= bound), "{}", path[2000].d());
    }
}

#[test]
fn a_multiple_of_the_loss_leaves_the_path() {
    let adam = DadaptAdam { eps: 1e-30, ..PACKAGE };
    let adamw = Adamw { lr: 0.05, eps: 1e-30, ..Default::default() };
    for optimiser in [&adam as &dyn AnyOptimiser, &adamw, &DadaptSgd { momentum: 0.9, ..Default::default() }] {
        let path = |scale: f64| {
            let a = [1.0, 10.0, 0.1].map(|a| a * scale);
            flat(&Problem::quadratic(&a, &[1.0, -2.0, 3.0], 50).plain(optimiser)[50].params)
        };
        // Fifty steps, each with some roundings; the chain of d amplifies them.
        assert!(distance(&path(1e3), &path(1.0)) < 1e-10, "{optimiser:?}");
    }
}

#[test]
fn a_stretched_problem_has_a_stretched_path() {
    // f(x₀ + (x − x₀)/c) has its minimum c times further off and 1/c² of the curvature.
    let stretched = |by: f64| {
        let adam = DadaptAdam { d0: 1e-6 * by, eps: 1e-30, ..PACKAGE };
        let a = [1.0, 10.0, 0.1].map(|a| a / (by * by));
        let c = [1.0, -2.0, 3.0].map(|c| c * by);
        flat(&Problem::quadratic(&a, &c, 50).plain(&adam)[50].params).iter().map(|x| x / by).collect::<Vec<_>>()
    };
    assert!(distance(&stretched(100.0), &stretched(1.0)) < 1e-10);
}

#[test]
fn growth_rate_one_is_adam_with_step_d0() {
    let adam = DadaptAdam { d0: 0.01, growth_rate: 1.0, ..PACKAGE };
    let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 50);
    let path = problem.plain(&adam);
    let (mut x, mut m, mut v) = ([0.0; 3], [0.0; 3], [0.0; 3]);
    for _ in 0..50 {
        for i in 0..3 {
            let g = problem.a[i] * (x[i] - problem.c[i]);
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            x[i] -= 0.01 * m[i] / (f64::sqrt(v[i]) + 1e-8);
        }
    }
    assert_eq!(path[50].d(), 0.01);
    assert!(distance(&flat(&path[50].params), &x) < 1e-12);
}

#[test]
fn zero_gradients_make_no_step_and_no_nan() {
    let flat_bottom = Problem::quadratic(&[0.0; 3], &[1.0; 3], 5);
    for optimiser in adaptive() {
        let path = flat_bottom.plain(optimiser.as_ref());
        assert!(path.iter().all(|point| flat(&point.params) == [0.0; 3] && point.d() == path[0].d()), "{optimiser:?}");
    }
}

#[test]
fn zero_gradients_at_first_change_nothing_later() {
    for optimiser in adaptive() {
        let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 20);
        let expected = problem.plain(optimiser.as_ref());
        let mut host =
            Host::over(optimiser.as_ref(), HostSettings::default(), &problem.start, vec![Role::Other]).unwrap();
        let mut x = problem.start.clone();
        for k in 0..25 {
            let gradient = if k < 5 { x.zeros_like() } else { problem.loss_and_gradient(&x).1 };
            x = host.step(optimiser.as_ref(), &x, &gradient, 1.0, 0.0).unwrap();
        }
        assert_eq!(flat(&x), flat(&expected[20].params), "{optimiser:?}");
    }
}

#[test]
fn the_first_step_of_adam_is_the_sign() {
    let adamw = Adamw { lr: 0.05, eps: 1e-30, ..Default::default() };
    let path = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 1).plain(&adamw);
    assert!(distance(&flat(&path[1].params), &[0.05, -0.05, 0.05]) < 1e-15);
}

#[test]
fn a_frozen_leaf_enters_no_sum() {
    let inputs = |with: bool| {
        let mut problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 50);
        if with {
            problem.start.insert("frozen", AnyTensor::from_f64s(vec![7.0], &[1], DType::F64, &Device::flex()));
            problem.a.push(3.0);
            problem.c.push(1.0);
        }
        problem
    };
    for optimiser in adaptive() {
        let settings = HostSettings { frozen: vec!["frozen".to_owned()], ..Default::default() };
        let with = inputs(true).run(optimiser.as_ref(), settings, vec![Role::Other; 2]);
        let without = inputs(false).plain(optimiser.as_ref());
        assert_eq!(with[50].d(), without[50].d());
        assert_eq!(flat(&with[50].params)[..3], flat(&without[50].params));
        assert_eq!(flat(&with[50].params)[3], 7.0);
    }
}

#[test]
fn a_restart_holds_d_below_a_share() {
    for optimiser in adaptive() {
        let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 100);
        let mut host =
            Host::over(optimiser.as_ref(), HostSettings::default(), &problem.start, vec![Role::Other]).unwrap();
        let mut reached = vec![];
        for _ in 0..2 {
            let mut x = problem.start.clone();
            for _ in 0..200 {
                x = host.step(optimiser.as_ref(), &x, &problem.loss_and_gradient(&x).1, 1.0, 0.0).unwrap();
            }
            reached.push(host.report(optimiser.as_ref())[0].1);
            assert!(host.restart(optimiser.as_ref(), &problem.start, 0.25).unwrap());
        }
        assert!(reached[1] <= 0.25 * reached[0] && reached[1] > 1e-6, "{reached:?}");
    }
    let mut host = Host::over(&Sgd::default(), HostSettings::default(), &Params::default(), vec![]).unwrap();
    assert!(!host.restart(&Sgd::default(), &Params::default(), 0.25).unwrap());
}

#[test]
fn single_precision_follows_double_precision() {
    let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 50);
    for optimiser in adaptive() {
        let expected = problem.plain(optimiser.as_ref());
        let mut x = problem.start.cast(DType::F32);
        let mut host = Host::over(optimiser.as_ref(), HostSettings::default(), &x, vec![Role::Other]).unwrap();
        for _ in 0..50 {
            let gradient = problem.loss_and_gradient(&x).1.cast(DType::F32);
            x = host.step(optimiser.as_ref(), &x, &gradient, 1.0, 0.0).unwrap();
        }
        // 6e-8 a rounding, amplified while d grows a million-fold.
        assert!(distance(&flat(&x), &flat(&expected[50].params)) < 1e-4, "{optimiser:?}");
    }
}
