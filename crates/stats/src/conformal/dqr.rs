use super::{Regions, Score, Shape};
use crate::{learn, linalg};
use acclimate_core::{Error, Method, Result, Rng};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Convex regions: what lies above a low quantile in every direction at once.
///
/// # Mathematics
/// For unit vectors $u_k$ a linear model predicts the $\tau$-quantile of $u_k^\top y$ given $x$,
/// $$q_k(x) = a_k + b_k^\top x \quad\text{at the least of}\quad \sum_i \rho_\tau\big(u_k^\top y_i - q_k(x_i)\big), \qquad
///   \rho_\tau(r) = r\,(\tau - [r \le 0]),$$
/// by weighted least squares in turn with weights $1/(\epsilon + |r|)$, which lowers the loss at each step. The region and its calibration are
/// $$R(x) = \{y : u_k^\top y \ge q_k(x) - \hat q\ \ \forall k\}, \qquad
///   \hat q \text{ the conformal quantile of } s_i = \max_k q_k(x_i) - u_k^\top y_i.$$
/// Each half-space keeps $1 - \tau$; for a Gaussian the region before calibration is an ellipsoid that keeps
/// $\chi^2_d$-mass up to $\Phi^{-1}(\tau)^2$. Coverage after it is at least $1 - \alpha$ for exchangeable rows. With one target and $u = \pm 1$ it is
/// `cqr` on linear quantiles.
///
/// # When to use
/// Two to four targets whose region is convex. Where it is bent or in pieces take `balls` on samples. Take $\tau$ so small that the
/// region before calibration keeps about $1 - \alpha$: 0.05 for two targets, 0.03 for four.
///
/// # Differences
/// The authors fit a network on $(x, u)$ and calibrate by distances on a grid; here quantiles are linear in $x$, one fit for each
/// direction, and half-spaces move together, which needs no grid. Directions are even angles for two targets and drawn for more.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{CalibratedRegions, Dqr, Row};
/// use ndarray::Array2;
///
/// let x = Array2::from_shape_fn((40, 1), |(i, _)| i as f64 / 40.0);
/// let y = Array2::from_shape_fn((40, 2), |(i, j)| ((i * 7 + j * 3) % 10) as f64);
/// let method = Dqr { directions: 8, ..Default::default() };
/// let fit = method.fit(x.view(), y.view())?;
/// let shapes = fit.shapes(x.view())?;
/// let calibrated = CalibratedRegions::new(&method, &shapes, y.view(), None, &[])?;
/// assert!(calibrated.region(&method, &shapes[0], None, &Row::default(), 0.1)?.contains(&[4.5, 4.5]));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Paindaveine and Šiman, *On Directional Multiple-Output Quantile Regression*, JMVA 2011; Feldman, Bates and Romano, *Calibrated
/// Multiple-Output Quantile Regression with Representation Learning*, JMLR 2023, arXiv:2110.00816; Hunter and Lange, *Quantile Regression
/// via an MM Algorithm*, JCGS 2000.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dqr", title = "Directional quantile regression", catalogue = [76], paper = "arxiv:2110.00816", year = 2023)]
#[method(needs(labels), case = "", case = "level = 0.1\ndirections = 8\nsteps = 50\nseed = 3")]
pub struct Dqr {
    /// The level of the quantile in each direction, $\tau$.
    #[method(above = 0, max = 0.5)]
    pub level: f64,
    /// How many directions; one target has two.
    #[method(min = 2)]
    pub directions: usize,
    /// Steps of the fit in each direction.
    #[method(min = 1)]
    pub steps: usize,
    /// Names the draws of directions.
    pub seed: u64,
}

impl Default for Dqr {
    fn default() -> Self {
        Self { level: 0.05, directions: 64, steps: 200, seed: 0 }
    }
}

/// The quantile of each direction as a linear function of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DqrFit {
    directions: Array2<f64>,
    /// Intercept and slopes, `[directions, 1 + features]`.
    coefficients: Array2<f64>,
}

impl Dqr {
    /// Fits the quantiles of all directions: features `[rows, features]`, targets `[rows, numbers]`.
    ///
    /// # Errors
    /// When the tables differ in rows or hold numbers that are not finite, or there is no row.
    pub fn fit(&self, x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) -> Result<DqrFit> {
        if x.nrows() != y.nrows() || y.is_empty() {
            let what = "dqr: features and targets".to_owned();
            return Err(Error::Shape {
                what,
                expected: "as many rows of both, at least one".to_owned(),
                got: vec![x.nrows(), y.nrows()],
            });
        }
        learn::finite("dqr", x)?;
        learn::finite("dqr", y)?;
        let directions = self.unit_vectors(y.ncols());
        let design = with_one(x);
        let fits = (0..directions.nrows()).into_par_iter();
        let fits = fits.map(|k| self.quantile(design.view(), y.dot(&directions.row(k)).view()));
        let fits = fits.collect::<Result<Vec<_>>>()?;
        let coefficients = Array2::from_shape_fn((fits.len(), design.ncols()), |(k, j)| fits[k][j]);
        Ok(DqrFit { directions, coefficients })
    }

    fn unit_vectors(&self, numbers: usize) -> Array2<f64> {
        let count = if numbers == 1 { 2 } else { self.directions };
        let mut vectors = Array2::from_shape_fn((count, numbers), |(k, j)| match numbers {
            1 => 1.0 - 2.0 * k as f64,
            2 => {
                let angle = std::f64::consts::TAU * k as f64 / count as f64;
                if j == 0 { angle.cos() } else { angle.sin() }
            }
            _ => 0.0,
        });
        if numbers > 2 {
            for (k, mut vector) in vectors.rows_mut().into_iter().enumerate() {
                let mut rng = Rng::new(self.seed, "directions of regions", k as u64);
                vector.mapv_inplace(|_| rng.normal());
                let length = vector.dot(&vector).sqrt();
                vector /= length;
            }
        }
        vectors
    }

    fn quantile(&self, design: ArrayView2<'_, f64>, z: ArrayView1<'_, f64>) -> Result<Array1<f64>> {
        let column = |v: &Array1<f64>| v.view().insert_axis(ndarray::Axis(1)).to_owned();
        let mut fit = linalg::least_squares(design, column(&z.to_owned()).view())?.column(0).to_owned();
        let spread = (&z - &design.dot(&fit)).mapv(f64::abs).sum() / z.len() as f64;
        // The smoothing shrinks to a millionth of the spread: the fit is then within rounding of the least loss.
        let shift = design.sum_axis(ndarray::Axis(0)) * (2.0 * self.level - 1.0);
        for step in 0..self.steps {
            let eps = spread * 10f64.powf(-6.0 * (step + 1) as f64 / self.steps as f64);
            if eps == 0.0 {
                break;
            }
            let weights = (&z - &design.dot(&fit)).mapv(|r| 1.0 / (eps + r.abs()));
            let weighted = &design * &weights.view().insert_axis(ndarray::Axis(1));
            let right = weighted.t().dot(&z) + &shift;
            fit = linalg::least_squares(weighted.t().dot(&design).view(), column(&right).view())?.column(0).to_owned();
        }
        Ok(fit)
    }
}

fn with_one(x: ArrayView2<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((x.nrows(), x.ncols() + 1), |(i, j)| if j == 0 { 1.0 } else { x[[i, j - 1]] })
}

impl DqrFit {
    /// The shape at each row of features.
    ///
    /// # Errors
    /// When there are more or fewer features than at the fit.
    pub fn shapes(&self, x: ArrayView2<'_, f64>) -> Result<Vec<Shape>> {
        if x.ncols() + 1 != self.coefficients.ncols() {
            let expected = format!("[rows, {}]", self.coefficients.ncols() - 1);
            return Err(Error::Shape { what: "dqr: features".to_owned(), expected, got: x.shape().to_vec() });
        }
        let offsets = with_one(x).dot(&self.coefficients.t());
        let shape = |offsets: ArrayView1<'_, f64>| Shape::HalfSpaces {
            directions: self.directions.clone(),
            offsets: offsets.to_vec(),
        };
        Ok(offsets.rows().into_iter().map(shape).collect())
    }
}

impl Regions for Dqr {
    fn score<'a>(&self, shape: &'a Shape) -> Result<Score<'a>> {
        let Shape::HalfSpaces { directions, offsets } = shape else {
            return Err(Error::Unsupported {
                who: "dqr".to_owned(),
                what: "read samples".to_owned(),
                instead: "give half-spaces, or use `balls`".to_owned(),
            });
        };
        Ok(Box::new(move |point| {
            let depth = |(u, offset): (ArrayView1<'_, f64>, &f64)| {
                offset - u.iter().zip(point).map(|(u, y)| u * y).sum::<f64>()
            };
            directions.rows().into_iter().zip(offsets).map(depth).fold(f64::NEG_INFINITY, f64::max)
        }))
    }
}
