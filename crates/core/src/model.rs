//! Models: immutable weights that call the pass at their sites.

use crate::{Error, Params, Pass, Result, Seq, Site};
use acclimate_kernels::Packed;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use std::sync::Arc;

/// What a model is fed.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a handful live at a time")]
pub enum Inputs {
    /// Token numbers and what goes with them.
    Tokens(Tokens),
    /// States in place of embeddings.
    Embeddings(Seq),
    /// Images, `[batch, channels, height, width]`.
    Images(Tensor<4>),
    /// Feature vectors, `[batch, features]`.
    Rows(Tensor<2>),
}

impl Inputs {
    /// How many rows the batch has.
    pub fn rows(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.ids.dims()[0],
            Self::Embeddings(seq) => seq.h.dims()[0],
            Self::Images(x) => x.dims()[0],
            Self::Rows(x) => x.dims()[0],
        }
    }
}

/// A batch of token numbers, padded to one length.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[batch, length]`.
    pub ids: Tensor<2, Int>,
    /// 1 for tokens and 0 for padding, `[batch, length]`.
    pub mask: Tensor<2>,
    /// Segment numbers, `[batch, length]`.
    pub types: Tensor<2, Int>,
    /// As [`Seq::starts`]: where in its row the document of each position begins.
    pub starts: Arc<[u32]>,
}

impl Tokens {
    /// Pads rows of token numbers and segment numbers at the end with zeros; rows without any are one position of padding.
    pub fn new(rows: &[(Vec<u32>, Vec<u32>)], dtype: DType, device: &Device) -> Self {
        let length = rows.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0).max(1);
        let cell =
            |row: usize, at: usize| rows[row].0.get(at).map(|&id| [id, rows[row].1.get(at).copied().unwrap_or(0)]);
        Self::build([rows.len(), length], cell, |_, _| 0, dtype, device)
    }

    /// One row in which documents stand one after another, none seeing another: no position is padding.
    pub fn packed<D: AsRef<[u32]>>(documents: &[D], dtype: DType, device: &Device) -> Self {
        let (mut ids, mut starts) = (vec![], vec![]);
        for document in documents {
            let document = document.as_ref();
            starts.extend(std::iter::repeat_n(ids.len() as u32, document.len()));
            ids.extend_from_slice(document);
        }
        let start = |_, at: usize| starts.get(at).copied().unwrap_or(0);
        Self::build([1, ids.len().max(1)], |_, at| ids.get(at).map(|&id| [id, 0]), start, dtype, device)
    }

    /// Rows padded at the front, as generation wants them: the last position is the last token of every row.
    pub fn ending<D: AsRef<[u32]>>(rows: &[D], dtype: DType, device: &Device) -> Self {
        let rows: Vec<&[u32]> = rows.iter().map(AsRef::as_ref).collect();
        let length = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(1);
        let pad = |row: usize| length - rows[row].len();
        let cell = |row: usize, at: usize| at.checked_sub(pad(row)).map(|at| [rows[row][at], 0]);
        Self::build([rows.len(), length], cell, |row, _| pad(row) as u32, dtype, device)
    }

    /// The token after what a cache holds, one for each row; `starts` tells where the rows began.
    ///
    /// # Panics
    /// When there is not one start per token.
    pub fn next(ids: &[u32], starts: &[u32], dtype: DType, device: &Device) -> Self {
        assert_eq!(ids.len(), starts.len(), "a start for each row");
        Self::build([ids.len(), 1], |row, _| Some([ids[row], 0]), |row, _| starts[row], dtype, device)
    }

    /// From what stands at a row and position: token and segment numbers, or padding.
    fn build(
        [rows, length]: [usize; 2],
        cell: impl Fn(usize, usize) -> Option<[u32; 2]>,
        start: impl Fn(usize, usize) -> u32,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let (mut ids, mut types, mut mask, mut starts) = (vec![], vec![], vec![], vec![]);
        for (row, at) in (0..rows).flat_map(|row| (0..length).map(move |at| (row, at))) {
            let [id, kind] = cell(row, at).unwrap_or_default().map(i64::from);
            ids.push(id);
            types.push(kind);
            mask.push(if cell(row, at).is_some() { 1f32 } else { 0.0 });
            starts.push(start(row, at));
        }
        let shape = [rows, length];
        Self {
            ids: Tensor::from_data(TensorData::new(ids, shape), device),
            mask: Tensor::<2>::from_data(TensorData::new(mask, shape), (device, DType::F32)).cast(dtype),
            types: Tensor::from_data(TensorData::new(types, shape), device),
            starts: starts.into(),
        }
    }
}

/// What a model answers.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The last states, for models over sequences.
    pub states: Option<Seq>,
    /// One vector per row, `[batch, width]`: what heads and probes stand on.
    pub features: Tensor<2>,
    /// The patch's head on the features, or the model's own head, `[batch, outputs]`.
    pub logits: Option<Tensor<2>>,
}

/// A frozen model. It knows its sites and calls the pass there; it knows no method.
pub trait Model: Send + Sync {
    /// Every place a method may touch, in forward order.
    fn sites(&self) -> &[Site];

    /// The frozen weights under the checkpoint's names.
    fn weights(&self) -> &Params;

    /// A frozen matrix that is kept packed, under the name it would have among the weights.
    fn packed(&self, name: &str) -> Option<&Packed> {
        let _ = name;
        None
    }

    /// SHA-256 of the weights.
    fn fingerprint(&self) -> &str;

    /// Width of `features`.
    fn width(&self) -> usize;

    /// Runs the model.
    ///
    /// # Errors
    /// When the inputs are of a kind the model does not take, or a patch does not fit.
    fn forward(&self, inputs: &Inputs, pass: &Pass<'_>) -> Result<Outputs>;

    /// The same architecture over other weights of the same shapes: merged ones, or another number type.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    fn with_weights(&self, weights: Params) -> Result<Box<dyn Model>>;

    /// The same model with the matrices of its linear sites rounded to bf16, see [`Packed::rounded`]. Its fingerprint is this one's: a
    /// patch for one is a patch for the other.
    ///
    /// # Errors
    /// When the model has no such form.
    fn in_bf16(&self) -> Result<Box<dyn Model>> {
        Err(Error::Unsupported {
            who: "the model".to_owned(),
            what: "hold its matrices in bf16".to_owned(),
            instead: "choose `base = \"dense\"`".to_owned(),
        })
    }

    /// Outputs of the model's own head, where it has one.
    fn outputs(&self) -> Option<usize> {
        None
    }

    /// The site of the model's own head, where it has one.
    fn head(&self) -> Option<&str> {
        None
    }

    /// The site whose matrix turns states into scores of the vocabulary, where the model reads from left to right: its own output matrix
    /// or, where the two are one, the embedding. See [`Pass::scores`].
    fn vocabulary(&self) -> Option<&Site> {
        None
    }

    /// Channels, height and width of the images it takes, where it takes images.
    fn image(&self) -> Option<[usize; 3]> {
        None
    }

    /// Number type and device of the weights.
    fn like(&self) -> (DType, Device) {
        crate::patch::like_of(self.weights())
    }
}
