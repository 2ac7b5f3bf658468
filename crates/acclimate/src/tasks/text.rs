//! Words that follow words: language modelling and instruction tuning.

use super::{MISMATCH, Outputs, Prepared, Task, TaskSpec};
use crate::recipe::TaskKind;
use acclimate_core::{AnyTensor, Error, Inputs, Model, Pass, Result, Seq, Tokens};
use acclimate_data::{Document, Labels};
use burn::tensor::{Int, Tensor, TensorData, activation};

/// Words whose scores of the whole vocabulary are held at a time when nothing is trained.
const AT_ONCE: usize = 128;

/// Cross-entropy on every word that is to be said: in a text all but the first, in a dialogue those of the assistant's turns. Rows of a
/// batch stand one after another without padding, and none sees another. Judged by the geometric mean of the probabilities given to them,
/// which is one over the perplexity.
#[derive(Clone, Debug)]
pub struct Text(pub TaskSpec);

/// What one row's scored words came to, as the numbers of [`Outputs`].
struct Said {
    /// −log p, summed.
    nats: f64,
    /// Scored words.
    words: f64,
    /// Those that the model thinks likeliest.
    hits: f64,
    /// Bytes of their text.
    bytes: f64,
}

impl Said {
    fn numbers(&self) -> Vec<f64> {
        vec![self.nats, self.words, self.hits, self.bytes]
    }

    fn of(output: &[f64]) -> Self {
        let [nats, words, hits, bytes] = *output else { panic!("{MISMATCH}") };
        Self { nats, words, hits, bytes }
    }

    fn sum(outputs: &[&Vec<f64>]) -> Self {
        outputs.iter().map(|output| Self::of(output)).fold(
            Self { nats: 0.0, words: 0.0, hits: 0.0, bytes: 0.0 },
            |sum, said| Self {
                nats: sum.nats + said.nats,
                words: sum.words + said.words,
                hits: sum.hits + said.hits,
                bytes: sum.bytes + said.bytes,
            },
        )
    }
}

/// The states before the scored words of documents, which words those are, and how many each document has.
pub(super) struct Reading {
    /// `[scored words, width]`.
    pub states: Tensor<2>,
    /// The scored words.
    pub words: Vec<u32>,
    /// Scored words of each document.
    pub counts: Vec<usize>,
}

impl Reading {
    /// Reads documents one after another in a single row.
    pub(super) fn new(model: &dyn Model, documents: &[&Document], pass: &Pass<'_>) -> Result<Self> {
        let (dtype, device) = model.like();
        let rows: Vec<&[u32]> = documents.iter().map(|document| &document.ids[..]).collect();
        let out = model.forward(&Inputs::Tokens(Tokens::packed(&rows, dtype, &device)), pass)?;
        let states = out.states.ok_or_else(|| Error::Other("text needs a model over sequences".to_owned()))?;
        let (mut before, mut words, mut counts, mut start) = (vec![], vec![], vec![], 0);
        for document in documents {
            // Nothing stands before a document's first word.
            let scored = (1..document.ids.len()).filter(|&at| document.scored[at]);
            let here = words.len();
            for at in scored {
                before.push(start + at - 1);
                words.push(document.ids[at]);
            }
            counts.push(words.len() - here);
            start += document.ids.len();
        }
        let [_, length, width] = states.h.dims();
        let at = places(&states, &before)?;
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [before.len()]), &device);
        Ok(Self { states: states.h.reshape([length, width]).select(0, at), words, counts })
    }

    /// The words as a tensor.
    pub(super) fn targets(&self) -> Tensor<1, Int> {
        let words: Vec<i64> = self.words.iter().map(|&word| i64::from(word)).collect();
        Tensor::from_data(TensorData::new(words, [self.words.len()]), &self.states.device())
    }
}

/// Where tokens stand among the states: adapters may have put positions before them, or dropped some.
fn places(states: &Seq, tokens: &[usize]) -> Result<Vec<i64>> {
    let origins: Vec<i64> = states.origin.to_data().iter().collect();
    let mut place = vec![None; origins.iter().max().map_or(0, |&most| most as usize + 1)];
    for (at, &origin) in origins.iter().enumerate().filter(|(_, origin)| **origin >= 0) {
        place[origin as usize] = Some(at as i64);
    }
    let at = |&token: &usize| {
        place.get(token).copied().flatten().ok_or_else(|| Error::Unsupported {
            who: "a word".to_owned(),
            what: "be said where the adapter dropped the one before it".to_owned(),
            instead: "choose an adapter that keeps every token".to_owned(),
        })
    };
    tokens.iter().map(at).collect()
}

impl Task for Text {
    fn kind(&self) -> TaskKind {
        self.0.kind
    }
    fn outputs(&self) -> Option<usize> {
        None
    }
    fn metric(&self) -> &'static str {
        "1/perplexity"
    }

    fn loss(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Tensor<1>> {
        let reading = Reading::new(model, &data.left.documents(rows), pass)?;
        Ok(pass.cross_entropy(model, reading.states.clone(), reading.targets())?.mean())
    }

    fn weight(&self, data: &Prepared, rows: &[usize]) -> f64 {
        data.left.documents(rows).iter().map(|document| document.words() as f64).sum()
    }

    fn predict(&self, model: &dyn Model, data: &Prepared, rows: &[usize], pass: &Pass<'_>) -> Result<Outputs> {
        let documents = data.left.documents(rows);
        let reading = Reading::new(model, &documents, pass)?;
        let targets = reading.targets();
        let (mut losses, mut hits) = (vec![], vec![]);
        for first in (0..reading.words.len()).step_by(AT_ONCE) {
            let n = AT_ONCE.min(reading.words.len() - first);
            let scores = pass.scores(model, reading.states.clone().narrow(0, first, n))?;
            let likeliest = scores.clone().argmax(1).to_data();
            hits.extend(
                likeliest.iter::<i64>().zip(&reading.words[first..]).map(|(top, &word)| top == i64::from(word)),
            );
            let at = targets.clone().narrow(0, first, n).unsqueeze_dim(1);
            losses.extend(AnyTensor::from(activation::log_softmax(scores, 1).gather(1, at)).to_f64s());
        }
        let mut from = 0;
        let said = documents.iter().zip(&reading.counts).map(|(document, &n)| {
            let here = from..from + n;
            from += n;
            Said {
                nats: -losses[here.clone()].iter().sum::<f64>(),
                words: n as f64,
                hits: hits[here].iter().filter(|hit| **hit).count() as f64,
                bytes: document.bytes as f64,
            }
            .numbers()
        });
        Ok(said.collect())
    }

    fn score(&self, outputs: &[&Vec<f64>], _: &Labels) -> f64 {
        let said = Said::sum(outputs);
        (-said.nats / said.words).exp()
    }

    fn metrics(&self, outputs: &[&Vec<f64>], labels: &Labels) -> Vec<(String, f64)> {
        let said = Said::sum(outputs);
        let loss = said.nats / said.words;
        let mut metrics = vec![
            (self.metric().to_owned(), self.score(outputs, labels)),
            ("loss".to_owned(), loss),
            ("perplexity".to_owned(), loss.exp()),
            ("bits per byte".to_owned(), said.nats / std::f64::consts::LN_2 / said.bytes),
            ("token accuracy".to_owned(), said.hits / said.words),
            ("scored tokens".to_owned(), said.words),
        ];
        if self.0.kind == TaskKind::Instruction {
            // Greedy writing gives the reference if and only if each of its words is the likeliest after those before it.
            let exact = outputs.iter().map(|output| Self::exact(&Said::of(output))).sum::<f64>();
            metrics.push(("exact match".to_owned(), exact / outputs.len() as f64));
        }
        metrics
    }

    fn describe(&self, output: &[f64]) -> String {
        let said = Said::of(output);
        format!("{:.3} nats per token", said.nats / said.words)
    }
    fn spec(&self) -> TaskSpec {
        self.0.clone()
    }
}

impl Text {
    fn exact(said: &Said) -> f64 {
        f64::from(u8::from(said.hits == said.words))
    }
}
