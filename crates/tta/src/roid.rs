use crate::{
    Host, Loss, TestTime,
    augment::{Pixels, view},
    entropy,
    filter::cosine,
    loss::symmetric,
    teacher::follow,
};
use acclimate_core::{AnyTensor, Inputs, Method, Params, Record, Result, Rng};
use burn::tensor::{Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

/// Tunes the norms by a likelihood ratio that never saturates, on rows that are diverse and sure, and keeps the weights near their start.
///
/// # Mathematics
/// With $p_i$ the prediction of row $i$ and $\bar m$ their running mean, at first even, let $d_i = 1 - \cos(p_i, \bar m)$ and
/// $c_i = -H(p_i)$, both moved and scaled to reach from 0 to 1 over the batch. Rows with $d_i$ below its mean are left out; the others weigh
/// $w_i = \exp(d_i c_i / T)$ (`temperature`), without gradient. With $q = \min(p, 0.99)$ one step of the optimiser on
/// $$L = \frac1B \sum_{i \in S} w_i \Bigl( -\sum_k q_{ik} \log\bigl(\tfrac{q_{ik}}{1 - q_{ik}} + 10^{-5}\bigr) +
///   \lambda\, \mathrm{SCE}(f(x'_i), f(x_i)) \Bigr),$$
/// with SCE the symmetric cross-entropy of `rmt`, through both sides of which gradients flow, and $x'$ a view of the kept rows as in `cotta`
/// ($\lambda$: `consistency`). Then $\bar m \leftarrow 0.9\,\bar m + 0.1\,\bar p$, and the trained tensors go a little back to their start,
/// $\theta \leftarrow a\,\theta + (1 - a)\,\theta^0$ (`momentum`).
///
/// The prediction is corrected by the batch's prior. With $\bar p$ the batch's mean prediction, $K$ classes and
/// $s = \max(1/B, 1/K) / \max_k \bar p_k$ it is $p_{ik}\, \tilde p_k^{\,\nu}$, $\tilde p = (\bar p + s) / (1 + s K)$, as logits (`prior` is
/// $\nu$).
///
/// # When to use
/// Streams of any kind on networks with any norms: the authors' defaults serve them all. Adam at `lr = 1e-3` in batches of 200, or SGD at
/// 2.5e-4 with momentum 0.9 in batches of 64. The prior helps where classes come in runs.
///
/// # Differences
/// The authors' script multiplies logits with the prior, by which a class of small prior wins where logits are negative; here, as in the
/// text, probabilities. Its views have no blur and no noise, and mirror the edge. It divides by the batch size that was set, here by that of
/// the batch. Where all rows are equal its scaling divides by zero.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Reset, Roid, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, adam) = (Roid { low: -3.0, high: 3.0, ..Roid::default() }, Adamw { lr: 1e-3, ..Adamw::default() });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert!(stream.host().counts().backward_rows < 40);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Marsden, Döbler & Yang, *Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior Correction*, WACV 2024,
/// arXiv:2306.00650.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "roid", title = "ROID", catalogue = [], paper = "arxiv:2306.00650", year = 2024)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant), validate = Self::has_room)]
#[method(case = "", case = "consistency = 0.0\nprior = 0.5")]
#[method(waive(
    without_movement_outputs_are_those_of_batch_statistics = "the prediction is corrected by the batch's prior"
))]
pub struct Roid {
    /// Share of themselves that trained tensors keep, $a$.
    #[method(min = 0, max = 1)]
    pub momentum: f64,
    /// Divides the product of diversity and certainty, $T$.
    #[method(above = 0)]
    pub temperature: f64,
    /// Weight of the agreement with a view, $\lambda$.
    #[method(min = 0)]
    pub consistency: f64,
    /// Power of the prior, $\nu$; 0 leaves the prediction as it is.
    #[method(min = 0)]
    pub prior: f64,
    /// The lowest value of a pixel.
    pub low: f64,
    /// The highest value of a pixel.
    pub high: f64,
    /// Names the random streams.
    pub seed: u64,
}

impl Default for Roid {
    fn default() -> Self {
        Self { momentum: 0.99, temperature: 1.0 / 3.0, consistency: 1.0, prior: 1.0, low: 0.0, high: 1.0, seed: 0 }
    }
}

/// The mean of predictions, and how many batches have come.
#[derive(Clone, Debug, Record)]
pub struct RoidState {
    /// $\bar m$ as `probabilities`; empty before the first batch.
    #[record(own)]
    pub mean: Params,
    /// Batches seen: names the draws of each.
    pub step: u64,
}

/// Under which name the mean prediction is kept.
const MEAN: &str = "probabilities";

impl TestTime for Roid {
    type State = RoidState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<RoidState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(RoidState { mean: Params::default(), step: 0 })
    }

    fn step(&self, batch: &Inputs, state: &mut RoidState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let mut next = None;
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let logits = seen.inner().logits;
            let [rows, classes] = logits.dims();
            let predicted = activation::softmax(logits.clone(), 1);
            let batch_mean = predicted.clone().mean_dim(0).squeeze_dim::<1>(0);
            let mean = state.mean.get::<1>(MEAN).unwrap_or_else(|_| batch_mean.zeros_like() + 1.0 / classes as f64);
            next = Some(mean.clone() * 0.9 + batch_mean * 0.1);
            let (weights, kept) = self.weights(&predicted, &entropy(logits), &mean);
            if kept.is_empty() {
                return Ok((seen, None));
            }
            let share = (rows as f64).recip();
            let mut value = (ratio(seen.logits.clone()) * weights.clone()).sum() * share;
            if self.consistency > 0.0 {
                let index = Tensor::<1, Int>::from_data(TensorData::from(kept.as_slice()), &weights.device());
                // Statistics of the view are those of the kept rows; other inputs than images are refused there.
                let kept = match batch {
                    Inputs::Images(images) => Inputs::Images(images.clone().select(0, index.clone())),
                    other => other.clone(),
                };
                let mut rng = Rng::new(self.seed, "view", state.step);
                let other = taped.forward(&view(Self::CARD.name, &kept, self.pixels(), &mut rng)?)?;
                let own = seen.logits.clone().select(0, index.clone());
                let apart = symmetric(own, other.logits, 0.5) * weights.select(0, index);
                value = value + apart.sum() * (share * self.consistency);
            }
            Ok((seen, Some(Loss { value, rows: kept.len() })))
        })?;
        let start = host.first().params.clone();
        host.amend(Self::CARD.name, follow(&host.patch().params, &start, self.momentum))?;
        if let Some(next) = next {
            state.mean.insert(MEAN, next);
        }
        state.step += 1;
        Ok(self.corrected(seen.logits))
    }
}

impl Roid {
    fn pixels(&self) -> Pixels {
        Pixels { low: self.low, high: self.high }
    }

    fn has_room(&self) -> Result<()> {
        self.pixels().check(Self::CARD.name)
    }

    /// The weight of each row, zero where it is left out, and which rows are kept.
    fn weights(&self, predicted: &Tensor<2>, entropies: &Tensor<1>, mean: &Tensor<1>) -> (Tensor<1>, Vec<i64>) {
        let diverse = scaled(cosine(predicted.clone(), mean).neg() + 1.0);
        let sure = scaled(entropies.clone().neg());
        let middle = AnyTensor::from(diverse.clone().mean()).to_f64s()[0];
        let numbers = AnyTensor::from(diverse.clone()).to_f64s();
        let kept = (0..).zip(numbers).filter(|(_, diverse)| *diverse >= middle).map(|(row, _)| row).collect();
        let left_out = diverse.clone().lower_elem(middle);
        ((diverse * sure * self.temperature.recip()).exp().mask_fill(left_out, 0.0), kept)
    }

    /// Predictions times the power of the batch's smoothed prior, as logits.
    fn corrected(&self, logits: Tensor<2>) -> Tensor<2> {
        if self.prior == 0.0 {
            return logits;
        }
        let [rows, classes] = logits.dims();
        let prior = activation::softmax(logits.clone(), 1).mean_dim(0);
        let most = AnyTensor::from(prior.clone().max()).to_f64s()[0];
        let smooth = (rows.min(classes) as f64).recip() / most;
        let prior = (prior + smooth) / (1.0 + smooth * classes as f64);
        activation::log_softmax(logits, 1) + prior.log() * self.prior
    }
}

/// Numbers moved and scaled to reach from 0 to 1; equal ones all to 0.
fn scaled(numbers: Tensor<1>) -> Tensor<1> {
    let least = numbers.clone().min();
    // So that equal numbers are not divided by zero.
    let range = (numbers.clone().max() - least.clone()).clamp_min(1e-30);
    (numbers - least) / range
}

/// The soft likelihood ratio of each row.
fn ratio(logits: Tensor<2>) -> Tensor<1> {
    let p = activation::softmax(logits, 1).clamp_max(0.99);
    let odds = p.clone() / (p.clone().neg() + 1.0);
    (p * (odds + 1e-5).log()).sum_dim(1).squeeze_dim::<1>(1).neg()
}
