//! Folders broken on purpose, each in one way: the doctor names every one, and has nothing to say of whole ones.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use acclimate::core::{AnyTensor, HeadStart, Model, Params, Patch, Rng, Targets, read_safetensors, write_safetensors};
use acclimate::doctor;
use acclimate::models::{LlamaConfig, tiny};
use acclimate::peft::{Finding, Level, build, load, place};
use burn::tensor::{DType, Device};
use serde_json::{Value, json};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A patch of these methods, every tensor moved.
fn patch(model: &dyn Model, parts: &[(&str, &str, &[&str])], scale: f64) -> Patch {
    let mut patch = Patch::new();
    patch.base_model = Some("a model".to_owned());
    for (method, settings, targets) in parts {
        let adapter = build(method, &settings.parse().unwrap()).unwrap();
        let targets = Targets::Names(targets.iter().map(|&name| name.to_owned()).collect());
        place(&mut patch, model, method, adapter, Some(&targets), &mut Rng::new(0, "test", 0)).unwrap();
    }
    let mut rng = Rng::new(1, "test", 0);
    patch.params = patch.params.map(|_, tensor| {
        let noise = rng.uniform_tensor(&tensor.shape(), scale, DType::F32, &Device::flex());
        AnyTensor::from_elements(tensor.elements() + noise.elements())
    });
    patch.record_base(model);
    patch
}

/// A folder as the `peft` package leaves it: without what only acclimate writes.
fn foreign(folder: &Path, patch: &Patch) {
    patch.save(folder).unwrap();
    edit(folder, |_| {}, |_| {});
}

/// Changes settings and tensors of a folder; the entry of acclimate's own is dropped.
fn edit(folder: &Path, config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Vec<(String, AnyTensor)>)) {
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(folder.join(CONFIG)).unwrap()).unwrap();
    config(&mut value);
    std::fs::write(folder.join(CONFIG), value.to_string()).unwrap();
    let (params, _) = read_safetensors(&folder.join(WEIGHTS), &Device::flex()).unwrap();
    let mut list: Vec<(String, AnyTensor)> = params.iter().map(|(name, t)| (name.to_owned(), t.clone())).collect();
    tensors(&mut list);
    let mut params = Params::default();
    for (name, tensor) in list {
        params.insert(name, tensor);
    }
    let metadata = [("format".to_owned(), "pt".to_owned())];
    write_safetensors(&folder.join(WEIGHTS), &params, metadata.into()).unwrap();
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

type Tensors = Vec<(String, AnyTensor)>;

fn named<'a>(list: &'a mut Tensors, end: &str) -> &'a mut (String, AnyTensor) {
    list.iter_mut().find(|(name, _)| name.ends_with(end)).unwrap()
}

fn zeroed(tensor: &AnyTensor) -> AnyTensor {
    tensor.zeros_like()
}

/// A LoRA on queries and values of a small BERT, broken in one way.
fn broken(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) -> Vec<Finding> {
    let (model, folder) = (tiny::bert(1, DType::F32), tempfile::tempdir().unwrap());
    foreign(folder.path(), &patch(&model, &[("lora", "rank = 3", &["query", "value"])], 0.1));
    edit(folder.path(), config, tensors);
    doctor(folder.path(), Some(&model)).unwrap()
}

#[track_caller]
fn first(findings: &[Finding], code: &str, level: Level, says: &str) {
    let found = findings.iter().find(|finding| finding.code == code);
    let found = found.unwrap_or_else(|| panic!("no `{code}` among {findings:#?}"));
    assert!(found.level == level && found.what.contains(says) && !found.remedy.is_empty(), "{found:#?}");
}

/// A method, its settings and its targets.
type Placed<'a> = (&'a str, &'a str, &'a [&'a str]);
/// Breaks a folder.
type Break = fn(&Path);

#[test]
fn whole_folders_are_met_with_silence() {
    let (bert, llama) = (tiny::bert(1, DType::F32), tiny::llama(1, DType::F32));
    let resnet = tiny::resnet(1, DType::F32);
    let query: &[&str] = &["query", "value"];
    let cases: [(&dyn Model, &[Placed<'_>]); 11] = [
        (&bert, &[("lora", "rank = 3", query)]),
        (&bert, &[("lora", "rank = 2\nrank_stabilised = true\nrank_pattern = { query = 1 }", query)]),
        (&bert, &[("lora", "rank = 2", &["word_embeddings"])]),
        (&bert, &[("dora", "rank = 2", query)]),
        (&bert, &[("vera", "rank = 8", &["query", "output.dense"])]),
        (&bert, &[("hra", "rank = 2", query)]),
        (&bert, &[("ia3", "", &["key", "output.dense"])]),
        (&bert, &[("norm_tuning", "", &["LayerNorm"])]),
        (&bert, &[("lora", "rank = 2", query), ("norm_tuning", "", &["LayerNorm"]), ("bitfit", "", query)]),
        (&llama, &[("lora", "rank = 2", &["q_proj", "down_proj"])]),
        (&resnet, &[("lora", "rank = 2", &["conv1"]), ("full", "", &["head"])]),
    ];
    for (at, (model, parts)) in cases.into_iter().enumerate() {
        let mut patch = patch(model, parts, 0.05);
        let folder = tempfile::tempdir().unwrap();
        foreign(folder.path(), &patch);
        assert_eq!(codes(&doctor(folder.path(), Some(model)).unwrap()), [""; 0], "case {at}, of peft");
        let read = load(folder.path(), model).unwrap();
        let same = |one: &Patch| {
            let (one, other) = (one.merge(model).unwrap(), patch.merge(model).unwrap());
            one.reduce(&other, |a, b| (a - b).square())
        };
        assert_eq!(same(&read), 0.0, "case {at}, of peft");
        patch.save(folder.path()).unwrap();
        assert_eq!(codes(&doctor(folder.path(), Some(model)).unwrap()), [""; 0], "case {at}, our own");
        assert_eq!(same(&load(folder.path(), model).unwrap()), 0.0, "case {at}, our own");
        patch.add_head(model, 3, HeadStart::Random, &mut Rng::new(0, "head", 0));
        patch.save(folder.path()).unwrap();
        assert_eq!(codes(&doctor(folder.path(), Some(model)).unwrap()), [""; 0], "case {at}, with a head");
        assert!(load(folder.path(), model).unwrap().has_head());
    }
}

#[test]
fn patches_that_peft_has_no_method_for_are_whole_too() {
    let model = tiny::bert(1, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    let parts: [(&str, &str, &[&str]); 2] =
        [("lora", "rank = 2", &["query"]), ("houlsby", "bottleneck = 2", &["layer.0.output"])];
    patch(&model, &parts, 0.05).save(folder.path()).unwrap();
    assert_eq!(codes(&doctor(folder.path(), Some(&model)).unwrap()), [""; 0]);
    let text = std::fs::read_to_string(folder.path().join(CONFIG)).unwrap();
    assert!(text.contains("\"peft_type\": \"ACCLIMATE\""), "{text}");
}

#[test]
fn what_cannot_be_read_is_told() {
    let model = tiny::bert(1, DType::F32);
    let whole = |folder: &Path| foreign(folder, &patch(&model, &[("lora", "rank = 2", &["query"])], 0.1));
    let breaks: [(&str, Break); 5] = [
        ("name that folder", |folder| {
            let inner = folder.join("other");
            std::fs::create_dir(&inner).unwrap();
            for file in [CONFIG, WEIGHTS] {
                std::fs::rename(folder.join(file), inner.join(file)).unwrap();
            }
        }),
        ("EOF", |folder| std::fs::write(folder.join(CONFIG), "{\"peft_type\": \"LORA\"").unwrap()),
        ("not a table", |folder| std::fs::write(folder.join(CONFIG), "[]").unwrap()),
        ("fetch", |folder| {
            let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
            std::fs::write(folder.join(WEIGHTS), &bytes[..bytes.len() - 9]).unwrap();
        }),
        ("pickle", |folder| std::fs::rename(folder.join(WEIGHTS), folder.join("adapter_model.bin")).unwrap()),
    ];
    for (says, damage) in breaks {
        let folder = tempfile::tempdir().unwrap();
        whole(folder.path());
        damage(folder.path());
        let findings = doctor(folder.path(), Some(&model)).unwrap();
        assert_eq!(codes(&findings), ["unreadable"], "{says}");
        let text = format!("{} {}", findings[0].what, findings[0].remedy);
        assert!(text.contains(says), "{says}: {text}");
        assert!(load(folder.path(), &model).is_err(), "{says}");
    }
}

#[test]
fn settings_that_are_not_offered_are_refused() {
    let set = |key: &'static str, value: Value| broken(move |config| config[key] = value, |_| {});
    first(&set("peft_type", json!("LOHA")), "peft_type", Level::Error, "a method that acclimate does not have");
    first(&set("peft_type", json!("LORRA")), "peft_type", Level::Error, "not known");
    first(&set("init_lora_weights", json!("pissa_niter_4")), "settings", Level::Error, "changes the base model");
    first(&set("target_parameters", json!(["experts.w1"])), "refused_setting", Level::Error, "`target_parameters`");
    first(&set("layer_replication", json!([[0, 2]])), "refused_setting", Level::Error, "`layer_replication`");
    first(&set("r", json!("eight")), "settings", Level::Error, "`r` must be a whole number");
    first(&set("target_modules", json!("(")), "settings", Level::Error, "`target_modules`");
}

#[test]
fn settings_that_would_mislead_are_told() {
    let set = |key: &'static str, value: Value| broken(move |config| config[key] = value, |_| {});
    first(&set("lora_alhpa", json!(32)), "unknown_setting", Level::Warning, "`lora_alpha`");
    first(&set("rank_pattern", json!({ "quary": 2 })), "idle_pattern", Level::Warning, "`quary`");
    first(&set("bias", json!("lora_only")), "lost_biases", Level::Warning, "no biases");
    first(&set("modules_to_save", json!(["classifier"])), "missing_tensor", Level::Error, "`classifier`");
    first(&set("base_model_name_or_path", json!(null)), "no_base", Level::Note, "base_model_name_or_path");
    first(&set("target_modules", json!(null)), "no_targets", Level::Warning, "target_modules");
    first(&set("lora_alpha", json!(1e5)), "large_change", Level::Warning, "times as large");
}

#[test]
fn tensors_must_fit_settings_and_model() {
    let all = |tensors: fn(&mut Tensors)| broken(|_| {}, tensors);
    let some = |config: fn(&mut Value)| broken(config, |_| {});
    let findings = all(|list| list.retain(|(name, _)| !name.ends_with("layer.1.attention.self.query.lora_B.weight")));
    first(&findings, "missing_tensor", Level::Error, "layer.1.attention.self.query.lora_B.weight");
    let findings = all(|list| list.retain(|(name, _)| !name.contains("layer.1.attention.self.query")));
    first(&findings, "missing_tensor", Level::Error, "layer.1.attention.self.query");
    let findings = all(|list| {
        let (name, tensor) = list[0].clone();
        list.push((name.replace("lora_A.weight", "lora_C.weight").replace("lora_B.weight", "lora_C.weight"), tensor));
    });
    first(&findings, "extra_tensor", Level::Error, "lora_C");
    let findings = all(|list| list.iter_mut().for_each(|(name, _)| *name = name.replace("query", "quary")));
    first(&findings, "unknown_module", Level::Error, "self.query");
    first(&some(|config| config["r"] = json!(2)), "shape", Level::Error, "lora_A");
    let findings = all(|list| {
        let (_, tensor) = named(list, "layer.0.attention.self.query.lora_A.weight");
        *tensor = tensor.get::<2>().unwrap().transpose().into();
    });
    first(&findings, "transposed", Level::Error, "lora_A");
    let findings = some(|config| config["target_modules"] = json!(["query"]));
    first(&findings, "untargeted_module", Level::Error, "value");
    let findings = some(|config| config["layers_to_transform"] = json!(0));
    assert_eq!(codes(&findings), [""; 0], "whole names are not narrowed");
    let findings = some(|config| {
        config["target_modules"] = json!(["query", "value"]);
        config["layers_to_transform"] = json!(0);
    });
    first(&findings, "untargeted_module", Level::Error, "layer.1");
    let findings = some(|config| config["use_dora"] = json!(true));
    first(&findings, "missing_tensor", Level::Error, "lora_magnitude_vector");
    let findings = all(|list| {
        let name = "base_model.model.encoder.layer.0.attention.output.LayerNorm.weight".to_owned();
        list.push((name, AnyTensor::from_f32s(vec![7.0; 16], &[16], &Device::flex())));
    });
    first(&findings, "changed_base", Level::Error, "LayerNorm");
    let findings = all(|list| {
        let name = "base_model.model.embeddings.word_embeddings.weight".to_owned();
        list.push((name, AnyTensor::from_f32s(vec![0.5; 41 * 16], &[41, 16], &Device::flex())));
    });
    first(&findings, "shape", Level::Error, "word_embeddings");
}

#[test]
fn numbers_that_no_training_leaves_are_told() {
    let all = |tensors: fn(&mut Tensors)| broken(|_| {}, tensors);
    let findings = all(|list| {
        let (_, tensor) = named(list, "lora_B.weight");
        *tensor = AnyTensor::from_elements(tensor.elements() / 0.0);
    });
    first(&findings, "not_finite", Level::Error, "lora_B");
    let findings = all(|list| {
        list.iter_mut().filter(|(name, _)| name.contains("lora_B")).for_each(|(_, tensor)| *tensor = zeroed(tensor));
    });
    first(&findings, "untrained", Level::Warning, "changes nothing");
    let findings = all(|list| {
        let (_, tensor) = named(list, "lora_B.weight");
        *tensor = zeroed(tensor);
    });
    first(&findings, "partly_untrained", Level::Warning, "1 of 4");
    let findings = all(|list| {
        let (_, tensor) = named(list, "lora_A.weight");
        *tensor = zeroed(tensor);
    });
    first(&findings, "zero_factor", Level::Warning, "not adapted");
    let findings = broken(
        |_| {},
        |list| {
            let wide = AnyTensor::from_f32s((0..48).map(|x| x as f32 * 1e-3).collect(), &[3, 16], &Device::flex());
            list.iter_mut().filter(|(name, _)| name.contains("lora_A")).for_each(|(_, tensor)| *tensor = wide.clone());
        },
    );
    first(&findings, "aliased", Level::Note, "4 tensors");
}

#[test]
fn names_of_a_plain_state_dict_are_read_and_told() {
    let findings = broken(
        |_| {},
        |list| {
            list.iter_mut().for_each(|(name, _)| *name = name.replace(".weight", ".default.weight"));
        },
    );
    first(&findings, "adapter_name_in_keys", Level::Warning, "default");
    assert_eq!(findings.len(), 1, "{findings:#?}");
}

#[test]
fn what_other_models_and_types_get_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::bert(1, DType::F32);
    foreign(folder.path(), &patch(&model, &[("vera", "rank = 8", &["query"])], 0.1));
    edit(folder.path(), |_| {}, |list| list.retain(|(name, _)| name != "base_model.vera_A"));
    first(&doctor(folder.path(), Some(&model)).unwrap(), "missing_projection", Level::Error, "vera_A");

    foreign(folder.path(), &patch(&model, &[("hra", "rank = 2", &["query"])], 0.1));
    edit(folder.path(), |config| config["apply_GS"] = json!(true), |_| {});
    first(&doctor(folder.path(), Some(&model)).unwrap(), "refused_setting", Level::Error, "apply_GS");

    let llama = tiny::llama_with(LlamaConfig { tie_word_embeddings: true, ..tiny::llama_config() }, 1, DType::F32);
    assert!(llama.vocabulary().is_some_and(|site| site.name.contains("embed")), "tied");
    let lora = patch(&llama, &[("lora", "rank = 2", &["embed_tokens"])], 0.1);
    lora.save(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join(CONFIG)).unwrap();
    assert!(text.contains("ACCLIMATE"), "that package would adapt one of the two uses: {text}");

    foreign(folder.path(), &patch(&model, &[("lora", "rank = 2", &["query"])], 0.1));
    std::fs::write(folder.path().join("adapter_model.bin"), "old").unwrap();
    first(&doctor(folder.path(), Some(&model)).unwrap(), "two_files", Level::Warning, "passed over");
    first(&doctor(folder.path(), Some(&llama)).unwrap(), "unknown_module", Level::Error, "encoder.layer.0");
}

#[test]
fn our_own_folders_know_their_model_and_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (model, other) = (tiny::bert(1, DType::F32), tiny::bert(2, DType::F32));
    patch(&model, &[("lora", "rank = 2", &["query"])], 0.1).save(folder.path()).unwrap();
    let findings = doctor(folder.path(), Some(&other)).unwrap();
    first(&findings, "other_base", Level::Error, "4 of its tensors differ");
    assert!(load(folder.path(), &other).unwrap_err().to_string().contains("fingerprint"));

    let text = std::fs::read_to_string(folder.path().join(CONFIG)).unwrap();
    let changed = text.replace("\"lora_alpha\": 16.0", "\"lora_alpha\": 64.0");
    assert_ne!(text, changed);
    std::fs::write(folder.path().join(CONFIG), changed).unwrap();
    first(&doctor(folder.path(), Some(&model)).unwrap(), "changed", Level::Error, "`lora_alpha` is 64.0");
}
