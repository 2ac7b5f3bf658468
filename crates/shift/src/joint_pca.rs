use crate::principal::principal;
use crate::{Affine, Align, Aligned, Host, Lesson, Mapped, Source, Target};
use acclimate_core::{Method, Result};
use ndarray::{Axis, concatenate};
use serde::{Deserialize, Serialize};

/// Shows both domains in the principal axes of the two together.
///
/// # Mathematics
/// With the mean $\mu$ and the first eigenvectors $P$ of the covariance of the rows of source and target under each other,
/// $$x \mapsto (x - \mu) P, \qquad P^\top P = I.$$
///
/// # When to use
/// When the domains differ in directions in which neither varies much, as in embeddings with many columns. It moves nothing, so it cannot
/// help where the shift lies in the leading directions; with all components it is a rotation.
///
/// # Differences
/// skada's benchmark, which calls this JPCA, fits the axes on the source alone: `compat = true`.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::JointPca;
///
/// assert_eq!(JointPca { components: Some(2), ..JointPca::default() }.to_table()["components"].as_integer(), Some(2));
/// ```
///
/// # References
/// Lalou, Gnassounou, Collas, de Mathelin, Kachaiev, Odonnat, Gramfort, Moreau and Flamary, *SKADA-Bench: Benchmarking Unsupervised
/// Domain Adaptation Methods with Realistic Validation On Diverse Modalities*, arXiv:2407.11676.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "joint_pca", title = "Joint PCA", catalogue = [28], paper = "arxiv:2407.11676", year = 2024)]
#[method(case = "", case = "components = 1", case = "components = 1\ncompat = true")]
pub struct JointPca {
    /// How many axes; none is all.
    pub components: Option<usize>,
    /// Fits the axes on the source alone, as skada's benchmark does.
    pub compat: bool,
}

impl Align for JointPca {
    type View = Mapped;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Mapped>> {
        let (mean, axes) = if self.compat {
            principal(Self::CARD.name, source.x, self.components)?
        } else {
            let both = concatenate(Axis(0), &[source.x, target.x]).expect("domains of one width");
            principal(Self::CARD.name, both.view(), self.components)?
        };
        let map = Affine::projection(mean, axes);
        let lesson = Lesson { x: map.of(source.x)?, y: source.y.clone(), weights: None };
        Ok(Aligned { lesson, facts: Vec::new(), view: Mapped { source: map.clone(), target: Some(map) } })
    }
}
