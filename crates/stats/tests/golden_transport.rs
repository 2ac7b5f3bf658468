//! Optimal transport beside the numbers that `reference/stats/transport.py` has written.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_stats::transport::{
    Measure, Metric, Sinkhorn, barycentre, costs, exact, free_barycentre, gaussian_map, median, partial, sinkhorn,
    unbalanced,
};
use ndarray::{Array1, Array2, Axis};
use serde_json::Value;

fn matrix(value: &Value) -> Array2<f64> {
    let shape: Vec<usize> = serde_json::from_value(value["shape"].clone()).unwrap();
    let (rows, columns) = (shape[0], shape.get(1).copied().unwrap_or(1));
    Array2::from_shape_vec((rows, columns), serde_json::from_value(value["data"].clone()).unwrap()).unwrap()
}

fn vector(value: &Value) -> Array1<f64> {
    matrix(value).index_axis_move(Axis(1), 0)
}

fn seen(kind: &str, inputs: &Value, config: &Value) -> Vec<(&'static str, Array2<f64>)> {
    let number = |name: &str| config[name].as_f64().unwrap();
    let column = |numbers: Array1<f64>| numbers.insert_axis(Axis(1));
    let settings = |reg: f64| Sinkhorn { reg, tolerance: 1e-13, steps: 400_000 };
    let (m, v) = (|name: &str| matrix(&inputs[name]), |name: &str| vector(&inputs[name]));
    match kind {
        "exact" => {
            let plan = exact(m("cost").view(), v("a").view(), v("b").view()).unwrap();
            assert!(plan.gap.abs() < 1e-12);
            vec![("plan", plan.coupling()), ("value", column(Array1::from_elem(1, plan.cost)))]
        }
        "cost" => {
            let metric: Metric = serde_json::from_value(config["metric"].clone()).unwrap();
            let cost = costs(metric, m("x").view(), m("y").view());
            let middle = median(cost.view());
            vec![("cost", cost), ("median", column(Array1::from_elem(1, middle)))]
        }
        "sinkhorn" => {
            let found = sinkhorn(m("cost").view(), v("a").view(), v("b").view(), &settings(number("reg"))).unwrap();
            assert!(found.certificate.converged && found.certificate.gap.abs() < 1e-10, "{:?}", found.certificate);
            vec![("plan", found.coupling)]
        }
        "unbalanced" => {
            let (cost, a, b) = (m("cost"), v("a"), v("b"));
            let found =
                unbalanced(cost.view(), a.view(), b.view(), number("marginal"), &settings(number("reg"))).unwrap();
            assert!(found.certificate.converged && found.certificate.gap.abs() < 1e-10, "{:?}", found.certificate);
            vec![("plan", found.coupling)]
        }
        "partial" => {
            let plan = partial(m("cost").view(), v("a").view(), v("b").view(), number("mass")).unwrap();
            vec![("plan", plan.coupling())]
        }
        "barycentre" => {
            let (cost, histograms) = (m("cost"), m("histograms"));
            let given: Vec<_> = histograms.rows().into_iter().map(|masses| (cost.view(), masses)).collect();
            let found = barycentre(&given, &v("weights").to_vec(), &settings(number("reg"))).unwrap();
            assert!(found.converged, "{found:?}");
            vec![("masses", column(found.masses))]
        }
        "free_barycentre" => {
            let (x, y, a, b) = (m("x"), m("y"), v("a"), v("b"));
            let measures = [(&x, &a), (&y, &b)].map(|(x, a)| Measure { points: x.view(), masses: a.view() });
            let weights = v("weights").to_vec();
            let found = free_barycentre(&measures, &weights, m("start").view(), v("masses").view(), 1e-14, 50).unwrap();
            vec![("points", found)]
        }
        "gaussian_map" => vec![("map", gaussian_map(m("source").view(), m("target").view()).unwrap())],
        other => panic!("no test for `{other}`"),
    }
}

#[test]
fn transport_equals_its_reference() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/stats/transport.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 19);
    for case in cases {
        let kind = case["config"]["kind"].as_str().unwrap();
        let expected = case["expected"].as_object().unwrap();
        let found = seen(kind, &case["inputs"], &case["config"]);
        assert_eq!(found.len(), expected.len());
        for (name, got) in found {
            let want = matrix(&expected[name]);
            assert_eq!(got.dim(), want.dim());
            let off = |(got, want): (&f64, &f64)| (got - want).abs() / (1.0 + want.abs());
            let far = got.iter().zip(&want).map(off).fold(0.0, f64::max);
            assert!(far <= tolerance, "{}: {name} is off by {far:e}", case["name"]);
        }
    }
}
