//! Convolutions: what may be asked, and which way each is computed.

use crate::batch_norm::channel_sums;
use crate::extension::register;
use crate::{composed, depthwise, has_kernels, implicit};
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use burn_flex::FlexTensor;

/// How a convolution walks over its input. The default goes pixel by pixel, without padding, over all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Steps along height and width.
    pub stride: [usize; 2],
    /// Zeros before and after, along height and width.
    pub padding: [[usize; 2]; 2],
    /// Distances between the kernel's numbers, along height and width.
    pub dilation: [usize; 2],
    /// Groups of channels, each with outputs of its own.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [[0, 0]; 2], dilation: [1, 1], groups: 1 }
    }
}

impl Conv2d {
    /// Height and width of the result for an input and a kernel of these sizes; none if the kernel does not fit into the padded input.
    pub fn result(&self, source: [usize; 2], kernel: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let size = source[axis] + self.padding[axis][0] + self.padding[axis][1];
            let reach = kernel[axis].checked_sub(1)?.checked_mul(self.dilation[axis])?;
            Some(size.checked_sub(reach + 1)? / self.stride[axis].max(1) + 1)
        };
        Some([along(0)?, along(1)?])
    }
}

/// Every size of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    /// Channels of the input and of the result.
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Height and width of the input, the kernel and the result.
    pub(crate) source: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) result: [usize; 2],
}

impl Sizes {
    fn new(x: [usize; 4], weight: [usize; 4], conv: &Conv2d) -> Self {
        let ([batch, inputs, height, width], [outputs, channels, rows, columns]) = (x, weight);
        let positive = conv.groups > 0 && conv.stride.iter().chain(&conv.dilation).all(|n| *n > 0);
        assert!(positive, "strides, dilations and groups must be positive: {conv:?}");
        assert!(
            inputs == channels * conv.groups && outputs.is_multiple_of(conv.groups),
            "a kernel {weight:?} in {} groups does not fit {inputs} channels",
            conv.groups
        );
        let (source, kernel) = ([height, width], [rows, columns]);
        let result = conv.result(source, kernel);
        let result = result.unwrap_or_else(|| panic!("a kernel {kernel:?} does not fit into {source:?}: {conv:?}"));
        Self { batch, inputs, outputs, source, kernel, result }
    }

    /// Whether there is nothing to compute but zeros or the bias.
    fn is_empty(&self) -> bool {
        self.batch * self.outputs * self.inputs * self.source[0] * self.source[1] == 0
    }

    /// Whether each channel has one output of its own.
    fn is_depthwise(&self, conv: &Conv2d) -> bool {
        conv.groups == self.inputs && self.inputs == self.outputs
    }
}

/// A convolution of `x` `[batch, channels, height, width]` with `weight` `[outputs, channels/groups, rows, columns]`, and a `bias`
/// `[outputs]`: `[batch, outputs, …]` with the sizes of [`Conv2d::result`].
///
/// Only the gradients of tracked inputs are computed; a constant weight does not keep `x`.
///
/// # Panics
/// If the shapes do not fit each other, or a stride, a dilation or `groups` is zero.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: Conv2d) -> Tensor<4> {
    let sizes = Sizes::new(x.dims(), weight.dims(), &conv);
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [sizes.outputs], "there must be a bias for each output");
    }
    let fused = has_kernels(&x) && has_kernels(&weight) && bias.as_ref().is_none_or(has_kernels);
    if sizes.is_empty() || !fused {
        return composed::conv2d(x, weight, bias, conv);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([sizes.outputs], (&x.device().inner(), DType::F32)));
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Convolutions>::fused_conv2d(x, weight, bias, sizes, conv))
}

/// A convolution of `x` `[batch, channels, length]` with `weight` `[outputs, channels/groups, taps]`, and a `bias` `[outputs]`; of `conv` the
/// second axis counts.
///
/// # Panics
/// As [`conv2d`].
pub fn conv1d(x: Tensor<3>, weight: Tensor<3>, bias: Option<Tensor<1>>, conv: Conv2d) -> Tensor<3> {
    let conv = Conv2d {
        stride: [1, conv.stride[1]],
        padding: [[0, 0], conv.padding[1]],
        dilation: [1, conv.dilation[1]],
        ..conv
    };
    conv2d(x.unsqueeze_dim(2), weight.unsqueeze_dim(2), bias, conv).squeeze_dim(2)
}

/// What Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff.
#[backend_extension(Flex, Autodiff)]
trait Convolutions: Backend {
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sizes: Sizes,
        conv: Conv2d,
    ) -> FloatTensor<Self>;
}

impl Convolutions for Flex {
    fn fused_conv2d(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, sizes: Sizes, conv: Conv2d) -> FlexTensor {
        if sizes.is_depthwise(&conv) {
            depthwise::forward(&x, &weight, &bias, &sizes, &conv)
        } else {
            implicit::forward(&x, &weight, &bias, &sizes, &conv)
        }
    }
}

impl<C: CheckpointStrategy> Convolutions for Autodiff<Flex, C> {
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sizes: Sizes,
        conv: Conv2d,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Convolution;

        impl Backward<Flex, 3> for Convolution {
            /// The input where the weight is tracked, the weight where the input is.
            type State = (Option<NodeId>, Option<FlexTensor>, Sizes, Conv2d);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, weight, sizes, conv) = ops.state;
                let gradient = grads.consume::<Flex>(&ops.node);
                let depthwise = sizes.is_depthwise(&conv);
                let dx = weight.map(|weight| {
                    let f = if depthwise { depthwise::input_gradient } else { implicit::input_gradient };
                    f(&gradient, &weight, &sizes, &conv)
                });
                let dweight = x.map(|x| {
                    let x: FlexTensor = checkpointer.retrieve_node_output(x);
                    let f = if depthwise { depthwise::weight_gradient } else { implicit::weight_gradient };
                    f(&x, &gradient, &sizes, &conv)
                });
                let dbias = ops.parents[2].is_some().then(|| channel_sums(&gradient));
                register(ops.parents.map(|parent| parent.map(|node| node.id)), [dx, dweight, dbias], grads);
            }
        }

        let tracked = [&x, &weight].map(|x| x.is_tracked());
        match Convolution.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let kept = tracked[1].then(|| prep.checkpoint(&x));
                let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
                let state = (kept, tracked[0].then(|| weight.clone()), sizes, conv);
                prep.finish(state, Flex::fused_conv2d(x, weight, bias, sizes, conv))
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
                prep.finish(Flex::fused_conv2d(x, weight, bias, sizes, conv))
            }
        }
    }
}
