//! Patch folders as the `peft` package keeps them: what a method is called there, its settings and the names of its tensors.

use crate::{
    Adapter, AnyTensor, Error, Params, Patch, Result, Role, Site, SiteKind,
    patch::{Kind, Part},
    read_safetensors, write_safetensors, write_whole,
};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path, path::PathBuf};

/// The type of folders that the `peft` package has no method for.
const OWN: &str = "ACCLIMATE";

/// The entry of the tensor file that tells what the patch is made of; other programs pass over it.
const ENTRY: &str = "acclimate";

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// How the `peft` package keeps a method.
#[derive(Clone, Debug)]
pub enum PeftForm {
    /// A type of its own.
    Type(PeftType),
    /// Whole tensors of modules.
    Whole {
        /// Whether weights are kept.
        weights: bool,
        /// Whether biases are kept.
        biases: bool,
    },
}

/// A method under its name in the `peft` package.
#[derive(Clone, Debug)]
pub struct PeftType {
    /// `peft_type`.
    pub name: &'static str,
    /// Its settings.
    pub settings: Map<String, Value>,
    /// What `bias` says where the biases of its modules are trained too; nothing where the type has no such setting.
    pub own_bias: Option<&'static str>,
    /// The tensors of each site.
    pub sites: Vec<Vec<PeftTensor>>,
    /// The tensors that all sites share.
    pub shared: Vec<PeftTensor>,
}

impl PeftType {
    /// Whole norms.
    pub fn norms(sites: &[Site]) -> Self {
        let tensors = |site: &Site| {
            let one = |field, suffix| PeftTensor::new(field, suffix, [site.out]);
            let mut tensors = vec![one("weight", "ln_tuning_layers.weight")];
            tensors.extend(site.bias.then(|| one("bias", "ln_tuning_layers.bias")));
            tensors
        };
        let sites = sites.iter().map(tensors).collect();
        Self { name: "LN_TUNING", settings: Map::new(), own_bias: None, sites, shared: vec![] }
    }
}

/// One tensor of a method in the `peft` package.
#[derive(Clone, Debug)]
pub struct PeftTensor {
    /// The method's own field.
    pub field: &'static str,
    /// What follows the module's path in its name, such as `lora_A.weight`.
    pub suffix: &'static str,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Whether the matrix there is the transpose of ours.
    pub transposed: bool,
}

impl PeftTensor {
    /// A tensor that keeps its numbers in order.
    pub fn new(field: &'static str, suffix: &'static str, shape: impl Into<Vec<usize>>) -> Self {
        Self { field, suffix, shape: shape.into(), transposed: false }
    }

    /// A matrix that is turned: `shape` is that of the other side.
    pub fn turned(field: &'static str, suffix: &'static str, shape: [usize; 2]) -> Self {
        Self { transposed: true, ..Self::new(field, suffix, shape) }
    }

    /// Ours as theirs.
    fn to_theirs(&self, tensor: &AnyTensor) -> AnyTensor {
        self.turn(tensor).reshaped(&self.shape)
    }

    /// Theirs in the shape of ours.
    ///
    /// # Errors
    /// Names the tensor and both shapes.
    pub fn to_ours(&self, name: &str, tensor: &AnyTensor, shape: &[usize]) -> Result<AnyTensor> {
        if tensor.shape() != self.shape {
            let (what, expected) = (format!("tensor `{name}`"), format!("{:?}", self.shape));
            return Err(Error::Shape { what, expected, got: tensor.shape() });
        }
        Ok(self.turn(tensor).reshaped(shape))
    }

    fn turn(&self, tensor: &AnyTensor) -> AnyTensor {
        match tensor.get::<2>() {
            Some(matrix) if self.transposed => matrix.transpose().into(),
            _ => tensor.clone(),
        }
    }
}

/// Where a tensor of the patch stands in the file.
struct Entry {
    ours: String,
    theirs: String,
    form: Option<PeftTensor>,
}

/// A patch folder as read, before it is a patch.
#[derive(Debug)]
pub struct PatchFolder {
    /// `adapter_config.json`.
    pub config: Value,
    /// The tensors of `adapter_model.safetensors` under the names they have there.
    pub tensors: Params,
    folder: PathBuf,
    patch: Option<PatchFile>,
}

impl PatchFolder {
    /// Reads a folder that acclimate or the `peft` package has written.
    ///
    /// # Errors
    /// Names the file and what is missing or malformed.
    pub fn read(folder: &Path, device: &Device) -> Result<Self> {
        let (config, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
        if !config.exists()
            && let Some(inner) = inner_adapter(folder)
        {
            return Err(Error::format(
                folder,
                format!("has no `{CONFIG}`, but `{}` has; name that folder", inner.display()),
            ));
        }
        let text = std::fs::read_to_string(&config).map_err(|e| Error::io(&config, e))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| Error::format(&config, e.to_string()))?;
        if !value.is_object() {
            return Err(Error::format(&config, "is not a table of settings; save the adapter again"));
        }
        if !weights.exists() && folder.join("adapter_model.bin").exists() {
            let what = format!(
                "only `adapter_model.bin` is here, a pickle, which can run code when it is read; save the adapter again \
                 with `safe_serialization=True`, which writes `{WEIGHTS}`"
            );
            return Err(Error::format(folder, what));
        }
        let (tensors, mut metadata) = read_safetensors(&weights, device)?;
        let patch = metadata.remove(ENTRY).map(|text| serde_json::from_str(&text)).transpose();
        let patch = patch.map_err(|e| Error::format(&weights, format!("the entry `{ENTRY}`: {e}")))?;
        Ok(Self { config: value, tensors, folder: folder.to_owned(), patch })
    }

    /// Whether acclimate has written it: then it needs no model to be read.
    pub fn is_own(&self) -> bool {
        self.patch.is_some()
    }

    /// The settings file, for messages.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join(CONFIG)
    }

    /// The tensor file, for messages.
    pub fn weights_file(&self) -> PathBuf {
        self.folder.join(WEIGHTS)
    }

    /// The patch that acclimate has written here. `build` makes a method from its name and settings.
    ///
    /// # Errors
    /// Names the file and what is missing, unknown, of the wrong shape or changed since.
    pub fn patch(self, build: &dyn Fn(&str, &toml::Table) -> Result<Adapter>) -> Result<Patch> {
        let (config, weights) = (self.config_file(), self.weights_file());
        let Some(file) = self.patch else {
            let what = format!("has no entry `{ENTRY}`: it was written by another program; load it with its model");
            return Err(Error::format(weights, what));
        };
        let mut patch = Patch::new();
        (patch.roles, patch.base) = (file.roles, file.base_fingerprint);
        (patch.base_model, patch.base_tensors, patch.tied) = (file.base_model, file.base_tensors, file.tied);
        for part in file.parts {
            let kind = match part.method.as_str() {
                "head" => Kind::Head,
                method => Kind::Adapter(build(method, &part.settings)?),
            };
            patch.push(Part { name: part.name, sites: part.sites, kind });
        }
        let layout = Layout::of(&patch);
        layout.check(&patch, &config, &self.config)?;
        let entries = layout.entries(&patch.parts, file.tensors.keys().map(String::as_str));
        for Entry { ours, theirs, form } in &entries {
            let Some(tensor) = self.tensors.any(theirs) else {
                let what = format!("tensor `{theirs}` is missing; the patch folder is incomplete");
                return Err(Error::format(&weights, what));
            };
            let shape = &file.tensors[ours];
            let tensor = match form {
                Some(form) => form.to_ours(theirs, tensor, shape)?,
                None => tensor.clone(),
            };
            if tensor.shape() != *shape {
                let (what, expected) = (format!("tensor `{theirs}`"), format!("{shape:?}"));
                return Err(Error::Shape { what, expected, got: tensor.shape() });
            }
            match ours.strip_prefix(BUFFER) {
                Some(name) => patch.buffers.insert(name, tensor),
                None => patch.params.insert(ours, tensor),
            }
        }
        if let Some(name) = self.tensors.names().find(|name| !entries.iter().any(|entry| entry.theirs == *name)) {
            return Err(Error::format(&weights, format!("tensor `{name}` belongs to no part of the patch")));
        }
        patch.params = in_order(&patch.params, &file.order);
        Ok(patch)
    }
}

/// The first folder below that holds an adapter: the `peft` package keeps those that are not called `default` there.
fn inner_adapter(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut inner: Vec<PathBuf> = entries.filter(|path| path.join(CONFIG).exists()).collect();
    inner.sort();
    inner.into_iter().next()
}

fn in_order(params: &Params, order: &[String]) -> Params {
    let mut ordered = Params::default();
    for name in order.iter().map(String::as_str).chain(params.names()) {
        if let Some(tensor) = params.any(name) {
            ordered.insert(name, tensor.clone());
        }
    }
    ordered
}

/// Tensors that are not trained stand under this among the names of a patch.
const BUFFER: &str = "buffer.";

#[derive(Debug, Serialize, Deserialize)]
struct PartFile {
    method: String,
    name: String,
    settings: toml::Table,
    sites: Vec<Site>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PatchFile {
    base_model: Option<String>,
    base_fingerprint: Option<String>,
    base_tensors: BTreeMap<String, String>,
    tied: Option<String>,
    parts: Vec<PartFile>,
    roles: BTreeMap<String, Role>,
    /// Names of the trained tensors in the order of the patch, which sums over them follow; the tensor file sorts its own.
    order: Vec<String>,
    /// The shape of every tensor.
    tensors: BTreeMap<String, Vec<usize>>,
}

impl Patch {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into a folder, each whole or not at all. Where the `peft` package has
    /// the method the folder is one of its own: a head stands beside what it reads, and so does what only acclimate knows.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let parts = self.parts.iter().map(|part| PartFile {
            method: part.method().to_owned(),
            name: part.name.clone(),
            settings: part.settings(),
            sites: part.sites.clone(),
        });
        let mut all = self.params.clone();
        for (name, tensor) in self.buffers.iter() {
            all.insert(format!("{BUFFER}{name}"), tensor.clone());
        }
        let file = PatchFile {
            base_model: self.base_model.clone(),
            base_fingerprint: self.base.clone(),
            base_tensors: self.base_tensors.clone(),
            tied: self.tied.clone(),
            parts: parts.collect(),
            roles: self.roles.clone(),
            order: self.params.names().map(str::to_owned).collect(),
            tensors: all.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape())).collect(),
        };
        let layout = Layout::of(self);
        let mut tensors = Params::default();
        for Entry { ours, theirs, form } in layout.entries(&self.parts, all.names()) {
            let tensor = all.any(&ours).expect("entries are made from these names");
            tensors.insert(theirs, form.map_or_else(|| tensor.clone(), |form| form.to_theirs(tensor)));
        }
        let text = serde_json::to_string(&file).expect("strings, numbers and lists");
        let metadata = [("format".to_owned(), "pt".to_owned()), (ENTRY.to_owned(), text)];
        write_safetensors(&folder.join(WEIGHTS), &tensors, metadata.into())?;
        let config = serde_json::to_string_pretty(&layout.config(self)).expect("strings, numbers and lists");
        write_whole(&folder.join(CONFIG), config.as_bytes())
    }

    /// Reads what [`Patch::save`] wrote. `build` makes a method from its name and settings.
    ///
    /// # Errors
    /// Names the file and what is missing, unknown or of the wrong shape.
    pub fn load(folder: &Path, device: &Device, build: &dyn Fn(&str, &toml::Table) -> Result<Adapter>) -> Result<Self> {
        PatchFolder::read(folder, device)?.patch(build)
    }
}

/// How a patch is laid out in its folder: the one part with a type of its own in the `peft` package, if all the others fit around it.
struct Layout {
    /// The part and its form; none where the folder is of our own type.
    part: Option<(usize, PeftType)>,
    /// For each part that is kept as whole tensors, whether weights are.
    whole: BTreeMap<usize, bool>,
    bias: &'static str,
}

impl Layout {
    fn of(patch: &Patch) -> Self {
        // That package would adapt the input table of a tied model alone.
        let tied = patch.tied.as_ref().filter(|tied| patch.touches(tied));
        let layout = if tied.is_some() { None } else { Self::peft(&patch.parts) };
        layout.unwrap_or(Self { part: None, whole: BTreeMap::new(), bias: "none" })
    }

    fn peft(parts: &[Part]) -> Option<Self> {
        let (mut typed, mut whole) = (None, BTreeMap::new());
        for (at, part) in parts.iter().enumerate() {
            let Kind::Adapter(adapter) = &part.kind else { continue };
            let Adapter::Weight(method) = adapter else { return None };
            match method.peft_at(&part.sites)? {
                PeftForm::Type(form) if typed.is_none() => typed = Some((at, form)),
                PeftForm::Type(_) => return None,
                PeftForm::Whole { weights, biases } => {
                    // A module is saved with all its tensors or with its bias alone.
                    let complete = biases || part.sites.iter().all(|site| !site.bias);
                    // With a batch norm that package wants its statistics, which a patch does not have.
                    let batch = part.sites.iter().any(|site| site.kind == SiteKind::BatchNorm);
                    if weights && (!complete || batch) {
                        return None;
                    }
                    whole.insert(at, weights);
                }
            }
        }
        let Some((at, form)) = typed else { return Self::norms(parts, &whole) };
        let targets: Vec<&str> = names(&parts[at]);
        let (mut bias, mut saved) = ("none", vec![]);
        for (&part, &weights) in &whole {
            for site in &parts[part].sites {
                let targeted = targets.contains(&site.name.as_str());
                // Two copies of one tensor, or a copy over an adapted weight, is nothing that package knows.
                if saved.contains(&site.name.as_str()) || (weights && targeted) {
                    return None;
                }
                saved.push(&site.name);
                if !weights {
                    bias = if targeted && bias != "all" { form.own_bias? } else { form.own_bias.and(Some("all"))? };
                }
            }
        }
        Some(Self { part: Some((at, form)), whole, bias })
    }

    /// A patch of whole norms alone has a type of its own.
    fn norms(parts: &[Part], whole: &BTreeMap<usize, bool>) -> Option<Self> {
        let (&at, &weights) = whole.iter().next()?;
        if whole.len() != 1 || !weights || !parts[at].sites.iter().all(|site| site.kind == SiteKind::Norm) {
            return None;
        }
        let form = PeftType::norms(&parts[at].sites);
        Some(Self { part: Some((at, form)), whole: BTreeMap::new(), bias: "none" })
    }

    /// Names in the file for the names of a patch.
    fn entries<'a>(&self, parts: &[Part], tensors: impl Iterator<Item = &'a str>) -> Vec<Entry> {
        let Some((at, form)) = &self.part else {
            return tensors.map(|name| Entry { ours: name.to_owned(), theirs: name.to_owned(), form: None }).collect();
        };
        let mut known: BTreeMap<String, (String, PeftTensor)> = BTreeMap::new();
        for (site, tensors) in parts[*at].sites.iter().zip(&form.sites) {
            for tensor in tensors {
                let ours = format!("{}.{}.{}", site.name, parts[*at].name, tensor.field);
                known.insert(ours, (format!("base_model.model.{}.{}", site.name, tensor.suffix), tensor.clone()));
            }
        }
        for tensor in &form.shared {
            let ours = format!("{BUFFER}{}.{}", parts[*at].name, tensor.field);
            known.insert(ours, (format!("base_model.{}", tensor.suffix), tensor.clone()));
        }
        let targets = names(&parts[*at]);
        for (&part, &weights) in &self.whole {
            for site in &parts[part].sites {
                let layer = if !weights && targets.contains(&site.name.as_str()) { ".base_layer" } else { "" };
                let path = format!("base_model.model.{}{layer}", site.name);
                let ours = |field: &str| format!("{}.{}.{field}", site.name, parts[part].name);
                let weight = PeftTensor::new("weight", "weight", site.weight_shape());
                known.insert(ours("weight"), (format!("{path}.weight"), weight));
                known.insert(ours("bias"), (format!("{path}.bias"), PeftTensor::new("bias", "bias", [site.out])));
            }
        }
        let entry = |name: &str| match known.remove(name) {
            Some((theirs, form)) => Entry { ours: name.to_owned(), theirs, form: Some(form) },
            None => Entry { ours: name.to_owned(), theirs: name.to_owned(), form: None },
        };
        tensors.map(entry).collect()
    }

    fn config(&self, patch: &Patch) -> Value {
        let Some((at, form)) = &self.part else {
            let parts = patch
                .parts
                .iter()
                .map(|part| json!({ "method": part.method(), "settings": part.settings(), "sites": names(part) }));
            let parts: Vec<Value> = parts.collect();
            return json!({ "base_model_name_or_path": patch.base_model, "parts": parts, "peft_type": OWN });
        };
        let saved = self.whole.iter().filter(|(_, weights)| **weights).flat_map(|(&part, _)| names(&patch.parts[part]));
        let saved: Vec<&str> = saved.collect();
        let mut config = form.settings.clone();
        let mut put = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
        put("auto_mapping", Value::Null);
        put("base_model_name_or_path", json!(patch.base_model));
        put("inference_mode", json!(true));
        put("modules_to_save", if saved.is_empty() { Value::Null } else { json!(saved) });
        put("peft_type", json!(form.name));
        put("revision", Value::Null);
        put("target_modules", json!(names(&patch.parts[*at])));
        put("task_type", Value::Null);
        if form.own_bias.is_some() {
            put("bias", json!(self.bias));
        }
        config.sort_keys();
        Value::Object(config)
    }

    /// Refuses settings that were changed by hand: they would say one thing and the tensors' own entry another.
    fn check(&self, patch: &Patch, file: &Path, found: &Value) -> Result<()> {
        let own = self.config(patch);
        let wanted = own.as_object().into_iter().flatten().filter(|(key, _)| *key != "base_model_name_or_path");
        for (key, value) in wanted {
            let other = found.get(key).unwrap_or(&Value::Null);
            if other != value {
                let what = format!(
                    "`{key}` is {other}, and the patch was saved with {value}; set it back, or tune with the other value"
                );
                return Err(Error::format(file, what));
            }
        }
        Ok(())
    }
}

fn names(part: &Part) -> Vec<&str> {
    part.sites.iter().map(|site| site.name.as_str()).collect()
}
