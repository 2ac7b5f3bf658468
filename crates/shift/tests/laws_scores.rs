//! What every score must do, and small examples by hand.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Entry, Result, Rng, find};
use acclimate_shift::{
    ALIGN, AnyScore, Case, Circular, Dev, Fit, Host, ImportanceWeighted, MixVal, Pairs, PredictionEntropy, SCORES,
    Score, SoftNeighbourhood, Source, SourceOnly, Target,
};
use acclimate_stats::learn::{Fitted, Labels, Learner, Logistic, select};
use ndarray::{Array2, ArrayView1, ArrayView2, array};
use serde_json::Value;
use std::f64::consts::LN_2;

/// A classifier that is given by a function of the row.
#[derive(Clone, Copy, Debug)]
struct Given(fn(ArrayView1<'_, f64>) -> Vec<f64>);

impl Learner for Given {
    fn fit(&self, _: ArrayView2<'_, f64>, _: &Labels, _: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(*self))
    }
    fn restore(&self, _: Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(*self))
    }
}

impl Fitted for Given {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let answers: Vec<Vec<f64>> = x.rows().into_iter().map(self.0).collect();
        Ok(Array2::from_shape_fn((x.nrows(), answers[0].len()), |(row, class)| answers[row][class]))
    }
    fn save(&self) -> Value {
        Value::Null
    }
}

/// The class whose mean is nearest, in one column.
#[derive(Clone, Debug)]
struct Means(Vec<f64>);

impl Learner for Means {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, _: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        let (of, count) = y.classes("means")?;
        let mean = |class: usize| {
            let rows: Vec<f64> = (0..of.len()).filter(|row| of[*row] == class).map(|row| x[[row, 0]]).collect();
            rows.iter().sum::<f64>() / rows.len() as f64
        };
        Ok(Box::new(Self((0..count).map(mean).collect())))
    }
    fn restore(&self, _: Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(self.clone()))
    }
}

impl Fitted for Means {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        Ok(Array2::from_shape_fn((x.nrows(), self.0.len()), |(row, class)| {
            let distance = |class: usize| (x[[row, 0]] - self.0[class]).abs();
            let nearest = (0..self.0.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap();
            f64::from(u8::from(nearest == class))
        }))
    }
    fn save(&self) -> Value {
        Value::Null
    }
}

/// Rows that a fit has seen and that it has not, of both domains.
#[derive(Clone, Debug)]
struct Rows {
    source: (Array2<f64>, Vec<usize>),
    held: (Array2<f64>, Vec<usize>),
    target: Array2<f64>,
    target_held: Array2<f64>,
    classes: usize,
}

fn score(score: &dyn AnyScore, rows: &Rows, alignment: &str, learner: &dyn Learner) -> f64 {
    let method = find(ALIGN, alignment).unwrap().build(&toml::Table::new()).unwrap();
    let labels = |of: &[usize]| Labels::Classes { of: of.to_vec(), count: rows.classes };
    let (y, held_y) = (labels(&rows.source.1), labels(&rows.held.1));
    let source = Source::new(rows.source.0.view(), &y).unwrap();
    let held = Source::new(rows.held.0.view(), &held_y).unwrap();
    let target = Target::new(rows.target.view(), &source).unwrap();
    let target_held = Target::new(rows.target_held.view(), &source).unwrap();
    let host = Host { learner, seed: 5 };
    let fit = Fit::new(method.as_ref(), &source, &target, &host).unwrap();
    let case = Case { method: method.as_ref(), host: &host, source, held, target, target_held, fit: &fit };
    score.score_any(&case).unwrap()
}

/// Every score under each of the settings on its card, but for those that follow another package.
fn every() -> impl Iterator<Item = (&'static Entry<dyn AnyScore>, &'static str, Box<dyn AnyScore>)> {
    SCORES.iter().flat_map(|entry| {
        let own = entry.cases.iter().filter(|case| !case.contains("compat"));
        own.map(move |case| (entry, *case, entry.build(&case.parse().unwrap()).unwrap()))
    })
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
}

/// Four unseen rows of the target are all that counts.
fn of_target(target_held: Array2<f64>) -> Rows {
    let one = Array2::zeros((1, target_held.ncols()));
    let classes = 2;
    Rows { source: (one.clone(), vec![0]), held: (one.clone(), vec![0]), target: one, target_held, classes }
}

/// A row is its own probabilities.
const ECHO: Given = Given(|row| row.to_vec());

#[test]
fn prediction_entropy_by_hand() {
    let rows = of_target(array![[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]);
    // ln 2 for the first row; 2 ln 2 − ¾ ln 3 for the third.
    let expected = -(LN_2 + 2.0 * LN_2 - 0.75 * 3.0_f64.ln()) / 4.0;
    near(score(&PredictionEntropy {}, &rows, "source_only", &ECHO), expected);
}

#[test]
fn soft_neighbourhood_by_hand() {
    // Each row has one neighbour at likeness one and two at zero.
    let rows = of_target(array![[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]);
    for temperature in [1.0, 0.2] {
        let close = (1.0_f64 / temperature).exp();
        let (one, two) = (close / (close + 2.0), 1.0 / (close + 2.0));
        let snd = SoftNeighbourhood { temperature };
        near(score(&snd, &rows, "source_only", &ECHO), -one * one.ln() - 2.0 * two * two.ln());
    }
    let alike = of_target(array![[0.3, 0.7], [0.3, 0.7], [0.3, 0.7], [0.3, 0.7]]);
    near(score(&SoftNeighbourhood::default(), &alike, "source_only", &ECHO), 3.0_f64.ln());
}

/// Class one above 2.5.
const STEP: Given = Given(|row| if row[0] > 2.5_f64.ln() { vec![0.0, 1.0] } else { vec![1.0, 0.0] });

#[test]
fn importance_weighted_by_hand() {
    // One bell at zero under one at one: the ratio is exp(x − ½), so these rows weigh 1, 2, 3 and 4. The first and third are right.
    let held = array![[0.0], [2.0_f64.ln()], [3.0_f64.ln()], [4.0_f64.ln()]];
    let rows = Rows {
        source: (array![[0.0]], vec![0]),
        held: (held, vec![0, 1, 1, 0]),
        target: array![[1.0]],
        target_held: array![[9.0]],
        classes: 2,
    };
    near(score(&ImportanceWeighted::default(), &rows, "source_only", &STEP), 0.4);
    // Width ½: exp(4x − 2), so weights are 1, 16, 81 and 256.
    let narrow = ImportanceWeighted { bandwidth: 0.5, ..ImportanceWeighted::default() };
    near(score(&narrow, &rows, "source_only", &STEP), 82.0 / 354.0);
    // The bells of the unseen rows: of the source at all four, of the target at nine, far away, where the last row is nearest.
    let compat = ImportanceWeighted { compat: true, bandwidth: 0.1 };
    assert!(score(&compat, &rows, "source_only", &STEP) < 1e-12);
}

/// Two rows at −1 and two at 1: the regression's slope is ln 3 where the price is ln 3, and odds at x are three to the x.
fn sides(held: Array2<f64>, labels: Vec<usize>) -> (Rows, Dev) {
    let rows = Rows {
        source: (array![[-1.0], [-1.0]], vec![0, 1]),
        held: (held, labels),
        target: array![[1.0], [1.0]],
        target_held: array![[7.0]],
        classes: 2,
    };
    (rows, Dev { c: 3.0_f64.ln(), ..Dev::default() })
}

#[test]
fn dev_by_hand() {
    // The probability of class one is ¼ left of one half and ¾ right of it, so that losses are ln 4 or ln 4 − ln 3.
    let steps = Given(|row| if row[0] > 0.5 { vec![0.25, 0.75] } else { vec![0.75, 0.25] });
    let (rows, dev) = sides(array![[1.0], [-1.0], [0.0], [2.0]], vec![1, 1, 0, 0]);
    let (w, loss) =
        ([3.0, 1.0 / 3.0, 1.0, 9.0], [(4.0 / 3.0_f64).ln(), 4.0_f64.ln(), (4.0 / 3.0_f64).ln(), 4.0_f64.ln()]);
    // The mean weight is 10/3, and about it the weights are −1/3, −3, −7/3 and 17/3, of squares that sum to 140/3.
    let about = [-1.0 / 3.0, -3.0, -7.0 / 3.0, 17.0 / 3.0];
    let eta = -(0..4).map(|at| w[at] * loss[at] * about[at]).sum::<f64>() / (140.0 / 3.0);
    let mean = (0..4).map(|at| w[at] * loss[at]).sum::<f64>() / 4.0;
    let found = score(&dev, &rows, "source_only", &steps);
    assert!((found + (mean + eta * 10.0 / 3.0 - eta)).abs() < 1e-10, "{found}");
}

#[test]
fn dev_of_a_constant_loss_is_that_loss_whatever_the_weights() {
    let half = Given(|_| vec![0.5, 0.5]);
    let (rows, dev) = sides(array![[1.0], [-1.0], [0.3], [2.0]], vec![1, 1, 0, 0]);
    for dev in [dev.clone(), Dev { weights: acclimate_shift::Scaling::Largest, ..dev }] {
        near(score(&dev, &rows, "source_only", &half), -LN_2);
    }
    // Equal domains: all weights are one, the score is minus the mean loss.
    let quarter = Given(|_| vec![0.25, 0.75]);
    let mut equal = rows;
    equal.target = equal.source.0.clone();
    let mean = 4.0_f64.ln() - 3.0_f64.ln() / 2.0;
    near(score(&Dev::default(), &equal, "source_only", &quarter), -mean);
}

#[test]
fn circular_by_hand() {
    // Means at −1 and 1 give the target 0, 0, 1, 1. Back, means at −1¾ and 3 part at 5/8: of class one half is found, of class zero all.
    let rows = Rows {
        source: (array![[-1.0], [1.0], [-1.0], [1.0]], vec![0, 1, 0, 1]),
        held: (array![[-1.0], [0.5], [0.7], [0.0]], vec![0, 1, 1, 0]),
        target: array![[-2.0], [-1.5], [3.5], [2.5]],
        target_held: array![[9.0]],
        classes: 2,
    };
    near(score(&Circular::default(), &rows, "source_only", &Means(Vec::new())), 0.75);
    // All of the target is predicted to be of class one, so all of the source is.
    let far = Rows { target: array![[2.0], [3.0]], ..rows };
    near(score(&Circular::default(), &far, "source_only", &Means(Vec::new())), 0.5);
}

#[test]
fn mix_val_by_hand() {
    let sign = Given(|row| if row[0] > 0.0 { vec![0.0, 1.0] } else { vec![1.0, 0.0] });
    let points = [-2.0, -1.0, 1.0, 2.0];
    let rows = of_target(array![[1.0], [-2.0], [2.0], [-1.0]]);
    let mut rounds = 0;
    // Of 0.55 a + 0.45 b with unlike signs, only a one under a two takes the wrong sign.
    let (mut right, mut inter, mut both) = (0.0, 0.0, 0.0);
    for round in 0..20 {
        let mut order: Vec<usize> = (0..4).collect();
        Rng::new(5, "mix_val", round).shuffle(&mut order);
        let unlike: Vec<(f64, f64)> =
            points.iter().zip(order).map(|(a, b)| (*a, points[b])).filter(|(a, b)| a * b < 0.0).collect();
        let good = unlike.iter().filter(|(a, b)| a.abs() >= b.abs()).count() as f64;
        let share = if unlike.is_empty() { 0.0 } else { good / unlike.len() as f64 };
        let like = f64::from(u8::from(unlike.len() < 4));
        (right, inter, both, rounds) = (right + like, inter + share, both + (like + share) / 2.0, rounds + 1);
    }
    for (pairs, expected) in [(Pairs::Intra, right), (Pairs::Inter, inter), (Pairs::Both, both)] {
        let mix_val = MixVal { pairs, rounds, ..MixVal::default() };
        near(score(&mix_val, &rows, "source_only", &sign), expected / 20.0);
    }
}

fn order(seed: u64, rows: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Rng::new(seed, "order", 0).shuffle(&mut order);
    order
}

/// Three classes around corners, `spread` wide, moved by `shift`.
fn corners(seed: u64, rows: usize, spread: f64, shift: f64) -> (Array2<f64>, Vec<usize>) {
    let mut rng = Rng::new(seed, "corners", 0);
    let of: Vec<usize> = (0..rows).map(|row| row % 3).collect();
    let corner = [[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]];
    let x = Array2::from_shape_fn((rows, 2), |(row, column)| corner[of[row]][column] + spread * rng.normal() + shift);
    (x, of)
}

fn overlapping() -> Rows {
    let (target, target_held) = (corners(3, 40, 1.2, 0.6).0, corners(4, 30, 1.2, 0.6).0);
    Rows { source: corners(1, 48, 1.0, 0.0), held: corners(2, 36, 1.0, 0.0), target, target_held, classes: 3 }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let rows = overlapping();
    let shuffled = |(x, of): &(Array2<f64>, Vec<usize>), seed: u64| {
        let order = order(seed, of.len());
        (select(x.view(), &order), order.iter().map(|row| of[*row]).collect())
    };
    let other = Rows {
        source: shuffled(&rows.source, 6),
        held: shuffled(&rows.held, 7),
        target: select(rows.target.view(), &order(8, 40)),
        target_held: select(rows.target_held.view(), &order(9, 30)),
        classes: 3,
    };
    let logistic = Logistic::default();
    for alignment in ["source_only", "coral", "kmm"] {
        for (entry, case, method) in every() {
            let (a, b) = (score(&*method, &rows, alignment, &logistic), score(&*method, &other, alignment, &logistic));
            assert!((a - b).abs() < 1e-7, "{} {case} {alignment}: {a} {b}", entry.card.name);
        }
    }
}

#[test]
fn names_of_classes_do_not_matter() {
    let rows = overlapping();
    let place = [2, 0, 1];
    let renamed = |(x, of): &(Array2<f64>, Vec<usize>)| (x.clone(), of.iter().map(|class| place[*class]).collect());
    let other = Rows { source: renamed(&rows.source), held: renamed(&rows.held), ..rows.clone() };
    let logistic = Logistic::default();
    for (entry, case, method) in every() {
        let (a, b) = (score(&*method, &rows, "coral", &logistic), score(&*method, &other, "coral", &logistic));
        assert!((a - b).abs() < 1e-7, "{} {case}: {a} {b}", entry.card.name);
    }
}

/// The nearest corner, for sure.
const SURE: Given = Given(|row| {
    let class = if row[0].max(row[1]) < 1.5 { 0 } else { 1 + usize::from(row[1] > row[0]) };
    (0..3).map(|at| f64::from(u8::from(at == class))).collect()
});

/// What the score of a perfect and sure classifier is on `n` rows of three classes of equal size.
fn best(name: &str, n: f64) -> f64 {
    match name {
        "bnm" => (3.0 / n).sqrt(),
        "circular" | "class_ami" | "importance_weighted" | "mix_val" => 1.0,
        "dev" | "prediction_entropy" => 0.0,
        "info_max" => 3.0_f64.ln(),
        other => panic!("{other}: say what is best"),
    }
}

/// Well apart, and alike in both domains.
fn apart() -> Rows {
    let (target, target_held) = (corners(12, 60, 0.02, 0.0).0, corners(13, 45, 0.02, 0.0).0);
    Rows { source: corners(10, 60, 0.02, 0.0), held: corners(11, 45, 0.02, 0.0), target, target_held, classes: 3 }
}

/// Half as sure, wrong about a class, the same for all, and blind.
const WORSE: [Given; 4] = [
    Given(|row| SURE.0(row).iter().map(|p| 0.2 + 0.4 * p).collect()),
    Given(|row| if row[0] > 1.5 { vec![0.9, 0.1, 0.0] } else { SURE.0(row) }),
    Given(|_| vec![0.0, 1.0, 0.0]),
    Given(|_| vec![1.0 / 3.0; 3]),
];

#[test]
fn a_perfect_and_sure_classifier_scores_best() {
    let rows = apart();
    for (entry, case, method) in every() {
        let name = entry.card.name;
        let found = score(&*method, &rows, "source_only", &SURE);
        // A density of neighbours is largest where all answers are alike: that is its own law below. The norm's best depends on its order.
        let expected = match (name, case) {
            ("soft_neighbourhood", _) => continue,
            ("mano", "order = 2") => 3.0_f64.powf(-0.5),
            ("mano", _) => 3.0_f64.powf(-0.25),
            _ => best(name, 45.0),
        };
        // The loss of a sure answer is that of 1 − 1e-15.
        assert!((found - expected).abs() < 1e-9, "{name} {case}: {found} for {expected}");
        for worse in WORSE {
            let worse = score(&*method, &rows, "source_only", &worse);
            assert!(worse <= found + 1e-12, "{name} {case}: {worse} above {found}");
        }
    }
}

#[test]
fn scores_stay_within_their_bounds() {
    let rows = overlapping();
    let uneven = Given(|row| {
        let raw = [(row[0] * 37.1).sin().powi(2), (row[1] * 53.7).sin().powi(2), (row.sum() * 91.3).cos().powi(2)];
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|p| p / sum).collect()
    });
    let n = 30.0_f64;
    for classifier in [uneven, SURE, WORSE[0], WORSE[1], WORSE[2], WORSE[3]] {
        for (entry, case, method) in every() {
            let found = score(&*method, &rows, "source_only", &classifier);
            let (low, high) = match (entry.card.name, case) {
                ("bnm", _) => (1.0 / (3.0 * n).sqrt(), (3.0 / n).sqrt()),
                ("circular" | "importance_weighted" | "mix_val", _) => (0.0, 1.0),
                ("class_ami", _) => (-1.0, 1.0),
                ("info_max", _) => (0.0, 3.0_f64.ln()),
                ("mano", "order = 2") => (1.0 / 3.0, 3.0_f64.powf(-0.5)),
                ("mano", _) => (1.0 / 3.0, 3.0_f64.powf(-0.25)),
                ("prediction_entropy", _) => (-3.0_f64.ln(), 0.0),
                ("soft_neighbourhood", _) => (0.0, (n - 1.0).ln()),
                // An estimate that is unbiased has no bound.
                ("dev", _) => continue,
                (other, _) => panic!("{other}: say its bounds"),
            };
            let within = (low - 1e-12..=high + 1e-12).contains(&found);
            assert!(within, "{} {case}: {found} is not between {low} and {high}", entry.card.name);
        }
    }
}

#[test]
fn collapse_to_one_class_is_seen_by_those_that_say_so() {
    let (rows, n) = (apart(), 45.0_f64);
    let found = |name: &str, settings: &str| {
        let method = find(SCORES, name).unwrap().build(&settings.parse().unwrap()).unwrap();
        score(&*method, &rows, "source_only", &WORSE[2])
    };
    near(found("bnm", ""), 1.0 / n.sqrt());
    near(found("info_max", ""), 0.0);
    near(found("class_ami", ""), 0.0);
    near(found("circular", ""), 1.0 / 3.0);
    near(found("mix_val", ""), 0.5);
    // These do not see it, and their pages warn of that.
    near(found("mix_val", "compat = true"), 1.0);
    near(found("prediction_entropy", ""), 0.0);
    near(found("soft_neighbourhood", ""), (n - 1.0).ln());
    near(found("mano", ""), 3.0_f64.powf(-0.25));
}

#[test]
fn there_is_no_place_for_labels_of_the_target() {
    // All fields, by name: a field that is added to either type does not compile here until someone has looked at it.
    fn fields<'a>(case: &Case<'a>) -> (Source<'a>, Source<'a>) {
        let Case { method: _, host: _, source, held, target, target_held, fit: _ } = *case;
        let (Target { x: _ }, Target { x: _ }) = (target, target_held);
        (source, held)
    }
    let rows = apart();
    let labels = |of: &[usize]| Labels::Classes { of: of.to_vec(), count: 3 };
    let (y, held_y) = (labels(&rows.source.1), labels(&rows.held.1));
    let source = Source::new(rows.source.0.view(), &y).unwrap();
    let held = Source::new(rows.held.0.view(), &held_y).unwrap();
    let target = Target::new(rows.target.view(), &source).unwrap();
    let host = Host { learner: &SURE, seed: 0 };
    let method = SourceOnly {};
    let fit = Fit::new(&method, &source, &target, &host).unwrap();
    let case = Case { method: &method, host: &host, source, held, target, target_held: target, fit: &fit };
    let (seen, unseen) = fields(&case);
    assert!(std::ptr::eq(seen.y, &y) && std::ptr::eq(unseen.y, &held_y));
    // Scores of classes refuse numbers.
    let numbers = Labels::Numbers(vec![0.5; 45]);
    let case = Case { held: Source { x: held.x, y: &numbers }, ..case };
    for (entry, settings, method) in every() {
        assert!(method.score_any(&case).is_err(), "{} {settings}", entry.card.name);
    }
    assert!(ImportanceWeighted::default().score(&case).is_err());
}
