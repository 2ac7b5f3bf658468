//! A pull back to the start, stronger where the start was sure of itself.

use crate::{Host, Loss, loss::likeliest};
use acclimate_core::{AnyTensor, Inputs, Params, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which gradients are squared for the importance of a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Squares {
    /// Those of a batch's mean loss: about `1/B` of the others, so that a weight for them belongs to a batch size.
    #[default]
    Batch,
    /// Those of each row's loss. Costs a pass for each row.
    Row,
}

/// The mean square of gradients of the cross-entropy with the model's own likeliest class over the host's reference batches, a diagonal
/// of the Fisher information.
///
/// # Errors
/// As [`Host::gradient`].
pub(crate) fn fisher(host: &mut Host<'_>, squares: Squares) -> Result<Params> {
    let mut sum = host.patch().params.zeros_like();
    let mut count = 0.0;
    for batch in host.reference_batches() {
        let rows = match squares {
            Squares::Batch => vec![None],
            Squares::Row => (0..host.forward(batch)?.rows()).map(Some).collect(),
        };
        for row in rows {
            if let Some(gradients) = gradients(host, batch, row)? {
                sum = sum.zip(&gradients, |sum, g| sum + g.square());
                count += 1.0;
            }
        }
    }
    Ok(sum.map(|_, sum| AnyTensor::from_elements(sum.elements() / count)))
}

/// The gradients of a batch's mean loss, or of one row's.
fn gradients(host: &mut Host<'_>, batch: &Inputs, row: Option<usize>) -> Result<Option<Params>> {
    let (_, gradient) = host.gradient(|taped| {
        let seen = taped.forward(batch)?;
        let losses = likeliest(seen.logits.clone()).neg();
        let loss = Loss::mean(match row {
            Some(row) => losses.narrow(0, row, 1),
            None => losses,
        });
        Ok((seen, Some(loss)))
    })?;
    Ok(gradient.map(|gradient| gradient.gradients))
}

/// `Σⱼ Fⱼ·(θⱼ − θ⁰ⱼ)²` over all tensors, one number.
pub(crate) fn pull(fisher: &Params, params: &Params, start: &Params) -> Option<Tensor<1>> {
    let tensors = fisher.iter().zip(params.iter()).zip(start.iter());
    let parts = tensors
        .map(|(((_, f), (_, now)), (_, start))| (f.elements() * (now.elements() - start.elements()).square()).sum());
    parts.reduce(|sum, part| sum + part)
}
