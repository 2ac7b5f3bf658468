//! Test-time adaptation: a deployed model keeps up with inputs that drift, without labels.
//!
//! A method sees unlabelled batches and a [`Host`]; the [`Stream`] runs it, resets it and keeps the books.
mod adanpc;
mod alpha_bn;
mod batch_statistics;
mod core;
mod domainadaptor;
mod dynamic_evaluation;
mod host;
mod iabn;
mod lame;
mod loss;
mod memory;
mod method;
mod note;
mod robust_bn;
mod statistics;
mod stream;
mod t3a;
mod tent;
mod text;
mod unmix_tns;

pub use adanpc::AdanpcCompat;
pub use domainadaptor::{DomainadaptorCompat, Gem};
pub use dynamic_evaluation::Rule;
pub use host::{Counts, Gradient, Host, Loss, Seen, Taped};
pub use lame::Affinity;
pub use loss::entropy;
pub use memory::FeatureMemory;
pub use method::{AnyTestTime, TestTime, Trains};
pub use stream::{Event, Report, Reset, Stream, Watch};
pub use text::{losses, scored, segments};

acclimate_core::methods! {
    /// All test-time methods.
    pub static METHODS: dyn AnyTestTime = [adanpc::Adanpc, alpha_bn::AlphaBn, batch_statistics::BatchStatistics, core::Core, domainadaptor::Domainadaptor, dynamic_evaluation::DynamicEvaluation, iabn::Iabn, lame::Lame, note::Note, robust_bn::RobustBn, t3a::T3a, tent::Tent, unmix_tns::UnmixTns];
}
