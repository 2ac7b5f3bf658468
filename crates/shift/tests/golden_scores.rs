//! Scores beside skada, scikit-learn and transcriptions, of a classifier that is given, or of a support vector machine, behind CORAL.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod golden;

use acclimate_core::{Result, find};
use acclimate_shift::{ALIGN, Case, Fit, Host, SCORES, Source, Target};
use acclimate_stats::learn::{Fitted, Labels, Learner, Svc};
use golden::{agree, cases, classes, matrix, numbers};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde_json::Value;

/// A softmax of linear scores; nothing is learned.
#[derive(Clone, Debug)]
struct Given {
    matrix: Array2<f64>,
    offset: Array1<f64>,
}

impl Learner for Given {
    fn fit(&self, _: ArrayView2<'_, f64>, _: &Labels, _: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(self.clone()))
    }
    fn restore(&self, _: Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(self.clone()))
    }
}

impl Fitted for Given {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let mut answers = x.dot(&self.matrix) + &self.offset;
        for mut row in answers.rows_mut() {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.mapv_inplace(|score| (score - most).exp());
            row /= row.sum();
        }
        Ok(answers)
    }
    fn save(&self) -> Value {
        Value::Null
    }
}

fn learner(inputs: &Value) -> Box<dyn Learner> {
    match inputs.get("svc") {
        Some(svc) => Box::new(Svc { tolerance: 1e-8, ..serde_json::from_value(svc.clone()).unwrap() }),
        None => Box::new(Given { matrix: matrix(&inputs["matrix"]), offset: numbers(&inputs["offset"]).into() }),
    }
}

fn equals_its_reference(name: &str) {
    let (cases, tolerance) = cases(name);
    for case in cases {
        let inputs = &case["inputs"];
        let input = |what: &str| matrix(&inputs[what]);
        let labels = |what: &str| Labels::Classes { of: classes(&inputs[what]), count: 3 };
        let (x, held, target, target_held) = (input("source"), input("held"), input("target"), input("target_held"));
        let (y, held_y) = (labels("labels"), labels("held_labels"));
        let source = Source::new(x.view(), &y).unwrap();
        let held = Source::new(held.view(), &held_y).unwrap();
        let target = Target::new(target.view(), &source).unwrap();
        let target_held = Target::new(target_held.view(), &source).unwrap();
        let mut alignment = toml::Table::try_from(&inputs["alignment"]).unwrap();
        let method = alignment.remove("name").unwrap();
        let method = find(ALIGN, method.as_str().unwrap()).unwrap().build(&alignment).unwrap();
        let learner = learner(inputs);
        let host = Host { learner: learner.as_ref(), seed: 0 };
        let fit = Fit::new(method.as_ref(), &source, &target, &host).unwrap();
        let at = Case { method: method.as_ref(), host: &host, source, held, target, target_held, fit: &fit };
        let score = find(SCORES, name).unwrap().build(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let (got, expected) = (score.score_any(&at).unwrap(), case["expected"]["score"].as_f64().unwrap());
        assert!(agree(got, expected, tolerance), "{name} {}: {got} for {expected}", case["name"]);
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
    bnm_equals_numpy: "bnm",
    circular_equals_skada: "circular",
    class_ami_equals_scikit_learn: "class_ami",
    dev_equals_skada_and_the_paper: "dev",
    importance_weighted_equals_skada_and_scikit_learn: "importance_weighted",
    info_max_equals_scipy: "info_max",
    mano_equals_the_authors_formula: "mano",
    mix_val_equals_skada: "mix_val",
    prediction_entropy_equals_skada: "prediction_entropy",
    soft_neighbourhood_equals_skada_and_the_paper: "soft_neighbourhood",
}
