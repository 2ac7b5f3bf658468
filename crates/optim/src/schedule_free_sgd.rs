use crate::slot;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Gradient descent whose average takes the place of a falling rate, with gradients taken near the average.
///
/// # Mathematics
/// $$y_k = (1-\beta)\, z_k + \beta\, x_k, \qquad z_{k+1} = z_k - \gamma_k\, g(y_k), \qquad
///   x_{k+1} = (1 - c_{k+1})\, x_k + c_{k+1}\, z_{k+1},$$
/// $$c_{k+1} = \frac{w_{k+1}}{\sum_{i \le k+1} w_i}, \qquad w_k = k^p\, \bigl(\max_{i \le k} \gamma_i\bigr)^2.$$
///
/// $g$ is the gradient, taken at $y$; $z$ the point that steps, $x$ the average of the $z$ and the answer, $\beta$ the
/// momentum, $\gamma_k$ the learning rate times the schedule's multiplier and the parameter's relative rate, $p$ the `power` of
/// the weights. The parameters that the host holds are $y$; `evaluate` gives $x$. $\beta = 0$ is plain averaging of the points
/// of gradient descent, $\beta$ near 1 takes the gradient at the average itself.
///
/// The average converges as fast as a rate that falls along a line to zero, without knowing when the run will end.
///
/// # When to use
/// When the length of a run is not known in advance, or the run shall be judged at every moment. The rate must be chosen, and
/// may be larger than that of SGD with momentum. Keep the schedule constant but for a warm-up. `schedule_free_adamw` is the
/// form for transformers.
///
/// # Differences
/// None from the authors' package (`SGDScheduleFree`) in the path. The warm-up is the schedule's. The package keeps $z$ and
/// cannot have $\beta = 0$, since it finds $x$ from $y$ and $z$; here the state is the one difference $x - y$, and $z = y -
/// \tfrac{\beta}{1-\beta} (x - y)$. Batch norm's running statistics belong to $y$: they are a little off at $x$. The host's
/// decay acts at $y$ in both its forms: both are the package's.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, ScheduleFreeSgd};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = ScheduleFreeSgd { lr: 0.5, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..300 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// let answer = host.evaluate(&optimiser, &x);
/// assert!(answer.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and others, *The Road Less Scheduled*, NeurIPS 2024, arXiv:2405.15682, and the package `schedulefree` 1.4.1.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "schedule_free_sgd", title = "Schedule-free SGD", catalogue = [], paper = "arxiv:2405.15682", year = 2024)]
#[method(needs(gradients, learning_rate), case = "lr = 0.005\npower = 2.0")]
#[method(case = "lr = 0.005\nmomentum = 0.98\npower = 2.0")]
pub struct ScheduleFreeSgd {
    /// Learning rate $\gamma$.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Share $\beta$ of the average in the point where the gradient is taken.
    #[method(min = 0.0, max = 0.99999)]
    pub momentum: f64,
    /// Power $p$ of the step in the average's weights.
    #[method(min = 0.0)]
    pub power: f64,
}

impl Default for ScheduleFreeSgd {
    fn default() -> Self {
        Self { lr: 1.0, momentum: 0.9, power: 0.0 }
    }
}

/// The average's lead over the parameters, and its weights.
#[derive(Clone, Debug, Record)]
pub struct ScheduleFreeSgdState {
    /// $x - y$.
    lead: Params,
    largest: f64,
    weights: f64,
    k: u64,
}

impl Optimiser for ScheduleFreeSgd {
    type State = ScheduleFreeSgdState;

    fn init(&self, params: &Params) -> Result<ScheduleFreeSgdState> {
        Ok(ScheduleFreeSgdState { lead: params.zeros_like(), largest: 0.0, weights: 0.0, k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut ScheduleFreeSgdState, at: &At<'_>) -> Result<Step> {
        let base = self.lr * at.lr;
        state.k += 1;
        state.largest = state.largest.max(base);
        let share = share(state.largest, &mut state.weights, state.k, self.power);
        let (mut movement, mut decay_rates) = (Params::default(), vec![]);
        for ((((name, g), y), &r), &decay) in grads.iter().zip(at.params.iter()).zip(at.scales).zip(at.decays) {
            let part = Part { momentum: self.momentum, share, rate: base * r, decay };
            let [step, next] = part.step(g.elements(), slot(&state.lead, name)?, y.1);
            state.lead.insert(name, AnyTensor::from_elements(next));
            movement.insert(name, AnyTensor::from_elements(step));
            decay_rates.push(part.rate_of_y());
        }
        Ok(Step { movement, decay_rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        shape.iter().product()
    }

    fn eval(&self, params: &Params, state: &ScheduleFreeSgdState) -> Params {
        params.zip(&state.lead, |y, lead| y + lead)
    }
}

/// The share $c$ of the next point in the average, from the largest rate so far, the sum of the weights and the step.
pub(crate) fn share(largest: f64, weights: &mut f64, k: u64, power: f64) -> f64 {
    let weight = (k as f64).powf(power) * largest.powi(2);
    *weights += weight;
    if weight > 0.0 { weight / *weights } else { 0.0 }
}

/// One parameter's part of a schedule-free step.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// $\beta$.
    pub(crate) momentum: f64,
    /// $c$.
    pub(crate) share: f64,
    /// $\gamma$.
    pub(crate) rate: f64,
    /// The decoupled decay.
    pub(crate) decay: f64,
}

impl Part {
    /// The rate at which $y$ moves along the direction, and decays.
    pub(crate) fn rate_of_y(self) -> f64 {
        self.rate * (1.0 - self.momentum * (1.0 - self.share))
    }

    /// The movement of $y$ and the next $x - y$, where $z$ moves by `rate` against `direction`.
    pub(crate) fn step(self, direction: Tensor<1>, lead: Tensor<1>, y: &AnyTensor) -> [Tensor<1>; 2] {
        let Self { momentum, share, rate, decay } = self;
        let movement = lead.clone() * (-share * momentum / (1.0 - momentum)) - direction.clone() * self.rate_of_y();
        let whole = if decay > 0.0 { direction + y.elements() * decay } else { direction };
        [movement, (lead + whole * ((1.0 - momentum) * rate)) * (1.0 - share)]
    }
}
