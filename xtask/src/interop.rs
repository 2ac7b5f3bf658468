//! `cargo xtask interop peft`: folders that the `peft` package writes, read here, and folders written here, read by the package.
//!
//! The work folder holds `models/`, `from_peft/` (see `reference/interop/cases.py` for its cases), `from_acclimate/` (see
//! `xtask/interop.toml`), `kept/` (what the package has no form for) and `report.json`, which has the texts of refusals.
use crate::{golden, read, write};
use acclimate::core::{AnyTensor, Error, Inputs, Model, Params, Pass, Patch, Rng, Targets, Tokens, find};
use acclimate::merge::{Merge, Precision};
use acclimate::models::Base;
use acclimate::optim::{Host, HostSettings, METHODS};
use acclimate_data::Assets;
use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Python program, relative to the root.
const SCRIPT: &str = "reference/interop/peft_side.py";
/// What acclimate writes, by model and case.
const OWN: &str = include_str!("../interop.toml");
/// Largest difference over the largest value. Two single-precision programs, up to 30 layers and other orders of summation between them.
const BOUND: f64 = 1e-4;
/// The least change of the outputs that makes a comparison worth something.
const LEAST_CHANGE: f64 = 0.01;
/// Steps of training, and a rate at which they change outputs clearly: tensors move by up to their product.
const STEPS: u64 = 4;
const RATE: f64 = 0.02;
/// The published models: absent ones are left out.
const PUBLISHED: [&str; 2] = ["minilm", "smollm2"];

/// `case.json` of a folder that the package wrote.
#[derive(Debug, Deserialize)]
struct Theirs {
    model: String,
    case: String,
    expect: Expect,
    #[serde(default)]
    word: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expect {
    Works,
    Refused,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnCases {
    case: Vec<Own>,
}

/// A patch that acclimate trains and writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    model: String,
    name: String,
    /// Whether it is kept in our own form.
    #[serde(default)]
    kept: bool,
    parts: Vec<OwnPart>,
}

#[derive(Clone, Debug, Deserialize)]
struct OwnPart {
    method: String,
    targets: Targets,
    #[serde(flatten)]
    settings: toml::Table,
}

/// What the package found in one of our folders.
#[derive(Debug, Deserialize)]
struct Checked {
    model: String,
    case: String,
    #[serde(default)]
    change: f64,
    difference: Option<f64>,
    merged: Option<f64>,
    #[serde(default)]
    warnings: Vec<String>,
    error: Option<String>,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    from: &'static str,
    model: String,
    case: String,
    /// Largest difference over the largest value, with the adapter beside the model.
    difference: Option<f64>,
    /// The same with the adapter merged into the weights, by the side that reads.
    merged: Option<f64>,
    /// The same with the checkpoint that `acclimate merge` writes; not of GGUF files, whose checkpoints are large.
    written: Option<f64>,
    holds: bool,
    /// What was found, in words.
    found: String,
}

/// What running a case found; an error of the case itself is a row of the table too.
#[derive(Default)]
struct Found {
    difference: Option<f64>,
    merged: Option<f64>,
    written: Option<f64>,
    found: String,
}

/// Runs all cases, or those named `MODEL-CASE`, and says the table line by line.
///
/// # Errors
/// When Python is missing or fails, or a case does not hold.
pub fn peft(root: &Path, work: &Path, names: &[String], mut say: impl FnMut(&str)) -> Result<()> {
    let own: OwnCases = toml::from_str(OWN).context("xtask/interop.toml is malformed")?;
    let wanted = |model: &str, case: &str| names.is_empty() || names.contains(&format!("{model}-{case}"));
    let mut models = Bases::new(work)?;
    let mut make = vec!["make".as_ref(), work.as_os_str()];
    make.extend(names.iter().map(std::ffi::OsStr::new));
    python(root, &make)?;
    let mut rows = vec![];
    for folder in folders(&work.join("from_peft"))? {
        let case: Theirs = serde_json::from_str(&read(&folder.join("case.json"))?)?;
        let found = read_theirs(&mut models, &case, &folder);
        rows.push(row("peft", &case.model, &case.case, found));
    }
    for folder in ["from_acclimate", "kept"].map(|name| work.join(name)) {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be emptied", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let cases: Vec<&Own> =
        own.case.iter().filter(|own| wanted(&own.model, &own.name) && models.has(&own.model)).collect();
    ensure!(!rows.is_empty() || !cases.is_empty(), "no case is named {}", names.join(" or "));
    let mut checkpoints = BTreeMap::new();
    for own in &cases {
        let parent = work.join(if own.kept { "kept" } else { "from_acclimate" });
        let found = match write_ours(&mut models, own, &parent.join(format!("{}-{}", own.model, own.name))) {
            Ok(written) if own.kept => {
                Ok(Found { written, found: "kept in our own form".to_owned(), ..Found::default() })
            }
            Ok(written) => {
                checkpoints.insert((own.model.clone(), own.name.clone()), written);
                continue;
            }
            Err(error) => Err(error),
        };
        rows.push(row("acclimate", &own.model, &own.name, found));
    }
    let answers = python(root, &["check".as_ref(), work.as_os_str()])?;
    for line in answers.lines() {
        let checked: Checked = serde_json::from_str(line).with_context(|| format!("{SCRIPT} said {line}"))?;
        let (model, case) = (checked.model.clone(), checked.case.clone());
        let written = checkpoints.get(&(model.clone(), case.clone())).copied().flatten();
        rows.push(row("acclimate", &model, &case, judge(checked).map(|found| Found { written, ..found })));
    }
    write(&work.join("report.json"), &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    table(&rows, &mut say);
    let wrong = rows.iter().filter(|row| !row.holds).count();
    let report = work.join("report.json");
    ensure!(wrong == 0, "{wrong} of {} cases do not hold; {} tells all", rows.len(), report.display());
    Ok(())
}

fn row(from: &'static str, model: &str, case: &str, found: Result<Found>) -> Row {
    let holds = found.is_ok();
    let Found { difference, merged, written, found } =
        found.unwrap_or_else(|error| Found { found: format!("{error:#}"), ..Found::default() });
    Row { from, model: model.to_owned(), case: case.to_owned(), difference, merged, written, holds, found }
}

fn table(rows: &[Row], say: &mut impl FnMut(&str)) {
    let figure = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.1e}"));
    let line = |[from, model, case, difference, merged, written, verdict]: [&str; 7]| {
        format!("{from:<10} {model:<11} {case:<24} {difference:>10} {merged:>8} {written:>8}  {verdict}")
    };
    say(&line(["written by", "model", "case", "difference", "merged", "on disk", "verdict"]));
    for row in rows {
        let verdict = match (row.holds, row.difference) {
            (false, _) => format!("DOES NOT HOLD: {}", row.found),
            (true, Some(_)) => "agrees".to_owned(),
            (true, None) => row.found.split(':').next().unwrap_or_default().to_owned(),
        };
        let [difference, merged, written] = [row.difference, row.merged, row.written].map(figure);
        say(&line([row.from, &row.model, &row.case, &difference, &merged, &written, &verdict]));
    }
    let agree = rows.iter().filter(|row| row.holds && row.difference.is_some());
    let figures = agree.clone().flat_map(|row| [row.difference, row.merged, row.written]);
    let worst = figures.flatten().fold(0.0, f64::max);
    say(&format!(
        "{} cases: {} agree (largest difference {worst:.1e}), {} are refused or kept as they should be, {} do not hold",
        rows.len(),
        agree.count(),
        rows.iter().filter(|row| row.holds && row.difference.is_none()).count(),
        rows.iter().filter(|row| !row.holds).count(),
    ));
}

/// Base models by name, each read once.
struct Bases {
    places: BTreeMap<String, PathBuf>,
    work: PathBuf,
    read: BTreeMap<String, Box<dyn Model>>,
}

impl Bases {
    fn new(work: &Path) -> Result<Self> {
        let assets = Assets::open(true)?;
        let place = |name: &str| Some((name.to_owned(), assets.folder(name).ok()?));
        let places = PUBLISHED.into_iter().filter_map(place).collect();
        Ok(Self { places, work: work.to_owned(), read: BTreeMap::new() })
    }

    fn has(&self, name: &str) -> bool {
        !PUBLISHED.contains(&name) || self.places.contains_key(name)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.places.get(name).cloned().unwrap_or_else(|| self.work.join("models").join(name))
    }

    /// A model, its numbers unpacked: the package sees it so.
    fn get(&mut self, name: &str) -> Result<&dyn Model> {
        if !self.read.contains_key(name) {
            let model = acclimate::models::load(&self.place(name), Base::Dense, &Device::flex())?;
            self.read.insert(name.to_owned(), model);
        }
        Ok(self.read[name].as_ref())
    }
}

/// A folder of the package: it must work here, or be refused in a way that helps.
fn read_theirs(models: &mut Bases, case: &Theirs, folder: &Path) -> Result<Found> {
    let place = models.place(&case.model);
    let model = models.get(&case.model)?;
    let loaded = acclimate::peft::load(folder, model);
    if matches!(case.expect, Expect::Refused) {
        let Err(error) = loaded else { bail!("it was read, and must be refused for `{}`", case.word) };
        let text = error.to_string();
        ensure!(text.contains(&case.word), "refused without naming `{}`: {text}", case.word);
        ensure!(offers_a_way_out(&error), "refused without a way out: {text}");
        return Ok(Found { found: format!("refused: {text}"), ..Found::default() });
    }
    let patch = loaded?;
    let io = tensors(&folder.join("io.safetensors"))?;
    let inputs = inputs(&io)?;
    let base = difference(&answer(model, &inputs, &Pass::bare())?, &flat(&io, "base")?);
    ensure!(base <= BOUND, "the models differ already without an adapter, by {base:.1e}");
    let theirs = flat(&io, "adapted")?;
    let found = difference(&answer(model, &inputs, &Pass::new(&patch))?, &theirs);
    ensure!(found <= BOUND, "outputs differ by {found:.1e}");
    let merged = model.with_weights(patch.merge(model)?)?;
    let merged = difference(&answer(merged.as_ref(), &inputs, &Pass::bare())?, &theirs);
    ensure!(merged <= BOUND, "outputs of the merged model differ by {merged:.1e}");
    let written = on_disk(folder, &place, &inputs, &theirs)?;
    Ok(Found { difference: Some(found), merged: Some(merged), written, found: "agrees".to_owned() })
}

/// How far outputs of the checkpoint that `acclimate merge` writes are from those with the adapter; nothing where the model is a GGUF file.
fn on_disk(folder: &Path, place: &Path, inputs: &Inputs, adapted: &Tensor<2>) -> Result<Option<f64>> {
    if !place.join("config.json").is_file() {
        return Ok(None);
    }
    let out = tempfile::tempdir()?;
    let out = out.path().join("merged");
    let name = place.to_str().context("the work folder's name is no text")?;
    let merge = Merge::open(folder, Some(name), Precision::Keep, true)?;
    merge.write(&out, &merge.drift()?)?;
    let model = acclimate::models::load(&out, Base::Dense, &Device::flex())?;
    let found = difference(&answer(model.as_ref(), inputs, &Pass::bare())?, adapted);
    ensure!(found <= BOUND, "outputs of the merged checkpoint differ by {found:.1e}");
    Ok(Some(found))
}

/// Errors tell a way out after a semicolon; what is missing or misshapen is told by the names and shapes themselves.
fn offers_a_way_out(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Shape { .. }) || error.to_string().contains("; ")
}

/// Trains and writes a patch, reads it back and merges it; how far outputs of the merged checkpoint are.
fn write_ours(models: &mut Bases, own: &Own, folder: &Path) -> Result<Option<f64>> {
    let place = models.place(&own.model);
    let model = models.get(&own.model)?;
    let mut patch = Patch::new();
    let mut rng = Rng::new(7, "interop", 0);
    for part in &own.parts {
        let method = acclimate::peft::build(&part.method, &part.settings)?;
        acclimate::peft::place(&mut patch, model, &part.method, method, Some(&part.targets), &mut rng)?;
    }
    let given = batch(model);
    let inputs = inputs(&given)?;
    let patch = trained(model, patch, &inputs)?;
    let adapted = answer(model, &inputs, &Pass::new(&patch))?;
    patch.save(folder)?;
    let config: serde_json::Value = serde_json::from_str(&read(&folder.join("adapter_config.json"))?)?;
    let kind = config["peft_type"].as_str().unwrap_or_default();
    ensure!((kind == "ACCLIMATE") == own.kept, "the folder says `peft_type` = `{kind}`");
    let again = acclimate::peft::load(folder, model)?;
    ensure!(again.params.fingerprint() == patch.params.fingerprint(), "tensors read back differ from those written");
    ensure!(again.buffers.fingerprint() == patch.buffers.fingerprint(), "buffers read back differ from those written");
    let same = answer(model, &inputs, &Pass::new(&again))?.into_data() == adapted.clone().into_data();
    ensure!(same, "outputs after reading back are not the same bit for bit");
    if !own.kept {
        let plain = without_entry(folder, model)?;
        let read = difference(&answer(model, &inputs, &Pass::new(&plain))?, &adapted);
        ensure!(read <= BOUND, "read as a folder of the package, outputs differ by {read:.1e}");
    }
    let mergeable = patch.merge(model).is_ok();
    let written = if mergeable { on_disk(folder, &place, &inputs, &adapted)? } else { None };
    // The package looks at folders with inputs and outputs: at those that hold here.
    let mut io = given;
    io.insert("adapted", adapted);
    acclimate::core::write_safetensors(&folder.join("io.safetensors"), &io, BTreeMap::new())?;
    Ok(written)
}

/// A folder of ours read as if the package had written it: without the entry that tells what the patch is made of.
fn without_entry(folder: &Path, model: &dyn Model) -> Result<Patch> {
    let plain = tempfile::tempdir()?;
    std::fs::copy(folder.join("adapter_config.json"), plain.path().join("adapter_config.json"))?;
    let name = "adapter_model.safetensors";
    acclimate::core::write_safetensors(&plain.path().join(name), &tensors(&folder.join(name))?, BTreeMap::new())?;
    Ok(acclimate::peft::load(plain.path(), model)?)
}

/// A few steps down a random linear function of the outputs; every tensor must have moved.
fn trained(model: &dyn Model, mut patch: Patch, inputs: &Inputs) -> Result<Patch> {
    let start = patch.params.clone();
    let optimiser = find(METHODS, "adamw")?.build(&toml::Table::from_iter([("lr".to_owned(), RATE.into())]))?;
    let mut host = Host::new(optimiser.as_ref(), HostSettings::default(), &patch)?;
    let outputs = answer(model, inputs, &Pass::bare())?;
    let weights = Rng::new(8, "interop", 0).normal_tensor(&outputs.dims(), 1.0, DType::F32, &Device::flex());
    let weights: Tensor<2> = weights.get().expect("made with two axes");
    for _ in 0..STEPS {
        let tracked = patch.tracked();
        let loss = (answer(model, inputs, &Pass::new(&tracked))? * weights.clone()).mean();
        let gradients = tracked.params.gradients(&mut loss.backward());
        let value = f64::from(loss.into_scalar::<f32>());
        let params = host.step(optimiser.as_ref(), &patch.params, &gradients, 1.0, value)?;
        patch = patch.with_params(params);
    }
    for (name, tensor) in patch.params.iter() {
        let before = start.any(name).with_context(|| format!("`{name}` was not there before training"))?;
        ensure!(before.to_f32s() != tensor.to_f32s(), "`{name}` has not moved in training");
    }
    Ok(patch)
}

/// What the package says of one of our folders.
fn judge(checked: Checked) -> Result<Found> {
    if let Some(error) = checked.error {
        bail!("the package fails: {error}");
    }
    let missing = || anyhow!("{SCRIPT} gave no figure");
    let (difference, merged) = (checked.difference.ok_or_else(missing)?, checked.merged.ok_or_else(missing)?);
    let warnings = checked.warnings.join("; ");
    ensure!(warnings.is_empty(), "the package warns: {warnings}; outputs differ by {difference:.1e}");
    ensure!(checked.change >= LEAST_CHANGE, "the patch changes outputs by {:.1e} only", checked.change);
    ensure!(difference <= BOUND, "outputs differ by {difference:.1e}");
    ensure!(merged <= BOUND, "outputs of the merged model differ by {merged:.1e}");
    Ok(Found { difference: Some(difference), merged: Some(merged), written: None, found: "agrees".to_owned() })
}

/// States, scores of the vocabulary or logits: one row for each position or image, zero at padding.
fn answer(model: &dyn Model, inputs: &Inputs, pass: &Pass<'_>) -> Result<Tensor<2>> {
    let outputs = model.forward(inputs, pass)?;
    let Some(seq) = outputs.states else { return outputs.logits.context("the model gives neither states nor logits") };
    let [batch, length, width] = seq.h.dims();
    let rows = seq.h.reshape([batch * length, width]);
    let rows = if model.vocabulary().is_some() { pass.scores(model, rows)? } else { rows };
    Ok(rows * seq.mask.reshape([batch * length, 1]))
}

/// Images, or rows of token numbers of which two are padded, drawn by seed.
fn batch(model: &dyn Model) -> Params {
    let (device, mut rng) = (Device::flex(), Rng::new(9, "interop", 0));
    let mut params = Params::default();
    if let Some([channels, height, width]) = model.image() {
        params.insert("images", rng.normal_tensor(&[4, channels, height, width], 1.0, DType::F32, &device));
        return params;
    }
    let words = model.sites().first().map_or(1, |site| site.out);
    let lengths = [11, 4, 7];
    let (mut ids, mut mask) = (vec![], vec![]);
    for (length, at) in lengths.iter().flat_map(|&length| (0..lengths[0]).map(move |at| (length, at))) {
        let real = at < length;
        ids.push(if real { (1 + rng.below(words - 1)) as f32 } else { 0.0 });
        mask.push(if real { 1.0 } else { 0.0 });
    }
    let shape = [lengths.len(), lengths[0]];
    params.insert("ids", AnyTensor::from_f32s(ids, &shape, &device));
    params.insert("mask", AnyTensor::from_f32s(mask, &shape, &device));
    params
}

/// The inputs among the tensors of an `io.safetensors`.
fn inputs(io: &Params) -> Result<Inputs> {
    if io.has("images") {
        return Ok(Inputs::Images(io.get("images")?));
    }
    let (ids, mask) = (io.get::<2>("ids")?, io.get::<2>("mask")?);
    let length = ids.dims()[1];
    let [ids, mask] = [ids, mask].map(|tensor| AnyTensor::from(tensor).to_f32s());
    let row = |(ids, mask): (&[f32], &[f32])| {
        let real = ids.iter().zip(mask).filter(|(_, mask)| **mask > 0.0).map(|(id, _)| *id as u32);
        (real.collect(), vec![])
    };
    let rows: Vec<_> = ids.chunks(length).zip(mask.chunks(length)).map(row).collect();
    Ok(Inputs::Tokens(Tokens::new(&rows, DType::F32, &Device::flex())))
}

fn tensors(file: &Path) -> Result<Params> {
    Ok(acclimate::core::read_safetensors(file, &Device::flex())?.0)
}

/// A tensor of a file as rows of the last axis.
fn flat(io: &Params, name: &str) -> Result<Tensor<2>> {
    let tensor = io.any(name).with_context(|| format!("`{name}` is missing among inputs and outputs"))?;
    let width = tensor.shape().last().copied().unwrap_or(1);
    Ok(tensor.elements().reshape([tensor.count() / width.max(1), width]))
}

/// The largest difference over the largest value of `theirs`; infinite where a number is none or shapes differ.
fn difference(ours: &Tensor<2>, theirs: &Tensor<2>) -> f64 {
    if ours.dims() != theirs.dims() {
        return f64::INFINITY;
    }
    let [ours, theirs] = [ours, theirs].map(|tensor| AnyTensor::from(tensor.clone()).to_f64s());
    // A maximum would pass over what is not a number.
    let widest = |values: &mut dyn Iterator<Item = f64>| {
        values.map(|x| if x.is_nan() { f64::INFINITY } else { x.abs() }).fold(0.0, f64::max)
    };
    let apart = widest(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
    if apart == 0.0 { 0.0 } else { apart / widest(&mut theirs.iter().copied()) }
}

/// The folders in a folder, by name.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_dir()).collect();
    found.sort();
    Ok(found)
}

/// The Python program with some arguments, before it starts. Its sets are walked in one order.
fn program(root: &Path, args: &[&std::ffi::OsStr]) -> Result<Command> {
    let mut command = Command::new(golden::python()?);
    command.arg(SCRIPT).args(args).current_dir(root).env("PYTHONHASHSEED", "0").stdout(Stdio::piped());
    Ok(command)
}

/// Runs the Python program; what it prints.
fn python(root: &Path, args: &[&std::ffi::OsStr]) -> Result<String> {
    let output = program(root, args)?.stderr(Stdio::inherit()).output();
    let output = output.context("the interpreter does not start; reference/README.md says how to set one up")?;
    ensure!(output.status.success(), "{SCRIPT} failed: {}", output.status);
    String::from_utf8(output.stdout).context("Python printed bytes that are no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(values: &[f64]) -> Tensor<2> {
        let tensor = AnyTensor::from_f64s(values.to_vec(), &[1, values.len()], DType::F32, &Device::flex());
        tensor.get().unwrap()
    }

    fn checked(text: &str) -> Result<Found> {
        judge(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn every_case_of_ours_names_methods_that_build() {
        let own: OwnCases = toml::from_str(OWN).unwrap();
        for part in own.case.iter().flat_map(|own| &own.parts) {
            acclimate::peft::build(&part.method, &part.settings).unwrap();
        }
        let names: std::collections::BTreeSet<_> = own.case.iter().map(|own| (&own.model, &own.name)).collect();
        assert_eq!(names.len(), own.case.len());
    }

    #[test]
    fn a_difference_is_measured_by_the_largest_value_and_sees_what_is_no_number() {
        assert_eq!(difference(&matrix(&[1.0, -3.0]), &matrix(&[1.0, -4.0])), 0.25);
        assert_eq!(difference(&matrix(&[0.0, 0.0]), &matrix(&[0.0, 0.0])), 0.0);
        assert_eq!(difference(&matrix(&[1.0, f64::NAN]), &matrix(&[1.0, 1.0])), f64::INFINITY);
        assert_eq!(difference(&matrix(&[1.0]), &matrix(&[1.0, 1.0])), f64::INFINITY);
    }

    #[test]
    fn a_folder_of_ours_fails_by_a_warning_a_difference_or_too_small_a_change() {
        let text = |change, difference, merged, warnings: &str| {
            format!(
                r#"{{"model": "bert", "case": "lora", "change": {change}, "difference": {difference}, "merged": {merged},
                "warnings": [{warnings}]}}"#
            )
        };
        assert!(checked(&text(0.1, 1e-6, 1e-6, "")).is_ok());
        for wrong in [
            text(0.1, 1e-3, 1e-6, ""),
            text(0.1, 1e-6, 1e-3, ""),
            text(1e-3, 1e-6, 1e-6, ""),
            text(0.1, 1e-6, 1e-6, r#""missing keys""#),
            r#"{"model": "bert", "case": "lora", "error": "KeyError"}"#.to_owned(),
        ] {
            assert!(checked(&wrong).is_err(), "{wrong}");
        }
    }
}
