//! JSON has no word for a number that is not finite: it is written as `null`, and read back here as NaN.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

type Rows = Vec<Vec<Option<f64>>>;

fn or_nan(x: Option<f64>) -> f64 {
    x.unwrap_or(f64::NAN)
}

fn full(rows: Rows) -> Vec<Vec<f64>> {
    rows.into_iter().map(|row| row.into_iter().map(or_nan).collect()).collect()
}

pub(crate) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Option::deserialize(from).map(or_nan)
}

pub(crate) fn pairs<'de, K: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<(K, f64)>, D::Error> {
    Ok(Vec::deserialize(from)?.into_iter().map(|(key, x)| (key, or_nan(x))).collect())
}

pub(crate) fn named<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    Ok(BTreeMap::deserialize(from)?.into_iter().map(|(name, x)| (name, or_nan(x))).collect())
}

pub(crate) fn rows<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<f64>>, D::Error> {
    Rows::deserialize(from).map(full)
}

pub(crate) fn some_rows<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Vec<f64>>>, D::Error> {
    Ok(Option::<Rows>::deserialize(from)?.map(full))
}
