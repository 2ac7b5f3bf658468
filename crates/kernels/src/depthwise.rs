//! Convolutions of each channel by itself: sums over the taps for a line of pixels at a time, no products of matrices.
//!
//! A plane is copied between zeros, its rows and columns apart by their remainder by the stride. Then all pixels of the plane, row after
//! row, read neighbouring numbers through a tap, and a whole plane is one line; what lies between rows is computed and left out.

use crate::conv::{Conv2d, Sizes};
use crate::implicit::{self, every};
use crate::memory::{Output, Shared};
use crate::simd::{Level, fold, mul_add, normal, total, vectorised};
use crate::walk::{Walk, backward_walks, forward_walk};
use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::cell::RefCell;

/// Pixels whose sums stay in registers.
const BLOCK: usize = 64;
/// Numbers of planes that a task takes, about.
const TASK: usize = 16_384;

thread_local! {
    /// The padded plane and the line of the task at work. No task waits for another while it holds this.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

/// The layout of a padded plane.
struct Frame<'a> {
    walk: &'a Walk,
    /// Distance of rows.
    pitch: usize,
    /// Numbers of the rows and columns with one pair of remainders.
    part: usize,
    /// Numbers of the line of pixels, and of the padded plane.
    line: usize,
    size: usize,
}

impl<'a> Frame<'a> {
    fn new(walk: &'a Walk) -> Self {
        let ([height, width], [dy, dx], [rows, columns]) = (walk.grid, walk.reach(), walk.stride);
        let pitch = width + dx / columns;
        let part = pitch * (height + dy / rows);
        let line = ((height - 1) * pitch + width).next_multiple_of(BLOCK);
        // The last tap's line may lead beyond its part.
        let size = part * rows * columns + line;
        Self { walk, pitch, part, line, size }
    }

    /// Where pixel (0, 0) reads through a tap.
    fn offset(&self, [y, x]: [usize; 2]) -> usize {
        let [rows, columns] = self.walk.stride;
        (y % rows * columns + x % columns) * self.part + y / rows * self.pitch + x / columns
    }

    /// Copies a plane into `room`, whose other numbers are zero.
    fn pad(&self, level: Level, plane: &[f32], room: &mut [f32]) {
        let ([height, width], [rows, columns]) = (self.walk.source, self.walk.stride);
        let [skip, before] = [1, -1].map(|sign| self.walk.origin.map(|at| (at * sign).max(0) as usize));
        let lines = self.part / self.pitch * rows;
        for (y, from) in plane.chunks_exact(width).enumerate().skip(skip[0]).take(height) {
            let y = y - skip[0] + before[0];
            if y >= lines {
                break;
            }
            for remainder in 0..columns {
                // The first column of this remainder that is not padding.
                let start = (before[1] + columns - 1 - remainder) / columns;
                let first = start * columns + remainder - before[1] + skip[1];
                let at = (y % rows * columns + remainder) * self.part + y / rows * self.pitch;
                let to = &mut room[at..][..self.pitch];
                let (to, from) = (to.get_mut(start..).unwrap_or_default(), from.get(first..).unwrap_or_default());
                if columns == 1 {
                    let count = to.len().min(from.len());
                    to[..count].copy_from_slice(&from[..count]);
                } else {
                    let count = to.len().min(from.len().div_ceil(columns));
                    every(level, &from[..from.len().min(count * columns)], columns, &mut to[..count]);
                }
            }
        }
    }
}

/// The convolution of each channel of `x` with its kernel.
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
    let (walk, target) = (forward_walk(sizes, conv), out.shared());
    let kernels = (weight.storage::<f32>(), sizes.kernel[0] * sizes.kernel[1]);
    // SAFETY: one walk over the whole result.
    unsafe {
        run(&walk, x.storage::<f32>(), kernels, Some(bias.storage::<f32>()), sizes, target);
        out.finish()
    }
}

/// The gradient of `x` from that of the result.
pub(crate) fn input_gradient(gradient: &FlexTensor, weight: &FlexTensor, sizes: &Sizes, conv: &Conv2d) -> FlexTensor {
    let [gradient, weight] = [gradient, weight].map(FlexTensor::to_contiguous);
    let [height, width] = sizes.source;
    let mut out = Output::new(Shape::new([sizes.batch, sizes.inputs, height, width]));
    let target = out.shared();
    let kernels = (weight.storage::<f32>(), sizes.kernel[0] * sizes.kernel[1]);
    for walk in backward_walks(sizes, conv) {
        // SAFETY: the walks of all remainders together cover the result, each place once.
        unsafe { run(&walk, gradient.storage::<f32>(), kernels, None, sizes, target) };
    }
    // SAFETY: as above.
    unsafe { out.finish() }
}

/// Runs one walk for every plane; `kernels` are so many numbers for each channel.
///
/// # Safety
/// `target` must hold the planes of the walk's result; its pixels are written.
unsafe fn run(
    walk: &Walk,
    x: &[f32],
    (kernels, size): (&[f32], usize),
    bias: Option<&[f32]>,
    sizes: &Sizes,
    target: Shared,
) {
    let (level, frame) = (Level::best(), Frame::new(walk));
    let [area, result] = [walk.source, walk.result[0]].map(|size| size[0] * size[1]);
    let planes = sizes.batch * sizes.inputs;
    let ([height, width], step) = (walk.grid, TASK.div_ceil(frame.line));
    (0..planes.div_ceil(step)).into_par_iter().for_each(|task| {
        SCRATCH.with_borrow_mut(|[room, line]| {
            room.clear();
            room.resize(frame.size, 0.0);
            line.resize(line.len().max(frame.line), 0.0);
            let line = &mut line[..frame.line];
            for plane in task * step..planes.min((task + 1) * step) {
                let channel = plane % sizes.inputs;
                let weight = |(at, index): &([usize; 2], usize)| (frame.offset(*at), kernels[channel * size + index]);
                let taps: Vec<(usize, f32)> = walk.taps.iter().map(weight).collect();
                frame.pad(level, &x[plane * area..][..area], room);
                sum_taps(level, room, &taps, bias.map_or(0.0, |bias| bias[channel]), line);
                let [_, step, first] = walk.result;
                for y in 0..height {
                    let at = plane * result + (y * step[0] + first[0]) * walk.result[0][1] + first[1];
                    let sums = &line[y * frame.pitch..][..width];
                    // SAFETY: the pixels are this plane's alone and lie within the result by the caller's promise.
                    unsafe { implicit::place(level, sums, 0.0, target, at, step[1]) };
                }
            }
        });
    });
}

vectorised! {
    /// `base` and the sum over taps of a number times the numbers from an offset, without subnormal numbers; whole blocks.
    fn sum_taps(source: &[f32], taps: &[(usize, f32)], base: f32, out: &mut [f32]) = sum_taps_body
}

#[inline(always)]
fn sum_taps_body<const FMA: bool>(source: &[f32], taps: &[(usize, f32)], base: f32, out: &mut [f32]) {
    for (block, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let mut sums = [base; BLOCK];
        for (offset, weight) in taps {
            let numbers: &[f32; BLOCK] =
                source[offset + block * BLOCK..].first_chunk().expect("a padded plane ends with a line's room");
            for (sum, x) in sums.iter_mut().zip(numbers) {
                *sum = mul_add::<FMA>(*weight, *x, *sum);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = normal(sum);
        }
    }
}

/// The gradient of the weight from that of the result; each channel is summed in a fixed order.
pub(crate) fn weight_gradient(x: &FlexTensor, gradient: &FlexTensor, sizes: &Sizes, conv: &Conv2d) -> FlexTensor {
    let [x, gradient] = [x, gradient].map(FlexTensor::to_contiguous);
    let (x, gradient, level) = (x.storage::<f32>(), gradient.storage::<f32>(), Level::best());
    let shape = Shape::new([sizes.outputs, 1, sizes.kernel[0], sizes.kernel[1]]);
    let walk = forward_walk(sizes, conv);
    let (frame, taps) = (Frame::new(&walk), walk.taps.len());
    let [area, result] = [walk.source, walk.grid].map(|size| size[0] * size[1]);
    if shape.num_elements() * sizes.batch * result == 0 {
        return FlexTensor::zeros(shape, DType::F32);
    }
    let mut out = Output::new(shape);
    out.slots().par_chunks_mut(taps).enumerate().for_each(|(channel, out)| {
        let mut sums = vec![0.0; taps];
        SCRATCH.with_borrow_mut(|[room, _]| {
            room.clear();
            room.resize(frame.size, 0.0);
            for image in 0..sizes.batch {
                let plane = image * sizes.inputs + channel;
                frame.pad(level, &x[plane * area..][..area], room);
                let gradient = &gradient[plane * result..][..result];
                for (sum, (at, _)) in sums.iter_mut().zip(&walk.taps) {
                    dot_rows(level, &room[frame.offset(*at)..], frame.pitch, gradient, walk.grid[1], sum);
                }
            }
        });
        for (out, sum) in out.iter_mut().zip(sums) {
            out.write(normal(sum as f32));
        }
    });
    // SAFETY: there is a number for each tap of each channel.
    unsafe { out.finish() }
}

vectorised! {
    /// Adds the product of rows `width` long, `pitch` apart in `x` and beside each other in `y`.
    fn dot_rows(x: &[f32], pitch: usize, y: &[f32], width: usize, sum: &mut f64) = dot_rows_body
}

#[inline(always)]
fn dot_rows_body<const FMA: bool>(x: &[f32], pitch: usize, y: &[f32], width: usize, sum: &mut f64) {
    for (row, y) in y.chunks_exact(width).enumerate() {
        let x = &x[row * pitch..][..width];
        *sum += f64::from(total(fold([x, y], 0.0, |sum, [x, y]| mul_add::<FMA>(x, y, sum))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_sums_taps_and_rows() {
        let source: Vec<f32> = (0..400).map(|i| (i % 9) as f32 - 4.0).collect();
        let taps = [(0, 2.0), (3, -1.0), (71, 0.5)];
        for level in Level::available() {
            let mut out = vec![f32::NAN; 3 * BLOCK];
            sum_taps(level, &source, &taps, 7.0, &mut out);
            for (i, got) in out.iter().enumerate() {
                // Halves of small whole numbers: exact in any order.
                let sum: f32 = taps.iter().map(|(offset, weight)| weight * source[offset + i]).sum();
                assert_eq!(*got, 7.0 + sum);
            }
            let mut sum = 1.0;
            dot_rows(level, &source, 50, &source[..111], 37, &mut sum);
            let expected: f32 = (0..111).map(|i| source[i / 37 * 50 + i % 37] * source[i]).sum();
            assert_eq!(sum, 1.0 + f64::from(expected));
        }
    }
}
