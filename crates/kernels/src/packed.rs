//! Frozen matrices, dense or packed.

use crate::dots::{Few, dots};
use crate::formats::{Format, unpack};
use crate::has_kernels;
use crate::linear::{Linear, Source, whole};
use crate::memory::Shared;
use crate::panel::to_bf16;
use crate::simd::{Level, flush};
use crate::{composed, vocabulary};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, module};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// A frozen matrix `[out, in]`, packed; cheap to clone.
#[derive(Clone)]
pub struct Packed {
    format: Format,
    dims: [usize; 2],
    bytes: Arc<[u8]>,
    device: Device,
    rounds: bool,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("format", &self.format).field("dims", &self.dims).finish_non_exhaustive()
    }
}

impl Packed {
    /// A matrix `[out, in]` from its rows' blocks, one row after the other; results and [`Self::dense`] live on `device`.
    ///
    /// # Errors
    /// If a size is zero, `in` is no whole number of blocks, or there are more or fewer bytes than that takes.
    pub fn new(format: Format, dims: [usize; 2], bytes: Arc<[u8]>, device: &Device) -> Result<Self, String> {
        let ([rows, width], name) = (dims, format.name());
        if rows == 0 || width == 0 {
            return Err(format!("a packed matrix must not be empty, but its sizes are {dims:?}"));
        }
        if !width.is_multiple_of(format.block()) {
            return Err(format!("{name} packs blocks of {} numbers, which {width} columns are not", format.block()));
        }
        let needed = (width / format.block()).checked_mul(format.bytes()).and_then(|row| row.checked_mul(rows));
        if needed.is_none_or(|needed| needed != bytes.len() || rows.checked_mul(width).is_none()) {
            let needed = needed.map_or("more than there can be".to_owned(), |needed| needed.to_string());
            return Err(format!("{dims:?} numbers in {name} take {needed} bytes, not {}", bytes.len()));
        }
        Ok(Self { format, dims, bytes, device: device.clone(), rounds: false })
    }

    /// A matrix rounded to bf16. Products round the other side to bf16 too and add up in f32, as autocast does, with some three digits: twice
    /// as fast as f32 where the processor multiplies bf16 numbers, and the same results elsewhere.
    ///
    /// # Errors
    /// If a size is zero or the matrix is not f32.
    pub fn rounded(matrix: &Tensor<2>) -> Result<Self, String> {
        if matrix.dtype() != DType::F32 {
            return Err(format!("only f32 matrices are rounded to bf16, not {:?}", matrix.dtype()));
        }
        let numbers = matrix.to_data();
        let bytes = numbers.iter::<f32>().flat_map(|x| (to_bf16(x) as u16).to_le_bytes()).collect();
        Ok(Self { rounds: true, ..Self::new(Format::Bf16, matrix.dims(), bytes, &matrix.device())? })
    }

    /// Whether products round the other side.
    pub(crate) fn rounds(&self) -> bool {
        self.rounds
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// How the numbers are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The blocks, row after row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where results live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The numbers as f32 `[out, in]`, unpacked anew by each call.
    pub fn dense(&self) -> Tensor<2> {
        let [rows, width] = self.dims;
        let mut numbers = vec![0.0; rows * width];
        self.unpack(0..rows, 0..width, &mut numbers);
        Tensor::from_data(TensorData::new(numbers, self.dims), (&self.device, DType::F32))
    }

    /// The matrix whose row `i` is row `order[i]` of this one.
    ///
    /// # Panics
    /// If `order` is empty or names a row that there is not.
    pub fn permuted_rows(&self, order: &[usize]) -> Self {
        assert!(!order.is_empty(), "a packed matrix must keep a row");
        let (stride, rows) = (self.stride(), self.dims[0]);
        let row = |&row: &usize| {
            assert!(row < rows, "there is no row {row} among {rows}");
            &self.bytes[row * stride..][..stride]
        };
        let bytes = order.iter().map(row).collect::<Vec<_>>().concat();
        Self { dims: [order.len(), self.dims[1]], bytes: bytes.into(), ..self.clone() }
    }

    /// Bytes of a row.
    fn stride(&self) -> usize {
        self.dims[1] / self.format.block() * self.format.bytes()
    }

    /// The numbers of a bf16 matrix, byte order as on every processor with products of them.
    pub(crate) fn bf16(&self) -> &[[u8; 2]] {
        self.bytes.as_chunks().0
    }

    /// Unpacks some columns, whole blocks, of some rows.
    pub(crate) fn unpack(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let (stride, first) = (self.stride(), columns.start / self.format.block() * self.format.bytes());
        let bytes = &self.bytes[rows.start * stride + first..];
        unpack(Level::best(), self.format, bytes, stride, columns.len(), &mut out[..rows.len() * columns.len()]);
    }
}

/// A frozen matrix `[out, in]`, dense or packed.
///
/// The products of a packed matrix with f32 on the processor unpack a tile at a time; elsewhere they unpack the whole matrix for
/// the time of the call.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// A tensor.
    Dense(Tensor<2>),
    /// Blocks.
    Packed(Packed),
}

impl From<Tensor<2>> for Matrix {
    fn from(matrix: Tensor<2>) -> Self {
        Self::Dense(matrix)
    }
}

impl From<Packed> for Matrix {
    fn from(matrix: Packed) -> Self {
        Self::Packed(matrix)
    }
}

impl Matrix {
    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(matrix) => matrix.dims(),
            Self::Packed(matrix) => matrix.dims(),
        }
    }

    /// The numbers as a tensor; a packed matrix is unpacked to f32 by each call.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(matrix) => matrix.clone(),
            Self::Packed(matrix) => matrix.dense(),
        }
    }

    /// Number type (f32 of a packed matrix) and device of [`Self::dense`].
    pub fn like(&self) -> (DType, Device) {
        match self {
            Self::Dense(matrix) => (matrix.dtype(), matrix.device()),
            Self::Packed(matrix) => (DType::F32, matrix.device.clone()),
        }
    }

    /// `x·Wᵀ + bias` for `x` `[rows, in]` and `bias` `[out]`: `[rows, out]`. A packed matrix is a constant.
    ///
    /// # Panics
    /// If `x` does not have `in` columns or the bias not `out` numbers.
    pub fn linear(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let [outputs, width] = self.dims();
        assert_eq!(x.dims()[1], width, "x must have as many columns as the matrix [{outputs}, {width}]");
        assert!(bias.as_ref().is_none_or(|bias| bias.dims() == [outputs]), "the bias must have {outputs} numbers");
        let fused = self.fused(&x) && bias.as_ref().is_none_or(has_kernels);
        match self {
            Self::Packed(matrix) if fused => Tensor::from_dispatch(<Dispatch as Linear>::packed_linear(
                x.clone().into_dispatch(),
                matrix.clone(),
                or_none(bias, &x).into_dispatch(),
            )),
            Self::Dense(matrix) if fused => Tensor::from_dispatch(<Dispatch as Linear>::dense_linear(
                x.clone().into_dispatch(),
                matrix.clone().into_dispatch(),
                or_none(bias, &x).into_dispatch(),
            )),
            Self::Packed(matrix) => {
                let kind = x.dtype();
                module::linear(x, matrix.dense().cast(kind).transpose(), bias)
            }
            Self::Dense(matrix) => module::linear(x, matrix.clone().transpose(), bias),
        }
    }

    /// `x·(W + factor·b·a)ᵀ + bias` for `x` `[rows, in]`, `a` `[rank, in]`, `b` `[out, rank]` and `bias` `[out]`: `[rows, out]`. The
    /// updated weight is never made.
    ///
    /// # Panics
    /// If the shapes do not fit each other.
    pub fn low_rank(&self, x: Tensor<2>, bias: Option<Tensor<1>>, [a, b]: [Tensor<2>; 2], factor: f64) -> Tensor<2> {
        let ([outputs, width], [rank, _]) = (self.dims(), a.dims());
        assert_eq!((a.dims(), b.dims()), ([rank, width], [outputs, rank]), "factors of a matrix [{outputs}, {width}]");
        assert_eq!(x.dims()[1], width, "x must have as many columns as the matrix [{outputs}, {width}]");
        assert!(bias.as_ref().is_none_or(|bias| bias.dims() == [outputs]), "the bias must have {outputs} numbers");
        let fused = self.fused(&x) && has_kernels(&a) && has_kernels(&b) && bias.as_ref().is_none_or(has_kernels);
        let own = |x: Tensor<2>| (x.matmul(a.clone().transpose()) * factor).matmul(b.clone().transpose());
        match self {
            Self::Packed(matrix) if fused => Tensor::from_dispatch(<Dispatch as Linear>::packed_low_rank(
                x.clone().into_dispatch(),
                matrix.clone(),
                or_none(bias, &x).into_dispatch(),
                a.into_dispatch(),
                b.into_dispatch(),
                factor,
            )),
            Self::Dense(matrix) if fused && !matrix.is_autodiff() => {
                Tensor::from_dispatch(<Dispatch as Linear>::dense_low_rank(
                    x.clone().into_dispatch(),
                    matrix.clone().into_dispatch(),
                    or_none(bias, &x).into_dispatch(),
                    a.into_dispatch(),
                    b.into_dispatch(),
                    factor,
                ))
            }
            _ => self.linear(x.clone(), bias) + own(x),
        }
    }

    /// Whether there are kernels for products with `x`.
    fn fused(&self, x: &Tensor<2>) -> bool {
        let own = match self {
            Self::Dense(matrix) => has_kernels(matrix),
            Self::Packed(_) => true,
        };
        own && has_kernels(x)
    }

    /// The rows that `ids` `[batch, length]` name: `[batch, length, in]`.
    ///
    /// # Panics
    /// A packed matrix: if there is no row of that number. A dense one: as Burn's `embedding`.
    pub fn rows(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let matrix = match self {
            Self::Dense(matrix) => return module::embedding(matrix.clone(), ids),
            Self::Packed(matrix) => matrix,
        };
        let ([batch, length], [rows, width]) = (ids.dims(), matrix.dims);
        let mut numbers = vec![0.0; batch * length * width];
        for (id, out) in indices(ids.reshape([batch * length]), rows).into_iter().zip(numbers.chunks_exact_mut(width)) {
            matrix.unpack(id..id + 1, 0..width, out);
        }
        Tensor::from_data(TensorData::new(numbers, [batch, length, width]), (&matrix.device, DType::F32))
    }

    /// `−log softmax(x·Wᵀ)[target]` of each row, for `x` `[rows, in]` and `targets` `[rows]`: `[rows]`.
    ///
    /// With f32 on the processor only some rows' scores exist at a time, and where `x` is tracked its gradient is computed along with
    /// the result. A dense matrix that is on an autodiff device is taken as trainable, which keeps all scores.
    ///
    /// # Panics
    /// If `x` does not have `in` columns, or a target is not below `out`.
    pub fn cross_entropy(&self, x: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let ([rows, width], [outputs, expected]) = (x.dims(), self.dims());
        assert_eq!(width, expected, "x must have as many columns as the matrix [{outputs}, {expected}]");
        assert_eq!(targets.dims(), [rows], "there must be a target for each row of x");
        let fused = width > 0 && has_kernels(&x);
        let wanted: Arc<[usize]> = indices(targets.clone(), outputs).into();
        let out = match self {
            Self::Packed(matrix) if fused => {
                <Dispatch as Vocabulary>::packed_cross_entropy(x.into_dispatch(), matrix.clone(), wanted)
            }
            Self::Dense(matrix) if fused && !matrix.is_autodiff() && has_kernels(matrix) => {
                <Dispatch as Vocabulary>::dense_cross_entropy(x.into_dispatch(), matrix.clone().into_dispatch(), wanted)
            }
            _ => return composed::cross_entropy(self.linear(x, None), targets),
        };
        Tensor::from_dispatch(out)
    }
}

/// The bias, or one without numbers.
fn or_none(bias: Option<Tensor<1>>, like: &Tensor<2>) -> Tensor<1> {
    bias.unwrap_or_else(|| Tensor::zeros([0], (&like.clone().inner().device(), DType::F32)))
}

/// Reads indices, each of which must be below `end`.
fn indices(ids: Tensor<1, Int>, end: usize) -> Vec<usize> {
    let index = |id: i64| {
        let index = usize::try_from(id).ok().filter(|id| *id < end);
        index.unwrap_or_else(|| panic!("there is no row {id} in a matrix of {end}"))
    };
    ids.into_data().iter::<i64>().map(index).collect()
}

/// What Burn's dispatch calls for f32 tensors on the processor, plain or under autodiff.
#[backend_extension(Flex, Autodiff)]
trait Vocabulary: Backend {
    fn packed_cross_entropy(x: FloatTensor<Self>, matrix: Packed, targets: Arc<[usize]>) -> FloatTensor<Self>;
    fn dense_cross_entropy(x: FloatTensor<Self>, matrix: FloatTensor<Self>, targets: Arc<[usize]>)
    -> FloatTensor<Self>;
}

impl Vocabulary for Flex {
    fn packed_cross_entropy(x: FlexTensor, matrix: Packed, targets: Arc<[usize]>) -> FlexTensor {
        vocabulary::forward(&x, Source::Packed(&matrix), &targets, false).0
    }

    fn dense_cross_entropy(x: FlexTensor, matrix: FlexTensor, targets: Arc<[usize]>) -> FlexTensor {
        let matrix = matrix.to_contiguous();
        vocabulary::forward(&x, Source::Dense(whole(&matrix)), &targets, false).0
    }
}

impl<C: CheckpointStrategy> Vocabulary for Autodiff<Flex, C> {
    fn packed_cross_entropy(x: FloatTensor<Self>, matrix: Packed, targets: Arc<[usize]>) -> FloatTensor<Self> {
        cross_entropy::<C>(x, Source::Packed(&matrix), &targets)
    }

    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        matrix: FloatTensor<Self>,
        targets: Arc<[usize]>,
    ) -> FloatTensor<Self> {
        let matrix = matrix.into_primitive().to_contiguous();
        cross_entropy::<C>(x, Source::Dense(whole(&matrix)), &targets)
    }
}

fn cross_entropy<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    matrix: Source<'_>,
    targets: &[usize],
) -> FloatTensor<Autodiff<Flex, C>> {
    #[derive(Debug)]
    struct CrossEntropy;

    impl Backward<Flex, 1> for CrossEntropy {
        /// The gradient of `x` where every row's result has the gradient one.
        type State = FlexTensor;

        fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let slopes = ops.state;
            unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| vocabulary::backward(&slopes, &gradient));
        }
    }

    match CrossEntropy.prepare::<C>([x.node()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (out, slopes) = vocabulary::forward(&x.into_primitive(), matrix, targets, true);
            prep.finish(slopes, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(vocabulary::forward(&x.into_primitive(), matrix, targets, false).0),
    }
}

/// Up to so many rows of `x` are multiplied with packed rows as they are unpacked.
pub(crate) const FEW: usize = 4;
/// Rows of the matrix a task takes then.
const DOTS: usize = 32;
/// Fewer products than these, some ten microseconds' worth, are not worth waking a thread for.
const WORTH: usize = 1 << 17;

/// Writes `x·Wᵀ + bias`, `[rows, out]`, to all of `out` for at most [`FEW`] rows; nothing may be empty.
pub(crate) fn few_rows(matrix: &Packed, x: &[f32], bias: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
    let [outputs, width] = matrix.dims;
    let (rows, stride, level) = (x.len() / width, matrix.stride(), Level::best());
    assert_eq!([x.len(), out.len()], [rows * width, rows * outputs], "sizes of a product");
    let out = Shared::new(out);
    let (few, least) = (Few::new(level, matrix.format, width, x), WORTH.div_ceil(DOTS * x.len()));
    (0..outputs.div_ceil(DOTS)).into_par_iter().with_min_len(least).for_each(|task| {
        let part = task * DOTS..outputs.min((task + 1) * DOTS);
        let mut sums = [0.0; DOTS * FEW];
        let sums = &mut sums[..part.len() * rows];
        dots(level, matrix.format, &matrix.bytes[part.start * stride..part.end * stride], &few, sums);
        if let Some(bias) = bias {
            for (sums, bias) in sums.chunks_exact_mut(rows).zip(&bias[part.clone()]) {
                sums.iter_mut().for_each(|sum| *sum += bias);
            }
        }
        flush(level, sums);
        for (i, sum) in sums.iter().enumerate() {
            // SAFETY: these columns belong to this task alone and lie within the output.
            unsafe { out.at(i % rows * outputs + part.start + i / rows).write(*sum) };
        }
    });
}
