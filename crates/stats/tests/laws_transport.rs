//! Laws of optimal transport: duality, marginals, closed forms, and what is refused.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::Rng;
use acclimate_stats::linalg::squared_distances;
use acclimate_stats::transport::{
    Metric, Sinkhorn, barycentre, costs, exact, gaussian_map, partial, round, sinkhorn, unbalanced, uniform,
};
use ndarray::{Array1, Array2, Axis, array};

fn points(rng: &mut Rng, n: usize, width: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, width), |_| rng.normal())
}

fn masses(rng: &mut Rng, n: usize) -> Array1<f64> {
    let masses = Array1::from_shape_fn(n, |_| 0.1 + rng.uniform());
    &masses / masses.sum()
}

fn off(got: Array1<f64>, want: &Array1<f64>) -> f64 {
    (got - want).mapv(f64::abs).sum()
}

/// Marginals, feasible potentials, complementary slackness, no gap.
fn holds(cost: &Array2<f64>, a: &Array1<f64>, b: &Array1<f64>) -> f64 {
    let plan = exact(cost.view(), a.view(), b.view()).unwrap();
    let scale = cost.iter().fold(1.0, |scale: f64, cost| scale.max(cost.abs()));
    let near = 1e-12 * scale * a.sum().max(1.0);
    let coupling = plan.coupling();
    assert!(off(coupling.sum_axis(Axis(1)), a) < near && off(coupling.sum_axis(Axis(0)), b) < near);
    assert!(plan.moves.iter().all(|(_, _, mass)| *mass > 0.0) && plan.moves.len() < a.len() + b.len());
    for ((i, j), cost) in cost.indexed_iter() {
        assert!(plan.f[i] + plan.g[j] <= cost + 1e-12 * scale, "infeasible at {i}, {j}");
    }
    for (i, j, _) in &plan.moves {
        assert!((plan.f[*i] + plan.g[*j] - cost[[*i, *j]]).abs() < 1e-11 * scale, "slack at {i}, {j}");
    }
    assert!(plan.gap.abs() < near, "{:e}", plan.gap);
    plan.cost
}

#[test]
fn exact_plans_prove_themselves_on_random_and_degenerate_problems() {
    let mut rng = Rng::new(3, "problems", 0);
    for round in 0..300 {
        let (n, m) = (1 + rng.below(12), 1 + rng.below(12));
        let cost = match round % 3 {
            // Ties everywhere.
            0 => Array2::from_shape_fn((n, m), |_| rng.below(3) as f64),
            1 => squared_distances(points(&mut rng, n, 2).view(), points(&mut rng, m, 2).view()),
            _ => Array2::from_shape_fn((n, m), |_| 1e6 * rng.normal()),
        };
        let (mut a, mut b) =
            if round % 2 == 0 { (uniform(n), uniform(m)) } else { (masses(&mut rng, n), masses(&mut rng, m)) };
        if round % 5 == 0 && n > 1 && m > 1 {
            // Points without mass.
            a[rng.below(n)] = 0.0;
            b[rng.below(m)] = 0.0;
            a = &a / a.sum();
            b = &b / b.sum();
        }
        holds(&cost, &a, &b);
        let turned = exact(cost.t(), b.view(), a.view()).unwrap();
        let plan = exact(cost.view(), a.view(), b.view()).unwrap();
        assert!((turned.cost - plan.cost).abs() < 1e-9 * (1.0 + plan.cost.abs()));
    }
}

#[test]
fn on_a_line_the_sorted_coupling_is_the_cheapest() {
    let mut rng = Rng::new(5, "line", 0);
    for n in [1, 2, 30, 200] {
        let (x, y) = (points(&mut rng, n, 1), points(&mut rng, n, 1));
        let cost = squared_distances(x.view(), y.view());
        let sorted = |z: &Array2<f64>| {
            let mut z = z.clone().into_raw_vec_and_offset().0;
            z.sort_by(f64::total_cmp);
            z
        };
        let closed: f64 = sorted(&x).iter().zip(sorted(&y)).map(|(x, y)| (x - y) * (x - y)).sum::<f64>() / n as f64;
        assert!((holds(&cost, &uniform(n), &uniform(n)) - closed).abs() < 1e-12 * n as f64);
    }
}

#[test]
fn equal_samples_stay_where_they_are() {
    let x = points(&mut Rng::new(1, "points", 0), 40, 3);
    for metric in [Metric::Sqeuclidean, Metric::Cosine, Metric::Cityblock] {
        let plan = exact(costs(metric, x.view(), x.view()).view(), uniform(40).view(), uniform(40).view()).unwrap();
        assert!(plan.moves.iter().all(|(i, j, _)| i == j) && plan.cost.abs() < 1e-15);
    }
}

#[test]
fn what_is_no_transport_problem_is_refused_with_words() {
    let (cost, half) = (array![[1.0, 2.0], [0.5, 3.0]], array![0.5, 0.5]);
    let said = |cost: &Array2<f64>, a: &Array1<f64>, b: &Array1<f64>| {
        let entropic = sinkhorn(cost.view(), a.view(), b.view(), &Sinkhorn::default()).unwrap_err().to_string();
        let error = exact(cost.view(), a.view(), b.view()).unwrap_err().to_string();
        assert_eq!(error, entropic);
        error
    };
    assert!(said(&cost, &array![0.5, 0.6], &half).contains("use the partial or unbalanced form"));
    assert!(said(&cost, &array![-0.5, 1.5], &half).contains("point 1 of the source has mass -0.5"));
    assert!(said(&cost, &array![0.0, 0.0], &half).contains("has mass 0 in all"));
    assert!(said(&cost, &array![1.0], &half).contains("expected shape [1, 2]"));
    assert!(said(&array![[1.0, f64::NAN], [0.0, 1.0]], &half, &half).contains("from point 1 to point 2 is NaN"));
    assert!(partial(cost.view(), half.view(), half.view(), 1.5).unwrap_err().to_string().contains("1.5 is to go"));
    let zero = Sinkhorn { reg: 0.0, ..Sinkhorn::default() };
    assert!(sinkhorn(cost.view(), half.view(), half.view(), &zero).unwrap_err().to_string().contains("`reg` is 0"));
    assert!(unbalanced(cost.view(), half.view(), half.view(), 0.0, &Sinkhorn::default()).is_err());
    assert!(gaussian_map(Array2::zeros((2, 2)).view(), Array2::eye(2).view()).is_err());
}

#[test]
fn entropic_plans_have_exact_marginals_and_a_true_certificate_at_every_weight() {
    let mut rng = Rng::new(7, "entropic", 0);
    for (n, m, far) in [(30, 20, 0.0), (12, 40, 50.0), (1, 5, 1.0)] {
        let (x, y) = (points(&mut rng, n, 2), points(&mut rng, m, 2) + far);
        let cost = squared_distances(x.view(), y.view());
        let (a, b) = (masses(&mut rng, n) * 2.5, masses(&mut rng, m) * 2.5);
        let best = exact(cost.view(), a.view(), b.view()).unwrap().cost;
        for reg in [1e3, 1.0, 1e-2, 1e-5, 1e-9] {
            let settings = Sinkhorn { reg, tolerance: 1e-9, steps: 300 };
            let found = sinkhorn(cost.view(), a.view(), b.view(), &settings).unwrap();
            assert!(found.coupling.iter().chain(&found.f).chain(&found.g).all(|number| number.is_finite()));
            assert!(
                off(found.coupling.sum_axis(Axis(1)), &a) < 1e-12 && off(found.coupling.sum_axis(Axis(0)), &b) < 1e-12
            );
            assert!(found.coupling.iter().all(|mass| *mass >= 0.0));
            assert!(found.cost >= best - 1e-9 * best.abs(), "{} below {best}", found.cost);
            // A gap is never below zero, and the entropy of a coupling is at most log(n m) on each side of it.
            let certificate = found.certificate;
            let rounding = 1e-12 * (1.0 + best + reg);
            assert!(certificate.gap > -rounding && certificate.marginal >= 0.0, "{certificate:?}");
            let blur = 2.5 * (reg * ((n * m) as f64).ln() + certificate.gap) + rounding;
            assert!(found.cost - best <= blur, "reg {reg}: {} {best} {certificate:?}", found.cost);
        }
    }
}

#[test]
fn entropic_potentials_of_points_without_mass_are_those_of_vanishing_mass() {
    let mut rng = Rng::new(2, "zero", 0);
    let cost = squared_distances(points(&mut rng, 6, 2).view(), points(&mut rng, 5, 2).view());
    let settings = Sinkhorn { reg: 0.3, tolerance: 1e-13, steps: 10_000 };
    let (mut a, b) = (masses(&mut rng, 6), masses(&mut rng, 5));
    let with = |a: &Array1<f64>| {
        let a = a / a.sum();
        sinkhorn(cost.view(), a.view(), b.view(), &settings).unwrap()
    };
    a[2] = 1e-13;
    let near = with(&a);
    a[2] = 0.0;
    let at = with(&a);
    // Potentials have a free constant: what one side is given the other loses.
    let (at_f, near_f) = (&at.f - at.f[0], &near.f - near.f[0]);
    assert!(off(at_f, &near_f) < 1e-9 && at.coupling.row(2).sum() == 0.0);
}

#[test]
fn a_small_step_budget_is_told_by_the_certificate() {
    let mut rng = Rng::new(4, "budget", 0);
    let cost = squared_distances(points(&mut rng, 30, 2).view(), points(&mut rng, 30, 2).view());
    let settings = Sinkhorn { reg: 0.01, tolerance: 1e-12, steps: 3 };
    let found = sinkhorn(cost.view(), uniform(30).view(), uniform(30).view(), &settings).unwrap();
    assert!(!found.certificate.converged && found.certificate.marginal > 1e-12 && found.certificate.gap > 0.0);
}

#[test]
fn rounding_gives_exact_marginals_and_moves_at_most_twice_the_error() {
    let mut rng = Rng::new(6, "rounding", 0);
    for _ in 0..50 {
        let (n, m) = (1 + rng.below(8), 1 + rng.below(8));
        let (a, b) = (masses(&mut rng, n), masses(&mut rng, m));
        let rough = Array2::from_shape_fn((n, m), |_| rng.uniform() / (n * m) as f64);
        let error = off(rough.sum_axis(Axis(1)), &a) + off(rough.sum_axis(Axis(0)), &b);
        let rounded = round(&rough, a.view(), b.view()).unwrap();
        assert!(off(rounded.sum_axis(Axis(1)), &a) < 1e-14 && off(rounded.sum_axis(Axis(0)), &b) < 1e-14);
        assert!((&rounded - &rough).mapv(f64::abs).sum() <= 2.0 * error + 1e-14);
    }
}

#[test]
fn a_partial_plan_of_all_mass_is_the_exact_one_and_of_little_takes_the_cheapest() {
    let mut rng = Rng::new(8, "partial", 0);
    let cost = squared_distances(points(&mut rng, 7, 2).view(), points(&mut rng, 9, 2).view());
    let (a, b) = (masses(&mut rng, 7), masses(&mut rng, 9));
    let all = exact(cost.view(), a.view(), b.view()).unwrap();
    let whole = partial(cost.view(), a.view(), b.view(), 1.0).unwrap();
    assert!((all.cost - whole.cost).abs() < 1e-12);
    let little = partial(cost.view(), a.view(), b.view(), 1e-3).unwrap();
    let cheapest = cost.iter().copied().fold(f64::INFINITY, f64::min);
    assert!((little.cost - 1e-3 * cheapest).abs() < 1e-12 && little.moves.len() == 1);
    let none = partial(cost.view(), a.view(), b.view(), 0.0).unwrap();
    assert!(none.cost == 0.0, "{:e} {:?}", none.cost, none.moves);
}

#[test]
fn unbalanced_plans_near_the_balanced_one_as_marginals_weigh_more() {
    let mut rng = Rng::new(9, "unbalanced", 0);
    let cost = squared_distances(points(&mut rng, 6, 2).view(), points(&mut rng, 5, 2).view());
    let (a, b) = (masses(&mut rng, 6), masses(&mut rng, 5));
    let settings = Sinkhorn { reg: 0.5, tolerance: 1e-10, steps: 1_000_000 };
    let held = sinkhorn(cost.view(), a.view(), b.view(), &settings).unwrap().coupling;
    let apart: Vec<f64> = [1.0, 1e2, 1e4]
        .map(|marginal| {
            let found = unbalanced(cost.view(), a.view(), b.view(), marginal, &settings).unwrap();
            assert!(found.certificate.gap.abs() < 1e-7 * marginal, "{:?}", found.certificate);
            (&found.coupling - &held).mapv(f64::abs).sum()
        })
        .to_vec();
    assert!(apart[0] > apart[1] && apart[1] > apart[2] && apart[2] < 1e-3, "{apart:?}");
}

#[test]
fn the_mean_of_one_distribution_under_a_small_weight_is_itself() {
    let grid = Array2::from_shape_fn((8, 1), |(i, _)| i as f64);
    let cost = squared_distances(grid.view(), grid.view());
    let b = masses(&mut Rng::new(3, "mean", 0), 8);
    let settings = Sinkhorn { reg: 0.02, tolerance: 1e-10, steps: 100_000 };
    let mean = barycentre(&[(cost.view(), b.view())], &[2.0], &settings).unwrap();
    assert!(mean.converged && off(mean.masses, &b) < 1e-9);
}

#[test]
fn the_map_between_normal_distributions_carries_the_covariance() {
    let mut rng = Rng::new(10, "map", 0);
    let covariance = |x: Array2<f64>| x.t().dot(&x) / x.nrows() as f64;
    let (s, t) = (covariance(points(&mut rng, 30, 4)), covariance(points(&mut rng, 30, 4) * 2.0));
    let map = gaussian_map(s.view(), t.view()).unwrap();
    assert!((map.t().dot(&s).dot(&map) - &t).iter().all(|d| d.abs() < 1e-12) && map == map.t());
    let identity = gaussian_map(s.view(), s.view()).unwrap();
    assert!((&identity - &Array2::<f64>::eye(4)).iter().all(|d| d.abs() < 1e-12));
}
