//! Methods of alignment on simulated pairs of domains whose kind of shift is known.

use super::{settings, side_by_side};
use crate::align::Task;
use crate::report::{Report, Section, Tone, Verdict};
use acclimate_core::{Error, Result, find};
use acclimate_shift::{
    ALIGN, AnyAlign, AnyScore, Fit, Host, SCORES, ShiftKind, ShiftedPair, Source, SourceOnly, Target,
};
use acclimate_stats::learn::{Labels, Svc, select};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Splits in which a score chooses.
const INNER: usize = 5;

/// A method that takes part.
#[derive(Debug)]
pub struct Aligner {
    /// As it was written: a name and settings that are not as they come.
    pub name: String,
    pub(crate) method: Box<dyn AnyAlign>,
}

impl Aligner {
    /// A method from a text such as `coral estimate="ledoit_wolf"`.
    ///
    /// # Errors
    /// An unknown method or setting.
    ///
    /// # Example
    /// ```
    /// use acclimate::bench::shift::Aligner;
    ///
    /// assert_eq!(Aligner::parse(" kmm  bound=10.0")?.name, "kmm bound=10.0");
    /// assert!(Aligner::parse("kmn").unwrap_err().to_string().contains("kmm"));
    /// # Ok::<(), acclimate_core::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let method = find(ALIGN, words.next().unwrap_or_default())?.build(&settings(words)?)?;
        Ok(Self { name: text.split_whitespace().collect::<Vec<_>>().join(" "), method })
    }

    /// Every method, as it comes.
    ///
    /// # Errors
    /// None: defaults are built by tests.
    pub fn all() -> Result<Vec<Self>> {
        ALIGN.iter().map(|entry| Self::parse(entry.card.name)).collect()
    }
}

/// What is to be compared.
#[derive(Debug)]
pub struct Plan {
    /// The methods.
    pub methods: Vec<Aligner>,
    /// The first draw of the data; the benchmark's are zero to four.
    pub first: u32,
    /// How many draws.
    pub seeds: u32,
    /// Splits of each draw into rows to fit and rows to judge.
    pub splits: usize,
    /// Scores without labels of the target that choose among the methods and the learner by itself, each a row of its own: on splits of the
    /// rows to fit, by the highest mean.
    pub choose: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The draws.
    pub seeds: Vec<u32>,
    /// Splits of each.
    pub splits: usize,
    /// By method, as it was written, and kind of shift.
    pub methods: BTreeMap<String, BTreeMap<String, Accuracy>>,
}

/// A method on one kind of shift.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// The mean accuracy on untouched rows of the target; none where the method refused the data.
    pub mean: Option<f64>,
    /// The standard error of that mean, over the means of draws.
    pub standard_error: Option<f64>,
    /// The mean less that of the learner by itself.
    pub gain: Option<f64>,
    /// Draw by draw, the mean over splits.
    pub seeds: Vec<f64>,
    /// Why the method refused.
    pub refused: Option<String>,
}

/// One draw for all methods: their accuracies, the learner's own first, split by split.
type Scores = Vec<Result<f64>>;

/// Runs a plan with the benchmark's learner, a support vector classifier with Gaussian kernels. `told` hears how many draws are done, of how
/// many, and which it was.
///
/// # Errors
/// No method, draw or split; a method that refuses the data is a result.
///
/// # Example
/// ```
/// use acclimate::bench::shift::{Aligner, Plan, run};
///
/// let plan = Plan { methods: vec![Aligner::parse("subspace_alignment")?], first: 100, seeds: 1, splits: 1, choose: vec![] };
/// let outcome = run(&plan, &|_, _, _| ())?;
/// assert!(outcome.methods["subspace_alignment"]["covariate"].mean.is_some());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
pub fn run(plan: &Plan, told: &(dyn Fn(usize, usize, &str) + Sync)) -> Result<Outcome> {
    if plan.methods.is_empty() || plan.seeds == 0 || plan.splits == 0 {
        return Err(Error::Other("a comparison needs a method, a seed and a split at least".to_owned()));
    }
    for name in &plan.choose {
        find(SCORES, name)?;
    }
    let seeds: Vec<u32> = (0..plan.seeds).map(|at| plan.first + at).collect();
    let draws = |kind: ShiftKind| seeds.iter().map(move |seed| (kind, *seed));
    let jobs: Vec<(ShiftKind, u32)> = ShiftKind::ALL.into_iter().flat_map(draws).collect();
    let (all, done) = (jobs.len(), AtomicUsize::new(0));
    let found = side_by_side(jobs, |&(kind, seed)| {
        let scores = draw(plan, kind, seed)?;
        told(done.fetch_add(1, Ordering::Relaxed) + 1, all, &format!("{kind}, seed {seed}"));
        Ok(scores)
    })?;
    let mut methods = BTreeMap::new();
    let chosen = plan.choose.iter().map(|score| format!("chosen by {score}"));
    for (at, name) in plan.methods.iter().map(|method| method.name.clone()).chain(chosen).enumerate() {
        let of_kind = |(kind, draws): (ShiftKind, &[Vec<Scores>])| (kind.to_string(), accuracy(draws, at + 1));
        let kinds = ShiftKind::ALL.into_iter().zip(found.chunks(seeds.len()));
        methods.insert(name, kinds.map(of_kind).collect());
    }
    Ok(Outcome { seeds, splits: plan.splits, methods })
}

fn draw(plan: &Plan, kind: ShiftKind, seed: u32) -> Result<Vec<Scores>> {
    let pair = ShiftedPair::new(kind, seed);
    let split = |split: acclimate_shift::ShiftedSplit| -> Result<Scores> {
        let [source, target, test] =
            [(&pair.source, &split.source), (&pair.target, &split.target), (&pair.target, &split.test)]
                .map(|(rows, chosen)| select(rows.view(), chosen));
        let of = |labels: &[usize], rows: &[usize]| rows.iter().map(|row| labels[*row]).collect::<Vec<_>>();
        let labels = Labels::Classes { of: of(&pair.source_labels, &split.source), count: 2 };
        let truth = of(&pair.target_labels, &split.test);
        let source = Source::new(source.view(), &labels)?;
        let target = Target::new(target.view(), &source)?;
        let host = Host { learner: &Svc::default(), seed: 0 };
        let score = |method: &dyn AnyAlign| -> Result<f64> {
            let answers = Fit::new(method, &source, &target, &host)?.predict(test.view())?;
            Ok(answers.iter().zip(&truth).filter(|(a, b)| a == b).count() as f64 / truth.len() as f64)
        };
        let plain = SourceOnly::default();
        let methods: Vec<&dyn AnyAlign> = std::iter::once(&plain as &dyn AnyAlign)
            .chain(plan.methods.iter().map(|aligner| aligner.method.as_ref()))
            .collect();
        let mut scores: Scores = methods.iter().map(|method| score(*method)).collect();
        let task = Task { x: source.x.to_owned(), labels: labels.clone(), target: target.x.to_owned(), seed: 0 };
        for name in &plan.choose {
            let chosen = chosen(&task, &methods, find(SCORES, name)?.build(&toml::Table::new())?.as_ref(), &host);
            scores.push(chosen.and_then(|at| match &scores[at] {
                Ok(accuracy) => Ok(*accuracy),
                Err(error) => Err(Error::Other(error.to_string())),
            }));
        }
        Ok(scores)
    };
    pair.splits(plan.splits).into_iter().map(split).collect()
}

/// The method with the highest mean score on five splits of the rows to fit; of equals the first.
fn chosen(task: &Task, methods: &[&dyn AnyAlign], score: &dyn AnyScore, host: &Host<'_>) -> Result<usize> {
    let mean = |method: &&dyn AnyAlign| -> f64 {
        // A method that refuses the rows is not chosen.
        let scores = task.scores(*method, score, host, INNER);
        scores.map_or(f64::NEG_INFINITY, |scores| scores.iter().sum::<f64>() / scores.len() as f64)
    };
    let means: Vec<f64> = methods.iter().map(mean).collect();
    let best = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    means
        .iter()
        .position(|mean| *mean == best && best.is_finite())
        .ok_or_else(|| Error::Other(format!("{}: no method could be scored", score.card().name)))
}

/// The scores of a method, number `at` in each list, over draws.
fn accuracy(draws: &[Vec<Scores>], at: usize) -> Accuracy {
    let refused = draws.iter().flatten().find_map(|scores| scores[at].as_ref().err()).map(ToString::to_string);
    let means = |at: usize| -> Vec<f64> {
        let mean = |splits: &Vec<Scores>| {
            splits.iter().filter_map(|scores| scores[at].as_ref().ok()).sum::<f64>() / splits.len() as f64
        };
        draws.iter().map(mean).collect()
    };
    if refused.is_some() {
        return Accuracy { mean: None, standard_error: None, gain: None, seeds: vec![], refused };
    }
    let (seeds, plain) = (means(at), means(0));
    let count = seeds.len() as f64;
    let mean = seeds.iter().sum::<f64>() / count;
    let square: f64 = seeds.iter().map(|x| (x - mean).powi(2)).sum();
    Accuracy {
        mean: Some(mean),
        standard_error: (count > 1.0).then(|| (square / (count - 1.0) / count).sqrt()),
        gain: Some(mean - plain.iter().sum::<f64>() / count),
        seeds,
        refused,
    }
}

impl Outcome {
    /// The table: a row for each method, a column for each kind.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let cell = |accuracy: &Accuracy| match (accuracy.mean, accuracy.standard_error, accuracy.gain) {
            (Some(mean), Some(error), Some(gain)) => format!("{mean:.3} ± {error:.3} ({gain:+.3})"),
            (Some(mean), None, Some(gain)) => format!("{mean:.3} ({gain:+.3})"),
            _ => "–".to_owned(),
        };
        let row = |(name, kinds): (&String, &BTreeMap<String, Accuracy>)| {
            let cells = ShiftKind::ALL.into_iter().map(|kind| cell(&kinds[&kind.to_string()]));
            std::iter::once(name.clone()).chain(cells).collect()
        };
        self.methods.iter().map(row).collect()
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_page(&self, file: &Path) -> Result<()> {
        let kinds = ShiftKind::ALL.map(|kind| kind.to_string());
        let report = Report {
            title: "Methods of alignment beside each other".to_owned(),
            subtitle: format!("{} draws of four simulated pairs, {} splits each", self.seeds.len(), self.splits),
            verdict: Verdict {
                chosen: self.methods.keys().cloned().collect::<Vec<_>>().join(", "),
                gain: None,
                interval: None,
                sentence: "Accuracy on untouched rows of the target, whose labels no method has seen.".to_owned(),
                tone: Tone::Neutral,
            },
            sections: vec![Section::Table {
                title: "Accuracy".to_owned(),
                note: "Means and their standard errors over draws; in brackets the difference from the learner by itself. A dash is a \
                       method that refused the data; the numbers say why."
                    .to_owned(),
                header: std::iter::once("method".to_owned()).chain(kinds).collect(),
                rows: self.rows(),
            }],
        };
        report.write(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_errors_are_over_draws() {
        let draws = vec![
            vec![vec![Ok(0.5), Ok(0.6)], vec![Ok(0.5), Ok(0.8)]],
            vec![vec![Ok(0.7), Ok(0.9)], vec![Ok(0.7), Ok(0.9)]],
        ];
        let found = accuracy(&draws, 1);
        assert!((found.mean.unwrap() - 0.8).abs() < 1e-12 && (found.gain.unwrap() - 0.2).abs() < 1e-12);
        assert!((found.standard_error.unwrap() - 0.1).abs() < 1e-12, "{found:?}");
        let broken = vec![vec![vec![Ok(0.5), Err(Error::Other("no".to_owned()))]]];
        assert_eq!(accuracy(&broken, 1).refused.as_deref(), Some("no"));
    }

    #[test]
    fn a_score_chooses_one_of_the_candidates() {
        let methods = vec![Aligner::parse("subspace_alignment").unwrap()];
        let plan = Plan { methods, first: 100, seeds: 1, splits: 1, choose: vec!["class_ami".to_owned()] };
        let outcome = run(&plan, &|_, _, _| ()).unwrap();
        let [method, chosen] =
            ["subspace_alignment", "chosen by class_ami"].map(|name| &outcome.methods[name]["covariate"]);
        let (method, chosen) = (method.clone(), chosen.clone());
        let plain = method.mean.unwrap() - method.gain.unwrap();
        let of = |accuracy: f64| (chosen.mean.unwrap() - accuracy).abs() < 1e-12;
        assert!(of(plain) || of(method.mean.unwrap()), "{chosen:?}");
        assert!(run(&Plan { choose: vec!["accuracy".to_owned()], ..plan }, &|_, _, _| ()).is_err());
    }

    #[test]
    fn the_learner_by_itself_is_the_published_row() {
        // skada-bench's covariate shift, the first of its seeds.
        let plan = Plan {
            methods: vec![Aligner::parse("source_only").unwrap()],
            first: 0,
            seeds: 1,
            splits: 1,
            choose: vec![],
        };
        let outcome = run(&plan, &|_, _, _| ()).unwrap();
        let covariate = &outcome.methods["source_only"]["covariate"];
        assert!(covariate.mean.unwrap() > 0.8 && covariate.gain == Some(0.0), "{covariate:?}");
    }
}
