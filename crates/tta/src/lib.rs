//! Test-time adaptation: a deployed model keeps up with inputs that drift, without labels.
//!
//! A method sees unlabelled batches and a [`Host`]; the [`Stream`] runs it, resets it and keeps the books.
mod audit;
mod batch_statistics;
mod dynamic_evaluation;
mod host;
mod loss;
mod method;
mod stream;
mod tent;
mod text;

pub use audit::{Audit, Moving};
pub use dynamic_evaluation::Rule;
pub use host::{Counts, Gradient, Host, Loss, Seen, Taped};
pub use loss::entropy;
pub use method::{AnyTestTime, TestTime, Trains};
pub use stream::{Event, Report, Reset, Stream, Watch};
pub use text::{losses, scored, segments};

acclimate_core::methods! {
    /// All test-time methods.
    pub static METHODS: dyn AnyTestTime = [batch_statistics::BatchStatistics, dynamic_evaluation::DynamicEvaluation, tent::Tent];
}
