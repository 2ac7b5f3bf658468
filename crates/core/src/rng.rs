//! Counter-based random streams: a draw depends on (seed, purpose, step) and on nothing that ran before.

use crate::AnyTensor;
use burn::tensor::{DType, Device};
use rand::{Rng as _, RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};

/// A random stream named by seed, purpose and step. Equal names give equal bits on every machine and thread count.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of one `purpose` (such as `"init"`) at one `step` under one `seed`.
    pub fn new(seed: u64, purpose: &str, step: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(step.to_le_bytes());
        hash.update(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(hash.finalize().into()))
    }

    /// A child stream for `purpose`; drawing from it does not move this one further than one draw.
    pub fn child(&mut self, purpose: &str) -> Self {
        Self::new(self.0.next_u64(), purpose, 0)
    }

    /// A number in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        self.0.random::<f64>()
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// An index below `n`; `n` must be positive.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A tensor of uniform numbers in `[-bound, bound)`.
    pub fn uniform_tensor(&mut self, shape: &[usize], bound: f64, dtype: DType, device: &Device) -> AnyTensor {
        let n = shape.iter().product();
        let values: Vec<f64> = (0..n).map(|_| (2.0 * self.uniform() - 1.0) * bound).collect();
        AnyTensor::from_f64s(values, shape, dtype, device)
    }

    /// A tensor of normal numbers with mean 0 and the given standard deviation.
    pub fn normal_tensor(&mut self, shape: &[usize], std: f64, dtype: DType, device: &Device) -> AnyTensor {
        let n = shape.iter().product();
        let values: Vec<f64> = (0..n).map(|_| self.normal() * std).collect();
        AnyTensor::from_f64s(values, shape, dtype, device)
    }

    /// A mask of zeros and `1/keep`: each entry kept with probability `keep`.
    pub fn dropout_mask(&mut self, shape: [usize; 2], keep: f64, dtype: DType, device: &Device) -> AnyTensor {
        let scale = 1.0 / keep;
        let values: Vec<f64> =
            (0..shape[0] * shape[1]).map(|_| if self.uniform() < keep { scale } else { 0.0 }).collect();
        AnyTensor::from_f64s(values, &shape, dtype, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_their_name_alone() {
        let draw = |seed, purpose, step| Rng::new(seed, purpose, step).uniform();
        assert_eq!(draw(1, "init", 0), draw(1, "init", 0));
        assert_ne!(draw(1, "init", 0), draw(1, "init", 1));
        assert_ne!(draw(1, "init", 0), draw(2, "init", 0));
        assert_ne!(draw(1, "init", 0), draw(1, "order", 0));
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: Vec<usize> = (0..100).collect();
        Rng::new(3, "order", 0).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
