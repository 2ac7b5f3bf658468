//! Optimal transport between weighted samples.
