//! Laws of methods with moments: AdaMax, AMSGrad, AdaGrad, LaProp, Adafactor and its D-Adapted form.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use acclimate_core::{AnyOptimiser, AnyTensor, Edit, Params, Patch, RecordReader, Rng, Role};
use acclimate_optim::{
    Adafactor, Adagrad, Adamax, Adamw, Allora, Amsgrad, DadaptAdafactor, DadaptAdam, Flora, Host, HostSettings, Laprop,
    Loft, Oasis, Objective, RowNorm, SketchAccumulator,
};
use burn::tensor::{DType, Device};
use common::{Problem, distance, flat};

fn single(name: &str, shape: &[usize], values: Vec<f64>) -> Params {
    let mut params = Params::default();
    params.insert(name, AnyTensor::from_f64s(values, shape, DType::F64, &Device::flex()));
    params
}

/// Where one vector stands before the first of some gradients and after each, whatever the point.
fn fed(optimiser: &dyn AnyOptimiser, gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = gradients[0].len();
    let mut x = single("x", &[width], vec![0.0; width]);
    let mut host = Host::over(optimiser, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    let mut path = vec![flat(&x)];
    for g in gradients {
        x = host.step(optimiser, &x, &single("x", &[width], g.clone()), 1.0, 0.0).unwrap();
        path.push(flat(&x));
    }
    path
}

fn random(seed: u64, steps: usize, width: usize) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(seed, "gradients", 0);
    (0..steps).map(|_| (0..width).map(|_| rng.normal()).collect()).collect()
}

/// The longest move of any coordinate in any step.
fn longest(path: &[Vec<f64>]) -> f64 {
    let moves = path.windows(2).flat_map(|pair| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b).abs()));
    moves.fold(0.0, f64::max)
}

#[test]
fn under_a_constant_gradient_every_step_is_the_rate() {
    let gradients = vec![vec![3.0, -1e-3]; 30];
    let (adamax, adamw) =
        (Adamax { lr: 0.1, eps: 1e-30, ..Default::default() }, Adamw { lr: 0.1, eps: 1e-30, ..Default::default() });
    let amsgrad = Amsgrad { lr: 0.1, eps: 1e-30, ..Default::default() };
    let laprop = Laprop { lr: 0.1, ..Default::default() };
    for optimiser in [&adamax as &dyn AnyOptimiser, &adamw, &laprop] {
        for (k, x) in fed(optimiser, &gradients).iter().enumerate() {
            assert!(distance(x, &[-0.1 * k as f64, 0.1 * k as f64]) < 1e-12, "{optimiser:?}, step {k}: {x:?}");
        }
    }
    // The largest moment is the last one here.
    assert!(distance(&fed(&amsgrad, &gradients)[30], &[-3.0, 3.0]) < 1e-12);
}

#[test]
fn adamax_is_adam_with_high_powers() {
    let (lr, beta1, beta2) = (0.1, 0.9, 0.9_f64);
    let gradients = random(1, 40, 5);
    let adamax = fed(&Adamax { lr, beta1, beta2, eps: 1e-30 }, &gradients);
    let off = |p: f64| {
        let (mut x, mut m, mut v) = ([0.0; 5], [0.0; 5], [0.0; 5]);
        for (k, g) in gradients.iter().enumerate() {
            for i in 0..5 {
                m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
                v[i] = beta2.powf(p) * v[i] + (1.0 - beta2.powf(p)) * g[i].abs().powf(p);
                x[i] -= lr / (1.0 - beta1.powi(k as i32 + 1)) * m[i] / v[i].powf(1.0 / p);
            }
        }
        distance(&adamax[40], &x)
    };
    let [low, middle, high] = [8.0, 64.0, 256.0].map(off);
    assert!(low > 4.0 * middle && middle > 2.0 * high && middle < 0.02, "{low} {middle} {high}");
}

#[test]
fn steps_of_adamax_stay_below_their_bound_and_shrinking_gradients_attain_it() {
    let adamax = Adamax { lr: 1.0, eps: 1e-30, ..Default::default() };
    let bound = |k: i32| {
        let sum: f64 = (0..k).map(|i| (adamax.beta1 / adamax.beta2).powi(i)).sum();
        (1.0 - adamax.beta1) / (1.0 - adamax.beta1.powi(k)) * sum
    };
    let shrinking: Vec<Vec<f64>> = (0..60).map(|k| vec![adamax.beta2.powi(k)]).collect();
    for (k, pair) in fed(&adamax, &shrinking).windows(2).enumerate() {
        assert!(((pair[0][0] - pair[1][0]) / bound(k as i32 + 1) - 1.0).abs() < 1e-12);
    }
    assert!(bound(60) > 1.008 && bound(60) < 1.01);
    let bursts: Vec<Vec<f64>> = random(2, 200, 8).iter().map(|g| g.iter().map(|g| g.powi(5)).collect()).collect();
    assert!(longest(&fed(&adamax, &bursts)) <= 1.01);
}

#[test]
fn the_maximum_of_adamax_covers_every_gradient_seen() {
    let adamax = Adamax { beta2: 0.9, ..Default::default() };
    let gradients = random(3, 50, 4);
    let x = single("x", &[4], vec![0.0; 4]);
    let mut host = Host::over(&adamax, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    for (t, g) in gradients.iter().enumerate() {
        host.step(&adamax, &x, &single("x", &[4], g.clone()), 1.0, 0.0).unwrap();
        let u = host.save().tensors.any("u/x").unwrap().to_f64s();
        for (s, seen) in gradients[..=t].iter().enumerate() {
            let decayed = seen.iter().map(|g| g.abs() * 0.9_f64.powi((t - s) as i32));
            assert!(u.iter().zip(decayed).all(|(u, g)| *u >= g * (1.0 - 1e-12)), "step {t}, gradient of {s}");
        }
    }
}

#[test]
fn a_gradient_after_silence_moves_adam_by_the_papers_figure_and_none_moves_it_further_than_cauchys() {
    const SILENT: i32 = 2000;
    let adam = Adamw { lr: 1.0, eps: 1e-30, ..Default::default() };
    let after_silence = |gradients: Vec<f64>| {
        let silence = std::iter::repeat_n(0.0, SILENT as usize);
        fed(&adam, &silence.chain(gradients).map(|g| vec![g]).collect::<Vec<_>>())
    };
    // What is left of the second correction after so many steps; that of the first is over.
    let correction = |k: i32| (1.0 - adam.beta2.powi(k)).sqrt();
    let figure = 0.1 / 0.001_f64.sqrt();
    assert!((longest(&after_silence(vec![1.0])) / (figure * correction(SILENT + 1)) - 1.0).abs() < 1e-9);
    // Gradients that grow like (β₂/β₁)ᵏ meet the bound of Cauchy's inequality.
    let growing = (0..300).map(|k| (adam.beta2 / adam.beta1).powi(k - 300)).collect();
    let bound = figure / (1.0 - 0.81 / 0.999_f64).sqrt() * correction(SILENT + 300);
    let reached = longest(&after_silence(growing));
    assert!(reached <= bound && reached > 0.999 * bound, "{reached} of {bound}");
}

/// Where a run on C·x, −x, −x, … over [−1, 1] ends; the rate falls with the root of the step.
fn after_rare_large_gradients(optimiser: &dyn AnyOptimiser) -> f64 {
    let mut x = single("x", &[1], vec![0.0]);
    let mut host = Host::over(optimiser, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    for t in 0..6000 {
        let g = if t % 3 == 0 { 3.0 } else { -1.0 };
        x = host.step(optimiser, &x, &single("x", &[1], vec![g]), 1.0 / (t as f64 + 1.0).sqrt(), 0.0).unwrap();
        x = single("x", &[1], vec![flat(&x)[0].clamp(-1.0, 1.0)]);
    }
    flat(&x)[0]
}

#[test]
fn where_adam_converges_to_the_worst_point_amsgrad_finds_the_best() {
    let adam = Adamw { lr: 0.5, beta1: 0.0, beta2: 0.1, eps: 1e-30 };
    let amsgrad = Amsgrad { lr: 0.5, beta1: 0.0, beta2: 0.1, eps: 1e-30, bias_correction: false };
    assert!(after_rare_large_gradients(&adam) > 0.99);
    assert!(after_rare_large_gradients(&amsgrad) < -0.9);
}

#[test]
fn the_rates_of_amsgrad_never_grow() {
    // Without a first moment the move over the gradient is the rate of a coordinate.
    let amsgrad = Amsgrad { lr: 1.0, beta1: 0.0, beta2: 0.5, eps: 1e-30, bias_correction: false };
    let gradients = random(4, 100, 3);
    let path = fed(&amsgrad, &gradients);
    let rates: Vec<Vec<f64>> =
        (0..100).map(|k| (0..3).map(|i| (path[k][i] - path[k + 1][i]) / gradients[k][i]).collect()).collect();
    assert!(rates.windows(2).all(|pair| pair[0].iter().zip(&pair[1]).all(|(a, b)| *b <= a * (1.0 + 1e-9))));
}

#[test]
fn the_regret_of_adagrad_stays_below_its_bound() {
    let star = [2.0, -1.0, 0.5, -3.0];
    for lr in [0.1, 0.5, 2.0] {
        let adagrad = Adagrad { lr, eps: 1e-30 };
        let mut x = single("x", &[4], vec![0.0; 4]);
        let mut host = Host::over(&adagrad, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        let (mut regret, mut d, mut sums) = (0.0, 0.0_f64, [0.0; 4]);
        for weight in random(5, 60, 4) {
            // Σ |weight|·|x − star| and a slope of it.
            let away: Vec<f64> = flat(&x).iter().zip(star).map(|(x, star)| x - star).collect();
            let slope: Vec<f64> = away.iter().zip(&weight).map(|(away, w)| away.signum() * w.abs()).collect();
            for i in 0..4 {
                regret += slope[i] * away[i];
                d = d.max(away[i].abs());
                sums[i] += slope[i] * slope[i];
            }
            x = host.step(&adagrad, &x, &single("x", &[4], slope), 1.0, 0.0).unwrap();
        }
        let bound = (d * d / (2.0 * lr) + lr) * sums.iter().map(|sum| sum.sqrt()).sum::<f64>();
        assert!(regret <= bound && regret > 0.05 * bound, "{regret} of {bound}");
    }
}

#[test]
fn scales_of_coordinates_leave_the_path_of_adaptive_methods() {
    let (adagrad, adamax) = (Adagrad { lr: 0.3, eps: 1e-30 }, Adamax { eps: 1e-30, ..Default::default() });
    let (adam, amsgrad) = (Adamw { eps: 1e-30, ..Default::default() }, Amsgrad { eps: 1e-30, ..Default::default() });
    let gradients = random(7, 50, 3);
    let scaled: Vec<Vec<f64>> = gradients.iter().map(|g| vec![1e4 * g[0], 1e-4 * g[1], 7.0 * g[2]]).collect();
    let laprop = Laprop { eps: 1e-30, ..Default::default() };
    for optimiser in [&adagrad as &dyn AnyOptimiser, &adamax, &adam, &amsgrad, &laprop] {
        let off = distance(&fed(optimiser, &scaled)[50], &fed(optimiser, &gradients)[50]);
        assert!(off < 1e-12, "{optimiser:?}: {off}");
    }
}

#[test]
fn laprop_without_a_mean_is_adam_without_a_mean() {
    let gradients = random(8, 60, 4);
    let laprop = Laprop { lr: 0.1, beta1: 0.0, beta2: 0.9, eps: 1e-8 };
    let adam = Adamw { lr: 0.1, beta1: 0.0, beta2: 0.9, eps: 1e-8 };
    assert!(distance(&fed(&laprop, &gradients)[60], &fed(&adam, &gradients)[60]) < 1e-12);
}

#[test]
fn laprop_without_a_second_memory_averages_signs() {
    let gradients = random(9, 60, 4);
    let path = fed(&Laprop { lr: 0.1, beta1: 0.8, beta2: 0.0, eps: 1e-30 }, &gradients);
    let (mut x, mut m) = ([0.0; 4], [0.0; 4]);
    for (k, g) in gradients.iter().enumerate() {
        for i in 0..4 {
            m[i] = 0.8 * m[i] + 0.2 * g[i].signum();
            x[i] -= 0.1 * m[i] / (1.0 - 0.8_f64.powi(k as i32 + 1));
        }
    }
    assert!(distance(&path[60], &x) < 1e-12);
    assert!(longest(&path) <= 0.1 * (1.0 + 1e-12));
}

#[test]
fn steps_of_laprop_stay_below_their_bound_where_those_of_adam_do_not() {
    // Long silence, then a burst: what is worst for a mean that outlives its moment.
    let mut gradients = random(10, 200, 6);
    for (k, g) in gradients.iter_mut().enumerate() {
        g.iter_mut().for_each(|g| *g *= if k % 40 == 39 { 1e6 } else { 1e-6 });
    }
    for (beta1, beta2) in [(0.0, 0.9), (0.9, 0.9), (0.99, 0.5), (0.9, 0.999)] {
        let laprop = Laprop { lr: 1.0, beta1, beta2, eps: 1e-30 };
        let bound = 1.0 / (1.0 - beta2).sqrt();
        assert!(longest(&fed(&laprop, &gradients)) <= bound, "{beta1} {beta2}");
    }
    let adam = Adamw { lr: 1.0, beta1: 0.99, beta2: 0.5, eps: 1e-30 };
    assert!(longest(&fed(&adam, &gradients)) > 1e3);
}

#[test]
fn after_a_burst_the_step_of_laprop_decays_where_that_of_adam_explodes() {
    let mut gradients = vec![vec![0.0]; 40];
    gradients[0][0] = 1.0;
    let ratios = |path: Vec<Vec<f64>>, corrected: &dyn Fn(i32) -> f64| -> Vec<f64> {
        (0..40).map(|k| (path[k][0] - path[k + 1][0]) * corrected(k as i32 + 1)).collect()
    };
    let (beta1, beta2) = (0.9, 0.5_f64);
    let laprop = fed(&Laprop { lr: 1.0, beta1, beta2, eps: 1e-30 }, &gradients);
    let adam = fed(&Adamw { lr: 1.0, beta1, beta2, eps: 1e-30 }, &gradients);
    let first = |k: i32| 1.0 - 0.9_f64.powi(k);
    for pair in ratios(laprop, &first).windows(2) {
        assert!((pair[1] / pair[0] / beta1 - 1.0).abs() < 1e-12);
    }
    for pair in ratios(adam, &|k| first(k) / (1.0 - 0.5_f64.powi(k)).sqrt()).windows(2) {
        assert!((pair[1] / pair[0] / (beta1 / beta2.sqrt()) - 1.0).abs() < 1e-12);
    }
}

/// Adafactor with its own rate of one, whose movement is the update alone.
const PLAIN: Adafactor = Adafactor {
    lr: 1.0,
    relative_step: false,
    warmup_init: false,
    scale_parameter: false,
    scale_floor: 1e-3,
    clip: f64::INFINITY,
    decay_power: 0.8,
    beta1: 0.0,
    eps: 1e-30,
};

/// As `fed`, with one matrix.
fn fed_matrix(optimiser: &dyn AnyOptimiser, shape: [usize; 2], gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut x = single("x", &shape, vec![0.0; shape[0] * shape[1]]);
    let mut host = Host::over(optimiser, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    let mut path = vec![flat(&x)];
    for g in gradients {
        x = host.step(optimiser, &x, &single("x", &shape, g.clone()), 1.0, 0.0).unwrap();
        path.push(flat(&x));
    }
    path
}

/// The moment that Adafactor divided by in its last step, out of gradients and movements, and the dense one it stands for.
fn moments_of_adafactor(gradients: &[Vec<f64>]) -> [Vec<f64>; 2] {
    let path = fed_matrix(&PLAIN, [4, 3], gradients);
    let last = gradients.len() - 1;
    let factored = (0..12).map(|i| (gradients[last][i] / (path[last][i] - path[last + 1][i])).powi(2)).collect();
    let mut dense = vec![0.0; 12];
    for (k, g) in gradients.iter().enumerate() {
        let keep = 1.0 - (k as f64 + 1.0).powf(-0.8);
        dense.iter_mut().zip(g).for_each(|(v, g)| *v = keep * *v + (1.0 - keep) * g * g);
    }
    [factored, dense]
}

fn sums(matrix: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks(3).map(|row| row.iter().sum());
    rows.chain((0..3).map(|j| matrix.iter().skip(j).step_by(3).sum())).collect()
}

#[test]
fn the_factored_moment_has_the_sums_of_rows_and_columns_of_the_dense_one() {
    let [factored, dense] = moments_of_adafactor(&random(11, 8, 12));
    assert!(distance(&sums(&factored), &sums(&dense)) < 1e-12);
    assert!(distance(&factored, &dense) > 1e-2);
}

#[test]
fn no_matrix_of_rank_one_is_nearer_by_the_i_divergence() {
    let [factored, dense] = moments_of_adafactor(&random(12, 8, 12));
    let divergence = |w: &[f64]| dense.iter().zip(w).map(|(v, w)| v * (v / w).ln() - v + w).sum::<f64>();
    let least = divergence(&factored);
    for change in random(13, 50, 7) {
        let other: Vec<f64> =
            factored.iter().enumerate().map(|(i, w)| w * (0.1 * (change[i / 3] + change[4 + i % 3])).exp()).collect();
        assert!(divergence(&other) > least);
    }
}

#[test]
fn of_squares_of_rank_one_the_update_of_adafactor_is_the_sign() {
    let outer: Vec<f64> = (0..12).map(|i| [3.0, -0.1, 7.0, 1e-3][i / 3] * [1.0, -20.0, 0.5][i % 3]).collect();
    let path = fed_matrix(&Adafactor { clip: 1.0, ..PLAIN }, [4, 3], &vec![outer.clone(); 5]);
    let signs: Vec<f64> = outer.iter().map(|g| -5.0 * g.signum()).collect();
    assert!(distance(&path[5], &signs) < 1e-12);
}

#[test]
fn the_first_step_of_adafactor_moves_a_vector_by_its_rate() {
    let path = fed(&Adafactor { lr: 0.3, ..Default::default() }, &[vec![5.0, -1e-4]]);
    // The vector is zero, so its size counts as the floor.
    assert!(distance(&path[1], &[-0.3e-3, 0.3e-3]) < 1e-15);
}

#[test]
fn no_update_of_adafactor_is_larger_than_its_clip() {
    let mut gradients = random(14, 100, 12);
    gradients
        .iter_mut()
        .enumerate()
        .for_each(|(k, g)| g.iter_mut().for_each(|g| *g *= 10_f64.powi((k * k % 7) as i32)));
    let size = |clip: f64| {
        let path = fed_matrix(&Adafactor { clip, ..PLAIN }, [4, 3], &gradients);
        let moved = |pair: &[Vec<f64>]| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        path.windows(2).map(|pair| (moved(pair) / 12.0).sqrt()).fold(0.0, f64::max)
    };
    assert!(size(1.0) <= 1.0 + 1e-9 && size(1.5) <= 1.5 + 1e-9 && size(f64::INFINITY) > 1.6);
}

#[test]
fn with_the_parameters_scale_a_stretched_problem_has_a_stretched_path() {
    let stretched = |by: f64| {
        let mut problem = Problem::quadratic(&[1.0, 10.0, 0.1].map(|a| a / (by * by)), &[by, -2.0 * by, 3.0 * by], 50);
        problem.start = single("x", &[3], vec![0.5 * by, 0.1 * by, -0.7 * by]);
        let path = problem.plain(&Adafactor { lr: 0.05, scale_floor: 1e-9, ..Default::default() });
        flat(&path[50].params).iter().map(|x| x / by).collect::<Vec<_>>()
    };
    assert!(distance(&stretched(1000.0), &stretched(1.0)) < 1e-12);
}

#[test]
fn the_state_of_adafactor_is_a_row_and_a_column() {
    let size = |optimiser: &dyn AnyOptimiser| optimiser.size_of_state(&[4096, 4096]);
    assert_eq!(size(&Adafactor::default()), 8192);
    assert_eq!(size(&DadaptAdafactor::default()), 2 * 4096 * 4096 + 8192);
    assert_eq!(Adafactor::default().size_of_state(&[8, 3, 5, 5]), 8 + 75);
}

#[test]
fn a_changed_rank_begins_the_moment_of_adafactor_anew_as_a_first_step() {
    let gradients = random(15, 6, 12);
    let mut x = single("x", &[4, 3], vec![0.0; 12]);
    let mut host = Host::over(&PLAIN, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    for g in &gradients[..5] {
        host.step(&PLAIN, &x, &single("x", &[4, 3], g.clone()), 1.0, 0.0).unwrap();
    }
    let edit = Edit { param: "x".to_owned(), axis: 0, keep: vec![0, 2, 3], add: None };
    host.edit(&edit).unwrap();
    x = single("x", &[3, 3], vec![0.0; 9]);
    let g = single("x", &[3, 3], gradients[5][..9].to_vec());
    let after = host.step(&PLAIN, &x, &g, 1.0, 0.0).unwrap();
    let mut fresh = Host::over(&PLAIN, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    assert_eq!(flat(&after), flat(&fresh.step(&PLAIN, &x, &g, 1.0, 0.0).unwrap()));
}

/// With the settings of the package, where d grows within the run.
fn unlimited() -> [DadaptAdafactor; 2] {
    let plain = DadaptAdafactor { growth_rate: f64::INFINITY, bias_correction: false, ..Default::default() };
    [DadaptAdafactor { bias_correction: true, ..plain.clone() }, plain]
}

#[test]
fn on_vectors_the_factored_form_is_dadapt_adam() {
    let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 50);
    for factored in unlimited() {
        let DadaptAdafactor { d0, growth_rate, beta1, beta2, eps, bias_correction } = factored;
        let adam = DadaptAdam { d0, growth_rate, beta1, beta2, eps, bias_correction };
        let [factored, adam] = [problem.plain(&factored), problem.plain(&adam)];
        assert!(distance(&flat(&factored[50].params), &flat(&adam[50].params)) < 1e-11);
        assert!((factored[50].d() / adam[50].d() - 1.0).abs() < 1e-11);
    }
}

#[test]
fn where_squares_have_rank_one_the_factored_form_is_dadapt_adam() {
    let mut rng = Rng::new(16, "outer", 0);
    let outer: Vec<f64> = (0..7).map(|_| rng.normal()).collect();
    let gradients: Vec<Vec<f64>> =
        (0..40).map(|k| (0..12).map(|i| outer[i / 3] * outer[4 + i % 3] * (1.0 + (k % 5) as f64)).collect()).collect();
    let settings = DadaptAdafactor::default();
    let adam = fed_matrix(&DadaptAdam::default(), [4, 3], &gradients);
    assert!(distance(&fed_matrix(&settings, [4, 3], &gradients)[40], &adam[40]) < 1e-12);
}

#[test]
fn d_of_the_factored_form_never_decreases_and_scales_with_the_problem() {
    let matrix = |by: f64| {
        let a = [1.0, 10.0, 0.1, 3.0, 0.5, 2.0].map(|a| a / (by * by));
        let mut problem = Problem::quadratic(&a, &[1.0, -2.0, 3.0, -1.0, 0.5, 2.0].map(|c| c * by), 60);
        problem.start = single("x", &[3, 2], vec![0.0; 6]);
        problem
    };
    for factored in unlimited() {
        let run = |by: f64| matrix(by).plain(&DadaptAdafactor { d0: 1e-6 * by, eps: 1e-30, ..factored.clone() });
        let (path, stretched) = (run(1.0), run(100.0));
        assert!(path.windows(2).all(|pair| pair[1].d() >= pair[0].d()) && path[60].d() > 0.1);
        let back: Vec<f64> = flat(&stretched[60].params).iter().map(|x| x / 100.0).collect();
        assert!(distance(&back, &flat(&path[60].params)) < 1e-10);
    }
}

#[test]
fn zero_gradients_make_no_step_of_the_factored_form() {
    let zeros = fed_matrix(&DadaptAdafactor::default(), [4, 3], &vec![vec![0.0; 12]; 5]);
    assert!(zeros.iter().flatten().all(|x| *x == 0.0));
    // They do not count either: what follows is as from the start.
    let gradients = random(17, 20, 12);
    let late: Vec<Vec<f64>> = std::iter::repeat_n(vec![0.0; 12], 5).chain(gradients.clone()).collect();
    let [late, first] = [late, gradients].map(|g| fed_matrix(&DadaptAdafactor::default(), [4, 3], &g));
    assert_eq!(late[25], first[20]);
}

/// ½ (x − c)ᵀ H (x − c), its gradient at any point, and a run on it with gradients elsewhere.
struct Bowl {
    h: Vec<Vec<f64>>,
    c: Vec<f64>,
}

impl Bowl {
    fn gradient(&self, x: &Params) -> Params {
        let away: Vec<f64> = flat(x).iter().zip(&self.c).map(|(x, c)| x - c).collect();
        let product = |row: &Vec<f64>| row.iter().zip(&away).map(|(h, away)| h * away).sum();
        single("x", &[self.c.len()], self.h.iter().map(product).collect())
    }

    /// Each point, with the diagonal of the state and the step there.
    fn run(&self, oasis: &Oasis, steps: usize) -> Vec<(Vec<f64>, Vec<f64>, f64)> {
        let mut x = single("x", &[self.c.len()], vec![0.0; self.c.len()]);
        let mut host = Host::over(oasis, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        let evaluate = |x: &Params| Ok((0.0, self.gradient(x)));
        let step = |_| {
            let objective = Objective { loss: 0.0, again: Some(&evaluate) };
            x = host.step(oasis, &x, &self.gradient(&x), 1.0, objective).unwrap();
            let diagonal = host.save().tensors.any("diagonal/x").unwrap().to_f64s();
            (flat(&x), diagonal, host.report(oasis)[0].1)
        };
        (0..steps).map(step).collect()
    }
}

fn diagonal(h: &[f64]) -> Vec<Vec<f64>> {
    (0..h.len()).map(|i| (0..h.len()).map(|j| if i == j { h[i] } else { 0.0 }).collect()).collect()
}

#[test]
fn one_product_of_signs_is_the_diagonal_of_a_diagonal_hessian() {
    let bowl = Bowl { h: diagonal(&[3.0, -0.5, 20.0, 1e-3]), c: vec![1.0, 2.0, -1.0, 0.3] };
    let path = bowl.run(&Oasis { samples: 1, lr: 1e-6, ..Default::default() }, 3);
    assert!(path.iter().all(|(_, d, _)| distance(d, &[3.0, -0.5, 20.0, 1e-3]) < 1e-10));
}

#[test]
fn products_of_signs_have_the_diagonal_as_mean_and_the_other_squares_as_variance() {
    const SEEDS: u64 = 2000;
    let h = vec![vec![2.0, 1.0, 0.5], vec![1.0, 3.0, -2.0], vec![0.5, -2.0, 1.0]];
    let bowl = Bowl { h: h.clone(), c: vec![0.0; 3] };
    let draws: Vec<Vec<f64>> =
        (0..SEEDS).map(|seed| bowl.run(&Oasis { seed, samples: 1, ..Default::default() }, 1)[0].1.clone()).collect();
    for i in 0..3 {
        let mean = draws.iter().map(|d| d[i]).sum::<f64>() / SEEDS as f64;
        let variance = draws.iter().map(|d| (d[i] - h[i][i]).powi(2)).sum::<f64>() / SEEDS as f64;
        let expected: f64 = (0..3).filter(|j| *j != i).map(|j| h[i][j] * h[i][j]).sum();
        // Five standard errors: of the mean √(variance/n), and of a bounded variance at most the same share.
        assert!((mean - h[i][i]).abs() < 5.0 * (expected / SEEDS as f64).sqrt(), "mean {mean}");
        assert!((variance / expected - 1.0).abs() < 5.0 / (SEEDS as f64).sqrt(), "variance {variance} of {expected}");
    }
}

#[test]
fn with_an_exact_diagonal_the_step_of_oasis_becomes_a_half_and_the_error_halves() {
    let bowl = Bowl { h: diagonal(&[3.0, 0.5, 200.0]), c: vec![1.0, 2.0, -1.0] };
    let path = bowl.run(&Oasis { lr: 1e-2, ..Default::default() }, 20);
    let error = |at: usize| path[at].0.iter().zip(&bowl.c).map(|(x, c)| (x - c).powi(2)).sum::<f64>().sqrt();
    for at in 5..20 {
        assert!((path[at].2 - 0.5).abs() < 1e-6 && (error(at) / error(at - 1) - 0.5).abs() < 1e-6);
    }
}

#[test]
fn the_step_of_oasis_lies_between_growth_and_curvature() {
    let bowl = Bowl { h: vec![vec![2.0, 1.0], vec![1.0, 3.0]], c: vec![5.0, -7.0] };
    let path = bowl.run(&Oasis { lr: 1e-4, beta2: 0.5, ..Default::default() }, 15);
    let mut theta = f64::INFINITY;
    for pair in path.windows(2) {
        let ((_, _, before), (_, d, eta)) = (&pair[0], &pair[1]);
        let growth = (1.0 + theta).sqrt() * before;
        // The largest eigenvalue of D^(−½) H D^(−½).
        let [a, b, c] = [2.0 / d[0].abs(), 1.0 / (d[0] * d[1]).abs().sqrt(), 3.0 / d[1].abs()];
        let smoothness = f64::midpoint(a, c) + (((a - c) / 2.0).powi(2) + b * b).sqrt();
        assert!(*eta <= growth * (1.0 + 1e-12), "{eta} after {before}");
        assert!(*eta >= growth.min(0.5 / smoothness) * (1.0 - 1e-9), "{eta}: {growth} and {smoothness}");
        theta = eta / before;
    }
}

#[test]
fn scales_of_coordinates_leave_the_path_of_oasis() {
    // Σ a log cosh((x − c)/s): its Hessian is diagonal, but not constant.
    let path = |s: [f64; 3]| {
        let evaluate = |x: &Params| {
            let slope = |i: usize, x: f64| [1.0, 4.0, 0.2][i] * ((x - [1.0, -0.5, 2.0][i] * s[i]) / s[i]).tanh() / s[i];
            Ok((0.0, single("x", &[3], flat(x).iter().enumerate().map(|(i, x)| slope(i, *x)).collect())))
        };
        let oasis = Oasis { eps: 1e-30, beta2: 0.9, ..Default::default() };
        let mut x = single("x", &[3], vec![0.0; 3]);
        let mut host = Host::over(&oasis, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        for _ in 0..15 {
            let gradient = evaluate(&x).unwrap().1;
            let objective = Objective { loss: 0.0, again: Some(&evaluate) };
            x = host.step(&oasis, &x, &gradient, 1.0, objective).unwrap();
        }
        flat(&x).iter().zip(s).map(|(x, s)| x / s).collect::<Vec<_>>()
    };
    // The Hessian products are differences, each with an error of the square of its step.
    assert!(distance(&path([3.0, 0.5, 2.0]), &path([1.0; 3])) < 1e-6);
}

#[test]
fn with_a_constant_diagonal_oasis_is_adaptive_gradient_descent() {
    let bowl = Bowl { h: vec![vec![0.5, 0.2], vec![0.2, 0.3]], c: vec![1.0, 2.0] };
    // The floor is above every curvature.
    let path = bowl.run(&Oasis { eps: 1.0, lr: 0.1, stochastic: false, ..Default::default() }, 30);
    let gradient = |x: &[f64]| flat(&bowl.gradient(&single("x", &[2], x.to_vec())));
    let norm = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let (mut x, mut eta, mut theta, mut last) = (vec![0.0; 2], 0.1, f64::INFINITY, None::<(Vec<f64>, Vec<f64>)>);
    for (at, _, _) in path {
        let g = gradient(&x);
        if let Some((before, slope)) = &last {
            let growth: f64 = (1.0_f64 + theta).sqrt() * eta;
            let next = growth.min(norm(&x, before) / (2.0 * norm(&g, slope)));
            (theta, eta) = (next / eta, next);
        }
        let next: Vec<f64> = x.iter().zip(&g).map(|(x, g)| x - eta * g).collect();
        last = Some((std::mem::replace(&mut x, next), g));
        assert!(distance(&at, &x) < 1e-9);
    }
}

#[test]
fn on_one_batch_the_stochastic_form_of_oasis_is_the_deterministic_one() {
    let bowl = Bowl { h: vec![vec![2.0, 1.0], vec![1.0, 3.0]], c: vec![5.0, -7.0] };
    let [once, twice] = [true, false].map(|stochastic| bowl.run(&Oasis { stochastic, ..Default::default() }, 12));
    assert_eq!(once, twice);
}

#[test]
fn oasis_without_gradients_elsewhere_says_what_it_needs() {
    let x = single("x", &[1], vec![0.0]);
    let mut host = Host::over(&Oasis::default(), HostSettings::default(), &x, vec![Role::Other]).unwrap();
    let error = host.step(&Oasis::default(), &x, &x, 1.0, 0.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "oasis cannot step without gradients at other parameters; hand the host an `Objective` that has them"
    );
}

/// A pair of factors and what they are for.
fn factors(a: (&[usize], Vec<f64>), b: (&[usize], Vec<f64>)) -> (Params, Vec<Role>) {
    let mut params = single("site.lora.a", a.0, a.1);
    params.insert("site.lora.b", AnyTensor::from_f64s(b.1, b.0, DType::F64, &Device::flex()));
    (params, vec![Role::InputFactor, Role::OutputFactor])
}

/// The movement of the first step.
fn first_move(optimiser: &dyn AnyOptimiser, (x, roles): &(Params, Vec<Role>), g: &Params) -> Vec<f64> {
    let mut host = Host::over(optimiser, HostSettings::default(), x, roles.clone()).unwrap();
    let next = host.step(optimiser, x, g, 1.0, 0.0).unwrap();
    flat(&next).iter().zip(flat(x)).map(|(next, x)| next - x).collect()
}

#[test]
fn allora_moves_empty_rows_by_eta_and_others_by_less_the_longer_they_are() {
    let pair =
        factors((&[2, 3], vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (&[4, 2], vec![0.0, 0.0, 0.3, 0.0, 3.0, 4.0, 0.0, 1e6]));
    let g = pair.0.map(|_, x| AnyTensor::from_elements(x.elements() * 0.0 + 1.0));
    let [adam, allora] = [&Adamw::default() as &dyn AnyOptimiser, &Allora { eta: 3.0, ..Default::default() }]
        .map(|optimiser| first_move(optimiser, &pair, &g));
    let ratios: Vec<f64> = allora.iter().zip(&adam).map(|(allora, adam)| allora / adam).collect();
    // A moves as in AdamW. With a unit A the norms of rows are 0, 0.3, 5 and 10⁶.
    let ninth = 1.0 / 9.0;
    let c = [3.0, 1.0 / (0.3_f64 + ninth).sqrt(), 1.0 / (5.0_f64 + ninth).sqrt(), 1e-3];
    let expected: Vec<f64> = [1.0; 6].into_iter().chain(c.into_iter().flat_map(|c| [c, c])).collect();
    assert!(distance(&ratios, &expected) < 1e-6);
}

#[test]
fn rates_of_allora_see_the_update_and_not_its_factors() {
    let a = vec![1.0, 2.0, 0.5, 0.0, 1.0, -1.0];
    let b = [0.3, -0.2, 1.0, 0.4];
    // B·T and T⁻¹·A with T = [[2, 1], [0, 4]].
    let turned_b = vec![2.0 * b[0], b[0] + 4.0 * b[1], 2.0 * b[2], b[2] + 4.0 * b[3]];
    let turned_a: Vec<f64> = (0..6).map(|i| if i < 3 { 0.5 * a[i] - 0.125 * a[i + 3] } else { 0.25 * a[i] }).collect();
    let ones = |pair: &(Params, Vec<Role>)| pair.0.map(|_, x| AnyTensor::from_elements(x.elements() * 0.0 + 1.0));
    let rates = |norm: RowNorm, a: Vec<f64>, b: Vec<f64>| {
        let pair = factors((&[2, 3], a), (&[2, 2], b));
        first_move(&Allora { norm, ..Default::default() }, &pair, &ones(&pair))[6..].to_vec()
    };
    let off = |norm| distance(&rates(norm, a.clone(), b.to_vec()), &rates(norm, turned_a.clone(), turned_b.clone()));
    assert!(off(RowNorm::Update) < 1e-12 && off(RowNorm::Factor) > 1e-5);
}

#[test]
fn a_row_of_allora_grows_as_its_differential_equation_says() {
    let (lr, eta, steps) = (1e-3, 4.0, 2000);
    let (mut x, roles) = factors((&[1, 1], vec![1.0]), (&[1, 1], vec![0.0]));
    let allora = Allora { lr, eta, eps: 1e-30, ..Default::default() };
    let mut host = Host::over(&allora, HostSettings::default(), &x, roles).unwrap();
    let mut g = x.zeros_like();
    g.insert("site.lora.b", AnyTensor::from_f64s(vec![-2.0], &[1, 1], DType::F64, &Device::flex()));
    for _ in 0..steps {
        x = host.step(&allora, &x, &g, 1.0, 0.0).unwrap();
    }
    let solution = (f64::powi(eta, -3) + 1.5 * lr * steps as f64).powf(2.0 / 3.0) - f64::powi(eta, -2);
    // Steps of one thousandth against a continuous flow.
    assert!((flat(&x)[1] / solution - 1.0).abs() < 2e-3, "{} and {solution}", flat(&x)[1]);
}

#[test]
fn without_a_partner_allora_is_adamw() {
    let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 30);
    for role in [Role::OutputFactor, Role::InputFactor, Role::Weight] {
        let path = |optimiser: &dyn AnyOptimiser| {
            flat(&problem.run(optimiser, HostSettings::default(), vec![role])[30].params)
        };
        assert_eq!(path(&Allora::default()), path(&Adamw::default()));
    }
}

fn times(x: &[f64], y: &[f64], inner: usize) -> Vec<f64> {
    let columns = y.len() / inner;
    let entry = |at: usize| (0..inner).map(|k| x[at / columns * inner + k] * y[k * columns + at % columns]).sum();
    (0..x.len() / inner * columns).map(entry).collect()
}

fn transposed(x: &[f64], columns: usize) -> Vec<f64> {
    let rows = x.len() / columns;
    (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect()
}

/// The slope of a bumpy function of a weight.
fn slope(w: &[f64]) -> Vec<f64> {
    let one = |(i, w): (usize, &f64)| (1.0 + (i % 4) as f64) * (w - (i as f64 * 1.7).sin()) + 0.5 * (3.0 * w).cos();
    w.iter().enumerate().map(one).collect()
}

/// A, B and the rank of a pair.
fn read(x: &Params) -> ([Vec<f64>; 2], usize) {
    let [a, b] = ["site.lora.a", "site.lora.b"].map(|name| x.any(name).unwrap());
    ([a.to_f64s(), b.to_f64s()], a.shape()[0])
}

fn product(x: &Params) -> Vec<f64> {
    let ([a, b], rank) = read(x);
    times(&b, &a, rank)
}

/// The gradients of a pair out of the slope of its product.
fn of_factors(x: &Params) -> Params {
    let ([a, b], rank) = read(x);
    let (width, out) = (a.len() / rank, b.len() / rank);
    let g = slope(&times(&b, &a, rank));
    let of_b = times(&g, &transposed(&a, width), width);
    factors((&[rank, width], times(&transposed(&b, rank), &g, out)), (&[out, rank], of_b)).0
}

/// BA before the first step and after each, with B of shape [out, rank] and A of shape [rank, width].
fn products(optimiser: &dyn AnyOptimiser, a: &[f64], b: &[f64], rank: usize, steps: usize) -> Vec<Vec<f64>> {
    let (mut x, roles) = factors((&[rank, a.len() / rank], a.to_vec()), (&[b.len() / rank, rank], b.to_vec()));
    let mut host = Host::over(optimiser, HostSettings::default(), &x, roles).unwrap();
    let mut path = vec![product(&x)];
    for _ in 0..steps {
        x = host.step(optimiser, &x, &of_factors(&x), 1.0, 0.0).unwrap();
        path.push(product(&x));
    }
    path
}

/// Without damping and clip.
fn exact() -> Loft {
    Loft { lr: 0.05, input_damping: 1e-30, output_damping: 1e-30, clip: f64::INFINITY, ..Default::default() }
}

fn start(seed: u64, count: usize) -> Vec<f64> {
    random(seed, 1, count).remove(0)
}

#[test]
fn with_the_whole_rank_loft_is_adamw_on_the_weight() {
    // A and B with unit diagonals and small numbers beside them, so that they stay invertible.
    let near_unit = |seed| -> Vec<f64> {
        start(seed, 25).iter().enumerate().map(|(at, x)| 0.2 * x + f64::from(u8::from(at % 6 == 0))).collect()
    };
    let (a, b) = (near_unit(20), near_unit(21));
    let mut w = single("w", &[5, 5], times(&b, &a, 5));
    let adamw = Adamw { lr: 0.05, eps: 1e-4, ..Default::default() };
    let mut host = Host::over(&adamw, HostSettings::default(), &w, vec![Role::Weight]).unwrap();
    let path = products(&exact(), &a, &b, 5, 20);
    for point in &path[1..] {
        w = host.step(&adamw, &w, &single("w", &[5, 5], slope(&flat(&w))), 1.0, 0.0).unwrap();
        assert!(distance(point, &flat(&w)) < 1e-9, "{}", distance(point, &flat(&w)));
    }
}

#[test]
fn the_path_of_loft_does_not_depend_on_the_basis() {
    let (a, b) = (start(22, 8), start(23, 10));
    // B·T and T⁻¹·A with T = [[2, 1], [0, 4]].
    let turned_b = times(&b, &[2.0, 1.0, 0.0, 4.0], 2);
    let turned_a = times(&[0.5, -0.125, 0.0, 0.25], &a, 2);
    let [plain, turned] = [(&a, &b), (&turned_a, &turned_b)].map(|(a, b)| products(&exact(), a, b, 2, 20));
    assert!(distance(&plain[0], &turned[0]) < 1e-14 && distance(&plain[20], &turned[20]) < 1e-9);
    let adamw = |a: &[f64], b: &[f64]| products(&Adamw { lr: 0.05, ..Default::default() }, a, b, 2, 20).remove(20);
    assert!(distance(&adamw(&a, &b), &adamw(&turned_a, &turned_b)) > 1e-2);
}

#[test]
fn with_all_switches_off_loft_is_adamw_on_the_factors() {
    let loft =
        Loft { alternate: false, rescale: false, reproject_momentum: false, reproject_second_moment: false, ..exact() };
    let adamw = Adamw { lr: 0.05, eps: 1e-4, ..Default::default() };
    let [loft, adamw] =
        [&loft as &dyn AnyOptimiser, &adamw].map(|optimiser| products(optimiser, &start(24, 8), &start(25, 10), 2, 20));
    assert!(distance(&loft[20], &adamw[20]) < 1e-13);
}

/// Far above all moments, so that what moves is the first moment over it.
const LARGE: f64 = 1e9;

#[test]
fn without_moments_loft_is_gradient_descent_projected_on_the_other_factor() {
    let (a, b) = (start(26, 8), start(27, 10));
    let loft = Loft { lr: 1e-3 * LARGE, beta1: 0.0, beta2: 0.0, eps: LARGE, ..exact() };
    let path = products(&loft, &a, &b, 2, 1);
    // B goes first: the weight moves by the gradient projected on the rows of A.
    let gram = times(&a, &transposed(&a, 4), 4);
    let determinant = gram[0] * gram[3] - gram[1] * gram[2];
    let inverse = [gram[3], -gram[1], -gram[2], gram[0]].map(|x| x / determinant);
    let projector = times(&transposed(&a, 4), &times(&inverse, &a, 2), 2);
    let expected: Vec<f64> = times(&slope(&path[0]), &projector, 4).iter().map(|g| -1e-3 * g).collect();
    let moved: Vec<f64> = path[1].iter().zip(&path[0]).map(|(next, x)| next - x).collect();
    assert!(distance(&moved, &expected) < 1e-9);
    assert!(expected.iter().any(|x| x.abs() > 1e-3));
}

#[test]
fn loft_clips_the_gradient_of_the_weight() {
    let size = |clip: f64, a: &[f64], b: &[f64]| {
        let loft = Loft { lr: LARGE, beta1: 0.0, beta2: 0.0, eps: LARGE, clip, ..exact() };
        let path = products(&loft, a, b, 2, 1);
        path[1].iter().zip(&path[0]).map(|(next, x)| (next - x).powi(2)).sum::<f64>().sqrt()
    };
    let (a, b) = (start(28, 8), start(29, 10));
    let tenfold: Vec<f64> = a.iter().map(|a| 10.0 * a).collect();
    let tenth: Vec<f64> = b.iter().map(|b| 0.1 * b).collect();
    for (a, b) in [(&a, &b), (&tenfold, &tenth)] {
        assert!((size(0.5, a, b) - 0.5).abs() < 1e-6 && size(f64::INFINITY, a, b) > 1.0);
    }
}

#[test]
fn loft_starts_from_a_zero_factor_and_goes_on_after_a_change_of_rank() {
    let (mut x, roles) = factors((&[2, 4], start(30, 8)), (&[5, 2], vec![0.0; 10]));
    let loft = Loft::default();
    let mut host = Host::over(&loft, HostSettings::default(), &x, roles).unwrap();
    for _ in 0..6 {
        x = host.step(&loft, &x, &of_factors(&x), 1.0, 0.0).unwrap();
    }
    assert!(product(&x).iter().all(|w| *w != 0.0));
    for (param, axis) in [("site.lora.a", 0), ("site.lora.b", 1)] {
        let edit = Edit { param: param.to_owned(), axis, keep: vec![1], add: None };
        host.edit(&edit).unwrap();
        let edited = edit.apply(x.any(param).unwrap(), false).unwrap();
        x.insert(param, edited);
    }
    for _ in 0..6 {
        x = host.step(&loft, &x, &of_factors(&x), 1.0, 0.0).unwrap();
    }
    assert_eq!(host.save().tensors.any("p/site.lora.a").unwrap().shape(), [4, 1, 1]);
}

#[test]
fn loft_in_single_precision_follows_double_precision() {
    let (a, b) = (start(31, 8), start(32, 10));
    let expected = products(&Loft::default(), &a, &b, 2, 20).remove(20);
    let (x, roles) = factors((&[2, 4], a), (&[5, 2], b));
    let mut x = x.cast(DType::F32);
    let mut host = Host::over(&Loft::default(), HostSettings::default(), &x, roles).unwrap();
    for _ in 0..20 {
        x = host.step(&Loft::default(), &x, &of_factors(&x).cast(DType::F32), 1.0, 0.0).unwrap();
    }
    // 6e-8 a rounding, amplified by the conditions of the factors over twenty steps.
    assert!(distance(&product(&x), &expected) < 1e-4);
}

/// A matrix sent down and up by the projection of a seed and a step.
fn sketched(shape: [usize; 2], g: &[f64], rank: usize, seed: u64, step: u64) -> Vec<f64> {
    let mut sum = SketchAccumulator::new(rank, seed, step);
    sum.add(&single("w", &shape, g.to_vec()), 0.0, 1.0);
    flat(&sum.finish().unwrap().1)
}

fn squared(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum()
}

#[test]
fn a_projection_is_named_by_seed_and_step() {
    let g = start(40, 24);
    let draw = |seed, step| sketched([6, 4], &g, 2, seed, step);
    assert_eq!(draw(1, 1), draw(1, 1));
    assert!(draw(1, 1) != draw(1, 2) && draw(1, 1) != draw(2, 1));
}

#[test]
fn a_decompressed_gradient_is_right_on_average_and_its_error_has_the_closed_form() {
    const SEEDS: u64 = 4000;
    for shape in [[5, 4], [4, 5]] {
        let g = start(41, 20);
        let size = squared(&g, &[0.0; 20]);
        for rank in [1, 3] {
            let draws: Vec<Vec<f64>> = (0..SEEDS).map(|seed| sketched(shape, &g, rank, seed, 1)).collect();
            let mean: Vec<f64> = (0..20).map(|i| draws.iter().map(|d| d[i]).sum::<f64>() / SEEDS as f64).collect();
            let error = draws.iter().map(|d| squared(d, &g)).sum::<f64>() / SEEDS as f64;
            let expected = 5.0 / rank as f64 * size;
            // Four standard errors of a mean of so many, and a tenth for the heavy tail of squares.
            assert!(squared(&mean, &g).sqrt() < 4.0 * (expected / SEEDS as f64).sqrt());
            assert!((error / expected - 1.0).abs() < 0.1, "{error} and {expected}");
        }
    }
}

#[test]
fn sketches_of_micro_batches_are_the_sketch_of_their_mean() {
    let parts: Vec<Vec<f64>> = (0..3).map(|at| start(42 + at, 20)).collect();
    let weights = [3.0, 1.0, 4.0];
    let mut sum = SketchAccumulator::new(2, 7, 3);
    for (part, weight) in parts.iter().zip(weights) {
        let mut gradients = single("w", &[5, 4], part.clone());
        gradients.insert("bias", AnyTensor::from_f64s(part[..3].to_vec(), &[3], DType::F64, &Device::flex()));
        sum.add(&gradients, weight, weight);
    }
    assert_eq!(sum.held(), 5 * 2 + 3);
    let (loss, found) = sum.finish().unwrap();
    let mean: Vec<f64> = (0..20).map(|i| parts.iter().zip(weights).map(|(p, w)| p[i] * w / 8.0).sum()).collect();
    let expected: Vec<f64> = sketched([5, 4], &mean, 2, 7, 3).into_iter().chain(mean[..3].to_vec()).collect();
    assert!(distance(&flat(&found), &expected) < 1e-13 && (loss - 26.0 / 8.0).abs() < 1e-15);
}

#[test]
fn each_step_of_sketches_has_their_rank_and_steps_together_have_more() {
    // The largest minor of two rows and two columns, zero for a matrix of rank one.
    let minor = |x: &[f64]| {
        let at = |i: usize, j: usize| x[4 * i + j];
        let minors =
            (0..4).flat_map(|i| (0..3).map(move |j| at(i, j) * at(i + 1, j + 1) - at(i, j + 1) * at(i + 1, j)));
        minors.fold(0.0, |largest: f64, minor| largest.max(minor.abs()))
    };
    let g = start(45, 20);
    let [first, second] = [1, 2].map(|step| sketched([5, 4], &g, 1, 0, step));
    let both: Vec<f64> = first.iter().zip(&second).map(|(x, y)| x + y).collect();
    assert!(minor(&first) < 1e-14 && minor(&second) < 1e-14 && minor(&both) > 1e-2);
}

/// The mean squared distance of Flora's path from that with the whole momentum, over some seeds.
fn away_from_whole(rank: usize, kappa: u64) -> f64 {
    let gradients = random(46, 12, 36);
    let flora = |rank, seed| {
        let settings =
            Flora { lr: 0.1, rank, kappa, seed, scale_parameter: false, clip: f64::INFINITY, ..Default::default() };
        fed_matrix(&settings, [6, 6], &gradients).remove(12)
    };
    let whole = flora(6, 0);
    (0..40).map(|seed| squared(&flora(rank, seed), &whole)).sum::<f64>() / 40.0
}

#[test]
fn the_more_rank_the_nearer_flora_is_to_the_whole_momentum() {
    let off = [1, 2, 5].map(|rank| away_from_whole(rank, 1000));
    // The mean squares fall like 1/rank.
    assert!(off[0] > 1.4 * off[1] && off[1] > 1.6 * off[2], "{off:?}");
}

#[test]
fn changing_the_projection_at_every_step_garbles_the_momentum() {
    let [often, seldom] = [1, 1000].map(|kappa| away_from_whole(2, kappa));
    assert!(often > 2.0 * seldom, "{often} and {seldom}");
}

#[test]
fn the_state_of_flora_is_a_sketch_a_row_and_a_column() {
    let flora = Flora::default();
    assert_eq!(flora.size_of_state(&[4096, 1024]), 128 * 4096 + 4096 + 1024);
    assert_eq!(flora.size_of_state(&[1024, 4096]), 128 * 4096 + 4096 + 1024);
    // An embedding, a small matrix and a vector keep it whole.
    assert_eq!(flora.size_of_state(&[30_000, 512]), 30_000 * 512 + 30_000 + 512);
    assert_eq!(flora.size_of_state(&[128, 256]), 128 * 256 + 128 + 256);
    assert_eq!(flora.size_of_state(&[9]), 18);
}

#[test]
fn without_momentum_flora_is_adafactor_with_its_own_rate() {
    let gradients = random(47, 20, 12);
    let adafactor = Adafactor { lr: 0.1, relative_step: false, ..Default::default() };
    let flora = Flora { lr: 0.1, beta1: 0.0, ..Default::default() };
    assert_eq!(fed_matrix(&flora, [4, 3], &gradients), fed_matrix(&adafactor, [4, 3], &gradients));
}

#[test]
fn one_step_of_lora_is_the_gradient_sent_down_and_up() {
    // The projection of rank one out of what it makes of the unit matrix, which is p·pᵀ.
    let unit: Vec<f64> = (0..16).map(|at| f64::from(u8::from(at % 5 == 0))).collect();
    let outer = sketched([4, 4], &unit, 1, 3, 1);
    let a: Vec<f64> = outer[..4].iter().map(|x| x / outer[0].sqrt()).collect();
    let g = start(48, 24);
    // B after a step of rate one from zero is −G·Aᵀ.
    let b: Vec<f64> = times(&g, &a, 4).iter().map(|b| -b).collect();
    let sent: Vec<f64> = sketched([6, 4], &g, 1, 3, 1).iter().map(|g| -g).collect();
    assert!(distance(&times(&b, &a, 1), &sent) < 1e-13);
}

#[test]
fn a_state_of_another_rank_is_refused() {
    let flora = |rank| Flora { rank, ..Default::default() };
    let mut patch = Patch::new();
    patch.params = single("w", &[6, 6], start(49, 36));
    let mut host = Host::new(&flora(2), HostSettings::default(), &patch).unwrap();
    host.step(&flora(2), &patch.params, &patch.params, 1.0, 0.0).unwrap();
    let mut saved = RecordReader::from(host.save());
    let mut host = Host::load(&flora(3), HostSettings::default(), &patch, &mut saved).unwrap();
    let error = host.step(&flora(3), &patch.params, &patch.params, 1.0, 0.0).unwrap_err();
    assert_eq!(error.to_string(), "optimiser state of `w`: expected shape [6, 3], got [6, 2]");
}
