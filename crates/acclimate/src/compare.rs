//! Finished runs beside each other: what each method scored, in what time and with how many numbers.

use crate::gate::{Candidate, Score};
use crate::recipe::Recipe;
use crate::run::Manifest;
use crate::tune::Summary;
use acclimate_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Keys of a recipe in which runs may differ: the method, where the run is, and what changes no number. What the names of model and
/// data stand for is compared by its hash.
const FREE: [&str; 8] = ["adapter", "optim", "out", "offline", "checkpoint_steps", "model", "data", "test"];

/// Runs that differ in the method alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The score's name.
    pub metric: String,
    /// Whether scores are of untouched rows; otherwise they were cross-fitted inside the training rows.
    pub untouched: bool,
    /// The runs in the order they were named.
    pub runs: Vec<Compared>,
    /// What differs between the runs beside the method and may show in their figures, most of all in their times.
    pub notes: Vec<String>,
}

/// One run of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Where it is.
    pub folder: PathBuf,
    /// The recipe's `adapter`: the method and the settings that were given.
    pub adapter: toml::Table,
    /// The recipe's `optim`.
    pub optim: toml::Table,
    /// Who was kept.
    pub kept: Candidate,
    /// The score of who was kept, with its 95 % interval.
    pub score: Option<Score>,
    /// The score of the patch, which may not have been kept.
    pub patch: Option<Score>,
    /// Numbers that the kept patch trained.
    pub trained: usize,
    /// Seconds of training, folds included.
    pub training_seconds: f64,
}

/// What a manifest says beside the recipe.
#[derive(Deserialize)]
struct Made {
    version: String,
    model: String,
    train: String,
    test: Option<String>,
    platform: String,
    threads: usize,
}

/// A run as its folder tells it.
struct Found {
    folder: PathBuf,
    recipe: toml::Table,
    made: Made,
    summary: Summary,
}

impl Found {
    fn read(folder: &Path) -> Result<Self> {
        let recipe = folder.join("recipe.toml");
        if !folder.join("result.json").exists() {
            return Err(Error::Other(match recipe.exists() {
                true => format!(
                    "{}: the run is not finished; go on with `acclimate tune --recipe {}`",
                    folder.display(),
                    recipe.display()
                ),
                false => format!("{}: no run folder; name folders that `acclimate tune` wrote", folder.display()),
            }));
        }
        // The recipe's own file: a manifest has no word for infinity.
        let recipe = Recipe::from_table(&Recipe::read(&recipe)?)?;
        Ok(Self {
            folder: folder.to_owned(),
            recipe: toml::Table::try_from(recipe).map_err(|e| Error::Other(e.to_string()))?,
            made: json(&folder.join(Manifest::FILE))?,
            summary: json(&folder.join("result.json"))?,
        })
    }

    fn section(&self, name: &str) -> toml::Table {
        self.recipe.get(name).and_then(toml::Value::as_table).cloned().unwrap_or_default()
    }

    fn score(&self, name: Candidate, untouched: bool) -> Option<Score> {
        let found = self.summary.candidates.iter().find(|candidate| candidate.name == name)?;
        if untouched { found.test } else { found.crossfit }
    }
}

fn json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    serde_json::from_str(&text).map_err(|e| Error::format(file, format!("{e}; tune the run again")))
}

/// Reads finished runs and puts them beside each other.
///
/// # Errors
/// When a folder holds no finished run, or runs differ in more than the method: the error names every key with its values.
pub fn compare(folders: &[PathBuf]) -> Result<Comparison> {
    let found = folders.iter().map(|folder| Found::read(folder)).collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = found.split_first() else {
        return Err(Error::Other("no run to compare; name at least two run folders".to_owned()));
    };
    for other in others {
        let differ = differences(first, other);
        if !differ.is_empty() {
            return Err(Error::Other(format!(
                "{} and {} differ in more than the method: {}; compare runs that agree in all but `adapter` and `optim`",
                first.folder.display(),
                other.folder.display(),
                differ.join(", ")
            )));
        }
    }
    let untouched = first.summary.test_rows > 0;
    let runs = found.iter().map(|run| Compared {
        folder: run.folder.clone(),
        adapter: run.section("adapter"),
        optim: run.section("optim"),
        kept: run.summary.chosen,
        score: run.score(run.summary.chosen, untouched),
        patch: run.score(Candidate::Patch, untouched),
        trained: run.summary.trained,
        training_seconds: run.summary.cost.training_seconds,
    });
    Ok(Comparison { metric: first.summary.metric.clone(), untouched, runs: runs.collect(), notes: notes(&found) })
}

/// Every key in which two runs differ and may not, with both values.
fn differences(one: &Found, other: &Found) -> Vec<String> {
    let (here, there) = (flat(&one.recipe), flat(&other.recipe));
    let told = |values: &BTreeMap<String, String>, key: &str| {
        values.get(key).map_or("not set".to_owned(), |value| format!("`{value}`"))
    };
    let both = |key: &str| format!("`{key}` is {} and {}", told(&here, key), told(&there, key));
    let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let free = |key: &str| FREE.contains(&key.split('.').next().unwrap_or(key));
    let mut found: Vec<String> =
        keys.into_iter().filter(|key| !free(key) && here.get(*key) != there.get(*key)).map(|key| both(key)).collect();
    for (key, what, same) in [
        ("model", "weights of the model", one.made.model == other.made.model),
        ("data", "training rows", one.made.train == other.made.train),
        ("test", "untouched rows", one.made.test == other.made.test),
    ] {
        match here.get(key) == there.get(key) {
            _ if same => {}
            true => found.push(format!("the {what} are others")),
            false => found.push(format!("the {what} are others ({})", both(key))),
        }
    }
    found
}

/// The keys of a recipe as `section.key` with their values as TOML.
fn flat(recipe: &toml::Table) -> BTreeMap<String, String> {
    let inside = |(key, value): (&String, &toml::Value)| match value.as_table() {
        Some(section) => section.iter().map(|(own, value)| (format!("{key}.{own}"), value.to_string())).collect(),
        None => vec![(key.clone(), value.to_string())],
    };
    recipe.iter().flat_map(inside).collect()
}

/// A sentence for everything about the program and the machine in which the runs differ.
fn notes(found: &[Found]) -> Vec<String> {
    let note = |name: &str, fact: fn(&Made) -> String| {
        let facts: Vec<String> = found.iter().map(|run| fact(&run.made)).collect();
        let told = facts.iter().zip(found).map(|(fact, run)| format!("{fact} in {}", run.folder.display()));
        let differ = facts.iter().any(|fact| *fact != facts[0]);
        differ.then(|| format!("the {name} differs: {}", told.collect::<Vec<_>>().join(", ")))
    };
    let version = note("version of acclimate", |made| made.version.clone());
    let platform = note("platform", |made| made.platform.clone());
    [version, platform, note("number of threads", |made| made.threads.to_string())].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::{CandidateResult, Cost};

    /// A finished run of a recipe, with an accuracy on untouched rows.
    fn finished(place: &Path, name: &str, recipe: &str, accuracy: f64, change: impl FnOnce(&mut Manifest)) -> PathBuf {
        let folder = place.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("recipe.toml"), recipe).unwrap();
        let recipe = Recipe::from_table(&recipe.parse().unwrap()).unwrap();
        let text = |text: &str| text.to_owned();
        let mut manifest = Manifest {
            version: text("1"),
            recipe,
            model: text("m"),
            train: text("t"),
            test: Some(text("u")),
            platform: text("p"),
            threads: 2,
        };
        change(&mut manifest);
        std::fs::write(folder.join(Manifest::FILE), serde_json::to_string(&manifest).unwrap()).unwrap();
        let score = |value: f64| Some(Score { value, low: value - 0.1, high: value + 0.1 });
        let candidates = [(Candidate::Probe, 0.5), (Candidate::Patch, accuracy)].map(|(name, test)| CandidateResult {
            name,
            crossfit: score(0.4),
            test: score(test),
        });
        let summary = Summary {
            folder: folder.clone(),
            train_rows: 80,
            test_rows: 20,
            metric: text("accuracy"),
            candidates: candidates.to_vec(),
            chosen: Candidate::Patch,
            baseline: Candidate::Probe,
            gain: None,
            metrics: [("nan".to_owned(), f64::NAN)].into(),
            baseline_metrics: [].into(),
            trained: 100,
            notes: vec![],
            cost: Cost { training_seconds: 2.5, peak_memory_mib: None },
        };
        std::fs::write(folder.join("result.json"), serde_json::to_string(&summary).unwrap()).unwrap();
        folder
    }

    const BASE: &str = "model = 'm'\ndata = 'd'\nseed = 3\n";

    #[test]
    fn runs_that_differ_in_the_method_are_put_beside_each_other() {
        let place = tempfile::tempdir().unwrap();
        let one = finished(place.path(), "a", &format!("{BASE}out = 'a'\n[adapter]\nrank = 4"), 0.8, |_| ());
        let more =
            "out = 'b'\noffline = true\ncheckpoint_steps = 9\n[adapter]\nmethod = 'hra'\n[optim]\ngrowth_rate = inf";
        let moved = BASE.replace("'d'", "'./d'");
        let other = finished(place.path(), "b", &format!("{moved}{more}"), 0.9, |_| ());
        let Comparison { metric, untouched, runs, notes } = compare(&[one, other]).unwrap();
        assert_eq!((metric.as_str(), untouched, notes), ("accuracy", true, vec![]));
        assert_eq!(runs[0].adapter["rank"].as_integer(), Some(4));
        assert_eq!(runs[1].adapter["method"].as_str(), Some("hra"));
        assert_eq!(runs[1].optim["growth_rate"].as_float(), Some(f64::INFINITY));
        let told: Vec<_> = runs.iter().map(|run| (run.kept, run.score.unwrap().value, run.trained)).collect();
        assert_eq!(told, [(Candidate::Patch, 0.8, 100), (Candidate::Patch, 0.9, 100)]);
    }

    #[test]
    fn every_other_difference_is_named_with_both_values() {
        let place = tempfile::tempdir().unwrap();
        let one = finished(place.path(), "a", BASE, 0.8, |_| ());
        let recipe = BASE.replace('3', "4") + "epochs = 7\n[gate]\nfolds = 5";
        let other = finished(place.path(), "b", &recipe, 0.9, |manifest| manifest.train = "other".to_owned());
        let error = compare(&[one.clone(), other]).unwrap_err().to_string();
        for part in [
            "a and ",
            "`seed` is `3` and `4`",
            "`epochs` is not set and `7`",
            "`gate.folds` is not set and `5`",
            "the training rows are others;",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("weights"), "{error}");
        let elsewhere = BASE.replace("'d'", "'e'");
        let other = finished(place.path(), "c", &elsewhere, 0.9, |manifest| manifest.train = "other".to_owned());
        let error = compare(&[one, other]).unwrap_err().to_string();
        assert!(error.contains("the training rows are others (`data` is `\"d\"` and `\"e\"`);"), "{error}");
    }

    #[test]
    fn other_machines_are_a_note() {
        let place = tempfile::tempdir().unwrap();
        let one = finished(place.path(), "a", BASE, 0.8, |_| ());
        let other = finished(place.path(), "b", BASE, 0.8, |manifest| manifest.threads = 16);
        let notes = compare(&[one.clone(), other.clone()]).unwrap().notes;
        let told = format!("the number of threads differs: 2 in {}, 16 in {}", one.display(), other.display());
        assert_eq!(notes, [told]);
    }

    #[test]
    fn what_is_no_finished_run_is_told() {
        let place = tempfile::tempdir().unwrap();
        let one = finished(place.path(), "a", BASE, 0.8, |_| ());
        let error = |folder: &Path| compare(&[one.clone(), folder.to_owned()]).unwrap_err().to_string();
        assert!(error(&place.path().join("none")).contains("none: no run folder"));
        let begun = finished(place.path(), "b", BASE, 0.8, |_| ());
        std::fs::remove_file(begun.join("result.json")).unwrap();
        assert!(error(&begun).contains("b: the run is not finished; go on with `acclimate tune --recipe "));
    }
}
