//! Reads golden files.

use ndarray::Array2;
use serde_json::Value;
use std::path::Path;

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

pub(crate) fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    Array2::from_shape_vec((shape[0], shape[1]), numbers(value)).unwrap()
}

pub(crate) fn classes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|y| y.as_u64().unwrap() as usize).collect()
}

/// The cases of `golden/shift/<name>.json`, and the tolerance.
pub(crate) fn cases(name: &str) -> (Vec<Value>, f64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../golden/shift/{name}.json"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    (cases, golden["header"]["tolerance"]["f64"].as_f64().unwrap())
}

/// Whether two numbers agree.
pub(crate) fn agree(got: f64, expected: f64, tolerance: f64) -> bool {
    (got - expected).abs() <= tolerance * (1.0 + expected.abs())
}
