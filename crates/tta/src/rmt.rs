use crate::{
    Host, Loss, Taped, TestTime, Trains,
    augment::{Pixels, view},
    filter::unit,
    loss::symmetric,
    prototypes::Labelled,
    teacher::follow,
};
use acclimate_core::{AnyTensor, Inputs, Method, Params, Record, Result, Rng};
use burn::tensor::{Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

/// Trains every weight to agree with a slow teacher in both directions, and holds features near those of their class at training.
///
/// # Mathematics
/// With student $\theta$, teacher $\theta'$, $x'$ a view of the batch $x$ (as in `cotta`), logits $s$, $s'$ of the student on $x$ and
/// $x'$ and $q$ of the teacher on $x$, and
/// $$\mathrm{SCE}(a, q) = -\tfrac12 \sum_k \left(\operatorname{softmax}(q)_k \log \operatorname{softmax}(a)_k +
///   \operatorname{softmax}(a)_k \log \operatorname{softmax}(q)_k\right)$$
/// the loss is
/// $$L = \frac1B \sum_i \tfrac12 \mathrm{SCE}(s_i, q_i) + \tfrac12 \mathrm{SCE}(s'_i, q_i) + \lambda_c L_c + \lambda_s L_s.$$
/// No gradient flows through $q$.
///
/// $L_c$ (`contrast`): row $i$ has three vectors, the prototype nearest to its feature by cosine, its feature on $x$ and on $x'$. A
/// projection (linear, rectifier, linear; `projection` wide) and division by the length make them $v_j$, $j = 1 \ldots 3B$, and
/// $$L_c = -\frac{1}{3B} \sum_j \frac12 \sum_{l \in P(j)} \log \frac{\exp(v_j^\top v_l / T)}{\sum_{m \ne j} \exp(v_j^\top v_m / T)},$$
/// with $P(j)$ the other two vectors of the same row and $T$ the `temperature`. The projection is trained beside the patch. A prototype
/// is the mean feature of a class over the labelled reference batches, taken once.
///
/// $L_s$ (`replay`): the cross-entropy on one reference batch, in turn, with its labels.
///
/// One step of the optimiser, then $\theta' \leftarrow m\,\theta' + (1 - m)\,\theta$. The prediction is $s + q$, both from before the
/// step. All passes take the statistics of their own batch.
///
/// # When to use
/// Long streams of changing or gradual shifts, with labelled rows of training at hand. Adam at `lr = 1e-3` in batches of 200, or SGD at
/// 0.01 with momentum 0.9 in batches of 64. With `replay = 0` the labels serve for prototypes only. On transformers at that rate and on
/// class-sorted streams it collapses.
///
/// # Differences
/// The authors first train student and teacher on some 50,000 rows of training under a rising rate; that is left out, since a reset
/// brings back the patch as it was given: give a patch that has been tuned so. Their networks with features of a low dimension have no
/// projection, `projection = 0`. Replay goes through the reference batches in order, theirs are shuffled.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng, Targets};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Reset, Rmt, Stream};
/// use burn::tensor::DType;
///
/// let (model, all) = (tiny::resnet(0, DType::F32), Targets::Word("all".to_owned()));
/// let mut patch = Patch::new();
/// let full = acclimate_peft::build("full", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "full", full, Some(&all), &mut Rng::new(0, "patch", 0))?;
///
/// let reference = [tiny::images(1, 6, DType::F32)];
/// let labels = [vec![0, 1, 2, 0, 1, 2]];
/// let (method, adam) = (Rmt { low: -3.0, high: 3.0, ..Rmt::default() }, Adamw { lr: 1e-3, ..Adamw::default() });
/// let host = Host::new(&model, patch)?.reference(&reference).labels(&labels)?.optimiser(&adam)?;
/// let mut stream = Stream::new(&method, host, Reset::Never)?;
/// assert_eq!(stream.step(&tiny::images(2, 20, DType::F32))?.dims(), [20, 3]);
/// // Both views and the replayed rows.
/// assert_eq!(stream.host().counts().backward_rows, 46);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Döbler, Marsden & Yang, *Robust Mean Teacher for Continual and Gradual Test-Time Adaptation*, CVPR 2023, arXiv:2211.13081.
/// Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020, arXiv:2004.11362.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "rmt", title = "Robust mean teacher", catalogue = [172], paper = "arxiv:2211.13081", year = 2023)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant), validate = Self::has_room)]
#[method(case = "", case = "replay = 0.0\nprojection = 0\ncontrast = 0.5")]
#[method(waive(
    without_movement_outputs_are_those_of_batch_statistics = "the prediction is the sum of student and teacher"
))]
pub struct Rmt {
    /// Share of its old self that the teacher keeps at a step, $m$.
    #[method(min = 0, max = 1)]
    pub momentum: f64,
    /// Weight of the contrast, $\lambda_c$.
    #[method(min = 0)]
    pub contrast: f64,
    /// Weight of the replayed rows, $\lambda_s$.
    #[method(min = 0)]
    pub replay: f64,
    /// Divides the cosines of the contrast, $T$.
    #[method(above = 0)]
    pub temperature: f64,
    /// Width of the projection; 0 is none.
    pub projection: usize,
    /// The lowest value of a pixel.
    pub low: f64,
    /// The highest value of a pixel.
    pub high: f64,
    /// Names the random streams.
    pub seed: u64,
}

impl Default for Rmt {
    fn default() -> Self {
        Self {
            momentum: 0.999,
            contrast: 1.0,
            replay: 1.0,
            temperature: 0.1,
            projection: 128,
            low: 0.0,
            high: 1.0,
            seed: 0,
        }
    }
}

/// The teacher, the classes' mean features, and how many batches have come.
#[derive(Clone, Debug, Record)]
pub struct RmtState {
    /// The teacher, $\theta'$.
    pub teacher: Params,
    /// `prototypes`, `[classes, width]`.
    #[record(own)]
    pub features: Params,
    /// Batches seen: names the draws of each and says which reference batch is due.
    pub step: u64,
}

/// Under which name the classes' mean features are kept.
const PROTOTYPES: &str = "prototypes";

impl TestTime for Rmt {
    type State = RmtState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<RmtState> {
        host.check_trains(Self::CARD.name)?;
        let labelled = Labelled::see(Self::CARD.name, host, |host, batch| host.forward(batch))?;
        let width = labelled.width;
        let mut features = Params::default();
        features.insert(PROTOTYPES, labelled.tensor(labelled.means(), &[labelled.of, width]));
        if self.projection > 0 && self.contrast > 0.0 {
            let mut own = Params::default();
            let mut rng = Rng::new(self.seed, "projection", 0);
            for (name, out, input) in [("first", self.projection, width), ("second", self.projection, self.projection)]
            {
                // A linear layer's usual start: even between plus and minus one over the root of its inputs.
                let bound = (input as f64).sqrt().recip();
                let mut drawn = |shape: &[usize]| {
                    let values = (0..shape.iter().product()).map(|_| (2.0 * rng.uniform() - 1.0) * bound).collect();
                    labelled.tensor(values, shape)
                };
                own.insert(format!("{name}.weight"), drawn(&[out, input]));
                own.insert(format!("{name}.bias"), drawn(&[out]));
            }
            host.train_too(own)?;
        }
        Ok(RmtState { teacher: host.patch().params.clone(), features, step: 0 })
    }

    fn step(&self, batch: &Inputs, state: &mut RmtState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let prototypes: Tensor<2> = state.features.get(PROTOTYPES)?;
        let target = host.forward_at(&state.teacher, batch)?.logits;
        let changed = view(Self::CARD.name, batch, self.pixels(), &mut Rng::new(self.seed, "view", state.step))?;
        let due = state.step as usize % host.reference_batches().len();
        let (source, labels) = (&host.reference_batches()[due], &host.reference_labels()[due]);
        let seen = host.learn(|taped| {
            let (seen, other) = (taped.forward(batch)?, taped.forward(&changed)?);
            let mut rows = 2 * seen.rows();
            let agree = |logits: &Tensor<2>| symmetric(target.clone(), logits.clone(), 0.5).mean() * 0.5;
            let mut value = agree(&seen.logits) + agree(&other.logits);
            if self.contrast > 0.0 {
                let nearest = nearest(&prototypes, seen.inner().features);
                let views = Tensor::cat(vec![nearest, seen.features.clone(), other.features], 0);
                value = value + self.contrast(projected(views, taped)?) * self.contrast;
            }
            if self.replay > 0.0 {
                let logits = taped.forward(source)?.logits;
                rows += labels.len();
                value = value + cross_entropy_of(logits, labels) * self.replay;
            }
            Ok((seen, Some(Loss { value, rows })))
        })?;
        state.teacher = follow(&state.teacher, &host.patch().params, self.momentum);
        state.step += 1;
        Ok(seen.logits + target)
    }

    fn trains(&self) -> Trains {
        Trains::Everything
    }
}

impl Rmt {
    fn pixels(&self) -> Pixels {
        Pixels { low: self.low, high: self.high }
    }

    fn has_room(&self) -> Result<()> {
        self.pixels().check(Self::CARD.name)
    }

    /// The contrast of three vectors for each row, `[3·rows, width]`: one of each, then the next of each.
    fn contrast(&self, views: Tensor<2>) -> Tensor<1> {
        let count = views.dims()[0];
        let rows = count / 3;
        let views = unit(views);
        let (dtype, device) = (views.dtype(), views.device());
        let flags = |flag: &dyn Fn(usize, usize) -> bool| {
            let values = (0..count * count).map(|at| f64::from(u8::from(flag(at / count, at % count)))).collect();
            let flags = AnyTensor::from_f64s(values, &[count, count], dtype, &device);
            flags.get::<2>().expect("made with two axes")
        };
        let itself = flags(&|j, l| j == l).equal_elem(1.0);
        let of_one_row = flags(&|j, l| j != l && j % rows == l % rows);
        // Far below every cosine over a temperature, so that a vector has no share in its own sum.
        let cosines = (views.clone().matmul(views.transpose()) * self.temperature.recip()).mask_fill(itself, -1e9);
        (activation::log_softmax(cosines, 1) * of_one_row).sum() * (-0.5 / count as f64)
    }
}

/// The prototype nearest to each feature by cosine, `[rows, width]`.
fn nearest(prototypes: &Tensor<2>, features: Tensor<2>) -> Tensor<2> {
    let cosines = unit(features).matmul(unit(prototypes.clone()).transpose());
    prototypes.clone().select(0, cosines.argmax(1).squeeze_dim::<1>(1))
}

/// Vectors through the projection, if there is one.
fn projected(vectors: Tensor<2>, taped: &Taped<'_, '_>) -> Result<Tensor<2>> {
    let own = taped.own();
    if own.is_empty() {
        return Ok(vectors);
    }
    let linear = |x: Tensor<2>, name: &str| -> Result<Tensor<2>> {
        let (weight, bias) = (own.get::<2>(&format!("{name}.weight"))?, own.get::<1>(&format!("{name}.bias"))?);
        Ok(x.matmul(weight.transpose()) + bias.unsqueeze_dim::<2>(0))
    };
    linear(activation::relu(linear(vectors, "first")?), "second")
}

/// The mean cross-entropy with known classes.
fn cross_entropy_of(logits: Tensor<2>, classes: &[usize]) -> Tensor<1> {
    let classes: Vec<i64> = classes.iter().map(|&class| class as i64).collect();
    let classes = Tensor::<1, Int>::from_data(TensorData::from(classes.as_slice()), &logits.device());
    activation::log_softmax(logits, 1).gather(1, classes.unsqueeze_dim::<2>(1)).mean().neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    #[test]
    fn equal_vectors_contrast_by_the_log_of_all_others() {
        let views = Tensor::<2>::full([12, 5], 0.3, (&Device::flex(), DType::F64));
        let contrast = AnyTensor::from(Rmt::default().contrast(views)).to_f64s()[0];
        // A dozen roundings in f64.
        assert!((contrast - 11f64.ln()).abs() < 1e-13, "{contrast}");
    }
}
