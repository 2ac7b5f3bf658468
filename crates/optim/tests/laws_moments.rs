//! Laws of methods with moments, of matrices among them, and of OASIS.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;
mod fed;

use acclimate_core::{AnyOptimiser, Edit, Params, Rng, Role};
use acclimate_optim::{
    Adafactor, Adagrad, Adamax, Adamw, Amsgrad, DadaptAdafactor, DadaptAdam, Host, HostSettings, Laprop, Oasis,
    Objective,
};
use common::{Problem, distance, flat};
use fed::{fed, fed_matrix, longest, random, single};

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
        let adam = DadaptAdam { d0, lr: 1.0, growth_rate, beta1, beta2, eps, bias_correction };
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
    let adam = DadaptAdam { d0: settings.d0, lr: 1.0, ..Default::default() };
    let adam = fed_matrix(&adam, [4, 3], &gradients);
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
    let error = |x: &[f64]| x.iter().zip(&bowl.c).map(|(x, c)| (x - c).powi(2)).sum::<f64>().sqrt();
    for pair in path[4..20].windows(2) {
        let ((before, _, _), (x, _, step)) = (&pair[0], &pair[1]);
        assert!((step - 0.5).abs() < 1e-6 && (error(x) / error(before) - 0.5).abs() < 1e-6);
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
