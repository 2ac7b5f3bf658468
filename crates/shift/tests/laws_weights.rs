//! What weights and shares of classes must be, by closed forms and laws.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Method, Rng, find};
use acclimate_shift::prior::reweigh;
use acclimate_shift::{ALIGN, Align, Bbse, Elsa, Em, Host, Source, Target};
use acclimate_stats::learn::{Labels, Svc};
use ndarray::{Array2, ArrayView2};

const COVARIATE: [&str; 7] = ["gaussian_weights", "kde_weights", "kliep", "kmm", "nearest_weights", "rulsif", "ulsif"];

fn cloud(seed: u64, rows: usize, features: usize, shift: f64) -> Array2<f64> {
    let mut rng = Rng::new(seed, "cloud", 0);
    Array2::from_shape_fn((rows, features), |_| rng.normal() + shift)
}

fn any_labels(rows: usize) -> Labels {
    Labels::Classes { of: (0..rows).map(|row| row % 2).collect(), count: 2 }
}

/// Weights of the source, those of a view, and facts.
type Found = (Vec<f64>, Option<Vec<f64>>, Vec<(&'static str, f64)>);

/// The weights of the source, and those that the view gives the source's rows.
fn weights(name: &str, source: ArrayView2<'_, f64>, target: ArrayView2<'_, f64>) -> Found {
    let y = any_labels(source.nrows());
    let source = Source::new(source, &y).unwrap();
    let target = Target::new(target, &source).unwrap();
    let host = Host { learner: &Svc::default(), seed: 0 };
    let method = find(ALIGN, name).unwrap().build(&toml::Table::new()).unwrap();
    let found = method.align_any(&source, &target, &host).unwrap();
    let again = found.view.weigh(source.x).map(|found| found.unwrap().to_vec());
    (found.lesson.weights.unwrap().to_vec(), again, found.facts)
}

#[test]
fn weights_have_mean_one_and_views_agree_with_them() {
    let (source, target) = (cloud(1, 120, 2, 0.0), cloud(2, 90, 2, 0.7));
    for name in COVARIATE {
        let (found, again, facts) = weights(name, source.view(), target.view());
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        assert!((mean - 1.0).abs() < 1e-12, "{name}: {mean}");
        assert!(found.iter().all(|w| *w >= 0.0), "{name}");
        if let Some(again) = again {
            assert!(found.iter().zip(&again).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + a.abs())), "{name}");
        }
        let effective = facts.iter().find(|(fact, _)| *fact == "effective rows").unwrap().1;
        assert!(effective < 120.0 && effective > 2.0, "{name}: {effective}");
    }
}

#[test]
fn equal_domains_leave_weights_near_one() {
    let rows = cloud(3, 150, 2, 0.0);
    for name in COVARIATE {
        // Fits of finite smoothness reach one only nearly, the others exactly.
        let room = if ["kliep", "rulsif", "ulsif"].contains(&name) { 0.35 } else { 1e-9 };
        let (found, _, _) = weights(name, rows.view(), rows.view());
        let worst = found.iter().map(|w| (w - 1.0).abs()).fold(0.0, f64::max);
        assert!(worst <= room, "{name}: {worst}");
    }
}

#[test]
fn ratios_of_two_gaussians_are_recovered() {
    let (source, target) = (cloud(4, 500, 1, 0.0), cloud(5, 500, 1, 0.8));
    for (name, least) in
        [("gaussian_weights", 0.99), ("kde_weights", 0.9), ("kliep", 0.9), ("rulsif", 0.9), ("ulsif", 0.9)]
    {
        let (found, _, _) = weights(name, source.view(), target.view());
        let truth: Vec<f64> = source.column(0).iter().map(|x| (0.8 * x - 0.32).exp()).collect();
        let centred = |v: &[f64]| {
            let mean = v.iter().sum::<f64>() / v.len() as f64;
            v.iter().map(|x| x - mean).collect::<Vec<f64>>()
        };
        let (a, b) = (centred(&found), centred(&truth));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let correlation = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        assert!(correlation > least, "{name}: {correlation}");
    }
}

#[test]
fn kmm_says_how_little_is_missing() {
    let (source, target) = (cloud(6, 200, 2, 0.0), cloud(7, 150, 2, 0.6));
    let (_, _, facts) = weights("kmm", source.view(), target.view());
    let gap = facts.iter().find(|(fact, _)| *fact == "gap").unwrap().1;
    assert!(gap <= 1e-3, "{gap}");
}

/// Three Gaussian classes under label shift with their true posteriors: source rows, labels and target rows.
fn shifted(seed: u64, rows: usize, targets: usize, q: [f64; 3]) -> (Array2<f64>, Labels, Array2<f64>) {
    const MEANS: [[f64; 2]; 3] = [[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]];
    let mut rng = Rng::new(seed, "classes", 0);
    let mut draw = |class: usize| -> [f64; 3] {
        let x = [rng.normal() + MEANS[class][0], rng.normal() + MEANS[class][1]];
        let score = |m: [f64; 2]| (-0.5 * ((x[0] - m[0]).powi(2) + (x[1] - m[1]).powi(2))).exp();
        let scores = MEANS.map(score);
        let sum: f64 = scores.iter().sum();
        scores.map(|score| score / sum)
    };
    let of: Vec<usize> = (0..rows).map(|row| row % 3).collect();
    let source: Vec<f64> = of.iter().flat_map(|class| draw(*class)).collect();
    let mut pick = Rng::new(seed, "shares", 0);
    let hidden: Vec<usize> = (0..targets)
        .map(|_| {
            let u = pick.uniform();
            if u < q[0] {
                0
            } else if u < q[0] + q[1] {
                1
            } else {
                2
            }
        })
        .collect();
    let target: Vec<f64> = hidden.iter().flat_map(|class| draw(*class)).collect();
    let matrix = |numbers: Vec<f64>, rows| Array2::from_shape_vec((rows, 3), numbers).unwrap();
    (matrix(source, rows), Labels::Classes { of, count: 3 }, matrix(target, targets))
}

const Q: [f64; 3] = [0.2, 0.3, 0.5];

#[test]
fn elsa_gives_shares_of_sum_one_from_any_working_weights() {
    let (source, y, target) = shifted(1, 300, 200, Q);
    for working in [[1.0, 1.0, 1.0], [0.2, 3.0, 0.7], [5.0, 0.01, 1.0]] {
        let found = Elsa::default().from(&working, source.view(), &y, target.view()).unwrap();
        let sum: f64 = found.weights.iter().sum::<f64>() / 3.0;
        assert!((sum - 1.0).abs() < 1e-10, "{sum}");
    }
}

#[test]
fn elsa_from_equal_weights_is_soft_bbse() {
    let (source, y, target) = shifted(2, 300, 200, Q);
    let elsa = Elsa::default().from(&[1.0; 3], source.view(), &y, target.view()).unwrap();
    let bbse = Bbse::default().weights(source.view(), &y, target.view()).unwrap();
    assert!(elsa.weights.iter().zip(&bbse.weights).all(|(a, b)| (a - b).abs() < 1e-10));
    let same = Elsa::default().from(&[1.0; 3], source.view(), &y, source.view()).unwrap();
    assert!(same.weights.iter().all(|w| (w - 1.0).abs() < 1e-10));
}

#[test]
fn permuting_the_classes_permutes_the_weights() {
    let (source, y, target) = shifted(3, 300, 200, Q);
    let order = [2, 0, 1];
    let permuted = |p: &Array2<f64>| Array2::from_shape_fn(p.dim(), |(row, class)| p[[row, order[class]]]);
    let (of, count) = y.classes("test").unwrap();
    let place = |class: usize| order.iter().position(|c| *c == class).unwrap();
    let other = Labels::Classes { of: of.iter().map(|class| place(*class)).collect(), count };
    let (a, b) = (permuted(&source), permuted(&target));
    for method in ["bbse", "elsa", "em", "rlls"] {
        let run = |s: &Array2<f64>, y: &Labels, t: &Array2<f64>| match method {
            "bbse" => Bbse::default().weights(s.view(), y, t.view()),
            "elsa" => Elsa::default().weights(s.view(), y, t.view()),
            "em" => Em::default().weights(s.view(), y, t.view()),
            _ => acclimate_shift::Rlls::default().weights(s.view(), y, t.view()),
        };
        let (plain, moved) = (run(&source, &y, &target).unwrap(), run(&a, &other, &b).unwrap());
        for (class, from) in order.iter().enumerate() {
            assert!((moved.weights[class] - plain.weights[*from]).abs() < 1e-5, "{method}");
        }
    }
}

#[test]
fn intervals_of_elsa_cover_and_its_covariance_is_that_of_many_draws() {
    let (mut hits, mut all, mut square, mut stated) = (0, 0, 0.0, 0.0);
    let draws = 400;
    for seed in 0..draws {
        let (source, y, target) = shifted(100 + seed, 300, 300, Q);
        let found = Elsa::default().weights(source.view(), &y, target.view()).unwrap();
        for (class, share) in Q.iter().enumerate() {
            hits += usize::from((found.intervals[class][0]..=found.intervals[class][1]).contains(share));
            all += 1;
            square += (found.weights[class] - 3.0 * share).powi(2);
            stated += found.covariance[[class, class]];
        }
    }
    let coverage = hits as f64 / f64::from(all);
    assert!((0.92..=0.98).contains(&coverage), "{coverage}");
    // The source's counts do not vary here, which the covariance of the weights allows for: it may only be too large.
    assert!(square / stated < 1.15 && square / stated > 0.4, "{}", square / stated);
}

#[test]
fn no_step_of_em_lowers_the_likelihood() {
    let (source, y, target) = shifted(4, 300, 200, [0.05, 0.15, 0.8]);
    let value = |steps: usize| -> f64 {
        let em = Em { steps, calibrate: false, ..Em::default() };
        let weights = em.weights(source.view(), &y, target.view()).unwrap().weights;
        target.rows().into_iter().map(|row| row.iter().zip(&weights).map(|(p, w)| p * w).sum::<f64>().ln()).sum()
    };
    let values: Vec<f64> = (1..30).map(value).collect();
    assert!(values.windows(2).all(|pair| pair[1] >= pair[0] - 1e-9), "{values:?}");
    assert!(values[28] > values[0] + 0.1);
}

#[test]
fn calibration_takes_overconfidence_away_from_em() {
    let (source, y, target) = shifted(5, 3000, 2000, Q);
    let sharp = |p: &Array2<f64>| {
        let mut sharp = p.mapv(|p| p.powi(3));
        sharp.rows_mut().into_iter().for_each(|mut row| row /= row.sum());
        reweigh(sharp.view(), &[2.0, 1.0, 0.5])
    };
    let (source, target) = (sharp(&source), sharp(&target));
    let error = |calibrate: bool| -> f64 {
        let em = Em { calibrate, ..Em::default() };
        let found = em.weights(source.view(), &y, target.view()).unwrap();
        found.prior.iter().zip(Q).map(|(a, b)| (a - b).abs()).sum()
    };
    assert!(error(true) < 0.08 && error(true) < 0.5 * error(false), "{} {}", error(true), error(false));
}

#[test]
fn label_shift_is_put_right_in_rows_or_answers() {
    let mut rng = Rng::new(9, "two classes", 0);
    let mut rows = |counts: [usize; 2]| -> (Array2<f64>, Vec<usize>) {
        let of: Vec<usize> = (0..2).flat_map(|class| vec![class; counts[class]]).collect();
        let x = of.iter().flat_map(|class| [rng.normal() + 1.2 * *class as f64, rng.normal()]).collect();
        (Array2::from_shape_vec((of.len(), 2), x).unwrap(), of)
    };
    let ((x, of), (target, hidden)) = (rows([100, 100]), rows([170, 30]));
    let y = Labels::Classes { of, count: 2 };
    let source = Source::new(x.view(), &y).unwrap();
    let target = Target::new(target.view(), &source).unwrap();
    let svc = Svc { probability: true, ..Svc::default() };
    let host = Host { learner: &svc, seed: 1 };
    let right = |answers: Array2<f64>| {
        let found = acclimate_stats::learn::largest(answers.view());
        found.iter().zip(&hidden).filter(|(a, b)| a == b).count()
    };
    let plain = right(host.learn(&acclimate_shift::Lesson::of(&source)).unwrap().answers(target.x).unwrap());
    for method in ["bbse", "elsa", "em", "rlls"] {
        for how in ["rows", "answers"] {
            let settings = toml::toml! { use = how };
            let found =
                find(ALIGN, method).unwrap().build(&settings).unwrap().align_any(&source, &target, &host).unwrap();
            let learned = host.learn(&found.lesson).unwrap().answers(target.x).unwrap();
            let after = right(found.view.correct(learned).unwrap());
            assert!(after > plain, "{method} by {how}: {after} right of 200, {plain} before");
            assert_eq!(found.lesson.weights.is_some(), how == "rows");
        }
    }
}

#[test]
fn a_class_without_rows_and_scores_that_are_no_probabilities_are_refused() {
    let (source, _, target) = shifted(6, 30, 20, Q);
    let y = Labels::Classes { of: (0..30).map(|row| row % 2).collect(), count: 3 };
    let refused = Elsa::default().weights(source.view(), &y, target.view()).unwrap_err();
    assert!(refused.to_string().contains("no row of the source has class 2"), "{refused}");
    let (_, y, _) = shifted(6, 30, 20, Q);
    assert!(Em::default().weights((-&source).view(), &y, target.view()).is_err());
    assert!(Bbse::CARD.needs(acclimate_core::Need::Labels));
    let far = cloud(1, 20, 2, 1e6);
    let near = cloud(1, 20, 2, 0.0);
    let y = any_labels(20);
    let source = Source::new(near.view(), &y).unwrap();
    let target = Target::new(far.view(), &source).unwrap();
    let kliep = acclimate_shift::Kliep::from_table(&"gammas = [1.0]".parse().unwrap()).unwrap();
    let refused = kliep.align(&source, &target, &Host { learner: &Svc::default(), seed: 0 }).unwrap_err();
    assert!(refused.to_string().contains("smaller"), "{refused}");
}
