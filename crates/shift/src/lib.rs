//! Distribution shift: what to do where the rows a model meets are not like those it was fitted on.
//!
//! A method of [`Align`] sees labelled rows of a source and rows of a target without labels (that type has no place for them) and gives
//! back a [`Lesson`], the rows, labels and weights to learn from, and a [`View`], how rows of the target look to the learner.

mod align;

pub use align::{Align, Aligned, AnyAlign, AnyView, Host, Lesson, Plain, Source, Target, View};
