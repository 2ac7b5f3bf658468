use crate::{kept, slot};
use acclimate_core::{
    AnyTensor, At, Error, Evaluate, Method, Optimiser, Params, Record, Result, Rng, Step, moments, total, totals, wide,
};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// Divides gradients by a running estimate of the Hessian's diagonal and finds the step from the local curvature.
///
/// # Mathematics
/// With random signs $z$, the Hessian $H$ of the batch's loss and all products element by element
/// $$D_k = \beta_2 D_{k-1} + (1-\beta_2)\; z \cdot H(w_k)\, z, \qquad \hat D_k = \max(|D_k|, \varepsilon),$$
/// $$\eta_k = \min\left( \sqrt{1 + \theta_{k-1}}\; \eta_{k-1},\
///   \frac{\lVert w_k - w_{k-1} \rVert_{\hat D_k}}{2 \lVert g_k - g_k' \rVert_{\hat D_k^{-1}}} \right), \qquad
///   \theta_k = \frac{\eta_k}{\eta_{k-1}},$$
/// $$m_k = \beta_1 m_{k-1} + (1-\beta_1)\, g_k, \qquad w_{k+1} = w_k - \eta_k\, \gamma_k\, \hat D_k^{-1} m_k .$$
///
/// $g_k$ is the gradient and $\lVert v \rVert_D^2 = \sum_i D_i v_i^2$ over all parameters together. $g_k'$ is the gradient at $w_{k-1}$: with
/// `stochastic` that of the present batch, so that the quotient measures curvature and not noise; otherwise the one of the last step.
/// $\gamma_k$ is the schedule's multiplier; a relative rate multiplies the movement. $\eta_1$ is `lr`, $\theta_1 = \infty$, and $D_1$ the mean of
/// `samples` products $z \cdot Hz$. With `adaptive` off $\eta_k = \eta_1$.
///
/// The mean of $z \cdot Hz$ over the signs is the diagonal of $H$, and its variance $\sum_{j \ne i} H_{ij}^2$: one product is exact where $H$ is
/// diagonal. A Hessian is not at hand, so
/// $$Hz \approx \frac{g(w + hz) - g(w - hz)}{2h}, \qquad h = c\, \max\bigl(0.1, \operatorname{RMS}(w)\bigr),$$
/// with $c = 10^{-4}$ in double and $5 \cdot 10^{-3}$ in single precision, and the difference in double. The error is of order $h^2$ and none for
/// quadratics. Each step takes two gradients for the product and, with `stochastic`, one more.
///
/// For convex smooth losses the deterministic form needs no rate: $\eta_k \ge 1/(2L)$ once it has grown, with $L$ the smoothness in the norm of
/// $\hat D$. On a quadratic with an exact diagonal $\eta = 1/2$ and every step halves the error.
///
/// # When to use
/// For heads, small networks and patches where no rate is known and scales of the inputs differ widely: logistic regression on raw columns.
/// A step costs three to four gradients, so for large models `dadapt_adam`.
///
/// # Differences
/// The recursion is that of the paper. A public transcription takes the absolute value inside the recursion of $D$; here, as in the paper, the
/// copy $\hat D$ alone has it. Where the gradient did not change the step grows; where the parameters moved by less than $10^{-7}$ of their
/// size, or did not move, $\eta$ and $\theta$ stay, since the quotient would be one of roundings. $m$ starts at zero and is not corrected, so
/// the first steps with `beta1` are short. After a change of rank the diagonal of that parameter begins anew with `samples` products. After a
/// collapse the host restarts with a ceiling on $\eta$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, Oasis, Objective};
/// use burn::tensor::{DType, Device};
///
/// let oasis = Oasis::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0, 0.0], &[2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&oasis, HostSettings::default(), &x, vec![Role::Other])?;
/// // Half the squared distance to 3 and its gradient, at any point.
/// let evaluate = |x: &Params| {
///     let away = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     Ok((0.5 * away.norm().powi(2), away))
/// };
/// for _ in 0..40 {
///     let (loss, gradient) = evaluate(&x)?;
///     x = host.step(&oasis, &x, &gradient, 1.0, Objective { loss, again: Some(&evaluate) })?;
/// }
/// assert!(evaluate(&x)?.1.norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Jahani, Rusakov, Shi, Richtárik, Mahoney and Takáč, *Doubly Adaptive Scaled Algorithm for Machine Learning Using Second-Order Information*, ICLR
/// 2022, arXiv:2109.05198. Malitsky and Mishchenko, *Adaptive Gradient Descent without Descent*, ICML 2020, arXiv:1910.09529.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "oasis", title = "OASIS", catalogue = [115], paper = "arxiv:2109.05198", year = 2022)]
#[method(needs(gradients, again), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "stochastic = false", case = "beta1 = 0.5\nbeta2 = 0.9")]
pub struct Oasis {
    /// First step $\eta_1$; with `adaptive` off every step.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Decay of the first moment; 0 keeps none.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the diagonal.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Smallest curvature that gradients are divided by.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// Products that the first diagonal is the mean of.
    #[method(min = 1)]
    pub samples: usize,
    /// Whether the step follows the local curvature.
    pub adaptive: bool,
    /// Whether the last point is visited again with the present batch.
    pub stochastic: bool,
    /// Names the random signs.
    pub seed: u64,
}

impl Default for Oasis {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.0, beta2: 0.99, eps: 1e-5, samples: 10, adaptive: true, stochastic: true, seed: 0 }
    }
}

/// The diagonal $D$, the last point, its gradient and the first moment where they are needed, and the numbers that all parameters share.
#[derive(Clone, Debug, Record)]
pub struct OasisState {
    /// Begun anew where a parameter changes its size: with zeros its new rows would move without bound.
    #[record(own)]
    diagonal: Params,
    last: Params,
    gradient: Params,
    m: Params,
    eta: f64,
    theta: f64,
    /// $\eta$ never exceeds it.
    ceiling: f64,
    k: u64,
}

impl Optimiser for Oasis {
    type State = OasisState;

    fn init(&self, params: &Params) -> Result<OasisState> {
        let zeros_if = |needed: bool| if needed { params.zeros_like() } else { Params::default() };
        Ok(OasisState {
            diagonal: Params::default(),
            last: zeros_if(self.adaptive),
            gradient: zeros_if(self.adaptive && !self.stochastic),
            m: zeros_if(self.beta1 > 0.0),
            eta: self.lr,
            theta: f64::INFINITY,
            ceiling: f64::INFINITY,
            k: 0,
        })
    }

    fn update(&self, grads: &Params, state: &mut OasisState, at: &At<'_>) -> Result<Step> {
        let again = at.again.ok_or_else(|| Error::Unsupported {
            who: Self::CARD.name.to_owned(),
            what: "step without gradients at other parameters".to_owned(),
            instead: "hand the host an `Objective` that has them".to_owned(),
        })?;
        state.k += 1;
        self.refresh(&mut state.diagonal, state.k, at.params, again)?;
        let bounded = state.diagonal.map(|_, d| AnyTensor::from_elements(d.elements().abs().clamp_min(self.eps)));
        if self.adaptive && state.k > 1 {
            let before = if self.stochastic { again(&state.last)?.1 } else { state.gradient.clone() };
            self.measure(state, &bounded, grads, &before, at.params)?;
        }
        state.eta = state.eta.min(state.ceiling);
        let rates: Vec<f64> = at.scales.iter().map(|scale| state.eta * at.lr * scale).collect();
        let mut movement = Params::default();
        for ((name, g), &rate) in grads.iter().zip(&rates) {
            let mut step = g.elements();
            if self.beta1 > 0.0 {
                step = slot(&state.m, name)? * self.beta1 + step * (1.0 - self.beta1);
                state.m.insert(name, AnyTensor::from_elements(step.clone()));
            }
            movement.insert(name, AnyTensor::from_elements(step / slot(&bounded, name)? * -rate));
        }
        if self.adaptive {
            state.last = at.params.clone();
        }
        if self.adaptive && !self.stochastic {
            state.gradient = grads.clone();
        }
        Ok(Step { movement, decay_rates: rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        let kept = [true, self.adaptive, self.adaptive && !self.stochastic, self.beta1 > 0.0];
        kept.into_iter().filter(|kept| *kept).count() * shape.iter().product::<usize>()
    }

    fn log(&self, state: &OasisState) -> Vec<(&'static str, f64)> {
        vec![("eta", state.eta)]
    }

    fn restart(&self, params: &Params, ruined: &OasisState, share: f64) -> Result<Option<OasisState>> {
        let ceiling = share * ruined.eta;
        Ok(Some(OasisState { eta: self.lr.min(ceiling), ceiling, ..self.init(params)? }))
    }
}

impl Oasis {
    /// Moves the diagonal towards that of the Hessian at `params`, or begins it.
    fn refresh(&self, diagonal: &mut Params, k: u64, params: &Params, again: &Evaluate<'_>) -> Result<()> {
        // A stream for each name, so that signs do not depend on the order of parameters.
        let mut streams: Vec<Rng> =
            params.names().map(|name| Rng::new(self.seed, &format!("oasis/{name}"), k)).collect();
        let draws = if params.names().all(|name| diagonal.has(name)) { 1 } else { self.samples };
        let mut sums: Vec<Option<Tensor<1>>> = vec![None; params.len()];
        for _ in 0..draws {
            let estimate = estimate(params, &mut streams, again)?;
            for (sum, part) in sums.iter_mut().zip(estimate) {
                *sum = Some(sum.take().map_or(part.clone(), |sum| sum + part));
            }
        }
        for ((name, x), sum) in params.iter().zip(sums) {
            let mean = (sum.expect("there is at least one draw") / draws as f64).cast(x.dtype());
            let mean = match kept(diagonal, name, &x.shape())? {
                Some(old) => old.elements() * self.beta2 + mean * (1.0 - self.beta2),
                None => mean,
            };
            diagonal.insert(name, AnyTensor::from_elements(mean));
        }
        Ok(())
    }

    /// The step that the curvature between the last point and this one allows.
    fn measure(
        &self,
        state: &mut OasisState,
        bounded: &Params,
        grads: &Params,
        before: &Params,
        params: &Params,
    ) -> Result<()> {
        let mut lists = [vec![], vec![], vec![], vec![]];
        for ((name, g), (_, x)) in grads.iter().zip(params.iter()) {
            let d = wide(slot(bounded, name)?);
            let moved = (wide(x.elements()) - wide(slot(&state.last, name)?)).square();
            let changed = (wide(g.elements()) - wide(slot(before, name)?)).square();
            let sums =
                [(moved.clone() * d.clone()).sum(), (changed / d).sum(), moved.sum(), moments::squares(x.elements())];
            lists.iter_mut().zip(sums).for_each(|(list, sum)| list.push(sum));
        }
        let [primal, dual, moved, size] = totals(lists);
        // Below, differences are roundings.
        const LEAST: f64 = 1e-7;
        if moved <= LEAST * LEAST * size {
            return Ok(());
        }
        let growth = (1.0 + state.theta).sqrt() * state.eta;
        let eta = if dual > 0.0 { growth.min((primal / dual).sqrt() / 2.0) } else { growth };
        if eta.is_finite() {
            state.theta = eta / state.eta;
            state.eta = eta;
        }
        Ok(())
    }
}

/// `z·Hz` in f64 for fresh signs, tensor by tensor.
fn estimate(params: &Params, streams: &mut [Rng], again: &Evaluate<'_>) -> Result<Vec<Tensor<1>>> {
    let squares = params.iter().map(|(_, x)| moments::squares(x.elements())).collect();
    let size = (total(squares) / params.count() as f64).sqrt();
    let single = params.iter().any(|(_, x)| x.dtype() != DType::F64);
    let h = if single { 5e-3 } else { 1e-4 } * size.max(0.1);
    let mut streams = streams.iter_mut();
    let signs = params.map(|_, x| {
        let stream = streams.next().expect("a stream for each parameter");
        let signs = (0..x.count()).map(|_| if stream.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
        AnyTensor::from_f64s(signs, &x.shape(), x.dtype(), &x.device())
    });
    let at = |h: f64| Ok(again(&params.zip(&signs, |x, z| x + z * h))?.1);
    let (ahead, behind): (Params, Params) = (at(h)?, at(-h)?);
    let product = |((ahead, behind), z): ((&AnyTensor, &AnyTensor), &AnyTensor)| {
        (wide(ahead.elements()) - wide(behind.elements())) * wide(z.elements()) / (2.0 * h)
    };
    let tensors = |params: &'_ Params| params.iter().map(|(_, x)| x.clone()).collect::<Vec<_>>();
    let (ahead, behind, signs) = (tensors(&ahead), tensors(&behind), tensors(&signs));
    Ok(ahead.iter().zip(&behind).zip(&signs).map(product).collect())
}
