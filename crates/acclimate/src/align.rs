//! A learner for a target without labels: methods of alignment fitted, chosen without labels of the target, and kept only where they are
//! told to help.

use crate::bench::shift::Aligner;
use crate::domains::{Answered, Question};
use crate::gate::Score;
use crate::report::{CandidateRow, Interval, Report, Section, Tone, Verdict};
use acclimate_core::{Error, Result, Rng, find};
use acclimate_data::metrics::{over_seeds, paired_bootstrap};
use acclimate_shift::{
    AnyAlign, AnyScore, Case, Diagnosis, DiagnosisSettings, Fit, Host, Pair, SCORES, Source, SourceOnly, Target,
};
use acclimate_stats::learn::{
    Boosted, Forest, KernelRidge, Labels, Learner, Linear, Logistic, Nearest, Ridge, Svc, select,
};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Of five rows one is held out of each split.
const HELD: usize = 5;
/// How sure a better score must be.
const SURE: f64 = 0.95;
/// Draws of a bootstrap.
const DRAWS: usize = 1000;

/// What is fitted on the rows that a method of alignment makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnerKind {
    /// Support vectors with a Gaussian kernel for classes, kernel ridge regression for numbers.
    #[default]
    Kernel,
    /// Logistic regression for classes, ridge regression for numbers.
    Linear,
    /// A random forest.
    Forest,
    /// Boosted trees for classes, least squares for numbers.
    Boosted,
    /// The five nearest rows, for classes; least squares for numbers.
    Nearest,
}

impl LearnerKind {
    /// The learner for labels of a kind.
    pub fn build(self, labels: &Labels, seed: u64) -> Box<dyn Learner> {
        let classes = matches!(labels, Labels::Classes { .. });
        match (self, classes) {
            (Self::Kernel, true) => Box::new(Svc { probability: true, seed, ..Svc::default() }),
            (Self::Kernel, false) => Box::new(KernelRidge::default()),
            (Self::Linear, true) => Box::new(Logistic::default()),
            (Self::Linear, false) => Box::new(Ridge::default()),
            (Self::Forest, _) => Box::new(Forest { min_leaf: 2.0, seed, ..Forest::default() }),
            (Self::Boosted, true) => Box::new(Boosted::default()),
            (Self::Nearest, true) => Box::new(Nearest::default()),
            (Self::Boosted | Self::Nearest, false) => Box::new(Linear::default()),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The two tables. Labels of the target, where it has any, judge what was chosen; no fit and no choice sees them.
    pub question: Question,
    /// The candidates beside the learner by itself, each a name and settings that are not as they come.
    pub methods: Vec<String>,
    /// The learner.
    pub learner: LearnerKind,
    /// The score by which several methods are compared without labels of the target. None is right under every kind of shift, so there is
    /// none unless it is named.
    pub score: Option<String>,
    /// Splits in which they are scored.
    pub splits: usize,
    /// Chooses among the methods even where nothing tells that they help.
    pub ungated: bool,
    /// Names the random draws.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            question: Question::default(),
            methods: vec!["explained".to_owned()],
            learner: LearnerKind::default(),
            score: None,
            splits: 5,
            ungated: false,
            seed: 0,
        }
    }
}

/// A method that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// As it was written.
    pub name: String,
    /// The mean of its scores without labels of the target; larger is better.
    pub score: Option<f64>,
    /// The mean of the scores less those of the learner by itself, split by split, with a 95 % interval over splits.
    pub gain: Option<Score>,
    /// Named numbers of its fit on all rows.
    pub facts: Vec<(String, f64)>,
    /// Why it could not be fitted or scored.
    pub refused: Option<String>,
    /// The share of right answers on the target, or the root of the mean squared error, where its labels are known: for judging alone.
    pub judged: Option<f64>,
}

/// Who won, by labels of the target that nothing else has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Won {
    /// The chosen one is better than the learner by itself.
    Win,
    /// Neither is clearly better.
    Tie,
    /// It is worse.
    Loss,
}

/// The chosen one against the learner by itself, by labels of the target.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What is counted.
    pub metric: &'static str,
    /// Of the learner by itself.
    pub source_only: f64,
    /// Of what was chosen.
    pub chosen: f64,
    /// The difference in the chosen one's favour, with a 95 % interval over rows.
    pub gain: Score,
    /// In a word.
    pub result: Won,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Rows of the source.
    pub source_rows: usize,
    /// Rows of the target.
    pub target_rows: usize,
    /// The name of the score, if one was named.
    pub score: String,
    /// The p-value of the hypothesis that nothing changed between the tables.
    pub p: f64,
    /// The learner by itself, then the others.
    pub candidates: Vec<Candidate>,
    /// The name of the one that answers.
    pub chosen: String,
    /// Why.
    pub why: String,
    /// Who won, where labels of the target are known.
    pub judged: Option<Judged>,
    /// The classes' names; none for numbers.
    pub classes: Vec<String>,
    /// The answers of the chosen one to the target: probabilities of the classes or a number for each row.
    #[serde(skip)]
    pub answers: Array2<f64>,
    /// The class of each row; none for numbers.
    #[serde(skip)]
    pub predicted: Vec<usize>,
}

/// Rows of both domains in one split.
struct Split {
    source: [Vec<usize>; 2],
    target: [Vec<usize>; 2],
}

impl Split {
    /// The split of a number: a fifth of each domain is held out, of the source with like shares of classes.
    fn new(labels: &Labels, target: usize, seed: u64, number: usize) -> Self {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        let mut rng = Rng::new(seed, "align splits", number as u64);
        rng.shuffle(&mut order);
        if let Labels::Classes { of, .. } = labels {
            order.sort_by_key(|row| of[*row]);
        }
        let mut others: Vec<usize> = (0..target).collect();
        rng.shuffle(&mut others);
        let part = |order: Vec<usize>| {
            let (held, used): (Vec<_>, Vec<_>) =
                order.into_iter().enumerate().partition(|(place, _)| place % HELD == 0);
            [used, held].map(|rows| rows.into_iter().map(|(_, row)| row).collect())
        };
        Self { source: part(order), target: part(others) }
    }
}

/// Fits, chooses, gates, answers, and judges where it can.
///
/// # Errors
/// A table that cannot be read, a source without labels, an unknown method or score, several methods without a score or where labels are
/// numbers (no score works on them), and the learner's own. A candidate that refuses the data is a result.
///
/// # Example
/// ```
/// use acclimate::align::{Plan, run};
/// use acclimate::domains::Question;
///
/// let folder = std::env::temp_dir().join("acclimate align example");
/// std::fs::create_dir_all(&folder)?;
/// // The same rule on another scale.
/// let row = |at: i32, scale: f64| format!("{},{}\n", scale * f64::from(at * 37 % 100), if at * 37 % 100 > 50 { "yes" } else { "no" });
/// let table = |scale: f64| format!("x,label\n{}", (0..100).map(|at| row(at, scale)).collect::<String>());
/// let (old, new) = (folder.join("old.csv"), folder.join("new.csv"));
/// std::fs::write(&old, table(1.0))?;
/// std::fs::write(&new, table(0.4))?;
/// let (source, target) = (old.display().to_string(), new.display().to_string());
/// let plan = Plan {
///     question: Question { source, target, ..Question::default() },
///     methods: vec!["coral".to_owned()],
///     ungated: true,
///     ..Plan::default()
/// };
/// assert_eq!(run(&plan)?.chosen, "coral");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(plan: &Plan) -> Result<Outcome> {
    let score = plan.score.as_ref().map(|name| find(SCORES, name)?.build(&toml::Table::new())).transpose()?;
    let mut aligners = vec![Aligner { name: SOURCE_ONLY.to_owned(), method: Box::new(SourceOnly::default()) }];
    for text in &plan.methods {
        let aligner = Aligner::parse(text)?;
        if aligner.name != SOURCE_ONLY {
            aligners.push(aligner);
        }
    }
    let Answered { domains, label, classes, source, target } = plan.question.open()?;
    let labels = source.ok_or_else(|| {
        let what = "has no column of labels to learn from; name it with `--label`";
        Error::Format { file: plan.question.source.clone().into(), what: what.to_owned() }
    })?;
    if matches!(labels, Labels::Numbers(_)) && aligners.len() > 2 {
        let what = format!(
            "`{}` holds numbers, and no score compares methods on numbers; name one method",
            label.unwrap_or_default()
        );
        return Err(Error::Other(what));
    }
    // One method is not compared.
    let score = match (score, aligners.len() > 2) {
        (None, true) => {
            let what = "several methods are named and no score that chooses; name one method, or a score with `--score`, and check it on labels of the target: none is right under every kind of shift";
            return Err(Error::Other(what.to_owned()));
        }
        (score, compared) => score.filter(|_| compared),
    };
    if labels.len() < 2 * HELD || domains.target.nrows() < 2 * HELD {
        let what = format!(
            "alignment needs {} rows of each table at least, there are {} and {}",
            2 * HELD,
            labels.len(),
            domains.target.nrows()
        );
        return Err(Error::Other(what));
    }
    let task = Task { x: domains.source, labels, target: domains.target, seed: plan.seed };
    let learner = plan.learner.build(&task.labels, task.seed);
    let host = Host { learner: learner.as_ref(), seed: task.seed };
    let p = task.changed()?;
    let mut scored: Vec<Result<Vec<f64>>> = vec![];
    for aligner in &aligners {
        scored.push(match &score {
            Some(score) => task.scores(aligner.method.as_ref(), score.as_ref(), &host, plan.splits),
            None => Ok(vec![]),
        });
    }
    let mut fits = vec![];
    let (ours, theirs) = (Source::new(task.x.view(), &task.labels)?, task.target.view());
    let theirs = Target::new(theirs, &ours)?;
    for (aligner, scored) in aligners.iter().zip(&scored) {
        fits.push(
            scored.as_ref().map_err(ToString::to_string).and_then(|_| {
                Fit::new(aligner.method.as_ref(), &ours, &theirs, &host).map_err(|error| error.to_string())
            }),
        );
    }
    let truth = target.as_ref();
    let plain = scored[0].as_ref().map_or(vec![], Clone::clone);
    let mut candidates = vec![];
    for ((aligner, scored), fit) in aligners.iter().zip(&scored).zip(&fits) {
        let scores = scored.as_ref().ok().filter(|scores| !scores.is_empty());
        let gains = scores.map(|scores| scores.iter().zip(&plain).map(|(a, b)| a - b).collect::<Vec<f64>>());
        let gain = gains.map(|gains| over_seeds(&gains, SURE));
        let right = fit.as_ref().ok().zip(truth).map(|(fit, truth)| task.right(fit, truth)).transpose()?;
        candidates.push(Candidate {
            name: aligner.name.clone(),
            score: scores.map(|scores| scores.iter().sum::<f64>() / scores.len() as f64),
            gain: gain.map(|gain| Score { value: gain.estimate, low: gain.low, high: gain.high }),
            facts: fit.as_ref().map_or_else(|_| vec![], |fit| fit.facts.clone()),
            refused: fit.as_ref().err().cloned(),
            judged: right.map(|right| summed(truth, &right)),
        });
    }
    if let Some(why) = &candidates[0].refused {
        return Err(Error::Other(why.clone()));
    }
    let score = plan.score.clone().unwrap_or_default();
    let (at, why) = chosen(&candidates, p, plan.ungated, &score);
    let fit = fits.swap_remove(at).map_err(Error::Other)?;
    let judged = match truth {
        Some(truth) => {
            let plain = if at == 0 { None } else { Some(fits.swap_remove(0).map_err(Error::Other)?) };
            Some(task.judged(&fit, plain.as_ref(), truth)?)
        }
        None => None,
    };
    let predicted = match task.labels {
        Labels::Classes { .. } => fit.predict(task.target.view())?,
        Labels::Numbers(_) => vec![],
    };
    Ok(Outcome {
        source_rows: task.x.nrows(),
        target_rows: task.target.nrows(),
        score,
        p,
        chosen: candidates[at].name.clone(),
        candidates,
        why,
        judged,
        classes,
        answers: fit.answers(task.target.view())?,
        predicted,
    })
}

const SOURCE_ONLY: &str = "source_only";
const ACCURACY: &str = "accuracy";

/// Which candidate answers, and why.
///
/// A single method is kept where a shift was found: scores that see no label keep few of the gains of a method that finds out by itself
/// what changed. Of several the one with the highest score is kept, where that is surely above the learner's by itself.
fn chosen(candidates: &[Candidate], p: f64, ungated: bool, score: &str) -> (usize, String) {
    let level = DiagnosisSettings::default().level;
    if p > level && !ungated {
        return (0, format!("no shift was found (p = {p:.3}), so nothing is changed"));
    }
    let fitted: Vec<usize> = (0..candidates.len()).filter(|at| candidates[*at].refused.is_none()).collect();
    if candidates.len() == 2 {
        return match fitted.last() {
            Some(1) if p > level => (1, "it was asked for without a gate".to_owned()),
            Some(1) => (1, format!("a shift was found (p ≤ {p:.3}), and it is the one method that was named")),
            _ => (0, "the method refused the rows".to_owned()),
        };
    }
    let score_of = |at: usize| candidates[at].score.unwrap_or(f64::NEG_INFINITY);
    let best = fitted.into_iter().max_by(|a, b| score_of(*a).total_cmp(&score_of(*b)).then(b.cmp(a))).unwrap_or(0);
    let sure = candidates[best].gain.is_some_and(|gain| gain.low > 0.0);
    if best == 0 || !(ungated || sure) {
        return (0, format!("no method's `{score}` is surely above that of the learner by itself"));
    }
    (best, format!("its `{score}` is the highest of {} candidates", candidates.len()))
}

/// The rows of both domains. Nothing of the target's labels is in it.
pub(crate) struct Task {
    pub(crate) x: Array2<f64>,
    pub(crate) labels: Labels,
    pub(crate) target: Array2<f64>,
    pub(crate) seed: u64,
}

impl Task {
    /// The p-value of the hypothesis that nothing changed. It sees no label of the target.
    fn changed(&self) -> Result<f64> {
        let pair = Pair {
            source: self.x.view(),
            labels: Some(&self.labels),
            target: self.target.view(),
            target_labels: None,
            columns: &[],
        };
        let settings = DiagnosisSettings { seed: self.seed, permutations: 199, ..DiagnosisSettings::default() };
        Ok(Diagnosis::new(&pair, &settings)?.p)
    }

    /// The scores of a method, split by split.
    pub(crate) fn scores(
        &self,
        method: &dyn AnyAlign,
        score: &dyn AnyScore,
        host: &Host<'_>,
        splits: usize,
    ) -> Result<Vec<f64>> {
        let one = |number| {
            let split = Split::new(&self.labels, self.target.nrows(), self.seed, number);
            let [used, held] =
                split.source.each_ref().map(|rows| (select(self.x.view(), rows), self.labels.select(rows)));
            let [target, target_held] = split.target.each_ref().map(|rows| select(self.target.view(), rows));
            let (source, held) = (Source::new(used.0.view(), &used.1)?, Source::new(held.0.view(), &held.1)?);
            let (target, target_held) =
                (Target::new(target.view(), &source)?, Target::new(target_held.view(), &source)?);
            let fit = Fit::new(method, &source, &target, host)?;
            score.score_any(&Case { method, host, source, held, target, target_held, fit: &fit })
        };
        (0..splits.max(2)).map(one).collect()
    }

    /// One for each row that is answered rightly, of numbers the squared error.
    fn right(&self, fit: &Fit, truth: &Labels) -> Result<Vec<f64>> {
        Ok(match truth {
            Labels::Classes { of, .. } => {
                let said = fit.predict(self.target.view())?;
                said.iter().zip(of).map(|(said, truth)| f64::from(u8::from(said == truth))).collect()
            }
            Labels::Numbers(numbers) => {
                let said = fit.answers(self.target.view())?;
                said.column(0).iter().zip(numbers).map(|(said, truth)| (said - truth).powi(2)).collect()
            }
        })
    }

    fn judged(&self, chosen: &Fit, plain: Option<&Fit>, truth: &Labels) -> Result<Judged> {
        let ours = self.right(chosen, truth)?;
        let theirs = plain.map_or_else(|| Ok(ours.clone()), |plain| self.right(plain, truth))?;
        let classes = matches!(truth, Labels::Classes { .. });
        let mean = |values: &[f64], rows: &[usize]| {
            let mean = rows.iter().map(|row| values[*row]).sum::<f64>() / rows.len() as f64;
            if classes { mean } else { -mean.sqrt() }
        };
        let found =
            paired_bootstrap(ours.len(), DRAWS, 0.95, self.seed, |rows| mean(&ours, rows), |rows| mean(&theirs, rows));
        let result = match (found.low > 0.0, found.high < 0.0) {
            (true, _) => Won::Win,
            (_, true) => Won::Loss,
            _ => Won::Tie,
        };
        Ok(Judged {
            metric: if classes { ACCURACY } else { "root mean squared error" },
            source_only: summed(Some(truth), &theirs),
            chosen: summed(Some(truth), &ours),
            gain: Score { value: found.estimate, low: found.low, high: found.high },
            result,
        })
    }
}

/// The accuracy, or the root of the mean squared error.
fn summed(truth: Option<&Labels>, right: &[f64]) -> f64 {
    let mean = right.iter().sum::<f64>() / right.len().max(1) as f64;
    if matches!(truth, Some(Labels::Numbers(_))) { mean.sqrt() } else { mean }
}

impl Outcome {
    /// A row for each candidate under a heading.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let judged = self.judged.as_ref().map_or("", |judged| judged.metric);
        let compared = self.candidates.iter().any(|candidate| candidate.score.is_some());
        let score = if compared { self.score.as_str() } else { "" };
        let mut rows = vec![["candidate", score, "above the learner by itself", judged].map(str::to_owned).to_vec()];
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        rows.extend(self.candidates.iter().map(|candidate| {
            let gain = match (&candidate.refused, candidate.gain) {
                (Some(why), _) => format!("refused: {why}"),
                (None, Some(gain)) if candidate.name != SOURCE_ONLY => {
                    format!("{:+.4} ({:+.4} to {:+.4})", gain.value, gain.low, gain.high)
                }
                _ => String::new(),
            };
            vec![candidate.name.clone(), number(candidate.score), gain, number(candidate.judged)]
        }));
        rows
    }

    /// What was chosen, and what labels of the target say of it.
    pub fn sentence(&self) -> String {
        let told = format!("`{}` answers: {}.", self.chosen, self.why);
        let Some(judged) = &self.judged else {
            return format!("{told} The target has no labels to judge it by.");
        };
        if self.chosen == SOURCE_ONLY {
            return format!("{told} Its {} on the target is {:.3}.", judged.metric, judged.chosen);
        }
        let result = match judged.result {
            Won::Win => "a win",
            Won::Tie => "a tie",
            Won::Loss => "a loss",
        };
        format!(
            "{told} By labels of the target, which no fit and no choice has seen, its {} is {:.3} against {:.3} of the learner by itself: {result} \
             ({:+.3}, 95 % interval {:+.3} to {:+.3}).",
            judged.metric, judged.chosen, judged.source_only, judged.gain.value, judged.gain.low, judged.gain.high
        )
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_page(&self, file: &Path) -> Result<()> {
        let points = |score: Score| Interval { low: 100.0 * score.low, high: 100.0 * score.high };
        let tone = match self.judged.as_ref().map(|judged| judged.result) {
            Some(Won::Win) => Tone::Good,
            Some(Won::Loss) => Tone::Bad,
            _ => Tone::Neutral,
        };
        let counted = self.judged.as_ref().filter(|judged| judged.metric == ACCURACY && self.chosen != SOURCE_ONLY);
        let row = |candidate: &Candidate| CandidateRow {
            name: candidate.name.clone(),
            detail: candidate.refused.clone().unwrap_or_default(),
            score: candidate.score.unwrap_or(f64::NAN),
            interval: None,
            chosen: candidate.name == self.chosen,
        };
        let mut rows = self.rows();
        let header = rows.remove(0);
        let mut sections = vec![Section::Table {
            title: "Candidates".to_owned(),
            note: "Scores are means over splits and see no label of the target; the last column does, and was read after all was chosen."
                .to_owned(),
            header,
            rows,
        }];
        if self.candidates.iter().any(|candidate| candidate.score.is_some()) {
            sections.push(Section::Candidates {
                title: "Scores without labels of the target".to_owned(),
                note: String::new(),
                score: self.score.clone(),
                rows: self.candidates.iter().map(row).collect(),
            });
        }
        let facts: Vec<(String, String)> = self
            .candidates
            .iter()
            .filter(|candidate| candidate.name == self.chosen)
            .flat_map(|candidate| &candidate.facts)
            .map(|(name, value)| (name.clone(), format!("{value:.4}")))
            .collect();
        if !facts.is_empty() {
            sections.push(Section::Facts { title: format!("What {} found", self.chosen), rows: facts });
        }
        let report = Report {
            title: "A model for the target".to_owned(),
            subtitle: format!(
                "{} labelled rows of the source, {} rows of the target",
                self.source_rows, self.target_rows
            ),
            verdict: Verdict {
                chosen: self.chosen.clone(),
                gain: counted.map(|judged| 100.0 * judged.gain.value),
                interval: counted.map(|judged| points(judged.gain)),
                sentence: self.sentence(),
                tone,
            },
            sections,
        };
        report.write(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, score: f64, low: f64) -> Candidate {
        let gain = Some(Score { value: low + 0.1, low, high: low + 0.2 });
        Candidate { name: name.to_owned(), score: Some(score), gain, facts: vec![], refused: None, judged: None }
    }

    #[test]
    fn a_method_is_kept_where_a_shift_was_found_and_its_score_is_surely_higher() {
        let all = [candidate(SOURCE_ONLY, 0.5, 0.0), candidate("a", 0.7, 0.05), candidate("b", 0.6, 0.01)];
        assert_eq!(chosen(&all, 0.01, false, "score").0, 1);
        assert_eq!(chosen(&all, 0.3, false, "score").0, 0, "nothing changed");
        let unsure = [candidate(SOURCE_ONLY, 0.5, 0.0), candidate("a", 0.7, -0.05), candidate("b", 0.4, -0.2)];
        assert_eq!(chosen(&unsure, 0.01, false, "score").0, 0);
        assert_eq!(chosen(&unsure, 0.01, true, "score").0, 1, "without a gate");
        let refused = Candidate { refused: Some("no".to_owned()), ..candidate("a", 0.9, 0.3) };
        assert_eq!(chosen(&[all[0].clone(), refused.clone(), all[2].clone()], 0.01, false, "score").0, 2);
        assert_eq!(chosen(&[all[0].clone(), refused], 0.01, false, "score").0, 0);
        assert_eq!(chosen(&all[..2], 0.01, false, "score").0, 1, "one method needs no score");
    }
}
