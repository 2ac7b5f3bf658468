//! Models against the numbers of the libraries that published them: `reference/models`.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::{AnyTensor, Batch, Inputs, Model, Params, Pass, Tokens, read_safetensors};
use acclimate_models::{Bert, BertConfig, EfficientNet, Norm, Resnet, ResnetConfig, tiny};
use burn::tensor::{DType, Device};
use safetensors::SafeTensors;
use std::path::PathBuf;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/models").join(name)
}

fn tensors(name: &str, dtype: DType) -> Params {
    read_safetensors(&file(name), &Device::flex()).unwrap().0.cast(dtype)
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(file(name)).unwrap()).unwrap()
}

/// Rows of whole numbers without their padding.
fn rows(bytes: &[u8], name: &str, lengths: &[usize]) -> Vec<Vec<u32>> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let numbers: Vec<u32> = view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
    numbers.chunks(view.shape()[1]).zip(lengths).map(|(row, &n)| row[..n].to_vec()).collect()
}

/// The largest |got − expected| / (1 + |expected|), which the header's tolerance bounds.
fn distance(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

fn bert_states_agree(dtype: DType, tolerance: &str) {
    let golden = json("bert_tiny.json");
    let config: BertConfig = serde_json::from_value(golden["cases"][0]["config"].clone()).unwrap();
    let stored = tensors("bert_tiny.safetensors", dtype);
    let bytes = std::fs::read(file("bert_tiny.safetensors")).unwrap();
    let lengths = [9, 4, 6];
    let rows: Vec<_> =
        rows(&bytes, "input_ids", &lengths).into_iter().zip(rows(&bytes, "token_type_ids", &lengths)).collect();
    let inputs = Inputs::Tokens(Tokens::new(&rows, dtype, &Device::flex()));
    let tolerance = golden["header"]["tolerance"][tolerance].as_f64().unwrap();
    for layers in 0..=config.num_hidden_layers {
        let model =
            Bert::from_weights(BertConfig { num_hidden_layers: layers, ..config.clone() }, stored.clone()).unwrap();
        let outputs = model.forward(&inputs, &Pass::bare()).unwrap();
        let got = AnyTensor::from(outputs.states.unwrap().h).to_f64s();
        let far = distance(&got, &stored.any(&format!("hidden.{layers}")).unwrap().to_f64s());
        assert!(far <= tolerance, "states after {layers} layers are off by {far:e}");
        if layers == config.num_hidden_layers {
            let features = outputs.features.clone();
            let unit = features.clone() / features.square().sum_dim(1).sqrt();
            let far = distance(&AnyTensor::from(unit).to_f64s(), &stored.any("pooled").unwrap().to_f64s());
            assert!(far <= tolerance, "pooled states are off by {far:e}");
        }
    }
}

#[test]
fn bert_states_agree_in_double_precision() {
    bert_states_agree(DType::F64, "f64");
}

#[test]
fn bert_states_agree_in_single_precision() {
    bert_states_agree(DType::F32, "f32");
}

fn resnet_logits_agree(dtype: DType, tolerance: &str) {
    let golden = json("resnet_tiny.json");
    let stored = tensors("resnet_tiny.safetensors", dtype);
    let tolerance = golden["header"]["tolerance"][tolerance].as_f64().unwrap();
    let x = Inputs::Images(stored.get("x").unwrap());
    for case in golden["cases"].as_array().unwrap() {
        let config = ResnetConfig {
            image: [1, 8, 8],
            classes: 3,
            widths: vec![8, 16],
            blocks: vec![1, 1],
            norm: case["config"]["groups"].as_u64().map_or(Norm::Batch, |groups| Norm::Group(groups as usize)),
            eps: case["config"]["eps"].as_f64().unwrap(),
        };
        let prefix = case["weights"].as_str().unwrap();
        let mut weights = Params::default();
        for (name, tensor) in stored.iter() {
            if let Some(name) = name.strip_prefix(prefix).filter(|name| !name.starts_with("logits")) {
                weights.insert(name, tensor.clone());
            }
        }
        let model = Resnet::from_weights(config, weights).unwrap();
        let pass = if case["name"] == "batch" { Pass::bare().normaliser(&Batch) } else { Pass::bare() };
        let got = AnyTensor::from(model.forward(&x, &pass).unwrap().logits.unwrap()).to_f64s();
        let far = distance(&got, &stored.any(case["expected"][0].as_str().unwrap()).unwrap().to_f64s());
        assert!(far <= tolerance, "{}: logits are off by {far:e}", case["name"]);
    }
}

/// The tiny EfficientNet on images of even and of odd sizes, whose padding differs.
fn efficientnet_logits_agree(dtype: DType, tolerance: &str) {
    let golden = json("efficientnet_tiny.json");
    let stored = tensors("efficientnet_tiny.safetensors", dtype);
    let tolerance = golden["header"]["tolerance"][tolerance].as_f64().unwrap();
    let mut weights = Params::default();
    for (name, tensor) in stored.iter() {
        if let Some(name) = name.strip_prefix("net/") {
            weights.insert(name, tensor.clone());
        }
    }
    let model = EfficientNet::from_weights(tiny::efficientnet_config(), weights).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let name = |key: &str| case[key][0].as_str().unwrap();
        let pass = if case["config"]["statistics"] == "batch" { Pass::bare().normaliser(&Batch) } else { Pass::bare() };
        let outputs = model.forward(&Inputs::Images(stored.get(name("inputs")).unwrap()), &pass).unwrap();
        let far = distance(
            &AnyTensor::from(outputs.logits.unwrap()).to_f64s(),
            &stored.any(name("expected")).unwrap().to_f64s(),
        );
        assert!(far <= tolerance, "{}: logits are off by {far:e}", case["name"]);
    }
}

#[test]
fn efficientnet_logits_agree_in_double_precision() {
    efficientnet_logits_agree(DType::F64, "f64");
}

#[test]
fn efficientnet_logits_agree_in_single_precision() {
    efficientnet_logits_agree(DType::F32, "f32");
}

#[test]
fn resnet_logits_agree_in_double_precision() {
    resnet_logits_agree(DType::F64, "f64");
}

#[test]
fn resnet_logits_agree_in_single_precision() {
    resnet_logits_agree(DType::F32, "f32");
}
