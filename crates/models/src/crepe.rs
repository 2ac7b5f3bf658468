//! CREPE: a convolutional network that hears the pitch of a voice or an instrument, as `torchcrepe` has it.

use crate::positive;
use crate::vision::{self, Architecture, Network, Norm, Walk};
use acclimate_core::{Activation, Error, Padding, Params, Result, Site, SiteKind};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What the frame's length is divided by: the first convolution's stride, then a half after each of six.
const SHORTENED: usize = 4 << 6;

/// Guards the division in the published network's norms.
const EPS: f64 = 0.001_000_000_047_497_451_3;

/// The architecture, as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrepeConfig {
    /// Samples of a frame, 1024 at 16 kHz in the published networks. A frame is fed as an image of so many rows and one column.
    #[serde(default = "frame")]
    pub frame: usize,
    /// Channels of the six convolutions.
    pub widths: [usize; 6],
    /// Outputs: in the published networks pitches 20 cents apart, from 31.7 Hz on.
    #[serde(default = "pitches")]
    pub classes: usize,
}

fn frame() -> usize {
    1024
}
fn pitches() -> usize {
    360
}

impl CrepeConfig {
    /// The smallest published network.
    pub fn tiny() -> Self {
        Self { frame: frame(), widths: [128, 16, 16, 16, 32, 64], classes: pitches() }
    }

    /// The largest published network.
    pub fn full() -> Self {
        Self { widths: [1024, 128, 128, 128, 256, 512], ..Self::tiny() }
    }
}

/// CREPE (Kim et al., 2018): six convolutions along time, each followed by ReLU, batch norm and the maximum over pairs, and a linear head on
/// what is left. Every frame is brought to mean 0 and deviation 1 first. Logits are those before the sigmoid: each output is a pitch by
/// itself.
pub type Crepe = Network<CrepeConfig>;

impl Architecture for CrepeConfig {
    const MODEL_TYPE: &'static str = "crepe";

    fn check(&self) -> Result<()> {
        let widths = self.widths.map(|width| ("widths", width));
        positive("crepe", &widths)?;
        positive("crepe", &[("frame", self.frame), ("classes", self.classes)])?;
        if !self.frame.is_multiple_of(SHORTENED) {
            return Err(Error::Other(format!(
                "crepe: `frame` must be a multiple of {SHORTENED}, got `{}`",
                self.frame
            )));
        }
        Ok(())
    }

    fn image(&self) -> [usize; 3] {
        [1, self.frame, 1]
    }

    fn sites(&self, _: &Params) -> Vec<Site> {
        let (mut sites, mut input) = (vec![], 1);
        for (at, &out) in self.widths.iter().enumerate() {
            let (size, stride) = if at == 0 { (512, 4) } else { (64, 1) };
            let kind = SiteKind::Conv { kernel: [size, 1], stride, padding: Padding::Same, groups: 1 };
            let name = format!("conv{}", at + 1);
            sites.push(Site { name: name.clone(), kind, out, input: input * size, bias: true });
            sites.push(Norm::Batch.site(format!("{name}_BN"), out));
            input = out;
        }
        sites
    }

    fn head(&self, _: &Params) -> Option<Site> {
        Some(vision::head("classifier", self.classes, self.width()))
    }

    fn width(&self) -> usize {
        self.widths[5] * (self.frame / SHORTENED)
    }

    fn features(&self, walk: &mut Walk<'_>, x: Tensor<4>) -> Result<Tensor<2>> {
        let [batch, channels, length, columns] = x.dims();
        if [length, columns] != [self.frame, 1] {
            let expected = format!("[batch, {channels}, {}, 1]", self.frame);
            return Err(Error::Shape { what: "frames".to_owned(), expected, got: x.dims().to_vec() });
        }
        let x = x.clone() - x.mean_dim(2);
        // Silence has no deviation, and stays silence.
        let deviation = (x.clone().square().sum_dim(2) / (length - 1) as f64).sqrt().clamp_min(1e-10);
        let mut x = x / deviation;
        for _ in self.widths {
            let y = burn::tensor::activation::relu(walk.conv(x)?);
            x = vision::max_pool(walk.norm(Norm::Batch, y, EPS, Activation::Identity)?, [2, 1], 2, 0)?;
        }
        // Moment by moment, the channels of each together.
        Ok(x.squeeze_dim::<3>(3).swap_dims(1, 2).reshape([batch, self.width()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::{AnyTensor, Inputs, Model, Pass};
    use burn::tensor::{DType, Device};

    #[test]
    fn loudness_and_offset_of_a_frame_do_not_matter() {
        let model = crate::tiny::crepe(0, DType::F64);
        let Inputs::Images(x) = crate::tiny::frames(1, 2, DType::F64) else { panic!("frames are images") };
        let logits =
            |x| AnyTensor::from(model.forward(&Inputs::Images(x), &Pass::bare()).unwrap().logits.unwrap()).to_f64s();
        let (plain, louder) = (logits(x.clone()), logits(x * 3.0 + 0.5));
        // A few hundred roundings in f64.
        assert!(plain.iter().zip(&louder).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn silence_gives_finite_numbers() {
        let model = crate::tiny::crepe(0, DType::F32);
        let silence = Inputs::Images(Tensor::zeros([1, 1, 256, 1], &Device::flex()));
        let logits = model.forward(&silence, &Pass::bare()).unwrap().logits.unwrap();
        assert!(AnyTensor::from(logits).to_f64s().iter().all(|x| x.is_finite()));
    }

    #[test]
    fn a_frame_that_cannot_be_halved_is_refused() {
        let config = CrepeConfig { frame: 1000, ..CrepeConfig::tiny() };
        let text = Crepe::seeded(config, 0, DType::F32, &Device::flex()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(text, "crepe: `frame` must be a multiple of 256, got `1000`");
    }
}
