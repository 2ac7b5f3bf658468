//! Which numbers of its input a pixel of a convolution reads: the *taps*, fixed offsets from the pixel's place.
//!
//! The forward pass is one walk over a grid of pixels. The gradient of the input falls into one walk for each remainder of a pixel's place
//! by the stride: within it, too, each pixel reads the result's gradient at fixed offsets.

use crate::conv::{Conv2d, Sizes};

/// Which numbers of the source the pixels of a grid read.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// Height and width of the source.
    pub(crate) source: [usize; 2],
    /// Height and width of the grid.
    pub(crate) grid: [usize; 2],
    /// Steps in the source for a step in the grid.
    pub(crate) stride: [usize; 2],
    /// Row and column of the source that pixel (0, 0) reads through a tap without offset; negative lies in the padding.
    pub(crate) origin: [isize; 2],
    /// Further rows and columns, and the tap's place in the kernel.
    pub(crate) taps: Vec<([usize; 2], usize)>,
    /// Where pixels go in the result: height and width there, step, and first place.
    pub(crate) result: [[usize; 2]; 3],
}

impl Walk {
    /// From taps as rows and columns of the source relative to `pixel·stride`.
    fn new(source: [usize; 2], grid: [usize; 2], stride: [usize; 2], taps: &[([isize; 2], usize)]) -> Self {
        let least = |axis: usize| taps.iter().map(|(at, _)| at[axis]).min().unwrap_or_default();
        let origin = [least(0), least(1)];
        let from = |at: [isize; 2], axis: usize| (at[axis] - origin[axis]) as usize;
        let taps = taps.iter().map(|&(at, index)| ([from(at, 0), from(at, 1)], index)).collect();
        Self { source, grid, stride, origin, taps, result: [grid, [1, 1], [0, 0]] }
    }

    /// Rows and columns beyond the first that a pixel reads.
    pub(crate) fn reach(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.taps.iter().map(|(at, _)| at[axis]).max().unwrap_or_default())
    }

    /// Whether no pixel reads beyond the source and neighbours in a row read neighbours.
    pub(crate) fn is_plain(&self) -> bool {
        let reach = self.reach();
        let inside = |axis: usize| {
            let last = self.origin[axis] + ((self.grid[axis] - 1) * self.stride[axis] + reach[axis]) as isize;
            self.origin[axis] >= 0 && last < self.source[axis] as isize
        };
        self.stride[1] == 1 && inside(0) && inside(1)
    }

    /// Planes as single rows, where a pixel reads the pixel at its own place only.
    pub(crate) fn flattened(mut self) -> Self {
        if self.is_plain() && self.taps.len() == 1 && self.grid == self.source && self.result[0] == self.grid {
            let line = [1, self.source[0] * self.source[1]];
            (self.source, self.grid, self.result[0]) = (line, line, line);
        }
        self
    }
}

/// The walk of the forward pass.
pub(crate) fn forward_walk(sizes: &Sizes, conv: &Conv2d) -> Walk {
    let [height, width] = sizes.kernel;
    let at = |axis: usize, k: usize| (k * conv.dilation[axis]) as isize - conv.padding[axis][0] as isize;
    let taps: Vec<_> = (0..height * width).map(|i| ([at(0, i / width), at(1, i % width)], i)).collect();
    Walk::new(sizes.source, sizes.result, conv.stride, &taps)
}

/// The walks of the input's gradient over the result's: one for each remainder of a pixel's place by the stride that some tap reaches.
pub(crate) fn backward_walks(sizes: &Sizes, conv: &Conv2d) -> Vec<Walk> {
    let [rows, columns] = conv.stride;
    // The place in the result that `remainder` sees through tap `k`, relative to the pixel's; none if it falls between two.
    let through = |axis: usize, remainder: usize, k: usize| {
        let at = (remainder + conv.padding[axis][0]) as isize - (k * conv.dilation[axis]) as isize;
        let stride = conv.stride[axis] as isize;
        (at.rem_euclid(stride) == 0).then(|| at.div_euclid(stride))
    };
    let phases = (0..rows * columns).map(|phase| [phase / columns, phase % columns]);
    phases
        .map(|first| {
            let grid = [0, 1].map(|axis| sizes.source[axis].saturating_sub(first[axis]).div_ceil(conv.stride[axis]));
            let [height, width] = sizes.kernel;
            let place = |i: usize| Some([through(0, first[0], i / width)?, through(1, first[1], i % width)?]);
            let taps: Vec<_> = (0..height * width).filter_map(|i| Some((place(i)?, i))).collect();
            let mut walk = Walk::new(sizes.result, grid, [1, 1], &taps);
            walk.result = [sizes.source, conv.stride, first];
            walk
        })
        .filter(|walk| walk.grid[0] * walk.grid[1] > 0)
        .collect()
}
