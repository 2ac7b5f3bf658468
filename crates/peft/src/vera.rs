use crate::draw;
use crate::folder::{Config, Module, Reader};
use acclimate_core::{
    Adapter, Affine, Fields, Here, Method, PeftForm, PeftTensor, PeftType, Result, Rng, Site, SiteKind, WeightAdapter,
};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::sync::Arc;

/// Shares one random pair of thin matrices over all sites and trains two scaling vectors at each.
///
/// # Mathematics
/// $A \in \mathbb{R}^{r \times n_{\max}}$ and $B \in \mathbb{R}^{m_{\max} \times r}$ are drawn once, for the widest input and output among the
/// sites, and never change. A site with a weight $W \in \mathbb{R}^{m \times n}$ uses the first $n$ columns $A_n$ and the first $m$ rows $B_m$:
///
/// $$W' = W + \operatorname{diag}(b)\, B_m \operatorname{diag}(d)\, A_n, \qquad d \in \mathbb{R}^r,\quad b \in \mathbb{R}^m.$$
///
/// $b$ starts at zero and $d$ at `d_init`. The pair is uniform in $\pm\sqrt{6/\text{fan-in}}$, with fan-in $n_{\max}$ for $A$ and $r$ for $B$.
/// Trained numbers: $m + r$ a site.
///
/// # When to use
/// One model and very many patches: a patch is ten to a hundred times smaller than LoRA's. Forward passes cost as much as LoRA of the same, large
/// rank until the patch is merged. Rates are about ten times those of LoRA. When much must be learned, LoRA is better.
///
/// # Differences
/// The pair is stored with the patch, so a file outlives any change of random streams; it is drawn as the `peft` package draws it, which up
/// to 0.17.1 at least draws it again and passes over the stored one. Convolutions are adapted through their
/// flattened kernels; the `peft` package takes linear sites only.
///
/// # Example
/// ```
/// use acclimate_core::{Site, SiteKind, WeightAdapter};
/// use acclimate_peft::Vera;
///
/// let query = Site { name: "query".into(), kind: SiteKind::Linear, out: 768, input: 768, bias: true };
/// let vera = Vera { rank: 1024, ..Vera::default() };
/// // Queries and values of the twelve layers of RoBERTa-base: the paper's 0.043 million.
/// assert_eq!(24 * vera.count(&query), 43_008);
/// ```
///
/// # References
/// Kopiczko, Blankevoort and Asano, *VeRA: Vector-based Random Matrix Adaptation*, ICLR 2024, arXiv:2310.11454.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "vera", title = "VeRA", catalogue = [150], paper = "arxiv:2310.11454", year = 2023)]
#[method(targets("linear"), needs(gradients), promises(identity_at_start, mergeable, low_rank))]
#[method(case = "rank = 3", case = "rank = 4\nd_init = 1.0\ndropout = 0.3")]
#[method(waive(
    a_rank_above_both_sides_is_refused = "the factors of the rank are drawn, not trained; a large rank is the point"
))]
pub struct Vera {
    /// Rank of the shared pair, $r$.
    #[method(min = 1)]
    pub rank: usize,
    /// First value of $d$.
    #[method(above = 0)]
    pub d_init: f64,
    /// Probability with which the added path drops an input in training.
    #[method(min = 0, max = 0.9)]
    pub dropout: f64,
    /// Names the stream that the pair is drawn from, whatever the run's seed.
    #[method(min = 0)]
    pub projection_seed: u32,
}

impl Default for Vera {
    fn default() -> Self {
        Self { rank: 256, d_init: 0.1, dropout: 0.0, projection_seed: 0 }
    }
}

/// The pair that all sites share.
#[derive(Debug, Fields)]
pub struct VeraShared {
    /// `[rank, widest in]`.
    pub a: Tensor<2>,
    /// `[widest out, rank]`.
    pub b: Tensor<2>,
}

/// The two vectors of a site.
#[derive(Debug, Fields)]
pub struct VeraParams {
    /// `[rank]`.
    #[role(magnitude)]
    pub d: Tensor<1>,
    /// `[out]`.
    #[role(magnitude)]
    pub b: Tensor<1>,
}

impl WeightAdapter for Vera {
    type P = VeraParams;
    type Shared = VeraShared;

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn share(&self, sites: &[Site], like: (DType, Device), _: &mut Rng) -> Result<VeraShared> {
        let [out, input] = widest(sites);
        let mut stream = draw::Mersenne::new(self.projection_seed);
        let bound = |fan_in: usize| 3f64.sqrt() * (2f64.sqrt() / (fan_in as f64).sqrt());
        let a = stream.uniform([self.rank, input], bound(input), &like);
        Ok(VeraShared { a, b: stream.uniform([out, self.rank], bound(self.rank), &like) })
    }

    fn init(&self, base: &Affine, _: &Here<'_, VeraShared>, _: &mut Rng) -> Result<VeraParams> {
        let ([out, _], like) = (base.dims(), base.like());
        Ok(VeraParams { d: draw::zeros([self.rank], &like) + self.d_init, b: draw::zeros([out], &like) })
    }

    fn weight(&self, base: &Affine, p: &VeraParams, here: &Here<'_, VeraShared>) -> Result<Affine> {
        let (a, b) = here.shared.slices(base.dims());
        let change = (b * p.d.clone().unsqueeze_dim::<2>(0)).matmul(a) * p.b.clone().unsqueeze_dim::<2>(1);
        Ok(base.with_weight(base.dense() + change))
    }

    fn apply(&self, x: Tensor<2>, base: &Affine, p: &VeraParams, here: &Here<'_, VeraShared>) -> Result<Tensor<2>> {
        let (a, b) = here.shared.slices(base.dims());
        let low = here.dropped(x.clone()).matmul(a.transpose()) * p.d.clone().unsqueeze_dim::<2>(0);
        Ok(base.forward(x) + low.matmul(b.transpose()) * p.b.clone().unsqueeze_dim::<2>(0))
    }

    fn count(&self, site: &Site) -> usize {
        site.out + self.rank
    }

    fn peft(&self, sites: &[Site]) -> Option<PeftForm> {
        if sites.iter().any(|site| site.kind != SiteKind::Linear) {
            return None;
        }
        let settings = Map::from_iter([
            ("r".to_owned(), json!(self.rank)),
            ("d_initial".to_owned(), json!(self.d_init)),
            ("vera_dropout".to_owned(), json!(self.dropout)),
            ("projection_prng_key".to_owned(), json!(self.projection_seed)),
            ("save_projection".to_owned(), json!(true)),
            ("fan_in_fan_out".to_owned(), json!(false)),
            ("init_weights".to_owned(), json!(true)),
        ]);
        let tensors = |site: &Site| {
            vec![PeftTensor::new("d", "vera_lambda_d", [self.rank]), PeftTensor::new("b", "vera_lambda_b", [site.out])]
        };
        let [out, input] = widest(sites);
        let shared =
            vec![PeftTensor::new("a", "vera_A", [self.rank, input]), PeftTensor::new("b", "vera_B", [out, self.rank])];
        let (sites, own_bias) = (sites.iter().map(tensors).collect(), Some("vera_only"));
        Some(PeftForm::Type(PeftType { name: READER.name, settings, own_bias, sites, shared }))
    }
}

/// The largest output and input among sites.
fn widest(sites: &[Site]) -> [usize; 2] {
    let widest = |width: fn(&Site) -> usize| sites.iter().map(width).max().unwrap_or(0);
    [widest(|site| site.out), widest(|site| site.input)]
}

/// What folders of type `VERA` mean.
pub(crate) const READER: Reader = Reader { name: "VERA", mark: "vera_lambda", refused: &[], build: read };

fn read(config: &Config<'_>, _: &[Module<'_>]) -> Result<Adapter> {
    let vera = Vera {
        rank: config.usize("r", 256)?,
        d_init: config.f64("d_initial", 0.1)?,
        dropout: config.f64("vera_dropout", 0.0)?,
        projection_seed: config.usize("projection_prng_key", 0)? as u32,
    };
    vera.check()?;
    Ok(Adapter::Weight(Arc::new(vera)))
}

impl VeraShared {
    /// The part that a weight `[out, in]` uses.
    fn slices(&self, [out, input]: [usize; 2]) -> (Tensor<2>, Tensor<2>) {
        (self.a.clone().narrow(1, 0, input), self.b.clone().narrow(0, 0, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lora, lora::LoraParams};
    use acclimate_core::{AnyTensor, SiteKind};

    #[test]
    fn the_pair_is_that_of_the_peft_package() {
        // What `_kaiming_init` of peft 0.17.1 draws from key 3 for a pair of [2, 5] and [7, 2].
        let site = Site { name: "s".to_owned(), kind: SiteKind::Linear, out: 7, input: 5, bias: false };
        let vera = Vera { rank: 2, projection_seed: 3, ..Vera::default() };
        let like = (DType::F32, Device::flex());
        let pair = vera.share(std::slice::from_ref(&site), like, &mut Rng::new(0, "test", 0)).unwrap();
        let numbers = |tensor: Tensor<2>| AnyTensor::from(tensor).to_f32s();
        assert_eq!(numbers(pair.a)[..4], [-1.0861043, -0.8641543, -0.46919563, -1.0363901]);
        assert_eq!(numbers(pair.b)[10..], [0.51376235, -0.98810816, 1.5564381, -1.6901051]);
    }

    #[test]
    fn it_is_lora_with_scaled_factors() {
        let site = Site { name: "s".to_owned(), kind: SiteKind::Linear, out: 4, input: 3, bias: false };
        let like = (DType::F64, Device::flex());
        let mut rng = Rng::new(1, "test", 0);
        let base = Affine::new(draw::uniform([4, 3], 1.0, &like, &mut rng), None);
        let vera = Vera { rank: 2, ..Vera::default() };
        let shared = vera.share(std::slice::from_ref(&site), like.clone(), &mut rng).unwrap();
        let vector = |n, rng: &mut Rng| draw::uniform([1, n], 1.0, &like, rng).reshape([n]);
        let p = VeraParams { d: vector(2, &mut rng), b: vector(4, &mut rng) };
        let lora = Lora { rank: 2, alpha: 2.0, ..Lora::default() };
        let a = shared.a.clone() * p.d.clone().reshape([2, 1]);
        let b = shared.b.clone() * p.b.clone().reshape([4, 1]);
        let theirs =
            lora.weight(&base, &LoraParams { a, b, m: None }, &Here { site: &site, shared: &(), mask: None }).unwrap();
        let ours = vera.weight(&base, &p, &Here { site: &site, shared: &shared, mask: None }).unwrap();
        assert!((ours.dense() - theirs.dense()).abs().max().into_scalar::<f64>() < 1e-14);
    }
}
