//! Finished fits in a folder: a comparison that was cut short goes on where it stopped.

use super::{Fit, Job};
use acclimate_core::{Error, Result, remove_unfinished, write_whole};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A folder with a file for each fit, named by what determines it.
pub(super) struct Kept {
    folder: PathBuf,
    /// The program's own bytes: another one may compute something else under the same settings.
    program: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    of: Value,
    fit: Fit,
}

impl Kept {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        remove_unfinished(folder)?;
        let own = std::env::current_exe().map_err(|e| Error::io("the running program", e))?;
        let program = hex(&std::fs::read(&own).map_err(|e| Error::io(&own, e))?);
        Ok(Self { folder: folder.to_owned(), program })
    }

    /// The fit, where it is done. A file that is damaged is as good as none.
    pub(super) fn find(&self, job: &Job<'_>) -> Result<Option<Fit>> {
        let (of, file) = self.place(job);
        let text = match std::fs::read(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| Error::io(&file, e))?,
        };
        Ok(serde_json::from_slice(&text).ok().filter(|file: &File| file.of == of).map(|file| file.fit))
    }

    pub(super) fn keep(&self, job: &Job<'_>, fit: Fit) -> Result<Fit> {
        let (of, path) = self.place(job);
        let file = File { of, fit };
        let text = serde_json::to_vec(&file).map_err(|e| Error::format(&path, e.to_string()))?;
        write_whole(&path, &text)?;
        Ok(file.fit)
    }

    /// All that determines a fit, and the file it has.
    fn place(&self, job: &Job<'_>) -> (Value, PathBuf) {
        let Job { problem, entrant, multiplier, seed } = job;
        let (program, optim) = (&self.program, &entrant.optim);
        let of = json!({
            "program": program, "problem": problem, "optim": optim, "multiplier": multiplier, "seed": seed,
        });
        let file = self.folder.join(format!("{}.json", hex(of.to_string().as_bytes())));
        (of, file)
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
