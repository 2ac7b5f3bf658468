//! Products of whole matrices: the right side is packed into panels of a few columns, of which small blocks of rows are computed in
//! registers.
//!
//! What a library call does not offer, and these kernels need: a sum of several products in one pass (a weight and a low-rank
//! update, or the gradients of several matrices over one input), what follows a product (bias, subnormal numbers made zero)
//! done while a block is in the first-level cache, right sides that are unpacked or turned on the way, and bf16.

mod pack;
mod tile;

use crate::memory::Shared;
use crate::packed::Packed;
use crate::simd::Level;
pub(crate) use pack::to_bf16;
use pack::{pack, pairs, rounded};
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use tile::{MOST_ROWS, Packing, block_of, width};

/// Numbers packed at a time: 4 MiB, which the last-level cache holds.
const PACKED: usize = 1 << 20;
/// Rows of the right side packed at a time; a multiple of every block of the packed formats. A panel of them fits the second-level cache.
const INNER: usize = 2048;
/// Numbers of the left side a task reads, about: half a second-level cache.
const LEFT: usize = 1 << 17;

/// A matrix in a slice: its numbers and its row and column strides.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) strides: [usize; 2],
}

/// The right side of a product, `[inner, columns]`.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Its numbers, and from one row to the next.
    Rows(&'a [f32], usize),
    /// The numbers of its transpose `[columns, inner]`, and from one row of that to the next.
    Turned(&'a [f32], usize),
    /// A packed matrix.
    Packed(&'a Packed),
    /// The transpose of a packed matrix.
    PackedTurned(&'a Packed),
}

/// One product of a sum, `factor·left·right`.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) right: Right<'a>,
    /// Columns of the left side and rows of the right.
    pub(crate) inner: usize,
    pub(crate) factor: f32,
}

impl<'a> Term<'a> {
    /// The bf16 matrix that the left side is rounded to bf16 for.
    fn rounds(&self) -> Option<&'a Packed> {
        match self.right {
            Right::Packed(matrix) | Right::PackedTurned(matrix) if matrix.rounds() => Some(matrix),
            _ => None,
        }
    }

    /// The matrix whose bf16 numbers are multiplied as they are.
    fn bf16(&self, level: Level) -> Option<&'a Packed> {
        self.rounds().filter(|_| level.has_bf16())
    }

    /// Panics where a side is too short for such a result, which must have numbers.
    fn check(&self, [rows, columns]: [usize; 2]) {
        let (inner, [down, along]) = (self.inner, self.left.strides);
        if inner == 0 {
            return;
        }
        assert!((rows - 1) * down + (inner - 1) * along < self.left.numbers.len(), "the left side is too short");
        match self.right {
            Right::Rows(numbers, stride) => assert!((inner - 1) * stride + columns <= numbers.len()),
            Right::Turned(numbers, stride) => assert!((columns - 1) * stride + inner <= numbers.len()),
            Right::Packed(matrix) => assert_eq!(matrix.dims(), [inner, columns]),
            Right::PackedTurned(matrix) => assert_eq!(matrix.dims(), [columns, inner]),
        }
    }

    /// Whether the right side is read where it lies: so few rows are not worth a copy.
    fn lies(&self, rows: usize, columns: usize, width: usize) -> bool {
        let whole = columns.is_multiple_of(width) && self.factor == 1.0 && self.inner > 0;
        matches!(self.right, Right::Rows(..)) && rows <= 2 * MOST_ROWS && whole
    }
}

/// What is added to a product.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// A number for each column.
    Columns(&'a [f32]),
    /// A number for each row.
    Rows(&'a [f32]),
    /// What the output holds; the sums start from it. The others are added to the whole sums.
    Output,
}

/// Where a result goes: the numbers of all of it, and its row and column strides.
pub(crate) struct Place<'a> {
    pub(crate) slots: &'a mut [MaybeUninit<f32>],
    pub(crate) strides: [usize; 2],
}

/// Writes the sum of `start` and the terms, `[rows, columns]`, subnormal numbers made zero. Where the start is the output itself it must be
/// written.
///
/// A number of the result is added up in one order whatever the number of threads.
pub(crate) fn multiply(
    level: Level,
    [rows, columns]: [usize; 2],
    terms: &[Term<'_>],
    start: Start<'_>,
    out: Place<'_>,
) {
    let empty = rows * columns == 0;
    let Place { slots, strides: [down, across] } = out;
    assert!(empty || (rows - 1) * down + (columns - 1) * across < slots.len(), "the output is too short");
    for term in terms.iter().filter(|_| !empty) {
        term.check([rows, columns]);
    }
    if empty {
        return;
    }
    // Results are those of bf16 products where the processor has none.
    let copies: Vec<Option<Vec<f32>>> = terms
        .iter()
        .map(|term| (term.rounds().is_some() && !level.has_bf16()).then(|| rounded(level, term, rows)))
        .collect();
    let terms: Vec<Term<'_>> = terms
        .iter()
        .zip(&copies)
        .map(|(&term, copy)| match copy {
            Some(numbers) => Term { left: Left { numbers, strides: [term.inner, 1] }, ..term },
            None => term,
        })
        .collect();
    let width = width(level, columns);
    // All terms are packed for some columns, and some of their rows where that is too much.
    let inner: usize = terms.iter().filter(|term| !term.lies(rows, columns, width)).map(|term| term.inner).sum();
    let pairs: Vec<Vec<u32>> =
        terms.iter().map(|term| term.bf16(level).map_or(vec![], |_| pairs(level, term, rows))).collect();
    let unit = terms.iter().map(|term| term.right.block()).fold(width, usize::max);
    let steps = terms.iter().map(|term| term.inner.div_ceil(INNER)).max().unwrap_or(0).max(1);
    let deep = inner.div_ceil(steps).max(1);
    let strip = (PACKED / deep / unit).max(1) * unit;
    let out = Shared::new(slots);
    let mut buffer: Vec<f32> = Vec::new();
    for from in (0..columns).step_by(strip) {
        for step in 0..steps {
            let strip = Strip {
                rows,
                columns: from..columns.min(from + strip),
                width,
                unit,
                parts: terms
                    .iter()
                    .zip(&pairs)
                    .map(|(term, pairs)| Part {
                        term,
                        inner: (step * INNER).min(term.inner)..((step + 1) * INNER).min(term.inner),
                        pairs,
                        lies: term.lies(rows, columns, width),
                        bf16: term.bf16(level),
                    })
                    .collect(),
                start,
                first: step == 0,
                last: step + 1 == steps,
            };
            strip.multiply(level, &mut buffer, out, [down, across]);
        }
    }
}

/// [`multiply`] of one dense term on the thread that asks, a panel at a time.
///
/// # Safety
/// The matrix at `out` must lie in memory no one else uses meanwhile, written before where it is the start.
pub(crate) unsafe fn multiply_here(
    level: Level,
    [rows, columns]: [usize; 2],
    term: &Term<'_>,
    start: Start<'_>,
    (out, [down, across]): (*mut f32, [usize; 2]),
) {
    term.check([rows, columns]);
    let (inner, width) = (term.inner, width(level, columns));
    HERE.with_borrow_mut(|panel| {
        panel.resize(panel.len().max(inner * width), 0.0);
        for from in (0..columns).step_by(width) {
            let count = width.min(columns - from);
            let part = Part { term, inner: 0..inner, lies: false, bf16: None, pairs: &[] };
            let room = &mut panel[..inner * width];
            // SAFETY: numbers are as good as room for numbers, and `pack` writes nothing else.
            let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) };
            pack(level, &part, from..from + count, [width, inner, 0], room);
            let start = match start {
                Start::Columns(start) => Start::Columns(&start[from..from + count]),
                Start::Zero | Start::Rows(_) | Start::Output => start,
            };
            let packing = part.packing(0, panel, width);
            // SAFETY: the sizes of both sides were checked; the rest is the caller's promise.
            unsafe {
                let out = (out.add(from * across), [down, across]);
                block_of(level, width, &[packing], [rows, count], start, out, [true; 2]);
            }
        }
    });
}

/// Some of a term's inner indices.
struct Part<'a> {
    term: &'a Term<'a>,
    inner: Range<usize>,
    /// See [`Term::lies`].
    lies: bool,
    /// See [`Term::bf16`].
    bf16: Option<&'a Packed>,
    /// The left side as pairs of bf16 numbers, row after row, where they are multiplied.
    pairs: &'a [u32],
}

impl Part<'_> {
    /// Rows of its panels.
    fn deep(&self) -> usize {
        match (self.lies, self.bf16) {
            (true, _) => 0,
            (_, Some(_)) => self.inner.len().div_ceil(2),
            (_, None) => self.inner.len(),
        }
    }

    /// What the inner loop reads for the rows from `row` on, with a panel of `width` columns.
    fn packing(&self, row: usize, panel: &[f32], width: usize) -> Packing {
        let (term, inner) = (self.term, self.inner.len());
        let [down, along] = term.left.strides;
        if self.bf16.is_some() {
            let stride = term.inner.div_ceil(2);
            let left = self.pairs[(row * stride + self.inner.start / 2).min(self.pairs.len())..].as_ptr().cast();
            return Packing {
                left,
                strides: [stride, 1],
                panel: panel.as_ptr(),
                step: width,
                inner: self.deep(),
                pairs: true,
            };
        }
        let offset = if inner == 0 { 0 } else { row * down + self.inner.start * along };
        let left = term.left.numbers[offset..].as_ptr();
        Packing { left, strides: [down, along], panel: panel.as_ptr(), step: width, inner, pairs: false }
    }
}

/// Some columns of a product, over some of the inner indices.
struct Strip<'a> {
    rows: usize,
    columns: Range<usize>,
    /// Columns of a panel.
    width: usize,
    /// Columns that are packed together.
    unit: usize,
    parts: Vec<Part<'a>>,
    start: Start<'a>,
    /// Whether this begins the sums, and whether it completes them.
    first: bool,
    last: bool,
}

impl Strip<'_> {
    fn multiply(&self, level: Level, buffer: &mut Vec<f32>, out: Shared, [down, across]: [usize; 2]) {
        let Self { rows, ref columns, width, unit, ref parts, start, first, last } = *self;
        let deep: usize = parts.iter().map(Part::deep).sum();
        let panels = columns.len().div_ceil(width);
        buffer.clear();
        buffer.reserve(panels * width * deep);
        let slots = &mut buffer.spare_capacity_mut()[..panels * width * deep];
        // A chunk of nothing is no chunk.
        slots.par_chunks_mut((unit / width * width * deep).max(1)).enumerate().for_each(|(i, slots)| {
            let from = columns.start + i * unit;
            let mut offset = 0;
            for part in parts {
                pack(level, part, from..columns.end.min(from + unit), [width, deep, offset], slots);
                offset += part.deep() * width;
            }
        });
        // SAFETY: `pack` writes every slot of a term's part of its panels, and the parts cover all slots.
        unsafe { buffer.set_len(panels * width * deep) };
        let block = (LEFT / deep.max(1)).clamp(96, 1024).next_multiple_of(MOST_ROWS);
        let tasks = rows.div_ceil(block) * panels;
        let buffer = &buffer[..];
        (0..tasks).into_par_iter().for_each(|task| {
            let (part, panel) = (task / panels, task % panels);
            let taken = part * block..rows.min((part + 1) * block);
            let from = columns.start + panel * width;
            let count = width.min(columns.end - from);
            let mut at = panel * width * deep;
            let packings = parts.iter().map(|part| match part.term.right {
                Right::Rows(numbers, stride) if part.lies => {
                    let panel = &numbers[(part.inner.start * stride + from).min(numbers.len())..];
                    part.packing(taken.start, panel, stride)
                }
                _ => {
                    let packing = part.packing(taken.start, &buffer[at..], width);
                    at += part.deep() * width;
                    packing
                }
            });
            let packings: Vec<Packing> = packings.collect();
            let start = match start {
                Start::Columns(start) => Start::Columns(&start[from..from + count]),
                Start::Rows(start) => Start::Rows(&start[taken.clone()]),
                Start::Zero | Start::Output => start,
            };
            // SAFETY: the sizes of all sides were checked, and this block of the output belongs to this task alone; all steps but the
            // first find it written.
            unsafe {
                let at = out.at(taken.start * down + from * across);
                block_of(level, width, &packings, [taken.len(), count], start, (at, [down, across]), [first, last]);
            }
        });
    }
}

impl Right<'_> {
    /// Columns that can only be unpacked together.
    fn block(self) -> usize {
        match self {
            Right::Packed(matrix) => matrix.format().block(),
            _ => 1,
        }
    }
}

thread_local! {
    /// The panel of a product on one thread.
    static HERE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use burn::tensor::Device;

    /// Numbers between −1 and 1, the same for the same seed.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The product in f64, and the sum of the sizes of its summands.
    fn wanted(terms: &[Term<'_>], row: usize, column: usize, start: f32) -> [f64; 2] {
        let mut sums = [f64::from(start), f64::from(start.abs())];
        for term in terms {
            for i in 0..term.inner {
                let left = term.left.numbers[row * term.left.strides[0] + i * term.left.strides[1]];
                let right = match term.right {
                    Right::Rows(numbers, stride) => numbers[i * stride + column],
                    Right::Turned(numbers, stride) => numbers[column * stride + i],
                    Right::Packed(_) | Right::PackedTurned(_) => unreachable!("dense here"),
                };
                let product = f64::from(term.factor) * f64::from(left) * f64::from(right);
                sums = [sums[0] + product, sums[1] + product.abs()];
            }
        }
        sums
    }

    /// Every level, sizes around whole tiles and panels, both sides straight and turned, and both orders of the output.
    #[test]
    fn products_agree_with_f64() {
        for (seed, [rows, columns, inner, rank]) in
            [[1, 1, 1, 1], [13, 33, 7, 2], [12, 32, 64, 3], [100, 65, 31, 8], [3, 130, 2050, 0], [25, 16, 40, 5]]
                .into_iter()
                .enumerate()
        {
            let seed = 10 * seed as u32;
            let (a, b) = (numbers(rows * inner, seed), numbers(inner * columns, seed + 1));
            let (c, d) = (numbers(rows * rank, seed + 2), numbers(rank * columns, seed + 3));
            let (over_columns, over_rows) = (numbers(columns, seed + 4), numbers(rows, seed + 5));
            for level in Level::available() {
                for (turned, across) in [(false, 1), (true, 1), (true, rows)] {
                    let left = |numbers, inner| Left { numbers, strides: if turned { [1, rows] } else { [inner, 1] } };
                    let right = |numbers, inner| {
                        if turned { Right::Turned(numbers, inner) } else { Right::Rows(numbers, columns) }
                    };
                    let terms = [
                        Term { left: left(&a, inner), right: right(&b, inner), inner, factor: 1.0 },
                        Term { left: left(&c, rank), right: right(&d, rank), inner: rank, factor: 0.5 },
                    ];
                    for start in [Start::Zero, Start::Columns(&over_columns), Start::Rows(&over_rows), Start::Output] {
                        let mut out = vec![MaybeUninit::new(0.25f32); rows * columns];
                        let strides = if across == 1 { [columns, 1] } else { [1, rows] };
                        multiply(level, [rows, columns], &terms, start, Place { slots: &mut out, strides });
                        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                            // SAFETY: made from a number and then written.
                            let got = unsafe { out[row * strides[0] + column * strides[1]].assume_init() };
                            let first = match start {
                                Start::Zero => 0.0,
                                Start::Columns(start) => start[column],
                                Start::Rows(start) => start[row],
                                Start::Output => 0.25,
                            };
                            let [sum, size] = wanted(&terms, row, column, first);
                            let allowed = 1e-7 * (inner + rank + 2) as f64 * size;
                            assert!((f64::from(got) - sum).abs() <= allowed, "{level:?} {rows}×{columns}×{inner}");
                        }
                    }
                }
            }
        }
    }

    /// A tile's sums have the same order wherever rows and columns are cut.
    #[test]
    fn a_product_does_not_depend_on_its_neighbours() {
        let (rows, columns, inner) = (40, 70, 50);
        let (a, b) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
        for level in Level::available() {
            let run = |first: usize, count: usize| {
                let left = Left { numbers: &a[first * inner..], strides: [inner, 1] };
                let term = Term { left, right: Right::Rows(&b, columns), inner, factor: 1.0 };
                let mut out = vec![MaybeUninit::new(0.0f32); count * columns];
                let place = Place { slots: &mut out, strides: [columns, 1] };
                multiply(level, [count, columns], &[term], Start::Zero, place);
                // SAFETY: made from numbers and then written.
                out.into_iter().map(|x| unsafe { x.assume_init() }.to_bits()).collect::<Vec<_>>()
            };
            let (all, parts) = (run(0, rows), [run(0, 7), run(7, 33)].concat());
            assert_eq!(all, parts, "{level:?}");
        }
    }

    /// The products of what both sides are rounded to, added up in f32, at every level.
    #[test]
    fn bf16_products_are_those_of_the_rounded_numbers() {
        let round = |x: f32| f64::from(f32::from_bits(to_bf16(x) << 16));
        for [rows, outputs, inner] in [[1, 1, 1], [40, 33, 31], [37, 70, 64], [12, 32, 2051]] {
            let (x, w) = (numbers(rows * inner.max(outputs), 3), numbers(outputs * inner, 4));
            let bytes: Vec<u8> = w.iter().flat_map(|w| (to_bf16(*w) as u16).to_le_bytes()).collect();
            let plain = Packed::new(Format::Bf16, [outputs, inner], bytes.into(), &Device::flex()).unwrap();
            let matrix = Packed::rounded(&plain.dense()).unwrap();
            for level in Level::available() {
                for turned in [true, false] {
                    let (columns, inner) = if turned { (outputs, inner) } else { (inner, outputs) };
                    let right = if turned { Right::PackedTurned(&matrix) } else { Right::Packed(&matrix) };
                    let left = Left { numbers: &x[..rows * inner], strides: [inner, 1] };
                    let mut out = vec![MaybeUninit::new(f32::NAN); rows * columns];
                    let place = Place { slots: &mut out, strides: [columns, 1] };
                    multiply(level, [rows, columns], &[Term { left, right, inner, factor: 1.0 }], Start::Zero, place);
                    for (at, got) in out.iter().enumerate() {
                        let (row, column) = (at / columns, at % columns);
                        let [mut sum, mut size] = [0.0; 2];
                        for i in 0..inner {
                            let x = round(x[row * inner + i]);
                            let w = round(if turned { w[column * inner + i] } else { w[i * columns + column] });
                            sum += x * w;
                            size += (x * w).abs();
                        }
                        // SAFETY: made from a number and then written.
                        let got = f64::from(unsafe { got.assume_init() });
                        assert!((got - sum).abs() <= 1e-7 * (inner + 2) as f64 * size, "{level:?}: {got}, not {sum}");
                    }
                }
            }
        }
        assert_eq!([to_bf16(1.0), to_bf16(f32::INFINITY), to_bf16(-0.0)], [0x3F80, 0x7F80, 0x8000]);
        assert!(f32::from_bits(to_bf16(f32::NAN) << 16).is_nan());
    }

    #[test]
    fn no_result_is_subnormal() {
        let (rows, columns, inner) = (14, 40, 5);
        let (a, b) = (vec![1e-20f32; rows * inner], vec![1e-20f32; inner * columns]);
        for level in Level::available() {
            let left = Left { numbers: &a, strides: [inner, 1] };
            let term = Term { left, right: Right::Rows(&b, columns), inner, factor: 1.0 };
            let mut out = vec![MaybeUninit::new(f32::NAN); rows * columns];
            multiply(level, [rows, columns], &[term], Start::Zero, Place { slots: &mut out, strides: [columns, 1] });
            // SAFETY: made from a number and then written.
            assert!(out.iter().all(|x| unsafe { x.assume_init() } == 0.0));
        }
    }
}
