//! What a folder keeps whole: modules of `modules_to_save`, biases, and copies of the model's own tensors.

use super::{Config, Matching, Reading, Renaming};
use acclimate_core::{AnyTensor, Site, SiteKind, affine_at};
use std::collections::{BTreeMap, BTreeSet};

/// Tensors of a site that are kept whole.
pub(super) struct Whole<'a> {
    pub(super) site: &'a Site,
    pub(super) tensors: Vec<(&'static str, AnyTensor)>,
}

impl<'a> Whole<'a> {
    fn keep(list: &mut Vec<Self>, site: &'a Site, field: &'static str, tensor: AnyTensor) {
        match list.iter_mut().find(|whole| whole.site.name == site.name) {
            Some(whole) => whole.tensors.push((field, tensor)),
            None => list.push(Self { site, tensors: vec![(field, tensor)] }),
        }
    }
}

impl<'a> Reading<'a> {
    /// What the folder keeps whole: tensors of `modules_to_save`, and biases.
    pub(super) fn whole_tensors<'s>(
        &mut self,
        matching: &Matching,
        config: &Config<'_>,
        renaming: &Renaming,
        sites: &BTreeMap<&str, &'s Site>,
        rest: &[(&str, &str)],
        found: &[(&Site, String)],
    ) -> (Vec<Whole<'s>>, Vec<Whole<'s>>) {
        let targets: BTreeSet<&str> = found.iter().map(|(site, _)| site.name.as_str()).collect();
        let bias = config.get("bias").and_then(|value| value.as_str()).unwrap_or("none") != "none";
        let (mut whole, mut biases) = (vec![], vec![]);
        for &(key, bare) in rest {
            if key.starts_with("base_model.") && !key.starts_with("base_model.model.") {
                continue; // A tensor that all modules share.
            }
            let tensor = self.folder.tensors.any(key).expect("named by the file").clone();
            let Some((path, field)) = bare.rsplit_once('.') else {
                self.extra(key);
                continue;
            };
            let base_layer = path.strip_suffix(".base_layer");
            let module = base_layer.unwrap_or(path);
            let ours = renaming.to_ours(module).unwrap_or_else(|| module.to_owned());
            let field = match field {
                "weight" => "weight",
                "bias" => "bias",
                other => {
                    self.companion(key, &format!("{ours}.{other}"));
                    continue;
                }
            };
            let Some(&site) = sites.get(ours.as_str()).filter(|site| site.kind != SiteKind::Block) else {
                // A tensor that the model keeps and does not compute with changes nothing here.
                if !self.model.weights().has(&format!("{ours}.{field}")) {
                    self.lost_whole(key, module);
                }
                continue;
            };
            let shape = if field == "weight" { site.weight_shape() } else { vec![site.out] };
            if tensor.shape() != shape {
                let what = format!("tensor `{key}` has shape {:?}, the model's has {shape:?}", tensor.shape());
                self.tensor(
                    "shape",
                    what,
                    "load the model that the adapter was trained on; a resized vocabulary is not offered",
                );
                continue;
            }
            let matrix = match field {
                "weight" => tensor.reshaped(&[site.out, site.input]),
                _ => tensor,
            };
            if matching.is_kept(module) {
                Whole::keep(&mut whole, site, field, matrix);
            } else if field == "bias" && bias {
                Whole::keep(&mut biases, site, field, matrix);
            } else if !self.equals_base(site, field, &matrix) {
                let what = format!("tensor `{key}` differs from the model's and no setting says that it is trained");
                let remedy = if targets.contains(site.name.as_str()) {
                    "load the model that the adapter was trained on"
                } else {
                    "name its module in `modules_to_save`, or remove the tensor"
                };
                self.tensor("changed_base", what, remedy);
            }
        }
        for Whole { site, tensors } in &whole {
            for field in if site.bias { &["weight", "bias"][..] } else { &["weight"] } {
                if !tensors.iter().any(|(given, _)| given == field) {
                    let name = renaming.to_theirs(&site.name);
                    let what = format!("`modules_to_save` keeps `{name}`, and the file has no `{field}` for it");
                    self.tensor("missing_tensor", what, "the file is incomplete; save the adapter again");
                }
            }
        }
        let at = |whole: &Whole<'_>| self.model.sites().iter().position(|other| other.name == whole.site.name);
        whole.sort_by_key(at);
        biases.sort_by_key(at);
        (whole, biases)
    }

    fn equals_base(&self, site: &Site, field: &str, tensor: &AnyTensor) -> bool {
        let Ok(base) = affine_at(self.model, site) else { return false };
        let base: Option<AnyTensor> = match field {
            "weight" => Some(base.dense().into()),
            _ => base.bias.map(Into::into),
        };
        base.is_some_and(|base| base.cast(tensor.dtype()).to_f64s() == tensor.to_f64s())
    }

    /// A tensor that stands beside those that can be trained: a copy of a batch norm brings its running statistics along.
    pub(super) fn companion(&mut self, key: &str, ours: &str) {
        let (own, given) = (self.model.weights().any(ours), self.folder.tensors.any(key));
        match own.zip(given) {
            Some((own, given)) if own.cast(given.dtype()).to_f64s() == given.to_f64s() => {}
            Some(_) => {
                let what = format!("tensor `{key}` differs from the model's, and is none that a patch changes");
                self.tensor("changed_base", what, "put it into the model and load that, or remove the tensor");
            }
            None => self.extra(key),
        }
    }

    pub(super) fn extra(&mut self, key: &str) {
        let what = format!("tensor `{key}` belongs to nothing that the settings ask for");
        self.tensor("extra_tensor", what, "remove it, or save the adapter again");
    }

    fn lost_whole(&mut self, key: &str, module: &str) {
        let what = format!("tensor `{key}` is of a module `{module}`, which this model does not have");
        self.tensor("unknown_module", what, "load the model that the adapter was trained on, with the same head");
    }
}
