use super::{Regions, Score, Shape, region::middle};
use crate::quantile;
use acclimate_core::{Error, Method, Result};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

/// Makes samples from any model of several numbers a region that covers: balls around them, grown or shrunk.
///
/// # Mathematics
/// A model gives a cloud $S(x)$ of samples. With $d^+(y) = \min_{s \in S} \|y - s\|$ and $t(x)$ the `share`-quantile of the distances between
/// nearest samples, $y$ is outside where $d^+(y) \ge t$. Inside, $d^-(y)$ is the distance to the nearest point outside, on a grid of `parts`
/// per axis over the cloud's box, widened by `pad` of its sides. One score orders all points,
/// $$s(x, y) = \begin{cases} d^+(y) & d^+(y) \ge t(x) \\ -d^-(y) & \text{else,} \end{cases} \qquad
///   R(x) = \{y : s(x, y) \le s_{(\lceil (n+1)(1-\alpha) \rceil)}\},$$
/// and the region is the union of balls around the samples, or what is left of the inside. For exchangeable rows
/// $1 - \alpha \le P(y \in R) \le 1 - \alpha + 1/(n+1)$, for any model of samples.
///
/// # When to use
/// Two to four targets and any sampler: a conditional variational autoencoder, a diffusion, residuals added to a prediction. Regions may
/// be bent or in pieces. Put the targets on one scale first: distances compare them.
///
/// # Differences
/// The paper grows or shrinks, by the coverage of the calibration rows themselves; one score decided beforehand needs no such choice and
/// keeps the theorem. Its code compares the distance to the cloud with the radius after shrinking; it is that to the outside. The
/// learning of the latent space is the model's business and not part of it. Points inside with no grid point outside near are as deep as the
/// box is wide.
///
/// # Example
/// ```
/// use acclimate_stats::conformal::{Balls, CalibratedRegions, Row, Shape};
/// use ndarray::array;
///
/// let cloud = Shape::Cloud(array![[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]);
/// let (method, truths) = (Balls::default(), array![[3.0, 0.0], [0.0, 4.0], [6.0, 0.0]]);
/// let fit = CalibratedRegions::new(&method, &vec![cloud.clone(); 3], truths.view(), None, &[])?;
/// let region = fit.region(&method, &cloud, None, &Row::default(), 0.5)?;
/// assert!(region.contains(&[0.0, -3.0]) && !region.contains(&[0.0, -3.5]));
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Feldman, Bates and Romano, *Calibrated Multiple-Output Quantile Regression with Representation Learning*, JMLR 2023, arXiv:2110.00816.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "balls", title = "Calibrated regions from samples", catalogue = [76], paper = "arxiv:2110.00816", year = 2023)]
#[method(needs(labels), case = "", case = "share = 0.5\nparts = 8\npad = 0.4")]
pub struct Balls {
    /// Which quantile of the distances between nearest samples counts as inside.
    #[method(above = 0, max = 1)]
    pub share: f64,
    /// Points of the grid outside along each axis.
    #[method(min = 2, max = 1000)]
    pub parts: usize,
    /// How much wider than the cloud its box is on each side.
    #[method(min = 0)]
    pub pad: f64,
}

impl Default for Balls {
    fn default() -> Self {
        Self { share: 0.9, parts: 24, pad: 0.2 }
    }
}

impl Regions for Balls {
    fn score<'a>(&self, shape: &'a Shape) -> Result<Score<'a>> {
        let Shape::Cloud(points) = shape else {
            return Err(Error::Unsupported {
                who: "balls".to_owned(),
                what: "read half-spaces".to_owned(),
                instead: "give samples, or use `dqr`".to_owned(),
            });
        };
        if points.is_empty() || points.iter().any(|number| !number.is_finite()) {
            let what = "balls: a cloud has no sample or one that is not finite; leave such samples out";
            return Err(Error::Other(what.to_owned()));
        }
        let rows: Vec<Vec<f64>> = points.rows().into_iter().map(|row| row.to_vec()).collect();
        let threshold = self.spacing(&rows);
        let (lower, upper) = sides(points.view(), self.pad);
        let cells = (0..self.parts.pow(lower.len() as u32)).map(|cell| middle(cell, &lower, &upper, self.parts));
        let outside: Vec<Vec<f64>> = cells.filter(|cell| nearest(&rows, cell) >= threshold).collect();
        let width = lower.iter().zip(&upper).map(|(lower, upper)| (upper - lower).powi(2)).sum::<f64>().sqrt();
        Ok(Box::new(move |point| {
            let far = nearest(&rows, point);
            if far >= threshold { far } else { -nearest(&outside, point).min(width) }
        }))
    }
}

impl Balls {
    /// The quantile of the distances of samples to their nearest.
    fn spacing(&self, rows: &[Vec<f64>]) -> f64 {
        let own = |(row, at): (usize, &Vec<f64>)| nearest(rows[..row].iter().chain(&rows[row + 1..]), at);
        let mut distances: Vec<f64> = rows.iter().enumerate().map(own).filter(|far| far.is_finite()).collect();
        distances.sort_by(f64::total_cmp);
        if distances.is_empty() { 0.0 } else { quantile::of_sorted(&distances, self.share) }
    }
}

/// The corners of the box of a cloud, widened.
fn sides(points: ArrayView2<'_, f64>, pad: f64) -> (Vec<f64>, Vec<f64>) {
    let side = |column: ndarray::ArrayView1<'_, f64>| {
        let (lower, upper) =
            column.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), number| (a.min(*number), b.max(*number)));
        let more = pad * (upper - lower);
        (lower - more, upper + more)
    };
    points.columns().into_iter().map(side).unzip()
}

/// The distance of the nearest point; infinite where there is none.
fn nearest<'a>(points: impl IntoIterator<Item = &'a Vec<f64>>, to: &[f64]) -> f64 {
    let square = |point: &Vec<f64>| point.iter().zip(to).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    points.into_iter().map(square).fold(f64::INFINITY, f64::min).sqrt()
}
