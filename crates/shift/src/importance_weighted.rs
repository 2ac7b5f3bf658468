use crate::{Case, Score};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::squared_distances;
use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

/// The accuracy on unseen rows of the source, weighted by how likely the target has such rows.
///
/// # Mathematics
/// With densities by Gaussian windows of width $h$ on the rows of each domain that the fit has seen, and the unseen rows $i$ of the
/// source,
/// $$w_i = \frac{\hat p_t(x_i)}{\hat p_s(x_i)}, \qquad s = \frac{\sum_i w_i\, [\hat y_i = y_i]}{\sum_i w_i}, \qquad
///   \hat p(x) \propto \frac1n \sum_j e^{-\lVert x - x_j \rVert^2 / 2h^2}.$$
/// Predictions are those that the fit makes of rows of the source.
///
/// # When to use
/// Under covariate shift, where the target lies inside the source. It sees nothing of rows that the source does not have, and few
/// rows carry all the weight where the domains are far apart.
///
/// # Differences
/// skada 0.4.0 estimates both densities on the unseen rows, at which it also asks for them, so that each row of the source is its own
/// neighbour: `compat = true`. The weights' common factor is taken out before the exponential, so that they do not all become zero.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::ImportanceWeighted;
///
/// assert_eq!(ImportanceWeighted::default().bandwidth, 1.0);
/// assert!(ImportanceWeighted { bandwidth: 0.0, ..ImportanceWeighted::default() }.check().is_err());
/// ```
///
/// # References
/// Sugiyama, Krauledat and Müller, *Covariate Shift Adaptation by Importance Weighted Cross Validation*, Journal of Machine Learning
/// Research 8, 2007, <https://jmlr.org/papers/v8/sugiyama07a.html>.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "importance_weighted", title = "Importance-weighted validation", catalogue = [28])]
#[method(paper = "doi:10.5555/1314498.1390324", year = 2007, case = "", case = "compat = true")]
pub struct ImportanceWeighted {
    /// The width of the windows, $h$.
    #[method(above = 0)]
    pub bandwidth: f64,
    /// Densities of the unseen rows, as in skada 0.4.0.
    pub compat: bool,
}

impl Default for ImportanceWeighted {
    fn default() -> Self {
        Self { bandwidth: 1.0, compat: false }
    }
}

impl Score for ImportanceWeighted {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        let (of, _) = case.held.y.classes(Self::CARD.name)?;
        let (source, target) =
            if self.compat { (case.held.x, case.target_held.x) } else { (case.source.x, case.target.x) };
        let ratio = log_density(target, case.held.x, self.bandwidth) - log_density(source, case.held.x, self.bandwidth);
        let most = ratio.iter().fold(f64::NEG_INFINITY, |most, ratio| most.max(*ratio));
        let weights = ratio.mapv(|ratio| (ratio - most).exp());
        let predicted = case.fit.source_predict(case.held.x)?;
        let right = predicted.iter().zip(of).zip(&weights).map(|((p, y), w)| if p == y { *w } else { 0.0 });
        Ok(right.sum::<f64>() / weights.sum())
    }
}

/// The logarithm of the density by Gaussian windows, up to a constant of the width and the number of columns.
fn log_density(rows: ArrayView2<'_, f64>, at: ArrayView2<'_, f64>, bandwidth: f64) -> Array1<f64> {
    let exponents = squared_distances(at, rows) / (-2.0 * bandwidth * bandwidth);
    let sum = |row: ndarray::ArrayView1<'_, f64>| {
        let most = row.iter().fold(f64::NEG_INFINITY, |most, value| most.max(*value));
        most + row.iter().map(|value| (value - most).exp()).sum::<f64>().ln()
    };
    exponents.map_axis(ndarray::Axis(1), sum) - (rows.nrows() as f64).ln()
}
