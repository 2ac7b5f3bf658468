use crate::{
    estimate::{Adapted, descend, gone},
    slot, still,
};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// DoG with gradients weighted by the distance come, which adapts to smooth functions as well.
///
/// # Mathematics
/// $$\bar r_k^2 = \max\bigl(\bar r_{k-1}^2,\ \lVert x_k - x_0 \rVert^2\bigr), \qquad
///   v_k = v_{k-1} + \bar r_k^2\, \lVert g_k \rVert^2, \qquad
///   x_{k+1} = x_k - \eta_k\, g_k, \qquad \eta_k = \frac{\gamma_k\, \bar r_k^2}{\sqrt{v_k} + \varepsilon},$$
/// and the answer is the average $\bar x_n = \sum_{k \le n} \bar r_k^2\, x_k \big/ \sum_{k \le n} \bar r_k^2$, which `evaluate` of
/// the host gives.
///
/// $g$ is the gradient, $\bar r$ the estimate of the distance $D = \lVert x_0 - x_\star \rVert$ (drawn as `d`), which starts at
/// `d0`, $\gamma_k$ the schedule's multiplier (nominal 1). Norms run over all parameters together. A parameter's relative rate
/// $r$ means the same method in the variables $x / \sqrt r$.
///
/// A gradient from before the estimate has grown counts little in $v$, so the steps are longer than DoG's. For convex functions
/// the average converges at the best rate, up to logarithms, without knowing whether the function is smooth or only Lipschitz.
///
/// # When to use
/// As `dog`, for whole batches and problems without much noise, where its longer steps help. With noise its steps can be too
/// long; `dog` is the safer one.
///
/// # Differences
/// None from the paper's algorithm but $\varepsilon$, which the authors' code adds to the root. The first estimate of 0.01
/// and $\varepsilon = 10^{-4}$ are those of that code. Steps before the first gradient that is not zero do nothing. Decay is
/// not in the paper; the host's decoupled form takes the rate $r\, \eta_k$.
///
/// The state keeps the displacement $x - x_0$, decay included, in place of $x_0$, and the average as its distance from $x$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Dowg, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = Dowg::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..500 {
///     // The gradient of half the squared distance to 3. Nobody says how far that is.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// let answer = host.evaluate(&optimiser, &x);
/// assert!(answer.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 0.3);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Khaled, Mishchenko and Jin, *DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method*, NeurIPS 2023,
/// arXiv:2305.16284.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dowg", title = "DoWG", catalogue = [], paper = "arxiv:2305.16284", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free), case = "", case = "d0 = 0.0001\neps = 1e-8")]
pub struct Dowg {
    /// First estimate of the distance.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Guards the division.
    #[method(min = 0.0)]
    pub eps: f64,
}

impl Default for Dowg {
    fn default() -> Self {
        Self { d0: 1e-2, eps: 1e-4 }
    }
}

/// The displacement, the average's lead over $x$, the weighted squares of gradients and the sum of the weights.
#[derive(Clone, Debug, Record)]
pub struct DowgState {
    far: Params,
    /// Average less $x$.
    lead: Params,
    squares: f64,
    weights: f64,
}

impl DowgState {
    fn new(params: &Params) -> Self {
        Self { far: params.zeros_like(), lead: params.zeros_like(), squares: 0.0, weights: 0.0 }
    }
}

impl Optimiser for Dowg {
    type State = Adapted<DowgState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DowgState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let [square, distance] = gone(grads, &state.own.far, at)?;
        if state.own.squares + square == 0.0 {
            return Ok(still(grads));
        }
        state.learn(distance.sqrt(), f64::INFINITY);
        let weight = state.d() * state.d();
        let own = &mut state.own;
        own.squares += weight * square;
        own.weights += weight;
        let rate = at.lr * weight / (own.squares.sqrt() + self.eps);
        let share = weight / own.weights;
        descend(grads, at, rate, |name, _, way| {
            let far = slot(&own.far, name)? + way.clone();
            let lead = slot(&own.lead, name)? * (1.0 - share) - way;
            own.far.insert(name, AnyTensor::from_elements(far));
            own.lead.insert(name, AnyTensor::from_elements(lead));
            Ok(())
        })
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
        Ok(Some(ruined.restarted(DowgState::new(params), self.d0, share)))
    }
}
