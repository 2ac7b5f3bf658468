use crate::{
    Host, Loss, TestTime,
    filter::{below, entropy_bound},
};
use acclimate_core::{AnyTensor, Error, Inputs, Method, Params, Record, Result};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// Tunes the norms so that a whole neighbourhood of each feature is sure and of one mind, not the point alone.
///
/// # Mathematics
/// The neighbourhood of a feature $z$ is $z' \sim N(z, \tau \Sigma)$ with $\Sigma = \operatorname{diag}(\sigma^2)$ the variances of features of
/// the reference batches, seen under the stored statistics. With the head's rows $w_k$, logits $a$ and $p = \operatorname{softmax}(a)$
/// $$Q_{ij} = \frac{\tau}{2} \sum_d \sigma_d^2 (w_{jd} - w_{id})^2, \qquad A_i = \log \sum_j \exp(a_j - a_i + Q_{ij}).$$
/// By Jensen's inequality and the moments of a Gaussian $\mathbb{E}[-\log p_i(z')] \le A_i$. So the region's instability and its entropy
/// $$L_{RI} = \sum_i p_i (A_i + \log p_i) \ge \mathbb{E}\, \mathrm{KL}(p(z) \,\|\, p(z')), \qquad
///   L_{RE} = \sum_i p_i A_i = H(p) + L_{RI}$$
/// bound what they stand for from above. One step of the optimiser on the mean over the kept rows of
/// $$e^{\tau_E - L_{RE}} \,(L_{RE} + \lambda L_{RI}), \qquad \text{kept where } L_{RE} < \tau_E = e \ln K,$$
/// without gradient through the weight; $e$ is `entropy_share`, $\lambda$ `instability`. With `entropy_share = 0` every row is kept at weight
/// one. At $\tau = 0$ both terms fall back to Tent's. No row kept, no change.
///
/// # When to use
/// Single images, mixed shifts and uneven classes on a network with group or layer norms; the batch norms' statistics would move the
/// neighbourhood between batches. It costs a forward and a backward pass as Tent, and batch × classes² numbers of memory. SGD at 2.5e-4
/// with momentum 0.9 for ResNets, 1e-3 for transformers.
///
/// # Differences
/// There is no code of the authors to compare with, and the paper's own form of the region's entropy was not at hand: $L_{RE}$ bounds the
/// region's cross-entropy with $p(z)$ strictly, its entropy nearly always. The threshold and the weight are those of related selections.
/// $\sigma^2$ comes from reference batches, not from the stream.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::{Norm, tiny};
/// use acclimate_optim::Sgd;
/// use acclimate_tta::{Host, Recap, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet_with(Norm::Group(4), 0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let reference = [tiny::images(1, 20, DType::F32)];
/// let (method, sgd) = (Recap::default(), Sgd { lr: 1e-3, momentum: 0.9, nesterov: false });
/// let host = Host::new(&model, patch)?.reference(&reference).optimiser(&sgd)?;
/// let mut stream = Stream::new(&method, host, Reset::Never)?;
/// assert_eq!(stream.step(&tiny::images(2, 1, DType::F32))?.dims(), [1, 3]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Hu et al., *Beyond Entropy: Region Confidence Proxy for Wild Test-Time Adaptation*, ICML 2025, arXiv:2505.20704.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "recap", title = "ReCAP", catalogue = [7], paper = "arxiv:2505.20704", year = 2025)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "entropy_share = 2.0", case = "entropy_share = 0.0\ninstability = 2.0")]
pub struct Recap {
    /// Size of the neighbourhood, $\tau$; 0 is the point alone.
    #[method(min = 0)]
    pub region: f64,
    /// Weight of the instability, $\lambda$.
    #[method(min = 0)]
    pub instability: f64,
    /// Rows whose region's entropy is below this share of $\ln K$ are kept, $e$; 0 keeps all at weight one.
    #[method(min = 0)]
    pub entropy_share: f64,
}

impl Default for Recap {
    fn default() -> Self {
        Self { region: 1.2, instability: 0.5, entropy_share: 0.5 }
    }
}

/// How far classes widen into each other.
#[derive(Clone, Debug, Record)]
pub struct RecapState {
    /// $Q$ as `pairs`, `[classes, classes]`.
    #[record(own)]
    pub widening: Params,
}

/// Under which name the widening is kept.
const PAIRS: &str = "pairs";

impl TestTime for Recap {
    type State = RecapState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<RecapState> {
        host.check_trains_norms(Self::CARD.name)?;
        let mut widening = Params::default();
        widening.insert(PAIRS, self.pairs(host)?);
        Ok(RecapState { widening })
    }

    fn step(&self, batch: &Inputs, state: &mut RecapState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let pairs: Tensor<2> = state.widening.get(PAIRS)?;
        let seen = host.learn(|taped| {
            let seen = taped.forward(batch)?;
            let (own, classes) = (seen.inner().logits, seen.logits.dims()[1]);
            let [entropies, instability] = region(seen.logits.clone(), &pairs);
            let losses = entropies + instability * self.instability;
            if self.entropy_share == 0.0 {
                return Ok((seen, Some(Loss::mean(losses))));
            }
            let ([entropies, _], bound) = (region(own, &pairs), entropy_bound(self.entropy_share, classes));
            let keep = below(&entropies, bound);
            let loss = Loss::kept(losses, (entropies.neg() + bound).exp(), keep);
            Ok((seen, loss))
        })?;
        Ok(seen.logits)
    }
}

impl Recap {
    /// `Q` from the head and the variances of the reference batches' features.
    fn pairs(&self, host: &mut Host<'_>) -> Result<AnyTensor> {
        let batches = host.reference_batches();
        if batches.is_empty() {
            return Err(Error::Unsupported {
                who: Self::CARD.name.to_owned(),
                what: "measure how features vary without reference batches".to_owned(),
                instead: "give the host some inputs like those of training".to_owned(),
            });
        }
        let features: Vec<Tensor<2>> =
            batches.iter().map(|batch| Ok(host.source(batch)?.features)).collect::<Result<_>>()?;
        let kind = (features[0].dtype(), features[0].device());
        let (width, head) = (features[0].dims()[1], host.head()?.dense());
        let classes = head.dims()[0];
        let (features, head) = (AnyTensor::from(Tensor::cat(features, 0)).to_f64s(), AnyTensor::from(head).to_f64s());
        let rows = (features.len() / width) as f64;
        let variance = |at: usize| {
            let column = || features.iter().skip(at).step_by(width);
            let mean = column().sum::<f64>() / rows;
            column().map(|x| (x - mean).powi(2)).sum::<f64>() / rows
        };
        let variances: Vec<f64> = (0..width).map(variance).collect();
        let pair = |i: usize, j: usize| {
            let apart = head[i * width..][..width].iter().zip(&head[j * width..][..width]);
            0.5 * self.region * apart.zip(&variances).map(|((a, b), variance)| variance * (b - a).powi(2)).sum::<f64>()
        };
        let pairs = (0..classes * classes).map(|at| pair(at / classes, at % classes)).collect();
        Ok(AnyTensor::from_f64s(pairs, &[classes, classes], kind.0, &kind.1))
    }
}

/// The region's entropy and instability of each row, `L_RE` and `L_RI`.
fn region(logits: Tensor<2>, pairs: &Tensor<2>) -> [Tensor<1>; 2] {
    let log = activation::log_softmax(logits, 1);
    // [rows, i, j]; log-probabilities differ as logits do, and none is above zero.
    let wide = log.clone().unsqueeze_dim::<3>(1) + pairs.clone().unsqueeze_dim::<3>(0);
    let top = wide.clone().detach().max_dim(2);
    let sums = ((wide - top.clone()).exp().sum_dim(2).log() + top).squeeze_dim::<2>(2);
    // A_i + log p_i: the sum itself.
    let p = log.clone().exp();
    let instability = (p.clone() * sums.clone()).sum_dim(1).squeeze_dim::<1>(1);
    let entropies = (p * (sums - log)).sum_dim(1).squeeze_dim::<1>(1);
    [entropies, instability]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy;
    use acclimate_core::Rng;
    use burn::tensor::{DType, Device};

    fn tensor(values: &[f64], shape: [usize; 2]) -> Tensor<2> {
        AnyTensor::from_f64s(values.to_vec(), &shape, DType::F64, &Device::flex()).get().unwrap()
    }

    fn of(logits: &[f64], pairs: &[f64]) -> [f64; 2] {
        let k = logits.len();
        region(tensor(logits, [1, k]), &tensor(pairs, [k, k])).map(|x| AnyTensor::from(x).to_f64s()[0])
    }

    #[test]
    fn without_a_region_it_is_the_entropy() {
        let z = [0.3, -1.2, 2.0];
        let [entropies, instability] = of(&z, &[0.0; 9]);
        let plain = AnyTensor::from(entropy(tensor(&z, [1, 3]))).to_f64s()[0];
        assert!((entropies - plain).abs() < 1e-15 && instability.abs() < 1e-15);
    }

    #[test]
    fn two_classes_have_a_closed_form() {
        let (margin, widening) = (0.7f64, 0.4f64);
        let p = 1.0 / (1.0 + (-margin).exp());
        let a = [(-margin + widening).exp().ln_1p(), (margin + widening).exp().ln_1p()];
        let [entropies, instability] = of(&[margin, 0.0], &[0.0, widening, widening, 0.0]);
        assert!((entropies - (p * a[0] + (1.0 - p) * a[1])).abs() < 1e-14);
        let expected = p * (a[0] + p.ln()) + (1.0 - p) * (a[1] + (1.0 - p).ln());
        assert!((instability - expected).abs() < 1e-14);
        let wider = of(&[margin, 0.0], &[0.0, 2.0 * widening, 2.0 * widening, 0.0]);
        assert!(wider[0] > entropies && wider[1] > instability && instability > 0.0);
    }

    #[test]
    fn large_logits_stay_finite() {
        assert!(of(&[1e4, -1e4, 0.0], &[0.0, 3.0, 3.0, 3.0, 0.0, 3.0, 3.0, 3.0, 0.0]).iter().all(|x| x.is_finite()));
    }

    #[test]
    fn both_terms_bound_what_neighbours_say() {
        // Two features, three classes, variances of a half.
        let (w, z) = ([[1.0, 0.2], [-0.5, 0.8], [0.1, -1.1]], [0.4, -0.3]);
        let softmax = |z: [f64; 2]| {
            let a = w.map(|w| (w[0] * z[0] + w[1] * z[1]).exp());
            a.map(|x| x / a.iter().sum::<f64>())
        };
        let logits = w.map(|w| w[0] * z[0] + w[1] * z[1]);
        let pair = |at: usize| (0..2).map(|d| 0.25 * (w[at % 3][d] - w[at / 3][d]).powi(2)).sum::<f64>();
        let [entropies, instability] = of(&logits, &(0..9).map(pair).collect::<Vec<_>>());
        let (mut rng, p, draws) = (Rng::new(0, "neighbours", 0), softmax(z), 40_000);
        let (mut cross, mut divergence) = (0.0, 0.0);
        for _ in 0..draws {
            let q = softmax(z.map(|z| z + 0.5f64.sqrt() * rng.normal()));
            cross -= (0..3).map(|k| p[k] * q[k].ln()).sum::<f64>() / f64::from(draws);
            divergence += (0..3).map(|k| p[k] * (p[k] / q[k]).ln()).sum::<f64>() / f64::from(draws);
        }
        // The mean of 40,000 draws of deviation below one is good to 0.005; the bounds lie further away.
        assert!(cross < entropies && divergence < instability, "{cross} {entropies} {divergence} {instability}");
    }
}
