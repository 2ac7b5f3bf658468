//! Steps of optimisers with moments in one pass over memory, and the two passes that their host makes.
//!
//! For tensors of any rank as `Tensor<1>`, which element-wise work allows; all tensors of a call have one shape. There are kernels for
//! f32 on the processor, which write over the tensors they are given where nothing else holds their buffers, and the same formulas
//! composed of Burn operations elsewhere. Sums are f64. Nothing is recorded for gradients.

use crate::elementwise::CHUNK;
use crate::memory::Output;
use crate::simd::{Level, mul_add, normal, vectorised};
use crate::{composed, has_kernels};
use burn::backend::Flex;
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Partial sums of a chunk, so that the compiler can use vectors.
const LANES: usize = 16;

/// Numbers of a chunk whose terms are held for the sums; whole vectors of lanes.
const BLOCK: usize = 256;

/// The numbers of an AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct Adamw {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// What the root of the second moment is divided by.
    pub root: f64,
    /// Guards the division.
    pub eps: f64,
    /// What the first moment is multiplied by.
    pub rate: f64,
}

/// The movement `−rate·m/(√v/root + eps)` with the new moments, and these: `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`.
///
/// # Panics
/// If the shapes differ, or f32 tensors are tracked.
pub fn adamw(g: Tensor<1>, [m, v]: [Tensor<1>; 2], step: Adamw) -> (Tensor<1>, [Tensor<1>; 2]) {
    if !fused([&g, &m, &v]) {
        return composed::adamw(g, [m, v], step);
    }
    let [g, mut m, mut v] = [g, m, v].map(primitive);
    let mut out = Output::new(g.layout().shape().clone());
    let level = Level::best();
    chunks(out.slots(), g.storage::<f32>(), [m.storage_mut::<f32>(), v.storage_mut::<f32>()], |out, g, [m, v]| {
        adamw_chunk(level, g, m, v, out, &step)
    });
    // SAFETY: the chunks cover all slots, and `adamw_chunk` writes one number for each of the gradient.
    let movement = unsafe { out.finish() };
    (tensor(movement), [m, v].map(tensor))
}

/// The numbers of a D-Adapt Adam step.
#[derive(Clone, Copy, Debug)]
pub struct DadaptAdam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment; its root is that of the sum.
    pub beta2: f64,
    /// Guards the division.
    pub eps: f64,
    /// The rate of the step.
    pub rate: f64,
    /// The relative rate of this tensor, of its first moment alone.
    pub scale: f64,
}

/// What [`dadapt_adam`] gives.
#[derive(Clone, Debug)]
pub struct DadaptAdamStep {
    /// What is added to the parameter, `−m/(√v + eps)` with the new moments.
    pub movement: Tensor<1>,
    /// The new `m`, `v` and `s`.
    pub state: [Tensor<1>; 3],
    /// `⟨g, s/(√v + eps)⟩` of the old `v` and `s`, one f64.
    pub product: Tensor<1>,
    /// `‖s‖₁` of the new `s`, one f64.
    pub norm: Tensor<1>,
}

/// A step of D-Adapt Adam: `m ← β₁m + (1−β₁)·scale·rate·g`, `v ← β₂v + (1−β₂)g²`, `s ← √β₂·s + (1−√β₂)·rate·g`.
///
/// # Panics
/// As [`adamw`].
pub fn dadapt_adam(g: Tensor<1>, [m, v, s]: [Tensor<1>; 3], step: DadaptAdam) -> DadaptAdamStep {
    if !fused([&g, &m, &v, &s]) {
        return composed::dadapt_adam(g, [m, v, s], step);
    }
    let [g, mut m, mut v, mut s] = [g, m, v, s].map(primitive);
    let mut out = Output::new(g.layout().shape().clone());
    let level = Level::best();
    let sums = chunks(
        out.slots(),
        g.storage::<f32>(),
        [m.storage_mut::<f32>(), v.storage_mut::<f32>(), s.storage_mut::<f32>()],
        |out, g, [m, v, s]| {
            let mut sums = [0.0; 2];
            dadapt_chunk(level, g, [m, v, s], out, &step, &mut sums);
            sums
        },
    );
    // SAFETY: the chunks cover all slots, and `dadapt_chunk` writes one number for each of the gradient.
    let movement = unsafe { out.finish() };
    let [product, norm] = [0, 1].map(|at| number(sums.iter().map(|sums| sums[at]).sum()));
    DadaptAdamStep { movement: tensor(movement), state: [m, v, s].map(tensor), product, norm }
}

/// `factor·x + movement`, and the sum of its absolute values, one f64: finite where all numbers are.
///
/// # Panics
/// As [`adamw`].
pub fn moved(x: Tensor<1>, movement: Tensor<1>, factor: f64) -> (Tensor<1>, Tensor<1>) {
    if !fused([&x, &movement]) {
        return composed::moved(x, movement, factor);
    }
    let [x, mut movement] = [x, movement].map(primitive);
    let (level, x, slots) = (Level::best(), x.storage::<f32>(), movement.storage_mut::<f32>());
    assert_eq!(x.len(), slots.len(), "a movement must have the shape of what it moves");
    let chunk = |(slots, x): (&mut [f32], &[f32])| {
        let mut sum = 0.0;
        moved_chunk(level, x, slots, factor as f32, &mut sum);
        sum
    };
    let sums: Vec<f64> = if slots.len() <= CHUNK {
        vec![chunk((slots, x))]
    } else {
        slots.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).map(chunk).collect()
    };
    (tensor(movement), number(sums.iter().sum()))
}

/// `Σ x²`, one f64: finite where all numbers are.
///
/// # Panics
/// If an f32 tensor is tracked.
pub fn squares(x: Tensor<1>) -> Tensor<1> {
    if !fused([&x]) {
        return composed::squares(x);
    }
    let (level, x) = (Level::best(), primitive(x));
    let chunk = |x: &[f32]| {
        let mut sum = 0.0;
        squares_chunk(level, x, &mut sum);
        sum
    };
    let sums: Vec<f64> = x.storage::<f32>().par_chunks(CHUNK).map(chunk).collect();
    number(sums.iter().sum())
}

/// Whether all have kernels and none is on a tape's device.
fn fused<const N: usize>(tensors: [&Tensor<1>; N]) -> bool {
    tensors.iter().all(|x| !x.is_autodiff() && has_kernels(x))
}

/// The buffer of a plain tensor in row-major order. No other handle is left behind, so that it stays the buffer's only owner.
fn primitive(x: Tensor<1>) -> FlexTensor {
    let x = x.try_into_primitive::<Flex>().expect("`fused` found a plain tensor of this backend");
    if x.is_contiguous() && x.storage::<f32>().len() == x.layout().shape().num_elements() {
        x
    } else {
        x.to_contiguous()
    }
}

fn tensor(x: FlexTensor) -> Tensor<1> {
    Tensor::from_primitive::<Flex>(x)
}

fn number(x: f64) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![x], Shape::from([1])), (&Device::flex(), DType::F64))
}

/// Calls `f` for every chunk of the gradient with its part of the output and the state. What it gives stands in the chunks' order, which
/// does not depend on the threads.
fn chunks<T: Send, const N: usize>(
    out: &mut [MaybeUninit<f32>],
    g: &[f32],
    state: [&mut [f32]; N],
    f: impl Fn(&mut [MaybeUninit<f32>], &[f32], [&mut [f32]; N]) -> T + Sync,
) -> Vec<T> {
    for slots in &state {
        assert_eq!(slots.len(), g.len(), "a state must have the shape of the gradient");
    }
    if g.len() <= CHUNK {
        return vec![f(out, g, state)];
    }
    let mut parts = state.map(|slots| slots.chunks_mut(CHUNK));
    let state: Vec<[&mut [f32]; N]> = (0..g.len().div_ceil(CHUNK))
        .map(|_| parts.each_mut().map(|parts| parts.next().expect("as many chunks as the gradient has")))
        .collect();
    let parts = out.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(state);
    parts.map(|((out, g), state)| f(out, g, state)).collect()
}

vectorised! {
    /// A chunk of an AdamW step.
    fn adamw_chunk(g: &[f32], m: &mut [f32], v: &mut [f32], out: &mut [MaybeUninit<f32>], step: &Adamw) = adamw_body
}
vectorised! {
    /// A chunk of a D-Adapt Adam step; the product and the norm are added to `sums`.
    fn dadapt_chunk(
        g: &[f32],
        state: [&mut [f32]; 3],
        out: &mut [MaybeUninit<f32>],
        step: &DadaptAdam,
        sums: &mut [f64; 2],
    ) = dadapt_body
}
vectorised! {
    /// A chunk of a movement, which becomes what it leads to.
    fn moved_chunk(x: &[f32], movement: &mut [f32], factor: f32, sum: &mut f64) = moved_body
}
vectorised! {
    /// The sum of squares of a chunk.
    fn squares_chunk(x: &[f32], sum: &mut f64) = squares_body
}

#[inline(always)]
fn adamw_body<const FMA: bool>(g: &[f32], m: &mut [f32], v: &mut [f32], out: &mut [MaybeUninit<f32>], step: &Adamw) {
    let [beta1, beta2] = [step.beta1, step.beta2].map(|beta| beta as f32);
    let [new1, new2] = [step.beta1, step.beta2].map(|beta| (1.0 - beta) as f32);
    let [root, eps, rate] = [1.0 / step.root, step.eps, -step.rate].map(|x| x as f32);
    for (((out, &g), m), v) in out.iter_mut().zip(g).zip(m).zip(v) {
        *m = normal(mul_add::<FMA>(*m, beta1, g * new1));
        *v = normal(mul_add::<FMA>(*v, beta2, g * g * new2));
        out.write(normal(*m / mul_add::<FMA>(v.sqrt(), root, eps) * rate));
    }
}

#[inline(always)]
fn dadapt_body<const FMA: bool>(
    g: &[f32],
    [m, v, s]: [&mut [f32]; 3],
    out: &mut [MaybeUninit<f32>],
    step: &DadaptAdam,
    sums: &mut [f64; 2],
) {
    let b = step.beta2.sqrt();
    let [beta1, beta2, decay, eps] = [step.beta1, step.beta2, b, step.eps].map(|x| x as f32);
    let new1 = (step.scale * step.rate * (1.0 - step.beta1)) as f32;
    let [new2, new] = [1.0 - step.beta2, step.rate * (1.0 - b)].map(|x| x as f32);
    let mut partial = [[0.0; LANES]; 2];
    let mut state = m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK)).zip(s.chunks_mut(BLOCK));
    for (g, out) in g.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let ((m, v), s) = state.next().expect("the state has the length of the gradient");
        // Kept apart from the sums, each of the two loops becomes one of whole vectors.
        let mut terms = [[0.0; BLOCK]; 2];
        let [products, sizes] = &mut terms;
        let numbers = g.iter().zip(m).zip(v).zip(s).zip(out).zip(products).zip(sizes);
        for ((((((&g, m), v), s), out), product), size) in numbers {
            *product = g * (*s / (v.sqrt() + eps));
            *m = normal(mul_add::<FMA>(*m, beta1, g * new1));
            *v = normal(mul_add::<FMA>(*v, beta2, g * g * new2));
            *s = normal(mul_add::<FMA>(*s, decay, g * new));
            *size = s.abs();
            out.write(normal(-*m / (v.sqrt() + eps)));
        }
        for (partial, terms) in partial.iter_mut().zip(&terms) {
            for terms in terms.as_chunks::<LANES>().0 {
                for i in 0..LANES {
                    partial[i] += f64::from(terms[i]);
                }
            }
        }
    }
    for (sum, partial) in sums.iter_mut().zip(partial) {
        *sum += partial.iter().sum::<f64>();
    }
}

#[inline(always)]
fn moved_body<const FMA: bool>(x: &[f32], movement: &mut [f32], factor: f32, sum: &mut f64) {
    let mut partial = [0.0; LANES];
    let ((x, x_rest), (movement, rest)) = (x.as_chunks::<LANES>(), movement.as_chunks_mut::<LANES>());
    for (x, movement) in x.iter().zip(movement) {
        for i in 0..LANES {
            movement[i] = normal(mul_add::<FMA>(x[i], factor, movement[i]));
            partial[i] += f64::from(movement[i].abs());
        }
    }
    for (x, movement) in x_rest.iter().zip(rest) {
        *movement = normal(mul_add::<FMA>(*x, factor, *movement));
        partial[0] += f64::from(movement.abs());
    }
    *sum += partial.iter().sum::<f64>();
}

#[inline(always)]
fn squares_body<const FMA: bool>(x: &[f32], sum: &mut f64) {
    let mut partial = [0.0f64; LANES];
    let (x, rest) = x.as_chunks::<LANES>();
    for x in x {
        for i in 0..LANES {
            let x = f64::from(x[i]);
            partial[i] = if FMA { x.mul_add(x, partial[i]) } else { partial[i] + x * x };
        }
    }
    *sum += partial.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers with some that decay to subnormals.
    fn inputs(count: usize) -> [Vec<f32>; 4] {
        let wave = |i: usize, by: usize| ((i * by % 97) as f32 - 48.0) * 0.02;
        let small = |i: usize, x: f32| if i.is_multiple_of(5) { 1.2e-38 } else { x };
        let g = (0..count).map(|i| if i.is_multiple_of(5) { 0.0 } else { wave(i, 13) }).collect();
        let m = (0..count).map(|i| small(i, wave(i, 29))).collect();
        let v = (0..count).map(|i| small(i, wave(i, 31).powi(2))).collect();
        let s = (0..count).map(|i| small(i, wave(i, 37))).collect();
        [g, m, v, s]
    }

    /// Every level gives the numbers of a plain loop in f64, and no subnormal one.
    #[test]
    fn levels_agree_with_f64() {
        let step = DadaptAdam { beta1: 0.9, beta2: 0.99, eps: 1e-8, rate: 0.01, scale: 2.0 };
        let b = step.beta2.sqrt();
        for count in [0, 1, 15, 16, 67, 1003] {
            let [g, m, v, s] = inputs(count);
            let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
            let [wg, wm, wv, ws] = [&g, &m, &v, &s].map(|x| wide(x));
            for level in Level::available() {
                let (mut m, mut v, mut s) = (m.clone(), v.clone(), s.clone());
                let (mut out, mut sums) = (vec![MaybeUninit::new(f32::NAN); count], [0.0; 2]);
                dadapt_chunk(level, &g, [&mut m, &mut v, &mut s], &mut out, &step, &mut sums);
                let mut wanted = [0.0; 2];
                for i in 0..count {
                    wanted[0] += wg[i] * ws[i] / (wv[i].sqrt() + step.eps);
                    let new = [
                        0.9 * wm[i] + 0.1 * 2.0 * 0.01 * wg[i],
                        0.99 * wv[i] + 0.01 * wg[i] * wg[i],
                        b * ws[i] + (1.0 - b) * 0.01 * wg[i],
                    ];
                    wanted[1] += new[2].abs();
                    // SAFETY: made from a number and then written.
                    let movement = unsafe { out[i].assume_init() };
                    let all = [m[i], v[i], s[i], movement];
                    let exact = [new[0], new[1], new[2], -new[0] / (new[1].sqrt() + step.eps)];
                    for (got, exact) in all.into_iter().zip(exact) {
                        assert!(!got.is_subnormal(), "{got} at {i}");
                        assert!((f64::from(got) - exact).abs() <= 1e-6 * exact.abs() + 3e-30, "{got}, not {exact}");
                    }
                }
                for (got, wanted) in sums.iter().zip(wanted) {
                    assert!((got - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()), "{got}, not {wanted} of {count}");
                }
            }
        }
    }
}
