use crate::principal::principal;
use crate::{Affine, Align, Aligned, Host, Lesson, Mapped, Source, Target};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// Turns the principal subspace of the source into that of the target.
///
/// # Mathematics
/// With means $\mu$ and the first principal axes $P$ of each domain as columns,
/// $$x_s \mapsto (x_s - \mu_s)\, P_s\, (P_s^\top P_t), \qquad x_t \mapsto (x_t - \mu_t)\, P_t.$$
/// $M = P_s^\top P_t$ is the matrix for which $\lVert P_s M - P_t \rVert_F$ is least.
///
/// # When to use
/// When the domains vary in different directions of a space with many columns. It is linear and needs no label. With as many components as
/// columns it only centres both domains; where shares of classes differ, that centring moves classes onto each other.
///
/// # Differences
/// The paper aligns whitened rows with columns of variance one; here rows are taken as they are given.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::SubspaceAlignment;
///
/// let method = SubspaceAlignment { components: Some(2) };
/// assert_eq!(method.to_table()["components"].as_integer(), Some(2));
/// ```
///
/// # References
/// Fernando, Habrard, Sebban and Tuytelaars, *Unsupervised Visual Domain Adaptation Using Subspace Alignment*, ICCV 2013,
/// doi:10.1109/ICCV.2013.368.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "subspace_alignment", title = "Subspace Alignment", catalogue = [28])]
#[method(paper = "doi:10.1109/ICCV.2013.368", year = 2013, case = "", case = "components = 1")]
pub struct SubspaceAlignment {
    /// How many axes of each domain; none is all.
    pub components: Option<usize>,
}

impl Align for SubspaceAlignment {
    type View = Mapped;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Mapped>> {
        let (source_mean, source_axes) = principal(Self::CARD.name, source.x, self.components)?;
        let (target_mean, target_axes) = principal(Self::CARD.name, target.x, self.components)?;
        let turned = source_axes.dot(&source_axes.t().dot(&target_axes));
        let view = Mapped {
            source: Affine::projection(source_mean, turned),
            target: Some(Affine::projection(target_mean, target_axes)),
        };
        let lesson = Lesson { x: view.source.of(source.x)?, y: source.y.clone(), weights: None };
        Ok(Aligned { lesson, facts: Vec::new(), view })
    }
}
