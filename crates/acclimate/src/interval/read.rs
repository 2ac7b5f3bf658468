//! Tables of predictions and truths.

use super::{Method, Plan};
use crate::dataset;
use crate::recipe::Recipe;
use acclimate_core::{Error, Result};
use acclimate_data::{Assets, TARGET_NAMES, Table, Value};
use ndarray::Array2;

/// What stands before the name of a class in the name of its column.
const BEFORE_CLASSES: [&str; 4] = ["probabilities.", "probability_", "prob_", "p_"];
/// What the column of truths is called first of all.
const TRUTH: &str = "truth";

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Truths {
    Numbers(Vec<f64>),
    Classes(Vec<usize>),
}

/// Rows as tables give them.
pub(super) struct Given {
    pub(super) table: Table,
    /// `[rows, columns]`.
    pub(super) answers: Array2<f64>,
    pub(super) truths: Option<Truths>,
    /// The names of the classes; none for numbers.
    pub(super) names: Vec<String>,
    pub(super) folds: Vec<usize>,
    /// The group of each row, by its place in `groups`; all zero where there are none.
    pub(super) group: Vec<usize>,
    /// The names of the groups, those of the calibration rows first.
    pub(super) groups: Vec<String>,
    pub(super) weights: Option<Vec<f64>>,
}

pub(super) fn open(name: &str, assets: &Assets) -> Result<Table> {
    Ok(dataset::open(name, &Recipe::default(), assets)?.table)
}

/// The column of truths: the one that was named, or the first of a usual name.
pub(super) fn truth_column(plan: &Plan, table: &Table) -> Option<String> {
    let there = |name: &&str| table.columns.iter().any(|column| column == name);
    plan.truth.clone().or_else(|| std::iter::once(TRUTH).chain(TARGET_NAMES).find(there).map(str::to_owned))
}

/// `[rows, columns]`.
pub(super) fn matrix(table: &Table, columns: &[String]) -> Result<Array2<f64>> {
    let mut found = Array2::zeros((table.len(), columns.len()));
    for (at, name) in columns.iter().enumerate() {
        for (row, number) in table.numbers(name)?.into_iter().enumerate() {
            found[[row, at]] = number;
        }
    }
    Ok(found)
}

/// The columns of answers that were named, or those of usual names.
pub(super) fn answer_columns(method: &Method, named: &[String], table: &Table) -> Result<Vec<String>> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let there = |name: &str| table.columns.iter().any(|column| column == name);
    let usual: &[&str] = match method {
        Method::Intervals(method) => method.columns(),
        Method::Online(_) => &["prediction"],
        Method::Sets(_) => {
            let begin = |prefix: &str| {
                let all = table.columns.iter().filter(|column| column.starts_with(prefix));
                Some(all.cloned().collect::<Vec<_>>()).filter(|columns| columns.len() > 1)
            };
            return BEFORE_CLASSES.into_iter().find_map(begin).ok_or_else(|| missing(table, "p_CLASS for each class"));
        }
    };
    if usual.iter().all(|name| there(name)) {
        return Ok(usual.iter().map(|name| (*name).to_owned()).collect());
    }
    Err(missing(table, &usual.join("`, `")))
}

fn missing(table: &Table, wanted: &str) -> Error {
    let columns: Vec<&str> = table.columns.iter().map(String::as_str).take(20).collect();
    let what = format!(
        "has no column `{wanted}`; name the columns with the model's answers with `--answers` (there are `{}`)",
        columns.join("`, `")
    );
    Error::format(&table.file, what)
}

/// The names of the classes out of those of their columns.
fn class_names(columns: &[String]) -> Vec<String> {
    let prefix = BEFORE_CLASSES.into_iter().find(|prefix| columns.iter().all(|column| column.starts_with(prefix)));
    let bare = |column: &String| column.strip_prefix(prefix.unwrap_or_default()).unwrap_or(column).to_owned();
    columns.iter().map(bare).collect()
}

fn truths(method: &Method, table: &Table, column: &str, names: &[String]) -> Result<Truths> {
    if !matches!(method, Method::Sets(_)) {
        return Ok(Truths::Numbers(table.numbers(column)?));
    }
    let place = |(row, text): (usize, String)| {
        names.iter().position(|name| *name == text.trim()).ok_or_else(|| Error::Row {
            file: table.file.clone(),
            row: row + 1,
            column: column.to_owned(),
            what: format!("is none of the classes, got `{text}`; there are columns for `{}`", names.join("`, `")),
        })
    };
    Ok(Truths::Classes(table.texts(column)?.into_iter().enumerate().map(place).collect::<Result<_>>()?))
}

/// The weights of rows, where a column of them is named.
fn weights(plan: &Plan, table: &Table) -> Result<Option<Vec<f64>>> {
    plan.weight.as_ref().map(|column| table.numbers(column)).transpose()
}

/// The group of each row by its place among `groups`, which grows by those that are new.
fn groups(plan: &Plan, table: &Table, groups: &mut Vec<String>) -> Result<Vec<usize>> {
    let Some(column) = &plan.group else { return Ok(vec![0; table.len()]) };
    let place = |text: String| {
        groups.iter().position(|group| *group == text).unwrap_or_else(|| {
            groups.push(text);
            groups.len() - 1
        })
    };
    Ok(table.texts(column)?.into_iter().map(place).collect())
}

/// The calibration rows, with their truths.
pub(super) fn calibration(plan: &Plan, method: &Method, assets: &Assets) -> Result<Given> {
    let table = open(&plan.calibration, assets)?;
    let columns = answer_columns(method, &plan.answers, &table)?;
    let answers = matrix(&table, &columns)?;
    let names = if matches!(method, Method::Sets(_)) { class_names(&columns) } else { vec![] };
    let other = plan.truths.as_ref().map(|name| open(name, assets)).transpose()?;
    let with_truth = other.as_ref().unwrap_or(&table);
    if with_truth.len() != table.len() {
        let (got, need) = (with_truth.len(), table.len());
        return Err(Error::format(
            &with_truth.file,
            format!("has {got} truths for {need} calibration rows; give one each"),
        ));
    }
    let column = truth_column(plan, with_truth).ok_or_else(|| {
        Error::format(&with_truth.file, "has no column of truths; name it with `--truth`, or its table with `--truths`")
    })?;
    let truths = truths(method, with_truth, &column, &names)?;
    let folds = match &plan.fold {
        Some(column) => folds(&table, column)?,
        None => vec![],
    };
    let mut all = vec![];
    let group = groups(plan, &table, &mut all)?;
    let weights = weights(plan, &table)?;
    Ok(Given { answers, truths: Some(truths), names, folds, group, groups: all, weights, table })
}

/// Folds as whole numbers from zero, in the order of their numbers.
fn folds(table: &Table, column: &str) -> Result<Vec<usize>> {
    let numbers = table.numbers(column)?;
    let mut all = numbers.clone();
    all.sort_by(f64::total_cmp);
    all.dedup();
    Ok(numbers.iter().map(|fold| all.partition_point(|other| other < fold)).collect())
}

/// The rows to answer.
pub(super) fn rows(plan: &Plan, method: &Method, name: &str, held: &Given, assets: &Assets) -> Result<Given> {
    let table = open(name, assets)?;
    let named = if plan.new_answers.is_empty() { &plan.answers } else { &plan.new_answers };
    let columns = answer_columns(method, named, &table)?;
    let answers = matrix(&table, &columns)?;
    if matches!(method, Method::Sets(_)) && class_names(&columns) != held.names {
        let what =
            format!("has classes `{}`, the calibration rows `{}`", columns.join("`, `"), held.names.join("`, `"));
        return Err(Error::format(&table.file, what));
    }
    let column = truth_column(plan, &table).filter(|column| known(&table, column));
    let truths = column.map(|column| truths(method, &table, &column, &held.names)).transpose()?;
    let mut all = held.groups.clone();
    let group = groups(plan, &table, &mut all)?;
    let weights = weights(plan, &table)?;
    Ok(Given { answers, truths, names: held.names.clone(), folds: vec![], group, groups: all, weights, table })
}

/// Whether every row has a cell in a column.
fn known(table: &Table, column: &str) -> bool {
    table.column(column).is_ok_and(|at| table.rows.iter().all(|row| row[at] != Value::Null))
}
