//! The quickstart: a small real network, pre-trained on MNIST digits, moved to the handwriting of other people and another scanner.
//!
//! Model and data are in the binary; `assets/LICENSES.md` says where they come from, `examples/pretrain_digits.rs` how the network
//! was trained.

use crate::dataset::{Loaded, divide, fit_task};
use crate::encode::Encoded;
use crate::gate::{self, Candidate, Score};
use crate::page::{picture, verdict};
use crate::recipe::{Recipe, TaskKind};
use crate::report::{CandidateRow, Interval, PictureItem, Report, Section, Tone};
use crate::run::Event;
use crate::tasks::{Outputs, Prepared, Task, TaskSpec};
use crate::tune::{Finished, Session, run as tune_run};
use acclimate_core::{AnyTensor, Error, Params, Patch, Result, Rng, find, remove_unfinished, write_whole};
use acclimate_data::{Examples, Inputs, Labels};
use acclimate_models::{Resnet, ResnetConfig};
use acclimate_tta::{Host, Reset, Stream};
use burn::tensor::Device;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const MODEL: &[u8] = include_bytes!("../assets/resnet-mnist8/model.safetensors");
const CONFIG: &[u8] = include_bytes!("../assets/resnet-mnist8/config.json");
const MNIST: &[u8] = include_bytes!("../assets/mnist8.safetensors");
const OPTDIGITS: &[u8] = include_bytes!("../assets/optdigits.safetensors");

/// Labelled rows of the new handwriting.
const LABELS: usize = 50;

/// Rows per batch of the unlabelled stream.
const STREAM_BATCH: usize = 64;

/// Pictures shown in the report.
const SHOWN: usize = 40;

/// The digits that come with the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digits {
    /// 5,000 MNIST digits at 8 × 8.
    Mnist,
    /// The 1,797 digits of optdigits, 8 × 8, by other writers.
    Optdigits,
}

impl Digits {
    /// Images `[rows, 1, 8, 8]` between 0 and 1, and their classes.
    ///
    /// # Errors
    /// When the embedded file is damaged.
    pub fn read(self) -> Result<Examples> {
        let bytes = if self == Self::Mnist { MNIST } else { OPTDIGITS };
        let damaged = |e: safetensors::SafeTensorError| Error::Other(format!("the embedded digits are damaged: {e}"));
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let images = tensors.tensor("images").map_err(damaged)?;
        let labels = tensors.tensor("labels").map_err(damaged)?;
        let values = images.data().iter().map(|&pixel| f32::from(pixel) / 16.0).collect();
        let index = labels.data().iter().map(|&class| usize::from(class)).collect();
        let names = (0..10).map(|digit| digit.to_string()).collect();
        Ok(Examples { inputs: Inputs::Features { width: 64, values }, labels: Labels::Classes { names, index } })
    }
}

/// The network that comes with the binary.
pub(crate) fn network() -> Result<Resnet> {
    let damaged = |e: &dyn std::fmt::Display| Error::Other(format!("the embedded network is damaged: {e}"));
    let config: ResnetConfig = serde_json::from_slice(CONFIG).map_err(|e| damaged(&e))?;
    let mut weights = Params::default();
    for (name, tensor) in SafeTensors::deserialize(MODEL).map_err(|e| damaged(&e))?.iter() {
        let numbers = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        weights.insert(name, AnyTensor::from_f32s(numbers, tensor.shape(), &Device::flex()));
    }
    Resnet::from_weights(config, weights)
}

/// What the quickstart found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name, labels used, and accuracy on the untouched digits, in the order they are told.
    pub rows: Vec<(String, usize, Score)>,
    /// Who the gate chose.
    pub chosen: Candidate,
    /// The gate's sentence.
    pub sentence: String,
    /// The page.
    pub report: PathBuf,
    /// A folder with the model, for `--model`.
    pub model: PathBuf,
}

/// Runs everything in a folder, telling what it does. An earlier quickstart there is replaced.
///
/// # Errors
/// When the folder cannot be written, or what is there is not of a quickstart.
pub fn run(out: &Path, on: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
    let (model_folder, tune_folder) = (out.join("model"), out.join("tune"));
    let other = std::fs::read(model_folder.join("config.json")).is_ok_and(|config| config != CONFIG);
    if other || (tune_folder.exists() && !tune_folder.join("recipe.toml").is_file()) {
        let what = "holds a `model` or `tune` of something else; name another folder with `--out`";
        return Err(Error::Other(format!("{}: {what}", out.display())));
    }
    if tune_folder.exists() {
        std::fs::remove_dir_all(&tune_folder).map_err(|e| Error::io(&tune_folder, e))?;
    }
    for folder in [out, &model_folder] {
        remove_unfinished(folder)?;
    }
    write_whole(&model_folder.join("model.safetensors"), MODEL)?;
    write_whole(&model_folder.join("config.json"), CONFIG)?;
    let recipe = Recipe {
        model: model_folder.display().to_string(),
        data: "asset:optdigits".to_owned(),
        task: TaskKind::Classification,
        out: Some(tune_folder),
        train_rows: Some(LABELS),
        test_rows: Some(1747),
        ..Recipe::default()
    };
    let session = session(&model_folder, &recipe)?;
    on(Event::Note("A network that knows MNIST digits meets the handwriting of other people."));
    on(Event::Note("With 50 labels and no learning rate: a patch, and a gate that keeps it only if it wins."));
    let finished = tune_run(&session, &recipe, &AtomicBool::new(false), on)?;
    let Finished { summary, mut report, .. } =
        finished.ok_or_else(|| Error::Other("nothing stops the quickstart".to_owned()))?;

    on(Event::Note("Without any label: the same digits as a stream."));
    let (model, task) = (session.loaded.model.as_ref(), session.task.as_ref());
    let test = session.test.as_ref().ok_or_else(|| Error::Other("the quickstart holds rows out".to_owned()))?;
    let labels = test.labels()?;
    let before = gate::unadapted(model, task, test, &(0..test.left.len()).collect::<Vec<_>>(), labels)?;
    let mut rows = vec![("as it came".to_owned(), 0, gate::score(task, &before, labels, 0))];
    for (method, name) in [("batch_statistics", "batch statistics"), ("tent", "Tent")] {
        let outputs = stream(&session, test, method)?;
        rows.push((name.to_owned(), 0, gate::score(task, &outputs, labels, 0)));
    }
    for candidate in [Candidate::Probe, Candidate::Patch] {
        if let Some(score) = summary.candidates.iter().find(|c| c.name == candidate).and_then(|c| c.test) {
            rows.push((candidate.name().to_owned(), LABELS, score));
        }
    }
    let page = verdict(&summary);
    let file = out.join("report.html");
    dress(&mut report, &session, test, &rows, &before, summary.chosen);
    report.write(&file)?;
    Ok(Outcome { rows, chosen: summary.chosen, sentence: page.sentence, report: file, model: model_folder })
}

fn session(model: &Path, recipe: &Recipe) -> Result<Session> {
    let all = Digits::Optdigits.read()?;
    let names = all.labels.names().to_vec();
    let parts = divide(all, None, recipe)?;
    let loaded = Loaded {
        model: acclimate_models::load(model, acclimate_models::Base::Packed, &Device::flex())?,
        tokenizer: None,
        template: None,
    };
    let spec = TaskSpec { kind: TaskKind::Classification, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
    let task: Box<dyn Task> = fit_task(spec, &parts.train.labels, false);
    let prepared = |examples: &Examples| -> Result<Prepared> {
        Ok(Prepared { left: images(&examples.inputs)?, right: None, labels: Some(examples.labels.clone()) })
    };
    let (train, test) = (prepared(&parts.train)?, parts.test.as_ref().map(prepared).transpose()?);
    Ok(Session { loaded, task, parts, train, test, dropped: 0 })
}

fn images(inputs: &Inputs) -> Result<Encoded> {
    Encoded::new(inputs, (None, None), Some([1, 8, 8]), TaskKind::Classification)
}

/// What a test-time method answers on a stream in the given order.
fn stream(session: &Session, test: &Prepared, method: &str) -> Result<Outputs> {
    let model = session.loaded.model.as_ref();
    let method = find(acclimate_tta::METHODS, method)?.build(&toml::Table::new())?;
    let mut patch = Patch::new();
    let norms = acclimate_peft::build("norm_tuning", &toml::Table::new())?;
    acclimate_peft::place(&mut patch, model, "norm_tuning", norms, None, &mut Rng::new(0, "norms", 0))?;
    let adam = find(acclimate_optim::METHODS, "adamw")?.build(&toml::Table::new())?;
    let host = Host::new(model, patch)?.optimiser(adam.as_ref())?;
    let mut stream = Stream::new(method.as_ref(), host, Reset::Never)?;
    let mut outputs = vec![];
    let rows: Vec<usize> = (0..test.left.len()).collect();
    for batch in rows.chunks(STREAM_BATCH) {
        let logits = stream.step(&test.left.batch(batch, model))?;
        outputs.extend(AnyTensor::from(logits).to_f64s().chunks(10).map(<[f64]>::to_vec));
    }
    Ok(outputs)
}

/// Adds the quickstart's own sections to the page of the tuning run.
fn dress(
    report: &mut Report,
    session: &Session,
    test: &Prepared,
    rows: &[(String, usize, Score)],
    before: &Outputs,
    chosen: Candidate,
) {
    let first = if chosen == Candidate::Unadapted { "as it came" } else { chosen.name() };
    report.title = "MNIST's digits meet another hand".to_owned();
    report.subtitle = format!(
        "A small residual network, pre-trained on MNIST, on {} digits of other writers and another scanner",
        test.left.len()
    );
    let candidates = rows
        .iter()
        .map(|(name, labels, score)| CandidateRow {
            name: name.clone(),
            detail: if *labels == 0 { "no labels".to_owned() } else { format!("{labels} labels") },
            score: 100.0 * score.value,
            interval: Some(Interval { low: 100.0 * score.low, high: 100.0 * score.high }),
            chosen: name == first,
        })
        .collect();
    let Some(Labels::Classes { index, .. }) = &test.labels else { return };
    let wrong = (0..index.len()).filter(|&row| session.task.class(&before[row]) != Some(index[row]));
    let items = wrong.take(SHOWN).filter_map(|row| {
        Some(PictureItem {
            picture: picture(test, row)?,
            caption: format!("{} read as {}", index[row], session.task.class(&before[row])?),
            tone: Tone::Bad,
        })
    });
    let own = vec![
        Section::Candidates {
            title: "Before and after".to_owned(),
            note: "Accuracy on the untouched digits. Batch statistics and Tent see them once, as an unlabelled stream; probe and patch learn from 50 labelled ones.".to_owned(),
            score: "accuracy, %".to_owned(),
            rows: candidates,
        },
        Section::Pictures {
            title: "What the network read wrongly as it came".to_owned(),
            note: format!("The first {SHOWN} mistakes."),
            items: items.collect(),
        },
    ];
    // The run's own table of the same rows says less.
    report.sections.splice(0..1, own);
}
