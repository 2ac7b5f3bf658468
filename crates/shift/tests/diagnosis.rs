//! What a diagnosis says of pairs whose difference is known.

#![expect(clippy::unwrap_used, reason = "what these tests share is test code too")]

use acclimate_core::Rng;
use acclimate_shift::{Diagnosis, DiagnosisSettings, Kind, Pair, ShiftKind, ShiftedPair, Standing};
use acclimate_stats::learn::Labels;
use acclimate_stats::two_sample::Column;
use ndarray::Array2;
use rayon::prelude::*;

/// Rows with classes that follow their first two columns.
struct Domain {
    x: Array2<f64>,
    labels: Labels,
}

/// How a domain differs from the first.
#[derive(Clone, Copy, Default)]
struct Change {
    /// Added to a column, before classes are drawn by the same rule.
    moved: Option<(usize, f64)>,
    /// Added to the logit of class one.
    rule: f64,
}

fn domain(rows: usize, columns: usize, change: Change, seed: u64) -> Domain {
    let mut rng = Rng::new(seed, "domain", 0);
    let mut x = Array2::from_shape_fn((rows, columns), |_| rng.normal());
    if let Some((column, by)) = change.moved {
        x.column_mut(column).mapv_inplace(|value| value + by);
    }
    let class = |row: ndarray::ArrayView1<'_, f64>| {
        let logit = 2.0 * row[0] - row[1] + change.rule;
        usize::from(rng.uniform() < 1.0 / (1.0 + (-logit).exp()))
    };
    let of = x.rows().into_iter().map(class).collect();
    Domain { x, labels: Labels::Classes { of, count: 2 } }
}

fn columns(source: &Array2<f64>, target: &Array2<f64>) -> Vec<Column> {
    let column = |at| Column::Numbers { source: source.column(at).to_vec(), target: target.column(at).to_vec() };
    (0..source.ncols()).map(column).collect()
}

fn diagnosed(source: &Domain, target: &Domain, with_labels: bool, settings: &DiagnosisSettings) -> Diagnosis {
    let pair = Pair {
        source: source.x.view(),
        labels: Some(&source.labels),
        target: target.x.view(),
        target_labels: with_labels.then_some(&target.labels),
        columns: &columns(&source.x, &target.x),
    };
    Diagnosis::new(&pair, settings).unwrap()
}

/// So many of 200 draws or more have a chance of less than a thousandth where each has the chance `level`.
fn bound(level: f64) -> usize {
    let (mut p, mut sum, mut k) = ((1.0 - level).powi(200), 0.0, 0u32);
    while sum + p < 0.999 {
        sum += p;
        p *= level / (1.0 - level) * f64::from(200 - k) / f64::from(k + 1);
        k += 1;
    }
    k as usize
}

#[test]
fn false_alarms_keep_to_their_level() {
    for with_labels in [false, true] {
        let alarm = |seed: &u64| {
            let settings = DiagnosisSettings { level: 0.1, permutations: 59, seed: *seed, ..Default::default() };
            let [source, target] = [0, 1].map(|part| domain(30, 2, Change::default(), 2 * seed + part));
            diagnosed(&source, &target, with_labels, &settings).changed
        };
        let alarms = (0..200).into_par_iter().filter(alarm).count();
        assert!(alarms <= bound(0.1), "{alarms} alarms, at most {}", bound(0.1));
        assert!(alarms > 0, "it never speaks");
    }
}

#[test]
fn the_kinds_that_stand_hold_the_true_one() {
    let settings = DiagnosisSettings { permutations: 119, rows: 250, ..Default::default() };
    for (kind, want) in
        ShiftKind::ALL.into_iter().zip([Kind::Covariate, Kind::Label, Kind::Conditional, Kind::Subspace])
    {
        let pair = ShiftedPair::new(kind, 0);
        let labels = Labels::Classes { of: pair.source_labels.clone(), count: 2 };
        let columns = columns(&pair.source, &pair.target);
        let (source, target) = (pair.source.view(), pair.target.view());
        let pair = Pair { source, labels: Some(&labels), target, target_labels: None, columns: &columns };
        let found = Diagnosis::new(&pair, &settings).unwrap();
        assert!(found.changed && found.standing().contains(&want), "{kind}: {:?}", found.kinds);
        assert_eq!(found.likeliest, want, "{kind}: {:?}", found.kinds);
    }
}

#[test]
fn a_column_that_moved_is_named_and_others_are_not() {
    let settings = DiagnosisSettings { permutations: 199, rows: 100, ..Default::default() };
    let found = |seed: u64| {
        let moved = Change { moved: Some((3, 0.8)), ..Change::default() };
        let (source, target) = (domain(150, 6, Change::default(), 2 * seed), domain(150, 6, moved, 2 * seed + 1));
        let found = diagnosed(&source, &target, false, &DiagnosisSettings { seed, ..settings });
        (0..6).filter(|column| found.columns[*column].adjusted <= settings.level).collect::<Vec<_>>()
    };
    let all: Vec<Vec<usize>> = (0..10).into_par_iter().map(found).collect();
    assert!(all.iter().all(|columns| columns.contains(&3)), "{all:?}");
    // One of ten families of tests at one in twenty, or two by bad luck.
    assert!(all.iter().filter(|columns| columns.len() > 1).count() <= 2, "{all:?}");
}

#[test]
fn labels_of_the_target_tell_a_covariate_shift_from_a_new_rule() {
    let settings = DiagnosisSettings { permutations: 119, rows: 250, ..Default::default() };
    let source = domain(800, 2, Change::default(), 0);
    let moved = domain(800, 2, Change { moved: Some((1, 0.8)), ..Change::default() }, 1);
    let ruled = domain(800, 2, Change { rule: 2.0, ..Change::default() }, 2);
    let standing =
        |found: &Diagnosis, kind: Kind| found.kinds.iter().find(|found| found.kind == kind).map(|found| found.standing);
    let found = diagnosed(&source, &moved, true, &settings);
    assert_eq!(standing(&found, Kind::Covariate), Some(Standing::Compatible), "{:?}", found.kinds);
    assert_eq!(standing(&found, Kind::Label), Some(Standing::Refuted), "{:?}", found.kinds);
    let found = diagnosed(&source, &ruled, true, &settings);
    assert_eq!(standing(&found, Kind::Covariate), Some(Standing::Refuted), "{:?}", found.kinds);
    assert_eq!(found.likeliest, Kind::Conditional, "{:?}", found.kinds);
    // Rows alone look alike.
    assert!(!diagnosed(&source, &ruled, false, &settings).changed);
}

#[test]
fn equal_questions_have_equal_answers() {
    let settings = DiagnosisSettings { permutations: 119, rows: 60, ..Default::default() };
    let (source, target) =
        (domain(60, 2, Change::default(), 5), domain(60, 2, Change { rule: 3.0, ..Change::default() }, 6));
    let text = |found: &Diagnosis| serde_json::to_string(found).unwrap();
    let [first, second] = [0, 1].map(|_| text(&diagnosed(&source, &target, true, &settings)));
    assert_eq!(first, second);
}

#[test]
fn numbers_are_diagnosed_by_fifths() {
    let settings = DiagnosisSettings { permutations: 199, rows: 200, ..Default::default() };
    let numbers = |domain: &Domain| Labels::Numbers(domain.x.column(0).to_vec());
    let (source, target) = (
        domain(200, 2, Change::default(), 7),
        domain(200, 2, Change { moved: Some((0, 1.0)), ..Change::default() }, 8),
    );
    let (ours, theirs) = (numbers(&source), numbers(&target));
    let columns = columns(&source.x, &target.x);
    let (x, t) = (source.x.view(), target.x.view());
    let pair = Pair { source: x, labels: Some(&ours), target: t, target_labels: Some(&theirs), columns: &columns };
    let found = Diagnosis::new(&pair, &settings).unwrap();
    assert!(found.changed && found.shares.len() == 5, "{:?}", found.shares);
}

#[test]
fn poor_domains_are_told() {
    let (few, many) = (domain(4, 2, Change::default(), 9), domain(40, 2, Change::default(), 10));
    let pair = |source, target| Pair { source, labels: None, target, target_labels: None, columns: &[] };
    let error = |pair: &Pair<'_>| Diagnosis::new(pair, &DiagnosisSettings::default()).unwrap_err().to_string();
    assert!(error(&pair(few.x.view(), many.x.view())).contains("a domain has 4 rows"));
    let few = DiagnosisSettings { permutations: 19, ..Default::default() };
    let error =
        |settings: &DiagnosisSettings| Diagnosis::new(&pair(many.x.view(), many.x.view()), settings).unwrap_err();
    assert!(
        error(&few).to_string().contains("19 permutations cannot find anything at level 0.05 in 6 tests; give 119")
    );
    let gap = many.x.mapv(|value| if value > 1.5 { f64::NAN } else { value });
    let gap = Diagnosis::new(&pair(many.x.view(), gap.view()), &DiagnosisSettings::default()).unwrap_err();
    assert!(gap.to_string().contains("NaN"), "{gap}");
}
