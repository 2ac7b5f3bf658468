use crate::estimate::Adapted;
use crate::factored::{self, Weights};
use crate::{still, take};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use serde::{Deserialize, Serialize};

/// D-Adapted Adam that keeps the second moment of a matrix as one number for each row and column.
///
/// # Mathematics
/// The recursion of `dadapt_adam` with the second moment of `adafactor`. With $b = \sqrt{\beta_2}$ and all products element by element
/// $$\lambda_k = d_k\, \gamma_k\, c_k, \qquad c_k = \frac{\sqrt{1-\beta_2^{k+1}}}{1-\beta_1^{k+1}}, \qquad
///   n_{k+1} = b\, n_k + (1-b)\, \lambda_k \left\langle G_k, \frac{S_k}{\sqrt{\hat V_k} + \varepsilon} \right\rangle,$$
/// $$R_{k+1} = \beta_2 R_k + (1-\beta_2)\, \tfrac1m G_k^2\, \mathbf 1_m, \qquad
///   C_{k+1} = \beta_2 C_k + (1-\beta_2)\, \tfrac1n \mathbf 1_n^\top G_k^2, \qquad
///   \hat V_{ij} = \frac{R_i C_j}{\tfrac1n \sum_l R_l},$$
/// $$M_{k+1} = \beta_1 M_k + (1-\beta_1)\, \lambda_k G_k, \qquad S_{k+1} = b\, S_k + (1-b)\, \lambda_k G_k, \qquad
///   \hat d_{k+1} = \frac{n_{k+1}}{(1-b)\, \lVert S_{k+1} \rVert_1},$$
/// $$d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ q\, d_k)\bigr), \qquad
///   X_{k+1} = X_k - \frac{M_{k+1}}{\sqrt{\hat V_{k+1}} + \varepsilon}.$$
///
/// $G$ is the gradient of a matrix of $n \times m$, $\gamma_k$ the schedule's multiplier (nominal 1), $c_k$ the bias correction (1 where it is
/// off), $q$ the growth rate. The norm and the product run over all parameters together; a parameter's relative rate multiplies its part of
/// $M$, of the product and of the norm. Of a vector the moment is kept whole, so there this is `dadapt_adam`. A tensor of more axes is a matrix of
/// its first axis and all others.
///
/// # When to use
/// For whole weights when no learning rate is known and memory is short: two buffers for each weight in place of three. For patches
/// `dadapt_adam`, whose moment is exact.
///
/// # Differences
/// A construction of ours: neither paper has it, and the package `dadaptation` has no such variant. Against `adafactor` it keeps a first
/// moment and $\beta_2$, and neither clips nor scales by the parameter, since the estimate of $d$ must see the steps as they are made.
/// Defaults and the treatment of zero gradients are those of `dadapt_adam`. After a change of rank the second moment of that parameter begins
/// anew, at the size that a mean of equal gradients would have, and is left out of the product for one step.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptAdafactor, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptAdafactor::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0; 4], &[2, 2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..500 {
///     // The gradient of half the squared distance to 3. Nobody says how far that is.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&optimiser, &x, &gradient, 1.0 - k as f64 / 500.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733. Shazeer and Stern, *Adafactor: Adaptive
/// Learning Rates with Sublinear Memory Cost*, ICML 2018, arXiv:1804.04235.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_adafactor", title = "D-Adapted Adafactor", catalogue = [1, 55])]
#[method(paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "bias_correction = false\ngrowth_rate = inf")]
pub struct DadaptAdafactor {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $q$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment; its root is the decay of $S$.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// Whether the rate makes up for moments that start at zero.
    pub bias_correction: bool,
}

impl Default for DadaptAdafactor {
    fn default() -> Self {
        Self { d0: 1e-4, growth_rate: 1.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, bias_correction: true }
    }
}

/// The first moment, the sum $S$, the second moment's rows and columns, and the numbers that all parameters share.
#[derive(Clone, Debug, Record)]
pub struct DadaptAdafactorState {
    m: Params,
    s: Params,
    #[record(own)]
    rows: Params,
    #[record(own)]
    columns: Params,
    numerator: f64,
    k: u64,
}

impl DadaptAdafactorState {
    fn new(params: &Params) -> Self {
        let (zeros, none) = (params.zeros_like(), Params::default());
        Self { m: zeros.clone(), s: zeros, rows: none.clone(), columns: none, numerator: 0.0, k: 0 }
    }
}

impl Optimiser for DadaptAdafactor {
    type State = Adapted<DadaptAdafactorState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptAdafactorState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, adapted: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        let (b, d) = (beta2.sqrt(), adapted.d());
        let state = &mut adapted.own;
        let next = state.k as f64 + 1.0;
        let start = 1.0 - beta2.powf(next);
        let correction = if self.bias_correction { start.sqrt() / (1.0 - beta1.powf(next)) } else { 1.0 };
        let rate = d * at.lr * correction;
        let weights = Weights { keep: beta2, first: start };
        let mut movement = Params::default();
        let (mut products, mut norms) = (vec![], vec![]);
        for ((name, tensor), &r) in grads.iter().zip(at.scales) {
            let (g, shape) = (tensor.elements(), tensor.shape());
            let (m, s) = (take(&mut state.m, name)?, take(&mut state.s, name)?);
            if let Some(root) = factored::root([&state.rows, &state.columns], name, &shape)? {
                products.push(wide(g.clone() * (s.clone() / (root + eps))).sum() * r);
            }
            let squares = AnyTensor::from_elements(g.clone().square());
            factored::add([&mut state.rows, &mut state.columns], name, &squares, weights)?;
            let root = factored::root([&state.rows, &state.columns], name, &shape)?;
            let root = root.expect("squares were added the line before");
            let m = m * beta1 + g.clone() * (r * rate * (1.0 - beta1));
            let s = s * b + g * (rate * (1.0 - b));
            norms.push(wide(s.clone().abs()).sum() * r);
            movement.insert(name, AnyTensor::from_elements(-m.clone() / (root + eps)));
            state.m.insert(name, AnyTensor::from_elements(m));
            state.s.insert(name, AnyTensor::from_elements(s));
        }
        let [product, norm] = totals([products, norms]);
        if norm == 0.0 {
            return Ok(still(grads));
        }
        state.numerator = b * state.numerator + (1.0 - b) * rate * product;
        state.k += 1;
        let d_hat = state.numerator / ((1.0 - b) * norm);
        adapted.learn(d_hat, self.growth_rate);
        Ok(Step { movement, decay_rates: vec![rate; grads.len()] })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>() + factored::size(shape)
    }

    fn in_place(&self) -> bool {
        true
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptAdafactorState::new(params), self.d0, share)))
    }
}
