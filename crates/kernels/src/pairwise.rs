//! Distances and kernels between all rows of two matrices.

use crate::memory::{Output, Shared};
use crate::product::product_into;
use crate::real::{Kind, Real, primitive, tensor};
use crate::simd::{Level, flush, vectorised};
use crate::{composed, has_kernels};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Rows and columns of the result a task computes: the tile and both inputs' rows stay in the cache.
const TILE: usize = 256;

/// A squared distance below this share of what it is the difference of is computed again from differences: the product's rounding would be
/// more than a thousandth part of it.
const CANCELLED: f32 = 1e-3;

/// What is computed of two rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// `‖x − y‖²`.
    SquaredEuclidean,
    /// `1 − ⟨x, y⟩/(‖x‖·‖y‖)`, between 0 and 2; 1 where a row is zero.
    Cosine,
    /// `‖x − y‖₁`.
    L1,
    /// `exp(−γ‖x − y‖²)` with this γ, which must be at least zero.
    Rbf(f64),
    /// `exp(−γ‖x − y‖₁)` with this γ, which must be at least zero.
    Laplace(f64),
}

impl Measure {
    /// What a row is to itself.
    pub(crate) fn own(self) -> f64 {
        if matches!(self, Self::Rbf(_) | Self::Laplace(_)) { 1.0 } else { 0.0 }
    }

    /// What is added up over the features.
    fn sum(self) -> Sum {
        match self {
            Self::SquaredEuclidean | Self::Rbf(_) => Sum::Squares,
            Self::L1 | Self::Laplace(_) => Sum::Sizes,
            Self::Cosine => Sum::Products,
        }
    }
}

/// What is added up over the features of two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Squares,
    Sizes,
    Products,
}

/// The measure of every row of `x` `[n, features]` with every row of `y` `[m, features]`, or of `x` itself where there is none: `[n, m]`.
/// Rows of one matrix are at exactly zero from themselves, and their kernel with themselves is exactly one.
///
/// f32 and f64 on the processor have kernels, which compute a tile at a time. Gradients of the squared distance and of its kernel in f32
/// do without a tensor of `n·m·features` numbers; those of the other measures and number types are composed, and take one for the sum of
/// absolute differences.
///
/// # Panics
/// If the features differ in number, or γ is below zero.
pub fn pairwise(x: Tensor<2>, y: Option<Tensor<2>>, measure: Measure) -> Tensor<2> {
    let same = y.is_none();
    let y = y.unwrap_or_else(|| x.clone());
    let ([_, features], [_, other]) = (x.dims(), y.dims());
    assert_eq!(features, other, "rows must have features of one number");
    if let Measure::Rbf(gamma) | Measure::Laplace(gamma) = measure {
        assert!(gamma >= 0.0, "a kernel's γ must be at least zero, not {gamma}");
    }
    let tracked = x.is_autodiff() || y.is_autodiff();
    let narrow = [&x, &y].iter().all(|x| has_kernels(x));
    if narrow && (!tracked || measure.sum() == Sum::Squares) {
        let (x, y) = (x.into_dispatch(), y.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as Pairs>::pairs(x, y, measure, same));
    }
    let kinds = [Kind::of(&x), Kind::of(&y)];
    if tracked || kinds != [Some(Kind::F64); 2] {
        return composed::pairwise(x, y, same, measure);
    }
    let ([n, _], [m, _]) = (x.dims(), y.dims());
    tensor(all::<f64>(&primitive(x), &primitive(y), measure, same), [n, m])
}

/// What Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff; `same` says that both are one matrix.
#[backend_extension(Flex, Autodiff)]
trait Pairs: Backend {
    fn pairs(x: FloatTensor<Self>, y: FloatTensor<Self>, measure: Measure, same: bool) -> FloatTensor<Self>;
}

impl Pairs for Flex {
    fn pairs(x: FlexTensor, y: FlexTensor, measure: Measure, same: bool) -> FlexTensor {
        let [x, y] = [x, y].map(|x| x.to_contiguous());
        let ([n, features], [m, _]) = (dims(&x), dims(&y));
        if measure.sum() == Sum::Sizes || n * m * features == 0 {
            let values = all::<f32>(&x, &y, measure, same);
            return FlexTensor::from_data(burn::tensor::TensorData::new(values, Shape::from([n, m])));
        }
        by_products(&x, &y, measure, same)
    }
}

impl<C: CheckpointStrategy> Pairs for Autodiff<Flex, C> {
    /// Under autodiff of the squared distance and its kernel alone; see [`pairwise`].
    fn pairs(x: FloatTensor<Self>, y: FloatTensor<Self>, measure: Measure, same: bool) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Squares;

        impl Backward<Flex, 2> for Squares {
            /// The inputs, and for the kernel its γ and result.
            type State = ([FlexTensor; 2], Option<(f64, FlexTensor)>);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([x, y], kernel) = ops.state;
                let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
                let mut slopes = gradient.storage::<f32>().to_vec();
                if let Some((gamma, kernel)) = kernel {
                    let factor = -gamma as f32;
                    slopes.iter_mut().zip(kernel.storage::<f32>()).for_each(|(slope, k)| *slope *= factor * k);
                    flush(Level::best(), &mut slopes);
                }
                let [of_x, of_y] = ops.parents;
                if let Some(node) = of_x {
                    grads.register::<Flex>(node.id, flow(&slopes, [&x, &y], false));
                }
                if let Some(node) = of_y {
                    grads.register::<Flex>(node.id, flow(&slopes, [&y, &x], true));
                }
            }
        }

        match Squares.prepare::<C>([x.node(), y.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let inputs = [x, y].map(|x| x.into_primitive().to_contiguous());
                let [x, y] = inputs.clone();
                let out = Flex::pairs(x, y, measure, same);
                let kernel = if let Measure::Rbf(gamma) = measure { Some((gamma, out.clone())) } else { None };
                prep.finish((inputs, kernel), out)
            }
            OpsKind::UnTracked(prep) => {
                let [x, y] = [x, y].map(|x| x.into_primitive());
                prep.finish(Flex::pairs(x, y, measure, same))
            }
        }
    }
}

fn dims(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    [shape[0], shape[1]]
}

/// The gradient `2·(Σⱼ sᵢⱼ·xᵢ − Σⱼ sᵢⱼ·yⱼ)` of squared distances by `x`, for slopes `[n, m]`, or `[m, n]` where they are `turned`.
fn flow(slopes: &[f32], [x, y]: [&FlexTensor; 2], turned: bool) -> FlexTensor {
    let ([n, features], [m, _]) = (dims(x), dims(y));
    if n * m * features == 0 {
        return FlexTensor::zeros(Shape::from([n, features]), DType::F32);
    }
    let strides = if turned { [1, n] } else { [m, 1] };
    let mut sums = vec![0.0f64; n];
    for (at, &slope) in slopes.iter().enumerate() {
        sums[if turned { at % n } else { at / m }] += f64::from(slope);
    }
    let (x, y, level) = (x.storage::<f32>(), y.storage::<f32>(), Level::best());
    let mut out = Output::new(Shape::from([n, features]));
    let parts = out.slots().par_chunks_mut(TILE * features).zip(x.par_chunks(TILE * features)).enumerate();
    parts.for_each(|(at, (out, x))| {
        let rows = x.len() / features;
        let slopes = &slopes[at * TILE * strides[0]..];
        let place = Shared::new(out);
        // SAFETY: the product fills this part of the output, which belongs to the task alone, and all of it is then read as numbers.
        let out = unsafe {
            let to = (place.at(0), [features, 1]);
            product_into(level, [rows, features, m], -2.0, (slopes, strides), (y, [features, 1]), to, false);
            std::slice::from_raw_parts_mut(place.at(0), rows * features)
        };
        for ((out, x), sum) in out.chunks_mut(features).zip(x.chunks(features)).zip(&sums[at * TILE..]) {
            let twice = 2.0 * *sum as f32;
            out.iter_mut().zip(x).for_each(|(out, x)| *out += twice * x);
        }
        flush(level, out);
    });
    // SAFETY: the parts cover all slots, and each was filled.
    unsafe { out.finish() }
}

/// Every measure that is made of products, in f32; nothing may be empty.
fn by_products(x: &FlexTensor, y: &FlexTensor, measure: Measure, same: bool) -> FlexTensor {
    let ([n, features], [m, _]) = (dims(x), dims(y));
    let (x, y, level) = (x.storage::<f32>(), y.storage::<f32>(), Level::best());
    let own = norms(x, features, measure);
    let other = if same { own.clone() } else { norms(y, features, measure) };
    let mut out = Output::new(Shape::from([n, m]));
    let place = out.shared();
    let columns = m.div_ceil(TILE);
    (0..n.div_ceil(TILE) * columns).into_par_iter().for_each(|at| {
        let (top, left) = (at / columns * TILE, at % columns * TILE);
        let (rows, width) = (TILE.min(n - top), TILE.min(m - left));
        let (x, y) = (&x[top * features..], &y[left * features..][..width * features]);
        // SAFETY: the rows and columns of this tile belong to the task alone and lie within the output.
        unsafe {
            let to = (place.at(top * m + left), [m, 1]);
            product_into(level, [rows, width, features], 1.0, (x, [features, 1]), (y, [1, features]), to, false);
        }
        for (row, x) in x.chunks(features).take(rows).enumerate() {
            // SAFETY: as above, and the product has written it.
            let out = unsafe { std::slice::from_raw_parts_mut(place.at((top + row) * m + left), width) };
            let (own, other) = (own[top + row], &other[left..][..width]);
            if measure.sum() == Sum::Squares {
                let mut cancelled = 0;
                squared(level, own, other, out, &mut cancelled);
                if cancelled > 0 {
                    for (out, y) in out.iter_mut().zip(y.chunks(features)).filter(|(out, _)| out.is_nan()) {
                        f32::sums(level, x, y, Sum::Squares, std::slice::from_mut(out));
                        *out = Real::normal(*out);
                    }
                }
            }
            if measure != Measure::SquaredEuclidean {
                f32::end(level, measure, own, other, out);
            }
            if same && (left..left + width).contains(&(top + row)) {
                settle(&mut out[top + row - left], measure);
            }
        }
    });
    // SAFETY: the tiles cover all slots, and each was filled.
    unsafe { out.finish() }
}

/// What a row is to itself, but where it holds something that is no number.
fn settle<T: Real>(out: &mut T, measure: Measure) {
    if !out.wide().is_nan() {
        *out = T::of(measure.own());
    }
}

/// Of each row `‖x‖²`, or for the cosine `1/‖x‖`, which is zero where the norm is.
fn norms<T: Real>(x: &[T], features: usize, measure: Measure) -> Vec<T> {
    let norm = |row: &[T]| {
        let square: f64 = row.iter().map(|x| x.wide() * x.wide()).sum();
        match measure {
            Measure::Cosine if square == 0.0 => T::ZERO,
            Measure::Cosine => T::of(square.sqrt().recip()).normal(),
            _ => T::of(square),
        }
    };
    x.par_chunks(features.max(1)).map(norm).collect()
}

/// Every measure, of each pair of rows by itself.
fn all<T: Loops>(x: &FlexTensor, y: &FlexTensor, measure: Measure, same: bool) -> Vec<T> {
    let ([n, features], [m, _]) = (dims(x), dims(y));
    let mut out = vec![T::ZERO; n * m];
    if n * m == 0 {
        return out;
    }
    let (x, y, level) = (T::numbers(x), T::numbers(y), Level::best());
    // Rows without features have nothing to differ in.
    let lengths = |x: &[T], rows: usize| if features == 0 { vec![T::ZERO; rows] } else { norms(x, features, measure) };
    let (own, other) = (lengths(x, n), lengths(y, m));
    out.par_chunks_mut(m).enumerate().for_each(|(i, out)| {
        for (at, out) in out.chunks_mut(TILE).enumerate() {
            let left = at * TILE;
            T::sums(level, &x[i * features..][..features], &y[left * features..], measure.sum(), out);
            T::end(level, measure, own[i], &other[left..], out);
        }
        if same {
            settle(&mut out[i], measure);
        }
    });
    out
}

vectorised! {
    /// Products that become squared distances, given `‖x‖²` and every `‖y‖²`. NaN marks those that must be computed again, which are counted.
    fn squared(own: f32, other: &[f32], out: &mut [f32], cancelled: &mut u32) = squared_body
}

#[inline(always)]
fn squared_body<const FMA: bool>(own: f32, other: &[f32], out: &mut [f32], cancelled: &mut u32) {
    let mut count = 0;
    for (out, other) in out.iter_mut().zip(other) {
        let together = own + other;
        let square = Real::mul_add::<FMA>(*out, -2.0, together);
        let right = square >= CANCELLED * together && square < f32::INFINITY;
        count += u32::from(!right);
        *out = if right { Real::normal(square) } else { f32::NAN };
    }
    *cancelled = count;
}

/// The loops over features and over sums, compiled for each type and level.
trait Loops: Real {
    /// A sum for each row of `y` that `out` has room for.
    fn sums(level: Level, x: &[Self], y: &[Self], sum: Sum, out: &mut [Self]);
    /// Sums that become their measure.
    fn end(level: Level, measure: Measure, own: Self, other: &[Self], out: &mut [Self]);
}

macro_rules! loops {
    ($kind:ty, $sums:ident, $sums_body:ident, $end:ident, $end_body:ident) => {
        vectorised! {
            fn $sums(x: &[$kind], y: &[$kind], sum: Sum, out: &mut [$kind]) = $sums_body
        }
        vectorised! {
            fn $end(measure: Measure, own: $kind, other: &[$kind], out: &mut [$kind]) = $end_body
        }

        #[inline(always)]
        fn $sums_body<const FMA: bool>(x: &[$kind], y: &[$kind], sum: Sum, out: &mut [$kind]) {
            match sum {
                Sum::Squares => rows(x, y, out, |x, y, sum| Real::mul_add::<FMA>(x - y, x - y, sum)),
                Sum::Sizes => rows(x, y, out, |x, y, sum| sum + Real::abs(x - y)),
                Sum::Products => rows(x, y, out, |x, y, sum| Real::mul_add::<FMA>(x, y, sum)),
            }
        }

        #[inline(always)]
        fn $end_body<const FMA: bool>(measure: Measure, own: $kind, other: &[$kind], out: &mut [$kind]) {
            match measure {
                Measure::SquaredEuclidean | Measure::L1 => out.iter_mut().for_each(|out| *out = Real::normal(*out)),
                Measure::Rbf(gamma) | Measure::Laplace(gamma) => {
                    let factor = <$kind>::of(-gamma);
                    // γ = 0 gives one even of an infinite distance.
                    let power = |x: $kind| if factor == 0.0 { 0.0 } else { x * factor };
                    out.iter_mut().for_each(|out| *out = Real::exp::<FMA>(power(*out)));
                }
                Measure::Cosine => {
                    for (out, other) in out.iter_mut().zip(other) {
                        let distance = 1.0 - *out * own * other;
                        let bounded = if distance < 0.0 { 0.0 } else { distance };
                        *out = Real::normal(if bounded > 2.0 { 2.0 } else { bounded });
                    }
                }
            }
        }

        impl Loops for $kind {
            fn sums(level: Level, x: &[Self], y: &[Self], sum: Sum, out: &mut [Self]) {
                $sums(level, x, y, sum, out);
            }
            fn end(level: Level, measure: Measure, own: Self, other: &[Self], out: &mut [Self]) {
                $end(level, measure, own, other, out);
            }
        }
    };
}

loops!(f32, sums_f32, sums_f32_body, finish_f32, finish_f32_body);
loops!(f64, sums_f64, sums_f64_body, finish_f64, finish_f64_body);

/// Partial sums of a row, so that the compiler can use vectors.
const LANES: usize = 16;

/// Adds `term` up over the features of `x` and each row of `y`.
#[inline(always)]
fn rows<T: Real>(x: &[T], y: &[T], out: &mut [T], term: impl Fn(T, T, T) -> T) {
    let features = x.len();
    for (j, out) in out.iter_mut().enumerate() {
        let y = &y[j * features..][..features];
        let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        let mut partial = [T::ZERO; LANES];
        for (x, y) in x.iter().zip(y) {
            for i in 0..LANES {
                partial[i] = term(x[i], y[i], partial[i]);
            }
        }
        let mut rest = T::ZERO;
        for (&x, &y) in x_rest.iter().zip(y_rest) {
            rest = term(x, y, rest);
        }
        *out = partial.into_iter().fold(rest, |a, b| a + b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the sums of a plain loop, whatever is left over after whole vectors.
    #[test]
    fn levels_agree_with_a_plain_loop() {
        for features in [0, 1, 15, 16, 37] {
            let draw =
                |by: usize| -> Vec<f64> { (0..3 * features).map(|i| (i * by % 19) as f64 * 0.25 - 2.0).collect() };
            let (x, y) = (draw(7), draw(11));
            let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
            let term = |sum: Sum, x: f64, y: f64| match sum {
                Sum::Squares => (x - y) * (x - y),
                Sum::Sizes => (x - y).abs(),
                Sum::Products => x * y,
            };
            for sum in [Sum::Squares, Sum::Sizes, Sum::Products] {
                for level in Level::available() {
                    let (mut out, mut out32) = ([f64::NAN; 3], [f32::NAN; 3]);
                    f64::sums(level, &x[..features], &y, sum, &mut out);
                    f32::sums(level, &narrow(&x[..features]), &narrow(&y), sum, &mut out32);
                    for j in 0..3 {
                        let wanted: f64 = (0..features).map(|i| term(sum, x[i], y[j * features + i])).sum();
                        // Quarters: every sum is exact in either type.
                        assert_eq!((out[j], f64::from(out32[j])), (wanted, wanted), "{sum:?} of {features}");
                    }
                }
            }
        }
    }
}
