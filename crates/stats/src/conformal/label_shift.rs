use super::{Exchange, Place, Row};
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};

/// Counts calibration rows by how much commoner their class is where new rows come from.
///
/// # Mathematics
/// Shares of classes change from $\pi$ to $\tilde\pi$ and $P_{x|y}$ does not. With $w_c = \tilde\pi_c / \pi_c$,
/// $$C(x) = \Big\{ c : s_c(x) \le \inf\Big\{ s : \sum_{i : s_i \le s} w_{y_i} \ge (1-\alpha)\Big(\sum_i w_{y_i} + w_c\Big) \Big\} \Big\},$$
/// and $P(y \in C) \ge 1 - \alpha$ with the true $w$: the weight of the new row is that of the class it is asked about.
///
/// # When to use
/// When classes have other shares than at calibration, with shares that are known or estimated from unlabelled rows (`bbse`, `em`, `elsa`).
/// Where they cannot be known, `mondrian` by class holds under all of them, with larger sets.
///
/// # Differences
/// None from the paper. A class that new rows never have, of weight zero, stays in a set where its score is low enough.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{CalibratedSets, LabelShift, Lac};
/// use ndarray::array;
///
/// let (by, held) = (LabelShift { weights: vec![0.5, 2.0] }, array![[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]);
/// let fit = CalibratedSets::new(&Lac::default(), held.view(), &[0, 0, 1], Some(&by), &[], 0)?;
/// let sets = fit.sets(&Lac::default(), array![[0.65, 0.35]].view(), Some(&by), &[], 0.4)?;
/// assert_eq!(sets, [vec![0, 1]]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Podkopaev and Ramdas, *Distribution-Free Uncertainty Quantification for Classification under Label Shift*, UAI 2021, arXiv:2103.03323.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "label_shift", title = "Conformal prediction under label shift", catalogue = [], paper = "arxiv:2103.03323", year = 2021)]
#[method(needs(labels), case = "weights = [0.5, 1.0, 2.0]")]
pub struct LabelShift {
    /// The share of each class among new rows over that among calibration rows.
    pub weights: Vec<f64>,
}

impl Exchange for LabelShift {
    fn place(&self, row: &Row) -> Result<Place> {
        let class = row.class.ok_or_else(|| Error::Unsupported {
            who: "label_shift".to_owned(),
            what: "weigh rows without classes".to_owned(),
            instead: "use it with sets of classes, or `weighted` for numbers".to_owned(),
        })?;
        let weight = *self.weights.get(class).ok_or_else(|| {
            Error::Other(format!(
                "label_shift: `weights` has {} numbers and a row is of class {class}; give one for each class",
                self.weights.len()
            ))
        })?;
        Ok(Place { cell: row.group, weight })
    }
}
