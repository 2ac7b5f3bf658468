//! Tests, step by step, whether rows are still exchangeable: money grows by bets against even p-values, and cannot grow otherwise.

use super::interval::read;
use acclimate_core::{Card, Error, Method, Result, Rng};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// A way to bet on p-values. If they are even and independent the money is a martingale.
pub trait Betting: Method {
    /// What it remembers.
    type State: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// Begins.
    fn begin(&self) -> Self::State;

    /// The logarithm of the factor by which the money grows at this p-value, in `(0, 1]`; then learns from it.
    fn bet(&self, state: &mut Self::State, p: f64) -> f64;
}

/// [`Betting`] with its types erased: what registries hold.
pub trait AnyBetting: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Betting::begin`].
    fn begin_any(&self) -> Box<dyn AnyBets>;
    /// Bets out of what [`AnyBets::save`] gave.
    ///
    /// # Errors
    /// When it has another form.
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyBets>>;
}

/// A way to bet, with what it remembers.
pub trait AnyBets: Debug + Send + Sync {
    /// See [`Betting::bet`].
    fn bet(&mut self, p: f64) -> f64;
    /// The state, so that it is read back bit for bit.
    fn save(&self) -> serde_json::Value;
}

#[derive(Debug)]
struct Bets<M: Betting> {
    method: M,
    state: M::State,
}

impl<M: Betting> AnyBets for Bets<M> {
    fn bet(&mut self, p: f64) -> f64 {
        self.method.bet(&mut self.state, p)
    }
    fn save(&self) -> serde_json::Value {
        serde_json::to_value(&self.state).expect("a state is made of numbers and lists")
    }
}

impl<M: Betting> AnyBetting for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn begin_any(&self) -> Box<dyn AnyBets> {
        Box::new(Bets { method: self.clone(), state: self.begin() })
    }
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyBets>> {
        Ok(Box::new(Bets { method: self.clone(), state: read::<M::State>(M::CARD.name, saved)? }))
    }
}

/// Watches scores, high where a row is strange, for a change of their law.
///
/// The p-value of a score is its rank among all so far, ties drawn apart: exactly even and independent while rows are exchangeable. Then the
/// chance that the money ever reaches `1 / level` is at most `level`, by Ville.
#[derive(Debug)]
pub struct Watch {
    bets: Box<dyn AnyBets>,
    sorted: Vec<f64>,
    capital: f64,
    highest: f64,
    seed: u64,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    bets: serde_json::Value,
    sorted: Vec<f64>,
    capital: f64,
    highest: f64,
    seed: u64,
}

impl Watch {
    /// Begins. Draws depend on the seed and the number of the score.
    pub fn new(method: &dyn AnyBetting, seed: u64) -> Self {
        Self { bets: method.begin_any(), sorted: Vec::new(), capital: 0.0, highest: 0.0, seed }
    }

    /// Takes the next score and gives its p-value.
    ///
    /// # Errors
    /// When the score is not finite.
    pub fn observe(&mut self, score: f64) -> Result<f64> {
        if !score.is_finite() {
            return Err(Error::Other(format!("exchangeability: a score is `{score}`; leave the row out")));
        }
        let from = self.sorted.partition_point(|s| *s < score);
        let to = self.sorted.partition_point(|s| *s <= score);
        let draw = Rng::new(self.seed, "ties of p-values", self.sorted.len() as u64).uniform();
        let above = (self.sorted.len() - to) as f64;
        let p = (above + draw * (to - from + 1) as f64) / (self.sorted.len() + 1) as f64;
        self.sorted.insert(to, score);
        self.bet(p);
        Ok(p)
    }

    /// Bets on a p-value that comes from elsewhere, such as a fixed set of calibration rows.
    pub fn bet(&mut self, p: f64) {
        self.capital += self.bets.bet(p.clamp(f64::MIN_POSITIVE, 1.0));
        self.highest = self.highest.max(self.capital);
    }

    /// The logarithm of the money, which was one at the start.
    pub fn log_capital(&self) -> f64 {
        self.capital
    }

    /// A p-value, valid at any time, for the claim that rows were exchangeable so far: one over the most money there was.
    pub fn p_value(&self) -> f64 {
        (-self.highest).exp()
    }

    /// Whether there is an alarm at this level, the chance of a false one over all time.
    pub fn alarm(&self, level: f64) -> bool {
        self.p_value() <= level
    }

    /// All that is remembered, so that the watch goes on bit for bit.
    pub fn save(&self) -> serde_json::Value {
        let Self { bets, sorted, capital, highest, seed } = self;
        let (capital, highest, seed) = (*capital, *highest, *seed);
        serde_json::to_value(Saved { bets: bets.save(), sorted: sorted.clone(), capital, highest, seed })
            .expect("a watch is made of numbers and lists")
    }

    /// What [`Watch::save`] gave, as a watch again.
    ///
    /// # Errors
    /// When it has another form.
    pub fn restore(method: &dyn AnyBetting, saved: serde_json::Value) -> Result<Self> {
        let Saved { bets, sorted, capital, highest, seed } = read(method.card().name, saved)?;
        Ok(Self { bets: method.restore(bets)?, sorted, capital, highest, seed })
    }
}
