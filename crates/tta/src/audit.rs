//! What a stream is about to change, told before it does.

use crate::{AnyTestTime, Host};
use acclimate_core::{AnyState, Need, Role, SiteKind};
use serde::{Deserialize, Serialize};

/// Which tensors a stream moves and whose statistics its batch norms take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// The trained tensors.
    pub tensors: Vec<Moving>,
    /// Batch norms of the model.
    pub batch_norms: usize,
    /// Whose statistics they take: those of each batch, or what a method makes of them. Without batch norms there is nothing to take.
    pub statistics: Option<String>,
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moving {
    /// Its name.
    pub name: String,
    /// What it is to its layer.
    pub role: Role,
    /// How many numbers it holds.
    pub numbers: usize,
    /// The mean magnitude of its gradient in the first pass back; absent before it, or where it is not finite.
    pub gradient: Option<f64>,
}

impl Audit {
    /// How many numbers may move.
    pub fn numbers(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.numbers).sum()
    }

    pub(crate) fn of(method: &dyn AnyTestTime, host: &Host<'_>, state: &dyn AnyState) -> Self {
        let trained = host.trained();
        let slope = |name: &str| host.slopes()?.get(name).copied().filter(|slope| slope.is_finite());
        let moving = trained.iter().map(|(name, tensor)| Moving {
            name: name.to_owned(),
            role: host.patch().role(name),
            numbers: tensor.count(),
            gradient: slope(name),
        });
        // What trains nothing leaves its patch alone.
        let tensors = if method.card().needs(Need::Gradients) { moving.collect() } else { vec![] };
        let batch_norms = host.model().sites().iter().filter(|site| site.kind == SiteKind::BatchNorm).count();
        // A method that can lend its statistics works under them itself.
        let lends = || method.under_any(state.boxed().as_mut(), &mut |_| Ok(())).is_ok();
        let statistics = match host.statistics_of() {
            _ if batch_norms == 0 => None,
            Some(other) => Some(format!("the method `{other}`")),
            None if lends() => Some(format!("the method `{}`", method.card().name)),
            None => Some("each batch".to_owned()),
        };
        Self { tensors, batch_norms, statistics }
    }
}
