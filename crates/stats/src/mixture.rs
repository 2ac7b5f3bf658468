//! Mixtures of normal distributions.

use crate::linalg::{cholesky, column_means, covariance};
use acclimate_core::{Error, Result, Rng};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

/// How a mixture is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureSettings {
    /// Components at most; of 1 to so many the one with the least BIC is kept.
    pub components: usize,
    /// Added to the diagonal of each covariance, as a share of the mean variance of the columns.
    pub ridge: f64,
    /// Steps of expectation and maximisation at most.
    pub steps: usize,
    /// Names the random stream of the starts.
    pub seed: u64,
}

impl Default for MixtureSettings {
    fn default() -> Self {
        Self { components: 5, ridge: 1e-4, steps: 200, seed: 0 }
    }
}

/// A normal distribution in a [`Mixture`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Component {
    share: f64,
    mean: Array1<f64>,
    /// The inverse of the covariance's lower factor.
    whitener: Array2<f64>,
    /// The logarithm of the share and of the density's constant.
    log: f64,
}

impl Component {
    fn new(share: f64, mean: Array1<f64>, covariance: ArrayView2<'_, f64>) -> Result<Self> {
        let lower = cholesky(covariance)?;
        let width = mean.len();
        let whitener = inverse_lower(&lower);
        let half_log_det: f64 = lower.diag().iter().map(|d| d.ln()).sum();
        let log = share.ln() - half_log_det - 0.5 * width as f64 * (2.0 * std::f64::consts::PI).ln();
        Ok(Self { share, mean, whitener, log })
    }

    fn log_density(&self, row: ArrayView1<'_, f64>) -> f64 {
        let mut square = 0.0;
        for (i, from) in self.whitener.rows().into_iter().enumerate() {
            let z: f64 = (0..=i).map(|j| from[j] * (row[j] - self.mean[j])).sum();
            square += z * z;
        }
        self.log - 0.5 * square
    }
}

/// A density made of normal distributions with covariances of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    components: Vec<Component>,
}

impl Mixture {
    /// Fits mixtures of 1, 2, … components by expectation and maximisation and keeps the one with the least BIC. Each starts at rows drawn
    /// with a probability that grows with the squared distance to those drawn before.
    ///
    /// # Errors
    /// When there are fewer than two rows, or all rows are equal.
    pub fn fit(x: ArrayView2<'_, f64>, settings: &MixtureSettings) -> Result<Self> {
        let (rows, width) = x.dim();
        if rows < 2 || width == 0 {
            return Err(Error::Other("mixture: two rows and one column are needed at least".to_owned()));
        }
        let pooled = covariance(x, 0);
        let ridge = settings.ridge * pooled.diag().mean().unwrap_or(0.0);
        if ridge <= 0.0 {
            return Err(Error::Other("mixture: all rows are equal; a density needs rows that differ".to_owned()));
        }
        let mut best: Option<(f64, Self)> = None;
        for count in 1..=settings.components.max(1) {
            // A component with no more rows than it has numbers says nothing.
            if count > 1 && count * (1 + width + width * (width + 1) / 2) > rows {
                break;
            }
            let mixture = Self::fit_count(x, count, &pooled, ridge, settings)?;
            let likelihood: f64 = mixture.log_density(x).sum();
            let bic = mixture.freedom() as f64 * (rows as f64).ln() - 2.0 * likelihood;
            if best.as_ref().is_none_or(|(least, _)| bic < *least) {
                best = Some((bic, mixture));
            }
        }
        Ok(best.expect("one component is always fitted").1)
    }

    fn fit_count(
        x: ArrayView2<'_, f64>,
        count: usize,
        pooled: &Array2<f64>,
        ridge: f64,
        settings: &MixtureSettings,
    ) -> Result<Self> {
        let width = x.ncols();
        let guard = |mut covariance: Array2<f64>| {
            covariance.diag_mut().mapv_inplace(|d| d + ridge);
            covariance
        };
        if count == 1 {
            let only = Component::new(1.0, column_means(x), guard(pooled.clone()).view())?;
            return Ok(Self { components: vec![only] });
        }
        let mut rng = Rng::new(settings.seed, "mixture", count as u64);
        let starts = spread(x, count, &mut rng);
        // Wide balls around the starts: the first expectation shares rows out softly.
        let ball = guard(Array2::from_diag(&(pooled.diag().to_owned() / count as f64)));
        let mut components = starts
            .iter()
            .map(|row| Component::new(1.0 / count as f64, x.row(*row).to_owned(), ball.view()))
            .collect::<Result<Vec<_>>>()?;
        let mut before = f64::NEG_INFINITY;
        for _ in 0..settings.steps {
            let mixture = Self { components };
            let (shares, total) = mixture.shares(x);
            let mut next = Vec::with_capacity(count);
            // A component that lost its rows is dropped; the criterion decides about the rest.
            let kept: Vec<ArrayView1<'_, f64>> =
                shares.columns().into_iter().filter(|column| column.sum() >= 1.0).collect();
            let all: f64 = kept.iter().map(|column| column.sum()).sum();
            for column in kept {
                let weight = column.sum();
                let mut mean = Array1::<f64>::zeros(width);
                for (share, row) in column.iter().zip(x.rows()) {
                    mean.scaled_add(*share / weight, &row);
                }
                let centred = &x - &mean;
                let weighted = &centred * &column.insert_axis(ndarray::Axis(1));
                let spread = weighted.t().dot(&centred) / weight;
                next.push(Component::new(weight / all, mean, guard(spread).view())?);
            }
            components = next;
            if (total - before).abs() < 1e-7 * total.abs().max(1.0) {
                break;
            }
            before = total;
        }
        Ok(Self { components })
    }

    /// How many numbers were fitted.
    pub fn freedom(&self) -> usize {
        let width = self.components.first().map_or(0, |component| component.mean.len());
        self.components.len() * (1 + width + width * (width + 1) / 2) - 1
    }

    /// The logarithm of the density at each row.
    pub fn log_density(&self, x: ArrayView2<'_, f64>) -> Array1<f64> {
        let at =
            |row: ArrayView1<'_, f64>| log_sum_exp(self.components.iter().map(|component| component.log_density(row)));
        x.rows().into_iter().map(at).collect()
    }

    /// How much each component has of each row, and the total log-likelihood.
    fn shares(&self, x: ArrayView2<'_, f64>) -> (Array2<f64>, f64) {
        let mut shares = Array2::zeros((x.nrows(), self.components.len()));
        let mut total = 0.0;
        for (row, mut shares) in x.rows().into_iter().zip(shares.rows_mut()) {
            for (share, component) in shares.iter_mut().zip(&self.components) {
                *share = component.log_density(row);
            }
            let whole = log_sum_exp(shares.iter().copied());
            shares.mapv_inplace(|log| (log - whole).exp());
            total += whole;
        }
        (shares, total)
    }
}

/// `log Σ exp`, without overflow; of nothing, minus infinity.
pub fn log_sum_exp(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    most + logs.map(|log| (log - most).exp()).sum::<f64>().ln()
}

/// Rows that lie apart.
fn spread(x: ArrayView2<'_, f64>, count: usize, rng: &mut Rng) -> Vec<usize> {
    let mut chosen = vec![rng.below(x.nrows())];
    let square = |a: usize, b: usize| x.row(a).iter().zip(x.row(b)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let mut nearest: Vec<f64> = (0..x.nrows()).map(|row| square(row, chosen[0])).collect();
    while chosen.len() < count {
        let mut left = rng.uniform() * nearest.iter().sum::<f64>();
        let mut next = 0;
        for (row, square) in nearest.iter().enumerate() {
            left -= square;
            next = row;
            if left <= 0.0 {
                break;
            }
        }
        chosen.push(next);
        for (row, least) in nearest.iter_mut().enumerate() {
            *least = least.min(square(row, next));
        }
    }
    chosen
}

fn inverse_lower(lower: &Array2<f64>) -> Array2<f64> {
    let n = lower.nrows();
    let mut inverse = Array2::zeros((n, n));
    for column in 0..n {
        for row in column..n {
            let known: f64 = (column..row).map(|k| lower[[row, k]] * inverse[[k, column]]).sum();
            let one = if row == column { 1.0 } else { 0.0 };
            inverse[[row, column]] = (one - known) / lower[[row, row]];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_heaps(rows: usize) -> Array2<f64> {
        let mut rng = Rng::new(1, "heaps", 0);
        Array2::from_shape_fn((rows, 2), |(row, column)| {
            let place = if row % 4 == 0 { 4.0 } else { 0.0 };
            rng.normal() * if column == 0 { 1.0 } else { 0.5 } + place
        })
    }

    #[test]
    fn two_heaps_are_two_components_with_their_shares() {
        let mixture = Mixture::fit(two_heaps(800).view(), &MixtureSettings::default()).unwrap();
        let mut shares: Vec<f64> = mixture.components.iter().map(|component| component.share).collect();
        shares.sort_by(f64::total_cmp);
        assert_eq!(shares.len(), 2);
        assert!((shares[0] - 0.25).abs() < 0.01, "{shares:?}");
    }

    #[test]
    fn one_component_is_the_normal_distribution_with_the_rows_moments() {
        let x = two_heaps(100);
        let settings = MixtureSettings { components: 1, ridge: 1e-12, ..Default::default() };
        let mixture = Mixture::fit(x.view(), &settings).unwrap();
        // In two dimensions the mean of the squared whitened length over the rows themselves is two.
        let mean = mixture.log_density(x.view()).mean().unwrap();
        let det = {
            let c = covariance(x.view(), 0);
            c[[0, 0]] * c[[1, 1]] - c[[0, 1]] * c[[1, 0]]
        };
        let expected = -1.0 - 0.5 * det.ln() - (2.0 * std::f64::consts::PI).ln();
        assert!((mean - expected).abs() < 1e-9, "{mean} {expected}");
    }

    #[test]
    fn densities_integrate_to_one() {
        let mixture = Mixture::fit(two_heaps(400).view(), &MixtureSettings::default()).unwrap();
        let step = 0.1;
        let grid = Array2::from_shape_fn((160 * 160, 2), |(i, c)| {
            (if c == 0 { i / 160 } else { i % 160 }) as f64 * step - 6.0
        });
        let mass = mixture.log_density(grid.view()).mapv(f64::exp).sum() * step * step;
        assert!((mass - 1.0).abs() < 1e-3, "{mass}");
    }

    #[test]
    fn equal_rows_are_refused() {
        assert!(Mixture::fit(Array2::ones((5, 2)).view(), &MixtureSettings::default()).is_err());
    }
}
