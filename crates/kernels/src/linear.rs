//! Products with weights, with bias and low-rank update in the same pass, and their gradients.

use crate::extension::register;
use crate::memory::Output;
use crate::packed::{self, Packed};
use crate::panel::{Left, Place, Right, Start, Term, multiply};
use crate::simd::Level;
use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Shape;
use burn_flex::FlexTensor;
use std::mem::MaybeUninit;

/// Up to so many rows are the columns of one panel, and the weight is read once where it lies.
const FEW: usize = 32;

/// A weight `[out, in]`, dense (and contiguous) or packed.
#[derive(Clone, Debug)]
enum Weight {
    Dense(FlexTensor),
    Packed(Packed),
}

impl Weight {
    fn source(&self) -> Source<'_> {
        match self {
            Self::Dense(weight) => Source::Dense(whole(weight)),
            Self::Packed(weight) => Source::Packed(weight),
        }
    }
}

/// A weight's numbers.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Dense(Whole<'a>),
    Packed(&'a Packed),
}

impl Source<'_> {
    pub(crate) fn dims(self) -> [usize; 2] {
        match self {
            Self::Dense((_, dims)) => dims,
            Self::Packed(weight) => weight.dims(),
        }
    }
}

/// The numbers of a whole matrix, row after row, and its sizes.
pub(crate) type Whole<'a> = (&'a [f32], [usize; 2]);

/// A contiguous tensor of two axes.
pub(crate) fn whole(x: &FlexTensor) -> Whole<'_> {
    (x.storage::<f32>(), dims(x))
}

/// A low-rank update `factor·b·a` of a weight: `a` `[rank, in]`, `b` `[out, rank]`, both contiguous.
#[derive(Clone, Debug)]
struct LowRank {
    a: FlexTensor,
    b: FlexTensor,
    factor: f32,
}

/// What Burn's dispatch calls. An empty bias is none.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Linear: Backend {
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn packed_linear(x: FloatTensor<Self>, weight: Packed, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn dense_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        factor: f64,
    ) -> FloatTensor<Self>;
    fn packed_low_rank(
        x: FloatTensor<Self>,
        weight: Packed,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        factor: f64,
    ) -> FloatTensor<Self>;
}

/// The sizes of a matrix.
fn dims(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    [shape[0], shape[1]]
}

/// A matrix as the left side of a product, or its transpose.
fn left((numbers, [_, columns]): Whole<'_>, turned: bool) -> Left<'_> {
    Left { numbers, strides: if turned { [1, columns] } else { [columns, 1] } }
}

/// A matrix as the right side of a product, or its transpose.
fn right((numbers, [_, columns]): Whole<'_>, turned: bool) -> Right<'_> {
    if turned { Right::Turned(numbers, columns) } else { Right::Rows(numbers, columns) }
}

/// One product of a sum.
fn term<'a>(left: Left<'a>, right: Right<'a>, inner: usize) -> Term<'a> {
    Term { left, right, inner, factor: 1.0 }
}

/// A result `[rows, columns]`.
///
/// # Safety
/// `fill` must write all of the place.
unsafe fn result(dims: [usize; 2], fill: impl FnOnce(Place<'_>)) -> FlexTensor {
    let mut out = Output::new(Shape::from(dims));
    fill(Place { slots: out.slots(), strides: [dims[1], 1] });
    // SAFETY: by the caller's promise.
    unsafe { out.finish() }
}

/// Writes `x·Wᵀ + bias`, or with a low-rank update's outer factor `b` `[out, rank]` and its [`inner_states`], `x·(W + factor·b·a)ᵀ + bias`.
pub(crate) fn forward(
    x: Whole<'_>,
    weight: Source<'_>,
    bias: &[f32],
    update: Option<[Whole<'_>; 2]>,
    out: &mut [MaybeUninit<f32>],
) {
    let ((numbers, [rows, _]), [outputs, inner], level) = (x, weight.dims(), Level::best());
    let bias = Some(bias).filter(|bias| !bias.is_empty());
    let change = |few: bool| {
        update.map(|[b, low]| {
            let (one, other) = if few { (b, low) } else { (low, b) };
            term(left(one, false), right(other, true), b.1[1])
        })
    };
    let turned = [1, outputs];
    match weight {
        Source::Packed(weight) if rows <= packed::FEW && rows * inner > 0 => {
            packed::few_rows(weight, numbers, bias, out);
            if let Some(change) = change(true) {
                let out = Place { slots: out, strides: turned };
                multiply(level, [outputs, rows], &[change], Start::Output, out);
            }
        }
        Source::Dense(weight) if rows <= FEW => {
            let main = term(left(weight, false), right(x, true), inner);
            let terms: Vec<_> = [Some(main), change(true)].into_iter().flatten().collect();
            let out = Place { slots: out, strides: turned };
            multiply(level, [outputs, rows], &terms, bias.map_or(Start::Zero, Start::Rows), out);
        }
        _ => {
            let matrix = match weight {
                Source::Dense(weight) => right(weight, true),
                Source::Packed(weight) => Right::PackedTurned(weight),
            };
            let main = term(left(x, false), matrix, inner);
            let terms: Vec<_> = [Some(main), change(false)].into_iter().flatten().collect();
            let out = Place { slots: out, strides: [outputs, 1] };
            multiply(level, [rows, outputs], &terms, bias.map_or(Start::Zero, Start::Columns), out);
        }
    }
}

/// [`forward`] as a tensor.
fn linear(x: &FlexTensor, weight: &Weight, bias: &FlexTensor, update: Option<[&FlexTensor; 2]>) -> FlexTensor {
    let (x, weight, bias) = (whole(x), weight.source(), bias.storage::<f32>());
    // SAFETY: `forward` writes all rows.
    unsafe {
        result([x.1[0], weight.dims()[0]], |out| {
            forward(x, weight, bias, update.map(|pair| pair.map(whole)), out.slots)
        })
    }
}

/// `factor·x·aᵀ`, `[rows, rank]`: what the update's outer factor multiplies.
fn inner_states(x: &FlexTensor, LowRank { a, factor, .. }: &LowRank) -> FlexTensor {
    let ([rows, inner], [rank, _]) = (dims(x), dims(a));
    let term = Term { factor: *factor, ..term(left(whole(x), false), right(whole(a), true), inner) };
    // SAFETY: the product writes all of it.
    unsafe { result([rows, rank], |out| multiply(Level::best(), [rows, rank], &[term], Start::Zero, out)) }
}

/// `factor·gradient·b`, `[rows, rank]`: the gradient of `x·aᵀ`.
fn inner_gradient(gradient: &FlexTensor, LowRank { b, factor, .. }: &LowRank) -> FlexTensor {
    let ([rows, outputs], [_, rank]) = (dims(gradient), dims(b));
    let term = Term { factor: *factor, ..term(left(whole(gradient), false), right(whole(b), false), outputs) };
    // SAFETY: the product writes all of it.
    unsafe { result([rows, rank], |out| multiply(Level::best(), [rows, rank], &[term], Start::Zero, out)) }
}

/// Writes `gradient·W`, or with a low-rank update's inner factor `a` `[rank, in]` and its [`inner_gradient`]
/// `gradient·(W + factor·b·a)`.
pub(crate) fn input_gradient(
    gradient: Whole<'_>,
    weight: Source<'_>,
    update: Option<[Whole<'_>; 2]>,
    out: &mut [MaybeUninit<f32>],
) {
    let ([rows, outputs], [_, inputs], level) = (gradient.1, weight.dims(), Level::best());
    let few = rows <= FEW && matches!(weight, Source::Dense(_));
    let main = match weight {
        Source::Dense(weight) if few => term(left(weight, true), right(gradient, true), outputs),
        Source::Dense(weight) => term(left(gradient, false), right(weight, false), outputs),
        Source::Packed(weight) => term(left(gradient, false), Right::Packed(weight), outputs),
    };
    let change = update.map(|[a, low]| {
        let (left, right) = if few { (left(a, true), right(low, true)) } else { (left(low, false), right(a, false)) };
        term(left, right, a.1[0])
    });
    let terms: Vec<_> = [Some(main), change].into_iter().flatten().collect();
    let (sizes, strides) = if few { ([inputs, rows], [1, inputs]) } else { ([rows, inputs], [inputs, 1]) };
    multiply(level, sizes, &terms, Start::Zero, Place { slots: out, strides });
}

/// [`input_gradient`] as a tensor.
fn input_gradient_of(gradient: &FlexTensor, weight: &Weight, update: Option<[&FlexTensor; 2]>) -> FlexTensor {
    let (gradient, weight) = (whole(gradient), weight.source());
    // SAFETY: `input_gradient` writes all rows.
    unsafe {
        result([gradient.1[0], weight.dims()[1]], |out| {
            input_gradient(gradient, weight, update.map(|pair| pair.map(whole)), out.slots);
        })
    }
}

/// `oneᵀ·other`, `[columns of one, columns of other]`: the gradient of a matrix from what went in and what comes back. The one with
/// fewer columns makes the rows of the product.
fn over_rows(one: &FlexTensor, other: &FlexTensor) -> FlexTensor {
    let (one, other) = (whole(one), whole(other));
    let ([inner, columns], [_, others]) = (one.1, other.1);
    // SAFETY: the product writes all of it.
    unsafe {
        result([columns, others], |out| {
            if columns <= others {
                let term = term(left(one, true), right(other, false), inner);
                multiply(Level::best(), [columns, others], &[term], Start::Zero, out);
            } else {
                let term = term(left(other, true), right(one, false), inner);
                let out = Place { strides: [1, others], ..out };
                multiply(Level::best(), [others, columns], &[term], Start::Zero, out);
            }
        })
    }
}

/// The sum over all rows, `[columns]`.
fn column_sums(x: &FlexTensor) -> FlexTensor {
    let [inner, columns] = dims(x);
    let mut out = Output::new(Shape::from([columns]));
    let ones = Left { numbers: &[1.0], strides: [0, 0] };
    let term = term(ones, right(whole(x), false), inner);
    let place = Place { slots: out.slots(), strides: [columns, 1] };
    multiply(Level::best(), [1, columns], &[term], Start::Zero, place);
    // SAFETY: the product writes all of it.
    unsafe { out.finish() }
}

impl Linear for Flex {
    fn dense_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear(&x.to_contiguous(), &Weight::Dense(weight.to_contiguous()), &bias.to_contiguous(), None)
    }

    fn packed_linear(x: FlexTensor, weight: Packed, bias: FlexTensor) -> FlexTensor {
        linear(&x.to_contiguous(), &Weight::Packed(weight), &bias.to_contiguous(), None)
    }

    fn dense_low_rank(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        a: FlexTensor,
        b: FlexTensor,
        factor: f64,
    ) -> FlexTensor {
        low_rank([x, bias, a, b], &Weight::Dense(weight.to_contiguous()), factor)
    }

    fn packed_low_rank(
        x: FlexTensor,
        weight: Packed,
        bias: FlexTensor,
        a: FlexTensor,
        b: FlexTensor,
        factor: f64,
    ) -> FlexTensor {
        low_rank([x, bias, a, b], &Weight::Packed(weight), factor)
    }
}

/// The product with an updated weight.
fn low_rank(inputs: [FlexTensor; 4], weight: &Weight, factor: f64) -> FlexTensor {
    let [x, bias, a, b] = inputs.map(|x| x.to_contiguous());
    let update = LowRank { a, b, factor: factor as f32 };
    linear(&x, weight, &bias, Some([&update.b, &inner_states(&x, &update)]))
}

/// A product under autodiff with a constant weight.
fn frozen<C: CheckpointStrategy>(
    [x, bias]: [FloatTensor<Autodiff<Flex, C>>; 2],
    weight: Weight,
) -> FloatTensor<Autodiff<Flex, C>> {
    #[derive(Debug)]
    struct Frozen;

    impl Backward<Flex, 2> for Frozen {
        type State = Weight;

        fn backward(self, ops: Ops<Weight, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
            let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
            let parents = ops.parents.map(|parent| parent.map(|node| node.id));
            let gradients = [
                parents[0].is_some().then(|| input_gradient_of(&gradient, &ops.state, None)),
                parents[1].is_some().then(|| column_sums(&gradient)),
            ];
            register(parents, gradients, grads);
        }
    }

    let kind = Frozen.prepare::<C>([x.node(), bias.node()]).compute_bound().stateful();
    let [x, bias] = [x, bias].map(|x| x.into_primitive().to_contiguous());
    let out = linear(&x, &weight, &bias, None);
    match kind {
        OpsKind::Tracked(prep) => prep.finish(weight, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}

/// A product under autodiff with a constant weight and a low-rank update.
fn updated<C: CheckpointStrategy>(
    [x, bias, a, b]: [FloatTensor<Autodiff<Flex, C>>; 4],
    weight: Weight,
    factor: f64,
) -> FloatTensor<Autodiff<Flex, C>> {
    #[derive(Debug)]
    struct Updated;

    impl Backward<Flex, 4> for Updated {
        /// The weight, the update, where `x` is kept, and its inner states.
        type State = (Weight, LowRank, NodeId, FlexTensor);

        fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
            let (weight, update, x, low) = ops.state;
            let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
            let parents = ops.parents.map(|parent| parent.map(|node| node.id));
            let [x_needed, bias_needed, a_needed, b_needed] = parents.each_ref().map(Option::is_some);
            let inner = (x_needed || a_needed).then(|| inner_gradient(&gradient, &update));
            let inner = inner.as_ref();
            let gradients = [
                inner.filter(|_| x_needed).map(|inner| input_gradient_of(&gradient, &weight, Some([&update.a, inner]))),
                bias_needed.then(|| column_sums(&gradient)),
                inner.filter(|_| a_needed).map(|inner| {
                    let x: FlexTensor = checkpointer.retrieve_node_output(x);
                    over_rows(inner, &x.to_contiguous())
                }),
                b_needed.then(|| over_rows(&gradient, &low)),
            ];
            register(parents, gradients, grads);
        }
    }

    match Updated.prepare::<C>([x.node(), bias.node(), a.node(), b.node()]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let node = prep.checkpoint(&x);
            let [x, bias, a, b] = [x, bias, a, b].map(|x| x.into_primitive().to_contiguous());
            let update = LowRank { a, b, factor: factor as f32 };
            let low = inner_states(&x, &update);
            let out = linear(&x, &weight, &bias, Some([&update.b, &low]));
            prep.finish((weight, update, node, low), out)
        }
        OpsKind::UnTracked(prep) => prep.finish(low_rank([x, bias, a, b].map(|x| x.into_primitive()), &weight, factor)),
    }
}

impl<C: CheckpointStrategy> Linear for Autodiff<Flex, C> {
    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Trained;

        impl Backward<Flex, 3> for Trained {
            type State = (NodeId, FlexTensor);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let (x, weight) = ops.state;
                let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
                let parents = ops.parents.map(|parent| parent.map(|node| node.id));
                let gradients = [
                    parents[0].is_some().then(|| input_gradient_of(&gradient, &Weight::Dense(weight), None)),
                    parents[1].is_some().then(|| {
                        let x: FlexTensor = checkpointer.retrieve_node_output(x);
                        over_rows(&gradient, &x.to_contiguous())
                    }),
                    parents[2].is_some().then(|| column_sums(&gradient)),
                ];
                register(parents, gradients, grads);
            }
        }

        if !weight.is_tracked() {
            // Then `x` need not be kept.
            let weight = Weight::Dense(weight.into_primitive().to_contiguous());
            return frozen::<C>([x, bias], weight);
        }
        match Trained.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let node = prep.checkpoint(&x);
                let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
                let weight = weight.to_contiguous();
                let out = Flex::dense_linear(x, weight.clone(), bias);
                prep.finish((node, weight), out)
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
                prep.finish(Flex::dense_linear(x, weight, bias))
            }
        }
    }

    fn packed_linear(x: FloatTensor<Self>, weight: Packed, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        frozen::<C>([x, bias], Weight::Packed(weight))
    }

    fn dense_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        factor: f64,
    ) -> FloatTensor<Self> {
        let weight = Weight::Dense(weight.into_primitive().to_contiguous());
        updated::<C>([x, bias, a, b], weight, factor)
    }

    fn packed_low_rank(
        x: FloatTensor<Self>,
        weight: Packed,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        factor: f64,
    ) -> FloatTensor<Self> {
        updated::<C>([x, bias, a, b], Weight::Packed(weight), factor)
    }
}
