//! all-MiniLM-L6-v2 in f32 against the f64 states of transformers in `golden/models/bert.safetensors`.
//!
//! `cargo run --release -p acclimate-models --example minilm_parity -- FOLDER [GOLDEN]`: the folder holds `config.json` and
//! `model.safetensors`. Prints the largest difference of each set of states relative to their largest value, and fails when one
//! exceeds 1e-4.
#![allow(clippy::print_stdout)]

use acclimate_core::{AnyTensor, Error, Inputs, Model, Params, Pass, Result, Tokens, read_safetensors};
use acclimate_models::{Bert, BertConfig};
use burn::tensor::{DType, Device};
use safetensors::SafeTensors;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Single precision over six layers; transformers' own f32 run is within 1e-5 of its f64 run.
const TOLERANCE: f64 = 1e-4;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or_else(|| Error::Other("give the folder of the model".to_owned()))?;
    let golden = arguments.next().unwrap_or_else(|| PathBuf::from("golden/models/bert.safetensors"));
    let (device, bytes) = (Device::flex(), std::fs::read(&golden).map_err(|e| Error::io(&golden, e))?);
    let (expected, _) = read_safetensors(&golden, &device)?;
    let [ids, types, mask] =
        ["input_ids", "token_type_ids", "attention_mask"].map(|name| whole_numbers(&golden, &bytes, name));
    let (ids, types, mask) = (ids?, types?, mask?);
    let real = |row: usize, numbers: &[Vec<u32>]| -> Vec<u32> {
        numbers[row].iter().zip(&mask[row]).filter(|(_, m)| **m == 1).map(|(n, _)| *n).collect()
    };
    let rows: Vec<_> = (0..ids.len()).map(|row| (real(row, &ids), real(row, &types))).collect();
    let inputs = Inputs::Tokens(Tokens::new(&rows, DType::F32, &device));
    let model = Bert::load(&folder, &device)?;
    let mut worst = 0f64;
    for layers in [0, 3, model.config().num_hidden_layers] {
        let config = BertConfig { num_hidden_layers: layers, ..model.config().clone() };
        let outputs = Bert::from_weights(config, model.weights().clone())?.forward(&inputs, &Pass::bare())?;
        let Some(states) = outputs.states else { return Err(Error::Other("bert answered without states".to_owned())) };
        let h = states.h;
        let norms = h.clone().square().sum_dim(2).sqrt();
        worst = worst.max(compare(&expected, &format!("hidden.{layers}.first16"), &h.narrow(2, 0, 16).into(), &mask)?);
        worst = worst.max(compare(&expected, &format!("hidden.{layers}.norm"), &norms.into(), &mask)?);
        if layers == model.config().num_hidden_layers {
            let unit = outputs.features.clone() / outputs.features.square().sum_dim(1).sqrt();
            worst = worst.max(compare(&expected, "embedding", &unit.into(), &vec![vec![1]; ids.len()])?);
        }
    }
    println!("largest {worst:.3e}, allowed {TOLERANCE:e}");
    Ok(if worst <= TOLERANCE { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The largest difference at real tokens over the largest expected value there.
fn compare(expected: &Params, name: &str, got: &AnyTensor, mask: &[Vec<u32>]) -> Result<f64> {
    let expected = expected.any(name).ok_or_else(|| Error::unknown("tensor", name, expected.names()))?.to_f64s();
    let places = mask.iter().flatten();
    let per_place = expected.len() / places.clone().count();
    let (mut difference, mut largest) = (0f64, 0f64);
    let pairs =
        expected.chunks(per_place).zip(got.to_f64s().chunks(per_place).map(<[f64]>::to_vec).collect::<Vec<_>>());
    for ((expected, got), _) in pairs.zip(places).filter(|(_, m)| **m == 1) {
        for (e, g) in expected.iter().zip(&got) {
            difference = difference.max((e - g).abs());
            largest = largest.max(e.abs());
        }
    }
    println!("{name}: {:.3e}", difference / largest);
    Ok(difference / largest)
}

fn whole_numbers(file: &Path, bytes: &[u8], name: &str) -> Result<Vec<Vec<u32>>> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::format(file, e.to_string()))?;
    let view = tensors.tensor(name).map_err(|e| Error::format(file, e.to_string()))?;
    let numbers: Vec<u32> = view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
    Ok(numbers.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect())
}
