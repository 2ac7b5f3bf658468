use crate::{Host, Loss, TestTime};
use acclimate_core::{Inputs, Method, Record, Result};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Makes the classes that are predicted on a batch less correlated, by tuning the scales and shifts of the norms on the stream.
///
/// # Mathematics
/// With $P = \operatorname{softmax}(z/T)$, a row for each of $B$ inputs and a column for each of $K$ classes,
/// $$C = P^\top P, \qquad \hat C_{jk} = \frac{C_{jk}}{\sum_l C_{jl} + \epsilon}, \qquad
///   L = \frac1K \sum_j \sum_{k \ne j} \hat C_{jk} \in \Big[0,\ 1 - \frac1K\Big],$$
/// and one step of the optimiser on the norms' $\gamma$ and $\beta$. $L$ is zero when every prediction is certain and largest when all
/// are even. The logits are those of the pass that gave the loss. Trained numbers: two for each channel of each norm.
///
/// # When to use
/// Where `tent` would be used, over the statistics of `alpha_bn` as in the paper: classes that are mistaken for each other are pulled
/// apart, each with the same weight, so that predictions do not fall into the common ones as easily. With few rows and many classes the
/// matrix says little of classes that are absent, and it mostly sharpens. On class-sorted streams it fails like `tent`.
///
/// # Differences
/// The loss follows the paper's account of a correlation between pairs of classes that is lowered online; no code of the authors is
/// public. The sum over $k \ne j$ counts nothing for a class that no row shows, where $1 - \operatorname{tr}(\hat C)/K$, equal
/// otherwise, would count $1/K$.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{AlphaBn, Core, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, mixed) = (Core::default(), AlphaBn { target_weight: 0.7, ..AlphaBn::default() });
/// let adam = Adamw { lr: 1e-3, ..Adamw::default() };
/// let host = Host::new(&model, patch)?.optimiser(&adam)?.statistics(&mixed)?;
/// let mut stream = Stream::new(&method, host, Reset::Never)?;
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
/// You, Li and Zhao, *Test-time Batch Statistics Calibration for Covariate Shift*, 2021, arXiv:2110.04065.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "core", title = "Core", catalogue = [14], paper = "arxiv:2110.04065", year = 2021)]
#[method(
    needs(gradients, optimiser, batch, learning_rate),
    promises(order_invariant),
    case = "",
    case = "temperature = 2.5"
)]
pub struct Core {
    /// Divides the logits, $T$.
    #[method(above = 0)]
    pub temperature: f64,
    /// Added to the sums of rows, $\epsilon$.
    #[method(min = 0)]
    pub eps: f64,
}

impl Default for Core {
    fn default() -> Self {
        Self { temperature: 1.0, eps: 1e-8 }
    }
}

/// Nothing: the patch and the optimiser's moments are the host's.
#[derive(Clone, Debug, Record)]
pub struct CoreState {}

impl TestTime for Core {
    type State = CoreState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<CoreState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(CoreState {})
    }

    fn step(&self, batch: &Inputs, _: &mut CoreState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let loss = Loss { value: self.correlation(seen.logits.clone()), rows: seen.rows() };
            Ok((seen, Some(loss)))
        })?;
        Ok(seen.logits)
    }
}

impl Core {
    /// How much the classes of a batch's predictions are correlated, $L$: one number of logits `[rows, classes]`.
    pub fn correlation(&self, logits: Tensor<2>) -> Tensor<1> {
        let classes = logits.dims()[1];
        // Products by reciprocals: the gradient of a quotient by a number has that number's reciprocal in single precision.
        let p = activation::softmax(logits * (1.0 / self.temperature), 1);
        let together = p.clone().transpose().matmul(p);
        let shares = together.clone() / (together.sum_dim(1) + self.eps);
        let same = Tensor::<2>::eye(classes, &shares.device()).cast(shares.dtype());
        (shares * (same.ones_like() - same)).sum() * (1.0 / classes as f64)
    }
}
