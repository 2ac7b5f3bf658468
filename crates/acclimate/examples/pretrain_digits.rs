//! Pre-trains the quickstart's network on MNIST digits at 8 × 8: a full override of a seeded base, trained by D-Adaptation with
//! batch statistics, then merged, with running statistics taken over all training digits.
//!
//! `cargo run --release -p acclimate --example pretrain_digits -- FOLDER` writes `config.json` and `model.safetensors` there; the
//! committed ones in `crates/acclimate/assets/resnet-mnist8` come from this program.

#![allow(clippy::print_stdout, reason = "an example talks")]

use acclimate::core::{Batch, Inputs, Model, Patch, Result, Rng, find};
use acclimate::dataset::fit_task;
use acclimate::encode::Encoded;
use acclimate::models::{Resnet, ResnetConfig};
use acclimate::quickstart::Digits;
use acclimate::recipe::{Recipe, TaskKind};
use acclimate::tasks::{Prepared, TaskSpec};
use acclimate::train::{Trainer, predict_all};
use acclimate::{optim, peft};
use burn::tensor::{DType, Device};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// The first digits train, the rest tell how well.
const TRAIN: usize = 4500;

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "resnet-mnist8".to_owned()));
    let config = ResnetConfig {
        image: [1, 8, 8],
        classes: 10,
        widths: vec![16, 32],
        blocks: vec![1, 1],
        ..ResnetConfig::resnet18()
    };
    let base = Resnet::seeded(config.clone(), 0, DType::F32, &Device::flex())?;
    let recipe = Recipe { epochs: Some(20), batch_size: Some(64), ..Recipe::default() };
    let digits = Digits::Mnist.read()?;
    let data = Prepared {
        left: Encoded::new(&digits.inputs, (None, None), base.image(), TaskKind::Classification)?,
        right: None,
        labels: Some(digits.labels.clone()),
    };
    let spec = TaskSpec {
        kind: TaskKind::Classification,
        names: digits.labels.names().to_vec(),
        weights: vec![],
        scale: [0.0, 1.0],
        cuts: vec![],
    };
    let task = fit_task(spec, &digits.labels, false);
    let mut patch = Patch::new();
    let everything = peft::build("full", &toml::Table::new())?;
    peft::place(&mut patch, &base, "full", everything, None, &mut Rng::new(0, "patch", 0))?;
    let optimiser = find(optim::METHODS, &recipe.optim.method)?.build(&toml::Table::new())?;
    let trainer = Trainer {
        model: &base,
        task: task.as_ref(),
        data: &data,
        recipe: &recipe,
        optimiser: optimiser.as_ref(),
        normaliser: &Batch,
        stop: &AtomicBool::new(false),
    };
    let train: Vec<usize> = (0..TRAIN).collect();
    let test: Vec<usize> = (TRAIN..digits.len()).collect();
    let trained = trainer.train(patch, &train, &[], "pre-training", None, &mut |progress| {
        if progress.step % 100 == 0 {
            println!(
                "step {} of {}: loss {:.4} {:?}",
                progress.step, progress.total, progress.line.loss, progress.line.log
            );
        }
    })?;
    let batches: Vec<Inputs> = train.chunks(500).map(|rows| data.left.batch(rows, &base)).collect();
    let mut weights = trained.patch.merge(&base)?;
    for (name, tensor) in base.estimate_statistics(&batches, &trained.patch)?.iter() {
        weights.insert(name, tensor.clone());
    }
    let network = Resnet::from_weights(config, weights)?;
    network.save(&folder)?;
    let outputs = predict_all(&network, task.as_ref(), &data, &test, &acclimate::core::Pass::bare())?;
    let score = task.score(&outputs.iter().collect::<Vec<_>>(), &digits.labels.select(&test));
    println!("accuracy on {} held-out MNIST digits: {:.4}; written to {}", test.len(), score, folder.display());
    Ok(())
}
