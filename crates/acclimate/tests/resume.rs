//! A run that is interrupted or killed again and again ends with the same bytes as one that is not.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

mod common;

use acclimate::run::Event;
use acclimate::tune::tune;
use burn::tensor::DType;
use common::{WORDS, bert, recipe};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps between two breaks; not a divisor of an epoch's steps.
const STRETCH: usize = 5;

fn setup() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    bert(folder.path(), DType::F32);
    let row = |n: usize| format!("{} {},{}\n", ["film", "book", "film film"][n % 3], WORDS[n % 2], 1 - n % 2);
    let ruin = |n: usize| format!("{} {1},{1}\n", WORDS[2 + n % 9], WORDS[n % 2]);
    for (name, rows) in [("rows.csv", (0..60).map(row).collect::<String>()), ("ruin.csv", (0..60).map(ruin).collect())]
    {
        std::fs::write(folder.path().join(name), format!("text,label\n{rows}")).unwrap();
    }
    folder
}

/// How a run is broken off.
#[derive(Clone, Copy)]
enum Break {
    /// Asked to save and stop.
    Interrupt,
    /// Without any warning: nothing after the step is carried out.
    Kill,
}

/// Runs a recipe to its end, broken off every so many steps; the counts of steps that each process made.
fn in_parts(recipe: &acclimate::Recipe, stretch: usize, how: Break) -> Vec<usize> {
    let mut counts = vec![];
    loop {
        let stop = AtomicBool::new(false);
        let mut steps = 0;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            tune(recipe, &stop, &mut |event| {
                steps += usize::from(matches!(event, Event::Step(_)));
                match how {
                    Break::Interrupt => stop.store(steps >= stretch, Ordering::Relaxed),
                    // Not a panic: that would print a message.
                    Break::Kill if steps >= stretch => resume_unwind(Box::new(())),
                    Break::Kill => {}
                }
            })
            .unwrap()
        }));
        counts.push(steps);
        if ended.is_ok_and(|summary| summary.is_some()) {
            return counts;
        }
    }
}

/// What a result says beside the folder and what the run took.
fn result(folder: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(folder.join("result.json")).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(value["cost"]["training_seconds"].as_f64().unwrap() > 0.0);
    value.as_object_mut().unwrap().retain(|key, _| key != "folder" && key != "cost");
    value
}

/// Runs a recipe in one go and in parts, and compares what they leave; steps of the whole and of the parts, and the notes.
fn same(data: &str, more: &str, stretch: usize, how: Break) -> (usize, Vec<usize>, String) {
    let folder = setup();
    let more = format!("head = 'zero'\n{more}");
    let whole = recipe(folder.path(), data, "whole", &more);
    let total = in_parts(&whole, usize::MAX, Break::Interrupt)[0];
    let counts = in_parts(&recipe(folder.path(), data, "parts", &more), stretch, how);
    assert!(counts.len() > 4, "{counts:?}");
    let mut files = vec!["metrics.jsonl".to_owned(), acclimate::events::FILE.to_owned()];
    for entry in std::fs::read_dir(folder.path().join("whole/patch")).unwrap() {
        files.push(format!("patch/{}", entry.unwrap().file_name().to_string_lossy()));
    }
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let read = |run: &str| std::fs::read(folder.path().join(run).join(&file)).unwrap();
        assert!(read("whole") == read("parts"), "{file} differs");
    }
    let told = result(&folder.path().join("whole"));
    assert_eq!(told, result(&folder.path().join("parts")));
    assert!(!folder.path().join("parts/checkpoints").exists());
    (total, counts, told["notes"].to_string())
}

#[test]
fn interrupted_equals_uninterrupted() {
    let (total, counts, _) =
        same("rows.csv", "epochs = 4\n[gate]\nfolds = 0\n[adapter]\ndropout = 0.1", STRETCH, Break::Interrupt);
    assert_eq!(counts.iter().sum::<usize>(), total);
}

#[test]
fn with_folds_validation_and_accumulation() {
    same(
        "rows.csv",
        "epochs = 4\naccumulate = 2\nvalid_share = 0.2\n[gate]\nfolds = 2\n[optim]\nclip = 1.0",
        STRETCH,
        Break::Interrupt,
    );
}

#[test]
fn a_killed_run_loses_the_step_that_it_was_at() {
    let more = "epochs = 4\ncheckpoint_steps = 1\nvalid_share = 0.2\n[gate]\nfolds = 2\n[adapter]\ndropout = 0.1";
    let (total, counts, _) = same("rows.csv", more, STRETCH, Break::Kill);
    assert_eq!(counts.iter().sum::<usize>(), total + counts.len() - 1);
}

#[test]
fn a_killed_run_loses_the_steps_since_its_checkpoint() {
    let (total, counts, _) =
        same("rows.csv", "epochs = 4\ncheckpoint_steps = 3\n[gate]\nfolds = 0", STRETCH, Break::Kill);
    let lost = counts.iter().sum::<usize>() - total;
    assert!(lost >= counts.len() - 1 && lost <= 3 * (counts.len() - 1), "{counts:?} of {total}");
}

#[test]
fn a_run_that_collapses_is_the_same_in_parts() {
    // From this first estimate the whole of d passes what the model bears within some thirty steps.
    let more = "epochs = 40\n[optim]\nd0 = 1e-4\nlr = 1.0\ngrowth_rate = inf\n[gate]\nfolds = 0";
    let (_, _, notes) = same("ruin.csv", more, 23, Break::Kill);
    assert!(notes.contains("went back to step"), "{notes}");
}

#[test]
fn a_growing_batch_is_the_same_in_parts() {
    let more = "epochs = 8\nvalid_share = 0.2\n[gate]\nfolds = 2\n[adapter]\ndropout = 0.1\n[batch]\ntest = 'norm'\ngrowth = inf";
    same("rows.csv", more, 3, Break::Interrupt);
}

#[test]
fn a_checkpoint_of_another_patch_is_refused() {
    let folder = setup();
    let more = |rank: usize| format!("epochs = 2\n[gate]\nfolds = 0\n[adapter]\nrank = {rank}");
    for (name, rank) in [("a", 2), ("b", 4)] {
        let stop = AtomicBool::new(true);
        assert!(tune(&recipe(folder.path(), "rows.csv", name, &more(rank)), &stop, &mut |_| ()).unwrap().is_none());
    }
    let (from, to) = ("a/checkpoints/final/flushed.safetensors", "b/checkpoints/final/flushed.safetensors");
    std::fs::copy(folder.path().join(from), folder.path().join(to)).unwrap();
    let other = recipe(folder.path(), "rows.csv", "b", &more(4));
    let error = tune(&other, &AtomicBool::new(false), &mut |_| ()).unwrap_err().to_string();
    let parts = ["flushed.safetensors: a checkpoint of another patch: `", "[2, 16] in the checkpoint", "delete `"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}
