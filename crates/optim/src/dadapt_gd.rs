use crate::{
    estimate::{Adapted, descend},
    slot, still,
};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use serde::{Deserialize, Serialize};

/// Gradient descent with D-Adaptation, in the form that the theory is about.
///
/// # Mathematics
/// $$\lambda_k = \frac{d_k\, \gamma_k}{\sqrt{G^2 + \sum_{i \le k} \lVert g_i \rVert^2}}, \qquad s_{k+1} = s_k + \lambda_k\, g_k, \qquad
///   x_{k+1} = x_k - \lambda_k\, g_k = x_0 - s_{k+1},$$
/// $$\hat d_{k+1} = \frac{\sum_{i \le k} \lambda_i \langle g_i, s_i \rangle}{\lVert s_{k+1} \rVert}
///   = \frac{\lVert s_{k+1} \rVert^2 - \sum_{i \le k} \lambda_i^2 \lVert g_i \rVert^2}{2\, \lVert s_{k+1} \rVert}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ q\, d_k)\bigr),$$
/// and the answer is the average $\hat x_n = \sum_{k \le n} \lambda_k x_k \big/ \sum_{k \le n} \lambda_k$, which `evaluate` of the
/// host gives.
///
/// $g$ is a (sub)gradient, $s$ its weighted sum, $d$ the estimate of $D = \lVert x_0 - x_\star \rVert$, $G$ a bound on the
/// gradient's norm where one is known, $\gamma_k$ the schedule's multiplier (nominal 1), $q$ the growth rate. Norms run over
/// all parameters. A parameter's relative rate $r$ means the same method in the variables $x / \sqrt r$.
///
/// The two forms are one number, since $\lVert s_{k+1} \rVert^2 = \lVert s_k \rVert^2 + 2 \lambda_k \langle g_k, s_k \rangle +
/// \lambda_k^2 \lVert g_k \rVert^2$. For convex $f$ it is at most $D$ whatever the $\lambda$: $0 \le \sum_i \lambda_i (f(x_i) -
/// f_\star) \le \langle s_{n+1}, x_0 - x_\star \rangle - \sum_i \lambda_i \langle g_i, s_i \rangle$. The bound
/// on the gap has a factor $\log n$, from $\sum_i \lambda_i^2 \lVert g_i \rVert^2$, that `dadapt_dual_averaging` has not.
///
/// # When to use
/// For convex problems where the estimate must be a bound, as `dadapt_dual_averaging`; each point is one gradient from the last
/// here, and not built anew from the start. Its steps shrink as AdaGrad's do. `dadapt_sgd` is the practical form.
///
/// # Differences
/// None from the paper's algorithm but the default $G = 0$: with the sum alone no bound has to be known, and the first step has
/// the length $d_0$. The limit of growth is ours, and off by default. Steps before the first gradient that is not zero do
/// nothing. Decoupled decay, which the paper does not have, takes the rate $r\, \lambda_k$.
///
/// The state keeps the average as its distance from $x$, which the next movement changes.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptGd, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptGd::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0], &[1], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..2000 {
///     // The gradient of the distance to 1.
///     let gradient = x.map(|_, x| AnyTensor::from_elements((x.elements() - 1.0).sign()));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// let d = host.report(&optimiser)[0].1;
/// assert!(d > 0.3 && d <= 1.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733, the gradient-descent
/// variant.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_gd", title = "D-Adapted gradient descent", catalogue = [1], paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(scale_free), case = "d0 = 1.0")]
#[method(case = "d0 = 0.5\ngrowth_rate = 1.1")]
#[method(waive(
    converges_on_rosenbrock = "the steps shrink with the sum of all gradients, and the first slope is steep"
))]
pub struct DadaptGd {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $q$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Bound $G$ on the norm of a gradient where one is known; 0 goes by the gradients seen.
    #[method(min = 0.0)]
    pub gradient_bound: f64,
}

impl Default for DadaptGd {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: f64::INFINITY, gradient_bound: 0.0 }
    }
}

/// The sum $s$, the average's lead over $x$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptGdState {
    s: Params,
    /// Average less $x$.
    lead: Params,
    numerator: f64,
    squares: f64,
    weights: f64,
}

impl DadaptGdState {
    fn new(params: &Params) -> Self {
        Self { s: params.zeros_like(), lead: params.zeros_like(), numerator: 0.0, squares: 0.0, weights: 0.0 }
    }
}

impl Optimiser for DadaptGd {
    type State = Adapted<DadaptGdState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptGdState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let (mut squares, mut products, mut sums) = (vec![], vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let (g, s) = (wide(g.elements()), wide(slot(&state.own.s, name)?));
            squares.push(g.clone().square().sum() * r);
            products.push((g * s.clone()).sum() * r);
            sums.push(s.square().sum() * r);
        }
        let [square, product, sum] = totals([squares, products, sums]);
        let weight = state.d() * at.lr;
        let own = &mut state.own;
        own.squares += square;
        if own.squares == 0.0 || weight == 0.0 {
            return Ok(still(grads));
        }
        let rate = weight / (self.gradient_bound * self.gradient_bound + own.squares).sqrt();
        let share = rate / (own.weights + rate);
        own.weights += rate;
        own.numerator += rate * product;
        let step = descend(grads, at, rate, |name, g, way| {
            let (s, lead) = (slot(&own.s, name)? + g * rate, slot(&own.lead, name)? * (1.0 - share) - way);
            own.s.insert(name, AnyTensor::from_elements(s));
            own.lead.insert(name, AnyTensor::from_elements(lead));
            Ok(())
        })?;
        let norm = (sum + 2.0 * rate * product + rate * rate * square).max(0.0).sqrt();
        if norm > 0.0 {
            state.learn(state.own.numerator / norm, self.growth_rate);
        }
        Ok(step)
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn eval(&self, params: &Params, state: &Self::State) -> Params {
        params.zip(&state.own.lead, |x, lead| x + lead)
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptGdState::new(params), self.d0, share)))
    }
}
