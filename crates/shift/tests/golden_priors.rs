//! Shares of classes beside scipy and transcriptions: every case of the files of label shift.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Method, Result};
use acclimate_shift::prior::PriorEstimate;
use acclimate_shift::{Bbse, Elsa, Em, Rlls};
use acclimate_stats::learn::Labels;
use ndarray::{Array2, ArrayView2};
use serde_json::Value;
use std::path::Path;

fn numbers(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    Array2::from_shape_vec((shape[0], shape[1]), numbers(value)).unwrap()
}

type Estimate<M> = fn(&M, ArrayView2<'_, f64>, &Labels, ArrayView2<'_, f64>) -> Result<PriorEstimate>;

fn equals_its_reference<M: Method>(estimate: Estimate<M>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../golden/shift/{}.json", M::CARD.name));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let method = M::from_table(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let (source, target) = (matrix(&case["inputs"]["source"]), matrix(&case["inputs"]["target"]));
        let of: Vec<usize> =
            case["inputs"]["labels"].as_array().unwrap().iter().map(|y| y.as_u64().unwrap() as usize).collect();
        let found = estimate(&method, source.view(), &Labels::Classes { of, count: 3 }, target.view()).unwrap();
        for (what, expected) in case["expected"].as_object().unwrap() {
            let got = match what.as_str() {
                "weights" => found.weights.clone(),
                "prior" => found.prior.clone(),
                "covariance" => found.covariance.iter().copied().collect(),
                other => panic!("no `{other}` among what is estimated"),
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

#[test]
fn bbse_equals_a_solver() {
    equals_its_reference::<Bbse>(Bbse::weights);
}

#[test]
fn elsa_equals_its_transcription() {
    equals_its_reference::<Elsa>(Elsa::weights);
}

#[test]
fn em_equals_the_likelihood_maximised_otherwise() {
    equals_its_reference::<Em>(Em::weights);
}

#[test]
fn rlls_equals_its_objective_minimised_otherwise() {
    equals_its_reference::<Rlls>(Rlls::weights);
}
