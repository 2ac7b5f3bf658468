use crate::{Case, Score};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::svd;
use serde::{Deserialize, Serialize};

/// The nuclear norm of the answers to unseen rows of the target: sure answers, of several classes.
///
/// # Mathematics
/// With the matrix $P$ of probabilities, $n$ rows and $k$ columns, and its singular values $\sigma$,
/// $$s = \frac1n \lVert P \rVert_* = \frac1n \sum_j \sigma_j.$$
/// Its square is at most $\min(n, k) \sum p_{ic}^2 / n^2$, which is reached where answers are sure and shared out equally over
/// the classes.
///
/// # When to use
/// In place of [`PredictionEntropy`](crate::PredictionEntropy) where fits may collapse to one class, and classes are about equally
/// frequent in the target. Compare fits on the same rows only: it depends on $n$.
///
/// # Differences
/// None. It was published as a loss on batches; as a score it is taken over all unseen rows.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Bnm;
///
/// assert_eq!(Bnm::CARD.title, "Batch nuclear norm");
/// ```
///
/// # References
/// Cui, Wang, Zhuo, Li, Huang and Tian, *Towards Discriminability and Diversity: Batch Nuclear-norm Maximization under Label Insufficient
/// Situations*, CVPR 2020, arXiv:2003.12237. Musgrave, Belongie and Lim, *Three New Validators and a Large-Scale Benchmark Ranking for
/// Unsupervised Domain Adaptation*, arXiv:2208.07360.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "bnm", title = "Batch nuclear norm", catalogue = [28], paper = "arxiv:2003.12237", year = 2020, case = "")]
pub struct Bnm {}

impl Score for Bnm {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        case.held.y.classes(Self::CARD.name)?;
        let answers = case.fit.answers(case.target_held.x)?;
        Ok(svd(answers.view())?.1.sum() / answers.nrows().max(1) as f64)
    }
}
