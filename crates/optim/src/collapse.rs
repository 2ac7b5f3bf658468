//! Telling a ruined run from a slow one.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Losses that make up the starting level.
const FIRST: usize = 5;
/// Losses that make up a level later on. A watch needs two such stretches before it can speak of a collapse.
const STRETCH: usize = 24;
/// A method's rate must have grown by this factor: before that it has hardly moved the parameters.
const GROWN: f64 = 10.0;
/// A rate that grew by more than this factor over a stretch is still on its way.
const SETTLED: f64 = 1.5;
/// A level above this share of the starting level is back at it. A head of zeros starts at the logarithm of the number of
/// classes, and a ruined model still learns how frequent the classes are: measured, it stays between 0.93 and 0.96 of the start.
const BACK: f64 = 0.9;
/// A level that fell by this share of the starting level over a stretch is still falling. Small, since a flat run is asked at
/// every step and need be found flat only once.
const FALLING: f64 = 0.005;
/// Losses of a ruined model scatter little, since it says the same to every input: at most this share of their level.
const SCATTER: f64 = 0.15;
/// A level above the starting level by this share of it, by this many scatters and by `MARGIN` is damage.
const DAMAGE: f64 = 0.25;
const SCATTERS: f64 = 3.0;
/// In nats, or variances of a standardised target: losses near zero double for no reason.
const MARGIN: f64 = 0.1;
/// A level so many times the first loss, which no step has touched, is damage however much the losses scatter: a rate that is far
/// too large from the start spoils the other losses of the starting level.
const RUINOUS: f64 = 10.0;
/// A level lower than the best one by this share of the starting level is an improvement.
const BETTER: f64 = 0.02;
/// Losses whose median may improve on the best level.
const RECENT: usize = 8;

/// What a loss says about the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do.
    Fine,
    /// The level is the best so far: a state worth returning to.
    Improved,
    /// The run is ruined: go back to the last good state and on with a smaller rate.
    Collapsed,
}

/// Watches the losses of a run, and the rate that its method reports, for a collapse.
///
/// A run has collapsed when a loss is not finite, when its level lies clearly above the starting level, or when the method's rate
/// has grown and settled and the losses are flat, alike and back at the starting level. The last is what happens when the rate of
/// D-Adaptation grows too fast: the model says the same to every input and no gradient leads out of it. A run whose rate is still
/// growing, or whose level still falls, is slow and not ruined; a run that starts well and has little to learn has losses that
/// differ from batch to batch. Methods that report no rate collapse in the first two ways only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CollapseWatch {
    first: Vec<f64>,
    losses: Vec<f64>,
    rates: Vec<f64>,
    first_rate: Option<f64>,
    best: Option<f64>,
}

impl CollapseWatch {
    /// Takes the loss of a step and the method's own rate, if it reports one.
    pub fn observe(&mut self, loss: f64, rate: Option<f64>) -> Verdict {
        if !loss.is_finite() {
            return Verdict::Collapsed;
        }
        if self.first.len() < FIRST {
            self.first.push(loss);
        }
        push(&mut self.losses, loss, 2 * STRETCH);
        if let Some(rate) = rate {
            self.first_rate.get_or_insert(rate);
            push(&mut self.rates, rate, STRETCH);
        }
        if self.first.len() < FIRST {
            return Verdict::Fine;
        }
        let start = median(&self.first);
        if self.losses.len() == 2 * STRETCH && self.is_ruined(start) {
            return Verdict::Collapsed;
        }
        let recent = median(&self.losses[self.losses.len().saturating_sub(RECENT)..]);
        // A state is only better than the start if it is better than what no step has touched.
        let best = self.best.unwrap_or(start.min(self.first[0]));
        // A level near the start may be that of a run on its way to ruin: it is no place to go back to.
        let away = recent < start - (1.0 - BACK) * start.abs();
        if self.losses.len() >= RECENT && away && recent < best - BETTER * start.abs() {
            self.best = Some(recent);
            return Verdict::Improved;
        }
        Verdict::Fine
    }

    /// Tells the watch that the run went back to the state of the last improvement: the losses since then do not count.
    pub fn restarted(&mut self) {
        self.losses.clear();
        self.rates.clear();
        self.first_rate = None;
    }

    fn is_ruined(&self, start: f64) -> bool {
        let (earlier, later) = self.losses.split_at(STRETCH);
        let (before, level) = (median(earlier), median(later));
        let margin = (DAMAGE * start.abs()).max(SCATTERS * scatter(&self.first).max(scatter(later))).max(MARGIN);
        if before.min(level) > start + margin || before.min(level) > RUINOUS * self.first[0].abs() + MARGIN {
            return true;
        }
        let (Some(&from), Some(&to)) = (self.rates.first(), self.rates.last()) else { return false };
        let grown = self.first_rate.is_some_and(|first| to >= GROWN * first);
        let settled = self.rates.len() == STRETCH && to < SETTLED * from;
        let back = level > start - (1.0 - BACK) * start.abs();
        let flat = level > before - FALLING * start.abs();
        let alike = scatter(&self.losses) < SCATTER * level.abs();
        grown && settled && back && flat && alike
    }
}

fn push(values: &mut Vec<f64>, value: f64, longest: usize) {
    if values.len() == longest {
        values.remove(0);
    }
    values.push(value);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// The median distance to the median, as large as the standard deviation for normal numbers.
fn scatter(values: &[f64]) -> f64 {
    let middle = median(values);
    let distances: Vec<f64> = values.iter().map(|x| (x - middle).abs()).collect();
    1.4826 * median(&distances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::Rng;

    /// The first step, counted from one, at which a curve of losses and rates is called collapsed.
    fn collapse(
        steps: u64,
        seed: u64,
        curve: impl Fn(f64, f64) -> f64,
        rate: impl Fn(f64) -> Option<f64>,
    ) -> Option<u64> {
        let mut watch = CollapseWatch::default();
        let mut rng = Rng::new(seed, "curve", 0);
        (1..=steps).find(|&k| watch.observe(curve(k as f64, rng.normal()), rate(k as f64)) == Verdict::Collapsed)
    }

    /// d of D-Adapted Adam without a limit: 1e-6 to 2.5e-3 within 25 steps.
    fn fast(k: f64) -> Option<f64> {
        Some(1e-6 * 2500_f64.powf((k / 25.0).min(1.0)))
    }

    /// d under a growth rate of 1.1.
    fn limited(k: f64) -> Option<f64> {
        Some((1e-6 * 1.1_f64.powf(k)).min(2e-3))
    }

    fn never(found: impl Fn(u64) -> Option<u64>) {
        for seed in 0..50 {
            assert_eq!(found(seed), None, "seed {seed}");
        }
    }

    #[test]
    fn a_good_run_is_fine() {
        let curve = |k: f64, z: f64| 0.2 + 0.9 / (1.0 + (k / 60.0).powi(2)) + 0.08 * z;
        never(|seed| collapse(400, seed, curve, fast));
        never(|seed| collapse(400, seed, curve, limited));
        never(|seed| collapse(400, seed, curve, |_| None));
    }

    #[test]
    fn a_run_at_chance_is_found_before_half_of_it() {
        // Start 1.0986, then 1.05 for good; 190 steps in all.
        for level in [1.02, 1.05] {
            let curve = |k: f64, z: f64| if k < 12.0 { 1.0986 + 0.01 * z } else { level + 0.05 * z };
            for seed in 0..50 {
                let found = collapse(190, seed, curve, fast);
                assert!(found.is_some_and(|step| step < 95), "level {level}, seed {seed}: {found:?}");
            }
        }
    }

    #[test]
    fn a_run_that_learned_and_fell_back_is_found() {
        let curve = |k: f64, z: f64| if k < 60.0 { 1.1 - 0.008 * k + 0.03 * z } else { 1.07 + 0.05 * z };
        for seed in 0..50 {
            assert!(collapse(200, seed, curve, fast).is_some(), "seed {seed}");
        }
    }

    #[test]
    fn a_slow_run_is_fine() {
        // The rate is held back and grows to the end; the loss hardly moves.
        let rate = |k: f64| Some(1e-6 * 1.03_f64.powf(k));
        never(|seed| collapse(190, seed, |k, z| 1.0986 - 1e-4 * k + 0.03 * z, rate));
        // The rate has settled and the loss falls by a tenth in a hundred steps.
        never(|seed| collapse(300, seed, |k, z| 1.0986 * (1.0 - k / 1000.0) + 0.01 * z, fast));
    }

    #[test]
    fn a_run_without_growth_is_fine() {
        never(|seed| collapse(300, seed, |_, z| 1.09 + 0.03 * z, |_| Some(1e-3)));
        never(|seed| collapse(300, seed, |_, z| 1.09 + 0.03 * z, |_| None));
    }

    #[test]
    fn a_start_that_has_little_to_learn_is_fine() {
        // A head that begins as a fitted probe: the loss is low and differs from batch to batch.
        never(|seed| collapse(400, seed, |_, z| 0.25 * (0.5 * z).exp(), fast));
        never(|seed| collapse(400, seed, |_, z| 0.02 * z.exp(), fast));
    }

    #[test]
    fn damage_is_found_with_and_without_a_rate() {
        let curve = |k: f64, z: f64| if k < 20.0 { 0.3 + 0.02 * z } else { 1.1 + 0.1 * z };
        for seed in 0..50 {
            assert!(collapse(100, seed, curve, fast).is_some(), "seed {seed}");
            assert!(collapse(100, seed, curve, |_| None).is_some(), "seed {seed}");
        }
    }

    #[test]
    fn damage_from_the_first_step_on_is_found() {
        let curve = |k: f64, z: f64| if k < 2.0 { 0.69 } else { 50.0 * z.exp() };
        for seed in 0..50 {
            assert!(collapse(100, seed, curve, |_| Some(10.0)).is_some(), "seed {seed}");
            assert!(collapse(100, seed, curve, |_| None).is_some(), "seed {seed}");
        }
        let mut watch = CollapseWatch::default();
        let falling = |k: u32| if k < 2 { 0.69 } else { 50.0 / f64::from(k) };
        assert!((1..48).all(|k| watch.observe(falling(k), None) == Verdict::Fine), "nothing there is worth a return");
    }

    #[test]
    fn a_loss_that_is_not_finite_is_a_collapse() {
        assert_eq!(CollapseWatch::default().observe(f64::NAN, None), Verdict::Collapsed);
        assert_eq!(CollapseWatch::default().observe(f64::INFINITY, Some(1.0)), Verdict::Collapsed);
    }

    #[test]
    fn improvements_are_told_once_a_level_is_new() {
        let mut watch = CollapseWatch::default();
        let told: Vec<u64> =
            (1..=60).filter(|&k| watch.observe(if k < 30 { 1.0 } else { 0.5 }, None) == Verdict::Improved).collect();
        assert_eq!(told, [33, 34]);
    }

    #[test]
    fn a_restart_forgets_the_losses_and_keeps_the_start() {
        let mut watch = CollapseWatch::default();
        let first = (1..200).find(|&k| watch.observe(1.05, fast(f64::from(k))) == Verdict::Collapsed).unwrap();
        watch.restarted();
        let again = (1..200).find(|&k| watch.observe(1.05, fast(f64::from(k))) == Verdict::Collapsed).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn a_saved_watch_goes_on() {
        let mut watch = CollapseWatch::default();
        for k in 1..30 {
            watch.observe(1.0 / f64::from(k), fast(f64::from(k)));
        }
        let again: CollapseWatch = serde_json::from_str(&serde_json::to_string(&watch).unwrap()).unwrap();
        assert_eq!(watch, again);
    }
}
