use crate::factored::{self, Weights};
use crate::{read, take};
use acclimate_core::{AnyTensor, At, Error, Method, Optimiser, Params, Record, Result, Step, moments};
use serde::{Deserialize, Serialize};

/// Divides gradients by the root of their running squares, kept as one number for each row and column of a matrix.
///
/// # Mathematics
/// For a matrix $X \in \mathbb{R}^{n \times m}$ with gradient $G$, step $t$ counted from one and $\hat\beta_t = 1 - t^{-c}$
/// $$R_t = \hat\beta_t R_{t-1} + (1-\hat\beta_t)\, \tfrac1m (G^2 + \varepsilon)\, \mathbf 1_m, \qquad
///   C_t = \hat\beta_t C_{t-1} + (1-\hat\beta_t)\, \tfrac1n \mathbf 1_n^\top (G^2 + \varepsilon), \qquad
///   \hat V_{ij} = \frac{R_i C_j}{\tfrac1n \sum_k R_k},$$
/// $$U = \frac{G}{\sqrt{\hat V}}, \qquad \hat U = \frac{U}{\max(1, \operatorname{RMS}(U)/d)}, \qquad
///   \rho_t = \min\Bigl(\rho, \frac{1}{\sqrt t}\Bigr), \qquad
///   \alpha_t = \max\bigl(\varepsilon_2, \operatorname{RMS}(X)\bigr)\, \rho_t,$$
/// $$M_t = \beta_1 M_{t-1} + (1-\beta_1)\, \alpha_t \hat U, \qquad X \leftarrow X - M_t,$$
///
/// with $\operatorname{RMS}(X) = \lVert X \rVert_F / \sqrt{nm}$. Of a vector $V$ is kept whole. A tensor of more axes is a matrix of its first
/// axis and all others. $\hat\beta_1 = 0$, so nothing has to be corrected for its zero start. With `relative_step` off $\rho_t = \rho$, the
/// learning rate; with `scale_parameter` off $\alpha_t = \rho_t$; with `warmup_init` $\rho_t$ is also at most $10^{-6}\, t$. The schedule's
/// multiplier and the relative rate multiply $\alpha_t$.
///
/// $\hat V$ has the sums of rows and columns of $V$, and among all matrices of rank one it is the nearest to $V$ by the I-divergence
/// $\sum V \log (V/W) - V + W$. Clipping bounds what a gradient does that is large against a moment which remembers small ones.
///
/// # When to use
/// For whole weights when the memory of the optimiser is the limit: a matrix of $4096 \times 4096$ takes 8,192 numbers where `adamw` has
/// 33 million. Fine-tuning recipes often set `relative_step` and `scale_parameter` off, with a rate near 1e-3 and a warm-up.
///
/// # Differences
/// The paper's sums of rows and columns are means here: the factor cancels. $\varepsilon$ is added to the squares as in the paper;
/// `torch.optim.Adafactor` bounds the moment from below in its place. It and `transformers` take the last two axes of a tensor for the matrix,
/// which for a convolution are those of the kernel. The paper has no weight decay; the host's takes $\alpha_t$, as in `transformers`. In
/// torch the decay takes the rate without $\operatorname{RMS}(X)$. After a change of rank the moment of that parameter begins anew.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Adafactor, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let adafactor = Adafactor { lr: 0.1, relative_step: false, scale_parameter: false, ..Default::default() };
/// let mut x = Params::default();
/// x.insert("x", AnyTensor::from_f64s(vec![0.0; 4], &[2, 2], DType::F64, &Device::flex()));
/// let mut host = Host::over(&adafactor, HostSettings::default(), &x, vec![Role::Other])?;
/// for k in 0..300 {
///     // The gradient of half the squared distance to 3.
///     let gradient = x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0));
///     x = host.step(&adafactor, &x, &gradient, 1.0 - k as f64 / 300.0, 0.0)?;
/// }
/// assert!(x.map(|_, x| AnyTensor::from_elements(x.elements() - 3.0)).norm() < 1e-2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, ICML 2018, arXiv:1804.04235.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "adafactor", title = "Adafactor", catalogue = [55], paper = "arxiv:1804.04235", year = 2018)]
#[method(needs(gradients, learning_rate), promises(scale_free), validate = Self::coherent)]
#[method(case = "lr = 0.1", case = "lr = 0.05\nrelative_step = false\nscale_parameter = false\nbeta1 = 0.9")]
pub struct Adafactor {
    /// Learning rate, or with `relative_step` the largest step $\rho$.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Whether the rate falls with the root of the step.
    pub relative_step: bool,
    /// Whether the rate also starts at $10^{-6}$ and grows by as much each step; needs `relative_step`.
    pub warmup_init: bool,
    /// Whether the rate is multiplied by the size of the parameter.
    pub scale_parameter: bool,
    /// Smallest size of a parameter, $\varepsilon_2$.
    #[method(above = 0.0)]
    pub scale_floor: f64,
    /// Largest root mean square $d$ of an update; `inf` is no limit.
    #[method(above = 0.0)]
    pub clip: f64,
    /// Power $c$ by which the memory of the second moment grows.
    #[method(above = 0.0, max = 1.0)]
    pub decay_power: f64,
    /// Decay of the first moment; 0 keeps none.
    #[method(min = 0.0, max = 0.99999)]
    pub beta1: f64,
    /// Added to the squares of gradients.
    #[method(min = 1e-30)]
    pub eps: f64,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            lr: 1e-2,
            relative_step: true,
            warmup_init: false,
            scale_parameter: true,
            scale_floor: 1e-3,
            clip: 1.0,
            decay_power: 0.8,
            beta1: 0.0,
            eps: 1e-30,
        }
    }
}

/// The second moment's rows and columns, the first moment where there is one, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct AdafactorState {
    #[record(own)]
    rows: Params,
    #[record(own)]
    columns: Params,
    m: Params,
    t: u64,
}

impl Optimiser for Adafactor {
    type State = AdafactorState;

    fn init(&self, params: &Params) -> Result<AdafactorState> {
        let m = if self.beta1 == 0.0 { Params::default() } else { params.zeros_like() };
        Ok(AdafactorState { rows: Params::default(), columns: Params::default(), m, t: 0 })
    }

    fn update(&self, grads: &Params, state: &mut AdafactorState, at: &At<'_>) -> Result<Step> {
        state.t += 1;
        let mut updates = Params::default();
        for (name, g) in grads.iter() {
            let second = [&mut state.rows, &mut state.columns];
            updates.insert(name, normalised(second, name, g, (self.eps, self.decay_power), state.t)?);
        }
        let sizes = Sizes { clip: self.clip, floor: self.scale_parameter.then_some(self.scale_floor) };
        let mut step = sizes.step(&updates, self.rate(state.t as f64) * at.lr, at);
        if self.beta1 > 0.0 {
            for name in grads.names() {
                let new = step.movement.take(name).expect("a movement for each update").into_elements();
                let m = AnyTensor::from_elements(take(&mut state.m, name)? * self.beta1 + new * (1.0 - self.beta1));
                step.movement.insert(name, m.clone());
                state.m.insert(name, m);
            }
        }
        Ok(step)
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        factored::size(shape) + if self.beta1 == 0.0 { 0 } else { shape.iter().product() }
    }

    fn in_place(&self) -> bool {
        true
    }
}

impl Adafactor {
    /// $\rho_t$.
    fn rate(&self, t: f64) -> f64 {
        let warm = if self.warmup_init { 1e-6 * t } else { f64::INFINITY };
        if self.relative_step { self.lr.min(warm).min(1.0 / t.sqrt()) } else { self.lr }
    }

    fn coherent(&self) -> Result<()> {
        if self.relative_step || !self.warmup_init {
            return Ok(());
        }
        let why = "needs `relative_step`; without it the schedule warms up".to_owned();
        Err(Error::Param { method: Self::CARD.name, param: "warmup_init", value: "true".to_owned(), why })
    }
}

/// A gradient over the root of its second moment, `t` steps after the start: $U$ with $\varepsilon$ and $c$.
pub(crate) fn normalised(
    [rows, columns]: [&mut Params; 2],
    name: &str,
    g: &AnyTensor,
    (eps, decay_power): (f64, f64),
    t: u64,
) -> Result<AnyTensor> {
    let squares = AnyTensor::from_elements(g.elements().square() + eps);
    let weights = Weights { keep: 1.0 - (t as f64).powf(-decay_power), first: 1.0 };
    factored::add([rows, columns], name, &squares, weights)?;
    let root = factored::root([rows, columns], name, &g.shape())?;
    Ok(AnyTensor::from_elements(g.elements() / root.expect("squares were added the line before")))
}

/// How long steps may be.
pub(crate) struct Sizes {
    /// Largest root mean square of an update.
    pub(crate) clip: f64,
    /// Smallest size of a parameter, where its size multiplies the rate.
    pub(crate) floor: Option<f64>,
}

impl Sizes {
    /// The step against some updates.
    pub(crate) fn step(&self, updates: &Params, rate: f64, at: &At<'_>) -> Step {
        let both = updates.iter().zip(at.params.iter());
        let squares = both.flat_map(|((_, update), (_, x))| [update, x].map(|t| moments::squares(t.elements())));
        let squares = read(squares.collect());
        let (mut movement, mut decay_rates) = (Params::default(), vec![]);
        for (((name, update), squares), scale) in updates.iter().zip(squares.chunks(2)).zip(at.scales) {
            let [update_size, size] = [0, 1].map(|i| (squares[i] / update.count() as f64).sqrt());
            let rate = rate * scale * self.floor.map_or(1.0, |floor| size.max(floor));
            let step = update.elements() * (-rate / (update_size / self.clip).max(1.0));
            movement.insert(name, AnyTensor::from_elements(step));
            decay_rates.push(rate);
        }
        Step { movement, decay_rates }
    }
}
