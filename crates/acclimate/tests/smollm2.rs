//! SmolLM2-135M-Instruct against `transformers`, where the asset is in the cache: `reference/models/smollm2.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a golden without its numbers is a failure; distances are told

use acclimate::core::{AnyTensor, Cache, Inputs, Model, Params, Pass, Tokens, read_safetensors};
use acclimate::dataset::Loaded;
use acclimate::models::{Base, Sampling, generate};
use acclimate_data::{Assets, Inputs as Rows, Message, Presence};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/models").join(name)
}

struct Real {
    loaded: Loaded,
    case: Value,
    tolerance: f64,
    tensors: Params,
    ids: Vec<Vec<u32>>,
}

/// The model with its numbers; nothing where it was not fetched.
fn real(base: Base) -> Option<Real> {
    let assets = Assets::open(true).unwrap();
    let here =
        assets.list().iter().any(|(asset, presence, _)| asset.name == "smollm2" && *presence == Presence::Present);
    if !here {
        println!("skipped: asset:smollm2 is not in the cache; `acclimate assets get smollm2` brings it");
        return None;
    }
    let json: Value = serde_json::from_str(&std::fs::read_to_string(golden("smollm2.json")).unwrap()).unwrap();
    let case = json["cases"][0].clone();
    let ids = serde_json::from_value(case["inputs"]["ids"].clone()).unwrap();
    let tolerance = json["header"]["tolerance"]["f32"].as_f64().unwrap();
    let tensors = read_safetensors(&golden("smollm2.safetensors"), &Device::flex()).unwrap().0;
    let loaded = Loaded::open("asset:smollm2", base, 256, &assets).unwrap();
    Some(Real { loaded, case, tolerance, tensors, ids })
}

fn scores(model: &dyn Model, tokens: Tokens, pass: &Pass<'_>) -> Vec<f64> {
    let features = model.forward(&Inputs::Tokens(tokens), pass).unwrap().features;
    AnyTensor::from(pass.scores(model, features).unwrap()).to_f64s()
}

/// The largest difference, in shares of the largest value.
fn distance(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn logits_of_padded_prompts_are_those_of_transformers() {
    for base in [Base::Packed, Base::Dense] {
        let Some(real) = real(base) else { return };
        let (model, device) = (real.loaded.model.as_ref(), Device::flex());
        let expected = real.tensors.any("logits").unwrap().to_f64s();
        let rows: Vec<_> = real.ids.iter().map(|ids| (ids.clone(), vec![])).collect();
        for (how, tokens) in [
            ("behind", Tokens::new(&rows, DType::F32, &device)),
            ("in front", Tokens::ending(&real.ids, DType::F32, &device)),
        ] {
            let far = distance(&scores(model, tokens, &Pass::bare()), &expected);
            println!("{base:?}, padded {how}: logits off by {far:.3e} of the largest, allowed {:.0e}", real.tolerance);
            assert!(far <= real.tolerance);
        }
    }
}

#[test]
fn losses_are_those_of_transformers() {
    let Some(real) = real(Base::Packed) else { return };
    let (model, device) = (real.loaded.model.as_ref(), Device::flex());
    let expected: Vec<f64> = serde_json::from_value(real.case["expected"]["losses"].clone()).unwrap();
    for (ids, expected) in real.ids.iter().zip(expected) {
        let tokens = Tokens::packed(&[ids], DType::F32, &device);
        let states = model.forward(&Inputs::Tokens(tokens), &Pass::bare()).unwrap().states.unwrap().h;
        let states = states.squeeze_dim::<2>(0).narrow(0, 0, ids.len() - 1);
        let next: Vec<i64> = ids[1..].iter().map(|&id| i64::from(id)).collect();
        let next = Tensor::<1, Int>::from_data(TensorData::new(next, [ids.len() - 1]), &device);
        let got = Pass::bare().cross_entropy(model, states, next).unwrap().mean().into_scalar::<f64>();
        assert!((got - expected).abs() <= real.tolerance * (1.0 + expected), "{got}, not {expected}");
    }
}

#[test]
fn reading_on_gives_what_the_whole_text_gives() {
    let Some(real) = real(Base::Packed) else { return };
    let (model, device) = (real.loaded.model.as_ref(), Device::flex());
    let ids = real.ids.iter().max_by_key(|ids| ids.len()).unwrap();
    let whole = scores(model, Tokens::packed(&[ids], DType::F32, &device), &Pass::bare());
    let (first, last) = ids.split_at(ids.len() / 2);
    let cache = Cache::default();
    let pass = Pass::bare().cache(&cache);
    let mut read = scores(model, Tokens::packed(&[first], DType::F32, &device), &pass);
    for &id in last {
        read = scores(model, Tokens::next(&[id], &[0], DType::F32, &device), &pass);
    }
    let far = distance(&read, &whole);
    println!("read on: logits off by {far:.3e} of the largest, allowed 1e-5");
    assert!(far <= 1e-5);
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    for base in [Base::Packed, Base::Dense] {
        let Some(real) = real(base) else { return };
        for wanted in real.case["expected"]["greedy"].as_array().unwrap() {
            let row = wanted["prompt"].as_u64().unwrap() as usize;
            let ids: Vec<u32> = serde_json::from_value(wanted["ids"].clone()).unwrap();
            let sampling = Sampling { max_tokens: ids.len(), ..Sampling::default() };
            let on = &mut |_, _| ControlFlow::Continue(());
            let prompts = &real.ids[row..=row];
            let texts = generate(real.loaded.model.as_ref(), &[], prompts, &sampling, &[], on).unwrap();
            assert_eq!(texts[0], ids, "{base:?}: {}", wanted["text"]);
            println!("{base:?}: {} words of prompt {row} are the same", ids.len());
        }
    }
}

#[test]
fn the_capital_of_france_is_paris() {
    let Some(real) = real(Base::Packed) else { return };
    let sampling = Sampling { max_tokens: 2, ..Sampling::default() };
    let writing = acclimate::write::Writing { sampling, stop: vec![".".to_owned()], raw: true };
    let rows = Rows::Dialogues(vec![vec![Message::new("user", "The capital of France is")]]);
    let mut told = String::new();
    let texts = acclimate::write::write(&real.loaded, &Default::default(), &rows, &writing, &mut |_, piece| {
        told.push_str(piece);
        Ok(())
    });
    assert_eq!((texts.unwrap(), told.as_str()), (vec![" Paris".to_owned()], " Paris"));
}
