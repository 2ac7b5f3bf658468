//! Which modules a folder's settings mean: the rules of the `peft` package, so that a file does not land on other modules than there.

use super::config::Config;
use acclimate_core::{Error, Model, Result, Site, SiteKind};
use fancy_regex::Regex;

/// `target_modules` and what narrows them.
pub(crate) struct Matching {
    targets: Rule,
    excluded: Option<Rule>,
    /// Names in `modules_to_save`, each with what it means.
    saved: Vec<(String, Regex)>,
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
        let meant = |m: &&str| regex(config, "modules_to_save", &format!(r"\A(^|.*\.){m}($|\..*)"));
        let saved = saved.iter().map(|m| Ok(((*m).to_owned(), meant(m)?))).collect::<Result<_>>()?;
        Ok(Self { targets, excluded: rule(config, "exclude_modules")?, saved, layers, layer_patterns })
    }

    /// Whether the settings say which modules are meant.
    pub(crate) fn says(&self) -> bool {
        !matches!(self.targets, Rule::Unsaid)
    }

    /// Whether `modules_to_save` keeps adapters away from a module.
    fn is_saved(&self, name: &str) -> bool {
        self.saved.iter().any(|(_, regex)| is_match(regex, name))
    }

    /// Whether a module is kept whole (`modules_to_save`).
    pub(crate) fn is_kept(&self, name: &str) -> bool {
        self.saved.iter().any(|(end, _)| keeps(end, name))
    }

    /// Names in `modules_to_save` that mean none of these modules.
    pub(crate) fn idle_saved(&self, modules: &[&str]) -> impl Iterator<Item = &str> {
        let idle = |end: &str| !modules.iter().any(|module| keeps(end, module));
        self.saved.iter().map(|(name, _)| name.as_str()).filter(move |name| idle(name))
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

/// Whether a name of `modules_to_save` means a module, or one around it: ends of names count without a dot before them too, so that
/// `norm` keeps `input_layernorm` as well.
fn keeps(end: &str, name: &str) -> bool {
    let around = name.match_indices('.').map(|(at, _)| &name[..at]);
    around.chain([name]).any(|module| module.ends_with(end))
}

/// The patterns of `rank_pattern` and its kin with what they give: a pattern means a name that matches it, or an end of it after a dot.
fn patterns<'a>(config: &Config<'a>, key: &str) -> Result<Vec<(Regex, &'a str, &'a serde_json::Value)>> {
    let read = |(pattern, value): &(&'a str, &'a serde_json::Value)| {
        Ok((regex(config, key, &format!(r"\A(.*\.)?({pattern})$"))?, *pattern, *value))
    };
    config.table(key)?.iter().map(read).collect()
}

/// What `rank_pattern` and its kin give each module: the value of the first pattern that means it.
pub(crate) fn pattern_value<'a>(
    config: &Config<'a>,
    key: &str,
    names: &[&str],
) -> Result<Vec<Option<&'a serde_json::Value>>> {
    let patterns = patterns(config, key)?;
    let first = |name: &&str| patterns.iter().find(|(regex, ..)| is_match(regex, name)).map(|(_, _, value)| *value);
    Ok(names.iter().map(first).collect())
}

/// Patterns that mean none of the modules.
pub(crate) fn idle_patterns<'a>(config: &Config<'a>, key: &str, names: &[&str]) -> Result<Vec<&'a str>> {
    let idle = |(regex, ..): &(Regex, &str, &serde_json::Value)| !names.iter().any(|name| is_match(regex, name));
    Ok(patterns(config, key)?.iter().filter(|pattern| idle(pattern)).map(|(_, pattern, _)| *pattern).collect())
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
