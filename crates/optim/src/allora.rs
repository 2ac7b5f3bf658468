use crate::adamw::{Adamw, AdamwState};
use crate::pairs::pairs;
use acclimate_core::{AnyTensor, At, Method, Optimiser, Params, Result, Step};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// AdamW for low-rank updates in which each output has a rate of its own, large while its row is zero and smaller as it grows.
///
/// # Mathematics
/// For a pair $B \in \mathbb{R}^{m \times r}$ (zero at the start), $A \in \mathbb{R}^{r \times n}$ and the step
/// $\Delta$ that AdamW would make,
/// $$B_{i\cdot} \leftarrow B_{i\cdot} + c_i\, \Delta B_{i\cdot}, \qquad A \leftarrow A + \Delta A, \qquad
///   c_i = \frac{1}{\sqrt{\lVert (BA)_{i\cdot} \rVert_2 + 1/\eta^2}} .$$
///
/// $c_i$ is $\eta$ at the start and falls with the row of the update, as $\lVert (BA)_{i\cdot} \rVert^{-1/2}$ once that is well above
/// $1/\eta^2$. It is taken from the factors before the step, and found from $A A^\top$ without building $BA$. With
/// `norm = "factor"` the row of $B$ stands in place of that of $BA$. Under a constant gradient and with $A$ a unit row,
/// $b$ follows $\dot b = \alpha / \sqrt{b + 1/\eta^2}$, so $(b + 1/\eta^2)^{3/2} = \eta^{-3} + \tfrac32 \alpha t$.
///
/// Parameters without a partner get AdamW. A pair is an input and an output factor whose names are equal up to the last dot, such as those of
/// LoRA; with `groups = "role"` in the host no factor sees its partner.
///
/// # When to use
/// For LoRA on little data and few steps, with `alpha` equal to the rank and no dropout: rows leave zero quickly and slow down by themselves. In
/// long runs `adamw` is as good. Weight decay shrinks $B$ and so raises its rates; start without.
///
/// # Differences
/// The paper multiplies the gradient that enters the adapter's outputs by $c$, for $A$ and $B$ alike. A factor of a gradient that changes slowly
/// cancels in Adam's quotient, so here $c$ multiplies the movement of $B$; that of $A$ is left as it is, since the rows of $B$
/// meet in it. Public optimisers that cite the paper take the row of $B$, once at the start, where it is zero and $c$ the same for all.
/// $\eta = 2$ is the value of these packages.
///
/// # Example
/// ```
/// use acclimate_core::{AnyTensor, Params, Role};
/// use acclimate_optim::{Allora, Host, HostSettings};
/// use burn::tensor::{DType, Device};
///
/// let tensor = |values: Vec<f64>, shape: &[usize]| AnyTensor::from_f64s(values, shape, DType::F64, &Device::flex());
/// let mut x = Params::default();
/// x.insert("query.lora.a", tensor(vec![1.0, 0.0], &[1, 2]));
/// x.insert("query.lora.b", tensor(vec![0.0, 0.0], &[2, 1]));
/// let mut gradient = x.zeros_like();
/// gradient.insert("query.lora.b", tensor(vec![1.0, -1.0], &[2, 1]));
///
/// let allora = Allora { lr: 0.1, eta: 2.0, ..Default::default() };
/// let mut host = Host::over(&allora, HostSettings::default(), &x, vec![Role::InputFactor, Role::OutputFactor])?;
/// let next = host.step(&allora, &x, &gradient, 1.0, 0.0)?;
/// // The first step of AdamW is its rate, and here twice that.
/// let b = next.any("query.lora.b").unwrap().to_f64s();
/// assert!((b[0] + 0.2).abs() < 1e-6 && (b[1] - 0.2).abs() < 1e-6);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Huang and Balestriero, *ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws*, 2024, arXiv:2410.09692.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "allora", title = "ALLoRA", catalogue = [171], paper = "arxiv:2410.09692", year = 2024)]
#[method(needs(gradients, learning_rate), promises(scale_free), case = "lr = 0.05")]
pub struct Allora {
    /// Learning rate $\alpha$ of AdamW.
    #[method(above = 0.0)]
    pub lr: f64,
    /// Largest factor $\eta$ of a row's rate.
    #[method(above = 0.0)]
    pub eta: f64,
    /// The rows whose sizes are taken: of the `update` $BA$, or of the `factor` $B$.
    pub norm: RowNorm,
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

/// Whose rows are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowNorm {
    /// The product of the factors.
    Update,
    /// The output factor alone.
    Factor,
}

impl Default for Allora {
    fn default() -> Self {
        Self { lr: 1e-3, eta: 2.0, norm: RowNorm::Update, beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

impl Optimiser for Allora {
    type State = AdamwState;

    fn init(&self, params: &Params) -> Result<AdamwState> {
        self.adamw().init(params)
    }

    fn update(&self, grads: &Params, state: &mut AdamwState, at: &At<'_>) -> Result<Step> {
        let mut step = self.adamw().update(grads, state, at)?;
        for pair in pairs(at.params, at.roles) {
            let factors = self.factors(at.params.get(pair.output)?, at.params.get(pair.input)?);
            let scaled = step.movement.get::<2>(pair.output)? * factors;
            step.movement.insert(pair.output, AnyTensor::from(scaled));
        }
        Ok(step)
    }

    fn state_size(&self, shape: &[usize]) -> usize {
        self.adamw().state_size(shape)
    }

    fn in_place(&self) -> bool {
        true
    }
}

impl Allora {
    fn adamw(&self) -> Adamw {
        let Self { lr, beta1, beta2, eps, .. } = *self;
        Adamw { lr, beta1, beta2, eps }
    }

    /// $c$, `[out, 1]`. Squares of small rows would vanish in single precision.
    fn factors(&self, b: Tensor<2>, a: Tensor<2>) -> Tensor<2> {
        let dtype = b.dtype();
        let (b, a) = (b.cast(DType::F64), a.cast(DType::F64));
        let squares = match self.norm {
            RowNorm::Update => b.clone().matmul(a.clone().matmul(a.transpose())) * b,
            RowNorm::Factor => b.square(),
        };
        let norms = squares.sum_dim(1).clamp_min(0.0).sqrt();
        (norms + 1.0 / (self.eta * self.eta)).sqrt().recip().cast(dtype)
    }
}
