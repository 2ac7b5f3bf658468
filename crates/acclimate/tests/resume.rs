//! A run that is interrupted again and again ends with the same bytes as one that is not.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate::Recipe;
use acclimate::core::{Model, write_safetensors};
use acclimate::models::tiny;
use acclimate::run::Event;
use acclimate::tune::tune;
use burn::tensor::DType;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps between two interruptions; not a divisor of an epoch's steps.
const STRETCH: usize = 5;

fn recipe(folder: &Path, out: &str, more: &str) -> Recipe {
    let text = format!(
        "model = {:?}\ndata = {:?}\nout = {:?}\nepochs = 4\nbatch_size = 8\nmax_length = 16\n{more}",
        folder.join("model"),
        folder.join("rows.csv"),
        folder.join(out)
    );
    Recipe::from_table(&text.parse().unwrap()).unwrap()
}

fn setup() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_safetensors(&model.join("model.safetensors"), tiny::bert(1, DType::F32).weights(), BTreeMap::new()).unwrap();
    let mut config = serde_json::to_value(tiny::bert_config()).unwrap();
    config["model_type"] = "bert".into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[PAD]":0,"[UNK]":1,"good":2,"bad":3,"film":4,"book":5},"unk_token":"[UNK]"}}"#;
    std::fs::write(model.join("tokenizer.json"), tokenizer).unwrap();
    let row = |n: usize| {
        format!("{} {}{}\n", ["film", "book", "film film"][n % 3], ["good", "bad"][n % 2], [",1", ",0"][n % 2])
    };
    let rows: String = (0..60).map(row).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("text,label\n{rows}")).unwrap();
    folder
}

fn same(more: &str) {
    let folder = setup();
    let whole = recipe(folder.path(), "whole", more);
    tune(&whole, &AtomicBool::new(false), &mut |_| ()).unwrap().unwrap();
    let parts = recipe(folder.path(), "parts", more);
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
