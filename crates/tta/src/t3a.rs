use crate::{Host, Seen, TestTime, entropy, memory::selected};
use acclimate_core::{Affine, AnyTensor, Error, Inputs, Method, Params, Record, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Replaces the rows of the head by the mean direction of the surest features seen so far, class by class.
///
/// # Mathematics
/// The supports of class $c$ begin as the head's row $w_c$. A feature $\phi$ with logits $z$ joins the supports $S_c$ of
/// $c = \arg\max z$; of each $S_c$ the `filter` entries of lowest entropy $H(\operatorname{softmax} z)$ stay. The answer, for the
/// features of the same batch, is
/// $$\phi^\top \frac{m_c}{\lVert m_c \rVert}, \qquad m_c = \sum_{s \in S_c} \frac{s}{\lVert s \rVert}.$$
/// The head's rows have the class and entropy that the head itself gives them. No gradients; the network does not change. It remembers at
/// most `filter` features for each class.
///
/// # When to use
/// A frozen network, any architecture, in a new domain that stays. It costs a product for each batch. On shifts under which the features
/// themselves are wrong it has nothing to average. The first batches are answered by few supports. Norms keep the statistics stored with
/// the model, unless another method brings some.
///
/// # Differences
/// With no limit the authors' script drops the least sure support of every class at every batch (a slice up to -1); here none is dropped.
///
/// # Example
/// ```
/// use acclimate_core::Patch;
/// use acclimate_models::tiny;
/// use acclimate_tta::{Host, Reset, Stream, T3a};
/// use burn::tensor::DType;
///
/// let (model, method) = (tiny::resnet(0, DType::F32), T3a::default());
/// let mut stream = Stream::new(&method, Host::new(&model, Patch::new())?, Reset::Never)?;
/// let logits = stream.step(&tiny::images(1, 20, DType::F32))?;
/// assert_eq!(logits.dims(), [20, 3]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Iwasawa and Matsuo, *Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization*, NeurIPS 2021.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "t3a", title = "T3A", catalogue = [], paper = "-", year = 2021)]
#[method(promises(order_invariant), case = "", case = "filter = 2")]
pub struct T3a {
    /// Supports that each class keeps.
    #[method(min = 1)]
    pub filter: usize,
}

impl Default for T3a {
    fn default() -> Self {
        Self { filter: 100 }
    }
}

/// The supports.
#[derive(Clone, Debug, Record)]
pub struct T3aState {
    /// `features`, `[supports, width]`.
    #[record(own)]
    pub supports: Params,
    /// Their classes.
    pub classes: Vec<f64>,
    /// Their entropies.
    pub entropies: Vec<f64>,
}

const FEATURES: &str = "features";

impl TestTime for T3a {
    type State = T3aState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<T3aState> {
        let head: Affine = host.head()?;
        let weight = head.dense();
        let seen = Seen { logits: head.forward(weight.clone()), features: weight };
        let mut supports = Params::default();
        let (classes, entropies) = (answers(&seen.logits), entropies(&seen.logits));
        supports.insert(FEATURES, seen.features);
        Ok(T3aState { supports, classes, entropies })
    }

    fn step(&self, batch: &Inputs, state: &mut T3aState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        self.answer(&host.forward_stored(batch)?, state)
    }
}

impl T3a {
    /// The answers to what any model makes of a batch, which joins the supports first.
    ///
    /// # Errors
    /// When the features have another width than the supports.
    pub fn answer(&self, seen: &Seen, state: &mut T3aState) -> Result<Tensor<2>> {
        let held = state.supports.get::<2>(FEATURES)?;
        if held.dims()[1] != seen.features.dims()[1] {
            let (what, got) = ("features".to_owned(), seen.features.dims().to_vec());
            return Err(Error::Shape { what, expected: format!("[rows, {}]", held.dims()[1]), got });
        }
        let supports = Tensor::cat(vec![held, seen.features.clone()], 0);
        let classes = [state.classes.clone(), answers(&seen.logits)].concat();
        let entropies = [state.entropies.clone(), entropies(&seen.logits)].concat();
        let kept = surest(&classes, &entropies, self.filter);
        let of = |numbers: &[f64]| kept.iter().map(|at| numbers[*at]).collect::<Vec<f64>>();
        let supports = selected(&supports, kept.iter().copied());
        (state.classes, state.entropies) = (of(&classes), of(&entropies));
        state.supports.insert(FEATURES, supports.clone());

        let shown = seen.logits.dims()[1];
        let mut one_hot = vec![0.0; state.classes.len() * shown];
        for (row, class) in state.classes.iter().enumerate() {
            one_hot[row * shown + *class as usize] = 1.0;
        }
        let (shape, dtype, device) = ([state.classes.len(), shown], supports.dtype(), supports.device());
        let one_hot: Tensor<2> =
            AnyTensor::from_f64s(one_hot, &shape, dtype, &device).get().expect("made with two axes");
        let sums = unit(supports, 1).transpose().matmul(one_hot);
        Ok(seen.features.clone().matmul(unit(sums, 0)))
    }
}

/// The supports that stay, class after class: of each the ones of lowest entropy, of equals the oldest.
fn surest(classes: &[f64], entropies: &[f64], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|a, b| {
        let of = |at: usize| (classes[at], entropies[at]);
        let ((class_a, entropy_a), (class_b, entropy_b)) = (of(*a), of(*b));
        class_a.total_cmp(&class_b).then(entropy_a.total_cmp(&entropy_b))
    });
    let (mut kept, mut run) = (vec![], (f64::NAN, 0));
    for at in order {
        run = if classes[at] == run.0 { (run.0, run.1 + 1) } else { (classes[at], 1) };
        if run.1 <= most {
            kept.push(at);
        }
    }
    kept
}

/// The class of each row.
fn answers(logits: &Tensor<2>) -> Vec<f64> {
    logits.clone().argmax(1).to_data().iter::<i64>().map(|class| class as f64).collect()
}

fn entropies(logits: &Tensor<2>) -> Vec<f64> {
    AnyTensor::from(entropy(logits.clone())).to_f64s()
}

/// Divided by the length along an axis.
fn unit(x: Tensor<2>, axis: usize) -> Tensor<2> {
    x.clone() / x.square().sum_dim(axis).sqrt().clamp_min(1e-12)
}
