//! Residual networks for images, with batch, group or layer norm: those of their paper for small images and for ImageNet.

use crate::vision::{self, Architecture, Network, Norm, Scaling, Walk};
use crate::{positive, read_json};
use acclimate_core::{Activation, Error, Padding, Params, Result, Site};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// How a network begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A convolution of 3 × 3: for images of a few dozen pixels.
    #[default]
    Small,
    /// A convolution of 7 × 7 and a maximum over 3 × 3, each of which halves height and width: for ImageNet.
    Large,
}

/// The architecture, as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResnetConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Outputs of the head.
    pub classes: usize,
    /// How it begins.
    #[serde(default)]
    pub stem: Stem,
    /// Channels of each stage; the stem has those of the first. Every stage but the first halves height and width.
    pub widths: Vec<usize>,
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// Whether a block narrows, filters and widens with three convolutions, to four times its `widths`; otherwise it has two.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bottleneck: bool,
    /// The norms.
    #[serde(default)]
    pub norm: Norm,
    /// Guards the division in norms.
    #[serde(default = "eps")]
    pub eps: f64,
    /// How pixels are scaled; not at all where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

fn eps() -> f64 {
    1e-5
}

/// What `config.json` says in a folder of Hugging Face's `ResNetForImageClassification`; how it is built is in the names of its weights.
#[derive(Deserialize)]
struct Foreign {
    #[serde(default = "three")]
    num_channels: usize,
    embedding_size: usize,
    hidden_sizes: Vec<usize>,
    depths: Vec<usize>,
    layer_type: String,
    hidden_act: String,
    #[serde(default)]
    downsample_in_first_stage: bool,
    #[serde(default)]
    downsample_in_bottleneck: bool,
    id2label: Option<BTreeMap<String, String>>,
}

fn three() -> usize {
    3
}

/// Who named the weights.
#[derive(Clone, Copy)]
enum Names {
    Own,
    Torchvision,
    HuggingFace,
}

impl Names {
    /// Whose the names of these weights are.
    fn of(weights: &Params) -> Self {
        let some = |start: &str| weights.names().any(|name| name.starts_with(start));
        if some("layer1.") {
            Self::Torchvision
        } else if some("resnet.") {
            Self::HuggingFace
        } else {
            Self::Own
        }
    }

    /// The paths of the stem's convolution and norm.
    fn stem(self) -> [String; 2] {
        let pair = match self {
            Self::Own => ["stem.conv", "stem.norm"],
            Self::Torchvision => ["conv1", "bn1"],
            Self::HuggingFace => ["resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"],
        };
        pair.map(str::to_owned)
    }

    /// The paths of a block's convolution number `unit`, from zero, and its norm.
    fn unit(self, block: &Block, unit: usize) -> [String; 2] {
        let (Block { stage, number, .. }, n) = (block, unit + 1);
        match self {
            Self::Own => ["conv", "norm"].map(|part| format!("stages.{stage}.{number}.{part}{n}")),
            Self::Torchvision => ["conv", "bn"].map(|part| format!("layer{}.{number}.{part}{n}", stage + 1)),
            Self::HuggingFace => ["convolution", "normalization"]
                .map(|part| format!("resnet.encoder.stages.{stage}.layers.{number}.layer.{unit}.{part}")),
        }
    }

    /// The paths of a block's shortcut.
    fn shortcut(self, Block { stage, number, .. }: &Block) -> [String; 2] {
        match self {
            Self::Own => ["conv", "norm"].map(|part| format!("stages.{stage}.{number}.shortcut.{part}")),
            Self::Torchvision => ["0", "1"].map(|part| format!("layer{}.{number}.downsample.{part}", stage + 1)),
            Self::HuggingFace => ["convolution", "normalization"]
                .map(|part| format!("resnet.encoder.stages.{stage}.layers.{number}.shortcut.{part}")),
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::Own => "head",
            Self::Torchvision => "fc",
            Self::HuggingFace => "classifier.1",
        }
    }
}

/// One convolution of a block: its width, the size of its kernel and its stride.
type Filter = (usize, usize, usize);

/// One block.
struct Block {
    stage: usize,
    /// Within its stage.
    number: usize,
    /// Channels that come in.
    input: usize,
    filters: Vec<Filter>,
    stride: usize,
}

impl Block {
    fn out(&self) -> usize {
        self.filters.last().map_or(self.input, |filter| filter.0)
    }

    /// Whether what goes past it needs a convolution to fit.
    fn shortcut(&self) -> bool {
        self.stride != 1 || self.input != self.out()
    }
}

impl ResnetConfig {
    /// ResNet-18 for ten classes of small images in colour, 32 × 32.
    pub fn resnet18() -> Self {
        Self {
            image: [3, 32, 32],
            classes: 10,
            stem: Stem::Small,
            widths: vec![64, 128, 256, 512],
            blocks: vec![2; 4],
            bottleneck: false,
            norm: Norm::Batch,
            eps: eps(),
            scaling: None,
        }
    }

    /// ResNet-26 for the same images: three stages of four blocks with 16, 32 and 64 channels, as He et al. (2016) have their networks of
    /// 6n + 2 layers. A stage that widens has a convolution beside its first block, where theirs pads with zeros.
    pub fn resnet26() -> Self {
        Self { widths: vec![16, 32, 64], blocks: vec![4; 3], ..Self::resnet18() }
    }

    /// ResNet-50 for the thousand classes of ImageNet.
    pub fn resnet50() -> Self {
        let scaling = Some(Scaling { mean: vec![0.485, 0.456, 0.406], deviation: vec![0.229, 0.224, 0.225] });
        let (blocks, stem) = (vec![3, 4, 6, 3], Stem::Large);
        Self { image: [3, 224, 224], classes: 1000, blocks, stem, bottleneck: true, scaling, ..Self::resnet18() }
    }

    /// Every block in forward order.
    fn layout(&self) -> Vec<Block> {
        let (mut blocks, mut input) = (vec![], self.widths[0]);
        for (stage, (&width, &count)) in self.widths.iter().zip(&self.blocks).enumerate() {
            for number in 0..count {
                let stride = if stage > 0 && number == 0 { 2 } else { 1 };
                let filters = if self.bottleneck {
                    vec![(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
                } else {
                    vec![(width, 3, stride), (width, 3, 1)]
                };
                let block = Block { stage, number, input, filters, stride };
                input = block.out();
                blocks.push(block);
            }
        }
        blocks
    }

    /// A convolution that keeps the size but for its stride, and its norm.
    fn unit(&self, [conv, norm]: [String; 2], input: usize, (out, size, stride): Filter) -> [Site; 2] {
        [vision::conv(conv, [out, input], size, stride, Padding::Even(size / 2)), self.norm.site(norm, out)]
    }

    /// What a folder of Hugging Face's says.
    fn foreign(folder: &Path, said: Foreign, weights: &Params) -> Result<Self> {
        let file = folder.join("config.json");
        let refused = |what: &str| Error::format(&file, format!("{what} is not offered; choose another checkpoint"));
        if said.hidden_act != "relu" {
            return Err(refused(&format!("the activation `{}`", said.hidden_act)));
        }
        if said.downsample_in_first_stage || said.downsample_in_bottleneck {
            return Err(refused("a first stage that halves, or a stride at a block's first convolution,"));
        }
        let bottleneck = match said.layer_type.as_str() {
            "basic" => false,
            "bottleneck" => true,
            other => return Err(refused(&format!("a layer of type `{other}`"))),
        };
        let parts = if bottleneck { 4 } else { 1 };
        let widths: Vec<usize> = said.hidden_sizes.iter().map(|width| width / parts).collect();
        if said.hidden_sizes.iter().any(|width| width % parts != 0) || widths.first() != Some(&said.embedding_size) {
            return Err(refused("a stem of another width than the first stage"));
        }
        // The head tells how many classes there are where their names are not told.
        let head = weights.any("classifier.1.bias").map(|bias| bias.count());
        let classes = said.id2label.map(|names| names.len()).or(head).unwrap_or_default();
        let channels = said.num_channels;
        Ok(Self {
            image: [channels, 224, 224],
            classes,
            stem: Stem::Large,
            widths,
            blocks: said.depths,
            bottleneck,
            norm: Norm::Batch,
            eps: eps(),
            scaling: Scaling::in_folder(folder, channels)?,
        })
    }
}

/// A residual network: a stem, stages of blocks with two convolutions each, or three, the mean over all pixels, a linear head. Its weights
/// may have torchvision's names or those of Hugging Face's `ResNetForImageClassification`.
pub type Resnet = Network<ResnetConfig>;

impl Architecture for ResnetConfig {
    const MODEL_TYPE: &'static str = "resnet";

    fn in_folder(folder: &Path, weights: &Params) -> Result<Self> {
        let file = folder.join("config.json");
        let said: serde_json::Value = read_json(&file)?;
        if said.get("hidden_sizes").is_none() {
            return serde_json::from_value(said).map_err(|e| Error::format(&file, e.to_string()));
        }
        let said = serde_json::from_value(said).map_err(|e| Error::format(&file, e.to_string()))?;
        Self::foreign(folder, said, weights)
    }

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
            self.norm.check("resnet", width)?;
        }
        Ok(())
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn scaling(&self) -> Option<&Scaling> {
        self.scaling.as_ref()
    }

    fn sites(&self, weights: &Params) -> Vec<Site> {
        let names = Names::of(weights);
        let (size, stride) = if self.stem == Stem::Large { (7, 2) } else { (3, 1) };
        let mut sites = self.unit(names.stem(), self.image[0], (self.widths[0], size, stride)).to_vec();
        for block in self.layout() {
            let mut input = block.input;
            for (number, &filter) in block.filters.iter().enumerate() {
                sites.extend(self.unit(names.unit(&block, number), input, filter));
                input = filter.0;
            }
            if block.shortcut() {
                sites.extend(self.unit(names.shortcut(&block), block.input, (block.out(), 1, block.stride)));
            }
        }
        sites
    }

    fn head(&self, weights: &Params) -> Option<Site> {
        Some(vision::head(Names::of(weights).head(), self.classes, self.width()))
    }

    fn width(&self) -> usize {
        self.widths.last().map_or(0, |width| if self.bottleneck { 4 * width } else { *width })
    }

    fn features(&self, walk: &mut Walk<'_>, x: Tensor<4>) -> Result<Tensor<2>> {
        let mut unit = |x, after| walk.unit(self.norm, x, self.eps, after);
        let mut x = unit(x, Activation::Relu)?;
        if self.stem == Stem::Large {
            x = vision::max_pool(x, [3, 3], 2, 1)?;
        }
        for block in self.layout() {
            let mut y = x.clone();
            for number in 1..=block.filters.len() {
                let last = number == block.filters.len();
                y = unit(y, if last { Activation::Identity } else { Activation::Relu })?;
            }
            let past = if block.shortcut() { unit(x, Activation::Identity)? } else { x };
            x = acclimate_kernels::add(y, past, Activation::Relu);
        }
        Ok(vision::mean(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use acclimate_core::{AnyTensor, Batch, Model, Pass, Patch};
    use burn::tensor::{DType, Device};

    #[test]
    fn an_unknown_model_type_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "brt"}"#).unwrap();
        let text =
            crate::load(folder.path(), crate::Base::Packed, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "unknown model type `brt`; the nearest are `bert`, `vit`, `crepe`");
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

    #[test]
    fn networks_have_the_numbers_they_are_known_for() {
        let imagenet =
            ResnetConfig { image: [3, 224, 224], classes: 1000, stem: Stem::Large, ..ResnetConfig::resnet18() };
        assert_eq!(vision::numbers(&imagenet), 11_689_512);
        assert_eq!(vision::numbers(&ResnetConfig::resnet18()), 11_173_962);
        assert_eq!(vision::numbers(&ResnetConfig::resnet50()), 25_557_032);
    }
}
