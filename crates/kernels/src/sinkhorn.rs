//! Optimal transport with an entropy term, in the log domain.

use crate::composed;
use crate::real::{Kind, Real, plain, primitive, tensor};
use crate::simd::{Level, vectorised};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Rows whose columns are summed together: their scores stay in the cache between the pass for the largest and the one for the sum.
const ROWS: usize = 16;

/// Columns handled at a time in these passes.
const COLUMNS: usize = 512;

/// Most tasks of a pass. Each has two numbers for every column, which are put together in the tasks' order.
const TASKS: usize = 32;

/// What [`sinkhorn`] is told beside the masses.
#[derive(Clone, Copy, Debug)]
pub struct Sinkhorn {
    /// The weight of the entropy term, above zero, in the unit of the cost.
    pub epsilon: f64,
    /// Most iterations.
    pub iterations: usize,
    /// The iteration ends once the columns' masses are off by this in all.
    pub tolerance: f64,
}

/// A solution of the transport problem.
#[derive(Clone, Debug)]
pub struct Transport {
    /// The potentials of the rows, `[n]`.
    pub f: Tensor<1>,
    /// The potentials of the columns, `[m]`.
    pub g: Tensor<1>,
    /// How often both were renewed.
    pub iterations: usize,
    /// `Σⱼ |Σᵢ Pᵢⱼ − bⱼ|` before the columns' potentials were renewed last.
    pub error: f64,
    /// The value, one number. Its gradient by the cost is the plan where the iteration has converged.
    pub value: Tensor<1>,
}

/// The plan `P` that moves the masses `a` to the masses `b` at the least `⟨P, C⟩ + ε·KL(P, a⊗b)`, by Sinkhorn's iteration on its potentials:
/// `fᵢ = −ε·log Σⱼ bⱼ·exp((gⱼ − Cᵢⱼ)/ε)`, and `g` likewise. [`plan`] gives the plan itself.
///
/// - `cost` `[n, m]`; ∞ forbids a pair, but each row and column needs a pair that is allowed.
/// - `a` `[n]` and `b` `[m]`, at least zero, each with the sum one.
///
/// Potentials of packages that leave the masses out of the plan's formula (POT's) are `f + ε·log a` and `g + ε·log b`, and their entropy
/// term differs from this one by a constant. On the processor f32 and f64 have a kernel that reads the cost once an iteration and holds
/// no other matrix; a tracked cost takes one more for the plan. The value has a gradient by the cost, by nothing else.
///
/// # Panics
/// If the shapes do not fit each other, one is empty, or `epsilon` is not above zero.
pub fn sinkhorn(cost: Tensor<2>, a: Tensor<1>, b: Tensor<1>, settings: &Sinkhorn) -> Transport {
    let [n, m] = cost.dims();
    assert!(n * m > 0, "a transport from {n} to {m} places is none");
    assert_eq!((a.dims(), b.dims()), ([n], [m]), "masses must be as many as the rows and columns of the cost");
    assert!(settings.epsilon > 0.0, "the weight of the entropy term must be above zero, not {}", settings.epsilon);
    let [a, b] = [a, b].map(plain);
    let bare = plain(cost.clone());
    let (f, g, iterations, error) = match kind(&bare, &[&a, &b]) {
        Some(Kind::F32) => solve::<f32>(bare.clone(), [&a, &b], settings),
        Some(Kind::F64) => solve::<f64>(bare.clone(), [&a, &b], settings),
        None => composed::sinkhorn(bare.clone(), a.clone(), b.clone(), settings),
    };
    // After the columns' potentials were renewed the masses agree in sum, and the dual value is this.
    let masses = |x: &Tensor<1>, mass: &Tensor<1>| {
        // A place without mass may have an infinite potential and counts for nothing.
        (x.clone() * mass.clone()).mask_fill(mass.clone().equal_elem(0.0), 0.0).sum()
    };
    let value = masses(&f, &a) + masses(&g, &b);
    let made = Transport { f, g, iterations, error, value };
    if !cost.is_autodiff() {
        return made;
    }
    // At the solution the value does not depend on the potentials, so that the plan is all of its gradient.
    let plan = plan(&made, bare.clone(), a, b, settings.epsilon);
    let forbidden = bare.clone().equal_elem(f64::INFINITY);
    let linear = |cost: Tensor<2>| (cost.mask_fill(forbidden.clone(), 0.0) * plan.clone()).sum();
    let value = linear(cost) + (made.value.clone() - linear(bare));
    Transport { value, ..made }
}

/// The plan of a solution, `Pᵢⱼ = aᵢ·bⱼ·exp((fᵢ + gⱼ − Cᵢⱼ)/ε)`, `[n, m]`, from what [`sinkhorn`] was given.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn plan(solution: &Transport, cost: Tensor<2>, a: Tensor<1>, b: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [n, m] = cost.dims();
    let Transport { f, g, .. } = solution;
    assert_eq!((a.dims(), b.dims()), (f.dims(), g.dims()), "masses must be those of the solution");
    assert_eq!((f.dims(), g.dims()), ([n], [m]), "the cost must be that of the solution");
    let (cost, [a, b]) = (plain(cost), [a, b].map(plain));
    match kind(&cost, &[&a, &b, f, g]) {
        Some(Kind::F32) => filled::<f32>(solution, cost, [&a, &b], epsilon),
        Some(Kind::F64) => filled::<f64>(solution, cost, [&a, &b], epsilon),
        None => composed::plan(solution, cost, a, b, epsilon),
    }
}

/// The type of all these tensors, where that has a kernel on their device.
fn kind(cost: &Tensor<2>, rest: &[&Tensor<1>]) -> Option<Kind> {
    Kind::of(cost).filter(|kind| rest.iter().all(|x| Kind::of(x) == Some(*kind)))
}

/// `log mass + potential/ε`, what the other side adds up.
fn weighed<T: Real>(potentials: &[T], logs: &[T], scale: T, out: &mut [T]) {
    for ((out, &potential), &log) in out.iter_mut().zip(potentials).zip(logs) {
        *out = potential * scale + log;
    }
}

fn solve<T: Loops>(
    cost: Tensor<2>,
    masses: [&Tensor<1>; 2],
    settings: &Sinkhorn,
) -> (Tensor<1>, Tensor<1>, usize, f64) {
    let [n, m] = cost.dims();
    let cost = primitive(cost);
    let cost = T::numbers(&cost);
    let [a, b] = masses.map(|mass| primitive(mass.clone()));
    let [a, b] = [&a, &b].map(T::numbers);
    let [log_a, log_b] = [a, b].map(|mass| mass.iter().map(|x| x.ln()).collect::<Vec<T>>());
    let (level, scale) = (Level::best(), T::of(1.0 / settings.epsilon));
    let (mut f, mut g) = (vec![T::ZERO; n], vec![T::ZERO; m]);
    let mut from_columns = vec![T::ZERO; m];
    // Equal parts, by the shape alone.
    let part = n.div_ceil(TASKS).next_multiple_of(ROWS).min(n);
    let mut partial: Vec<[Vec<T>; 2]> = vec![[vec![T::ZERO; m], vec![T::ZERO; m]]; n.div_ceil(part)];
    let (mut iterations, mut error) = (0, f64::INFINITY);
    while iterations < settings.iterations && error > settings.tolerance {
        weighed(&g, &log_b, scale, &mut from_columns);
        let parts = cost.par_chunks(part * m).zip(f.par_chunks_mut(part)).zip(log_a.par_chunks(part));
        parts.zip(partial.par_iter_mut()).for_each(|(((cost, f), log_a), [most, sum])| {
            T::half(level, cost, &from_columns, scale, log_a, [f, most, sum]);
        });
        let errors: Vec<f64> = g
            .par_chunks_mut(COLUMNS)
            .zip(b.par_chunks(COLUMNS))
            .enumerate()
            .map(|(at, (g, b))| {
                let mut error = 0.0;
                for (j, (g, b)) in (at * COLUMNS..).zip(g.iter_mut().zip(b)) {
                    let log = together(&partial, j);
                    if b.wide() > 0.0 {
                        error += b.wide() * ((g.wide() * scale.wide() + log).exp() - 1.0).abs();
                    }
                    *g = T::of(-log * settings.epsilon);
                }
                error
            })
            .collect();
        error = errors.iter().sum();
        iterations += 1;
    }
    (tensor(f, [n]), tensor(g, [m]), iterations, error)
}

/// The logarithm of what all tasks found for a column, added up in their order, so that it does not depend on the threads.
fn together<T: Real>(partial: &[[Vec<T>; 2]], column: usize) -> f64 {
    let most = partial.iter().fold(T::LOWEST, |most, [part, _]| larger(most, part[column]));
    let by = shift(most);
    let sum: f64 = partial.iter().map(|[top, sum]| (top[column] - by).wide().exp() * sum[column].wide()).sum();
    by.wide() + sum.ln()
}

fn filled<T: Loops>(solution: &Transport, cost: Tensor<2>, masses: [&Tensor<1>; 2], epsilon: f64) -> Tensor<2> {
    let [n, m] = cost.dims();
    let cost = primitive(cost);
    let cost = T::numbers(&cost);
    let scale = T::of(1.0 / epsilon);
    let sides = [(&solution.f, masses[0]), (&solution.g, masses[1])].map(|(potential, mass)| {
        let [potential, mass] = [potential, mass].map(|x| primitive(x.clone()));
        let logs: Vec<T> = T::numbers(&mass).iter().map(|x| x.ln()).collect();
        let mut out = vec![T::ZERO; logs.len()];
        weighed(T::numbers(&potential), &logs, scale, &mut out);
        out
    });
    let [rows, columns] = &sides;
    let mut out = vec![T::ZERO; n * m];
    let level = Level::best();
    out.par_chunks_mut(m).zip(cost.par_chunks(m)).zip(rows).for_each(|((out, cost), &row)| {
        T::row(level, cost, columns, scale, row, out);
    });
    tensor(out, [n, m])
}

/// The loops, compiled for each type and level.
trait Loops: Real {
    /// Renews the potentials of some rows, the first of `out`, and gives in the others for every column the largest logarithm of a share that comes from them and the sum
    /// of the shares over that one.
    fn half(level: Level, cost: &[Self], columns: &[Self], scale: Self, log_a: &[Self], out: [&mut [Self]; 3]);

    /// `exp(row + columnsⱼ − scale·costⱼ)`.
    fn row(level: Level, cost: &[Self], columns: &[Self], scale: Self, row: Self, out: &mut [Self]);
}

macro_rules! loops {
    ($kind:ty, $half:ident, $half_body:ident, $row:ident, $row_body:ident) => {
        vectorised! {
            fn $half(
                cost: &[$kind],
                columns: &[$kind],
                scale: $kind,
                log_a: &[$kind],
                out: [&mut [$kind]; 3],
            ) = $half_body
        }
        vectorised! {
            fn $row(cost: &[$kind], columns: &[$kind], scale: $kind, row: $kind, out: &mut [$kind]) = $row_body
        }

        #[inline(always)]
        fn $half_body<const FMA: bool>(
            cost: &[$kind],
            columns: &[$kind],
            scale: $kind,
            log_a: &[$kind],
            out: [&mut [$kind]; 3],
        ) {
            half::<$kind, FMA>(cost, columns, scale, log_a, out);
        }

        #[inline(always)]
        fn $row_body<const FMA: bool>(cost: &[$kind], columns: &[$kind], scale: $kind, row: $kind, out: &mut [$kind]) {
            for ((out, &cost), &column) in out.iter_mut().zip(cost).zip(columns) {
                *out = Real::exp::<FMA>(Real::mul_add::<FMA>(cost, -scale, row + column));
            }
        }

        impl Loops for $kind {
            fn half(level: Level, cost: &[Self], columns: &[Self], scale: Self, log_a: &[Self], out: [&mut [Self]; 3]) {
                $half(level, cost, columns, scale, log_a, out);
            }

            fn row(level: Level, cost: &[Self], columns: &[Self], scale: Self, row: Self, out: &mut [Self]) {
                $row(level, cost, columns, scale, row, out);
            }
        }
    };
}

loops!(f32, half_f32, half_f32_body, row_f32, row_f32_body);
loops!(f64, half_f64, half_f64_body, row_f64, row_f64_body);

/// Partial results of a row, so that the compiler can use vectors.
const LANES: usize = 16;

#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// What is taken away before powers of e: nothing where all is −∞, so that −∞ stays −∞.
#[inline(always)]
fn shift<T: Real>(most: T) -> T {
    if most == T::LOWEST { T::ZERO } else { most }
}

#[inline(always)]
fn half<T: Real, const FMA: bool>(cost: &[T], columns: &[T], scale: T, log_a: &[T], out: [&mut [T]; 3]) {
    let ([f, most, sum], width) = (out, columns.len());
    most.fill(T::LOWEST);
    sum.fill(T::ZERO);
    for ((cost, log_a), f) in cost.chunks(ROWS * width).zip(log_a.chunks(ROWS)).zip(f.chunks_mut(ROWS)) {
        let mut weights = [T::ZERO; ROWS];
        for (((cost, log_a), f), weight) in cost.chunks(width).zip(log_a).zip(f).zip(&mut weights) {
            let log = log_sum::<T, FMA>(cost, columns, scale);
            *f = -log / scale;
            *weight = *log_a - log;
        }
        for start in (0..width).step_by(COLUMNS) {
            let end = width.min(start + COLUMNS);
            let mut top = [T::LOWEST; COLUMNS];
            for (cost, &weight) in cost.chunks(width).zip(&weights) {
                for (top, &cost) in top.iter_mut().zip(&cost[start..end]) {
                    *top = larger(*top, Real::mul_add::<FMA>(cost, -scale, weight));
                }
            }
            let mut shares = [T::ZERO; COLUMNS];
            for (cost, &weight) in cost.chunks(width).zip(&weights) {
                for ((share, &top), &cost) in shares.iter_mut().zip(&top).zip(&cost[start..end]) {
                    *share = *share + Real::exp::<FMA>(Real::mul_add::<FMA>(cost, -scale, weight) - shift(top));
                }
            }
            let known = most[start..end].iter_mut().zip(&mut sum[start..end]);
            for ((most, sum), (&top, &share)) in known.zip(top.iter().zip(&shares)) {
                let next = larger(*most, top);
                let [old, new] = [*most, top].map(|x| Real::exp::<FMA>(x - shift(next)));
                *sum = *sum * old + share * new;
                *most = next;
            }
        }
    }
}

/// `log Σⱼ exp(columnsⱼ − scale·costⱼ)`.
#[inline(always)]
fn log_sum<T: Real, const FMA: bool>(cost: &[T], columns: &[T], scale: T) -> T {
    let ((cost, cost_rest), (columns, rest)) = (cost.as_chunks::<LANES>(), columns.as_chunks::<LANES>());
    let term = |cost: T, column: T| Real::mul_add::<FMA>(cost, -scale, column);
    let mut top = [T::LOWEST; LANES];
    for (cost, columns) in cost.iter().zip(columns) {
        for i in 0..LANES {
            top[i] = larger(top[i], term(cost[i], columns[i]));
        }
    }
    let mut most = top.into_iter().fold(T::LOWEST, larger);
    for (&cost, &column) in cost_rest.iter().zip(rest) {
        most = larger(most, term(cost, column));
    }
    let by = shift(most);
    let mut sums = [T::ZERO; LANES];
    for (cost, columns) in cost.iter().zip(columns) {
        for i in 0..LANES {
            sums[i] = sums[i] + Real::exp::<FMA>(term(cost[i], columns[i]) - by);
        }
    }
    for (&cost, &column) in cost_rest.iter().zip(rest) {
        sums[0] = sums[0] + Real::exp::<FMA>(term(cost, column) - by);
    }
    by + sums.into_iter().fold(T::ZERO, |a, b| a + b).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level gives the numbers of a plain loop, whatever is left over after whole vectors, with pairs that are forbidden.
    #[test]
    fn levels_agree_with_a_plain_loop() {
        for (rows, width) in [(1, 1), (3, 7), (17, 33), (40, 530)] {
            let cost: Vec<f64> = (0..rows * width)
                .map(|i| if i % 11 == 3 { f64::INFINITY } else { f64::from((i * 37 % 101) as f32) * 0.05 })
                .collect();
            let columns: Vec<f64> = (0..width).map(|j| (j * 13 % 29) as f64 * 0.1 - 4.0).collect();
            let log_a: Vec<f64> = (0..rows).map(|i| -1.0 - (i % 5) as f64).collect();
            let scale = 8.0;
            let wanted: Vec<f64> = (0..rows)
                .map(|i| (0..width).map(|j| (columns[j] - scale * cost[i * width + j]).exp()).sum::<f64>().ln())
                .collect();
            let column = |j: usize| -> f64 {
                (0..rows).map(|i| (log_a[i] - wanted[i] - scale * cost[i * width + j]).exp()).sum::<f64>().ln()
            };
            for level in Level::available() {
                let (mut f, mut most, mut sum) = (vec![0.0; rows], vec![0.0; width], vec![0.0; width]);
                f64::half(level, &cost, &columns, scale, &log_a, [&mut f, &mut most, &mut sum]);
                let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
                let (mut f32s, mut most32, mut sum32) = (narrow(&f), narrow(&most), narrow(&sum));
                f32::half(
                    level,
                    &narrow(&cost),
                    &narrow(&columns),
                    scale as f32,
                    &narrow(&log_a),
                    [&mut f32s, &mut most32, &mut sum32],
                );
                let close = |got: f64, wanted: f64, bound: f64| {
                    got == wanted || (got - wanted).abs() <= bound * (1.0 + wanted.abs())
                };
                for i in 0..rows {
                    assert!(close(-f[i] * scale, wanted[i], 1e-13), "{} of {rows}×{width}", f[i]);
                    assert!(close(f64::from(-f32s[i]) * scale, wanted[i], 1e-5), "{} of {rows}×{width}", f32s[i]);
                }
                for j in 0..width {
                    assert!(close(most[j] + sum[j].ln(), column(j), 1e-13), "column {j} of {rows}×{width}");
                    assert!(close(f64::from(most32[j] + sum32[j].ln()), column(j), 1e-4), "column {j} in f32");
                }
            }
        }
    }
}
