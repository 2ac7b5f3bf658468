//! Text as a stream: segments of words that are scored after what stands before them.

use acclimate_core::{Error, Inputs, Result, Seq, Tokens};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};

/// Cuts a text into segments of `length` words, each with up to `context` words before it, and at least one. A segment is a batch of one
/// row whose scored words have segment number 1; every word is scored once, but for the first, before which nothing stands.
///
/// # Panics
/// When `length` is 0.
pub fn segments(words: &[u32], length: usize, context: usize, dtype: DType, device: &Device) -> Vec<Inputs> {
    let segment = |(number, scored): (usize, &[u32])| {
        let at = 1 + number * length;
        let from = at.saturating_sub(context.max(1));
        let row = words[from..at + scored.len()].to_vec();
        let types = std::iter::repeat_n(0, at - from).chain(std::iter::repeat_n(1, scored.len())).collect();
        Inputs::Tokens(Tokens::new(&[(row, types)], dtype, device))
    };
    words.get(1..).unwrap_or_default().chunks(length).enumerate().map(segment).collect()
}

/// The scored words of a batch, row after row: the position of the word before each, counted through all rows, and its number. Scored
/// are words with segment number 1 before which something stands in their row.
pub fn scored(tokens: &Tokens) -> (Vec<usize>, Vec<u32>) {
    let [_, length] = tokens.ids.dims();
    let numbers = |x: &Tensor<2, Int>| x.to_data().iter::<i64>().collect::<Vec<_>>();
    let (ids, types) = (numbers(&tokens.ids), numbers(&tokens.types));
    let follows = |at: &usize| types[*at] == 1 && at % length > tokens.starts[*at] as usize;
    (0..ids.len()).filter(follows).map(|at| (at - 1, ids[at] as u32)).unzip()
}

/// `−log p` of each scored word of a batch, `[scored words]`, from the logits `[scored words, words]` of a [host](crate::Host) or
/// [stream](crate::Stream).
///
/// # Errors
/// Inputs that are no text.
pub fn losses(logits: Tensor<2>, batch: &Inputs) -> Result<Tensor<1>> {
    let Inputs::Tokens(tokens) = batch else { return Err(no_text()) };
    let targets: Vec<i64> = scored(tokens).1.into_iter().map(i64::from).collect();
    let at = Tensor::<1, Int>::from_data(TensorData::new(targets.clone(), [targets.len()]), &tokens.ids.device());
    Ok(activation::log_softmax(logits, 1).gather(1, at.unsqueeze_dim(1)).squeeze_dim::<1>(1).neg())
}

/// The states before the scored words of a batch, `[scored words, width]`.
pub(crate) fn before(tokens: &Tokens, states: &Seq) -> Result<Tensor<2>> {
    let [batch, length, width] = states.h.dims();
    if tokens.ids.dims() != [batch, length] {
        return Err(Error::Unsupported {
            who: "a stream of text".to_owned(),
            what: "follow a patch that adds or drops positions".to_owned(),
            instead: "choose an adapter that acts on weights".to_owned(),
        });
    }
    let at: Vec<i64> = scored(tokens).0.into_iter().map(|at| at as i64).collect();
    if at.is_empty() {
        return Err(Error::Other("a segment has no word to score; join it to the one before".to_owned()));
    }
    let at = Tensor::<1, Int>::from_data(TensorData::new(at.clone(), [at.len()]), &states.h.device());
    Ok(states.h.clone().reshape([batch * length, width]).select(0, at))
}

pub(crate) fn no_text() -> Error {
    Error::Unsupported {
        who: "a stream of text".to_owned(),
        what: "take inputs of this kind".to_owned(),
        instead: "give it segments of words".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_but_the_first_is_scored_once() {
        let words: Vec<u32> = (10..23).collect();
        for (length, context) in [(5, 3), (5, 20), (1, 1), (20, 4)] {
            let all = segments(&words, length, context, DType::F64, &Device::flex());
            let mut said = vec![];
            for (number, segment) in all.iter().enumerate() {
                let Inputs::Tokens(tokens) = segment else { panic!("a segment is tokens") };
                let (before, targets) = scored(tokens);
                let row: Vec<i64> = tokens.ids.to_data().iter().collect();
                assert!(before.iter().zip(&targets).all(|(&at, &word)| row[at + 1] == i64::from(word)));
                assert!(row.len() <= context.min(1 + number * length) + length);
                said.extend(targets);
            }
            assert_eq!(said, words[1..], "{length} after {context}");
        }
    }
}
