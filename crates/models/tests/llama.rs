//! Decoders against the numbers of `transformers`: `reference/models/llama_tiny.py`.
#![allow(clippy::unwrap_used)] // a golden without its numbers is a failure

use acclimate_core::{AnyTensor, Inputs, Model, Params, Pass, Patch, Rng, Targets, Tokens, read_safetensors};
use acclimate_models::{Llama, LlamaConfig, Sampling, generate};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/models").join(name)
}

struct Golden {
    json: Value,
    tensors: Params,
    ids: Vec<Vec<u32>>,
    packed: Vec<u32>,
}

impl Golden {
    fn new(dtype: DType) -> Self {
        let json: Value = serde_json::from_str(&std::fs::read_to_string(file("llama_tiny.json")).unwrap()).unwrap();
        let tensors = read_safetensors(&file("llama_tiny.safetensors"), &Device::flex()).unwrap().0.cast(dtype);
        let bytes = std::fs::read(file("llama_tiny.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let whole = |name: &str| -> Vec<u32> {
            let view = stored.tensor(name).unwrap();
            view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
        };
        let ids = whole("right.input_ids").chunks(7).zip([7, 4, 1]).map(|(row, n)| row[..n].to_vec()).collect();
        Self { json, tensors, ids, packed: whole("packed.input_ids") }
    }

    fn cases(&self) -> impl Iterator<Item = (&str, &Value, Llama)> {
        self.json["cases"].as_array().unwrap().iter().map(|case| {
            let config: LlamaConfig = serde_json::from_value(case["config"].clone()).unwrap();
            let from = if case["name"] == "qwen2" { "qwen2/" } else { "llama/" };
            let mut weights = Params::default();
            for (name, tensor) in self.tensors.iter() {
                let name =
                    name.strip_prefix(from).filter(|name| name.starts_with("model.") || *name == "lm_head.weight");
                if let Some(name) = name {
                    weights.insert(name, tensor.clone());
                }
            }
            (case["name"].as_str().unwrap(), case, Llama::from_weights(config, weights).unwrap())
        })
    }
}

/// The largest |got − expected| / (1 + |expected|), which the header's tolerance bounds.
fn distance(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

fn flat(states: Tensor<3>) -> Tensor<2> {
    let [rows, length, width] = states.dims();
    states.reshape([rows * length, width])
}

/// The numbers of the positions that are no padding.
fn real(all: &[f64], mask: &[bool]) -> Vec<f64> {
    let width = all.len() / mask.len();
    all.chunks(width).zip(mask).filter(|(_, real)| **real).flat_map(|(row, _)| row.iter().copied()).collect()
}

fn agrees(dtype: DType, tolerance: &str) {
    let golden = Golden::new(dtype);
    let tolerance = golden.json["header"]["tolerance"][tolerance].as_f64().unwrap();
    let device = Device::flex();
    let rows: Vec<_> = golden.ids.iter().map(|ids| (ids.clone(), vec![])).collect();
    let documents = [&golden.packed[..5], &golden.packed[5..]];
    let pad = |front: bool| -> Vec<bool> {
        golden
            .ids
            .iter()
            .flat_map(|ids| (0..7).map(move |at| if front { at >= 7 - ids.len() } else { at < ids.len() }))
            .collect()
    };
    let batches = [
        ("right", Tokens::new(&rows, dtype, &device), pad(false)),
        ("left", Tokens::ending(&golden.ids, dtype, &device), pad(true)),
        ("packed", Tokens::packed(&documents, dtype, &device), vec![true; 9]),
    ];
    let mut seen = 0;
    for (name, _, model) in golden.cases() {
        for (batch, tokens, mask) in &batches {
            let pass = Pass::bare();
            let states = model.forward(&Inputs::Tokens(tokens.clone()), &pass).unwrap().states.unwrap().h;
            let scores = pass.scores(&model, flat(states.clone())).unwrap();
            for (what, got) in [("hidden.2", AnyTensor::from(states)), ("logits", AnyTensor::from(scores))] {
                let expected = golden.tensors.any(&format!("{name}/{batch}.{what}")).unwrap().to_f64s();
                let far = distance(&real(&got.to_f64s(), mask), &real(&expected, mask));
                assert!(far <= tolerance, "{name}, {batch}: {what} off by {far:e}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 5 * 3 * 2);
}

#[test]
fn states_and_logits_agree_in_double_precision() {
    agrees(DType::F64, "f64");
}

#[test]
fn states_and_logits_agree_in_single_precision() {
    agrees(DType::F32, "f32");
}

fn gradients_agree(dtype: DType, tolerance: &str) {
    let golden = Golden::new(dtype);
    let tolerance = golden.json["header"]["tolerance"][tolerance].as_f64().unwrap();
    for (name, case, model) in golden.cases().take(2) {
        let mut patch = Patch::new();
        let full = acclimate_peft::build("full", &toml::Table::new()).unwrap();
        let all = Targets::Word("all".to_owned());
        acclimate_peft::place(&mut patch, &model, "full", full, Some(&all), &mut Rng::new(0, "patch", 0)).unwrap();
        let tracked = patch.tracked();
        let pass = Pass::new(&tracked);
        let tokens = Tokens::packed(&golden.ids, dtype, &Device::flex());
        let states = flat(model.forward(&Inputs::Tokens(tokens), &pass).unwrap().states.unwrap().h);
        let (mut before, mut targets, mut start) = (vec![], vec![], 0);
        for ids in &golden.ids {
            for (at, &id) in ids.iter().enumerate().skip(1) {
                before.push((start + at - 1) as i64);
                targets.push(i64::from(id));
            }
            start += ids.len();
        }
        let whole = |x: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(x.clone(), [x.len()]), &Device::flex());
        let losses = pass.cross_entropy(&model, states.select(0, whole(before)), whole(targets)).unwrap();
        let loss = losses.mean();
        let (got, wanted) =
            (acclimate_core::total(vec![loss.clone().inner()]), case["expected"]["loss"]["right"].as_f64().unwrap());
        assert!((got - wanted).abs() <= tolerance * (1.0 + wanted), "{name}: a loss of {got}, not {wanted}");
        let gradients = tracked.params.gradients(&mut loss.backward());
        for (param, gradient) in gradients.iter() {
            let wanted = golden.tensors.any(&format!("{name}/gradients/{}", param.replace(".full.", "."))).unwrap();
            let far = distance(&gradient.to_f64s(), &wanted.to_f64s());
            assert!(far <= tolerance, "{name}: gradient of `{param}` off by {far:e}");
        }
    }
}

#[test]
fn loss_and_gradients_agree() {
    gradients_agree(DType::F64, "f64");
    gradients_agree(DType::F32, "f32");
}

#[test]
fn greedy_texts_agree() {
    for dtype in [DType::F64, DType::F32] {
        let golden = Golden::new(dtype);
        for (name, case, model) in golden.cases().take(2) {
            let sampling = Sampling { max_tokens: 12, ..Sampling::default() };
            let on = &mut |_, _| ControlFlow::Continue(());
            let texts = generate(&model, &[], &golden.ids, &sampling, &[], on).unwrap();
            let wanted: Vec<Vec<u32>> = serde_json::from_value(case["expected"]["greedy"].clone()).unwrap();
            assert_eq!(texts, wanted, "{name}");
        }
    }
}
