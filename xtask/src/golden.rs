//! Golden numbers: which script each file came from, whether it is still that script, and how to renew it.
use crate::{files, read, sha256};
use anyhow::{Context, Result, bail, ensure};
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
const FOLDERS: [&str; 4] = ["models", "optim", "peft", "tta"];

/// The command that renews a method's golden numbers.
pub fn remedy(method: &str) -> String {
    format!("cargo xtask golden {method}")
}

/// The state of `golden/<family>/<name>.json` beside `reference/<family>/<name>.py`; `method` is `family/name`.
pub fn status(root: &Path, method: &str) -> Golden {
    let Ok(golden) = read(&root.join(format!("golden/{method}.json"))) else { return Golden::Missing };
    let script = read(&root.join(format!("reference/{method}.py"))).ok();
    if script.is_some_and(|script| is_fresh(&golden, &script)) { Golden::Fresh } else { Golden::Stale }
}

fn is_fresh(golden: &str, script: &str) -> bool {
    let header: Option<serde_json::Value> = serde_json::from_str(golden).ok();
    header.is_some_and(|file| file["header"]["script_sha256"] == sha256(script).as_str())
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

/// Runs reference scripts with the interpreter named by `ACCLIMATE_PYTHON`; all of them when no method is named.
pub fn run(root: &Path, named: &[String]) -> Result<()> {
    let python = std::env::var("ACCLIMATE_PYTHON")
        .context("`ACCLIMATE_PYTHON` names no interpreter; reference/README.md says how to set one up")?;
    let all = methods(root, "reference", ".py")?;
    let chosen = if named.is_empty() { &all } else { named };
    for method in chosen {
        if !all.contains(method) {
            let near = acclimate_core::nearest(method, all.iter().map(String::as_str)).join(", ");
            bail!("there is no reference/{method}.py; the nearest are {near}");
        }
        let status = Command::new(&python)
            .arg(format!("reference/{method}.py"))
            .current_dir(root)
            .status()
            .with_context(|| format!("`{python}` does not start; reference/README.md says how to set one up"))?;
        ensure!(status.success(), "reference/{method}.py failed: {status}");
        ensure!(
            self::status(root, method) == Golden::Fresh,
            "reference/{method}.py did not write golden/{method}.json with `header.script_sha256` of itself"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_script_makes_the_file_stale() {
        let golden = format!(r#"{{"header": {{"script_sha256": "{}"}}}}"#, sha256("print(1)\n"));
        assert!(is_fresh(&golden, "print(1)\n"));
        assert!(!is_fresh(&golden, "print(2)\n"));
        assert!(!is_fresh("{}", "print(1)\n"));
        assert!(!is_fresh("not json", "print(1)\n"));
    }
}
