use crate::{Gradient, Host, Loss, Seen, TestTime, losses};
use acclimate_core::{AnyTensor, Error, Inputs, Method, Params, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Lets a language model learn from the text it has just scored, so that its names, topics and style become likely.
///
/// # Mathematics
/// Each segment is scored with the weights as they are; then its mean loss moves them once, and a decay pulls them back to where they
/// began, $\theta_0$. With $g$ the gradient of the segment's mean loss
/// $$\text{sgd:}\quad \theta \leftarrow \theta - \eta\,g + \lambda\,(\theta_0 - \theta), \qquad
///   \text{rms:}\quad \theta \leftarrow \theta - \eta\,\frac{g}{M + \epsilon} + R \odot (\theta_0 - \theta).$$
/// $M = \sqrt{\tfrac1n \sum g \odot g}$ is measured once over $n$ reference batches; $R = \min(\lambda M / \bar m,\ 1)$, where $\bar m$ is the
/// mean over tensors of the mean of each tensor's $M$. No loss depends on its own update or on a later word. Trained numbers: the patch's.
///
/// # When to use
/// Long texts with habits of their own: novels, logs, code, one person's messages. The first segments gain little. The default rate was
/// chosen for SmolLM2-135M, all linear weights and segments of 128 words, on the beginning of one novel; six times as much destroyed the
/// model. Halve it where segments are half as long. The adapted patch remembers the text: keep one per user, and delete it on request. Report static and
/// dynamic losses side by side: they are different protocols.
///
/// # Differences
/// The authors' recurrent models carry a state from segment to segment; here each segment has the words before it as context, which are
/// read again and not scored again. They adapt all weights; here what the patch overrides, which with `full` on all sites is the same.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_tta::{DynamicEvaluation, Host, Reset, Stream, losses, segments};
/// use burn::tensor::{DType, Device};
///
/// let model = tiny::llama(0, DType::F32);
/// let mut patch = Patch::new();
/// let full = acclimate_peft::build("full", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "full", full, None, &mut Rng::new(0, "patch", 0))?;
///
/// let method = DynamicEvaluation { lr: 0.1, ..DynamicEvaluation::default() };
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?, Reset::Never)?;
/// let text: Vec<u32> = (0..200).map(|at| at % 7).collect();
/// let mut said = vec![];
/// for segment in segments(&text, 10, 10, DType::F32, &Device::flex()) {
///     said.push(losses(stream.step(&segment)?, &segment)?.mean().into_scalar::<f32>());
/// }
/// assert!(said[19] < said[0]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Krause, Kahembwe, Murray and Renals, *Dynamic Evaluation of Neural Sequence Models*, ICML 2018, arXiv:1709.07432.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dynamic_evaluation", title = "Dynamic evaluation", catalogue = [66], paper = "arxiv:1709.07432", year = 2018)]
#[method(needs(gradients, text, learning_rate), promises(order_invariant))]
#[method(case = "", case = "rule = \"rms\"\nlr = 1e-3\ndecay = 0.01\neps = 1e-4")]
pub struct DynamicEvaluation {
    /// `sgd`, or `rms`: steps divided by the size that gradients have on reference batches.
    pub rule: Rule,
    /// Step size, $\eta$.
    #[method(above = 0)]
    pub lr: f64,
    /// Pull towards the start, $\lambda$.
    #[method(min = 0, max = 1)]
    pub decay: f64,
    /// Added to the size of gradients, $\epsilon$; for `rms`.
    #[method(min = 0)]
    pub eps: f64,
}

impl Default for DynamicEvaluation {
    fn default() -> Self {
        Self { rule: Rule::Sgd, lr: 5e-3, decay: 1e-3, eps: 2e-5 }
    }
}

/// How gradients become steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// As they are.
    #[default]
    Sgd,
    /// Divided by their usual size.
    Rms,
}

/// What the `rms` rule measured; empty under `sgd`.
#[derive(Clone, Debug, Record)]
pub struct DynamicEvaluationState {
    /// The root of the mean square of gradients, $M$.
    pub size: Params,
    /// Their share of the mean size, $M / \bar m$.
    pub share: Params,
}

impl TestTime for DynamicEvaluation {
    type State = DynamicEvaluationState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<DynamicEvaluationState> {
        let refused = |what: &str, instead: &str| {
            let (who, what, instead) = (Self::CARD.name.to_owned(), what.to_owned(), instead.to_owned());
            Err(Error::Unsupported { who, what, instead })
        };
        host.check_trains(Self::CARD.name)?;
        let batches = host.reference_batches();
        match (self.rule, batches.is_empty()) {
            (Rule::Sgd, _) => return Ok(DynamicEvaluationState { size: Params::default(), share: Params::default() }),
            (Rule::Rms, true) => {
                return refused(
                    "measure gradients without reference batches",
                    "give the host some, or choose `rule = \"sgd\"`",
                );
            }
            (Rule::Rms, false) => {}
        }
        let mut sum = host.patch().params.zeros_like();
        for batch in batches {
            let (_, Gradient { gradients, .. }) = self.gradient(batch, host)?;
            sum = sum.zip(&gradients, |sum, g| sum + g.square());
        }
        let size = sum.map(|_, sum| AnyTensor::from_elements((sum.elements() / batches.len() as f64).sqrt()));
        let means: Vec<f64> = size.iter().map(|(_, m)| acclimate_core::total(vec![m.elements().mean()])).collect();
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        if mean == 0.0 {
            return refused("scale by gradients that are all zero", "give other reference batches");
        }
        let share = size.map(|_, m| AnyTensor::from_elements(m.elements() / mean));
        Ok(DynamicEvaluationState { size, share })
    }

    fn step(&self, batch: &Inputs, state: &mut DynamicEvaluationState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let (Seen { logits, .. }, Gradient { gradients, .. }) = self.gradient(batch, host)?;
        let (params, first) = (&host.patch().params, &host.first().params);
        let away = first.zip(params, |first, now| first - now);
        let next = match self.rule {
            Rule::Sgd => {
                let moved = params.zip(&gradients, |now, g| now - g * self.lr);
                moved.zip(&away, |moved, away| moved + away * self.decay)
            }
            Rule::Rms => {
                let step = gradients.zip(&state.size, |g, size| g / (size + self.eps) * self.lr);
                let pull = away.zip(&state.share, |away, share| away * (share * self.decay).clamp_max(1.0));
                params.zip(&step, |now, step| now - step).zip(&pull, |moved, pull| moved + pull)
            }
        };
        host.replace(Self::CARD.name, next)?;
        Ok(logits)
    }
}

impl DynamicEvaluation {
    /// The gradient of a segment's mean loss, and what was said of it.
    fn gradient(&self, batch: &Inputs, host: &mut Host<'_>) -> Result<(Seen, Gradient)> {
        let (seen, gradient) = host.gradient(|taped| {
            let seen = taped.forward(batch)?;
            let loss = Loss::mean(losses(seen.logits.clone(), batch)?);
            Ok((seen, Some(loss)))
        })?;
        Ok((seen, gradient.expect("there is a loss")))
    }
}
