//! Run folders: what a run was made from, what it wrote, and the messages on its way.

use crate::recipe::Recipe;
use acclimate_core::{Error, Result, remove_unfinished, write_whole};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

impl Manifest {
    /// Its name in a run folder.
    pub const FILE: &str = "manifest.json";
}

/// The folder of checkpoints.
const CHECKPOINTS: &str = "checkpoints";

/// In the folder of checkpoints: it goes with them when the run is done.
const LOCK: &str = "lock";

/// A folder that a run writes to. While it is held no other process runs there.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked; the system unlocks it when the process ends, however that happens.
    _lock: Arc<File>,
}

impl RunFolder {
    /// Opens a folder for a recipe: a new one, or one that the same recipe left unfinished.
    ///
    /// # Errors
    /// When the folder cannot be made, holds a finished run, belongs to another recipe, or another process is at work there.
    pub fn open(folder: &Path, recipe: &Recipe) -> Result<Self> {
        let refused =
            |what: &str| Err(Error::Other(format!("{}: {what}; name another folder with `--out`", folder.display())));
        let finished = || folder.join("result.json").exists();
        let (checkpoints, file) = (folder.join(CHECKPOINTS), folder.join("recipe.toml"));
        if finished() {
            // A process that was killed at its last act, or is still at it, left them.
            if File::open(checkpoints.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
                remove_checkpoints(&checkpoints)?;
            }
            return refused("holds a finished run");
        }
        let others = std::fs::read_dir(&checkpoints)
            .is_ok_and(|entries| entries.filter_map(std::result::Result::ok).any(|entry| entry.file_name() != LOCK));
        // The checkpoints go when the run is done: those of somebody else must not.
        if others && !file.exists() {
            return refused("holds checkpoints that are not of a run");
        }
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let Some(held) = hold(&checkpoints.join(LOCK))? else { return refused("another process runs there") };
        if finished() {
            return refused("holds a finished run");
        }
        let run = Self { path: folder.to_owned(), _lock: Arc::new(held) };
        for within in [run.path.clone(), run.file("patch")] {
            remove_unfinished(&within)?;
        }
        // A run that failed before its first checkpoint left nothing to go on from.
        let begun = others || !run.file(Manifest::FILE).exists();
        if file.exists() && begun {
            let old = Recipe::from_table(&Recipe::read(&file)?)?;
            // What may be fetched and how often is saved changes nothing that is fitted.
            if (Recipe { offline: recipe.offline, checkpoint_steps: recipe.checkpoint_steps, ..old }) != *recipe {
                return Err(Error::Other(format!(
                    "{}: holds an unfinished run of another recipe; finish it with `acclimate tune --recipe {}`, or name another folder with `--out`",
                    folder.display(),
                    file.display()
                )));
            }
        } else {
            let _ = std::fs::remove_file(run.file(Manifest::FILE));
            let text = toml::to_string(recipe).map_err(|e| Error::Other(e.to_string()))?;
            write_whole(&file, text.as_bytes())?;
        }
        Ok(run)
    }

    /// Writes the manifest, or holds it against that of the unfinished run.
    ///
    /// # Errors
    /// When the run was begun with another model or other rows: what it has fitted so far would be mixed with theirs.
    pub fn begin(&self, manifest: &Manifest) -> Result<()> {
        let new = serde_json::to_value(manifest).map_err(|e| Error::Other(format!("{}: {e}", Manifest::FILE)))?;
        let old = self.read_json::<serde_json::Value>(Manifest::FILE)?.unwrap_or_else(|| new.clone());
        match [("model", "another model"), ("train", "other training rows"), ("test", "other test rows")]
            .iter()
            .find(|(key, _)| old.get(key) != new.get(key))
        {
            Some((_, what)) => Err(Error::Other(format!(
                "{}: holds an unfinished run on {what}; bring them back, delete the folder, or name another one with `--out`",
                self.path.display()
            ))),
            None => self.write_json(Manifest::FILE, manifest),
        }
    }

    /// Removes what only an unfinished run needs, once the result is written.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn finish(&self) -> Result<()> {
        remove_checkpoints(&self.file(CHECKPOINTS))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
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

/// Makes and locks a file, until the process ends or drops it; nothing where another process holds it.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub(crate) fn hold(lock: &Path) -> Result<Option<File>> {
    let folder = lock.parent().unwrap_or(Path::new("."));
    let made = std::fs::create_dir_all(folder)
        .and_then(|()| File::options().create(true).truncate(false).write(true).open(lock));
    let held = made.map_err(|e| Error::io(lock, e))?;
    // Some network drives know no locks; a run there is not guarded.
    Ok(if let Err(TryLockError::WouldBlock) = held.try_lock() { None } else { Some(held) })
}

/// Removes checkpoints, the lock last: while it is there they are known to be a run's.
fn remove_checkpoints(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        } else if path.file_name().is_some_and(|name| name != LOCK) {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    std::fs::remove_dir_all(folder).map_err(|e| Error::io(folder, e))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(train: &str) -> Manifest {
        let text = || "x".to_owned();
        let (recipe, train) = (Recipe::default(), train.to_owned());
        Manifest { version: text(), recipe, model: text(), train, test: None, platform: text(), threads: 1 }
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let open = || RunFolder::open(folder.path(), &Recipe::default());
        let first = open().unwrap();
        assert!(open().unwrap_err().to_string().contains("another process runs there"));
        drop(first);
        open().unwrap();
    }

    #[test]
    fn a_run_without_checkpoints_gives_way_to_another_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Recipe::default(), Recipe { seed: 1, ..Recipe::default() });
        let open = |recipe: &Recipe| RunFolder::open(folder.path(), recipe);
        open(&first).unwrap().begin(&manifest("a")).unwrap();
        let run = open(&second).unwrap();
        run.begin(&manifest("b")).unwrap();
        std::fs::create_dir(run.file("checkpoints/final")).unwrap();
        drop(run);
        assert!(open(&first).unwrap_err().to_string().contains("an unfinished run of another recipe"));
        open(&second).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let open = || RunFolder::open(folder.path(), &Recipe::default());
        drop(open().unwrap());
        for name in ["patch", "checkpoints/final"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let left = ["result.12.tmp", "patch/adapter_model.12.tmp"].map(|name| folder.path().join(name));
        left.iter().for_each(|file| std::fs::write(file, "{").unwrap());
        std::fs::write(folder.path().join("checkpoints/final/history.jsonl"), "").unwrap();
        let run = open().unwrap();
        assert!(left.iter().all(|file| !file.exists()));
        // Killed between the result and the end.
        std::fs::write(run.file("result.json"), "{}").unwrap();
        assert!(open().unwrap_err().to_string().contains("a finished run"));
        assert!(folder.path().join("checkpoints").exists(), "the process may still be at work");
        drop(run);
        assert!(open().unwrap_err().to_string().contains("a finished run"));
        assert!(!folder.path().join("checkpoints").exists());
    }

    #[test]
    fn what_belongs_to_others_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("checkpoints/mine")).unwrap();
        let error = RunFolder::open(folder.path(), &Recipe::default()).unwrap_err().to_string();
        assert!(error.contains("not of a run"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 1);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("recipe.toml"), "seed = 3").unwrap();
        assert!(RunFolder::open(folder.path(), &Recipe::default()).is_err());
        assert_eq!(std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap(), "seed = 3");
    }

    #[test]
    fn a_run_does_not_go_on_with_other_rows() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path(), &Recipe::default()).unwrap();
        run.begin(&manifest("a")).unwrap();
        run.begin(&manifest("a")).unwrap();
        let error = run.begin(&manifest("b")).unwrap_err().to_string();
        assert!(error.contains("an unfinished run on other training rows"), "{error}");
    }
}
