//! Scenarios against the laws of the streams they name.
#![allow(clippy::unwrap_used)] // a scenario of these tests that is refused is a failure

use acclimate_data::{Corruption, Image, LabelOrder, Mixture, Scenario, Shift, Step};

const CLASSES: usize = 10;

fn labels() -> Vec<usize> {
    (0..2000).map(|row| row * 7 % CLASSES).collect()
}

fn base() -> Scenario {
    Scenario {
        domains: ["gaussian_noise@5", "digits.blur", "rotation@15", "none"]
            .into_iter()
            .map(|shift| shift.parse().unwrap())
            .collect(),
        mixture: Mixture::Continual,
        labels: LabelOrder::Iid,
        batch_size: 64,
        seed: 3,
    }
}

fn dirichlet(delta: f64) -> Scenario {
    Scenario { labels: LabelOrder::Dirichlet { delta, least: 10, runs: false }, ..base() }
}

/// Each label of the stream, in the order of time.
fn stream(steps: &[Step]) -> Vec<usize> {
    let labels = labels();
    steps.iter().flat_map(|step| &step.rows).map(|&row| labels[row]).collect()
}

/// Correlation of the label with the next one, over its indicators.
fn autocorrelation(stream: &[usize]) -> f64 {
    let pairs = (stream.len() - 1) as f64;
    let same = stream.windows(2).filter(|pair| pair[0] == pair[1]).count() as f64 / pairs;
    let by_chance: f64 = (0..CLASSES)
        .map(|class| (stream.iter().filter(|&&label| label == class).count() as f64 / stream.len() as f64).powi(2))
        .sum();
    (same - by_chance) / (1.0 - by_chance)
}

/// Pearson's statistic of label counts by batch, in deviations of a chi-square variable from its mean.
fn unevenness(steps: &[Step]) -> f64 {
    let labels = labels();
    let full: Vec<&Step> = steps.iter().filter(|step| step.rows.len() == 64).collect();
    let statistic: f64 = full
        .iter()
        .flat_map(|step| (0..CLASSES).map(|class| step.rows.iter().filter(|&&row| labels[row] == class).count()))
        .map(|count| (count as f64 - 6.4).powi(2) / 6.4)
        .sum();
    let freedom = (full.len() * (CLASSES - 1)) as f64;
    (statistic - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn a_large_delta_is_iid_and_a_small_one_is_correlated() {
    // At one in a thousand; slots of equal parts spread labels more evenly than chance, which is no correlation.
    let iid = unevenness(&base().order(&labels()).unwrap());
    assert!(iid.abs() < 3.1, "{iid}");
    let large = unevenness(&dirichlet(1e6).order(&labels()).unwrap());
    assert!(large < 3.1, "{large}");
    let half = unevenness(&dirichlet(1.0).order(&labels()).unwrap());
    assert!(half > 10.0, "{half}");
    let small = autocorrelation(&stream(&dirichlet(1e-3).order(&labels()).unwrap()));
    assert!(small > 0.9, "{small}");
    let shuffled = autocorrelation(&stream(&dirichlet(1e6).order(&labels()).unwrap()));
    assert!(shuffled.abs() < 0.05, "{shuffled}");
}

#[test]
fn sorted_labels_never_fall_within_a_domain() {
    let sorted = Scenario { labels: LabelOrder::Sorted, ..base() };
    for domain in stream(&sorted.order(&labels()).unwrap()).chunks(2000) {
        assert!(domain.is_sorted());
    }
}

#[test]
fn runs_hold_a_class_together_within_its_slot() {
    let runs = Scenario { labels: LabelOrder::Dirichlet { delta: 1e6, least: 10, runs: true }, ..base() };
    let stream = stream(&runs.order(&labels()).unwrap());
    // Ten slots with ten runs of some twenty rows: all but one in twenty have the label of the row before.
    assert!((autocorrelation(&stream) - 0.944).abs() < 0.02, "{}", autocorrelation(&stream));
}

#[test]
fn every_row_comes_once_in_each_visit() {
    let domains = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Shift>>();
    let gradual = Scenario { domains: domains(&["fog@5", "snow@3"]), mixture: Mixture::Gradual, ..base() };
    let cases = [
        (base(), 1),
        (Scenario { mixture: Mixture::Mixed, ..base() }, 1),
        (Scenario { mixture: Mixture::Mixed, ..dirichlet(0.1) }, 1),
        (Scenario { mixture: Mixture::Recurring { rounds: 3 }, ..dirichlet(0.1) }, 3),
        (Scenario { labels: LabelOrder::Sorted, batch_size: 1, ..base() }, 1),
    ];
    let counted = |scenario: &Scenario| {
        let mut counts = std::collections::BTreeMap::new();
        for step in scenario.order(&labels()).unwrap() {
            assert_eq!(step.rows.len(), step.shifts.len());
            assert!((1..=scenario.batch_size).contains(&step.rows.len()));
            for (row, shift) in step.rows.iter().zip(&step.shifts) {
                *counts.entry((*row, shift.to_string())).or_insert(0) += 1;
            }
        }
        counts
    };
    for (scenario, times) in cases {
        let counts = counted(&scenario);
        assert_eq!(counts.len(), 2000 * 4);
        assert!(counts.values().all(|&count| count == times));
    }
    let counts = counted(&gradual);
    assert_eq!(counts.len(), 2000 * 8);
    let peaks = ["fog@5", "snow@3"];
    assert!(counts.iter().all(|((_, shift), &count)| count == if peaks.contains(&shift.as_str()) { 1 } else { 2 }));
}

#[test]
fn gradual_severities_rise_and_fall() {
    let gradual = Scenario { domains: vec!["fog@5".parse().unwrap()], mixture: Mixture::Gradual, ..base() };
    let steps = gradual.order(&labels()).unwrap();
    let severities: Vec<usize> = steps
        .iter()
        .filter(|step| step.begins)
        .map(|step| match step.shifts[0] {
            Shift::Corruption { kind: Corruption::Fog, severity } => severity,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(severities, [1, 2, 3, 4, 5, 4, 3, 2, 1]);
}

#[test]
fn resets_come_where_the_mixture_says() {
    let resets = |mixture| {
        let steps = Scenario { mixture, ..base() }.order(&labels()).unwrap();
        let begins = steps.iter().filter(|step| step.begins).count();
        (steps.len(), begins, steps.iter().filter(|step| step.resets).count())
    };
    assert_eq!(resets(Mixture::Episodic), (128, 4, 128));
    assert_eq!(resets(Mixture::ResetEachShift), (128, 4, 4));
    assert_eq!(resets(Mixture::Continual), (128, 4, 0));
    assert_eq!(resets(Mixture::Mixed), (125, 1, 0));
}

#[test]
fn the_hash_is_equal_on_any_number_of_threads() {
    let expected = dirichlet(0.1).hash(&labels()).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| dirichlet(0.1).hash(&labels()).unwrap())).collect();
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), expected));
    });
}

#[test]
fn any_changed_field_changes_the_hash() {
    let base = base();
    let mut turned = base.domains.clone();
    turned[2] = "rotation@15.5".parse().unwrap();
    let scenarios = [
        Scenario { domains: turned, ..base.clone() },
        Scenario { mixture: Mixture::Episodic, ..base.clone() },
        Scenario { mixture: Mixture::Recurring { rounds: 1 }, ..base.clone() },
        Scenario { labels: LabelOrder::Sorted, ..base.clone() },
        dirichlet(0.1),
        dirichlet(0.2),
        Scenario { labels: LabelOrder::Dirichlet { delta: 0.1, least: 11, runs: false }, ..base.clone() },
        Scenario { labels: LabelOrder::Dirichlet { delta: 0.1, least: 10, runs: true }, ..base.clone() },
        Scenario { batch_size: 65, ..base.clone() },
        Scenario { seed: 4, ..base.clone() },
        base,
    ];
    let hashes: std::collections::BTreeSet<String> =
        scenarios.iter().map(|scenario| scenario.hash(&labels()).unwrap()).collect();
    assert_eq!(hashes.len(), scenarios.len());
    let other: Vec<usize> = labels().into_iter().rev().collect();
    let sorted = Scenario { labels: LabelOrder::Sorted, ..dirichlet(1.0) };
    assert_ne!(sorted.hash(&labels()).unwrap(), sorted.hash(&other).unwrap());
}

#[test]
fn one_mixed_domain_is_a_continual_one_up_to_order() {
    let one = |mixture| {
        let steps = Scenario { mixture, domains: vec!["fog@5".parse().unwrap()], ..base() }.order(&labels()).unwrap();
        let mut pairs: Vec<(usize, String)> = steps
            .iter()
            .flat_map(|step| step.rows.iter().copied().zip(step.shifts.iter().map(ToString::to_string)))
            .collect();
        pairs.sort();
        pairs
    };
    assert_eq!(one(Mixture::Mixed), one(Mixture::Continual));
}

#[test]
fn a_file_gives_the_scenario_back() {
    for scenario in [base(), dirichlet(0.01), Scenario { mixture: Mixture::Recurring { rounds: 2 }, ..base() }] {
        let text = toml::to_string(&scenario).unwrap();
        assert_eq!(Scenario::from_toml(&text).unwrap(), scenario, "{text}");
    }
}

#[test]
fn what_no_scenario_can_be_is_refused_with_a_way_out() {
    let read = |text: &str| Scenario::from_toml(text).unwrap_err().to_string();
    let with = |domain: &str, mixture: &str, rest: &str| {
        read(&format!("domains = [{domain}]\nmixture = {mixture}\nbatch_size = 8\n{rest}"))
    };
    let cases = [
        (with("'fgo@5'", "'mixed'", ""), "unknown corruption `fgo`; the nearest are `fog`"),
        (with("'fog@6'", "'mixed'", ""), "must have a severity from 1 to 5, such as `fog@5`, got `fog@6`"),
        (with("'digits.blurr'", "'mixed'", ""), "the nearest are `blur`"),
        (with("'rotation'", "'mixed'", ""), "such as `rotation@30`"),
        (with("", "'mixed'", ""), "`none` leaves pictures as they are"),
        (with("'none'", "'gradual'", ""), "must be corruptions where the mixture is `gradual`"),
        (with("'none'", "{ recurring = { rounds = 0 } }", ""), "must be positive"),
        (with("'none'", "'mixed'", "labels = { dirichlet = { delta = 0.0 } }"), "must be positive and finite"),
        (with("'none'", "'mixed'", "label = 'iid'"), "unknown field `label`"),
        (read("domains = ['none']\nmixture = 'mixed'\nbatch_size = 201"), "must lie between 1 and 200"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{error}");
    }
    let few = dirichlet(0.1).order(&[0, 1, 2]).unwrap_err().to_string();
    assert!(few.contains("`labels.dirichlet.least` must be at most 1: 3 rows are spread over 3 slots"), "{few}");
}

#[test]
fn a_row_looks_the_same_whenever_it_comes() {
    let image = Image { channels: 1, height: 8, width: 8, values: vec![0.4; 64] };
    for shift in ["gaussian_noise@3", "digits.salt_and_pepper", "digits.fog"] {
        let shift: Shift = shift.parse().unwrap();
        let picture = shift.apply(&image, 5, 17).unwrap();
        assert_eq!(picture, shift.apply(&image, 5, 17).unwrap());
        assert_ne!(picture, shift.apply(&image, 5, 18).unwrap());
        assert_ne!(picture, shift.apply(&image, 6, 17).unwrap());
    }
    assert_eq!(Shift::None.apply(&image, 5, 17).unwrap(), image);
}
