use crate::kernel::Stacked;
use crate::{Align, Aligned, Host, KernelMap, Lesson, Source, Target};
use acclimate_core::{Method, Result};
use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

/// Shows both domains in components of a kernel that match, and lets rows of the source that do not match drop out.
///
/// # Mathematics
/// With the kernel $K$ of the rows of both domains, $H$ that centres and $M = L / \lVert L \rVert_F$ as in
/// [`Tca`](crate::Tca), $A$ lowers
/// $$\operatorname{tr} A^\top K M K A + \lambda \big( \lVert A_s \rVert_{2,1} + \lVert A_t \rVert_F^2 \big)
///   \qquad\text{under}\qquad A^\top K H K A = I.$$
/// $\lVert A_s \rVert_{2,1}$, the sum of the lengths of the source's rows of $A$, makes some of them zero. In turns, the columns of $A$ are
/// the leading solutions of $K H K a = \theta (K M K + \lambda G) a$, and
/// $G_{ii} = 1 / (2 \lVert a_i \rVert)$ for rows of the source and one for the target. It begins with $G = I$ and ends after `steps`, or
/// when the objective changes by less than the share `tolerance`.
///
/// # When to use
/// As [`Tca`](crate::Tca), where part of the source has no counterpart in the target.
///
/// # Differences
/// skada 0.4.0 divides the change of the objective by a negative number the first time, so it ends after one step, before any row has
/// dropped out: `steps = 1` does the same.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Tjm;
///
/// assert!(Tjm { tradeoff: -1.0, ..Tjm::default() }.check().is_err());
/// ```
///
/// # References
/// Long, Wang, Ding, Sun and Yu, *Transfer Joint Matching for Unsupervised Domain Adaptation*, CVPR 2014, doi:10.1109/CVPR.2014.183.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "tjm", title = "Transfer Joint Matching", catalogue = [28])]
#[method(paper = "doi:10.1109/CVPR.2014.183", year = 2014)]
#[method(case = "components = 3", case = "components = 2\nsteps = 1")]
pub struct Tjm {
    /// How many components.
    #[method(min = 1)]
    pub components: usize,
    /// What the size of $A$ costs, $\lambda$.
    #[method(above = 0)]
    pub tradeoff: f64,
    /// The width of the kernel; none is one over the number of columns.
    #[method(above = 0)]
    pub gamma: Option<f64>,
    /// Turns at most.
    #[method(min = 1)]
    pub steps: usize,
    /// The relative change of the objective at which it ends.
    #[method(min = 0)]
    pub tolerance: f64,
}

impl Default for Tjm {
    fn default() -> Self {
        Self { components: 10, tradeoff: 0.01, gamma: None, steps: 10, tolerance: 0.01 }
    }
}

/// Guards the division by the length of a row that has dropped out.
const SHORT: f64 = 1e-10;

impl Align for Tjm {
    type View = KernelMap;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<KernelMap>> {
        let stacked = Stacked::new(source, target, self.gamma);
        let factor = stacked.factor();
        // The Frobenius norm of ℓ ℓᵀ.
        let size = stacked.balance.dot(&stacked.balance);
        let mut sparing = Array1::<f64>::ones(stacked.rows.nrows());
        let mut matrix = Array2::zeros((0, 0));
        let mut before = f64::INFINITY;
        for _ in 0..self.steps {
            let diagonal = &sparing * self.tradeoff;
            matrix = stacked.leading(factor.view(), diagonal.view(), 1.0 / size, self.components)?;
            let lengths = matrix.map_axis(ndarray::Axis(1), |row| row.dot(&row).sqrt());
            let apart = factor.dot(&factor.t().dot(&stacked.balance)).dot(&matrix);
            let mut cost = 0.0;
            for (row, length) in lengths.iter().enumerate() {
                let of_source = row < stacked.sources;
                cost += if of_source { *length } else { length * length };
                sparing[row] = if of_source { 1.0 / (2.0 * length + SHORT) } else { 1.0 };
            }
            let objective = apart.dot(&apart) / size + self.tradeoff * cost;
            if (before - objective).abs() < self.tolerance * before.abs() {
                break;
            }
            before = objective;
        }
        let (view, x) = stacked.map(matrix);
        let facts = vec![("components", x.ncols() as f64)];
        Ok(Aligned { lesson: Lesson { x, y: source.y.clone(), weights: None }, facts, view })
    }
}
