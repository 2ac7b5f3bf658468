//! Statistics on matrices of 64-bit floats: what the families below the façade share and what stands on its own.
//!
//! Rows are samples and columns are features, in `ndarray` matrices. [`linalg`] holds the factorisations, [`learn`] learners that take
//! weights of rows, [`transport`] optimal transport, [`conformal`] intervals and sets with guaranteed coverage, [`kernel`] kernels, [`qp`]
//! quadratic programs.

pub mod conformal;
pub mod kernel;
pub mod learn;
pub mod linalg;
<<<<<<< HEAD
pub mod qp;
=======
pub mod mixture;
>>>>>>> main
pub mod transport;
