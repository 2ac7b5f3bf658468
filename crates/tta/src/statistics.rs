//! What methods share whose business is the statistics of batch norms.

use crate::{Host, TestTime};
use acclimate_core::{AnyTensor, BatchNorm, Error, Inputs, Moments, Params, Result, Site, SiteKind};
use burn::tensor::Tensor;
use std::sync::Mutex;

/// The same numbers off the gradient tape.
pub(crate) fn off_tape<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() { x.clone().inner() } else { x.clone() }
}

/// Moments with this share of the second.
pub(crate) fn mixed(first: &Moments, second: &Moments, share: f64) -> Moments {
    let mix = |a: &Tensor<1>, b: &Tensor<1>| a.clone() * (1.0 - share) + b.clone() * share;
    Moments { mean: mix(&first.mean, &second.mean), variance: mix(&first.variance, &second.variance) }
}

/// The batch's moments, the variance divided by one less than the count.
pub(crate) fn unbiased(norm: &BatchNorm<'_>) -> Result<Moments> {
    let [batch, _, height, width] = norm.x.dims();
    let n = (batch * height * width) as f64;
    let Moments { mean, variance } = norm.own()?;
    Ok(Moments { mean, variance: variance * (n / (n - 1.0)) })
}

/// The batch norms of the model and the moments stored with it.
pub(crate) fn stored<'a>(host: &Host<'a>) -> Result<Vec<(&'a Site, Moments)>> {
    let model = host.model();
    let norms = model.sites().iter().filter(|site| site.kind == SiteKind::BatchNorm);
    let moment = |site: &Site, field: &str| model.weights().get::<1>(&format!("{}.{field}", site.name));
    norms
        .map(|site| Ok((site, Moments { mean: moment(site, "running_mean")?, variance: moment(site, "running_var")? })))
        .collect()
}

/// Averages that begin at the stored moments: `site.mean` and `site.variance` of every batch norm, `[channels]`.
pub(crate) fn averages(host: &Host<'_>) -> Result<Params> {
    let mut averages = Params::default();
    for (site, moments) in stored(host)? {
        averages.insert(name(site, MEAN), moments.mean);
        averages.insert(name(site, VARIANCE), moments.variance);
    }
    Ok(averages)
}

/// The step of a method that brings statistics and does nothing else.
pub(crate) fn predicted<M: TestTime>(
    method: &M,
    batch: &Inputs,
    state: &mut M::State,
    host: &mut Host<'_>,
) -> Result<Tensor<2>> {
    let mut logits = None;
    method.under(state, &mut |statistics| {
        logits = Some(host.forward_under(batch, statistics)?.logits);
        Ok(())
    })?;
    logits.ok_or_else(|| Error::Other(format!("{} brought no statistics", M::CARD.name)))
}

/// What norms remember, while a pass runs and changes it.
#[derive(Debug)]
pub(crate) struct Kept(Mutex<Params>);

impl Kept {
    pub(crate) fn new(remembered: &Params) -> Self {
        Self(Mutex::new(remembered.clone()))
    }

    /// What a norm remembers under this name.
    pub(crate) fn get<const D: usize>(&self, site: &Site, part: &str) -> Result<Tensor<D>> {
        self.0.lock().expect(HELD).get(&name(site, part))
    }

    /// Remembers it, off the gradient tape.
    pub(crate) fn put<const D: usize>(&self, site: &Site, part: &str, tensor: &Tensor<D>) {
        self.0.lock().expect(HELD).insert(name(site, part), AnyTensor::from(off_tape(tensor)));
    }

    /// The averages of a norm, see [`averages`].
    pub(crate) fn moments(&self, site: &Site) -> Result<Moments> {
        Ok(Moments { mean: self.get(site, MEAN)?, variance: self.get(site, VARIANCE)? })
    }

    /// Remembers them, off the gradient tape.
    pub(crate) fn put_moments(&self, site: &Site, moments: &Moments) {
        self.put(site, MEAN, &moments.mean);
        self.put(site, VARIANCE, &moments.variance);
    }

    pub(crate) fn into_params(self) -> Params {
        self.0.into_inner().expect(HELD)
    }
}

/// Under which name a norm's tensor is remembered.
pub(crate) fn name(site: &Site, part: &str) -> String {
    format!("{}.{part}", site.name)
}

const MEAN: &str = "mean";
const VARIANCE: &str = "variance";

const HELD: &str = "nothing panics while what norms remember is held";
