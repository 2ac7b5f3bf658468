use crate::adafactor::{Sizes, normalised};
use crate::factored;
use crate::kept;
use crate::sketch::{Draw, Projection, sketched};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Adafactor with a momentum that is kept as a random projection, drawn anew every so many steps, so that little is stored and nothing is out
/// of reach.
///
/// # Mathematics
/// Let $U_t$ be the gradient of a matrix of $n \times m$ (with $m \le n$) over the root of `adafactor`'s factored second moment, and $P$ an
/// $m \times r$ matrix of independent normal numbers of variance $1/r$, so that $\mathbb E[P P^\top] = I$. Of the momentum the $n \times r$
/// numbers $M$ are kept:
/// $$\Delta_t = (1-\beta_1)\, U_t + \beta_1\, M P^\top,$$
/// $$M \leftarrow M P^\top P', \quad P \leftarrow P' \qquad \text{every } \kappa \text{ steps},$$
/// $$M \leftarrow \beta_1 M + (1-\beta_1)\, U_t P,$$
/// $$X \leftarrow X - \alpha_t\, \frac{\Delta_t}{\max(1, \operatorname{RMS}(\Delta_t)/d)}, \qquad
///   \alpha_t = \alpha \max\bigl(\varepsilon_2, \operatorname{RMS}(X)\bigr).$$
///
/// A matrix that is wider than high is projected from the left. $P$ is never stored: it is drawn again from `seed`, the parameter's name and
/// $\lfloor t/\kappa \rfloor$. A decompressed matrix is right on average, with a mean squared error of $\frac{m+1}{r}$ of its square. The schedule's
/// multiplier and the relative rate multiply $\alpha_t$.
///
/// The link with LoRA: with $B = 0$ and a frozen $A$, a step of gradient descent of rate $\eta$ adds
/// $B A = -\eta\, G A^\top A$ to the weight, the gradient sent down and up.
///
/// # When to use
/// For whole weights when the momentum does not fit: a matrix of $4096 \times 4096$ at rank 128 takes 0.5 million numbers for it where `adamw`
/// has 33 million for its two moments. The rate is that of Adafactor. What a projection does not see moves at $1-\beta_1$ of the pace until
/// the next one: a run should be many times $\kappa$ long.
///
/// The paper's other algorithm goes with any optimiser that normalises: with `accumulate` and `accumulate_rank` in a recipe, and by the
/// `SketchAccumulator`, gradients of micro-batches are summed as projections that are drawn anew at each step.
///
/// # Differences
/// The recursion is that of the paper's second algorithm and of the authors' torch code; their JAX code goes down and up by the old matrix at
/// the change and then takes the new one, in whose basis the sketch is not. Matrices whose shorter side is not above `rank`, those more than
/// `max_aspect` times as long as wide (such as embeddings), and tensors of other ranks keep the whole momentum, as there but for the limit
/// itself: a shorter side equal to the rank saves nothing and is not projected. Quantised states are left out. After a change of rank both
/// moments of that parameter begin anew.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Flora, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let flora = Flora { lr: 0.1, rank: 2, kappa: 10, scale_parameter: false, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0; 16], &[4, 4], DType::F64, &Device::flex()));
/// let mut host = Host::over(&flora, HostSettings::default(), &x, vec![Role::Weight])?;
/// for k in 0..400 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&flora, &x, &gradient, 1.0 - k as f64 / 400.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 0.5);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Hao, Cao and Mou, *Flora: Low-Rank Adapters Are Secretly Gradient Compressors*, ICML 2024, arXiv:2402.03293. Shazeer and Stern, *Adafactor:
/// Adaptive Learning Rates with Sublinear Memory Cost*, ICML 2018, arXiv:1804.04235.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "flora", title = "Flora", catalogue = [58], paper = "arxiv:2402.03293", year = 2024)]
#[method(needs(gradients, learning_rate), promises(scale_free))]
#[method(case = "lr = 0.05\nscale_parameter = false\nrank = 1\nkappa = 50")]
#[method(case = "lr = 0.05\nscale_parameter = false\nbeta1 = 0.0")]
pub struct Flora {
    /// Learning rate $\alpha$.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Numbers $r$ kept for each row of a projected matrix.
    #[method(min = 1)]
    pub rank: usize,
    /// Steps $\kappa$ between two projections.
    #[method(min = 1)]
    pub kappa: u64,
    /// Largest ratio of the sides of a matrix that is projected.
    #[method(min = 1.0)]
    pub max_aspect: f64,
    /// Whether the rate is multiplied by the size of the parameter.
    pub scale_parameter: bool,
    /// Smallest size of a parameter, $\varepsilon_2$.
    #[method(above = 0.0)]
    pub scale_floor: f64,
    /// Largest root mean square $d$ of an update; `inf` is no limit.
    #[method(above = 0.0)]
    pub clip: f64,
    /// Power by which the memory of the second moment grows.
    #[method(above = 0.0, max = 1.0)]
    pub decay_power: f64,
    /// Decay of the momentum; 0 keeps none.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Added to the squares of gradients.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// Names the projections.
    pub seed: u64,
}

impl Default for Flora {
    fn default() -> Self {
        Self {
            lr: 1e-2,
            rank: 128,
            kappa: 1000,
            max_aspect: 4.0,
            scale_parameter: true,
            scale_floor: 1e-3,
            clip: 1.0,
            decay_power: 0.8,
            beta1: 0.9,
            eps: 1e-30,
            seed: 0,
        }
    }
}

/// The second moment's rows and columns, the momentum as a sketch or whole, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct FloraState {
    #[record(own)]
    rows: Params,
    #[record(own)]
    columns: Params,
    #[record(own)]
    momentum: Params,
    t: u64,
}

impl Optimiser for Flora {
    type State = FloraState;

    fn init(&self, _params: &Params) -> Result<FloraState> {
        let [rows, columns, momentum] = [(); 3].map(|()| Params::default());
        Ok(FloraState { rows, columns, momentum, t: 0 })
    }

    fn update(&self, grads: &Params, state: &mut FloraState, at: &At<'_>) -> Result<Step> {
        state.t += 1;
        let mut updates = Params::default();
        for (name, g) in grads.iter() {
            let second = [&mut state.rows, &mut state.columns];
            let update = normalised(second, name, g, (self.eps, self.decay_power), state.t)?;
            updates.insert(name, self.averaged(name, update, &mut state.momentum, state.t)?);
        }
        let sizes = Sizes { clip: self.clip, floor: self.scale_parameter.then_some(self.scale_floor) };
        Ok(sizes.step(&updates, self.lr * at.lr, at))
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        let momentum = match self.projected(shape) {
            _ if self.beta1 == 0.0 => 0,
            Some(shape) => self.sketch(shape).iter().product(),
            None => shape.iter().product(),
        };
        factored::size(shape) + momentum
    }
}

impl Flora {
    /// The shape of a matrix whose momentum is a sketch.
    fn projected(&self, shape: &[usize]) -> Option<[usize; 2]> {
        let aspect = |[rows, columns]: &[usize; 2]| *rows.max(columns) as f64 / *rows.min(columns) as f64;
        sketched(shape, self.rank).filter(|shape| aspect(shape) <= self.max_aspect)
    }

    /// The shape of the sketch of a matrix.
    fn sketch(&self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        if rows < columns { [self.rank, columns] } else { [rows, self.rank] }
    }

    /// The mean of this update and those before it, which are kept.
    fn averaged(&self, name: &str, update: AnyTensor, momentum: &mut Params, t: u64) -> Result<AnyTensor> {
        if self.beta1 == 0.0 {
            return Ok(update);
        }
        let Some(shape) = self.projected(&update.shape()) else {
            let new = update.elements() * (1.0 - self.beta1);
            let old = kept(momentum, name, &update.shape())?;
            let mean = old.map_or(new.clone(), |old| old.elements() * self.beta1 + new);
            momentum.insert(name, AnyTensor::from_elements(mean.clone()));
            return Ok(AnyTensor::from_elements(mean));
        };
        let purpose = format!("flora/{name}");
        let like = (update.dtype(), &update.device());
        let draw =
            |round| Projection::draw(Draw { rank: self.rank, seed: self.seed, purpose: &purpose, round }, shape, like);
        let (now, next) = ((t - 1) / self.kappa, t / self.kappa);
        let changed = (next != now).then(|| draw(next));
        let old = kept(momentum, name, &self.sketch(shape))?;
        let update = update.get().expect("a projected update is a matrix");
        let old = old.map(|old| old.get().expect("a sketch is a matrix"));
        let (mean, sketch) = average(update, old, self.beta1, &draw(now), changed.as_ref());
        momentum.insert(name, sketch);
        Ok(mean.into())
    }
}

/// The mean of an update and the momentum that a sketch stands for, and the next sketch, in the basis of `changed` where the projection
/// changes.
fn average(
    update: Tensor<2>,
    sketch: Option<Tensor<2>>,
    beta: f64,
    projection: &Projection,
    changed: Option<&Projection>,
) -> (Tensor<2>, Tensor<2>) {
    let shape = update.dims();
    let new = update * (1.0 - beta);
    let next = changed.unwrap_or(projection);
    let Some(sketch) = sketch else { return (new.clone(), next.down(new)) };
    let past = projection.up(sketch.clone(), shape);
    let moved = if changed.is_some() { next.down(past.clone()) } else { sketch };
    (new.clone() + past * beta, moved * beta + next.down(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::Rng;
    use burn::tensor::{DType, Device, TensorData};

    fn matrix(seed: u64, shape: [usize; 2]) -> Tensor<2> {
        Rng::new(seed, "matrix", 0).normal_tensor(&shape, 1.0, DType::F64, &Device::flex()).get().unwrap()
    }

    #[test]
    fn with_an_orthonormal_projection_the_sketch_is_the_whole_momentum() {
        // A rotation of the plane beside a reflection.
        let (c, s) = (0.6, 0.8);
        let numbers = vec![c, -s, 0.0, s, c, 0.0, 0.0, 0.0, -1.0];
        let orthonormal = |numbers: Vec<f64>| {
            let data = TensorData::new(numbers, [3, 3]);
            Projection::of(Tensor::from_data(data, (&Device::flex(), DType::F64)))
        };
        let [first, second] = [numbers.clone(), numbers.into_iter().rev().collect()].map(orthonormal);
        for shape in [[5, 3], [3, 4]] {
            let (mut sketch, mut whole) = (None, matrix(0, shape).zeros_like());
            for k in 0..6 {
                let update = matrix(k + 1, shape);
                // From one to the other at the fourth step.
                let (now, changed) = if k < 3 {
                    (&first, None)
                } else if k == 3 {
                    (&first, Some(&second))
                } else {
                    (&second, None)
                };
                let (mean, next) = average(update.clone(), sketch, 0.9, now, changed);
                whole = whole * 0.9 + update * 0.1;
                let off = (mean - whole.clone()).abs().max().into_scalar::<f64>();
                assert!(off < 1e-14, "{shape:?}, step {k}: off by {off}");
                sketch = Some(next);
            }
        }
    }
}
