//! What the pages of methods with gradients say, on tiny networks.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{AnyOptimiser, AnyTensor, Inputs, Params, Patch, Rng, Targets};
use acclimate_models::{Norm, Resnet, tiny};
use acclimate_optim::{Adamw, Sgd};
use acclimate_tta::{
    AnyTestTime, BatchStatistics, Cafa, Cotta, Covariance, Deyo, Eata, Gala, Host, Layers, Objective, Ostta, Ratio,
    Recap, Reset, Rmt, Roid, Sar, SelfLearning, Share, Shot, Squares, Stream, Teaching, Tent, Unsure,
};
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Far from every bound of these networks.
const ALL: f64 = 10.0;

fn adam() -> Adamw {
    Adamw { lr: 1e-2, ..Adamw::default() }
}

/// Plain gradient descent, whose step is the gradient.
fn sgd(lr: f64) -> Sgd {
    Sgd { lr, momentum: 0.0, nesterov: false }
}

/// A patch that trains scales and shifts of the norms, or everything.
fn patch(model: &Resnet, adapter: &str) -> Patch {
    let (mut patch, all) = (Patch::new(), Targets::Word("all".to_owned()));
    let built = acclimate_peft::build(adapter, &toml::Table::new()).unwrap();
    let targets = (adapter == "full").then_some(&all);
    acclimate_peft::place(&mut patch, model, adapter, built, targets, &mut Rng::new(0, "patch", 0)).unwrap();
    patch
}

/// Batches that drift.
fn batches(dtype: DType) -> Vec<Inputs> {
    let drift = |seed: u32| match tiny::images(u64::from(seed), 8, dtype) {
        Inputs::Images(x) => Inputs::Images(x * (1.0 + 0.1 * f64::from(seed)) + 0.1 * f64::from(seed)),
        other => other,
    };
    (0..5).map(drift).collect()
}

fn reference() -> Vec<Inputs> {
    (10..13).map(|seed| tiny::images(seed, 8, DType::F64)).collect()
}

/// Some rows of a batch, in this order.
fn rows(batch: &Inputs, which: &[usize]) -> Inputs {
    let Inputs::Images(x) = batch else { panic!("images") };
    let which: Vec<i64> = which.iter().map(|&row| row as i64).collect();
    Inputs::Images(x.clone().select(0, Tensor::<1, Int>::from_data(TensorData::from(which.as_slice()), &x.device())))
}

fn flat(params: &Params) -> Vec<f64> {
    params.iter().flat_map(|(_, tensor)| tensor.to_f64s()).collect()
}

fn numbers(logits: Tensor<2>) -> Vec<f64> {
    AnyTensor::from(logits).to_f64s()
}

/// The largest difference.
fn far(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// What a run leaves.
struct Left {
    /// The logits of each batch.
    logits: Vec<Vec<f64>>,
    /// The trained tensors, one after another.
    params: Vec<f64>,
    /// Rows in passes back since the preparation.
    kept: u64,
    /// What the method remembers.
    state: Params,
}

/// A method over some batches.
struct Run<'a> {
    model: &'a Resnet,
    adapter: &'a str,
    optimiser: &'a dyn AnyOptimiser,
    reference: &'a [Inputs],
    labels: &'a [Vec<usize>],
}

impl<'a> Run<'a> {
    fn new(model: &'a Resnet, optimiser: &'a dyn AnyOptimiser) -> Self {
        Self { model, adapter: "norm_tuning", optimiser, reference: &[], labels: &[] }
    }

    fn stream(&self, method: &'a dyn AnyTestTime) -> acclimate_core::Result<Stream<'a>> {
        let host = Host::new(self.model, patch(self.model, self.adapter))?.reference(self.reference);
        let host = if self.labels.is_empty() { host } else { host.labels(self.labels)? };
        Stream::new(method, host.optimiser(self.optimiser)?, Reset::Never)
    }

    fn over(&self, method: &'a dyn AnyTestTime, batches: &[Inputs]) -> Left {
        let mut stream = self.stream(method).unwrap();
        let before = stream.host().counts().backward_rows;
        let logits = batches.iter().map(|batch| numbers(stream.step(batch).unwrap())).collect();
        let kept = stream.host().counts().backward_rows - before;
        Left { logits, params: flat(&stream.host().patch().params), kept, state: stream.save().tensors }
    }
}

fn start(model: &Resnet) -> Vec<f64> {
    flat(&patch(model, "norm_tuning").params)
}

/// A bound on entropies, as a share of the largest, that half of the rows of a first batch meet.
fn half(model: &Resnet, batch: &Inputs) -> f64 {
    let still = sgd(1e-300);
    let logits = &Run::new(model, &still).over(&Tent::default(), std::slice::from_ref(batch)).logits[0];
    let entropy = |z: &[f64]| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.iter().map(|z| -z.exp() / sum * (z - sum.ln())).sum::<f64>()
    };
    let mut entropies: Vec<f64> = logits.chunks(3).map(entropy).collect();
    entropies.sort_by(f64::total_cmp);
    f64::midpoint(entropies[3], entropies[4]) / 3f64.ln()
}

fn eta() -> Eata {
    Eata { fisher: 0.0, entropy_share: ALL, similarity: ALL, ..Eata::default() }
}

#[test]
fn eata_changes_nothing_where_no_row_is_sure() {
    let (model, adam) = (tiny::resnet(0, DType::F64), adam());
    let strict = Eata { entropy_share: 1e-9, ..eta() };
    let left = Run::new(&model, &adam).over(&strict, &batches(DType::F64));
    assert_eq!(left.kept, 0);
    assert_eq!(left.params, start(&model));
}

#[test]
fn eata_pulls_nowhere_at_the_start() {
    let (model, sgd, reference) = (tiny::resnet(0, DType::F64), sgd(0.01), reference());
    let run = Run { reference: &reference, ..Run::new(&model, &sgd) };
    let one = &batches(DType::F64)[..1];
    let with = Eata { fisher: 1e6, ..eta() };
    assert_eq!(run.over(&with, one).params, run.over(&eta(), one).params);
}

#[test]
fn eata_pulls_back_by_twice_weight_importance_and_distance() {
    let (model, sgd, reference) = (tiny::resnet(0, DType::F64), sgd(0.01), reference());
    let run = Run { reference: &reference, ..Run::new(&model, &sgd) };
    let two = &batches(DType::F64)[..2];
    let (with, without) = (Eata { fisher: 3.0, ..eta() }, eta());
    let (first, second) = (run.over(&without, &two[..1]).params, run.over(&without, two).params);
    let left = run.over(&with, two);
    let fisher = left.state.iter().filter(|(name, _)| name.starts_with("method:fisher/"));
    let fisher: Vec<f64> = fisher.flat_map(|(_, f)| f.to_f64s()).collect();
    let start = start(&model);
    let pulled = |j: usize| second[j] - 0.01 * 2.0 * 3.0 * fisher[j] * (first[j] - start[j]);
    let expected: Vec<f64> = (0..start.len()).map(pulled).collect();
    // Some hundred roundings in f64 of numbers near one.
    assert!(far(&left.params, &expected) < 1e-13);
}

#[test]
fn rows_are_at_least_as_important_as_their_batch() {
    let (model, sgd, reference) = (tiny::resnet(0, DType::F64), sgd(0.01), reference());
    let run = Run { reference: &reference, ..Run::new(&model, &sgd) };
    let fisher = |squares| {
        let method = Eata { squares, ..Eata::default() };
        let state = run.stream(&method).unwrap().save().tensors;
        let fisher = state.iter().filter(|(name, _)| name.starts_with("method:fisher/"));
        fisher.flat_map(|(_, f)| f.to_f64s()).collect::<Vec<_>>()
    };
    let (by_row, by_batch) = (fisher(Squares::Row), fisher(Squares::Batch));
    // The mean of squares is no less than the square of the mean.
    assert!(by_row.iter().zip(&by_batch).all(|(row, batch)| *batch >= 0.0 && row * (1.0 + 1e-12) >= *batch));
    assert!(by_row.iter().sum::<f64>() > 1.5 * by_batch.iter().sum::<f64>());
}

#[test]
fn eata_remembers_probabilities_of_kept_rows_and_counts_them() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let picky = Eata { entropy_share: 0.9, similarity: 0.9, ..eta() };
    let left = Run::new(&model, &adam).over(&picky, &batches);
    let mean = left.state.any("method:mean/probabilities").unwrap().to_f64s();
    assert!((mean.iter().sum::<f64>() - 1.0).abs() < 1e-12 && mean.iter().all(|p| *p > 0.0), "{mean:?}");
    assert!((1..40).contains(&left.kept), "{}", left.kept);
    assert_eq!(Run::new(&model, &adam).over(&eta(), &batches).kept, 40);
}

#[test]
fn left_out_rows_leave_no_trace_without_statistics_of_the_batch() {
    let model = tiny::resnet_with(Norm::Group(4), 0, DType::F64);
    let (sgd, batch) = (sgd(0.1), &batches(DType::F64)[0]);
    let picky = Eata { entropy_share: half(&model, batch), ..eta() };
    let run = Run::new(&model, &sgd);
    let whole = run.over(&picky, std::slice::from_ref(batch));
    let sure: Vec<usize> = (0..8).filter(|row| run.over(&picky, &[rows(batch, &[*row])]).kept == 1).collect();
    assert_eq!(sure.len(), 4);
    let part = run.over(&picky, &[rows(batch, &sure)]);
    // Two orders of a sum over eight rows in f64.
    assert!(far(&whole.params, &part.params) < 1e-13);
}

#[test]
fn a_mean_over_the_batch_makes_a_smaller_step() {
    let (model, sgd, batch) = (tiny::resnet(0, DType::F64), sgd(0.1), &batches(DType::F64)[..1]);
    let entropy_share = half(&model, &batch[0]);
    let moved = |share| {
        let left = Run::new(&model, &sgd).over(&Eata { entropy_share, share, ..eta() }, batch);
        let step: Vec<f64> = left.params.iter().zip(start(&model)).map(|(now, before)| now - before).collect();
        (step, left.kept)
    };
    let ((kept, rows), (all, _)) = (moved(Share::Kept), moved(Share::Batch));
    assert_eq!(rows, 4);
    let expected: Vec<f64> = kept.iter().map(|step| step / 2.0).collect();
    assert!(far(&all, &expected) < 1e-14);
}

#[test]
fn a_penalty_without_reference_batches_is_refused() {
    let (model, adam, method) = (tiny::resnet(0, DType::F64), adam(), Eata::default());
    let refused = Run::new(&model, &adam).stream(&method).err().unwrap().to_string();
    assert!(refused.contains("`fisher = 0`"), "{refused}");
}

fn teaching(objective: Teaching) -> SelfLearning {
    SelfLearning { objective, ..SelfLearning::default() }
}

#[test]
fn self_learning_by_entropy_is_tent() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = Run::new(&model, &adam);
    let (one, two) = (run.over(&teaching(Teaching::Entropy), &batches), run.over(&Tent::default(), &batches));
    assert_eq!(one.params, two.params);
    assert_eq!(one.logits, two.logits);
}

#[test]
fn a_forgiving_row_pulls_by_its_confidence() {
    let model = tiny::resnet_with(Norm::Group(4), 0, DType::F64);
    let (sgd, batch) = (sgd(0.1), [rows(&batches(DType::F64)[0], &[3])]);
    let run = Run::new(&model, &sgd);
    let step = |method: &SelfLearning| -> Vec<f64> {
        run.over(method, &batch).params.iter().zip(start(&model)).map(|(now, before)| now - before).collect()
    };
    let logits = &run.over(&teaching(Teaching::Robust), &batch).logits[0];
    let sure = 1.0 / logits.iter().map(|z| (z - logits.iter().copied().fold(f64::MIN, f64::max)).exp()).sum::<f64>();
    let hard = step(&teaching(Teaching::PseudoLabel));
    for q in [0.2, 0.8, 1.0] {
        let expected: Vec<f64> = hard.iter().map(|step| step * sure.powf(q)).collect();
        let robust = step(&SelfLearning { q, ..SelfLearning::default() });
        assert!(far(&robust, &expected) < 1e-13, "q = {q}");
    }
}

#[test]
fn soft_labels_of_equal_temperature_are_refused() {
    let same = SelfLearning { temperature: 1.0, ..teaching(Teaching::SoftLabel) };
    let refused = acclimate_core::Method::check(&same).err().unwrap().to_string();
    assert!(refused.contains("temperature"), "{refused}");
}

#[test]
fn ostta_keeps_every_row_of_the_first_batch() {
    for dtype in [DType::F64, DType::F32] {
        let (model, adam, batches) = (tiny::resnet(0, dtype), adam(), batches(dtype));
        let run = Run::new(&model, &adam);
        let left = run.over(&Ostta::default(), &batches[..1]);
        assert_eq!(left.kept, 8);
        // Every row has the weight one.
        assert!(far(&left.params, &run.over(&Tent::default(), &batches[..1]).params) < 1e-6);
    }
}

#[test]
fn ostta_keeps_rows_that_nothing_has_moved() {
    let (model, still, batches) = (tiny::resnet(0, DType::F64), sgd(1e-300), batches(DType::F64));
    assert_eq!(Run::new(&model, &still).over(&Ostta::default(), &batches).kept, 40);
}

#[test]
fn ostta_drops_rows_that_lost_certainty() {
    let (model, quick, batches) = (tiny::resnet(0, DType::F64), sgd(0.3), batches(DType::F64));
    let left = Run::new(&model, &quick).over(&Ostta::default(), &batches);
    assert!((8..40).contains(&left.kept), "{}", left.kept);
    // Who is kept at the second batch, from its logits before and after the first step.
    let still = sgd(1e-300);
    let before = &Run::new(&model, &still).over(&Ostta::default(), &batches).logits[1];
    let sure = |logits: &[f64], class: usize| logits[class].exp() / logits.iter().map(|z| z.exp()).sum::<f64>();
    let kept = before.chunks(3).zip(left.logits[1].chunks(3)).filter(|(before, now)| {
        let class = (0..3).max_by(|&a, &b| before[a].total_cmp(&before[b])).unwrap();
        sure(now, class) >= sure(before, class)
    });
    let two = Run::new(&model, &quick).over(&Ostta::default(), &batches[..2]);
    assert_eq!(two.kept, 8 + kept.count() as u64);
}

fn everything<'a>(model: &'a Resnet, optimiser: &'a dyn AnyOptimiser) -> Run<'a> {
    Run { adapter: "full", ..Run::new(model, optimiser) }
}

/// CoTTA that follows at once, sets nothing back and makes no views.
fn cotta() -> Cotta {
    Cotta { momentum: 0.0, restore: 0.0, confidence: 0.0, augmentations: 2, low: -4.0, high: 4.0, ..Cotta::default() }
}

#[test]
fn a_teacher_that_keeps_all_of_itself_predicts_as_at_the_start() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = everything(&model, &adam);
    let left = run.over(&Cotta { momentum: 1.0, ..cotta() }, &batches);
    assert_eq!(left.logits, run.over(&BatchStatistics::default(), &batches).logits);
    assert_ne!(left.params, flat(&patch(&model, "full").params));
}

#[test]
fn restoring_all_gives_back_the_start() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let left = everything(&model, &adam).over(&Cotta { restore: 1.0, ..cotta() }, &batches);
    assert_eq!(left.params, flat(&patch(&model, "full").params));
}

#[test]
fn restoring_sets_back_its_share_of_numbers() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let left = everything(&model, &adam).over(&Cotta { restore: 0.25, ..cotta() }, &batches[..1]);
    let start = flat(&patch(&model, "full").params);
    let back = left.params.iter().zip(&start).filter(|(now, start)| now == start).count() as f64;
    let count = start.len() as f64;
    // Four standard deviations of a binomial count.
    assert!((back - 0.25 * count).abs() < 4.0 * (count * 0.25 * 0.75).sqrt(), "{back} of {count}");
}

#[test]
fn a_teacher_is_a_weighted_sum_of_its_students() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let (run, method) = (everything(&model, &adam), Cotta { momentum: 0.7, ..cotta() });
    let mut stream = run.stream(&method).unwrap();
    let mut expected: Vec<f64> = flat(&patch(&model, "full").params).iter().map(|x| 0.7f64.powi(5) * x).collect();
    for (step, batch) in (1..).zip(&batches) {
        stream.step(batch).unwrap();
        let weight = 0.3 * 0.7f64.powi(5 - step);
        expected.iter_mut().zip(flat(&stream.host().patch().params)).for_each(|(sum, x)| *sum += weight * x);
    }
    let state = stream.save().tensors;
    let teacher = state.iter().filter(|(name, _)| name.starts_with("method:teacher/"));
    // Five roundings in f64 of numbers near one.
    assert!(far(&teacher.flat_map(|(_, t)| t.to_f64s()).collect::<Vec<_>>(), &expected) < 1e-14);
}

#[test]
fn views_are_made_where_the_unadapted_model_is_unsure() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = everything(&model, &adam);
    let forwards = |confidence, unsure| {
        let method = Cotta { confidence, unsure, augmentations: 3, ..cotta() };
        let mut stream = run.stream(&method).unwrap();
        stream.step(&batches[0]).unwrap();
        stream.host().counts().forwards
    };
    // The start, the teacher and the student; or the start, three views and the student; or all of them.
    assert_eq!((forwards(0.0, Unsure::Batch), forwards(1.0, Unsure::Batch)), (3, 5));
    assert_eq!((forwards(0.0, Unsure::Row), forwards(1.0, Unsure::Row)), (3, 5));
    let between = forwards(0.0, Unsure::Row)..=6;
    assert!((1..20).map(|at| forwards(f64::from(at) / 20.0, Unsure::Row)).all(|count| between.contains(&count)));
    assert!((1..20).any(|at| forwards(f64::from(at) / 20.0, Unsure::Row) == 6));
}

#[test]
fn inputs_that_are_no_images_have_no_views() {
    let bert = tiny::bert(0, DType::F64);
    let mut patch = Patch::new();
    let full = acclimate_peft::build("norm_tuning", &toml::Table::new()).unwrap();
    acclimate_peft::place(&mut patch, &bert, "norm_tuning", full, None, &mut Rng::new(0, "patch", 0)).unwrap();
    patch.add_head(&bert, 3, acclimate_core::HeadStart::Zero, &mut Rng::new(0, "head", 0));
    let (adam, method) = (adam(), Cotta { confidence: 1.0, ..cotta() });
    let mut stream =
        Stream::new(&method, Host::new(&bert, patch).unwrap().optimiser(&adam).unwrap(), Reset::Never).unwrap();
    let refused = stream.step(&tiny::tokens(0, &[3, 4], DType::F64)).err().unwrap().to_string();
    assert!(refused.contains("no images"), "{refused}");
}

/// RMT on classes of the reference rows in turn.
fn classes() -> Vec<Vec<usize>> {
    vec![(0..8).map(|row| row % 3).collect(); 3]
}

fn rmt() -> Rmt {
    Rmt { projection: 0, low: -4.0, high: 4.0, ..Rmt::default() }
}

#[test]
fn rmt_predicts_twice_the_start_at_first() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let (reference, labels) = (reference(), classes());
    let run = Run { reference: &reference, labels: &labels, ..everything(&model, &adam) };
    let twice: Vec<f64> =
        run.over(&BatchStatistics::default(), &batches[..1]).logits[0].iter().map(|z| 2.0 * z).collect();
    assert_eq!(run.over(&rmt(), &batches[..1]).logits[0], twice);
}

#[test]
fn prototypes_are_means_of_classes() {
    let (model, adam, reference, labels) = (tiny::resnet(0, DType::F64), adam(), reference(), classes());
    let run = Run { reference: &reference, labels: &labels, ..everything(&model, &adam) };
    let method = rmt();
    let stream = run.stream(&method).unwrap();
    let prototypes = stream.save().tensors.any("method:features/prototypes").unwrap().to_f64s();
    let mut host = Host::new(&model, Patch::new()).unwrap();
    let mut sums = vec![0.0; 3 * 16];
    for batch in &reference {
        let features = numbers(host.forward(batch).unwrap().features);
        for (row, feature) in features.chunks(16).enumerate() {
            sums[row % 3 * 16..][..16].iter_mut().zip(feature).for_each(|(sum, x)| *sum += x);
        }
    }
    let counts = [9.0, 9.0, 6.0];
    let means: Vec<f64> = sums.iter().enumerate().map(|(at, sum)| sum / counts[at / 16]).collect();
    assert!(far(&prototypes, &means) < 1e-13);
}

#[test]
fn without_labels_there_are_no_prototypes() {
    let (model, adam, reference) = (tiny::resnet(0, DType::F64), adam(), reference());
    let method = rmt();
    let refused = |labels: &[Vec<usize>]| {
        let run = Run { reference: &reference, labels, ..everything(&model, &adam) };
        run.stream(&method).err().unwrap().to_string()
    };
    assert!(refused(&[]).contains("with their classes"));
    assert!(refused(&vec![vec![0; 8]; 3]).contains("class 1, of which there is no row"));
    assert!(refused(&vec![vec![3; 8]; 3]).contains("counted from 0"));
}

#[test]
fn a_reset_brings_back_the_projection() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let (reference, labels) = (reference(), classes());
    let run = Run { reference: &reference, labels: &labels, ..everything(&model, &adam) };
    let method = Rmt { projection: 4, ..rmt() };
    let mut stream = run.stream(&method).unwrap();
    let before = stream.host().own().fingerprint();
    stream.step(&batches[0]).unwrap();
    assert_ne!(stream.host().own().fingerprint(), before);
    stream.reset().unwrap();
    assert_eq!(stream.host().own().fingerprint(), before);
}

#[test]
fn both_ratios_are_one_for_one_row() {
    let model = tiny::resnet_with(Norm::Group(4), 0, DType::F64);
    let (sgd, reference, labels, batch) = (sgd(0.01), reference(), classes(), &batches(DType::F64)[0]);
    let run = Run { reference: &reference, labels: &labels, ..Run::new(&model, &sgd) };
    let one = [rows(batch, &[2])];
    for covariance in [Covariance::Full, Covariance::Tied, Covariance::Diagonal] {
        let moved = |ratio| run.over(&Cafa { covariance, ratio, ..Cafa::default() }, &one).params;
        // Gradients of a logarithm of a ratio and of a difference of logarithms.
        assert!(far(&moved(Ratio::Means), &moved(Ratio::Rows)) < 1e-12);
    }
}

#[test]
fn a_class_of_one_row_has_no_covariance_of_its_own() {
    let (model, adam, reference) = (tiny::resnet(0, DType::F64), adam(), reference());
    let labels = [vec![0, 1, 1, 1, 2, 2, 2, 2], vec![1; 8], vec![2; 8]];
    let run = Run { reference: &reference, labels: &labels, ..Run::new(&model, &adam) };
    let (full, tied) = (Cafa::default(), Cafa { covariance: Covariance::Tied, ..Cafa::default() });
    let refused = run.stream(&full).err().unwrap().to_string();
    assert!(refused.contains("class 0") && refused.contains("tied"), "{refused}");
    assert!(run.stream(&tied).is_ok());
}

/// GALA that lets every layer move.
fn open() -> Gala {
    Gala { threshold: -2.0, layers: Layers::All, warm_up: 1, ..Gala::default() }
}

#[test]
fn gala_that_lets_all_layers_move_is_its_base() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = Run::new(&model, &adam);
    let base = run.over(&teaching(Teaching::PseudoLabel), &batches).params;
    assert_eq!(run.over(&open(), &batches).params, base);
    // At the first step of a window all layers move, too.
    let always = Gala { window: 1, warm_up: 1, threshold: 1.0, ..Gala::default() };
    assert_eq!(run.over(&always, &batches).params, base);
    let entropy = Gala { objective: Objective::Entropy, ..open() };
    assert_eq!(run.over(&entropy, &batches).params, run.over(&Tent::default(), &batches).params);
}

#[test]
fn where_no_layer_agrees_nothing_moves_until_the_next_window() {
    let (model, sgd, batches) = (tiny::resnet(0, DType::F64), sgd(0.05), batches(DType::F64));
    let method = Gala { threshold: 1.0, window: 3, ..Gala::default() };
    let run = Run::new(&model, &sgd);
    let mut stream = run.stream(&method).unwrap();
    let after: Vec<String> = batches
        .iter()
        .map(|batch| {
            stream.step(batch).unwrap();
            stream.host().patch().params.fingerprint()
        })
        .collect();
    assert!(after[0] == after[1] && after[1] == after[2] && after[2] != after[3] && after[3] == after[4]);
    assert_eq!(stream.host().updates(), 2);
}

#[test]
fn one_layer_moves_at_a_step() {
    let (model, sgd, batches) = (tiny::resnet(0, DType::F64), sgd(0.05), batches(DType::F64));
    let run = everything(&model, &sgd);
    let method = Gala { threshold: -2.0, ..Gala::default() };
    let mut stream = run.stream(&method).unwrap();
    stream.step(&batches[0]).unwrap();
    for batch in &batches[1..] {
        let before = stream.host().patch().params.clone();
        stream.step(batch).unwrap();
        let now = stream.host().patch().params.clone();
        let moved = before.iter().zip(now.iter()).filter(|((_, a), (_, b))| a.to_f64s() != b.to_f64s());
        let mut sites: Vec<&str> = moved.map(|((name, _), _)| name.split(".full").next().unwrap()).collect();
        sites.dedup();
        assert_eq!(sites.len(), 1, "{sites:?}");
    }
}

#[test]
fn recap_without_a_region_is_tent() {
    let (model, sgd, batches, reference) = (tiny::resnet(0, DType::F64), sgd(0.05), batches(DType::F64), reference());
    let run = Run { reference: &reference, ..Run::new(&model, &sgd) };
    let point = run.over(&Recap { region: 0.0, entropy_share: 0.0, ..Recap::default() }, &batches);
    // Two forms of one gradient over five steps in f64.
    assert!(far(&point.params, &run.over(&Tent::default(), &batches).params) < 1e-12);
    assert_eq!(point.kept, 40);
}

#[test]
fn recap_keeps_rows_whose_region_is_sure() {
    let (model, sgd, batches, reference) = (tiny::resnet(0, DType::F64), sgd(0.05), batches(DType::F64), reference());
    let run = Run { reference: &reference, ..Run::new(&model, &sgd) };
    let kept = |entropy_share| run.over(&Recap { entropy_share, ..Recap::default() }, &batches[..1]).kept;
    assert_eq!((kept(1e-9), kept(ALL)), (0, 8));
    assert!((1..20).any(|at| (1..8).contains(&kept(0.1 * f64::from(at)))));
}

#[test]
fn recap_without_reference_batches_is_refused() {
    let (model, adam, method) = (tiny::resnet(0, DType::F64), adam(), Recap::default());
    let refused = Run::new(&model, &adam).stream(&method).err().unwrap().to_string();
    assert!(refused.contains("like those of training"), "{refused}");
}

#[test]
fn sar_with_a_small_radius_is_tent_on_sure_rows() {
    let model = tiny::resnet_with(Norm::Group(4), 0, DType::F64);
    let (sgd, batches) = (sgd(0.05), batches(DType::F64));
    let run = Run::new(&model, &sgd);
    let near = run.over(&Sar { entropy_share: ALL, radius: 1e-9, recovery: 0.0 }, &batches);
    assert_eq!(near.kept, 80);
    // The gradient at a place 1e-9 away.
    assert!(far(&near.params, &run.over(&Tent::default(), &batches).params) < 1e-8);
}

#[test]
fn sar_starts_anew_where_predictions_are_too_sure() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let method = Sar { entropy_share: ALL, recovery: ALL, ..Sar::default() };
    let left = Run::new(&model, &adam).over(&method, &batches);
    assert_eq!(left.params, start(&model));
    assert_eq!(left.kept, 80);
}

#[test]
fn sar_changes_nothing_where_no_row_is_sure() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let left = Run::new(&model, &adam).over(&Sar { entropy_share: 1e-9, ..Sar::default() }, &batches);
    assert_eq!((left.kept, left.params), (0, start(&model)));
}

#[test]
fn shot_without_its_terms_is_tent() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = Run::new(&model, &adam);
    let bare = run.over(&Shot { diversity: 0.0, pseudo_label: 0.0 }, &batches);
    // A term of weight zero adds zeros to the gradient.
    assert!(far(&bare.params, &run.over(&Tent::default(), &batches).params) < 1e-13);
}

#[test]
fn roid_that_keeps_nothing_of_a_step_stays_at_the_start() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let method = Roid { momentum: 0.0, prior: 0.0, low: -4.0, high: 4.0, ..Roid::default() };
    let run = Run::new(&model, &adam);
    let left = run.over(&method, &batches);
    assert_eq!(left.params, start(&model));
    assert_eq!(left.logits, run.over(&BatchStatistics::default(), &batches).logits);
    assert!((5..40).contains(&left.kept));
}

#[test]
fn a_prior_favours_the_class_that_is_predicted_most() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = Run::new(&model, &adam);
    let said = |prior| run.over(&Roid { prior, consistency: 0.0, ..Roid::default() }, &batches[..1]).logits[0].clone();
    let (plain, corrected) = (said(0.0), said(2.0));
    let share = |logits: &[f64]| {
        let mut mean = [0.0; 3];
        for z in logits.chunks(3) {
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            mean.iter_mut().zip(z).for_each(|(mean, z)| *mean += z.exp() / sum / 8.0);
        }
        mean
    };
    let (before, after) = (share(&plain), share(&corrected));
    let most = (0..3).max_by(|&a, &b| before[a].total_cmp(&before[b])).unwrap();
    let least = (0..3).min_by(|&a, &b| before[a].total_cmp(&before[b])).unwrap();
    assert!(after[most] > before[most] && after[least] < before[least], "{before:?} {after:?}");
}

#[test]
fn deyo_keeps_fewer_rows_the_further_they_must_fall() {
    let (model, still, batches) = (tiny::resnet(0, DType::F64), sgd(1e-300), batches(DType::F64));
    let run = Run::new(&model, &still);
    let kept = |drop| run.over(&Deyo { entropy_share: ALL, drop, ..Deyo::default() }, &batches).kept;
    assert_eq!((kept(-1.0), kept(1.0)), (40, 0));
    let some = kept(0.0);
    assert!((1..40).contains(&some) && kept(0.2) < some, "{some}");
}

#[test]
fn deyo_looks_again_only_where_a_row_is_sure() {
    let (model, adam, batches) = (tiny::resnet(0, DType::F64), adam(), batches(DType::F64));
    let run = Run::new(&model, &adam);
    let rows = |entropy_share| {
        let method = Deyo { entropy_share, ..Deyo::default() };
        let mut stream = run.stream(&method).unwrap();
        stream.step(&batches[0]).unwrap();
        stream.host().counts().forward_rows
    };
    assert_eq!((rows(1e-9), rows(ALL)), (8, 16));
    assert_eq!(rows(half(&model, &batches[0])), 12);
}
