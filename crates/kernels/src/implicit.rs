//! Convolutions as products whose second factor, the patches, exists a panel at a time.
//!
//! One routine gives the forward pass and the gradient of the input, both walks over a grid of pixels.

use crate::conv::{Conv2d, Sizes};
use crate::elementwise::CHUNK;
use crate::memory::{Output, Shared};
use crate::product::product_into;
use crate::simd::{Level, normal, vectorised};
use crate::walk::{Walk, backward_walks, forward_walk};
use crate::{tile, winograd};
use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Inner indices of a panel, about: with the widest panel it fills half of a second-level cache of 1 MiB.
const INNER: usize = 384;
/// Pixels of a panel at most.
const PIXELS: usize = 256;
/// Numbers a copy may write beyond its end.
const SLACK: usize = 16;

/// The kernel as the first factor: where the number for an output row, an inner channel and a tap lies.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(crate) numbers: &'a [f32],
    /// Distances of rows, of inner channels and of groups.
    pub(crate) strides: [usize; 3],
    /// Rows and inner channels of a group.
    pub(crate) sizes: [usize; 2],
}

impl Factor<'_> {
    /// Blocks of `height` rows: `[groups][blocks][inner channel][tap][height]`, zeros below the last row.
    fn packed(&self, groups: usize, taps: &[([usize; 2], usize)], height: usize) -> Vec<f32> {
        let [rows, channels] = self.sizes;
        let [row_stride, channel_stride, group_stride] = self.strides;
        let (blocks, size) = (rows.div_ceil(height), channels * taps.len() * height);
        let mut packed = vec![0.0; groups * blocks * size];
        if size == 0 {
            return packed;
        }
        packed.par_chunks_mut(size).enumerate().for_each(|(block, out)| {
            let first = block % blocks * height;
            let base = block / blocks * group_stride + first * row_stride;
            let filled = height.min(rows - first);
            for (at, column) in out.chunks_exact_mut(height).enumerate() {
                let at = base + at / taps.len() * channel_stride + taps[at % taps.len()].1;
                for (row, out) in column[..filled].iter_mut().enumerate() {
                    *out = self.numbers[at + row * row_stride];
                }
            }
        });
        packed
    }
}

/// The convolution of `x` `[batch, channels, height, width]` with `weight` and `bias`.
pub(crate) fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    sizes: &Sizes,
    conv: &Conv2d,
) -> FlexTensor {
    let [x, weight, bias] = [x, weight, bias].map(FlexTensor::to_contiguous);
    let [height, width] = sizes.result;
    let mut out = Output::new(Shape::new([sizes.batch, sizes.outputs, height, width]));
    let (rows, channels) = (sizes.outputs / conv.groups, sizes.inputs / conv.groups);
    let taps = sizes.kernel[0] * sizes.kernel[1];
    let factor = Factor {
        numbers: weight.storage::<f32>(),
        strides: [channels * taps, taps, rows * channels * taps],
        sizes: [rows, channels],
    };
    let (walk, target) = (forward_walk(sizes, conv).flattened(), out.shared());
    // SAFETY: one walk over the whole result.
    unsafe {
        run(Level::best(), &walk, x.storage::<f32>(), factor, Some(bias.storage::<f32>()), sizes.batch, conv, target);
        out.finish()
    }
}

/// The gradient of `x` from that of the result.
pub(crate) fn input_gradient(gradient: &FlexTensor, weight: &FlexTensor, sizes: &Sizes, conv: &Conv2d) -> FlexTensor {
    let [gradient, weight] = [gradient, weight].map(FlexTensor::to_contiguous);
    let [height, width] = sizes.source;
    let mut out = Output::new(Shape::new([sizes.batch, sizes.inputs, height, width]));
    let (rows, channels) = (sizes.inputs / conv.groups, sizes.outputs / conv.groups);
    let taps = sizes.kernel[0] * sizes.kernel[1];
    let factor = Factor {
        numbers: weight.storage::<f32>(),
        strides: [taps, rows * taps, channels * rows * taps],
        sizes: [rows, channels],
    };
    let target = out.shared();
    for walk in backward_walks(sizes, conv) {
        // SAFETY: the walks of all remainders together cover the result, each place once.
        unsafe {
            run(Level::best(), &walk.flattened(), gradient.storage::<f32>(), factor, None, sizes.batch, conv, target)
        };
    }
    // SAFETY: as above.
    unsafe { out.finish() }
}

/// Runs one walk for every image, group and output row.
///
/// # Safety
/// `target` must hold `[batch, groups·rows]` planes of the walk's result; the pixels of the walk are written.
#[allow(clippy::too_many_arguments)]
unsafe fn run(
    level: Level,
    walk: &Walk,
    x: &[f32],
    factor: Factor<'_>,
    bias: Option<&[f32]>,
    batch: usize,
    conv: &Conv2d,
    target: Shared,
) {
    let ([rows, channels], [height, columns]) = (factor.sizes, tile::size(level));
    if winograd::fits(walk, &factor, batch) {
        // SAFETY: by the caller's promise; what is not finite is written again below.
        if unsafe { winograd::run(level, walk, x, factor, bias, [batch, conv.groups], target) } {
            return;
        }
    }
    let packed = factor.packed(conv.groups, &walk.taps, height);
    let blocks = rows.div_ceil(height);
    let pixels = batch * walk.grid[0] * walk.grid[1];
    let (step, parts) = share(pixels, conv.groups, blocks, columns);
    let per_part = blocks.div_ceil(parts);
    let tasks = pixels.div_ceil(step) * conv.groups * parts;
    let size = channels * walk.taps.len() * height;
    let planes = [conv.groups * channels, conv.groups * rows];
    (0..tasks).into_par_iter().for_each(|task| {
        let (part, rest) = (task % parts, task / parts);
        let (group, start) = (rest % conv.groups, rest / conv.groups * step);
        let here = (part * per_part).min(blocks)..((part + 1) * per_part).min(blocks);
        let rows = Rows {
            packed: &packed[(group * blocks + here.start) * size..(group * blocks + here.end) * size],
            outputs: group * rows + here.start * height..group * rows + rows.min(here.end * height),
            bias,
        };
        let plan = Plan::new(walk, start..(start + step).min(pixels), planes, channels, columns);
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: every task has pixels or rows of its own, within the result by the caller's promise.
            unsafe { plan.run(level, scratch, x, group * channels, rows, target) };
        });
    });
}

/// Rows of the first factor that a task multiplies.
struct Rows<'a> {
    /// Blocks as [`Factor::packed`] gives them.
    packed: &'a [f32],
    /// Their planes in the result.
    outputs: Range<usize>,
    bias: Option<&'a [f32]>,
}

/// Pixels of a task, and into how many parts the rows are split: as few rounds over all threads as can be, long panels before short ones.
/// No sum depends on it.
fn share(pixels: usize, groups: usize, blocks: usize, columns: usize) -> (usize, usize) {
    let threads = rayon::current_num_threads();
    let widths = (2..=PIXELS / columns).rev().map(|n| n * columns);
    let best = widths.min_by_key(|width| {
        let rounds = (pixels.div_ceil(*width) * groups).div_ceil(threads);
        rounds * (width + 24)
    });
    let width = best.unwrap_or(columns);
    let tasks = pixels.div_ceil(width) * groups;
    (width, if tasks >= threads { 1 } else { threads.div_ceil(tasks.max(1)).min(blocks.max(1)) })
}

thread_local! {
    /// Panel, padded rows and sums of the task at work. No task waits for another while it holds this.
    pub(crate) static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

#[derive(Default)]
pub(crate) struct Scratch {
    panel: Vec<f32>,
    rows: Vec<f32>,
    sums: Vec<f32>,
}

/// A vector of at least `size` numbers.
fn room(numbers: &mut Vec<f32>, size: usize) -> &mut [f32] {
    if numbers.len() < size {
        numbers.resize(size, 0.0);
    }
    &mut numbers[..size]
}

/// Neighbouring pixels that are copied together for every inner index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Place in the first row of the panel, and in the source.
    panel: usize,
    source: usize,
    length: usize,
}

/// Neighbouring pixels that are written together for every row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) column: usize,
    /// Place in the first plane of the result.
    pub(crate) result: usize,
    pub(crate) length: usize,
}

/// A row of the source in the padded copy.
#[derive(Clone, Copy, Debug)]
struct Line {
    copy: usize,
    source: usize,
}

/// What a task does for its pixels, the same for every channel.
pub(crate) struct Plan<'a> {
    walk: &'a Walk,
    segments: Vec<Segment>,
    pub(crate) runs: Vec<Run>,
    /// Rows to copy for each channel, unless the source is read in place.
    lines: Option<Vec<Line>>,
    /// Numbers of a padded row for each remainder of the column by the stride.
    pitch: usize,
    /// Numbers of the padded copy.
    copied: usize,
    /// Columns of a panel and distance of panels.
    tile: usize,
    panel: usize,
    /// Panels.
    panels: usize,
    /// Channels of a panel and of all.
    part: usize,
    channels: usize,
}

impl<'a> Plan<'a> {
    /// For neighbouring pixels of all images together; `planes` of the source and of the result make an image. `tile` columns make a panel,
    /// and `channels` are summed over.
    pub(crate) fn new(walk: &'a Walk, pixels: Range<usize>, planes: [usize; 2], channels: usize, tile: usize) -> Self {
        let taps = walk.taps.len();
        let parts = (channels * taps).div_ceil(INNER).clamp(1, channels.max(1));
        let part = channels.div_ceil(parts).max(1);
        let panel = part * taps * tile + SLACK;
        let [height, width] = walk.grid;
        let area = height * width;
        let [stride, column_stride] = walk.stride;
        let (reach, plain) = (walk.reach(), walk.is_plain());
        let pitch = (width - 1) + reach[1] / column_stride + 1;
        let line = pitch * column_stride;
        let image = planes[0] * walk.source[0] * walk.source[1];
        let [size, step, first] = walk.result;
        let result_image = planes[1] * size[0] * size[1];
        let (mut segments, mut runs, mut lines, mut copied) = (vec![], Vec::<Run>::new(), vec![], 0);
        let mut at = pixels.start;
        while at < pixels.end {
            let (n, from) = (at / area, at % area);
            let to = area.min(from + pixels.end - at);
            let (top, bottom) = (from / width, (to - 1) / width);
            let base = copied;
            if !plain {
                for row in top * stride..=bottom * stride + reach[0] {
                    let (y, copy) = (row as isize + walk.origin[0], base + (row - top * stride) * line);
                    if (0..walk.source[0] as isize).contains(&y) {
                        lines.push(Line { copy, source: n * image + y as usize * walk.source[1] });
                    }
                    copied = copy + line;
                }
            }
            for row in top..=bottom {
                let (mut x, end) = (from.max(row * width) - row * width, to.min((row + 1) * width) - row * width);
                let mut column = at - pixels.start + row * width + x - from;
                let result = n * result_image + (row * step[0] + first[0]) * size[1] + x * step[1] + first[1];
                match runs.last_mut() {
                    Some(last) if step[1] == 1 && last.result + last.length == result => last.length += end - x,
                    _ => runs.push(Run { column, result, length: end - x }),
                }
                let source = if plain {
                    let [y, x] = walk.origin.map(|at| at as usize);
                    n * image + (row * stride + y) * walk.source[1] + x
                } else {
                    base + (row - top) * stride * line
                };
                while x < end {
                    let length = (end - x).min(tile - column % tile);
                    let place = column / tile * panel + column % tile;
                    segments.push(Segment { panel: place, source: source + x, length });
                    (x, column) = (x + length, column + length);
                }
            }
            at += to - from;
        }
        let (lines, panels) = ((!plain).then_some(lines), pixels.len().div_ceil(tile));
        Self { walk, segments, runs, lines, pitch, copied, tile, panel, panels, part, channels }
    }

    /// Room for panels, padded rows and `sums` sums. The padding is zero.
    pub(crate) fn rooms<'s>(&self, scratch: &'s mut Scratch, sums: usize) -> [&'s mut [f32]; 3] {
        let rows = room(&mut scratch.rows, self.copied + SLACK);
        rows.fill(0.0);
        [room(&mut scratch.panel, self.panels * self.panel), rows, room(&mut scratch.sums, sums)]
    }

    /// The parts that the channels are summed in; one of none if there are no channels.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let (part, channels) = (self.part, self.channels);
        (0..channels.max(1)).step_by(part).map(move |start| start..channels.min(start + part))
    }

    /// Fills the panels with the patches of some channels of a source whose first channel is `base`.
    pub(crate) fn fill(
        &self,
        level: Level,
        x: &[f32],
        base: usize,
        channels: Range<usize>,
        panel: &mut [f32],
        rows: &mut [f32],
    ) {
        let [height, width] = self.walk.source;
        for (i, channel) in channels.enumerate() {
            let plane = (base + channel) * height * width;
            if let Some(lines) = &self.lines {
                self.pad(level, x, plane, lines, rows);
            }
            for (tap, ([dy, dx], _)) in self.walk.taps.iter().enumerate() {
                let row = (i * self.walk.taps.len() + tap) * self.tile;
                if self.lines.is_some() {
                    let stride = self.walk.stride[1];
                    let offset = (dy * stride + dx % stride) * self.pitch + dx / stride;
                    copy_wide(level, &rows[offset..], &self.segments, &mut panel[row..]);
                } else {
                    copy_exact(level, &x[plane + dy * width + dx..], &self.segments, &mut panel[row..]);
                }
            }
        }
    }

    /// Copies the rows of a plane between their padding, columns apart by their remainder by the stride.
    fn pad(&self, level: Level, x: &[f32], plane: usize, lines: &[Line], rows: &mut [f32]) {
        let (stride, width, origin) = (self.walk.stride[1], self.walk.source[1], self.walk.origin[1]);
        let (skip, before) = (origin.max(0) as usize, (-origin).max(0) as usize);
        let count = width.saturating_sub(skip).min((self.pitch * stride).saturating_sub(before));
        if count == 0 {
            return;
        }
        for line in lines {
            let (from, to) = (&x[plane + line.source + skip..][..count], &mut rows[line.copy..]);
            if stride == 1 {
                to[before..][..count].copy_from_slice(from);
                continue;
            }
            for remainder in 0..stride {
                // The first column of this remainder that is not padding.
                let start = (before + stride - 1 - remainder) / stride;
                let first = start * stride + remainder - before;
                every(level, from.get(first..).unwrap_or_default(), stride, &mut to[remainder * self.pitch + start..]);
            }
        }
    }

    /// All rows of this task for its pixels.
    ///
    /// # Safety
    /// `target` must hold the planes `outputs`, whose pixels here belong to the caller alone.
    unsafe fn run(&self, level: Level, scratch: &mut Scratch, x: &[f32], base: usize, rows: Rows<'_>, target: Shared) {
        let (taps, [height, _]) = (self.walk.taps.len(), tile::size(level));
        let columns = self.panels * self.tile;
        let blocks = rows.outputs.len().div_ceil(height);
        let size = height * columns;
        let kept = if self.part < self.channels { blocks } else { 1 };
        let [panel, copy, sums] = self.rooms(scratch, kept * size);
        let area: usize = self.walk.result[0].iter().product();
        for part in self.parts() {
            self.fill(level, x, base, part.clone(), panel, copy);
            let depth = part.len() * taps;
            for (block, first) in rows.outputs.clone().step_by(height).enumerate() {
                let sums = &mut sums[block % kept * size..][..size];
                let a = &rows.packed[(block * self.channels + part.start) * taps * height..][..depth * height];
                if depth == 0 {
                    sums.fill(0.0);
                } else {
                    for (b, at) in panel.chunks_exact(self.panel).zip((0..columns).step_by(self.tile)) {
                        tile::multiply(level, a, (b, self.tile), (&mut sums[at..], columns), part.start > 0);
                    }
                }
                if part.end < self.channels {
                    continue;
                }
                for (output, sums) in (first..rows.outputs.end.min(first + height)).zip(sums.chunks_exact(columns)) {
                    let bias = rows.bias.map_or(0.0, |bias| bias[output]);
                    for run in &self.runs {
                        let sums = &sums[run.column..][..run.length];
                        // SAFETY: the run lies within its plane and is this task's alone by the caller's promise.
                        unsafe { place(level, sums, bias, target, output * area + run.result, self.walk.result[1][1]) };
                    }
                }
            }
        }
    }
}

/// Writes sums and a bias, without subnormal numbers, to places `step` apart.
///
/// # Safety
/// They must lie within the target and belong to the caller alone.
pub(crate) unsafe fn place(level: Level, sums: &[f32], bias: f32, target: Shared, first: usize, step: usize) {
    if step == 1 {
        // SAFETY: by the caller's promise; slots may hold anything.
        let out = unsafe { std::slice::from_raw_parts_mut(target.at(first).cast::<MaybeUninit<f32>>(), sums.len()) };
        return shifted(level, sums, bias, out);
    }
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: by the caller's promise.
        unsafe { target.at(first + i * step).write(normal(sum + bias)) };
    }
}

vectorised! {
    /// `sums + bias` without subnormal numbers.
    fn shifted(sums: &[f32], bias: f32, out: &mut [MaybeUninit<f32>]) = shifted_body
}

#[inline(always)]
fn shifted_body<const FMA: bool>(sums: &[f32], bias: f32, out: &mut [MaybeUninit<f32>]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        out.write(normal(sum + bias));
    }
}

vectorised! {
    /// Copies every number that is a multiple of `stride` away from the first.
    fn every(from: &[f32], stride: usize, to: &mut [f32]) = every_body
}

#[inline(always)]
fn every_body<const FMA: bool>(from: &[f32], stride: usize, to: &mut [f32]) {
    if stride == 2 {
        let (pairs, rest) = from.as_chunks::<2>();
        let (whole, last) = to.split_at_mut(pairs.len());
        for (to, pair) in whole.iter_mut().zip(pairs) {
            *to = pair[0];
        }
        if let ([from], Some(to)) = (rest, last.first_mut()) {
            *to = *from;
        }
    } else {
        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
    }
}

vectorised! {
    /// Copies segments as whole vectors, beyond their ends too: a later segment or row overwrites that.
    fn copy_wide(source: &[f32], segments: &[Segment], panel: &mut [f32]) = copy_wide_body
}

#[inline(always)]
fn copy_wide_body<const FMA: bool>(source: &[f32], segments: &[Segment], panel: &mut [f32]) {
    for segment in segments {
        for at in (0..segment.length).step_by(SLACK) {
            let from: &[f32; SLACK] = source[segment.source + at..].first_chunk().expect("the copy ends with slack");
            *panel[segment.panel + at..].first_chunk_mut().expect("a panel ends with slack") = *from;
        }
    }
}

vectorised! {
    /// Copies segments, most of which are as wide as a tile.
    fn copy_exact(source: &[f32], segments: &[Segment], panel: &mut [f32]) = copy_exact_body
}

#[inline(always)]
fn copy_exact_body<const FMA: bool>(source: &[f32], segments: &[Segment], panel: &mut [f32]) {
    for segment in segments {
        let from = &source[segment.source..][..segment.length];
        let to = &mut panel[segment.panel..][..segment.length];
        match (<&[f32; 32]>::try_from(from), to.first_chunk_mut::<32>()) {
            (Ok(from), Some(to)) => *to = *from,
            _ => to.copy_from_slice(from),
        }
    }
}

/// Places of the result's sums in an image that make a product of their own at most.
const STRETCH: usize = 256;
/// Numbers that all partial sums of a kernel's gradient hold together, about.
const PARTIAL: usize = 1 << 22;

/// The gradient of the weight from that of the result.
///
/// Images are split into as many parts as the sizes alone say; each part's sum and the sum of parts have a fixed order.
pub(crate) fn weight_gradient(x: &FlexTensor, gradient: &FlexTensor, sizes: &Sizes, conv: &Conv2d) -> FlexTensor {
    let [x, gradient] = [x, gradient].map(FlexTensor::to_contiguous);
    let (numbers, gradient, level) = (x.storage::<f32>(), gradient.storage::<f32>(), Level::best());
    let (rows, channels) = (sizes.outputs / conv.groups, sizes.inputs / conv.groups);
    let walk = forward_walk(sizes, conv).flattened();
    let (taps, area) = (walk.taps.len(), walk.grid[0] * walk.grid[1]);
    let shape = Shape::new([sizes.outputs, channels, sizes.kernel[0], sizes.kernel[1]]);
    let (count, stretch) = (shape.num_elements(), area.clamp(1, STRETCH));
    if count == 0 || sizes.batch * area == 0 {
        return FlexTensor::zeros(shape, DType::F32);
    }
    let plan_for = |image: usize, start: usize| {
        let pixels = image * area + start..image * area + area.min(start + stretch);
        Plan::new(&walk, pixels, [sizes.inputs, sizes.outputs], channels, stretch)
    };
    let channel_parts: Vec<_> = plan_for(0, 0).parts().collect();
    let images = sizes.batch.min((PARTIAL / count).clamp(1, 64));
    let per_part = sizes.batch.div_ceil(images);
    let mut partial = Vec::with_capacity(images * count);
    let sums = Shared::new(&mut partial.spare_capacity_mut()[..images * count]);
    let tasks = images * conv.groups * channel_parts.len();
    (0..tasks).into_par_iter().for_each(|task| {
        let (part, rest) = (&channel_parts[task % channel_parts.len()], task / channel_parts.len());
        let (group, share) = (rest % conv.groups, rest / conv.groups);
        let [height, width] = [rows, part.len() * taps];
        let first = share * count + group * rows * channels * taps + part.start * taps;
        let mut add = false;
        SCRATCH.with_borrow_mut(|scratch| {
            for image in (share * per_part).min(sizes.batch)..((share + 1) * per_part).min(sizes.batch) {
                for start in (0..area).step_by(stretch) {
                    let plan = plan_for(image, start);
                    let [panel, copy, _] = plan.rooms(scratch, 0);
                    plan.fill(level, numbers, group * channels, part.clone(), panel, copy);
                    let at = (image * sizes.outputs + group * rows) * area + start;
                    let inner = stretch.min(area - start);
                    let product = [height, width, inner];
                    // SAFETY: these rows and columns of this share belong to this task alone; the first product writes them.
                    unsafe {
                        let out = (sums.at(first), [channels * taps, 1]);
                        product_into(
                            level,
                            product,
                            1.0,
                            (&gradient[at..], [area, 1]),
                            (panel, [1, stretch]),
                            out,
                            add,
                        );
                    }
                    add = true;
                }
            }
            for row in 0..if add { 0 } else { height } {
                for column in 0..width {
                    // SAFETY: as above, for a share without images.
                    unsafe { sums.at(first + row * channels * taps + column).write(0.0) };
                }
            }
        });
    });
    // SAFETY: the tasks wrote every share of every group and channel.
    unsafe { partial.set_len(images * count) };
    let mut out = Output::new(shape);
    out.slots().par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        for (i, out) in out.iter_mut().enumerate() {
            let sum: f64 = partial[chunk * CHUNK + i..].iter().step_by(count).map(|x| f64::from(*x)).sum();
            out.write(normal(sum as f32));
        }
    });
    // SAFETY: the chunks cover all slots.
    unsafe { out.finish() }
}
