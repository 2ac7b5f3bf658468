//! Coverage over 200 seeds, on data whose law is known.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::Rng;
use acclimate_stats::conformal::{
    AnyExchange, AnyIntervals, AnyOnline, Aps, BETS, Balls, Calibrated, CalibratedRegions, CalibratedSets, Cqr, CvPlus,
    Dqr, Enbpi, Held, JackknifePlus, JackknifePlusAb, LabelShift, Mondrian, ONLINE, Row, SETS, Shape, Spci, Split,
    Stream, Watch, Weighted,
};
use acclimate_stats::quantile::conformal_rank;
use ndarray::{Array2, ArrayView1, s};
use rayon::prelude::*;

const SEEDS: u64 = 200;
const ALPHA: f64 = 0.1;
const ROWS: usize = 99;
const NEW: usize = 100;

/// The counts between which the covered of `new` rows lie in at least 95 of 100 cases, given `rows` exchangeable ones without ties: the
/// Beta-binomial law of `k = ⌈(rows + 1)(1 − alpha)⌉`.
fn band(rows: usize, new: usize) -> (usize, usize) {
    let k = conformal_rank(rows, ALPHA).unwrap() as f64;
    let (a, b, m) = (k, rows as f64 + 1.0 - k, new as f64);
    let mut masses = vec![1.0];
    for j in 0..new {
        let j = j as f64;
        masses.push(masses.last().unwrap() * (m - j) / (j + 1.0) * (a + j) / (b + m - j - 1.0));
    }
    let total: f64 = masses.iter().sum();
    let tail = |masses: &mut dyn Iterator<Item = &f64>| {
        let mut sum = 0.0;
        masses
            .take_while(|mass| {
                sum += **mass / total;
                sum < 0.025
            })
            .count()
    };
    (tail(&mut masses.iter()), new - tail(&mut masses.iter().rev()))
}

/// Holds the covered counts of all seeds against their exact law.
fn follows_its_law(what: &str, covered: impl Fn(u64) -> usize + Send + Sync) {
    let counts: Vec<usize> = (0..SEEDS).into_par_iter().map(covered).collect();
    let (low, high) = band(ROWS, NEW);
    let outside = counts.iter().filter(|count| !(low..=high).contains(count)).count();
    // At most 5 in 100 are outside: ten of 200, with a standard deviation of three; four of them.
    assert!(outside <= 22, "{what}: {outside} seeds outside of {low}..={high}");
    let mean = counts.iter().sum::<usize>() as f64 / (SEEDS as usize * NEW) as f64;
    // The mean is k / (n + 1) = 0.9; that of a seed varies by sqrt(0.9 · 0.1 (1/101 + 1/100)) = 0.042, that of 200 by 0.003; three of them.
    assert!((mean - 0.9).abs() < 0.009, "{what}: {mean}");
}

/// Rows of errors that grow with x: x, a truth, both from their own stream.
fn uneven(rng: &mut Rng) -> (f64, f64) {
    let x = rng.uniform();
    (x, (0.1 + x) * rng.normal())
}

fn covered(method: &dyn AnyIntervals, seed: u64, answers: impl Fn(f64) -> Vec<f64>, columns: usize) -> usize {
    let mut rng = Rng::new(seed, "rows", 0);
    let rows: Vec<(f64, f64)> = (0..ROWS + NEW).map(|_| uneven(&mut rng)).collect();
    let all = Array2::from_shape_fn((ROWS + NEW, columns), |(i, j)| answers(rows[i].0)[j]);
    let truths: Vec<f64> = rows.iter().map(|row| row.1).collect();
    let fit = Calibrated::new(method, &Held::new(all.slice(s![..ROWS, ..]), &truths[..ROWS]), None, &[]).unwrap();
    let found = fit.intervals(all.slice(s![ROWS.., ..]), None, &[], ALPHA).unwrap();
    found.iter().zip(&truths[ROWS..]).filter(|(interval, truth)| interval.contains(**truth)).count()
}

#[test]
fn split_covers_as_its_law_says() {
    follows_its_law("absolute", |seed| covered(&Split::default(), seed, |_| vec![0.0], 1));
    follows_its_law("scaled", |seed| covered(&Split::default(), seed, |x| vec![0.0, 0.1 + x], 2));
}

#[test]
fn cqr_covers_as_its_law_says() {
    follows_its_law("cqr", |seed| covered(&Cqr::default(), seed, |x| vec![-x, 0.5 * x], 2));
}

/// Probabilities and a class that follows them.
fn classes(seed: u64, purpose: &str, rows: usize, shares: [f64; 3]) -> (Array2<f64>, Vec<usize>) {
    let mut rng = Rng::new(seed, purpose, 0);
    let truths: Vec<usize> = (0..rows)
        .map(|_| {
            let u = rng.uniform();
            if u < shares[0] { 0 } else { 1 + usize::from(u >= shares[0] + shares[1]) }
        })
        .collect();
    // Two features, normal around a corner for each class; the probabilities are those under equal shares.
    let corners = [[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]];
    let mut p = Array2::zeros((rows, 3));
    for (mut row, truth) in p.rows_mut().into_iter().zip(&truths) {
        let x = corners[*truth].map(|corner| corner + rng.normal());
        let near = corners.map(|corner| (-0.5 * ((x[0] - corner[0]).powi(2) + (x[1] - corner[1]).powi(2))).exp());
        let total: f64 = near.iter().sum();
        row.iter_mut().zip(near).for_each(|(p, near)| *p = near / total);
    }
    (p, truths)
}

const EVEN: [f64; 3] = [1.0 / 3.0; 3];

#[test]
fn sets_cover_as_their_law_says() {
    for entry in SETS {
        let method = entry.build(&toml::Table::new()).unwrap();
        follows_its_law(entry.card.name, |seed| {
            let (p, truths) = classes(seed, "classes", ROWS + NEW, EVEN);
            let old = p.slice(s![..ROWS, ..]);
            let fit = CalibratedSets::new(method.as_ref(), old, &truths[..ROWS], None, &[], seed).unwrap();
            let sets = fit.sets(method.as_ref(), p.slice(s![ROWS.., ..]), None, &[], ALPHA).unwrap();
            sets.iter().zip(&truths[ROWS..]).filter(|(set, truth)| set.contains(truth)).count()
        });
    }
}

#[test]
fn mondrian_covers_in_each_group_as_its_law_says() {
    for group in 0..2 {
        follows_its_law("group", |seed| {
            let by = Mondrian::default();
            let mut rng = Rng::new(seed, "groups", 0);
            let rows: Vec<Row> = (0..2 * ROWS).map(|i| Row { group: i % 2, ..Row::default() }).collect();
            let truths: Vec<f64> = rows.iter().map(|row| (1.0 + 4.0 * row.group as f64) * rng.normal()).collect();
            let answers = Array2::zeros((2 * ROWS, 1));
            let held = Held::new(answers.view(), &truths);
            let fit = Calibrated::new(&Split::default(), &held, Some(&by), &rows).unwrap();
            let new = vec![Row { group, ..Row::default() }; NEW];
            let found = fit.intervals(Array2::zeros((NEW, 1)).view(), Some(&by), &new, ALPHA).unwrap();
            found.iter().filter(|interval| interval.contains((1.0 + 4.0 * group as f64) * rng.normal())).count()
        });
    }
}

/// A curve that is bent and thin.
fn banana(rng: &mut Rng) -> [f64; 2] {
    let z = 2.0 * rng.uniform() - 1.0;
    [2.0 * z + 0.1 * rng.normal(), (1.0 - (3.0 * z).cos()) + 0.1 * rng.normal()]
}

fn bananas(seed: u64, purpose: &str, rows: usize) -> Array2<f64> {
    let mut rng = Rng::new(seed, purpose, 0);
    let points: Vec<[f64; 2]> = (0..rows).map(|_| banana(&mut rng)).collect();
    Array2::from_shape_fn((rows, 2), |(i, j)| points[i][j])
}

#[test]
fn regions_from_samples_cover_as_their_law_says() {
    let method = Balls { parts: 8, ..Balls::default() };
    let shape = Shape::Cloud(bananas(0, "cloud", 40));
    let shapes = vec![shape.clone(); ROWS];
    follows_its_law("balls", |seed| {
        let truths = bananas(seed, "truths", ROWS + NEW);
        let fit = CalibratedRegions::new(&method, &shapes, truths.slice(s![..ROWS, ..]), None, &[]).unwrap();
        let region = fit.region(&method, &shape, None, &Row::default(), ALPHA).unwrap();
        truths.slice(s![ROWS.., ..]).rows().into_iter().filter(|row| region.contains(&row.to_vec())).count()
    });
}

#[test]
fn directional_regions_cover_as_their_law_says() {
    let method = Dqr { directions: 16, steps: 40, ..Dqr::default() };
    let x = Array2::zeros((200, 1));
    let fitted = method.fit(x.view(), bananas(0, "fit", 200).view()).unwrap();
    let shapes = fitted.shapes(Array2::zeros((ROWS, 1)).view()).unwrap();
    follows_its_law("dqr", |seed| {
        let truths = bananas(seed, "truths", ROWS + NEW);
        let fit = CalibratedRegions::new(&method, &shapes, truths.slice(s![..ROWS, ..]), None, &[]).unwrap();
        let region = fit.region(&method, &shapes[0], None, &Row::default(), ALPHA).unwrap();
        truths.slice(s![ROWS.., ..]).rows().into_iter().filter(|row| region.contains(&row.to_vec())).count()
    });
}

/// A bent region is far smaller than a convex one, and a convex one than a box of Bonferroni.
#[test]
fn regions_that_bend_are_smaller_on_bent_data() {
    let truths = bananas(1, "calibration", 400);
    let volume = |method: &dyn acclimate_stats::conformal::AnyRegions, shape: &Shape| {
        let fit = CalibratedRegions::new(method, &vec![shape.clone(); 400], truths.view(), None, &[]).unwrap();
        let region = fit.region(method, shape, None, &Row::default(), ALPHA).unwrap();
        region.volume(&[-4.0, -2.0], &[4.0, 4.0], 100)
    };
    let fit = bananas(2, "fit", 400);
    let dqr = Dqr { level: 0.03, directions: 32, steps: 60, ..Dqr::default() };
    let convex =
        dqr.fit(Array2::zeros((400, 1)).view(), fit.view()).unwrap().shapes(Array2::zeros((1, 1)).view()).unwrap();
    let convex = volume(&dqr, &convex[0]);
    let bent = volume(&Balls::default(), &Shape::Cloud(fit.clone()));
    let mut edges = Vec::new();
    for column in fit.columns() {
        let mut sorted = column.to_vec();
        sorted.sort_by(f64::total_cmp);
        edges.extend([sorted[9], -sorted[389]]);
    }
    let directions = ndarray::array![[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]];
    let boxed = volume(&dqr, &Shape::HalfSpaces { directions, offsets: edges });
    assert!(bent < 0.7 * convex && convex < boxed, "{bent} {convex} {boxed}");
}

/// The mean of the rows that `keep` holds.
fn mean(truths: &[f64], keep: impl Fn(usize) -> bool) -> f64 {
    let kept: Vec<f64> = truths.iter().enumerate().filter(|(row, _)| keep(*row)).map(|(_, truth)| *truth).collect();
    kept.iter().sum::<f64>() / kept.len() as f64
}

/// The learner answers with the mean of the rows it has seen; few rows, so that fits differ.
#[test]
fn cv_plus_and_its_kin_cover_more_than_one_less_two_alpha() {
    const FEW: usize = 24;
    let coverage = |found: fn(&[f64], u64) -> acclimate_stats::conformal::Interval| {
        let covered = |seed: u64| {
            let mut rng = Rng::new(seed, "few rows", 0);
            let truths: Vec<f64> = (0..FEW).map(|_| rng.normal()).collect();
            let interval = found(&truths, seed);
            (0..200).filter(|_| interval.contains(rng.normal())).count()
        };
        (0..SEEDS).into_par_iter().map(covered).sum::<usize>() as f64 / (SEEDS * 200) as f64
    };
    let cv = coverage(|truths, _| {
        let folds: Vec<usize> = (0..FEW).map(|row| row % 4).collect();
        let fits: Vec<f64> = (0..4).map(|fold| mean(truths, |row| row % 4 != fold)).collect();
        let answers = Array2::from_shape_fn((FEW, 1), |(row, _)| fits[folds[row]]);
        let held = Held { folds: &folds, ..Held::new(answers.view(), truths) };
        let fit = Calibrated::new(&CvPlus::default(), &held, None, &[]).unwrap();
        fit.intervals(ArrayView1::from(&fits).insert_axis(ndarray::Axis(0)), None, &[], ALPHA).unwrap()[0]
    });
    let jackknife = coverage(|truths, _| {
        let fits: Vec<f64> = (0..FEW).map(|left| mean(truths, |row| row != left)).collect();
        let answers = Array2::from_shape_vec((FEW, 1), fits.clone()).unwrap();
        let fit = Calibrated::new(&JackknifePlus::default(), &Held::new(answers.view(), truths), None, &[]).unwrap();
        fit.intervals(ArrayView1::from(&fits).insert_axis(ndarray::Axis(0)), None, &[], ALPHA).unwrap()[0]
    });
    let bootstrap = coverage(|truths, seed| {
        let draws: Vec<Vec<usize>> = (0..25)
            .map(|fit| {
                let mut rng = Rng::new(seed, "bags", fit);
                (0..FEW).map(|_| rng.below(FEW)).collect()
            })
            .collect();
        let fits: Vec<f64> =
            draws.iter().map(|rows| rows.iter().map(|row| truths[*row]).sum::<f64>() / FEW as f64).collect();
        let answers = Array2::from_shape_fn((FEW, 25), |(_, fit)| fits[fit]);
        let bags = Array2::from_shape_fn((FEW, 25), |(row, fit)| draws[fit].contains(&row));
        let held = Held { bags: Some(bags.view()), ..Held::new(answers.view(), truths) };
        let fit = Calibrated::new(&JackknifePlusAb::default(), &held, None, &[]).unwrap();
        fit.intervals(answers.slice(s![..1, ..]), None, &[], ALPHA).unwrap()[0]
    });
    for (what, coverage) in [("cv_plus", cv), ("jackknife_plus", jackknife), ("jackknife_plus_ab", bootstrap)] {
        // Stable fits: near 0.9 in truth.
        assert!((0.88..0.95).contains(&coverage), "{what}: {coverage}");
    }
}

#[test]
fn true_weights_keep_coverage_where_plain_split_loses_it() {
    let coverage = |by: Option<&dyn AnyExchange>| {
        let covered = |seed: u64| {
            let mut rng = Rng::new(seed, "covariate shift", 0);
            // New rows have the density 2x on [0, 1], where errors are larger.
            let old: Vec<(f64, f64)> = (0..200).map(|_| uneven(&mut rng)).collect();
            let new: Vec<(f64, f64)> = (0..100).map(|_| rng.uniform().max(rng.uniform())).map(|x| (x, 0.0)).collect();
            let new: Vec<(f64, f64)> = new.into_iter().map(|(x, _)| (x, (0.1 + x) * rng.normal())).collect();
            let rows = |of: &[(f64, f64)]| {
                of.iter().map(|(x, _)| Row { ratio: 2.0 * x, ..Row::default() }).collect::<Vec<_>>()
            };
            let truths: Vec<f64> = old.iter().map(|row| row.1).collect();
            let answers = Array2::zeros((200, 1));
            let held = Held::new(answers.view(), &truths);
            let fit = Calibrated::new(&Split::default(), &held, by, &rows(&old)).unwrap();
            let found = fit.intervals(Array2::zeros((100, 1)).view(), by, &rows(&new), ALPHA).unwrap();
            found.iter().zip(&new).filter(|(interval, row)| interval.contains(row.1)).count()
        };
        (0..SEEDS).into_par_iter().map(covered).sum::<usize>() as f64 / (SEEDS * 100) as f64
    };
    let (plain, weighted) = (coverage(None), coverage(Some(&Weighted::default())));
    assert!(plain < 1.0 - ALPHA - 0.03, "{plain}");
    assert!((1.0 - ALPHA - 0.02..1.0 - ALPHA + 0.03).contains(&weighted), "{weighted}");
}

#[test]
fn true_shares_keep_coverage_where_plain_sets_lose_it() {
    let shares = [0.1, 0.8, 0.1];
    let old_shares = [0.6, 0.2, 0.2];
    let weights = (0..3).map(|class| shares[class] / old_shares[class]).collect();
    let shifted = LabelShift { weights };
    let coverage = |by: Option<&dyn AnyExchange>| {
        let covered = |seed: u64| {
            let (mut p, truths) = classes(seed, "old classes", 300, old_shares);
            let (mut new, came) = classes(seed, "new classes", 100, shares);
            // The model believes in the old shares.
            for mut row in p.rows_mut().into_iter().chain(new.rows_mut()) {
                row *= &ndarray::arr1(&old_shares);
                let total = row.sum();
                row /= total;
            }
            let method = Aps::default();
            let fit = CalibratedSets::new(&method, p.view(), &truths, by, &[], seed).unwrap();
            let sets = fit.sets(&method, new.view(), by, &[], ALPHA).unwrap();
            sets.iter().zip(&came).filter(|(set, truth)| set.contains(truth)).count()
        };
        (0..SEEDS).into_par_iter().map(covered).sum::<usize>() as f64 / (SEEDS * 100) as f64
    };
    let (plain, weighted) = (coverage(None), coverage(Some(&shifted)));
    assert!(plain < 1.0 - ALPHA - 0.03, "{plain}");
    assert!((1.0 - ALPHA - 0.02..1.0 - ALPHA + 0.03).contains(&weighted), "{weighted}");
    let by_class = Mondrian { by: acclimate_stats::conformal::By::Class };
    assert!(coverage(Some(&by_class)) > 1.0 - ALPHA - 0.02);
}

/// Errors that hang together: each is `rho` of the one before and new noise.
fn dependent(seed: u64, rho: f64, count: usize) -> Vec<f64> {
    let mut rng = Rng::new(seed, "dependent errors", 0);
    let mut last = rng.normal() / (1.0 - rho * rho).sqrt();
    let next = || {
        last = rho * last + rng.normal();
        Some(last)
    };
    std::iter::from_fn(next).take(count).collect()
}

fn follow(method: &dyn AnyOnline, past: &[f64], truths: &[f64]) -> (f64, f64) {
    let mut stream = Stream::new(method, past, ALPHA).unwrap();
    for truth in truths {
        stream.predict(0.0).unwrap();
        stream.observe(*truth).unwrap();
    }
    (stream.tally().coverage(), stream.tally().mean_width())
}

#[test]
fn streams_cover_independent_and_dependent_errors() {
    for entry in ONLINE {
        let settings = if entry.card.name == "spci" { "lags = 2\nhistory = 200" } else { "" };
        let method = entry.build(&settings.parse().unwrap()).unwrap();
        for rho in [0.0, 0.5] {
            let of = |seed| {
                let errors = dependent(seed, rho, 350);
                follow(method.as_ref(), &errors[..200], &errors[200..]).0
            };
            let seeds = if entry.card.name == "spci" { 10 } else { SEEDS };
            let coverage = (0..seeds).into_par_iter().map(of).sum::<f64>() / seeds as f64;
            // EnbPI's and SPCI's narrowest tails cover less by the search over them.
            let low = if ["enbpi", "spci"].contains(&entry.card.name) { 0.85 } else { 0.89 };
            assert!((low..0.93).contains(&coverage), "{} {rho}: {coverage}", entry.card.name);
        }
    }
}

#[test]
fn spci_is_as_much_narrower_as_errors_hang_together() {
    // The best law given the last error has a standard deviation of 0.6 of the plain one.
    let of = |seed: u64| {
        let errors = dependent(seed, 0.8, 1040);
        let spci = Spci { lags: 1, depth: 3, bins: 1, trees: 10, ..Spci::default() };
        let (coverage, width) = follow(&spci, &errors[..1000], &errors[1000..]);
        let (_, plain) = follow(&Enbpi { window: 1000, bins: 1 }, &errors[..1000], &errors[1000..]);
        (coverage, width / plain)
    };
    let found: Vec<(f64, f64)> = (0..12).into_par_iter().map(of).collect();
    let (coverage, ratio) = found.iter().fold((0.0, 0.0), |(c, r), found| (c + found.0 / 12.0, r + found.1 / 12.0));
    assert!((0.58..0.68).contains(&ratio), "{ratio}");
    assert!(coverage > 0.87, "{coverage}");
}

#[test]
fn alarms_are_false_as_seldom_as_they_say_and_true_ones_come() {
    for entry in BETS {
        let method = entry.build(&toml::Table::new()).unwrap();
        let alarms = |late: f64, level: f64| {
            let alarm = |seed: u64| {
                let mut rng = Rng::new(seed, "watched scores", 0);
                let mut watch = Watch::new(method.as_ref(), seed);
                for step in 0..200 {
                    let shift = if step < 60 { 0.0 } else { late };
                    watch.observe(rng.normal() + shift).unwrap();
                }
                watch.alarm(level)
            };
            (0..SEEDS).into_par_iter().filter(|seed| alarm(*seed)).count()
        };
        // One in ten at most, with a standard deviation of 4.2 of 200; three of them.
        assert!(alarms(0.0, 0.1) <= 20 + 13, "{}", entry.card.name);
        assert!(alarms(2.0, 0.01) >= 190, "{}: {}", entry.card.name, alarms(2.0, 0.01));
    }
}
