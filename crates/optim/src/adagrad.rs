use crate::take;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Gradient descent whose rate falls, coordinate by coordinate, with the gradients seen there.
///
/// # Mathematics
/// $$a_k = a_{k-1} + g_k^2, \qquad x_{k+1} = x_k - \alpha_k\, \frac{g_k}{\sqrt{a_k} + \varepsilon}$$
///
/// $g$ is the gradient, $a$ starts at zero, and $\alpha_k$ is the learning rate times the schedule's multiplier and the parameter's relative
/// rate. The first step is $\alpha$ in every coordinate. For convex losses and constant $\alpha$ the regret after $T$ steps is at most
/// $$\Bigl( \frac{D_\infty^2}{2\alpha} + \alpha \Bigr) \sum_j \sqrt{a_{T,j}}, \qquad
///   D_\infty = \max_{k,j} |x_{k,j} - x_{\star,j}|.$$
///
/// # When to use
/// Sparse features: words or categories that few rows name keep a large rate until they are seen. Over long runs the rate falls without end,
/// where `adamw` forgets. Without a known rate use `dadapt_adam`.
///
/// # Differences
/// The diagonal form of the paper without projection. torch's `lr_decay` is left out: rates that fall are the schedule's.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Adagrad, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let adagrad = Adagrad { lr: 1.0, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&adagrad, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..100 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&adagrad, &x, &gradient, 1.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Duchi, Hazan and Singer, *Adaptive Subgradient Methods for Online Learning and Stochastic Optimization*, JMLR 12, 2011.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "adagrad", title = "AdaGrad", catalogue = [], paper = "doi:10.5555/1953048.2021068", year = 2011)]
#[method(needs(gradients, learning_rate), promises(scale_free), case = "lr = 0.5")]
pub struct Adagrad {
    /// Learning rate $\alpha$, the length of the first step.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self { lr: 1e-2, eps: 1e-10 }
    }
}

/// The sums $a$ of squares.
#[derive(Clone, Debug, Record)]
pub struct AdagradState {
    a: Params,
}

impl Optimiser for Adagrad {
    type State = AdagradState;

    fn init(&self, params: &Params) -> Result<AdagradState> {
        Ok(AdagradState { a: params.zeros_like() })
    }

    fn update(&self, grads: &Params, state: &mut AdagradState, at: &At<'_>) -> Result<Step> {
        let rates: Vec<f64> = at.scales.iter().map(|scale| self.lr * at.lr * scale).collect();
        let mut movement = Params::default();
        for ((name, g), &rate) in grads.iter().zip(&rates) {
            let g = g.elements();
            let a = take(&mut state.a, name)? + g.clone().square();
            movement.insert(name, AnyTensor::from_elements(g / (a.clone().sqrt() + self.eps) * -rate));
            state.a.insert(name, AnyTensor::from_elements(a));
        }
        Ok(Step { movement, decay_rates: rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        shape.iter().product()
    }

    fn in_place(&self) -> bool {
        true
    }
}
