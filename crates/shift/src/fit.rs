//! A method of alignment and a learner, fitted one after the other.

use crate::{Aligned, AnyAlign, AnyView, Host, Lesson, Source, Target};
use acclimate_core::{Error, Result};
use acclimate_stats::learn::{Fitted, Learner, largest};
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;

/// An aligned lesson and the learner that was fitted on it.
#[derive(Debug)]
pub struct Fit {
    /// What the learner was fitted on.
    pub lesson: Lesson,
    /// Named numbers of the method.
    pub facts: Vec<(String, f64)>,
    /// How rows are shown to the learner.
    pub view: Box<dyn AnyView>,
    learner: Box<dyn Fitted>,
}

/// The form in which a [`Fit`] is saved.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    lesson: Lesson,
    facts: Vec<(String, f64)>,
    view: serde_json::Value,
    learner: serde_json::Value,
}

impl Fit {
    /// Aligns and fits the host's learner on the lesson.
    ///
    /// # Errors
    /// The method's and the learner's own.
    pub fn new(method: &dyn AnyAlign, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Self> {
        let Aligned { lesson, facts, view } = method.align_any(source, target, host)?;
        let learner = host.learn(&lesson)?;
        let facts = facts.into_iter().map(|(name, number)| (name.to_owned(), number)).collect();
        Ok(Self { lesson, facts, view, learner })
    }

    /// Answers to rows of the target: of classes probabilities, `[rows, classes]`, of numbers `[rows, 1]`.
    ///
    /// # Errors
    /// When rows have another width than at the fit.
    pub fn answers(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.view.correct(self.learner.answers(self.view.show(rows)?.view())?)
    }

    /// What decides about rows of the target, the largest of each row: the learner's decisions, or the answers where the view corrects
    /// them.
    ///
    /// # Errors
    /// As [`Fit::answers`].
    pub fn decisions(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let shown = self.view.show(rows)?;
        let answers = self.learner.answers(shown.view())?;
        let corrected = self.view.correct(answers.clone())?;
        if corrected == answers { self.learner.decisions(shown.view()) } else { Ok(corrected) }
    }

    /// The class of each row of the target.
    ///
    /// # Errors
    /// As [`Fit::answers`].
    pub fn predict(&self, rows: ArrayView2<'_, f64>) -> Result<Vec<usize>> {
        Ok(largest(self.decisions(rows)?.view()))
    }

    /// Answers to rows of the source, which the view shows as such and does not correct.
    ///
    /// # Errors
    /// As [`Fit::answers`].
    pub fn source_answers(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.learner.answers(self.view.show_source(rows)?.view())
    }

    /// The class of each row of the source.
    ///
    /// # Errors
    /// As [`Fit::answers`].
    pub fn source_predict(&self, rows: ArrayView2<'_, f64>) -> Result<Vec<usize>> {
        Ok(largest(self.learner.decisions(self.view.show_source(rows)?.view())?.view()))
    }

    /// All that was fitted, so that it is read back bit for bit.
    pub fn save(&self) -> serde_json::Value {
        let Self { lesson, facts, view, learner } = self;
        serde_json::json!({ "lesson": lesson, "facts": facts, "view": view.save(), "learner": learner.save() })
    }

    /// What [`Fit::save`] gave, with the method and the learner it was made with.
    ///
    /// # Errors
    /// When it has another form.
    pub fn restore(saved: serde_json::Value, method: &dyn AnyAlign, learner: &dyn Learner) -> Result<Self> {
        let Saved { lesson, facts, view, learner: fitted } = serde_json::from_value(saved).map_err(|e| {
            Error::Other(format!("{}: the saved fit cannot be read ({e}); fit again", method.card().name))
        })?;
        Ok(Self { lesson, facts, view: method.restore(view)?, learner: learner.restore(fitted)? })
    }
}
