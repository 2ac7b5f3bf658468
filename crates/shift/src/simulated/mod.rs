//! Simulated pairs of domains with a known kind of shift, and the splits of the benchmark that made them known.
//!
//! The draws are those of numpy's `RandomState`, so seeds name the same data as in skada's `make_shifted_datasets` and skada-bench
//! (arXiv:2407.11676).

mod numpy;

use ndarray::{Array2, ArrayView2, Axis, concatenate};
use numpy::RandomState;
use serde::{Deserialize, Serialize};

/// How the target of a [`ShiftedPair`] differs from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShiftKind {
    /// Rows near one place are met more often; labels follow the same rule.
    Covariate,
    /// Nine rows of ten are of class 0; within a class nothing changes.
    Label,
    /// Rows are shrunk and moved, `0.7 x + 1`, and keep their labels.
    Conditional,
    /// Rows are mirrored at the origin, `−x`, and keep their labels.
    Subspace,
}

impl ShiftKind {
    /// All, in the order of the published tables.
    pub const ALL: [Self; 4] = [Self::Covariate, Self::Label, Self::Conditional, Self::Subspace];

    /// The standard deviation of the noise added to both domains in skada-bench.
    fn noise(self) -> f64 {
        match self {
            Self::Covariate => 0.6,
            Self::Label | Self::Conditional => 0.8,
            Self::Subspace => 0.4,
        }
    }
}

impl std::fmt::Display for ShiftKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Covariate => "covariate",
            Self::Label => "label",
            Self::Conditional => "conditional",
            Self::Subspace => "subspace",
        })
    }
}

/// Two domains of two features and two classes, each of 800 rows (1200 under [`ShiftKind::Subspace`]).
#[derive(Clone, Debug)]
pub struct ShiftedPair {
    /// `[rows, 2]`, rounded to single precision as in the benchmark.
    pub source: Array2<f64>,
    /// The class of each row of the source.
    pub source_labels: Vec<usize>,
    /// `[rows, 2]`.
    pub target: Array2<f64>,
    /// The class of each row of the target: for scoring alone.
    pub target_labels: Vec<usize>,
}

/// Which rows of a [`ShiftedPair`] a fit sees, and which rows of the target it is judged on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftedSplit {
    /// Rows of the source to fit on.
    pub source: Vec<usize>,
    /// Rows of the target to fit on, without labels.
    pub target: Vec<usize>,
    /// Rows of the target to judge on.
    pub test: Vec<usize>,
}

impl ShiftedPair {
    /// The data of skada-bench's "Simulated" for a seed.
    pub fn new(kind: ShiftKind, seed: u32) -> Self {
        let n = if kind == ShiftKind::Subspace { 300 } else { 100 };
        let mut draws = RandomState::new(seed);
        let (mut source, mut source_labels) = blobs(n, &mut draws);
        let (mut target, target_labels) = match kind {
            ShiftKind::Covariate => {
                let (pool, labels) = blobs(100 * n, &mut draws);
                let weight = |row: ndarray::ArrayView1<'_, f64>| {
                    (-2.0 * ((row[0] + 0.4).powi(2) + (row[1] - 3.0).powi(2))).exp()
                };
                let weights: Vec<f64> = pool.rows().into_iter().map(weight).collect();
                chosen(pool.view(), &labels, &draws.weighted_choice(&weights, 8 * n))
            }
            ShiftKind::Label => {
                let (pool, labels) = blobs(3 * n, &mut draws);
                let many = 8 * n * 9 / 10;
                let mut rows = draws.choice(12 * n, many);
                rows.extend(draws.choice(12 * n, 8 * n - many).into_iter().map(|row| row + 12 * n));
                chosen(pool.view(), &labels, &rows)
            }
            ShiftKind::Conditional => {
                let (pool, labels) = blobs(n, &mut draws);
                (pool * 0.7 + 1.0, labels)
            }
            ShiftKind::Subspace => {
                (source, source_labels) = clusters(n, &mut draws);
                let (pool, labels) = clusters(n, &mut draws);
                (-pool, labels)
            }
        };
        for domain in [&mut source, &mut target] {
            domain.mapv_inplace(|number| f64::from((number + kind.noise() * draws.normal()) as f32));
        }
        Self { source, source_labels, target, target_labels }
    }

    /// The benchmark's outer splits: `count` draws of a fifth of the rows for testing, with like shares of classes in both domains.
    pub fn splits(&self, count: usize) -> Vec<ShiftedSplit> {
        // Groups in the order of (class, domain), where the target's number is the smaller.
        let sources = self.source_labels.len();
        let of = |labels: &[usize], class: usize, from: usize| -> Vec<usize> {
            (0..labels.len()).filter(|row| labels[*row] == class).map(|row| row + from).collect()
        };
        let groups: Vec<Vec<usize>> = (0..2)
            .flat_map(|class| [of(&self.target_labels, class, sources), of(&self.source_labels, class, 0)])
            .collect();
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        let rows: usize = sizes.iter().sum();
        let tests = rows.div_ceil(5);
        let mut draws = RandomState::new(0);
        let mut split = || {
            let train = shares(&sizes, rows - tests, &mut draws);
            let left: Vec<usize> = sizes.iter().zip(&train).map(|(size, train)| size - train).collect();
            let test = shares(&left, tests, &mut draws);
            let (mut fitted, mut judged) = (Vec::new(), Vec::new());
            for ((group, train), test) in groups.iter().zip(train).zip(test) {
                let order = draws.permutation(group.len());
                fitted.extend(order[..train].iter().map(|at| group[*at]));
                judged.extend(order[train..train + test].iter().map(|at| group[*at]));
            }
            draws.shuffle(&mut fitted);
            draws.shuffle(&mut judged);
            let targets =
                |rows: &[usize]| rows.iter().filter(|row| **row >= sources).map(|row| row - sources).collect();
            ShiftedSplit {
                source: fitted.iter().copied().filter(|row| *row < sources).collect(),
                target: targets(&fitted),
                test: targets(&judged),
            }
        };
        (0..count).map(|_| split()).collect()
    }
}

/// How many of each group make `wanted`, in the groups' shares; those with the largest remainders get the rest, ties by lot.
fn shares(sizes: &[usize], wanted: usize, draws: &mut RandomState) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let exact: Vec<f64> = sizes.iter().map(|size| *size as f64 / total as f64 * wanted as f64).collect();
    let mut found: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
    let mut missing = wanted - found.iter().sum::<usize>();
    let remainders: Vec<f64> = exact.iter().map(|exact| exact - exact.floor()).collect();
    let mut levels = remainders.clone();
    levels.sort_by(|a, b| b.total_cmp(a));
    levels.dedup();
    for level in levels {
        if missing == 0 {
            break;
        }
        let equals: Vec<usize> = (0..sizes.len()).filter(|group| remainders[*group] == level).collect();
        let now = equals.len().min(missing);
        for at in draws.choice(equals.len(), now) {
            found[equals[at]] += 1;
        }
        missing -= now;
    }
    found
}

fn chosen(x: ArrayView2<'_, f64>, labels: &[usize], rows: &[usize]) -> (Array2<f64>, Vec<usize>) {
    (x.select(Axis(0), rows), rows.iter().map(|row| labels[*row]).collect())
}

/// Normal rows around a place: standard normal rows times a matrix, plus the place.
fn normal(n: usize, by: [[f64; 2]; 2], place: [f64; 2], draws: &mut RandomState) -> Array2<f64> {
    let mut rows = Array2::zeros((n, 2));
    for mut row in rows.rows_mut() {
        let (first, second) = (draws.normal(), draws.normal());
        row[0] = first * by[0][0] + second * by[1][0] + place[0];
        row[1] = first * by[0][1] + second * by[1][1] + place[1];
    }
    rows
}

/// A bent disc of `4 n` rows, class 0, and an arc of four blobs around it, class 1.
fn blobs(n: usize, draws: &mut RandomState) -> (Array2<f64>, Vec<usize>) {
    let angles: Vec<f64> = (0..4 * n).map(|_| draws.uniform() * 2.0 * std::f64::consts::PI).collect();
    let radii: Vec<f64> = (0..4 * n).map(|_| draws.uniform().sqrt()).collect();
    let disc = Array2::from_shape_fn((4 * n, 2), |(row, column)| {
        let (x, y) = (radii[row] * angles[row].cos(), radii[row] * angles[row].sin());
        if column == 0 { 2.0 * x - 0.5 * y + 2.0 } else { -0.5 * x + 2.0 * y + 2.0 }
    });
    let parts = [
        disc,
        normal(n, [[0.15, 0.0], [0.0, 0.3]], [-1.5, 3.0], draws),
        normal(n, [[0.2, -0.1], [-0.1, 0.2]], [-0.5, 1.0], draws),
        normal(n, [[0.17, -0.05], [-0.05, 0.17]], [1.0, -0.4], draws),
        normal(n, [[0.3, 0.0], [0.0, 0.15]], [3.0, -1.0], draws),
    ];
    (stacked(&parts), halves(4 * n))
}

/// A cluster of `2 n` rows, class 0, and two of `n`, class 1.
fn clusters(n: usize, draws: &mut RandomState) -> (Array2<f64>, Vec<usize>) {
    let parts = [
        normal(2 * n, [[0.5, 0.0], [0.0, 0.5]], [-1.0, 1.0], draws),
        normal(n, [[0.1, 0.0], [0.0, 0.1]], [1.5, 0.5], draws),
        normal(n, [[0.2, 0.0], [0.0, 0.2]], [-0.5, -1.5], draws),
    ];
    (stacked(&parts), halves(2 * n))
}

fn stacked(parts: &[Array2<f64>]) -> Array2<f64> {
    let views: Vec<ArrayView2<'_, f64>> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).expect("all parts have two columns")
}

fn halves(n: usize) -> Vec<usize> {
    (0..2 * n).map(|row| row / n).collect()
}
