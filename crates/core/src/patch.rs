//! The patch: everything that is trained, estimated or remembered about a frozen model.

use crate::{Adapter, Affine, AnyTensor, AnyWeight, Error, Model, Params, Place, Result, Rng, Role, Site, SiteKind};
use acclimate_kernels::Matrix;
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one part of a patch is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A method at some sites.
    Adapter(Adapter),
    /// A linear head on the model's features; it has no base.
    Head,
}

/// A method and the sites it stands at.
#[derive(Clone, Debug)]
pub struct Part {
    /// The name its tensors carry; unique in the patch.
    pub name: String,
    /// The sites, in the model's order.
    pub sites: Vec<Site>,
    pub(crate) kind: Kind,
}

/// Named tensors, the methods that use them and the fingerprint of the model they belong to.
///
/// A model never changes; dropping the patch is resetting it.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    pub(crate) parts: Vec<Part>,
    at: BTreeMap<String, Vec<usize>>,
    /// The trained tensors.
    pub params: Params,
    /// Tensors that are not trained: shared projections, statistics.
    pub buffers: Params,
    /// The name of the model it was made for, as its user gave it.
    pub base_model: Option<String>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) base: Option<String>,
    /// The site of the model's embedding where it is its output matrix too.
    pub(crate) tied: Option<String>,
    /// SHA-256 of the model's tensors at its sites, where they were recorded.
    pub(crate) base_tensors: BTreeMap<String, String>,
}

impl Part {
    /// The method's name; `head` for a head.
    pub fn method(&self) -> &'static str {
        match &self.kind {
            Kind::Adapter(adapter) => adapter.card().name,
            Kind::Head => "head",
        }
    }

    /// The method's settings.
    pub fn settings(&self) -> toml::Table {
        match &self.kind {
            Kind::Adapter(adapter) => adapter.settings(),
            Kind::Head => toml::Table::new(),
        }
    }
}

/// How a head starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadStart {
    /// Zero weights: the first predictions are uniform.
    #[default]
    Zero,
    /// Uniform in ±1/√features.
    Random,
}

impl Patch {
    /// An empty patch: the model as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method at the given sites.
    ///
    /// # Errors
    /// When the method cannot stand at a site, or its shapes do not fit.
    pub fn add(&mut self, model: &dyn Model, adapter: Adapter, sites: &[Site], rng: &mut Rng) -> Result<()> {
        let card = adapter.card();
        let taken = self
            .parts
            .iter()
            .filter(|part| matches!(&part.kind, Kind::Adapter(adapter) if adapter.card().name == card.name));
        let name = match taken.count() {
            0 => card.name.to_owned(),
            n => format!("{}_{}", card.name, n + 1),
        };
        let like = model.like();
        if let Some(site) = sites.iter().find(|site| !adapter.accepts(site)) {
            return Err(Error::Unsupported {
                who: card.name.to_owned(),
                what: format!(
                    "stand at `{}` ({:?}, {} bias)",
                    site.name,
                    site.kind,
                    if site.bias { "with" } else { "without" }
                ),
                instead: "narrow `targets`".to_owned(),
            });
        }
        match &adapter {
            Adapter::Weight(method) => {
                method.share_over(sites, like, rng)?.into_params(&name, &mut self.buffers);
                for site in sites {
                    let base = affine_at(model, site)?;
                    if method.wants_dense() && matches!(base.weight, Matrix::Packed(_)) {
                        return Err(Error::Unsupported {
                            who: card.name.to_owned(),
                            what: format!("stand at `{}`, whose weight is packed", site.name),
                            instead: "unpack the model with `base = \"dense\"`, or choose a method such as `lora`"
                                .to_owned(),
                        });
                    }
                    let place = Place { site, part: &name, params: &self.params, buffers: &self.buffers, mask: None };
                    let slots = method.init_at(&base, &place, rng)?;
                    let roles = slots.into_params(&format!("{}.{name}", site.name), &mut self.params);
                    self.roles.extend(roles.into_iter().map(|(name, role)| (name, role_at(site.kind, role))));
                }
            }
            Adapter::Activation(method) => {
                for site in sites {
                    let slots = method.init_at(site, like.clone(), rng)?;
                    self.roles.extend(slots.into_params(&format!("{}.{name}", site.name), &mut self.params));
                }
            }
            Adapter::Tokens(method) => {
                let slots = method.init_for(model.width(), like, rng)?;
                self.roles.extend(slots.into_params(&format!("tokens.{name}"), &mut self.params));
            }
        }
        self.push(Part { name, sites: sites.to_vec(), kind: Kind::Adapter(adapter) });
        self.base = Some(model.fingerprint().to_owned());
        let tied = model.vocabulary().filter(|site| site.kind == SiteKind::Embedding);
        self.tied = tied.map(|site| site.name.clone());
        Ok(())
    }

    /// Adds a method at the given sites with trained tensors that are there already, by site and field; what is not given starts as in
    /// [`Patch::add`].
    ///
    /// # Errors
    /// As [`Patch::add`], and a tensor that the method does not have there, or of another shape.
    pub fn add_trained<'a>(
        &mut self,
        model: &dyn Model,
        adapter: Adapter,
        sites: &[Site],
        tensors: impl IntoIterator<Item = (&'a Site, &'a str, AnyTensor)>,
    ) -> Result<()> {
        self.add(model, adapter, sites, &mut Rng::new(0, "trained", 0))?;
        let part = self.parts.last().expect("just added").name.clone();
        for (site, field, tensor) in tensors {
            let name = format!("{}.{part}.{field}", site.name);
            let own = self.params.any(&name).ok_or_else(|| Error::unknown("tensor", &name, self.params.names()))?;
            if own.shape() != tensor.shape() {
                let (what, expected) = (format!("tensor `{name}`"), format!("{:?}", own.shape()));
                return Err(Error::Shape { what, expected, got: tensor.shape() });
            }
            let tensor = tensor.cast(own.dtype());
            self.params.insert(name, tensor);
        }
        Ok(())
    }

    /// Adds a linear head from the model's features to `outputs` numbers.
    pub fn add_head(&mut self, model: &dyn Model, outputs: usize, start: HeadStart, rng: &mut Rng) {
        let ((dtype, device), width) = (model.like(), model.width());
        let weight = match start {
            HeadStart::Zero => AnyTensor::zeros(&[outputs, width], dtype, &device),
            HeadStart::Random => rng.uniform_tensor(&[outputs, width], 1.0 / (width as f64).sqrt(), dtype, &device),
        };
        self.params.insert("head.weight", weight);
        self.params.insert("head.bias", AnyTensor::zeros(&[outputs], dtype, &device));
        self.roles.extend(["head.weight", "head.bias"].map(|name| (name.to_owned(), Role::Head)));
        self.push(Part { name: "head".to_owned(), sites: vec![], kind: Kind::Head });
        self.base = Some(model.fingerprint().to_owned());
    }

    pub(crate) fn push(&mut self, part: Part) {
        for site in &part.sites {
            self.at.entry(site.name.clone()).or_default().push(self.parts.len());
        }
        self.parts.push(part);
    }

    /// The parts in the order they act.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether the patch brings a head of its own.
    pub fn has_head(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.kind, Kind::Head))
    }

    /// What a trained tensor is for.
    pub fn role(&self, name: &str) -> Role {
        self.roles.get(name).copied().unwrap_or(Role::Other)
    }

    /// The same patch with other values for its trained tensors.
    pub fn with_params(&self, params: Params) -> Self {
        Self { params, ..self.clone() }
    }

    /// The same patch with its tensors as fresh leaves of a gradient tape. Only what is computed between this call and
    /// [`Params::gradients`] knows about autodiff.
    pub fn tracked(&self) -> Self {
        self.with_params(self.params.tracked())
    }

    /// Weight adapters at a site, with their part names, in the order they act.
    pub(crate) fn weights_at<'a>(&'a self, site: &str) -> impl Iterator<Item = (&'a Part, &'a dyn AnyWeight)> {
        let parts = self.at.get(site).into_iter().flatten().map(|&i| &self.parts[i]);
        parts.filter_map(|part| match &part.kind {
            Kind::Adapter(Adapter::Weight(method)) => Some((part, method.as_ref())),
            _ => None,
        })
    }

    pub(crate) fn activations_at<'a>(
        &'a self,
        site: &str,
    ) -> impl Iterator<Item = (&'a Part, &'a dyn crate::AnyActivation)> {
        let parts = self.at.get(site).into_iter().flatten().map(|&i| &self.parts[i]);
        parts.filter_map(|part| match &part.kind {
            Kind::Adapter(Adapter::Activation(method)) => Some((part, method.as_ref())),
            _ => None,
        })
    }

    /// Whether any weight adapter stands at a site.
    pub fn touches(&self, site: &str) -> bool {
        self.weights_at(site).next().is_some()
    }

    pub(crate) fn place<'a>(&'a self, part: &'a Part, site: &'a Site, mask: Option<&'a Tensor<2>>) -> Place<'a> {
        Place { site, part: &part.name, params: &self.params, buffers: &self.buffers, mask }
    }

    /// The adapted weight and bias of a site: every weight adapter there, one after another.
    ///
    /// # Errors
    /// The methods' own.
    pub fn adapted(&self, base: &Affine, site: &str) -> Result<Affine> {
        self.weights_at(site).try_fold(base.clone(), |base, (part, method)| {
            let site = part.sites.iter().find(|s| s.name == site).expect("the index lists parts by their sites");
            method.weight_at(&base, &self.place(part, site, None))
        })
    }

    /// What the methods add to the loss, if anything.
    ///
    /// # Errors
    /// The methods' own.
    pub fn penalty(&self) -> Result<Option<Tensor<1>>> {
        let mut sum: Option<Tensor<1>> = None;
        for part in &self.parts {
            let Kind::Adapter(Adapter::Weight(method)) = &part.kind else { continue };
            for site in &part.sites {
                if let Some(term) = method.penalty_at(&self.place(part, site, None))? {
                    sum = Some(match sum {
                        Some(sum) => sum + term,
                        None => term,
                    });
                }
            }
        }
        Ok(sum)
    }

    /// The sites at which weight adapters stand, sorted by name.
    pub fn weight_sites(&self) -> impl Iterator<Item = &Site> {
        self.at.keys().filter_map(|name| {
            let (part, _) = self.weights_at(name).next()?;
            part.sites.iter().find(|site| site.name == *name)
        })
    }

    /// The names of the parts that change a site's weight, in the order they act.
    pub fn weight_parts<'a>(&'a self, site: &str) -> impl Iterator<Item = &'a str> {
        self.weights_at(site).map(|(part, _)| part.name.as_str())
    }

    /// Refuses a patch that has more than weight adapters and a head: nothing in a checkpoint stands for its other parts.
    ///
    /// # Errors
    /// Names the method.
    pub fn check_mergeable(&self) -> Result<()> {
        let other = self.parts.iter().find_map(|part| match &part.kind {
            Kind::Head | Kind::Adapter(Adapter::Weight(_)) => None,
            Kind::Adapter(other) => Some(other),
        });
        other.map_or(Ok(()), |other| {
            Err(Error::Unsupported {
                who: other.card().name.to_owned(),
                what: "be merged into weights".to_owned(),
                instead: "keep the patch beside the model".to_owned(),
            })
        })
    }

    /// The weight and bias of a site with every weight adapter there merged in, in the shapes that a checkpoint stores.
    ///
    /// # Errors
    /// The methods' own, or a bias that the checkpoint has no place for.
    pub fn merged(&self, base: &Affine, site: &Site) -> Result<(AnyTensor, Option<AnyTensor>)> {
        let adapted = self.adapted(base, &site.name)?;
        if adapted.bias.is_some() && base.bias.is_none() {
            return Err(Error::Unsupported {
                who: self.weight_parts(&site.name).collect::<Vec<_>>().join(", "),
                what: format!("be merged at `{}`: it adds a bias, and the checkpoint has none there", site.name),
                instead: "keep the patch beside the model".to_owned(),
            });
        }
        let weight = adapted.dense();
        let weight = match site.kind {
            SiteKind::Conv { kernel: [height, width], .. } => {
                weight.reshape([site.out, site.input / (height * width), height, width]).into()
            }
            SiteKind::Norm | SiteKind::BatchNorm => weight.reshape([site.out]).into(),
            SiteKind::Linear | SiteKind::Embedding | SiteKind::Block => weight.into(),
        };
        Ok((weight, adapted.bias.map(AnyTensor::from)))
    }

    /// The model's weights with every adapted one replaced: a plain checkpoint. A head of the patch's own is not among them.
    ///
    /// # Errors
    /// As [`Patch::check_mergeable`] and [`Patch::merged`], or when the model is another than the patch was made for.
    pub fn merge(&self, model: &dyn Model) -> Result<Params> {
        self.check_base(model)?;
        self.check_mergeable()?;
        let mut merged = model.weights().clone();
        for site in self.weight_sites() {
            let (weight, bias) = self.merged(&affine_at(model, site)?, site)?;
            merged.insert(format!("{}.weight", site.name), weight);
            if let Some(bias) = bias {
                merged.insert(format!("{}.bias", site.name), bias);
            }
        }
        Ok(merged)
    }

    /// Records the model's tensors at the sites of weight adapters, so that a checkpoint can be checked tensor by tensor. Packed ones are
    /// left out: their numbers depend on how they are held.
    pub fn record_base(&mut self, model: &dyn Model) {
        let sites = self.parts.iter().filter(|part| matches!(&part.kind, Kind::Adapter(Adapter::Weight(_))));
        let names = sites
            .flat_map(|part| &part.sites)
            .flat_map(|site| ["weight", "bias"].map(|tensor| format!("{}.{tensor}", site.name)));
        self.base_tensors =
            names.filter_map(|name| Some((name.clone(), model.weights().any(&name)?.fingerprint()))).collect();
    }

    /// Refuses a tensor of a checkpoint that differs from the one the patch was made for.
    ///
    /// # Errors
    /// Names the tensor and the way out.
    pub fn check_tensor(&self, name: &str, tensor: &AnyTensor) -> Result<()> {
        match self.base_tensors.get(name) {
            Some(recorded) if *recorded != tensor.fingerprint() => Err(Error::Other(format!(
                "tensor `{name}` differs from that of the model this patch was made for; name that model, or tune anew"
            ))),
            _ => Ok(()),
        }
    }

    /// The model's tensors that differ from those recorded, as far as both are there.
    pub fn changed_tensors(&self, model: &dyn Model) -> Vec<&str> {
        let differs = |name: &str, recorded: &str| {
            model.weights().any(name).is_some_and(|tensor| tensor.fingerprint() != recorded)
        };
        let recorded = self.base_tensors.iter().filter(|(name, recorded)| differs(name, recorded));
        recorded.map(|(name, _)| name.as_str()).collect()
    }

    /// Refuses a model other than the one the patch was made for.
    ///
    /// # Errors
    /// As [`Patch::check_fingerprint`].
    pub fn check_base(&self, model: &dyn Model) -> Result<()> {
        // Without a base there is nothing to compare, and a model's fingerprint takes time.
        self.base.as_ref().map_or(Ok(()), |_| self.check_fingerprint(model.fingerprint()))
    }

    /// Refuses weights other than those the patch was made for.
    ///
    /// # Errors
    /// Names both fingerprints and the way out.
    pub fn check_fingerprint(&self, fingerprint: &str) -> Result<()> {
        match &self.base {
            Some(base) if base != fingerprint => Err(Error::Other(format!(
                "this patch was made for a model with fingerprint {}…, this model has {}…; load the model it was tuned on, or tune anew",
                &base[..12.min(base.len())],
                &fingerprint[..12.min(fingerprint.len())],
            ))),
            _ => Ok(()),
        }
    }

    /// Replaces sizes of one trained tensor along an axis: keeps the listed indices, then appends `add`.
    /// [`crate::Edit::apply`] does the same to optimiser state.
    ///
    /// # Errors
    /// When the tensor is unknown or the edit does not fit it.
    pub fn edit(&mut self, edit: &crate::Edit) -> Result<()> {
        let tensor =
            self.params.any(&edit.param).ok_or_else(|| Error::unknown("tensor", &edit.param, self.params.names()))?;
        let edited = edit.apply(tensor, false)?;
        self.params.insert(edit.param.clone(), edited);
        Ok(())
    }
}

/// The weight and bias of a site in the form every adapter sees: a matrix `[out, in]`.
///
/// # Errors
/// When the weights lack the site or have another shape.
pub fn affine_at(model: &dyn Model, site: &Site) -> Result<Affine> {
    let (weights, name) = (model.weights(), format!("{}.weight", site.name));
    let any = |name: String| weights.any(&name).ok_or_else(|| Error::unknown("tensor", &name, weights.names()));
    let bias = if site.bias { Some(any(format!("{}.bias", site.name))?) } else { None };
    match model.packed(&name) {
        Some(packed) => Ok(Affine::new(packed.clone(), bias.map(|bias| vector(site, bias)).transpose()?)),
        None => affine_of(site, any(name)?, bias),
    }
}

/// The weight and bias of a site as a checkpoint stores them, in the form every adapter sees: a matrix `[out, in]`.
///
/// # Errors
/// When they have another shape than the site says.
pub fn affine_of(site: &Site, weight: &AnyTensor, bias: Option<&AnyTensor>) -> Result<Affine> {
    let matrix = match site.kind {
        SiteKind::Linear => weight.get::<2>().filter(|w| w.dims() == [site.out, site.input]),
        // A table may stand in a checkpoint as the only one of a batch.
        SiteKind::Embedding => weight
            .get::<2>()
            .or_else(|| weight.get::<3>().filter(|w| w.dims()[0] == 1).map(|w| w.squeeze_dim(0)))
            .filter(|w| w.dims() == [site.out, site.input]),
        SiteKind::Conv { .. } => weight
            .get::<4>()
            .filter(|w| w.dims()[0] == site.out && weight.count() == site.out * site.input)
            .map(|w| w.reshape([site.out, site.input])),
        SiteKind::Norm | SiteKind::BatchNorm => {
            weight.get::<1>().filter(|w| w.dims() == [site.out]).map(|w| w.reshape([site.out, 1]))
        }
        SiteKind::Block => return Err(Error::Other(format!("site `{}` is a block and has no weight", site.name))),
    };
    let matrix = matrix.ok_or_else(|| Error::Shape {
        what: format!("tensor `{}.weight`", site.name),
        expected: format!("of {} rows and {} columns", site.out, site.input),
        got: weight.shape(),
    })?;
    Ok(Affine::new(matrix, bias.map(|bias| vector(site, bias)).transpose()?))
}

/// The bias of a site.
fn vector(site: &Site, bias: &AnyTensor) -> Result<Tensor<1>> {
    bias.get::<1>().filter(|bias| bias.dims() == [site.out]).ok_or_else(|| Error::Shape {
        what: format!("tensor `{}.bias`", site.name),
        expected: format!("[{}]", site.out),
        got: bias.shape(),
    })
}

/// A norm's whole weight or bias has its scale's or shift's role, whatever the method.
fn role_at(kind: SiteKind, role: Role) -> Role {
    match (kind, role) {
        (SiteKind::Norm | SiteKind::BatchNorm, Role::Weight | Role::Bias) => Role::Norm,
        _ => role,
    }
}

/// Number type and device of a model's weights.
pub(crate) fn like_of(weights: &Params) -> (DType, Device) {
    weights.iter().next().map_or((DType::F32, Device::flex()), |(_, tensor)| (tensor.dtype(), tensor.device()))
}
