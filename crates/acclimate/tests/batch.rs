//! Batches that grow during a run, and gradients that are summed as projections.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

mod common;

use acclimate::Recipe;
use acclimate::core::{AnyTensor, Pass, Patch, Source};
use acclimate::dataset::{Loaded, divide, fit_task};
use acclimate::encode::Encoded;
use acclimate::models::Base;
use acclimate::optim::StateForm;
use acclimate::quickstart::Digits;
use acclimate::recipe::TaskKind;
use acclimate::run::Event;
use acclimate::tasks::{Prepared, TaskSpec};
use acclimate::train::{Progress, StepLine, Trained, Trainer, predict_all};
use acclimate::tune::{Session, optimiser, tune};
use acclimate_data::Examples;
use burn::tensor::{DType, Device};
use common::{WORDS, bert, recipe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The network and the other hand's digits of the quickstart.
fn digits(more: &str) -> (Session, Recipe) {
    let recipe = Recipe::from_table(&format!("model = 'm'\ndata = 'd'\n{more}").parse().unwrap()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/resnet-mnist8");
    let all = Digits::Optdigits.read().unwrap();
    let names = all.labels.names().to_vec();
    let parts = divide(all, None, &recipe).unwrap();
    let model = acclimate::models::load(&folder, Base::Packed, &Device::flex()).unwrap();
    let spec = TaskSpec { kind: TaskKind::Classification, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
    let task = fit_task(spec, &parts.train.labels, false);
    let prepared = |examples: &Examples| Prepared {
        left: Encoded::new(&examples.inputs, (None, None), Some([1, 8, 8]), task.kind()).unwrap(),
        right: None,
        labels: Some(examples.labels.clone()),
    };
    let (train, test) = (prepared(&parts.train), parts.test.as_ref().map(prepared));
    let loaded = Loaded { model, tokenizer: None, template: None };
    (Session { loaded, task, parts, train, test, dropped: 0 }, recipe)
}

/// Trains on all rows, interrupted every so many steps where a folder keeps the run.
fn train(session: &Session, recipe: &Recipe, parts: Option<(&Path, usize)>) -> Trained {
    let rows: Vec<usize> = (0..session.train.left.len()).collect();
    let optimiser = optimiser(recipe).unwrap();
    loop {
        let (stop, mut steps) = (AtomicBool::new(false), 0);
        let trainer = Trainer {
            model: session.loaded.model.as_ref(),
            task: session.task.as_ref(),
            data: &session.train,
            recipe,
            optimiser: optimiser.as_ref(),
            normaliser: &Source,
            stop: &stop,
        };
        let start = session.start(recipe, &rows).unwrap();
        let folder = parts.map(|(folder, _)| folder);
        let mut count = |progress: Progress<'_>| {
            steps += 1;
            stop.store(parts.is_some_and(|(_, stretch)| steps == stretch), Ordering::Relaxed);
            assert!(progress.step <= progress.total);
        };
        let trained = trainer.train(start, &rows, &[], "final", folder, &mut count).unwrap();
        if !trained.interrupted {
            return trained;
        }
    }
}

fn accuracy(session: &Session, patch: &Patch) -> f64 {
    let test = session.test.as_ref().unwrap();
    let rows: Vec<usize> = (0..test.left.len()).collect();
    let task = session.task.as_ref();
    let said = predict_all(session.loaded.model.as_ref(), task, test, &rows, &Pass::new(patch)).unwrap();
    task.score(&said.iter().collect::<Vec<_>>(), test.labels().unwrap())
}

fn logged(line: &StepLine, name: &str) -> Option<f64> {
    line.log.iter().find(|(found, _)| found == name).map(|(_, x)| *x)
}

fn sizes(trained: &Trained) -> Vec<f64> {
    trained.history.steps.iter().map(|line| logged(line, "batch_size").unwrap()).collect()
}

/// AdAdaGradNorm on a few digits, from a head of zeros.
fn grown(more: &str) -> (Session, Recipe) {
    digits(&format!("head = 'zero'\n{more}\n[optim]\nmethod = 'adagrad_norm'\n[batch]\ntest = 'norm'"))
}

// Two runs of a length at which the digits are learnt: some seconds.
#[test]
fn far_fewer_steps_of_a_growing_batch_reach_the_accuracy_of_many_small_ones() {
    let (session, recipe) = grown("train_rows = 400\nepochs = 10");
    let small = Recipe { batch: Default::default(), ..recipe.clone() };
    let [(few, large), (many, reached)] = [&recipe, &small].map(|recipe| {
        let trained = train(&session, recipe, None);
        (trained.history.steps.len(), accuracy(&session, &trained.patch))
    });
    assert!(5 * few <= many, "{few} steps of {many}");
    // Two standard errors of the difference between two runs on 359 digits, of which one in forty is missed.
    assert!((large - reached).abs() < 0.025 && reached > 0.95, "{large} in place of {reached}");
}

#[test]
fn a_growing_run_in_parts_equals_one_in_one_go() {
    let (session, recipe) = grown("train_rows = 200\nepochs = 4\n[adapter]\ndropout = 0.2");
    let whole = train(&session, &recipe, None);
    assert!(sizes(&whole).last() > sizes(&whole).first(), "{:?}", sizes(&whole));
    for stretch in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let parts = train(&session, &recipe, Some((folder.path(), stretch)));
        assert_eq!(parts.history, whole.history);
        assert_eq!(parts.patch.params.fingerprint(), whole.patch.params.fingerprint());
    }
}

#[test]
fn every_row_is_read_once_an_epoch_and_the_schedule_goes_by_rows() {
    let (session, recipe) = grown("train_rows = 208\nepochs = 5\nwarmup = 0.1");
    let trained = train(&session, &recipe, None);
    let (mut read, mut batch) = (0.0, 0.0);
    for line in &trained.history.steps {
        let expected = recipe.schedule.at(read as u64 / 16 + 1, 5 * 208 / 16, 0.1);
        assert_eq!(line.multiplier, expected, "{line:?}");
        let rows = logged(line, "batch_size").unwrap();
        // Only an epoch's last batch is smaller than the one before.
        assert!(rows >= batch || (read + rows) % 208.0 == 0.0, "{:?}", sizes(&trained));
        assert!(read % 208.0 + rows <= 208.0 && rows % 16.0 == 0.0, "{:?}", sizes(&trained));
        (read, batch) = (read + rows, rows.max(batch));
    }
    assert_eq!(read, 5.0 * 208.0);
}

#[test]
fn the_batch_stays_below_the_largest_and_is_not_tested_there() {
    let (session, mut recipe) = grown("train_rows = 208\nepochs = 5");
    recipe.batch.most = Some(64);
    let trained = train(&session, &recipe, None);
    assert!(sizes(&trained).iter().copied().fold(0.0, f64::max) == 64.0, "{:?}", sizes(&trained));
    let wanted: Vec<Option<f64>> = trained.history.steps.iter().map(|line| logged(line, "batch_wanted")).collect();
    let (tested, rest) = wanted.split_at(wanted.iter().position(Option::is_none).unwrap());
    assert!(tested.last().unwrap().unwrap() >= 64.0 && !rest.is_empty(), "{wanted:?}");
    assert!(rest.iter().all(Option::is_none), "{wanted:?}");
}

/// Sixty rows of a subject and a verdict, in a folder with the tiny model.
fn words(dtype: DType) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    bert(folder.path(), dtype);
    let row = |n: usize| format!("{} {},{}\n", WORDS[2 + n % 9], WORDS[n % 2], 1 - n % 2);
    let rows: String = (0..60).map(row).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("text,label\n{rows}")).unwrap();
    folder
}

#[test]
fn a_test_that_always_passes_leaves_the_run_as_it_is() {
    let folder = words(DType::F64);
    let run = |more: &str| {
        let more = format!("epochs = 2\nhead = 'random'\n[optim]\nmethod = 'sgd'\nlr = 0.1\n{more}");
        let recipe = recipe(folder.path(), "rows.csv", "run", &more);
        train(&Session::open(&recipe).unwrap(), &recipe, None)
    };
    let plain = run("");
    for test in ["norm", "inner_product", "augmented", "coordinates"] {
        let tested = run(&format!("[batch]\ntest = '{test}'\neta = inf\ntheta = inf\nnu = inf"));
        assert_eq!(tested.history.steps.len(), plain.history.steps.len());
        let pairs = tested.patch.params.iter().zip(plain.patch.params.iter());
        let far = |((_, a), (_, b)): ((_, &AnyTensor), (_, &AnyTensor))| {
            a.to_f64s().into_iter().zip(b.to_f64s()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        // A dozen steps in f64, each with some thousand roundings: the batch is cut into eight.
        assert!(pairs.map(far).fold(0.0, f64::max) < 1e-11, "{test}");
    }
}

#[test]
fn report_and_events_draw_the_batch() {
    let folder = words(DType::F32);
    let more = "epochs = 4\nhead = 'zero'\nvalid_share = 0.2\n[gate]\nfolds = 0\n[batch]\ntest = 'norm'\ngrowth = inf";
    let recipe = recipe(folder.path(), "rows.csv", "run", more);
    let (mut last, mut total) = (0, 0);
    let mut on = |event: Event<'_>| {
        if let Event::Step(progress) = event {
            (last, total) = (progress.step, progress.total);
        }
    };
    tune(&recipe, &AtomicBool::new(false), &mut on).unwrap().unwrap();
    assert_eq!(last, total, "steps in all, once all are made");
    let page = std::fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!(page.contains("The batch that grows") && page.contains("8 at first"));
    let events = std::fs::read(folder.path().join("run").join(acclimate::events::FILE)).unwrap();
    let holds = |tag: &str| events.windows(tag.len()).any(|part| part == tag.as_bytes());
    assert!(holds("optimiser/batch_size") && holds("optimiser/batch_wanted") && holds("held_out/accuracy"));
}

#[test]
fn rows_that_are_judged_beside_each_other_are_refused() {
    let folder = words(DType::F32);
    let rows: String = (0..60).map(|n| format!("{0} {1},{1}\n", WORDS[n % 12], WORDS[n / 5])).collect();
    std::fs::write(folder.path().join("pairs.csv"), format!("text,pair\n{rows}")).unwrap();
    let more = "task = 'retrieval'\npair = 'pair'\n[batch]\ntest = 'norm'";
    let error = Session::open(&recipe(folder.path(), "pairs.csv", "run", more)).err().unwrap().to_string();
    assert!(error.contains("`batch.test` needs a loss that is a mean over rows"), "{error}");
}

/// All weights, in steps of four micro-batches.
fn summed(rank: usize) -> (Session, Recipe) {
    let more = "head = 'zero'\ntrain_rows = 64\nepochs = 3\naccumulate = 4";
    digits(&format!(
        "{more}\naccumulate_rank = {rank}\n[adapter]\nmethod = 'full'\n[optim]\nmethod = 'adamw'\nlr = 0.003"
    ))
}

#[test]
fn projections_wider_than_the_gradients_sum_them_bit_for_bit() {
    let [whole, wide, narrow] = [0, 1 << 20, 2].map(|rank| {
        let (session, recipe) = summed(rank);
        train(&session, &recipe, None).patch.params.fingerprint()
    });
    assert_eq!(wide, whole);
    assert_ne!(narrow, whole);
}

#[test]
fn a_run_with_projections_and_a_rounded_state_in_parts_equals_one_in_one_go() {
    let (session, mut recipe) = summed(2);
    recipe.optim.state = StateForm::Bf16;
    let whole = train(&session, &recipe, None);
    assert!(whole.history.steps.last().unwrap().loss < whole.history.steps[0].loss);
    let folder = tempfile::tempdir().unwrap();
    let parts = train(&session, &recipe, Some((folder.path(), 5)));
    assert_eq!(parts.patch.params.fingerprint(), whole.patch.params.fingerprint());
}

#[test]
fn a_test_of_the_batch_refuses_projections() {
    let error = Recipe::from_table(&"accumulate_rank = 2\n[batch]\ntest = 'norm'".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("`batch.test` needs whole gradients"));
}
