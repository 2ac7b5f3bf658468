//! Folders of the `peft` package.

mod config;
mod finding;
mod matching;
mod read;

pub(crate) use config::Config;
pub(crate) use matching::{feedforward, pattern_value};

pub use finding::{Finding, Level};
pub use read::{Examined, examine, load};

use crate::{full, hra, ia3, lora, vera};
use acclimate_core::{Adapter, Result, Site};

/// A module that a folder adapts.
pub(crate) struct Module<'a> {
    /// The model's site.
    pub(crate) site: &'a Site,
    /// Its name in the folder.
    pub(crate) name: &'a str,
}

/// How one type of folder is read.
pub(crate) struct Reader {
    /// `peft_type`.
    pub(crate) name: &'static str,
    /// What the names of its tensors hold after a module's path.
    pub(crate) mark: &'static str,
    /// Settings that ask for something that is not offered, and what to do instead.
    pub(crate) refused: &'static [(&'static str, &'static str)],
    /// Makes the method from settings and modules.
    pub(crate) build: fn(&Config<'_>, &[Module<'_>]) -> Result<Adapter>,
}

/// The types that can be read.
static READERS: [Reader; 5] = [hra::READER, ia3::READER, full::READER, lora::READER, vera::READER];

/// Types that package has and acclimate lacks: telling them from a slip of the pen makes a better message.
const OTHERS: [&str; 42] = [
    "ADALORA",
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "BONE",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "LILY",
    "LOHA",
    "LOKR",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PSOFT",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "WAVEFT",
    "XLORA",
    "MIXED",
    "ARROW",
];
