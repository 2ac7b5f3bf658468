use crate::{estimate::Adapted, slot, still};
use acclimate_core::{
    AnyTensor, At, Method, Optimiser, Params, Record, RecordReader, RecordWriter, Result, Step, totals, wide,
};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

/// Adam that finds its own learning rate from how far it has come, faster than D-Adaptation.
///
/// # Mathematics
/// D-Adaptation bounds the distance $D = \lVert x_0 - x_\star \rVert$ with the products $\langle g, s \rangle$. Prodigy takes
/// $\langle g, x_0 - x \rangle$ in their place, a larger bound, and gives a gradient the more weight the larger $d$ was. With
/// $\lambda_k = d_k\, \gamma_k\, c_k$ as in `dadapt_adam` and all products element by element, one step is
/// $$n_{k+1} = \beta_3 n_k + \frac{d_k}{d_0}\, \lambda_k\, \langle g_k, x_0 - x_k \rangle, \qquad
///   s_{k+1} = \beta_3 s_k + \frac{d_k}{d_0}\, \lambda_k\, g_k, \qquad
///   \hat d_{k+1} = \kappa\, \frac{n_{k+1}}{\lVert s_{k+1} \rVert_1},$$
/// $$m_{k+1} = \beta_1 m_k + (1-\beta_1)\, d_k\, g_k, \qquad v_{k+1} = \beta_2 v_k + (1-\beta_2)\, d_k^2\, g_k^2,$$
/// $$d_{k+1} = \min\bigl(\textstyle\max_{i \le k+1} \hat d_i,\ q\, d_k\bigr), \qquad
///   x_{k+1} = x_k - \lambda_k\, \frac{m_{k+1}}{\sqrt{v_{k+1}} + d_{k+1}\, \varepsilon}.$$
///
/// $g$ is the gradient, $m$ and $v$ its moments weighted by $d$, $\gamma_k$ the schedule's multiplier (nominal 1), $c_k$ the
/// bias correction (1 where it is off), $\beta_3 = \sqrt{\beta_2}$ unless it is set, $\kappa$ the coefficient `d_coef`, $q$
/// the growth rate. $d_0$ counts among the $\hat d$, so $d$ never falls, and the first $\hat d$ above $d_0$ is taken whole
/// whatever $q$. With `safeguard_warmup` the sum $s$ takes $d_k$ in place of $\lambda_k$: a small $\gamma_k$ then makes no
/// small denominator. With `slice_p` $= p$ the product, $s$ and $x_0$ hold every $p$-th number of each parameter alone, an
/// estimate of the whole sums. A parameter's relative rate $r$ means the same method in the variables $x / r$: it multiplies
/// its part of $\lVert s \rVert_1$ and its movement.
///
/// # When to use
/// As `dadapt_adam`, where that is slow to find its rate; `d_coef` of 0.5 or 2 is the knob to turn when the rate that it finds
/// is wrong. `slice_p` of 11 or so brings the memory down to little more than Adam's. It needs one buffer more than
/// `dadapt_adam` without slices. On a small patch of a transformer `d_coef = 2` with bias correction was as good as a tuned
/// rate, and the plain defaults somewhat worse; `safeguard_warmup` left it at chance there, with a rate far too small, and is
/// for schedules that start near zero.
///
/// # Differences
/// The recursion and the defaults are those of the authors' package (`prodigyopt`), which differs from the paper's Adam form
/// in $\beta_3$, in `d_coef` and in the limit of growth; the paper has $\varepsilon$ times $d_k$ where the package takes the
/// new $d$, as here. A step with $\lVert s \rVert_1 = 0$ does nothing and is not counted. The package takes plain decay as
/// decoupled; here the host's settings say which. Decoupled decay has the rate $\lambda_k$.
///
/// The state keeps the displacement $x - x_0$, decay included, in place of $x_0$: the same path, and rows that a change of rank
/// adds have come no way yet. Slices of a parameter whose size changes begin anew.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, Prodigy};
/// use burn::tensor::{DType, Device};
///
/// let optimiser = Prodigy::default();
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
/// Mishchenko and Defazio, *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*, ICML 2024, arXiv:2306.06101, and the
/// package `prodigyopt` 1.1.2.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "prodigy", title = "Prodigy", catalogue = [], paper = "arxiv:2306.06101", year = 2023)]
#[method(needs(gradients), promises(learning_rate_free, scale_free))]
#[method(case = "", case = "bias_correction = true\nd_coef = 2.0\nsafeguard_warmup = true", case = "slice_p = 3")]
pub struct Prodigy {
    /// First estimate of the distance; must not exceed it.
    #[method(above = 0.0)]
    pub d0: f64,
    /// What every bound is multiplied with, $\kappa$.
    #[method(above = 0.0)]
    pub d_coef: f64,
    /// Largest factor $q$ by which $d$ grows in a step after its first change; `inf` is no limit.
    #[method(min = 1.0)]
    pub growth_rate: f64,
    /// Decay of the first moment.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta2: f64,
    /// Decay of the sums of the estimate; the root of `beta2` where it is not given.
    #[method(min = 0.0, max = 0.9999999)]
    pub beta3: Option<f64>,
    /// Guards the division, times $d$.
    #[method(min = 1e-30)]
    pub eps: f64,
    /// Whether the rate makes up for moments that start at zero.
    pub bias_correction: bool,
    /// Whether the schedule is kept out of the estimate's denominator.
    pub safeguard_warmup: bool,
    /// The estimate looks at every so many numbers of a parameter, $p$; 1 is all of them.
    #[method(min = 1)]
    pub slice_p: usize,
}

impl Default for Prodigy {
    fn default() -> Self {
        Self {
            d0: 1e-6,
            d_coef: 1.0,
            growth_rate: f64::INFINITY,
            beta1: 0.9,
            beta2: 0.999,
            beta3: None,
            eps: 1e-8,
            bias_correction: false,
            safeguard_warmup: false,
            slice_p: 1,
        }
    }
}

/// The moments $m$ and $v$, slices of the sum $s$ and of the displacement, and what the estimate needs besides.
#[derive(Clone, Debug)]
pub struct ProdigyState {
    m: Params,
    v: Params,
    s: Params,
    far: Params,
    numerator: f64,
    largest: f64,
    k: u64,
}

impl Record for ProdigyState {
    fn save(&self, to: &mut RecordWriter) {
        to.params("m", &self.m);
        to.params("v", &self.v);
        to.params("s", &self.s);
        to.params("far", &self.far);
        to.f64("numerator", self.numerator);
        to.f64("largest", self.largest);
        to.u64("k", self.k);
    }

    fn load(from: &mut RecordReader) -> Result<Self> {
        Ok(Self {
            m: from.params("m")?,
            v: from.params("v")?,
            s: from.params("s")?,
            far: from.params("far")?,
            numerator: from.f64("numerator")?,
            largest: from.f64("largest")?,
            k: from.u64("k")?,
        })
    }

    /// Slices are no slots: they are not like the parameters.
    fn slots_mut(&mut self) -> Vec<&mut Params> {
        let whole = self.m.iter().zip(self.s.iter()).all(|((_, m), (_, s))| m.shape() == s.shape());
        let Self { m, v, s, far, .. } = self;
        if whole { vec![m, v, s, far] } else { vec![m, v] }
    }
}

impl Prodigy {
    fn fresh(&self, params: &Params) -> ProdigyState {
        let (zeros, sliced) = (params.zeros_like(), params.map(|_, x| self.sliced(x).zeros_like()));
        ProdigyState { m: zeros.clone(), v: zeros, s: sliced.clone(), far: sliced, numerator: 0.0, largest: 0.0, k: 0 }
    }

    /// Every `slice_p`-th number in row-major order; the tensor itself where that is all.
    fn sliced(&self, x: &AnyTensor) -> AnyTensor {
        if self.slice_p == 1 {
            return x.clone();
        }
        let (count, device) = (x.count(), x.device());
        let at = Tensor::<1, Int>::arange_step(0..count as i64, self.slice_p, &device);
        x.reshaped(&[count]).elements().select(0, at).into()
    }
}

impl Optimiser for Prodigy {
    type State = Adapted<ProdigyState>;

    fn init(&self, params: &Params) -> Result<Self::State> {
        Ok(Adapted::new(self.fresh(params), self.d0))
    }

    fn update(&self, grads: &Params, state: &mut Self::State, at: &At<'_>) -> Result<Step> {
        let Self { beta1, beta2, eps, .. } = *self;
        let beta3 = self.beta3.unwrap_or(beta2.sqrt());
        let next = state.own.k as f64 + 1.0;
        let correction =
            if self.bias_correction { (1.0 - beta2.powf(next)).sqrt() / (1.0 - beta1.powf(next)) } else { 1.0 };
        let d = state.d();
        let rate = d * at.lr * correction;
        let weight = d / self.d0 * rate;
        let summed = if self.safeguard_warmup { d / self.d0 * d } else { weight };
        let (mut products, mut norms) = (vec![], vec![]);
        for ((name, grad), &r) in grads.iter().zip(at.scales) {
            let (g, part) = (grad.elements(), self.sliced(grad).into_elements());
            let m = slot(&state.own.m, name)? * beta1 + g.clone() * (d * (1.0 - beta1));
            let v = slot(&state.own.v, name)? * beta2 + g.square() * (d * d * (1.0 - beta2));
            let far = kept(&state.own.far, name, &part);
            let s = kept(&state.own.s, name, &part) * beta3 + part.clone() * summed;
            products.push(wide(part * far.clone()).sum());
            norms.push(wide(s.clone().abs()).sum() * r);
            let fields = [&mut state.own.m, &mut state.own.v, &mut state.own.s, &mut state.own.far];
            for (field, tensor) in fields.into_iter().zip([m, v, s, far]) {
                field.insert(name, AnyTensor::from_elements(tensor));
            }
        }
        let [product, norm] = totals([products, norms]);
        if norm == 0.0 {
            return Ok(still(grads));
        }
        state.own.numerator = beta3 * state.own.numerator - weight * product;
        let d_hat = self.d_coef * state.own.numerator / norm;
        state.own.largest = state.own.largest.max(d_hat);
        // The first change is not limited.
        let growth_rate = if d == state.begin(self.d0) { f64::INFINITY } else { self.growth_rate };
        state.learn(state.own.largest, growth_rate);
        state.own.k += 1;
        let mut movement = Params::default();
        for (((name, x), &r), &decay) in at.params.iter().zip(at.scales).zip(at.decays) {
            let root = slot(&state.own.v, name)?.sqrt() + state.d() * eps;
            let step = AnyTensor::from_elements(slot(&state.own.m, name)? * (-rate * r) / root);
            let mut far = slot(&state.own.far, name)? + self.sliced(&step).into_elements();
            if decay > 0.0 {
                far = far - self.sliced(x).into_elements() * (decay * rate);
            }
            state.own.far.insert(name, AnyTensor::from_elements(far));
            movement.insert(name, step);
        }
        Ok(Step { movement, decay_rates: vec![rate; grads.len()] })
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        let count = shape.iter().product::<usize>();
        2 * count + 2 * count.div_ceil(self.slice_p)
    }

    fn log(&self, state: &Self::State) -> Vec<(&'static str, f64)> {
        state.log()
    }

    fn restart(&self, params: &Params, ruined: &Self::State, share: f64) -> Result<Option<Self::State>> {
        Ok(Some(ruined.restarted(self.fresh(params), self.d0, share)))
    }
}

/// What a state keeps for a slice; nothing yet where it is of another size.
fn kept(field: &Params, name: &str, like: &Tensor<1>) -> Tensor<1> {
    let found = slot(field, name).ok().filter(|found| found.shape() == like.shape());
    found.unwrap_or_else(|| like.zeros_like())
}
