//! Test-time methods beside each other: the same networks, streams and orders for all.

mod hosts;
mod page;

pub use hosts::HostSpec;

use super::side_by_side;
use crate::gate::Score;
use crate::recipe::{OptimRecipe, Recipe};
use crate::tune;
use acclimate_core::{AnyOptimiser, Error, Patch, Result, Rng, Targets, find};
use acclimate_data::{Assets, Scenario, metrics::over_seeds};
use acclimate_tta::{AnyTestTime, Counts, GateSettings, Gated, Host, METHODS, Reset, Stream};
use hosts::{Drawn, batch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const LIST: &str = include_str!("../../../assets/tta_scenarios.toml");

/// Which half of the list a scenario is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// For choosing settings.
    Open,
    /// For checking them.
    Sealed,
}

/// A method with everything that makes a stream of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contender {
    /// How it is told.
    pub name: String,
    method: String,
    #[serde(default)]
    settings: toml::Table,
    #[serde(default)]
    optim: Option<OptimRecipe>,
    #[serde(default)]
    reset: Reset,
    /// The settings of the gate it stands behind, if it does.
    #[serde(default)]
    gate: Option<GateSettings>,
}

/// A stream by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Course {
    /// Its name in the list.
    pub name: String,
    /// Which half of the list it is in.
    pub set: Set,
    host: String,
    /// What comes in which order; its seed is that of the draw.
    #[serde(flatten)]
    pub scenario: Scenario,
}

/// What is to be compared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Plan {
    hosts: Vec<HostSpec>,
    /// The methods.
    #[serde(rename = "entrants")]
    pub contenders: Vec<Contender>,
    /// The streams.
    #[serde(rename = "scenarios")]
    pub courses: Vec<Course>,
    /// Draws: a network, an order and shifts for each seed, counted from zero.
    #[serde(default)]
    pub seeds: u64,
}

/// What came of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Stream by stream.
    pub courses: Vec<CourseOutcome>,
    /// For each contender behind the gate, what it costs and keeps.
    pub gates: BTreeMap<String, GateOutcome>,
    /// Share of streams, draw by draw, on which a contender is below the deployed model.
    pub harm: BTreeMap<String, f64>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CourseOutcome {
    /// Its name.
    pub name: String,
    /// Which half of the list it is in.
    pub set: Set,
    /// SHA-256 of scenario and order at the first seed.
    pub hash: String,
    /// Rows of a draw.
    pub rows: usize,
    /// The deployed model, then contender by contender.
    pub entrants: Vec<Ran>,
}

/// One method on one stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ran {
    /// Its name; the deployed model is `source`.
    pub name: String,
    /// Mean over domains of the accuracy on the way, with a 95 % interval over seeds.
    pub accuracy: Score,
    /// The same, seed by seed.
    pub seeds: Vec<f64>,
    /// Accuracy on each domain, mean over seeds.
    pub domains: Vec<(String, f64)>,
    /// Passes forth, for the method and of the deployed model, per row.
    pub forwards: f64,
    /// Rows passed back, per row.
    pub backwards: f64,
    /// Milliseconds per row.
    pub milliseconds: f64,
    /// Why it cannot work here.
    pub refused: Option<String>,
}

/// A gate in numbers; losses and gains are in points of accuracy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateOutcome {
    /// Loss against the deployed model, stream by stream: mean, and the upper bound of its one-sided 95 % interval over seeds.
    pub loss: BTreeMap<String, [f64; 2]>,
    /// The largest mean loss.
    pub worst: f64,
    /// The largest of the upper bounds.
    pub worst_bound: f64,
    /// Its gain over all streams, as a share of that of the best single method on each.
    pub kept: f64,
}

/// The list that comes with the program.
///
/// # Errors
/// When it is damaged.
pub fn plan() -> Result<Plan> {
    toml::from_str(LIST).map_err(|e| Error::format("tta_scenarios.toml", e.to_string()))
}

/// One draw of one stream by one method.
struct Draw {
    domains: Vec<(String, f64, f64)>,
    counts: Counts,
    rows: usize,
    seconds: f64,
}

/// Runs all; `told` hears after each stream how many are done, of how many, and which one it was. Every stream is one of its draw's network,
/// order and shifts, whatever the method.
///
/// # Errors
/// Nothing to compare, data that cannot be read, or a model's own error; what a method refuses is a result.
pub fn run(plan: &Plan, assets: &Assets, told: &(dyn Fn(usize, usize, &str) + Sync)) -> Result<Outcome> {
    if plan.contenders.is_empty() || plan.courses.is_empty() || plan.seeds == 0 {
        return Err(Error::Other("a comparison needs a method, a scenario and a seed at least".to_owned()));
    }
    let used = |host: &&HostSpec| plan.courses.iter().any(|course| course.host == host.name);
    let hosts: Vec<&HostSpec> = plan.hosts.iter().filter(used).collect();
    let draws: Vec<(&HostSpec, u64)> =
        hosts.iter().flat_map(|host| (0..plan.seeds).map(|seed| (*host, seed))).collect();
    let networks = side_by_side(draws, |(host, seed)| host.draw(*seed, assets))?;
    let network = |host: &str, seed: u64| -> Result<&Drawn> {
        let at = hosts.iter().position(|spec| spec.name == host);
        let at = at.ok_or_else(|| Error::unknown("host", host, plan.hosts.iter().map(|spec| spec.name.as_str())))?;
        Ok(&networks[at * plan.seeds as usize + seed as usize])
    };
    let every: Vec<Option<&Contender>> = std::iter::once(None).chain(plan.contenders.iter().map(Some)).collect();
    let jobs: Vec<(&Course, Option<&Contender>, u64)> = plan
        .courses
        .iter()
        .flat_map(|course| every.iter().flat_map(move |one| (0..plan.seeds).map(move |seed| (course, *one, seed))))
        .collect();
    let (done, all) = (AtomicUsize::new(0), jobs.len());
    let runs = side_by_side(jobs, |(course, contender, seed)| {
        let drawn = network(&course.host, *seed)?;
        let ran = match drawn.run(course, *contender, *seed) {
            Err(Error::Unsupported { who, what, .. }) => Ok(Err(format!("{who} cannot {what}"))),
            other => other.map(Ok),
        };
        told(done.fetch_add(1, Ordering::Relaxed) + 1, all, &format!("{}: {}", course.name, name_of(*contender)));
        ran
    })?;
    let mut runs = runs.into_iter();
    let mut courses = vec![];
    for course in &plan.courses {
        let labels = &network(&course.host, 0)?.labels;
        let scenario = course.drawn(0);
        let entrants = every.iter().map(|one| ran(name_of(*one), runs.by_ref().take(plan.seeds as usize).collect()));
        courses.push(CourseOutcome {
            name: course.name.clone(),
            set: course.set,
            hash: scenario.hash(labels)?,
            rows: scenario.order(labels)?.iter().map(|step| step.rows.len()).sum(),
            entrants: entrants.collect(),
        });
    }
    let behind: Vec<&Contender> = plan.contenders.iter().filter(|one| one.gate.is_some()).collect();
    let gates = behind.iter().map(|one| (one.name.clone(), gate(&one.name, &behind, &courses))).collect();
    let harm = plan.contenders.iter().map(|one| (one.name.clone(), harm(&one.name, &courses))).collect();
    Ok(Outcome { courses, gates, harm })
}

fn name_of(contender: Option<&Contender>) -> &str {
    contender.map_or("source", |one| one.name.as_str())
}

impl Course {
    fn drawn(&self, seed: u64) -> Scenario {
        Scenario { seed, ..self.scenario.clone() }
    }
}

impl Drawn {
    fn run(&self, course: &Course, contender: Option<&Contender>, seed: u64) -> Result<Draw> {
        let steps = course.drawn(seed).order(&self.labels)?;
        let method = contender.map(Contender::method).transpose()?;
        let optimiser = contender.map(Contender::optimiser).transpose()?.flatten();
        let gated = match (&method, contender.and_then(|one| one.gate.as_ref())) {
            (Some(method), Some(settings)) => Some(Gated::new(method.as_ref(), settings.clone())?),
            _ => None,
        };
        let outer = gated.as_ref().map(|gated| gated as &dyn AnyTestTime).or(method.as_deref());
        let mut stream = match (outer, contender) {
            (Some(method), Some(one)) => {
                Some(Stream::new(method, self.host(method, optimiser.as_deref())?, one.reset)?)
            }
            _ => None,
        };
        let mut plain = Host::new(self.model.as_ref(), Patch::new())?;
        let mut domains: Vec<(String, f64, f64)> = vec![];
        let (mut rows, mut seconds) = (0, 0.0);
        for step in &steps {
            let shifted =
                step.rows.iter().zip(&step.shifts).map(|(row, shift)| shift.apply(&self.images[*row], seed, *row));
            let images = batch(&shifted.collect::<Result<Vec<_>>>()?);
            let began = std::time::Instant::now();
            let logits = match &mut stream {
                Some(stream) => {
                    if step.resets {
                        stream.reset()?;
                    }
                    stream.step(&images)?
                }
                None => plain.source(&images)?.logits,
            };
            seconds += began.elapsed().as_secs_f64();
            rows += step.rows.len();
            for ((class, row), shift) in logits.argmax(1).to_data().iter::<i64>().zip(&step.rows).zip(&step.shifts) {
                let name = shift.to_string();
                let at = domains.iter().position(|(domain, ..)| *domain == name).unwrap_or_else(|| {
                    domains.push((name, 0.0, 0.0));
                    domains.len() - 1
                });
                domains[at].1 += f64::from(u8::from(class as usize == self.labels[*row]));
                domains[at].2 += 1.0;
            }
        }
        let counts = stream.map_or_else(|| plain.counts(), |stream| stream.report().counts);
        Ok(Draw { domains, counts, rows, seconds })
    }

    /// The network as a method finds it.
    fn host<'a>(&'a self, method: &dyn AnyTestTime, optimiser: Option<&'a dyn AnyOptimiser>) -> Result<Host<'a>> {
        let mut patch = Patch::new();
        if let Some((name, targets)) = method.trains_any().adapter() {
            let adapter = acclimate_peft::build(name, &toml::Table::new())?;
            let targets = targets.map(|word| Targets::Word(word.to_owned()));
            let rng = &mut Rng::new(0, "patch", 0);
            acclimate_peft::place(&mut patch, self.model.as_ref(), name, adapter, targets.as_ref(), rng)?;
        }
        let host = Host::new(self.model.as_ref(), patch)?.reference(&self.reference).labels(&self.reference_labels)?;
        match optimiser {
            Some(optimiser) => host.optimiser(optimiser),
            None => Ok(host),
        }
    }
}

impl Contender {
    fn method(&self) -> Result<Box<dyn AnyTestTime>> {
        find(METHODS, &self.method)?.build(&self.settings)
    }

    fn optimiser(&self) -> Result<Option<Box<dyn AnyOptimiser>>> {
        let recipe = |optim: &OptimRecipe| Recipe { optim: optim.clone(), ..Recipe::default() };
        self.optim.as_ref().map(|optim| tune::optimiser(&recipe(optim))).transpose()
    }
}

/// The draws of one method on one stream.
fn ran(name: &str, draws: Vec<std::result::Result<Draw, String>>) -> Ran {
    let refused = draws.iter().find_map(|draw| draw.as_ref().err().cloned());
    let draws: Vec<Draw> = draws.into_iter().filter_map(std::result::Result::ok).collect();
    let share = |(_, right, all): &(String, f64, f64)| right / all;
    let seeds: Vec<f64> =
        draws.iter().map(|draw| draw.domains.iter().map(share).sum::<f64>() / draw.domains.len() as f64).collect();
    let interval = over_seeds(&seeds, 0.95);
    let rows = draws.iter().map(|draw| draw.rows).sum::<usize>() as f64;
    let per_row = |number: fn(&Draw) -> f64| draws.iter().map(number).sum::<f64>() / rows;
    let first = draws.first().map_or(&[][..], |draw| &draw.domains);
    let domain = |name: &String| {
        let found = draws.iter().filter_map(|draw| draw.domains.iter().find(|domain| domain.0 == *name));
        (name.clone(), found.map(share).sum::<f64>() / draws.len() as f64)
    };
    Ran {
        name: name.to_owned(),
        accuracy: Score { value: interval.estimate, low: interval.low, high: interval.high },
        seeds,
        domains: first.iter().map(|(name, ..)| domain(name)).collect(),
        forwards: per_row(|draw| (draw.counts.forward_rows + draw.counts.source_rows) as f64),
        backwards: per_row(|draw| draw.counts.backward_rows as f64),
        milliseconds: 1e3 * per_row(|draw| draw.seconds),
        refused,
    }
}

/// Differences of two contenders' accuracies in points, seed by seed.
fn ahead(course: &CourseOutcome, of: &str, than: &str) -> Vec<f64> {
    let seeds = |name: &str| course.entrants.iter().find(|ran| ran.name == name).map_or(&[][..], |ran| &ran.seeds);
    seeds(of).iter().zip(seeds(than)).map(|(of, than)| 100.0 * (of - than)).collect()
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn gate(name: &str, behind: &[&Contender], courses: &[CourseOutcome]) -> GateOutcome {
    let mut loss = BTreeMap::new();
    let (mut gained, mut best) = (0.0, 0.0);
    for course in courses {
        let gains = ahead(course, name, "source");
        // The upper end of a two-sided 90 % interval is that of a one-sided 95 % one.
        let interval = over_seeds(&gains, 0.9);
        loss.insert(course.name.clone(), [-interval.estimate, -interval.low]);
        let singles = course.entrants.iter().filter(|ran| !behind.iter().any(|one| one.name == ran.name));
        let most = singles.map(|ran| mean(&ahead(course, &ran.name, "source"))).filter(|gain| gain.is_finite());
        gained += interval.estimate;
        best += most.fold(0.0, f64::max);
    }
    let most = |at: usize| loss.values().map(|both: &[f64; 2]| both[at]).fold(f64::NEG_INFINITY, f64::max);
    let (worst, worst_bound) = (most(0), most(1));
    GateOutcome { loss, worst, worst_bound, kept: gained / best }
}

fn harm(name: &str, courses: &[CourseOutcome]) -> f64 {
    let gains: Vec<f64> = courses.iter().flat_map(|course| ahead(course, name, "source")).collect();
    // Half a row of slack for the rounding of counted rows.
    gains.iter().filter(|gain| **gain < -1e-9).count() as f64 / gains.len() as f64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_and_host_of_the_list_exists() {
        let plan = plan().unwrap();
        for contender in &plan.contenders {
            contender.method().unwrap();
            contender.optimiser().unwrap();
        }
        for course in &plan.courses {
            assert!(plan.hosts.iter().any(|host| host.name == course.host), "{}", course.name);
            course.drawn(0).order(&(0..900).map(|row| row % 10).collect::<Vec<_>>()).unwrap();
        }
        let names: std::collections::BTreeSet<&str> = plan.courses.iter().map(|course| course.name.as_str()).collect();
        assert_eq!(names.len(), plan.courses.len());
    }

    #[test]
    fn a_gate_is_held_against_source_and_the_best_single_method() {
        let ran = |name: &str, seeds: &[f64]| Ran {
            name: name.to_owned(),
            accuracy: Score { value: mean(seeds), low: f64::NAN, high: f64::NAN },
            seeds: seeds.to_vec(),
            domains: vec![],
            forwards: 1.0,
            backwards: 0.0,
            milliseconds: 1.0,
            refused: None,
        };
        let course =
            |entrants| CourseOutcome { name: "one".to_owned(), set: Set::Open, hash: String::new(), rows: 1, entrants };
        let outcome = course(vec![ran("source", &[0.5, 0.6]), ran("tent", &[0.7, 0.8]), ran("gated", &[0.6, 0.7])]);
        let contender: Contender = toml::from_str("name = \"gated\"\nmethod = \"tent\"\ngate = {}").unwrap();
        let found = gate("gated", &[&contender], &[outcome]);
        assert!((found.kept - 0.5).abs() < 1e-9 && (found.worst + 10.0).abs() < 1e-9, "{found:?}");
    }
}
