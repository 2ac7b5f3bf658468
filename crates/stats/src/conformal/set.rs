//! Sets of classes out of held-out probabilities.

use super::{AnyExchange, Row, exchange};
use crate::{learn, quantile, quantile::Scores};
use acclimate_core::{Card, Error, Method, Result, Rng};
use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Debug};

/// A method for sets: a score of each class, low where it is likely.
pub trait Sets: Method {
    /// The score of every class of a row with these probabilities; `draw` is uniform in `[0, 1)`, one for each row.
    fn scores(&self, probabilities: &[f64], draw: f64) -> Vec<f64>;
}

/// [`Sets`] with its type erased.
pub trait AnySets: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Sets::scores`].
    fn scores_any(&self, probabilities: &[f64], draw: f64) -> Vec<f64>;
}

impl<M: Sets> AnySets for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn scores_any(&self, probabilities: &[f64], draw: f64) -> Vec<f64> {
        self.scores(probabilities, draw)
    }
}

/// Sets of a method, calibrated apart in each cell of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibratedSets {
    cells: BTreeMap<usize, Scores>,
    classes: usize,
    seed: u64,
}

impl CalibratedSets {
    /// Calibrates on the probabilities of rows whose classes are known. Draws depend on the seed and the row's number alone.
    ///
    /// # Errors
    /// When lists differ in length, a class is beyond the columns, probabilities are not finite, or the exchange refuses a row.
    pub fn new(
        method: &dyn AnySets,
        probabilities: ArrayView2<'_, f64>,
        truths: &[usize],
        by: Option<&dyn AnyExchange>,
        rows: &[Row],
        seed: u64,
    ) -> Result<Self> {
        let (who, classes) = (method.card().name, probabilities.ncols());
        exchange::same_length(who, "probabilities", probabilities.nrows(), truths.len())?;
        if !rows.is_empty() {
            exchange::same_length(who, "what is known of rows", rows.len(), truths.len())?;
        }
        learn::finite(who, probabilities)?;
        if let Some(row) = truths.iter().position(|class| *class >= classes) {
            return Err(Error::Other(format!(
                "{who}: row {} has class {}, probabilities are given for {classes}; classes count from zero",
                row + 1,
                truths[row]
            )));
        }
        let score = |row: usize| {
            let draw = Rng::new(seed, "scores of calibration rows", row as u64).uniform();
            method.scores_any(&probabilities.row(row).to_vec(), draw)[truths[row]]
        };
        let scores: Vec<f64> = (0..truths.len()).into_par_iter().map(score).collect();
        let mut cells = BTreeMap::new();
        for (cell, (members, weights)) in exchange::cells(by, rows, truths.len(), |row| Some(truths[row]))? {
            cells.insert(cell, Scores::new(who, members.iter().map(|row| scores[*row]), &weights)?);
        }
        Ok(Self { cells, classes, seed })
    }

    /// The classes, in rising order, that each new row may have. A class whose cell has no calibration row is always among them.
    ///
    /// # Errors
    /// As [`CalibratedSets::new`].
    pub fn sets(
        &self,
        method: &dyn AnySets,
        probabilities: ArrayView2<'_, f64>,
        by: Option<&dyn AnyExchange>,
        rows: &[Row],
        alpha: f64,
    ) -> Result<Vec<Vec<usize>>> {
        let who = method.card().name;
        quantile::check_alpha(who, alpha)?;
        learn::finite(who, probabilities)?;
        if probabilities.ncols() != self.classes {
            let (what, expected) = (format!("{who}: probabilities"), format!("[rows, {}]", self.classes));
            return Err(Error::Shape { what, expected, got: probabilities.shape().to_vec() });
        }
        if !rows.is_empty() {
            exchange::same_length(who, "what is known of rows", rows.len(), probabilities.nrows())?;
        }
        let one = |row: usize| {
            let draw = Rng::new(self.seed, "scores of new rows", row as u64).uniform();
            let scores = method.scores_any(&probabilities.row(row).to_vec(), draw);
            let mut set = Vec::new();
            for (class, score) in scores.into_iter().enumerate() {
                let place = exchange::place(by, rows.get(row), Some(class))?;
                quantile::check_weights(who, &[place.weight])?;
                let threshold = self.cells.get(&place.cell).map_or(f64::INFINITY, |s| s.threshold(alpha, place.weight));
                if score <= threshold {
                    set.push(class);
                }
            }
            Ok(set)
        };
        (0..probabilities.nrows()).into_par_iter().map(one).collect()
    }
}
