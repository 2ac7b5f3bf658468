//! Run folders: what a run was made from, what it wrote, and the messages on its way.

use crate::recipe::Recipe;
use acclimate_core::{Error, Result, write_whole};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// What a run was made from. Two results are comparable only if all but the method agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of acclimate.
    pub version: String,
    /// The recipe with every key.
    pub recipe: Recipe,
    /// SHA-256 of the model's weights.
    pub model: String,
    /// SHA-256 of the training rows and their order.
    pub train: String,
    /// SHA-256 of the rows that are reported on.
    pub test: Option<String>,
    /// Operating system and processor family.
    pub platform: String,
    /// Threads.
    pub threads: usize,
}

/// Something that happened during a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A sentence for the user.
    Note(&'a str),
    /// A step of training.
    Step(crate::train::Progress<'a>),
}

/// A folder that a run writes to.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// Opens a folder for a recipe: a new one, or one that the same recipe left unfinished.
    ///
    /// # Errors
    /// When the folder cannot be made, holds a finished run, or belongs to another recipe.
    pub fn open(folder: &Path, recipe: &Recipe) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let run = Self(folder.to_owned());
        if run.file("result.json").exists() {
            return Err(Error::Other(format!(
                "{}: holds a finished run; name another folder with `--out`",
                folder.display()
            )));
        }
        let file = run.file("recipe.toml");
        if file.exists() {
            let old = Recipe::from_table(&Recipe::read(&file)?)?;
            if old != *recipe {
                return Err(Error::Other(format!(
                    "{}: holds an unfinished run of another recipe; finish it with `acclimate tune --recipe {}`, or name another folder with `--out`",
                    folder.display(),
                    file.display()
                )));
            }
        } else {
            let text = toml::to_string(recipe).map_err(|e| Error::Other(e.to_string()))?;
            write_whole(&file, text.as_bytes())?;
        }
        Ok(run)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a JSON file.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::Other(format!("{name}: {e}")))?;
        write_whole(&self.file(name), text.as_bytes())
    }

    /// Reads a JSON file, if it is there.
    ///
    /// # Errors
    /// When it is there and broken.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let file = self.file(name);
        if !file.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        serde_json::from_str(&text).map(Some).map_err(|e| Error::format(&file, e.to_string()))
    }
}

/// The folder a recipe runs in when it names none: `runs/MODEL-DATA-seedN`.
pub fn default_folder(recipe: &Recipe) -> PathBuf {
    let short = |name: &str| {
        let name = name.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or(name);
        let name = name.split('.').next().unwrap_or(name);
        name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect::<String>()
    };
    PathBuf::from("runs").join(format!("{}-{}-seed{}", short(&recipe.model), short(&recipe.data), recipe.seed))
}

/// The most memory this process has held so far, in MiB, where the system tells.
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
