//! Learners beside the answers that `reference/stats/learners.py` has written.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_stats::learn::{
    Bcts, Boosted, Fitted, Forest, KernelRidge, Labels, Learner, Linear, Logistic, Nearest, Platt, QuantileRegression,
    Ridge, Svc, Temperature, Tree,
};
use ndarray::{Array1, Array2, ArrayView1, Axis};
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

/// A case and the rows it is about.
struct Case<'a> {
    name: &'a str,
    case: &'a Value,
    table: &'a Value,
    classes: Labels,
    numbers: Labels,
    weights: Option<Array1<f64>>,
}

impl Case<'_> {
    fn learner<L: Learner + DeserializeOwned>(&self) -> L {
        serde_json::from_value(self.case["config"].clone()).unwrap()
    }

    fn input(&self, name: &str) -> Array2<f64> {
        matrix(&self.table[name])
    }

    fn weights(&self) -> Option<ArrayView1<'_, f64>> {
        self.weights.as_ref().map(|weights| weights.view())
    }

    fn fit(&self, learner: &dyn Learner, y: &Labels) -> Box<dyn Fitted> {
        learner.fit(self.input("x").view(), y, self.weights()).unwrap()
    }

    fn expected(&self, name: &str) -> &Value {
        &self.case["expected"][name]
    }
}

/// Every case of one learner.
fn cases(of: &str, check: impl Fn(&Case<'_>, f64)) {
    let golden = golden();
    let all = golden["cases"].as_array().unwrap();
    let tolerance = &golden["header"]["tolerance"];
    let tolerance = tolerance.get(of).unwrap_or(&tolerance["f64"]).as_f64().unwrap();
    let mut seen = 0;
    for case in all.iter().filter(|case| case["learner"] == of) {
        let table = &all.iter().find(|table| table["name"] == case["table"]).unwrap()["inputs"];
        let of: Vec<usize> = flat(&table["classes"]).iter().map(|class| *class as usize).collect();
        let count = of.iter().max().unwrap() + 1;
        let classes = Labels::Classes { of, count };
        let numbers = Labels::Numbers(flat(&table["numbers"]));
        let weights = case["weighted"].as_bool().unwrap().then(|| Array1::from(flat(&table["weights"])));
        check(&Case { name: case["name"].as_str().unwrap(), case, table, classes, numbers, weights }, tolerance);
        seen += 1;
    }
    assert!(seen > 0, "no case of {of}");
}

/// Answers to rows that the fit has not seen.
fn answers<L: Learner + DeserializeOwned>(of: &str) {
    cases(of, |case, tolerance| {
        let y = if matrix(case.expected("answers")).ncols() > 1 { &case.classes } else { &case.numbers };
        let got = case.fit(&case.learner::<L>(), y).answers(case.input("queries").view()).unwrap();
        near(case.name, &got, case.expected("answers"), tolerance);
    });
}

#[test]
fn svc_decides_as_its_reference() {
    cases("svc", |case, tolerance| {
        let fitted = case.fit(&case.learner::<Svc>(), &case.classes);
        let got = fitted.decisions(case.input("queries").view()).unwrap();
        near(case.name, &got, case.expected("decisions"), tolerance);
    });
}

#[test]
fn logistic_answers_as_its_reference() {
    answers::<Logistic>("logistic");
}

#[test]
fn linear_answers_as_its_reference() {
    answers::<Linear>("linear");
}

#[test]
fn ridge_answers_as_its_reference() {
    answers::<Ridge>("ridge");
}

#[test]
fn kernel_ridge_answers_as_its_reference() {
    answers::<KernelRidge>("kernel_ridge");
}

#[test]
fn nearest_answers_as_its_reference() {
    answers::<Nearest>("nearest");
}

#[test]
fn a_tree_answers_as_its_reference() {
    answers::<Tree>("tree");
}

#[test]
fn boosted_trees_answer_as_their_reference() {
    answers::<Boosted>("boosted");
}

#[test]
fn a_forest_that_draws_nothing_answers_as_the_reference_of_a_tree() {
    cases("tree", |case, tolerance| {
        let tree: Tree = case.learner();
        let (depth, min_leaf) = (tree.depth, tree.min_leaf);
        let forest = Forest { trees: 2, bootstrap: false, share: Some(1.0), depth, min_leaf, seed: 3 };
        let y = if matrix(case.expected("answers")).ncols() > 1 { &case.classes } else { &case.numbers };
        let got = case.fit(&forest, y).answers(case.input("queries").view()).unwrap();
        near(case.name, &got, case.expected("answers"), tolerance);
    });
}

#[test]
fn quantile_regression_reaches_the_loss_of_its_reference() {
    cases("quantile_regression", |case, tolerance| {
        let of: QuantileRegression = case.learner();
        let x = case.input("x");
        let answers = case.fit(&of, &case.numbers).answers(x.view()).unwrap();
        let numbers = case.numbers.numbers("the test").unwrap();
        let loss = |row: usize| {
            let residual = numbers[row] - answers[[row, 0]];
            case.weights.as_ref().map_or(1.0, |w| w[row]) * (of.level * residual).max((of.level - 1.0) * residual)
        };
        let loss: f64 = (0..numbers.len()).map(loss).sum();
        near(case.name, &Array2::from_elem((1, 1), loss), case.expected("loss"), tolerance);
    });
}

#[test]
fn scaled_logits_have_the_parameters_of_their_reference() {
    let number = |value: f64| Array2::from_elem((1, 1), value);
    cases("temperature", |case, tolerance| {
        let found = Temperature::fit(case.input("logits").view(), &case.classes, case.weights()).unwrap();
        near(case.name, &number(found.temperature), case.expected("temperature"), tolerance);
    });
    cases("bcts", |case, tolerance| {
        let found = Bcts::fit(case.input("logits").view(), &case.classes, case.weights()).unwrap();
        near(case.name, &number(found.temperature), case.expected("temperature"), tolerance);
        let biases = Array1::from(found.biases).insert_axis(Axis(1));
        near(case.name, &biases, case.expected("biases"), tolerance);
    });
    cases("platt", |case, tolerance| {
        let (of, _) = case.classes.classes("the test").unwrap();
        let high: Vec<bool> = of.iter().map(|class| *class == 1).collect();
        let weights = case.weights.as_ref().map(|weights| weights.to_vec());
        let found = Platt::fit(&flat(&case.table["logits"]), &high, weights.as_deref()).unwrap();
        near(case.name, &number(found.slope), case.expected("slope"), tolerance);
        near(case.name, &number(found.offset), case.expected("offset"), tolerance);
    });
}
