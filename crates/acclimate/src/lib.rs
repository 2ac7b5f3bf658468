//! Adapt pre-trained models: a frozen model, a patch, and no learning rate to set.
//!
//! This crate joins the families: recipes, data, tasks, training, the gate and reports. See `examples/` for a user's own model.
pub mod align;
pub mod bench;
pub mod catalogue;
mod checkpoint;
pub mod compare;
mod convert;
pub mod dataset;
pub mod diagnose;
mod doctor;
pub mod domains;
pub mod encode;
pub mod events;
pub mod gate;
pub mod interval;
pub mod live;
pub mod merge;
mod nan;
mod page;
pub mod probe;
pub mod quickstart;
pub mod recipe;
pub mod report;
pub mod run;
pub mod saved;
pub mod stream;
pub mod tasks;
pub mod train;
pub mod tune;
pub mod write;

pub use acclimate_core as core;
pub use acclimate_data::metrics::over_seeds;
pub use acclimate_models as models;
pub use acclimate_optim as optim;
pub use acclimate_peft as peft;
pub use acclimate_shift as shift;
pub use acclimate_stats as stats;
pub use acclimate_tta as tta;
pub use catalogue::{CardView, Evidence, Family, catalogue};
pub use convert::{Conversion, Ranks, SiteLoss, to_lora};
pub use doctor::doctor;
pub use recipe::Recipe;
pub use report::Report;
