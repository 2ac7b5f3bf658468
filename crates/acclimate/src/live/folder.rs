//! The folder of a stream: what it was made from, files that only grow, and a state to go on from.

use super::{About, Book, Options};
use crate::checkpoint;
use crate::run::hold;
use acclimate_core::{Error, RecordReader, RecordWriter, Result, remove_unfinished, write_safetensors, write_whole};
use burn::tensor::Device;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const ABOUT: &str = "stream.json";
const RESULT: &str = "result.json";
const STATE: &str = "state.safetensors";
const LOCK: &str = "lock";

/// In the state: the book, beside the stream's own record.
const BOOK: &str = "book";
const STREAM: &str = "stream/";

/// A folder that a stream writes to. While it is held no other process works there.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Whether the same command had begun here before.
    pub(super) begun: bool,
    lock: Option<File>,
}

impl Folder {
    /// Opens a folder: a new or empty one, or one that the same command has begun.
    ///
    /// # Errors
    /// When it holds a finished stream, one of another command, or something else; or another process is at work there.
    pub(super) fn open(path: &Path, about: &About, live: bool) -> Result<Self> {
        let refused =
            |what: &str| Err(Error::Other(format!("{}: {what}; name another folder with `--out`", path.display())));
        let file = path.join(ABOUT);
        let old = read_json::<serde_json::Value>(&file)?;
        let holds_something = std::fs::read_dir(path)
            .is_ok_and(|entries| entries.filter_map(std::result::Result::ok).any(|entry| entry.file_name() != LOCK));
        if old.is_none() && holds_something {
            return refused("holds something else than a stream");
        }
        if path.join(RESULT).exists() && !live {
            return refused("holds a finished stream");
        }
        let new = serde_json::to_value(about).map_err(|e| Error::Other(e.to_string()))?;
        let same = old.as_ref().is_some_and(|old| *old == new);
        if old.is_some() && !same && path.join(STATE).exists() {
            return refused("holds an unfinished stream of another command or model");
        }
        let Some(lock) = hold(&path.join(LOCK))? else { return refused("another process runs there") };
        remove_unfinished(path)?;
        let folder = Self { path: path.to_owned(), begun: same, lock: Some(lock) };
        folder.write_json(ABOUT, about)?;
        Ok(folder)
    }

    /// What was saved last. A damaged state counts as none.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn left(&self, device: &Device) -> Result<Option<(Book, RecordReader)>> {
        let Some(record) = checkpoint::read(&self.path.join(STATE), device)? else { return Ok(None) };
        let book = record.numbers.get(BOOK).and_then(|text| serde_json::from_str(text).ok());
        Ok(book.map(|book| (book, record.part(STREAM))))
    }

    /// Whether there is a state, damaged or not.
    pub(super) fn has_state(&self) -> bool {
        self.path.join(STATE).exists()
    }

    /// Writes book and stream as one file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; what was there is kept.
    pub(super) fn save(&self, book: &Book, stream: RecordWriter) -> Result<()> {
        let mut record = RecordWriter::default();
        record.join(STREAM, stream);
        let text = serde_json::to_string(book).map_err(|e| Error::Other(e.to_string()))?;
        record.numbers.insert(BOOK.to_owned(), text);
        checkpoint::seal(&mut record);
        write_safetensors(&self.path.join(STATE), &record.tensors, record.numbers)
    }

    /// Writes the result: the stream is finished.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub(super) fn finish(&mut self, result: &impl Serialize) -> Result<()> {
        self.write_json(RESULT, result)?;
        let lock = self.path.join(LOCK);
        self.lock = None;
        std::fs::remove_file(&lock).map_err(|e| Error::io(&lock, e))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::Other(format!("{name}: {e}")))?;
        write_whole(&self.file(name), text.as_bytes())
    }
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::format(file, e.to_string()))
}

/// A file that only grows. A state says how much of it is its own.
pub(super) struct Growing {
    path: PathBuf,
    file: File,
    pub(super) bytes: u64,
}

impl Growing {
    /// Opens a file and cuts it back to so many bytes; with nothing it keeps what it has.
    ///
    /// # Errors
    /// When the disk refuses, or the file is shorter.
    pub(super) fn open(path: &Path, bytes: Option<u64>) -> Result<Self> {
        let failed = |e| Error::io(path, e);
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let file = File::options().create(true).append(true).open(path).map_err(failed)?;
        let has = file.metadata().map_err(failed)?.len();
        let bytes = bytes.unwrap_or(has);
        if has < bytes {
            let what = format!(
                "is shorter than it was ({has} of {bytes} bytes); bring it back, or name another folder with `--out`"
            );
            return Err(Error::format(path, what));
        }
        file.set_len(bytes).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Adds text, all of it or none.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).map_err(|e| {
            let _ = self.file.set_len(self.bytes);
            Error::io(&self.path, e)
        })?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Waits until the disk holds it.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// The file for the answers: the one that is named, or one in the folder; without either they go to standard output.
pub(super) fn answers_file(options: &Options) -> Option<PathBuf> {
    options.answers.clone().or_else(|| Some(options.out.as_ref()?.join("answers.csv")))
}
