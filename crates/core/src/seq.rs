//! A batch of sequences on its way through a model.

use burn::tensor::{DType, Int, Tensor, TensorData};
use std::sync::Arc;

/// States with what later layers need to know about each position. Prompts lengthen it, dropped tokens shorten it; heads and
/// losses follow `origin`.
#[derive(Clone, Debug)]
pub struct Seq {
    /// States, `[batch, length, width]`.
    pub h: Tensor<3>,
    /// 1 for positions that may be attended to, 0 for padding, `[batch, length]`.
    pub mask: Tensor<2>,
    /// Position numbers, `[batch, length]`.
    pub positions: Tensor<2, Int>,
    /// The input token each position came from, −1 for inserted ones, `[batch, length]`.
    pub origin: Tensor<2, Int>,
    /// Where in its row, cached positions included, the document of each position begins; row after row. Models that read from left
    /// to right look no further back and count positions from there.
    pub starts: Arc<[u32]>,
}

impl Seq {
    /// A fresh sequence whose positions and origins count from zero.
    pub fn new(h: Tensor<3>, mask: Tensor<2>) -> Self {
        let [batch, length, _] = h.dims();
        let row: Vec<i64> = (0..length as i64).collect();
        let device = mask.device();
        let counted = Tensor::<1, Int>::from_data(TensorData::new(row, [length]), &device);
        let counted = counted.unsqueeze::<2>().expand([batch, length]);
        Self { h, mask, positions: counted.clone(), origin: counted, starts: vec![0; batch * length].into() }
    }

    /// The same positions with other states.
    pub fn with(&self, h: Tensor<3>) -> Self {
        Self { h, ..self.clone() }
    }

    /// The same sequence made of documents that begin at the given positions.
    ///
    /// # Panics
    /// When there is not one number per position.
    pub fn starting(self, starts: Arc<[u32]>) -> Self {
        assert_eq!(starts.len(), self.starts.len(), "a start for each position of each row");
        Self { starts, ..self }
    }

    /// What is added to attention scores: 0 for visible keys and a large negative number for hidden ones, `[batch, length]`.
    pub fn hidden(&self) -> Tensor<2> {
        (self.mask.clone() - 1.0) * 1e9
    }

    /// The mean state over the positions that come from input tokens, `[batch, width]`.
    pub fn mean(&self) -> Tensor<2> {
        let real = self.origin.clone().greater_equal_elem(0).float().cast(self.mask.dtype()) * self.mask.clone();
        let weights = real.unsqueeze_dim::<3>(2);
        let sum = (self.h.clone() * weights.clone()).sum_dim(1).squeeze_dim::<2>(1);
        sum / weights.sum_dim(1).squeeze_dim::<2>(1).clamp_min(1.0)
    }

    /// The state that comes from each row's first input token, `[batch, width]`.
    pub fn first(&self) -> Tensor<2> {
        let first = self.origin.clone().equal_elem(0).float().cast(self.dtype());
        (self.h.clone() * first.unsqueeze_dim::<3>(2)).sum_dim(1).squeeze_dim(1)
    }

    /// Puts `extra` positions, `[batch, n, width]`, before all others; they come from nowhere.
    pub fn prepend(&self, extra: Tensor<3>) -> Self {
        let [batch, n, _] = extra.dims();
        let device = self.mask.device();
        let none = Tensor::<2, Int>::full([batch, n], -1, &device);
        let seen = Tensor::<2>::ones([batch, n], (&device, self.mask.dtype()));
        Self {
            h: Tensor::cat(vec![extra, self.h.clone()], 1),
            mask: Tensor::cat(vec![seen, self.mask.clone()], 1),
            positions: Tensor::cat(vec![none.clone(), self.positions.clone()], 1),
            origin: Tensor::cat(vec![none, self.origin.clone()], 1),
            // New positions belong to the first document of their row.
            starts: self.by_row(|row| {
                let first = row.first().copied().unwrap_or(0);
                std::iter::repeat_n(first, n)
                    .chain(row.iter().map(|&s| if s == first { s } else { s + n as u32 }))
                    .collect()
            }),
        }
    }

    /// Keeps the listed positions of every row, in that order.
    pub fn keep(&self, positions: &[usize]) -> Self {
        let at: Vec<i64> = positions.iter().map(|&p| p as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [positions.len()]), &self.mask.device());
        Self {
            h: self.h.clone().select(1, at.clone()),
            mask: self.mask.clone().select(1, at.clone()),
            positions: self.positions.clone().select(1, at.clone()),
            origin: self.origin.clone().select(1, at),
            // Documents keep their order; a start moves up by the positions that are gone before it.
            starts: self.by_row(|row| {
                let moved = |start: u32| positions.iter().filter(|&&p| (p as u32) < start).count() as u32;
                positions.iter().map(|&p| moved(row[p])).collect()
            }),
        }
    }

    /// Starts of every row, changed row by row.
    fn by_row(&self, f: impl Fn(&[u32]) -> Vec<u32>) -> Arc<[u32]> {
        self.starts.chunks(self.mask.dims()[1].max(1)).flat_map(f).collect()
    }

    /// The number type of the states.
    pub fn dtype(&self) -> DType {
        self.h.dtype()
    }
}
