use crate::{estimate::Adapted, slot, still};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, total, totals, wide};
use serde::{Deserialize, Serialize};

/// Gradient descent that finds its own step size from a running estimate of the distance to the solution.
///
/// # Mathematics
/// $$\lambda_k = \frac{d_k\, \gamma_k}{\lVert g_0 \rVert}, \qquad n_{k+1} = n_k + \lambda_k \langle g_k, s_k \rangle, \qquad
///   s_{k+1} = s_k + \lambda_k\, g_k,$$
/// $$\hat d_{k+1} = \frac{2\, n_{k+1}}{\lVert s_{k+1} \rVert}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ q\, d_k)\bigr), \qquad
///   x_{k+1} = \mu\, x_k + (1-\mu)(x_0 - s_{k+1}).$$
///
/// $g$ is the gradient, $s$ its weighted sum, $n$ the numerator, $d$ the estimate of $D = \lVert x_0 - x_\star \rVert$,
/// $\gamma_k$ the schedule's multiplier (nominal 1), $\mu$ the momentum, $q$ the growth rate. Norms and products run over all
/// parameters together.
///
/// For convex $f$ and $\mu = 0$, $\hat d_{k+1} / 2 \le D$: from $0 \le \sum_i \lambda_i (f(x_i) - f_\star) \le
/// \langle s_{n+1}, x_0 - x_\star \rangle - \sum_i \lambda_i \langle g_i, s_i \rangle$ and Cauchy's inequality. The factor 2
/// of the authors' code trades the bound for speed, so $d \le 2D$.
///
/// # When to use
/// For networks that are trained with momentum, such as convolutional ones, when no learning rate is known. Keep the schedule
/// that such a network is used to. Transformers and their patches train better with `dadapt_adam`.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptSGD`), which leaves the weight decay out of $\lVert g_0 \rVert$ by a
/// slip (an addition that is not in place); here $g$ is the gradient of the decayed loss everywhere, as in the paper. The
/// package divides by $\lVert g_0 \rVert = 0$ when the first gradient is zero; here such a step does nothing, and the first
/// gradient that is not zero takes its place.
///
/// The default momentum is ours: 0.9 where the package has 0. Without momentum the step $d / \lVert g_0 \rVert$ is too long
/// wherever the curvature times $D$ is well above the first gradient, and the run diverges even on small quadratics.
///
/// The state keeps the displacement $u = x - x_0$ in place of $x_0$: $u_{k+1} = \mu\, u_k - (1-\mu)\, s_{k+1}$ and the
/// movement is $u_{k+1} - u_k$. The path is the same, keeps its digits in single precision, and lets decoupled decay move $x$.
/// A parameter's relative rate $r$, which the package does not know here, means the same method in the variables
/// $x / \sqrt{r}$: $r$ multiplies its terms in $\lVert g_0 \rVert^2$, $n$ and $\lVert s \rVert^2$, and its displacement.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptSgd, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptSgd::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..300 {
///     // The gradient of half the squared distance to 3. Nobody says how far that is.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-3);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733, and the package
/// `dadaptation` 3.2.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_sgd", title = "D-Adapted SGD", catalogue = [1], paper = "arxiv:2301.07733", year = 2023)]
#[method(
    needs(gradients),
    promises(learning_rate_free, scale_free),
    case = "",
    case = "growth_rate = 1.05\nd0 = 0.001"
)]
pub struct DadaptSgd {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $q$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Share $\mu$ of the last point in the next one.
    #[method(min = 0.0, max = 0.99999)]
    pub momentum: f64,
}

impl Default for DadaptSgd {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: f64::INFINITY, momentum: 0.9 }
    }
}

/// The sum $s$, the displacement $u$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptSgdState {
    s: Params,
    u: Params,
    numerator: f64,
    /// Norm of the first gradient; zero until there is one.
    first: f64,
}

impl DadaptSgdState {
    fn new(params: &Params) -> Self {
        Self { s: params.zeros_like(), u: params.zeros_like(), numerator: 0.0, first: 0.0 }
    }
}

impl Optimiser for DadaptSgd {
    type State = Adapted<DadaptSgdState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptSgdState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        if state.own.first == 0.0 {
            let squares = grads.iter().zip(at.scales).map(|((_, g), &r)| wide(g.elements()).square().sum() * r);
            state.own.first = total(squares.collect()).sqrt();
        }
        if state.own.first == 0.0 {
            return Ok(still(grads));
        }
        let rate = state.d() * at.lr / state.own.first;
        let mut movement = Params::default();
        let (mut products, mut squares) = (vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let (g, s, u) = (g.elements(), slot(&state.own.s, name)?, slot(&state.own.u, name)?);
            products.push(wide(g.clone() * s.clone()).sum() * r);
            let s = s + g * rate;
            squares.push(wide(s.clone()).square().sum() * r);
            let step = (s.clone() * r + u.clone()) * (self.momentum - 1.0);
            state.own.s.insert(name, AnyTensor::from_elements(s));
            state.own.u.insert(name, AnyTensor::from_elements(u + step.clone()));
            movement.insert(name, AnyTensor::from_elements(step));
        }
        let [product, square] = totals([products, squares]);
        state.own.numerator += rate * product;
        if square > 0.0 {
            state.learn(2.0 * state.own.numerator / square.sqrt(), self.growth_rate);
        }
        let decay_rates = at.scales.iter().map(|&r| rate * r).collect();
        Ok(Step { movement, decay_rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptSgdState::new(params), self.d0, share)))
    }
}
