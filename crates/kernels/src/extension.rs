//! The backend extension: what Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff.
//!
//! Other devices never get here (see `has_kernels`); one with kernels of its own joins the list of `backend_extension`.

use crate::{attention, elementwise, norm};
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn::backend::{Autodiff, Backend, Flex, backend_extension, tensor::FloatTensor};
use burn_flex::FlexTensor;

/// Forward passes; the autodiff versions bring their own backward passes.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Fused: Backend {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
}

impl Fused for Flex {
    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        elementwise::map(&x, elementwise::gelu)
    }

    fn fused_gelu_tanh(x: FlexTensor) -> FlexTensor {
        elementwise::map(&x, elementwise::gelu_tanh)
    }

    fn fused_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, mask: FlexTensor, heads: usize) -> FlexTensor {
        attention::forward(&q, &k, &v, &mask, heads)
    }

    fn fused_layer_norm(x: FlexTensor, scale: FlexTensor, shift: FlexTensor, eps: f64) -> FlexTensor {
        norm::forward(&x, &scale, &shift, eps as f32)
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gelu;

        impl Backward<Flex, 1> for Gelu {
            type State = NodeId;

            fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let x: FlexTensor = checkpointer.retrieve_node_output(ops.state);
                unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| {
                    elementwise::map_backward(&x, &gradient, elementwise::gelu_backward)
                });
            }
        }

        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, Flex::fused_gelu(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_gelu(x.into_primitive())),
        }
    }

    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct GeluTanh;

        impl Backward<Flex, 1> for GeluTanh {
            type State = NodeId;

            fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let x: FlexTensor = checkpointer.retrieve_node_output(ops.state);
                unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| {
                    elementwise::map_backward(&x, &gradient, elementwise::gelu_tanh_backward)
                });
            }
        }

        match GeluTanh.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, Flex::fused_gelu_tanh(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_gelu_tanh(x.into_primitive())),
        }
    }

    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attention;

        impl Backward<Flex, 3> for Attention {
            type State = ([NodeId; 3], FlexTensor, usize);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (inputs, mask, heads) = ops.state;
                let [q, k, v]: [FlexTensor; 3] = inputs.map(|id| checkpointer.retrieve_node_output(id));
                let gradient = grads.consume::<Flex>(&ops.node);
                let needed = ops.parents.each_ref().map(Option::is_some);
                let gradients = attention::backward([&q, &k, &v], &mask, &gradient, heads, needed);
                for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let (Some(parent), Some(gradient)) = (parent, gradient) {
                        grads.register::<Flex>(parent.id, gradient);
                    }
                }
            }
        }

        let mask = mask.into_primitive();
        match Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = ([&q, &k, &v].map(|x| prep.checkpoint(x)), mask.clone(), heads);
                let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
                prep.finish(state, Flex::fused_attention(q, k, v, mask, heads))
            }
            OpsKind::UnTracked(prep) => {
                let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
                prep.finish(Flex::fused_attention(q, k, v, mask, heads))
            }
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LayerNorm;

        impl Backward<Flex, 3> for LayerNorm {
            type State = (NodeId, FlexTensor, f32);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, scale, eps) = ops.state;
                let x: FlexTensor = checkpointer.retrieve_node_output(x);
                let gradient = grads.consume::<Flex>(&ops.node);
                let needed = ops.parents.each_ref().map(Option::is_some);
                let gradients = norm::backward(&x, &scale, &gradient, eps, needed);
                for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let (Some(parent), Some(gradient)) = (parent, gradient) {
                        grads.register::<Flex>(parent.id, gradient);
                    }
                }
            }
        }

        match LayerNorm.prepare::<C>([x.node(), scale.node(), shift.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = prep.checkpoint(&x);
                let [x, scale, shift] = [x, scale, shift].map(|x| x.into_primitive());
                let state = (node, scale.clone(), eps as f32);
                prep.finish(state, Flex::fused_layer_norm(x, scale, shift, eps))
            }
            OpsKind::UnTracked(prep) => {
                let [x, scale, shift] = [x, scale, shift].map(|x| x.into_primitive());
                prep.finish(Flex::fused_layer_norm(x, scale, shift, eps))
            }
        }
    }
}
