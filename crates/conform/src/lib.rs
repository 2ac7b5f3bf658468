//! Conformance suites that any method can be checked against, one named test per method × check × case.
//!
//! A suite is a list of [`Check`]s: plain functions with a sentence each. `Needs` and `Promises` on a method's card choose which
//! checks apply; no check knows a method's name.

pub mod cards;
pub mod models;
pub mod optim;
pub mod peft;
pub mod reading;
pub mod shift;
pub mod stats;
pub mod tta;

use acclimate_core::{Card, Result};
use libtest_mimic::{Failed, Trial};

/// One law of a family. `S` is the subject: a built method with what the check needs around it.
pub struct Check<S: ?Sized> {
    /// The law as a sentence in snake case, such as `merged_equals_unmerged`.
    pub name: &'static str,
    /// Whether the law holds for methods with such a card.
    pub applies: fn(&Card) -> bool,
    /// Fails with a reason, or passes.
    pub run: fn(&S) -> Result<(), String>,
}

/// One trial per check that applies: `family::method[case]::check`. A waived check must fail: an unneeded waiver is an error.
pub fn trials<S: ?Sized + Send + Sync + 'static>(
    family: &str,
    card: Card,
    case: &str,
    subject: std::sync::Arc<S>,
    checks: &'static [Check<S>],
) -> Vec<Trial> {
    let label = if case.is_empty() { "default".to_owned() } else { case.replace('\n', ", ") };
    let applying = checks.iter().filter(|check| (check.applies)(&card));
    let trial = |check: &'static Check<S>| {
        let subject = subject.clone();
        let waiver = card.waivers.iter().find(|(name, _)| *name == check.name).map(|(_, reason)| *reason);
        Trial::test(format!("{family}::{}[{label}]::{}", card.name, check.name), move || {
            match ((check.run)(&subject), waiver) {
                (Ok(()), None) => Ok(()),
                (Err(why), None) => Err(Failed::from(why)),
                (Err(_), Some(_)) => Ok(()),
                (Ok(()), Some(reason)) => {
                    Err(Failed::from(format!("the waiver `{reason}` is not needed any more; remove it")))
                }
            }
        })
    };
    applying.map(trial).collect()
}

/// The trials of all methods of all families: `family::method[case]::check`.
pub fn methods() -> Vec<Trial> {
    let mut trials = optim::all(acclimate_optim::METHODS);
    trials.extend(peft::all());
    trials.extend(shift::all(acclimate_shift::ALIGN, acclimate_shift::SCORES));
    trials.extend(cards::all("shift", acclimate_shift::CALCULATORS, |method| method.settings()));
    trials.extend(stats::all());
    trials.extend(tta::all(acclimate_tta::METHODS));
    trials
}

/// Turns any error into the reason of a failed check.
pub fn why(error: impl std::fmt::Display) -> String {
    error.to_string()
}
