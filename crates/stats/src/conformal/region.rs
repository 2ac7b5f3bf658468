//! Regions for several numbers at once.

use super::{AnyExchange, Row, exchange};
use crate::{quantile, quantile::Scores};
use acclimate_core::{Card, Error, Method, Result};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Debug};

/// What a model says of where the numbers of a row lie together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Shape {
    /// Samples of them, `[samples, numbers]`.
    Cloud(Array2<f64>),
    /// All points `y` with `directions · y ≥ offsets`.
    HalfSpaces {
        /// Vectors of length one, `[directions, numbers]`.
        directions: Array2<f64>,
        /// One for each direction.
        offsets: Vec<f64>,
    },
}

/// How strange a point is for one row; low inside of its shape.
pub type Score<'a> = Box<dyn Fn(&[f64]) -> f64 + Send + Sync + 'a>;

/// A method for regions: a score of points for a shape. The region holds the points whose score is at most the calibrated one.
pub trait Regions: Method {
    /// The score for one row.
    ///
    /// # Errors
    /// When the shape is not of the kind that the method reads.
    fn score<'a>(&self, shape: &'a Shape) -> Result<Score<'a>>;
}

/// [`Regions`] with its type erased.
pub trait AnyRegions: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Regions::score`].
    ///
    /// # Errors
    /// The method's own.
    fn score_any<'a>(&self, shape: &'a Shape) -> Result<Score<'a>>;
}

impl<M: Regions> AnyRegions for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn score_any<'a>(&self, shape: &'a Shape) -> Result<Score<'a>> {
        self.score(shape)
    }
}

/// The calibrated region of one row.
pub struct Region<'a> {
    score: Score<'a>,
    threshold: f64,
}

impl Debug for Region<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

impl Region<'_> {
    /// Whether a point lies in it.
    pub fn contains(&self, point: &[f64]) -> bool {
        (self.score)(point) <= self.threshold
    }

    /// How far it was grown, or shrunk where this is negative; infinite where the calibration rows cannot tell.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Its volume within a box, by the middles of `parts` equal parts along each axis.
    pub fn volume(&self, lower: &[f64], upper: &[f64], parts: usize) -> f64 {
        let cells = parts.pow(lower.len() as u32);
        let inside =
            (0..cells).into_par_iter().filter(|cell| self.contains(&middle(*cell, lower, upper, parts))).count();
        let size: f64 = lower.iter().zip(upper).map(|(lower, upper)| upper - lower).product();
        size * inside as f64 / cells as f64
    }
}

/// The middle of one of the equal parts of a box, `parts` along each axis.
pub(super) fn middle(mut cell: usize, lower: &[f64], upper: &[f64], parts: usize) -> Vec<f64> {
    let along = |(lower, upper): (&f64, &f64)| {
        let place = cell % parts;
        cell /= parts;
        lower + (upper - lower) * (place as f64 + 0.5) / parts as f64
    };
    lower.iter().zip(upper).map(along).collect()
}

/// Regions of a method, calibrated apart in each cell of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibratedRegions {
    cells: BTreeMap<usize, Scores>,
}

impl CalibratedRegions {
    /// Calibrates on the shapes that a model gave for rows and what came, `[rows, numbers]`.
    ///
    /// # Errors
    /// When lists differ in length, or the method or the exchange refuses a row.
    pub fn new(
        method: &dyn AnyRegions,
        shapes: &[Shape],
        truths: ArrayView2<'_, f64>,
        by: Option<&dyn AnyExchange>,
        rows: &[Row],
    ) -> Result<Self> {
        let who = method.card().name;
        exchange::same_length(who, "shapes", shapes.len(), truths.nrows())?;
        if !rows.is_empty() {
            exchange::same_length(who, "what is known of rows", rows.len(), truths.nrows())?;
        }
        let one = |row: usize| {
            let numbers = match &shapes[row] {
                Shape::Cloud(points) => points.ncols(),
                Shape::HalfSpaces { directions, .. } => directions.ncols(),
            };
            if numbers != truths.ncols() {
                let (what, expected) =
                    (format!("{who}: the shape of row {}", row + 1), format!("[_, {}]", truths.ncols()));
                return Err(Error::Shape { what, expected, got: vec![numbers] });
            }
            Ok(method.score_any(&shapes[row])?(&truths.row(row).to_vec()))
        };
        let scores = (0..shapes.len()).into_par_iter().map(one).collect::<Result<Vec<f64>>>()?;
        let mut cells = BTreeMap::new();
        for (cell, (members, weights)) in exchange::cells(by, rows, shapes.len(), |_| None)? {
            cells.insert(cell, Scores::new(who, members.iter().map(|row| scores[*row]), &weights)?);
        }
        Ok(Self { cells })
    }

    /// The region of a new row. A cell without calibration rows gets all points.
    ///
    /// # Errors
    /// As [`CalibratedRegions::new`].
    pub fn region<'a>(
        &self,
        method: &dyn AnyRegions,
        shape: &'a Shape,
        by: Option<&dyn AnyExchange>,
        row: &Row,
        alpha: f64,
    ) -> Result<Region<'a>> {
        quantile::check_alpha(method.card().name, alpha)?;
        let place = exchange::place(by, Some(row), None)?;
        quantile::check_weights(method.card().name, &[place.weight])?;
        let threshold =
            self.cells.get(&place.cell).map_or(f64::INFINITY, |scores| scores.threshold(alpha, place.weight));
        Ok(Region { score: method.score_any(shape)?, threshold })
    }
}
