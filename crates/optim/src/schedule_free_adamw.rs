use crate::{
    schedule_free_sgd::{Part, share},
    slot,
};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// AdamW whose average takes the place of a falling rate, with gradients taken near the average.
///
/// # Mathematics
/// With all products element by element,
/// $$y_k = (1-\beta_1)\, z_k + \beta_1\, x_k, \qquad v_{k+1} = \beta_2 v_k + (1-\beta_2)\, g(y_k)^2, \qquad
///   \hat v_{k+1} = \frac{v_{k+1}}{1 - \beta_2^{k+1}},$$
/// $$z_{k+1} = z_k - \gamma_k \left( \frac{g(y_k)}{\sqrt{\hat v_{k+1}} + \varepsilon} + \lambda\, y_k \right), \qquad
///   x_{k+1} = (1 - c_{k+1})\, x_k + c_{k+1}\, z_{k+1},$$
/// with the weights $c$ of `schedule_free_sgd`.
///
/// $g$ is the gradient, taken at $y$; $z$ the point that steps, $x$ the average of the $z$ and the answer, $v$ the second
/// moment, $\beta_1$ the share of the average in $y$, which takes the part of momentum, $\gamma_k$ the learning rate times the
/// schedule's multiplier and the parameter's relative rate, $\lambda$ the decoupled decay. The parameters that the host holds
/// are $y$; `evaluate` gives $x$.
///
/// # When to use
/// For transformers and their patches when the length of a run is not known in advance, or the run shall be judged at every
/// moment, and a rate is known: one to ten times that of `adamw`. Keep the schedule constant but for a warm-up.
///
/// # Differences
/// None from the authors' package (`AdamWScheduleFree`) in the path. The warm-up is the schedule's. The package keeps $z$; here
/// the state is the one difference $x - y$, and $z = y - \tfrac{\beta_1}{1-\beta_1} (x - y)$, so $\beta_1 = 0$ is allowed.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, ScheduleFreeAdamw};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = ScheduleFreeAdamw { lr: 0.1, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..500 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// let answer = host.evaluate(&optimiser, &x);
/// assert!(answer.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 0.3);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and others, *The Road Less Scheduled*, NeurIPS 2024, arXiv:2405.15682, and the package `schedulefree` 1.4.1.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "schedule_free_adamw", title = "Schedule-free AdamW", catalogue = [])]
#[method(paper = "arxiv:2405.15682", year = 2024)]
#[method(needs(gradients, learning_rate), promises(scale_free))]
#[method(case = "lr = 0.05", case = "lr = 0.05\npower = 2.0")]
pub struct ScheduleFreeAdamw {
    /// Learning rate $\gamma$.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Share of the average in the point where the gradient is taken.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// Power of the step in the average's weights.
    #[method(min = 0.0)]
    pub power: f64,
}

impl Default for ScheduleFreeAdamw {
    fn default() -> Self {
        Self { lr: 0.0025, beta1: 0.9, beta2: 0.999, eps: 1e-8, power: 0.0 }
    }
}

/// The second moment, the average's lead over the parameters, and its weights.
#[derive(Clone, Debug, Record)]
pub struct ScheduleFreeAdamwState {
    v: Params,
    /// $x - y$.
    lead: Params,
    largest: f64,
    weights: f64,
    k: u64,
}

impl Optimiser for ScheduleFreeAdamw {
    type State = ScheduleFreeAdamwState;

    fn init(&self, params: &Params) -> Result<ScheduleFreeAdamwState> {
        let (v, lead) = (params.zeros_like(), params.zeros_like());
        Ok(ScheduleFreeAdamwState { v, lead, largest: 0.0, weights: 0.0, k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut ScheduleFreeAdamwState, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        let base = self.lr * at.lr;
        state.k += 1;
        state.largest = state.largest.max(base);
        let share = share(state.largest, &mut state.weights, state.k, self.power);
        let correction = 1.0 - beta2.powf(state.k as f64);
        let (mut movement, mut decay_rates) = (Params::default(), vec![]);
        for ((((name, g), y), &r), &decay) in grads.iter().zip(at.params.iter()).zip(at.scales).zip(at.decays) {
            let g = g.elements();
            let v = slot(&state.v, name)? * beta2 + g.clone().square() * (1.0 - beta2);
            let direction = g / ((v.clone() / correction).sqrt() + eps);
            let part = Part { momentum: beta1, share, rate: base * r, decay };
            let [step, next] = part.step(direction, slot(&state.lead, name)?, y.1);
            state.v.insert(name, AnyTensor::from_elements(v));
            state.lead.insert(name, AnyTensor::from_elements(next));
            movement.insert(name, AnyTensor::from_elements(step));
            decay_rates.push(part.rate_of_y());
        }
        Ok(Step { movement, decay_rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn eval(&self, params: &Params, state: &ScheduleFreeAdamwState) -> Params {
        params.zip(&state.lead, |y, lead| y + lead)
    }
}
