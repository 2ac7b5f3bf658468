//! How much a calibration row counts for a new row.

use acclimate_core::{Card, Method, Result};
use std::fmt::Debug;

/// What is known of a row beside its answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The group it belongs to.
    pub group: usize,
    /// The density of the target over that of the source at the row.
    pub ratio: f64,
    /// Its class, or the one it is asked about.
    pub class: Option<usize>,
}

impl Default for Row {
    fn default() -> Self {
        Self { group: 0, ratio: 1.0, class: None }
    }
}

/// Where a row stands: rows of other cells do not count for it, those of its own by their weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The cell.
    pub cell: usize,
    /// Its weight.
    pub weight: f64,
}

/// A method that says how calibration rows count for a new one. The guarantee is that of the weighted rank within a cell.
pub trait Exchange: Method {
    /// Where a row stands that has, or might have, this class.
    ///
    /// # Errors
    /// When something is not known of the row, with the remedy.
    fn place(&self, row: &Row) -> Result<Place>;
}

/// [`Exchange`] with its type erased.
pub trait AnyExchange: Debug + Send + Sync {
    /// The method's card.
    fn card(&self) -> Card;
    /// The method's settings.
    fn settings(&self) -> toml::Table;
    /// See [`Exchange::place`].
    ///
    /// # Errors
    /// The method's own.
    fn place_any(&self, row: &Row) -> Result<Place>;
}

impl<M: Exchange> AnyExchange for M {
    fn card(&self) -> Card {
        M::CARD
    }
    fn settings(&self) -> toml::Table {
        self.to_table()
    }
    fn place_any(&self, row: &Row) -> Result<Place> {
        self.place(row)
    }
}

/// Where a row stands; without a method all stand in one cell and count alike.
pub(super) fn place(by: Option<&dyn AnyExchange>, row: Option<&Row>, class: Option<usize>) -> Result<Place> {
    let row = row.copied().unwrap_or_default();
    let row = Row { class: class.or(row.class), ..row };
    by.map_or(Ok(Place { cell: 0, weight: 1.0 }), |by| by.place_any(&row))
}

/// The calibration rows of each cell and their weights.
pub(super) type Cells = std::collections::BTreeMap<usize, (Vec<usize>, Vec<f64>)>;

/// The calibration rows of each cell and their weights; a row's class is its own.
pub(super) fn cells(
    by: Option<&dyn AnyExchange>,
    rows: &[Row],
    count: usize,
    class: impl Fn(usize) -> Option<usize>,
) -> Result<Cells> {
    let mut cells = Cells::new();
    for row in 0..count {
        let place = place(by, rows.get(row), class(row))?;
        let (members, weights) = cells.entry(place.cell).or_default();
        members.push(row);
        weights.push(place.weight);
    }
    Ok(cells)
}

/// Refuses a list about rows that is neither empty nor as long as the rows.
pub(super) fn same_length(who: &str, what: &str, got: usize, rows: usize) -> Result<()> {
    if got == rows {
        return Ok(());
    }
    let what = format!("{who}: {what}");
    Err(acclimate_core::Error::Shape { what, expected: format!("[{rows}]"), got: vec![got] })
}
