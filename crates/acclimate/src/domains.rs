//! Two tables of the same columns as two domains, the labelled source and the target.

use crate::dataset::{self, Loaded, Opened};
use crate::encode::Encoded;
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::Prepared;
use crate::train;
use acclimate_core::{Error, Result};
use acclimate_data::{self as data, Assets, Inputs, TARGET_NAMES, Table, Value};
use acclimate_models::Base;
use acclimate_stats::learn::Labels;
use acclimate_stats::two_sample::Column;
use ndarray::Array2;
use std::collections::BTreeSet;

/// More different texts than this are no categories.
const MOST_CATEGORIES: usize = 50;
/// Tokens that are read of a text.
const TOKENS: usize = 128;

/// Rows of two domains as numbers: columns of numbers have the source's mean zero and deviation one, a category is a column of zeros and
/// ones.
#[derive(Clone, Debug)]
pub struct Domains {
    /// What the columns of the matrices are called.
    pub features: Vec<String>,
    /// `[rows, features]`.
    pub source: Array2<f64>,
    /// `[rows, features]`.
    pub target: Array2<f64>,
    /// The columns as the tables have them, by name; those of a model's features are the features themselves.
    pub columns: Vec<(String, Column)>,
    /// Columns that are not used, and why.
    pub left_out: Vec<(String, String)>,
}

/// Which tables and columns are the domains.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The table of the source.
    pub source: String,
    /// The table of the target.
    pub target: String,
    /// The column with the labels, found by its usual names where it is absent.
    pub label: Option<String>,
    /// The columns to look at; all that both tables have, where none are named.
    pub columns: Vec<String>,
    /// A model whose features of texts or images stand for the rows.
    pub model: Option<String>,
    /// Fetch nothing.
    pub offline: bool,
}

/// Two domains with what is known of their labels.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The rows.
    pub domains: Domains,
    /// The column with the labels, where the source has one.
    pub label: Option<String>,
    /// The names of the classes; none where labels are numbers.
    pub classes: Vec<String>,
    /// The labels of the source.
    pub source: Option<Labels>,
    /// The labels of the target, for tests and for judging alone: no method of alignment has a place for them.
    pub target: Option<Labels>,
}

impl Question {
    /// Reads both tables.
    ///
    /// # Errors
    /// A table or model that cannot be read, a column that is in one table alone, a cell that is no number where the others are, or labels
    /// of the target that the source does not have.
    pub fn open(&self) -> Result<Answered> {
        let assets = Assets::open(self.offline)?;
        let open = |name: &str| dataset::open(name, &Recipe::default(), &assets);
        let (source, target) = (open(&self.source)?, open(&self.target)?);
        let label = match &self.label {
            Some(name) => source.table.column(name).map(|_| Some(name.clone()))?,
            None => source.columns.target.clone().or_else(|| usual(&source.table)),
        };
        let domains = match &self.model {
            Some(model) => Domains::of_model(&Loaded::open(model, Base::Packed, TOKENS, &assets)?, &source, &target)?,
            None => {
                let leave: Vec<&str> = label.iter().map(String::as_str).collect();
                Domains::read(&source.table, &target.table, &self.columns, &leave)?
            }
        };
        let mut answered = Answered { domains, label: label.clone(), classes: vec![], source: None, target: None };
        let Some(column) = label else { return Ok(answered) };
        let (labels, classes) = read_labels(&source.table, &column, &data::Target::Auto)?;
        let same = match labels {
            Labels::Classes { .. } => data::Target::Classes { names: Some(classes.clone()) },
            Labels::Numbers(_) => data::Target::Numbers,
        };
        (answered.source, answered.classes) = (Some(labels), classes);
        if target.table.column(&column).is_ok() && filled(&target.table, &column) {
            answered.target = Some(read_labels(&target.table, &column, &same)?.0);
        }
        Ok(answered)
    }
}

/// The first of the usual names of targets that a table has.
pub(crate) fn usual(table: &Table) -> Option<String> {
    let there = |name: &&&str| table.columns.iter().any(|column| column == *name);
    TARGET_NAMES.iter().find(there).map(|name| (*name).to_owned())
}

/// Whether a column has anything in it.
fn filled(table: &Table, column: &str) -> bool {
    table.column(column).is_ok_and(|at| table.rows.iter().any(|row| row[at] != Value::Null))
}

/// The labels of a column as learners take them, and the names of the classes.
///
/// # Errors
/// Labels that are neither classes nor numbers, and those of [`data::Labels::read`].
pub(crate) fn read_labels(table: &Table, column: &str, target: &data::Target) -> Result<(Labels, Vec<String>)> {
    match data::Labels::read(table, column, target)? {
        data::Labels::Classes { names, index } => Ok((Labels::Classes { of: index, count: names.len() }, names)),
        data::Labels::Numbers(numbers) => Ok((Labels::Numbers(numbers), vec![])),
        _ => Err(Error::format(
            &table.file,
            format!("column `{column}` holds lists; one class or number per row is needed"),
        )),
    }
}

/// What the cells of a column are.
enum Kind {
    Numbers,
    Categories(Vec<String>),
    Other(String),
}

fn kind(tables: [&Table; 2], name: &str) -> Result<Kind> {
    let at = [tables[0].column(name)?, tables[1].column(name)?];
    let cells = || tables.iter().zip(at).flat_map(|(table, at)| table.rows.iter().map(move |row| &row[at]));
    let number = |cell: &Value| match cell {
        Value::Number(_) | Value::Null => true,
        Value::Text(text) => text.trim().parse::<f64>().is_ok(),
        _ => false,
    };
    if cells().any(|cell| *cell != Value::Null) && cells().all(number) {
        return Ok(Kind::Numbers);
    }
    if cells().any(|cell| matches!(cell, Value::List(_) | Value::Objects(_))) {
        return Ok(Kind::Other("holds lists".to_owned()));
    }
    let names: BTreeSet<String> = cells().map(|cell| cell.text().unwrap_or_default()).collect();
    Ok(match names.len() {
        many if many > MOST_CATEGORIES => {
            Kind::Other(format!("has {many} different texts; a model reads texts, name one with `--model`"))
        }
        _ => Kind::Categories(names.into_iter().collect()),
    })
}

impl Domains {
    /// Reads the columns that two tables share, or those that are named, without `leave`.
    ///
    /// # Errors
    /// A named column that one table lacks or that has too many different texts, a cell without a number among numbers, or no column
    /// that is left.
    pub fn read(source: &Table, target: &Table, named: &[String], leave: &[&str]) -> Result<Self> {
        let mut found = Self {
            features: vec![],
            source: Array2::zeros((source.len(), 0)),
            target: Array2::zeros((target.len(), 0)),
            columns: vec![],
            left_out: vec![],
        };
        let all: &[String] = if named.is_empty() { &source.columns } else { named };
        for name in all.iter().filter(|name| !leave.contains(&name.as_str())) {
            if named.is_empty() && target.column(name).is_err() {
                found.left_out.push((name.clone(), format!("is not in {}", target.file.display())));
                continue;
            }
            match kind([source, target], name)? {
                Kind::Numbers => found.add_numbers(name, source.numbers(name)?, target.numbers(name)?)?,
                Kind::Categories(names) => found.add_categories(name, &names, source, target)?,
                Kind::Other(why) if named.is_empty() => found.left_out.push((name.clone(), why)),
                Kind::Other(why) => return Err(Error::format(&source.file, format!("column `{name}` {why}"))),
            }
        }
        if named.is_empty() {
            let more =
                target.columns.iter().filter(|name| source.column(name).is_err() && !leave.contains(&name.as_str()));
            found.left_out.extend(more.map(|name| (name.clone(), format!("is not in {}", source.file.display()))));
        }
        if found.features.is_empty() {
            let why: Vec<String> = found.left_out.iter().map(|(name, why)| format!("`{name}` {why}")).collect();
            let what = format!("has no column to compare with {}: {}", target.file.display(), why.join(", "));
            return Err(Error::format(&source.file, what));
        }
        Ok(found)
    }

    /// A model's features of the rows.
    fn of_model(loaded: &Loaded, source: &Opened, target: &Opened) -> Result<Self> {
        let rows = |opened: &Opened| -> Result<Vec<Vec<f64>>> {
            let inputs = Inputs::read(&opened.table, &opened.columns)?;
            let (left, right): (Encoded, _) = loaded.encode(&inputs, TaskKind::Auto)?;
            let prepared = Prepared { left, right, labels: None };
            train::features(loaded.model.as_ref(), &prepared, &(0..inputs.len()).collect::<Vec<_>>())
        };
        let (source, target) = (rows(source)?, rows(target)?);
        let mut found = Self {
            features: vec![],
            source: Array2::zeros((source.len(), 0)),
            target: Array2::zeros((target.len(), 0)),
            columns: vec![],
            left_out: vec![],
        };
        for at in 0..source.first().map_or(0, Vec::len) {
            let column = |rows: &[Vec<f64>]| rows.iter().map(|row| row[at]).collect();
            found.add_numbers(&format!("feature {}", at + 1), column(&source), column(&target))?;
        }
        Ok(found)
    }

    fn add_numbers(&mut self, name: &str, source: Vec<f64>, target: Vec<f64>) -> Result<()> {
        let spread = |of: &[f64]| {
            let mean = of.iter().sum::<f64>() / of.len().max(1) as f64;
            (mean, (of.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / of.len().max(1) as f64).sqrt())
        };
        let (mean, own) = spread(&source);
        let scale = if own > 0.0 { own } else { spread(&[source.as_slice(), &target].concat()).1 };
        if scale == 0.0 {
            self.left_out.push((name.to_owned(), "never changes".to_owned()));
            return Ok(());
        }
        self.push(name, |row| (source[row] - mean) / scale, |row| (target[row] - mean) / scale)?;
        self.columns.push((name.to_owned(), Column::Numbers { source, target }));
        Ok(())
    }

    fn add_categories(&mut self, name: &str, names: &[String], source: &Table, target: &Table) -> Result<()> {
        if names.len() < 2 {
            self.left_out.push((name.to_owned(), "never changes".to_owned()));
            return Ok(());
        }
        let of = |table: &Table| -> Result<Vec<usize>> {
            let at = table.column(name)?;
            let place = |row: &Vec<Value>| names.binary_search(&row[at].text().unwrap_or_default());
            Ok(table.rows.iter().map(|row| place(row).expect("all texts are among the names")).collect())
        };
        let (source, target) = (of(source)?, of(target)?);
        // Two categories are one column.
        for (category, text) in names.iter().enumerate().skip(usize::from(names.len() == 2)) {
            let is = |of: &[usize], row: usize| f64::from(u8::from(of[row] == category));
            self.push(&format!("{name}={text}"), |row| is(&source, row), |row| is(&target, row))?;
        }
        self.columns.push((name.to_owned(), Column::Categories { source, target, count: names.len() }));
        Ok(())
    }

    fn push(&mut self, name: &str, source: impl Fn(usize) -> f64, target: impl Fn(usize) -> f64) -> Result<()> {
        let add = |to: &mut Array2<f64>, from: &dyn Fn(usize) -> f64| {
            let column = (0..to.nrows()).map(from).collect::<ndarray::Array1<f64>>();
            to.push_column(column.view())
        };
        add(&mut self.source, &source)
            .and_then(|()| add(&mut self.target, &target))
            .map_err(|e| Error::Other(format!("column `{name}`: {e}")))?;
        self.features.push(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn table(name: &str, text: &str) -> Table {
        let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let columns = lines.next().unwrap();
        let cell = |text: String| if text.is_empty() { Value::Null } else { Value::Text(text) };
        let rows = lines.map(|cells| cells.into_iter().map(cell).collect()).collect();
        Table { file: PathBuf::from(name), columns, rows }
    }

    #[test]
    fn numbers_are_put_on_the_scale_of_the_source() {
        let found = Domains::read(&table("a", "x,y\n0,1\n2,0"), &table("b", "x,y\n5,1"), &[], &["y"]).unwrap();
        assert_eq!((found.features, found.source.into_raw_vec_and_offset().0), (vec!["x".to_owned()], vec![-1.0, 1.0]));
        assert_eq!(found.target[[0, 0]], 4.0);
    }

    #[test]
    fn categories_are_columns_of_zeros_and_ones() {
        let found = Domains::read(&table("a", "c,d\nu,k\nv,l\n,l"), &table("b", "c,d\nw,k"), &[], &[]).unwrap();
        assert_eq!(found.features, ["c=", "c=u", "c=v", "c=w", "d=l"]);
        assert_eq!(found.target.row(0).to_vec(), [0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!(matches!(&found.columns[0].1, Column::Categories { count: 4, .. }));
    }

    #[test]
    fn what_cannot_be_compared_is_told() {
        let (a, b) = (table("a.csv", "x,one\n1,2\n3,4"), table("b.csv", "x,other\n5,6"));
        let found = Domains::read(&a, &b, &[], &[]).unwrap();
        let told: Vec<String> = found.left_out.iter().map(|(name, why)| format!("{name} {why}")).collect();
        assert_eq!(told, ["one is not in b.csv", "other is not in a.csv"]);
        let error = Domains::read(&a, &table("b.csv", "x\n"), &["y".to_owned()], &[]).unwrap_err().to_string();
        assert!(error.contains("unknown column `y`"), "{error}");
        let error = Domains::read(&table("a.csv", "x\n1\n\n"), &b, &[], &[]).unwrap_err().to_string();
        assert!(error.starts_with("a.csv: row 2, column `x`: is empty"), "{error}");
        let error = Domains::read(&table("a.csv", "x\n1\n1"), &table("b.csv", "x\n1"), &[], &[]).unwrap_err();
        assert_eq!(error.to_string(), "a.csv: has no column to compare with b.csv: `x` never changes");
    }
}
