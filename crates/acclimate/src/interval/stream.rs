//! Methods that follow a stream: every row is answered before its truth is looked at.

use super::read::{Truths, answer_columns, matrix, open, truth_column};
use super::{Answer, Method, Outcome, Plan, judge};
use acclimate_core::{Error, Result, write_whole};
use acclimate_data::{Assets, Table};
use acclimate_stats::conformal::{AnyOnline, Forecast, Stream};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// A stream between two tables.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    method: String,
    settings: toml::Table,
    coverage: f64,
    stream: serde_json::Value,
}

pub(super) fn run(plan: &Plan, method: &dyn AnyOnline, assets: &Assets) -> Result<Outcome> {
    let (card, alpha) = (method.card(), super::alpha(plan.coverage));
    for (given, what) in [
        (plan.shift.is_some(), "`shift`"),
        (plan.group.is_some() || plan.by_class, "groups"),
        (plan.weight.is_some(), "`weight`"),
        (plan.delay > 0 && plan.state.is_some(), "`state` together with `delay`"),
    ] {
        if given {
            let instead = "leave it out: the method follows what changes as truths come".to_owned();
            return Err(Error::Unsupported { who: card.name.to_owned(), what: format!("use {what}"), instead });
        }
    }
    let first = open(&plan.calibration, assets)?;
    let second = plan.rows.as_ref().map(|rows| open(rows, assets)).transpose()?;
    let own = Method::build(&plan.method, &plan.settings)?;
    let (before, table) = match &second {
        Some(rows) => (Some(&first), rows),
        None => (None, &first),
    };
    let past = before.map(|table| residuals(plan, &own, table)).transpose()?.unwrap_or_default();
    let kept = plan.state.as_deref().filter(|file| file.exists());
    let mut stream = match kept {
        Some(file) => resumed(plan, method, file)?,
        None => Stream::new(method, &past, alpha)?,
    };
    let named = if plan.new_answers.is_empty() || before.is_none() { &plan.answers } else { &plan.new_answers };
    let forecasts = forecasts(table, matrix(table, &answer_columns(&own, named, table)?)?)?;
    let truths = truths(plan, table)?;
    let (mut answers, mut course) = (Vec::with_capacity(table.len()), vec![None; table.len()]);
    let mut waiting = VecDeque::new();
    let learn = |stream: &mut Stream, row: usize| match truths[row] {
        Some(truth) => stream.observe(truth).map(Some),
        None => stream.skip().map(|()| None),
    };
    for (row, forecast) in forecasts.into_iter().enumerate() {
        answers.push(Answer::Interval(stream.predict(forecast)?));
        waiting.push_back(row);
        if let Some(row) = (waiting.len() > plan.delay).then(|| waiting.pop_front()).flatten() {
            course[row] = learn(&mut stream, row)?;
        }
    }
    for row in waiting {
        course[row] = learn(&mut stream, row)?;
    }
    if let Some(file) = &plan.state {
        let kept = Kept {
            method: card.name.to_owned(),
            settings: method.settings(),
            coverage: plan.coverage,
            stream: stream.save(),
        };
        let text = serde_json::to_string(&kept).map_err(|e| Error::format(file, e.to_string()))?;
        write_whole(file, text.as_bytes())?;
    }
    let known: Vec<usize> = (0..table.len()).filter(|row| truths[*row].is_some()).collect();
    let numbers = Truths::Numbers(truths.iter().map(|truth| truth.unwrap_or(f64::NAN)).collect());
    let judged = judge(&answers, &numbers, &vec![1.0; table.len()], known.into_iter());
    let mut outcome = Outcome {
        method: card.name.to_owned(),
        exchange: None,
        coverage: plan.coverage,
        classes: false,
        calibration_rows: past.len(),
        rows: answers.len(),
        held: None,
        judged,
        size: None,
        says_nothing: None,
        empty: None,
        groups: BTreeMap::new(),
        levels: vec![],
        facts: vec![],
        warnings: vec![],
        answers,
        names: vec![],
        course,
    };
    outcome.sum_up();
    if outcome.judged.is_none() {
        let what = "no row has a truth: nothing is learned on the way; name their column with `truth`";
        outcome.warnings.push(what.to_owned());
    }
    Ok(outcome)
}

/// The stream that another table ended with.
fn resumed(plan: &Plan, method: &dyn AnyOnline, file: &Path) -> Result<Stream> {
    let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| {
        Error::format(file, format!("holds no stream ({e}); name another file, or remove it to begin anew"))
    })?;
    if (kept.method.as_str(), &kept.settings, kept.coverage) != (method.card().name, &method.settings(), plan.coverage)
    {
        let what = format!(
            "holds a stream of `{}` with other settings or another coverage; give the same, or remove the file to begin anew",
            kept.method
        );
        return Err(Error::format(file, what));
    }
    Stream::restore(method, kept.stream)
}

/// What a model said, with the scale of its error where a second column has it.
fn forecasts(table: &Table, answers: Array2<f64>) -> Result<Vec<Forecast>> {
    let columns = answers.ncols();
    if columns > 2 {
        let what = format!("{columns} columns of answers; a stream reads a prediction, or a prediction and its scale");
        return Err(Error::format(&table.file, what));
    }
    let forecast =
        |row: ndarray::ArrayView1<'_, f64>| Forecast { centre: row[0], scale: row.get(1).copied().unwrap_or(1.0) };
    Ok(answers.rows().into_iter().map(forecast).collect())
}

/// The errors of rows before the stream, over their scales.
fn residuals(plan: &Plan, method: &Method, table: &Table) -> Result<Vec<f64>> {
    let forecasts = forecasts(table, matrix(table, &answer_columns(method, &plan.answers, table)?)?)?;
    let residual = |(row, (forecast, truth)): (usize, (Forecast, Option<f64>))| {
        if forecast.scale <= 0.0 {
            let what = format!("row {}: the scale is `{}`; scales are positive", row + 1, forecast.scale);
            return Some(Err(Error::format(&table.file, what)));
        }
        truth.map(|truth| Ok((truth - forecast.centre) / forecast.scale))
    };
    forecasts.into_iter().zip(truths(plan, table)?).enumerate().filter_map(residual).collect()
}

/// The truth of each row, where it came.
fn truths(plan: &Plan, table: &Table) -> Result<Vec<Option<f64>>> {
    match truth_column(plan, table) {
        Some(column) => table.numbers_or_gaps(&column),
        None => Ok(vec![None; table.len()]),
    }
}
