//! Frames gathered into batches. What a method gets of a batch has no place for classes.

use super::Subject;
use crate::encode::{Encoded, pixels};
use crate::recipe::TaskKind;
use acclimate_core::{Error, Result};
use acclimate_data::{self as data, Frame, Frames};
use sha2::{Digest, Sha256};

/// Frames with what they are called and, for scoring alone, their classes.
pub(super) struct Batch {
    /// A name for each row.
    pub(super) names: Vec<String>,
    /// What the method gets.
    pub(super) inputs: acclimate_core::Inputs,
    /// Classes where they are known. They stay with whoever scores.
    pub(super) truth: Vec<Option<usize>>,
    /// SHA-256 of names and inputs.
    pub(super) sha256: [u8; 32],
    /// How many frames the source has given by the end of this batch.
    pub(super) read: usize,
    /// What the last of those is called.
    pub(super) last: Option<String>,
    /// How many frames this process has left out by then.
    pub(super) skipped: u64,
}

/// What there is to tell while a batch is gathered.
pub(super) enum Found<'a> {
    /// A frame that is left out.
    Bad(&'a Error),
    /// The label of a frame that is no class of the model.
    Label(&'a str, &'a str),
}

/// Gathers frames for a model.
pub(super) struct Gatherer<'a> {
    frames: Frames,
    subject: &'a Subject,
    skip_bad: bool,
    last: Option<String>,
    skipped: u64,
}

impl<'a> Gatherer<'a> {
    /// # Errors
    /// Arrays of another shape than the model takes.
    pub(super) fn new(frames: Frames, subject: &'a Subject, skip_bad: bool) -> Result<Self> {
        if let (Some(got), Some(shape)) = (frames.shape(), subject.model().image()) {
            let count = |sizes: &[usize]| sizes.iter().product::<usize>();
            let fits = if got.len() == 3 { *got == shape } else { count(got) == count(&shape) };
            if !fits {
                let expected = format!("[rows, {}, {}, {}], as the model takes images", shape[0], shape[1], shape[2]);
                let got = [&[0], got].concat();
                return Err(Error::Shape { what: "the array of images".to_owned(), expected, got });
            }
        }
        Ok(Self { frames, subject, skip_bad, last: None, skipped: 0 })
    }

    /// Leaves out the frames that were answered before; the last of them has to be the one that is told.
    ///
    /// # Errors
    /// When the frames have changed.
    pub(super) fn pass_over(&mut self, count: usize, last: Option<&str>) -> Result<()> {
        let mut name = None;
        while self.frames.read() < count {
            let frame = self.frames.frame()?.ok_or_else(|| changed(&format!("there are fewer than {count}")))?;
            // Bad ones have no name.
            name = frame.ok().map(|frame| frame.name).or(name);
        }
        match (name, last) {
            (Some(name), Some(last)) if name != last => {
                Err(changed(&format!("frame {count} was `{last}` and is `{name}`")))
            }
            _ => Ok(()),
        }
    }

    /// The next frames, fewer than `size` only at the end; nothing after it.
    ///
    /// # Errors
    /// A frame that cannot be used, unless those are left out, and what stops all reading.
    pub(super) fn batch(&mut self, size: usize, tell: &mut dyn FnMut(Found<'_>)) -> Result<Option<Batch>> {
        let (mut names, mut truth, mut rows) = (vec![], vec![], vec![]);
        while rows.len() < size {
            let Some(frame) = self.frames.frame()? else { break };
            if let Ok(frame) = &frame {
                self.last = Some(frame.name.clone());
            }
            let taken = frame.and_then(|frame| self.take(frame)).and_then(|(name, row, label)| match rows.last() {
                Some(first) if std::mem::discriminant(first) != std::mem::discriminant(&row) => {
                    let what = format!("frame `{name}` is of another kind than those before it; correct it or drop it");
                    Err(Error::Other(what))
                }
                _ => Ok((name, row, label)),
            });
            match taken {
                Ok((name, row, label)) => {
                    let class = label.as_deref().and_then(|label| self.subject.class(label));
                    if let (Some(label), None) = (&label, class) {
                        tell(Found::Label(&name, label));
                    }
                    names.push(name);
                    rows.push(row);
                    truth.push(class);
                }
                Err(error) if self.skip_bad => {
                    tell(Found::Bad(&error));
                    self.skipped += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(inputs) = joined(rows) else { return Ok(None) };
        let (model, loaded) = (self.subject.model(), self.subject.loaded());
        let text = (loaded.and_then(|l| l.tokenizer.as_ref()), loaded.and_then(|l| l.template.as_ref()));
        let encoded = Encoded::new(&inputs, text, model.image(), TaskKind::Classification)?;
        let all: Vec<usize> = (0..encoded.len()).collect();
        let sha256 = fingerprint(&names, &inputs);
        let (inputs, read) = (encoded.batch(&all, model), self.frames.read());
        Ok(Some(Batch { names, inputs, truth, sha256, read, last: self.last.clone(), skipped: self.skipped }))
    }

    /// How many frames the source has given and how many of them this process has left out.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.frames.read(), self.skipped)
    }

    /// A frame's name, its inputs with pictures as numbers, and its label.
    fn take(&self, frame: Frame) -> Result<(String, data::Inputs, Option<String>)> {
        let Frame { name, inputs, label } = frame;
        let shape = self.subject.model().image();
        let inputs = match (inputs, shape) {
            (data::Inputs::Images(files), Some(shape)) => {
                let mut values = vec![];
                for file in &files {
                    values.extend(pixels(file, shape)?);
                }
                data::Inputs::Features { width: values.len(), values }
            }
            (data::Inputs::Features { width, .. }, Some(shape)) if width != shape.iter().product::<usize>() => {
                let [channels, height, wide] = shape;
                let takes = format!("{channels} x {height} x {wide}");
                let what =
                    format!("frame `{name}` holds {width} numbers, the model takes {takes}; correct it or drop it");
                return Err(Error::Other(what));
            }
            (inputs, _) => inputs,
        };
        Ok((name, inputs, label))
    }
}

fn changed(what: &str) -> Error {
    Error::Other(format!(
        "the frames are not those that were answered before: {what}; bring them back, or name another folder with `--out`"
    ))
}

/// Rows of one kind as one.
fn joined(rows: Vec<data::Inputs>) -> Option<data::Inputs> {
    rows.into_iter().reduce(|mut all, row| {
        match (&mut all, row) {
            (data::Inputs::Features { values: all, .. }, data::Inputs::Features { values, .. }) => all.extend(values),
            (data::Inputs::Texts(all), data::Inputs::Texts(row)) => all.extend(row),
            (data::Inputs::Pairs(all), data::Inputs::Pairs(row)) => all.extend(row),
            (data::Inputs::Words(all), data::Inputs::Words(row)) => all.extend(row),
            (data::Inputs::Images(all), data::Inputs::Images(row)) => all.extend(row),
            (data::Inputs::Dialogues(all), data::Inputs::Dialogues(row)) => all.extend(row),
            (data::Inputs::Choices(all), data::Inputs::Choices(row)) => all.extend(row),
            _ => unreachable!("rows of another kind were told apart"),
        }
        all
    })
}

fn fingerprint(names: &[String], inputs: &data::Inputs) -> [u8; 32] {
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name);
        hash.update([0]);
    }
    match inputs {
        data::Inputs::Features { values, .. } => values.iter().for_each(|x| hash.update(x.to_le_bytes())),
        other => hash.update(serde_json::to_vec(other).expect("texts and paths")),
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::{Plan, Subject, source};
    use super::*;
    use acclimate_core::{AnyTensor, Pass};
    use acclimate_data::Assets;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    static STOP: AtomicBool = AtomicBool::new(false);

    /// A file as NumPy writes it, `[rows, width]` in f32.
    fn npy(file: &Path, width: usize, values: &[f32]) {
        let shape = format!("({}, {width})", values.len() / width);
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        let numbers: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(file, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &numbers].concat()).unwrap();
    }

    #[test]
    fn saved_outputs_come_back_as_features_and_logits() {
        let folder = tempfile::tempdir().unwrap();
        let [logits, features] = ["logits.npy", "features.npy"].map(|name| folder.path().join(name));
        npy(&logits, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        npy(&features, 2, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let assets = Assets::at(folder.path(), true).unwrap();
        let plan = Plan { logits: Some(logits), features: Some(features), ..Plan::default() };
        let subject = Subject::open(&plan, &assets).unwrap();
        let frames = source::frames(&plan, &subject, &assets, &STOP).unwrap();
        let mut gatherer = Gatherer::new(frames, &subject, false).unwrap();
        let mut told = vec![];
        while let Some(batch) = gatherer.batch(2, &mut |_| ()).unwrap() {
            let said = subject.model().forward(&batch.inputs, &Pass::bare()).unwrap();
            let numbers = [said.features, said.logits.unwrap()].map(|x| AnyTensor::from(x).to_f64s());
            told.push((batch.names, numbers.map(|x| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>())));
        }
        let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let first = [vec![0.1, 0.2, 0.3, 0.4], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]];
        let last = [vec![0.5, 0.6], vec![7.0, 8.0, 9.0]];
        assert_eq!(told, [(names(&["1", "2"]), first), (names(&["3"]), last)]);
    }
}
