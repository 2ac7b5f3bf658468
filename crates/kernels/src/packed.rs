//! Frozen matrices, dense or packed: products that unpack a tile at a time.

use crate::formats::{Format, dots, unpack};
use crate::has_kernels;
use crate::memory::{Output, Shared};
use crate::product::product_into;
use crate::simd::{Level, flush};
use crate::{composed, vocabulary};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData, module};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::cell::RefCell;
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
        Ok(Self { format, dims, bytes, device: device.clone() })
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

    /// Unpacks some columns, whole blocks, of some rows.
    fn unpack(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
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
        match self {
            Self::Packed(matrix) if has_kernels(&x.device(), x.dtype()) => {
                let out = <Dispatch as Frozen>::packed_linear(x.into_dispatch(), matrix.clone());
                let out = Tensor::from_dispatch(out);
                match bias {
                    Some(bias) => out + bias.unsqueeze(),
                    None => out,
                }
            }
            Self::Packed(matrix) => {
                let kind = x.dtype();
                module::linear(x, matrix.dense().cast(kind).transpose(), bias)
            }
            Self::Dense(matrix) => module::linear(x, matrix.clone().transpose(), bias),
        }
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
        let fused = width > 0 && has_kernels(&x.device(), x.dtype());
        let wanted: Arc<[usize]> = indices(targets.clone(), outputs).into();
        let out = match self {
            Self::Packed(matrix) if fused => {
                <Dispatch as Frozen>::packed_cross_entropy(x.into_dispatch(), matrix.clone(), wanted)
            }
            Self::Dense(matrix) if fused && !matrix.is_autodiff() && has_kernels(&matrix.device(), matrix.dtype()) => {
                <Dispatch as Frozen>::dense_cross_entropy(x.into_dispatch(), matrix.clone().into_dispatch(), wanted)
            }
            _ => return composed::cross_entropy(self.linear(x, None), targets),
        };
        Tensor::from_dispatch(out)
    }
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
trait Frozen: Backend {
    fn packed_linear(x: FloatTensor<Self>, matrix: Packed) -> FloatTensor<Self>;
    fn packed_cross_entropy(x: FloatTensor<Self>, matrix: Packed, targets: Arc<[usize]>) -> FloatTensor<Self>;
    fn dense_cross_entropy(x: FloatTensor<Self>, matrix: FloatTensor<Self>, targets: Arc<[usize]>)
    -> FloatTensor<Self>;
}

impl Frozen for Flex {
    fn packed_linear(x: FlexTensor, matrix: Packed) -> FlexTensor {
        let ([rows, _], [outputs, _]) = (dims(&x), matrix.dims);
        apply(&x, [rows, outputs], |x, out| forward(Source::Packed(&matrix), x, out))
    }

    fn packed_cross_entropy(x: FlexTensor, matrix: Packed, targets: Arc<[usize]>) -> FlexTensor {
        vocabulary::forward(&x, Source::Packed(&matrix), &targets, false).0
    }

    fn dense_cross_entropy(x: FlexTensor, matrix: FlexTensor, targets: Arc<[usize]>) -> FlexTensor {
        let matrix = matrix.to_contiguous();
        vocabulary::forward(&x, Source::dense(&matrix), &targets, false).0
    }
}

impl<C: CheckpointStrategy> Frozen for Autodiff<Flex, C> {
    fn packed_linear(x: FloatTensor<Self>, matrix: Packed) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Linear;

        impl Backward<Flex, 1> for Linear {
            type State = Packed;

            fn backward(self, ops: Ops<Packed, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let matrix = ops.state;
                unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| {
                    let ([rows, _], [_, width]) = (dims(&gradient), matrix.dims);
                    apply(&gradient, [rows, width], |gradient, out| backward(Source::Packed(&matrix), gradient, out))
                });
            }
        }

        match Linear.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(matrix.clone(), Flex::packed_linear(x.into_primitive(), matrix)),
            OpsKind::UnTracked(prep) => prep.finish(Flex::packed_linear(x.into_primitive(), matrix)),
        }
    }

    fn packed_cross_entropy(x: FloatTensor<Self>, matrix: Packed, targets: Arc<[usize]>) -> FloatTensor<Self> {
        cross_entropy::<C>(x, Source::Packed(&matrix), &targets)
    }

    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        matrix: FloatTensor<Self>,
        targets: Arc<[usize]>,
    ) -> FloatTensor<Self> {
        let matrix = matrix.into_primitive().to_contiguous();
        cross_entropy::<C>(x, Source::dense(&matrix), &targets)
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

/// The sizes of a matrix.
fn dims(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    [shape[0], shape[1]]
}

/// A result of this shape that `fill` writes from the numbers of `x`.
fn apply(x: &FlexTensor, shape: [usize; 2], fill: impl FnOnce(&[f32], &mut [MaybeUninit<f32>])) -> FlexTensor {
    let (x, shape) = (x.to_contiguous(), Shape::from(shape));
    if shape.num_elements() == 0 {
        return FlexTensor::zeros(shape, DType::F32);
    }
    let mut out = Output::new(shape);
    fill(x.storage::<f32>(), out.slots());
    // SAFETY: `forward` and `backward`, which `fill` calls, write the whole matrix.
    unsafe { out.finish() }
}

/// The numbers of a frozen matrix `[out, in]`, row-major where dense.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Dense(&'a [f32], [usize; 2]),
    Packed(&'a Packed),
}

/// Numbers of a tile: 256 KiB, small enough for the second-level cache.
const TILE: usize = 65_536;
/// Columns of a tile at most.
const TILE_WIDTH: usize = 1024;
/// Columns of the gradient a task computes, about.
const STRIP: usize = 96;
/// Rows of `x` a task takes at most.
const ROWS: usize = 256;
/// Up to so many rows of `x` are multiplied without `gemm`, whose preparations would take most of the time.
const FEW: usize = 4;
/// Rows of the matrix a task takes then.
const DOTS: usize = 32;

thread_local! {
    /// The tile a task works on. No task waits for another while it holds this.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Source<'a> {
    /// A contiguous tensor.
    pub(crate) fn dense(matrix: &'a FlexTensor) -> Self {
        Self::Dense(matrix.storage::<f32>(), dims(matrix))
    }

    pub(crate) fn dims(self) -> [usize; 2] {
        match self {
            Self::Dense(_, dims) => dims,
            Self::Packed(matrix) => matrix.dims,
        }
    }

    /// Columns that can only be unpacked together.
    fn block(self) -> usize {
        match self {
            Self::Dense(..) => 1,
            Self::Packed(matrix) => matrix.format.block(),
        }
    }

    /// Calls `f` with the numbers of a tile and the distance of its rows.
    fn tile(self, rows: Range<usize>, columns: Range<usize>, f: impl FnOnce(&[f32], usize)) {
        match self {
            Self::Dense(numbers, [_, width]) => f(&numbers[rows.start * width + columns.start..], width),
            Self::Packed(matrix) => SCRATCH.with_borrow_mut(|scratch| {
                scratch.resize(scratch.len().max(rows.len() * columns.len()), 0.0);
                let width = columns.len();
                matrix.unpack(rows, columns, scratch);
                f(scratch, width);
            }),
        }
    }
}

/// The parts of `0..end` that are `step` long, the last perhaps shorter.
fn parts(end: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..end).step_by(step).map(move |start| start..end.min(start + step))
}

/// Every pair of a part of `x`'s rows and of the matrix's rows or columns: the tasks.
fn grid(rows: usize, end: usize, step: usize) -> Vec<(Range<usize>, Range<usize>)> {
    parts(end, step).flat_map(|part| parts(rows, ROWS).map(move |rows| (rows, part.clone()))).collect()
}

/// Writes `x·Wᵀ`, `[rows, out]`, to all of `out`; nothing may be empty.
pub(crate) fn forward(matrix: Source<'_>, x: &[f32], out: &mut [MaybeUninit<f32>]) {
    let [outputs, width] = matrix.dims();
    let rows = x.len() / width;
    assert_eq!([x.len(), out.len()], [rows * width, rows * outputs], "sizes of a product");
    let out = Shared::new(out);
    let level = Level::best();
    if let Source::Packed(packed) = matrix
        && rows <= FEW
    {
        let stride = packed.stride();
        parts(outputs, DOTS).collect::<Vec<_>>().into_par_iter().for_each(|part| {
            let mut sums = [0.0; DOTS * FEW];
            let sums = &mut sums[..part.len() * rows];
            dots(level, packed.format, &packed.bytes[part.start * stride..part.end * stride], width, x, sums);
            flush(level, sums);
            for (i, sum) in sums.iter().enumerate() {
                // SAFETY: these columns belong to this task alone and lie within the output.
                unsafe { out.at(i % rows * outputs + part.start + i / rows).write(*sum) };
            }
        });
        return;
    }
    let tile = (TILE / width.min(TILE_WIDTH)).next_multiple_of(16);
    grid(rows, outputs, tile).into_par_iter().for_each(|(rows, part)| {
        let start = rows.start * outputs + part.start;
        for columns in parts(width, TILE_WIDTH) {
            matrix.tile(part.clone(), columns.clone(), |numbers, stride| {
                let x = &x[rows.start * width + columns.start..];
                let sizes = [rows.len(), part.len(), columns.len()];
                // SAFETY: the rows and columns of this task belong to it alone and lie within the output; the first columns write
                // them, later ones add.
                unsafe {
                    let at = (out.at(start), [outputs, 1]);
                    product_into(sizes, 1.0, (x, [width, 1]), (numbers, [1, stride]), at, columns.start > 0);
                }
            });
        }
        // SAFETY: as above, and all is written.
        unsafe { flush_part(level, out, start, outputs, rows.len(), part.len()) };
    });
}

/// Writes `gradient·W`, `[rows, in]`, to all of `out`; nothing may be empty.
///
/// A task adds up all rows of the matrix in order for some columns, so that nothing depends on the number of threads.
pub(crate) fn backward(matrix: Source<'_>, gradient: &[f32], out: &mut [MaybeUninit<f32>]) {
    let [outputs, width] = matrix.dims();
    let rows = gradient.len() / outputs;
    assert_eq!([gradient.len(), out.len()], [rows * outputs, rows * width], "sizes of a product");
    let out = Shared::new(out);
    let level = Level::best();
    let strip = STRIP.next_multiple_of(matrix.block());
    grid(rows, width, strip).into_par_iter().for_each(|(rows, part)| {
        let start = rows.start * width + part.start;
        for inner in parts(outputs, TILE / strip) {
            matrix.tile(inner.clone(), part.clone(), |numbers, stride| {
                let gradient = &gradient[rows.start * outputs + inner.start..];
                let sizes = [rows.len(), part.len(), inner.len()];
                // SAFETY: as in `forward`.
                unsafe {
                    let at = (out.at(start), [width, 1]);
                    product_into(sizes, 1.0, (gradient, [outputs, 1]), (numbers, [stride, 1]), at, inner.start > 0);
                }
            });
        }
        // SAFETY: as in `forward`.
        unsafe { flush_part(level, out, start, width, rows.len(), part.len()) };
    });
}

/// Replaces subnormal numbers by zero in `rows` rows of `columns` numbers.
///
/// # Safety
/// These must be written, lie within the output and belong to the caller alone.
unsafe fn flush_part(level: Level, out: Shared, start: usize, stride: usize, rows: usize, columns: usize) {
    for row in 0..rows {
        // SAFETY: by the caller's promise.
        flush(level, unsafe { std::slice::from_raw_parts_mut(out.at(start + row * stride), columns) });
    }
}
