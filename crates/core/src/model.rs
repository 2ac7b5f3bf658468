//! Models: immutable weights that call the pass at their sites.

use crate::{Params, Pass, Result, Seq, Site};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

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

/// A padded batch of token numbers.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[batch, length]`.
    pub ids: Tensor<2, Int>,
    /// 1 for tokens and 0 for padding, `[batch, length]`.
    pub mask: Tensor<2>,
    /// Segment numbers, `[batch, length]`.
    pub types: Tensor<2, Int>,
}

impl Tokens {
    /// Pads rows of token numbers and segment numbers at the end with zeros; rows without any are one position of padding.
    pub fn new(rows: &[(Vec<u32>, Vec<u32>)], dtype: DType, device: &Device) -> Self {
        let length = rows.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0).max(1);
        let (mut ids, mut mask, mut types) = (vec![], vec![], vec![]);
        for (row, kinds) in rows {
            ids.extend((0..length).map(|i| row.get(i).map_or(0, |&id| i64::from(id))));
            types.extend((0..length).map(|i| kinds.get(i).map_or(0, |&id| i64::from(id))));
            mask.extend((0..length).map(|i| if i < row.len() { 1f32 } else { 0.0 }));
        }
        let shape = [rows.len(), length];
        Self {
            ids: Tensor::from_data(TensorData::new(ids, shape), device),
            mask: Tensor::<2>::from_data(TensorData::new(mask, shape), (device, DType::F32)).cast(dtype),
            types: Tensor::from_data(TensorData::new(types, shape), device),
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

    /// Outputs of the model's own head, where it has one.
    fn outputs(&self) -> Option<usize> {
        None
    }

    /// The site of the model's own head, where it has one.
    fn head(&self) -> Option<&str> {
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
