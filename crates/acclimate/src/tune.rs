//! Tuning: from a recipe to a patch that is worth keeping, with a report of why.

use crate::dataset::{self, Loaded, Parts};
use crate::events;
use crate::gate::{self, Candidate, FittedProbe, Score};
use crate::page::page;
use crate::recipe::{Head, Recipe};
use crate::report::Report;
use crate::run::{Event, Manifest, RunFolder, default_folder, peak_memory_mib};
use crate::saved::Saved;
use crate::tasks::{Outputs, Prepared, Task};
use crate::train::{History, Trainer, predict_all};
use acclimate_core::{
    AnyOptimiser, Error, HeadStart, Model, Pass, Patch, Result, Rng, SiteKind, Source, find, write_whole,
};
use acclimate_data::{Assets, Examples, Labels, split};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// A model, a task and rows, ready to be tuned.
pub struct Session {
    /// The model and what encodes its inputs.
    pub loaded: Loaded,
    /// The task.
    pub task: Box<dyn Task>,
    /// The rows as they were read.
    pub parts: Parts,
    /// Encoded training rows.
    pub train: Prepared,
    /// Encoded rows to report on.
    pub test: Option<Prepared>,
    /// Rows that were left out because nothing in them can be learnt within the length.
    pub dropped: usize,
}

/// The share of the training rows that a gate without folds is judged on.
const SET_ASIDE: f64 = 0.1;

/// One candidate of the gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateResult {
    /// Who.
    pub name: Candidate,
    /// Its score inside the training rows, each row answered by a fit that has not seen it.
    pub crossfit: Option<Score>,
    /// Its score on the untouched rows.
    pub test: Option<Score>,
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Where the run is.
    pub folder: PathBuf,
    /// Rows trained on.
    pub train_rows: usize,
    /// Rows reported on.
    pub test_rows: usize,
    /// The score's name.
    pub metric: String,
    /// All candidates, the cheapest first.
    pub candidates: Vec<CandidateResult>,
    /// Who was chosen inside the training rows.
    pub chosen: Candidate,
    /// Who stands for "before" in comparisons: the model's own answers, or the probe where it has none.
    pub baseline: Candidate,
    /// Test score of the chosen minus the baseline's, with its paired interval.
    pub gain: Option<Score>,
    /// Every number about the chosen on the untouched rows.
    #[serde(deserialize_with = "crate::nan::named")]
    pub metrics: BTreeMap<String, f64>,
    /// The same numbers about the baseline.
    #[serde(deserialize_with = "crate::nan::named")]
    pub baseline_metrics: BTreeMap<String, f64>,
    /// Trained numbers of the patch.
    pub trained: usize,
    /// What went wrong during training and what was done about it.
    pub notes: Vec<String>,
    /// What it took.
    pub cost: Cost,
}

/// What a run took. All else in a result follows from the recipe; this differs from run to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds of training, in the folds and in the final fit, over all processes that worked on it.
    pub training_seconds: f64,
    /// The most memory that the last process held, in MiB, where the system tells.
    pub peak_memory_mib: Option<f64>,
}

impl Session {
    /// Opens everything a recipe names.
    ///
    /// # Errors
    /// Anything wrong with the model, the data or the columns.
    pub fn open(recipe: &Recipe) -> Result<Self> {
        // A wrong setting is told before anything is fetched or read.
        optimiser(recipe)?;
        acclimate_peft::build(&recipe.adapter.method, &recipe.adapter.settings)?;
        let assets = Assets::open(recipe.offline)?;
        let opened = dataset::open(&recipe.data, recipe, &assets)?;
        let (all, spec) = dataset::labelled(&opened, recipe)?;
        let test = match &recipe.test {
            Some(name) => {
                let fixed = Recipe {
                    task: spec.kind,
                    classes: (!spec.names.is_empty()).then(|| spec.names.clone()),
                    ..recipe.clone()
                };
                Some(dataset::labelled(&dataset::open(name, recipe, &assets)?, &fixed)?.0)
            }
            None => None,
        };
        let loaded = Loaded::open(&recipe.model, recipe.base, recipe.max_length, &assets)?;
        if spec.kind.is_text() && loaded.model.vocabulary().is_none() {
            return Err(Error::Unsupported {
                who: recipe.model.clone(),
                what: "say how likely a word is".to_owned(),
                instead: "choose a model that reads from left to right, such as `asset:smollm2`, or name a target column with `target`"
                    .to_owned(),
            });
        }
        let (all, mut dropped) = loaded.readable(all, spec.kind)?;
        let test = match test {
            Some(test) => {
                let (test, more) = loaded.readable(test, spec.kind)?;
                dropped += more;
                Some(test)
            }
            None => None,
        };
        let parts = dataset::divide(all, test, recipe)?;
        if recipe.class_balance && !matches!(parts.train.labels, Labels::Classes { .. }) {
            return Err(Error::Other(
                "`class_balance` is for tasks with one class per row; leave it out here".to_owned(),
            ));
        }
        let task = dataset::fit_task(spec, &parts.train.labels, recipe.class_balance);
        if recipe.batch.test.is_some() && task.is_relative() {
            return Err(Error::Other(
                "`batch.test` needs a loss that is a mean over rows, and here rows are judged beside each other; leave it out"
                    .to_owned(),
            ));
        }
        let train = loaded.prepare(&parts.train, task.kind())?;
        let test = parts.test.as_ref().map(|test| loaded.prepare(test, task.kind())).transpose()?;
        Ok(Self { loaded, task, parts, train, test, dropped })
    }

    /// The frozen model.
    pub fn model(&self) -> &dyn Model {
        self.loaded.model.as_ref()
    }

    /// The patch before the first step on so many of the training rows.
    ///
    /// # Errors
    /// An unknown method, a bad setting, or targets that match nothing.
    pub fn start(&self, recipe: &Recipe, rows: &[usize]) -> Result<Patch> {
        self.start_for(self.task.as_ref(), recipe, rows)
    }

    /// As [`Session::start`], for a task whose scale other rows told.
    fn start_for(&self, task: &dyn Task, recipe: &Recipe, rows: &[usize]) -> Result<Patch> {
        let model = self.model();
        let own = gate::own_head(model, task);
        let head = recipe.head.unwrap_or(if own { Head::Probe } else { Head::Zero });
        let mut patch = Patch::new();
        // The head comes first: adapters pass over a head of the model that is not used.
        if let Some(outputs) = task.outputs().filter(|_| !(own && head == Head::Own)) {
            let start = if head == Head::Random { HeadStart::Random } else { HeadStart::Zero };
            patch.add_head(model, outputs, start, &mut Rng::new(recipe.seed, "head", 0));
            let probe = match head {
                Head::Probe => FittedProbe::new(model, task, &self.train, rows, recipe.seed)?,
                Head::Zero | Head::Random | Head::Own => None,
            };
            if let Some(probe) = probe {
                probe.write(model, &mut patch);
            }
        }
        let method = &recipe.adapter.method;
        let adapter = acclimate_peft::build(method, &recipe.adapter.settings)?;
        let mut rng = Rng::new(recipe.seed, "patch", 0);
        acclimate_peft::place(&mut patch, model, method, adapter, recipe.adapter.targets.as_ref(), &mut rng)?;
        Ok(patch)
    }

    /// MiB that training is expected to hold: weights, patch with its optimiser state, and activations of a batch.
    pub fn memory_estimate_mib(&self, recipe: &Recipe, patch: &Patch) -> f64 {
        let rows = recipe.rows_per_step(self.task.kind()).div_ceil(recipe.accumulate);
        let longest =
            self.train.left.lengths(&(0..self.train.left.len()).collect::<Vec<_>>()).into_iter().max().unwrap_or(1);
        let positions = match self.model().image() {
            Some([_, height, width]) => rows * height * width,
            None => rows * longest,
        };
        let widths: usize = self
            .model()
            .sites()
            .iter()
            .filter(|site| site.kind != SiteKind::Embedding)
            .map(|site| site.out + site.input.min(site.out))
            .sum();
        let numbers = self.model().weights().count() + 7 * patch.params.count() + positions * widths;
        numbers as f64 * 4.0 / f64::from(1 << 20)
    }

    fn manifest(&self, recipe: &Recipe) -> Result<Manifest> {
        Ok(Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: recipe.clone(),
            model: self.model().fingerprint().to_owned(),
            train: hash_examples(&self.parts.train)?,
            test: self.parts.test.as_ref().map(hash_examples).transpose()?,
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }
}

/// Hashes what is written to it; the text of large data is never held.
struct Hashing(Sha256);

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn hash_examples(examples: &Examples) -> Result<String> {
    let mut hash = Hashing(Sha256::new());
    // A path that is not Unicode has no JSON.
    serde_json::to_writer(&mut hash, examples).map_err(|e| Error::Other(format!("the rows cannot be hashed: {e}")))?;
    Ok(hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Builds an optimiser from a recipe's section.
///
/// # Errors
/// An unknown method or a bad setting.
pub fn optimiser(recipe: &Recipe) -> Result<Box<dyn AnyOptimiser>> {
    find(acclimate_optim::METHODS, &recipe.optim.method)?.build(&recipe.optim.settings)
}

/// Answers of one fold, kept so that an interrupted run does not fit it again.
#[derive(Serialize, Deserialize)]
struct FoldAnswers {
    #[serde(deserialize_with = "crate::nan::some_rows")]
    probe: Option<Outputs>,
    #[serde(deserialize_with = "crate::nan::rows")]
    patch: Outputs,
    notes: Vec<String>,
    seconds: f64,
}

/// Runs a recipe to its end, or until `stop` is set; then nothing is returned and the same call goes on.
///
/// # Errors
/// Anything wrong with the recipe, the model, the data, the numbers or the disk.
pub fn tune(recipe: &Recipe, stop: &AtomicBool, on: &mut dyn FnMut(Event<'_>)) -> Result<Option<Summary>> {
    let session = Session::open(recipe)?;
    Ok(run(&session, recipe, stop, on)?.map(|finished| finished.summary))
}

/// A run that came to its end.
pub struct Finished {
    /// What it found.
    pub summary: Summary,
    /// The page it wrote.
    pub report: Report,
    /// The patch that was kept.
    pub patch: Patch,
}

/// As [`tune`], on rows that are open already.
///
/// # Errors
/// As [`tune`].
pub fn run(
    session: &Session,
    recipe: &Recipe,
    stop: &AtomicBool,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Finished>> {
    let (model, task, data) = (session.model(), session.task.as_ref(), &session.train);
    let optimiser = optimiser(recipe)?;
    let all: Vec<usize> = (0..data.left.len()).collect();
    let patch = session.start(recipe, &all)?;
    let folder = RunFolder::open(recipe.out.as_deref().unwrap_or(&default_folder(recipe)), recipe)?;
    folder.begin(&session.manifest(recipe)?)?;
    let (n, tested) = (data.left.len(), session.test.as_ref().map_or(0, |test| test.left.len()));
    on(Event::Note(&format!(
        "{n} rows to train on, {tested} untouched rows to report on; {} trained numbers; about {:.0} MiB expected",
        patch.params.count(),
        session.memory_estimate_mib(recipe, &patch)
    )));
    if data.left.truncated > 0 {
        on(Event::Note(&format!(
            "{} training rows are longer than {} tokens and were cut (`max_length`)",
            data.left.truncated, recipe.max_length
        )));
    }
    if session.dropped > 0 {
        let (rows, length) = (session.dropped, recipe.max_length);
        on(Event::Note(&format!(
            "{rows} rows have no word to learn within {length} tokens and were left out (`max_length`)"
        )));
    }
    let trainer = Trainer { model, task, data, recipe, optimiser: optimiser.as_ref(), normaliser: &Source, stop };
    let labels = data.labels()?;
    let (mut notes, mut training_seconds) = (vec![], 0.0);
    // A share of the rows at hand may be set aside for early stopping, in a fold as in the final fit: the gate judges what is kept.
    let divided = |rows: &[usize]| -> Result<(Vec<usize>, Vec<usize>)> {
        if recipe.valid_share == 0.0 {
            return Ok((rows.to_vec(), vec![]));
        }
        let split = split::stratified(&labels.select(rows).strata(), recipe.valid_share, recipe.seed)?;
        let pick = |part: Vec<usize>| part.into_iter().map(|at| rows[at]).collect();
        Ok((pick(split.train), pick(split.held_out)))
    };

    // Inside the training rows: every row that is judged on is answered by fits that have not seen it.
    let mut crossfit: BTreeMap<Candidate, Outputs> = BTreeMap::new();
    let mut fold_of = vec![0; n];
    let folds = recipe.folds(task.kind());
    let apart = (folds == 1).then(|| split::stratified(&labels.strata(), SET_ASIDE, recipe.seed)).transpose()?;
    if folds > 1 {
        let folds = split::folds(&labels.strata(), folds, recipe.seed)?;
        let mut empty = |candidate| crossfit.insert(candidate, vec![vec![]; n]);
        empty(Candidate::Unadapted);
        empty(Candidate::Patch);
        for (k, fold) in folds.iter().enumerate() {
            fold.held_out.iter().for_each(|&row| fold_of[row] = k);
            let name = format!("checkpoints/fold-{k}/answers.json");
            let answers = match folder.read_json::<FoldAnswers>(&name)? {
                Some(answers) => answers,
                None => {
                    let stage = format!("fold {} of {}", k + 1, folds.len());
                    let place = folder.file(&format!("checkpoints/fold-{k}"));
                    // Class weights and the scale of numbers are told by the fold's own rows.
                    let own = dataset::fit_task(task.spec(), &labels.select(&fold.train), recipe.class_balance);
                    let trainer = Trainer { task: own.as_ref(), ..trainer };
                    let (train_rows, valid_rows) = divided(&fold.train)?;
                    let trained = trainer.train(
                        session.start_for(own.as_ref(), recipe, &train_rows)?,
                        &train_rows,
                        &valid_rows,
                        &stage,
                        Some(&place),
                        &mut |progress| on(Event::Step(progress)),
                    )?;
                    if trained.interrupted {
                        return Ok(None);
                    }
                    let own = own.as_ref();
                    let probe = FittedProbe::new(model, own, data, &fold.train, recipe.seed)?;
                    let answers = FoldAnswers {
                        probe: probe.map(|probe| probe.predict(model, own, data, &fold.held_out)).transpose()?,
                        patch: predict_all(model, own, data, &fold.held_out, &Pass::new(&trained.patch))?,
                        notes: trained.history.notes.iter().map(|note| format!("{stage}: {note}")).collect(),
                        seconds: trained.seconds,
                    };
                    folder.write_json(&name, &answers)?;
                    answers
                }
            };
            notes.extend(answers.notes);
            training_seconds += answers.seconds;
            let before = gate::unadapted(model, task, data, &fold.held_out, &labels.select(&fold.train))?;
            let mut put = |candidate: Candidate, outputs: Outputs| {
                let all = crossfit.entry(candidate).or_insert_with(|| vec![vec![]; n]);
                fold.held_out.iter().zip(outputs).for_each(|(&row, output)| all[row] = output);
            };
            put(Candidate::Unadapted, before);
            put(Candidate::Patch, answers.patch);
            if let Some(probe) = answers.probe {
                put(Candidate::Probe, probe);
            }
        }
    }
    // The final fit, on all training rows but those set aside.
    let rest = apart.as_ref().map_or(&all, |split| &split.train);
    let (train_rows, valid_rows) = divided(rest)?;
    let place = folder.file("checkpoints/final");
    let patch = if train_rows.len() == n { patch } else { session.start(recipe, &train_rows)? };
    let trained = trainer
        .train(patch, &train_rows, &valid_rows, "final", Some(&place), &mut |progress| on(Event::Step(progress)))?;
    if trained.interrupted {
        return Ok(None);
    }
    notes.extend(trained.history.notes.clone());
    training_seconds += trained.seconds;
    let probe = FittedProbe::new(model, task, data, rest, recipe.seed)?;
    let inside: Vec<(Candidate, Score)> = match &apart {
        Some(split) => {
            let (rows, judged) = (&split.held_out, labels.select(&split.held_out));
            let mut answers =
                vec![(Candidate::Unadapted, gate::unadapted(model, task, data, rows, &labels.select(rest))?)];
            if let Some(probe) = &probe {
                answers.push((Candidate::Probe, probe.predict(model, task, data, rows)?));
            }
            answers.push((Candidate::Patch, predict_all(model, task, data, rows, &Pass::new(&trained.patch))?));
            answers.iter().map(|(c, outputs)| (*c, gate::score(task, outputs, &judged, recipe.seed))).collect()
        }
        None => crossfit
            .iter()
            .map(|(c, outputs)| (*c, gate::crossfit_score(task, outputs, labels, &fold_of, recipe.seed)))
            .collect(),
    };
    let chosen = if inside.is_empty() { Candidate::Patch } else { gate::choose(&inside) };
    let keep = match (chosen, &probe) {
        (Candidate::Unadapted, _) => gate::unadapted_patch(model, task, labels),
        (Candidate::Probe, Some(probe)) => probe.patch(model),
        _ => trained.patch.clone(),
    };

    // On the untouched rows.
    let mut outside: BTreeMap<Candidate, Outputs> = BTreeMap::new();
    if let Some(test) = &session.test {
        let rows: Vec<usize> = (0..test.left.len()).collect();
        outside.insert(Candidate::Unadapted, gate::unadapted(model, task, test, &rows, labels)?);
        if let Some(probe) = &probe {
            outside.insert(Candidate::Probe, probe.predict(model, task, test, &rows)?);
        }
        outside.insert(Candidate::Patch, predict_all(model, task, test, &rows, &Pass::new(&trained.patch))?);
    }
    let baseline = if gate::own_head(model, task) || probe.is_none() { Candidate::Unadapted } else { Candidate::Probe };
    let test_labels = session.test.as_ref().map(|test| test.labels()).transpose()?;
    let candidates = [Candidate::Unadapted, Candidate::Probe, Candidate::Patch]
        .into_iter()
        .filter(|c| inside.iter().any(|(name, _)| name == c) || outside.contains_key(c))
        .map(|name| CandidateResult {
            name,
            crossfit: inside.iter().find(|(c, _)| *c == name).map(|(_, score)| *score),
            test: outside
                .get(&name)
                .zip(test_labels)
                .map(|(outputs, labels)| gate::score(task, outputs, labels, recipe.seed)),
        })
        .collect();
    let gain = test_labels.and_then(|labels| {
        let (after, before) = (outside.get(&chosen)?, outside.get(&baseline)?);
        Some(gate::difference(task, after, before, labels, recipe.seed))
    });
    let metrics = |candidate: Candidate| -> BTreeMap<String, f64> {
        let told = test_labels.zip(outside.get(&candidate));
        let told = told.map(|(labels, outputs)| task.metrics(&outputs.iter().collect::<Vec<_>>(), labels));
        told.unwrap_or_default().into_iter().collect()
    };
    let summary = Summary {
        folder: folder.path().to_owned(),
        train_rows: n,
        test_rows: tested,
        metric: task.metric().to_owned(),
        candidates,
        chosen,
        baseline,
        gain,
        metrics: metrics(chosen),
        baseline_metrics: metrics(baseline),
        trained: keep.params.count(),
        notes,
        cost: Cost { training_seconds, peak_memory_mib: peak_memory_mib() },
    };
    Saved::describe(recipe, task, &session.loaded).write(&folder.file("patch"), &keep, session.model())?;
    write_metrics(&folder, &trained.history)?;
    let events = events::to_bytes(&trained.history, task.metric());
    write_whole(&folder.file(events::FILE), &events)?;
    let report = page(session, recipe, &summary, &trained.history, &outside);
    report.write(&folder.file("report.html"))?;
    folder.write_json("result.json", &summary)?;
    folder.finish()?;
    Ok(Some(Finished { summary, report, patch: keep }))
}

fn write_metrics(folder: &RunFolder, history: &History) -> Result<()> {
    let lines: Vec<String> = history.steps.iter().filter_map(|line| serde_json::to_string(line).ok()).collect();
    write_whole(&folder.file("metrics.jsonl"), (lines.join("\n") + "\n").as_bytes())
}
