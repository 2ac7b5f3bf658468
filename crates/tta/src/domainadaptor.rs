use crate::{
    Host, Loss, TestTime, entropy,
    statistics::{off_tape, unbiased},
};
use acclimate_core::{BatchNorm, Inputs, Method, Moments, Normaliser, Params, Record, Result};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// Adapts to each batch alone: norms mix stored and own statistics by their distances, then one step on a softened entropy.
///
/// # Mathematics
/// **AdaMixBN.** At a batch norm with stored moments $s$, those of the batch $t$ and of each input $i$ over its pixels (variances divided
/// by one less than the count), and $d(a, b) = \operatorname{mean}_c (\mu_a - \mu_b)^2 + \operatorname{mean}_c (\sigma_a - \sigma_b)^2$,
/// $$\lambda = \operatorname{mean}_i \Big(1 - \frac{d(s,t)}{d(s,t) + d(i,s) + d(i,t)}\Big), \qquad
///   \mu = \lambda \mu_s + (1-\lambda) \mu_t, \quad \sigma^2 = \lambda \sigma_s^2 + (1-\lambda) \sigma_t^2.$$
/// The same output comes from the batch's own moments with
/// $$\gamma' = \gamma \sqrt{\frac{\sigma_t^2 + \varepsilon}{\sigma^2 + \varepsilon}}, \qquad
///   \beta' = \beta + \lambda\,\frac{\mu_t - \mu_s}{\sqrt{\sigma_t^2 + \varepsilon}}\,\gamma',$$
/// and so gradients flow as in an ordinary batch norm. $\gamma'$ and $\beta'$ are constants of the batch.
///
/// **Loss.** With $\bar z = z - \operatorname{mean}_c z$, $T = 2 \operatorname{std}_c z$ (both without a gradient) and
/// $q = \operatorname{softmax}(\bar z/T)$
/// $$\text{gem\_t:}\ \operatorname{mean} T^2 H(q), \qquad
///   \text{gem\_skd:}\ -\operatorname{mean} T^2 \sum_c \operatorname{sg}(\operatorname{softmax} \bar z)_c \log q_c, \qquad
///   \text{em:}\ \operatorname{mean} H(\operatorname{softmax} z).$$
/// One step of the optimiser moves $\gamma'$ and $\beta'$; a second pass under the batch's moments gives the answer; then everything is
/// as it was before. Two passes and one gradient for each batch. Trained numbers: two for each channel of each norm, for one batch.
///
/// # When to use
/// Batches of unknown domains in no order, small ones too: nothing is carried over, so nothing can go wrong for long. Plain SGD at
/// `lr = 1e-3` is the authors' choice. As the statistics of another method it brings AdaMixBN alone. Without batch norms the loss remains.
///
/// # Differences
/// In the authors' script $T^2$ is a column and the entropies are a row, so that their product has all pairs and every row counts with
/// the mean of $T^2$: `compat = "mean_scale"`. Where an input has one pixel only, its deviation does not exist, and distances are those
/// of the means. $T$ is at least $10^{-8}$. The authors write $\gamma'$ and $\beta'$ over the parameters, which compounds when batches
/// follow without a restart; here they are added as differences to what the patch holds. Their loss against augmented copies is left out.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Sgd;
/// use acclimate_tta::{Domainadaptor, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, sgd) = (Domainadaptor::default(), Sgd { lr: 1e-3, momentum: 0.0, nesterov: false });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&sgd)?, Reset::Never)?;
/// let batch = tiny::images(1, 4, DType::F32);
/// assert_eq!(stream.step(&batch)?.to_data(), stream.step(&batch)?.to_data());
/// let counts = stream.report().counts;
/// assert_eq!((counts.forwards, counts.backwards, counts.updates), (4, 2, 2));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Zhang et al., *DomainAdaptor: A Novel Approach to Test-time Adaptation*, ICCV 2023, arXiv:2308.10297.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "domainadaptor", title = "DomainAdaptor", catalogue = [186], paper = "arxiv:2308.10297", year = 2023)]
#[method(needs(gradients, optimiser, learning_rate), promises(order_invariant))]
#[method(case = "", case = "loss = \"gem_skd\"", case = "loss = \"em\"\ntarget_weight = 0.5")]
#[method(case = "compat = \"mean_scale\"")]
#[method(waive(
    every_declared_parameter_changes = "each batch is adapted to alone, and what moved is put back after its answer"
))]
pub struct Domainadaptor {
    /// What the step lowers: `gem_t`, `gem_skd` or `em`.
    pub loss: Gem,
    /// Weight of the batch's statistics at every norm, $1 - \lambda$, in place of the one by distances.
    #[method(min = 0, max = 1)]
    pub target_weight: Option<f64>,
    /// How losses of rows are scaled.
    pub compat: DomainadaptorCompat,
}

impl Default for Domainadaptor {
    fn default() -> Self {
        Self { loss: Gem::GemT, target_weight: None, compat: DomainadaptorCompat::None }
    }
}

/// Whose scale the losses of [`Domainadaptor`] have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainadaptorCompat {
    /// Each row's own $T^2$.
    #[default]
    None,
    /// That of the authors' script: the mean of all rows' $T^2$.
    MeanScale,
}

/// The losses of [`Domainadaptor`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gem {
    /// The entropy of predictions softened by their own spread.
    #[default]
    GemT,
    /// Cross-entropy of softened predictions with the sharp ones.
    GemSkd,
    /// The entropy as it is.
    Em,
}

impl Gem {
    /// The loss of each row of logits `[rows, classes]`.
    pub fn losses(self, logits: Tensor<2>) -> Tensor<1> {
        let (losses, squares) = self.softened(logits);
        losses * squares
    }

    /// The loss of each row before it is scaled, and its scale $T^2$.
    fn softened(self, logits: Tensor<2>) -> (Tensor<1>, Tensor<1>) {
        if self == Self::Em {
            let losses = entropy(logits);
            let ones = off_tape(&losses).ones_like();
            return (losses, ones);
        }
        let values = off_tape(&logits);
        let classes = values.dims()[1];
        let away = values.clone() - values.mean_dim(1);
        let spread = (away.clone().square().sum_dim(1) / classes.saturating_sub(1).max(1) as f64).sqrt();
        let temperature = (spread * 2.0).clamp_min(1e-8);
        // The mean is a constant: that it is taken out changes neither softmax nor gradient.
        let softened = logits / temperature.clone();
        let losses = match self {
            Self::GemSkd => {
                let target = activation::softmax(away, 1);
                (activation::log_softmax(softened, 1) * target).sum_dim(1).squeeze_dim::<1>(1).neg()
            }
            Self::GemT | Self::Em => entropy(softened),
        };
        (losses, temperature.square().squeeze_dim::<1>(1))
    }
}

/// Nothing: every batch stands alone.
#[derive(Clone, Debug, Record)]
pub struct DomainadaptorState {}

impl TestTime for Domainadaptor {
    type State = DomainadaptorState;

    fn prepare(&self, _: &mut Host<'_>) -> Result<DomainadaptorState> {
        Ok(DomainadaptorState {})
    }

    fn step(&self, batch: &Inputs, _: &mut DomainadaptorState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        // Not asked before: as the statistics of another method it trains nothing.
        host.check_trains_norms(Self::CARD.name)?;
        let mixing = Mixing::new(self);
        let answer = host
            .learn(|taped| {
                let seen = taped.forward_under(batch, &mixing)?;
                let (losses, squares) = self.loss.softened(seen.logits.clone());
                let scales = match self.compat {
                    DomainadaptorCompat::None => squares,
                    DomainadaptorCompat::MeanScale => squares.mean().expand(losses.dims()),
                };
                Ok((seen, Some(Loss::mean(losses * scales))))
            })
            .and_then(|_| host.forward_under(batch, &Transformed(mixing.differences())));
        // Also after an error: the next batch begins where this one did.
        host.reset()?;
        Ok(answer?.logits)
    }

    fn under(&self, _: &mut DomainadaptorState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        pass(&Mixing::new(self))
    }
}

/// AdaMixBN, and by how much it changed each norm's scale and shift.
struct Mixing {
    target_weight: Option<f64>,
    differences: Mutex<Params>,
}

impl Mixing {
    fn new(method: &Domainadaptor) -> Self {
        Self { target_weight: method.target_weight, differences: Mutex::default() }
    }

    fn differences(self) -> Params {
        self.differences.into_inner().expect(HELD)
    }
}

impl Normaliser for Mixing {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let own = unbiased(&norm)?;
        let [scale, shift] = {
            let source = norm.source()?;
            let own = Moments { mean: off_tape(&own.mean), variance: off_tape(&own.variance) };
            let lambda = match self.target_weight {
                Some(weight) => Tensor::full([1], 1.0 - weight, (&own.mean.device(), own.mean.dtype())),
                None => source_weight(&norm, &source, &own),
            };
            let channels = own.mean.dims();
            let lambda = lambda.expand(channels);
            let mixed = own.variance.clone() + (source.variance - own.variance.clone()) * lambda.clone();
            let deviation = (own.variance + norm.eps).sqrt();
            let (scale, shift) = (off_tape(&norm.scale), off_tape(&norm.shift));
            let new = scale.clone() * deviation.clone() / (mixed + norm.eps).sqrt();
            let shifted = lambda * (own.mean - source.mean) / deviation * new.clone();
            let mut differences = self.differences.lock().expect(HELD);
            let [scale, shift] = [new - scale, shift.zeros_like() + shifted];
            differences.insert(format!("{}.scale", norm.site.name), scale.clone());
            differences.insert(format!("{}.shift", norm.site.name), shift.clone());
            [scale, shift]
        };
        Ok(changed(norm, scale, shift).by(own))
    }
}

/// The batch's own moments under the scales and shifts that a first pass has found.
struct Transformed(Params);

impl Normaliser for Transformed {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let own = unbiased(&norm)?;
        let change = |part: &str| self.0.get::<1>(&format!("{}.{part}", norm.site.name));
        let [scale, shift] = [change("scale")?, change("shift")?];
        Ok(changed(norm, scale, shift).by(own))
    }
}

/// A norm whose scale and shift are larger by this.
fn changed(mut norm: BatchNorm<'_>, scale: Tensor<1>, shift: Tensor<1>) -> BatchNorm<'_> {
    (norm.scale, norm.shift) = (norm.scale + scale, norm.shift + shift);
    norm
}

/// The weight of the stored moments, by how near the inputs are to them and to those of the batch: one number.
fn source_weight(norm: &BatchNorm<'_>, source: &Moments, own: &Moments) -> Tensor<1> {
    let [_, _, height, width] = norm.x.dims();
    let pixels = (height * width) as f64;
    let row = |x: &Tensor<1>| x.clone().unsqueeze_dim::<2>(0);
    let [means, variances] = norm.rows().map(|moment| off_tape(&moment));
    let of = |a: Tensor<2>, b: Tensor<2>| (a - b).square().mean_dim(1);
    let apart = |mean: Tensor<2>, variance: Tensor<2>, from: &Moments| {
        let of_means = of(mean, row(&from.mean));
        if pixels > 1.0 { of_means + of(variance.sqrt(), row(&from.variance).sqrt()) } else { of_means }
    };
    let variances = variances * (pixels / (pixels - 1.0).max(1.0));
    let stored = apart(row(&own.mean), row(&own.variance), source);
    let all = stored.clone() + apart(means.clone(), variances.clone(), source) + apart(means, variances, own);
    // Where nothing differs from anything, the stored moments hold.
    let share = stored / all.clamp_min(f64::from(f32::MIN_POSITIVE));
    (share.ones_like() - share).clamp(0.0, 1.0).mean()
}

const HELD: &str = "nothing panics while the differences are held";
