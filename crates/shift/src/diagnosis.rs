//! What kind of shift lies between two domains: what the rows refute, what they leave open, and how sure that is.

use crate::ratio::{self, drawn_order};
use crate::{Affine, Align, DiscriminatorWeights, Em, Explained, Explanation, Host, Kind, Source, Target};
use acclimate_core::{Error, Result, Rng};
use acclimate_stats::learn::{Boosted, Forest, Labels, Learner, Logistic, largest, select};
use acclimate_stats::linalg::{column_means, covariance, product, symmetric_eigen};
use acclimate_stats::mixture::MixtureSettings;
use acclimate_stats::two_sample::{self, Column, ColumnTest, Tested};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How a [`Diagnosis`] is made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiagnosisSettings {
    /// The chance of a false alarm where nothing changed, and of refuting a kind that is true.
    pub level: f64,
    /// Exchanges of rows in each test; no p-value is below one over so many and one, so there must be six over the level.
    pub permutations: usize,
    /// Rows of each domain at most in tests whose cost grows with the square of the rows.
    pub rows: usize,
    /// Principal axes at most in which maps between the domains are looked for.
    pub axes: usize,
    /// Names the random draws.
    pub seed: u64,
}

impl Default for DiagnosisSettings {
    fn default() -> Self {
        Self { level: 0.05, permutations: 499, rows: 1000, axes: 8, seed: 0 }
    }
}

/// Two domains to be compared. Labels of the target are read by tests alone, and make more kinds refutable.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// `[rows, features]`, on one scale.
    pub source: ArrayView2<'a, f64>,
    /// Labels of the source.
    pub labels: Option<&'a Labels>,
    /// `[rows, features]`.
    pub target: ArrayView2<'a, f64>,
    /// Labels of the target.
    pub target_labels: Option<&'a Labels>,
    /// The columns of both, to be tested one by one.
    pub columns: &'a [Column],
}

/// A test of whether anything changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangeTest {
    /// What it is called.
    pub name: &'static str,
    /// What its statistic is.
    pub statistic: &'static str,
    /// The statistic and the p-value.
    #[serde(flatten)]
    pub tested: Tested,
}

/// Where a kind of shift stands after the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was tested and accounts for what was seen.
    Compatible,
    /// It was tested and does not.
    Refuted,
    /// No test can refute it with what is given.
    Untestable,
    /// It could not be tried here.
    Untried,
}

/// A kind of shift and what speaks for or against it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindFinding {
    /// The kind.
    pub kind: Kind,
    /// Where it stands.
    pub standing: Standing,
    /// The p-value of what the kind leaves unexplained.
    pub p: Option<f64>,
    /// What was tested, or why not.
    pub why: String,
}

/// What lies between two domains.
///
/// **Has anything changed?** Tests by exchanging rows: the maximum mean discrepancy, a classifier that tells the domains apart, every column
/// by itself; with labels of the source the classes that a model of the source predicts; with labels of the target also these, and rows
/// class by class. The p-value is the least of theirs times their number, so the chance of a false alarm is at most `level`.
///
/// **Which kinds account for it?** Each kind says how rows of the source become rows like the target's; what is left is tested again.
/// - `label`: rows of the source are kept with a chance in proportion to their class's new share over the old (EM on the predictions of a
///   model that has not seen them). With labels of the target: rows are exchanged within classes.
/// - `conditional` and `subspace`, as assumptions: rows are stretched along columns, or turned over along principal axes, and keep labels.
/// - `covariate`: any law of rows is possible, so rows alone never refute it. With labels of the target: the generalised covariance of
///   label and domain given the row is tested, with a p-value that is one of large samples (in a few hundred rows true ones are refuted two
///   or three times too often). Where this and `label` are refuted, what rows mean has changed: `conditional`, whatever the
///   form.
///
/// `likeliest` is, of the kinds that stand, the one that [`Explained`] takes the target for, else the one with the fewest fitted numbers.
///
/// # Example
/// ```
/// use acclimate_shift::{Diagnosis, DiagnosisSettings, Kind, Pair, ShiftKind, ShiftedPair};
/// use acclimate_stats::learn::Labels;
///
/// let pair = ShiftedPair::new(ShiftKind::Label, 0);
/// let labels = Labels::Classes { of: pair.source_labels.clone(), count: 2 };
/// let (source, target) = (pair.source.view(), pair.target.view());
/// let pair = Pair { source, labels: Some(&labels), target, target_labels: None, columns: &[] };
/// let found = Diagnosis::new(&pair, &DiagnosisSettings { permutations: 199, rows: 300, ..Default::default() })?;
/// assert!(found.changed && found.likeliest == Kind::Label);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Rabanser, Günnemann and Lipton, *Failing Loudly*, NeurIPS 2019, arXiv:1810.11953, for tests on predictions; Lipton, Wang and Smola,
/// *Detecting and Correcting for Label Shift with Black Box Predictors*, ICML 2018, arXiv:1802.03916; Shah and Peters, *The Hardness of
/// Conditional Independence Testing and the Generalised Covariance Measure*, Annals of Statistics 2020, arXiv:1804.07203; Scheidegger,
/// Hörrmann and Bühlmann, *The Weighted Generalised Covariance Measure*, JMLR 2022, arXiv:2111.04361.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Whether anything changed, at the level asked for.
    pub changed: bool,
    /// The p-value of the hypothesis that nothing did.
    pub p: f64,
    /// The tests behind it.
    pub tests: Vec<ChangeTest>,
    /// Each column by itself, in the order they were given.
    pub columns: Vec<ColumnTest>,
    /// How well the domains are told apart: the area under the curve on rows that the classifier has not seen, from one half to one.
    pub area: f64,
    /// The share of the source's rows that is left, effectively, when they are weighed like the target.
    pub effective_share: f64,
    /// The kinds that were tried: that nothing changed, and where that is refuted the others.
    pub kinds: Vec<KindFinding>,
    /// Of the kinds that stand the one that densities speak for; not all that might be true.
    pub likeliest: Kind,
    /// The shares of the classes in both domains, under the assumption of a label shift; empty without classes.
    pub shares: Vec<[f64; 2]>,
}

/// Classes, or numbers cut at the fifths of the source.
struct Classes {
    source: Vec<usize>,
    target: Option<Vec<usize>>,
    count: usize,
}

const FIFTHS: usize = 5;
/// Tests of whether anything changed, at most.
const TESTS: f64 = 6.0;
/// Fewer rows than this say nothing about a kind.
const LEAST: usize = 20;

impl Classes {
    fn new(labels: &Labels, target: Option<&Labels>) -> Result<Self> {
        let numbers = match labels {
            Labels::Classes { of, count } => {
                let target = target.map(|labels| labels.classes("diagnosis")).transpose()?.map(|(of, _)| of.to_vec());
                return Ok(Self { source: of.clone(), target, count: *count });
            }
            Labels::Numbers(numbers) => numbers,
        };
        let mut sorted = numbers.clone();
        sorted.sort_by(f64::total_cmp);
        let mut cuts: Vec<f64> = (1..FIFTHS).map(|fifth| sorted[fifth * sorted.len() / FIFTHS]).collect();
        cuts.dedup();
        let place = |numbers: &[f64]| numbers.iter().map(|y| cuts.partition_point(|cut| cut <= y)).collect::<Vec<_>>();
        let target = target.map(|labels| labels.numbers("diagnosis")).transpose()?.map(place);
        // A cut at the least number has nothing below it.
        let (source, least) = (place(numbers), place(&sorted[..1])[0]);
        let down = |of: Vec<usize>| of.into_iter().map(|class| class.saturating_sub(least)).collect();
        Ok(Self { source: down(source), target: target.map(down), count: cuts.len() + 1 - least })
    }
}

/// The rows that tests use, and where they look.
struct Rows<'a> {
    pair: Pair<'a>,
    settings: DiagnosisSettings,
    classes: Option<Classes>,
    /// Rows of the source and of the target in tests that cost much.
    few: [Vec<usize>; 2],
}

fn test(name: &'static str, statistic: &'static str, tested: Tested) -> ChangeTest {
    ChangeTest { name, statistic, tested }
}

/// The p-value of the least of several.
fn least(p: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = p.len() as f64;
    (count * p.fold(1.0, f64::min)).min(1.0)
}

impl Diagnosis {
    /// Compares two domains.
    ///
    /// # Errors
    /// When a domain has fewer than eight rows, widths differ, a number is not finite, or labels do not go with the rows.
    pub fn new(pair: &Pair<'_>, settings: &DiagnosisSettings) -> Result<Self> {
        check(pair, settings)?;
        let few = [("few of the source", pair.source), ("few of the target", pair.target)].map(|(purpose, x)| {
            let mut order = drawn_order(x, settings.seed, purpose);
            order.truncate(settings.rows);
            order
        });
        let classes = pair.labels.map(|labels| Classes::new(labels, pair.target_labels)).transpose()?;
        let rows = Rows { pair: *pair, settings: *settings, classes, few };
        let columns = two_sample::columns(pair.columns, settings.permutations, settings.seed)?;
        let (mut tests, within) = rows.changes(&columns)?;
        let area = tests.iter().find(|test| test.name == CLASSIFIER).map_or(0.5, |test| test.tested.statistic);
        let prediction = rows.prediction()?;
        if let Some(Prediction { tested, .. }) = &prediction {
            tests.push(test("predictions", "difference of the shares of predicted classes", *tested));
        }
        let p = least(tests.iter().map(|test| test.tested.p));
        let changed = p <= settings.level;
        let shares = prediction.as_ref().map_or_else(Vec::new, |found| found.shares.clone());
        let nothing = KindFinding {
            kind: Kind::None,
            standing: if changed { Standing::Refuted } else { Standing::Compatible },
            p: Some(p),
            why: "all tests together".to_owned(),
        };
        let (mut kinds, mut taken) = (vec![nothing], Kind::None);
        // Where nothing changed every kind accounts for it, by changing nothing.
        if changed {
            let explanation = rows.explanation();
            kinds.extend(rows.kinds(within, prediction, &explanation)?);
            let spoken = explanation.ok().map(|found| Explained::default().kind(&found, rows.few[1].len()));
            taken = likeliest(&kinds, spoken);
        }
        let likeliest = taken;
        Ok(Self {
            changed,
            p,
            tests,
            columns,
            area,
            effective_share: rows.effective_share()?,
            kinds,
            likeliest,
            shares,
        })
    }

    /// The kinds that stand: nothing where nothing changed, else all that were not refuted and could be tried.
    pub fn standing(&self) -> Vec<Kind> {
        if !self.changed {
            return vec![Kind::None];
        }
        let stands = |found: &&KindFinding| matches!(found.standing, Standing::Compatible | Standing::Untestable);
        self.kinds.iter().filter(stands).map(|found| found.kind).collect()
    }
}

fn check(pair: &Pair<'_>, settings: &DiagnosisSettings) -> Result<()> {
    if !(settings.level > 0.0 && settings.level < 1.0) || settings.rows < LEAST {
        let what = format!("diagnosis: `level` lies between 0 and 1, and tests need {LEAST} `rows` at least");
        return Err(Error::Other(what));
    }
    let enough = (TESTS / settings.level).ceil() - 1.0;
    if (settings.permutations as f64) < enough {
        let (level, got) = (settings.level, settings.permutations);
        let what = format!(
            "diagnosis: {got} permutations cannot find anything at level {level} in {TESTS} tests; give {enough}"
        );
        return Err(Error::Other(what));
    }
    let (rows, least) = (pair.source.nrows().min(pair.target.nrows()), 8);
    if rows < least {
        return Err(Error::Other(format!(
            "diagnosis: a domain has {rows} rows; a shift is told by {least} of each at least"
        )));
    }
    if let Some(labels) = pair.labels {
        let source = Source::new(pair.source, labels)?;
        Target::new(pair.target, &source)?;
    }
    let Some(labels) = pair.target_labels else { return Ok(()) };
    if pair.labels.is_none() || labels.len() != pair.target.nrows() {
        let what =
            "diagnosis: labels of the target need a label for each of its rows, and labels of the source beside them";
        return Err(Error::Other(what.to_owned()));
    }
    Ok(())
}

/// The kind that densities speak for where it stands, else the one with the fewest fitted numbers.
fn likeliest(kinds: &[KindFinding], spoken: Option<Kind>) -> Kind {
    let stands = |kind: Kind| {
        let is = |found: &&KindFinding| found.kind == kind;
        kinds.iter().find(is).is_some_and(|found| matches!(found.standing, Standing::Compatible | Standing::Untestable))
    };
    let order = [Kind::Label, Kind::Conditional, Kind::Subspace, Kind::Covariate];
    let spoken = spoken.filter(|kind| *kind != Kind::None);
    spoken.into_iter().chain(order).find(|kind| stands(*kind)).unwrap_or(Kind::Conditional)
}

/// Who tells domains and classes apart: small trees, which need no scale and find what lines do not.
fn booster() -> Boosted {
    Boosted { steps: 40, depth: 3, ..Boosted::default() }
}

const CLASSIFIER: &str = "classifier";

/// What a model of the source says of both domains.
struct Prediction {
    tested: Tested,
    shares: Vec<[f64; 2]>,
    /// The share of each class in the target over that in the source; none where it cannot be told.
    weights: Result<Vec<f64>>,
}

impl Rows<'_> {
    fn few(&self) -> [Array2<f64>; 2] {
        [select(self.pair.source, &self.few[0]), select(self.pair.target, &self.few[1])]
    }

    /// The classes of the few rows.
    fn few_classes(&self) -> Option<[Vec<usize>; 2]> {
        let classes = self.classes.as_ref()?;
        let target = classes.target.as_ref()?;
        let of = |all: &[usize], rows: &[usize]| rows.iter().map(|row| all[*row]).collect();
        Some([of(&classes.source, &self.few[0]), of(target, &self.few[1])])
    }

    /// All tests of whether anything changed but that of predictions, and that of rows within classes.
    fn changes(&self, columns: &[ColumnTest]) -> Result<(Vec<ChangeTest>, Option<Tested>)> {
        let DiagnosisSettings { permutations, seed, .. } = self.settings;
        let [source, target] = self.few();
        let found = two_sample::discrepancy(source.view(), target.view(), None, permutations, seed)?;
        let mut tests = vec![test("discrepancy", "squared maximum mean discrepancy", found)];
        let learner = booster();
        let found = two_sample::classifier(self.pair.source, self.pair.target, &learner, permutations, seed)?;
        tests.push(test(CLASSIFIER, "area under the curve", found));
        if !columns.is_empty() {
            let p = columns.iter().map(|column| column.adjusted).fold(1.0, f64::min);
            let statistic = columns.iter().map(|column| column.distance).fold(0.0, f64::max);
            tests.push(test("columns", "largest distance of a column", Tested { statistic, p }));
        }
        let (Some(labels), Some(target_labels)) = (self.pair.labels, self.pair.target_labels) else {
            return Ok((tests, None));
        };
        let column = match (labels, target_labels) {
            (Labels::Numbers(source), Labels::Numbers(target)) => {
                Column::Numbers { source: source.clone(), target: target.clone() }
            }
            _ => {
                let ((source, count), (target, _)) = (labels.classes("labels")?, target_labels.classes("labels")?);
                Column::Categories { source: source.to_vec(), target: target.to_vec(), count }
            }
        };
        let found = two_sample::columns(&[column], permutations, seed)?[0];
        let tested = Tested { statistic: found.distance, p: found.p };
        tests.push(test("labels", "distance of the labels", tested));
        let Some([ours, theirs]) = self.few_classes() else { return Ok((tests, None)) };
        let within = two_sample::discrepancy(source.view(), target.view(), Some((&ours, &theirs)), permutations, seed)?;
        tests.push(test("rows within classes", "squared maximum mean discrepancy within classes", within));
        Ok((tests, Some(within)))
    }

    /// The classes that a model of one half of the source predicts, for the other half and for the target.
    fn prediction(&self) -> Result<Option<Prediction>> {
        let Some(classes) = &self.classes else { return Ok(None) };
        let DiagnosisSettings { permutations, seed, .. } = self.settings;
        let mut order = drawn_order(self.pair.source, seed, "halves of the source");
        order.sort_by_key(|row| classes.source[*row]);
        let (mut train, mut held) = (vec![], vec![]);
        order
            .iter()
            .enumerate()
            .for_each(|(place, row)| if place % 2 == 0 { train.push(*row) } else { held.push(*row) });
        let of = |rows: &[usize]| Labels::Classes {
            of: rows.iter().map(|row| classes.source[*row]).collect(),
            count: classes.count,
        };
        let learner = booster();
        let fitted = learner.fit(select(self.pair.source, &train).view(), &of(&train), None)?;
        let [ours, theirs] =
            [select(self.pair.source, &held), self.pair.target.to_owned()].map(|x| fitted.answers(x.view()));
        let (ours, theirs) = (ours?, theirs?);
        let column =
            Column::Categories { source: largest(ours.view()), target: largest(theirs.view()), count: classes.count };
        let found = two_sample::columns(&[column], permutations, seed)?[0];
        let estimate = Em::default().weights(ours.view(), &of(&held), theirs.view());
        let share = |class: usize| {
            classes.source.iter().filter(|of| **of == class).count() as f64 / classes.source.len() as f64
        };
        let shares = match &estimate {
            Ok(found) => found.prior.iter().enumerate().map(|(class, prior)| [share(class), *prior]).collect(),
            Err(_) => vec![],
        };
        let weights = estimate.map(|found| found.weights);
        Ok(Some(Prediction { tested: Tested { statistic: found.distance, p: found.p }, shares, weights }))
    }

    fn kinds(
        &self,
        within: Option<Tested>,
        prediction: Option<Prediction>,
        explanation: &Result<Explanation>,
    ) -> Result<Vec<KindFinding>> {
        let level = self.settings.level;
        let stands = |p: f64| if p > level { Standing::Compatible } else { Standing::Refuted };
        let finding =
            |kind, p: f64, why: &str| KindFinding { kind, standing: stands(p), p: Some(p), why: why.to_owned() };
        let untried = |kind, why: String| KindFinding { kind, standing: Standing::Untried, p: None, why };
        let mut kinds = vec![match (within, prediction) {
            (Some(within), _) => finding(Kind::Label, within.p, "rows are exchanged within classes"),
            (None, None) => untried(Kind::Label, "the source has no labels".to_owned()),
            (None, Some(prediction)) => match prediction.weights.and_then(|weights| self.kept_by_class(&weights)) {
                Ok(p) => finding(Kind::Label, p, "rows of the source kept by the new shares of their classes"),
                Err(error) => untried(Kind::Label, error.to_string()),
            },
        }];
        let covariate = match self.covariate()? {
            Some(p) => finding(Kind::Covariate, p, "covariance of label and domain given the row"),
            None => KindFinding {
                kind: Kind::Covariate,
                standing: Standing::Untestable,
                p: None,
                why: "rows alone never refute it; labels of some rows of the target would".to_owned(),
            },
        };
        let label = kinds[0].standing;
        match explanation {
            Ok(found) => {
                for (kind, map) in [(Kind::Conditional, &found.stretched), (Kind::Subspace, &found.turned)] {
                    let what = if kind == Kind::Conditional {
                        "stretched along its columns"
                    } else {
                        "turned over along its axes"
                    };
                    match self.mapped(map) {
                        Ok(p) => {
                            kinds.push(finding(kind, p, &format!("the source {what}, assumed to keep its labels")))
                        }
                        Err(error) => kinds.push(untried(kind, error.to_string())),
                    }
                }
            }
            Err(error) => {
                kinds.extend([Kind::Conditional, Kind::Subspace].map(|kind| untried(kind, error.to_string())))
            }
        }
        // What is neither the one nor the other changed both laws; a map that accounts for it says how.
        let turned = kinds.iter().any(|found| found.kind == Kind::Subspace && found.standing == Standing::Compatible);
        if covariate.standing == Standing::Refuted && label == Standing::Refuted && !turned {
            let p = covariate.p.unwrap_or(0.0);
            let why = "labels of the target refute both a covariate and a label shift".to_owned();
            for found in kinds.iter_mut().filter(|found| found.kind == Kind::Conditional) {
                if found.standing != Standing::Compatible {
                    *found = KindFinding {
                        kind: Kind::Conditional,
                        standing: Standing::Compatible,
                        p: Some(p),
                        why: why.clone(),
                    };
                }
            }
        }
        kinds.push(covariate);
        Ok(kinds)
    }

    /// Rows of the source kept with a chance in proportion to the weight of their class, against the target.
    fn kept_by_class(&self, weights: &[f64]) -> Result<f64> {
        let DiagnosisSettings { seed, rows, .. } = self.settings;
        let classes = self.classes.as_ref().map_or(&[][..], |classes| &classes.source);
        let most = weights.iter().copied().fold(0.0, f64::max);
        let mut kept = vec![];
        for (place, row) in drawn_order(self.pair.source, seed, "rows kept by class").into_iter().enumerate() {
            if Rng::new(seed, "kept by class", place as u64).uniform() * most < weights[classes[row]] {
                kept.push(row);
            }
        }
        kept.truncate(rows);
        if kept.len() < LEAST {
            return Err(Error::Other(format!("only {} rows of the source have the classes of the target", kept.len())));
        }
        let [_, target] = self.few();
        self.apart(select(self.pair.source, &kept).view(), target.view())
    }

    /// The p-value of two samples: by their discrepancy and by a classifier.
    fn apart(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Result<f64> {
        let DiagnosisSettings { permutations, seed, .. } = self.settings;
        let by_kernel = two_sample::discrepancy(a, b, None, permutations, seed)?.p;
        let by_classifier = two_sample::classifier(a, b, &booster(), permutations, seed)?.p;
        Ok(least([by_kernel, by_classifier].into_iter()))
    }

    /// The few rows along the principal axes of the source where there are many columns.
    fn axes(&self) -> Result<[Array2<f64>; 2]> {
        let [source, target] = self.few();
        if source.ncols() <= self.settings.axes {
            return Ok([source, target]);
        }
        let (mean, (_, axes)) = (column_means(source.view()), symmetric_eigen(covariance(source.view(), 0).view())?);
        let leading = axes.slice(s![.., axes.ncols() - self.settings.axes..]);
        Ok([source, target].map(|x| product((&x - &mean).view(), leading)))
    }

    /// Densities of all kinds, and how a stretch and a turn take the source to the target.
    fn explanation(&self) -> Result<Explanation> {
        let [source, target] = self.axes()?;
        let of: Vec<usize> = match &self.classes {
            Some(classes) => self.few[0].iter().map(|row| classes.source[*row]).collect(),
            None => vec![0; source.nrows()],
        };
        let labels = Labels::Classes { of, count: self.classes.as_ref().map_or(1, |classes| classes.count) };
        let ours = Source { x: source.view(), y: &labels };
        let settings = MixtureSettings { seed: self.settings.seed, ..MixtureSettings::default() };
        Explanation::new(&ours, &Target { x: target.view() }, &settings)
    }

    /// The p-value of what a map of the source leaves.
    fn mapped(&self, map: &Affine) -> Result<f64> {
        let DiagnosisSettings { permutations, seed, .. } = self.settings;
        let [source, target] = self.axes()?;
        let moved = map.of(source.view())?;
        let by_rows = self.apart(moved.view(), target.view())?;
        let Some([ours, theirs]) = self.few_classes() else { return Ok(by_rows) };
        let strata = Some((ours.as_slice(), theirs.as_slice()));
        let within = two_sample::discrepancy(moved.view(), target.view(), strata, permutations, seed)?.p;
        Ok(least([by_rows, within].into_iter()))
    }

    /// The p-value of the hypothesis that labels follow the same rule in both domains; none without labels of the target.
    fn covariate(&self) -> Result<Option<f64>> {
        let (Some(ours), Some(theirs)) = (self.pair.labels, self.pair.target_labels) else { return Ok(None) };
        let DiagnosisSettings { permutations, seed, .. } = self.settings;
        let x = concatenate![Axis(0), self.pair.source, self.pair.target];
        let domain: Vec<usize> = (0..x.nrows()).map(|row| usize::from(row >= self.pair.source.nrows())).collect();
        let (y, outcomes) = match (ours, theirs) {
            (Labels::Numbers(a), Labels::Numbers(b)) => {
                let all = [a.as_slice(), b].concat();
                (Labels::Numbers(all.clone()), Array1::from(all).insert_axis(Axis(1)))
            }
            _ => {
                let ((a, count), (b, _)) = (ours.classes("labels")?, theirs.classes("labels")?);
                let of = [a, b].concat();
                // Of two classes one says all.
                let first = usize::from(count == 2);
                let one = |(row, class): (usize, usize)| f64::from(u8::from(of[row] == class + first));
                let outcomes = Array2::from_shape_fn((of.len(), count - first), one);
                (Labels::Classes { of, count }, outcomes)
            }
        };
        let first = outcomes.ncols();
        let learner = Forest { trees: 60, min_leaf: 5.0, seed, ..Forest::default() };
        let (mut left, mut gap) = (outcomes, Array1::zeros(x.nrows()));
        let mut order: Vec<usize> = (0..x.nrows()).collect();
        Rng::new(seed, "halves of the rows", 0).shuffle(&mut order);
        for half in 0..2 {
            let (held, train): (Vec<usize>, Vec<usize>) = (0..order.len()).partition(|place| place % 2 == half);
            let [held, train] = [held, train].map(|places| places.into_iter().map(|at| order[at]).collect::<Vec<_>>());
            let (seen, new) = (select(x.view(), &train), select(x.view(), &held));
            let domains = Labels::Classes { of: train.iter().map(|row| domain[*row]).collect(), count: 2 };
            let chance = learner.fit(seen.view(), &domains, None)?.answers(new.view())?;
            let said = learner.fit(seen.view(), &y.select(&train), None)?.answers(new.view())?;
            let from = said.ncols() - first;
            for (at, row) in held.iter().enumerate() {
                gap[*row] = domain[*row] as f64 - chance[[at, 1]];
                left.row_mut(*row).zip_mut_with(&said.slice(s![at, from..]), |left, said| *left -= said);
            }
        }
        Ok(Some(covariance_test(&left, &gap, &x, self.settings.axes, permutations, seed)))
    }

    /// The effective share of the source under weights that make it like the target.
    fn effective_share(&self) -> Result<f64> {
        let labels = Labels::Numbers(vec![0.0; self.pair.source.nrows()]);
        let source = Source::new(self.pair.source, &labels)?;
        let target = Target::new(self.pair.target, &source)?;
        let host = Host { learner: &Logistic::default(), seed: self.settings.seed };
        let lesson = DiscriminatorWeights::default().align(&source, &target, &host)?.lesson;
        Ok(lesson.weights.map_or(1.0, |weights| ratio::effective_rows(weights.view()) / weights.len() as f64))
    }
}

/// The weighted generalised covariance measure: the p-value of the largest standardised mean of products of residuals, each by itself and
/// times the columns of most variance, bounded at two deviations. Its law comes from random signs of normal size.
fn covariance_test(
    left: &Array2<f64>,
    gap: &Array1<f64>,
    x: &Array2<f64>,
    columns: usize,
    draws: usize,
    seed: u64,
) -> f64 {
    let rows = x.nrows() as f64;
    let (mean, deviation) = (column_means(x.view()), x.std_axis(Axis(0), 0.0));
    let mut widest: Vec<usize> = (0..x.ncols()).filter(|column| deviation[*column] > 0.0).collect();
    widest.sort_by(|a, b| deviation[*b].total_cmp(&deviation[*a]));
    widest.truncate(columns);
    let mut products = vec![];
    for outcome in left.columns() {
        let plain = &outcome * gap;
        for column in &widest {
            let bounded =
                x.column(*column).mapv(|value| ((value - mean[*column]) / deviation[*column]).clamp(-2.0, 2.0));
            products.push(&plain * &bounded);
        }
        products.push(plain);
    }
    let standard = |one: Array1<f64>| {
        let (middle, spread) = (one.mean().unwrap_or(0.0), one.std(0.0));
        let unit = spread * rows.sqrt();
        (spread > 0.0).then(|| (middle * rows / unit, (one - middle) / unit))
    };
    let standard: Vec<(f64, Array1<f64>)> = products.into_iter().filter_map(standard).collect();
    let largest = standard.iter().map(|(statistic, _)| statistic.abs()).fold(0.0, f64::max);
    let as_large = |draw: &usize| {
        let mut rng = Rng::new(seed, "multipliers", *draw as u64);
        let signs: Array1<f64> = (0..x.nrows()).map(|_| rng.normal()).collect();
        standard.iter().any(|(_, centred)| centred.dot(&signs).abs() >= largest)
    };
    let count = (0..draws).into_par_iter().filter(as_large).count();
    (count + 1) as f64 / (draws + 1) as f64
}
