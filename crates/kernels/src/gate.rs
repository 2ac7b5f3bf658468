//! A gate on slices: `gate·σ(gate)·up`.

use crate::elementwise::CHUNK;
use crate::memory::Output;
use crate::simd::{Level, exp, normal, vectorised};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Below this power of e the share of the other side is zero.
const LEAST: f32 = -80.0;

/// Writes a gradient for each gate, what it gates and what comes in.
type GradientKernel = fn(Level, &[f32], &[f32], &[f32], &mut [MaybeUninit<f32>]);

/// `gate·σ(gate)·up`, number by number.
pub(crate) fn forward(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let (gate, up, level) = (gate.to_contiguous(), up.to_contiguous(), Level::best());
    let mut out = Output::new(gate.layout().shape().clone());
    let (gate, up) = (gate.storage::<f32>(), up.storage::<f32>());
    let parts = out.slots().par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
    parts.for_each(|((out, gate), up)| swiglu(level, gate, up, out));
    // SAFETY: the chunks cover all slots, and `swiglu` writes one number for each input.
    unsafe { out.finish() }
}

/// The gradients of gate and up, those `needed`.
pub(crate) fn backward(
    gate: &FlexTensor,
    up: &FlexTensor,
    gradient: &FlexTensor,
    needed: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let ([gate, up, gradient], level) = ([gate, up, gradient].map(FlexTensor::to_contiguous), Level::best());
    let shape = gate.layout().shape().clone();
    let [x, y, gradient] = [&gate, &up, &gradient].map(|tensor| tensor.storage::<f32>());
    let run = |kernel: GradientKernel| {
        let mut out = Output::new(shape.clone());
        let inputs = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
        let parts = out.slots().par_chunks_mut(CHUNK).zip(inputs);
        parts.for_each(|(out, ((gate, up), gradient))| kernel(level, gate, up, gradient, out));
        // SAFETY: the chunks cover all slots, and a kernel writes one number for each input.
        unsafe { out.finish() }
    };
    [needed[0].then(|| run(gate_gradient)), needed[1].then(|| run(up_gradient))]
}

vectorised! {
    /// The gated numbers.
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) = swiglu_body
}
vectorised! {
    /// The gradient of the gate.
    fn gate_gradient(gate: &[f32], up: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) = gate_gradient_body
}
vectorised! {
    /// The gradient of what is gated.
    fn up_gradient(gate: &[f32], up: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) = up_gradient_body
}

/// σ(x).
#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let small = exp::<FMA>(-x.abs(), LEAST);
    let share = 1.0 / (1.0 + small);
    if x < 0.0 { small * share } else { share }
}

#[inline(always)]
fn swiglu_body<const FMA: bool>(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) {
    for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
        out.write(normal(gate * sigmoid::<FMA>(gate) * up));
    }
}

#[inline(always)]
fn gate_gradient_body<const FMA: bool>(gate: &[f32], up: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) {
    for (((out, &gate), up), gradient) in out.iter_mut().zip(gate).zip(up).zip(gradient) {
        let share = sigmoid::<FMA>(gate);
        out.write(normal(gradient * up * (share * (1.0 + gate * (1.0 - share)))));
    }
}

#[inline(always)]
fn up_gradient_body<const FMA: bool>(gate: &[f32], _: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>]) {
    for ((out, &gate), gradient) in out.iter_mut().zip(gate).zip(gradient) {
        out.write(normal(gradient * gate * sigmoid::<FMA>(gate)));
    }
}
