//! A label per word.

use super::{MISMATCH, Outputs, Prepared, Task, TaskSpec, argmax, host};
use crate::recipe::TaskKind;
use acclimate_core::{Error, Model, Pass, Result};
use acclimate_data::{Labels, metrics};
use burn::tensor::{Int, Tensor, TensorData, activation};

/// Cross-entropy on the first token of every word; judged by F1 over spans where labels begin with `B-` or `I-`, by accuracy per
/// word otherwise.
#[derive(Clone, Debug)]
pub struct Words(pub TaskSpec);

fn rows_of(labels: &Labels) -> &[Vec<usize>] {
    match labels {
        Labels::Tokens { rows, .. } => rows,
        _ => panic!("{MISMATCH}"),
    }
}

impl Words {
    fn spans(&self) -> bool {
        self.0.names.iter().any(|name| name.starts_with("B-") || name.starts_with("I-"))
    }

    /// Logits at the first tokens of the words that fit, row after row, and how many each row has.
    fn logits(
        &self,
        model: &dyn Model,
        data: &Prepared,
        rows: &[usize],
        pass: &Pass<'_>,
    ) -> Result<(Tensor<2>, Vec<usize>)> {
        let out = model.forward(&data.left.batch(rows, model), pass)?;
        let states =
            out.states.ok_or_else(|| Error::Other("labels per word need a model over sequences".to_owned()))?;
        let [batch, length, width] = states.h.dims();
        let mut at = vec![];
        let mut counts = vec![];
        for (i, &row) in rows.iter().enumerate() {
            let starts = data.left.word_starts(row);
            counts.push(starts.len());
            at.extend(starts.iter().map(|&start| (i * length + start) as i64));
        }
        let at = Tensor::<1, Int>::from_data(TensorData::new(at.clone(), [at.len()]), &data.left.device(model));
        let picked = states.h.reshape([batch * length, width]).select(0, at);
        let logits =
            pass.head(picked)?.ok_or_else(|| Error::Other("labels per word need a patch with a head".to_owned()))?;
        Ok((logits, counts))
    }
}

impl Task for Words {
    fn kind(&self) -> TaskKind {
        TaskKind::TokenClassification
    }
    fn outputs(&self) -> Option<usize> {
        Some(self.0.names.len())
    }
    fn metric(&self) -> &'static str {
        if self.spans() { "span F1" } else { "word accuracy" }
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let truth = rows_of(data.labels()?);
        let (logits, counts) = self.logits(model, data, rows, pass)?;
        let wanted: Vec<i64> =
            rows.iter().zip(&counts).flat_map(|(&row, &n)| truth[row][..n].iter().map(|&class| class as i64)).collect();
        let n = wanted.len();
        let at = Tensor::<1, Int>::from_data(TensorData::new(wanted, [n]), &data.left.device(model));
        Ok(activation::log_softmax(logits, 1).gather(1, at.unsqueeze_dim(1)).mean().neg())
    }

    fn weight(&self, data: &Prepared, rows: &[usize]) -> f64 {
        rows.iter().map(|&row| data.left.word_starts(row).len() as f64).sum()
    }

    /// One class number per word that fits.
    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        let (logits, counts) = self.logits(model, data, rows, pass)?;
        let mut words = host(logits).into_iter().map(|word| argmax(&word) as f64);
        Ok(counts.iter().map(|&n| words.by_ref().take(n).collect()).collect())
    }

    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64 {
        let truth = rows_of(labels);
        if !self.spans() {
            let pairs = outputs.iter().zip(truth).flat_map(|(said, truth)| said.iter().zip(truth));
            let (right, all) = pairs.fold((0usize, 0usize), |(right, all), (said, &truth)| {
                (right + usize::from(*said as usize == truth), all + 1)
            });
            return right as f64 / all.max(1) as f64;
        }
        let name = |class: usize| self.0.names[class].as_str();
        let said: Vec<Vec<&str>> = outputs.iter().map(|row| row.iter().map(|&c| name(c as usize)).collect()).collect();
        let truth: Vec<Vec<&str>> =
            truth.iter().zip(&said).map(|(row, said)| row[..said.len()].iter().map(|&c| name(c)).collect()).collect();
        metrics::span_f1(&truth, &said).f1
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        vec![(self.metric().to_owned(), self.score(outputs, labels))]
    }

    fn describe(&self, output: &[f64]) -> String {
        output.iter().map(|&class| self.0.names[class as usize].as_str()).collect::<Vec<_>>().join(" ")
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}
