//! Distribution shift: what to do where the rows a model meets are not like those it was fitted on.
//!
//! A method of [`Align`] sees labelled rows of a source and rows of a target without labels (that type has no place for them) and gives
//! back a [`Lesson`], the rows, labels and weights to learn from, and a [`View`], how rows of the target look to the learner.
//! [`Fit`] joins the two with a learner, and methods of [`Score`] say how good a fit is without labels of the target.

mod align;
mod calculator;
mod few_shot;
mod fit;
mod loki;
mod prediction_entropy;
mod score;
mod source_only;

pub use align::{Align, Aligned, AnyAlign, AnyView, Host, Lesson, Plain, Source, Target, View};
pub use calculator::{AnyCalculator, Calculator};
pub use few_shot::Shots;
pub use fit::Fit;
pub use loki::{LabelGraph, LabelTree};
pub use score::{AnyScore, Case, Score};

acclimate_core::methods! {
    /// All methods of alignment.
    pub static ALIGN: dyn AnyAlign = [source_only::SourceOnly];
}

acclimate_core::methods! {
    /// All scores without labels of the target.
    pub static SCORES: dyn AnyScore = [prediction_entropy::PredictionEntropy];
}

acclimate_core::methods! {
    /// All methods that compute from what they are given.
    pub static CALCULATORS: dyn AnyCalculator = [few_shot::FewShot, loki::Loki];
}
