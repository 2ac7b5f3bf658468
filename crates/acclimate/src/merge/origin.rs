//! Where the numbers of a model and of merged tensors come from, in pieces.

use super::AT_ONCE;
use acclimate_core::{AnyTensor, Checkpoint, Error, Format, Model, Result, Stored, StoredTensor, decode, encode};
use burn::tensor::{DType, Device, TensorData};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a model's numbers come from.
pub(super) enum Origin {
    /// From files, a tensor at a time.
    Files(Checkpoint),
    /// From a model in memory, whose packed matrices are made dense one by one.
    Model { model: Box<dyn Model>, tensors: Vec<StoredTensor> },
}

impl Origin {
    /// A model in memory: matrices of halves stay such, other packed ones become single.
    pub(super) fn of(model: Box<dyn Model>) -> Self {
        let tensor = |name: &str, shape: Vec<usize>, stored: Stored| {
            let bytes = (shape.iter().product::<usize>() * stored.bitsize() / 8) as u64;
            let name = name.to_owned();
            StoredTensor {
                name: name.clone(),
                name_in_file: name,
                stored,
                shape,
                file: 0,
                range: 0..bytes,
                strides: None,
            }
        };
        let mut tensors: Vec<StoredTensor> = model
            .weights()
            .iter()
            .map(|(name, t)| tensor(name, t.shape(), if t.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 }))
            .collect();
        let matrices = model.sites().iter().map(|site| format!("{}.weight", site.name));
        tensors.extend(matrices.filter_map(|name| {
            let packed = model.packed(&name)?;
            let stored = match packed.format() {
                Format::F16 => Stored::F16,
                Format::Bf16 => Stored::BF16,
                _ => Stored::F32,
            };
            Some(tensor(&name, packed.dims().to_vec(), stored))
        }));
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self::Model { model, tensors }
    }

    pub(super) fn tensors(&self) -> &[StoredTensor] {
        match self {
            Self::Files(checkpoint) => checkpoint.tensors(),
            Self::Model { tensors, .. } => tensors,
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Result<&StoredTensor> {
        let found = match self {
            Self::Files(checkpoint) => checkpoint.tensor(name),
            Self::Model { tensors, .. } => tensors.iter().find(|tensor| tensor.name == name),
        };
        found.ok_or_else(|| Error::unknown("tensor", name, self.tensors().iter().map(|tensor| tensor.name.as_str())))
    }

    pub(super) fn read(&self, tensor: &StoredTensor) -> Result<AnyTensor> {
        match self {
            Self::Files(checkpoint) => checkpoint.read(tensor, &Device::flex()),
            Self::Model { model, .. } => {
                let dense = || model.packed(&tensor.name).map(|packed| AnyTensor::from(packed.dense()));
                let found = model.weights().any(&tensor.name).cloned().or_else(dense);
                found.ok_or_else(|| Error::unknown("tensor", &tensor.name, model.weights().names()))
            }
        }
    }

    pub(super) fn pieces(&self, tensor: &StoredTensor, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Self::Files(checkpoint) => checkpoint.pieces(tensor, take),
            Self::Model { .. } => Numbers::of(self.read(tensor)?).pieces(&tensor.name, tensor.stored, take),
        }
    }

    pub(super) fn fingerprint(&self) -> Result<String> {
        match self {
            Self::Files(checkpoint) => checkpoint.fingerprint(),
            Self::Model { model, .. } => Ok(model.fingerprint().to_owned()),
        }
    }

    /// Names and text entries of the files to write.
    pub(super) fn files(&self) -> Vec<(PathBuf, BTreeMap<String, String>)> {
        match self {
            Self::Files(checkpoint) => {
                let name = |file: &Path| match file.file_name() {
                    Some(name) if file.extension().is_some_and(|end| end == "safetensors") => name.into(),
                    // What torch wrote is written as safetensors.
                    _ => PathBuf::from(Checkpoint::WHOLE),
                };
                checkpoint.files().enumerate().map(|(at, file)| (name(file), checkpoint.metadata(at).clone())).collect()
            }
            Self::Model { .. } => {
                let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
                vec![(Checkpoint::WHOLE.into(), format)]
            }
        }
    }
}

pub(super) fn too_large(tensor: &str, to: Stored, number: f64) -> Error {
    Error::Other(format!("tensor `{tensor}` has the number `{number:e}`, too large for {to}; choose `bf16` or `f32`"))
}

/// The numbers of a merged tensor, in its own type.
pub(super) struct Numbers(TensorData);

impl Numbers {
    pub(super) fn of(tensor: AnyTensor) -> Self {
        let elements = tensor.elements();
        // Of numbers that nobody else holds no copy is made.
        drop(tensor);
        let data = elements.into_data();
        Self(if matches!(data.dtype(), DType::F64 | DType::F32) { data } else { data.convert::<f32>() })
    }

    pub(super) fn stored(&self) -> Stored {
        if self.0.dtype() == DType::F64 { Stored::F64 } else { Stored::F32 }
    }

    /// Appends so many numbers from a place on.
    pub(super) fn widen(&self, from: usize, count: usize, out: &mut Vec<f64>) {
        decode(self.stored(), self.raw(from, count), out);
    }

    /// The bytes of so many numbers from a place on, where they are stored as they are here.
    pub(super) fn as_stored(&self, to: Stored, from: usize, count: usize) -> Option<&[u8]> {
        (to == self.stored()).then(|| self.raw(from, count))
    }

    fn raw(&self, from: usize, count: usize) -> &[u8] {
        let size = self.stored().bitsize() / 8;
        &self.0.as_bytes()[from * size..(from + count) * size]
    }

    /// Hands over the numbers as they are written.
    pub(super) fn pieces(&self, name: &str, to: Stored, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if to == self.stored() {
            return take(self.0.as_bytes());
        }
        let (mut wide, mut bytes) = (vec![], vec![]);
        for raw in self.0.as_bytes().chunks(AT_ONCE * self.stored().bitsize() / 8) {
            wide.clear();
            bytes.clear();
            decode(self.stored(), raw, &mut wide);
            encode(&wide, to, &mut bytes).map_err(|number| too_large(name, to, number))?;
            take(&bytes)?;
        }
        Ok(())
    }
}
