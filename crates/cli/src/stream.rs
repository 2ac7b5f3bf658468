//! `acclimate stream`: a deployed classifier that adapts to what it sees.

use crate::flags::settings;
use crate::{INTERRUPTED, render, tune};
use acclimate::live::{self, Book, Line, Options, Outcome, Plan, Told};
use acclimate::models::Base;
use acclimate::tta::Reset;
use acclimate_core::{Error, Targets};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const HELP: &str = "\
Examples:
  acclimate stream camera/ --run runs/mine --method tent --out followed
  acclimate stream frames.npz --model model --method batch_statistics --answers answers.jsonl --out followed
  find . -name '*.png' | acclimate stream - --model model --method tent --batch 16 --reset every:100

Frames are a folder of images (in the order of their names), an .npz with `x` and, for scoring alone, `y`, a csv, tsv,
jsonl, txt or parquet file with a column of image paths or texts, `asset:NAME`, or `-`: standard input with a path, a text
or a JSON object on each line. Answers come after each batch. Ctrl-C saves; the same command goes on from there, and from
the last state of a killed stream, and answers what an undisturbed one answers.";

/// Follows a stream of unlabelled frames with a deployed classifier that adapts on the way.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct StreamCommand {
    /// The frames: a folder, a file, `asset:NAME` or `-`.
    #[arg(value_name = "DATA", required_unless_present = "logits")]
    data: Option<String>,
    /// The run or patch folder whose classifier is deployed.
    #[arg(long, short, value_name = "FOLDER", required_unless_present_any = ["model", "logits"])]
    run: Option<PathBuf>,
    /// The model: one with a head of its own, or where the run's model has moved to.
    #[arg(long, short)]
    model: Option<String>,
    /// How the model's matrices are held: `packed`, `dense` or `bf16`.
    #[arg(long, value_name = "HOW", value_parser = base, default_value = "packed")]
    base: Base,
    /// Saved logits `[rows, classes]` of a foreign model, in place of frames and model.
    #[arg(long, value_name = "NPZ", conflicts_with_all = ["data", "run", "model", "reference"])]
    logits: Option<PathBuf>,
    /// Saved features `[rows, width]` that go with the logits; without them the logits stand for features.
    #[arg(long, value_name = "NPZ", requires = "logits")]
    features: Option<PathBuf>,
    /// The test-time method; `acclimate methods list` shows all.
    #[arg(long, value_name = "METHOD")]
    method: String,
    /// The method's settings as TOML, such as `steps = 1`.
    #[arg(long, value_name = "SETTINGS", default_value = "")]
    settings: String,
    /// What adapts: the method of the patch, where the method's own choice is not wanted.
    #[arg(long, value_name = "METHOD")]
    adapter: Option<String>,
    /// Where the patch goes: a word (`norm`, `linear`, `all`) or names of sites, parted by commas.
    #[arg(long, value_name = "SITES")]
    targets: Option<String>,
    /// The optimiser, for methods that want one; `adamw` unless named.
    #[arg(long, value_name = "METHOD")]
    optim: Option<String>,
    /// Its rate, where it takes one; 1e-3 unless named.
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Its other settings as TOML.
    #[arg(long, value_name = "SETTINGS", default_value = "")]
    optim_settings: String,
    /// Frames answered at a time.
    #[arg(long, value_name = "N", default_value_t = Plan::default().batch)]
    batch: usize,
    /// When adaptation starts anew: `never`, `every:N` batches, or `episodic` (before each batch).
    #[arg(long, value_name = "WHEN", value_parser = reset, default_value = "never")]
    reset: Reset,
    /// A method whose statistics the batch norms take, below the method that adapts.
    #[arg(long, value_name = "METHOD")]
    statistics: Option<String>,
    /// Its settings as TOML.
    #[arg(long, value_name = "SETTINGS", requires = "statistics", default_value = "")]
    statistics_settings: String,
    /// Rows like those the model was trained on, for methods that measure there.
    #[arg(long, value_name = "DATA")]
    reference: Option<String>,
    /// How many of them are used.
    #[arg(long, value_name = "N", requires = "reference", default_value_t = Plan::default().reference_rows)]
    reference_rows: usize,
    /// The column with the text.
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// The column with image paths.
    #[arg(long, value_name = "COLUMN")]
    image: Option<String>,
    /// The column with the class, for scoring alone: the method never sees it.
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// The folder for state, report and answers; without it nothing is saved, and answers go to stdout.
    #[arg(long, short, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The file for the answers, `.csv` or `.jsonl`; without it `answers.csv` in the folder.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Batches between two states; without it as often as they take at most a fiftieth of the time.
    #[arg(long, value_name = "N", requires = "out", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint: Option<u64>,
    /// Leaves out frames that cannot be used, and counts them.
    #[arg(long)]
    skip_bad: bool,
    /// The frames are those of this moment: a restart goes on with what comes next and keeps all answers.
    #[arg(long)]
    live: bool,
    /// Lets the method answer every batch, harm or not. The gate keeps the deployed model a candidate for each and takes back what harms;
    /// it costs two or three passes for each batch, five on streams whose neighbours are alike.
    #[arg(long)]
    no_gate: bool,
    /// The gate's settings as TOML, such as `window = 400, level = 0.01`.
    #[arg(long, value_name = "SETTINGS", conflicts_with = "no_gate", default_value = "")]
    gate_settings: String,
    /// Does without the watch for a collapse that stands where the gate does not, and without the pass of the deployed model that it costs for each batch.
    #[arg(long)]
    no_watch: bool,
    /// JSON on stdout: the result, or the answers where they go there.
    #[arg(long)]
    json: bool,
    /// No progress; warnings stay.
    #[arg(long, short)]
    quiet: bool,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

fn base(text: &str) -> Result<Base, String> {
    match text {
        "packed" => Ok(Base::Packed),
        "dense" => Ok(Base::Dense),
        "bf16" => Ok(Base::Bf16),
        _ => Err("use `packed`, `dense` or `bf16`".to_owned()),
    }
}

fn reset(text: &str) -> Result<Reset, String> {
    match text.split_once(':') {
        None if text == "never" => Ok(Reset::Never),
        None if text == "episodic" => Ok(Reset::Episodic),
        Some(("every", n)) => n.parse().map(Reset::Every).map_err(|_| format!("`{n}` is no number of batches")),
        _ => Err("use `never`, `every:N` or `episodic`".to_owned()),
    }
}

impl StreamCommand {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let (quiet, json) = (self.quiet, self.json);
        let to_stdout = self.out.is_none() && self.answers.is_none();
        let (plan, options) = self.plan()?;
        tune::listen()?;
        let mut last = Instant::now();
        let mut on = |told: Told<'_>| match told {
            Told::Note(note) if !quiet || note.starts_with("warning") => render::say(note),
            Told::Batch(line, book) if !quiet && last.elapsed() >= tune::PAUSE => {
                last = Instant::now();
                render::say(&progress(line, book));
            }
            Told::Note(_) | Told::Batch(..) => {}
        };
        let mut stdout = std::io::stdout().lock();
        let outcome = match live::run(&plan, &options, &mut stdout, &tune::STOP, &mut on) {
            Err(acclimate_core::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
                return Err(source.into());
            }
            other => other?,
        };
        drop(stdout);
        let Some(outcome) = outcome else {
            if options.out.is_some() {
                render::say(&format!("stopped and saved; to go on, run the same command:\n  {}", tune::command_line()));
            }
            return Ok(ExitCode::from(INTERRUPTED));
        };
        match (json, to_stdout) {
            (true, false) => render::print(&render::json(&serde_json::to_value(&outcome)?)?)?,
            (false, false) => render::print(&describe(&outcome, &options))?,
            (_, true) if !quiet => render::say(describe(&outcome, &options).trim_end()),
            (_, true) => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    fn plan(self) -> Result<(Plan, Options)> {
        let mut optim_settings = settings("--optim-settings", &self.optim_settings)?;
        if let Some(lr) = self.lr {
            optim_settings.insert("lr".to_owned(), lr.into());
        }
        let targets = self.targets.map(|text| {
            let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
            if names.len() == 1 { Targets::Word(text) } else { Targets::Names(names) }
        });
        let gate = settings("--gate-settings", &self.gate_settings)?.try_into();
        let gate = gate.map_err(|e: toml::de::Error| Error::Other(format!("`--gate-settings`: {}", e.message())))?;
        let gate = (!self.no_gate).then_some(gate);
        let plan = Plan {
            data: self.data,
            run: self.run,
            model: self.model,
            base: self.base,
            logits: self.logits,
            features: self.features,
            method: self.method,
            settings: settings("--settings", &self.settings)?,
            adapter: self.adapter,
            targets,
            optim: self.optim,
            optim_settings,
            batch: self.batch,
            reset: self.reset,
            gate,
            watch: !self.no_watch,
            statistics: self.statistics,
            statistics_settings: settings("--statistics-settings", &self.statistics_settings)?,
            reference: self.reference,
            reference_rows: self.reference_rows,
            text: self.text,
            image: self.image,
            target: self.target,
        };
        let options = Options {
            out: self.out,
            answers: self.answers,
            checkpoint: self.checkpoint.and_then(|n| usize::try_from(n).ok()),
            skip_bad: self.skip_bad,
            live: self.live,
            offline: self.offline,
            json: self.json,
        };
        Ok((plan, options))
    }
}

fn progress(line: &Line, book: &Book) -> String {
    let error = match book.labelled {
        0 => String::new(),
        n => format!(", error {:.1} %", 100.0 * book.wrong as f64 / n as f64),
    };
    let pace = line.milliseconds / line.frames.max(1) as f64;
    format!(
        "batch {}: {} frames{error}, entropy {:.3}, {pace:.2} ms per frame",
        book.batches, book.frames, line.entropy
    )
}

fn describe(outcome: &Outcome, options: &Options) -> String {
    let book = &outcome.book;
    let mut rows = vec![("frames", format!("{} in {} batches, {} left out", book.frames, book.batches, book.skipped))];
    if let Some(error) = outcome.error {
        rows.push(("error", format!("{:.2} % of {} frames whose class is known", 100.0 * error, book.labelled)));
    }
    let per_frame = |rows: u64| rows as f64 / book.frames.max(1) as f64;
    rows.push(("entropy", format!("{:.3} nats, on average", book.entropy)));
    rows.push(("events", format!("{}, and {} fresh starts", book.events, book.resets)));
    rows.push((
        "costs",
        format!(
            "{:.2} forwards and {:.2} backwards per frame, {:.3} ms",
            per_frame(outcome.counts.forward_rows),
            per_frame(outcome.counts.backward_rows),
            book.milliseconds / book.frames.max(1) as f64
        ),
    ));
    if let Some(answers) = &options.answers {
        rows.push(("answers", answers.display().to_string()));
    }
    if let Some(out) = &options.out {
        rows.push(("report", out.join("report.html").display().to_string()));
    }
    render::facts(&rows)
}
