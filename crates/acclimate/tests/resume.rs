//! A run that is interrupted again and again ends with the same bytes as one that is not.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

mod common;

use acclimate::run::Event;
use acclimate::tune::tune;
use burn::tensor::DType;
use common::{WORDS, bert, recipe};
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps between two interruptions; not a divisor of an epoch's steps.
const STRETCH: usize = 5;

fn setup() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    bert(folder.path(), DType::F32);
    let row = |n: usize| format!("{} {},{}\n", ["film", "book", "film film"][n % 3], WORDS[n % 2], 1 - n % 2);
    let rows: String = (0..60).map(row).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("text,label\n{rows}")).unwrap();
    folder
}

fn same(more: &str) {
    let folder = setup();
    let more = format!("epochs = 4\n{more}");
    let whole = recipe(folder.path(), "rows.csv", "whole", &more);
    tune(&whole, &AtomicBool::new(false), &mut |_| ()).unwrap().unwrap();
    let parts = recipe(folder.path(), "rows.csv", "parts", &more);
    let mut interruptions = 0;
    loop {
        let stop = AtomicBool::new(false);
        let mut steps = 0;
        let done = tune(&parts, &stop, &mut |event| {
            steps += usize::from(matches!(event, Event::Step(_)));
            stop.store(steps >= STRETCH, Ordering::Relaxed);
        });
        if done.unwrap().is_some() {
            break;
        }
        interruptions += 1;
    }
    assert!(interruptions > 3, "{interruptions}");
    let mut files = vec!["metrics.jsonl".to_owned()];
    for entry in std::fs::read_dir(folder.path().join("whole/patch")).unwrap() {
        files.push(format!("patch/{}", entry.unwrap().file_name().to_string_lossy()));
    }
    assert!(files.len() > 2, "{files:?}");
    for file in files {
        let read = |run: &str| std::fs::read(folder.path().join(run).join(&file)).unwrap();
        assert!(read("whole") == read("parts"), "{file} differs");
    }
}

#[test]
fn interrupted_equals_uninterrupted() {
    same("[gate]\nfolds = 0\n[adapter]\ndropout = 0.1");
}

#[test]
fn with_folds_validation_and_accumulation() {
    same("accumulate = 2\nvalid_share = 0.2\n[gate]\nfolds = 2\n[optim]\nclip = 1.0");
}
