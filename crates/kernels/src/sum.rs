//! Sums of two tensors, and the activations that follow sums and norms.

use crate::elementwise::CHUNK;
use crate::extension::register;
use crate::memory::Output;
use crate::simd::{Level, normal, vectorised};
use crate::{composed, has_kernels};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// What follows a norm or a sum, number by number. NaN stays NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// The least and the largest result.
    pub(crate) fn bounds(self) -> [f32; 2] {
        match self {
            Self::Identity => [f32::NEG_INFINITY, f32::INFINITY],
            Self::Relu => [0.0, f32::INFINITY],
            Self::Relu6 => [0.0, 6.0],
        }
    }
}

/// `x` within bounds.
#[inline(always)]
pub(crate) fn clip(x: f32, [least, most]: [f32; 2]) -> f32 {
    let x = if x < least { least } else { x };
    if x > most { most } else { x }
}

/// The gradient of [`clip`]: none at the bounds, unless they are infinite.
#[inline(always)]
pub(crate) fn passed(x: f32, gradient: f32, [least, most]: [f32; 2]) -> f32 {
    if (x <= least && least > f32::NEG_INFINITY) || (x >= most && most < f32::INFINITY) { 0.0 } else { gradient }
}

/// `x + y`, then the activation; any shape.
///
/// # Panics
/// If the shapes differ.
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(x.dims(), y.dims(), "what is added must have one shape");
    if ![&x, &y].iter().all(|x| has_kernels(x)) {
        return composed::activate(x + y, activation);
    }
    Tensor::from_dispatch(<Dispatch as Sums>::fused_add(x.into_dispatch(), y.into_dispatch(), activation))
}

/// What Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff.
#[backend_extension(Flex, Autodiff)]
trait Sums: Backend {
    fn fused_add(x: FloatTensor<Self>, y: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
}

impl Sums for Flex {
    fn fused_add(x: FlexTensor, y: FlexTensor, activation: Activation) -> FlexTensor {
        let ([x, y], level) = ([x, y].map(|x| x.to_contiguous()), Level::best());
        let mut out = Output::new(x.layout().shape().clone());
        let parts = x.storage::<f32>().par_chunks(CHUNK).zip(y.storage::<f32>().par_chunks(CHUNK));
        let bounds = activation.bounds();
        out.slots().par_chunks_mut(CHUNK).zip(parts).for_each(|(out, (x, y))| sum_clipped(level, x, y, bounds, out));
        // SAFETY: the chunks cover all slots, and a number is written for each.
        unsafe { out.finish() }
    }
}

impl<C: CheckpointStrategy> Sums for Autodiff<Flex, C> {
    fn fused_add(x: FloatTensor<Self>, y: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Add;

        impl Backward<Flex, 2> for Add {
            /// The result where it was clipped.
            type State = (Option<FlexTensor>, Activation);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (out, activation) = ops.state;
                let gradient = grads.consume::<Flex>(&ops.node);
                let gradient = out.map_or_else(|| gradient.clone(), |out| add_backward(&out, &gradient, activation));
                let parents = ops.parents.map(|parent| parent.map(|node| node.id));
                let gradients = parents.map(|parent| parent.is_some().then(|| gradient.clone()));
                register(parents, gradients, grads);
            }
        }

        match Add.prepare::<C>([x.node(), y.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = Flex::fused_add(x.into_primitive(), y.into_primitive(), activation);
                let kept = (activation != Activation::Identity).then(|| out.clone());
                prep.finish((kept, activation), out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::fused_add(x.into_primitive(), y.into_primitive(), activation))
            }
        }
    }
}

/// The gradient before a sum was clipped, by what came out.
fn add_backward(out: &FlexTensor, gradient: &FlexTensor, activation: Activation) -> FlexTensor {
    let ([out, gradient], level) = ([out, gradient].map(FlexTensor::to_contiguous), Level::best());
    let mut result = Output::new(out.layout().shape().clone());
    let parts = out.storage::<f32>().par_chunks(CHUNK).zip(gradient.storage::<f32>().par_chunks(CHUNK));
    result.slots().par_chunks_mut(CHUNK).zip(parts).for_each(|(result, (out, gradient))| {
        clipped_gradient(level, out, gradient, activation.bounds(), result);
    });
    // SAFETY: the chunks cover all slots, and a number is written for each.
    unsafe { result.finish() }
}

vectorised! {
    /// A sum within bounds.
    fn sum_clipped(x: &[f32], y: &[f32], bounds: [f32; 2], out: &mut [MaybeUninit<f32>]) = sum_clipped_body
}
vectorised! {
    /// The gradient where a clipped result lies between its bounds.
    fn clipped_gradient(y: &[f32], gradient: &[f32], bounds: [f32; 2], out: &mut [MaybeUninit<f32>]) = clipped_gradient_body
}

#[inline(always)]
fn sum_clipped_body<const FMA: bool>(x: &[f32], y: &[f32], bounds: [f32; 2], out: &mut [MaybeUninit<f32>]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        out.write(normal(clip(x + y, bounds)));
    }
}

#[inline(always)]
fn clipped_gradient_body<const FMA: bool>(y: &[f32], gradient: &[f32], bounds: [f32; 2], out: &mut [MaybeUninit<f32>]) {
    for ((out, y), gradient) in out.iter_mut().zip(y).zip(gradient) {
        out.write(passed(*y, *gradient, bounds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the same numbers, whatever is left over after whole vectors.
    #[test]
    fn levels_agree() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let y: Vec<f32> = (0..1003).map(|i| (i as f32 * 1.3).cos()).collect();
        let all = |level| {
            let mut out = vec![MaybeUninit::new(f32::NAN); 2 * x.len()];
            let (sum, gradient) = out.split_at_mut(x.len());
            sum_clipped(level, &x, &y, Activation::Relu6.bounds(), sum);
            clipped_gradient(level, &x, &y, Activation::Relu6.bounds(), gradient);
            // SAFETY: made from numbers and then written.
            out.into_iter().map(|x| unsafe { x.assume_init() }).collect::<Vec<_>>()
        };
        let levels: Vec<_> = Level::available().into_iter().map(all).collect();
        assert!(levels.iter().all(|other| *other == levels[0]));
    }
}
