//! Cross-entropy over a vocabulary, some rows' scores at a time.

use crate::linear::{self, Source};
use crate::memory::Output;
use crate::simd::{Level, exp, fold, largest, normal, total, vectorised};
use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Scores held at a time, about: 32 MiB.
const SCORES: usize = 8 << 20;

/// Weights below this power of e of the largest are dropped, as in attention.
const LEAST: f32 = -50.0;

/// The cross-entropies `[rows]` and, if `tracked`, what [`backward`] multiplies: the gradient of `x` for unit gradients (else empty). A row of `x`
/// must have a number.
pub(crate) fn forward(
    x: &FlexTensor,
    matrix: Source<'_>,
    targets: &[usize],
    tracked: bool,
) -> (FlexTensor, FlexTensor) {
    let ([outputs, width], rows) = (matrix.dims(), targets.len());
    let slopes_shape = Shape::from([if tracked { rows } else { 0 }, width]);
    assert!(width > 0, "scores of nothing");
    if rows * outputs == 0 {
        return (FlexTensor::zeros(Shape::from([rows]), DType::F32), FlexTensor::zeros(slopes_shape, DType::F32));
    }
    let x = x.to_contiguous();
    let x = x.storage::<f32>();
    let mut out = Output::new(Shape::from([rows]));
    let mut slopes = Output::new(slopes_shape);
    let most = (SCORES / outputs).max(16);
    // Equal chunks, so that the last is not a small one.
    let chunk = rows.div_ceil(rows.div_ceil(most));
    let level = Level::best();
    for (i, (targets, out)) in targets.chunks(chunk).zip(out.slots().chunks_mut(chunk)).enumerate() {
        let x = &x[i * chunk * width..][..targets.len() * width];
        let mut scores = Output::new(Shape::from([targets.len(), outputs]));
        linear::forward((x, [targets.len(), width]), matrix, &[], None, scores.slots());
        // SAFETY: `forward` wrote every score.
        let mut scores = unsafe { scores.finish() };
        let scores = scores.storage_mut::<f32>();
        scores.par_chunks_exact_mut(outputs).zip(targets).zip(out).for_each(|((scores, target), out)| {
            let mut loss = 0.0;
            row(level, scores, *target, tracked, &mut loss);
            out.write(loss);
        });
        if tracked {
            let slopes = &mut slopes.slots()[i * chunk * width..][..targets.len() * width];
            linear::input_gradient((scores, [targets.len(), outputs]), matrix, None, slopes);
        }
    }
    // SAFETY: each chunk wrote its rows of both, and `slopes` has none unless tracked.
    unsafe { (out.finish(), slopes.finish()) }
}

/// The gradient of `x`: each row of `slopes` times the gradient of its result.
pub(crate) fn backward(slopes: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let shape = slopes.layout().shape().clone();
    if shape.num_elements() == 0 {
        return FlexTensor::zeros(shape, DType::F32);
    }
    let (gradient, width) = (gradient.to_contiguous(), shape[1]);
    let mut out = Output::new(shape);
    let rows = slopes.storage::<f32>().chunks_exact(width).zip(gradient.storage::<f32>());
    for ((slopes, gradient), out) in rows.zip(out.slots().chunks_exact_mut(width)) {
        for (slope, out) in slopes.iter().zip(out) {
            out.write(normal(slope * gradient));
        }
    }
    // SAFETY: the loop wrote every row.
    unsafe { out.finish() }
}

vectorised! {
    /// The cross-entropy of one row of scores, which become their gradients if `tracked`.
    fn row(scores: &mut [f32], target: usize, tracked: bool, loss: &mut f32) = row_body
}

#[inline(always)]
fn row_body<const FMA: bool>(scores: &mut [f32], target: usize, tracked: bool, loss: &mut f32) {
    let most = largest(scores);
    let below = most - scores[target];
    for x in scores.iter_mut() {
        *x = exp::<FMA>(*x - most, LEAST);
    }
    let sum = total(fold([&*scores], 0.0, |sum, [x]| sum + x));
    *loss = below + sum.ln();
    if tracked {
        let inverse = 1.0 / sum;
        for x in scores.iter_mut() {
            *x *= inverse;
        }
        scores[target] -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_with_f64_at_every_level() {
        for (count, spread) in [(1, 1.0), (7, 10.0), (133, 30.0), (1000, 120.0)] {
            let scores: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 / 101.0 - 0.5) * spread).collect();
            let target = count / 2;
            let sum: f64 = scores.iter().map(|x| f64::from(*x).exp()).sum();
            let wanted = sum.ln() - f64::from(scores[target]);
            for level in Level::available() {
                for tracked in [false, true] {
                    let (mut scores, mut loss) = (scores.clone(), f32::NAN);
                    let before = scores.clone();
                    row(level, &mut scores, target, tracked, &mut loss);
                    // `exp` errs by 3e-7, the sum by less than 32 roundings more, the difference by one of the scores.
                    assert!((f64::from(loss) - wanted).abs() < 3e-6 + 1e-7 * f64::from(spread), "{loss}, not {wanted}");
                    if tracked {
                        for (i, (slope, score)) in scores.iter().zip(&before).enumerate() {
                            let wanted = f64::from(*score).exp() / sum - f64::from(u8::from(i == target));
                            assert!((f64::from(*slope) - wanted).abs() < 3e-6, "{i}: {slope}, not {wanted}");
                            assert!(!slope.is_subnormal());
                        }
                    }
                }
            }
        }
    }
}
