use crate::Estimator;
use crate::linalg::{orthonormal, product};
use acclimate_core::{Error, Method, Result, Rng};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

/// Approximates Gaussian or softmax kernels by positive random features whose directions point to the corners of a simplex.
///
/// # Mathematics
/// With $w_i \sim N(0, I)$, one by one, and $x, y$ already multiplied by `scale`,
/// $$\phi(x)_i = \tfrac{1}{\sqrt m}\, e^{w_i^\top x - \|x\|^2}, \qquad \mathbb E\,\phi(x)^\top\phi(y) = e^{-\|x-y\|^2/2},$$
/// and with $-\|x\|^2/2$ in the exponent the kernel is $e^{x^\top y}$. Directions come in blocks $W = D B R$: $R$ a random rotation, $D$
/// lengths drawn as those of normal vectors, and $B$ the coupling. `orthogonal` has $B = I$; `simplex` has as rows
/// $$s_i = \sqrt{\tfrac{d}{d-1}}\,e_i - \tfrac{\sqrt d + 1}{(d-1)^{3/2}} (1, \dots, 1, 0), \quad i < d, \qquad
///   s_d = \tfrac{1}{\sqrt{d-1}} (1, \dots, 1, 0),$$
/// whose pairs have the cosine $-1/(d-1)$. `simplex_plus` goes on from there in `sweeps` of
/// $s_i \leftarrow -v/\|v\|$, $v = \sum_{j \ne i} \omega_j s_j$, which fits directions to the lengths $\omega$. With $z = x + y$ the mean squared
/// error of the Gaussian kernel is
/// $$\frac{e^{-2\|x\|^2 - 2\|y\|^2}}{m} \Big[ e^{2\|z\|^2} - e^{\|z\|^2} + (m-1)\big(\rho - e^{\|z\|^2}\big) \Big], \qquad
///   \rho = \frac{1}{m(m-1)} \sum_{i \ne j} \mathbb E \sum_{k \ge 0}
///   \frac{\Gamma(d/2)\,(\|z\|^2 \|w_i + w_j\|^2 / 4)^k}{k!\;\Gamma(k + d/2)} .$$
/// The conformity $\rho$ is $e^{\|z\|^2}$ for independent directions; the lower, the better.
///
/// # When to use
/// Kernel regression, kernel averages and attention in time that grows with the rows, not their square. All estimates are positive. The
/// gain of the simplex over orthogonal directions shrinks as the width grows, and needs about as many features as columns. For $\|z\|$ far
/// above one the estimates are heavy-tailed: use a smaller `scale`, or more features.
///
/// # Differences
/// The authors draw the lengths of `simplex_plus` once for all blocks; here each block has its own. A number of features that is no
/// multiple of the width keeps the first rows of the last block. With `hadamard` rows are padded to a power of two, and the estimate is
/// no longer exactly unbiased.
///
/// # Example
/// ```
/// use acclimate_stats::RandomFeatures;
/// use ndarray::array;
///
/// let features = RandomFeatures { features: 4096, ..RandomFeatures::default() }.draw(2, 0)?;
/// let x = array![[0.1, 0.2], [0.3, -0.1]];
/// let phi = features.map(x.view())?;
/// assert!((phi.row(0).dot(&phi.row(1)) - (-0.065_f64).exp()).abs() < 0.05);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Reid, Choromanski, Likhosherstov and Weller, *Simplex Random Features*, ICML 2023, arXiv:2301.13856.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "random_features", title = "SimRFs", catalogue = [127], paper = "arxiv:2301.13856", year = 2023)]
#[method(case = "", case = "coupling = \"simplex_plus\"", case = "rotation = \"hadamard\"\nfeatures = 5")]
pub struct RandomFeatures {
    /// How many there are.
    #[method(min = 1)]
    pub features: usize,
    /// How directions of a block lie to each other: `iid`, `orthogonal`, `simplex` or `simplex_plus`.
    pub coupling: Coupling,
    /// How a block is turned: `haar`, evenly over all rotations, or `hadamard`, faster to apply.
    pub rotation: Rotation,
    /// The kernel: `gaussian` or `softmax`.
    pub kernel: Kernel,
    /// Multiplies rows: one over the length scale.
    #[method(above = 0)]
    pub scale: f64,
    /// Rounds of `simplex_plus`.
    #[method(min = 0)]
    pub sweeps: usize,
}

impl Default for RandomFeatures {
    fn default() -> Self {
        Self {
            features: 256,
            coupling: Coupling::Simplex,
            rotation: Rotation::Haar,
            kernel: Kernel::Gaussian,
            scale: 1.0,
            sweeps: 5,
        }
    }
}

/// How directions of a block lie to each other in [`RandomFeatures`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coupling {
    /// Independent.
    Iid,
    /// At right angles.
    Orthogonal,
    /// At equal angles, as wide as they can be.
    #[default]
    Simplex,
    /// As wide as their lengths ask for.
    SimplexPlus,
}

/// How a block is turned in [`RandomFeatures`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Evenly over all rotations and reflections.
    #[default]
    Haar,
    /// Three products of signs and a Hadamard matrix.
    Hadamard,
}

/// What [`RandomFeatures`] approximate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// The exponential of minus half the squared distance.
    #[default]
    Gaussian,
    /// The exponential of the product.
    Softmax,
}

impl Estimator for RandomFeatures {}

impl RandomFeatures {
    /// Draws directions for rows of `width` columns.
    ///
    /// # Errors
    /// When a setting is out of range, or there are too few columns for a simplex.
    pub fn draw(&self, width: usize, seed: u64) -> Result<DrawnFeatures> {
        self.check()?;
        let block = self.width(width)?;
        let mut directions = Array2::zeros((self.features, width));
        for first in (0..self.features).step_by(block) {
            let mut rng = Rng::new(seed, "random features", first as u64);
            let made = match self.coupling {
                Coupling::Iid => Array2::from_shape_simple_fn((block, block), || rng.normal()),
                _ => {
                    let lengths = lengths(block, &mut rng);
                    let rotation = match self.rotation {
                        Rotation::Haar => {
                            orthonormal(Array2::from_shape_simple_fn((block, block), || rng.normal()).view())
                        }
                        Rotation::Hadamard => mixed(block, &mut rng),
                    };
                    self.block(lengths.view(), rotation.view())?
                }
            };
            let rows = block.min(self.features - first);
            directions.slice_mut(s![first..first + rows, ..]).assign(&made.slice(s![..rows, ..width]));
        }
        Ok(DrawnFeatures { kernel: self.kernel, scale: self.scale, directions })
    }

    /// The directions of one block under given lengths and a given rotation; of independent ones the rotation times the lengths.
    ///
    /// # Errors
    /// When sizes do not agree, or there are fewer than two lengths for a simplex.
    pub fn block(&self, lengths: ArrayView1<'_, f64>, rotation: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let width = lengths.len();
        if rotation.dim() != (width, width) {
            let expected = format!("[{width}, {width}]");
            let what = "random_features: rotation".to_owned();
            return Err(Error::Shape { what, expected, got: rotation.shape().to_vec() });
        }
        self.width(width)?;
        Ok(&product(self.corners(lengths).view(), rotation) * &lengths.insert_axis(Axis(1)))
    }

    /// The conformity $\rho$ of all features at $\|z\|$ = `length`, a mean over `draws` of the lengths; exact for independent directions.
    ///
    /// # Errors
    /// As [`RandomFeatures::draw`], and when there are fewer than two features or no draws.
    pub fn conformity(&self, width: usize, length: f64, draws: usize, seed: u64) -> Result<f64> {
        self.check()?;
        let block = self.width(width)?;
        let free = (length * length).exp();
        if self.features < 2 || draws == 0 {
            return Err(Error::Param {
                method: "random_features",
                param: "features",
                value: self.features.to_string(),
                why: "must be at least 2 for a conformity, with at least one draw".to_owned(),
            });
        }
        if self.coupling == Coupling::Iid {
            return Ok(free);
        }
        // Pairs of two blocks are independent; of a block that is cut off the first rows count.
        let (whole, rest) = (self.features / block, self.features % block);
        let within = |rows: usize| (rows * rows.saturating_sub(1)) as f64;
        let pairs = within(self.features);
        let mut sum = free * (pairs - whole as f64 * within(block) - within(rest));
        for draw in 0..draws {
            let lengths = lengths(block, &mut Rng::new(seed, "conformity", draw as u64));
            let rows = &self.corners(lengths.view()) * &lengths.insert_axis(Axis(1));
            for i in 0..block {
                for j in 0..i {
                    let apart = (&rows.row(i) + &rows.row(j)).mapv(|x| x * x).sum();
                    let times = whole as f64 + f64::from(u8::from(i < rest));
                    sum += 2.0 * times * bessel(length * length * apart / 4.0, block as f64 / 2.0) / draws as f64;
                }
            }
        }
        Ok(sum / pairs)
    }

    /// The mean squared error of the kernel between two rows, by [`RandomFeatures::conformity`].
    ///
    /// # Errors
    /// As there, and when the rows differ in length.
    pub fn error(&self, x: ArrayView1<'_, f64>, y: ArrayView1<'_, f64>, draws: usize, seed: u64) -> Result<f64> {
        if x.len() != y.len() {
            let expected = format!("[{}]", x.len());
            return Err(Error::Shape { what: "random_features: y".to_owned(), expected, got: vec![y.len()] });
        }
        let (x, y) = (&x * self.scale, &y * self.scale);
        let square = |a: &Array1<f64>| a.dot(a);
        let z = square(&(&x + &y));
        let outside = (-self.share() * 2.0 * (square(&x) + square(&y))).exp();
        let m = self.features as f64;
        let rho = if self.features > 1 { self.conformity(x.len(), z.sqrt(), draws, seed)? } else { z.exp() };
        Ok(outside / m * ((2.0 * z).exp() - z.exp() + (m - 1.0) * (rho - z.exp())))
    }

    /// How much of the squared length of a row its exponent loses.
    fn share(&self) -> f64 {
        self.kernel.share()
    }

    /// The width of a block for rows of `width` columns.
    fn width(&self, width: usize) -> Result<usize> {
        let block = match self.rotation {
            Rotation::Hadamard if self.coupling != Coupling::Iid => width.next_power_of_two(),
            _ => width,
        };
        let least = if matches!(self.coupling, Coupling::Simplex | Coupling::SimplexPlus) { 2 } else { 1 };
        if block < least {
            return Err(Error::Unsupported {
                who: "random_features".to_owned(),
                what: format!("couple {width} columns by a simplex"),
                instead: "set `coupling = \"orthogonal\"`, or give at least two columns".to_owned(),
            });
        }
        Ok(block)
    }

    /// The rows of $B$.
    fn corners(&self, lengths: ArrayView1<'_, f64>) -> Array2<f64> {
        let d = lengths.len();
        if matches!(self.coupling, Coupling::Iid | Coupling::Orthogonal) {
            return Array2::eye(d);
        }
        let width = d as f64;
        let mut rows = Array2::from_elem((d, d), -(width.sqrt() + 1.0) / (width - 1.0).powf(1.5));
        rows.diag_mut().mapv_inplace(|x| x + (width / (width - 1.0)).sqrt());
        rows.row_mut(d - 1).fill(1.0 / (width - 1.0).sqrt());
        rows.column_mut(d - 1).fill(0.0);
        if self.coupling == Coupling::SimplexPlus {
            for _ in 0..self.sweeps {
                for i in 0..d {
                    let mut others = lengths.dot(&rows);
                    others.scaled_add(-lengths[i], &rows.row(i));
                    let long = others.dot(&others).sqrt();
                    if long > 0.0 {
                        rows.row_mut(i).assign(&(others / -long));
                    }
                }
            }
        }
        rows
    }
}

impl Kernel {
    fn share(self) -> f64 {
        match self {
            Self::Gaussian => 1.0,
            Self::Softmax => 0.5,
        }
    }

    /// The kernel itself between all rows of `x` and all of `y`.
    ///
    /// # Errors
    /// When they differ in width.
    pub fn exact(self, x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        if x.ncols() != y.ncols() {
            let (expected, got) = (format!("[rows, {}]", x.ncols()), y.shape().to_vec());
            return Err(Error::Shape { what: "random_features: y".to_owned(), expected, got });
        }
        Ok(match self {
            Self::Gaussian => crate::linalg::squared_distances(x, y).mapv(|square| (-square / 2.0).exp()),
            Self::Softmax => product(x, y.t()).mapv(f64::exp),
        })
    }
}

/// Directions that were drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawnFeatures {
    kernel: Kernel,
    scale: f64,
    directions: Array2<f64>,
}

impl DrawnFeatures {
    /// The vectors $w$ as rows.
    pub fn directions(&self) -> ArrayView2<'_, f64> {
        self.directions.view()
    }

    /// The features of rows, `[rows, features]`, whose products approximate the kernel. They overflow for rows that are very long: where
    /// ratios matter alone, [`DrawnFeatures::average`] does not.
    ///
    /// # Errors
    /// When rows have another width than at the draw.
    pub fn map(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        Ok(self.logarithms(x)?.mapv(f64::exp))
    }

    /// The logarithms of the features.
    ///
    /// # Errors
    /// As [`DrawnFeatures::map`].
    pub fn logarithms(&self, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        if x.ncols() != self.directions.ncols() {
            let expected = format!("[rows, {}]", self.directions.ncols());
            return Err(Error::Shape { what: "random_features: rows".to_owned(), expected, got: x.shape().to_vec() });
        }
        let x = &x * self.scale;
        let lengths = x.mapv(|x| x * x).sum_axis(Axis(1)) * self.kernel.share();
        let half = 0.5 * (self.directions.nrows() as f64).ln();
        Ok(product(x.view(), self.directions.t()) - &lengths.insert_axis(Axis(1)) - half)
    }

    /// The averages of the rows of `values` under the kernel between `queries` and `keys`, `[queries, columns of values]`: kernel
    /// regression, a vote of neighbours where values are one-hot, and attention. It never sees all pairs.
    ///
    /// # Errors
    /// As [`DrawnFeatures::map`], and when keys and values differ in number or there is none.
    pub fn average(
        &self,
        queries: ArrayView2<'_, f64>,
        keys: ArrayView2<'_, f64>,
        values: ArrayView2<'_, f64>,
    ) -> Result<Array2<f64>> {
        if keys.nrows() != values.nrows() || keys.nrows() == 0 {
            let expected = format!("[{}, columns], at least one row", keys.nrows());
            let what = "random_features: values".to_owned();
            return Err(Error::Shape { what, expected, got: values.shape().to_vec() });
        }
        let largest = |a: &Array2<f64>| a.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let keys = self.logarithms(keys)?;
        // Each feature is divided by its largest key, and multiplied into the query: no exponent is above zero.
        let tops = keys.fold_axis(Axis(0), f64::NEG_INFINITY, |top, x| top.max(*x));
        let keys = (&keys - &tops).mapv(f64::exp);
        let mut queries = self.logarithms(queries)? + &tops;
        for mut row in queries.rows_mut() {
            let top = largest(&row.to_owned().insert_axis(Axis(0)));
            row.mapv_inplace(|x| (x - top).exp());
        }
        let above = queries.dot(&product(keys.t(), values));
        let below = queries.dot(&keys.sum_axis(Axis(0)));
        Ok(above / &below.insert_axis(Axis(1)))
    }
}

/// The lengths of normal vectors.
fn lengths(width: usize, rng: &mut Rng) -> Array1<f64> {
    let one = |_| (0..width).map(|_| rng.normal().powi(2)).sum::<f64>().sqrt();
    (0..width).map(one).collect()
}

/// A product of signs and Hadamard matrices, three times.
fn mixed(width: usize, rng: &mut Rng) -> Array2<f64> {
    let mut found = Array2::eye(width);
    for _ in 0..3 {
        for mut row in found.rows_mut() {
            row *= if rng.uniform() < 0.5 { -1.0 } else { 1.0 };
        }
        hadamard(&mut found);
    }
    found
}

/// The orthogonal Hadamard transform of the columns, in place; the number of rows is a power of two.
pub(crate) fn hadamard(columns: &mut Array2<f64>) {
    let rows = columns.nrows();
    let mut half = 1;
    while half < rows {
        for start in (0..rows).step_by(2 * half) {
            for i in start..start + half {
                let sum = &columns.row(i) + &columns.row(i + half);
                let difference = &columns.row(i) - &columns.row(i + half);
                columns.row_mut(i).assign(&sum);
                columns.row_mut(i + half).assign(&difference);
            }
        }
        half *= 2;
    }
    *columns /= (rows as f64).sqrt();
}

/// $\sum_k \Gamma(b)\, a^k / (k!\, \Gamma(k + b))$: the mean of $e^{z^\top v}$ over directions of $v$.
fn bessel(a: f64, b: f64) -> f64 {
    let (mut term, mut sum, mut k) = (1.0, 1.0_f64, 0.0);
    while term > 1e-17 * sum && sum.is_finite() {
        term *= a / ((k + 1.0) * (k + b));
        sum += term;
        k += 1.0;
    }
    sum
}
