//! What every adapter promises: laws over small transformers and convolutional nets, with wide and tall weights.

use crate::{Check, trials, why};
use acclimate_core::{
    ActivationAdapter, Adapter, Affine, AnyTensor, AnyWeight, Card, Error, Inputs, Model, Params, Pass, Patch, Place,
    Promise, Rng, Site, Targets, WeightAdapter, affine_at,
};
use acclimate_models::tiny;
use burn::tensor::{DType, Device, Tensor};
use libtest_mimic::Trial;
use std::sync::Arc;

/// Double precision over some dozen operations, each with a few roundings of numbers of order one.
const EXACT: f64 = 1e-10;
/// Single precision, relative to the largest output.
const SINGLE: f64 = 1e-5;

/// Builds a method from its name and settings.
type Build = fn(&str, &toml::Table) -> acclimate_core::Result<Adapter>;

/// An adapter under one of its cases.
pub struct AdapterSubject {
    card: Card,
    case: &'static str,
    build: Build,
}

impl AdapterSubject {
    /// A method or preset of the family under one of its cases.
    pub fn named(card: Card, case: &'static str) -> Self {
        Self { card, case, build: acclimate_peft::build }
    }

    /// A weight adapter that is in no registry.
    pub fn weight<A: WeightAdapter>(case: &'static str) -> Self {
        Self { card: A::CARD, case, build: |_, table| Ok(Adapter::Weight(Arc::new(A::from_table(table)?))) }
    }

    /// An activation adapter that is in no registry.
    pub fn activation<A: ActivationAdapter>(case: &'static str) -> Self {
        Self { card: A::CARD, case, build: |_, table| Ok(Adapter::Activation(Arc::new(A::from_table(table)?))) }
    }

    fn settings(&self) -> Result<toml::Table, String> {
        self.case.parse().map_err(why)
    }

    fn with(&self, settings: &toml::Table) -> acclimate_core::Result<Adapter> {
        (self.build)(self.card.name, settings)
    }

    fn adapter(&self) -> Result<Adapter, String> {
        self.with(&self.settings()?).map_err(why)
    }

    /// The method as a weight adapter; the checks that ask for it apply to such methods only.
    fn weights(&self) -> Result<Arc<dyn AnyWeight>, String> {
        match self.adapter()? {
            Adapter::Weight(method) => Ok(method),
            _ => Err("the card promises a law of weights, the method changes none".to_owned()),
        }
    }

    /// The models that have a place for the method.
    fn hosts(&self, dtype: DType) -> Result<Vec<Host>, String> {
        let adapter = self.adapter()?;
        let transformer = Host::new(tiny::bert(1, dtype), tiny::tokens(2, &[5, 3, 7], dtype));
        let convolutional = Host::new(tiny::resnet(3, dtype), tiny::images(4, 3, dtype));
        let mut hosts = vec![transformer, convolutional];
        hosts.iter_mut().for_each(|host| host.sites = self.sites(host.model.as_ref(), &adapter));
        hosts.retain(|host| !host.sites.is_empty());
        if hosts.is_empty() { Err("no model has a site that the method accepts".to_owned()) } else { Ok(hosts) }
    }

    /// The default targets where the model has them, otherwise every site that the method accepts.
    fn sites(&self, model: &dyn Model, adapter: &Adapter) -> Vec<Site> {
        let accepted = |sites: &[Site]| -> Vec<Site> { sites.iter().filter(|s| adapter.accepts(s)).cloned().collect() };
        let targets = Targets::from(self.card.targets).select(model.sites()).unwrap_or_default();
        let own = accepted(&targets);
        if own.is_empty() { accepted(model.sites()) } else { own }
    }

    fn start(&self, host: &Host, seed: u64) -> Result<Patch, String> {
        let mut patch = Patch::new();
        let mut rng = Rng::new(seed, "patch", 0);
        patch.add(host.model.as_ref(), self.adapter()?, &host.sites, &mut rng).map_err(why)?;
        Ok(patch)
    }

    /// A patch away from its start: nothing is zero, nothing is special.
    fn stirred(&self, host: &Host, seed: u64) -> Result<Patch, String> {
        let patch = self.start(host, seed)?;
        let noise = |name: &str, x: &AnyTensor| {
            let mut rng = Rng::new(seed, &format!("noise {name}"), 0);
            let drawn = rng.normal_tensor(&x.shape(), 0.3, x.dtype(), &x.device());
            AnyTensor::from_elements(x.elements() + drawn.elements())
        };
        Ok(patch.with_params(patch.params.map(noise)))
    }

    /// Calls `law` with every adapted weight, before and after, in double precision.
    fn each_weight(&self, mut law: impl FnMut(&Site, Affine, Affine) -> Result<(), String>) -> Result<(), String> {
        for host in self.hosts(DType::F64)? {
            let patch = self.stirred(&host, 1)?;
            for site in &host.sites {
                let base = affine_at(host.model.as_ref(), site).map_err(why)?;
                let adapted = patch.adapted(&base, &site.name).map_err(why)?;
                law(site, base, adapted)?;
            }
        }
        Ok(())
    }
}

/// A small model, inputs for it and the sites where the method stands.
struct Host {
    model: Box<dyn Model>,
    inputs: Inputs,
    sites: Vec<Site>,
}

impl Host {
    fn new(model: impl Model + 'static, inputs: Inputs) -> Self {
        Self { model: Box::new(model), inputs, sites: vec![] }
    }

    fn output(&self, model: &dyn Model, pass: &Pass<'_>) -> Result<AnyTensor, String> {
        let outputs = model.forward(&self.inputs, pass).map_err(why)?;
        Ok(outputs.logits.unwrap_or(outputs.features).into())
    }

    fn answer(&self, pass: &Pass<'_>) -> Result<Vec<f64>, String> {
        Ok(self.output(self.model.as_ref(), pass)?.to_f64s())
    }

    /// A number that depends on every output, and the method's own penalty.
    fn loss(&self, patch: &Patch, pass: &Pass<'_>) -> Result<Tensor<1>, String> {
        let output = self.output(self.model.as_ref(), pass)?;
        let weights = Rng::new(9, "loss", 0).normal_tensor(&output.shape(), 1.0, output.dtype(), &output.device());
        let loss = (output.elements() * weights.elements()).sum();
        Ok(match patch.penalty().map_err(why)? {
            Some(penalty) => loss + penalty,
            None => loss,
        })
    }

    fn gradients(&self, patch: &Patch) -> Result<Params, String> {
        let tracked = patch.tracked();
        let loss = self.loss(&tracked, &Pass::new(&tracked))?;
        Ok(tracked.params.gradients(&mut loss.backward()))
    }

    /// Steps of plain gradient descent, with the method's dropout.
    fn train(&self, mut patch: Patch, steps: std::ops::Range<u64>) -> Result<Patch, String> {
        for step in steps {
            let tracked = patch.tracked();
            let loss = self.loss(&tracked, &Pass::new(&tracked).dropout(5, step))?;
            let gradients = tracked.params.gradients(&mut loss.backward());
            patch = patch.with_params(patch.params.zip(&gradients, |x, g| x - g * 0.01));
        }
        Ok(patch)
    }
}

/// The trials of every method and preset of the family.
pub fn all() -> Vec<Trial> {
    let weight = acclimate_peft::WEIGHT.iter().map(|entry| (entry.card, entry.cases));
    let activation = acclimate_peft::ACTIVATION.iter().map(|entry| (entry.card, entry.cases));
    let cases = weight.chain(activation).flat_map(|(card, cases)| cases.iter().map(move |case| (card, *case)));
    let trial = |(card, case)| trials("peft", card, case, Arc::new(AdapterSubject::named(card, case)), CHECKS);
    cases.flat_map(trial).collect()
}

/// Checks a weight adapter of your own under all its cases.
///
/// ```
/// acclimate_conform::peft::check_adapter::<acclimate_peft::Lora>().unwrap();
/// ```
///
/// # Errors
/// One line for each check that failed, with the case and the reason. A waiver on the card excuses a check.
pub fn check_adapter<A: WeightAdapter>() -> Result<(), String> {
    run(A::CASES.iter().map(|case| AdapterSubject::weight::<A>(case)))
}

/// Checks an activation adapter of your own under all its cases.
///
/// # Errors
/// As [`check_adapter`].
pub fn check_activation<A: ActivationAdapter>() -> Result<(), String> {
    run(A::CASES.iter().map(|case| AdapterSubject::activation::<A>(case)))
}

fn run(subjects: impl Iterator<Item = AdapterSubject>) -> Result<(), String> {
    let mut failures = vec![];
    for subject in subjects {
        let waived = |name| subject.card.waivers.iter().any(|(waived, _)| *waived == name);
        for check in CHECKS.iter().filter(|check| (check.applies)(&subject.card) && !waived(check.name)) {
            if let Err(reason) = (check.run)(&subject) {
                failures.push(format!("{}[{}]::{}: {reason}", subject.card.name, subject.case, check.name));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// The laws of the family.
pub const CHECKS: &[Check<AdapterSubject>] = &[
    Check { name: "the_start_is_the_base", applies: starts_at_base, run: the_start_is_the_base },
    Check {
        name: "the_start_is_the_base_bit_for_bit",
        applies: starts_at_base,
        run: the_start_is_the_base_bit_for_bit,
    },
    Check { name: "apply_equals_weight", applies: merges, run: apply_equals_weight },
    Check { name: "merged_equals_unmerged", applies: merges, run: merged_equals_unmerged },
    Check { name: "merging_names_what_cannot_be_merged", applies: keeps_apart, run: merging_is_refused },
    Check { name: "saved_and_loaded_it_answers_with_the_same_bits", applies: always, run: saved_equals_loaded },
    Check { name: "training_changes_the_patch_alone", applies: always, run: training_changes_the_patch_alone },
    Check { name: "gradients_equal_finite_differences", applies: always, run: gradients_equal_differences },
    Check { name: "every_tensor_that_matters_gets_a_gradient", applies: always, run: every_tensor_gets_a_gradient },
    Check { name: "every_tensor_changes_its_weight", applies: merges, run: every_tensor_changes_its_weight },
    Check { name: "an_interrupted_run_equals_an_uninterrupted_one", applies: always, run: interrupted_equals_whole },
    Check { name: "the_count_is_the_formula", applies: always, run: the_count_is_the_formula },
    Check { name: "patches_switch_and_the_bare_model_stays", applies: always, run: patches_switch },
    Check { name: "one_seed_gives_one_patch", applies: always, run: one_seed_gives_one_patch },
    Check { name: "dropout_touches_the_added_path_alone", applies: starts_at_base, run: dropout_at_the_start },
    Check { name: "dropout_depends_on_seed_and_step_alone", applies: drops, run: dropout_is_deterministic },
    Check { name: "the_change_is_orthogonal", applies: orthogonal, run: the_change_is_orthogonal },
    Check { name: "the_change_has_the_rank", applies: low_rank, run: the_change_has_the_rank },
    Check { name: "a_rank_above_both_sides_is_refused", applies: ranked, run: a_large_rank_is_refused },
    Check { name: "settings_survive_toml", applies: always, run: settings_survive_toml },
    Check { name: "an_unknown_key_is_refused", applies: always, run: an_unknown_key_is_refused },
    Check { name: "a_value_out_of_range_is_named", applies: always, run: a_value_out_of_range_is_named },
];

fn always(_: &Card) -> bool {
    true
}

fn starts_at_base(card: &Card) -> bool {
    card.promises(Promise::IdentityAtStart)
}

fn merges(card: &Card) -> bool {
    card.promises(Promise::Mergeable)
}

fn keeps_apart(card: &Card) -> bool {
    !merges(card)
}

fn orthogonal(card: &Card) -> bool {
    card.promises(Promise::Orthogonal)
}

fn low_rank(card: &Card) -> bool {
    card.promises(Promise::LowRank)
}

fn ranked(card: &Card) -> bool {
    has(card, "rank")
}

fn drops(card: &Card) -> bool {
    has(card, "dropout")
}

fn has(card: &Card, param: &str) -> bool {
    card.params.iter().any(|info| info.name == param)
}

fn the_start_is_the_base(subject: &AdapterSubject) -> Result<(), String> {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, SINGLE)] {
        for host in subject.hosts(dtype)? {
            let patch = subject.start(&host, 1)?;
            near(&host.answer(&Pass::new(&patch))?, &host.answer(&Pass::bare())?, tolerance)?;
        }
    }
    Ok(())
}

fn the_start_is_the_base_bit_for_bit(subject: &AdapterSubject) -> Result<(), String> {
    for dtype in [DType::F64, DType::F32] {
        for host in subject.hosts(dtype)? {
            let patch = subject.start(&host, 1)?;
            same(&host.answer(&Pass::new(&patch))?, &host.answer(&Pass::bare())?)?;
        }
    }
    Ok(())
}

fn apply_equals_weight(subject: &AdapterSubject) -> Result<(), String> {
    let method = subject.weights()?;
    for host in subject.hosts(DType::F64)? {
        let patch = subject.stirred(&host, 1)?;
        let part = &patch.parts()[0].name;
        for site in &host.sites {
            let base = affine_at(host.model.as_ref(), site).map_err(why)?;
            let at = Place { site, part, params: &patch.params, buffers: &patch.buffers, mask: None };
            let drawn =
                Rng::new(2, &site.name, 0).normal_tensor(&[3, base.dims()[1]], 1.0, DType::F64, &Device::flex());
            let x: Tensor<2> = drawn.get().ok_or("drawn with two axes")?;
            let applied = AnyTensor::from(method.apply_at(x.clone(), &base, &at).map_err(why)?).to_f64s();
            let product = AnyTensor::from(method.weight_at(&base, &at).map_err(why)?.forward(x)).to_f64s();
            near(&applied, &product, EXACT).map_err(|reason| format!("`{}`: {reason}", site.name))?;
        }
    }
    Ok(())
}

fn merged_equals_unmerged(subject: &AdapterSubject) -> Result<(), String> {
    for (dtype, tolerance) in [(DType::F64, EXACT), (DType::F32, SINGLE)] {
        for host in subject.hosts(dtype)? {
            let patch = subject.stirred(&host, 1)?;
            let unmerged = host.answer(&Pass::new(&patch))?;
            if unmerged == host.answer(&Pass::bare())? {
                return Err("a patch away from its start changes no output".to_owned());
            }
            let merged = patch.merge(host.model.as_ref()).map_err(why)?;
            let merged = host.model.with_weights(merged).map_err(why)?;
            near(&host.output(merged.as_ref(), &Pass::bare())?.to_f64s(), &unmerged, tolerance)?;
        }
    }
    Ok(())
}

fn merging_is_refused(subject: &AdapterSubject) -> Result<(), String> {
    let hosts = subject.hosts(DType::F32)?;
    let patch = subject.start(&hosts[0], 1)?;
    match patch.merge(hosts[0].model.as_ref()) {
        Err(Error::Unsupported { who, .. }) if who == subject.adapter()?.card().name => Ok(()),
        other => Err(format!("merging answers {other:?}, not that the method cannot")),
    }
}

fn saved_equals_loaded(subject: &AdapterSubject) -> Result<(), String> {
    for dtype in [DType::F64, DType::F32] {
        for host in subject.hosts(dtype)? {
            let patch = subject.stirred(&host, 1)?;
            let loaded = saved_and_loaded(subject, &patch)?;
            same(&host.answer(&Pass::new(&loaded))?, &host.answer(&Pass::new(&patch))?)?;
            if patch.params.names().any(|name| patch.role(name) != loaded.role(name)) {
                return Err("a role is lost".to_owned());
            }
        }
    }
    Ok(())
}

fn saved_and_loaded(subject: &AdapterSubject, patch: &Patch) -> Result<Patch, String> {
    let folder = tempfile::tempdir().map_err(why)?;
    patch.save(folder.path()).map_err(why)?;
    Patch::load(folder.path(), &Device::flex(), &subject.build).map_err(why)
}

fn training_changes_the_patch_alone(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F32)? {
        let start = subject.start(&host, 1)?;
        let trained = host.train(start.clone(), 0..3)?;
        if host.model.weights().fingerprint() != host.model.fingerprint() {
            return Err("the frozen weights have other bits than before".to_owned());
        }
        if trained.buffers.fingerprint() != start.buffers.fingerprint() {
            return Err("tensors that are not trained have other bits than before".to_owned());
        }
        if trained.params.fingerprint() == start.params.fingerprint() {
            return Err("three steps moved nothing".to_owned());
        }
    }
    Ok(())
}

fn gradients_equal_differences(subject: &AdapterSubject) -> Result<(), String> {
    // Small, so that few kinks of a rectifier lie within it; what rounding leaves of the difference is then of order 1e-8.
    const STEP: f64 = 1e-6;
    for host in subject.hosts(DType::F64)? {
        let patch = subject.stirred(&host, 1)?;
        let gradients = host.gradients(&patch)?;
        for (name, tensor) in patch.params.iter() {
            let values = tensor.to_f64s();
            let gradient = gradients.any(name).map(AnyTensor::to_f64s).unwrap_or_default();
            let mut rng = Rng::new(3, name, 0);
            for _ in 0..3.min(values.len()) {
                let entry = rng.below(values.len());
                let moved = |by: f64| {
                    let mut values = values.clone();
                    values[entry] += by;
                    let mut params = patch.params.clone();
                    params.insert(name, AnyTensor::from_f64s(values, &tensor.shape(), DType::F64, &tensor.device()));
                    let moved = patch.with_params(params);
                    Ok::<f64, String>(host.loss(&moved, &Pass::new(&moved))?.into_scalar())
                };
                let difference = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
                near(&[gradient[entry]], &[difference], 1e-5)
                    .map_err(|reason| format!("`{name}` entry {entry}: {reason}"))?;
            }
        }
    }
    Ok(())
}

/// A zero gradient is right where the outputs do not depend on the tensor, as on the biases of attention's keys.
fn every_tensor_gets_a_gradient(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F64)? {
        let patch = subject.stirred(&host, 1)?;
        let answer = host.answer(&Pass::new(&patch))?;
        for (name, gradient) in host.gradients(&patch)?.iter() {
            if gradient.to_f64s().iter().any(|g| g.abs() > 1e-12) {
                continue;
            }
            let moved = nudged(&patch, name)?;
            near(&host.answer(&Pass::new(&moved))?, &answer, EXACT)
                .map_err(|reason| format!("`{name}` has no gradient but changes the outputs: {reason}"))?;
        }
    }
    Ok(())
}

fn every_tensor_changes_its_weight(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F64)? {
        let patch = subject.stirred(&host, 1)?;
        for site in &host.sites {
            let base = affine_at(host.model.as_ref(), site).map_err(why)?;
            let adapted = |patch: &Patch| {
                let affine = patch.adapted(&base, &site.name).map_err(why)?;
                Ok::<_, String>((
                    AnyTensor::from(affine.dense()).to_f64s(),
                    affine.bias.map(|bias| AnyTensor::from(bias).to_f64s()),
                ))
            };
            let before = adapted(&patch)?;
            let prefix = format!("{}.{}.", site.name, patch.parts()[0].name);
            for name in patch.params.names().filter(|name| name.starts_with(&prefix)) {
                if adapted(&nudged(&patch, name)?)? == before {
                    return Err(format!("`{name}` changes neither weight nor bias"));
                }
            }
        }
    }
    Ok(())
}

/// The patch with one tensor moved a little.
fn nudged(patch: &Patch, name: &str) -> Result<Patch, String> {
    let tensor = patch.params.any(name).ok_or("the name is one of the patch's own")?;
    let noise = Rng::new(6, name, 0).normal_tensor(&tensor.shape(), 0.1, tensor.dtype(), &tensor.device());
    let mut params = patch.params.clone();
    params.insert(name, AnyTensor::from_elements(tensor.elements() + noise.elements()));
    Ok(patch.with_params(params))
}

fn interrupted_equals_whole(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F32)? {
        let start = subject.start(&host, 1)?;
        let whole = host.train(start.clone(), 0..4)?;
        let halfway = saved_and_loaded(subject, &host.train(start, 0..2)?)?;
        let resumed = host.train(halfway, 2..4)?;
        if resumed.params.fingerprint() != whole.params.fingerprint() {
            return Err("the resumed run ends with other bits".to_owned());
        }
    }
    Ok(())
}

fn the_count_is_the_formula(subject: &AdapterSubject) -> Result<(), String> {
    let adapter = subject.adapter()?;
    for host in subject.hosts(DType::F32)? {
        let formula: usize = host.sites.iter().map(|site| adapter.count_at(site)).sum();
        let count = subject.start(&host, 1)?.params.count();
        if count != formula {
            return Err(format!("{count} numbers are trained, the formula says {formula}"));
        }
    }
    Ok(())
}

fn patches_switch(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F32)? {
        let bare = host.answer(&Pass::bare())?;
        let (a, b) = (subject.stirred(&host, 1)?, subject.stirred(&host, 2)?);
        let first = host.answer(&Pass::new(&a))?;
        if host.answer(&Pass::new(&b))? == first {
            return Err("two patches give the same outputs".to_owned());
        }
        same(&host.answer(&Pass::new(&a))?, &first)?;
        same(&host.answer(&Pass::bare())?, &bare)?;
    }
    Ok(())
}

fn one_seed_gives_one_patch(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F32)? {
        let bits = || {
            let patch = subject.start(&host, 7)?;
            Ok::<_, String>((patch.params.fingerprint(), patch.buffers.fingerprint()))
        };
        if bits()? != bits()? {
            return Err("the same seed gave other bits".to_owned());
        }
    }
    Ok(())
}

/// At the start the added path gives nothing, whatever is dropped from its input.
fn dropout_at_the_start(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F64)? {
        let patch = subject.start(&host, 1)?;
        near(&host.answer(&Pass::new(&patch).dropout(1, 1))?, &host.answer(&Pass::bare())?, 1e-12)?;
    }
    Ok(())
}

fn dropout_is_deterministic(subject: &AdapterSubject) -> Result<(), String> {
    let rate = subject.weights()?.dropout_rate();
    for host in subject.hosts(DType::F32)? {
        let patch = subject.stirred(&host, 1)?;
        let dropped = |seed, step| host.answer(&Pass::new(&patch).dropout(seed, step));
        let first = dropped(1, 1)?;
        same(&dropped(1, 1)?, &first)?;
        if rate > 0.0 && (dropped(1, 2)? == first || dropped(2, 1)? == first) {
            return Err("another seed or step drops the same inputs".to_owned());
        }
        if (host.answer(&Pass::new(&patch))? == first) != (rate == 0.0) {
            return Err(format!("dropout {rate} and no dropout do not differ as they should"));
        }
    }
    Ok(())
}

fn the_change_is_orthogonal(subject: &AdapterSubject) -> Result<(), String> {
    subject.each_weight(|site, base, adapted| {
        let gram = |affine: Affine| AnyTensor::from(affine.dense().matmul(affine.dense().transpose())).to_f64s();
        near(&gram(adapted), &gram(base), EXACT).map_err(|reason| format!("`{}`: {reason}", site.name))
    })
}

fn the_change_has_the_rank(subject: &AdapterSubject) -> Result<(), String> {
    let settings = subject.adapter()?.settings();
    let rank =
        settings.get("rank").and_then(toml::Value::as_integer).ok_or("a method of low rank has the key `rank`")?;
    subject.each_weight(|site, base, adapted| {
        let change = adapted.dense() - base.dense();
        let found = numerical_rank(&AnyTensor::from(change.clone()).to_f64s(), change.dims()[1]);
        if found as i64 > rank { Err(format!("`{}`: the change has rank {found}", site.name)) } else { Ok(()) }
    })
}

/// Gaussian elimination with full pivoting; pivots below 1e-9 of the first are rounding.
fn numerical_rank(matrix: &[f64], columns: usize) -> usize {
    let mut rows: Vec<Vec<f64>> = matrix.chunks(columns).map(<[f64]>::to_vec).collect();
    let mut first = 0.0;
    for rank in 0..rows.len().min(columns) {
        let places = (rank..rows.len()).flat_map(|i| (rank..columns).map(move |j| (i, j)));
        let Some((i, j)) = places.max_by(|&(i, j), &(k, l)| rows[i][j].abs().total_cmp(&rows[k][l].abs())) else {
            return rank;
        };
        rows.swap(rank, i);
        rows.iter_mut().for_each(|row| row.swap(rank, j));
        let pivot = rows[rank].clone();
        if rank == 0 {
            first = pivot[0].abs();
        }
        if pivot[rank].abs() <= 1e-9 * first {
            return rank;
        }
        for row in &mut rows[rank + 1..] {
            let factor = row[rank] / pivot[rank];
            row.iter_mut().zip(&pivot).skip(rank).for_each(|(x, p)| *x -= factor * p);
        }
    }
    rows.len().min(columns)
}

fn a_large_rank_is_refused(subject: &AdapterSubject) -> Result<(), String> {
    for host in subject.hosts(DType::F32)? {
        let largest = host.sites.iter().map(|site| site.out.max(site.input)).max().unwrap_or(0);
        let mut settings = subject.settings()?;
        // Even, for methods that take even ranks alone.
        settings.insert("rank".to_owned(), toml::Value::Integer(2 * largest as i64));
        let adapter = subject.with(&settings).map_err(why)?;
        match Patch::new().add(host.model.as_ref(), adapter, &host.sites, &mut Rng::new(1, "patch", 0)) {
            Err(Error::Param { param: "rank", .. }) => {}
            other => return Err(format!("rank {} gives {other:?}", 2 * largest)),
        }
    }
    Ok(())
}

fn settings_survive_toml(subject: &AdapterSubject) -> Result<(), String> {
    let settings = subject.adapter()?.settings();
    let text = toml::to_string(&settings).map_err(why)?;
    let again = subject.with(&text.parse().map_err(why)?).map_err(why)?.settings();
    if again == settings { Ok(()) } else { Err(format!("{settings:?} comes back as {again:?}")) }
}

fn an_unknown_key_is_refused(subject: &AdapterSubject) -> Result<(), String> {
    let mut settings = subject.settings()?;
    settings.insert("no_such_key".to_owned(), toml::Value::Integer(1));
    match subject.with(&settings) {
        Err(Error::Unknown { name, .. }) if name.contains("no_such_key") => Ok(()),
        other => Err(format!("an unknown key gives {other:?}")),
    }
}

fn a_value_out_of_range_is_named(subject: &AdapterSubject) -> Result<(), String> {
    let method = subject.adapter()?.card().name;
    for info in subject.card.params {
        let below = info.min.map(|min| if info.above { min } else { min - 1.0 });
        let whole = !info.ty.contains('f');
        for value in below.into_iter().chain(info.max.map(|max| max + 1.0)).filter(|value| !whole || *value >= 0.0) {
            let value = if whole { toml::Value::Integer(value as i64) } else { toml::Value::Float(value) };
            let mut settings = subject.settings()?;
            settings.insert(info.name.to_owned(), value.clone());
            match subject.with(&settings) {
                Err(Error::Param { method: m, param, .. }) if m == method && param == info.name => {}
                other => return Err(format!("`{}` = {value} gives {other:?}", info.name)),
            }
        }
    }
    Ok(())
}

/// Equal up to `tolerance` of the largest number, or of one where all are smaller.
fn near(got: &[f64], expected: &[f64], tolerance: f64) -> Result<(), String> {
    let scale = expected.iter().fold(1.0, |scale: f64, x| scale.max(x.abs()));
    let apart = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // A comparison with NaN is false, so the largest is sought by a fold that keeps NaN.
    let largest = apart.fold(0.0, |largest: f64, x| if x <= largest { largest } else { x });
    if got.len() == expected.len() && largest <= tolerance * scale {
        return Ok(());
    }
    Err(format!("numbers of size {scale:e} lie {largest:e} apart, allowed is {:e}", tolerance * scale))
}

fn same(got: &[f64], expected: &[f64]) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(near(got, expected, 0.0).err().unwrap_or_default()) }
}
