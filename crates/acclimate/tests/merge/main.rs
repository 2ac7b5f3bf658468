//! Merging by tensors against merging in memory, its figures against double precision, and everything it refuses.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

mod gguf;

use acclimate::core::{
    Adapter, Affine, AnyTensor, Card, Checkpoint, HeadStart, Here, Method, Model, Params, Patch, Result, Rng, Site,
    SiteKind, Stored, Targets, TensorWriter, WeightAdapter, encode, read_safetensors, write_safetensors,
};
use acclimate::merge::{Drift, Merge, Precision};
use acclimate::models::{Base, tiny};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A model in a folder.
struct Place {
    folder: TempDir,
    model: Box<dyn Model>,
}

impl Place {
    fn new(model: Box<dyn Model>, mut config: Value, kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { folder, model };
        config["model_type"] = kind.into();
        config["torch_dtype"] = "float32".into();
        let file = place.path("model/model.safetensors");
        write_safetensors(&file, place.model.weights(), BTreeMap::new()).unwrap();
        std::fs::write(place.path("model/config.json"), config.to_string()).unwrap();
        place
    }

    fn bert(dtype: DType) -> Self {
        Self::new(Box::new(tiny::bert(1, dtype)), json!(tiny::bert_config()), "bert")
    }

    fn llama(dtype: DType) -> Self {
        Self::new(Box::new(tiny::llama(1, dtype)), json!(tiny::llama_config()), "llama")
    }

    fn resnet(dtype: DType) -> Self {
        let model = tiny::resnet(1, dtype);
        let config = json!(model.config());
        Self::new(Box::new(model), config, "resnet")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn merge(&self, patch: &Patch, precision: Precision) -> Result<Merge> {
        Merge::new(patch.clone(), &self.path("model"), Base::Packed, precision)
    }

    /// Merges into `name` and says what that did.
    fn write(&self, patch: &Patch, precision: Precision, name: &str) -> Result<Drift> {
        let merge = self.merge(patch, precision)?;
        let drift = merge.drift()?;
        merge.write(&self.path(name), &drift)?;
        Ok(drift)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A merge that must fail with such a message, and leave everything as it was.
    fn refused(&self, patch: &Patch, precision: Precision, name: &str, parts: &[&str]) {
        let before = self.names();
        let error = self.write(patch, precision, name).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(self.names(), before, "{error}");
    }
}

fn read(file: &Path) -> Params {
    read_safetensors(file, &Device::flex()).unwrap().0
}

fn bits(tensor: &AnyTensor) -> Vec<u64> {
    tensor.to_f64s().into_iter().map(f64::to_bits).collect()
}

/// A method with settings at the sites that a word means, its tensors drawn anew: what starts at nothing must change something.
fn add(patch: &mut Patch, model: &dyn Model, method: &str, settings: &str, word: &str) {
    let adapter = acclimate_peft::build(method, &settings.parse().unwrap()).unwrap();
    let targets = Targets::Word(word.to_owned());
    acclimate_peft::place(patch, model, method, adapter, Some(&targets), &mut Rng::new(0, "test", 0)).unwrap();
    patch.params = patch.params.map(|name, tensor| {
        let (dtype, device) = (tensor.dtype(), tensor.device());
        let noise = Rng::new(7, name, 0).normal_tensor(&tensor.shape(), 0.1, dtype, &device);
        AnyTensor::from_elements(tensor.elements() + noise.elements())
    });
}

fn patched(model: &dyn Model, methods: &[(&str, &str, &str)]) -> Patch {
    let mut patch = Patch::new();
    methods.iter().for_each(|(method, settings, word)| add(&mut patch, model, method, settings, word));
    patch
}

/// Low rank at every matrix, whole norms, and something on top of what is there already.
const MANY: [(&str, &str, &str); 4] =
    [("lora", "rank = 2", "linear"), ("full", "", "norm"), ("ia3", "", "linear"), ("hra", "rank = 2", "linear")];

#[test]
fn a_merged_checkpoint_is_what_merging_in_memory_gives() {
    for dtype in [DType::F32, DType::F64] {
        for place in [Place::bert(dtype), Place::llama(dtype), Place::resnet(dtype)] {
            let patch = patched(place.model.as_ref(), &MANY);
            let drift = place.write(&patch, Precision::Keep, "out").unwrap();
            let (expected, got) =
                (patch.merge(place.model.as_ref()).unwrap(), read(&place.path("out/model.safetensors")));
            assert_eq!(got.len(), expected.len());
            for (name, tensor) in expected.iter() {
                let got = got.any(name).unwrap();
                assert_eq!((got.dtype(), got.shape()), (tensor.dtype(), tensor.shape()), "{name}");
                assert_eq!(bits(got), bits(tensor), "{name}");
                let told = drift.tensors.iter().any(|drift| drift.tensor == name);
                assert_eq!(told, bits(tensor) != bits(place.model.weights().any(name).unwrap()), "{name}");
            }
            let reloaded = acclimate::models::load(&place.path("out"), Base::Packed, &Device::flex()).unwrap();
            assert_eq!(reloaded.fingerprint(), expected.fingerprint());
            assert_eq!(place.names(), ["model", "out"]);
            let same = |name: &str| std::fs::read(place.path(name)).unwrap();
            assert_eq!(same("out/config.json"), same("model/config.json"));
        }
    }
}

/// The frobenius norm of what a function says of each place.
fn norm(count: usize, f: impl Fn(usize) -> f64) -> f64 {
    (0..count).map(|at| f(at).powi(2)).sum::<f64>().sqrt()
}

/// The upper half of a single-precision number, to nearest and of two to the even one.
fn brain(x: f64) -> f64 {
    let bits = u64::from((x as f32).to_bits());
    let (low, up) = (bits & 0xffff, bits >> 16);
    let up = up + u64::from(low > 0x8000 || (low == 0x8000 && up % 2 == 1));
    f64::from(f32::from_bits((up << 16) as u32))
}

#[test]
fn the_drift_is_that_of_double_precision() {
    // Single-precision products, summed over two ranks, against exact ones; a change is known to a few roundings of the weight.
    const TOLERANCE: f64 = 1e-5;
    let place = Place::llama(DType::F32);
    let patch = patched(place.model.as_ref(), &[("lora", "rank = 2\nalpha = 4.0", "linear")]);
    let drift = place.write(&patch, Precision::Bf16, "out").unwrap();
    let close = |got: Option<f64>, want: f64, what: &str| {
        let got = got.unwrap();
        assert!((got - want).abs() <= TOLERANCE * want, "{what}: {got} and not {want}");
    };
    let mut all = [0.0f64; 4];
    for tensor in &drift.tensors {
        let site = tensor.tensor.strip_suffix(".weight").unwrap();
        let numbers = |name: &str| patch.params.any(&format!("{site}.lora.{name}")).unwrap().to_f64s();
        let (a, b, base) = (numbers("a"), numbers("b"), place.model.weights().any(&tensor.tensor).unwrap());
        let (columns, base) = (base.shape()[1], base.to_f64s());
        // alpha / rank = 2.
        let change = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            2.0 * (b[2 * row] * a[column] + b[2 * row + 1] * a[columns + column])
        };
        let lost = |at: usize| brain(base[at] + change(at)) - (base[at] + change(at));
        let n = base.len();
        let norms = [norm(n, change), norm(n, |at| base[at]), norm(n, lost), norm(n, |at| base[at] + change(at))];
        let [changed, before, error, after] = norms;
        close(tensor.change.relative, changed / before, "change");
        close(Some(tensor.change.largest), (0..n).map(|at| change(at).abs()).fold(0.0, f64::max), "largest");
        close(tensor.change.lost, error / changed, "lost");
        close(tensor.change.rounding, error / after, "rounding");
        all.iter_mut().zip(norms).for_each(|(sum, norm)| *sum += norm * norm);
        assert_eq!((tensor.parts.clone(), &tensor.from[..], &tensor.to[..]), (vec!["lora".to_owned()], "F32", "BF16"));
    }
    let [changed, before, error, after] = all.map(f64::sqrt);
    close(drift.total.relative, changed / before, "change of all");
    close(drift.total.lost, error / changed, "lost of all");
    close(drift.total.rounding, error / after, "rounding of all");
    let linear = place.model.sites().iter().filter(|site| site.kind == SiteKind::Linear).count();
    assert_eq!(drift.tensors.len(), linear);
    let others = place.model.weights().iter().filter(|(name, _)| !drift.tensors.iter().any(|d| d.tensor == *name));
    let others: Vec<f64> = others.flat_map(|(_, tensor)| tensor.to_f64s()).collect();
    let n = others.len();
    let want = norm(n, |at| brain(others[at]) - others[at]) / norm(n, |at| others[at]);
    close(drift.untouched.rounding, want, "others");
}

#[test]
fn halves_hold_the_rounded_numbers_of_all_tensors() {
    let place = Place::bert(DType::F32);
    let patch = patched(place.model.as_ref(), &MANY);
    let single = patch.merge(place.model.as_ref()).unwrap();
    place.write(&patch, Precision::Bf16, "brain").unwrap();
    let got = read(&place.path("brain/model.safetensors"));
    for (name, tensor) in single.iter() {
        let expected: Vec<f64> = tensor.to_f64s().into_iter().map(brain).collect();
        assert_eq!(got.any(name).unwrap().to_f64s(), expected, "{name}");
    }
    place.write(&patch, Precision::F16, "half").unwrap();
    let got = read(&place.path("half/model.safetensors"));
    for (name, tensor) in single.iter() {
        for (got, x) in got.any(name).unwrap().to_f64s().into_iter().zip(tensor.to_f64s()) {
            // Eleven digits, or multiples of the smallest number; scaling by powers of two is exact.
            let unit = 2f64.powi((x.abs().log2().floor() as i32 - 10).max(-24));
            assert_eq!(got, (x / unit).round_ties_even() * unit, "{name}");
        }
    }
    let config = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(place.path(name)).unwrap()).unwrap() };
    assert_eq!(config("brain/config.json")["torch_dtype"], "bfloat16");
    assert_eq!(config("half/config.json")["torch_dtype"], "float16");
    let stored = Checkpoint::open(&place.path("half")).unwrap();
    assert!(stored.tensors().iter().all(|tensor| tensor.stored == Stored::F16));
}

/// Writes a checkpoint with types and names of choice, in the order given.
fn store(file: &Path, weights: &Params, order: &[&str], stored: Stored, named: impl Fn(&str) -> String) {
    let tensor = |name: &&str| weights.any(name).unwrap();
    let mut infos: Vec<_> = order.iter().map(|name| (named(name), stored, tensor(name).shape())).collect();
    infos.push((format!("{}.numbers", order[0]), Stored::I64, vec![2]));
    let mut writer = TensorWriter::create(file, infos, &BTreeMap::from([("format".into(), "pt".into())])).unwrap();
    for name in order {
        let mut bytes = vec![];
        encode(&tensor(name).to_f64s(), stored, &mut bytes).unwrap();
        writer.write(&bytes).unwrap();
    }
    writer.write(&[3i64.to_le_bytes(), (-4i64).to_le_bytes()].concat()).unwrap();
    writer.finish().unwrap();
}

fn raw(checkpoint: &Checkpoint, name: &str) -> (Stored, Vec<u8>) {
    let (tensor, mut bytes) = (checkpoint.tensor(name).unwrap(), vec![]);
    checkpoint
        .pieces(tensor, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    (tensor.stored, bytes)
}

#[test]
fn shards_stay_shards_and_each_tensor_keeps_its_type() {
    let place = Place::llama(DType::F32);
    let weights = place.model.weights().clone();
    let names: Vec<&str> = weights.names().collect();
    let (first, second) = names.split_at(7);
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    store(&place.path("model/model-1.safetensors"), &weights, first, Stored::BF16, str::to_owned);
    store(&place.path("model/model-2.safetensors"), &weights, second, Stored::F32, str::to_owned);
    let map: BTreeMap<String, &str> = first
        .iter()
        .map(|name| ((*name).to_owned(), "model-1.safetensors"))
        .chain(second.iter().map(|name| ((*name).to_owned(), "model-2.safetensors")))
        .collect();
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(place.path("model/model.safetensors.index.json"), index.to_string()).unwrap();
    let model = acclimate::models::load(&place.path("model"), Base::Packed, &Device::flex()).unwrap();
    let patch = patched(model.as_ref(), &MANY);
    place.write(&patch, Precision::Keep, "out").unwrap();
    let expected = patch.merge(model.as_ref()).unwrap();
    let (before, after) =
        (Checkpoint::open(&place.path("model")).unwrap(), Checkpoint::open(&place.path("out")).unwrap());
    assert_eq!(
        after.files().map(|file| file.file_name().unwrap().to_owned()).collect::<Vec<_>>(),
        ["model-1.safetensors", "model-2.safetensors"]
    );
    for tensor in before.tensors() {
        let (stored, bytes) = raw(&after, &tensor.name);
        assert_eq!((stored, &after.tensor(&tensor.name).unwrap().shape), (tensor.stored, &tensor.shape));
        let mut want = vec![];
        match expected.any(&tensor.name) {
            Some(merged) => encode(&merged.to_f64s(), stored, &mut want).unwrap(),
            None => want = [3i64.to_le_bytes(), (-4i64).to_le_bytes()].concat(),
        }
        assert_eq!(bytes, want, "{}", tensor.name);
    }
    assert_eq!(after.metadata(0)["format"], "pt");
    let index: Value =
        serde_json::from_slice(&std::fs::read(place.path("out/model.safetensors.index.json")).unwrap()).unwrap();
    let size: u64 = after.tensors().iter().map(acclimate::core::StoredTensor::bytes).sum();
    assert_eq!(
        (index["metadata"]["total_size"].as_u64(), index["weight_map"].as_object().unwrap().len()),
        (Some(size), names.len() + 2)
    );
}

#[test]
fn a_file_of_another_name_keeps_its_index() {
    let place = Place::bert(DType::F32);
    std::fs::rename(place.path("model/model.safetensors"), place.path("model/part.safetensors")).unwrap();
    let map: BTreeMap<&str, &str> = place.model.weights().names().map(|name| (name, "part.safetensors")).collect();
    let index = json!({ "weight_map": map });
    std::fs::write(place.path("model/model.safetensors.index.json"), index.to_string()).unwrap();
    let patch = patched(place.model.as_ref(), &MANY);
    place.write(&patch, Precision::Keep, "out").unwrap();
    let written = acclimate::models::load(&place.path("out"), Base::Packed, &Device::flex()).unwrap();
    assert_eq!(written.fingerprint(), patch.merge(place.model.as_ref()).unwrap().fingerprint());
}

#[test]
fn old_names_of_norms_stay_in_the_file() {
    let place = Place::bert(DType::F32);
    let weights = place.model.weights().clone();
    let old = |name: &str| match name.rsplit_once("LayerNorm.") {
        Some((path, "weight")) => format!("bert.{path}LayerNorm.gamma"),
        Some((path, _)) => format!("bert.{path}LayerNorm.beta"),
        None => format!("bert.{name}"),
    };
    let names: Vec<&str> = weights.names().collect();
    store(&place.path("model/model.safetensors"), &weights, &names, Stored::F32, old);
    let model = acclimate::models::load(&place.path("model"), Base::Packed, &Device::flex()).unwrap();
    let patch = patched(model.as_ref(), &[("full", "", "norm")]);
    let drift = place.write(&patch, Precision::Keep, "out").unwrap();
    assert_eq!(drift.tensors[0].tensor, "bert.embeddings.LayerNorm.weight");
    let (merged, got) = (patch.merge(model.as_ref()).unwrap(), read(&place.path("out/model.safetensors")));
    for name in names {
        let expected = merged.any(&format!("bert.{name}")).unwrap();
        assert_eq!(bits(got.any(&old(name)).unwrap()), bits(expected), "{name}");
    }
}

#[test]
fn what_lies_beside_the_weights_goes_along() {
    let place = Place::bert(DType::F32);
    let write = |name: &str| {
        let file = place.path("model").join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, name).unwrap();
    };
    let (kept, left) = (
        ["tokenizer.json", "vocab.txt", "1_Pooling/config.json", "2_Dense/model.safetensors"],
        [
            "pytorch_model.bin",
            "old.safetensors",
            ".hidden",
            "2_Dense/pytorch_model.bin",
            "onnx/model.onnx",
            "old/config.json",
        ],
    );
    kept.iter().chain(&left).for_each(|name| write(name));
    std::fs::write(place.path("model/1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).unwrap();
    place.write(&patched(place.model.as_ref(), &MANY), Precision::Keep, "out").unwrap();
    for name in kept {
        assert_eq!(
            std::fs::read(place.path("out").join(name)).unwrap(),
            std::fs::read(place.path("model").join(name)).unwrap()
        );
    }
    assert!(left.iter().all(|name| !place.path("out").join(name).exists()));
    let names = std::fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 6, "nothing that merging itself needed stays");
}

#[test]
fn patches_that_no_weight_stands_for_are_refused() {
    let place = Place::bert(DType::F32);
    let model = place.model.as_ref();
    let patch = patched(model, &[("lora", "", "linear"), ("houlsby", "bottleneck = 2", "block")]);
    place.refused(&patch, Precision::Keep, "out", &["houlsby cannot be merged into weights"]);
    let mut head = Patch::new();
    head.add_head(model, 3, HeadStart::Zero, &mut Rng::new(0, "head", 0));
    place.refused(&head, Precision::Keep, "out", &["it changes no weight"]);
    place.refused(&Patch::new(), Precision::Keep, "out", &["it changes no weight"]);
    let other = patched(&tiny::bert(2, DType::F32), &MANY);
    place.refused(&other, Precision::Keep, "out", &["made for a model with fingerprint", "tune anew"]);
    let mut broken = patched(model, &MANY[..1]);
    broken.params = broken.params.map(|_, tensor| AnyTensor::from_elements(tensor.elements() * f32::NAN));
    place.refused(
        &broken,
        Precision::Keep,
        "out",
        &["numbers that are not finite", "encoder.layer.0.attention.output.dense.weight"],
    );
    std::fs::write(place.path("model/config.json"), r#"{"model_type": "bird"}"#).unwrap();
    place.refused(&patched(model, &MANY), Precision::Keep, "out", &["unknown model type `bird`"]);
}

/// Adds a bias wherever it stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Shift;

impl Method for Shift {
    const CARD: Card = Card {
        name: "shift",
        title: "shift",
        catalogue: &[],
        paper: "-",
        year: 2026,
        targets: &[],
        doc: "",
        params: &[],
        needs: &[],
        promises: &[],
        waivers: &[],
        file: file!(),
        line: line!(),
    };
    const CASES: &'static [&'static str] = &[""];

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl WeightAdapter for Shift {
    type P = ();
    type Shared = ();

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, _: &Affine, _: &Here<'_, ()>, _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn weight(&self, base: &Affine, (): &(), here: &Here<'_, ()>) -> Result<Affine> {
        let (dtype, device) = base.like();
        Ok(Affine::new(base.dense(), Some(Tensor::ones([here.site.out], (&device, dtype)))))
    }

    fn count(&self, _: &Site) -> usize {
        0
    }
}

/// A folder as the `peft` package writes it for an output matrix: the matrix itself stands beside its factors.
fn with_base_layer(place: &Place, factor: f64) -> Result<Merge> {
    let folder = place.path("adapter");
    patched(place.model.as_ref(), &[("lora", "rank = 2", "lm_head")]).save(&folder).unwrap();
    let file = folder.join("adapter_model.safetensors");
    let (mut tensors, matrix) = (read(&file), place.model.weights().any("lm_head.weight").unwrap());
    let repeated = AnyTensor::from_elements(matrix.elements() * factor);
    tensors.insert("base_model.model.lm_head.base_layer.weight", repeated);
    // Without the entry that tells that acclimate has written it.
    write_safetensors(&file, &tensors, BTreeMap::new()).unwrap();
    Merge::open(&folder, place.path("model").to_str(), Precision::Keep, true)
}

#[test]
fn a_folder_of_peft_may_repeat_tensors_of_the_model_and_no_others() {
    let place = Place::llama(DType::F32);
    let merge = with_base_layer(&place, 1.0).unwrap();
    let drift = merge.drift().unwrap();
    assert_eq!(drift.tensors.iter().map(|drift| drift.tensor.as_str()).collect::<Vec<_>>(), ["lm_head.weight"]);
    let error = with_base_layer(&place, 2.0).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("lm_head.base_layer.weight") && error.contains("differs from the model's"), "{error}");
}

#[test]
fn a_bias_that_the_checkpoint_has_no_place_for_is_refused() {
    let (place, bert) = (Place::llama(DType::F32), Place::bert(DType::F32));
    let shifted = |model: &dyn Model| {
        let mut patch = Patch::new();
        let sites = Targets::Word("linear".to_owned()).select(model.sites()).unwrap();
        patch.add(model, Adapter::Weight(Arc::new(Shift)), &sites[..1], &mut Rng::new(0, "test", 0)).unwrap();
        patch
    };
    let patch = shifted(place.model.as_ref());
    place.refused(
        &patch,
        Precision::Keep,
        "out",
        &["shift cannot", "`model.layers.0.self_attn.q_proj`", "adds a bias"],
    );
    assert!(patch.merge(place.model.as_ref()).unwrap_err().to_string().contains("adds a bias"));
    let drift = bert.write(&shifted(bert.model.as_ref()), Precision::Keep, "out").unwrap();
    let names: Vec<_> = drift.tensors.iter().map(|d| (d.tensor.rsplit('.').next().unwrap(), d.change.lost)).collect();
    assert_eq!(names, [("weight", None), ("bias", Some(0.0))], "a weight that stays has no change to lose");
}

#[test]
fn a_number_too_large_for_halves_names_its_tensor() {
    let place = Place::bert(DType::F32);
    for (name, at) in [("embeddings.word_embeddings.weight", 5), ("encoder.layer.1.output.dense.weight", 9)] {
        let mut weights = tiny::bert(1, DType::F32).weights().clone();
        let tensor = weights.any(name).unwrap();
        let mut numbers = tensor.to_f64s();
        numbers[at] = -7e4;
        weights.insert(name, AnyTensor::from_f64s(numbers, &tensor.shape(), DType::F32, &Device::flex()));
        write_safetensors(&place.path("model/model.safetensors"), &weights, BTreeMap::new()).unwrap();
        let model = acclimate::models::load(&place.path("model"), Base::Packed, &Device::flex()).unwrap();
        let patch = patched(model.as_ref(), &[("lora", "rank = 2", "linear")]);
        place.refused(&patch, Precision::F16, "out", &[name, "too large for F16", "`bf16`"]);
        place.write(&patch, Precision::Bf16, name).unwrap();
    }
}

#[test]
fn places_that_are_taken_or_missing_are_refused() {
    let place = Place::bert(DType::F32);
    let patch = patched(place.model.as_ref(), &MANY);
    let refused = |name: &str, parts: &[&str]| place.refused(&patch, Precision::Keep, name, parts);
    std::fs::create_dir(place.path("taken")).unwrap();
    refused("taken", &["is there already", "--out"]);
    refused("nowhere/out", &["does not exist; create that first"]);
    refused("model/config.json/out", &["does not exist"]);
    refused("..", &["is there already"]);
    std::fs::create_dir(place.path("mine.partial")).unwrap();
    std::fs::write(place.path("mine.partial/thesis.txt"), "years").unwrap();
    refused("mine", &["mine.partial: is not of a merge; move it away"]);
    assert_eq!(std::fs::read(place.path("mine.partial/thesis.txt")).unwrap(), b"years");
    std::fs::create_dir(place.path("held.partial")).unwrap();
    let lock = std::fs::File::create(place.path("held.partial/.acclimate-merge")).unwrap();
    lock.lock().unwrap();
    refused("held", &["another process merges there"]);
    drop(lock);
    std::fs::write(place.path("held.partial/model.safetensors"), "half of it").unwrap();
    place.write(&patch, Precision::Keep, "held").unwrap();
    std::fs::create_dir(place.path("begun.partial")).unwrap();
    place.write(&patch, Precision::Keep, "begun").unwrap();
    assert_eq!(place.names(), ["begun", "held", "mine.partial", "model", "taken"]);
}

#[test]
fn what_is_read_back_differently_is_not_kept() {
    let place = Place::bert(DType::F32);
    let merge = place.merge(&patched(place.model.as_ref(), &MANY), Precision::Keep).unwrap();
    let mut drift = merge.drift().unwrap();
    drift.tensors[3].sha256 = "0".repeat(64);
    let error = merge.write(&place.path("out"), &drift).unwrap_err().to_string();
    assert!(error.contains(&drift.tensors[3].tensor) && error.contains("read back with other numbers"), "{error}");
    assert_eq!(place.names(), ["model"]);
}

#[test]
fn a_merged_model_says_what_the_patched_one_says() {
    // Sums in another order, through two layers of single precision.
    const TOLERANCE: f64 = 1e-5;
    for place in [Place::bert(DType::F32), Place::llama(DType::F32), Place::resnet(DType::F32)] {
        let patch = patched(place.model.as_ref(), &MANY);
        for (precision, tolerance) in [(Precision::Keep, TOLERANCE), (Precision::Bf16, 0.1)] {
            let merge = place.merge(&patch, precision).unwrap();
            let out = place.path(&format!("{precision:?}"));
            merge.write(&out, &merge.drift().unwrap()).unwrap();
            let apart = merge.compare_outputs(&out).unwrap();
            let scores = apart.scores.unwrap_or(0.0);
            assert!(apart.features <= tolerance && scores <= tolerance, "{precision:?}: {apart:?}");
            assert_eq!(apart.scores.is_some(), place.model.vocabulary().is_some() || place.model.outputs().is_some());
            // Where a patch does not show in the outputs, neither would a merge that went wrong.
            let unmerged = merge.compare_outputs(&place.path("model")).unwrap();
            assert!(unmerged.features > 10.0 * apart.features.max(TOLERANCE), "{unmerged:?} and {apart:?}");
        }
    }
}

#[test]
fn a_drift_survives_json() {
    let place = Place::bert(DType::F32);
    let drift = place.merge(&patched(place.model.as_ref(), &MANY), Precision::Bf16).unwrap().drift().unwrap();
    let text = serde_json::to_string(&drift).unwrap();
    assert_eq!(serde_json::from_str::<Drift>(&text).unwrap(), drift);
    assert!(text.contains(r#""relative":"#) && place.names() == ["model"]);
}
