//! Laws of optimisers for low-rank updates, and of momentum kept at a low rank.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;
mod fed;

use acclimate_core::{AnyOptimiser, AnyState, AnyTensor, At, Edit, Params, Patch, RecordReader, Rng, Role};
use acclimate_optim::{Adafactor, Adamw, Allora, Flora, Host, HostSettings, Loft, RowNorm, Sgd, SketchAccumulator};
use burn::tensor::{DType, Device};
use common::{Problem, distance, flat};
use fed::{fed_matrix, random, single};

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
fn a_saved_state_of_loft_goes_on_bit_for_bit() {
    let (mut x, roles) = factors((&[2, 4], start(33, 8)), (&[5, 2], start(34, 10)));
    let loft: &dyn AnyOptimiser = &Loft::default();
    let step = |x: &Params, state: &mut dyn AnyState, step: u64| {
        let (scales, decays) = (&[1.0; 2], &[0.0; 2]);
        let at = At { params: x, lr: 1.0, scales, roles: &roles, decays, loss: 0.0, step, again: None };
        x.zip(&loft.step(&of_factors(x), state, &at).unwrap().movement, |x, movement| x + movement)
    };
    let mut state = loft.start(&x).unwrap();
    for k in 1..=5 {
        x = step(&x, state.as_mut(), k);
    }
    let mut again = loft.restore(&mut RecordReader::from(state.save())).unwrap();
    let mut other = x.clone();
    for k in 6..=9 {
        x = step(&x, state.as_mut(), k);
        other = step(&other, again.as_mut(), k);
    }
    assert_eq!(x.fingerprint(), other.fingerprint());
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

/// LoRA+: AdamW with a rate of its own for output factors.
fn plus(ratio: f64) -> HostSettings {
    HostSettings { scales: [(Role::OutputFactor, ratio)].into(), ..Default::default() }
}

#[test]
fn lora_plus_of_ratio_one_is_adamw_bit_for_bit() {
    let pair = factors((&[2, 3], start(1, 6)), (&[4, 2], start(2, 8)));
    let adam = Adamw { lr: 0.01, ..Default::default() };
    let [alone, plus] = [HostSettings::default(), plus(1.0)].map(|settings| {
        let mut host = Host::over(&adam, settings, &pair.0, pair.1.clone()).unwrap();
        (0..10).fold(pair.0.clone(), |x, _| host.step(&adam, &x, &x, 1.0, 0.0).unwrap())
    });
    assert_eq!(alone.fingerprint(), plus.fingerprint());
}

#[test]
fn lora_plus_moves_output_factors_by_the_ratio_and_others_as_before() {
    let (mut x, mut roles) = factors((&[2, 3], start(1, 6)), (&[4, 2], start(2, 8)));
    x.insert("head.bias", AnyTensor::from_f64s(vec![1.0], &[1], DType::F64, &Device::flex()));
    roles.push(Role::Head);
    let adam = Adamw { lr: 0.01, ..Default::default() };
    let next = Host::over(&adam, plus(16.0), &x, roles).unwrap().step(&adam, &x, &x, 1.0, 0.0).unwrap();
    for (name, rate) in [("site.lora.a", 0.01), ("site.lora.b", 0.16), ("head.bias", 0.01)] {
        let [next, x] = [&next, &x].map(|params| params.any(name).unwrap().to_f64s());
        // The first step of Adam is the rate in every coordinate.
        assert!(next.iter().zip(&x).all(|(next, x)| ((next - x).abs() / rate - 1.0).abs() < 1e-5), "{name}");
    }
}

/// How much of a change of f(x) = b·aᵀx comes from b and how much from a, in the third step of gradient descent towards 1, on average over draws
/// of a of variance 1/n; x has n entries of size one. The rates are 0.1/n for a and `ratio` times that for b.
fn shares(n: usize, ratio: f64) -> [f64; 2] {
    const DRAWS: u64 = 200;
    let sgd = Sgd { lr: 0.1 / n as f64, momentum: 0.0, nesterov: false };
    let mut sums = [0.0; 2];
    for draw in 0..DRAWS {
        let mut rng = Rng::new(draw, "width", n as u64);
        let a: Vec<f64> = (0..n).map(|_| rng.normal() / (n as f64).sqrt()).collect();
        let (mut x, roles) = factors((&[1, n], a), (&[1, 1], vec![0.0]));
        let mut host = Host::over(&sgd, plus(ratio), &x, roles).unwrap();
        let read = |x: &Params| {
            let [a, b] = ["site.lora.a", "site.lora.b"].map(|name| x.any(name).unwrap().to_f64s());
            (a.iter().sum::<f64>(), b[0])
        };
        for step in 0..3 {
            let (sum, b) = read(&x);
            let off = b * sum - 1.0;
            let (gradient, _) = factors((&[1, n], vec![off * b; n]), (&[1, 1], vec![off * sum]));
            x = host.step(&sgd, &x, &gradient, 1.0, 0.0).unwrap();
            let (next, moved) = read(&x);
            if step == 2 {
                sums[0] += ((moved - b) * sum).abs();
                sums[1] += (b * (next - sum)).abs();
            }
        }
    }
    sums
}

#[test]
fn both_factors_learn_at_every_width_only_where_the_rate_of_the_output_factor_does_not_fall_with_it() {
    let slope = |ratio: fn(f64) -> f64| {
        let [narrow, wide] = [256_usize, 4096].map(|n| shares(n, ratio(n as f64)));
        [0, 1].map(|at| (wide[at] / narrow[at]).ln() / 16_f64.ln())
    };
    let [one_rate, plus] = [slope(|_| 1.0), slope(|n| n)];
    // Means over 200 draws are right to a tenth each: a slope over a factor of 16 to one twentieth. Three times that.
    assert!((one_rate[0] + 1.0).abs() < 0.15, "{one_rate:?}");
    assert!(plus.iter().all(|slope| slope.abs() < 0.15), "{plus:?}");
}
