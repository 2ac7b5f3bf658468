//! Names in a folder and names of the model's sites.

use acclimate_core::Site;
use std::collections::{BTreeMap, BTreeSet};

/// How names in the folder differ from the model's sites: one prefix in place of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Renaming {
    theirs: String,
    ours: String,
}

impl Renaming {
    pub(super) fn to_ours(&self, name: &str) -> Option<String> {
        name.strip_prefix(&self.theirs).map(|rest| format!("{}{rest}", self.ours))
    }

    pub(super) fn to_theirs(&self, name: &str) -> String {
        match name.strip_prefix(&self.ours) {
            Some(rest) => format!("{}{rest}", self.theirs),
            None => name.to_owned(),
        }
    }
}

/// The change of prefixes under which the most modules are sites; the least change where several are as good.
pub(super) fn renaming(modules: &BTreeSet<&str>, sites: &BTreeMap<&str, &Site>) -> Renaming {
    let firsts = |names: &mut dyn Iterator<Item = &str>| -> BTreeSet<String> {
        let mut all = BTreeSet::from([String::new()]);
        for name in names {
            all.extend(name.match_indices('.').take(3).map(|(at, _)| name[..=at].to_owned()));
        }
        all
    };
    if modules.iter().all(|module| sites.contains_key(module)) {
        return Renaming::default();
    }
    let theirs = firsts(&mut modules.iter().copied());
    let ours = firsts(&mut sites.keys().copied());
    let mut best = (0, Renaming::default());
    for theirs in &theirs {
        for ours in &ours {
            let candidate = Renaming { theirs: theirs.clone(), ours: ours.clone() };
            let hits = modules
                .iter()
                .filter(|module| candidate.to_ours(module).is_some_and(|name| sites.contains_key(name.as_str())))
                .count();
            let length = |renaming: &Renaming| renaming.theirs.len() + renaming.ours.len();
            if hits > best.0 || (hits == best.0 && length(&candidate) < length(&best.1)) {
                best = (hits, candidate);
            }
        }
    }
    best.1
}
