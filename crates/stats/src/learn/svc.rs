use super::calibrate::Platt;
use super::kernel::{Kernel, Likeness, columns, scale};
use super::table::{Table, logistic, positive, queries, restored, saved, softmax};
use super::{Fitted, Labels, Learner, select};
use crate::linalg::solve;
use acclimate_core::{Error, Result, Rng};
use ndarray::{Array2, ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A support vector classifier.
///
/// For each pair of classes it minimises `½ αᵀQα − Σ α` over `0 ≤ αᵢ ≤ C wᵢ` and `Σ yᵢ αᵢ = 0`, where `Qᵢⱼ = yᵢ yⱼ k(xᵢ, xⱼ)`, two
/// multipliers at a time: the one that violates optimality most, and of the others that with which the objective falls most to second
/// order. Multipliers that stay at a bound are set aside meanwhile.
///
/// With two classes the decisions are `−f` and `f`. With more they are, for each class, the pairs it wins plus less than a third of one for
/// the sum of its values of `f`. A class without rows never wins; where there is one class alone, the answers are sure of it.
///
/// Answers are, with `probability`, Platt's logistic of `f`, fitted to values of `f` from five fits that have not seen the row, and with
/// more than two classes coupled over the pairs; without it the logistic of `f`, or the softmax of the decisions, which are no calibrated
/// probabilities.
///
/// The variance that sets `gamma` is of all rows given, whatever their weights, as in scikit-learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Svc {
    /// The kernel.
    pub kernel: Kernel,
    /// The price of a violated margin, times the row's weight.
    pub c: f64,
    /// The width of the kernel; none is one over the number of features times the variance of all numbers.
    pub gamma: Option<f64>,
    /// How far the optimality conditions may be violated.
    pub tolerance: f64,
    /// Whether to fit probabilities.
    pub probability: bool,
    /// Draws the folds for the probabilities.
    pub seed: u64,
    /// Memory for rows of the kernel matrix, in mebibytes.
    pub cache: usize,
}

impl Default for Svc {
    fn default() -> Self {
        let kernel = Kernel::Rbf;
        Self { kernel, c: 1.0, gamma: None, tolerance: 1e-3, probability: false, seed: 0, cache: 256 }
    }
}

impl Learner for Svc {
    fn fit(&self, x: ArrayView2<'_, f64>, y: &Labels, weights: Option<ArrayView1<'_, f64>>) -> Result<Box<dyn Fitted>> {
        positive(NAME, "c", self.c)?;
        positive(NAME, "tolerance", self.tolerance)?;
        if let Some(gamma) = self.gamma {
            positive(NAME, "gamma", gamma)?;
        }
        let table = Table::new(NAME, x, y, weights)?;
        let gamma = self.gamma.unwrap_or_else(|| scale(x));
        let kernel = Likeness { kernel: self.kernel, gamma };
        let (of, count) = table.y.classes(NAME)?;
        let mut rows_of = vec![Vec::new(); count];
        for (row, class) in of.iter().enumerate() {
            rows_of[*class].push(row);
        }
        let classes: Vec<usize> = (0..count).filter(|class| !rows_of[*class].is_empty()).collect();
        let pairs: Vec<(usize, usize)> = (0..classes.len())
            .flat_map(|low| (low + 1..classes.len()).map(move |high| (low, high)))
            .map(|(low, high)| (classes[low], classes[high]))
            .collect();
        let machines: Vec<(Machine, Vec<usize>)> = pairs
            .par_iter()
            .map(|(low, high)| self.pair(&kernel, &table, &rows_of[*low], &rows_of[*high], pairs.len()))
            .collect::<Result<_>>()?;
        let mut support: Vec<usize> = machines.iter().flat_map(|(_, rows)| rows).copied().collect();
        support.sort_unstable();
        support.dedup();
        let place = |row: usize| support.binary_search(&row).expect("the support holds the rows of every pair");
        let machines = machines
            .into_iter()
            .map(|(machine, rows)| Machine { support: rows.into_iter().map(place).collect(), ..machine })
            .collect();
        let support = select(table.x.view(), &support);
        Ok(Box::new(FittedSvc { kernel, classes, count, support, machines }))
    }

    fn restore(&self, value: serde_json::Value) -> Result<Box<dyn Fitted>> {
        Ok(Box::new(restored::<FittedSvc>(NAME, value)?))
    }
}

impl Svc {
    /// The machine between the rows of two classes, and the rows of its support.
    fn pair(
        &self,
        kernel: &Likeness,
        table: &Table,
        low: &[usize],
        high: &[usize],
        pairs: usize,
    ) -> Result<(Machine, Vec<usize>)> {
        let rows: Vec<usize> = low.iter().chain(high).copied().collect();
        let x = select(table.x.view(), &rows);
        let y: Vec<f64> = (0..rows.len()).map(|row| if row < low.len() { -1.0 } else { 1.0 }).collect();
        let weights: Vec<f64> = rows.iter().map(|row| table.weights[*row]).collect();
        // Pairs are fitted at the same time and share the memory.
        let memory = (self.cache << 20) / pairs.max(1);
        let problem = Problem { kernel: *kernel, x, y, c: weights.iter().map(|weight| self.c * weight).collect() };
        let platt = if self.probability { Some(self.platt(&problem, &weights, memory)?) } else { None };
        let solution = problem.solve(self.tolerance, memory)?;
        let support: Vec<usize> = (0..rows.len()).filter(|row| solution.pull[*row] != 0.0).collect();
        let pull = support.iter().map(|row| solution.pull[*row]).collect();
        let machine = Machine { support: Vec::new(), pull, bias: solution.bias, platt };
        Ok((machine, support.into_iter().map(|row| rows[row]).collect()))
    }

    /// Platt's logistic, fitted to what five fits say of the rows that they have not seen.
    fn platt(&self, problem: &Problem, weights: &[f64], memory: usize) -> Result<Platt> {
        let fold = self.folds(problem);
        let unseen: Vec<(Vec<usize>, Vec<f64>)> = (0..FOLDS)
            .into_par_iter()
            .map(|this| {
                let (held, train): (Vec<usize>, Vec<usize>) = (0..fold.len()).partition(|row| fold[*row] == this);
                let train = problem.select(&train);
                let values = match (train.y.contains(&-1.0), train.y.contains(&1.0)) {
                    (true, true) => {
                        let solution = train.solve(self.tolerance, memory / FOLDS)?;
                        let values = train.kernel.values(select(problem.x.view(), &held).view(), train.x.view());
                        let pull = ArrayView1::from(&solution.pull);
                        (values.dot(&pull) + solution.bias).to_vec()
                    }
                    // Where a class has one row alone, the fit without it is sure of the other.
                    (_, high) => vec![if high { 1.0 } else { -1.0 }; held.len()],
                };
                Ok((held, values))
            })
            .collect::<Result<_>>()?;
        let mut values = vec![0.0; fold.len()];
        for (held, found) in unseen {
            for (row, value) in held.into_iter().zip(found) {
                values[row] = value;
            }
        }
        let high: Vec<bool> = problem.y.iter().map(|y| *y > 0.0).collect();
        Platt::fit(&values, &high, Some(weights))
    }

    /// The fold of each row. Rows are first brought into an order of their own, so that the order they came in does not matter.
    fn folds(&self, problem: &Problem) -> Vec<usize> {
        let mut order: Vec<usize> = (0..problem.y.len()).collect();
        let bits = |row: usize| problem.x.row(row).iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        order.sort_by_cached_key(|row| (problem.y[*row] > 0.0, bits(*row), problem.c[*row].to_bits()));
        Rng::new(self.seed, "svc folds", 0).shuffle(&mut order);
        order.sort_by_key(|row| problem.y[*row] > 0.0);
        let mut fold = vec![0; order.len()];
        for (place, row) in order.into_iter().enumerate() {
            fold[row] = place % FOLDS;
        }
        fold
    }
}

const NAME: &str = "svc";
const FOLDS: usize = 5; // LIBSVM's
/// In place of a curvature that is not positive: LIBSVM's.
const FLAT: f64 = 1e-12;

/// The dual problem between two classes, `y` of −1 and 1.
struct Problem {
    kernel: Likeness,
    x: Array2<f64>,
    y: Vec<f64>,
    c: Vec<f64>,
}

/// `f(x) = Σ pullᵢ k(xᵢ, x) + bias`.
struct Solution {
    pull: Vec<f64>,
    bias: f64,
}

impl Problem {
    fn select(&self, rows: &[usize]) -> Self {
        let of = |values: &[f64]| rows.iter().map(|row| values[*row]).collect();
        Self { kernel: self.kernel, x: select(self.x.view(), rows), y: of(&self.y), c: of(&self.c) }
    }

    fn solve(&self, tolerance: f64, memory: usize) -> Result<Solution> {
        let (y, c, n) = (&self.y, &self.c, self.y.len());
        let mut rows = Rows::new(self, memory);
        let diagonal: Vec<f64> = self.x.rows().into_iter().map(|row| self.kernel.own(row)).collect();
        let mut alpha = vec![0.0; n];
        // What the bias would have to be for the row to lie on its margin: yᵢ − Σ αⱼ yⱼ k(xᵢ, xⱼ). At the optimum none that can rise is
        // above one that can fall.
        let mut level = y.clone();
        let mut rises: Vec<bool> = y.iter().map(|y| *y > 0.0).collect();
        let mut falls: Vec<bool> = y.iter().map(|y| *y < 0.0).collect();
        let mut active: Vec<usize> = (0..n).collect();
        let period = n.min(1000);
        let (mut until, mut opened) = (period, false);
        for _ in 0..LIMIT.max(100 * n) {
            until -= 1;
            if until == 0 {
                until = period;
                let (top, bottom) = bounds(&active, &level, &rises, &falls);
                if !opened && top - bottom <= 10.0 * tolerance {
                    opened = true;
                    self.refresh(&mut rows, &mut active, &alpha, &mut level);
                } else {
                    // One that can only rise and is below all that can fall, or the other way round, is at its bound for good, most likely.
                    active.retain(|k| (rises[*k] || level[*k] <= top) && (falls[*k] || level[*k] >= bottom));
                }
            }
            let mut pair = choose(&active, &level, &rises, &falls, &diagonal, tolerance, &mut rows);
            if pair.is_none() && active.len() < n {
                self.refresh(&mut rows, &mut active, &alpha, &mut level);
                until = 1;
                pair = choose(&active, &level, &rises, &falls, &diagonal, tolerance, &mut rows);
            }
            let Some((i, j)) = pair else {
                let bias = bias(&level, &rises, &falls);
                let pull = alpha.iter().zip(y).map(|(alpha, y)| alpha * y).collect();
                return Ok(Solution { pull, bias });
            };
            let (from, to) = rows.two(i, j);
            let curvature = diagonal[i] + diagonal[j] - 2.0 * from[j];
            let wish = (level[i] - level[j]) / if curvature > 0.0 { curvature } else { FLAT };
            let room = |k: usize, rising: bool| if rising { c[k] - alpha[k] } else { alpha[k] };
            let (above, below) = (room(i, y[i] > 0.0), room(j, y[j] < 0.0));
            let step = wish.min(above).min(below);
            for k in &active {
                level[*k] -= step * (from[*k] - to[*k]);
            }
            for (k, rising, room) in [(i, y[i] > 0.0, above), (j, y[j] < 0.0, below)] {
                alpha[k] = match (step < room, rising) {
                    (true, true) => alpha[k] + step,
                    (true, false) => alpha[k] - step,
                    (false, true) => c[k],
                    (false, false) => 0.0,
                };
                let (can_grow, can_shrink) = (alpha[k] < c[k], alpha[k] > 0.0);
                (rises[k], falls[k]) = if y[k] > 0.0 { (can_grow, can_shrink) } else { (can_shrink, can_grow) };
            }
        }
        Err(Error::Other(format!(
            "{NAME}: the tolerance `{tolerance}` was not reached; bring the features to one scale, or lower `c`"
        )))
    }

    /// Makes all rows active again, with their levels as they are now.
    fn refresh(&self, rows: &mut Rows<'_>, active: &mut Vec<usize>, alpha: &[f64], level: &mut [f64]) {
        let n = alpha.len();
        if active.len() == n {
            return;
        }
        let mut rest: Vec<bool> = vec![true; n];
        for k in active.iter() {
            rest[*k] = false;
        }
        let rest: Vec<usize> = (0..n).filter(|k| rest[*k]).collect();
        for k in &rest {
            level[*k] = self.y[*k];
        }
        for (i, alpha) in alpha.iter().enumerate().filter(|(_, alpha)| **alpha != 0.0) {
            let (row, pull) = (rows.one(i), alpha * self.y[i]);
            for k in &rest {
                level[*k] -= pull * row[*k];
            }
        }
        *active = (0..n).collect();
    }
}

const LIMIT: usize = 10_000_000; // LIBSVM's

/// The highest level that can rise and the lowest that can fall.
fn bounds(active: &[usize], level: &[f64], rises: &[bool], falls: &[bool]) -> (f64, f64) {
    let mut bounds = (f64::NEG_INFINITY, f64::INFINITY);
    for k in active {
        if rises[*k] {
            bounds.0 = bounds.0.max(level[*k]);
        }
        if falls[*k] {
            bounds.1 = bounds.1.min(level[*k]);
        }
    }
    bounds
}

/// The pair to change next, or none at the optimum.
fn choose(
    active: &[usize],
    level: &[f64],
    rises: &[bool],
    falls: &[bool],
    diagonal: &[f64],
    tolerance: f64,
    rows: &mut Rows<'_>,
) -> Option<(usize, usize)> {
    let (mut first, mut top) = (None, f64::NEG_INFINITY);
    for k in active {
        if rises[*k] && level[*k] > top {
            (first, top) = (Some(*k), level[*k]);
        }
    }
    let i = first?;
    let row = rows.one(i);
    let (mut second, mut gain, mut bottom) = (None, 0.0, f64::INFINITY);
    for k in active {
        if falls[*k] && level[*k] < top {
            bottom = bottom.min(level[*k]);
            let gap = top - level[*k];
            let curvature = diagonal[i] + diagonal[*k] - 2.0 * row[*k];
            let curvature = if curvature > 0.0 { curvature } else { FLAT };
            if gap * gap > gain * curvature {
                (second, gain) = (Some(*k), gap * gap / curvature);
            }
        }
    }
    if top - bottom < tolerance { None } else { second.map(|j| (i, j)) }
}

/// The mean level of the rows on their margins; where there is none, the middle of what is allowed.
fn bias(level: &[f64], rises: &[bool], falls: &[bool]) -> f64 {
    let free: Vec<f64> = (0..level.len()).filter(|k| rises[*k] && falls[*k]).map(|k| level[k]).collect();
    if !free.is_empty() {
        return free.iter().sum::<f64>() / free.len() as f64;
    }
    let all: Vec<usize> = (0..level.len()).collect();
    let (top, bottom) = bounds(&all, level, rises, falls);
    (top + bottom) / 2.0
}

/// Rows of the kernel matrix, made when they are asked for; of too many the one longest unused goes.
struct Rows<'a> {
    problem: &'a Problem,
    columns: Array2<f64>,
    held: Vec<Vec<f64>>,
    used: Vec<u64>,
    clock: u64,
    room: usize,
}

impl<'a> Rows<'a> {
    fn new(problem: &'a Problem, memory: usize) -> Self {
        let n = problem.y.len();
        let room = (memory / (8 * n.max(1))).max(2);
        let columns = columns(problem.x.view());
        Self { problem, columns, held: vec![Vec::new(); n], used: vec![0; n], clock: 0, room }
    }

    fn one(&mut self, i: usize) -> &[f64] {
        self.clock += 1;
        self.used[i] = self.clock;
        if self.held[i].is_empty() {
            let mut row = if self.room > 0 {
                self.room -= 1;
                vec![0.0; self.used.len()]
            } else {
                let held = (0..self.used.len()).filter(|k| !self.held[*k].is_empty());
                let oldest = held.min_by_key(|k| self.used[*k]).expect("there is room for two rows");
                std::mem::take(&mut self.held[oldest])
            };
            self.problem.kernel.fill(self.problem.x.row(i), self.columns.view(), &mut row);
            self.held[i] = row;
        }
        &self.held[i]
    }

    fn two(&mut self, i: usize, j: usize) -> (&[f64], &[f64]) {
        self.one(i);
        self.one(j);
        (&self.held[i], &self.held[j])
    }
}

/// What decides between two classes: above zero the later one wins.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Machine {
    /// Places in the support of all machines.
    support: Vec<usize>,
    pull: Vec<f64>,
    bias: f64,
    platt: Option<Platt>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FittedSvc {
    kernel: Likeness,
    /// Those that have rows; a machine for each pair, in order.
    classes: Vec<usize>,
    count: usize,
    support: Array2<f64>,
    machines: Vec<Machine>,
}

impl FittedSvc {
    /// `f` of every machine, `[rows, machines]`.
    fn values(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        queries(NAME, x, self.support.ncols())?;
        let kernel = self.kernel.values(x, self.support.view());
        Ok(Array2::from_shape_fn((x.nrows(), self.machines.len()), |(row, machine)| {
            let (row, machine) = (kernel.row(row), &self.machines[machine]);
            machine.support.iter().zip(&machine.pull).map(|(at, pull)| pull * row[*at]).sum::<f64>() + machine.bias
        }))
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let classes = self.classes.len();
        (0..classes).flat_map(move |low| (low + 1..classes).map(move |high| (low, high)))
    }

    fn decide(&self, values: ArrayView1<'_, f64>, out: &mut [f64]) {
        if let (2, [low, high]) = (self.classes.len(), self.classes.as_slice()) {
            out.fill(-values[0].abs() - 1.0);
            (out[*low], out[*high]) = (-values[0], values[0]);
            return;
        }
        out.fill(-1.0);
        let (mut votes, mut sums) = (vec![0.0; self.classes.len()], vec![0.0; self.classes.len()]);
        for ((low, high), value) in self.pairs().zip(values) {
            votes[if *value > 0.0 { high } else { low }] += 1.0;
            sums[low] -= value;
            sums[high] += value;
        }
        for ((class, votes), sum) in self.classes.iter().zip(votes).zip(sums) {
            out[*class] = votes + sum / (3.0 * (sum.abs() + 1.0));
        }
    }

    /// The probabilities that agree best with those between two classes, `p(high)` for each pair (Wu, Lin and Weng 2004): least
    /// `Σ (r_ji pᵢ − r_ij pⱼ)²` with a sum of one.
    fn couple(&self, of_high: &[f64]) -> Result<Vec<f64>> {
        let n = self.classes.len();
        let mut system = Array2::zeros((n + 1, n + 1));
        for ((low, high), of_high) in self.pairs().zip(of_high) {
            let high_share = of_high.clamp(1e-7, 1.0 - 1e-7);
            let low_share = 1.0 - high_share;
            system[[low, low]] += high_share * high_share;
            system[[high, high]] += low_share * low_share;
            system[[low, high]] = -high_share * low_share;
            system[[high, low]] = -high_share * low_share;
        }
        let mut right = Array2::zeros((n + 1, 1));
        for class in 0..n {
            system[[class, n]] = 1.0;
            system[[n, class]] = 1.0;
        }
        right[[n, 0]] = 1.0;
        let found = solve(system.view(), right.view())?;
        let found: Vec<f64> = (0..n).map(|class| found[[class, 0]].max(0.0)).collect();
        let sum: f64 = found.iter().sum();
        Ok(found.into_iter().map(|share| share / sum).collect())
    }
}

impl Fitted for FittedSvc {
    fn answers(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let values = self.values(x)?;
        let mut answers = Array2::zeros((x.nrows(), self.count));
        let platts: Option<Vec<&Platt>> = self.machines.iter().map(|machine| machine.platt.as_ref()).collect();
        for (mut out, values) in answers.rows_mut().into_iter().zip(values.rows()) {
            match (self.classes.as_slice(), &platts) {
                ([], _) => {}
                ([only], _) => out[*only] = 1.0,
                ([low, high], platts) => {
                    let platt = platts.as_ref().and_then(|platts| platts.first());
                    let share = platt.map_or_else(|| logistic(values[0]), |platt| platt.probability(values[0]));
                    (out[*low], out[*high]) = (1.0 - share, share);
                }
                (classes, Some(platts)) => {
                    let shares: Vec<f64> =
                        platts.iter().zip(values).map(|(platt, value)| platt.probability(*value)).collect();
                    for (class, share) in classes.iter().zip(self.couple(&shares)?) {
                        out[*class] = share;
                    }
                }
                (classes, None) => {
                    let mut decisions = vec![0.0; self.count];
                    self.decide(values, &mut decisions);
                    let mut shares = Array2::from_shape_fn((1, classes.len()), |(_, at)| decisions[classes[at]]);
                    softmax(&mut shares);
                    for (class, share) in classes.iter().zip(&shares) {
                        out[*class] = *share;
                    }
                }
            }
        }
        Ok(answers)
    }

    fn decisions(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let values = self.values(x)?;
        let mut decisions = Array2::zeros((x.nrows(), self.count));
        for (mut out, values) in decisions.rows_mut().into_iter().zip(values.rows()) {
            self.decide(values, out.as_slice_mut().expect("made here"));
        }
        Ok(decisions)
    }

    fn save(&self) -> serde_json::Value {
        saved(self)
    }
}
