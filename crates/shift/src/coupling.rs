//! What methods by optimal transport share: costs on a scale, couplings of equal masses, and what couplings carry.

use crate::affine::width;
use crate::{Lesson, Source, Target, View};
use acclimate_core::Result;
use acclimate_stats::learn::{Labels, select};
use acclimate_stats::linalg::{product, squared_distances};
use acclimate_stats::transport::{self, Entropic, Metric, Sinkhorn, costs, median, uniform};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// What the costs of a transport problem are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Nothing.
    #[default]
    None,
    /// Their median, where it is not zero.
    Median,
    /// Their mean, where it is not zero.
    Mean,
}

/// The costs between the rows of two domains.
pub(crate) struct Ground {
    /// `[source, target]`, divided by the scale.
    pub(crate) cost: Array2<f64>,
    pub(crate) scale: f64,
}

pub(crate) fn ground(metric: Metric, norm: Norm, source: &Source<'_>, target: &Target<'_>) -> Ground {
    let mut cost = costs(metric, source.x, target.x);
    let scale = match norm {
        Norm::None => 1.0,
        Norm::Median => median(cost.view()),
        Norm::Mean => cost.mean().unwrap_or(1.0),
    };
    // Equal rows leave nothing to divide by, and costs beyond all numbers are refused where the coupling is sought.
    let scale = if scale > 0.0 && scale.is_finite() { scale } else { 1.0 };
    cost /= scale;
    Ground { cost, scale }
}

impl Ground {
    /// The costs with so little of the squared distances that it only chooses between couplings that cost the same. Other metrics have many
    /// of them, and which one is found would depend on the order of rows.
    pub(crate) fn settled(self, metric: Metric, source: &Source<'_>, target: &Target<'_>) -> Array2<f64> {
        if metric == Metric::Sqeuclidean {
            return self.cost;
        }
        let squares = squared_distances(source.x, target.x);
        match (self.cost.mean(), squares.mean()) {
            (Some(mean), Some(square)) if square > 0.0 && square.is_finite() => {
                self.cost + squares * (TIE * mean / square)
            }
            _ => self.cost,
        }
    }
}

/// The part of the squared distances in costs that tie.
const TIE: f64 = 1e-6;

/// The coupling of least cost in which all rows of a domain have one mass.
pub(crate) fn exact(cost: &Array2<f64>) -> Result<Array2<f64>> {
    let (n, m) = cost.dim();
    Ok(transport::exact(cost.view(), uniform(n).view(), uniform(m).view())?.coupling())
}

/// The entropic coupling in which all rows of a domain have one mass.
pub(crate) fn entropic(cost: &Array2<f64>, settings: &Sinkhorn) -> Result<Entropic> {
    let (n, m) = cost.dim();
    transport::sinkhorn(cost.view(), uniform(n).view(), uniform(m).view(), settings)
}

/// What tells how far an entropic coupling got.
pub(crate) fn facts(found: &Entropic) -> Vec<(&'static str, f64)> {
    vec![
        ("cost", found.cost),
        ("marginal error", found.certificate.marginal),
        ("steps", found.certificate.steps as f64),
    ]
}

/// For each row of a coupling the mean of the target's rows under its masses.
pub(crate) fn barycentres(coupling: &Array2<f64>, target: ArrayView2<'_, f64>) -> Array2<f64> {
    let sums = coupling.sum_axis(Axis(1)).insert_axis(Axis(1));
    product((coupling / &sums).view(), target)
}

/// Labels as numbers to mix: one-hot for classes, `[rows, classes]`, else `[rows, 1]`.
pub(crate) fn coded(y: &Labels) -> Array2<f64> {
    match y {
        Labels::Classes { of, count } => {
            Array2::from_shape_fn((of.len(), *count), |(row, class)| f64::from(u8::from(of[row] == class)))
        }
        Labels::Numbers(numbers) => Array2::from_shape_fn((numbers.len(), 1), |(row, _)| numbers[row]),
    }
}

/// For each column of a coupling the mean of the source's labels under its masses, `[target, as coded]`.
pub(crate) fn carried(coupling: &Array2<f64>, y: &Labels) -> Array2<f64> {
    barycentres(&coupling.t().as_standard_layout().into_owned(), coded(y).view())
}

/// A share below this part of the largest is what rounding left.
const CRUMB: f64 = 1e-6;

/// The target's rows under mixed labels: a row stands once for each class of which it has a share, and counts as much. Numbers are taken as
/// they are.
pub(crate) fn taught(target: ArrayView2<'_, f64>, labels: &Array2<f64>, y: &Labels) -> Lesson {
    let Labels::Classes { count, .. } = y else {
        return Lesson { x: target.to_owned(), y: Labels::Numbers(labels.column(0).to_vec()), weights: None };
    };
    let floor = CRUMB * labels.iter().copied().fold(0.0, f64::max);
    let (mut rows, mut of, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for ((row, class), share) in labels.indexed_iter().filter(|(_, share)| **share > floor) {
        rows.push(row);
        of.push(class);
        weights.push(*share);
    }
    let y = Labels::Classes { of, count: *count };
    Lesson { x: select(target, &rows), y, weights: Some(weights.into()) }
}

/// Rows of the source that were moved: another row moves as the nearest of them did. The target stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moves {
    rows: Array2<f64>,
    moved: Array2<f64>,
}

impl Moves {
    pub(crate) fn new(source: &Source<'_>, moved: Array2<f64>) -> Self {
        Self { rows: source.x.to_owned(), moved }
    }

    /// The lesson on the moved rows.
    pub(crate) fn lesson(&self, source: &Source<'_>) -> Lesson {
        Lesson { x: self.moved.clone(), y: source.y.clone(), weights: None }
    }
}

impl View for Moves {
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.rows.ncols(), rows)?;
        Ok(rows.to_owned())
    }

    fn show_source(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.rows.ncols(), rows)?;
        let mut shown = rows.to_owned();
        for (mut row, distances) in shown.rows_mut().into_iter().zip(squared_distances(rows, self.rows.view()).rows()) {
            let nearest = least(distances);
            // Less the row first, so that a row of the fit lands where it did then.
            row -= &self.rows.row(nearest);
            row += &self.moved.row(nearest);
        }
        Ok(shown)
    }
}

/// The place of the least value, of equals the first.
fn least(values: ArrayView1<'_, f64>) -> usize {
    (1..values.len()).fold(0, |best, other| if values[other] < values[best] { other } else { best })
}
