//! Which rows of a batch a loss rests on, and how much each counts.

use crate::Loss;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What a sum over the kept rows is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// The kept rows: a single one makes a step of full size.
    #[default]
    Kept,
    /// All rows of the batch: few kept rows make a small step.
    Batch,
}

impl Share {
    /// A mean over the kept rows of a batch, divided as this says.
    pub(crate) fn of(self, loss: Loss, batch: usize) -> Loss {
        match self {
            Self::Kept => loss,
            Self::Batch => Loss { value: loss.value * (loss.rows as f64 / batch as f64), ..loss },
        }
    }
}

/// The entropy that a share of the largest possible one, `ln K`, comes to.
pub(crate) fn entropy_bound(share: f64, classes: usize) -> f64 {
    share * (classes as f64).ln()
}

/// One where a number is below the bound, zero elsewhere and where it is not a number.
pub(crate) fn below(numbers: &Tensor<1>, bound: f64) -> Tensor<1> {
    numbers.zeros_like().mask_fill(numbers.clone().lower_elem(bound), 1.0)
}

/// The cosine between each row `[rows, width]` and a vector `[width]`.
pub(crate) fn cosine(rows: Tensor<2>, vector: &Tensor<1>) -> Tensor<1> {
    (unit(rows) * unit(vector.clone().unsqueeze_dim::<2>(0))).sum_dim(1).squeeze_dim::<1>(1)
}

/// Each row at length one; a row of zeros stays so, and has no gradient.
pub(crate) fn unit(rows: Tensor<2>) -> Tensor<2> {
    // As torch's: no length below 1e-12 divides. The square is what is bounded: the root of zero has no gradient.
    let length = rows.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
    rows / length
}

/// The mean of the rows that `keep` (0 or 1, `[rows]`) tells, `[width]`. At least one must be kept.
pub(crate) fn mean_of_kept(rows: Tensor<2>, keep: &Tensor<1>) -> Tensor<1> {
    // A row that is left out has no share, even where it is not finite.
    let left_out = keep.clone().equal_elem(0.0).unsqueeze_dim::<2>(1).expand(rows.dims());
    (rows.mask_fill(left_out, 0.0).sum_dim(0) / keep.clone().sum().unsqueeze_dim::<2>(1)).squeeze_dim::<1>(0)
}
