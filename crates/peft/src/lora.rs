use crate::draw;
use crate::folder::{Config, Module, Reader, pattern_value};
use acclimate_core::{
    Adapter, Affine, Card, Error, Fields, Here, Matrix, Method, PeftForm, PeftTensor, PeftType, Promise, Result, Rng,
    Site, SiteKind, WeightAdapter, matches,
};
use burn::tensor::{DType, Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

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
/// A convolution's kernel is flattened to $m \times (n\,k_h k_w)$; $A$ is then a convolution to $r$ channels and $B$ a $1 \times 1$ one. A table of
/// embeddings has one row for each of its $m$ words. Trained numbers: $r(m + n)$ a site.
///
/// `decomposed` is DoRA: lengths $\mu \in \mathbb{R}^m$ of the rows are trained apart from their directions,
///
/// $$W' = \operatorname{diag}\!\left(\frac{\mu}{\nu}\right)(W + s\,BA), \qquad \nu_i = \lVert (W + s\,BA)_{i\cdot} \rVert_2,$$
///
/// $\mu$ starts at the lengths of the rows of $W$, and no gradient flows through $\nu$. The bias is not scaled, and $\nu$ is found from
/// $WA^\top$, $AA^\top$ and $B$ without building $BA$.
///
/// # When to use
/// The default. It can be merged, so it costs nothing after training. Rank 4 to 16 on all linear sites suits a few hundred to a few thousand
/// rows; where a rank above 32 helps, set `rank_stabilised`. When the patch must be tiny, see VeRA or (IA)³.
///
/// # Differences
/// The paper draws $A$ from a normal distribution; this is the uniform start of its authors' code. `alpha` is 16 where the `peft` package has
/// 8. `all` among the targets means embeddings too where they have rows and columns enough for the rank; `linear`, the default, does not.
/// With `decomposed` and `dropout` the frozen path keeps its input, as in the paper; the `peft` package drops it there too.
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
/// DoRA: Liu, Wang, Yin, Molchanov, Wang, Cheng and Chen, *DoRA: Weight-Decomposed Low-Rank Adaptation*, ICML 2024, arXiv:2402.09353.
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
    /// Whether lengths of rows are trained apart from their directions: DoRA. It asks for a dense base.
    pub decomposed: bool,
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
        Self {
            rank: 8,
            alpha: 16.0,
            rank_stabilised: false,
            decomposed: false,
            dropout: 0.0,
            rank_pattern,
            alpha_pattern,
        }
    }
}

#[doc = include_str!("dora.md")]
pub const DORA: Card = Card {
    name: "dora",
    title: "DoRA",
    catalogue: &[],
    paper: "arxiv:2402.09353",
    year: 2024,
    promises: &[Promise::IdentityAtStart, Promise::Mergeable],
    waivers: &[("gradients_equal_finite_differences", "lengths of rows count as constants (section 4.3 of the paper)")],
    doc: include_str!("dora.md"),
    ..Lora::CARD
};

/// $A$, $B$ and $\mu$.
#[derive(Debug, Fields)]
pub struct LoraParams {
    /// `[rank, in]`.
    #[role(input_factor)]
    pub a: Tensor<2>,
    /// `[out, rank]`.
    #[role(output_factor)]
    pub b: Tensor<2>,
    /// `[out]`, where the method is decomposed.
    #[role(magnitude)]
    pub m: Option<Tensor<1>>,
}

impl WeightAdapter for Lora {
    type P = LoraParams;
    type Shared = ();

    fn accepts(&self, site: &Site) -> bool {
        match site.kind {
            SiteKind::Linear | SiteKind::Conv { .. } => true,
            SiteKind::Embedding => !self.decomposed && self.rank_at(site) <= site.out.min(site.input),
            SiteKind::Norm | SiteKind::BatchNorm | SiteKind::Block => false,
        }
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }

    fn needs_dense(&self) -> bool {
        self.decomposed
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
        let (a, b) = (draw::uniform([rank, input], bound, &like, rng), draw::zeros([out, rank], &like));
        Ok(LoraParams { a, b, m: self.decomposed.then(|| squares(base).sqrt()) })
    }

    fn weight(&self, base: &Affine, p: &LoraParams, here: &Here<'_, ()>) -> Result<Affine> {
        // The small factor is scaled and the product, which nobody else holds, takes the sum: one matrix is made, not three.
        let directions = (p.b.clone() * self.scale(here.site)).matmul(p.a.clone()) + base.dense();
        Ok(base.with_weight(match self.gain(base, p, here.site) {
            Some(gain) => directions * gain.unsqueeze_dim::<2>(1),
            None => directions,
        }))
    }

    fn apply(&self, x: Tensor<2>, base: &Affine, p: &LoraParams, here: &Here<'_, ()>) -> Result<Tensor<2>> {
        if here.mask.is_none() && p.m.is_none() {
            let factors = [p.a.clone(), p.b.clone()];
            return Ok(base.weight.low_rank(x, base.bias.clone(), factors, self.scale(here.site)));
        }
        let low = here.dropped(x.clone()).matmul(p.a.clone().transpose()) * self.scale(here.site);
        let change = low.matmul(p.b.clone().transpose());
        let Some(gain) = self.gain(base, p, here.site) else { return Ok(base.forward(x) + change) };
        let y = (base.weight.linear(x, None) + change) * gain.unsqueeze_dim::<2>(0);
        Ok(match &base.bias {
            Some(bias) => y + bias.clone().unsqueeze_dim::<2>(0),
            None => y,
        })
    }

    fn rows(&self, ids: Tensor<2, Int>, base: &Affine, p: &LoraParams, here: &Here<'_, ()>) -> Result<Tensor<3>> {
        let low = Matrix::Dense(p.b.clone()).rows(ids.clone());
        let [batch, length, rank] = low.dims();
        let change = low.reshape([batch * length, rank]).matmul(p.a.clone()) * self.scale(here.site);
        let width = change.dims()[1];
        Ok(base.weight.rows(ids) + change.reshape([batch, length, width]))
    }

    fn count(&self, site: &Site) -> usize {
        self.rank_at(site) * (site.out + site.input) + if self.decomposed { site.out } else { 0 }
    }

    fn peft(&self, sites: &[Site]) -> Option<PeftForm> {
        // That package splits the output factor into groups and lets the input factor see all channels: another update.
        if sites.iter().any(|site| site.kind.groups() > 1) {
            return None;
        }
        let mut settings = Map::new();
        let mut put = |key: &str, value: Value| drop(settings.insert(key.to_owned(), value));
        put("r", json!(self.rank));
        put("lora_alpha", json!(self.alpha));
        put("lora_dropout", json!(self.dropout));
        put("use_rslora", json!(self.rank_stabilised));
        put("use_dora", json!(self.decomposed));
        put("init_lora_weights", json!(true));
        put("fan_in_fan_out", json!(false));
        // Their patterns are regular expressions, ours are not: each site is named.
        let ranks = sites.iter().filter(|site| self.rank_at(site) != self.rank);
        put("rank_pattern", ranks.map(|site| (escaped(&site.name), json!(self.rank_at(site)))).collect());
        let alphas = sites.iter().filter(|site| self.alpha_at(site) != self.alpha);
        put("alpha_pattern", alphas.map(|site| (escaped(&site.name), json!(self.alpha_at(site)))).collect());
        let tensors = sites.iter().map(|site| self.peft_tensors(site)).collect();
        let own_bias = Some("lora_only");
        Some(PeftForm::Type(PeftType { name: READER.name, settings, own_bias, sites: tensors, shared: vec![] }))
    }
}

impl Lora {
    fn rank_at(&self, site: &Site) -> usize {
        first(&self.rank_pattern, site).unwrap_or(self.rank)
    }

    fn alpha_at(&self, site: &Site) -> f64 {
        first(&self.alpha_pattern, site).unwrap_or(self.alpha)
    }

    fn scale(&self, site: &Site) -> f64 {
        let rank = self.rank_at(site) as f64;
        self.alpha_at(site) / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// $\mu/\nu$, `[out]`.
    fn gain(&self, base: &Affine, p: &LoraParams, site: &Site) -> Option<Tensor<1>> {
        let m = p.m.clone()?;
        let (a, b, s) = (p.a.clone().detach(), p.b.clone().detach(), self.scale(site));
        let cross = (base.weight.linear(a.clone(), None).transpose() * b.clone()).sum_dim(1);
        let own = (b.clone().matmul(a.clone().matmul(a.transpose())) * b).sum_dim(1);
        let [out, _] = base.dims();
        let squares = squares(base) + (cross * (2.0 * s) + own * (s * s)).reshape([out]);
        // A row that the update takes to nothing has no direction; its length is kept off zero.
        Some(m / squares.clamp_min(1e-24).sqrt())
    }

    fn peft_tensors(&self, site: &Site) -> Vec<PeftTensor> {
        let rank = self.rank_at(site);
        let mut tensors = match site.kind {
            // The table's rows are that package's inputs: its factors are the transposes of ours, in the other order.
            SiteKind::Embedding => vec![
                PeftTensor::turned("b", "lora_embedding_A", [rank, site.out]),
                PeftTensor::turned("a", "lora_embedding_B", [site.input, rank]),
            ],
            SiteKind::Conv { kernel: [height, width], .. } => vec![
                PeftTensor::new("a", "lora_A.weight", [rank, site.input / (height * width), height, width]),
                PeftTensor::new("b", "lora_B.weight", [site.out, rank, 1, 1]),
            ],
            _ => vec![
                PeftTensor::new("a", "lora_A.weight", [rank, site.input]),
                PeftTensor::new("b", "lora_B.weight", [site.out, rank]),
            ],
        };
        if self.decomposed {
            let shape = match site.kind {
                SiteKind::Conv { .. } => vec![1, site.out, 1, 1],
                _ => vec![site.out],
            };
            tensors.push(PeftTensor::new("m", "lora_magnitude_vector", shape));
        }
        tensors
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

/// `‖W‖²` of every row, `[out]`.
fn squares(base: &Affine) -> Tensor<1> {
    let [out, _] = base.dims();
    base.dense().square().sum_dim(1).reshape([out])
}

/// A name as a pattern that means it alone.
fn escaped(name: &str) -> String {
    name.replace('.', "\\.")
}

/// What folders of type `LORA` mean.
pub(crate) const READER: Reader = Reader {
    name: "LORA",
    mark: "lora_",
    refused: &[
        ("lora_bias", "train it without, or merge it with the `peft` package"),
        ("target_parameters", "adapters of expert tensors are not offered; merge it with the `peft` package"),
        ("layer_replication", "build the deeper model first, and train on that"),
        ("trainable_token_indices", "train without new tokens, or merge it with the `peft` package"),
        ("use_qalora", "merge it with the `peft` package"),
        ("alora_invocation_tokens", "use it with the `peft` package: it acts on some tokens alone"),
        ("use_bdlora", "merge it with the `peft` package"),
        ("arrow_config", "load its experts one by one"),
        ("kasa_config", "merge it with the `peft` package"),
        ("monteclora_config", "merge it with the `peft` package"),
    ],
    build: read,
};

fn read(config: &Config<'_>, modules: &[Module<'_>]) -> Result<Adapter> {
    if let Some(init) = config.get("init_lora_weights").and_then(Value::as_str) {
        let changes_base = ["pissa", "olora", "corda", "lora_ga", "loftq"];
        if changes_base.iter().any(|name| init.to_lowercase().starts_with(name)) {
            return Err(config.wrong(
                "init_lora_weights",
                "names a start that changes the base model, so that the adapter is wrong on the original one (save it with \
                 `path_initial_model_for_weight_conversion`, which makes a plain LoRA of it)",
            ));
        }
    }
    let mut lora = Lora {
        rank: config.usize("r", 8)?,
        alpha: config.f64("lora_alpha", 8.0)?,
        rank_stabilised: config.bool("use_rslora", false)?,
        decomposed: config.bool("use_dora", false)?,
        dropout: config.f64("lora_dropout", 0.0)?,
        ..Lora::default()
    };
    let names: Vec<&str> = modules.iter().map(|module| module.name).collect();
    let number = |key: &str, value: &Value| value.as_f64().ok_or_else(|| config.wrong(key, "must hold numbers"));
    for (module, value) in modules.iter().zip(pattern_value(config, "rank_pattern", &names)?) {
        if let Some(value) = value {
            lora.rank_pattern.insert(module.site.name.clone(), number("rank_pattern", value)? as usize);
        }
    }
    for (module, value) in modules.iter().zip(pattern_value(config, "alpha_pattern", &names)?) {
        if let Some(value) = value {
            lora.alpha_pattern.insert(module.site.name.clone(), number("alpha_pattern", value)?);
        }
    }
    lora.check()?;
    Ok(Adapter::Weight(Arc::new(lora)))
}

/// The value of the pattern that is a site's own name, or of the first that means it.
fn first<T: Copy>(patterns: &BTreeMap<String, T>, site: &Site) -> Option<T> {
    let first = || patterns.iter().find(|(pattern, _)| matches(pattern, &site.name)).map(|(_, &value)| value);
    patterns.get(&site.name).copied().or_else(first)
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
