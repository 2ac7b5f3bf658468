//! What every optimiser needs and no method writes.

use crate::rounded::{Rounded, StateForm};
use acclimate_core::{
    AnyOptimiser, AnyState, AnyTensor, At, Edit, Error, Evaluate, Params, Patch, RecordReader, RecordWriter, Result,
    Role, Step, matches, moments, total,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The host's own count of steps, beside the method's numbers.
const STEP: &str = "host/step";

/// How a [`Host`] treats parameters, whatever the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostSettings {
    /// Weight decay, at least 0. Norms and biases are left out.
    pub weight_decay: f64,
    /// Whether the decay shrinks the parameters at the method's rate. Otherwise it is added to the gradients.
    pub decoupled: bool,
    /// Largest norm of all gradients together; 0 switches clipping off.
    pub clip: f64,
    /// Relative rates by role; 1 for those not named, 0 freezes.
    pub scales: BTreeMap<Role, f64>,
    /// Names of frozen parameters, or the ends of names after a dot; `*` stands for any characters.
    pub frozen: Vec<String>,
    /// Which parameters share what the method finds for itself, such as d.
    pub groups: Groups,
    /// How the state lies between steps.
    pub state: StateForm,
}

/// Which parameters share what a method finds for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// All of them.
    #[default]
    Shared,
    /// Those of one role. A method with an estimate of its own then has one for each role.
    Role,
}

/// The loss before a step and, where the caller can tell, loss and gradients of the same batch at other parameters.
#[derive(Clone, Copy)]
pub struct Objective<'a> {
    /// The loss before the step.
    pub loss: f64,
    /// The batch at other parameters, all of them and in their order.
    pub again: Option<&'a Evaluate<'a>>,
}

impl From<f64> for Objective<'_> {
    fn from(loss: f64) -> Self {
        Self { loss, again: None }
    }
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            weight_decay: 0.0,
            decoupled: true,
            clip: 0.0,
            scales: BTreeMap::new(),
            frozen: vec![],
            groups: Groups::Shared,
            state: StateForm::Full,
        }
    }
}

impl HostSettings {
    fn check(&self, optimiser: &dyn AnyOptimiser) -> Result<()> {
        if self.state == StateForm::Bf16 && !optimiser.has_moments_alone() {
            return Err(Error::Unsupported {
                who: optimiser.card().name.to_owned(),
                what: "lie in bf16 between steps: it keeps more than moments".to_owned(),
                instead: "choose `state = \"full\"`".to_owned(),
            });
        }
        let numbers = [("weight_decay", self.weight_decay), ("clip", self.clip)];
        let scales = self.scales.values().map(|&scale| ("scales", scale));
        match numbers.into_iter().chain(scales).find(|(_, value)| !(0.0..f64::INFINITY).contains(value)) {
            None => Ok(()),
            Some((param, value)) => {
                let why = "must be a finite number of at least 0".to_owned();
                Err(Error::Param { method: "host", param, value: value.to_string(), why })
            }
        }
    }
}

/// Runs an optimiser over the parameters of a patch: clipping, weight decay, freezing, relative rates, saving and resuming.
#[derive(Debug)]
pub struct Host {
    settings: HostSettings,
    plan: Plan,
    /// One for each group, without what lies rounded.
    states: Vec<Box<dyn AnyState>>,
    /// One for each group, where states are rounded between steps.
    rounded: Vec<Rounded>,
    step: u64,
}

/// Which parameters move. Methods see these alone: a frozen one enters no sum and has no state.
#[derive(Debug)]
struct Plan {
    /// How many parameters there are.
    count: usize,
    groups: Vec<Group>,
}

/// Parameters that a method sees together.
#[derive(Debug, Default)]
struct Group {
    /// Their places among all parameters.
    at: Vec<usize>,
    /// What they are for.
    roles: Vec<Role>,
    /// Their relative rates.
    scales: Vec<f64>,
}

impl Plan {
    fn new(settings: &HostSettings, params: &Params, roles: Vec<Role>) -> Result<Self> {
        if roles.len() != params.len() {
            let expected = format!("[{}], one for each parameter", params.len());
            return Err(Error::Shape { what: "roles".to_owned(), expected, got: vec![roles.len()] });
        }
        let frozen = |name: &str| settings.frozen.iter().any(|pattern| matches(pattern, name));
        let mut groups: Vec<Group> = vec![];
        for (at, (name, role)) in params.names().zip(roles).enumerate() {
            let scale = if frozen(name) { 0.0 } else { settings.scales.get(&role).copied().unwrap_or(1.0) };
            if scale == 0.0 {
                continue;
            }
            let place = match settings.groups {
                Groups::Shared => groups.len().checked_sub(1),
                Groups::Role => groups.iter().position(|group| group.roles[0] == role),
            };
            let group = match place {
                Some(place) => &mut groups[place],
                None => groups.push_mut(Group::default()),
            };
            group.at.push(at);
            group.roles.push(role);
            group.scales.push(scale);
        }
        if groups.is_empty() {
            groups.push(Group::default());
        }
        Ok(Self { count: params.len(), groups })
    }

    /// Those of a set that move.
    fn live(&self, params: &Params) -> Params {
        let mut at: Vec<usize> = self.groups.iter().flat_map(|group| &group.at).copied().collect();
        at.sort_unstable();
        those(params, &at)
    }
}

impl Group {
    /// Those of a set that are of the group.
    fn of(&self, params: &Params) -> Params {
        those(params, &self.at)
    }

    /// What the parts of its state are called where there are several groups.
    fn prefix(&self) -> String {
        format!("{}/", self.roles.first().map_or("", |role| role.name()))
    }
}

/// The tensors at some places of a set, in their order.
fn those(params: &Params, at: &[usize]) -> Params {
    let mut those = Params::default();
    let mut at = at.iter().peekable();
    for (place, (name, tensor)) in params.iter().enumerate() {
        if at.next_if_eq(&&place).is_some() {
            those.insert(name, tensor.clone());
        }
    }
    those
}

/// A set with some of its tensors replaced.
fn with(params: &Params, some: &Params) -> Params {
    let mut all = params.clone();
    for (name, tensor) in some.iter() {
        all.insert(name, tensor.clone());
    }
    all
}

impl Host {
    /// A run over the trained tensors of a patch, before its first step.
    ///
    /// # Errors
    /// When a setting is out of range or the method refuses the parameters.
    pub fn new(optimiser: &dyn AnyOptimiser, settings: HostSettings, patch: &Patch) -> Result<Self> {
        Self::over(optimiser, settings, &patch.params, roles(patch))
    }

    /// A run over any parameters, with what each is for in their order.
    ///
    /// # Errors
    /// As [`Host::new`], and when there is not one role for each parameter.
    pub fn over(
        optimiser: &dyn AnyOptimiser,
        settings: HostSettings,
        params: &Params,
        roles: Vec<Role>,
    ) -> Result<Self> {
        settings.check(optimiser)?;
        let plan = Plan::new(&settings, params, roles)?;
        let states = plan.groups.iter().map(|group| optimiser.start(&group.of(params))).collect::<Result<_>>()?;
        Ok(Self::laid(settings, plan, states, 0))
    }

    /// A host whose states are whole.
    fn laid(settings: HostSettings, plan: Plan, states: Vec<Box<dyn AnyState>>, step: u64) -> Self {
        let mut host = Self { settings, plan, states, rounded: vec![], step };
        host.round();
        host
    }

    /// Rounds what is whole, where it does not lie so.
    fn round(&mut self) {
        if self.settings.state == StateForm::Bf16 {
            let states = self.states.iter_mut().enumerate();
            self.rounded = states.map(|(group, state)| Rounded::take(state.as_mut(), group, self.step)).collect();
        }
    }

    /// The states as the method knows them.
    fn whole(&self) -> Vec<Box<dyn AnyState>> {
        let mut states: Vec<Box<dyn AnyState>> = self.states.iter().map(|state| state.boxed()).collect();
        states.iter_mut().zip(&self.rounded).for_each(|(state, rounded)| rounded.put(state.as_mut()));
        states
    }

    /// Bytes that the tensors of the state take between steps.
    pub fn state_bytes(&mut self) -> usize {
        let bytes = |params: &Params| params.iter().map(|(_, x)| x.count() * x.dtype().size()).sum::<usize>();
        let mut sum: usize = self.rounded.iter().map(Rounded::bytes).sum();
        for state in &mut self.states {
            sum += state.slots().into_iter().map(|params| bytes(params)).sum::<usize>();
            sum += state.own().into_iter().map(|params| bytes(params)).sum::<usize>();
        }
        sum
    }

    /// The parameters after one step. `multiplier` is the schedule's; the objective is the loss before the step, or an [`Objective`] that
    /// can tell more.
    ///
    /// # Errors
    /// When gradients or the new parameters are not finite, shapes do not fit, or the method fails. Nothing has changed then, but that the
    /// state of a method that writes over it may be the step's where the new parameters are not finite.
    pub fn step<'a>(
        &mut self,
        optimiser: &dyn AnyOptimiser,
        params: &Params,
        grads: &Params,
        multiplier: f64,
        objective: impl Into<Objective<'a>>,
    ) -> Result<Params> {
        self.check_shapes(params, grads)?;
        let (objective, step) = (objective.into(), self.step + 1);
        let squares: Vec<_> = self.plan.live(grads).iter().map(|(_, g)| moments::squares(g.elements())).collect();
        let norm = total(squares).sqrt();
        if !norm.is_finite() {
            return Err(self.broken(optimiser, &not_finite(&self.plan.live(grads))));
        }
        let clip = self.settings.clip;
        let shrink = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        // A copy shares the buffers, which nobody may write over then; of a rounded state it has none.
        let copied = !optimiser.writes_in_place() || !self.rounded.is_empty();
        let kept = copied.then(|| self.states.iter().map(|state| state.boxed()).collect());
        let mut states = std::mem::take(&mut self.states);
        states.iter_mut().zip(&self.rounded).for_each(|(state, rounded)| rounded.put(state.as_mut()));
        let mut next = Ok(params.clone());
        for (group, state) in self.plan.groups.iter().zip(&mut states) {
            let live = group.of(params);
            let again = objective.again.map(|again| {
                |others: &Params| -> Result<(f64, Params)> {
                    let (loss, grads) = again(&with(params, others))?;
                    Ok((loss, self.prepared(group, others, &group.of(&grads), shrink)))
                }
            });
            let decays: Vec<f64> = group.roles.iter().map(|role| self.decoupled(*role)).collect();
            let at = At {
                params: &live,
                lr: multiplier,
                scales: &group.scales,
                roles: &group.roles,
                decays: &decays,
                loss: objective.loss,
                step,
                again: again.as_ref().map(|again| again as &Evaluate<'_>),
            };
            let grads = self.prepared(group, &live, &group.of(grads), shrink);
            let made = optimiser.step(&grads, state.as_mut(), &at);
            next = next.and_then(|next| self.moved(optimiser, group, next, &live, made?));
        }
        self.states = match (&next, kept) {
            (Err(_), Some(kept)) => kept,
            _ => states,
        };
        if next.is_ok() {
            self.step += 1;
            self.round();
        }
        next
    }

    /// The parameters after what a method made of its step for a group.
    fn moved(
        &self,
        optimiser: &dyn AnyOptimiser,
        group: &Group,
        mut next: Params,
        live: &Params,
        mut made: Step,
    ) -> Result<Params> {
        if made.decay_rates.len() != live.len() {
            let expected = format!("[{}], one for each parameter that moves", live.len());
            let what = format!("rates of decay of `{}`", optimiser.card().name);
            return Err(Error::Shape { what, expected, got: vec![made.decay_rates.len()] });
        }
        let mut sums = vec![];
        for (((name, x), rate), role) in live.iter().zip(&made.decay_rates).zip(&group.roles) {
            let Some(movement) = made.movement.take(name) else {
                return Err(Error::unknown("movement", name, made.movement.names()));
            };
            let decay = self.decoupled(*role) * rate;
            let (x, sum) = moments::moved(x.elements(), movement.into_elements(), 1.0 - decay);
            next.insert(name, AnyTensor::from_elements(x));
            sums.push(sum);
        }
        if total(sums).is_finite() {
            return Ok(next);
        }
        Err(self.broken(optimiser, "the step leads to numbers that are not finite"))
    }

    /// What is told of the step after the last that was made.
    fn broken(&self, optimiser: &dyn AnyOptimiser, what: &str) -> Error {
        Error::Numeric { who: optimiser.card().name.to_owned(), step: self.step + 1, what: what.to_owned() }
    }

    fn check_shapes(&self, params: &Params, grads: &Params) -> Result<()> {
        if params.len() != self.plan.count {
            let expected = format!("[{}], as at the start", self.plan.count);
            return Err(Error::Shape { what: "parameters".to_owned(), expected, got: vec![params.len()] });
        }
        if grads.len() != params.len() {
            let expected = format!("[{}], one for each parameter", params.len());
            return Err(Error::Shape { what: "gradients".to_owned(), expected, got: vec![grads.len()] });
        }
        for ((name, x), (other, g)) in params.iter().zip(grads.iter()) {
            if name != other || x.shape() != g.shape() {
                let expected = format!("{:?} of `{name}`", x.shape());
                return Err(Error::Shape { what: format!("gradient `{other}`"), expected, got: g.shape() });
            }
        }
        Ok(())
    }

    /// The weight decay of a parameter that moves.
    fn decay(&self, role: Role) -> f64 {
        if matches!(role, Role::Norm | Role::Bias) { 0.0 } else { self.settings.weight_decay }
    }

    /// The decay that is applied to the parameter itself.
    fn decoupled(&self, role: Role) -> f64 {
        if self.settings.decoupled { self.decay(role) } else { 0.0 }
    }

    /// Clipped gradients, of the decayed loss where the decay is coupled.
    fn prepared(&self, group: &Group, params: &Params, grads: &Params, shrink: f64) -> Params {
        let mut roles = group.roles.iter();
        params.zip(grads, |x, g| {
            let role = *roles.next().expect("a role for each parameter");
            let g = if shrink == 1.0 { g } else { g * shrink };
            let decay = if self.settings.decoupled { 0.0 } else { self.decay(role) };
            if decay == 0.0 { g } else { g + x * decay }
        })
    }

    /// The parameters to evaluate with: averages, where the method keeps them.
    pub fn evaluate(&self, optimiser: &dyn AnyOptimiser, params: &Params) -> Params {
        let groups = self.plan.groups.iter().zip(self.whole());
        groups.fold(params.clone(), |all, (group, state)| {
            with(&all, &optimiser.evaluate(&group.of(params), state.as_ref()))
        })
    }

    /// Numbers of the method worth drawing, the rate it found for itself first; with the role they belong to where there are several
    /// groups.
    pub fn report(&self, optimiser: &dyn AnyOptimiser) -> Vec<(String, f64)> {
        let several = self.plan.groups.len() > 1;
        let mut all = vec![];
        for (group, state) in self.plan.groups.iter().zip(&self.states) {
            let prefix = if several { group.prefix() } else { String::new() };
            let numbers = optimiser.report(state.as_ref());
            all.extend(numbers.into_iter().map(|(name, number)| (format!("{prefix}{name}"), number)));
        }
        all
    }

    /// Forgets the run and holds the method's own rate below `share` of what it had reached. Whether the method can.
    ///
    /// # Errors
    /// The method's own.
    pub fn restart(&mut self, optimiser: &dyn AnyOptimiser, params: &Params, share: f64) -> Result<bool> {
        let groups = self.plan.groups.iter().zip(self.whole());
        let fresh: Result<Option<Vec<_>>> =
            groups.map(|(group, state)| optimiser.restart_from(&group.of(params), state.as_ref(), share)).collect();
        let Some(states) = fresh? else { return Ok(false) };
        self.states = states;
        self.round();
        Ok(true)
    }

    /// Makes a change of size to the state of the parameter it names.
    ///
    /// # Errors
    /// As [`Edit::apply`].
    pub fn edit(&mut self, edit: &Edit) -> Result<()> {
        self.states = self.whole();
        let edited = self.states.iter_mut().try_for_each(|state| edit.apply_to_state(state.as_mut()));
        self.round();
        edited
    }

    /// The method's states, one for each group, without what lies rounded.
    pub fn states_mut(&mut self) -> impl Iterator<Item = &mut (dyn AnyState + 'static)> {
        self.states.iter_mut().map(Box::as_mut)
    }

    /// Everything that is needed to go on exactly.
    pub fn save(&self) -> RecordWriter {
        let mut record = RecordWriter::default();
        let several = self.plan.groups.len() > 1;
        for (group, state) in self.plan.groups.iter().zip(self.whole()) {
            record.join(&if several { group.prefix() } else { String::new() }, state.save());
        }
        record.u64(STEP, self.step);
        record
    }

    /// The run that [`Host::save`] told.
    ///
    /// # Errors
    /// When a field is missing, or the state is of another method or patch.
    pub fn load(
        optimiser: &dyn AnyOptimiser,
        settings: HostSettings,
        patch: &Patch,
        reader: &mut RecordReader,
    ) -> Result<Self> {
        let other = |e: Error| Error::Other(format!("not a state of `{}` ({e})", optimiser.card().name));
        settings.check(optimiser)?;
        let plan = Plan::new(&settings, &patch.params, roles(patch))?;
        let step = reader.u64(STEP).map_err(other)?;
        let mut states = vec![];
        for group in &plan.groups {
            let mut state = match plan.groups.len() {
                1 => optimiser.restore(reader),
                _ => optimiser.restore(&mut reader.part(&group.prefix())),
            }
            .map_err(other)?;
            let live = group.of(&patch.params);
            for slots in state.slots().into_iter().filter(|slots| !slots.is_empty()) {
                for (name, x) in live.iter() {
                    let found = slots.any(name).map(AnyTensor::shape);
                    if found.as_ref() != Some(&x.shape()) {
                        return Err(Error::Other(format!(
                            "`{name}` has shape {:?} in the patch and {found:?} in the state",
                            x.shape()
                        )));
                    }
                }
            }
            states.push(state);
        }
        Ok(Self::laid(settings, plan, states, step))
    }
}

/// Which gradient is at fault.
fn not_finite(grads: &Params) -> String {
    let finite = |(_, g): &(&str, &AnyTensor)| total(vec![moments::squares(g.elements())]).is_finite();
    match grads.iter().find(|entry| !finite(entry)) {
        Some((name, _)) => format!("the gradient of `{name}` is not finite"),
        None => "the norm of all gradients together is out of range".to_owned(),
    }
}

fn roles(patch: &Patch) -> Vec<Role> {
    patch.params.names().map(|name| patch.role(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adamw, DadaptAdam, Sgd};
    use burn::tensor::{DType, Device};

    fn params(leaves: &[(&str, &[f64])]) -> Params {
        let mut params = Params::default();
        for (name, values) in leaves {
            params.insert(*name, AnyTensor::from_f64s(values.to_vec(), &[values.len()], DType::F64, &Device::flex()));
        }
        params
    }

    fn values(params: &Params, name: &str) -> Vec<f64> {
        params.any(name).unwrap().to_f64s()
    }

    const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.0, nesterov: false };

    fn one_step(settings: HostSettings, roles: Vec<Role>, x: &Params, g: &Params) -> Params {
        Host::over(&SGD, settings, x, roles).unwrap().step(&SGD, x, g, 1.0, 0.0).unwrap()
    }

    #[test]
    fn both_decays_of_plain_sgd_are_one() {
        let (x, g) = (params(&[("w", &[2.0])]), params(&[("w", &[1.0])]));
        for decoupled in [true, false] {
            let settings = HostSettings { weight_decay: 0.5, decoupled, ..Default::default() };
            let next = one_step(settings, vec![Role::Weight], &x, &g);
            assert!((values(&next, "w")[0] - (2.0 - 0.1 * 1.0 - 0.1 * 0.5 * 2.0)).abs() < 1e-15);
        }
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        let (x, g) = (params(&[("n", &[2.0]), ("b", &[2.0])]), params(&[("n", &[0.0]), ("b", &[0.0])]));
        for decoupled in [true, false] {
            let settings = HostSettings { weight_decay: 0.5, decoupled, ..Default::default() };
            let next = one_step(settings, vec![Role::Norm, Role::Bias], &x, &g);
            assert_eq!((values(&next, "n"), values(&next, "b")), (vec![2.0], vec![2.0]));
        }
    }

    #[test]
    fn clipping_bounds_the_norm_over_all_parameters() {
        let (x, g) = (params(&[("a", &[0.0]), ("b", &[0.0])]), params(&[("a", &[3.0]), ("b", &[4.0])]));
        let settings = HostSettings { clip: 1.0, ..Default::default() };
        let next = one_step(settings, vec![Role::Other; 2], &x, &g);
        assert!((values(&next, "a")[0] + 0.06).abs() < 1e-15 && (values(&next, "b")[0] + 0.08).abs() < 1e-15);
    }

    #[test]
    fn a_frozen_leaf_stays_and_its_gradient_does_not_count() {
        let (x, g) = (params(&[("l.a", &[1.0]), ("l.b", &[1.0])]), params(&[("l.a", &[f64::NAN]), ("l.b", &[1.0])]));
        let settings =
            HostSettings { frozen: vec!["a".to_owned()], clip: 1.0, weight_decay: 0.1, ..Default::default() };
        let next = one_step(settings, vec![Role::Weight; 2], &x, &g);
        assert_eq!(values(&next, "l.a"), [1.0]);
        assert!((values(&next, "l.b")[0] - (1.0 - 0.1 - 0.01)).abs() < 1e-15);
    }

    #[test]
    fn a_role_has_its_own_rate() {
        let (x, g) = (params(&[("a", &[0.0]), ("b", &[0.0])]), params(&[("a", &[1.0]), ("b", &[1.0])]));
        let settings = HostSettings { scales: [(Role::OutputFactor, 16.0)].into(), ..Default::default() };
        let next = one_step(settings, vec![Role::InputFactor, Role::OutputFactor], &x, &g);
        assert!((values(&next, "a")[0] + 0.1).abs() < 1e-15 && (values(&next, "b")[0] + 1.6).abs() < 1e-15);
    }

    #[test]
    fn a_broken_gradient_changes_nothing() {
        let adam = DadaptAdam::default();
        let x = params(&[("x", &[1.0, 2.0])]);
        let mut host = Host::over(&adam, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        let x = host.step(&adam, &x, &params(&[("x", &[1.0, 1.0])]), 1.0, 0.0).unwrap();
        let before = (format!("{:?}", host.save().numbers), host.step);
        let error = host.step(&adam, &x, &params(&[("x", &[1.0, f64::INFINITY])]), 1.0, 0.0).unwrap_err();
        assert_eq!(error.to_string(), "dadapt_adam: the gradient of `x` is not finite at step 2");
        assert_eq!((format!("{:?}", host.save().numbers), host.step), before);
    }

    #[test]
    fn a_step_out_of_range_is_an_error_and_changes_nothing() {
        let sgd = Sgd { lr: 1e300, momentum: 0.9, nesterov: false };
        let x = params(&[("x", &[1.0])]);
        let mut host = Host::over(&sgd, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        assert!(host.step(&sgd, &x, &params(&[("x", &[1e20])]), 1.0, 0.0).is_err());
        assert_eq!((values(&host.save().tensors, "velocity/x"), host.step), (vec![0.0], 0));
    }

    #[test]
    fn a_step_out_of_range_of_a_method_that_writes_over_its_state_is_not_counted() {
        let adam = Adamw { lr: 1e308, ..Default::default() };
        let x = params(&[("x", &[1e308])]);
        let mut host = Host::over(&adam, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        let error = host.step(&adam, &x, &params(&[("x", &[-1.0])]), 1.0, 0.0).unwrap_err();
        assert_eq!(error.to_string(), "adamw: the step leads to numbers that are not finite at step 1");
        assert_eq!((values(&x, "x"), host.step), (vec![1e308], 0));
    }

    #[test]
    fn the_tensors_of_a_step_in_single_precision_are_written_over_and_no_handle_sees_it() {
        let adam = DadaptAdam::default();
        let x = params(&[("x", &[1.0, 2.0])]).cast(DType::F32);
        let mut host = Host::over(&adam, HostSettings::default(), &x, vec![Role::Other]).unwrap();
        let first = host.step(&adam, &x, &x, 1.0, 0.0).unwrap();
        let state = host.states[0].boxed();
        let before = format!("{:?}", state.save().tensors.fingerprint());
        host.step(&adam, &first, &x, 1.0, 0.0).unwrap();
        assert_eq!(format!("{:?}", state.save().tensors.fingerprint()), before);
        assert_ne!(format!("{:?}", host.save().tensors.fingerprint()), before);
        assert_eq!(values(&x, "x"), [1.0, 2.0]);
    }

    #[test]
    fn misfits_are_errors() {
        let x = params(&[("x", &[1.0])]);
        let host = |settings, roles| Host::over(&SGD, settings, &x, roles);
        assert!(host(HostSettings::default(), vec![]).unwrap_err().to_string().contains("one for each parameter"));
        let settings = HostSettings { clip: -1.0, ..Default::default() };
        let error = host(settings, vec![Role::Other]).unwrap_err();
        assert_eq!(error.to_string(), "host: `clip` must be a finite number of at least 0, got `-1`");
        let mut host = host(HostSettings::default(), vec![Role::Other]).unwrap();
        assert!(host.step(&SGD, &x, &params(&[("y", &[1.0])]), 1.0, 0.0).is_err());
        assert!(host.step(&SGD, &x, &params(&[("x", &[1.0, 2.0])]), 1.0, 0.0).is_err());
    }

    #[test]
    fn a_saved_run_goes_on_bit_for_bit() {
        for optimiser in [&DadaptAdam::default() as &dyn AnyOptimiser, &Adamw::default(), &SGD] {
            let mut patch = Patch::new();
            patch.params = params(&[("b", &[1.0, 2.0]), ("a", &[-1.0])]);
            let mut host = Host::new(optimiser, HostSettings::default(), &patch).unwrap();
            let step = |host: &mut Host, patch: &mut Patch| {
                patch.params = host.step(optimiser, &patch.params, &patch.params.clone(), 1.0, 0.0).unwrap();
            };
            for _ in 0..3 {
                step(&mut host, &mut patch);
            }
            let mut saved = RecordReader::from(host.save());
            let mut again = Host::load(optimiser, HostSettings::default(), &patch, &mut saved).unwrap();
            assert_eq!(again.step, 3);
            let mut other = patch.clone();
            for _ in 0..3 {
                step(&mut host, &mut patch);
                step(&mut again, &mut other);
            }
            assert_eq!(patch.params.fingerprint(), other.params.fingerprint());
        }
    }

    #[test]
    fn a_state_of_another_run_is_refused() {
        let mut patch = Patch::new();
        patch.params = params(&[("x", &[1.0, 2.0])]);
        let host = Host::new(&SGD, HostSettings::default(), &patch).unwrap();
        let load = |optimiser: &dyn AnyOptimiser, patch: &Patch| {
            let mut saved = RecordReader::from(host.save());
            Host::load(optimiser, HostSettings::default(), patch, &mut saved).unwrap_err().to_string()
        };
        assert!(load(&Adamw::default(), &patch).contains("not a state of `adamw`"));
        patch.params = params(&[("x", &[1.0])]);
        assert!(load(&SGD, &patch).contains("`x` has shape [1] in the patch and Some([2]) in the state"));
    }
}
