//! Weights by values beside their transcription, and what they must be.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Method, Rng};
use acclimate_shift::density::Bandwidth;
use acclimate_shift::{Bbse, Retasa};
use acclimate_stats::learn::Labels;
use ndarray::Array2;
use serde_json::Value;
use std::path::Path;

fn numbers(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn column(numbers: Vec<f64>) -> Array2<f64> {
    Array2::from_shape_vec((numbers.len(), 1), numbers).unwrap()
}

#[test]
fn retasa_equals_its_transcription() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/shift/retasa.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let method = Retasa::from_table(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let given = |name: &str| numbers(&case["inputs"][name]);
        let found =
            method.weights(column(given("source")).view(), &given("y"), column(given("target")).view()).unwrap();
        let near = |got: &[f64], what: &str| {
            let expected = numbers(&case["expected"][what]);
            assert_eq!(got.len(), expected.len());
            assert!(
                got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= tolerance * (1.0 + b.abs())),
                "{} {what}",
                case["name"]
            );
        };
        near(&found.weights, "weights");
        near(&found.at(&given("values")), "at");
    }
}

#[test]
fn with_few_values_and_narrow_kernels_it_is_the_inverse_of_the_table() {
    // Answers 0, 1, 2 for labels 0, 1, 2, mostly right.
    let y: Vec<usize> = (0..60).map(|row| row % 3).collect();
    let x: Vec<usize> = y.iter().enumerate().map(|(row, y)| if row % 5 == 0 { (y + 1) % 3 } else { *y }).collect();
    let target: Vec<usize> = (0..40)
        .map(|row| {
            if row < 12 {
                0
            } else if row < 20 {
                1
            } else {
                2
            }
        })
        .collect();
    let one = |answers: &[usize]| {
        Array2::from_shape_fn((answers.len(), 3), |(row, class)| f64::from(u8::from(answers[row] == class)))
    };
    let labels = Labels::Classes { of: y.clone(), count: 3 };
    let table = Bbse::default().weights(one(&x).view(), &labels, one(&target).view()).unwrap();
    let float = |numbers: &[usize]| numbers.iter().map(|n| *n as f64).collect::<Vec<f64>>();
    let narrow = Bandwidth::Number(0.01);
    let method = Retasa { penalty: 1e-9, bandwidth_x: narrow, bandwidth_y: narrow, quantile: 1.0, ..Retasa::default() };
    let found = method.weights(column(float(&x)).view(), &float(&y), column(float(&target)).view()).unwrap();
    for (row, class) in y.iter().enumerate() {
        assert!(
            (found.weights[row] - table.weights[*class]).abs() < 1e-5,
            "{} {}",
            found.weights[row],
            table.weights[*class]
        );
    }
}

#[test]
fn a_large_penalty_and_equal_domains_leave_one() {
    let mut rng = Rng::new(3, "values", 0);
    let y: Vec<f64> = (0..200).map(|_| rng.normal()).collect();
    let x = column(y.iter().map(|y| y + 0.3 * rng.normal()).collect());
    let far = column((0..100).map(|_| rng.normal() + 1.0).collect());
    let heavy = Retasa { penalty: 1e6, ..Retasa::default() }.weights(x.view(), &y, far.view()).unwrap();
    assert!(heavy.weights.iter().all(|w| (w - 1.0).abs() < 1e-4));
    let same = Retasa::default().weights(x.view(), &y, x.view()).unwrap();
    assert!(same.weights.iter().all(|w| (w - 1.0).abs() < 1e-6));
}

#[test]
fn moved_gaussian_values_are_recovered() {
    let mut rng = Rng::new(4, "values", 0);
    let mut pairs = |rows: usize, mean: f64| -> (Vec<f64>, Array2<f64>) {
        let y: Vec<f64> = (0..rows).map(|_| rng.normal() + mean).collect();
        let x = y.iter().map(|y| y + 0.5 * rng.normal()).collect();
        (y, column(x))
    };
    let ((y, x), (_, target)) = (pairs(400, 0.0), pairs(400, 0.6));
    let found = Retasa::default().weights(x.view(), &y, target.view()).unwrap();
    let error = |w: &dyn Fn(usize) -> f64| -> f64 {
        (0..400).map(|row| (w(row) - (0.6 * y[row] - 0.18).exp()).powi(2)).sum::<f64>() / 400.0
    };
    let (with, without) = (error(&|row| found.weights[row]), error(&|_| 1.0));
    assert!(with < 0.35 * without, "{with} {without}");
}
