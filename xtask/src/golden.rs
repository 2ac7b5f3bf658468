//! Golden numbers: which script each file came from, whether it is still that script, and how to renew it.
use crate::{files, read, sha256};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Whether a method's golden numbers can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Golden {
    /// The file names the hash of the script as it stands.
    Fresh,
    /// The script has changed since, or the file does not say.
    Stale,
    /// There is no file.
    Missing,
}

/// The folders below `reference/` whose scripts write goldens.
const FOLDERS: [&str; 7] = ["kernels", "models", "optim", "peft", "shift", "stats", "tta"];

/// The command that renews a method's golden numbers.
pub fn remedy(method: &str) -> String {
    format!("cargo xtask golden {method}")
}

/// The state of `golden/<method>.json` against the script that its header names; `method` is `family/name`.
pub fn status(root: &Path, method: &str) -> Golden {
    let Some(header) = header(root, method) else { return Golden::Missing };
    let script = header["script"].as_str().and_then(|script| read(&root.join(script)).ok());
    if script.is_some_and(|script| is_fresh(&header, &script)) { Golden::Fresh } else { Golden::Stale }
}

/// The script that a golden file names in its header.
pub fn script(root: &Path, method: &str) -> Option<String> {
    header(root, method)?["script"].as_str().map(str::to_owned)
}

/// The header of a golden file; null where the file has none.
fn header(root: &Path, method: &str) -> Option<Value> {
    let text = read(&root.join(format!("golden/{method}.json"))).ok()?;
    let file: Option<Value> = serde_json::from_str(&text).ok();
    Some(file.map_or(Value::Null, |file| file["header"].clone()))
}

fn is_fresh(header: &Value, script: &str) -> bool {
    header["script_sha256"] == sha256(script).as_str()
}

/// What has a golden file or a reference script, as `family/name`.
pub fn methods(root: &Path, top: &str, extension: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        for file in files(root, &format!("{top}/{folder}"))? {
            let name = file.strip_prefix(&format!("{top}/")).and_then(|rest| rest.strip_suffix(extension));
            found.extend(name.map(str::to_owned));
        }
    }
    Ok(found)
}

/// The interpreter that `ACCLIMATE_PYTHON` names.
pub fn python() -> Result<String> {
    std::env::var("ACCLIMATE_PYTHON")
        .context("`ACCLIMATE_PYTHON` names no interpreter; reference/README.md says how to set one up")
}

/// Runs reference scripts with the interpreter named by `ACCLIMATE_PYTHON`; all of them when no method is named.
pub fn run(root: &Path, named: &[String]) -> Result<()> {
    let python = python()?;
    let all = methods(root, "reference", ".py")?;
    let chosen = if named.is_empty() { &all } else { named };
    for method in chosen {
        if !all.contains(method) {
            let near = acclimate_core::nearest(method, all.iter().map(String::as_str)).join(", ");
            bail!("there is no reference/{method}.py; the nearest are {near}");
        }
        let ended = Command::new(&python)
            .arg(format!("reference/{method}.py"))
            .current_dir(root)
            .status()
            .with_context(|| format!("`{python}` does not start; reference/README.md says how to set one up"))?;
        ensure!(ended.success(), "reference/{method}.py failed: {ended}");
        let own = format!("reference/{method}.py");
        let written = methods(root, "golden", ".json")?;
        let mut written = written.iter().filter(|golden| script(root, golden).as_ref() == Some(&own)).peekable();
        ensure!(written.peek().is_some(), "{own} wrote no golden file whose `header.script` is itself");
        for golden in written {
            ensure!(status(root, golden) == Golden::Fresh, "golden/{golden}.json has another hash than {own}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write;

    #[test]
    fn a_changed_script_makes_the_file_stale() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(status(root, "optim/dog"), Golden::Missing);
        let script = "reference/optim/dog.py";
        let golden = format!(r#"{{"header": {{"script": "{script}", "script_sha256": "{}"}}}}"#, sha256("print(1)\n"));
        write(&root.join("golden/optim/dog.json"), &golden).unwrap();
        assert_eq!(status(root, "optim/dog"), Golden::Stale);
        write(&root.join(script), "print(1)\n").unwrap();
        assert_eq!(status(root, "optim/dog"), Golden::Fresh);
        write(&root.join(script), "print(2)\n").unwrap();
        assert_eq!(status(root, "optim/dog"), Golden::Stale);
        write(&root.join("golden/optim/dog.json"), "not json").unwrap();
        assert_eq!(status(root, "optim/dog"), Golden::Stale);
    }
}
