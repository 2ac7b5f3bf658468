//! Long texts read by a model that adapts to them on the way.

use crate::dataset::Loaded;
use crate::recipe::AdapterRecipe;
use acclimate_core::{Patch, Result, Rng, total};
use acclimate_tta::{AnyTestTime, Host, Reset, Stream, losses, segments};
use serde::Serialize;

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Words scored at a time; an update follows each.
    pub segment: usize,
    /// Words before them that are read again.
    pub context: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self { segment: 128, context: 128 }
    }
}

/// What the words of a text came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Read {
    /// Scored words.
    pub tokens: usize,
    /// Characters of the text.
    pub characters: usize,
    /// −log p of all words under the model as it is.
    pub before: f64,
    /// −log p of all words under the model that adapts, each before the update that follows it.
    pub after: f64,
    /// Of each segment its words, then the mean loss before and after.
    pub segments: Vec<(usize, f64, f64)>,
}

impl Read {
    /// Bits per character of a sum of losses.
    pub fn bits(&self, nats: f64) -> f64 {
        nats / std::f64::consts::LN_2 / self.characters.max(1) as f64
    }

    /// The same with another text's numbers.
    pub fn and(mut self, more: Self) -> Self {
        self.tokens += more.tokens;
        self.characters += more.characters;
        self.before += more.before;
        self.after += more.after;
        self.segments.extend(more.segments);
        self
    }
}

/// Reads a text in segments, with the model as it is and with one that adapts by `method`. What adapts is a patch of `adapter` above
/// `tuned`; it begins anew with each text. `reference` is a text like those the model was trained on, for methods that measure there.
/// `on` is told of every segment.
///
/// # Errors
/// A model that does not read, a method or adapter that refuses it, or numbers that are not finite.
pub fn read(
    loaded: &Loaded,
    tuned: &Patch,
    method: &dyn AnyTestTime,
    adapter: &AdapterRecipe,
    reference: Option<&str>,
    text: &str,
    cut: Cut,
    on: &mut dyn FnMut(&Read, usize),
) -> Result<Read> {
    let (model, tokenizer, (dtype, device)) = (loaded.model.as_ref(), loaded.tokenizer()?, loaded.model.like());
    let pieces = |text: &str| {
        Ok::<_, acclimate_core::Error>(segments(&tokenizer.plain(text)?, cut.segment, cut.context, dtype, &device))
    };
    let mut patch = Patch::new();
    let built = acclimate_peft::build(&adapter.method, &adapter.settings)?;
    acclimate_peft::place(
        &mut patch,
        model,
        &adapter.method,
        built,
        adapter.targets.as_ref(),
        &mut Rng::new(0, "patch", 0),
    )?;
    let reference = reference.map(pieces).transpose()?.unwrap_or_default();
    let mut plain = Host::new(model, Patch::new())?.over(tuned)?;
    let host = Host::new(model, patch)?.over(tuned)?.reference(&reference);
    let mut stream = Stream::new(method, host, Reset::Never)?;
    let mut read = Read { characters: text.chars().count(), ..Read::default() };
    let all = pieces(text)?;
    for segment in &all {
        let before = losses(plain.source(segment)?, segment)?;
        let after = losses(stream.step(segment)?, segment)?;
        let n = before.dims()[0];
        let [before, after] = [before, after].map(|losses| total(vec![losses.sum()]));
        read.tokens += n;
        read.before += before;
        read.after += after;
        read.segments.push((n, before / n as f64, after / n as f64));
        on(&read, all.len());
    }
    Ok(read)
}
