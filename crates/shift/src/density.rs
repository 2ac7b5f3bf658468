//! Densities of rows: kernels and Gaussians.

use acclimate_core::{Error, Result};
use acclimate_stats::linalg;
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The width of a kernel density: a number, or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bandwidth {
    /// As given.
    Number(f64),
    /// By the number of rows and features.
    Rule(BandwidthRule),
}

/// How rows choose a [`Bandwidth`]; both suppose features of unit variance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BandwidthRule {
    /// `n^(−1 / (d + 4))`.
    Scott,
    /// `(n (d + 2) / 4)^(−1 / (d + 4))`.
    Silverman,
}

impl Bandwidth {
    /// The number for so many rows and features.
    ///
    /// # Errors
    /// When a given number is not positive.
    pub fn of(self, who: &'static str, rows: usize, features: usize) -> Result<f64> {
        let (n, d) = (rows as f64, features as f64);
        match self {
            Self::Number(width) if width > 0.0 && width.is_finite() => Ok(width),
            Self::Number(width) => {
                let why = "must be positive".to_owned();
                Err(Error::Param { method: who, param: "bandwidth", value: width.to_string(), why })
            }
            Self::Rule(BandwidthRule::Scott) => Ok(n.powf(-1.0 / (d + 4.0))),
            Self::Rule(BandwidthRule::Silverman) => Ok((n * (d + 2.0) / 4.0).powf(-1.0 / (d + 4.0))),
        }
    }
}

/// A density as the mean of Gaussian bells around rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelDensity {
    /// The rows.
    pub rows: Array2<f64>,
    /// The standard deviation of a bell.
    pub bandwidth: f64,
}

impl KernelDensity {
    /// The logarithm of the density at each row of `x`.
    pub fn log(&self, x: ArrayView2<'_, f64>) -> Array1<f64> {
        self.logs(x, false)
    }

    /// The logarithm of the density at its own rows, each without its own bell.
    pub fn log_unseen(&self) -> Array1<f64> {
        self.logs(self.rows.view(), true)
    }

    fn logs(&self, x: ArrayView2<'_, f64>, own: bool) -> Array1<f64> {
        let squares = linalg::squared_distances(x, self.rows.view());
        let scale = -0.5 / (self.bandwidth * self.bandwidth);
        let (d, n) = (self.rows.ncols() as f64, (self.rows.nrows() - usize::from(own)) as f64);
        let norm = n.ln() + d * (self.bandwidth.ln() + 0.5 * (2.0 * PI).ln());
        let log = |(i, row): (usize, ndarray::ArrayView1<'_, f64>)| {
            let others = || row.iter().enumerate().filter(move |(j, _)| !own || *j != i).map(|(_, square)| square);
            let nearest = others().copied().fold(f64::INFINITY, f64::min);
            if nearest.is_infinite() {
                return f64::NEG_INFINITY;
            }
            nearest * scale + others().map(|square| ((square - nearest) * scale).exp()).sum::<f64>().ln() - norm
        };
        squares.rows().into_iter().enumerate().map(log).collect()
    }
}

/// How a covariance is drawn towards a multiple of the identity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shrinkage {
    /// The share of the identity, from zero to one.
    Number(f64),
    /// By a rule.
    Rule(ShrinkageRule),
}

/// How rows choose a [`Shrinkage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShrinkageRule {
    /// After Ledoit and Wolf, on standardised features.
    LedoitWolf,
}

/// A Gaussian fitted to rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gaussian {
    mean: Array1<f64>,
    /// The lower triangle of the covariance.
    root: Array2<f64>,
}

impl Gaussian {
    /// Fits the mean and a shrunken covariance.
    ///
    /// # Errors
    /// When the covariance has no inverse.
    pub fn fit(who: &str, rows: ArrayView2<'_, f64>, shrinkage: Shrinkage) -> Result<Self> {
        let mean = linalg::column_means(rows);
        let covariance = match shrinkage {
            Shrinkage::Rule(ShrinkageRule::LedoitWolf) => {
                let centred = &rows - &mean;
                let deviation =
                    (&centred * &centred).mean_axis(ndarray::Axis(0)).map(|squares| squares.mapv(f64::sqrt));
                // A constant feature keeps its scale, as it has none.
                let scale = deviation.unwrap_or_default().mapv(|s| if s > 0.0 { s } else { 1.0 });
                let mut found = ledoit_wolf(&(&centred / &scale));
                for ((i, j), entry) in found.indexed_iter_mut() {
                    *entry *= scale[i] * scale[j];
                }
                found
            }
            Shrinkage::Number(share) => shrunken(&linalg::covariance(rows, 0), share),
        };
        let root = linalg::cholesky(covariance.view()).map_err(|_| {
            Error::Other(format!(
                "{who}: the covariance of {} rows has no inverse; use `shrinkage = \"ledoit_wolf\"`, or leave constant and repeated \
                 columns out",
                rows.nrows()
            ))
        })?;
        Ok(Self { mean, root })
    }

    /// The logarithm of the density at each row of `x`.
    pub fn log(&self, x: ArrayView2<'_, f64>) -> Array1<f64> {
        let d = self.mean.len();
        let logs: f64 = (0..d).map(|i| self.root[[i, i]].ln()).sum();
        let norm = 0.5 * d as f64 * (2.0 * PI).ln() + logs;
        let log = |row: ndarray::ArrayView1<'_, f64>| {
            let mut z = &row - &self.mean;
            for i in 0..d {
                let known: f64 = (0..i).map(|j| self.root[[i, j]] * z[j]).sum();
                z[i] = (z[i] - known) / self.root[[i, i]];
            }
            -0.5 * z.dot(&z) - norm
        };
        x.rows().into_iter().map(log).collect()
    }
}

/// `(1 − s) C + s tr(C)/d I`.
fn shrunken(covariance: &Array2<f64>, share: f64) -> Array2<f64> {
    let d = covariance.nrows();
    covariance * (1.0 - share) + Array2::<f64>::eye(d) * (share * covariance.diag().sum() / d.max(1) as f64)
}

/// The covariance of centred rows, shrunk by the share that loses least in expectation.
fn ledoit_wolf(centred: &Array2<f64>) -> Array2<f64> {
    let (n, d) = (centred.nrows() as f64, centred.ncols() as f64);
    let covariance = linalg::product(centred.t(), centred.view()) / n;
    let mean = covariance.diag().sum() / d;
    let fourth: f64 = centred.rows().into_iter().map(|row| row.dot(&row).powi(2)).sum();
    let square = covariance.iter().map(|c| c * c).sum::<f64>();
    let noise = (fourth / n - square) / n;
    let distance = square - d * mean * mean;
    let share = if noise <= 0.0 || distance <= 0.0 { 0.0 } else { (noise / distance).min(1.0) };
    shrunken(&covariance, share)
}

/// The share of `numbers` below the one-hundredth quantile of `of`: target rows where the source is rarer than almost anywhere it was seen.
pub(crate) fn outside(of: &Array1<f64>, numbers: &Array1<f64>) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    let floor = sorted[sorted.len() / 100];
    numbers.iter().filter(|number| **number < floor).count() as f64 / numbers.len().max(1) as f64
}
