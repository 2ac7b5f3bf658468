use crate::{
    Host, Loss, TestTime, Trains,
    augment::{Pixels, view},
    filter::below,
    loss::symmetric,
    teacher::follow,
};
use acclimate_core::{AnyTensor, Inputs, Method, Params, Record, Result, Rng, total};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Trains every weight on the predictions of a slow teacher, averaged over views of the batch where the unadapted model is unsure, and
/// sets some weights back at each step.
///
/// # Mathematics
/// The student $\theta$ and the teacher $\theta'$ begin at the start $\theta^0$. For a batch $x$ with
/// $c_i = \max_k \operatorname{softmax}(f_{\theta^0}(x_i))_k$ and $\bar c$ their mean, the target is
/// $$t = \begin{cases} \frac1A \sum_{a=1}^{A} f_{\theta'}(\operatorname{view}_a(x)) & \bar c < c_{\min} \\ f_{\theta'}(x) &
/// \text{otherwise,} \end{cases}$$
/// with $c_{\min}$ the `confidence`. The optimiser makes one step on
/// $$L = \frac1B \sum_i (1 - r)\, \mathrm{CE}(t_i, f_\theta(x_i)) + r\, \mathrm{CE}(f_\theta(x_i), t_i), \qquad
///   \mathrm{CE}(a, b) = -\sum_k \operatorname{softmax}(a)_k \log \operatorname{softmax}(b)_k,$$
/// without gradient through $t$; then $\theta' \leftarrow m\,\theta' + (1 - m)\,\theta$, and every number of $\theta$ is set to that of
/// $\theta^0$ with probability `restore`. The prediction is $t$. All three models take the statistics of the batch.
///
/// A view changes colours (brightness, contrast, saturation, hue, gamma, in random order), turns, shifts, scales, blurs, flips and
/// adds noise, all images of a batch alike. Memory: three times the trained weights and the optimiser's.
///
/// # When to use
/// Long streams of changing shifts, with memory and time for some thirty passes a batch where the model is unsure. Adam at `lr = 1e-3`
/// in batches of 200, or SGD at 0.01 with momentum 0.9 in batches of 64, are the authors' choices. `confidence` is about the lowest
/// twentieth of $c$ on inputs of training: 0.92 for ten classes, 0.72 for a hundred, 0.1 for a thousand; there the authors also take
/// `restore = 0.001` and `reverse = 0.5`. Where 300 steps are many, take `momentum = 0.99`. On transformers begin with a hundredth of
/// the rate.
///
/// # Differences
/// `unsure = "row"` compares each row by itself, as the text of the paper has it; the authors' script, and the default, compares the
/// mean of the batch, by which one easy image changes the path of its neighbours. Logits are averaged over views, not probabilities,
/// as in that script. It sets a weight back once for every module that holds it, by which the probability grows; here once. Beyond the
/// edge of an image its last pixel goes on without end. Pixels outside `low` to `high` are cut off in views.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng, Targets};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Cotta, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let (model, all) = (tiny::resnet(0, DType::F32), Targets::Word("all".to_owned()));
/// let mut patch = Patch::new();
/// let full = acclimate_peft::build("full", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "full", full, Some(&all), &mut Rng::new(0, "patch", 0))?;
///
/// let method = Cotta { augmentations: 4, low: -3.0, high: 3.0, ..Cotta::default() };
/// let adam = Adamw { lr: 1e-3, ..Adamw::default() };
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// stream.step(&tiny::images(1, 20, DType::F32))?;
/// // The unadapted model, four views, the student.
/// assert_eq!(stream.host().counts().forwards, 6);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Wang et al., *Continual Test-Time Domain Adaptation*, CVPR 2022, arXiv:2203.13591.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "cotta", title = "CoTTA", catalogue = [18], paper = "arxiv:2203.13591", year = 2022)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant), validate = Self::has_room)]
#[method(case = "augmentations = 2", case = "augmentations = 2\nunsure = \"row\"\nreverse = 0.5\nconfidence = 0.8")]
#[method(waive(
    without_movement_outputs_are_those_of_batch_statistics = "where the model is unsure the prediction is a mean over views",
    contrast_does_not_reach_the_predictions = "views cut pixels off at fixed values"
))]
pub struct Cotta {
    /// Share of its old self that the teacher keeps at a step, $m$.
    #[method(min = 0, max = 1)]
    pub momentum: f64,
    /// Probability with which a number is set back to the start.
    #[method(min = 0, max = 1)]
    pub restore: f64,
    /// Below this confidence of the unadapted model, views are averaged, $c_{\min}$; 0 is never.
    #[method(min = 0, max = 1)]
    pub confidence: f64,
    /// Whose confidence is compared.
    pub unsure: Unsure,
    /// Views that are averaged, $A$.
    #[method(min = 1)]
    pub augmentations: usize,
    /// Share of the cross-entropy the other way round, $r$.
    #[method(min = 0, max = 1)]
    pub reverse: f64,
    /// The lowest value of a pixel.
    pub low: f64,
    /// The highest value of a pixel.
    pub high: f64,
    /// Names the random streams.
    pub seed: u64,
}

impl Default for Cotta {
    fn default() -> Self {
        Self {
            momentum: 0.999,
            restore: 0.01,
            confidence: 0.92,
            unsure: Unsure::Batch,
            augmentations: 32,
            reverse: 0.0,
            low: 0.0,
            high: 1.0,
            seed: 0,
        }
    }
}

/// Whose confidence decides whether views are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsure {
    /// The batch's mean, for all rows.
    #[default]
    Batch,
    /// Each row's own.
    Row,
}

/// The teacher, and how many batches it has seen.
#[derive(Clone, Debug, Record)]
pub struct CottaState {
    /// The teacher, $\theta'$.
    pub teacher: Params,
    /// Batches seen: names the random draws of each.
    pub step: u64,
}

impl TestTime for Cotta {
    type State = CottaState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<CottaState> {
        host.check_trains(Self::CARD.name)?;
        Ok(CottaState { teacher: host.patch().params.clone(), step: 0 })
    }

    fn step(&self, batch: &Inputs, state: &mut CottaState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let start = host.first().params.clone();
        let sure = activation::softmax(host.forward_at(&start, batch)?.logits, 1).max_dim(1);
        let target = self.target(batch, sure, state, host)?;
        host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let loss = Loss::mean(symmetric(target.clone(), seen.logits.clone(), self.reverse));
            Ok((seen, Some(loss)))
        })?;
        state.teacher = follow(&state.teacher, &host.patch().params, self.momentum);
        if self.restore > 0.0 {
            host.amend(Self::CARD.name, self.restored(&host.patch().params, &start, state.step))?;
        }
        state.step += 1;
        Ok(target)
    }

    fn trains(&self) -> Trains {
        Trains::Everything
    }
}

impl Cotta {
    fn pixels(&self) -> Pixels {
        Pixels { low: self.low, high: self.high }
    }

    fn has_room(&self) -> Result<()> {
        self.pixels().check(Self::CARD.name)
    }

    /// The teacher's logits; `sure` is the unadapted model's confidence, `[batch, 1]`.
    fn target(&self, batch: &Inputs, sure: Tensor<2>, state: &CottaState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let compared = match self.unsure {
            Unsure::Batch => sure.clone().mean_dim(0).expand(sure.dims()),
            Unsure::Row => sure,
        };
        let unsure = below(&compared.squeeze_dim::<1>(1), self.confidence);
        let count = total(vec![unsure.clone().sum()]) as usize;
        if count == 0 {
            return Ok(host.forward_at(&state.teacher, batch)?.logits);
        }
        let mut sum: Option<Tensor<2>> = None;
        let mut rng = Rng::new(self.seed, "view", state.step);
        for _ in 0..self.augmentations {
            let logits =
                host.forward_at(&state.teacher, &view(Self::CARD.name, batch, self.pixels(), &mut rng)?)?.logits;
            sum = Some(match sum {
                Some(sum) => sum + logits,
                None => logits,
            });
        }
        let mean = sum.expect("there is a view at least") / self.augmentations as f64;
        if count == mean.dims()[0] {
            return Ok(mean);
        }
        let plain = host.forward_at(&state.teacher, batch)?.logits;
        Ok(plain.mask_where(unsure.equal_elem(1.0).unsqueeze_dim::<2>(1).expand(mean.dims()), mean))
    }

    /// The student with some of its numbers those of the start.
    fn restored(&self, student: &Params, start: &Params, step: u64) -> Params {
        let mut rng = Rng::new(self.seed, "restore", step);
        let back = student.map(|_, tensor| {
            let back = (0..tensor.count()).map(|_| f64::from(u8::from(rng.uniform() < self.restore))).collect();
            AnyTensor::from_f64s(back, &tensor.shape(), tensor.dtype(), &tensor.device())
        });
        let kept = student.zip(&back, |now, back| now * (back.neg() + 1.0));
        let set = start.zip(&back, |start, back| start * back);
        kept.zip(&set, |kept, set| kept + set)
    }
}
