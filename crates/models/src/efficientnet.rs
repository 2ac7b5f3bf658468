//! EfficientNet-Lite: inverted residual blocks for images, with batch norm and ReLU6.

use crate::positive;
use crate::vision::{self, Architecture, Network, Norm, Scaling, Walk};
use acclimate_core::{Activation, Padding, Params, Result, Site, SiteKind};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

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
    /// How pixels are scaled; not at all where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

fn eps() -> f64 {
    1e-3
}

impl EfficientNetConfig {
    /// EfficientNet-Lite0 for the thousand classes of ImageNet; its images are of 224 pixels, their bytes taken as `(x − 127)/128`.
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
        let scaling = Some(Scaling { mean: vec![127.0 / 255.0; 3], deviation: vec![128.0 / 255.0; 3] });
        Self { image: [3, 224, 224], classes: 1000, stem: 32, stages, features: 1280, eps: eps(), scaling }
    }

    /// Every block in forward order.
    fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut input) = (vec![], self.stem);
        for stage in &self.stages {
            for i in 0..stage.blocks {
                let stride = if i == 0 { stage.stride } else { 1 };
                blocks.push(Block { widths: [input, input * stage.expand, stage.width], kernel: stage.kernel, stride });
                input = stage.width;
            }
        }
        blocks
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

/// One block.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Channels that come in, inside and out.
    widths: [usize; 3],
    kernel: usize,
    stride: usize,
}

impl Block {
    /// Whether a convolution widens it first.
    fn widens(self) -> bool {
        self.widths[1] > self.widths[0]
    }

    /// Whether its input is added.
    fn adds(self) -> bool {
        self.stride == 1 && self.widths[0] == self.widths[2]
    }
}

/// EfficientNet-Lite: a stem, blocks that widen, filter each channel by itself and narrow, a wide last layer, the mean over all pixels, and
/// a linear head. Convolutions pad as TensorFlow's "same".
pub type EfficientNet = Network<EfficientNetConfig>;

impl Architecture for EfficientNetConfig {
    const MODEL_TYPE: &'static str = "efficientnet_lite";

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

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn scaling(&self) -> Option<&Scaling> {
        self.scaling.as_ref()
    }

    fn sites(&self, _: &Params) -> Vec<Site> {
        let mut sites = vec![];
        sites.extend(unit(["_conv_stem".to_owned(), "_bn0".to_owned()], self.stem, self.image[0], 3, 2, 1));
        for (number, block) in self.blocks().into_iter().enumerate() {
            let Block { widths: [input, inside, out], kernel, stride } = block;
            let at = |part: &str| format!("_blocks.{number}.{part}");
            if block.widens() {
                sites.extend(unit([at("_expand_conv"), at("_bn0")], inside, input, 1, 1, 1));
            }
            sites.extend(unit([at("_depthwise_conv"), at("_bn1")], inside, inside, kernel, stride, inside));
            sites.extend(unit([at("_project_conv"), at("_bn2")], out, inside, 1, 1, 1));
        }
        let last = self.stages.last().map_or(self.stem, |stage| stage.width);
        sites.extend(unit(["_conv_head".to_owned(), "_bn1".to_owned()], self.features, last, 1, 1, 1));
        sites
    }

    fn head(&self, _: &Params) -> Option<Site> {
        Some(vision::head("_fc", self.classes, self.features))
    }

    fn width(&self) -> usize {
        self.features
    }

    fn features(&self, walk: &mut Walk<'_>, x: Tensor<4>) -> Result<Tensor<2>> {
        let mut unit = |x, after| walk.unit(Norm::Batch, x, self.eps, after);
        let mut x = unit(x, Activation::Relu6)?;
        for block in self.blocks() {
            let past = block.adds().then(|| x.clone());
            if block.widens() {
                x = unit(x, Activation::Relu6)?;
            }
            x = unit(x, Activation::Relu6)?;
            x = unit(x, Activation::Identity)?;
            if let Some(past) = past {
                x = acclimate_kernels::add(x, past, Activation::Identity);
            }
        }
        Ok(vision::mean(unit(x, Activation::Relu6)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use burn::tensor::{DType, Device};

    #[test]
    fn lite0_has_the_numbers_it_is_known_for() {
        let (sites, _) = vision::sites(&EfficientNetConfig::lite0(), &Params::default()).unwrap();
        assert_eq!(sites.iter().filter(|site| site.kind == SiteKind::BatchNorm).count(), 49);
        assert_eq!(vision::numbers(&EfficientNetConfig::lite0()), 4_652_008);
    }

    #[test]
    fn a_stage_without_blocks_is_refused() {
        let mut config = tiny::efficientnet_config();
        config.stages[1].blocks = 0;
        let text = EfficientNet::seeded(config, 0, DType::F32, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "efficientnet: `blocks` must be positive, got `0`");
    }
}
