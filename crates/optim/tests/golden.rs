//! Every method beside the run that `reference/optim` has written: its authors' package, or what the file's header says.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use acclimate_core::{AnyOptimiser, Entry, Role};
use acclimate_optim::{HostSettings, METHODS};
use common::{Problem, distance, flat, tensors};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use std::{path::Path, process::ExitCode};

/// Settings as a method reads them: `null` is no limit.
fn table(settings: &Value) -> toml::Table {
    let value = |value: &Value| match value {
        Value::Null => toml::Value::Float(f64::INFINITY),
        value => toml::Value::try_from(value).unwrap(),
    };
    settings.as_object().unwrap().iter().map(|(name, setting)| (name.clone(), value(setting))).collect()
}

/// All cases of a method's file but those that follow a slip of their package.
fn equals_its_reference(entry: &Entry<dyn AnyOptimiser>) {
    let file = format!("../../golden/optim/{}.json", entry.card.name);
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let tolerance = golden["header"]["tolerance"]["f64"].as_f64().unwrap();
    for case in golden["cases"].as_array().unwrap().iter().filter(|case| case.get("compat").is_none()) {
        let (name, host, expected) = (&case["name"], &case["host"], &case["expected"]);
        let optimiser = entry.build(&table(&case["settings"])).unwrap();
        let problem = Problem::read(&case["inputs"]);
        let (loss, gradient) = problem.loss_and_gradient(&problem.start);
        assert!(distance(&[loss], &[expected["start"]["loss"].as_f64().unwrap()]) < 1e-14, "{name}: loss");
        assert!(
            distance(&flat(&gradient), &flat(&tensors(&expected["start"]["gradients"]))) < 1e-13,
            "{name}: gradient"
        );
        // Roles carry the relative rates of leaves.
        let roles = [Role::InputFactor, Role::OutputFactor, Role::Core];
        let rate = |name: &str| host["rates"][name].as_f64().unwrap_or(1.0);
        let settings = HostSettings {
            weight_decay: host["weight_decay"].as_f64().unwrap_or(0.0),
            decoupled: host["decoupled"].as_bool().unwrap_or(false),
            scales: roles.into_iter().zip(["p0", "p1", "p2"].map(rate)).collect(),
            ..Default::default()
        };
        let path = problem.run(optimiser.as_ref(), settings, roles[..problem.start.len()].to_vec());
        for step in expected["steps"].as_array().unwrap() {
            let number = &step["step"];
            let point = &path[number.as_u64().unwrap() as usize];
            let off = distance(&flat(&point.params), &flat(&tensors(&step["params"])));
            assert!(off < tolerance, "{name}, step {number}: off by {off:e}");
            if let Some(evaluated) = step.get("evaluated") {
                let off = distance(&flat(&point.evaluated), &flat(&tensors(evaluated)));
                assert!(off < tolerance, "{name}, step {number}: evaluated off by {off:e}");
            }
            for (key, expected) in step.get("log").and_then(Value::as_object).into_iter().flatten() {
                let found = point.log.iter().find(|(name, _)| name == key).unwrap().1;
                let off = (found / expected.as_f64().unwrap() - 1.0).abs();
                assert!(off < tolerance, "{name}, step {number}: `{key}` off by {off:e}");
            }
        }
    }
}

fn main() -> ExitCode {
    let trial = |entry: &'static Entry<dyn AnyOptimiser>| {
        Trial::test(format!("{}_equals_its_reference", entry.card.name), move || {
            equals_its_reference(entry);
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), METHODS.iter().map(trial).collect()).exit_code()
}
