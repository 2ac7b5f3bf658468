use crate::coupling::{carried, entropic, exact, facts, ground, taught};
use crate::{Align, Aligned, Host, Lesson, Norm, Plain, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::learn::{Labels, largest};
use acclimate_stats::transport::{Metric, Sinkhorn};
use serde::{Deserialize, Serialize};

/// Carries the labels of the source to the target along a coupling, and learns from the target.
///
/// # Mathematics
/// With a coupling $P$ of the $n$ rows of the source and the $m$ of the target, of least cost or, where `reg` is given, entropic,
/// and one-hot labels $Y$ of the source,
/// $$\hat Y = m\, P^\top Y, \qquad \hat y_j = \arg\max_c \hat Y_{jc}.$$
/// Each row of $\hat Y$ sums to one. Of classes that tie the first is taken. With `soft = true` a row of the target stands once for each
/// class of which it has a share, and counts as much as that. Labels that are numbers are averaged in the same way. Equal domains give the
/// labels back.
///
/// # When to use
/// When the learner should see rows of the target alone, and the classes have like shares in both domains: each class keeps its share,
/// whatever the target looks like.
///
/// # Differences
/// skada 0.4.0 lets the exact solver make 200 pivots and takes what it has by then. Of two normal clouds with a hundred rows a quarter of
/// the labels are then others than those of the cheapest coupling, with 640 rows nearly half, and 40 % of the rows are reached by no mass
/// and get the first class. Here the coupling is the cheapest, and of several that cost the same under a metric that one of least squared
/// distances.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::OtLabelProp;
///
/// let method = OtLabelProp::from_table(&"reg = 0.1\nsoft = true".parse().unwrap())?;
/// assert_eq!(method.reg, Some(0.1));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Solomon, Rustamov, Guibas and Butscher, *Wasserstein Propagation for Semi-Supervised Learning*, ICML 2014,
/// <https://proceedings.mlr.press/v32/solomon14.html>. Redko, Courty, Flamary and Tuia, *Optimal Transport for Multi-source Domain
/// Adaptation under Target Shift*, AISTATS 2019, arXiv:1803.04899.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "ot_label_prop", title = "OTLabelProp", catalogue = [28], paper = "arxiv:1803.04899", year = 2014)]
#[method(needs(labels), case = "", case = "metric = \"cityblock\"\nsoft = true", case = "reg = 1.0\nnorm = \"median\"")]
pub struct OtLabelProp {
    /// The cost of a pair of rows: `sqeuclidean`, `cosine` or `cityblock`.
    pub metric: Metric,
    /// What costs are divided by: `none`, `median` or `mean`. It matters with `reg` alone.
    pub norm: Norm,
    /// The weight of the entropy, in the unit of the divided costs; none is the coupling of least cost.
    #[method(above = 0)]
    pub reg: Option<f64>,
    /// Keeps the shares of all classes as weights.
    pub soft: bool,
    /// The error of the marginals at which an entropic coupling ends: the sum of their differences.
    #[method(above = 0)]
    pub tolerance: f64,
    /// Steps at most of an entropic coupling.
    #[method(min = 1)]
    pub steps: usize,
}

impl Default for OtLabelProp {
    fn default() -> Self {
        Self { metric: Metric::Sqeuclidean, norm: Norm::None, reg: None, soft: false, tolerance: 1e-8, steps: 1000 }
    }
}

/// Shares that differ by less are equal: masses are whole numbers of a quantum, which do not halve exactly.
const TIE: f64 = 1e-9;

impl Align for OtLabelProp {
    type View = Plain;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Plain>> {
        let ground = ground(self.metric, self.norm, source, target);
        let (plan, facts) = match self.reg {
            None => {
                let cost = ground.settled(self.metric, source, target);
                let plan = exact(&cost)?;
                let facts = vec![("cost", (&plan * &cost).sum())];
                (plan, facts)
            }
            Some(reg) => {
                let found = entropic(&ground.cost, &Sinkhorn { reg, tolerance: self.tolerance, steps: self.steps })?;
                let facts = facts(&found);
                (found.coupling, facts)
            }
        };
        let labels = carried(&plan, source.y);
        let lesson = match source.y {
            Labels::Classes { count, .. } if !self.soft => {
                let of = largest(labels.mapv(|share| (share / TIE).round()).view());
                Lesson { x: target.x.to_owned(), y: Labels::Classes { of, count: *count }, weights: None }
            }
            _ => taught(target.x, &labels, source.y),
        };
        Ok(Aligned { lesson, facts, view: Plain {} })
    }
}
