use crate::{Calculator, Source};
use acclimate_core::{Error, Method, Result, Rng};
use acclimate_stats::learn::select;
use acclimate_stats::linalg::{least_squares, squared_distances};
use acclimate_stats::transport::{exact, uniform};
use ndarray::{Array1, Array2, Axis, concatenate};
use serde::{Deserialize, Serialize};

/// Predicts the score of a model trained on any mixture of sources at any size from a few runs on pilot rows, and finds the best mixture.
///
/// # Mathematics
/// A mixture gives the $i$-th of $k$ sources the share $q_i$. Its distance $D(q)$ from a validation set is that of optimal transport, where
/// a row of the $i$-th source's $n_i$ has the mass $q_i / n_i$, with the cost of rows $z$ and labels $y$
/// $$\lVert z - z' \rVert + c\, W(y, y'),$$
/// $W$ being the transport distance between the source's rows with label $y$ and the validation's with $y'$. The dual potentials $f$ give
/// $\partial D / \partial q_i = \bar f_i$, their mean over the source, up to a constant that no step on the simplex feels. Of runs at one
/// size the scores are fitted by least squares,
/// $$S(q) \approx \Big(b_0 + \sum_i b_{1i} q_i + b_{2i} q_i^2\Big) D(q) + c_0 + \sum_i c_{1i} q_i + c_{2i} q_i^2,$$
/// without what follows from the shares' sum of one, and without squares where there are too few runs. Two pilot sizes $n_0 < n_1$ give the
/// score at another, $N$, as if scores were linear in the logarithm of the size:
/// $$S(q, N) = \frac{\ln(N / n_0)\, S(q, n_1) - \ln(N / n_1)\, S(q, n_0)}{\ln(n_1 / n_0)}.$$
/// The best mixture is sought by steps along the gradient of $S(q, N)$, each projected onto the simplex; the best seen is kept.
///
/// # When to use
/// When sources show a sample and more is to be bought or labelled. Keep rows apart for the distance and for the score, or the prediction
/// is too high. Features should be a pretrained model's: distances of pixels say little. Look at `left_out`, the error of each run
/// predicted without itself, before you believe a prediction. Accuracy near its limit is no longer linear in the logarithm: give its
/// log-odds as scores. The labels' cost compares what rows of a class look like and no names: labels that are swapped throughout it does
/// not see.
///
/// # Differences
/// The public code calibrates the gradient: $g_i = \bar f_i - \sum_{l \ne i} q_l \bar f_l / (1 - q_i)$ is by how much the distance rises
/// for each unit of share that a source takes from the others in proportion, and is given as `calibrated`. It is already per unit of share
/// and needs no factor of the size. It is $1 / (1 - q_i)$ times the gradient on the simplex, which differs between sources, so steps follow
/// $\bar f$. Its steps of $5 \cdot 10^{-4} \cdot 0.9^t$ move a share by at most $5 \cdot 10^{-3}$ of its slope in all; here they are
/// longer. Distances and potentials are renewed as shares change, and samples are weighted, not drawn. The form for more than two sources
/// and the labels' cost are not in the code.
///
/// # Example
/// ```
/// use acclimate_shift::{Pilot, Projektor};
///
/// // Scores that fall with the distance, whatever the mixture.
/// let method = Projektor { ridge: 0.0, ..Projektor::default() };
/// let run = |i: usize| {
///     let (q, distance) = (i as f64 / 10.0, (i as f64).sin());
///     Pilot { ratio: vec![q, 1.0 - q], distance, score: 0.9 - 0.2 * distance }
/// };
/// let runs: Vec<Pilot> = (0..11).map(run).collect();
/// let fitted = method.fit(&runs)?;
/// assert!((fitted.score(&[0.3, 0.7], 0.5) - 0.8).abs() < 1e-9);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Kang, Just, Sahu and Jia, *Performance Scaling via Optimal Transport: Enabling Data Selection from Partially Revealed Sources*, NeurIPS
/// 2023, arXiv:2307.02460.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "projektor", title = "Projektor", catalogue = [151], paper = "arxiv:2307.02460", year = 2023)]
#[method(needs(labels), case = "", case = "ridge = 0.0\nlabel_weight = 0.0")]
pub struct Projektor {
    /// The weight of the labels' cost, $c$.
    #[method(min = 0)]
    pub label_weight: f64,
    /// The price of squared coefficients, of columns brought to a mean square of one.
    #[method(min = 0)]
    pub ridge: f64,
    /// How many times larger than the larger pilot a size may be that is predicted.
    #[method(min = 1)]
    pub reach: f64,
    /// The length of the first step for each unit of slope.
    #[method(above = 0)]
    pub lr: f64,
    /// By what each step is shorter than the one before.
    #[method(above = 0, max = 1)]
    pub decay: f64,
    /// Steps.
    pub steps: usize,
    /// Steps between two renewals of the distances.
    #[method(min = 1)]
    pub refresh: usize,
}

impl Default for Projektor {
    fn default() -> Self {
        Self { label_weight: 1.0, ridge: 1e-3, reach: 20.0, lr: 0.1, decay: 0.97, steps: 100, refresh: 1 }
    }
}

impl Calculator for Projektor {}

/// A run on pilot rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pilot {
    /// The share of each source.
    pub ratio: Vec<f64>,
    /// The mixture's distance from the validation set.
    pub distance: f64,
    /// What the model scored; larger is better.
    pub score: f64,
}

/// The costs from the rows of all sources to those of the validation set.
#[derive(Clone, Debug)]
pub struct Mixtures {
    cost: Array2<f64>,
    rows: Vec<usize>,
}

/// The distance of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// What transport costs.
    pub value: f64,
    /// The slope in the share of each source, up to a constant: less the mean under the shares.
    pub slopes: Vec<f64>,
    /// The slope where the share is taken from all others in proportion; zero where there is none.
    pub calibrated: Vec<f64>,
}

/// What was fitted to the runs of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Surface {
    sources: usize,
    squares: bool,
    coefficients: Vec<f64>,
    /// The root of the mean squared error of each run, predicted without itself.
    pub left_out: f64,
}

/// A pilot size and what was fitted there.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a> {
    /// Rows of a run.
    pub size: f64,
    /// Fitted to the runs of that size.
    pub surface: &'a Surface,
    /// Of pilot rows of that size.
    pub mixtures: &'a Mixtures,
}

/// The best mixture that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// The share of each source.
    pub ratio: Vec<f64>,
    /// The predicted score.
    pub score: f64,
    /// What a unit of share more of each source is worth, less the mean under the shares.
    pub values: Vec<f64>,
}

impl Projektor {
    /// Mixtures to run: of two sources eleven in equal steps, of more three for each coefficient, drawn evenly from the simplex.
    pub fn ratios(&self, sources: usize, seed: u64) -> Vec<Vec<f64>> {
        match sources {
            0 => Vec::new(),
            1 => vec![vec![1.0]],
            2 => (0..=10).map(|tenth| f64::from(tenth) / 10.0).map(|q| vec![q, 1.0 - q]).collect(),
            _ => {
                let mut rng = Rng::new(seed, "mixtures", 0);
                let mut one = || {
                    let parts: Vec<f64> = (0..sources).map(|_| -(1.0 - rng.uniform()).ln()).collect();
                    let sum: f64 = parts.iter().sum();
                    parts.iter().map(|part| part / sum).collect()
                };
                (0..3 * (4 * sources + 1)).map(|_| one()).collect()
            }
        }
    }

    /// The costs between pilot rows and the validation set.
    ///
    /// # Errors
    /// When there is no source, widths differ, or labels are numbers.
    pub fn mixtures(&self, sources: &[Source<'_>], valid: &Source<'_>) -> Result<Mixtures> {
        let who = Self::CARD.name;
        if sources.iter().any(|source| source.x.ncols() != valid.x.ncols()) || sources.is_empty() {
            return refused(format!(
                "sources need {} features, as the validation set; give one or more",
                valid.x.ncols()
            ));
        }
        let (theirs, others) = valid.y.classes(who)?;
        let rows =
            |of: &[usize], class: usize| -> Vec<usize> { (0..of.len()).filter(|row| of[*row] == class).collect() };
        let mut parts = Vec::with_capacity(sources.len());
        for source in sources {
            let (of, count) = source.y.classes(who)?;
            let distances = squared_distances(source.x, valid.x).mapv(f64::sqrt);
            let mut apart = Array2::<f64>::zeros((count, others));
            for ((here, there), apart) in apart.indexed_iter_mut().filter(|_| self.label_weight > 0.0) {
                let (ours, theirs) = (rows(of, here), rows(theirs, there));
                if !ours.is_empty() && !theirs.is_empty() {
                    let cost = select(distances.view(), &ours).select(Axis(1), &theirs);
                    *apart = exact(cost.view(), uniform(ours.len()).view(), uniform(theirs.len()).view())?.cost;
                }
            }
            parts.push(Array2::from_shape_fn(distances.dim(), |(i, j)| {
                distances[[i, j]] + self.label_weight * apart[[of[i], theirs[j]]]
            }));
        }
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let cost = concatenate(Axis(0), &views).expect("costs to one validation set");
        Ok(Mixtures { cost, rows: sources.iter().map(|source| source.x.nrows()).collect() })
    }

    /// Fits the scores of runs at one size.
    ///
    /// # Errors
    /// When runs are too few or not of one number of sources, or a number is not finite.
    pub fn fit(&self, runs: &[Pilot]) -> Result<Surface> {
        self.check()?;
        let sources = runs.first().map_or(0, |run| run.ratio.len());
        for (at, run) in runs.iter().enumerate() {
            let sum: f64 = run.ratio.iter().sum();
            let sound = run.ratio.iter().all(|q| *q >= 0.0) && (sum - 1.0).abs() < 1e-6;
            if run.ratio.len() != sources || !sound || !(run.distance.is_finite() && run.score.is_finite()) {
                return refused(format!(
                    "run {} needs {sources} shares that add up to one, and a distance and a score that are finite",
                    at + 1
                ));
            }
        }
        let needed = |squares: bool| columns(&vec![0.0; sources], 0.0, squares).len();
        let squares = runs.len() >= needed(true);
        if sources == 0 || runs.len() < needed(squares) {
            return refused(format!(
                "{} runs are too few for {sources} sources; give {} or more",
                runs.len(),
                needed(false)
            ));
        }
        let solve = |out: Option<usize>| {
            let kept: Vec<&Pilot> =
                runs.iter().enumerate().filter(|(at, _)| Some(*at) != out).map(|(_, run)| run).collect();
            self.solve(&kept, squares)
        };
        let mut surface = Surface { sources, squares, coefficients: solve(None)?, left_out: 0.0 };
        let mut square = 0.0;
        for (at, run) in runs.iter().enumerate() {
            let without = Surface { coefficients: solve(Some(at))?, ..surface.clone() };
            square += (without.score(&run.ratio, run.distance) - run.score).powi(2);
        }
        surface.left_out = (square / runs.len() as f64).sqrt();
        Ok(surface)
    }

    fn solve(&self, runs: &[&Pilot], squares: bool) -> Result<Vec<f64>> {
        let rows: Vec<Vec<f64>> = runs.iter().map(|run| columns(&run.ratio, run.distance, squares)).collect();
        let (n, width) = (rows.len(), rows.first().map_or(0, Vec::len));
        let mut table = Array2::from_shape_fn((n, width), |(row, column)| rows[row][column]);
        let scales: Array1<f64> = table.map_axis(Axis(0), |column| {
            let scale = (column.dot(&column) / n as f64).sqrt();
            if scale > 0.0 { scale } else { 1.0 }
        });
        table /= &scales;
        // The last column is the constant, which bears no penalty.
        let weights =
            Array1::from_shape_fn(width, |at| if at + 1 == width { 0.0 } else { (self.ridge * n as f64).sqrt() });
        let table = concatenate![Axis(0), table, Array2::from_diag(&weights)];
        let scores = Array2::from_shape_fn((n + width, 1), |(row, _)| if row < n { runs[row].score } else { 0.0 });
        let found = least_squares(table.view(), scores.view())?;
        Ok(found.column(0).iter().zip(&scales).map(|(found, scale)| found / scale).collect())
    }

    /// The score at a size from those at two pilot sizes.
    ///
    /// # Errors
    /// When sizes are not positive or the pilots are of one size, or the size is beyond `reach`.
    pub fn project(&self, sizes: [f64; 2], scores: [f64; 2], size: f64) -> Result<f64> {
        let [first, second] = sizes;
        if !(first > 0.0 && second > first && size > 0.0 && size.is_finite()) {
            return refused(format!(
                "pilots of {first} and {second} rows cannot tell of {size}; give the smaller first"
            ));
        }
        if size > self.reach * second {
            return refused(format!(
                "{size} rows are more than {} times the larger pilot's {second}; run a larger pilot, or raise `reach`",
                self.reach
            ));
        }
        let share = (size / first).ln() / (second / first).ln();
        Ok(share * scores[1] + (1.0 - share) * scores[0])
    }

    /// Seeks the mixture with the best score at a size, from equal shares.
    ///
    /// # Errors
    /// As [`Projektor::project`], and when the pilots differ in their sources.
    pub fn best(&self, scales: [Scale<'_>; 2], size: f64) -> Result<Mixture> {
        self.check()?;
        let sources = scales[0].mixtures.rows.len();
        if scales.iter().any(|scale| scale.mixtures.rows.len() != sources || scale.surface.sources != sources) {
            return refused(format!("pilots need {sources} sources each; fit runs on the same ones"));
        }
        let sizes = scales.map(|scale| scale.size);
        let mut ratio = vec![1.0 / sources as f64; sources];
        let mut best: Option<Mixture> = None;
        let mut lr = self.lr;
        let mut distances: Vec<Distance> = Vec::new();
        for step in 0..=self.steps {
            if step % self.refresh == 0 || step == self.steps {
                distances = scales.iter().map(|scale| scale.mixtures.distance(&ratio)).collect::<Result<_>>()?;
            }
            let scores = [0, 1].map(|at| scales[at].surface.score(&ratio, distances[at].value));
            let slopes = [0, 1].map(|at| scales[at].surface.slopes(&ratio, &distances[at]));
            let slopes: Vec<f64> = (0..sources)
                .map(|i| self.project(sizes, slopes.each_ref().map(|s| s[i]), size))
                .collect::<Result<_>>()?;
            let score = self.project(sizes, scores, size)?;
            // Between renewals the distance is that of other shares, and the score is not to be believed.
            let fresh = step % self.refresh == 0 || step == self.steps;
            if fresh && best.as_ref().is_none_or(|best| score > best.score) {
                best = Some(Mixture { ratio: ratio.clone(), score, values: centred(&slopes, &ratio) });
            }
            let moved: Vec<f64> = ratio.iter().zip(&slopes).map(|(q, slope)| q + lr * slope).collect();
            ratio = simplex(&moved);
            lr *= self.decay;
        }
        best.map_or_else(|| refused("no score is a number; look at the runs".to_owned()), Ok)
    }
}

impl Mixtures {
    /// The distance of a mixture and its slopes.
    ///
    /// # Errors
    /// When shares are not one for each source, negative or all zero.
    pub fn distance(&self, ratio: &[f64]) -> Result<Distance> {
        let sum: f64 = ratio.iter().sum();
        if ratio.len() != self.rows.len() || ratio.iter().any(|q| *q < 0.0) || (sum - 1.0).abs() > 1e-6 {
            return refused(format!("a mixture has {} shares that add up to one, not {ratio:?}", self.rows.len()));
        }
        let masses: Vec<f64> =
            self.rows.iter().zip(ratio).flat_map(|(rows, q)| vec![q / sum / *rows as f64; *rows]).collect();
        let valid = uniform(self.cost.ncols());
        let plan = exact(self.cost.view(), Array1::from(masses).view(), valid.view())?;
        let mut start = 0;
        let mut means = Vec::with_capacity(ratio.len());
        for rows in &self.rows {
            means.push(plan.f.slice(ndarray::s![start..start + rows]).sum() / *rows as f64);
            start += rows;
        }
        let slopes = centred(&means, ratio);
        let rest = |(slope, q): (&f64, &f64)| if *q < 1.0 { slope / (1.0 - q) } else { 0.0 };
        Ok(Distance { value: plan.cost, calibrated: slopes.iter().zip(ratio).map(rest).collect(), slopes })
    }
}

impl Surface {
    /// The score of a mixture at this size.
    pub fn score(&self, ratio: &[f64], distance: f64) -> f64 {
        let columns = columns(ratio, distance, self.squares);
        columns.iter().zip(&self.coefficients).map(|(column, coefficient)| column * coefficient).sum()
    }

    /// The slopes of the score in the shares.
    fn slopes(&self, ratio: &[f64], distance: &Distance) -> Vec<f64> {
        let half = self.coefficients.len() / 2;
        let (b, c) = self.coefficients.split_at(half);
        let polynomial = |coefficients: &[f64]| -> f64 {
            powers(ratio, self.squares).iter().zip(coefficients).map(|((_, power), by)| power * by).sum()
        };
        let along = polynomial(b);
        let mut slopes: Vec<f64> = distance.slopes.iter().map(|slope| along * slope).collect();
        for (at, (source, _)) in powers(ratio, self.squares).iter().enumerate() {
            if let Some((source, power)) = source {
                let own = if *power == 2 { 2.0 * ratio[*source] } else { 1.0 };
                slopes[*source] += own * (b[at] * distance.value + c[at]);
            }
        }
        slopes
    }
}

/// The source and power of each term of the polynomial, and its value; the constant is the last. The last share follows from the others,
/// and of two so does its square.
fn powers(ratio: &[f64], squares: bool) -> Vec<(Option<(usize, u8)>, f64)> {
    let sources = ratio.len();
    let mut terms = Vec::with_capacity(2 * sources);
    for (source, q) in ratio.iter().enumerate() {
        if source + 1 < sources {
            terms.push((Some((source, 1)), *q));
        }
        if squares && sources > 1 && (source + 1 < sources || sources > 2) {
            terms.push((Some((source, 2)), q * q));
        }
    }
    terms.push((None, 1.0));
    terms
}

/// The columns of the regression: the polynomial times the distance, and the polynomial.
fn columns(ratio: &[f64], distance: f64, squares: bool) -> Vec<f64> {
    let powers = powers(ratio, squares);
    powers.iter().map(|(_, power)| power * distance).chain(powers.iter().map(|(_, power)| *power)).collect()
}

fn centred(slopes: &[f64], ratio: &[f64]) -> Vec<f64> {
    let mean: f64 = slopes.iter().zip(ratio).map(|(slope, q)| slope * q).sum();
    slopes.iter().map(|slope| slope - mean).collect()
}

/// The nearest point whose numbers are not negative and have the sum one.
fn simplex(point: &[f64]) -> Vec<f64> {
    let mut falling = point.to_vec();
    falling.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut shift) = (0.0, 0.0);
    for (rank, value) in falling.iter().enumerate() {
        sum += value;
        let candidate = (sum - 1.0) / (rank + 1) as f64;
        if value - candidate > 0.0 {
            shift = candidate;
        }
    }
    point.iter().map(|value| (value - shift).max(0.0)).collect()
}

fn refused<T>(what: String) -> Result<T> {
    Err(Error::Other(format!("projektor: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projections_onto_the_simplex_are_nearest_and_stay() {
        let mut rng = Rng::new(151, "points", 0);
        for _ in 0..200 {
            let point: Vec<f64> = (0..1 + rng.below(6)).map(|_| 2.0 * rng.normal()).collect();
            let found = simplex(&point);
            assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12 && found.iter().all(|q| *q >= 0.0));
            // The conditions of optimality: one shift where there is mass, and at least as much elsewhere.
            let shifts: Vec<f64> = point.iter().zip(&found).map(|(point, found)| point - found).collect();
            let held = shifts.iter().zip(&found).filter(|(_, q)| **q > 0.0).map(|(shift, _)| *shift);
            let shift = held.clone().next().unwrap_or(f64::NAN);
            assert!(held.clone().all(|other| (other - shift).abs() < 1e-12));
            assert!(shifts.iter().all(|other| *other <= shift + 1e-12));
            assert!(simplex(&found).iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}
