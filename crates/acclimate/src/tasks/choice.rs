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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Encoded;
    use acclimate_core::{Inputs, Tokens, total};
    use acclimate_data::{Choices, Tokenizer};
    use acclimate_models::tiny;
    use burn::tensor::DType;

    const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"two":1,"plus":2,"three":3,"is":4,"five":5},"unk_token":"[UNK]"}}"#;

    #[test]
    fn likelihoods_are_those_of_each_choice_after_its_prompt() {
        let tokenizer = Tokenizer::from_bytes("tokenizer.json", WORDS.as_bytes(), 16).unwrap();
        let question = |choices: &[&str]| Choices {
            prompt: "two plus three is".to_owned(),
            choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
        };
        let rows = acclimate_data::Inputs::Choices(vec![
            question(&["five", "two", "three plus two"]),
            question(&["two", "five"]),
        ]);
        let left = Encoded::new(&rows, (Some(&tokenizer), None), None, TaskKind::MultipleChoice).unwrap();
        assert_eq!((left.choices(0), left.choices(1)), (3, 2));
        let data = Prepared { left, right: None, labels: Some(Labels::Choice(vec![0, 1])) };
        let spec = TaskSpec {
            kind: TaskKind::MultipleChoice,
            names: vec![],
            weights: vec![],
            scale: [0.0, 1.0],
            cuts: vec![],
        };
        let (task, model) = (Choice(spec), tiny::llama(0, DType::F64));
        let outputs = task.predict(&model, &data, &[0, 1], &Pass::bare()).unwrap();
        // By hand: the log-share of "five" after the prompt.
        let read = Tokens::packed(&[[1u32, 2, 3, 4]], DType::F64, &burn::tensor::Device::flex());
        let features = model.forward(&Inputs::Tokens(read), &Pass::bare()).unwrap().features;
        let log = AnyTensor::from(activation::log_softmax(Pass::bare().scores(&model, features).unwrap(), 1)).to_f64s();
        assert!((outputs[0][0] - log[5]).abs() < 1e-12 && (outputs[0][1] - log[1]).abs() < 1e-12, "{outputs:?}");
        assert!((outputs[1][0] - log[1]).abs() < 1e-12 && (outputs[1][1] - log[5]).abs() < 1e-12);
        assert!(outputs[0][2] < outputs[0][0].max(outputs[0][1]), "three words are less likely than the likelier one");
        assert_eq!(outputs[1][2..], [4.0, 5.0], "bytes of the choices, with the blank before them");
        // The loss is the cross-entropy over each row's own choices.
        let cross = |log: &[f64], right: usize| log.iter().map(|x| x.exp()).sum::<f64>().ln() - log[right];
        let expected = (cross(&outputs[0][..3], 0) + cross(&outputs[1][..2], 1)) / 2.0;
        let loss = total(vec![task.loss(&model, &data, &[0, 1], &Pass::bare()).unwrap()]);
        assert!((loss - expected).abs() < 1e-12, "{loss}, not {expected}");
        let right =
            f64::from(u8::from(argmax(&outputs[0][..3]) == 0)) + f64::from(u8::from(argmax(&outputs[1][..2]) == 1));
        assert_eq!(task.score(&outputs.iter().collect::<Vec<_>>(), data.labels().unwrap()), right / 2.0);
    }
}
