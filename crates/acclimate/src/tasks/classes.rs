//! One class per row.

use super::{MISMATCH, Outputs, Prepared, ProbeLoss, Task, TaskSpec, argmax, host, logits, softmax};
use crate::recipe::TaskKind;
use acclimate_core::{Model, Pass, Result};
use acclimate_data::{Labels, metrics};
use burn::tensor::{Int, Tensor, TensorData, activation};

/// Cross-entropy over classes; judged by accuracy, or by balanced accuracy where the loss balances them.
#[derive(Clone, Debug)]
pub struct Classes(pub TaskSpec);

fn index(labels: &Labels) -> &[usize] {
    match labels {
        Labels::Classes { index, .. } => index,
        _ => panic!("{MISMATCH}"),
    }
}

impl Task for Classes {
    fn kind(&self) -> TaskKind {
        TaskKind::Classification
    }
    fn outputs(&self) -> Option<usize> {
        Some(self.0.names.len())
    }
    /// Classes that weigh alike in the loss weigh alike in the score.
    fn metric(&self) -> &'static str {
        if self.0.weights.is_empty() { "accuracy" } else { "balanced accuracy" }
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let truth = index(data.labels()?);
        let logits = logits(model, data, rows, pass)?;
        let classes: Vec<i64> = rows.iter().map(|&row| truth[row] as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(classes, [rows.len()]), &data.left.device(model));
        let picked = activation::log_softmax(logits, 1).gather(1, at.unsqueeze_dim(1)).reshape([rows.len()]);
        if self.0.weights.is_empty() {
            return Ok(picked.mean().neg());
        }
        let weights: Vec<f64> = rows.iter().map(|&row| self.0.weights[truth[row]]).collect();
        // Shares are taken on the host: the gradient of a tensor divided by a number rounds the number to single precision.
        let sum: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let (dtype, device) = model.like();
        let shares = Tensor::<1>::from_data(TensorData::new(shares, [rows.len()]), (&device, dtype));
        Ok((picked * shares).sum().neg())
    }

    fn weight(&self, data: &Prepared, rows: &[usize]) -> f64 {
        match (&data.labels, self.0.weights.is_empty()) {
            (Some(labels), false) => rows.iter().map(|&row| self.0.weights[index(labels)[row]]).sum(),
            _ => rows.len() as f64,
        }
    }

    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        Ok(host(logits(model, data, rows, pass)?))
    }

    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64 {
        let said: Vec<usize> = outputs.iter().map(|o| argmax(o)).collect();
        if self.0.weights.is_empty() {
            metrics::accuracy(index(labels), &said)
        } else {
            metrics::balanced_accuracy(index(labels), &said)
        }
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        let (truth, said): (_, Vec<usize>) = (index(labels), outputs.iter().map(|o| argmax(o)).collect());
        let k = self.0.names.len();
        let probabilities: Vec<f64> = outputs.iter().flat_map(|o| softmax(o)).collect();
        let mut all = vec![
            ("accuracy".to_owned(), metrics::accuracy(truth, &said)),
            ("balanced accuracy".to_owned(), metrics::balanced_accuracy(truth, &said)),
            ("macro F1".to_owned(), metrics::f1_macro(truth, &said)),
            ("Matthews correlation".to_owned(), metrics::mcc(truth, &said)),
            ("log loss".to_owned(), metrics::log_loss(truth, &probabilities, k)),
        ];
        if k == 2 {
            let scores: Vec<f64> = outputs.iter().map(|o| o[1] - o[0]).collect();
            let positive: Vec<bool> = truth.iter().map(|&c| c == 1).collect();
            all.push(("area under the ROC curve".to_owned(), metrics::roc_auc(&positive, &scores)));
        }
        all
    }

    fn describe(&self, output: &[f64]) -> String {
        let class = argmax(output);
        format!("{} ({:.0} %)", self.0.names[class], 100.0 * softmax(output)[class])
    }
    fn class(&self, output: &[f64]) -> Option<usize> {
        Some(argmax(output))
    }
    fn classes(&self) -> &[String] {
        &self.0.names
    }
    fn probe(&self) -> Option<ProbeLoss> {
        Some(ProbeLoss::Softmax)
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}
