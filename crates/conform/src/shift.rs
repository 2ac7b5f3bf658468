//! Laws of every method of alignment and of every score without labels of the target, on two small domains.

use crate::{Check, trials, why};
use acclimate_core::{Card, Entry, Rng};
use acclimate_shift::{AnyAlign, AnyScore, Case, Fit, Host, Source, SourceOnly, Target};
use acclimate_stats::learn::{Labels, Learner, Linear, Logistic, select};
use libtest_mimic::{Failed, Trial};
use ndarray::{Array2, ArrayView2, s};
use std::sync::Arc;

/// Rows of each domain.
const ROWS: usize = 60;

/// What answers that depend on no order may still differ by: iterations end at tolerances of their own.
const ROUNDING: f64 = 1e-4;

/// A method between a labelled source and a target that lies elsewhere.
pub struct Alignment {
    method: Box<dyn AnyAlign>,
    learner: Box<dyn Learner>,
    source: Array2<f64>,
    labels: Labels,
    target: Array2<f64>,
}

/// Two classes of normal rows, and the middle of them moved by `shift`.
fn rows(seed: u64, shift: f64) -> Array2<f64> {
    let mut rng = Rng::new(seed, "rows", 0);
    let side = |row: usize| if row.is_multiple_of(2) { -1.2 } else { 1.2 };
    Array2::from_shape_fn((ROWS, 2), |(row, column)| {
        0.6 * rng.normal() + if column == 0 { side(row) + shift } else { 0.4 * side(row) }
    })
}

fn classes(rows: usize) -> Labels {
    Labels::Classes { of: (0..rows).map(|row| row % 2).collect(), count: 2 }
}

impl Alignment {
    /// A method with labels of the kind it takes: classes, or numbers where it refuses these.
    ///
    /// # Errors
    /// When it refuses both.
    pub fn new(method: Box<dyn AnyAlign>) -> Result<Self, String> {
        let source = rows(1, 0.0);
        let numbers = source.column(0).to_vec();
        let mut subject = Self {
            method,
            learner: Box::new(Logistic::default()),
            source,
            labels: classes(ROWS),
            target: rows(2, 0.5),
        };
        if subject.fit().is_err() {
            subject.learner = Box::new(Linear::default());
            subject.labels = Labels::Numbers(numbers);
            subject.fit()?;
        }
        Ok(subject)
    }

    fn reproduces(&self) -> bool {
        reproduces(&self.method.settings())
    }

    fn host(&self) -> Host<'_> {
        Host { learner: self.learner.as_ref(), seed: 3 }
    }

    fn fit_on(
        &self,
        source: ArrayView2<'_, f64>,
        labels: &Labels,
        target: ArrayView2<'_, f64>,
    ) -> acclimate_core::Result<Fit> {
        let source = Source::new(source, labels)?;
        Fit::new(self.method.as_ref(), &source, &Target::new(target, &source)?, &self.host())
    }

    fn fit(&self) -> Result<Fit, String> {
        self.fit_on(self.source.view(), &self.labels, self.target.view()).map_err(why)
    }
}

/// The laws of methods of alignment.
pub static ALIGN_CHECKS: &[Check<Alignment>] = &[
    Check { name: "a_lesson_can_be_learned", applies: |_| true, run: a_lesson_can_be_learned },
    Check { name: "equal_domains_lose_little", applies: |_| true, run: equal_domains_lose_little },
    Check { name: "the_order_of_rows_does_not_matter", applies: |_| true, run: the_order_of_rows_does_not_matter },
    Check { name: "equal_runs_give_equal_bits", applies: |_| true, run: equal_align_runs_give_equal_bits },
    Check { name: "a_saved_fit_answers_alike", applies: |_| true, run: a_saved_fit_answers_alike },
    Check { name: "rows_of_another_width_are_refused", applies: |_| true, run: rows_of_another_width_are_refused },
    Check { name: "poor_domains_are_told_or_fitted", applies: |_| true, run: poor_domains_are_told_or_fitted },
];

/// Whether settings reproduce another program's figures, its faults included; goldens say what they are.
fn reproduces(settings: &toml::Table) -> bool {
    settings.get("compat").and_then(toml::Value::as_bool) == Some(true)
}

fn finite(what: &str, values: &Array2<f64>) -> Result<(), String> {
    match values.indexed_iter().find(|(_, value)| !value.is_finite()) {
        Some(((row, column), value)) => Err(format!("{what}: {value} in row {row}, column {column}")),
        None => Ok(()),
    }
}

fn apart(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn a_lesson_can_be_learned(subject: &Alignment) -> Result<(), String> {
    let fit = subject.fit()?;
    let lesson = &fit.lesson;
    finite("the lesson", &lesson.x)?;
    if lesson.x.nrows() != lesson.y.len() {
        return Err(format!("{} rows with {} labels", lesson.x.nrows(), lesson.y.len()));
    }
    if let Some(weights) = &lesson.weights {
        if weights.len() != lesson.y.len() || weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
            return Err(format!("weights that are no weights: {weights}"));
        }
        let mean = weights.mean().unwrap_or(f64::NAN);
        if (mean - 1.0).abs() > 1e-9 {
            return Err(format!("weights have the mean {mean}, not 1"));
        }
    }
    for (what, shown) in [
        ("the target as it is shown", fit.view.show(subject.target.view())),
        ("the source as it is shown", fit.view.show_source(subject.source.view())),
    ] {
        let shown = shown.map_err(why)?;
        finite(what, &shown)?;
        if shown.ncols() != lesson.x.ncols() || shown.nrows() != ROWS {
            return Err(format!("{what} is {:?} beside a lesson of {} columns", shown.dim(), lesson.x.ncols()));
        }
    }
    finite("answers", &fit.answers(subject.target.view()).map_err(why)?)
}

/// Where the domains are the same rows there is nothing to mend: at most one row in ten that the learner by itself gets right is lost.
fn equal_domains_lose_little(subject: &Alignment) -> Result<(), String> {
    if subject.reproduces() {
        return Ok(());
    }
    let (x, y) = (subject.source.view(), &subject.labels);
    let adapted = subject.fit_on(x, y, x).map_err(why)?;
    let source = Source::new(x, y).map_err(why)?;
    let target = Target::new(x, &source).map_err(why)?;
    let plain = Fit::new(&SourceOnly::default(), &source, &target, &subject.host()).map_err(why)?;
    match y {
        Labels::Classes { of, .. } => {
            let right = |fit: &Fit| -> Result<usize, String> {
                Ok(fit.predict(x).map_err(why)?.iter().zip(of).filter(|(a, b)| a == b).count())
            };
            let (adapted, plain) = (right(&adapted)?, right(&plain)?);
            if 10 * adapted >= 9 * plain { Ok(()) } else { Err(format!("{adapted} rows right, without it {plain}")) }
        }
        Labels::Numbers(numbers) => {
            let error = |fit: &Fit| -> Result<f64, String> {
                let answers = fit.answers(x).map_err(why)?;
                Ok(answers.column(0).iter().zip(numbers).map(|(a, b)| (a - b).powi(2)).sum::<f64>())
            };
            let spread = numbers.iter().map(|y| y * y).sum::<f64>();
            let (adapted, plain) = (error(&adapted)?, error(&plain)?);
            if adapted <= plain + 0.05 * spread {
                Ok(())
            } else {
                Err(format!("a squared error of {adapted}, without it {plain}"))
            }
        }
    }
}

fn the_order_of_rows_does_not_matter(subject: &Alignment) -> Result<(), String> {
    if subject.reproduces() {
        return Ok(());
    }
    let fit = subject.fit()?;
    let mut order: Vec<usize> = (0..ROWS).collect();
    Rng::new(4, "order", 0).shuffle(&mut order);
    let source = select(subject.source.view(), &order);
    let labels = subject.labels.select(&order);
    let target = subject.target.slice(s![..;-1, ..]);
    let shuffled = subject.fit_on(source.view(), &labels, target).map_err(why)?;
    let [a, b] = [&fit, &shuffled].map(|fit| fit.answers(subject.target.view()));
    let apart = apart(&a.map_err(why)?, &b.map_err(why)?);
    if apart <= ROUNDING { Ok(()) } else { Err(format!("answers differ by {apart:e}")) }
}

fn equal_align_runs_give_equal_bits(subject: &Alignment) -> Result<(), String> {
    if subject.fit()?.save() == subject.fit()?.save() { Ok(()) } else { Err("two fits differ".to_owned()) }
}

fn a_saved_fit_answers_alike(subject: &Alignment) -> Result<(), String> {
    let fit = subject.fit()?;
    let text = fit.save().to_string();
    let saved = serde_json::from_str(&text).map_err(why)?;
    let again = Fit::restore(saved, subject.method.as_ref(), subject.learner.as_ref()).map_err(why)?;
    let [a, b] = [&fit, &again].map(|fit| fit.answers(subject.target.view()));
    if a.map_err(why)? == b.map_err(why)? { Ok(()) } else { Err("answers differ after reading".to_owned()) }
}

fn rows_of_another_width_are_refused(subject: &Alignment) -> Result<(), String> {
    let fit = subject.fit()?;
    for width in [1, 3] {
        if fit.answers(Array2::zeros((2, width)).view()).is_ok() {
            return Err(format!("rows of {width} columns are taken after a fit on 2"));
        }
    }
    Ok(())
}

/// Few rows, equal rows, a column that never changes: a clear error or finite answers, and never a panic.
fn poor_domains_are_told_or_fitted(subject: &Alignment) -> Result<(), String> {
    let (source, target) = (&subject.source, &subject.target);
    let mut flat = source.clone();
    flat.column_mut(1).fill(2.0);
    let mut flat_target = target.clone();
    flat_target.column_mut(1).fill(2.0);
    let equal = Array2::from_elem((ROWS, 2), 0.5);
    let one = target.slice(s![..1, ..]).to_owned();
    let far = target + 1e6;
    for (what, source, target) in [
        ("a column of the source that never changes", &flat, target),
        ("a column that never changes", &flat, &flat_target),
        ("a target of equal rows", source, &equal),
        ("a target of one row", source, &one),
        ("a target far away", source, &far),
    ] {
        match subject.fit_on(source.view(), &subject.labels, target.view()) {
            Ok(fit) => match fit.answers(target.view()) {
                Ok(answers) => finite(what, &answers)?,
                Err(error) if error.to_string().is_empty() => return Err(format!("{what}: an error without a word")),
                Err(_) => {}
            },
            Err(error) if error.to_string().is_empty() => return Err(format!("{what}: an error without a word")),
            Err(_) => {}
        }
    }
    Ok(())
}

/// A score and fits it may judge.
pub struct Judgement {
    score: Box<dyn AnyScore>,
    learner: Logistic,
    source: Array2<f64>,
    target: Array2<f64>,
}

impl Judgement {
    /// A score beside two domains.
    #[must_use]
    pub fn new(score: Box<dyn AnyScore>) -> Self {
        Self { score, learner: Logistic::default(), source: rows(1, 0.0), target: rows(2, 0.3) }
    }

    fn reproduces(&self) -> bool {
        reproduces(&self.score.settings())
    }

    /// The score of source-only on labels; two thirds of the rows are fitted, in the given order, the others held back.
    fn score(&self, labels: &[usize], order: &[usize]) -> Result<f64, String> {
        let (fitted, held): (Vec<usize>, Vec<usize>) = order.iter().partition(|row| **row % 3 != 0);
        let of = |rows: &[usize]| Labels::Classes { of: rows.iter().map(|row| labels[*row]).collect(), count: 2 };
        let (y, y_held) = (of(&fitted), of(&held));
        let [x, x_held] = [&fitted, &held].map(|rows| select(self.source.view(), rows));
        let [t, t_held] = [&fitted, &held].map(|rows| select(self.target.view(), rows));
        let (source, held) =
            (Source::new(x.view(), &y).map_err(why)?, Source::new(x_held.view(), &y_held).map_err(why)?);
        let [target, target_held] = [&t, &t_held].map(|rows| Target::new(rows.view(), &source));
        let (target, target_held) = (target.map_err(why)?, target_held.map_err(why)?);
        let host = Host { learner: &self.learner, seed: 5 };
        let method = SourceOnly::default();
        let fit = Fit::new(&method, &source, &target, &host).map_err(why)?;
        let case = Case { method: &method, host: &host, source, held, target, target_held, fit: &fit };
        self.score.score_any(&case).map_err(why)
    }

    fn in_order(&self, labels: &[usize]) -> Result<f64, String> {
        self.score(labels, &(0..ROWS).collect::<Vec<_>>())
    }
}

fn truth() -> Vec<usize> {
    (0..ROWS).map(|row| row % 2).collect()
}

/// The laws of scores.
pub static SCORE_CHECKS: &[Check<Judgement>] = &[
    Check { name: "a_score_is_a_number", applies: |_| true, run: a_score_is_a_number },
    Check { name: "the_order_of_rows_does_not_matter", applies: |_| true, run: scores_do_not_depend_on_order },
    Check { name: "equal_runs_give_equal_bits", applies: |_| true, run: equal_scores_are_equal_bits },
    Check { name: "names_of_classes_do_not_matter", applies: |_| true, run: names_of_classes_do_not_matter },
];

fn a_score_is_a_number(subject: &Judgement) -> Result<(), String> {
    let score = subject.in_order(&truth())?;
    if score.is_finite() { Ok(()) } else { Err(format!("the score is {score}")) }
}

fn scores_do_not_depend_on_order(subject: &Judgement) -> Result<(), String> {
    if subject.reproduces() {
        return Ok(());
    }
    let mut order: Vec<usize> = (0..ROWS).collect();
    let first = subject.score(&truth(), &order)?;
    Rng::new(7, "order", 0).shuffle(&mut order);
    let second = subject.score(&truth(), &order)?;
    let apart = (first - second).abs();
    if apart <= ROUNDING * first.abs().max(1.0) { Ok(()) } else { Err(format!("{first} and {second}")) }
}

fn equal_scores_are_equal_bits(subject: &Judgement) -> Result<(), String> {
    let (first, second) = (subject.in_order(&truth())?, subject.in_order(&truth())?);
    if first.to_bits() == second.to_bits() { Ok(()) } else { Err(format!("{first} and {second}")) }
}

fn names_of_classes_do_not_matter(subject: &Judgement) -> Result<(), String> {
    let first = subject.in_order(&truth())?;
    let second = subject.in_order(&truth().iter().map(|class| 1 - class).collect::<Vec<_>>())?;
    let apart = (first - second).abs();
    if apart <= ROUNDING * first.abs().max(1.0) { Ok(()) } else { Err(format!("{first} and {second}")) }
}

/// The trials of both lists: `shift::method[case]::check`.
pub fn all(align: &[Entry<dyn AnyAlign>], scores: &[Entry<dyn AnyScore>]) -> Vec<Trial> {
    let mut all = of(align, Alignment::new, ALIGN_CHECKS);
    all.extend(of(scores, |score| Ok(Judgement::new(score)), SCORE_CHECKS));
    all
}

fn of<T: ?Sized, S: Send + Sync + 'static>(
    entries: &[Entry<T>],
    subject: impl Fn(Box<T>) -> Result<S, String>,
    checks: &'static [Check<S>],
) -> Vec<Trial> {
    let mut all = vec![];
    for entry in entries {
        for case in entry.cases {
            let built = case.parse::<toml::Table>().map_err(why).and_then(|table| entry.build(&table).map_err(why));
            match built.and_then(&subject) {
                Ok(subject) => all.extend(trials("shift", entry.card, case, Arc::new(subject), checks)),
                Err(why) => all.push(broken(entry.card, case, why)),
            }
        }
    }
    all
}

fn broken(card: Card, case: &str, why: String) -> Trial {
    Trial::test(format!("shift::{}[{case}]", card.name), || Err(Failed::from(why)))
}
