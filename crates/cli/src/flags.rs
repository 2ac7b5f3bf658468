//! Every key of a recipe as a flag: made from the recipe's table of keys and the methods' cards, so that none is listed here.

use acclimate::Recipe;
use acclimate_core::{Error, ParamInfo};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Sections of a recipe that name a method, with the family it comes from.
const SECTIONS: [(&str, &str); 2] = [("adapter", "peft"), ("optim", "optim")];

/// Keys with a letter of their own.
const SHORT: [(&str, char); 3] = [("model", 'm'), ("data", 'd'), ("out", 'o')];

/// A key as the command line sees it.
struct Flag {
    name: String,
    doc: &'static str,
    default: Option<Value>,
    /// For a method's own setting, its Rust type.
    setting: Option<&'static str>,
}

/// The keys that were given as flags, as a recipe's table.
pub(crate) struct RecipeFlags(pub(crate) Table);

impl RecipeFlags {
    /// Lays the flags over a recipe's table.
    pub(crate) fn over(self, mut base: Table) -> Table {
        merge(&mut base, self.0);
        base
    }
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn recipe_flags() -> Vec<Flag> {
    let defaults = Table::try_from(Recipe::default()).unwrap_or_default();
    let default = |name: &str| {
        let mut parts = name.split('.');
        let first = defaults.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part)).cloned()
    };
    Recipe::keys()
        .map(|key| Flag { name: key.name.to_owned(), doc: key.doc, default: default(key.name), setting: None })
        .collect()
}

/// The settings of every method, by flag; where two methods share one, the first says what it means.
fn setting_flags() -> Vec<Flag> {
    let families = acclimate::catalogue();
    let mut found: BTreeMap<String, Flag> = BTreeMap::new();
    for (section, family) in SECTIONS {
        for view in families.iter().filter(|f| f.name == family).flat_map(|f| &f.cards) {
            for ParamInfo { name, ty, doc, .. } in view.card.params {
                let flag = format!("{section}.{name}");
                let default = view.defaults.get(*name).cloned();
                found.entry(flag.clone()).or_insert(Flag { name: flag, doc, default, setting: Some(ty) });
            }
        }
    }
    found.into_values().collect()
}

fn all_flags() -> Vec<Flag> {
    let mut flags = recipe_flags();
    let settings = setting_flags();
    flags.extend(settings.into_iter().filter(|s| !Recipe::keys().any(|key| key.name == s.name)));
    flags
}

fn argument(flag: &Flag) -> Arg {
    let (section, last) = flag.name.rsplit_once('.').unwrap_or(("", &flag.name));
    let heading = if section.is_empty() { "Recipe".to_owned() } else { format!("Recipe: {section}") };
    let shown = match &flag.default {
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::Array(items)) if items.is_empty() => None,
        Some(Value::Table(items)) if items.is_empty() => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
        None => None,
    };
    let doc = flag.doc.trim().replace('\n', " ");
    let help = shown.map_or(doc.clone(), |default| format!("{doc} [default: {default}]"));
    let mut arg = Arg::new(flag.name.clone())
        .long(flag.name.clone())
        .help(help)
        .help_heading(heading)
        .value_name(kind(flag))
        .hide(flag.setting.is_some())
        .action(ArgAction::Set);
    if flag.name.contains('_') {
        arg = arg.alias(flag.name.replace('_', "-"));
    }
    if last == "method" {
        arg = arg.alias(section.to_owned());
    }
    if let Some((_, letter)) = SHORT.iter().find(|(name, _)| *name == flag.name) {
        arg = arg.short(*letter);
    }
    match &flag.default {
        Some(Value::Boolean(_)) => arg.num_args(0..=1).default_missing_value("true"),
        // `-0.5,0.5` is a value, not a flag.
        Some(Value::Array(_)) => arg.allow_hyphen_values(true),
        _ => arg.allow_negative_numbers(true),
    }
}

fn kind(flag: &Flag) -> &'static str {
    match &flag.default {
        Some(Value::Integer(_) | Value::Float(_)) => "NUMBER",
        Some(Value::Boolean(_)) => "BOOL",
        Some(Value::Array(_)) => "LIST",
        _ => "VALUE",
    }
}

/// A TOML literal: a number, `true`, a quoted text or a list.
fn literal(text: &str) -> Option<Value> {
    let mut table: Table = format!("x = {text}").parse().ok()?;
    let value = table.remove("x")?;
    table.is_empty().then_some(value)
}

/// What a text may stand for, the likeliest first.
fn readings(text: &str) -> Vec<Value> {
    let list = |items: Option<Vec<Value>>| items.map(Value::Array);
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let words = || parts.iter().map(|part| Value::String((*part).to_owned())).collect();
    let mut all = vec![];
    if text.starts_with(['[', '{', '"', '\'']) {
        all.extend(literal(text));
    }
    if parts.len() > 1 {
        all.extend(list(parts.iter().map(|part| literal(part)).collect()));
        all.push(Value::Array(words()));
    }
    all.push(Value::String(text.to_owned()));
    all.extend(literal(text));
    all.extend(list(literal(text).map(|item| vec![item])));
    all.push(Value::Array(words()));
    all
}

/// A table in which `value` stands under a dotted key.
fn nested(name: &str, value: Value) -> Table {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let inner = rest.map_or(value.clone(), |rest| Value::Table(nested(rest, value)));
    Table::from_iter([(first.to_owned(), inner)])
}

/// The first reading that has the key's type.
fn value(flag: &Flag, text: &str) -> Result<Value, String> {
    let readings = readings(text);
    let Some(ty) = flag.setting else {
        let try_in = |value: &Value| Value::Table(nested(&flag.name, value.clone())).try_into::<Recipe>();
        if let Some(value) = readings.iter().find(|value| try_in(value).is_ok()) {
            return Ok(value.clone());
        }
        let plain = literal(text).unwrap_or_else(|| Value::String(text.to_owned()));
        return Err(try_in(&plain).map_or_else(|e| e.message().trim().to_owned(), |_| "is not understood".to_owned()));
    };
    let fits = |value: &Value| match (&flag.default, value) {
        (Some(Value::Float(_)), Value::Integer(_) | Value::Float(_)) => true,
        (Some(default), value) => default.same_type(value),
        (None, Value::String(_)) => ty.contains("String"),
        (None, _) => true,
    };
    // A type that only the method knows gets its say when the method is built.
    let last = || literal(text).unwrap_or_else(|| Value::String(text.to_owned()));
    Ok(readings.iter().find(|value| fits(value)).cloned().unwrap_or_else(last))
}

impl clap::Args for RecipeFlags {
    fn augment_args(command: Command) -> Command {
        command.args(all_flags().iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for RecipeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut table = Table::new();
        for flag in all_flags() {
            if let Some(text) = matches.get_one::<String>(&flag.name) {
                let bad =
                    |why| clap::Error::raw(ErrorKind::ValueValidation, format!("`--{} {text}`: {why}\n", flag.name));
                merge(&mut table, nested(&flag.name, value(&flag, text).map_err(bad)?));
            }
        }
        Ok(Self(table))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        merge(&mut self.0, Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// Settings of a method out of TOML such as `lr = 0.03, decay = 0.001`.
///
/// # Errors
/// Names the flag.
pub(crate) fn settings(flag: &str, text: &str) -> Result<Table, Error> {
    let table: Table = format!("settings = {{ {text} }}")
        .parse()
        .map_err(|e: toml::de::Error| Error::Other(format!("`{flag}`: {}", e.message())))?;
    Ok(table["settings"].as_table().cloned().unwrap_or_default())
}

/// A recipe out of a table; what is wrong with it is a mistake in the command.
pub(crate) fn recipe(table: &Table) -> Result<Recipe, clap::Error> {
    Recipe::from_table(table).map_err(|error: Error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn table(args: &[&str]) -> Table {
        let command = RecipeFlags::augment_args(Command::new("test").no_binary_name(true));
        RecipeFlags::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap().0
    }

    #[test]
    fn types_follow_the_recipe() {
        let got =
            table(&["--text", "1", "--train-rows", "300", "--test_share=0", "--cuts", "-0.5,0.5", "--classes", "0,1"]);
        let want = "text = '1'\ntrain_rows = 300\ntest_share = 0\ncuts = [-0.5, 0.5]\nclasses = ['0', '1']";
        let want: Table = want.parse().unwrap();
        for (key, value) in want {
            assert_eq!(got.get(&key), Some(&value), "{key}");
        }
    }

    #[test]
    fn short_forms_and_lists() {
        let got = table(&[
            "-m",
            "a,b",
            "--adapter",
            "x",
            "--optim",
            "y",
            "--adapter.targets",
            "q,v",
            "--offline",
            "--classes",
            "one",
        ]);
        let want = "model = 'a,b'\noffline = true\nclasses = ['one']\n[adapter]\nmethod = 'x'\ntargets = ['q', 'v']\n[optim]\nmethod = 'y'";
        let want: Table = want.parse().unwrap();
        for (key, value) in want {
            assert_eq!(got.get(&key), Some(&value), "{key}");
        }
    }

    #[test]
    fn flags_lie_over_the_file() {
        let base: Table = "epochs = 3\n[adapter]\nmethod = 'x'\nrank = 2".parse().unwrap();
        let over = RecipeFlags(nested("adapter.method", Value::String("y".into()))).over(base);
        assert_eq!(over, "epochs = 3\n[adapter]\nmethod = 'y'\nrank = 2".parse().unwrap());
    }

    #[test]
    fn every_setting_of_every_method_is_a_flag() {
        let command = RecipeFlags::augment_args(Command::new("test"));
        command.clone().debug_assert();
        for flag in setting_flags() {
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(flag.name.as_str())), "{}", flag.name);
        }
    }

    #[test]
    fn bad_values_say_why() {
        let command = RecipeFlags::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(["--epochs", "many"]).unwrap();
        let error = RecipeFlags::from_arg_matches(&matches).err().unwrap().to_string();
        assert!(error.contains("`--epochs many`: invalid type"), "{error}");
    }
}
