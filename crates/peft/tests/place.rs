//! Which sites a method is put at.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use acclimate_core::{Model, Patch, Result, Rng, Role, Targets};
use acclimate_models::tiny;
use acclimate_peft::{build, cards, place};
use burn::tensor::DType;

fn placed(model: &dyn Model, name: &str, targets: Option<Targets>) -> Result<Patch> {
    let mut patch = Patch::new();
    let adapter = build(name, &toml::Table::new())?;
    place(&mut patch, model, name, adapter, targets.as_ref(), &mut Rng::new(0, "patch", 0))?;
    Ok(patch)
}

fn word(word: &str) -> Option<Targets> {
    Some(Targets::Word(word.to_owned()))
}

#[test]
fn every_method_has_sites_of_its_own_in_a_transformer() {
    let model = tiny::bert(1, DType::F32);
    for card in cards() {
        assert!(!placed(&model, card.name, None).unwrap().params.is_empty(), "{}", card.name);
    }
}

#[test]
fn bitfit_goes_to_every_bias_and_nowhere_else() {
    let model = tiny::bert(1, DType::F32);
    let patch = placed(&model, "bitfit", None).unwrap();
    let biases = model.sites().iter().filter(|site| site.bias).count();
    assert_eq!(patch.params.len(), biases);
    assert!(patch.params.names().all(|name| [Role::Bias, Role::Norm].contains(&patch.role(name))));
}

#[test]
fn norm_tuning_goes_to_batch_norms() {
    let model = tiny::resnet(1, DType::F32);
    let patch = placed(&model, "norm_tuning", None).unwrap();
    assert!(!patch.params.is_empty());
    assert!(patch.params.names().all(|name| patch.role(name) == Role::Norm));
}

#[test]
fn a_word_passes_over_sites_that_do_not_fit() {
    let model = tiny::bert(1, DType::F32);
    let patch = placed(&model, "hra", word("all")).unwrap();
    assert_eq!(patch.parts()[0].sites, Targets::Word("linear".to_owned()).select(model.sites()).unwrap());
}

#[test]
fn lora_stands_at_tables_large_enough_for_its_rank() {
    let model = tiny::bert(1, DType::F32);
    let patch = placed(&model, "lora", word("embedding")).unwrap();
    let names: Vec<&str> = patch.parts()[0].sites.iter().map(|site| site.name.as_str()).collect();
    assert_eq!(names, ["embeddings.word_embeddings", "embeddings.position_embeddings"]);
}

#[test]
fn a_named_site_must_fit() {
    let model = tiny::bert(1, DType::F32);
    let targets = Targets::Names(vec!["query".to_owned(), "word_embeddings".to_owned()]);
    let error = placed(&model, "hra", Some(targets)).unwrap_err().to_string();
    assert!(error.starts_with("hra cannot stand at `embeddings.word_embeddings`"), "{error}");
}

#[test]
fn a_word_without_any_fitting_site_names_the_methods_own_choice() {
    let model = tiny::bert(1, DType::F32);
    let error = placed(&model, "houlsby", word("linear")).unwrap_err().to_string();
    assert!(error.starts_with("houlsby cannot stand at any of the sites") && error.contains("block"), "{error}");
}
