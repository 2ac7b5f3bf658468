//! The arithmetic of a piece of work, counted from shapes, and how long our own products take for it.

use acclimate::core::{Matrix, Packed};
use anyhow::{Error, Result};
use burn::tensor::{DType, Device, Distribution, Tensor};
use std::hint::black_box;
use std::time::Instant;

/// Most rows that a product is measured with: from here on the rate no longer changes, and inputs stay small.
const ROWS: usize = 4096;

/// Products `[rows, inner]·[inner, outputs]`, how often each, and what else is multiplied.
#[derive(Clone, Debug, Default)]
pub(super) struct Arithmetic {
    products: Vec<([usize; 3], f64)>,
    /// Operations beside these products: attention's, and products too narrow to be measured alone.
    rest: f64,
    /// Whether the products are those of matrices rounded to bf16.
    rounded: bool,
}

impl Arithmetic {
    /// Adds a product `times` times.
    pub(super) fn product(&mut self, rows: usize, inner: usize, outputs: usize, times: f64) {
        let sizes = [rows, inner, outputs];
        match self.products.iter_mut().find(|(known, _)| *known == sizes) {
            Some((_, count)) => *count += times,
            None => self.products.push((sizes, times)),
        }
    }

    /// Counts a product `times` times without measuring it.
    pub(super) fn apart(&mut self, rows: usize, inner: usize, outputs: usize, times: f64) {
        self.rest += 2.0 * (rows * inner * outputs) as f64 * times;
    }

    /// The same with all matrices rounded to bf16. What is not measured is taken at their rate too: the limit comes out low, not high.
    pub(super) fn rounded(self) -> Self {
        Self { rounded: true, ..self }
    }

    /// Operations of the products, two for each number of `a` that meets one of `b`.
    fn measured(&self) -> f64 {
        self.products.iter().map(|([m, k, n], times)| 2.0 * *m as f64 * *k as f64 * *n as f64 * times).sum()
    }

    /// All operations.
    pub(super) fn operations(&self) -> f64 {
        self.measured() + self.rest
    }
}

/// The products of an [`Arithmetic`], with numbers to multiply.
pub(super) struct Rate {
    products: Vec<(Tensor<2>, Matrix, f64)>,
    /// All operations over those of the products.
    whole: f64,
}

impl Rate {
    /// Numbers for the products.
    ///
    /// # Errors
    /// When a matrix is to be rounded and has no numbers.
    pub(super) fn new(work: &Arithmetic) -> Result<Self> {
        let device = Device::flex();
        let draw = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), (&device, DType::F32));
        let product = |&([rows, inner, outputs], times): &([usize; 3], f64)| {
            let part = rows.min(ROWS);
            let dense = draw([outputs, inner]);
            let matrix = match work.rounded {
                true => Packed::rounded(&dense).map_err(Error::msg)?.into(),
                false => dense.into(),
            };
            Ok((draw([part, inner]), matrix, times * rows as f64 / part as f64))
        };
        let products = work.products.iter().map(product).collect::<Result<_>>()?;
        Ok(Self { products, whole: work.operations() / work.measured() })
    }

    /// Seconds that the arithmetic takes at the products' rate of this moment: of each the best of three, since the first finds neither its
    /// pages nor the caches ready.
    pub(super) fn seconds(&self) -> f64 {
        let once = |(x, matrix, times): &(Tensor<2>, Matrix, f64)| {
            let start = Instant::now();
            black_box(matrix.linear(x.clone(), None));
            start.elapsed().as_secs_f64() * times
        };
        let best = |product| (0..3).map(|_| once(product)).fold(f64::INFINITY, f64::min);
        self.products.iter().map(best).sum::<f64>() * self.whole
    }
}

/// A transformer's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transformer {
    pub(super) layers: usize,
    pub(super) width: usize,
    /// Features of keys, and of values.
    pub(super) keys: usize,
    /// Features inside the feed-forward block.
    pub(super) inner: usize,
    /// Products that lead into it: one, or two with a gate.
    pub(super) ups: usize,
    /// Words to score, 0 for none.
    pub(super) words: usize,
}

impl Transformer {
    /// Rows of these lengths read once; padding is not counted.
    pub(super) fn forward(&self, lengths: &[usize], causal: bool) -> Arithmetic {
        let tokens = lengths.iter().sum();
        let mut work = Arithmetic::default();
        self.linears(&mut work, tokens, self.layers as f64, self.layers as f64);
        work.rest = 2.0 * self.attention(lengths, causal) * self.layers as f64;
        work
    }

    /// A step that trains LoRA of this rank on query and value: forward, and back to the first layer's adapters.
    pub(super) fn step(&self, lengths: &[usize], causal: bool, rank: usize) -> Arithmetic {
        let (tokens, layers) = (lengths.iter().sum(), self.layers as f64);
        let mut work = self.forward(lengths, causal);
        // Nothing flows below the first layer's query, key and value.
        self.linears(&mut work, tokens, layers - 1.0, layers);
        // Two products forward, four back; the first layer's keys get no gradient.
        work.rest += (4.0 * layers - 1.0) * self.attention(lengths, causal);
        // Of each factor: its product, its gradient, and what flows through it, which ends at the first layer's inputs.
        let (into, out) = (2 * self.width, self.width + self.keys);
        let factors = layers * (3 * into + 3 * out) as f64 - into as f64;
        work.rest += 2.0 * (tokens * rank) as f64 * factors;
        work
    }

    /// The products with weights in one direction: query, key and value of so many layers, the others of so many.
    fn linears(&self, work: &mut Arithmetic, tokens: usize, heads: f64, others: f64) {
        work.product(tokens, self.width, self.width, heads + others);
        work.product(tokens, self.width, self.keys, 2.0 * heads);
        work.product(tokens, self.width, self.inner, self.ups as f64 * others);
        work.product(tokens, self.inner, self.width, others);
        if self.words > 0 {
            work.product(tokens, self.width, self.words, 1.0);
        }
    }

    /// One product of a layer's attention: every query with every key it sees.
    fn attention(&self, lengths: &[usize], causal: bool) -> f64 {
        let pairs = |&length: &usize| if causal { length * (length + 1) / 2 } else { length * length };
        2.0 * (lengths.iter().map(pairs).sum::<usize>() * self.width) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Transformer = Transformer { layers: 2, width: 4, keys: 4, inner: 8, ups: 1, words: 0 };

    #[test]
    fn a_forward_pass_is_counted_as_by_hand() {
        // Three tokens; a layer has four 4×4 and two 4×8 products, and attention two of 3×4×3.
        let by_hand = 2.0 * (2.0 * 3.0 * (4.0 * 16.0 + 2.0 * 32.0) + 2.0 * 2.0 * 36.0);
        assert_eq!(TINY.forward(&[3], false).operations(), by_hand);
    }

    #[test]
    fn reading_from_left_to_right_takes_half_of_attention_and_the_diagonal() {
        let [whole, half] = [false, true].map(|causal| TINY.forward(&[5], causal).rest);
        assert_eq!(whole / half, 25.0 / 15.0);
    }

    #[test]
    fn a_step_takes_less_than_two_passes_back_and_more_than_one() {
        let [pass, step] = [TINY.forward(&[64], false), TINY.step(&[64], false, 1)].map(|work| work.operations());
        assert!(step > 1.5 * pass && step < 3.0 * pass, "{step} against {pass}");
    }

    #[test]
    fn a_product_of_many_rows_is_measured_in_part_and_counted_whole() {
        let mut work = Arithmetic::default();
        work.product(3 * ROWS, 2, 2, 1.0);
        assert_eq!(Rate::new(&work).unwrap().products[0].2, 3.0);
    }
}
