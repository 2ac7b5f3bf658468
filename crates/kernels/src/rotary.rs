//! Rotation of pairs of numbers by an angle of their position, on slices.

use crate::memory::Output;
use crate::simd::{Level, mul_add, normal, vectorised};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Positions one task handles.
const POSITIONS: usize = 16;

/// Each head's halves `(a, b)` become `(a·cos − b·sin, b·cos + a·sin)`; `back` turns the other way.
pub(crate) fn rotate(x: &FlexTensor, cos: &FlexTensor, sin: &FlexTensor, heads: usize, back: bool) -> FlexTensor {
    let ([x, cos, sin], level) = ([x, cos, sin].map(FlexTensor::to_contiguous), Level::best());
    let shape = x.layout().shape().clone();
    let features = shape[shape.num_dims() - 1];
    let mut out = Output::new(shape);
    if features == 0 {
        return unsafe_finish(out);
    }
    let half = features / heads / 2;
    let (input, cos, sin) = (x.storage::<f32>(), cos.storage::<f32>(), sin.storage::<f32>());
    let angles = cos.par_chunks(POSITIONS * half).zip(sin.par_chunks(POSITIONS * half));
    let rows = out.slots().par_chunks_mut(POSITIONS * features).zip(input.par_chunks(POSITIONS * features));
    rows.zip(angles).for_each(|((out, x), (cos, sin))| {
        for (at, (out, x)) in out.chunks_exact_mut(features).zip(x.chunks_exact(features)).enumerate() {
            let (cos, sin) = (&cos[at * half..][..half], &sin[at * half..][..half]);
            for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                rotate_head(level, x, cos, sin, if back { -1.0 } else { 1.0 }, out);
            }
        }
    });
    unsafe_finish(out)
}

/// The finished tensor.
fn unsafe_finish(out: Output) -> FlexTensor {
    // SAFETY: the chunks cover all slots (or there are none), and `rotate_head` writes one number for each input.
    unsafe { out.finish() }
}

vectorised! {
    /// One head at one position.
    fn rotate_head(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [MaybeUninit<f32>]) = rotate_head_body
}

#[inline(always)]
fn rotate_head_body<const FMA: bool>(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [MaybeUninit<f32>]) {
    let half = cos.len();
    let (a, b) = x.split_at(half);
    let (first, second) = out.split_at_mut(half);
    for at in 0..half {
        let (cos, sin) = (cos[at], sign * sin[at]);
        first[at].write(normal(mul_add::<FMA>(a[at], cos, -(b[at] * sin))));
        second[at].write(normal(mul_add::<FMA>(b[at], cos, a[at] * sin)));
    }
}
