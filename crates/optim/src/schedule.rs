//! Multipliers over a run.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate's multiplier falls from one to zero over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays at one.
    Constant,
    /// It falls along a line.
    Linear,
    /// It falls along half a cosine.
    #[default]
    Cosine,
}

impl Schedule {
    /// The multiplier of a step, counted from one, of a run of `total` steps. Over the share `warmup` of them (0 to 1) it rises
    /// from zero to one along a line. No step of the run has multiplier zero: it would be reached just before the first one
    /// and just after the last.
    pub fn at(self, step: u64, total: u64, warmup: f64) -> f64 {
        let rise = (warmup * total as f64).round();
        let done = step.max(1) as f64;
        if done <= rise {
            return done / rise;
        }
        let fallen = ((done - 1.0 - rise) / (total as f64 - rise).max(1.0)).clamp(0.0, 1.0);
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - fallen,
            Self::Cosine => 0.5 * (1.0 + (PI * fallen).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Schedule; 3] = [Schedule::Constant, Schedule::Linear, Schedule::Cosine];

    #[test]
    fn without_warm_up_the_first_step_is_whole() {
        for schedule in ALL {
            assert_eq!(schedule.at(1, 100, 0.0), 1.0);
        }
    }

    #[test]
    fn zero_is_reached_just_after_the_last_step() {
        assert_eq!(Schedule::Linear.at(100, 100, 0.0), 1.0 - 99.0 / 100.0);
        assert_eq!(Schedule::Linear.at(101, 100, 0.0), 0.0);
        assert!(Schedule::Cosine.at(100, 100, 0.0) > 0.0);
        assert!(Schedule::Cosine.at(101, 100, 0.0) < 1e-15);
        assert_eq!(Schedule::Constant.at(101, 100, 0.0), 1.0);
    }

    #[test]
    fn the_middle_is_one_half() {
        assert_eq!(Schedule::Linear.at(51, 100, 0.0), 0.5);
        assert!((Schedule::Cosine.at(51, 100, 0.0) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn warm_up_rises_to_one_and_the_rest_starts_there() {
        for schedule in ALL {
            assert_eq!(schedule.at(1, 100, 0.1), 0.1);
            assert_eq!(schedule.at(10, 100, 0.1), 1.0);
            assert_eq!(schedule.at(11, 100, 0.1), 1.0);
            assert_eq!(schedule.at(100, 100, 1.0), 1.0);
        }
        assert_eq!(Schedule::Linear.at(101, 100, 0.1), 0.0);
    }

    #[test]
    fn short_runs_have_multipliers_within_bounds() {
        for schedule in ALL {
            for (total, warmup) in [(0, 0.5), (1, 0.0), (1, 1.0), (2, 0.3), (3, 0.5)] {
                for step in 1..=total {
                    let multiplier = schedule.at(step, total, warmup);
                    assert!(multiplier > 0.0 && multiplier <= 1.0, "{schedule:?} {step}/{total}: {multiplier}");
                }
            }
        }
    }
}
