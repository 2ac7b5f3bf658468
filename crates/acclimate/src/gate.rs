//! The gate: the unadapted model and a linear probe are always candidates, and the patch is kept only where it wins.

use crate::probe::{self, PENALTIES, Probe};
use crate::tasks::{Outputs, Prepared, ProbeLoss, Task};
use crate::train::{features, predict_all};
use acclimate_core::{AnyTensor, HeadStart, Model, Pass, Patch, Result, Rng};
use acclimate_data::metrics::{Interval, bootstrap, paired_bootstrap};
use acclimate_data::{Labels, split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Draws of each bootstrap.
const DRAWS: usize = 1000;

/// Coverage of every interval.
const LEVEL: f64 = 0.95;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidate {
    /// The model as it is; without a head for the task, the class frequencies or the mean of the training rows.
    Unadapted,
    /// A linear model on the frozen features.
    Probe,
    /// The trained patch.
    Patch,
}

impl Candidate {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unadapted => "unadapted",
            Self::Probe => "probe",
            Self::Patch => "patch",
        }
    }
}

/// A score with its interval, as files keep it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The value on the rows.
    #[serde(deserialize_with = "crate::nan::number")]
    pub value: f64,
    /// Lower bound of the 95 % bootstrap interval.
    #[serde(deserialize_with = "crate::nan::number")]
    pub low: f64,
    /// Upper bound.
    #[serde(deserialize_with = "crate::nan::number")]
    pub high: f64,
}

impl From<Interval> for Score {
    fn from(interval: Interval) -> Self {
        Self { value: interval.estimate, low: interval.low, high: interval.high }
    }
}

/// A score of any of the rows, with repetitions.
type OfRows<'a> = Box<dyn Fn(&[usize]) -> f64 + 'a>;

fn of_rows<'a>(task: &'a dyn Task, outputs: &'a Outputs, labels: &'a Labels) -> OfRows<'a> {
    match task.row_scores(&outputs.iter().collect::<Vec<_>>()) {
        Some(scores) => mean_of(scores),
        None => Box::new(|rows| score_of(task, outputs, labels, rows)),
    }
}

fn mean_of<'a>(scores: Vec<f64>) -> OfRows<'a> {
    Box::new(move |rows| rows.iter().map(|&row| scores[row]).sum::<f64>() / rows.len() as f64)
}

fn score_of(task: &dyn Task, outputs: &Outputs, labels: &Labels, rows: &[usize]) -> f64 {
    task.score(&rows.iter().map(|&row| &outputs[row]).collect::<Vec<_>>(), &labels.select(rows))
}

/// The score of answers with a bootstrap interval over rows.
pub fn score(task: &dyn Task, outputs: &Outputs, labels: &Labels, seed: u64) -> Score {
    bootstrap(outputs.len(), DRAWS, LEVEL, seed, of_rows(task, outputs, labels)).into()
}

/// As [`score`], of answers by a fit per fold. Where answers are judged beside each other, only those of one fold are; the folds
/// count by their rows.
pub fn crossfit_score(task: &dyn Task, outputs: &Outputs, labels: &Labels, fold_of: &[usize], seed: u64) -> Score {
    if !task.is_relative() {
        return score(task, outputs, labels, seed);
    }
    let by_fold = |rows: &[usize]| {
        let mut folds = BTreeMap::<usize, Vec<usize>>::new();
        rows.iter().for_each(|&row| folds.entry(fold_of[row]).or_default().push(row));
        folds.into_values()
    };
    let mut scores = vec![f64::NAN; outputs.len()];
    for fold in by_fold(&(0..outputs.len()).collect::<Vec<_>>()) {
        let own = task.row_scores(&fold.iter().map(|&row| &outputs[row]).collect::<Vec<_>>()).unwrap_or_default();
        fold.iter().zip(own).for_each(|(&row, score)| scores[row] = score);
    }
    let on: OfRows<'_> = if scores.iter().any(|score| score.is_nan()) {
        Box::new(|rows| {
            let part = |fold: Vec<usize>| score_of(task, outputs, labels, &fold) * fold.len() as f64;
            by_fold(rows).map(part).sum::<f64>() / rows.len() as f64
        })
    } else {
        mean_of(scores)
    };
    bootstrap(outputs.len(), DRAWS, LEVEL, seed, on).into()
}

/// The difference of two candidates' scores on the same rows.
pub fn difference(task: &dyn Task, first: &Outputs, second: &Outputs, labels: &Labels, seed: u64) -> Score {
    let (first, second, n) = (of_rows(task, first, labels), of_rows(task, second, labels), first.len());
    paired_bootstrap(n, DRAWS, LEVEL, seed, first, second).into()
}

/// Targets of a probe: one-hot, 0/1 or standardised.
fn targets(task: &dyn Task, labels: &Labels) -> Vec<Vec<f64>> {
    match labels {
        Labels::Classes { names, index } => {
            index.iter().map(|&c| (0..names.len()).map(|k| f64::from(u8::from(k == c))).collect()).collect()
        }
        Labels::MultiLabel { rows, .. } => {
            rows.iter().map(|row| row.iter().map(|&holds| f64::from(u8::from(holds))).collect()).collect()
        }
        Labels::Numbers(numbers) => {
            let [mean, std] = task.spec().scale;
            numbers.iter().map(|x| vec![(x - mean) / std]).collect()
        }
        Labels::Tokens { .. } | Labels::Pairs(_) | Labels::Text(_) | Labels::Choice(_) => vec![],
    }
}

/// What a probe says, in the task's own outputs.
fn answers(task: &dyn Task, probe: &Probe, features: &Outputs) -> Outputs {
    let [mean, std] = task.spec().scale;
    let logits = probe.logits(features);
    match task.probe() {
        Some(ProbeLoss::Squared) => {
            logits.into_iter().map(|row| row.into_iter().map(|x| x * std + mean).collect()).collect()
        }
        _ => logits,
    }
}

/// Fits a probe whose penalty is chosen by cross-validation inside the rows.
///
/// # Errors
/// The solver's.
pub fn fit_probe(task: &dyn Task, loss: ProbeLoss, features: &Outputs, labels: &Labels, seed: u64) -> Result<Probe> {
    let wanted = targets(task, labels);
    let folds = split::folds(&labels.strata(), 5.min(features.len()), seed)?;
    let mut best: Option<(f64, f64)> = None;
    for penalty in PENALTIES {
        let mut said: Outputs = vec![vec![]; features.len()];
        for fold in &folds {
            let pick = |all: &Outputs| fold.train.iter().map(|&row| all[row].clone()).collect::<Vec<_>>();
            let probe = probe::fit(&pick(features), &pick(&wanted), loss, penalty)?;
            let held: Outputs = fold.held_out.iter().map(|&row| features[row].clone()).collect();
            for (&row, answer) in fold.held_out.iter().zip(answers(task, &probe, &held)) {
                said[row] = answer;
            }
        }
        let score = task.score(&said.iter().collect::<Vec<_>>(), labels);
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, penalty));
        }
    }
    probe::fit(features, &wanted, loss, best.map_or(PENALTIES[1], |(_, penalty)| penalty))
}

/// A probe that can answer for the rows of a task.
pub struct FittedProbe(Probe);

impl FittedProbe {
    /// Fits on rows of the data; nothing where a linear probe makes no sense.
    ///
    /// # Errors
    /// The model's or the solver's.
    pub fn new(model: &dyn Model, task: &dyn Task, data: &Prepared, rows: &[usize], seed: u64) -> Result<Option<Self>> {
        let Some(loss) = task.probe() else { return Ok(None) };
        let labels = data.labels()?.select(rows);
        Ok(Some(Self(fit_probe(task, loss, &features(model, data, rows)?, &labels, seed)?)))
    }

    /// What it says about rows.
    ///
    /// # Errors
    /// The model's.
    pub fn predict(&self, model: &dyn Model, task: &dyn Task, data: &Prepared, rows: &[usize]) -> Result<Outputs> {
        Ok(answers(task, &self.0, &features(model, data, rows)?))
    }

    /// The probe as a patch that holds nothing but a head.
    pub fn patch(&self, model: &dyn Model) -> Patch {
        let mut patch = Patch::new();
        patch.add_head(model, self.0.biases.len(), HeadStart::Zero, &mut Rng::new(0, "probe", 0));
        self.write(model, &mut patch);
        patch
    }

    /// Writes the probe into the head of a patch.
    pub fn write(&self, model: &dyn Model, patch: &mut Patch) {
        let ((dtype, device), outputs) = (model.like(), self.0.biases.len());
        let weight = AnyTensor::from_f64s(self.0.weights.concat(), &[outputs, model.width()], dtype, &device);
        patch.params.insert("head.weight", weight);
        patch.params.insert("head.bias", AnyTensor::from_f64s(self.0.biases.clone(), &[outputs], dtype, &device));
    }
}

/// What the model says without any training: its own head where it has one for the task, its features where they are the answer,
/// and otherwise what is most common in the training rows.
///
/// # Errors
/// The model's.
pub fn unadapted(
    model: &dyn Model,
    task: &dyn Task,
    data: &Prepared,
    rows: &[usize],
    train: &Labels,
) -> Result<Outputs> {
    if task.outputs().is_none() || own_head(model, task) {
        return predict_all(model, task, data, rows, &Pass::bare());
    }
    let constant = constant(train);
    Ok(match train {
        Labels::Tokens { .. } => {
            let most = (0..constant.len()).rev().max_by(|&a, &b| constant[a].total_cmp(&constant[b])).unwrap_or(0);
            rows.iter().map(|&row| vec![most as f64; data.left.word_starts(row).len()]).collect()
        }
        _ => vec![constant; rows.len()],
    })
}

/// What is most common in the training rows, as logits or as a number.
fn constant(train: &Labels) -> Vec<f64> {
    let log_odds = |share: f64| (share.max(1e-9) / (1.0 - share).max(1e-9)).ln();
    let log_shares = |classes: usize, of: &mut dyn Iterator<Item = usize>| {
        let mut counts = vec![0.0; classes];
        of.for_each(|class| counts[class] += 1.0);
        let n = counts.iter().sum::<f64>().max(1.0);
        counts.into_iter().map(|count| (count / n).max(1e-9).ln()).collect()
    };
    let n = train.len().max(1) as f64;
    match train {
        Labels::Classes { names, index } => log_shares(names.len(), &mut index.iter().copied()),
        Labels::Tokens { names, rows } => log_shares(names.len(), &mut rows.iter().flatten().copied()),
        Labels::MultiLabel { names, rows } => {
            (0..names.len()).map(|k| log_odds(rows.iter().filter(|row| row[k]).count() as f64 / n)).collect()
        }
        Labels::Numbers(numbers) => vec![numbers.iter().sum::<f64>() / n],
        Labels::Pairs(_) | Labels::Text(_) | Labels::Choice(_) => vec![],
    }
}

/// The unadapted model as a patch: an empty one, or a head that says what is most common where the model has none.
pub fn unadapted_patch(model: &dyn Model, task: &dyn Task, train: &Labels) -> Patch {
    if task.outputs().is_none() || own_head(model, task) {
        return Patch::new();
    }
    let mut biases = constant(train);
    if let Labels::Numbers(_) = train {
        let [mean, std] = task.spec().scale;
        biases.iter_mut().for_each(|x| *x = (*x - mean) / std);
    }
    FittedProbe(Probe { weights: vec![vec![0.0; model.width()]; biases.len()], biases, penalty: 0.0 }).patch(model)
}

/// Whether the model brings a head that fits the task.
pub fn own_head(model: &dyn Model, task: &dyn Task) -> bool {
    task.outputs().is_some() && model.outputs() == task.outputs()
}

/// The choice: the highest score inside the training rows; at equal scores the cheaper candidate, which comes first.
pub fn choose(scores: &[(Candidate, Score)]) -> Candidate {
    let mut best = scores.first().map_or((Candidate::Unadapted, f64::NEG_INFINITY), |(c, s)| (*c, s.value));
    for (candidate, score) in &scores[1.min(scores.len())..] {
        if score.value > best.1 || (best.1.is_nan() && !score.value.is_nan()) {
            best = (*candidate, score.value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskSpec;

    #[test]
    fn the_cheaper_candidate_keeps_a_tie() {
        let at = |value| Score { value, low: value, high: value };
        assert_eq!(choose(&[(Candidate::Unadapted, at(0.5)), (Candidate::Patch, at(0.5))]), Candidate::Unadapted);
        assert_eq!(choose(&[(Candidate::Unadapted, at(0.5)), (Candidate::Patch, at(0.6))]), Candidate::Patch);
        assert_eq!(choose(&[(Candidate::Probe, at(0.7)), (Candidate::Patch, at(f64::NAN))]), Candidate::Probe);
        let undefined = [(Candidate::Unadapted, at(f64::NAN)), (Candidate::Patch, at(f64::NAN))];
        assert_eq!(choose(&undefined), Candidate::Unadapted);
        assert_eq!(choose(&[(Candidate::Unadapted, at(f64::NAN)), (Candidate::Patch, at(0.1))]), Candidate::Patch);
    }

    #[test]
    fn intervals_of_a_ranking_draw_who_asks_and_not_what_can_be_found() {
        let kind = crate::recipe::TaskKind::Retrieval;
        let spec = TaskSpec { kind, names: vec![], weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
        // Rows 0 and 1 find the other's text first, and row 1 its own no sooner than the last one's; row 2 finds its own.
        let rows = vec![vec![1.0, 0.0, 0.0, 1.0], vec![0.0, 1.0, 1.0, 0.0], vec![-1.0, 0.0, -1.0, 0.0]];
        let got = score(spec.build().as_ref(), &rows, &Labels::Pairs(3), 0);
        assert_eq!(spec.build().row_scores(&rows.iter().collect::<Vec<_>>()), Some(vec![0.5, 1.0 / 3.0, 1.0]));
        assert!((got.value - 11.0 / 18.0).abs() < 1e-12);
        assert!((got.low - 1.0 / 3.0).abs() < 1e-12 && got.high <= 1.0, "{got:?}");
        let none = difference(spec.build().as_ref(), &rows, &rows, &Labels::Pairs(3), 0);
        assert_eq!([none.value, none.low, none.high], [0.0; 3]);
    }
}
