//! Features that a method remembers, with their classes.

use acclimate_core::{AnyTensor, Error, Params, Record, Result};
use burn::tensor::{Int, Tensor, TensorData};

/// Rows of features of length one, each with a class: those given at the start, then those taken in since, the oldest first.
#[derive(Clone, Debug, Record)]
pub struct FeatureMemory {
    #[record(own)]
    rows: Params,
    classes: Vec<f64>,
    given: u64,
}

const FEATURES: &str = "features";

impl FeatureMemory {
    /// A memory of these features `[rows, width]`.
    ///
    /// # Errors
    /// When there is not a class for each row.
    pub fn new(features: Tensor<2>, classes: &[usize]) -> Result<Self> {
        let mut rows = Params::default();
        rows.insert(FEATURES, unit(features));
        let classes: Vec<f64> = classes.iter().map(|class| *class as f64).collect();
        let memory = Self { rows, given: classes.len() as u64, classes };
        let held = memory.features()?.dims()[0];
        if held == memory.classes.len() {
            return Ok(memory);
        }
        let what = "classes of remembered features".to_owned();
        Err(Error::Shape { what, expected: format!("[{held}]"), got: vec![memory.classes.len()] })
    }

    /// How many rows it holds.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// How many of its rows were given at the start.
    pub fn given(&self) -> usize {
        self.given as usize
    }

    /// The class of each row.
    pub fn classes(&self) -> impl Iterator<Item = usize> {
        self.classes.iter().map(|class| *class as usize)
    }

    /// Takes in the rows of `features` `[rows, width]` that are named with their classes.
    ///
    /// # Errors
    /// When the width is another.
    pub fn append(&mut self, features: &Tensor<2>, named: &[(usize, usize)]) -> Result<()> {
        if named.is_empty() {
            return Ok(());
        }
        let held = self.features()?;
        if held.dims()[1] != features.dims()[1] {
            let (what, got) = ("features to remember".to_owned(), features.dims().to_vec());
            return Err(Error::Shape { what, expected: format!("[rows, {}]", held.dims()[1]), got });
        }
        let more = unit(selected(features, named.iter().map(|(row, _)| *row)));
        self.rows.insert(FEATURES, Tensor::cat(vec![held, more], 0));
        self.classes.extend(named.iter().map(|(_, class)| *class as f64));
        Ok(())
    }

    /// Forgets the oldest rows that were taken in, until at most `most` of those are left.
    ///
    /// # Errors
    /// Never, unless a saved memory was damaged.
    pub fn cap(&mut self, most: usize) -> Result<()> {
        let (given, taken) = (self.given(), self.len() - self.given());
        if taken > most {
            let first = given + taken - most;
            let kept = selected(&self.features()?, (0..given).chain(first..self.len()));
            self.rows.insert(FEATURES, kept);
            self.classes.drain(given..first);
        }
        Ok(())
    }

    /// The `k` rows nearest in direction to each query `[queries, width]`, the nearest first, each with its cosine; of equals the oldest.
    ///
    /// # Errors
    /// When the width is another.
    pub fn nearest(&self, queries: &Tensor<2>, k: usize) -> Result<Vec<Vec<(usize, f64)>>> {
        let held = self.features()?;
        if held.dims()[1] != queries.dims()[1] {
            let (what, got) = ("features to look up".to_owned(), queries.dims().to_vec());
            return Err(Error::Shape { what, expected: format!("[rows, {}]", held.dims()[1]), got });
        }
        let cosines = AnyTensor::from(unit(queries.clone()).matmul(held.transpose())).to_f64s();
        let near = |cosines: &[f64]| {
            let mut all: Vec<(usize, f64)> = cosines.iter().copied().enumerate().collect();
            let order = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            if k < all.len() {
                all.select_nth_unstable_by(k, order);
                all.truncate(k);
            }
            all.sort_unstable_by(order);
            all
        };
        Ok(cosines.chunks(self.len().max(1)).map(near).collect())
    }

    fn features(&self) -> Result<Tensor<2>> {
        self.rows.get(FEATURES)
    }
}

/// Every row divided by its length.
fn unit(features: Tensor<2>) -> Tensor<2> {
    let lengths = features.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    features / lengths
}

/// Rows of a matrix, in this order.
pub(crate) fn selected(matrix: &Tensor<2>, rows: impl IntoIterator<Item = usize>) -> Tensor<2> {
    let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
    let count = rows.len();
    matrix.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &matrix.device()))
}
