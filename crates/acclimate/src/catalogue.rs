//! The catalogue: every method of every family, from the cards alone.

use acclimate_core::{Card, Entry, Error, Result};
use acclimate_stats::conformal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Written by `cargo xtask gen` from what is committed; a check refuses it when it is out of date.
const EVIDENCE: &str = include_str!("evidence.json");

/// A family of methods.
#[derive(Clone, Debug)]
pub struct Family {
    /// The registry's name, such as `optim`.
    pub name: &'static str,
    /// A title.
    pub title: &'static str,
    /// What the family is for, in a sentence.
    pub about: &'static str,
    /// Its methods in alphabetic order.
    pub cards: Vec<CardView>,
}

/// What supports a method: computed from what is committed, never declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// How many checks of its family's suite apply to it, over all its cases; the tests run them.
    pub conformance: usize,
    /// Whether golden numbers of its reference script, as it stands, are committed.
    pub golden: bool,
    /// Whether a claim about it has a committed result that holds.
    pub claim: bool,
    /// Whether it has a page in the catalogue.
    pub page: bool,
}

/// The evidence of all methods, by `family/name`.
pub type EvidenceTable = BTreeMap<String, Evidence>;

/// A method as the catalogue shows it.
#[derive(Clone, Debug)]
pub struct CardView {
    /// The card.
    pub card: Card,
    /// The settings that hold when none are given.
    pub defaults: toml::Table,
    /// For a preset, the settings that make it; empty otherwise.
    pub preset: &'static str,
    /// What supports it; nothing for a method that the last `cargo xtask gen` did not know.
    pub evidence: Evidence,
}

fn views<T: ?Sized>(entries: &[Entry<T>]) -> impl Iterator<Item = CardView> + '_ {
    let view = |entry: &Entry<T>| CardView {
        card: entry.card,
        defaults: entry.defaults(),
        preset: entry.preset,
        evidence: Evidence::default(),
    };
    entries.iter().map(view)
}

/// Every family.
pub fn catalogue() -> Vec<Family> {
    let sorted = |cards: Vec<CardView>| {
        let mut cards = cards;
        cards.sort_by_key(|view| view.card.name);
        cards
    };
    let mut families = vec![
        Family {
            name: "optim",
            title: "Optimisers",
            about: "Turn gradients into steps; those without a learning rate find their own.",
            cards: sorted(views(acclimate_optim::METHODS).collect()),
        },
        Family {
            name: "peft",
            title: "Parameter-efficient fine-tuning",
            about: "Change a frozen model by training a few numbers beside it.",
            cards: sorted(views(acclimate_peft::WEIGHT).chain(views(acclimate_peft::ACTIVATION)).collect()),
        },
        Family {
            name: "shift",
            title: "Distribution shift",
            about: "Fit a learner on labelled rows for a target that has other rows and no labels, and judge the fit without them.",
            cards: sorted(
                views(acclimate_shift::ALIGN)
                    .chain(views(acclimate_shift::SCORES))
                    .chain(views(acclimate_shift::CALCULATORS))
                    .collect(),
            ),
        },
        Family {
            name: "stats",
            title: "Statistics",
            about: "Give predictions intervals, sets and regions that hold the truth as often as asked, and watch for change.",
            cards: sorted(
                views(conformal::INTERVALS)
                    .chain(views(conformal::SETS))
                    .chain(views(conformal::EXCHANGES))
                    .chain(views(conformal::ONLINE))
                    .chain(views(conformal::BETS))
                    .chain(views(conformal::REGIONS))
                    .chain(views(acclimate_stats::ESTIMATORS))
                    .collect(),
            ),
        },
        Family {
            name: "tta",
            title: "Test-time adaptation",
            about: "Keep a deployed model right on an unlabelled stream that drifts.",
            cards: sorted(views(acclimate_tta::METHODS).collect()),
        },
    ];
    let evidence: EvidenceTable = serde_json::from_str(EVIDENCE).expect("written by `cargo xtask gen`");
    for family in &mut families {
        for view in &mut family.cards {
            view.evidence = evidence.get(&format!("{}/{}", family.name, view.card.name)).copied().unwrap_or_default();
        }
    }
    families
}

/// The family and card of a method.
///
/// # Errors
/// An unknown name, with the nearest ones.
pub fn find(name: &str) -> Result<(&'static str, CardView)> {
    let all: Vec<(&'static str, CardView)> = catalogue()
        .into_iter()
        .flat_map(|family| family.cards.into_iter().map(move |view| (family.name, view)))
        .collect();
    let found = all.iter().find(|(_, view)| view.card.name == name).cloned();
    found.ok_or_else(|| Error::unknown("method", name, all.iter().map(|(_, view)| view.card.name)))
}
