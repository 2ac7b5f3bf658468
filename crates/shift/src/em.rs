use crate::prior::{Answers, Calibration, PriorEstimate, Priors, Use, finish, reweigh, used};
use crate::{Align, Aligned, Host, Lesson, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::{learn::Labels, linalg};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

/// Finds the shares of classes under which the target's rows are likeliest, after calibrating the learner.
///
/// # Mathematics
/// With probabilities $f(x)$ under the source's shares $p$, the target's shares $q$ maximise
/// $$\ell(q) = \frac1m \sum_j \log \sum_c f_c(x'_j)\, \frac{q_c}{p_c} \qquad\text{by}\qquad
///   q_c \leftarrow \frac1m \sum_j \frac{f_c(x'_j)\, q_c / p_c}{\sum_d f_d(x'_j)\, q_d / p_d},$$
/// which begins at $q = p$, never lowers $\ell$, and ends when no share changes by more than `tolerance`. `calibrate` first fits
/// $f \leftarrow \operatorname{softmax}(a \log f + b)$ on answers to source rows that the learner has not seen (temperature with a bias for each
/// class). With $g_c = (f_c / p_c) / \sum_d f_d q_d / p_d$ the information $\frac1m \sum_j g g^\top$ on directions of sum zero gives
/// the covariance of $q$, for what the draw of the target alone leaves open; intervals are at 95 %.
///
/// # When to use
/// Label shift with a learner that can be calibrated: then no estimate varies less. Without calibration an overconfident learner draws $q$ far
/// off; take ELSA, or BBSE.
///
/// # Differences
/// The source's shares are those of its labels, as Saerens and others have it; a later program takes the mean of the calibrated answers,
/// which equals them when the calibration has a bias for each class. The answers, not the rows, are put right by default, as here the
/// probabilities are calibrated.
///
/// # Example
/// ```
/// use acclimate_shift::Em;
/// use acclimate_stats::learn::Labels;
/// use ndarray::array;
///
/// let y = Labels::Classes { of: vec![0, 0, 1, 1], count: 2 };
/// let source = array![[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4]];
/// let em = Em { calibrate: false, ..Em::default() };
/// let found = em.weights(source.view(), &y, array![[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]].view())?;
/// assert!(found.prior[0] > 0.5);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Saerens, Latinne and Decaestecker, *Adjusting the outputs of a classifier to new a priori probabilities*, Neural Computation 14, 2002,
/// doi:10.1162/089976602753284446. Alexandari, Kundaje and Shrikumar, *Maximum likelihood with bias-corrected calibration is hard-to-beat at
/// label shift adaptation*, ICML 2020, arXiv:1901.06852.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "em", title = "EM with BCTS", catalogue = [60], paper = "doi:10.1162/089976602753284446", year = 2002)]
#[method(needs(labels), case = "", case = "calibrate = false\nuse = \"rows\"")]
pub struct Em {
    /// Calibrates by temperature and a bias for each class first.
    pub calibrate: bool,
    /// Steps at most.
    #[method(min = 1)]
    pub steps: usize,
    /// The change of a share at which it ends.
    #[method(min = 0)]
    pub tolerance: f64,
    /// What the shares are used for: `rows` or `answers`.
    #[serde(rename = "use")]
    pub r#use: Use,
    /// Folds in which the learner answers source rows that it has not seen.
    #[method(min = 2)]
    pub folds: usize,
}

impl Default for Em {
    fn default() -> Self {
        Self { calibrate: true, steps: 10_000, tolerance: 1e-10, r#use: Use::Answers, folds: 5 }
    }
}

impl Em {
    /// The estimate from probabilities `[rows, classes]` alone; those of the source, by which they are calibrated, must come from fits that
    /// have not seen its rows.
    ///
    /// # Errors
    /// When sizes differ, numbers are not probabilities, or a class has no row in the source.
    pub fn weights(
        &self,
        source: ArrayView2<'_, f64>,
        labels: &Labels,
        target: ArrayView2<'_, f64>,
    ) -> Result<PriorEstimate> {
        Ok(self.fit(source, labels, target)?.0)
    }

    fn fit(
        &self,
        source: ArrayView2<'_, f64>,
        labels: &Labels,
        target: ArrayView2<'_, f64>,
    ) -> Result<(PriorEstimate, Option<Calibration>)> {
        let answers = Answers::new(Self::CARD.name, source, labels, target)?;
        let calibration = self.calibrate.then(|| Calibration::fit(source, labels)).transpose()?;
        let seen = match &calibration {
            Some(calibration) => calibration.apply(answers.target),
            None => answers.target.to_owned(),
        };
        let shares = answers.shares;
        let mut weights = vec![1.0; shares.len()];
        for _ in 0..self.steps {
            let mean = linalg::column_means(reweigh(seen.view(), &weights).view());
            let sum = mean.sum();
            let next: Vec<f64> = mean.iter().zip(&shares).map(|(mean, share)| mean / sum / share).collect();
            let moved = next.iter().zip(&weights).zip(&shares).map(|((a, b), share)| (a - b).abs() * share);
            let moved = moved.fold(0.0, f64::max);
            weights = next;
            if moved <= self.tolerance {
                break;
            }
        }
        Ok((information(&seen, &shares, weights)?, calibration))
    }
}

/// The estimate with the covariance that the information of the likelihood gives.
fn information(seen: &Array2<f64>, shares: &[f64], weights: Vec<f64>) -> Result<PriorEstimate> {
    let classes = shares.len();
    let (own, ratio) = (Array1::from(shares.to_vec()), Array1::from(weights.clone()));
    // A row that no class explains tells nothing.
    let likelihood = seen.dot(&ratio).mapv(|l| if l > 0.0 { l } else { f64::INFINITY });
    let slopes = &(seen / &own) / &likelihood.insert_axis(Axis(1));
    let full = linalg::product(slopes.t(), slopes.view());
    // Directions of sum zero: the columns of an orthonormal basis beside the constant one.
    let mut basis = Array2::eye(classes);
    basis.column_mut(0).fill(1.0);
    let basis = linalg::orthonormal(basis.view()).slice(s![.., 1..]).to_owned();
    let (values, vectors) = linalg::symmetric_eigen(basis.t().dot(&full).dot(&basis).view())?;
    let largest = values.last().copied().unwrap_or(1.0);
    let floor = 1e-12 * largest.max(1e-300);
    let directions = basis.dot(&vectors);
    let covariance = (&directions / &values.mapv(|value| value.max(floor))).dot(&directions.t());
    let deviations: Vec<f64> = covariance.diag().iter().map(|variance| variance.max(0.0).sqrt()).collect();
    let condition = largest / values.first().copied().unwrap_or(1.0).max(floor);
    let of_weights = &(&covariance / &own) / &own.view().insert_axis(Axis(1));
    Ok(finish(weights, shares, of_weights, &deviations, condition))
}

impl Align for Em {
    type View = Priors;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Priors>> {
        source.y.classes(Self::CARD.name)?;
        let seen = host.learn(&Lesson::of(source))?.answers(target.x)?;
        let (found, calibration) = self.fit(host.unseen(source, self.folds)?.view(), source.y, seen.view())?;
        let (lesson, facts, view) = used(source, found, self.r#use, calibration)?;
        Ok(Aligned { lesson, facts, view })
    }
}
