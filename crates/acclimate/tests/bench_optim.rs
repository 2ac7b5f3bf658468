//! A comparison of optimisers that is cut short goes on with the fits that it has, and with no others.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate::bench::{Entrant, Outcome, Plan, run};
use acclimate_data::Assets;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const PROBLEM: &str = "name = 'small'\nset = 'open'\nform = 'table'\ndata = 'digits'\nbatch = 16\nepochs = 2\n";
const ROWS: &str = "rows = { train = 60, valid = 30, test = 40 }\n";

fn plan(methods: &[&str], kept: Option<&Path>) -> Plan {
    Plan {
        entrants: methods.iter().map(|text| Entrant::parse(text).unwrap()).collect(),
        problems: vec![toml::from_str(&format!("{PROBLEM}{ROWS}")).unwrap()],
        seeds: 2,
        grid: 3,
        robustness: 1,
        kept: kept.map(Path::to_owned),
    }
}

/// What comes of a plan, its seconds left out, and how many fits were told as done in turn.
fn ran(plan: &Plan) -> (Outcome, Vec<usize>) {
    let told = Mutex::new(vec![]);
    let outcome = run(plan, &Assets::open(true).unwrap(), &|done, _, _| told.lock().unwrap().push(done)).unwrap();
    let mut told = told.into_inner().unwrap();
    told.sort_unstable();
    (Outcome { seconds: 0.0, ..outcome }, told)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Says in every kept fit that all untouched rows were answered rightly, which no fit does here.
fn mark(folder: &Path) {
    for file in files(folder) {
        let mut fit: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        fit["fit"]["test"] = 1.0.into();
        std::fs::write(&file, fit.to_string()).unwrap();
    }
}

#[test]
fn a_comparison_that_was_cut_short_goes_on_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let methods = ["dadapt_adam", "adamw lr=0.01"];
    let (whole, _) = ran(&plan(&methods, None));
    let cut = plan(&methods, Some(folder.path()));
    let broken = catch_unwind(AssertUnwindSafe(|| {
        // Not a panic: that would print a message.
        let stop = |done, _: usize, _: &str| {
            if done >= 3 {
                resume_unwind(Box::new(()))
            }
        };
        run(&cut, &Assets::open(true).unwrap(), &stop)
    }));
    assert!(broken.is_err());
    let there = files(folder.path());
    assert!(there.len() >= 3);
    // Where there are many cores, all may have been done by then.
    for file in &there[3..] {
        std::fs::remove_file(file).unwrap();
    }
    let (taken_up, told) = ran(&cut);
    assert_eq!(told, (3..=8).collect::<Vec<_>>());
    assert_eq!(taken_up, whole);
    assert_eq!(ran(&cut), (whole, vec![8]));
}

#[test]
fn more_seeds_and_methods_make_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    ran(&Plan { seeds: 1, ..plan(&["adamw"], Some(folder.path())) });
    let (wider, told) = ran(&plan(&["adamw", "sgd"], Some(folder.path())));
    assert_eq!(told, (3..=12).collect::<Vec<_>>());
    assert_eq!(wider, ran(&plan(&["adamw", "sgd"], None)).0);
}

#[test]
fn a_fit_of_other_settings_is_not_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let kept = plan(&["adamw lr=0.01"], Some(folder.path()));
    ran(&kept);
    mark(folder.path());
    let score = |plan: &Plan| ran(plan).0.problems[0].entrants[0].test.value;
    // What was written there is read, so the others would be noticed.
    assert_eq!(score(&kept), 1.0);
    assert!(score(&plan(&["adamw lr=0.011"], Some(folder.path()))) < 1.0);
    let longer = toml::from_str(&format!("{}{ROWS}", PROBLEM.replace("epochs = 2", "epochs = 3"))).unwrap();
    assert!(score(&Plan { problems: vec![longer], ..kept }) < 1.0);
}

#[test]
fn a_damaged_file_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let kept = plan(&["adamw"], Some(folder.path()));
    let (whole, _) = ran(&kept);
    let files = files(folder.path());
    let text = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &text[..text.len() / 2]).unwrap();
    // Another fit under its name is no better.
    std::fs::copy(&files[2], &files[1]).unwrap();
    let (again, told) = ran(&kept);
    assert_eq!(told, [4, 5, 6]);
    assert_eq!(again, whole);
    assert_eq!(ran(&kept), (whole, vec![6]));
}

#[test]
fn a_changed_problem_says_what_was_changed_and_other_keys_are_refused() {
    let problem = plan(&["adamw"], None).problems.remove(0);
    let changed = problem.with("epochs=5 batch=10").unwrap();
    assert_eq!((changed.name.as_str(), changed.epochs, changed.batch), ("small, epochs=5 batch=10", 5, 10));
    for (change, word) in [
        ("data='other'", "key of a problem"),
        ("epochs", "is no setting"),
        ("batch=0", "`batch_size` must be at least 1"),
        ("batch='all'", "does not do"),
        ("adapter={rank=1}", "has no LoRA"),
        ("growth={tests='norm'}", "batch.test"),
    ] {
        let error = problem.with(change).unwrap_err().to_string();
        assert!(error.contains(word), "{change}: {error}");
    }
}

#[test]
fn batches_that_grow_make_fewer_steps_than_planned() {
    let plan = plan(&["adagrad"], None);
    let grown = plan.problems[0].with("batch=4 growth={test='norm',eta=0.1}").unwrap();
    let outcome = ran(&Plan { problems: vec![grown], ..plan }).0;
    let problem = &outcome.problems[0];
    assert_eq!(problem.steps, 30);
    assert!(problem.entrants[0].steps < 30.0, "{}", problem.entrants[0].steps);
}

#[test]
fn factors_learn_entries_that_they_have_not_seen() {
    let text = "name = 'lines'\nset = 'open'\nform = 'factors'\ndata = 'digits'\nbatch = 32\nepochs = 8\n\
        rows = { train = 1280, valid = 320, test = 320 }\nadapter = { rank = 2 }\n";
    let problems = vec![toml::from_str(text).unwrap()];
    let outcome = ran(&Plan { problems, seeds: 1, grid: 1, ..plan(&["adamw lr=0.03"], None) }).0;
    let entrant = &outcome.problems[0].entrants[0];
    // The mean of all entries has an R² of zero; a few hundred steps are far from the end.
    assert_eq!(outcome.problems[0].metric, "R²");
    assert!(entrant.test.value > 0.1, "{}", entrant.test.value);
}
