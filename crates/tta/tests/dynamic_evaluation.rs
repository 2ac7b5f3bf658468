//! Dynamic evaluation against `reference/tta/dynamic_evaluation.py`.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::{Model, Params, Patch, Rng, Targets, read_safetensors};
use acclimate_models::{Llama, tiny};
use acclimate_tta::{DynamicEvaluation, Host, Reset, Rule, Stream, losses, segments};
use burn::tensor::{DType, Device};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name)
}

fn model(dtype: DType) -> Llama {
    let (stored, _) = read_safetensors(&golden("models/llama_tiny.safetensors"), &Device::flex()).unwrap();
    let mut weights = Params::default();
    for (name, tensor) in stored.cast(dtype).iter() {
        if let Some(name) =
            name.strip_prefix("llama/").filter(|name| name.starts_with("model.") || *name == "lm_head.weight")
        {
            weights.insert(name, tensor.clone());
        }
    }
    Llama::from_weights(tiny::llama_config(), weights).unwrap()
}

fn agrees(dtype: DType, tolerance: &str) {
    let golden_json: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("tta/dynamic_evaluation.json")).unwrap()).unwrap();
    let (tensors, _) = read_safetensors(&golden("tta/dynamic_evaluation.safetensors"), &Device::flex()).unwrap();
    let tolerance = golden_json["header"]["tolerance"][tolerance].as_f64().unwrap();
    let (model, device) = (model(dtype), Device::flex());
    for case in golden_json["cases"].as_array().unwrap() {
        let (name, config, expected) = (case["name"].as_str().unwrap(), &case["config"], &case["expected"]);
        let number = |key: &str| config[key].as_f64().unwrap_or(0.0);
        let words = |key: &str| -> Vec<u32> {
            case["inputs"][key].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
        };
        let cut =
            |words: &[u32]| segments(words, number("segment") as usize, number("context") as usize, dtype, &device);
        let method = DynamicEvaluation {
            rule: if config["rule"] == "rms" { Rule::Rms } else { Rule::Sgd },
            // The static case is a rate that moves nothing.
            lr: number("lr").max(1e-300),
            decay: number("lambda"),
            eps: number("eps"),
        };
        let mut patch = Patch::new();
        let full = acclimate_peft::build("full", &toml::Table::new()).unwrap();
        let all = Targets::Word("all".to_owned());
        acclimate_peft::place(&mut patch, &model, "full", full, Some(&all), &mut Rng::new(0, "patch", 0)).unwrap();
        let reference = cut(&words("training"));
        let host = Host::new(&model, patch).unwrap().reference(&reference);
        let mut stream = Stream::new(&method, host, Reset::Never).unwrap();
        let steps = expected["steps"].as_array().unwrap();
        let batches = cut(&words("stream"));
        assert_eq!(batches.len(), steps.len());
        for (at, (batch, step)) in batches.iter().zip(steps).enumerate() {
            let said = losses(stream.step(batch).unwrap(), batch).unwrap().mean();
            let (got, wanted) = (acclimate_core::total(vec![said]), step["loss"].as_f64().unwrap());
            assert!((got - wanted).abs() <= tolerance * (1.0 + wanted), "{name}, segment {at}: {got}, not {wanted}");
        }
        let mut compared = 0;
        for (of, wanted) in tensors.iter() {
            let Some(of) = of.strip_prefix(&format!("{name}/")) else { continue };
            let site = of.strip_suffix(".weight").unwrap();
            let got = stream.host().patch().params.any(&format!("{site}.full.weight")).unwrap().to_f64s();
            let far =
                got.iter().zip(wanted.to_f64s()).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
            assert!(far <= tolerance, "{name}: `{of}` is off by {far:e}");
            compared += 1;
        }
        assert_eq!(compared, 4, "{name}: tensors in the golden file");
        assert_eq!(model.sites().len(), 25);
    }
}

#[test]
fn losses_and_weights_agree_in_double_precision() {
    agrees(DType::F64, "f64");
}

#[test]
fn losses_and_weights_agree_in_single_precision() {
    agrees(DType::F32, "f32");
}
