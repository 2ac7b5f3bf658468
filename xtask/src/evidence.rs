//! What supports each method, computed from what is committed.
use crate::golden::{self, Golden};
use crate::{claims, files, read};
use acclimate::catalogue::EvidenceTable;
use acclimate::{Evidence, Family};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The evidence of every method. Its page is written along with this table.
pub fn table(root: &Path, families: &[Family]) -> Result<EvidenceTable> {
    let (checks, claimed) = (checks(), claimed(root)?);
    let methods = families
        .iter()
        .flat_map(|family| family.cards.iter().map(move |view| format!("{}/{}", family.name, view.card.name)));
    let evidence = |method: String| {
        let evidence = Evidence {
            conformance: checks.get(&method).copied().unwrap_or(0),
            golden: golden::status(root, &method) == Golden::Fresh,
            claim: claimed.contains(&method),
            page: true,
        };
        (method, evidence)
    };
    Ok(methods.map(evidence).collect())
}

/// How many checks the suites hold each method to.
fn checks() -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for trial in acclimate_conform::methods() {
        let method = trial.name().split('[').next().unwrap_or_default().replace("::", "/");
        *counts.entry(method).or_insert(0) += 1;
    }
    counts
}

/// The methods of which a claim holds as it is written now.
fn claimed(root: &Path) -> Result<BTreeSet<String>> {
    let stale = claims::stale(root)?;
    let mut found = BTreeSet::new();
    for file in files(root, "claims")? {
        let name = file.strip_prefix("claims/").and_then(|rest| rest.strip_suffix(".result.json"));
        if name.is_none_or(|name| stale.iter().any(|other| other == name)) {
            continue;
        }
        let text = read(&root.join(&file))?;
        let result: Value = serde_json::from_str(&text).with_context(|| format!("{file} is not JSON"))?;
        if result["holds"] == true {
            found.extend(result["method"].as_str().map(str::to_owned));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sha256, write};

    #[test]
    fn evidence_is_what_lies_in_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let families = crate::pages::tests::families();
        let of_dog = || table(root, &families).unwrap()["optim/dog"];
        assert!(!of_dog().golden && !of_dog().claim && of_dog().page);
        let script = "reference/optim/dog.py";
        write(&root.join(script), "print(1)\n").unwrap();
        let golden = format!(r#"{{"header": {{"script": "{script}", "script_sha256": "{}"}}}}"#, sha256("print(1)\n"));
        write(&root.join("golden/optim/dog.json"), &golden).unwrap();
        assert!(of_dog().golden);
        write(&root.join("claims/good.toml"), "text").unwrap();
        let result = |holds: bool, text: &str| {
            let hash = sha256(text);
            let json =
                format!(r#"{{"method": "optim/dog", "holds": {holds}, "manifest": {{"claim_sha256": "{hash}"}}}}"#);
            write(&root.join("claims/good.result.json"), &json).unwrap();
            of_dog().claim
        };
        assert!(result(true, "text"));
        assert!(!result(false, "text") && !result(true, "another text"));
    }

    #[test]
    fn the_suites_hold_every_method_to_checks() {
        let counts = checks();
        for family in acclimate::catalogue() {
            for view in &family.cards {
                let method = format!("{}/{}", family.name, view.card.name);
                assert!(counts.get(&method).is_some_and(|n| *n > 3), "{method}");
            }
        }
    }
}
