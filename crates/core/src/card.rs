//! Method cards: what a method is called, needs and promises, derived from its config struct.

use crate::{Error, Result, nearest};
use serde::{Serialize, de::DeserializeOwned};

/// What a method asks of its host or caller; suites read this and never a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Gradients of its own tensors.
    Gradients,
    /// The loss value at each step.
    Loss,
    /// The loss and gradients of a step's batch at other parameters.
    Again,
    /// The frozen weight as a dense matrix in its forward pass (refused on quantised bases).
    Dense,
    /// Norm sites with running statistics.
    BatchNorm,
    /// An optimiser from its host.
    Optimiser,
    /// A model that reads from left to right, and words.
    Text,
    /// Labels.
    Labels,
    /// A batch of several rows at a time.
    Batch,
    /// A hand-chosen learning rate.
    LearningRate,
}

/// A law that holds for a method; promising it makes the matching check compulsory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// The adapted model equals the base before the first step.
    IdentityAtStart,
    /// The adapted weights can be written into a plain checkpoint.
    Mergeable,
    /// The change of each weight is an orthogonal factor.
    Orthogonal,
    /// The change of each weight has at most the configured rank.
    LowRank,
    /// No learning rate has to be chosen.
    LearningRateFree,
    /// The path does not change when the loss is multiplied by a constant (with `eps` zero).
    ScaleFree,
    /// Episodic results do not depend on the order of batches.
    OrderInvariant,
}

/// One field of a method's config struct.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ParamInfo {
    /// The field's name, which is the recipe key.
    pub name: &'static str,
    /// The field's Rust type.
    #[serde(rename = "type")]
    pub ty: &'static str,
    /// The field's doc comment.
    pub doc: &'static str,
    /// The smallest value allowed.
    pub min: Option<f64>,
    /// The largest value allowed.
    pub max: Option<f64>,
    /// Whether `min` itself is refused.
    pub above: bool,
}

/// Everything the catalogue, the command line and the suites know about a method.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Card {
    /// Registry name, snake case, equal to the file's name.
    pub name: &'static str,
    /// The title as the paper spells it.
    pub title: &'static str,
    /// Numbers in the catalogue of papers that this method implements.
    pub catalogue: &'static [u16],
    /// `arxiv:ID`, `doi:ID` or `-` where no paper exists.
    pub paper: &'static str,
    /// Year of publication.
    pub year: u16,
    /// Where an adapter goes unless the user says: a word of [`crate::Targets`] or names of sites; empty for other families.
    pub targets: &'static [&'static str],
    /// The doc comment: one sentence, then the fixed headings.
    pub doc: &'static str,
    /// The config's fields.
    pub params: &'static [ParamInfo],
    /// What it asks for.
    pub needs: &'static [Need],
    /// What it guarantees.
    pub promises: &'static [Promise],
    /// Checks that do not apply, each with its reason; a waived check that passes fails the run.
    pub waivers: &'static [(&'static str, &'static str)],
    /// The source file, relative to the workspace.
    pub file: &'static str,
    /// The line of the config struct.
    pub line: u32,
}

impl Card {
    /// The first sentence of the doc comment.
    pub fn summary(&self) -> &'static str {
        self.doc.trim().split("\n\n").next().unwrap_or_default().trim()
    }

    /// Whether the method asks for `need`.
    pub fn needs(&self, need: Need) -> bool {
        self.needs.contains(&need)
    }

    /// Whether the method guarantees `promise`.
    pub fn promises(&self, promise: Promise) -> bool {
        self.promises.contains(&promise)
    }
}

/// A config struct that is a method. Implemented by `#[derive(Method)]`.
///
/// The struct also derives `Serialize` and `Deserialize` with `#[serde(default, deny_unknown_fields)]`, so that a recipe's
/// table is checked key by key.
pub trait Method: Clone + std::fmt::Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The card out of the doc comment and attributes.
    const CARD: Card;

    /// Small settings for the suites, each TOML text such as `rank = 2\nalpha = 4.0`.
    const CASES: &'static [&'static str];

    /// Refuses values outside the ranges that the attributes state.
    fn check(&self) -> Result<()>;

    /// The config from a recipe's table; missing keys take their defaults.
    fn from_table(table: &toml::Table) -> Result<Self> {
        let names: Vec<&str> = Self::CARD.params.iter().map(|p| p.name).collect();
        if let Some(key) = table.keys().find(|key| !names.contains(&key.as_str())) {
            // Near to the key alone: the method's name before it would make long keys the nearest.
            let near = nearest(key, names);
            return Err(Error::Unknown { kind: "recipe key", name: format!("{}.{key}", Self::CARD.name), near });
        }
        let config = Self::deserialize(toml::Value::Table(table.clone()))
            .map_err(|e| Error::Other(format!("{}: {}", Self::CARD.name, e.message())))?;
        config.check()?;
        Ok(config)
    }

    /// The config as a recipe's table.
    fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a config struct of numbers, strings and tables is a TOML table")
    }
}

/// A row of a registry: the card and how to build the method behind the family's trait object.
pub struct Entry<T: ?Sized + 'static> {
    /// The method's card.
    pub card: Card,
    /// Settings for the suites.
    pub cases: &'static [&'static str],
    /// Builds the method from a recipe's table.
    pub build: fn(&toml::Table) -> Result<Box<T>>,
    /// The default settings.
    pub defaults: fn() -> toml::Table,
    /// For a preset: TOML settings laid under the user's own; empty otherwise.
    pub preset: &'static str,
}

impl<T: ?Sized> Entry<T> {
    /// Builds the method: the preset's settings, then `table` over them.
    pub fn build(&self, table: &toml::Table) -> Result<Box<T>> {
        let mut settings: toml::Table =
            self.preset.parse().map_err(|e| Error::Other(format!("preset `{}`: {e}", self.card.name)))?;
        settings.extend(table.clone());
        (self.build)(&settings)
    }

    /// The settings that hold when the user gives none.
    pub fn defaults(&self) -> toml::Table {
        let mut settings = (self.defaults)();
        settings.extend(self.preset.parse::<toml::Table>().expect("a preset's text is checked by the registry test"));
        settings
    }
}

/// Finds a method by name in a registry; an unknown name answers with the nearest three.
pub fn find<'a, T: ?Sized>(entries: &'a [Entry<T>], name: &str) -> Result<&'a Entry<T>> {
    entries
        .iter()
        .find(|entry| entry.card.name == name)
        .ok_or_else(|| Error::unknown("method", name, entries.iter().map(|entry| entry.card.name)))
}

/// The registry of a group: one `module::Type` per method, in alphabetic order, then presets as rows of data:
/// `presets [full::BITFIT = full::Full { "weights = false" } [""]]`, a card of their own, settings for a method, and cases for the suites.
///
/// A listed type without a file does not compile; a file that is not listed is a `dead_code` warning and fails the tidy test.
#[macro_export]
macro_rules! methods {
    ($(#[$meta:meta])* $vis:vis static $all:ident: dyn $family:path = [$($module:ident::$ty:ident),* $(,)?]
        $(presets [$($pcard:path = $pmodule:ident::$pty:ident { $($settings:literal),* } [$($case:literal),*]),* $(,)?])?;) => {
        $(pub use self::$module::$ty;)*
        $(#[$meta])*
        $vis static $all: &[$crate::Entry<dyn $family>] = &[
            $($crate::Entry {
                card: <$ty as $crate::Method>::CARD,
                cases: <$ty as $crate::Method>::CASES,
                build: |table| Ok(Box::new(<$ty as $crate::Method>::from_table(table)?)),
                defaults: || <$ty as $crate::Method>::to_table(&<$ty as Default>::default()),
                preset: "",
            },)*
            $($($crate::Entry {
                card: $pcard,
                cases: &[$($case),*],
                build: |table| Ok(Box::new(<$pty as $crate::Method>::from_table(table)?)),
                defaults: || <$pty as $crate::Method>::to_table(&<$pty as Default>::default()),
                preset: concat!($($settings, "\n"),*),
            },)*)?
        ];
    };
}
