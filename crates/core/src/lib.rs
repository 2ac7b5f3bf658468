//! Traits, sites, patches, cards and errors: what every part of acclimate shares.
//!
//! A [`Model`] never changes; a [`Patch`] does. A model calls the [`Pass`] at its [`Site`]s and knows no method; a method knows
//! sites and no model.
extern crate self as acclimate_core;

mod adapter;
mod cache;
mod card;
mod checkpoint;
mod error;
mod fields;
mod files;
mod form;
mod gguf;
mod model;
mod norm;
mod optimiser;
mod pass;
mod patch;
mod rng;
mod seq;
mod site;
mod stored;
mod tensor;
mod torch;

pub use acclimate_kernels::{Activation, Format, Matrix, Packed, Visible, moments};
pub use acclimate_macros::{Fields, Method, Record};
pub use adapter::{
    ActivationAdapter, Adapter, Affine, AnyActivation, AnyTokens, AnyWeight, Here, Place, TokenAdapter, WeightAdapter,
};
pub use cache::Cache;
pub use card::{Card, Entry, Method, Need, ParamInfo, Promise, find};
pub use checkpoint::{Checkpoint, StoredTensor, TensorWriter};
pub use error::{Error, Result, nearest};
pub use fields::{Bag, Fields, Record, RecordReader, RecordWriter, Slots};
pub use files::{read_safetensors, remove_unfinished, write_safetensors, write_safetensors_unflushed, write_whole};
pub use form::{PatchFolder, PeftForm, PeftTensor, PeftType};
pub use gguf::{Gguf, GgufTensor};
pub use model::{Inputs, Model, Outputs, Tokens};
pub use norm::{Batch, BatchNorm, Moments, Normaliser, Recording, Source};
pub use optimiser::{AnyOptimiser, AnyState, At, Edit, Evaluate, Optimiser, Step};
pub use pass::Pass;
pub use patch::{HeadStart, Part, Patch, affine_at, affine_of};
pub use rng::Rng;
pub use seq::Seq;
pub use site::{Padding, Role, Site, SiteKind, Targets, matches};
pub use stored::{Stored, decode, encode};
pub use tensor::{AnyTensor, Params, total, totals, wide};
