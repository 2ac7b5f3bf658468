//! Laws of growing batches, and of the optimiser that they were made for.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use acclimate_core::{AnyTensor, Params, Rng, Role};
use acclimate_optim::{Accumulator, AdagradNorm, BatchGrowth, BatchTest, Host, HostSettings, Spread};
use burn::tensor::{DType, Device};
use common::{Problem, distance, flat, like};

const TESTS: [BatchTest; 4] = [BatchTest::Norm, BatchTest::InnerProduct, BatchTest::Augmented, BatchTest::Coordinates];

/// Without our own limits.
fn plain(test: BatchTest) -> BatchGrowth {
    BatchGrowth { growth: f64::INFINITY, eta: 0.1, theta: 0.1, nu: 0.1, ..BatchGrowth::new(test) }
}

/// Zeros of nine numbers in three leaves.
fn leaves() -> Params {
    let mut params = Params::default();
    for (name, shape) in [("bias", vec![2]), ("scale", vec![1]), ("weight", vec![3, 2])] {
        params.insert(name, AnyTensor::zeros(&shape, DType::F64, &Device::flex()));
    }
    params
}

/// So many examples' gradients about a mean of ones.
fn examples(seed: u64, count: usize) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(seed, "gradients", 0);
    (0..count).map(|_| (0..9).map(|j| 1.0 + (1.0 + j as f64) * rng.normal()).collect()).collect()
}

fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / rows.len() as f64).collect()
}

/// What is kept of rows in groups of these sizes.
fn grouped(test: BatchTest, rows: &[Vec<f64>], sizes: &[usize]) -> Spread {
    let mut sum = Accumulator::for_test(test);
    let mut at = 0;
    for &size in sizes {
        sum.add(like(&leaves(), &mean(&rows[at..at + size])), 0.0, size as f64);
        at += size;
    }
    assert_eq!(at, rows.len());
    sum.spread().unwrap()
}

fn single(test: BatchTest, rows: &[Vec<f64>]) -> Spread {
    grouped(test, rows, &vec![1; rows.len()])
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The variance of some numbers, with divisor n − 1.
fn variance(numbers: &[f64]) -> f64 {
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (numbers.len() - 1) as f64
}

fn column(rows: &[Vec<f64>], j: usize) -> Vec<f64> {
    rows.iter().map(|row| row[j]).collect()
}

/// What the definition of a test, written out on all examples, asks for.
fn defined(test: BatchTest, rows: &[Vec<f64>], bound: f64) -> f64 {
    let centre = mean(rows);
    let square = dot(&centre, &centre);
    let along = variance(&rows.iter().map(|row| dot(row, &centre)).collect::<Vec<_>>()) / square.powi(2);
    let across: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| row.iter().zip(&centre).map(|(g, mean)| g - dot(row, &centre) / square * mean).collect())
        .collect();
    let trace = |rows: &[Vec<f64>]| (0..9).map(|j| variance(&column(rows, j))).sum::<f64>() / square;
    let excess = match test {
        BatchTest::Norm => trace(rows),
        BatchTest::InnerProduct => along,
        BatchTest::Augmented => along.max(trace(&across)),
        BatchTest::Coordinates => (0..9).map(|j| variance(&column(rows, j)) / centre[j].powi(2)).fold(0.0, f64::max),
    };
    excess / (bound * bound)
}

#[test]
fn single_examples_give_what_the_definitions_ask_for() {
    for test in TESTS {
        let rows = examples(1, 24);
        let wanted = plain(test).wanted(24, &single(test, &rows));
        // Sums of some hundred terms in f64.
        assert!((wanted / defined(test, &rows, 0.1) - 1.0).abs() < 1e-10, "{test:?}: {wanted}");
        assert_eq!(plain(test).next(24, 24, &single(test, &rows)), wanted.ceil() as usize, "{test:?}");
    }
}

#[test]
fn equal_examples_leave_the_batch_as_it_is() {
    for test in TESTS {
        let spread = single(test, &vec![examples(2, 1)[0].clone(); 16]);
        assert!(spread.variance < 1e-28 && plain(test).next(16, 16, &spread) == 16, "{test:?}: {spread:?}");
    }
}

#[test]
fn the_variance_is_that_of_the_squared_norms() {
    let rows = examples(3, 30);
    let centre = mean(&rows);
    let squares: f64 = rows.iter().map(|row| dot(row, row)).sum();
    let expected = (squares - 30.0 * dot(&centre, &centre)) / 29.0;
    assert!((single(BatchTest::Norm, &rows).variance / expected - 1.0).abs() < 1e-10);
}

#[test]
fn single_examples_equal_merged_groups() {
    let rows = examples(4, 20);
    let centre = mean(&rows);
    let mut about = [0.0; 9];
    for group in [&rows[..3], &rows[3..10], &rows[10..11], &rows[11..]] {
        let own = mean(group);
        for (j, about) in about.iter_mut().enumerate() {
            let within = if group.len() > 1 { variance(&column(group, j)) } else { 0.0 };
            *about += (group.len() - 1) as f64 * within + group.len() as f64 * (own[j] - centre[j]).powi(2);
        }
    }
    let spread = single(BatchTest::Coordinates, &rows);
    let merged: Vec<f64> = about.iter().zip(&centre).map(|(sum, mean)| sum / 19.0 / (mean * mean)).collect();
    assert!(distance(&spread.coordinates, &merged) < 1e-10);
    assert!((spread.variance / (about.iter().sum::<f64>() / 19.0) - 1.0).abs() < 1e-10);
}

#[test]
fn groups_of_any_size_are_right_on_average() {
    const DRAWS: u64 = 2000;
    let truth: f64 = (1..=9).map(|j| f64::from(j * j)).sum();
    let sizes = [5, 1, 8, 2, 4];
    let all: Vec<f64> = (0..DRAWS).map(|seed| grouped(BatchTest::Norm, &examples(seed, 20), &sizes).variance).collect();
    let average = all.iter().sum::<f64>() / DRAWS as f64;
    let error = (variance(&all) / DRAWS as f64).sqrt();
    // Four standard errors, of some two per cent together; a divisor of 20 or of 19 would be off by a factor.
    assert!((average - truth).abs() < 4.0 * error && error < 0.01 * truth, "{average} ± {error} for {truth}");
}

#[test]
fn noise_of_known_size_asks_for_the_batch_of_the_formula() {
    // A quadratic with the gradient (3, …, 3) where it is asked, and noise of variance 4 in each coordinate.
    let (slope, noise, eta) = (3.0, 2.0, 0.02);
    let mut rng = Rng::new(5, "noise", 0);
    let rows: Vec<Vec<f64>> = (0..400).map(|_| (0..9).map(|_| slope + noise * rng.normal()).collect()).collect();
    let growth = BatchGrowth { eta, ..plain(BatchTest::Norm) };
    let expected = noise * noise * 9.0 / (eta * eta * slope * slope * 9.0);
    for spread in [single(BatchTest::Norm, &rows), grouped(BatchTest::Norm, &rows, &[8; 50])] {
        let found = growth.next(400, 400, &spread) as f64;
        // The variance of 9 · 49 squares has a relative error of √(2/441) = 0.07; this is three of them.
        assert!(found > 400.0 && (found / expected - 1.0).abs() < 0.2, "{found} for {expected}");
    }
}

#[test]
fn a_multiple_of_the_loss_asks_for_the_same_batch() {
    let rows = examples(6, 12);
    for test in TESTS {
        let scaled = |by: f64| -> f64 {
            let rows: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|g| by * g).collect()).collect();
            plain(test).wanted(12, &single(test, &rows))
        };
        assert!((scaled(1e-6) / scaled(1.0) - 1.0).abs() < 1e-12, "{test:?}");
        assert!((scaled(1e8) / scaled(1.0) - 1.0).abs() < 1e-12, "{test:?}");
    }
}

#[test]
fn the_inner_product_asks_for_no_more_than_the_norm() {
    for seed in 0..50 {
        let rows = examples(seed, 10);
        let asked = |test| plain(test).next(1, 10, &single(test, &rows));
        assert!(asked(BatchTest::InnerProduct) <= asked(BatchTest::Norm));
        assert!(asked(BatchTest::InnerProduct) <= asked(BatchTest::Augmented));
    }
}

#[test]
fn without_bounds_the_batch_never_grows() {
    for test in TESTS {
        let free = f64::INFINITY;
        let growth = BatchGrowth { eta: free, theta: free, nu: free, ..plain(test) };
        assert_eq!(growth.next(8, 8, &single(test, &examples(7, 8))), 8, "{test:?}");
    }
}

#[test]
fn the_batch_never_shrinks_and_grows_by_no_more_than_it_may() {
    let spread = single(BatchTest::Norm, &examples(8, 8));
    let growth = |factor, most| BatchGrowth { eta: 1e-3, growth: factor, most, ..plain(BatchTest::Norm) };
    assert_eq!(growth(2.0, 1000).next(8, 8, &spread), 16);
    assert_eq!(growth(1.0, 1000).next(8, 8, &spread), 8);
    assert_eq!(growth(1.2, 1000).next(1, 8, &spread), 2);
    assert_eq!(growth(f64::INFINITY, 1000).next(8, 8, &spread), 1000);
    assert_eq!(growth(2.0, 12).next(16, 8, &spread), 16);
    let content = BatchGrowth { eta: 1e3, ..plain(BatchTest::Norm) };
    assert_eq!(content.next(64, 8, &spread), 64);
}

#[test]
fn tests_come_at_their_interval_and_end_at_the_largest_batch() {
    let growth = BatchGrowth { interval: 3, most: 32, ..plain(BatchTest::Norm) };
    let due: Vec<u64> = (1..=8).filter(|&step| growth.is_due(step, 16)).collect();
    assert_eq!(due, [1, 4, 7]);
    assert!(!growth.is_due(1, 32));
}

#[test]
fn a_mean_of_zero_asks_for_all_and_no_gradient_for_nothing() {
    let rows = |x: f64| vec![vec![x; 9], vec![-x; 9]];
    for test in [BatchTest::Norm, BatchTest::Augmented, BatchTest::Coordinates] {
        assert_eq!(plain(test).wanted(2, &single(test, &rows(1.0))), f64::INFINITY, "{test:?}");
    }
    for test in TESTS {
        assert_eq!(plain(test).wanted(2, &single(test, &rows(0.0))), 0.0, "{test:?}");
        assert_eq!(plain(test).next(2, 2, &single(test, &rows(f64::NAN))), 2, "{test:?}");
    }
}

#[test]
fn a_quantile_lets_that_share_of_coordinates_fail() {
    let spread = single(BatchTest::Coordinates, &examples(9, 40));
    let mut ratios = spread.coordinates.clone();
    ratios.sort_unstable_by(f64::total_cmp);
    for (quantile, at) in [(1.0, 8), (0.89, 8), (0.88, 7), (0.5, 4), (0.01, 0)] {
        let growth = BatchGrowth { quantile, eta: 1.0, ..plain(BatchTest::Coordinates) };
        assert!((growth.wanted(40, &spread) / ratios[at] - 1.0).abs() < 1e-14, "{quantile}");
    }
}

#[test]
fn unequal_weights_stand_for_as_many_equal_ones() {
    // A micro-batch of weight three is one of three items: words, where rows hold several.
    let (rows, sizes) = (examples(10, 12), [3, 1, 2, 6]);
    let words = grouped(BatchTest::Norm, &rows, &sizes);
    let growth = plain(BatchTest::Norm);
    // Four rows of twelve words: as many more rows as there would have to be words.
    assert!((growth.wanted(4, &words) * 3.0 / growth.wanted(12, &words) - 1.0).abs() < 1e-14);
}

#[test]
fn beyond_what_is_held_the_noise_along_the_gradient_stays_an_estimate() {
    const DRAWS: u64 = 200;
    let ratio = |seed: u64| {
        let rows = examples(seed, 150);
        plain(BatchTest::InnerProduct).wanted(150, &single(BatchTest::InnerProduct, &rows))
            / defined(BatchTest::InnerProduct, &rows, 0.1)
    };
    let all: Vec<f64> = (0..DRAWS).map(ratio).collect();
    let error = (variance(&all) / DRAWS as f64).sqrt();
    let average = all.iter().sum::<f64>() / DRAWS as f64;
    assert!((average - 1.0).abs() < 4.0 * error && error < 0.02, "{average} ± {error}");
    assert!(all.iter().any(|ratio| (ratio - 1.0).abs() > 1e-3), "all would be held");
}

#[test]
fn fewer_than_two_micro_batches_say_nothing() {
    let mut sum = Accumulator::for_test(BatchTest::Norm);
    assert_eq!(sum.spread(), None);
    sum.add(like(&leaves(), &examples(11, 1)[0]), 0.0, 1.0);
    sum.add(like(&leaves(), &[f64::NAN; 9]), f64::NAN, 0.0);
    assert_eq!(sum.spread(), None);
    let mut without = Accumulator::default();
    examples(12, 3).iter().for_each(|row| without.add(like(&leaves(), row), 0.0, 1.0));
    assert_eq!(without.spread(), None);
}

#[test]
fn what_a_test_keeps_leaves_the_mean_as_it_is() {
    let rows = examples(13, 7);
    let finished = |mut sum: Accumulator| {
        rows.iter().enumerate().for_each(|(n, row)| sum.add(like(&leaves(), row), n as f64, 1.0 + n as f64));
        sum.finish().unwrap()
    };
    let (loss, expected) = finished(Accumulator::default());
    for test in TESTS {
        let (kept, found) = finished(Accumulator::for_test(test));
        assert!(kept.to_bits() == loss.to_bits() && flat(&found) == flat(&expected), "{test:?}");
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let usual = BatchGrowth::new(BatchTest::Norm);
    assert!(usual.check().is_ok());
    for (growth, name) in [
        (BatchGrowth { eta: 0.0, ..usual }, "eta"),
        (BatchGrowth { theta: f64::NAN, ..usual }, "theta"),
        (BatchGrowth { nu: -1.0, ..usual }, "nu"),
        (BatchGrowth { quantile: 1.5, ..usual }, "quantile"),
        (BatchGrowth { growth: 0.5, ..usual }, "growth"),
        (BatchGrowth { interval: 0, ..usual }, "interval"),
    ] {
        assert!(growth.check().unwrap_err().to_string().contains(&format!("`{name}`")), "{name}");
    }
}

/// The path of AdaGrad-Norm, and the gradient it met at each step.
fn steps(optimiser: &AdagradNorm, problem: &Problem) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let path = problem.plain(optimiser);
    let gradients = path.iter().map(|point| flat(&problem.loss_and_gradient(&point.params).1)).collect();
    (path.iter().map(|point| flat(&point.params)).collect(), gradients)
}

#[test]
fn adagrad_norm_turns_with_its_problem() {
    // Coordinates turned by an angle: the gradients turn, and the path with them.
    let (cos, sin) = (0.6, 0.8);
    let turn = |x: &[f64]| vec![cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]];
    let optimiser = AdagradNorm { lr: 2.0, v0: 1e-2 };
    let problem = Problem::quadratic(&[1.0, 10.0], &[1.0, -2.0], 50);
    let (path, gradients) = steps(&optimiser, &problem);
    let mut x = problem.start.clone();
    let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    for (k, g) in gradients[..50].iter().enumerate() {
        x = host.step(&optimiser, &x, &like(&x, &turn(g)), 1.0, 0.0).unwrap();
        assert!(distance(&flat(&x), &turn(&path[k + 1])) < 1e-12, "step {k}");
    }
}

#[test]
fn the_squared_steps_of_adagrad_norm_sum_to_no_more_than_the_logarithm() {
    let optimiser = AdagradNorm { lr: 0.7, v0: 1e-4 };
    let problem = Problem::quadratic(&[1.0, 10.0, 0.1], &[1.0, -2.0, 3.0], 300);
    let (path, gradients) = steps(&optimiser, &problem);
    let squared = |pair: &[Vec<f64>]| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let moved: f64 = path.windows(2).map(squared).sum();
    let seen: f64 = gradients[..300].iter().map(|g| dot(g, g)).sum();
    assert!(moved <= 0.49 * ((1e-4 + seen) / 1e-4).ln(), "{moved}");
}
