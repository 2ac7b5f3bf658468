//! Learners beside the answers that `reference/stats/learners.py` has written.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_stats::learn::{Fitted, Labels, Learner, Svc};
use ndarray::{Array1, Array2};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;

fn golden() -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/stats/learners.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn flat(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    Array2::from_shape_vec((shape[0], shape.get(1).copied().unwrap_or(1)), flat(value)).unwrap()
}

fn near(name: &str, got: &Array2<f64>, expected: &Value, tolerance: f64) {
    let expected = matrix(expected);
    assert_eq!(got.shape(), expected.shape(), "{name}");
    for (got, expected) in got.iter().zip(&expected) {
        let far = (got - expected).abs() / (1.0 + expected.abs());
        assert!(far <= tolerance, "{name}: {got} for {expected}");
    }
}

/// The rows of a case.
struct Case<'a> {
    name: &'a str,
    case: &'a Value,
    classes: Labels,
    numbers: Labels,
}

impl Case<'_> {
    fn learner<L: Learner + DeserializeOwned>(&self) -> L {
        serde_json::from_value(self.case["config"].clone()).unwrap()
    }

    fn fit(&self, learner: &dyn Learner, y: &Labels) -> Box<dyn Fitted> {
        let weights = self.case["weighted"].as_bool().unwrap().then(|| self.weights());
        let x = matrix(&self.case["inputs"]["x"]);
        learner.fit(x.view(), y, weights.as_ref().map(|weights| weights.view())).unwrap()
    }

    fn weights(&self) -> Array1<f64> {
        Array1::from(flat(&self.case["inputs"]["weights"]))
    }

    fn queries(&self) -> Array2<f64> {
        matrix(&self.case["inputs"]["queries"])
    }
}

/// Every case of one learner.
fn cases(of: &str, check: impl Fn(&Case<'_>, &Value, f64)) {
    let golden = golden();
    let tolerance = &golden["header"]["tolerance"];
    let tolerance = tolerance.get(of).unwrap_or(&tolerance["f64"]).as_f64().unwrap();
    let mut seen = 0;
    for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["learner"] == of) {
        let of: Vec<usize> = flat(&case["inputs"]["classes"]).iter().map(|class| *class as usize).collect();
        let count = of.iter().max().unwrap() + 1;
        let classes = Labels::Classes { of, count };
        let numbers = Labels::Numbers(flat(&case["inputs"]["numbers"]));
        let case = Case { name: case["name"].as_str().unwrap(), case, classes, numbers };
        check(&case, &case.case["expected"], tolerance);
        seen += 1;
    }
    assert!(seen > 0, "no case of {of}");
}

#[test]
fn svc_decides_as_its_reference() {
    cases("svc", |case, expected, tolerance| {
        let fitted = case.fit(&case.learner::<Svc>(), &case.classes);
        near(case.name, &fitted.decisions(case.queries().view()).unwrap(), &expected["decisions"], tolerance);
    });
}
