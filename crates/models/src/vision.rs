//! What networks for images share: how they are read in and out of memory, start untrained, and end in a class.

use crate::{draw_weights, wrong_inputs};
use acclimate_core::{
    AnyTensor, Error, Inputs, Model, Outputs, Params, Pass, Result, Rng, Site, SiteKind, write_safetensors, write_whole,
};
use burn::tensor::{DType, Device, Tensor};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};

/// `config.json` as it is written.
#[derive(Serialize)]
struct Written<'a, C> {
    model_type: &'a str,
    #[serde(flatten)]
    config: &'a C,
}

/// Writes `config.json` and `model.safetensors`.
pub(crate) fn save(folder: &Path, model_type: &str, config: &impl Serialize, weights: &Params) -> Result<()> {
    let text = serde_json::to_string_pretty(&Written { model_type, config }).expect("numbers and names") + "\n";
    write_safetensors(&folder.join("model.safetensors"), weights, BTreeMap::new())?;
    write_whole(&folder.join("config.json"), text.as_bytes())
}

/// Weights of an untrained network: normal ones with variance 2/inputs (He et al., 2015), norms that change nothing, a head of zeros.
pub(crate) fn untrained(sites: &[Site], seed: u64, dtype: DType, device: &Device) -> Params {
    draw_weights(sites, |site, name, shape| match site.kind {
        SiteKind::Conv { .. } => {
            let deviation = (2.0 / site.input as f64).sqrt();
            Rng::new(seed, name, 0).normal_tensor(shape, deviation, dtype, device)
        }
        _ => {
            let one = name.ends_with("running_var") || (name.ends_with("weight") && shape.len() == 1);
            AnyTensor::from_f64s(vec![f64::from(u8::from(one)); shape.iter().product()], shape, dtype, device)
        }
    })
}

/// The images among inputs, `[batch, channels, height, width]`.
pub(crate) fn images<'a>(who: &str, inputs: &'a Inputs, channels: usize) -> Result<&'a Tensor<4>> {
    let Inputs::Images(x) = inputs else { return Err(wrong_inputs(who, "images")) };
    if x.dims()[1] != channels {
        let expected = format!("[batch, {channels}, height, width]");
        return Err(Error::Shape { what: "images".to_owned(), expected, got: x.dims().to_vec() });
    }
    Ok(x)
}

/// The mean over all pixels, and what the patch's head or the model's own makes of it.
pub(crate) fn classified(model: &dyn Model, x: Tensor<4>, head: &Site, pass: &Pass<'_>) -> Result<Outputs> {
    let [batch, channels, height, width] = x.dims();
    let features: Tensor<2> = x.reshape([batch, channels, height * width]).mean_dim(2).squeeze_dim(2);
    let logits = match pass.head(features.clone())? {
        Some(logits) => logits,
        None => pass.linear(model, head, features.clone())?,
    };
    Ok(Outputs { states: None, features, logits: Some(logits) })
}
