use crate::affine::width;
use crate::minimise::{Stop, minimise};
use crate::{Align, Aligned, Host, Lesson, Source, Target, View};
use acclimate_core::{Method, Result};
use acclimate_stats::linalg::{solve_positive, squared_distances};
use ndarray::{Array1, Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Scales and moves each class of the source so that the whole looks like the target.
///
/// # Mathematics
/// A row $x_i$ of class $c$ becomes $x_i' = w_c \odot x_i + b_c$, where $w$ and $b$ have a number for each class and column and lower
/// $$J = \frac1{m^2} \sum_{ij} v_i v_j k(x_i', x_j') - \frac{2}{mn} \sum_{ij} v_i k(x_i', t_j) +
///   \frac{\lambda_m}{m} \sum_i \big(\lVert w_{c_i} - 1 \rVert^2 + \lVert b_{c_i} \rVert^2\big),
///   \qquad k(a, b) = e^{-\gamma \lVert a - b \rVert^2}.$$
/// The first two terms are, up to a constant, the squared maximum mean discrepancy between the mapped source and the target's $n$ rows
/// $t_j$. $v = \Omega^\top 1$ with $\Omega = L (L + \lambda_k I)^{-1}$ and the kernel $L_{ij} = [c_i = c_j]$ of labels, so
/// $v_i = n_{c_i} / (n_{c_i} + \lambda_k)$: about one. The search begins at the identity, where equal domains leave it.
///
/// # When to use
/// When each class was stretched or moved in its own way and their shares are like. Which class goes where is decided by the nearest
/// minimum alone. Rows of the source without a label take the map of the nearest row with one.
///
/// # Differences
/// skada 0.4.0 takes $L$ from the rows instead of the labels, and $e^{-\gamma \lVert a - b \rVert}$, without the square, as the kernel;
/// `compat = true` does so. The paper also weighs classes; here their shares stay, as in its section 4.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::MmdLs;
///
/// assert!(MmdLs { gamma: Some(-1.0), ..MmdLs::default() }.check().is_err());
/// ```
///
/// # References
/// Zhang, Schölkopf, Muandet and Wang, *Domain Adaptation under Target and Conditional Shift*, ICML 2013,
/// <https://proceedings.mlr.press/v28/zhang13d.html>.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "mmd_ls", title = "MMD-LS", catalogue = [28], paper = "doi:10.5555/3042817.3043028", year = 2013)]
#[method(needs(labels), case = "", case = "gamma = 0.1", case = "compat = true")]
pub struct MmdLs {
    /// The width of the kernel; none is one over the number of columns.
    #[method(above = 0)]
    pub gamma: Option<f64>,
    /// Added to the kernel of labels, $\lambda_k$.
    #[method(min = 0)]
    pub label_ridge: f64,
    /// What leaving the identity costs, $\lambda_m$.
    #[method(min = 0)]
    pub map_ridge: f64,
    /// Steps at most.
    pub steps: usize,
    /// The largest number of the gradient at which it ends.
    #[method(min = 0)]
    pub tolerance: f64,
    /// The kernel of rows in place of labels, and no squares, as in skada 0.4.0.
    pub compat: bool,
}

impl Default for MmdLs {
    fn default() -> Self {
        Self { gamma: None, label_ridge: 1e-8, map_ridge: 1e-8, steps: 20, tolerance: 1e-5, compat: false }
    }
}

/// A map for each class, and the rows by which a new row finds its class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMaps {
    scales: Array2<f64>,
    moves: Array2<f64>,
    rows: Array2<f64>,
    of: Vec<usize>,
}

impl ClassMaps {
    fn map(&self, rows: ArrayView2<'_, f64>, of: impl Iterator<Item = usize>) -> Array2<f64> {
        let mut mapped = rows.to_owned();
        for (mut row, class) in mapped.rows_mut().into_iter().zip(of) {
            row *= &self.scales.row(class);
            row += &self.moves.row(class);
        }
        mapped
    }
}

impl View for ClassMaps {
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.rows.ncols(), rows)?;
        Ok(rows.to_owned())
    }

    fn show_source(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.rows.ncols(), rows)?;
        let distances = squared_distances(rows, self.rows.view());
        let nearest = |row: usize| {
            let distances = distances.row(row);
            let better = |best: usize, other: usize| if distances[other] < distances[best] { other } else { best };
            self.of[(0..distances.len()).fold(0, better)]
        };
        Ok(self.map(rows, (0..rows.nrows()).map(nearest)))
    }
}

impl Align for MmdLs {
    type View = ClassMaps;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<ClassMaps>> {
        let (of, count) = source.y.classes(Self::CARD.name)?;
        let features = source.x.ncols();
        let gamma = self.gamma.unwrap_or(1.0 / features.max(1) as f64);
        let (x, t) = (source.x.as_standard_layout(), target.x.as_standard_layout());
        let (m, n) = (x.nrows() as f64, t.nrows() as f64);
        let v = self.smoothed(x.view(), of, count, gamma)?;
        let maps = |flat: &[f64]| {
            let part =
                |flat: &[f64]| Array2::from_shape_vec((count, features), flat.to_vec()).expect("made of two parts");
            let (scales, moves) = flat.split_at(count * features);
            ClassMaps { scales: part(scales), moves: part(moves), rows: x.to_owned(), of: of.to_vec() }
        };
        let objective = |flat: &[f64]| {
            let maps = maps(flat);
            let mapped = maps.map(x.view(), of.iter().copied());
            let pull = |i: usize, from: ArrayView2<'_, f64>, weights: Option<&Array1<f64>>| {
                let row = mapped.row(i);
                let (mut sum, mut gradient) = (0.0, Array1::zeros(features));
                for (j, other) in from.rows().into_iter().enumerate() {
                    let apart = &row - &other;
                    let square = apart.dot(&apart);
                    let weight = weights.map_or(1.0, |v| v[j]);
                    let (k, fall) = self.kernel(gamma, square);
                    sum += weight * k;
                    gradient.scaled_add(weight * fall, &apart);
                }
                (sum, gradient)
            };
            // One sum for each row, added up in order: the result does not depend on the number of threads.
            let pulls: Vec<_> = (0..mapped.nrows())
                .into_par_iter()
                .map(|i| (pull(i, mapped.view(), Some(&v)), pull(i, t.view(), None)))
                .collect();
            let mut value = 0.0;
            let mut gradient = Array2::<f64>::zeros((2 * count, features));
            for (i, ((own, own_gradient), (cross, cross_gradient))) in pulls.into_iter().enumerate() {
                let class = of[i];
                value += v[i] * own / (m * m) - 2.0 * v[i] * cross / (m * n);
                let here = own_gradient * (2.0 * v[i] / (m * m)) - cross_gradient * (2.0 * v[i] / (m * n));
                for column in 0..features {
                    let (scale, by) = (maps.scales[[class, column]] - 1.0, maps.moves[[class, column]]);
                    value += self.map_ridge / m * (scale * scale + by * by);
                    gradient[[class, column]] += here[column] * x[[i, column]] + 2.0 * self.map_ridge / m * scale;
                    gradient[[count + class, column]] += here[column] + 2.0 * self.map_ridge / m * by;
                }
            }
            Ok((value, gradient.into_iter().collect()))
        };
        let mut start = vec![1.0; count * features];
        start.resize(2 * count * features, 0.0);
        let (found, value) = minimise(objective, start, Stop { steps: self.steps, gradient: self.tolerance })?;
        let view = maps(&found);
        let lesson = Lesson { x: view.map(x.view(), of.iter().copied()), y: source.y.clone(), weights: None };
        Ok(Aligned { lesson, facts: vec![("objective", value)], view })
    }
}

impl MmdLs {
    /// The kernel of a squared distance, and by how much a row apart moves it for each unit of the difference.
    fn kernel(&self, gamma: f64, square: f64) -> (f64, f64) {
        if !self.compat {
            let k = (-gamma * square).exp();
            return (k, -2.0 * gamma * k);
        }
        let distance = square.sqrt();
        let k = (-gamma * distance).exp();
        (k, if distance > 0.0 { -gamma * k / distance } else { 0.0 })
    }

    /// How much each row counts, $\Omega^\top 1$.
    fn smoothed(&self, x: ArrayView2<'_, f64>, of: &[usize], count: usize, gamma: f64) -> Result<Array1<f64>> {
        if !self.compat {
            let mut rows = vec![0.0; count];
            for class in of {
                rows[*class] += 1.0;
            }
            return Ok(of.iter().map(|class| rows[*class] / (rows[*class] + self.label_ridge)).collect());
        }
        // Ω is symmetric, since L is and commutes with its own inverse.
        let l = squared_distances(x, x).mapv(|square| self.kernel(gamma, square).0);
        let ridged = &l + &(Array2::<f64>::eye(l.nrows()) * self.label_ridge);
        let ones = l.sum_axis(ndarray::Axis(1)).insert_axis(ndarray::Axis(1));
        Ok(solve_positive(ridged.view(), ones.view())?.column(0).to_owned())
    }
}
