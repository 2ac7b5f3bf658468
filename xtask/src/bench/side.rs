//! A side of a comparison: a process that does one piece of work whenever it is asked, or a whole program.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What a process says once it is ready, in a line of JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Ready {
    /// Who it is, with versions.
    pub(super) who: String,
    /// The threads it uses.
    pub(super) threads: usize,
    /// A package that it would need and does not find; it ends then.
    #[serde(default)]
    pub(super) missing: Option<String>,
}

/// How long the work took, in a line of JSON after each line that asks for it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Timed {
    pub(super) seconds: f64,
}

/// Either side of a pair.
pub(super) trait Side {
    /// Does the work once; seconds.
    ///
    /// # Errors
    /// When the process ended early or answers something else.
    fn run(&mut self) -> Result<f64>;

    /// Forgets the most memory so far.
    fn forget(&mut self);

    /// The most memory held since, in MiB; none where the system does not tell.
    fn peak(&self) -> Option<f64>;
}

/// A process that answers lines.
pub(super) struct Process {
    child: Child,
    asks: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    pub(super) ready: Ready,
}

impl Process {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start, or ends before it is ready.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = child.with_context(|| format!("`{name}` does not start"))?;
        let asks = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().context("the process has no output")?).lines();
        let ready = serde_json::from_str(&line(&mut answers)?)?;
        Ok(Self { child, asks, answers, ready })
    }

    /// Lets it end.
    ///
    /// # Errors
    /// When it fails on its way out.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.asks.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "{} failed: {status}", self.ready.who);
        Ok(())
    }
}

fn line(answers: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    Ok(answers.next().context("the process ended early; its reason stands above")??)
}

impl Side for Process {
    fn run(&mut self) -> Result<f64> {
        writeln!(self.asks.as_mut().context("the process was told to end")?)?;
        let timed: Timed = serde_json::from_str(&line(&mut self.answers)?)?;
        Ok(timed.seconds)
    }

    fn forget(&mut self) {
        // Where it is not allowed the peak is that of the whole life, which is more.
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").ok();
    }

    fn peak(&self) -> Option<f64> {
        peak_of(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After an error on the other side no one lets it end.
        if self.asks.take().is_some() {
            self.child.kill().and_then(|()| self.child.wait()).ok();
        }
    }
}

/// A program that writes a folder with `model.safetensors`, which is removed afterwards.
pub(super) struct Program {
    command: Box<dyn Fn() -> Result<Command>>,
    out: PathBuf,
    peak: Option<f64>,
}

impl Program {
    /// One that `command` starts and that writes `out`.
    pub(super) fn new(command: impl Fn() -> Result<Command> + 'static, out: &Path) -> Self {
        Self { command: Box::new(command), out: out.to_owned(), peak: None }
    }

    fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.out) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", self.out.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Side for Program {
    fn run(&mut self) -> Result<f64> {
        /// Between two looks at a program's memory: short beside the seconds it runs.
        const LOOK: Duration = Duration::from_millis(2);
        self.remove()?;
        let mut command = (self.command)()?;
        let name = command.get_program().display().to_string();
        let start = Instant::now();
        let child = command.stdout(Stdio::null()).spawn();
        let mut child = child.with_context(|| format!("`{name}` does not start"))?;
        let (status, seconds) = loop {
            let ended = child.try_wait()?;
            let seconds = start.elapsed().as_secs_f64();
            if let Some(status) = ended {
                break (status, seconds);
            }
            self.peak = [self.peak, peak_of(child.id())].into_iter().flatten().reduce(f64::max);
            std::thread::sleep(LOOK);
        };
        ensure!(status.success(), "{name} failed: {status}");
        ensure!(self.out.join("model.safetensors").is_file(), "{} holds no model.safetensors", self.out.display());
        self.remove()?;
        Ok(seconds)
    }

    fn forget(&mut self) {
        self.peak = None;
    }

    fn peak(&self) -> Option<f64> {
        self.peak
    }
}

/// The most memory that a running process has held, in MiB.
fn peak_of(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib: f64 =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().split(' ').next()?.parse().ok()?;
    Some(kib / 1024.0)
}
