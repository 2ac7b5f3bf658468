//! Norms by channel: moments of a batch, scaling by channel, both in one go, and the activations that follow.
//!
//! A task takes a channel: all its planes are read again from the cache where a second look is needed.

use crate::elementwise::CHUNK;
use crate::extension::register;
use crate::memory::{Output, Shared};
use crate::simd::{Level, fold, mul_add, normal, total, vectorised};
use crate::{composed, has_kernels};
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::slice::from_raw_parts_mut;

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
fn clip(x: f32, [least, most]: [f32; 2]) -> f32 {
    let x = if x < least { least } else { x };
    if x > most { most } else { x }
}

/// The gradient of [`clip`]: none at the bounds, unless they are infinite.
#[inline(always)]
fn passed(x: f32, gradient: f32, [least, most]: [f32; 2]) -> f32 {
    if (x <= least && least > f32::NEG_INFINITY) || (x >= most && most < f32::INFINITY) { 0.0 } else { gradient }
}

/// Mean and variance (divided by the count) of each channel of `x` `[batch, channels, height, width]`, `[channels]` each: sums over the
/// channel, the variance's from differences to the mean.
pub fn channel_moments(x: Tensor<4>) -> (Tensor<1>, Tensor<1>) {
    let channels = x.dims()[1];
    if x.shape().num_elements() == 0 || !has_kernels(&x.device(), x.dtype()) {
        return composed::channel_moments(x);
    }
    let both: Tensor<2> = Tensor::from_dispatch(<Dispatch as Norms>::fused_moments(x.into_dispatch()));
    let row = |row: usize| both.clone().narrow(0, row, 1).reshape([channels]);
    (row(0), row(1))
}

/// `(x − mean)/√(variance + eps)·scale + shift` by channel of `x` `[batch, channels, height, width]`, then the activation. The four vectors
/// are `[channels]`; only the gradients of tracked inputs are computed.
///
/// # Panics
/// If a vector does not have a number for each channel.
pub fn normalise(
    x: Tensor<4>,
    [mean, variance]: [Tensor<1>; 2],
    [scale, shift]: [Tensor<1>; 2],
    eps: f64,
    activation: Activation,
) -> Tensor<4> {
    let channels = x.dims()[1];
    let vectors = [&mean, &variance, &scale, &shift];
    assert!(vectors.iter().all(|v| v.dims() == [channels]), "there must be {channels} numbers, one for each channel");
    let fused = has_kernels(&x.device(), x.dtype()) && vectors.iter().all(|v| has_kernels(&v.device(), v.dtype()));
    if x.shape().num_elements() == 0 || !fused {
        return composed::normalise(x, [mean, variance], [scale, shift], eps, activation);
    }
    let factor = scale / (variance + eps).sqrt();
    let (x, mean, factor, shift) =
        (x.into_dispatch(), mean.into_dispatch(), factor.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Norms>::fused_scaling(x, mean, factor, shift, activation))
}

/// [`normalise`] by the batch's own [`channel_moments`], through which gradients flow.
///
/// # Panics
/// If a vector does not have a number for each channel.
pub fn batch_norm(x: Tensor<4>, [scale, shift]: [Tensor<1>; 2], eps: f64, activation: Activation) -> Tensor<4> {
    let channels = x.dims()[1];
    let vectors = [&scale, &shift];
    assert!(vectors.iter().all(|v| v.dims() == [channels]), "there must be {channels} numbers, one for each channel");
    let fused = has_kernels(&x.device(), x.dtype()) && vectors.iter().all(|v| has_kernels(&v.device(), v.dtype()));
    if x.shape().num_elements() == 0 || !fused {
        let (mean, variance) = composed::channel_moments(x.clone());
        return composed::normalise(x, [mean, variance], [scale, shift], eps, activation);
    }
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Norms>::fused_batch_norm(x, scale, shift, eps, activation))
}

/// `x + y`, then the activation; any shape.
///
/// # Panics
/// If the shapes differ.
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(x.dims(), y.dims(), "what is added must have one shape");
    if ![&x, &y].iter().all(|x| has_kernels(&x.device(), x.dtype())) {
        return composed::activate(x + y, activation);
    }
    Tensor::from_dispatch(<Dispatch as Norms>::fused_add(x.into_dispatch(), y.into_dispatch(), activation))
}

/// What Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff.
#[backend_extension(Flex, Autodiff)]
trait Norms: Backend {
    /// Mean and variance as the rows of `[2, channels]`.
    fn fused_moments(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `(x − centre)·factor + shift`.
    fn fused_scaling(
        x: FloatTensor<Self>,
        centre: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
    fn fused_batch_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self>;
    fn fused_add(x: FloatTensor<Self>, y: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
}

impl Norms for Flex {
    fn fused_moments(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let (planes, level) = (Planes::of(&x), Level::best());
        let moments = planes.by_channel(|channel| moments_of(level, &planes, x.storage::<f32>(), channel));
        let (means, variances): (Vec<_>, Vec<_>) = moments.into_iter().unzip();
        numbers([means, variances].concat(), [2, planes.channels])
    }

    fn fused_scaling(
        x: FlexTensor,
        centre: FlexTensor,
        factor: FlexTensor,
        shift: FlexTensor,
        activation: Activation,
    ) -> FlexTensor {
        let [x, centre, factor, shift] = [x, centre, factor, shift].map(|x| x.to_contiguous());
        let (planes, level) = (Planes::of(&x), Level::best());
        let scaling = |channel: usize| Scaling {
            centre: centre.storage::<f32>()[channel],
            factor: factor.storage::<f32>()[channel],
            shift: shift.storage::<f32>()[channel],
            bounds: activation.bounds(),
        };
        planes.map(|channel, start, out| {
            scale(level, &x.storage::<f32>()[start..][..planes.area], scaling(channel), out);
        })
    }

    fn fused_batch_norm(
        x: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        eps: f64,
        activation: Activation,
    ) -> FlexTensor {
        own_norm(&x, &scale, &shift, eps, activation).0
    }

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

/// The planes of a contiguous tensor `[batch, channels, height, width]`.
struct Planes {
    batch: usize,
    channels: usize,
    area: usize,
    shape: Shape,
}

impl Planes {
    fn of(x: &FlexTensor) -> Self {
        let shape = x.layout().shape().clone();
        Self { batch: shape[0], channels: shape[1], area: shape[2] * shape[3], shape }
    }

    /// Numbers of a channel.
    fn count(&self) -> f64 {
        (self.batch * self.area) as f64
    }

    /// Where the planes of a channel start.
    fn starts(&self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.batch).map(move |image| (image * self.channels + channel) * self.area)
    }

    /// A result for each channel.
    fn by_channel<T: Send>(&self, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        (0..self.channels).into_par_iter().map(f).collect()
    }

    /// A tensor of this shape; `f` gets a channel, the start of a plane and its slots, and must write all.
    fn map(&self, f: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) + Sync) -> FlexTensor {
        let mut out = Output::new(self.shape.clone());
        let area = self.area.max(1);
        let step = (CHUNK / area).max(1);
        out.slots().par_chunks_mut(step * area).enumerate().for_each(|(task, out)| {
            for (i, out) in out.chunks_exact_mut(area).enumerate() {
                let plane = task * step + i;
                f(plane % self.channels, plane * area, out);
            }
        });
        // SAFETY: the chunks cover all planes, each of which `f` writes.
        unsafe { out.finish() }
    }

    /// The slots of a plane.
    ///
    /// # Safety
    /// The target must have this shape, and the plane must be the caller's alone.
    unsafe fn slots<'a>(&self, target: Shared, start: usize) -> &'a mut [MaybeUninit<f32>] {
        // SAFETY: the plane lies within the target by the caller's promise; slots may hold anything.
        unsafe { from_raw_parts_mut(target.at(start).cast(), self.area) }
    }
}

/// A small tensor.
fn numbers<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    let mut out = Output::new(Shape::new(shape));
    for (slot, value) in out.slots().iter_mut().zip(values) {
        slot.write(normal(value));
    }
    // SAFETY: there is a value for each slot.
    unsafe { out.finish() }
}

/// The sum of each channel of `x` `[batch, channels, height, width]`.
pub(crate) fn channel_sums(x: &FlexTensor) -> FlexTensor {
    let x = x.to_contiguous();
    let (planes, level) = (Planes::of(&x), Level::best());
    let sums = planes.by_channel(|channel| {
        let mut sum = 0.0;
        for start in planes.starts(channel) {
            add_up(level, &x.storage::<f32>()[start..][..planes.area], &mut sum);
        }
        sum as f32
    });
    numbers(sums, [planes.channels])
}

/// Mean and variance of a channel.
fn moments_of(level: Level, planes: &Planes, x: &[f32], channel: usize) -> (f32, f32) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for start in planes.starts(channel) {
        add_up(level, &x[start..][..planes.area], &mut sum);
    }
    let mean = (sum / planes.count()) as f32;
    for start in planes.starts(channel) {
        add_squares(level, &x[start..][..planes.area], mean, &mut squares);
    }
    (mean, (squares / planes.count()) as f32)
}

/// A norm by the batch's moments; besides the result each channel's scaling and `1/√(variance + eps)`.
fn own_norm(
    x: &FlexTensor,
    scales: &FlexTensor,
    shifts: &FlexTensor,
    eps: f64,
    activation: Activation,
) -> (FlexTensor, Vec<(Scaling, f32)>) {
    let [x, scales, shifts] = [x, scales, shifts].map(FlexTensor::to_contiguous);
    let (planes, level) = (Planes::of(&x), Level::best());
    let (x, scales, shifts) = (x.storage::<f32>(), scales.storage::<f32>(), shifts.storage::<f32>());
    let mut out = Output::new(planes.shape.clone());
    let target = out.shared();
    let scalings = planes.by_channel(|channel| {
        let (centre, variance) = moments_of(level, &planes, x, channel);
        let inverse = (1.0 / (f64::from(variance) + eps).sqrt()) as f32;
        let (factor, shift) = (scales[channel] * inverse, shifts[channel]);
        let scaling = Scaling { centre, factor, shift, bounds: activation.bounds() };
        for start in planes.starts(channel) {
            // SAFETY: the planes of a channel are its task's alone.
            scale(level, &x[start..][..planes.area], scaling, unsafe { planes.slots(target, start) });
        }
        (scaling, inverse)
    });
    // SAFETY: every plane of every channel was written.
    (unsafe { out.finish() }, scalings)
}

/// The gradients of `x`, scale and shift under a norm by the batch's moments, those `needed`.
fn own_norm_backward(
    x: &FlexTensor,
    gradient: &FlexTensor,
    scalings: &[(Scaling, f32)],
    needed: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let [x, gradient] = [x, gradient].map(FlexTensor::to_contiguous);
    let (planes, level) = (Planes::of(&x), Level::best());
    let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
    let mut dx = needed[0].then(|| Output::new(planes.shape.clone()));
    let target = dx.as_mut().map(Output::shared);
    let sums = planes.by_channel(|channel| {
        let (scaling, inverse) = scalings[channel];
        let mut sums = [0.0; 2];
        for start in planes.starts(channel) {
            let (x, gradient) = (&x[start..][..planes.area], &gradient[start..][..planes.area]);
            add_slopes(level, x, gradient, scaling, &mut sums);
        }
        let scale = sums[1] * f64::from(inverse);
        if let Some(target) = target {
            // What the means take away: the gradient's own, and its share along the normalised numbers.
            let mean = (sums[0] / planes.count()) as f32;
            let along = (scale * f64::from(inverse) / planes.count()) as f32;
            for start in planes.starts(channel) {
                let (x, gradient) = (&x[start..][..planes.area], &gradient[start..][..planes.area]);
                // SAFETY: the planes of a channel are its task's alone.
                centred_gradient(level, x, gradient, scaling, [mean, along], unsafe { planes.slots(target, start) });
            }
        }
        (scale as f32, sums[0] as f32)
    });
    let (scales, shifts): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    // SAFETY: every plane of every channel was written.
    let dx = dx.map(|dx| unsafe { dx.finish() });
    let vector = |needed: bool, values| needed.then(|| numbers(values, [planes.channels]));
    [dx, vector(needed[1], scales), vector(needed[2], shifts)]
}

/// What happens to the numbers of a channel: `clip((x − centre)·factor + shift)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    centre: f32,
    factor: f32,
    shift: f32,
    bounds: [f32; 2],
}

impl Scaling {
    /// The number before it is clipped.
    #[inline(always)]
    fn of<const FMA: bool>(&self, x: f32) -> f32 {
        mul_add::<FMA>(x - self.centre, self.factor, self.shift)
    }
}

vectorised! {
    /// Adds up numbers.
    fn add_up(x: &[f32], sum: &mut f64) = add_up_body
}
vectorised! {
    /// Adds up squared differences.
    fn add_squares(x: &[f32], mean: f32, sum: &mut f64) = add_squares_body
}
vectorised! {
    /// Scales numbers.
    fn scale(x: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) = scale_body
}
vectorised! {
    /// Adds up gradients, and their products with the differences to the centre.
    fn add_slopes(x: &[f32], gradient: &[f32], scaling: Scaling, sums: &mut [f64; 2]) = add_slopes_body
}
vectorised! {
    /// The gradient of numbers whose centre and factor are constants.
    fn scaled_gradient(x: &[f32], gradient: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) = scaled_gradient_body
}
vectorised! {
    /// The gradient of numbers under their own moments, given the two means to take away.
    fn centred_gradient(
        x: &[f32],
        gradient: &[f32],
        scaling: Scaling,
        means: [f32; 2],
        out: &mut [MaybeUninit<f32>],
    ) = centred_gradient_body
}
vectorised! {
    /// The gradient of moments: `base + slope·(x − centre)`.
    fn moments_gradient(x: &[f32], line: [f32; 3], out: &mut [MaybeUninit<f32>]) = moments_gradient_body
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
fn add_up_body<const FMA: bool>(x: &[f32], sum: &mut f64) {
    *sum += f64::from(total(fold([x], 0.0, |sum, [x]| sum + x)));
}

#[inline(always)]
fn add_squares_body<const FMA: bool>(x: &[f32], mean: f32, sum: &mut f64) {
    *sum += f64::from(total(fold([x], 0.0, |sum, [x]| mul_add::<FMA>(x - mean, x - mean, sum))));
}

#[inline(always)]
fn scale_body<const FMA: bool>(x: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) {
    for (out, x) in out.iter_mut().zip(x) {
        out.write(normal(clip(scaling.of::<FMA>(*x), scaling.bounds)));
    }
}

#[inline(always)]
fn add_slopes_body<const FMA: bool>(x: &[f32], gradient: &[f32], scaling: Scaling, sums: &mut [f64; 2]) {
    let own = |x: f32, gradient: f32| passed(scaling.of::<FMA>(x), gradient, scaling.bounds);
    let sum = fold([x, gradient], 0.0, |sum, [x, gradient]| sum + own(x, gradient));
    let product =
        fold([x, gradient], 0.0, |sum, [x, gradient]| mul_add::<FMA>(own(x, gradient), x - scaling.centre, sum));
    sums[0] += f64::from(total(sum));
    sums[1] += f64::from(total(product));
}

#[inline(always)]
fn scaled_gradient_body<const FMA: bool>(x: &[f32], gradient: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) {
    for ((out, x), gradient) in out.iter_mut().zip(x).zip(gradient) {
        out.write(normal(passed(scaling.of::<FMA>(*x), *gradient, scaling.bounds) * scaling.factor));
    }
}

#[inline(always)]
fn centred_gradient_body<const FMA: bool>(
    x: &[f32],
    gradient: &[f32],
    scaling: Scaling,
    [mean, along]: [f32; 2],
    out: &mut [MaybeUninit<f32>],
) {
    for ((out, x), gradient) in out.iter_mut().zip(x).zip(gradient) {
        let own = passed(scaling.of::<FMA>(*x), *gradient, scaling.bounds);
        out.write(normal(mul_add::<FMA>(x - scaling.centre, -along, own - mean) * scaling.factor));
    }
}

#[inline(always)]
fn moments_gradient_body<const FMA: bool>(x: &[f32], [base, slope, centre]: [f32; 3], out: &mut [MaybeUninit<f32>]) {
    for (out, x) in out.iter_mut().zip(x) {
        out.write(normal(mul_add::<FMA>(x - centre, slope, base)));
    }
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

impl<C: CheckpointStrategy> Norms for Autodiff<Flex, C> {
    fn fused_moments(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BatchMoments;

        impl Backward<Flex, 1> for BatchMoments {
            type State = (NodeId, FlexTensor);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, moments) = ops.state;
                let x = checkpointer.retrieve_node_output::<FlexTensor>(x).to_contiguous();
                unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| {
                    let gradient = gradient.to_contiguous();
                    let (planes, level) = (Planes::of(&x), Level::best());
                    let (gradient, moments) = (gradient.storage::<f32>(), moments.storage::<f32>());
                    let share = (1.0 / planes.count()) as f32;
                    planes.map(|channel, start, out| {
                        let slope = 2.0 * share * gradient[planes.channels + channel];
                        let line = [share * gradient[channel], slope, moments[channel]];
                        moments_gradient(level, &x.storage::<f32>()[start..][..planes.area], line, out);
                    })
                });
            }
        }

        match BatchMoments.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = prep.checkpoint(&x);
                let moments = Flex::fused_moments(x.into_primitive());
                prep.finish((node, moments.clone()), moments)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_moments(x.into_primitive())),
        }
    }

    fn fused_scaling(
        x: FloatTensor<Self>,
        centre: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Scale;

        impl Backward<Flex, 4> for Scale {
            /// The input where its numbers matter, and the vectors.
            type State = (Option<NodeId>, [FlexTensor; 3], Activation);

            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, vectors, activation) = ops.state;
                let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
                let needed = ops.parents.each_ref().map(Option::is_some);
                // Without a clip and a tracked factor the numbers of x play no part, and the gradient stands in for them.
                let x = x.map_or_else(|| gradient.clone(), |x| checkpointer.retrieve_node_output(x));
                let gradients = scaling_backward(&x.to_contiguous(), &gradient, vectors, activation, needed);
                register(ops.parents.map(|parent| parent.map(|node| node.id)), gradients, grads);
            }
        }

        let needs_x = activation != Activation::Identity || factor.is_tracked();
        let nodes = [x.node(), centre.node(), factor.node(), shift.node()];
        match Scale.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = needs_x.then(|| prep.checkpoint(&x));
                let [x, centre, factor, shift] = [x, centre, factor, shift].map(|x| x.into_primitive());
                let vectors = [&centre, &factor, &shift].map(FlexTensor::to_contiguous);
                prep.finish((node, vectors, activation), Flex::fused_scaling(x, centre, factor, shift, activation))
            }
            OpsKind::UnTracked(prep) => {
                let [x, centre, factor, shift] = [x, centre, factor, shift].map(|x| x.into_primitive());
                prep.finish(Flex::fused_scaling(x, centre, factor, shift, activation))
            }
        }
    }

    fn fused_batch_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        eps: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BatchNorm;

        impl Backward<Flex, 3> for BatchNorm {
            type State = (NodeId, Vec<(Scaling, f32)>);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, scalings) = ops.state;
                let x: FlexTensor = checkpointer.retrieve_node_output(x);
                let gradient = grads.consume::<Flex>(&ops.node);
                let needed = ops.parents.each_ref().map(Option::is_some);
                let gradients = own_norm_backward(&x, &gradient, &scalings, needed);
                register(ops.parents.map(|parent| parent.map(|node| node.id)), gradients, grads);
            }
        }

        match BatchNorm.prepare::<C>([x.node(), scale.node(), shift.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = prep.checkpoint(&x);
                let [x, scale, shift] = [x, scale, shift].map(|x| x.into_primitive());
                let (out, scalings) = own_norm(&x, &scale, &shift, eps, activation);
                prep.finish((node, scalings), out)
            }
            OpsKind::UnTracked(prep) => {
                let [x, scale, shift] = [x, scale, shift].map(|x| x.into_primitive());
                prep.finish(Flex::fused_batch_norm(x, scale, shift, eps, activation))
            }
        }
    }

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

/// The gradients of `x`, centre, factor and shift, those `needed`.
fn scaling_backward(
    x: &FlexTensor,
    gradient: &FlexTensor,
    [centre, factor, shift]: [FlexTensor; 3],
    activation: Activation,
    needed: [bool; 4],
) -> [Option<FlexTensor>; 4] {
    let (planes, level) = (Planes::of(x), Level::best());
    let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
    let scaling = |channel: usize| Scaling {
        centre: centre.storage::<f32>()[channel],
        factor: factor.storage::<f32>()[channel],
        shift: shift.storage::<f32>()[channel],
        bounds: activation.bounds(),
    };
    let mut dx = needed[0].then(|| Output::new(planes.shape.clone()));
    let target = dx.as_mut().map(Output::shared);
    let summed = needed[1..].contains(&true);
    let sums = planes.by_channel(|channel| {
        let (scaling, mut sums) = (scaling(channel), [0.0; 2]);
        for start in planes.starts(channel) {
            let (x, gradient) = (&x[start..][..planes.area], &gradient[start..][..planes.area]);
            if summed {
                add_slopes(level, x, gradient, scaling, &mut sums);
            }
            if let Some(target) = target {
                // SAFETY: the planes of a channel are its task's alone.
                scaled_gradient(level, x, gradient, scaling, unsafe { planes.slots(target, start) });
            }
        }
        sums
    });
    // SAFETY: every plane of every channel was written.
    let dx = dx.map(|dx| unsafe { dx.finish() });
    let vector = |needed: bool, f: &dyn Fn(usize, [f64; 2]) -> f64| {
        let values = || sums.iter().enumerate().map(|(channel, sums)| f(channel, *sums) as f32).collect();
        needed.then(|| numbers(values(), [planes.channels]))
    };
    [
        dx,
        vector(needed[1], &|channel, sums| -sums[0] * f64::from(scaling(channel).factor)),
        vector(needed[2], &|_, sums| sums[1]),
        vector(needed[3], &|_, sums| sums[0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the same numbers up to rounding, whatever is left over after whole vectors.
    #[test]
    fn levels_agree() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let gradient: Vec<f32> = (0..1003).map(|i| (i as f32 * 1.3).cos()).collect();
        let scaling = Scaling { centre: 0.3, factor: 2.0, shift: 1.0, bounds: Activation::Relu6.bounds() };
        let all = |level| {
            let (mut sum, mut squares, mut slopes) = (0.0, 0.0, [0.0; 2]);
            add_up(level, &x, &mut sum);
            add_squares(level, &x, 0.3, &mut squares);
            add_slopes(level, &x, &gradient, scaling, &mut slopes);
            let mut out = vec![MaybeUninit::new(f32::NAN); 4 * x.len()];
            let mut parts = out.chunks_exact_mut(x.len());
            let mut part = || parts.next().expect("there are four");
            scale(level, &x, scaling, part());
            scaled_gradient(level, &x, &gradient, scaling, part());
            centred_gradient(level, &x, &gradient, scaling, [0.1, 0.2], part());
            sum_clipped(level, &x, &gradient, scaling.bounds, part());
            // SAFETY: made from numbers and then written.
            let numbers = out.into_iter().map(|x| f64::from(unsafe { x.assume_init() }));
            numbers.chain([sum, squares, slopes[0], slopes[1]]).collect::<Vec<_>>()
        };
        let levels: Vec<_> = Level::available().into_iter().map(all).collect();
        for other in &levels[1..] {
            assert!(levels[0].iter().zip(other).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs())));
        }
    }
}
