//! The networks that streams run on, trained on the spot.

use crate::dataset::{self, fit_task};
use crate::encode::Encoded;
use crate::quickstart::Digits;
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::{Prepared, TaskSpec};
use crate::train::Trainer;
use crate::tune;
use acclimate_core::{AnyTensor, Batch, Error, Inputs, Model, Normaliser, Patch, Result, Rng, Source};
use acclimate_data::{Assets, Examples, Image, Labels, Target};
use acclimate_models::{Architecture, ConvnetConfig, Network, Norm, ResnetConfig};
use burn::tensor::{DType, Device};
use serde::Deserialize;
use std::sync::atomic::AtomicBool;

/// Rows per reference batch.
const REFERENCE: usize = 64;

/// A network and the pictures it is trained on, for each seed anew.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Its name in the list.
    pub name: String,
    data: String,
    network: NetworkSpec,
    /// Pictures that train.
    train: usize,
    /// Pictures of the streams; all others where nothing is said.
    test: Option<usize>,
    epochs: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "model_type", rename_all = "snake_case", deny_unknown_fields)]
enum NetworkSpec {
    Convnet { norm: Norm },
    Resnet { norm: Norm },
}

/// A trained network with its pictures.
pub(super) struct Drawn {
    pub(super) model: Box<dyn Model>,
    pub(super) images: Vec<Image>,
    pub(super) labels: Vec<usize>,
    pub(super) reference: Vec<Inputs>,
    pub(super) reference_labels: Vec<Vec<usize>>,
}

impl HostSpec {
    pub(super) fn draw(&self, seed: u64, assets: &Assets) -> Result<Drawn> {
        let examples = match self.data.as_str() {
            "optdigits" => Digits::Optdigits.read()?,
            "mnist" => Digits::Mnist.read()?,
            other => {
                let opened = dataset::open(other, &Recipe::default(), assets)?;
                let kind = TaskKind::Classification;
                Examples::read(&opened.table, &opened.columns_for(kind), &Target::Classes { names: None })?
            }
        };
        let (acclimate_data::Inputs::Features { width, values }, Labels::Classes { names, index }) =
            (&examples.inputs, &examples.labels)
        else {
            return Err(Error::Other(format!("{}: is no table of pixels with classes", self.data)));
        };
        let side = (*width as f64).sqrt() as usize;
        // The same rows train and test whatever the seed, as a data set's own halves do.
        let mut order: Vec<usize> = (0..index.len()).collect();
        Rng::new(0, "bench tta rows", 0).shuffle(&mut order);
        let (train, rest) = order.split_at(self.train.min(order.len()));
        let test = &rest[..self.test.unwrap_or(rest.len()).min(rest.len())];
        let image = [1, side, side];
        let model: Box<dyn Model> = match &self.network {
            NetworkSpec::Convnet { norm } => {
                let config = ConvnetConfig { image, classes: names.len(), norm: *norm, ..ConvnetConfig::digits() };
                trained(config, *norm, &examples, train, self.epochs, seed)?
            }
            NetworkSpec::Resnet { norm } => {
                let (widths, blocks) = (vec![16, 32], vec![1, 1]);
                let small = ResnetConfig {
                    image,
                    classes: names.len(),
                    widths,
                    blocks,
                    norm: *norm,
                    ..ResnetConfig::resnet18()
                };
                trained(small, *norm, &examples, train, self.epochs, seed)?
            }
        };
        let picture = |row: &usize| {
            let values = values[row * width..(row + 1) * width].to_vec();
            Image { channels: 1, height: side, width: side, values }
        };
        let reference = train[..train.len().min(8 * REFERENCE)].chunks(REFERENCE);
        let (reference, reference_labels) = reference
            .map(|rows| {
                let images: Vec<Image> = rows.iter().map(picture).collect();
                (batch(&images), rows.iter().map(|row| index[*row]).collect::<Vec<_>>())
            })
            .unzip();
        let labels = test.iter().map(|row| index[*row]).collect();
        Ok(Drawn { model, images: test.iter().map(picture).collect(), labels, reference, reference_labels })
    }
}

/// A network trained from scratch by AdamW, with the statistics of all training rows stored.
fn trained<A: Architecture>(
    config: A,
    norm: Norm,
    examples: &Examples,
    rows: &[usize],
    epochs: usize,
    seed: u64,
) -> Result<Box<dyn Model>>
where
    Network<A>: Model + 'static,
{
    let base = Network::seeded(config, seed, DType::F32, &Device::flex())?;
    let table = toml::toml! {
        optim = { method = "adamw", lr = 3e-3, weight_decay = 1e-3 }
        batch_size = 64
    };
    let recipe = Recipe { seed, epochs: Some(epochs), ..Recipe::from_table(&table)? };
    let data = Prepared {
        left: Encoded::new(&examples.inputs, (None, None), base.image(), TaskKind::Classification)?,
        right: None,
        labels: Some(examples.labels.clone()),
    };
    let (kind, names) = (TaskKind::Classification, examples.labels.names().to_vec());
    let spec = TaskSpec { kind, names, weights: vec![], scale: [0.0, 1.0], cuts: vec![] };
    let task = fit_task(spec, &examples.labels, false);
    let mut patch = Patch::new();
    let everything = acclimate_peft::build("full", &toml::Table::new())?;
    acclimate_peft::place(&mut patch, &base, "full", everything, None, &mut Rng::new(seed, "patch", 0))?;
    let optimiser = tune::optimiser(&recipe)?;
    let normaliser: &dyn Normaliser = if norm == Norm::Batch { &Batch } else { &Source };
    let (model, stop) = (&base, &AtomicBool::new(false));
    let trainer = Trainer {
        model,
        task: task.as_ref(),
        data: &data,
        recipe: &recipe,
        optimiser: optimiser.as_ref(),
        normaliser,
        stop,
    };
    let patch = trainer.train(patch, rows, &[], "", None, &mut |_| ())?.patch;
    let mut weights = patch.merge(&base)?;
    if norm == Norm::Batch {
        let batches: Vec<Inputs> = rows.chunks(500).map(|rows| data.left.batch(rows, &base)).collect();
        for (name, tensor) in base.estimate_statistics(&batches, &patch)?.iter() {
            weights.insert(name, tensor.clone());
        }
    }
    base.with_weights(weights)
}

/// Images of one size as one batch.
pub(super) fn batch(images: &[Image]) -> Inputs {
    let shape = images.first().map_or([0; 3], |image| [image.channels, image.height, image.width]);
    let values = images.iter().flat_map(|image| image.values.iter().copied()).collect();
    let shape = [images.len(), shape[0], shape[1], shape[2]];
    Inputs::Images(AnyTensor::from_f32s(values, &shape, &Device::flex()).get().expect("made with four axes"))
}
