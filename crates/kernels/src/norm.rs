//! Norms on slices: rows of features.

use crate::elementwise::CHUNK;
use crate::memory::Output;
use crate::simd::{Level, fold, mul_add, normal, total, vectorised};
use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// `(x − mean)/√(variance + eps)·scale + shift` over the last axis.
pub(crate) fn forward(x: &FlexTensor, scale: &FlexTensor, shift: &FlexTensor, eps: f32) -> FlexTensor {
    let ([scale, shift], level) = ([scale, shift].map(FlexTensor::to_contiguous), Level::best());
    let (scale, shift) = (scale.storage::<f32>(), shift.storage::<f32>());
    by_rows(x, scale.len(), |x, out| norm_rows(level, x, scale, shift, eps, out))
}

/// The gradients of `x`, scale and shift, those `needed`.
pub(crate) fn backward(
    x: &FlexTensor,
    scale: &FlexTensor,
    gradient: &FlexTensor,
    eps: f32,
    [x_needed, needed @ ..]: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let (scale, level) = (scale.to_contiguous(), Level::best());
    let scale = scale.storage::<f32>();
    let (dx, [dscale, dshift]) =
        by_rows_backward([x, gradient], scale.len(), x_needed, needed, |x, gradient, dx, [dscale, dshift]| {
            norm_rows_backward(level, x, scale, gradient, eps, dx, dscale, dshift);
        });
    [dx, dscale, dshift]
}

/// `x/√(mean(x²) + eps)·scale` over the last axis.
pub(crate) fn rms_forward(x: &FlexTensor, scale: &FlexTensor, eps: f32) -> FlexTensor {
    let (scale, level) = (scale.to_contiguous(), Level::best());
    let scale = scale.storage::<f32>();
    by_rows(x, scale.len(), |x, out| rms_rows(level, x, scale, eps, out))
}

/// The gradients of `x` and scale, those `needed`.
pub(crate) fn rms_backward(
    x: &FlexTensor,
    scale: &FlexTensor,
    gradient: &FlexTensor,
    eps: f32,
    [x_needed, needed]: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let (scale, level) = (scale.to_contiguous(), Level::best());
    let scale = scale.storage::<f32>();
    let (dx, [dscale]) =
        by_rows_backward([x, gradient], scale.len(), x_needed, [needed], |x, gradient, dx, [dscale]| {
            rms_rows_backward(level, x, scale, gradient, eps, dx, dscale);
        });
    [dx, dscale]
}

/// Runs `kernel` on blocks of rows; it must write one number for each input.
fn by_rows(x: &FlexTensor, features: usize, kernel: impl Fn(&[f32], &mut [MaybeUninit<f32>]) + Sync) -> FlexTensor {
    let (x, features) = (x.to_contiguous(), features.max(1));
    let mut out = Output::new(x.layout().shape().clone());
    let block = rows_per_task(features) * features;
    let pairs = out.slots().par_chunks_mut(block).zip(x.storage::<f32>().par_chunks(block));
    pairs.for_each(|(out, x)| kernel(x, out));
    // SAFETY: the blocks cover all slots, and the kernels here write one number for each input.
    unsafe { out.finish() }
}

/// Runs `kernel` on blocks of rows and their gradients: it must write the gradient of each input where that is wanted, and adds to those
/// vectors of `features` numbers that are not empty.
fn by_rows_backward<const N: usize>(
    [x, gradient]: [&FlexTensor; 2],
    features: usize,
    x_needed: bool,
    needed: [bool; N],
    kernel: impl Fn(&[f32], &[f32], Option<&mut [MaybeUninit<f32>]>, &mut [Vec<f32>; N]) + Sync,
) -> (Option<FlexTensor>, [Option<FlexTensor>; N]) {
    let [x, gradient] = [x, gradient].map(FlexTensor::to_contiguous);
    let mut dx = x_needed.then(|| Output::new(x.layout().shape().clone()));
    let (input, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
    let block = rows_per_task(features.max(1)) * features.max(1);
    let slots: Vec<Option<&mut [MaybeUninit<f32>]>> = match &mut dx {
        Some(dx) => dx.slots().chunks_mut(block).map(Some).collect(),
        None => input.chunks(block).map(|_| None).collect(),
    };
    // One partial sum per block, added in order: the same result with any number of threads.
    let partial: Vec<[Vec<f32>; N]> = slots
        .into_par_iter()
        .zip(input.par_chunks(block))
        .zip(gradient.par_chunks(block))
        .map(|((dx, x), gradient)| {
            let mut sums = needed.map(|needed| vec![0.0; if needed { features } else { 0 }]);
            kernel(x, gradient, dx, &mut sums);
            sums
        })
        .collect();
    let sum = |which: usize| {
        let mut out = Output::new(Shape::new([features]));
        for (i, slot) in out.slots().iter_mut().enumerate() {
            let sum: f64 = partial.iter().map(|sums| f64::from(sums[which][i])).sum();
            slot.write(normal(sum as f32));
        }
        // SAFETY: the loop wrote every slot.
        unsafe { out.finish() }
    };
    // SAFETY: the blocks cover all slots, and the kernels here write one number for each input where `dx` is wanted.
    let dx = dx.map(|dx| unsafe { dx.finish() });
    (dx, std::array::from_fn(|which| needed[which].then(|| sum(which))))
}

/// Rows one task handles.
fn rows_per_task(features: usize) -> usize {
    (CHUNK / features).max(1)
}

vectorised! {
    /// Normalises rows.
    fn norm_rows(x: &[f32], scale: &[f32], shift: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) = norm_rows_body
}
vectorised! {
    /// The gradient of rows into `dx`; adds to `dscale` and `dshift` unless they are empty.
    #[allow(clippy::too_many_arguments)]
    fn norm_rows_backward(
        x: &[f32],
        scale: &[f32],
        gradient: &[f32],
        eps: f32,
        dx: Option<&mut [MaybeUninit<f32>]>,
        dscale: &mut [f32],
        dshift: &mut [f32],
    ) = norm_rows_backward_body
}

vectorised! {
    /// Divides rows by the root of their mean square.
    fn rms_rows(x: &[f32], scale: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) = rms_rows_body
}
vectorised! {
    /// The gradient of such rows into `dx`; adds to `dscale` unless it is empty.
    fn rms_rows_backward(
        x: &[f32],
        scale: &[f32],
        gradient: &[f32],
        eps: f32,
        dx: Option<&mut [MaybeUninit<f32>]>,
        dscale: &mut [f32],
    ) = rms_rows_backward_body
}

/// `1/√(mean square + eps)` of a row.
#[inline(always)]
fn inverse_rms<const FMA: bool>(x: &[f32], eps: f32) -> f32 {
    let square = |sum, [x]: [f32; 1]| mul_add::<FMA>(x, x, sum);
    1.0 / (total(fold([x], 0.0, square)) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn rms_rows_body<const FMA: bool>(x: &[f32], scale: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) {
    for (x, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
        let inverse = inverse_rms::<FMA>(x, eps);
        for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
            out.write(normal(x * inverse * scale));
        }
    }
}

#[inline(always)]
fn rms_rows_backward_body<const FMA: bool>(
    x: &[f32],
    scale: &[f32],
    gradient: &[f32],
    eps: f32,
    mut dx: Option<&mut [MaybeUninit<f32>]>,
    dscale: &mut [f32],
) {
    let features = scale.len();
    for (row, (x, gradient)) in x.chunks_exact(features).zip(gradient.chunks_exact(features)).enumerate() {
        let inverse = inverse_rms::<FMA>(x, eps);
        for ((sum, gradient), x) in dscale.iter_mut().zip(gradient).zip(x) {
            *sum = mul_add::<FMA>(*gradient, x * inverse, *sum);
        }
        let Some(dx) = dx.as_deref_mut() else { continue };
        let along = |sum, [gradient, scale, x]: [f32; 3]| mul_add::<FMA>(gradient * scale, x * inverse, sum);
        let mean = total(fold([gradient, scale, x], 0.0, along)) / features as f32;
        let dx = &mut dx[row * features..][..features];
        for (((dx, x), gradient), scale) in dx.iter_mut().zip(x).zip(gradient).zip(scale) {
            dx.write(normal(inverse * mul_add::<FMA>(x * inverse, -mean, gradient * scale)));
        }
    }
}

#[inline(always)]
fn norm_rows_body<const FMA: bool>(x: &[f32], scale: &[f32], shift: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) {
    for (x, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
        let (mean, inverse) = moments::<FMA>(x, eps);
        for (((out, x), scale), shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
            out.write(normal(mul_add::<FMA>((x - mean) * inverse, *scale, *shift)));
        }
    }
}

#[inline(always)]
fn norm_rows_backward_body<const FMA: bool>(
    x: &[f32],
    scale: &[f32],
    gradient: &[f32],
    eps: f32,
    mut dx: Option<&mut [MaybeUninit<f32>]>,
    dscale: &mut [f32],
    dshift: &mut [f32],
) {
    let features = scale.len();
    for (row, (x, gradient)) in x.chunks_exact(features).zip(gradient.chunks_exact(features)).enumerate() {
        for (sum, gradient) in dshift.iter_mut().zip(gradient) {
            *sum += gradient;
        }
        if dx.is_none() && dscale.is_empty() {
            continue;
        }
        let (mean, inverse) = moments::<FMA>(x, eps);
        for ((sum, gradient), x) in dscale.iter_mut().zip(gradient).zip(x) {
            *sum = mul_add::<FMA>(*gradient, (x - mean) * inverse, *sum);
        }
        let Some(dx) = dx.as_deref_mut() else { continue };
        let along = |sum, [gradient, scale]: [f32; 2]| mul_add::<FMA>(gradient, scale, sum);
        let across = |sum, [gradient, scale, x]: [f32; 3]| mul_add::<FMA>(gradient * scale, (x - mean) * inverse, sum);
        let mean_gradient = total(fold([gradient, scale], 0.0, along)) / features as f32;
        let mean_product = total(fold([gradient, scale, x], 0.0, across)) / features as f32;
        let dx = &mut dx[row * features..][..features];
        for (((dx, x), gradient), scale) in dx.iter_mut().zip(x).zip(gradient).zip(scale) {
            let rest = mul_add::<FMA>(*gradient, *scale, -mean_gradient);
            dx.write(normal(inverse * mul_add::<FMA>((x - mean) * inverse, -mean_product, rest)));
        }
    }
}

/// Mean and `1/√(variance + eps)` of a row, the variance from differences to the mean.
#[inline(always)]
fn moments<const FMA: bool>(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = total(fold([x], 0.0, |sum, [x]| sum + x)) / x.len() as f32;
    let square = |sum, [x]: [f32; 1]| mul_add::<FMA>(x - mean, x - mean, sum);
    let variance = total(fold([x], 0.0, square)) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}
