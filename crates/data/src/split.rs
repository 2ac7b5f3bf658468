//! Which rows are used for what: seeded splits, folds, few-shot samples and batches.
//!
//! Rows are given by position. A stratum is the class of a row, or anything else that should be spread evenly.

use acclimate_core::{Error, Result, Rng};

/// Rows for training and rows held out: disjoint, together all rows, both ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows to learn from.
    pub train: Vec<usize>,
    /// Rows to judge by.
    pub held_out: Vec<usize>,
}

/// How many rows a few-shot sample holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shots {
    /// This many in all, each class by its share, at least one of each where the number allows it.
    Total(usize),
    /// This many of each class.
    PerClass(usize),
}

fn param(method: &'static str, param: &'static str, value: impl ToString, why: impl Into<String>) -> Error {
    Error::Param { method, param, value: value.to_string(), why: why.into() }
}

/// Rows of each stratum, shuffled, in the order of the strata.
fn shuffled(strata: &[usize], seed: u64, purpose: &str) -> Vec<Vec<usize>> {
    let mut groups = std::collections::BTreeMap::<usize, Vec<usize>>::new();
    for (row, &stratum) in strata.iter().enumerate() {
        groups.entry(stratum).or_default().push(row);
    }
    let mut rng = Rng::new(seed, purpose, 0);
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| rng.shuffle(group));
    groups
}

/// Shares `total` over groups by their sizes: whole parts first, then the largest remainders, never more than a group
/// holds, at least `least` where the group and the total allow it.
fn shares(sizes: &[usize], total: usize, least: usize) -> Vec<usize> {
    let all: usize = sizes.iter().sum();
    let exact = |size: usize| size as u128 * total as u128;
    let mut shares: Vec<usize> = sizes.iter().map(|&size| (exact(size) / all as u128) as usize).collect();
    for (share, &size) in shares.iter_mut().zip(sizes) {
        *share = (*share).max(least.min(size));
    }
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&group| std::cmp::Reverse(exact(sizes[group]) % all as u128));
    while shares.iter().sum::<usize>() < total {
        for &group in &order {
            if shares[group] < sizes[group] && shares.iter().sum::<usize>() < total {
                shares[group] += 1;
            }
        }
    }
    while shares.iter().sum::<usize>() > total {
        let largest = (0..shares.len()).max_by_key(|&group| (shares[group], std::cmp::Reverse(group)));
        match largest {
            Some(group) => shares[group] -= 1,
            None => break,
        }
    }
    shares
}

fn held_out_size(len: usize, fraction: f64) -> Result<usize> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(param("split", "fraction", fraction, "must lie between 0 and 1"));
    }
    if len < 2 {
        return Err(param("split", "rows", len, "must be at least 2"));
    }
    let size = (len as f64 * fraction).round() as usize;
    Ok(size.clamp(1, len - 1))
}

/// A random split; `fraction` of the rows, at least one, are held out.
///
/// # Errors
/// A fraction outside (0, 1) or fewer than two rows.
pub fn holdout(len: usize, fraction: f64, seed: u64) -> Result<Split> {
    stratified(&vec![0; len], fraction, seed)
}

/// A random split that holds out the same share of every stratum, to the nearest row.
///
/// # Errors
/// A fraction outside (0, 1) or fewer than two rows.
pub fn stratified(strata: &[usize], fraction: f64, seed: u64) -> Result<Split> {
    let size = held_out_size(strata.len(), fraction)?;
    let groups = shuffled(strata, seed, "data.split");
    let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
    let mut split = Split { train: Vec::new(), held_out: Vec::new() };
    for (group, share) in groups.iter().zip(shares(&sizes, size, 0)) {
        split.held_out.extend(&group[..share]);
        split.train.extend(&group[share..]);
    }
    split.train.sort_unstable();
    split.held_out.sort_unstable();
    Ok(split)
}

/// A few rows to learn from, ascending. A larger sample per class of the same seed contains the smaller one.
///
/// # Errors
/// A sample of zero rows, or of more rows than there are, of a class or in all.
pub fn few_shot(strata: &[usize], shots: Shots, seed: u64) -> Result<Vec<usize>> {
    let groups = shuffled(strata, seed, "data.few_shot");
    let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
    let wanted = match shots {
        Shots::Total(total) => {
            if total == 0 || total > strata.len() {
                let why = format!("must lie between 1 and the {} rows there are", strata.len());
                return Err(param("few-shot", "total", total, why));
            }
            shares(&sizes, total, usize::from(total >= groups.len()))
        }
        Shots::PerClass(count) => {
            let smallest = sizes.iter().copied().min().unwrap_or(0);
            if count == 0 || count > smallest {
                let why = format!("must lie between 1 and the {smallest} rows of the smallest class");
                return Err(param("few-shot", "per_class", count, why));
            }
            vec![count; groups.len()]
        }
    };
    let mut rows: Vec<usize> =
        groups.iter().zip(wanted).flat_map(|(group, share)| group[..share].iter().copied()).collect();
    rows.sort_unstable();
    Ok(rows)
}

/// `k` splits whose held-out parts are disjoint, together all rows, equal in size and in strata to one row.
///
/// # Errors
/// Fewer than two folds or more folds than rows.
pub fn folds(strata: &[usize], k: usize, seed: u64) -> Result<Vec<Split>> {
    if k < 2 || k > strata.len() {
        return Err(param("folds", "k", k, format!("must lie between 2 and the {} rows there are", strata.len())));
    }
    let mut fold = vec![0; strata.len()];
    let dealt = shuffled(strata, seed, "data.folds").into_iter().flatten();
    dealt.enumerate().for_each(|(turn, row)| fold[row] = turn % k);
    let part = |keep: &dyn Fn(usize) -> bool| (0..strata.len()).filter(|&row| keep(fold[row])).collect();
    Ok((0..k).map(|this| Split { train: part(&|f| f != this), held_out: part(&|f| f == this) }).collect())
}

/// Batches of rows of similar length, so that little is padded; every row once, all batches full but one.
///
/// Rows are shuffled for each `epoch`, cut into pools of fifty batches, sorted by length inside a pool and cut; the
/// batches then come in a shuffled order.
///
/// # Panics
/// If `batch_size` is zero.
pub fn buckets(lengths: &[usize], batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    const POOL: usize = 50;
    assert!(batch_size > 0, "a batch holds at least one row");
    let mut rng = Rng::new(seed, "data.buckets", epoch);
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    rng.shuffle(&mut rows);
    let mut batches = Vec::new();
    for pool in rows.chunks_mut(batch_size.saturating_mul(POOL)) {
        pool.sort_by_key(|&row| lengths[row]);
        batches.extend(pool.chunks(batch_size).map(<[usize]>::to_vec));
    }
    rng.shuffle(&mut batches);
    batches
}

/// Weights that make classes count alike: rows / (classes present · rows of the class), zero for an absent class. The
/// mean over the rows is one.
///
/// # Panics
/// If a class is not below `count`.
pub fn class_weights(classes: &[usize], count: usize) -> Vec<f64> {
    let mut sizes = vec![0_usize; count];
    classes.iter().for_each(|&class| sizes[class] += 1);
    let present = sizes.iter().filter(|&&size| size > 0).count();
    let weight = |&size: &usize| match size {
        0 => 0.0,
        size => classes.len() as f64 / (present * size) as f64,
    };
    sizes.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 60, 30 and 10 rows of three classes, mixed.
    fn strata() -> Vec<usize> {
        (0..100).map(|row| [0, 0, 1, 0, 1, 0, 2, 0, 1, 0][row % 10]).collect()
    }

    fn counts(rows: &[usize]) -> [usize; 3] {
        let strata = strata();
        [0, 1, 2].map(|class| rows.iter().filter(|&&row| strata[row] == class).count())
    }

    #[test]
    fn splits_partition_and_keep_shares() {
        for seed in 0..20 {
            let split = stratified(&strata(), 0.2, seed).unwrap();
            assert_eq!(counts(&split.held_out), [12, 6, 2]);
            let mut all = [split.train, split.held_out].concat();
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
            assert_eq!(holdout(100, 0.25, seed).unwrap().held_out.len(), 25);
        }
        assert_eq!(holdout(50, 0.3, 4).unwrap(), holdout(50, 0.3, 4).unwrap());
        assert_ne!(holdout(50, 0.3, 4).unwrap(), holdout(50, 0.3, 5).unwrap());
        assert!(holdout(50, 1.0, 0).is_err());
        assert!(holdout(1, 0.5, 0).is_err());
        assert_eq!(holdout(2, 0.01, 0).unwrap().held_out.len(), 1);
    }

    #[test]
    fn few_shot_spreads_over_classes() {
        let draw = |shots| counts(&few_shot(&strata(), shots, 3).unwrap());
        assert_eq!(draw(Shots::Total(10)), [6, 3, 1]);
        assert_eq!(draw(Shots::Total(3)), [1, 1, 1]);
        assert_eq!(draw(Shots::Total(100)), [60, 30, 10]);
        assert_eq!(draw(Shots::PerClass(10)), [10, 10, 10]);
        let small = few_shot(&strata(), Shots::PerClass(2), 3).unwrap();
        let large = few_shot(&strata(), Shots::PerClass(5), 3).unwrap();
        assert!(small.iter().all(|row| large.contains(row)));
        let error = few_shot(&strata(), Shots::PerClass(11), 3).unwrap_err().to_string();
        assert!(error.contains("the 10 rows of the smallest class"), "{error}");
        for total in 1..=100 {
            assert_eq!(few_shot(&strata(), Shots::Total(total), 1).unwrap().len(), total);
        }
    }

    #[test]
    fn folds_are_stratified_and_cover() {
        let folds = folds(&strata(), 5, 7).unwrap();
        let mut all: Vec<usize> = Vec::new();
        for fold in &folds {
            assert_eq!(fold.train.len() + fold.held_out.len(), 100);
            assert_eq!(counts(&fold.held_out), [12, 6, 2]);
            all.extend(&fold.held_out);
        }
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn buckets_hold_every_row_once_and_pad_little() {
        let lengths: Vec<usize> = (0..1003).map(|row| row * 7919 % 128 + 1).collect();
        let batches = buckets(&lengths, 16, 1, 0);
        assert_eq!(batches.iter().filter(|batch| batch.len() < 16).count(), 1);
        let padded: usize = batches.iter().map(|b| b.len() * b.iter().map(|&r| lengths[r]).max().unwrap()).sum();
        assert!((padded as f64) < 1.1 * lengths.iter().sum::<usize>() as f64);
        assert_eq!(batches, buckets(&lengths, 16, 1, 0));
        assert_ne!(batches, buckets(&lengths, 16, 1, 1));
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..1003).collect::<Vec<_>>());
    }

    #[test]
    fn weights_balance_classes() {
        let weights = class_weights(&[0, 0, 0, 1, 3, 3], 4);
        assert_eq!(weights, [6.0 / 9.0, 2.0, 0.0, 1.0]);
    }
}
