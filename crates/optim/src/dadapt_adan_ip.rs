use crate::{
    dadapt_adan::{Adan, AdanState, Advanced},
    estimate::Adapted,
    still,
};
use acclimate_core::{At, Method, Optimiser, Params, Result, Step};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// D-Adapted Adan whose estimate is made of inner products, and larger.
///
/// # Mathematics
/// Moments, sum $s$ and step are those of `dadapt_adan`. With $\lambda_k = d_k\, \gamma_k$ and all products element by element,
/// $$p_{k+1} = \beta_3 p_k + (1-\beta_3)\, \lambda_k \left\langle g_k, \frac{s_k}{\sqrt{v_k} + \varepsilon} \right\rangle, \qquad
///   \hat d_{k+1} = \frac{2\, \beta_3}{1-\beta_3}\, \frac{p_{k+1}}{\lVert s_{k+1} \rVert_1}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ \rho\, d_k)\bigr).$$
///
/// $g$ is the gradient, $s$ and $v$ stand in the product as they were before the step, $\gamma_k$ is the schedule's multiplier
/// (nominal 1), $\rho$ the growth rate. The product of the gradient with the sum is the larger of the two forms that the bound
/// of D-Adaptation has, as option II is in `dadapt_dual_averaging`. A parameter's relative rate multiplies its part of the
/// product and of $\lVert s \rVert_1$, and its movement.
///
/// # When to use
/// As `dadapt_adan`, where that stays at a rate that is too small.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptAdanIP`, under `experimental`); the paper does not describe it. The
/// limit of growth is ours by default: without it (`growth_rate = inf`, the package's default) the estimate passes the distance
/// so far that Rosenbrock's function ends above its start. The package's names for two of its buffers are exchanged throughout,
/// which changes nothing. Decay is the host's, and zero unless set; the package's default is 0.02. A step with
/// $\lVert s \rVert_1 = 0$ does nothing.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptAdanIp, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptAdanIp::default();
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
/// `dadaptation` 3.2. Xie and others, *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*, 2022,
/// arXiv:2208.06677.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_adan_ip", title = "D-Adapted Adan, inner products", catalogue = [1])]
#[method(paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "growth_rate = 1.05\nd0 = 0.001\nproximal = false")]
pub struct DadaptAdanIp {
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the moment of changes.
    #[method(min = 0.0, max = 0.99999)]
    pub beta2: f64,
    /// Decay of the second moment and of $s$.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta3: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $\rho$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Whether decoupled decay divides after the step, as in Adan, or shrinks before it, as in AdamW.
    pub proximal: bool,
}

impl Default for DadaptAdanIp {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: 1.1, beta1: 0.98, beta2: 0.92, beta3: 0.99, eps: 1e-8, proximal: true }
    }
}

impl Optimiser for DadaptAdanIp {
    type State = Adapted<AdanState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(AdanState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, beta3, eps, proximal, .. } = *self;
        let rate = state.d() * at.lr;
        let adan = Adan { betas: [beta1, beta2, beta3], eps, rate, proximal };
        let terms = |g: &Tensor<1>, step: &Advanced| {
            let [s, root] = step.before.clone();
            [g.clone() * (s / root), step.after[0].clone().abs()]
        };
        let Some(([product, norm], step)) = state.own.step(grads, at, adan, terms)? else {
            return Ok(still(grads));
        };
        state.own.sum = beta3 * state.own.sum + (1.0 - beta3) * rate * product;
        state.learn(2.0 * beta3 / (1.0 - beta3) * state.own.sum / norm, self.growth_rate);
        Ok(step)
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        5 * shape.iter().product::<usize>()
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(AdanState::new(params), self.d0, share)))
    }
}
