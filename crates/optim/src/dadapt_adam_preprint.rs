use crate::{estimate::Adapted, slot, still};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use serde::{Deserialize, Serialize};

/// The first form of D-Adapted Adam, whose estimate is a difference of squared norms.
///
/// # Mathematics
/// With $\lambda_k = d_k\, \gamma_k$ and all products element by element,
/// $$m_{k+1} = \beta_1 m_k + (1-\beta_1)\, \lambda_k\, g_k, \qquad v_{k+1} = \beta_2 v_k + (1-\beta_2)\, g_k^2, \qquad
///   a_{k+1} = \sqrt{v_{k+1}} + \varepsilon,$$
/// $$s_{k+1} = \beta_2 s_k + (1-\beta_2)\, \lambda_k\, g_k, \qquad
///   q_{k+1} = \beta_2 q_k + (1-\beta_2)\, \lambda_k^2 \sum \frac{g_k^2}{a_{k+1}}, \qquad
///   \hat d_{k+1} = \frac{\tfrac{1}{1-\beta_2} \sum s_{k+1}^2 / a_{k+1} - q_{k+1}}{\lVert s_{k+1} \rVert_1},$$
/// $$d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ \rho\, d_k)\bigr), \qquad
///   x_{k+1} = x_k - \frac{m_{k+1}}{a_{k+1}}.$$
///
/// $g$ is the gradient, $m$ and $v$ its moments, $s$ and $q$ the sums of the estimate, $\gamma_k$ the schedule's multiplier
/// (nominal 1), $\rho$ the growth rate. Sums run over all parameters. `dadapt_adam` has the same step and takes inner products
/// for the estimate. A parameter's relative rate means the same method in the variables $x / r$: it multiplies its parts
/// of $q$, of $\sum s^2 / a$ and of $\lVert s \rVert_1$, and its movement.
///
/// # When to use
/// To repeat work done with versions 1 and 2 of the authors' package. `dadapt_adam` overshoots less.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptAdamPreprint`, under `experimental`), which the first version of the
/// paper reports. The half before the difference is missing in it, and moments turn the bound into a heuristic: $d$ can
/// pass $D$ several times over. A step with $\lVert s \rVert_1 = 0$ does nothing. Decoupled decay has the rate $\lambda_k$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptAdamPreprint, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptAdamPreprint::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..500 {
///     // The gradient of half the squared distance to 3. Nobody says how far that is.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0 - k as f64 / 500.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-1);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, 2023, arXiv:2301.07733v2, and the package
/// `dadaptation` 3.2.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_adam_preprint", title = "D-Adapted Adam, preprint", catalogue = [1])]
#[method(paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "growth_rate = 1.02")]
pub struct DadaptAdamPreprint {
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment and of $s$.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $\rho$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
}

impl Default for DadaptAdamPreprint {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: f64::INFINITY, beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// The moments $m$ and $v$, the sum $s$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptAdamPreprintState {
    m: Params,
    v: Params,
    s: Params,
    sum: f64,
}

impl DadaptAdamPreprintState {
    fn new(params: &Params) -> Self {
        Self { m: params.zeros_like(), v: params.zeros_like(), s: params.zeros_like(), sum: 0.0 }
    }
}

impl Optimiser for DadaptAdamPreprint {
    type State = Adapted<DadaptAdamPreprintState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptAdamPreprintState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        let rate = state.d() * at.lr;
        let mut movement = Params::default();
        let (mut gradients, mut sums, mut norms) = (vec![], vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let g = g.elements();
            let m = slot(&state.own.m, name)? * beta1 + g.clone() * (rate * (1.0 - beta1));
            let v = slot(&state.own.v, name)? * beta2 + g.clone().square() * (1.0 - beta2);
            let s = slot(&state.own.s, name)? * beta2 + g.clone() * (rate * (1.0 - beta2));
            let root = v.clone().sqrt() + eps;
            gradients.push(wide(g.square() / root.clone()).sum() * r);
            sums.push(wide(s.clone().square() / root.clone()).sum() * r);
            norms.push(wide(s.clone().abs()).sum() * r);
            movement.insert(name, AnyTensor::from_elements(m.clone() * -r / root));
            for (field, tensor) in [&mut state.own.m, &mut state.own.v, &mut state.own.s].into_iter().zip([m, v, s]) {
                field.insert(name, AnyTensor::from_elements(tensor));
            }
        }
        let [gradients, sums, norm] = totals([gradients, sums, norms]);
        if norm == 0.0 {
            return Ok(still(grads));
        }
        state.own.sum = beta2 * state.own.sum + (1.0 - beta2) * rate * rate * gradients;
        state.learn((sums / (1.0 - beta2) - state.own.sum) / norm, self.growth_rate);
        Ok(Step { movement, decay_rates: vec![rate; grads.len()] })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        3 * shape.iter().product::<usize>()
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptAdamPreprintState::new(params), self.d0, share)))
    }
}
