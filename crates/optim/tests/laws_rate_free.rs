//! Laws of the methods that find their own rate, and of their neighbours.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use acclimate_core::{AnyOptimiser, AnyTensor, Params, Role};
use acclimate_optim::{
    Adamw, DadaptAdagrad, DadaptAdamPreprint, DadaptAdan, DadaptAdanIp, DadaptDualAveraging, DadaptGd, DadaptLion, Dog,
    Dowg, DualAveragingForm, Host, HostSettings, Momo, MomoAdam, Prodigy, ScheduleFreeAdamw, ScheduleFreeSgd,
    dual_averaging_bound,
};
use burn::tensor::{DType, Device};
use common::{Problem, distance, flat, like};

type Made = Vec<Box<dyn AnyOptimiser>>;

const PRODIGY: Prodigy = Prodigy {
    d0: 1e-6,
    d_coef: 1.0,
    growth_rate: f64::INFINITY,
    beta1: 0.9,
    beta2: 0.999,
    beta3: None,
    eps: 1e-30,
    bias_correction: false,
    safeguard_warmup: false,
    slice_p: 1,
};

/// The methods whose rate is made of an estimate, with their guards of divisions next to zero.
fn adaptive(d0: f64, growth_rate: f64) -> Made {
    let eps = 1e-30;
    vec![
        Box::new(Prodigy { d0, growth_rate, ..PRODIGY }),
        Box::new(Prodigy { d0, growth_rate, bias_correction: true, d_coef: 2.0, slice_p: 2, ..PRODIGY }),
        Box::new(DadaptLion { d0, growth_rate, ..Default::default() }),
        Box::new(DadaptAdan { d0, growth_rate, eps, ..Default::default() }),
        Box::new(DadaptAdanIp { d0, growth_rate, eps, ..Default::default() }),
        Box::new(DadaptAdamPreprint { d0, growth_rate, eps, ..Default::default() }),
        Box::new(DadaptAdagrad { d0, growth_rate, ..Default::default() }),
        Box::new(DadaptDualAveraging { d0, growth_rate, form: DualAveragingForm::Norms }),
        Box::new(DadaptDualAveraging { d0, growth_rate, form: DualAveragingForm::Products }),
        Box::new(DadaptGd { d0, growth_rate, gradient_bound: 0.0 }),
        Box::new(Dog { r_eps: d0, eps: 0.0, ..Default::default() }),
        Box::new(Dowg { d0, eps: 0.0 }),
    ]
}

fn neighbours() -> Made {
    vec![
        Box::new(ScheduleFreeSgd { lr: 0.05, ..Default::default() }),
        Box::new(ScheduleFreeAdamw { lr: 0.05, eps: 1e-30, ..Default::default() }),
        Box::new(Momo { lr: 0.3, ..Default::default() }),
        Box::new(MomoAdam { lr: 0.3, eps: 1e-30, ..Default::default() }),
    ]
}

const A: [f64; 3] = [1.0, 10.0, 0.1];
const C: [f64; 3] = [1.0, -2.0, 3.0];

fn leaf(values: &[f64]) -> Params {
    let mut params = Params::default();
    params.insert("x", AnyTensor::from_f64s(values.to_vec(), &[values.len()], DType::F64, &Device::flex()));
    params
}

/// A convex function: its name, where the run starts, how far the solution is, and its value over the best with a subgradient.
struct Convex {
    name: &'static str,
    start: Vec<f64>,
    distance: f64,
    f: fn(&[f64]) -> (f64, Vec<f64>),
}

const TARGET: [f64; 5] = [1.0, -0.5, 2.0, 0.3, -1.5];

fn off(x: &[f64]) -> Vec<f64> {
    x.iter().zip(TARGET).map(|(x, c)| x - c).collect()
}

/// The distance to a point in two norms that are not smooth, and two quadratics.
fn convex() -> [Convex; 4] {
    let size = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let sum: fn(&[f64]) -> (f64, Vec<f64>) =
        |x| (off(x).iter().map(|x| x.abs()).sum(), off(x).iter().map(|x| x.signum()).collect());
    let largest: fn(&[f64]) -> (f64, Vec<f64>) = |x| {
        let off = off(x);
        let at = (0..5).max_by(|&i, &j| off[i].abs().total_cmp(&off[j].abs())).unwrap();
        (off[at].abs(), (0..5).map(|i| if i == at { off[i].signum() } else { 0.0 }).collect())
    };
    let round: fn(&[f64]) -> (f64, Vec<f64>) = |x| (off(x).iter().map(|x| 0.5 * x * x).sum(), off(x));
    let long: fn(&[f64]) -> (f64, Vec<f64>) = |x| {
        let curvature = [0.01, 0.1, 1.0, 10.0, 100.0];
        let g: Vec<f64> = off(x).iter().zip(curvature).map(|(x, a)| a * x).collect();
        (off(x).iter().zip(&g).map(|(x, g)| 0.5 * x * g).sum(), g)
    };
    let start = vec![0.0; 5];
    [("sum", sum), ("largest", largest), ("round", round), ("long", long)].map(|(name, f)| Convex {
        name,
        start: start.clone(),
        distance: size(&TARGET),
        f,
    })
}

/// What a run went through, at the start and after each step; gradients are those before each step.
struct Path {
    points: Vec<Vec<f64>>,
    evaluated: Vec<Vec<f64>>,
    gradients: Vec<Vec<f64>>,
    d: Vec<f64>,
    d_hat: Vec<f64>,
}

fn run(optimiser: &dyn AnyOptimiser, problem: &Convex, steps: usize, settings: HostSettings) -> Path {
    let mut x = leaf(&problem.start);
    let mut host = Host::over(optimiser, settings, &x, vec![Role::Weight]).unwrap();
    let numbers = |host: &Host| host.report(optimiser);
    let mut path = Path {
        points: vec![problem.start.clone()],
        evaluated: vec![flat(&host.evaluate(optimiser, &x))],
        gradients: vec![],
        d: vec![numbers(&host)[0].1],
        d_hat: vec![],
    };
    for _ in 0..steps {
        let (loss, gradient) = (problem.f)(&flat(&x));
        x = host.step(optimiser, &x, &like(&x, &gradient), 1.0, loss).unwrap();
        path.gradients.push(gradient);
        path.points.push(flat(&x));
        path.evaluated.push(flat(&host.evaluate(optimiser, &x)));
        path.d.push(numbers(&host)[0].1);
        path.d_hat.push(numbers(&host)[1].1);
    }
    path
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn the_rows_of_the_catalogue_table_hold() {
    let dual = |form| DadaptDualAveraging { d0: 1e-6, growth_rate: f64::INFINITY, form };
    type Row = (Box<dyn AnyOptimiser>, f64, f64, [f64; 3]);
    let rows: [Row; 6] = [
        (
            Box::new(dual(DualAveragingForm::Norms)),
            1.3435852691e-6,
            2.2729047483e-5,
            [2.36406922e-6, -4.72808514e-5, 7.09221566e-7],
        ),
        (
            Box::new(dual(DualAveragingForm::Products)),
            2.3653758998e-6,
            5.5456407492e-5,
            [5.29454558e-6, -1.05888273e-4, 1.58836763e-6],
        ),
        (
            Box::new(DadaptAdagrad::default()),
            5.2619925151e-6,
            1.7911880096e-3,
            [1.91951319e-3, -1.92013758e-3, 1.92034451e-3],
        ),
        (Box::new(DadaptAdamPreprint::default()), 5.1826095602, 12.167687995, [0.652741945, -3.13843964, 3.49141467]),
        (
            Box::new(DadaptLion { growth_rate: f64::INFINITY, ..Default::default() }),
            1.2526184769e-5,
            0.91502183709,
            [0.534662366, -1.65160430, 3.48164797],
        ),
        (Box::new(Prodigy::default()), 3.8737104966e-3, 0.97979037587, [1.35411342, -2.13548540, 3.47375876]),
    ];
    for (optimiser, d10, d50, x50) in rows {
        let path = Problem::quadratic(&A, &C, 50).plain(optimiser.as_ref());
        assert!((path[10].d() / d10 - 1.0).abs() < 1e-9, "{optimiser:?}: {}", path[10].d());
        assert!((path[50].d() / d50 - 1.0).abs() < 1e-9, "{optimiser:?}: {}", path[50].d());
        // Nine digits are printed.
        let x = flat(&path[50].params);
        assert!(x.iter().zip(x50).all(|(x, known)| (x / known - 1.0).abs() < 1e-8), "{optimiser:?}: {x:?}");
    }
}

#[test]
fn d_never_decreases() {
    let problem = Problem::quadratic(&A, &C, 300);
    for optimiser in adaptive(1e-6, f64::INFINITY) {
        let path = problem.plain(optimiser.as_ref());
        assert!(path.windows(2).all(|pair| pair[1].d() >= pair[0].d()), "{optimiser:?}");
        assert!(path[300].d() > 10.0 * path[0].d(), "{optimiser:?}: {}", path[300].d());
    }
}

#[test]
fn the_estimates_of_dual_averaging_are_ordered_and_below_the_distance() {
    for problem in convex() {
        for form in [DualAveragingForm::Norms, DualAveragingForm::Products] {
            let optimiser = DadaptDualAveraging { form, ..Default::default() };
            let path = run(&optimiser, &problem, 1000, HostSettings::default());
            // Both estimates along one path, each written out from the history.
            let (mut s, mut squares, mut norms, mut products) = (vec![0.0; 5], 0.0, 0.0, 0.0);
            for (k, g) in path.gradients.iter().enumerate() {
                let (d, square) = (path.d[k], dot(g, g));
                let step = f64::sqrt(if k == 0 { square } else { squares }).recip();
                squares += square;
                norms += step * d * d * square;
                products += step * d * dot(g, &s);
                s.iter_mut().zip(g).for_each(|(s, g)| *s += d * g);
                let size = dot(&s, &s).sqrt();
                let first = (size * size / squares.sqrt() - norms) / (2.0 * size);
                let second = products / size;
                let own = if form == DualAveragingForm::Norms { first } else { second };
                // A thousand sums of numbers that cancel.
                let close = 1e-9 * problem.distance;
                assert!((own - path.d_hat[k]).abs() < close, "{}, step {k}: {own} {}", problem.name, path.d_hat[k]);
                assert!(first <= second + close && second <= problem.distance + close, "{}, step {k}", problem.name);
            }
            assert!(path.d[1000] <= problem.distance && path.d[1000] > 1e-3 * problem.distance, "{}", path.d[1000]);
        }
    }
}

#[test]
fn products_end_with_a_larger_estimate_than_norms() {
    for problem in convex() {
        let end = |form| {
            let optimiser = DadaptDualAveraging { form, ..Default::default() };
            run(&optimiser, &problem, 2000, HostSettings::default()).d[2000] / problem.distance
        };
        let (norms, products) = (end(DualAveragingForm::Norms), end(DualAveragingForm::Products));
        assert!(norms < products && products <= 1.0, "{}: {norms} {products}", problem.name);
    }
}

#[test]
fn the_bound_on_dual_averaging_holds_on_every_run() {
    for problem in convex() {
        for form in [DualAveragingForm::Norms, DualAveragingForm::Products] {
            for d0 in [1e-6, 1e-2, 1.0] {
                let optimiser = DadaptDualAveraging { form, d0, ..Default::default() };
                let path = run(&optimiser, &problem, 1000, HostSettings::default());
                for steps in [50, 200, 1000] {
                    let norms: Vec<f64> = path.gradients[..steps].iter().map(|g| dot(g, g).sqrt()).collect();
                    let bound = dual_averaging_bound(&path.d[..=steps], &norms, problem.distance).unwrap();
                    let gap = (problem.f)(&path.evaluated[bound.step]).0;
                    assert!(gap <= bound.gap, "{}, {d0}, {steps} steps: {gap} above {bound:?}", problem.name);
                }
            }
        }
    }
}

#[test]
fn a_short_run_and_lists_that_do_not_fit_have_no_bound() {
    // 2 log₂ 1024 = 20 steps after the first.
    assert_eq!(dual_averaging_bound(&[1.0; 21], &[1.0; 20], 1024.0), None);
    assert!(dual_averaging_bound(&[1.0; 22], &[1.0; 21], 1024.0).is_some());
    assert_eq!(dual_averaging_bound(&[1.0; 21], &[1.0; 21], 1024.0), None);
    assert_eq!(dual_averaging_bound(&[], &[], 1.0), None);
}

#[test]
fn the_two_estimates_of_gradient_descent_are_one_number() {
    for problem in convex() {
        let optimiser = DadaptGd { d0: 1e-2, ..Default::default() };
        let path = run(&optimiser, &problem, 300, HostSettings::default());
        let (mut squares, mut subtracted) = (0.0, 0.0);
        for (k, g) in path.gradients.iter().enumerate() {
            squares += dot(g, g);
            let rate = path.d[k] / f64::sqrt(squares);
            subtracted += rate * rate * dot(g, g);
            let size = dot(&path.points[k + 1], &path.points[k + 1]).sqrt();
            let other = (size * size - subtracted) / (2.0 * size);
            assert!((path.d_hat[k] - other).abs() < 1e-12 * (1.0 + other.abs()), "{}, step {k}", problem.name);
        }
        assert!(path.d[300] <= problem.distance);
    }
}

#[test]
fn averages_are_those_of_the_points_even_where_weights_decay() {
    let settings = || HostSettings { weight_decay: 0.1, ..Default::default() };
    let average = |points: &[Vec<f64>], weights: &[f64]| {
        let sum: f64 = weights.iter().sum();
        (0..5).map(|i| points.iter().zip(weights).map(|(x, w)| w * x[i]).sum::<f64>() / sum).collect::<Vec<f64>>()
    };
    let problem = &convex()[2];
    let dual = run(&DadaptDualAveraging { d0: 0.1, ..Default::default() }, problem, 100, settings());
    assert!(distance(&dual.evaluated[100], &average(&dual.points[..100], &dual.d[..100])) < 1e-12);
    let descent = run(&DadaptGd { d0: 0.1, ..Default::default() }, problem, 100, settings());
    let mut squares = 0.0;
    let rate = |(g, d): (&Vec<f64>, &f64)| {
        squares += dot(g, g);
        d / f64::sqrt(squares)
    };
    let rates: Vec<f64> = descent.gradients.iter().zip(&descent.d).map(rate).collect();
    assert!(distance(&descent.evaluated[100], &average(&descent.points[..100], &rates)) < 1e-12);
    // DoG's average is of the points after each step, DoWG's of those before.
    let dog = run(&Dog { averaging: 0.0, ..Default::default() }, problem, 100, settings());
    assert!(distance(&dog.evaluated[100], &average(&dog.points[1..], &[1.0; 100])) < 1e-12);
    let dowg = run(&Dowg::default(), problem, 100, settings());
    let weights: Vec<f64> = dowg.d[1..].iter().map(|d| d * d).collect();
    assert!(distance(&dowg.evaluated[100], &average(&dowg.points[..100], &weights)) < 1e-12);
}

#[test]
fn the_distance_of_dog_and_dowg_is_how_far_the_path_went() {
    let problem = &convex()[3];
    let settings = HostSettings { weight_decay: 0.1, ..Default::default() };
    for (optimiser, first) in [(&Dog::default() as &dyn AnyOptimiser, 1e-6), (&Dowg::default(), 1e-2)] {
        let path = run(optimiser, problem, 200, settings.clone());
        let mut furthest: f64 = first;
        for (k, point) in path.points[..200].iter().enumerate() {
            furthest = furthest.max(dot(point, point).sqrt());
            // The state adds two hundred movements up.
            assert!((path.d[k + 1] / furthest - 1.0).abs() < 1e-10, "{optimiser:?}, step {k}");
        }
    }
}

#[test]
fn a_multiple_of_the_loss_leaves_the_path() {
    for optimiser in adaptive(1e-6, f64::INFINITY) {
        // AdaGrad's sums of squares start at 1e-6 whatever the loss.
        if format!("{optimiser:?}").starts_with("DadaptAdagrad") {
            continue;
        }
        let path =
            |scale: f64| flat(&Problem::quadratic(&A.map(|a| a * scale), &C, 50).plain(optimiser.as_ref())[50].params);
        // A power of two changes no digit; the chain of d amplifies the roundings of any other.
        assert!(distance(&path(1024.0), &path(1.0)) < 1e-13, "{optimiser:?}");
    }
}

#[test]
fn a_stretched_problem_has_a_stretched_path() {
    // f(x₀ + (x − x₀)/c) has its minimum c times further off and 1/c² of the curvature. A power of two changes no digit.
    let by = 1024.0;
    let stretched = Problem::quadratic(&A.map(|a| a / (by * by)), &C.map(|c| c * by), 50);
    let plain = Problem::quadratic(&A, &C, 50);
    for (optimiser, wide) in adaptive(1e-6, 1.5).iter().zip(adaptive(1e-6 * by, 1.5)) {
        let name = format!("{optimiser:?}");
        // Lion adds a gradient to a mean of gradients times the rate; AdaGrad's sums of squares start at 1e-6.
        if name.starts_with("DadaptLion") || name.starts_with("DadaptAdagrad") {
            continue;
        }
        let expected: Vec<f64> = flat(&plain.plain(optimiser.as_ref())[50].params);
        let found: Vec<f64> = flat(&stretched.plain(wide.as_ref())[50].params).iter().map(|x| x / by).collect();
        let off = found.iter().zip(&expected).map(|(x, y)| (x / y - 1.0).abs()).fold(0.0, f64::max);
        assert!(off < 1e-12, "{name}: {off:e}");
    }
}

#[test]
fn a_relative_rate_is_a_change_of_units() {
    // x = u y: in y the curvatures are u² times as large and the solution is 1/u times as far.
    let in_units = |optimiser: &dyn AnyOptimiser, unit: f64| {
        let problem = Problem::quadratic(&A.map(|a| a * unit * unit), &C.map(|c| c / unit), 50);
        flat(&problem.plain(optimiser)[50].params).iter().map(|y| y * unit).collect::<Vec<f64>>()
    };
    let methods = adaptive(1e-3, 1.5).into_iter().chain(neighbours());
    for optimiser in methods.filter(|optimiser| !format!("{optimiser:?}").starts_with("DadaptAdagrad")) {
        let settings = HostSettings { scales: [(Role::Core, 4.0)].into(), ..Default::default() };
        let rated = Problem::quadratic(&A, &C, 50).run(optimiser.as_ref(), settings, vec![Role::Core]);
        let rated = flat(&rated[50].params);
        // Methods on Adam's scale change the units by the rate, those on the gradient's by its root, and Lion knows no units.
        let [whole, root] = [4.0, 2.0].map(|unit| distance(&rated, &in_units(optimiser.as_ref(), unit)));
        let lion = format!("{optimiser:?}").starts_with("DadaptLion");
        assert!(lion || whole < 1e-10 || root < 1e-10, "{optimiser:?}: {whole:e} {root:e}");
    }
}

#[test]
fn growth_rate_one_keeps_d() {
    let problem = Problem::quadratic(&A, &C, 100);
    for optimiser in adaptive(1e-3, 1.0) {
        let path = problem.plain(optimiser.as_ref());
        let name = format!("{optimiser:?}");
        if name.starts_with("Do") {
            continue; // DoG and DoWG have no limit
        }
        // Prodigy takes its first bound above d0 whole.
        let changes = path.windows(2).filter(|pair| pair[1].d() != pair[0].d()).count();
        let allowed = usize::from(name.starts_with("Prodigy"));
        assert_eq!(changes, allowed, "{name}");
    }
}

#[test]
fn zero_gradients_make_no_step_and_no_nan() {
    let flat_bottom = Problem::quadratic(&[0.0; 3], &[1.0; 3], 5);
    for optimiser in adaptive(1e-6, f64::INFINITY) {
        let path = flat_bottom.plain(optimiser.as_ref());
        assert!(path.iter().all(|point| flat(&point.params) == [0.0; 3]), "{optimiser:?}");
        assert!(path.iter().all(|point| flat(&point.evaluated) == [0.0; 3]), "{optimiser:?}");
        assert!(path.iter().all(|point| point.log == path[0].log), "{optimiser:?}");
    }
    for optimiser in neighbours() {
        let path = flat_bottom.plain(optimiser.as_ref());
        assert!(path.iter().all(|point| flat(&point.params) == [0.0; 3]), "{optimiser:?}");
        assert!(path.iter().all(|point| flat(&point.evaluated) == [0.0; 3]), "{optimiser:?}");
    }
}

#[test]
fn zero_gradients_at_first_change_nothing_later() {
    let problem = Problem::quadratic(&A, &C, 20);
    for optimiser in adaptive(1e-3, f64::INFINITY) {
        let expected = problem.plain(optimiser.as_ref());
        let mut host =
            Host::over(optimiser.as_ref(), HostSettings::default(), &problem.start, vec![Role::Other]).unwrap();
        let mut x = problem.start.clone();
        for k in 0..25 {
            let gradient = if k < 5 { x.zeros_like() } else { problem.loss_and_gradient(&x).1 };
            x = host.step(optimiser.as_ref(), &x, &gradient, 1.0, 0.0).unwrap();
        }
        assert_eq!(flat(&x), flat(&expected[20].params), "{optimiser:?}");
        assert_eq!(flat(&host.evaluate(optimiser.as_ref(), &x)), flat(&expected[20].evaluated), "{optimiser:?}");
    }
}

#[test]
fn single_precision_follows_double_precision() {
    let problem = Problem::quadratic(&A, &C, 50);
    for optimiser in adaptive(1e-3, 1.2).into_iter().chain(neighbours()) {
        let expected = problem.plain(optimiser.as_ref());
        let mut x = problem.start.cast(DType::F32);
        let mut host = Host::over(optimiser.as_ref(), HostSettings::default(), &x, vec![Role::Other]).unwrap();
        for _ in 0..50 {
            let (loss, gradient) = problem.loss_and_gradient(&x);
            x = host.step(optimiser.as_ref(), &x, &gradient.cast(DType::F32), 1.0, loss).unwrap();
        }
        // 6e-8 a rounding, amplified while d grows a thousandfold.
        let off = distance(&flat(&x), &flat(&expected[50].params));
        assert!(off < 1e-4, "{optimiser:?}: {off:e}");
        let off = distance(&flat(&host.evaluate(optimiser.as_ref(), &x)), &flat(&expected[50].evaluated));
        assert!(off < 1e-4, "{optimiser:?}, evaluated: {off:e}");
    }
}

#[test]
fn a_restart_holds_d_below_a_share() {
    let problem = Problem::quadratic(&A, &C, 200);
    for optimiser in adaptive(1e-6, 1.2) {
        let mut host =
            Host::over(optimiser.as_ref(), HostSettings::default(), &problem.start, vec![Role::Other]).unwrap();
        let mut reached = vec![];
        for _ in 0..3 {
            let mut x = problem.start.clone();
            for _ in 0..200 {
                x = host.step(optimiser.as_ref(), &x, &problem.loss_and_gradient(&x).1, 1.0, 0.0).unwrap();
            }
            reached.push(host.report(optimiser.as_ref())[0].1);
            assert!(host.restart(optimiser.as_ref(), &problem.start, 0.25).unwrap());
        }
        let careful = reached.windows(2).all(|pair| pair[1] <= 0.25 * pair[0]);
        assert!(careful && reached[2] >= 1e-7, "{optimiser:?}: {reached:?}");
    }
}

#[test]
fn slices_of_single_numbers_are_whole() {
    // Each parameter has one number: a slice of it is itself.
    let single = || {
        let mut problem = Problem::quadratic(&A, &C, 100);
        problem.start = Params::default();
        for name in ["a", "b", "c"] {
            problem.start.insert(name, AnyTensor::from_f64s(vec![0.0], &[1], DType::F64, &Device::flex()));
        }
        problem
    };
    let end = |problem: &Problem, slice_p| {
        let path = problem.plain(&Prodigy { slice_p, ..Default::default() });
        (path[100].d(), flat(&path[100].params))
    };
    assert_eq!(end(&single(), 7), end(&single(), 1));
    assert_ne!(end(&Problem::quadratic(&A, &C, 100), 2), end(&Problem::quadratic(&A, &C, 100), 1));
}

#[test]
fn larger_slices_keep_fewer_numbers() {
    let size = |slice_p| {
        let prodigy: &dyn AnyOptimiser = &Prodigy { slice_p, ..Default::default() };
        prodigy.size_of_state(&[11, 10])
    };
    assert_eq!([1, 2, 11, 1000].map(size), [440, 330, 240, 222]);
}

#[test]
fn schedule_free_without_momentum_averages_the_points_of_descent() {
    let problem = Problem::quadratic(&A, &C, 60);
    let path = problem.plain(&ScheduleFreeSgd { lr: 0.05, momentum: 0.0, power: 0.0 });
    let (mut z, mut sum) = ([0.0; 3], [0.0; 3]);
    for (k, point) in path.iter().enumerate().skip(1) {
        for i in 0..3 {
            z[i] -= 0.05 * A[i] * (z[i] - C[i]);
            sum[i] += z[i];
        }
        assert!(distance(&flat(&point.params), &z) < 1e-13);
        assert!(distance(&flat(&point.evaluated), &sum.map(|sum| sum / k as f64)) < 1e-13);
    }
}

#[test]
fn schedule_free_adamw_without_momentum_averages_the_points_of_adam_without_momentum() {
    let problem = Problem::quadratic(&A, &C, 60);
    let adam = problem.plain(&Adamw { lr: 0.05, beta1: 0.0, ..Default::default() });
    let path = problem.plain(&ScheduleFreeAdamw { lr: 0.05, beta1: 0.0, power: 1.0, ..Default::default() });
    let mut sum = [0.0; 3];
    for (k, (adam, point)) in adam.iter().zip(&path).enumerate().skip(1) {
        let z = flat(&adam.params);
        sum.iter_mut().zip(&z).for_each(|(sum, z)| *sum += k as f64 * z);
        let weights = (k * (k + 1) / 2) as f64;
        assert!(distance(&flat(&point.params), &z) < 1e-13);
        assert!(distance(&flat(&point.evaluated), &sum.map(|sum| sum / weights)) < 1e-13);
    }
}

#[test]
fn the_step_of_momo_never_exceeds_the_rate() {
    let problem = Problem::quadratic(&A, &C, 200);
    for lr in [0.01, 0.1, 1.0, 100.0] {
        for optimiser in [
            Box::new(Momo { lr, ..Default::default() }) as Box<dyn AnyOptimiser>,
            Box::new(Momo { lr, lower_bound: -10.0, estimate_bound: true, ..Default::default() }),
        ] {
            let path = problem.plain(optimiser.as_ref());
            assert!(path.iter().all(|point| point.d() <= lr), "{optimiser:?}");
            let end = problem.loss_and_gradient(&path[200].params).0;
            assert!(lr < 0.1 || end < 1e-2 * problem.loss_and_gradient(&problem.start).0, "{optimiser:?}: {end}");
        }
    }
}

#[test]
fn momo_with_a_bound_far_below_is_descent_along_the_mean() {
    let path = Problem::quadratic(&A, &C, 60).plain(&Momo { lr: 0.1, lower_bound: -1e9, ..Default::default() });
    let (mut x, mut m) = ([0.0; 3], [0.0; 3]);
    for k in 0..60 {
        for i in 0..3 {
            let g = A[i] * (x[i] - C[i]);
            m[i] = if k == 0 { g } else { 0.9 * m[i] + 0.1 * g };
            x[i] -= 0.1 * m[i];
        }
        assert!(distance(&flat(&path[k + 1].params), &x) < 1e-12);
    }
}

#[test]
fn momo_adam_with_a_bound_far_below_is_adam() {
    let problem = Problem::quadratic(&A, &C, 60);
    let adam = problem.plain(&Adamw { lr: 0.1, ..Default::default() });
    let momo = problem.plain(&MomoAdam { lr: 0.1, lower_bound: -1e9, ..Default::default() });
    for (adam, momo) in adam.iter().zip(&momo) {
        assert!(distance(&flat(&momo.params), &flat(&adam.params)) < 1e-12);
    }
}

#[test]
fn momo_solves_a_quadratic_at_a_rate_that_ruins_descent() {
    let problem = Problem::quadratic(&A, &C, 300);
    let first = problem.loss_and_gradient(&problem.start).0;
    let end = |optimiser: &dyn AnyOptimiser| problem.loss_and_gradient(&problem.plain(optimiser)[300].params).0 / first;
    assert!(end(&Momo { lr: 10.0, ..Default::default() }) < 1e-6);
    assert!(end(&Momo { lr: 10.0, lower_bound: -1e9, ..Default::default() }) > 1.0);
}
