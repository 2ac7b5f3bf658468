//! The backend extension: what Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff.
//!
//! Other devices never get here (see `has_kernels`); one with kernels of its own joins the list of `backend_extension`.

use crate::attention::{self, Sight};
use crate::{elementwise, gate, norm, rotary};
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn::backend::{Autodiff, Backend, Flex, backend_extension, tensor::FloatTensor};
use burn_flex::FlexTensor;
use std::sync::Arc;

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
    fn fused_attention_runs(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        runs: Arc<[[u32; 2]]>,
        heads: usize,
    ) -> FloatTensor<Self>;
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    fn fused_rms_norm(x: FloatTensor<Self>, scale: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
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
        attention::forward(&q, &k, &v, &Sight::Mask(mask), heads)
    }

    fn fused_attention_runs(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        runs: Arc<[[u32; 2]]>,
        heads: usize,
    ) -> FlexTensor {
        attention::forward(&q, &k, &v, &Sight::Runs(runs), heads)
    }

    fn fused_layer_norm(x: FlexTensor, scale: FlexTensor, shift: FlexTensor, eps: f64) -> FlexTensor {
        norm::forward(&x, &scale, &shift, eps as f32)
    }

    fn fused_rms_norm(x: FlexTensor, scale: FlexTensor, eps: f64) -> FlexTensor {
        norm::rms_forward(&x, &scale, eps as f32)
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        gate::forward(&gate, &up)
    }

    fn fused_rotary(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, heads: usize) -> FlexTensor {
        rotary::rotate(&x, &cos, &sin, heads, false)
    }
}

/// Hands each gradient to its parent.
pub(crate) fn register<const N: usize>(
    parents: [Option<NodeId>; N],
    gradients: [Option<FlexTensor>; N],
    grads: &mut Gradients,
) {
    for (parent, gradient) in parents.into_iter().zip(gradients) {
        if let (Some(parent), Some(gradient)) = (parent, gradient) {
            grads.register::<Flex>(parent, gradient);
        }
    }
}

/// Attention under autodiff.
fn attend<C: CheckpointStrategy>(
    [q, k, v]: [FloatTensor<Autodiff<Flex, C>>; 3],
    sight: Sight,
    heads: usize,
) -> FloatTensor<Autodiff<Flex, C>> {
    #[derive(Debug)]
    struct Attention;

    impl Backward<Flex, 3> for Attention {
        type State = ([NodeId; 3], Sight, usize);

        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
            let (inputs, sight, heads) = ops.state;
            let [q, k, v]: [FlexTensor; 3] = inputs.map(|id| checkpointer.retrieve_node_output(id));
            let gradient = grads.consume::<Flex>(&ops.node);
            let needed = ops.parents.each_ref().map(Option::is_some);
            let gradients = attention::backward([&q, &k, &v], &sight, &gradient, heads, needed);
            register(ops.parents.map(|parent| parent.map(|node| node.id)), gradients, grads);
        }
    }

    match Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = ([&q, &k, &v].map(|x| prep.checkpoint(x)), sight.clone(), heads);
            let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
            prep.finish(state, attention::forward(&q, &k, &v, &sight, heads))
        }
        OpsKind::UnTracked(prep) => {
            let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
            prep.finish(attention::forward(&q, &k, &v, &sight, heads))
        }
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
        attend::<C>([q, k, v], Sight::Mask(mask.into_primitive()), heads)
    }

    fn fused_attention_runs(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        runs: Arc<[[u32; 2]]>,
        heads: usize,
    ) -> FloatTensor<Self> {
        attend::<C>([q, k, v], Sight::Runs(runs), heads)
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
                register(ops.parents.map(|parent| parent.map(|node| node.id)), gradients, grads);
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

    fn fused_rms_norm(x: FloatTensor<Self>, scale: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct RmsNorm;

        impl Backward<Flex, 2> for RmsNorm {
            type State = (NodeId, FlexTensor, f32);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, scale, eps) = ops.state;
                let x: FlexTensor = checkpointer.retrieve_node_output(x);
                let gradient = grads.consume::<Flex>(&ops.node);
                let needed = ops.parents.each_ref().map(Option::is_some);
                register(
                    ops.parents.map(|parent| parent.map(|node| node.id)),
                    norm::rms_backward(&x, &scale, &gradient, eps, needed),
                    grads,
                );
            }
        }

        match RmsNorm.prepare::<C>([x.node(), scale.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = prep.checkpoint(&x);
                let [x, scale] = [x, scale].map(|x| x.into_primitive());
                let state = (node, scale.clone(), eps as f32);
                prep.finish(state, Flex::fused_rms_norm(x, scale, eps))
            }
            OpsKind::UnTracked(prep) => {
                let [x, scale] = [x, scale].map(|x| x.into_primitive());
                prep.finish(Flex::fused_rms_norm(x, scale, eps))
            }
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Swiglu;

        impl Backward<Flex, 2> for Swiglu {
            type State = [NodeId; 2];

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let [gate, up]: [FlexTensor; 2] = ops.state.map(|id| checkpointer.retrieve_node_output(id));
                let gradient = grads.consume::<Flex>(&ops.node);
                let needed = ops.parents.each_ref().map(Option::is_some);
                register(
                    ops.parents.map(|parent| parent.map(|node| node.id)),
                    gate::backward(&gate, &up, &gradient, needed),
                    grads,
                );
            }
        }

        match Swiglu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [&gate, &up].map(|x| prep.checkpoint(x));
                let [gate, up] = [gate, up].map(|x| x.into_primitive());
                prep.finish(state, Flex::fused_swiglu(gate, up))
            }
            OpsKind::UnTracked(prep) => {
                let [gate, up] = [gate, up].map(|x| x.into_primitive());
                prep.finish(Flex::fused_swiglu(gate, up))
            }
        }
    }

    fn fused_rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Rotary;

        impl Backward<Flex, 1> for Rotary {
            type State = ([FlexTensor; 2], usize);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([cos, sin], heads) = ops.state;
                unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| {
                    rotary::rotate(&gradient, &cos, &sin, heads, true)
                });
            }
        }

        let [cos, sin] = [cos, sin].map(|x| x.into_primitive());
        match Rotary.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = ([cos.clone(), sin.clone()], heads);
                prep.finish(state, Flex::fused_rotary(x.into_primitive(), cos, sin, heads))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_rotary(x.into_primitive(), cos, sin, heads)),
        }
    }
}
