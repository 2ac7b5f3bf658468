//! Intervals on a stream: predict, then see what came.

use super::{Interval, interval::read};
use crate::quantile;
use acclimate_core::{Card, Error, Method, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, fmt::Debug};

/// What a model says of the next number: where it lies, and how large the error may be, up to a factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The prediction.
    pub centre: f64,
    /// The scale of its error; one where the model has none.
    pub scale: f64,
}

impl From<f64> for Forecast {
    fn from(centre: f64) -> Self {
        Self { centre, scale: 1.0 }
    }
}

/// A method for streams. It works on residuals, the error of a forecast over its scale.
pub trait Online: Method {
    /// What it remembers: small, and kept exactly.
    type State: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// Begins, with residuals from before the stream, oldest first, possibly none.
    ///
    /// # Errors
    /// When the method cannot begin so.
    fn start(&self, past: &[f64], alpha: f64) -> Result<Self::State>;

    /// The range in which a residual will lie; `ahead` residuals before it are not known yet.
    ///
    /// # Errors
    /// When numbers leave the finite range.
    fn range(&self, state: &Self::State, ahead: usize) -> Result<Interval>;

    /// Learns from the oldest residual not seen yet and the range that was given for it.
    ///
    /// # Errors
    /// As [`Online::range`].
    fn observe(&self, state: &mut Self::State, residual: f64, given: Interval) -> Result<()>;
}

/// Whether a method follows the size of errors, or each sign of them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tails {
    /// One threshold for the size of errors.
    #[default]
    Both,
    /// A threshold for errors above and one for those below, each at half the share of misses.
    Each,
}

/// A method for streams that follows one threshold of one score.
pub trait Tracker: Method {
    /// What it remembers of one score.
    type State: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// Whether it is used once, on the size of errors, or on each sign.
    fn tails(&self) -> Tails;

    /// Begins with the scores from before the stream, oldest first.
    ///
    /// # Errors
    /// When the method cannot begin so.
    fn begin(&self, past: &[f64], alpha: f64) -> Result<Self::State>;

    /// The threshold under which the next score shall lie.
    fn threshold(&self, state: &Self::State, alpha: f64) -> f64;

    /// Learns from a score and whether it was above the threshold that was given for it.
    fn learn(&self, state: &mut Self::State, score: f64, missed: bool, alpha: f64);
}

/// What a [`Tracker`] remembers of its one or two scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracking<S> {
    /// The share of misses of each.
    alpha: f64,
    /// Of both signs, or of errors below and above.
    of: Vec<S>,
}

impl<S> Tracking<S> {
    /// What is remembered of both signs, or of errors below and above.
    pub fn of(&self) -> &[S] {
        &self.of
    }
}

impl<M: Tracker> Online for M {
    type State = Tracking<M::State>;

    fn start(&self, past: &[f64], alpha: f64) -> Result<Self::State> {
        let scores = |sign: fn(&f64) -> f64| past.iter().map(sign).collect::<Vec<f64>>();
        Ok(match self.tails() {
            Tails::Both => Tracking { alpha, of: vec![self.begin(&scores(|r| r.abs()), alpha)?] },
            Tails::Each => {
                let alpha = alpha / 2.0;
                Tracking { alpha, of: vec![self.begin(&scores(|r| -r), alpha)?, self.begin(&scores(|r| *r), alpha)?] }
            }
        })
    }

    fn range(&self, state: &Self::State, _: usize) -> Result<Interval> {
        let threshold = |of| self.threshold(of, state.alpha);
        Ok(match state.of.as_slice() {
            [below, above] => Interval { lower: -threshold(below), upper: threshold(above) },
            both => both.first().map_or(Interval::ALL, |both| {
                let threshold = threshold(both);
                Interval { lower: -threshold, upper: threshold }
            }),
        })
    }

    fn observe(&self, state: &mut Self::State, residual: f64, given: Interval) -> Result<()> {
        let alpha = state.alpha;
        match state.of.as_mut_slice() {
            [below, above] => {
                self.learn(below, -residual, residual < given.lower, alpha);
                self.learn(above, residual, residual > given.upper, alpha);
            }
            both => {
                for both in both {
                    self.learn(both, residual.abs(), !given.contains(residual), alpha);
                }
            }
        }
        Ok(())
    }
}

/// The last numbers, in the order of time and by size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    limit: usize,
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Recent {
    /// The last `limit` of these, and of those to come.
    pub fn new(limit: usize, past: &[f64]) -> Self {
        let recent: VecDeque<f64> = past[past.len().saturating_sub(limit)..].iter().copied().collect();
        let mut sorted: Vec<f64> = recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Self { limit, recent, sorted }
    }

    /// Adds the newest and drops the oldest beyond the limit.
    pub fn push(&mut self, number: f64) {
        if self.recent.len() >= self.limit
            && let Some(old) = self.recent.pop_front()
        {
            let at = self.sorted.partition_point(|n| n.total_cmp(&old).is_lt());
            self.sorted.remove(at);
        }
        if self.limit > 0 {
            self.recent.push_back(number);
            self.sorted.insert(self.sorted.partition_point(|n| n.total_cmp(&number).is_lt()), number);
        }
    }

    /// From the oldest to the newest.
    pub fn in_time(&self) -> &VecDeque<f64> {
        &self.recent
    }

    /// From the smallest to the largest.
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }

    /// The largest less the smallest; none before the first number.
    pub fn spread(&self) -> Option<f64> {
        Some(self.sorted.last()? - self.sorted.first()?)
    }

    /// The conformal threshold at any level: infinite at or below zero, and minus infinity at or above one.
    pub fn threshold(&self, alpha: f64) -> f64 {
        if alpha >= 1.0 {
            return f64::NEG_INFINITY;
        }
        let rank = if alpha > 0.0 { quantile::conformal_rank(self.sorted.len(), alpha) } else { None };
        rank.map_or(f64::INFINITY, |rank| self.sorted[rank - 1])
    }
}

/// How a stream has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Truths seen.
    pub steps: u64,
    /// Those outside of their interval.
    pub missed: u64,
    /// Intervals of infinite width.
    pub infinite: u64,
    /// The widths of all others together.
    pub width: f64,
}

impl Tally {
    /// The share of truths inside; not-a-number before the first.
    pub fn coverage(&self) -> f64 {
        1.0 - self.missed as f64 / self.steps as f64
    }

    /// The mean of the finite widths; not-a-number before the first.
    pub fn mean_width(&self) -> f64 {
        self.width / (self.steps - self.infinite) as f64
    }
}

/// [`Online`] with its types erased: what registries hold.
pub trait AnyOnline: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Online::start`].
    ///
    /// # Errors
    /// The method's own.
    fn start_any(&self, past: &[f64], alpha: f64) -> Result<Box<dyn AnyRun>>;
    /// A run out of what [`AnyRun::save`] gave.
    ///
    /// # Errors
    /// When it has another form.
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyRun>>;
}

/// A method with its state.
pub trait AnyRun: Debug + Send + Sync {
    /// See [`Online::range`].
    ///
    /// # Errors
    /// The method's own.
    fn range(&self, ahead: usize) -> Result<Interval>;
    /// See [`Online::observe`].
    ///
    /// # Errors
    /// The method's own.
    fn observe(&mut self, residual: f64, given: Interval) -> Result<()>;
    /// The state, so that it is read back bit for bit.
    fn save(&self) -> serde_json::Value;
}

#[derive(Debug)]
struct Run<M: Online> {
    method: M,
    state: M::State,
}

impl<M: Online> AnyRun for Run<M> {
    fn range(&self, ahead: usize) -> Result<Interval> {
        self.method.range(&self.state, ahead)
    }
    fn observe(&mut self, residual: f64, given: Interval) -> Result<()> {
        self.method.observe(&mut self.state, residual, given)
    }
    fn save(&self) -> serde_json::Value {
        serde_json::to_value(&self.state).expect("a state is made of numbers and lists")
    }
}

impl<M: Online> AnyOnline for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn start_any(&self, past: &[f64], alpha: f64) -> Result<Box<dyn AnyRun>> {
        Ok(Box::new(Run { method: self.clone(), state: self.start(past, alpha)? }))
    }
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyRun>> {
        Ok(Box::new(Run { method: self.clone(), state: read::<M::State>(M::CARD.name, saved)? }))
    }
}

/// A stream of forecasts and truths. Truths come in the order of their forecasts, at once or later.
#[derive(Debug)]
pub struct Stream {
    who: &'static str,
    run: Box<dyn AnyRun>,
    /// Forecasts whose truth has not come, with the range of residuals that was given.
    pending: VecDeque<(Forecast, Interval)>,
    tally: Tally,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    state: serde_json::Value,
    pending: VecDeque<(Forecast, Interval)>,
    tally: Tally,
}

impl Stream {
    /// Begins, with residuals from before the stream, oldest first, possibly none.
    ///
    /// # Errors
    /// When `alpha` is not between zero and one, a residual is not finite, or the method's own.
    pub fn new(method: &dyn AnyOnline, past: &[f64], alpha: f64) -> Result<Self> {
        let who = method.card().name;
        quantile::check_alpha(who, alpha)?;
        if let Some(at) = past.iter().position(|residual| !residual.is_finite()) {
            return Err(Error::Other(format!("{who}: past residual {} is {}; leave it out", at + 1, past[at])));
        }
        Ok(Self { who, run: method.start_any(past, alpha)?, pending: VecDeque::new(), tally: Tally::default() })
    }

    /// The interval in which the truth of this forecast will lie.
    ///
    /// # Errors
    /// When the forecast is not finite or its scale not positive, or the method's own.
    pub fn predict(&mut self, forecast: impl Into<Forecast>) -> Result<Interval> {
        let forecast = forecast.into();
        let Forecast { centre, scale } = forecast;
        if !(centre.is_finite() && scale.is_finite() && scale > 0.0) {
            return Err(Error::Other(format!(
                "{}: forecast `{centre}` of scale `{scale}`; forecasts are finite and scales positive",
                self.who
            )));
        }
        let range = self.run.range(self.pending.len())?;
        self.pending.push_back((forecast, range));
        Ok(Interval { lower: centre + scale * range.lower, upper: centre + scale * range.upper })
    }

    /// What came for the oldest forecast whose truth is not known. Says whether its interval held it.
    ///
    /// # Errors
    /// When no forecast waits, the truth is not finite, or the method's own.
    pub fn observe(&mut self, truth: f64) -> Result<bool> {
        if !truth.is_finite() {
            return Err(Error::Other(format!("{}: the truth is `{truth}`; use `skip` where none came", self.who)));
        }
        let (forecast, range) = self.oldest()?;
        let residual = (truth - forecast.centre) / forecast.scale;
        self.run.observe(residual, range)?;
        let inside = range.contains(residual);
        self.tally.steps += 1;
        self.tally.missed += u64::from(!inside);
        let width = forecast.scale * range.width();
        if width.is_finite() {
            self.tally.width += width;
        } else {
            self.tally.infinite += 1;
        }
        Ok(inside)
    }

    /// Forgets the oldest forecast whose truth is not known: it never came.
    ///
    /// # Errors
    /// When no forecast waits.
    pub fn skip(&mut self) -> Result<()> {
        self.oldest().map(|_| ())
    }

    fn oldest(&mut self) -> Result<(Forecast, Interval)> {
        self.pending
            .pop_front()
            .ok_or_else(|| Error::Other(format!("{}: no forecast waits for a truth; predict first", self.who)))
    }

    /// How the stream has gone.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// All that is remembered, so that the stream goes on bit for bit.
    pub fn save(&self) -> serde_json::Value {
        let saved = Saved { state: self.run.save(), pending: self.pending.clone(), tally: self.tally };
        serde_json::to_value(saved).expect("a stream is made of numbers and lists")
    }

    /// What [`Stream::save`] gave, as a stream again.
    ///
    /// # Errors
    /// When it has another form.
    pub fn restore(method: &dyn AnyOnline, saved: serde_json::Value) -> Result<Self> {
        let who = method.card().name;
        let Saved { state, pending, tally } = read(who, saved)?;
        Ok(Self { who, run: method.restore(state)?, pending, tally })
    }
}
