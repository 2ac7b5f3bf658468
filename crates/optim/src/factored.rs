//! The second moment of gradients in the memory of a row and a column.
//!
//! Of a matrix the running means of its squares along each row and each column are kept, and $V_{ij} \approx R_i C_j / \bar R$, which is the
//! nearest of rank one in the sense of the I-divergence. A tensor of more axes is a matrix of its first axis and the rest; of one axis
//! everything is kept. What is missing is begun anew.

use crate::kept;
use acclimate_core::{AnyTensor, Params, Result};
use burn::tensor::{DType, Tensor};

/// How squares enter a running mean.
#[derive(Clone, Copy)]
pub(crate) struct Weights {
    /// What the mean keeps of itself; the squares enter by the rest.
    pub(crate) keep: f64,
    /// The weight of the squares where there is no mean yet.
    pub(crate) first: f64,
}

/// Adds the squares of a parameter to its means.
pub(crate) fn add([rows, columns]: [&mut Params; 2], name: &str, squares: &AnyTensor, weights: Weights) -> Result<()> {
    let Some(matrix) = matrix(squares) else { return mix(rows, name, squares, weights) };
    mix(rows, name, &matrix.clone().mean_dim(1).into(), weights)?;
    mix(columns, name, &matrix.mean_dim(0).into(), weights)
}

/// The root of the second moment of a parameter of this shape; none before its first squares.
///
/// The root of each factor is taken before their product, which would underflow in single precision.
pub(crate) fn root([rows, columns]: [&Params; 2], name: &str, shape: &[usize]) -> Result<Option<Tensor<1>>> {
    let Some(row) = rows.any(name) else { return Ok(None) };
    if shape.len() < 2 {
        return Ok(Some(row.elements().sqrt()));
    }
    let (row, column): (Tensor<2>, Tensor<2>) = (rows.get(name)?, columns.get(name)?);
    let smallest = if row.dtype() == DType::F64 { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) };
    let share = row.clone() / row.mean_dim(0).clamp_min(smallest);
    let root = share.sqrt() * column.sqrt();
    Ok(Some(AnyTensor::from(root).reshaped(shape).into_elements()))
}

/// How many numbers are kept for a parameter of this shape.
pub(crate) fn size(shape: &[usize]) -> usize {
    match shape {
        [rows, rest @ ..] if !rest.is_empty() => rows + rest.iter().product::<usize>(),
        _ => shape.iter().product(),
    }
}

fn matrix(tensor: &AnyTensor) -> Option<Tensor<2>> {
    match tensor.shape().as_slice() {
        [rows, rest @ ..] if !rest.is_empty() => tensor.reshaped(&[*rows, rest.iter().product()]).get(),
        _ => None,
    }
}

fn mix(field: &mut Params, name: &str, new: &AnyTensor, Weights { keep, first }: Weights) -> Result<()> {
    let mean = match kept(field, name, &new.shape())? {
        Some(old) => old.elements() * keep + new.elements() * (1.0 - keep),
        None => new.elements() * first,
    };
    field.insert(name, AnyTensor::from_elements(mean));
    Ok(())
}
