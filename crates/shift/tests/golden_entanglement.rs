//! The terms of an audit beside their transcription.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[allow(dead_code)] // no file reads all of it
mod golden;

use acclimate_core::Method;
use acclimate_shift::{Entanglement, Source};
use acclimate_stats::learn::Labels;
use golden::{cases, matrix, numbers};

#[test]
fn audits_equal_their_transcription() {
    let (cases, tolerance) = cases("entanglement");
    for case in &cases {
        let method = Entanglement::from_table(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let inputs = &case["inputs"];
        let (u, v) = (matrix(&inputs["source"]), matrix(&inputs["target"]));
        let labels = |name: &str| Labels::Classes {
            of: serde_json::from_value(inputs[name].clone()).unwrap(),
            count: u.ncols(),
        };
        let (y, z) = (labels("y"), labels("z"));
        let found = method.audit(&Source::new(u.view(), &y).unwrap(), &Source::new(v.view(), &z).unwrap()).unwrap();
        for (what, expected) in case["expected"].as_object().unwrap() {
            let got = match what.as_str() {
                "terms" => vec![
                    found.source_risk,
                    found.target_risk,
                    found.alignment,
                    found.prediction_entanglement,
                    found.label_shift,
                    found.label_entanglement,
                    found.joint,
                ],
                "alignment_by_class" => found.alignment_by_class.clone(),
                "prediction_by_class" => found.prediction_by_class.clone(),
                "label_by_class" => found.label_by_class.clone(),
                other => panic!("nothing is called {other}"),
            };
            let expected = numbers(expected);
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                let far = (got - expected).abs() / (1.0 + expected.abs());
                assert!(far <= tolerance, "{} {what}: {got} for {expected}", case["name"]);
            }
        }
    }
}
