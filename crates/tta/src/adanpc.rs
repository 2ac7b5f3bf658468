use crate::{FeatureMemory, Host, Seen, TestTime};
use acclimate_core::{AnyTensor, Error, Inputs, Method, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Replaces the head by a vote of the nearest remembered features, and remembers what it has classified.
///
/// # Mathematics
/// The memory begins with the features of labelled reference rows, each divided by its length. For an input with feature $\phi$ of length
/// one and its $k$ nearest entries, at cosines $s_1 \ge \dots \ge s_k$ with classes $\ell_j$,
/// $$w = \operatorname{softmax}(s/\tau), \qquad \text{vote}_c = \sum_j w_j\,[\ell_j = c], \qquad
///   p_c = \min(\text{vote}_c + 10^{-5},\ 1).$$
/// With `ball` $= \epsilon$, where every row of a batch has an entry nearer than $\epsilon$, all entries with $s_j \ge \epsilon$ vote in
/// place of the nearest $k$. A row whose largest vote is at least `threshold` joins the memory under its class, after the whole batch is
/// classified. The answer is given as $\log p$. No gradients; the network does not change. It remembers a feature and a class for each
/// entry.
///
/// # When to use
/// Series of domains that drift step by step, such as slow rotation, from a model whose weights cannot be touched. Ten neighbours served
/// better than fifty there. One sudden shift gains nothing: what is taken in under wrong classes is believed the more, the longer it goes
/// on; `self_share` bounds that, and with it the memory, which otherwise grows with the stream. Norms keep the statistics
/// stored with the model, unless another method brings some.
///
/// # Differences
/// The authors admit a row by the largest entry of $\operatorname{softmax}(p)$, a second softmax, which lies between $1/K$ and
/// $e/(e + K - 1)$: `compat = "double_softmax"` does that. Their script keeps one random entry of class 0 in the memory; here there is
/// none. `self_share` is not theirs. Their variant that trains a norm is left out.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{Adanpc, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), Adanpc { neighbours: 5, ..Adanpc::default() });
/// let (reference, labels) = ([tiny::images(1, 6, DType::F32)], [vec![0, 1, 2, 0, 1, 2]]);
/// let host = Host::new(&model, Patch::new())?.reference(&reference).labels(&labels)?;
/// let mut stream = Stream::new(&method, host, Reset::Never)?;
/// let logits = stream.step(&tiny::images(2, 20, DType::F32))?;
/// assert_eq!(logits.dims(), [20, 3]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Zhang et al., *AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation*, ICML 2023, arXiv:2304.12566.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "adanpc", title = "AdaNPC", catalogue = [4], paper = "arxiv:2304.12566", year = 2023)]
#[method(promises(order_invariant), case = "", case = "neighbours = 5\nthreshold = 0.6\nself_share = 0.2")]
#[method(case = "compat = \"double_softmax\"\nthreshold = 0.45\nball = 0.9")]
pub struct Adanpc {
    /// Entries that vote, $k$.
    #[method(min = 1)]
    pub neighbours: usize,
    /// Divides the cosines, $\tau$.
    #[method(above = 0)]
    pub temperature: f64,
    /// The largest vote from which on a row is remembered; 0 takes in all, more than 1 none.
    #[method(min = 0)]
    pub threshold: f64,
    /// Largest share of the memory that may be rows of the stream; the oldest of them are forgotten. 1 is no bound.
    #[method(min = 0, max = 1)]
    pub self_share: f64,
    /// The cosine of entries that vote, however many they are, $\epsilon$; nothing asks the nearest.
    #[method(min = -1, max = 1)]
    pub ball: Option<f64>,
    /// What the threshold is held against.
    pub compat: AdanpcCompat,
}

impl Default for Adanpc {
    fn default() -> Self {
        Self {
            neighbours: 10,
            temperature: 0.1,
            threshold: 0.0,
            self_share: 1.0,
            ball: None,
            compat: AdanpcCompat::None,
        }
    }
}

/// Whose scale the threshold of [`Adanpc`] has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdanpcCompat {
    /// The vote's.
    #[default]
    None,
    /// That of the authors' script: a softmax of the vote.
    DoubleSoftmax,
}

impl TestTime for Adanpc {
    type State = FeatureMemory;

    fn prepare(&self, host: &mut Host<'_>) -> Result<FeatureMemory> {
        let (batches, labels) = (host.reference_batches(), host.reference_labels());
        if labels.is_empty() {
            return Err(Error::Unsupported {
                who: Self::CARD.name.to_owned(),
                what: "fill its memory without labelled reference batches".to_owned(),
                instead:
                    "give the host some with their classes, or choose a method that keeps the head, such as `lame`"
                        .to_owned(),
            });
        }
        let mut features = vec![];
        for batch in batches {
            features.push(host.forward_stored(batch)?.features);
        }
        FeatureMemory::new(Tensor::cat(features, 0), &labels.concat())
    }

    fn step(&self, batch: &Inputs, memory: &mut FeatureMemory, host: &mut Host<'_>) -> Result<Tensor<2>> {
        self.answer(&host.forward_stored(batch)?, memory)
    }
}

impl Adanpc {
    /// The vote, $\log p$, on what any model makes of a batch; the memory takes in what it may.
    ///
    /// # Errors
    /// When the features have another width than those remembered, or a class is remembered that the model does not have.
    pub fn answer(&self, seen: &Seen, memory: &mut FeatureMemory) -> Result<Tensor<2>> {
        let [rows, classes] = seen.logits.dims();
        let known: Vec<usize> = memory.classes().collect();
        if let Some(class) = known.iter().find(|class| **class >= classes) {
            return Err(Error::Other(format!(
                "{}: a reference row is of class {class}, but the model has {classes}; count classes from 0",
                Self::CARD.name
            )));
        }
        let (mut answers, mut admitted) = (Vec::with_capacity(rows * classes), vec![]);
        for (row, near) in self.voters(seen, memory)?.into_iter().enumerate() {
            let votes = self.votes(&near, &known, classes);
            let p: Vec<f64> = votes.iter().map(|vote| (vote + 1e-5).clamp(0.0, 1.0)).collect();
            // The first of equals.
            let best = (0..classes).rev().max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap_or_default();
            let confidence = match self.compat {
                AdanpcCompat::None => votes[best],
                AdanpcCompat::DoubleSoftmax => 1.0 / p.iter().map(|other| (other - p[best]).exp()).sum::<f64>(),
            };
            if confidence >= self.threshold {
                admitted.push((row, best));
            }
            answers.extend(p.into_iter().map(f64::ln));
        }
        memory.append(&seen.features, &admitted)?;
        if self.self_share < 1.0 {
            memory.cap((memory.given() as f64 * self.self_share / (1.0 - self.self_share)) as usize)?;
        }
        let (dtype, device) = (seen.logits.dtype(), seen.logits.device());
        Ok(AnyTensor::from_f64s(answers, &[rows, classes], dtype, &device).get().expect("made with two axes"))
    }

    /// The entries that vote on each row, the nearest first.
    fn voters(&self, seen: &Seen, memory: &FeatureMemory) -> Result<Vec<Vec<(usize, f64)>>> {
        if let Some(ball) = self.ball {
            let mut all = memory.nearest(&seen.features, memory.len())?;
            if all.iter().all(|near| near.first().is_some_and(|(_, cosine)| *cosine > ball)) {
                all.iter_mut().for_each(|near| near.retain(|(_, cosine)| *cosine >= ball));
                return Ok(all);
            }
        }
        memory.nearest(&seen.features, self.neighbours)
    }

    /// How much of the vote each class gets from the entries near a row.
    fn votes(&self, near: &[(usize, f64)], known: &[usize], classes: usize) -> Vec<f64> {
        let most = near.first().map_or(0.0, |(_, cosine)| *cosine);
        let weights: Vec<f64> = near.iter().map(|(_, cosine)| ((cosine - most) / self.temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut votes = vec![0.0; classes];
        for ((entry, _), weight) in near.iter().zip(weights) {
            votes[known[*entry]] += weight / sum;
        }
        votes
    }
}
