//! Any patch on weights as a plain LoRA, with what that loses.

use acclimate_core::{
    Adapter, AnyTensor, AnyWeight, Error, HeadStart, Matrix, Method, Model, Patch, Result, Rng, Site, SiteKind,
    affine_at,
};
use acclimate_peft::{Full, Lora};
use burn::tensor::Tensor;
use nalgebra::DMatrix;
use serde::Serialize;
use std::sync::Arc;

/// How large the ranks are.
#[derive(Clone, Copy, Debug)]
pub enum Ranks {
    /// The same everywhere, or the smaller side where that is less.
    Fixed(usize),
    /// At each site the smallest that keeps this share of the change, `Σσᵢ²` over those kept by that over all.
    Share(f64),
}

/// What a conversion makes of one site.
#[derive(Clone, Debug, Serialize)]
pub struct SiteLoss {
    /// The site.
    pub site: String,
    /// The rank there.
    pub rank: usize,
    /// The change beside the weight, `‖ΔW‖ / ‖W‖`.
    pub change: f64,
    /// The part of the change that is lost, `‖ΔW − BA‖ / ‖ΔW‖`.
    pub lost: f64,
}

/// A patch as a LoRA.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The LoRA; norms and biases that were changed are kept whole beside it.
    pub patch: Patch,
    /// Each site of the LoRA, in the model's order.
    pub sites: Vec<SiteLoss>,
}

/// The nearest LoRA to a patch in the Frobenius norm, site by site: the largest singular values of each change. Numbers are found in f64.
///
/// # Errors
/// A part that does not act on weights, a packed weight, a share outside 0 to 1, or a rank of zero.
pub fn to_lora(patch: &Patch, model: &dyn Model, ranks: Ranks) -> Result<Conversion> {
    match ranks {
        Ranks::Fixed(0) => return Err(Error::Other("`rank` must be at least 1, got `0`".to_owned())),
        Ranks::Share(share) if !(share > 0.0 && share <= 1.0) => {
            return Err(Error::Other(format!("`keep` must be above 0 and at most 1, got `{share}`")));
        }
        _ => {}
    }
    patch.check_mergeable()?;
    let (mut found, mut whole, mut biases, mut losses) = (vec![], vec![], vec![], vec![]);
    for site in model.sites().iter().filter(|site| patch.touches(&site.name)) {
        let base = affine_at(model, site)?;
        if matches!(base.weight, Matrix::Packed(_)) {
            return Err(Error::Unsupported {
                who: "a conversion".to_owned(),
                what: format!("read `{}`, whose weight is packed", site.name),
                instead: "load the model with `--base dense`".to_owned(),
            });
        }
        let adapted = patch.adapted(&base, &site.name)?;
        let bias = adapted
            .bias
            .clone()
            .filter(|after| base.bias.as_ref().is_some_and(|before| numbers(after.clone()) != numbers(before.clone())));
        let (before, after) = (base.dense(), adapted.dense());
        let fits = matches!(site.kind, SiteKind::Linear | SiteKind::Conv { .. } | SiteKind::Embedding);
        if !fits {
            whole.push((site.clone(), after, adapted.bias));
            continue;
        }
        if let Some(bias) = bias {
            biases.push((site.clone(), bias));
        }
        let [rows, columns] = before.dims();
        let size = total_square(&numbers(before.clone())).sqrt();
        let change = DMatrix::from_row_slice(rows, columns, &difference(before, after));
        let length = change.norm();
        if length == 0.0 {
            continue;
        }
        let (b, a) = nearest_product(&change, ranks);
        let (rank, lost) = (a.nrows(), (&change - &b * &a).norm() / length);
        losses.push(SiteLoss { site: site.name.clone(), rank, change: length / size.max(f64::MIN_POSITIVE), lost });
        found.push((site.clone(), a, b));
    }
    let patch = assemble(patch, model, &found, &whole, &biases)?;
    Ok(Conversion { patch, sites: losses })
}

/// The product of thin matrices `[m, r]` and `[r, n]` that is nearest to a matrix: singular vectors from the smaller of the two Gram
/// matrices.
fn nearest_product(change: &DMatrix<f64>, ranks: Ranks) -> (DMatrix<f64>, DMatrix<f64>) {
    let tall = change.nrows() >= change.ncols();
    let gram = if tall { change.transpose() * change } else { change * change.transpose() };
    let side = gram.nrows();
    let eigen = gram.symmetric_eigen();
    let mut order: Vec<usize> = (0..side).collect();
    order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
    let total: f64 = eigen.eigenvalues.iter().map(|x| x.max(0.0)).sum();
    let rank = match ranks {
        Ranks::Fixed(rank) => rank.min(side),
        Ranks::Share(share) => {
            let mut kept = 0.0;
            let enough = order.iter().position(|&i| {
                kept += eigen.eigenvalues[i].max(0.0);
                kept >= share * total
            });
            enough.map_or(side, |at| at + 1)
        }
    };
    let columns: Vec<_> = order[..rank].iter().map(|&i| eigen.eigenvectors.column(i)).collect();
    let vectors = DMatrix::from_columns(&columns);
    if tall { (change * &vectors, vectors.transpose()) } else { (vectors.clone(), vectors.transpose() * change) }
}

type Factors = (Site, DMatrix<f64>, DMatrix<f64>);

fn assemble(
    old: &Patch,
    model: &dyn Model,
    found: &[Factors],
    whole: &[(Site, Tensor<2>, Option<Tensor<1>>)],
    biases: &[(Site, Tensor<1>)],
) -> Result<Patch> {
    let (dtype, device) = model.like();
    let mut patch = Patch::new();
    patch.base_model = old.base_model.clone();
    let rank = found.iter().map(|(_, a, _)| a.nrows()).max().unwrap_or(1);
    let mut lora = Lora { rank, alpha: rank as f64, ..Lora::default() };
    for (site, a, _) in found.iter().filter(|(_, a, _)| a.nrows() != rank) {
        lora.rank_pattern.insert(site.name.clone(), a.nrows());
        lora.alpha_pattern.insert(site.name.clone(), a.nrows() as f64);
    }
    lora.check()?;
    let mut add = |method: Arc<dyn AnyWeight>, tensors: Vec<(&Site, &str, AnyTensor)>| -> Result<()> {
        let mut sites: Vec<Site> = tensors.iter().map(|(site, ..)| (*site).clone()).collect();
        sites.dedup();
        if sites.is_empty() { Ok(()) } else { patch.add_trained(model, Adapter::Weight(method), &sites, tensors) }
    };
    let biases = biases.iter().map(|(site, bias)| (site, "bias", bias.clone().into())).collect();
    add(Arc::new(Full { weights: false, biases: true }), biases)?;
    let whole = whole.iter().flat_map(|(site, weight, bias)| {
        let bias = bias.clone().map(|bias| (site, "bias", bias.into()));
        std::iter::once((site, "weight", weight.clone().into())).chain(bias)
    });
    add(Arc::new(Full::default()), whole.collect())?;
    let tensor = |matrix: &DMatrix<f64>| {
        let values = matrix.transpose().as_slice().to_vec();
        AnyTensor::from_f64s(values, &[matrix.nrows(), matrix.ncols()], dtype, &device)
    };
    let low = found.iter().flat_map(|(site, a, b)| [(site, "a", tensor(a)), (site, "b", tensor(b))]);
    add(Arc::new(lora), low.collect())?;
    if let (true, Some(weight)) = (old.has_head(), old.params.any("head.weight")) {
        patch.add_head(model, weight.shape()[0], HeadStart::Zero, &mut Rng::new(0, "convert", 0));
        for name in ["head.weight", "head.bias"] {
            if let Some(tensor) = old.params.any(name) {
                patch.params.insert(name, tensor.clone());
            }
        }
    }
    Ok(patch)
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    AnyTensor::from(tensor).to_f64s()
}

fn difference(before: Tensor<2>, after: Tensor<2>) -> Vec<f64> {
    numbers(after).iter().zip(numbers(before)).map(|(after, before)| after - before).collect()
}

fn total_square(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::Targets;
    use acclimate_models::tiny;
    use burn::tensor::{DType, Device};

    fn moved(method: &str, settings: &str, targets: &str) -> (Box<dyn Model>, Patch) {
        let model = tiny::bert(1, DType::F64);
        let mut patch = Patch::new();
        let adapter = acclimate_peft::build(method, &settings.parse().unwrap()).unwrap();
        let targets = Targets::Word(targets.to_owned());
        acclimate_peft::place(&mut patch, &model, method, adapter, Some(&targets), &mut Rng::new(0, "t", 0)).unwrap();
        let mut rng = Rng::new(1, "t", 0);
        patch.params = patch.params.map(|_, tensor| {
            let noise = rng.uniform_tensor(&tensor.shape(), 0.2, DType::F64, &Device::flex());
            AnyTensor::from_elements(tensor.elements() + noise.elements())
        });
        (Box::new(model), patch)
    }

    fn apart(model: &dyn Model, one: &Patch, other: &Patch) -> f64 {
        let (one, other) = (one.merge(model).unwrap(), other.merge(model).unwrap());
        one.reduce(&other, |a, b| (a - b).square()).sqrt()
    }

    #[test]
    fn a_lora_comes_back_as_itself() {
        let (model, patch) = moved("lora", "rank = 3", "linear");
        let conversion = to_lora(&patch, model.as_ref(), Ranks::Fixed(3)).unwrap();
        assert!(conversion.sites.iter().all(|site| site.lost < 1e-7 && site.rank == 3), "{:?}", conversion.sites);
        assert!(apart(model.as_ref(), &patch, &conversion.patch) < 1e-6);
    }

    #[test]
    fn reflections_have_the_rank_of_their_number() {
        let (model, patch) = moved("hra", "rank = 4", "linear");
        let conversion = to_lora(&patch, model.as_ref(), Ranks::Share(1.0 - 1e-12)).unwrap();
        assert!(conversion.sites.iter().all(|site| site.rank <= 4 && site.lost < 1e-5), "{:?}", conversion.sites);
    }

    #[test]
    fn what_is_lost_is_what_the_last_singular_values_hold() {
        let (model, patch) = moved("dora", "rank = 2", "linear");
        let conversion = to_lora(&patch, model.as_ref(), Ranks::Fixed(2)).unwrap();
        for loss in &conversion.sites {
            let site = model.sites().iter().find(|site| site.name == loss.site).unwrap();
            let base = affine_at(model.as_ref(), site).unwrap();
            let change = difference(base.dense(), patch.adapted(&base, &site.name).unwrap().dense());
            let values = DMatrix::from_row_slice(site.out, site.input, &change).singular_values();
            let tail: f64 = values.iter().skip(2).map(|x| x * x).sum();
            let expected = (tail / values.norm_squared()).sqrt();
            assert!((loss.lost - expected).abs() < 1e-6, "{}: {} and {expected}", loss.site, loss.lost);
        }
    }

    #[test]
    fn scaled_biases_and_norms_are_kept_whole() {
        let (model, patch) = moved("ia3", "input_targets = []", "linear");
        let conversion = to_lora(&patch, model.as_ref(), Ranks::Fixed(64)).unwrap();
        assert!(apart(model.as_ref(), &patch, &conversion.patch) < 1e-6);
        let (model, patch) = moved("norm_tuning", "", "norm");
        let conversion = to_lora(&patch, model.as_ref(), Ranks::Fixed(1)).unwrap();
        assert!(conversion.sites.is_empty() && apart(model.as_ref(), &patch, &conversion.patch) == 0.0);
    }

    #[test]
    fn what_acts_on_states_is_refused() {
        let (model, patch) = moved("houlsby", "bottleneck = 2", "block");
        let error = to_lora(&patch, model.as_ref(), Ranks::Fixed(1)).unwrap_err().to_string();
        assert!(error.starts_with("houlsby cannot be merged"), "{error}");
    }
}
