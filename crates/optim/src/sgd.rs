use crate::slot;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Gradient descent with momentum, in its heavy-ball or in Nesterov's form.
///
/// # Mathematics
/// $$b_{k+1} = \mu\, b_k + g_k, \qquad x_{k+1} = x_k - \gamma_k\, u_k, \qquad
///   u_k = \begin{cases} b_{k+1} & \text{heavy ball} \\ g_k + \mu\, b_{k+1} & \text{Nesterov} \end{cases}$$
///
/// $x$ are the parameters, $g$ the gradient, $b$ the velocity with $b_0 = 0$, $\mu$ the momentum and $\gamma_k$ the learning
/// rate times the schedule's multiplier and the parameter's relative rate.
///
/// # When to use
/// When a good learning rate is known, as for large networks whose recipes were tuned with it. It needs one buffer for each
/// parameter. Where no rate is known `dadapt_sgd` finds it, and patches of transformers train better with `dadapt_adam`.
///
/// # Differences
/// From Polyak's heavy ball and Nesterov's method: both are written with a velocity that holds no learning rate, as in
/// `torch.optim.SGD`, so that a change of the rate acts at once. From torch: there is no dampening, and the decoupled form of
/// weight decay is open to this method too.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, Sgd};
/// use burn::tensor::{DType, Device};
///
/// let sgd = Sgd { lr: 0.1, momentum: 0.5, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&sgd, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..100 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&sgd, &x, &gradient, 1.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-6);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964, doi:10.1016/0041-5553(64)90137-5.
/// Nesterov, *A method for solving the convex programming problem with convergence rate O(1/k²)*, 1983. The written form is
/// that of Sutskever, Martens, Dahl and Hinton, *On the importance of initialization and momentum in deep learning*, ICML 2013.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "sgd", title = "SGD", catalogue = [], paper = "doi:10.1016/0041-5553(64)90137-5", year = 1964)]
#[method(needs(gradients, learning_rate), case = "lr = 0.001\nmomentum = 0.9")]
#[method(case = "lr = 0.001\nmomentum = 0.9\nnesterov = true")]
pub struct Sgd {
    /// Learning rate $\gamma$.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay $\mu$ of the velocity.
    #[method(min = 0.0, max = 0.99999)]
    pub momentum: f64,
    /// Whether the step looks one velocity ahead.
    pub nesterov: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { lr: 0.01, momentum: 0.9, nesterov: false }
    }
}

/// The velocity $b$.
#[derive(Clone, Debug, Record)]
pub struct SgdState {
    velocity: Params,
}

impl Optimiser for Sgd {
    type State = SgdState;

    fn init(&self, params: &Params) -> Result<SgdState> {
        Ok(SgdState { velocity: params.zeros_like() })
    }

    fn update(&self, grads: &Params, state: &mut SgdState, at: &At<'_>) -> Result<Step> {
        let rates: Vec<f64> = at.scales.iter().map(|scale| self.lr * at.lr * scale).collect();
        let mut movement = Params::default();
        for ((name, g), &rate) in grads.iter().zip(&rates) {
            let g = g.elements();
            let velocity = slot(&state.velocity, name)? * self.momentum + g.clone();
            let direction = if self.nesterov { velocity.clone() * self.momentum + g } else { velocity.clone() };
            state.velocity.insert(name, AnyTensor::from_elements(velocity));
            movement.insert(name, AnyTensor::from_elements(direction * -rate));
        }
        Ok(Step { movement, decay_rates: rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        shape.iter().product()
    }

    fn keeps_moments(&self) -> bool {
        true
    }
}
