//! What merging does to numbers.

use serde::{Deserialize, Serialize};

/// What merging does to numbers. Norms are Frobenius norms, summed in double precision; `W` is the model's weight, `W'` the merged one before
/// and `R` after it is rounded to the type in which it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `‖W'−W‖ / ‖W‖`; absent where `W` is zero.
    pub relative: Option<f64>,
    /// The largest `|W'−W|`.
    pub largest: f64,
    /// `‖R−W'‖ / ‖W'−W‖`, the share of the change that rounding loses; absent where nothing changes.
    pub lost: Option<f64>,
    /// `‖R−W'‖ / ‖W'‖`; absent where `W'` is zero.
    pub rounding: Option<f64>,
}

/// What merging does to a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorDrift {
    /// The tensor's name.
    pub tensor: String,
    /// The parts of the patch that change it.
    pub parts: Vec<String>,
    /// How its numbers are stored in the model.
    pub from: String,
    /// How they are written.
    pub to: String,
    /// SHA-256 of the bytes that are written.
    pub sha256: String,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// What happens to the tensors that the patch leaves alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Untouched {
    /// How many there are.
    pub tensors: usize,
    /// `‖R−W‖ / ‖W‖` over those that are written in another type; absent where there are none.
    pub rounding: Option<f64>,
}

/// What merging does to a model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The tensors that a method stands at, by name. A bias that stays as it is is not among them.
    pub tensors: Vec<TensorDrift>,
    /// All of them together.
    pub total: Change,
    /// The other tensors.
    pub untouched: Untouched,
    /// Sentences about what is not in the merged checkpoint.
    pub notes: Vec<String>,
}

/// Sums of squares of a tensor, or of many.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) change: f64,
    pub(super) error: f64,
    pub(super) largest: f64,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.before += other.before;
        self.after += other.after;
        self.change += other.change;
        self.error += other.error;
        self.largest = self.largest.max(other.largest);
    }

    pub(super) fn change(&self) -> Change {
        Change {
            relative: share(self.change, self.before),
            largest: self.largest,
            lost: share(self.error, self.change),
            rounding: share(self.error, self.after),
        }
    }
}

/// The root of one sum of squares over another's.
pub(super) fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole).sqrt())
}
