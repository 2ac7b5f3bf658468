//! Laws of every model, on small subjects in double precision.

use crate::{Check, reading, why};
use acclimate_core::{
    AnyTensor, Inputs, Model, Normaliser, Outputs, Params, Pass, Patch, Rng, Seq, SiteKind, Source, Targets, Tokens,
    affine_at, total,
};
use acclimate_models::{Norm, tiny};
use burn::tensor::{DType, Int, Tensor};
use libtest_mimic::{Failed, Trial};
use std::collections::BTreeSet;

/// A model with inputs that mean the same.
pub struct Subject {
    /// What the trials are called.
    pub name: &'static str,
    /// The model.
    pub model: Box<dyn Model>,
    /// A batch of several rows.
    pub batch: Inputs,
    /// Each of the rows alone.
    pub alone: Vec<Inputs>,
    /// The same batch with more padding, for models over sequences.
    pub padded: Option<Inputs>,
    /// The same batch as states in place of embeddings, for models that take them.
    pub embedded: Option<Inputs>,
    /// Inputs of a kind the model does not take.
    pub wrong: Inputs,
}

/// The tiny models.
///
/// # Errors
/// Never, unless a tiny model is broken.
pub fn subjects() -> acclimate_core::Result<Vec<Subject>> {
    let lengths = [7, 3, 5];
    let bert = tiny::bert(0, DType::F64);
    let tokens = tiny::tokens(1, &lengths, DType::F64);
    let alone = lengths.iter().enumerate().map(|(row, &length)| cut(&tokens, row, length)).collect();
    let embedded = match &tokens {
        Inputs::Tokens(tokens) => Some(Inputs::Embeddings(bert.embed(tokens, &Pass::bare())?)),
        _ => None,
    };
    let images = tiny::images(1, 3, DType::F64);
    let mut subjects = vec![Subject {
        name: "bert",
        model: Box::new(bert),
        padded: Some(padded(&tokens, 4)),
        batch: tokens,
        alone,
        embedded,
        wrong: images.clone(),
    }];
    let llama = tiny::llama_config();
    let qwen2 = tiny::llama_config();
    let qwen2 = acclimate_models::LlamaConfig { model_type: "qwen2".to_owned(), tie_word_embeddings: true, ..qwen2 };
    for (name, config) in [("llama", llama), ("qwen2", qwen2)] {
        let model = tiny::llama_with(config, 0, DType::F64);
        let tokens = tiny::tokens(1, &lengths, DType::F64);
        subjects.push(Subject {
            name,
            padded: Some(padded(&tokens, 4)),
            alone: lengths.iter().enumerate().map(|(row, &length)| cut(&tokens, row, length)).collect(),
            embedded: match &tokens {
                Inputs::Tokens(tokens) => Some(Inputs::Embeddings(model.embed(tokens, &Pass::bare())?)),
                _ => None,
            },
            batch: tokens,
            wrong: images.clone(),
            model: Box::new(model),
        });
    }
    let networks: [(_, Box<dyn Model>); 9] = [
        ("convnet", Box::new(tiny::convnet(Norm::Batch, 0, DType::F64))),
        ("crepe", Box::new(tiny::crepe(0, DType::F64))),
        ("efficientnet", Box::new(tiny::efficientnet(0, DType::F64))),
        ("resnet_batch_norm", Box::new(tiny::resnet_with(Norm::Batch, 0, DType::F64))),
        ("resnet_bottleneck", Box::new(tiny::bottleneck(0, DType::F64))),
        ("resnet_group_norm", Box::new(tiny::resnet_with(Norm::Group(4), 0, DType::F64))),
        ("resnet_layer_norm", Box::new(tiny::resnet_with(Norm::Layer, 0, DType::F64))),
        ("vit", Box::new(tiny::vit(0, DType::F64))),
        ("wide_resnet", Box::new(tiny::wide_resnet(0, DType::F64))),
    ];
    for (name, model) in networks {
        let batch = if name == "crepe" { tiny::frames(1, 3, DType::F64) } else { images.clone() };
        subjects.push(Subject {
            name,
            model,
            alone: (0..3).map(|row| cut(&batch, row, 0)).collect(),
            batch,
            padded: None,
            embedded: None,
            wrong: tiny::tokens(1, &lengths, DType::F64),
        });
    }
    Ok(subjects)
}

/// Row `row` alone, of a sequence its first `length` positions.
fn cut(inputs: &Inputs, row: usize, length: usize) -> Inputs {
    match inputs {
        Inputs::Tokens(t) => {
            let ids = |x: &Tensor<2, Int>| x.clone().narrow(0, row, 1).narrow(1, 0, length);
            let mask = t.mask.clone().narrow(0, row, 1).narrow(1, 0, length);
            let starts = t.starts.chunks(t.ids.dims()[1]).nth(row).map(|row| row[..length].into());
            Inputs::Tokens(Tokens { ids: ids(&t.ids), mask, types: ids(&t.types), starts: starts.unwrap_or_default() })
        }
        Inputs::Embeddings(seq) => {
            let h = seq.h.clone().narrow(0, row, 1).narrow(1, 0, length);
            Inputs::Embeddings(Seq::new(h, seq.mask.clone().narrow(0, row, 1).narrow(1, 0, length)))
        }
        Inputs::Images(x) => Inputs::Images(x.clone().narrow(0, row, 1)),
        Inputs::Rows(x) => Inputs::Rows(x.clone().narrow(0, row, 1)),
    }
}

/// The same batch with `more` positions of padding.
fn padded(inputs: &Inputs, more: usize) -> Inputs {
    let Inputs::Tokens(t) = inputs else { return inputs.clone() };
    let shape = [t.ids.dims()[0], more];
    let ids = |x: &Tensor<2, Int>| Tensor::cat(vec![x.clone(), Tensor::zeros(shape, (&x.device(), x.dtype()))], 1);
    let mask = Tensor::cat(vec![t.mask.clone(), Tensor::zeros(shape, (&t.mask.device(), t.mask.dtype()))], 1);
    let starts =
        t.starts.chunks(t.ids.dims()[1]).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, more)));
    Inputs::Tokens(Tokens { ids: ids(&t.ids), mask, types: ids(&t.types), starts: starts.collect() })
}

/// The laws.
pub static CHECKS: &[Check<Subject>] = &[
    Check { name: "sites_and_tensors_belong_together", applies: |_| true, run: sites_and_tensors_belong_together },
    Check { name: "padding_changes_nothing", applies: |_| true, run: padding_changes_nothing },
    Check { name: "a_row_alone_is_the_row_in_its_batch", applies: |_| true, run: a_row_alone_is_the_row_in_its_batch },
    Check { name: "gradients_match_differences", applies: |_| true, run: gradients_match_differences },
    Check { name: "own_weights_change_no_bit", applies: |_| true, run: own_weights_change_no_bit },
    Check { name: "missing_tensors_are_named", applies: |_| true, run: missing_tensors_are_named },
    Check { name: "other_inputs_are_refused", applies: |_| true, run: other_inputs_are_refused },
    Check { name: "embeddings_stand_in_for_tokens", applies: |_| true, run: embeddings_stand_in_for_tokens },
    Check { name: "a_full_override_changes_no_bit", applies: |_| true, run: a_full_override_changes_no_bit },
];

/// One trial per law and tiny model.
pub fn all() -> Vec<Trial> {
    match subjects() {
        Ok(subjects) => subjects.into_iter().flat_map(of).collect(),
        Err(error) => vec![Trial::test("models::subjects", move || Err(Failed::from(why(error))))],
    }
}

/// One trial per law for a model of one's own.
pub fn of(subject: Subject) -> Vec<Trial> {
    let subject = std::sync::Arc::new(subject);
    let trial = |check: &'static Check<Subject>| {
        let subject = subject.clone();
        Trial::test(format!("models::{}::{}", subject.name, check.name), move || {
            (check.run)(&subject).map_err(Failed::from)
        })
    };
    let reads = subject.model.vocabulary().is_some();
    CHECKS.iter().chain(reading::CHECKS.iter().filter(|_| reads)).map(trial).collect()
}

/// Sums of a few hundred products in f64, in another order.
const ROUNDING: f64 = 1e-12;

pub(crate) fn outputs(subject: &Subject, inputs: &Inputs) -> Result<Outputs, String> {
    said(subject.model.as_ref(), inputs, &Pass::bare())
}

/// What a model answers; one that reads from left to right says what follows each row.
fn said(model: &dyn Model, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs, String> {
    let outputs = model.forward(inputs, pass).map_err(why)?;
    match model.vocabulary() {
        Some(_) => {
            let scores = pass.scores(model, outputs.features.clone()).map_err(why)?;
            Ok(Outputs { logits: Some(scores), ..outputs })
        }
        None => Ok(outputs),
    }
}

/// Features, then logits, of a row.
fn answers(outputs: &Outputs, row: usize) -> Vec<f64> {
    let parts = [Some(&outputs.features), outputs.logits.as_ref()].into_iter().flatten();
    parts.flat_map(|part| AnyTensor::from(part.clone().narrow(0, row, 1)).to_f64s()).collect()
}

pub(crate) fn all_answers(outputs: &Outputs) -> Vec<f64> {
    (0..outputs.features.dims()[0]).flat_map(|row| answers(outputs, row)).collect()
}

pub(crate) fn near(what: &str, got: &[f64], expected: &[f64]) -> Result<(), String> {
    let far = got.iter().zip(expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
    if got.len() == expected.len() && far <= ROUNDING { Ok(()) } else { Err(format!("{what} is off by {far:e}")) }
}

pub(crate) fn same_bits(what: &str, a: &[f64], b: &[f64]) -> Result<(), String> {
    let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    if same { Ok(()) } else { Err(format!("{what} differs")) }
}

/// Every site finds its tensors, and every tensor belongs to a site.
pub fn sites_and_tensors_belong_together(subject: &Subject) -> Result<(), String> {
    let model = subject.model.as_ref();
    let names: BTreeSet<&str> = model.sites().iter().map(|site| site.name.as_str()).collect();
    if names.len() != model.sites().len() {
        return Err("two sites have one name".to_owned());
    }
    for site in model.sites().iter().filter(|site| site.kind != SiteKind::Block) {
        let affine = affine_at(model, site).map_err(why)?;
        if affine.dims() != [site.out, site.input] {
            return Err(format!(
                "`{}` is said to be [{}, {}] and is {:?}",
                site.name,
                site.out,
                site.input,
                affine.dims()
            ));
        }
    }
    match model.weights().names().find(|name| name.rsplit_once('.').is_none_or(|(site, _)| !names.contains(site))) {
        Some(name) => Err(format!("`{name}` belongs to no site")),
        None => Ok(()),
    }
}

/// More padding changes no row.
pub fn padding_changes_nothing(subject: &Subject) -> Result<(), String> {
    let Some(padded) = &subject.padded else { return Ok(()) };
    let (short, long) = (outputs(subject, &subject.batch)?, outputs(subject, padded)?);
    near("a row with more padding", &all_answers(&long), &all_answers(&short))
}

/// A row's answer does not depend on the other rows.
pub fn a_row_alone_is_the_row_in_its_batch(subject: &Subject) -> Result<(), String> {
    let together = outputs(subject, &subject.batch)?;
    for (row, inputs) in subject.alone.iter().enumerate() {
        near(&format!("row {row} alone"), &answers(&outputs(subject, inputs)?, 0), &answers(&together, row))?;
    }
    Ok(())
}

/// A patch that overrides every weight of the model.
pub(crate) fn full(subject: &Subject) -> Result<Patch, String> {
    let (mut patch, model) = (Patch::new(), subject.model.as_ref());
    let adapter = acclimate_peft::build("full", &toml::Table::new()).map_err(why)?;
    let all = Targets::Word("all".to_owned());
    acclimate_peft::place(&mut patch, model, "full", adapter, Some(&all), &mut Rng::new(0, "patch", 0)).map_err(why)?;
    Ok(patch)
}

fn loss(subject: &Subject, patch: &Patch, statistics: &dyn Normaliser) -> Result<Tensor<1>, String> {
    let outputs = said(subject.model.as_ref(), &subject.batch, &Pass::new(patch).normaliser(statistics))?;
    // Powers weigh the numbers unevenly: a plain mean of normalised states would hardly depend on anything.
    let features = outputs.features.powi_scalar(3).mean();
    Ok(outputs.logits.map_or(features.clone(), |logits| features + logits.powi_scalar(3).mean()))
}

/// Gradients of every weight, against central differences along a random direction; under stored statistics and, where batch norms
/// are, under those of the batch.
pub fn gradients_match_differences(subject: &Subject) -> Result<(), String> {
    let patch = full(subject)?;
    let mut rng = Rng::new(7, "direction", 0);
    let direction =
        patch.params.map(|_, tensor| rng.normal_tensor(&tensor.shape(), 1.0, tensor.dtype(), &tensor.device()));
    for statistics in [&Source as &dyn Normaliser, &acclimate_core::Batch] {
        let tracked = patch.tracked();
        let mut tape = loss(subject, &tracked, statistics)?.backward();
        let gradients: Params = tracked.params.gradients(&mut tape);
        if let Some((name, _)) = gradients.iter().find(|(_, g)| !total(vec![g.elements().abs().sum()]).is_finite()) {
            return Err(format!("the gradient of `{name}` is not finite"));
        }
        // f64: differences are off by about 1e-16/step, and a ReLU's kink is crossed by about one activation in step⁻¹.
        let step = 1e-7;
        let moved = |by: f64| {
            let params = patch.params.zip(&direction, |x, d| x + d * by);
            loss(subject, &patch.with_params(params), statistics).map(|loss| total(vec![loss]))
        };
        let expected = (moved(step)? - moved(-step)?) / (2.0 * step);
        let got = gradients.reduce(&direction, |g, d| g * d);
        if (got - expected).abs() > 1e-6 * (1.0 + expected.abs()) {
            return Err(format!("the slope along a direction is {expected}, gradients say {got}"));
        }
    }
    Ok(())
}

/// The same model over its own weights gives the same bits and has the same fingerprint.
pub fn own_weights_change_no_bit(subject: &Subject) -> Result<(), String> {
    let again = subject.model.with_weights(subject.model.weights().clone()).map_err(why)?;
    if again.fingerprint() != subject.model.fingerprint() || again.sites() != subject.model.sites() {
        return Err("fingerprint or sites differ".to_owned());
    }
    let (one, two) = (outputs(subject, &subject.batch)?, said(again.as_ref(), &subject.batch, &Pass::bare())?);
    same_bits("an output", &all_answers(&one), &all_answers(&two))
}

/// Without one of its tensors a model is refused, and the tensor is named.
pub fn missing_tensors_are_named(subject: &Subject) -> Result<(), String> {
    for missing in subject.model.weights().names() {
        let mut rest = Params::default();
        subject
            .model
            .weights()
            .iter()
            .filter(|(name, _)| *name != missing)
            .for_each(|(name, t)| rest.insert(name, t.clone()));
        match subject.model.with_weights(rest) {
            Ok(_) => return Err(format!("`{missing}` is missing and nobody minds")),
            Err(error) if error.to_string().contains(missing) => {}
            Err(error) => return Err(format!("`{missing}` is missing and the error says: {error}")),
        }
    }
    Ok(())
}

/// Inputs of another kind are refused with an error.
pub fn other_inputs_are_refused(subject: &Subject) -> Result<(), String> {
    match subject.model.forward(&subject.wrong, &Pass::bare()) {
        Ok(_) => Err("inputs of another kind were taken".to_owned()),
        Err(_) => Ok(()),
    }
}

/// States in place of embeddings give what the tokens give.
pub fn embeddings_stand_in_for_tokens(subject: &Subject) -> Result<(), String> {
    let Some(embedded) = &subject.embedded else { return Ok(()) };
    same_bits("an output", &all_answers(&outputs(subject, embedded)?), &all_answers(&outputs(subject, &subject.batch)?))
}

/// Every weight replaced by a copy of itself through the pass: the model calls the pass at every site, and the pass adds nothing.
pub fn a_full_override_changes_no_bit(subject: &Subject) -> Result<(), String> {
    let patch = full(subject)?;
    let patched = said(subject.model.as_ref(), &subject.batch, &Pass::new(&patch))?;
    same_bits("an output", &all_answers(&patched), &all_answers(&outputs(subject, &subject.batch)?))?;
    // The override must be what is used: with all its tensors zero every answer is.
    let zero = patch.with_params(patch.params.zeros_like());
    let nothing = said(subject.model.as_ref(), &subject.batch, &Pass::new(&zero))?;
    let answers = all_answers(&nothing);
    if answers.iter().all(|x| *x == 0.0) {
        Ok(())
    } else {
        Err("weights that no site shows reach the outputs".to_owned())
    }
}
