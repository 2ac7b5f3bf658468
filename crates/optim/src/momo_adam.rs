use crate::{
    momo::{Model, Run},
    slot,
};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Adam whose step is cut where a model of the loss, held up by its lowest value, says that it is too long.
///
/// # Mathematics
/// The model is that of `momo`, the norm that of Adam. With all products element by element and
/// $\rho_k = 1 - \beta_1^k$,
/// $$\bar f_k = \beta_1 \bar f_{k-1} + (1-\beta_1)\, f_k, \qquad m_k = \beta_1 m_{k-1} + (1-\beta_1)\, g_k, \qquad
///   \bar\gamma_k = \beta_1 \bar\gamma_{k-1} + (1-\beta_1) \langle g_k, x_k \rangle,$$
/// $$v_k = \beta_2 v_{k-1} + (1-\beta_2)\, g_k^2, \qquad a_k = \sqrt{\frac{v_k}{1-\beta_2^k}} + \varepsilon,$$
/// $$\tau_k = \min\left( \frac{\alpha_k}{\rho_k},\
///   \frac{\bigl[(1 + \alpha_k \lambda)(\bar f_k - \rho_k \ell - \bar\gamma_k) + \langle m_k, x_k \rangle\bigr]_+}
///   {\sum m_k^2 / a_k} \right), \qquad x_{k+1} = \frac{x_k - \tau_k\, m_k / a_k}{1 + \alpha_k \lambda}.$$
///
/// $f$ and $g$ are the batch's loss and gradient, all means begin at zero, $\alpha_k$ is the learning rate times the schedule's
/// multiplier, $\ell$ the lower bound of the loss, $\lambda$ the host's decoupled decay. While the step is not cut it is Adam's
/// with the rate $\alpha$. A parameter's relative rate $r$ means the same method in the variables $x / r$: it multiplies its
/// part of $\sum m^2 / a$ and its movement. Where parameters decay differently each has its own $\alpha r \lambda$. With
/// `estimate_bound` the bound follows the run as in `momo`.
///
/// # When to use
/// Where the loss has a known lower bound, such as zero for cross-entropy, and Adam's rate is known only roughly: a rate ten
/// times too large does little harm.
///
/// # Differences
/// None from the authors' package (`momo-opt`) with its proximal decay, whose names for `lower_bound` and `estimate_bound` are
/// `lb` and `use_fstar`. A step with $m = 0$ moves nothing but decay. The loss is the one that the host is told, before coupled
/// decay.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, MomoAdam};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = MomoAdam { lr: 1.0, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..300 {
///     // Half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.5 * gradient.norm().powi(2))?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Schaipp, Ohana, Eickenberg, Defazio and Gower, *MoMo: Momentum Models for Adaptive Learning Rates*, ICML 2024,
/// arXiv:2305.07583, and the package `momo-opt` 0.1.0.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "momo_adam", title = "MoMo-Adam", catalogue = [], paper = "arxiv:2305.07583", year = 2023)]
#[method(needs(gradients, loss, learning_rate), promises(scale_free), case = "lr = 0.05")]
#[method(case = "lr = 0.05\nestimate_bound = true")]
pub struct MomoAdam {
    /// Learning rate $\alpha$, which the corrected step never exceeds.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay of the means.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// What no loss falls below, $\ell$.
    pub lower_bound: f64,
    /// Whether the bound rises with what the run shows.
    pub estimate_bound: bool,
}

impl Default for MomoAdam {
    fn default() -> Self {
        Self { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, lower_bound: 0.0, estimate_bound: false }
    }
}

/// The means of gradient, its square, loss and product, the bound, the last step and their count.
#[derive(Clone, Debug, Record)]
pub struct MomoAdamState {
    m: Params,
    v: Params,
    loss: f64,
    product: f64,
    bound: f64,
    step: f64,
    k: u64,
}

impl Optimiser for MomoAdam {
    type State = MomoAdamState;

    fn init(&self, params: &Params) -> Result<MomoAdamState> {
        let (m, v) = (params.zeros_like(), params.zeros_like());
        Ok(MomoAdamState { m, v, loss: 0.0, product: 0.0, bound: self.lower_bound, step: 0.0, k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut MomoAdamState, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        let rate = self.lr * at.lr;
        state.k += 1;
        let k = state.k as f64;
        let correction = 1.0 - beta2.powf(k);
        let (mut model, mut directions) = (Model::default(), vec![]);
        for ((((name, g), x), &r), &decay) in grads.iter().zip(at.params.iter()).zip(at.scales).zip(at.decays) {
            let g = g.elements();
            let m = slot(&state.m, name)? * beta1 + g.clone() * (1.0 - beta1);
            let v = slot(&state.v, name)? * beta2 + g.clone().square() * (1.0 - beta2);
            let direction = m.clone() / ((v.clone() / correction).sqrt() + eps);
            model.add(x.1, [&g, &m, &direction], r, rate, decay);
            directions.push((name, direction * (-r * Model::left(rate * r, decay))));
            state.m.insert(name, AnyTensor::from_elements(m));
            state.v.insert(name, AnyTensor::from_elements(v));
        }
        let run = Run {
            loss: &mut state.loss,
            product: &mut state.product,
            bound: &mut state.bound,
            lowest: self.estimate_bound.then_some(self.lower_bound),
            beta: beta1,
            weight: 1.0 - beta1.powf(k),
            rate,
        };
        let (step, decay_rates) = model.step(at.loss, run);
        state.step = step;
        let mut movement = Params::default();
        for (name, direction) in directions {
            movement.insert(name, AnyTensor::from_elements(direction * step));
        }
        Ok(Step { movement, decay_rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn log(&self, state: &MomoAdamState) -> Vec<(&'static str, f64)> {
        vec![("step", state.step), ("lower_bound", state.bound)]
    }
}
