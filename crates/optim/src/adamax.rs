use crate::take;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Adam whose second moment is a decaying maximum of the gradient's size.
///
/// # Mathematics
/// $$m_k = \beta_1 m_{k-1} + (1-\beta_1)\, g_k, \qquad u_k = \max(\beta_2 u_{k-1},\ |g_k| + \varepsilon), \qquad
///   x_{k+1} = x_k - \frac{\alpha_k}{1-\beta_1^k}\, \frac{m_k}{u_k}$$
///
/// $g$ is the gradient, $m$ and $u$ start at zero, $k$ is the step counted from one, and $\alpha_k$ the learning rate times the
/// schedule's multiplier and the parameter's relative rate. $u$ is the limit for $p \to \infty$ of Adam's second moment with $p$-th powers,
/// $v_k = \beta_2^p v_{k-1} + (1-\beta_2^p)\, |g_k|^p$ under the $p$-th root. A maximum of what was seen needs no correction for its zero
/// start.
///
/// A coordinate moves by at most
/// $\alpha_k \frac{1-\beta_1}{1-\beta_1^k} \sum_{i<k} (\beta_1/\beta_2)^i$, since $u_k \ge \beta_2^{i} |g_{k-i}|$.
///
/// # When to use
/// Where gradients are sparse or come in bursts, as those of embeddings: a small gradient after a large one moves little, and noise in the
/// small ones does not enter $u$. Otherwise `adamw`.
///
/// # Differences
/// The paper has no $\varepsilon$ and divides by zero where a coordinate never had a gradient; torch adds $10^{-8}$ inside the maximum, and
/// so do we. The paper states $|x_{k+1} - x_k| \le \alpha$; gradients that shrink by $\beta_2$ each step attain the bound above, which is
/// up to 1.01 of it with the defaults.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Adamax, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let adamax = Adamax { lr: 0.1, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&adamax, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..300 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&adamax, &x, &gradient, 1.0 - k as f64 / 300.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, arXiv:1412.6980, section 7.1.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "adamax", title = "AdaMax", catalogue = [176], paper = "arxiv:1412.6980", year = 2015)]
#[method(needs(gradients, learning_rate), promises(scale_free), case = "lr = 0.2")]
pub struct Adamax {
    /// Learning rate $\alpha$, the bound on the typical step.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the maximum.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
}

impl Default for Adamax {
    fn default() -> Self {
        Self { lr: 2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// The first moment $m$, the maximum $u$, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct AdamaxState {
    m: Params,
    u: Params,
    k: u64,
}

impl Optimiser for Adamax {
    type State = AdamaxState;

    fn init(&self, params: &Params) -> Result<AdamaxState> {
        Ok(AdamaxState { m: params.zeros_like(), u: params.zeros_like(), k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut AdamaxState, at: &At<'_>) -> Result<Step> {
        state.k += 1;
        let first = 1.0 - self.beta1.powf(state.k as f64);
        let rates: Vec<f64> = at.scales.iter().map(|scale| self.lr * at.lr * scale).collect();
        let mut movement = Params::default();
        for ((name, g), &rate) in grads.iter().zip(&rates) {
            let g = g.elements();
            let m = take(&mut state.m, name)? * self.beta1 + g.clone() * (1.0 - self.beta1);
            let u = (take(&mut state.u, name)? * self.beta2).max_pair(g.abs() + self.eps);
            movement.insert(name, AnyTensor::from_elements(m.clone() / u.clone() * (-rate / first)));
            state.m.insert(name, AnyTensor::from_elements(m));
            state.u.insert(name, AnyTensor::from_elements(u));
        }
        Ok(Step { movement, decay_rates: rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn in_place(&self) -> bool {
        true
    }

    fn keeps_moments(&self) -> bool {
        true
    }
}
