use crate::density::{Bandwidth, BandwidthRule, KernelDensity, outside};
use crate::{Align, Aligned, Host, Lesson, Source, Target, View, ratio};
use acclimate_core::{Error, Method, Result};
use acclimate_stats::{kernel::rbf, linalg};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Finds how much likelier each value of a number is in the target than in the source.
///
/// # Mathematics
/// Under target shift $p(x \mid y)$ is common, and $\omega(y) = p_t(y) / p_s(y) = 1 + \rho(y)$ solves
/// $$E_s[\rho(Y) \mid x] = \eta(x) = \frac{p_t(x)}{p_s(x)} - 1.$$
/// With the adjoint and a penalty $\alpha$, and kernel averages $A$ over rows near in $x$ and $B$ over rows near in $y$, each row of which sums to
/// one, for the two conditional means,
/// $$(\alpha I + B A)\, \rho = B \hat\eta, \qquad \omega = \max(0, 1 + \rho),$$
/// brought to mean one. $\hat\eta$ is a ratio of kernel densities at the source's rows, the source's at least its one-thousandth quantile. At other
/// values $\omega(y) = 1 + b(y)^\top (\hat\eta - A \rho) / \alpha$ with the averages $b(y)$. For $x$ stands the learner's prediction, by folds that
/// have not seen the row, as the shift is common to every function of $x$; all is standardised by the source.
///
/// # When to use
/// Regression where the values asked for are higher or lower than those learned from, and rows with one value look alike in both domains. Where
/// the predictions say little about $y$, the weights stay near one whatever happened. `outside` is the share of target rows where the source
/// has almost none; `unexplained` is $|A\rho - \hat\eta| / |\hat\eta|$.
///
/// # Differences
/// The equation, $\rho$, the penalty, the kernel densities and the black-box map are the paper's; that the kernel averages are those of Nadaraya
/// and Watson and how wide they are is this implementation's choice. The weights are clipped at zero and, if asked, at a quantile.
///
/// # Example
/// ```
/// use acclimate_shift::Retasa;
/// use ndarray::array;
///
/// let (x, y) = (array![[0.0], [0.5], [1.0], [1.5]], [0.0, 0.4, 1.1, 1.5]);
/// let found = Retasa::default().weights(x.view(), &y, array![[1.0], [1.6]].view())?;
/// assert!(found.weights[3] > found.weights[0]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Kim, Zhang, Zhao and Tian, *ReTaSA: A nonparametric functional estimation approach for addressing continuous target shift*, ICLR 2024,
/// arXiv:2401.16410.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "retasa", title = "ReTaSA", catalogue = [118], paper = "arxiv:2401.16410", year = 2024)]
#[method(needs(labels), case = "", case = "map = false\npenalty = 0.1")]
pub struct Retasa {
    /// The penalty, $\alpha$.
    #[method(above = 0)]
    pub penalty: f64,
    /// The width of averages and densities in $x$: a number, `scott` or `silverman`.
    pub bandwidth_x: Bandwidth,
    /// The width of averages in $y$: a number, `scott` or `silverman`.
    pub bandwidth_y: Bandwidth,
    /// Puts the learner's predictions in the place of the rows.
    pub map: bool,
    /// The quantile of the weights above which they are cut; one cuts none.
    #[method(above = 0, max = 1)]
    pub quantile: f64,
    /// Folds in which the learner predicts source rows that it has not seen.
    #[method(min = 2)]
    pub folds: usize,
}

impl Default for Retasa {
    fn default() -> Self {
        let scott = Bandwidth::Rule(BandwidthRule::Scott);
        Self { penalty: 1e-2, bandwidth_x: scott, bandwidth_y: scott, map: true, quantile: 0.995, folds: 5 }
    }
}

/// What [`Retasa::weights`] found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetShift {
    /// The weight of each source row; their mean is one.
    pub weights: Vec<f64>,
    /// What of the ratio of densities the weights leave unexplained, as a share.
    pub unexplained: f64,
    /// The share of target rows where the source has almost none.
    pub outside: f64,
    /// Standardised values of the source.
    y: Array1<f64>,
    /// `(η − A ρ) / α`.
    residual: Array1<f64>,
    mean: f64,
    deviation: f64,
    gamma: f64,
}

impl TargetShift {
    /// The ratio at other values, at least zero, before the cut at a quantile and the scale.
    pub fn at(&self, values: &[f64]) -> Vec<f64> {
        let z = Array1::from(values.to_vec()).mapv(|value| (value - self.mean) / self.deviation);
        let averages = averages(z.view().insert_axis(Axis(1)), self.y.view().insert_axis(Axis(1)), self.gamma);
        averages.dot(&self.residual).mapv(|rho| (1.0 + rho).max(0.0)).to_vec()
    }
}

impl View for TargetShift {}

impl Retasa {
    /// The weights from rows, or predictions that no row's own label has touched, `[rows, features]`, and the source's values.
    ///
    /// # Errors
    /// When sizes differ, or all values are equal.
    pub fn weights(&self, source: ArrayView2<'_, f64>, y: &[f64], target: ArrayView2<'_, f64>) -> Result<TargetShift> {
        let who = Self::CARD.name;
        if source.nrows() != y.len() || source.ncols() != target.ncols() || target.nrows() == 0 {
            let expected = format!("[{}, {}] of the source and as wide a target", y.len(), source.ncols());
            return Err(Error::Shape { what: who.to_owned(), expected, got: source.shape().to_vec() });
        }
        let moments = |column: ArrayView1<'_, f64>| (column.mean().unwrap_or(0.0), column.std(0.0));
        let (mut from, mut to) = (source.to_owned(), target.to_owned());
        for feature in 0..source.ncols() {
            let (mean, deviation) = moments(source.column(feature));
            let deviation = if deviation > 0.0 { deviation } else { 1.0 };
            for rows in [&mut from, &mut to] {
                rows.column_mut(feature).mapv_inplace(|x| (x - mean) / deviation);
            }
        }
        let (mean, deviation) = moments(ArrayView1::from(y));
        if deviation.is_nan() || deviation <= 0.0 {
            return Err(Error::Other(format!(
                "{who}: all values of the source are equal, so none can be likelier; leave the method out"
            )));
        }
        let z: Array1<f64> = y.iter().map(|y| (y - mean) / deviation).collect();
        let n = y.len();
        let width = self.bandwidth_x.of(who, n, source.ncols())?;
        let gamma_of = |width: f64| 0.5 / (width * width);
        let gamma = gamma_of(self.bandwidth_y.of(who, n, 1)?);
        let a = averages(from.view(), from.view(), gamma_of(width));
        let b = averages(z.view().insert_axis(Axis(1)), z.view().insert_axis(Axis(1)), gamma);
        let density = |rows: &Array2<f64>| KernelDensity { rows: rows.clone(), bandwidth: width };
        let (own, other) = (density(&from), density(&to));
        let logs = own.log(from.view());
        let floor = quantile(&logs, 1e-3);
        let eta = (other.log(from.view()) - logs.mapv(|log| log.max(floor))).mapv(|log| log.exp() - 1.0);
        let mut system = linalg::product(b.view(), a.view());
        system.diag_mut().mapv_inplace(|entry| entry + self.penalty);
        let rho = linalg::solve(system.view(), b.dot(&eta).view().insert_axis(Axis(1)))?.remove_axis(Axis(1));
        let left = &eta - &a.dot(&rho);
        let raw = rho.mapv(|rho| (1.0 + rho).max(0.0));
        let cut = quantile(&raw, self.quantile);
        let (weights, _) = ratio::mean_one(who, raw.mapv(|weight| weight.min(cut)))?;
        let length = |x: &Array1<f64>| x.dot(x).sqrt();
        Ok(TargetShift {
            weights: weights.to_vec(),
            unexplained: length(&left) / length(&eta).max(f64::MIN_POSITIVE),
            outside: outside(&own.log_unseen(), &own.log(to.view())),
            y: z,
            residual: left / self.penalty,
            mean,
            deviation,
            gamma,
        })
    }
}

/// Kernel averages over the rows of `over` at the rows of `at`: each row of the matrix has sum one.
fn averages(at: ArrayView2<'_, f64>, over: ArrayView2<'_, f64>, gamma: f64) -> Array2<f64> {
    let mut found = rbf(at, over, gamma);
    for mut row in found.rows_mut() {
        let sum = row.sum();
        // Far from all rows the kernel is zero everywhere: then each counts the same.
        if sum > 0.0 { row /= sum } else { row.fill(1.0 / over.nrows() as f64) }
    }
    found
}

/// The number below which this share of the numbers lies, by rank.
fn quantile(numbers: &Array1<f64>, share: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}

impl Align for Retasa {
    type View = TargetShift;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<TargetShift>> {
        let y = source.y.numbers(Self::CARD.name)?;
        let view = if self.map {
            let seen = host.learn(&Lesson::of(source))?.answers(target.x)?;
            self.weights(host.unseen(source, self.folds)?.view(), y, seen.view())?
        } else {
            self.weights(source.x, y, target.x)?
        };
        let weights = Array1::from(view.weights.clone());
        let mut facts = ratio::facts(weights.view());
        facts.extend([("outside", view.outside), ("unexplained", view.unexplained)]);
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view })
    }
}
