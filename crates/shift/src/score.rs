//! What a score without labels of the target is: typed to write, erased to choose.

use crate::{AnyAlign, Fit, Host, Source, Target};
use acclimate_core::{Card, Method, Result};
use std::fmt::Debug;

/// A fitted method and the rows by which it may be judged. There is no place for labels of the target.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The method that was fitted.
    pub method: &'a dyn AnyAlign,
    /// What it was fitted with.
    pub host: &'a Host<'a>,
    /// The rows of the source that it was fitted on.
    pub source: Source<'a>,
    /// Rows of the source that the fit has not seen.
    pub held: Source<'a>,
    /// The rows of the target that it was fitted on.
    pub target: Target<'a>,
    /// Rows of the target that the fit has not seen.
    pub target_held: Target<'a>,
    /// The fit.
    pub fit: &'a Fit,
}

/// A method that says how good a fit is on the target without its labels.
pub trait Score: Method {
    /// The score; larger is better.
    ///
    /// # Errors
    /// When the case does not suit the method, with the remedy; and the learner's own.
    fn score(&self, case: &Case<'_>) -> Result<f64>;
}

/// [`Score`] with its type erased: what registries hold.
pub trait AnyScore: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Score::score`].
    ///
    /// # Errors
    /// The method's own.
    fn score_any(&self, case: &Case<'_>) -> Result<f64>;
}

impl<M: Score> AnyScore for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn score_any(&self, case: &Case<'_>) -> Result<f64> {
        self.score(case)
    }
}
