mod renaming;
mod whole;

use super::matching::{Matching, idle_patterns};
use super::{Config, Finding, KNOWN, Level, Module, OTHERS, READERS, Reader};
use crate::{Full, build};
use acclimate_core::{
    Adapter, AnyTensor, Error, Model, Patch, PatchFolder, PeftForm, PeftTensor, PeftType, Result, Rng, Site, SiteKind,
    nearest,
};
use renaming::{Renaming, renaming};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use whole::Whole;

/// Reads a patch folder for a model: one that acclimate has written, or one of the `peft` package.
///
/// Nothing is passed over in silence: every tensor must find its module, every module that the settings mean must have its tensors, and a
/// setting that would change what is computed is known or refused.
///
/// # Errors
/// Names the file, the key, tensor or module, and the remedy.
///
/// # Example
/// ```no_run
/// # fn open(model: &dyn acclimate_core::Model) -> acclimate_core::Result<()> {
/// let patch = acclimate_peft::load("my-adapter".as_ref(), model)?;
/// let pass = acclimate_core::Pass::new(&patch);
/// # Ok(())
/// # }
/// ```
pub fn load(folder: &Path, model: &dyn Model) -> Result<Patch> {
    let folder = PatchFolder::read(folder, &model.like().1)?;
    if folder.is_own() {
        let patch = folder.patch(&build)?;
        patch.check_base(model)?;
        return Ok(patch);
    }
    let examined = examine(&folder, model);
    match examined.findings.into_iter().find(|finding| finding.level == Level::Error) {
        Some(finding) => Err(finding.into()),
        None => examined.patch.ok_or_else(|| Error::format(folder.config_file(), "holds no adapter")),
    }
}

/// What a folder of the `peft` package is to a model.
#[derive(Debug)]
pub struct Examined {
    /// The patch; none where something is an error.
    pub patch: Option<Patch>,
    /// What was found on the way, errors first.
    pub findings: Vec<Finding>,
}

/// Reads a folder of the `peft` package for a model and tells everything that was found.
pub fn examine(folder: &PatchFolder, model: &dyn Model) -> Examined {
    let mut reading = Reading { folder, model, findings: vec![] };
    let patch = match reading.patch() {
        Ok(patch) => patch,
        Err(error) => {
            let what = error.to_string();
            let file = folder.config_file();
            let what = what.strip_prefix(&format!("{}: ", file.display())).map_or(what.clone(), str::to_owned);
            reading.find(Level::Error, "settings", file, what, "correct it, or save the adapter again");
            None
        }
    };
    let mut findings = reading.findings;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let broken = findings.first().is_some_and(|finding| finding.level == Level::Error);
    Examined { patch: patch.filter(|_| !broken), findings }
}

struct Reading<'a> {
    folder: &'a PatchFolder,
    model: &'a dyn Model,
    findings: Vec<Finding>,
}

/// A tensor of the file that belongs to a module.
struct Held<'a> {
    key: &'a str,
    module: &'a str,
    suffix: String,
}

impl<'a> Reading<'a> {
    fn find(
        &mut self,
        level: Level,
        code: &'static str,
        file: PathBuf,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding::new(level, code, file, what, remedy));
    }

    fn setting(&mut self, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Level::Error, code, self.folder.config_file(), what, remedy);
    }

    fn tensor(&mut self, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Level::Error, code, self.folder.weights_file(), what, remedy);
    }

    fn patch(&mut self) -> Result<Option<Patch>> {
        let (folder, model): (&'a PatchFolder, &'a dyn Model) = (self.folder, self.model);
        let file = folder.config_file();
        let map = folder.config.as_object().expect("checked when the folder was read");
        let config = Config { file: &file, map };
        let Some(reader) = self.reader(&config)? else { return Ok(None) };
        for (key, instead) in reader.refused {
            if config.asks(key) {
                self.setting("refused_setting", format!("`{key}` is set, which is not offered"), *instead);
            }
        }
        let matching = Matching::new(&config)?;

        let (held, rest) = self.sort_keys(reader);
        let sites: BTreeMap<&str, &Site> = model.sites().iter().map(|site| (site.name.as_str(), site)).collect();
        let modules: BTreeSet<&str> = held.iter().map(|held| held.module).collect();
        if modules.is_empty() {
            let what = format!("holds no tensor of type {}: no name contains `{}`", reader.name, reader.mark);
            self.tensor("no_tensors", what, "save the adapter again, from the model it was trained on");
            return Ok(None);
        }
        let renaming = renaming(&modules, &sites);
        let mut found: Vec<(&Site, String)> = vec![];
        for module in &modules {
            match renaming.to_ours(module).and_then(|name| sites.get(name.as_str()).copied()) {
                Some(site) if site.kind != SiteKind::Block => found.push((site, (*module).to_owned())),
                _ => self.lost_module(module, &renaming, &sites),
            }
        }
        // In the model's order: penalties and draws follow it.
        let order: BTreeMap<&str, usize> =
            model.sites().iter().enumerate().map(|(at, site)| (site.name.as_str(), at)).collect();
        found.sort_by_key(|(site, _)| order[site.name.as_str()]);
        if found.is_empty() {
            return Ok(None);
        }
        let list: Vec<Module<'_>> = found.iter().map(|(site, name)| Module { site, name }).collect();
        self.read_closely(&config, &matching, &list, &rest)?;
        let adapter = (reader.build)(&config, &list)?;
        self.compare_targets(&matching, &adapter, &renaming, &found);
        let mut patch = Patch::new();
        patch.base_model = config.text("base_model_name_or_path")?.map(str::to_owned);
        let (whole, biases) = self.whole_tensors(&matching, &config, &renaming, &sites, &rest, &found);
        self.refuse_tied(found.iter().map(|(site, _)| *site).chain(whole.iter().map(|whole| whole.site)));
        for (full, parts) in [(Full { weights: false, biases: true }, biases), (Full::default(), whole)] {
            let sites: Vec<Site> = parts.iter().map(|whole| whole.site.clone()).collect();
            if sites.is_empty() {
                continue;
            }
            let tensors = parts.iter().flat_map(|Whole { site, tensors }| {
                tensors.iter().map(|(field, tensor)| (*site, *field, tensor.clone()))
            });
            patch.add_trained(self.model, Adapter::Weight(Arc::new(full)), &sites, tensors)?;
        }
        self.typed(&mut patch, reader, adapter, &found, &held, &rest)?;
        Ok(Some(patch))
    }

    fn reader(&mut self, config: &Config<'_>) -> Result<Option<&'static Reader>> {
        let known: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
        let Some(name) = config.text("peft_type")? else {
            let what = "`peft_type` is missing".to_owned();
            self.setting("peft_type", what, format!("it must be one of {}", known.join(", ")));
            return Ok(None);
        };
        let reader = READERS.iter().find(|reader| reader.name == name);
        if reader.is_none() {
            let (what, remedy) = if OTHERS.contains(&name) {
                (
                    format!("`peft_type` is `{name}`, a method that acclimate does not have"),
                    format!("merge it with the `peft` package, or convert it there; offered are {}", known.join(", ")),
                )
            } else {
                let near = nearest(name, known.iter().copied()).join("`, `");
                (format!("`peft_type` is `{name}`, which is not known"), format!("the nearest are `{near}`"))
            };
            self.setting("peft_type", what, remedy);
        }
        Ok(reader)
    }

    /// The tensors of modules, and the keys of all others without the prefixes that the package puts before them.
    fn sort_keys(&mut self, reader: &Reader) -> (Vec<Held<'a>>, Vec<(&'a str, &'a str)>) {
        let folder: &'a PatchFolder = self.folder;
        let (mut held, mut rest) = (vec![], vec![]);
        let mut named = None;
        for key in folder.tensors.names() {
            let bare = key.strip_prefix("base_model.model.").or_else(|| key.strip_prefix("base_model.")).unwrap_or(key);
            let mark = format!(".{}", reader.mark);
            let Some(at) = bare.find(&mark) else {
                rest.push((key, bare));
                continue;
            };
            let (module, suffix) = (&bare[..at], &bare[at + 1..]);
            // In memory, and in files of a plain state dict, the adapter's name stands in the middle.
            let mut suffix = suffix.to_owned();
            if let Some(at) = suffix.find(".default") {
                suffix.replace_range(at..at + ".default".len(), "");
                named.get_or_insert(key);
            }
            held.push(Held { key, module, suffix });
        }
        if let Some(key) = named {
            let file = self.folder.weights_file();
            self.findings.push(Finding::new(
                Level::Warning,
                "adapter_name_in_keys",
                file,
                format!("tensor `{key}` has the adapter's name in it: the file is a plain state dict"),
                "it is read here, and other programs will pass over it; save it with `save_pretrained`",
            ));
        }
        (held, rest)
    }

    fn lost_module(&mut self, module: &str, renaming: &Renaming, sites: &BTreeMap<&str, &Site>) {
        let ours = renaming.to_ours(module).unwrap_or_else(|| module.to_owned());
        let (what, remedy) = if self.model.weights().has(&format!("{ours}.weight")) {
            (
                format!("an adapter stands at `{module}`, which this model has and does not compute with"),
                "it would change nothing; train again without that module, or use the model that computes with it",
            )
        } else {
            let near = nearest(&ours, sites.keys().copied()).join("`, `");
            (
                format!("an adapter stands at `{module}`, which this model does not have; the nearest are `{near}`"),
                "load the model that the adapter was trained on",
            )
        };
        self.tensor("unknown_module", what, remedy);
    }

    /// Settings that are not known, mean nothing here, or whose tensors were lost.
    fn read_closely(
        &mut self,
        config: &Config<'_>,
        matching: &Matching,
        modules: &[Module<'_>],
        rest: &[(&str, &str)],
    ) -> Result<()> {
        for key in config.map.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
            let near = nearest(key, KNOWN.iter().copied()).join("`, `");
            let what = format!("`{key}` is not a setting that is known; the nearest are `{near}`");
            self.find(Level::Warning, "unknown_setting", config.file.to_owned(), what, "it is passed over");
        }
        let names: Vec<&str> = modules.iter().map(|module| module.name).collect();
        for key in ["rank_pattern", "alpha_pattern"] {
            for pattern in idle_patterns(config, key, &names)? {
                let what = format!("`{key}`: `{pattern}` means none of the adapted modules");
                let remedy = "correct the pattern, a regular expression on names, or remove it";
                self.find(Level::Warning, "idle_pattern", config.file.to_owned(), what, remedy);
            }
        }
        let kept: Vec<&str> = rest.iter().filter_map(|(_, bare)| Some(bare.rsplit_once('.')?.0)).collect();
        for name in matching.idle_saved(&kept) {
            let what = format!("`modules_to_save` names `{name}`, and the file has no tensors for it");
            self.tensor("missing_tensor", what, "the file is incomplete; save the adapter again");
        }
        let bias = config.text("bias")?.unwrap_or("none");
        if bias != "none" && !rest.iter().any(|(_, bare)| bare.ends_with(".bias")) {
            let file = self.folder.weights_file();
            let what = format!("`bias` is `{bias}`, and the file has no biases");
            let remedy =
                "versions of the `peft` package up to 0.19.1 lose them; save the adapter again with `bias=\"all\"`";
            self.find(Level::Warning, "lost_biases", file, what, remedy);
        }
        Ok(())
    }

    /// That package adapts the input table of a tied model alone; here the table is one site.
    fn refuse_tied<'s>(&mut self, mut changed: impl Iterator<Item = &'s Site>) {
        let tied = self.model.vocabulary().filter(|site| site.kind == SiteKind::Embedding);
        if let Some(site) = changed.find(|site| tied.is_some_and(|tied| tied.name == site.name)) {
            let what = format!(
                "the folder changes `{}`, whose table is tied to the output: the `peft` package changes the input alone, \
                 acclimate both",
                site.name
            );
            self.tensor("tied_table", what, "train without that module, or untie the model first");
        }
    }

    /// Settings and tensors must mean the same modules.
    fn compare_targets(
        &mut self,
        matching: &Matching,
        adapter: &Adapter,
        renaming: &Renaming,
        found: &[(&Site, String)],
    ) {
        if !matching.says() {
            let (file, what) = (self.folder.config_file(), "`target_modules` is not set");
            let remedy = "the modules are taken from the tensors; other programs guess them from the model";
            self.find(Level::Warning, "no_targets", file, what, remedy);
            return;
        }
        let model = self.model;
        for (site, name) in found {
            if !matching.is_target(model, site, name) {
                let what = format!("an adapter stands at `{name}`, which `target_modules` and its kin do not mean");
                let remedy = "other programs drop it in silence; correct the settings, or save the adapter again";
                self.tensor("untargeted_module", what, remedy);
            }
        }
        let here: BTreeSet<&str> = found.iter().map(|(site, _)| site.name.as_str()).collect();
        let absent = |site: &&Site| adapter.accepts(site) && !here.contains(site.name.as_str());
        for site in model.sites().iter().filter(absent) {
            let name = renaming.to_theirs(&site.name);
            if matching.is_target(model, site, &name) {
                let what = format!("`target_modules` means `{name}`, and the file has no tensors for it");
                self.tensor("missing_tensor", what, "the file is incomplete; save the adapter again");
            }
        }
    }

    /// The part of the folder's type, with its tensors.
    fn typed(
        &mut self,
        patch: &mut Patch,
        reader: &Reader,
        adapter: Adapter,
        found: &[(&Site, String)],
        held: &[Held<'_>],
        rest: &[(&str, &str)],
    ) -> Result<()> {
        let sites: Vec<Site> = found.iter().map(|(site, _)| (*site).clone()).collect();
        let Adapter::Weight(method) = &adapter else { return Ok(()) };
        let form = match method.peft_at(&sites) {
            Some(PeftForm::Type(form)) => form,
            Some(PeftForm::Whole { .. }) => PeftType::norms(&sites),
            None => {
                let what = format!("type {} stands at modules where acclimate does not know it", reader.name);
                self.setting("modules", what, "narrow `target_modules`");
                return Ok(());
            }
        };
        let by_name: BTreeMap<(&str, &str), &Held<'_>> =
            held.iter().map(|held| ((held.module, held.suffix.as_str()), held)).collect();
        let mut used: BTreeSet<&str> = BTreeSet::new();
        let mut given = vec![];
        for ((site, module), tensors) in found.iter().zip(&form.sites) {
            for tensor in tensors {
                let Some(held) = by_name.get(&(module.as_str(), tensor.suffix)) else {
                    let what = format!("tensor `base_model.model.{module}.{}` is missing", tensor.suffix);
                    self.tensor("missing_tensor", what, "the file is incomplete; save the adapter again");
                    continue;
                };
                used.insert(held.key);
                self.check_shape(tensor, held.key);
                given.push((site, tensor, held.key));
            }
        }
        for held in held.iter().filter(|held| !used.contains(held.key)) {
            if let Some((site, _)) = found.iter().find(|(_, module)| module == held.module) {
                match held.suffix.rsplit('.').next() {
                    Some(field) if !["weight", "bias"].contains(&field) => {
                        self.companion(held.key, &format!("{}.{field}", site.name));
                    }
                    _ => self.extra(held.key),
                }
            }
        }
        let mut shared = vec![];
        for tensor in &form.shared {
            match rest.iter().find(|(_, bare)| *bare == tensor.suffix) {
                Some((key, _)) => {
                    self.check_shape(tensor, key);
                    shared.push((tensor, *key));
                }
                None => {
                    let what = format!("tensor `base_model.{}` is missing, which all modules share", tensor.suffix);
                    self.tensor("missing_projection", what, "save the adapter again with `save_projection=True`");
                }
            }
        }
        let of_all = |key: &str| key.starts_with("base_model.") && !key.starts_with("base_model.model.");
        for (key, bare) in rest.iter().filter(|(key, _)| of_all(key)) {
            if !form.shared.iter().any(|tensor| tensor.suffix == *bare) {
                self.extra(key);
            }
        }
        if self.findings.iter().any(|finding| finding.level == Level::Error) {
            return Ok(());
        }
        patch.add(self.model, adapter, &sites, &mut Rng::new(0, "peft", 0))?;
        let part = patch.parts().last().expect("just added").name.clone();
        let dtype = self.model.like().0;
        let places = given
            .into_iter()
            .map(|(site, tensor, key)| (format!("{}.{part}.{}", site.name, tensor.field), tensor, key, true));
        let shared = shared.into_iter().map(|(tensor, key)| (format!("{part}.{}", tensor.field), tensor, key, false));
        for (ours, tensor, key, trained) in places.chain(shared) {
            let params = if trained { &mut patch.params } else { &mut patch.buffers };
            let Some(own) = params.any(&ours) else { continue };
            let value = self.folder.tensors.any(key).expect("named by the file");
            let shape = own.shape();
            params.insert(ours, tensor.to_ours(key, value, &shape)?.cast(dtype));
        }
        Ok(())
    }

    /// The tensor under a key must have the shape that the settings give it.
    fn check_shape(&mut self, tensor: &PeftTensor, key: &str) {
        let shape = self.folder.tensors.any(key).map(AnyTensor::shape).unwrap_or_default();
        if shape == tensor.shape {
            return;
        }
        let what = format!("tensor `{key}` has shape {shape:?} where {:?} fits", tensor.shape);
        if shape.iter().rev().eq(&tensor.shape) {
            self.tensor(
                "transposed",
                what,
                "it is the transpose of what it should be; turn it, or save the adapter again",
            );
        } else {
            let remedy = "correct the settings (the rank, above all), or load the model it was trained on";
            self.tensor("shape", what, remedy);
        }
    }
}
