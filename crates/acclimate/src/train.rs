//! Training one patch: batches, steps, the watch for collapse, early stopping, checkpoints that resume bit for bit.

use crate::recipe::Recipe;
use crate::tasks::{Outputs, Prepared, Task};
use acclimate_core::{AnyOptimiser, Error, Model, Normaliser, Params, Pass, Patch, Result, write_whole};
use acclimate_data::split;
use acclimate_optim::{Accumulator, CollapseWatch, Host, HostSettings, Verdict};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows per forward when nothing is trained.
const EVALUATION_BATCH: usize = 64;

/// How often a collapsed run starts again before the best state is kept as it is.
const RESTARTS: usize = 3;

/// After a collapse the optimiser's own rate is held below this share of what it had reached.
const RESTART_SHARE: f64 = 0.25;

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
    /// What the optimiser reports, such as d.
    #[serde(deserialize_with = "crate::nan::pairs")]
    pub log: Vec<(String, f64)>,
}

/// Everything worth drawing about a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Steps in order; those of a collapsed stretch are kept.
    pub steps: Vec<StepLine>,
    /// Held-out score after each epoch, where rows are held out.
    #[serde(deserialize_with = "crate::nan::pairs")]
    pub valid: Vec<(usize, f64)>,
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
    /// Steps in all.
    pub total: u64,
    /// The last step.
    pub line: &'a StepLine,
}

/// What a run ended with.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The patch: the last state, or the best one where rows were held out.
    pub patch: Patch,
    /// The course of the run.
    pub history: History,
    /// Whether the run was interrupted; its checkpoint resumes it.
    pub interrupted: bool,
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
    /// Builds an adapter again when a checkpoint is read.
    pub build: &'a dyn Fn(&str, &toml::Table) -> Result<acclimate_core::Adapter>,
    /// Set to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// What a checkpoint keeps besides tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    step: u64,
    history: History,
    watch: CollapseWatch,
    restarts: usize,
    good_step: u64,
    best: Option<(f64, usize)>,
}

struct Run {
    patch: Patch,
    host: Host,
    place: Place,
    /// Parameters to return to after a collapse.
    good: Params,
    /// Parameters of the best held-out score.
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
        // `old` is whole where a crash fell between the two renames of a save.
        let left = folder.and_then(|folder| {
            ["last", "old"].map(|name| folder.join(name)).into_iter().find(|at| at.join("place.json").exists())
        });
        let mut run = match left {
            Some(checkpoint) => self.resume(&checkpoint)?,
            None => self.begin(start)?,
        };
        let mut epoch_batches: Option<(u64, Vec<Vec<usize>>)> = None;
        while run.place.step < total {
            let epoch = run.place.step / per_epoch;
            if epoch_batches.as_ref().is_none_or(|(e, _)| *e != epoch) {
                epoch_batches = Some((epoch, split::buckets(&lengths, per_step, recipe.seed, epoch)));
            }
            let batches = &epoch_batches.as_ref().expect("set above").1;
            let batch: Vec<usize> = batches[(run.place.step % per_epoch) as usize].iter().map(|&at| rows[at]).collect();
            self.step(&mut run, &batch, total)?;
            let line = run.place.history.steps.last().expect("a step was just made");
            report(Progress { stage, step: run.place.step, total, line });
            let ended = run.place.step > 0 && run.place.step.is_multiple_of(per_epoch);
            if ended && !valid.is_empty() && self.validate(&mut run, valid, per_epoch)? {
                break;
            }
            let interrupted = self.stop.load(Ordering::Relaxed);
            if let Some(folder) = folder.filter(|_| ended || interrupted) {
                self.save(&run, folder)?;
            }
            if interrupted && run.place.step < total {
                return Ok(Trained { patch: run.patch, history: run.place.history, interrupted: true });
            }
        }
        let params =
            if run.place.best.is_some() { run.best } else { run.host.evaluate(self.optimiser, &run.patch.params) };
        Ok(Trained { patch: run.patch.with_params(params), history: run.place.history, interrupted: false })
    }

    fn settings(&self) -> HostSettings {
        HostSettings {
            weight_decay: self.recipe.optim.weight_decay,
            clip: self.recipe.optim.clip,
            ..HostSettings::default()
        }
    }

    fn begin(&self, patch: Patch) -> Result<Run> {
        let host = Host::new(self.optimiser, self.settings(), &patch)?;
        let place = Place {
            step: 0,
            history: History::default(),
            watch: CollapseWatch::default(),
            restarts: 0,
            good_step: 0,
            best: None,
        };
        Ok(Run { good: patch.params.clone(), best: patch.params.clone(), patch, host, place })
    }

    /// The mean loss over a batch and its gradients, in micro-batches.
    fn gradients(&self, patch: &Patch, batch: &[usize], step: u64) -> Result<(f64, Params)> {
        let size = batch.len().div_ceil(self.recipe.accumulate.min(batch.len()));
        let mut sum = Accumulator::default();
        for (part, micro) in batch.chunks(size).enumerate() {
            let tracked = patch.tracked();
            let draw = step * self.recipe.accumulate as u64 + part as u64;
            let pass = Pass::new(&tracked).dropout(self.recipe.seed, draw).normaliser(self.normaliser);
            let mut loss = self.task.loss(self.model, self.data, micro, &pass)?;
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
            sum.add(gradients, value, self.task.weight(self.data, micro));
        }
        sum.finish()
    }

    fn step(&self, run: &mut Run, batch: &[usize], total: u64) -> Result<()> {
        let step = run.place.step + 1;
        let (loss, gradients) = self.gradients(&run.patch, batch, step)?;
        let multiplier = self.recipe.schedule.at(step, total, self.recipe.warmup);
        let mut finite = loss.is_finite() && gradients.is_finite();
        if finite {
            match run.host.step(self.optimiser, &run.patch.params, &gradients, multiplier, loss) {
                Ok(params) => run.patch.params = params,
                // The host has changed nothing; the watch is told below.
                Err(Error::Numeric { .. }) => finite = false,
                Err(other) => return Err(other),
            }
        }
        let log: Vec<(String, f64)> =
            run.host.report(self.optimiser).into_iter().map(|(name, x)| (name.to_owned(), x)).collect();
        let rate = log.first().map(|(_, x)| *x);
        run.place.history.steps.push(StepLine { step, loss, multiplier, log });
        run.place.step = step;
        match run.place.watch.observe(if finite { loss } else { f64::NAN }, rate) {
            Verdict::Collapsed => self.restart(run, loss, total)?,
            Verdict::Improved => {
                run.good = run.patch.params.clone();
                run.place.good_step = step;
            }
            Verdict::Fine => {}
        }
        Ok(())
    }

    /// Back to the last good state with a smaller rate.
    fn restart(&self, run: &mut Run, loss: f64, total: u64) -> Result<()> {
        let step = run.place.step;
        let fresh = run.host.restart(self.optimiser, &run.good, RESTART_SHARE)?;
        run.patch.params = run.good.clone();
        run.place.step = run.place.good_step;
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
            run.place.step = total;
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

    /// Scores held-out rows after an epoch; whether patience has run out.
    fn validate(&self, run: &mut Run, valid: &[usize], per_epoch: u64) -> Result<bool> {
        let epoch = (run.place.step / per_epoch) as usize;
        let patch = run.patch.with_params(run.host.evaluate(self.optimiser, &run.patch.params));
        let outputs = predict_all(self.model, self.task, self.data, valid, &Pass::new(&patch))?;
        let score = self.task.score(&outputs.iter().collect::<Vec<_>>(), &self.data.labels()?.select(valid));
        run.place.history.valid.push((epoch, score));
        // Rows that define no score, such as a single number, tell nothing about which state is best.
        if !score.is_nan() && run.place.best.is_none_or(|(best, _)| score > best) {
            run.place.best = Some((score, epoch));
            run.best = patch.params;
        }
        // After a restart the epoch may lie before the best one.
        let since = epoch.saturating_sub(run.place.best.map_or(epoch, |(_, at)| at));
        Ok(self.recipe.patience.is_some_and(|patience| since >= patience))
    }

    /// Writes the checkpoint beside the last one and swaps them.
    fn save(&self, run: &Run, folder: &Path) -> Result<()> {
        let next = folder.join("next");
        if next.exists() {
            std::fs::remove_dir_all(&next).map_err(|e| Error::io(&next, e))?;
        }
        run.patch.save(&next.join("patch"))?;
        run.patch.with_params(run.good.clone()).save(&next.join("good"))?;
        run.patch.with_params(run.best.clone()).save(&next.join("best"))?;
        run.host.save(&next.join("optimiser"))?;
        let text = serde_json::to_string(&run.place).expect("numbers and text");
        write_whole(&next.join("place.json"), text.as_bytes())?;
        let (last, old) = (folder.join("last"), folder.join("old"));
        let swap = || -> std::io::Result<()> {
            // Only one of the two is there before `last` is moved: at every moment one is whole.
            if last.exists() {
                if old.exists() {
                    std::fs::remove_dir_all(&old)?;
                }
                std::fs::rename(&last, &old)?;
            }
            std::fs::rename(&next, &last)?;
            if old.exists() {
                std::fs::remove_dir_all(&old)?;
            }
            Ok(())
        };
        swap().map_err(|e| Error::io(&last, e))
    }

    fn resume(&self, last: &Path) -> Result<Run> {
        let file: PathBuf = last.join("place.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let place: Place = serde_json::from_str(&text).map_err(|e| Error::format(&file, e.to_string()))?;
        let device = self.model.like().1;
        let read = |name: &str| Patch::load(&last.join(name), &device, self.build);
        let patch = read("patch")?;
        patch.check_base(self.model)?;
        let host = Host::load(self.optimiser, self.settings(), &patch, &last.join("optimiser"))?;
        let in_order = |other: Params| -> Result<Params> {
            let mut params = Params::default();
            for name in patch.params.names() {
                params.insert(
                    name,
                    other.any(name).ok_or_else(|| Error::format(last, format!("tensor `{name}` is missing")))?.clone(),
                );
            }
            Ok(params)
        };
        Ok(Run { good: in_order(read("good")?.params)?, best: in_order(read("best")?.params)?, patch, host, place })
    }
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

    #[test]
    fn a_checkpoint_keeps_losses_that_are_no_numbers() {
        let log = vec![("d".to_owned(), f64::INFINITY)];
        let history = History {
            steps: vec![StepLine { step: 1, loss: f64::NAN, multiplier: 0.1, log }],
            valid: vec![(1, f64::NAN), (2, 0.3)],
            notes: vec![],
        };
        let text = serde_json::to_string(&history).unwrap();
        let again: History = serde_json::from_str(&text).unwrap();
        assert!(again.steps[0].loss.is_nan() && again.valid[0].1.is_nan());
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}
