//! First values of matrices.

use acclimate_core::Rng;
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Uniform numbers in `[-bound, bound)`.
pub(crate) fn uniform(shape: [usize; 2], bound: f64, (dtype, device): &(DType, Device), rng: &mut Rng) -> Tensor<2> {
    rng.uniform_tensor(&shape, bound, *dtype, device).get().expect("the shape has two axes")
}

/// Zeros.
pub(crate) fn zeros<const D: usize>(shape: [usize; D], (dtype, device): &(DType, Device)) -> Tensor<D> {
    Tensor::zeros(shape, (device, *dtype))
}

/// How many numbers the state of the twister has, and how far apart those are that it mixes.
const STATE: usize = 624;
const MIDDLE: usize = 397;

/// The 32-bit Mersenne Twister, whose numbers torch's generator gives on the processor.
///
/// Matsumoto and Nishimura, *Mersenne Twister: A 623-Dimensionally Equidistributed Uniform Pseudo-Random Number Generator*, 1998.
pub(crate) struct Mersenne {
    state: Vec<u32>,
    next: usize,
}

impl Mersenne {
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = vec![seed];
        for i in 1..STATE {
            let last = state[i - 1];
            state.push(1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32));
        }
        Self { state, next: STATE }
    }

    fn bits(&mut self) -> u32 {
        if self.next == STATE {
            for i in 0..STATE {
                let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + MIDDLE) % STATE] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform numbers in `[-bound, bound)` as torch draws them in single precision: 24 bits each, spread by one fused multiplication and
    /// addition.
    pub(crate) fn uniform(&mut self, shape: [usize; 2], bound: f64, (dtype, device): &(DType, Device)) -> Tensor<2> {
        let (low, high) = (-bound as f32, bound as f32);
        let values = (0..shape[0] * shape[1]).map(|_| {
            let share = (self.bits() & 0x00ff_ffff) as f32 * 2f32.powi(-24);
            share.mul_add(high - low, low)
        });
        let data = TensorData::new(values.collect::<Vec<f32>>(), shape);
        Tensor::<2>::from_data(data, (device, DType::F32)).cast(*dtype)
    }
}
