//! Numbers for the kernels' tests.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Numbers between −1 and 1 that look random, from a seed; each is an f32.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| f64::from(next() as f32)).collect()
}

/// A plain tensor of f32 or f64 numbers.
pub(crate) fn tensor<const D: usize>(values: &[f64], shape: [usize; D], kind: DType) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex(), DType::F64)).cast(kind)
}

/// The numbers of a tensor, tracked or not.
pub(crate) fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.inner().cast(DType::F64).into_data().try_into_vec_as::<f64>().expect("they were made f64")
}
