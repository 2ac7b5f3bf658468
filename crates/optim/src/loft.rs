use crate::pairs::pairs;
use crate::{read, take};
use acclimate_core::{AnyTensor, At, Error, Method, Optimiser, Params, Record, Result, Step, moments};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// AdamW for pairs of factors whose steps are those that AdamW would make on the whole weight, projected on what the factors can reach.
///
/// # Mathematics
/// For $W = W_0 + BA$ with $B \in \mathbb{R}^{m \times r}$, $A \in \mathbb{R}^{r \times n}$ and $G = \partial L / \partial W$, which is
/// never built, the gradient of $A$ is $g_A = B^\top G$. At step $t$, counted from one,
/// $$S = (B^\top B + \delta I)^{-1}, \qquad \tilde g = S\, g_A, \qquad R = S\, B^\top B_{t-1},$$
/// $$M \leftarrow \beta_1 R M + (1-\beta_1)\, \tilde g, \qquad
///   P_j \leftarrow \beta_2 R P_j R^\top + (1-\beta_2)\, \tilde g_{\cdot j} \tilde g_{\cdot j}^\top \quad (j = 1 \dots n),$$
/// $$U_{ij} = \frac{(B M)_{ij} / (1-\beta_1^t)}{\sqrt{B_{i\cdot} P_j B_{i\cdot}^\top / (1-\beta_2^t)} + \varepsilon}, \qquad
///   A \leftarrow (1 - \alpha_t \lambda)\, A - \alpha_t\, S B^\top U .$$
///
/// $B \tilde g$ is the gradient of the weight projected on the columns of $B$; $R$ carries moments over from the last basis to this one; $M$ and
/// the $r \times r$ matrices $P_j$ are the moments of the whole weight, told in that basis. $B$ has the same formulas with everything
/// transposed and $A$ in the place of $B$. With `alternate` one factor moves at odd steps ($B$, since it starts at zero) and the other at even
/// ones, while the moments of both are kept up at every step. $\alpha_t$ is the learning rate times the schedule's multiplier and the relative
/// rate, $\lambda$ the host's weight decay.
///
/// Gradients are first multiplied by $\min(1, c / \nu)$, $\nu$ being the norm over what moves of the projected gradients $B \tilde g$,
/// and of the plain gradients of the other parameters. These get AdamW. With $r = m = n$ and invertible factors $BA$ takes the path
/// of AdamW on $W$. The step of the weight does not depend on the basis: $B T$ with $T^{-1} A$ leads to the same.
///
/// # When to use
/// For LoRA at low ranks, four and less, where it lags behind training all weights; `lr` is then the rate of that training. The scale must be
/// one (`alpha` equal to `rank`) and dropout off. $P$ takes $r^2 (m + n)$ numbers, and a matrix like the weight is built at each step: ranks
/// above 32 are dear. With `groups = "role"` in the host no factor sees its partner, and all get AdamW.
///
/// # Differences
/// The authors' code carries the second moment over by $R^\top P R$; only $R P R^\top$ makes the whole-rank limit hold, and its check with
/// $\beta = 0$ cannot see that. It moves parameters one by one, so that the second factor's gradient meets the first one's new value; here all
/// moments are kept up before anything moves. It decays by $\lambda$ without the rate. Its clipping is a function beside the optimiser; the
/// host's `clip`, which sees the factors' gradients, can stay off. $\delta$ stands for two settings, the authors' values for $A$ and $B$.
///
/// With `reproject_second_moment` off a factor moves by its own second moment, element by element, as there. All switches off and no clip are
/// AdamW on the factors. After a change of rank $P$ of that factor begins anew, and one step goes without $R$.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Host, HostSettings, Loft};
/// use burn::tensor::{DType, Device, Tensor};
///
/// let tensor = |values: Vec<f64>, shape: &[usize]| AnyTensor::from_f64s(values, shape, DType::F64, &Device::flex());
/// let mut x = Params::default();
/// x.insert("query.lora.a", tensor(vec![1.0, 0.2], &[1, 2]));
/// x.insert("query.lora.b", tensor(vec![0.0, 0.0], &[2, 1]));
/// let target: Tensor<2> = tensor(vec![1.0, 2.0, -1.0, -2.0], &[2, 2]).get().unwrap();
/// let loft = Loft { lr: 0.05, ..Default::default() };
/// let mut host = Host::over(&loft, HostSettings::default(), &x, vec![Role::InputFactor, Role::OutputFactor])?;
/// let mut off = f64::INFINITY;
/// for k in 0..400 {
///     // The gradients of half the squared distance of BA to a target of rank one.
///     let (a, b) = (x.get::<2>("query.lora.a")?, x.get::<2>("query.lora.b")?);
///     let residual = b.clone().matmul(a.clone()) - target.clone();
///     off = residual.clone().square().sum().into_scalar::<f64>();
///     let mut gradient = Params::default();
///     gradient.insert("query.lora.a", b.transpose().matmul(residual.clone()));
///     gradient.insert("query.lora.b", residual.matmul(a.transpose()));
///     x = host.step(&loft, &x, &gradient, 1.0 - k as f64 / 400.0, 0.0)?;
/// }
/// assert!(off < 1e-3);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Tastan, Laskaridis, Takáč, Nandakumar and Horváth, *LoFT: Low-Rank Adaptation That Behaves Like Full Fine-Tuning*, 2025, arXiv:2505.21289.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "loft", title = "LoFT", catalogue = [71], paper = "arxiv:2505.21289", year = 2025)]
#[method(needs(gradients, learning_rate), validate = Self::coherent, case = "lr = 0.05")]
pub struct Loft {
    /// Learning rate $\alpha$, that of training all weights.
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
    /// Damping $\delta$ of the input factor's $S$, which is that of $B^\top B$.
    #[method(above = 0.0)]
    pub input_damping: f64,
    /// Damping $\delta$ of the output factor's $S$, which is that of $A A^\top$.
    #[method(above = 0.0)]
    pub output_damping: f64,
    /// Largest norm $c$ of the projected gradients together; `inf` is no limit.
    #[method(above = 0.0)]
    pub clip: f64,
    /// Whether the factors move by turns.
    pub alternate: bool,
    /// Whether gradients are multiplied by $S$.
    pub rescale: bool,
    /// Whether $R$ carries the first moment over; needs `rescale`.
    pub reproject_momentum: bool,
    /// Whether the second moment is that of the whole weight; needs `rescale`.
    pub reproject_second_moment: bool,
}

impl Default for Loft {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-4,
            input_damping: 1e-6,
            output_damping: 1e-8,
            clip: 1.0,
            alternate: true,
            rescale: true,
            reproject_momentum: true,
            reproject_second_moment: true,
        }
    }
}

/// The moments of the parameters, the second ones of factors, the factors before the last step, and the steps made.
#[derive(Clone, Debug, Record)]
pub struct LoftState {
    m: Params,
    v: Params,
    /// $P$ of each factor, with its columns as the first axis.
    #[record(own)]
    p: Params,
    #[record(own)]
    last: Params,
    t: u64,
}

/// A factor as the formulas have it, which are written for $A$; those of $B$ are their transposes.
struct Factor<'a> {
    name: &'a str,
    other: &'a str,
    /// Whether it is $B$.
    turned: bool,
    damping: f64,
    moves: bool,
}

/// What a factor needs from its partner: $S$, and $R$ where there was a step before.
struct Basis {
    s: Square,
    r: Option<Square>,
}

impl Optimiser for Loft {
    type State = LoftState;

    fn init(&self, params: &Params) -> Result<LoftState> {
        let zeros = params.zeros_like();
        Ok(LoftState { m: zeros.clone(), v: zeros, p: Params::default(), last: Params::default(), t: 0 })
    }

    fn update(&self, grads: &Params, state: &mut LoftState, at: &At<'_>) -> Result<Step> {
        state.t += 1;
        let factors: Vec<Factor<'_>> = pairs(at.params, at.roles)
            .into_iter()
            .flat_map(|pair| self.factors(pair.input, pair.output, state.t))
            .collect();
        let (bases, shrink) = self.measure(&factors, grads, state, at.params)?;
        let (mut movement, mut decay_rates) = (Params::default(), vec![]);
        for ((name, g), scale) in grads.iter().zip(at.scales) {
            let rate = self.lr * at.lr * scale;
            let g = AnyTensor::from_elements(g.elements() * shrink);
            let factor = factors.iter().zip(&bases).find(|(factor, _)| factor.name == name);
            let (step, moves) = match factor {
                Some((factor, basis)) => (self.move_factor(factor, basis, &g, state, at.params, rate)?, factor.moves),
                None => (self.move_other(name, &g, state, rate)?, true),
            };
            movement.insert(name, step);
            decay_rates.push(if moves { rate } else { 0.0 });
        }
        for factor in factors.iter().filter(|_| self.reproject_momentum || self.reproject_second_moment) {
            state.last.insert(factor.name, AnyTensor::from(at.params.get::<2>(factor.name)?));
        }
        Ok(Step { movement, decay_rates })
    }

    /// Of a parameter without a partner; a factor has its $P$ and its last value more.
    fn state_size(&self, shape: &[usize]) -> usize {
        2 * shape.iter().product::<usize>()
    }
}

impl Loft {
    fn factors<'a>(&self, input: &'a str, output: &'a str, t: u64) -> [Factor<'a>; 2] {
        let moves = |turned: bool| !self.alternate || turned == (t % 2 == 1);
        let factor = |name, other, turned, damping| Factor { name, other, turned, damping, moves: moves(turned) };
        [factor(input, output, false, self.input_damping), factor(output, input, true, self.output_damping)]
    }

    /// What each factor needs from its partner, and what the clip multiplies gradients by.
    fn measure(
        &self,
        factors: &[Factor<'_>],
        grads: &Params,
        state: &LoftState,
        params: &Params,
    ) -> Result<(Vec<Basis>, f64)> {
        let mut parts = vec![];
        for factor in factors {
            let (y, g) = (factor.view(params, factor.other)?, factor.view(grads, factor.name)?);
            let last = if state.last.has(factor.other) { factor.view(&state.last, factor.other)? } else { y.clone() };
            parts.extend([gram(y.clone(), y.clone()), gram(y, last), gram(g.clone().transpose(), g.transpose())]);
        }
        let others = grads.iter().filter(|(name, _)| factors.iter().all(|factor| factor.name != *name));
        parts.extend(others.map(|(_, g)| moments::squares(g.elements())));
        let numbers = read(parts);
        let (mut rest, mut norm, mut bases) = (numbers.as_slice(), 0.0, vec![]);
        for factor in factors {
            let rank = params.any(factor.name).map_or(0, |x| x.shape()[usize::from(factor.turned)]);
            let [own, cross, slopes] = [0, 1, 2].map(|at| Square::new(&rest[at * rank * rank..][..rank * rank], rank));
            rest = &rest[3 * rank * rank..];
            let s = own.damped(factor.damping).inverse();
            if factor.moves {
                // ‖B g̃‖² is the trace of S BᵀB S g gᵀ.
                let metric = if self.rescale { s.times(&own).times(&s) } else { Square::identity(rank) };
                norm += metric.dot(&slopes);
            }
            bases.push(Basis { r: state.last.has(factor.other).then(|| s.times(&cross)), s });
        }
        let norm = (norm + rest.iter().sum::<f64>()).sqrt();
        Ok((bases, if norm > self.clip { self.clip / norm } else { 1.0 }))
    }

    /// Keeps the moments of a factor up; its movement where it is its turn.
    fn move_factor(
        &self,
        factor: &Factor<'_>,
        basis: &Basis,
        g: &AnyTensor,
        state: &mut LoftState,
        params: &Params,
        rate: f64,
    ) -> Result<AnyTensor> {
        let y = factor.view(params, factor.other)?;
        let like = (y.dtype(), y.device());
        let (s, r) = (basis.s.tensor(&like), basis.r.as_ref().map(|r| r.tensor(&like)));
        let mut g = factor.turn(g.get().expect("pairs are of matrices"));
        if self.rescale {
            g = s.clone().matmul(g);
        }
        let mut m = factor.view(&state.m, factor.name)?;
        if let Some(r) = r.clone().filter(|_| self.reproject_momentum) {
            m = r.matmul(m);
        }
        let m = m * self.beta1 + g.clone() * (1.0 - self.beta1);
        state.m.insert(factor.name, factor.turn(m.clone()));
        let (first, second) = self.corrections(state.t);
        let step = if self.reproject_second_moment {
            let p = self.second_moment(state, factor.name, g, r)?;
            if !factor.moves {
                return Ok(factor.turn(m.zeros_like()).into());
            }
            let variance = quadratic(y.clone(), p).clamp_min(0.0);
            let update = y.clone().matmul(m) / first / ((variance / second).sqrt() + self.eps);
            s.matmul(y.transpose().matmul(update))
        } else {
            let v = factor.view(&state.v, factor.name)? * self.beta2 + g.square() * (1.0 - self.beta2);
            state.v.insert(factor.name, factor.turn(v.clone()));
            m / first / ((v / second).sqrt() + self.eps) * f64::from(u8::from(factor.moves))
        };
        Ok(factor.turn(step * -rate).into())
    }

    /// AdamW.
    fn move_other(&self, name: &str, g: &AnyTensor, state: &mut LoftState, rate: f64) -> Result<AnyTensor> {
        let Self { beta1, beta2, eps, .. } = *self;
        let (first, second) = self.corrections(state.t);
        let step = moments::Adamw { beta1, beta2, root: second.sqrt(), eps, rate: rate / first };
        let kept = [take(&mut state.m, name)?, take(&mut state.v, name)?];
        let (movement, [m, v]) = moments::adamw(g.elements(), kept, step);
        state.m.insert(name, AnyTensor::from_elements(m));
        state.v.insert(name, AnyTensor::from_elements(v));
        Ok(AnyTensor::from_elements(movement))
    }

    /// What makes up for moments that start at zero.
    fn corrections(&self, t: u64) -> (f64, f64) {
        (1.0 - self.beta1.powf(t as f64), 1.0 - self.beta2.powf(t as f64))
    }

    /// Keeps $P$ up and gives it, `[columns, rank, rank]`.
    fn second_moment(
        &self,
        state: &mut LoftState,
        name: &str,
        g: Tensor<2>,
        r: Option<Tensor<2>>,
    ) -> Result<Tensor<3>> {
        let [rank, columns] = g.dims();
        let g = g.transpose();
        let outer = g.clone().reshape([columns, rank, 1]) * g.reshape([columns, 1, rank]);
        let p = if state.p.has(name) {
            let mut p: Tensor<3> = state.p.get(name)?;
            if let Some(r) = r {
                // P is symmetric, so that twice the product with Rᵀ on the right is R P Rᵀ.
                for _ in 0..2 {
                    let right = p.reshape([columns * rank, rank]).matmul(r.clone().transpose());
                    p = right.reshape([columns, rank, rank]).swap_dims(1, 2);
                }
            }
            p * self.beta2 + outer * (1.0 - self.beta2)
        } else {
            outer * self.corrections(state.t).1
        };
        state.p.insert(name, p.clone());
        Ok(p)
    }

    fn coherent(&self) -> Result<()> {
        let switches = [
            ("reproject_momentum", self.reproject_momentum),
            ("reproject_second_moment", self.reproject_second_moment),
        ];
        match switches.into_iter().find(|(_, on)| *on && !self.rescale) {
            None => Ok(()),
            Some((param, _)) => {
                let why = "needs `rescale`, whose gradients it carries over".to_owned();
                Err(Error::Param { method: Self::CARD.name, param, value: "true".to_owned(), why })
            }
        }
    }
}

impl Factor<'_> {
    fn view(&self, params: &Params, name: &str) -> Result<Tensor<2>> {
        Ok(self.turn(params.get(name)?))
    }

    /// Between the tensor as it is kept and as the formulas have it.
    fn turn(&self, tensor: Tensor<2>) -> Tensor<2> {
        if self.turned { tensor.transpose() } else { tensor }
    }
}

/// `XᵀY` in double precision, number by number.
fn gram(x: Tensor<2>, y: Tensor<2>) -> Tensor<1> {
    let [x, y] = [x, y].map(|tensor| tensor.cast(DType::F64));
    x.transpose().matmul(y).flatten(0, 1)
}

/// `Y_i P_j Y_iᵀ` for every row of `y` and every matrix of `p`.
fn quadratic(y: Tensor<2>, p: Tensor<3>) -> Tensor<2> {
    let ([rows, rank], [columns, ..]) = (y.dims(), p.dims());
    let outer = y.clone().reshape([rows, rank, 1]) * y.reshape([rows, 1, rank]);
    outer.reshape([rows, rank * rank]).matmul(p.reshape([columns, rank * rank]).transpose())
}

/// A small square matrix in double precision.
struct Square {
    numbers: Vec<f64>,
    size: usize,
}

impl Square {
    fn new(numbers: &[f64], size: usize) -> Self {
        Self { numbers: numbers.to_vec(), size }
    }

    fn identity(size: usize) -> Self {
        Self { numbers: vec![0.0; size * size], size }.damped(1.0)
    }

    /// With a number added to its diagonal.
    fn damped(&self, by: f64) -> Self {
        let mut numbers = self.numbers.clone();
        numbers.iter_mut().step_by(self.size + 1).for_each(|number| *number += by);
        Self { numbers, size: self.size }
    }

    fn times(&self, other: &Self) -> Self {
        let n = self.size;
        let entry = |at: usize| (0..n).map(|k| self.numbers[at / n * n + k] * other.numbers[k * n + at % n]).sum();
        Self { numbers: (0..n * n).map(entry).collect(), size: n }
    }

    /// The sum of the products of entries.
    fn dot(&self, other: &Self) -> f64 {
        self.numbers.iter().zip(&other.numbers).map(|(a, b)| a * b).sum()
    }

    /// By Gauss and Jordan. Symmetric and positive, so that pivots stand on the diagonal.
    fn inverse(&self) -> Self {
        let n = self.size;
        let (mut left, mut right) = (self.numbers.clone(), Self::identity(n).numbers);
        for k in 0..n {
            let pivot = left[k * n + k];
            for side in [&mut left, &mut right] {
                side[k * n..][..n].iter_mut().for_each(|number| *number /= pivot);
            }
            for i in (0..n).filter(|i| *i != k) {
                let by = left[i * n + k];
                for side in [&mut left, &mut right] {
                    for j in 0..n {
                        side[i * n + j] -= by * side[k * n + j];
                    }
                }
            }
        }
        Self { numbers: right, size: n }
    }

    fn tensor(&self, (dtype, device): &(DType, Device)) -> Tensor<2> {
        let data = TensorData::new(self.numbers.clone(), [self.size, self.size]);
        Tensor::<2>::from_data(data, (device, DType::F64)).cast(*dtype)
    }
}
