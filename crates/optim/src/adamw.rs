use crate::take;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, moments};
use serde::{Deserialize, Serialize};

/// Steps by the running mean of the gradient over the root of its running square, with weight decay kept out of both.
///
/// # Mathematics
/// $$m_k = \beta_1 m_{k-1} + (1-\beta_1)\, g_k, \qquad v_k = \beta_2 v_{k-1} + (1-\beta_2)\, g_k^2,$$
/// $$\hat m_k = \frac{m_k}{1-\beta_1^k}, \qquad \hat v_k = \frac{v_k}{1-\beta_2^k}, \qquad
///   x_{k+1} = x_k - \alpha_k \left( \frac{\hat m_k}{\sqrt{\hat v_k} + \varepsilon} + \lambda\, x_k \right)$$
///
/// $g$ is the gradient, $m$ and $v$ its moments, both zero at first, $k$ the step counted from one, $\alpha_k$ the learning
/// rate times the schedule's multiplier and the parameter's relative rate, $\lambda$ the weight decay. The first step has
/// length $\alpha$ in every coordinate. In general $|\hat m| / \sqrt{\hat v}$ is about one or less, so the learning rate
/// bounds the typical step whatever the scale of the loss.
///
/// # When to use
/// When a good learning rate is known: about 1e-3 for small patches, 1e-5 to 5e-5 for whole transformers. It is the yardstick
/// that `dadapt_adam` is compared with.
///
/// # Differences
/// None in the moments: $\varepsilon$ stands outside the root, after the correction, as in the paper and in torch. The host
/// applies the decay $\lambda$ with rate $\alpha_k$, so it is decoupled unless the host's settings ask for the coupled form,
/// which makes this method the Adam of the first paper. In Loshchilov and Hutter's paper the decay is multiplied by the
/// schedule alone; here, as in torch, by schedule and learning rate.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Adamw, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let adamw = Adamw { lr: 0.1, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&adamw, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..300 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&adamw, &x, &gradient, 1.0 - k as f64 / 300.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, arXiv:1412.6980. Loshchilov and Hutter, *Decoupled
/// Weight Decay Regularization*, ICLR 2019, arXiv:1711.05101.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "adamw", title = "AdamW", catalogue = [176], paper = "arxiv:1711.05101", year = 2019)]
#[method(needs(gradients, learning_rate), promises(scale_free), case = "lr = 0.05")]
pub struct Adamw {
    /// Learning rate $\alpha$, the bound on the typical step.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
}

impl Default for Adamw {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// The moments $m$ and $v$, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct AdamwState {
    m: Params,
    v: Params,
    k: u64,
}

impl Optimiser for Adamw {
    type State = AdamwState;

    fn init(&self, params: &Params) -> Result<AdamwState> {
        Ok(AdamwState { m: params.zeros_like(), v: params.zeros_like(), k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut AdamwState, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        state.k += 1;
        let k = state.k as f64;
        let first = 1.0 - beta1.powf(k);
        let second = (1.0 - beta2.powf(k)).sqrt();
        let rates: Vec<f64> = at.scales.iter().map(|scale| self.lr * at.lr * scale).collect();
        let mut movement = Params::default();
        for ((name, g), &rate) in grads.iter().zip(&rates) {
            let step = moments::Adamw { beta1, beta2, root: second, eps, rate: rate / first };
            let state_of = [take(&mut state.m, name)?, take(&mut state.v, name)?];
            let (step, [m, v]) = moments::adamw(g.elements(), state_of, step);
            state.m.insert(name, AnyTensor::from_elements(m));
            state.v.insert(name, AnyTensor::from_elements(v));
            movement.insert(name, AnyTensor::from_elements(step));
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
