//! The pass: what a forward needs besides weights. Models call it at their sites.

use crate::{
    Affine, BatchNorm, Cache, Error, Model, Normaliser, Part, Patch, Result, Rng, Seq, Site, SiteKind, Source,
    affine_at,
};
use acclimate_kernels::{Activation, Conv2d, Visible};
use burn::tensor::{Int, Tensor};

/// One active patch and, where rows differ, how much of it each row gets.
struct Active<'a> {
    patch: &'a Patch,
    /// `[batch]`.
    rows: Option<Tensor<1>>,
}

/// A weight adapter at a site: its patch, its part and its method.
type Standing<'a> = (&'a Patch, (&'a Part, &'a dyn crate::AnyWeight));

/// What is on during one forward: patches, dropout of the adapters' own paths, and the statistics of batch norms. These are
/// separate switches; none follows from another.
pub struct Pass<'a> {
    active: Vec<Active<'a>>,
    dropout: Option<(u64, u64)>,
    normaliser: &'a dyn Normaliser,
    cache: Option<&'a Cache>,
}

impl Default for Pass<'_> {
    fn default() -> Self {
        Self { active: vec![], dropout: None, normaliser: &Source, cache: None }
    }
}

impl<'a> Pass<'a> {
    /// The model as it is.
    pub fn bare() -> Self {
        Self::default()
    }

    /// The model under one patch.
    pub fn new(patch: &'a Patch) -> Self {
        Self::default().and(patch)
    }

    /// One patch more; patches act in the order they were added.
    pub fn and(mut self, patch: &'a Patch) -> Self {
        self.active.push(Active { patch, rows: None });
        self
    }

    /// One patch more, of which each row of the batch gets its own share: `y = y₀ + Σ cᵢ·(yᵢ − y₀)`, `coefficients` `[batch]`.
    pub fn and_rows(mut self, patch: &'a Patch, coefficients: Tensor<1>) -> Self {
        self.active.push(Active { patch, rows: Some(coefficients) });
        self
    }

    /// Switches the adapters' own dropout on; masks depend on the seed, the step and the site alone.
    pub fn dropout(mut self, seed: u64, step: u64) -> Self {
        self.dropout = Some((seed, step));
        self
    }

    /// Chooses the statistics of batch norms.
    pub fn normaliser(mut self, normaliser: &'a dyn Normaliser) -> Self {
        self.normaliser = normaliser;
        self
    }

    /// Reads on after the positions a cache holds, and leaves the new ones there.
    pub fn cache(mut self, cache: &'a Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// How many positions were read before this pass.
    pub fn past(&self) -> usize {
        self.cache.map_or(0, Cache::length)
    }

    /// Keys and values of attention number `layer`, `[batch, new, features]`, with those of all positions read before.
    pub fn remember(&self, layer: usize, k: Tensor<3>, v: Tensor<3>) -> [Tensor<3>; 2] {
        match self.cache {
            Some(cache) => cache.extend(layer, k, v),
            None => [k, v],
        }
    }

    /// A linear site on states of any rank: `[…, in]` to `[…, out]`.
    ///
    /// # Errors
    /// When the weights lack the site or a patch does not fit.
    pub fn linear<const D: usize>(&self, model: &dyn Model, site: &Site, x: Tensor<D>) -> Result<Tensor<D>> {
        let base = affine_at(model, site)?;
        let mut shape = x.dims();
        let input = shape[D - 1];
        if input != site.input {
            return Err(Error::Shape {
                what: site.name.clone(),
                expected: format!("[…, {}]", site.input),
                got: shape.to_vec(),
            });
        }
        let batch = shape[0];
        let rows: usize = shape[..D - 1].iter().product();
        let y = self.rows(&base, site, x.reshape([rows, input]), batch)?;
        shape[D - 1] = site.out;
        Ok(y.reshape(shape))
    }

    /// `[rows, in]` to `[rows, out]` under every active patch.
    fn rows(&self, base: &Affine, site: &Site, x: Tensor<2>, batch: usize) -> Result<Tensor<2>> {
        let here = || self.active.iter().filter(|active| active.patch.touches(&site.name));
        let all = here()
            .filter(|active| active.rows.is_none())
            .flat_map(|a| a.patch.weights_at(&site.name).map(|w| (a.patch, w)));
        let all: Vec<_> = all.collect();
        let common = self.chain(base, site, x.clone(), &all)?;
        let mut y = common.clone();
        for active in here() {
            let Some(coefficients) = &active.rows else { continue };
            // On top of what all rows share: a share of one is the same as the patch added for all rows.
            let own = active.patch.weights_at(&site.name).map(|w| (active.patch, w));
            let own: Vec<_> = all.iter().copied().chain(own).collect();
            let per_row = x.dims()[0] / batch.max(1);
            let [rows, out] = common.dims();
            let c = coefficients
                .clone()
                .reshape([batch, 1])
                .expand([batch, per_row])
                .reshape([rows, 1])
                .expand([rows, out]);
            y = y + (self.chain(base, site, x.clone(), &own)? - common.clone()) * c;
        }
        Ok(y)
    }

    /// All but the last adapter through their weights, the last one through its cheapest form.
    fn chain(&self, base: &Affine, site: &Site, x: Tensor<2>, adapters: &[Standing<'_>]) -> Result<Tensor<2>> {
        let Some(((patch, (part, method)), first)) = adapters.split_last() else { return Ok(base.forward(x)) };
        let mut base = base.clone();
        for (patch, (part, method)) in first {
            base = method.weight_at(&base, &patch.place(part, site, None))?;
        }
        let mask = self.mask(site, part, method.dropout_rate(), &x);
        method.apply_at(x, &base, &patch.place(part, site, mask.as_ref()))
    }

    fn mask(&self, site: &Site, part: &Part, rate: f64, x: &Tensor<2>) -> Option<Tensor<2>> {
        let (seed, step) = self.dropout.filter(|_| rate > 0.0)?;
        let mut rng = Rng::new(seed, &format!("dropout {} {}", site.name, part.name), step);
        rng.dropout_mask(x.dims(), 1.0 - rate, x.dtype(), &x.device()).get()
    }

    /// The weight and bias of a site under every active patch (those with a share per row are refused here).
    fn folded(&self, model: &dyn Model, site: &Site) -> Result<Affine> {
        self.folding(site)?.iter().try_fold(affine_at(model, site)?, |base, (patch, (part, method))| {
            method.weight_at(&base, &patch.place(part, site, None))
        })
    }

    /// The weight adapters at a site that works on weights as a whole.
    fn folding(&self, site: &Site) -> Result<Vec<Standing<'_>>> {
        let here = || self.active.iter().filter(|active| active.patch.touches(&site.name));
        if here().any(|active| active.rows.is_some()) {
            return Err(Error::Unsupported {
                who: format!("site `{}`", site.name),
                what: "mix patches by row".to_owned(),
                instead: "target linear sites only, or run one patch per batch".to_owned(),
            });
        }
        Ok(here().flat_map(|active| active.patch.weights_at(&site.name).map(|w| (active.patch, w))).collect())
    }

    /// A convolution site, `[batch, in, height, width]`.
    ///
    /// # Errors
    /// When the weights lack the site or a patch does not fit.
    pub fn conv(&self, model: &dyn Model, site: &Site, x: Tensor<4>) -> Result<Tensor<4>> {
        let SiteKind::Conv { kernel: [height, width], stride, padding, groups } = site.kind else {
            return Err(Error::Other(format!("site `{}` is no convolution", site.name)));
        };
        let affine = self.folded(model, site)?;
        let weight = affine.dense().reshape([site.out, site.input / (height * width), height, width]);
        let [_, channels, rows, columns] = x.dims();
        let sides = [padding.along(rows, height, stride), padding.along(columns, width, stride)];
        let conv = Conv2d { stride: [stride; 2], padding: sides, groups, ..Conv2d::default() };
        if channels != weight.dims()[1] * groups || conv.result([rows, columns], [height, width]).is_none() {
            return Err(Error::Shape {
                what: site.name.clone(),
                expected: format!(
                    "[batch, {}, at least {height}, at least {width}] with its padding",
                    weight.dims()[1] * groups
                ),
                got: x.dims().to_vec(),
            });
        }
        Ok(acclimate_kernels::conv2d(x, weight, affine.bias, conv))
    }

    /// Rows of a table, `[batch, length]` to `[batch, length, width]`.
    ///
    /// # Errors
    /// When the weights lack the site or a patch does not fit.
    pub fn embedding(&self, model: &dyn Model, site: &Site, ids: Tensor<2, Int>) -> Result<Tensor<3>> {
        let mut base = affine_at(model, site)?;
        let adapters = self.folding(site)?;
        let Some(((patch, (part, method)), first)) = adapters.split_last() else { return Ok(base.weight.rows(ids)) };
        for (patch, (part, method)) in first {
            base = method.weight_at(&base, &patch.place(part, site, None))?;
        }
        method.rows_at(ids, &base, &patch.place(part, site, None))
    }

    /// A layer norm over the last axis.
    ///
    /// # Errors
    /// When the weights lack the site or a patch does not fit.
    pub fn layer_norm(&self, model: &dyn Model, site: &Site, x: Tensor<3>, eps: f64) -> Result<Tensor<3>> {
        let affine = self.folded(model, site)?;
        let shift = affine.bias.clone().unwrap_or_else(|| Tensor::zeros([site.out], (&x.device(), x.dtype())));
        Ok(acclimate_kernels::layer_norm(x, affine.dense().reshape([site.out]), shift, eps))
    }

    /// A norm by the root of the mean square over the last axis, with a scale and no shift.
    ///
    /// # Errors
    /// When the weights lack the site or a patch does not fit.
    pub fn rms_norm(&self, model: &dyn Model, site: &Site, x: Tensor<3>, eps: f64) -> Result<Tensor<3>> {
        let scale = self.folded(model, site)?.dense().reshape([site.out]);
        Ok(acclimate_kernels::rms_norm(x, scale, eps))
    }

    /// A norm over groups of channels, `[batch, channels, height, width]`, and the activation after it.
    ///
    /// # Errors
    /// When the weights lack the site, a patch does not fit, or `groups` does not divide the channels.
    pub fn group_norm(
        &self,
        model: &dyn Model,
        site: &Site,
        x: Tensor<4>,
        groups: usize,
        eps: f64,
        after: Activation,
    ) -> Result<Tensor<4>> {
        let [batch, channels, height, width] = x.dims();
        if groups == 0 || channels % groups != 0 {
            return Err(Error::Shape {
                what: site.name.clone(),
                expected: format!("channels in {groups} groups"),
                got: x.dims().to_vec(),
            });
        }
        let affine = self.folded(model, site)?;
        // Each row's groups and channels are the channels of one image, of which the kernels know how to take moments and scale.
        let (rows, share) = (batch * channels, channels / groups);
        let (mean, variance) =
            acclimate_kernels::channel_moments(x.clone().reshape([1, batch * groups, share * height, width]));
        let moments = [mean, variance].map(|v| v.unsqueeze_dim::<2>(1).expand([batch * groups, share]).reshape([rows]));
        let vectors =
            scale_shift(&affine, &x).map(|v| v.unsqueeze_dim::<2>(0).expand([batch, channels]).reshape([rows]));
        let image = x.reshape([1, rows, height, width]);
        let y = acclimate_kernels::normalise(image, moments, vectors, eps, after);
        Ok(y.reshape([batch, channels, height, width]))
    }

    /// A batch norm, `[batch, channels, height, width]`, and the activation after it; the pass's normaliser says whose moments hold.
    ///
    /// # Errors
    /// When the weights lack the site or a patch does not fit, or the normaliser refuses the batch.
    pub fn batch_norm(
        &self,
        model: &dyn Model,
        site: &Site,
        x: Tensor<4>,
        eps: f64,
        after: Activation,
    ) -> Result<Tensor<4>> {
        if x.dims()[1] != site.out {
            let expected = format!("[batch, {}, height, width]", site.out);
            return Err(Error::Shape { what: site.name.clone(), expected, got: x.dims().to_vec() });
        }
        let [scale, shift] = scale_shift(&self.folded(model, site)?, &x);
        self.normaliser.normalise(BatchNorm { site, x, scale, shift, eps, weights: model.weights(), after })
    }

    /// Attention of several heads over projected states, `[batch, length, heads·width]`; keys and values may have fewer heads, each for a
    /// group of the queries'.
    pub fn attention(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, visible: &Visible, heads: usize) -> Tensor<3> {
        acclimate_kernels::attention(q, k, v, visible, heads)
    }

    /// Scores of the vocabulary after states `[rows, width]`: `[rows, words]`. See [`Model::vocabulary`].
    ///
    /// # Errors
    /// A model without a vocabulary, or a patch that does not fit.
    pub fn scores(&self, model: &dyn Model, states: Tensor<2>) -> Result<Tensor<2>> {
        let site = vocabulary(model)?;
        match site.kind {
            SiteKind::Embedding => Ok(self.folded(model, site)?.forward(states)),
            _ => self.linear(model, site, states),
        }
    }

    /// `−log softmax(scores)` of the words that follow states `[rows, width]`: `[rows]`. Where no patch stands at the vocabulary's site,
    /// the scores of all rows are never held together.
    ///
    /// # Errors
    /// As [`Pass::scores`].
    ///
    /// # Panics
    /// When a target lies outside the vocabulary.
    pub fn cross_entropy(&self, model: &dyn Model, states: Tensor<2>, targets: Tensor<1, Int>) -> Result<Tensor<1>> {
        let site = vocabulary(model)?;
        if site.kind == SiteKind::Embedding || !self.active.iter().any(|active| active.patch.touches(&site.name)) {
            let affine = self.folded(model, site)?;
            if affine.bias.is_none() {
                return Ok(affine.weight.cross_entropy(states, targets));
            }
        }
        Ok(acclimate_kernels::composed::cross_entropy(self.scores(model, states)?, targets))
    }

    /// A sub-block before its residual addition; activation adapters stand around `body`.
    ///
    /// # Errors
    /// The body's or the adapters'.
    pub fn block(&self, site: &Site, seq: Seq, body: &mut dyn FnMut(Seq) -> Result<Seq>) -> Result<Seq> {
        let adapters: Vec<_> = self
            .active
            .iter()
            .flat_map(|a| a.patch.activations_at(&site.name).map(move |(part, m)| (a, part, m)))
            .collect();
        self.nested(site, seq, body, &adapters)
    }

    fn nested(
        &self,
        site: &Site,
        seq: Seq,
        body: &mut dyn FnMut(Seq) -> Result<Seq>,
        adapters: &[(&Active<'_>, &Part, &dyn crate::AnyActivation)],
    ) -> Result<Seq> {
        let Some(((active, part, method), inner)) = adapters.split_last() else { return body(seq) };
        if active.rows.is_some() {
            return Err(by_row(method.card().name));
        }
        let mut rest = |seq: Seq| self.nested(site, seq, body, inner);
        method.around_at(seq, &mut rest, &active.patch.place(part, site, None))
    }

    /// The sequence after the embeddings, as token adapters want it.
    ///
    /// # Errors
    /// The adapters' own; a token adapter of a patch that differs by row.
    pub fn tokens(&self, seq: Seq) -> Result<Seq> {
        let parts = self.active.iter().flat_map(|active| active.patch.parts().iter().map(move |part| (active, part)));
        parts.into_iter().try_fold(seq, |seq, (active, part)| match &part.kind {
            crate::patch::Kind::Adapter(crate::Adapter::Tokens(method)) if active.rows.is_none() => {
                method.tokens_at(seq, &active.patch.params, &part.name)
            }
            crate::patch::Kind::Adapter(crate::Adapter::Tokens(method)) => Err(by_row(method.card().name)),
            _ => Ok(seq),
        })
    }

    /// Weight and bias of the linear map from features to logits: that of the last patch with a head for all rows, or the model's own.
    ///
    /// # Errors
    /// Where there is neither.
    pub fn head_weights(&self, model: &dyn Model) -> Result<Affine> {
        let patch = self.active.iter().rfind(|active| active.rows.is_none() && active.patch.has_head());
        if let Some(Active { patch, .. }) = patch {
            return Ok(Affine::new(patch.params.get::<2>("head.weight")?, Some(patch.params.get("head.bias")?)));
        }
        let own = model.head().and_then(|name| model.sites().iter().find(|site| site.name == name));
        let site = own.ok_or_else(|| Error::Unsupported {
            who: "the model".to_owned(),
            what: "show a head: neither it nor a patch has one".to_owned(),
            instead: "tune a head first and lay that patch below".to_owned(),
        })?;
        self.folded(model, site)
    }

    /// The head of the last patch that has one, on features `[rows, width]`; heads of patches that differ by row add their share.
    ///
    /// # Errors
    /// When its tensors do not fit, or heads differ by row where features are not one per row of the batch.
    pub fn head(&self, features: Tensor<2>) -> Result<Option<Tensor<2>>> {
        let logits = |patch: &Patch| -> Result<Tensor<2>> {
            let (weight, bias) = (patch.params.get::<2>("head.weight")?, patch.params.get("head.bias")?);
            Ok(Affine::new(weight, Some(bias)).forward(features.clone()))
        };
        let with_head = || self.active.iter().filter(|active| active.patch.has_head());
        let common =
            with_head().rfind(|active| active.rows.is_none()).map(|active| logits(active.patch)).transpose()?;
        let mut y = common.clone();
        for active in with_head() {
            let Some(coefficients) = &active.rows else { continue };
            let own = logits(active.patch)?;
            let [rows, outputs] = own.dims();
            if coefficients.dims() != [rows] {
                return Err(by_row("a head on words"));
            }
            let own = match &common {
                Some(common) => own - common.clone(),
                None => own,
            };
            let share = own * coefficients.clone().reshape([rows, 1]).expand([rows, outputs]);
            y = Some(match y {
                Some(y) => y + share,
                None => share,
            });
        }
        Ok(y)
    }
}

fn vocabulary(model: &dyn Model) -> Result<&Site> {
    model.vocabulary().ok_or_else(|| Error::Unsupported {
        who: "the model".to_owned(),
        what: "say how likely a word is".to_owned(),
        instead: "choose a model that reads from left to right, such as `asset:smollm2`".to_owned(),
    })
}

fn by_row(who: &str) -> Error {
    Error::Unsupported {
        who: who.to_owned(),
        what: "differ by row".to_owned(),
        instead: "run one patch per batch".to_owned(),
    }
}

/// Scale and shift of a norm over `x`, `[channels]` each.
fn scale_shift(affine: &Affine, x: &Tensor<4>) -> [Tensor<1>; 2] {
    let [channels, _] = affine.dims();
    let shift = affine.bias.clone().unwrap_or_else(|| Tensor::zeros([channels], (&x.device(), x.dtype())));
    [affine.dense().reshape([channels]), shift]
}
