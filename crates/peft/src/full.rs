use crate::folder::{Config, Module, Reader};
use acclimate_core::{
    Adapter, Affine, Card, Error, Fields, Here, Matrix, Method, PeftForm, Result, Rng, Site, SiteKind, WeightAdapter,
};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Replaces whole weights and biases by trained copies.
///
/// # Mathematics
/// $$W' = P, \qquad b' = q, \qquad \text{at the start}\quad P = W,\ q = b.$$
///
/// `weights` and `biases` say which of the two are replaced; a tensor that the checkpoint lacks is not invented. At a norm $W$ is the scale
/// and $b$ the shift. Trained numbers: $mn$ for the weight and $m$ for the bias.
///
/// # When to use
/// Full fine-tuning as a patch: the upper bound that other methods are compared with, and the right choice where data are plenty. It keeps
/// optimiser state for every weight and its patch is as large as the model. With a few hundred rows a small adapter is safer.
///
/// # Differences
/// None. Layer-wise rates and gradual unfreezing belong to the optimiser.
///
/// # Example
/// ```
/// use acclimate_core::{Method, Site, SiteKind, WeightAdapter};
/// use acclimate_peft::Full;
///
/// let site = Site { name: "query".into(), kind: SiteKind::Linear, out: 3, input: 4, bias: true };
/// assert_eq!(Full::default().count(&site), 3 * 4 + 3);
/// assert!(Full { weights: false, biases: false }.check().is_err());
/// ```
///
/// # References
/// Howard and Ruder, *Universal Language Model Fine-tuning for Text Classification*, ACL 2018, arXiv:1801.06146.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "full", title = "Full fine-tuning", catalogue = [], paper = "arxiv:1801.06146", year = 2018)]
#[method(targets("all"), needs(gradients), promises(identity_at_start, mergeable), validate = Self::replaces_something)]
#[method(case = "", case = "weights = false", case = "biases = false")]
pub struct Full {
    /// Whether weights are replaced.
    pub weights: bool,
    /// Whether biases are replaced.
    pub biases: bool,
}

impl Default for Full {
    fn default() -> Self {
        Self { weights: true, biases: true }
    }
}

#[doc = include_str!("bitfit.md")]
pub const BITFIT: Card = Card {
    name: "bitfit",
    title: "BitFit",
    paper: "arxiv:2106.10199",
    year: 2021,
    targets: &["all"],
    doc: include_str!("bitfit.md"),
    ..Full::CARD
};

#[doc = include_str!("norm_tuning.md")]
pub const NORM_TUNING: Card = Card {
    name: "norm_tuning",
    title: "Norm tuning",
    paper: "arxiv:2312.11420",
    year: 2023,
    targets: &["norm"],
    doc: include_str!("norm_tuning.md"),
    ..Full::CARD
};

/// The copies, $P$ and $q$.
#[derive(Debug, Fields)]
pub struct FullParams {
    /// `[out, in]`.
    #[role(weight)]
    pub weight: Option<Tensor<2>>,
    /// `[out]`.
    #[role(bias)]
    pub bias: Option<Tensor<1>>,
}

impl WeightAdapter for Full {
    type P = FullParams;
    type Shared = ();

    fn accepts(&self, site: &Site) -> bool {
        site.kind != SiteKind::Block && (self.weights || site.bias)
    }

    fn needs_dense(&self) -> bool {
        self.weights
    }

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, base: &Affine, _: &Here<'_, ()>, _: &mut Rng) -> Result<FullParams> {
        let weight = self.weights.then(|| base.dense());
        Ok(FullParams { weight, bias: base.bias.clone().filter(|_| self.biases) })
    }

    fn weight(&self, base: &Affine, p: &FullParams, _: &Here<'_, ()>) -> Result<Affine> {
        let weight = p.weight.clone().map_or_else(|| base.weight.clone(), Matrix::Dense);
        Ok(Affine::new(weight, p.bias.clone().or_else(|| base.bias.clone())))
    }

    fn count(&self, site: &Site) -> usize {
        let weight = if self.weights { site.out * site.input } else { 0 };
        weight + if self.biases && site.bias { site.out } else { 0 }
    }

    fn peft(&self, _: &[Site]) -> Option<PeftForm> {
        Some(PeftForm::Whole { weights: self.weights, biases: self.biases })
    }
}

/// What folders of type `LN_TUNING` mean.
pub(crate) const READER: Reader = Reader { name: "LN_TUNING", mark: "ln_tuning_layers", refused: &[], build: read };

fn read(_: &Config<'_>, _: &[Module<'_>]) -> Result<Adapter> {
    Ok(Adapter::Weight(Arc::new(Full::default())))
}

impl Full {
    fn replaces_something(&self) -> Result<()> {
        if self.weights || self.biases {
            return Ok(());
        }
        let why = "must be true where `biases` is false".to_owned();
        Err(Error::Param { method: Self::CARD.name, param: "weights", value: "false".to_owned(), why })
    }
}
