//! Whether a batch is large enough, told by how far the gradients in it lie apart.

use crate::read;
use acclimate_core::{AnyTensor, Error, Params, Result, total, wide};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Micro-batches that are held at most for the tests along the gradient; where there are more, neighbours are joined.
const HELD: usize = 64;

/// What of a batch's gradient must not be noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchTest {
    /// All of it.
    Norm,
    /// Its length: the noise along it.
    InnerProduct,
    /// Its length, and, with a bound of its own, the noise across it.
    Augmented,
    /// Each coordinate.
    Coordinates,
}

/// Grows the batch while gradient noise rules it: the adaptive batch sizes of AdAdaGrad, for any optimiser.
///
/// A batch of $b$ examples has the mean gradient $\bar g$; $\Sigma$ is the covariance of one example's gradient $g_i$, all parameters one
/// after another, estimated with divisor $b - 1$. A test asks for
/// $$\text{norm: } \frac{\operatorname{tr} \Sigma}{\eta^2 \lVert \bar g \rVert^2}, \qquad
///   \text{inner product: } \frac{\bar g^\top \Sigma\, \bar g}{\theta^2 \lVert \bar g \rVert^4}, \qquad
///   \text{augmented: } \max \Bigl( \frac{\bar g^\top \Sigma\, \bar g}{\theta^2 \lVert \bar g \rVert^4},
///   \frac{\operatorname{tr} \Sigma - \bar g^\top \Sigma\, \bar g / \lVert \bar g \rVert^2}{\nu^2 \lVert \bar g \rVert^2} \Bigr), \qquad
///   \text{coordinates: } \max_j \frac{\Sigma_{jj}}{\eta^2\, \bar g_j^2}$$
/// examples, rounded up, and the batch is at least that large from the next step on. It never shrinks. All tests are free of the loss's scale.
///
/// **What is exact.** The [`Accumulator`](crate::Accumulator) sees means of micro-batches. With $\mu_g$ the mean of $n_g$ examples and $G$
/// micro-batches, $\sum_g n_g (\mu_g - \bar g)(\mu_g - \bar g)^\top / (G - 1)$ is $\Sigma$ itself where each holds one example, and has the
/// expectation $\Sigma$ where they hold more, if examples are drawn independently. So few large micro-batches give a test that is right on
/// average and noisy, most of all along the gradient, which is a single direction. Micro-batches that are sorted by something the gradient
/// depends on, such as length, make it err upwards. For products with $\bar g$, which is known last, at most 64 micro-batches are held; of
/// more, neighbours are joined, and exactness ends there. Where a loss is a mean over words, examples are words, and the answer is in rows,
/// in proportion.
///
/// **What is ours.** `growth` bounds the factor of one test, since $\lVert \bar g \rVert$ in a small batch may be small by chance; `inf` is
/// the paper. `quantile` below 1 lets a share of the coordinates fail, since among many some mean is always next to zero; coordinates in which
/// all gradients are zero do not count. The paper's code sums the variances of one inner product for each tensor, over the norm of all; the
/// inner product here is over all parameters, as the test is defined. The test by coordinates is the norm test of each coordinate: the
/// paper's code has none. The learning rate stays as it is when the batch grows.
///
/// ```
/// use acclimate_core::{AnyTensor, Params};
/// use acclimate_optim::{Accumulator, BatchGrowth, BatchTest};
/// use burn::tensor::{DType, Device};
///
/// let growth = BatchGrowth { eta: 0.5, growth: f64::INFINITY, ..BatchGrowth::new(BatchTest::Norm) };
/// let mut sum = Accumulator::for_test(growth.test);
/// for number in [1.0, 3.0] {
///     let mut gradient = Params::default();
///     gradient.insert("x", AnyTensor::from_f64s(vec![number], &[1], DType::F64, &Device::flex()));
///     sum.add(gradient, 0.0, 1.0);
/// }
/// // The variance is 2, the mean 2.
/// let spread = sum.spread().expect("two micro-batches");
/// assert_eq!(growth.next(2, 2, &spread), 2);
/// assert_eq!(BatchGrowth { eta: 0.25, ..growth }.next(2, 2, &spread), 8);
/// ```
///
/// Lau, Liu and Kolar, *AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods*, 2024, arXiv:2402.11215; the tests along the
/// gradient are those of Bollapragada, Byrd and Nocedal, *Adaptive Sampling Strategies for Stochastic Optimization*, 2018, arXiv:1710.11258.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchGrowth {
    /// What is tested.
    pub test: BatchTest,
    /// $\eta$: noise of the whole gradient, or of a coordinate, as a share of its size.
    pub eta: f64,
    /// $\theta$: noise along the gradient.
    pub theta: f64,
    /// $\nu$: noise across the gradient.
    pub nu: f64,
    /// The share of coordinates that must pass.
    pub quantile: f64,
    /// Largest factor of one test.
    pub growth: f64,
    /// Largest batch.
    pub most: usize,
    /// Steps from one test to the next.
    pub interval: u64,
}

impl BatchGrowth {
    /// A test under its usual bounds, at every step, without a largest batch.
    pub fn new(test: BatchTest) -> Self {
        Self { test, eta: 0.5, theta: 0.5, nu: 1.0, quantile: 1.0, growth: 2.0, most: usize::MAX, interval: 1 }
    }

    /// Refuses numbers out of range.
    ///
    /// # Errors
    /// A bound that is not above zero, a quantile outside (0, 1], a factor below one, or an interval of zero.
    pub fn check(&self) -> Result<()> {
        let wrong = |param: &'static str, value: f64, why: &str| {
            Err(Error::Param { method: "batch", param, value: value.to_string(), why: why.to_owned() })
        };
        for (param, value) in [("eta", self.eta), ("theta", self.theta), ("nu", self.nu)] {
            if value.is_nan() || value <= 0.0 {
                return wrong(param, value, "must be above 0");
            }
        }
        if !(self.quantile > 0.0 && self.quantile <= 1.0) {
            return wrong("quantile", self.quantile, "must be above 0 and at most 1");
        }
        if self.growth.is_nan() || self.growth < 1.0 {
            return wrong("growth", self.growth, "must be at least 1");
        }
        if self.interval == 0 {
            return wrong("interval", 0.0, "must be at least 1");
        }
        Ok(())
    }

    /// Whether a step, counted from one, of batches of `size` rows is tested. The first is; at the largest batch there is nothing to test.
    pub fn is_due(&self, step: u64, size: usize) -> bool {
        size < self.most && step.saturating_sub(1).is_multiple_of(self.interval)
    }

    /// How many rows the test asks for, after a batch of `rows`: any number from zero to infinity.
    pub fn wanted(&self, rows: usize, spread: &Spread) -> f64 {
        // The noise of the batch's mean over the bound: at one the batch is as large as it must be.
        let excess = |variance: f64, square: f64, bound: f64| {
            if variance == 0.0 { 0.0 } else { variance / spread.weight / (bound * bound * square) }
        };
        let along = if spread.square == 0.0 { 0.0 } else { spread.along / spread.square };
        rows as f64
            * match self.test {
                BatchTest::Norm => excess(spread.variance, spread.square, self.eta),
                BatchTest::InnerProduct => excess(along, spread.square, self.theta),
                BatchTest::Augmented => excess(along, spread.square, self.theta).max(excess(
                    (spread.variance - along).max(0.0),
                    spread.square,
                    self.nu,
                )),
                BatchTest::Coordinates => excess(quantile(&spread.coordinates, self.quantile), 1.0, self.eta),
            }
    }

    /// The size of the next batch, where batches have had `size` rows and the last one `rows`: never fewer, at most `growth` times as many
    /// and at most the largest.
    pub fn next(&self, size: usize, rows: usize, spread: &Spread) -> usize {
        let (wanted, bound) = (self.wanted(rows, spread).ceil(), (self.growth * size as f64).ceil());
        // What is not a number asks for nothing.
        let wanted = if wanted.is_nan() { 0.0 } else { wanted.min(bound) };
        (wanted as usize).min(self.most).max(size)
    }
}

/// The smallest number that at least a share of all are not above; zero where there are none.
fn quantile(numbers: &[f64], share: f64) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable_by(f64::total_cmp);
    let at = (share * numbers.len() as f64).ceil() as usize;
    numbers.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// How the gradients of a batch lie about their mean $\bar g$; see [`BatchGrowth`] for $\Sigma$.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Items in the batch: what its loss is the mean of.
    pub weight: f64,
    /// $\lVert \bar g \rVert^2$.
    pub square: f64,
    /// $\operatorname{tr} \Sigma$, of one item.
    pub variance: f64,
    /// $\bar g^\top \Sigma\, \bar g$, of one item, for the tests along the gradient; zero for the others.
    pub along: f64,
    /// $\Sigma_{jj} / \bar g_j^2$, of one item, for the test by coordinates; empty for the others. Coordinates without any gradient are left out.
    pub coordinates: Vec<f64>,
}

/// Sums over micro-batches that a test needs besides their mean.
#[derive(Debug)]
pub(crate) struct Scatter {
    test: BatchTest,
    groups: usize,
    /// The squared distances from the mean, in parts that add up.
    squares: Vec<Tensor<1>>,
    /// The same by coordinate, in f64.
    coordinates: Option<Params>,
    /// Weights and gradients, for products with a mean that is known at the end.
    held: Vec<(f64, Params)>,
}

impl Scatter {
    pub(crate) fn new(test: BatchTest) -> Self {
        Self { test, groups: 0, squares: vec![], coordinates: None, held: vec![] }
    }

    /// Takes the gradients of a micro-batch, and the mean of those before it with what they weigh. The squares about the common mean are
    /// those about each mean and, of the distance between the two, the share that a lever has.
    pub(crate) fn add(&mut self, gradients: &Params, weight: f64, before: Option<(&Params, f64)>) {
        self.groups += 1;
        if let Some((mean, weighed)) = before {
            let lever = weighed * weight / (weighed + weight);
            let mut others = mean.iter();
            let squares = gradients.map(|_, g| {
                let (_, mean) = others.next().expect("gradients of one patch have one length");
                AnyTensor::from_elements((wide(g.elements()) - wide(mean.elements())).square() * lever)
            });
            self.squares.extend(squares.iter().map(|(_, square)| square.elements().sum()));
            if self.test == BatchTest::Coordinates {
                self.coordinates = Some(match self.coordinates.take() {
                    None => squares,
                    Some(sums) => sums.zip(&squares, |sum, square| sum + square),
                });
            }
        }
        if matches!(self.test, BatchTest::InnerProduct | BatchTest::Augmented) {
            if self.held.len() == HELD {
                self.held = self.held.chunks(2).map(joined).collect();
            }
            self.held.push((weight, gradients.clone()));
        }
    }

    /// What the sums say about gradients of that mean and weight; nothing where there are fewer than two micro-batches.
    pub(crate) fn spread(&self, mean: &Params, weight: f64) -> Option<Spread> {
        let free = self.groups.checked_sub(1).filter(|&free| free > 0)? as f64;
        let square = mean.reduce(mean, |mean, _| wide(mean).square());
        let along = match self.held.len() {
            0 => 0.0,
            held => {
                let products = |(_, gradients): &(f64, Params)| {
                    let parts = gradients.iter().zip(mean.iter());
                    let product = |((_, g), (_, mean)): ((_, &AnyTensor), (_, &AnyTensor))| {
                        let mean = wide(mean.elements());
                        ((wide(g.elements()) - mean.clone()) * mean).sum()
                    };
                    Tensor::cat(parts.map(product).collect(), 0).sum()
                };
                let products = read(self.held.iter().map(products).collect());
                let weighed = self.held.iter().zip(products).map(|((weight, _), product)| weight * product * product);
                weighed.sum::<f64>() / (held - 1) as f64
            }
        };
        let coordinates = self.coordinates.iter().flat_map(|sums| sums.iter().zip(mean.iter()));
        let ratios = |((_, sum), (_, mean)): ((_, &AnyTensor), (_, &AnyTensor))| {
            let both = sum.to_f64s().into_iter().zip(mean.to_f64s());
            both.filter(|(sum, mean)| *sum != 0.0 || *mean != 0.0)
                .map(|(sum, mean)| sum / free / (mean * mean))
                .collect()
        };
        Some(Spread {
            weight,
            square,
            variance: total(self.squares.clone()) / free,
            along,
            coordinates: coordinates.flat_map::<Vec<f64>, _>(ratios).collect(),
        })
    }
}

/// Two neighbours as one, weighted; a single one as it is.
fn joined(pair: &[(f64, Params)]) -> (f64, Params) {
    match pair {
        [(first, a), (second, b)] => {
            let (weight, share) = (first + second, second / (first + second));
            (weight, a.zip(b, |a, b| a * (1.0 - share) + b * share))
        }
        single => single[0].clone(),
    }
}
