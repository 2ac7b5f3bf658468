//! Training one patch: batches, steps, the watch for collapse, early stopping, checkpoints that resume bit for bit.

use crate::checkpoint::{Checkpoints, Left};
use crate::recipe::Recipe;
use crate::tasks::{Outputs, Prepared, Task};
use acclimate_core::{
    AnyOptimiser, AnyTensor, Error, Model, Normaliser, Params, Pass, Patch, RecordReader, RecordWriter, Result,
};
use acclimate_data::split;
use acclimate_optim::{
    Accumulator, BatchGrowth, BatchTest, CollapseWatch, Host, HostSettings, Objective, SketchAccumulator, Spread,
    Verdict,
};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Rows per forward when nothing is trained.
const EVALUATION_BATCH: usize = 64;

/// How often a collapsed run starts again before the best state is kept as it is.
const RESTARTS: usize = 3;

/// After a collapse the optimiser's own rate is held below this share of what it had reached.
const RESTART_SHARE: f64 = 0.25;

/// What a checkpoint calls its parts.
const PARAMS: &str = "run/params";
const GOOD: &str = "run/good";
const BEST: &str = "run/best";
const MODEL: &str = "run/model";
const WATCH: &str = "run/watch";
const NOTES: &str = "run/notes";

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// The step, counted from one.
    pub step: u64,
    /// The mean loss of the batch before the step.
    #[serde(deserialize_with = "crate::nan::number")]
    pub loss: f64,
    /// The schedule's multiplier.
    pub multiplier: f64,
    /// What the optimiser reports, such as d; where the batch may grow, its rows as `batch_size`, and as `batch_wanted` those a test asked for.
    #[serde(deserialize_with = "crate::nan::pairs")]
    pub log: Vec<(String, f64)>,
}

/// Everything worth drawing about a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Steps in order; those of a collapsed stretch are kept.
    pub steps: Vec<StepLine>,
    /// Held-out score after each epoch, where rows are held out.
    pub valid: Vec<(usize, f64)>,
    /// The step after which each of these was taken.
    pub valid_steps: Vec<u64>,
    /// What went wrong and what was done about it.
    pub notes: Vec<String>,
}

/// Where a run is, for progress bars.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What is being trained: `fold 1 of 3`, `final`.
    pub stage: &'a str,
    /// Steps done.
    pub step: u64,
    /// Steps in all; where the batch may grow, as many as it would be at its present size.
    pub total: u64,
    /// The last step.
    pub line: &'a StepLine,
}

/// What a run ended with.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The patch: the last state, or the best one on held-out rows where there are any.
    pub patch: Patch,
    /// The course of the run.
    pub history: History,
    /// Whether the run was interrupted; its checkpoint resumes it.
    pub interrupted: bool,
    /// Seconds of training, those of earlier processes included.
    pub seconds: f64,
}

/// What training needs besides a patch.
#[derive(Clone, Copy)]
pub struct Trainer<'a> {
    /// The frozen model.
    pub model: &'a dyn Model,
    /// The task.
    pub task: &'a dyn Task,
    /// Encoded rows with labels.
    pub data: &'a Prepared,
    /// Epochs, batch size, schedule and the like.
    pub recipe: &'a Recipe,
    /// The optimiser.
    pub optimiser: &'a dyn AnyOptimiser,
    /// Whose moments batch norms use while training; evaluation uses the stored ones.
    pub normaliser: &'a dyn Normaliser,
    /// Set to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// How a run goes over its rows. They are drawn in batches of the first size; a step whose batch has grown takes several of these, so that
/// what is drawn depends on the epoch alone, and no pass holds more rows than one of them.
struct Course {
    /// Rows of a batch of the first size.
    per_step: usize,
    /// Batches of the first size in an epoch and in all.
    per_epoch: u64,
    total: u64,
    /// What lets the batch grow.
    growth: Option<BatchGrowth>,
}

impl Course {
    /// Batches of the first size that make up one of so many rows.
    fn taken(&self, size: usize) -> u64 {
        size.div_ceil(self.per_step) as u64
    }

    /// The last step of the run, if the batch keeps its size. An epoch's last batch has what is left.
    fn end(&self, place: &Place) -> u64 {
        let (rest, taken) = (self.total - place.read, self.taken(place.size));
        place.step + rest / self.per_epoch * self.per_epoch.div_ceil(taken) + (rest % self.per_epoch).div_ceil(taken)
    }
}

/// Rows that pass through the model together, and the number of their draws.
struct Micro {
    rows: Vec<usize>,
    draw: u64,
}

/// Where a run is.
struct Place {
    step: u64,
    /// Batches of the first size that were taken.
    read: u64,
    /// Rows of a batch.
    size: usize,
    history: History,
    watch: CollapseWatch,
    restarts: usize,
    good_step: u64,
    good_read: u64,
    /// The least held-out loss, and after which epoch.
    best: Option<(f64, usize)>,
    /// Seconds of training in earlier processes.
    seconds: f64,
}

struct Run {
    patch: Patch,
    host: Host,
    place: Place,
    /// Parameters to return to after a collapse.
    good: Params,
    /// Parameters of the least held-out loss.
    best: Params,
}

impl Trainer<'_> {
    /// Trains a patch on rows. With `folder` the run leaves checkpoints there and goes on from the last one it finds.
    ///
    /// # Errors
    /// Numbers that stop being finite although the watch restarted the run, a model or task error, or a full disk.
    pub fn train(
        &self,
        start: Patch,
        rows: &[usize],
        valid: &[usize],
        stage: &str,
        folder: Option<&Path>,
        report: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Trained> {
        let (recipe, per_step) = (self.recipe, self.recipe.rows_per_step(self.task.kind()));
        let lengths = self.data.left.lengths(rows);
        let per_epoch = split::buckets(&lengths, per_step, recipe.seed, 0).len() as u64;
        let total = per_epoch * recipe.epochs(self.task.kind(), rows.len()) as u64;
        let course = Course { per_step, per_epoch, total, growth: recipe.batch.growth(rows.len()) };
        let began = Instant::now();
        let open = |folder| Checkpoints::open(folder, recipe.checkpoint_steps, &self.model.like().1);
        let (mut checkpoints, left) = folder.map(open).transpose()?.unzip();
        let mut run = match left.flatten() {
            Some(left) => self.resume(start, left)?,
            None => self.begin(start, per_step)?,
        };
        let before = run.place.seconds;
        let mut epoch_batches: Option<(u64, Vec<Vec<usize>>)> = None;
        while run.place.read < total {
            let (epoch, from) = (run.place.read / per_epoch, (run.place.read % per_epoch) as usize);
            if epoch_batches.as_ref().is_none_or(|(e, _)| *e != epoch) {
                epoch_batches = Some((epoch, split::buckets(&lengths, per_step, recipe.seed, epoch)));
            }
            let left = &epoch_batches.as_ref().expect("set above").1[from..];
            let taken = left.len().min(course.taken(run.place.size) as usize);
            let batch: Vec<Vec<usize>> =
                left[..taken].iter().map(|part| part.iter().map(|&at| rows[at]).collect()).collect();
            self.step(&mut run, &batch, &course)?;
            let line = run.place.history.steps.last().expect("a step was just made");
            report(Progress { stage, step: run.place.step, total: course.end(&run.place), line });
            let ended = run.place.read > 0 && run.place.read.is_multiple_of(per_epoch);
            if ended && !valid.is_empty() && self.validate(&mut run, valid, per_epoch)? {
                break;
            }
            let interrupted = self.stop.load(Ordering::Relaxed);
            run.place.seconds = before + began.elapsed().as_secs_f64();
            let (steps, flush) = (&run.place.history.steps, ended || interrupted);
            if let Some(checkpoints) =
                checkpoints.as_mut().filter(|c: &&mut Checkpoints| flush || c.is_due(steps.len()))
            {
                checkpoints.save(self.record(&run), steps, flush)?;
            }
            if interrupted && run.place.read < total {
                let Place { history, seconds, .. } = run.place;
                return Ok(Trained { patch: run.patch, history, interrupted: true, seconds });
            }
        }
        let params =
            if run.place.best.is_some() { run.best } else { run.host.evaluate(self.optimiser, &run.patch.params) };
        let Place { history, seconds, .. } = run.place;
        Ok(Trained { patch: run.patch.with_params(params), history, interrupted: false, seconds })
    }

    fn settings(&self) -> HostSettings {
        let optim = &self.recipe.optim;
        HostSettings {
            weight_decay: optim.weight_decay,
            decoupled: optim.decoupled,
            clip: optim.clip,
            scales: optim.scales.clone(),
            frozen: optim.frozen.clone(),
            groups: optim.groups,
            state: optim.state,
        }
    }

    fn begin(&self, patch: Patch, size: usize) -> Result<Run> {
        let host = Host::new(self.optimiser, self.settings(), &patch)?;
        let place = Place {
            step: 0,
            read: 0,
            size,
            history: History::default(),
            watch: CollapseWatch::default(),
            restarts: 0,
            good_step: 0,
            good_read: 0,
            best: None,
            seconds: 0.0,
        };
        Ok(Run { good: patch.params.clone(), best: patch.params.clone(), patch, host, place })
    }

    /// The micro-batches of a step that begins after `read` batches of the first size: at least `parts` in all, where there are as many rows,
    /// and each from one of the step's batches.
    fn divided(&self, batch: &[Vec<usize>], read: u64, parts: usize, course: &Course) -> Vec<Micro> {
        let parts = self.recipe.accumulate.max(parts.div_ceil(batch.len()));
        // No two micro-batches of a run share a draw: without growth there are `accumulate` for each batch, with it at most one for each row.
        let width =
            if course.growth.is_some() { self.recipe.accumulate.max(course.per_step) } else { self.recipe.accumulate };
        let mut micros = vec![];
        for (rows, at) in batch.iter().zip(read + 1..) {
            let chunks = rows.chunks(rows.len().div_ceil(parts.min(rows.len())));
            micros.extend(chunks.zip(at * width as u64..).map(|(rows, draw)| Micro { rows: rows.to_vec(), draw }));
        }
        micros
    }

    /// The mean loss over micro-batches of a step and its gradients, and, for a test, how far they lie apart.
    fn gradients(
        &self,
        patch: &Patch,
        step: u64,
        micros: &[Micro],
        test: Option<BatchTest>,
    ) -> Result<(f64, Params, Option<Spread>)> {
        let mut sum = test.map_or_else(Accumulator::default, Accumulator::for_test);
        let (rank, seed) = (self.recipe.accumulate_rank, self.recipe.seed);
        let mut sketch = (rank > 0 && micros.len() > 1).then(|| SketchAccumulator::new(rank, seed, step));
        for Micro { rows, draw } in micros {
            let tracked = patch.tracked();
            let pass = Pass::new(&tracked).dropout(self.recipe.seed, *draw).normaliser(self.normaliser);
            let mut loss = self.task.loss(self.model, self.data, rows, &pass)?;
            let value = acclimate_core::total(vec![loss.clone().inner()]);
            if let Some(penalty) = tracked.penalty()? {
                loss = loss + penalty;
            }
            if !loss.is_tracked() {
                return Err(Error::Other(
                    "the loss does not depend on the patch; widen `adapter.targets` or add a head".to_owned(),
                ));
            }
            let gradients = tracked.params.gradients(&mut loss.backward());
            let weight = self.task.weight(self.data, rows);
            match &mut sketch {
                Some(sketch) => sketch.add(&gradients, value, weight),
                None => sum.add(gradients, value, weight),
            }
        }
        let spread = sum.spread();
        let (loss, gradients) = sketch.map_or_else(|| sum.finish(), SketchAccumulator::finish)?;
        Ok((loss, gradients, spread))
    }

    fn step(&self, run: &mut Run, batch: &[Vec<usize>], course: &Course) -> Result<()> {
        let (step, size) = (run.place.step + 1, run.place.size);
        let tested = course.growth.filter(|growth| growth.is_due(step, size));
        let parts = if tested.is_some() { self.recipe.batch.parts } else { 1 };
        let micros = self.divided(batch, run.place.read, parts, course);
        let (loss, gradients, spread) = self.gradients(&run.patch, step, &micros, tested.map(|growth| growth.test))?;
        let recipe = self.recipe;
        // The schedule goes by what was read: a batch of twice the size takes it twice as far.
        let multiplier = recipe.optim.multiplier * recipe.schedule.at(run.place.read + 1, course.total, recipe.warmup);
        let mut finite = loss.is_finite() && gradients.is_finite();
        if finite {
            // The same rows under the same dropout.
            let again = |params: &Params| {
                let (loss, gradients, _) =
                    self.gradients(&run.patch.with_params(params.clone()), step, &micros, None)?;
                Ok((loss, gradients))
            };
            let objective = Objective { loss, again: Some(&again) };
            match run.host.step(self.optimiser, &run.patch.params, &gradients, multiplier, objective) {
                Ok(params) => run.patch.params = params,
                // Parameters and the count of steps are as before; the watch is told below.
                Err(Error::Numeric { .. }) => finite = false,
                Err(other) => return Err(other),
            }
        }
        let mut log = run.host.report(self.optimiser);
        let rate = log.first().map(|(_, x)| *x);
        if course.growth.is_some() {
            let rows = batch.iter().map(Vec::len).sum();
            log.push(("batch_size".to_owned(), rows as f64));
            if let (Some(growth), Some(spread), true) = (tested, spread, finite) {
                log.push(("batch_wanted".to_owned(), growth.wanted(rows, &spread)));
                run.place.size = growth.next(size, rows, &spread);
            }
        }
        run.place.history.steps.push(StepLine { step, loss, multiplier, log });
        run.place.step = step;
        run.place.read += batch.len() as u64;
        match run.place.watch.observe(if finite { loss } else { f64::NAN }, rate) {
            Verdict::Collapsed => self.restart(run, loss, course)?,
            Verdict::Improved => {
                run.good = run.patch.params.clone();
                (run.place.good_step, run.place.good_read) = (step, run.place.read);
            }
            Verdict::Fine => {}
        }
        Ok(())
    }

    /// Back to the last good state with a smaller rate.
    fn restart(&self, run: &mut Run, loss: f64, course: &Course) -> Result<()> {
        let step = run.place.step;
        let fresh = run.host.restart(self.optimiser, &run.good, RESTART_SHARE)?;
        run.patch.params = run.good.clone();
        (run.place.step, run.place.read) = (run.place.good_step, run.place.good_read);
        run.place.watch.restarted();
        run.place.restarts += 1;
        let name = self.optimiser.card().name;
        if !fresh {
            return Err(Error::Numeric {
                who: name.to_owned(),
                step,
                what: format!(
                    "training collapsed (loss {loss:.3}); lower `optim.lr`, or use `dadapt_adam`, which restarts itself"
                ),
            });
        }
        if run.place.restarts > RESTARTS {
            (run.place.step, run.place.read) = (course.end(&run.place), course.total);
            run.place.history.notes.push(format!(
                "At step {step} the loss was back at {loss:.3} for the {}th time: the last good state, of step {}, is kept. Labels that nothing in the inputs tells look like this.",
                RESTARTS + 1,
                run.place.good_step
            ));
            return Ok(());
        }
        run.place.history.notes.push(format!(
            "At step {step} the loss was back at {loss:.3}, its starting level: training went back to step {} and goes on with at most a quarter of the rate.",
            run.place.good_step
        ));
        Ok(())
    }

    /// Judges held-out rows after an epoch; whether patience has run out. The best state is the one of least loss, that of a classifier being
    /// taken at the temperature that suits it: a score counts rows, so that on a few hundred of them the best of many epochs is mostly luck.
    fn validate(&self, run: &mut Run, valid: &[usize], per_epoch: u64) -> Result<bool> {
        let epoch = (run.place.read / per_epoch) as usize;
        let patch = run.patch.with_params(run.host.evaluate(self.optimiser, &run.patch.params));
        let outputs = predict_all(self.model, self.task, self.data, valid, &Pass::new(&patch))?;
        let (outputs, labels) = (outputs.iter().collect::<Vec<_>>(), self.data.labels()?.select(valid));
        let score = self.task.score(&outputs, &labels);
        run.place.history.valid.push((epoch, score));
        run.place.history.valid_steps.push(run.place.step);
        let loss = self.task.refinement(&outputs, &labels).map_or_else(|| self.mean_loss(&patch, valid), Ok)?;
        if loss.is_finite() && run.place.best.is_none_or(|(best, _)| loss < best) {
            run.place.best = Some((loss, epoch));
            run.best = patch.params;
        }
        // After a restart the epoch may lie before the best one.
        let since = epoch.saturating_sub(run.place.best.map_or(epoch, |(_, at)| at));
        Ok(self.recipe.patience.is_some_and(|patience| since >= patience))
    }

    /// The mean loss over rows.
    fn mean_loss(&self, patch: &Patch, rows: &[usize]) -> Result<f64> {
        let (mut sum, mut weight) = (0.0, 0.0);
        for rows in rows.chunks(EVALUATION_BATCH) {
            let loss = self.task.loss(self.model, self.data, rows, &Pass::new(patch))?;
            let part = self.task.weight(self.data, rows);
            sum += part * AnyTensor::from(loss).to_f64s()[0];
            weight += part;
        }
        Ok(sum / weight)
    }

    /// What a checkpoint keeps. The patch's structure is not in it: the start of the run is made anew and gives it.
    fn record(&self, run: &Run) -> RecordWriter {
        let (mut to, place) = (run.host.save(), &run.place);
        to.numbers.insert(MODEL.to_owned(), self.model.fingerprint().to_owned());
        to.params(PARAMS, &run.patch.params);
        // A good state that is the start or the present is known without being written.
        if ![0, place.step].contains(&place.good_step) {
            to.params(GOOD, &run.good);
        }
        if let Some((loss, epoch)) = place.best {
            to.params(BEST, &run.best);
            to.f64("run/best_loss", loss);
            to.u64("run/best_epoch", epoch as u64);
        }
        to.u64("run/step", place.step);
        to.u64("run/good_step", place.good_step);
        to.u64("run/read", place.read);
        to.u64("run/good_read", place.good_read);
        to.u64("run/size", place.size as u64);
        to.u64("run/restarts", place.restarts as u64);
        to.f64("run/seconds", place.seconds);
        let (epochs, scores): (Vec<f64>, Vec<f64>) = place.history.valid.iter().map(|&(k, x)| (k as f64, x)).unzip();
        to.f64s("run/valid_epochs", &epochs);
        to.f64s("run/valid_scores", &scores);
        to.f64s("run/valid_steps", &place.history.valid_steps.iter().map(|&step| step as f64).collect::<Vec<_>>());
        let mut text = |name: &str, json: serde_json::Result<String>| {
            to.numbers.insert(name.to_owned(), json.expect("numbers and text"));
        };
        text(WATCH, serde_json::to_string(&place.watch));
        text(NOTES, serde_json::to_string(&place.history.notes));
        to
    }

    /// Goes on from a checkpoint of the run that begins with `start`.
    fn resume(&self, start: Patch, left: Left) -> Result<Run> {
        let Left { file, record, steps } = left;
        self.restore(start, record, steps).map_err(|e| {
            let folder = file.parent().unwrap_or(&file).display();
            Error::format(&file, format!("{e}; to begin this stage anew, delete `{folder}`"))
        })
    }

    fn restore(&self, start: Patch, mut from: RecordReader, steps: Vec<StepLine>) -> Result<Run> {
        if from.numbers.get(MODEL).map(String::as_str) != Some(self.model.fingerprint()) {
            return Err(Error::Other("a checkpoint of another model".to_owned()));
        }
        let params = like(&start.params, &from.params(PARAMS)?)?;
        let valid = from.f64s("run/valid_epochs")?.into_iter().zip(from.f64s("run/valid_scores")?);
        let place = Place {
            step: from.u64("run/step")?,
            read: from.u64("run/read")?,
            size: from.u64("run/size")? as usize,
            history: History {
                steps,
                valid: valid.map(|(k, x)| (k as usize, x)).collect(),
                valid_steps: from.f64s("run/valid_steps")?.into_iter().map(|step| step as u64).collect(),
                notes: text(&from, NOTES)?,
            },
            watch: text(&from, WATCH)?,
            restarts: from.u64("run/restarts")? as usize,
            good_step: from.u64("run/good_step")?,
            good_read: from.u64("run/good_read")?,
            best: match from.numbers.contains_key("run/best_epoch") {
                true => Some((from.f64("run/best_loss")?, from.u64("run/best_epoch")? as usize)),
                false => None,
            },
            seconds: from.f64("run/seconds")?,
        };
        let good = match place.good_step {
            0 => start.params.clone(),
            step if step == place.step => params.clone(),
            _ => like(&start.params, &from.params(GOOD)?)?,
        };
        let best = if place.best.is_some() { like(&start.params, &from.params(BEST)?)? } else { params.clone() };
        let patch = start.with_params(params);
        let host = Host::load(self.optimiser, self.settings(), &patch, &mut from)?;
        Ok(Run { patch, host, place, good, best })
    }
}

/// A text of a checkpoint that is JSON.
fn text<T: serde::de::DeserializeOwned>(from: &RecordReader, name: &str) -> Result<T> {
    let text = from.numbers.get(name).map(String::as_str).unwrap_or_default();
    serde_json::from_str(text).map_err(|e| Error::Other(format!("`{name}` cannot be read ({e})")))
}

/// Differences named in an error.
const NAMED: usize = 3;

/// The tensors of a checkpoint in the patch's order, where they are those of the patch.
fn like(patch: &Params, found: &Params) -> Result<Params> {
    let form = |tensor: Option<&AnyTensor>| tensor.map(|tensor| (tensor.shape(), tensor.dtype()));
    let told =
        |tensor: Option<&AnyTensor>| tensor.map_or("absent".to_owned(), |t| format!("{:?} {:?}", t.dtype(), t.shape()));
    let names = patch.names().chain(found.names().filter(|name| !patch.has(name)));
    let differ: Vec<String> = names
        .map(|name| (name, patch.any(name), found.any(name)))
        .filter(|(_, here, there)| form(*here) != form(*there))
        .map(|(name, here, there)| {
            format!("`{name}` is {} in the checkpoint and {} in the patch", told(there), told(here))
        })
        .collect();
    if differ.is_empty() {
        return Ok(patch.map(|name, _| found.any(name).expect("compared above").clone()));
    }
    let more = differ.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(", and {more} more differ") };
    Err(Error::Other(format!("a checkpoint of another patch: {}{more}", differ[..NAMED.min(differ.len())].join(", "))))
}

/// What a model says about rows, in their order. Rows are visited by length, so that little is padded.
///
/// # Errors
/// The model's.
pub fn predict_all(
    model: &dyn Model,
    task: &dyn Task,
    data: &Prepared,
    rows: &[usize],
    pass: &Pass<'_>,
) -> Result<Outputs> {
    let lengths = data.left.lengths(rows);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&at| lengths[at]);
    let mut outputs = vec![vec![]; rows.len()];
    for chunk in order.chunks(EVALUATION_BATCH) {
        let batch: Vec<usize> = chunk.iter().map(|&at| rows[at]).collect();
        for (&at, output) in chunk.iter().zip(task.predict(model, data, &batch, pass)?) {
            outputs[at] = output;
        }
    }
    Ok(outputs)
}

/// The frozen features of rows, in their order.
///
/// # Errors
/// The model's.
pub fn features(model: &dyn Model, data: &Prepared, rows: &[usize]) -> Result<Outputs> {
    let mut all = vec![];
    for chunk in rows.chunks(EVALUATION_BATCH) {
        let features = model.forward(&data.left.batch(chunk, model), &Pass::bare())?.features;
        let width = features.dims()[1];
        let values = acclimate_core::AnyTensor::from(features).to_f64s();
        all.extend(values.chunks(width).map(<[f64]>::to_vec));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    fn params(shapes: &[(&str, &[usize], DType)]) -> Params {
        let mut params = Params::default();
        for (name, shape, dtype) in shapes {
            params.insert(*name, AnyTensor::zeros(shape, *dtype, &Device::flex()));
        }
        params
    }

    #[test]
    fn tensors_of_another_patch_are_named() {
        let patch = params(&[("b", &[2], DType::F32), ("a", &[3], DType::F32), ("c", &[1], DType::F32)]);
        let same = params(&[("a", &[3], DType::F32), ("b", &[2], DType::F32), ("c", &[1], DType::F32)]);
        assert_eq!(like(&patch, &same).unwrap().names().collect::<Vec<_>>(), ["b", "a", "c"]);
        let other = params(&[("a", &[4], DType::F32), ("b", &[2], DType::F64), ("d", &[1], DType::F32)]);
        assert_eq!(
            like(&patch, &other).unwrap_err().to_string(),
            "a checkpoint of another patch: `b` is F64 [2] in the checkpoint and F32 [2] in the patch, `a` is F32 [4] in the \
             checkpoint and F32 [3] in the patch, `c` is absent in the checkpoint and F32 [1] in the patch, and 1 more differ"
        );
    }
}
