//! What methods by optimal transport must do, by closed forms and laws.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Method, Result, Rng, find};
use acclimate_shift::{ALIGN, Aligned, AnyView, ClassRegOt, Fit, Host, Jdot, Source, Target};
use acclimate_stats::learn::{Labels, Learner, Linear, Logistic, Svc};
use acclimate_stats::linalg::{column_means, covariance, symmetric_eigen};
use ndarray::{Array1, Array2, Axis, array, concatenate};

/// Each map of the source and settings under which it is held to the laws of all.
const MAPS: [(&str, &str); 4] = [
    ("map_ot", ""),
    ("ent_ot", "norm = \"none\"\nreg = 0.5\ntolerance = 1e-12\nsteps = 100000"),
    ("class_reg_ot", "reg = 0.5\nreg_cl = 0.5\ntolerance = 1e-12\ninner_steps = 100000"),
    ("lin_ot", ""),
];
const METRICS: [&str; 3] = ["sqeuclidean", "cosine", "cityblock"];

fn cloud(seed: u64, rows: usize, features: usize, shift: f64) -> Array2<f64> {
    let mut rng = Rng::new(seed, "cloud", 0);
    Array2::from_shape_fn((rows, features), |_| rng.normal() + shift)
}

/// Classes by the sign of the first column.
fn by_sign(x: &Array2<f64>) -> Labels {
    Labels::Classes { of: x.column(0).iter().map(|x| usize::from(*x > 0.0)).collect(), count: 2 }
}

fn with(
    name: &str,
    settings: &str,
    learner: &dyn Learner,
    source: &Array2<f64>,
    y: &Labels,
    target: &Array2<f64>,
) -> Result<Aligned<Box<dyn AnyView>>> {
    let source = Source::new(source.view(), y)?;
    let target = Target::new(target.view(), &source)?;
    let method = find(ALIGN, name)?.build(&settings.parse().unwrap())?;
    method.align_any(&source, &target, &Host { learner, seed: 0 })
}

fn aligned(name: &str, settings: &str, source: &Array2<f64>, target: &Array2<f64>) -> Aligned<Box<dyn AnyView>> {
    with(name, settings, &Logistic::default(), source, &by_sign(source), target).unwrap()
}

fn fact(found: &Aligned<Box<dyn AnyView>>, name: &str) -> f64 {
    found.facts.iter().find(|(fact, _)| *fact == name).unwrap().1
}

fn apart(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    assert_eq!(a.dim(), b.dim());
    (a - b).fold(0.0, |most: f64, by| most.max(by.abs()))
}

fn near(a: &Array2<f64>, b: &Array2<f64>, tolerance: f64, what: &str) {
    let apart = apart(a, b);
    assert!(apart <= tolerance, "{what}: {apart:e}");
}

fn row(numbers: Array1<f64>) -> Array2<f64> {
    numbers.insert_axis(Axis(0))
}

#[test]
fn equal_domains_are_not_moved() {
    let x = cloud(1, 40, 3, 0.4);
    for metric in METRICS {
        let found = aligned("map_ot", &format!("metric = \"{metric}\""), &x, &x);
        near(&found.lesson.x, &x, 1e-9, metric);
    }
    for settings in ["", "reg = 10.0", "bias = false"] {
        near(&aligned("lin_ot", settings, &x, &x).lesson.x, &x, 1e-8, settings);
    }
}

#[test]
fn entropic_maps_of_equal_domains_tend_to_the_identity() {
    let x = cloud(2, 40, 2, 0.0);
    for metric in METRICS {
        let at =
            |reg: f64| apart(&aligned("ent_ot", &format!("metric = \"{metric}\"\nreg = {reg}"), &x, &x).lesson.x, &x);
        // One less the cosine of a small angle is half its square, so only a very small weight tells directions apart.
        let last = if metric == "cosine" { 1e-12 } else { 1e-6 };
        let falling = [1.0, 0.1, 0.01, 0.001, last].map(at);
        assert!(falling.is_sorted_by(|a, b| a >= b), "{metric}: {falling:?}");
        assert!(falling[0] > 0.5 && falling[4] < 1e-3, "{metric}: {falling:?}");
    }
}

#[test]
fn entropic_maps_tend_to_the_exact_one_and_to_the_mean() {
    let (source, target) = (cloud(3, 30, 2, 0.0), cloud(4, 25, 2, 1.0));
    let exact = aligned("map_ot", "", &source, &target);
    let at = |reg: f64| {
        let found = aligned("ent_ot", &format!("norm = \"none\"\nreg = {reg}\nsteps = 100000"), &source, &target);
        assert!(fact(&found, "marginal error") <= 1e-8, "{reg}");
        // The entropies of couplings with these marginals differ by at most the logarithm of the fewer rows.
        let more = fact(&found, "cost") - fact(&exact, "cost");
        assert!((-1e-7..=reg * 25_f64.ln()).contains(&more), "{reg}: {more}");
        apart(&found.lesson.x, &exact.lesson.x)
    };
    let falling = [3.0, 1.0, 0.3, 0.1, 0.05].map(at);
    assert!(falling.is_sorted_by(|a, b| a > b), "{falling:?}");
    let mean = row(column_means(target.view())).broadcast((30, 2)).unwrap().to_owned();
    near(&aligned("ent_ot", "reg = 1e6", &source, &target).lesson.x, &mean, 1e-4, "large");
}

#[test]
fn in_one_dimension_the_order_is_kept() {
    let (source, target) = (cloud(5, 30, 1, 0.0), cloud(6, 30, 1, 2.0));
    let sorted = |x: &Array2<f64>| {
        let mut order: Vec<usize> = (0..x.nrows()).collect();
        order.sort_by(|a, b| x[[*a, 0]].total_cmp(&x[[*b, 0]]));
        order
    };
    let (from, to) = (sorted(&source), sorted(&target));
    // Absolute differences leave the coupling open; the squares decide.
    for metric in ["sqeuclidean", "cityblock"] {
        let found = aligned("map_ot", &format!("metric = \"{metric}\""), &source, &target).lesson.x;
        for (i, j) in from.iter().zip(&to) {
            assert!((found[[*i, 0]] - target[[*j, 0]]).abs() < 1e-9, "{metric}");
        }
    }
}

#[test]
fn the_mapped_source_has_the_mean_of_the_target() {
    let (source, target) = (cloud(7, 35, 3, 0.0), cloud(8, 28, 3, 0.9));
    for (name, settings) in MAPS {
        let found = aligned(name, settings, &source, &target);
        let mean = row(column_means(found.lesson.x.view()));
        near(&mean, &row(column_means(target.view())), 1e-10, name);
    }
}

#[test]
fn rows_of_the_fit_are_shown_as_the_lesson_has_them() {
    let (source, target) = (cloud(9, 35, 2, 0.0), cloud(10, 28, 2, 0.9));
    for (name, settings) in MAPS {
        let found = aligned(name, settings, &source, &target);
        near(&found.view.show_source(source.view()).unwrap(), &found.lesson.x, 1e-12, name);
        assert_eq!(found.view.show(target.view()).unwrap(), target, "{name}");
        assert!(found.view.show_source(cloud(0, 3, 5, 0.0).view()).is_err(), "{name}");
        assert!(found.view.show(cloud(0, 3, 5, 0.0).view()).is_err(), "{name}");
    }
}

#[test]
fn a_moved_target_moves_the_map() {
    let (source, target) = (cloud(11, 35, 2, 0.0), cloud(12, 28, 2, 0.9));
    let by = array![[3.0, -7.0]];
    let unseen = cloud(13, 9, 2, 0.1);
    for (name, settings) in MAPS {
        let before = aligned(name, settings, &source, &target);
        let after = aligned(name, settings, &source, &(&target + &by));
        near(&after.lesson.x, &(&before.lesson.x + &by), 1e-8, name);
        let show = |found: &Aligned<Box<dyn AnyView>>| found.view.show_source(unseen.view()).unwrap();
        near(&show(&after), &(show(&before) + &by), 1e-8, name);
    }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let (source, target) = (cloud(14, 35, 2, 0.0), cloud(15, 28, 2, 0.9));
    let y = by_sign(&source);
    let order = |rows: usize| (0..rows).rev().collect::<Vec<usize>>();
    let (from, to) = (order(35), order(28));
    let turned = |x: &Array2<f64>, order: &[usize]| x.select(Axis(0), order);
    let maps = MAPS.iter().map(|(name, settings)| (*name, (*settings).to_owned()));
    let maps = maps.chain(METRICS.map(|metric| ("map_ot", format!("metric = \"{metric}\""))));
    for (name, settings) in maps {
        let found = aligned(name, &settings, &source, &target).lesson.x;
        let other = aligned(name, &settings, &turned(&source, &from), &turned(&target, &to)).lesson.x;
        near(&turned(&other, &from), &found, 1e-8, &format!("{name} {settings}"));
    }
    for metric in METRICS {
        for name in ["ot_label_prop", "jdot"] {
            let found = |source: &Array2<f64>, y: &Labels| {
                let settings = format!("metric = \"{metric}\"");
                with(name, &settings, &Logistic::default(), source, y, &target).unwrap().lesson
            };
            let (found, other) = (found(&source, &y), found(&turned(&source, &from), &y.select(&from)));
            assert_eq!((&found.x, &found.y), (&other.x, &other.y), "{name} {metric}");
        }
    }
}

#[test]
fn lin_ot_gives_the_covariance_of_the_target_and_is_cheaper_than_coral() {
    let mix = array![[1.0, 0.7, 0.0], [0.0, 0.4, -0.5], [0.0, 0.0, 2.0]];
    let (source, target) = (cloud(16, 60, 3, 0.0), cloud(17, 50, 3, 0.3).dot(&mix));
    let found = aligned("lin_ot", "reg = 1e-12", &source, &target);
    near(&covariance(found.lesson.x.view(), 0), &covariance(target.view(), 0), 1e-10, "covariance");
    let coral = aligned("coral", "", &source, &target).lesson.x;
    near(&covariance(coral.view(), 0), &covariance(target.view(), 0), 1e-10, "the covariance of coral");
    let moved = |x: &Array2<f64>| (x - &source).mapv(|by| by * by).sum() / 60.0;
    let (cheap, dear) = (moved(&found.lesson.x), moved(&coral));
    assert!(cheap < dear - 1e-3, "{cheap} {dear}");
    let unit = found.view.show_source(concatenate![Axis(0), Array2::eye(3), Array2::zeros((1, 3))].view()).unwrap();
    let matrix = &unit.slice(ndarray::s![..3, ..]) - &unit.row(3);
    near(&matrix, &matrix.t().to_owned(), 1e-12, "symmetric");
    assert!(symmetric_eigen(matrix.view()).unwrap().0[0] > 0.0);
}

#[test]
fn propagation_gives_the_labels_of_equal_domains_back_and_keeps_shares() {
    let x = cloud(18, 40, 2, 0.0);
    let y = by_sign(&x);
    let numbers = Labels::Numbers(x.column(1).to_vec());
    for metric in METRICS {
        for soft in [false, true] {
            let settings = format!("metric = \"{metric}\"\nsoft = {soft}");
            let found = with("ot_label_prop", &settings, &Logistic::default(), &x, &y, &x).unwrap().lesson;
            assert_eq!((&found.x, &found.y), (&x, &y), "{settings}");
        }
        let settings = format!("metric = \"{metric}\"");
        let found = with("ot_label_prop", &settings, &Logistic::default(), &x, &numbers, &x).unwrap().lesson;
        let far = found.y.numbers("test").unwrap().iter().zip(x.column(1)).map(|(a, b)| (a - b).abs());
        assert!(far.fold(0.0, f64::max) < 1e-12, "{metric}");
    }
    let target = cloud(19, 33, 2, 1.5);
    for settings in ["soft = true", "soft = true\nreg = 0.3"] {
        let found = with("ot_label_prop", settings, &Logistic::default(), &x, &y, &target).unwrap().lesson;
        let (of, weights) = (found.y.classes("test").unwrap().0.to_vec(), found.weights.unwrap());
        let ones = y.classes("test").unwrap().0.iter().sum::<usize>() as f64;
        let second: f64 = of.iter().zip(&weights).filter(|(of, _)| **of == 1).map(|(_, weight)| weight).sum();
        // Shares below a millionth of the largest are left out.
        assert!((weights.sum() - 33.0).abs() < 1e-4, "{settings}");
        assert!((second / 33.0 - ones / 40.0).abs() < 1e-5, "{settings}: {second}");
    }
}

#[test]
fn of_classes_that_tie_the_first_is_taken() {
    // Each row of the target gets one of each class, half of its mass from either.
    let (source, target) = (array![[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]], array![[0.0], [5.0], [9.0]]);
    for of in [[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]] {
        let y = Labels::Classes { of: of.to_vec(), count: 2 };
        let found = with("ot_label_prop", "", &Logistic::default(), &source, &y, &target).unwrap();
        assert_eq!(found.lesson.y.classes("test").unwrap().0, [0, 0, 0]);
    }
}

/// Two clouds that a learner tells apart without doubt.
fn separate(seed: u64, rows: usize) -> (Array2<f64>, Labels) {
    let mut x = cloud(seed, rows, 2, 0.0);
    let of: Vec<usize> = (0..rows).map(|row| row % 2).collect();
    for (mut row, class) in x.rows_mut().into_iter().zip(&of) {
        row[0] += 8.0 * *class as f64 - 4.0;
    }
    (x, Labels::Classes { of, count: 2 })
}

#[test]
fn jdot_keeps_the_labels_of_equal_domains() {
    let (x, y) = separate(20, 40);
    for alpha in [0.0, 0.1, 0.5, 0.9, 1.0] {
        let cross = with("jdot", &format!("alpha = {alpha}"), &Logistic::default(), &x, &y, &x).unwrap();
        let settings = format!("alpha = {alpha}\nloss = \"hinge\"");
        let hinge = with("jdot", &settings, &Svc::default(), &x, &y, &x).unwrap();
        for found in [cross, hinge] {
            assert_eq!((&found.lesson.x, &found.lesson.y), (&x, &y), "{alpha}");
        }
    }
}

#[test]
fn jdot_without_its_labels_is_propagation_and_so_is_the_slip_of_skada() {
    let (source, target) = (cloud(21, 40, 2, 0.0), cloud(22, 30, 2, 0.8));
    let y = by_sign(&source);
    let settled =
        |name: &str, settings: &str| with(name, settings, &Svc::default(), &source, &y, &target).unwrap().lesson;
    let expected = settled("ot_label_prop", "soft = true");
    let same = |settings: &str| {
        let found = settled("jdot", settings);
        (&found.x, &found.y) == (&expected.x, &expected.y)
    };
    assert!(same("alpha = 0.0"));
    assert!(same("alpha = 0.9\nloss = \"hinge\"\ncompat = true"));
    assert!(!same("alpha = 0.9\nloss = \"hinge\""));
}

#[test]
fn no_fit_of_least_squares_raises_the_objective_of_jdot() {
    let (source, target) = (cloud(23, 40, 2, 0.0), cloud(24, 30, 2, 0.8));
    let mut rng = Rng::new(25, "noise", 0);
    let y = Labels::Numbers(source.rows().into_iter().map(|x| x[0] - x[1] * x[1] + rng.normal()).collect());
    for alpha in [0.1, 0.5, 0.9] {
        let at = |steps: usize| {
            let settings = format!("alpha = {alpha}\nsteps = {steps}\ntolerance = 0.0");
            fact(&with("jdot", &settings, &Linear::default(), &source, &y, &target).unwrap(), "objective")
        };
        let sums: Vec<f64> = (1..=6).map(at).collect();
        assert!(sums.windows(2).all(|two| two[1] <= two[0] + 1e-12), "{alpha}: {sums:?}");
        assert!(sums[1] < sums[0], "{alpha}: {sums:?}");
    }
}

#[test]
fn jdot_follows_labels_that_move_with_the_features() {
    let (source, y) = separate(26, 60);
    let (target, hidden) = separate(27, 50);
    let target = &target * 0.5 + &array![[6.0, -2.0]];
    let of = hidden.classes("test").unwrap().0.to_vec();
    let s = Source::new(source.view(), &y).unwrap();
    let t = Target::new(target.view(), &s).unwrap();
    let host = Host { learner: &Logistic::default(), seed: 0 };
    let right = |name: &str| {
        let method = find(ALIGN, name).unwrap().build(&toml::Table::new()).unwrap();
        let found = Fit::new(method.as_ref(), &s, &t, &host).unwrap().predict(target.view()).unwrap();
        found.iter().zip(&of).filter(|(a, b)| a == b).count()
    };
    assert_eq!(right("source_only"), 25);
    for name in ["jdot", "ot_label_prop", "map_ot", "ent_ot", "class_reg_ot", "lin_ot"] {
        assert_eq!(right(name), 50, "{name}");
    }
}

#[test]
fn the_regulariser_keeps_classes_apart() {
    let (source, target) = (cloud(28, 40, 2, 0.0), cloud(29, 30, 2, 0.5));
    let at = |reg_cl: f64| {
        let settings = format!("reg = 0.5\nreg_cl = {reg_cl}\ninner_steps = 100000");
        fact(&aligned("class_reg_ot", &settings, &source, &target), "mixed")
    };
    let mixed = [0.0, 0.1, 0.3, 1.0, 3.0].map(at);
    assert!(mixed.is_sorted_by(|a, b| a >= b), "{mixed:?}");
    assert!(mixed[0] > 0.1 && mixed[4] < 0.02, "{mixed:?}");
}

#[test]
fn no_step_raises_the_regularised_objective() {
    let (source, target) = (cloud(30, 40, 2, 0.0), cloud(31, 30, 2, 0.5));
    for reg_cl in [0.3, 2.0] {
        let at = |steps: usize| {
            let settings =
                format!("reg = 0.2\nreg_cl = {reg_cl}\nsteps = {steps}\ntolerance = 1e-12\ninner_steps = 100000");
            fact(&aligned("class_reg_ot", &settings, &source, &target), "objective")
        };
        let sums: Vec<f64> = (1..=8).map(at).collect();
        assert!(sums.windows(2).all(|two| two[1] <= two[0] + 1e-10), "{reg_cl}: {sums:?}");
        assert!(sums[1] < sums[0] - 1e-4, "{reg_cl}: {sums:?}");
    }
}

#[test]
fn without_its_regulariser_it_is_the_entropic_map() {
    let (source, target) = (cloud(32, 40, 2, 0.0), cloud(33, 30, 2, 0.5));
    let ent = "norm = \"median\"\nreg = 0.2\ntolerance = 1e-12\nsteps = 100000";
    let class = "norm = \"median\"\nreg = 0.2\nreg_cl = 0.0\ntolerance = 1e-12\ninner_steps = 100000";
    let found = aligned("class_reg_ot", class, &source, &target).lesson.x;
    near(&found, &aligned("ent_ot", ent, &source, &target).lesson.x, 1e-10, "maps");
}

#[test]
fn costs_large_and_small_and_weights_of_any_size_give_numbers() {
    let (source, target) = (cloud(34, 20, 2, 0.0), cloud(35, 25, 2, 3.0));
    let y = by_sign(&source);
    let regs = ["1e-9", "1e-3", "1e9"];
    let methods: Vec<(&str, String)> = (regs.iter())
        .flat_map(|reg| {
            ["none", "median"].into_iter().flat_map(move |norm| {
                let settings = format!("norm = \"{norm}\"\nreg = {reg}\n");
                [
                    ("ent_ot", format!("{settings}steps = 100")),
                    ("class_reg_ot", format!("{settings}inner_steps = 50\nsteps = 3\nreg_cl = {reg}")),
                    ("ot_label_prop", format!("{settings}steps = 100")),
                ]
            })
        })
        .chain(["map_ot", "ot_label_prop", "jdot", "lin_ot"].map(|name| (name, String::new())))
        .collect();
    for scale in [1e-100, 1e-3, 1e3, 1e100] {
        let (source, target) = (&source * scale, &target * scale);
        for (name, settings) in &methods {
            let found = with(name, settings, &Logistic::default(), &source, &y, &target).unwrap();
            let far = found.view.show_source((&source + 1e4 * scale).view()).unwrap();
            let all = found.lesson.x.iter().chain(&far).chain(found.lesson.weights.iter().flatten());
            assert!(all.into_iter().all(|number| number.is_finite()), "{name} {settings} {scale:e}");
        }
    }
    let huge = &source * 1e200;
    for (name, settings) in &methods {
        let found = with(name, settings, &Logistic::default(), &huge, &y, &target);
        assert!(found.is_err(), "{name} {settings}: squares beyond all numbers are refused");
    }
}

#[test]
fn rows_that_are_all_equal_are_sent_to_the_mean() {
    let (source, target) = (Array2::from_elem((12, 2), 1.0), Array2::from_elem((9, 2), 1.0));
    let y = Labels::Classes { of: (0..12).map(|row| row % 2).collect(), count: 2 };
    for name in ["map_ot", "ent_ot", "class_reg_ot", "lin_ot"] {
        let found = with(name, "", &Logistic::default(), &source, &y, &target).unwrap();
        near(&found.lesson.x, &source, 1e-12, name);
    }
    for name in ["ot_label_prop", "jdot"] {
        let found = with(name, "", &Logistic::default(), &source, &y, &target).unwrap();
        assert!(found.lesson.x.iter().all(|number| *number == 1.0), "{name}");
    }
}

#[test]
fn what_is_saved_is_read_back_bit_for_bit() {
    let (source, target) = (cloud(36, 20, 2, 0.0), cloud(37, 15, 2, 0.5));
    let unseen = cloud(38, 6, 2, 0.2);
    for (name, settings) in MAPS {
        let found = aligned(name, settings, &source, &target);
        let method = find(ALIGN, name).unwrap().build(&toml::Table::new()).unwrap();
        let again = method.restore(found.view.save()).unwrap();
        assert_eq!(again.show_source(unseen.view()).unwrap(), found.view.show_source(unseen.view()).unwrap(), "{name}");
    }
}

#[test]
fn labels_and_settings_of_the_wrong_kind_are_refused() {
    let x = cloud(39, 10, 2, 0.0);
    let numbers = Labels::Numbers(vec![0.5; 10]);
    let error = with("class_reg_ot", "", &Logistic::default(), &x, &numbers, &x).unwrap_err();
    assert!(error.to_string().contains("give classes"), "{error}");
    assert!(Jdot { alpha: 1.5, ..Jdot::default() }.check().is_err());
    assert!(ClassRegOt { reg: 0.0, ..ClassRegOt::default() }.check().is_err());
    assert!(find(ALIGN, "ot_label_prop").unwrap().build(&"reg = 0.0".parse().unwrap()).is_err());
    let flat = concatenate![Axis(1), x, Array2::zeros((10, 1))];
    let error = with("lin_ot", "reg = 0.0", &Logistic::default(), &flat, &by_sign(&flat), &flat).unwrap_err();
    assert!(error.to_string().contains("raise `reg`"), "{error}");
}
