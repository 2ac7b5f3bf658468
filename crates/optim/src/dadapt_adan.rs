use crate::{estimate::Adapted, slot, still};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Adan, Nesterov's momentum on Adam's scale, that finds its own learning rate.
///
/// # Mathematics
/// With $\lambda_k = d_k\, \gamma_k$ and all products element by element,
/// $$\Delta_k = g_k - g_{k-1}, \qquad m_{k+1} = \beta_1 m_k + (1-\beta_1)\, \lambda_k\, g_k, \qquad
///   n_{k+1} = \beta_2 n_k + (1-\beta_2)\, \lambda_k\, \Delta_k,$$
/// $$v_{k+1} = \beta_3 v_k + (1-\beta_3)\,(g_k + \beta_2 \Delta_k)^2, \qquad a_{k+1} = \sqrt{v_{k+1}} + \varepsilon, \qquad
///   u_k = \frac{m_{k+1} + \beta_2\, n_{k+1}}{a_{k+1}},$$
/// $$s_{k+1} = \beta_3 s_k + (1-\beta_3)\, \lambda_k\, g_k, \qquad
///   q_{k+1} = \beta_3 q_k + (1-\beta_3)\, \lambda_k^2 \sum \frac{g_k^2}{a_{k+1}}, \qquad
///   \hat d_{k+1} = \frac{\tfrac{1}{1-\beta_3} \sum s_{k+1}^2 / a_{k+1} - q_{k+1}}{\lVert s_{k+1} \rVert_1},$$
/// $$d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ \rho\, d_k)\bigr), \qquad
///   x_{k+1} = \frac{x_k - u_k}{1 + \lambda_k\, w} \quad\text{or}\quad x_{k+1} = (1 - \lambda_k\, w)\, x_k - u_k.$$
///
/// $g$ is the gradient, $\Delta$ its change ($\Delta_0 = 0$), $m$, $n$ and $v$ the three moments, $s$ and $q$ the sums of the
/// estimate, $\gamma_k$ the schedule's multiplier (nominal 1), $\rho$ the growth rate, $w$ the host's decoupled decay: divided
/// by at the end, as Adan's proximal step does, or as in AdamW where `proximal` is off. Sums run over all parameters. A
/// parameter's relative rate means the same method in the variables $x / r$: it multiplies its parts of $q$, of
/// $\sum s^2 / a$ and of $\lVert s \rVert_1$, and its $u$.
///
/// # When to use
/// Where Adan is known to work, such as vision transformers, and no rate is known. It needs five buffers. `dadapt_adam` is the
/// first choice elsewhere.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptAdan`); the paper does not describe it. The estimate is a
/// heuristic: the factor one half of the bound is missing. The package's decay of 0.02 is its default; here decay is the
/// host's, and zero unless set. A step with $\lVert s \rVert_1 = 0$ does nothing.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptAdan, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptAdan::default();
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
#[method(name = "dadapt_adan", title = "D-Adapted Adan", catalogue = [1], paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "growth_rate = 1.1\nd0 = 0.001\nproximal = false")]
pub struct DadaptAdan {
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

impl Default for DadaptAdan {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: f64::INFINITY, beta1: 0.98, beta2: 0.92, beta3: 0.99, eps: 1e-8, proximal: true }
    }
}

/// Adan's moments, the last gradient, the sum $s$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct AdanState {
    m: Params,
    n: Params,
    v: Params,
    previous: Params,
    s: Params,
    /// The estimate's other sum.
    pub(crate) sum: f64,
    k: u64,
}

/// The numbers of a step of Adan.
#[derive(Clone, Copy)]
pub(crate) struct Adan {
    pub(crate) betas: [f64; 3],
    pub(crate) eps: f64,
    pub(crate) rate: f64,
    pub(crate) proximal: bool,
}

/// What the estimate and the step need of a parameter.
pub(crate) struct Advanced {
    /// The sum and the denominator before the step.
    pub(crate) before: [Tensor<1>; 2],
    /// The sum and the denominator after it.
    pub(crate) after: [Tensor<1>; 2],
    /// $u$, by which a parameter without decay and relative rate falls.
    direction: Tensor<1>,
}

impl AdanState {
    pub(crate) fn new(params: &Params) -> Self {
        let zeros = || params.zeros_like();
        Self { m: zeros(), n: zeros(), v: zeros(), previous: zeros(), s: zeros(), sum: 0.0, k: 0 }
    }

    /// The moments of a parameter after a step.
    fn advance(&mut self, name: &str, g: Tensor<1>, step: Adan) -> Result<Advanced> {
        let Adan { betas: [beta1, beta2, beta3], eps, rate, .. } = step;
        let change = if self.k == 0 { g.zeros_like() } else { g.clone() - slot(&self.previous, name)? };
        let (old_v, old_s) = (slot(&self.v, name)?, slot(&self.s, name)?);
        let m = slot(&self.m, name)? * beta1 + g.clone() * (rate * (1.0 - beta1));
        let n = slot(&self.n, name)? * beta2 + change.clone() * (rate * (1.0 - beta2));
        let v = old_v.clone() * beta3 + (g.clone() + change * beta2).square() * (1.0 - beta3);
        let s = old_s.clone() * beta3 + g.clone() * (rate * (1.0 - beta3));
        let root = v.clone().sqrt() + eps;
        let direction = (m.clone() + n.clone() * beta2) / root.clone();
        let fields = [&mut self.m, &mut self.n, &mut self.v, &mut self.previous, &mut self.s];
        for (field, tensor) in fields.into_iter().zip([m, n, v, g, s.clone()]) {
            field.insert(name, AnyTensor::from_elements(tensor));
        }
        Ok(Advanced { before: [old_s, old_v.sqrt() + eps], after: [s, root], direction })
    }

    /// A step of Adan over all parameters, with the totals of what `terms` gives for each. The last of them is
    /// $\lVert s \rVert_1$; where it is zero there is no step.
    pub(crate) fn step<const N: usize>(
        &mut self,
        grads: &Params,
        at: &At<'_>,
        step: Adan,
        terms: impl Fn(&Tensor<1>, &Advanced) -> [Tensor<1>; N],
    ) -> Result<Option<([f64; N], Step)>> {
        let (mut movement, mut decay_rates) = (Params::default(), vec![]);
        let mut lists: [Vec<Tensor<1>>; N] = std::array::from_fn(|_| vec![]);
        for (((name, g), &r), &decay) in grads.iter().zip(at.scales).zip(at.decays) {
            let g = g.elements();
            let advanced = self.advance(name, g.clone(), step)?;
            for (list, term) in lists.iter_mut().zip(terms(&g, &advanced)) {
                list.push(wide(term).sum() * r);
            }
            // (x − u)/(1 + rate·decay), written as the host decays.
            let shrink = if step.proximal { 1.0 / (1.0 + step.rate * decay) } else { 1.0 };
            movement.insert(name, AnyTensor::from_elements(advanced.direction * (-r * shrink)));
            decay_rates.push(step.rate * shrink);
        }
        let totals = totals(lists);
        if totals[N - 1] == 0.0 {
            return Ok(None);
        }
        self.k += 1;
        Ok(Some((totals, Step { movement, decay_rates })))
    }
}

impl Optimiser for DadaptAdan {
    type State = Adapted<AdanState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(AdanState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, beta3, eps, proximal, .. } = *self;
        let rate = state.d() * at.lr;
        let adan = Adan { betas: [beta1, beta2, beta3], eps, rate, proximal };
        let terms = |g: &Tensor<1>, step: &Advanced| {
            let [s, root] = step.after.clone();
            [g.clone().square() / root.clone(), s.clone().square() / root, s.abs()]
        };
        let Some(([gradients, sums, norm], step)) = state.own.step(grads, at, adan, terms)? else {
            return Ok(still(grads));
        };
        state.own.sum = beta3 * state.own.sum + (1.0 - beta3) * rate * rate * gradients;
        state.learn((sums / (1.0 - beta3) - state.own.sum) / norm, self.growth_rate);
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
