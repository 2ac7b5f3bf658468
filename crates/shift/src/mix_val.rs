use crate::{Case, Score};
use acclimate_core::{Method, Result, Rng};
use acclimate_stats::learn::select;
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

/// Whether the fit answers mixtures of two rows of the target as it answers the row that dominates.
///
/// # Mathematics
/// Unseen rows $x_i$ of the target with predictions $\hat y_i$ are mixed with rows in an order $\pi$ drawn at random,
/// $$\tilde x_i = \lambda x_i + (1 - \lambda)\, x_{\pi(i)}, \qquad \tfrac12 < \lambda \le 1,$$
/// and the score is the share of pairs for which $\hat y(\tilde x_i) = \hat y_i$. `intra` looks at pairs of one predicted class,
/// `inter` at pairs of two, and `both` takes the mean of the two shares. Several `rounds` are averaged.
///
/// # When to use
/// Without the source, and with a learner whose probabilities are worth nothing. Pairs within a class test whether classes hang together,
/// pairs between two whether the boundary lies between them.
///
/// # Differences
/// The authors add up ranks of the two shares among candidates; here, as in skada, the shares themselves. Where all predictions are of one
/// class there is no pair between classes: that share is zero here, while skada 0.4.0 leaves it out, so that a collapsed fit gets
/// the full score: `compat = true`. Rows are brought into an order of their own before one is drawn, so the score does not depend on the
/// order in which they are given.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::MixVal;
///
/// assert_eq!(MixVal::default().share, 0.55);
/// assert!(MixVal { share: 0.3, ..MixVal::default() }.check().is_err());
/// ```
///
/// # References
/// Hu, Liang, Liew, Xue, Bai and Wang, *Mixed Samples as Probes for Unsupervised Model Selection in Domain Adaptation*, NeurIPS 2023.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "mix_val", title = "MixVal", catalogue = [28], paper = "-", year = 2023)]
#[method(case = "", case = "pairs = \"intra\"", case = "pairs = \"inter\"\nrounds = 3")]
pub struct MixVal {
    /// Which pairs count: `both`, `intra` or `inter`.
    pub pairs: Pairs,
    /// The share of the row that dominates, $\lambda$.
    #[method(above = 0.5, max = 1)]
    pub share: f64,
    /// How many orders are drawn.
    #[method(min = 1)]
    pub rounds: usize,
    /// Leaves out a share that has no pair, as skada 0.4.0 does for `both`.
    pub compat: bool,
}

impl Default for MixVal {
    fn default() -> Self {
        Self { pairs: Pairs::Both, share: 0.55, rounds: 1, compat: false }
    }
}

/// Which pairs count in [`MixVal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// The mean of both shares.
    #[default]
    Both,
    /// Those of one predicted class.
    Intra,
    /// Those of two predicted classes.
    Inter,
}

impl Score for MixVal {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        case.held.y.classes(Self::CARD.name)?;
        let x = select(case.target_held.x, &in_order(case.target_held.x));
        let predicted = case.fit.predict(x.view())?;
        let mut total = 0.0;
        for round in 0..self.rounds {
            let mut order: Vec<usize> = (0..x.nrows()).collect();
            Rng::new(case.host.seed, "mix_val", round as u64).shuffle(&mut order);
            let mixed = &x * self.share + select(x.view(), &order) * (1.0 - self.share);
            let found = case.fit.predict(mixed.view())?;
            // Right answers and pairs: of two classes, of one.
            let mut counts = [[0.0; 2]; 2];
            for (row, other) in order.into_iter().enumerate() {
                let [right, pairs] = &mut counts[usize::from(predicted[row] == predicted[other])];
                *pairs += 1.0;
                if found[row] == predicted[row] {
                    *right += 1.0;
                }
            }
            let [inter, intra] = counts.map(|[right, pairs]| if pairs > 0.0 { Some(right / pairs) } else { None });
            total += match (self.pairs, intra, inter) {
                (Pairs::Intra, share, _) | (Pairs::Inter, _, share) => share.unwrap_or(0.0),
                (Pairs::Both, Some(share), None) | (Pairs::Both, None, Some(share)) if self.compat => share,
                (Pairs::Both, intra, inter) => (intra.unwrap_or(0.0) + inter.unwrap_or(0.0)) / 2.0,
            };
        }
        Ok(total / self.rounds as f64)
    }
}

/// The rows by their first number, then the second, and so on.
fn in_order(x: ArrayView2<'_, f64>) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..x.nrows()).collect();
    let compare = |a: usize, b: usize| {
        let unequal = x.row(a).iter().zip(x.row(b)).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
        unequal.unwrap_or(std::cmp::Ordering::Equal)
    };
    rows.sort_by(|a, b| compare(*a, *b));
    rows
}
