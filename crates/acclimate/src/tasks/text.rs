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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Encoded;
    use acclimate_core::{Params, Patch, Rng, total};
    use acclimate_data::{Inputs as Rows, Message, Tokenizer};
    use acclimate_models::tiny;
    use acclimate_optim::Accumulator;
    use burn::tensor::DType;

    const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"who":1,"are":2,"you":3,"a":4,"model":5,"and":6,"patch":7},"unk_token":"[UNK]"}}"#;

    fn data(dialogues: &[(&str, &str)]) -> Prepared {
        let tokenizer = Tokenizer::from_bytes("tokenizer.json", WORDS.as_bytes(), 16).unwrap();
        let turn =
            |(user, assistant): &(&str, &str)| vec![Message::new("user", *user), Message::new("assistant", *assistant)];
        let rows = Rows::Dialogues(dialogues.iter().map(turn).collect());
        let left = Encoded::new(&rows, (Some(&tokenizer), None), None, TaskKind::Instruction).unwrap();
        let labels = Some(Labels::Text(left.len()));
        Prepared { left, right: None, labels }
    }

    fn task() -> Text {
        let kind = TaskKind::Instruction;
        Text(TaskSpec { kind, names: vec![], weights: vec![], scale: [0.0, 1.0], cuts: vec![] })
    }

    const ROWS: [(&str, &str); 3] = [("who are you", "a model"), ("who", "a patch and a model"), ("you", "you")];

    #[test]
    fn only_what_the_assistant_says_is_scored() {
        let data = data(&ROWS);
        let (task, model) = (task(), tiny::llama(0, DType::F64));
        assert_eq!([0, 1, 2].map(|row| task.weight(&data, &[row])), [2.0, 5.0, 1.0]);
        assert_eq!(task.weight(&data, &[0, 1, 2]), 8.0);
        let reading = Reading::new(&model, &data.left.documents(&[0, 1, 2]), &Pass::bare()).unwrap();
        assert_eq!((reading.words, reading.counts), (vec![4, 5, 4, 7, 6, 4, 5, 3], vec![2, 5, 1]));
    }

    #[test]
    fn rows_beside_each_other_are_rows_alone() {
        let data = data(&ROWS);
        let (task, model) = (task(), tiny::llama(0, DType::F64));
        let together = task.predict(&model, &data, &[0, 1, 2], &Pass::bare()).unwrap();
        let loss = total(vec![task.loss(&model, &data, &[0, 1, 2], &Pass::bare()).unwrap()]);
        let mut nats = 0.0;
        for row in 0..3 {
            let alone = task.predict(&model, &data, &[row], &Pass::bare()).unwrap();
            // Some dozen sums of products in f64, in another order.
            assert!((alone[0][0] - together[row][0]).abs() < 1e-12, "{alone:?}, {together:?}");
            assert_eq!(alone[0][1..], together[row][1..]);
            nats += alone[0][0];
        }
        assert!((loss - nats / 8.0).abs() < 1e-12, "{loss}, {nats}");
        let outputs: Vec<&Vec<f64>> = together.iter().collect();
        let metrics = task.metrics(&outputs, &Labels::Text(3));
        let get = |name: &str| metrics.iter().find(|(n, _)| n == name).unwrap().1;
        assert!((get("perplexity") - (nats / 8.0).exp()).abs() < 1e-9 && get("scored tokens") == 8.0);
        assert!((task.score(&outputs, &Labels::Text(3)) - 1.0 / get("perplexity")).abs() < 1e-12);
    }

    #[test]
    fn micro_batches_weigh_by_their_words() {
        let data = data(&ROWS);
        let (task, model, mut patch) = (task(), tiny::llama(0, DType::F64), Patch::new());
        let lora = acclimate_peft::build("lora", &"rank = 2".parse().unwrap()).unwrap();
        acclimate_peft::place(&mut patch, &model, "lora", lora, None, &mut Rng::new(0, "patch", 0)).unwrap();
        let gradients = |batches: &[&[usize]]| -> (f64, Params) {
            let mut sum = Accumulator::default();
            for rows in batches {
                let tracked = patch.tracked();
                let loss = task.loss(&model, &data, rows, &Pass::new(&tracked)).unwrap();
                let value = total(vec![loss.clone().inner()]);
                sum.add(tracked.params.gradients(&mut loss.backward()), value, task.weight(&data, rows));
            }
            sum.finish().unwrap()
        };
        let (whole, parts) = (gradients(&[&[0, 1, 2]]), gradients(&[&[0], &[1], &[2]]));
        assert!((whole.0 - parts.0).abs() < 1e-12);
        let far = whole
            .1
            .zip(&parts.1, |a, b| (a - b).abs())
            .iter()
            .map(|(_, x)| total(vec![x.elements().max()]))
            .fold(0.0, f64::max);
        assert!(far < 1e-12, "{far:e}");
        assert!(
            whole.1.iter().any(|(_, x)| total(vec![x.elements().abs().max()]) > 1e-6),
            "there is a gradient to compare"
        );
    }

    #[test]
    fn exact_answers_are_those_that_greedy_writing_gives() {
        let config = acclimate_models::LlamaConfig { vocab_size: 8, ..tiny::llama_config() };
        let names = ["", "who", "are", "you", "a", "model", "and", "patch"];
        let sampling = acclimate_models::Sampling { max_tokens: 3, ..Default::default() };
        let mut written = 0;
        for seed in 0..6 {
            let model = tiny::llama_with(config.clone(), seed, DType::F64);
            let on = &mut |_, _| std::ops::ControlFlow::Continue(());
            let said = acclimate_models::generate(&model, &[], &[vec![1, 2]], &sampling, &[], on).unwrap().remove(0);
            // The unknown word is no word that can be read back.
            if said.contains(&0) {
                continue;
            }
            let text = said.iter().map(|&word| names[word as usize]).collect::<Vec<_>>().join(" ");
            let other = names[1 + said[0] as usize % 7];
            let data = data(&[("who are", &text), ("who are", other)]);
            let outputs = task().predict(&model, &data, &[0, 1], &Pass::bare()).unwrap();
            assert_eq!((outputs[0][1], outputs[0][2], outputs[1][2]), (3.0, 3.0, 0.0));
            let exact = task().metrics(&outputs.iter().collect::<Vec<_>>(), &Labels::Text(2));
            assert_eq!(exact.iter().find(|(name, _)| name == "exact match").unwrap().1, 0.5);
            written += 1;
        }
        assert!(written >= 2, "{written} texts were compared");
    }
}
