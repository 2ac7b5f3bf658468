//! What a test-time method meets: which rows come in which order, batch and shift, as a value that can be kept and replayed.
//!
//! Labels decide the order alone. They are no part of a [`Step`], so no method meets them by way of a scenario.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use acclimate_core::{Error, Result, Rng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::assets::hex;
use crate::corruptions::{Corruption, DigitShift, corrupt, rotate};
use crate::images::Image;

/// The largest batch of a scenario.
const MAX_BATCH: usize = 200;
/// How often the slots of a Dirichlet order are drawn before its settings are refused.
const TRIES: usize = 1000;

/// What is done to the pictures of a domain. In files it is a word: `none`, `fog@5` (a corruption and its severity),
/// `digits.fog` (a shift of digits) or `rotation@30` (degrees, counter-clockwise).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Shift {
    /// Nothing.
    None,
    /// A common corruption.
    Corruption {
        /// Which one.
        kind: Corruption,
        /// 1 to 5.
        severity: usize,
    },
    /// A shift for small digits.
    Digits(DigitShift),
    /// A turn.
    Rotation {
        /// Counter-clockwise.
        degrees: f64,
    },
}

impl Shift {
    /// The picture of one row with this shift. Its draws depend on the seed, the shift and the row alone, so a row looks
    /// the same whenever it comes.
    ///
    /// # Errors
    /// Those of [`corrupt`], [`DigitShift::apply`] and [`rotate`].
    pub fn apply(self, image: &Image, seed: u64, row: usize) -> Result<Image> {
        let mut rng = Rng::new(seed, &format!("data.shift.{self}"), row as u64);
        match self {
            Self::None => Ok(image.clone()),
            Self::Corruption { kind, severity } => corrupt(image, kind, severity, &mut rng),
            Self::Digits(shift) => shift.apply(image, &mut rng),
            Self::Rotation { degrees } => rotate(image, degrees),
        }
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Corruption { kind, severity } => write!(f, "{kind}@{severity}"),
            Self::Digits(shift) => write!(f, "digits.{shift}"),
            Self::Rotation { degrees } => write!(f, "rotation@{degrees}"),
        }
    }
}

impl FromStr for Shift {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(shift) = text.strip_prefix("digits.") {
            return Ok(Self::Digits(shift.parse()?));
        }
        let (name, strength) = text.split_once('@').unwrap_or((text, ""));
        if name == "rotation" {
            let degrees = strength.parse().ok().filter(|degrees: &f64| degrees.is_finite());
            let why = "must say by how many degrees, such as `rotation@30`";
            return Ok(Self::Rotation { degrees: degrees.ok_or_else(|| param("domains", text, why))? });
        }
        let kind = name.parse()?;
        match strength.parse() {
            Ok(severity @ 1..=5) => Ok(Self::Corruption { kind, severity }),
            _ => Err(param("domains", text, format!("must have a severity from 1 to 5, such as `{name}@5`"))),
        }
    }
}

impl TryFrom<String> for Shift {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Shift> for String {
    fn from(shift: Shift) -> Self {
        shift.to_string()
    }
}

/// How domains follow each other, and when a method is put back to its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixture {
    /// One domain after another; back to the start before every batch.
    Episodic,
    /// One domain after another; back to the start at each.
    ResetEachShift,
    /// One domain after another.
    Continual,
    /// One corruption after another, each from severity 1 up to its own and down again.
    Gradual,
    /// All domains shuffled together.
    Mixed,
    /// One domain after another, in rounds.
    Recurring {
        /// How often each domain comes.
        rounds: usize,
    },
}

/// The order of labels within a domain, or within all of them when they are mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelOrder {
    /// Shuffled.
    #[default]
    Iid,
    /// Class by class.
    Sorted,
    /// In as many slots as there are classes, over which each class is spread by shares drawn from a symmetric Dirichlet
    /// distribution. A slot with its part of all rows takes no further class. A small `delta` is nearly sorted, a large one
    /// nearly shuffled.
    Dirichlet {
        /// The distribution's concentration.
        delta: f64,
        /// All is drawn again while a slot has fewer rows than this; 10 if not given.
        #[serde(default = "ten")]
        least: usize,
        /// Whether a slot holds its classes one after another, in random order, as in NOTE and its successors, and not
        /// shuffled. Then no `delta` makes the order iid.
        #[serde(default)]
        runs: bool,
    },
}

fn ten() -> usize {
    10
}

/// A stream of batches, as said in a file.
///
/// # Example
/// ```
/// use acclimate_data::Scenario;
///
/// let scenario = Scenario::from_toml(
///     r#"
///     domains = ["gaussian_noise@5", "digits.fog", "rotation@30", "none"]
///     mixture = "continual"
///     labels = { dirichlet = { delta = 0.1 } }
///     batch_size = 50
///     seed = 1
///     "#,
/// )?;
/// let labels: Vec<usize> = (0..1000).map(|row| row % 10).collect();
/// let steps = scenario.order(&labels)?;
/// assert_eq!(steps.len(), 4 * 20);
/// assert_eq!(scenario.hash(&labels)?, scenario.hash(&labels)?);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The domains in their order; every one shows all rows.
    pub domains: Vec<Shift>,
    /// How they follow each other.
    pub mixture: Mixture,
    /// The order of labels; shuffled if not given.
    #[serde(default)]
    pub labels: LabelOrder,
    /// Rows in a batch, 1 to 200; the last one of a domain may have fewer.
    pub batch_size: usize,
    /// Names the random streams of the order and of the shifts.
    #[serde(default)]
    pub seed: u64,
}

/// A batch of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Rows by position.
    pub rows: Vec<usize>,
    /// The shift of each row.
    pub shifts: Vec<Shift>,
    /// Whether a domain begins here; for reports, as a method need not know it.
    pub begins: bool,
    /// Whether the method is put back to its start before this batch.
    pub resets: bool,
}

fn param(param: &'static str, value: impl ToString, why: impl Into<String>) -> Error {
    Error::Param { method: "scenario", param, value: value.to_string(), why: why.into() }
}

impl Scenario {
    /// Reads a scenario, and checks it.
    ///
    /// # Errors
    /// Text that is no TOML, has unknown or missing keys, or values outside their range.
    pub fn from_toml(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).map_err(|e| Error::format("scenario", e.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        if self.domains.is_empty() {
            return Err(param("domains", "[]", "must have one at least; `none` leaves pictures as they are"));
        }
        if !(1..=MAX_BATCH).contains(&self.batch_size) {
            return Err(param("batch_size", self.batch_size, format!("must lie between 1 and {MAX_BATCH}")));
        }
        if self.mixture == (Mixture::Recurring { rounds: 0 }) {
            return Err(param("mixture.recurring.rounds", 0, "must be positive"));
        }
        if let LabelOrder::Dirichlet { delta, .. } = self.labels
            && !(delta > 0.0 && delta.is_finite())
        {
            return Err(param("labels.dirichlet.delta", delta, "must be positive and finite"));
        }
        let steady = |shift: &&Shift| !matches!(shift, Shift::Corruption { .. });
        match self.domains.iter().find(steady) {
            Some(shift) if self.mixture == Mixture::Gradual => {
                let why = "must be corruptions where the mixture is `gradual`: nothing else has severities";
                Err(param("domains", shift, why))
            }
            _ => Ok(()),
        }
    }

    /// The domains that are shown together, in the order of time.
    fn visits(&self) -> Vec<Vec<Shift>> {
        let one_by_one = || self.domains.iter().map(|&shift| vec![shift]);
        match self.mixture {
            Mixture::Episodic | Mixture::ResetEachShift | Mixture::Continual => one_by_one().collect(),
            Mixture::Mixed => vec![self.domains.clone()],
            Mixture::Recurring { rounds } => (0..rounds).flat_map(|_| one_by_one()).collect(),
            Mixture::Gradual => self
                .domains
                .iter()
                .flat_map(|&shift| match shift {
                    Shift::Corruption { kind, severity: peak } => {
                        let there_and_back = (1..=peak).chain((1..peak).rev());
                        there_and_back.map(|severity| vec![Shift::Corruption { kind, severity }]).collect()
                    }
                    other => vec![vec![other]],
                })
                .collect(),
        }
    }

    /// The batches over rows with these labels, which decide the order alone and go nowhere else. Draws depend on the seed
    /// and on how many domains were shown before.
    ///
    /// # Errors
    /// A scenario with values outside their range, no rows, or too few rows for the slots of a Dirichlet order.
    pub fn order(&self, labels: &[usize]) -> Result<Vec<Step>> {
        self.check()?;
        if labels.is_empty() {
            return Err(param("rows", 0, "must be one at least"));
        }
        let mut steps = Vec::new();
        for (visit, shifts) in (0_u64..).zip(self.visits()) {
            let mut rng = Rng::new(self.seed, "data.scenario.order", visit);
            let all: Vec<usize> = shifts.iter().flat_map(|_| labels).copied().collect();
            let order = self.labels.order(&all, &mut rng)?;
            for (turn, items) in order.chunks(self.batch_size).enumerate() {
                let begins = turn == 0;
                steps.push(Step {
                    rows: items.iter().map(|item| item % labels.len()).collect(),
                    shifts: items.iter().map(|item| shifts[item / labels.len()]).collect(),
                    begins,
                    resets: match self.mixture {
                        Mixture::Episodic => true,
                        Mixture::ResetEachShift => begins,
                        _ => false,
                    },
                });
            }
        }
        Ok(steps)
    }

    /// The SHA-256, in hexadecimal, of the scenario in its one written form and of the order it has over these labels. Two
    /// results may stand side by side only where it is equal.
    ///
    /// # Errors
    /// As [`Scenario::order`].
    pub fn hash(&self, labels: &[usize]) -> Result<String> {
        let mut hash = Sha256::new();
        let written = serde_json::to_string(self).map_err(|e| Error::Other(format!("scenario: {e}")))?;
        hash.update(written);
        for step in self.order(labels)? {
            hash.update([0, u8::from(step.begins), u8::from(step.resets)]);
            hash.update((step.rows.len() as u64).to_le_bytes());
            for (row, shift) in step.rows.iter().zip(&step.shifts) {
                hash.update((*row as u64).to_le_bytes());
                hash.update(shift.to_string());
                hash.update([0]);
            }
        }
        Ok(hex(&hash.finalize()))
    }
}

impl LabelOrder {
    /// Positions of the labels in the order of time.
    fn order(self, labels: &[usize], rng: &mut Rng) -> Result<Vec<usize>> {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        rng.shuffle(&mut order);
        match self {
            Self::Iid => {}
            Self::Sorted => order.sort_by_key(|&at| labels[at]),
            Self::Dirichlet { delta, least, runs } => {
                let mut classes = BTreeMap::<usize, Vec<usize>>::new();
                order.iter().for_each(|&at| classes.entry(labels[at]).or_default().push(at));
                let classes: Vec<Vec<usize>> = classes.into_values().collect();
                order = slots(&classes, delta, least, rng)?
                    .into_iter()
                    .flat_map(|mut parts| {
                        // Each part is of one class and shuffled already.
                        rng.shuffle(&mut parts);
                        let mut rows = parts.concat();
                        if !runs {
                            rng.shuffle(&mut rows);
                        }
                        rows
                    })
                    .collect();
            }
        }
        Ok(order)
    }
}

/// For each slot the part of every class.
fn slots(classes: &[Vec<usize>], delta: f64, least: usize, rng: &mut Rng) -> Result<Vec<Vec<Vec<usize>>>> {
    let (count, total) = (classes.len(), classes.iter().map(Vec::len).sum::<usize>());
    if least > total / count {
        let why = format!("must be at most {}: {total} rows are spread over {count} slots", total / count);
        return Err(param("labels.dirichlet.least", least, why));
    }
    for _ in 0..TRIES {
        let mut slots = vec![Vec::new(); count];
        let mut sizes = vec![0; count];
        for class in classes {
            let draws: Vec<f64> = (0..count).map(|_| log_gamma_variate(delta, rng)).collect();
            let open = |slot: usize| sizes[slot] * count < total;
            let largest = (0..count).filter(|&slot| open(slot)).map(|slot| draws[slot]).fold(f64::MIN, f64::max);
            // Shares by way of logarithms: with a small delta all but one draw would be zero, or all.
            let share = |slot: usize| if open(slot) { (draws[slot] - largest).exp() } else { 0.0 };
            let shares: Vec<f64> = (0..count).map(share).collect();
            let whole: f64 = shares.iter().sum();
            let (mut sum, mut start) = (0.0, 0);
            for (slot, share) in shares.iter().enumerate() {
                sum += share;
                let end = match slot + 1 == count {
                    true => class.len(),
                    false => ((sum / whole * class.len() as f64) as usize).clamp(start, class.len()),
                };
                slots[slot].push(class[start..end].to_vec());
                sizes[slot] += end - start;
                start = end;
            }
        }
        if sizes.iter().all(|&size| size >= least) {
            return Ok(slots);
        }
    }
    let why = format!("must be larger, or `least` smaller than {least}: {TRIES} draws left a slot with fewer rows");
    Err(param("labels.dirichlet.delta", delta, why))
}

/// The logarithm of a gamma variate of scale 1 (Marsaglia and Tsang 2000), so that none is too small to be told from zero.
fn log_gamma_variate(shape: f64, rng: &mut Rng) -> f64 {
    if shape < 1.0 {
        let below = (1.0 - rng.uniform()).ln() / shape;
        return below + log_gamma_variate(shape + 1.0, rng);
    }
    let d = shape - 1.0 / 3.0;
    loop {
        let x = rng.normal();
        let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
        if v > 0.0 && (1.0 - rng.uniform()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
            return (d * v).ln();
        }
    }
}
