//! Methods for few labels and noisy ones beside the runs that `reference/shift` has written.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_shift::{LabelTree, Loki};
use ndarray::Array2;
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> (Vec<Value>, f64) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/shift").join(name);
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    (golden["cases"].as_array().unwrap().clone(), golden["header"]["tolerance"]["f64"].as_f64().unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

fn matrix(value: &Value) -> Array2<f64> {
    let shape = indices(&value["shape"]);
    Array2::from_shape_vec((shape[0], shape.get(1).copied().unwrap_or(1)), numbers(&value["data"])).unwrap()
}

fn near(name: &str, got: &Array2<f64>, expected: &Value, tolerance: f64) {
    let expected = matrix(expected);
    assert_eq!(got.shape(), expected.shape(), "{name}");
    for (got, expected) in got.iter().zip(&expected) {
        let far = (got - expected).abs() / (1.0 + expected.abs());
        assert!(far <= tolerance, "{name}: {got} for {expected}");
    }
}

#[test]
fn loki_scores_trees_as_its_authors() {
    let (cases, tolerance) = golden("loki.json");
    for case in cases {
        let (name, inputs, expected) = (case["name"].as_str().unwrap(), &case["inputs"], &case["expected"]);
        let edges: Vec<(usize, usize, f64)> = inputs["edges"]
            .as_array()
            .unwrap()
            .iter()
            .map(numbers)
            .map(|edge| (edge[0] as usize, edge[1] as usize, edge[2]))
            .collect();
        let nodes = inputs["nodes"].as_u64().unwrap() as usize;
        let tree = LabelTree::new(nodes, &edges).unwrap();
        let (observed, p) = (indices(&inputs["observed"]), matrix(&inputs["probabilities"]));
        let distances = tree.graph().distances(&observed).unwrap();
        near(name, &Loki::default().scores(p.view(), distances.view()).unwrap(), &expected["scores"], tolerance);
        near(name, &Loki::default().tree_scores(p.view(), &tree, &observed).unwrap(), &expected["scores"], tolerance);
        let locus = tree.locus(&observed).unwrap();
        let inside: Vec<usize> = (0..nodes).filter(|node| locus[*node]).collect();
        assert_eq!(inside, indices(&expected["locus"]), "{name}");
        let next = tree.next_class(&observed).unwrap().unwrap();
        let all = tree.graph().distances(&[next]).unwrap();
        let away = inside.iter().map(|node| all[[0, *node]]).fold(f64::INFINITY, f64::min);
        assert_eq!(away, expected["away"].as_f64().unwrap(), "{name}");
    }
}
