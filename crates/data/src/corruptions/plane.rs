//! One channel of a picture in double precision, and what several corruptions do with it.

use super::Draws;
use crate::Image;

/// What stands beyond a border.
#[derive(Clone, Copy)]
pub(super) enum Edge {
    /// The last value: `aa|abc|cc`.
    Nearest,
    /// The picture turned over at the border: `ba|abc|cb`.
    Reflect,
    /// The picture turned over at the last value, which is not repeated: `cb|abc|ba`.
    Mirror,
}

impl Edge {
    fn index(self, at: isize, len: usize) -> usize {
        let last = len as isize - 1;
        match self {
            Edge::Nearest => at.clamp(0, last) as usize,
            Edge::Reflect => {
                let turned = at.rem_euclid(2 * len as isize);
                turned.min(2 * len as isize - 1 - turned) as usize
            }
            Edge::Mirror if last == 0 => 0,
            Edge::Mirror => {
                let turned = at.rem_euclid(2 * last);
                turned.min(2 * last - turned) as usize
            }
        }
    }
}

/// Rows down, columns to the right, and a weight.
type Tap = (isize, isize, f64);

/// One channel of a picture, or a field over it.
#[derive(Clone)]
pub(super) struct Plane {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) values: Vec<f64>,
}

impl Plane {
    pub(super) fn made(height: usize, width: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let mut values = Vec::with_capacity(height * width);
        (0..height).for_each(|y| values.extend((0..width).map(|x| value(y, x))));
        Self { height, width, values }
    }

    pub(super) fn normal(height: usize, width: usize, (mean, deviation): (f64, f64), draws: &mut dyn Draws) -> Self {
        Self::made(height, width, |_, _| mean + deviation * draws.normal())
    }

    pub(super) fn at(&self, y: usize, x: usize) -> f64 {
        self.values[y * self.width + x]
    }

    /// The value at whole coordinates that may lie beyond the border.
    pub(super) fn beyond(&self, y: isize, x: isize, edge: Edge) -> f64 {
        self.at(edge.index(y, self.height), edge.index(x, self.width))
    }

    /// The value between pixels.
    pub(super) fn bilinear(&self, y: f64, x: f64, edge: Edge) -> f64 {
        let (top, left) = (y.floor(), x.floor());
        let (down, right) = (y - top, x - left);
        let row = |y: isize| {
            let left = left as isize;
            (1.0 - right) * self.beyond(y, left, edge) + right * self.beyond(y, left + 1, edge)
        };
        (1.0 - down) * row(top as isize) + down * row(top as isize + 1)
    }

    pub(super) fn map(&self, value: impl Fn(f64) -> f64) -> Self {
        Self { values: self.values.iter().map(|&old| value(old)).collect(), ..*self }
    }

    pub(super) fn zip(&self, other: &Self, value: impl Fn(f64, f64) -> f64) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(&a, &b)| value(a, b)).collect();
        Self { values, ..*self }
    }

    pub(super) fn largest(&self) -> f64 {
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    pub(super) fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }

    /// Sums of neighbours along rows and columns by the same odd number of weights.
    pub(super) fn separable(&self, weights: &[f64], edge: Edge) -> Self {
        let reach = weights.len() / 2;
        let offsets = || (0_isize..).map(|i| i - reach as isize).zip(weights);
        let down: Vec<Tap> = offsets().map(|(offset, &weight)| (offset, 0, weight)).collect();
        let across: Vec<Tap> = offsets().map(|(offset, &weight)| (0, offset, weight)).collect();
        self.summed(&down, edge).summed(&across, edge)
    }

    /// The sum over taps, each the value some rows and columns away with its weight.
    fn summed(&self, taps: &[Tap], edge: Edge) -> Self {
        let most = |place: fn(&Tap) -> isize| taps.iter().map(|tap| place(tap).unsigned_abs()).max().unwrap_or(0);
        let (above, beside) = (most(|tap| tap.0), most(|tap| tap.1));
        // Whole rows are added, from a picture with what lies beyond its sides.
        let columns: Vec<usize> =
            (0..self.width + 2 * beside).map(|x| edge.index(x as isize - beside as isize, self.width)).collect();
        let wide: Vec<Vec<f64>> = (0..self.height).map(|y| columns.iter().map(|&x| self.at(y, x)).collect()).collect();
        let rows: Vec<usize> =
            (0..self.height + 2 * above).map(|y| edge.index(y as isize - above as isize, self.height)).collect();
        let mut values = vec![0.0; self.values.len()];
        for (y, sums) in values.chunks_mut(self.width).enumerate() {
            for &(dy, dx, weight) in taps {
                let row = &wide[rows[(y + above).strict_add_signed(dy)]][beside.strict_add_signed(dx)..];
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        Self { values, ..*self }
    }

    /// A Gaussian whose weights end `truncate` deviations from the middle; none for a deviation of zero.
    pub(super) fn gaussian(&self, sigma: f64, truncate: f64, edge: Edge) -> Self {
        match sigma > 0.0 {
            true => self.separable(&gaussian_weights((truncate * sigma + 0.5) as usize, sigma), edge),
            false => self.clone(),
        }
    }

    /// Weighted sums over a square of neighbours with an odd side.
    pub(super) fn filtered(&self, kernel: &Self, edge: Edge) -> Self {
        let reach = (kernel.height / 2) as isize;
        let place = |i: usize| ((i / kernel.width) as isize - reach, (i % kernel.width) as isize - reach);
        let taps: Vec<Tap> = (0..)
            .map(place)
            .zip(&kernel.values)
            .filter(|&(_, &weight)| weight != 0.0)
            .map(|((dy, dx), &weight)| (dy, dx, weight))
            .collect();
        self.summed(&taps, edge)
    }

    /// Enlarged by `factor` around the middle, at the old size.
    pub(super) fn zoomed(&self, factor: f64) -> Self {
        // Along one axis: where the part that is enlarged begins, its length, and that of the enlarged part.
        let cut = |len: usize| {
            let part = (len as f64 / factor).ceil() as usize;
            ((len - part) / 2, part, (part as f64 * factor).round_ties_even() as usize)
        };
        let places = |len: usize| -> Vec<f64> {
            let (start, part, enlarged) = cut(len);
            let step = if enlarged > 1 { (part - 1) as f64 / (enlarged - 1) as f64 } else { 0.0 };
            let trim = enlarged.saturating_sub(len) / 2;
            (trim..trim + len).map(|at| start as f64 + at.min(enlarged - 1) as f64 * step).collect()
        };
        let (rows, columns) = (places(self.height), places(self.width));
        Self::made(self.height, self.width, |y, x| self.bilinear(rows[y], columns[x], Edge::Nearest))
    }

    /// Blurred as by a motion towards `angle` (in degrees): half a Gaussian, `2 radius + 1` weights.
    pub(super) fn moved(&self, radius: usize, sigma: f64, angle: f64) -> Self {
        let weights: Vec<f64> = (0..=2 * radius).map(|i| (-((i * i) as f64) / (2.0 * sigma * sigma)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let (sine, cosine) = angle.to_radians().sin_cos();
        let offset = |i: u32, part: f64| (f64::from(i) * part - 0.5).ceil() as isize;
        let taps: Vec<Tap> =
            (0..).zip(weights).map(|(i, weight)| (offset(i, sine), offset(i, cosine), weight / total)).collect();
        self.summed(&taps, Edge::Nearest)
    }

    /// A cloudy field with values 0..1 by the diamond-square algorithm; larger `decay` means smoother.
    pub(super) fn plasma(height: usize, width: usize, decay: f64, draws: &mut dyn Draws) -> Self {
        let side = height.max(width).next_power_of_two();
        let mut map = Self::made(side, side, |_, _| 0.0);
        let (mut step, mut wobble) = (side, 100.0_f64);
        while step >= 2 {
            let (half, cells) = (step / 2, side / step);
            let mut set = |map: &mut Self, y: usize, x: usize, sum: f64| {
                map.values[y * side + x] = sum / 4.0 + wobble * (2.0 * draws.uniform() - 1.0) * wobble;
            };
            let (next, before) = (|i: usize| (i + step) % side, |i: usize| (i + side - half) % side);
            for (y, x) in (0..cells * cells).map(|i| (i / cells * step, i % cells * step)) {
                let corners = map.at(y, x) + map.at(next(y), x) + map.at(y, next(x)) + map.at(next(y), next(x));
                set(&mut map, y + half, x + half, corners);
            }
            for (y, x) in (0..cells * cells).map(|i| (i / cells * step, i % cells * step)) {
                let column = x + half;
                let around = map.at(y + half, column) + map.at(before(y), column) + map.at(y, x) + map.at(y, next(x));
                set(&mut map, y, column, around);
            }
            for (y, x) in (0..cells * cells).map(|i| (i / cells * step, i % cells * step)) {
                let row = y + half;
                let around = map.at(row, x + half) + map.at(row, before(x)) + map.at(y, x) + map.at(next(y), x);
                set(&mut map, row, x, around);
            }
            (step, wobble) = (half, wobble / decay);
        }
        let (low, high) = map.values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let range = (high - low).max(f64::MIN_POSITIVE);
        Self::made(height, width, |y, x| (map.at(y, x) - low) / range)
    }
}

/// `2 reach + 1` weights of a Gaussian, whose sum is one.
pub(super) fn gaussian_weights(reach: usize, sigma: f64) -> Vec<f64> {
    let offset = |i: usize| i as f64 - reach as f64;
    let weights: Vec<f64> = (0..=2 * reach).map(|i| (-0.5 * (offset(i) / sigma).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// The channels of a picture.
#[derive(Clone)]
pub(super) struct Planes(pub(super) Vec<Plane>);

impl Planes {
    pub(super) fn of(image: &Image) -> Self {
        let (height, width) = (image.height, image.width);
        let plane = |values: &[f32]| Plane { height, width, values: values.iter().map(|&v| f64::from(v)).collect() };
        Self(image.values.chunks(height * width).map(plane).collect())
    }

    /// The picture, cut to 0..1.
    pub(super) fn image(self) -> Image {
        let (channels, height, width) = (self.0.len(), self.0[0].height, self.0[0].width);
        let values = self.0.iter().flat_map(|plane| &plane.values).map(|value| value.clamp(0.0, 1.0) as f32).collect();
        Image { channels, height, width, values }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.0[0].height, self.0[0].width)
    }

    pub(super) fn each(&self, change: impl FnMut(&Plane) -> Plane) -> Self {
        Self(self.0.iter().map(change).collect())
    }

    /// Changes every value, pixel by pixel and in a pixel channel by channel.
    pub(super) fn pixelwise(mut self, mut change: impl FnMut(f64) -> f64) -> Self {
        for at in 0..self.0[0].values.len() {
            self.0.iter_mut().for_each(|plane| plane.values[at] = change(plane.values[at]));
        }
        self
    }

    /// Changes the colours of all pixels of an RGB picture; one of brightness alone is given as three equal channels and
    /// gets the brightness of the result.
    pub(super) fn coloured(&self, mut change: impl FnMut(usize, [f64; 3]) -> [f64; 3]) -> Self {
        let mut changed = self.clone();
        for at in 0..self.0[0].values.len() {
            match changed.0.as_mut_slice() {
                [red, green, blue] => {
                    let colour = [red.values[at], green.values[at], blue.values[at]];
                    [red.values[at], green.values[at], blue.values[at]] = change(at, colour);
                }
                planes => planes.iter_mut().for_each(|gray| {
                    gray.values[at] = luma(change(at, [gray.values[at]; 3]).map(|value| value.clamp(0.0, 1.0)));
                }),
            }
        }
        changed
    }
}

/// The brightness of a colour (ITU-R BT.601).
pub(super) fn luma([red, green, blue]: [f64; 3]) -> f64 {
    0.299 * red + 0.587 * green + 0.114 * blue
}
