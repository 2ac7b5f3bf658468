//! The gate: no adaptation stays a candidate for every batch, and adaptation that harms is taken back, without labels.

use crate::{
    AlphaBn, AnyTestTime, Host, Lame, Seen, Trains,
    correlation::{evidence, p_value},
    host::{put, take},
};
use acclimate_core::{
    AnyState, AnyTensor, Card, Error, Inputs, Need, Normaliser, Params, RecordReader, RecordWriter, Result, Rng,
    SiteKind,
};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::{any::Any, collections::VecDeque};

/// When the gate of a stream says what. The defaults were chosen on the open scenarios of `acclimate bench tta`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// Rows looked at for a decision.
    pub window: usize,
    /// A stream counts as correlated from evidence `1/level` on; a mixed one reaches that after `1/level` windows on average, or later.
    pub level: f64,
    /// Shuffles behind each p-value.
    pub permutations: usize,
    /// Inputs count as shifted when half of the last rows are less typical than this share of the reference rows.
    pub typical: f64,
    /// How much the shares of predicted classes may differ, half the sum of differences, between the adapted model and the one before its
    /// first step.
    pub collapse: f64,
    /// Fewest rows of a batch from whose statistics a method may learn.
    pub least: usize,
    /// Seed of the shuffles.
    pub seed: u64,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self { window: 200, level: 0.02, permutations: 1999, typical: 0.9, collapse: 0.12, least: 16, seed: 0 }
    }
}

/// A method behind the gate.
///
/// For each batch the deployed model is asked as well. Three questions decide who answers:
///
/// 1. *Are neighbours alike more often than chance would have it?* A permutation test on the deployed model's features, one window after
///    another, one change of domain in a window allowed for; its p-values add up to evidence.
/// 2. *Are the inputs shifted?* Where there are reference batches: how far features lie from the mean of their predicted class, against the
///    same on the reference. Without them every input counts as shifted.
/// 3. *Has adaptation gone wrong?* The shares of predicted classes, against those of the model before its first step.
///
/// A mixed stream that is not shifted is answered by the deployed model, a shifted one by the method; in a batch too small to learn from, by
/// a mixture of stored statistics and the batch's. On a correlated stream nothing is learned: among the deployed model, mixtures of
/// statistics and the same with [`Lame`] behind them those answers are taken that agree most with their neighbours beyond what their shares
/// of classes would give, since where labels persist a better prediction persists too. After harm the last good patch comes back.
#[derive(Clone, Debug)]
pub struct Gated<'a> {
    inner: &'a dyn AnyTestTime,
    settings: GateSettings,
}

/// Shares of the batch in the statistics of candidates.
const SHARES: [f64; 3] = [0.5, 0.7, 1.0];
/// Evidence from which candidates are followed, so that there is something to choose by when it is enough.
const SUSPICION: f64 = 2.0;
/// Fewest rows to choose a candidate by.
const FEW: usize = 30;

/// What the deployed model's features look like on the reference.
#[derive(Clone, Debug, Default)]
struct Typical {
    /// Mean of each predicted class, then of all rows, `[classes + 1, width]`; empty without reference.
    means: Vec<f64>,
    /// Mean square around the class's mean, `[width]`.
    spread: Vec<f64>,
    /// The distance below which the share [`GateSettings::typical`] of reference rows lie.
    limit: f64,
    /// For each class, whether the reference has a row of it.
    known: Vec<f64>,
}

/// What the gate remembers.
#[derive(Debug)]
struct GateState {
    inner: Box<dyn AnyState>,
    first: Box<dyn AnyState>,
    typical: Typical,
    width: usize,
    /// Features of the rows since the last test.
    features: VecDeque<f64>,
    /// Distances of the last rows from their class.
    distances: VecDeque<f64>,
    /// Predicted classes of the last rows by each candidate: the deployed model, one for each share where there are batch norms, then
    /// the same with neighbours' agreement behind them.
    candidates: Vec<VecDeque<usize>>,
    /// Predicted classes of the last rows by the method and by the model before its first step.
    adapted: [VecDeque<usize>; 2],
    evidence: f64,
    tests: u64,
    correlated: bool,
    /// The last patch that was found good, the method's state with it, and the rows since.
    good: (Params, Box<dyn AnyState>, u64),
    told: Vec<String>,
}

impl<'a> Gated<'a> {
    /// Puts a method behind the gate.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn new(inner: &'a dyn AnyTestTime, settings: GateSettings) -> Result<Self> {
        let share = |x: f64| x > 0.0 && x < 1.0;
        let wrong = |what: &str| Err(Error::Other(format!("gate: {what}")));
        if !share(settings.level) || !share(settings.typical) || !share(settings.collapse) {
            return wrong("`level`, `typical` and `collapse` must lie between 0 and 1");
        }
        if settings.window < 20 || settings.permutations == 0 {
            return wrong("`window` must be at least 20 rows and `permutations` at least 1");
        }
        Ok(Self { inner, settings })
    }

    /// Takes in what the deployed model sees, and tests once a window is full.
    fn look(&self, state: &mut GateState, source: &Seen) {
        let settings = &self.settings;
        let classes = classes(&source.logits);
        let features = AnyTensor::from(source.features.clone()).to_f64s();
        state.width = features.len() / classes.len().max(1);
        if !state.typical.means.is_empty() {
            let of = |(row, class): (&[f64], &usize)| state.typical.distance(row, *class);
            state.distances.extend(features.chunks(state.width.max(1)).zip(&classes).map(of));
            keep(&mut state.distances, settings.window / 2);
        }
        state.features.extend(features);
        state.candidates[0].extend(&classes);
        keep(&mut state.candidates[0], settings.window);
        let full = settings.window * state.width;
        while full > 0 && state.features.len() >= full {
            let window: Vec<f64> = state.features.drain(..full).collect();
            let mut rng = Rng::new(settings.seed, "gate", state.tests);
            let p = p_value(&window, state.width, settings.permutations, &mut rng);
            state.tests += 1;
            state.evidence = evidence(state.evidence, p, 2.0 / settings.level);
        }
        let correlated = state.evidence >= 1.0 / settings.level;
        if correlated != state.correlated {
            state.correlated = correlated;
            state.told.push(if correlated {
                format!(
                    "neighbours are alike (evidence {:.0} to 1): nothing is learned while that lasts",
                    state.evidence
                )
            } else {
                "the stream is mixed again: the method goes on".to_owned()
            });
        }
    }

    /// Whether half of the last rows are less typical than nearly all of the reference.
    fn shifted(&self, state: &GateState) -> bool {
        if state.typical.means.is_empty() {
            return true;
        }
        let far = state.distances.iter().filter(|distance| **distance > state.typical.limit).count();
        2 * far > state.distances.len()
    }

    /// The answers of all candidates, first those of the deployed model.
    fn candidates(&self, batch: &Inputs, source: Seen, host: &mut Host<'_>) -> Result<Vec<Tensor<2>>> {
        let rows = batch.rows() as f64;
        let mut seen = vec![source];
        for share in shares(host) {
            let target_weight = share * rows / (rows + 1.0);
            seen.push(host.first_under(batch, &AlphaBn { target_weight, ..AlphaBn::default() })?);
        }
        let lame = Lame::default();
        let smoothed: Vec<Tensor<2>> = seen.iter().map(|seen| lame.answer(seen)).collect();
        Ok(seen.into_iter().map(|seen| seen.logits).chain(smoothed).collect())
    }

    /// A batch of a correlated stream, or of one that may be.
    fn choose(&self, state: &mut GateState, answers: &[Tensor<2>], shifted: bool) -> usize {
        for (candidate, answer) in answers.iter().enumerate().skip(1) {
            state.candidates[candidate].extend(classes(answer));
            keep(&mut state.candidates[candidate], self.settings.window);
        }
        let followed = state.candidates.iter().map(VecDeque::len).min().unwrap_or(0);
        let all = state.candidates.len();
        if followed < FEW {
            return all / 2;
        }
        let able = (0..all).filter(|at| shifted || at % (all / 2) == 0);
        let score = |at: usize| persistence(state.candidates[at].iter().rev().take(followed).copied());
        able.map(|at| (score(at), at)).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, at)| at)
    }

    /// A shifted batch of a mixed stream.
    fn adapt(&self, batch: &Inputs, state: &mut GateState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let baseline = host.first_under(batch, &AlphaBn { source_rows: Some(1.0), ..AlphaBn::default() })?;
        if self.inner.card().needs(Need::Batch) && batch.rows() < self.settings.least {
            return Ok(baseline.logits);
        }
        let logits = self.inner.step_any(batch, state.inner.as_mut(), host)?;
        for (ring, logits) in state.adapted.iter_mut().zip([&logits, &baseline.logits]) {
            ring.extend(classes(logits));
            keep(ring, self.settings.window);
        }
        state.good.2 += batch.rows() as u64;
        if state.adapted[0].len() < self.settings.window / 2 {
            return Ok(logits);
        }
        let apart = apart(&state.adapted, logits.dims()[1]);
        if apart <= self.settings.collapse {
            if apart <= self.settings.collapse / 2.0 && state.good.2 >= self.settings.window as u64 {
                state.good = (host.patch().params.clone(), state.inner.boxed(), 0);
            }
            return Ok(logits);
        }
        let (params, inner, _) = &state.good;
        host.reset()?;
        host.replace(self.inner.card().name, params.clone())?;
        state.inner = inner.boxed();
        state.adapted.iter_mut().for_each(VecDeque::clear);
        state.told.push(format!(
            "{:.0} % of predictions have moved to other classes: the last good patch is back",
            100.0 * apart
        ));
        Ok(baseline.logits)
    }
}

impl AnyTestTime for Gated<'_> {
    fn card(&self) -> Card {
        self.inner.card()
    }

    fn settings(&self) -> toml::Table {
        let mut table = self.inner.settings();
        let gate = toml::Table::try_from(&self.settings).expect("numbers alone");
        table.insert("gate".to_owned(), toml::Value::Table(gate));
        table
    }

    fn start(&self, host: &mut Host<'_>) -> Result<Box<dyn AnyState>> {
        let inner = self.inner.start(host)?;
        let typical = Typical::of(host, self.settings.typical)?;
        let good = (host.patch().params.clone(), inner.boxed(), 0);
        Ok(Box::new(GateState {
            first: inner.boxed(),
            inner,
            typical,
            width: 0,
            features: VecDeque::new(),
            distances: VecDeque::new(),
            candidates: vec![VecDeque::new(); 2 * (1 + shares(host).len())],
            adapted: [VecDeque::new(), VecDeque::new()],
            evidence: 1.0,
            tests: 0,
            correlated: false,
            good,
            told: vec![],
        }))
    }

    fn step_any(&self, batch: &Inputs, state: &mut dyn AnyState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let state = state.as_any_mut().downcast_mut::<GateState>().expect("a state is handed back to its gate");
        let source = host.source(batch)?;
        let was = state.correlated;
        self.look(state, &source);
        let shifted = self.shifted(state);
        if state.correlated && !was {
            // What was learned of a stream that was thought mixed is not to be trusted.
            host.reset()?;
            state.inner = state.first.boxed();
            state.good = (host.patch().params.clone(), state.first.boxed(), 0);
        }
        if state.correlated || state.evidence >= SUSPICION {
            let answers = self.candidates(batch, source.clone(), host)?;
            let chosen = self.choose(state, &answers, shifted);
            if state.correlated {
                return Ok(answers[chosen].clone());
            }
        } else {
            state.candidates.iter_mut().skip(1).for_each(VecDeque::clear);
        }
        if shifted { self.adapt(batch, state, host) } else { Ok(source.logits) }
    }

    fn trains_any(&self) -> Trains {
        self.inner.trains_any()
    }

    fn under_any(&self, state: &mut dyn AnyState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        let state = state.as_any_mut().downcast_mut::<GateState>().expect("a state is handed back to its gate");
        self.inner.under_any(state.inner.as_mut(), pass)
    }

    fn told(&self, state: &mut dyn AnyState) -> Vec<String> {
        let state = state.as_any_mut().downcast_mut::<GateState>().expect("a state is handed back to its gate");
        std::mem::take(&mut state.told)
    }

    fn restore(&self, from: &mut RecordReader) -> Result<Box<dyn AnyState>> {
        let numbers = |from: &mut RecordReader, name: &str| -> Result<Vec<f64>> {
            Ok(from.params(name)?.any(name).map(AnyTensor::to_f64s).unwrap_or_default())
        };
        let ring = |from: &mut RecordReader, name: &str| -> Result<VecDeque<usize>> {
            Ok(numbers(from, name)?.into_iter().map(|class| class as usize).collect())
        };
        let typical = Typical {
            means: numbers(from, "means")?,
            spread: numbers(from, "spread")?,
            known: numbers(from, "known")?,
            limit: from.f64("limit")?,
        };
        let candidates =
            (0..from.u64("candidates")?).map(|at| ring(from, &format!("candidate{at}"))).collect::<Result<Vec<_>>>()?;
        let good = (from.params("good")?, self.inner.restore(&mut take(from, "good"))?, from.u64("since")?);
        Ok(Box::new(GateState {
            inner: self.inner.restore(&mut take(from, "inner"))?,
            first: self.inner.restore(&mut take(from, "first"))?,
            typical,
            width: from.u64("width")? as usize,
            features: numbers(from, "features")?.into(),
            distances: numbers(from, "distances")?.into(),
            candidates,
            adapted: [ring(from, "adapted")?, ring(from, "baseline")?],
            evidence: from.f64("evidence")?,
            tests: from.u64("tests")?,
            correlated: from.bool("correlated")?,
            good,
            told: vec![],
        }))
    }
}

impl AnyState for GateState {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn boxed(&self) -> Box<dyn AnyState> {
        Box::new(Self {
            inner: self.inner.boxed(),
            first: self.first.boxed(),
            typical: self.typical.clone(),
            width: self.width,
            features: self.features.clone(),
            distances: self.distances.clone(),
            candidates: self.candidates.clone(),
            adapted: self.adapted.clone(),
            evidence: self.evidence,
            tests: self.tests,
            correlated: self.correlated,
            good: (self.good.0.clone(), self.good.1.boxed(), self.good.2),
            told: vec![],
        })
    }

    fn save(&self) -> RecordWriter {
        let mut to = RecordWriter::default();
        let mut numbers = |name: &str, numbers: Vec<f64>| {
            let mut params = Params::default();
            if !numbers.is_empty() {
                let shape = [numbers.len()];
                params.insert(name, AnyTensor::from_f64s(numbers, &shape, DType::F64, &Device::flex()));
            }
            to.params(name, &params);
        };
        let ring = |ring: &VecDeque<usize>| ring.iter().map(|class| *class as f64).collect::<Vec<_>>();
        numbers("means", self.typical.means.clone());
        numbers("spread", self.typical.spread.clone());
        numbers("known", self.typical.known.clone());
        numbers("features", self.features.iter().copied().collect());
        numbers("distances", self.distances.iter().copied().collect());
        numbers("adapted", ring(&self.adapted[0]));
        numbers("baseline", ring(&self.adapted[1]));
        for (at, candidate) in self.candidates.iter().enumerate() {
            numbers(&format!("candidate{at}"), ring(candidate));
        }
        to.u64("candidates", self.candidates.len() as u64);
        to.f64("limit", self.typical.limit);
        to.f64("evidence", self.evidence);
        to.u64("width", self.width as u64);
        to.u64("tests", self.tests);
        to.u64("since", self.good.2);
        to.bool("correlated", self.correlated);
        to.params("good", &self.good.0);
        put(&mut to, "good", self.good.1.save());
        put(&mut to, "inner", self.inner.save());
        put(&mut to, "first", self.first.save());
        to
    }

    fn slots(&mut self) -> Vec<&mut Params> {
        vec![]
    }

    fn own(&mut self) -> Vec<&mut Params> {
        vec![]
    }
}

impl Typical {
    /// What the host's reference batches look like to the deployed model; nothing without them.
    fn of(host: &mut Host<'_>, share: f64) -> Result<Self> {
        let (mut features, mut predicted, mut number) = (vec![], vec![], 0);
        for batch in host.reference_batches() {
            let seen = host.source(batch)?;
            predicted.extend(classes(&seen.logits));
            number = seen.logits.dims()[1];
            features.extend(AnyTensor::from(seen.features).to_f64s());
        }
        if predicted.is_empty() {
            return Ok(Self::default());
        }
        let width = features.len() / predicted.len();
        let rows = || features.chunks(width.max(1)).zip(&predicted);
        let (mut means, mut counts) = (vec![0.0; (number + 1) * width], vec![0.0; number + 1]);
        for (row, class) in rows() {
            for at in [*class, number] {
                counts[at] += 1.0;
                means[at * width..(at + 1) * width].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        for (mean, count) in means.chunks_mut(width.max(1)).zip(&counts) {
            mean.iter_mut().for_each(|x| *x /= f64::max(*count, 1.0));
        }
        let mut spread = vec![0.0; width];
        for (row, class) in rows() {
            let mean = &means[class * width..(class + 1) * width];
            let squares = row.iter().zip(mean).map(|(x, mean)| (x - mean).powi(2) / predicted.len() as f64);
            spread.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
        }
        // A feature that never varies says nothing; it must not count for everything.
        let floor = 1e-6 * spread.iter().sum::<f64>() / width.max(1) as f64 + f64::MIN_POSITIVE;
        spread.iter_mut().for_each(|x| *x += floor);
        let known = counts[..number].iter().map(|count| f64::from(u8::from(*count > 0.0))).collect();
        let mut typical = Self { means, spread, limit: 0.0, known };
        let mut distances: Vec<f64> = rows().map(|(row, class)| typical.distance(row, *class)).collect();
        distances.sort_by(f64::total_cmp);
        typical.limit = distances[((share * distances.len() as f64) as usize).min(distances.len() - 1)];
        Ok(typical)
    }

    /// How far a row lies from the mean of its predicted class; from that of all rows where the reference has none of the class.
    fn distance(&self, row: &[f64], class: usize) -> f64 {
        let at = if self.known.get(class).is_some_and(|known| *known > 0.0) { class } else { self.known.len() };
        let mean = &self.means[at * row.len()..(at + 1) * row.len()];
        let squares = row.iter().zip(mean).zip(&self.spread).map(|((x, mean), spread)| (x - mean).powi(2) / spread);
        squares.sum::<f64>().sqrt()
    }
}

/// The shares of the batch's statistics that candidates take; none where no norm has statistics.
fn shares(host: &Host<'_>) -> &'static [f64] {
    let any = host.model().sites().iter().any(|site| site.kind == SiteKind::BatchNorm);
    if any { &SHARES } else { &[] }
}

/// The class each row wins.
fn classes(logits: &Tensor<2>) -> Vec<usize> {
    logits.clone().argmax(1).to_data().iter::<i64>().map(|class| class as usize).collect()
}

/// Drops the oldest but `most`.
fn keep<T>(ring: &mut VecDeque<T>, most: usize) {
    ring.drain(..ring.len().saturating_sub(most));
}

/// How often a prediction equals the next, beyond what the shares of classes would give: `Σ 1[cᵢ = cᵢ₊₁]/(n − 1) − Σₖ sₖ²`.
fn persistence(classes: impl Iterator<Item = usize>) -> f64 {
    let classes: Vec<usize> = classes.collect();
    let n = classes.len() as f64;
    let mut counts = vec![0.0; classes.iter().max().map_or(0, |most| most + 1)];
    for class in &classes {
        counts[*class] += 1.0;
    }
    let equal = classes.windows(2).filter(|pair| pair[0] == pair[1]).count() as f64;
    equal / (n - 1.0).max(1.0) - counts.iter().map(|count| (count / n).powi(2)).sum::<f64>()
}

/// Half the sum of differences between the shares of classes in two lists.
fn apart(lists: &[VecDeque<usize>; 2], classes: usize) -> f64 {
    let mut difference = vec![0.0; classes];
    for (list, sign) in lists.iter().zip([1.0, -1.0]) {
        for class in list {
            difference[*class] += sign / list.len() as f64;
        }
    }
    difference.iter().map(|x| x.abs()).sum::<f64>() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_predictions_do_not_persist_beyond_their_share() {
        assert_eq!(persistence([3; 50].into_iter()), 0.0);
    }

    #[test]
    fn persistence_is_largest_for_long_runs() {
        let runs = |length: usize| persistence((0..60).map(move |i| (i / length) % 3));
        assert!(runs(20) > runs(5) && runs(5) > runs(2) && runs(1) < 0.0);
    }

    #[test]
    fn lists_with_other_shares_are_apart() {
        let list = |classes: &[usize]| classes.iter().copied().collect::<VecDeque<_>>();
        assert_eq!(apart(&[list(&[0, 1, 2, 3]), list(&[3, 2, 1, 0])], 4), 0.0);
        assert_eq!(apart(&[list(&[0, 0, 0, 0]), list(&[0, 1, 0, 1])], 4), 0.5);
    }
}
