use acclimate_core::Error;
use serde::Serialize;
use std::path::PathBuf;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Note,
    /// It loads, and may not do what was meant.
    Warning,
    /// It cannot be loaded, or would silently do something else.
    Error,
}

/// Something about a folder that its user should know.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// A short name of the kind of finding, such as `missing_tensor`.
    pub code: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What was found, with the key, tensor or module.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// A finding about a file.
    pub fn new(
        level: Level,
        code: &'static str,
        file: PathBuf,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level, code, file, what: what.into(), remedy: remedy.into() }
    }
}

impl From<Finding> for Error {
    fn from(finding: Finding) -> Self {
        Self::format(finding.file, format!("{}; {}", finding.what, finding.remedy))
    }
}
