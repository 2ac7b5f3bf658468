use crate::{
    Host, Loss, Share, Squares, TestTime, anchor, entropy,
    filter::{below, cosine, entropy_bound, mean_of_kept},
};
use acclimate_core::{Error, Inputs, Method, Params, Record, Result};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Tunes the norms on sure predictions that tell something new, and holds parameters that mattered at training near their start.
///
/// # Mathematics
/// With $p_i$ the prediction for row $i$, $H_i$ its entropy, $K$ classes, $E_0 = e \ln K$ (`entropy_share`) and $m$ the running mean
/// of kept predictions, row $i$ is kept, $i \in S$, where
/// $$H_i < E_0 \quad\text{and}\quad |\cos(p_i, m)| < \epsilon \quad(\texttt{similarity};\ \text{skipped while there is no } m),$$
/// and counts by $w_i = e^{E_0 - H_i}$, through which no gradient flows. One step of the optimiser on
/// $$L = \frac{1}{|S|} \sum_{i \in S} w_i H_i + \beta \sum_j F_j (\theta_j - \theta^0_j)^2 \quad(\beta: \texttt{fisher}),$$
/// then $m \leftarrow 0.9\,m + 0.1\,\overline{p}_S$, at first $\overline{p}_S$. A batch of which no row is kept changes nothing. $F$ is
/// the mean over the reference batches of the squared gradient of $-\log p_{\hat y}$, taken once, before the first batch. Batch norms
/// take the statistics of the batch.
///
/// With `fisher = 0` this is ETA, which needs no reference batches.
///
/// # When to use
/// Where Tent fits but its cost counts, where the stream returns to inputs like those of training, and for long runs. The authors
/// take `similarity = 0.4` and `fisher = 1` for ten classes, 0.1 and 1 for a hundred, 0.05 and 2000 for a thousand. Five hundred
/// to two thousand reference rows are enough. `Counts::backward_rows` tells how many rows were kept, after those that $F$ took.
///
/// # Differences
/// The weight `fisher` belongs to a way of squaring: the authors square the gradients of a batch's mean loss, which are about $1/B$
/// of those of single rows (`squares = "row"`). `share = "batch"` divides by $B$ instead of $|S|$, so that one kept row makes no
/// full step. A reset brings back the state without $m$; the authors' script keeps the old one. A penalty without reference
/// batches is refused; a known package turns to ETA in silence. The absolute value in the filter has no effect on probabilities.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Eata, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let reference = [tiny::images(1, 20, DType::F32)];
/// let (method, adam) = (Eata::default(), Adamw { lr: 1e-3, ..Adamw::default() });
/// let host = Host::new(&model, patch)?.reference(&reference).optimiser(&adam)?;
/// let mut stream = Stream::new(&method, host, Reset::Never)?;
/// let before = stream.host().counts().backward_rows;
/// for seed in 2..12 {
///     stream.step(&tiny::images(seed, 20, DType::F32))?;
/// }
/// assert!(stream.host().counts().backward_rows - before < 200);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Niu et al., *Efficient Test-Time Model Adaptation without Forgetting*, ICML 2022, arXiv:2204.02610.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "eata", title = "EATA", catalogue = [45], paper = "arxiv:2204.02610", year = 2022)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant), case = "")]
#[method(case = "fisher = 0.0\nentropy_share = 0.7\nshare = \"batch\"", case = "squares = \"row\"")]
pub struct Eata {
    /// Rows with less than this share of the largest entropy, $\ln K$, are sure; $e$.
    #[method(above = 0)]
    pub entropy_share: f64,
    /// Rows whose cosine with the running mean is below this tell something new; $\epsilon$.
    #[method(above = 0)]
    pub similarity: f64,
    /// Weight of the pull to the start, $\beta$; 0 is ETA.
    #[method(min = 0)]
    pub fisher: f64,
    /// Whose gradients are squared for $F$.
    pub squares: Squares,
    /// What the sum over kept rows is divided by.
    pub share: Share,
}

impl Default for Eata {
    fn default() -> Self {
        Self { entropy_share: 0.4, similarity: 0.4, fisher: 1.0, squares: Squares::Batch, share: Share::Kept }
    }
}

/// The importance of parameters, and the mean of the predictions that were kept.
#[derive(Clone, Debug, Record)]
pub struct EataState {
    /// $F$; empty without a penalty.
    pub fisher: Params,
    /// $m$ as `probabilities`; empty before the first kept row.
    #[record(own)]
    pub mean: Params,
}

/// Under which name the mean prediction is kept.
const MEAN: &str = "probabilities";

impl TestTime for Eata {
    type State = EataState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<EataState> {
        host.check_trains_norms(Self::CARD.name)?;
        let fisher = match (self.fisher > 0.0, host.reference_batches().is_empty()) {
            (false, _) => Params::default(),
            (true, false) => anchor::fisher(host, self.squares)?,
            (true, true) => {
                return Err(Error::Unsupported {
                    who: Self::CARD.name.to_owned(),
                    what: "weigh parameters without reference batches".to_owned(),
                    instead: "give the host some inputs like those of training, or set `fisher = 0`".to_owned(),
                });
            }
        };
        Ok(EataState { fisher, mean: Params::default() })
    }

    fn step(&self, batch: &Inputs, state: &mut EataState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let start = host.first().params.clone();
        let mean = state.mean.get::<1>(MEAN).ok();
        let mut kept = None;
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let logits = seen.inner().logits;
            let [rows, classes] = logits.dims();
            let (entropies, bound) = (entropy(logits.clone()), entropy_bound(self.entropy_share, classes));
            let predicted = activation::softmax(logits, 1);
            let mut keep = below(&entropies, bound);
            if let Some(mean) = &mean {
                keep = keep * below(&cosine(predicted.clone(), mean).abs(), self.similarity);
            }
            let weights = (entropies.neg() + bound).exp();
            let Some(loss) = Loss::kept(entropy(seen.logits.clone()), weights, keep.clone()) else {
                return Ok((seen, None));
            };
            kept = Some(mean_of_kept(predicted, &keep));
            let mut loss = self.share.of(loss, rows);
            if let Some(pull) = anchor::pull(&state.fisher, taped.params(), &start) {
                loss.value = loss.value + pull * self.fisher;
            }
            Ok((seen, Some(loss)))
        })?;
        if let Some(kept) = kept {
            let next = match mean {
                Some(mean) => mean * 0.9 + kept * 0.1,
                None => kept,
            };
            state.mean.insert(MEAN, next);
        }
        Ok(seen.logits)
    }
}
