//! What networks for images share: norms, the scaling of pixels, how they are read in and out of memory, start untrained, and end in a class.

use crate::{check_weights, draw_weights, read_json, read_weights, wrong_inputs};
use acclimate_core::{
    Activation, AnyTensor, Error, Inputs, Model, Outputs, Padding, Params, Pass, Patch, Recording, Result, Rng, Site,
    SiteKind, write_safetensors, write_whole,
};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt, path::Path, sync::OnceLock};

/// The norm beside each convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Batch norm with running statistics.
    #[default]
    Batch,
    /// Group norm with so many groups.
    Group(usize),
    /// Layer norm over channels, height and width of each image, with a scale and a shift for each channel: a single group.
    Layer,
}

impl Norm {
    /// Refuses groups that do not divide the channels.
    pub(crate) fn check(self, who: &str, channels: usize) -> Result<()> {
        match self {
            Self::Group(groups) if groups == 0 || !channels.is_multiple_of(groups) => Err(Error::Other(format!(
                "{who}: `norm` must have groups that divide {channels} channels, got `{groups}`"
            ))),
            _ => Ok(()),
        }
    }

    /// Its site over so many channels.
    pub(crate) fn site(self, name: String, channels: usize) -> Site {
        let kind = if self == Self::Batch { SiteKind::BatchNorm } else { SiteKind::Norm };
        Site { name, kind, out: channels, input: 1, bias: true }
    }
}

/// A convolution's site, with a square kernel.
pub(crate) fn conv(name: String, [out, input]: [usize; 2], size: usize, stride: usize, padding: Padding) -> Site {
    let kind = SiteKind::Conv { kernel: [size; 2], stride, padding, groups: 1 };
    Site { name, kind, out, input: input * size * size, bias: false }
}

/// A linear head's site.
pub(crate) fn head(name: &str, out: usize, input: usize) -> Site {
    Site { name: name.to_owned(), kind: SiteKind::Linear, out, input, bias: true }
}

/// Keeps the largest number under each window; windows begin `stride` apart, and what lies outside counts as nothing.
pub(crate) fn max_pool(x: Tensor<4>, size: [usize; 2], stride: usize, padding: usize) -> Result<Tensor<4>> {
    let [_, _, height, width] = x.dims();
    if height + 2 * padding < size[0] || width + 2 * padding < size[1] {
        let expected = format!("[batch, channels, at least {}, at least {}] with its padding", size[0], size[1]);
        return Err(Error::Shape { what: "what is pooled".to_owned(), expected, got: x.dims().to_vec() });
    }
    let (stride, padding) = ([stride; 2], [(padding, padding); 2]);
    Ok(max_pool2d(x, MaxPoolOptions { kernel_size: size, stride, padding, dilation: [1, 1], ceil_mode: false }))
}

/// The mean over all pixels.
pub(crate) fn mean(x: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).mean_dim(2).squeeze_dim(2)
}

/// What a checkpoint's pixels are taken from and divided by before the first layer, a number for each channel. Everything outside the
/// network sees pixels between 0 and 1: the network scales them itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// What is subtracted.
    pub mean: Vec<f64>,
    /// What the rest is divided by.
    pub deviation: Vec<f64>,
}

/// The keys of `preprocessor_config.json` that tell the scaling.
#[derive(Deserialize)]
struct Preprocessor {
    #[serde(default = "yes")]
    do_normalize: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "byte")]
    rescale_factor: f64,
    #[serde(default)]
    image_mean: Vec<f64>,
    #[serde(default)]
    image_std: Vec<f64>,
}

fn yes() -> bool {
    true
}

/// What makes a byte a number between 0 and 1.
fn byte() -> f64 {
    1.0 / 255.0
}

impl Scaling {
    /// What the `preprocessor_config.json` of a folder asks for, where there is one. How it crops and resizes is not taken over: images
    /// are resized to the model's size as a whole.
    ///
    /// # Errors
    /// When the file is malformed.
    pub(crate) fn in_folder(folder: &Path, channels: usize) -> Result<Option<Self>> {
        let file = folder.join("preprocessor_config.json");
        if !file.exists() {
            return Ok(None);
        }
        let said: Preprocessor = read_json(&file)?;
        // Its numbers are those of bytes times a factor, ours those of bytes over 255.
        let factor = 255.0 * if said.do_rescale { said.rescale_factor } else { 1.0 };
        let scaling = if said.do_normalize {
            let over = |numbers: Vec<f64>| numbers.into_iter().map(|x| x / factor).collect();
            Self { mean: over(said.image_mean), deviation: over(said.image_std) }
        } else {
            Self { mean: vec![0.0; channels], deviation: vec![1.0 / factor; channels] }
        };
        Ok(Some(scaling))
    }

    /// Refuses what cannot scale so many channels.
    pub(crate) fn check(scaling: Option<&Self>, who: &str, channels: usize) -> Result<()> {
        let Some(Self { mean, deviation }) = scaling else { return Ok(()) };
        let sound = mean.len() == channels
            && deviation.len() == channels
            && mean.iter().all(|x| x.is_finite())
            && deviation.iter().all(|x| x.is_finite() && *x > 0.0);
        if sound {
            return Ok(());
        }
        Err(Error::Other(format!(
            "{who}: `scaling` must have a mean and a positive deviation for each of {channels} channels, got `{mean:?}` and `{deviation:?}`"
        )))
    }

    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let row = |numbers: &[f64]| {
            AnyTensor::from_f64s(numbers.to_vec(), &[1, numbers.len(), 1, 1], x.dtype(), &x.device())
                .get::<4>()
                .expect("made with four axes")
        };
        (x.clone() - row(&self.mean)) / row(&self.deviation)
    }
}

/// What tells one network for images from another; [`Network`] does the rest.
pub trait Architecture: Clone + fmt::Debug + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// What `model_type` in `config.json` says.
    const MODEL_TYPE: &'static str;

    /// What the configuration of a folder says; `weights` are those beside it.
    ///
    /// # Errors
    /// Names the file and what is missing or malformed.
    fn in_folder(folder: &Path, weights: &Params) -> Result<Self> {
        let _ = weights;
        read_json(&folder.join("config.json"))
    }

    /// What the model calls a tensor of the file.
    fn name(in_file: &str) -> String {
        in_file.to_owned()
    }

    /// What the file calls a tensor of the model, and the tensor as it is written.
    fn stored(name: &str, tensor: &AnyTensor) -> (String, AnyTensor) {
        (name.to_owned(), tensor.clone())
    }

    /// Refuses what cannot be built.
    ///
    /// # Errors
    /// Names the field and what would be right.
    fn check(&self) -> Result<()>;

    /// Channels, height and width of the images.
    fn image(&self) -> [usize; 3];

    /// How pixels are scaled.
    fn scaling(&self) -> Option<&Scaling> {
        None
    }

    /// Every site before the head in forward order, under the names that the weights have, where they tell.
    fn sites(&self, weights: &Params) -> Vec<Site>;

    /// The head, where it has one.
    fn head(&self, weights: &Params) -> Option<Site>;

    /// Width of what the head stands on.
    fn width(&self) -> usize;

    /// What the head stands on, `[batch, width]`, from scaled images.
    ///
    /// # Errors
    /// When the images or a patch do not fit.
    fn features(&self, walk: &mut Walk<'_>, x: Tensor<4>) -> Result<Tensor<2>>;
}

/// A network on its way through its sites, one after another.
pub struct Walk<'a> {
    model: &'a dyn Model,
    rest: &'a [Site],
    pass: &'a Pass<'a>,
}

impl<'a> Walk<'a> {
    /// What the pass is called with.
    pub fn model(&self) -> &'a dyn Model {
        self.model
    }

    /// What else is on.
    pub fn pass(&self) -> &'a Pass<'a> {
        self.pass
    }

    /// The next site.
    ///
    /// # Panics
    /// When the architecture lists fewer sites than it walks through.
    pub fn site(&mut self) -> &'a Site {
        let (site, rest) = self.rest.split_first().expect("a network has a site for each of its steps");
        self.rest = rest;
        site
    }

    /// The next sites.
    ///
    /// # Panics
    /// As [`Walk::site`].
    pub fn sites<const N: usize>(&mut self) -> &'a [Site; N] {
        let (sites, rest) = self.rest.split_first_chunk().expect("a network has a site for each of its steps");
        self.rest = rest;
        sites
    }

    /// The convolution at the next site.
    ///
    /// # Errors
    /// As [`Pass::conv`].
    pub fn conv(&mut self, x: Tensor<4>) -> Result<Tensor<4>> {
        self.pass.conv(self.model, self.site(), x)
    }

    /// The norm at the next site, and the activation after it.
    ///
    /// # Errors
    /// As [`Pass::batch_norm`] and [`Pass::group_norm`].
    pub fn norm(&mut self, norm: Norm, x: Tensor<4>, eps: f64, after: Activation) -> Result<Tensor<4>> {
        let site = self.site();
        match norm {
            Norm::Batch => self.pass.batch_norm(self.model, site, x, eps, after),
            Norm::Group(groups) => self.pass.group_norm(self.model, site, x, groups, eps, after),
            Norm::Layer => self.pass.group_norm(self.model, site, x, 1, eps, after),
        }
    }

    /// A convolution, its norm and what follows: the next two sites.
    ///
    /// # Errors
    /// As those two.
    pub fn unit(&mut self, norm: Norm, x: Tensor<4>, eps: f64, after: Activation) -> Result<Tensor<4>> {
        let x = self.conv(x)?;
        self.norm(norm, x, eps, after)
    }
}

/// A network for images: weights that never change and the architecture that tells how they are used.
#[derive(Debug)]
pub struct Network<A> {
    config: A,
    weights: Params,
    sites: Vec<Site>,
    /// Whether the last site is a head.
    headed: bool,
    fingerprint: OnceLock<String>,
}

/// `config.json` as it is written.
#[derive(Serialize)]
struct Written<'a, A> {
    model_type: &'a str,
    #[serde(flatten)]
    config: &'a A,
}

impl<A: Architecture> Network<A> {
    /// Reads `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Names the file, and the key or tensor that is missing or malformed.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::in_folder(folder, read_weights(folder, device)?)
    }

    /// The model that a folder's configuration describes, over weights in memory.
    pub(crate) fn in_folder(folder: &Path, weights: Params) -> Result<Self> {
        Self::from_weights(A::in_folder(folder, &weights)?, weights)
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let written = Written { model_type: A::MODEL_TYPE, config: &self.config };
        let text = serde_json::to_string_pretty(&written).expect("numbers and names") + "\n";
        let mut stored = Params::default();
        for (name, tensor) in self.weights.iter() {
            let (name, tensor) = A::stored(name, tensor);
            stored.insert(name, tensor);
        }
        write_safetensors(&folder.join("model.safetensors"), &stored, BTreeMap::new())?;
        write_whole(&folder.join("config.json"), text.as_bytes())
    }

    /// A model over weights in memory. Tensors of no site stay as they are.
    ///
    /// # Errors
    /// When the config cannot be built, or a tensor is missing or has another shape.
    pub fn from_weights(config: A, weights: Params) -> Result<Self> {
        let mut named = Params::default();
        for (name, tensor) in weights.iter() {
            named.insert(A::name(name), tensor.clone());
        }
        let weights = named;
        let (sites, headed) = sites(&config, &weights)?;
        check_weights(&sites, &weights, &BTreeMap::new())?;
        Ok(Self { config, weights, sites, headed, fingerprint: OnceLock::new() })
    }

    /// An untrained model: normal weights with variance 2/inputs in convolutions (He et al., 2015) and 1/inputs in linear layers, norms that
    /// change nothing, a head of zeros.
    ///
    /// # Errors
    /// When the config cannot be built.
    pub fn seeded(config: A, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let (sites, headed) = sites(&config, &Params::default())?;
        let head = sites.last().filter(|_| headed).map(|site| site.name.clone());
        let weights = draw_weights(&sites, |site, name, shape| {
            let variance = match site.kind {
                SiteKind::Conv { .. } => 2.0 / site.input as f64,
                SiteKind::Linear if head.as_ref() != Some(&site.name) => 1.0 / site.input as f64,
                // As the tables of vision transformers begin.
                SiteKind::Embedding => 0.02 * 0.02,
                _ => 0.0,
            };
            if variance > 0.0 && shape.len() > 1 {
                return Rng::new(seed, name, 0).normal_tensor(shape, variance.sqrt(), dtype, device);
            }
            let norm = matches!(site.kind, SiteKind::Norm | SiteKind::BatchNorm);
            let one = norm && (name.ends_with("running_var") || name.ends_with("weight"));
            AnyTensor::from_f64s(vec![f64::from(u8::from(one)); shape.iter().product()], shape, dtype, device)
        });
        Self::from_weights(config, weights)
    }

    /// The config.
    pub fn config(&self) -> &A {
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
}

/// Every site of a sound config, and whether the last is a head.
pub(crate) fn sites<A: Architecture>(config: &A, weights: &Params) -> Result<(Vec<Site>, bool)> {
    Scaling::check(config.scaling(), A::MODEL_TYPE, config.image()[0])?;
    config.check()?;
    let (mut sites, head) = (config.sites(weights), config.head(weights));
    let headed = head.is_some();
    sites.extend(head);
    Ok((sites, headed))
}

impl<A: Architecture> Model for Network<A> {
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
        self.config.width()
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let Inputs::Images(x) = inputs else { return Err(wrong_inputs(A::MODEL_TYPE, "images")) };
        let channels = self.config.image()[0];
        if x.dims()[1] != channels {
            let expected = format!("[batch, {channels}, height, width]");
            return Err(Error::Shape { what: "images".to_owned(), expected, got: x.dims().to_vec() });
        }
        let x = match self.config.scaling() {
            Some(scaling) => scaling.apply(x.clone()),
            None => x.clone(),
        };
        let features = self.config.features(&mut Walk { model: self, rest: &self.sites, pass }, x)?;
        let logits = match pass.head(features.clone())? {
            Some(logits) => Some(logits),
            None => self.head_site().map(|head| pass.linear(self, head, features.clone())).transpose()?,
        };
        Ok(Outputs { states: None, features, logits })
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self::from_weights(self.config.clone(), weights)?))
    }

    fn outputs(&self) -> Option<usize> {
        self.head_site().map(|head| head.out)
    }

    fn head(&self) -> Option<&str> {
        self.head_site().map(|head| head.name.as_str())
    }

    fn image(&self) -> Option<[usize; 3]> {
        Some(self.config.image())
    }
}

impl<A> Network<A> {
    fn head_site(&self) -> Option<&Site> {
        self.sites.last().filter(|_| self.headed)
    }
}

/// How many numbers are trained in a network of this config.
#[cfg(test)]
pub(crate) fn numbers<A: Architecture>(config: &A) -> usize {
    let (sites, _) = sites(config, &Params::default()).expect("a sound config");
    let count = |site: &Site| site.weight_shape().iter().product::<usize>() + if site.bias { site.out } else { 0 };
    sites.iter().filter(|site| site.kind != SiteKind::Block).map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    fn read_back<A: Architecture>(model: &Network<A>) {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let read = crate::load(folder.path(), crate::Base::Packed, &Device::flex()).unwrap();
        let numbers = |model: &dyn Model| -> BTreeMap<_, _> {
            model.weights().iter().map(|(name, tensor)| (name.to_owned(), tensor.to_f64s())).collect()
        };
        assert!(numbers(read.as_ref()) == numbers(model), "{} is not what was saved", A::MODEL_TYPE);
        assert_eq!(read.sites(), model.sites());
    }

    #[test]
    fn saved_networks_are_read_back() {
        for norm in [Norm::Batch, Norm::Group(4), Norm::Layer] {
            read_back(&tiny::resnet_with(norm, 0, DType::F64));
        }
        read_back(&tiny::convnet(Norm::Layer, 0, DType::F64));
        read_back(&tiny::wide_resnet(0, DType::F64));
        read_back(&tiny::efficientnet(0, DType::F64));
        read_back(&tiny::vit(0, DType::F64));
        read_back(&tiny::crepe(0, DType::F64));
    }

    #[test]
    fn layer_norm_is_a_single_group() {
        let [one, layer] = [Norm::Group(1), Norm::Layer].map(|norm| {
            let outputs =
                tiny::resnet_with(norm, 0, DType::F64).forward(&tiny::images(1, 2, DType::F64), &Pass::bare());
            AnyTensor::from(outputs.unwrap().logits.unwrap()).to_f64s()
        });
        assert_eq!(one, layer);
    }

    #[test]
    fn a_preprocessor_of_bytes_becomes_a_scaling_of_shares() {
        let folder = tempfile::tempdir().unwrap();
        let tell = |text: &str| {
            std::fs::write(folder.path().join("preprocessor_config.json"), text).unwrap();
            Scaling::in_folder(folder.path(), 1).unwrap().unwrap()
        };
        assert_eq!(
            tell(r#"{"do_normalize": true, "image_mean": [0.5], "image_std": [0.25], "size": 224}"#),
            Scaling { mean: vec![0.5], deviation: vec![0.25] }
        );
        assert_eq!(
            tell(r#"{"do_rescale": false, "image_mean": [127.5], "image_std": [51]}"#),
            Scaling { mean: vec![0.5], deviation: vec![0.2] }
        );
        let bytes = tell(r#"{"do_normalize": false, "do_rescale": false}"#);
        assert_eq!(bytes, Scaling { mean: vec![0.0], deviation: vec![1.0 / 255.0] });
    }

    #[test]
    fn a_scaling_of_other_channels_is_refused() {
        let scaling = Scaling { mean: vec![0.5; 3], deviation: vec![0.5; 3] };
        let text = Scaling::check(Some(&scaling), "resnet", 1).unwrap_err().to_string();
        assert!(
            text.starts_with("resnet: `scaling` must have a mean and a positive deviation for each of 1"),
            "{text}"
        );
    }
}
