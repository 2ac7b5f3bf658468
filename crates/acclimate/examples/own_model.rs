//! A user's own Burn module becomes a host for any method: list its sites, call the pass at them, keep the rest as it is.
//!
//! `cargo run --release -p acclimate --example own_model`

#![allow(clippy::print_stdout, reason = "an example talks")]

use acclimate::core::{
    AnyTensor, Error, HeadStart, Inputs, Model, Outputs, Params, Pass, Patch, Result, Rng, Site, SiteKind, Targets,
};
use acclimate::{optim, peft};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

/// The module as it was before acclimate: two layers of a network somebody trained.
struct Mlp {
    first: Linear,
    second: Linear,
}

/// The same network as a host: frozen weights under names, and a forward that calls the pass.
struct Host {
    weights: Params,
    sites: Vec<Site>,
    fingerprint: String,
}

impl Host {
    fn new(mlp: &Mlp) -> Self {
        let mut weights = Params::default();
        for (name, layer) in [("first", &mlp.first), ("second", &mlp.second)] {
            // Burn stores `[in, out]`; checkpoints and adapters speak of `[out, in]`.
            weights.insert(format!("{name}.weight"), layer.weight.val().transpose());
            if let Some(bias) = &layer.bias {
                weights.insert(format!("{name}.bias"), bias.val());
            }
        }
        Self::from_weights(weights)
    }

    fn from_weights(weights: Params) -> Self {
        let site = |name: &str| {
            let shape = weights.any(&format!("{name}.weight")).map(AnyTensor::shape).unwrap_or_default();
            Site { name: name.to_owned(), kind: SiteKind::Linear, out: shape[0], input: shape[1], bias: true }
        };
        let sites = vec![site("first"), site("second")];
        Self { fingerprint: weights.fingerprint(), sites, weights }
    }
}

impl Model for Host {
    fn sites(&self) -> &[Site] {
        &self.sites
    }
    fn weights(&self) -> &Params {
        &self.weights
    }
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
    fn width(&self) -> usize {
        self.sites[1].out
    }

    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs> {
        let Inputs::Rows(x) = inputs else { return Err(Error::Other("this model takes rows of numbers".to_owned())) };
        let hidden = activation::relu(pass.linear(self, &self.sites[0], x.clone())?);
        let features = pass.linear(self, &self.sites[1], hidden)?;
        let logits = pass.head(features.clone())?;
        Ok(Outputs { states: None, features, logits })
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self::from_weights(weights)))
    }
}

fn main() -> Result<()> {
    let device = Device::flex();
    let mlp = Mlp { first: LinearConfig::new(2, 32).init(&device), second: LinearConfig::new(32, 16).init(&device) };
    let model = Host::new(&mlp);

    // Two rings: no line separates them.
    let mut rng = Rng::new(0, "rings", 0);
    let (mut points, mut classes) = (vec![], vec![]);
    for i in 0..200 {
        let (class, angle) = (i % 2, std::f64::consts::TAU * rng.uniform());
        let radius = 1.0 + class as f64 + 0.2 * rng.normal();
        points.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
        classes.push(class);
    }
    let inputs = Inputs::Rows(Tensor::from_data(TensorData::new(points, [200, 2]), &device));
    let wanted = Tensor::<1, Int>::from_data(TensorData::new(classes, [200]), &device);

    // A patch: LoRA on every linear site, and a head.
    let mut patch = Patch::new();
    let lora = peft::build("lora", &"rank = 2".parse().expect("TOML"))?;
    peft::place(&mut patch, &model, "lora", lora, Some(&Targets::Word("linear".to_owned())), &mut rng)?;
    patch.add_head(&model, 2, HeadStart::Zero, &mut rng);

    // D-Adaptation: no learning rate anywhere.
    let optimiser = optim::DadaptAdam::default();
    let mut host = optim::Host::new(&optimiser, optim::HostSettings::default(), &patch)?;
    let right = |patch: &Patch| -> Result<f64> {
        let logits = model.forward(&inputs, &Pass::new(patch))?.logits.expect("the patch has a head");
        let hits = logits.argmax(1).reshape([200]).equal(wanted.clone()).float().sum();
        Ok(hits.into_scalar::<f64>() / 200.0)
    };
    for step in 1..=300 {
        let tracked = patch.tracked();
        let logits = model.forward(&inputs, &Pass::new(&tracked))?.logits.expect("the patch has a head");
        let loss = activation::log_softmax(logits, 1).gather(1, wanted.clone().unsqueeze_dim(1)).mean().neg();
        let value = acclimate::core::total(vec![loss.clone().inner()]);
        let gradients = tracked.params.gradients(&mut loss.backward());
        patch.params = host.step(&optimiser, &patch.params, &gradients, 1.0, value)?;
        if step % 100 == 0 {
            println!("step {step}: loss {value:.3}, accuracy {:.3}", right(&patch)?);
        }
    }

    // The merged model answers as the patched one does, and the base has not moved.
    assert!(right(&patch)? > 0.9);
    assert_eq!(model.fingerprint(), model.weights().fingerprint());
    let merged = model.with_weights(patch.merge(&model)?)?;
    println!("merged weights: {} numbers under the module's own names", merged.weights().count());
    Ok(())
}
