//! `acclimate tune`: progress, interruption and the summary.

use crate::flags::{self, RecipeFlags};
use crate::{INTERRUPTED, render};
use acclimate::Recipe;
use acclimate::gate::{Candidate, Score};
use acclimate::run::Event;
use acclimate::train::Progress;
use acclimate::tune::Summary;
use anyhow::Result;
use clap::Args;
use console::Term;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HELP: &str = "\
Examples:
  acclimate tune --model asset:minilm --data reviews.csv
  acclimate tune --model asset:minilm --data reviews.csv --text review --target stars --task regression
  acclimate tune --recipe run.toml --adapter.rank 4 --seed 1

Flags lie over the recipe file. Dashes and underscores in keys are alike; lists are `a,b` or TOML.
The methods' own settings are flags too, such as `--adapter.rank 4`; `acclimate methods list` shows the methods and
`acclimate methods explain NAME` their settings. Ctrl-C saves; the same command goes on from there, and from the last checkpoint of a killed run.";

/// Tunes a patch for a model on labelled rows, and keeps it only where it wins.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Tune {
    /// A recipe: a TOML file with the keys below.
    #[arg(long, short, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The summary as JSON on stdout; everything else goes to stderr.
    #[arg(long)]
    json: bool,
    /// No progress and no notes.
    #[arg(long, short)]
    quiet: bool,
    /// Seconds between two lines of progress where there is no terminal; 0 tells every step.
    #[arg(long, value_name = "SECONDS", default_value_t = PAUSE.as_secs())]
    progress: u64,
    #[command(flatten)]
    flags: RecipeFlags,
}

/// Set by the first Ctrl-C.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

impl Tune {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let base = self.recipe.as_deref().map(Recipe::read).transpose()?.unwrap_or_default();
        let recipe = flags::recipe(&self.flags.over(base))?;
        listen()?;
        let mut shown = Shown { pause: Duration::from_secs(self.progress), ..Shown::new(self.quiet) };
        let summary = acclimate::tune::tune(&recipe, &STOP, &mut |event| shown.on(event))?;
        shown.end();
        let Some(summary) = summary else {
            render::say(&format!("stopped and saved; to go on, run the same command:\n  {}", command_line()));
            return Ok(ExitCode::from(INTERRUPTED));
        };
        render::print(&if self.json { as_json(&summary)? } else { describe(&summary) })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The summary with the manifest, so that who reads it can tell which results may be compared.
fn as_json(summary: &Summary) -> Result<String> {
    let mut all = serde_json::to_value(summary)?;
    all["manifest"] = serde_json::from_str(&std::fs::read_to_string(summary.folder.join("manifest.json"))?)?;
    render::json(&all)
}

/// The first Ctrl-C asks the run to save and stop, the second ends the program.
pub(crate) fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        render::say("\nstopping after this step; press Ctrl-C again to stop at once");
    })?;
    Ok(())
}

/// The command as it was typed, quoted for a shell.
pub(crate) fn command_line() -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@+%".contains(c);
    let quote = |word: String| match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words: Vec<String> = std::env::args().skip(1).map(quote).collect();
    format!("acclimate {}", words.join(" "))
}

/// Progress on stderr: a bar per stage on a terminal, else a line every few seconds.
pub(crate) struct Shown {
    quiet: bool,
    terminal: bool,
    stage: String,
    bar: Option<ProgressBar>,
    pause: Duration,
    began: (Instant, u64),
    last: Instant,
}

/// Between two lines where there is no terminal.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);

impl Shown {
    pub(crate) fn new(quiet: bool) -> Self {
        let now = Instant::now();
        let terminal = Term::stderr().features().is_attended();
        Self { quiet, terminal, stage: String::new(), bar: None, pause: PAUSE, began: (now, 0), last: now }
    }

    pub(crate) fn on(&mut self, event: Event<'_>) {
        match event {
            _ if self.quiet => {}
            Event::Note(note) => match self.bar.as_ref().filter(|bar| !bar.is_finished()) {
                Some(bar) => bar.suspend(|| render::say(note)),
                None => render::say(note),
            },
            Event::Step(progress) => self.step(progress),
        }
    }

    fn step(&mut self, progress: Progress<'_>) {
        if self.stage != progress.stage {
            self.end();
            progress.stage.clone_into(&mut self.stage);
            self.began = (Instant::now(), progress.step);
            self.bar = self.terminal.then(|| bar(progress));
        }
        let log = progress.line.log.iter().map(|(name, x)| format!(", {name} {x:.2e}")).collect::<String>();
        let state = format!("loss {:.3}{log}", progress.line.loss);
        let done = progress.step == progress.total;
        match &self.bar {
            Some(bar) => {
                bar.set_message(state);
                bar.set_position(progress.step);
                if done {
                    bar.finish();
                }
            }
            None if done || self.pause.is_zero() || self.last.elapsed() >= self.pause => {
                self.last = Instant::now();
                let Progress { stage, step, total, .. } = progress;
                let (start, first) = self.began;
                // The first step of a stage says nothing about the rate, nor does one after a way back.
                let made = step.saturating_sub(first);
                let rate = made as f64 / start.elapsed().as_secs_f64().max(1e-9);
                let left = (total - step) as f64 / rate.max(1e-9);
                let pace = if made == 0 { String::new() } else { format!(", {rate:.1} steps/s, {left:.0} s left") };
                render::say(&format!("{stage}: step {step}/{total}, {state}{pace}"));
            }
            None => {}
        }
    }

    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

fn bar(progress: Progress<'_>) -> ProgressBar {
    let form = "{prefix:14} {bar:24} {pos}/{len}  {msg}  {rate}, {eta} left";
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // A bar that cannot be drawn is no reason to stop.
        let _ = write!(out, "{:.1} steps/s", state.per_sec());
    };
    ProgressBar::new(progress.total)
        .with_style(style.with_key("rate", rate))
        .with_prefix(progress.stage.to_owned())
        .with_position(progress.step.saturating_sub(1))
}

/// A score with its interval.
pub(crate) fn score(score: Score) -> String {
    format!("{:.3} ({:.3} to {:.3})", score.value, score.low, score.high)
}

fn describe(summary: &Summary) -> String {
    let cell = |value: Option<Score>| value.map_or("–".to_owned(), score);
    let head = ["candidate", "cross-fitted", "untouched rows"].map(render::bold);
    let mut rows = vec![head.to_vec()];
    rows.extend(summary.candidates.iter().map(|candidate| {
        let mark = if candidate.name == summary.chosen { " *" } else { "" };
        vec![format!("{}{mark}", candidate.name.name()), cell(candidate.crossfit), cell(candidate.test)]
    }));
    let mut text = format!("\n{}, with 95 % intervals\n{}\n", render::bold(&summary.metric), render::table(&rows));
    text.push_str(&render::wrap(&reason(summary), render::width(), 0));
    for note in &summary.notes {
        text.push_str(&render::wrap(&format!("note: {note}"), render::width(), 0));
    }
    let folder = &summary.folder;
    let plain = folder.display();
    let files = [
        ("report", folder.join("report.html").display().to_string()),
        ("patch", format!("{} ({} numbers)", folder.join("patch").display(), summary.trained)),
        ("next", format!("acclimate predict --run {plain} --data new.csv")),
    ];
    text + "\n" + &render::facts(&files)
}

/// Who was chosen, why, and what it gains.
fn reason(summary: &Summary) -> String {
    let chosen = summary.chosen.name();
    let crossfit = |name: Candidate| summary.candidates.iter().find(|c| c.name == name).and_then(|c| c.crossfit);
    let best = crossfit(summary.chosen).map(|score| score.value);
    let tied = summary.candidates.iter().filter(|c| c.crossfit.map(|s| s.value) == best).count() > 1;
    let why = match best {
        None => "nothing was cross-fitted (`gate.folds` is 0)",
        Some(_) if tied => "the cheapest of those with the highest cross-fitted score",
        Some(_) => "it has the highest cross-fitted score",
    };
    let baseline = summary.baseline.name();
    let gain = match summary.gain {
        None => "No rows were held out to show its gain; set `test_share` or name a `test` file.".to_owned(),
        Some(_) if summary.chosen == Candidate::Unadapted => {
            "Nothing trained did better, so nothing is changed.".to_owned()
        }
        Some(_) if summary.chosen == summary.baseline => {
            "It is what the patch has to beat, and was not beaten.".to_owned()
        }
        Some(gain) => {
            let sure = if gain.low > 0.0 {
                "better"
            } else if gain.high < 0.0 {
                "worse"
            } else {
                "no clear difference"
            };
            let Score { value, low, high } = gain;
            let rows = summary.test_rows;
            format!(
                "On {rows} untouched rows it gains {value:+.3} ({low:+.3} to {high:+.3}) over the {baseline}: {sure}."
            )
        }
    };
    let chosen = if summary.chosen == Candidate::Unadapted { "unadapted model" } else { chosen };
    format!("The {chosen} was chosen: {why}. {gain}")
}
