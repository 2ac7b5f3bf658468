//! Projektor beside its transcription.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::Method;
use acclimate_shift::{Mixtures, Pilot, Projektor, Scale, Source, Surface};
use acclimate_stats::learn::Labels;
use ndarray::Array2;
use serde_json::Value;
use std::path::Path;

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value["data"].clone()).unwrap()
}

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = serde_json::from_value(value["shape"].clone()).unwrap();
    Array2::from_shape_vec((shape[0], shape[1]), numbers(value)).unwrap()
}

/// Runs as shares, a distance and a score.
fn pilots(value: &Value) -> Vec<Pilot> {
    let one = |row: Vec<f64>| {
        let sources = row.len() - 2;
        Pilot { ratio: row[..sources].to_vec(), distance: row[sources], score: row[sources + 1] }
    };
    matrix(value).rows().into_iter().map(|row| one(row.to_vec())).collect()
}

fn mixtures(method: &Projektor, inputs: &Value, at: usize, sources: usize) -> Mixtures {
    let labels = |value: &Value| Labels::Classes { of: serde_json::from_value(value.clone()).unwrap(), count: 2 };
    let tables: Vec<(Array2<f64>, Labels)> = (0..sources)
        .map(|i| (matrix(&inputs[format!("source_{at}_{i}")]), labels(&inputs[format!("labels_{at}_{i}")])))
        .collect();
    let sources: Vec<Source<'_>> = tables.iter().map(|(x, y)| Source::new(x.view(), y).unwrap()).collect();
    let (valid, y) = (matrix(&inputs["valid"]), labels(&inputs["valid_y"]));
    method.mixtures(&sources, &Source::new(valid.view(), &y).unwrap()).unwrap()
}

#[test]
fn fits_distances_and_the_search_equal_their_transcription() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/shift/projektor.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let method = Projektor::from_table(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let (inputs, expected) = (&case["inputs"], &case["expected"]);
        let near = |what: &str, got: &[f64]| {
            let expected = numbers(&expected[what]);
            assert_eq!(got.len(), expected.len(), "{what}");
            for (got, expected) in got.iter().zip(&expected) {
                let far = (got - expected).abs() / (1.0 + expected.abs());
                assert!(far <= tolerance, "{} {what}: {got} for {expected}", case["name"]);
            }
        };
        if inputs.get("new").is_some() {
            let fitted = method.fit(&pilots(&inputs["runs"])).unwrap();
            let scores: Vec<f64> = (matrix(&inputs["new"]).rows().into_iter())
                .map(|row| {
                    let row = row.to_vec();
                    fitted.score(&row[..row.len() - 1], row[row.len() - 1])
                })
                .collect();
            near("scores", &scores);
            near("left_out", &[fitted.left_out]);
            continue;
        }
        let ratio: Vec<f64> = serde_json::from_value(inputs["ratio"].clone()).unwrap();
        let sizes: Vec<f64> = serde_json::from_value(inputs["sizes"].clone()).unwrap();
        let made: Vec<(Mixtures, Surface)> = [0, 1]
            .map(|at| {
                let mixtures = mixtures(&method, inputs, at, ratio.len());
                let found = mixtures.distance(&ratio).unwrap();
                near(&format!("value_{at}"), &[found.value]);
                near(&format!("slopes_{at}"), &found.slopes);
                near(&format!("calibrated_{at}"), &found.calibrated);
                (mixtures, method.fit(&pilots(&inputs[format!("runs_{at}")])).unwrap())
            })
            .into();
        let scales = [0, 1].map(|at| Scale { size: sizes[at], surface: &made[at].1, mixtures: &made[at].0 });
        let best = method.best(scales, inputs["size"].as_f64().unwrap()).unwrap();
        near("score", &[best.score]);
        near("ratio", &best.ratio);
    }
}
