//! What a test-time method works with: the model, the patch under adaptation, its optimiser and the statistics of norms.

use crate::{AnyTestTime, text::before};
use acclimate_core::{
    Affine, AnyOptimiser, AnyState, AnyTensor, At, Batch, Error, Inputs, Model, Normaliser, Params, Pass, Patch,
    RecordReader, RecordWriter, Result, Role, Source, total, wide,
};
use burn::tensor::Tensor;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// What a run has cost. Passes are counted by the batch and by the row, as published tables do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Passes through the model for the method.
    pub forwards: u64,
    /// Rows in them.
    pub forward_rows: u64,
    /// Passes back.
    pub backwards: u64,
    /// Rows that the losses rest on.
    pub backward_rows: u64,
    /// Changes of the trained tensors.
    pub updates: u64,
    /// Passes through the unadapted model for comparison.
    pub source: u64,
    /// Rows in them.
    pub source_rows: u64,
}

/// What the model makes of a batch.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[batch, classes]`; of text `[scored words, words]`, see [`crate::scored`].
    pub logits: Tensor<2>,
    /// What the head sees, `[batch, width]`.
    pub features: Tensor<2>,
}

impl Seen {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.logits.dims()[0]
    }

    /// The same numbers off the gradient tape.
    pub fn inner(&self) -> Self {
        let inner = |x: &Tensor<2>| if x.device().is_autodiff() { x.clone().inner() } else { x.clone() };
        Self { logits: inner(&self.logits), features: inner(&self.features) }
    }
}

/// A loss on the tape, and how many rows it rests on.
#[derive(Clone, Debug)]
pub struct Loss {
    /// One number.
    pub value: Tensor<1>,
    /// Rows with a share in it.
    pub rows: usize,
}

impl Loss {
    /// The mean of a loss per row, `[rows]`.
    pub fn mean(losses: Tensor<1>) -> Self {
        let rows = losses.dims()[0];
        Self { value: losses.mean(), rows }
    }

    /// The mean over the rows that `keep` (0 or 1, `[rows]`) tells, each times its weight `[rows]`; nothing where it tells none.
    pub fn kept(losses: Tensor<1>, weights: Tensor<1>, keep: Tensor<1>) -> Option<Self> {
        let rows = total(vec![keep.clone().sum()]);
        // A row that is left out has no share, even where its loss is not finite.
        let none = losses.zeros_like();
        let losses = (losses * weights).mask_where(keep.equal_elem(0.0), none);
        // Burn's gradient of a division by a number knows its inverse in single precision only; a product keeps all digits.
        (rows > 0.0).then(|| Self { value: losses.sum() * rows.recip(), rows: rows as usize })
    }
}

/// A loss with where it leads.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The loss.
    pub loss: Tensor<1>,
    /// For every trained tensor, zero where the loss does not depend on it.
    pub gradients: Params,
}

/// The adapted model on a gradient tape.
#[derive(Debug)]
pub struct Taped<'t, 'a> {
    host: &'t mut Host<'a>,
    patch: Patch,
    own: Params,
}

impl Taped<'_, '_> {
    /// A pass under the host's statistics.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn forward(&mut self, batch: &Inputs) -> Result<Seen> {
        self.host.passed(&self.patch, batch)
    }

    /// A pass under statistics of the method's own.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn forward_under(&mut self, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Seen> {
        self.host.counted(&self.patch, batch, statistics)
    }

    /// The patch's trained tensors.
    pub fn params(&self) -> &Params {
        &self.patch.params
    }

    /// The method's own trained tensors, see [`Host::own`].
    pub fn own(&self) -> &Params {
        &self.own
    }
}

/// A method that brings statistics of batch norms, with what it remembers: now and at the start.
#[derive(Debug)]
struct Statistics<'a> {
    method: &'a dyn AnyTestTime,
    first: Box<dyn AnyState>,
    state: Box<dyn AnyState>,
}

/// The model, the patch that is adapted, its optimiser and the statistics of batch norms. The model never changes; a reset brings back the
/// first patch.
#[derive(Debug)]
pub struct Host<'a> {
    model: Frozen<'a>,
    under: Option<&'a Patch>,
    reference: &'a [Inputs],
    labels: &'a [Vec<usize>],
    optimiser: Option<(&'a dyn AnyOptimiser, Box<dyn AnyState>)>,
    statistics: Option<Statistics<'a>>,
    first: Patch,
    patch: Patch,
    first_own: Params,
    own: Params,
    step: u64,
    counts: Counts,
    /// The mean magnitude of each trained tensor's gradient in the first pass back.
    slopes: Option<BTreeMap<String, f64>>,
}

/// The frozen model; it prints as its fingerprint.
#[derive(Clone, Copy)]
struct Frozen<'a>(&'a dyn Model);

impl fmt::Debug for Frozen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.fingerprint())
    }
}

impl<'a> Host<'a> {
    /// A host for methods without gradients.
    ///
    /// # Errors
    /// When the patch was made for another model.
    pub fn new(model: &'a dyn Model, patch: Patch) -> Result<Self> {
        patch.check_base(model)?;
        Ok(Self {
            model: Frozen(model),
            under: None,
            reference: &[],
            labels: &[],
            optimiser: None,
            statistics: None,
            first: patch.clone(),
            patch,
            first_own: Params::default(),
            own: Params::default(),
            step: 0,
            counts: Counts::default(),
            slopes: None,
        })
    }

    /// The same host with an optimiser for the trained tensors, all of them at its own rate and without decay.
    ///
    /// # Errors
    /// When the optimiser refuses the tensors.
    pub fn optimiser(mut self, optimiser: &'a dyn AnyOptimiser) -> Result<Self> {
        self.optimiser = Some((optimiser, optimiser.start(&self.trained())?));
        Ok(self)
    }

    /// The same host with the statistics of another method, such as `unmix_tns` below `tent`. Without, a batch norm takes those of the
    /// batch.
    ///
    /// # Errors
    /// When the method refuses the model.
    pub fn statistics(mut self, method: &'a dyn AnyTestTime) -> Result<Self> {
        let first = method.start(&mut self)?;
        self.statistics = Some(Statistics { method, state: first.boxed(), first });
        Ok(self)
    }

    /// The same host with a tuned patch below, which does not change: its adapters and its head.
    ///
    /// # Errors
    /// When the patch was made for another model.
    pub fn over(mut self, tuned: &'a Patch) -> Result<Self> {
        tuned.check_base(self.model.0)?;
        self.under = Some(tuned);
        Ok(self)
    }

    /// The same host with batches like those the model was trained on, for methods that measure something there first.
    pub fn reference(mut self, batches: &'a [Inputs]) -> Self {
        self.reference = batches;
        self
    }

    /// The same host with the classes of the reference batches, one for each row.
    ///
    /// # Errors
    /// When there is not a class for each row of each batch.
    pub fn labels(mut self, labels: &'a [Vec<usize>]) -> Result<Self> {
        let rows: Vec<usize> = self.reference.iter().map(Inputs::rows).collect();
        if labels.iter().map(Vec::len).ne(rows.iter().copied()) {
            let got = labels.iter().map(Vec::len).collect();
            let what = "labels of the reference batches".to_owned();
            return Err(Error::Shape { what, expected: format!("{rows:?}, one for each row"), got });
        }
        self.labels = labels;
        Ok(self)
    }

    /// Batches like those the model was trained on, if any were given.
    pub fn reference_batches(&self) -> &'a [Inputs] {
        self.reference
    }

    /// The classes of the reference batches' rows, if they were given.
    pub fn reference_labels(&self) -> &'a [Vec<usize>] {
        self.labels
    }

    /// The frozen model.
    pub fn model(&self) -> &'a dyn Model {
        self.model.0
    }

    /// The patch as it is now.
    pub fn patch(&self) -> &Patch {
        &self.patch
    }

    /// The patch that a reset brings back.
    pub fn first(&self) -> &Patch {
        &self.first
    }

    /// Tensors of the method's own that are trained beside the patch, such as a projection.
    pub fn own(&self) -> &Params {
        &self.own
    }

    /// Takes tensors of the method's own into training; a reset brings these values back. For [`TestTime::prepare`](crate::TestTime).
    ///
    /// # Errors
    /// When the optimiser refuses them.
    pub fn train_too(&mut self, own: Params) -> Result<()> {
        (self.first_own, self.own) = (own.clone(), own);
        if let Some((optimiser, _)) = self.optimiser {
            self.optimiser = Some((optimiser, optimiser.start(&self.trained())?));
        }
        Ok(())
    }

    /// Weight `[classes, width]` and bias of the head that turns features into logits, as it is now.
    ///
    /// # Errors
    /// When neither model nor patches have one.
    pub fn head(&self) -> Result<Affine> {
        self.under.into_iter().chain([&self.patch]).fold(Pass::bare(), Pass::and).head_weights(self.model.0)
    }

    /// Whether there is an optimiser.
    pub fn can_update(&self) -> bool {
        self.optimiser.is_some()
    }

    /// Refuses a patch without trained tensors.
    ///
    /// # Errors
    /// Names the method `who`.
    pub fn check_trains(&self, who: &str) -> Result<()> {
        if self.patch.params.is_empty() {
            return Err(Error::Unsupported {
                who: who.to_owned(),
                what: "adapt a patch without trained tensors".to_owned(),
                instead: "give the stream one, such as `norm_tuning` or `full`, and lay a tuned patch below it"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Refuses a patch that trains nothing, or something beside scales and shifts of norms.
    ///
    /// # Errors
    /// Names the method `who` and the tensor.
    pub fn check_trains_norms(&self, who: &str) -> Result<()> {
        self.check_trains(who)?;
        match self.patch.params.names().find(|name| self.patch.role(name) != Role::Norm) {
            Some(name) => Err(Error::Unsupported {
                who: who.to_owned(),
                what: format!("tune `{name}`, which is no norm's scale or shift"),
                instead: "give the stream a patch that overrides the norms, and lay a tuned patch below it".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// The mean magnitude of each trained tensor's gradient in the first pass back, not finite where a number of it is not; nothing before
    /// that pass.
    pub fn slopes(&self) -> Option<&BTreeMap<String, f64>> {
        self.slopes.as_ref()
    }

    /// The method whose statistics the batch norms take, where they take another's.
    pub fn statistics_of(&self) -> Option<&'static str> {
        self.statistics.as_ref().map(|statistics| statistics.method.card().name)
    }

    /// How often the trained tensors have changed since the last reset.
    pub fn updates(&self) -> u64 {
        self.step
    }

    /// What the run has cost so far; a reset does not clear it.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The adapted model on a batch, under the host's statistics and without a gradient tape.
    ///
    /// # Errors
    /// When the inputs do not fit, the statistics refuse the batch, or neither model nor patches have a head.
    pub fn forward(&mut self, batch: &Inputs) -> Result<Seen> {
        self.passed(&self.patch.clone(), batch)
    }

    /// The same under statistics of the method's own.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn forward_under(&mut self, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Seen> {
        self.counted(&self.patch.clone(), batch, statistics)
    }

    /// The same under the statistics that another method brings, or, where none does, under those stored with the model: for methods
    /// that work on what a model says, whatever it is.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn forward_stored(&mut self, batch: &Inputs) -> Result<Seen> {
        if self.statistics.is_some() { self.forward(batch) } else { self.forward_under(batch, &Source) }
    }

    /// The model with other values for the patch's trained tensors: a teacher, or the start.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn forward_at(&mut self, params: &Params, batch: &Inputs) -> Result<Seen> {
        self.passed(&self.patch.with_params(params.clone()), batch)
    }

    /// The model before its first step, under statistics of the caller's.
    pub(crate) fn first_under(&mut self, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Seen> {
        self.counted(&self.first.clone(), batch, statistics)
    }

    /// The model as it was deployed: stored statistics, nothing adapted.
    ///
    /// # Errors
    /// As [`Host::forward`].
    pub fn source(&mut self, batch: &Inputs) -> Result<Seen> {
        self.counts.source += 1;
        let seen = self.seen(None, batch, &Source)?;
        self.counts.source_rows += seen.rows() as u64;
        Ok(seen)
    }

    /// A loss and its gradients over the trained tensors, with what the closure says was seen. Whether there is a tape and whose
    /// statistics hold are separate choices. Without a loss there is no gradient.
    ///
    /// # Errors
    /// As [`Host::forward`], and when nothing that is trained reaches the loss.
    pub fn gradient(
        &mut self,
        loss: impl FnOnce(&mut Taped<'_, 'a>) -> Result<(Seen, Option<Loss>)>,
    ) -> Result<(Seen, Option<Gradient>)> {
        self.gradient_at(&self.patch.params.clone(), loss)
    }

    /// The same with other values for the patch's trained tensors.
    ///
    /// # Errors
    /// As [`Host::gradient`].
    pub fn gradient_at(
        &mut self,
        params: &Params,
        loss: impl FnOnce(&mut Taped<'_, 'a>) -> Result<(Seen, Option<Loss>)>,
    ) -> Result<(Seen, Option<Gradient>)> {
        let (patch, own) = (self.patch.with_params(params.tracked()), self.own.tracked());
        let mut taped = Taped { host: self, patch, own };
        let (seen, loss) = loss(&mut taped)?;
        let (patch, own, seen) = (taped.patch, taped.own, seen.inner());
        let Some(Loss { value, rows }) = loss else { return Ok((seen, None)) };
        if !value.device().is_autodiff() {
            return Err(Error::Unsupported {
                who: "the host".to_owned(),
                what: "take gradients: no trained tensor of the patch reaches the loss".to_owned(),
                instead: "add a part with trained tensors to the patch".to_owned(),
            });
        }
        self.counts.backwards += 1;
        self.counts.backward_rows += rows as u64;
        let mut tape = value.backward();
        let gradients = joined(&patch.params, &own).gradients(&mut tape);
        if self.slopes.is_none() {
            let mean = |tensor: &AnyTensor| total(vec![wide(tensor.elements().abs()).sum()]) / tensor.count() as f64;
            self.slopes = Some(gradients.iter().map(|(name, tensor)| (name.to_owned(), mean(tensor))).collect());
        }
        Ok((seen, Some(Gradient { loss: value.inner(), gradients })))
    }

    /// [`Host::gradient`], and one step of the optimiser where there is a loss.
    ///
    /// # Errors
    /// As [`Host::gradient`] and [`Host::update`].
    pub fn learn(&mut self, loss: impl FnOnce(&mut Taped<'_, 'a>) -> Result<(Seen, Option<Loss>)>) -> Result<Seen> {
        let (seen, gradient) = self.gradient(loss)?;
        if let Some(gradient) = gradient {
            self.update(&gradient)?;
        }
        Ok(seen)
    }

    /// New values for the patch's trained tensors, by a rule of the method's own. After an error nothing has changed.
    ///
    /// # Errors
    /// When they are not finite.
    pub fn replace(&mut self, who: &str, params: Params) -> Result<()> {
        self.put_params(who, self.step + 1, params)?;
        self.step += 1;
        self.counts.updates += 1;
        Ok(())
    }

    /// Other values for the patch's trained tensors after an update and as a part of it, such as some of those of the start. After an
    /// error nothing has changed.
    ///
    /// # Errors
    /// When they are not finite.
    pub fn amend(&mut self, who: &str, params: Params) -> Result<()> {
        self.put_params(who, self.step, params)
    }

    fn put_params(&mut self, who: &str, step: u64, params: Params) -> Result<()> {
        if !params.is_finite() {
            let what = "the step leads to numbers that are not finite".to_owned();
            return Err(Error::Numeric { who: who.to_owned(), step, what });
        }
        self.patch.params = params;
        Ok(())
    }

    /// One step of the optimiser. After an error nothing has changed.
    ///
    /// # Errors
    /// When there is no optimiser, or loss, gradients or the new tensors are not finite.
    pub fn update(&mut self, gradient: &Gradient) -> Result<()> {
        self.update_by(gradient, |movement| Ok(Some(movement)))
    }

    /// One step of the optimiser, of which `choose` takes what it likes: it gets the movement the optimiser proposes for every trained
    /// tensor and answers with the one to make. Where it answers with none, nothing has changed, the optimiser's memory included.
    ///
    /// # Errors
    /// As [`Host::update`], and what `choose` refuses.
    pub fn update_by(
        &mut self,
        gradient: &Gradient,
        choose: impl FnOnce(Params) -> Result<Option<Params>>,
    ) -> Result<()> {
        let params = self.trained();
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
        let roles: Vec<Role> = params.names().map(|name| self.patch.role(name)).collect();
        let (scales, decays) = (vec![1.0; params.len()], vec![0.0; params.len()]);
        let at =
            At { params: &params, lr: 1.0, scales: &scales, roles: &roles, decays: &decays, loss, step, again: None };
        let mut next_state = state.boxed();
        let made = optimiser.step(&gradient.gradients, next_state.as_mut(), &at)?;
        let Some(movement) = choose(made.movement)? else { return Ok(()) };
        let next = params.zip(&movement, |x, movement| x + movement);
        if !next.is_finite() {
            return Err(broken("the step leads to numbers that are not finite"));
        }
        let trained =
            |of: &Params, prefix: &str| of.map(|name, old| next.any(&format!("{prefix}{name}")).unwrap_or(old).clone());
        (self.patch.params, self.own) = (trained(&self.patch.params, ""), trained(&self.own, OWN));
        (*state, self.step) = (next_state, step);
        self.counts.updates += 1;
        Ok(())
    }

    /// Brings back the first patch and forgets what optimiser and statistics remember.
    ///
    /// # Errors
    /// The optimiser's own.
    pub fn reset(&mut self) -> Result<()> {
        (self.patch, self.own, self.step) = (self.first.clone(), self.first_own.clone(), 0);
        if let Some((optimiser, _)) = self.optimiser {
            self.optimiser = Some((optimiser, optimiser.start(&self.trained())?));
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.state = statistics.first.boxed();
        }
        Ok(())
    }

    /// The patch, the optimiser's and the statistics' state and the counts.
    pub(crate) fn save(&self, to: &mut RecordWriter) {
        to.params("patch", &self.patch.params);
        to.params("buffers", &self.patch.buffers);
        to.params("own", &self.own);
        to.u64("step", self.step);
        for (name, count) in self.counts.named() {
            to.u64(name, count);
        }
        if let Some((_, state)) = &self.optimiser {
            put(to, "optimiser", state.save());
        }
        if let Some(statistics) = &self.statistics {
            put(to, "statistics", statistics.state.save());
        }
    }

    /// Reads what [`Host::save`] wrote.
    pub(crate) fn restore(&mut self, from: &mut RecordReader) -> Result<()> {
        let (params, buffers, own) = (from.params("patch")?, from.params("buffers")?, from.params("own")?);
        let same =
            |a: &Params, b: &Params| a.iter().map(|(n, t)| (n, t.shape())).eq(b.iter().map(|(n, t)| (n, t.shape())));
        if !same(&params, &self.patch.params) || !same(&buffers, &self.patch.buffers) || !same(&own, &self.own) {
            return Err(Error::Other(
                "the saved stream adapted another patch; start it with the patch it was saved with".to_owned(),
            ));
        }
        let mut counts = Counts::default();
        counts.read(from)?;
        let step = from.u64("step")?;
        let optimiser = match &self.optimiser {
            Some((optimiser, _)) => Some((*optimiser, optimiser.restore(&mut take(from, "optimiser"))?)),
            None => None,
        };
        if let Some(statistics) = &mut self.statistics {
            statistics.state = statistics.method.restore(&mut take(from, "statistics"))?;
        }
        (self.optimiser, self.patch.params, self.patch.buffers, self.own) = (optimiser, params, buffers, own);
        (self.step, self.counts) = (step, counts);
        Ok(())
    }

    /// The trained tensors: the patch's, then the method's own.
    pub(crate) fn trained(&self) -> Params {
        joined(&self.patch.params, &self.own)
    }

    /// A pass under the host's statistics.
    fn passed(&mut self, patch: &Patch, batch: &Inputs) -> Result<Seen> {
        let Some(Statistics { method, state, first }) = self.statistics.take() else {
            return self.counted(patch, batch, &Batch);
        };
        let (mut state, mut seen) = (state, None);
        let done = method.under_any(state.as_mut(), &mut |statistics| {
            seen = Some(self.counted(patch, batch, statistics)?);
            Ok(())
        });
        self.statistics = Some(Statistics { method, state, first });
        done?;
        seen.ok_or_else(|| Error::Other(format!("{} brought no statistics", method.card().name)))
    }

    fn counted(&mut self, patch: &Patch, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Seen> {
        self.counts.forwards += 1;
        let seen = self.seen(Some(patch), batch, statistics)?;
        self.counts.forward_rows += seen.rows() as u64;
        Ok(seen)
    }

    fn seen(&self, patch: Option<&Patch>, batch: &Inputs, statistics: &dyn Normaliser) -> Result<Seen> {
        let pass = [self.under, patch].into_iter().flatten().fold(Pass::bare(), Pass::and);
        let pass = pass.normaliser(statistics);
        let outputs = self.model.0.forward(batch, &pass)?;
        if let (Inputs::Tokens(tokens), Some(states), None) = (batch, &outputs.states, &outputs.logits)
            && self.model.0.vocabulary().is_some()
        {
            let features = before(tokens, states)?;
            return Ok(Seen { logits: pass.scores(self.model.0, features.clone())?, features });
        }
        let logits = outputs.logits.ok_or_else(|| Error::Unsupported {
            who: "the model".to_owned(),
            what: "predict: neither it nor a patch has a head".to_owned(),
            instead: "tune a head first and lay that patch below".to_owned(),
        })?;
        Ok(Seen { logits, features: outputs.features })
    }
}

impl Counts {
    fn named(self) -> [(&'static str, u64); 7] {
        let Self { forwards, forward_rows, backwards, backward_rows, updates, source, source_rows } = self;
        [
            ("forwards", forwards),
            ("forward_rows", forward_rows),
            ("backwards", backwards),
            ("backward_rows", backward_rows),
            ("updates", updates),
            ("source", source),
            ("source_rows", source_rows),
        ]
    }

    fn read(&mut self, from: &mut RecordReader) -> Result<()> {
        self.forwards = from.u64("forwards")?;
        self.forward_rows = from.u64("forward_rows")?;
        self.backwards = from.u64("backwards")?;
        self.backward_rows = from.u64("backward_rows")?;
        self.updates = from.u64("updates")?;
        self.source = from.u64("source")?;
        self.source_rows = from.u64("source_rows")?;
        Ok(())
    }
}

/// What the names of a method's own trained tensors begin with, beside those of the patch.
const OWN: &str = "own:";

/// The tensors of a patch, then those of a method.
fn joined(patch: &Params, own: &Params) -> Params {
    let mut all = patch.clone();
    for (name, tensor) in own.iter() {
        all.insert(format!("{OWN}{name}"), tensor.clone());
    }
    all
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
