//! Distribution shift: what to do where the rows a model meets are not like those it was fitted on.
//!
//! A method of [`Align`] sees labelled rows of a source and rows of a target without labels (that type has no place for them) and gives
//! back a [`Lesson`], the rows, labels and weights to learn from, and a [`View`], how rows of the target look to the learner.
//! [`Fit`] joins the two with a learner, and methods of [`Score`] say how good a fit is without labels of the target.

mod affine;
mod align;
mod bnm;
mod circular;
mod class_ami;
mod coral;
mod covariance;
mod dasvm;
mod dev;
mod fit;
mod importance_weighted;
mod info_max;
mod joint_pca;
mod kernel;
mod mano;
mod minimise;
mod mix_val;
mod mmd_ls;
mod prediction_entropy;
mod principal;
mod score;
mod soft_neighbourhood;
mod source_only;
mod subspace_alignment;
mod tca;
mod tjm;
mod tsl;

pub use affine::{Affine, Mapped};
pub use align::{Align, Aligned, AnyAlign, AnyView, Host, Lesson, Plain, Source, Target, View};
pub use covariance::{Estimate, ledoit_wolf};
pub use dev::Scaling;
pub use fit::Fit;
pub use kernel::KernelMap;
pub use mix_val::Pairs;
pub use mmd_ls::ClassMaps;
pub use score::{AnyScore, Case, Score};
pub use tsl::Objective;

acclimate_core::methods! {
    /// All methods of alignment.
    pub static ALIGN: dyn AnyAlign = [
        coral::Coral,
        dasvm::Dasvm,
        joint_pca::JointPca,
        mmd_ls::MmdLs,
        source_only::SourceOnly,
        subspace_alignment::SubspaceAlignment,
        tca::Tca,
        tjm::Tjm,
        tsl::Tsl,
    ];
}

acclimate_core::methods! {
    /// All scores without labels of the target.
    pub static SCORES: dyn AnyScore = [
        bnm::Bnm,
        circular::Circular,
        class_ami::ClassAmi,
        dev::Dev,
        importance_weighted::ImportanceWeighted,
        info_max::InfoMax,
        mano::Mano,
        mix_val::MixVal,
        prediction_entropy::PredictionEntropy,
        soft_neighbourhood::SoftNeighbourhood,
    ];
}
