use crate::{
    estimate::{Adapted, descend, gone},
    slot, still,
};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Gradient descent whose step is the distance it has come over the gradients it has seen.
///
/// # Mathematics
/// $$\bar r_k = \max\bigl(r_\varepsilon,\ \max_{i \le k} \lVert x_i - x_0 \rVert\bigr), \qquad
///   r_\varepsilon = \alpha\,(1 + \lVert x_0 \rVert), \qquad
///   \eta_k = \frac{\gamma_k\, \bar r_k}{\sqrt{\sum_{i \le k} \lVert g_i \rVert^2 + \varepsilon}}, \qquad
///   x_{k+1} = x_k - \eta_k\, g_k,$$
/// $$\bar x_k = \Bigl(1 - \frac{1 + p}{k + p}\Bigr)\, \bar x_{k-1} + \frac{1 + p}{k + p}\, x_k,$$
/// and the average $\bar x$ is the answer, which `evaluate` of the host gives.
///
/// $g$ is the gradient, $\bar r$ the estimate of the distance $D = \lVert x_0 - x_\star \rVert$ (drawn as `d`), $\gamma_k$ the
/// schedule's multiplier (nominal 1), $p$ the power of the average: weights grow as the $p$-th power of the step. Norms run
/// over all parameters together. A parameter's relative rate $r$ means the same method in the variables $x / \sqrt r$.
///
/// The best constant step of a convex problem is $D / \sqrt{\sum \lVert g \rVert^2}$. The path itself tells $D$: as long as
/// $\bar r$ is too small the steps are too, all in one direction, and $\bar r$ grows geometrically; near the solution it
/// settles at about $D$.
///
/// # When to use
/// Fine-tuning with plain gradients where no rate is known and no schedule is wanted: keep the schedule constant, the average
/// does its work. The numbers of adapters that start at zero move by one common rate, so `dadapt_adam` suits patches better.
///
/// # Differences
/// None from the authors' package (`dog-optimizer`) with its polynomial average. `r_eps` is $\alpha$, which the authors set to
/// 1e-4 for models with batch norm. Steps before the first gradient that is not zero do nothing. The package adds decay to the
/// gradient; the host's decoupled form takes the rate $r\, \eta_k$. The form that treats every layer by itself is not built.
///
/// The state keeps the displacement $x - x_0$, decay included, in place of $x_0$, and the average as its distance from $x$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Dog, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = Dog::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..500 {
///     // The gradient of half the squared distance to 3. Nobody says how far that is.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// let answer = host.evaluate(&optimiser, &x);
/// assert!(answer.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Ivgi, Hinder and Carmon, *DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule*, ICML 2023,
/// arXiv:2302.12022, and the package `dog-optimizer` 1.0.3.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dog", title = "DoG", catalogue = [], paper = "arxiv:2302.12022", year = 2023)]
#[method(
    needs(gradients),
    promises(learning_rate_free, scale_free),
    case = "",
    case = "r_eps = 0.0001\naveraging = 2.0"
)]
#[method(waive(
    converges_on_rosenbrock = "the steps shrink with the sum of all gradients, and the first slope is steep"
))]
pub struct Dog {
    /// First distance as a share of one more than the norm of the start, $\alpha$.
    #[method(above = 0.0)]
    pub r_eps: f64,
    /// Guards the division, in the root.
    #[method(min = 0.0)]
    pub eps: f64,
    /// Power $p$ of the average's weights; 0 is the plain mean.
    #[method(min = 0.0)]
    pub averaging: f64,
}

impl Default for Dog {
    fn default() -> Self {
        Self { r_eps: 1e-6, eps: 1e-8, averaging: 8.0 }
    }
}

/// The displacement, the average's lead over $x$, the gradients' squares and the steps made.
#[derive(Clone, Debug, Record)]
pub struct DogState {
    far: Params,
    /// Average less $x$.
    lead: Params,
    squares: f64,
    k: u64,
}

impl Dog {
    fn first(&self, params: &Params) -> f64 {
        self.r_eps * (1.0 + params.norm())
    }
}

impl DogState {
    fn new(params: &Params) -> Self {
        Self { far: params.zeros_like(), lead: params.zeros_like(), squares: 0.0, k: 0 }
    }
}

impl Optimiser for Dog {
    type State = Adapted<DogState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DogState::new(params), self.first(params)))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let [square, distance] = gone(grads, &state.own.far, at)?;
        state.own.squares += square;
        if state.own.squares == 0.0 {
            return Ok(still(grads));
        }
        state.learn(distance.sqrt(), f64::INFINITY);
        let rate = at.lr * state.d() / (state.own.squares + self.eps).sqrt();
        state.own.k += 1;
        let own = &mut state.own;
        let share = (1.0 + self.averaging) / (own.k as f64 + self.averaging);
        descend(grads, at, rate, |name, _, way| {
            let far = slot(&own.far, name)? + way.clone();
            let lead = (slot(&own.lead, name)? - way) * (1.0 - share);
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
        Ok(Some(ruined.restarted(DogState::new(params), self.first(params), share)))
    }
}
