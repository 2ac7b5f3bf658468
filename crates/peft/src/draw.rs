//! First values of matrices.

use acclimate_core::Rng;
use burn::tensor::{DType, Device, Tensor};

/// Uniform numbers in `[-bound, bound)`.
pub(crate) fn uniform(shape: [usize; 2], bound: f64, (dtype, device): &(DType, Device), rng: &mut Rng) -> Tensor<2> {
    rng.uniform_tensor(&shape, bound, *dtype, device).get().expect("the shape has two axes")
}

/// Zeros.
pub(crate) fn zeros<const D: usize>(shape: [usize; D], (dtype, device): &(DType, Device)) -> Tensor<D> {
    Tensor::zeros(shape, (device, *dtype))
}
