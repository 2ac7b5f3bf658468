//! Merging: a plain checkpoint out of a model and a patch, a tensor at a time, and what that does to the weights.

use crate::saved::{Saved, patch_folder};
use acclimate_core::{
    AnyTensor, Checkpoint, Error, Format, Gguf, Model, Patch, Result, Site, Stored, StoredTensor, TensorWriter,
    affine_of, decode, encode, write_whole,
};
use acclimate_data::{Assets, Source, Tokenizer};
use acclimate_models::{Base, checkpoint, gguf_config, gguf_file, load_gguf};
use burn::tensor::{DType, Device, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Numbers that are compared or rounded at a time.
const AT_ONCE: usize = 1 << 16;

/// Lies in a folder that is being written.
const LOCK: &str = ".acclimate-merge";

/// Ends of names of files with weights in them: in a merged folder they would be those of the model as it was.
const WEIGHTS: [&str; 15] = [
    "safetensors",
    "gguf",
    "bin",
    "pt",
    "pth",
    "pkl",
    "pickle",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "ot",
    "tflite",
    "npz",
    "npy",
];

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

/// What merging does to numbers. Norms are Frobenius norms, summed in double precision; `W` is the model's weight, `W'` the merged one before
/// and `R` after it is rounded to the type in which it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `‖W'−W‖ / ‖W‖`; absent where `W` is zero.
    pub relative: Option<f64>,
    /// The largest `|W'−W|`.
    pub largest: f64,
    /// `‖R−W'‖ / ‖W'−W‖`, the share of the change that rounding loses; absent where nothing changes.
    pub lost: Option<f64>,
    /// `‖R−W'‖ / ‖W'‖`; absent where `W'` is zero.
    pub rounding: Option<f64>,
}

/// What merging does to a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorDrift {
    /// The tensor's name.
    pub tensor: String,
    /// The parts of the patch that change it.
    pub parts: Vec<String>,
    /// How its numbers are stored in the model.
    pub from: String,
    /// How they are written.
    pub to: String,
    /// SHA-256 of the bytes that are written.
    pub sha256: String,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// What happens to the tensors that the patch leaves alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Untouched {
    /// How many there are.
    pub tensors: usize,
    /// `‖R−W‖ / ‖W‖` over those that are written in another type; absent where there are none.
    pub rounding: Option<f64>,
}

/// What merging does to a model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The tensors that a method stands at, by name. A bias that stays as it is is not among them.
    pub tensors: Vec<TensorDrift>,
    /// All of them together.
    pub total: Change,
    /// The other tensors.
    pub untouched: Untouched,
    /// Sentences about what is not in the merged checkpoint.
    pub notes: Vec<String>,
}

/// Sums of squares of a tensor, or of many.
#[derive(Clone, Copy, Default)]
struct Sums {
    before: f64,
    after: f64,
    change: f64,
    error: f64,
    largest: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.before += other.before;
        self.after += other.after;
        self.change += other.change;
        self.error += other.error;
        self.largest = self.largest.max(other.largest);
    }

    fn change(&self) -> Change {
        Change {
            relative: share(self.change, self.before),
            largest: self.largest,
            lost: share(self.error, self.change),
            rounding: share(self.error, self.after),
        }
    }
}

/// The root of one sum of squares over another's.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole).sqrt())
}

/// Where a model's numbers come from.
enum Origin {
    /// From files, a tensor at a time.
    Files(Checkpoint),
    /// From a model in memory, whose packed matrices are made dense one by one.
    Model { model: Box<dyn Model>, tensors: Vec<StoredTensor> },
}

impl Origin {
    /// A model in memory: matrices of halves stay such, other packed ones become single.
    fn of(model: Box<dyn Model>) -> Self {
        let tensor = |name: &str, shape: Vec<usize>, stored: Stored| {
            let bytes = (shape.iter().product::<usize>() * stored.bitsize() / 8) as u64;
            let name = name.to_owned();
            StoredTensor { name: name.clone(), name_in_file: name, stored, shape, file: 0, range: 0..bytes }
        };
        let mut tensors: Vec<StoredTensor> = model
            .weights()
            .iter()
            .map(|(name, t)| tensor(name, t.shape(), if t.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 }))
            .collect();
        let matrices = model.sites().iter().map(|site| format!("{}.weight", site.name));
        tensors.extend(matrices.filter_map(|name| {
            let packed = model.packed(&name)?;
            let stored = match packed.format() {
                Format::F16 => Stored::F16,
                Format::Bf16 => Stored::BF16,
                _ => Stored::F32,
            };
            Some(tensor(&name, packed.dims().to_vec(), stored))
        }));
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self::Model { model, tensors }
    }

    fn tensors(&self) -> &[StoredTensor] {
        match self {
            Self::Files(checkpoint) => checkpoint.tensors(),
            Self::Model { tensors, .. } => tensors,
        }
    }

    fn tensor(&self, name: &str) -> Result<&StoredTensor> {
        let found = match self {
            Self::Files(checkpoint) => checkpoint.tensor(name),
            Self::Model { tensors, .. } => tensors.iter().find(|tensor| tensor.name == name),
        };
        found.ok_or_else(|| Error::unknown("tensor", name, self.tensors().iter().map(|tensor| tensor.name.as_str())))
    }

    fn read(&self, tensor: &StoredTensor) -> Result<AnyTensor> {
        match self {
            Self::Files(checkpoint) => checkpoint.read(tensor, &Device::flex()),
            Self::Model { model, .. } => {
                let dense = || model.packed(&tensor.name).map(|packed| AnyTensor::from(packed.dense()));
                let found = model.weights().any(&tensor.name).cloned().or_else(dense);
                found.ok_or_else(|| Error::unknown("tensor", &tensor.name, model.weights().names()))
            }
        }
    }

    fn pieces(&self, tensor: &StoredTensor, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Self::Files(checkpoint) => checkpoint.pieces(tensor, take),
            Self::Model { .. } => Numbers::of(self.read(tensor)?).pieces(&tensor.name, tensor.stored, take),
        }
    }

    fn fingerprint(&self) -> Result<String> {
        match self {
            Self::Files(checkpoint) => checkpoint.fingerprint(),
            Self::Model { model, .. } => Ok(model.fingerprint().to_owned()),
        }
    }

    /// Names and text entries of the files to write.
    fn files(&self) -> Vec<(PathBuf, BTreeMap<String, String>)> {
        match self {
            Self::Files(checkpoint) => {
                let name = |file: &Path| PathBuf::from(file.file_name().unwrap_or_default());
                checkpoint.files().enumerate().map(|(at, file)| (name(file), checkpoint.metadata(at).clone())).collect()
            }
            Self::Model { .. } => {
                let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
                vec![("model.safetensors".into(), format)]
            }
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
    notes: Vec<String>,
}

impl Merge {
    /// Opens a run folder or a patch folder and the model it was tuned on. `model` replaces the name the patch was saved with.
    ///
    /// # Errors
    /// A folder without a patch, a model that is gone, and those of [`Merge::new`].
    pub fn open(run: &Path, model: Option<&str>, precision: Precision, offline: bool) -> Result<Self> {
        let folder = patch_folder(run);
        let saved = Saved::read(&folder)?;
        let patch = Patch::load(&folder, &Device::flex(), &acclimate_peft::build)?;
        let place = Source::parse(model.unwrap_or(&saved.model))?.resolve(&Assets::open(offline)?)?;
        let mut merge = Self::new(patch, &place, saved.base, precision)?;
        saved.check_fingerprint(&folder, &merge.fingerprint)?;
        if merge.patch.has_head() {
            merge.notes.push(format!(
                "the head that was tuned is no part of the model; it stays in `{}`",
                folder.join("adapter_model.safetensors").display()
            ));
        }
        Ok(merge)
    }

    /// A patch and the model of a folder or GGUF file that it was made for. `how` says how the patch knows what such a file has packed.
    ///
    /// # Errors
    /// A patch that changes no weight, or has parts that no weight can stand for; a model that cannot be read, or another one than the patch
    /// was made for.
    pub fn new(patch: Patch, place: &Path, how: Base, precision: Precision) -> Result<Self> {
        patch.check_merge()?;
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
        Ok(Self { patch, origin, beside, precision, sites, fingerprint, notes: vec![] })
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
                at += before.len();
                encode(&after, to, &mut bytes).map_err(|number| too_large(&tensor.name, to, number))?;
                hash.update(&bytes);
                for (w, x) in before.iter().zip(&after) {
                    let change = x - w;
                    sums.before += w * w;
                    sums.after += x * x;
                    sums.change += change * change;
                    sums.largest = sums.largest.max(change.abs());
                }
                decode(to, &bytes, &mut rounded);
                sums.error += after.iter().zip(&rounded).map(|(x, r)| (r - x) * (r - x)).sum::<f64>();
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
    /// It is built in `OUT.partial` and renamed, after every changed tensor was read again and found to be what `drift` said.
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
                size += tensor.bytes() / tensor.stored.bitsize() as u64 * to.bitsize() as u64;
                let place = tensor.name.rsplit_once('.').filter(|_| changed.contains_key(tensor.name.as_str()));
                match place.and_then(|(site, part)| Some((*sites.get(site)?, part))) {
                    Some((site, part)) => {
                        let merged = match last.take() {
                            Some((before, merged)) if before.name == site.name => merged,
                            _ => self.merged(site)?,
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
        if files.len() > 1 {
            let index = json!({ "metadata": { "total_size": size }, "weight_map": shards });
            let text = serde_json::to_string_pretty(&index).map_err(|e| Error::Other(e.to_string()))? + "\n";
            write_whole(&folder.join("model.safetensors.index.json"), text.as_bytes())?;
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

fn too_large(tensor: &str, to: Stored, number: f64) -> Error {
    Error::Other(format!("tensor `{tensor}` has the number `{number:e}`, too large for {to}; choose `bf16` or `f32`"))
}

/// The numbers of a merged tensor, in its own type.
struct Numbers(TensorData);

impl Numbers {
    fn of(tensor: AnyTensor) -> Self {
        let data = tensor.elements().into_data();
        Self(if data.dtype() == DType::F64 { data } else { data.convert::<f32>() })
    }

    fn stored(&self) -> Stored {
        if self.0.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 }
    }

    /// Appends so many numbers from a place on.
    fn widen(&self, from: usize, count: usize, out: &mut Vec<f64>) {
        let size = self.stored().bitsize() / 8;
        decode(self.stored(), &self.0.as_bytes()[from * size..(from + count) * size], out);
    }

    /// Hands over the numbers as they are written.
    fn pieces(&self, name: &str, to: Stored, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut wide, mut bytes) = (vec![], vec![]);
        for raw in self.0.as_bytes().chunks(AT_ONCE * self.stored().bitsize() / 8) {
            wide.clear();
            bytes.clear();
            decode(self.stored(), raw, &mut wide);
            encode(&wide, to, &mut bytes).map_err(|number| too_large(name, to, number))?;
            take(&bytes)?;
        }
        Ok(())
    }
}

/// What a file beside the weights is made of.
enum Beside {
    /// A copy.
    File(PathBuf),
    /// A text.
    Text(String),
}

/// The files that go with a model's weights: those of its folder that hold no weights, and of the folders in which sentence-transformers
/// keeps each module under its number. Names in the new folder, and where they are now.
fn beside_weights(folder: &Path) -> Result<Vec<(PathBuf, Beside)>> {
    let names = |folder: &Path| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let entries = entries.map_err(|e| Error::io(folder, e))?;
        let mut names: Vec<String> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    };
    let weights = |name: &str| {
        let end = name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
        WEIGHTS.contains(&end.as_str()) || name.ends_with(".index.json")
    };
    let mut found = vec![];
    for name in names(folder)? {
        let path = folder.join(&name);
        if path.is_file() {
            found.extend((!weights(&name)).then(|| (name.into(), Beside::File(path))));
        } else if name.starts_with(|c: char| c.is_ascii_digit()) {
            for inner in names(&path)? {
                let file = path.join(&inner);
                if file.is_file() && (inner.ends_with(".safetensors") || !weights(&inner)) {
                    found.push((Path::new(&name).join(inner), Beside::File(file)));
                }
            }
        }
    }
    Ok(found)
}

/// What a folder of safetensors has beside them, from a GGUF file: the configuration, the tokeniser and the template for dialogues.
fn beside_gguf(gguf: &Gguf) -> Result<Vec<(PathBuf, Beside)>> {
    // How long rows may be is no part of a tokenizer.json.
    const LENGTH: usize = 512;
    let text = |json: &Value| -> Result<String> {
        Ok(serde_json::to_string_pretty(json).map_err(|e| Error::Other(e.to_string()))? + "\n")
    };
    let own = gguf.file().with_file_name("tokenizer.json");
    let tokenizer =
        if own.exists() { Tokenizer::from_file(&own, LENGTH)? } else { Tokenizer::from_gguf(gguf, LENGTH)? };
    let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
    let mut generation = json!({});
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap_or_default();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = gguf.u64(&format!("tokenizer.ggml.{key}_token_id"));
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            config[format!("{name}_token")] = token.as_str().into();
            generation[format!("{name}_token_id")] = id.into();
        }
    }
    if !tokenizer.ends().is_empty() {
        generation["eos_token_id"] = tokenizer.ends().into();
    }
    let mut all = vec![
        ("config.json", text(&gguf_config(gguf)?)?),
        ("tokenizer.json", tokenizer.to_json()?),
        ("tokenizer_config.json", text(&config)?),
        ("generation_config.json", text(&generation)?),
    ];
    all.extend(gguf.str("tokenizer.chat_template").map(|source| ("chat_template.jinja", source.to_owned())));
    Ok(all.into_iter().map(|(name, text)| (name.into(), Beside::Text(text))).collect())
}

/// Refuses a place where no new folder can be made.
///
/// # Errors
/// Names the folder and the way out.
pub fn check_out(out: &Path) -> Result<()> {
    let refused = |what: &str| Err(Error::Other(format!("{}: {what}", out.display())));
    if out.symlink_metadata().is_ok() {
        return refused("is there already; name another folder with `--out`");
    }
    match (out.file_name(), out.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() || parent.is_dir() => Ok(()),
        (Some(_), Some(_)) => refused("the folder it is to lie in does not exist; create that first"),
        _ => refused("is no name for a folder; name another with `--out`"),
    }
}

/// A folder that is being written; it goes unless it is finished.
struct Partial {
    path: PathBuf,
    out: PathBuf,
    /// Held while the folder is written: a folder that nobody holds was left by a process that was killed.
    lock: Option<File>,
    finished: bool,
}

impl Partial {
    fn begin(out: &Path) -> Result<Self> {
        check_out(out)?;
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = out.with_file_name(name);
        let io = |e| Error::io(&path, e);
        let refused = |what: &str| Err(Error::Other(format!("{}: {what}", path.display())));
        let lock = path.join(LOCK);
        if path.exists() {
            let empty = std::fs::read_dir(&path).map_err(io)?.next().is_none();
            match File::open(&lock) {
                Ok(held) => {
                    if let Err(TryLockError::WouldBlock) = held.try_lock() {
                        return refused("another process merges there; name another folder with `--out`");
                    }
                }
                Err(_) if empty => {}
                Err(_) => return refused("is not of a merge; move it away, or name another folder with `--out`"),
            }
            std::fs::remove_dir_all(&path).map_err(io)?;
        }
        std::fs::create_dir(&path).map_err(io)?;
        let mut partial = Self { path: path.clone(), out: out.to_owned(), lock: None, finished: false };
        let held = File::create(&lock).map_err(|e| Error::io(&lock, e))?;
        // Some network drives know no locks; a merge there is not guarded.
        let _ = held.try_lock();
        partial.lock = Some(held);
        Ok(partial)
    }

    fn finish(mut self) -> Result<()> {
        // Some systems rename no folder in which a file is open.
        self.lock = None;
        std::fs::rename(&self.path, &self.out).map_err(|e| Error::io(&self.out, e))?;
        self.finished = true;
        let _ = std::fs::remove_file(self.out.join(LOCK));
        // The new name is to outlast a power cut, where folders can be flushed.
        if let Some(parent) = self.out.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let _ = File::open(parent).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.lock = None;
        if !self.finished {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
