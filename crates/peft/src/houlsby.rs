use crate::draw;
use acclimate_core::{ActivationAdapter, AnyTensor, Fields, Method, Result, Rng, Seq, Site};
use burn::tensor::{DType, Device, Tensor, activation};
use serde::{Deserialize, Serialize};

/// Inserts a small two-layer network with a skip connection behind each sub-block.
///
/// # Mathematics
/// $h$ is what attention or the feed-forward network gives, before it is added to the residual stream:
///
/// $$h' = h + s\,\bigl(\varphi(h W_1 + b_1)\,W_2 + b_2\bigr), \qquad W_1 \in \mathbb{R}^{d \times k},\quad W_2 \in \mathbb{R}^{k \times d}.$$
///
/// With `near_identity` $\sigma = 0$, $W_1$ starts uniform in $\pm 1/\sqrt d$ and $W_2$ at zero: the first step starts from the base. With
/// $\sigma > 0$ both are normal with deviation $\sigma$, cut off at two deviations. Biases start at zero. Trained numbers: $2dk + k + d$ a
/// sub-block.
///
/// # When to use
/// For many tasks over one model whose weights cannot be merged into: quantised or shared ones. The paper trains the layer norms as well; add
/// `norm_tuning` to the same patch for that. Otherwise LoRA is as good and free after merging.
///
/// # Differences
/// The authors' code starts near the base with $\sigma = 10^{-3}$; here zero is the default, which starts exactly at it.
///
/// # Example
/// ```
/// use acclimate_core::{Site, SiteKind, ActivationAdapter};
/// use acclimate_peft::Houlsby;
///
/// let block = Site { name: "layer.0.output".into(), kind: SiteKind::Block, out: 384, input: 384, bias: false };
/// assert_eq!(Houlsby::default().count(&block), 2 * 384 * 64 + 64 + 384);
/// ```
///
/// # References
/// Houlsby, Giurgiu, Jastrzębski, Morrone, de Laroussilhe, Gesmundo, Attariyan and Gelly, *Parameter-Efficient Transfer Learning for NLP*, ICML 2019,
/// arXiv:1902.00751.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "houlsby", title = "Houlsby adapter", catalogue = [138], paper = "arxiv:1902.00751", year = 2019)]
#[method(targets("block"), needs(gradients), promises(identity_at_start))]
#[method(case = "bottleneck = 3", case = "bottleneck = 2\nactivation = \"silu\"\nscale = 2.0")]
pub struct Houlsby {
    /// Width inside, $k$.
    #[method(min = 1)]
    pub bottleneck: usize,
    /// $\varphi$: `gelu_tanh`, `gelu`, `relu`, `silu` or `tanh`.
    pub activation: Activation,
    /// What the inserted network's output is multiplied with, $s$.
    #[method(above = 0)]
    pub scale: f64,
    /// Deviation of both matrices at the start, $\sigma$; zero starts exactly at the base.
    #[method(min = 0, max = 0.1)]
    pub near_identity: f64,
}

impl Default for Houlsby {
    fn default() -> Self {
        Self { bottleneck: 64, activation: Activation::GeluTanh, scale: 1.0, near_identity: 0.0 }
    }
}

/// The bend between the two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU by the hyperbolic tangent, as in the authors' code.
    GeluTanh,
    /// GELU.
    Gelu,
    /// The positive part.
    Relu,
    /// $z\,\sigma(z)$, also called swish.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// The two layers.
#[derive(Debug, Fields)]
pub struct HoulsbyParams {
    /// `[width, bottleneck]`.
    #[role(input_factor)]
    pub w1: Tensor<2>,
    /// `[bottleneck]`.
    #[role(bias)]
    pub b1: Tensor<1>,
    /// `[bottleneck, width]`.
    #[role(output_factor)]
    pub w2: Tensor<2>,
    /// `[width]`.
    #[role(bias)]
    pub b2: Tensor<1>,
}

impl ActivationAdapter for Houlsby {
    type P = HoulsbyParams;

    fn init(&self, site: &Site, like: (DType, Device), rng: &mut Rng) -> Result<HoulsbyParams> {
        let (width, inner) = (site.out, self.bottleneck);
        let (w1, w2) = if self.near_identity > 0.0 {
            let mut draw = |shape| truncated(shape, self.near_identity, &like, rng);
            (draw([width, inner]), draw([inner, width]))
        } else {
            let bound = 1.0 / (width as f64).sqrt();
            (draw::uniform([width, inner], bound, &like, rng), draw::zeros([inner, width], &like))
        };
        Ok(HoulsbyParams { w1, b1: draw::zeros([inner], &like), w2, b2: draw::zeros([width], &like) })
    }

    fn around(&self, seq: Seq, body: &mut dyn FnMut(Seq) -> Result<Seq>, p: &HoulsbyParams) -> Result<Seq> {
        let out = body(seq)?;
        let [batch, length, width] = out.h.dims();
        let rows = out.h.clone().reshape([batch * length, width]);
        let inner = self.activation.of(rows.matmul(p.w1.clone()) + p.b1.clone().unsqueeze_dim::<2>(0));
        let change = inner.matmul(p.w2.clone()) + p.b2.clone().unsqueeze_dim::<2>(0);
        let h = out.h.clone() + (change * self.scale).reshape([batch, length, width]);
        Ok(out.with(h))
    }

    fn count(&self, site: &Site) -> usize {
        2 * site.out * self.bottleneck + self.bottleneck + site.out
    }
}

impl Activation {
    fn of(self, z: Tensor<2>) -> Tensor<2> {
        match self {
            Self::GeluTanh => activation::gelu_approximate(z),
            Self::Gelu => activation::gelu(z),
            Self::Relu => activation::relu(z),
            Self::Silu => activation::silu(z),
            Self::Tanh => z.tanh(),
        }
    }
}

/// Normal numbers with the given deviation; those beyond two deviations are drawn again.
fn truncated(shape: [usize; 2], std: f64, (dtype, device): &(DType, Device), rng: &mut Rng) -> Tensor<2> {
    let mut draw = || std::iter::repeat_with(|| rng.normal()).find(|z| z.abs() <= 2.0).expect("the stream has no end");
    let values = (0..shape[0] * shape[1]).map(|_| draw() * std).collect();
    AnyTensor::from_f64s(values, &shape, *dtype, device).get().expect("the shape has two axes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::SiteKind;

    #[test]
    fn half_the_deviation_quarters_the_first_change() {
        let site = Site { name: "block".to_owned(), kind: SiteKind::Block, out: 4, input: 4, bias: false };
        let like = || (DType::F64, Device::flex());
        let h = draw::uniform([3, 4], 1.0, &like(), &mut Rng::new(0, "states", 0)).reshape([1, 3, 4]);
        let seq = Seq::new(h.clone(), draw::zeros([1, 3], &like()) + 1.0);
        let change = |near_identity| {
            let houlsby = Houlsby { bottleneck: 2, near_identity, ..Houlsby::default() };
            let p = houlsby.init(&site, like(), &mut Rng::new(0, "init", 0)).unwrap();
            let out = houlsby.around(seq.clone(), &mut Ok, &p).unwrap();
            (out.h - h.clone()).abs().max().into_scalar::<f64>()
        };
        let ratio = change(1e-4) / change(0.5e-4);
        assert!((ratio - 4.0).abs() < 1e-3, "{ratio}");
    }
}
