//! The runs of torch and of the authors' package, and laws that hold for exact arithmetic.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{AnyOptimiser, AnyTensor, Params, Role};
use acclimate_optim::{Adamw, DadaptAdam, DadaptSgd, Host, HostSettings, Sgd};
use burn::tensor::{DType, Device};
use serde_json::Value;
use std::path::Path;

/// f(x) = ½ Σ a (x − c)² + mean log(1 + exp(−y ⟨w, x⟩)), with x all leaves one after another.
struct Problem {
    start: Params,
    a: Vec<f64>,
    c: Vec<f64>,
    w: Vec<Vec<f64>>,
    y: Vec<f64>,
    multipliers: Vec<f64>,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn tensor(value: &Value) -> AnyTensor {
    let shape: Vec<usize> = numbers(&value["shape"]).iter().map(|&n| n as usize).collect();
    AnyTensor::from_f64s(numbers(&value["data"]), &shape, DType::F64, &Device::flex())
}

fn tensors(value: &Value) -> Params {
    let mut params = Params::default();
    for (name, value) in value.as_object().unwrap() {
        params.insert(name, tensor(value));
    }
    params
}

fn flat(params: &Params) -> Vec<f64> {
    params.iter().flat_map(|(_, tensor)| tensor.to_f64s()).collect()
}

fn like(params: &Params, values: &[f64]) -> Params {
    let mut at = 0;
    params.map(|_, tensor| {
        let part = values[at..at + tensor.count()].to_vec();
        at += tensor.count();
        AnyTensor::from_f64s(part, &tensor.shape(), DType::F64, &Device::flex())
    })
}

impl Problem {
    fn read(inputs: &Value) -> Self {
        let width = inputs["w"]["shape"][1].as_u64().unwrap() as usize;
        Self {
            start: tensors(&inputs["params"]),
            a: numbers(&inputs["a"]["data"]),
            c: numbers(&inputs["c"]["data"]),
            w: numbers(&inputs["w"]["data"]).chunks(width).map(<[f64]>::to_vec).collect(),
            y: numbers(&inputs["y"]["data"]),
            multipliers: numbers(&inputs["lr_multiplier"]),
        }
    }

    /// The quadratic of the catalogue's table, x₀ = 0.
    fn quadratic(a: &[f64], c: &[f64], steps: usize) -> Self {
        let mut start = Params::default();
        start.insert("x", AnyTensor::from_f64s(vec![0.0; a.len()], &[a.len()], DType::F64, &Device::flex()));
        let (a, c) = (a.to_vec(), c.to_vec());
        Self { start, a, c, w: vec![], y: vec![], multipliers: vec![1.0; steps] }
    }

    fn loss_and_gradient(&self, params: &Params) -> (f64, Params) {
        let x = flat(params);
        let mut gradient: Vec<f64> = x.iter().zip(&self.a).zip(&self.c).map(|((x, a), c)| a * (x - c)).collect();
        let mut loss: f64 = x.iter().zip(&self.a).zip(&self.c).map(|((x, a), c)| 0.5 * a * (x - c).powi(2)).sum();
        let rows = self.w.len() as f64;
        for (w, y) in self.w.iter().zip(&self.y) {
            let margin = -y * w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
            loss += margin.exp().ln_1p() / rows;
            let slope = -y / (1.0 + (-margin).exp()) / rows;
            gradient.iter_mut().zip(w).for_each(|(g, w)| *g += slope * w);
        }
        (loss, like(params, &gradient))
    }

    /// The parameters and d before the first step and after each.
    fn run(&self, optimiser: &dyn AnyOptimiser, settings: HostSettings, roles: Vec<Role>) -> Vec<(Params, f64)> {
        let mut host = Host::over(optimiser, settings, &self.start, roles).unwrap();
        let d = |host: &Host| host.report(optimiser).first().map_or(f64::NAN, |(_, d)| *d);
        let mut path = vec![(self.start.clone(), d(&host))];
        for &multiplier in &self.multipliers {
            let (loss, gradient) = self.loss_and_gradient(&path[path.len() - 1].0);
            let next = host.step(optimiser, &path[path.len() - 1].0, &gradient, multiplier, loss).unwrap();
            path.push((next, d(&host)));
        }
        path
    }

    fn plain(&self, optimiser: &dyn AnyOptimiser) -> Vec<(Params, f64)> {
        self.run(optimiser, HostSettings::default(), vec![Role::Other; self.start.len()])
    }
}

/// How far `got` is from `expected`, as a share of one more than its size.
fn distance(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(g, e)| (g - e).abs() / (1.0 + e.abs())).fold(0.0, f64::max)
}

/// Runs all cases of a file; answers with the largest distance found.
fn check(file: &str, build: impl Fn(&Value) -> Box<dyn AnyOptimiser>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/optim").join(file);
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    // A case that follows a slip of its package is not ours to reproduce.
    for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["config"].get("compat").is_none()) {
        let (name, config, expected) = (&case["name"], &case["config"], &case["expected"]);
        let problem = Problem::read(&case["inputs"]);
        let (loss, gradient) = problem.loss_and_gradient(&problem.start);
        assert!(distance(&[loss], &[expected["start"]["loss"].as_f64().unwrap()]) < 1e-14, "{name}: loss");
        assert!(
            distance(&flat(&gradient), &flat(&tensors(&expected["start"]["gradients"]))) < 1e-13,
            "{name}: gradient"
        );
        // Roles carry the relative rates of leaves.
        let roles = [Role::InputFactor, Role::OutputFactor, Role::Core];
        let names = ["p0", "p1", "p2"];
        let scale = |name: &str| config["layer_scale"][name].as_f64().unwrap_or(1.0);
        let settings = HostSettings {
            weight_decay: config["weight_decay"].as_f64().unwrap(),
            decoupled: config["decouple"].as_bool().unwrap_or(false),
            scales: roles.into_iter().zip(names.map(scale)).collect(),
            ..Default::default()
        };
        let path = problem.run(build(config).as_ref(), settings, roles[..problem.start.len()].to_vec());
        for step in expected["steps"].as_array().unwrap() {
            let (params, d) = &path[step["step"].as_u64().unwrap() as usize];
            let off = distance(&flat(params), &flat(&tensors(&step["params"])));
            assert!(off < tolerance, "{file} {name}, step {}: off by {off:e}", step["step"]);
            if let Some(expected) = step["d"].as_f64() {
                let off = (d / expected - 1.0).abs();
                assert!(off < tolerance, "{file} {name}, step {}: d off by {off:e}", step["step"]);
            }
        }
    }
}

fn number(config: &Value, key: &str) -> f64 {
    config[key].as_f64().unwrap()
}

#[test]
fn sgd_equals_torch() {
    check("sgd.json", |config| {
        let nesterov = config["nesterov"].as_bool().unwrap();
        Box::new(Sgd { lr: number(config, "lr"), momentum: number(config, "momentum"), nesterov })
    });
}

#[test]
fn adamw_equals_torch() {
    check("adamw.json", |config| {
        let betas = numbers(&config["betas"]);
        let eps = number(config, "eps");
        Box::new(Adamw { lr: number(config, "lr"), beta1: betas[0], beta2: betas[1], eps })
    });
}

#[test]
fn dadapt_adam_equals_the_package() {
    check("dadapt_adam.json", |config| {
        let betas = numbers(&config["betas"]);
        Box::new(DadaptAdam {
            d0: number(config, "d0"),
            growth_rate: config["growth_rate"].as_f64().unwrap_or(f64::INFINITY),
            beta1: betas[0],
            beta2: betas[1],
            eps: number(config, "eps"),
            bias_correction: config["use_bias_correction"].as_bool().unwrap(),
        })
    });
}

#[test]
fn dadapt_sgd_equals_the_package() {
    check("dadapt_sgd.json", |config| {
        Box::new(DadaptSgd {
            d0: number(config, "d0"),
            growth_rate: config["growth_rate"].as_f64().unwrap_or(f64::INFINITY),
            momentum: number(config, "momentum"),
        })
    });
}

const PLAIN: DadaptSgd = DadaptSgd { d0: 1e-6, growth_rate: f64::INFINITY, momentum: 0.0 };

const PACKAGE: DadaptAdam =
    DadaptAdam { d0: 1e-6, growth_rate: f64::INFINITY, beta1: 0.9, beta2: 0.999, eps: 1e-8, bias_correction: false };

/// d after 10 and 50 steps and x after 50, to the digits of the catalogue's table.
fn table(optimiser: &dyn AnyOptimiser, d10: f64, d50: f64, x50: [f64; 3]) {
    let path = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 50).plain(optimiser);
    assert!((path[10].1 / d10 - 1.0).abs() < 1e-10, "{}", path[10].1);
    assert!((path[50].1 / d50 - 1.0).abs() < 1e-10, "{}", path[50].1);
    assert!(distance(&flat(&path[50].0), &x50) < 1e-8);
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
        assert!(path.windows(2).all(|pair| pair[1].1 >= pair[0].1), "{optimiser:?}");
        assert!(path[200].1 > path[0].1, "{optimiser:?}");
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
        assert!(path.iter().all(|(_, d)| *d <= bound), "{}", path[2000].1);
    }
}

#[test]
fn a_multiple_of_the_loss_leaves_the_path() {
    let adam = DadaptAdam { eps: 1e-30, ..PACKAGE };
    let adamw = Adamw { lr: 0.05, eps: 1e-30, ..Default::default() };
    for optimiser in [&adam as &dyn AnyOptimiser, &adamw, &DadaptSgd { momentum: 0.9, ..Default::default() }] {
        let path = |scale: f64| {
            let a = [1.0, 10.0, 0.1].map(|a| a * scale);
            flat(&Problem::quadratic(&a, &[1.0, -2.0, 3.0], 50).plain(optimiser)[50].0)
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
        flat(&Problem::quadratic(&a, &c, 50).plain(&adam)[50].0).iter().map(|x| x / by).collect::<Vec<_>>()
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
    assert_eq!(path[50].1, 0.01);
    assert!(distance(&flat(&path[50].0), &x) < 1e-12);
}

#[test]
fn zero_gradients_make_no_step_and_no_nan() {
    let flat_bottom = Problem::quadratic(&[0.0; 3], &[1.0; 3], 5);
    for optimiser in adaptive() {
        let path = flat_bottom.plain(optimiser.as_ref());
        assert!(path.iter().all(|(x, d)| flat(x) == [0.0; 3] && *d == 1e-6), "{optimiser:?}");
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
        assert_eq!(flat(&x), flat(&expected[20].0), "{optimiser:?}");
    }
}

#[test]
fn the_first_step_of_adam_is_the_sign() {
    let adamw = Adamw { lr: 0.05, eps: 1e-30, ..Default::default() };
    let path = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 1).plain(&adamw);
    assert!(distance(&flat(&path[1].0), &[0.05, -0.05, 0.05]) < 1e-15);
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
        assert_eq!(with[50].1, without[50].1);
        assert_eq!(flat(&with[50].0)[..3], flat(&without[50].0));
        assert_eq!(flat(&with[50].0)[3], 7.0);
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
        assert!(distance(&flat(&x), &flat(&expected[50].0)) < 1e-4, "{optimiser:?}");
    }
}
