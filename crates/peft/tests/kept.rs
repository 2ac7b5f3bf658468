//! Modules that a folder of the `peft` package keeps whole.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use acclimate_core::{AnyTensor, Model, Params, Patch, Result, Rng, Targets, read_safetensors, write_safetensors};
use acclimate_models::{LlamaConfig, tiny};
use acclimate_peft::{build, load, place};
use burn::tensor::{DType, Device};
use std::path::Path;

fn lora(model: &dyn Model, target: &str) -> Patch {
    let mut patch = Patch::new();
    add(&mut patch, model, "lora", "rank = 2", target);
    patch
}

fn add(patch: &mut Patch, model: &dyn Model, name: &str, settings: &str, target: &str) {
    let targets = Targets::Word(target.to_owned());
    let adapter = build(name, &settings.parse().unwrap()).unwrap();
    place(patch, model, name, adapter, Some(&targets), &mut Rng::new(0, "patch", 0)).unwrap();
}

/// Reads a folder with LoRA at `target` as the package would have written it, with some modules kept whole.
fn with_kept(model: &dyn Model, target: &str, names: &[&str], kept: &[(&str, AnyTensor)]) -> Result<Patch> {
    let folder = tempfile::tempdir().unwrap();
    lora(model, target).save(folder.path()).unwrap();
    let (config, weights) =
        (folder.path().join("adapter_config.json"), folder.path().join("adapter_model.safetensors"));
    let mut settings: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    settings["modules_to_save"] = serde_json::json!(names);
    std::fs::write(&config, settings.to_string()).unwrap();
    let mut tensors = read_safetensors(&weights, &Device::flex()).unwrap().0;
    for (name, tensor) in kept {
        tensors.insert(format!("base_model.model.{name}"), tensor.clone());
    }
    write_safetensors(&weights, &tensors, Default::default()).unwrap();
    load(folder.path(), model)
}

fn own(weights: &Params, name: &str, factor: f64) -> AnyTensor {
    let tensor = weights.any(name).unwrap();
    let values = tensor.to_f64s().into_iter().map(|x| x * factor).collect();
    AnyTensor::from_f64s(values, &tensor.shape(), tensor.dtype(), &tensor.device())
}

fn peft_type(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["peft_type"].as_str().unwrap().to_owned()
}

#[test]
fn ends_of_names_are_kept_without_a_dot_before_them() {
    let model = tiny::llama(1, DType::F32);
    let name = "model.layers.0.input_layernorm.weight";
    let changed = own(model.weights(), name, 2.0);
    let patch = with_kept(&model, "q_proj", &["norm"], &[(name, changed.clone())]).unwrap();
    let kept = patch.params.iter().find(|(name, _)| name.starts_with("model.layers.0.input_layernorm")).unwrap().1;
    assert_eq!(kept.to_f64s(), changed.to_f64s());
}

#[test]
fn a_kept_module_without_all_its_tensors_is_refused() {
    let model = tiny::bert(1, DType::F32);
    let name = "encoder.layer.0.output.LayerNorm";
    let weight = format!("{name}.weight");
    let kept = [(weight.as_str(), own(model.weights(), &weight, 2.0))];
    let error = with_kept(&model, "query", &["layer.0.output.LayerNorm"], &kept).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("no `bias`"), "{error}");
}

#[test]
fn a_tied_table_kept_whole_is_refused() {
    let config = LlamaConfig { tie_word_embeddings: true, ..tiny::llama_config() };
    let model = tiny::llama_with(config, 1, DType::F32);
    let name = "model.embed_tokens.weight";
    let table = own(model.weights(), name, 2.0);
    let error = with_kept(&model, "q_proj", &["embed_tokens"], &[(name, table)]).unwrap_err().to_string();
    assert!(error.contains("tied to the output"), "{error}");
}

#[test]
fn running_statistics_beside_a_kept_batch_norm_must_be_the_models() {
    let model = tiny::resnet(1, DType::F32);
    let tensors = |factor| {
        ["weight", "bias", "running_mean", "running_var"].map(|part| {
            let name = format!("stem.norm.{part}");
            let tensor = own(model.weights(), &name, if part == "running_var" { factor } else { 1.0 });
            (name, tensor)
        })
    };
    let read = |factor| {
        let tensors = tensors(factor);
        let kept: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        with_kept(&model, "conv1", &["stem.norm"], &kept)
    };
    assert!(read(1.0).unwrap().params.names().any(|name| name.starts_with("stem.norm")));
    let error = read(2.0).unwrap_err().to_string();
    assert!(error.contains("stem.norm.running_var") && error.contains("differs from the model's"), "{error}");
}

#[test]
fn patches_of_batch_norms_are_written_in_our_own_form() {
    let (convolutional, transformer) = (tiny::resnet(1, DType::F32), tiny::bert(1, DType::F32));
    let folder = tempfile::tempdir().unwrap();
    for (model, other) in [(&convolutional as &dyn Model, "ACCLIMATE"), (&transformer, "LORA")] {
        let mut patch = lora(model, "linear");
        add(&mut patch, model, "norm_tuning", "", "norm");
        patch.save(folder.path()).unwrap();
        assert_eq!(peft_type(folder.path()), other);
    }
}
