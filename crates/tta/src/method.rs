//! What a test-time method is: typed to write, erased to choose.

use crate::Host;
use acclimate_core::{AnyState, Card, Inputs, Method, Record, RecordReader, Result};
use burn::tensor::Tensor;

/// A method that adapts to the batches it predicts. It sees inputs alone: labels are not representable.
///
/// The host owns the patch, the optimiser, their reset and the counting; the stream owns when to reset.
pub trait TestTime: Method {
    /// What it remembers between batches beside the host's patch.
    type State: Record + Clone + Send + Sync + std::fmt::Debug + 'static;

    /// The state before the first batch. Refuses a model or patch that the method cannot work on. Asked once: a reset brings this state
    /// back.
    ///
    /// # Errors
    /// When the host's model or patch does not fit.
    fn prepare(&self, host: &mut Host<'_>) -> Result<Self::State>;

    /// Predicts a batch and adapts to it. The logits `[batch, classes]` (of text, `[scored words, words]`) are those of the pass that gave
    /// the loss, so that no prediction depends on its own update.
    ///
    /// # Errors
    /// When numbers are not finite or inputs do not fit.
    fn step(&self, batch: &Inputs, state: &mut Self::State, host: &mut Host<'_>) -> Result<Tensor<2>>;
}

/// [`TestTime`] with its types erased: what registries hold.
pub trait AnyTestTime: Send + Sync + std::fmt::Debug {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`TestTime::prepare`].
    ///
    /// # Errors
    /// The method's own.
    fn start(&self, host: &mut Host<'_>) -> Result<Box<dyn AnyState>>;
    /// See [`TestTime::step`].
    ///
    /// # Errors
    /// The method's own.
    fn step_any(&self, batch: &Inputs, state: &mut dyn AnyState, host: &mut Host<'_>) -> Result<Tensor<2>>;
    /// Reads a saved state.
    ///
    /// # Errors
    /// When a field is missing.
    fn restore(&self, reader: &mut RecordReader) -> Result<Box<dyn AnyState>>;
}

impl<M: TestTime> AnyTestTime for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn start(&self, host: &mut Host<'_>) -> Result<Box<dyn AnyState>> {
        Ok(Box::new(self.prepare(host)?))
    }
    fn step_any(&self, batch: &Inputs, state: &mut dyn AnyState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let state = state.as_any_mut().downcast_mut().expect("a state is handed back to the method that made it");
        self.step(batch, state, host)
    }
    fn restore(&self, reader: &mut RecordReader) -> Result<Box<dyn AnyState>> {
        Ok(Box::new(M::State::load(reader)?))
    }
}
