use crate::{Align, Aligned, Host, Lesson, Plain, Source, Target};
use acclimate_core::{Method, Result};
use serde::{Deserialize, Serialize};

/// No adaptation: the learner is fitted on the source as it is.
///
/// # Mathematics
/// The lesson is the source, each row with weight one, and rows of the target are shown as they are:
/// $$\hat f = \arg\min_f \sum_{i=1}^{n_s} \ell(f(x_i), y_i).$$
///
/// # When to use
/// As a candidate beside every other method: a method that adapts is worth choosing only where it is likely to do better than this one.
///
/// # Differences
/// None.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::SourceOnly;
///
/// assert_eq!(SourceOnly::CARD.name, "source_only");
/// ```
///
/// # References
/// The row "Train Src" of Lalou, Gnassounou, Collas, de Mathelin, Kachaiev, Odonnat, Gramfort, Moreau and Flamary, *SKADA-Bench:
/// Benchmarking Unsupervised Domain Adaptation Methods with Realistic Validation On Diverse Modalities*, arXiv:2407.11676.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "source_only", title = "No adaptation", catalogue = [28], paper = "arxiv:2407.11676", year = 2024, case = "")]
pub struct SourceOnly {}

impl Align for SourceOnly {
    type View = Plain;

    fn align(&self, source: &Source<'_>, _: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Plain>> {
        Ok(Aligned { lesson: Lesson::of(source), facts: Vec::new(), view: Plain {} })
    }
}
