//! `acclimate bench`: methods beside each other on the same problems.

use crate::render;
use acclimate::bench::{Entrant, Outcome, Plan, Problem, priors, problems, run, shift, tta};
use acclimate_core::Error;
use acclimate_data::Assets;
use anyhow::Result;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::path::{Path, PathBuf};

const HELP: &str = "\
Examples:
  acclimate bench optim --problems 'wine, table'
  acclimate bench optim --methods 'dadapt_adam; adamw lr=0.01' --grid 13 --seeds 5
  acclimate bench optim --problems 'wine, table' --methods 'oasis; sgd' --grid 7 --change 'batch=90 epochs=200'
  acclimate bench optim --problems sealed --methods 'dadapt_adam; prodigy; adamw lr=0.01' --grid 13 --json

All get the same rows, starts, batches and steps. Where a learning rate must be chosen, `--grid` tries so many around it, half a factor of
ten apart, and rows that are kept for choosing decide.

Finished fits lie in `fits` below `--out`: the same command goes on where it was stopped, and one with more seeds, a wider grid or further
optimisers makes what is missing. Other settings, another problem or another build of this program make all anew.";

/// Puts methods beside each other on the same problems.
#[derive(Subcommand)]
pub(crate) enum Bench {
    Optim(Optim),
    Priors(Priors),
    Shift(Shift),
    Tta(Tta),
}

/// Optimisers on real problems: logistic regressions, patches, and small networks from scratch.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Optim {
    /// The optimisers, separated by semicolons, each with settings that are not as they come.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "dadapt_adam; adamw; sgd")]
    methods: Vec<String>,
    /// The problems, separated by semicolons: names, `open`, `sealed` or `all`.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "open")]
    problems: Vec<String>,
    /// What is changed about all of them: `batch` (rows), `epochs`, `adapter` (settings of LoRA) or `growth` (the recipe's section `batch`).
    #[arg(long, value_name = "KEY=VALUE …", default_value = "")]
    change: String,
    /// Draws of each problem.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    seeds: usize,
    /// Learning rates that are tried for each method that needs one.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    grid: usize,
    /// Multipliers that are tried for the others, to see how robust they are.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    robustness: usize,
    /// Where the page, the numbers and finished fits go; a fit that lies there is not made again.
    #[arg(long, short, value_name = "FOLDER", default_value = "runs/bench-optim")]
    out: PathBuf,
    /// The numbers as JSON.
    #[arg(long)]
    json: bool,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

/// How far a comparison is: a bar, or where there is no terminal a line for each twentieth.
struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    json: bool,
}

impl Progress {
    fn new(unit: &'static str, json: bool) -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} {msg}").expect("a constant"));
        Self { bar, unit, json }
    }

    fn told(&self, done: usize, all: usize, what: &str) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(what.to_owned());
        if self.bar.is_hidden() && !self.json && done * 20 / all != done.saturating_sub(1) * 20 / all {
            render::say(&format!("{done} of {all} {}: {what}", self.unit));
        }
    }
}

/// How every comparison ends: a page, the numbers, and one of them told.
struct Written<'a> {
    out: &'a Path,
    json: bool,
    numbers: Value,
}

impl Written<'_> {
    fn end(
        self,
        page: impl FnOnce(&Path) -> acclimate_core::Result<()>,
        described: impl FnOnce() -> String,
    ) -> Result<()> {
        std::fs::create_dir_all(self.out).map_err(|e| Error::io(self.out, e))?;
        let (report, numbers) = (self.out.join("report.html"), self.out.join("result.json"));
        page(&report)?;
        let json = render::json(&self.numbers)?;
        acclimate_core::write_whole(&numbers, json.as_bytes())?;
        if self.json {
            return render::print(&json);
        }
        let files = [("report", report.display().to_string()), ("numbers", numbers.display().to_string())];
        render::print(&format!("{}{}", described(), render::facts(&files)))
    }
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Optim(optim) => optim.run(),
            Self::Priors(priors) => priors.run(),
            Self::Shift(shift) => shift.run(),
            Self::Tta(tta) => tta.run(),
        }
    }
}

const SHIFT_HELP: &str = "\
Examples:
  acclimate bench shift --methods 'explained; coral; kmm bound=10.0'
  acclimate bench shift --methods all --first 100 --seeds 10 --splits 1
  acclimate bench shift --methods 'kmm gamma=0.1; kmm gamma=1.0; coral; lin_ot' --choose 'circular; mix_val'

The pairs, splits and learner are those of skada-bench's simulated data; its draws are the seeds 0 to 4.";

/// Methods of alignment on simulated pairs of domains: covariate, label, conditional and subspace shift.
#[derive(Args)]
#[command(after_help = SHIFT_HELP)]
pub(crate) struct Shift {
    /// The methods, separated by semicolons, each with settings that are not as they come; or `all`.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "source_only; explained")]
    methods: Vec<String>,
    /// The first draw of the data.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first: u32,
    /// How many draws.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    seeds: u32,
    /// Splits of each draw into rows to fit and rows to judge.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    splits: usize,
    /// Scores without labels of the target, separated by semicolons: each chooses among the methods and the learner by itself.
    #[arg(long, value_name = "LIST", value_delimiter = ';')]
    choose: Vec<String>,
    /// Where the page and the numbers go.
    #[arg(long, short, value_name = "FOLDER", default_value = "runs/bench-shift")]
    out: PathBuf,
    /// The numbers as JSON.
    #[arg(long)]
    json: bool,
}

impl Shift {
    fn run(&self) -> Result<()> {
        let methods = match self.methods.as_slice() {
            [all] if all.trim() == "all" => shift::Aligner::all()?,
            some => some.iter().map(|text| shift::Aligner::parse(text)).collect::<Result<_, _>>()?,
        };
        let choose = self.choose.iter().map(|name| name.trim().to_owned()).collect();
        let plan = shift::Plan { methods, first: self.first, seeds: self.seeds, splits: self.splits, choose };
        let progress = Progress::new("draws", self.json);
        let outcome = shift::run(&plan, &|done, all, what| progress.told(done, all, what))?;
        progress.bar.finish_and_clear();
        let written = Written { out: &self.out, json: self.json, numbers: serde_json::to_value(&outcome)? };
        written.end(|page| outcome.write_page(page), || describe_shift(&outcome))
    }
}

fn describe_shift(outcome: &shift::Outcome) -> String {
    let head = ["accuracy", "covariate", "label", "conditional", "subspace"];
    let head = head.map(render::bold).to_vec();
    render::table(&std::iter::once(head).chain(outcome.rows()).collect::<Vec<_>>())
}

const PRIORS_HELP: &str = "\
Examples:
  acclimate bench priors
  acclimate bench priors --methods 'em; em calibrate=false' --tables wine --seeds 20

Half of each class of a table is the source; the target is drawn from the other half by shares that come evenly from the simplex.";

/// Estimates of the shares of classes under label shift, on real tables whose shares are drawn anew.
#[derive(Args)]
#[command(after_help = PRIORS_HELP)]
pub(crate) struct Priors {
    /// The methods, separated by semicolons, each with settings that are not as they come.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "em; bbse; rlls; elsa")]
    methods: Vec<String>,
    /// The tables, separated by commas: assets with classes.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "wine,breast-cancer,optdigits")]
    tables: Vec<String>,
    /// Draws of a source from each table.
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    seeds: u64,
    /// Draws of shares for each source.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    priors: u64,
    /// Where the page and the numbers go.
    #[arg(long, short, value_name = "FOLDER", default_value = "runs/bench-priors")]
    out: PathBuf,
    /// The numbers as JSON.
    #[arg(long)]
    json: bool,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

impl Priors {
    fn run(&self) -> Result<()> {
        let assets = Assets::open(self.offline)?;
        let plan = priors::Plan {
            tables: self
                .tables
                .iter()
                .map(|name| priors::Rows::open(name.trim(), &assets))
                .collect::<Result<_, _>>()?,
            methods: self.methods.iter().map(|text| shift::Aligner::parse(text)).collect::<Result<_, _>>()?,
            seeds: self.seeds,
            priors: self.priors,
        };
        let progress = Progress::new("sources", self.json);
        let outcome = priors::run(&plan, &|done, all, what| progress.told(done, all, what))?;
        progress.bar.finish_and_clear();
        let written = Written { out: &self.out, json: self.json, numbers: serde_json::to_value(&outcome)? };
        written.end(|page| outcome.write_page(page), || render::table(&outcome.rows()))
    }
}

const TTA_HELP: &str = "\
Examples:
  acclimate bench tta --scenarios 'digits-C, sorted' --methods 'Tent; LAME; gate over Tent' --seeds 2
  acclimate bench tta --scenarios open
  acclimate bench tta --scenarios sealed --seeds 5 --json

Networks are trained on the spot. All methods meet the same rows, shifts and orders; labels score answers and reach no method.";

/// Test-time methods on streams: small networks, corruptions, orders of labels and batch sizes.
#[derive(Args)]
#[command(after_help = TTA_HELP)]
pub(crate) struct Tta {
    /// The methods, separated by semicolons, by their names in the list; all of them if none is named.
    #[arg(long, value_name = "LIST", value_delimiter = ';')]
    methods: Vec<String>,
    /// The streams, separated by semicolons: names, `open`, `sealed` or `all`.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "open")]
    scenarios: Vec<String>,
    /// Draws: a network, shifts and an order for each.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    seeds: u64,
    /// Where the page and the numbers go.
    #[arg(long, short, value_name = "FOLDER", default_value = "runs/bench-tta")]
    out: PathBuf,
    /// The numbers as JSON.
    #[arg(long)]
    json: bool,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

impl Tta {
    fn run(&self) -> Result<()> {
        let mut plan = tta::plan()?;
        plan.seeds = self.seeds;
        let names: Vec<String> = plan.contenders.iter().map(|one| one.name.clone()).collect();
        if let Some(unknown) = self.methods.iter().find(|name| !names.iter().any(|known| known == name.trim())) {
            return Err(Error::unknown("method", unknown.trim(), names.iter().map(String::as_str)).into());
        }
        plan.contenders
            .retain(|one| self.methods.is_empty() || self.methods.iter().any(|name| name.trim() == one.name));
        let wanted = |name: &str, course: &tta::Course| {
            name == "all" || name == course.name || serde_json::from_value(name.into()).ok() == Some(course.set)
        };
        for name in self.scenarios.iter().map(|name| name.trim()) {
            if !plan.courses.iter().any(|course| wanted(name, course)) {
                let known = plan.courses.iter().map(|course| course.name.as_str());
                return Err(Error::unknown("scenario", name, ["all", "open", "sealed"].into_iter().chain(known)).into());
            }
        }
        plan.courses.retain(|course| self.scenarios.iter().any(|name| wanted(name.trim(), course)));
        let progress = Progress::new("streams", self.json);
        let outcome = tta::run(&plan, &Assets::open(self.offline)?, &|done, all, what| progress.told(done, all, what))?;
        progress.bar.finish_and_clear();
        let written = Written { out: &self.out, json: self.json, numbers: serde_json::to_value(&outcome)? };
        written.end(|page| outcome.write_page(page), || describe_streams(&outcome))
    }
}

fn describe_streams(outcome: &tta::Outcome) -> String {
    let entrants = outcome.courses.first().map_or(&[][..], |course| &course.entrants);
    let head = std::iter::once("accuracy, %").chain(outcome.courses.iter().map(|course| course.name.as_str()));
    let mut rows = vec![head.chain(["harm"]).map(render::bold).collect::<Vec<_>>()];
    for (at, entrant) in entrants.iter().enumerate() {
        let cells = outcome.courses.iter().map(|course| match &course.entrants[at] {
            ran if ran.seeds.is_empty() => "–".to_owned(),
            ran => format!("{:.1}", 100.0 * ran.accuracy.value),
        });
        let harm = outcome.harm.get(&entrant.name).map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
        rows.push(std::iter::once(entrant.name.clone()).chain(cells).chain([harm]).collect());
    }
    let mut text = render::table(&rows);
    for (name, gate) in &outcome.gates {
        let line = format!(
            "{name}: {:+.2} points at worst against the deployed model, {:.0} % of the best method's gain",
            -gate.worst,
            100.0 * gate.kept
        );
        text.push_str(&render::wrap(&line, render::width(), 0));
    }
    text
}

impl Optim {
    fn run(&self) -> Result<()> {
        let plan = Plan {
            entrants: self.methods.iter().map(|text| Entrant::parse(text)).collect::<Result<_, _>>()?,
            problems: self.chosen()?,
            seeds: self.seeds,
            grid: self.grid,
            robustness: self.robustness,
            kept: Some(self.out.join("fits")),
        };
        let progress = Progress::new("fits", self.json);
        let outcome = run(&plan, &Assets::open(self.offline)?, &|done, all, what| progress.told(done, all, what))?;
        progress.bar.finish_and_clear();
        let written = Written { out: &self.out, json: self.json, numbers: serde_json::to_value(&outcome)? };
        written.end(|page| outcome.write_page(page), || describe(&outcome))
    }

    /// The problems that were named.
    fn chosen(&self) -> Result<Vec<Problem>> {
        let (all, mut chosen) = (problems()?, vec![]);
        for name in self.problems.iter().map(|name| name.trim()) {
            let set = serde_json::from_value(name.into()).ok();
            let found: Vec<&Problem> = all
                .iter()
                .filter(|problem| name == "all" || set == Some(problem.set) || name == problem.name)
                .collect();
            if found.is_empty() {
                let names =
                    ["all", "open", "sealed"].into_iter().chain(all.iter().map(|problem| problem.name.as_str()));
                return Err(Error::unknown("problem", name, names).into());
            }
            chosen.extend(found.into_iter().cloned());
        }
        match self.change.trim() {
            "" => Ok(chosen),
            change => Ok(chosen.iter().map(|problem| problem.with(change)).collect::<Result<_, _>>()?),
        }
    }
}

fn describe(outcome: &Outcome) -> String {
    let names =
        outcome.problems.first().map_or(vec![], |problem| problem.entrants.iter().map(|e| e.name.clone()).collect());
    let mut rows = vec![std::iter::once("problem".to_owned()).chain(names).map(|name| render::bold(&name)).collect()];
    for problem in &outcome.problems {
        let scores = problem.entrants.iter().map(|entrant| {
            let at = if entrant.tuned && entrant.points.len() > 1 {
                format!(" at ×{:.3}", entrant.multiplier)
            } else {
                String::new()
            };
            format!("{:.3}{at}", entrant.test.value)
        });
        rows.push(std::iter::once(problem.name.clone()).chain(scores).collect::<Vec<_>>());
    }
    let mut text = render::table(&rows);
    for (name, gap) in &outcome.gaps {
        let line = format!(
            "{name}: within a point of the best tuned on {} of {} problems; {:+.2} points behind on average, {:+.2} at worst",
            gap.within_a_point,
            gap.points.len(),
            gap.mean,
            gap.worst
        );
        text.push_str(&render::wrap(&line, render::width(), 0));
    }
    text
}
