//! Where frames come from.

use super::gather::Gatherer;
use super::subject::{FEATURES, LOGITS};
use super::{Plan, Subject};
use acclimate_core::{Error, Inputs, Result};
use acclimate_data::{Assets, Columns, Frames, ReadOptions, Source};
use std::io::{BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Names of an array of frames, the likeliest first.
const FRAMES: [&str; 4] = ["x", "images", "features", "arr_0"];

/// What a stream's standard input is called in messages.
const STDIN: &str = "standard input";

/// Reads of standard input that may wait to be taken.
const WAITING: usize = 4;

/// The frames that a plan names.
pub(super) fn frames(plan: &Plan, subject: &Subject, assets: &Assets, stop: &'static AtomicBool) -> Result<Frames> {
    if let Some(logits) = &plan.logits {
        // A row is the features, then the logits; classes stand beside the logits.
        let features = plan.features.as_deref().unwrap_or(logits);
        let names: &[&str] = if plan.features.is_some() { &FEATURES } else { &LOGITS };
        return Frames::outputs((logits, &LOGITS), (features, names));
    }
    let data = plan.data.as_deref().unwrap_or_default();
    named(data, plan, subject, assets, stop)
}

fn named(data: &str, plan: &Plan, subject: &Subject, assets: &Assets, stop: &'static AtomicBool) -> Result<Frames> {
    let own = Columns {
        text: plan.text.clone(),
        image: plan.image.clone(),
        target: plan.target.clone(),
        ..Columns::default()
    };
    let plain = if subject.model().image().is_some() { "image" } else { "text" };
    if data.is_empty() {
        return Err(Error::Other("no frames given; name a folder, a file, `asset:NAME` or `-`".to_owned()));
    }
    if data == "-" {
        return Ok(Frames::lines(STDIN, Box::new(BufReader::new(Piped::new(stop))), own, plain));
    }
    let source = Source::parse(data)?;
    if let Source::Asset(name) = &source {
        let (table, known) = assets.table(name)?;
        let pick = |own: Option<String>, known: Option<String>| own.or(known);
        let columns = Columns {
            text: pick(own.text, known.text),
            image: pick(own.image, known.image),
            target: pick(own.target, known.target),
            ..known
        };
        return Ok(Frames::table(table, columns));
    }
    let path = source.resolve(assets)?;
    if path.is_dir() {
        return Frames::folder(&path);
    }
    let is = |end: &str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(end));
    if is("npz") || is("npy") {
        return Frames::arrays(&path, &FRAMES);
    }
    Frames::file(&path, &ReadOptions::default(), own, plain)
}

/// Batches like those of training, with the classes of their rows where all of them are known.
pub(super) fn reference(
    plan: &Plan,
    subject: &Subject,
    assets: &Assets,
    stop: &'static AtomicBool,
) -> Result<(Vec<Inputs>, Vec<Vec<usize>>)> {
    let Some(data) = &plan.reference else { return Ok((vec![], vec![])) };
    if plan.logits.is_some() {
        return Err(Error::Unsupported {
            who: "a stream of saved outputs".to_owned(),
            what: "look at reference rows: there is no model to run on them".to_owned(),
            instead: "leave out `--reference`".to_owned(),
        });
    }
    if data == "-" {
        return Err(Error::Other("reference rows cannot come from standard input; name a file".to_owned()));
    }
    let mut gatherer = Gatherer::new(named(data, plan, subject, assets, stop)?, subject, false)?;
    let (mut batches, mut labels, mut rows) = (vec![], vec![], 0);
    while rows < plan.reference_rows {
        let size = plan.batch.min(plan.reference_rows - rows);
        let Some(batch) = gatherer.batch(size, &mut |_| ())? else { break };
        rows += batch.names.len();
        batches.push(batch.inputs);
        labels.push(batch.truth.into_iter().collect::<Option<Vec<usize>>>());
    }
    let all: Option<Vec<Vec<usize>>> = labels.into_iter().collect();
    match all {
        Some(labels) => Ok((batches, labels)),
        None => Ok((batches, vec![])),
    }
}

/// Standard input that ends when `stop` is set: a reader that waits for a line would not notice.
struct Piped {
    chunks: Receiver<std::io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    stop: &'static AtomicBool,
}

impl Piped {
    fn new(stop: &'static AtomicBool) -> Self {
        let (send, chunks) = sync_channel(WAITING);
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            loop {
                let mut chunk = vec![0; 1 << 16];
                let read = match input.read(&mut chunk) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    Ok(0) => break,
                    Ok(count) => {
                        chunk.truncate(count);
                        Ok(chunk)
                    }
                    Err(e) => Err(e),
                };
                let failed = read.is_err();
                if send.send(read).is_err() || failed {
                    break;
                }
            }
        });
        Self { chunks, chunk: vec![], at: 0, stop }
    }
}

impl Read for Piped {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(0);
            }
            match self.chunks.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let count = to.len().min(self.chunk.len() - self.at);
        to[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
