//! A tiny model with a tokenizer in a folder, and recipes for it.

use acclimate::Recipe;
use acclimate::core::{Model, write_safetensors};
use acclimate::models::tiny;
use burn::tensor::DType;
use std::collections::BTreeMap;
use std::path::Path;

/// What the tokenizer knows, after padding and the unknown word.
pub(crate) const WORDS: [&str; 12] =
    ["good", "bad", "film", "book", "song", "play", "red", "blue", "old", "new", "long", "short"];

/// Writes the tiny BERT encoder and its tokenizer to `model`.
pub(crate) fn bert(folder: &Path, dtype: DType) {
    let model = folder.join("model");
    write_safetensors(&model.join("model.safetensors"), tiny::bert(1, dtype).weights(), BTreeMap::new()).unwrap();
    let mut config = serde_json::to_value(tiny::bert_config()).unwrap();
    config["model_type"] = "bert".into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let vocabulary: String = WORDS.iter().zip(2..).map(|(word, id)| format!(r#","{word}":{id}"#)).collect();
    let tokenizer = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordLevel","vocab":{{"[PAD]":0,"[UNK]":1{vocabulary}}},"unk_token":"[UNK]"}}}}"#
    );
    std::fs::write(model.join("tokenizer.json"), tokenizer).unwrap();
}

/// A recipe for the model of a folder on one of its files; `more` is TOML.
pub(crate) fn recipe(folder: &Path, data: &str, out: &str, more: &str) -> Recipe {
    let text = format!(
        "model = {:?}\ndata = {:?}\nout = {:?}\nbatch_size = 8\nmax_length = 16\noffline = true\n{more}",
        folder.join("model"),
        folder.join(data),
        folder.join(out)
    );
    Recipe::from_table(&text.parse().unwrap()).unwrap()
}
