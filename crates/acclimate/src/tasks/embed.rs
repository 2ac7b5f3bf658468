//! Sentence embeddings: how alike two texts are, and which belong together.

use super::{MISMATCH, Outputs, Prepared, Task, TaskSpec, host};
use crate::encode::Encoded;
use crate::recipe::TaskKind;
use acclimate_core::{Error, Model, Pass, Result};
use acclimate_data::{Labels, metrics};
use burn::tensor::{Int, Tensor, TensorData, activation};

/// Unit embeddings of rows, `[rows, width]`.
fn unit(model: &dyn Model, side: &Encoded, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<2>> {
    let features = model.forward(&side.batch(rows, model), pass)?.features;
    let norm = features.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    Ok(features / norm)
}

fn right(data: &Prepared) -> Result<&Encoded> {
    data.right
        .as_ref()
        .ok_or_else(|| Error::Other("this task needs a second text; name its column with `pair`".to_owned()))
}

/// Cosine against a target scaled to 0…1 by squared error; judged by Spearman correlation.
#[derive(Clone, Debug)]
pub struct Similarity(pub TaskSpec);

fn numbers(labels: &Labels) -> &[f64] {
    match labels {
        Labels::Numbers(numbers) => numbers,
        _ => panic!("{MISMATCH}"),
    }
}

impl Similarity {
    fn cosines(model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<2>> {
        let (a, b) = (unit(model, &data.left, rows, pass)?, unit(model, right(data)?, rows, pass)?);
        Ok((a * b).sum_dim(1))
    }
}

impl Task for Similarity {
    fn kind(&self) -> TaskKind {
        TaskKind::Similarity
    }
    fn outputs(&self) -> Option<usize> {
        None
    }
    fn metric(&self) -> &'static str {
        "Spearman correlation"
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let truth = numbers(data.labels()?);
        let [low, range] = self.0.scale;
        let wanted: Vec<f64> = rows.iter().map(|&row| (truth[row] - low) / range).collect();
        let (dtype, device) = model.like();
        let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [rows.len(), 1]), (&device, dtype));
        Ok((Self::cosines(model, data, rows, pass)? - wanted).square().mean())
    }

    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        Ok(host(Self::cosines(model, data, rows, pass)?))
    }

    fn score(&self, outputs: &[&Vec<f64>], labels: &Labels) -> f64 {
        metrics::spearman(numbers(labels), &outputs.iter().map(|o| o[0]).collect::<Vec<_>>())
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        let said: Vec<f64> = outputs.iter().map(|o| o[0]).collect();
        vec![
            ("Spearman correlation".to_owned(), metrics::spearman(numbers(labels), &said)),
            ("Pearson correlation".to_owned(), metrics::pearson(numbers(labels), &said)),
        ]
    }

    fn describe(&self, output: &[f64]) -> String {
        format!("cosine {:.3}", output[0])
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}

/// Every first text should find its own second text among those of the batch (temperature 0.05); judged by mean reciprocal rank.
/// With accumulation the others are those of the micro-batch.
#[derive(Clone, Debug)]
pub struct Retrieval(pub TaskSpec);

const TEMPERATURE: f64 = 0.05;

impl Retrieval {
    /// The rank of each row's own second text among all, from one. Among equal scores it comes last, so that a constant earns nothing.
    fn ranks(outputs: &[&Vec<f64>]) -> Vec<usize> {
        let width = outputs.first().map_or(0, |o| o.len() / 2);
        let score = |a: &Vec<f64>, b: &Vec<f64>| {
            let cosine: f64 = a[..width].iter().zip(&b[width..]).map(|(x, y)| x * y).sum();
            if cosine.is_nan() { f64::NEG_INFINITY } else { cosine }
        };
        let rank = |a: &&Vec<f64>| {
            let own = score(a, a);
            // A row may be there more than once: its own text is right wherever it stands.
            1 + outputs.iter().filter(|b| !std::ptr::eq(**b, *a) && score(a, b) >= own).count()
        };
        outputs.iter().map(rank).collect()
    }
}

impl Task for Retrieval {
    fn kind(&self) -> TaskKind {
        TaskKind::Retrieval
    }
    fn outputs(&self) -> Option<usize> {
        None
    }
    fn metric(&self) -> &'static str {
        "mean reciprocal rank"
    }
    fn is_relative(&self) -> bool {
        true
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let (a, b) = (unit(model, &data.left, rows, pass)?, unit(model, right(data)?, rows, pass)?);
        let scores = a.matmul(b.transpose()) * (1.0 / TEMPERATURE);
        let own: Vec<i64> = (0..rows.len() as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(own, [rows.len()]), &data.left.device(model))
            .unsqueeze_dim::<2>(1);
        let there = activation::log_softmax(scores.clone(), 1).gather(1, at.clone()).mean();
        let back = activation::log_softmax(scores.transpose(), 1).gather(1, at).mean();
        Ok((there + back) * -0.5)
    }

    /// Both unit embeddings, one after the other.
    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        let (a, b) = (unit(model, &data.left, rows, pass)?, unit(model, right(data)?, rows, pass)?);
        Ok(host(Tensor::cat(vec![a, b], 1)))
    }

    fn score(&self, outputs: &[&Vec<f64>], _: &Labels) -> f64 {
        metrics::Retrieval::from_ranks(Self::ranks(outputs).into_iter().map(|rank| vec![rank])).mrr()
    }

    fn row_scores(&self, outputs: &[&Vec<f64>]) -> Option<Vec<f64>> {
        Some(Self::ranks(outputs).into_iter().map(|rank| 1.0 / rank as f64).collect())
    }

    fn metrics(&self, outputs: &[&Vec<f64>], _: &Labels) -> Vec<(String, f64)> {
        let ranks = metrics::Retrieval::from_ranks(Self::ranks(outputs).into_iter().map(|rank| vec![rank]));
        vec![
            ("mean reciprocal rank".to_owned(), ranks.mrr()),
            ("recall at 1".to_owned(), ranks.recall(1)),
            ("recall at 10".to_owned(), ranks.recall(10)),
            ("nDCG at 10".to_owned(), ranks.ndcg(10)),
        ]
    }

    fn describe(&self, output: &[f64]) -> String {
        let width = output.len() / 2;
        format!("cosine {:.3}", output[..width].iter().zip(&output[width..]).map(|(x, y)| x * y).sum::<f64>())
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}
