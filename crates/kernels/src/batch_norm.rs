//! Norms by channel: moments of a batch, scaling by channel, and both in one go, with the activation that follows.

mod planes;

use crate::extension::register;
use crate::simd::Level;
use crate::sum::Activation;
use crate::{composed, has_kernels};
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
pub(crate) use planes::channel_sums;
use planes::{
    Planes, Scaling, moments_gradient, moments_of, numbers, own_norm, own_norm_backward, scale, scaling_backward,
};

/// Mean and variance (divided by the count) of each channel of `x` `[batch, channels, height, width]`, `[channels]` each: sums over the
/// channel, the variance's from differences to the mean.
pub fn channel_moments(x: Tensor<4>) -> (Tensor<1>, Tensor<1>) {
    let channels = x.dims()[1];
    if x.shape().num_elements() == 0 || !has_kernels(&x) {
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
    let fused = has_kernels(&x) && vectors.iter().all(|v| has_kernels(v));
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
    let fused = has_kernels(&x) && vectors.iter().all(|v| has_kernels(v));
    if x.shape().num_elements() == 0 || !fused {
        let (mean, variance) = composed::channel_moments(x.clone());
        return composed::normalise(x, [mean, variance], [scale, shift], eps, activation);
    }
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Norms>::fused_batch_norm(x, scale, shift, eps, activation))
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
}
