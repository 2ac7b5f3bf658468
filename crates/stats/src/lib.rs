//! Statistics on matrices of 64-bit floats: what the families below the façade share and what stands on its own.
//!
//! Rows are samples and columns are features, in `ndarray` matrices. [`linalg`] holds the factorisations, [`learn`] learners that take
//! weights of rows, [`transport`] optimal transport, [`conformal`] intervals and sets with guaranteed coverage on [`quantile`]s, [`kernel`]
//! kernels, [`mixture`] densities, [`qp`] quadratic programs, [`two_sample`] tests. [`ESTIMATORS`] lists what has a form of its own.

pub mod conformal;
mod estimator;
pub mod kernel;
pub mod learn;
pub mod linalg;
pub mod mixture;
pub mod qp;
pub mod quantile;
mod quantile_process;
mod random_features;
mod sketched;
pub mod transport;
pub mod two_sample;

pub use estimator::{AnyEstimator, Estimator};
pub use quantile_process::{FittedProcess, Requ};
pub use random_features::{Coupling, DrawnFeatures, Kernel, Rotation};
pub use sketched::{FittedSketched, Sketch};

acclimate_core::methods! {
    /// All estimators with a form of their own.
    pub static ESTIMATORS: dyn AnyEstimator = [quantile_process::QuantileProcess, random_features::RandomFeatures, sketched::Sketched];
}
