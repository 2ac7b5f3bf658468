//! Tables, splits, tokenisers, metrics and the asset cache
mod assets;
mod dictd;
mod images;
pub mod metrics;
mod rdata;
mod source;
pub mod split;
mod table;
mod task;
mod tokens;

pub use assets::{Asset, AssetFile, AssetKind, AssetTable, Assets, Client, Made, Presence};
pub use images::{Channels, Idx, Image, MAX_SIDE};
pub use source::Source;
pub use table::{Encoding, MAX_BYTES, MAX_CELL, MAX_COLUMNS, MAX_ROWS, ReadOptions, Table, Value};
pub use task::{
    Columns, Examples, IMAGE_NAMES, Inputs, Labels, PAIR_NAMES, TARGET_NAMES, TEXT_NAMES, Target, WORDS_NAMES,
};
pub use tokens::{Encoded, Padded, TokenRow, Tokenizer};
