use crate::{Host, Loss, TestTime, entropy};
use acclimate_core::{Inputs, Method, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Makes predictions on shifted inputs more certain by tuning the scales and shifts of the norms on the stream.
///
/// # Mathematics
/// For a batch with logits $z_i \in \mathbb{R}^K$ and $p_i = \operatorname{softmax}(z_i)$
/// $$L = -\frac1B \sum_i \sum_k p_{ik} \log p_{ik}, \qquad
///   \frac{\partial H_i}{\partial z_{ik}} = -p_{ik} (\log p_{ik} + H_i),$$
/// and one step of the optimiser on the norms' $\gamma$ and $\beta$. Batch norms take the statistics of the batch, and gradients
/// flow through them; everything else is frozen. The logits are those of the pass that gave the loss. Trained numbers: two for each
/// channel of each norm.
///
/// # When to use
/// An unlabelled stream of one shift at a time with mixed classes and batches of 64 and more. The patch holds a full override of the
/// norms; Adam at `lr = 1e-3` or SGD at `2.5e-4` with momentum 0.9 are the authors' choices. On class-sorted streams, with small
/// batches or over long runs predictions collapse into few classes: reset at known shifts or every thousand batches.
///
/// # Differences
/// Layer and group norms, which have no statistics of the batch, are tuned too where the patch holds them.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Reset, Stream, Tent};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, adam) = (Tent::default(), Adamw { lr: 1e-3, ..Adamw::default() });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// let batch = tiny::images(1, 20, DType::F32);
/// for _ in 0..30 {
///     stream.step(&batch)?;
/// }
/// let entropies = &stream.report().entropies;
/// assert!(entropies[29] < entropies[0]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Wang et al., *Tent: Fully Test-Time Adaptation by Entropy Minimization*, ICLR 2021, arXiv:2006.10726.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "tent", title = "Tent", catalogue = [47], paper = "arxiv:2006.10726", year = 2021)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant), case = "", case = "steps = 2")]
pub struct Tent {
    /// Steps on each batch; the logits are those of the last step's pass.
    #[method(min = 1)]
    pub steps: usize,
}

impl Default for Tent {
    fn default() -> Self {
        Self { steps: 1 }
    }
}

/// Nothing: the patch and the optimiser's moments are the host's.
#[derive(Clone, Debug, Record)]
pub struct TentState {}

impl TestTime for Tent {
    type State = TentState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<TentState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(TentState {})
    }

    fn step(&self, batch: &Inputs, _: &mut TentState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let mut one = || -> Result<Tensor<2>> {
            let seen = host.learn(|taped| {
                let seen = taped.forward(batch)?;
                let loss = Loss::mean(entropy(seen.logits.clone()));
                Ok((seen, Some(loss)))
            })?;
            Ok(seen.logits)
        };
        for _ in 1..self.steps {
            one()?;
        }
        one()
    }
}
