use crate::coupling::{Moves, barycentres, coded, entropic, facts, ground};
use crate::{Align, Aligned, Host, Norm, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::product;
use acclimate_stats::transport::{Metric, Sinkhorn};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// Moves the source by an entropic coupling that sends rows of different classes to different rows of the target.
///
/// # Mathematics
/// With costs $C$ between the $n$ rows of the source and the $m$ of the target, and the classes $\mathcal I_c$ of the source,
/// $$P = \arg\min_{P \ge 0} \sum_{ij} P_{ij} C_{ij} + \lambda \sum_{ij} P_{ij} \log P_{ij} +
///   \eta \sum_{jc} \Big(\varepsilon + \sum_{i \in \mathcal I_c} P_{ij}\Big)^{1/2}
///   \quad\text{where}\quad P 1 = \tfrac1n 1,\ P^\top 1 = \tfrac1m 1, \qquad x_i \mapsto n \sum_j P_{ij}\, t_j$$
/// with $\varepsilon = 10^{-3}$. The root is concave, so that mass in one class costs least. Each of `steps` steps replaces it by its
/// tangent at the last coupling and solves an entropic problem with the costs
/// $$C_{ij} + \frac{\eta}{2} \Big(\varepsilon + \sum_{k \in \mathcal I_{c_i}} P_{kj}\Big)^{-1/2},$$
/// the first without the second term. No step raises the objective, and it ends in a local minimum. A row of the source that the fit has
/// not seen moves with its nearest seen row. The fact `mixed` is the share of mass that reaches a row of the target beside another class's.
///
/// # When to use
/// Where classes lie close to each other and `ent_ot` mixes them. The first coupling decides which rows of the target go to which class;
/// the regulariser makes that sharper and cannot put it right.
///
/// # Differences
/// $\varepsilon$ is beside masses of about $1/m$: with many more than a thousand rows of the target the regulariser is all but linear and
/// does little, in POT 0.9.7 as here. There the inner problems work on plain exponentials: for a small $\lambda$ these underflow, the
/// coupling has no mass and all rows are sent to zero, and where the steps do not suffice the target's masses are not met. Here they work in
/// the domain of logarithms, and couplings have the marginals that were asked for.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::ClassRegOt;
///
/// let method = ClassRegOt::from_table(&"reg = 0.5\nreg_cl = 0.5".parse().unwrap())?;
/// assert_eq!(method.steps, 10);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Courty, Flamary, Tuia and Rakotomamonjy, *Optimal Transport for Domain Adaptation*, IEEE Transactions on Pattern Analysis and Machine
/// Intelligence 39, 2017, arXiv:1507.00504. Courty, Flamary and Tuia, *Domain Adaptation with Regularized Optimal Transport*, ECML PKDD
/// 2014, doi:10.1007/978-3-662-44848-9_18.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "class_reg_ot", title = "ClassRegOT", catalogue = [28], paper = "arxiv:1507.00504", year = 2017)]
#[method(
    needs(labels),
    case = "",
    case = "reg = 0.5\nreg_cl = 0.5\nnorm = \"median\"",
    case = "metric = \"cosine\"\nsteps = 2"
)]
pub struct ClassRegOt {
    /// The cost of a pair of rows: `sqeuclidean`, `cosine` or `cityblock`.
    pub metric: Metric,
    /// What costs are divided by: `none`, `median` or `mean`.
    pub norm: Norm,
    /// The weight of the entropy, $\lambda$, in the unit of the divided costs.
    #[method(above = 0)]
    pub reg: f64,
    /// The weight of the classes, $\eta$.
    #[method(min = 0)]
    pub reg_cl: f64,
    /// Entropic problems that are solved.
    #[method(min = 1)]
    pub steps: usize,
    /// The error of the marginals at which an entropic problem ends: the sum of their differences.
    #[method(above = 0)]
    pub tolerance: f64,
    /// Steps at most of each entropic problem.
    #[method(min = 1)]
    pub inner_steps: usize,
}

impl Default for ClassRegOt {
    fn default() -> Self {
        Self {
            metric: Metric::Sqeuclidean,
            norm: Norm::None,
            reg: 1.0,
            reg_cl: 0.1,
            steps: 10,
            tolerance: 1e-8,
            inner_steps: 200,
        }
    }
}

/// Added to the mass of a class, $\varepsilon$: the authors'.
const GUARD: f64 = 1e-3;

impl Align for ClassRegOt {
    type View = Moves;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Moves>> {
        let (of, _) = source.y.classes(Self::CARD.name)?;
        let cost = ground(self.metric, self.norm, source, target).cost;
        let settings = Sinkhorn { reg: self.reg, tolerance: self.tolerance, steps: self.inner_steps };
        let classes = coded(source.y);
        // The mass of each class on each row of the target, `[classes, target]`.
        let masses = |plan: &Array2<f64>| product(classes.t(), plan.view()) + GUARD;
        let mut found = entropic(&cost, &settings)?;
        for _ in 1..self.steps {
            let slopes = masses(&found.coupling).mapv(|mass| 0.5 * self.reg_cl / mass.sqrt());
            let steered = Array2::from_shape_fn(cost.dim(), |(i, j)| cost[[i, j]] + slopes[[of[i], j]]);
            found = entropic(&steered, &settings)?;
        }
        let plan = &found.coupling;
        let entropy: f64 = plan.iter().filter(|mass| **mass > 0.0).map(|mass| mass * mass.ln()).sum();
        let objective = (plan * &cost).sum() + self.reg * entropy + self.reg_cl * masses(plan).mapv(f64::sqrt).sum();
        let view = Moves::new(source, barycentres(plan, target.x));
        let mut facts = facts(&found);
        facts[0] = ("objective", objective);
        let main: f64 =
            (masses(plan) - GUARD).columns().into_iter().map(|of| of.fold(0.0, |a: f64, b| a.max(*b))).sum();
        facts.push(("mixed", 1.0 - main));
        Ok(Aligned { lesson: view.lesson(source), facts, view })
    }
}
