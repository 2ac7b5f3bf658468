use crate::{
    Host, Loss, TestTime,
    augment::shuffled,
    entropy,
    filter::{below, entropy_bound},
};
use acclimate_core::{AnyTensor, Inputs, Method, Record, Result, Rng};
use burn::tensor::{Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

/// Tunes the norms on sure predictions that fall when the object's shape is destroyed.
///
/// # Mathematics
/// $x'$ is $x$ cut into `grid` × `grid` patches in random order, for each image its own. With $\hat y = \arg\max_k p_k(x)$
/// $$\Delta(x) = p_{\hat y}(x) - p_{\hat y}(x')$$
/// is large where the prediction rests on shape. Rows are kept, $i \in S$, where $H_i < \tau_E \ln K$ (`entropy_share`) and then
/// $\Delta_i > \tau_\Delta$ (`drop`); $x'$ is seen of those that passed the first filter alone. One step of the optimiser on
/// $$L = \frac{1}{|S|} \sum_{i \in S} \bigl( e^{E_0 - H_i} + e^{\Delta_i} \bigr) H_i, \qquad E_0 = e_0 \ln K \ (\texttt{weight\_share}),$$
/// without gradient through the weights. A batch of which no row is kept changes nothing.
///
/// # When to use
/// Where backgrounds mislead: uneven classes, single images, spurious correlations; the authors take SGD at 2.5e-4 (ResNets) and 1e-3
/// (transformers) with momentum 0.9 in batches of 64. Pictures without parts that have an order, such as textures, are all left out.
///
/// # Differences
/// Where a side is no multiple of `grid` its last pixels stay in place; the authors scale the image there and back. Of their three ways to
/// destroy a shape this is the default one. They leave out the norms of the last stage, as `sar` says: name the others as targets.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::{Norm, tiny};
/// use acclimate_optim::Sgd;
/// use acclimate_tta::{Deyo, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet_with(Norm::Group(4), 0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, sgd) = (Deyo { entropy_share: 2.0, ..Deyo::default() }, Sgd { lr: 1e-3, momentum: 0.9, nesterov: false });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&sgd)?, Reset::Never)?;
/// stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert!(stream.host().counts().backward_rows < 20);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Lee et al., *Entropy is not Enough for Test-Time Adaptation: From the Perspective of Disentangled Factors*, ICLR 2024, arXiv:2403.07366.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "deyo", title = "DeYO", catalogue = [], paper = "arxiv:2403.07366", year = 2024)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "entropy_share = 2.0\ndrop = -0.1", case = "entropy_share = 0.9\ndrop = -0.5\ngrid = 2")]
pub struct Deyo {
    /// Rows with less than this share of the largest entropy, $\ln K$, are sure; $\tau_E$.
    #[method(above = 0)]
    pub entropy_share: f64,
    /// How far the probability of a row's class must fall with its shape, $\tau_\Delta$.
    #[method(min = -1, max = 1)]
    pub drop: f64,
    /// The share of $\ln K$ at which the weight of an entropy is one, $e_0$.
    #[method(min = 0)]
    pub weight_share: f64,
    /// Patches along a side.
    #[method(min = 2)]
    pub grid: usize,
    /// Names the random streams.
    pub seed: u64,
}

impl Default for Deyo {
    fn default() -> Self {
        Self { entropy_share: 0.5, drop: 0.2, weight_share: 0.4, grid: 4, seed: 0 }
    }
}

/// How many batches have come.
#[derive(Clone, Debug, Record)]
pub struct DeyoState {
    /// Batches seen: names the draws of each.
    pub step: u64,
}

impl TestTime for Deyo {
    type State = DeyoState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<DeyoState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(DeyoState { step: 0 })
    }

    fn step(&self, batch: &Inputs, state: &mut DeyoState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let logits = seen.inner().logits;
            let classes = logits.dims()[1];
            let entropies = entropy(logits.clone());
            let sure = below(&entropies, entropy_bound(self.entropy_share, classes));
            let sure = (0..).zip(AnyTensor::from(sure).to_f64s()).filter(|(_, sure)| *sure == 1.0).map(|(row, _)| row);
            let sure: Vec<i64> = sure.collect();
            if sure.is_empty() {
                return Ok((seen, None));
            }
            let index = Tensor::<1, Int>::from_data(TensorData::from(sure.as_slice()), &logits.device());
            let mut rng = Rng::new(self.seed, "patches", state.step);
            let destroyed = shuffled(Self::CARD.name, batch, &sure, self.grid, &mut rng)?;
            let without = activation::softmax(taped.forward(&destroyed)?.inner().logits, 1);
            let with = activation::softmax(logits, 1).select(0, index.clone());
            let class = with.clone().argmax(1);
            let fall = (with - without).gather(1, class).squeeze_dim::<1>(1);
            let keep = fall.zeros_like().mask_fill(fall.clone().greater_elem(self.drop), 1.0);
            let bound = entropy_bound(self.weight_share, classes);
            let weights = (entropies.select(0, index.clone()).neg() + bound).exp() + fall.exp();
            let losses = entropy(seen.logits.clone()).select(0, index);
            Ok((seen, Loss::kept(losses, weights, keep)))
        })?;
        state.step += 1;
        Ok(seen.logits)
    }
}
