//! What every optimiser promises.

use crate::{Check, trials, why};
use acclimate_core::{
    AnyOptimiser, AnyState, AnyTensor, Card, Edit, Entry, Need, Optimiser, Params, Promise, RecordReader, Result, Rng,
    Role, read_safetensors, write_safetensors,
};
use acclimate_optim::{Accumulator, Host, HostSettings, Objective, Schedule};
use burn::tensor::{DType, Device};
use libtest_mimic::Trial;
use std::sync::Arc;

type Build = dyn Fn(&toml::Table) -> Result<Box<dyn AnyOptimiser>> + Send + Sync;

/// An optimiser under one of its cases.
pub struct OptimSubject {
    card: Card,
    case: &'static str,
    defaults: toml::Table,
    build: Box<Build>,
}

impl OptimSubject {
    /// A row of a registry under one of its cases.
    pub fn entry(entry: &'static Entry<dyn AnyOptimiser>, case: &'static str) -> Self {
        let build = Box::new(|table: &toml::Table| entry.build(table));
        Self { card: entry.card, case, defaults: entry.defaults(), build }
    }

    /// A method that is in no registry, under one of its cases.
    pub fn of<O: Optimiser>(case: &'static str) -> Self {
        let build = |table: &toml::Table| Ok(Box::new(O::from_table(table)?) as Box<dyn AnyOptimiser>);
        Self { card: O::CARD, case, defaults: O::default().to_table(), build: Box::new(build) }
    }

    fn settings(&self) -> Result<toml::Table, String> {
        self.case.parse::<toml::Table>().map_err(why)
    }

    fn optimiser(&self) -> Result<Box<dyn AnyOptimiser>, String> {
        (self.build)(&self.settings()?).map_err(why)
    }
}

/// The trials of all optimisers in a registry.
pub fn all(registry: &'static [Entry<dyn AnyOptimiser>]) -> Vec<Trial> {
    let cases = registry.iter().flat_map(|entry| entry.cases.iter().map(move |case| (entry, *case)));
    let trial = |(entry, case)| {
        let subject = Arc::new(OptimSubject::entry(entry, case));
        trials("optim", entry.card, case, subject, CHECKS)
    };
    cases.flat_map(trial).collect()
}

/// Checks an optimiser of your own under all its cases. Answers with every check that failed; a waiver on the card excuses one.
///
/// ```
/// acclimate_conform::optim::check_optimiser::<acclimate_optim::Adamw>().unwrap();
/// ```
///
/// # Errors
/// One line for each failure, with the case and the reason.
pub fn check_optimiser<O: Optimiser>() -> Result<(), String> {
    let mut failures = vec![];
    for case in O::CASES {
        let subject = OptimSubject::of::<O>(case);
        let waived = |name| O::CARD.waivers.iter().any(|(waived, _)| *waived == name);
        for check in CHECKS.iter().filter(|check| (check.applies)(&O::CARD) && !waived(check.name)) {
            if let Err(reason) = (check.run)(&subject) {
                failures.push(format!("{}[{case}]::{}: {reason}", O::CARD.name, check.name));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// The laws of the family.
pub const CHECKS: &[Check<OptimSubject>] = &[
    Check { name: "converges_on_a_bowl", applies: always, run: |subject| converges(subject, &bowl(), 1e-3) },
    Check {
        name: "converges_on_a_matrix_bowl",
        applies: always,
        run: |subject| converges(subject, &matrix_bowl(), 1e-3),
    },
    Check {
        name: "converges_on_mixed_ranks",
        applies: always,
        run: |subject| converges(subject, &mixed_ranks(), 1e-3),
    },
    Check { name: "converges_on_rosenbrock", applies: always, run: |subject| converges(subject, &rosenbrock(), 0.05) },
    Check {
        name: "zero_gradients_move_nothing_but_decay",
        applies: always,
        run: zero_gradients_move_nothing_but_decay,
    },
    Check { name: "order_of_parameters_does_not_matter", applies: always, run: order_of_parameters_does_not_matter },
    Check { name: "accumulated_equals_whole", applies: always, run: accumulated_equals_whole },
    Check { name: "frozen_leaves_stay", applies: always, run: frozen_leaves_stay },
    Check { name: "resumed_equals_uninterrupted", applies: always, run: resumed_equals_uninterrupted },
    Check { name: "number_type_is_kept", applies: always, run: number_type_is_kept },
    Check { name: "config_survives_toml", applies: always, run: config_survives_toml },
    Check { name: "unknown_key_is_refused", applies: always, run: unknown_key_is_refused },
    Check { name: "bad_value_is_refused", applies: always, run: bad_value_is_refused },
    Check { name: "stays_finite", applies: always, run: stays_finite },
    Check { name: "state_has_the_declared_size", applies: always, run: state_has_the_declared_size },
    Check { name: "the_gradient_at_fault_is_named", applies: always, run: the_gradient_at_fault_is_named },
    Check { name: "a_million_parameters_and_one_take_a_step", applies: always, run: any_number_of_parameters },
    Check { name: "rows_without_gradients_stay_finite", applies: always, run: rows_without_gradients_stay_finite },
    Check { name: "slots_are_like_the_parameters", applies: always, run: slots_are_like_the_parameters },
    Check { name: "goes_on_after_a_change_of_rank", applies: always, run: goes_on_after_a_change_of_rank },
    Check { name: "restart_is_more_careful", applies: always, run: restart_is_more_careful },
    Check { name: "steps_are_equal_for_equal_seeds", applies: always, run: steps_are_equal },
    Check {
        name: "defaults_need_no_rate",
        applies: |card| card.promises(Promise::LearningRateFree),
        run: defaults_need_no_rate,
    },
    Check {
        name: "multiple_of_the_loss_leaves_the_path",
        applies: |card| card.promises(Promise::ScaleFree),
        run: scale_free,
    },
];

fn always(_: &Card) -> bool {
    true
}

/// A function of some leaves, its gradient, and where to start.
struct Problem {
    start: Params,
    gradient: fn(&[f64]) -> (f64, Vec<f64>),
}

/// Leaves one after another as one list of numbers.
fn flat(params: &Params) -> Vec<f64> {
    params.iter().flat_map(|(_, tensor)| tensor.to_f64s()).collect()
}

/// Numbers as leaves of the shapes and type of `params`.
fn like(params: &Params, values: &[f64]) -> Params {
    let mut at = 0;
    params.map(|_, tensor| {
        let part = values[at..at + tensor.count()].to_vec();
        at += tensor.count();
        AnyTensor::from_f64s(part, &tensor.shape(), tensor.dtype(), &tensor.device())
    })
}

fn leaves(shapes: &[(&str, &[usize])], values: &[f64]) -> Params {
    let mut params = Params::default();
    for (name, shape) in shapes {
        params.insert(*name, AnyTensor::zeros(shape, DType::F64, &Device::flex()));
    }
    like(&params, values)
}

/// ½ Σ a (x − c)² with curvatures from 1 to 10 and centres of both signs.
fn quadratic(x: &[f64]) -> (f64, Vec<f64>) {
    let last = (x.len() - 1) as f64;
    let part = |(i, x): (usize, &f64)| {
        let curvature = 10_f64.powf(i as f64 / last);
        let centre = [1.0, -2.0, 0.5, 3.0, -1.0][i % 5];
        (0.5 * curvature * (x - centre).powi(2), curvature * (x - centre))
    };
    let (losses, gradient): (Vec<f64>, Vec<f64>) = x.iter().enumerate().map(part).unzip();
    (losses.iter().sum(), gradient)
}

fn bowl() -> Problem {
    Problem { start: leaves(&[("x", &[10])], &[0.0; 10]), gradient: quadratic }
}

fn mixed_ranks() -> Problem {
    let shapes: [(&str, &[usize]); 4] =
        [("bias", &[3]), ("kernel", &[2, 1, 2, 2]), ("scale", &[1]), ("weight", &[3, 2])];
    Problem { start: leaves(&shapes, &[0.0; 18]), gradient: quadratic }
}

/// ½ ‖A X − B‖² over X of shape [3, 2].
fn matrix_bowl() -> Problem {
    fn gradient(x: &[f64]) -> (f64, Vec<f64>) {
        const A: [[f64; 3]; 3] = [[2.0, 0.5, 0.0], [0.5, 1.5, -0.3], [0.0, -0.3, 1.0]];
        const B: [[f64; 2]; 3] = [[1.0, -1.0], [0.5, 2.0], [-2.0, 0.3]];
        let (mut loss, mut gradient) = (0.0, vec![0.0; 6]);
        for (a, b) in A.iter().zip(B) {
            for (column, target) in b.into_iter().enumerate() {
                let residual = (0..3).map(|i| a[i] * x[2 * i + column]).sum::<f64>() - target;
                loss += 0.5 * residual * residual;
                (0..3).for_each(|i| gradient[2 * i + column] += a[i] * residual);
            }
        }
        (loss, gradient)
    }
    Problem { start: leaves(&[("x", &[3, 2])], &[0.0; 6]), gradient }
}

fn rosenbrock() -> Problem {
    fn gradient(x: &[f64]) -> (f64, Vec<f64>) {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b])
    }
    Problem { start: leaves(&[("x", &[1]), ("y", &[1])], &[-1.2, 1.0]), gradient }
}

/// A run that a check drives step by step.
struct Run<'a> {
    optimiser: &'a dyn AnyOptimiser,
    host: Host,
    x: Params,
}

impl<'a> Run<'a> {
    fn new(optimiser: &'a dyn AnyOptimiser, settings: HostSettings, x: &Params) -> Result<Self, String> {
        let host = Host::over(optimiser, settings, x, vec![Role::Weight; x.len()]).map_err(why)?;
        Ok(Self { optimiser, host, x: x.clone() })
    }

    fn step(&mut self, gradient: &Params, multiplier: f64, loss: f64) -> Result<(), String> {
        // Elsewhere it is that of a bowl: down a plane, a method that measures curvature may go without end.
        let here = self.x.clone();
        let again = |x: &Params| Ok((loss, gradient.zip(&x.zip(&here, |x, here| x - here), |g, away| g + away)));
        let objective = Objective { loss, again: Some(&again) };
        self.x = self.host.step(self.optimiser, &self.x, gradient, multiplier, objective).map_err(why)?;
        Ok(())
    }

    /// A step on a problem.
    fn advance(&mut self, problem: &Problem, multiplier: f64) -> Result<(), String> {
        let evaluate = |x: &Params| {
            let (loss, gradient) = (problem.gradient)(&flat(x));
            Ok((loss, like(x, &gradient)))
        };
        let (loss, gradient) = evaluate(&self.x).map_err(why)?;
        let objective = Objective { loss, again: Some(&evaluate) };
        self.x = self.host.step(self.optimiser, &self.x, &gradient, multiplier, objective).map_err(why)?;
        Ok(())
    }

    /// Steps on a problem with multiplier one; the parameters at the end.
    fn steps(mut self, problem: &Problem, steps: usize) -> Result<Params, String> {
        for _ in 0..steps {
            self.advance(problem, 1.0)?;
        }
        Ok(self.x)
    }
}

fn path(optimiser: &dyn AnyOptimiser, problem: &Problem, steps: usize) -> Result<Vec<f64>, String> {
    Ok(flat(&Run::new(optimiser, HostSettings::default(), &problem.start)?.steps(problem, steps)?))
}

/// The largest difference as a share of one more than the size.
fn distance(got: &[f64], expected: &[f64]) -> f64 {
    got.iter().zip(expected).map(|(g, e)| (g - e).abs() / (1.0 + e.abs())).fold(0.0, f64::max)
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The lowest loss falls below a share of the first one in 1500 steps under a cosine.
fn descends(optimiser: &dyn AnyOptimiser, problem: &Problem, share: f64) -> Result<(), String> {
    const STEPS: u64 = 1500;
    let mut run = Run::new(optimiser, HostSettings::default(), &problem.start)?;
    let first = (problem.gradient)(&flat(&problem.start)).0;
    for step in 1..=STEPS {
        run.advance(problem, Schedule::Cosine.at(step, STEPS, 0.0))?;
    }
    let last = (problem.gradient)(&flat(&run.host.evaluate(optimiser, &run.x))).0;
    ensure(last < share * first, || format!("the loss went from {first:.3e} to {last:.3e}, not below {share} of it"))
}

fn converges(subject: &OptimSubject, problem: &Problem, share: f64) -> Result<(), String> {
    descends(subject.optimiser()?.as_ref(), problem, share)
}

/// A method without a learning rate solves problems of very different size with its defaults.
fn defaults_need_no_rate(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = (subject.build)(&subject.defaults).map_err(why)?;
    descends(optimiser.as_ref(), &bowl(), 1e-3)?;
    let far = Problem {
        start: bowl().start,
        gradient: |x| {
            let near: Vec<f64> = x.iter().map(|x| x / 100.0).collect();
            quadratic(&near)
        },
    };
    descends(optimiser.as_ref(), &far, 1e-2)
}

fn zero_gradients_move_nothing_but_decay(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let start = leaves(&[("a", &[2, 2]), ("b", &[3])], &[1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0]);
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &start)?;
    let mut decayed =
        Run::new(optimiser.as_ref(), HostSettings { weight_decay: 0.1, ..HostSettings::default() }, &start)?;
    for _ in 0..5 {
        let zero = start.zeros_like();
        run.step(&zero, 1.0, 0.0)?;
        decayed.step(&zero, 1.0, 0.0)?;
    }
    ensure(flat(&run.x) == flat(&start), || format!("parameters moved to {:?}", flat(&run.x)))?;
    let shrunk = flat(&decayed.x).iter().zip(flat(&start)).all(|(x, from)| x.abs() <= from.abs() && x * from > 0.0);
    ensure(shrunk, || format!("decay moved parameters to {:?}", flat(&decayed.x)))
}

fn order_of_parameters_does_not_matter(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let problem = mixed_ranks();
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &problem.start)?;
    let turn = |params: &Params| {
        let mut entries: Vec<_> = params.iter().collect();
        entries.reverse();
        let mut turned = Params::default();
        entries.into_iter().for_each(|(name, tensor)| turned.insert(name, tensor.clone()));
        turned
    };
    let mut turned = Run::new(optimiser.as_ref(), HostSettings::default(), &turn(&problem.start))?;
    for _ in 0..20 {
        let (loss, gradient) = (problem.gradient)(&flat(&run.x));
        let gradient = like(&run.x, &gradient);
        run.step(&gradient, 1.0, loss)?;
        turned.step(&turn(&gradient), 1.0, loss)?;
    }
    // Sums over all parameters differ by roundings in f64.
    let off = distance(&flat(&turn(&turned.x)), &flat(&run.x));
    ensure(off < 1e-12, || format!("the other order is off by {off:e}"))
}

fn accumulated_equals_whole(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let start = bowl().start;
    let mut rng = Rng::new(0, "accumulate", 0);
    let mut whole = Run::new(optimiser.as_ref(), HostSettings::default(), &start)?;
    let mut parts = Run::new(optimiser.as_ref(), HostSettings::default(), &start)?;
    for _ in 0..10 {
        let rows: Vec<Vec<f64>> = (0..8).map(|_| (0..start.count()).map(|_| rng.normal()).collect()).collect();
        let mean = |rows: &[Vec<f64>]| {
            let column = |i| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64;
            like(&start, &(0..start.count()).map(column).collect::<Vec<_>>())
        };
        whole.step(&mean(&rows), 1.0, 1.0)?;
        let mut sum = Accumulator::default();
        for micro in [&rows[..3], &rows[3..6], &rows[6..]] {
            sum.add(mean(micro), 1.0, micro.len() as f64);
        }
        let (loss, gradient) = sum.finish().map_err(why)?;
        parts.step(&gradient, 1.0, loss)?;
    }
    let off = distance(&flat(&parts.x), &flat(&whole.x));
    ensure(off < 1e-12, || format!("three micro-batches are off by {off:e}"))
}

fn frozen_leaves_stay(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let problem = mixed_ranks();
    let settings = HostSettings { frozen: vec!["kernel".to_owned()], weight_decay: 0.1, ..HostSettings::default() };
    let end = Run::new(optimiser.as_ref(), settings, &problem.start)?.steps(&problem, 10)?;
    for (name, tensor) in end.iter() {
        let moved = tensor.to_f64s().iter().any(|x| *x != 0.0);
        ensure(moved == (name != "kernel"), || format!("`{name}` moved: {moved}"))?;
    }
    Ok(())
}

fn resumed_equals_uninterrupted(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let problem = mixed_ranks();
    let folder = tempfile::tempdir().map_err(why)?;
    let file = folder.path().join("state.safetensors");
    let mut patch = acclimate_core::Patch::new();
    patch.params = problem.start.cast(DType::F32);
    let host = |patch: &acclimate_core::Patch| Host::new(optimiser.as_ref(), HostSettings::default(), patch);
    let mut run = Run { optimiser: optimiser.as_ref(), host: host(&patch).map_err(why)?, x: patch.params.clone() };
    let advance = |run: &mut Run<'_>| run.advance(&problem, 1.0);
    for _ in 0..7 {
        advance(&mut run)?;
    }
    let saved = run.host.save();
    write_safetensors(&file, &saved.tensors, saved.numbers).map_err(why)?;
    patch.params = run.x.clone();
    let (tensors, numbers) = read_safetensors(&file, &Device::flex()).map_err(why)?;
    let mut saved = RecordReader { tensors, numbers };
    let host = Host::load(optimiser.as_ref(), HostSettings::default(), &patch, &mut saved).map_err(why)?;
    let mut again = Run { optimiser: optimiser.as_ref(), host, x: patch.params.clone() };
    for _ in 0..7 {
        advance(&mut run)?;
        advance(&mut again)?;
    }
    ensure(run.x.fingerprint() == again.x.fingerprint(), || "the resumed run took another path".to_owned())
}

fn number_type_is_kept(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    for dtype in [DType::F32, DType::F64] {
        let problem = Problem { start: mixed_ranks().start.cast(dtype), ..mixed_ranks() };
        let end = Run::new(optimiser.as_ref(), HostSettings::default(), &problem.start)?.steps(&problem, 2)?;
        let mut state = optimiser.start(&problem.start).map_err(why)?;
        let slots = state.slots().into_iter().flat_map(|slot| slot.iter().map(|(_, t)| t.dtype()).collect::<Vec<_>>());
        let other = end.iter().map(|(_, tensor)| tensor.dtype()).chain(slots).find(|found| *found != dtype);
        ensure(other.is_none(), || format!("{dtype:?} became {other:?}"))?;
    }
    Ok(())
}

fn config_survives_toml(subject: &OptimSubject) -> Result<(), String> {
    let settings = subject.optimiser()?.settings();
    let text = toml::to_string(&settings).map_err(why)?;
    let read: toml::Table = text.parse().map_err(why)?;
    let again = (subject.build)(&read).map_err(why)?.settings();
    ensure(again == settings, || format!("{settings:?} became {again:?}"))
}

fn unknown_key_is_refused(subject: &OptimSubject) -> Result<(), String> {
    let Some(param) = subject.card.params.first() else { return Ok(()) };
    let key = format!("{}x", param.name);
    let mut settings = subject.settings()?;
    settings.insert(key.clone(), toml::Value::Float(1.0));
    let Err(error) = (subject.build)(&settings) else { return Err(format!("`{key}` was taken")) };
    let text = error.to_string();
    ensure(text.contains(&format!("`{}`", param.name)), || format!("`{text}` does not name `{}`", param.name))
}

fn bad_value_is_refused(subject: &OptimSubject) -> Result<(), String> {
    for param in subject.card.params {
        let low = param.min.map(|min| if param.above { min } else { min - 1.0 });
        for value in low.into_iter().chain(param.max.map(|max| max + 1.0)) {
            let mut settings = subject.settings()?;
            let number = if param.ty == "f64" { toml::Value::Float(value) } else { toml::Value::Integer(value as i64) };
            settings.insert(param.name.to_owned(), number);
            let Err(error) = (subject.build)(&settings) else {
                return Err(format!("`{} = {value}` was taken", param.name));
            };
            let text = error.to_string();
            let named = text.contains(subject.card.name) && text.contains(param.name);
            ensure(named, || format!("`{text}` does not name method and parameter"))?;
        }
    }
    Ok(())
}

/// 200 steps with gradients of random size and direction, single precision.
fn stays_finite(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let start = mixed_ranks().start.cast(DType::F32);
    let mut rng = Rng::new(0, "finite", 0);
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &start)?;
    for _ in 0..200 {
        let size = 10_f64.powf(6.0 * rng.uniform() - 3.0);
        let values: Vec<f64> = (0..start.count()).map(|_| size * rng.normal()).collect();
        run.step(&like(&start, &values), 1.0, 1.0)?;
    }
    Ok(())
}

/// What a state keeps of tensors after a step is what the method says.
fn state_has_the_declared_size(subject: &OptimSubject) -> Result<(), String> {
    let (optimiser, problem) = (subject.optimiser()?, mixed_ranks());
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &problem.start)?;
    run.advance(&problem, 1.0)?;
    let declared: usize = problem.start.iter().map(|(_, x)| optimiser.size_of_state(&x.shape())).sum();
    let kept = run.host.save().tensors.count();
    ensure(kept == declared, || format!("{kept} numbers are kept, {declared} are declared"))
}

fn the_gradient_at_fault_is_named(subject: &OptimSubject) -> Result<(), String> {
    let (optimiser, problem) = (subject.optimiser()?, mixed_ranks());
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &problem.start)?;
    run.advance(&problem, 1.0)?;
    let before = run.x.fingerprint();
    for broken in [f64::NAN, f64::INFINITY] {
        let mut gradient = like(&run.x, &[1.0; 18]);
        gradient.insert("scale", AnyTensor::from_f64s(vec![broken], &[1], DType::F64, &Device::flex()));
        let Err(text) = run.step(&gradient, 1.0, 1.0) else { return Err(format!("{broken} was taken")) };
        ensure(text.contains("`scale`"), || format!("`{text}` does not name `scale`"))?;
    }
    run.advance(&problem, 1.0)?;
    ensure(run.x.fingerprint() != before, || "the run did not go on".to_owned())
}

fn any_number_of_parameters(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    for shape in [[1, 1], [1000, 1000]] {
        let x = leaves(&[("x", &shape)], &vec![1.0; shape[0] * shape[1]]).cast(DType::F32);
        let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &x)?;
        for _ in 0..2 {
            let gradient = run.x.clone();
            run.step(&gradient, 1.0, 1.0)?;
        }
    }
    Ok(())
}

/// Like the rows of an embedding that no text of a batch names: another row has a gradient at each step.
fn rows_without_gradients_stay_finite(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let start = leaves(&[("table", &[4, 3])], &[1.0; 12]);
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &start)?;
    for step in 0..40 {
        // The last row is never named.
        let gradient: Vec<f64> = (0..12).map(|i| if i / 3 == step % 3 { 0.5 + i as f64 } else { 0.0 }).collect();
        run.step(&like(&start, &gradient), 1.0, 1.0)?;
    }
    let x = flat(&run.x);
    ensure(x[9..] == [1.0; 3], || format!("the row without gradients moved to {:?}", &x[9..]))?;
    ensure(x[..9].iter().all(|x| *x != 1.0), || format!("a row with gradients stayed: {x:?}"))
}

fn slots_are_like_the_parameters(subject: &OptimSubject) -> Result<(), String> {
    let start = mixed_ranks().start;
    let mut state = subject.optimiser()?.start(&start).map_err(why)?;
    // What an option switches off is empty.
    for slot in state.slots().into_iter().filter(|slot| !slot.is_empty()) {
        let shapes = |params: &Params| params.iter().map(|(n, t)| (n.to_owned(), t.shape())).collect::<Vec<_>>();
        ensure(shapes(slot) == shapes(&start), || format!("{:?} in place of {:?}", shapes(slot), shapes(&start)))?;
    }
    Ok(())
}

/// A factor loses its first row and gains two: the other rows keep their state, and the run goes on.
fn goes_on_after_a_change_of_rank(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let problem = mixed_ranks();
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &problem.start)?;
    for _ in 0..5 {
        run.advance(&problem, 1.0)?;
    }
    let weights = |host: &mut Host| -> Vec<Vec<f64>> {
        let slots = host.states_mut().flat_map(AnyState::slots);
        slots.filter_map(|slot| slot.any("weight").map(AnyTensor::to_f64s)).collect()
    };
    let before = weights(&mut run.host);
    let add = AnyTensor::from_f64s(vec![1.0; 4], &[2, 2], DType::F64, &Device::flex());
    let edit = Edit { param: "weight".to_owned(), axis: 0, keep: vec![1, 2], add: Some(add) };
    run.host.edit(&edit).map_err(why)?;
    let after = weights(&mut run.host);
    let kept = before.iter().zip(&after).all(|(old, new)| new[..4] == old[2..] && new[4..] == [0.0; 4]);
    ensure(kept && before.len() == after.len(), || format!("state {before:?} became {after:?}"))?;
    let Some(weight) = run.x.any("weight") else { return Err("`weight` is missing".to_owned()) };
    let weight = edit.apply(weight, false).map_err(why)?;
    run.x.insert("weight", weight);
    for _ in 0..5 {
        run.advance(&problem, 1.0)?;
    }
    Ok(())
}

/// After a restart the method's own rate stays below the share.
fn restart_is_more_careful(subject: &OptimSubject) -> Result<(), String> {
    const SHARE: f64 = 0.25;
    let optimiser = subject.optimiser()?;
    let problem = bowl();
    let mut run = Run::new(optimiser.as_ref(), HostSettings::default(), &problem.start)?;
    let advance = |run: &mut Run<'_>| -> Result<Option<f64>, String> {
        for _ in 0..150 {
            run.advance(&problem, 1.0)?;
        }
        Ok(run.host.report(run.optimiser).first().map(|(_, rate)| *rate))
    };
    let reached = advance(&mut run)?;
    let fresh = run.host.restart(optimiser.as_ref(), &problem.start, SHARE).map_err(why)?;
    let needs_rate = subject.card.needs(Need::LearningRate);
    ensure(fresh != needs_rate, || format!("needs a learning rate: {needs_rate}; restarts with another: {fresh}"))?;
    run.x = problem.start.clone();
    match (fresh, reached, advance(&mut run)?) {
        (true, Some(reached), Some(again)) => {
            ensure(again <= SHARE * reached, || format!("the rate reached {reached:e}, then {again:e}"))
        }
        _ => Ok(()),
    }
}

fn steps_are_equal(subject: &OptimSubject) -> Result<(), String> {
    let optimiser = subject.optimiser()?;
    let once = path(optimiser.as_ref(), &mixed_ranks(), 20)?;
    let twice = path(optimiser.as_ref(), &mixed_ranks(), 20)?;
    ensure(once == twice, || "two runs from one start differ".to_owned())
}

/// A thousandfold loss leaves the path, with `eps` next to zero where there is one.
fn scale_free(subject: &OptimSubject) -> Result<(), String> {
    let mut settings = subject.settings()?;
    if subject.card.params.iter().any(|param| param.name == "eps") {
        settings.insert("eps".to_owned(), toml::Value::Float(1e-30));
    }
    let optimiser = (subject.build)(&settings).map_err(why)?;
    let scaled = |x: &[f64]| {
        let (loss, gradient) = quadratic(x);
        (1e3 * loss, gradient.into_iter().map(|g| 1e3 * g).collect())
    };
    let plain = path(optimiser.as_ref(), &bowl(), 30)?;
    let scaled = path(optimiser.as_ref(), &Problem { gradient: scaled, ..bowl() }, 30)?;
    // Thirty steps in f64; an estimate that grows amplifies their roundings.
    let off = distance(&scaled, &plain);
    ensure(off < 1e-9, || format!("the path is off by {off:e}"))
}
