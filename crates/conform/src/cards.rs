//! Laws of every method that is built from settings, whatever it does: for methods whose functions are their own they are the whole suite.

use crate::{Check, trials, why};
use acclimate_core::{Entry, ParamInfo};
use libtest_mimic::{Failed, Trial};
use std::sync::Arc;
use toml::{Table, Value};

/// Builds a method and gives the settings that it has.
type Build = dyn Fn(&Table) -> Result<Table, String> + Send + Sync;

/// How a method is built, and what it says of its settings.
pub struct Settings {
    build: Box<Build>,
    defaults: Table,
    case: Table,
    params: &'static [ParamInfo],
}

impl Settings {
    /// The settings of an entry, told by `settings`, in one of its cases.
    pub fn new<T: ?Sized>(entry: &'static Entry<T>, case: Table, settings: fn(&T) -> Table) -> Self {
        let build = move |table: &Table| entry.build(table).map(|method| settings(&method)).map_err(why);
        Self { build: Box::new(build), defaults: entry.defaults(), case, params: entry.card.params }
    }
}

/// The laws of cards.
pub static CHECKS: &[Check<Settings>] = &[
    Check { name: "settings_are_kept", applies: |_| true, run: settings_are_kept },
    Check { name: "what_is_not_set_is_as_it_comes", applies: |_| true, run: what_is_not_set_is_as_it_comes },
    Check { name: "an_unknown_setting_is_refused", applies: |_| true, run: an_unknown_setting_is_refused },
    Check {
        name: "a_setting_of_another_type_is_refused",
        applies: |_| true,
        run: a_setting_of_another_type_is_refused,
    },
    Check { name: "ranges_are_kept", applies: |card| card.params.iter().any(bounded), run: ranges_are_kept },
];

fn bounded(param: &ParamInfo) -> bool {
    param.min.is_some() || param.max.is_some()
}

fn settings_are_kept(subject: &Settings) -> Result<(), String> {
    let first = (subject.build)(&subject.case)?;
    let second = (subject.build)(&first)?;
    if first == second { Ok(()) } else { Err(format!("{first} became {second}")) }
}

fn what_is_not_set_is_as_it_comes(subject: &Settings) -> Result<(), String> {
    let built = (subject.build)(&subject.case)?;
    for (key, value) in &subject.defaults {
        let want = subject.case.get(key).unwrap_or(value);
        match built.get(key) {
            Some(got) if got == want => {}
            got => return Err(format!("`{key}` is {got:?}, not {want}")),
        }
    }
    Ok(())
}

fn an_unknown_setting_is_refused(subject: &Settings) -> Result<(), String> {
    let mut table = subject.case.clone();
    table.insert("no_such_setting".to_owned(), Value::Integer(1));
    match (subject.build)(&table) {
        Err(error) if error.contains("no_such_setting") => Ok(()),
        Err(error) => Err(format!("the error does not name it: {error}")),
        Ok(_) => Err("it was taken".to_owned()),
    }
}

/// No setting is a date.
fn a_setting_of_another_type_is_refused(subject: &Settings) -> Result<(), String> {
    let date: Table = "date = 2020-02-02".parse().map_err(why)?;
    for param in subject.params {
        let mut table = subject.case.clone();
        table.insert(param.name.to_owned(), date["date"].clone());
        if (subject.build)(&table).is_ok() {
            return Err(format!("`{}` took a date", param.name));
        }
    }
    Ok(())
}

fn ranges_are_kept(subject: &Settings) -> Result<(), String> {
    for param in subject.params {
        let whole = subject.defaults.get(param.name).is_none_or(Value::is_integer) && !param.ty.contains("f64");
        let number = |number: f64| if whole { Value::Integer(number as i64) } else { Value::Float(number) };
        let below = param.min.map(|min| if param.above { min } else { min - 1.0 });
        for outside in below.into_iter().chain(param.max.map(|max| max + 1.0)) {
            let mut table = subject.case.clone();
            table.insert(param.name.to_owned(), number(outside));
            if (subject.build)(&table).is_ok() {
                return Err(format!("`{}` took {outside}", param.name));
            }
        }
    }
    Ok(())
}

/// The laws of cards over a registry: `family::method[case]::check`.
pub fn all<T: ?Sized>(family: &str, entries: &'static [Entry<T>], settings: fn(&T) -> Table) -> Vec<Trial> {
    let mut all = vec![];
    for entry in entries {
        for case in entry.cases {
            match case.parse::<Table>() {
                Ok(table) => {
                    let subject = Arc::new(Settings::new(entry, table, settings));
                    all.extend(trials(family, entry.card, case, subject, CHECKS));
                }
                Err(error) => {
                    let (name, why) = (format!("{family}::{}[{case}]", entry.card.name), why(error));
                    all.push(Trial::test(name, || Err(Failed::from(why))));
                }
            }
        }
    }
    all
}
