//! Typed access to `adapter_config.json`.

use acclimate_core::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The settings of a folder, and their file for messages.
#[derive(Clone, Copy)]
pub(crate) struct Config<'a> {
    pub(crate) file: &'a Path,
    pub(crate) map: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    /// A setting that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn wrong(&self, key: &str, why: &str) -> Error {
        let value = self.map.get(key).unwrap_or(&Value::Null);
        Error::format(self.file, format!("`{key}` {why}, got {value}"))
    }

    fn read<T>(&self, key: &str, default: T, what: &str, as_t: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        let Some(value) = self.get(key) else { return Ok(default) };
        as_t(value).ok_or_else(|| self.wrong(key, &format!("must be {what}")))
    }

    pub(crate) fn usize(&self, key: &str, default: usize) -> Result<usize> {
        self.read(key, default, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub(crate) fn f64(&self, key: &str, default: f64) -> Result<f64> {
        self.read(key, default, "a number", Value::as_f64)
    }

    pub(crate) fn bool(&self, key: &str, default: bool) -> Result<bool> {
        self.read(key, default, "`true` or `false`", Value::as_bool)
    }

    /// A text, or nothing.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, None, "a text", |v| v.as_str().map(Some))
    }

    /// A list of texts; one text is a list of one.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&'a str>> {
        self.read(key, vec![], "a text or a list of texts", |v| match v {
            Value::Array(items) => items.iter().map(Value::as_str).collect(),
            other => other.as_str().map(|text| vec![text]),
        })
    }

    /// A list of whole numbers; one number is a list of one.
    pub(crate) fn usizes(&self, key: &str) -> Result<Vec<usize>> {
        let one = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        self.read(key, vec![], "a whole number or a list of them", |v| match v {
            Value::Array(items) => items.iter().map(one).collect(),
            other => one(other).map(|n| vec![n]),
        })
    }

    /// A table, or an empty one.
    pub(crate) fn table(&self, key: &str) -> Result<Vec<(&'a str, &'a Value)>> {
        self.read(key, vec![], "a table", |v| {
            Some(v.as_object()?.iter().map(|(key, value)| (key.as_str(), value)).collect())
        })
    }

    /// Whether a setting asks for something: it is there and neither false nor empty.
    pub(crate) fn asks(&self, key: &str) -> bool {
        match self.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(items)) => !items.is_empty(),
            Some(_) => true,
        }
    }
}
