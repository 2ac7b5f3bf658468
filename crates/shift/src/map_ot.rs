use crate::coupling::{Moves, barycentres, exact, ground};
use crate::{Align, Aligned, Host, Norm, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::transport::Metric;
use serde::{Deserialize, Serialize};

/// Moves each row of the source to the mean of the target's rows that the cheapest coupling sends it to.
///
/// # Mathematics
/// With costs $C_{ij} = d(x_i, t_j)$ between the $n$ rows of the source and the $m$ of the target,
/// $$P = \arg\min_{P \ge 0} \sum_{ij} P_{ij} C_{ij} \quad\text{where}\quad P 1 = \tfrac1n 1,\ P^\top 1 = \tfrac1m 1,
///   \qquad x_i \mapsto n \sum_j P_{ij}\, t_j.$$
/// The cost $d$ is the squared Euclidean distance, one less the cosine of the angle, or the sum of absolute differences. A row $x$ of the
/// source that the fit has not seen moves with its nearest seen row: $x \mapsto x + (x_i' - x_i)$. Equal domains give the identity, and a
/// target that is moved as a whole moves the mapped source with it under squared distances.
///
/// # When to use
/// When the domains differ by a map that carries each row a short way and the classes have like shares in both. All of the source has to go
/// somewhere and all of the target has to be reached, so where shares differ rows of one class are sent to another.
///
/// # Differences
/// skada 0.4.0 can divide the costs by their median. That changes no exact coupling, so there is no such setting. Under `cityblock` many
/// couplings cost the same, and there the one that is found depends on the order of rows. Here a millionth of the squared distances,
/// brought to the same mean, is added to the costs of other metrics and chooses among them.
///
/// # Example
/// ```
/// use acclimate_core::{Method, find};
/// use acclimate_shift::{ALIGN, MapOt};
///
/// let method = find(ALIGN, MapOt::CARD.name)?.build(&toml::toml! { metric = "cityblock" })?;
/// assert_eq!(method.settings()["metric"].as_str(), Some("cityblock"));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Courty, Flamary, Tuia and Rakotomamonjy, *Optimal Transport for Domain Adaptation*, IEEE Transactions on Pattern Analysis and Machine
/// Intelligence 39, 2017, arXiv:1507.00504. Ferradans, Papadakis, Peyré and Aujol, *Regularized Discrete Optimal Transport*, SIAM Journal
/// on Imaging Sciences 7, 2014, arXiv:1307.5551: rows that were not seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "map_ot", title = "MapOT", catalogue = [28], paper = "arxiv:1507.00504", year = 2017)]
#[method(case = "", case = "metric = \"cosine\"", case = "metric = \"cityblock\"")]
pub struct MapOt {
    /// The cost of a pair of rows, $d$: `sqeuclidean`, `cosine` or `cityblock`.
    pub metric: Metric,
}

impl Align for MapOt {
    type View = Moves;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Moves>> {
        let cost = ground(self.metric, Norm::None, source, target).settled(self.metric, source, target);
        let plan = exact(&cost)?;
        let facts = vec![("cost", (&plan * &cost).sum())];
        let view = Moves::new(source, barycentres(&plan, target.x));
        Ok(Aligned { lesson: view.lesson(source), facts, view })
    }
}
