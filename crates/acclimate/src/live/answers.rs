//! Answers as they come: a row or an object for each frame.

use super::Options;
use super::folder::{Growing, answers_file};
use acclimate_core::{Error, Result};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Where answers go, and in which form.
pub(super) struct Answers<'a> {
    to: To<'a>,
    lines: bool,
}

enum To<'a> {
    File(Growing),
    Stdout(&'a mut dyn Write),
}

impl<'a> Answers<'a> {
    /// Opens the file that the options name, cut back to so many bytes, or standard output. `begun` says that the same command has
    /// written there before.
    ///
    /// # Errors
    /// A file of another kind, or one that somebody else has filled.
    pub(super) fn open(options: &Options, begun: bool, cut: Option<u64>, stdout: &'a mut dyn Write) -> Result<Self> {
        let Some(path) = answers_file(options) else {
            let mut all = Self { to: To::Stdout(stdout), lines: options.json };
            all.head()?;
            return Ok(all);
        };
        let lines = Self::form(&path)?;
        let foreign = options.answers.is_some() && !begun && !options.live;
        if foreign && std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 0) {
            return Err(Error::format(&path, "is there already; name another file with `--answers`"));
        }
        let file = Growing::open(&path, cut)?;
        let empty = file.bytes == 0;
        let mut all = Self { to: To::File(file), lines };
        if empty {
            all.head()?;
        }
        Ok(all)
    }

    /// Whether a file's name asks for JSON lines.
    ///
    /// # Errors
    /// When it asks for neither these nor csv.
    pub(super) fn form(path: &Path) -> Result<bool> {
        match path.extension().and_then(|end| end.to_str()) {
            Some("jsonl" | "ndjson") => Ok(true),
            Some("csv") => Ok(false),
            _ => Err(Error::format(path, "is no kind of file for answers; use .csv or .jsonl")),
        }
    }

    fn head(&mut self) -> Result<()> {
        if self.lines { Ok(()) } else { self.put("frame,class,probability\n") }
    }

    /// Adds a batch's answers.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(
        &mut self,
        names: &[String],
        frames: &[String],
        said: &[usize],
        shares: &[Vec<f64>],
    ) -> Result<()> {
        let class = |at: usize| names.get(at).cloned().unwrap_or_else(|| at.to_string());
        let rows = frames.iter().zip(said).zip(shares).map(|((frame, &at), shares)| (frame, class(at), shares[at]));
        let text = if self.lines {
            let line =
                |(frame, class, p)| json!({ "frame": frame, "class": class, "probability": p }).to_string() + "\n";
            rows.map(line).collect()
        } else {
            let failed = |e: &dyn std::fmt::Display| Error::Other(format!("answers: {e}"));
            let mut cells = csv::Writer::from_writer(vec![]);
            for (frame, class, p) in rows {
                cells.write_record([frame, &class, &format!("{p:.6}")]).map_err(|e| failed(&e))?;
            }
            let bytes = cells.into_inner().map_err(|e| failed(&e))?;
            String::from_utf8(bytes).map_err(|e| failed(&e))?
        };
        self.put(&text)
    }

    fn put(&mut self, text: &str) -> Result<()> {
        match &mut self.to {
            To::File(file) => file.write(text),
            To::Stdout(out) => out.write_all(text.as_bytes()).map_err(|e| Error::io("standard output", e)),
        }
    }

    /// Hands over what was written: whoever waits for it gets it now.
    ///
    /// # Errors
    /// When nobody takes it.
    pub(super) fn flush(&mut self) -> Result<()> {
        match &mut self.to {
            To::File(_) => Ok(()),
            To::Stdout(out) => out.flush().map_err(|e| Error::io("standard output", e)),
        }
    }

    /// Waits until the disk holds the answers.
    ///
    /// # Errors
    /// When it refuses.
    pub(super) fn sync(&self) -> Result<()> {
        match &self.to {
            To::File(file) => file.sync(),
            To::Stdout(_) => Ok(()),
        }
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        match &self.to {
            To::File(file) => file.bytes,
            To::Stdout(_) => 0,
        }
    }
}
