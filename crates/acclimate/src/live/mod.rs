//! A deployed classifier on a stream: frames in, answers out as they come, a state to go on from and a report at the end.

mod answers;
mod folder;
mod gather;
mod page;
mod source;
mod subject;

use crate::checkpoint::Pace;
use crate::run::peak_memory_mib;
use crate::tasks::{argmax, host as rows_of, softmax};
use acclimate_core::{Error, Inputs, Need, Patch, Result, Rng, Targets, find};
use acclimate_data::Assets;
use acclimate_models::Base;
use acclimate_tta::{AnyTestTime, Audit, Counts, Event, GateSettings, Gated, Host, Reset, Stream, Watch};
use answers::Answers;
use burn::tensor::Tensor;
use folder::{Folder, Growing};
use gather::{Batch, Found, Gatherer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub use subject::Subject;

/// The optimiser of methods that want one, and its rate where it wants one.
const OPTIMISER: (&str, f64) = ("adamw", 1e-3);

/// Bad frames that are told one by one.
const TOLD: u64 = 10;

/// What the answers of a stream depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The frames: a folder of images, an `.npz`, a table, `asset:NAME`, or `-` for standard input.
    pub data: Option<String>,
    /// A run whose patch is deployed.
    pub run: Option<PathBuf>,
    /// The model, where there is no run or it has moved since.
    pub model: Option<String>,
    /// How its matrices are held.
    pub base: Base,
    /// Saved logits of a foreign model in place of frames and model.
    pub logits: Option<PathBuf>,
    /// Saved features of a foreign model.
    pub features: Option<PathBuf>,
    /// The method.
    pub method: String,
    /// Its settings.
    pub settings: toml::Table,
    /// The method of the patch that adapts, where it is not the method's own choice.
    pub adapter: Option<String>,
    /// Where that patch goes.
    pub targets: Option<Targets>,
    /// The optimiser, where it is not the usual one.
    pub optim: Option<String>,
    /// Its settings.
    pub optim_settings: toml::Table,
    /// Frames answered at a time.
    pub batch: usize,
    /// When adaptation starts anew.
    pub reset: Reset,
    /// The gate, where there is one: the deployed model stays a candidate for every batch.
    pub gate: Option<GateSettings>,
    /// Whether predictions are watched for a collapse where there is no gate.
    pub watch: bool,
    /// A method whose statistics the batch norms take.
    pub statistics: Option<String>,
    /// Its settings.
    pub statistics_settings: toml::Table,
    /// Rows like those the model was trained on.
    pub reference: Option<String>,
    /// How many of them are used.
    pub reference_rows: usize,
    /// The column with the text.
    pub text: Option<String>,
    /// The column with image paths.
    pub image: Option<String>,
    /// The column with the class, for scoring alone.
    pub target: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            data: None,
            run: None,
            model: None,
            base: Base::default(),
            logits: None,
            features: None,
            method: String::new(),
            settings: toml::Table::new(),
            adapter: None,
            targets: None,
            optim: None,
            optim_settings: toml::Table::new(),
            batch: 64,
            reset: Reset::Never,
            gate: Some(GateSettings::default()),
            watch: true,
            statistics: None,
            statistics_settings: toml::Table::new(),
            reference: None,
            reference_rows: 1024,
            text: None,
            image: None,
            target: None,
        }
    }
}

/// Where a stream is written and how it is kept; no answer depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The folder for state, report and answers.
    pub out: Option<PathBuf>,
    /// The file for the answers, `.csv` or `.jsonl`.
    pub answers: Option<PathBuf>,
    /// Batches between two states; without it as often as that takes at most a fiftieth of the time.
    pub checkpoint: Option<usize>,
    /// Whether frames that cannot be used are left out and counted.
    pub skip_bad: bool,
    /// Whether the frames are those of this moment: a restart goes on with what comes and leaves the answers as they are.
    pub live: bool,
    /// Whether nothing may be fetched.
    pub offline: bool,
    /// Whether answers on standard output are JSON lines.
    pub json: bool,
}

/// What a stream was made from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// Version of acclimate.
    pub version: String,
    /// What the answers depend on.
    pub plan: Plan,
    /// The file for the answers, where one was named.
    pub answers: Option<PathBuf>,
    /// SHA-256 of the model's weights.
    pub model: String,
    /// SHA-256 of the deployed patch's tensors.
    pub patch: Option<String>,
}

/// What has happened so far; saved with the state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// Batches answered.
    pub batches: u64,
    /// Frames answered.
    pub frames: u64,
    /// Frames read from the source, bad ones included.
    pub read: usize,
    /// Frames left out because they could not be used.
    pub skipped: u64,
    /// What the last of those is called.
    pub last: Option<String>,
    /// How often each class was answered.
    pub predicted: Vec<u64>,
    /// Frames whose class is known.
    pub labelled: u64,
    /// Those of them that were answered otherwise.
    pub wrong: u64,
    /// The mean entropy of an answer.
    pub entropy: f64,
    /// Milliseconds in all batches, from inputs to answers.
    pub milliseconds: f64,
    /// How often adaptation started anew.
    pub resets: u64,
    /// Events told.
    pub events: u64,
    /// SHA-256 over all answered frames, chained from batch to batch.
    pub sha256: String,
    /// Bytes of the files of answers, batches and events.
    pub bytes: [u64; 3],
    /// What moves, with the first gradients.
    pub audit: Option<Audit>,
}

/// One batch, as `batches.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, counted from one.
    pub batch: u64,
    /// Frames in it.
    pub frames: u64,
    /// Mean entropy of its answers.
    pub entropy: f64,
    /// Milliseconds from inputs to answers.
    pub milliseconds: f64,
    /// Passes through the model for the method.
    pub forwards: u64,
    /// Passes back.
    pub backwards: u64,
    /// Frames whose class is known.
    pub labelled: u64,
    /// Those of them that were answered otherwise.
    pub wrong: u64,
}

/// An event, as `events.jsonl` has it.
#[derive(Serialize)]
struct Happened<'a> {
    #[serde(flatten)]
    what: &'a Event,
    text: String,
}

/// A finished stream.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What it was made from.
    pub about: About,
    /// The optimiser with all settings, where there is one.
    pub optimiser: Option<(String, toml::Table)>,
    /// What happened.
    pub book: Book,
    /// The share of frames that were answered wrongly, where classes are known.
    pub error: Option<f64>,
    /// What it cost.
    pub counts: Counts,
    /// The most memory the process has held, in MiB, where the system tells.
    pub peak_memory_mib: Option<f64>,
    /// The folder.
    pub folder: Option<PathBuf>,
}

/// What a stream tells on its way.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A sentence for the user.
    Note(&'a str),
    /// A batch was answered.
    Batch(&'a Line, &'a Book),
}

/// Runs a stream to its end; nothing where `stop` was set. Answers go to the file that the options name, to one in their folder, or to
/// `stdout`.
///
/// # Errors
/// A model, method, source or folder that does not fit, a frame that cannot be used, and what the disk refuses.
pub fn run(
    plan: &Plan,
    options: &Options,
    stdout: &mut dyn Write,
    stop: &'static AtomicBool,
    on: &mut dyn FnMut(Told<'_>),
) -> Result<Option<Outcome>> {
    if plan.batch == 0 {
        return Err(Error::Other("a batch of no frames is never full; give `--batch` at least 1".to_owned()));
    }
    let assets = Assets::open(options.offline)?;
    let method = find(acclimate_tta::METHODS, &plan.method)?.build(&plan.settings)?;
    let card = method.card();
    if card.needs(Need::Text) {
        return Err(Error::Unsupported {
            who: card.name.to_owned(),
            what: "follow a stream of frames: it reads a text".to_owned(),
            instead: "use `acclimate eval --adapt`".to_owned(),
        });
    }
    let subject = Subject::open(plan, &assets)?;
    let model = subject.model();
    let frames = source::frames(plan, &subject, &assets, stop)?;
    let mut gatherer = Gatherer::new(frames, &subject, options.skip_bad)?;
    let patch = adapting(plan, &subject, method.trains_any().adapter())?;
    let (reference, labels) = source::reference(plan, &subject, &assets, stop)?;
    let optimiser = optimiser(plan, card.needs(Need::Optimiser), card.name)?;
    let statistics = match &plan.statistics {
        Some(name) => Some(find(acclimate_tta::METHODS, name)?.build(&plan.statistics_settings)?),
        None => None,
    };
    let mut host = Host::new(model, patch)?.reference(&reference);
    if !labels.is_empty() {
        host = host.labels(&labels)?;
    }
    if let Some(tuned) = subject.tuned() {
        host = host.over(tuned)?;
    }
    if let Some(optimiser) = &optimiser {
        host = host.optimiser(optimiser.as_ref())?;
    }
    if let Some(statistics) = &statistics {
        host = host.statistics(statistics.as_ref())?;
    }
    let gated = plan.gate.as_ref().map(|settings| Gated::new(method.as_ref(), settings.clone())).transpose()?;
    let outer = gated.as_ref().map_or(method.as_ref(), |gated| gated as &dyn AnyTestTime);
    let mut stream = Stream::new(outer, host, plan.reset)?;
    if plan.watch && gated.is_none() {
        stream = stream.watch(Watch::default());
    }
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plan: plan.clone(),
        answers: options.answers.clone(),
        model: model.fingerprint().to_owned(),
        patch: subject.tuned().map(|patch| patch.params.fingerprint()),
    };
    let mut folder = options.out.as_deref().map(|out| Folder::open(out, &about, options.live)).transpose()?;
    let left = folder.as_ref().map(|folder| folder.left(&model.like().1)).transpose()?.flatten();
    let book = match left {
        Some((book, record)) => {
            stream.restore(record)?;
            if !options.live {
                gatherer.pass_over(book.read, book.last.as_deref())?;
            }
            on(Told::Note(&format!("goes on after batch {}, {} frames", book.batches, book.frames)));
            book
        }
        None => {
            if folder.as_ref().is_some_and(Folder::has_state) {
                on(Told::Note("warning: the saved state is damaged; the stream begins anew"));
            }
            Book::default()
        }
    };
    if plan.logits.is_some() && plan.features.is_none() {
        on(Told::Note("no features were given: the logits stand for them"));
    }
    let cut = |part: usize| if options.live && part == 0 { None } else { Some(book.bytes[part]) };
    let begun = folder.as_ref().is_some_and(|folder| folder.begun);
    let answers = Answers::open(options, begun, cut(0), stdout)?;
    let files = match &folder {
        Some(folder) => {
            let open = |name: &str, part| Growing::open(&folder.file(name), cut(part));
            Some([open("batches.jsonl", 1)?, open("events.jsonl", 2)?])
        }
        None => None,
    };
    let before = (book.resets, book.skipped);
    let mut live =
        Live { stream, answers, files, book, before, pace: Pace::new(options.checkpoint), subject: &subject };
    live.tell_plan(on);
    let mut bad = 0;
    let mut labels_told = false;
    loop {
        let gathered = gatherer.batch(plan.batch, &mut |found| match found {
            Found::Bad(error) => {
                bad += 1;
                if bad <= TOLD {
                    on(Told::Note(&format!("left out: {error}")));
                }
            }
            Found::Label(name, label) if !labels_told => {
                labels_told = true;
                let what = "is no class of the model; such frames are answered and not scored";
                on(Told::Note(&format!("warning: the label `{label}` of frame `{name}` {what}")));
            }
            Found::Label(..) => {}
        });
        // Frames that were read and not answered are read again.
        if stop.load(Ordering::Relaxed) {
            live.save(folder.as_ref())?;
            return Ok(None);
        }
        let batch = match gathered {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => {
                live.save(folder.as_ref())?;
                return Err(error);
            }
        };
        live.batch(batch, on)?;
        if live.pace.is_due(usize::try_from(live.book.batches).unwrap_or(usize::MAX)) {
            live.save(folder.as_ref())?;
        }
    }
    if live.book.frames == 0 {
        return Err(Error::Other("there was no frame to answer; look at the folder or file of the stream".to_owned()));
    }
    // Bad frames behind the last batch.
    let (read, skipped) = gatherer.counts();
    (live.book.read, live.book.skipped) = (read, before.1 + skipped);
    live.save(folder.as_ref())?;
    let book = live.book;
    let counts = live.stream.report().counts;
    let outcome = Outcome {
        about,
        optimiser: optimiser.as_ref().map(|optimiser| (optimiser.card().name.to_owned(), optimiser.settings())),
        error: (book.labelled > 0).then(|| book.wrong as f64 / book.labelled as f64),
        book,
        counts,
        peak_memory_mib: peak_memory_mib(),
        folder: options.out.clone(),
    };
    if let Some(folder) = &mut folder {
        page::page(&outcome, subject.names(), folder)?.write(&folder.file("report.html"))?;
        folder.finish(&outcome)?;
    }
    Ok(Some(outcome))
}

/// The patch that adapts: the method's own choice unless another is named.
fn adapting(plan: &Plan, subject: &Subject, own: Option<(&str, Option<&str>)>) -> Result<Patch> {
    let (mut patch, model) = (Patch::new(), subject.model());
    let word = |word: &str| Targets::Word(word.to_owned());
    let chosen = match &plan.adapter {
        Some(name) => Some((name.as_str(), plan.targets.clone())),
        None => own.map(|(name, targets)| (name, plan.targets.clone().or_else(|| targets.map(word)))),
    };
    // A model without places for a patch is refused by the methods that want one.
    let Some((name, targets)) = chosen.filter(|_| !model.sites().is_empty()) else { return Ok(patch) };
    let adapter = acclimate_peft::build(name, &toml::Table::new())?;
    acclimate_peft::place(&mut patch, model, name, adapter, targets.as_ref(), &mut Rng::new(0, "patch", 0))?;
    Ok(patch)
}

/// The optimiser, for methods that want one.
fn optimiser(plan: &Plan, wanted: bool, who: &str) -> Result<Option<Box<dyn acclimate_core::AnyOptimiser>>> {
    if !wanted {
        return match plan.optim.is_some() || !plan.optim_settings.is_empty() {
            true => Err(Error::Unsupported {
                who: who.to_owned(),
                what: "use an optimiser".to_owned(),
                instead: "leave out `--optim`, `--lr` and their settings".to_owned(),
            }),
            false => Ok(None),
        };
    }
    let entry = find(acclimate_optim::METHODS, plan.optim.as_deref().unwrap_or(OPTIMISER.0))?;
    let mut settings = plan.optim_settings.clone();
    if entry.card.needs(Need::LearningRate) && !settings.contains_key("lr") {
        settings.insert("lr".to_owned(), OPTIMISER.1.into());
    }
    entry.build(&settings).map(Some)
}

/// A stream at work.
struct Live<'a, 'b> {
    stream: Stream<'a>,
    answers: Answers<'b>,
    /// The files of batches and events.
    files: Option<[Growing; 2]>,
    book: Book,
    /// Fresh starts and frames left out before this process.
    before: (u64, u64),
    pace: Pace,
    subject: &'a Subject,
}

impl Live<'_, '_> {
    /// The one place where the answer of a batch is decided. No class is known here.
    fn answer(&mut self, inputs: &Inputs) -> Result<Tensor<2>> {
        self.stream.step(inputs)
    }

    /// Answers a batch, scores it where classes are known, and keeps the book.
    fn batch(&mut self, batch: Batch, on: &mut dyn FnMut(Told<'_>)) -> Result<()> {
        let (counts, told, from) = (self.stream.report().counts, self.stream.report().events.len(), Instant::now());
        let logits = rows_of(self.answer(&batch.inputs)?);
        let milliseconds = 1000.0 * from.elapsed().as_secs_f64();
        let shares: Vec<Vec<f64>> = logits.iter().map(|row| softmax(row)).collect();
        let said: Vec<usize> = logits.iter().map(|row| argmax(row)).collect();
        self.answers.write(self.subject.names(), &batch.names, &said, &shares)?;
        self.answers.flush()?;

        let entropy = |row: &Vec<f64>| -row.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
        let entropies: f64 = shares.iter().map(entropy).sum();
        let scored = batch.truth.iter().zip(&said).filter_map(|(truth, said)| Some((*truth)? != *said));
        let wrong: Vec<bool> = scored.collect();
        let (frames, report, book) = (said.len() as u64, self.stream.report(), &mut self.book);
        book.predicted.resize(logits.first().map_or(0, Vec::len), 0);
        said.iter().for_each(|&class| book.predicted[class] += 1);
        book.entropy = (book.entropy * book.frames as f64 + entropies) / (book.frames + frames) as f64;
        book.batches += 1;
        book.frames += frames;
        book.read = batch.read;
        book.skipped = self.before.1 + batch.skipped;
        book.last = batch.last;
        book.labelled += wrong.len() as u64;
        book.wrong += wrong.iter().filter(|wrong| **wrong).count() as u64;
        book.milliseconds += milliseconds;
        book.resets = self.before.0 + report.resets;
        let chained = Sha256::new().chain_update(&book.sha256).chain_update(batch.sha256).finalize();
        book.sha256 = chained.iter().map(|byte| format!("{byte:02x}")).collect();

        let line = Line {
            batch: book.batches,
            frames,
            entropy: entropies / frames as f64,
            milliseconds,
            forwards: report.counts.forwards - counts.forwards,
            backwards: report.counts.backwards - counts.backwards,
            labelled: wrong.len() as u64,
            wrong: wrong.iter().filter(|wrong| **wrong).count() as u64,
        };
        let events: Vec<Event> = report.events[told..].to_vec();
        book.events += events.len() as u64;
        if let Some([batches, file]) = &mut self.files {
            batches.write(&json_line(&line)?)?;
            for event in &events {
                file.write(&json_line(&Happened { what: event, text: event.to_string() })?)?;
            }
        }
        for event in &events {
            on(Told::Note(&format!("warning: {event}")));
        }
        self.tell_gradients(on);
        on(Told::Batch(&line, &self.book));
        Ok(())
    }

    /// Says what will move.
    fn tell_plan(&self, on: &mut dyn FnMut(Told<'_>)) {
        let audit = self.stream.audit();
        let moves = match audit.tensors.len() {
            0 => "no tensor moves".to_owned(),
            n => format!("{n} tensors with {} numbers move", audit.numbers()),
        };
        let norms = match &audit.statistics {
            Some(whose) => format!("{} batch norms take statistics of {whose}", audit.batch_norms),
            None => "the model has no batch norms".to_owned(),
        };
        on(Told::Note(&format!("{}: {moves}; {norms}", self.stream.method().name)));
    }

    /// Says once which gradients are zero or not finite.
    fn tell_gradients(&mut self, on: &mut dyn FnMut(Told<'_>)) {
        let known = |audit: &Audit| audit.tensors.is_empty() || audit.tensors.iter().any(|t| t.gradient.is_some());
        if self.book.audit.as_ref().is_some_and(known) {
            return;
        }
        let audit = self.stream.audit();
        let first = self.stream.host().slopes().is_some();
        if first && !audit.tensors.is_empty() {
            let list = |wanted: &dyn Fn(Option<f64>) -> bool| {
                let names = audit.tensors.iter().filter(|t| wanted(t.gradient)).map(|t| format!("`{}`", t.name));
                names.collect::<Vec<_>>().join(", ")
            };
            let (zero, broken) = (list(&|g| g == Some(0.0)), list(&|g| g.is_none()));
            if zero.is_empty() && broken.is_empty() {
                on(Told::Note("every one of them has a finite gradient that is not zero"));
            }
            if !zero.is_empty() {
                on(Told::Note(&format!("the first gradient is zero for {zero}")));
            }
            if !broken.is_empty() {
                on(Told::Note(&format!("warning: the first gradient is not finite for {broken}")));
            }
        }
        self.book.audit = Some(audit);
    }

    /// Saves book and stream, once the disk holds the files they speak of.
    fn save(&mut self, folder: Option<&Folder>) -> Result<()> {
        let (Some(folder), Some(files)) = (folder, &self.files) else { return Ok(()) };
        let from = Instant::now();
        self.answers.sync()?;
        for file in files {
            file.sync()?;
        }
        self.book.bytes = [self.answers.bytes(), files[0].bytes, files[1].bytes];
        folder.save(&self.book, self.stream.save())?;
        self.pace.took(from);
        Ok(())
    }
}

fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Error::Other(e.to_string()))?;
    Ok(text + "\n")
}
