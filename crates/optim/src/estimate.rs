//! What methods that find their own rate share.

use crate::slot;
use acclimate_core::{AnyTensor, At, Params, Record, RecordReader, RecordWriter, Result, Step, totals, wide};
use burn::tensor::Tensor;

/// A method's own state, and the estimate $d$ of the distance to the solution that its rate is made of.
#[derive(Clone, Debug)]
pub struct Adapted<S> {
    /// What the method keeps besides.
    pub(crate) own: S,
    d: f64,
    d_hat: f64,
    /// $d$ never exceeds it.
    ceiling: f64,
}

impl<S> Adapted<S> {
    /// A run that begins with the estimate `d0`.
    pub(crate) fn new(own: S, d0: f64) -> Self {
        Self { own, d: d0, d_hat: 0.0, ceiling: f64::INFINITY }
    }

    /// A run that begins anew and whose estimate stays below `share` of what this one has reached.
    pub(crate) fn restarted(&self, own: S, d0: f64, share: f64) -> Self {
        let ceiling = share * self.d;
        Self { own, d: d0.min(ceiling), d_hat: 0.0, ceiling }
    }

    /// The estimate.
    pub(crate) fn d(&self) -> f64 {
        self.d
    }

    /// Where a run with the first estimate `d0` begins.
    pub(crate) fn begin(&self, d0: f64) -> f64 {
        d0.min(self.ceiling)
    }

    /// Takes a bound from below in: $d$ rises to it, by the factor `growth_rate` at most, and never falls.
    pub(crate) fn learn(&mut self, d_hat: f64, growth_rate: f64) {
        self.d_hat = d_hat;
        // False where sums were out of range and `d_hat` is no number.
        if d_hat > self.d {
            self.d = d_hat.min(self.d * growth_rate).min(self.ceiling).max(self.d);
        }
    }

    /// What is drawn: the estimate, then the last bound.
    pub(crate) fn log(&self) -> Vec<(&'static str, f64)> {
        vec![("d", self.d), ("d_hat", self.d_hat)]
    }
}

impl<S: Record> Record for Adapted<S> {
    fn save(&self, to: &mut RecordWriter) {
        self.own.save(to);
        to.f64("d", self.d);
        to.f64("d_hat", self.d_hat);
        to.f64("ceiling", self.ceiling);
    }

    fn load(from: &mut RecordReader) -> Result<Self> {
        let own = S::load(from)?;
        Ok(Self { own, d: from.f64("d")?, d_hat: from.f64("d_hat")?, ceiling: from.f64("ceiling")? })
    }

    fn slots_mut(&mut self) -> Vec<&mut Params> {
        self.own.slots_mut()
    }

    fn own_mut(&mut self) -> Vec<&mut Params> {
        self.own.own_mut()
    }
}

/// The squares of the gradient and of the displacement over all parameters, in the units $x / \sqrt r$ that relative rates
/// make.
pub(crate) fn gone(grads: &Params, far: &Params, at: &At<'_>) -> Result<[f64; 2]> {
    let (mut squares, mut distances) = (vec![], vec![]);
    for ((name, g), &r) in grads.iter().zip(at.scales) {
        squares.push(wide(g.elements()).square().sum() * r);
        distances.push(wide(slot(far, name)?).square().sum() / r);
    }
    Ok(totals([squares, distances]))
}

/// A step of gradient descent in the units $x / \sqrt r$. `moved` is told the gradient of each parameter and its whole way,
/// decay included.
pub(crate) fn descend(
    grads: &Params,
    at: &At<'_>,
    rate: f64,
    mut moved: impl FnMut(&str, Tensor<1>, Tensor<1>) -> Result<()>,
) -> Result<Step> {
    let (mut movement, mut decay_rates) = (Params::default(), vec![]);
    for ((((name, g), x), &r), &decay) in grads.iter().zip(at.params.iter()).zip(at.scales).zip(at.decays) {
        let g = g.elements();
        let step = g.clone() * (-rate * r);
        moved(name, g, way(&step, x.1, decay * rate * r))?;
        movement.insert(name, AnyTensor::from_elements(step));
        decay_rates.push(rate * r);
    }
    Ok(Step { movement, decay_rates })
}

/// The whole way of a parameter that moves by `step` and loses the share `decay` of itself.
pub(crate) fn way(step: &Tensor<1>, x: &AnyTensor, decay: f64) -> Tensor<1> {
    if decay > 0.0 { step.clone() - x.elements() * decay } else { step.clone() }
}
