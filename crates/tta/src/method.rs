//! What a test-time method is: typed to write, erased to choose.

use crate::Host;
use acclimate_core::{AnyState, Card, Error, Inputs, Method, Need, Normaliser, Record, RecordReader, Result};
use burn::tensor::Tensor;

/// What a method trains where its user names nothing: which patch it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trains {
    /// Nothing: an empty patch.
    Nothing,
    /// Scales and shifts of the norms.
    Norms,
    /// Every weight.
    Everything,
}

impl Trains {
    /// The adapter that gives such a patch, and its targets where they are not the adapter's own.
    pub fn adapter(self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::Nothing => None,
            Self::Norms => Some(("norm_tuning", None)),
            Self::Everything => Some(("full", Some("all"))),
        }
    }
}

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

    /// What it trains where its user names nothing.
    fn trains(&self) -> Trains {
        if Self::CARD.needs(Need::Gradients) { Trains::Norms } else { Trains::Nothing }
    }

    /// Runs one pass under the statistics of batch norms that this method keeps, so that other methods may work under them, and
    /// remembers what they saw there. See [`Host::statistics`].
    ///
    /// # Errors
    /// The pass's own, and where the method keeps no statistics.
    fn under(&self, state: &mut Self::State, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        let _ = (state, pass);
        Err(Error::Unsupported {
            who: Self::CARD.name.to_owned(),
            what: "bring statistics of batch norms for another method".to_owned(),
            instead: "choose one that does, such as `alpha_bn`".to_owned(),
        })
    }
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
    /// See [`TestTime::trains`].
    fn trains_any(&self) -> Trains;
    /// See [`TestTime::under`].
    ///
    /// # Errors
    /// The method's own.
    fn under_any(&self, state: &mut dyn AnyState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()>;
    /// What there is to tell since it was last asked, in sentences.
    fn told(&self, state: &mut dyn AnyState) -> Vec<String> {
        let _ = state;
        vec![]
    }
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
        self.step(batch, own(state), host)
    }
    fn trains_any(&self) -> Trains {
        self.trains()
    }
    fn under_any(&self, state: &mut dyn AnyState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        self.under(own(state), pass)
    }
    fn restore(&self, reader: &mut RecordReader) -> Result<Box<dyn AnyState>> {
        Ok(Box::new(M::State::load(reader)?))
    }
}

/// The state under its own type.
fn own<S: 'static>(state: &mut dyn AnyState) -> &mut S {
    state.as_any_mut().downcast_mut().expect("a state is handed back to the method that made it")
}
