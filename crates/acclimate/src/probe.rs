//! The linear probe: a regularised linear model on the frozen features. It is always a candidate of the gate.

use crate::tasks::ProbeLoss;
use acclimate_core::{Error, Result};
use argmin::core::{CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use std::cell::RefCell;

/// Weights `[outputs][features]` and biases of a fitted probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// One row per output.
    pub weights: Vec<Vec<f64>>,
    /// One per output.
    pub biases: Vec<f64>,
    /// The penalty it was fitted with.
    pub penalty: f64,
}

/// Penalties tried, as factors of ½‖w‖²/n on standardised features.
pub const PENALTIES: [f64; 5] = [1.0, 10.0, 100.0, 1000.0, 10_000.0];

/// The mean loss of a linear model on standardised features plus ½·penalty/n·‖w‖², and its gradient.
struct Problem<'a> {
    features: &'a [Vec<f64>],
    targets: &'a [Vec<f64>],
    loss: ProbeLoss,
    ridge: f64,
    /// The last point with its cost and gradient: the solver asks for the two one after the other, and for the gradient again.
    last: RefCell<(Vec<f64>, f64, Vec<f64>)>,
}

impl<'a> Problem<'a> {
    fn new(features: &'a [Vec<f64>], targets: &'a [Vec<f64>], loss: ProbeLoss, ridge: f64) -> Self {
        Self { features, targets, loss, ridge, last: RefCell::default() }
    }

    fn at<T>(&self, p: &[f64], f: impl Fn(f64, &[f64]) -> T) -> T {
        let mut last = self.last.borrow_mut();
        if last.0 != p {
            let (cost, gradient) = self.evaluate(p);
            *last = (p.to_vec(), cost, gradient);
        }
        f(last.1, &last.2)
    }

    fn evaluate(&self, p: &[f64]) -> (f64, Vec<f64>) {
        let (n, d, k) = (self.features.len() as f64, self.features[0].len(), self.targets[0].len());
        let (mut cost, mut gradient) = (0.0, vec![0.0; p.len()]);
        let mut logits = vec![0.0; k];
        for (x, target) in self.features.iter().zip(self.targets) {
            for (j, logit) in logits.iter_mut().enumerate() {
                let w = &p[j * (d + 1)..][..=d];
                *logit = w[d] + w[..d].iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            }
            cost += self.residuals(&mut logits, target) / n;
            for (j, &residual) in logits.iter().enumerate() {
                let g = &mut gradient[j * (d + 1)..][..=d];
                let r = residual / n;
                g[..d].iter_mut().zip(x).for_each(|(g, x)| *g += r * x);
                g[d] += r;
            }
        }
        for j in 0..k {
            for i in 0..d {
                let at = j * (d + 1) + i;
                cost += 0.5 * self.ridge * p[at] * p[at];
                gradient[at] += self.ridge * p[at];
            }
        }
        (cost, gradient)
    }

    /// Turns logits into their gradients and gives the loss of one row.
    fn residuals(&self, logits: &mut [f64], target: &[f64]) -> f64 {
        match self.loss {
            ProbeLoss::Softmax => {
                let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let log_sum = most + logits.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
                let cost = logits.iter().zip(target).map(|(x, t)| t * (log_sum - x)).sum();
                logits.iter_mut().zip(target).for_each(|(x, t)| *x = (*x - log_sum).exp() - t);
                cost
            }
            ProbeLoss::Sigmoid => {
                let one = |x: &mut f64, t: f64| {
                    let cost = x.max(0.0) - *x * t + (-x.abs()).exp().ln_1p();
                    *x = 1.0 / (1.0 + (-*x).exp()) - t;
                    cost
                };
                logits.iter_mut().zip(target).map(|(x, &t)| one(x, t)).sum()
            }
            ProbeLoss::Squared => {
                logits.iter_mut().zip(target).for_each(|(x, t)| *x -= t);
                logits.iter().map(|r| 0.5 * r * r).sum()
            }
        }
    }
}

impl CostFunction for Problem<'_> {
    type Param = Vec<f64>;
    type Output = f64;
    fn cost(&self, p: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        Ok(self.at(p, |cost, _| cost))
    }
}

impl Gradient for Problem<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;
    fn gradient(&self, p: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        Ok(self.at(p, |_, gradient| gradient.to_vec()))
    }
}

/// Fits the probe with L-BFGS. `targets` are one-hot, 0/1 or standardised numbers, as the loss asks.
///
/// # Errors
/// When there are no rows, or the solver fails.
pub fn fit(features: &[Vec<f64>], targets: &[Vec<f64>], loss: ProbeLoss, penalty: f64) -> Result<Probe> {
    let (Some(first), Some(target)) = (features.first(), targets.first()) else {
        return Err(Error::Other("a probe needs at least one row".to_owned()));
    };
    let (n, d, k) = (features.len(), first.len(), target.len());
    let mean: Vec<f64> = (0..d).map(|i| features.iter().map(|x| x[i]).sum::<f64>() / n as f64).collect();
    // One scale for all features keeps the geometry the model gave them.
    let variance =
        features.iter().flat_map(|x| x.iter().zip(&mean).map(|(x, m)| (x - m) * (x - m))).sum::<f64>() / (n * d) as f64;
    let scale = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    let scaled: Vec<Vec<f64>> =
        features.iter().map(|x| x.iter().zip(&mean).map(|(x, m)| (x - m) / scale).collect()).collect();
    let problem = Problem::new(&scaled, targets, loss, penalty / n as f64);
    let failed = |e: argmin::core::Error| Error::Other(format!("the probe's solver failed: {e}"));
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10).with_tolerance_grad(1e-6).map_err(failed)?;
    let start = vec![0.0; k * (d + 1)];
    let found =
        Executor::new(problem, solver).configure(|state| state.param(start).max_iters(300)).run().map_err(failed)?;
    let p = found.state.get_best_param().ok_or_else(|| Error::Other("the probe's solver found nothing".to_owned()))?;
    let (mut weights, mut biases) = (vec![], vec![]);
    for row in p.chunks(d + 1) {
        let w: Vec<f64> = row[..d].iter().map(|w| w / scale).collect();
        biases.push(row[d] - w.iter().zip(&mean).map(|(w, m)| w * m).sum::<f64>());
        weights.push(w);
    }
    Ok(Probe { weights, biases, penalty })
}

impl Probe {
    /// `W·x + b` for every row.
    pub fn logits(&self, features: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let one = |x: &Vec<f64>| {
            let outputs = self.weights.iter().zip(&self.biases);
            outputs.map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).collect()
        };
        features.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::Rng;

    #[test]
    fn the_gradient_is_the_difference_quotient() {
        let mut rng = Rng::new(1, "probe", 0);
        let features: Vec<Vec<f64>> = (0..6).map(|_| (0..3).map(|_| rng.normal()).collect()).collect();
        let targets: Vec<Vec<f64>> = (0..6).map(|i| vec![f64::from(i % 2 == 0), f64::from(i % 2 == 1)]).collect();
        for loss in [ProbeLoss::Softmax, ProbeLoss::Sigmoid, ProbeLoss::Squared] {
            let problem = Problem::new(&features, &targets, loss, 0.1);
            let p: Vec<f64> = (0..8).map(|_| rng.normal()).collect();
            let gradient = problem.evaluate(&p).1;
            for i in 0..p.len() {
                let shifted = |by: f64| {
                    let mut q = p.clone();
                    q[i] += by;
                    problem.evaluate(&q).0
                };
                let quotient = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                assert!((gradient[i] - quotient).abs() < 1e-8, "{loss:?} {i}: {} {quotient}", gradient[i]);
            }
        }
    }

    #[test]
    fn ridge_regression_has_its_closed_form_in_one_dimension() {
        let features = vec![vec![-1.0], vec![0.0], vec![1.0]];
        let targets = vec![vec![-2.0], vec![0.0], vec![2.0]];
        // On features scaled by √(2/3): w = Σxy/(Σx² + penalty) = (4/s)/(3 + penalty), back-scaled by s.
        let s = (2.0f64 / 3.0).sqrt();
        let probe = fit(&features, &targets, ProbeLoss::Squared, 1.0).unwrap();
        assert!((probe.weights[0][0] - 4.0 / s / 4.0 / s).abs() < 1e-6, "{:?}", probe.weights);
        assert!(probe.biases[0].abs() < 1e-6);
    }
}
