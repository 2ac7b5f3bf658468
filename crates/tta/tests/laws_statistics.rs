//! Laws of the methods whose business is statistics or the last layer: closed forms, limits and symmetries.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{
    AnyTensor, BatchNorm, Inputs, Model, Moments, Normaliser, Params, Patch, Recording, Result, Rng, Source,
};
use acclimate_models::{Resnet, tiny};
use acclimate_optim::{Adamw, Sgd};
use acclimate_tta::{
    Adanpc, AdanpcCompat, Affinity, AlphaBn, AnyTestTime, BatchStatistics, Core, Domainadaptor, FeatureMemory, Gem,
    Host, Iabn, Lame, Note, Reset, RobustBn, Seen, Stream, T3a, Tent, TestTime, UnmixTns,
};
use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use std::collections::BTreeMap;

fn matrix(rows: &[Vec<f64>]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn drawn(seed: u64, rows: usize, width: usize) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(seed, "laws", 0);
    (0..rows).map(|_| (0..width).map(|_| rng.normal()).collect()).collect()
}

fn rows(x: &Tensor<2>) -> Vec<Vec<f64>> {
    AnyTensor::from(x.clone()).to_f64s().chunks(x.dims()[1]).map(<[f64]>::to_vec).collect()
}

fn probabilities(log: &Tensor<2>) -> Vec<Vec<f64>> {
    rows(&activation::softmax(log.clone(), 1))
}

fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

/// Some hundred roundings in f64 of numbers below a hundred.
const ROUNDING: f64 = 1e-11;

fn near(what: &str, a: &[Vec<f64>], b: &[Vec<f64>]) {
    let far = distance(a, b);
    assert!(far <= ROUNDING, "{what}: off by {far:e}");
}

fn seen(logits: &[Vec<f64>], features: &[Vec<f64>]) -> Seen {
    Seen { logits: matrix(logits), features: matrix(features) }
}

fn picked<T: Clone>(of: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|at| of[*at].clone()).collect()
}

fn images(x: &Inputs) -> Tensor<4> {
    match x {
        Inputs::Images(x) => x.clone(),
        _ => unreachable!("the tiny network reads images"),
    }
}

fn patch(model: &Resnet) -> Patch {
    let mut patch = Patch::new();
    let norms = acclimate_peft::build("norm_tuning", &toml::Table::new()).unwrap();
    acclimate_peft::place(&mut patch, model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0)).unwrap();
    patch
}

/// The logits of a batch under the statistics that a method brings.
fn under(model: &Resnet, method: &dyn AnyTestTime, batch: &Inputs) -> Vec<Vec<f64>> {
    let mut host = Host::new(model, Patch::new()).unwrap().statistics(method).unwrap();
    rows(&host.forward(batch).unwrap().logits)
}

fn by(model: &Resnet, statistics: &dyn Normaliser, batch: &Inputs) -> Vec<Vec<f64>> {
    let mut host = Host::new(model, Patch::new()).unwrap();
    rows(&host.forward_under(batch, statistics).unwrap().logits)
}

/// The moments of batches at every norm, measured under the statistics of each batch.
fn recorded(model: &Resnet, batches: &[Inputs]) -> Params {
    let (recording, mut host) = (Recording::default(), Host::new(model, Patch::new()).unwrap());
    for batch in batches {
        host.forward_under(batch, &recording).unwrap();
    }
    recording.into_params()
}

/// The model with other stored moments.
fn storing(model: &Resnet, moments: &Params) -> Resnet {
    let weights = model.weights().map(|name, tensor| moments.any(name).unwrap_or(tensor).clone());
    Resnet::from_weights(tiny::resnet_config(acclimate_models::Norm::Batch), weights).unwrap()
}

// LAME.

/// The value that the paper lowers, from its definition.
fn lame_value(q: &[Vec<f64>], z: &[Vec<f64>], w: &[Vec<f64>], weight: f64) -> f64 {
    let kl: f64 =
        z.iter().flatten().zip(q.iter().flatten()).map(|(z, q)| if *z > 0.0 { z * (z / q).ln() } else { 0.0 }).sum();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let pairs: f64 = (0..z.len()).map(|i| (0..z.len()).map(|j| w[i][j] * product(&z[i], &z[j])).sum::<f64>()).sum();
    kl - weight / 2.0 * pairs
}

#[test]
fn lame_never_raises_its_true_value_under_a_positive_kernel() {
    let given = seen(&drawn(1, 12, 4), &drawn(2, 12, 5));
    let q = probabilities(&given.logits);
    let values: Vec<f64> = (1..15)
        .map(|steps| {
            let lame = Lame { affinity: Affinity::Rbf, steps, tolerance: 0.0, eps: 0.0, ..Lame::default() };
            let w = rows(&lame.affinities(given.features.clone()));
            lame_value(&q, &probabilities(&lame.answer(&given)), &w, 1.0)
        })
        .collect();
    assert!(values.windows(2).all(|two| two[1] <= two[0] + ROUNDING), "{values:?}");
    assert!(values[13] < values[0] - 0.1, "nothing was lowered: {values:?}");
}

#[test]
fn lame_without_weight_or_neighbours_leaves_the_model_alone() {
    let given = seen(&drawn(1, 9, 4), &drawn(2, 9, 5));
    let expected = probabilities(&given.logits);
    let weightless = Lame { weight: 0.0, eps: 0.0, ..Lame::default() };
    near("no weight", &probabilities(&weightless.answer(&given)), &expected);
    let one = seen(&drawn(1, 1, 4), &drawn(2, 1, 5));
    let alone = Lame { eps: 0.0, ..Lame::default() };
    near("one row", &probabilities(&alone.answer(&one)), &probabilities(&one.logits));
}

#[test]
fn lame_does_not_depend_on_the_order_of_rows() {
    let (logits, features) = (drawn(1, 9, 4), drawn(2, 9, 5));
    let order = [4, 2, 8, 0, 1, 7, 3, 6, 5];
    for affinity in [Affinity::Knn, Affinity::Rbf, Affinity::Linear] {
        let lame = Lame { affinity, neighbours: 3, ..Lame::default() };
        let there = probabilities(&lame.answer(&seen(&logits, &features)));
        let other = probabilities(&lame.answer(&seen(&picked(&logits, &order), &picked(&features, &order))));
        near("the order", &other, &picked(&there, &order));
    }
}

#[test]
fn lame_gives_equal_inputs_equal_answers() {
    let order = [0, 1, 2, 3, 4, 1, 5, 1];
    let (logits, features) = (picked(&drawn(1, 6, 4), &order), picked(&drawn(2, 6, 5), &order));
    let answers = probabilities(&Lame { neighbours: 4, ..Lame::default() }.answer(&seen(&logits, &features)));
    near("a copy", &answers[1..2], &answers[5..6]);
    near("another copy", &answers[1..2], &answers[7..8]);
}

#[test]
fn lame_solves_blocks_apart() {
    let (logits, left, right) = (drawn(1, 7, 3), drawn(2, 4, 2), drawn(3, 3, 2));
    // The features of the two blocks are orthogonal, so no row of one counts in the other.
    let of_left: Vec<Vec<f64>> = left.iter().map(|row| [row.clone(), vec![0.0, 0.0]].concat()).collect();
    let of_right: Vec<Vec<f64>> = right.iter().map(|row| [vec![0.0, 0.0], row.clone()].concat()).collect();
    let lame = Lame { affinity: Affinity::Linear, steps: 20, tolerance: 0.0, ..Lame::default() };
    let all = probabilities(&lame.answer(&seen(&logits, &[of_left.clone(), of_right.clone()].concat())));
    near("the first block", &all[..4], &probabilities(&lame.answer(&seen(&logits[..4], &of_left))));
    near("the second block", &all[4..], &probabilities(&lame.answer(&seen(&logits[4..], &of_right))));
}

#[test]
fn lame_with_rows_that_count_for_themselves_alone_ends_at_the_fixed_point() {
    let logits = drawn(1, 3, 4);
    let axes = vec![vec![2.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 3.0]];
    let lame = Lame { affinity: Affinity::Linear, steps: 2000, tolerance: 0.0, eps: 0.0, ..Lame::default() };
    let z = probabilities(&lame.answer(&seen(&logits, &axes)));
    let next: Vec<Vec<f64>> =
        logits.iter().zip(&z).map(|(l, z)| l.iter().zip(z).map(|(l, z)| l + z).collect()).collect();
    near("z against softmax(log q + z)", &z, &probabilities(&matrix(&next)));
}

#[test]
fn lame_ignores_what_softmax_ignores() {
    let (logits, features) = (drawn(1, 8, 4), drawn(2, 8, 5));
    let moved: Vec<Vec<f64>> =
        logits.iter().enumerate().map(|(at, row)| row.iter().map(|l| l + at as f64).collect()).collect();
    let lame = Lame::default();
    let (a, b) = (lame.answer(&seen(&logits, &features)), lame.answer(&seen(&moved, &features)));
    near("a constant on a row", &rows(&a), &rows(&b));
    assert!(probabilities(&a).iter().all(|row| (row.iter().sum::<f64>() - 1.0).abs() < ROUNDING));
}

#[test]
fn lame_corrects_what_is_said_under_the_hosts_statistics() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 8, DType::F64));
    let (lame, mixed) = (Lame::default(), AlphaBn::default());
    let host = || Host::new(&model, Patch::new()).unwrap().statistics(&mixed).unwrap();
    let expected = rows(&lame.answer(&host().forward(&batch).unwrap()));
    let mut stream = Stream::new(&lame, host(), Reset::Never).unwrap();
    assert_eq!(rows(&stream.step(&batch).unwrap()), expected);
    let mut stream = Stream::new(&lame, Host::new(&model, Patch::new()).unwrap(), Reset::Never).unwrap();
    assert_ne!(rows(&stream.step(&batch).unwrap()), expected);
}

// α-BN.

#[test]
fn alpha_bn_ends_at_the_deployed_model_and_at_batch_statistics_bit_for_bit() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let at = |target_weight| under(&model, &AlphaBn { target_weight, ..AlphaBn::default() }, &batch);
    assert_eq!(at(0.0), by(&model, &Source, &batch));
    assert_eq!(at(1.0), under(&model, &BatchStatistics {}, &batch));
    let (low, high) = (at(0.5), at(0.5 + 1e-9));
    assert!(low != high && distance(&low, &high) < 1e-6, "not continuous: {:e}", distance(&low, &high));
}

#[test]
fn alpha_bn_has_no_choice_where_the_batch_is_what_is_stored() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let model = storing(&model, &recorded(&model, std::slice::from_ref(&batch)));
    let expected = by(&model, &Source, &batch);
    for (target_weight, mixture_variance) in [(0.3, false), (0.8, true), (1.0, false)] {
        let method = AlphaBn { target_weight, mixture_variance, ..AlphaBn::default() };
        near("another weight", &under(&model, &method, &batch), &expected);
    }
}

/// Given moments at one norm, those of the batch elsewhere.
struct Given<'a>(&'a str, Moments);

impl Normaliser for Given<'_> {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        if norm.site.name == self.0 { Ok(norm.by(self.1.clone())) } else { norm.by_own() }
    }
}

#[test]
fn alpha_bn_with_the_mixtures_variance_has_the_moments_of_both_samples_together() {
    let model = tiny::resnet(0, DType::F64);
    let (known, batch) =
        (tiny::images(1, 6, DType::F64), Inputs::Images(images(&tiny::images(2, 2, DType::F64)) + 1.0));
    let pooled = recorded(&model, &[known.clone(), batch.clone()]);
    let moment = |field: &str| pooled.get::<1>(&format!("stem.norm.{field}")).unwrap();
    let pooled = Given("stem.norm", Moments { mean: moment("running_mean"), variance: moment("running_var") });
    let stored = storing(&model, &recorded(&model, &[known]));
    let elsewhere = BTreeMap::from([("stages.*".to_owned(), 1.0)]);
    let method =
        AlphaBn { source_rows: Some(6.0), mixture_variance: true, site_weights: elsewhere, ..AlphaBn::default() };
    near("the mixture", &under(&stored, &method, &batch), &by(&model, &pooled, &batch));
}

#[test]
fn alpha_bn_takes_weights_by_site_and_refuses_names_of_none() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let with = |pattern: &str, weight| AlphaBn {
        target_weight: 0.0,
        site_weights: BTreeMap::from([(pattern.to_owned(), weight)]),
        ..AlphaBn::default()
    };
    assert_eq!(under(&model, &with("*", 1.0), &batch), under(&model, &BatchStatistics {}, &batch));
    let part = under(&model, &with("stem.norm", 1.0), &batch);
    assert!(part != by(&model, &Source, &batch) && part != under(&model, &BatchStatistics {}, &batch));
    let refused = Host::new(&model, Patch::new()).unwrap().statistics(&with("stem.nrom", 1.0)).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("`stem.norm`"), "{refused}");
    let table: toml::Table = "site_weights = { stem = 1.5 }".parse().unwrap();
    let refused = <AlphaBn as acclimate_core::Method>::from_table(&table).unwrap_err().to_string();
    assert!(refused.contains("stem = 1.5"), "{refused}");
}

// Core.

#[test]
fn core_is_zero_where_all_is_certain_and_largest_where_all_is_even() {
    let core = Core::default();
    let loss = |logits: &[Vec<f64>]| core.correlation(matrix(logits)).into_scalar::<f64>();
    let certain = |class: usize| (0..4).map(|at| if at == class { 900.0 } else { 0.0 }).collect::<Vec<f64>>();
    assert_eq!(loss(&[certain(0), certain(2), certain(1), certain(3), certain(0)]), 0.0);
    // A class that no row shows counts nothing either.
    assert_eq!(loss(&[certain(0), certain(0), certain(1)]), 0.0);
    // The guard of the division takes some 1e-8 off.
    assert!((loss(&[vec![0.3; 4], vec![-7.0; 4]]) - 0.75).abs() < 1e-7);
}

#[test]
fn core_ignores_the_order_of_rows_and_classes() {
    let logits = drawn(1, 6, 4);
    let loss = |logits: &[Vec<f64>]| Core::default().correlation(matrix(logits)).into_scalar::<f64>();
    let turned: Vec<Vec<f64>> =
        picked(&logits, &[3, 1, 5, 0, 2, 4]).iter().map(|row| picked(row, &[2, 0, 3, 1])).collect();
    assert!((loss(&logits) - loss(&turned)).abs() < ROUNDING);
    assert!((0.0..=0.75).contains(&loss(&logits)));
}

#[test]
fn the_gradient_of_core_is_that_of_differences() {
    let logits = drawn(1, 5, 3);
    let core = |z: Tensor<2>| Core { temperature: 1.5, ..Core::default() }.correlation(z);
    let z = matrix(&logits).autodiff().require_grad();
    let mut tape = core(z.clone()).backward();
    let gradient = rows(&z.grad_remove(&mut tape).unwrap());
    for (row, column) in [(0, 0), (2, 1), (4, 2)] {
        let at = |step: f64| {
            let mut moved = logits.clone();
            moved[row][column] += step;
            core(matrix(&moved)).into_scalar::<f64>()
        };
        let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
        // Differences of 1e-5: their own error is some 1e-10.
        assert!((gradient[row][column] - expected).abs() < 1e-8, "{} {expected}", gradient[row][column]);
    }
}

// UnMix-TNS.

/// Every row by its own moments.
struct ByRows;

impl Normaliser for ByRows {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let rows = norm.rows();
        Ok(norm.by_rows(rows))
    }
}

#[test]
fn one_component_normalises_every_input_by_itself() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let method = UnmixTns { components: 1, ..UnmixTns::default() };
    near("instances", &under(&model, &method, &batch), &by(&model, &ByRows, &batch));
}

#[test]
fn components_that_stay_make_inputs_independent() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let method = UnmixTns { momentum: 0.0, ..UnmixTns::default() };
    let mut stream = Stream::new(&method, Host::new(&model, Patch::new()).unwrap(), Reset::Never).unwrap();
    let all = rows(&stream.step(&batch).unwrap());
    for row in [5, 0, 3] {
        let one = Inputs::Images(images(&batch).narrow(0, row, 1));
        near("a row alone", &rows(&stream.step(&one).unwrap()), &all[row..=row]);
    }
}

#[test]
fn the_first_components_have_the_stored_moments() {
    let model = tiny::resnet(0, DType::F64);
    let (mut host, components) = (Host::new(&model, Patch::new()).unwrap(), 20_000);
    let state = UnmixTns { components, ..UnmixTns::default() }.prepare(&mut host).unwrap();
    let stored = |field: &str| model.weights().any(&format!("stem.norm.{field}")).unwrap().to_f64s();
    let of = |part: &str| rows(&state.components.get::<2>(&format!("stem.norm.{part}")).unwrap());
    let (means, variances) = (of("means"), of("variances"));
    for channel in 0..8 {
        let n = components as f64;
        let mean = means.iter().map(|row| row[channel]).sum::<f64>() / n;
        let between = means.iter().map(|row| (row[channel] - mean).powi(2)).sum::<f64>() / n;
        let within = variances.iter().map(|row| row[channel]).sum::<f64>() / n;
        let (expected, variance) = (stored("running_mean")[channel], stored("running_var")[channel]);
        // Five standard errors of 20,000 draws with half of the variance.
        assert!((mean - expected).abs() < 5.0 * (variance / 2.0 / n).sqrt(), "mean {mean} for {expected}");
        let error = 5.0 * variance / 2.0 * (2.0 / n).sqrt();
        assert!((between + within - variance).abs() < error, "{} for {variance}", between + within);
    }
}

#[test]
fn gradients_pass_through_unmixed_statistics_and_leave_components_to_the_method() {
    let model = tiny::resnet(0, DType::F64);
    let (tent, adam, statistics) = (Tent::default(), Adamw { lr: 1e-3, ..Adamw::default() }, UnmixTns::default());
    let host = Host::new(&model, patch(&model)).unwrap().optimiser(&adam).unwrap().statistics(&statistics).unwrap();
    let mut stream = Stream::new(&tent, host, Reset::Never).unwrap();
    let before = stream.host().patch().params.clone();
    let kept =
        |stream: &Stream<'_>| stream.save().tensors.any("statistics:components/stem.norm.means").unwrap().to_f64s();
    let first = kept(&stream);
    stream.step(&tiny::images(1, 4, DType::F64)).unwrap();
    let moved = |(a, b): (&AnyTensor, &AnyTensor)| a.to_f64s() != b.to_f64s();
    let after = &stream.host().patch().params;
    assert!(before.iter().zip(after.iter()).all(|((_, a), (_, b))| moved((a, b))));
    assert_ne!(first, kept(&stream));
    stream.reset().unwrap();
    assert_eq!(first, kept(&stream), "a reset must bring the same components back");
}

// Running averages.

#[test]
fn robust_bn_lies_between_the_deployed_model_and_batch_statistics() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let at = |momentum| under(&model, &RobustBn { momentum }, &batch);
    near("no movement", &at(0.0), &by(&model, &Source, &batch));
    near("no memory", &at(1.0), &under(&model, &BatchStatistics {}, &batch));
    let method = RobustBn { momentum: 0.5 };
    let mut stream = Stream::new(&method, Host::new(&model, Patch::new()).unwrap(), Reset::Never).unwrap();
    let last = stream.run(std::iter::repeat_n(&batch, 60)).unwrap().pop().unwrap();
    near("the same batch for long", &rows(&last), &under(&model, &BatchStatistics {}, &batch));
}

// Instance-aware norms, and NOTE.

/// Every row by its own moments, the variance divided by one less than the pixels.
struct ByUnbiasedRows;

impl Normaliser for ByUnbiasedRows {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let ([_, _, height, width], [mean, variance]) = (norm.x.dims(), norm.rows());
        let n = (height * width) as f64;
        Ok(norm.by_rows([mean, variance * (n / (n - 1.0))]))
    }
}

#[test]
fn iabn_lies_between_each_input_and_the_deployed_model() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    let at = |deviations| under(&model, &Iabn { deviations }, &batch);
    near("no allowance", &at(0.0), &by(&model, &ByUnbiasedRows, &batch));
    near("every allowance", &at(1e9), &by(&model, &Source, &batch));
    let one = Inputs::Images(images(&batch).narrow(0, 4, 1));
    near("a row alone", &under(&model, &Iabn { deviations: 1.0 }, &one), &at(1.0)[4..5]);
}

#[test]
fn note_keeps_every_row_of_the_smaller_classes() {
    let (model, sgd) = (tiny::resnet(0, DType::F64), Sgd { lr: 1e-3, momentum: 0.0, nesterov: false });
    let method = Note { capacity: 9, update_every: 1_000_000, ..Note::default() };
    let mut host = Host::new(&model, patch(&model)).unwrap().optimiser(&sgd).unwrap();
    let mut state = method.prepare(&mut host).unwrap();
    for seed in 0..25 {
        let batch = tiny::images(seed, 4, DType::F64);
        let answer = rows(&method.step(&batch, &mut state, &mut host).unwrap());
        near("before it learns", &answer, &under(&model, &Iabn::default(), &batch));
        let size = |class: usize| state.classes.iter().filter(|of| **of == class as f64).count();
        let most = (0..3).map(size).max().unwrap();
        for class in 0..3 {
            let all = size(class) as f64 == state.counts[class];
            assert!(all || size(class) + 1 >= most, "{:?} of {:?}", state.classes, state.counts);
        }
    }
    assert_eq!((state.classes.len(), state.seen), (9, 100));
    assert!(state.counts.iter().filter(|count| **count > 9.0).count() > 1, "one class alone: {:?}", state.counts);
}

#[test]
fn note_refuses_images_of_another_size() {
    let (model, sgd) = (tiny::resnet(0, DType::F64), Sgd { lr: 1e-3, momentum: 0.0, nesterov: false });
    let method = Note::default();
    let host = Host::new(&model, patch(&model)).unwrap().optimiser(&sgd).unwrap();
    let mut stream = Stream::new(&method, host, Reset::Never).unwrap();
    stream.step(&tiny::images(1, 4, DType::F64)).unwrap();
    let larger = Inputs::Images(Tensor::ones([2, 1, 10, 10], (&Device::flex(), DType::F64)));
    let refused = stream.step(&larger).unwrap_err().to_string();
    assert!(refused.contains("[1, 8, 8]"), "{refused}");
}

#[test]
fn maps_of_one_pixel_have_no_deviation_of_their_own() {
    let model = tiny::resnet(0, DType::F64);
    let pixels = Inputs::Images(images(&tiny::images(1, 6, DType::F64)).narrow(2, 0, 1).narrow(3, 0, 1));
    near("stored moments", &under(&model, &Iabn::default(), &pixels), &by(&model, &Source, &pixels));
    let methods: [&dyn AnyTestTime; 2] = [&Domainadaptor::default(), &UnmixTns::default()];
    for method in methods {
        assert!(under(&model, method, &pixels).iter().flatten().all(|x| x.is_finite()), "{method:?}");
    }
}

// AdaNPC.

fn memory(seed: u64, entries: usize, classes: usize) -> FeatureMemory {
    let of: Vec<usize> = (0..entries).map(|at| at % classes).collect();
    FeatureMemory::new(matrix(&drawn(seed, entries, 5)), &of).unwrap()
}

fn votes(answer: &Tensor<2>) -> Vec<Vec<f64>> {
    rows(answer).iter().map(|row| row.iter().map(|log| log.exp()).collect()).collect()
}

#[test]
fn a_memory_that_admits_nothing_is_a_plain_vote() {
    let (method, mut held) = (Adanpc { threshold: 1.1, ..Adanpc::default() }, memory(1, 20, 3));
    let given = seen(&drawn(2, 8, 3), &drawn(3, 8, 5));
    let first = votes(&method.answer(&given, &mut held).unwrap());
    assert_eq!(first, votes(&method.answer(&given, &mut held).unwrap()));
    assert_eq!(held.len(), 20);
    // Every score has 1e-5 added to its vote.
    assert!(first.iter().all(|row| (row.iter().sum::<f64>() - 1.0 - 3e-5).abs() < 1e-4));
    let mut learning = memory(1, 20, 3);
    Adanpc::default().answer(&given, &mut learning).unwrap();
    assert_eq!(learning.len(), 28);
}

#[test]
fn a_vote_of_all_without_preference_has_the_memorys_frequencies() {
    let method = Adanpc { neighbours: 100, temperature: 1e12, threshold: 2.0, ..Adanpc::default() };
    let answer = method.answer(&seen(&drawn(2, 4, 3), &drawn(3, 4, 5)), &mut memory(1, 20, 3)).unwrap();
    let expected = vec![vec![7.0 / 20.0 + 1e-5, 7.0 / 20.0 + 1e-5, 6.0 / 20.0 + 1e-5]; 4];
    near("frequencies", &votes(&answer), &expected);
}

#[test]
fn one_neighbour_decides_alone() {
    let (queries, entries) = (drawn(3, 6, 5), drawn(1, 20, 5));
    let cosine = |a: &[f64], b: &[f64]| {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        product(a, b) / (product(a, a) * product(b, b)).sqrt()
    };
    let method = Adanpc { neighbours: 1, threshold: 2.0, ..Adanpc::default() };
    let answer = votes(&method.answer(&seen(&drawn(2, 6, 3), &queries), &mut memory(1, 20, 3)).unwrap());
    for (query, vote) in queries.iter().zip(answer) {
        let order = |a: &usize, b: &usize| cosine(query, &entries[*a]).total_cmp(&cosine(query, &entries[*b]));
        let nearest = (0..20).max_by(order).unwrap();
        assert!(vote[nearest % 3] == 1.0, "{vote:?} where entry {nearest} is nearest");
    }
}

#[test]
fn the_length_of_features_does_not_count_in_a_vote() {
    let (logits, features) = (drawn(2, 6, 3), drawn(3, 6, 5));
    let longer: Vec<Vec<f64>> = features.iter().map(|row| row.iter().map(|x| x * 37.0).collect()).collect();
    let method = Adanpc::default();
    let answer =
        |features: &[Vec<f64>]| votes(&method.answer(&seen(&logits, features), &mut memory(1, 20, 3)).unwrap());
    near("longer features", &answer(&longer), &answer(&features));
}

#[test]
fn doubled_entries_and_neighbours_give_the_same_vote() {
    let (entries, classes) = (drawn(1, 20, 5), (0..20).map(|at| at % 3).collect::<Vec<usize>>());
    let twice = FeatureMemory::new(matrix(&[entries.clone(), entries].concat()), &[classes.clone(), classes].concat());
    let given = seen(&drawn(2, 6, 3), &drawn(3, 6, 5));
    let with = |neighbours, mut memory: FeatureMemory| {
        let method = Adanpc { neighbours, threshold: 2.0, ..Adanpc::default() };
        votes(&method.answer(&given, &mut memory).unwrap())
    };
    near("doubled", &with(10, twice.unwrap()), &with(5, memory(1, 20, 3)));
}

#[test]
fn the_share_of_the_streams_own_entries_is_bounded() {
    let method = Adanpc { self_share: 0.2, ..Adanpc::default() };
    let mut held = memory(1, 20, 3);
    for seed in 10..20 {
        method.answer(&seen(&drawn(2, 8, 3), &drawn(seed, 8, 5)), &mut held).unwrap();
        assert!(held.len() <= 25, "{} entries, of which 20 were given", held.len());
    }
    assert_eq!((held.len(), held.given()), (25, 20));
}

#[test]
fn the_authors_threshold_lies_on_a_scale_of_its_own() {
    let given = seen(&drawn(2, 8, 3), &drawn(3, 8, 5));
    let admitted = |compat, threshold| {
        let mut held = memory(1, 20, 3);
        Adanpc { compat, threshold, neighbours: 1, ..Adanpc::default() }.answer(&given, &mut held).unwrap();
        held.len() - 20
    };
    // One neighbour makes every vote certain; a second softmax makes of that e / (e + 2) = 0.576.
    assert_eq!([0.9, 1.1].map(|threshold| admitted(AdanpcCompat::None, threshold)), [8, 0]);
    assert_eq!([0.575, 0.577].map(|threshold| admitted(AdanpcCompat::DoubleSoftmax, threshold)), [8, 0]);
}

#[test]
fn adanpc_refuses_references_without_classes() {
    let (model, reference) = (tiny::resnet(0, DType::F64), [tiny::images(1, 6, DType::F64)]);
    let method = Adanpc::default();
    let host = || Host::new(&model, Patch::new()).unwrap().reference(&reference);
    let refused = Stream::new(&method, host(), Reset::Never).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("labelled reference batches") && refused.contains("`lame`"), "{refused}");
    let strange = [vec![0, 1, 2, 3, 4, 7]];
    let mut stream = Stream::new(&method, host().labels(&strange).unwrap(), Reset::Never).unwrap();
    let refused = stream.step(&reference[0]).unwrap_err().to_string();
    assert!(refused.contains("class 3") && refused.contains("has 3"), "{refused}");
}

// T3A.

#[test]
fn t3a_keeps_so_many_supports_of_each_class() {
    let (model, method) = (tiny::resnet(0, DType::F64), T3a { filter: 4 });
    let mut host = Host::new(&model, Patch::new()).unwrap();
    let mut state = method.prepare(&mut host).unwrap();
    assert_eq!(state.classes.len(), 3);
    for seed in 0..12 {
        method.step(&tiny::images(seed, 8, DType::F64), &mut state, &mut host).unwrap();
        for class in 0..3 {
            assert!(state.classes.iter().filter(|of| **of == f64::from(class)).count() <= 4);
        }
    }
}

#[test]
fn t3a_answers_with_cosines_times_the_features_length() {
    let (model, method) = (tiny::resnet(0, DType::F64), T3a::default());
    let mut host = Host::new(&model, Patch::new()).unwrap();
    let mut state = method.prepare(&mut host).unwrap();
    let given = host.forward_under(&tiny::images(1, 8, DType::F64), &Source).unwrap();
    let lengths: Vec<f64> =
        rows(&given.features).iter().map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
    let answer = rows(&method.answer(&given, &mut state).unwrap());
    assert!(answer.iter().zip(lengths).all(|(row, length)| row.iter().all(|x| x.abs() <= length * (1.0 + ROUNDING))));
}

// DomainAdaptor.

/// The mixture of stored moments and the batch's, the variance divided by one less than the count.
struct Mixture(f64);

impl Normaliser for Mixture {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let [batch, _, height, width] = norm.x.dims();
        let n = (batch * height * width) as f64;
        let (source, own) = (norm.source()?, norm.own()?);
        let mean = source.mean * self.0 + own.mean * (1.0 - self.0);
        let variance = source.variance * self.0 + own.variance * (n / (n - 1.0) * (1.0 - self.0));
        Ok(norm.by(Moments { mean, variance }))
    }
}

#[test]
fn adamix_is_the_mixture_of_moments_that_it_stands_for() {
    let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
    for lambda in [0.0, 0.3, 1.0] {
        let method = Domainadaptor { target_weight: Some(1.0 - lambda), ..Domainadaptor::default() };
        near("the mixture", &under(&model, &method, &batch), &by(&model, &Mixture(lambda), &batch));
    }
    let stored = Domainadaptor { target_weight: Some(0.0), ..Domainadaptor::default() };
    near("stored moments", &under(&model, &stored, &batch), &by(&model, &Source, &batch));
}

#[test]
fn adamix_gives_a_batch_of_one_the_even_mixture() {
    let (model, one) = (tiny::resnet(0, DType::F64), tiny::images(1, 1, DType::F64));
    near("one row", &under(&model, &Domainadaptor::default(), &one), &by(&model, &Mixture(0.5), &one));
}

#[test]
fn a_batch_is_answered_after_one_step_and_leaves_no_bit_behind() {
    let model = tiny::resnet(0, DType::F64);
    let batch = tiny::images(1, 6, DType::F64);
    let method = Domainadaptor::default();
    let answer = |lr: f64| {
        let sgd = Sgd { lr, momentum: 0.0, nesterov: false };
        let host = Host::new(&model, patch(&model)).unwrap().optimiser(&sgd).unwrap();
        let before = host.patch().params.fingerprint();
        let mut stream = Stream::new(&method, host, Reset::Never).unwrap();
        let answer = rows(&stream.step(&batch).unwrap());
        assert_eq!(stream.host().patch().params.fingerprint(), before);
        let counts = stream.report().counts;
        assert_eq!((counts.forwards, counts.backwards, counts.updates), (2, 1, 1));
        answer
    };
    let still = answer(1e-300);
    near("without a step", &still, &under(&model, &method, &batch));
    assert!(distance(&answer(1e-2), &still) > 1e-4);
}

#[test]
fn softened_losses_grow_with_the_square_of_the_logits() {
    let logits = drawn(1, 5, 4);
    let moved: Vec<Vec<f64>> = logits.iter().map(|row| row.iter().map(|z| 3.0 * z - 2.0).collect()).collect();
    let losses = |logits: &[Vec<f64>]| AnyTensor::from(Gem::GemT.losses(matrix(logits))).to_f64s();
    let expected: Vec<f64> = losses(&logits).iter().map(|loss| 9.0 * loss).collect();
    near("nine times", &[losses(&moved)], &[expected]);
}

#[test]
fn even_logits_have_a_loss_and_a_gradient() {
    for loss in [Gem::GemT, Gem::GemSkd, Gem::Em] {
        let z = matrix(&[vec![2.0; 3], vec![-1.0; 3]]).autodiff().require_grad();
        let mut tape = loss.losses(z.clone()).sum().backward();
        let gradient = rows(&z.grad_remove(&mut tape).unwrap());
        assert!(gradient.iter().flatten().all(|g| g.abs() < 1e-12), "{loss:?}: {gradient:?}");
    }
}

#[test]
fn the_gradient_of_gem_t_is_the_entropys_times_the_temperature() {
    let logits = drawn(1, 4, 3);
    let z = matrix(&logits).autodiff().require_grad();
    let mut tape = Gem::GemT.losses(z.clone()).sum().backward();
    let gradient = rows(&z.grad_remove(&mut tape).unwrap());
    let expected: Vec<Vec<f64>> = logits
        .iter()
        .map(|row| {
            let mean = row.iter().sum::<f64>() / 3.0;
            let temperature = 2.0 * (row.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
            let sum: f64 = row.iter().map(|z| (z / temperature).exp()).sum();
            let q: Vec<f64> = row.iter().map(|z| (z / temperature).exp() / sum).collect();
            let entropy: f64 = -q.iter().map(|q| q * q.ln()).sum::<f64>();
            q.iter().map(|q| -temperature * q * (q.ln() + entropy)).collect()
        })
        .collect();
    near("T times the entropy's", &gradient, &expected);
}
