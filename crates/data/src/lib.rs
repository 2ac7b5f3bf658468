//! Tables, splits, tokenisers, metrics and the asset cache
mod assets;
mod chat;
mod corruptions;
mod dictd;
mod frames;
mod images;
mod language;
pub mod metrics;
mod npz;
mod rdata;
mod scenario;
mod source;
pub mod split;
mod table;
mod task;
mod tokens;
mod vocabulary;

pub use assets::{Asset, AssetFile, AssetKind, AssetTable, Assets, Client, Made, Presence};
pub use chat::{ChatTemplate, Message};
pub use corruptions::{Corruption, DigitShift, Draws, corrupt, rotate};
pub use frames::{Frame, Frames};
pub use images::{Channels, Idx, Image, MAX_SIDE};
pub use language::Document;
pub use npz::NpyRows;
pub use scenario::{LabelOrder, Mixture, Scenario, Shift, Step};
pub use source::Source;
pub use table::{Encoding, MAX_BYTES, MAX_CELL, MAX_COLUMNS, MAX_ROWS, ReadOptions, Table, Value};
pub use task::{
    CHOICES_NAMES, COMPLETION_NAMES, Choices, Columns, Examples, IMAGE_NAMES, Inputs, Labels, MESSAGES_NAMES,
    PAIR_NAMES, PROMPT_NAMES, TARGET_NAMES, TEXT_NAMES, Target, WORDS_NAMES,
};
pub use tokens::{Encoded, Padded, Stream, TokenRow, Tokenizer};
