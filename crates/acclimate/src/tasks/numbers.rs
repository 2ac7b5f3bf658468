//! A number per row.

use super::{MISMATCH, Outputs, Prepared, ProbeLoss, Task, TaskSpec, host, logits};
use crate::recipe::TaskKind;
use acclimate_core::{Model, Pass, Result};
use acclimate_data::{Labels, metrics};
use burn::tensor::{Tensor, TensorData};

/// Squared error on the standardised target; judged by R².
#[derive(Clone, Debug)]
pub struct Numbers(pub TaskSpec);

fn numbers(labels: &Labels) -> &[f64] {
    match labels {
        Labels::Numbers(numbers) => numbers,
        _ => panic!("{MISMATCH}"),
    }
}

fn said(outputs: &[&Vec<f64>]) -> Vec<f64> {
    outputs.iter().map(|o| o[0]).collect()
}

impl Task for Numbers {
    fn kind(&self) -> TaskKind {
        TaskKind::Regression
    }
    fn outputs(&self) -> Option<usize> {
        Some(1)
    }
    fn metric(&self) -> &'static str {
        "R²"
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let truth = numbers(data.labels()?);
        let [mean, std] = self.0.scale;
        let logits = logits(model, data, rows, pass)?;
        let wanted: Vec<f64> = rows.iter().map(|&row| (truth[row] - mean) / std).collect();
        let (dtype, device) = model.like();
        let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [rows.len(), 1]), (&device, dtype));
        Ok((logits - wanted).square().mean())
    }

    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        let [mean, std] = self.0.scale;
        let scaled = host(logits(model, data, rows, pass)?);
        Ok(scaled.into_iter().map(|row| row.into_iter().map(|x| x * std + mean).collect()).collect())
    }

    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64 {
        metrics::r2(numbers(labels), &said(outputs))
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        let (truth, said) = (numbers(labels), said(outputs));
        vec![
            ("R²".to_owned(), metrics::r2(truth, &said)),
            ("root mean squared error".to_owned(), metrics::rmse(truth, &said)),
            ("mean absolute error".to_owned(), metrics::mae(truth, &said)),
            ("Pearson correlation".to_owned(), metrics::pearson(truth, &said)),
            ("Spearman correlation".to_owned(), metrics::spearman(truth, &said)),
        ]
    }

    fn describe(&self, output: &[f64]) -> String {
        format!("{:.4}", output[0])
    }
    fn probe(&self) -> Option<ProbeLoss> {
        Some(ProbeLoss::Squared)
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}
