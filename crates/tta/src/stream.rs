//! Runs a method over a stream of batches: when to reset, what is reported, what happens when numbers break.

use crate::{
    AnyTestTime, Audit, Counts, Host, entropy,
    host::{put, take},
};
use acclimate_core::{AnyState, AnyTensor, Card, Error, Inputs, Need, RecordReader, RecordWriter, Result, SiteKind};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, fmt};

/// When adaptation starts anew. A known shift is told with [`Stream::reset`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Never.
    #[default]
    Never,
    /// After so many batches.
    Every(u64),
    /// Before every batch: each is adapted to alone, and their order does not matter.
    Episodic,
}

/// When predictions count as collapsed: over the last `window` batches one class has a larger share than the deployed model gives
/// it, by more than `margin`. Costs a pass of the deployed model for each batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// Allowed excess of a class's share, between 0 and 1.
    pub margin: f64,
    /// Batches looked at.
    pub window: usize,
}

impl Default for Watch {
    fn default() -> Self {
        Self { margin: 0.5, window: 10 }
    }
}

/// What a stream had to tell; batches are counted from one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Adaptation led to numbers that are not finite and started anew.
    NotFinite {
        /// The batch.
        batch: u64,
        /// What was found.
        what: String,
    },
    /// What the method had to tell.
    Told {
        /// The batch.
        batch: u64,
        /// A sentence.
        what: String,
    },
    /// Predictions fall into one class more than those of the deployed model do. Nothing was changed.
    Collapsed {
        /// The batch.
        batch: u64,
        /// The class.
        class: usize,
        /// Its share among the adapted model's predictions.
        share: f64,
        /// Its share among the deployed model's predictions.
        source: f64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { batch, what } => write!(f, "batch {batch}: {what}; adaptation started anew"),
            Self::Told { batch, what } => write!(f, "batch {batch}: {what}"),
            Self::Collapsed { batch, class, share, source } => write!(
                f,
                "batch {batch}: {:.0} % of predictions are class {class}, the deployed model says {:.0} %; reset more often or lower the rate",
                100.0 * share,
                100.0 * source
            ),
        }
    }
}

/// What a stream has seen and cost since it was made or restored; batches and costs are those of before, too.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Batches predicted.
    pub batches: u64,
    /// Rows predicted.
    pub rows: u64,
    /// Mean entropy of each batch's predictions.
    pub entropies: Vec<f64>,
    /// How often each class was predicted.
    pub predicted: Vec<u64>,
    /// How often adaptation started anew.
    pub resets: u64,
    /// What it cost, resumed runs included.
    pub counts: Counts,
    /// What there was to tell.
    pub events: Vec<Event>,
}

/// A method at work on a stream of unlabelled batches.
pub struct Stream<'a> {
    method: &'a dyn AnyTestTime,
    host: Host<'a>,
    /// The state before the first batch.
    first: Box<dyn AnyState>,
    state: Box<dyn AnyState>,
    reset: Reset,
    since: u64,
    report: Report,
    watch: Option<Watched>,
}

/// Predictions per class of the last batches, of the adapted and of the deployed model.
struct Watched {
    watch: Watch,
    last: VecDeque<[Vec<u64>; 2]>,
    told: bool,
}

impl<'a> Stream<'a> {
    /// A stream before its first batch.
    ///
    /// # Errors
    /// When the method's needs are not met: an optimiser, batch norms in the model, a model that reads; or it refuses the patch.
    pub fn new(method: &'a dyn AnyTestTime, mut host: Host<'a>, reset: Reset) -> Result<Self> {
        let card = method.card();
        let refused = |what: &str, instead: &str| {
            Err(Error::Unsupported { who: card.name.to_owned(), what: what.to_owned(), instead: instead.to_owned() })
        };
        if reset == Reset::Every(0) {
            return refused("reset after every 0 batches", "choose `episodic` to adapt to each batch alone");
        }
        if card.needs(Need::Optimiser) && !host.can_update() {
            return refused("adapt without an optimiser", "give the host one");
        }
        if card.needs(Need::BatchNorm) && !host.model().sites().iter().any(|site| site.kind == SiteKind::BatchNorm) {
            return refused(
                "adapt a model without batch norms",
                "choose a method that tunes other norms, such as one with gradients",
            );
        }
        if card.needs(Need::Text) && host.model().vocabulary().is_none() {
            return refused(
                "adapt a model that does not read from left to right",
                "choose one such as `asset:smollm2`",
            );
        }
        let first = method.start(&mut host)?;
        // What passes over reference batches have left in statistics is no part of the stream.
        host.reset()?;
        Ok(Self { method, host, state: first.boxed(), first, reset, since: 0, report: Report::default(), watch: None })
    }

    /// The same stream with an eye on collapse.
    pub fn watch(mut self, watch: Watch) -> Self {
        self.watch = Some(Watched { watch, last: VecDeque::new(), told: false });
        self
    }

    /// Predicts one batch, `[batch, classes]`, and adapts to it; resets first if it is time.
    ///
    /// If adaptation leads to numbers that are not finite, it starts anew and tries once more; if they are still not finite, the deployed
    /// model answers. Both are reported.
    ///
    /// # Errors
    /// When the batch does not fit, or even the deployed model's answer is not finite. The stream may go on with the next batch.
    pub fn step(&mut self, batch: &Inputs) -> Result<Tensor<2>> {
        let due = match self.reset {
            Reset::Never => false,
            Reset::Every(n) => self.since >= n,
            Reset::Episodic => self.since > 0,
        };
        if due {
            self.reset()?;
        }
        let logits = self.guarded(batch)?;
        self.since += 1;
        let batch_number = self.report.batches + 1;
        let told = self.method.told(self.state.as_mut()).into_iter();
        self.report.events.extend(told.map(|what| Event::Told { batch: batch_number, what }));
        self.observe(batch, &logits)?;
        Ok(logits)
    }

    /// Predicts all batches, one after another.
    ///
    /// # Errors
    /// As [`Stream::step`].
    pub fn run<'b>(&mut self, batches: impl IntoIterator<Item = &'b Inputs>) -> Result<Vec<Tensor<2>>> {
        batches.into_iter().map(|batch| self.step(batch)).collect()
    }

    /// Starts adaptation anew, as at a known shift.
    ///
    /// # Errors
    /// The method's or optimiser's own.
    pub fn reset(&mut self) -> Result<()> {
        self.host.reset()?;
        self.state = self.first.boxed();
        self.since = 0;
        self.report.resets += 1;
        Ok(())
    }

    /// What has happened so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The card of its method.
    pub fn method(&self) -> Card {
        self.method.card()
    }

    /// The host, with the patch as it is now.
    pub fn host(&self) -> &Host<'a> {
        &self.host
    }

    /// What the stream changes and whose statistics its batch norms take; gradients are known after the first pass back.
    pub fn audit(&self) -> Audit {
        Audit::of(self.method, &self.host, self.first.as_ref())
    }

    /// Everything needed to go on exactly. Of the report it holds the count of batches, by which events are numbered, and the costs.
    pub fn save(&self) -> RecordWriter {
        let mut to = RecordWriter::default();
        to.u64("since", self.since);
        to.u64("batches", self.report.batches);
        if let Some(watched) = &self.watch {
            watched.save(&mut to);
        }
        self.host.save(&mut to);
        put(&mut to, "method", self.state.save());
        to
    }

    /// Goes on where a stream of the same method, model, patch and optimiser was saved.
    ///
    /// # Errors
    /// When a field is missing or the patch was another.
    pub fn restore(&mut self, mut from: RecordReader) -> Result<()> {
        let (since, batches) = (from.u64("since")?, from.u64("batches")?);
        let state = self.method.restore(&mut take(&from, "method"))?;
        let watched = self.watch.as_ref().map(|watched| Watched::restore(watched.watch, &mut from)).transpose()?;
        self.host.restore(&mut from)?;
        (self.since, self.report.batches, self.state, self.watch) = (since, batches, state, watched);
        self.report.counts = self.host.counts();
        Ok(())
    }

    /// One batch with the retreat that [`Stream::step`] describes.
    fn guarded(&mut self, batch: &Inputs) -> Result<Tensor<2>> {
        let number = self.report.batches + 1;
        let tries = if self.since == 0 { 1 } else { 2 };
        for _ in 0..tries {
            let what = match self.attempt(batch) {
                Ok(logits) if is_finite(&logits) => return Ok(logits),
                Ok(_) => "predictions are not finite".to_owned(),
                Err(error @ Error::Numeric { .. }) => error.to_string(),
                Err(error) => return Err(error),
            };
            self.report.events.push(Event::NotFinite { batch: number, what });
            self.reset()?;
        }
        let logits = self.host.source(batch)?.logits;
        if is_finite(&logits) {
            return Ok(logits);
        }
        let what =
            "even the deployed model's predictions are not finite; look for such numbers in the inputs".to_owned();
        Err(Error::Numeric { who: "stream".to_owned(), step: number, what })
    }

    fn attempt(&mut self, batch: &Inputs) -> Result<Tensor<2>> {
        self.method.step_any(batch, self.state.as_mut(), &mut self.host)
    }

    fn observe(&mut self, batch: &Inputs, logits: &Tensor<2>) -> Result<()> {
        let adapted = histogram(logits);
        let rows: u64 = adapted.iter().sum();
        self.report.batches += 1;
        self.report.rows += rows;
        self.report.entropies.push(AnyTensor::from(entropy(logits.clone()).mean()).to_f64s()[0]);
        self.report.predicted.resize(adapted.len(), 0);
        add(&mut self.report.predicted, &adapted);
        if let Some(watched) = &mut self.watch {
            let source = histogram(&self.host.source(batch)?.logits);
            if let Some((class, share, source)) = watched.collapse([adapted, source]) {
                self.report.events.push(Event::Collapsed { batch: self.report.batches, class, share, source });
            }
        }
        self.report.counts = self.host.counts();
        Ok(())
    }
}

impl Watched {
    fn save(&self, to: &mut RecordWriter) {
        let classes = self.last.front().map_or(0, |[adapted, _]| adapted.len());
        let counts = self.last.iter().flatten().flatten().map(|&count| count as f64);
        to.u64("watch_classes", classes as u64);
        to.f64s("watch_counts", &counts.collect::<Vec<_>>());
        to.bool("watch_told", self.told);
    }

    fn restore(watch: Watch, from: &mut RecordReader) -> Result<Self> {
        let classes = from.u64("watch_classes")?.max(1) as usize;
        let counts: Vec<u64> = from.f64s("watch_counts")?.into_iter().map(|count| count as u64).collect();
        let last = counts.chunks_exact(2 * classes).map(|both| [both[..classes].to_vec(), both[classes..].to_vec()]);
        Ok(Self { watch, last: last.collect(), told: from.bool("watch_told")? })
    }

    /// Takes the predictions of one more batch; the class, its share and the deployed model's share when a collapse begins.
    fn collapse(&mut self, batch: [Vec<u64>; 2]) -> Option<(usize, f64, f64)> {
        self.last.push_back(batch);
        if self.last.len() < self.watch.window.max(1) {
            return None;
        }
        let mut sums = self.last[0].clone();
        for batch in self.last.iter().skip(1) {
            sums.iter_mut().zip(batch).for_each(|(sum, more)| add(sum, more));
        }
        self.last.pop_front();
        let rows = sums[0].iter().sum::<u64>().max(1) as f64;
        // The first of equals, so that the answer does not depend on how they are searched.
        let (class, _) = sums[0].iter().enumerate().rev().max_by_key(|(_, count)| **count)?;
        let [share, source] = sums.each_ref().map(|counts| counts[class] as f64 / rows);
        let collapsed = share - source > self.watch.margin;
        let begins = collapsed && !self.told;
        self.told = collapsed;
        begins.then_some((class, share, source))
    }
}

/// How many rows each class wins.
fn histogram(logits: &Tensor<2>) -> Vec<u64> {
    let mut counts = vec![0; logits.dims()[1]];
    for class in logits.clone().argmax(1).to_data().iter::<i64>() {
        counts[class as usize] += 1;
    }
    counts
}

fn add(sum: &mut [u64], more: &[u64]) {
    sum.iter_mut().zip(more).for_each(|(a, b)| *a += b);
}

fn is_finite(logits: &Tensor<2>) -> bool {
    acclimate_core::total(vec![AnyTensor::from(logits.clone()).elements().abs().sum()]).is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapse_is_told_once() {
        let watch = Watch { margin: 0.4, window: 2 };
        let mut watched = Watched { watch, last: VecDeque::new(), told: false };
        let even = || [vec![5, 5], vec![5, 5]];
        let one = || [vec![0, 10], vec![5, 5]];
        assert_eq!(watched.collapse(even()), None);
        assert_eq!(watched.collapse(one()), None);
        assert_eq!(watched.collapse(one()), Some((1, 1.0, 0.5)));
        assert_eq!(watched.collapse(one()), None);
        assert_eq!(watched.collapse(even()), None);
        assert_eq!(watched.collapse(one()), None);
        assert_eq!(watched.collapse(one()), Some((1, 1.0, 0.5)));
    }

    #[test]
    fn a_watch_goes_on_where_it_was_saved() {
        let watch = Watch { margin: 0.4, window: 3 };
        let mut watched = Watched { watch, last: VecDeque::new(), told: false };
        let one = || [vec![0, 10], vec![5, 5]];
        assert_eq!((watched.collapse(one()), watched.collapse(one())), (None, None));
        let mut to = RecordWriter::default();
        watched.save(&mut to);
        let mut again = Watched::restore(watch, &mut to.into()).unwrap();
        assert_eq!(again.collapse(one()), Some((1, 1.0, 0.5)));
    }

    #[test]
    fn a_class_that_the_source_prefers_too_is_no_collapse() {
        let watch = Watch { margin: 0.1, window: 1 };
        let mut watched = Watched { watch, last: VecDeque::new(), told: false };
        assert_eq!(watched.collapse([vec![10, 0], vec![10, 0]]), None);
    }

    #[test]
    fn events_are_sentences() {
        let event = Event::Collapsed { batch: 7, class: 2, share: 0.9, source: 0.25 };
        let text = "batch 7: 90 % of predictions are class 2, the deployed model says 25 %; reset more often or lower the rate";
        assert_eq!(event.to_string(), text);
    }
}
