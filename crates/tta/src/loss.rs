//! Losses without labels.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// The loss of a row that a filter or a selection of layers works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The entropy of the prediction.
    #[default]
    Entropy,
    /// The cross-entropy with the likeliest class.
    PseudoLabel,
}

impl Objective {
    /// The loss of each row.
    pub(crate) fn of(self, logits: Tensor<2>) -> Tensor<1> {
        match self {
            Self::Entropy => entropy(logits),
            Self::PseudoLabel => likeliest(logits).neg(),
        }
    }
}

/// The entropy of each row's softmax, `H = −Σₖ pₖ·log pₖ`: `[batch, classes]` to `[batch]`. Its gradient is `−pₖ·(log pₖ + H)`.
pub fn entropy(logits: Tensor<2>) -> Tensor<1> {
    let log = activation::log_softmax(logits, 1);
    (log.clone().exp() * log).sum_dim(1).squeeze_dim::<1>(1).neg()
}

/// The log-probability of each row's likeliest class; no gradient flows through the choice.
pub(crate) fn likeliest(logits: Tensor<2>) -> Tensor<1> {
    let choice = logits.clone().argmax(1);
    activation::log_softmax(logits, 1).gather(1, choice).squeeze_dim::<1>(1)
}

/// The cross-entropy of each row's softmax with that of the target, `−Σₖ softmax(t)ₖ·log softmax(z)ₖ`.
pub(crate) fn cross_entropy(target: Tensor<2>, logits: Tensor<2>) -> Tensor<1> {
    (activation::softmax(target, 1) * activation::log_softmax(logits, 1)).sum_dim(1).squeeze_dim::<1>(1).neg()
}

/// `(1 − r)·CE(t, z) + r·CE(z, t)`: the cross-entropy with a target and, by the share `reverse`, that of the target with the prediction.
pub(crate) fn symmetric(target: Tensor<2>, logits: Tensor<2>, reverse: f64) -> Tensor<1> {
    let forth = cross_entropy(target.clone(), logits.clone());
    if reverse == 0.0 {
        return forth;
    }
    forth * (1.0 - reverse) + cross_entropy(logits, target) * reverse
}

/// The entropy of the mean prediction, one number.
pub(crate) fn mean_entropy(logits: Tensor<2>) -> Tensor<1> {
    let mean = activation::softmax(logits, 1).mean_dim(0);
    // A class that underflows has no share: 0·log 0 = 0.
    let log = mean.clone().clamp_min(f64::from(f32::MIN_POSITIVE)).log();
    (mean * log).sum().neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::AnyTensor;
    use burn::tensor::{DType, Device, TensorData};

    fn logits(rows: [[f64; 3]; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(rows), (&Device::flex(), DType::F64))
    }

    fn gradient(rows: [[f64; 3]; 2]) -> Vec<f64> {
        let z = logits(rows).autodiff().require_grad();
        let mut tape = entropy(z.clone()).sum().backward();
        AnyTensor::from(z.grad_remove(&mut tape).unwrap()).to_f64s()
    }

    #[test]
    fn the_gradient_is_the_closed_form() {
        let rows: [[f64; 3]; 2] = [[0.3, -1.2, 2.0], [5.0, 4.0, -3.0]];
        let expected: Vec<f64> = rows
            .iter()
            .flat_map(|row| {
                let sum: f64 = row.iter().map(|z| z.exp()).sum();
                let p: Vec<f64> = row.iter().map(|z| z.exp() / sum).collect();
                let h: f64 = -p.iter().map(|p| p * p.ln()).sum::<f64>();
                p.into_iter().map(move |p| -p * (p.ln() + h))
            })
            .collect();
        // A dozen roundings in f64 of numbers below ten.
        assert!(gradient(rows).iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-14), "{expected:?}");
    }

    #[test]
    fn equal_logits_have_the_log_of_their_number_and_no_gradient() {
        let rows = [[0.7; 3], [-40.0; 3]];
        let h = AnyTensor::from(entropy(logits(rows))).to_f64s();
        assert!(h.iter().all(|h| (h - 3f64.ln()).abs() < 1e-15), "{h:?}");
        assert!(gradient(rows).iter().all(|g| g.abs() < 1e-15));
    }

    #[test]
    fn certain_rows_have_none_of_either() {
        let rows = [[1e4, 0.0, 0.0], [0.0, 0.0, 800.0]];
        assert_eq!(AnyTensor::from(entropy(logits(rows))).to_f64s(), [0.0, 0.0]);
        assert!(gradient(rows).iter().all(|g| *g == 0.0));
    }

    #[test]
    fn half_of_each_direction_is_symmetric_and_the_entropy_of_equals() {
        let (a, b) = (logits([[0.3, -1.2, 2.0], [5.0, 4.0, -3.0]]), logits([[1.0, 0.0, -1.0], [0.5, 2.0, 2.5]]));
        let numbers = |x: Tensor<1>| AnyTensor::from(x).to_f64s();
        let near = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-13);
        assert!(near(numbers(symmetric(a.clone(), b.clone(), 0.5)), numbers(symmetric(b.clone(), a.clone(), 0.5))));
        assert!(near(numbers(symmetric(a.clone(), a.clone(), 0.5)), numbers(entropy(a.clone()))));
        // What a cross-entropy has above the entropy of its target is a divergence.
        let above = numbers(cross_entropy(a.clone(), b) - entropy(a));
        assert!(above.iter().all(|x| *x > 0.0), "{above:?}");
    }
}
