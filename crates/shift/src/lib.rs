//! Distribution shift: what to do where the rows a model meets are not like those it was fitted on.
//!
//! A method of [`Align`] sees labelled rows of a source and rows of a target without labels (that type has no place for them) and gives
//! back a [`Lesson`], the rows, labels and weights to learn from, and a [`View`], how rows of the target look to the learner.
//! [`Fit`] joins the two with a learner, and methods of [`Score`] say how good a fit is without labels of the target.
//! [`Diagnosis`] says which kinds of shift the rows leave open. [`CALCULATORS`] compute from what they are given.

mod affine;
mod align;
mod bbse;
mod bnm;
mod calculator;
mod circular;
mod class_ami;
mod class_reg_ot;
mod coral;
mod coupling;
mod covariance;
mod dasvm;
pub mod density;
mod dev;
mod diagnosis;
mod discriminator_weights;
mod elsa;
mod em;
mod ent_ot;
mod entanglement;
mod explained;
mod explanation;
mod few_shot;
mod fit;
mod gaussian_weights;
mod importance_weighted;
mod info_max;
mod jdot;
mod joint_pca;
mod kde_weights;
mod kernel;
mod kliep;
mod kmm;
mod lin_ot;
mod loki;
mod mano;
mod map_ot;
mod minimise;
mod mix_val;
mod mmd_ls;
mod mmd_tars;
mod nearest_weights;
mod ot_label_prop;
mod prediction_entropy;
mod principal;
pub mod prior;
mod projektor;
pub mod ratio;
mod retasa;
mod rlls;
mod rulsif;
mod score;
mod simulated;
mod soft_neighbourhood;
mod source_only;
mod subspace_alignment;
mod tca;
mod tjm;
mod tsl;

pub use affine::{Affine, Mapped};
pub use align::{Align, Aligned, AnyAlign, AnyView, Host, Lesson, Plain, Source, Target, View};
pub use calculator::{AnyCalculator, Calculator};
pub use coupling::{Moves, Norm};
pub use covariance::{Estimate, ledoit_wolf};
pub use dev::Scaling;
pub use diagnosis::{ChangeTest, Diagnosis, DiagnosisSettings, KindFinding, Pair, Standing};
pub use ent_ot::EntropicMap;
pub use entanglement::{Conditional, Entangled, Penalty};
pub use explained::Moved;
pub use explanation::{Candidate, Explanation, Kind};
pub use few_shot::Shots;
pub use fit::Fit;
pub use gaussian_weights::GaussianRatio;
pub use jdot::Pricing;
pub use kde_weights::KdeRatio;
pub use kernel::KernelMap;
pub use kliep::Bells;
pub use loki::{LabelGraph, LabelTree};
pub use mix_val::Pairs;
pub use mmd_ls::ClassMaps;
pub use projektor::{Distance, Mixture, Mixtures, Pilot, Scale, Surface};
pub use retasa::TargetShift;
pub use rulsif::ULSIF;
pub use score::{AnyScore, Case, Score};
pub use simulated::{ShiftKind, ShiftedPair, ShiftedSplit};
pub use tsl::Objective;

acclimate_core::methods! {
    /// All methods of alignment.
    pub static ALIGN: dyn AnyAlign = [
        bbse::Bbse,
        class_reg_ot::ClassRegOt,
        coral::Coral,
        dasvm::Dasvm,
        discriminator_weights::DiscriminatorWeights,
        elsa::Elsa,
        em::Em,
        ent_ot::EntOt,
        explained::Explained,
        gaussian_weights::GaussianWeights,
        jdot::Jdot,
        joint_pca::JointPca,
        kde_weights::KdeWeights,
        kliep::Kliep,
        kmm::Kmm,
        lin_ot::LinOt,
        map_ot::MapOt,
        mmd_ls::MmdLs,
        mmd_tars::MmdTars,
        nearest_weights::NearestWeights,
        ot_label_prop::OtLabelProp,
        retasa::Retasa,
        rlls::Rlls,
        rulsif::Rulsif,
        source_only::SourceOnly,
        subspace_alignment::SubspaceAlignment,
        tca::Tca,
        tjm::Tjm,
        tsl::Tsl,
    ] presets [
        rulsif::ULSIF = rulsif::Rulsif { "alpha = 0.0" } ["", "gammas = [0.5]\npenalties = [0.1]"],
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

acclimate_core::methods! {
    /// All methods that compute from what they are given.
    pub static CALCULATORS: dyn AnyCalculator = [entanglement::Entanglement, few_shot::FewShot, loki::Loki, projektor::Projektor];
}
