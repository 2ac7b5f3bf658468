use crate::{
    Host, Loss, TestTime, entropy,
    filter::{below, entropy_bound},
};
use acclimate_core::{Inputs, Method, Params, Record, Result, total};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Tunes the norms towards flat places of the entropy of sure predictions, and starts anew when predictions grow too sure.
///
/// # Mathematics
/// $S = \{i : H_i(\theta) < E_0\}$ with $E_0 = e \ln K$ (`entropy_share`) and $g = \nabla \frac{1}{|S|} \sum_{i \in S} H_i(\theta)$. At the
/// steepest place nearby,
/// $$\hat\theta = \theta + \rho \frac{g}{\lVert g \rVert}, \qquad S' = \{i \in S : H_i(\hat\theta) < E_0\},$$
/// the optimiser makes one step at $\theta$ by the gradient $\nabla \frac{1}{|S'|} \sum_{i \in S'} H_i(\hat\theta)$ ($\rho$: `radius`). Then
/// $m \leftarrow 0.9\,m + 0.1\,\overline{H}_{S'}(\hat\theta)$, at first $\overline{H}_{S'}$, and where $m$ falls below `recovery` patch,
/// optimiser and $m$ go back to the start. Where $S$ or $S'$ is empty nothing changes. The logits are those of the first pass.
///
/// # When to use
/// Small batches, mixed shifts and uneven classes, on networks with group or layer norms; the authors take SGD with momentum 0.9 at
/// 2.5e-4 for ResNets and 1e-3 for transformers in batches of 64. They leave the norms of the last stage alone (`layer4` of a ResNet, the
/// last three blocks and the last norm of a transformer): name the others as the patch's targets. Two forward and two backward passes.
///
/// # Differences
/// The authors' script puts the old $m$ back after a recovery, so that it recovers again at every batch until $m$ has grown; here $m$ goes
/// too, as in the text. Where no row is sure their optimiser still makes a step out of its momentum.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::{Norm, tiny};
/// use acclimate_optim::Sgd;
/// use acclimate_tta::{Host, Reset, Sar, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet_with(Norm::Group(4), 0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, sgd) = (Sar { entropy_share: 2.0, ..Sar::default() }, Sgd { lr: 1e-3, momentum: 0.9, nesterov: false });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&sgd)?, Reset::Never)?;
/// stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert_eq!(stream.host().counts().backward_rows, 40);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Niu et al., *Towards Stable Test-Time Adaptation in Dynamic Wild World*, ICLR 2023, arXiv:2302.12400.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "sar", title = "SAR", catalogue = [], paper = "arxiv:2302.12400", year = 2023)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "entropy_share = 2.0\nrecovery = 0.0", case = "entropy_share = 0.7\nrecovery = 0.0\nradius = 0.5")]
pub struct Sar {
    /// Rows with less than this share of the largest entropy, $\ln K$, are sure; $e$.
    #[method(above = 0)]
    pub entropy_share: f64,
    /// How far away the steepest place is looked for, $\rho$.
    #[method(above = 0)]
    pub radius: f64,
    /// Mean entropy below which adaptation starts anew; 0 is never.
    #[method(min = 0)]
    pub recovery: f64,
}

impl Default for Sar {
    fn default() -> Self {
        Self { entropy_share: 0.4, radius: 0.05, recovery: 0.2 }
    }
}

/// The running mean entropy.
#[derive(Clone, Debug, Record)]
pub struct SarState {
    /// $m$; none yet, or none since a recovery, as an empty list.
    pub entropy: Vec<f64>,
}

impl TestTime for Sar {
    type State = SarState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<SarState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(SarState { entropy: vec![] })
    }

    fn step(&self, batch: &Inputs, state: &mut SarState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let mut sure = None;
        let (seen, first) = host.gradient(|taped| {
            let seen = taped.forward(batch)?;
            let entropies = entropy(seen.logits.clone());
            let keep = self.sure(&entropy(seen.inner().logits), seen.logits.dims()[1]);
            let loss = Loss::kept(entropies.clone(), entropies.ones_like(), keep.clone());
            sure = Some(keep);
            Ok((seen, loss))
        })?;
        let (Some(first), Some(sure)) = (first, sure) else { return Ok(seen.logits) };
        let length = first.gradients.norm();
        // As the authors': no length of zero divides.
        let stride = self.radius / (length + 1e-12);
        let steep: Params = host.patch().params.zip(&first.gradients, |x, g| x + g * stride);
        let (_, second) = host.gradient_at(&steep, |taped| {
            let seen = taped.forward(batch)?;
            let entropies = entropy(seen.logits.clone());
            let keep = sure * self.sure(&entropy(seen.inner().logits), seen.logits.dims()[1]);
            let loss = Loss::kept(entropies.clone(), entropies.ones_like(), keep);
            Ok((seen, loss))
        })?;
        let Some(second) = second else { return Ok(seen.logits) };
        host.update(&second)?;
        let entropy = total(vec![second.loss]);
        let mean = state.entropy.first().map_or(entropy, |mean| 0.9 * mean + 0.1 * entropy);
        if mean < self.recovery {
            host.reset()?;
            state.entropy.clear();
        } else {
            state.entropy = vec![mean];
        }
        Ok(seen.logits)
    }
}

impl Sar {
    /// One for each row of small entropy.
    fn sure(&self, entropies: &Tensor<1>, classes: usize) -> Tensor<1> {
        below(entropies, entropy_bound(self.entropy_share, classes))
    }
}
