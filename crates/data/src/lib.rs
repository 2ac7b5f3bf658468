//! Tables, splits, tokenisers, metrics and the asset cache
pub mod metrics;
pub mod split;
mod table;
mod task;

pub use table::{Encoding, MAX_BYTES, MAX_CELL, MAX_COLUMNS, MAX_ROWS, ReadOptions, Table, Value};
pub use task::{
    Columns, Examples, IMAGE_NAMES, Inputs, Labels, PAIR_NAMES, TARGET_NAMES, TEXT_NAMES, Target, WORDS_NAMES,
};
