//! The problem of the golden runs, which the laws are held on too.
#![allow(clippy::unwrap_used, dead_code)] // a panic is how a test fails; each test file uses its part

use acclimate_core::{AnyOptimiser, AnyTensor, Params, Role};
use acclimate_optim::{Host, HostSettings, Objective};
use burn::tensor::{DType, Device};
use serde_json::Value;

/// f(x) = ½ Σ a (x − c)² + mean log(1 + exp(−y ⟨w, x⟩)), with x all leaves one after another.
pub(crate) struct Problem {
    pub(crate) start: Params,
    pub(crate) a: Vec<f64>,
    pub(crate) c: Vec<f64>,
    pub(crate) w: Vec<Vec<f64>>,
    pub(crate) y: Vec<f64>,
    pub(crate) multipliers: Vec<f64>,
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

pub(crate) fn tensor(value: &Value) -> AnyTensor {
    let shape: Vec<usize> = numbers(&value["shape"]).iter().map(|&n| n as usize).collect();
    AnyTensor::from_f64s(numbers(&value["data"]), &shape, DType::F64, &Device::flex())
}

pub(crate) fn tensors(value: &Value) -> Params {
    let mut params = Params::default();
    for (name, value) in value.as_object().unwrap() {
        params.insert(name, tensor(value));
    }
    params
}

pub(crate) fn flat(params: &Params) -> Vec<f64> {
    params.iter().flat_map(|(_, tensor)| tensor.to_f64s()).collect()
}

pub(crate) fn like(params: &Params, values: &[f64]) -> Params {
    let mut at = 0;
    params.map(|_, tensor| {
        let part = values[at..at + tensor.count()].to_vec();
        at += tensor.count();
        AnyTensor::from_f64s(part, &tensor.shape(), DType::F64, &Device::flex())
    })
}

impl Problem {
    pub(crate) fn read(inputs: &Value) -> Self {
        let width = inputs["w"]["shape"][1].as_u64().unwrap() as usize;
        Self {
            start: tensors(&inputs["params"]),
            a: numbers(&inputs["a"]["data"]),
            c: numbers(&inputs["c"]["data"]),
            w: numbers(&inputs["w"]["data"]).chunks(width).map(<[f64]>::to_vec).collect(),
            y: numbers(&inputs["y"]["data"]),
            multipliers: numbers(&inputs["lr_multiplier"]),
        }
    }

    /// The quadratic of the catalogue's table, x₀ = 0.
    pub(crate) fn quadratic(a: &[f64], c: &[f64], steps: usize) -> Self {
        let mut start = Params::default();
        start.insert("x", AnyTensor::from_f64s(vec![0.0; a.len()], &[a.len()], DType::F64, &Device::flex()));
        let (a, c) = (a.to_vec(), c.to_vec());
        Self { start, a, c, w: vec![], y: vec![], multipliers: vec![1.0; steps] }
    }

    pub(crate) fn loss_and_gradient(&self, params: &Params) -> (f64, Params) {
        let x = flat(params);
        let mut gradient: Vec<f64> = x.iter().zip(&self.a).zip(&self.c).map(|((x, a), c)| a * (x - c)).collect();
        let mut loss: f64 = x.iter().zip(&self.a).zip(&self.c).map(|((x, a), c)| 0.5 * a * (x - c).powi(2)).sum();
        let rows = self.w.len() as f64;
        for (w, y) in self.w.iter().zip(&self.y) {
            let margin = -y * w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
            loss += margin.exp().ln_1p() / rows;
            let slope = -y / (1.0 + (-margin).exp()) / rows;
            gradient.iter_mut().zip(w).for_each(|(g, w)| *g += slope * w);
        }
        (loss, like(params, &gradient))
    }

    /// The points before the first step and after each.
    pub(crate) fn run(&self, optimiser: &dyn AnyOptimiser, settings: HostSettings, roles: Vec<Role>) -> Vec<Point> {
        let mut host = Host::over(optimiser, settings, &self.start, roles).unwrap();
        let point = |host: &Host, params: Params| Point {
            evaluated: host.evaluate(optimiser, &params),
            params,
            log: host.report(optimiser),
        };
        let mut path = vec![point(&host, self.start.clone())];
        for &multiplier in &self.multipliers {
            let last = &path[path.len() - 1].params;
            let evaluate = |x: &Params| Ok(self.loss_and_gradient(x));
            let (loss, gradient) = self.loss_and_gradient(last);
            let objective = Objective { loss, again: Some(&evaluate) };
            let next = host.step(optimiser, last, &gradient, multiplier, objective).unwrap();
            path.push(point(&host, next));
        }
        path
    }

    pub(crate) fn plain(&self, optimiser: &dyn AnyOptimiser) -> Vec<Point> {
        self.run(optimiser, HostSettings::default(), vec![Role::Other; self.start.len()])
    }
}

/// Where a run stands.
pub(crate) struct Point {
    pub(crate) params: Params,
    /// What the method would evaluate with.
    pub(crate) evaluated: Params,
    /// What it reports, the rate it found for itself first.
    pub(crate) log: Vec<(String, f64)>,
}

impl Point {
    /// The rate the method found for itself.
    pub(crate) fn d(&self) -> f64 {
        self.log[0].1
    }
}

/// How far `got` is from `expected`, as a share of one more than its size.
pub(crate) fn distance(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(g, e)| (g - e).abs() / (1.0 + e.abs())).fold(0.0, f64::max)
}
