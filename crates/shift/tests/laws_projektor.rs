//! What Projektor must do, by planted surfaces and finite differences.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Method, Rng};
use acclimate_shift::{Mixtures, Pilot, Projektor, Scale, Source};
use acclimate_stats::learn::Labels;
use ndarray::Array2;

fn cloud(seed: u64, rows: usize, shift: f64) -> (Array2<f64>, Labels) {
    let mut rng = Rng::new(seed, "cloud", 0);
    let x = Array2::from_shape_fn((rows, 2), |_| rng.normal() + shift);
    (x, Labels::Classes { of: (0..rows).map(|row| row % 2).collect(), count: 2 })
}

fn mixtures(method: &Projektor, tables: &[(Array2<f64>, Labels)], valid: &(Array2<f64>, Labels)) -> Mixtures {
    let sources: Vec<Source<'_>> = tables.iter().map(|(x, y)| Source::new(x.view(), y).unwrap()).collect();
    method.mixtures(&sources, &Source::new(valid.0.view(), &valid.1).unwrap()).unwrap()
}

fn plain() -> Projektor {
    Projektor { ridge: 0.0, ..Projektor::default() }
}

/// Runs at drawn shares and distances, with scores that a function gives.
fn runs(seed: u64, sources: usize, count: usize, score: impl Fn(&[f64], f64) -> f64) -> Vec<Pilot> {
    let mut rng = Rng::new(seed, "runs", 0);
    (0..count)
        .map(|_| {
            let parts: Vec<f64> = (0..sources).map(|_| rng.uniform() + 0.01).collect();
            let sum: f64 = parts.iter().sum();
            let ratio: Vec<f64> = parts.iter().map(|part| part / sum).collect();
            let distance = 0.5 + rng.uniform();
            Pilot { score: score(&ratio, distance), ratio, distance }
        })
        .collect()
}

#[test]
fn scores_linear_in_the_logarithm_of_the_size_are_met_at_every_size() {
    let method = plain();
    for (a, b) in [(0.4, 0.05), (0.9, -0.02), (0.0, 0.0)] {
        let score = |size: f64| a + b * size.ln();
        for size in [10.0, 100.0, 150.0, 2999.0] {
            let found = method.project([100.0, 150.0], [score(100.0), score(150.0)], size).unwrap();
            assert!((found - score(size)).abs() < 1e-12, "{size}");
        }
    }
    assert!(method.project([100.0, 150.0], [0.5, 0.6], 3001.0).is_err());
    assert!(method.project([150.0, 100.0], [0.5, 0.6], 200.0).is_err());
    assert!(Projektor { reach: 30.0, ..plain() }.project([100.0, 150.0], [0.5, 0.6], 3001.0).is_ok());
}

#[test]
fn planted_surfaces_are_recovered() {
    let b = [[0.3, -0.7], [-0.2, 0.4], [0.6, 0.1]];
    let c = [[-0.1, 0.2], [0.5, -0.3], [0.05, 0.15]];
    for sources in [1, 2, 3] {
        let planted = |q: &[f64], d: f64| {
            let sum = |by: &[[f64; 2]; 3], constant: f64| {
                q.iter().zip(by).map(|(q, by)| by[0] * q + by[1] * q * q).sum::<f64>() + constant
            };
            sum(&b, -0.3) * d + sum(&c, 0.8)
        };
        let fitted = plain().fit(&runs(1, sources, 40, planted)).unwrap();
        assert!(fitted.left_out < 1e-9, "{sources}: {}", fitted.left_out);
        for run in runs(2, sources, 20, planted) {
            assert!((fitted.score(&run.ratio, run.distance) - run.score).abs() < 1e-8, "{sources}");
        }
    }
}

#[test]
fn names_of_the_sources_do_not_matter() {
    let score = |q: &[f64], d: f64| (3.0 * q[0] - d).sin();
    for sources in [2, 3] {
        let one = runs(3, sources, 40, score);
        let turned: Vec<Pilot> =
            (one.iter()).map(|run| Pilot { ratio: run.ratio.iter().rev().copied().collect(), ..run.clone() }).collect();
        let (here, there) = (plain().fit(&one).unwrap(), plain().fit(&turned).unwrap());
        for (run, back) in one.iter().zip(&turned) {
            let apart = here.score(&run.ratio, run.distance) - there.score(&back.ratio, back.distance);
            assert!(apart.abs() < 1e-9, "{sources}: {apart}");
        }
        assert!(here.left_out > 1e-3);
    }
}

#[test]
fn potentials_are_the_slopes_of_the_distance() {
    let method = plain();
    let tables = [cloud(4, 7, 0.0), cloud(5, 9, 1.0), cloud(6, 8, -2.0)];
    let mixtures = mixtures(&method, &tables, &cloud(7, 11, 0.2));
    let q = [0.1913, 0.5031, 0.3056];
    let found = mixtures.distance(&q).unwrap();
    let h = 1e-6;
    for i in 0..3 {
        // Mass from all others in proportion.
        let at = |h: f64| {
            let moved: Vec<f64> =
                (0..3).map(|l| if l == i { q[l] + h } else { q[l] * (1.0 - q[i] - h) / (1.0 - q[i]) }).collect();
            mixtures.distance(&moved).unwrap().value
        };
        let slope = (at(h) - at(-h)) / (2.0 * h);
        assert!((found.calibrated[i] - slope).abs() < 1e-6, "{i}: {} {slope}", found.calibrated[i]);
        // Mass from the next alone.
        let next = (i + 1) % 3;
        let at = |h: f64| {
            let mut moved = q;
            moved[i] += h;
            moved[next] -= h;
            mixtures.distance(&moved).unwrap().value
        };
        let slope = (at(h) - at(-h)) / (2.0 * h);
        assert!((found.slopes[i] - found.slopes[next] - slope).abs() < 1e-6, "{i}");
    }
}

#[test]
fn the_source_that_is_the_validation_set_gets_all() {
    let method = plain();
    let valid = cloud(8, 12, 0.0);
    let tables = [valid.clone(), cloud(9, 12, 3.0), cloud(10, 12, -2.0)];
    let mixtures = mixtures(&method, &tables, &valid);
    assert!(mixtures.distance(&[1.0, 0.0, 0.0]).unwrap().value < 1e-12);
    let surface = |seed: u64, high: f64| method.fit(&runs(seed, 3, 40, move |_, d| high - 0.1 * d)).unwrap();
    let (small, large) = (surface(11, 0.7), surface(12, 0.75));
    let scales = [(100.0, &small), (200.0, &large)].map(|(size, surface)| Scale { size, surface, mixtures: &mixtures });
    let best = method.best(scales, 1000.0).unwrap();
    assert!(best.ratio[0] > 0.999, "{:?}", best.ratio);
    let expected = 0.7 + 0.05 * (10.0_f64).ln() / 2.0_f64.ln();
    assert!((best.score - expected).abs() < 1e-3, "{} {expected}", best.score);
    assert!(best.values[1] < -0.05 && best.values[2] < -0.05 && best.values[0].abs() < 1e-3, "{:?}", best.values);
}

#[test]
fn the_search_finds_the_best_of_a_fine_grid() {
    let method = Projektor { steps: 300, decay: 0.99, lr: 1.0, ..plain() };
    let valid = cloud(13, 15, 0.5);
    let tables = [cloud(14, 12, 0.0), cloud(15, 14, 1.2)];
    let mixtures = mixtures(&method, &tables, &valid);
    let planted = |q: &[f64], d: f64| 0.9 - 0.1 * d + 0.1 * q[0] - 0.08 * q[0] * q[0];
    let surface = method.fit(&runs(16, 2, 30, planted)).unwrap();
    let scales = [50.0, 100.0].map(|size| Scale { size, surface: &surface, mixtures: &mixtures });
    let best = method.best(scales, 500.0).unwrap();
    let grid = (0..=400).map(|at| {
        let q = [f64::from(at) / 400.0, 1.0 - f64::from(at) / 400.0];
        planted(&q, mixtures.distance(&q).unwrap().value)
    });
    let most = grid.fold(f64::NEG_INFINITY, f64::max);
    assert!(best.score > most - 1e-5, "{} {most}", best.score);
    let lazy = Projektor { refresh: 7, ..method }.best(scales, 500.0).unwrap();
    assert!(lazy.score > most - 1e-4, "{} {most}", lazy.score);
}

#[test]
fn labels_count_where_rows_do_not_tell() {
    let x = cloud(17, 40, 0.0).0;
    let classes = |of: &dyn Fn(usize) -> bool| Labels::Classes {
        of: (0..40).map(|row| usize::from(of(row))).collect(),
        count: 2,
    };
    let right = (x.clone(), classes(&|row| x[[row, 0]] > 0.0));
    let swapped = (x.clone(), classes(&|row| x[[row, 0]] <= 0.0));
    let noisy = (x.clone(), classes(&|row| row % 2 == 0));
    let at = |label_weight: f64, source: &(Array2<f64>, Labels)| {
        let method = Projektor { label_weight, ..plain() };
        mixtures(&method, std::slice::from_ref(source), &right).distance(&[1.0]).unwrap().value
    };
    for source in [&right, &noisy, &swapped] {
        assert!(at(0.0, source) < 1e-12);
    }
    assert!(at(1.0, &right) < 1e-12);
    let (once, twice) = (at(1.0, &noisy), at(2.0, &noisy));
    assert!(once > 0.1 && twice > once, "{once} {twice}");
    // Names play no part, so only the rows' way to the other class is paid: none, where the classes are the same but for their names.
    assert!(at(1.0, &swapped) < 1e-12);
}

#[test]
fn few_runs_take_no_squares_and_fewer_are_refused() {
    let score = |q: &[f64], d: f64| 0.5 - 0.2 * d + 0.3 * q[0];
    let few = plain().fit(&runs(18, 2, 5, score)).unwrap();
    for run in runs(19, 2, 10, score) {
        assert!((few.score(&run.ratio, run.distance) - run.score).abs() < 1e-9);
    }
    let error = plain().fit(&runs(18, 2, 3, score)).unwrap_err().to_string();
    assert!(error.contains("give 4 or more"), "{error}");
    let mut wrong = runs(18, 2, 10, score);
    wrong[6].ratio[0] += 0.5;
    assert!(plain().fit(&wrong).unwrap_err().to_string().contains("run 7"));
    assert!(plain().fit(&[]).is_err());
}

#[test]
fn mixtures_to_run_lie_on_the_simplex_and_depend_on_the_seed_alone() {
    let method = Projektor::default();
    assert_eq!(method.ratios(2, 0).len(), 11);
    let drawn = method.ratios(3, 5);
    assert_eq!(drawn.len(), 39);
    assert!(drawn.iter().all(|q| (q.iter().sum::<f64>() - 1.0).abs() < 1e-12 && q.iter().all(|q| *q >= 0.0)));
    assert_eq!(drawn, method.ratios(3, 5));
    assert_ne!(drawn, method.ratios(3, 6));
    assert!(Projektor { decay: 1.5, ..method }.check().is_err());
}
