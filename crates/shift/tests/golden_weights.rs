//! Weights beside skada, scipy and transcriptions: every case of `golden/shift` that ends in weights of source rows.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Error, Result, find};
use acclimate_shift::{ALIGN, Host, Source, Target};
use acclimate_stats::learn::{Fitted, Labels, Learner};
use ndarray::{Array2, ArrayView1, ArrayView2};
use serde_json::Value;
use std::path::Path;

/// A learner that no method here asks.
#[derive(Debug)]
struct Silent;

impl Learner for Silent {
    fn fit(&self, _: ArrayView2<'_, f64>, _: &Labels, _: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        Err(Error::Other("nothing asks this learner".to_owned()))
    }
    fn restore(&self, _: Value) -> Result<Box<dyn Fitted>> {
        Err(Error::Other("nothing asks this learner".to_owned()))
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    Array2::from_shape_vec((shape[0], shape[1]), numbers(value)).unwrap()
}

fn equals_its_reference(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../golden/shift/{name}.json"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let settings = toml::Table::try_from(&case["config"]).unwrap();
        let (x, target) = (matrix(&case["inputs"]["source"]), matrix(&case["inputs"]["target"]));
        let of: Vec<usize> =
            case["inputs"]["labels"].as_array().unwrap().iter().map(|y| y.as_u64().unwrap() as usize).collect();
        let y = Labels::Classes { count: of.iter().max().unwrap() + 1, of };
        let source = Source::new(x.view(), &y).unwrap();
        let target = Target::new(target.view(), &source).unwrap();
        let host = Host { learner: &Silent, seed: 0 };
        let method = find(ALIGN, name).unwrap().build(&settings).unwrap();
        let found = method.align_any(&source, &target, &host).unwrap();
        let near = |what: &str, got: &[f64]| {
            let expected = numbers(&case["expected"][what]);
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                let far = (got - expected).abs() / (1.0 + expected.abs());
                assert!(far <= tolerance, "{} {what}: {got} for {expected}", case["name"]);
            }
        };
        near("weights", found.lesson.weights.as_ref().unwrap().as_slice().unwrap());
        if case["expected"].get("unseen").is_some() {
            near("unseen", found.view.weigh(target.x).unwrap().unwrap().as_slice().unwrap());
        }
    }
}

macro_rules! references {
    ($($test:ident: $name:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            equals_its_reference($name);
        }
    )*};
}

references! {
    kde_weights_equal_skada: "kde_weights",
    gaussian_weights_equal_skada: "gaussian_weights",
    nearest_weights_equal_skada_and_a_search: "nearest_weights",
    kmm_equals_skada_and_slsqp: "kmm",
    kliep_equals_skada_and_slsqp: "kliep",
    mmd_tars_equals_skada: "mmd_tars",
    discriminator_weights_equal_skada_and_scikit_learn: "discriminator_weights",
    rulsif_equals_its_closed_form: "rulsif",
}
