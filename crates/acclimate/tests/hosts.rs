//! Networks with their published weights, where the assets are in the cache: `reference/models/real_hosts.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a golden without its numbers is a failure; what is skipped is told

use acclimate::core::{AnyTensor, Inputs, Model, Pass, read_safetensors};
use acclimate::dataset::Loaded;
use acclimate::models::{Base, CrepeConfig, EfficientNetConfig};
use acclimate_data::{Assets, Presence};
use burn::tensor::{DType, Device};
use serde_json::Value;
use std::path::PathBuf;

/// The model of an asset; nothing where it was not fetched.
fn real(name: &str) -> Option<Box<dyn Model>> {
    let assets = Assets::open(true).unwrap();
    if assets.list().iter().any(|(asset, presence, _)| asset.name == name && *presence == Presence::Present) {
        return Some(Loaded::open(&format!("asset:{name}"), Base::Dense, 256, &assets).unwrap().model);
    }
    println!("skipped: asset:{name} is not in the cache; `acclimate assets get {name}` brings it");
    None
}

/// Logits of images, against those of the golden case.
fn agree(model: &dyn Model, name: &str, values: Vec<f64>, shape: &[usize]) -> (Vec<f64>, Value) {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/models");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(golden.join("real_hosts.json")).unwrap()).unwrap();
    let case = json["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap().clone();
    let tensors = read_safetensors(&golden.join("real_hosts.safetensors"), &Device::flex()).unwrap().0;
    let x = AnyTensor::from_f64s(values, shape, DType::F32, &Device::flex()).get::<4>().unwrap();
    let got = AnyTensor::from(model.forward(&Inputs::Images(x), &Pass::bare()).unwrap().logits.unwrap()).to_f64s();
    let expected = tensors.any(case["expected"][0].as_str().unwrap()).unwrap().to_f64s();
    assert_eq!(got.len(), expected.len());
    let far = got.iter().zip(&expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
    println!("{name}: logits are off by {far:e}");
    assert!(far <= json["header"]["tolerance"]["f32"].as_f64().unwrap(), "logits are off by {far:e}");
    (got, case)
}

#[test]
fn efficientnet_lite0_gives_the_logits_of_torch() {
    let Some(model) = real("efficientnet-lite0") else { return };
    let byte = |c: i32, i: i32, j: i32| {
        f64::from((((3 * i + 40 * c) % 510 - 255).abs() + ((5 * j + 70 * c) % 510 - 255).abs()) / 2)
    };
    let pixels = (0..3).flat_map(|c| (0..224).flat_map(move |i| (0..224).map(move |j| byte(c, i, j) / 255.0)));
    agree(model.as_ref(), "efficientnet-lite0", pixels.collect(), &[1, 3, 224, 224]);
}

#[test]
fn crepe_hears_tones_as_torch_does() {
    let Some(model) = real("crepe-tiny") else { return };
    let tone = |f: f64| (0..1024).map(move |t| 0.3 * (2.0 * std::f64::consts::PI * f * f64::from(t) / 16000.0).sin());
    let frames = [110.0, 220.0, 440.0, 880.0].into_iter().flat_map(tone).collect();
    let (logits, case) = agree(model.as_ref(), "crepe-tiny", frames, &[4, 1, 1024, 1]);
    let best = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let best: Vec<usize> = logits.chunks(360).map(best).collect();
    assert_eq!(serde_json::json!(best), case["config"]["best"]);
}

/// What the assets' own configurations say is what the library calls these networks.
#[test]
fn assets_are_described_as_the_library_knows_them() {
    let assets = Assets::open(true).unwrap();
    let told = |name: &str| {
        let asset = assets.find(name).unwrap();
        let config = asset.files.iter().find(|file| file.name == "config.json").unwrap();
        let Some(acclimate_data::Made::Text(text)) = &config.make else { panic!("{name} is told by a text") };
        text.clone()
    };
    let lite0: EfficientNetConfig = serde_json::from_str(&told("efficientnet-lite0")).unwrap();
    assert_eq!(lite0, EfficientNetConfig::lite0());
    assert_eq!(serde_json::from_str::<CrepeConfig>(&told("crepe-tiny")).unwrap(), CrepeConfig::tiny());
}
