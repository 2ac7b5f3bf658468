//! Plain convolutional networks for images, with batch, group or layer norm.

use crate::positive;
use crate::vision::{self, Architecture, Network, Norm, Scaling, Walk};
use acclimate_core::{Activation, Error, Padding, Params, Result, Site};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// A convolution, its norm, ReLU and, where asked for, the maximum over squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvnetBlock {
    /// Channels.
    pub width: usize,
    /// Height and width of the kernel, an odd number: the size stays but for the stride.
    #[serde(default = "three")]
    pub kernel: usize,
    /// Stride of the convolution.
    #[serde(default = "one")]
    pub stride: usize,
    /// Side of the squares of which the largest number is kept; one keeps all.
    #[serde(default = "one")]
    pub pool: usize,
}

fn three() -> usize {
    3
}
fn one() -> usize {
    1
}
fn eps() -> f64 {
    1e-5
}

/// The architecture, as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvnetConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Outputs of the head.
    pub classes: usize,
    /// The blocks.
    pub blocks: Vec<ConvnetBlock>,
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

impl ConvnetConfig {
    /// For digits of 8 × 8: blocks of 3 × 3 with 16, 32 and 32 channels, the second with stride 2.
    pub fn digits() -> Self {
        let block = |(width, stride)| ConvnetBlock { width, kernel: 3, stride, pool: 1 };
        let blocks = [(16, 1), (32, 2), (32, 1)].map(block).to_vec();
        Self { image: [1, 8, 8], classes: 10, blocks, norm: Norm::Batch, eps: eps(), scaling: None }
    }
}

/// A plain network: blocks one after another, the mean over all pixels, a linear head.
pub type Convnet = Network<ConvnetConfig>;

impl Architecture for ConvnetConfig {
    const MODEL_TYPE: &'static str = "convnet";

    fn check(&self) -> Result<()> {
        let [channels, height, width] = self.image;
        let sizes = [("channels", channels), ("height", height), ("width", width), ("classes", self.classes)];
        positive("convnet", &sizes)?;
        positive("convnet", &[("blocks", self.blocks.len())])?;
        for ConvnetBlock { width, kernel, stride, pool } in &self.blocks {
            positive("convnet", &[("width", *width), ("stride", *stride), ("pool", *pool)])?;
            if kernel % 2 == 0 {
                return Err(Error::Other(format!("convnet: `kernel` must be odd, got `{kernel}`")));
            }
            self.norm.check("convnet", *width)?;
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
        let (mut sites, mut input) = (vec![], self.image[0]);
        for (number, block) in self.blocks.iter().enumerate() {
            let at = |part: &str| format!("blocks.{number}.{part}");
            let &ConvnetBlock { width, kernel, stride, .. } = block;
            let conv = vision::conv(at("conv"), [width, input], kernel, stride, Padding::Even(kernel / 2));
            sites.extend([conv, self.norm.site(at("norm"), width)]);
            input = width;
        }
        sites
    }

    fn head(&self, _: &Params) -> Option<Site> {
        Some(vision::head("head", self.classes, self.width()))
    }

    fn width(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.width)
    }

    fn features(&self, walk: &mut Walk<'_>, mut x: Tensor<4>) -> Result<Tensor<2>> {
        for block in &self.blocks {
            x = walk.unit(self.norm, x, self.eps, Activation::Relu)?;
            if block.pool > 1 {
                x = vision::max_pool(x, [block.pool; 2], block.pool, 0)?;
            }
        }
        Ok(vision::mean(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;
    use acclimate_core::{Inputs, Model, Pass};
    use burn::tensor::{DType, Device};

    #[test]
    fn an_even_kernel_is_refused() {
        let mut config = ConvnetConfig::digits();
        config.blocks[1].kernel = 2;
        let text = Convnet::seeded(config, 0, DType::F32, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "convnet: `kernel` must be odd, got `2`");
    }

    #[test]
    fn images_too_small_to_pool_are_refused() {
        let model = tiny::convnet(Norm::Batch, 0, DType::F64);
        let one = Inputs::Images(Tensor::zeros([1, 1, 1, 1], (&Device::flex(), DType::F64)));
        let text = model.forward(&one, &Pass::bare()).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("at least 2, at least 2"), "{text}");
    }

    #[test]
    fn scaled_pixels_are_those_scaled_before() {
        let plain = tiny::convnet(Norm::Batch, 0, DType::F64);
        let scaling = Some(Scaling { mean: vec![0.25], deviation: vec![0.5] });
        let config = ConvnetConfig { scaling, ..plain.config().clone() };
        let scaled = Convnet::from_weights(config, plain.weights().clone()).unwrap();
        let Inputs::Images(x) = tiny::images(1, 2, DType::F64) else { panic!("images") };
        let logits = |model: &Convnet, x| {
            let outputs = model.forward(&Inputs::Images(x), &Pass::bare()).unwrap();
            acclimate_core::AnyTensor::from(outputs.logits.unwrap()).to_f64s()
        };
        assert_eq!(logits(&scaled, x.clone() * 0.5 + 0.25), logits(&plain, (x * 0.5 + 0.25 - 0.25) / 0.5));
    }
}
