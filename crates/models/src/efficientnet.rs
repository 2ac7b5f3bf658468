//! EfficientNet-Lite: inverted residual blocks for images, with batch norm and ReLU6.

use crate::{check_weights, positive, read_json, read_weights, vision};
use acclimate_core::{Activation, Inputs, Model, Outputs, Padding, Params, Pass, Result, Site, SiteKind};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, sync::OnceLock};

/// Blocks of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EfficientNetStage {
    /// Height and width of the kernels that filter channels by themselves.
    pub kernel: usize,
    /// Stride of the first block; the others have one.
    pub stride: usize,
    /// How many times as wide a block is inside.
    pub expand: usize,
    /// Channels.
    pub width: usize,
    /// Blocks.
    pub blocks: usize,
}

/// The architecture, as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EfficientNetConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Outputs of the head.
    pub classes: usize,
    /// Channels of the stem, which halves height and width.
    pub stem: usize,
    /// The stages.
    pub stages: Vec<EfficientNetStage>,
    /// Channels before the head.
    pub features: usize,
    /// Guards the division in norms.
    #[serde(default = "eps")]
    pub eps: f64,
}

fn eps() -> f64 {
    1e-3
}

impl EfficientNetConfig {
    /// EfficientNet-Lite0 for the thousand classes of ImageNet; its images are of 224 pixels, `(x − 127)/128`.
    pub fn lite0() -> Self {
        let stage =
            |(kernel, stride, expand, width, blocks)| EfficientNetStage { kernel, stride, expand, width, blocks };
        let stages = [
            (3, 1, 1, 16, 1),
            (3, 2, 6, 24, 2),
            (5, 2, 6, 40, 2),
            (3, 2, 6, 80, 3),
            (5, 1, 6, 112, 3),
            (5, 2, 6, 192, 4),
            (3, 1, 6, 320, 1),
        ];
        let stages = stages.map(stage).to_vec();
        Self { image: [3, 224, 224], classes: 1000, stem: 32, stages, features: 1280, eps: eps() }
    }

    fn check(&self) -> Result<()> {
        let [channels, height, width] = self.image;
        let (classes, stem, features) = (self.classes, self.stem, self.features);
        let sizes = [("channels", channels), ("height", height), ("width", width)];
        positive("efficientnet", &sizes)?;
        positive("efficientnet", &[("classes", classes), ("stem", stem), ("features", features)])?;
        for EfficientNetStage { kernel, stride, expand, width, blocks } in &self.stages {
            let sizes = [("kernel", *kernel), ("stride", *stride), ("expand", *expand)];
            positive("efficientnet", &sizes)?;
            positive("efficientnet", &[("width", *width), ("blocks", *blocks)])?;
        }
        Ok(())
    }

    /// Every site in forward order, and its blocks.
    pub(crate) fn sites(&self) -> (Vec<Site>, Vec<Block>) {
        let (mut sites, mut blocks, mut input) = (vec![], vec![], self.stem);
        sites.extend(unit(["_conv_stem".to_owned(), "_bn0".to_owned()], self.stem, self.image[0], 3, 2, 1));
        for stage in &self.stages {
            for i in 0..stage.blocks {
                let stride = if i == 0 { stage.stride } else { 1 };
                let (wide, widens) = (input * stage.expand, stage.expand > 1);
                let at = |part: &str| format!("_blocks.{}.{part}", blocks.len());
                if widens {
                    sites.extend(unit([at("_expand_conv"), at("_bn0")], wide, input, 1, 1, 1));
                }
                sites.extend(unit([at("_depthwise_conv"), at("_bn1")], wide, wide, stage.kernel, stride, wide));
                sites.extend(unit([at("_project_conv"), at("_bn2")], stage.width, wide, 1, 1, 1));
                blocks.push(Block { widens, adds: stride == 1 && input == stage.width });
                input = stage.width;
            }
        }
        sites.extend(unit(["_conv_head".to_owned(), "_bn1".to_owned()], self.features, input, 1, 1, 1));
        let (out, input) = (self.classes, self.features);
        sites.push(Site { name: "_fc".to_owned(), kind: SiteKind::Linear, out, input, bias: true });
        (sites, blocks)
    }
}

/// A convolution and its norm.
fn unit([conv, norm]: [String; 2], out: usize, input: usize, size: usize, stride: usize, groups: usize) -> [Site; 2] {
    let kind = SiteKind::Conv { kernel: [size, size], stride, padding: Padding::Same, groups };
    [
        Site { name: conv, kind, out, input: input / groups * size * size, bias: false },
        Site { name: norm, kind: SiteKind::BatchNorm, out, input: 1, bias: true },
    ]
}

/// What a block has besides its two last convolutions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Whether a convolution widens it first.
    widens: bool,
    /// Whether its input is added.
    adds: bool,
}

/// EfficientNet-Lite: a stem, blocks that widen, filter each channel by itself and narrow, a wide last layer, the mean over all pixels, and
/// a linear head. Convolutions pad as TensorFlow's "same".
#[derive(Debug)]
pub struct EfficientNet {
    config: EfficientNetConfig,
    weights: Params,
    sites: Vec<Site>,
    blocks: Vec<Block>,
    fingerprint: OnceLock<String>,
}

impl EfficientNet {
    /// Reads `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing or malformed.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::in_folder(folder, read_weights(folder, device)?)
    }

    /// The model that a folder's configuration describes, over weights in memory.
    pub(crate) fn in_folder(folder: &Path, weights: Params) -> Result<Self> {
        let config: EfficientNetConfig = read_json(&folder.join("config.json"))?;
        Self::from_weights(config, weights)
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        vision::save(folder, "efficientnet_lite", &self.config, &self.weights)
    }

    /// A model over weights in memory.
    ///
    /// # Errors
    /// When the config cannot be built, or a tensor is missing or has another shape.
    pub fn from_weights(config: EfficientNetConfig, weights: Params) -> Result<Self> {
        config.check()?;
        let (sites, blocks) = config.sites();
        check_weights(&sites, &weights, &BTreeMap::new())?;
        Ok(Self { config, weights, sites, blocks, fingerprint: OnceLock::new() })
    }

    /// An untrained model: normal weights with variance 2/inputs (He et al., 2015), norms that change nothing, a head of zeros.
    ///
    /// # Errors
    /// When the config cannot be built.
    pub fn seeded(config: EfficientNetConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        config.check()?;
        let weights = vision::untrained(&config.sites().0, seed, dtype, device);
        Self::from_weights(config, weights)
    }

    /// The config.
    pub fn config(&self) -> &EfficientNetConfig {
        &self.config
    }

    /// A convolution, its norm and what follows; takes their sites off the list.
    fn unit(&self, rest: &mut &[Site], x: Tensor<4>, after: Activation, pass: &Pass<'_>) -> Result<Tensor<4>> {
        let (here, later) = rest.split_at(2);
        *rest = later;
        pass.batch_norm(self, &here[1], pass.conv(self, &here[0], x)?, self.config.eps, after)
    }
}

impl Model for EfficientNet {
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
        self.config.features
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let x = vision::images("efficientnet", inputs, self.config.image[0])?;
        let mut rest = &self.sites[..];
        let mut x = self.unit(&mut rest, x.clone(), Activation::Relu6, pass)?;
        for block in &self.blocks {
            let past = block.adds.then(|| x.clone());
            if block.widens {
                x = self.unit(&mut rest, x, Activation::Relu6, pass)?;
            }
            x = self.unit(&mut rest, x, Activation::Relu6, pass)?;
            x = self.unit(&mut rest, x, Activation::Identity, pass)?;
            if let Some(past) = past {
                x = acclimate_kernels::add(x, past, Activation::Identity);
            }
        }
        let x = self.unit(&mut rest, x, Activation::Relu6, pass)?;
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

    #[test]
    fn lite0_has_the_numbers_it_is_known_for() {
        let (sites, _) = EfficientNetConfig::lite0().sites();
        assert_eq!(sites.iter().filter(|site| site.kind == SiteKind::BatchNorm).count(), 49);
        let count = |site: &Site| site.weight_shape().iter().product::<usize>() + if site.bias { site.out } else { 0 };
        assert_eq!(sites.iter().map(count).sum::<usize>(), 4_652_008);
    }

    #[test]
    fn a_saved_network_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::efficientnet(0, DType::F64);
        model.save(folder.path()).unwrap();
        let read = crate::load(folder.path(), crate::Base::Packed, &Device::flex()).unwrap();
        assert_eq!(read.fingerprint(), model.fingerprint());
        assert_eq!(read.sites(), model.sites());
    }

    #[test]
    fn a_stage_without_blocks_is_refused() {
        let mut config = tiny::efficientnet_config();
        config.stages[1].blocks = 0;
        let text = EfficientNet::seeded(config, 0, DType::F32, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "efficientnet: `blocks` must be positive, got `0`");
    }
}
