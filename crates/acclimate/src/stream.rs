//! Long texts read by a model that adapts to them on the way.

use crate::dataset::Loaded;
use crate::recipe::AdapterRecipe;
use acclimate_core::{Inputs, Patch, Result, Rng, total};
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

/// A model that reads texts and adapts to each by a method.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The frozen model and what encodes its inputs.
    pub loaded: &'a Loaded,
    /// A patch that does not change.
    pub tuned: &'a Patch,
    /// The method.
    pub method: &'a dyn AnyTestTime,
    /// What adapts: a patch above the tuned one.
    pub adapter: &'a AdapterRecipe,
    /// A text like those the model was trained on, for methods that measure there.
    pub reference: Option<&'a str>,
    /// How texts are cut.
    pub cut: Cut,
}

impl Reader<'_> {
    /// Reads a text in segments, with the model as it is and with one that adapts and begins anew with each text. `on` is told of every
    /// segment and of how many there are.
    ///
    /// # Errors
    /// A model that does not read, a method or adapter that refuses it, or numbers that are not finite.
    pub fn read(&self, text: &str, on: &mut dyn FnMut(&Read, usize)) -> Result<Read> {
        let (model, mut patch) = (self.loaded.model.as_ref(), Patch::new());
        let AdapterRecipe { method, targets, settings } = self.adapter;
        let built = acclimate_peft::build(method, settings)?;
        acclimate_peft::place(&mut patch, model, method, built, targets.as_ref(), &mut Rng::new(0, "patch", 0))?;
        let reference = self.reference.map(|text| self.pieces(text)).transpose()?.unwrap_or_default();
        let mut plain = Host::new(model, Patch::new())?.over(self.tuned)?;
        let host = Host::new(model, patch)?.over(self.tuned)?.reference(&reference);
        let mut stream = Stream::new(self.method, host, Reset::Never)?;
        let mut read = Read { characters: text.chars().count(), ..Read::default() };
        let all = self.pieces(text)?;
        for segment in &all {
            let before = losses(plain.source(segment)?.logits, segment)?;
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

    fn pieces(&self, text: &str) -> Result<Vec<Inputs>> {
        let (dtype, device) = self.loaded.model.like();
        Ok(segments(&self.loaded.tokenizer()?.plain(text)?, self.cut.segment, self.cut.context, dtype, &device))
    }
}
