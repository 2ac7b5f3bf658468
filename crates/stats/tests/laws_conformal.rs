//! Laws of conformal prediction: closed forms, bounds on any stream, options that count, states that are kept.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Entry, Rng};
use acclimate_stats::conformal::{
    Aci, AnyExchange, AnyIntervals, AnyOnline, AnySets, Aps, BETS, Balls, Calibrated, CalibratedRegions,
    CalibratedSets, Cqr, CvPlus, Dqr, Dtaci, EXCHANGES, Enbpi, Forecast, Held, INTERVALS, Interval, JackknifePlus,
    LabelShift, Lac, Mondrian, ONLINE, Pid, QuantileTracker, REGIONS, ResidualForest, Row, SETS, Scorecaster, Shape,
    Spci, Split, Stream, Watch, Weighted,
};
use acclimate_stats::quantile::{Scores, conformal_rank, of_sorted, pinball, reach};
use ndarray::{Array2, array};

fn normals(purpose: &str, count: usize) -> Vec<f64> {
    let mut rng = Rng::new(0, purpose, 0);
    (0..count).map(|_| rng.normal()).collect()
}

/// Residuals that hang together: each is 0.8 of the one before and new noise.
fn series(purpose: &str, count: usize) -> Vec<f64> {
    let mut last = 0.0;
    let next = |noise| {
        last = 0.8 * last + noise;
        last
    };
    normals(purpose, count).into_iter().map(next).collect()
}

fn table(text: &str) -> toml::Table {
    text.parse().unwrap()
}

fn probabilities(rows: usize, classes: usize) -> Array2<f64> {
    let mut rng = Rng::new(1, "probabilities", 0);
    let mut p = Array2::from_shape_fn((rows, classes), |_| (1.5 * rng.normal()).exp());
    for mut row in p.rows_mut() {
        let total = row.sum();
        row /= total;
    }
    p
}

// Quantiles.

#[test]
fn reach_is_the_first_value_whose_mass_suffices() {
    let mut rng = Rng::new(2, "pairs", 0);
    for count in [1, 2, 7, 50] {
        let pairs: Vec<(f64, f64)> = (0..count).map(|_| (rng.below(20) as f64, rng.below(4) as f64)).collect();
        let mut sorted = pairs.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = pairs.iter().map(|pair| pair.1).sum();
        for part in 1..=10 {
            let mass = total * f64::from(part) / 8.0;
            let mut sum = 0.0;
            let first = sorted.iter().find(|(_, weight)| {
                sum += weight;
                sum >= mass
            });
            assert_eq!(reach(&mut pairs.clone(), mass), first.map_or(f64::INFINITY, |pair| pair.0));
        }
    }
}

#[test]
fn conformal_ranks_are_exact_at_any_level() {
    assert_eq!(conformal_rank(9, 0.1), Some(9));
    assert_eq!(conformal_rank(8, 0.1), None);
    assert_eq!(conformal_rank(199, 0.005), Some(199));
    assert_eq!(conformal_rank(198, 0.005), None);
    assert_eq!(conformal_rank(999, 0.005), Some(995));
    assert_eq!(conformal_rank(999, 0.0051), Some(995));
    assert_eq!(conformal_rank(99, 0.07), Some(93));
    for rows in 1..400 {
        let scores = Scores::new("test", (0..rows).map(f64::from), &[]).unwrap();
        for alpha in [0.005, 0.03, 0.1, 0.35] {
            let rank = conformal_rank(rows as usize, alpha).map_or(f64::INFINITY, |rank| (rank - 1) as f64);
            assert_eq!(scores.threshold(alpha, 1.0), rank);
        }
    }
}

#[test]
fn a_whole_weight_is_a_repeated_row() {
    let (scores, weights) = ([3.0, 1.0, 2.0, 5.0], [2.0, 1.0, 0.0, 3.0]);
    let weighted = Scores::new("test", scores, &weights).unwrap();
    let repeated = Scores::new("test", [3.0, 3.0, 1.0, 5.0, 5.0, 5.0], &[]).unwrap();
    for alpha in [0.05, 0.2, 0.4, 0.5, 0.7, 0.9] {
        assert_eq!(weighted.threshold(alpha, 1.0), repeated.threshold(alpha, 1.0));
    }
    for score in [0.0, 1.0, 2.0, 3.0, 6.0] {
        assert!((weighted.p_value(score, 1.0, 0.3) - repeated.p_value(score, 1.0, 0.3)).abs() < 1e-15);
    }
}

#[test]
fn a_row_is_inside_where_its_p_value_exceeds_alpha() {
    let scores = Scores::new("test", normals("scores", 57), &[]).unwrap();
    for alpha in [0.04, 0.1, 0.33] {
        for score in normals("new scores", 40) {
            assert_eq!(score <= scores.threshold(alpha, 1.0), scores.p_value(score, 1.0, 1.0) > alpha);
        }
    }
}

#[test]
fn the_quantile_has_the_least_pinball_loss() {
    let mut numbers = normals("pinball", 101);
    numbers.sort_by(f64::total_cmp);
    for level in [0.05, 0.3, 0.9] {
        let loss = |q: f64| numbers.iter().map(|truth| pinball(level, q, *truth)).sum::<f64>();
        let best = numbers.iter().map(|q| loss(*q)).fold(f64::INFINITY, f64::min);
        assert!((loss(of_sorted(&numbers, level)) - best).abs() < 1e-12);
    }
}

#[test]
fn bad_scores_and_levels_are_refused_with_their_row() {
    let refused = |result: acclimate_core::Result<Scores>| result.unwrap_err().to_string();
    assert!(refused(Scores::new("split", [1.0, f64::NAN], &[])).contains("row 2"));
    assert!(refused(Scores::new("split", [1.0, 2.0], &[1.0, -1.0])).contains("row 2"));
    assert!(Stream::new(&Aci::default(), &[], 1.0).unwrap_err().to_string().contains("`alpha`"));
    assert!(Stream::new(&Aci::default(), &[0.0, f64::INFINITY], 0.1).unwrap_err().to_string().contains("residual 2"));
    let mut stream = Stream::new(&Aci::default(), &[], 0.1).unwrap();
    assert!(stream.observe(1.0).unwrap_err().to_string().contains("predict first"));
    assert!(stream.predict(Forecast { centre: 0.0, scale: 0.0 }).is_err());
}

// Intervals.

struct Table {
    answers: Array2<f64>,
    truths: Vec<f64>,
    folds: Vec<usize>,
    bags: Array2<bool>,
    rows: Vec<Row>,
    new: Array2<f64>,
}

/// Rows that fit a method: the columns it reads, at calibration and at new rows.
fn rows_for(name: &str) -> Table {
    let n = 40;
    let (old, new) = match name {
        "cv_plus" => (1, 4),
        "jackknife_plus" => (1, n),
        "jackknife_plus_ab" => (6, 6),
        _ => (2, 2),
    };
    let mut rng = Rng::new(3, "table", 0);
    let mut answers = Array2::from_shape_fn((n, old), |(i, j)| (i % 5) as f64 + j as f64 + 0.3 * rng.normal());
    let mut fresh = Array2::from_shape_fn((3, new), |(i, j)| 1.5 * i as f64 + 0.1 * (j % 7) as f64);
    if old == 2 {
        // A scale for `split`, an upper quantile for `cqr`: positive and above.
        answers.column_mut(1).mapv_inplace(|v| v.abs() + 1.0);
        fresh.column_mut(1).mapv_inplace(|v| v.abs() + 4.0);
    }
    let truths = (0..n).map(|i| (i % 5) as f64 + rng.normal()).collect();
    let bags = Array2::from_shape_fn((n, 6), |(i, b)| (i * 7 + b * 3) % 4 == 0);
    let rows = (0..n).map(|i| Row { group: i % 2, ratio: 0.5 + (i % 3) as f64, class: None }).collect();
    let folds = if name == "cv_plus" { (0..n).map(|i| i % 4).collect() } else { Vec::new() };
    Table { answers, truths, folds, bags, rows, new: fresh }
}

fn intervals(method: &dyn AnyIntervals, by: Option<&dyn AnyExchange>, alpha: f64) -> Vec<Interval> {
    let t = rows_for(method.card().name);
    let held = Held { answers: t.answers.view(), truths: &t.truths, folds: &t.folds, bags: Some(t.bags.view()) };
    let rows = if by.is_some() { t.rows.as_slice() } else { &[] };
    let fit = Calibrated::new(method, &held, by, rows).unwrap();
    let restored = Calibrated::restore(method, serde_json::from_str(&fit.save().to_string()).unwrap()).unwrap();
    let (rows, new) = (if by.is_some() { &t.rows[..3] } else { &[] }, t.new.view());
    let found = fit.intervals(new, by, rows, alpha).unwrap();
    assert_eq!(found, restored.intervals(new, by, rows, alpha).unwrap());
    found
}

#[test]
fn intervals_are_kept_and_grow_with_what_they_shall_hold() {
    for entry in INTERVALS {
        for case in entry.cases {
            let method = entry.build(&table(case)).unwrap();
            let (narrow, wide) = (intervals(method.as_ref(), None, 0.3), intervals(method.as_ref(), None, 0.1));
            for (narrow, wide) in narrow.iter().zip(&wide) {
                assert!(wide.lower < narrow.lower && narrow.upper < wide.upper, "{}", entry.card.name);
            }
            // Forty rows cannot hold 99.5 per cent.
            assert_eq!(intervals(method.as_ref(), None, 0.005)[0], Interval::ALL, "{}", entry.card.name);
        }
    }
}

#[test]
fn exchanges_without_a_difference_change_no_interval() {
    for entry in INTERVALS.iter().filter(|entry| entry.card.name != "jackknife_plus") {
        let method = entry.build(&toml::Table::new()).unwrap();
        let mut t = rows_for(entry.card.name);
        let held = Held { answers: t.answers.view(), truths: &t.truths, folds: &t.folds, bags: Some(t.bags.view()) };
        let plain = Calibrated::new(method.as_ref(), &held, None, &[]).unwrap();
        t.rows = vec![Row { group: 3, ratio: 2.5, class: None }; t.truths.len()];
        for by in [&Weighted::default() as &dyn AnyExchange, &Mondrian::default()] {
            let fit = Calibrated::new(method.as_ref(), &held, Some(by), &t.rows).unwrap();
            assert_eq!(
                fit.intervals(t.new.view(), Some(by), &t.rows[..3], 0.2).unwrap(),
                plain.intervals(t.new.view(), None, &[], 0.2).unwrap()
            );
        }
    }
}

#[test]
fn exchanges_with_a_difference_change_every_interval() {
    for entry in INTERVALS {
        let method = entry.build(&toml::Table::new()).unwrap();
        let plain = intervals(method.as_ref(), None, 0.2);
        assert_ne!(plain, intervals(method.as_ref(), Some(&Weighted::default()), 0.2), "{}", entry.card.name);
        if entry.card.name != "jackknife_plus" {
            assert_ne!(plain, intervals(method.as_ref(), Some(&Mondrian::default()), 0.2), "{}", entry.card.name);
        }
    }
}

#[test]
fn a_new_row_that_weighs_too_much_gets_all_numbers() {
    let (answers, truths) = (Array2::zeros((20, 1)), normals("heavy", 20));
    let held = Held::new(answers.view(), &truths);
    let by = Weighted::default();
    let rows = vec![Row::default(); 20];
    let fit = Calibrated::new(&Split::default(), &held, Some(&by), &rows).unwrap();
    // No score reaches 0.9 (20 + w) where w exceeds 20 / 9.
    let new = [2.2, 2.3].map(|ratio| Row { ratio, ..Row::default() });
    let found = fit.intervals(Array2::zeros((2, 1)).view(), Some(&by), &new, 0.1).unwrap();
    assert!(found[0].upper.is_finite());
    assert_eq!(found[1], Interval::ALL);
    let by = Weighted { clip: Some(2.0) };
    assert!(fit.intervals(Array2::zeros((2, 1)).view(), Some(&by), &new, 0.1).unwrap()[1].upper.is_finite());
}

#[test]
fn a_group_without_rows_gets_all_numbers() {
    let (answers, truths) = (Array2::zeros((20, 1)), normals("groups", 20));
    let by = Mondrian::default();
    let rows: Vec<Row> = (0..20).map(|i| Row { group: i % 2, ..Row::default() }).collect();
    let fit = Calibrated::new(&Split::default(), &Held::new(answers.view(), &truths), Some(&by), &rows).unwrap();
    let new = [0, 7].map(|group| Row { group, ..Row::default() });
    let found = fit.intervals(Array2::zeros((2, 1)).view(), Some(&by), &new, 0.2).unwrap();
    assert!(found[0].upper.is_finite() && found[1] == Interval::ALL);
}

#[test]
fn jackknife_plus_is_cv_plus_with_a_fold_for_each_row() {
    let t = rows_for("jackknife_plus");
    let held = Held::new(t.answers.view(), &t.truths);
    let folds: Vec<usize> = (0..40).collect();
    let cv = Calibrated::new(&CvPlus::default(), &Held { folds: &folds, ..held }, None, &[]).unwrap();
    let jackknife = Calibrated::new(&JackknifePlus::default(), &held, None, &[]).unwrap();
    let of = |fit: &Calibrated| fit.intervals(t.new.view(), None, &[], 0.1).unwrap();
    assert_eq!(of(&cv), of(&jackknife));
}

#[test]
fn cv_plus_with_equal_fits_is_split() {
    let (answers, truths) = (Array2::from_elem((30, 1), 2.0), normals("equal fits", 30));
    let folds: Vec<usize> = (0..30).map(|row| row % 5).collect();
    let cv = Held { folds: &folds, ..Held::new(answers.view(), &truths) };
    let cv = Calibrated::new(&CvPlus::default(), &cv, None, &[]).unwrap();
    let split = Calibrated::new(&Split::default(), &Held::new(answers.view(), &truths), None, &[]).unwrap();
    for alpha in [0.05, 0.1, 0.25] {
        let cv = cv.intervals(Array2::from_elem((1, 5), 7.0).view(), None, &[], alpha).unwrap()[0];
        let split = split.intervals(array![[7.0]].view(), None, &[], alpha).unwrap()[0];
        assert!((cv.lower - split.lower).abs() < 1e-12 && (cv.upper - split.upper).abs() < 1e-12);
    }
}

#[test]
fn every_option_of_intervals_changes_one() {
    let differ =
        |a: &dyn AnyIntervals, b: &dyn AnyIntervals| assert_ne!(intervals(a, None, 0.2), intervals(b, None, 0.2));
    differ(&Split::default(), &Split { floor: 0.5 });
    differ(&Cqr::default(), INTERVALS[0].build(&table("sides = \"each\"")).unwrap().as_ref());
    let median = acclimate_core::find(INTERVALS, "jackknife_plus_ab").unwrap();
    differ(
        median.build(&toml::Table::new()).unwrap().as_ref(),
        median.build(&table("aggregate = \"median\"")).unwrap().as_ref(),
    );
    assert_eq!(
        INTERVALS.iter().map(|entry| entry.card.params.len()).sum::<usize>(),
        3,
        "a new option needs a line here"
    );
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    let (answers, truths) = (Array2::zeros((5, 3)), vec![0.0; 5]);
    for entry in INTERVALS {
        let method = entry.build(&toml::Table::new()).unwrap();
        let found = Calibrated::new(method.as_ref(), &Held::new(answers.view(), &truths), None, &[]);
        assert!(found.is_err(), "{}", entry.card.name);
        assert!(Calibrated::new(method.as_ref(), &Held::new(answers.view(), &truths[1..]), None, &[]).is_err());
    }
    assert!(LabelShift::default().place_any(&Row::default()).is_err());
    assert!(Weighted::default().place_any(&Row { ratio: f64::NAN, ..Row::default() }).is_err());
}

// Sets.

fn sets(method: &dyn AnySets, by: Option<&dyn AnyExchange>, alpha: f64) -> Vec<Vec<usize>> {
    let (held, new) = (probabilities(200, 4), probabilities(60, 4));
    let mut rng = Rng::new(2, "truths", 0);
    let mut truth = |p: ndarray::ArrayView1<'_, f64>| {
        let mut left = rng.uniform();
        let past = p.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        past.unwrap_or(3)
    };
    let truths: Vec<usize> = held.rows().into_iter().map(&mut truth).collect();
    let fit = CalibratedSets::new(method, held.view(), &truths, by, &[], 5).unwrap();
    let kept: CalibratedSets = serde_json::from_str(&serde_json::to_string(&fit).unwrap()).unwrap();
    assert_eq!(fit, kept);
    fit.sets(method, new.view(), by, &[], alpha).unwrap()
}

#[test]
fn sets_are_nested_in_their_level() {
    for entry in SETS {
        for case in entry.cases {
            let method = entry.build(&table(case)).unwrap();
            let all = [0.01, 0.1, 0.3, 0.6].map(|alpha| sets(method.as_ref(), None, alpha));
            for pair in all.windows(2) {
                assert_ne!(pair[0], pair[1], "{}", entry.card.name);
                for (large, small) in pair[0].iter().zip(&pair[1]) {
                    assert!(small.iter().all(|class| large.contains(class)), "{}", entry.card.name);
                }
            }
        }
    }
}

#[test]
fn label_shift_of_none_changes_no_set_and_one_of_some_does() {
    for entry in SETS {
        let method = entry.build(&toml::Table::new()).unwrap();
        let by = |weights: [f64; 4]| LabelShift { weights: weights.to_vec() };
        let plain = sets(method.as_ref(), None, 0.2);
        assert_eq!(plain, sets(method.as_ref(), Some(&by([2.0; 4])), 0.2));
        assert_ne!(plain, sets(method.as_ref(), Some(&by([0.1, 4.0, 1.0, 1.0])), 0.2));
        assert_ne!(
            plain,
            sets(method.as_ref(), Some(EXCHANGES[1].build(&table("by = \"class\"")).unwrap().as_ref()), 0.2)
        );
    }
}

#[test]
fn every_option_of_sets_changes_one() {
    let raps = |text: &str| SETS[2].build(&table(text)).unwrap();
    let differ = |a: &dyn AnySets, b: &dyn AnySets| assert_ne!(sets(a, None, 0.2), sets(b, None, 0.2));
    differ(&Aps::default(), &Aps { randomised: false });
    differ(raps("free = 1").as_ref(), raps("free = 1\npenalty = 0.5").as_ref());
    differ(raps("penalty = 0.2\nfree = 1").as_ref(), raps("penalty = 0.2\nfree = 2").as_ref());
    differ(raps("").as_ref(), raps("randomised = false").as_ref());
    assert_eq!(SETS.iter().map(|entry| entry.card.params.len()).sum::<usize>(), 4, "a new option needs a line here");
}

#[test]
fn raps_without_a_penalty_is_aps() {
    assert_eq!(
        sets(&Aps::default(), None, 0.1),
        sets(SETS[2].build(&table("penalty = 0")).unwrap().as_ref(), None, 0.1)
    );
}

#[test]
fn lac_by_class_ignores_other_classes() {
    let by = EXCHANGES[1].build(&table("by = \"class\"")).unwrap();
    let held = array![[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]];
    let fit = CalibratedSets::new(&Lac::default(), held.view(), &[0, 0, 0, 1], Some(by.as_ref()), &[], 0).unwrap();
    // Class 0 asks for 1 - p up to 0.3; the one row of class 1 cannot hold three quarters, so class 1 is always in.
    let new = array![[0.75, 0.25], [0.65, 0.35]];
    let found = fit.sets(&Lac::default(), new.view(), Some(by.as_ref()), &[], 0.25).unwrap();
    assert_eq!(found, [vec![0, 1], vec![1]]);
}

// Streams.

/// The intervals of a stream around zero.
fn follow(method: &dyn AnyOnline, past: &[f64], truths: &[f64], alpha: f64) -> Vec<Interval> {
    let mut stream = Stream::new(method, past, alpha).unwrap();
    let step = |truth: &f64| {
        let interval = stream.predict(0.0).unwrap();
        assert_eq!(stream.observe(*truth).unwrap(), interval.contains(*truth));
        interval
    };
    truths.iter().map(step).collect()
}

fn small(entry: &Entry<dyn AnyOnline>) -> toml::Table {
    table(match entry.card.name {
        "spci" => "lags = 4",
        // A thousand past scores count, enough for one miss in two hundred.
        "nexcp" => "decay = 0.999",
        _ => "",
    })
}

#[test]
fn a_stream_goes_on_bit_for_bit_after_it_was_kept() {
    let (past, truths) = (series("past", 80), series("stream", 60));
    for entry in ONLINE {
        for case in entry.cases {
            let method = entry.build(&table(case)).unwrap();
            let mut stream = Stream::new(method.as_ref(), &past, 0.1).unwrap();
            let mut other: Option<Stream> = None;
            for (step, truth) in truths.iter().enumerate() {
                if step == 31 {
                    // Two forecasts wait for their truths when it is kept.
                    let saved = serde_json::from_str(&stream.save().to_string()).unwrap();
                    other = Some(Stream::restore(method.as_ref(), saved).unwrap());
                }
                let interval = stream.predict(0.1).unwrap();
                if let Some(other) = &mut other {
                    assert_eq!(other.predict(0.1).unwrap(), interval, "{} {case}", entry.card.name);
                }
                if step >= 2 {
                    stream.observe(*truth).unwrap();
                    if let Some(other) = &mut other {
                        other.observe(*truth).unwrap();
                    }
                }
            }
            assert_eq!(stream.save(), other.unwrap().save());
        }
    }
}

#[test]
fn a_stream_moves_with_its_forecasts_and_stretches_with_their_scale() {
    let (past, truths) = (series("past", 120), series("stream", 40));
    for entry in ONLINE {
        let method = entry.build(&small(entry)).unwrap();
        let plain = follow(method.as_ref(), &past, &truths, 0.1);
        let mut stream = Stream::new(method.as_ref(), &past, 0.1).unwrap();
        for (truth, plain) in truths.iter().zip(&plain) {
            let moved = stream.predict(Forecast { centre: 8.0, scale: 4.0 }).unwrap();
            // Powers of two and sums near eight: only the sum is rounded.
            assert!((moved.lower - (8.0 + 4.0 * plain.lower)).abs() < 1e-12, "{}", entry.card.name);
            assert!((moved.upper - (8.0 + 4.0 * plain.upper)).abs() < 1e-12, "{}", entry.card.name);
            stream.observe(8.0 + 4.0 * truth).unwrap();
        }
    }
}

#[test]
fn intervals_are_as_large_as_the_unit_of_the_errors() {
    let times = |numbers: &[f64]| numbers.iter().map(|number| 4.0 * number).collect::<Vec<f64>>();
    let (past, truths) = (series("past", 120), series("stream", 40));
    for entry in ONLINE {
        let method = entry.build(&small(entry)).unwrap();
        let plain = follow(method.as_ref(), &past, &truths, 0.1);
        let large = follow(method.as_ref(), &times(&past), &times(&truths), 0.1);
        for (plain, large) in plain.iter().zip(&large) {
            assert!((4.0 * plain.lower - large.lower).abs() < 1e-9, "{}", entry.card.name);
            assert!((4.0 * plain.upper - large.upper).abs() < 1e-9, "{}", entry.card.name);
        }
    }
}

#[test]
fn every_option_of_streams_changes_one() {
    let (past, truths) = (series("past", 150), series("stream", 120));
    let base = |name: &str, option: &str| match (name, option) {
        ("spci", "history") => "lags = 5",
        ("spci", _) => "lags = 5\nhistory = 200",
        ("pid", "smoothing") => "scorecaster = \"average\"",
        _ => "",
    };
    let other = |option: &str| match option {
        "window" => "window = 30",
        "tails" => "tails = \"each\"",
        "gamma" => "gamma = 0.03",
        "gammas" => "gammas = [0.05]",
        "stretch" => "stretch = 20",
        "decay" => "decay = 0.9",
        "bins" => "bins = 1",
        "lr" => "lr = 0.3",
        "relative" => "relative = false",
        "integral" => "integral = 2.0",
        "saturation" => "saturation = 0.5",
        "scorecaster" => "scorecaster = \"theta\"",
        "smoothing" => "smoothing = 0.7",
        "compat" => "compat = true",
        "lags" => "lags = 2\nhistory = 200",
        "history" => "history = 60",
        "trees" => "trees = 3",
        "depth" => "depth = 4",
        "bootstrap" => "bootstrap = false",
        "seed" => "seed = 9",
        option => panic!("`{option}` is new: say here how it is changed"),
    };
    for entry in ONLINE {
        for option in entry.card.params {
            let mut settings = table(base(entry.card.name, option.name));
            let plain = follow(entry.build(&settings).unwrap().as_ref(), &past, &truths, 0.1);
            settings.extend(table(other(option.name)));
            let changed = follow(entry.build(&settings).unwrap().as_ref(), &past, &truths, 0.1);
            assert_ne!(plain, changed, "{} {}", entry.card.name, option.name);
        }
    }
}

#[test]
fn levels_are_not_rounded() {
    let (past, truths) = (series("past", 2000), series("stream", 1));
    for entry in ONLINE {
        let method = entry.build(&small(entry)).unwrap();
        let of = |alpha| follow(method.as_ref(), &past, &truths, alpha);
        // The first, before errors have changed anything.
        let (fine, finer) = (of(0.01)[0].width(), of(0.005)[0].width());
        assert!(finer > fine && finer.is_finite(), "{}: {finer} {fine}", entry.card.name);
    }
}

/// The worst streams we know: they answer each interval, once with as much as scores may be, once with nothing, or in long runs.
fn adversaries() -> Vec<fn(usize, Interval) -> f64> {
    vec![
        |_, interval| if interval.upper < 1.0 { 1.0 } else { 0.0 },
        |step, interval| if step % 97 < 60 { 1.0 } else { interval.upper.clamp(0.0, 1.0) },
        |step, _| if (step / 250) % 2 == 0 { 0.01 } else { 1.0 },
        |step, interval| if step % 3 == 0 { (interval.upper + 1e-9).clamp(0.0, 1.0) } else { 0.0 },
    ]
}

/// The share of misses less alpha, at every step beyond the first hundred at most `bound(T)`.
fn stays_within(method: &dyn AnyOnline, alpha: f64, bound: impl Fn(f64) -> f64) {
    for adversary in adversaries() {
        let mut stream = Stream::new(method, &[], alpha).unwrap();
        for step in 0..3000 {
            let interval = stream.predict(0.0).unwrap();
            stream.observe(adversary(step, interval)).unwrap();
            let steps = (step + 1) as f64;
            let off = (stream.tally().missed as f64 / steps - alpha).abs();
            assert!(off <= bound(steps) + 1e-12, "{} {step}: {off} {}", method.card().name, bound(steps));
        }
    }
}

#[test]
fn aci_keeps_its_bound_on_any_stream() {
    for (alpha, gamma) in [(0.1, 0.01), (0.1, 0.1), (0.005, 0.05)] {
        let method = Aci { gamma, ..Aci::default() };
        stays_within(&method, alpha, |steps| (alpha.max(1.0 - alpha) + gamma) / (gamma * steps));
    }
}

#[test]
fn the_tracker_keeps_its_bound_on_any_stream() {
    for (alpha, lr) in [(0.1, 0.05), (0.3, 0.4), (0.005, 0.2)] {
        let method = QuantileTracker { lr, relative: false, ..QuantileTracker::default() };
        stays_within(&method, alpha, |steps| (1.0 + lr) / (lr * steps));
    }
}

#[test]
fn pid_keeps_its_bound_on_any_stream() {
    for scorecaster in [Scorecaster::None, Scorecaster::Average, Scorecaster::Theta] {
        for saturation in [0.5, 3.0] {
            let method = Pid { saturation, scorecaster, ..Pid::default() };
            // The error sum passes the point where the tangent is infinite by one at most.
            let bound = |steps: f64| {
                let to = std::f64::consts::FRAC_PI_2 * saturation * (steps + 1.0) / (steps + 1.0).ln();
                (to + 1.0) / steps
            };
            stays_within(&method, 0.1, bound);
        }
    }
}

#[test]
fn dtaci_with_one_step_is_aci() {
    let (past, truths) = (series("past", 100), series("stream", 200));
    let one = Dtaci { gammas: vec![0.03], ..Dtaci::default() };
    let found = follow(&one, &past, &truths, 0.1);
    assert_eq!(found, follow(&Aci { gamma: 0.03, ..Aci::default() }, &past, &truths, 0.1));
}

#[test]
fn spci_with_one_leaf_is_enbpi() {
    let (past, truths) = (series("past", 200), series("stream", 50));
    for bins in [1, 5] {
        let spci = Spci { lags: 10, history: 130, depth: 0, bootstrap: false, bins, ..Spci::default() };
        let enbpi = Enbpi { window: 120, bins };
        assert_eq!(follow(&spci, &past, &truths, 0.1), follow(&enbpi, &past, &truths, 0.1));
    }
}

#[test]
fn one_bin_gives_equal_tails() {
    let past: Vec<f64> = (1..=1000).map(f64::from).collect();
    let enbpi = Enbpi { window: 1000, bins: 1 };
    let found = Stream::new(&enbpi, &past, 0.2).unwrap().predict(0.0).unwrap();
    assert_eq!((found.lower, found.upper), (100.0, 900.0));
}

#[test]
fn the_law_of_a_forest_sums_to_one() {
    let series = series("forest", 200);
    for (trees, depth, decay, ahead) in [(1, 0, 1.0, 0), (7, 3, 1.0, 2), (4, 6, 0.97, 0)] {
        let forest = ResidualForest { lags: 6, trees, depth, bootstrap: true, decay, ahead, seed: 1, step: 3 };
        let law = forest.law(&series);
        assert!((law.iter().map(|(_, weight)| weight).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(law.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert_eq!(law, forest.law(&series));
    }
}

#[test]
fn a_deep_forest_knows_a_series_that_repeats() {
    let series: Vec<f64> = (0..90).map(|t| [0.0, 3.0, 1.0][t % 3]).collect();
    for ahead in 0..3 {
        let forest =
            ResidualForest { lags: 2, trees: 3, depth: 3, bootstrap: false, decay: 1.0, ahead, seed: 0, step: 0 };
        // After 3, 1 comes 0; then 3; then 1.
        let law = forest.law(&series);
        assert!(law.iter().all(|(target, _)| *target == [0.0, 3.0, 1.0][ahead]), "{law:?}");
    }
}

#[test]
fn spci_looks_as_far_ahead_as_truths_are_late() {
    let past: Vec<f64> = (0..120).map(|t| [0.0, 3.0, 1.0][t % 3]).collect();
    let method = Spci { lags: 2, depth: 3, bootstrap: false, ..Spci::default() };
    let mut stream = Stream::new(&method, &past, 0.1).unwrap();
    let found = [0, 1, 2].map(|_| stream.predict(0.0).unwrap());
    assert_eq!(found.map(|interval| (interval.lower, interval.upper)), [(0.0, 0.0), (3.0, 3.0), (1.0, 1.0)]);
    stream.skip().unwrap();
    assert!(stream.observe(3.0).unwrap());
}

// Bets.

#[test]
fn no_bet_gains_on_even_p_values() {
    for entry in BETS {
        for case in entry
            .cases
            .iter()
            .chain(&["points = 3"])
            .filter(|case| !(entry.card.name != "simple_mixture" && **case == "points = 3"))
        {
            let method = entry.build(&table(case)).unwrap();
            let p: Vec<f64> = normals("p-values", 30).iter().map(|z| (z.abs() / 3.0).clamp(0.01, 1.0)).collect();
            let grown = |last: f64| {
                let mut bets = method.begin_any();
                p.iter().for_each(|p| {
                    bets.bet(*p);
                });
                bets.bet(last).exp()
            };
            // With p = v^8 the power bets are smooth enough for the midpoint rule.
            let n = 2000;
            let mean: f64 = (0..n)
                .map(|i| (i as f64 + 0.5) / f64::from(n))
                .map(|v| grown(v.powi(8)) * 8.0 * v.powi(7))
                .sum::<f64>()
                / f64::from(n);
            assert!((mean - 1.0).abs() < 2e-3, "{} {case}: {mean}", entry.card.name);
        }
    }
}

#[test]
fn every_option_of_bets_counts_and_a_watch_is_kept() {
    for entry in BETS {
        let money = |case: &str| {
            let method = entry.build(&table(case)).unwrap();
            let mut watch = Watch::new(method.as_ref(), 4);
            normals("watched", 50).iter().for_each(|score| {
                watch.observe(*score).unwrap();
            });
            let mut kept =
                Watch::restore(method.as_ref(), serde_json::from_str(&watch.save().to_string()).unwrap()).unwrap();
            normals("watched on", 50).iter().for_each(|score| {
                assert_eq!(watch.observe(score + 1.0).unwrap(), kept.observe(score + 1.0).unwrap());
            });
            assert_eq!(watch.save(), kept.save());
            watch.log_capital()
        };
        assert_eq!(entry.card.params.len(), 1);
        assert_ne!(money(entry.cases[0]), money(entry.cases[1]), "{}", entry.card.name);
        assert!(Watch::new(entry.build(&toml::Table::new()).unwrap().as_ref(), 0).observe(f64::NAN).is_err());
    }
}

// Regions.

#[test]
fn one_target_and_two_directions_are_cqr() {
    let (x, y) = (Array2::zeros((60, 1)), Array2::from_shape_vec((60, 1), normals("dqr", 60)).unwrap());
    let method = Dqr { level: 0.1, ..Dqr::default() };
    let fit = method.fit(x.view(), y.view()).unwrap();
    let shapes = fit.shapes(x.view()).unwrap();
    let Shape::HalfSpaces { offsets, .. } = &shapes[0] else { panic!("half-spaces") };
    let quantiles = Array2::from_shape_fn((60, 2), |(_, j)| if j == 0 { offsets[0] } else { -offsets[1] });
    let truths = y.column(0).to_vec();
    let cqr = Calibrated::new(&Cqr::default(), &Held::new(quantiles.view(), &truths), None, &[]).unwrap();
    let cqr = cqr.intervals(quantiles.view(), None, &[], 0.1).unwrap()[0];
    let regions = CalibratedRegions::new(&method, &shapes, y.view(), None, &[]).unwrap();
    let region = regions.region(&method, &shapes[0], None, &Row::default(), 0.1).unwrap();
    for point in [cqr.lower + 1e-9, cqr.upper - 1e-9] {
        assert!(region.contains(&[point]));
    }
    for point in [cqr.lower - 1e-9, cqr.upper + 1e-9] {
        assert!(!region.contains(&[point]));
    }
    // Without features the quantile is that of the rows, between the sixth and the seventh of sixty.
    let mut sorted = truths;
    sorted.sort_by(f64::total_cmp);
    assert!(sorted[5] - 1e-4 <= offsets[0] && offsets[0] <= sorted[6] + 1e-4);
}

#[test]
fn directional_quantiles_of_gaussians_have_their_closed_form() {
    let mut rng = Rng::new(6, "gaussian", 0);
    let x = Array2::from_shape_fn((3000, 1), |_| rng.uniform());
    let noise = Array2::from_shape_fn((3000, 2), |_| rng.normal());
    // y = (1 + 2x, -x) + noise with standard deviations 1 and 0.5.
    let y = Array2::from_shape_fn((3000, 2), |(i, j)| {
        if j == 0 { 1.0 + 2.0 * x[[i, 0]] + noise[[i, 0]] } else { -x[[i, 0]] + 0.5 * noise[[i, 1]] }
    });
    let method = Dqr { level: 0.1, directions: 8, steps: 60, ..Dqr::default() };
    let shapes = method.fit(x.view(), y.view()).unwrap().shapes(array![[0.5]].view()).unwrap();
    let Shape::HalfSpaces { directions, offsets } = &shapes[0] else { panic!("half-spaces") };
    let normal_tenth = -1.281_551_565_5;
    for (u, offset) in directions.rows().into_iter().zip(offsets) {
        let length = (u[0] * u[0] + 0.25 * u[1] * u[1]).sqrt();
        let exact = 2.0 * u[0] - 0.5 * u[1] + normal_tenth * length;
        // The quantile of 3000 rows has a standard error of 0.03 lengths; three of them.
        assert!((offset - exact).abs() < 0.1 * length, "{offset} {exact}");
    }
}

#[test]
fn regions_grow_with_what_they_shall_hold_and_turn_with_the_targets() {
    let cloud = Array2::from_shape_vec((30, 2), normals("cloud", 60)).unwrap();
    let truths = Array2::from_shape_vec((50, 2), normals("truths", 100)).unwrap() * 1.5;
    let turn = array![[0.0, 1.0], [-1.0, 0.0]];
    let threshold = |cloud: &Array2<f64>, truths: &Array2<f64>, alpha: f64| {
        let shapes = vec![Shape::Cloud(cloud.clone()); truths.nrows()];
        let fit = CalibratedRegions::new(&Balls::default(), &shapes, truths.view(), None, &[]).unwrap();
        fit.region(&Balls::default(), &shapes[0], None, &Row::default(), alpha).unwrap().threshold()
    };
    let found = [0.05, 0.1, 0.2, 0.4, 0.7, 0.9].map(|alpha| threshold(&cloud, &truths, alpha));
    assert!(found.windows(2).all(|pair| pair[0] >= pair[1]) && found[0] > 0.0 && found[5] < 0.0, "{found:?}");
    let turned = threshold(&cloud.dot(&turn), &truths.dot(&turn), 0.9);
    assert!((turned - found[5]).abs() < 1e-12);
    assert!(threshold(&cloud, &truths, 0.01).is_infinite());
}

#[test]
fn the_volume_of_a_region_is_counted() {
    let shape = Shape::Cloud(array![[0.0, 0.0]]);
    let truths = array![[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]];
    let fit = CalibratedRegions::new(&Balls::default(), &vec![shape.clone(); 3], truths.view(), None, &[]).unwrap();
    let region = fit.region(&Balls::default(), &shape, None, &Row::default(), 0.5).unwrap();
    // A disc of radius two.
    let volume = region.volume(&[-3.0, -3.0], &[3.0, 3.0], 200);
    assert!((volume - 4.0 * std::f64::consts::PI).abs() < 0.05, "{volume}");
}

#[test]
fn every_option_of_regions_changes_one() {
    let balls = |text: &str| {
        let method = REGIONS[0].build(&table(text)).unwrap();
        let cloud = Shape::Cloud(Array2::from_shape_vec((30, 2), normals("cloud", 60)).unwrap());
        let score = method.score_any(&cloud).unwrap();
        [[0.1, 0.2], [0.6, -0.5], [-0.3, 0.4]].map(|point| score(&point))
    };
    for text in ["share = 0.3", "parts = 7", "pad = 0.9"] {
        assert_ne!(balls(""), balls(text), "{text}");
    }
    let dqr = |text: &str| {
        let method = Dqr { ..toml::from_str(text).unwrap() };
        let (x, y) = (normals("x", 50), normals("y", 150));
        let (x, y) = (Array2::from_shape_vec((50, 1), x).unwrap(), Array2::from_shape_vec((50, 3), y).unwrap());
        method.fit(x.view(), y.view()).unwrap()
    };
    for text in ["level = 0.2", "directions = 9", "steps = 5", "seed = 8"] {
        assert_ne!(dqr(""), dqr(text), "{text}");
    }
    assert_eq!(REGIONS.iter().map(|entry| entry.card.params.len()).sum::<usize>(), 7, "a new option needs a line here");
    assert!(REGIONS[0].build(&table("parts = 1")).is_err());
    let wrong = Shape::HalfSpaces { directions: Array2::eye(2), offsets: vec![0.0; 2] };
    assert!(REGIONS[0].build(&toml::Table::new()).unwrap().score_any(&wrong).is_err());
}
