//! Laws of every test-time method, on a small residual network in double precision.

use crate::{Check, trials, why};
use acclimate_core::{
    AnyOptimiser, AnyTensor, Batch, Entry, Inputs, Model, Need, Params, Pass, Patch, Promise, RecordReader, Rng,
};
use acclimate_models::tiny;
use acclimate_tta::{AnyTestTime, Event, Host, Reset, Stream, TestTime, segments};
use burn::tensor::{DType, Device, Tensor};
use libtest_mimic::{Failed, Trial};
use std::sync::Arc;

/// A method with a model, a patch, optimisers and a stream of unlabelled batches.
pub struct Subject {
    method: Box<dyn AnyTestTime>,
    model: Box<dyn Model>,
    patch: Patch,
    moving: Box<dyn AnyOptimiser>,
    still: Box<dyn AnyOptimiser>,
    batches: Vec<Inputs>,
    reference: Vec<Inputs>,
    labels: Vec<Vec<usize>>,
}

impl Subject {
    /// A method on a tiny decoder whose every weight a patch overrides, and a text in segments.
    fn reading(method: Box<dyn AnyTestTime>) -> acclimate_core::Result<Self> {
        let model = tiny::llama(0, DType::F64);
        let mut patch = Patch::new();
        let full = acclimate_peft::build("full", &toml::Table::new())?;
        let all = acclimate_core::Targets::Word("all".to_owned());
        acclimate_peft::place(&mut patch, &model, "full", full, Some(&all), &mut Rng::new(0, "patch", 0))?;
        let mut rng = Rng::new(1, "text", 0);
        let words: Vec<u32> = (0..60).map(|_| rng.below(40) as u32).collect();
        let cut = |words: &[u32]| segments(words, 5, 6, DType::F64, &Device::flex());
        let (batches, reference) = (cut(&words[..30]), cut(&words[30..]));
        Ok(Self { batches, reference, ..Self::with(method, Box::new(model), patch) })
    }

    /// A method on the tiny residual network with batch norms, the patch it wants, labelled reference batches, and a stream that drifts.
    ///
    /// # Errors
    /// Never, unless a part of the workspace is broken.
    pub fn new(method: Box<dyn AnyTestTime>) -> acclimate_core::Result<Self> {
        if method.card().needs(Need::Text) {
            return Self::reading(method);
        }
        let model = tiny::resnet(0, DType::F64);
        let mut patch = Patch::new();
        // What trains nothing must leave such a patch alone.
        let (name, targets) = method.trains_any().adapter().unwrap_or(("norm_tuning", None));
        let adapter = acclimate_peft::build(name, &toml::Table::new())?;
        let targets = targets.map(|word| acclimate_core::Targets::Word(word.to_owned()));
        acclimate_peft::place(&mut patch, &model, name, adapter, targets.as_ref(), &mut Rng::new(0, "patch", 0))?;
        let batches = (0..6u32).map(|at| match tiny::images(u64::from(at), 8, DType::F64) {
            Inputs::Images(x) => Inputs::Images(x * (1.0 + 0.2 * f64::from(at)) + 0.1 * f64::from(at)),
            other => other,
        });
        let reference = (10..14).map(|seed| tiny::images(seed, 8, DType::F64)).collect();
        let labels = vec![(0..8).map(|row| row % 3).collect(); 4];
        Ok(Self { batches: batches.collect(), reference, labels, ..Self::with(method, Box::new(model), patch) })
    }

    fn with(method: Box<dyn AnyTestTime>, model: Box<dyn Model>, patch: Patch) -> Self {
        // So low a rate that no bit of a parameter moves.
        let still = acclimate_optim::Sgd { lr: 1e-300, momentum: 0.0, nesterov: false };
        let moving = acclimate_optim::Adamw { lr: 1e-2, ..Default::default() };
        let (moving, still) = (Box::new(moving), Box::new(still));
        Self { method, model, patch, moving, still, batches: vec![], reference: vec![], labels: vec![] }
    }

    fn stream(&self, reset: Reset) -> Result<Stream<'_>, String> {
        self.stream_with(self.moving.as_ref(), reset)
    }

    fn stream_with<'a>(&'a self, optimiser: &'a dyn AnyOptimiser, reset: Reset) -> Result<Stream<'a>, String> {
        let host = Host::new(self.model.as_ref(), self.patch.clone())
            .and_then(|host| host.reference(&self.reference).optimiser(optimiser))
            .and_then(|host| if self.labels.is_empty() { Ok(host) } else { host.labels(&self.labels) })
            .map_err(why)?;
        Stream::new(self.method.as_ref(), host, reset).map_err(why)
    }
}

/// The laws.
pub static CHECKS: &[Check<Subject>] = &[
    Check {
        name: "without_movement_outputs_are_those_of_batch_statistics",
        applies: |card| card.needs(Need::Batch),
        run: without_movement_outputs_are_those_of_batch_statistics,
    },
    Check {
        name: "contrast_does_not_reach_the_predictions",
        applies: |card| card.needs(Need::Batch),
        run: contrast_does_not_reach_the_predictions,
    },
    Check { name: "reset_restores_all_bits", applies: |_| true, run: reset_restores_all_bits },
    Check {
        name: "episodic_order_does_not_matter",
        applies: |card| card.promises(Promise::OrderInvariant),
        run: episodic_order_does_not_matter,
    },
    Check { name: "only_declared_parameters_change", applies: |_| true, run: only_declared_parameters_change },
    Check {
        name: "every_declared_parameter_changes",
        applies: |card| card.needs(Need::Gradients),
        run: every_declared_parameter_changes,
    },
    Check {
        name: "one_number_per_channel_is_refused",
        applies: |card| card.needs(Need::Batch),
        run: one_number_per_channel_is_refused,
    },
    Check { name: "equal_images_stay_finite", applies: |card| !card.needs(Need::Text), run: equal_images_stay_finite },
    Check { name: "three_hundred_steps_stay_finite", applies: |_| true, run: three_hundred_steps_stay_finite },
    Check {
        name: "saved_and_loaded_equals_uninterrupted",
        applies: |_| true,
        run: saved_and_loaded_equals_uninterrupted,
    },
    Check { name: "equal_runs_give_equal_bits", applies: |_| true, run: equal_runs_give_equal_bits },
    Check {
        name: "broken_inputs_are_told_and_survived",
        applies: |card| !card.needs(Need::Text),
        run: broken_inputs_are_told_and_survived,
    },
    Check { name: "no_loss_sees_a_later_word", applies: |card| card.needs(Need::Text), run: no_loss_sees_a_later_word },
    Check { name: "one_segment_is_static", applies: |card| card.needs(Need::Text), run: one_segment_is_static },
    Check { name: "other_inputs_are_refused", applies: |_| true, run: other_inputs_are_refused },
    Check {
        name: "a_missing_optimiser_is_refused",
        applies: |card| card.needs(Need::Optimiser),
        run: a_missing_optimiser_is_refused,
    },
];

/// One trial per method, case and law that applies.
pub fn all(methods: &[Entry<dyn AnyTestTime>]) -> Vec<Trial> {
    let mut all = vec![];
    for entry in methods {
        for case in entry.cases {
            let subject = case.parse::<toml::Table>().map_err(why).and_then(|table| {
                let method = entry.build(&table).map_err(why)?;
                Subject::new(method).map_err(why)
            });
            match subject {
                Ok(subject) => all.extend(trials("tta", entry.card, case, Arc::new(subject), CHECKS)),
                Err(why) => {
                    all.push(Trial::test(format!("tta::{}[{case}]", entry.card.name), || Err(Failed::from(why))))
                }
            }
        }
    }
    all
}

/// Checks a method of your own under all its cases. Answers with every check that failed; a waiver on the card excuses one.
///
/// ```
/// acclimate_conform::tta::check_test_time::<acclimate_tta::Tent>().unwrap();
/// ```
///
/// # Errors
/// One line for each failure, with the case and the reason.
pub fn check_test_time<M: TestTime>() -> Result<(), String> {
    let mut failures = vec![];
    for case in M::CASES {
        let method = case.parse::<toml::Table>().map_err(why).and_then(|table| M::from_table(&table).map_err(why))?;
        let subject = Subject::new(Box::new(method)).map_err(why)?;
        let waived = |name| M::CARD.waivers.iter().any(|(waived, _)| *waived == name);
        for check in CHECKS.iter().filter(|check| (check.applies)(&M::CARD) && !waived(check.name)) {
            if let Err(reason) = (check.run)(&subject) {
                failures.push(format!("{}[{case}]::{}: {reason}", M::CARD.name, check.name));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn numbers(logits: &Tensor<2>) -> Vec<f64> {
    AnyTensor::from(logits.clone()).to_f64s()
}

fn same_bits(what: &str, a: &[f64], b: &[f64]) -> Result<(), String> {
    let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    if same { Ok(()) } else { Err(format!("{what} differs")) }
}

fn step(stream: &mut Stream<'_>, batch: &Inputs) -> Result<Vec<f64>, String> {
    stream.step(batch).map(|logits| numbers(&logits)).map_err(why)
}

fn params<'a>(stream: &'a Stream<'_>) -> &'a Params {
    &stream.host().patch().params
}

/// With an optimiser that moves nothing, every output is that of the model under the statistics of its batch, bit for bit.
pub fn without_movement_outputs_are_those_of_batch_statistics(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream_with(subject.still.as_ref(), Reset::Never)?;
    for batch in &subject.batches {
        let outputs = subject.model.forward(batch, &Pass::bare().normaliser(&Batch)).map_err(why)?;
        let expected = outputs.logits.ok_or("the model has no head")?;
        same_bits("an output", &step(&mut stream, batch)?, &numbers(&expected))?;
    }
    Ok(())
}

/// Statistics of the batch undo a change of contrast before the first norm, up to what `eps` adds to the variance.
pub fn contrast_does_not_reach_the_predictions(subject: &Subject) -> Result<(), String> {
    let answer = |by: f64| {
        let batch = match &subject.batches[0] {
            Inputs::Images(x) => Inputs::Images(x.clone() * by),
            other => other.clone(),
        };
        step(&mut subject.stream_with(subject.still.as_ref(), Reset::Never)?, &batch)
    };
    let (low, high) = (answer(1.0)?, answer(4.0)?);
    let far = low.iter().zip(&high).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
    // eps is 1e-5 and variances are about one; five norms lie between the images and the head.
    if far <= 1e-4 { Ok(()) } else { Err(format!("a change of contrast moves the logits by {far:e}")) }
}

/// A reset brings back the first patch and the first predictions, moments of the optimiser included.
pub fn reset_restores_all_bits(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    let before = params(&stream).fingerprint();
    let run = |stream: &mut Stream<'_>| -> Result<Vec<f64>, String> {
        Ok(subject.batches.iter().map(|batch| step(stream, batch)).collect::<Result<Vec<_>, _>>()?.concat())
    };
    let first = run(&mut stream)?;
    stream.reset().map_err(why)?;
    if params(&stream).fingerprint() != before {
        return Err("a tensor of the patch is not what it was".to_owned());
    }
    same_bits("a prediction after the reset", &run(&mut stream)?, &first)
}

/// With a reset before every batch, the order of batches does not matter.
pub fn episodic_order_does_not_matter(subject: &Subject) -> Result<(), String> {
    let (mut forth, mut back) = (subject.stream(Reset::Episodic)?, subject.stream(Reset::Episodic)?);
    let there = subject.batches.iter().map(|batch| step(&mut forth, batch)).collect::<Result<Vec<_>, _>>()?;
    let mut returned =
        subject.batches.iter().rev().map(|batch| step(&mut back, batch)).collect::<Result<Vec<_>, _>>()?;
    returned.reverse();
    same_bits("a prediction", &there.concat(), &returned.concat())
}

/// The model's weights stay as they are, and the patch gets no tensor, loses none and keeps its shapes; without gradients nothing in it
/// moves.
pub fn only_declared_parameters_change(subject: &Subject) -> Result<(), String> {
    let before = subject.model.weights().fingerprint();
    let mut stream = subject.stream(Reset::Never)?;
    stream.run(&subject.batches).map_err(why)?;
    if subject.model.weights().fingerprint() != before {
        return Err("the model's weights have changed".to_owned());
    }
    let shapes = |params: &Params| params.iter().map(|(name, t)| (name.to_owned(), t.shape())).collect::<Vec<_>>();
    if shapes(params(&stream)) != shapes(&subject.patch.params) {
        return Err("the patch has other tensors than at the start".to_owned());
    }
    let moved = params(&stream).fingerprint() != subject.patch.params.fingerprint();
    if moved && !subject.method.card().needs(Need::Gradients) {
        Err("tensors move without gradients".to_owned())
    } else {
        Ok(())
    }
}

/// Every trained tensor gets a gradient and moves.
pub fn every_declared_parameter_changes(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    stream.run(&subject.batches).map_err(why)?;
    for ((name, now), (_, before)) in params(&stream).iter().zip(subject.patch.params.iter()) {
        if now.to_f64s() == before.to_f64s() {
            return Err(format!("`{name}` does not move"));
        }
    }
    Ok(())
}

/// Statistics of a single number per channel do not exist: one image of one pixel is refused with a way out.
pub fn one_number_per_channel_is_refused(subject: &Subject) -> Result<(), String> {
    let pixel = Inputs::Images(Tensor::ones([1, 1, 1, 1], (&Device::flex(), DType::F64)));
    match subject.stream(Reset::Never)?.step(&pixel) {
        Ok(_) => Err("one image of one pixel was taken".to_owned()),
        Err(error) if error.to_string().contains("larger batches") => Ok(()),
        Err(error) => Err(format!("the error does not say what to do: {error}")),
    }
}

/// A batch without any variation gives finite predictions and leaves a finite patch.
pub fn equal_images_stay_finite(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    for value in [0.0, 1.0, 1e3] {
        let equal = Inputs::Images(Tensor::full([4, 1, 8, 8], value, (&Device::flex(), DType::F64)));
        if step(&mut stream, &equal)?.iter().any(|x| !x.is_finite()) || !params(&stream).is_finite() {
            return Err(format!("images of {value} alone break the numbers"));
        }
    }
    if stream.report().events.is_empty() { Ok(()) } else { Err(format!("{}", stream.report().events[0])) }
}

/// Nothing breaks over three hundred batches without a reset.
pub fn three_hundred_steps_stay_finite(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    for batch in subject.batches.iter().cycle().take(300) {
        stream.step(batch).map_err(why)?;
    }
    match stream.report().events.iter().find(|event| matches!(event, Event::NotFinite { .. })) {
        Some(event) => Err(event.to_string()),
        None if params(&stream).is_finite() => Ok(()),
        None => Err("the patch is not finite".to_owned()),
    }
}

/// A stream saved halfway and restored goes on with the same bits, a reset that is due included.
pub fn saved_and_loaded_equals_uninterrupted(subject: &Subject) -> Result<(), String> {
    let mut whole = subject.stream(Reset::Every(4))?;
    let mut first = subject.stream(Reset::Every(4))?;
    let (early, late) = subject.batches.split_at(3);
    for batch in early {
        same_bits("a prediction before saving", &step(&mut whole, batch)?, &step(&mut first, batch)?)?;
    }
    let mut second = subject.stream(Reset::Every(4))?;
    second.restore(RecordReader::from(first.save())).map_err(why)?;
    for batch in late {
        same_bits("a prediction after loading", &step(&mut whole, batch)?, &step(&mut second, batch)?)?;
    }
    if params(&whole).fingerprint() != params(&second).fingerprint() {
        return Err("the patches differ at the end".to_owned());
    }
    if whole.report().counts == second.report().counts { Ok(()) } else { Err("the costs differ at the end".to_owned()) }
}

/// The same stream twice gives the same bits.
pub fn equal_runs_give_equal_bits(subject: &Subject) -> Result<(), String> {
    let (mut one, mut two) = (subject.stream(Reset::Never)?, subject.stream(Reset::Never)?);
    for batch in &subject.batches {
        same_bits("a prediction", &step(&mut one, batch)?, &step(&mut two, batch)?)?;
    }
    if params(&one).fingerprint() == params(&two).fingerprint() { Ok(()) } else { Err("the patches differ".to_owned()) }
}

/// Inputs that are not numbers give an error and an event, no panic; the next batch is predicted as on a fresh stream.
pub fn broken_inputs_are_told_and_survived(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    step(&mut stream, &subject.batches[0])?;
    let broken = Inputs::Images(Tensor::full([4, 1, 8, 8], f64::NAN, (&Device::flex(), DType::F64)));
    match stream.step(&broken) {
        Ok(_) => return Err("inputs that are not numbers were predicted".to_owned()),
        Err(error) if error.to_string().contains("inputs") => {}
        Err(error) => return Err(format!("the error does not say where to look: {error}")),
    }
    if stream.report().events.is_empty() {
        return Err("the fresh start was not reported".to_owned());
    }
    let mut fresh = subject.stream(Reset::Never)?;
    same_bits("the next prediction", &step(&mut stream, &subject.batches[1])?, &step(&mut fresh, &subject.batches[1])?)
}

/// Inputs of a kind the model does not take are refused, and the patch stays as it is.
pub fn other_inputs_are_refused(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    let rows = Inputs::Rows(Tensor::ones([4, 3], (&Device::flex(), DType::F64)));
    if stream.step(&rows).is_ok() {
        return Err("inputs of another kind were taken".to_owned());
    }
    if params(&stream).fingerprint() == subject.patch.params.fingerprint() {
        Ok(())
    } else {
        Err("the patch has changed".to_owned())
    }
}

/// What is said of a segment does not change with the segments after it.
pub fn no_loss_sees_a_later_word(subject: &Subject) -> Result<(), String> {
    let (mut one, mut two) = (subject.stream(Reset::Never)?, subject.stream(Reset::Never)?);
    let (early, late) = subject.batches.split_at(3);
    for batch in early {
        same_bits("an early segment", &step(&mut one, batch)?, &step(&mut two, batch)?)?;
    }
    let (there, elsewhere) = (step(&mut one, &late[0])?, step(&mut two, &late[1])?);
    if there == elsewhere { Err("the text is not looked at".to_owned()) } else { Ok(()) }
}

/// A text of one segment is scored as without adaptation.
pub fn one_segment_is_static(subject: &Subject) -> Result<(), String> {
    let mut stream = subject.stream(Reset::Never)?;
    let mut host = Host::new(subject.model.as_ref(), subject.patch.clone()).map_err(why)?;
    let fixed = numbers(&host.source(&subject.batches[1]).map_err(why)?.logits);
    let said = step(&mut stream, &subject.batches[1])?;
    let far = said.iter().zip(&fixed).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max);
    // A tape may take products in another order: some hundred roundings in f64.
    if far <= 1e-13 { Ok(()) } else { Err(format!("what is said of the first segment is off by {far:e}")) }
}

/// A method with gradients and no optimiser is refused before the first batch.
pub fn a_missing_optimiser_is_refused(subject: &Subject) -> Result<(), String> {
    let host = Host::new(subject.model.as_ref(), subject.patch.clone()).map_err(why)?;
    match Stream::new(subject.method.as_ref(), host, Reset::Never) {
        Ok(_) => Err("a stream without an optimiser was begun".to_owned()),
        Err(_) => Ok(()),
    }
}
