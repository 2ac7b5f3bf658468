//! A small residual network for images, with batch or group norm.

use crate::{check_weights, positive, read_json, read_weights, vision};
use acclimate_core::{
    Activation, Error, Inputs, Model, Outputs, Padding, Params, Pass, Patch, Recording, Result, Site, SiteKind,
};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, sync::OnceLock};

/// The norm after each convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Batch norm with running statistics.
    #[default]
    Batch,
    /// Group norm with so many groups.
    Group(usize),
}

/// The architecture, as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResnetConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Outputs of the head.
    pub classes: usize,
    /// Channels of each stage; the stem has those of the first. Every stage but the first halves height and width.
    pub widths: Vec<usize>,
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// The norms.
    #[serde(default)]
    pub norm: Norm,
    /// Guards the division in norms.
    #[serde(default = "eps")]
    pub eps: f64,
}

fn eps() -> f64 {
    1e-5
}

impl ResnetConfig {
    fn check(&self) -> Result<()> {
        let [channels, height, width] = self.image;
        positive("resnet", &[("channels", channels), ("height", height), ("width", width), ("classes", self.classes)])?;
        if self.widths.is_empty() || self.widths.len() != self.blocks.len() {
            let (widths, blocks) = (&self.widths, &self.blocks);
            return Err(Error::Other(format!(
                "resnet: `widths` and `blocks` must have an entry per stage each, got `{widths:?}` and `{blocks:?}`"
            )));
        }
        for (&width, &blocks) in self.widths.iter().zip(&self.blocks) {
            positive("resnet", &[("widths", width), ("blocks", blocks)])?;
            if let Norm::Group(groups) = self.norm
                && (groups == 0 || !width.is_multiple_of(groups))
            {
                return Err(Error::Other(format!(
                    "resnet: `norm` must have groups that divide {width} channels, got `{groups}`"
                )));
            }
        }
        Ok(())
    }

    fn unit(&self, path: [String; 2], out: usize, input: usize, size: usize, stride: usize) -> [Site; 2] {
        let [conv, norm] = path;
        let kind = SiteKind::Conv { kernel: [size, size], stride, padding: Padding::Even(size / 2), groups: 1 };
        let norm_kind = if self.norm == Norm::Batch { SiteKind::BatchNorm } else { SiteKind::Norm };
        [
            Site { name: conv, kind, out, input: input * size * size, bias: false },
            Site { name: norm, kind: norm_kind, out, input: 1, bias: true },
        ]
    }

    /// Every site in forward order, and for each block whether it has a shortcut of its own.
    pub(crate) fn sites(&self) -> (Vec<Site>, Vec<bool>) {
        let path = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let mut input = self.widths[0];
        let (mut sites, mut shortcuts) = (vec![], vec![]);
        sites.extend(self.unit(path("stem.conv", "stem.norm"), input, self.image[0], 3, 1));
        for (stage, (&out, &blocks)) in self.widths.iter().zip(&self.blocks).enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let at = |part: &str| format!("stages.{stage}.{block}.{part}");
                sites.extend(self.unit([at("conv1"), at("norm1")], out, input, 3, stride));
                sites.extend(self.unit([at("conv2"), at("norm2")], out, out, 3, 1));
                let shortcut = stride != 1 || input != out;
                if shortcut {
                    sites.extend(self.unit([at("shortcut.conv"), at("shortcut.norm")], out, input, 1, stride));
                }
                shortcuts.push(shortcut);
                input = out;
            }
        }
        sites.push(Site { name: "head".to_owned(), kind: SiteKind::Linear, out: self.classes, input, bias: true });
        (sites, shortcuts)
    }
}

/// A residual network: a stem, stages of blocks with two convolutions each, the mean over all pixels, a linear head.
#[derive(Debug)]
pub struct Resnet {
    config: ResnetConfig,
    weights: Params,
    sites: Vec<Site>,
    shortcuts: Vec<bool>,
    fingerprint: OnceLock<String>,
}

impl Resnet {
    /// Reads `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing or malformed.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::in_folder(folder, read_weights(folder, device)?)
    }

    /// The model that a folder's configuration describes, over weights in memory.
    pub(crate) fn in_folder(folder: &Path, weights: Params) -> Result<Self> {
        let config: ResnetConfig = read_json(&folder.join("config.json"))?;
        config.check()?;
        Self::from_weights(config, weights)
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        vision::save(folder, "resnet", &self.config, &self.weights)
    }

    /// A model over weights in memory.
    ///
    /// # Errors
    /// When the config cannot be built, or a tensor is missing or has another shape.
    pub fn from_weights(config: ResnetConfig, weights: Params) -> Result<Self> {
        config.check()?;
        let (sites, shortcuts) = config.sites();
        check_weights(&sites, &weights, &BTreeMap::new())?;
        Ok(Self { config, weights, sites, shortcuts, fingerprint: OnceLock::new() })
    }

    /// An untrained model: normal weights with variance 2/inputs (He et al., 2015), norms that change nothing, a head of zeros.
    ///
    /// # Errors
    /// When the config cannot be built.
    pub fn seeded(config: ResnetConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        config.check()?;
        let weights = vision::untrained(&config.sites().0, seed, dtype, device);
        Self::from_weights(config, weights)
    }

    /// The config.
    pub fn config(&self) -> &ResnetConfig {
        &self.config
    }

    /// Running statistics of every batch norm, over all batches together, each batch normalised by its own statistics: what a
    /// training with batch statistics leaves to be stored. Merge them into the weights.
    ///
    /// # Errors
    /// When a batch does not fit or is too small.
    pub fn estimate_statistics<'b>(
        &self,
        batches: impl IntoIterator<Item = &'b Inputs>,
        patch: &Patch,
    ) -> Result<Params> {
        let recording = Recording::default();
        for batch in batches {
            self.forward(batch, &Pass::new(patch).normaliser(&recording))?;
        }
        Ok(recording.into_params())
    }

    fn unit(&self, sites: &[Site], x: Tensor<4>, after: Activation, pass: &Pass<'_>) -> Result<Tensor<4>> {
        let (conv, norm) = (&sites[0], &sites[1]);
        let x = pass.conv(self, conv, x)?;
        match self.config.norm {
            Norm::Batch => pass.batch_norm(self, norm, x, self.config.eps, after),
            Norm::Group(groups) => pass.group_norm(self, norm, x, groups, self.config.eps, after),
        }
    }
}

impl Model for Resnet {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn weights(&self) -> &Params {
        &self.weights
    }

    fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| self.weights.fingerprint())
    }

    fn width(&self) -> usize {
        self.config.widths.last().copied().unwrap_or_default()
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let x = vision::images("resnet", inputs, self.config.image[0])?;
        let (stem, mut rest) = self.sites.split_at(2);
        let mut x = self.unit(stem, x.clone(), Activation::Relu, pass)?;
        for &shortcut in &self.shortcuts {
            let (here, after) = rest.split_at(if shortcut { 6 } else { 4 });
            let y = self.unit(&here[..2], x.clone(), Activation::Relu, pass)?;
            let y = self.unit(&here[2..4], y, Activation::Identity, pass)?;
            let past = if shortcut { self.unit(&here[4..], x, Activation::Identity, pass)? } else { x };
            x = acclimate_kernels::add(y, past, Activation::Relu);
            rest = after;
        }
        vision::classified(self, x, &rest[0], pass)
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self::from_weights(self.config.clone(), weights)?))
    }

    fn outputs(&self) -> Option<usize> {
        Some(self.config.classes)
    }

    fn head(&self) -> Option<&str> {
        self.sites.last().map(|site| site.name.as_str())
    }

    fn image(&self) -> Option<[usize; 3]> {
        Some(self.config.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use acclimate_core::{AnyTensor, Batch};

    #[test]
    fn a_saved_network_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for norm in [Norm::Batch, Norm::Group(4)] {
            let model = tiny::resnet_with(norm, 0, DType::F64);
            model.save(folder.path()).unwrap();
            let read = crate::load(folder.path(), crate::Base::Packed, &Device::flex()).unwrap();
            assert_eq!(read.fingerprint(), model.fingerprint());
            assert_eq!(read.sites(), model.sites());
        }
    }

    #[test]
    fn an_unknown_model_type_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "brt"}"#).unwrap();
        let text =
            crate::load(folder.path(), crate::Base::Packed, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "unknown model type `brt`; the nearest are `bert`, `llama`, `qwen2`");
    }

    #[test]
    fn estimated_statistics_of_one_batch_give_its_own_outputs() {
        let (model, batch) = (tiny::resnet(0, DType::F64), tiny::images(1, 6, DType::F64));
        let mut weights = model.weights().clone();
        for (name, tensor) in model.estimate_statistics([&batch], &Patch::new()).unwrap().iter() {
            weights.insert(name, tensor.clone());
        }
        let logits = |model: &Resnet, pass: &Pass<'_>| {
            AnyTensor::from(model.forward(&batch, pass).unwrap().logits.unwrap()).to_f64s()
        };
        let own = logits(&model, &Pass::bare().normaliser(&Batch));
        let stored = logits(&Resnet::from_weights(model.config().clone(), weights).unwrap(), &Pass::bare());
        assert_eq!(own, stored);
    }

    #[test]
    fn seeded_networks_differ_by_seed_alone() {
        let seeded =
            |seed| Resnet::seeded(tiny::resnet_config(Norm::Batch), seed, DType::F32, &Device::flex()).unwrap();
        assert_eq!(seeded(1).fingerprint(), seeded(1).fingerprint());
        assert_ne!(seeded(1).fingerprint(), seeded(2).fingerprint());
    }
}
