//! Test-time adaptation: a deployed model keeps up with inputs that drift, without labels.
//!
//! A method sees unlabelled batches and a [`Host`]; the [`Stream`] runs it, resets it and keeps the books.
mod anchor;
mod augment;
mod batch_statistics;
mod cafa;
mod cotta;
mod deyo;
mod dynamic_evaluation;
mod eata;
mod filter;
mod gala;
mod gaussians;
mod host;
mod loss;
mod method;
mod ostta;
mod prototypes;
mod recap;
mod rmt;
mod roid;
mod sar;
mod self_learning;
mod shot;
mod stream;
mod teacher;
mod tent;
mod text;

pub use anchor::Squares;
pub use cafa::Ratio;
pub use cotta::Unsure;
pub use dynamic_evaluation::Rule;
pub use filter::Share;
pub use gala::Layers;
pub use gaussians::Covariance;
pub use host::{Counts, Gradient, Host, Loss, Seen, Taped};
pub use loss::{Objective, entropy};
pub use method::{AnyTestTime, TestTime, Trains};
pub use self_learning::Teaching;
pub use stream::{Event, Report, Reset, Stream, Watch};
pub use text::{losses, scored, segments};

acclimate_core::methods! {
    /// All test-time methods.
    pub static METHODS: dyn AnyTestTime = [batch_statistics::BatchStatistics, cafa::Cafa, cotta::Cotta, deyo::Deyo, dynamic_evaluation::DynamicEvaluation, eata::Eata, gala::Gala, ostta::Ostta, recap::Recap, rmt::Rmt, roid::Roid, sar::Sar, self_learning::SelfLearning, shot::Shot, tent::Tent];
}
