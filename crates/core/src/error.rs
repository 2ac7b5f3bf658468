//! One error type for the libraries: it names the file, field, row or site, and the way out.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What can go wrong. Messages are lower case, without a full stop, values in backticks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter of a method is outside its range.
    #[error("{method}: `{param}` {why}, got `{value}`")]
    Param {
        /// The method's registry name.
        method: &'static str,
        /// The field.
        param: &'static str,
        /// What was given.
        value: String,
        /// What is asked for, such as "must be positive".
        why: String,
    },
    /// A tensor has another shape than the operation needs.
    #[error("{what}: expected shape {expected}, got {got:?}")]
    Shape {
        /// The tensor or site.
        what: String,
        /// The shape asked for, in words or numbers.
        expected: String,
        /// The shape found.
        got: Vec<usize>,
    },
    /// A method or model cannot do what was asked.
    #[error("{who} cannot {what}; {instead}")]
    Unsupported {
        /// The method or model.
        who: String,
        /// What it cannot do.
        what: String,
        /// The way out.
        instead: String,
    },
    /// Numbers left the finite range or a factorisation failed.
    #[error("{who}: {what} at step {step}")]
    Numeric {
        /// The method or task.
        who: String,
        /// The step, counted from one.
        step: u64,
        /// What was found.
        what: String,
    },
    /// A name that nothing answers to.
    #[error("unknown {kind} `{name}`{}", near_text(near))]
    Unknown {
        /// What sort of name it is: "method", "column", "recipe key".
        kind: &'static str,
        /// The name given.
        name: String,
        /// The nearest valid names, best first.
        near: Vec<String>,
    },
    /// A file does not have the form it should have.
    #[error("{}: {what}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong and where.
        what: String,
    },
    /// A row of a table cannot be used.
    #[error("{}: row {row}, column `{column}`: {what}", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// The row, counted from one without the header.
        row: usize,
        /// The column.
        column: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// The operating system refused.
    #[error("{}: {source}{}", file.display(), way_out(source.kind()))]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Anything else that has a sentence of its own.
    #[error("{0}")]
    Other(String),
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Io`] for a file.
    pub fn io(file: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { file: file.as_ref().to_owned(), source }
    }

    /// An [`Error::Format`] for a file.
    pub fn format(file: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Format { file: file.as_ref().to_owned(), what: what.into() }
    }

    /// An [`Error::Unknown`] that names the three nearest of `valid`.
    pub fn unknown<'a>(kind: &'static str, name: &str, valid: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Unknown { kind, name: name.to_owned(), near: nearest(name, valid) }
    }
}

fn near_text(near: &[String]) -> String {
    match near {
        [] => String::new(),
        [one] => format!("; did you mean `{one}`?"),
        many => format!("; the nearest are {}", many.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// The three names of `valid` nearest to `name` by edit distance, best first.
pub fn nearest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(usize, &str)> = valid.into_iter().map(|v| (distance(name, v), v)).collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(3).map(|(_, v)| v.to_owned()).collect()
}

/// What to do about the system's reason, where that is not plain from it.
fn way_out(reason: ErrorKind) -> &'static str {
    match reason {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space, then run the same command",
        ErrorKind::FileTooLarge => "; raise the limit on file sizes (`ulimit -f`), then run the same command",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; change the permissions or name another folder"
        }
        ErrorKind::NotADirectory => "; a part of the path is a file: name another folder",
        _ => "",
    }
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_come_first() {
        assert_eq!(nearest("lroa", ["hra", "lora", "vera"])[0], "hra");
        assert_eq!(nearest("rnak", ["alpha", "rank", "targets"])[0], "rank");
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_disk_that_refuses_is_told_with_a_way_out() {
        let error = Error::io("a/b.json", std::io::Error::from(ErrorKind::StorageFull)).to_string();
        assert!(
            error.starts_with("a/b.json: ") && error.ends_with("; free some space, then run the same command"),
            "{error}"
        );
    }

    #[test]
    fn messages_name_the_remedy() {
        let error = Error::unknown("recipe key", "rnak", ["rank", "alpha"]);
        assert_eq!(error.to_string(), "unknown recipe key `rnak`; the nearest are `rank`, `alpha`");
    }
}
