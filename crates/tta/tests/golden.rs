//! Tent against `reference/tta/tent.py`.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::{AnyOptimiser, AnyTensor, Inputs, Params, Patch, Rng, read_safetensors};
use acclimate_models::{Norm, Resnet, tiny};
use acclimate_optim::{Adamw, Sgd};
use acclimate_tta::{Host, Loss, Reset, Stream, Tent, entropy};
use burn::tensor::{DType, Device};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name)
}

fn tensor(value: &Value, dtype: DType) -> AnyTensor {
    let shape: Vec<usize> = value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let data = value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    AnyTensor::from_f64s(data, &shape, dtype, &Device::flex())
}

/// The largest |got − expected| / (1 + |expected|), which the header's tolerance bounds.
fn distance(got: &AnyTensor, expected: &Value) -> f64 {
    let (got, expected) = (got.to_f64s(), tensor(expected, DType::F64).to_f64s());
    assert_eq!(got.len(), expected.len());
    got.iter().zip(&expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

/// The authors' name of a patch's tensor: `norm.weight` for `norm.full.weight`.
fn plain(name: &str) -> String {
    name.replace(".full.", ".")
}

fn model(file: &str, prefix: &str, dtype: DType) -> Resnet {
    let (stored, _) = read_safetensors(&golden(file), &Device::flex()).unwrap();
    let mut weights = Params::default();
    for (name, tensor) in stored.cast(dtype).iter() {
        if let Some(name) = name.strip_prefix(prefix) {
            weights.insert(name, tensor.clone());
        }
    }
    Resnet::from_weights(tiny::resnet_config(Norm::Batch), weights).unwrap()
}

fn agrees(dtype: DType, tolerance: &str) {
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden("tta/tent.json")).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"][tolerance].as_f64().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let (name, inputs, config, expected) = (&case["name"], &case["inputs"], &case["config"], &case["expected"]);
        let file = format!("{}.safetensors", inputs["model"].as_str().unwrap());
        let model = model(&file, inputs["weights"].as_str().unwrap(), dtype);
        let mut patch = Patch::new();
        let full = acclimate_peft::build("norm_tuning", &toml::Table::new()).unwrap();
        acclimate_peft::place(&mut patch, &model, "norm_tuning", full, None, &mut Rng::new(0, "patch", 0)).unwrap();

        let near = |what: &str, got: &AnyTensor, expected: &Value| {
            let far = distance(got, expected);
            assert!(far <= tolerance, "{name}: {what} is off by {far:e}");
        };
        let batch = |value: &Value| Inputs::Images(tensor(value, dtype).get::<4>().unwrap());
        let batches: Vec<Inputs> = inputs["batches"].as_array().unwrap().iter().map(batch).collect();
        let mut host = Host::new(&model, patch.clone()).unwrap();
        let gradient = host.gradient(|taped| {
            let seen = taped.forward(&batches[0])?;
            let loss = Loss::mean(entropy(seen.logits.clone()));
            Ok((seen, Some(loss)))
        });
        let gradient = gradient.unwrap().1.unwrap();
        assert_eq!(gradient.gradients.len(), expected["gradients"].as_object().unwrap().len());
        for (name, got) in gradient.gradients.iter() {
            near(&format!("gradient of {name}"), got, &expected["gradients"][plain(name)]);
        }

        let setting = |key: &str| config["optimiser"][key].as_f64().unwrap();
        let optimiser: Box<dyn AnyOptimiser> = if config["optimiser"]["name"] == "adam" {
            Box::new(Adamw { lr: setting("lr"), beta1: 0.9, beta2: 0.999, eps: setting("eps") })
        } else {
            Box::new(Sgd { lr: setting("lr"), momentum: setting("momentum"), nesterov: true })
        };
        let method = Tent { steps: config["steps"].as_u64().unwrap() as usize };
        let reset = if config["episodic"] == true { Reset::Episodic } else { Reset::Never };
        let host = Host::new(&model, patch).unwrap().optimiser(optimiser.as_ref()).unwrap();
        let mut stream = Stream::new(&method, host, reset).unwrap();
        for (step, (batch, expected)) in batches.iter().zip(expected["steps"].as_array().unwrap()).enumerate() {
            let logits = stream.step(batch).unwrap();
            near(&format!("logits {step}"), &logits.into(), &expected["logits"]);
            let (got, entropy) = (stream.report().entropies[step], expected["entropy"].as_f64().unwrap());
            assert!((got - entropy).abs() <= tolerance * (1.0 + entropy), "{name}: entropy {got} is not {entropy}");
            for (name, got) in stream.host().patch().params.iter() {
                near(&format!("{name} after step {step}"), got, &expected["params"][plain(name)]);
            }
        }
    }
}

#[test]
fn tent_agrees_with_the_authors_script_in_double_precision() {
    agrees(DType::F64, "f64");
}

#[test]
fn tent_agrees_with_the_authors_script_in_single_precision() {
    agrees(DType::F32, "f32");
}
