//! What a model that reads from left to right keeps of the positions it has read.

use burn::tensor::{Int, Tensor, TensorData};
use std::sync::Mutex;

/// Keys and values of every attention, in forward order, for the positions read so far. A pass [with one](crate::Pass::cache) reads on
/// where the last one ended.
///
/// For passes without a gradient tape.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Vec<[Tensor<3>; 2]>>);

impl Cache {
    /// How many positions it holds.
    pub fn length(&self) -> usize {
        self.layers().first().map_or(0, |[k, _]| k.dims()[1])
    }

    /// The same positions of some rows of the batch, in the order given; a row may be named more than once.
    pub fn select(&self, rows: &[usize]) -> Self {
        let layers = self.layers();
        let at: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let pick = |x: &Tensor<3>| {
            let at = Tensor::<1, Int>::from_data(TensorData::new(at.clone(), [at.len()]), &x.device());
            x.clone().select(0, at)
        };
        Self(Mutex::new(layers.iter().map(|both| both.each_ref().map(pick)).collect()))
    }

    /// Adds keys and values `[batch, new, features]` of one attention and gives back all of them.
    pub(crate) fn extend(&self, layer: usize, k: Tensor<3>, v: Tensor<3>) -> [Tensor<3>; 2] {
        let mut layers = self.layers();
        let all = match layers.get(layer) {
            Some([before_k, before_v]) => {
                [Tensor::cat(vec![before_k.clone(), k], 1), Tensor::cat(vec![before_v.clone(), v], 1)]
            }
            None => [k, v],
        };
        match layers.get_mut(layer) {
            Some(place) => place.clone_from(&all),
            None => layers.push(all.clone()),
        }
        all
    }

    fn layers(&self) -> std::sync::MutexGuard<'_, Vec<[Tensor<3>; 2]>> {
        self.0.lock().expect("nothing panics while the cache is held")
    }
}
