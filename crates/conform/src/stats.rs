//! Laws of conformal methods: of intervals, sets and regions out of held-out rows, of how rows count, of streams and of bets.

use crate::{Check, cards, trials, why};
use acclimate_core::{Card, Entry, Rng};
use acclimate_stats::conformal::{
    AnyBetting, AnyExchange, AnyIntervals, AnyOnline, AnyRegions, AnySets, BETS, Calibrated, CalibratedRegions,
    CalibratedSets, EXCHANGES, Held, INTERVALS, Interval, ONLINE, REGIONS, Row, SETS, Shape, Split, Stream, Watch,
};
use acclimate_stats::{ESTIMATORS, learn::select};
use libtest_mimic::{Failed, Trial};
use ndarray::Array2;
use serde_json::Value;
use std::sync::Arc;

/// Calibration rows.
const ROWS: usize = 40;
/// New rows.
const NEW: usize = 20;
const FOLDS: usize = 4;
const FITS: usize = 6;
const CLASSES: usize = 3;
const ALPHA: f64 = 0.1;
/// Draws of data behind a mean coverage; that of a draw varies by `sqrt(0.09 (1/41 + 1/20)) = 0.08`.
const SEEDS: u64 = 200;

fn normals(seed: u64, purpose: &str, count: usize) -> Vec<f64> {
    let mut rng = Rng::new(seed, purpose, 0);
    (0..count).map(|_| rng.normal()).collect()
}

/// A value through the text of a file.
fn through_text(value: &Value) -> Result<Value, String> {
    serde_json::from_str(&value.to_string()).map_err(why)
}

/// A method for intervals, and how many columns it reads.
pub struct Ranges {
    method: Box<dyn AnyIntervals>,
    old: usize,
    new: usize,
}

/// Predictions of zero with unit normal errors, in as many columns as are read; where two are named they are a lower and an upper one.
struct Table {
    answers: Array2<f64>,
    truths: Vec<f64>,
    folds: Vec<usize>,
    bags: Array2<bool>,
    new: Array2<f64>,
    new_truths: Vec<f64>,
}

impl Table {
    fn new(method: &dyn AnyIntervals, old: usize, new: usize, seed: u64) -> Self {
        let ends = method.columns().len() == 2;
        let answers = |rows: usize, columns: usize| {
            Array2::from_shape_fn((rows, columns), |(_, column)| if !ends { 0.0 } else { [-1.0, 1.0][column % 2] })
        };
        Self {
            answers: answers(ROWS, old),
            truths: normals(seed, "truths", ROWS),
            folds: (0..ROWS).map(|row| row % FOLDS).collect(),
            bags: Array2::from_shape_fn((ROWS, FITS), |(row, fit)| (row * 7 + fit * 3) % 4 == 0),
            new: answers(NEW, new),
            new_truths: normals(seed, "new truths", NEW),
        }
    }

    fn held(&self) -> Held<'_> {
        Held { answers: self.answers.view(), truths: &self.truths, folds: &self.folds, bags: Some(self.bags.view()) }
    }
}

impl Ranges {
    /// A method with the columns that it takes: those it names, or one for each fold or fit.
    ///
    /// # Errors
    /// When it takes none of them.
    pub fn new(method: Box<dyn AnyIntervals>) -> Result<Self, String> {
        let named = method.columns().len();
        let mut last = String::new();
        for old in [named, FITS] {
            for new in [named, FOLDS, FITS] {
                match intervals(method.as_ref(), &Table::new(method.as_ref(), old, new, 0), ALPHA) {
                    Ok(_) => return Ok(Self { method, old, new }),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    fn table(&self, seed: u64) -> Table {
        Table::new(self.method.as_ref(), self.old, self.new, seed)
    }
}

fn intervals(method: &dyn AnyIntervals, table: &Table, alpha: f64) -> Result<Vec<Interval>, String> {
    let fit = Calibrated::new(method, &table.held(), None, &[]).map_err(why)?;
    fit.intervals(table.new.view(), None, &[], alpha).map_err(why)
}

/// The laws of intervals.
pub static INTERVAL_CHECKS: &[Check<Ranges>] = &[
    Check { name: "coverage_is_at_least_what_is_promised", applies: |_| true, run: intervals_cover },
    Check { name: "more_coverage_is_never_narrower", applies: |_| true, run: intervals_are_nested },
    Check { name: "too_few_rows_give_all_numbers", applies: |_| true, run: too_few_rows_give_all_numbers },
    Check { name: "the_order_of_rows_does_not_matter", applies: |_| true, run: order_of_intervals },
    Check { name: "a_kept_calibration_answers_alike", applies: |_| true, run: kept_intervals },
    Check { name: "equal_weights_are_no_weights", applies: |_| true, run: equal_weights },
    Check { name: "rows_of_another_width_are_refused", applies: |_| true, run: other_widths },
];

/// Jackknife+ and CV+ promise no more than one less twice the misses.
fn intervals_cover(subject: &Ranges) -> Result<(), String> {
    let mut inside = 0;
    for seed in 0..SEEDS {
        let table = subject.table(seed);
        let found = intervals(subject.method.as_ref(), &table, ALPHA)?;
        inside += found.iter().zip(&table.new_truths).filter(|(interval, truth)| interval.contains(**truth)).count();
    }
    let coverage = inside as f64 / (SEEDS as usize * NEW) as f64;
    if coverage >= 1.0 - 2.0 * ALPHA { Ok(()) } else { Err(format!("a coverage of {coverage}")) }
}

fn intervals_are_nested(subject: &Ranges) -> Result<(), String> {
    let table = subject.table(1);
    let [wide, narrow] = [0.1, 0.3].map(|alpha| intervals(subject.method.as_ref(), &table, alpha));
    let (wide, narrow) = (wide?, narrow?);
    let within = |(wide, narrow): (&Interval, &Interval)| wide.lower <= narrow.lower && narrow.upper <= wide.upper;
    if wide.iter().zip(&narrow).all(within) { Ok(()) } else { Err(format!("{narrow:?} is not within {wide:?}")) }
}

fn too_few_rows_give_all_numbers(subject: &Ranges) -> Result<(), String> {
    let found = intervals(subject.method.as_ref(), &subject.table(1), 0.5 / ROWS as f64)?;
    if found.iter().all(|interval| *interval == Interval::ALL) { Ok(()) } else { Err(format!("{:?}", found[0])) }
}

fn order_of_intervals(subject: &Ranges) -> Result<(), String> {
    let first = subject.table(2);
    let mut order: Vec<usize> = (0..ROWS).collect();
    Rng::new(2, "order", 0).shuffle(&mut order);
    let mut second = subject.table(2);
    second.answers = select(first.answers.view(), &order);
    second.truths = order.iter().map(|row| first.truths[*row]).collect();
    second.folds = order.iter().map(|row| first.folds[*row]).collect();
    second.bags = Array2::from_shape_fn((ROWS, FITS), |(row, fit)| first.bags[[order[row], fit]]);
    let [first, second] = [first, second].map(|table| intervals(subject.method.as_ref(), &table, ALPHA));
    if first? == second? { Ok(()) } else { Err("intervals differ".to_owned()) }
}

fn kept_intervals(subject: &Ranges) -> Result<(), String> {
    let table = subject.table(3);
    let fit = Calibrated::new(subject.method.as_ref(), &table.held(), None, &[]).map_err(why)?;
    let again = Calibrated::restore(subject.method.as_ref(), through_text(&fit.save())?).map_err(why)?;
    let [first, second] = [fit, again].map(|fit| fit.intervals(table.new.view(), None, &[], ALPHA));
    if first.map_err(why)? == second.map_err(why)? { Ok(()) } else { Err("intervals differ".to_owned()) }
}

fn equal_weights(subject: &Ranges) -> Result<(), String> {
    let table = subject.table(4);
    let plain = intervals(subject.method.as_ref(), &table, ALPHA)?;
    for entry in EXCHANGES {
        let by = entry.build(&entry.cases[0].parse().map_err(why)?).map_err(why)?;
        let (rows, new) = ([alike(); ROWS], [alike(); NEW]);
        let fit = Calibrated::new(subject.method.as_ref(), &table.held(), Some(by.as_ref()), &rows).map_err(why)?;
        let found = fit.intervals(table.new.view(), Some(by.as_ref()), &new, ALPHA).map_err(why)?;
        if found != plain {
            return Err(format!("`{}` changes intervals of rows that are alike", entry.card.name));
        }
    }
    Ok(())
}

fn other_widths(subject: &Ranges) -> Result<(), String> {
    let table = Table { answers: Array2::zeros((ROWS, subject.old + FITS)), ..subject.table(5) };
    if Calibrated::new(subject.method.as_ref(), &table.held(), None, &[]).is_ok() {
        return Err("more columns than are read were taken".to_owned());
    }
    Ok(())
}

/// A row of which all is known.
fn alike() -> Row {
    Row { group: 0, ratio: 1.0, class: Some(0) }
}

/// A way in which rows count.
pub struct Counting(Box<dyn AnyExchange>);

/// The laws of exchanges.
pub static EXCHANGE_CHECKS: &[Check<Counting>] = &[
    Check { name: "rows_alike_count_alike", applies: |_| true, run: rows_alike_count_alike },
    Check { name: "a_weight_is_a_weight", applies: |_| true, run: a_weight_is_a_weight },
    Check {
        name: "rows_alike_are_calibrated_as_without",
        applies: |_| true,
        run: rows_alike_are_calibrated_as_without,
    },
];

fn rows_alike_count_alike(subject: &Counting) -> Result<(), String> {
    let place = || subject.0.place_any(&alike()).map_err(why);
    if place()? == place()? { Ok(()) } else { Err("two places".to_owned()) }
}

/// What is no weight is refused or not looked at.
fn a_weight_is_a_weight(subject: &Counting) -> Result<(), String> {
    for ratio in [0.0, 0.5, 1e300, f64::NAN, f64::INFINITY, -1.0] {
        for class in 0..CLASSES {
            if let Ok(place) = subject.0.place_any(&Row { group: 1, ratio, class: Some(class) })
                && !(place.weight.is_finite() && place.weight >= 0.0)
            {
                return Err(format!("the ratio {ratio} gives the weight {}", place.weight));
            }
        }
    }
    Ok(())
}

fn rows_alike_are_calibrated_as_without(subject: &Counting) -> Result<(), String> {
    let ranges = Ranges::new(Box::new(Split::default()))?;
    let table = ranges.table(6);
    let plain = intervals(ranges.method.as_ref(), &table, ALPHA)?;
    let by = Some(subject.0.as_ref());
    let fit = Calibrated::new(ranges.method.as_ref(), &table.held(), by, &[alike(); ROWS]).map_err(why)?;
    let found = fit.intervals(table.new.view(), by, &[alike(); NEW], ALPHA).map_err(why)?;
    if found == plain { Ok(()) } else { Err("intervals differ".to_owned()) }
}

/// A method for sets.
pub struct Choices(Box<dyn AnySets>);

/// Classes drawn from the probabilities that are said of them.
fn drawn(seed: u64, rows: usize) -> (Array2<f64>, Vec<usize>) {
    let mut rng = Rng::new(seed, "classes", rows as u64);
    let mut p = Array2::from_shape_fn((rows, CLASSES), |_| rng.normal().exp());
    let mut truths = vec![];
    for mut row in p.rows_mut() {
        row /= row.sum();
        let u = rng.uniform();
        truths.push(usize::from(u >= row[0]) + usize::from(u >= row[0] + row[1]));
    }
    (p, truths)
}

impl Choices {
    fn sets(&self, seed: u64, alpha: f64) -> Result<(Vec<Vec<usize>>, Vec<usize>), String> {
        let ((p, truths), (new, new_truths)) = (drawn(2 * seed, ROWS), drawn(2 * seed + 1, NEW));
        let fit = CalibratedSets::new(self.0.as_ref(), p.view(), &truths, None, &[], seed).map_err(why)?;
        Ok((fit.sets(self.0.as_ref(), new.view(), None, &[], alpha).map_err(why)?, new_truths))
    }
}

/// The laws of sets.
pub static SET_CHECKS: &[Check<Choices>] = &[
    Check { name: "coverage_is_at_least_what_is_promised", applies: |_| true, run: sets_cover },
    Check { name: "more_coverage_is_never_smaller", applies: |_| true, run: sets_are_nested },
    Check { name: "too_few_rows_give_all_classes", applies: |_| true, run: too_few_rows_give_all_classes },
    Check { name: "a_kept_calibration_answers_alike", applies: |_| true, run: kept_sets },
    Check { name: "names_of_classes_do_not_matter", applies: |_| true, run: names_of_classes },
];

fn sets_cover(subject: &Choices) -> Result<(), String> {
    let mut inside = 0;
    for seed in 0..SEEDS {
        let (sets, truths) = subject.sets(seed, ALPHA)?;
        inside += sets.iter().zip(&truths).filter(|(set, truth)| set.contains(truth)).count();
    }
    let coverage = inside as f64 / (SEEDS as usize * NEW) as f64;
    // Three standard errors of 200 draws below.
    if coverage >= 1.0 - ALPHA - 3.0 * 0.08 / (SEEDS as f64).sqrt() {
        Ok(())
    } else {
        Err(format!("a coverage of {coverage}"))
    }
}

fn sets_are_nested(subject: &Choices) -> Result<(), String> {
    let (large, small) = (subject.sets(1, 0.1)?.0, subject.sets(1, 0.3)?.0);
    let within = |(large, small): (&Vec<usize>, &Vec<usize>)| small.iter().all(|class| large.contains(class));
    if large.iter().zip(&small).all(within) { Ok(()) } else { Err(format!("{small:?} is not within {large:?}")) }
}

fn too_few_rows_give_all_classes(subject: &Choices) -> Result<(), String> {
    let (sets, _) = subject.sets(1, 0.5 / ROWS as f64)?;
    if sets.iter().all(|set| set.len() == CLASSES) { Ok(()) } else { Err(format!("{sets:?}")) }
}

fn kept_sets(subject: &Choices) -> Result<(), String> {
    let ((p, truths), (new, _)) = (drawn(4, ROWS), drawn(5, NEW));
    let fit = CalibratedSets::new(subject.0.as_ref(), p.view(), &truths, None, &[], 3).map_err(why)?;
    let kept: CalibratedSets =
        serde_json::from_value(through_text(&serde_json::to_value(&fit).map_err(why)?)?).map_err(why)?;
    let [first, second] = [fit, kept].map(|fit| fit.sets(subject.0.as_ref(), new.view(), None, &[], ALPHA));
    if first.map_err(why)? == second.map_err(why)? { Ok(()) } else { Err("sets differ".to_owned()) }
}

fn names_of_classes(subject: &Choices) -> Result<(), String> {
    let turned = |p: &Array2<f64>| Array2::from_shape_fn(p.dim(), |(row, class)| p[[row, CLASSES - 1 - class]]);
    let ((p, truths), (new, _)) = (drawn(6, ROWS), drawn(7, NEW));
    let other: Vec<usize> = truths.iter().map(|class| CLASSES - 1 - class).collect();
    let sets = |p: &Array2<f64>, truths: &[usize], new: &Array2<f64>| {
        let fit = CalibratedSets::new(subject.0.as_ref(), p.view(), truths, None, &[], 3).map_err(why)?;
        fit.sets(subject.0.as_ref(), new.view(), None, &[], ALPHA).map_err(why)
    };
    let (first, mut second) = (sets(&p, &truths, &new)?, sets(&turned(&p), &other, &turned(&new))?);
    for set in &mut second {
        set.iter_mut().for_each(|class| *class = CLASSES - 1 - *class);
        set.sort_unstable();
    }
    if first == second { Ok(()) } else { Err(format!("{first:?} and {second:?}")) }
}

/// A method for streams.
pub struct Following {
    method: Box<dyn AnyOnline>,
    as_it_comes: bool,
}

impl Following {
    /// A method, and whether its settings are those of its defaults.
    #[must_use]
    pub fn new(method: Box<dyn AnyOnline>, defaults: &toml::Table) -> Self {
        Self { as_it_comes: method.settings() == *defaults, method }
    }

    /// The intervals of a stream around zero.
    fn follow(&self, past: &[f64], truths: &[f64]) -> Result<Vec<Interval>, String> {
        let mut stream = Stream::new(self.method.as_ref(), past, ALPHA).map_err(why)?;
        let step = |truth: &f64| {
            let interval = stream.predict(0.0).map_err(why)?;
            stream.observe(*truth).map_err(why)?;
            Ok(interval)
        };
        truths.iter().map(step).collect()
    }
}

/// The laws of streams.
pub static ONLINE_CHECKS: &[Check<Following>] = &[
    Check { name: "exchangeable_errors_are_covered", applies: |_| true, run: exchangeable_errors_are_covered },
    Check { name: "truths_are_seen_after_their_rows", applies: |_| true, run: truths_are_seen_after_their_rows },
    Check { name: "intervals_have_the_unit_of_errors", applies: |_| true, run: intervals_have_the_unit_of_errors },
    Check { name: "a_kept_stream_goes_on_alike", applies: |_| true, run: a_kept_stream_goes_on_alike },
    Check { name: "equal_errors_are_answered", applies: |_| true, run: equal_errors_are_answered },
];

/// Settings may trade coverage of errors that do not hang together for other things: deep trees, short memories.
fn exchangeable_errors_are_covered(subject: &Following) -> Result<(), String> {
    if !subject.as_it_comes {
        return Ok(());
    }
    let truths = normals(1, "stream", 300);
    let found = subject.follow(&normals(1, "past", 100), &truths)?;
    let inside = found.iter().zip(&truths).filter(|(interval, truth)| interval.contains(**truth)).count();
    let coverage = inside as f64 / truths.len() as f64;
    // Four standard errors of 300 steps.
    let far = 4.0 * (ALPHA * (1.0 - ALPHA) / truths.len() as f64).sqrt();
    if (coverage - (1.0 - ALPHA)).abs() <= far { Ok(()) } else { Err(format!("a coverage of {coverage}")) }
}

fn truths_are_seen_after_their_rows(subject: &Following) -> Result<(), String> {
    let (past, truths) = (normals(2, "past", 60), normals(2, "stream", 30));
    let mut other = truths.clone();
    other[20] = 50.0;
    let (first, second) = (subject.follow(&past, &truths)?, subject.follow(&past, &other)?);
    if first[..=20] == second[..=20] { Ok(()) } else { Err("an interval knew what came later".to_owned()) }
}

/// A rate that is not relative has a unit of its own.
fn intervals_have_the_unit_of_errors(subject: &Following) -> Result<(), String> {
    if subject.method.settings().get("relative").and_then(toml::Value::as_bool) == Some(false) {
        return Ok(());
    }
    let times = |numbers: &[f64]| numbers.iter().map(|number| 4.0 * number).collect::<Vec<f64>>();
    let (past, truths) = (normals(3, "past", 80), normals(3, "stream", 40));
    let (first, second) = (subject.follow(&past, &truths)?, subject.follow(&times(&past), &times(&truths))?);
    let near = |a: f64, b: f64| 4.0 * a == b || (4.0 * a - b).abs() < 1e-9;
    let alike = |(a, b): (&Interval, &Interval)| near(a.lower, b.lower) && near(a.upper, b.upper);
    match first.iter().zip(&second).find(|pair| !alike(*pair)) {
        Some((a, b)) => Err(format!("{a:?} became {b:?}")),
        None => Ok(()),
    }
}

fn a_kept_stream_goes_on_alike(subject: &Following) -> Result<(), String> {
    let truths = normals(4, "stream", 40);
    let mut stream = Stream::new(subject.method.as_ref(), &normals(4, "past", 60), ALPHA).map_err(why)?;
    for truth in &truths[..20] {
        stream.predict(0.0).map_err(why)?;
        stream.observe(*truth).map_err(why)?;
    }
    // A forecast waits for its truth.
    stream.predict(0.5).map_err(why)?;
    let mut kept = Stream::restore(subject.method.as_ref(), through_text(&stream.save())?).map_err(why)?;
    for truth in &truths[20..] {
        let [first, second] = [&mut stream, &mut kept].map(|stream| -> Result<Interval, String> {
            let interval = stream.predict(0.0).map_err(why)?;
            stream.observe(*truth).map_err(why)?;
            Ok(interval)
        });
        if first? != second? {
            return Err("intervals differ".to_owned());
        }
    }
    if stream.save() == kept.save() { Ok(()) } else { Err("states differ".to_owned()) }
}

fn equal_errors_are_answered(subject: &Following) -> Result<(), String> {
    for past in [&[][..], &[0.0; 30], &[2.0; 30]] {
        let found = subject.follow(past, &[2.0; 40])?;
        if let Some(interval) = found.iter().find(|interval| interval.lower.is_nan() || interval.upper.is_nan()) {
            return Err(format!("{interval:?} after {} errors", past.len()));
        }
    }
    Ok(())
}

/// A way to bet.
pub struct Bets(Box<dyn AnyBetting>);

/// The laws of bets.
pub static BET_CHECKS: &[Check<Bets>] = &[
    Check { name: "nothing_is_gained_on_even_p_values", applies: |_| true, run: nothing_is_gained },
    Check { name: "false_alarms_keep_to_their_level", applies: |_| true, run: false_alarms },
    Check { name: "strange_rows_make_money", applies: |_| true, run: strange_rows_make_money },
    Check { name: "a_kept_watch_goes_on_alike", applies: |_| true, run: a_kept_watch_goes_on_alike },
];

/// After any past the next bet's factor has the mean one.
fn nothing_is_gained(subject: &Bets) -> Result<(), String> {
    let past: Vec<f64> = normals(1, "p-values", 30).iter().map(|z| (z.abs() / 3.0).clamp(0.01, 1.0)).collect();
    let factor = |last: f64| {
        let mut bets = subject.0.begin_any();
        for p in &past {
            bets.bet(*p);
        }
        bets.bet(last).exp()
    };
    // With p = v⁸ bets on small values are smooth enough for the midpoint rule.
    let points = 2000;
    let point = |at: u32| {
        let v = (f64::from(at) + 0.5) / f64::from(points);
        factor(v.powi(8)) * 8.0 * v.powi(7)
    };
    let mean = (0..points).map(point).sum::<f64>() / f64::from(points);
    if (mean - 1.0).abs() < 2e-3 { Ok(()) } else { Err(format!("a factor of {mean}")) }
}

fn false_alarms(subject: &Bets) -> Result<(), String> {
    let mut alarms = 0;
    for seed in 0..SEEDS {
        let mut watch = Watch::new(subject.0.as_ref(), seed);
        for score in normals(seed, "watched", 100) {
            watch.observe(score).map_err(why)?;
        }
        alarms += u64::from(watch.alarm(0.1));
    }
    // Twenty of 200 are expected at most, with a standard deviation of 4.2; three of them.
    if alarms <= 33 { Ok(()) } else { Err(format!("{alarms} alarms of {SEEDS}")) }
}

fn strange_rows_make_money(subject: &Bets) -> Result<(), String> {
    let mut watch = Watch::new(subject.0.as_ref(), 0);
    (0..60).for_each(|_| watch.bet(0.01));
    if watch.alarm(0.01) { Ok(()) } else { Err(format!("a p-value of {}", watch.p_value())) }
}

fn a_kept_watch_goes_on_alike(subject: &Bets) -> Result<(), String> {
    let mut watch = Watch::new(subject.0.as_ref(), 2);
    for score in normals(2, "watched", 40) {
        watch.observe(score).map_err(why)?;
    }
    let mut kept = Watch::restore(subject.0.as_ref(), through_text(&watch.save())?).map_err(why)?;
    for score in normals(2, "watched on", 40) {
        if watch.observe(score + 1.0).map_err(why)? != kept.observe(score + 1.0).map_err(why)? {
            return Err("p-values differ".to_owned());
        }
    }
    if watch.save() == kept.save() { Ok(()) } else { Err("states differ".to_owned()) }
}

/// A method for regions and a shape that it reads.
pub struct Areas {
    method: Box<dyn AnyRegions>,
    shape: Shape,
    other: Shape,
}

impl Areas {
    /// A method with the shape that it reads: samples, or half-spaces.
    ///
    /// # Errors
    /// When it reads neither.
    pub fn new(method: Box<dyn AnyRegions>) -> Result<Self, String> {
        let numbers = normals(1, "cloud", 60);
        let cloud = Shape::Cloud(Array2::from_shape_fn((30, 2), |(row, column)| numbers[2 * row + column]));
        let directions = Array2::from_shape_fn((8, 2), |(row, column)| {
            let angle = row as f64 * std::f64::consts::FRAC_PI_4;
            if column == 0 { angle.cos() } else { angle.sin() }
        });
        let spaces = Shape::HalfSpaces { directions, offsets: vec![-1.5; 8] };
        for (shape, other) in [(&cloud, &spaces), (&spaces, &cloud)] {
            if method.score_any(shape).is_ok() {
                return Ok(Self { shape: shape.clone(), other: other.clone(), method });
            }
        }
        Err("neither samples nor half-spaces are read".to_owned())
    }

    fn calibrated(&self, seed: u64) -> Result<CalibratedRegions, String> {
        let shapes = vec![self.shape.clone(); ROWS];
        CalibratedRegions::new(self.method.as_ref(), &shapes, points(seed, "truths", ROWS).view(), None, &[])
            .map_err(why)
    }
}

fn points(seed: u64, purpose: &str, rows: usize) -> Array2<f64> {
    let numbers = normals(seed, purpose, 2 * rows);
    Array2::from_shape_fn((rows, 2), |(row, column)| numbers[2 * row + column])
}

/// The laws of regions.
pub static REGION_CHECKS: &[Check<Areas>] = &[
    Check { name: "coverage_is_at_least_what_is_promised", applies: |_| true, run: regions_cover },
    Check { name: "more_coverage_is_never_smaller", applies: |_| true, run: regions_are_nested },
    Check { name: "a_kept_calibration_answers_alike", applies: |_| true, run: kept_regions },
    Check { name: "a_shape_of_another_kind_is_refused", applies: |_| true, run: other_shapes },
];

fn regions_cover(subject: &Areas) -> Result<(), String> {
    let (seeds, mut inside) = (20, 0);
    for seed in 0..seeds {
        let fit = subject.calibrated(seed)?;
        let region = fit.region(subject.method.as_ref(), &subject.shape, None, &alike(), ALPHA).map_err(why)?;
        inside +=
            points(seed, "new truths", NEW).rows().into_iter().filter(|row| region.contains(&row.to_vec())).count();
    }
    let coverage = inside as f64 / (seeds as usize * NEW) as f64;
    // Three standard errors of the draws below.
    let least = 1.0 - ALPHA - 3.0 * 0.08 / (seeds as f64).sqrt();
    if coverage >= least { Ok(()) } else { Err(format!("a coverage of {coverage}")) }
}

fn regions_are_nested(subject: &Areas) -> Result<(), String> {
    let fit = subject.calibrated(1)?;
    let region = |alpha| fit.region(subject.method.as_ref(), &subject.shape, None, &alike(), alpha).map_err(why);
    let (large, small) = (region(0.1)?, region(0.4)?);
    let loose = |row: &ndarray::ArrayView1<'_, f64>| small.contains(&row.to_vec()) && !large.contains(&row.to_vec());
    if points(1, "probes", 200).rows().into_iter().any(|row| loose(&row)) {
        return Err("a point is in the smaller region alone".to_owned());
    }
    Ok(())
}

fn kept_regions(subject: &Areas) -> Result<(), String> {
    let fit = subject.calibrated(2)?;
    let kept: CalibratedRegions =
        serde_json::from_value(through_text(&serde_json::to_value(&fit).map_err(why)?)?).map_err(why)?;
    if fit == kept { Ok(()) } else { Err("thresholds differ".to_owned()) }
}

fn other_shapes(subject: &Areas) -> Result<(), String> {
    if subject.method.score_any(&subject.other).is_ok() { Err("it was taken".to_owned()) } else { Ok(()) }
}

/// The trials of all lists: `stats::method[case]::check`.
pub fn all() -> Vec<Trial> {
    let mut all = of(INTERVALS, Ranges::new, INTERVAL_CHECKS);
    all.extend(of(SETS, |method| Ok(Choices(method)), SET_CHECKS));
    all.extend(of(EXCHANGES, |method| Ok(Counting(method)), EXCHANGE_CHECKS));
    for entry in ONLINE {
        let defaults = entry.defaults();
        let subject = |method| Ok(Following::new(method, &defaults));
        all.extend(of(std::slice::from_ref(entry), subject, ONLINE_CHECKS));
    }
    all.extend(of(BETS, |method| Ok(Bets(method)), BET_CHECKS));
    all.extend(of(REGIONS, Areas::new, REGION_CHECKS));
    all.extend(cards::all("stats", INTERVALS, |method| method.settings()));
    all.extend(cards::all("stats", SETS, |method| method.settings()));
    all.extend(cards::all("stats", EXCHANGES, |method| method.settings()));
    all.extend(cards::all("stats", ONLINE, |method| method.settings()));
    all.extend(cards::all("stats", BETS, |method| method.settings()));
    all.extend(cards::all("stats", REGIONS, |method| method.settings()));
    all.extend(cards::all("stats", ESTIMATORS, |method| method.settings()));
    all
}

fn of<T: ?Sized, S: Send + Sync + 'static>(
    entries: &'static [Entry<T>],
    subject: impl Fn(Box<T>) -> Result<S, String>,
    checks: &'static [Check<S>],
) -> Vec<Trial> {
    let mut all = vec![];
    for entry in entries {
        for case in entry.cases {
            let built = case.parse::<toml::Table>().map_err(why).and_then(|table| entry.build(&table).map_err(why));
            match built.and_then(&subject) {
                Ok(subject) => all.extend(trials("stats", entry.card, case, Arc::new(subject), checks)),
                Err(why) => all.push(broken(entry.card, case, why)),
            }
        }
    }
    all
}

fn broken(card: Card, case: &str, why: String) -> Trial {
    Trial::test(format!("stats::{}[{case}]", card.name), || Err(Failed::from(why)))
}
