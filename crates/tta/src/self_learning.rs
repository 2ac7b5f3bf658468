use crate::{
    Host, Loss, TestTime, entropy,
    loss::{cross_entropy, likeliest},
};
use acclimate_core::{Error, Inputs, Method, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Tunes the norms on the model's own labels, with a loss that forgives wrong ones.
///
/// # Mathematics
/// With logits $z$, $p = \operatorname{softmax}(z)$ and $\hat y = \arg\max_k z_k$, through which no gradient flows, the loss of a row
/// is by `objective`
///
/// - `robust` (RPL): $(1 - p_{\hat y}^q) / q$. Its gradient is $p_{\hat y}^q$ times that of `pseudo_label`: doubtful rows pull less.
///   As $q \to 0$ it becomes `pseudo_label`, and it never exceeds $1/q$;
/// - `pseudo_label`: $-\log p_{\hat y}$;
/// - `entropy` (ENT): $-\sum_k p_k \log p_k$, as Tent does;
/// - `soft_label`: $-\sum_k t_k \log p_k$ with $t = \operatorname{softmax}(z / T)$ (`temperature`) and no gradient through $t$.
///
/// One step of the optimiser on the mean of a batch; the teacher is the model itself after each step. Batch norms take the statistics
/// of the batch, and the logits are those of the pass that gave the loss.
///
/// # When to use
/// A set of inputs of one shift that may be gone over several times: run the stream over its shuffled batches for some epochs
/// (authors: five, SGD at 7.5e-4 in batches of 96) and predict with what came out. That reading is transductive: report it apart from
/// those of streams. In one pass it is Tent with another loss. Long training on a strong shift collapses with `entropy`.
///
/// # Differences
/// Layer and group norms are tuned too where the patch holds them. The authors' demonstration hands all parameters to the optimiser,
/// although it collects those of the norms: the patch holds the norms alone, as the paper says. With $T = 1$ soft labels have no
/// gradient, since $p - t = 0$, and are refused; the default $T = \tfrac12$ is ours.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Reset, SelfLearning, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, adam) = (SelfLearning::default(), Adamw { lr: 1e-3, ..Adamw::default() });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// let set: Vec<_> = (1..4).map(|seed| tiny::images(seed, 20, DType::F32)).collect();
/// for _epoch in 0..5 {
///     stream.run(&set)?;
/// }
/// assert_eq!(stream.host().updates(), 15);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Rusak et al., *If your data distribution shifts, use self-learning*, TMLR 2022, arXiv:2104.12928.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "self_learning", title = "Self-learning (RPL, ENT)", catalogue = [105], paper = "arxiv:2104.12928", year = 2022)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant), validate = Self::has_a_gradient)]
#[method(case = "", case = "objective = \"pseudo_label\"", case = "objective = \"entropy\"")]
#[method(case = "objective = \"soft_label\"")]
pub struct SelfLearning {
    /// The loss.
    pub objective: Teaching,
    /// Forgiveness of the robust loss; near 0 it is none, at 1 the loss is $1 - p_{\hat y}$.
    #[method(above = 0, max = 1)]
    pub q: f64,
    /// Divides the logits of soft labels, $T$; below 1 they are surer than the predictions.
    #[method(above = 0)]
    pub temperature: f64,
}

impl Default for SelfLearning {
    fn default() -> Self {
        Self { objective: Teaching::Robust, q: 0.8, temperature: 0.5 }
    }
}

/// How a model's own predictions become a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teaching {
    /// The likeliest class is the label, and doubtful rows pull less.
    #[default]
    Robust,
    /// The likeliest class is the label.
    PseudoLabel,
    /// The entropy of the prediction.
    Entropy,
    /// The prediction at another temperature is the label.
    SoftLabel,
}

/// Nothing: the patch and the optimiser's moments are the host's.
#[derive(Clone, Debug, Record)]
pub struct SelfLearningState {}

impl TestTime for SelfLearning {
    type State = SelfLearningState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<SelfLearningState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(SelfLearningState {})
    }

    fn step(&self, batch: &Inputs, _: &mut SelfLearningState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let logits = seen.logits.clone();
            let losses = match self.objective {
                Teaching::Robust => ((likeliest(logits) * self.q).exp().neg() + 1.0) * self.q.recip(),
                Teaching::PseudoLabel => likeliest(logits).neg(),
                Teaching::Entropy => entropy(logits),
                Teaching::SoftLabel => cross_entropy(seen.inner().logits / self.temperature, logits),
            };
            Ok((seen, Some(Loss::mean(losses))))
        })?;
        Ok(seen.logits)
    }
}

impl SelfLearning {
    fn has_a_gradient(&self) -> Result<()> {
        if self.objective == Teaching::SoftLabel && self.temperature == 1.0 {
            return Err(Error::Param {
                method: Self::CARD.name,
                param: "temperature",
                value: self.temperature.to_string(),
                why: "must not be 1 with soft labels, which have no gradient then; take 0.5".to_owned(),
            });
        }
        Ok(())
    }
}
