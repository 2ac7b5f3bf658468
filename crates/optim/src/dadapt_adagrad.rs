use crate::{estimate::Adapted, slot, still};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use serde::{Deserialize, Serialize};

/// What every squared gradient's sum starts from, as in the authors' package.
const START: f64 = 1e-6;

/// AdaGrad that finds its own learning rate: dual averaging with a scale of its own for every number.
///
/// # Mathematics
/// With $\lambda_k = d_k\, \gamma_k$ and all products element by element,
/// $$v_{k+1} = v_k + g_k^2, \qquad a_{k+1} = \sqrt{v_{k+1}} + \varepsilon, \qquad s_{k+1} = s_k + \lambda_k\, g_k,$$
/// $$q_{k+1} = q_k + \lambda_k^2 \sum \frac{g_k^2}{a_{k+1}}, \qquad
///   \hat d_{k+1} = \frac{\sum s_{k+1}^2 / a_{k+1} - q_{k+1}}{\lVert s_{k+1} \rVert_1}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ \rho\, d_k)\bigr),$$
/// $$x_{k+1} = \mu\, x_k + (1-\mu) \left( x_0 - \frac{s_{k+1}}{a_{k+1}} \right).$$
///
/// $g$ is the gradient, $v$ the sum of its squares from $v_0 = 10^{-6}$ on, $s$ its weighted sum, $d$ the estimate of $D_\infty
/// = \lVert x_0 - x_\star \rVert_\infty$, $\gamma_k$ the schedule's multiplier (nominal 1), $\mu$ the momentum, $\rho$ the
/// growth rate. Sums run over all parameters. Without momentum the bound is the Euclidean one in the norm of the diagonal
/// matrix $a$: $\langle s, x_0 - x_\star \rangle \le \lVert s \rVert_1 D_\infty$ takes the place of Cauchy's inequality. A
/// parameter's relative rate $r$ means the same method in the variables $x / r$: it multiplies its parts of $q$, of $\sum s^2 /
/// a$ and of $\lVert s \rVert_1$, and its displacement.
///
/// # When to use
/// For convex problems with sparse features and no known rate, such as linear models on counts of words. Elsewhere
/// `dadapt_adam` finds its rate in fewer steps.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptAdaGrad`) for dense gradients. The half that the paper's bound has
/// before the difference is missing there, so $d$ is a heuristic, at most twice the bound. The package keeps $v$ and the sums
/// over $s$ from step to step; here they are made anew at each, which is the same.
///
/// The state keeps the displacement $u = x - x_0$ in place of $x_0$: $u_{k+1} = \mu\, u_k - (1-\mu)\, s_{k+1} / a_{k+1}$. The
/// path is the same, and decoupled decay, which the package does not know, can move $x$; its rate is $\lambda_k$. A step with
/// $\lVert s \rVert_1 = 0$ does nothing.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptAdagrad, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptAdagrad::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..1000 {
///     // The gradient of half the squared distance to 3. Nobody says how far that is.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-1);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733, and the package
/// `dadaptation` 3.2.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_adagrad", title = "D-Adapted AdaGrad", catalogue = [1], paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free))]
#[method(case = "", case = "momentum = 0.9\ngrowth_rate = 1.1\nd0 = 0.001")]
#[method(waive(
    converges_on_rosenbrock = "the steps shrink with the sum of all gradients, and the first slope is steep"
))]
pub struct DadaptAdagrad {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $\rho$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Share $\mu$ of the last point in the next one.
    #[method(min = 0.0, max = 0.99999)]
    pub momentum: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
}

impl Default for DadaptAdagrad {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: f64::INFINITY, momentum: 0.0, eps: 1e-6 }
    }
}

/// The sums of squares without their start, the sum $s$, the displacement $u$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptAdagradState {
    v: Params,
    s: Params,
    u: Params,
    sum: f64,
}

impl DadaptAdagradState {
    fn new(params: &Params) -> Self {
        Self { v: params.zeros_like(), s: params.zeros_like(), u: params.zeros_like(), sum: 0.0 }
    }
}

impl Optimiser for DadaptAdagrad {
    type State = Adapted<DadaptAdagradState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptAdagradState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let rate = state.d() * at.lr;
        let mut movement = Params::default();
        let (mut gradients, mut sums, mut norms) = (vec![], vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let g = g.elements();
            let v = slot(&state.own.v, name)? + g.clone().square();
            let s = slot(&state.own.s, name)? + g.clone() * rate;
            let u = slot(&state.own.u, name)?;
            let root = (v.clone() + START).sqrt() + self.eps;
            gradients.push(wide(g.square() / root.clone()).sum() * r);
            sums.push(wide(s.clone().square() / root.clone()).sum() * r);
            norms.push(wide(s.clone().abs()).sum() * r);
            let step = (s.clone() / root * r + u.clone()) * (self.momentum - 1.0);
            state.own.v.insert(name, AnyTensor::from_elements(v));
            state.own.s.insert(name, AnyTensor::from_elements(s));
            state.own.u.insert(name, AnyTensor::from_elements(u + step.clone()));
            movement.insert(name, AnyTensor::from_elements(step));
        }
        let [gradients, sums, norm] = totals([gradients, sums, norms]);
        if norm == 0.0 {
            return Ok(still(grads));
        }
        state.own.sum += rate * rate * gradients;
        state.learn((sums - state.own.sum) / norm, self.growth_rate);
        Ok(Step { movement, decay_rates: vec![rate; grads.len()] })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        3 * shape.iter().product::<usize>()
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptAdagradState::new(params), self.d0, share)))
    }
}
