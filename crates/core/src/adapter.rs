//! What a method does at a site: weight adapters and activation adapters, typed to write, erased to hold.

use crate::{
    AnyTensor, Bag, Card, Fields, Method, Need, Params, PeftForm, Result, Rng, Role, Seq, Site, SiteKind, Slots,
};
use acclimate_kernels::Matrix;
use burn::tensor::{DType, Device, Int, Tensor};

/// A frozen weight and bias, or their adapted values: `y = x·Wᵀ + b`. Convolutions, tables and norms are seen in this form too
/// (see [`SiteKind`]). A frozen weight may be packed; then there are products with it, and no copy of its numbers.
#[derive(Clone, Debug)]
pub struct Affine {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
}

impl Affine {
    /// A weight `[out, in]` and a bias `[out]`.
    pub fn new(weight: impl Into<Matrix>, bias: Option<Tensor<1>>) -> Self {
        Self { weight: weight.into(), bias }
    }

    /// `x·Wᵀ + b` for rows `x` of shape `[rows, in]`. The transpose is a view; nothing is copied.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.weight.linear(x, self.bias.clone())
    }

    /// The weight's numbers, `[out, in]`. Of a packed weight they are made anew at each call: a method that asks for them in its forward
    /// pass [needs](crate::Need::Dense) a dense base.
    pub fn dense(&self) -> Tensor<2> {
        self.weight.dense()
    }

    /// The same affine map with another weight.
    pub fn with_weight(&self, weight: Tensor<2>) -> Self {
        Self::new(weight, self.bias.clone())
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// Number type and device, for tensors made beside this one.
    pub fn like(&self) -> (DType, Device) {
        self.weight.like()
    }
}

/// Where a weight adapter is at work.
#[derive(Debug)]
pub struct Here<'a, S> {
    /// The site.
    pub site: &'a Site,
    /// What the method shares over all its sites.
    pub shared: &'a S,
    /// Dropout of the adapter's own path, `[rows, in]` of zeros and `1/keep`; absent outside training.
    pub mask: Option<&'a Tensor<2>>,
}

impl<S> Here<'_, S> {
    /// The adapter path's input: `x` under the dropout mask.
    pub fn dropped(&self, x: Tensor<2>) -> Tensor<2> {
        match self.mask {
            Some(mask) => x * mask.clone(),
            None => x,
        }
    }
}

/// A method that replaces a frozen weight by a function of it and of its own tensors.
pub trait WeightAdapter: Method {
    /// The tensors trained at one site.
    type P: Fields;

    /// The tensors shared over all sites (`()` for most methods); not trained.
    type Shared: Fields;

    /// Whether the method can stand at such a site.
    fn accepts(&self, site: &Site) -> bool {
        matches!(site.kind, SiteKind::Linear | SiteKind::Conv { .. })
    }

    /// Probability with which the adapter's own path drops an input in training.
    fn dropout(&self) -> f64 {
        0.0
    }

    /// Whether the forward pass asks for the frozen weight's numbers; such a method is refused on a packed base.
    fn needs_dense(&self) -> bool {
        Self::CARD.needs(Need::Dense)
    }

    /// Draws what all sites share.
    ///
    /// # Errors
    /// When the sites do not fit the config.
    fn share(&self, sites: &[Site], like: (DType, Device), rng: &mut Rng) -> Result<Self::Shared>;

    /// The tensors of one site before the first step.
    ///
    /// # Errors
    /// When the site's shape does not fit the config.
    fn init(&self, base: &Affine, here: &Here<'_, Self::Shared>, rng: &mut Rng) -> Result<Self::P>;

    /// The adapted weight `[out, in]` and bias.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn weight(&self, base: &Affine, p: &Self::P, here: &Here<'_, Self::Shared>) -> Result<Affine>;

    /// `x·W'ᵀ + b'` for rows `x`; written where there is a cheaper way than building `W'`.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn apply(&self, x: Tensor<2>, base: &Affine, p: &Self::P, here: &Here<'_, Self::Shared>) -> Result<Tensor<2>> {
        Ok(self.weight(base, p, here)?.forward(x))
    }

    /// Rows of a table `W'`, `[batch, length]` to `[batch, length, width]`; written where there is a cheaper way than building `W'`.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn rows(
        &self,
        ids: Tensor<2, Int>,
        base: &Affine,
        p: &Self::P,
        here: &Here<'_, Self::Shared>,
    ) -> Result<Tensor<3>> {
        Ok(self.weight(base, p, here)?.weight.rows(ids))
    }

    /// What the method adds to the loss at one site, as one number.
    fn penalty(&self, _p: &Self::P) -> Option<Tensor<1>> {
        None
    }

    /// How many numbers are trained at a site: the formula on the method's page.
    fn count(&self, site: &Site) -> usize;

    /// How the `peft` package keeps the method at these sites; nothing where it has no such method or not all that is set here.
    fn peft(&self, sites: &[Site]) -> Option<PeftForm> {
        let _ = sites;
        None
    }
}

/// A method that acts on a sub-block's states.
pub trait ActivationAdapter: Method {
    /// The tensors trained at one site.
    type P: Fields;

    /// The tensors of one site before the first step.
    ///
    /// # Errors
    /// When the site's width does not fit the config.
    fn init(&self, site: &Site, like: (DType, Device), rng: &mut Rng) -> Result<Self::P>;

    /// Runs the sub-block and acts before, after or instead of it. The result stands before the residual addition.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn around(&self, seq: Seq, body: &mut dyn FnMut(Seq) -> Result<Seq>, p: &Self::P) -> Result<Seq>;

    /// How many numbers are trained at a site.
    fn count(&self, site: &Site) -> usize;
}

/// A method that lengthens, shortens or rewrites the sequence after the embeddings.
pub trait TokenAdapter: Method {
    /// The tensors trained for the model.
    type P: Fields;

    /// The tensors before the first step, for states of the given width.
    ///
    /// # Errors
    /// When the width does not fit the config.
    fn init(&self, width: usize, like: (DType, Device), rng: &mut Rng) -> Result<Self::P>;

    /// The new sequence. Tokens that come from nowhere have origin −1.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn tokens(&self, seq: Seq, p: &Self::P) -> Result<Seq>;
}

/// [`WeightAdapter`] with its types erased: what a patch holds.
pub trait AnyWeight: Send + Sync + std::fmt::Debug {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`WeightAdapter::accepts`].
    fn accepts_site(&self, site: &Site) -> bool;
    /// See [`WeightAdapter::dropout`].
    fn dropout_rate(&self) -> f64;
    /// See [`WeightAdapter::needs_dense`].
    fn wants_dense(&self) -> bool;
    /// See [`WeightAdapter::count`].
    fn count_at(&self, site: &Site) -> usize;
    /// See [`WeightAdapter::peft`].
    fn peft_at(&self, sites: &[Site]) -> Option<PeftForm>;
    /// See [`WeightAdapter::share`].
    ///
    /// # Errors
    /// The method's own.
    fn share_over(&self, sites: &[Site], like: (DType, Device), rng: &mut Rng) -> Result<Slots>;
    /// See [`WeightAdapter::init`].
    ///
    /// # Errors
    /// The method's own.
    fn init_at(&self, base: &Affine, at: &Place<'_>, rng: &mut Rng) -> Result<Slots>;
    /// See [`WeightAdapter::weight`].
    ///
    /// # Errors
    /// The method's own.
    fn weight_at(&self, base: &Affine, at: &Place<'_>) -> Result<Affine>;
    /// See [`WeightAdapter::apply`].
    ///
    /// # Errors
    /// The method's own.
    fn apply_at(&self, x: Tensor<2>, base: &Affine, at: &Place<'_>) -> Result<Tensor<2>>;
    /// See [`WeightAdapter::rows`].
    ///
    /// # Errors
    /// The method's own.
    fn rows_at(&self, ids: Tensor<2, Int>, base: &Affine, at: &Place<'_>) -> Result<Tensor<3>>;
    /// See [`WeightAdapter::penalty`].
    ///
    /// # Errors
    /// The method's own.
    fn penalty_at(&self, at: &Place<'_>) -> Result<Option<Tensor<1>>>;
}

/// Where an erased adapter finds its site and tensors.
#[derive(Debug)]
pub struct Place<'a> {
    /// The site.
    pub site: &'a Site,
    /// The part's name in the patch, the prefix of its tensors after the site.
    pub part: &'a str,
    /// The patch's trained tensors.
    pub params: &'a Params,
    /// The patch's tensors that are not trained.
    pub buffers: &'a Params,
    /// Dropout of the adapter's own path.
    pub mask: Option<&'a Tensor<2>>,
}

impl Place<'_> {
    fn own<F: Fields>(&self) -> Result<F> {
        F::load(&Bag::new(self.params, format!("{}.{}", self.site.name, self.part)))
    }

    fn shared<F: Fields>(&self) -> Result<F> {
        F::load(&Bag::new(self.buffers, self.part))
    }
}

fn slots(fields: impl Fields) -> Slots {
    let mut slots = Slots::default();
    fields.store(&mut slots);
    slots
}

impl<A: WeightAdapter> AnyWeight for A {
    fn card(&self) -> Card {
        A::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn accepts_site(&self, site: &Site) -> bool {
        self.accepts(site)
    }
    fn dropout_rate(&self) -> f64 {
        self.dropout()
    }
    fn wants_dense(&self) -> bool {
        self.needs_dense()
    }
    fn count_at(&self, site: &Site) -> usize {
        self.count(site)
    }
    fn peft_at(&self, sites: &[Site]) -> Option<PeftForm> {
        self.peft(sites)
    }
    fn share_over(&self, sites: &[Site], like: (DType, Device), rng: &mut Rng) -> Result<Slots> {
        Ok(slots(self.share(sites, like, rng)?))
    }
    fn init_at(&self, base: &Affine, at: &Place<'_>, rng: &mut Rng) -> Result<Slots> {
        Ok(slots(self.init(base, &Here { site: at.site, shared: &at.shared()?, mask: None }, rng)?))
    }
    fn weight_at(&self, base: &Affine, at: &Place<'_>) -> Result<Affine> {
        self.weight(base, &at.own()?, &Here { site: at.site, shared: &at.shared()?, mask: at.mask })
    }
    fn apply_at(&self, x: Tensor<2>, base: &Affine, at: &Place<'_>) -> Result<Tensor<2>> {
        self.apply(x, base, &at.own()?, &Here { site: at.site, shared: &at.shared()?, mask: at.mask })
    }
    fn rows_at(&self, ids: Tensor<2, Int>, base: &Affine, at: &Place<'_>) -> Result<Tensor<3>> {
        self.rows(ids, base, &at.own()?, &Here { site: at.site, shared: &at.shared()?, mask: at.mask })
    }
    fn penalty_at(&self, at: &Place<'_>) -> Result<Option<Tensor<1>>> {
        Ok(self.penalty(&at.own()?))
    }
}

/// [`ActivationAdapter`] with its types erased.
pub trait AnyActivation: Send + Sync + std::fmt::Debug {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`ActivationAdapter::count`].
    fn count_at(&self, site: &Site) -> usize;
    /// See [`ActivationAdapter::init`].
    ///
    /// # Errors
    /// The method's own.
    fn init_at(&self, site: &Site, like: (DType, Device), rng: &mut Rng) -> Result<Slots>;
    /// See [`ActivationAdapter::around`].
    ///
    /// # Errors
    /// The method's own.
    fn around_at(&self, seq: Seq, body: &mut dyn FnMut(Seq) -> Result<Seq>, at: &Place<'_>) -> Result<Seq>;
}

impl<A: ActivationAdapter> AnyActivation for A {
    fn card(&self) -> Card {
        A::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn count_at(&self, site: &Site) -> usize {
        self.count(site)
    }
    fn init_at(&self, site: &Site, like: (DType, Device), rng: &mut Rng) -> Result<Slots> {
        Ok(slots(self.init(site, like, rng)?))
    }
    fn around_at(&self, seq: Seq, body: &mut dyn FnMut(Seq) -> Result<Seq>, at: &Place<'_>) -> Result<Seq> {
        self.around(seq, body, &at.own()?)
    }
}

/// [`TokenAdapter`] with its types erased.
pub trait AnyTokens: Send + Sync + std::fmt::Debug {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`TokenAdapter::init`].
    ///
    /// # Errors
    /// The method's own.
    fn init_for(&self, width: usize, like: (DType, Device), rng: &mut Rng) -> Result<Slots>;
    /// See [`TokenAdapter::tokens`].
    ///
    /// # Errors
    /// The method's own.
    fn tokens_at(&self, seq: Seq, params: &Params, part: &str) -> Result<Seq>;
}

impl<A: TokenAdapter> AnyTokens for A {
    fn card(&self) -> Card {
        A::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn init_for(&self, width: usize, like: (DType, Device), rng: &mut Rng) -> Result<Slots> {
        Ok(slots(self.init(width, like, rng)?))
    }
    fn tokens_at(&self, seq: Seq, params: &Params, part: &str) -> Result<Seq> {
        self.tokens(seq, &A::P::load(&Bag::new(params, format!("tokens.{part}")))?)
    }
}

/// An adapter method of any kind, as registries build it.
#[derive(Clone, Debug)]
pub enum Adapter {
    /// Changes weights.
    Weight(std::sync::Arc<dyn AnyWeight>),
    /// Acts on the states of sub-blocks.
    Activation(std::sync::Arc<dyn AnyActivation>),
    /// Acts on the token sequence.
    Tokens(std::sync::Arc<dyn AnyTokens>),
}

impl Adapter {
    /// The method's card.
    pub fn card(&self) -> Card {
        match self {
            Self::Weight(a) => a.card(),
            Self::Activation(a) => a.card(),
            Self::Tokens(a) => a.card(),
        }
    }

    /// The method's settings.
    pub fn settings(&self) -> toml::Table {
        match self {
            Self::Weight(a) => a.settings(),
            Self::Activation(a) => a.settings(),
            Self::Tokens(a) => a.settings(),
        }
    }

    /// Whether the method can stand at a site. Token adapters stand at none.
    pub fn accepts(&self, site: &Site) -> bool {
        match self {
            Self::Weight(a) => a.accepts_site(site),
            Self::Activation(_) => site.kind == SiteKind::Block,
            Self::Tokens(_) => false,
        }
    }

    /// How many numbers are trained at a site (zero for token adapters, which have none).
    pub fn count_at(&self, site: &Site) -> usize {
        match self {
            Self::Weight(a) => a.count_at(site),
            Self::Activation(a) => a.count_at(site),
            Self::Tokens(_) => 0,
        }
    }
}

impl Slots {
    /// Moves the collected tensors into `params` under `prefix.field`, telling their roles.
    pub(crate) fn into_params(self, prefix: &str, params: &mut Params) -> Vec<(String, Role)> {
        let put = |(field, role, tensor): (&str, Role, AnyTensor)| {
            let name = format!("{prefix}.{field}");
            params.insert(name.clone(), tensor);
            (name, role)
        };
        self.0.into_iter().map(put).collect()
    }
}
