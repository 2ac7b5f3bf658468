//! Optimisers over a whole parameter set
