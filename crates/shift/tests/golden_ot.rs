//! Methods by optimal transport beside skada and POT: every case of their files in `golden/shift`.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[allow(dead_code)] // no file reads all of it
mod golden;

use acclimate_core::find;
use acclimate_shift::{ALIGN, Host, Source, Target};
use acclimate_stats::learn::{Labels, Learner, Logistic, Ridge, Svc};
use golden::{cases, matrix, numbers};
use serde_json::Value;

fn learner(name: Option<&str>) -> Box<dyn Learner> {
    match name {
        Some("ridge") => Box::new(Ridge::default()),
        Some("svc") => Box::new(Svc { gamma: Some(0.5), tolerance: 1e-9, ..Svc::default() }),
        _ => Box::new(Logistic::default()),
    }
}

fn labels(inputs: &Value) -> Labels {
    if inputs.get("numbers").is_some() {
        return Labels::Numbers(numbers(&inputs["numbers"]));
    }
    let of: Vec<usize> = serde_json::from_value(inputs["labels"].clone()).unwrap();
    Labels::Classes { count: of.iter().max().unwrap() + 1, of }
}

fn equals_its_reference(name: &str) {
    let (cases, tolerance) = cases(name);
    for case in &cases {
        let (inputs, expected) = (&case["inputs"], &case["expected"]);
        let (x, target, y) = (matrix(&inputs["source"]), matrix(&inputs["target"]), labels(inputs));
        let source = Source::new(x.view(), &y).unwrap();
        let target = Target::new(target.view(), &source).unwrap();
        let learner = learner(case["learner"].as_str());
        let host = Host { learner: learner.as_ref(), seed: 0 };
        let settings = toml::Table::try_from(&case["config"]).unwrap();
        let found = find(ALIGN, name).unwrap().build(&settings).unwrap().align_any(&source, &target, &host).unwrap();
        for (what, expected) in expected.as_object().unwrap() {
            let got: Vec<f64> = match what.as_str() {
                "lesson" => found.lesson.x.iter().copied().collect(),
                "unseen" => found.view.show_source(matrix(&inputs["unseen"]).view()).unwrap().into_iter().collect(),
                "labels" => found.lesson.y.classes(name).unwrap().0.iter().map(|class| *class as f64).collect(),
                "numbers" => found.lesson.y.numbers(name).unwrap().to_vec(),
                "weights" => found.lesson.weights.as_ref().unwrap().to_vec(),
                other => panic!("nothing is called {other}"),
            };
            let expected = numbers(expected);
            assert_eq!(got.len(), expected.len(), "{name} {} {what}", case["name"]);
            let far = |(got, expected): (&f64, &f64)| (got - expected).abs() / (1.0 + expected.abs());
            let worst = got.iter().zip(&expected).map(far).fold(0.0, f64::max);
            assert!(worst <= tolerance, "{name} {} {what}: {worst:e}", case["name"]);
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
    map_ot_equals_skada: "map_ot",
    ent_ot_equals_skada: "ent_ot",
    class_reg_ot_equals_skada_and_pot: "class_reg_ot",
    lin_ot_equals_skada: "lin_ot",
    ot_label_prop_equals_skada_with_enough_steps: "ot_label_prop",
    jdot_equals_skada: "jdot",
}
