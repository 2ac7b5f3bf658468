//! A patch folder with everything needed to use it: the patch, its task and how inputs are read.

use crate::dataset::{self, Loaded, Opened};
use crate::gate::{self, Score};
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::{Outputs, Prepared, Task, TaskSpec};
use crate::train::predict_all;
use crate::write::{self, Writing};
use acclimate_core::{Error, Model, Pass, Patch, Result, write_whole};
use acclimate_data::{Assets, Columns, Examples, Inputs};
use acclimate_models::Base;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a patch folder of ours holds beside the patch.
pub(crate) const SAVED: &str = "acclimate.json";

/// What `acclimate.json` in a patch folder says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The model's name, as the recipe gave it.
    pub model: String,
    /// The task.
    pub task: TaskSpec,
    /// How a quantised model is held.
    #[serde(default)]
    pub base: Base,
    /// Longest input in tokens.
    pub max_length: usize,
    /// SHA-256 of the model's weights.
    pub fingerprint: String,
}

/// The patch folder that a name means: the one inside a run folder, or itself.
pub fn patch_folder(folder: &Path) -> PathBuf {
    let inner = folder.join("patch");
    if inner.is_dir() { inner } else { folder.to_owned() }
}

impl Saved {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
        serde_json::from_str(&text).map_err(|e| Error::format(file, e.to_string()))
    }

    /// Refuses weights other than those of the model that was tuned.
    ///
    /// # Errors
    /// Names the file and the way out.
    pub(crate) fn check_fingerprint(&self, file: &Path, fingerprint: &str) -> Result<()> {
        if self.fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::format(file, "was made for a model with other weights; load that model, or tune anew"))
    }

    /// What a run has to remember.
    pub fn describe(recipe: &Recipe, task: &dyn Task, loaded: &Loaded) -> Self {
        let model = match std::fs::canonicalize(&recipe.model) {
            Ok(path) if !recipe.model.contains(':') => path.display().to_string(),
            _ => recipe.model.clone(),
        };
        Self {
            model,
            task: task.spec(),
            base: recipe.base,
            max_length: recipe.max_length,
            fingerprint: loaded.model.fingerprint().to_owned(),
        }
    }

    /// Writes the folder, with what tells the model's tensors from others.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, folder: &Path, patch: &Patch, model: &dyn Model) -> Result<()> {
        let mut patch = patch.clone();
        patch.base_model = Some(self.model.clone());
        patch.record_base(model);
        patch.save(folder)?;
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Other(e.to_string()))?;
        write_whole(&folder.join(SAVED), text.as_bytes())
    }
}

/// The model that a patch folder names.
pub fn base_of(folder: &Path) -> Option<String> {
    let key = |file: &str, key: &str| -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join(file)).ok()?).ok()?;
        Some(value.get(key)?.as_str()?.to_owned())
    };
    key(SAVED, "model").or_else(|| key("adapter_config.json", "base_model_name_or_path"))
}

/// The model that the user names, or else the patch folder.
///
/// # Errors
/// When neither does.
pub fn model_for(folder: &Path, named: Option<&str>) -> Result<String> {
    let what = "names no base model; name it with `--model`";
    named.map(str::to_owned).or_else(|| base_of(folder)).ok_or_else(|| Error::format(folder, what))
}

/// Writes a patch that stands for the one in `folder`: with its task, where it has one.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write_beside(folder: &Path, out: &Path, patch: &Patch, model: &dyn Model) -> Result<()> {
    let file = folder.join(SAVED);
    if file.exists() {
        return Saved::read(&file)?.write(out, patch, model);
    }
    let mut patch = patch.clone();
    patch.record_base(model);
    patch.save(out)
}

/// A patched model that answers.
pub struct Answering {
    /// What the folder says.
    pub saved: Saved,
    /// The model.
    pub loaded: Loaded,
    /// The patch.
    pub patch: Patch,
    /// The task.
    pub task: Box<dyn Task>,
}

impl Answering {
    /// Opens a run folder or a patch folder; one that the `peft` package has written holds no task, and serves a language model. `model`
    /// replaces the name the patch was saved with.
    ///
    /// # Errors
    /// A folder without a patch, a model that is gone, or another model than the patch was made for.
    pub fn open(folder: &Path, model: Option<&str>, offline: bool) -> Result<Self> {
        let folder = patch_folder(folder);
        if !folder.is_dir() {
            return Err(Error::Other(format!("{}: is no folder; name a run or patch folder", folder.display())));
        }
        let file = folder.join(SAVED);
        if !file.exists() && folder.join("adapter_config.json").exists() {
            return Self::without_task(&folder, model, offline);
        }
        let saved = Saved::read(&file)?;
        let assets = Assets::open(offline)?;
        let loaded = Loaded::open(model.unwrap_or(&saved.model), saved.base, saved.max_length, &assets)?;
        let patch = acclimate_peft::load(&folder, loaded.model.as_ref())?;
        // A patch without tensors, of a model that is kept as it is, names no base.
        saved.check_fingerprint(&file, loaded.model.fingerprint())?;
        let task = saved.task.build();
        Ok(Self { saved, loaded, patch, task })
    }

    fn without_task(folder: &Path, model: Option<&str>, offline: bool) -> Result<Self> {
        let model = model_for(folder, model)?;
        let mut answering = Self::bare(&Recipe { model, offline, ..Recipe::default() })?;
        answering.patch = acclimate_peft::load(folder, answering.loaded.model.as_ref())?;
        Ok(answering)
    }

    /// A language model as it is, without a patch: it reads dialogues where it has a chat template, and texts where it has none.
    ///
    /// # Errors
    /// A model that is not found, or none that reads from left to right.
    pub fn bare(recipe: &Recipe) -> Result<Self> {
        let loaded = Loaded::open(&recipe.model, recipe.base, recipe.max_length, &Assets::open(recipe.offline)?)?;
        if loaded.model.vocabulary().is_none() {
            return Err(Error::Unsupported {
                who: recipe.model.clone(),
                what: "answer without a patch".to_owned(),
                instead: "tune one first, and name its folder with `--run`".to_owned(),
            });
        }
        let kind = match recipe.task {
            TaskKind::Auto if loaded.template.is_some() => TaskKind::Instruction,
            TaskKind::Auto => TaskKind::LanguageModelling,
            kind => kind,
        };
        let spec = TaskSpec { kind, names: vec![], weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
        let task = spec.build();
        let saved = Saved::describe(recipe, task.as_ref(), &loaded);
        Ok(Self { saved, loaded, patch: Patch::new(), task })
    }

    /// Whether answers are written, word after word.
    pub fn writes(&self) -> bool {
        matches!(self.task.kind(), TaskKind::LanguageModelling | TaskKind::Instruction)
    }

    /// Writes on after prompts; see [`write::write`].
    ///
    /// # Errors
    /// As [`write::write`].
    pub fn write(
        &self,
        inputs: &Inputs,
        writing: &Writing,
        on: &mut dyn FnMut(usize, &str) -> Result<()>,
    ) -> Result<Vec<String>> {
        write::write(&self.loaded, &self.patch, inputs, writing, on)
    }

    /// Answers for inputs without labels.
    ///
    /// # Errors
    /// Inputs of another kind than the model takes.
    pub fn predict(&self, inputs: &Inputs) -> Result<Outputs> {
        let (left, right) = self.loaded.encode(inputs, self.task.kind())?;
        let data = Prepared { left, right, labels: None };
        let rows: Vec<usize> = (0..data.left.len()).collect();
        predict_all(self.loaded.model.as_ref(), self.task.as_ref(), &data, &rows, &Pass::new(&self.patch))
    }

    /// Scores labelled rows.
    ///
    /// # Errors
    /// As [`Answering::predict`].
    pub fn evaluate(&self, examples: &Examples, seed: u64) -> Result<(Score, Vec<(String, f64)>)> {
        let outputs = self.predict(&examples.inputs)?;
        let metrics = self.task.metrics(&outputs.iter().collect::<Vec<_>>(), &examples.labels);
        Ok((gate::score(self.task.as_ref(), &outputs, &examples.labels, seed), metrics))
    }

    /// Reads labelled rows as the task wants them.
    ///
    /// # Errors
    /// As [`Examples::read`].
    pub fn labelled(&self, opened: &Opened) -> Result<Examples> {
        let kind = self.task.kind();
        let examples = Examples::read(&opened.table, &opened.columns_for(kind), &self.saved.task.target())?;
        Ok(self.loaded.readable(examples, kind)?.0)
    }

    /// Reads inputs alone; a target column is ignored.
    ///
    /// # Errors
    /// As [`Inputs::read`].
    pub fn inputs(&self, opened: &Opened) -> Result<Inputs> {
        Inputs::read(&opened.table, &Columns { target: None, ..opened.columns_for(self.task.kind()) })
    }

    /// Opens a table by name with a recipe's column names.
    ///
    /// # Errors
    /// As [`dataset::open`].
    pub fn open_table(name: &str, recipe: &Recipe) -> Result<Opened> {
        dataset::open(name, recipe, &Assets::open(recipe.offline)?)
    }
}
