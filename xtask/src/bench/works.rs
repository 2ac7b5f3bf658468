//! Our side of each comparison: what is set up once, and what is then timed.

use acclimate::core::{
    AnyOptimiser, AnyTensor, HeadStart, Inputs, Model, Pass, Patch, Rng, Role, Targets, Tokens, find, total,
};
use acclimate::models::{Base, EfficientNet, EfficientNetConfig, Resnet, ResnetConfig, Sampling, generate};
use acclimate::optim::{Host, HostSettings, METHODS};
use acclimate::shift::{ALIGN, Source, Target};
use acclimate::stats::learn::{Labels, Logistic};
use acclimate::stats::transport::Sinkhorn;
use acclimate_data::Assets;
use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use ndarray::{Array1, Array2};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Does the work once.
pub(super) type Work = Box<dyn FnMut() -> Result<()>>;

/// Rows of a batch of MiniLM, and the lengths of full rows.
pub(super) const ROWS: usize = 16;
pub(super) const LENGTH: usize = 128;
/// Rows of a batch of SmolLM2.
pub(super) const TEXTS: usize = 4;
/// The rank of the adapters that are trained.
pub(super) const RANK: usize = 8;
/// Words of the prompt, and words to write.
pub(super) const WORDS: usize = 64;
/// Batches of images for the two networks: images, channels, height, width.
pub(super) const SMALL: [usize; 4] = [64, 3, 32, 32];
pub(super) const LARGE: [usize; 4] = [8, 3, 224, 224];

/// Points of each side of the entropic and the exact transport.
const ENTROPIC: usize = 2000;
const EXACT: usize = 1000;
/// Residuals before the steps of a stream, and steps.
const PAST: usize = 2000;
const STEPS: usize = 20;
/// Rows of each domain where weights are sought.
const WEIGHED: usize = 640;

/// The lengths of MiniLM's rows: all alike, or falling from the whole length to half of it.
pub(super) fn lengths(padded: bool) -> Vec<usize> {
    (0..ROWS).map(|row| if padded { LENGTH - row * (LENGTH / 2) / (ROWS - 1) } else { LENGTH }).collect()
}

/// The folder with a model in f32 and the one with an adapter, which the Python side makes below `work`.
pub(super) fn adapted(work: &Path) -> [PathBuf; 2] {
    ["bench/model", "bench/adapter"].map(|folder| work.join(folder))
}

fn asset(name: &str) -> Result<PathBuf> {
    let assets = Assets::open(true)?;
    let folder = assets.folder(name)?;
    ensure!(folder.is_dir(), "{} is missing; fetch it with `acclimate assets get {name}`", folder.display());
    Ok(folder)
}

/// Reads the adapter's folder.
pub(super) fn load(work: &Path) -> Result<Work> {
    let [model, adapter] = adapted(work);
    let model = acclimate::models::load(&model, Base::Dense, &Device::flex())?;
    // The patch is held against the model's fingerprint, which is taken once in a model's life.
    model.fingerprint();
    Ok(Box::new(move || {
        black_box(acclimate::peft::load(&adapter, model.as_ref())?);
        Ok(())
    }))
}

/// Merges the adapter. The package changes the model's weights in place; the patch gives new weights beside the model's.
pub(super) fn merge(work: &Path) -> Result<Work> {
    let [model, adapter] = adapted(work);
    let model = acclimate::models::load(&model, Base::Dense, &Device::flex())?;
    let patch = acclimate::peft::load(&adapter, model.as_ref())?;
    Ok(Box::new(move || {
        black_box(patch.merge(model.as_ref())?);
        Ok(())
    }))
}

fn minilm(base: Base) -> Result<Box<dyn Model>> {
    Ok(acclimate::models::load(&asset("minilm")?, base, &Device::flex())?)
}

/// Rows of MiniLM's words, drawn by seed.
fn rows(padded: bool, rng: &mut Rng) -> Inputs {
    let mut words = |count: usize| (0..count).map(|_| 1000 + rng.below(19_000) as u32).collect();
    let rows: Vec<_> = lengths(padded).into_iter().map(|length| (words(length), vec![0; length])).collect();
    Inputs::Tokens(Tokens::new(&rows, DType::F32, &Device::flex()))
}

/// MiniLM reads 16 rows.
pub(super) fn minilm_forward(padded: bool) -> Result<Work> {
    let (model, inputs) = (minilm(Base::Dense)?, rows(padded, &mut Rng::new(5, "bench", 0)));
    Ok(Box::new(move || {
        black_box(model.forward(&inputs, &Pass::bare())?);
        Ok(())
    }))
}

/// A patch of LoRA at sites of these names, and what trains it.
struct Training {
    model: Box<dyn Model>,
    patch: Patch,
    optimiser: Box<dyn AnyOptimiser>,
    host: Host,
}

impl Training {
    fn new(model: Box<dyn Model>, sites: [&str; 2], classes: Option<usize>, rng: &mut Rng) -> Result<Self> {
        let mut patch = Patch::new();
        let lora = acclimate::peft::build("lora", &format!("rank = {RANK}").parse()?)?;
        let targets = Targets::Names(sites.map(str::to_owned).to_vec());
        acclimate::peft::place(&mut patch, model.as_ref(), "lora", lora, Some(&targets), rng)?;
        if let Some(classes) = classes {
            patch.add_head(model.as_ref(), classes, HeadStart::Random, rng);
        }
        let optimiser = find(METHODS, "dadapt_adam")?.build(&toml::Table::new())?;
        let host = Host::new(optimiser.as_ref(), HostSettings::default(), &patch)?;
        Ok(Self { model, patch, optimiser, host })
    }

    /// Down the loss that `loss` makes of the model under the tracked patch.
    fn step(&mut self, loss: impl FnOnce(&dyn Model, &Pass<'_>) -> Result<Tensor<1>>) -> Result<()> {
        let tracked = self.patch.tracked();
        let loss = loss(self.model.as_ref(), &Pass::new(&tracked))?;
        let value = total(vec![loss.clone().inner()]);
        let gradients = tracked.params.gradients(&mut loss.backward());
        let params = self.host.step(self.optimiser.as_ref(), &self.patch.params, &gradients, 1.0, value)?;
        self.patch = self.patch.with_params(params);
        Ok(())
    }
}

/// A step of MiniLM with LoRA on query and value and a head for three classes.
pub(super) fn minilm_step(padded: bool, base: Base) -> Result<Work> {
    let mut rng = Rng::new(5, "bench", 0);
    let mut training = Training::new(minilm(base)?, ["query", "value"], Some(3), &mut rng)?;
    let inputs = rows(padded, &mut rng);
    let labels = (0..3 * ROWS).map(|at| f32::from(u8::from(at % 3 == at / 3 % 3))).collect();
    let labels: Tensor<2> = AnyTensor::from_f32s(labels, &[ROWS, 3], &Device::flex()).get().context("two axes")?;
    Ok(Box::new(move || {
        training.step(|model, pass| {
            let logits = model.forward(&inputs, pass)?.logits.context("the patch brings a head")?;
            Ok((activation::log_softmax(logits, 1) * labels.clone()).sum() / -(ROWS as f64))
        })
    }))
}

/// SmolLM2's words, drawn by seed.
fn text(count: usize, rng: &mut Rng) -> Vec<u32> {
    (0..count).map(|_| 1000 + rng.below(40_000) as u32).collect()
}

/// A step of SmolLM2 with LoRA on the projections of query and value: four texts, the cross-entropy of every next word.
pub(super) fn smollm2_step(base: Base) -> Result<Work> {
    let (device, mut rng) = (Device::flex(), Rng::new(5, "bench", 0));
    let model = acclimate::models::load(&asset("smollm2")?, base, &device)?;
    let mut training = Training::new(model, ["q_proj", "v_proj"], None, &mut rng)?;
    let texts: Vec<Vec<u32>> = (0..TEXTS).map(|_| text(LENGTH, &mut rng)).collect();
    let before: Vec<i64> = (0..(TEXTS * LENGTH) as i64).filter(|at| at % LENGTH as i64 != LENGTH as i64 - 1).collect();
    let next: Vec<i64> = texts.iter().flat_map(|text| text[1..].iter().map(|&word| i64::from(word))).collect();
    let ints = |values: Vec<i64>| {
        let count = values.len();
        Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
    };
    let (before, next) = (ints(before), ints(next));
    let inputs = Inputs::Tokens(Tokens::packed(&texts, DType::F32, &device));
    Ok(Box::new(move || {
        training.step(|model, pass| {
            let states = model.forward(&inputs, pass)?.states.context("a language model gives states")?.h;
            let [_, length, width] = states.dims();
            let states = states.reshape([length, width]).select(0, before.clone());
            Ok(pass.cross_entropy(model, states, next.clone())?.mean())
        })
    }))
}

/// SmolLM2 as its file has it reads a prompt and writes on, the likeliest word each time.
pub(super) fn smollm2_write() -> Result<Work> {
    let model = acclimate::models::load(&asset("smollm2")?, Base::Packed, &Device::flex())?;
    let prompts = [text(WORDS, &mut Rng::new(5, "bench", 0))];
    let sampling = Sampling { max_tokens: WORDS, ..Sampling::default() };
    Ok(Box::new(move || {
        let on = &mut |_, _| ControlFlow::Continue(());
        let texts = generate(model.as_ref(), &[], &prompts, &sampling, &[], on)?;
        ensure!(texts[0].len() == WORDS, "wrote {} words, not {WORDS}", texts[0].len());
        Ok(())
    }))
}

/// D-Adapt Adam over all of MiniLM's weights, gradients given.
pub(super) fn dadapt_adam() -> Result<Work> {
    let mut params = minilm(Base::Dense)?.weights().clone();
    let mut rng = Rng::new(5, "bench", 0);
    let gradients = params.map(|_, tensor| rng.normal_tensor(&tensor.shape(), 1e-3, DType::F32, &Device::flex()));
    let optimiser = find(METHODS, "dadapt_adam")?.build(&toml::Table::new())?;
    let roles = vec![Role::Weight; params.len()];
    let mut host = Host::over(optimiser.as_ref(), HostSettings::default(), &params, roles)?;
    Ok(Box::new(move || {
        let next = host.step(optimiser.as_ref(), &params, &gradients, 1.0, 0.0)?;
        params = next;
        Ok(())
    }))
}

/// Points in the unit square that fill it evenly, the same as the Python side has: `from` is the number of the first.
fn points(from: usize, rows: usize) -> Array2<f64> {
    Array2::from_shape_fn((rows, 2), |(row, column)| {
        ((from + row) as f64 * [0.754_877_666_246_692_7, 0.569_840_290_998_053_3][column]).fract()
    })
}

/// Squared distances of points to the squares of other points, over their mean, and equal masses.
fn transport(rows: usize) -> (Array2<f64>, Array1<f64>) {
    let (x, y) = (points(1, rows), points(rows + 1, rows).mapv(|x| x * x));
    let cost =
        Array2::from_shape_fn((rows, rows), |(i, j)| (x[[i, 0]] - y[[j, 0]]).powi(2) + (x[[i, 1]] - y[[j, 1]]).powi(2));
    let mean = cost.sum() / (rows * rows) as f64;
    (cost / mean, Array1::from_elem(rows, 1.0 / rows as f64))
}

pub(super) fn sinkhorn() -> Result<Work> {
    let (cost, mass) = transport(ENTROPIC);
    // The sum of the marginals' differences; the package ends at their norm, which is never larger.
    let settings = Sinkhorn { reg: 0.1, tolerance: 1e-9, ..Sinkhorn::default() };
    Ok(Box::new(move || {
        let found = acclimate::stats::transport::sinkhorn(cost.view(), mass.view(), mass.view(), &settings)?;
        ensure!(found.certificate.converged, "the marginals are {} apart", found.certificate.marginal);
        Ok(())
    }))
}

pub(super) fn exact() -> Result<Work> {
    let (cost, mass) = transport(EXACT);
    Ok(Box::new(move || {
        black_box(acclimate::stats::transport::exact(cost.view(), mass.view(), mass.view())?);
        Ok(())
    }))
}

/// Intervals on a series whose errors hang together, a step after another.
pub(super) fn spci() -> Result<Work> {
    let waves = points(1, PAST + STEPS);
    let errors: Vec<f64> = (0..PAST + STEPS).map(|t| (t as f64 / 9.0).sin() + waves[[t, 0]] - 0.5).collect();
    let method = find(acclimate::stats::conformal::ONLINE, "spci")?.build(&toml::Table::new())?;
    Ok(Box::new(move || {
        let mut stream = acclimate::stats::conformal::Stream::new(method.as_ref(), &errors[..PAST], 0.1)?;
        for error in &errors[PAST..] {
            black_box(stream.predict(0.0)?);
            stream.observe(*error)?;
        }
        Ok(())
    }))
}

/// The weights that a method of alignment gives the rows of a source.
pub(super) fn weights(name: &str, settings: &str) -> Result<Work> {
    let method = find(ALIGN, name)?.build(&settings.parse()?)?;
    let (x, y) = (points(1, WEIGHED), points(WEIGHED + 1, WEIGHED).mapv(|x| x * x));
    let labels = Labels::Classes { of: (0..WEIGHED).map(|row| row % 2).collect(), count: 2 };
    Ok(Box::new(move || {
        let source = Source::new(x.view(), &labels)?;
        let target = Target::new(y.view(), &source)?;
        black_box(method.align_any(
            &source,
            &target,
            &acclimate::shift::Host { learner: &Logistic::default(), seed: 5 },
        )?);
        Ok(())
    }))
}

/// A ResNet-18 for small images and ten classes.
pub(super) fn resnet18() -> ResnetConfig {
    ResnetConfig { image: [SMALL[1], SMALL[2], SMALL[3]], ..ResnetConfig::resnet18() }
}

/// It with random weights.
pub(super) fn small() -> Result<Box<dyn Model>> {
    with_head(&Resnet::seeded(resnet18(), 5, DType::F32, &Device::flex())?, "head.weight")
}

/// EfficientNet-Lite0 with random weights.
pub(super) fn large() -> Result<Box<dyn Model>> {
    with_head(
        &EfficientNet::seeded(
            EfficientNetConfig { scaling: None, ..EfficientNetConfig::lite0() },
            5,
            DType::F32,
            &Device::flex(),
        )?,
        "_fc.weight",
    )
}

/// The same with a drawn head: one of zeros would send nothing back.
fn with_head(model: &dyn Model, head: &str) -> Result<Box<dyn Model>> {
    let mut weights = model.weights().clone();
    let shape = weights.any(head).with_context(|| format!("the model has no `{head}`"))?.shape();
    weights.insert(head, Rng::new(5, "head", 0).normal_tensor(&shape, 0.05, DType::F32, &Device::flex()));
    Ok(model.with_weights(weights)?)
}

/// Images of this shape, drawn by seed.
fn images(shape: [usize; 4], rng: &mut Rng) -> Result<Inputs> {
    let images = rng.normal_tensor(&shape, 1.0, DType::F32, &Device::flex());
    Ok(Inputs::Images(images.get().context("drawn with four axes")?))
}

/// A network reads images of this shape.
pub(super) fn images_forward(model: Box<dyn Model>, shape: [usize; 4]) -> Result<Work> {
    let images = images(shape, &mut Rng::new(5, "bench", 0))?;
    Ok(Box::new(move || {
        black_box(model.forward(&images, &Pass::bare())?);
        Ok(())
    }))
}

/// A step of Tent on images of this shape, with AdamW over the norms.
pub(super) fn tent(model: Box<dyn Model>, shape: [usize; 4]) -> Result<Work> {
    // As long as the process, like the host that borrows both.
    let model: &'static dyn Model = Box::leak(model);
    let optimiser: &'static dyn AnyOptimiser = Box::leak(find(METHODS, "adamw")?.build(&toml::Table::new())?);
    let (mut patch, mut rng) = (Patch::new(), Rng::new(5, "bench", 0));
    let norms = acclimate::peft::build("norm_tuning", &toml::Table::new())?;
    acclimate::peft::place(&mut patch, model, "norm_tuning", norms, None, &mut rng)?;
    let method = find(acclimate::tta::METHODS, "tent")?.build(&toml::Table::new())?;
    let mut host = acclimate::tta::Host::new(model, patch)?.optimiser(optimiser)?;
    let mut state = method.start(&mut host)?;
    let images = images(shape, &mut rng)?;
    Ok(Box::new(move || {
        black_box(method.step_any(&images, state.as_mut(), &mut host)?);
        Ok(())
    }))
}
