//! Looks a patch folder over and says what is wrong with it, in words for its user.

use crate::saved::patch_folder;
use acclimate_core::{Error, Model, Params, Patch, PatchFolder, Result, Role, affine_at};
use acclimate_peft::{Finding, Level, build, examine};
use burn::tensor::Device;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A change above this share of the weight it is added to is hardly meant.
const LARGE_CHANGE: f64 = 2.0;

/// Looks over a run folder or a patch folder, one of acclimate or of the `peft` package, and tells everything that was found, the worst
/// first. Without a model only what the folder says of itself is checked.
///
/// # Errors
/// Only where the folder is none: whatever is wrong inside it is a finding.
///
/// # Example
/// ```
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("adapter_config.json"), "{").unwrap();
/// let findings = acclimate::doctor(folder.path(), None).unwrap();
/// assert_eq!(findings[0].code, "unreadable");
/// ```
pub fn doctor(folder: &Path, model: Option<&dyn Model>) -> Result<Vec<Finding>> {
    let folder = patch_folder(folder);
    if !folder.is_dir() {
        return Err(Error::Other(format!("{}: is no folder; name a run or patch folder", folder.display())));
    }
    let device = model.map_or_else(Device::flex, |model| model.like().1);
    let read = match PatchFolder::read(&folder, &device) {
        Ok(read) => read,
        Err(error) => return Ok(vec![unreadable(&folder, &error)]),
    };
    let mut findings = numbers(&read);
    findings.extend(beside(&folder, &read));
    if read.is_own() {
        findings.extend(own(read, model));
    } else if let Some(model) = model {
        let examined = examine(&read, model);
        findings.extend(examined.findings);
        if let Some(patch) = examined.patch {
            findings.extend(changes(&read.weights_file(), &patch, model)?);
        }
    }
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.code));
    Ok(findings)
}

/// A message of an error without the file at its front, where it names one.
fn unreadable(folder: &Path, error: &Error) -> Finding {
    let (file, text) = match error {
        Error::Format { file, what } => (file.clone(), what.clone()),
        Error::Io { file, source } => (file.clone(), source.to_string()),
        other => (folder.to_owned(), other.to_string()),
    };
    let (what, remedy) = match text.rsplit_once("; ") {
        Some((what, remedy)) => (what.to_owned(), remedy.to_owned()),
        None => (text, "save or fetch the folder again".to_owned()),
    };
    Finding::new(Level::Error, "unreadable", file, what, remedy)
}

/// Numbers that no training leaves: such as are not finite, and outputs that are zero everywhere.
fn numbers(read: &PatchFolder) -> Vec<Finding> {
    let mut findings = vec![];
    let (mut outputs, mut zeros) = (0, vec![]);
    let mut same: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, tensor) in read.tensors.iter() {
        let values = tensor.to_f32s();
        let broken = values.iter().filter(|x| !x.is_finite()).count();
        if broken > 0 {
            let what = format!("tensor `{name}` holds {broken} of {} numbers that are not finite", values.len());
            let remedy = "training diverged; go back to an earlier checkpoint, or train with a smaller rate";
            findings.push(Finding::new(Level::Error, "not_finite", read.weights_file(), what, remedy));
        }
        let zero = values.iter().all(|&x| x == 0.0);
        if ["lora_B", "lora_embedding_A", "vera_lambda_b"].iter().any(|mark| name.contains(mark)) {
            outputs += 1;
            if zero {
                zeros.push(name);
            }
        } else if zero && values.len() > 1 && name.contains("lora_A") {
            let what = format!("tensor `{name}` is zero everywhere: its module is not adapted");
            let remedy = "train again; that matrix gets no gradient from zero";
            findings.push(Finding::new(Level::Warning, "zero_factor", read.weights_file(), what, remedy));
        }
        // Vectors that are one number throughout are alike without being shared.
        if values.iter().any(|x| *x != values[0]) {
            same.entry(tensor.fingerprint()).or_default().push(name);
        }
    }
    if outputs > 0 && zeros.len() == outputs {
        let what = "every output factor is zero: the adapter changes nothing".to_owned();
        let remedy = "it was saved before its first step, or never trained; check that its tensors had gradients";
        findings.push(Finding::new(Level::Warning, "untrained", read.weights_file(), what, remedy));
    } else if let Some(first) = zeros.first() {
        let what = format!("{} of {outputs} output factors are zero, `{first}` the first of them", zeros.len());
        let remedy = "their modules were not trained: check that they are used in the forward pass";
        findings.push(Finding::new(Level::Warning, "partly_untrained", read.weights_file(), what, remedy));
    }
    for names in same.values().filter(|names| names.len() > 1) {
        let what =
            format!("{} tensors hold the same numbers, `{}` and `{}` among them", names.len(), names[0], names[1]);
        let remedy =
            "shared tensors are written once each by that package; nothing is wrong, the file is larger than need be";
        findings.push(Finding::new(Level::Note, "aliased", read.weights_file(), what, remedy));
    }
    findings
}

/// What stands around the tensors: names of the base, and files that are passed over.
fn beside(folder: &Path, read: &PatchFolder) -> Vec<Finding> {
    let mut findings = vec![];
    let named = read.config.get("base_model_name_or_path").and_then(serde_json::Value::as_str);
    if named.is_none_or(str::is_empty) {
        let (what, remedy) = ("`base_model_name_or_path` is not set", "write down which model it was trained on");
        findings.push(Finding::new(Level::Note, "no_base", read.config_file(), what, remedy));
    }
    if folder.join("adapter_model.bin").exists() {
        let what = "`adapter_model.bin` lies beside `adapter_model.safetensors`, and is passed over";
        let remedy = "remove the one that is out of date";
        findings.push(Finding::new(Level::Warning, "two_files", folder.join("adapter_model.bin"), what, remedy));
    }
    findings
}

/// A folder that acclimate has written.
fn own(read: PatchFolder, model: Option<&dyn Model>) -> Vec<Finding> {
    let (config, weights) = (read.config_file(), read.weights_file());
    let patch = match read.patch(&build) {
        Ok(patch) => patch,
        Err(error) => return vec![Finding { code: "changed", ..unreadable(&config, &error) }],
    };
    let Some(model) = model else { return vec![] };
    let mut findings = vec![];
    let sites: BTreeSet<&str> = model.sites().iter().map(|site| site.name.as_str()).collect();
    if let Some(site) = patch.parts().iter().flat_map(|part| &part.sites).find(|s| !sites.contains(&*s.name)) {
        let what = format!("a part stands at `{}`, which this model does not have", site.name);
        let remedy = "load the model that it was trained on";
        findings.push(Finding::new(Level::Error, "unknown_module", weights, what, remedy));
        return findings;
    }
    if let Err(error) = patch.check_base(model) {
        let changed = patch.changed_tensors(model);
        let which = match changed.first() {
            Some(name) => format!(" ({} of its tensors differ, `{name}` the first of them)", changed.len()),
            None => " (the tensors at its sites are the same, others differ)".to_owned(),
        };
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "load the model it was tuned on"));
        findings.push(Finding::new(Level::Error, "other_base", config, format!("{what}{which}"), remedy));
        return findings;
    }
    match changes(&weights, &patch, model) {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(unreadable(&weights, &error)),
    }
    findings
}

/// Changes that are large beside the weights they are added to.
fn changes(file: &Path, patch: &Patch, model: &dyn Model) -> Result<Vec<Finding>> {
    let mut worst: Option<(f64, &str)> = None;
    let replaces = |name: &str, params: &Params| {
        params.names().any(|param| param.starts_with(name) && patch.role(param) == Role::Weight)
    };
    for part in patch.parts() {
        for site in part.sites.iter().filter(|site| patch.touches(&site.name) && !replaces(&site.name, &patch.params)) {
            let base = affine_at(model, site)?;
            let before = base.dense();
            let change = (patch.adapted(&base, &site.name)?.dense() - before.clone()).square().sum();
            let [change, before] = acclimate_core::totals([vec![change], vec![before.square().sum()]]);
            let share = (change / before.max(f64::MIN_POSITIVE)).sqrt();
            if worst.is_none_or(|(worst, _)| share > worst) {
                worst = Some((share, &site.name));
            }
        }
    }
    Ok(worst
        .filter(|(share, _)| *share > LARGE_CHANGE)
        .map(|(share, site)| {
            let what = format!("the change at `{site}` is {share:.1} times as large as the weight itself");
            let remedy = "check the scale (`lora_alpha`, `use_rslora`) and the base model";
            Finding::new(Level::Warning, "large_change", file.to_owned(), what, remedy)
        })
        .into_iter()
        .collect())
}
