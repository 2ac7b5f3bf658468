//! Writing on: one word after another.

use acclimate_core::{AnyTensor, Cache, Error, Inputs, Model, Pass, Patch, Result, Rng, Tokens};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How the next word is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// What scores are divided by before a word is drawn; 0 takes the likeliest word.
    pub temperature: f64,
    /// Words are drawn from the likeliest ones that together have this share, above 0 and at most 1.
    pub top_p: f64,
    /// Most words to write.
    pub max_tokens: usize,
    /// Seed of the draws. They depend on it, the row and the position alone.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, max_tokens: 128, seed: 0 }
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let refused = |param, value: f64, why: &str| {
            Err(Error::Param { method: "generation", param, value: value.to_string(), why: why.to_owned() })
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refused("temperature", self.temperature, "must be a number of at least 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refused("top_p", self.top_p, "must be above 0 and at most 1");
        }
        Ok(())
    }

    /// The next word after scores of all words.
    fn choose(&self, scores: &[f64], mut rng: Rng) -> u32 {
        // At a tie the first word, as everywhere else.
        let falling = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        if self.temperature == 0.0 {
            return (0..scores.len()).min_by(falling).unwrap_or(0) as u32;
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(falling);
        let most = scores[order[0]];
        let shares: Vec<f64> = order.iter().map(|&word| ((scores[word] - most) / self.temperature).exp()).collect();
        let limit = self.top_p * shares.iter().sum::<f64>();
        let before = shares.iter().scan(0.0, |sum, share| Some(std::mem::replace(sum, *sum + share)));
        let n = before.take_while(|before| *before < limit).count();
        let mut at = rng.uniform() * shares[..n].iter().sum::<f64>();
        let drawn = shares[..n].iter().position(|share| {
            at -= share;
            at < 0.0
        });
        order[drawn.unwrap_or(n - 1)] as u32
    }
}

/// Writes on after prompts, all at once: the words of each, without the one in `ends` that ended it. `on` hears of every word with the
/// number of its prompt, and may end that prompt's text after it.
///
/// # Errors
/// A model that does not read from left to right, an empty prompt, a setting out of range, or a text longer than the model can read.
///
/// # Example
/// ```
/// use acclimate_models::{Sampling, generate, tiny};
/// use burn::tensor::DType;
/// use std::ops::ControlFlow;
///
/// let model = tiny::llama(0, DType::F32);
/// let sampling = Sampling { max_tokens: 5, ..Sampling::default() };
/// let texts = generate(&model, &[], &[vec![1, 2, 3]], &sampling, &[], &mut |_, _| ControlFlow::Continue(()))?;
/// assert_eq!(texts[0].len(), 5);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
pub fn generate(
    model: &dyn Model,
    patches: &[&Patch],
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    ends: &[u32],
    on: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>> {
    sampling.check()?;
    if let Some(row) = prompts.iter().position(Vec::is_empty) {
        return Err(Error::Other(format!("prompt {} is empty; give it at least a word", row + 1)));
    }
    let mut texts = vec![vec![]; prompts.len()];
    // Rows that still write, and where they began behind their padding.
    let mut open: Vec<usize> = (0..prompts.len()).collect();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let (dtype, device) = model.like();
    let mut cache = Cache::default();
    let mut tokens = Tokens::ending(prompts, dtype, &device);
    for step in 0..sampling.max_tokens {
        if open.is_empty() {
            break;
        }
        let pass = patches.iter().copied().fold(Pass::bare(), Pass::and).cache(&cache);
        // On one of the pool's threads: from outside, each of the hundreds of small products would wait to be taken up.
        let scores = rayon::scope(|_| -> Result<Vec<f64>> {
            let features = model.forward(&Inputs::Tokens(tokens), &pass)?.features;
            Ok(AnyTensor::from(pass.scores(model, features)?).to_f64s())
        })?;
        let words = scores.len() / open.len();
        let mut going = vec![];
        for (place, (&row, scores)) in open.iter().zip(scores.chunks(words)).enumerate() {
            let word = sampling.choose(scores, Rng::new(sampling.seed, &format!("words of row {row}"), step as u64));
            if ends.contains(&word) {
                continue;
            }
            texts[row].push(word);
            if on(row, word).is_continue() {
                going.push(place);
            }
        }
        if going.len() < open.len() {
            cache = cache.select(&going);
            open = going.iter().map(|&place| open[place]).collect();
        }
        let last = |&row: &usize| *texts[row].last().expect("a row that goes on has just written");
        let starts: Vec<u32> = open.iter().map(|&row| (longest - prompts[row].len()) as u32).collect();
        tokens = Tokens::next(&open.iter().map(last).collect::<Vec<_>>(), &starts, dtype, &device);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use burn::tensor::DType;

    fn write(prompts: &[Vec<u32>], sampling: &Sampling, ends: &[u32]) -> Vec<Vec<u32>> {
        let on = &mut |_, _| ControlFlow::Continue(());
        generate(&tiny::llama(3, DType::F64), &[], prompts, sampling, ends, on).unwrap()
    }

    const PROMPTS: [&[u32]; 3] = [&[1, 2, 3, 4, 5], &[7], &[9, 8]];

    fn prompts() -> Vec<Vec<u32>> {
        PROMPTS.map(<[u32]>::to_vec).to_vec()
    }

    #[test]
    fn a_row_writes_what_it_writes_alone() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, top_p: 0.9, max_tokens: 9, seed: 4 };
            let together = write(&prompts(), &sampling, &[]);
            assert_eq!(write(&prompts()[..1], &sampling, &[])[0], together[0]);
            assert!(together.iter().all(|text| text.len() == 9), "{together:?}");
        }
    }

    #[test]
    fn the_likeliest_word_is_that_of_the_whole_text() {
        let model = tiny::llama(3, DType::F64);
        let text = write(&prompts()[..1], &Sampling { max_tokens: 6, ..Sampling::default() }, &[]).remove(0);
        for n in 0..text.len() {
            let read: Vec<u32> = PROMPTS[0].iter().chain(&text[..n]).copied().collect();
            let inputs = Inputs::Tokens(Tokens::packed(&[read], DType::F64, &burn::tensor::Device::flex()));
            let features = model.forward(&inputs, &Pass::bare()).unwrap().features;
            let scores = AnyTensor::from(Pass::bare().scores(&model, features).unwrap()).to_f64s();
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            assert_eq!(text[n], best as u32);
        }
    }

    #[test]
    fn ends_and_callers_end_a_text_and_the_others_go_on() {
        let sampling = Sampling { max_tokens: 9, ..Sampling::default() };
        let free = write(&prompts(), &sampling, &[]);
        let end = free[0][2];
        let at = |text: &[u32]| text.iter().position(|&word| word == end).unwrap_or(9);
        let ended = write(&prompts(), &sampling, &[end]);
        for (ended, free) in ended.iter().zip(&free) {
            assert_eq!(ended[..], free[..at(free)]);
        }
        let on = &mut |row, _| if row == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let stopped = generate(&tiny::llama(3, DType::F64), &[], &prompts(), &sampling, &[], on).unwrap();
        assert_eq!(stopped, [free[0].clone(), free[1][..1].to_vec(), free[2].clone()]);
    }

    #[test]
    fn draws_follow_the_shares_of_the_likeliest() {
        let sampling = Sampling { temperature: 1.0, top_p: 0.7, ..Sampling::default() };
        let scores = [0.2f64.ln(), 0.5f64.ln(), 0.25f64.ln(), 0.05f64.ln()];
        let draws = 4000;
        let mut counts = [0; 4];
        for seed in 0..draws {
            counts[sampling.choose(&scores, Rng::new(seed, "draw", 0)) as usize] += 1;
        }
        // The first two of 0.5, 0.25, 0.2 reach 0.7; two thirds to one third then, four deviations of a count allowed.
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(
            (f64::from(counts[1]) / draws as f64 - 2.0 / 3.0).abs() < 4.0 * (2.0 / 9.0 / draws as f64).sqrt(),
            "{counts:?}"
        );
    }

    #[test]
    fn bad_settings_are_refused() {
        let on = &mut |_, _| ControlFlow::Continue(());
        let model = tiny::llama(3, DType::F64);
        let mut refused = |prompts: &[Vec<u32>], sampling: Sampling| {
            generate(&model, &[], prompts, &sampling, &[], on).unwrap_err().to_string()
        };
        assert!(refused(&[vec![]], Sampling::default()).starts_with("prompt 1 is empty"));
        assert!(refused(&prompts(), Sampling { top_p: 0.0, ..Sampling::default() }).contains("top_p"));
        assert!(refused(&prompts(), Sampling { temperature: f64::NAN, ..Sampling::default() }).contains("temperature"));
        let long = Sampling { max_tokens: 100, ..Sampling::default() };
        assert!(refused(&prompts(), long).contains("cut texts to 64"));
    }
}
