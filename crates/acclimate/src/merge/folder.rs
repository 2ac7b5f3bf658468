//! The folder of a merged checkpoint: what goes there beside the weights, and how it is whole or not there.

use acclimate_core::{Error, Gguf, Result};
use acclimate_data::Tokenizer;
use acclimate_models::gguf_config;
use serde_json::{Value, json};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Lies in a folder that is being written.
const LOCK: &str = ".acclimate-merge";

/// Ends of names of files with weights in them: in a merged folder they would be those of the model as it was.
const WEIGHTS: [&str; 15] = [
    "safetensors",
    "gguf",
    "bin",
    "pt",
    "pth",
    "pkl",
    "pickle",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "ot",
    "tflite",
    "npz",
    "npy",
];

/// What a file beside the weights is made of.
pub(super) enum Beside {
    /// A copy.
    File(PathBuf),
    /// A text.
    Text(String),
}

/// The files that go with a model's weights: those of its folder that hold no weights, and of the folders in which sentence-transformers
/// keeps each module under its number. Names in the new folder, and where they are now.
pub(super) fn beside_weights(folder: &Path) -> Result<Vec<(PathBuf, Beside)>> {
    let names = |folder: &Path| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let entries = entries.map_err(|e| Error::io(folder, e))?;
        let mut names: Vec<String> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    };
    let weights = |name: &str| {
        let end = name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
        WEIGHTS.contains(&end.as_str()) || name.ends_with(".index.json")
    };
    let mut found = vec![];
    for name in names(folder)? {
        let path = folder.join(&name);
        if path.is_file() {
            found.extend((!weights(&name)).then(|| (name.into(), Beside::File(path))));
        } else if name.starts_with(|c: char| c.is_ascii_digit()) {
            for inner in names(&path)? {
                let file = path.join(&inner);
                if file.is_file() && (inner.ends_with(".safetensors") || !weights(&inner)) {
                    found.push((Path::new(&name).join(inner), Beside::File(file)));
                }
            }
        }
    }
    Ok(found)
}

/// What a folder of safetensors has beside them, from a GGUF file: the configuration, the tokeniser and the template for dialogues.
pub(super) fn beside_gguf(gguf: &Gguf) -> Result<Vec<(PathBuf, Beside)>> {
    // How long rows may be is no part of a tokenizer.json.
    const LENGTH: usize = 512;
    let text = |json: &Value| -> Result<String> {
        Ok(serde_json::to_string_pretty(json).map_err(|e| Error::Other(e.to_string()))? + "\n")
    };
    let own = gguf.file().with_file_name("tokenizer.json");
    let tokenizer =
        if own.exists() { Tokenizer::from_file(&own, LENGTH)? } else { Tokenizer::from_gguf(gguf, LENGTH)? };
    let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
    let mut generation = json!({});
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap_or_default();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = gguf.u64(&format!("tokenizer.ggml.{key}_token_id"));
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            config[format!("{name}_token")] = token.as_str().into();
            generation[format!("{name}_token_id")] = id.into();
        }
    }
    if !tokenizer.ends().is_empty() {
        generation["eos_token_id"] = tokenizer.ends().into();
    }
    let mut all = vec![
        ("config.json", text(&gguf_config(gguf)?)?),
        ("tokenizer.json", tokenizer.to_json()?),
        ("tokenizer_config.json", text(&config)?),
        ("generation_config.json", text(&generation)?),
    ];
    all.extend(gguf.str("tokenizer.chat_template").map(|source| ("chat_template.jinja", source.to_owned())));
    Ok(all.into_iter().map(|(name, text)| (name.into(), Beside::Text(text))).collect())
}

/// Refuses a place where no new folder can be made.
///
/// # Errors
/// Names the folder and the way out.
pub fn check_out(out: &Path) -> Result<()> {
    let refused = |what: &str| Err(Error::Other(format!("{}: {what}", out.display())));
    if out.symlink_metadata().is_ok() {
        return refused("is there already; name another folder with `--out`");
    }
    match (out.file_name(), out.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() || parent.is_dir() => Ok(()),
        (Some(_), Some(_)) => refused("the folder it is to lie in does not exist; create that first"),
        _ => refused("is no name for a folder; name another with `--out`"),
    }
}

/// A checkpoint that is being written, in a folder of its own beside its place: `OUT.partial/checkpoint`, and a lock with it. Whenever the
/// process is killed, `OUT` is whole or not there, and what is left of the other folder is known as a merge's.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    around: PathBuf,
    out: PathBuf,
    /// Held while the folder is written: one that nobody holds was left by a process that was killed.
    lock: Option<File>,
}

impl Partial {
    pub(super) fn begin(out: &Path) -> Result<Self> {
        check_out(out)?;
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let around = out.with_file_name(name);
        let io = |e| Error::io(&around, e);
        let refused = |what: &str| Err(Error::Other(format!("{}: {what}", around.display())));
        let lock = around.join(LOCK);
        if around.exists() {
            let empty = std::fs::read_dir(&around).map_err(io)?.next().is_none();
            match File::open(&lock) {
                Ok(held) => {
                    if let Err(TryLockError::WouldBlock) = held.try_lock() {
                        return refused("another process merges there; name another folder with `--out`");
                    }
                }
                Err(_) if empty => {}
                Err(_) => return refused("is not of a merge; move it away, or name another folder with `--out`"),
            }
            remove(&around).map_err(io)?;
        }
        std::fs::create_dir(&around).map_err(io)?;
        let path = around.join("checkpoint");
        let mut partial = Self { path: path.clone(), around: around.clone(), out: out.to_owned(), lock: None };
        let held = File::create(&lock).map_err(|e| Error::io(&lock, e))?;
        // Some network drives know no locks; a merge there is not guarded.
        let _ = held.try_lock();
        partial.lock = Some(held);
        std::fs::create_dir(&path).map_err(|e| Error::io(&path, e))?;
        Ok(partial)
    }

    pub(super) fn finish(self) -> Result<()> {
        std::fs::rename(&self.path, &self.out).map_err(|e| Error::io(&self.out, e))?;
        // The new name is to outlast a power cut, where folders can be flushed.
        if let Some(parent) = self.out.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let _ = File::open(parent).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

/// Removes what a merge has left, its lock last: until then it is known as such.
fn remove(around: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(around)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    std::fs::remove_dir_all(around)
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Some systems remove no file that is open.
        self.lock = None;
        let _ = remove(&self.around);
    }
}
