use super::{Exchange, Place, Row};
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};

/// Counts calibration rows by how likely they are where new rows come from.
///
/// # Mathematics
/// Calibration rows come from $P_x$, new rows from $\tilde P_x$, and $P_{y|x}$ is the same. With $w = d\tilde P_x / dP_x$, up to a factor,
/// $$\hat q(x) = \inf\Big\{ s : \sum_{i : s_i \le s} w(x_i) \;\ge\; (1-\alpha) \Big( \sum_i w(x_i) + w(x) \Big) \Big\},$$
/// and $P(y \in C(x)) \ge 1 - \alpha$ with the true $w$. Where $w(x) > \alpha/(1-\alpha) \sum_i w(x_i)$ no score reaches so much and the
/// interval is infinite: the calibration rows say nothing about such rows.
///
/// # When to use
/// Under covariate shift, with densities or a method of weights. Look at the effective sample size $(\sum w)^2 / \sum w^2$: it
/// stands for $n$. Estimated weights cost as much coverage as they are wrong, in total variation.
///
/// # Differences
/// `clip` bounds weights, which is not in the paper: intervals are finite more often, and the guarantee is then that of the clipped weights.
/// The MAPIE package has no such method; its `sample_weight` is one of fits. For `cv_plus` and its kin the same masses are used (Prinster,
/// Liu and Saria, *JAWS*, 2022).
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, Held, Row, Split, Weighted};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[0.0], [0.0], [0.0]], [1.0, 2.0, 3.0]);
/// let row = |ratio| Row { ratio, ..Row::default() };
/// let (by, held) = (Weighted::default(), Held::new(answers.view(), &truths));
/// let fit = Calibrated::new(&Split::default(), &held, Some(&by), &[row(8.0), row(1.0), row(1.0)])?;
/// let found = fit.intervals(array![[0.0], [0.0]].view(), Some(&by), &[row(1.0), row(9.0)], 0.3)?;
/// assert_eq!((found[0].upper, found[1].upper), (1.0, f64::INFINITY));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Tibshirani, Barber, Candès and Ramdas, *Conformal Prediction Under Covariate Shift*, NeurIPS 2019, arXiv:1904.06019.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "weighted", title = "Conformal prediction under covariate shift", catalogue = [], paper = "arxiv:1904.06019", year = 2019)]
#[method(needs(labels), case = "", case = "clip = 3.0")]
pub struct Weighted {
    /// The largest weight a row may have; none unless it is given.
    #[method(above = 0)]
    pub clip: Option<f64>,
}

impl Exchange for Weighted {
    fn place(&self, row: &Row) -> Result<Place> {
        if !(row.ratio.is_finite() && row.ratio >= 0.0) {
            return Err(Error::Other(format!(
                "weighted: the weight of a row is `{}`; weights are finite and not negative",
                row.ratio
            )));
        }
        Ok(Place { cell: row.group, weight: self.clip.map_or(row.ratio, |clip| row.ratio.min(clip)) })
    }
}
