use super::{Exchange, Place, Row};
use acclimate_core::{Error, Method, Result};
use serde::{Deserialize, Serialize};

/// Calibrates every group, or every class, by its own rows.
///
/// # Mathematics
/// With a group $g(x, y)$ of each row,
/// $$C(x) = \{y : s(x, y) \le \hat q_{g(x,y)}\}, \qquad \hat q_g = s_{(\lceil (n_g+1)(1-\alpha) \rceil)} \text{ of the } n_g \text{ rows in } g,$$
/// which gives $P(y \in C \mid g) \ge 1 - \alpha$ in every group. `by = "class"` takes $g = y$: each candidate class is judged by the
/// calibration rows of that class.
///
/// # When to use
/// When every group has a claim to its coverage, or, by class, when classes are rare or their shares may change: coverage given the class
/// holds under any label shift. A group needs $1/\alpha - 1$ rows at least; with fewer, or none, its intervals are infinite and its classes
/// always in the set.
///
/// # Differences
/// None from the paper. Scores, methods and weights are those of the method that it is used with.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Calibrated, Held, Mondrian, Row, Split};
/// use ndarray::array;
///
/// let (answers, truths) = (array![[0.0], [0.0]], [1.0, 5.0]);
/// let row = |group| Row { group, ..Row::default() };
/// let (by, held) = (Mondrian::default(), Held::new(answers.view(), &truths));
/// let fit = Calibrated::new(&Split::default(), &held, Some(&by), &[row(0), row(1)])?;
/// let found = fit.intervals(array![[0.0], [0.0]].view(), Some(&by), &[row(1), row(2)], 0.5)?;
/// assert_eq!((found[0].upper, found[1].upper), (5.0, f64::INFINITY));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Vovk, Lindsay, Nouretdinov and Gammerman, *Mondrian Confidence Machine*, 2003; Vovk, Gammerman and Shafer, *Algorithmic Learning in
/// a Random World*, section 4.5, 2005, doi:10.1007/b106715.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "mondrian", title = "Mondrian conformal prediction", catalogue = [], paper = "doi:10.1007/b106715", year = 2003)]
#[method(needs(labels), case = "", case = "by = \"class\"")]
pub struct Mondrian {
    /// What is calibrated apart: rows of a `group`, or of a `class`.
    pub by: By,
}

/// What [`Mondrian`] calibrates apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The rows of each group.
    #[default]
    Group,
    /// The rows of each class.
    Class,
}

impl Exchange for Mondrian {
    fn place(&self, row: &Row) -> Result<Place> {
        let cell = match self.by {
            By::Group => row.group,
            By::Class => row.class.ok_or_else(|| Error::Unsupported {
                who: "mondrian".to_owned(),
                what: "tell classes apart where rows have none".to_owned(),
                instead: "use it with sets of classes, or `by = \"group\"`".to_owned(),
            })?,
        };
        Ok(Place { cell, weight: 1.0 })
    }
}
