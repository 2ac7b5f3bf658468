//! Test-time adaptation: a deployed model keeps up with inputs that drift, without labels.
//!
//! A method sees unlabelled batches and a [`Host`]; the [`Stream`] runs it, resets it and keeps the books.
mod adanpc;
mod alpha_bn;
mod anchor;
mod audit;
mod augment;
mod batch_statistics;
mod cafa;
mod core;
mod correlation;
mod cotta;
mod deyo;
mod domainadaptor;
mod dynamic_evaluation;
mod eata;
mod filter;
mod gala;
mod gate;
mod gaussians;
mod host;
mod iabn;
mod lame;
mod loss;
mod memory;
mod method;
mod note;
mod ostta;
mod prototypes;
mod recap;
mod rmt;
mod robust_bn;
mod roid;
mod sar;
mod self_learning;
mod shot;
mod statistics;
mod stream;
mod t3a;
mod teacher;
mod tent;
mod text;
mod unmix_tns;

pub use adanpc::AdanpcCompat;
pub use anchor::Squares;
pub use audit::{Audit, Moving};
pub use cafa::Ratio;
pub use cotta::Unsure;
pub use domainadaptor::{DomainadaptorCompat, Gem};
pub use dynamic_evaluation::Rule;
pub use filter::Share;
pub use gala::Layers;
pub use gate::{GateSettings, Gated};
pub use gaussians::Covariance;
pub use host::{Counts, Gradient, Host, Loss, Seen, Taped};
pub use lame::Affinity;
pub use loss::{Objective, entropy};
pub use memory::FeatureMemory;
pub use method::{AnyTestTime, TestTime, Trains};
pub use self_learning::Teaching;
pub use stream::{Event, Report, Reset, Stream, Watch};
pub use text::{losses, scored, segments};

acclimate_core::methods! {
    /// All test-time methods.
    pub static METHODS: dyn AnyTestTime = [adanpc::Adanpc, alpha_bn::AlphaBn, batch_statistics::BatchStatistics, cafa::Cafa, core::Core, cotta::Cotta, deyo::Deyo, domainadaptor::Domainadaptor, dynamic_evaluation::DynamicEvaluation, eata::Eata, gala::Gala, iabn::Iabn, lame::Lame, note::Note, ostta::Ostta, recap::Recap, rmt::Rmt, robust_bn::RobustBn, roid::Roid, sar::Sar, self_learning::SelfLearning, shot::Shot, t3a::T3a, tent::Tent, unmix_tns::UnmixTns];
}
