//! Which modules a folder's settings mean: the rules of the `peft` package, so that a file does not land on other modules than there.

use super::config::Config;
use acclimate_core::{Error, Model, Result, Site, SiteKind};
use fancy_regex::Regex;

/// `target_modules` and what narrows them.
pub(crate) struct Matching {
    targets: Rule,
    excluded: Option<Rule>,
    saved: Vec<Regex>,
    layers: Vec<usize>,
    layer_patterns: Vec<Regex>,
}

enum Rule {
    /// Every linear module but the head.
    AllLinear,
    /// Must match a whole name.
    Pattern(Regex),
    /// Whole names or their ends after a dot.
    Names(Vec<String>),
    /// Not said: the file's own modules.
    Unsaid,
}

impl Matching {
    pub(crate) fn new(config: &Config<'_>) -> Result<Self> {
        let targets = match rule(config, "target_modules")? {
            Some(Rule::Names(names)) if names.is_empty() => Rule::Unsaid,
            Some(rule) => rule,
            None => Rule::Unsaid,
        };
        let layers = config.usizes("layers_to_transform")?;
        let patterns = config.texts("layers_pattern")?;
        let layer_patterns = match patterns.as_slice() {
            [] => vec![regex(config, "layers_pattern", r"\A.*\.[^.]*\.(\d+)\.")?],
            patterns => patterns
                .iter()
                .map(|p| regex(config, "layers_pattern", &format!(r"\A.*\.{p}\.(\d+)\.")))
                .collect::<Result<_>>()?,
        };
        let saved = config.texts("modules_to_save")?;
        let saved = saved.iter().map(|m| regex(config, "modules_to_save", &format!(r"\A(^|.*\.){m}($|\..*)")));
        let saved = saved.collect::<Result<_>>()?;
        Ok(Self { targets, excluded: rule(config, "exclude_modules")?, saved, layers, layer_patterns })
    }

    /// Whether the settings say which modules are meant.
    pub(crate) fn says(&self) -> bool {
        !matches!(self.targets, Rule::Unsaid)
    }

    /// Whether a module is kept whole (`modules_to_save`).
    pub(crate) fn is_saved(&self, name: &str) -> bool {
        self.saved.iter().any(|regex| is_match(regex, name))
    }

    /// Whether an adapter stands at a module, which has this name in that package.
    pub(crate) fn is_target(&self, model: &dyn Model, site: &Site, name: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|rule| rule.means(model, site, name)) || self.is_saved(name) {
            return false;
        }
        if !self.targets.means(model, site, name) {
            return false;
        }
        // Layers narrow ends of names only, neither patterns nor whole names.
        match &self.targets {
            Rule::Names(names) if !self.layers.is_empty() && !names.iter().any(|n| n == name) => {
                let layer = self.layer_patterns.iter().find_map(|regex| {
                    regex.captures(name).ok().flatten().and_then(|found| found.get(1)?.as_str().parse().ok())
                });
                layer.is_some_and(|layer: usize| self.layers.contains(&layer))
            }
            _ => true,
        }
    }
}

impl Rule {
    fn means(&self, model: &dyn Model, site: &Site, name: &str) -> bool {
        match self {
            Self::AllLinear => {
                let head = [model.head(), model.vocabulary().map(|site| site.name.as_str())];
                site.kind == SiteKind::Linear && !head.contains(&Some(site.name.as_str()))
            }
            Self::Pattern(regex) => is_match(regex, name),
            Self::Names(names) => names.iter().any(|end| is_end(end, name)),
            Self::Unsaid => false,
        }
    }
}

fn rule(config: &Config<'_>, key: &str) -> Result<Option<Rule>> {
    Ok(match config.get(key) {
        None => None,
        Some(serde_json::Value::String(text)) if key == "target_modules" && text.eq_ignore_ascii_case("all-linear") => {
            Some(Rule::AllLinear)
        }
        Some(serde_json::Value::String(text)) => Some(Rule::Pattern(regex(config, key, &format!(r"\A(?:{text})\z"))?)),
        Some(_) => Some(Rule::Names(config.texts(key)?.into_iter().map(str::to_owned).collect())),
    })
}

/// Whether a name is `end`, or ends with it after a dot.
fn is_end(end: &str, name: &str) -> bool {
    name == end || name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}

/// The value that `rank_pattern` and its kin give a module: of the first key that matches its name or an end of it after a dot.
pub(crate) fn pattern_value<'a>(
    config: &Config<'a>,
    key: &str,
    names: &[&str],
) -> Result<Vec<Option<&'a serde_json::Value>>> {
    let table = config.table(key)?;
    let patterns = table
        .iter()
        .map(|(pattern, value)| Ok((regex(config, key, &format!(r"\A(.*\.)?({pattern})$"))?, *value)))
        .collect::<Result<Vec<_>>>()?;
    let first = |name: &&str| patterns.iter().find(|(regex, _)| is_match(regex, name)).map(|(_, value)| *value);
    Ok(names.iter().map(first).collect())
}

/// Whether `feedforward_modules` means a module: here ends of names count without a dot before them too.
pub(crate) fn feedforward(config: &Config<'_>) -> Result<impl Fn(&str) -> bool> {
    let rule = rule(config, "feedforward_modules")?;
    Ok(move |name: &str| match &rule {
        Some(Rule::Names(ends)) => ends.iter().any(|end| name.ends_with(end.as_str())),
        Some(Rule::Pattern(regex)) => is_match(regex, name),
        _ => false,
    })
}

fn regex(config: &Config<'_>, key: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| Error::format(config.file, format!("`{key}`: the pattern cannot be read: {e}")))
}

/// A pattern that gives up, after too many steps back, matches nothing.
fn is_match(regex: &Regex, name: &str) -> bool {
    regex.is_match(name).unwrap_or(false)
}
