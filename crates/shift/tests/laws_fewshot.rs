//! Laws of the methods for few labels and noisy ones, in closed form.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::Rng;
use acclimate_shift::{FewShot, LabelGraph, LabelTree, Loki};
use acclimate_stats::learn::Labels;
use ndarray::{Array2, Axis, array};

fn tree(nodes: usize, seed: u64) -> LabelTree {
    let mut rng = Rng::new(seed, "tree", 0);
    let edges: Vec<_> = (1..nodes).map(|node| (node, rng.below(node), 1.0)).collect();
    LabelTree::new(nodes, &edges).unwrap()
}

fn some(nodes: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..nodes).collect();
    Rng::new(seed, "observed", 0).shuffle(&mut all);
    all.truncate(count);
    all
}

fn probabilities(rows: usize, classes: usize, seed: u64) -> Array2<f64> {
    let mut rng = Rng::new(seed, "probabilities", 0);
    let mut p = Array2::from_shape_simple_fn((rows, classes), || rng.normal().exp());
    for mut row in p.rows_mut() {
        let sum = row.sum();
        row /= sum;
    }
    p
}

#[test]
fn under_a_discrete_metric_the_frechet_mean_is_the_most_probable_class() {
    let p = probabilities(50, 6, 1);
    let distances = Array2::ones((6, 6)) - Array2::<f64>::eye(6);
    let scores = Loki::default().scores(p.view(), distances.view()).unwrap();
    let all: Vec<usize> = (0..6).collect();
    assert_eq!(Loki::choose(scores.view(), &all), acclimate_stats::learn::largest(p.view()));
}

#[test]
fn a_sure_classifier_keeps_its_answer_and_scale_of_distances_does_not_matter() {
    let (tree, observed) = (tree(30, 2), some(30, 7, 2));
    let distances = tree.graph().distances(&observed).unwrap();
    let loki = Loki::default();
    let sure = loki.scores(Array2::eye(7).view(), distances.view()).unwrap();
    assert_eq!(Loki::choose(sure.view(), &observed), observed);
    let p = probabilities(40, 7, 3);
    let plain = loki.scores(p.view(), distances.view()).unwrap();
    let scaled = loki.scores(p.view(), (distances * 8.0).view()).unwrap();
    assert_eq!(Loki::choose(plain.view(), &observed), Loki::choose(scaled.view(), &observed));
}

#[test]
fn two_passes_over_a_tree_equal_the_matrix_product() {
    let mut rng = Rng::new(4, "lengths", 0);
    let edges: Vec<_> = (1..60).map(|node| (rng.below(node), node, 0.1 + rng.uniform())).collect();
    let (tree, observed) = (LabelTree::new(60, &edges).unwrap(), some(60, 9, 5));
    let p = probabilities(20, 9, 6);
    for power in [1, 2] {
        let loki = Loki { power, temperature: 0.5 };
        let by_matrix = loki.scores(p.view(), tree.graph().distances(&observed).unwrap().view()).unwrap();
        let by_tree = loki.tree_scores(p.view(), &tree, &observed).unwrap();
        assert!((by_matrix - by_tree).iter().all(|d| d.abs() < 1e-9));
    }
}

#[test]
fn the_ends_of_a_path_meet_in_its_middle() {
    let edges: Vec<_> = (0..10).map(|node| (node, node + 1, 1.0)).collect();
    let tree = LabelTree::new(11, &edges).unwrap();
    let scores = Loki::default().tree_scores(array![[0.5, 0.5]].view(), &tree, &[0, 10]).unwrap();
    assert_eq!(Loki::choose(scores.view(), &[0, 10]), [5]);
}

#[test]
fn answers_lie_in_the_locus() {
    let (tree, observed) = (tree(40, 7), some(40, 5, 7));
    let locus = tree.locus(&observed).unwrap();
    let scores = Loki::default().tree_scores(probabilities(300, 5, 8).view(), &tree, &observed).unwrap();
    assert!(Loki::choose(scores.view(), &observed).into_iter().all(|answer| locus[answer]));
}

#[test]
fn the_answer_on_embeddings_is_the_label_nearest_to_their_mean() {
    let mut rng = Rng::new(9, "embeddings", 0);
    let labels = Array2::from_shape_simple_fn((25, 4), || rng.normal());
    let observed = [1, 5, 8, 20];
    let known = labels.select(Axis(0), &observed);
    let distances = acclimate_stats::linalg::squared_distances(known.view(), labels.view()).mapv(f64::sqrt);
    let p = probabilities(50, 4, 10);
    let loki = Loki::default();
    let by_matrix = loki.scores(p.view(), distances.view()).unwrap();
    let by_mean = loki.embedding_scores(p.view(), known.view(), labels.view()).unwrap();
    assert_eq!(Loki::choose(by_matrix.view(), &observed), Loki::choose(by_mean.view(), &observed));
    // Row by row they differ by a constant.
    for row in (by_matrix - by_mean).rows() {
        assert!(row.iter().all(|d| (d - row[0]).abs() < 1e-10));
    }
}

#[test]
fn the_locus_by_programmes_equals_the_union_of_paths_on_trees() {
    for seed in 0..60 {
        let nodes = 3 + seed as usize % 18;
        let (tree, observed) = (tree(nodes, seed), some(nodes, 1 + seed as usize % nodes.min(5), seed));
        let by_programme = Loki::default().locus(tree.graph().distances(&observed).unwrap().view()).unwrap();
        assert_eq!(by_programme, tree.locus(&observed).unwrap(), "seed {seed}, observed {observed:?}");
    }
}

#[test]
fn leaves_reach_the_whole_tree_and_none_of_them_can_be_spared() {
    let tree = tree(35, 11);
    let leaves = tree.leaves();
    assert!(tree.locus(&leaves).unwrap().into_iter().all(|inside| inside));
    for left_out in &leaves {
        let fewer: Vec<usize> = leaves.iter().copied().filter(|leaf| leaf != left_out).collect();
        assert!(!tree.locus(&fewer).unwrap()[*left_out]);
    }
}

#[test]
fn opposite_corners_of_a_complete_graph_reach_themselves_alone() {
    let edges: Vec<_> = (0..6).flat_map(|a| (0..a).map(move |b| (a, b, 1.0))).collect();
    let graph = LabelGraph::new(6, &edges).unwrap();
    let locus = Loki::default().locus(graph.distances(&[1, 4]).unwrap().view()).unwrap();
    assert_eq!(locus, [false, true, false, false, true, false]);
}

#[test]
fn the_next_class_of_a_tree_widens_the_locus_by_its_distance() {
    let tree = tree(50, 12);
    let mut observed = vec![3, 17];
    let all = tree.graph().distances(&(0..50).collect::<Vec<_>>()).unwrap();
    while let Some(next) = tree.next_class(&observed).unwrap() {
        let before = tree.locus(&observed).unwrap();
        let away = (0..50).filter(|node| before[*node]).map(|node| all[[next, node]]).fold(f64::INFINITY, f64::min);
        observed.push(next);
        let grown = tree.locus(&observed).unwrap().iter().filter(|inside| **inside).count();
        assert_eq!(grown - before.iter().filter(|inside| **inside).count(), away as usize);
    }
    assert!(tree.locus(&observed).unwrap().into_iter().all(|inside| inside));
}

#[test]
fn the_next_class_by_programmes_adds_as_many_labels_as_any_other() {
    let (tree, observed) = (tree(14, 13), some(14, 2, 13));
    let all = tree.graph().distances(&(0..14).collect::<Vec<_>>()).unwrap();
    let size = |more: usize| {
        let locus = tree.locus(&[observed[0], observed[1], more]).unwrap();
        locus.iter().filter(|inside| **inside).count()
    };
    let next = Loki::default().next_class(all.view(), &observed).unwrap().unwrap();
    assert_eq!(size(next), (0..14).map(size).max().unwrap());
}

#[test]
fn no_other_label_has_a_smaller_expected_squared_distance() {
    let (tree, observed) = (tree(30, 14), some(30, 6, 14));
    let distances = tree.graph().distances(&observed).unwrap();
    let p = probabilities(30, 6, 15);
    let scores = Loki::default().tree_scores(p.view(), &tree, &observed).unwrap();
    for (p, answer) in p.rows().into_iter().zip(Loki::choose(scores.view(), &observed)) {
        let cost = |label: usize| p.iter().zip(distances.column(label)).map(|(p, d)| p * d * d).sum::<f64>();
        assert!((0..30).all(|label| cost(answer) <= cost(label) + 1e-9));
    }
}

#[test]
fn draws_of_labels_gather_around_the_centre() {
    let distances = ndarray::Array1::from_iter((0..40).map(f64::from));
    let mean = |theta: f64| {
        let drawn: Vec<f64> =
            (0..50).flat_map(|seed| Loki::draw(distances.view(), theta, 5, seed).unwrap()).map(|d| d as f64).collect();
        drawn.iter().sum::<f64>() / drawn.len() as f64
    };
    // Even draws have the mean 19.5 with a standard error of about 0.7.
    assert!((mean(0.0) - 19.5).abs() < 3.0 && mean(1.0) < 4.0);
}

#[test]
fn logits_in_the_place_of_probabilities_are_refused_by_row() {
    let error = Loki::default().scores(array![[0.5, 0.5], [2.0, -1.0]].view(), Array2::eye(2).view()).unwrap_err();
    assert!(error.to_string().contains("row 2"), "{error}");
}

#[test]
fn classes_are_found_among_labels_by_name() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let labels = names(&["ape", "cat", "dog"]);
    assert_eq!(Loki::observed(&names(&["dog", "ape"]), &labels).unwrap(), [2, 0]);
    assert!(Loki::observed(&names(&["cart"]), &labels).unwrap_err().to_string().contains("cat"));
    assert!(Loki::observed(&names(&["dog", "dog"]), &labels).is_err());
}

fn classes(rows: usize, count: usize) -> Labels {
    Labels::Classes { of: (0..rows).map(|row| (row * row + row / 3) % count).collect(), count }
}

#[test]
fn parts_of_few_shots_share_no_row_and_hold_all_of_them_for_every_seed() {
    let y = classes(90, 3);
    let of = y.classes("test").unwrap().0;
    for seed in 0..200 {
        let shots = FewShot { shots: 3, ..FewShot::default() }.split(&y, seed).unwrap();
        let mut all: Vec<usize> =
            [&shots.train, &shots.valid, &shots.test, &shots.rest].into_iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..90).collect::<Vec<_>>());
        for class in (0..3).filter(|class| of.contains(class)) {
            let count = |part: &[usize]| part.iter().filter(|row| of[**row] == class).count();
            assert_eq!((count(&shots.train), count(&shots.valid)), (3, 1));
        }
    }
}

#[test]
fn a_class_with_too_few_rows_is_named() {
    let y = Labels::Classes { of: vec![0, 0, 0, 1, 1, 1, 1, 1], count: 2 };
    let error = FewShot { shots: 3, ..FewShot::default() }.split(&y, 0).unwrap_err().to_string();
    assert!(error.contains("class 0 has 3 rows"), "{error}");
}

#[test]
fn batches_are_full_and_visit_every_shot_equally_often() {
    let method = FewShot { batch_size: 8, ..FewShot::default() };
    for shots in [1, 3, 5, 13, 40] {
        let train: Vec<usize> = (100..100 + shots).collect();
        let mut visits = vec![0; shots];
        for step in 0..50 {
            let batch = method.batch(&train, step, 7);
            assert_eq!(batch.len(), 8);
            batch.iter().for_each(|row| visits[row - 100] += 1);
            // From the start on, whole orders and one that has begun.
            let (most, least) = (visits.iter().max().unwrap(), visits.iter().min().unwrap());
            assert!(most - least <= 1);
        }
    }
}

#[test]
fn the_kept_step_has_the_least_loss_and_is_the_earliest_of_equals() {
    assert_eq!(FewShot::earliest_best(&[0.9, f64::NAN, 0.4, 0.4, 0.5]), Some(2));
    assert_eq!(FewShot::earliest_best(&[f64::NAN]), None);
}
