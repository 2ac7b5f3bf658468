//! Maps and subspaces beside skada, scipy and torch: how both domains, and rows that the fit has not seen, are shown.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod golden;

use acclimate_core::find;
use acclimate_shift::{ALIGN, Host, Source, Target};
use acclimate_stats::learn::{Kernel, Labels, Svc};
use golden::{agree, cases, classes, matrix, numbers};
use ndarray::{Array2, Axis, concatenate};

/// What a method leaves open.
#[derive(Clone, Copy, PartialEq)]
enum Free {
    Nothing,
    /// The sign of each column: eigenvectors.
    Signs,
    /// A rotation of all columns: an objective that sees the subspace alone.
    Rotation,
}

const SETS: [&str; 4] = ["source", "target", "queries", "source_queries"];

fn equals_its_reference(name: &str, free: Free) {
    let (cases, tolerance) = cases(name);
    for case in cases {
        let input = |what: &str| matrix(&case["inputs"][what]);
        let (x, target, queries) = (input("source"), input("target"), input("queries"));
        let y = Labels::Classes { of: classes(&case["inputs"]["labels"]), count: 2 };
        let source = Source::new(x.view(), &y).unwrap();
        let target = Target::new(target.view(), &source).unwrap();
        let method = find(ALIGN, name).unwrap().build(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let learner = Svc::default();
        let found = method.align_any(&source, &target, &Host { learner: &learner, seed: 0 }).unwrap();
        let mut got: Vec<Array2<f64>> = vec![
            found.lesson.x,
            found.view.show(target.x).unwrap(),
            found.view.show(queries.view()).unwrap(),
            found.view.show_source(queries.view()).unwrap(),
        ];
        let mut expected: Vec<Array2<f64>> = SETS.iter().map(|set| matrix(&case["expected"][*set])).collect();
        match free {
            Free::Nothing => {}
            Free::Signs => {
                let signs = (&got[0] * &expected[0]).sum_axis(Axis(0)).mapv(f64::signum);
                got.iter_mut().for_each(|rows| *rows *= &signs);
            }
            Free::Rotation => {
                for sets in [&mut got, &mut expected] {
                    let all = concatenate(Axis(0), &sets.iter().map(|rows| rows.view()).collect::<Vec<_>>()).unwrap();
                    sets.iter_mut().for_each(|rows| *rows = rows.dot(&all.t()));
                }
            }
        }
        for ((set, got), expected) in SETS.iter().zip(&got).zip(&expected) {
            assert_eq!(got.dim(), expected.dim(), "{name} {} {set}", case["name"]);
            for (got, expected) in got.iter().zip(expected) {
                assert!(agree(*got, *expected, tolerance), "{name} {} {set}: {got} for {expected}", case["name"]);
            }
        }
        if case["expected"].get("objective").is_some() {
            let expected = numbers(&case["expected"]["objective"])[0];
            let (_, got) = found.facts.iter().find(|(fact, _)| *fact == "objective").unwrap();
            assert!(agree(*got, expected, tolerance), "{name} {}: objective {got} for {expected}", case["name"]);
        }
    }
}

macro_rules! references {
    ($($test:ident: $name:literal, $free:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            equals_its_reference($name, Free::$free);
        }
    )*};
}

references! {
    coral_equals_skada_and_its_formula: "coral", Nothing,
    mmd_ls_takes_the_steps_of_skada_and_torch: "mmd_ls", Nothing,
    joint_pca_equals_scikit_learn: "joint_pca", Signs,
    subspace_alignment_equals_skada: "subspace_alignment", Signs,
    tca_equals_skada_and_scipy: "tca", Signs,
    tjm_equals_skada_and_scipy: "tjm", Signs,
    tsl_takes_the_steps_of_skada_and_torch: "tsl", Rotation,
}

#[test]
fn dasvm_swaps_the_rows_of_skada_and_of_the_page() {
    for case in cases("dasvm").0 {
        let (x, target) = (matrix(&case["inputs"]["source"]), matrix(&case["inputs"]["target"]));
        let y = Labels::Classes { of: classes(&case["inputs"]["labels"]), count: 2 };
        let source = Source::new(x.view(), &y).unwrap();
        let target = Target::new(target.view(), &source).unwrap();
        let learner = Svc { kernel: Kernel::Linear, tolerance: 1e-8, ..Svc::default() };
        let method = find(ALIGN, "dasvm").unwrap().build(&toml::Table::try_from(&case["config"]).unwrap()).unwrap();
        let found = method.align_any(&source, &target, &Host { learner: &learner, seed: 0 }).unwrap();
        let expected = |what: &str| numbers(&case["expected"][what]);
        let labels: Vec<f64> = found.lesson.y.classes("test").unwrap().0.iter().map(|class| *class as f64).collect();
        assert_eq!(found.facts, [("fits", expected("fits")[0]), ("source rows left", expected("left")[0])]);
        assert_eq!(labels, expected("labels"), "{}", case["name"]);
        assert_eq!(found.lesson.x, target.x);
    }
}
