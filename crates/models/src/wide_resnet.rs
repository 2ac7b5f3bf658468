//! Wide residual networks for small images: blocks that normalise before they filter.

use crate::positive;
use crate::vision::{self, Architecture, Network, Norm, Scaling, Walk};
use acclimate_core::{Activation, Error, Padding, Params, Result, Site};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The architecture, as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WideResnetConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Outputs of the head.
    pub classes: usize,
    /// Layers: 6n + 4, with n blocks in each of three stages.
    pub depth: usize,
    /// How many times as wide as the stem the first stage is; each later one is twice as wide as the one before.
    pub widen: usize,
    /// Channels of the stem.
    #[serde(default = "stem")]
    pub stem: usize,
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

fn stem() -> usize {
    16
}
fn eps() -> f64 {
    1e-5
}

/// One block.
struct Block {
    path: String,
    input: usize,
    out: usize,
    stride: usize,
}

impl Block {
    /// Whether what goes past it needs a convolution to fit.
    fn shortcut(&self) -> bool {
        self.stride != 1 || self.input != self.out
    }
}

impl WideResnetConfig {
    /// WRN-28-10 for ten classes of small images in colour, 32 × 32.
    pub fn wrn28_10() -> Self {
        let (image, norm) = ([3, 32, 32], Norm::Batch);
        Self { image, classes: 10, depth: 28, widen: 10, stem: stem(), norm, eps: eps(), scaling: None }
    }

    /// WRN-40-2 for the same images.
    pub fn wrn40_2() -> Self {
        Self { depth: 40, widen: 2, ..Self::wrn28_10() }
    }

    /// Channels of a stage, counted from zero.
    fn stage(&self, number: usize) -> usize {
        (self.stem * self.widen) << number
    }

    /// Every block in forward order.
    fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut input) = (vec![], self.stem);
        for stage in 0..3 {
            for number in 0..(self.depth - 4) / 6 {
                let (out, stride) = (self.stage(stage), if stage > 0 && number == 0 { 2 } else { 1 });
                blocks.push(Block { path: format!("block{}.layer.{number}", stage + 1), input, out, stride });
                input = out;
            }
        }
        blocks
    }
}

/// A wide residual network (Zagoruyko and Komodakis, 2016): a stem, three stages of blocks with two convolutions, each after its norm and
/// ReLU, a last norm and ReLU, the mean over all pixels, a linear head. The first norm of a block that widens stands before its shortcut
/// too. The names are those of the PyTorch version that benchmarks of robustness use.
pub type WideResnet = Network<WideResnetConfig>;

impl Architecture for WideResnetConfig {
    const MODEL_TYPE: &'static str = "wide_resnet";

    fn check(&self) -> Result<()> {
        let [channels, height, width] = self.image;
        let sizes = [("channels", channels), ("height", height), ("width", width), ("classes", self.classes)];
        positive("wide_resnet", &sizes)?;
        positive("wide_resnet", &[("widen", self.widen), ("stem", self.stem)])?;
        if self.depth < 10 || self.depth % 6 != 4 {
            return Err(Error::Other(format!(
                "wide_resnet: `depth` must be 10, 16, 22 or more such, got `{}`",
                self.depth
            )));
        }
        self.norm.check("wide_resnet", self.stem)
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn scaling(&self) -> Option<&Scaling> {
        self.scaling.as_ref()
    }

    fn sites(&self, _: &Params) -> Vec<Site> {
        let filter = |name: String, widths, stride| vision::conv(name, widths, 3, stride, Padding::Even(1));
        let mut sites = vec![filter("conv1".to_owned(), [self.stem, self.image[0]], 1)];
        for block in self.blocks() {
            let Block { path, input, out, stride } = &block;
            let at = |part: &str| format!("{path}.{part}");
            sites.extend([
                self.norm.site(at("bn1"), *input),
                filter(at("conv1"), [*out, *input], *stride),
                self.norm.site(at("bn2"), *out),
                filter(at("conv2"), [*out, *out], 1),
            ]);
            if block.shortcut() {
                sites.push(vision::conv(at("convShortcut"), [*out, *input], 1, *stride, Padding::Even(0)));
            }
        }
        sites.push(self.norm.site("bn1".to_owned(), self.width()));
        sites
    }

    fn head(&self, _: &Params) -> Option<Site> {
        Some(vision::head("fc", self.classes, self.width()))
    }

    fn width(&self) -> usize {
        self.stage(2)
    }

    fn features(&self, walk: &mut Walk<'_>, x: Tensor<4>) -> Result<Tensor<2>> {
        let mut x = walk.conv(x)?;
        for block in self.blocks() {
            let normed = walk.norm(self.norm, x.clone(), self.eps, Activation::Relu)?;
            let past = if block.shortcut() { normed.clone() } else { x };
            let y = walk.conv(normed)?;
            let y = walk.norm(self.norm, y, self.eps, Activation::Relu)?;
            let y = walk.conv(y)?;
            let past = if block.shortcut() { walk.conv(past)? } else { past };
            x = acclimate_kernels::add(y, past, Activation::Identity);
        }
        Ok(vision::mean(walk.norm(self.norm, x, self.eps, Activation::Relu)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    #[test]
    fn networks_have_the_numbers_they_are_known_for() {
        assert_eq!(vision::numbers(&WideResnetConfig::wrn28_10()), 36_479_194);
        assert_eq!(vision::numbers(&WideResnetConfig::wrn40_2()), 2_243_546);
    }

    #[test]
    fn a_depth_between_the_steps_is_refused() {
        let config = WideResnetConfig { depth: 27, ..WideResnetConfig::wrn28_10() };
        let text = WideResnet::seeded(config, 0, DType::F32, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "wide_resnet: `depth` must be 10, 16, 22 or more such, got `27`");
    }
}
