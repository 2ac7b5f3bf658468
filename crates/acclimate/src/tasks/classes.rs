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

/// Halvings of the interval of temperatures, down to the roundings of its logarithm.
const HALVINGS: usize = 60;
/// The largest logarithm of a temperature, up and down: wider than from a head of zeros to one that is sure of all.
const WIDEST: f64 = 12.0;

/// The cross-entropy of logits that one temperature makes as sure as these rows want them: what is left is how well classes are told apart
/// (Berta, Holzmüller, Jordan and Bach, *Rethinking Early Stopping: Refine, Then Calibrate*, 2025, arXiv:2501.19195). A network goes on
/// learning which class is which long after the loss rises because it is too sure of itself.
fn refinement(outputs: &[&Vec<f64>], truth: &[usize], weights: &[f64]) -> f64 {
    let weight = |class: usize| weights.get(class).copied().unwrap_or(1.0);
    let all: f64 = truth.iter().map(|&class| weight(class)).sum();
    // The mean of a number of rows at an inverse temperature.
    let mean = |inverse: f64, of: &dyn Fn(&[f64], usize) -> f64| {
        let rows = outputs.iter().zip(truth).map(|(logits, &class)| {
            let scaled: Vec<f64> = logits.iter().map(|x| x * inverse).collect();
            weight(class) * of(&scaled, class)
        });
        rows.sum::<f64>() / all
    };
    // Its derivative by the logarithm of the inverse temperature; the loss is convex in the inverse itself, so there is one zero at most.
    let slope = |scaled: &[f64], class: usize| {
        softmax(scaled).iter().zip(scaled).map(|(share, x)| share * x).sum::<f64>() - scaled[class]
    };
    let (mut low, mut high) = (-WIDEST, WIDEST);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if mean(middle.exp(), &slope) > 0.0 { high = middle } else { low = middle }
    }
    mean(low.exp(), &|scaled, class| {
        let most = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + scaled.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - scaled[class]
    })
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

    fn refinement(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Option<f64> {
        Some(refinement(outputs, index(labels), &self.0.weights))
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

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::Rng;

    /// Logits of forty rows of three classes that lean towards the truth, and the truth.
    fn rows() -> (Vec<Vec<f64>>, Vec<usize>) {
        let mut rng = Rng::new(0, "rows", 0);
        let truth: Vec<usize> = (0..40).map(|row| row % 3).collect();
        let logits =
            truth.iter().map(|&class| (0..3).map(|k| rng.normal() + if k == class { 1.0 } else { 0.0 }).collect());
        (logits.collect(), truth)
    }

    fn refined(logits: &[Vec<f64>], truth: &[usize], weights: &[f64]) -> f64 {
        refinement(&logits.iter().collect::<Vec<_>>(), truth, weights)
    }

    fn scaled(logits: &[Vec<f64>], by: f64) -> Vec<Vec<f64>> {
        logits.iter().map(|row| row.iter().map(|x| x * by).collect()).collect()
    }

    #[test]
    fn how_sure_a_classifier_is_does_not_change_its_refinement() {
        let (logits, truth) = rows();
        let once = refined(&logits, &truth, &[]);
        for by in [1e-2, 0.5, 30.0] {
            // The optimum is flat: the loss there holds to the square of the temperature's rounding.
            assert!((refined(&scaled(&logits, by), &truth, &[]) - once).abs() < 1e-12, "{by}");
        }
    }

    #[test]
    fn refinement_is_the_least_loss_over_temperatures() {
        let (logits, truth) = rows();
        for weights in [&[][..], &[1.0, 5.0, 0.2]] {
            let all: f64 = truth.iter().map(|&class| weights.get(class).unwrap_or(&1.0)).sum();
            let loss = |by: f64| {
                let rows = scaled(&logits, by)
                    .into_iter()
                    .zip(&truth)
                    .map(|(row, &class)| -weights.get(class).unwrap_or(&1.0) * softmax(&row)[class].ln());
                rows.sum::<f64>() / all
            };
            let least = (1..4000).map(|k| loss(f64::from(k) * 1e-3)).fold(f64::INFINITY, f64::min);
            let refined = refined(&logits, &truth, weights);
            // Steps of a thousandth around a temperature near one.
            assert!(refined <= least + 1e-12 && least - refined < 1e-6, "{refined} {least}");
        }
    }

    #[test]
    fn logits_that_tell_nothing_are_worth_as_much_as_none() {
        let (logits, truth) = rows();
        let contrary = refined(&scaled(&logits, -1.0), &truth, &[]);
        // At the widest temperature a logit of one is worth 6e-6.
        assert!((contrary - 3_f64.ln()).abs() < 1e-4, "{contrary}");
    }
}
