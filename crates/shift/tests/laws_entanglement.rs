//! What an audit of two domains must say, by laws and closed forms.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Method, Rng};
use acclimate_shift::{Entangled, Entanglement, Source};
use acclimate_stats::learn::Labels;
use ndarray::{Array2, Axis, array};

/// Rounding, and the parts of other distances that break ties.
const ROUNDING: f64 = 2e-6;
const LOSSES: [&str; 3] = ["probability", "zero_one", "brier"];

fn audit(settings: &str, u: &Array2<f64>, y: &[usize], v: &Array2<f64>, z: &[usize]) -> Entangled {
    let labels = |of: &[usize]| Labels::Classes { of: of.to_vec(), count: u.ncols() };
    let (y, z) = (labels(y), labels(z));
    let method = Entanglement::from_table(&settings.parse().unwrap()).unwrap();
    method.audit(&Source::new(u.view(), &y).unwrap(), &Source::new(v.view(), &z).unwrap()).unwrap()
}

/// Probabilities, some of them sure and some of them equal, and labels that follow them now and then.
fn draw(rng: &mut Rng, rows: usize, classes: usize) -> (Array2<f64>, Vec<usize>) {
    let mut u = Array2::from_shape_fn((rows, classes), |_| (2.0 * rng.normal()).exp());
    for mut row in u.rows_mut() {
        match rng.below(4) {
            0 => row.fill(1.0),
            1 => {
                row.fill(0.0);
                row[rng.below(classes)] = 1.0;
            }
            _ => {}
        }
        row /= row.sum();
    }
    let y = (0..rows).map(|_| rng.below(classes)).collect();
    (u, y)
}

#[test]
fn no_bound_is_below_the_risk_and_the_joint_distance_is_the_least() {
    let mut rng = Rng::new(72, "problems", 0);
    for round in 0..1000 {
        let classes = 2 + rng.below(3);
        let (n, m) = (1 + rng.below(12), 1 + rng.below(12));
        let ((u, y), (v, z)) = (draw(&mut rng, n, classes), draw(&mut rng, m, classes));
        let loss = LOSSES[round % 3];
        let found = audit(&format!("loss = \"{loss}\""), &u, &y, &v, &z);
        for (what, bound) in
            [("outputs", found.bound()), ("labels", found.bound_by_labels()), ("both", found.bound_by_both())]
        {
            assert!(found.target_risk <= bound + ROUNDING, "{round} {loss} {what}: {} {bound}", found.target_risk);
        }
        for sum in [found.alignment + found.prediction_entanglement, found.label_shift + found.label_entanglement] {
            assert!(found.joint <= sum + ROUNDING, "{round} {loss}: {} {sum}", found.joint);
        }
        let back = audit(&format!("loss = \"{loss}\""), &v, &z, &u, &y);
        for (here, there) in [
            (found.alignment, back.alignment),
            (found.prediction_entanglement, back.prediction_entanglement),
            (found.label_shift, back.label_shift),
            (found.label_entanglement, back.label_entanglement),
            (found.joint, back.joint),
        ] {
            assert!((here - there).abs() < ROUNDING, "{round} {loss}: {here} {there}");
        }
    }
}

#[test]
fn entropic_couplings_keep_the_bounds_and_are_no_better_than_exact_ones() {
    let mut rng = Rng::new(73, "problems", 0);
    for round in 0..50 {
        let ((u, y), (v, z)) = (draw(&mut rng, 30, 3), draw(&mut rng, 25, 3));
        let found = audit("rows = 1", &u, &y, &v, &z);
        let exact = audit("", &u, &y, &v, &z);
        assert!(found.target_risk <= found.bound().min(found.bound_by_labels()).min(found.bound_by_both()), "{round}");
        assert!(found.alignment >= exact.alignment - ROUNDING, "{round}");
        assert!(found.joint >= exact.joint - ROUNDING && found.joint < exact.joint + 0.1, "{round}");
    }
}

#[test]
fn equal_domains_have_no_terms() {
    let mut rng = Rng::new(74, "problems", 0);
    let (u, y) = draw(&mut rng, 60, 3);
    for loss in LOSSES {
        for conditionals in ["sample", "binned"] {
            let settings = format!("loss = \"{loss}\"\nconditionals = \"{conditionals}\"");
            let found = audit(&settings, &u, &y, &u, &y);
            let terms = [
                found.alignment,
                found.prediction_entanglement,
                found.label_shift,
                found.label_entanglement,
                found.joint,
                found.target_risk - found.source_risk,
            ];
            assert!(terms.iter().all(|term| term.abs() < ROUNDING), "{settings}: {terms:?}");
        }
    }
}

#[test]
fn other_labels_at_equal_outputs_are_entanglement_alone_and_the_bound_is_tight() {
    // A model that is right about the source; a third of the target's labels are others.
    let y: Vec<usize> = (0..60).map(|row| row % 3).collect();
    let u = Array2::from_shape_fn((60, 3), |(row, class)| f64::from(u8::from(y[row] == class)));
    let z: Vec<usize> = (0..60).map(|row| if row < 20 { (y[row] + 1) % 3 } else { y[row] }).collect();
    let found = audit("", &u, &y, &u, &z);
    assert!(found.alignment < ROUNDING && found.source_risk < 1e-12);
    assert!((found.prediction_entanglement - 1.0 / 3.0).abs() < ROUNDING, "{}", found.prediction_entanglement);
    assert!((found.bound() - found.target_risk).abs() < ROUNDING);
}

#[test]
fn under_a_shift_of_labels_alone_only_the_moved_mass_is_entangled() {
    // All rows of a class have one output, so the distance between the outputs of two classes is in closed form.
    let outputs = array![[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.0, 0.3, 0.7]];
    let rows = |of: &[usize]| outputs.select(Axis(0), of);
    let y = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2];
    let z = [0, 1, 1, 2, 2, 2, 2, 2, 2, 2];
    let found = audit("", &rows(&y), &y, &rows(&z), &z);
    // From 0 three tenths, from 1 one tenth, all to 2.
    assert!((found.label_shift - 0.4).abs() < 1e-12);
    let expected = 0.3 * 0.8 + 0.1 * 0.5;
    assert!((found.label_entanglement - expected).abs() < ROUNDING, "{}", found.label_entanglement);
    assert!((found.label_by_class[2] - expected).abs() < ROUNDING);
    let same = audit("", &rows(&y), &y, &rows(&y), &y);
    assert!(same.label_shift == 0.0 && same.label_entanglement < ROUNDING);
}

#[test]
fn terms_by_class_add_up() {
    let mut rng = Rng::new(75, "problems", 0);
    for conditionals in ["sample", "binned"] {
        let ((u, y), (v, z)) = (draw(&mut rng, 40, 4), draw(&mut rng, 33, 4));
        let found = audit(&format!("conditionals = \"{conditionals}\""), &u, &y, &v, &z);
        for (parts, whole) in [
            (&found.alignment_by_class, found.alignment),
            (&found.prediction_by_class, found.prediction_entanglement),
            (&found.label_by_class, found.label_entanglement),
        ] {
            assert!((parts.iter().sum::<f64>() - whole).abs() < 1e-12 && parts.iter().all(|part| *part >= 0.0));
        }
    }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let mut rng = Rng::new(77, "problems", 0);
    let mut outputs = |rows: usize| {
        let mut u = Array2::from_shape_fn((rows, 3), |_| rng.normal().exp());
        for mut row in u.rows_mut() {
            row /= row.sum();
        }
        (u, (0..rows).map(|_| rng.below(3)).collect::<Vec<usize>>())
    };
    let ((u, y), (v, z)) = (outputs(30), outputs(24));
    let turned = |x: &Array2<f64>| x.select(Axis(0), &(0..x.nrows()).rev().collect::<Vec<usize>>());
    let back = |y: &[usize]| y.iter().rev().copied().collect::<Vec<usize>>();
    let (found, other) = (audit("", &u, &y, &v, &z), audit("", &turned(&u), &back(&y), &turned(&v), &back(&z)));
    for (here, there) in [
        (&found.alignment_by_class, &other.alignment_by_class),
        (&found.prediction_by_class, &other.prediction_by_class),
        (&found.label_by_class, &other.label_by_class),
    ] {
        assert!(here.iter().zip(there).all(|(a, b)| (a - b).abs() < 1e-9), "{here:?} {there:?}");
    }
}

#[test]
fn draws_depend_on_the_seed_alone_and_halves_of_a_large_domain_are_alike() {
    let mut rng = Rng::new(76, "problems", 0);
    let (u, of) = draw(&mut rng, 200, 2);
    let y = Labels::Classes { of, count: 2 };
    let source = Source::new(u.view(), &y).unwrap();
    let method = Entanglement::default();
    let drawn = method.resampled(&source, &source, 4, 1).unwrap();
    assert_eq!(drawn, method.resampled(&source, &source, 4, 1).unwrap());
    assert_ne!(drawn, method.resampled(&source, &source, 4, 2).unwrap());
    assert_eq!(drawn[..2], method.resampled(&source, &source, 2, 1).unwrap());
    let halves = method.halves(&source, 0).unwrap();
    assert!(halves.alignment > 0.0 && halves.alignment < 0.2, "{}", halves.alignment);
    assert_eq!(halves.since(&halves), [0.0; 3]);
}

#[test]
fn rows_that_are_no_probabilities_and_classes_that_differ_are_refused() {
    let (y, z) = (Labels::Classes { of: vec![0, 1], count: 2 }, Labels::Classes { of: vec![0, 1], count: 3 });
    let (good, bad) = (array![[0.5, 0.5], [0.1, 0.9]], array![[0.5, 0.7], [0.1, 0.9]]);
    let wide = array![[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]];
    let method = Entanglement::default();
    let refused = |u: &Array2<f64>, y: &Labels, v: &Array2<f64>, z: &Labels| {
        let (source, target) = (Source::new(u.view(), y).unwrap(), Source::new(v.view(), z).unwrap());
        method.audit(&source, &target).unwrap_err().to_string()
    };
    assert!(refused(&bad, &y, &good, &y).contains("row 1 of the source"));
    assert!(refused(&good, &y, &wide, &y).contains("target has outputs of 3 classes"));
    assert!(refused(&good, &y, &wide, &z).contains("name them alike"));
    assert!(refused(&good, &Labels::Numbers(vec![0.0, 1.0]), &good, &y).contains("give classes"));
    assert!(method.halves(&Source::new(good.view(), &y).unwrap(), 0).is_ok());
}
