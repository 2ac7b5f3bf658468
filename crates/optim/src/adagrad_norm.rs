use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, total, wide};
use serde::{Deserialize, Serialize};

/// Gradient descent whose one rate falls with the gradients seen, all coordinates together.
///
/// # Mathematics
/// $$v_k = v_{k-1} + \lVert g_k \rVert^2, \qquad x_{k+1} = x_k - \alpha_k\, \frac{g_k}{\sqrt{v_k}}$$
///
/// $g$ is the gradient, $v$ a single number that starts at $v_0 > 0$, and $\alpha_k$ is the learning rate times the schedule's multiplier and
/// the parameter's relative rate. Norms run over all parameters. No step is longer than $\alpha$, and with all relative rates one the squares
/// of the steps' lengths sum to at most $\alpha^2 \log (v_T / v_0)$. For smooth losses, convex or not, and any constant $\alpha$ the smallest
/// squared gradient falls as $O(1/T)$ without noise and as $O(\log T / \sqrt T)$ with it.
///
/// # When to use
/// Where a rate is to be found without a guess at the curvature and the direction of the gradient is to be kept: rotated coordinates change
/// nothing. Together with `batch.test = "norm"`, which lets the batch grow until noise no longer rules the gradient, it is AdAdaGradNorm.
/// `adagrad` has a rate for each coordinate.
///
/// # Differences
/// The paper's algorithm, with $v_0$ in place of its square root. The code published with AdAdaGrad keeps a number for each output row of a
/// weight, adds the row's last square to the sum of a bias too, and decays by the gradient in place of the parameter. The theory is about
/// the single number.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{AdagradNorm, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = AdagradNorm { lr: 3.0, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..100 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-6);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Ward, Wu and Bottou, *AdaGrad stepsizes: Sharp convergence over nonconvex landscapes*, ICML 2019, arXiv:1806.01811, algorithm 1. Lau, Liu and
/// Kolar, *AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods*, 2024, arXiv:2402.11215, pairs it with growing batches.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "adagrad_norm", title = "AdaGrad-Norm", catalogue = [132], paper = "arxiv:1806.01811", year = 2019)]
#[method(needs(gradients, learning_rate), case = "lr = 0.5", case = "lr = 2.0\nv0 = 100.0")]
pub struct AdagradNorm {
    /// Learning rate $\alpha$, the length of the first step where the gradient is large.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Where the sum $v$ of squares starts.
    #[method(above = 0.0)]
    pub v0: f64,
}

impl Default for AdagradNorm {
    fn default() -> Self {
        Self { lr: 1.0, v0: 1e-2 }
    }
}

/// The sum $v$ of squares.
#[derive(Clone, Debug, Record)]
pub struct AdagradNormState {
    v: f64,
}

impl Optimiser for AdagradNorm {
    type State = AdagradNormState;

    fn init(&self, _params: &Params) -> Result<AdagradNormState> {
        Ok(AdagradNormState { v: self.v0 })
    }

    fn update(&self, grads: &Params, state: &mut AdagradNormState, at: &At<'_>) -> Result<Step> {
        state.v += total(grads.iter().map(|(_, g)| wide(g.elements()).square().sum()).collect());
        let rates: Vec<f64> = at.scales.iter().map(|scale| self.lr * at.lr * scale / state.v.sqrt()).collect();
        let mut each = rates.iter();
        let movement =
            grads.map(|_, g| AnyTensor::from_elements(g.elements() * -each.next().expect("a rate for each parameter")));
        Ok(Step { movement, decay_rates: rates })
    }

    fn state_size(&self, _shape: &[usize]) -> usize {
        0
    }
}
