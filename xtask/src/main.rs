//! `cargo xtask`: the project's chores.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line program talks

use acclimate_kernels::allocator::{Allocator, keep_pages};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use xtask::{bench, claims, crash, golden, interop, pages, root, sanitize, scaffold, tidy};

/// As in the command-line program, so that `bench` times what its users get.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Begin a method: its file, its lines in the registry, a reference script and a changelog line
    New {
        /// FAMILY/NAME, such as optim/dog
        method: String,
        /// The title as the paper spells it
        #[arg(long)]
        title: String,
        /// The paper's number at arXiv
        #[arg(long)]
        arxiv: Option<String>,
        /// Year of publication, where the arXiv number does not tell it
        #[arg(long)]
        year: Option<u16>,
        /// Its number in the catalogue of papers
        #[arg(long)]
        catalogue: Option<u16>,
    },
    /// Write the catalogue's pages, the recipe schema, the bibliography and the table of evidence
    Gen {
        /// Only say what is out of date
        #[arg(long)]
        check: bool,
    },
    /// Check what no compiler checks
    Tidy,
    /// Renew golden numbers with the interpreter in ACCLIMATE_PYTHON
    Golden {
        /// FAMILY/NAME; all when none is given
        methods: Vec<String>,
    },
    /// Run claims and write their results
    Claims {
        /// Names of files below claims/, without .toml; all when none is given
        names: Vec<String>,
        /// Keep what the runs write here, and take up what lies there
        #[arg(long, value_name = "FOLDER")]
        work: Option<PathBuf>,
    },
    /// Kill runs at random moments, and check what they leave and that they go on
    Crash {
        /// Kills of each command
        #[arg(long, default_value_t = 200)]
        kills: usize,
        /// Names the stream of random moments
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Exchange folders with another package and compare outputs, with the interpreter in ACCLIMATE_PYTHON
    Interop {
        #[command(subcommand)]
        peer: Peer,
    },
    /// Run the kernels' tests under AddressSanitizer at every level of vector instructions, in a build of their own: Linux alone, and
    /// some minutes
    Sanitize {
        /// Part of the names of tests; all when none is given
        #[arg(default_value = "")]
        name: String,
    },
    /// Time acclimate beside other packages, with the interpreter in ACCLIMATE_PYTHON
    Bench {
        #[command(subcommand)]
        what: Timed,
    },
    /// One side of `bench peers`: answers every line with the time its work took
    #[command(hide = true)]
    BenchSide {
        /// The comparison
        name: String,
        /// The folder for models and adapters that are made
        work: PathBuf,
    },
    /// Run all checks, as .ci/run
    Ci,
}

#[derive(Debug, Subcommand)]
enum Peer {
    /// The peft package: both read what the other wrote
    Peft {
        /// Cases as MODEL-CASE; all when none is given
        cases: Vec<String>,
        /// The folder for models, adapters and report.json
        #[arg(long, default_value = "runs/interop")]
        work: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Timed {
    /// The same work by acclimate, by Burn's own operations and by Python packages
    Peers {
        /// Part of the names of comparisons; all when none is given
        #[arg(default_value = "")]
        name: String,
        /// Pairs of each comparison, at least 3
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..))]
        pairs: u32,
        /// Pairs of whole programs; each writes a model
        #[arg(long, default_value_t = 3)]
        programs: u32,
        /// The folder for models and adapters that are made
        #[arg(long, default_value = "runs/interop")]
        work: PathBuf,
        /// Print a line of JSON for each comparison in place of the table
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    keep_pages();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = root()?;
    match Cli::parse().chore {
        Chore::New { method, title, arxiv, year, catalogue } => {
            let plan = scaffold::Plan::new(&method, &title, arxiv.as_deref(), year, catalogue)?;
            for file in scaffold::create(&root, &plan)? {
                println!("{file}");
            }
            println!("next: fill in what the file asks for, then `cargo test --release {}`", plan.name);
        }
        Chore::Gen { check: true } => pages::check(&root, &acclimate::catalogue())?,
        Chore::Gen { check: false } => {
            for file in pages::update(&root, &acclimate::catalogue())? {
                println!("{file}");
            }
        }
        Chore::Tidy => {
            let report = tidy::run(&root, &acclimate::catalogue())?;
            for note in &report.notes {
                println!("note: {note}");
            }
            for finding in &report.findings {
                eprintln!("{finding}");
            }
            ensure!(report.findings.is_empty(), "{} to mend", report.findings.len());
        }
        Chore::Golden { methods } => golden::run(&root, &methods)?,
        Chore::Claims { names, work } => {
            let program = program(&root)?;
            claims::run(&root, &program, &names, work.as_deref(), |line| println!("{line}"))?;
        }
        Chore::Crash { kills, seed } => {
            let tally =
                crash::run(&program(&root)?, crash::Plan { kills, seed, epochs: EPOCHS }, |line| println!("{line}"))?;
            println!("{tally}");
        }
        Chore::Interop { peer: Peer::Peft { cases, work } } => {
            interop::peft(&root, &root.join(work), &cases, |line| println!("{line}"))?;
        }
        Chore::Sanitize { name } => {
            let own = std::env::current_exe().context("this program's own path cannot be read")?;
            let target = own.ancestors().nth(2).context("a built program lies in a profile's folder")?.join("sanitize");
            sanitize::run(&root, &target, &name, |line| println!("{line}"))?;
        }
        Chore::Bench { what: Timed::Peers { name, pairs, programs, work, json } } => {
            if !json {
                println!("{}", bench::Measurement::head());
            }
            let plan = bench::Plan { name, pairs, programs, work: root.join(work) };
            bench::peers(
                &root,
                &plan,
                || program(&root),
                |told| {
                    match told {
                        bench::Told::Measured(measurement) if json => println!("{}", measurement.json()?),
                        bench::Told::Measured(measurement) => println!("{}", measurement.text()),
                        bench::Told::Note(note) => eprintln!("note: {note}"),
                    }
                    Ok(())
                },
            )?;
        }
        Chore::BenchSide { name, work } => bench::serve(&name, &work, std::io::stdin().lock(), std::io::stdout())?,
        Chore::Ci => call(&root, "bash", &[".ci/run"])?,
    }
    Ok(())
}

/// Passes over the rows of a run that is killed: it lasts a second or two.
const EPOCHS: usize = 40;

/// The command line, built.
fn program(root: &Path) -> Result<PathBuf> {
    call(root, "cargo", &["build", "--release", "--quiet", "--package", "acclimate-cli"])?;
    let own = std::env::current_exe().context("this program's own path cannot be read")?;
    Ok(own.with_file_name(format!("acclimate{}", std::env::consts::EXE_SUFFIX)))
}

/// Runs a program at the root and fails as it does.
fn call(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    let line = format!("{program} {}", args.join(" "));
    let status = Command::new(program).args(args).current_dir(root).status();
    let status = status.with_context(|| format!("`{line}` does not start"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}
