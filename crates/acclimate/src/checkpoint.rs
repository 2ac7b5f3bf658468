//! Checkpoints of one stage of training: one file each, a history that only grows, and when to write them.

use crate::train::StepLine;
use acclimate_core::{
    Error, Params, RecordReader, RecordWriter, Result, read_safetensors, remove_unfinished, write_safetensors,
    write_safetensors_unflushed,
};
use burn::tensor::Device;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The checkpoint that the disk is known to hold. Nothing replaces it but another one of its kind.
const FLUSHED: &str = "flushed.safetensors";

/// The checkpoint written since, without waiting for the disk: where the machine ends it may be torn.
const LATEST: &str = "latest.safetensors";

/// A line for every step; a checkpoint says how many of them are its own.
const HISTORY: &str = "history.jsonl";

/// How many lines of the history belong to a checkpoint.
const LINES: &str = "checkpoint/lines";

/// SHA-256 over everything else in a checkpoint.
const CHECKSUM: &str = "checkpoint/sha256";

/// A checkpoint waits for the disk where none has for so long: what the end of the machine costs, beside the time between two.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// Without `checkpoint_steps`, checkpoints take at most one part in so many of the training time.
const SHARE: u32 = 50;

/// What a checkpoint is taken to cost before one was written: the first comes after a second.
const UNKNOWN_COST: Duration = Duration::from_millis(20);

/// When checkpoints are written: every so many steps, or as often as they cost little. The clock decides when, never what.
pub(crate) struct Pace {
    every: Option<usize>,
    began: Instant,
    /// What all checkpoints and the last one took.
    spent: Duration,
    last: Duration,
}

impl Pace {
    pub(crate) fn new(every: Option<usize>) -> Self {
        Self { every, began: Instant::now(), spent: Duration::ZERO, last: UNKNOWN_COST }
    }

    /// Whether a checkpoint is to be written after so many steps.
    pub(crate) fn is_due(&self, steps: usize) -> bool {
        match self.every {
            Some(every) => steps.is_multiple_of(every),
            None => (self.spent + self.last) * SHARE <= self.began.elapsed(),
        }
    }

    /// A checkpoint was written that was begun at this moment.
    pub(crate) fn took(&mut self, from: Instant) {
        self.last = from.elapsed();
        self.spent += self.last;
    }
}

/// What an earlier process left.
pub(crate) struct Left {
    /// The checkpoint.
    pub(crate) file: PathBuf,
    /// What is in it.
    pub(crate) record: RecordReader,
    /// The steps that led to it.
    pub(crate) steps: Vec<StepLine>,
}

/// Writes the checkpoints of one stage.
pub(crate) struct Checkpoints {
    folder: PathBuf,
    pace: Pace,
    history: File,
    /// Steps and bytes in the history.
    lines: usize,
    bytes: u64,
    flushed: Instant,
}

impl Checkpoints {
    /// Opens the folder of a stage, with the furthest whole checkpoint in it. What a torn one or a line too many says is dropped:
    /// the steps are made again.
    ///
    /// # Errors
    /// When the disk refuses, or a whole checkpoint lacks what every one has.
    pub(crate) fn open(folder: &Path, every: Option<usize>, device: &Device) -> Result<(Self, Option<Left>)> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        remove_unfinished(folder)?;
        let file = folder.join(HISTORY);
        let mut history =
            File::options().create(true).read(true).append(true).open(&file).map_err(|e| Error::io(&file, e))?;
        let mut text = vec![];
        std::io::Read::read_to_end(&mut history, &mut text).map_err(|e| Error::io(&file, e))?;
        let (mut steps, mut ends) = (vec![], vec![0]);
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let Ok(step) = serde_json::from_slice::<StepLine>(line) else { break };
            if !line.ends_with(b"\n") {
                break;
            }
            ends.push(ends[steps.len()] + line.len() as u64);
            steps.push(step);
        }
        let mut furthest: Option<(usize, PathBuf, RecordReader)> = None;
        for name in [FLUSHED, LATEST] {
            let file = folder.join(name);
            let Some(mut record) = read(&file, device)? else { continue };
            let lines = record.u64(LINES).map_err(|e| Error::format(&file, e.to_string()))? as usize;
            if lines <= steps.len() && furthest.as_ref().is_none_or(|(most, ..)| lines > *most) {
                furthest = Some((lines, file, record));
            }
        }
        let lines = furthest.as_ref().map_or(0, |(lines, ..)| *lines);
        steps.truncate(lines);
        history.set_len(ends[lines]).map_err(|e| Error::io(&file, e))?;
        let (folder, flushed) = (folder.to_owned(), Instant::now());
        let checkpoints = Self { folder, pace: Pace::new(every), history, lines, bytes: ends[lines], flushed };
        Ok((checkpoints, furthest.map(|(_, file, record)| Left { file, record, steps })))
    }

    /// Whether a checkpoint is to be written after so many steps.
    pub(crate) fn is_due(&self, steps: usize) -> bool {
        self.pace.is_due(steps)
    }

    /// Writes a checkpoint; with `flush` the disk holds it when this returns. `steps` are all that were made.
    ///
    /// # Errors
    /// When the disk refuses; the checkpoints before are as they were.
    pub(crate) fn save(&mut self, mut record: RecordWriter, steps: &[StepLine], flush: bool) -> Result<()> {
        let from = Instant::now();
        let flush = flush || self.flushed.elapsed() >= FLUSH_EVERY;
        self.append(&steps[self.lines..], flush)?;
        record.u64(LINES, steps.len() as u64);
        seal(&mut record);
        if flush {
            write_safetensors(&self.folder.join(FLUSHED), &record.tensors, record.numbers)?;
            self.flushed = Instant::now();
        } else {
            write_safetensors_unflushed(&self.folder.join(LATEST), &record.tensors, record.numbers)?;
        }
        self.pace.took(from);
        Ok(())
    }

    /// Adds lines to the history, all or none.
    fn append(&mut self, steps: &[StepLine], flush: bool) -> Result<()> {
        let mut text = String::new();
        for step in steps {
            text.push_str(&serde_json::to_string(step).expect("numbers and text"));
            text.push('\n');
        }
        let written = self.history.write_all(text.as_bytes());
        written.and_then(|()| if flush { self.history.sync_data() } else { Ok(()) }).map_err(|e| {
            let _ = self.history.set_len(self.bytes);
            Error::io(self.folder.join(HISTORY), e)
        })?;
        self.lines += steps.len();
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Adds the checksum that [`read`] asks for.
pub(crate) fn seal(record: &mut RecordWriter) {
    record.numbers.insert(CHECKSUM.to_owned(), checksum(&record.tensors, &record.numbers));
}

/// A checkpoint, unless it is absent or torn.
pub(crate) fn read(file: &Path, device: &Device) -> Result<Option<RecordReader>> {
    if !file.exists() {
        return Ok(None);
    }
    let (tensors, mut numbers) = match read_safetensors(file, device) {
        Ok(read) => read,
        Err(Error::Format { .. }) => return Ok(None),
        Err(other) => return Err(other),
    };
    let told = numbers.remove(CHECKSUM);
    Ok((told == Some(checksum(&tensors, &numbers))).then_some(RecordReader { tensors, numbers }))
}

fn checksum(tensors: &Params, numbers: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    hash.update(tensors.fingerprint());
    for (name, number) in numbers {
        // No name and no number holds a zero byte.
        hash.update(format!("{name}\0{number}\0"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::AnyTensor;
    use burn::tensor::DType;

    fn record(value: f64) -> RecordWriter {
        let mut record = RecordWriter::default();
        let mut params = Params::default();
        params.insert("x", AnyTensor::from_f64s(vec![value; 64], &[8, 8], DType::F32, &Device::flex()));
        record.params("run/params", &params);
        record
    }

    fn steps(count: u64) -> Vec<StepLine> {
        (1..=count).map(|step| StepLine { step, loss: 0.1 + step as f64, multiplier: 1.0, log: vec![] }).collect()
    }

    fn open(folder: &Path) -> (Checkpoints, Option<Left>) {
        Checkpoints::open(folder, Some(1), &Device::flex()).unwrap()
    }

    /// A folder with a flushed checkpoint after two steps and another one after three.
    fn two() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (mut checkpoints, left) = open(folder.path());
        assert!(left.is_none());
        checkpoints.save(record(2.0), &steps(2), true).unwrap();
        checkpoints.save(record(3.0), &steps(3), false).unwrap();
        folder
    }

    fn found(folder: &Path) -> Option<(f64, Vec<StepLine>)> {
        let mut left = open(folder).1?;
        Some((left.record.params("run/params").unwrap().any("x").unwrap().to_f64s()[5], left.steps))
    }

    #[test]
    fn the_furthest_checkpoint_is_found_with_its_steps() {
        let folder = two();
        assert_eq!(found(folder.path()), Some((3.0, steps(3))));
        let (mut checkpoints, _) = open(folder.path());
        checkpoints.save(record(4.0), &steps(4), true).unwrap();
        assert_eq!(found(folder.path()), Some((4.0, steps(4))));
    }

    #[test]
    fn a_checkpoint_torn_anywhere_gives_way_to_the_one_before() {
        let whole = std::fs::read(two().path().join(LATEST)).unwrap();
        for at in (0..whole.len()).step_by(41) {
            let folder = two();
            let (short, mut zeros) = (whole[..at].to_vec(), whole.clone());
            zeros[at..].fill(0);
            for torn in [short, zeros] {
                std::fs::write(folder.path().join(LATEST), torn).unwrap();
                assert_eq!(found(folder.path()), Some((2.0, steps(2))), "at {at}");
            }
        }
    }

    #[test]
    fn a_history_that_is_too_long_is_cut_and_one_that_is_too_short_gives_way() {
        let folder = two();
        let file = folder.path().join(HISTORY);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, [&whole[..], b"{\"step\":4,\"lo"].concat()).unwrap();
        assert_eq!(found(folder.path()), Some((3.0, steps(3))));
        assert_eq!(std::fs::read(&file).unwrap(), whole);
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(found(folder.path()), Some((2.0, steps(2))));
        std::fs::write(&file, "").unwrap();
        assert_eq!(found(folder.path()), None);
    }

    #[test]
    fn steps_made_again_replace_those_that_were_lost() {
        let folder = two();
        std::fs::remove_file(folder.path().join(LATEST)).unwrap();
        let (mut checkpoints, _) = open(folder.path());
        let mut other = steps(2);
        other.push(StepLine { step: 3, loss: f64::NAN, multiplier: 0.5, log: vec![("d".to_owned(), 1e-6)] });
        checkpoints.save(record(5.0), &other, false).unwrap();
        let (x, again) = found(folder.path()).unwrap();
        assert_eq!((x, again.len()), (5.0, 3));
        assert!(again[2].loss.is_nan() && again[2].log == other[2].log);
    }

    #[test]
    fn the_clock_spares_checkpoints_that_cost_much() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints = Checkpoints::open(folder.path(), None, &Device::flex()).unwrap().0;
        assert!(!checkpoints.is_due(1));
        checkpoints.pace.began = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        assert!(checkpoints.is_due(1));
        (checkpoints.pace.spent, checkpoints.pace.last) = (Duration::from_millis(30), Duration::from_millis(30));
        assert!(!checkpoints.is_due(2));
    }
}
