//! Models: immutable weights under the checkpoint's own names.
//!
//! A model is read with [`load`] from a folder with `config.json` and `model.safetensors` or from a GGUF file, or made from weights in
//! memory. It calls the pass at its sites and knows no method.

mod bert;
mod convnet;
mod crepe;
mod efficientnet;
mod generate;
mod gguf;
mod llama;
mod outline;
mod resnet;
mod saved;
pub mod tiny;
mod vision;
mod vit;
mod wide_resnet;

pub use bert::{Bert, BertConfig, Pooling};
pub use convnet::{Convnet, ConvnetBlock, ConvnetConfig};
pub use crepe::{Crepe, CrepeConfig};
pub use efficientnet::{EfficientNet, EfficientNetConfig, EfficientNetStage};
pub use generate::{Sampling, generate};
pub use gguf::gguf_config;
pub use llama::{Llama, LlamaConfig, RopeScaling};
pub use outline::outline;
pub use resnet::{Resnet, ResnetConfig, Stem};
pub use saved::SavedOutputs;
pub use vision::{Architecture, Network, Norm, Scaling, Walk};
pub use vit::{Vit, VitConfig};
pub use wide_resnet::{WideResnet, WideResnetConfig};

use acclimate_core::{
    AnyTensor, Checkpoint, Error, Gguf, Inputs, Model, Packed, Params, Result, Seq, Site, SiteKind, Tokens,
};
use burn::tensor::Device;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What `model_type` in `config.json` may say, who reads the folder then, and what the model calls a tensor of the file.
struct Reader {
    model_type: &'static str,
    build: fn(&Path, Params) -> Result<Box<dyn Model>>,
    name: fn(&str) -> String,
}

static READERS: [Reader; 10] = [
    Reader {
        model_type: "bert",
        build: |folder, weights| Ok(Box::new(Bert::in_folder(folder, weights)?)),
        name: bert::current_name,
    },
    network::<ConvnetConfig>(),
    network::<CrepeConfig>(),
    network::<EfficientNetConfig>(),
    llama("llama"),
    llama("mistral"),
    llama("qwen2"),
    network::<ResnetConfig>(),
    network::<VitConfig>(),
    network::<WideResnetConfig>(),
];

const fn network<A: Architecture>() -> Reader {
    Reader {
        model_type: A::MODEL_TYPE,
        build: |folder, weights| Ok(Box::new(Network::<A>::in_folder(folder, weights)?)),
        name: A::name,
    }
}

const fn llama(model_type: &'static str) -> Reader {
    Reader {
        model_type,
        build: |folder, weights| Ok(Box::new(Llama::in_folder(folder, weights)?)),
        name: str::to_owned,
    }
}

/// How a model's frozen matrices are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// As their file has them.
    #[default]
    Packed,
    /// Four bytes a number.
    Dense,
    /// Those of linear sites rounded to bf16, two bytes a number; products round states to bf16 too and add up in f32. Half the memory of
    /// dense and, on processors that multiply bf16, the faster step, for some three digits.
    Bf16,
}

/// The one GGUF file that a place is or that a folder without `config.json` holds.
///
/// # Errors
/// When a folder holds several (the error names them) or cannot be read.
pub fn gguf_file(place: &Path) -> Result<Option<PathBuf>> {
    let is_gguf = |file: &Path| file.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    if !place.is_dir() {
        return Ok(is_gguf(place).then(|| place.to_owned()));
    }
    if place.join("config.json").exists() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(place).map_err(|e| Error::io(place, e))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|f| is_gguf(f)).collect();
    files.sort();
    match files.len() {
        0 | 1 => Ok(files.pop()),
        n => Err(Error::format(
            place,
            format!("holds {n} GGUF files; name one of them, such as `{}`", files[0].display()),
        )),
    }
}

/// The model in a GGUF file that was read already, as for its tokeniser; see [`load`].
///
/// # Errors
/// When a value or tensor is missing, malformed or not offered.
pub fn load_gguf(gguf: &Gguf, base: Base, device: &Device) -> Result<Box<dyn Model>> {
    let model = gguf::model(gguf, base, device)?;
    if base == Base::Bf16 { model.in_bf16() } else { Ok(Box::new(model)) }
}

/// Reads a model: a GGUF file, a folder that holds one, or a folder with `config.json`, whose `model_type` says which model it is. What
/// a GGUF file has packed stays so unless `base` says otherwise.
///
/// # Errors
/// When a file is missing or malformed, the model type is unknown (the error names the known ones), or there is no such base of it.
pub fn load(place: &Path, base: Base, device: &Device) -> Result<Box<dyn Model>> {
    if let Some(file) = gguf_file(place)? {
        return load_gguf(&Gguf::read(&file)?, base, device);
    }
    let model = (reader_of(place)?.build)(place, read_weights(place, device)?)?;
    if base == Base::Bf16 { model.in_bf16() } else { Ok(model) }
}

/// Takes the matrices of linear sites out of the weights, rounded to bf16; those that are packed already are unpacked first.
fn bf16_matrices(
    sites: &[Site],
    weights: &Params,
    mut packed: BTreeMap<String, Packed>,
) -> Result<(Params, BTreeMap<String, Packed>)> {
    for site in sites.iter().filter(|site| site.kind == SiteKind::Linear) {
        let name = format!("{}.weight", site.name);
        let dense = match packed.get(&name) {
            Some(matrix) => matrix.dense(),
            None => weights.get::<2>(&name)?,
        };
        let unsupported = |what| Error::Unsupported {
            who: "a base in bf16".to_owned(),
            what,
            instead: "load the model in f32".to_owned(),
        };
        packed.insert(name, Packed::rounded(&dense).map_err(unsupported)?);
    }
    let mut rest = Params::default();
    for (name, tensor) in weights.iter().filter(|(name, _)| !packed.contains_key(*name)) {
        rest.insert(name, tensor.clone());
    }
    Ok((rest, packed))
}

/// The tensors of a folder with `config.json`, under the names that its model knows them by. No number is read.
///
/// # Errors
/// As [`load`], and as [`Checkpoint::open`].
pub fn checkpoint(folder: &Path) -> Result<Checkpoint> {
    let reader = reader_of(folder)?;
    Checkpoint::open(folder)?.renamed(reader.name)
}

fn reader_of(folder: &Path) -> Result<&'static Reader> {
    let config: serde_json::Value = read_json(&folder.join("config.json"))?;
    let Some(name) = config.get("model_type").and_then(serde_json::Value::as_str) else {
        let known: Vec<_> = READERS.iter().map(|reader| format!("`{}`", reader.model_type)).collect();
        return Err(Error::format(
            folder.join("config.json"),
            format!("`model_type` is missing; the known ones are {}", known.join(", ")),
        ));
    };
    let reader = READERS.iter().find(|reader| reader.model_type == name);
    reader.ok_or_else(|| Error::unknown("model type", name, READERS.iter().map(|reader| reader.model_type)))
}

fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    serde_json::from_str(&text).map_err(|e| Error::format(file, e.to_string()))
}

/// The weights of a folder, whole or in shards.
fn read_weights(folder: &Path, device: &Device) -> Result<Params> {
    Checkpoint::open(folder)?.params(device)
}

/// The tensors a site has in the checkpoint, with their shapes.
fn shapes(site: &Site) -> Vec<(String, Vec<usize>)> {
    if site.kind == SiteKind::Block {
        return vec![];
    }
    let mut shapes = vec![(format!("{}.weight", site.name), site.weight_shape())];
    if site.bias {
        shapes.push((format!("{}.bias", site.name), vec![site.out]));
    }
    if site.kind == SiteKind::BatchNorm {
        shapes.extend(["running_mean", "running_var"].map(|part| (format!("{}.{part}", site.name), vec![site.out])));
    }
    shapes
}

/// Refuses weights that lack a tensor of a site, or have one of another shape or number type than the first.
/// A matrix may be packed instead.
fn check_weights(sites: &[Site], weights: &Params, packed: &BTreeMap<String, Packed>) -> Result<()> {
    let mut dtype = None;
    for (site, (name, shape)) in sites.iter().flat_map(|site| shapes(site).into_iter().map(move |s| (site, s))) {
        if let Some(matrix) = packed.get(&name) {
            if matrix.dims()[..] != shape {
                let (expected, got) = (format!("{shape:?}"), matrix.dims().to_vec());
                return Err(Error::Shape { what: format!("tensor `{name}`"), expected, got });
            }
            continue;
        }
        let tensor = weights.any(&name).ok_or_else(|| Error::unknown("tensor", &name, weights.names()))?;
        // A table may stand in a checkpoint as the only one of a batch.
        let got = tensor.shape();
        let got = if site.kind == SiteKind::Embedding {
            got.strip_prefix(&[1]).filter(|got| *got == shape).unwrap_or(&got)
        } else {
            &got
        };
        if *got != shape[..] {
            return Err(Error::Shape {
                what: format!("tensor `{name}`"),
                expected: format!("{shape:?}"),
                got: tensor.shape(),
            });
        }
        let first = *dtype.get_or_insert(tensor.dtype());
        if tensor.dtype() != first {
            return Err(Error::Unsupported {
                who: "a model".to_owned(),
                what: format!("mix number types: `{name}` is {:?}, others are {first:?}", tensor.dtype()),
                instead: "store the checkpoint in one type".to_owned(),
            });
        }
    }
    Ok(())
}

/// The largest whole number of a tensor of indices.
fn largest(ids: &burn::tensor::Tensor<2, burn::tensor::Int>) -> i64 {
    ids.to_data().iter::<i64>().max().unwrap_or(-1)
}

/// Random weights for every tensor of every site: `draw` is told the site, the tensor's name and its shape.
fn draw_weights(sites: &[Site], mut draw: impl FnMut(&Site, &str, &[usize]) -> AnyTensor) -> Params {
    let mut weights = Params::default();
    for site in sites {
        for (name, shape) in shapes(site) {
            let tensor = draw(site, &name, &shape);
            weights.insert(name, tensor);
        }
    }
    weights
}

/// The states that the first layer of a model over sequences gets: of `width` numbers each, or what `embed` makes of tokens.
fn first_states(who: &str, inputs: &Inputs, width: usize, embed: impl FnOnce(&Tokens) -> Result<Seq>) -> Result<Seq> {
    match inputs {
        Inputs::Tokens(tokens) => embed(tokens),
        Inputs::Embeddings(seq) if seq.h.dims()[2] == width => Ok(seq.clone()),
        Inputs::Embeddings(seq) => {
            let expected = format!("[batch, length, {width}]");
            Err(Error::Shape { what: "embeddings".to_owned(), expected, got: seq.h.dims().to_vec() })
        }
        Inputs::Images(_) | Inputs::Rows(_) => Err(wrong_inputs(who, "tokens or embeddings")),
    }
}

/// What a model says to inputs of another kind.
fn wrong_inputs(who: &str, takes: &str) -> Error {
    Error::Unsupported {
        who: who.to_owned(),
        what: "take inputs of this kind".to_owned(),
        instead: format!("give it {takes}"),
    }
}

/// Refuses sites that cannot be built from such a config.
fn positive(config: &str, fields: &[(&str, usize)]) -> Result<()> {
    match fields.iter().find(|(_, value)| *value == 0) {
        Some((field, _)) => Err(Error::Other(format!("{config}: `{field}` must be positive, got `0`"))),
        None => Ok(()),
    }
}
