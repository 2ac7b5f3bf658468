//! What every alignment must do, and maps and subspaces in particular.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{Entry, Rng, find};
use acclimate_shift::{
    ALIGN, Align, Aligned, AnyAlign, AnyView, Coral, Dasvm, Fit, Host, JointPca, Lesson, Mapped, MmdLs, Source,
    SubspaceAlignment, Target, Tca, Tjm, Tsl,
};
use acclimate_stats::learn::{Kernel, Labels, Learner, Ridge, Svc, select};
use acclimate_stats::linalg::{column_means, covariance, orthonormal, squared_distances};
use ndarray::{Array1, Array2, ArrayView2, Axis, array, concatenate, s};

/// Methods that work on numbers in place of classes.
const NUMBERS: [&str; 1] = ["retasa"];
/// Methods whose lesson is the target under guessed labels.
const GUESSES: [&str; 3] = ["dasvm", "jdot", "ot_label_prop"];
/// Methods whose entropy draws rows together, also where domains are equal.
const BLURS: [&str; 2] = ["class_reg_ot", "ent_ot"];
/// Methods that show rows by eigenvectors, whose signs are free.
const SIGNS: [&str; 5] = ["joint_pca", "subspace_alignment", "tca", "tjm", "tsl"];

fn normal(seed: u64, rows: usize, features: usize) -> Array2<f64> {
    let mut rng = Rng::new(seed, "normal", 0);
    Array2::from_shape_fn((rows, features), |_| rng.normal())
}

/// Two classes, the second moved along the first two columns; `turn` moves and stretches all of it.
#[derive(Clone, Debug)]
struct Domain {
    x: Array2<f64>,
    of: Vec<usize>,
}

impl Domain {
    fn new(seed: u64, rows: usize, turn: f64) -> Self {
        let of: Vec<usize> = (0..rows).map(|row| (row * 7 % 10) % 2).collect();
        let mut x = normal(seed, rows, 3);
        for (mut row, class) in x.rows_mut().into_iter().zip(&of) {
            row[0] += 2.2 * *class as f64;
            row[1] -= 1.2 * *class as f64;
        }
        x *= &array![1.0 + 0.4 * turn, 1.0 - 0.3 * turn, 1.0 + 0.2 * turn];
        Self { x: x + &array![0.3 * turn, -0.5 * turn, 0.2 * turn], of }
    }

    fn shuffled(&self, order: &[usize]) -> Self {
        Self { x: select(self.x.view(), order), of: order.iter().map(|row| self.of[*row]).collect() }
    }

    fn labels(&self, name: &str) -> Labels {
        if NUMBERS.contains(&name) {
            let noise = |row: usize| 0.1 * ((row * 13) % 7) as f64;
            return Labels::Numbers(self.x.column(0).iter().map(|x| x + noise((x.abs() * 1e4) as usize)).collect());
        }
        Labels::Classes { of: self.of.clone(), count: 2 }
    }
}

fn learner(name: &str) -> Box<dyn Learner> {
    if NUMBERS.contains(&name) {
        return Box::new(Ridge::default());
    }
    Box::new(Svc { kernel: Kernel::Linear, tolerance: 1e-10, ..Svc::default() })
}

fn aligned(method: &dyn AnyAlign, source: &Domain, target: ArrayView2<'_, f64>) -> Aligned<Box<dyn AnyView>> {
    let name = method.card().name;
    let y = source.labels(name);
    let source = Source::new(source.x.view(), &y).unwrap();
    let target = Target::new(target, &source).unwrap();
    let learner = learner(name);
    method.align_any(&source, &target, &Host { learner: learner.as_ref(), seed: 3 }).unwrap()
}

/// Every method under each of the settings on its card.
fn every() -> impl Iterator<Item = (&'static Entry<dyn AnyAlign>, &'static str, Box<dyn AnyAlign>)> {
    ALIGN.iter().flat_map(|entry| {
        entry.cases.iter().map(move |case| (entry, *case, entry.build(&case.parse().unwrap()).unwrap()))
    })
}

/// The largest difference, in units of one and the number.
fn apart(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> f64 {
    assert_eq!(a.dim(), b.dim());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

fn order(seed: u64, rows: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Rng::new(seed, "order", 0).shuffle(&mut order);
    order
}

#[test]
fn shuffled_rows_change_nothing_but_their_order() {
    let (source, target, queries) = (Domain::new(1, 60, 0.0), Domain::new(2, 50, 1.0).x, Domain::new(3, 10, 0.5).x);
    let (p, q) = (order(4, 60), order(5, 50));
    let (moved_source, moved_target) = (source.shuffled(&p), select(target.view(), &q));
    let mut wrong: Vec<String> = Vec::new();
    let mut same = |close: bool, what: String| {
        if !close {
            wrong.push(what);
        }
    };
    // That one reads a triangle of a matrix that is not symmetric; its page says so.
    for (entry, case, method) in every().filter(|(entry, case, _)| entry.card.name != "tca" || !case.contains("compat"))
    {
        let name = entry.card.name;
        let plain = aligned(method.as_ref(), &source, target.view());
        let moved = aligned(method.as_ref(), &moved_source, moved_target.view());
        let rows = if GUESSES.contains(&name) { &q } else { &p };
        // A row whose label is split between classes stands in a lesson for each: what is learned from them is compared.
        if plain.lesson.y.len() != rows.len() {
            let learner = learner(name);
            let host = Host { learner: learner.as_ref(), seed: 3 };
            let answers = |lesson: &Lesson| host.learn(lesson).unwrap().answers(queries.view()).unwrap();
            let far = apart(answers(&plain.lesson).view(), answers(&moved.lesson).view());
            same(far < 1e-4, format!("{name} {case} answers: {far:e}"));
            continue;
        }
        let mut shown = [
            (plain.view.show(queries.view()).unwrap(), moved.view.show(queries.view()).unwrap()),
            (plain.view.show_source(queries.view()).unwrap(), moved.view.show_source(queries.view()).unwrap()),
            (select(plain.lesson.x.view(), rows), moved.lesson.x),
        ];
        if SIGNS.contains(&name) {
            let signs = (&shown[0].0 * &shown[0].1).sum_axis(Axis(0)).mapv(f64::signum);
            shown.iter_mut().for_each(|(_, moved)| *moved *= &signs);
        }
        for (at, (plain, moved)) in shown.iter().enumerate() {
            let far = apart(plain.view(), moved.view());
            same(far < 1e-6, format!("{name} {case} {at}: {far:e}"));
        }
        match (plain.lesson.y.select(rows), moved.lesson.y) {
            (Labels::Classes { of: a, .. }, Labels::Classes { of: b, .. }) => assert_eq!(a, b, "{name} {case}"),
            (Labels::Numbers(a), Labels::Numbers(b)) => assert_eq!(a, b, "{name} {case}"),
            _ => panic!("{name}: labels of two kinds"),
        }
        if let (Some(a), Some(b)) = (plain.lesson.weights, moved.lesson.weights) {
            let far = apart(a.select(Axis(0), rows).insert_axis(Axis(0)).view(), b.insert_axis(Axis(0)).view());
            same(far < 1e-6, format!("{name} {case} weights: {far:e}"));
        }
        assert_eq!(plain.facts.len(), moved.facts.len());
        for ((fact, a), (_, b)) in plain.facts.iter().zip(&moved.facts) {
            // A gap is of the size at which a solver stops.
            let close = *fact == "gap" || (a - b).abs() <= 1e-5 * (1.0 + a.abs());
            same(close, format!("{name} {case} {fact}: {a} {b}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn lessons_are_the_source_as_the_view_shows_it() {
    let (source, target) = (Domain::new(6, 60, 0.0), Domain::new(7, 50, 1.0).x);
    for (entry, case, method) in every().filter(|(entry, ..)| !GUESSES.contains(&entry.card.name)) {
        let found = aligned(method.as_ref(), &source, target.view());
        let far = apart(found.view.show_source(source.x.view()).unwrap().view(), found.lesson.x.view());
        assert!(far < 1e-9, "{} {case}: {far:e}", entry.card.name);
        assert_eq!(found.lesson.y, source.labels(entry.card.name));
        assert_eq!(found.view.show(target.view()).unwrap().ncols(), found.lesson.x.ncols());
    }
}

#[test]
fn restored_views_show_the_same_bits() {
    let (source, target) = (Domain::new(8, 60, 0.0), Domain::new(9, 50, 1.0).x);
    let queries = normal(10, 5, 3);
    for (entry, case, method) in every() {
        let found = aligned(method.as_ref(), &source, target.view());
        let text = found.view.save().to_string();
        let again = method.restore(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(found.view.show(queries.view()).unwrap(), again.show(queries.view()).unwrap());
        assert_eq!(found.view.show_source(queries.view()).unwrap(), again.show_source(queries.view()).unwrap());
        assert!(found.lesson.x.iter().all(|x| x.is_finite()), "{} {case}", entry.card.name);
        assert!(method.restore(serde_json::json!("no view")).is_err(), "{} {case}", entry.card.name);
    }
}

#[test]
fn rows_of_another_width_are_refused_or_left_to_the_learner() {
    let (source, target) = (Domain::new(8, 60, 0.0), Domain::new(9, 50, 1.0).x);
    let wide = normal(10, 5, 4);
    for (entry, case, method) in every() {
        let view = aligned(method.as_ref(), &source, target.view()).view;
        for shown in [view.show(wide.view()), view.show_source(wide.view())] {
            assert!(shown.is_err() || shown.unwrap() == wide, "{} {case}", entry.card.name);
        }
    }
}

#[test]
fn more_components_than_there_are_are_refused_or_left_out() {
    let (source, target) = (Domain::new(45, 60, 0.0), Domain::new(46, 50, 1.0).x);
    let y = source.labels("any");
    let domain = Source::new(source.x.view(), &y).unwrap();
    let rows = Target::new(target.view(), &domain).unwrap();
    let learner = learner("any");
    let host = Host { learner: learner.as_ref(), seed: 0 };
    for name in ["joint_pca", "subspace_alignment", "tsl"] {
        let method = find(ALIGN, name).unwrap().build(&toml::toml! { components = 4 }).unwrap();
        let error = method.align_any(&domain, &rows, &host).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("components") && error.contains('3'), "{error}");
    }
    // Three places are all there is, so a kernel has three components at most, and two that vary.
    let places = Domain { x: select(source.x.view(), &(0..60).map(|row| row % 2).collect::<Vec<_>>()), of: source.of };
    let target = select(target.view(), &[0; 50]);
    for name in ["tca", "tjm"] {
        let method = find(ALIGN, name).unwrap().build(&toml::toml! { components = 10 }).unwrap();
        let shown = aligned(method.as_ref(), &places, target.view()).lesson.x;
        assert!((1..=3).contains(&shown.ncols()), "{name}: {}", shown.ncols());
        assert!(shown.iter().all(|x| x.is_finite()), "{name}");
    }
}

#[test]
fn equal_domains_are_shown_alike() {
    let source = Domain::new(11, 80, 0.0);
    let queries = Domain::new(12, 10, 0.0).x;
    for (entry, case, method) in every().filter(|(entry, ..)| !BLURS.contains(&entry.card.name)) {
        let found = aligned(method.as_ref(), &source, source.x.view());
        let (target, own) = (found.view.show(queries.view()).unwrap(), found.view.show_source(queries.view()).unwrap());
        let far = apart(own.view(), target.view());
        assert!(far < 1e-6, "{} {case}: {far:e}", entry.card.name);
        // Kernels of a width that is given may be too narrow for any number of rows, those that are chosen may not.
        if let (Some(weights), true) = (found.lesson.weights, case.is_empty()) {
            // Shares of classes are found from other fits on the source than on the target, and smooth fits reach one nearly.
            let worst = weights.iter().map(|w| (w - 1.0).abs()).fold(0.0, f64::max);
            assert!(worst < 0.5, "{} {case}: {worst}", entry.card.name);
        }
    }
}

#[test]
fn maps_leave_equal_domains_where_they_are() {
    let source = Domain::new(13, 80, 0.0);
    for name in ["coral", "mmd_ls", "source_only"] {
        let method = find(ALIGN, name).unwrap().build(&toml::Table::new()).unwrap();
        let found = aligned(method.as_ref(), &source, source.x.view());
        let far = apart(found.lesson.x.view(), source.x.view());
        assert!(far < 1e-9, "{name}: {far:e}");
    }
}

fn typed<M: Align>(method: &M, source: &Domain, target: ArrayView2<'_, f64>) -> Aligned<M::View> {
    let y = source.labels(M::CARD.name);
    let source = Source::new(source.x.view(), &y).unwrap();
    let target = Target::new(target, &source).unwrap();
    let learner = learner(M::CARD.name);
    method.align(&source, &target, &Host { learner: learner.as_ref(), seed: 3 }).unwrap()
}

#[test]
fn coral_gives_the_source_the_moments_of_the_target() {
    let (source, target) = (Domain::new(14, 60, 0.0), Domain::new(15, 50, 1.0).x);
    let found = typed(&Coral::default(), &source, target.view()).lesson.x;
    assert!(apart(covariance(found.view(), 0).view(), covariance(target.view(), 0).view()) < 1e-6);
    assert!((column_means(found.view()) - column_means(target.view())).iter().all(|x| x.abs() < 1e-9));
    // About zero, second moments.
    let found = typed(&Coral { centred: true, ..Coral::default() }, &source, target.view()).lesson.x;
    let moment = |x: &Array2<f64>| x.t().dot(x) / x.nrows() as f64;
    assert!(apart(moment(&found).view(), moment(&target).view()) < 1e-6);
}

/// The source under another matrix and moved.
fn under(source: &Domain, matrix: &Array2<f64>, by: &Array1<f64>) -> Domain {
    Domain { x: source.x.dot(matrix) + by, of: source.of.clone() }
}

#[test]
fn coral_does_not_see_where_the_source_lies_and_turns_with_both_domains() {
    let (source, target) = (Domain::new(16, 60, 0.0), Domain::new(17, 50, 1.0).x);
    let coral = Coral::default();
    let plain = typed(&coral, &source, target.view()).lesson.x;
    let by = array![5.0, -3.0, 1.0];
    let moved = typed(&coral, &under(&source, &Array2::eye(3), &by), target.view()).lesson.x;
    assert!(apart(moved.view(), plain.view()) < 1e-9);
    let turn = orthonormal(normal(18, 3, 3).view());
    let turned = typed(&coral, &under(&source, &turn, &Array1::zeros(3)), target.dot(&turn).view()).lesson.x;
    assert!(apart(turned.view(), plain.dot(&turn).view()) < 1e-9);
}

fn is_orthonormal(matrix: &Array2<f64>) -> bool {
    apart(matrix.t().dot(matrix).view(), Array2::eye(matrix.ncols()).view()) < 1e-10
}

#[test]
fn projections_are_orthonormal() {
    let (source, target) = (Domain::new(19, 60, 0.0), Domain::new(20, 50, 1.0).x);
    let check = |name: &str, view: Mapped| {
        assert!(is_orthonormal(&view.target.unwrap().matrix), "{name}");
    };
    for components in [1, 2, 3] {
        let some = Some(components);
        for compat in [false, true] {
            let pca = JointPca { components: some, compat };
            check("joint_pca", typed(&pca, &source, target.view()).view);
            let tsl = Tsl { components: some, compat, ..Tsl::default() };
            check("tsl", typed(&tsl, &source, target.view()).view);
        }
        check("subspace_alignment", typed(&SubspaceAlignment { components: some }, &source, target.view()).view);
    }
}

#[test]
fn joint_pca_of_all_components_is_a_rotation_and_of_some_keeps_most_variance() {
    let (source, target) = (Domain::new(21, 60, 0.0), Domain::new(22, 50, 1.0).x);
    let all = typed(&JointPca::default(), &source, target.view()).lesson.x;
    let distances = |x: &Array2<f64>| squared_distances(x.view(), x.view());
    assert!(apart(distances(&all).view(), distances(&source.x).view()) < 1e-9);
    let both = concatenate(Axis(0), &[source.x.view(), target.view()]).unwrap();
    let one = typed(&JointPca { components: Some(1), ..JointPca::default() }, &source, target.view()).view;
    let kept = covariance(one.source.of(both.view()).unwrap().view(), 0)[[0, 0]];
    for direction in orthonormal(normal(23, 3, 3).view()).columns() {
        let other = direction.dot(&covariance(both.view(), 0).dot(&direction));
        assert!(kept > other, "{kept} {other}");
    }
}

#[test]
fn subspace_alignment_of_all_components_only_centres_and_the_aligned_axes_are_nearest() {
    let (source, target) = (Domain::new(24, 60, 0.0), Domain::new(25, 50, 1.0).x);
    let all = typed(&SubspaceAlignment::default(), &source, target.view()).view;
    let (of_source, of_target) = (all.source, all.target.unwrap());
    assert!(apart(of_source.matrix.view(), of_target.matrix.view()) < 1e-9);
    assert!((&of_source.before - &column_means(source.x.view())).iter().all(|x| x.abs() < 1e-12));
    assert!((&of_target.before - &column_means(target.view())).iter().all(|x| x.abs() < 1e-12));
    // Of all maps out of the source's plane the one taken leaves nothing of the target's axes in that plane.
    let two = typed(&SubspaceAlignment { components: Some(2) }, &source, target.view()).view;
    let left = &two.source.matrix - &two.target.unwrap().matrix;
    assert!(two.source.matrix.t().dot(&left).iter().all(|x| x.abs() < 1e-9));
}

#[test]
fn kernel_components_do_not_see_where_both_domains_lie() {
    let (source, target) = (Domain::new(26, 60, 0.0), Domain::new(27, 50, 1.0).x);
    let by = array![4.0, -2.0, 7.0];
    let turn = orthonormal(normal(28, 3, 3).view());
    let other = under(&source, &turn, &by);
    for name in ["tca", "tjm"] {
        let method = find(ALIGN, name).unwrap().build(&toml::toml! { components = 3 }).unwrap();
        let plain = aligned(method.as_ref(), &source, target.view()).lesson.x;
        let moved = aligned(method.as_ref(), &other, (target.dot(&turn) + &by).view()).lesson.x;
        let signs = (&plain * &moved).sum_axis(Axis(0)).mapv(f64::signum);
        assert!(apart((moved * &signs).view(), plain.view()) < 1e-7, "{name}");
    }
}

/// The squared distance of the domains' means in the shown columns.
fn gap(found: &Aligned<Box<dyn AnyView>>, target: &Array2<f64>) -> f64 {
    let shown = found.view.show(target.view()).unwrap();
    (column_means(found.lesson.x.view()) - column_means(shown.view())).mapv(|x| x * x).sum()
}

#[test]
fn a_dearer_difference_brings_the_means_of_whitened_tca_together() {
    let (source, target) = (Domain::new(29, 60, 0.0), Domain::new(30, 50, 1.0).x);
    let run = |mu: f64| {
        let tca = Tca { components: 2, whiten: true, mu, ..Tca::default() };
        let found = aligned(&tca, &source, target.view());
        let shown = found.view.show(target.view()).unwrap();
        let both = concatenate(Axis(0), &[found.lesson.x.view(), shown.view()]).unwrap();
        let scatter = covariance(both.view(), 0) * both.nrows() as f64;
        assert!(apart(scatter.view(), Array2::eye(2).view()) < 1e-8);
        gap(&found, &target)
    };
    let gaps = [0.0, 1.0, 10.0, 1000.0].map(run);
    assert!(gaps.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-9)) && gaps[3] < 0.01 * gaps[0], "{gaps:?}");
}

/// What a saved kernel map holds: the rows, the width and the matrix.
fn kernel_parts(view: &dyn AnyView) -> (Array2<f64>, f64, Array2<f64>) {
    let saved = view.save();
    let read = |what: &str| serde_json::from_value(saved[what].clone()).unwrap();
    (read("rows"), saved["gamma"].as_f64().unwrap(), read("matrix"))
}

#[test]
fn no_turn_of_tjm_raises_its_objective_and_rows_of_the_source_drop_out() {
    let (source, target) = (Domain::new(31, 60, 0.0), Domain::new(32, 50, 1.0).x);
    let tradeoff = 0.05;
    let at = |steps: usize| {
        let tjm = Tjm { components: 2, tradeoff, steps, tolerance: 0.0, ..Tjm::default() };
        let found = typed(&tjm, &source, target.view());
        let (rows, gamma, a) = kernel_parts(&found.view);
        let k = squared_distances(rows.view(), rows.view()).mapv(|square| (-gamma * square).exp());
        let shown = k.dot(&a);
        let scatter = covariance(shown.view(), 0) * 110.0;
        assert!(apart(scatter.view(), Array2::eye(2).view()) < 1e-7, "{scatter}");
        let balance: Array1<f64> = (0..110).map(|row| if row < 60 { 1.0 / 60.0 } else { -1.0 / 50.0 }).collect();
        let means = balance.dot(&shown);
        let lengths = a.map_axis(Axis(1), |row| row.dot(&row).sqrt());
        let cost = lengths.slice(s![..60]).sum() + lengths.slice(s![60..]).mapv(|x| x * x).sum();
        let most = lengths.fold(0.0_f64, |most, x| most.max(*x));
        let dropped = lengths.iter().take(60).filter(|x| **x < 1e-3 * most).count();
        (means.dot(&means) / balance.dot(&balance) + tradeoff * cost, dropped)
    };
    let found: Vec<(f64, usize)> = [1, 2, 3, 5, 10, 40].map(at).to_vec();
    assert!(found.windows(2).all(|pair| pair[1].0 <= pair[0].0 * (1.0 + 1e-9)), "{found:?}");
    assert!(found[0].1 == 0 && found[5].1 > 10, "{found:?}");
}

/// The objective that a method states.
fn objective<V>(found: &Aligned<V>) -> f64 {
    found.facts.iter().find(|(fact, _)| *fact == "objective").unwrap().1
}

#[test]
fn searches_never_end_above_their_start() {
    let (source, target) = (Domain::new(33, 60, 0.0), Domain::new(34, 50, 1.0).x);
    for compat in [false, true] {
        let tsl = |steps| {
            let tsl = Tsl { components: Some(2), steps, compat, ..Tsl::default() };
            objective(&typed(&tsl, &source, target.view()))
        };
        let mmd_ls = |steps| objective(&typed(&MmdLs { steps, compat, ..MmdLs::default() }, &source, target.view()));
        for values in [[0, 1, 3, 10, 100].map(tsl), [0, 1, 3, 10, 100].map(mmd_ls)] {
            assert!(values.windows(2).all(|pair| pair[1] <= pair[0] + 1e-12), "{values:?}");
            assert!(values[4] < values[0] - 1e-4, "{values:?}");
        }
    }
}

#[test]
fn tsl_turns_with_both_domains_and_leaves_a_mirrored_direction_out() {
    let (source, target) = (Domain::new(35, 60, 0.0), Domain::new(36, 50, 1.0).x);
    let tsl = Tsl { tolerance: 1e-9, ..Tsl::default() };
    let turn = orthonormal(normal(37, 3, 3).view());
    let gram = |x: &Array2<f64>| x.dot(&x.t());
    let plain = typed(&tsl, &source, target.view());
    let turned = typed(&tsl, &under(&source, &turn, &Array1::zeros(3)), target.dot(&turn).view());
    assert!((objective(&plain) - objective(&turned)).abs() < 1e-8);
    assert!(apart(gram(&plain.lesson.x).view(), gram(&turned.lesson.x).view()) < 1e-3);
    // Both columns tell the classes apart, the second better, but in the target it is mirrored.
    let half = |seed: u64, sign: f64| {
        let mut x = normal(seed, 80, 2) * 0.5;
        for (at, mut row) in x.rows_mut().into_iter().enumerate() {
            let class = if at % 4 == 0 { 1.0 } else { -1.0 };
            row[0] += class;
            row[1] += 1.5 * sign * class;
        }
        x
    };
    let source = Domain { x: half(38, 1.0), of: (0..80).map(|at| usize::from(at % 4 == 0)).collect() };
    let share = |mu: f64| {
        let found = typed(&Tsl { mu, ..Tsl::default() }, &source, half(39, -1.0).view());
        found.view.source.matrix[[0, 0]].abs()
    };
    assert!(share(0.0) < 0.8 && share(100.0) > 0.95, "{} {}", share(0.0), share(100.0));
}

#[test]
fn mmd_ls_undoes_a_scale_and_a_move_of_each_class() {
    let source = Domain { x: Domain::new(40, 80, 0.0).x * 0.5, of: Domain::new(40, 80, 0.0).of };
    let (scales, moves) =
        ([array![1.2, 0.9, 1.0], array![0.8, 1.1, 1.2]], [array![0.2, 0.1, -0.1], array![0.1, -0.2, 0.2]]);
    let mut target = source.x.clone();
    for (mut row, class) in target.rows_mut().into_iter().zip(&source.of) {
        row *= &scales[*class];
        row += &moves[*class];
    }
    let mmd_ls = MmdLs { gamma: Some(1.0), steps: 1000, tolerance: 1e-9, ..MmdLs::default() };
    let found = typed(&mmd_ls, &source, target.view()).lesson.x;
    let (before, after) = (apart(source.x.view(), target.view()), apart(found.view(), target.view()));
    assert!(after < 0.01 && before > 0.15, "{before} {after}");
}

/// Two classes with a gap between them, wider than a margin.
fn separate(seed: u64, rows: usize, by: f64) -> Domain {
    let of: Vec<usize> = (0..rows).map(|row| row % 2).collect();
    let mut x = normal(seed, rows, 2).mapv(|x| 0.5 * x.clamp(-2.0, 2.0));
    for (mut row, class) in x.rows_mut().into_iter().zip(&of) {
        row[0] += if *class == 1 { 3.0 } else { -3.0 };
        row[1] += by;
    }
    Domain { x, of }
}

#[test]
fn dasvm_keeps_the_classifier_on_equal_domains() {
    let source = separate(41, 40, 0.0);
    let y = source.labels("dasvm");
    let learner = learner("dasvm");
    let host = Host { learner: learner.as_ref(), seed: 0 };
    let domain = Source::new(source.x.view(), &y).unwrap();
    let target = Target::new(source.x.view(), &domain).unwrap();
    let fit = Fit::new(&Dasvm::default(), &domain, &target, &host).unwrap();
    assert_eq!(fit.lesson.y, y);
    let plain = host.learn(&Lesson::of(&domain)).unwrap();
    let queries = separate(42, 30, 0.5).x;
    let far = apart(fit.decisions(queries.view()).unwrap().view(), plain.decisions(queries.view()).unwrap().view());
    assert!(far < 1e-6, "{far:e}");
}

#[test]
fn dasvm_tells_two_classes_apart_and_no_more() {
    let source = separate(47, 40, 0.0);
    let y = Labels::Classes { of: source.of.clone(), count: 3 };
    let domain = Source::new(source.x.view(), &y).unwrap();
    let target = Target::new(source.x.view(), &domain).unwrap();
    let learner = learner("dasvm");
    let host = Host { learner: learner.as_ref(), seed: 0 };
    assert!(Dasvm::default().align(&domain, &target, &host).is_err());
}

#[test]
fn dasvm_follows_classes_that_turn_and_agrees_with_its_own_guesses() {
    let turned = |seed: u64, angle: f64| {
        let domain = separate(seed, 60, 0.0);
        let (sin, cos) = angle.sin_cos();
        Domain { x: domain.x.dot(&array![[cos, sin], [-sin, cos]]) * 0.5, of: domain.of }
    };
    let source = turned(43, 0.0);
    let target = turned(44, 1.2);
    let y = source.labels("dasvm");
    let learner = learner("dasvm");
    let host = Host { learner: learner.as_ref(), seed: 0 };
    let domain = Source::new(source.x.view(), &y).unwrap();
    let rows = Target::new(target.x.view(), &domain).unwrap();
    let fit = Fit::new(&Dasvm::default(), &domain, &rows, &host).unwrap();
    assert_eq!(fit.lesson.x, target.x);
    assert_eq!(fit.lesson.y, target.labels("dasvm"));
    assert_eq!(Labels::Classes { of: fit.predict(target.x.view()).unwrap(), count: 2 }, fit.lesson.y);
    // Which class is called the first does not matter.
    let other = Domain { x: source.x.clone(), of: source.of.iter().map(|class| 1 - class).collect() };
    let swapped = typed(&Dasvm::default(), &other, target.x.view());
    let (found, _) = swapped.lesson.y.classes("test").unwrap();
    assert!(found.iter().zip(&target.of).all(|(a, b)| *a == 1 - b));
}
