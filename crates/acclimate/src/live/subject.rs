//! Who answers: the patched model of a run, a model with a head of its own, or what a foreign model said.

use super::Plan;
use crate::dataset::Loaded;
use crate::recipe::{Recipe, TaskKind};
use crate::saved::Answering;
use acclimate_core::{Error, Model, Patch, Result};
use acclimate_data::{Assets, NpyRows};
use acclimate_models::SavedOutputs;

/// What the arrays of saved outputs may be called, the likeliest first.
pub(super) const LOGITS: [&str; 3] = ["logits", "x", "arr_0"];
pub(super) const FEATURES: [&str; 3] = ["features", "x", "arr_0"];

/// Who answers.
pub enum Subject {
    /// The patched model of a run.
    Run(Box<Answering>),
    /// A model with a head of its own.
    Model(Box<Loaded>),
    /// Saved outputs of a foreign model.
    Saved(SavedOutputs),
}

impl Subject {
    pub(super) fn open(plan: &Plan, assets: &Assets) -> Result<Self> {
        if let Some(logits) = &plan.logits {
            let classes = NpyRows::required(logits, &LOGITS)?.width();
            let width = match &plan.features {
                Some(features) => NpyRows::required(features, &FEATURES)?.width(),
                // Without features the logits stand for them.
                None => classes,
            };
            return Ok(Self::Saved(SavedOutputs::new(width, classes)));
        }
        if let Some(run) = &plan.run {
            let answering = Answering::open(run, plan.model.as_deref(), assets.offline())?;
            if answering.task.kind() != TaskKind::Classification {
                return Err(Error::Unsupported {
                    who: run.display().to_string(),
                    what: "answer a stream: its task is not to name one class".to_owned(),
                    instead: "name a run whose task is `classification`".to_owned(),
                });
            }
            return Ok(Self::Run(Box::new(answering)));
        }
        let name = plan.model.as_deref().unwrap_or_default();
        let loaded = Loaded::open(name, plan.base, Recipe::default().max_length, assets)?;
        if loaded.model.outputs().is_none() {
            return Err(Error::Unsupported {
                who: name.to_owned(),
                what: "answer a stream: it has no head of its own".to_owned(),
                instead: "tune one first, and name its folder with `--run`".to_owned(),
            });
        }
        Ok(Self::Model(Box::new(loaded)))
    }

    /// The frozen model.
    pub fn model(&self) -> &dyn Model {
        match self {
            Self::Run(answering) => answering.loaded.model.as_ref(),
            Self::Model(loaded) => loaded.model.as_ref(),
            Self::Saved(saved) => saved,
        }
    }

    pub(super) fn loaded(&self) -> Option<&Loaded> {
        match self {
            Self::Run(answering) => Some(&answering.loaded),
            Self::Model(loaded) => Some(loaded),
            Self::Saved(_) => None,
        }
    }

    /// The deployed patch.
    pub fn tuned(&self) -> Option<&Patch> {
        match self {
            Self::Run(answering) => Some(&answering.patch),
            Self::Model(_) | Self::Saved(_) => None,
        }
    }

    /// The names of the classes, where a task tells them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Run(answering) => answering.task.classes(),
            Self::Model(_) | Self::Saved(_) => &[],
        }
    }

    /// The class that a label means: one of the names, or else its place.
    pub(super) fn class(&self, label: &str) -> Option<usize> {
        let classes = if self.names().is_empty() { self.model().outputs()? } else { self.names().len() };
        let place = || label.trim().parse::<f64>().ok().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as usize);
        let named = self.names().iter().position(|name| name == label);
        named.or_else(place).filter(|&class| class < classes)
    }
}
