//! Models against the numbers of the libraries that published them: `reference/models`.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::{AnyTensor, Batch, Inputs, Model, Params, Pass, Tokens, read_safetensors, write_safetensors};
use acclimate_models::{
    Architecture, Base, Bert, BertConfig, Convnet, ConvnetConfig, Crepe, CrepeConfig, EfficientNet, Norm, Resnet,
    ResnetConfig, Vit, VitConfig, WideResnet, load, tiny,
};
use burn::tensor::{DType, Device};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
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

/// The weights whose names begin so; what else lies there, a network is not given.
fn under(stored: &Params, prefix: &str) -> Params {
    let mut weights = Params::default();
    for (name, tensor) in stored.iter() {
        if let Some(name) = name.strip_prefix(prefix).filter(|name| !name.starts_with("logits")) {
            weights.insert(name, tensor.clone());
        }
    }
    weights
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
        let norm = case["config"]["groups"].as_u64().map_or(Norm::Batch, |groups| Norm::Group(groups as usize));
        let eps = case["config"]["eps"].as_f64().unwrap();
        let config = ResnetConfig { eps, ..tiny::resnet_config(norm) };
        let weights = under(&stored, case["weights"].as_str().unwrap());
        let model = Resnet::from_weights(config, weights).unwrap();
        let pass = if case["name"] == "batch" { Pass::bare().normaliser(&Batch) } else { Pass::bare() };
        let got = AnyTensor::from(model.forward(&x, &pass).unwrap().logits.unwrap()).to_f64s();
        let far = distance(&got, &stored.any(case["expected"][0].as_str().unwrap()).unwrap().to_f64s());
        assert!(far <= tolerance, "{}: logits are off by {far:e}", case["name"]);
    }
}

/// A network's answers to `x` against what a case expects.
fn logits_agree(model: &dyn Model, stored: &Params, case: &serde_json::Value, tolerance: f64) {
    let pass = if case["config"]["statistics"] == "batch" { Pass::bare().normaliser(&Batch) } else { Pass::bare() };
    let outputs = model.forward(&Inputs::Images(stored.get("x").unwrap()), &pass).unwrap();
    for name in case["expected"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
        let got = if name == "features" { outputs.features.clone() } else { outputs.logits.clone().unwrap() };
        let far = distance(&AnyTensor::from(got).to_f64s(), &stored.any(name).unwrap().to_f64s());
        assert!(far <= tolerance, "{}: {name} are off by {far:e}", case["name"]);
    }
}

/// Every case of a golden, in both precisions.
fn cases_agree(name: &str, check: impl Fn(&Params, &serde_json::Value, f64)) {
    let golden = json(&format!("{name}.json"));
    for (dtype, precision) in [(DType::F64, "f64"), (DType::F32, "f32")] {
        let stored = tensors(&format!("{name}.safetensors"), dtype);
        for case in golden["cases"].as_array().unwrap() {
            check(&stored, case, golden["header"]["tolerance"][precision].as_f64().unwrap());
        }
    }
}

#[test]
fn convnet_logits_agree_with_every_norm() {
    cases_agree("convnet_tiny", |stored, case, tolerance| {
        let norm = match case["config"]["norm"].as_str().unwrap() {
            "batch" => Norm::Batch,
            "group" => Norm::Group(2),
            _ => Norm::Layer,
        };
        let config: ConvnetConfig = tiny::convnet_config(norm);
        let model = Convnet::from_weights(config, under(stored, case["weights"].as_str().unwrap())).unwrap();
        logits_agree(&model, stored, case, tolerance);
    });
}

#[test]
fn wide_resnet_logits_agree() {
    cases_agree("wide_resnet_tiny", |stored, case, tolerance| {
        let model = WideResnet::from_weights(tiny::wide_resnet_config(), under(stored, "net/")).unwrap();
        logits_agree(&model, stored, case, tolerance);
    });
}

#[test]
fn vit_states_and_logits_agree() {
    cases_agree("vit_tiny", |stored, case, tolerance| {
        let config: VitConfig = serde_json::from_value(case["config"].clone()).unwrap();
        logits_agree(&Vit::from_weights(config, under(stored, "net/")).unwrap(), stored, case, tolerance);
    });
}

#[test]
fn crepe_logits_agree() {
    cases_agree("crepe_tiny", |stored, case, tolerance| {
        let config: CrepeConfig = serde_json::from_value(case["config"].clone()).unwrap();
        logits_agree(&Crepe::from_weights(config, under(stored, "net/")).unwrap(), stored, case, tolerance);
    });
}

/// A folder of transformers' is read by its own names; torchvision's names give the same network.
#[test]
fn resnet_folders_of_hugging_face_agree() {
    cases_agree("resnet_hf_tiny", |stored, case, tolerance| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), case["config"].to_string()).unwrap();
        let prefix = case["weights"].as_str().unwrap();
        let weights = under(stored, prefix);
        write_safetensors(&folder.path().join("model.safetensors"), &weights, BTreeMap::new()).unwrap();
        let model = load(folder.path(), Base::Packed, &Device::flex()).unwrap();
        assert_eq!(model.sites()[0].name, "resnet.embedder.embedder.convolution");
        logits_agree(model.as_ref(), stored, case, tolerance);

        let config = ResnetConfig::in_folder(folder.path(), &weights).unwrap();
        let weights = under(stored, &prefix.replace('/', ".torchvision/"));
        let model = Resnet::from_weights(config, weights).unwrap();
        assert_eq!(model.head(), Some("fc"));
        logits_agree(&model, stored, case, tolerance);
    });
}

/// The tiny EfficientNet on images of even and of odd sizes, whose padding differs.
fn efficientnet_logits_agree(dtype: DType, tolerance: &str) {
    let golden = json("efficientnet_tiny.json");
    let stored = tensors("efficientnet_tiny.safetensors", dtype);
    let tolerance = golden["header"]["tolerance"][tolerance].as_f64().unwrap();
    let model = EfficientNet::from_weights(tiny::efficientnet_config(), under(&stored, "net/")).unwrap();
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
