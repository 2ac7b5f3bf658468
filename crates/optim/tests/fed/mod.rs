//! Runs on gradients that do not depend on the point.
#![allow(clippy::unwrap_used, dead_code)] // a panic is how a test fails; each test file uses its part

use crate::common::flat;
use acclimate_core::{AnyOptimiser, AnyTensor, Params, Rng, Role};
use acclimate_optim::{Host, HostSettings};
use burn::tensor::{DType, Device};

pub(crate) fn single(name: &str, shape: &[usize], values: Vec<f64>) -> Params {
    let mut params = Params::default();
    params.insert(name, AnyTensor::from_f64s(values, shape, DType::F64, &Device::flex()));
    params
}

/// Where one vector stands before the first of some gradients and after each, whatever the point.
pub(crate) fn fed(optimiser: &dyn AnyOptimiser, gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = gradients[0].len();
    let mut x = single("x", &[width], vec![0.0; width]);
    let mut host = Host::over(optimiser, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    let mut path = vec![flat(&x)];
    for g in gradients {
        x = host.step(optimiser, &x, &single("x", &[width], g.clone()), 1.0, 0.0).unwrap();
        path.push(flat(&x));
    }
    path
}

pub(crate) fn random(seed: u64, steps: usize, width: usize) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(seed, "gradients", 0);
    (0..steps).map(|_| (0..width).map(|_| rng.normal()).collect()).collect()
}

/// The longest move of any coordinate in any step.
pub(crate) fn longest(path: &[Vec<f64>]) -> f64 {
    let moves = path.windows(2).flat_map(|pair| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b).abs()));
    moves.fold(0.0, f64::max)
}

/// As `fed`, with one matrix.
pub(crate) fn fed_matrix(optimiser: &dyn AnyOptimiser, shape: [usize; 2], gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut x = single("x", &shape, vec![0.0; shape[0] * shape[1]]);
    let mut host = Host::over(optimiser, HostSettings::default(), &x, vec![Role::Other]).unwrap();
    let mut path = vec![flat(&x)];
    for g in gradients {
        x = host.step(optimiser, &x, &single("x", &shape, g.clone()), 1.0, 0.0).unwrap();
        path.push(flat(&x));
    }
    path
}
