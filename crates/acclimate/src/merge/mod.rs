//! Merging: a plain checkpoint out of a model and a patch, a tensor at a time, and what that does to the weights.

mod drift;
mod folder;
mod origin;
mod outputs;

pub use drift::{Change, Drift, TensorDrift, Untouched};
pub use folder::check_out;
pub use outputs::OutputDrift;

use crate::saved::{SAVED, Saved, model_for, patch_folder};
use acclimate_core::{
    AnyTensor, Checkpoint, Error, Gguf, Patch, Result, Site, Stored, StoredTensor, TensorWriter, affine_of, decode,
    encode, write_whole,
};
use acclimate_data::{Assets, Source};
use acclimate_models::{Base, checkpoint, gguf_file, load, load_gguf, outline};
use burn::tensor::Device;
use drift::{Sums, share};
use folder::{Beside, Partial, beside_gguf, beside_weights};
use origin::{Numbers, Origin, too_large};
use outputs::{apart, outputs};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Numbers that are compared or rounded at a time.
const AT_ONCE: usize = 1 << 16;

/// How the numbers of a merged checkpoint are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Each tensor as the model has it; packed ones in single precision.
    #[default]
    Keep,
    /// Single precision.
    F32,
    /// Half precision with the exponents of single precision.
    Bf16,
    /// Half precision.
    F16,
}

impl Precision {
    /// Every word for one.
    pub const WORDS: [(&'static str, Self); 4] =
        [("keep", Self::Keep), ("f32", Self::F32), ("bf16", Self::Bf16), ("f16", Self::F16)];

    /// What a word stands for.
    ///
    /// # Errors
    /// An unknown word, with the nearest ones.
    pub fn parse(word: &str) -> Result<Self> {
        let found = Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, precision)| *precision);
        found.ok_or_else(|| Error::unknown("number type", word, Self::WORDS.iter().map(|(known, _)| *known)))
    }

    /// How a tensor is written; what is no float stays as it is.
    fn of(self, tensor: &StoredTensor) -> Stored {
        match self {
            _ if !tensor.is_float() => tensor.stored,
            Self::Keep => tensor.stored,
            Self::F32 => Stored::F32,
            Self::Bf16 => Stored::BF16,
            Self::F16 => Stored::F16,
        }
    }

    /// What `config.json` calls it.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Keep => None,
            Self::F32 => Some("float32"),
            Self::Bf16 => Some("bfloat16"),
            Self::F16 => Some("float16"),
        }
    }
}

/// A model, a patch and a number type, ready to become a checkpoint.
///
/// At no time are more than the patch, one adapted tensor and what its method makes of it in memory; a model in a GGUF file is there
/// as the file has it.
pub struct Merge {
    patch: Patch,
    origin: Origin,
    /// Files that go beside the weights.
    beside: Vec<(PathBuf, Beside)>,
    precision: Precision,
    sites: Vec<Site>,
    fingerprint: String,
    place: PathBuf,
    how: Base,
    notes: Vec<String>,
}

impl Merge {
    /// Opens a run folder or a patch folder, also one of the `peft` package, and the model it was tuned on. `model` replaces the name the
    /// patch was saved with.
    ///
    /// # Errors
    /// A folder without a patch, a model that is gone, and those of [`Merge::new`].
    pub fn open(run: &Path, model: Option<&str>, precision: Precision, offline: bool) -> Result<Self> {
        let folder = patch_folder(run);
        let file = folder.join(SAVED);
        if !file.exists() {
            return Self::without_task(&folder, model, precision, offline);
        }
        let saved = Saved::read(&file)?;
        let patch = Patch::load(&folder, &Device::flex(), &acclimate_peft::build)?;
        let place = Source::parse(model.unwrap_or(&saved.model))?.resolve(&Assets::open(offline)?)?;
        let mut merge = Self::new(patch, &place, saved.base, precision)?;
        saved.check_fingerprint(&file, &merge.fingerprint)?;
        if merge.patch.has_head() {
            merge.notes.push(format!(
                "the head that was tuned is no part of the model; it stays in `{}`",
                folder.join("adapter_model.safetensors").display()
            ));
        }
        Ok(merge)
    }

    /// A folder that holds a patch alone. Names in one of the `peft` package are understood beside those of the model.
    fn without_task(folder: &Path, model: Option<&str>, precision: Precision, offline: bool) -> Result<Self> {
        let config = folder.join("adapter_config.json");
        if !config.exists() {
            return Err(Error::Other(format!("{}: holds no patch; name a run or patch folder", folder.display())));
        }
        let name = model_for(folder, model)?;
        let place = Source::parse(&name)?.resolve(&Assets::open(offline)?)?;
        let whole = || acclimate_peft::load(folder, load(&place, Base::Packed, &Device::flex())?.as_ref());
        let patch = match gguf_file(&place)? {
            Some(_) => whole()?,
            // An outline equals none of the model's tensors that the folder repeats: then the model itself is asked.
            None => acclimate_peft::load(folder, outline(&place)?.as_ref()).or_else(|_| whole())?,
        };
        Self::new(patch, &place, Base::Packed, precision)
    }

    /// A patch and the model of a folder or GGUF file that it was made for. `how` says how the patch knows what such a file has packed.
    ///
    /// # Errors
    /// A patch that changes no weight, or has parts that no weight can stand for; a model that cannot be read, or another one than the patch
    /// was made for.
    pub fn new(patch: Patch, place: &Path, how: Base, precision: Precision) -> Result<Self> {
        patch.check_mergeable()?;
        let sites: Vec<Site> = patch.weight_sites().cloned().collect();
        if sites.is_empty() {
            let what = "be merged: it changes no weight";
            let instead = "use the model as it is, with the patch beside it for its head";
            return Err(Error::Unsupported { who: "this patch".into(), what: what.into(), instead: instead.into() });
        }
        let (origin, beside) = match gguf_file(place)? {
            Some(file) => {
                let gguf = Gguf::read(&file)?;
                (Origin::of(load_gguf(&gguf, how, &Device::flex())?), beside_gguf(&gguf)?)
            }
            None => (Origin::Files(checkpoint(place)?), beside_weights(place)?),
        };
        let fingerprint = origin.fingerprint()?;
        patch.check_fingerprint(&fingerprint)?;
        let place = place.to_owned();
        Ok(Self { patch, origin, beside, precision, sites, fingerprint, place, how, notes: vec![] })
    }

    /// What the weight and bias of a site become.
    fn merged(&self, site: &Site) -> Result<(AnyTensor, Option<AnyTensor>)> {
        let read = |part: &str| self.origin.read(self.origin.tensor(&format!("{}.{part}", site.name))?);
        let (weight, bias) = (read("weight")?, site.bias.then(|| read("bias")).transpose()?);
        self.patch.merged(&affine_of(site, &weight, bias.as_ref())?, site)
    }

    /// What writing the merged checkpoint would do to every tensor. Nothing is written.
    ///
    /// # Errors
    /// A file that cannot be read, a tensor that is missing, a number that is not finite or becomes too large for its type, and the
    /// methods' own.
    pub fn drift(&self) -> Result<Drift> {
        let (mut tensors, mut total) = (vec![], Sums::default());
        for site in &self.sites {
            let (weight, bias) = self.merged(site)?;
            for (part, merged) in [("weight", Some(weight)), ("bias", bias)] {
                let Some(merged) = merged else { continue };
                let tensor = self.origin.tensor(&format!("{}.{part}", site.name))?;
                let (sums, sha256) = self.compare(tensor, Some(Numbers::of(merged)))?;
                if part == "bias" && sums.change == 0.0 {
                    continue;
                }
                total.add(&sums);
                tensors.push(TensorDrift {
                    tensor: tensor.name.clone(),
                    parts: self.patch.weight_parts(&site.name).map(str::to_owned).collect(),
                    from: tensor.stored.to_string(),
                    to: self.precision.of(tensor).to_string(),
                    sha256,
                    change: sums.change(),
                });
            }
        }
        let touched: BTreeSet<&str> = tensors.iter().map(|drift| drift.tensor.as_str()).collect();
        let (mut count, mut rounded) = (0, Sums::default());
        for tensor in self.origin.tensors().iter().filter(|tensor| !touched.contains(tensor.name.as_str())) {
            count += 1;
            if self.precision.of(tensor) != tensor.stored {
                rounded.add(&self.compare(tensor, None)?.0);
            }
        }
        let untouched = Untouched { tensors: count, rounding: share(rounded.error, rounded.after) };
        Ok(Drift { tensors, total: total.change(), untouched, notes: self.notes.clone() })
    }

    /// Sums over a tensor of the model and what it becomes (itself, where nothing is given), and the SHA-256 of what is written for it.
    fn compare(&self, tensor: &StoredTensor, merged: Option<Numbers>) -> Result<(Sums, String)> {
        let to = self.precision.of(tensor);
        let (mut sums, mut hash, mut at) = (Sums::default(), Sha256::new(), 0);
        let (mut before, mut after, mut rounded, mut bytes) = (vec![], vec![], vec![], vec![]);
        self.origin.pieces(tensor, &mut |piece| {
            for raw in piece.chunks(AT_ONCE * tensor.stored.bitsize() / 8) {
                [&mut before, &mut after, &mut rounded].into_iter().for_each(Vec::clear);
                bytes.clear();
                decode(tensor.stored, raw, &mut before);
                match &merged {
                    Some(merged) => merged.widen(at, before.len(), &mut after),
                    None => after.extend_from_slice(&before),
                }
                match merged.as_ref().and_then(|merged| merged.as_stored(to, at, before.len())) {
                    Some(bytes) => hash.update(bytes),
                    None => {
                        encode(&after, to, &mut bytes).map_err(|number| too_large(&tensor.name, to, number))?;
                        hash.update(&bytes);
                        decode(to, &bytes, &mut rounded);
                        sums.error += after.iter().zip(&rounded).map(|(x, r)| (r - x) * (r - x)).sum::<f64>();
                    }
                }
                at += before.len();
                for (w, x) in before.iter().zip(&after) {
                    let change = x - w;
                    sums.before += w * w;
                    sums.after += x * x;
                    sums.change += change * change;
                    sums.largest = sums.largest.max(change.abs());
                }
            }
            Ok(())
        })?;
        // One number that is not finite makes the sum so.
        if merged.is_some() && !sums.after.is_finite() {
            return Err(Error::Other(format!(
                "the merged tensor `{}` has numbers that are not finite; tune the patch anew",
                tensor.name
            )));
        }
        Ok((sums, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Writes the merged checkpoint as a new folder, with the configuration, the tokenizer and what else lies beside the model's weights.
    /// It is built in `OUT.partial/checkpoint` and renamed, after every changed tensor was read again and found to be what `drift` said.
    ///
    /// # Errors
    /// As [`check_out`], a file that cannot be read or written, or a tensor that was read back differently. Nothing is left behind.
    pub fn write(&self, out: &Path, drift: &Drift) -> Result<()> {
        let partial = Partial::begin(out)?;
        let sums: BTreeMap<&str, &str> = drift.tensors.iter().map(|d| (d.tensor.as_str(), d.sha256.as_str())).collect();
        self.write_tensors(&partial.path, &sums)?;
        for (file, beside) in &self.beside {
            let to = partial.path.join(file);
            let from = match beside {
                Beside::File(from) => from,
                Beside::Text(text) => {
                    write_whole(&to, text.as_bytes())?;
                    continue;
                }
            };
            let copied = to.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::copy(from, &to));
            copied.and_then(|_| File::open(&to)?.sync_all()).map_err(|e| Error::io(&to, e))?;
        }
        self.write_config(&partial.path)?;
        self.read_back(&partial.path, &sums)?;
        partial.finish()
    }

    /// Loads the model with its patch, then the merged one from `out`, and compares what they say to the same inputs. Each is in memory
    /// whole.
    ///
    /// # Errors
    /// A model that cannot be loaded or run.
    pub fn compare_outputs(&self, out: &Path) -> Result<OutputDrift> {
        let said = |place: &Path, patch: &Patch| {
            let model = load(place, self.how, &Device::flex())?;
            outputs(model.as_ref(), patch)
        };
        let (features, scores) = said(&self.place, &self.patch)?;
        let (merged, merged_scores) = said(out, &Patch::new())?;
        let scores = scores.zip(merged_scores).map(|(expected, got)| apart(&got, &expected));
        Ok(OutputDrift { features: apart(&merged, &features), scores })
    }

    fn write_tensors(&self, folder: &Path, changed: &BTreeMap<&str, &str>) -> Result<()> {
        let sites: BTreeMap<&str, &Site> = self.sites.iter().map(|site| (site.name.as_str(), site)).collect();
        // A site's weight and bias mostly lie side by side.
        let mut last: Option<(&Site, (AnyTensor, Option<AnyTensor>))> = None;
        let (mut shards, mut size) = (serde_json::Map::new(), 0);
        let files = self.origin.files();
        for (number, (file, metadata)) in files.iter().enumerate() {
            let mut tensors: Vec<_> = self.origin.tensors().iter().filter(|tensor| tensor.file == number).collect();
            // Wide numbers first, so that all are aligned.
            tensors.sort_by_key(|tensor| std::cmp::Reverse(self.precision.of(tensor).bitsize()));
            let info = |t: &&StoredTensor| (t.name_in_file.clone(), self.precision.of(t), t.shape.clone());
            let mut writer = TensorWriter::create(&folder.join(file), tensors.iter().map(info), metadata)?;
            for tensor in tensors {
                let to = self.precision.of(tensor);
                shards.insert(tensor.name_in_file.clone(), file.to_string_lossy().into());
                size += tensor.bytes() * to.bitsize() as u64 / tensor.stored.bitsize() as u64;
                let place = tensor.name.rsplit_once('.').filter(|_| changed.contains_key(tensor.name.as_str()));
                match place.and_then(|(site, part)| Some((*sites.get(site)?, part))) {
                    Some((site, part)) => {
                        let merged = match last.take().filter(|(before, _)| before.name == site.name) {
                            Some((_, merged)) => merged,
                            None => self.merged(site)?,
                        };
                        let (weight, bias) = &merged;
                        let numbers = if part == "bias" { bias.as_ref() } else { Some(weight) };
                        if let Some(numbers) = numbers {
                            let take = &mut |raw: &[u8]| writer.write(raw);
                            Numbers::of(numbers.clone()).pieces(&tensor.name, to, take)?;
                        }
                        last = Some((site, merged));
                    }
                    None if to == tensor.stored => self.origin.pieces(tensor, &mut |raw| writer.write(raw))?,
                    None => {
                        let (mut wide, mut bytes) = (vec![], vec![]);
                        self.origin.pieces(tensor, &mut |raw| {
                            wide.clear();
                            bytes.clear();
                            decode(tensor.stored, raw, &mut wide);
                            encode(&wide, to, &mut bytes).map_err(|number| too_large(&tensor.name, to, number))?;
                            writer.write(&bytes)
                        })?;
                    }
                }
            }
            writer.finish()?;
        }
        // Without an index one name is looked for.
        if files.iter().any(|(file, _)| file != Path::new(Checkpoint::WHOLE)) {
            let index = json!({ "metadata": { "total_size": size }, "weight_map": shards });
            let text = serde_json::to_string_pretty(&index).map_err(|e| Error::Other(e.to_string()))? + "\n";
            write_whole(&folder.join(Checkpoint::INDEX), text.as_bytes())?;
        }
        Ok(())
    }

    /// Says in the copied `config.json` how numbers are stored, where it says so and they are stored otherwise now.
    fn write_config(&self, folder: &Path) -> Result<()> {
        let Some(name) = self.precision.name() else { return Ok(()) };
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let mut config: Value = serde_json::from_str(&text).map_err(|e| Error::format(&file, e.to_string()))?;
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = config.get_mut(key) {
                *value = name.into();
            }
        }
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::Other(e.to_string()))? + "\n";
        write_whole(&file, text.as_bytes())
    }

    /// Refuses a folder whose changed tensors are not, bit for bit, what they were meant to be.
    fn read_back(&self, folder: &Path, meant: &BTreeMap<&str, &str>) -> Result<()> {
        let written = Checkpoint::open(folder)?;
        for tensor in self.origin.tensors() {
            let Some(&meant) = meant.get(tensor.name.as_str()) else { continue };
            let mut hash = Sha256::new();
            if let Some(tensor) = written.tensor(&tensor.name_in_file) {
                written.pieces(tensor, &mut |raw| {
                    hash.update(raw);
                    Ok(())
                })?;
            }
            let read: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if read != meant {
                return Err(Error::Other(format!(
                    "tensor `{}` was read back with other numbers than were written; check the disk and merge again",
                    tensor.name
                )));
            }
        }
        Ok(())
    }
}
