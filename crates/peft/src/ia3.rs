use crate::draw;
use crate::folder::{Config, Module, Reader, feedforward};
use acclimate_core::{
    Adapter, Affine, Fields, Here, Method, PeftForm, PeftTensor, PeftType, Result, Rng, Site, SiteKind, WeightAdapter,
    matches,
};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::sync::Arc;

/// Rescales keys, values and the inner states of feed-forward blocks by trained vectors.
///
/// # Mathematics
/// At most sites the outputs are scaled, bias included; at those that `input_targets` name, the inputs:
///
/// $$y = \ell \odot (x W^\top + b), \quad \ell \in \mathbb{R}^m \qquad\text{or}\qquad y = (\ell \odot x)\, W^\top + b, \quad \ell \in \mathbb{R}^n,$$
///
/// so that $W' = \operatorname{diag}(\ell)\,W$, $b' = \ell \odot b$ or $W' = W \operatorname{diag}(\ell)$, $b' = b$. $\ell$ starts at one. A
/// convolution has one number for each channel. Trained numbers: $m$, or the input channels, a site.
///
/// # When to use
/// With a few dozen rows, or when thousands of patches must be held: it has the fewest numbers of all. It can only make features louder or
/// softer; when new ones are needed LoRA is better. Rates are about ten times those of LoRA.
///
/// # Differences
/// The default names are those of BERT: keys and values by output, `output.dense` by input, as in the `peft` package. That name also means the
/// output projection of attention, which the paper leaves alone; for other models give `targets` and `input_targets`.
///
/// # Example
/// ```
/// use acclimate_core::{Site, SiteKind, WeightAdapter};
/// use acclimate_peft::Ia3;
///
/// let site = |name: &str, out, input| Site { name: name.into(), kind: SiteKind::Linear, out, input, bias: true };
/// let ia3 = Ia3::default();
/// assert_eq!(ia3.count(&site("layer.0.attention.self.key", 384, 384)), 384);
/// assert_eq!(ia3.count(&site("layer.0.output.dense", 384, 1536)), 1536);
/// ```
///
/// # References
/// Liu, Tam, Muqeeth, Mohta, Huang, Bansal and Raffel, *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*,
/// NeurIPS 2022, arXiv:2205.05638.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "ia3", title = "(IA)³", catalogue = [], paper = "arxiv:2205.05638", year = 2022)]
#[method(targets("key", "value", "output.dense"), needs(gradients), promises(identity_at_start, mergeable))]
#[method(case = "", case = "input_targets = [\"*\"]")]
pub struct Ia3 {
    /// Patterns of names, as in `targets`, of the sites whose inputs are scaled in place of their outputs.
    pub input_targets: Vec<String>,
}

impl Default for Ia3 {
    fn default() -> Self {
        Self { input_targets: vec!["output.dense".to_owned()] }
    }
}

/// The scaling vector.
#[derive(Debug, Fields)]
pub struct Ia3Params {
    /// `[out]`, or `[in]`.
    #[role(magnitude)]
    pub scale: Tensor<1>,
}

impl WeightAdapter for Ia3 {
    type P = Ia3Params;
    type Shared = ();

    fn accepts(&self, site: &Site) -> bool {
        match site.kind {
            // A column belongs to a channel of every group, which one number cannot scale apart.
            SiteKind::Conv { groups, .. } => groups == 1 || !self.scales_input(site),
            kind => kind == SiteKind::Linear,
        }
    }

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, base: &Affine, here: &Here<'_, ()>, _: &mut Rng) -> Result<Ia3Params> {
        Ok(Ia3Params { scale: draw::zeros([self.count(here.site)], &base.like()) + 1.0 })
    }

    fn weight(&self, base: &Affine, p: &Ia3Params, here: &Here<'_, ()>) -> Result<Affine> {
        if self.scales_input(here.site) {
            return Ok(base.with_weight(base.dense() * columns(&p.scale, here.site)));
        }
        let bias = base.bias.clone().map(|bias| bias * p.scale.clone());
        Ok(Affine::new(base.dense() * p.scale.clone().unsqueeze_dim::<2>(1), bias))
    }

    fn apply(&self, x: Tensor<2>, base: &Affine, p: &Ia3Params, here: &Here<'_, ()>) -> Result<Tensor<2>> {
        if self.scales_input(here.site) {
            return Ok(base.forward(x * columns(&p.scale, here.site)));
        }
        Ok(base.forward(x) * p.scale.clone().unsqueeze_dim::<2>(0))
    }

    fn count(&self, site: &Site) -> usize {
        if self.scales_input(site) { site.input / window(site) } else { site.out }
    }

    fn peft(&self, sites: &[Site]) -> Option<PeftForm> {
        let inner: Vec<&str> = sites.iter().filter(|site| self.scales_input(site)).map(|site| &*site.name).collect();
        let settings = Map::from_iter([
            ("feedforward_modules".to_owned(), json!(inner)),
            ("fan_in_fan_out".to_owned(), json!(false)),
            ("init_ia3_weights".to_owned(), json!(true)),
        ]);
        let shape = |site: &Site| match (site.kind, self.scales_input(site)) {
            (SiteKind::Conv { .. }, _) => vec![1, self.count(site), 1, 1],
            (_, true) => vec![1, site.input],
            (_, false) => vec![site.out, 1],
        };
        let sites = sites.iter().map(|site| vec![PeftTensor::new("scale", READER.mark, shape(site))]).collect();
        Some(PeftForm::Type(PeftType { name: READER.name, settings, own_bias: None, sites, shared: vec![] }))
    }
}

/// What folders of type `IA3` mean.
pub(crate) const READER: Reader = Reader { name: "IA3", mark: "ia3_l", refused: &[], build: read };

fn read(config: &Config<'_>, modules: &[Module<'_>]) -> Result<Adapter> {
    let inner = feedforward(config)?;
    let inner = modules.iter().filter(|module| inner(module.name)).map(|module| module.site.name.clone());
    Ok(Adapter::Weight(Arc::new(Ia3 { input_targets: inner.collect() })))
}

impl Ia3 {
    fn scales_input(&self, site: &Site) -> bool {
        self.input_targets.iter().any(|pattern| matches(pattern, &site.name))
    }
}

/// One number per input channel as a row over the columns of the flattened weight.
fn columns(scale: &Tensor<1>, site: &Site) -> Tensor<2> {
    let window = window(site);
    scale.clone().unsqueeze_dim::<2>(1).expand([site.input / window, window]).reshape([1, site.input])
}

/// How many columns of the flattened weight belong to one input channel.
fn window(site: &Site) -> usize {
    match site.kind {
        SiteKind::Conv { kernel: [height, width], .. } => height * width,
        _ => 1,
    }
}
