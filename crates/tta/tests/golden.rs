//! Every method beside the run that `reference/tta` has written: its authors' script, or what the file's header says.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{AnyTensor, Entry, Inputs, Need, Params, Patch, Rng, Targets, find, read_safetensors};
use acclimate_models::{Norm, Resnet, tiny};
use acclimate_tta::{AnyTestTime, Host, METHODS, Reset, Stream};
use burn::tensor::{DType, Device};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use std::{path::PathBuf, process::ExitCode};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name)
}

/// Settings as a method reads them: `null` is no limit.
fn table(settings: &Value) -> toml::Table {
    let value = |value: &Value| match value {
        Value::Null => toml::Value::Float(f64::INFINITY),
        value => toml::Value::try_from(value).unwrap(),
    };
    settings.as_object().unwrap().iter().map(|(name, setting)| (name.clone(), value(setting))).collect()
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

fn model(kind: &str, dtype: DType) -> Resnet {
    let norm = if kind == "group" { Norm::Group(4) } else { Norm::Batch };
    let prefix = format!("{kind}_norm/");
    let (stored, _) = read_safetensors(&golden("models/resnet_tiny.safetensors"), &Device::flex()).unwrap();
    let mut weights = Params::default();
    for (name, tensor) in stored.cast(dtype).iter() {
        if let Some(name) = name.strip_prefix(&prefix) {
            weights.insert(name, tensor.clone());
        }
    }
    Resnet::from_weights(tiny::resnet_config(norm), weights).unwrap()
}

/// The batches that all cases share, `batch` or `reference`.
fn batches(of: &str, dtype: DType) -> Vec<Inputs> {
    let (stored, _) = read_safetensors(&golden("tta/stream.safetensors"), &Device::flex()).unwrap();
    let at = |at: usize| stored.any(&format!("{of}/{at}"))?.cast(dtype).get::<4>();
    (0..).map_while(at).map(Inputs::Images).collect()
}

/// The patch that trains what the case says.
fn patch(model: &Resnet, train: Option<&str>) -> Patch {
    let mut patch = Patch::new();
    if let Some(name) = train {
        let all = (name == "full").then(|| Targets::Word("all".to_owned()));
        let adapter = acclimate_peft::build(name, &toml::Table::new()).unwrap();
        acclimate_peft::place(&mut patch, model, name, adapter, all.as_ref(), &mut Rng::new(0, "patch", 0)).unwrap();
    }
    patch
}

/// The authors' name of a patch's tensor: `norm.weight` for `norm.full.weight`.
fn plain(name: &str) -> String {
    name.replace(".full.", ".")
}

/// All cases of a method's file but those that follow a slip of their source.
fn equals_its_reference(entry: &Entry<dyn AnyTestTime>, dtype: DType, precision: &str) {
    let text = std::fs::read_to_string(golden(&format!("tta/{}.json", entry.card.name))).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let (batches, reference) = (batches("batch", dtype), batches("reference", dtype));
    let labels = vec![(0..8).map(|row| row % 3).collect::<Vec<_>>(); reference.len()];
    let Some(tolerance) = golden["header"]["tolerance"][precision].as_f64() else { return };
    for case in golden["cases"].as_array().unwrap().iter().filter(|case| case.get("compat").is_none()) {
        let (name, host) = (case["name"].as_str().unwrap(), &case["host"]);
        let model = model(case["norm"].as_str().unwrap(), dtype);
        let optimiser = host.get("optimiser").map(|given| {
            let entry = find(acclimate_optim::METHODS, given["method"].as_str().unwrap()).unwrap();
            entry.build(&table(&given["settings"])).unwrap()
        });
        let statistics = host.get("statistics").map(|given| {
            find(METHODS, given["method"].as_str().unwrap()).unwrap().build(&table(&given["settings"])).unwrap()
        });
        let method = entry.build(&table(&case["settings"])).unwrap();
        let made = Host::new(&model, patch(&model, host["train"].as_str())).unwrap();
        let mut made = made.reference(&reference).labels(&labels).unwrap();
        if let Some(optimiser) = &optimiser {
            made = made.optimiser(optimiser.as_ref()).unwrap();
        }
        if let Some(statistics) = &statistics {
            made = made.statistics(statistics.as_ref()).unwrap();
        }
        let reset = if host["reset"] == "episodic" { Reset::Episodic } else { Reset::Never };
        let mut stream = Stream::new(method.as_ref(), made, reset).unwrap();
        let near = |what: &str, got: &AnyTensor, expected: &Value| {
            let far = distance(got, expected);
            assert!(far <= tolerance, "{name}: {what} is off by {far:e}");
        };
        let steps = case["expected"].as_array().unwrap();
        assert_eq!(batches.len(), steps.len());
        for (step, (batch, expected)) in batches.iter().zip(steps).enumerate() {
            near(&format!("logits {step}"), &stream.step(batch).unwrap().into(), &expected["logits"]);
            if let Some(params) = expected["params"].as_object() {
                let own = &stream.host().patch().params;
                assert_eq!(own.len(), params.len(), "{name}: trained tensors");
                for (of, got) in own.iter() {
                    near(&format!("{of} after batch {step}"), got, &params[&plain(of)]);
                }
            }
            let saved = stream.save();
            for (of, value) in expected["state"].as_object().into_iter().flatten() {
                let found = saved.tensors.any(&format!("method:{of}"));
                let got = found.unwrap_or_else(|| panic!("{name}: no `{of}` among what the method remembers"));
                near(&format!("{of} after batch {step}"), got, value);
            }
        }
    }
}

fn main() -> ExitCode {
    let read = |entry: &&Entry<dyn AnyTestTime>| !entry.card.needs(Need::Text);
    let trials = METHODS.iter().filter(read).flat_map(|entry| {
        [("double", DType::F64, "f64"), ("single", DType::F32, "f32")].map(|(word, dtype, precision)| {
            let name = format!("{} equals its reference in {word} precision", entry.card.name);
            Trial::test(name, move || {
                equals_its_reference(entry, dtype, precision);
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
