//! Answers as files and programs take them.

use super::{Outputs, Task, argmax, softmax};
use crate::recipe::TaskKind;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What a patched model says about one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// A class, a list of labels, or a number: of a choice its place counted from zero, of a text its loss in nats per token.
    pub answer: Value,
    /// How likely the class is, where one class is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// How likely each class or label is, where the task has them per row.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub probabilities: Map<String, Value>,
}

impl Answer {
    /// The answer in one cell, as tables of labels have it: labels joined by `|`.
    pub fn text(&self) -> String {
        match &self.answer {
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"),
            other => other.to_string(),
        }
    }
}

/// The answers to rows, from a task's outputs.
pub fn answers(task: &dyn Task, outputs: &Outputs) -> Vec<Answer> {
    let names = task.spec().names;
    let name = |class: usize| names.get(class).map_or(Value::Null, |name| json!(name));
    let by_name = |numbers: &[f64]| names.iter().cloned().zip(numbers.iter().map(|x| json!(x))).collect::<Map<_, _>>();
    let plain = |answer: Value| Answer { answer, probability: None, probabilities: Map::new() };
    let answer = |output: &Vec<f64>| match task.kind() {
        TaskKind::Auto | TaskKind::Classification => {
            let (class, shares) = (argmax(output), softmax(output));
            let probability = shares.get(class).copied();
            Answer { answer: name(class), probability, probabilities: by_name(&shares) }
        }
        TaskKind::MultiLabel => {
            let holds = output.iter().enumerate().filter(|(_, x)| **x > 0.0).map(|(label, _)| name(label));
            let shares: Vec<f64> = output.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
            Answer { answer: holds.collect(), probability: None, probabilities: by_name(&shares) }
        }
        TaskKind::TokenClassification => plain(output.iter().map(|&class| name(class as usize)).collect()),
        TaskKind::Regression | TaskKind::Similarity => plain(json!(output.first())),
        TaskKind::LanguageModelling | TaskKind::Instruction => plain(json!(output[0] / output[1])),
        TaskKind::MultipleChoice => {
            let likelihoods = &output[..output.len() / 2];
            let choice = argmax(likelihoods);
            Answer { probability: softmax(likelihoods).get(choice).copied(), ..plain(json!(choice)) }
        }
        TaskKind::Retrieval => {
            let (left, right) = output.split_at(output.len() / 2);
            plain(json!(left.iter().zip(right).map(|(x, y)| x * y).sum::<f64>()))
        }
    };
    outputs.iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskSpec;

    fn one(kind: TaskKind, output: &[f64]) -> Answer {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let spec = TaskSpec { kind, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
        answers(spec.build().as_ref(), &vec![output.to_vec()]).remove(0)
    }

    #[test]
    fn each_kind_has_its_form() {
        let class = one(TaskKind::Classification, &[0.0, 3f64.ln()]);
        assert_eq!((class.text().as_str(), class.probability.map(|p| (p * 100.0).round())), ("b", Some(75.0)));
        assert_eq!(one(TaskKind::MultiLabel, &[0.0, 0.0]).text(), "");
        assert_eq!(one(TaskKind::MultiLabel, &[1.0, 2.0]).text(), "a|b");
        assert_eq!(one(TaskKind::TokenClassification, &[1.0, 0.0, 1.0]).text(), "b|a|b");
        assert_eq!(one(TaskKind::Regression, &[2.5]).text(), "2.5");
        assert_eq!(one(TaskKind::Retrieval, &[1.0, 2.0, 3.0, 4.0]).answer, json!(11.0));
    }
}
