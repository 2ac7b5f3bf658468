//! Intervals and sets for a table of predictions, with the coverage that was asked for.
//!
//! A [`Plan`] names calibration rows, whose truth is known, and rows to answer; a method by its name; and what is known of the difference
//! between the two. [`run`] calibrates, answers, and says what the coverage is on calibration rows that the calibration has not seen.

mod page;
mod read;
mod stream;

use crate::domains::Domains;
use crate::gate::Score;
use acclimate_core::{Card, Error, Result, Rng, find};
use acclimate_data::Assets;
use acclimate_shift::{ALIGN, Em, Host, Source, Target};
use acclimate_stats::conformal::{
    self, AnyExchange, AnyIntervals, AnyOnline, AnySets, By, Calibrated, CalibratedSets, LabelShift, Mondrian, Row,
    Weighted,
};
use acclimate_stats::learn::{Labels, Logistic, select};
use acclimate_stats::quantile;
use ndarray::Array2;
use read::{Given, Truths};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Folds in which coverage is measured.
const FOLDS: usize = 5;
/// Levels that are tried beside the one asked for.
const LEVELS: [f64; 6] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99];
/// The 97.5th percentile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// What differs between calibration rows and new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Where rows lie; the same answer is as likely at the same place.
    Covariate,
    /// The shares of the classes; rows of a class look alike.
    Label,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The table with rows whose truth is known. Of a stream, the rows before it, and where no other table is named the stream itself.
    pub calibration: String,
    /// The table with rows to answer.
    pub rows: Option<String>,
    /// The method, of [`conformal::INTERVALS`], [`conformal::SETS`] or [`conformal::ONLINE`].
    pub method: String,
    /// Its settings.
    pub settings: toml::Table,
    /// The share of truths that shall lie inside.
    pub coverage: f64,
    /// The column with the truth.
    pub truth: Option<String>,
    /// Another table with the truth of the calibration rows, row by row.
    pub truths: Option<String>,
    /// The columns with the answers of the model.
    pub answers: Vec<String>,
    /// The same of the rows to answer, where they are called otherwise.
    pub new_answers: Vec<String>,
    /// The column with the fold of each calibration row, for methods that ask for it.
    pub fold: Option<String>,
    /// The column with the group of a row: each is calibrated by itself.
    pub group: Option<String>,
    /// Calibrates each class by itself.
    pub by_class: bool,
    /// What differs between the two tables.
    pub shift: Option<Told>,
    /// The column with the density of new rows over that of calibration rows.
    pub weight: Option<String>,
    /// Columns by which that density is estimated.
    pub features: Vec<String>,
    /// The method that estimates it.
    pub ratio: String,
    /// The largest weight of a row.
    pub clip: Option<f64>,
    /// The share of each class among new rows, where it is known.
    pub shares: Vec<f64>,
    /// Rows of a stream that come before the truth of a row.
    pub delay: usize,
    /// A file in which a stream is kept from one table to the next.
    pub state: Option<PathBuf>,
    /// Names the random draws.
    pub seed: u64,
    /// Fetch nothing.
    pub offline: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            calibration: String::new(),
            rows: None,
            method: String::new(),
            settings: toml::Table::new(),
            coverage: 0.9,
            truth: None,
            truths: None,
            answers: vec![],
            new_answers: vec![],
            fold: None,
            group: None,
            by_class: false,
            shift: None,
            weight: None,
            features: vec![],
            ratio: "discriminator_weights".to_owned(),
            clip: None,
            shares: vec![],
            delay: 0,
            state: None,
            seed: 0,
            offline: false,
        }
    }
}

/// What is said of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A range of numbers.
    Interval(conformal::Interval),
    /// Some of the classes, by their places.
    Set {
        /// The places, rising.
        of: Vec<usize>,
        /// How many classes there are.
        all: usize,
    },
}

impl Answer {
    /// A width, or a number of classes.
    fn size(&self) -> f64 {
        match self {
            Self::Interval(interval) => interval.width(),
            Self::Set { of, .. } => of.len() as f64,
        }
    }

    /// Whether it says nothing: all numbers, or all classes.
    fn says_nothing(&self) -> bool {
        match self {
            Self::Interval(interval) => !interval.width().is_finite(),
            Self::Set { of, all } => of.len() == *all,
        }
    }

    fn holds(&self, truths: &Truths, row: usize) -> bool {
        match (self, truths) {
            (Self::Interval(interval), Truths::Numbers(numbers)) => interval.contains(numbers[row]),
            (Self::Set { of, .. }, Truths::Classes(classes)) => of.contains(&classes[row]),
            _ => false,
        }
    }
}

/// Answers beside truths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// How many rows.
    pub rows: usize,
    /// How many rows of equal weight would be as sure.
    pub effective_rows: f64,
    /// The share of truths inside, with a 95 % interval.
    pub coverage: Score,
    /// The mean width of finite intervals, or the mean number of classes, with a 95 % interval.
    pub size: Score,
    /// The share of rows of which nothing is said: infinite intervals, or all classes.
    pub says_nothing: f64,
}

/// What a level of coverage costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Level {
    /// The coverage asked for.
    pub asked: f64,
    /// What came, on calibration rows that calibration has not seen.
    pub judged: Judged,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The method.
    pub method: String,
    /// What calibrates beside it: groups, or weights under a shift.
    pub exchange: Option<String>,
    /// The coverage asked for.
    pub coverage: f64,
    /// Whether classes are said, not numbers.
    pub classes: bool,
    /// Calibration rows, or of a stream the rows before it.
    pub calibration_rows: usize,
    /// Rows that were answered.
    pub rows: usize,
    /// On calibration rows that calibration has not seen; for shifts weighted like the new rows.
    pub held: Option<Judged>,
    /// On the rows that were answered, those whose truth is known.
    pub judged: Option<Judged>,
    /// The mean size of the answers, without those that say nothing.
    pub size: Option<f64>,
    /// The share of answers that say nothing: infinite intervals, or all classes.
    pub says_nothing: Option<f64>,
    /// The share of answers that hold no value.
    pub empty: Option<f64>,
    /// Held-out rows by group or class, where these are calibrated apart.
    pub groups: BTreeMap<String, Judged>,
    /// What other levels would cost.
    pub levels: Vec<Level>,
    /// Named numbers of what weighs the rows.
    pub facts: Vec<(String, f64)>,
    /// What the user must know.
    pub warnings: Vec<String>,
    /// The answers, in the order of the rows.
    #[serde(skip)]
    pub answers: Vec<Answer>,
    /// The names of the classes.
    #[serde(skip)]
    pub names: Vec<String>,
    /// Of each row of a stream whether the truth lay inside, where it came.
    #[serde(skip)]
    pub course: Vec<Option<bool>>,
}

/// A method with its settings.
enum Method {
    Intervals(Box<dyn AnyIntervals>),
    Sets(Box<dyn AnySets>),
    Online(Box<dyn AnyOnline>),
}

impl Method {
    /// The method of any of the lists.
    fn build(name: &str, settings: &toml::Table) -> Result<Self> {
        use conformal::{INTERVALS, ONLINE, SETS};
        if let Ok(entry) = find(INTERVALS, name) {
            return Ok(Self::Intervals(entry.build(settings)?));
        }
        if let Ok(entry) = find(SETS, name) {
            return Ok(Self::Sets(entry.build(settings)?));
        }
        if let Ok(entry) = find(ONLINE, name) {
            return Ok(Self::Online(entry.build(settings)?));
        }
        Err(Error::unknown("method", name, names()))
    }

    fn card(&self) -> Card {
        match self {
            Self::Intervals(method) => method.card(),
            Self::Sets(method) => method.card(),
            Self::Online(method) => method.card(),
        }
    }
}

/// The names of all methods that a [`Plan`] may name.
pub fn names() -> Vec<&'static str> {
    let intervals = conformal::INTERVALS.iter().map(|entry| entry.card.name);
    let sets = conformal::SETS.iter().map(|entry| entry.card.name);
    let online = conformal::ONLINE.iter().map(|entry| entry.card.name);
    intervals.chain(sets).chain(online).collect()
}

/// The least number of calibration rows with which a coverage can be had.
fn least_rows(alpha: f64) -> usize {
    let about = ((1.0 / alpha).floor() as usize).saturating_sub(2);
    (about..).find(|rows| quantile::conformal_rank(*rows, alpha).is_some()).unwrap_or(usize::MAX)
}

/// Rows with what weighs and parts them.
struct Rows {
    given: Given,
    known: Vec<Row>,
}

/// A static method and how it is calibrated.
struct Calibration<'a> {
    method: &'a Method,
    by: Option<Box<dyn AnyExchange>>,
    rows: Rows,
    seed: u64,
}

impl Calibration<'_> {
    /// Answers to rows, calibrated on those of the calibration rows at `used`.
    fn answer(&self, used: &[usize], answers: &Array2<f64>, known: &[Row], alpha: f64) -> Result<Vec<Answer>> {
        let Rows { given, known: own } = &self.rows;
        let (held, rows) = (select(given.answers.view(), used), used.iter().map(|row| own[*row]).collect::<Vec<_>>());
        let by = self.by.as_deref();
        Ok(match (self.method, &given.truths) {
            (Method::Intervals(method), Some(Truths::Numbers(numbers))) => {
                let truths: Vec<f64> = used.iter().map(|row| numbers[*row]).collect();
                let folds: Vec<usize> = used.iter().filter_map(|row| given.folds.get(*row).copied()).collect();
                let held = conformal::Held { folds: &folds, ..conformal::Held::new(held.view(), &truths) };
                let fit = Calibrated::new(method.as_ref(), &held, by, &rows)?;
                fit.intervals(answers.view(), by, known, alpha)?.into_iter().map(Answer::Interval).collect()
            }
            (Method::Sets(method), Some(Truths::Classes(classes))) => {
                let truths: Vec<usize> = used.iter().map(|row| classes[*row]).collect();
                let fit = CalibratedSets::new(method.as_ref(), held.view(), &truths, by, &rows, self.seed)?;
                let all = answers.ncols();
                let sets = fit.sets(method.as_ref(), answers.view(), by, known, alpha)?;
                sets.into_iter().map(|of| Answer::Set { of, all }).collect()
            }
            _ => return Err(Error::Other("calibration rows have no truth; name its column".to_owned())),
        })
    }

    /// Every calibration row as answered by the others, fold by fold.
    fn unseen(&self, alpha: f64) -> Result<Vec<Answer>> {
        let count = self.rows.known.len();
        let mut order: Vec<usize> = (0..count).collect();
        Rng::new(self.seed, "interval folds", 0).shuffle(&mut order);
        let mut found = vec![None; count];
        for fold in 0..FOLDS.min(count) {
            let (held, used): (Vec<_>, Vec<_>) = (0..count).partition(|place| place % FOLDS.min(count) == fold);
            let at = |places: Vec<usize>| places.into_iter().map(|place| order[place]).collect::<Vec<_>>();
            let (held, used) = (at(held), at(used));
            let answers = select(self.rows.given.answers.view(), &held);
            let known: Vec<Row> = held.iter().map(|row| self.rows.known[*row]).collect();
            for (row, answer) in held.iter().zip(self.answer(&used, &answers, &known, alpha)?) {
                found[*row] = Some(answer);
            }
        }
        Ok(found.into_iter().map(|answer| answer.expect("every row is in a fold")).collect())
    }

    /// The weight of each calibration row; one where nothing weighs them.
    fn weights(&self) -> Result<Vec<f64>> {
        let truths = self.rows.given.truths.as_ref();
        let weight = |(row, known): (usize, &Row)| {
            let class = match truths {
                Some(Truths::Classes(of)) => Some(of[row]),
                _ => known.class,
            };
            self.by.as_ref().map_or(Ok(1.0), |by| Ok(by.place_any(&Row { class, ..*known })?.weight))
        };
        self.rows.known.iter().enumerate().map(weight).collect()
    }
}

/// Judges the answers at some rows, weighted.
fn judge(answers: &[Answer], truths: &Truths, weights: &[f64], rows: impl Iterator<Item = usize>) -> Option<Judged> {
    let rows: Vec<usize> = rows.collect();
    let sum = |value: &dyn Fn(usize) -> f64| rows.iter().map(|row| value(*row)).sum::<f64>();
    let (total, squares) = (sum(&|row| weights[row]), sum(&|row| weights[row] * weights[row]));
    if total <= 0.0 {
        return None;
    }
    let effective = total * total / squares;
    let share = |is: &dyn Fn(usize) -> bool| sum(&|row| if is(row) { weights[row] } else { 0.0 }) / total;
    let inside = share(&|row| answers[row].holds(truths, row));
    // Wilson's interval.
    let shrink = 1.0 + Z * Z / effective;
    let centre = (inside + Z * Z / (2.0 * effective)) / shrink;
    let half = Z * (inside * (1.0 - inside) / effective + (Z / (2.0 * effective)).powi(2)).sqrt() / shrink;
    let coverage = Score { value: inside, low: centre - half, high: centre + half };
    let sizes: Vec<(f64, f64)> =
        rows.iter().map(|row| (answers[*row].size(), weights[*row])).filter(|(size, _)| size.is_finite()).collect();
    let mass: f64 = sizes.iter().map(|(_, weight)| weight).sum();
    let mean = sizes.iter().map(|(size, weight)| size * weight).sum::<f64>() / mass;
    let error = sizes.iter().map(|(size, weight)| (weight * (size - mean)).powi(2)).sum::<f64>().sqrt() / mass;
    let size = Score { value: mean, low: mean - Z * error, high: mean + Z * error };
    let says_nothing = share(&|row| answers[row].says_nothing());
    Some(Judged { rows: rows.len(), effective_rows: effective, coverage, size, says_nothing })
}

/// Calibrates and answers.
///
/// # Errors
/// An unknown method, setting, table or column; a cell that is empty, no number or not finite; a class without a column; a shift that
/// cannot be estimated from what is given.
///
/// # Example
/// ```
/// use acclimate::interval::{Plan, run};
///
/// let folder = std::env::temp_dir().join("acclimate interval example");
/// std::fs::create_dir_all(&folder)?;
/// let (held, new) = (folder.join("held.csv"), folder.join("new.csv"));
/// std::fs::write(&held, "prediction,truth\n1,1.5\n2,1.0\n3,3.25\n4,4.125\n")?;
/// std::fs::write(&new, "prediction\n7\n")?;
/// let plan = Plan {
///     calibration: held.display().to_string(),
///     rows: Some(new.display().to_string()),
///     method: "split".to_owned(),
///     coverage: 0.6,
///     ..Plan::default()
/// };
/// let outcome = run(&plan)?;
/// assert_eq!(outcome.size, Some(1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(plan: &Plan) -> Result<Outcome> {
    if !(plan.coverage > 0.0 && plan.coverage < 1.0) {
        let what = format!("`coverage` must lie between 0 and 1, got `{}`; 0.9 is usual", plan.coverage);
        return Err(Error::Other(what));
    }
    let method = Method::build(&plan.method, &plan.settings)?;
    let assets = Assets::open(plan.offline)?;
    match &method {
        Method::Online(online) => stream::run(plan, online.as_ref(), &assets),
        _ => calibrated(plan, &method, &assets),
    }
}

/// A share of misses, without the rounding of `1 − coverage`.
fn alpha(coverage: f64) -> f64 {
    ((1.0 - coverage) * 1e12).round() / 1e12
}

fn calibrated(plan: &Plan, method: &Method, assets: &Assets) -> Result<Outcome> {
    let alpha = alpha(plan.coverage);
    let held = read::calibration(plan, method, assets)?;
    let new = plan.rows.as_ref().map(|rows| read::rows(plan, method, rows, &held, assets)).transpose()?;
    let mut facts = vec![];
    let by = exchange(plan, &held, new.as_ref(), &mut facts)?;
    let [held, new] = weighed(plan, held, new, &mut facts)?;
    let held = held.expect("calibration rows are always there");
    let groups = held.given.groups.clone();
    let calibration = Calibration { method, by, rows: held, seed: plan.seed };
    let (given, count) = (&calibration.rows.given, calibration.rows.known.len());
    let truths = given.truths.as_ref().expect("calibration rows are read with their truths");
    let answers = match &new {
        Some(rows) => calibration.answer(&(0..count).collect::<Vec<_>>(), &rows.given.answers, &rows.known, alpha)?,
        None => vec![],
    };
    let (mut held, mut by_group, mut levels) = (None, BTreeMap::new(), vec![]);
    // Fits that leave rows out have no answers of the others to rows that they calibrate on.
    let alike = plan.new_answers.is_empty() || plan.new_answers.len() == given.answers.ncols();
    if alike && count > 1 {
        let weights = calibration.weights()?;
        let unseen = calibration.unseen(alpha)?;
        held = judge(&unseen, truths, &weights, 0..count);
        let parts: Vec<(String, Vec<usize>)> = match (truths, plan.by_class) {
            (Truths::Classes(of), true) => part(of, &given.names),
            _ => part(&given.group, &groups),
        };
        if parts.len() > 1 {
            let judged = |(name, rows): (String, Vec<usize>)| {
                judge(&unseen, truths, &weights, rows.into_iter()).map(|judged| (name, judged))
            };
            by_group = parts.into_iter().filter_map(judged).collect();
        }
        for asked in LEVELS {
            let judged = judge(&calibration.unseen(self::alpha(asked))?, truths, &weights, 0..count);
            levels.extend(judged.map(|judged| Level { asked, judged }));
        }
    }
    let mut outcome = Outcome {
        method: method.card().name.to_owned(),
        exchange: calibration.by.as_ref().map(|by| by.card().name.to_owned()),
        coverage: plan.coverage,
        classes: matches!(method, Method::Sets(_)),
        calibration_rows: count,
        rows: answers.len(),
        held,
        judged: None,
        size: None,
        says_nothing: None,
        empty: None,
        groups: by_group,
        levels,
        facts,
        warnings: vec![],
        answers,
        names: given.names.clone(),
        course: vec![],
    };
    if let Some(Rows { given, .. }) = &new {
        outcome.judged = given
            .truths
            .as_ref()
            .and_then(|truths| judge(&outcome.answers, truths, &vec![1.0; outcome.rows], 0..outcome.rows));
    }
    outcome.sum_up();
    outcome.warn(given, new.as_ref().map(|rows| &rows.given), alpha);
    Ok(outcome)
}

/// The rows of each part, by name.
fn part(of: &[usize], names: &[String]) -> Vec<(String, Vec<usize>)> {
    let rows = |part: usize| (0..of.len()).filter(|row| of[*row] == part).collect();
    names.iter().enumerate().map(|(part, name)| (name.clone(), rows(part))).collect()
}

impl Outcome {
    /// Fills in what the answers are like.
    fn sum_up(&mut self) {
        let rows = self.answers.len() as f64;
        if self.answers.is_empty() {
            return;
        }
        let share = |is: &dyn Fn(&Answer) -> bool| Some(self.answers.iter().filter(|a| is(a)).count() as f64 / rows);
        let sizes: Vec<f64> = self.answers.iter().map(Answer::size).filter(|size| size.is_finite()).collect();
        self.says_nothing = share(&Answer::says_nothing);
        self.empty = share(&|answer| match answer {
            Answer::Interval(interval) => interval.lower > interval.upper,
            Answer::Set { of, .. } => of.is_empty(),
        });
        self.size = (!sizes.is_empty()).then(|| sizes.iter().sum::<f64>() / sizes.len() as f64);
    }

    /// Says what the numbers alone do not.
    fn warn(&mut self, held: &Given, new: Option<&Given>, alpha: f64) {
        let (least, asked) = (least_rows(alpha), (self.coverage * 1e6).round() / 1e4);
        let nothing = if self.classes { "sets hold all classes" } else { "intervals are infinite" };
        let few = |rows: usize| format!("{rows} calibration rows cannot give {asked} %, which takes {least}");
        if self.calibration_rows < least {
            self.warnings.push(format!("{}: {nothing}; give more rows or ask for less", few(self.calibration_rows)));
        } else if held.groups.len() > 1 {
            for (name, rows) in part(&held.group, &held.groups) {
                let counts = rows.len() < least
                    && new.is_none_or(|new| new.group.iter().any(|g| held.groups.get(*g) == Some(&name)));
                if counts && !rows.is_empty() {
                    self.warnings.push(format!("group `{name}`: {}: its {nothing}", few(rows.len())));
                }
            }
        }
        if let Some(unknown) = new.and_then(|new| new.groups.get(held.groups.len())) {
            self.warnings.push(format!("group `{unknown}` has no calibration row: its {nothing}"));
        }
        let effective = self.held.as_ref().map_or(f64::INFINITY, |held| held.effective_rows);
        if effective < least as f64 && self.calibration_rows >= least {
            self.warnings.push(format!(
                "the weights leave {effective:.1} effective rows of {}: too few for {asked} %; set `clip`, or calibrate on rows nearer to \
                 the new ones",
                self.calibration_rows
            ));
        }
        let alike = self.judged.as_ref().or(self.held.as_ref());
        if let Some(judged) = alike.filter(|judged| judged.coverage.high < self.coverage) {
            self.warnings.push(format!(
                "{:.1} % of the truths lie inside ({:.1} to {:.1}), fewer than asked for: new rows are not like the calibration rows; \
                 `acclimate diagnose` tells what differs",
                100.0 * judged.coverage.value,
                100.0 * judged.coverage.low,
                100.0 * judged.coverage.high
            ));
        }
    }
}

/// What calibrates beside the method.
fn exchange(
    plan: &Plan,
    held: &Given,
    new: Option<&Given>,
    facts: &mut Vec<(String, f64)>,
) -> Result<Option<Box<dyn AnyExchange>>> {
    if plan.by_class && (plan.shift.is_some() || plan.group.is_some()) {
        let what =
            "classes calibrated apart hold under any label shift and go with no `shift` and no `group`; leave one out";
        return Err(Error::Other(what.to_owned()));
    }
    let group = plan.group.is_some().then_some(By::Group).or(plan.by_class.then_some(By::Class));
    match plan.shift {
        None => Ok(group.map(|by| -> Box<dyn AnyExchange> { Box::new(Mondrian { by }) })),
        Some(Told::Covariate) => Ok(Some(Box::new(Weighted { clip: plan.clip }))),
        Some(Told::Label) => {
            let Some(Truths::Classes(of)) = &held.truths else {
                return Err(Error::Unsupported {
                    who: "a label shift".to_owned(),
                    what: "be corrected for numbers".to_owned(),
                    instead: "use a method for sets of classes, or say `covariate`".to_owned(),
                });
            };
            let (classes, rows) = (held.names.len(), of.len() as f64);
            let labels = Labels::Classes { of: of.clone(), count: classes };
            let weights: Vec<f64> = if plan.shares.is_empty() {
                let new = new.ok_or_else(|| {
                    Error::Other(
                        "shares of classes are estimated from rows to answer; give some, or `shares`".to_owned(),
                    )
                })?;
                let found = Em::default().weights(held.answers.view(), &labels, new.answers.view())?;
                facts.extend(
                    held.names.iter().zip(&found.prior).map(|(name, share)| (format!("share of `{name}`"), *share)),
                );
                found.weights.iter().map(|weight| weight.max(0.0)).collect()
            } else {
                let sum: f64 = plan.shares.iter().sum();
                if plan.shares.len() != classes
                    || (sum - 1.0).abs() > 1e-6
                    || plan.shares.iter().any(|share| *share < 0.0)
                {
                    let all = held.names.join("`, `");
                    return Err(Error::Other(format!("`shares`: give a share for each of `{all}`, of sum one")));
                }
                let share = |class: usize| of.iter().filter(|of| **of == class).count() as f64 / rows;
                plan.shares.iter().enumerate().map(|(class, wanted)| wanted / share(class).max(1.0 / rows)).collect()
            };
            Ok(Some(Box::new(LabelShift { weights })))
        }
    }
}

/// What is known of each row beside its answers: its group, and under covariate shift its weight.
fn weighed(plan: &Plan, held: Given, new: Option<Given>, facts: &mut Vec<(String, f64)>) -> Result<[Option<Rows>; 2]> {
    let [mut ours, mut theirs] =
        [Some(&held), new.as_ref()].map(|given| vec![1.0; given.map_or(0, |g| g.answers.nrows())]);
    if plan.shift == Some(Told::Covariate) {
        match (&held.weights, new.as_ref()) {
            (Some(weights), new) => {
                ours.clone_from(weights);
                if let Some(weights) = new.and_then(|new| new.weights.as_ref()) {
                    theirs.clone_from(weights);
                }
            }
            (None, Some(new)) => (ours, theirs) = ratios(plan, &held, new)?,
            (None, None) => {
                let what = "weights are estimated from rows to answer; give some, or a column of weights with `weight`";
                return Err(Error::Other(what.to_owned()));
            }
        }
        let (sum, squares) = (ours.iter().sum::<f64>(), ours.iter().map(|w| w * w).sum::<f64>());
        facts.push(("effective calibration rows".to_owned(), sum * sum / squares));
        facts.push((
            "largest weight over the mean".to_owned(),
            ours.iter().copied().fold(0.0, f64::max) * ours.len() as f64 / sum,
        ));
    }
    let rows = |given: Given, ratios: Vec<f64>| {
        let known = (0..ratios.len()).map(|row| Row { group: given.group[row], ratio: ratios[row], class: None });
        Rows { known: known.collect(), given }
    };
    Ok([Some(rows(held, ours)), new.map(|new| rows(new, theirs))])
}

/// The density of new rows over that of calibration rows, at both, estimated.
fn ratios(plan: &Plan, held: &Given, new: &Given) -> Result<(Vec<f64>, Vec<f64>)> {
    if plan.features.is_empty() {
        let what = "a covariate shift needs a column of weights (`weight`), or columns by which they are estimated (`features`)";
        return Err(Error::Other(what.to_owned()));
    }
    let domains = Domains::read(&held.table, &new.table, &plan.features, &[])?;
    let method = find(ALIGN, &plan.ratio)?.build(&toml::Table::new())?;
    // Methods of weights look at no label.
    let labels = Labels::Numbers(vec![0.0; domains.source.nrows()]);
    let source = Source::new(domains.source.view(), &labels)?;
    let target = Target::new(domains.target.view(), &source)?;
    let aligned = method.align_any(&source, &target, &Host { learner: &Logistic::default(), seed: plan.seed })?;
    let weigh = |rows: &Array2<f64>| match aligned.view.weigh(rows.view()) {
        Some(weights) => Ok(weights?.to_vec()),
        None => Err(Error::Unsupported {
            who: plan.ratio.clone(),
            what: "weigh rows that it has not seen".to_owned(),
            instead: "use `discriminator_weights`, `gaussian_weights`, `kde_weights` or `kliep`".to_owned(),
        }),
    };
    Ok((weigh(&domains.source)?, weigh(&domains.target)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_number_of_rows_is_that_of_the_rank() {
        assert_eq!(least_rows(0.1), 9);
        assert_eq!(least_rows(0.05), 19);
        assert_eq!(least_rows(0.5), 1);
        assert_eq!(least_rows(0.4), 2);
    }

    #[test]
    fn wilsons_interval_is_the_textbooks() {
        // Nine of ten: Wilson, 1927, as tabulated by Newcombe, 1998.
        let set = |row| Answer::Set { of: if row == 0 { vec![] } else { vec![0] }, all: 2 };
        let answers: Vec<Answer> = (0..10).map(set).collect();
        let judged = judge(&answers, &Truths::Classes(vec![0; 10]), &[1.0; 10], 0..10).unwrap();
        assert!(
            (judged.coverage.low - 0.5958).abs() < 1e-3 && (judged.coverage.high - 0.9821).abs() < 1e-3,
            "{judged:?}"
        );
    }
}
