//! Optimisers over the whole parameter set, typed to write and erased to choose.

use crate::{AnyTensor, Error, Method, Params, Record, RecordReader, RecordWriter, Result, Role};
use burn::tensor::{Int, Tensor, TensorData};
use std::any::Any;

/// The loss and the gradients of a step's batch at other parameters.
pub type Evaluate<'a> = dyn Fn(&Params) -> Result<(f64, Params)> + 'a;

/// What an optimiser is told at a step.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The parameters before the step.
    pub params: &'a Params,
    /// The schedule's multiplier. Methods with a learning rate multiply it; methods without one consume it (nominal 1), since
    /// D-Adaptation's sums contain it.
    pub lr: f64,
    /// A relative rate for each parameter, in their order (1 for most, never 0: the host hands over those that move).
    pub scales: &'a [f64],
    /// What each parameter is for, in their order.
    pub roles: &'a [Role],
    /// The decoupled weight decay of each parameter, which the host applies at the rate that the step names; 0 where the decay is
    /// coupled. For methods whose own rule has the decay in it.
    pub decays: &'a [f64],
    /// The loss before the step.
    pub loss: f64,
    /// The step, counted from one.
    pub step: u64,
    /// The same batch at other parameters, for methods that need it. Gradients come as those of the step did: clipped by the same factor,
    /// of the decayed loss where the decay is coupled.
    pub again: Option<&'a Evaluate<'a>>,
}

impl std::fmt::Debug for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lr, scales, roles, decays, loss, step, again, .. } = self;
        f.debug_struct("At")
            .field("lr", lr)
            .field("scales", scales)
            .field("roles", roles)
            .field("decays", decays)
            .field("loss", loss)
            .field("step", step)
            .field("again", &again.is_some())
            .finish_non_exhaustive()
    }
}

/// What an optimiser answers.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is added to the parameters.
    pub movement: Params,
    /// The rate the host multiplies decoupled weight decay with, for each parameter.
    pub decay_rates: Vec<f64>,
}

/// A method that turns gradients into movements.
///
/// The host owns weight decay, clipping, accumulation, freezing, saving and resuming.
pub trait Optimiser: Method {
    /// What it remembers between steps.
    type State: Record + Clone + Send + Sync + std::fmt::Debug + 'static;

    /// The state before the first step.
    ///
    /// # Errors
    /// When the parameters do not fit the config.
    fn init(&self, params: &Params) -> Result<Self::State>;

    /// One step. Gradients have the names and order of the parameters.
    ///
    /// # Errors
    /// When numbers are not finite or shapes do not fit.
    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step>;

    /// How many numbers the state keeps for a tensor of this shape.
    fn state_size(&self, shape: &[usize]) -> usize;

    /// Whether [`Optimiser::update`] writes over the tensors of its state. The host keeps no copy then, and the state of a step that led
    /// to numbers that are not finite stays as that step left it.
    fn in_place(&self) -> bool {
        false
    }

    /// Whether all that its state holds in the shape of a parameter are moments, which a host may round between steps. Positions, and sums
    /// that forget nothing, may not be.
    fn keeps_moments(&self) -> bool {
        false
    }

    /// The parameters to evaluate with: averages, where the method keeps them.
    fn eval(&self, params: &Params, _state: &Self::State) -> Params {
        params.clone()
    }

    /// Numbers worth drawing, such as `("d", 1e-3)`.
    fn log(&self, _state: &Self::State) -> Vec<(&'static str, f64)> {
        vec![]
    }

    /// A fresh state that moves more carefully than `ruined`, which led to a collapse: its own rate is held below `share` of what
    /// was reached there. Methods without a rate of their own have none.
    ///
    /// # Errors
    /// As `init`.
    fn restart(&self, _params: &Params, _ruined: &Self::State, _share: f64) -> Result<Option<Self::State>> {
        Ok(None)
    }
}

/// An optimiser's state with its type erased.
pub trait AnyState: Send + Sync + std::fmt::Debug {
    /// The concrete state.
    fn as_any(&self) -> &dyn Any;
    /// The concrete state, to change.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// A copy.
    fn boxed(&self) -> Box<dyn AnyState>;
    /// Everything needed to go on exactly.
    fn save(&self) -> RecordWriter;
    /// See [`Record::slots_mut`].
    fn slots(&mut self) -> Vec<&mut Params>;
    /// See [`Record::own_mut`].
    fn own(&mut self) -> Vec<&mut Params>;
}

impl<S: Record + Clone + Send + Sync + std::fmt::Debug + 'static> AnyState for S {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn boxed(&self) -> Box<dyn AnyState> {
        Box::new(self.clone())
    }
    fn save(&self) -> RecordWriter {
        let mut writer = RecordWriter::default();
        Record::save(self, &mut writer);
        writer
    }
    fn slots(&mut self) -> Vec<&mut Params> {
        self.slots_mut()
    }
    fn own(&mut self) -> Vec<&mut Params> {
        self.own_mut()
    }
}

/// [`Optimiser`] with its types erased: what registries hold.
pub trait AnyOptimiser: Send + Sync + std::fmt::Debug {
    /// The method's card.
    fn card(&self) -> crate::Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Optimiser::init`].
    ///
    /// # Errors
    /// The method's own.
    fn start(&self, params: &Params) -> Result<Box<dyn AnyState>>;
    /// See [`Optimiser::update`].
    ///
    /// # Errors
    /// The method's own.
    fn step(&self, grads: &Params, state: &mut dyn AnyState, at: &At<'_>) -> Result<Step>;
    /// See [`Optimiser::state_size`].
    fn size_of_state(&self, shape: &[usize]) -> usize;
    /// See [`Optimiser::in_place`].
    fn writes_in_place(&self) -> bool;
    /// See [`Optimiser::keeps_moments`].
    fn has_moments_alone(&self) -> bool;
    /// See [`Optimiser::eval`].
    fn evaluate(&self, params: &Params, state: &dyn AnyState) -> Params;
    /// See [`Optimiser::log`].
    fn report(&self, state: &dyn AnyState) -> Vec<(&'static str, f64)>;
    /// See [`Optimiser::restart`].
    ///
    /// # Errors
    /// The method's own.
    fn restart_from(&self, params: &Params, ruined: &dyn AnyState, share: f64) -> Result<Option<Box<dyn AnyState>>>;
    /// Reads a saved state.
    ///
    /// # Errors
    /// When a field is missing.
    fn restore(&self, reader: &mut RecordReader) -> Result<Box<dyn AnyState>>;
}

const OWN: &str = "a state is handed back to the optimiser that made it";

impl<O: Optimiser> AnyOptimiser for O {
    fn card(&self) -> crate::Card {
        O::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn start(&self, params: &Params) -> Result<Box<dyn AnyState>> {
        Ok(Box::new(self.init(params)?))
    }
    fn step(&self, grads: &Params, state: &mut dyn AnyState, at: &At<'_>) -> Result<Step> {
        self.update(grads, state.as_any_mut().downcast_mut().expect(OWN), at)
    }
    fn size_of_state(&self, shape: &[usize]) -> usize {
        self.state_size(shape)
    }
    fn writes_in_place(&self) -> bool {
        self.in_place()
    }
    fn has_moments_alone(&self) -> bool {
        self.keeps_moments()
    }
    fn evaluate(&self, params: &Params, state: &dyn AnyState) -> Params {
        self.eval(params, state.as_any().downcast_ref().expect(OWN))
    }
    fn report(&self, state: &dyn AnyState) -> Vec<(&'static str, f64)> {
        self.log(state.as_any().downcast_ref().expect(OWN))
    }
    fn restart_from(&self, params: &Params, ruined: &dyn AnyState, share: f64) -> Result<Option<Box<dyn AnyState>>> {
        let state = self.restart(params, ruined.as_any().downcast_ref().expect(OWN), share)?;
        Ok(state.map(|state| Box::new(state) as Box<dyn AnyState>))
    }
    fn restore(&self, reader: &mut RecordReader) -> Result<Box<dyn AnyState>> {
        Ok(Box::new(O::State::load(reader)?))
    }
}

/// A change of one trained tensor's size along one axis, for rank changes and restarts. The host makes the same change to every
/// optimiser state that is like the parameter, and drops what a state keeps of it in other shapes.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The tensor's name in the patch.
    pub param: String,
    /// The axis, 0 or 1.
    pub axis: usize,
    /// The indices that stay, in their new order.
    pub keep: Vec<usize>,
    /// What is appended along the axis; optimiser state gets zeros there.
    pub add: Option<AnyTensor>,
}

impl Edit {
    /// The edited tensor; `state` appends zeros in place of `add`.
    ///
    /// # Errors
    /// When the tensor is not a matrix, an index is out of range, or `add` has another size on the other axis.
    pub fn apply(&self, tensor: &AnyTensor, state: bool) -> Result<AnyTensor> {
        let shape = tensor.shape();
        let wrong =
            |expected: String| Error::Shape { what: format!("edit of `{}`", self.param), expected, got: shape.clone() };
        let matrix: Tensor<2> = tensor.get().ok_or_else(|| wrong("of rank 2".to_owned()))?;
        if self.axis > 1 || self.keep.iter().any(|&i| i >= shape[self.axis]) {
            return Err(wrong(format!("an axis below 2 that holds indices {:?}", self.keep)));
        }
        let at: Vec<i64> = self.keep.iter().map(|&i| i as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [self.keep.len()]), &matrix.device());
        let kept = matrix.select(self.axis, at);
        let Some(add) = &self.add else { return Ok(kept.into()) };
        let add: Tensor<2> = if state { add.zeros_like().get() } else { add.get() }
            .ok_or_else(|| wrong("`add` of rank 2".to_owned()))?;
        if add.dims()[1 - self.axis] != shape[1 - self.axis] {
            return Err(wrong(format!("`add` of shape {:?} to fit", add.dims())));
        }
        Ok(Tensor::cat(vec![kept, add], self.axis).into())
    }

    /// Makes the change to every slot of an optimiser's state that holds the parameter, and drops what the state keeps of it in other shapes.
    ///
    /// # Errors
    /// As [`Edit::apply`].
    pub fn apply_to_state(&self, state: &mut dyn AnyState) -> Result<()> {
        for slot in state.slots() {
            if let Some(tensor) = slot.any(&self.param).cloned() {
                slot.insert(self.param.clone(), self.apply(&tensor, true)?);
            }
        }
        for own in state.own() {
            let mut others = Params::default();
            for (name, tensor) in own.iter().filter(|(name, _)| *name != self.param) {
                others.insert(name, tensor.clone());
            }
            *own = others;
        }
        Ok(())
    }
}
