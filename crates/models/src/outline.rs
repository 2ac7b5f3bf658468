use crate::{checkpoint, reader_of};
use acclimate_core::{AnyTensor, Error, Inputs, Model, Outputs, Params, Pass, Result, Site, Stored};
use burn::tensor::{DType, Device};
use std::path::Path;

/// The model of a folder with `config.json`, without its numbers: names, shapes and sites are its own, every number reads as none, so that
/// it equals no other and cannot pass for one, and the memory is that of a few. It tells what a patch would stand at; it computes nothing.
///
/// # Errors
/// As [`crate::load`].
pub fn outline(folder: &Path) -> Result<Box<dyn Model>> {
    let reader = reader_of(folder)?;
    let (checkpoint, mut weights) = (checkpoint(folder)?, Params::default());
    for tensor in checkpoint.tensors().iter().filter(|tensor| tensor.is_float()) {
        let dtype = if tensor.stored == Stored::F64 { DType::F64 } else { DType::F32 };
        weights.insert(&tensor.name_in_file, AnyTensor::outline(&tensor.shape, dtype, &Device::flex()));
    }
    Ok(Box::new(Outline { model: (reader.build)(folder, weights)?, fingerprint: checkpoint.fingerprint()? }))
}

struct Outline {
    model: Box<dyn Model>,
    /// Of the numbers in the files.
    fingerprint: String,
}

impl Model for Outline {
    fn sites(&self) -> &[Site] {
        self.model.sites()
    }

    fn weights(&self) -> &Params {
        self.model.weights()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn width(&self) -> usize {
        self.model.width()
    }

    fn forward(&self, _: &Inputs, _: &Pass<'_>) -> Result<Outputs> {
        Err(Error::Unsupported {
            who: "the outline of a model".to_owned(),
            what: "compute".to_owned(),
            instead: "load the model".to_owned(),
        })
    }

    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>> {
        self.model.with_weights(weights)
    }

    fn outputs(&self) -> Option<usize> {
        self.model.outputs()
    }

    fn head(&self) -> Option<&str> {
        self.model.head()
    }

    fn vocabulary(&self) -> Option<&Site> {
        self.model.vocabulary()
    }

    fn image(&self) -> Option<[usize; 3]> {
        self.model.image()
    }
}
