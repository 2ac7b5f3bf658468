//! The gate: who answers, what is learned, and that a stream behind it goes on exactly.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{AnyTensor, Inputs, Patch, RecordReader, Rng};
use acclimate_models::tiny;
use acclimate_optim::Adamw;
use acclimate_tta::{Event, GateSettings, Gated, Host, Reset, Stream, Tent};
use burn::tensor::{DType, Device, Tensor};

/// Images of `rows`: noise around a pattern of each row's class.
fn images(classes: &[usize], seed: u64) -> Inputs {
    let mut rng = Rng::new(seed, "gate", 0);
    let values = classes.iter().flat_map(|class| {
        let noise: Vec<f64> =
            (0..64).map(|pixel| 0.3 * rng.normal() + f64::from(u8::from(pixel / 8 == 2 * class))).collect();
        noise
    });
    let shape = [classes.len(), 1, 8, 8];
    Inputs::Images(AnyTensor::from_f64s(values.collect(), &shape, DType::F64, &Device::flex()).get().unwrap())
}

fn mixed(rows: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed, "classes", 0);
    (0..rows).map(|_| rng.below(3)).collect()
}

fn patch(model: &dyn acclimate_core::Model) -> Patch {
    let mut patch = Patch::new();
    let norms = acclimate_peft::build("norm_tuning", &toml::Table::new()).unwrap();
    acclimate_peft::place(&mut patch, model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0)).unwrap();
    patch
}

fn numbers(logits: Tensor<2>) -> Vec<f64> {
    AnyTensor::from(logits).to_f64s()
}

const SETTINGS: fn() -> GateSettings = || GateSettings { window: 60, permutations: 999, ..GateSettings::default() };

#[test]
fn an_unshifted_mixed_stream_is_answered_by_the_deployed_model_and_nothing_is_learned() {
    let (model, adam) = (tiny::resnet(0, DType::F64), Adamw { lr: 1e-2, ..Adamw::default() });
    let reference: Vec<Inputs> = (0..8).map(|seed| images(&mixed(20, seed), seed)).collect();
    let (tent, first) = (Tent::default(), patch(&model));
    let gated = Gated::new(&tent, SETTINGS()).unwrap();
    let host = Host::new(&model, first.clone()).unwrap().reference(&reference).optimiser(&adam).unwrap();
    let mut stream = Stream::new(&gated, host, Reset::Never).unwrap();
    let mut plain = Host::new(&model, Patch::new()).unwrap();
    for seed in 100..110 {
        let batch = images(&mixed(20, seed), seed);
        assert_eq!(numbers(stream.step(&batch).unwrap()), numbers(plain.source(&batch).unwrap().logits));
    }
    assert_eq!(stream.report().counts.updates, 0);
    assert_eq!(stream.host().patch().params.fingerprint(), first.params.fingerprint());
}

#[test]
fn a_shifted_mixed_stream_is_answered_by_the_method() {
    let (model, adam) = (tiny::resnet(0, DType::F64), Adamw { lr: 1e-3, ..Adamw::default() });
    let reference: Vec<Inputs> = (0..8).map(|seed| images(&mixed(20, seed), seed)).collect();
    let tent = Tent::default();
    let gated = Gated::new(&tent, SETTINGS()).unwrap();
    let host = || Host::new(&model, patch(&model)).unwrap().reference(&reference).optimiser(&adam).unwrap();
    let mut stream = Stream::new(&gated, host(), Reset::Never).unwrap();
    let mut alone = Stream::new(&tent, host(), Reset::Never).unwrap();
    for seed in 100..103 {
        let Inputs::Images(x) = images(&mixed(20, seed), seed) else { unreachable!() };
        let batch = Inputs::Images(x * 3.0 + 2.0);
        assert_eq!(numbers(stream.step(&batch).unwrap()), numbers(alone.step(&batch).unwrap()));
    }
    assert_eq!(stream.report().counts.updates, 3);
}

#[test]
fn a_sorted_stream_is_told_and_nothing_more_is_learned() {
    let (model, adam) = (tiny::resnet(0, DType::F64), Adamw { lr: 1e-2, ..Adamw::default() });
    let tent = Tent::default();
    let gated = Gated::new(&tent, SETTINGS()).unwrap();
    let host = Host::new(&model, patch(&model)).unwrap().optimiser(&adam).unwrap();
    let first = host.patch().params.fingerprint();
    let mut stream = Stream::new(&gated, host, Reset::Never).unwrap();
    for seed in 0..18 {
        let classes: Vec<usize> = (0..20).map(|row| ((20 * seed as usize + row) / 15) % 3).collect();
        stream.step(&images(&classes, seed)).unwrap();
    }
    let told = |event: &Event| matches!(event, Event::Told { what, .. } if what.starts_with("neighbours are alike"));
    assert!(stream.report().events.iter().any(told), "{:?}", stream.report().events);
    assert_eq!(stream.host().patch().params.fingerprint(), first);
}

#[test]
fn a_stream_behind_the_gate_goes_on_exactly_where_it_was_saved() {
    let (model, adam) = (tiny::resnet(0, DType::F64), Adamw { lr: 1e-2, ..Adamw::default() });
    let reference: Vec<Inputs> = (0..2).map(|seed| images(&mixed(20, seed), seed)).collect();
    let tent = Tent::default();
    let gated = Gated::new(&tent, SETTINGS()).unwrap();
    let host = || Host::new(&model, patch(&model)).unwrap().reference(&reference).optimiser(&adam).unwrap();
    let batch = |at: u64| match images(&(0..20).map(|row| (row / (1 + at as usize % 7)) % 3).collect::<Vec<_>>(), at) {
        Inputs::Images(x) if at.is_multiple_of(2) => Inputs::Images(x * 3.0 + 2.0),
        other => other,
    };
    let (mut whole, mut early) =
        (Stream::new(&gated, host(), Reset::Never).unwrap(), Stream::new(&gated, host(), Reset::Never).unwrap());
    for at in 0..11 {
        assert_eq!(numbers(whole.step(&batch(at)).unwrap()), numbers(early.step(&batch(at)).unwrap()));
    }
    let mut late = Stream::new(&gated, host(), Reset::Never).unwrap();
    late.restore(RecordReader::from(early.save())).unwrap();
    for at in 11..22 {
        assert_eq!(numbers(whole.step(&batch(at)).unwrap()), numbers(late.step(&batch(at)).unwrap()), "batch {at}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let tent = Tent::default();
    for settings in [GateSettings { level: 0.0, ..SETTINGS() }, GateSettings { window: 3, ..SETTINGS() }] {
        assert!(Gated::new(&tent, settings).is_err());
    }
}
