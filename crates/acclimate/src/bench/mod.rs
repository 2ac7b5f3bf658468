//! Optimisers beside each other: the same problems, draws and budgets for all.
mod kept;
mod page;
pub mod priors;
mod problems;
pub mod shift;
mod small;
pub mod tta;

pub use problems::{Form, Problem, Rows, Set, problems};

use crate::gate::Score;
use crate::recipe::{OptimRecipe, Recipe};
use crate::train::{StepLine, Trainer, predict_all};
use crate::tune;
use acclimate_core::{Error, Need, Pass, Result, Source};
use acclimate_data::{Assets, metrics::over_seeds};
use kept::Kept;
use problems::{Draw, Opened};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Multipliers of a grid lie so many to a factor of ten.
const PER_DECADE: i32 = 2;

/// The share of the steps at the end whose losses make up the final one.
const LAST: usize = 10;

/// Scores that differ by less are as good as equal: a point.
const POINT: f64 = 0.01;

/// An optimiser with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Entrant {
    /// How it is told: the name and what is not as it comes.
    pub name: String,
    /// The section of a recipe.
    pub optim: OptimRecipe,
}

impl Entrant {
    /// From a text such as `adamw` or `adamw lr=0.01 weight_decay=0.1`.
    ///
    /// # Errors
    /// An unknown method or setting, or a value that is no TOML.
    ///
    /// # Example
    /// ```
    /// use acclimate::bench::Entrant;
    ///
    /// assert_eq!(Entrant::parse("adamw lr=0.01")?.optim.settings["lr"].as_float(), Some(0.01));
    /// assert!(Entrant::parse("adamw rate=0.01").unwrap_err().to_string().contains("`adamw.rate`"));
    /// # Ok::<(), acclimate_core::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let method = words.next().unwrap_or_default();
        let mut table = toml::Table::from_iter([("method".to_owned(), method.into())]);
        table.extend(settings(words)?);
        let recipe = Recipe::from_table(&toml::Table::from_iter([("optim".to_owned(), table.into())]))?;
        tune::optimiser(&recipe)?;
        Ok(Self { name: text.split_whitespace().collect::<Vec<_>>().join(" "), optim: recipe.optim })
    }

    /// Whether a learning rate must be chosen for it.
    fn needs_rate(&self) -> bool {
        let recipe = Recipe { optim: self.optim.clone(), ..Recipe::default() };
        tune::optimiser(&recipe).is_ok_and(|optimiser| optimiser.card().needs(Need::LearningRate))
    }
}

/// Words such as `lr=0.01` as a table.
fn settings<'a>(words: impl Iterator<Item = &'a str>) -> Result<toml::Table> {
    let mut table = toml::Table::new();
    for word in words {
        let bad = || Error::Other(format!("`{word}` is no setting; write it like `lr=0.01`, without blanks"));
        let setting: toml::Table = word.parse().map_err(|_| bad())?;
        table.extend(setting);
    }
    Ok(table)
}

/// What is to be compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The optimisers.
    pub entrants: Vec<Entrant>,
    /// The problems.
    pub problems: Vec<Problem>,
    /// Draws of each problem, seeds counted from zero.
    pub seeds: usize,
    /// Points of the grid of multipliers around one, half a factor of ten apart, for methods that need a learning rate.
    pub grid: usize,
    /// The same for the others; their answer is the one at one whatever the grid says.
    pub robustness: usize,
    /// A folder for finished fits: each is written when it is done and taken up by a later run that would compute the same, with the same
    /// program. What was cut short goes on there.
    pub kept: Option<PathBuf>,
}

/// What came of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Problem by problem.
    pub problems: Vec<ProblemOutcome>,
    /// For each optimiser without a learning rate, how far it is from the best of those that were tuned.
    pub gaps: BTreeMap<String, Gap>,
    /// Seconds of all fits together.
    pub seconds: f64,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemOutcome {
    /// Its name.
    pub name: String,
    /// Which half of the list it is in.
    pub set: Set,
    /// The score's name.
    pub metric: String,
    /// Steps of a fit.
    pub steps: u64,
    /// Optimiser by optimiser.
    pub entrants: Vec<EntrantOutcome>,
}

/// One optimiser on one problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntrantOutcome {
    /// Its name.
    pub name: String,
    /// Whether its multiplier was chosen, by the scores of the rows that are for choosing.
    pub tuned: bool,
    /// Means over the seeds, multiplier by multiplier.
    pub points: Vec<Point>,
    /// The multiplier it is judged at.
    pub multiplier: f64,
    /// Its score on the untouched rows there, with the interval over seeds.
    pub test: Score,
    /// The same seed by seed.
    pub seeds: Vec<f64>,
    /// Mean of the losses of the last tenth of the steps there; none where a run was ruined.
    pub loss: Option<f64>,
    /// The smallest such mean of the grid.
    pub least_loss: Option<f64>,
    /// Mean number of steps made there: fewer than the problem has where the batch grew.
    pub steps: f64,
    /// How often the watch sent a run back there.
    pub restarts: usize,
    /// Loss and what the optimiser reports there, of the first seed.
    #[serde(skip)]
    pub course: Vec<StepLine>,
}

/// A multiplier of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// What the schedule was multiplied with.
    pub multiplier: f64,
    /// Mean score of the rows that are for choosing; none where a run was ruined.
    pub valid: Option<f64>,
    /// Mean score of the untouched rows.
    pub test: f64,
    /// Mean of the losses of the last tenth of the steps; none where a run was ruined.
    pub loss: Option<f64>,
    /// Runs that were ruined.
    pub ruined: usize,
}

/// How far an optimiser is from the best of those that were tuned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// In points (hundredths of the score), problem by problem; below zero it is ahead.
    pub points: BTreeMap<String, f64>,
    /// On how many problems it is behind by at most a point.
    pub within_a_point: usize,
    /// The mean over problems.
    pub mean: f64,
    /// The largest.
    pub worst: f64,
}

/// One fit to be made.
#[derive(Clone, Copy)]
struct Job<'a> {
    problem: &'a Problem,
    entrant: &'a Entrant,
    multiplier: f64,
    seed: u64,
}

/// One fit.
#[derive(Serialize, Deserialize)]
struct Fit {
    metric: String,
    #[serde(deserialize_with = "crate::nan::number")]
    valid: f64,
    #[serde(deserialize_with = "crate::nan::number")]
    test: f64,
    #[serde(deserialize_with = "crate::nan::number")]
    loss: f64,
    restarts: usize,
    /// Steps that were planned, and those that were made where the batch may grow or the watch sent it back.
    length: u64,
    made: usize,
    /// Of the first seed: no other is drawn.
    steps: Vec<StepLine>,
    seconds: f64,
}

/// Runs a plan. `told` hears of every fit: how many are done, of how many, and which it was.
///
/// # Errors
/// No optimiser or problem, data that cannot be read, or a model's own error; a run that is ruined is a result.
///
/// # Example
/// ```no_run
/// use acclimate::bench::{Entrant, Plan, problems, run};
///
/// let entrants = vec![Entrant::parse("dadapt_adam")?, Entrant::parse("adamw lr=0.01")?];
/// let problems = problems()?.into_iter().filter(|problem| problem.name == "wine, table").collect();
/// let plan = Plan { entrants, problems, seeds: 3, grid: 13, robustness: 1, kept: None };
/// let outcome = run(&plan, &acclimate_data::Assets::open(false)?, &|_, _, _| ())?;
/// assert!(outcome.gaps["dadapt_adam"].mean < 1.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
pub fn run(plan: &Plan, assets: &Assets, told: &(dyn Fn(usize, usize, &str) + Sync)) -> Result<Outcome> {
    if plan.entrants.is_empty() || plan.problems.is_empty() || plan.seeds == 0 {
        return Err(Error::Other("a comparison needs an optimiser, a problem and a seed at least".to_owned()));
    }
    let grids: Vec<Vec<f64>> = plan
        .entrants
        .iter()
        .map(|entrant| grid(if entrant.needs_rate() { plan.grid } else { plan.robustness }))
        .collect();
    let all = plan.problems.len() * plan.seeds * grids.iter().map(Vec::len).sum::<usize>();
    let kept = plan.kept.as_deref().map(Kept::open).transpose()?;
    let done = AtomicUsize::new(0);
    let (mut outcomes, mut seconds) = (vec![], 0.0);
    for problem in &plan.problems {
        let mut jobs = vec![];
        for (entrant, grid) in plan.entrants.iter().zip(&grids) {
            for &multiplier in grid {
                jobs.extend((0..plan.seeds as u64).map(|seed| Job { problem, entrant, multiplier, seed }));
            }
        }
        let fits = fits(&jobs, kept.as_ref(), assets, &|finished, job| {
            let done = done.fetch_add(finished, Ordering::Relaxed) + finished;
            told(done, all, &format!("{}: {}", problem.name, job.entrant.name));
        })?;
        seconds += fits.iter().map(|fit| fit.seconds).sum::<f64>();
        let (metric, steps) = (fits[0].metric.clone(), fits[0].length);
        let mut fits = fits.into_iter();
        let mut entrants = vec![];
        for (entrant, grid) in plan.entrants.iter().zip(&grids) {
            let of_point = |_| fits.by_ref().take(plan.seeds).collect::<Vec<_>>();
            let points: Vec<(f64, Vec<Fit>)> = grid.iter().copied().zip((0..grid.len()).map(of_point)).collect();
            entrants.push(judged(entrant, points));
        }
        outcomes.push(ProblemOutcome { name: problem.name.clone(), set: problem.set, metric, steps, entrants });
    }
    Ok(Outcome { gaps: gaps(&outcomes), problems: outcomes, seconds })
}

impl Outcome {
    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_page(&self, file: &Path) -> Result<()> {
        page::page(self).write(file)
    }
}

/// Multipliers around one.
fn grid(points: usize) -> Vec<f64> {
    let points = points.max(1) as i32;
    (0..points).map(|k| 10_f64.powf(f64::from(k - points / 2) / f64::from(PER_DECADE))).collect()
}

/// Does jobs on as many threads as there are cores, each with no other thread to help it: small products gain nothing from help. The
/// answers come in the order of the jobs.
fn side_by_side<J: Send + Sync, A: Send>(jobs: Vec<J>, work: impl Fn(&J) -> Result<A> + Sync) -> Result<Vec<A>> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let alone = || rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pools = (0..threads).map(|_| alone()).collect::<std::result::Result<Vec<_>, _>>();
    let pools = pools.map_err(|e| Error::Other(format!("no threads: {e}")))?;
    std::thread::scope(|scope| {
        for pool in &pools {
            scope.spawn(|| {
                pool.install(|| {
                    while let Some((at, job)) =
                        Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
                    {
                        let answer = work(job);
                        let failed = answer.is_err();
                        answers.lock().expect("no panic while it is held").push((at, answer));
                        if failed {
                            next.store(jobs.len(), Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
    let mut answers = answers.into_inner().expect("no panic while it is held");
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The fits of jobs on one problem, in their order. What is kept already is taken up; where nothing else is asked for, the problem is not
/// even opened. `told` hears how many are finished anew, and the last of them.
fn fits(
    jobs: &[Job<'_>],
    kept: Option<&Kept>,
    assets: &Assets,
    told: &(dyn Fn(usize, &Job<'_>) + Sync),
) -> Result<Vec<Fit>> {
    let found = jobs.iter().map(|job| kept.map_or(Ok(None), |kept| kept.find(job))).collect::<Result<Vec<_>>>()?;
    let (there, left): (Vec<_>, Vec<_>) = jobs.iter().zip(&found).partition(|(_, found)| found.is_some());
    if let Some((job, _)) = there.last() {
        told(there.len(), job);
    }
    let mut made = vec![];
    if let Some((first, _)) = left.first() {
        let opened = Opened::new(first.problem.clone(), assets)?;
        let seeds = jobs.iter().map(|job| job.seed).max().map_or(0, |last| last + 1);
        let draws = (0..seeds).map(|seed| opened.draw(seed)).collect::<Result<Vec<_>>>()?;
        let left: Vec<Job<'_>> = left.iter().map(|(job, _)| **job).collect();
        made = side_by_side(left, |job| {
            let fit = fit(job, &draws[job.seed as usize])?;
            let fit = if let Some(kept) = kept { kept.keep(job, fit)? } else { fit };
            told(1, job);
            Ok(fit)
        })?;
    }
    let mut made = made.into_iter();
    Ok(found.into_iter().filter_map(|found| found.or_else(|| made.next())).collect())
}

fn fit(job: &Job<'_>, draw: &Draw) -> Result<Fit> {
    let Job { problem, entrant, multiplier, seed } = *job;
    let mut optim = entrant.optim.clone();
    optim.multiplier *= multiplier;
    let recipe = Recipe { seed, optim, ..problem.recipe()? };
    let optimiser = tune::optimiser(&recipe)?;
    let Draw { model, task, data, train, valid, test, start } = draw;
    let (model, task) = (model.as_ref(), task.as_ref());
    // A comparison is short enough to be done again.
    let stop = &AtomicBool::new(false);
    let trainer =
        Trainer { model, task, data, recipe: &recipe, optimiser: optimiser.as_ref(), normaliser: &Source, stop };
    let began = std::time::Instant::now();
    let trained = trainer.train(start.clone(), train, valid, "", None, &mut |_| ());
    let seconds = began.elapsed().as_secs_f64();
    let labels = data.labels()?;
    let score = |patch, rows: &[usize]| -> Result<f64> {
        let outputs = predict_all(model, task, data, rows, &Pass::new(patch))?;
        Ok(task.score(&outputs.iter().collect::<Vec<_>>(), &labels.select(rows)))
    };
    let (metric, length) = (task.metric().to_owned(), (problem.epochs * train.len().div_ceil(problem.batch)) as u64);
    match trained {
        Ok(trained) => {
            let steps = trained.history.steps;
            let last = &steps[steps.len() - steps.len().div_ceil(LAST)..];
            Ok(Fit {
                metric,
                valid: score(&trained.patch, valid)?,
                test: score(&trained.patch, test)?,
                loss: last.iter().map(|line| line.loss).sum::<f64>() / last.len() as f64,
                restarts: trained.history.notes.len(),
                length,
                made: steps.len(),
                steps: if seed == 0 { steps } else { vec![] },
                seconds,
            })
        }
        // A ruined run leaves what it began with.
        Err(Error::Numeric { .. }) => {
            let (valid, loss) = (f64::NAN, f64::NAN);
            Ok(Fit {
                metric,
                valid,
                test: score(start, test)?,
                loss,
                restarts: 0,
                length,
                made: 0,
                steps: vec![],
                seconds,
            })
        }
        Err(other) => Err(other),
    }
}

/// What an optimiser is judged by: the best multiplier on the rows for choosing, or one where nothing has to be chosen.
fn judged(entrant: &Entrant, points: Vec<(f64, Vec<Fit>)>) -> EntrantOutcome {
    let mean = |fits: &[Fit], number: fn(&Fit) -> f64| fits.iter().map(number).sum::<f64>() / fits.len() as f64;
    let finite = |x: f64| x.is_finite().then_some(x);
    let told: Vec<Point> = points
        .iter()
        .map(|(multiplier, fits)| Point {
            multiplier: *multiplier,
            valid: finite(mean(fits, |fit| fit.valid)),
            test: mean(fits, |fit| fit.test),
            loss: finite(mean(fits, |fit| fit.loss)),
            ruined: fits.iter().filter(|fit| fit.valid.is_nan()).count(),
        })
        .collect();
    let tuned = entrant.needs_rate();
    let better = |&a: &usize, &b: &usize| {
        let valid = |at: usize| told[at].valid.unwrap_or(f64::NEG_INFINITY);
        // At a tie the smaller rate.
        valid(a).total_cmp(&valid(b)).then(b.cmp(&a))
    };
    let at = match tuned {
        true => (0..told.len()).max_by(better).unwrap_or(0),
        false => told.len() / 2,
    };
    let (multiplier, mut fits) = points.into_iter().nth(at).expect("a grid has a point");
    let seeds: Vec<f64> = fits.iter().map(|fit| fit.test).collect();
    let interval = over_seeds(&seeds, 0.95);
    EntrantOutcome {
        name: entrant.name.clone(),
        tuned,
        loss: told[at].loss,
        least_loss: told.iter().filter_map(|point| point.loss).reduce(f64::min),
        steps: mean(&fits, |fit| fit.made as f64),
        points: told,
        multiplier,
        test: Score { value: interval.estimate, low: interval.low, high: interval.high },
        seeds,
        restarts: fits.iter().map(|fit| fit.restarts).sum(),
        course: std::mem::take(&mut fits[0].steps),
    }
}

fn gaps(outcomes: &[ProblemOutcome]) -> BTreeMap<String, Gap> {
    let mut gaps: BTreeMap<String, Gap> = BTreeMap::new();
    for outcome in outcomes {
        let tuned = outcome.entrants.iter().filter(|entrant| entrant.tuned).map(|entrant| entrant.test.value);
        let Some(best) = tuned.reduce(f64::max) else { continue };
        for entrant in outcome.entrants.iter().filter(|entrant| !entrant.tuned) {
            let gap = best - entrant.test.value;
            let empty = || Gap { points: BTreeMap::new(), within_a_point: 0, mean: 0.0, worst: f64::NEG_INFINITY };
            let all = gaps.entry(entrant.name.clone()).or_insert_with(empty);
            all.points.insert(outcome.name.clone(), gap / POINT);
            // Means of counted rows: half a row of slack for their rounding.
            all.within_a_point += usize::from(gap <= POINT + 1e-9);
            all.worst = all.worst.max(gap / POINT);
            all.mean = all.points.values().sum::<f64>() / all.points.len() as f64;
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_is_half_decades_around_one() {
        assert_eq!(grid(1), [1.0]);
        let grid = grid(13);
        assert_eq!((grid.len(), grid[6]), (13, 1.0));
        assert!((grid[0] - 1e-3).abs() < 1e-15 && (grid[12] - 1e3).abs() < 1e-9);
    }

    #[test]
    fn jobs_are_answered_in_their_order_and_the_first_error_is_told() {
        let square = |x: &u64| Ok(x * x);
        assert_eq!(side_by_side((0..50).collect(), square).unwrap(), (0..50).map(|x| x * x).collect::<Vec<_>>());
        let fails = |x: &u64| if *x == 7 { Err(Error::Other("seven".to_owned())) } else { Ok(*x) };
        assert_eq!(side_by_side((0..50).collect(), fails).unwrap_err().to_string(), "seven");
    }
}
