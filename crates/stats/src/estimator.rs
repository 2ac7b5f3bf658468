//! Published estimators whose fits have forms of their own.

use acclimate_core::{Card, Method};
use std::fmt::Debug;

/// A method whose functions are its own.
pub trait Estimator: Method {}

/// [`Estimator`] with its type erased: what the registry holds.
pub trait AnyEstimator: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
}

impl<M: Estimator> AnyEstimator for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
}
