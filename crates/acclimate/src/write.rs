//! Writing on after prompts, as text that arrives piece by piece.

use crate::dataset::Loaded;
use acclimate_core::{Error, Patch, Result};
use acclimate_data::Inputs;
use acclimate_models::{Sampling, generate};
use std::ops::ControlFlow;

/// Prompts that are written on at a time.
const AT_ONCE: usize = 16;

/// How texts are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writing {
    /// How words are chosen, and how many at most.
    pub sampling: Sampling,
    /// Texts that end the writing; they are not part of the answer.
    pub stop: Vec<String>,
    /// Whether prompts are read as they are, without the model's chat template.
    pub raw: bool,
}

/// What follows each prompt. Every new piece of text is told with the row it belongs to; pieces of one row together are its answer.
///
/// # Errors
/// Inputs that are no prompts, a model that cannot write, or the generation's own.
pub fn write(
    loaded: &Loaded,
    patch: &Patch,
    inputs: &Inputs,
    writing: &Writing,
    on: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<Vec<String>> {
    let tokenizer = loaded.tokenizer()?;
    let prompts = match inputs {
        Inputs::Dialogues(dialogues) if !writing.raw => {
            let template = loaded.template.as_ref();
            dialogues.iter().map(|messages| tokenizer.prompt(template, messages)).collect::<Result<Vec<_>>>()?
        }
        Inputs::Dialogues(dialogues) => {
            let text =
                |messages: &Vec<acclimate_data::Message>| messages.iter().map(|m| &m.content[..]).collect::<String>();
            dialogues.iter().map(|messages| tokenizer.plain(&text(messages))).collect::<Result<Vec<_>>>()?
        }
        Inputs::Texts(texts) => texts.iter().map(|text| tokenizer.plain(text)).collect::<Result<Vec<_>>>()?,
        _ => return Err(Error::Other("writing needs prompts; name their column with `prompt`".to_owned())),
    };
    let mut answers = Vec::with_capacity(prompts.len());
    for (number, prompts) in prompts.chunks(AT_ONCE).enumerate() {
        let first = number * AT_ONCE;
        let mut rows: Vec<Row> = prompts.iter().map(|_| Row::default()).collect();
        let mut streams: Vec<_> = prompts.iter().map(|_| tokenizer.stream()).collect();
        let mut failed = Ok(());
        let sampling = Sampling { seed: writing.sampling.seed.wrapping_add(first as u64), ..writing.sampling };
        let patches = [patch];
        generate(loaded.model.as_ref(), &patches, prompts, &sampling, tokenizer.ends(), &mut |row, word| {
            let told = streams[row].push(word).and_then(|piece| {
                let (new, ended) = rows[row].take(&piece.unwrap_or_default(), &writing.stop);
                if !new.is_empty() {
                    on(first + row, &new)?;
                }
                Ok(ended)
            });
            match told {
                Ok(false) => ControlFlow::Continue(()),
                Ok(true) => ControlFlow::Break(()),
                Err(error) => {
                    failed = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed?;
        for (row, mut text) in rows.into_iter().enumerate() {
            let rest = text.rest();
            if !rest.is_empty() {
                on(first + row, &rest)?;
            }
            answers.push(text.said);
        }
    }
    Ok(answers)
}

/// A row's text: what was told, and what may be the beginning of a text that ends it.
#[derive(Default)]
struct Row {
    said: String,
    held: String,
    ended: bool,
}

impl Row {
    /// What may be told after a new piece, and whether the text has ended.
    fn take(&mut self, piece: &str, stop: &[String]) -> (String, bool) {
        self.held.push_str(piece);
        let found = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| self.held.find(stop.as_str())).min();
        let ready = match found {
            Some(at) => at,
            None => self.held.len() - self.doubtful(stop),
        };
        let new: String = self.held.drain(..ready).collect();
        self.said.push_str(&new);
        self.ended = found.is_some();
        (new, self.ended)
    }

    /// Bytes at the end of what is held that a stop text may begin with.
    fn doubtful(&self, stop: &[String]) -> usize {
        let begins = |at: &usize| stop.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let at = self.held.char_indices().map(|(at, _)| at).find(begins);
        at.map_or(0, |at| self.held.len() - at)
    }

    /// What is left where the writing ended for another reason.
    fn rest(&mut self) -> String {
        if self.ended {
            return String::new();
        }
        let rest = std::mem::take(&mut self.held);
        self.said.push_str(&rest);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[&str], stop: &[&str]) -> (Vec<String>, String) {
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut row = Row::default();
        let mut told = vec![];
        for piece in pieces {
            let (new, ended) = row.take(piece, &stop);
            told.push(new);
            if ended {
                break;
            }
        }
        told.push(row.rest());
        (told, row.said)
    }

    #[test]
    fn a_stop_text_is_found_across_pieces_and_never_told() {
        let (pieces, said) = told(&["one\n", "\nUs", "er: two"], &["\n\nUser:"]);
        assert_eq!(said, "one");
        assert_eq!(pieces.concat(), said);
    }

    #[test]
    fn what_only_looked_like_a_stop_text_is_told_at_last() {
        let (pieces, said) = told(&["a\n", "\nUs", " all", "\n"], &["\n\nUser:"]);
        assert_eq!((said.as_str(), pieces.concat().as_str()), ("a\n\nUs all\n", "a\n\nUs all\n"));
        assert_eq!(pieces[0], "a", "the line break may begin a stop text");
    }

    #[test]
    fn without_stop_texts_all_is_told_at_once() {
        assert_eq!(told(&["é", " b"], &[]).0, ["é", " b", ""]);
    }
}
