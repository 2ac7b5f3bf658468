//! Chores of the project as pure functions over paths and texts; `main.rs` is the thin shell around them.
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

pub mod bench;
pub mod claims;
pub mod crash;
pub mod evidence;
pub mod golden;
pub mod interop;
pub mod pages;
pub mod registry;
pub mod sanitize;
pub mod scaffold;
pub mod schema;
pub mod tidy;

/// The families that have a crate of methods, which is also the folder name below `crates/`, `golden/` and `reference/`.
pub const FAMILIES: [&str; 5] = ["optim", "peft", "shift", "stats", "tta"];

/// Folders that hold no sources.
const SKIPPED: [&str; 6] = ["target", ".git", "runs", ".venv", "__pycache__", "book/book"];

/// The workspace's root: the first folder at or above the current one that holds `xtask/Cargo.toml`.
pub fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    here.ancestors()
        .find(|folder| folder.join("xtask/Cargo.toml").is_file())
        .map(Path::to_owned)
        .context("not inside the workspace: no folder above this one holds `xtask/Cargo.toml`")
}

/// Reads a text file; the error names it.
pub fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Writes a text file and the folders above it, by way of a temporary name.
pub fn write(file: &Path, text: &str) -> Result<()> {
    let part = file.with_added_extension("tmp");
    let folder = file.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&part, text))
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("{} cannot be written", file.display()))
}

/// The SHA-256 of some bytes in hexadecimal digits.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below `folder`, as sorted paths relative to `root`, with forward slashes; none where the folder does not exist.
pub fn files(root: &Path, folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![root.join(folder)];
    while let Some(folder) = open.pop() {
        if !folder.is_dir() {
            continue;
        }
        let entries = fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("{} cannot be read", folder.display()))?.path();
            if path.is_dir() {
                if !SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
                    open.push(path);
                }
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_standard_one() {
        assert_eq!(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn files_are_relative_and_sorted() {
        let root = root().unwrap();
        let found = files(&root, "xtask").unwrap();
        assert!(found.is_sorted());
        assert!(found.contains(&"xtask/src/lib.rs".to_owned()));
        assert!(files(&root, "no-such-folder").unwrap().is_empty());
    }
}
