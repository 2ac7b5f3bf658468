//! Optimisers over a whole parameter set, and the host that runs them.
//!
//! A method turns gradients into a movement. The [`Host`] owns what no method writes: weight decay, clipping, freezing, rates by
//! role, saving and resuming. The [`Accumulator`] adds micro-batches up, the [`SketchAccumulator`] does so in little memory,
//! [`BatchGrowth`] says whether a batch is large enough, the [`Schedule`] gives the multiplier of a step, the [`CollapseWatch`] tells a run
//! that is ruined from one that is slow.

mod accumulate;
mod adafactor;
mod adagrad;
mod adagrad_norm;
mod adamax;
mod adamw;
mod allora;
mod amsgrad;
mod batch;
mod collapse;
mod dadapt_adafactor;
mod dadapt_adagrad;
mod dadapt_adam;
mod dadapt_adam_preprint;
mod dadapt_adan;
mod dadapt_adan_ip;
mod dadapt_dual_averaging;
mod dadapt_gd;
mod dadapt_lion;
mod dadapt_sgd;
mod dog;
mod dowg;
mod estimate;
mod factored;
mod flora;
mod host;
mod laprop;
mod loft;
mod momo;
mod momo_adam;
mod oasis;
mod pairs;
mod prodigy;
mod rounded;
mod schedule;
mod schedule_free_adamw;
mod schedule_free_sgd;
mod sgd;
mod sketch;

pub use accumulate::Accumulator;
pub use allora::RowNorm;
pub use batch::{BatchGrowth, BatchTest, Spread};
pub use collapse::{CollapseWatch, Verdict};
pub use dadapt_dual_averaging::{DualAveragingBound, DualAveragingForm, dual_averaging_bound};
pub use host::{Groups, Host, HostSettings, Objective};
pub use rounded::StateForm;
pub use schedule::Schedule;
pub use sketch::SketchAccumulator;

use acclimate_core::{AnyOptimiser, AnyTensor, Error, Params, Result, Step, wide};
use burn::tensor::Tensor;

acclimate_core::methods! {
    /// All optimisers.
    pub static METHODS: dyn AnyOptimiser = [
        adafactor::Adafactor,
        adagrad::Adagrad,
        adagrad_norm::AdagradNorm,
        adamax::Adamax,
        adamw::Adamw,
        allora::Allora,
        amsgrad::Amsgrad,
        dadapt_adafactor::DadaptAdafactor,
        dadapt_adagrad::DadaptAdagrad,
        dadapt_adam::DadaptAdam,
        dadapt_adam_preprint::DadaptAdamPreprint,
        dadapt_adan::DadaptAdan,
        dadapt_adan_ip::DadaptAdanIp,
        dadapt_dual_averaging::DadaptDualAveraging,
        dadapt_gd::DadaptGd,
        dadapt_lion::DadaptLion,
        dadapt_sgd::DadaptSgd,
        dog::Dog,
        dowg::Dowg,
        flora::Flora,
        laprop::Laprop,
        loft::Loft,
        momo::Momo,
        momo_adam::MomoAdam,
        oasis::Oasis,
        prodigy::Prodigy,
        schedule_free_adamw::ScheduleFreeAdamw,
        schedule_free_sgd::ScheduleFreeSgd,
        sgd::Sgd,
    ];
}

/// The numbers that a state keeps for a parameter.
fn slot(field: &Params, name: &str) -> Result<Tensor<1>> {
    let tensor = field.any(name).ok_or_else(|| Error::unknown("optimiser state", name, field.names()))?;
    Ok(tensor.elements())
}

/// The same, taken out of the state, so that a step may write over them. What comes of it must be inserted again.
fn take(field: &mut Params, name: &str) -> Result<Tensor<1>> {
    match field.take(name) {
        Some(tensor) => Ok(tensor.into_elements()),
        None => Err(Error::unknown("optimiser state", name, field.names())),
    }
}

/// A step that moves nothing.
fn still(grads: &Params) -> Step {
    Step { movement: grads.zeros_like(), decay_rates: vec![0.0; grads.len()] }
}

/// What a state keeps of a parameter in a shape of its own; none before the first step and after a change of the parameter's size.
fn kept(field: &Params, name: &str, shape: &[usize]) -> Result<Option<AnyTensor>> {
    match field.any(name) {
        Some(tensor) if tensor.shape() != shape => {
            let (what, expected) = (format!("optimiser state of `{name}`"), format!("{shape:?}"));
            Err(Error::Shape { what, expected, got: tensor.shape() })
        }
        tensor => Ok(tensor.cloned()),
    }
}

/// One-number tensors as numbers, fetched from the device in a single read.
fn read(parts: Vec<Tensor<1>>) -> Vec<f64> {
    if parts.is_empty() {
        return vec![];
    }
    let parts = parts.into_iter().map(wide).collect();
    Tensor::cat(parts, 0).to_data().try_into_vec_as::<f64>().expect("cast to f64")
}
