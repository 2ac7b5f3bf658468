//! Whether two samples are of one law: tests whose p-values come from exchanging rows, so that they hold at any size.
//!
//! Under the hypothesis rows of both samples are exchangeable. A statistic of `permutations` exchanges and of the samples as they are is then
//! as likely to have any rank, and the share of those that are as large is a p-value with $P(p \le \alpha) \le \alpha$.

use crate::kernel;
use crate::learn::{self, Labels, Learner, select};
use crate::linalg;
use acclimate_core::{Error, Result, Rng};
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;
use serde::Serialize;

/// A statistic and its p-value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tested {
    /// The statistic; larger is farther apart.
    pub statistic: f64,
    /// How likely one as large is where nothing differs.
    pub p: f64,
}

/// A column of two samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Numbers.
    Numbers {
        /// Of the first sample.
        source: Vec<f64>,
        /// Of the second.
        target: Vec<f64>,
    },
    /// Categories, counted from zero.
    Categories {
        /// Of the first sample.
        source: Vec<usize>,
        /// Of the second.
        target: Vec<usize>,
        /// How many there are.
        count: usize,
    },
}

/// What differs in a column.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ColumnTest {
    /// The largest difference of the two distribution functions, after Kolmogorov and Smirnov, or of categories half the sum of the
    /// differences of their shares: in both cases between zero and one.
    pub distance: f64,
    /// The p-value of this column by itself.
    pub p: f64,
    /// The p-value that holds for all columns at once.
    pub adjusted: f64,
}

/// The share of the statistics, the first of them that of the samples as they are, that are as large as the first.
fn p_value(statistics: &[f64]) -> f64 {
    let first = statistics[0] * (1.0 - 1e-12);
    statistics.iter().filter(|statistic| **statistic >= first).count() as f64 / statistics.len() as f64
}

/// Which rows stand for the first sample in exchange number `at`; number zero is the samples as they are. Rows of a stratum are exchanged
/// among themselves.
fn exchanged(strata: &[Vec<usize>], first: &[bool], seed: u64, at: usize) -> Vec<bool> {
    let mut found = first.to_vec();
    if at > 0 {
        let mut rng = Rng::new(seed, "exchanges", at as u64);
        for rows in strata {
            let mut own: Vec<bool> = rows.iter().map(|row| first[*row]).collect();
            rng.shuffle(&mut own);
            rows.iter().zip(own).for_each(|(row, is)| found[*row] = is);
        }
    }
    found
}

/// Maximum mean discrepancy, with a mean of Gaussian kernels of half, once and twice the median distance.
///
/// With `strata`, the class of each row of both samples, say, the statistic is $\sum_c \omega_c\,\mathrm{MMD}^2$ of the strata, with
/// $\omega_c \propto n_c m_c / (n_c + m_c)$: whether the two laws are alike within every stratum, whatever the strata's shares. Strata that one
/// sample lacks do not count. Time and memory grow with the square of the rows.
///
/// # Errors
/// When widths differ, a number is not finite, or no stratum has a row of each sample.
///
/// # Example
/// ```
/// use acclimate_stats::two_sample::discrepancy;
/// use ndarray::Array2;
///
/// let a = Array2::from_shape_fn((40, 1), |(row, _)| f64::from(row as u32));
/// assert!(discrepancy(a.view(), (&a + 20.0).view(), None, 99, 0)?.p < 0.05);
/// assert!(discrepancy(a.view(), a.view(), None, 99, 0)?.p > 0.9);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Gretton, Borgwardt, Rasch, Schölkopf and Smola, *A Kernel Two-Sample Test*, JMLR 2012.
pub fn discrepancy(
    a: ArrayView2<'_, f64>,
    b: ArrayView2<'_, f64>,
    strata: Option<(&[usize], &[usize])>,
    permutations: usize,
    seed: u64,
) -> Result<Tested> {
    let who = "maximum mean discrepancy";
    let rows = joined(who, a, b)?;
    let first: Vec<bool> = (0..rows.nrows()).map(|row| row < a.nrows()).collect();
    let all = match strata {
        Some((of_a, of_b)) => parts(&of_a.iter().chain(of_b).copied().collect::<Vec<_>>()),
        None => vec![(0..rows.nrows()).collect()],
    };
    let counts = |rows: &Vec<usize>| {
        let own = rows.iter().filter(|row| first[**row]).count();
        (own as f64, (rows.len() - own) as f64)
    };
    let all: Vec<Vec<usize>> = all.into_iter().filter(|rows| counts(rows).0 > 0.0 && counts(rows).1 > 0.0).collect();
    if all.is_empty() {
        return Err(Error::Other(format!("{who}: no stratum has rows of both samples; give more rows")));
    }
    let precision = |rows: &Vec<usize>| counts(rows).0 * counts(rows).1 / (counts(rows).0 + counts(rows).1);
    let total: f64 = all.iter().map(precision).sum();
    let median = kernel::median_distance(rows.view());
    let mut statistics = vec![0.0; permutations + 1];
    for stratum in &all {
        let ((n, m), share) = (counts(stratum), precision(stratum) / total);
        let own = select(rows.view(), stratum);
        let gram = gram(own.view(), median);
        let mut signs = Array2::zeros((stratum.len(), permutations + 1));
        for (at, mut column) in signs.columns_mut().into_iter().enumerate() {
            let is = exchanged(std::slice::from_ref(stratum), &first, seed, at);
            column.iter_mut().zip(stratum).for_each(|(sign, row)| *sign = if is[*row] { 1.0 / n } else { -1.0 / m });
        }
        let products = linalg::product(gram.view(), signs.view());
        for (at, statistic) in statistics.iter_mut().enumerate() {
            *statistic += share * signs.column(at).dot(&products.column(at));
        }
    }
    Ok(Tested { statistic: statistics[0], p: p_value(&statistics) })
}

fn joined(who: &str, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    if a.ncols() != b.ncols() || a.is_empty() || b.is_empty() {
        let (what, expected) = (format!("{who}: the second sample"), format!("[rows, {}], a row at least", a.ncols()));
        return Err(Error::Shape { what, expected, got: b.shape().to_vec() });
    }
    learn::finite(who, a)?;
    learn::finite(who, b)?;
    Ok(concatenate![Axis(0), a, b])
}

/// The rows of each value.
fn parts(of: &[usize]) -> Vec<Vec<usize>> {
    let mut found = vec![vec![]; of.iter().max().map_or(0, |most| most + 1)];
    of.iter().enumerate().for_each(|(row, part)| found[*part].push(row));
    found
}

/// The mean of three Gaussian kernels around a median distance.
fn gram(rows: ArrayView2<'_, f64>, median: f64) -> Array2<f64> {
    let squares = linalg::squared_distances(rows, rows);
    if median <= 0.0 {
        return squares.mapv(|square| f64::from(u8::from(square <= 0.0)));
    }
    let gamma = 0.5 / (median * median);
    // One exponential for all three: the widest bell is the fourth root of the middle one, the narrowest its fourth power.
    squares.mapv(|square| {
        let wide = (-0.25 * gamma * square).exp();
        let middle = wide.powi(4);
        (wide + middle + middle.powi(4)) / 3.0
    })
}

/// A classifier that tells the samples apart: fitted on half of the rows of each, judged on the others by the area under its curve.
///
/// The statistic is the area: one half where nothing differs, one where no row is taken for the other sample's.
///
/// # Errors
/// When a sample has fewer than four rows, a number is not finite, and the learner's own.
///
/// # Example
/// ```
/// use acclimate_stats::{learn::Logistic, two_sample::classifier};
/// use ndarray::Array2;
///
/// let a = Array2::from_shape_fn((40, 1), |(row, _)| f64::from(row as u32));
/// let found = classifier(a.view(), (&a + 30.0).view(), &Logistic::default(), 99, 0)?;
/// assert!(found.statistic > 0.9 && found.p < 0.05);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Lopez-Paz and Oquab, *Revisiting Classifier Two-Sample Tests*, ICLR 2017, arXiv:1610.06545.
pub fn classifier(
    a: ArrayView2<'_, f64>,
    b: ArrayView2<'_, f64>,
    learner: &dyn Learner,
    permutations: usize,
    seed: u64,
) -> Result<Tested> {
    let who = "classifier test";
    let rows = joined(who, a, b)?;
    if a.nrows().min(b.nrows()) < 4 {
        return Err(Error::Other(format!("{who}: a sample has fewer than four rows; give more")));
    }
    let (mut train, mut test) = (vec![], vec![]);
    for (from, count) in [(0, a.nrows()), (a.nrows(), b.nrows())] {
        let mut order: Vec<usize> = (from..from + count).collect();
        Rng::new(seed, "halves", from as u64).shuffle(&mut order);
        test.extend(order.split_off(count / 2));
        train.extend(order);
    }
    let is = |row: &usize| usize::from(*row >= a.nrows());
    let y = Labels::Classes { of: train.iter().map(is).collect(), count: 2 };
    let scores =
        learner.fit(select(rows.view(), &train).view(), &y, None)?.answers(select(rows.view(), &test).view())?;
    let ranks = ranks(&scores.column(1).to_vec());
    let second: Vec<bool> = test.iter().map(|row| *row >= a.nrows()).collect();
    let strata = [(0..test.len()).collect::<Vec<_>>()];
    let count = second.iter().filter(|is| **is).count() as f64;
    let area = |at| {
        let sum: f64 =
            exchanged(&strata, &second, seed, at).iter().zip(&ranks).filter(|(is, _)| **is).map(|(_, r)| r).sum();
        (sum - count * (count + 1.0) / 2.0) / (count * (test.len() as f64 - count))
    };
    let statistics: Vec<f64> = (0..=permutations).into_par_iter().map(area).collect();
    Ok(Tested { statistic: statistics[0], p: p_value(&statistics) })
}

/// Ranks from one, of equals the mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut found, mut from) = (vec![0.0; values.len()], 0);
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let mean = from as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|row| found[*row] = mean);
        from += equal.len();
    }
    found
}

/// Each column by itself, with p-values that hold for all at once: the chance that any column in which nothing differs gets an adjusted
/// p-value of $\alpha$ is at most $\alpha$, however the columns hang together.
///
/// All columns are exchanged together. With $p_{bj}$ the p-value that exchange $b$ would give column $j$ and columns in rising order of $p_{0j}$,
/// the adjusted value of the $k$-th is the share of exchanges with $\min_{j \ge k} p_{bj} \le p_{0k}$, and at least that of the one before.
///
/// # Errors
/// When columns differ in length, or a number is not finite.
///
/// # Example
/// ```
/// use acclimate_stats::two_sample::{Column, columns};
///
/// let numbers: Vec<f64> = (0..60).map(f64::from).collect();
/// let same = Column::Numbers { source: numbers.clone(), target: numbers.clone() };
/// let other = Column::Categories { source: vec![0; 60], target: vec![1; 60], count: 2 };
/// let found = columns(&[same, other], 199, 0)?;
/// assert!(found[0].adjusted > 0.9 && found[1].adjusted < 0.05 && found[1].distance > 0.99);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Westfall and Young, *Resampling-Based Multiple Testing*, 1993, step-down minimum of p-values.
pub fn columns(columns: &[Column], permutations: usize, seed: u64) -> Result<Vec<ColumnTest>> {
    let Some(first) = columns.first() else { return Ok(vec![]) };
    let (ours, theirs) = first.len();
    let is: Vec<bool> = (0..ours + theirs).map(|row| row < ours).collect();
    let strata = [(0..ours + theirs).collect::<Vec<_>>()];
    let prepared: Vec<Prepared> =
        columns.iter().map(|column| Prepared::new(column, (ours, theirs))).collect::<Result<_>>()?;
    let statistics: Vec<Vec<f64>> = (0..=permutations)
        .into_par_iter()
        .map(|at| {
            let is = exchanged(&strata, &is, seed, at);
            prepared.iter().map(|column| column.distance(&is, ours as f64, theirs as f64)).collect()
        })
        .collect();
    let all = permutations + 1;
    // The p-value that each exchange would give each column.
    let of_column = |column: usize| -> Vec<f64> {
        let mut sorted: Vec<f64> = statistics.iter().map(|row| row[column]).collect();
        sorted.sort_by(f64::total_cmp);
        let larger = |value: f64| all - sorted.partition_point(|other| *other < value * (1.0 - 1e-12));
        statistics.iter().map(|row| larger(row[column]) as f64 / all as f64).collect()
    };
    let p: Vec<Vec<f64>> = (0..columns.len()).into_par_iter().map(of_column).collect();
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by(|a, b| p[*a][0].total_cmp(&p[*b][0]));
    let mut least = vec![1.0f64; all];
    let mut adjusted = vec![0.0; columns.len()];
    for column in order.iter().rev() {
        least.iter_mut().zip(&p[*column]).for_each(|(least, p)| *least = least.min(*p));
        adjusted[*column] = least.iter().filter(|least| **least <= p[*column][0]).count() as f64 / all as f64;
    }
    let mut most: f64 = 0.0;
    for column in order {
        most = most.max(adjusted[column]);
        adjusted[column] = most;
    }
    let one =
        |column: usize| ColumnTest { distance: statistics[0][column], p: p[column][0], adjusted: adjusted[column] };
    Ok((0..columns.len()).map(one).collect())
}

impl Column {
    /// Rows of the two samples.
    fn len(&self) -> (usize, usize) {
        match self {
            Self::Numbers { source, target } => (source.len(), target.len()),
            Self::Categories { source, target, .. } => (source.len(), target.len()),
        }
    }
}

/// A column made ready for many exchanges.
enum Prepared {
    /// Rows in rising order, and after which of them a new value begins.
    Sorted {
        order: Vec<u32>,
        ends: Vec<bool>,
    },
    Counted {
        of: Vec<usize>,
        count: usize,
    },
}

impl Prepared {
    fn new(column: &Column, rows: (usize, usize)) -> Result<Self> {
        if column.len() != rows || rows.0 == 0 || rows.1 == 0 {
            let (what, expected) = ("a column of two samples".to_owned(), format!("{rows:?}, a row each at least"));
            return Err(Error::Shape { what, expected, got: vec![column.len().0, column.len().1] });
        }
        Ok(match column {
            Column::Numbers { source, target } => {
                let all: Vec<f64> = source.iter().chain(target).copied().collect();
                if let Some(row) = all.iter().position(|number| !number.is_finite()) {
                    return Err(Error::Other(format!("row {} of a column is {}; leave it out", row + 1, all[row])));
                }
                let mut order: Vec<u32> = (0..all.len() as u32).collect();
                order.sort_by(|a, b| all[*a as usize].total_cmp(&all[*b as usize]));
                let differs = |pair: &[u32]| all[pair[0] as usize] != all[pair[1] as usize];
                let ends = order.windows(2).map(differs).chain([true]).collect();
                Self::Sorted { order, ends }
            }
            Column::Categories { source, target, count } => {
                Self::Counted { of: source.iter().chain(target).copied().collect(), count: *count }
            }
        })
    }

    fn distance(&self, first: &[bool], ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Sorted { order, ends } => {
                let (up, down) = (1.0 / ours, -1.0 / theirs);
                let (mut apart, mut most) = (0.0f64, 0.0f64);
                for (row, end) in order.iter().zip(ends) {
                    apart += if first[*row as usize] { up } else { down };
                    if *end {
                        most = most.max(apart.abs());
                    }
                }
                most
            }
            Self::Counted { of, count } => {
                let mut apart = vec![0.0; *count];
                of.iter().zip(first).for_each(|(of, is)| apart[*of] += if *is { 1.0 / ours } else { -1.0 / theirs });
                apart.iter().map(|apart| apart.abs()).sum::<f64>() / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut rng = Rng::new(seed, "rows", 0);
        Array2::from_shape_fn((rows, columns), |_| rng.normal())
    }

    /// The most false alarms at a level that 200 draws give in all but a thousandth of cases: the binomial's quantile.
    fn bound(level: f64) -> usize {
        let (mut p, mut sum, mut k) = ((1.0 - level).powi(200), 0.0, 0);
        while sum + p < 0.999 {
            sum += p;
            p *= level / (1.0 - level) * f64::from(200 - k) / f64::from(k + 1);
            k += 1;
        }
        k as usize
    }

    #[test]
    fn the_discrepancy_is_that_of_its_definition() {
        let (a, b) = (normal(5, 2, 0), normal(4, 2, 1));
        let rows = concatenate![Axis(0), a, b];
        let median = kernel::median_distance(rows.view());
        let k = |x: ndarray::ArrayView1<'_, f64>, y: ndarray::ArrayView1<'_, f64>| -> f64 {
            let square = (&x - &y).mapv(|d| d * d).sum();
            [0.5, 1.0, 2.0].iter().map(|times| (-square / (2.0 * (times * median).powi(2))).exp()).sum::<f64>() / 3.0
        };
        let mean = |x: &Array2<f64>, y: &Array2<f64>| -> f64 {
            let all: Vec<f64> = x.rows().into_iter().flat_map(|r| y.rows().into_iter().map(move |s| k(r, s))).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        let want = mean(&a, &a) + mean(&b, &b) - 2.0 * mean(&a, &b);
        let found = discrepancy(a.view(), b.view(), None, 1, 0).unwrap().statistic;
        assert!((found - want).abs() < 1e-12, "{found} and {want}");
    }

    #[test]
    fn no_test_alarms_oftener_than_it_says() {
        let alarms: Vec<[bool; 3]> = (0..200u64)
            .into_par_iter()
            .map(|seed| {
                let (a, b) = (normal(24, 2, 2 * seed), normal(18, 2, 2 * seed + 1));
                let column = |at| Column::Numbers { source: a.column(at).to_vec(), target: b.column(at).to_vec() };
                let least = columns(&[column(0), column(1)], 99, seed).unwrap();
                let least = least.iter().map(|column| column.adjusted).fold(1.0, f64::min);
                [
                    discrepancy(a.view(), b.view(), None, 99, seed).unwrap().p <= 0.1,
                    classifier(a.view(), b.view(), &learn::Logistic::default(), 99, seed).unwrap().p <= 0.1,
                    least <= 0.1,
                ]
            })
            .collect();
        for test in 0..3 {
            let count = alarms.iter().filter(|alarms| alarms[test]).count();
            assert!(count <= bound(0.1), "test {test}: {count} alarms, at most {}", bound(0.1));
            assert!(count > 4, "test {test}: {count} alarms: it hardly ever speaks");
        }
    }

    #[test]
    fn shares_of_strata_are_not_seen() {
        // Ten of each class against thirty and five: within a class nothing differs.
        let class = |count: [usize; 2]| [vec![0; count[0]], vec![1; count[1]]].concat();
        let (of_a, of_b) = (class([20, 20]), class([50, 6]));
        let sample = |of: &[usize], seed: u64| {
            let mut rows = normal(of.len(), 1, seed);
            rows.column_mut(0).iter_mut().zip(of).for_each(|(x, class)| *x += 4.0 * *class as f64);
            rows
        };
        let (a, b) = (sample(&of_a, 5), sample(&of_b, 6));
        assert!(discrepancy(a.view(), b.view(), None, 199, 0).unwrap().p < 0.02);
        assert!(discrepancy(a.view(), b.view(), Some((&of_a, &of_b)), 199, 0).unwrap().p > 0.1);
        assert!(discrepancy(a.view(), (&b + 1.0).view(), Some((&of_a, &of_b)), 199, 0).unwrap().p < 0.02);
    }

    #[test]
    fn distances_of_columns_are_those_of_their_definitions() {
        let numbers = Column::Numbers { source: vec![1.0, 2.0, 2.0, 3.0], target: vec![2.0, 4.0] };
        let categories = Column::Categories { source: vec![0, 0, 1, 2], target: vec![0, 1], count: 3 };
        let found = columns(&[numbers, categories], 9, 0).unwrap();
        // At 3 the first has all its rows, the second one of two; shares differ by 0, 1/4 and 1/4.
        assert_eq!((found[0].distance, found[1].distance), (0.5, 0.25));
    }

    #[test]
    fn ranks_of_equals_are_their_mean() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0]), [2.5, 1.0, 2.5]);
    }
}
