//! One of several continuations.

use super::text::Reading;
use super::{MISMATCH, Outputs, Prepared, Task, TaskSpec, argmax};
use crate::recipe::TaskKind;
use acclimate_core::{AnyTensor, Model, Pass, Result};
use acclimate_data::Labels;
use burn::tensor::{Tensor, activation};

/// Cross-entropy over the log-likelihoods of a row's choices, each a continuation of its prompt; judged by accuracy.
#[derive(Clone, Debug)]
pub struct Choice(pub TaskSpec);

fn truth(labels: &Labels) -> &[usize] {
    match labels {
        Labels::Choice(index) => index,
        _ => panic!("{MISMATCH}"),
    }
}

impl Choice {
    /// The log-likelihood of every choice of the rows, and how many choices each row has.
    fn likelihoods(
        model: &dyn Model,
        data: &Prepared,
        rows: &[usize],
        pass: &Pass<'_>,
    ) -> Result<(Tensor<1>, Vec<usize>)> {
        let reading = Reading::new(model, &data.left.documents(rows), pass)?;
        let losses = pass.cross_entropy(model, reading.states.clone(), reading.targets())?;
        let mut from = 0;
        let sums = reading.counts.iter().map(|&n| {
            from += n;
            losses.clone().narrow(0, from - n, n).sum().neg()
        });
        Ok((Tensor::cat(sums.collect(), 0), rows.iter().map(|&row| data.left.choices(row)).collect()))
    }

    fn share(&self, outputs: &[&Vec<f64>], labels: &Labels, choose: impl Fn(&[f64]) -> usize) -> f64 {
        let right = outputs.iter().zip(truth(labels)).filter(|(output, truth)| choose(output) == **truth).count();
        right as f64 / outputs.len() as f64
    }
}

/// Half of an output are log-likelihoods, half the bytes of the choices.
fn halves(output: &[f64]) -> (&[f64], &[f64]) {
    output.split_at(output.len() / 2)
}

/// The likeliest choice by the byte.
fn by_byte(output: &[f64]) -> usize {
    let (likelihoods, bytes) = halves(output);
    argmax(&likelihoods.iter().zip(bytes).map(|(likelihood, bytes)| likelihood / bytes.max(1.0)).collect::<Vec<_>>())
}

impl Task for Choice {
    fn kind(&self) -> TaskKind {
        TaskKind::MultipleChoice
    }
    fn outputs(&self) -> Option<usize> {
        None
    }
    fn metric(&self) -> &'static str {
        "accuracy"
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let truth = truth(data.labels()?);
        let (likelihoods, counts) = Self::likelihoods(model, data, rows, pass)?;
        let mut from = 0;
        let losses = rows.iter().zip(&counts).map(|(&row, &n)| {
            from += n;
            let log = activation::log_softmax(likelihoods.clone().narrow(0, from - n, n), 0);
            log.narrow(0, truth[row], 1).neg()
        });
        Ok(Tensor::cat(losses.collect(), 0).mean())
    }

    /// Of each choice the log-likelihood, then of each the bytes.
    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        let (likelihoods, counts) = Self::likelihoods(model, data, rows, pass)?;
        let likelihoods = AnyTensor::from(likelihoods).to_f64s();
        let mut from = 0;
        let output = |(&row, n): (&usize, usize)| {
            from += n;
            let bytes = data.left.documents(&[row]).into_iter().map(|document| document.bytes as f64);
            likelihoods[from - n..from].iter().copied().chain(bytes).collect()
        };
        Ok(rows.iter().zip(counts).map(output).collect())
    }

    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64 {
        self.share(outputs, labels, |output| argmax(halves(output).0))
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        vec![
            (self.metric().to_owned(), self.score(outputs, labels)),
            ("accuracy by the byte".to_owned(), self.share(outputs, labels, by_byte)),
        ]
    }

    fn describe(&self, output: &[f64]) -> String {
        format!("choice {}", argmax(halves(output).0) + 1)
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}
