use crate::draw;
use crate::folder::{Config, Module, Reader};
use acclimate_core::{
    Adapter, Affine, Error, Fields, Here, Method, PeftForm, PeftTensor, PeftType, Result, Rng, Site, WeightAdapter,
};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::sync::Arc;

/// Multiplies each frozen weight by a chain of trained Householder reflections.
///
/// # Mathematics
/// With unit vectors $u_i \in \mathbb{R}^n$, the normalised columns of a trained $U \in \mathbb{R}^{n \times r}$,
///
/// $$W' = W H, \qquad H = (I - 2u_1u_1^\top)(I - 2u_2u_2^\top)\cdots(I - 2u_ru_r^\top) = I - U T U^\top, \qquad
///   T = \bigl(\tfrac12 I + \operatorname{striu}(U^\top U)\bigr)^{-1}.$$
///
/// $H$ is orthogonal, so $W'W'^\top = WW^\top$, and $W' - W$ has rank at most $r$. The compact form costs two thin products; $T$ is
/// $r \times r$ and found by back substitution. $r$ is even and the columns start in equal pairs, uniform in $\pm 1/\sqrt n$: two equal
/// reflections undo each other, so $H = I$. `penalty` $\lambda$ adds $\lambda \lVert I - U^\top U \rVert_F^2$ over the unit columns to the loss of
/// each site, which draws the reflections apart. Trained numbers: $rn$ a site.
///
/// # When to use
/// When the model must keep what it knows: lengths and angles of the weight's rows stay as they are, and the change is bounded. Half of
/// LoRA's numbers on square weights. Rates may be larger than LoRA's.
///
/// # Differences
/// The authors' strict variant ($\lambda = \infty$, columns made orthogonal by Gram–Schmidt) cannot start at the base and is left out. An odd rank,
/// which cannot either, is refused. Columns shorter than $10^{-12}$ are divided by that length.
///
/// # Example
/// ```
/// use acclimate_core::{Affine, Here, Rng, Site, SiteKind, WeightAdapter};
/// use acclimate_peft::Hra;
/// use burn::tensor::{Device, Tensor};
///
/// let site = Site { name: "query".into(), kind: SiteKind::Linear, out: 3, input: 4, bias: false };
/// let base = Affine::new(Tensor::<2>::ones([3, 4], &Device::flex()), None);
/// let here = Here { site: &site, shared: &(), mask: None };
/// let hra = Hra { rank: 2, ..Hra::default() };
/// let p = hra.init(&base, &here, &mut Rng::new(0, "init", 0))?;
/// let moved = hra.weight(&base, &p, &here)?.dense() - base.dense();
/// assert!(moved.abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Yuan, Liu and Xu, *Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection Adaptation*, NeurIPS 2024,
/// arXiv:2405.17484.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "hra", title = "HRA", catalogue = [63], paper = "arxiv:2405.17484", year = 2024)]
#[method(targets("linear"), needs(gradients), validate = Self::even)]
#[method(
    promises(identity_at_start, mergeable, orthogonal, low_rank),
    case = "rank = 2",
    case = "rank = 4\npenalty = 0.1"
)]
#[method(waive(the_start_is_the_base_bit_for_bit = "two equal reflections undo each other up to rounding"))]
pub struct Hra {
    /// How many reflections, $r$: an even number, at most the width of the input.
    #[method(min = 2)]
    pub rank: usize,
    /// Weight of the penalty on reflections that are not orthogonal to each other, $\lambda$.
    #[method(min = 0)]
    pub penalty: f64,
}

impl Default for Hra {
    fn default() -> Self {
        Self { rank: 8, penalty: 0.0 }
    }
}

/// The normals of the reflections.
#[derive(Debug, Fields)]
pub struct HraParams {
    /// `[in, rank]`; the length of a column does not matter.
    #[role(input_factor)]
    pub u: Tensor<2>,
}

impl WeightAdapter for Hra {
    type P = HraParams;
    type Shared = ();

    fn share(&self, _: &[Site], _: (DType, Device), _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn init(&self, base: &Affine, here: &Here<'_, ()>, rng: &mut Rng) -> Result<HraParams> {
        let [_, input] = base.dims();
        if self.rank > input {
            return Err(refused(self.rank, format!("must be at most {input} at `{}`", here.site.name)));
        }
        let half = draw::uniform([input, self.rank / 2], 1.0 / (input as f64).sqrt(), &base.like(), rng);
        let pairs = Tensor::stack::<3>(vec![half.clone(), half], 2);
        Ok(HraParams { u: pairs.reshape([input, self.rank]) })
    }

    fn weight(&self, base: &Affine, p: &HraParams, _: &Here<'_, ()>) -> Result<Affine> {
        let (unit, core) = compact(&p.u);
        let change = base.dense().matmul(unit.clone()).matmul(core).matmul(unit.transpose());
        Ok(base.with_weight(base.dense() - change))
    }

    fn apply(&self, x: Tensor<2>, base: &Affine, p: &HraParams, _: &Here<'_, ()>) -> Result<Tensor<2>> {
        let (unit, core) = compact(&p.u);
        let change = x.clone().matmul(unit.clone()).matmul(core.transpose()).matmul(unit.transpose());
        Ok(base.forward(x - change))
    }

    fn penalty(&self, p: &HraParams) -> Option<Tensor<1>> {
        (self.penalty > 0.0).then(|| {
            let unit = normalised(&p.u);
            let gram = unit.clone().transpose().matmul(unit);
            (eye(&gram) - gram).square().sum() * self.penalty
        })
    }

    fn count(&self, site: &Site) -> usize {
        self.rank * site.input
    }

    fn peft(&self, sites: &[Site]) -> Option<PeftForm> {
        // That package reflects all channels, where a row in groups reads a share of them.
        if sites.iter().any(|site| site.kind.groups() > 1) {
            return None;
        }
        let settings = Map::from_iter([
            ("r".to_owned(), json!(self.rank)),
            ("apply_GS".to_owned(), json!(false)),
            ("init_weights".to_owned(), json!(true)),
        ]);
        let tensors = |site: &Site| vec![PeftTensor::new("u", READER.mark, [site.input, self.rank])];
        let sites = sites.iter().map(tensors).collect();
        Some(PeftForm::Type(PeftType {
            name: READER.name,
            settings,
            own_bias: Some("hra_only"),
            sites,
            shared: vec![],
        }))
    }
}

/// What folders of type `HRA` mean.
pub(crate) const READER: Reader = Reader {
    name: "HRA",
    mark: "hra_u",
    refused: &[("apply_GS", "train without it, or merge it with the `peft` package")],
    build: read,
};

fn read(config: &Config<'_>, _: &[Module<'_>]) -> Result<Adapter> {
    let hra = Hra { rank: config.usize("r", 8)?, ..Hra::default() };
    hra.check()?;
    Ok(Adapter::Weight(Arc::new(hra)))
}

impl Hra {
    fn even(&self) -> Result<()> {
        if self.rank.is_multiple_of(2) { Ok(()) } else { Err(refused(self.rank, "must be even".to_owned())) }
    }
}

fn refused(rank: usize, why: String) -> Error {
    Error::Param { method: Hra::CARD.name, param: "rank", value: rank.to_string(), why }
}

/// The unit columns and $T$.
fn compact(u: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let unit = normalised(u);
    let gram = unit.clone().transpose().matmul(unit.clone());
    let rank = gram.dims()[0];
    let double = eye(&gram) * 2.0;
    // Row i of (½I + N)·T = I, from the last: tᵢ = 2(eᵢ − Σ_{j>i} Nᵢⱼ tⱼ).
    let mut core = double.clone().narrow(0, rank - 1, 1);
    for i in (0..rank - 1).rev() {
        let above = gram.clone().narrow(0, i, 1).narrow(1, i + 1, rank - 1 - i);
        let row = double.clone().narrow(0, i, 1) - above.matmul(core.clone()) * 2.0;
        core = Tensor::cat(vec![row, core], 0);
    }
    (unit, core)
}

fn normalised(u: &Tensor<2>) -> Tensor<2> {
    // The bound stands under the root: there the gradient of a zero column is zero, outside it would be no number.
    u.clone() / u.clone().square().sum_dim(0).clamp_min(1e-24).sqrt()
}

fn eye(like: &Tensor<2>) -> Tensor<2> {
    Tensor::<2>::eye(like.dims()[0], &like.device()).cast(like.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIKE: fn() -> (DType, Device) = || (DType::F64, Device::flex());

    fn largest(x: Tensor<2>) -> f64 {
        x.abs().max().into_scalar()
    }

    #[test]
    fn the_compact_form_is_the_product_of_the_reflections() {
        for rank in [1, 2, 5] {
            let u = draw::uniform([6, rank], 1.0, &LIKE(), &mut Rng::new(0, "test", rank as u64));
            let (unit, core) = compact(&u);
            let identity = Tensor::<2>::eye(6, &Device::flex()).cast(DType::F64);
            let chain = (0..rank).fold(identity.clone(), |h, i| {
                let u = unit.clone().narrow(1, i, 1);
                h.matmul(identity.clone() - u.clone().matmul(u.transpose()) * 2.0)
            });
            let ours = identity - unit.clone().matmul(core).matmul(unit.transpose());
            assert!(largest(chain - ours) < 1e-14);
        }
    }

    #[test]
    fn a_zero_column_gives_no_nan() {
        let u = Tensor::<2>::zeros([3, 2], (&Device::flex(), DType::F64)).autodiff().require_grad();
        let hra = Hra { rank: 2, penalty: 1.0 };
        let mut gradients = hra.penalty(&HraParams { u: u.clone() }).unwrap().backward();
        assert_eq!(largest(u.grad_remove(&mut gradients).unwrap()), 0.0);
    }

    #[test]
    fn an_odd_rank_is_refused() {
        let error = Hra::from_table(&"rank = 3".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "hra: `rank` must be even, got `3`");
    }
}
