//! `cargo xtask bench peers`: how long the `peft` package and acclimate take for the same work, in interleaved pairs: loading and merging an
//! adapter of SmolLM2, and, where MiniLM is at hand, its forward pass and a step of training with D-Adapt Adam.
//!
//! Single times say little on a shared machine: in each repetition the two run one after the other, in alternating order, and the ratio
//! of a pair is what counts. One run of each before the first pair is not counted.
use crate::interop;
use acclimate::core::{
    AnyOptimiser, AnyTensor, HeadStart, Inputs, Model, Pass, Patch, Rng, Targets, Tokens, find, total,
};
use acclimate::models::Base;
use acclimate::optim::{Host, HostSettings, METHODS};
use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device, Tensor, activation};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// The medians of one measurement.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// What was timed.
    what: &'static str,
    /// What stands behind the figure of the package.
    theirs: &'static str,
    /// Pairs of runs.
    pairs: u32,
    /// Seconds of acclimate.
    acclimate: f64,
    /// Seconds of the package.
    peft: f64,
    /// How many times as long the package takes: the median of the pairs' ratios.
    ratio: f64,
    /// The lower and the upper quartile of the ratios.
    quartiles: [f64; 2],
}

/// All measurements of a run.
#[derive(Debug, Serialize)]
pub struct Table {
    model: &'static str,
    adapter: &'static str,
    /// Threads of acclimate and of the package.
    threads: [usize; 2],
    measurements: Vec<Measurement>,
}

impl Table {
    /// The table for people, without a last line end.
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "medians of pairs, {} and {} threads; loading and merging: {}, {}",
                self.threads[0], self.threads[1], self.model, self.adapter
            ),
            format!(
                "{:<18} {:>5} {:>11} {:>11} {:>7}  {:<13} beside",
                "", "pairs", "acclimate", "peft", "ratio", "(quartiles)"
            ),
        ];
        lines.extend(self.measurements.iter().map(|m| {
            let [low, high] = m.quartiles;
            let seconds = |x: f64| format!("{:.0} ms", 1e3 * x);
            let (ours, theirs) = (seconds(m.acclimate), seconds(m.peft));
            let quartiles = format!("({low:.2}–{high:.2})");
            let Measurement { what, pairs, ratio, theirs: beside, .. } = m;
            format!("{what:<18} {pairs:>5} {ours:>11} {theirs:>11} {ratio:>7.2}  {quartiles:<13} {beside}")
        }));
        lines.join("\n")
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// When a figure is not finite.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

/// The package's side, which answers words with times.
struct Peer {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

#[derive(Deserialize)]
struct Ready {
    /// A folder with the model in f32.
    model: PathBuf,
    adapter: PathBuf,
    threads: usize,
    /// A folder with MiniLM, where it is at hand.
    minilm: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Timed {
    seconds: f64,
}

impl Peer {
    /// Starts it; its folders and threads.
    fn start(root: &Path, work: &Path) -> Result<(Self, Ready)> {
        let mut command = interop::program(root, &["bench".as_ref(), work.as_os_str()])?;
        let mut child =
            command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("Python does not start")?;
        let asks = child.stdin.take().context("Python has no input")?;
        let answers = BufReader::new(child.stdout.take().context("Python has no output")?).lines();
        let mut peer = Self { child, asks, answers };
        let ready = serde_json::from_str(&peer.line()?)?;
        Ok((peer, ready))
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.answers.next().context("Python ended early; its reason stands above")??)
    }

    fn seconds(&mut self, what: &str) -> Result<f64> {
        writeln!(self.asks, "{what}")?;
        let timed: Timed = serde_json::from_str(&self.line()?)?;
        Ok(timed.seconds)
    }

    /// Lets it end.
    fn end(mut self) -> Result<()> {
        drop(self.asks);
        let status = self.child.wait()?;
        ensure!(status.success(), "Python failed: {status}");
        Ok(())
    }
}

/// Times loading and merging in pairs of runs, and in `processes` pairs merging by whole programs, ours being `program`. `work` holds
/// the model and the adapter, which are made where they are missing.
///
/// # Errors
/// When Python, the packages or the model are missing, or an adapter cannot be read.
pub fn peers(root: &Path, work: &Path, ours: &Path, repetitions: u32, processes: u32) -> Result<Table> {
    let (mut peer, ready) = Peer::start(root, work)?;
    let model = acclimate::models::load(&ready.model, Base::Dense, &Device::flex())?;
    // The patch is held against the model's fingerprint, which is taken once in a model's life.
    model.fingerprint();
    let patch = acclimate::peft::load(&ready.adapter, model.as_ref())?;
    let load = || load(&ready.adapter, model.as_ref());
    let merge = || merge(&patch, model.as_ref());
    let mut measurements = vec![
        pairs("load", "PeftModel.from_pretrained", repetitions, load, || peer.seconds("load"))?,
        pairs("load", "the same, low_cpu_mem_usage", repetitions, load, || peer.seconds("load_without_init"))?,
        pairs("load", "PeftModel.load_adapter", repetitions, load, || peer.seconds("load_adapter"))?,
        pairs("merge in memory", "merge_and_unload", repetitions, merge, || peer.seconds("merge"))?,
    ];
    if let Some(folder) = &ready.minilm {
        let mut minilm = Minilm::open(folder)?;
        let theirs = "16 × 128 tokens, no gradients";
        measurements.push(pairs(
            "MiniLM forward",
            theirs,
            repetitions,
            || minilm.forward(),
            || peer.seconds("minilm_forward"),
        )?);
        let theirs = "the same, LoRA of rank 8 on query and value, dadaptation";
        let step = || minilm.step();
        measurements.push(pairs("MiniLM step", theirs, repetitions, step, || peer.seconds("minilm_step"))?);
    }
    peer.end()?;
    if processes > 0 {
        let out = work.join("bench/merged");
        let [from, patch, to] = [&ready.model, &ready.adapter, &out].map(|path| path.as_os_str());
        let program = || {
            let mut command = Command::new(ours);
            command.args(["merge", "--offline", "--run"]).arg(patch).arg("--model").arg(from).arg("--out").arg(to);
            process(command, &out)
        };
        let python = || process(interop::program(root, &["merge".as_ref(), from, patch, to])?, &out);
        measurements.push(pairs("merge as a program", "load, merge, save_pretrained", processes, program, python)?);
    }
    let threads = [std::thread::available_parallelism().map_or(1, usize::from), ready.threads];
    let adapter = "LoRA of rank 16 at all linear modules";
    Ok(Table { model: "SmolLM2-135M in f32", adapter, threads, measurements })
}

/// What is trained in a step: MiniLM with LoRA of rank 8 on query and value and a head for three classes, 16 rows of 128 tokens.
struct Minilm {
    model: Box<dyn Model>,
    patch: Patch,
    optimiser: Box<dyn AnyOptimiser>,
    host: Host,
    inputs: Inputs,
    /// One at the label of each row, `[16, 3]`.
    labels: Tensor<2>,
}

impl Minilm {
    fn open(folder: &Path) -> Result<Self> {
        let device = Device::flex();
        let model = acclimate::models::load(folder, Base::Dense, &device)?;
        let (mut patch, mut rng) = (Patch::new(), Rng::new(5, "bench", 0));
        let lora = acclimate::peft::build("lora", &"rank = 8".parse()?)?;
        let targets = Targets::Names(vec!["query".to_owned(), "value".to_owned()]);
        acclimate::peft::place(&mut patch, model.as_ref(), "lora", lora, Some(&targets), &mut rng)?;
        patch.add_head(model.as_ref(), 3, HeadStart::Random, &mut rng);
        let optimiser = find(METHODS, "dadapt_adam")?.build(&toml::Table::new())?;
        let host = Host::new(optimiser.as_ref(), HostSettings::default(), &patch)?;
        let mut row = || ((0..128).map(|_| 1000 + rng.below(19_000) as u32).collect(), vec![0; 128]);
        let rows: Vec<_> = (0..16).map(|_| row()).collect();
        let inputs = Inputs::Tokens(Tokens::new(&rows, DType::F32, &device));
        let labels = (0..48).map(|at| f32::from(u8::from(at % 3 == at / 3 % 3))).collect();
        let labels = AnyTensor::from_f32s(labels, &[16, 3], &device).get().context("two axes")?;
        Ok(Self { model, patch, optimiser, host, inputs, labels })
    }

    fn forward(&self) -> Result<f64> {
        let start = Instant::now();
        black_box(self.model.forward(&self.inputs, &Pass::new(&self.patch))?);
        Ok(start.elapsed().as_secs_f64())
    }

    fn step(&mut self) -> Result<f64> {
        let start = Instant::now();
        let tracked = self.patch.tracked();
        let outputs = self.model.forward(&self.inputs, &Pass::new(&tracked))?;
        let logits = outputs.logits.context("the patch brings a head")?;
        let loss = (activation::log_softmax(logits, 1) * self.labels.clone()).sum() / -16.0;
        let value = total(vec![loss.clone().inner()]);
        let gradients = tracked.params.gradients(&mut loss.backward());
        let params = self.host.step(self.optimiser.as_ref(), &self.patch.params, &gradients, 1.0, value)?;
        self.patch = self.patch.with_params(params);
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Runs a program that writes a folder, which is removed afterwards.
fn process(mut command: Command, out: &Path) -> Result<f64> {
    let remove = || match std::fs::remove_dir_all(out) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", out.display()))
        }
        _ => Ok(()),
    };
    remove()?;
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).status().context("the program does not start")?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(status.success(), "{} failed: {status}", command.get_program().display());
    ensure!(out.join("model.safetensors").is_file(), "{} holds no model.safetensors", out.display());
    remove()?;
    Ok(seconds)
}

fn load(folder: &Path, model: &dyn Model) -> Result<f64> {
    let start = Instant::now();
    black_box(acclimate::peft::load(folder, model)?);
    Ok(start.elapsed().as_secs_f64())
}

/// The package changes the model's weights in place; the patch gives new weights beside the model's.
fn merge(patch: &Patch, model: &dyn Model) -> Result<f64> {
    let start = Instant::now();
    black_box(patch.merge(model)?);
    Ok(start.elapsed().as_secs_f64())
}

/// Runs both sides in pairs, the first of a pair alternating.
fn pairs(
    what: &'static str,
    theirs: &'static str,
    repetitions: u32,
    mut ours: impl FnMut() -> Result<f64>,
    mut other: impl FnMut() -> Result<f64>,
) -> Result<Measurement> {
    ours()?;
    other()?;
    let mut times = vec![];
    for repetition in 0..repetitions {
        times.push(if repetition % 2 == 0 {
            let ours = ours()?;
            [ours, other()?]
        } else {
            let other = other()?;
            [ours()?, other]
        });
    }
    let quantile = |values: &mut dyn Iterator<Item = f64>, share: f64| {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    };
    let ratio = |share| quantile(&mut times.iter().map(|[ours, other]| other / ours), share);
    Ok(Measurement {
        what,
        theirs,
        pairs: repetitions,
        acclimate: quantile(&mut times.iter().map(|pair| pair[0]), 0.5),
        peft: quantile(&mut times.iter().map(|pair| pair[1]), 0.5),
        ratio: ratio(0.5),
        quartiles: [ratio(0.25), ratio(0.75)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_over_pairs() {
        let (mut ours, mut other) = ([9.0, 1.0, 2.0, 4.0].into_iter(), [9.0, 3.0, 4.0, 16.0].into_iter());
        let next =
            |times: &mut dyn Iterator<Item = f64>| times.next().context("three pairs after one that is not counted");
        let found = pairs("load", "x", 3, || next(&mut ours), || next(&mut other)).unwrap();
        assert_eq!((found.acclimate, found.peft, found.ratio), (2.0, 4.0, 3.0));
    }
}
