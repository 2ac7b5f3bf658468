//! Every conformal method beside the numbers that `reference/stats` has written: a package's, or a transcription's, as the file's header says.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Entry, Method, find};
use acclimate_stats::conformal::{
    AnyExchange, BETS, Calibrated, CalibratedSets, Dqr, EXCHANGES, Held, INTERVALS, Lac, ONLINE, REGIONS, Row, SETS,
    Shape, Split, Stream, Watch,
};
use acclimate_stats::quantile::pinball;
use ndarray::Array2;
use serde_json::Value;

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = serde_json::from_value(value["shape"].clone()).unwrap();
    Array2::from_shape_vec((shape[0], shape[1]), numbers(&value["data"])).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn settings(case: &Value) -> toml::Table {
    toml::Table::try_from(&case["config"]["settings"]).unwrap()
}

/// Calls `check` with every case of a method's file and the tolerance.
fn every_case(name: &str, check: impl Fn(&Value, f64)) {
    let file = format!("{}/../../golden/stats/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        check(case, golden["header"]["tolerance"]["f64"].as_f64().unwrap());
    }
}

fn near(what: &str, got: f64, expected: f64, tolerance: f64) {
    let far = (got - expected).abs();
    assert!(got == expected || far <= tolerance * (1.0 + expected.abs()), "{what}: {got} for {expected}");
}

/// Ends of intervals, infinite where nothing is written.
fn ends(expected: &Value) -> Vec<(f64, f64)> {
    let of = |name: &str, infinite: f64| -> Vec<f64> {
        expected[name].as_array().unwrap().iter().map(|end| end.as_f64().unwrap_or(infinite)).collect()
    };
    of("lower", f64::NEG_INFINITY).into_iter().zip(of("upper", f64::INFINITY)).collect()
}

fn exchange(case: &Value) -> Option<Box<dyn AnyExchange>> {
    let (name, settings) = case["config"]["by"].as_object()?.iter().next()?;
    Some(find(EXCHANGES, name).unwrap().build(&toml::Table::try_from(settings).unwrap()).unwrap())
}

fn intervals(name: &str, method: &str) {
    every_case(name, |case, tolerance| {
        let method = find(INTERVALS, method).unwrap().build(&settings(case)).unwrap();
        let inputs = &case["inputs"];
        let (answers, truths, new) = (matrix(&inputs["answers"]), numbers(&inputs["truths"]), matrix(&inputs["new"]));
        let folds: Vec<usize> =
            inputs.get("folds").map_or(Vec::new(), |folds| numbers(folds).iter().map(|fold| *fold as usize).collect());
        let bags = inputs.get("bags").map(|bags| matrix(bags).mapv(|drawn| drawn > 0.0));
        let bags = bags.as_ref().map(|bags| bags.view());
        let held = Held { answers: answers.view(), truths: &truths, folds: &folds, bags };
        let rows = |name: &str| -> Vec<Row> {
            let ratios = inputs.get(name).map(numbers).unwrap_or_default();
            ratios.into_iter().map(|ratio| Row { ratio, ..Row::default() }).collect()
        };
        let by = exchange(case);
        let fit = Calibrated::new(method.as_ref(), &held, by.as_deref(), &rows("ratios")).unwrap();
        for expected in case["expected"].as_array().unwrap() {
            let alpha = expected["alpha"].as_f64().unwrap();
            let found = fit.intervals(new.view(), by.as_deref(), &rows("new_ratios"), alpha).unwrap();
            let ends = ends(expected);
            assert_eq!(found.len(), ends.len());
            for (found, (lower, upper)) in found.iter().zip(ends) {
                near(&format!("{name} {} {alpha}", case["name"]), found.lower, lower, tolerance);
                near(&format!("{name} {} {alpha}", case["name"]), found.upper, upper, tolerance);
            }
        }
    });
}

fn sets(name: &str, method: &str) {
    every_case(name, |case, _| {
        let method = find(SETS, method).unwrap().build(&settings(case)).unwrap();
        let inputs = &case["inputs"];
        let (held, new) = (matrix(&inputs["held"]), matrix(&inputs["new"]));
        let truths: Vec<usize> = serde_json::from_value(inputs["truths"].clone()).unwrap();
        let by = exchange(case);
        let fit = CalibratedSets::new(method.as_ref(), held.view(), &truths, by.as_deref(), &[], 0).unwrap();
        for expected in case["expected"].as_array().unwrap() {
            let alpha = expected["alpha"].as_f64().unwrap();
            let found = fit.sets(method.as_ref(), new.view(), by.as_deref(), &[], alpha).unwrap();
            let wanted: Vec<Vec<usize>> = serde_json::from_value(expected["sets"].clone()).unwrap();
            assert_eq!(found, wanted, "{name} {} {alpha}", case["name"]);
        }
    });
}

fn stream(entry: &Entry<dyn acclimate_stats::conformal::AnyOnline>) {
    let name = entry.card.name;
    every_case(name, |case, tolerance| {
        let method = entry.build(&settings(case)).unwrap();
        let (past, truths) = (numbers(&case["inputs"]["past"]), numbers(&case["inputs"]["truths"]));
        let mut stream = Stream::new(method.as_ref(), &past, case["config"]["alpha"].as_f64().unwrap()).unwrap();
        let ends = ends(&case["expected"][0]);
        assert_eq!(truths.len(), ends.len());
        for (step, (truth, (lower, upper))) in truths.iter().zip(ends).enumerate() {
            let found = stream.predict(0.0).unwrap();
            near(&format!("{name} {} lower {step}", case["name"]), found.lower, lower, tolerance);
            near(&format!("{name} {} upper {step}", case["name"]), found.upper, upper, tolerance);
            stream.observe(*truth).unwrap();
        }
    });
}

#[test]
fn intervals_equal_their_reference() {
    for entry in INTERVALS {
        intervals(entry.card.name, entry.card.name);
    }
    intervals("weighted", Split::CARD.name);
}

#[test]
fn sets_equal_their_reference() {
    for entry in SETS {
        sets(entry.card.name, entry.card.name);
    }
    sets("label_shift", Lac::CARD.name);
    sets("mondrian", Lac::CARD.name);
}

#[test]
fn streams_equal_their_reference() {
    for entry in ONLINE {
        stream(entry);
    }
}

#[test]
fn bets_equal_their_reference() {
    for entry in BETS {
        every_case(entry.card.name, |case, tolerance| {
            let mut watch = Watch::new(entry.build(&settings(case)).unwrap().as_ref(), 0);
            for (p, money) in numbers(&case["inputs"]["p"]).into_iter().zip(numbers(&case["expected"]["log_capital"])) {
                watch.bet(p);
                near(entry.card.name, watch.log_capital(), money, tolerance);
            }
        });
    }
}

#[test]
fn directional_quantiles_have_the_loss_of_their_reference() {
    every_case("dqr", |case, tolerance| {
        let method = Dqr::from_table(&settings(case)).unwrap();
        let (x, y) = (matrix(&case["inputs"]["x"]), matrix(&case["inputs"]["y"]));
        let shapes = method.fit(x.view(), y.view()).unwrap().shapes(x.view()).unwrap();
        for (k, expected) in numbers(&case["expected"]["losses"]).into_iter().enumerate() {
            let loss = |(shape, y): (&Shape, ndarray::ArrayView1<'_, f64>)| {
                let Shape::HalfSpaces { directions, offsets } = shape else { panic!("half-spaces") };
                pinball(method.level, offsets[k], directions.row(k).dot(&y))
            };
            near("dqr", shapes.iter().zip(y.rows()).map(loss).sum(), expected, tolerance);
        }
    });
}

#[test]
fn scores_around_samples_equal_their_reference() {
    every_case("balls", |case, tolerance| {
        let method = REGIONS[0].build(&settings(case)).unwrap();
        let cloud = Shape::Cloud(matrix(&case["inputs"]["cloud"]));
        let score = method.score_any(&cloud).unwrap();
        let points = matrix(&case["inputs"]["points"]);
        for (point, expected) in points.rows().into_iter().zip(numbers(&case["expected"]["scores"])) {
            near("balls", score(&point.to_vec()), expected, tolerance);
        }
    });
}
