//! Vision transformers, as Hugging Face's `ViTForImageClassification` has them.

use crate::positive;
use crate::vision::{Architecture, Network, Scaling, Walk};
use acclimate_core::{Activation, AnyTensor, Error, Padding, Params, Result, Seq, Site, SiteKind, Visible};
use acclimate_kernels::{add, gelu};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The keys of `config.json` that matter; others are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Height and width of the images.
    #[serde(default = "sides")]
    pub image_size: usize,
    /// Height and width of the patches they are cut into.
    #[serde(default = "patch")]
    pub patch_size: usize,
    /// Channels of the images.
    #[serde(default = "three")]
    pub num_channels: usize,
    /// Width of the states.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// The activation; `gelu` is offered.
    #[serde(default = "gelu_name")]
    pub hidden_act: String,
    /// Guards the division in layer norms.
    #[serde(default = "eps")]
    pub layer_norm_eps: f64,
    /// Whether queries, keys and values have biases.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// What the classes are called, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id2label: Option<BTreeMap<String, String>>,
    /// How many classes there are where they are not called anything; two where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
    /// How pixels are scaled; read from `preprocessor_config.json`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

fn sides() -> usize {
    224
}
fn patch() -> usize {
    16
}
fn three() -> usize {
    3
}
fn gelu_name() -> String {
    "gelu".to_owned()
}
fn eps() -> f64 {
    1e-12
}
fn yes() -> bool {
    true
}

/// The parameters that are no module of the checkpoint, and so have no `.weight` there.
const TABLES: [&str; 2] = ["embeddings.cls_token", "embeddings.position_embeddings"];

impl VitConfig {
    /// Outputs of the head.
    fn classes(&self) -> usize {
        self.id2label.as_ref().map(BTreeMap::len).or(self.num_labels).unwrap_or(2)
    }

    /// Patches of an image.
    fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

/// A vision transformer: patches and a class token with their positions, layers that normalise before they attend and feed forward, a last
/// norm. `features` are the class token's states. A checkpoint of the bare `ViTModel` has no head.
pub type Vit = Network<VitConfig>;

/// Whether the checkpoint is of the bare model, without a head.
fn bare(weights: &Params) -> bool {
    weights.names().any(|name| name.starts_with("embeddings."))
}

impl Architecture for VitConfig {
    const MODEL_TYPE: &'static str = "vit";

    fn in_folder(folder: &Path, _: &Params) -> Result<Self> {
        let mut config: Self = crate::read_json(&folder.join("config.json"))?;
        if let Some(scaling) = Scaling::in_folder(folder, config.num_channels)? {
            config.scaling = Some(scaling);
        }
        Ok(config)
    }

    fn name(in_file: &str) -> String {
        if TABLES.iter().any(|table| in_file.ends_with(table)) {
            format!("{in_file}.weight")
        } else {
            in_file.to_owned()
        }
    }

    fn stored(name: &str, tensor: &AnyTensor) -> (String, AnyTensor) {
        match name.strip_suffix(".weight").filter(|path| TABLES.iter().any(|table| path.ends_with(table))) {
            Some(path) => {
                let tensor = tensor.get::<2>().map_or_else(|| tensor.clone(), |t| t.unsqueeze::<3>().into());
                (path.to_owned(), tensor)
            }
            None => (name.to_owned(), tensor.clone()),
        }
    }

    fn check(&self) -> Result<()> {
        positive(
            "vit",
            &[
                ("image_size", self.image_size),
                ("patch_size", self.patch_size),
                ("num_channels", self.num_channels),
                ("hidden_size", self.hidden_size),
                ("num_attention_heads", self.num_attention_heads),
                ("intermediate_size", self.intermediate_size),
                ("num_labels", self.classes()),
            ],
        )?;
        let refused = |what: String, instead: &str| {
            Err(Error::Unsupported { who: "vit".to_owned(), what, instead: instead.to_owned() })
        };
        if !self.image_size.is_multiple_of(self.patch_size) {
            let what = format!("cut {} pixels into patches of {}", self.image_size, self.patch_size);
            return refused(what, "check `image_size` and `patch_size` in config.json");
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let what = format!("divide `hidden_size` {} among {} heads", self.hidden_size, self.num_attention_heads);
            return refused(what, "check `num_attention_heads` in config.json");
        }
        if self.hidden_act != "gelu" {
            let what = format!("use the activation `{}`", self.hidden_act);
            return refused(what, "choose a checkpoint whose `hidden_act` is `gelu`");
        }
        Ok(())
    }

    fn image(&self) -> [usize; 3] {
        [self.num_channels, self.image_size, self.image_size]
    }

    fn scaling(&self) -> Option<&Scaling> {
        self.scaling.as_ref()
    }

    fn sites(&self, weights: &Params) -> Vec<Site> {
        let (width, inner, size) = (self.hidden_size, self.intermediate_size, self.patch_size);
        let prefix = if bare(weights) { "" } else { "vit." };
        let site =
            |name: &str, kind, out, input, bias| Site { name: format!("{prefix}{name}"), kind, out, input, bias };
        let kind = SiteKind::Conv { kernel: [size; 2], stride: size, padding: Padding::Even(0), groups: 1 };
        let mut sites = vec![
            site(TABLES[0], SiteKind::Embedding, 1, width, false),
            site(TABLES[1], SiteKind::Embedding, 1 + self.patches(), width, false),
            site("embeddings.patch_embeddings.projection", kind, width, self.num_channels * size * size, true),
        ];
        for layer in 0..self.num_hidden_layers {
            let at = |part: &str| format!("encoder.layer.{layer}.{part}");
            let linear = |part: &str, out, input, bias| site(&at(part), SiteKind::Linear, out, input, bias);
            let norm = |part: &str| site(&at(part), SiteKind::Norm, width, 1, true);
            let block = |part: &str| site(&at(part), SiteKind::Block, width, width, false);
            sites.extend([
                norm("layernorm_before"),
                linear("attention.attention.query", width, width, self.qkv_bias),
                linear("attention.attention.key", width, width, self.qkv_bias),
                linear("attention.attention.value", width, width, self.qkv_bias),
                linear("attention.output.dense", width, width, true),
                block("attention.output"),
                norm("layernorm_after"),
                linear("intermediate.dense", inner, width, true),
                linear("output.dense", width, inner, true),
                block("output"),
            ]);
        }
        sites.push(site("layernorm", SiteKind::Norm, width, 1, true));
        sites
    }

    fn head(&self, weights: &Params) -> Option<Site> {
        (!bare(weights)).then(|| crate::vision::head("classifier", self.classes(), self.hidden_size))
    }

    fn width(&self) -> usize {
        self.hidden_size
    }

    fn features(&self, walk: &mut Walk<'_>, x: Tensor<4>) -> Result<Tensor<2>> {
        let ([batch, channels, height, width], side) = (x.dims(), self.image_size);
        if [height, width] != [side; 2] {
            let expected = format!("[batch, {channels}, {side}, {side}]");
            return Err(Error::Shape { what: "images".to_owned(), expected, got: x.dims().to_vec() });
        }
        let (model, pass, eps) = (walk.model(), walk.pass(), self.layer_norm_eps);
        let (class, positions) = (walk.site(), walk.site());
        let patches = walk.conv(x)?.reshape([batch, self.hidden_size, self.patches()]).swap_dims(1, 2);
        let (device, dtype) = (patches.device(), patches.dtype());
        let first = Tensor::<2, Int>::from_data(TensorData::new(vec![0_i64], [1, 1]), &device);
        let class = pass.embedding(model, class, first)?.expand([batch, 1, self.hidden_size]);
        let h = Tensor::cat(vec![class, patches], 1);
        let seq = Seq::new(h, Tensor::ones([batch, 1 + self.patches()], (&device, dtype)));
        let places = pass.embedding(model, positions, seq.positions.clone())?;
        let mut seq = pass.tokens(seq.with(seq.h.clone() + places))?;
        for _ in 0..self.num_hidden_layers {
            let [norm, query, key, value, mix, attention, fed_norm, inner, outer, feed] = walk.sites();
            let before = seq.h.clone();
            let normed = pass.layer_norm(model, norm, seq.h.clone(), eps)?;
            let mixed = pass.block(attention, seq.with(normed), &mut |seq| {
                let project = |site| pass.linear(model, site, seq.h.clone());
                let (keys, heads) = (Visible::Keys(seq.hidden()), self.num_attention_heads);
                let mixed = pass.attention(project(query)?, project(key)?, project(value)?, &keys, heads);
                Ok(seq.with(pass.linear(model, mix, mixed)?))
            })?;
            let h = add(mixed.h.clone(), before, Activation::Identity);
            let normed = pass.layer_norm(model, fed_norm, h.clone(), eps)?;
            let fed = pass.block(feed, mixed.with(normed), &mut |seq| {
                let x = gelu(pass.linear(model, inner, seq.h.clone())?);
                Ok(seq.with(pass.linear(model, outer, x)?))
            })?;
            seq = fed.with(add(fed.h.clone(), h, Activation::Identity));
        }
        let h = pass.layer_norm(model, walk.site(), seq.h.clone(), eps)?;
        Ok(seq.with(h).first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use acclimate_core::{Model, Pass, read_safetensors};
    use burn::tensor::{DType, Device};

    #[test]
    fn a_saved_transformer_has_the_names_and_shapes_of_hugging_face() {
        let folder = tempfile::tempdir().unwrap();
        tiny::vit(0, DType::F64).save(folder.path()).unwrap();
        let (stored, _) = read_safetensors(&folder.path().join("model.safetensors"), &Device::flex()).unwrap();
        assert_eq!(stored.any("vit.embeddings.cls_token").unwrap().shape(), [1, 1, 16]);
        assert_eq!(stored.any("vit.embeddings.position_embeddings").unwrap().shape(), [1, 5, 16]);
    }

    #[test]
    fn a_bare_model_has_features_and_no_head() {
        let model = tiny::vit(0, DType::F64);
        let mut weights = Params::default();
        for (name, tensor) in model.weights().iter() {
            if let Some(name) = name.strip_prefix("vit.") {
                weights.insert(name, tensor.clone());
            }
        }
        let bare = Vit::from_weights(model.config().clone(), weights).unwrap();
        assert_eq!((bare.outputs(), bare.head()), (None, None));
        let images = tiny::images(1, 2, DType::F64);
        let features = |model: &Vit| {
            let outputs = model.forward(&images, &Pass::bare()).unwrap();
            (acclimate_core::AnyTensor::from(outputs.features).to_f64s(), outputs.logits.is_some())
        };
        let (whole, logits) = features(&model);
        assert!(logits);
        assert_eq!(features(&bare), (whole, false));
    }

    #[test]
    fn what_is_not_offered_is_refused_with_a_way_out() {
        let refused = |config| Vit::seeded(config, 0, DType::F32, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        let config = tiny::vit_config();
        assert_eq!(
            refused(VitConfig { patch_size: 3, ..config.clone() }),
            "vit cannot cut 8 pixels into patches of 3; check `image_size` and `patch_size` in config.json"
        );
        assert_eq!(
            refused(VitConfig { hidden_act: "quick_gelu".to_owned(), ..config }),
            "vit cannot use the activation `quick_gelu`; choose a checkpoint whose `hidden_act` is `gelu`"
        );
    }
}
