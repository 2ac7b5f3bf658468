use crate::{Case, Fit, Score, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::learn::Labels;
use serde::{Deserialize, Serialize};

/// There and back: how well the source's labels are found from the target under predicted labels.
///
/// # Mathematics
/// The fit predicts the rows of the target that it has seen. The same method and learner are fitted the other way round, with those
/// predictions as labels and the source without labels as the target, and predict the unseen rows of the source. The score is the
/// balanced accuracy: the mean over the classes among those rows of the share that is found,
/// $$s = \frac{1}{\lvert C \rvert} \sum_{c \in C} \frac{\lvert \{i : \hat y_i = y_i = c\} \rvert}{\lvert \{i : y_i = c\} \rvert}.$$
/// Where all of the target is predicted to be of one class, so is the source.
///
/// # When to use
/// As the first choice among these scores, at the cost of a second fit. It judges whether a method can undo itself: a pair of
/// wrong maps that undo each other scores well.
///
/// # Differences
/// skada 0.4.0 does all of it on the unseen rows alone, which are few: `compat = true`.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Circular;
///
/// assert!(!Circular::default().compat);
/// ```
///
/// # References
/// Bruzzone and Marconcini, *Domain Adaptation Problems: A DASVM Classification Technique and a Circular Validation Strategy*, IEEE
/// Transactions on Pattern Analysis and Machine Intelligence 32, 2010, doi:10.1109/TPAMI.2009.57.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "circular", title = "Circular validation", catalogue = [28], paper = "doi:10.1109/TPAMI.2009.57", year = 2010)]
#[method(case = "", case = "compat = true")]
pub struct Circular {
    /// Works on the unseen rows alone, as skada 0.4.0 does.
    pub compat: bool,
}

impl Score for Circular {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        let (of, count) = case.held.y.classes(Self::CARD.name)?;
        let (there, back) =
            if self.compat { (case.target_held.x, case.held.x) } else { (case.target.x, case.source.x) };
        let predicted = case.fit.predict(there)?;
        let found = if predicted.iter().all(|class| *class == predicted[0]) {
            vec![predicted[0]; of.len()]
        } else {
            let y = Labels::Classes { of: predicted, count };
            let source = Source { x: there, y: &y };
            let fit = Fit::new(case.method, &source, &Target { x: back }, case.host)?;
            fit.predict(case.held.x)?
        };
        Ok(balanced_accuracy(of, &found, count))
    }
}

/// The mean over classes that have rows of the share that was found.
fn balanced_accuracy(of: &[usize], found: &[usize], count: usize) -> f64 {
    let (mut rows, mut right) = (vec![0.0; count], vec![0.0; count]);
    for (class, found) in of.iter().zip(found) {
        rows[*class] += 1.0;
        if class == found {
            right[*class] += 1.0;
        }
    }
    let shares: Vec<f64> =
        rows.iter().zip(&right).filter(|(rows, _)| **rows > 0.0).map(|(rows, right)| right / rows).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}
