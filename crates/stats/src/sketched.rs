use crate::linalg::{column_means, least_squares, orthonormal};
use crate::random_features::hadamard;
use crate::{Estimator, learn};
use acclimate_core::{Error, Method, Result, Rng};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate, s};
use serde::{Deserialize, Serialize};

/// Least squares without a ridge on fewer, mixed rows: throws data away where that lowers the error.
///
/// # Mathematics
/// Of $y = X\beta + \varepsilon$ with $n$ rows and $p$ columns the estimate is $\hat\beta = (SX)^+ S y$, the shortest solution on $m$ rows
/// of a sketch $S$: orthogonal, $S S^\top = I$, or of independent normals. Let $\alpha^2 = \|\beta\|^2$, $\sigma^2$ the variance of the noise,
/// $\phi = p/n$, $u = p/m$. As all grow alike, the error $\mathbb E (x^\top (\hat\beta - \beta))^2$ on columns of unit variance tends to
/// $$u > 1:\ \alpha^2 \Big(1 - \frac1u\Big) + \frac{\sigma^2}{u - 1}, \qquad
///   u < 1:\ \frac{\sigma^2 u}{1 - u}, \ \text{for a normal sketch}\ \sigma^2 \Big( \frac{\phi}{1-\phi} + \frac{u}{1-u} \Big).$$
/// It is infinite at $u = 1$. For an orthogonal sketch and $\alpha > \sigma$, $1 - \sigma/2\alpha < \phi \le \alpha/(\alpha - \sigma)$ the best
/// is $m = p(1 - \sigma/\alpha)$ with the error $2\alpha\sigma - \sigma^2$; for $\alpha \le \sigma$ and $\phi > \alpha^2/(\alpha^2 + \sigma^2)$ it
/// is the mean of $y$, $m = 0$; else all rows. For columns with the covariance's eigenvalues $\lambda$ and $u > 1$ the bias is
/// $-\alpha^2 c$ with the root $c < 0$ of $\operatorname{mean}(\lambda/(\lambda/u - c)) = 1$, and the variance is $\sigma^2 A/(1-A)$ with
/// $A = \operatorname{mean}\big(\lambda^2/u\,(c - \lambda/u)^{-2}\big)$; for $u < 1$ nothing changes.
///
/// # When to use
/// A linear fit on features of a frozen model with about as many rows as columns, where the plain fit's error peaks. Without `size` it
/// is chosen on rows set aside. Far from the peak all rows are kept. Where a ridge may be tuned, that is at least as good. A normal sketch
/// never beats an orthogonal one.
///
/// # Differences
/// The authors' code adds $10^{-6} I$, which flattens the peak near $m = p$; here it is a pseudo-inverse. Their root finder starts at $-1$
/// and may end elsewhere; here the root is bracketed. In place of $m = n/40$ for the useless signal the answer is $m = 0$. `hadamard`
/// shuffles rows, cuts them into blocks of powers of two and mixes each with signs, which is orthogonal for any number of rows.
///
/// # Example
/// ```
/// use acclimate_stats::{Sketch, Sketched};
///
/// // At the peak, with a signal of twice the noise, half of the rows are best.
/// assert_eq!(Sketched::best_size(400, 400, 2.0, 1.0)?, 200);
/// assert!((Sketched::risk(400, 400, 200, 2.0, 1.0, Sketch::Haar)? - 3.0).abs() < 1e-12);
/// assert!(Sketched::risk(400, 400, 400, 2.0, 1.0, Sketch::Haar)?.is_infinite());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Chen, Zeng, Yang and Sun, *Sketched Ridgeless Linear Regression: The Role of Downsampling*, ICML 2023, arXiv:2302.01088.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "sketched", title = "SketchRidgeless", catalogue = [159], paper = "arxiv:2302.01088", year = 2023)]
#[method(case = "", case = "sketch = \"haar\"\nsize = 12", case = "sketch = \"gaussian\"\nsize = 12")]
pub struct Sketched {
    /// `hadamard`, `haar`, `rows` (a plain choice of rows) or `gaussian`.
    pub sketch: Sketch,
    /// Rows after the sketch, $m$; without one it is chosen.
    pub size: Option<usize>,
    /// Subtracts means first and adds an intercept.
    pub centred: bool,
    /// How many sizes are tried.
    #[method(min = 1)]
    pub grid: usize,
    /// The share of rows set aside to choose the size on.
    #[method(above = 0, max = 0.9)]
    pub valid_share: f64,
}

impl Default for Sketched {
    fn default() -> Self {
        Self { sketch: Sketch::Hadamard, size: None, centred: true, grid: 20, valid_share: 0.2 }
    }
}

/// How rows are mixed in [`Sketched`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sketch {
    /// Shuffled, under signs, and mixed by Hadamard matrices: orthogonal and fast.
    #[default]
    Hadamard,
    /// Rows of a rotation drawn evenly from all: orthogonal, in cubic time.
    Haar,
    /// A choice of rows without repetition: orthogonal, not mixed.
    Rows,
    /// Independent normal numbers.
    Gaussian,
}

impl Estimator for Sketched {}

/// A linear fit on sketched rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedSketched {
    /// One for each column.
    pub coefficients: Array1<f64>,
    /// The answer where all columns are zero.
    pub intercept: f64,
    /// Rows after the sketch.
    pub size: usize,
    /// The mean squared error on the rows set aside for each size tried, where it was chosen.
    pub tried: Vec<(usize, f64)>,
}

impl FittedSketched {
    /// The answers to rows.
    ///
    /// # Errors
    /// When they have another width than at the fit.
    pub fn predict(&self, x: ArrayView2<'_, f64>) -> Result<Array1<f64>> {
        if x.ncols() != self.coefficients.len() {
            let expected = format!("[rows, {}]", self.coefficients.len());
            return Err(Error::Shape { what: "sketched: rows".to_owned(), expected, got: x.shape().to_vec() });
        }
        Ok(x.dot(&self.coefficients) + self.intercept)
    }
}

impl Sketched {
    /// Fits; the sketch, and the rows to choose its size on, are drawn from the seed.
    ///
    /// # Errors
    /// When rows and labels do not agree or are not finite, or `size` is more than there are rows.
    pub fn fit(&self, x: ArrayView2<'_, f64>, y: ArrayView1<'_, f64>, seed: u64) -> Result<FittedSketched> {
        self.check()?;
        learn::check("sketched", x, &learn::Labels::Numbers(y.to_vec()), None)?;
        if let Some(size) = self.size {
            return self.fit_at(x, y, size, seed);
        }
        let rows = x.nrows();
        let mut order: Vec<usize> = (0..rows).collect();
        Rng::new(seed, "valid", 0).shuffle(&mut order);
        let held = ((rows as f64 * self.valid_share).round() as usize).max(1);
        if held >= rows {
            return Err(Error::Other(format!("sketched: {rows} rows are too few to choose a size; set `size`")));
        }
        let (held, kept) = order.split_at(held);
        let (train, labels) = (learn::select(x, kept), y.select(Axis(0), kept));
        let (valid, answers) = (learn::select(x, held), y.select(Axis(0), held));
        let mut tried = Vec::new();
        for step in 1..=self.grid {
            let size = (kept.len() * step).div_ceil(self.grid);
            let far = self.fit_at(train.view(), labels.view(), size, seed)?.predict(valid.view())? - &answers;
            tried.push((size, far.dot(&far) / held.len() as f64));
        }
        // Of equals the largest: the fewest rows are lost.
        let best = tried.iter().rev().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(kept.len(), |best| best.0);
        // The best size does not grow with the rows, unless it is all of them.
        let size = if best == kept.len() { rows } else { best };
        Ok(FittedSketched { tried, ..self.fit_at(x, y, size, seed)? })
    }

    fn fit_at(&self, x: ArrayView2<'_, f64>, y: ArrayView1<'_, f64>, size: usize, seed: u64) -> Result<FittedSketched> {
        let rows = x.nrows();
        if size > rows {
            return Err(Error::Param {
                method: "sketched",
                param: "size",
                value: size.to_string(),
                why: format!("must be at most the number of rows, {rows}"),
            });
        }
        let (means, mean) = match self.centred {
            true => (column_means(x), y.sum() / rows as f64),
            false => (Array1::zeros(x.ncols()), 0.0),
        };
        let coefficients = if size == 0 || x.ncols() == 0 {
            Array1::zeros(x.ncols())
        } else {
            let labels = (&y - mean).insert_axis(Axis(1));
            let both = concatenate(Axis(1), &[(&x - &means).view(), labels.view()]).expect("they have the same rows");
            let both = self.sketch.apply(both, size, seed);
            let solution = least_squares(both.slice(s![.., ..-1]), both.slice(s![.., -1..]))?;
            solution.column(0).to_owned()
        };
        let intercept = mean - means.dot(&coefficients);
        Ok(FittedSketched { coefficients, intercept, size, tried: Vec::new() })
    }

    /// The error in the limit, with columns of unit variance: of `rows` rows, `columns` columns and `size` rows after the sketch, signal
    /// `alpha` and noise `sigma`. Unexplained features count as noise.
    ///
    /// # Errors
    /// When there are no rows or columns, the size is above the rows, or `alpha` or `sigma` is negative or not finite.
    pub fn risk(rows: usize, columns: usize, size: usize, alpha: f64, sigma: f64, sketch: Sketch) -> Result<f64> {
        Self::correlated_risk(rows, &vec![1.0; columns], size, alpha, sigma, sketch)
    }

    /// The error in the limit with the eigenvalues of the columns' covariance.
    ///
    /// # Errors
    /// As [`Sketched::risk`], and when an eigenvalue is not positive.
    pub fn correlated_risk(
        rows: usize,
        eigenvalues: &[f64],
        size: usize,
        alpha: f64,
        sigma: f64,
        sketch: Sketch,
    ) -> Result<f64> {
        let columns = eigenvalues.len();
        ratios(rows, columns, alpha, sigma)?;
        if size > rows || eigenvalues.iter().any(|value| !value.is_finite() || *value <= 0.0) {
            return Err(Error::Other(format!(
                "sketched: a size of {size} of {rows} rows; sizes are at most the rows, and eigenvalues positive"
            )));
        }
        let mean = |f: &dyn Fn(f64) -> f64| eigenvalues.iter().map(|value| f(*value)).sum::<f64>() / columns as f64;
        if size == 0 {
            return Ok(alpha * alpha * mean(&|value| value));
        }
        let (phi, u) = (columns as f64 / rows as f64, columns as f64 / size as f64);
        let noise = sigma * sigma;
        if size == columns {
            return Ok(if sigma > 0.0 { f64::INFINITY } else { 0.0 });
        }
        if size > columns {
            let extra = if sketch == Sketch::Gaussian { phi / (1.0 - phi) } else { 0.0 };
            return Ok(noise * (extra + u / (1.0 - u)));
        }
        // The left side rises in c, from at most one to u.
        let (mut low, mut high) = (-mean(&|value| value), 0.0);
        for _ in 0..200 {
            let c = 0.5 * (low + high);
            if mean(&|value| value / (value / u - c)) < 1.0 { low = c } else { high = c }
        }
        let c = 0.5 * (low + high);
        let a = mean(&|value| value * value / u / (c - value / u).powi(2));
        Ok(-alpha * alpha * c + noise * a / (1.0 - a))
    }

    /// The best number of rows after an orthogonal sketch, with columns of unit variance; zero says to answer with the mean.
    ///
    /// # Errors
    /// As [`Sketched::risk`].
    pub fn best_size(rows: usize, columns: usize, alpha: f64, sigma: f64) -> Result<usize> {
        ratios(rows, columns, alpha, sigma)?;
        let phi = columns as f64 / rows as f64;
        Ok(if alpha > sigma && phi > 1.0 - sigma / (2.0 * alpha) && phi * (alpha - sigma) <= alpha {
            ((columns as f64 * (1.0 - sigma / alpha)).round() as usize).min(rows)
        } else if alpha <= sigma && phi * (alpha * alpha + sigma * sigma) > alpha * alpha {
            0
        } else {
            rows
        })
    }
}

fn ratios(rows: usize, columns: usize, alpha: f64, sigma: f64) -> Result<()> {
    let right = |x: f64| x.is_finite() && x >= 0.0;
    if rows > 0 && columns > 0 && right(alpha) && right(sigma) {
        return Ok(());
    }
    Err(Error::Other(format!(
        "sketched: {rows} rows, {columns} columns, signal {alpha} and noise {sigma}; give rows and columns, and no negative number"
    )))
}

impl Sketch {
    /// `size` rows of the sketch of `x`.
    fn apply(self, mut x: Array2<f64>, size: usize, seed: u64) -> Array2<f64> {
        let rows = x.nrows();
        let mut rng = Rng::new(seed, "sketch", 0);
        let mut order: Vec<usize> = (0..rows).collect();
        match self {
            Self::Haar => {
                let rotation = orthonormal(Array2::from_shape_simple_fn((rows, rows), || rng.normal()).view());
                return rotation.slice(s![.., ..size]).t().dot(&x);
            }
            Self::Gaussian => {
                let scale = (rows as f64).sqrt().recip();
                return Array2::from_shape_simple_fn((size, rows), || rng.normal() * scale).dot(&x);
            }
            Self::Rows => {}
            Self::Hadamard => {
                rng.shuffle(&mut order);
                x = x.select(Axis(0), &order);
                let mut start = 0;
                while start < rows {
                    let end = start + (1 << (rows - start).ilog2());
                    let mut block = x.slice(s![start..end, ..]).to_owned();
                    for mut row in block.rows_mut() {
                        row *= if rng.uniform() < 0.5 { -1.0 } else { 1.0 };
                    }
                    hadamard(&mut block);
                    x.slice_mut(s![start..end, ..]).assign(&block);
                    start = end;
                }
            }
        }
        rng.shuffle(&mut order);
        order.truncate(size);
        x.select(Axis(0), &order)
    }
}
