//! Methods that compute from what they are given and have no fit of a common form.

use acclimate_core::{Card, Method};
use std::fmt::Debug;

/// A method whose functions are its own.
pub trait Calculator: Method {}

/// [`Calculator`] with its type erased: what the registry holds.
pub trait AnyCalculator: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
}

impl<M: Calculator> AnyCalculator for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
}
