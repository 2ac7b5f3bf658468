//! Any number of labels per row.

use super::{MISMATCH, Outputs, Prepared, ProbeLoss, Task, TaskSpec, host, logits};
use crate::recipe::TaskKind;
use acclimate_core::{Model, Pass, Result};
use acclimate_data::{Labels, metrics};
use burn::tensor::{Tensor, TensorData, activation};

/// Binary cross-entropy per label; judged by micro F1 at probability ½.
#[derive(Clone, Debug)]
pub struct MultiLabel(pub TaskSpec);

fn holds(labels: &Labels) -> &[Vec<bool>] {
    match labels {
        Labels::MultiLabel { rows, .. } => rows,
        _ => panic!("{MISMATCH}"),
    }
}

fn said(outputs: &[&Vec<f64>]) -> Vec<Vec<bool>> {
    outputs.iter().map(|o| o.iter().map(|&x| x > 0.0).collect()).collect()
}

impl Task for MultiLabel {
    fn kind(&self) -> TaskKind {
        TaskKind::MultiLabel
    }
    fn outputs(&self) -> Option<usize> {
        Some(self.0.names.len())
    }
    fn metric(&self) -> &'static str {
        "micro F1"
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let truth = holds(data.labels()?);
        let logits = logits(model, data, rows, pass)?;
        let signs: Vec<f64> =
            rows.iter().flat_map(|&row| truth[row].iter().map(|&holds| if holds { -1.0 } else { 1.0 })).collect();
        let (dtype, device) = model.like();
        let signs = Tensor::<2>::from_data(TensorData::new(signs, logits.dims()), (&device, dtype));
        Ok(activation::softplus(logits * signs, 1.0).mean())
    }

    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        Ok(host(logits(model, data, rows, pass)?))
    }

    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64 {
        metrics::multilabel_f1_micro(holds(labels), &said(outputs))
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        let (truth, said) = (holds(labels), said(outputs));
        let exact = truth.iter().zip(&said).filter(|(a, b)| a == b).count() as f64 / truth.len().max(1) as f64;
        vec![
            ("micro F1".to_owned(), metrics::multilabel_f1_micro(truth, &said)),
            ("macro F1".to_owned(), metrics::multilabel_f1_macro(truth, &said)),
            ("exact match".to_owned(), exact),
        ]
    }

    fn describe(&self, output: &[f64]) -> String {
        let names: Vec<&str> =
            self.0.names.iter().zip(output).filter(|(_, x)| **x > 0.0).map(|(n, _)| n.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
    fn probe(&self) -> Option<ProbeLoss> {
        Some(ProbeLoss::Sigmoid)
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}
