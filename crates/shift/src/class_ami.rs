use crate::{Case, Score};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::squared_distances;
use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Whether the predicted classes of the target are its clusters.
///
/// # Mathematics
/// The unseen rows of the target, as the learner sees them, are clustered by Lloyd's $k$-means, which begins at the means of the predicted
/// classes. With the counts $n_{ij}$ of rows of predicted class $i$ in cluster $j$, their mutual information $I$, the entropies $H$ of
/// classes and clusters and the mean $E$ of $I$ over all tables with the same margins,
/// $$s = \frac{I - E}{\frac12 (H_{\text{class}} + H_{\text{cluster}}) - E}.$$
/// It is one where each class is a cluster, and about zero where the two have nothing to do with each other.
///
/// # When to use
/// With features in which classes form lumps, as those of a good network do. Where all rows get one class, it is zero.
///
/// # Differences
/// The authors begin $k$-means at random or, as here, at the classes' means, after a principal component analysis to 64 columns, which is
/// left out. A class that is not predicted has no cluster. scikit-learn gives one where there is one class and one cluster.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::ClassAmi;
///
/// assert_eq!(ClassAmi::CARD.name, "class_ami");
/// ```
///
/// # References
/// Musgrave, Belongie and Lim, *Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain Adaptation*,
/// arXiv:2208.07360. Vinh, Epps and Bailey, *Information Theoretic Measures for Clusterings Comparison*, Journal of Machine Learning
/// Research 11, 2010.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "class_ami", title = "ClassAMI", catalogue = [28], paper = "arxiv:2208.07360", year = 2022, case = "")]
pub struct ClassAmi {
    /// Steps of the clustering at most.
    #[method(min = 1)]
    pub steps: usize,
}

impl Default for ClassAmi {
    fn default() -> Self {
        Self { steps: 300 }
    }
}

impl Score for ClassAmi {
    fn score(&self, case: &Case<'_>) -> Result<f64> {
        let (_, count) = case.held.y.classes(Self::CARD.name)?;
        let predicted = case.fit.predict(case.target_held.x)?;
        let shown = case.fit.view.show(case.target_held.x)?;
        let clusters = cluster(shown.view(), &predicted, count, self.steps);
        Ok(adjusted_mutual_information(&predicted, &clusters, count))
    }
}

/// The cluster of each row, by Lloyd's steps from the means of the given groups; a group that is or becomes empty stays so.
fn cluster(x: ArrayView2<'_, f64>, groups: &[usize], count: usize, steps: usize) -> Vec<usize> {
    let mut groups = groups.to_vec();
    for _ in 0..steps {
        let mut means = Array2::<f64>::zeros((count, x.ncols()));
        let mut rows = vec![0.0; count];
        for (row, group) in x.rows().into_iter().zip(&groups) {
            let mut mean = means.row_mut(*group);
            mean += &row;
            rows[*group] += 1.0;
        }
        for (mut mean, rows) in means.axis_iter_mut(Axis(0)).zip(&rows) {
            mean /= f64::max(*rows, 1.0);
        }
        let distances = squared_distances(x, means.view());
        let nearest = |row: usize| {
            let closer = |a: &usize, b: &usize| distances[[row, *a]].total_cmp(&distances[[row, *b]]);
            (0..count).filter(|group| rows[*group] > 0.0).min_by(closer).unwrap_or(0)
        };
        let next: Vec<usize> = (0..x.nrows()).map(nearest).collect();
        if next == groups {
            break;
        }
        groups = next;
    }
    groups
}

/// The mutual information of two groupings over what is expected by chance; zero where either has one group alone.
fn adjusted_mutual_information(a: &[usize], b: &[usize], count: usize) -> f64 {
    let n = a.len();
    let mut table = Array2::<f64>::zeros((count, count));
    for (a, b) in a.iter().zip(b) {
        table[[*a, *b]] += 1.0;
    }
    let (rows, columns) = (table.sum_axis(Axis(1)), table.sum_axis(Axis(0)));
    let total = n as f64;
    let entropy = |counts: &ndarray::Array1<f64>| -> f64 {
        counts.iter().filter(|count| **count > 0.0).map(|count| -count / total * (count / total).ln()).sum()
    };
    let (first, second) = (entropy(&rows), entropy(&columns));
    if first == 0.0 || second == 0.0 {
        return 0.0;
    }
    // Logarithms of factorials.
    let mut factorial = vec![0.0; n + 1];
    for k in 1..=n {
        factorial[k] = factorial[k - 1] + (k as f64).ln();
    }
    let information = |both: f64, row: f64, column: f64| both / total * (total * both / (row * column)).ln();
    let (mut found, mut expected) = (0.0, 0.0);
    for (i, row) in rows.iter().enumerate() {
        for (j, column) in columns.iter().enumerate() {
            if table[[i, j]] > 0.0 {
                found += information(table[[i, j]], *row, *column);
            }
            let (row, column) = (*row as usize, *column as usize);
            for both in (row + column).saturating_sub(n).max(1)..=row.min(column) {
                let chance = factorial[row] + factorial[column] + factorial[n - row] + factorial[n - column]
                    - factorial[n]
                    - factorial[both]
                    - factorial[row - both]
                    - factorial[column - both]
                    - factorial[n + both - row - column];
                expected += chance.exp() * information(both as f64, row as f64, column as f64);
            }
        }
    }
    (found - expected) / (0.5 * (first + second) - expected)
}
