//! Distribution shift: what to do where the rows a model meets are not like those it was fitted on.
//!
//! A method of [`Align`] sees labelled rows of a source and rows of a target without labels (that type has no place for them) and gives
//! back a [`Lesson`], the rows, labels and weights to learn from, and a [`View`], how rows of the target look to the learner.

mod align;
pub mod density;
mod gaussian_weights;
mod kde_weights;
mod kliep;
mod kmm;
mod nearest_weights;
pub mod ratio;
mod rulsif;

pub use align::{Align, Aligned, AnyAlign, AnyView, Host, Lesson, Plain, Source, Target, View};
pub use gaussian_weights::GaussianRatio;
pub use kde_weights::KdeRatio;
pub use kliep::Bells;
pub use rulsif::ULSIF;

acclimate_core::methods! {
    /// All methods of alignment.
    pub static ALIGN: dyn AnyAlign = [
        gaussian_weights::GaussianWeights,
        kde_weights::KdeWeights,
        kliep::Kliep,
        kmm::Kmm,
        nearest_weights::NearestWeights,
        rulsif::Rulsif,
    ] presets [
        rulsif::ULSIF = rulsif::Rulsif { "alpha = 0.0" } ["", "gammas = [0.5]\npenalties = [0.1]"],
    ];
}
