//! Every kind of task from its rows to a patch that answers, and what the gate and the trainer promise.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

mod common;

use acclimate::Recipe;
use acclimate::core::{Model, Params, Pass, Patch, Rng, SiteKind, Source, total, write_safetensors};
use acclimate::dataset::{Loaded, Parts, fit_task};
use acclimate::gate::Candidate;
use acclimate::models::{Base, Norm, tiny};
use acclimate::recipe::TaskKind;
use acclimate::saved::Answering;
use acclimate::tasks::TaskSpec;
use acclimate::train::{Trained, Trainer, predict_all};
use acclimate::tune::{Finished, Session, optimiser, run};
use acclimate_data::{Examples, Inputs, Labels, split};
use burn::tensor::{DType, Device};
use common::{WORDS, bert, recipe};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A first estimate with which D-Adaptation is at work within a few dozen steps.
const QUICK: &str = "[optim]\nd0 = 1e-3\n";

fn setup() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    bert(folder.path(), DType::F32);
    folder
}

fn word(n: usize) -> &'static str {
    WORDS[n % WORDS.len()]
}

fn write_rows(folder: &Path, file: &str, rows: impl Iterator<Item = Value>) {
    let text: String = rows.map(|row| format!("{row}\n")).collect();
    std::fs::write(folder.join(file), text).unwrap();
}

/// Sixty rows of a subject and a verdict, of which the label is the verdict.
fn write_classes(folder: &Path, file: &str) {
    write_rows(
        folder,
        file,
        (0..60).map(|n| json!({"text": format!("{} {}", word(2 + n % 9), word(n % 2)), "label": word(n % 2)})),
    );
}

fn finish(session: &Session, recipe: &Recipe) -> Finished {
    run(session, recipe, &AtomicBool::new(false), &mut |_| ()).unwrap().unwrap()
}

/// The mean loss of a patch over all training rows.
fn loss(session: &Session, patch: &Patch) -> f64 {
    let rows: Vec<usize> = (0..session.train.left.len()).collect();
    total(vec![session.task.loss(session.loaded.model.as_ref(), &session.train, &rows, &Pass::new(patch)).unwrap()])
}

fn numbers(params: &Params) -> Vec<f64> {
    params.iter().flat_map(|(_, tensor)| tensor.to_f64s()).collect()
}

/// What must hold for any kind of task: gradients reach all that is trained, training lowers the loss, and the saved patch gives the
/// answers of the run.
fn holds(session: &Session, recipe: &Recipe) -> Answering {
    let (model, rows) = (session.loaded.model.as_ref(), (0..session.train.left.len()).collect::<Vec<_>>());
    let start = session.start(recipe, &rows).unwrap();
    let tracked = start.tracked();
    let first = session.task.loss(model, &session.train, &rows, &Pass::new(&tracked)).unwrap();
    assert!(first.is_tracked());
    let gradients = tracked.params.gradients(&mut first.backward());
    assert!(gradients.is_finite() && gradients.norm() > 0.0);

    let Finished { summary, patch, .. } = finish(session, recipe);
    assert_eq!(summary.chosen, Candidate::Patch, "no folds, no gate");
    for (name, tensor) in patch.params.iter() {
        assert!(tensor.to_f64s() != start.params.any(name).unwrap().to_f64s(), "`{name}` has not moved");
    }
    let (before, after) = (loss(session, &start), loss(session, &patch));
    assert!(after < before, "{after} is not below {before}");
    for score in summary.candidates.iter().map(|candidate| candidate.test.unwrap()).chain(summary.gain) {
        assert!([score.value, score.low, score.high].iter().all(|x| x.is_finite()), "{summary:?}");
        assert!(score.low <= score.value && score.value <= score.high, "{summary:?}");
    }
    assert!(summary.metrics.values().all(|x| x.is_finite()), "{summary:?}");

    let answering = Answering::open(&summary.folder, None, true).unwrap();
    let (data, test) = (session.test.as_ref().unwrap(), session.parts.test.as_ref().unwrap());
    let untouched: Vec<usize> = (0..data.left.len()).collect();
    let said = predict_all(model, session.task.as_ref(), data, &untouched, &Pass::new(&patch)).unwrap();
    assert_eq!(answering.predict(&test.inputs).unwrap(), said);
    let (score, metrics) = answering.evaluate(test, 0).unwrap();
    assert_eq!(Some(score), summary.candidates.iter().find(|c| c.name == Candidate::Patch).unwrap().test);
    assert_eq!(metrics.into_iter().collect::<BTreeMap<_, _>>(), summary.metrics);
    answering
}

/// The same from a file, which is read back for answers and scores; and the gate runs on it.
fn holds_for(folder: &Path, data: &str, more: &str) -> Answering {
    let of = |out: &str, more: &str| recipe(folder, data, out, more);
    let one = of("run", &format!("epochs = 12\nhead = 'zero'\n{more}\n{QUICK}[gate]\nfolds = 0"));
    let session = Session::open(&one).unwrap();
    let answering = holds(&session, &one);
    let opened = Answering::open_table(&one.data, &one).unwrap();
    let examples = answering.labelled(&opened).unwrap();
    assert_eq!(examples.labels.names(), answering.saved.task.names);
    assert_eq!(answering.inputs(&opened).unwrap(), examples.inputs);
    assert!(answering.evaluate(&examples, 0).unwrap().0.value.is_finite());

    let gated = finish(&session, &of("gated", &format!("epochs = 1\n{more}\n[gate]\nfolds = 2"))).summary;
    for candidate in &gated.candidates {
        let score = candidate.crossfit.unwrap();
        assert!([score.value, score.low, score.high].iter().all(|x| x.is_finite()), "{gated:?}");
    }
    Answering::open(&gated.folder, None, true).unwrap().evaluate(&examples, 0).unwrap();
    answering
}

/// A patch that was trained on rounded matrices is one for the model as it is, and answers alike there.
#[test]
fn a_patch_trained_on_a_base_in_bf16_serves_the_model_in_f32() {
    let folder = setup();
    write_classes(folder.path(), "rows.jsonl");
    let more = format!("base = 'bf16'\nepochs = 12\nhead = 'zero'\n{QUICK}[gate]\nfolds = 0");
    let one = recipe(folder.path(), "rows.jsonl", "run", &more);
    let session = Session::open(&one).unwrap();
    let rounded = session.loaded.model.as_ref();
    let site = rounded.sites().iter().find(|site| site.kind == SiteKind::Linear).unwrap();
    assert!(rounded.packed(&format!("{}.weight", site.name)).is_some(), "the base is to be rounded");
    holds(&session, &one);

    let dense = acclimate::models::load(&folder.path().join("model"), Base::Dense, &Device::flex()).unwrap();
    assert_eq!(dense.fingerprint(), rounded.fingerprint());
    let patch = acclimate::peft::load(&folder.path().join("run/patch"), dense.as_ref()).unwrap();
    let rows: Vec<usize> = (0..session.train.left.len()).collect();
    let loss_of =
        |model: &dyn Model| total(vec![session.task.loss(model, &session.train, &rows, &Pass::new(&patch)).unwrap()]);
    let (whole, short) = (loss_of(dense.as_ref()), loss_of(rounded));
    // bf16 keeps eight bits of each number, and rounding errors of many numbers cancel.
    assert!((whole - short).abs() < 2f64.powi(-8) * whole, "{whole} in f32, {short} in bf16");
}

#[test]
fn one_class_a_row() {
    let folder = setup();
    write_classes(folder.path(), "rows.jsonl");
    let answering = holds_for(folder.path(), "rows.jsonl", "");
    assert_eq!(
        (answering.task.kind(), answering.saved.task.names.as_slice()),
        (TaskKind::Classification, &["bad".to_owned(), "good".to_owned()][..])
    );
}

#[test]
fn the_order_of_classes_is_that_of_the_names() {
    let folder = setup();
    write_classes(folder.path(), "rows.jsonl");
    let answering = holds_for(folder.path(), "rows.jsonl", "classes = ['good', 'bad']");
    assert_eq!(answering.saved.task.names, ["good", "bad"]);
    let said = answering.predict(&Inputs::Texts(vec!["film good".to_owned(), "film bad".to_owned()])).unwrap();
    assert!(said[0][0] - said[0][1] > said[1][0] - said[1][1], "{said:?}");
}

#[test]
fn numbers_cut_into_classes() {
    let folder = setup();
    write_rows(
        folder.path(),
        "rows.jsonl",
        (0..60).map(|n| json!({"text": format!("{} old", word(n % 12)), "score": (n % 12) as f64 + 0.25})),
    );
    let answering = holds_for(folder.path(), "rows.jsonl", "cuts = [4.0, 8.0]\nclasses = ['low', 'middle', 'high']");
    assert_eq!(answering.saved.task.names, ["low", "middle", "high"]);
}

#[test]
fn many_labels_a_row() {
    let folder = setup();
    let labels: [&[&str]; 4] = [&["a"], &["a", "b"], &["b"], &["c"]];
    let row = |n: usize| json!({"text": format!("{} {}", word(n % 4), word(4 + n % 5)), "labels": labels.get(n % 4)});
    write_rows(folder.path(), "rows.jsonl", (0..60).map(row));
    assert_eq!(holds_for(folder.path(), "rows.jsonl", "").task.kind(), TaskKind::MultiLabel);
}

/// Rows of one to six words; a label per word.
fn word_rows(column: &'static str, label: fn(usize) -> &'static str) -> impl Iterator<Item = Value> {
    (0..60).map(move |n: usize| {
        let words: Vec<usize> = (0..1 + n % 6).map(|at| (n * 5 + at * 7) % WORDS.len()).collect();
        json!({column: words.iter().map(|&w| word(w)).collect::<Vec<_>>(), "tags": words.into_iter().map(label).collect::<Vec<_>>()})
    })
}

fn kind_of_word(word: usize) -> &'static str {
    ["judgement", "thing", "look"][word % 3]
}

#[test]
fn a_label_per_word() {
    let folder = setup();
    write_rows(folder.path(), "rows.jsonl", word_rows("tokens", kind_of_word));
    let answering = holds_for(folder.path(), "rows.jsonl", "");
    assert_eq!((answering.task.kind(), answering.task.metric()), (TaskKind::TokenClassification, "word accuracy"));
}

#[test]
fn spans_of_words() {
    let folder = setup();
    write_rows(folder.path(), "rows.jsonl", word_rows("tokens", |w| ["O", "B-X", "I-X"][w % 3]));
    assert_eq!(holds_for(folder.path(), "rows.jsonl", "").task.metric(), "span F1");
}

#[test]
fn words_in_a_column_of_text() {
    let folder = setup();
    let text =
        |list: &Value| list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ");
    let rows =
        word_rows("tokens", kind_of_word).map(|row| json!({"text": text(&row["tokens"]), "tags": text(&row["tags"])}));
    write_rows(folder.path(), "rows.jsonl", rows);
    holds_for(folder.path(), "rows.jsonl", "task = 'token_classification'");
}

#[test]
fn a_number_a_row() {
    let folder = setup();
    write_rows(
        folder.path(),
        "rows.jsonl",
        (0..60).map(|n| json!({"text": format!("{} {}", word(n), word(n * n)), "score": (n % 12) as f64 * 0.7 - 20.0})),
    );
    assert_eq!(holds_for(folder.path(), "rows.jsonl", "").task.kind(), TaskKind::Regression);
}

#[test]
fn how_alike_two_texts_are() {
    let folder = setup();
    let rows = (0..60).map(|n: usize| json!({"sentence": format!("{} {}", word(n), word(n + 3)), "sentence2": format!("{} {}", word(n + n % 3), word(n + 3 + n % 5)), "score": 5.0 - (n % 3 + n % 5) as f64 * 0.8}));
    write_rows(folder.path(), "rows.jsonl", rows);
    assert_eq!(holds_for(folder.path(), "rows.jsonl", "task = 'similarity'").task.outputs(), None);
}

#[test]
fn which_text_belongs_to_which() {
    let folder = setup();
    let rows = (0..60).map(|n: usize| json!({"query": format!("{} {}", word(n), word(n / 12)), "passage": format!("{} {} old", word(n / 12), word(n + 1))}));
    write_rows(folder.path(), "rows.jsonl", rows);
    holds_for(folder.path(), "rows.jsonl", "task = 'retrieval'");
}

fn resnet(folder: &Path) {
    let model = folder.join("model");
    write_safetensors(&model.join("model.safetensors"), tiny::resnet(1, DType::F32).weights(), BTreeMap::new())
        .unwrap();
    let mut config = serde_json::to_value(tiny::resnet_config(Norm::Batch)).unwrap();
    config["model_type"] = "resnet".into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
}

/// Eight by eight grey values: stripes along one of the axes, with noise.
fn stripes(n: usize) -> Vec<f64> {
    let mut rng = Rng::new(n as u64, "stripes", 0);
    (0..64).map(|at| if [at / 8, at % 8][n % 2] % 2 == 0 { 0.25 } else { 0.75 } + 0.2 * (rng.uniform() - 0.5)).collect()
}

#[test]
fn pictures_in_folders_by_class() {
    let folder = tempfile::tempdir().unwrap();
    resnet(folder.path());
    for n in 0..40 {
        let pixels = stripes(n).into_iter().map(|x| (255.0 * x) as u8).collect();
        let file = folder.path().join("pictures").join(["lying", "standing"][n % 2]).join(format!("{n}.png"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        image::GrayImage::from_raw(8, 8, pixels).unwrap().save(file).unwrap();
    }
    let answering = holds_for(folder.path(), "pictures", "adapter.rank = 2\nadapter.targets = ['conv*']");
    assert_eq!(answering.saved.task.names, ["lying", "standing"]);
}

#[test]
fn rows_of_pixels_for_a_model_over_images_with_its_own_head() {
    let folder = tempfile::tempdir().unwrap();
    resnet(folder.path());
    let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let examples = |rows: std::ops::Range<usize>| Examples {
        inputs: Inputs::Features { width: 64, values: rows.clone().flat_map(stripes).map(|x| x as f32).collect() },
        labels: Labels::Classes { names: names.clone(), index: rows.map(|n| n % 2).collect() },
    };
    let parts = Parts { train: examples(0..30), test: Some(examples(30..40)) };
    let recipe = recipe(
        folder.path(),
        "none",
        "run",
        &format!("epochs = 12\nhead = 'own'\nadapter.rank = 2\n{QUICK}[gate]\nfolds = 0"),
    );
    let loaded = Loaded {
        model: acclimate::models::load(&folder.path().join("model"), acclimate::models::Base::Packed, &Device::flex())
            .unwrap(),
        tokenizer: None,
        template: None,
    };
    let spec = TaskSpec { kind: TaskKind::Classification, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
    let task = fit_task(spec, &parts.train.labels, false);
    let train = loaded.prepare(&parts.train, task.kind()).unwrap();
    let test = Some(loaded.prepare(parts.test.as_ref().unwrap(), task.kind()).unwrap());
    assert!(!holds(&Session { loaded, task, parts, train, test, dropped: 0 }, &recipe).patch.has_head());
}

/// The patch after a few plain gradient steps in double precision.
fn trained_with(more: &str, rows: impl Iterator<Item = Value>) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    bert(folder.path(), DType::F64);
    write_rows(folder.path(), "rows.jsonl", rows);
    let more = format!("epochs = 1\nhead = 'random'\n{more}\n[optim]\nmethod = 'sgd'\nlr = 0.1\n[gate]\nfolds = 0");
    let recipe = recipe(folder.path(), "rows.jsonl", "run", &more);
    numbers(&finish(&Session::open(&recipe).unwrap(), &recipe).patch.params)
}

/// Six steps in f64, each with some thousand roundings.
const ROUNDING: f64 = 1e-11;

fn same_in_parts(rows: fn() -> Vec<Value>, more: &str) {
    let whole = trained_with(more, rows().into_iter());
    for parts in [2, 3, 4] {
        let sums = trained_with(&format!("accumulate = {parts}\n{more}"), rows().into_iter());
        let apart = whole.iter().zip(&sums).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < ROUNDING, "{parts} parts: {apart:e} {more}");
    }
}

#[test]
fn a_batch_in_parts_is_the_batch() {
    let rows = || {
        (0..60)
            .map(|n: usize| json!({"text": format!("{} {}", word(n), word(n % 2)), "label": usize::from(n.is_multiple_of(5))}))
            .collect()
    };
    same_in_parts(rows, "");
    same_in_parts(rows, "class_balance = true");
}

#[test]
fn words_count_alike_in_parts_of_unequal_words() {
    same_in_parts(|| word_rows("tokens", kind_of_word).collect(), "");
}

#[test]
fn rare_classes_weigh_more() {
    let folder = setup();
    write_rows(
        folder.path(),
        "rows.jsonl",
        (0..60).map(|n: usize| json!({"text": word(n), "label": if n.is_multiple_of(5) { "yes" } else { "no" }})),
    );
    let recipe = recipe(folder.path(), "rows.jsonl", "run", "class_balance = true\nhead = 'random'");
    let session = Session::open(&recipe).unwrap();
    let Labels::Classes { index, .. } = &session.parts.train.labels else { panic!("classes") };
    let rare = index.iter().filter(|&&class| class == 1).count();
    let weights = [index.len() - rare, rare].map(|n| index.len() as f64 / (2 * n) as f64);
    assert_eq!(session.task.spec().weights, weights);
    let rows: Vec<usize> = (0..index.len()).collect();
    let patch = session.start(&recipe, &rows).unwrap();
    let said = session.task.predict(session.loaded.model.as_ref(), &session.train, &rows, &Pass::new(&patch)).unwrap();
    let nll = |row: usize| said[row].iter().map(|z| (z - said[row][index[row]]).exp()).sum::<f64>().ln();
    let expected = rows.iter().map(|&row| weights[index[row]] * nll(row)).sum::<f64>()
        / rows.iter().map(|&row| weights[index[row]]).sum::<f64>();
    // Single precision over a few dozen rows.
    assert!((loss(&session, &patch) - expected).abs() < 1e-5);
}

fn train(session: &Session, recipe: &Recipe, rows: &[usize], valid: &[usize]) -> Trained {
    let optimiser = optimiser(recipe).unwrap();
    let trainer = Trainer {
        model: session.loaded.model.as_ref(),
        task: session.task.as_ref(),
        data: &session.train,
        recipe,
        optimiser: optimiser.as_ref(),
        normaliser: &Source,
        stop: &AtomicBool::new(false),
    };
    trainer.train(session.start(recipe, rows).unwrap(), rows, valid, "final", None, &mut |_| ()).unwrap()
}

#[test]
fn early_stopping_keeps_the_best_epoch() {
    let folder = setup();
    // Held-out rows say the contrary of the training rows: each epoch more is worse on them.
    write_rows(
        folder.path(),
        "rows.jsonl",
        (0..60).map(|n| {
            let label = if n < 40 { n % 2 } else { 1 - n % 2 };
            json!({"text": format!("{} {}", word(2 + n % 9), word(n % 2)), "label": word(label)})
        }),
    );
    let more = "epochs = 40\nhead = 'zero'\ntest_share = 0.0\nvalid_share = 0.3\npatience = 3\n[optim]\nd0 = 1e-2";
    let recipe = recipe(folder.path(), "rows.jsonl", "run", more);
    let session = Session::open(&recipe).unwrap();
    let parts = split::Split { train: (0..40).collect(), held_out: (40..60).collect() };
    let Trained { patch, history, .. } = train(&session, &recipe, &parts.train, &parts.held_out);
    let first = 1;
    assert_eq!(history.valid.last().unwrap().0, first + 3, "{:?}", history.valid);
    // The state of that epoch, not only its score: a run that ends there has the same numbers.
    let short = Recipe { epochs: Some(40), patience: None, ..recipe.clone() };
    let until = |epochs: usize| {
        let stop = AtomicBool::new(false);
        let mut at = None;
        let optimiser = optimiser(&short).unwrap();
        let trainer = Trainer {
            model: session.loaded.model.as_ref(),
            task: session.task.as_ref(),
            data: &session.train,
            recipe: &short,
            optimiser: optimiser.as_ref(),
            normaliser: &Source,
            stop: &stop,
        };
        let per_epoch = parts.train.len().div_ceil(short.rows_per_step(session.task.kind())) as u64;
        let start = session.start(&short, &parts.train).unwrap();
        let trained = trainer.train(start, &parts.train, &[], "final", None, &mut |progress| {
            at = Some(progress.step);
            stop.store(progress.step == epochs as u64 * per_epoch, std::sync::atomic::Ordering::Relaxed);
        });
        numbers(&trained.unwrap().patch.params)
    };
    assert_eq!(numbers(&patch.params), until(first));
}

#[test]
fn every_start_of_the_head_trains() {
    let folder = setup();
    write_classes(folder.path(), "rows.jsonl");
    for head in ["probe", "zero", "random"] {
        let more = format!("epochs = 4\nhead = '{head}'\n{QUICK}[gate]\nfolds = 0");
        let recipe = recipe(folder.path(), "rows.jsonl", head, &more);
        let session = Session::open(&recipe).unwrap();
        let rows: Vec<usize> = (0..session.train.left.len()).collect();
        let start = session.start(&recipe, &rows).unwrap();
        let weight = start.params.any("head.weight").unwrap().to_f64s();
        assert_eq!(weight.iter().all(|x| *x == 0.0), head == "zero", "{head}");
        let kept = finish(&session, &recipe).patch;
        assert!(kept.params.is_finite() && loss(&session, &kept) < loss(&session, &start), "{head}");
    }
}

#[test]
fn labels_that_nothing_tells_keep_no_patch_that_scores_no_higher() {
    let folder = setup();
    for seed in 0..3 {
        let mut rng = Rng::new(seed, "labels", 0);
        let rows: Vec<Value> =
            (0..60).map(|n| json!({"text": format!("{} {}", word(n), word(n / 12)), "label": rng.below(2)})).collect();
        write_rows(folder.path(), "rows.jsonl", rows.into_iter());
        let recipe = recipe(
            folder.path(),
            "rows.jsonl",
            &format!("run-{seed}"),
            &format!("epochs = 4\n{QUICK}[gate]\nfolds = 3"),
        );
        let summary = finish(&Session::open(&recipe).unwrap(), &recipe).summary;
        let score =
            |name: Candidate| summary.candidates.iter().find(|c| c.name == name).unwrap().crossfit.unwrap().value;
        let most = summary.candidates.iter().map(|c| score(c.name)).fold(f64::NEG_INFINITY, f64::max);
        let cheapest = summary.candidates.iter().find(|c| score(c.name) == most).unwrap().name;
        assert_eq!(summary.chosen, cheapest, "{:?}", summary.candidates);
    }
}

#[test]
fn inputs_that_are_all_alike_leave_the_model_as_it_is() {
    let folder = setup();
    write_rows(
        folder.path(),
        "rows.jsonl",
        (0..60).map(|n: usize| json!({"text": "film", "label": usize::from(n.is_multiple_of(3))})),
    );
    let recipe = recipe(folder.path(), "rows.jsonl", "run", &format!("epochs = 4\n{QUICK}[gate]\nfolds = 3"));
    assert_eq!(finish(&Session::open(&recipe).unwrap(), &recipe).summary.chosen, Candidate::Unadapted);
}

#[test]
fn untouched_rows_have_no_part_in_the_choice() {
    let folder = setup();
    write_classes(folder.path(), "rows.jsonl");
    let run_with = |turned: usize| {
        let rows = (0..20).map(
            |n: usize| json!({"text": format!("{} {}", word(2 + n), word(n % 2)), "label": word((n + turned) % 2)}),
        );
        write_rows(folder.path(), "test.jsonl", rows);
        let test = folder.path().join("test.jsonl");
        let more = format!("epochs = 4\ntest = {test:?}\n{QUICK}[gate]\nfolds = 3");
        let recipe = recipe(folder.path(), "rows.jsonl", &format!("run-{turned}"), &more);
        let Finished { summary, patch, .. } = finish(&Session::open(&recipe).unwrap(), &recipe);
        let inside: Vec<_> = summary.candidates.iter().map(|c| c.crossfit).collect();
        let outside: Vec<_> = summary.candidates.iter().map(|c| c.test).collect();
        (outside, (summary.chosen, inside, numbers(&patch.params)))
    };
    let (right, wrong) = (run_with(0), run_with(1));
    assert_eq!(right.1, wrong.1);
    assert_ne!(right.0, wrong.0);
}

/// The loss at the end and the notes of a run of D-Adapted Adam that takes all of d and has no limit on its growth.
fn unlimited(more: &str) -> (f64, Vec<String>) {
    let folder = setup();
    write_classes(folder.path(), "rows.jsonl");
    let more = format!("epochs = 40\nhead = 'zero'\n[optim]\nlr = 1.0\ngrowth_rate = inf\n{more}\n[gate]\nfolds = 0");
    let recipe = recipe(folder.path(), "rows.jsonl", "run", &more);
    let session = Session::open(&recipe).unwrap();
    let Finished { summary, patch, .. } = finish(&session, &recipe);
    assert!(patch.params.is_finite());
    (loss(&session, &patch), summary.notes)
}

/// From this first estimate d passes what the model bears within some thirty steps, and the loss is back at ln 2.
fn collapses_and_learns(correction: bool) {
    let (loss, notes) = unlimited(&format!("d0 = 1e-4\nbias_correction = {correction}"));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("its starting level: training went back to step"), "{notes:?}");
    assert!(loss < 0.05, "{loss}");
}

#[test]
fn a_run_that_collapses_starts_again_and_learns() {
    collapses_and_learns(true);
}

#[test]
fn a_run_as_the_package_has_it_starts_again_and_learns() {
    collapses_and_learns(false);
}

#[test]
fn a_first_estimate_far_too_large_is_noticed() {
    let (loss, notes) = unlimited("d0 = 10.0");
    assert!(!notes.is_empty() && loss < 0.7, "{loss} {notes:?}");
}

#[test]
fn resampled_rows_find_their_text_wherever_it_stands() {
    let spec = TaskSpec { kind: TaskKind::Retrieval, names: vec![], weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
    let rows = [vec![1.0, 0.0, 1.0, 0.0], vec![0.0, 1.0, 0.0, 1.0]];
    assert_eq!(spec.build().score(&[&rows[0], &rows[0], &rows[1]], &Labels::Pairs(3)), 1.0);
}

#[test]
fn embeddings_of_different_fits_are_not_compared() {
    let spec = TaskSpec { kind: TaskKind::Retrieval, names: vec![], weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
    // The second fit turned its space by a quarter: across fits every row finds the other fit's text first.
    let rows =
        vec![vec![1.0, 0.0, 0.9, 0.1], vec![0.1, 1.0, 0.0, 0.9], vec![1.0, 0.0, 1.0, 0.0], vec![0.0, 1.0, 0.0, 1.0]];
    let score = |fold_of: &[usize]| {
        acclimate::gate::crossfit_score(spec.build().as_ref(), &rows, &Labels::Pairs(4), fold_of, 0).value
    };
    assert_eq!(score(&[0, 0, 1, 1]), 1.0);
    assert!(score(&[0; 4]) < 1.0);
}
