use crate::slot;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// SGD with momentum whose step is cut where a model of the loss, held up by its lowest value, says that it is too long.
///
/// # Mathematics
/// The last batches make a linear model of the loss, $\bar f_k - \bar\gamma_k + \langle m_k, x \rangle$, that cannot fall below a bound
/// $\ell$. With the means
/// $$\bar f_k = \beta \bar f_{k-1} + (1-\beta)\, f_k, \qquad m_k = \beta m_{k-1} + (1-\beta)\, g_k, \qquad
///   \bar\gamma_k = \beta \bar\gamma_{k-1} + (1-\beta) \langle g_k, x_k \rangle$$
/// the step is the proximal one on the model,
/// $$\tau_k = \min\left( \frac{\alpha_k}{\rho_k},\
///   \frac{\bigl[(1 + \alpha_k \lambda)(\bar f_k - \rho_k \ell - \bar\gamma_k) + \langle m_k, x_k \rangle\bigr]_+}
///   {\lVert m_k \rVert^2} \right), \qquad x_{k+1} = \frac{x_k - \tau_k\, m_k}{1 + \alpha_k \lambda}.$$
///
/// $f$ and $g$ are the batch's loss and gradient, $\alpha_k$ the learning rate times the schedule's multiplier, $\lambda$ the
/// host's decoupled decay. The means begin at the first batch and $\rho = 1$; with `bias_correction` they begin at zero and
/// $\rho_k = 1 - \beta^k$. A parameter's relative rate $r$ means the same method in the variables $x / \sqrt r$: it multiplies
/// its part of $\lVert m \rVert^2$ and its movement. Where parameters decay differently each has its own $\alpha r \lambda$,
/// and the formula is that of the same proximal step.
///
/// With `estimate_bound` the bound follows the run: before the step, where the model's value $h_k = \bar f_k - \bar\gamma_k +
/// \langle m_k, x_k \rangle$ (with $x$ decayed) is below $\rho_k \ell$, $\ell$ becomes half of $h_k / \rho_k$; after it $\ell$
/// becomes $(h_k - \tfrac12 \tau_k \lVert m_k \rVert^2) / \rho_k$. It never falls below `lower_bound`.
///
/// # When to use
/// Where the loss has a known lower bound, such as zero for cross-entropy, and SGD's rate is roughly known: a rate ten times
/// too large does no harm. With $\ell$ far below what can be reached it is SGD with the rate $\alpha$.
///
/// # Differences
/// None from the authors' package (`momo-opt`), whose names for `lower_bound` and `estimate_bound` are `lb` and `use_fstar`.
/// A step with $m = 0$ moves nothing but decay. The loss is the one that the host is told, before coupled decay.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, Momo};
/// use burn::tensor::{DType, Device};
///
/// // Far too large for plain gradient descent.
/// let optimiser = Momo { lr: 10.0, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for _ in 0..300 {
///     // Half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.5 * gradient.norm().powi(2))?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Schaipp, Ohana, Eickenberg, Defazio and Gower, *MoMo: Momentum Models for Adaptive Learning Rates*, ICML 2024,
/// arXiv:2305.07583, and the package `momo-opt` 0.1.0.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "momo", title = "MoMo", catalogue = [], paper = "arxiv:2305.07583", year = 2023)]
#[method(needs(gradients, loss, learning_rate), case = "")]
#[method(case = "lr = 0.1\nbias_correction = true\nestimate_bound = true")]
pub struct Momo {
    /// Learning rate $\alpha$, which the step never exceeds.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay $\beta$ of the means.
    #[method(min = 0.0, max = 0.99999)]
    pub momentum: f64,
    /// What no loss falls below, $\ell$.
    pub lower_bound: f64,
    /// Whether the bound rises with what the run shows.
    pub estimate_bound: bool,
    /// Whether the means begin at zero and the step makes up for it.
    pub bias_correction: bool,
}

impl Default for Momo {
    fn default() -> Self {
        Self { lr: 1.0, momentum: 0.9, lower_bound: 0.0, estimate_bound: false, bias_correction: false }
    }
}

/// The means of gradient, loss and product, the bound, the last step and their count.
#[derive(Clone, Debug, Record)]
pub struct MomoState {
    m: Params,
    loss: f64,
    product: f64,
    bound: f64,
    step: f64,
    k: u64,
}

impl Optimiser for Momo {
    type State = MomoState;

    fn init(&self, params: &Params) -> Result<MomoState> {
        Ok(MomoState { m: params.zeros_like(), loss: 0.0, product: 0.0, bound: self.lower_bound, step: 0.0, k: 0 })
    }

    fn update(&self, grads: &Params, state: &mut MomoState, at: &At<'_>) -> Result<Step> {
        let rate = self.lr * at.lr;
        state.k += 1;
        // The first batch is its own mean.
        let beta = if state.k == 1 && !self.bias_correction { 0.0 } else { self.momentum };
        let weight = if self.bias_correction { 1.0 - self.momentum.powf(state.k as f64) } else { 1.0 };
        let mut model = Model::default();
        for ((((name, g), x), &r), &decay) in grads.iter().zip(at.params.iter()).zip(at.scales).zip(at.decays) {
            let g = g.elements();
            let m = slot(&state.m, name)? * beta + g.clone() * (1.0 - beta);
            model.add(x.1, [&g, &m, &m], r, rate, decay);
            state.m.insert(name, AnyTensor::from_elements(m));
        }
        let run = Run {
            loss: &mut state.loss,
            product: &mut state.product,
            bound: &mut state.bound,
            lowest: self.estimate_bound.then_some(self.lower_bound),
            beta,
            weight,
            rate,
        };
        let (step, decay_rates) = model.step(at.loss, run);
        state.step = step;
        let mut movement = Params::default();
        for ((name, m), (&r, &decay)) in state.m.iter().zip(at.scales.iter().zip(at.decays)) {
            let step = m.elements() * (-step * r * Model::left(rate * r, decay));
            movement.insert(name, AnyTensor::from_elements(step));
        }
        Ok(Step { movement, decay_rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        shape.iter().product()
    }

    fn log(&self, state: &MomoState) -> Vec<(&'static str, f64)> {
        vec![("step", state.step), ("lower_bound", state.bound)]
    }
}

/// The truncated model of the loss at a step, in the making.
#[derive(Default)]
pub(crate) struct Model {
    /// Of each parameter: $\langle g, x \rangle$, $\langle m, x \rangle$, the square of $m$ in the norm of the step, and the last
    /// two with decay.
    terms: [Vec<Tensor<1>>; 5],
    decay_rates: Vec<f64>,
}

/// What the step needs besides, and what it changes.
pub(crate) struct Run<'a> {
    /// $\bar f$.
    pub(crate) loss: &'a mut f64,
    /// $\bar\gamma$.
    pub(crate) product: &'a mut f64,
    /// $\ell$.
    pub(crate) bound: &'a mut f64,
    /// What $\ell$ never falls below, where it is estimated.
    pub(crate) lowest: Option<f64>,
    /// The decay of the means.
    pub(crate) beta: f64,
    /// $\rho$.
    pub(crate) weight: f64,
    /// $\alpha$.
    pub(crate) rate: f64,
}

impl Model {
    /// What decay at the rate `rate` leaves of a parameter.
    pub(crate) fn left(rate: f64, decay: f64) -> f64 {
        1.0 / (1.0 + rate * decay)
    }

    /// Takes a parameter in, with its gradient, mean, and the mean as the norm of the step turns it.
    pub(crate) fn add(&mut self, x: &AnyTensor, [g, m, turned]: [&Tensor<1>; 3], scale: f64, rate: f64, decay: f64) {
        let (x, left) = (wide(x.elements()), Self::left(rate * scale, decay));
        let product = (wide(m.clone()) * x.clone()).sum();
        let square = (wide(m.clone()) * wide(turned.clone())).sum() * scale;
        let terms = [(wide(g.clone()) * x).sum(), product.clone(), square.clone(), product * left, square * left];
        self.terms.iter_mut().zip(terms).for_each(|(list, term)| list.push(term));
        self.decay_rates.push(rate * scale * left);
    }

    /// The step $\tau$, and the rates at which the host's decay is the proximal one.
    pub(crate) fn step(self, loss: f64, run: Run<'_>) -> (f64, Vec<f64>) {
        let Run { beta, weight, lowest, .. } = run;
        let [product, whole, square, decayed, shrunk] = totals(self.terms);
        *run.loss = beta * *run.loss + (1.0 - beta) * loss;
        *run.product = beta * *run.product + (1.0 - beta) * product;
        if shrunk == 0.0 {
            return (0.0, self.decay_rates);
        }
        let value = *run.loss - *run.product;
        if let Some(lowest) = lowest
            && value + decayed < weight * *run.bound
        {
            *run.bound = ((value + decayed) / (2.0 * weight)).max(lowest);
        }
        let room = value - weight * *run.bound + decayed;
        let step = (room.max(0.0) / shrunk).min(run.rate / weight);
        if let Some(lowest) = lowest {
            *run.bound = ((value + whole - 0.5 * step * square) / weight).max(lowest);
        }
        (step, self.decay_rates)
    }
}
