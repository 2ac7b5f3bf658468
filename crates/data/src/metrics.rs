//! Scores, and how sure they are.
//!
//! A score that the data does not define (a correlation with a constant, an area under a curve of one class, the mean
//! of nothing) is NaN. Truth and prediction have one entry per row, and functions panic when their lengths differ.

use acclimate_core::Rng;

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / count
}

fn paired<T, U>(truth: &[T], predicted: &[U]) {
    assert_eq!(truth.len(), predicted.len(), "truth and prediction have one entry per row");
}

/// Counts of rows by class: `[truth][predicted]`, `classes` by `classes`.
///
/// # Panics
/// If a class is not below `classes`.
pub fn confusion(truth: &[usize], predicted: &[usize], classes: usize) -> Vec<Vec<usize>> {
    paired(truth, predicted);
    let mut counts = vec![vec![0; classes]; classes];
    truth.iter().zip(predicted).for_each(|(&t, &p)| counts[t][p] += 1);
    counts
}

/// Counts, made as large as the largest class seen.
fn seen_confusion(truth: &[usize], predicted: &[usize]) -> Vec<Vec<usize>> {
    let classes = truth.iter().chain(predicted).max().map_or(0, |&class| class + 1);
    confusion(truth, predicted, classes)
}

/// Share of rows predicted right, 0..1.
pub fn accuracy(truth: &[usize], predicted: &[usize]) -> f64 {
    paired(truth, predicted);
    mean(truth.iter().zip(predicted).map(|(t, p)| f64::from(u8::from(t == p))))
}

/// Mean over the classes in `truth` of the share of their rows predicted right, 0..1.
pub fn balanced_accuracy(truth: &[usize], predicted: &[usize]) -> f64 {
    let counts = seen_confusion(truth, predicted);
    let recall = |(class, row): (usize, &Vec<usize>)| {
        let size = row.iter().sum::<usize>();
        (size > 0).then(|| row[class] as f64 / size as f64)
    };
    mean(counts.iter().enumerate().filter_map(recall))
}

/// Precision, recall and their harmonic mean; each 0..1, and 0 where nothing could be right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F1 {
    /// Share of the predicted that is right.
    pub precision: f64,
    /// Share of the true that is predicted.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
}

impl F1 {
    fn new(right: usize, predicted: usize, truth: usize) -> Self {
        let share = |all: usize, right: usize| if all == 0 { 0.0 } else { right as f64 / all as f64 };
        Self {
            precision: share(predicted, right),
            recall: share(truth, right),
            f1: share(predicted + truth, 2 * right),
        }
    }
}

/// Mean F1 of the classes that are true or predicted somewhere, 0..1.
pub fn f1_macro(truth: &[usize], predicted: &[usize]) -> f64 {
    let counts = seen_confusion(truth, predicted);
    let f1 = |class: usize| {
        let (true_rows, predicted) = (counts[class].iter().sum(), counts.iter().map(|row| row[class]).sum());
        (true_rows + predicted > 0).then(|| F1::new(counts[class][class], predicted, true_rows).f1)
    };
    mean((0..counts.len()).filter_map(f1))
}

/// F1 over all decisions of several labels per row, 0..1. (With one class per row it is the accuracy.)
pub fn multilabel_f1_micro(truth: &[Vec<bool>], predicted: &[Vec<bool>]) -> f64 {
    let counts = label_counts(truth, predicted);
    let sum = |part: usize| counts.iter().map(|c| c[part]).sum();
    F1::new(sum(0), sum(1), sum(2)).f1
}

/// Mean F1 of the labels that are true or predicted somewhere, 0..1.
pub fn multilabel_f1_macro(truth: &[Vec<bool>], predicted: &[Vec<bool>]) -> f64 {
    let counts = label_counts(truth, predicted);
    mean(counts.iter().filter(|c| c[1] + c[2] > 0).map(|c| F1::new(c[0], c[1], c[2]).f1))
}

/// For each label: both, predicted, true.
fn label_counts(truth: &[Vec<bool>], predicted: &[Vec<bool>]) -> Vec<[usize; 3]> {
    paired(truth, predicted);
    let mut counts = vec![[0; 3]; truth.first().map_or(0, Vec::len)];
    for (truth, predicted) in truth.iter().zip(predicted) {
        paired(truth, predicted);
        for ((count, &t), &p) in counts.iter_mut().zip(truth).zip(predicted) {
            for (part, holds) in [t && p, p, t].into_iter().enumerate() {
                count[part] += usize::from(holds);
            }
        }
    }
    counts
}

/// Matthews correlation coefficient for any number of classes, -1..1; 0 when truth or prediction is constant.
pub fn mcc(truth: &[usize], predicted: &[usize]) -> f64 {
    let counts = seen_confusion(truth, predicted);
    let rows = truth.len() as f64;
    let right: usize = (0..counts.len()).map(|class| counts[class][class]).sum();
    let (mut product, mut true_squares, mut predicted_squares) = (0.0, 0.0, 0.0);
    for class in 0..counts.len() {
        let t = counts[class].iter().sum::<usize>() as f64;
        let p = counts.iter().map(|row| row[class]).sum::<usize>() as f64;
        product += t * p;
        true_squares += t * t;
        predicted_squares += p * p;
    }
    let scale = ((rows * rows - predicted_squares) * (rows * rows - true_squares)).sqrt();
    if scale == 0.0 { 0.0 } else { (right as f64 * rows - product) / scale }
}

/// Mean negative logarithm of the probability given to the true class, in nats; probabilities below 1e-15 count as
/// 1e-15. `probabilities` holds `classes` numbers for each row.
///
/// # Panics
/// If a class is not below `classes`.
pub fn log_loss(truth: &[usize], probabilities: &[f64], classes: usize) -> f64 {
    assert_eq!(truth.len() * classes, probabilities.len(), "a probability for each row and class");
    mean(truth.iter().zip(probabilities.chunks(classes.max(1))).map(|(&class, row)| -row[class].max(1e-15).ln()))
}

/// Probability that a row where `truth` holds scores higher than one where it does not, ties counting half, 0..1.
pub fn roc_auc(truth: &[bool], scores: &[f64]) -> f64 {
    paired(truth, scores);
    let positive = truth.iter().filter(|&&holds| holds).count() as f64;
    let negative = truth.len() as f64 - positive;
    let ranks: f64 = ranks(scores).into_iter().zip(truth).filter(|(_, holds)| **holds).map(|(rank, _)| rank).sum();
    (ranks - positive * (positive + 1.0) / 2.0) / (positive * negative)
}

/// Ranks from one, equal values sharing their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = from as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&row| ranks[row] = rank);
        from += tied.len();
    }
    ranks
}

/// Mean squared error, in squared units of the target.
pub fn mse(truth: &[f64], predicted: &[f64]) -> f64 {
    paired(truth, predicted);
    mean(truth.iter().zip(predicted).map(|(t, p)| (t - p).powi(2)))
}

/// Root of the mean squared error, in units of the target.
pub fn rmse(truth: &[f64], predicted: &[f64]) -> f64 {
    mse(truth, predicted).sqrt()
}

/// Mean absolute error, in units of the target.
pub fn mae(truth: &[f64], predicted: &[f64]) -> f64 {
    paired(truth, predicted);
    mean(truth.iter().zip(predicted).map(|(t, p)| (t - p).abs()))
}

/// Share of the variance of `truth` that the prediction explains, at most 1; 0 is as good as the mean.
pub fn r2(truth: &[f64], predicted: &[f64]) -> f64 {
    let centre = mean(truth.iter().copied());
    let variance = mean(truth.iter().map(|t| (t - centre).powi(2)));
    if variance == 0.0 { f64::NAN } else { 1.0 - mse(truth, predicted) / variance }
}

/// Pearson's correlation, -1..1.
pub fn pearson(truth: &[f64], predicted: &[f64]) -> f64 {
    paired(truth, predicted);
    let (t_mean, p_mean) = (mean(truth.iter().copied()), mean(predicted.iter().copied()));
    let (mut tp, mut tt, mut pp) = (0.0, 0.0, 0.0);
    for (t, p) in truth.iter().zip(predicted) {
        let (t, p) = (t - t_mean, p - p_mean);
        tp += t * p;
        tt += t * t;
        pp += p * p;
    }
    if tt == 0.0 || pp == 0.0 { f64::NAN } else { (tp / (tt.sqrt() * pp.sqrt())).clamp(-1.0, 1.0) }
}

/// Spearman's rank correlation, equal values sharing their mean rank, -1..1.
pub fn spearman(truth: &[f64], predicted: &[f64]) -> f64 {
    pearson(&ranks(truth), &ranks(predicted))
}

/// Where the relevant documents of each query were ranked.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    /// For each query with relevant documents, their ranks from one, ascending.
    ranks: Vec<Vec<usize>>,
}

impl Retrieval {
    /// Ranks documents by falling score. `scores` holds a number per document for each query; `relevant` the positions
    /// of the relevant documents of each query. Among equal scores the relevant come last, so that a constant score
    /// earns nothing; NaN ranks below all. Queries without relevant documents are left out.
    ///
    /// # Panics
    /// If there is not one score per query and document, or a position is out of range.
    pub fn new(scores: &[f64], documents: usize, relevant: &[Vec<usize>]) -> Self {
        assert_eq!(scores.len(), documents * relevant.len(), "a score per query and document");
        let rank = |(row, relevant): (&[f64], &Vec<usize>)| {
            let mut is_relevant = vec![false; documents];
            relevant.iter().for_each(|&document| is_relevant[document] = true);
            let key = |document: usize| if row[document].is_nan() { f64::NEG_INFINITY } else { row[document] };
            let mut order: Vec<usize> = (0..documents).collect();
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(is_relevant[a].cmp(&is_relevant[b])));
            let found = order.iter().enumerate().filter(|(_, document)| is_relevant[**document]);
            found.map(|(place, _)| place + 1).collect::<Vec<_>>()
        };
        let rows = scores.chunks(documents.max(1)).zip(relevant);
        Self { ranks: rows.map(rank).filter(|ranks| !ranks.is_empty()).collect() }
    }

    /// Of ranks that are known already: for each query those of its relevant documents, from one and ascending. Queries without
    /// relevant documents are left out.
    pub fn from_ranks(ranks: impl IntoIterator<Item = Vec<usize>>) -> Self {
        Self { ranks: ranks.into_iter().filter(|ranks| !ranks.is_empty()).collect() }
    }

    /// Mean share of the relevant documents among the first `k`, 0..1.
    pub fn recall(&self, k: usize) -> f64 {
        mean(self.ranks.iter().map(|r| r.iter().filter(|&&rank| rank <= k).count() as f64 / r.len() as f64))
    }

    /// Mean reciprocal rank of the first relevant document, 0..1.
    pub fn mrr(&self) -> f64 {
        mean(self.ranks.iter().map(|ranks| 1.0 / ranks[0] as f64))
    }

    /// Mean normalised discounted cumulative gain of the first `k` with gain one for each relevant document, 0..1.
    pub fn ndcg(&self, k: usize) -> f64 {
        let gain = |rank: usize| 1.0 / (rank as f64 + 1.0).log2();
        let got = |ranks: &[usize]| ranks.iter().filter(|&&rank| rank <= k).map(|&rank| gain(rank)).sum::<f64>();
        let best = |ranks: &[usize]| (1..=ranks.len().min(k)).map(gain).sum::<f64>();
        mean(self.ranks.iter().map(|ranks| got(ranks) / best(ranks)))
    }
}

/// Spans of a sequence of `B-X`, `I-X` and `O` tags: first word, word after the last, name. An `I-X` that does not
/// continue a span of X begins one.
fn spans<'a>(tags: &[&'a str]) -> Vec<(usize, usize, &'a str)> {
    let mut spans: Vec<(usize, usize, &str)> = Vec::new();
    for (word, tag) in tags.iter().enumerate() {
        let Some((mark, name)) = tag.split_once('-') else { continue };
        match spans.last_mut() {
            Some((_, end, last)) if mark == "I" && *end == word && *last == name => *end = word + 1,
            _ => spans.push((word, word + 1, name)),
        }
    }
    spans
}

/// F1 of whole spans over all rows: right if first word, last word and name agree.
pub fn span_f1(truth: &[Vec<&str>], predicted: &[Vec<&str>]) -> F1 {
    paired(truth, predicted);
    let (mut right, mut found, mut there) = (0, 0, 0);
    for (truth, predicted) in truth.iter().zip(predicted) {
        paired(truth, predicted);
        let (truth, predicted) = (spans(truth), spans(predicted));
        right += predicted.iter().filter(|span| truth.contains(span)).count();
        found += predicted.len();
        there += truth.len();
    }
    F1::new(right, found, there)
}

/// An estimate and the bounds between which it plausibly lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The value on the data itself.
    pub estimate: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Percentile bootstrap interval of a score over rows.
///
/// `score` is given row positions, with repetitions, and is called `draws` + 1 times; draws where it is NaN are left
/// out. `level` is the coverage, such as 0.95. For the difference of two models on the same rows use
/// [`paired_bootstrap`].
///
/// # Panics
/// If `level` is not between 0 and 1 or `rows` is zero.
pub fn bootstrap(rows: usize, draws: usize, level: f64, seed: u64, mut score: impl FnMut(&[usize]) -> f64) -> Interval {
    assert!(level > 0.0 && level < 1.0, "a coverage lies between 0 and 1");
    assert!(rows > 0, "a bootstrap needs rows");
    let mut sample: Vec<usize> = (0..rows).collect();
    let estimate = score(&sample);
    let mut values = Vec::with_capacity(draws);
    for draw in 0..draws {
        let mut rng = Rng::new(seed, "data.bootstrap", draw as u64);
        sample.iter_mut().for_each(|row| *row = rng.below(rows));
        values.push(score(&sample));
    }
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Interval { estimate, low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) }
}

/// Percentile bootstrap interval of the difference `first` - `second`, both scored on the same drawn rows, so that
/// what makes a row hard for both cancels.
///
/// # Panics
/// As [`bootstrap`].
pub fn paired_bootstrap(
    rows: usize,
    draws: usize,
    level: f64,
    seed: u64,
    mut first: impl FnMut(&[usize]) -> f64,
    mut second: impl FnMut(&[usize]) -> f64,
) -> Interval {
    bootstrap(rows, draws, level, seed, |sample| first(sample) - second(sample))
}

/// The value that a share of sorted values lies below, interpolated; NaN for none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Mean over seeds with its Student t interval; bounds are NaN for fewer than two values. For two methods run with
/// the same seeds, give the differences: that is the paired t interval.
///
/// # Panics
/// If `level` is not between 0 and 1.
pub fn over_seeds(values: &[f64], level: f64) -> Interval {
    assert!(level > 0.0 && level < 1.0, "a coverage lies between 0 and 1");
    let estimate = mean(values.iter().copied());
    if values.len() < 2 {
        return Interval { estimate, low: f64::NAN, high: f64::NAN };
    }
    let freedom = values.len() - 1;
    let variance = values.iter().map(|value| (value - estimate).powi(2)).sum::<f64>() / freedom as f64;
    let half = t_bound(level, freedom) * (variance / values.len() as f64).sqrt();
    Interval { estimate, low: estimate - half, high: estimate + half }
}

/// The t with P(-t < T < t) = `level` for Student's distribution, by bisection.
fn t_bound(level: f64, freedom: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while t_between(high, freedom) < level && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if t_between(middle, freedom) < level { low = middle } else { high = middle }
    }
    high
}

/// P(-t < T < t) for Student's distribution, by the finite series in cos θ, θ = atan(t / √ν) (Abramowitz and Stegun
/// 26.7.3 and 26.7.4).
fn t_between(t: f64, freedom: usize) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let odd = freedom % 2;
    let mut term = if odd == 1 { cos } else { 1.0 };
    let (mut sum, mut power) = (0.0, odd);
    while power + 2 <= freedom {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    if odd == 1 { (angle + sin * sum) * std::f64::consts::FRAC_2_PI } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: [usize; 6] = [0, 1, 2, 0, 1, 2];
    const GUESS: [usize; 6] = [0, 2, 1, 0, 0, 1];

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
    }

    #[test]
    fn classes_by_hand() {
        assert_eq!(confusion(&TRUTH, &GUESS, 3), [[2, 0, 0], [1, 0, 1], [0, 2, 0]]);
        close(accuracy(&TRUTH, &GUESS), 2.0 / 6.0);
        close(balanced_accuracy(&[0, 0, 0, 1], &[0, 0, 1, 1]), (2.0 / 3.0 + 1.0) / 2.0);
        // Class 0: precision 2/3, recall 1, F1 0.8; the others 0.
        close(f1_macro(&TRUTH, &GUESS), 0.8 / 3.0);
        // True/predicted counts: tp 3, tn 1, fp 1, fn 1: (3·1 - 1·1) / √(4·4·2·2) = 0.25.
        close(mcc(&[1, 1, 1, 1, 0, 0], &[1, 1, 1, 0, 0, 1]), 0.25);
        close(mcc(&[0, 0, 1], &[0, 0, 0]), 0.0);
        close(log_loss(&[0, 1], &[0.8, 0.2, 0.5, 0.5], 2), (-(0.8_f64.ln()) - 0.5_f64.ln()) / 2.0);
        assert!(log_loss(&[0], &[0.0, 1.0], 2).is_finite());
        assert!(accuracy(&[], &[]).is_nan());
    }

    #[test]
    fn labels_by_hand() {
        let truth = [vec![true, false], vec![true, true]];
        let guess = [vec![true, true], vec![false, true]];
        close(multilabel_f1_micro(&truth, &guess), 2.0 * 2.0 / 6.0);
        close(multilabel_f1_macro(&truth, &guess), 2.0 / 3.0);
    }

    #[test]
    fn area_with_ties_by_hand() {
        close(roc_auc(&[false, false, true, true], &[0.1, 0.4, 0.35, 0.8]), 0.75);
        close(roc_auc(&[false, true, true], &[0.5, 0.5, 0.7]), 0.75);
        close(roc_auc(&[false, true, false, true], &[1.0; 4]), 0.5);
        assert!(roc_auc(&[true, true], &[0.0, 1.0]).is_nan());
    }

    #[test]
    fn numbers_by_hand() {
        let (truth, guess) = ([3.0, -0.5, 2.0, 7.0], [2.5, 0.0, 2.0, 8.0]);
        close(mse(&truth, &guess), 0.375);
        close(rmse(&truth, &guess), 0.375_f64.sqrt());
        close(mae(&truth, &guess), 0.5);
        close(r2(&truth, &guess), 1.0 - 1.5 / 29.1875);
        close(pearson(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]), 0.5);
        // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5).
        close(spearman(&[1.0, 5.0, 5.0, 9.0], &[0.0, 1.0, 2.0, 3.0]), 4.5 / 22.5_f64.sqrt());
        assert!(pearson(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(r2(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
    }

    #[test]
    fn retrieval_by_hand() {
        let scores = [0.9, 0.8, 0.1, 0.2, 0.5, 0.4];
        let got = Retrieval::new(&scores, 3, &[vec![1], vec![0, 1]]);
        assert_eq!(got.ranks, [vec![2], vec![1, 3]]);
        assert_eq!(Retrieval::from_ranks([vec![2], vec![], vec![1, 3]]), got);
        close(got.recall(1), 0.25);
        close(got.mrr(), 0.75);
        let best = 1.0 + 1.0 / 3.0_f64.log2();
        close(got.ndcg(3), (1.0 / 3.0_f64.log2() + (1.0 + 0.5) / best) / 2.0);
        assert_eq!(Retrieval::new(&[0.5; 3], 3, &[vec![0]]).ranks, [vec![3]]);
        assert!(Retrieval::new(&[0.5], 1, &[vec![]]).mrr().is_nan());
    }

    #[test]
    fn spans_by_hand() {
        let truth = [vec!["B-PER", "I-PER", "O", "B-LOC"], vec!["B-LOC", "B-LOC"]];
        let guess = [vec!["B-PER", "I-PER", "O", "O"], vec!["I-LOC", "I-LOC"]];
        let got = span_f1(&truth, &guess);
        close(got.precision, 0.5);
        close(got.recall, 0.25);
        close(got.f1, 1.0 / 3.0);
        assert_eq!(spans(&["I-A", "I-B", "I-B", "O", "I-B"]), [(0, 1, "A"), (1, 3, "B"), (4, 5, "B")]);
    }

    #[test]
    fn t_bounds_agree_with_tables() {
        for (freedom, expected) in [(1, 12.7062), (2, 4.3027), (4, 2.7764), (5, 2.5706), (30, 2.0423)] {
            assert!((t_bound(0.95, freedom) - expected).abs() < 1e-4, "{freedom}");
        }
        let got = over_seeds(&[1.0, 2.0, 3.0], 0.95);
        close(got.estimate, 2.0);
        assert!((got.high - 2.0 - 4.30265 / 3.0_f64.sqrt()).abs() < 1e-4);
        assert!(over_seeds(&[1.0], 0.95).low.is_nan());
    }

    #[test]
    fn bootstrap_covers_the_mean() {
        let mut covered = 0;
        for seed in 0..200 {
            let mut rng = Rng::new(seed, "test", 0);
            let values: Vec<f64> = (0..60).map(|_| rng.uniform()).collect();
            let got = bootstrap(60, 200, 0.9, seed, |rows| mean(rows.iter().map(|&row| values[row])));
            assert!(got.low <= got.estimate && got.estimate <= got.high);
            covered += usize::from(got.low <= 0.5 && 0.5 <= got.high);
        }
        assert!((165..=195).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn pairing_narrows_the_interval() {
        let hard: Vec<f64> = (0..100).map(|row| f64::from(row * 37 % 100)).collect();
        let score = |extra: f64| {
            let hard = &hard;
            move |rows: &[usize]| mean(rows.iter().map(|&row| hard[row] + extra))
        };
        let got = paired_bootstrap(100, 100, 0.95, 0, score(1.0), score(0.0));
        assert!((got.low - 1.0).abs() < 1e-9 && (got.high - 1.0).abs() < 1e-9);
        assert!(bootstrap(100, 100, 0.95, 0, score(1.0)).high > got.high + 1.0);
    }
}
