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
        // Adapters may put positions before the tokens, or drop some.
        let origins: Vec<i64> = states.origin.to_data().iter().collect();
        let mut at = vec![];
        let mut counts = vec![];
        for (i, &row) in rows.iter().enumerate() {
            let (starts, here) = (data.left.word_starts(row), &origins[i * length..][..length]);
            counts.push(starts.len());
            for &start in starts {
                let place =
                    here.iter().position(|&origin| origin == start as i64).ok_or_else(|| Error::Unsupported {
                        who: "a label per word".to_owned(),
                        what: "be said where the adapter dropped the word".to_owned(),
                        instead: "choose an adapter that keeps every token".to_owned(),
                    })?;
                at.push((i * length + place) as i64);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Encoded;
    use acclimate_core::{HeadStart, Patch, Rng};
    use acclimate_data::{Inputs, Tokenizer};
    use acclimate_models::tiny;
    use burn::tensor::DType;

    #[test]
    fn a_word_without_tokens_leaves_the_others_their_labels() {
        const FILE: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
            "model":{"type":"WordLevel","vocab":{"[UNK]":0,"good":1,"bad":2},"unk_token":"[UNK]"}}"#;
        let tokenizer = Tokenizer::from_bytes("tokenizer.json", FILE.as_bytes(), 8).unwrap();
        let words = |row: &[&str]| row.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let rows = Inputs::Words(vec![words(&["good", " ", "bad"]), words(&[" "])]);
        let left = Encoded::new(&rows, (Some(&tokenizer), None), None, TaskKind::TokenClassification).unwrap();
        assert_eq!((left.word_starts(0), left.word_starts(1)), (&[0, 1, 1][..], &[][..]));
        let names = vec!["a".to_owned(), "b".to_owned()];
        let labels = Some(Labels::Tokens { names: names.clone(), rows: vec![vec![0, 1, 1], vec![0]] });
        let data = Prepared { left, right: None, labels };
        let spec =
            TaskSpec { kind: TaskKind::TokenClassification, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
        let (task, model, mut patch) = (Words(spec), tiny::bert(0, DType::F64), Patch::new());
        patch.add_head(&model, 2, HeadStart::Zero, &mut Rng::new(0, "head", 0));
        let said = |rows: &[usize]| task.predict(&model, &data, rows, &Pass::new(&patch)).unwrap();
        assert_eq!(said(&[0, 1]), [vec![0.0; 3], vec![]]);
        assert_eq!(said(&[1]), [vec![0.0; 0]]);
        assert_eq!(task.weight(&data, &[1]), 0.0);
        task.loss(&model, &data, &[1], &Pass::new(&patch)).unwrap();
    }
}
