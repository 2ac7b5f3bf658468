//! Estimators of their own form beside the runs that `reference/stats` has written.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_stats::{Kernel, RandomFeatures, Requ, Sketch, Sketched};
use ndarray::{Array1, Array2};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> (Vec<Value>, f64) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/stats").join(name);
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    (golden["cases"].as_array().unwrap().clone(), golden["header"]["tolerance"]["f64"].as_f64().unwrap())
}

fn flat(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    Array2::from_shape_vec((shape[0], shape.get(1).copied().unwrap_or(1)), flat(value)).unwrap()
}

fn near<'a>(name: &str, got: impl IntoIterator<Item = &'a f64>, expected: &[f64], tolerance: f64) {
    let got: Vec<f64> = got.into_iter().copied().collect();
    assert_eq!(got.len(), expected.len(), "{name}");
    for (got, expected) in got.iter().zip(expected) {
        let far = (got - expected).abs() / (1.0 + expected.abs());
        assert!(far <= tolerance, "{name}: {got} for {expected}");
    }
}

#[test]
fn random_features_map_rows_as_their_authors() {
    let (cases, tolerance) = golden("random_features.json");
    for case in cases {
        let settings: RandomFeatures = serde_json::from_value(case["config"].clone()).unwrap();
        let (lengths, rotation) = (Array1::from(flat(&case["inputs"]["lengths"])), matrix(&case["inputs"]["rotation"]));
        let directions = settings.block(lengths.view(), rotation.view()).unwrap();
        let saved = serde_json::json!({"kernel": Kernel::Gaussian, "scale": settings.scale, "directions": directions});
        let drawn: acclimate_stats::DrawnFeatures = serde_json::from_value(saved).unwrap();
        let got = drawn.map(matrix(&case["inputs"]["x"]).view()).unwrap();
        near(case["name"].as_str().unwrap(), &got, &flat(&case["expected"]["features"]), tolerance);
    }
}

#[test]
fn sketched_fits_and_risks_are_those_of_the_authors() {
    let (cases, tolerance) = golden("sketched.json");
    for case in cases {
        let (name, config, expected) = (case["name"].as_str().unwrap(), &case["config"], &case["expected"]);
        if name.starts_with("fit") {
            let (x, y) = (matrix(&case["inputs"]["x"]), Array1::from(flat(&case["inputs"]["y"])));
            for (centred, of) in [(true, "centred"), (false, "plain")] {
                let method = Sketched { size: Some(y.len()), centred, ..Sketched::default() };
                let fitted = method.fit(x.view(), y.view(), 3).unwrap();
                near(name, &fitted.coefficients, &flat(&expected[of]), tolerance);
            }
            continue;
        }
        let whole = |of: &str| config[of].as_u64().unwrap() as usize;
        let number = |of: &str| config[of].as_f64().unwrap();
        let (rows, columns, size) = (whole("rows"), whole("columns"), whole("size"));
        let (alpha, sigma) = (number("alpha"), number("sigma"));
        let sketch = if config["orthogonal"].as_bool().unwrap() { Sketch::Haar } else { Sketch::Gaussian };
        let plain = Sketched::risk(rows, columns, size, alpha, sigma, sketch).unwrap();
        let values = flat(&case["inputs"]["eigenvalues"]);
        let correlated = Sketched::correlated_risk(rows, &values, size, alpha, sigma, sketch).unwrap();
        let theirs = [expected["risk"].as_f64().unwrap(), expected["correlated"].as_f64().unwrap()];
        near(name, &[plain, correlated], &theirs, tolerance);
        let best = Sketched::best_size(rows, columns, alpha, sigma).unwrap();
        let theirs = expected["best"].as_u64().unwrap() as usize;
        assert_eq!(best, if expected["number"] == 2 { 0 } else { theirs }, "{name}");
    }
}

#[test]
fn the_objective_of_a_quantile_process_has_the_gradients_of_automatic_differentiation() {
    let (cases, tolerance) = golden("quantile_process.json");
    for case in cases {
        let (name, inputs, expected) = (case["name"].as_str().unwrap(), &case["inputs"], &case["expected"]);
        let params = inputs["params"].as_array().unwrap();
        let depth = case["config"]["depth"].as_u64().unwrap() as usize;
        let layers = (0..depth).map(|l| (matrix(&params[2 * l]), Array1::from(flat(&params[2 * l + 1])))).collect();
        let output = Array1::from(flat(&params[2 * depth]));
        let network = Requ { layers, output, constant: flat(&params[2 * depth + 1])[0] };
        let (x, levels) = (matrix(&inputs["x"]), Array1::from(flat(&inputs["levels"])));
        let mut direction = Array1::zeros(x.ncols());
        direction[x.ncols() - 1] = 2.0;
        let (value, slope) = network.value(x.view(), direction.view()).unwrap();
        near(name, &value, &flat(&expected["value"]), tolerance);
        near(name, &slope, &flat(&expected["slope"]), tolerance);
        let (y, penalty) = (Array1::from(flat(&inputs["y"])), case["config"]["penalty"].as_f64().unwrap());
        let (loss, found) = network.objective(x.view(), 2.0, levels.view(), y.view(), penalty).unwrap();
        near(name, &[loss], &[expected["loss"].as_f64().unwrap()], tolerance);
        let theirs: Vec<f64> = expected["gradients"].as_array().unwrap().iter().flat_map(flat).collect();
        let layers = found.layers.iter().flat_map(|(weights, constants)| weights.iter().chain(constants));
        near(name, layers.chain(&found.output).chain([&found.constant]), &theirs, tolerance);
    }
}
