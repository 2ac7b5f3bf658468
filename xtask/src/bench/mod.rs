//! `cargo xtask bench peers`: how long acclimate and other packages take for the same work, in interleaved pairs.
//!
//! Single times say little on a shared machine: in each pair the two run one after the other, in alternating order, and the ratio within
//! a pair is what counts. One run of each before the first pair is not counted. Each side is a process that does nothing else, so that its
//! memory is its own: the most it holds from the first counted run on.
mod limit;
mod side;
mod works;

use crate::{golden, read};
use acclimate::core::{Model, SiteKind};
use acclimate::models::Base;
use anyhow::{Context, Result, bail};
use limit::{Arithmetic, Rate, Transformer};
use serde::Serialize;
use side::{Process, Program, Ready, Side, Timed};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use works::{LENGTH, RANK, TEXTS, WORDS, Work, lengths};

/// The Python sides, relative to the root.
const SCRIPT: &str = "reference/bench/side.py";

/// A piece of work and who else does it.
struct Comparison {
    name: &'static str,
    ours: Ours,
    peers: &'static [Peer],
    /// What is multiplied, where products are most of the work.
    arithmetic: Option<fn() -> Result<Arithmetic>>,
    /// Words that are written, where that is the work.
    words: Option<usize>,
}

/// How our side does it.
enum Ours {
    /// In a process that is set up once, given the folder for what is made.
    Work(fn(&Path) -> Result<Work>),
    /// `acclimate merge`, a whole program.
    Merge,
}

/// Who else does it.
enum Peer {
    /// A Python side by its name there, and what is called.
    Python(&'static str, &'static str),
    /// Our side on Burn's own operations.
    Stock,
}

const MINILM: Transformer = Transformer { layers: 6, width: 384, keys: 384, inner: 1536, ups: 1, words: 0 };
const SMOLLM2: Transformer = Transformer { layers: 30, width: 576, keys: 192, inner: 1536, ups: 2, words: 49_152 };

/// All comparisons, in the order of the table.
const COMPARISONS: [Comparison; 20] = [
    Comparison {
        name: "minilm forward",
        ours: Ours::Work(|_| works::minilm_forward(false)),
        peers: &[Peer::Python("minilm forward", ""), Peer::Stock],
        arithmetic: Some(|| Ok(MINILM.forward(&lengths(false), false))),
        words: None,
    },
    Comparison {
        name: "minilm forward padded",
        ours: Ours::Work(|_| works::minilm_forward(true)),
        peers: &[Peer::Python("minilm forward padded", ""), Peer::Stock],
        arithmetic: Some(|| Ok(MINILM.forward(&lengths(true), false))),
        words: None,
    },
    Comparison {
        name: "minilm step",
        ours: Ours::Work(|_| works::minilm_step(false, Base::Dense)),
        peers: &[Peer::Python("minilm step", ""), Peer::Stock],
        arithmetic: Some(|| Ok(MINILM.step(&lengths(false), false, RANK))),
        words: None,
    },
    Comparison {
        name: "minilm step padded",
        ours: Ours::Work(|_| works::minilm_step(true, Base::Dense)),
        peers: &[Peer::Python("minilm step padded", ""), Peer::Stock],
        arithmetic: Some(|| Ok(MINILM.step(&lengths(true), false, RANK))),
        words: None,
    },
    Comparison {
        name: "minilm step bf16",
        ours: Ours::Work(|_| works::minilm_step(false, Base::Bf16)),
        peers: &[
            Peer::Python("minilm step", ", f32"),
            Peer::Python("minilm step autocast", ", bf16 autocast"),
            Peer::Python("minilm step bf16", ", frozen weights in bf16"),
        ],
        arithmetic: Some(|| Ok(MINILM.step(&lengths(false), false, RANK).rounded())),
        words: None,
    },
    Comparison {
        name: "smollm2 step",
        ours: Ours::Work(|_| works::smollm2_step(Base::Dense)),
        peers: &[Peer::Python("smollm2 step", "")],
        arithmetic: Some(|| Ok(SMOLLM2.step(&[LENGTH; TEXTS], true, RANK))),
        words: None,
    },
    Comparison {
        name: "smollm2 step bf16",
        ours: Ours::Work(|_| works::smollm2_step(Base::Bf16)),
        peers: &[
            Peer::Python("smollm2 step", ", f32"),
            Peer::Python("smollm2 step autocast", ", bf16 autocast"),
            Peer::Python("smollm2 step bf16", ", frozen weights in bf16"),
        ],
        arithmetic: Some(|| Ok(SMOLLM2.step(&[LENGTH; TEXTS], true, RANK).rounded())),
        words: None,
    },
    Comparison {
        name: "smollm2 write",
        ours: Ours::Work(|_| works::smollm2_write()),
        peers: &[Peer::Python("smollm2 write", ""), Peer::Python("smollm2 write llama.cpp", "")],
        arithmetic: None,
        words: Some(WORDS),
    },
    Comparison {
        name: "dadapt_adam",
        ours: Ours::Work(|_| works::dadapt_adam()),
        peers: &[Peer::Python("dadapt_adam", "")],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "sinkhorn",
        ours: Ours::Work(|_| works::sinkhorn()),
        peers: &[Peer::Python("sinkhorn", "")],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "exact transport",
        ours: Ours::Work(|_| works::exact()),
        peers: &[Peer::Python("exact transport", "")],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "kmm",
        ours: Ours::Work(|_| works::weights("kmm", "gamma = 1.0")),
        peers: &[Peer::Python("kmm", "")],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "kliep",
        ours: Ours::Work(|_| works::weights("kliep", "gammas = [1.0]")),
        peers: &[Peer::Python("kliep", "")],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "spci",
        ours: Ours::Work(|_| works::spci()),
        peers: &[Peer::Python("spci", "")],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "resnet18 forward",
        ours: Ours::Work(|_| works::images_forward(works::small()?, works::SMALL)),
        peers: &[Peer::Python("resnet18 forward", ""), Peer::Stock],
        arithmetic: Some(|| images(works::small()?.as_ref(), works::SMALL, false)),
        words: None,
    },
    Comparison {
        name: "resnet18 tent",
        ours: Ours::Work(|_| works::tent(works::small()?, works::SMALL)),
        peers: &[Peer::Python("resnet18 tent", ""), Peer::Stock],
        arithmetic: Some(|| images(works::small()?.as_ref(), works::SMALL, true)),
        words: None,
    },
    Comparison {
        name: "efficientnet forward",
        ours: Ours::Work(|_| works::images_forward(works::large()?, works::LARGE)),
        peers: &[Peer::Python("efficientnet forward", ""), Peer::Stock],
        arithmetic: Some(|| images(works::large()?.as_ref(), works::LARGE, false)),
        words: None,
    },
    Comparison {
        name: "efficientnet tent",
        ours: Ours::Work(|_| works::tent(works::large()?, works::LARGE)),
        peers: &[Peer::Python("efficientnet tent", ""), Peer::Stock],
        arithmetic: Some(|| images(works::large()?.as_ref(), works::LARGE, true)),
        words: None,
    },
    Comparison {
        name: "adapter load",
        ours: Ours::Work(works::load),
        peers: &[
            Peer::Python("load", ", PeftModel.from_pretrained"),
            Peer::Python("load without init", ", the same with low_cpu_mem_usage"),
            Peer::Python("load second", ", PeftModel.load_adapter"),
        ],
        arithmetic: None,
        words: None,
    },
    Comparison {
        name: "adapter merge",
        ours: Ours::Work(works::merge),
        peers: &[Peer::Python("merge", ", merge_and_unload")],
        arithmetic: None,
        words: None,
    },
];

/// The same work as whole programs, which take seconds.
const PROGRAMS: [Comparison; 1] = [Comparison {
    name: "adapter merge program",
    ours: Ours::Merge,
    peers: &[Peer::Python("merge program", ", load, merge_and_unload, save_pretrained")],
    arithmetic: None,
    words: None,
}];

/// Every convolution and the head forward; with `back` also back through all but the first, where only norms are trained.
fn images(model: &dyn Model, [count, _, height, width]: [usize; 4], back: bool) -> Result<Arithmetic> {
    let mut work = Arithmetic::default();
    let mut size = [height, width];
    for (at, site) in model.sites().iter().enumerate() {
        let times = if back && at > 0 { 2.0 } else { 1.0 };
        match site.kind {
            SiteKind::Conv { stride, groups, .. } => {
                // A shortcut stands behind the convolutions whose input it shares: it halves what they have halved.
                if !site.name.contains("shortcut") {
                    size = size.map(|size| size.div_ceil(stride));
                }
                let rows = count * size[0] * size[1];
                // A site's inputs are those of one group. Channels by themselves make no product that could be measured.
                match groups {
                    1 => work.product(rows, site.input, site.out, times),
                    _ => work.apart(rows, site.input, site.out, times),
                }
            }
            SiteKind::Linear => work.product(count, site.input, site.out, times),
            _ => {}
        }
    }
    Ok(work)
}

/// What is run, and how often.
#[derive(Debug)]
pub struct Plan {
    /// Part of the names of comparisons; all when it is empty.
    pub name: String,
    /// Pairs of each comparison that are counted.
    pub pairs: u32,
    /// The same for whole programs.
    pub programs: u32,
    /// The folder for models and adapters that are made.
    pub work: PathBuf,
}

/// The medians of one comparison.
#[derive(Debug, Serialize)]
pub struct Measurement {
    name: &'static str,
    ours_ms: f64,
    peer: String,
    peer_ms: f64,
    /// The median over pairs of our time divided by the peer's: below 1 we are faster.
    ratio: f64,
    /// The lower and the upper quartile of these.
    quartiles: [f64; 2],
    pairs: u32,
    /// The threads of each side.
    threads: [usize; 2],
    ours_rss_mib: Option<f64>,
    peer_rss_mib: Option<f64>,
    /// The arithmetic of the work at the rate of our own products in the same run.
    limit_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_words_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_words_per_s: Option<f64>,
}

impl Measurement {
    /// The head of the table.
    pub fn head() -> String {
        format!(
            "medians of pairs; ratio is ours/peer, below 1 acclimate is faster\n{:<22} {:>8} {:>8} {:>6}  {:<11} {:>5} {:>8} {:>5} {:>5}  beside",
            "", "ours", "peer", "ratio", "(quartiles)", "pairs", "limit", "MiB", "peer"
        )
    }

    /// A line of the table.
    pub fn text(&self) -> String {
        let [low, high] = self.quartiles;
        let whole = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.0}"));
        let rates = match (self.ours_words_per_s, self.peer_words_per_s) {
            (Some(ours), Some(peer)) => format!(" ({ours:.0} and {peer:.0} words/s)"),
            _ => String::new(),
        };
        format!(
            "{:<22} {:>8} {:>8} {:>6.2}  {:<11} {:>5} {:>8} {:>5} {:>5}  {}{rates}",
            self.name,
            milliseconds(self.ours_ms),
            milliseconds(self.peer_ms),
            self.ratio,
            format!("({low:.2}–{high:.2})"),
            self.pairs,
            self.limit_ms.map_or("-".to_owned(), milliseconds),
            whole(self.ours_rss_mib),
            whole(self.peer_rss_mib),
            self.peer
        )
    }

    /// The same in a line of JSON.
    ///
    /// # Errors
    /// When a figure is not finite.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

fn milliseconds(x: f64) -> String {
    if x < 20.0 { format!("{x:.1} ms") } else { format!("{x:.0} ms") }
}

/// Times every comparison whose name holds the plan's, and says each as soon as it is known. `ours` builds the command line, where it is
/// timed.
///
/// # Errors
/// When no comparison has such a name, Python or a model is missing, or a side fails.
pub fn peers(
    root: &Path,
    plan: &Plan,
    ours: impl Fn() -> Result<PathBuf>,
    mut say: impl FnMut(Told<'_>) -> Result<()>,
) -> Result<()> {
    let asked = |comparison: &&Comparison| comparison.name.contains(&plan.name);
    let works = COMPARISONS.iter().map(|comparison| (comparison, plan.pairs));
    let programs = PROGRAMS.iter().map(|comparison| (comparison, plan.programs)).filter(|(_, pairs)| *pairs > 0);
    let chosen: Vec<_> = works.chain(programs).filter(|(comparison, _)| asked(comparison)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = COMPARISONS.iter().chain(&PROGRAMS).map(|comparison| comparison.name).collect();
        bail!("no comparison is named `{}`; there are {}", plan.name, names.join(", "));
    }
    for (comparison, pairs) in chosen {
        for peer in comparison.peers {
            match compare(root, plan, comparison, peer, pairs, &ours)? {
                Found::Measured(measurement) => say(Told::Measured(&measurement))?,
                Found::Missing(package) => {
                    let name = comparison.name;
                    let note = format!("{name}: left out beside `{package}`, which is not installed");
                    say(Told::Note(&note))?;
                }
            }
        }
    }
    Ok(())
}

/// What [`peers`] has to say.
#[derive(Debug)]
pub enum Told<'a> {
    /// A comparison.
    Measured(&'a Measurement),
    /// Why one is left out.
    Note(&'a str),
}

/// What comes of a comparison.
enum Found {
    Measured(Box<Measurement>),
    /// The peer's package is not installed.
    Missing(String),
}

/// One comparison with one peer.
fn compare(
    root: &Path,
    plan: &Plan,
    comparison: &'static Comparison,
    peer: &Peer,
    pairs: u32,
    program: &impl Fn() -> Result<PathBuf>,
) -> Result<Found> {
    let own = |simd: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().context("this program's own path cannot be read")?);
        command.args(["bench-side", comparison.name]).arg(&plan.work).current_dir(root);
        if let Some(simd) = simd {
            command.env("ACCLIMATE_SIMD", simd);
        }
        Process::start(command)
    };
    // The Python side makes folders that ours reads.
    let mut other = match peer {
        Peer::Python(name, _) => Process::start(python(root, &[name.as_ref(), plan.work.as_os_str()])?)?,
        Peer::Stock => own(Some("off"))?,
    };
    if let Some(package) = other.ready.missing.take() {
        other.end()?;
        return Ok(Found::Missing(package));
    }
    let name = match peer {
        Peer::Python(_, call) => format!("{}{call}", other.ready.who),
        Peer::Stock => {
            format!("burn-flex {}, stock operations", version(&read(&root.join("Cargo.lock"))?, "burn-flex")?)
        }
    };
    let rate = comparison.arithmetic.map(|work| Rate::new(&work()?)).transpose()?;
    let threads = [available(), other.ready.threads];
    let times = match comparison.ours {
        Ours::Work(_) => {
            let mut ours = own(None)?;
            let times = times(&mut ours, &mut other, pairs, rate.as_ref())?;
            ours.end()?;
            times
        }
        Ours::Merge => {
            let (ours, [model, adapter], out) =
                (program()?, works::adapted(&plan.work), plan.work.join("bench/merged"));
            let from = [model.clone(), adapter.clone(), out.clone()];
            let root = root.to_owned();
            let mut theirs = Program::new(
                move || python(&root, &["merge".as_ref(), from[0].as_ref(), from[1].as_ref(), from[2].as_ref()]),
                &out,
            );
            let to = out.clone();
            let merge = move || {
                let mut command = Command::new(&ours);
                command.args(["merge", "--offline", "--run"]).arg(&adapter);
                command.arg("--model").arg(&model).arg("--out").arg(&to);
                Ok(command)
            };
            times(&mut Program::new(merge, &out), &mut theirs, pairs, None)?
        }
    };
    other.end()?;
    Ok(Found::Measured(Box::new(times.measurement(comparison, name, threads))))
}

/// A Python side with these arguments.
fn python(root: &Path, args: &[&std::ffi::OsStr]) -> Result<Command> {
    let mut command = Command::new(golden::python()?);
    command.arg(SCRIPT).args(args).current_dir(root).env("PYTHONHASHSEED", "0");
    Ok(command)
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The version of a package in `Cargo.lock`.
fn version<'a>(lock: &'a str, package: &str) -> Result<&'a str> {
    let (_, after) =
        lock.split_once(&format!("name = \"{package}\"\nversion = \"")).context("Cargo.lock has no such package")?;
    after.split('"').next().context("a version ends")
}

/// What was measured, in seconds and MiB.
#[derive(Debug, Default)]
struct Times {
    pairs: Vec<[f64; 2]>,
    limits: Vec<f64>,
    peaks: [Option<f64>; 2],
}

/// Runs both sides in pairs, the first of a pair alternating, and the products after each pair.
fn times(ours: &mut dyn Side, other: &mut dyn Side, pairs: u32, rate: Option<&Rate>) -> Result<Times> {
    let mut times = Times::default();
    ours.run()?;
    other.run()?;
    ours.forget();
    other.forget();
    for pair in 0..pairs {
        times.pairs.push(if pair % 2 == 0 {
            let ours = ours.run()?;
            [ours, other.run()?]
        } else {
            let other = other.run()?;
            [ours.run()?, other]
        });
        if let Some(rate) = rate {
            times.limits.push(rate.seconds());
        }
    }
    times.peaks = [ours.peak(), other.peak()];
    Ok(times)
}

/// The value below which this share of the values lies; there must be one.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

impl Times {
    fn measurement(&self, comparison: &Comparison, peer: String, threads: [usize; 2]) -> Measurement {
        let ratio = |share| quantile(self.pairs.iter().map(|[ours, other]| ours / other), share);
        let [ours, other] = [0, 1].map(|side| quantile(self.pairs.iter().map(|pair| pair[side]), 0.5));
        let per_second = |seconds: f64| comparison.words.map(|words| words as f64 / seconds);
        Measurement {
            name: comparison.name,
            ours_ms: 1e3 * ours,
            peer,
            peer_ms: 1e3 * other,
            ratio: ratio(0.5),
            quartiles: [ratio(0.25), ratio(0.75)],
            pairs: self.pairs.len() as u32,
            threads,
            ours_rss_mib: self.peaks[0],
            peer_rss_mib: self.peaks[1],
            limit_ms: (!self.limits.is_empty()).then(|| 1e3 * quantile(self.limits.iter().copied(), 0.5)),
            ours_words_per_s: per_second(ours),
            peer_words_per_s: per_second(other),
        }
    }
}

/// Our side of the comparison of this name: does its work for every line of `asks` and answers with the time, after a line that says it
/// is ready.
///
/// # Errors
/// When there is no such comparison, something it needs is missing, or the work fails.
pub fn serve(name: &str, work: &Path, asks: impl BufRead, mut answers: impl Write) -> Result<()> {
    let found = COMPARISONS.iter().find(|comparison| comparison.name == name);
    let Some(Comparison { ours: Ours::Work(prepare), .. }) = found else {
        bail!("no comparison with a process of its own is named `{name}`");
    };
    let mut work = prepare(work)?;
    let ready = Ready { who: "acclimate".to_owned(), threads: available(), missing: None };
    writeln!(answers, "{}", serde_json::to_string(&ready)?)?;
    answers.flush()?;
    for ask in asks.lines() {
        ask?;
        let start = Instant::now();
        work()?;
        let timed = Timed { seconds: start.elapsed().as_secs_f64() };
        writeln!(answers, "{}", serde_json::to_string(&timed)?)?;
        answers.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times in the order they are asked for.
    struct Fixed(std::array::IntoIter<f64, 4>);

    impl Side for Fixed {
        fn run(&mut self) -> Result<f64> {
            self.0.next().context("three pairs after one that is not counted")
        }

        fn forget(&mut self) {}

        fn peak(&self) -> Option<f64> {
            None
        }
    }

    #[test]
    fn a_ratio_is_the_median_over_pairs_and_below_one_where_we_are_faster() {
        let told = |times: [f64; 4]| Fixed(times.into_iter());
        let times = times(&mut told([9.0, 1.0, 2.0, 4.0]), &mut told([9.0, 4.0, 4.0, 32.0]), 3, None).unwrap();
        let found = times.measurement(&COMPARISONS[0], String::new(), [1, 1]);
        assert_eq!((found.ours_ms, found.peer_ms, found.ratio), (2e3, 4e3, 0.25));
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<_> = COMPARISONS.iter().chain(&PROGRAMS).map(|comparison| comparison.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_name_without_a_comparison_is_refused_with_those_there_are() {
        let plan = Plan { name: "nothing".to_owned(), pairs: 3, programs: 3, work: PathBuf::new() };
        let error = peers(Path::new("."), &plan, || Ok(PathBuf::new()), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("`nothing`") && error.contains("minilm step padded"), "{error}");
    }

    #[test]
    fn a_version_is_read_from_the_lock() {
        let lock =
            "[[package]]\nname = \"burn\"\nversion = \"1\"\n\n[[package]]\nname = \"burn-flex\"\nversion = \"2.3\"\n";
        assert_eq!(version(lock, "burn-flex").unwrap(), "2.3");
    }

    #[test]
    fn a_resnet18_has_its_known_arithmetic() {
        // 0.56 GMAC for an image of 32×32, nearly twice over.
        let operations = images(works::small().unwrap().as_ref(), works::SMALL, true).unwrap().operations() / 64.0;
        assert!((operations / 2.0 / 1e9 - 1.11).abs() < 0.01, "{operations}");
    }

    #[test]
    fn an_efficientnet_lite0_has_its_known_arithmetic() {
        // 385.19 MMAC for an image, as PyTorch's `FlopCounterMode` counts `reference/bench/vision.py`.
        let operations = images(works::large().unwrap().as_ref(), works::LARGE, false).unwrap().operations() / 8.0;
        assert!((operations / 2.0 / 1e6 - 385.19).abs() < 0.01, "{operations}");
    }
}
