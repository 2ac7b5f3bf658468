use crate::affine::width;
use crate::coupling::{entropic, facts, ground};
use crate::{Align, Aligned, Host, Lesson, Norm, Source, Target, View};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::product;
use acclimate_stats::transport::{Metric, Sinkhorn, costs};
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// Moves each row of the source to the mean of the target under an entropic coupling.
///
/// # Mathematics
/// With costs $C_{ij} = d(x_i, t_j) / s$ between the $n$ rows of the source and the $m$ of the target, where $s$ is their median,
/// $$P = \arg\min_{P \ge 0} \sum_{ij} P_{ij} C_{ij} + \lambda \sum_{ij} P_{ij} \log P_{ij}
///   \quad\text{where}\quad P 1 = \tfrac1n 1,\ P^\top 1 = \tfrac1m 1.$$
/// It has the form $P_{ij} = \frac{1}{nm} e^{(f_i + g_j - C_{ij}) / \lambda}$, and the row of potentials $g$ gives a map for any row,
/// $$x \mapsto \frac{\sum_j e^{(g_j - d(x, t_j) / s) / \lambda}\, t_j}{\sum_j e^{(g_j - d(x, t_j) / s) / \lambda}},$$
/// which on rows of the fit is $x_i \mapsto n \sum_j P_{ij} t_j$. As $\lambda$ falls it tends to the map of the exact coupling; as it grows
/// all rows go to the target's mean. Where `steps` do not suffice for a small $\lambda$, the fact `marginal error` is above `tolerance`.
///
/// # When to use
/// Where `map_ot` follows single rows of the target too closely: the map is smooth. It draws the source together, the more the larger
/// $\lambda$ is, so try `0.1`, `0.5` and `1.0`. The shares of classes have to be like in both domains.
///
/// # Differences
/// None from POT 0.9.7, which maps in this way too. There the map of a row far from the target is not a number when all its exponentials
/// underflow; here they are taken about the largest.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::EntOt;
///
/// let method = EntOt::from_table(&toml::toml! { reg = 0.1 })?;
/// assert!(EntOt { reg: 0.0, ..method }.check().is_err());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Courty, Flamary, Tuia and Rakotomamonjy, *Optimal Transport for Domain Adaptation*, IEEE Transactions on Pattern Analysis and Machine
/// Intelligence 39, 2017, arXiv:1507.00504. Cuturi, *Sinkhorn Distances*, NeurIPS 2013, arXiv:1306.0895. Pooladian and Niles-Weed,
/// *Entropic estimation of optimal transport maps*, 2021, arXiv:2109.12004: rows that were not seen.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "ent_ot", title = "EntOT", catalogue = [28], paper = "arxiv:1507.00504", year = 2017)]
#[method(case = "", case = "reg = 0.1\nmetric = \"cityblock\"", case = "norm = \"none\"")]
pub struct EntOt {
    /// The cost of a pair of rows, $d$: `sqeuclidean`, `cosine` or `cityblock`.
    pub metric: Metric,
    /// What costs are divided by, $s$: `none`, `median` or `mean`.
    pub norm: Norm,
    /// The weight of the entropy, $\lambda$, in the unit of the divided costs.
    #[method(above = 0)]
    pub reg: f64,
    /// The error of the marginals at which it ends: the sum of their differences.
    #[method(above = 0)]
    pub tolerance: f64,
    /// Steps at most, each over rows and columns.
    #[method(min = 1)]
    pub steps: usize,
}

impl Default for EntOt {
    fn default() -> Self {
        Self { metric: Metric::Sqeuclidean, norm: Norm::Median, reg: 1.0, tolerance: 1e-8, steps: 1000 }
    }
}

/// Means of the target's rows under weights that fall with the cost. The target stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntropicMap {
    metric: Metric,
    scale: f64,
    reg: f64,
    target: Array2<f64>,
    potentials: Array1<f64>,
}

impl View for EntropicMap {
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.target.ncols(), rows)?;
        Ok(rows.to_owned())
    }

    fn show_source(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.target.ncols(), rows)?;
        let mut weights = (&self.potentials - &(costs(self.metric, rows, self.target.view()) / self.scale)) / self.reg;
        for mut row in weights.rows_mut() {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.mapv_inplace(|exponent| (exponent - most).exp());
            row /= row.sum();
        }
        Ok(product(weights.view(), self.target.view()))
    }
}

impl Align for EntOt {
    type View = EntropicMap;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<EntropicMap>> {
        let ground = ground(self.metric, self.norm, source, target);
        let settings = Sinkhorn { reg: self.reg, tolerance: self.tolerance, steps: self.steps };
        let found = entropic(&ground.cost, &settings)?;
        let facts = facts(&found);
        let (metric, scale, reg) = (self.metric, ground.scale, self.reg);
        let view = EntropicMap { metric, scale, reg, target: target.x.to_owned(), potentials: found.g };
        let lesson = Lesson { x: view.show_source(source.x)?, y: source.y.clone(), weights: None };
        Ok(Aligned { lesson, facts, view })
    }
}
