//! What a test-time method works with: the model, the patch under adaptation, its optimiser and the statistics of norms.

use crate::text::before;
use acclimate_core::{
    AnyOptimiser, AnyState, At, Error, Inputs, Model, Normaliser, Params, Pass, Patch, RecordReader, RecordWriter,
    Result, Role, Source, total,
};
use burn::tensor::Tensor;
use serde::Serialize;

/// What a run has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Passes through the model for the method.
    pub forwards: u64,
    /// Passes back.
    pub backwards: u64,
    /// Steps of the optimiser.
    pub updates: u64,
    /// Passes through the unadapted model for comparison.
    pub source: u64,
}

/// A loss with what it was computed from and where it leads.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The logits behind the loss, `[batch, classes]`.
    pub logits: Tensor<2>,
    /// The loss.
    pub loss: Tensor<1>,
    /// For every trained tensor of the patch, zero where the loss does not depend on it.
    pub gradients: Params,
}

/// The model, the patch that is adapted, and its optimiser. The model never changes; a reset brings back the first patch.
pub struct Host<'a> {
    model: &'a dyn Model,
    under: Option<&'a Patch>,
    reference: &'a [Inputs],
    optimiser: Option<(&'a dyn AnyOptimiser, Box<dyn AnyState>)>,
    first: Patch,
    patch: Patch,
    step: u64,
    counts: Counts,
}

impl<'a> Host<'a> {
    /// A host for methods without gradients.
    ///
    /// # Errors
    /// When the patch was made for another model.
    pub fn new(model: &'a dyn Model, patch: Patch) -> Result<Self> {
        patch.check_base(model)?;
        Ok(Self {
            model,
            under: None,
            reference: &[],
            optimiser: None,
            first: patch.clone(),
            patch,
            step: 0,
            counts: Counts::default(),
        })
    }

    /// The same host with an optimiser for the patch's trained tensors, all of them at its own rate and without decay.
    ///
    /// # Errors
    /// When the optimiser refuses the tensors.
    pub fn optimiser(mut self, optimiser: &'a dyn AnyOptimiser) -> Result<Self> {
        self.optimiser = Some((optimiser, optimiser.start(&self.patch.params)?));
        Ok(self)
    }

    /// The same host with a tuned patch below, which does not change: its adapters and its head.
    ///
    /// # Errors
    /// When the patch was made for another model.
    pub fn over(mut self, tuned: &'a Patch) -> Result<Self> {
        tuned.check_base(self.model)?;
        self.under = Some(tuned);
        Ok(self)
    }

    /// The same host with batches like those the model was trained on, for methods that measure something there first.
    pub fn reference(mut self, batches: &'a [Inputs]) -> Self {
        self.reference = batches;
        self
    }

    /// Batches like those the model was trained on, if any were given.
    pub fn reference_batches(&self) -> &'a [Inputs] {
        self.reference
    }

    /// The frozen model.
    pub fn model(&self) -> &'a dyn Model {
        self.model
    }

    /// The patch as it is now.
    pub fn patch(&self) -> &Patch {
        &self.patch
    }

    /// The patch that a reset brings back.
    pub fn first(&self) -> &Patch {
        &self.first
    }

    /// Whether there is an optimiser.
    pub fn can_update(&self) -> bool {
        self.optimiser.is_some()
    }

    /// What the run has cost so far; a reset does not clear it.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Logits of the adapted model with the given statistics, without a gradient tape. Of text they are what was said before each scored
    /// word, see [`crate::scored`].
    ///
    /// # Errors
    /// When the inputs do not fit, the statistics refuse the batch, or neither model nor patches have a head.
    pub fn forward(&mut self, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Tensor<2>> {
        self.counts.forwards += 1;
        self.logits(Some(&self.patch), batch, statistics)
    }

    /// Logits of the model as it was deployed: stored statistics, nothing adapted.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn source(&mut self, batch: &Inputs) -> Result<Tensor<2>> {
        self.counts.source += 1;
        self.logits(None, batch, &Source)
    }

    /// A loss of the logits and its gradients over the patch's trained tensors. Whether there is a tape and whose statistics hold are
    /// separate choices.
    ///
    /// # Errors
    /// As [`Host::forward`], and when nothing that is trained reaches the loss.
    pub fn gradient(
        &mut self,
        batch: &Inputs,
        statistics: &dyn Normaliser,
        loss: impl FnOnce(Tensor<2>) -> Result<Tensor<1>>,
    ) -> Result<Gradient> {
        let tracked = self.patch.tracked();
        self.counts.forwards += 1;
        let logits = self.logits(Some(&tracked), batch, statistics)?;
        let loss = loss(logits.clone())?;
        if !loss.device().is_autodiff() {
            return Err(Error::Unsupported {
                who: "the host".to_owned(),
                what: "take gradients: no trained tensor of the patch reaches the loss".to_owned(),
                instead: "add a part with trained tensors to the patch".to_owned(),
            });
        }
        self.counts.backwards += 1;
        let mut tape = loss.backward();
        let gradients = tracked.params.gradients(&mut tape);
        Ok(Gradient { logits: logits.inner(), loss: loss.inner(), gradients })
    }

    /// New values for the trained tensors, by a rule of the method's own. After an error nothing has changed.
    ///
    /// # Errors
    /// When they are not finite.
    pub fn replace(&mut self, who: &str, params: Params) -> Result<()> {
        let step = self.step + 1;
        if !params.is_finite() {
            let what = "the step leads to numbers that are not finite".to_owned();
            return Err(Error::Numeric { who: who.to_owned(), step, what });
        }
        (self.patch.params, self.step) = (params, step);
        self.counts.updates += 1;
        Ok(())
    }

    /// One step of the optimiser. After an error nothing has changed.
    ///
    /// # Errors
    /// When there is no optimiser, or loss, gradients or the new tensors are not finite.
    pub fn update(&mut self, gradient: &Gradient) -> Result<()> {
        let Some((optimiser, state)) = &mut self.optimiser else {
            return Err(Error::Unsupported {
                who: "the host".to_owned(),
                what: "update without an optimiser".to_owned(),
                instead: "give it one, or choose a method without gradients".to_owned(),
            });
        };
        let step = self.step + 1;
        let broken = |what: &str| Error::Numeric { who: optimiser.card().name.to_owned(), step, what: what.to_owned() };
        let loss = total(vec![gradient.loss.clone()]);
        if !loss.is_finite() || !gradient.gradients.is_finite() {
            return Err(broken("the loss or its gradient is not finite"));
        }
        let params = &self.patch.params;
        let roles: Vec<Role> = params.names().map(|name| self.patch.role(name)).collect();
        let scales = vec![1.0; params.len()];
        let decays = vec![0.0; params.len()];
        let at = At { params, lr: 1.0, scales: &scales, roles: &roles, decays: &decays, loss, step, again: None };
        let mut next_state = state.boxed();
        let made = optimiser.step(&gradient.gradients, next_state.as_mut(), &at)?;
        let next = params.zip(&made.movement, |x, movement| x + movement);
        if !next.is_finite() {
            return Err(broken("the step leads to numbers that are not finite"));
        }
        (self.patch.params, *state, self.step) = (next, next_state, step);
        self.counts.updates += 1;
        Ok(())
    }

    /// Brings back the first patch and forgets what the optimiser remembers.
    ///
    /// # Errors
    /// The optimiser's own.
    pub fn reset(&mut self) -> Result<()> {
        self.patch = self.first.clone();
        self.step = 0;
        if let Some((optimiser, state)) = &mut self.optimiser {
            *state = optimiser.start(&self.patch.params)?;
        }
        Ok(())
    }

    /// The patch, the optimiser's state and the counts.
    pub(crate) fn save(&self, to: &mut RecordWriter) {
        to.params("patch", &self.patch.params);
        to.params("buffers", &self.patch.buffers);
        to.u64("step", self.step);
        let Counts { forwards, backwards, updates, source } = self.counts;
        for (name, count) in
            [("forwards", forwards), ("backwards", backwards), ("updates", updates), ("source", source)]
        {
            to.u64(name, count);
        }
        if let Some((_, state)) = &self.optimiser {
            put(to, "optimiser", state.save());
        }
    }

    /// Reads what [`Host::save`] wrote.
    pub(crate) fn restore(&mut self, from: &mut RecordReader) -> Result<()> {
        let (params, buffers) = (from.params("patch")?, from.params("buffers")?);
        let same =
            |a: &Params, b: &Params| a.iter().map(|(n, t)| (n, t.shape())).eq(b.iter().map(|(n, t)| (n, t.shape())));
        if !same(&params, &self.patch.params) || !same(&buffers, &self.patch.buffers) {
            return Err(Error::Other(
                "the saved stream adapted another patch; start it with the patch it was saved with".to_owned(),
            ));
        }
        let counts = Counts {
            forwards: from.u64("forwards")?,
            backwards: from.u64("backwards")?,
            updates: from.u64("updates")?,
            source: from.u64("source")?,
        };
        let step = from.u64("step")?;
        if let Some((optimiser, state)) = &mut self.optimiser {
            *state = optimiser.restore(&mut take(from, "optimiser"))?;
        }
        (self.patch.params, self.patch.buffers, self.step, self.counts) = (params, buffers, step, counts);
        Ok(())
    }

    fn logits(&self, patch: Option<&Patch>, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Tensor<2>> {
        let pass = [self.under, patch].into_iter().flatten().fold(Pass::bare(), Pass::and);
        let pass = pass.normaliser(statistics);
        let outputs = self.model.forward(batch, &pass)?;
        if let (Inputs::Tokens(tokens), Some(states), None) = (batch, &outputs.states, &outputs.logits)
            && self.model.vocabulary().is_some()
        {
            return pass.scores(self.model, before(tokens, states)?);
        }
        outputs.logits.ok_or_else(|| Error::Unsupported {
            who: "the model".to_owned(),
            what: "predict: neither it nor a patch has a head".to_owned(),
            instead: "tune a head first and lay that patch below".to_owned(),
        })
    }
}

/// Writes a record as a part of another.
pub(crate) fn put(to: &mut RecordWriter, part: &str, record: RecordWriter) {
    for (name, tensor) in record.tensors.iter() {
        to.tensors.insert(format!("{part}:{name}"), tensor.clone());
    }
    to.numbers.extend(record.numbers.into_iter().map(|(name, number)| (format!("{part}:{name}"), number)));
}

/// Reads what [`put`] wrote.
pub(crate) fn take(from: &RecordReader, part: &str) -> RecordReader {
    let own = |name: &str| name.strip_prefix(part)?.strip_prefix(':').map(str::to_owned);
    let mut record = RecordWriter::default();
    for (name, tensor) in from.tensors.iter() {
        if let Some(name) = own(name) {
            record.tensors.insert(name, tensor.clone());
        }
    }
    record.numbers.extend(from.numbers.iter().filter_map(|(name, number)| Some((own(name)?, number.clone()))));
    record.into()
}
