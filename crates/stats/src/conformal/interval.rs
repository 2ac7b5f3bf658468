//! Intervals for numbers out of held-out predictions.

use super::{AnyExchange, Row, exchange};
use crate::{learn, quantile};
use acclimate_core::{Card, Error, Method, Result};
use ndarray::{ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug};

/// A range of numbers; its ends may be infinite, and it is empty where they are crossed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    #[serde(with = "exact")]
    pub lower: f64,
    /// The upper end.
    #[serde(with = "exact")]
    pub upper: f64,
}

impl Interval {
    /// All numbers: the honest answer where nothing can be said.
    pub const ALL: Self = Self { lower: f64::NEG_INFINITY, upper: f64::INFINITY };

    /// Whether a number lies in it.
    pub fn contains(&self, number: f64) -> bool {
        self.lower <= number && number <= self.upper
    }

    /// Its length; zero where it is empty.
    pub fn width(&self) -> f64 {
        if self.upper > self.lower { self.upper - self.lower } else { 0.0 }
    }
}

/// Numbers that may be infinite, kept exactly: JSON has no word for infinity.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Kept {
        Number(f64),
        Word(String),
    }

    /// A number, or a word for what is not finite.
    ///
    /// # Errors
    /// The serialiser's own.
    pub fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        let kept = if number.is_finite() { Kept::Number(*number) } else { Kept::Word(number.to_string()) };
        kept.serialize(to)
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// When it is neither a number nor such a word.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        match Kept::deserialize(from)? {
            Kept::Number(number) => Ok(number),
            Kept::Word(word) => word.parse().map_err(D::Error::custom),
        }
    }
}

/// What models said of rows that they had not seen, and what came.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// `[rows, columns]`: what the columns hold is each method's to say.
    pub answers: ArrayView2<'a, f64>,
    /// What came.
    pub truths: &'a [f64],
    /// The fold of each row, from zero, for methods that ask for folds; else empty.
    pub folds: &'a [usize],
    /// Whether each row took part in each bootstrap fit, `[rows, fits]`, for methods that ask for it.
    pub bags: Option<ArrayView2<'a, bool>>,
}

impl<'a> Held<'a> {
    /// Answers and truths alone.
    pub fn new(answers: ArrayView2<'a, f64>, truths: &'a [f64]) -> Self {
        Self { answers, truths, folds: &[], bags: None }
    }
}

/// A method for intervals.
pub trait Intervals: Method {
    /// What it keeps of the calibration rows.
    type Fit: Bounds + Serialize + DeserializeOwned + 'static;

    /// What the columns of answers that it reads are usually called, in their order.
    const COLUMNS: &'static [&'static str] = &["prediction"];

    /// Calibrates on rows of one cell. There is a weight for each row.
    ///
    /// # Errors
    /// When the answers have another form than the method reads.
    fn calibrate(&self, held: &Held<'_>, weights: &[f64]) -> Result<Self::Fit>;
}

/// Calibrated intervals.
pub trait Bounds: Debug + Send + Sync {
    /// The interval around the answers to a new row of this weight; infinite where the calibration rows cannot tell.
    ///
    /// # Errors
    /// When there are more or fewer answers than the method reads.
    fn bounds(&self, answers: &[f64], weight: f64, alpha: f64) -> Result<Interval>;
}

/// [`Bounds`] that can be saved.
pub trait AnyBounds: Bounds {
    /// All that was kept, so that it is read back bit for bit.
    fn save(&self) -> serde_json::Value;
}

impl<B: Bounds + Serialize> AnyBounds for B {
    fn save(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a fit is made of numbers and lists")
    }
}

/// [`Intervals`] with its types erased: what registries hold.
pub trait AnyIntervals: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Intervals::COLUMNS`].
    fn columns(&self) -> &'static [&'static str];
    /// See [`Intervals::calibrate`].
    ///
    /// # Errors
    /// The method's own.
    fn calibrate_any(&self, held: &Held<'_>, weights: &[f64]) -> Result<Box<dyn AnyBounds>>;
    /// A fit out of what [`AnyBounds::save`] gave.
    ///
    /// # Errors
    /// When it has another form.
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyBounds>>;
}

impl<M: Intervals> AnyIntervals for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn columns(&self) -> &'static [&'static str] {
        M::COLUMNS
    }
    fn calibrate_any(&self, held: &Held<'_>, weights: &[f64]) -> Result<Box<dyn AnyBounds>> {
        Ok(Box::new(self.calibrate(held, weights)?))
    }
    fn restore(&self, saved: serde_json::Value) -> Result<Box<dyn AnyBounds>> {
        Ok(Box::new(read::<M::Fit>(M::CARD.name, saved)?))
    }
}

/// What was saved, in its type again.
pub(super) fn read<T: DeserializeOwned>(who: &str, saved: serde_json::Value) -> Result<T> {
    serde_json::from_value(saved)
        .map_err(|e| Error::Other(format!("{who}: the saved fit cannot be read ({e}); calibrate again")))
}

/// Intervals of a method, calibrated apart in each cell of an exchange.
#[derive(Debug)]
pub struct Calibrated {
    cells: BTreeMap<usize, Box<dyn AnyBounds>>,
}

impl Calibrated {
    /// Calibrates. `rows` says what is known of each row beside its answers, and is empty where nothing is.
    ///
    /// # Errors
    /// When lists differ in length, numbers are not finite, or the method or the exchange refuses a row.
    pub fn new(method: &dyn AnyIntervals, held: &Held<'_>, by: Option<&dyn AnyExchange>, rows: &[Row]) -> Result<Self> {
        let (who, count) = (method.card().name, held.truths.len());
        exchange::same_length(who, "answers", held.answers.nrows(), count)?;
        learn::finite(who, held.answers)?;
        for (what, got) in [("folds", held.folds.len()), ("what is known of rows", rows.len())] {
            if got > 0 {
                exchange::same_length(who, what, got, count)?;
            }
        }
        if let Some(bags) = held.bags {
            exchange::same_length(who, "bags", bags.nrows(), count)?;
        }
        let mut cells = BTreeMap::new();
        for (cell, (members, weights)) in exchange::cells(by, rows, count, |_| None)? {
            quantile::check_weights(who, &weights)?;
            let answers = held.answers.select(Axis(0), &members);
            let truths: Vec<f64> = members.iter().map(|row| held.truths[*row]).collect();
            let folds: Vec<usize> = members.iter().filter_map(|row| held.folds.get(*row).copied()).collect();
            let bags = held.bags.map(|bags| bags.select(Axis(0), &members));
            let held =
                Held { answers: answers.view(), truths: &truths, folds: &folds, bags: bags.as_ref().map(|b| b.view()) };
            cells.insert(cell, method.calibrate_any(&held, &weights)?);
        }
        Ok(Self { cells })
    }

    /// The intervals of new rows. A cell without calibration rows gets [`Interval::ALL`].
    ///
    /// # Errors
    /// As [`Calibrated::new`].
    pub fn intervals(
        &self,
        answers: ArrayView2<'_, f64>,
        by: Option<&dyn AnyExchange>,
        rows: &[Row],
        alpha: f64,
    ) -> Result<Vec<Interval>> {
        quantile::check_alpha("intervals", alpha)?;
        learn::finite("intervals", answers)?;
        if !rows.is_empty() {
            exchange::same_length("intervals", "what is known of rows", rows.len(), answers.nrows())?;
        }
        let one = |row: usize| {
            let place = exchange::place(by, rows.get(row), None)?;
            quantile::check_weights("intervals", &[place.weight])?;
            let Some(fit) = self.cells.get(&place.cell) else { return Ok(Interval::ALL) };
            fit.bounds(&answers.row(row).to_vec(), place.weight, alpha)
        };
        (0..answers.nrows()).into_par_iter().map(one).collect()
    }

    /// All that was kept, by cell.
    pub fn save(&self) -> serde_json::Value {
        let cells = self.cells.iter().map(|(cell, fit)| (cell.to_string(), fit.save()));
        serde_json::Value::Object(cells.collect())
    }

    /// What [`Calibrated::save`] gave, calibrated again.
    ///
    /// # Errors
    /// When it has another form.
    pub fn restore(method: &dyn AnyIntervals, saved: serde_json::Value) -> Result<Self> {
        let cells: BTreeMap<usize, serde_json::Value> = read(method.card().name, saved)?;
        let cells = cells.into_iter().map(|(cell, fit)| Ok((cell, method.restore(fit)?)));
        Ok(Self { cells: cells.collect::<Result<_>>()? })
    }
}

/// Refuses answers in another number of columns.
pub(super) fn columns(who: &str, got: usize, wanted: usize, of: &str) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    let what = format!("{who}: answers");
    Err(Error::Shape { what, expected: format!("[rows, {wanted}], {of}"), got: vec![got] })
}
