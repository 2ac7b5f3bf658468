//! Folders that the `peft` package has written, read here: the answers are its own.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use acclimate_core::{Inputs, Model, Pass, Tokens, read_safetensors};
use acclimate_models::{Base, load as load_model};
use acclimate_peft::load;
use burn::tensor::{DType, Device, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/interop").join(name)
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// States, scores or logits, `[positions, numbers]`, zero where nothing stands.
fn answer(model: &dyn Model, inputs: &Inputs, pass: &Pass<'_>) -> Vec<f32> {
    let outputs = model.forward(inputs, pass).unwrap();
    let numbers = match outputs.states {
        None => outputs.logits.unwrap(),
        Some(seq) => {
            let [batch, length, width] = seq.h.dims();
            let rows = seq.h.reshape([batch * length, width]);
            let rows = if model.vocabulary().is_some() { pass.scores(model, rows).unwrap() } else { rows };
            rows * seq.mask.reshape([batch * length, 1])
        }
    };
    acclimate_core::AnyTensor::from(numbers).to_f32s()
}

#[test]
fn folders_of_peft_answer_as_they_do_there() {
    let list = json(&golden("folders.json"));
    let tolerance = list["header"]["tolerance"]["f32"].as_f64().unwrap() as f32;
    for case in list["cases"].as_array().unwrap().iter().map(|case| case.as_str().unwrap()) {
        let about = json(&golden(case).join("case.json"));
        let place = golden("models").join(about["model"].as_str().unwrap());
        let model = load_model(&place, Base::Dense, &Device::flex()).unwrap();
        let patch = load(&golden(case), model.as_ref()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let (io, _) = read_safetensors(&golden(case).join("io.safetensors"), &Device::flex()).unwrap();
        let inputs = match io.any("images").and_then(|images| images.get()) {
            Some(images) => Inputs::Images(images),
            None => {
                let (ids, mask): (Tensor<2>, Vec<f32>) = (io.get("ids").unwrap(), io.any("mask").unwrap().to_f32s());
                let [rows, length] = ids.dims();
                let ids = acclimate_core::AnyTensor::from(ids).to_f32s();
                let row = |row: usize| {
                    let at = row * length..(row + 1) * length;
                    let kept = ids[at.clone()].iter().zip(&mask[at]).filter(|(_, mask)| **mask > 0.0);
                    let ids: Vec<u32> = kept.map(|(id, _)| *id as u32).collect();
                    let types = vec![0; ids.len()];
                    (ids, types)
                };
                let rows: Vec<_> = (0..rows).map(row).collect();
                Inputs::Tokens(Tokens::new(&rows, DType::F32, &Device::flex()))
            }
        };
        let expected = io.any("adapted").unwrap().to_f32s();
        let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let apart = |found: &[f32]| {
            assert_eq!(found.len(), expected.len(), "{case}");
            found.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
        };
        let found = apart(&answer(model.as_ref(), &inputs, &Pass::new(&patch)));
        assert!(found <= tolerance, "{case}: off by {found:e} of the largest");
        assert!(apart(&answer(model.as_ref(), &inputs, &Pass::bare())) > 0.01, "{case}: the adapter does something");
        let merged = model.with_weights(patch.merge(model.as_ref()).unwrap()).unwrap();
        let found = apart(&answer(merged.as_ref(), &inputs, &Pass::bare()));
        assert!(found <= tolerance, "{case}, merged: off by {found:e} of the largest");
    }
}
