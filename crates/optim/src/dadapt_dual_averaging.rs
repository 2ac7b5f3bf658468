use crate::{
    estimate::{Adapted, way},
    slot, still,
};
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Record, Result, Step, totals, wide};
use serde::{Deserialize, Serialize};

/// Dual averaging with D-Adaptation, the method that the theory is about.
///
/// # Mathematics
/// With $\lambda_k = d_k\, \gamma_k$, $s_0 = 0$ and the step $\eta_k = \bigl(\sum_{i<k} \lVert g_i \rVert^2\bigr)^{-1/2}$,
/// $\eta_0 = 1 / \lVert g_0 \rVert$,
/// $$s_{k+1} = s_k + \lambda_k\, g_k, \qquad x_{k+1} = x_0 - \eta_{k+1}\, s_{k+1}, \qquad
///   d_{k+1} = \max\bigl(d_k, \min(\hat d_{k+1},\ q\, d_k)\bigr),$$
/// $$\text{I: } \hat d_{k+1} = \frac{\eta_{k+1} \lVert s_{k+1} \rVert^2 - \sum_{i \le k} \eta_i \lambda_i^2 \lVert g_i \rVert^2}
///   {2\, \lVert s_{k+1} \rVert}, \qquad
///   \text{II: } \hat d_{k+1} = \frac{\sum_{i \le k} \eta_i \lambda_i \langle g_i, s_i \rangle}{\lVert s_{k+1} \rVert},$$
/// and the answer is the average $\hat x_n = \sum_{k \le n} \lambda_k x_k \big/ \sum_{k \le n} \lambda_k$, which `evaluate` of the
/// host gives.
///
/// $g$ is a (sub)gradient, $s$ its weighted sum, $d$ the estimate of $D = \lVert x_0 - x_\star \rVert$, $\gamma_k$ the
/// schedule's multiplier (nominal 1), $q$ the growth rate. Norms run over all parameters. A parameter's relative rate $r$ means
/// the same method in the variables $x / \sqrt r$.
///
/// Why it works: for convex $f$, $0 \le \sum_i \lambda_i (f(x_i) - f_\star) \le \langle s_{n+1}, x_0 - x_\star \rangle - \sum_i
/// \eta_i \lambda_i \langle g_i, s_i \rangle$, and the first term is at most $D \lVert s_{n+1} \rVert$: so $\hat d \le D$ in
/// form II. Summing by parts with falling $\eta$ shows form I to be the smaller. With $\gamma = 1$, $q = \infty$ and gradients
/// of at most $G$ the gap $f(\hat x_n) - f_\star$ falls as $D G / \sqrt{n+1}$, with no logarithm in it;
/// `dual_averaging_bound` gives the bound that holds after a finite run.
///
/// # When to use
/// For convex problems where the guarantee is wanted: its estimate is a bound, never a guess. It is slow, since the steps stay
/// short until $d$ has grown and the average remembers the start. `dadapt_sgd` and `dadapt_adam` are the practical forms.
///
/// # Differences
/// None from the paper's algorithm, whose options I and II are the values `norms` and `products` of `form`; the second is the
/// default. The limit of growth is ours, and off by default. Steps before the first gradient that is not zero do nothing; the
/// paper stops there. Decoupled decay, which the paper does not have, takes the rate $r\, \lambda_k\, \eta_{k+1}$.
///
/// The state keeps the average as its distance from $x$, which the next movement changes.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{DadaptDualAveraging, Host, HostSettings, dual_averaging_bound};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = DadaptDualAveraging::default();
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0], &[1], DType::F64, &Device::flex()));
/// let mut host = Host::over(&optimiser, HostSettings::default(), &x, vec![Role::Other])?;
/// let (mut estimates, mut norms) = (vec![optimiser.d0], vec![]);
/// for _ in 0..1000 {
///     // The gradient of the distance to 1.
///     let gradient = x.map(|_, x| AnyTensor::from_elements((x.elements() - 1.0).sign()));
///     norms.push(gradient.norm());
///     x = host.step(&optimiser, &x, &gradient, 1.0, 0.0)?;
///     estimates.push(host.report(&optimiser)[0].1);
/// }
/// let d = estimates[1000];
/// assert!(d > 0.3 && d <= 1.0);
/// // The solution is 1 away, so the average after `step` gradients is known to be close to the best value, zero.
/// let bound = dual_averaging_bound(&estimates, &norms, 1.0).unwrap();
/// assert!(bound.step <= 1000 && bound.gap < 15.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, ICML 2023, arXiv:2301.07733, Algorithm 1 and its
/// theorems.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dadapt_dual_averaging", title = "D-Adapted dual averaging", catalogue = [1])]
#[method(paper = "arxiv:2301.07733", year = 2023)]
#[method(needs(gradients), promises(scale_free), case = "d0 = 1.0", case = "d0 = 1.0\nform = \"norms\"")]
#[method(waive(
    converges_on_rosenbrock = "the steps shrink with the sum of all gradients, and the first slope is steep"
))]
pub struct DadaptDualAveraging {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// Largest factor $q$ by which $d$ grows in a step; `inf` is no limit, 1 keeps `d0`.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// The estimate: `norms` (option I) or `products` (option II).
    pub form: DualAveragingForm,
}

impl Default for DadaptDualAveraging {
    fn default() -> Self {
        Self { d0: 1e-6, growth_rate: f64::INFINITY, form: DualAveragingForm::Products }
    }
}

/// What the bound on the distance is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DualAveragingForm {
    /// Squared norms of the gradients and of their sum, the paper's option I.
    Norms,
    /// Products of gradients and sums, the paper's option II: the tighter one.
    Products,
}

/// The sum $s$, the average's lead over $x$, and what the estimate needs besides.
#[derive(Clone, Debug, Record)]
pub struct DadaptDualAveragingState {
    s: Params,
    /// Average less $x$.
    lead: Params,
    /// What the estimate subtracts or is made of.
    sum: f64,
    squares: f64,
    weights: f64,
}

impl DadaptDualAveragingState {
    fn new(params: &Params) -> Self {
        Self { s: params.zeros_like(), lead: params.zeros_like(), sum: 0.0, squares: 0.0, weights: 0.0 }
    }
}

impl Optimiser for DadaptDualAveraging {
    type State = Adapted<DadaptDualAveragingState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(DadaptDualAveragingState::new(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let rate = state.d() * at.lr;
        let (mut squares, mut products, mut sums) = (vec![], vec![], vec![]);
        for ((name, g), &r) in grads.iter().zip(at.scales) {
            let (g, s) = (g.elements(), slot(&state.own.s, name)?);
            squares.push(wide(g.clone()).square().sum() * r);
            products.push(wide(g.clone() * s.clone()).sum() * r);
            sums.push(wide(s + g * rate).square().sum() * r);
        }
        let [square, product, sum] = totals([squares, products, sums]);
        let own = &mut state.own;
        own.squares += square;
        if own.squares == 0.0 || rate == 0.0 {
            return Ok(still(grads));
        }
        let after = own.squares.sqrt().recip();
        let before = if own.weights == 0.0 { after } else { (own.squares - square).sqrt().recip() };
        let share = rate / (own.weights + rate);
        own.weights += rate;
        own.sum += before
            * match self.form {
                DualAveragingForm::Norms => rate * rate * square,
                DualAveragingForm::Products => rate * product,
            };
        let (mut movement, mut decay_rates) = (Params::default(), vec![]);
        for ((((name, g), x), &r), &decay) in grads.iter().zip(at.params.iter()).zip(at.scales).zip(at.decays) {
            let old = slot(&own.s, name)?;
            let s = old.clone() + g.elements() * rate;
            let step = (old * before - s.clone() * after) * r;
            let decay_rate = r * rate * after;
            let lead = slot(&own.lead, name)? * (1.0 - share) - way(&step, x.1, decay * decay_rate);
            own.s.insert(name, AnyTensor::from_elements(s));
            own.lead.insert(name, AnyTensor::from_elements(lead));
            movement.insert(name, AnyTensor::from_elements(step));
            decay_rates.push(decay_rate);
        }
        let norm = sum.sqrt();
        if norm > 0.0 {
            let d_hat = match self.form {
                DualAveragingForm::Norms => (after * sum - own.sum) / (2.0 * norm),
                DualAveragingForm::Products => own.sum / norm,
            };
            state.learn(d_hat, self.growth_rate);
        }
        Ok(Step { movement, decay_rates })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }

    fn eval(&self, params: &Params, state: &Self::State) -> Params {
        params.zip(&state.own.lead, |x, lead| x + lead)
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(DadaptDualAveragingState::new(params), self.d0, share)))
    }
}

/// What the theory says of an average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DualAveragingBound {
    /// After how many steps the average was taken.
    pub step: usize,
    /// How far its value is from the best one, at most.
    pub gap: f64,
}

/// The bound on a finished run of `dadapt_dual_averaging`, whose multiplier was 1 and whose `growth_rate` was `inf`.
///
/// `estimates` are $d_0$ and the estimate after each step, `norms` the gradient's norm at each, `distance` the distance $D$ to the
/// solution or anything larger. Of all averages it takes the one after step $t + 1$ where $d_{t+1} / \sum_{i \le t} d_i$ is
/// smallest:
/// $$f(\hat x_t) - f_\star \le \frac{16 \log_2^+ (d_{n+1} / d_0)}{n + 1}\, D \sqrt{\sum_{i \le t} \lVert g_i \rVert^2}, \qquad
///   \log_2^+ = \max(1, \log_2).$$
/// Nothing for a run of fewer than $2 \log_2^+ (D / d_0)$ steps, for which it is not proved, or where the numbers do not fit each other.
///
/// ```
/// use acclimate_optim::dual_averaging_bound;
///
/// // 64 steps on the distance to 1, all with gradients of norm 1.
/// let bound = dual_averaging_bound(&[0.5; 65], &[1.0; 64], 1.0).unwrap();
/// assert_eq!((bound.step, bound.gap), (64, 16.0 / 64.0 * 8.0));
/// ```
pub fn dual_averaging_bound(estimates: &[f64], norms: &[f64], distance: f64) -> Option<DualAveragingBound> {
    let doublings = |ratio: f64| ratio.log2().max(1.0);
    let (first, last, steps) = (*estimates.first()?, *estimates.last()?, norms.len());
    if estimates.len() != steps + 1 || (steps as f64) < 2.0 * doublings(distance / first) + 1.0 {
        return None;
    }
    let (mut sum, mut squares, mut best) = (0.0, 0.0, (f64::INFINITY, 0, 0.0));
    for (at, (pair, norm)) in estimates.windows(2).zip(norms).enumerate() {
        sum += pair[0];
        squares += norm * norm;
        if pair[1] / sum < best.0 {
            best = (pair[1] / sum, at + 1, squares);
        }
    }
    let (_, step, squares) = best;
    let gap = 16.0 * doublings(last / first) / steps as f64 * distance * f64::sqrt(squares);
    Some(DualAveragingBound { step, gap })
}
