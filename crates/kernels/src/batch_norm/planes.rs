//! Norms by channel on slices. A task takes a channel: all its planes are read again from the cache where a second look is needed.

use crate::elementwise::CHUNK;
use crate::memory::{Output, Shared};
use crate::simd::{Level, fold, mul_add, normal, total, vectorised};
use crate::sum::{Activation, clip, passed};
use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::slice::from_raw_parts_mut;

/// The planes of a contiguous tensor `[batch, channels, height, width]`.
pub(super) struct Planes {
    batch: usize,
    pub(super) channels: usize,
    pub(super) area: usize,
    shape: Shape,
}

impl Planes {
    pub(super) fn of(x: &FlexTensor) -> Self {
        let shape = x.layout().shape().clone();
        Self { batch: shape[0], channels: shape[1], area: shape[2] * shape[3], shape }
    }

    /// Numbers of a channel.
    pub(super) fn count(&self) -> f64 {
        (self.batch * self.area) as f64
    }

    /// Where the planes of a channel start.
    fn starts(&self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.batch).map(move |image| (image * self.channels + channel) * self.area)
    }

    /// A result for each channel.
    pub(super) fn by_channel<T: Send>(&self, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        (0..self.channels).into_par_iter().map(f).collect()
    }

    /// A tensor of this shape; `f` gets a channel, the start of a plane and its slots, and must write all.
    pub(super) fn map(&self, f: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) + Sync) -> FlexTensor {
        let mut out = Output::new(self.shape.clone());
        let area = self.area.max(1);
        let step = (CHUNK / area).max(1);
        out.slots().par_chunks_mut(step * area).enumerate().for_each(|(task, out)| {
            for (i, out) in out.chunks_exact_mut(area).enumerate() {
                let plane = task * step + i;
                f(plane % self.channels, plane * area, out);
            }
        });
        // SAFETY: the chunks cover all planes, each of which `f` writes.
        unsafe { out.finish() }
    }

    /// The slots of a plane.
    ///
    /// # Safety
    /// The target must have this shape, and the plane must be the caller's alone.
    unsafe fn slots<'a>(&self, target: Shared, start: usize) -> &'a mut [MaybeUninit<f32>] {
        // SAFETY: the plane lies within the target by the caller's promise; slots may hold anything.
        unsafe { from_raw_parts_mut(target.at(start).cast(), self.area) }
    }
}

/// A small tensor.
pub(super) fn numbers<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    let mut out = Output::new(Shape::new(shape));
    for (slot, value) in out.slots().iter_mut().zip(values) {
        slot.write(normal(value));
    }
    // SAFETY: there is a value for each slot.
    unsafe { out.finish() }
}

/// The sum of each channel of `x` `[batch, channels, height, width]`.
pub(crate) fn channel_sums(x: &FlexTensor) -> FlexTensor {
    let x = x.to_contiguous();
    let (planes, level) = (Planes::of(&x), Level::best());
    let sums = planes.by_channel(|channel| {
        let mut sum = 0.0;
        for start in planes.starts(channel) {
            add_up(level, &x.storage::<f32>()[start..][..planes.area], &mut sum);
        }
        sum as f32
    });
    numbers(sums, [planes.channels])
}

/// Mean and variance of a channel.
pub(super) fn moments_of(level: Level, planes: &Planes, x: &[f32], channel: usize) -> (f32, f32) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for start in planes.starts(channel) {
        add_up(level, &x[start..][..planes.area], &mut sum);
    }
    let mean = (sum / planes.count()) as f32;
    for start in planes.starts(channel) {
        add_squares(level, &x[start..][..planes.area], mean, &mut squares);
    }
    (mean, (squares / planes.count()) as f32)
}

/// A norm by the batch's moments; besides the result each channel's scaling and `1/√(variance + eps)`.
pub(super) fn own_norm(
    x: &FlexTensor,
    scales: &FlexTensor,
    shifts: &FlexTensor,
    eps: f64,
    activation: Activation,
) -> (FlexTensor, Vec<(Scaling, f32)>) {
    let [x, scales, shifts] = [x, scales, shifts].map(FlexTensor::to_contiguous);
    let (planes, level) = (Planes::of(&x), Level::best());
    let (x, scales, shifts) = (x.storage::<f32>(), scales.storage::<f32>(), shifts.storage::<f32>());
    let mut out = Output::new(planes.shape.clone());
    let target = out.shared();
    let scalings = planes.by_channel(|channel| {
        let (centre, variance) = moments_of(level, &planes, x, channel);
        let inverse = (1.0 / (f64::from(variance) + eps).sqrt()) as f32;
        let (factor, shift) = (scales[channel] * inverse, shifts[channel]);
        let scaling = Scaling { centre, factor, shift, bounds: activation.bounds() };
        for start in planes.starts(channel) {
            // SAFETY: the planes of a channel are its task's alone.
            scale(level, &x[start..][..planes.area], scaling, unsafe { planes.slots(target, start) });
        }
        (scaling, inverse)
    });
    // SAFETY: every plane of every channel was written.
    (unsafe { out.finish() }, scalings)
}

/// The gradients of `x`, scale and shift under a norm by the batch's moments, those `needed`.
pub(super) fn own_norm_backward(
    x: &FlexTensor,
    gradient: &FlexTensor,
    scalings: &[(Scaling, f32)],
    needed: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let [x, gradient] = [x, gradient].map(FlexTensor::to_contiguous);
    let (planes, level) = (Planes::of(&x), Level::best());
    let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
    let mut dx = needed[0].then(|| Output::new(planes.shape.clone()));
    let target = dx.as_mut().map(Output::shared);
    let sums = planes.by_channel(|channel| {
        let (scaling, inverse) = scalings[channel];
        let mut sums = [0.0; 2];
        for start in planes.starts(channel) {
            let (x, gradient) = (&x[start..][..planes.area], &gradient[start..][..planes.area]);
            add_slopes(level, x, gradient, scaling, &mut sums);
        }
        let scale = sums[1] * f64::from(inverse);
        if let Some(target) = target {
            // What the means take away: the gradient's own, and its share along the normalised numbers.
            let mean = (sums[0] / planes.count()) as f32;
            let along = (scale * f64::from(inverse) / planes.count()) as f32;
            for start in planes.starts(channel) {
                let (x, gradient) = (&x[start..][..planes.area], &gradient[start..][..planes.area]);
                // SAFETY: the planes of a channel are its task's alone.
                centred_gradient(level, x, gradient, scaling, [mean, along], unsafe { planes.slots(target, start) });
            }
        }
        (scale as f32, sums[0] as f32)
    });
    let (scales, shifts): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
    // SAFETY: every plane of every channel was written.
    let dx = dx.map(|dx| unsafe { dx.finish() });
    let vector = |needed: bool, values| needed.then(|| numbers(values, [planes.channels]));
    [dx, vector(needed[1], scales), vector(needed[2], shifts)]
}

/// What happens to the numbers of a channel: `clip((x − centre)·factor + shift)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaling {
    pub(super) centre: f32,
    pub(super) factor: f32,
    pub(super) shift: f32,
    pub(super) bounds: [f32; 2],
}

impl Scaling {
    /// The number before it is clipped.
    #[inline(always)]
    fn of<const FMA: bool>(&self, x: f32) -> f32 {
        mul_add::<FMA>(x - self.centre, self.factor, self.shift)
    }
}

vectorised! {
    /// Adds up numbers.
    fn add_up(x: &[f32], sum: &mut f64) = add_up_body
}
vectorised! {
    /// Adds up squared differences.
    fn add_squares(x: &[f32], mean: f32, sum: &mut f64) = add_squares_body
}
vectorised! {
    /// Scales numbers.
    fn scale(x: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) = scale_body
}
vectorised! {
    /// Adds up gradients, and their products with the differences to the centre.
    fn add_slopes(x: &[f32], gradient: &[f32], scaling: Scaling, sums: &mut [f64; 2]) = add_slopes_body
}
vectorised! {
    /// The gradient of numbers whose centre and factor are constants.
    fn scaled_gradient(x: &[f32], gradient: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) = scaled_gradient_body
}
vectorised! {
    /// The gradient of numbers under their own moments, given the two means to take away.
    fn centred_gradient(
        x: &[f32],
        gradient: &[f32],
        scaling: Scaling,
        means: [f32; 2],
        out: &mut [MaybeUninit<f32>],
    ) = centred_gradient_body
}
vectorised! {
    /// The gradient of moments: `base + slope·(x − centre)`.
    fn moments_gradient(x: &[f32], line: [f32; 3], out: &mut [MaybeUninit<f32>]) = moments_gradient_body
}
#[inline(always)]
fn add_up_body<const FMA: bool>(x: &[f32], sum: &mut f64) {
    *sum += f64::from(total(fold([x], 0.0, |sum, [x]| sum + x)));
}

#[inline(always)]
fn add_squares_body<const FMA: bool>(x: &[f32], mean: f32, sum: &mut f64) {
    *sum += f64::from(total(fold([x], 0.0, |sum, [x]| mul_add::<FMA>(x - mean, x - mean, sum))));
}

#[inline(always)]
fn scale_body<const FMA: bool>(x: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) {
    for (out, x) in out.iter_mut().zip(x) {
        out.write(normal(clip(scaling.of::<FMA>(*x), scaling.bounds)));
    }
}

#[inline(always)]
fn add_slopes_body<const FMA: bool>(x: &[f32], gradient: &[f32], scaling: Scaling, sums: &mut [f64; 2]) {
    let own = |x: f32, gradient: f32| passed(scaling.of::<FMA>(x), gradient, scaling.bounds);
    let sum = fold([x, gradient], 0.0, |sum, [x, gradient]| sum + own(x, gradient));
    let product =
        fold([x, gradient], 0.0, |sum, [x, gradient]| mul_add::<FMA>(own(x, gradient), x - scaling.centre, sum));
    sums[0] += f64::from(total(sum));
    sums[1] += f64::from(total(product));
}

#[inline(always)]
fn scaled_gradient_body<const FMA: bool>(x: &[f32], gradient: &[f32], scaling: Scaling, out: &mut [MaybeUninit<f32>]) {
    for ((out, x), gradient) in out.iter_mut().zip(x).zip(gradient) {
        out.write(normal(passed(scaling.of::<FMA>(*x), *gradient, scaling.bounds) * scaling.factor));
    }
}

#[inline(always)]
fn centred_gradient_body<const FMA: bool>(
    x: &[f32],
    gradient: &[f32],
    scaling: Scaling,
    [mean, along]: [f32; 2],
    out: &mut [MaybeUninit<f32>],
) {
    for ((out, x), gradient) in out.iter_mut().zip(x).zip(gradient) {
        let own = passed(scaling.of::<FMA>(*x), *gradient, scaling.bounds);
        out.write(normal(mul_add::<FMA>(x - scaling.centre, -along, own - mean) * scaling.factor));
    }
}

#[inline(always)]
pub(super) fn moments_gradient_body<const FMA: bool>(
    x: &[f32],
    [base, slope, centre]: [f32; 3],
    out: &mut [MaybeUninit<f32>],
) {
    for (out, x) in out.iter_mut().zip(x) {
        out.write(normal(mul_add::<FMA>(x - centre, slope, base)));
    }
}

/// The gradients of `x`, centre, factor and shift, those `needed`.
pub(super) fn scaling_backward(
    x: &FlexTensor,
    gradient: &FlexTensor,
    [centre, factor, shift]: [FlexTensor; 3],
    activation: Activation,
    needed: [bool; 4],
) -> [Option<FlexTensor>; 4] {
    let (planes, level) = (Planes::of(x), Level::best());
    let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
    let scaling = |channel: usize| Scaling {
        centre: centre.storage::<f32>()[channel],
        factor: factor.storage::<f32>()[channel],
        shift: shift.storage::<f32>()[channel],
        bounds: activation.bounds(),
    };
    let mut dx = needed[0].then(|| Output::new(planes.shape.clone()));
    let target = dx.as_mut().map(Output::shared);
    let summed = needed[1..].contains(&true);
    let sums = planes.by_channel(|channel| {
        let (scaling, mut sums) = (scaling(channel), [0.0; 2]);
        for start in planes.starts(channel) {
            let (x, gradient) = (&x[start..][..planes.area], &gradient[start..][..planes.area]);
            if summed {
                add_slopes(level, x, gradient, scaling, &mut sums);
            }
            if let Some(target) = target {
                // SAFETY: the planes of a channel are its task's alone.
                scaled_gradient(level, x, gradient, scaling, unsafe { planes.slots(target, start) });
            }
        }
        sums
    });
    // SAFETY: every plane of every channel was written.
    let dx = dx.map(|dx| unsafe { dx.finish() });
    let vector = |needed: bool, f: &dyn Fn(usize, [f64; 2]) -> f64| {
        let values = || sums.iter().enumerate().map(|(channel, sums)| f(channel, *sums) as f32).collect();
        needed.then(|| numbers(values(), [planes.channels]))
    };
    [
        dx,
        vector(needed[1], &|channel, sums| -sums[0] * f64::from(scaling(channel).factor)),
        vector(needed[2], &|_, sums| sums[1]),
        vector(needed[3], &|_, sums| sums[0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the same numbers up to rounding, whatever is left over after whole vectors.
    #[test]
    fn levels_agree() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let gradient: Vec<f32> = (0..1003).map(|i| (i as f32 * 1.3).cos()).collect();
        let scaling = Scaling { centre: 0.3, factor: 2.0, shift: 1.0, bounds: Activation::Relu6.bounds() };
        let all = |level| {
            let (mut sum, mut squares, mut slopes) = (0.0, 0.0, [0.0; 2]);
            add_up(level, &x, &mut sum);
            add_squares(level, &x, 0.3, &mut squares);
            add_slopes(level, &x, &gradient, scaling, &mut slopes);
            let mut out = vec![MaybeUninit::new(f32::NAN); 3 * x.len()];
            let mut parts = out.chunks_exact_mut(x.len());
            let mut part = || parts.next().expect("there are three");
            scale(level, &x, scaling, part());
            scaled_gradient(level, &x, &gradient, scaling, part());
            centred_gradient(level, &x, &gradient, scaling, [0.1, 0.2], part());
            // SAFETY: made from numbers and then written.
            let numbers = out.into_iter().map(|x| f64::from(unsafe { x.assume_init() }));
            numbers.chain([sum, squares, slopes[0], slopes[1]]).collect::<Vec<_>>()
        };
        let levels: Vec<_> = Level::available().into_iter().map(all).collect();
        for other in &levels[1..] {
            assert!(levels[0].iter().zip(other).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs())));
        }
    }
}
