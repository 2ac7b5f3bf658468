//! Whether neighbours in a stream are alike more often than chance would have it: a test on features, without labels.

use acclimate_core::Rng;

/// How far apart rows are that count as neighbours.
const NEAR: [usize; 3] = [1, 2, 3];

/// The power in the calibrator that turns p-values into evidence, `κ·p^(κ − 1)`: small, so that one clear window is enough.
const CALIBRATOR: f64 = 0.25;

/// The p-value of rows `[rows, width]` being exchangeable, but for one change of all rows from some place on: the mean cosine between
/// rows one to three apart, against `permutations` shuffles.
///
/// A stream without correlation may still change its domain in the window. So the place is found that splits the rows into the two halves
/// with the most different means; both means are taken out, and rows are shuffled within their half alone.
pub(crate) fn p_value(rows: &[f64], width: usize, permutations: usize, rng: &mut Rng) -> f64 {
    let n = rows.len() / width.max(1);
    if n < 2 * (NEAR[2] + 1) {
        return 1.0;
    }
    let cut = change(rows, width);
    let mut centred = rows.to_vec();
    for half in [0..cut, cut..n] {
        let mean = mean(&rows[half.start * width..half.end * width], width);
        for row in centred[half.start * width..half.end * width].chunks_mut(width) {
            row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
        }
    }
    for row in centred.chunks_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= length);
    }
    let row = |i: usize| &centred[i * width..(i + 1) * width];
    let cosines: Vec<f64> =
        (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| dot(row(i), row(j))).collect();
    let pairs: Vec<(usize, usize)> = NEAR
        .iter()
        .flat_map(|far| (0..n - far).map(move |i| (i, i + far)))
        .filter(|(i, j)| (*i < cut) == (*j < cut))
        .collect();
    let alike = |order: &[usize]| pairs.iter().map(|(i, j)| cosines[order[*i] * n + order[*j]]).sum::<f64>();
    let mut order: Vec<usize> = (0..n).collect();
    let found = alike(&order);
    let mut as_alike = 0;
    for _ in 0..permutations {
        let (first, second) = order.split_at_mut(cut);
        rng.shuffle(first);
        rng.shuffle(second);
        as_alike += usize::from(alike(&order) >= found);
    }
    (1 + as_alike) as f64 / (1 + permutations) as f64
}

/// Evidence after one more window: a product of calibrated p-values that begins anew from one whenever it falls below. While rows are
/// exchangeable, it takes at least `1/level` windows on average until it first reaches `1/level`. It is held below `most`, so that a stream
/// which is mixed again is soon taken for one.
pub(crate) fn evidence(before: f64, p: f64, most: f64) -> f64 {
    (before.max(1.0) * CALIBRATOR * p.powf(CALIBRATOR - 1.0)).min(most)
}

/// Where the rows fall into two halves with the most different means; not within a tenth of either end.
fn change(rows: &[f64], width: usize) -> usize {
    let n = rows.len() / width;
    let all = mean(rows, width);
    let mut sum = vec![0.0; width];
    let (mut best, mut at) = (0.0, n / 2);
    for (i, row) in rows.chunks(width).enumerate() {
        let before = i as f64;
        let gap = sum.iter().map(|x| x * x).sum::<f64>() * (1.0 / before + 1.0 / (n as f64 - before));
        if i >= n / 10 && i > 0 && i <= n - n / 10 && gap > best {
            (best, at) = (gap, i);
        }
        sum.iter_mut().zip(row).zip(&all).for_each(|((sum, x), mean)| *sum += x - mean);
    }
    at
}

fn mean(rows: &[f64], width: usize) -> Vec<f64> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks(width) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let n = (rows.len() / width).max(1) as f64;
    mean.into_iter().map(|sum| sum / n).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows around the centre of their class, and around that of their half where `domains` says so.
    fn rows(classes: &[usize], domains: bool, rng: &mut Rng) -> Vec<f64> {
        let (n, width) = (classes.len(), 8);
        let mut all: Vec<f64> = (0..n * width).map(|_| rng.normal()).collect();
        for (i, class) in classes.iter().enumerate() {
            all[i * width + class] += 3.0;
            if domains && i > n / 3 {
                all[i * width + 7] += 20.0;
            }
        }
        all
    }

    #[test]
    fn mixed_rows_are_called_correlated_as_often_as_the_level_says() {
        let mut rng = Rng::new(0, "streams", 0);
        for domains in [false, true] {
            let mut found = 0;
            for _ in 0..200 {
                let classes: Vec<usize> = (0..60).map(|_| rng.below(5)).collect();
                let rows = rows(&classes, domains, &mut rng);
                found += usize::from(p_value(&rows, 8, 39, &mut rng) <= 0.05);
            }
            // Twenty and more of 200 happen at the level 0.05 once in 600 times.
            assert!(found < 20, "{found} of 200 at the level 0.05, domains {domains}");
        }
    }

    #[test]
    fn rows_in_runs_of_a_class_are_found() {
        let mut rng = Rng::new(1, "streams", 0);
        let classes: Vec<usize> = (0..100).map(|i| i / 20).collect();
        let rows = rows(&classes, true, &mut rng);
        let p = p_value(&rows, 8, 999, &mut rng);
        assert!(p == 0.001, "{p}");
        assert!(evidence(1.0, p, 1e4) > 40.0);
    }

    #[test]
    fn evidence_falls_while_rows_are_mixed_and_begins_anew() {
        let after = [0.5; 8].iter().fold(100.0, |before, p| evidence(before, *p, 100.0));
        assert!(after < 1.0);
        assert_eq!(evidence(after, 1.0, 100.0), CALIBRATOR);
    }
}
