//! A Gaussian of features for each class, and how far features are from it.

use crate::prototypes::Labelled;
use acclimate_core::{Error, Params, Result};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which covariance belongs to a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Covariance {
    /// One for each class: classes × width² numbers.
    #[default]
    Full,
    /// The same for all classes, of the features' distance from their class's mean: width² numbers.
    Tied,
    /// A variance for each class and feature: classes × width numbers.
    Diagonal,
}

/// Means and what whitens distances from them: the inverse of the covariance's lower Cholesky factor.
const MEANS: &str = "means";
const WHITENING: &str = "whitening";

/// Measures the Gaussians as tensors `means` and `whitening`. A covariance gets `shrinkage` times its mean variance on the diagonal.
///
/// # Errors
/// When `who` has too few rows for a covariance.
pub(crate) fn measure(who: &str, seen: &Labelled, covariance: Covariance, shrinkage: f64) -> Result<Params> {
    let (means, width) = (seen.means(), seen.width);
    let centred = |class: usize| -> Vec<f64> {
        let mean = &means[class * width..][..width];
        seen.rows(class).flat_map(|row| row.iter().zip(mean).map(|(x, mean)| x - mean)).collect()
    };
    let thin = |what: String| Error::Unsupported {
        who: who.to_owned(),
        what: format!("measure the covariance of {what}: its rows do not vary"),
        instead: "give more reference rows, or take `covariance = \"tied\"`".to_owned(),
    };
    let whitened =
        |rows: &[f64], what: String| whitening(&spread(rows, width), width, shrinkage).ok_or_else(|| thin(what));
    let (whitening, shape) = match covariance {
        Covariance::Full => {
            let each = (0..seen.of).map(|class| whitened(&centred(class), format!("class {class}")));
            (each.collect::<Result<Vec<_>>>()?.concat(), vec![seen.of, width, width])
        }
        Covariance::Tied => {
            let all: Vec<f64> = (0..seen.of).flat_map(centred).collect();
            (whitened(&all, "all classes".to_owned())?, vec![width, width])
        }
        Covariance::Diagonal => {
            let each = (0..seen.of).map(|class| {
                let rows = centred(class);
                let count = (rows.len() / width) as f64;
                let variances: Vec<f64> = (0..width)
                    .map(|at| rows.iter().skip(at).step_by(width).map(|x| x * x).sum::<f64>() / count)
                    .collect();
                let added = shrinkage * variances.iter().sum::<f64>() / width as f64;
                let scales: Vec<f64> = variances.iter().map(|variance| (variance + added).sqrt().recip()).collect();
                if scales.iter().all(|x| x.is_finite()) { Ok(scales) } else { Err(thin(format!("class {class}"))) }
            });
            (each.collect::<Result<Vec<_>>>()?.concat(), vec![seen.of, width])
        }
    };
    let mut gaussians = Params::default();
    gaussians.insert(MEANS, seen.tensor(means.clone(), &[seen.of, width]));
    gaussians.insert(WHITENING, seen.tensor(whitening, &shape));
    Ok(gaussians)
}

/// The squared Mahalanobis distance of each row of features from each class, `[rows, classes]`.
///
/// # Errors
/// When the tensors are not those of [`measure`] for this covariance.
pub(crate) fn distances(gaussians: &Params, covariance: Covariance, features: &Tensor<2>) -> Result<Tensor<2>> {
    let means: Tensor<2> = gaussians.get(MEANS)?;
    let [classes, width] = means.dims();
    let of_class = |class: usize| -> Result<Tensor<2>> {
        let away = features.clone() - means.clone().narrow(0, class, 1);
        let white = match covariance {
            Covariance::Full => {
                let own = gaussians.get::<3>(WHITENING)?.narrow(0, class, 1).reshape([width, width]);
                away.matmul(own.transpose())
            }
            Covariance::Tied => away.matmul(gaussians.get::<2>(WHITENING)?.transpose()),
            Covariance::Diagonal => away * gaussians.get::<2>(WHITENING)?.narrow(0, class, 1),
        };
        Ok(white.square().sum_dim(1))
    };
    Ok(Tensor::cat((0..classes).map(of_class).collect::<Result<Vec<_>>>()?, 1))
}

/// The covariance of centred rows, divided by their number, `[width, width]`.
fn spread(rows: &[f64], width: usize) -> Vec<f64> {
    let count = (rows.len() / width) as f64;
    let mut sum = vec![0.0; width * width];
    for row in rows.chunks(width) {
        for (a, out) in row.iter().zip(sum.chunks_mut(width)) {
            out.iter_mut().zip(row).for_each(|(out, b)| *out += a * b / count);
        }
    }
    sum
}

/// The inverse of the lower Cholesky factor of a covariance with `shrinkage` of its mean variance added; none where that is singular.
fn whitening(covariance: &[f64], width: usize, shrinkage: f64) -> Option<Vec<f64>> {
    let at = |row: usize, column: usize| row * width + column;
    let added = shrinkage * (0..width).map(|i| covariance[at(i, i)]).sum::<f64>() / width as f64;
    let mut factor = vec![0.0; width * width];
    for i in 0..width {
        for j in 0..=i {
            let inner: f64 = (0..j).map(|k| factor[at(i, k)] * factor[at(j, k)]).sum();
            let rest = covariance[at(i, j)] + if i == j { added } else { 0.0 } - inner;
            factor[at(i, j)] = if i == j { rest.sqrt() } else { rest / factor[at(j, j)] };
        }
        // A rest of nothing or less has no root to divide by.
        if factor[at(i, i)].is_nan() || factor[at(i, i)] <= 0.0 {
            return None;
        }
    }
    let mut inverse = vec![0.0; width * width];
    for column in 0..width {
        for row in column..width {
            let unit = f64::from(u8::from(row == column));
            let inner: f64 = (column..row).map(|k| factor[at(row, k)] * inverse[at(k, column)]).sum();
            inverse[at(row, column)] = (unit - inner) / factor[at(row, row)];
        }
    }
    inverse.iter().all(|x| x.is_finite()).then_some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use acclimate_core::{AnyTensor, Rng};
    use burn::tensor::{DType, Device};

    const ALL: [Covariance; 3] = [Covariance::Full, Covariance::Tied, Covariance::Diagonal];

    /// Forty rows of three features, of two classes in turn.
    fn rows() -> Vec<f64> {
        let mut rng = Rng::new(0, "features", 0);
        (0..120).map(|at| rng.normal() * f64::from(1 + at % 3) + f64::from(at / 3 % 2)).collect()
    }

    fn labelled(features: Vec<f64>) -> Labelled {
        let classes = (0..features.len() / 3).map(|row| row % 2).collect();
        Labelled { features, width: 3, classes, of: 2, dtype: DType::F64, device: Device::flex() }
    }

    fn away(features: Vec<f64>, covariance: Covariance, shrinkage: f64) -> Vec<f64> {
        let seen = labelled(features);
        let gaussians = measure("me", &seen, covariance, shrinkage).unwrap();
        let features = seen.tensor(seen.features.clone(), &[seen.classes.len(), 3]).get().unwrap();
        AnyTensor::from(distances(&gaussians, covariance, &features).unwrap()).to_f64s()
    }

    #[test]
    fn rows_are_as_far_from_their_class_as_features_are_many() {
        for covariance in ALL {
            let away = away(rows(), covariance, 0.0);
            let own: f64 = (0..40).map(|row| away[2 * row + row % 2]).sum();
            // The mean of what a covariance whitens, with its own divisor.
            assert!((own / 40.0 - 3.0).abs() < 1e-12, "{covariance:?}: {own}");
        }
    }

    #[test]
    fn distances_do_not_change_with_an_affine_map() {
        let mapped: Vec<f64> = rows()
            .chunks(3)
            .flat_map(|x| [2.0 * x[0] - x[1] + 1.0, x[1] + 0.5 * x[2], 3.0 * x[2] - x[0] - 7.0])
            .collect();
        for covariance in [Covariance::Full, Covariance::Tied] {
            let (before, after) = (away(rows(), covariance, 0.0), away(mapped.clone(), covariance, 0.0));
            assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-10), "{covariance:?}");
        }
    }

    #[test]
    fn much_shrinkage_is_euclidean() {
        let shrunk = away(rows(), Covariance::Full, 1e9);
        let seen = labelled(rows());
        let means = seen.means();
        let ratio = |row: usize, class: usize| {
            let x = &seen.features[3 * row..][..3];
            let squared: f64 = x.iter().zip(&means[3 * class..]).map(|(x, mean)| (x - mean).powi(2)).sum();
            shrunk[2 * row + class] / squared
        };
        for class in 0..2 {
            assert!((0..40).all(|row| (ratio(row, class) / ratio(0, class) - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn rows_that_do_not_vary_are_refused() {
        for covariance in ALL {
            let refused = measure("me", &labelled(vec![1.0; 12]), covariance, 0.1).err().unwrap().to_string();
            assert!(refused.contains("more reference rows"), "{refused}");
        }
    }
}
