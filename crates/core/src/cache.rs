//! What a model that reads from left to right keeps of the positions it has read.

use burn::tensor::{Int, Tensor, TensorData};
use std::sync::Mutex;

/// Keys and values of every attention, in forward order, for the positions read so far. A pass [with one](crate::Pass::cache) reads on
/// where the last one ended.
///
/// For passes without a gradient tape.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Positions read.
    length: usize,
    /// Keys and values with room behind them, so that a word more copies none of those before it.
    layers: Vec<[Tensor<3>; 2]>,
}

impl Cache {
    /// How many positions it holds.
    pub fn length(&self) -> usize {
        self.held().length
    }

    /// The same positions of some rows of the batch, in the order given; a row may be named more than once.
    pub fn select(&self, rows: &[usize]) -> Self {
        let held = self.held();
        let at: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let pick = |x: &Tensor<3>| {
            let at = Tensor::<1, Int>::from_data(TensorData::new(at.clone(), [at.len()]), &x.device());
            x.clone().select(0, at)
        };
        let layers = held.layers.iter().map(|both| both.each_ref().map(pick)).collect();
        Self(Mutex::new(Held { length: held.length, layers }))
    }

    /// Adds keys and values `[batch, new, features]` of one attention and gives back all of them. Every attention of a pass must add as
    /// many.
    pub(crate) fn extend(&self, layer: usize, k: Tensor<3>, v: Tensor<3>) -> [Tensor<3>; 2] {
        let mut held = self.held();
        if layer == held.layers.len() {
            if layer == 0 {
                held.length = k.dims()[1];
            }
            held.layers.push([k.clone(), v.clone()]);
            return [k, v];
        }
        // The first attention counts for all.
        if layer == 0 {
            held.length += k.dims()[1];
        }
        let length = held.length;
        let [keys, values] = &mut held.layers[layer];
        [append(keys, length, k), append(values, length, v)]
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().expect("nothing panics while the cache is held")
    }
}

/// Writes `new` as the last of `length` positions of a buffer, and gives them all back.
fn append(buffer: &mut Tensor<3>, length: usize, new: Tensor<3>) -> Tensor<3> {
    let ([batch, room, features], [_, count, _]) = (buffer.dims(), new.dims());
    let before = length - count;
    // Taken out: what is held once is written over in place.
    let mut full = std::mem::replace(buffer, Tensor::empty([0, 0, 0], &new.device()));
    if room < length {
        let larger = Tensor::zeros([batch, length.max(2 * room), features], (&new.device(), new.dtype()));
        full = larger.slice_assign([0..batch, 0..before], full.slice([0..batch, 0..before]));
    }
    full = full.slice_assign([0..batch, before..length], new);
    let all = full.clone().slice([0..batch, 0..length]);
    *buffer = full;
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    #[test]
    fn what_was_read_in_pieces_is_what_was_read() {
        let cache = Cache::default();
        let [rows, features] = [2, 3];
        let numbers = |shape: [usize; 3], from: f64| {
            let values: Vec<f64> = (0..shape.iter().product()).map(|i| from + i as f64).collect();
            Tensor::<3>::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
        };
        let mut expected: [Vec<Tensor<3>>; 2] = [vec![], vec![]];
        for (step, new) in [4, 1, 1, 6, 1, 20].into_iter().enumerate() {
            for (layer, expected) in expected.iter_mut().enumerate() {
                let k = numbers([rows, new, features], (100 * step + 1000 * layer) as f64);
                let [keys, values] = cache.extend(layer, k.clone(), k.clone() + 0.5);
                expected.push(k);
                let all = Tensor::cat(expected.clone(), 1);
                assert_eq!(keys.into_data(), all.clone().into_data());
                assert_eq!(values.into_data(), (all + 0.5).into_data());
            }
            assert_eq!(cache.length(), expected[0].iter().map(|k| k.dims()[1]).sum::<usize>());
        }
    }
}
