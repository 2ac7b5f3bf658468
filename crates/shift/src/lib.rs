//! Distribution shift: what to do where the rows a model meets are not like those it was fitted on.
//!
//! A method of [`Align`] sees labelled rows of a source and rows of a target without labels (that type has no place for them) and gives
//! back a [`Lesson`], the rows, labels and weights to learn from, and a [`View`], how rows of the target look to the learner.
//! [`Fit`] joins the two with a learner, and methods of [`Score`] say how good a fit is without labels of the target.

mod align;
<<<<<<< HEAD
mod bbse;
pub mod density;
mod elsa;
mod em;
=======
mod explanation;
>>>>>>> main
mod fit;
mod gaussian_weights;
mod kde_weights;
mod kliep;
mod kmm;
mod mmd_tars;
mod nearest_weights;
mod prediction_entropy;
pub mod prior;
pub mod ratio;
mod retasa;
mod rlls;
mod rulsif;
mod score;
mod simulated;
mod source_only;

pub use align::{Align, Aligned, AnyAlign, AnyView, Host, Lesson, Plain, Source, Target, View};
pub use explanation::{Affine, Candidate, Explanation, Kind};
pub use fit::Fit;
pub use gaussian_weights::GaussianRatio;
pub use kde_weights::KdeRatio;
pub use kliep::Bells;
pub use retasa::TargetShift;
pub use rulsif::ULSIF;
pub use score::{AnyScore, Case, Score};
pub use simulated::{ShiftKind, ShiftedPair, ShiftedSplit};

acclimate_core::methods! {
    /// All methods of alignment.
    pub static ALIGN: dyn AnyAlign = [
        bbse::Bbse,
        elsa::Elsa,
        em::Em,
        gaussian_weights::GaussianWeights,
        kde_weights::KdeWeights,
        kliep::Kliep,
        kmm::Kmm,
        mmd_tars::MmdTars,
        nearest_weights::NearestWeights,
        retasa::Retasa,
        rlls::Rlls,
        rulsif::Rulsif,
        source_only::SourceOnly,
    ] presets [
        rulsif::ULSIF = rulsif::Rulsif { "alpha = 0.0" } ["", "gammas = [0.5]\npenalties = [0.1]"],
    ];
}

acclimate_core::methods! {
    /// All scores without labels of the target.
    pub static SCORES: dyn AnyScore = [prediction_entropy::PredictionEntropy];
}
