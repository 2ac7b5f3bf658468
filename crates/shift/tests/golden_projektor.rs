//! Projektor beside its transcription.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[allow(dead_code)] // no file reads all of it
mod golden;

use acclimate_core::Method;
use acclimate_shift::{Mixtures, Pilot, Projektor, Scale, Source, Surface};
use acclimate_stats::learn::Labels;
use golden::{cases, matrix, numbers};
use ndarray::Array2;
use serde_json::Value;

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
    let (cases, tolerance) = cases("projektor");
    for case in &cases {
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
