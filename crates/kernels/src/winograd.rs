//! Convolutions with kernels of 3 × 3 in steps of one, by the fast way of Winograd (Lavin and Gray, 2016, arXiv:1509.09308): two by two
//! pixels from sixteen sums over the channels in place of thirty-six.
//!
//! The transforms only add and halve, so the error is about twice that of the plain sums, relative to the largest number around. What is
//! not finite would spread to the other pixels of its square: a result that is not finite everywhere is refused, and the caller
//! computes it the plain way.

use crate::implicit::{Factor, Plan, SCRATCH};
use crate::memory::Shared;
use crate::simd::{Level, normal, vectorised};
use crate::tile;
use crate::walk::Walk;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::slice::from_raw_parts_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sums of a square of two by two pixels.
const SUMS: usize = 16;
/// Channels and outputs of a group from which on the transforms cost less than they save.
const LEAST: usize = 16;
/// Squares from which on the transform of the kernel pays.
const SQUARES: usize = 64;
/// Numbers of a task's transformed input, about: half of a second-level cache of 1 MiB.
const INPUT: usize = 1 << 17;
/// Numbers that the transforms handle together; it divides every tile.
const LANES: usize = 8;

type Lane = [f32; LANES];

/// Whether a walk with such a kernel can be run this way, and should be.
pub(crate) fn fits(walk: &Walk, factor: &Factor<'_>, batch: usize) -> bool {
    let squares = batch * walk.grid[0].div_ceil(2) * walk.grid[1].div_ceil(2);
    let dense = (0..9).all(|i| walk.taps.iter().any(|(at, _)| *at == [i / 3, i % 3]));
    walk.taps.len() == 9
        && dense
        && walk.stride == [1, 1]
        && walk.result[1] == [1, 1]
        && factor.sizes.iter().all(|size| *size >= LEAST)
        && squares >= SQUARES
}

/// Runs a walk that [`fits`]; false if a result is not finite.
///
/// # Safety
/// `target` must hold `[batch, groups·rows]` planes of the walk's result; its pixels are written.
pub(crate) unsafe fn run(
    level: Level,
    walk: &Walk,
    x: &[f32],
    factor: Factor<'_>,
    bias: Option<&[f32]>,
    [batch, groups]: [usize; 2],
    target: Shared,
) -> bool {
    let ([rows, channels], [height, tile]) = (factor.sizes, tile::size(level));
    let grid = walk.grid.map(|size| size.div_ceil(2));
    let squares = Walk {
        source: walk.source,
        grid,
        stride: [2, 2],
        origin: walk.origin,
        taps: (0..SUMS).map(|i| ([i / 4, i % 4], i)).collect(),
        result: [walk.grid, [2, 2], [0, 0]],
    };
    let (kernel, blocks) = (transformed(factor, walk, groups, height), rows.div_ceil(height));
    let (count, step) = (batch * grid[0] * grid[1], (INPUT / SUMS / channels / tile).max(1) * tile);
    let tasks = count.div_ceil(step) * groups;
    // No sum depends on the number of parts.
    let parts = rayon::current_num_threads().div_ceil(tasks).min(blocks);
    let per_part = blocks.div_ceil(parts);
    let finite = AtomicBool::new(true);
    (0..tasks * parts).into_par_iter().for_each(|task| {
        let (part, rest) = (task % parts, task / parts);
        let (group, start) = (rest % groups, rest / groups * step);
        let here = (part * per_part).min(blocks)..((part + 1) * per_part).min(blocks);
        let range = start..(start + step).min(count);
        let columns = range.len().next_multiple_of(tile);
        let plan = Plan::new(&squares, range, [groups * channels, groups * rows], 1, columns);
        SCRATCH.with_borrow_mut(|scratch| {
            let input = SUMS * channels * columns;
            let [patch, copy, room] = plan.rooms(scratch, input + SUMS * height * columns + 4 * columns);
            let (input, room) = room.split_at_mut(input);
            let (sums, pixels) = room.split_at_mut(SUMS * height * columns);
            for channel in 0..channels {
                plan.fill(level, x, group * channels, channel..channel + 1, patch, copy);
                transform_input(level, patch, columns, input, [channel, channels, tile]);
            }
            for block in here {
                for sum in 0..SUMS {
                    let a = &kernel[((group * blocks + block) * SUMS + sum) * channels * height..][..channels * height];
                    for (panel, at) in (0..columns).step_by(tile).enumerate() {
                        let b = &input[(sum * (columns / tile) + panel) * channels * tile..];
                        let c = &mut sums[sum * height * columns + at..];
                        tile::multiply(level, a, (b, tile), (c, columns), false);
                    }
                }
                let first = block * height;
                for row in 0..height.min(rows - first) {
                    transform_sums(level, &sums[row * columns..], height * columns, pixels, columns);
                    let output = group * rows + first + row;
                    let bias = bias.map_or(0.0, |bias| bias[output]);
                    // SAFETY: the squares of this task are its own, and the rows of its part.
                    if !unsafe { place(level, &plan, pixels, columns, bias, output, walk.grid, target) } {
                        finite.store(false, Ordering::Relaxed);
                    }
                }
            }
        });
    });
    finite.into_inner()
}

/// The transformed kernel, by blocks of `height` rows: `[groups][blocks][sum][inner channel][height]`, zeros below the last row.
fn transformed(factor: Factor<'_>, walk: &Walk, groups: usize, height: usize) -> Vec<f32> {
    let ([rows, channels], [row_stride, channel_stride, group_stride]) = (factor.sizes, factor.strides);
    let mut places = [0; 9];
    for ([y, x], index) in &walk.taps {
        places[y * 3 + x] = *index;
    }
    let (blocks, size) = (rows.div_ceil(height), SUMS * channels * height);
    let mut out = vec![0.0; groups * blocks * size];
    out.par_chunks_mut(size).enumerate().for_each(|(block, out)| {
        let first = block % blocks * height;
        let base = block / blocks * group_stride + first * row_stride;
        for row in 0..height.min(rows - first) {
            for channel in 0..channels {
                let at = base + row * row_stride + channel * channel_stride;
                let k = places.map(|place| factor.numbers[at + place]);
                // Along columns, then along rows.
                let wide = [0, 1, 2].map(|y| spread([k[y * 3], k[y * 3 + 1], k[y * 3 + 2]]));
                for x in 0..4 {
                    for (y, value) in spread([wide[0][x], wide[1][x], wide[2][x]]).into_iter().enumerate() {
                        out[((y * 4 + x) * channels + channel) * height + row] = normal(value);
                    }
                }
            }
        }
    });
    out
}

/// Three numbers of a kernel as four.
fn spread([a, b, c]: [f32; 3]) -> [f32; 4] {
    [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]
}

// Loops in place of `map` and `from_fn`: those are compiled for every processor and keep a closure's vectors out of their own.

#[inline(always)]
fn minus(a: &Lane, b: &Lane) -> Lane {
    let mut out = *a;
    for (out, b) in out.iter_mut().zip(b) {
        *out -= b;
    }
    out
}

#[inline(always)]
fn plus(a: &Lane, b: &Lane) -> Lane {
    let mut out = *a;
    for (out, b) in out.iter_mut().zip(b) {
        *out += b;
    }
    out
}

/// Four numbers of a row or column of the input as the four that are multiplied.
#[inline(always)]
fn input_line([a, b, c, d]: [&Lane; 4]) -> [Lane; 4] {
    [minus(a, c), plus(b, c), minus(c, b), minus(b, d)]
}

/// Four sums of a row or column as two pixels.
#[inline(always)]
fn pixel_line([a, b, c, d]: [&Lane; 4]) -> [Lane; 2] {
    [plus(&plus(a, b), c), minus(&minus(b, c), d)]
}

/// The next numbers from a place on.
#[inline(always)]
fn lane(numbers: &[f32], at: usize) -> &Lane {
    numbers[at..].first_chunk().expect("whole tiles")
}

vectorised! {
    /// Squares of four by four numbers of a channel, a row of `columns` for each place, to rows of panels.
    fn transform_input(patch: &[f32], columns: usize, out: &mut [f32], places: [usize; 3]) = transform_input_body
}

#[inline(always)]
fn transform_input_body<const FMA: bool>(
    patch: &[f32],
    columns: usize,
    out: &mut [f32],
    [channel, channels, tile]: [usize; 3],
) {
    for at in (0..columns).step_by(LANES) {
        let mut rows = [[[0.0; LANES]; 4]; 4];
        for (y, row) in rows.iter_mut().enumerate() {
            let first = y * 4 * columns + at;
            let [a, b, c, d] = [first, first + columns, first + 2 * columns, first + 3 * columns];
            *row = input_line([lane(patch, a), lane(patch, b), lane(patch, c), lane(patch, d)]);
        }
        let pairs = rows[0].iter().zip(&rows[1]).zip(rows[2].iter().zip(&rows[3]));
        for (x, ((a, b), (c, d))) in pairs.enumerate() {
            let column = input_line([a, b, c, d]);
            for (y, value) in column.iter().enumerate() {
                let panel = (y * 4 + x) * (columns / tile) + at / tile;
                let place = (panel * channels + channel) * tile + at % tile;
                *out[place..].first_chunk_mut().expect("whole tiles") = *value;
            }
        }
    }
}

vectorised! {
    /// The sixteen sums of squares, rows `distance` apart, to the four pixels of each.
    fn transform_sums(sums: &[f32], distance: usize, pixels: &mut [f32], columns: usize) = transform_sums_body
}

#[inline(always)]
fn transform_sums_body<const FMA: bool>(sums: &[f32], distance: usize, pixels: &mut [f32], columns: usize) {
    for at in (0..columns).step_by(LANES) {
        let mut rows = [[[0.0; LANES]; 2]; 4];
        for (y, row) in rows.iter_mut().enumerate() {
            let first = y * 4 * distance + at;
            let [a, b, c, d] = [first, first + distance, first + 2 * distance, first + 3 * distance];
            *row = pixel_line([lane(sums, a), lane(sums, b), lane(sums, c), lane(sums, d)]);
        }
        let pairs = rows[0].iter().zip(&rows[1]).zip(rows[2].iter().zip(&rows[3]));
        for (x, ((a, b), (c, d))) in pairs.enumerate() {
            let column = pixel_line([a, b, c, d]);
            for (y, value) in column.iter().enumerate() {
                *pixels[(y * 2 + x) * columns + at..].first_chunk_mut().expect("whole tiles") = *value;
            }
        }
    }
}

/// Writes the pixels of squares to a plane; false if one is not finite.
///
/// # Safety
/// The plane must lie within the target and the pixels of the squares belong to the caller alone.
#[allow(clippy::too_many_arguments)]
unsafe fn place(
    level: Level,
    plan: &Plan<'_>,
    pixels: &[f32],
    columns: usize,
    bias: f32,
    output: usize,
    [height, width]: [usize; 2],
    target: Shared,
) -> bool {
    let mut finite = true;
    for run in &plan.runs {
        let within = run.result % (height * width);
        let (y, x) = (within / width, within % width);
        let count = (2 * run.length).min(width - x);
        for row in 0..2.min(height - y) {
            let [even, odd] = [0, 1].map(|side| &pixels[(row * 2 + side) * columns + run.column..][..run.length]);
            let at = output * height * width + run.result + row * width;
            // SAFETY: the row's pixels lie within the plane and are the caller's by its promise; slots may hold anything.
            let out = unsafe { from_raw_parts_mut(target.at(at).cast::<MaybeUninit<f32>>(), count) };
            interleave(level, even, odd, bias, out, &mut finite);
        }
    }
    finite
}

vectorised! {
    /// Numbers of two rows in turn, plus a bias; clears `finite` if one is not.
    fn interleave(even: &[f32], odd: &[f32], bias: f32, out: &mut [MaybeUninit<f32>], finite: &mut bool) = interleave_body
}

#[inline(always)]
fn interleave_body<const FMA: bool>(
    even: &[f32],
    odd: &[f32],
    bias: f32,
    out: &mut [MaybeUninit<f32>],
    finite: &mut bool,
) {
    let (pairs, rest) = out.as_chunks_mut::<2>();
    let mut all = true;
    for ((pair, even), odd) in pairs.iter_mut().zip(even).zip(odd) {
        let (even, odd) = (even + bias, odd + bias);
        all &= even.is_finite() & odd.is_finite();
        pair[0].write(normal(even));
        pair[1].write(normal(odd));
    }
    if let ([out], Some(even)) = (rest, even.last()) {
        all &= (even + bias).is_finite();
        out.write(normal(even + bias));
    }
    *finite &= all;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Output;
    use crate::walk::forward_walk;
    use crate::{Conv2d, conv::Sizes};
    use burn::tensor::Shape;

    /// Whole numbers, so that every way of adding them up in halves and quarters is exact.
    #[test]
    fn every_level_computes_the_plain_sums() {
        let (channels, rows, [height, width]) = (17, 19, [13, 15]);
        let conv = Conv2d { padding: [[1, 1], [0, 2]], ..Conv2d::default() };
        let (source, kernel) = ([height, width], [3, 3]);
        let sizes = Sizes { batch: 2, inputs: channels, outputs: rows, source, kernel, result: [height, width] };
        let x: Vec<f32> = (0..2 * channels * height * width).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let weight: Vec<f32> = (0..rows * channels * 9).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
        let plain = |image: usize, row: usize, y: usize, at: usize| {
            let mut sum = row as f32;
            for (i, w) in weight[row * channels * 9..][..channels * 9].iter().enumerate() {
                let (y, at) = (y + i % 9 / 3, at + i % 3);
                if (1..=height).contains(&y) && at < width {
                    sum += w * x[((image * channels + i / 9) * height + y - 1) * width + at];
                }
            }
            sum
        };
        let bias: Vec<f32> = (0..rows).map(|row| row as f32).collect();
        let walk = forward_walk(&sizes, &conv);
        let factor = Factor { numbers: &weight, strides: [channels * 9, 9, 0], sizes: [rows, channels] };
        assert!(fits(&walk, &factor, 2));
        for level in Level::available() {
            let mut out = Output::new(Shape::new([2, rows, height, width]));
            let target = out.shared();
            // SAFETY: the walk covers the whole result.
            let out = unsafe {
                assert!(run(level, &walk, &x, factor, Some(&bias), [2, 1], target));
                out.finish()
            };
            for (i, got) in out.storage::<f32>().iter().enumerate() {
                let (plane, y, at) = (i / (height * width), i / width % height, i % width);
                assert_eq!(*got, plain(plane / rows, plane % rows, y, at), "{level:?}, number {i}");
            }
        }
    }
}
