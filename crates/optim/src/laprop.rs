use crate::take;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Adam that divides each gradient by its size first and averages afterwards, so that any two decays go together.
///
/// # Mathematics
/// $$n_k = \beta_2 n_{k-1} + (1-\beta_2)\, g_k^2, \qquad
///   m_k = \beta_1 m_{k-1} + (1-\beta_1)\, \alpha_k\, \frac{g_k}{\sqrt{n_k / (1-\beta_2^k)} + \varepsilon},$$
/// $$a_k = \beta_1 a_{k-1} + (1-\beta_1)\, \alpha_k, \qquad x_{k+1} = x_k - \frac{\alpha_k}{a_k}\, m_k$$
///
/// $g$ is the gradient, $n$, $m$ and $a$ start at zero, $k$ is the step counted from one, and $\alpha_k$ the learning rate times the
/// schedule's multiplier; the parameter's relative rate multiplies its movement. Under a constant rate $a_k / \alpha = 1 - \beta_1^k$, Adam's
/// first correction. $m$ holds the rates of its steps, so that a change of the schedule acts on what comes after it.
///
/// Since $g_k^2 \le n_k / (1-\beta_2)$, no normalised gradient exceeds $\sqrt{(1-\beta_2^k)/(1-\beta_2)}$, and under a constant rate no step
/// $\alpha/\sqrt{1-\beta_2}$, whatever $\beta_1$. In Adam a gradient $k$ steps back weighs $\beta_1^k$ over a root that has forgotten it by
/// $\beta_2^{k/2}$: the ratio explodes where $\beta_1 > \sqrt{\beta_2}$. With $\beta_1 = 0$ the two are one; with $\beta_2 = 0$ this is
/// momentum on the signs of gradients.
///
/// # When to use
/// Where a short second memory helps: noisy gradients whose size changes, transformers without warm-up, deep networks without norms. $\beta_2$
/// may then go down to 0.9 or 0.5 while $\beta_1$ stays. With the usual decays it is as good as `adamw`.
///
/// # Differences
/// The authors' code shrinks the parameters by the decay alone, without the rate, and after the step; the host takes $\alpha_k$ and
/// decays what was there before the step, as for every method. Their `amsgrad` and `centered` are left out: the first defeats the short
/// memory that the method is for, the second names variables that do not exist and cannot have run.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, Laprop};
/// use burn::tensor::{DType, Device};
///
/// let laprop = Laprop { lr: 0.1, beta2: 0.5, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&laprop, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..300 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&laprop, &x, &gradient, 1.0 - k as f64 / 300.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Ziyin, Wang and Ueda, *LaProp: Separating Momentum and Adaptivity in Adam*, 2020, arXiv:2002.04839.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "laprop", title = "LaProp", catalogue = [148], paper = "arxiv:2002.04839", year = 2020)]
#[method(needs(gradients, learning_rate), promises(scale_free))]
#[method(case = "lr = 0.05", case = "lr = 0.05\nbeta1 = 0.95\nbeta2 = 0.5")]
pub struct Laprop {
    /// Learning rate $\alpha$, the bound on the typical step.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay of the mean of normalised gradients.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
}

impl Default for Laprop {
    fn default() -> Self {
        Self { lr: 4e-4, beta1: 0.9, beta2: 0.999, eps: 1e-15 }
    }
}

/// The second moment $n$, the mean $m$, that of the rates, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct LapropState {
    n: Params,
    m: Params,
    a: f64,
    k: u64,
}

impl Optimiser for Laprop {
    type State = LapropState;

    fn init(&self, params: &Params) -> Result<LapropState> {
        Ok(LapropState { n: params.zeros_like(), m: params.zeros_like(), a: 0.0, k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut LapropState, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        state.k += 1;
        let root = (1.0 - beta2.powf(state.k as f64)).sqrt();
        let rate = self.lr * at.lr;
        state.a = beta1 * state.a + (1.0 - beta1) * rate;
        // A rate of zero moves by what the mean holds, as in the authors' code.
        let correction = if rate == 0.0 { 1.0 } else { state.a / rate };
        let mut movement = Params::default();
        for ((name, g), scale) in grads.iter().zip(at.scales) {
            let g = g.elements();
            let n = take(&mut state.n, name)? * beta2 + g.clone().square() * (1.0 - beta2);
            let normalised = g / (n.clone().sqrt() / root + eps);
            let m = take(&mut state.m, name)? * beta1 + normalised * ((1.0 - beta1) * rate);
            movement.insert(name, AnyTensor::from_elements(m.clone() * (-scale / correction)));
            state.n.insert(name, AnyTensor::from_elements(n));
            state.m.insert(name, AnyTensor::from_elements(m));
        }
        Ok(Step { movement, decay_rates: at.scales.iter().map(|scale| scale * rate).collect() })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn in_place(&self) -> bool {
        true
    }

    fn keeps_moments(&self) -> bool {
        true
    }
}
