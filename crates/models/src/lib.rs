//! Models: immutable weights under the checkpoint's own names.
//!
//! A model is read with [`load`] from a folder with `config.json` and `model.safetensors`, or made from weights in memory. It calls
//! the pass at its sites and knows no method.

mod bert;
mod resnet;
pub mod tiny;

pub use bert::{Bert, BertConfig, Pooling};
pub use resnet::{Norm, Resnet, ResnetConfig};

use acclimate_core::{AnyTensor, Error, Model, Params, Result, Site, SiteKind};
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use std::path::Path;

/// What `model_type` in `config.json` may say, and who reads the folder then.
type Reader = fn(&Path, &Device) -> Result<Box<dyn Model>>;
const READERS: [(&str, Reader); 2] = [
    ("bert", |folder, device| Ok(Box::new(Bert::load(folder, device)?))),
    ("resnet", |folder, device| Ok(Box::new(Resnet::load(folder, device)?))),
];

/// Reads a model from a folder; `model_type` in its `config.json` says which.
///
/// # Errors
/// When a file is missing or malformed, or the model type is unknown (the error names the known ones).
pub fn load(folder: &Path, device: &Device) -> Result<Box<dyn Model>> {
    let config: serde_json::Value = read_json(&folder.join("config.json"))?;
    let Some(name) = config.get("model_type").and_then(serde_json::Value::as_str) else {
        let known: Vec<_> = READERS.iter().map(|(name, _)| format!("`{name}`")).collect();
        return Err(Error::format(
            folder.join("config.json"),
            format!("`model_type` is missing; the known ones are {}", known.join(", ")),
        ));
    };
    let reader = READERS.iter().find(|(known, _)| *known == name).map(|(_, reader)| reader);
    reader.ok_or_else(|| Error::unknown("model type", name, READERS.map(|(name, _)| name)))?(folder, device)
}

fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    serde_json::from_str(&text).map_err(|e| Error::format(file, e.to_string()))
}

/// The tensors a site has in the checkpoint, with their shapes.
fn shapes(site: &Site) -> Vec<(String, Vec<usize>)> {
    let weight = match site.kind {
        SiteKind::Block => return vec![],
        SiteKind::Conv { kernel: [height, width], .. } => vec![site.out, site.input / (height * width), height, width],
        SiteKind::Norm | SiteKind::BatchNorm => vec![site.out],
        SiteKind::Linear | SiteKind::Embedding => vec![site.out, site.input],
    };
    let mut shapes = vec![(format!("{}.weight", site.name), weight)];
    if site.bias {
        shapes.push((format!("{}.bias", site.name), vec![site.out]));
    }
    if site.kind == SiteKind::BatchNorm {
        shapes.extend(["running_mean", "running_var"].map(|part| (format!("{}.{part}", site.name), vec![site.out])));
    }
    shapes
}

/// Refuses weights that lack a tensor of a site, or have one of another shape or number type than the first.
fn check_weights(sites: &[Site], weights: &Params) -> Result<()> {
    let mut dtype = None;
    for (name, shape) in sites.iter().flat_map(shapes) {
        let tensor = weights.any(&name).ok_or_else(|| Error::unknown("tensor", &name, weights.names()))?;
        if tensor.shape() != shape {
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
