//! Products of whole matrices: the right side is packed into panels of a few columns, of which small blocks of rows are computed in
//! registers.
//!
//! What a library call does not offer, and these kernels need: a sum of several products in one pass (a weight and a low-rank
//! update, or the gradients of several matrices over one input), what follows a product (bias, activation, subnormal numbers made zero)
//! done while a block is in the first-level cache, right sides that are unpacked or turned on the way, and bf16.

use crate::memory::Shared;
use crate::packed::Packed;
use crate::simd::{Kind, Level, vectorised};
use portable::portable;
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512, avx512_pairs};

/// Rows a block has at most, over all levels.
const MOST_ROWS: usize = 12;
/// Columns of a panel at most, over all levels.
const MOST_COLUMNS: usize = 32;
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
    /// The matrix whose bf16 numbers are multiplied as they are, with the left side rounded to bf16.
    fn bf16(&self, level: Level) -> Option<&'a Packed> {
        match self.right {
            Right::Packed(matrix) | Right::PackedTurned(matrix) if matrix.rounds() && level.has_bf16() => Some(matrix),
            _ => None,
        }
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

/// A term that is packed: what the inner loop reads.
#[derive(Clone, Copy)]
struct Packing {
    /// The left side's first number of the block of rows.
    left: *const f32,
    strides: [usize; 2],
    /// The panel's first number.
    panel: *const f32,
    /// Numbers from one inner index to the next.
    step: usize,
    inner: usize,
    /// Whether each number is a pair of bf16 numbers of two inner indices.
    pairs: bool,
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
    let width = width(level, columns);
    // All terms are packed for some columns, and some of their rows where that is too much.
    let inner: usize = terms.iter().filter(|term| !term.lies(rows, columns, width)).map(|term| term.inner).sum();
    let rounded: Vec<Vec<u32>> =
        terms.iter().map(|term| term.bf16(level).map_or(vec![], |_| round(level, term, rows))).collect();
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
                    .zip(&rounded)
                    .map(|(term, rounded)| Part {
                        term,
                        inner: (step * INNER).min(term.inner)..((step + 1) * INNER).min(term.inner),
                        rounded,
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
            let part = Part { term, inner: 0..inner, lies: false, bf16: None, rounded: &[] };
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
    rounded: &'a [u32],
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
            let left = self.rounded[(row * stride + self.inner.start / 2).min(self.rounded.len())..].as_ptr().cast();
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

/// The left side rounded to pairs of bf16 numbers, each row filled up to whole pairs.
fn round(level: Level, term: &Term<'_>, rows: usize) -> Vec<u32> {
    let (Left { numbers, strides: [down, along] }, inner) = (term.left, term.inner);
    assert_eq!(along, 1, "what is rounded lies row by row");
    let stride = inner.div_ceil(2);
    let mut rounded = vec![0; rows * stride];
    if stride > 0 {
        rounded.par_chunks_mut(stride).enumerate().for_each(|(row, out)| {
            round_row(level, &numbers[row * down..][..inner], out);
        });
    }
    rounded
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

/// A block of rows of one panel of `width` numbers for each inner index, of which `count` are columns of the result. It says whether this
/// begins the sums, and whether it completes them.
///
/// # Safety
/// The left sides must have `rows` rows, and the block at `out` must belong to the caller, and be written where sums are begun or it is
/// added.
#[allow(clippy::too_many_arguments)]
unsafe fn block_of(
    level: Level,
    width: usize,
    packings: &[Packing],
    [rows, count]: [usize; 2],
    start: Start<'_>,
    (out, [down, across]): (*mut f32, [usize; 2]),
    [first, last]: [bool; 2],
) {
    let most = most_rows(level);
    // A tile that is not one of whole rows in the output is computed here.
    let beside = count < width || across != 1;
    let mut edge = [0.0; MOST_ROWS * MOST_COLUMNS];
    // What is added at the end: one row for all, or the rows of a tile.
    let mut ends = [0.0; MOST_ROWS * MOST_COLUMNS];
    if let Start::Columns(start) = start {
        ends[..count].copy_from_slice(start);
    }
    let zeros = [0.0; MOST_COLUMNS];
    let mut moved: Vec<Packing> = packings.to_vec();
    for row in (0..rows).step_by(most) {
        let taken = most.min(rows - row);
        for (moved, packing) in moved.iter_mut().zip(packings) {
            // Nothing is read of an empty part.
            moved.left = packing.left.wrapping_add(row * packing.strides[0]);
        }
        let end = match start {
            Start::Rows(start) => {
                for (ends, start) in ends.chunks_exact_mut(MOST_COLUMNS).zip(&start[row..row + taken]) {
                    ends.fill(*start);
                }
                (ends.as_ptr(), MOST_COLUMNS)
            }
            Start::Zero | Start::Columns(_) | Start::Output => (ends.as_ptr(), 0),
        };
        // SAFETY: by the caller's promise; `edge` has room for all rows and whole vectors.
        unsafe {
            let place = out.add(row * down);
            let (to, stride) = if beside { (edge.as_mut_ptr(), MOST_COLUMNS) } else { (place, down) };
            let mut from = (to.cast_const(), stride);
            if first && !matches!(start, Start::Output) {
                from = (zeros.as_ptr(), 0);
            } else if beside {
                for i in 0..taken {
                    for j in 0..count {
                        to.add(i * stride + j).write(place.add(i * down + j * across).read());
                    }
                }
            }
            // What is left of the terms starts from the sums of the pairs.
            let (pairs, others) = moved.split_at(moved.iter().take_while(|packing| packing.pairs).count());
            if !pairs.is_empty() {
                tile(level, width, taken, pairs, from, (to, stride), (last && others.is_empty()).then_some(end));
                from = (to.cast_const(), stride);
            }
            if pairs.is_empty() || !others.is_empty() {
                tile(level, width, taken, others, from, (to, stride), last.then_some(end));
            }
            if beside {
                for (i, edge) in edge.chunks_exact(MOST_COLUMNS).take(taken).enumerate() {
                    let place = place.add(i * down);
                    if across == 1 {
                        place.copy_from_nonoverlapping(edge.as_ptr(), count);
                    } else {
                        for (j, number) in edge[..count].iter().enumerate() {
                            place.add(j * across).write(*number);
                        }
                    }
                }
            }
        }
    }
}

/// Rows of a block at a level.
fn most_rows(level: Level) -> usize {
    match level.kind() {
        Kind::Portable => PORTABLE_ROWS,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => 6,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => 12,
    }
}

/// Rows of a block at the portable level: AArch64 has 32 vector registers, the base set of x86-64 sixteen.
const PORTABLE_ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 3 };

/// The sums of a block of `rows` rows and `width` columns.
///
/// # Safety
/// As of the functions that [`tiles!`] defines.
unsafe fn tile(
    level: Level,
    width: usize,
    rows: usize,
    packings: &[Packing],
    start: (*const f32, usize),
    out: (*mut f32, usize),
    end: Option<(*const f32, usize)>,
) {
    macro_rules! by_rows {
        ($tile:ident, $lanes:literal, $($rows:literal)*) => {
            match (rows, width > $lanes) {
                // SAFETY: by the caller's promise.
                $(($rows, false) => unsafe { $tile::<$rows, 1>(packings, start, out, end) },)*
                // SAFETY: as above.
                $(($rows, true) => unsafe { $tile::<$rows, 2>(packings, start, out, end) },)*
                _ => unreachable!("blocks have no more rows"),
            }
        };
    }
    match level.kind() {
        Kind::Portable => by_rows!(portable, 8, 1 2 3 4 5 6),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => by_rows!(avx2, 8, 1 2 3 4 5 6),
        // Pairs are made at this level alone, where `Level::has_bf16` holds.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if packings.iter().any(|packing| packing.pairs) => {
            by_rows!(avx512_pairs, 16, 1 2 3 4 5 6 7 8 9 10 11 12)
        }
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => by_rows!(avx512, 16, 1 2 3 4 5 6 7 8 9 10 11 12),
    }
}

/// Columns of a panel where the right side has so many.
pub(crate) fn width(level: Level, columns: usize) -> usize {
    let lanes = match level.kind() {
        Kind::Portable => 8,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => 8,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => 16,
    };
    if columns <= lanes { lanes } else { 2 * lanes }
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

/// Defines a function that computes `ROWS` rows of `VECTORS` vectors in registers.
macro_rules! tiles {
    (
        $(#[$meta:meta])* $name:ident, $vector:ty, $lanes:literal,
        zero $zero:expr, load $load:expr, splat $splat:expr, fma $fma:expr, add $add:expr, normal $normal:expr, store $store:expr
    ) => {
        /// The sums of a tile, begun at `start` and, where there is an `end`, completed with it: each is a place and the distance of rows.
        ///
        /// # Safety
        /// All places must hold `ROWS` rows of whole vectors, and the processor must have the instructions.
        $(#[$meta])*
        pub(super) unsafe fn $name<const ROWS: usize, const VECTORS: usize>(
            packings: &[Packing],
            (start, start_stride): (*const f32, usize),
            (out, stride): (*mut f32, usize),
            end: Option<(*const f32, usize)>,
        ) {
            // SAFETY: by the caller's promise.
            unsafe {
                let mut sums: [[$vector; VECTORS]; ROWS] = [[$zero; VECTORS]; ROWS];
                for i in 0..ROWS {
                    for j in 0..VECTORS {
                        sums[i][j] = $load(start.add(i * start_stride + j * $lanes));
                    }
                }
                for packing in packings {
                    let [row, step] = packing.strides;
                    // Every fourth row has a pointer; the others lie one, two or three distances further on.
                    let mut left = [packing.left; 3];
                    for (i, left) in left.iter_mut().enumerate() {
                        *left = left.wrapping_add(4 * i * row);
                    }
                    let mut panel = packing.panel;
                    for _ in 0..packing.inner {
                        let mut right = [$zero; VECTORS];
                        for j in 0..VECTORS {
                            right[j] = $load(panel.add(j * $lanes));
                        }
                        for i in 0..ROWS {
                            let number = $splat(left[i / 4].wrapping_add(i % 4 * row));
                            for j in 0..VECTORS {
                                sums[i][j] = $fma(number, right[j], sums[i][j]);
                            }
                        }
                        panel = panel.wrapping_add(packing.step);
                        left = left.map(|left| left.wrapping_add(step));
                    }
                }
                for i in 0..ROWS {
                    for j in 0..VECTORS {
                        let sum = match end {
                            Some((end, end_stride)) => {
                                $normal($add(sums[i][j], $load(end.add(i * end_stride + j * $lanes))))
                            }
                            None => sums[i][j],
                        };
                        $store(out.add(i * stride + j * $lanes), sum);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Packing;
    use std::arch::x86_64::*;

    tiles! {
        #[target_feature(enable = "avx512f,avx512dq")]
        avx512, __m512, 16,
        zero _mm512_setzero_ps(),
        load |at| _mm512_loadu_ps(at),
        splat |at: *const f32| _mm512_set1_ps(*at),
        fma |a, b, c| _mm512_fmadd_ps(a, b, c),
        add |a, b| _mm512_add_ps(a, b),
        normal |x| {
            let large = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(f32::MIN_POSITIVE));
            _mm512_maskz_mov_ps(large, x)
        },
        store |at, x| _mm512_storeu_ps(at, x)
    }

    tiles! {
        #[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
        avx512_pairs, __m512, 16,
        zero _mm512_setzero_ps(),
        load |at| _mm512_loadu_ps(at),
        splat |at: *const f32| _mm512_set1_ps(*at),
        fma |a, b, c| _mm512_dpbf16_ps(c, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)),
        add |a, b| _mm512_add_ps(a, b),
        normal |x| {
            let large = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(f32::MIN_POSITIVE));
            _mm512_maskz_mov_ps(large, x)
        },
        store |at, x| _mm512_storeu_ps(at, x)
    }

    /// Turns squares of eight: `out[j·width + i] = factor·numbers[i·stride + j]` for `i` below `count` and `j` below `inner`, which must be
    /// multiples of eight. Without a factor the bits are left alone.
    ///
    /// # Safety
    /// All these places must exist, and the processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn turn(
        numbers: *const f32,
        stride: usize,
        [count, inner]: [usize; 2],
        factor: Option<f32>,
        out: *mut f32,
        width: usize,
    ) {
        let scale = _mm256_set1_ps(factor.unwrap_or(1.0));
        for j in (0..inner).step_by(8) {
            for i in (0..count).step_by(8) {
                // SAFETY: by the caller's promise.
                unsafe {
                    let row = |k: usize| {
                        let row = _mm256_loadu_ps(numbers.add((i + k) * stride + j));
                        if factor.is_some() { _mm256_mul_ps(scale, row) } else { row }
                    };
                    let pairs = |k| {
                        let (a, b) = (row(k), row(k + 1));
                        [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)]
                    };
                    let fours = |k| {
                        let ([a, b], [c, d]) = (pairs(k), pairs(k + 2));
                        [
                            _mm256_shuffle_ps::<0x44>(a, c),
                            _mm256_shuffle_ps::<0xEE>(a, c),
                            _mm256_shuffle_ps::<0x44>(b, d),
                            _mm256_shuffle_ps::<0xEE>(b, d),
                        ]
                    };
                    let (upper, lower) = (fours(0), fours(4));
                    for k in 0..4 {
                        let at = |row: usize| out.add((j + row) * width + i);
                        _mm256_storeu_ps(at(k), _mm256_permute2f128_ps::<0x20>(upper[k], lower[k]));
                        _mm256_storeu_ps(at(k + 4), _mm256_permute2f128_ps::<0x31>(upper[k], lower[k]));
                    }
                }
            }
        }
    }

    tiles! {
        #[target_feature(enable = "avx2,fma")]
        avx2, __m256, 8,
        zero _mm256_setzero_ps(),
        load |at| _mm256_loadu_ps(at),
        splat |at: *const f32| _mm256_set1_ps(*at),
        fma |a, b, c| _mm256_fmadd_ps(a, b, c),
        add |a, b| _mm256_add_ps(a, b),
        normal |x| {
            let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(size, _mm256_set1_ps(f32::MIN_POSITIVE)), x)
        },
        store |at, x| _mm256_storeu_ps(at, x)
    }
}

mod portable {
    use super::Packing;
    use crate::simd::{PORTABLE_FMA, mul_add, normal};

    tiles! {
        portable, [f32; 8], 8,
        zero [0.0; 8],
        load |at: *const f32| at.cast::<[f32; 8]>().read(),
        splat |at: *const f32| *at,
        fma |a: f32, b: [f32; 8], c: [f32; 8]| {
            let mut sum = c;
            for (sum, b) in sum.iter_mut().zip(b) {
                *sum = mul_add::<PORTABLE_FMA>(a, b, *sum);
            }
            sum
        },
        add |a: [f32; 8], b: [f32; 8]| std::array::from_fn(|i| a[i] + b[i]),
        normal |x: [f32; 8]| x.map(normal),
        store |at: *mut f32, x| at.cast::<[f32; 8]>().write(x)
    }
}

thread_local! {
    /// What a task has unpacked. No task waits for another while it holds this.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// The panel of a product on one thread.
    static HERE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Writes some columns of a term's right side as panels `[deep, width]`, with zeros beyond the columns. The parts of all terms that
/// make up a panel are `deep` rows together; this one starts `offset` numbers after the panel.
fn pack(
    level: Level,
    part: &Part<'_>,
    columns: Range<usize>,
    [width, deep, offset]: [usize; 3],
    out: &mut [MaybeUninit<f32>],
) {
    let (inner, factor) = (&part.inner, part.term.factor);
    let own = part.deep() * width;
    if own == 0 {
        return;
    }
    // Each panel: its first column from here, how many there are, and the part of it that is this term's.
    let panels = out.chunks_exact_mut(width * deep).enumerate().map(|(i, out)| {
        let from = i * width;
        (from, width.min(columns.len() - from), &mut out[offset..][..own])
    });
    if let Some(matrix) = part.bf16 {
        for (from, count, out) in panels {
            let columns = columns.start + from..columns.start + from + count;
            if matches!(part.term.right, Right::PackedTurned(_)) {
                pair_turned(level, matrix, inner.clone(), columns, width, out);
            } else {
                pair_rows(level, matrix, inner.clone(), columns, width, out);
            }
        }
        return;
    }
    let fill = |numbers: &[f32], stride: usize, turned: bool| {
        for (from, count, out) in panels {
            if turned {
                pack_turned(level, &numbers[from * stride..], stride, [count, inner.len()], Some(factor), width, out);
            } else {
                pack_rows(level, &numbers[from..], stride, count, factor, width, out);
            }
        }
    };
    match part.term.right {
        Right::Rows(numbers, stride) => fill(&numbers[inner.start * stride + columns.start..], stride, false),
        Right::Turned(numbers, stride) => fill(&numbers[columns.start * stride + inner.start..], stride, true),
        Right::Packed(matrix) => {
            unpacked(matrix, inner.clone(), columns.clone(), |numbers| fill(numbers, columns.len(), false))
        }
        Right::PackedTurned(matrix) => {
            unpacked(matrix, columns.clone(), inner.clone(), |numbers| fill(numbers, inner.len(), true))
        }
    }
}

/// Calls `then` with the numbers of some rows and columns of a packed matrix.
fn unpacked(matrix: &Packed, rows: Range<usize>, columns: Range<usize>, then: impl FnOnce(&[f32])) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(scratch.len().max(rows.len() * columns.len()), 0.0);
        matrix.unpack(rows, columns, scratch);
        then(scratch);
    });
}

/// Writes pairs of the rows of a bf16 matrix `[inner, columns]` as a panel.
fn pair_rows(
    level: Level,
    matrix: &Packed,
    inner: Range<usize>,
    columns: Range<usize>,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let (numbers, [_, stride]) = (matrix.bf16(), matrix.dims());
    for (row, out) in inner.clone().step_by(2).zip(out.chunks_exact_mut(width)) {
        let row_at = |row: usize| &numbers[row * stride + columns.start..][..columns.len()];
        let (out, beyond) = out.split_at_mut(columns.len());
        // The last row may have no other.
        let other = if row + 1 < inner.end { row_at(row + 1) } else { &[] };
        pair(level, row_at(row), other, out);
        beyond.fill(MaybeUninit::new(0.0));
    }
}

/// Writes pairs of the columns of a bf16 matrix `[columns, inner]` as a panel.
fn pair_turned(
    level: Level,
    matrix: &Packed,
    inner: Range<usize>,
    columns: Range<usize>,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let (numbers, [_, stride]) = (matrix.bf16(), matrix.dims());
    SCRATCH.with_borrow_mut(|scratch| {
        let (pairs, count) = (inner.len().div_ceil(2), columns.len());
        scratch.resize(scratch.len().max(count * pairs), 0.0);
        for (row, out) in columns.zip(scratch.chunks_exact_mut(pairs)) {
            let row = &numbers[row * stride + inner.start..][..inner.len()];
            let (whole, rest) = row.as_chunks::<2>();
            for (out, [low, high]) in out.iter_mut().zip(whole) {
                *out = f32::from_bits(joined(*low, *high));
            }
            if let ([low], Some(out)) = (rest, out.last_mut()) {
                *out = f32::from_bits(joined(*low, [0; 2]));
            }
        }
        pack_turned(level, scratch, pairs, [count, pairs], None, width, out);
    });
}

vectorised! {
    /// Pairs of the numbers of two rows; a row that is not there is zeros.
    fn pair(low: &[[u8; 2]], high: &[[u8; 2]], out: &mut [MaybeUninit<f32>]) = pair_body
}
vectorised! {
    /// Rounds a row to bf16, in pairs; the last pair may lack its other number.
    fn round_row(numbers: &[f32], out: &mut [u32]) = round_row_body
}

#[inline(always)]
fn pair_body<const FMA: bool>(low: &[[u8; 2]], high: &[[u8; 2]], out: &mut [MaybeUninit<f32>]) {
    if high.is_empty() {
        for (out, low) in out.iter_mut().zip(low) {
            out.write(f32::from_bits(joined(*low, [0; 2])));
        }
    } else {
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            out.write(f32::from_bits(joined(*low, *high)));
        }
    }
}

/// Two bf16 numbers in one.
#[inline(always)]
fn joined([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    u32::from_le_bytes([a, b, c, d])
}

#[inline(always)]
fn round_row_body<const FMA: bool>(numbers: &[f32], out: &mut [u32]) {
    let (whole, rest) = numbers.as_chunks::<2>();
    for (out, [low, high]) in out.iter_mut().zip(whole) {
        *out = to_bf16(*low) | to_bf16(*high) << 16;
    }
    if let ([low], Some(out)) = (rest, out.last_mut()) {
        *out = to_bf16(*low);
    }
}

/// The nearest bf16 number, ties to even, as its bits; NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

vectorised! {
    /// Copies rows of `count` numbers, `stride` apart, times a factor.
    fn pack_rows(
        numbers: &[f32], stride: usize, count: usize, factor: f32, width: usize, out: &mut [MaybeUninit<f32>],
    ) = pack_rows_body
}
/// Copies columns of `count` rows, `stride` apart, of `inner` numbers each, times a factor. Without a factor the bits are left
/// alone: they may be pairs.
fn pack_turned(
    level: Level,
    numbers: &[f32],
    stride: usize,
    [count, inner]: [usize; 2],
    factor: Option<f32>,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let squares = match level.kind() {
        Kind::Portable => [0, 0],
        #[cfg(target_arch = "x86_64")]
        _ => [count / 8 * 8, inner / 8 * 8],
    };
    let [across, along] = squares;
    #[cfg(target_arch = "x86_64")]
    if across > 0 && along > 0 {
        assert!((across - 1) * stride + along <= numbers.len() && along * width <= out.len() && across <= width);
        // SAFETY: the sizes were checked, and these levels have AVX2.
        unsafe { x86::turn(numbers.as_ptr(), stride, squares, factor, out.as_mut_ptr().cast(), width) };
    }
    for (i, out) in out.chunks_exact_mut(width).enumerate().take(inner) {
        let done = if i < along { across } else { 0 };
        for (column, out) in out.iter_mut().enumerate().skip(done) {
            let number = if column < count { numbers[column * stride + i] } else { 0.0 };
            out.write(factor.map_or(number, |factor| factor * number));
        }
    }
}

#[inline(always)]
fn pack_rows_body<const FMA: bool>(
    numbers: &[f32],
    stride: usize,
    count: usize,
    factor: f32,
    width: usize,
    out: &mut [MaybeUninit<f32>],
) {
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let row = &numbers[i * stride..][..count];
        let (out, beyond) = out.split_at_mut(count);
        for (out, x) in out.iter_mut().zip(row) {
            out.write(factor * x);
        }
        for out in beyond {
            out.write(0.0);
        }
    }
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

    /// The products of what both sides are rounded to, added up in f32; where a processor has none, the left side stays as it is.
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
                            let x = x[row * inner + i];
                            let x = if level.has_bf16() { round(x) } else { f64::from(x) };
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
