use crate::{estimate::Adapted, slot, still};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use serde::{Deserialize, Serialize};

/// Lion, which steps by the sign of a mean of gradients, with a length that it finds for itself.
///
/// # Mathematics
/// With $b = \sqrt{\beta_2}$ and $\lambda_k = d_k\, \gamma_k$,
/// $$u_k = \operatorname{sign}\bigl(\beta_1 m_k + (1-\beta_1)\, g_k\bigr), \qquad
///   m_{k+1} = \beta_2 m_k + (1-\beta_2)\, \lambda_k\, g_k, \qquad x_{k+1} = x_k - \lambda_k\, u_k,$$
/// $$n_{k+1} = b\, n_k + (1-b)\, \lambda_k\, \langle u_k, s_k \rangle, \qquad
///   s_{k+1} = b\, s_k + (1-b)\, \lambda_k\, u_k,$$
/// $$\hat d_{k+1} = \frac{n_{k+1}}{(1-b)\, \lVert s_{k+1} \rVert_1}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ q\, d_k)\bigr).$$
///
/// $g$ is the gradient, $m$ its mean, $u$ the direction, which takes the gradient's part in the estimate of D-Adaptation,
/// $s$ the weighted sum of directions, $\gamma_k$ the schedule's multiplier (nominal 1), $q$ the growth rate. A parameter's
/// relative rate multiplies its movement: signs know no units, so its part of the estimate stays.
///
/// # When to use
/// Where Lion is known to work, such as large vision models with large batches, and no rate is known. It needs two buffers, one
/// fewer than `dadapt_adam`. Every number moves by the same length, so it does not settle unless the schedule falls.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptLion`), which the paper does not describe. In it $m$ is a mean of
/// gradients times $\lambda$ and the sign adds a plain gradient to it; $\lambda$ is small at first, so the sign is the
/// gradient's own then. It is kept as published. The limit of growth is ours; `growth_rate = inf` gives the package. On
/// a quadratic whose solution is some hundreds away $d$ runs so far past it without a limit that the loss ends above its start,
/// and with a limit of 1.1 at a twentieth of it.
///
/// A step with $\lVert s \rVert_1 = 0$ does nothing; the package lets the weights decay in it. Decoupled decay has the rate
/// $\lambda_k$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptLion, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptLion::default();
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
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733, and the package
/// `dadaptation` 3.2. Chen and others, *Symbolic Discovery of Optimization Algorithms*, NeurIPS 2023, arXiv:2302.06675.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_lion", title = "D-Adapted Lion", catalogue = [1], paper = "arxiv:2301.07733", year = 2023)]
#[method(
    needs(gradients),
    promises(learning_rate_free, scale_free),
    case = "",
    case = "growth_rate = 1.02\nd0 = 0.001"
)]
#[method(waive(
    converges_on_rosenbrock = "all numbers move by one length, too long for the bend of the valley until it is too late"
))]
pub struct DadaptLion {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $q$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Share of the mean in the direction.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the mean; its root is the decay of $s$.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
}

impl Default for DadaptLion {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: 1.05, beta1: 0.9, beta2: 0.99 }
    }
}

/// The mean $m$, the sum $s$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptLionState {
    m: Params,
    s: Params,
    numerator: f64,
}

impl DadaptLionState {
    fn new(params: &Params) -> Self {
        Self { m: params.zeros_like(), s: params.zeros_like(), numerator: 0.0 }
    }
}

impl Optimiser for DadaptLion {
    type State = Adapted<DadaptLionState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptLionState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, .. } = *self;
        let b = beta2.sqrt();
        let rate = state.d() * at.lr;
        let mut movement = Params::default();
        let (mut products, mut norms) = (vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let (g, m, s) = (g.elements(), slot(&state.own.m, name)?, slot(&state.own.s, name)?);
            let direction = (m.clone() * beta1 + g.clone() * (1.0 - beta1)).sign();
            products.push(wide(direction.clone() * s.clone()).sum());
            let s = s * b + direction.clone() * (rate * (1.0 - b));
            norms.push(wide(s.clone().abs()).sum());
            state.own.m.insert(name, AnyTensor::from_elements(m * beta2 + g * (rate * (1.0 - beta2))));
            state.own.s.insert(name, AnyTensor::from_elements(s));
            movement.insert(name, AnyTensor::from_elements(direction * (-rate * r)));
        }
        let [product, norm] = totals([products, norms]);
        if norm == 0.0 {
            return Ok(still(grads));
        }
        state.own.numerator = b * state.own.numerator + (1.0 - b) * rate * product;
        state.learn(state.own.numerator / ((1.0 - b) * norm), self.growth_rate);
        Ok(Step { movement, decay_rates: vec![rate; grads.len()] })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptLionState::new(params), self.d0, share)))
    }
}
