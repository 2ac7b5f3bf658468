use crate::{Host, Loss, Objective, TestTime, loss::mean_entropy};
use acclimate_core::{Inputs, Method, Record, Result};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Tunes the norms only on rows that adaptation has not made less sure of the class the unadapted model saw.
///
/// # Mathematics
/// $p^0$ is the prediction at the start of the patch, $p$ that of now, both under the same statistics, and
/// $\hat y_i = \arg\max_k p^0_{ik}$ on both sides. A row is kept, $i \in S$, where
/// $$p_{i \hat y_i} \ge p^0_{i \hat y_i}.$$
/// One step of the optimiser on
/// $$L = \frac{1}{|S|} \sum_{i \in S} \ell_i - \alpha\, H\Bigl(\frac1B \sum_i p_i\Bigr),$$
/// with $\ell$ the entropy or the cross-entropy with the likeliest class (`objective`) and $\alpha$ the weight of `diversity`. A batch
/// of which no row is kept changes nothing. The first batch keeps all rows and learns as Tent does. An update is shared: rows whose
/// gradient disagrees with the majority's lose certainty, and those are mostly wrong ones or of a class that nobody knows.
///
/// # When to use
/// Long streams, and streams with inputs of unknown classes. It learns more slowly than Tent where Tent is healthy. An early burst of
/// unknown inputs passes the filter. One more forward pass for each batch. Adam at `lr = 1e-3` in batches of 200 is a usual choice.
///
/// # Differences
/// Layer and group norms are tuned too where the patch holds them. The diversity term is that of a re-implementation by another
/// group and off by default.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Ostta, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, adam) = (Ostta::default(), Adamw { lr: 1e-3, ..Adamw::default() });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert_eq!(stream.host().counts().backward_rows, 20);
/// assert_eq!(stream.host().counts().forwards, 2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Lee et al., *Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization*, ICCV 2023,
/// arXiv:2308.06879.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "ostta", title = "OSTTA", catalogue = [19], paper = "arxiv:2308.06879", year = 2023)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "", case = "objective = \"pseudo_label\"\ndiversity = 0.5")]
pub struct Ostta {
    /// The loss of a kept row.
    pub objective: Objective,
    /// Weight of the mean prediction's entropy, $\alpha$, which keeps classes apart.
    #[method(min = 0)]
    pub diversity: f64,
}

/// Nothing: the start is the host's first patch.
#[derive(Clone, Debug, Record)]
pub struct OsttaState {}

impl TestTime for Ostta {
    type State = OsttaState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<OsttaState> {
        host.check_trains_norms(Self::CARD.name)?;
        Ok(OsttaState {})
    }

    fn step(&self, batch: &Inputs, _: &mut OsttaState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let start = host.first().params.clone();
        let before = activation::softmax(host.forward_at(&start, batch)?.logits, 1);
        let class = before.clone().argmax(1);
        let of_class = |predicted: Tensor<2>| predicted.gather(1, class.clone()).squeeze_dim::<1>(1);
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let now = activation::softmax(seen.inner().logits, 1);
            let risen = of_class(now).greater_equal(of_class(before));
            let losses = self.objective.of(seen.logits.clone());
            let weights = losses.ones_like();
            let keep = weights.zeros_like().mask_fill(risen, 1.0);
            let mut loss = Loss::kept(losses, weights, keep);
            if let Some(loss) = loss.as_mut().filter(|_| self.diversity > 0.0) {
                loss.value = loss.value.clone() - mean_entropy(seen.logits.clone()) * self.diversity;
            }
            Ok((seen, loss))
        })?;
        Ok(seen.logits)
    }
}
