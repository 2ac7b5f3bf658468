use crate::{Host, Loss, TestTime, entropy, filter::unit, loss::mean_entropy};
use acclimate_core::{Inputs, Method, Record, Result};
use burn::tensor::{Int, Tensor, activation};
use serde::{Deserialize, Serialize};

/// Makes each prediction sure and predictions together even, with labels from the nearest centre of the batch's own classes.
///
/// # Mathematics
/// With $p_i$ the prediction of row $i$, $\bar p$ their mean and $H$ the entropy, one step of the optimiser on
/// $$L = \frac1B \sum_i H(p_i) - \alpha\, H(\bar p) - \beta\, \frac1B \sum_i \log p_{i \hat y_i}.$$
/// $\alpha$ is `diversity`, $\beta$ `pseudo_label`. The labels come from the features $g_i$, with a one put at their end and divided by their
/// length: centres $\mu_k = \sum_i p_{ik}\, g_i / \sum_i p_{ik}$, then the class whose centre has the largest cosine, among classes that some
/// row is predicted as; then both once more with these labels in place of $p$. No gradient flows through them. Batch norms take the
/// statistics of the batch.
///
/// # When to use
/// A target set with classes in even shares that may be gone over for some epochs. The patch says what is trained; the head is left out, so
/// that features move to where training left the classes. On streams with uneven classes the even mean harms.
///
/// # Differences
/// The authors label the whole set before an epoch; here each batch is labelled by itself, with the model as it is. Logarithms are exact,
/// theirs have 1e-5 added inside. They train a bottleneck of their own and every layer below it; by default the norms are trained here.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Reset, Shot, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, adam) = (Shot::default(), Adamw { lr: 1e-3, ..Adamw::default() });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert_eq!(stream.host().updates(), 1);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Liang, Hu & Feng, *Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised Domain Adaptation*, ICML 2020,
/// arXiv:2002.08546.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "shot", title = "SHOT", catalogue = [], paper = "arxiv:2002.08546", year = 2020)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "", case = "pseudo_label = 0.0\ndiversity = 0.5")]
pub struct Shot {
    /// Weight of the mean prediction's entropy, $\alpha$.
    #[method(min = 0)]
    pub diversity: f64,
    /// Weight of the cross-entropy with labels from centres, $\beta$.
    #[method(min = 0)]
    pub pseudo_label: f64,
}

impl Default for Shot {
    fn default() -> Self {
        Self { diversity: 1.0, pseudo_label: 0.3 }
    }
}

/// Nothing: the patch and the optimiser's moments are the host's.
#[derive(Clone, Debug, Record)]
pub struct ShotState {}

impl TestTime for Shot {
    type State = ShotState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<ShotState> {
        host.check_trains(Self::CARD.name)?;
        Ok(ShotState {})
    }

    fn step(&self, batch: &Inputs, _: &mut ShotState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let (logits, rows) = (seen.logits.clone(), seen.rows());
            let mut value = entropy(logits.clone()).mean() - mean_entropy(logits.clone()) * self.diversity;
            if self.pseudo_label > 0.0 {
                let plain = seen.inner();
                let labels = by_centres(plain.features, activation::softmax(plain.logits, 1));
                let log = activation::log_softmax(logits, 1) * labels;
                value = value - log.sum() * (self.pseudo_label / rows as f64);
            }
            Ok((seen, Some(Loss { value, rows })))
        })?;
        Ok(seen.logits)
    }
}

/// The class of the nearest centre for each row, as ones among zeros, `[rows, classes]`.
fn by_centres(features: Tensor<2>, predicted: Tensor<2>) -> Tensor<2> {
    let ones = features.clone().narrow(1, 0, 1).ones_like();
    let features = unit(Tensor::cat(vec![features, ones], 1));
    let told = |scores: Tensor<2>| {
        let [rows, classes] = scores.dims();
        let numbers = Tensor::<1, Int>::arange(0..classes as i64, &scores.device()).unsqueeze_dim::<2>(0);
        let best = scores.clone().argmax(1).expand([rows, classes]);
        scores.zeros_like().mask_fill(numbers.expand([rows, classes]).equal(best), 1.0)
    };
    let mut labels = told(predicted.clone());
    let mut shares = predicted;
    for _ in 0..2 {
        // The length of a centre does not matter to its cosine.
        let centres = unit(shares.transpose().matmul(features.clone()));
        let cosines = features.clone().matmul(centres.transpose());
        let nobody = labels.sum_dim(0).equal_elem(0.0).expand(cosines.dims());
        labels = told(cosines.mask_fill(nobody, -2.0));
        shares = labels.clone();
    }
    labels
}
