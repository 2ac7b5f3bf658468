use crate::draw;
use acclimate_core::{Affine, Error, Fields, Here, Method, Result, Rng, Site, WeightAdapter, matches};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Adds the product of two thin matrices to each frozen weight.
///
/// # Mathematics
/// For a weight $W \in \mathbb{R}^{m \times n}$ and rank $r$
///
/// $$W' = W + s\,B A, \qquad A \in \mathbb{R}^{r \times n},\quad B \in \mathbb{R}^{m \times r},\qquad
///   s = \frac{\alpha}{r} \ \text{ or, rank-stabilised, }\ \frac{\alpha}{\sqrt r}.$$
///
/// $A$ starts uniform in $\pm 1/\sqrt n$ (Kaiming with $a = \sqrt 5$) and $B$ at zero, so the first step starts from the base and moves
/// $B$ alone. In training $y = x W^\top + b + s\,(\operatorname{dropout}(x) A^\top) B^\top$: dropout touches the added path only.
/// A convolution's kernel is flattened to $m \times (n\,k_h k_w)$; $A$ is then a convolution to $r$ channels and $B$ a $1 \times 1$ one.
/// Trained numbers: $r(m + n)$ a site.
///
/// # When to use
/// The default. It can be merged, so it costs nothing after training. Rank 4 to 16 on all linear sites suits a few hundred to a few thousand
/// rows; where a rank above 32 helps, set `rank_stabilised`. When the patch must be tiny, see VeRA or (IA)³.
///
/// # Differences
/// The paper draws $A$ from a normal distribution; this is the uniform start of its authors' code. `alpha` is 16 where the `peft` package has
/// 8. Embeddings are not among the targets.
///
/// # Example
/// ```
/// use acclimate_core::{Affine, Here, Rng, Site, SiteKind, WeightAdapter};
/// use acclimate_peft::Lora;
/// use burn::tensor::{Device, Tensor};
///
/// let site = Site { name: "query".into(), kind: SiteKind::Linear, out: 3, input: 4, bias: false };
/// let base = Affine::new(Tensor::<2>::ones([3, 4], &Device::flex()), None);
/// let here = Here { site: &site, shared: &(), mask: None };
/// let lora = Lora { rank: 2, ..Lora::default() };
/// let p = lora.init(&base, &here, &mut Rng::new(0, "init", 0))?;
/// let start = lora.weight(&base, &p, &here)?.dense();
/// assert_eq!(start.into_data(), base.dense().into_data());
/// assert_eq!(lora.count(&site), 2 * (3 + 4));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, arXiv:2106.09685.
/// Rank stabilisation: Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, 2023, arXiv:2312.03732.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "lora", title = "LoRA", catalogue = [160], paper = "arxiv:2106.09685", year = 2021)]
#[method(targets("linear"), needs(gradients), promises(identity_at_start, mergeable, low_rank), validate = Self::patterns)]
#[method(case = "rank = 2", case = "rank = 3\nalpha = 2.0\nrank_stabilised = true")]
#[method(case = "rank = 2\ndropout = 0.3\nrank_pattern = { query = 1 }\nalpha_pattern = { query = 4.0 }")]
pub struct Lora {
    /// Rank of the update, $r$; at most the smaller side of the weight.
    #[method(min = 1)]
    pub rank: usize,
    /// Scale of the update, $\alpha$, before it is divided by the rank.
    #[method(above = 0)]
    pub alpha: f64,
    /// Whether the scale is divided by the root of the rank in place of the rank.
    pub rank_stabilised: bool,
    /// Probability with which the added path drops an input in training.
    #[method(min = 0, max = 0.9)]
    pub dropout: f64,
    /// Another rank for some sites: patterns of names as in `targets`. The first that matches holds, in alphabetic order.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Another `alpha` for some sites, by the same rule.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for Lora {
    fn default() -> Self {
        let (rank_pattern, alpha_pattern) = (BTreeMap::new(), BTreeMap::new());
        Self { rank: 8, alpha: 16.0, rank_stabilised: false, dropout: 0.0, rank_pattern, alpha_pattern }
    }
}

/// $A$ and $B$.
#[derive(Debug, Fields)]
pub struct LoraParams {
    /// `[rank, in]`.
    #[role(input_factor)]
    pub a: Tensor<2>,
    /// `[out, rank]`.
    #[role(output_factor)]
    pub b: Tensor<2>,
}

impl WeightAdapter for Lora {
    type P = LoraParams;
    type Shared = ();

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, base: &Affine, here: &Here<'_, ()>, rng: &mut Rng) -> Result<LoraParams> {
        let ([out, input], like, rank) = (base.dims(), base.like(), self.rank_at(here.site));
        if rank > out.min(input) {
            return Err(Error::Param {
                method: Self::CARD.name,
                param: "rank",
                value: rank.to_string(),
                why: format!("must be at most {} at `{}`", out.min(input), here.site.name),
            });
        }
        let bound = 1.0 / (input as f64).sqrt();
        Ok(LoraParams { a: draw::uniform([rank, input], bound, &like, rng), b: draw::zeros([out, rank], &like) })
    }

    fn weight(&self, base: &Affine, p: &LoraParams, here: &Here<'_, ()>) -> Result<Affine> {
        Ok(base.with_weight(base.dense() + p.b.clone().matmul(p.a.clone()) * self.scale(here.site)))
    }

    fn apply(&self, x: Tensor<2>, base: &Affine, p: &LoraParams, here: &Here<'_, ()>) -> Result<Tensor<2>> {
        let low = here.dropped(x.clone()).matmul(p.a.clone().transpose()) * self.scale(here.site);
        Ok(base.forward(x) + low.matmul(p.b.clone().transpose()))
    }

    fn count(&self, site: &Site) -> usize {
        self.rank_at(site) * (site.out + site.input)
    }
}

impl Lora {
    fn rank_at(&self, site: &Site) -> usize {
        first(&self.rank_pattern, site).unwrap_or(self.rank)
    }

    fn scale(&self, site: &Site) -> f64 {
        let rank = self.rank_at(site) as f64;
        let alpha = first(&self.alpha_pattern, site).unwrap_or(self.alpha);
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    fn patterns(&self) -> Result<()> {
        let wrong = |param, value: String, why: &str| {
            Err(Error::Param { method: Self::CARD.name, param, value, why: why.to_owned() })
        };
        if let Some((pattern, _)) = self.rank_pattern.iter().find(|&(_, &rank)| rank == 0) {
            return wrong("rank_pattern", format!("{pattern} = 0"), "must hold ranks of at least 1");
        }
        if let Some((pattern, alpha)) = self.alpha_pattern.iter().find(|&(_, &alpha)| alpha.is_nan() || alpha <= 0.0) {
            return wrong("alpha_pattern", format!("{pattern} = {alpha}"), "must hold numbers above 0");
        }
        Ok(())
    }
}

fn first<T: Copy>(patterns: &BTreeMap<String, T>, site: &Site) -> Option<T> {
    patterns.iter().find(|(pattern, _)| matches(pattern, &site.name)).map(|(_, &value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::SiteKind;

    #[test]
    fn the_first_pattern_that_matches_holds() {
        let lora: Lora = toml::from_str("rank_pattern = { \"0.*\" = 2, \"*.query\" = 4 }").unwrap();
        let at = |name: &str| {
            let site = Site { name: name.to_owned(), kind: SiteKind::Linear, out: 9, input: 9, bias: true };
            (lora.rank_at(&site), lora.scale(&site))
        };
        assert_eq!(at("layer.0.key"), (2, 8.0));
        assert_eq!(at("layer.0.query"), (4, 4.0));
        assert_eq!(at("layer.1.key"), (8, 2.0));
    }

    #[test]
    fn a_pattern_with_rank_zero_is_refused() {
        let error = Lora::from_table(&"rank_pattern = { query = 0 }".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "lora: `rank_pattern` must hold ranks of at least 1, got `query = 0`");
    }
}
