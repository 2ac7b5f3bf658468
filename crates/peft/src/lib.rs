//! Parameter-efficient fine-tuning: methods that change a frozen model by training a few numbers beside it.
//!
//! [`build`] makes a method from its name and a recipe's table, [`place`] puts it at its sites, [`load`] reads a patch folder, also one of
//! the `peft` package.
mod draw;
mod folder;
mod full;
mod houlsby;
mod hra;
mod ia3;
mod lora;
mod place;
mod vera;

use acclimate_core::{Adapter, AnyActivation, AnyWeight, Card, Error, Result, find, methods};

pub use folder::{Examined, Finding, Level, examine, load};
pub use full::{BITFIT, NORM_TUNING};
pub use houlsby::Activation;
pub use lora::DORA;
pub use place::place;

methods! {
    /// Methods that change weights.
    pub static WEIGHT: dyn AnyWeight = [full::Full, hra::Hra, ia3::Ia3, lora::Lora, vera::Vera]
        presets [
            full::BITFIT = full::Full { "weights = false" } [""],
            full::NORM_TUNING = full::Full { "weights = true", "biases = true" } [""],
            lora::DORA = lora::Lora { "decomposed = true" } ["rank = 2", "rank = 3\nalpha = 4.0\ndropout = 0.3"],
        ];
}

methods! {
    /// Methods that act on the states of sub-blocks.
    pub static ACTIVATION: dyn AnyActivation = [houlsby::Houlsby];
}

/// Every method and preset of the family.
pub fn cards() -> impl Iterator<Item = Card> {
    WEIGHT.iter().map(|entry| entry.card).chain(ACTIVATION.iter().map(|entry| entry.card))
}

/// The card of one method.
///
/// # Errors
/// An unknown name, with the nearest ones.
pub fn card(name: &str) -> Result<Card> {
    cards().find(|card| card.name == name).ok_or_else(|| Error::unknown("method", name, cards().map(|card| card.name)))
}

/// A method from its name and settings; what the settings leave out takes its default.
///
/// # Errors
/// An unknown name or key, with the nearest ones, or a value out of range.
///
/// # Example
/// ```
/// let lora = acclimate_peft::build("lora", &"rank = 4".parse()?)?;
/// assert_eq!(lora.settings()["rank"].as_integer(), Some(4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn build(name: &str, settings: &toml::Table) -> Result<Adapter> {
    let card = card(name)?;
    if let Ok(entry) = find(WEIGHT, card.name) {
        return Ok(Adapter::Weight(entry.build(settings)?.into()));
    }
    Ok(Adapter::Activation(find(ACTIVATION, card.name)?.build(settings)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_have_targets() {
        let names: std::collections::BTreeSet<&str> = cards().map(|card| card.name).collect();
        assert_eq!(names.len(), cards().count());
        assert!(cards().all(|card| !card.targets.is_empty()));
    }

    #[test]
    fn presets_have_settings_that_build_and_whole_pages() {
        let headings = ["# Mathematics", "# When to use", "# Differences", "# Example", "# References"];
        for entry in WEIGHT.iter().filter(|entry| !entry.preset.is_empty()) {
            assert!(build(entry.card.name, &entry.defaults()).is_ok(), "{}", entry.card.name);
            let found: Vec<&str> = entry.card.doc.lines().filter(|line| line.starts_with("# ")).collect();
            assert_eq!(found, headings, "{}", entry.card.name);
            assert!(entry.card.summary().ends_with('.'), "{}", entry.card.name);
        }
    }

    #[test]
    fn an_unknown_method_is_answered_with_the_nearest() {
        let error = build("lorra", &toml::Table::new()).unwrap_err().to_string();
        assert!(error.starts_with("unknown method `lorra`") && error.contains("`lora`"), "{error}");
    }
}
