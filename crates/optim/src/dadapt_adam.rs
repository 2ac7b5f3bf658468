use crate::{estimate::Adapted, still, take};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, moments, totals};
use serde::{Deserialize, Serialize};

/// Adam that finds its own learning rate from a running estimate of the distance to the solution.
///
/// # Mathematics
/// The best constant step of a convex problem is proportional to $D = \lVert x_0 - x_\star \rVert$, which nobody knows.
/// D-Adaptation keeps an estimate $d$ of it from what the optimiser has anyway, a weighted sum $s$ of the gradients and the
/// products $\langle g, s \rangle$. It starts tiny and grows geometrically, which also warms the run up. With
/// $b = \sqrt{\beta_2}$ and all products element by element, one step is
/// $$\lambda_k = \eta\, d_k\, \gamma_k\, c_k, \qquad c_k = \frac{\sqrt{1-\beta_2^{k+1}}}{1-\beta_1^{k+1}},$$
/// $$n_{k+1} = b\, n_k + (1-b)\, \lambda_k \left\langle g_k, \frac{s_k}{\sqrt{v_k} + \varepsilon} \right\rangle,$$
/// $$m_{k+1} = \beta_1 m_k + (1-\beta_1)\, \lambda_k\, g_k, \qquad v_{k+1} = \beta_2 v_k + (1-\beta_2)\, g_k^2, \qquad
///   s_{k+1} = b\, s_k + (1-b)\, \lambda_k\, g_k,$$
/// $$\hat d_{k+1} = \frac{n_{k+1}}{(1-b)\, \lVert s_{k+1} \rVert_1}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ q\, d_k)\bigr), \qquad
///   x_{k+1} = x_k - \frac{m_{k+1}}{\sqrt{v_{k+1}} + \varepsilon}.$$
///
/// $g$ is the gradient, $m$ and $v$ its moments, $n$ the numerator, $\eta$ the share `lr`, $\gamma_k$ the schedule's
/// multiplier (nominal 1), $c_k$ the bias correction (1 where it is off), $q$ the growth rate. The product takes the old $s$ and $v$, and the step the old
/// $d$, which is inside $m$. The norm and the product run over all parameters together. A parameter's relative rate $r$
/// multiplies its part of $m$, of $n$ and of $\lVert s \rVert_1$.
///
/// Why it works, in the version without moments: convexity gives $0 \le \sum_i d_i (f(x_i) - f_\star) \le
/// \langle s_{n+1}, x_0 - x_\star \rangle - \sum_i \gamma_i d_i \langle g_i, s_i \rangle$, and the first term is at most
/// $D \lVert s_{n+1} \rVert$. So $\hat d = \sum_i \gamma_i d_i \langle g_i, s_i \rangle / \lVert s_{n+1} \rVert \le D$. With
/// moments this is a heuristic: $d$ can pass $D$.
///
/// # When to use
/// The default: for a patch, a head or a whole model when no learning rate is known. Keep a schedule that falls, such as the
/// cosine. From its default start $d$ needs some twenty steps to a rate that trains a patch; a run of fewer steps wants a larger
/// `d0`. A network from random weights may show no direction for its first hundred steps, and $d$ stays where it began: in runs of a few
/// hundred steps use `adamw` there, or `prodigy`. Where a good rate is known `adamw` is as good and needs one buffer less.
///
/// # Differences
/// The recursion is that of the authors' package (`DAdaptAdam`, version 3), which the published paper reports. The defaults
/// are ours: $d$ starts at 3e-4, the step takes half of it, bias correction is on, and $d$ grows by at most a tenth each step, while
/// the package starts at 1e-6, takes all of it and has no correction and no limit; `d0 = 1e-6`, `lr = 1`, `bias_correction = false` and
/// `growth_rate = inf` give the package. They were found on open problems of `acclimate bench optim`:
///
/// - *The start.* From 1e-6 the limit takes 73 steps to a rate of 1e-3. LoRA on sentences in 120 steps came to .619 and .551 from
///   there and to .657 and .619 from 1e-4 (means of three draws; AdamW .658 and .643), and a small network from scratch in 400 steps
///   to .948 and .976; without the limit that network stayed at .709.
/// - *The share.* On tables of few rows $d$ is two or three times what generalises best. On eight of them, five draws each, the mean gap to
///   the best of nine rates of AdamW was 0.7 points with all of $d$ and 0.1 with half of it. Networks from scratch pay for it where
///   runs are short: one came to .684 and .667 in 400 steps.
/// - *Correction and limit.* On small patches of a transformer the package's defaults took $d$ to its final size within thirty steps
///   and left the model at chance, with each of three seeds. With correction and without limit one implementation trained and another
///   collapsed; with both, the two trained.
///
/// A step with $\lVert s \rVert_1 = 0$, as with zero gradients from the start, does nothing and is not counted, as in the
/// package. Decoupled weight decay takes the rate $\lambda_k$ without the relative rate $r$, again as there. After a collapse the host restarts with a ceiling on $d$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptAdam, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptAdam::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
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
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733, and the package
/// `dadaptation` 3.2.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_adam", title = "D-Adapted Adam", catalogue = [1], paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "bias_correction = false\ngrowth_rate = inf")]
pub struct DadaptAdam {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Share of the estimate that the step takes; 1 is the paper's.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Largest factor $q$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment; its root is the decay of $s$.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Guards the division.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// Whether the rate makes up for moments that start at zero.
    pub bias_correction: bool,
}

impl Default for DadaptAdam {
    fn default() -> Self {
        Self { d0: 3e-4, lr: 0.5, growth_rate: 1.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, bias_correction: true }
    }
}

/// The moments $m$ and $v$, the sum $s$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptAdamState {
    m: Params,
    v: Params,
    s: Params,
    numerator: f64,
    k: u64,
}

impl DadaptAdamState {
    fn new(params: &Params) -> Self {
        let zeros = params.zeros_like();
        Self { m: zeros.clone(), v: zeros.clone(), s: zeros, numerator: 0.0, k: 0 }
    }
}

impl Optimiser for DadaptAdam {
    type State = Adapted<DadaptAdamState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptAdamState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { lr, beta1, beta2, eps, .. } = *self;
        let b = beta2.sqrt();
        let next = state.own.k as f64 + 1.0;
        let correction =
            if self.bias_correction { (1.0 - beta2.powf(next)).sqrt() / (1.0 - beta1.powf(next)) } else { 1.0 };
        let rate = state.d() * lr * at.lr * correction;
        let mut movement = Params::default();
        let (mut products, mut norms) = (vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let step = moments::DadaptAdam { beta1, beta2, eps, rate, scale: r };
            let slots = [&mut state.own.m, &mut state.own.v, &mut state.own.s];
            let [m, v, s] = slots.map(|slot| take(slot, name));
            let made = moments::dadapt_adam(g.elements(), [m?, v?, s?], step);
            products.push(made.product * r);
            norms.push(made.norm * r);
            movement.insert(name, AnyTensor::from_elements(made.movement));
            let slots = [&mut state.own.m, &mut state.own.v, &mut state.own.s];
            for (slot, tensor) in slots.into_iter().zip(made.state) {
                slot.insert(name, AnyTensor::from_elements(tensor));
            }
        }
        let [product, norm] = totals([products, norms]);
        if norm == 0.0 {
            return Ok(still(grads));
        }
        state.own.numerator = b * state.own.numerator + (1.0 - b) * rate * product;
        state.learn(state.own.numerator / ((1.0 - b) * norm), self.growth_rate);
        state.own.k += 1;
        Ok(Step { movement, decay_rates: vec![rate; grads.len()] })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        3 * shape.iter().product::<usize>()
    }

    fn in_place(&self) -> bool {
        true
    }

    fn keeps_moments(&self) -> bool {
        true
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptAdamState::new(params), self.d0, share)))
    }
}
