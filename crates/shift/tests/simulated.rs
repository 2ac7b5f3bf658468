//! Simulated pairs against skada's own.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_shift::{ShiftKind, ShiftedPair};
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/shift/simulated.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn pairs_and_splits_are_those_of_skada() {
    let golden = golden();
    let tolerance = golden["header"]["tolerance"].as_f64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let kind: ShiftKind = serde_json::from_value(case["kind"].clone()).unwrap();
        let pair = ShiftedPair::new(kind, case["seed"].as_u64().unwrap() as u32);
        assert_eq!(case["rows"], serde_json::json!([pair.source.nrows(), pair.target.nrows()]));
        let same = |name: &str, ours: Vec<f64>| {
            let theirs = numbers(&case[name]);
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert!((ours - theirs).abs() <= tolerance * (1.0 + theirs.abs()), "{kind} {name}: {ours} {theirs}");
            }
        };
        same("source_head", pair.source.iter().copied().take(10).collect());
        same("target_head", pair.target.iter().copied().take(10).collect());
        same("source_sum", pair.source.sum_axis(ndarray::Axis(0)).to_vec());
        let weighted =
            |column: usize| (1..).zip(pair.target.column(column)).map(|(at, x): (u32, _)| f64::from(at) * x).sum();
        same("target_weighted", vec![weighted(0), weighted(1)]);
        let labels: usize = (1..).zip(&pair.target_labels).map(|(at, class): (usize, _)| at * class).sum();
        assert_eq!(case["target_labels_weighted"], labels);
        let split = pair.splits(2).remove(1);
        let theirs = &case["second_split"];
        assert_eq!(theirs["sizes"], serde_json::json!([split.source.len(), split.target.len(), split.test.len()]));
        assert_eq!(theirs["source_head"], serde_json::json!(split.source[..8]));
        assert_eq!(theirs["target_head"], serde_json::json!(split.target[..8]));
        assert_eq!(theirs["test_head"], serde_json::json!(split.test[..8]));
    }
}
