//! States of optimisers in half their memory while nobody works with them.

use acclimate_core::{AnyState, AnyTensor, Params, Rng};
use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

/// How the state of an optimiser lies between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateForm {
    /// As the method keeps it.
    #[default]
    Full,
    /// What is shaped like a parameter in bf16, two bytes a number; during a step it is whole. A number is rounded up or down with the
    /// chances that make its mean right: a running mean that moves by less than half a unit at each step would stand still otherwise. An
    /// error is below $2^{-7}$ of the number. For methods that keep moments; it costs a pass over the state at each step.
    Bf16,
}

/// The tensors of a state that are shaped like parameters, in bf16.
#[derive(Debug, Default)]
pub(crate) struct Rounded(Vec<Vec<Numbers>>);

#[derive(Debug)]
struct Numbers {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
    bits: Vec<u16>,
}

impl Rounded {
    /// Takes them out of a state. Numbers that bf16 can tell stay what they are.
    pub(crate) fn take(state: &mut dyn AnyState, group: usize, step: u64) -> Self {
        let slots = state.slots().into_iter().enumerate().map(|(slot, params)| {
            let numbers = std::mem::take(params);
            numbers.iter().map(|(name, x)| Numbers::of(name, x, &format!("host/{group}/{slot}/{name}"), step)).collect()
        });
        Self(slots.collect())
    }

    /// Puts them back.
    pub(crate) fn put(&self, state: &mut dyn AnyState) {
        for (params, numbers) in state.slots().into_iter().zip(&self.0) {
            let mut whole = Params::default();
            for Numbers { name, shape, dtype, device, bits } in numbers {
                let values = bits.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect();
                whole.insert(name, AnyTensor::from_f32s(values, shape, device).cast(*dtype));
            }
            *params = whole;
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().flatten().map(|numbers| numbers.bits.len() * size_of::<u16>()).sum()
    }
}

impl Numbers {
    fn of(name: &str, x: &AnyTensor, purpose: &str, step: u64) -> Self {
        let mut state = Rng::new(0, purpose, step).below(1 << 48) as u64;
        let values = x.to_f32s();
        let mut bits = Vec::with_capacity(values.len());
        // A draw of 64 bits serves four numbers.
        for four in values.chunks(4) {
            let draw = mixed(&mut state);
            bits.extend(four.iter().enumerate().map(|(at, &x)| rounded(x, (draw >> (16 * at)) as u16)));
        }
        Self { name: name.to_owned(), shape: x.shape(), dtype: x.dtype(), device: x.device(), bits }
    }
}

/// The upper half of a number, one more where the lower half and the draw together say so.
fn rounded(x: f32, draw: u16) -> u16 {
    let bits = x.to_bits();
    let up = ((bits.saturating_add(u32::from(draw))) >> 16) as u16;
    // Neither the largest number nor one that is none may turn into something else.
    if f32::from_bits(u32::from(up) << 16).is_finite() { up } else { (bits >> 16) as u16 | u16::from(x.is_nan()) }
}

/// The next number of a SplitMix64 stream: Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.
fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
