use crate::take;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step};
use serde::{Deserialize, Serialize};

/// Adam that divides by the largest second moment so far, so that a rare large gradient is not forgotten.
///
/// # Mathematics
/// $$m_k = \beta_1 m_{k-1} + (1-\beta_1)\, g_k, \qquad v_k = \beta_2 v_{k-1} + (1-\beta_2)\, g_k^2, \qquad
///   w_k = \max(w_{k-1}, v_k),$$
/// $$x_{k+1} = x_k - \alpha_k\, \frac{m_k / (1-\beta_1^k)}{\sqrt{w_k / (1-\beta_2^k)} + \varepsilon}$$
///
/// $g$ is the gradient, $m$, $v$ and $w$ start at zero, $k$ is the step counted from one, and $\alpha_k$ the learning rate times the
/// schedule's multiplier and the parameter's relative rate. Without `bias_correction` the two divisors are one; $\alpha / \sqrt{w_k}$ then
/// never grows under a constant rate, which is what the proof needs and Adam lacks.
///
/// Adam can converge to the worst point of an interval: with $\beta_1 = 0$, $\beta_2 = 1/(1+C^2)$ and gradients $C, -1, -1, C, -1, -1, \dots$
/// with $C > 2$ the two small ones, divided by a moment that has forgotten $C$, outweigh the large one. With $w$ they do not.
///
/// # When to use
/// Where rare batches carry most of the signal and `adamw` drifts away after them. It needs one buffer more; elsewhere the two are alike.
///
/// # Differences
/// The paper has no bias correction and no $\varepsilon$; `bias_correction = false` and a tiny `eps` give it. The default is torch's
/// `Adam(amsgrad=True)`, which corrects the maximum as if it were a mean: its denominator falls while $1-\beta_2^k$ rises, so the paper's
/// argument holds after the first $1/(1-\beta_2)$ steps only.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Amsgrad, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let amsgrad = Amsgrad { lr: 0.1, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&amsgrad, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..300 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&amsgrad, &x, &gradient, 1.0 - k as f64 / 300.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Reddi, Kale and Kumar, *On the Convergence of Adam and Beyond*, ICLR 2018, arXiv:1904.09237.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "amsgrad", title = "AMSGrad", catalogue = [176], paper = "arxiv:1904.09237", year = 2018)]
#[method(needs(gradients, learning_rate), promises(scale_free))]
#[method(case = "lr = 0.05", case = "lr = 0.01\nbias_correction = false")]
pub struct Amsgrad {
    /// Learning rate $\alpha$.
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
    /// Whether the rate makes up for moments that start at zero.
    pub bias_correction: bool,
}

impl Default for Amsgrad {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, bias_correction: true }
    }
}

/// The moments $m$ and $v$, the largest $w$ of the second, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct AmsgradState {
    m: Params,
    v: Params,
    w: Params,
    k: u64,
}

impl Optimiser for Amsgrad {
    type State = AmsgradState;

    fn init(&self, params: &Params) -> Result<AmsgradState> {
        let zeros = params.zeros_like();
        Ok(AmsgradState { m: zeros.clone(), v: zeros.clone(), w: zeros, k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut AmsgradState, at: &At<'_>) -> Result<Step> {
        state.k += 1;
        let start = |beta: f64| if self.bias_correction { 1.0 - beta.powf(state.k as f64) } else { 1.0 };
        let (first, root) = (start(self.beta1), start(self.beta2).sqrt());
        let rates: Vec<f64> = at.scales.iter().map(|scale| self.lr * at.lr * scale).collect();
        let mut movement = Params::default();
        for ((name, g), &rate) in grads.iter().zip(&rates) {
            let g = g.elements();
            let m = take(&mut state.m, name)? * self.beta1 + g.clone() * (1.0 - self.beta1);
            let v = take(&mut state.v, name)? * self.beta2 + g.square() * (1.0 - self.beta2);
            let w = take(&mut state.w, name)?.max_pair(v.clone());
            let step = m.clone() / (w.clone().sqrt() / root + self.eps) * (-rate / first);
            movement.insert(name, AnyTensor::from_elements(step));
            for (slot, tensor) in [(&mut state.m, m), (&mut state.v, v), (&mut state.w, w)] {
                slot.insert(name, AnyTensor::from_elements(tensor));
            }
        }
        Ok(Step { movement, decay_rates: rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        3 * shape.iter().product::<usize>()
    }

    fn in_place(&self) -> bool {
        true
    }
}
