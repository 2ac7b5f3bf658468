use crate::prior::{Answers, Moment, Moments, PriorEstimate, Priors, Use, by_answers};
use crate::{Align, Aligned, Host, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::{learn::Labels, linalg, qp::Qp};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Finds the target's shares of classes by the learner's table of confusions, drawn towards no shift.
///
/// # Mathematics
/// With $A$ and $b$ as in BBSE, $\omega = 1 + \theta$ and
/// $$\min_{\theta \ge -1}\ |A \theta - (b - A 1)| + \Delta\, |\theta|, \qquad
///   \Delta = \text{penalty} \cdot 3 \Big( \frac{2 \log(2k / \delta)}{3 n} + \sqrt{\frac{2 \log (2k / \delta)}{n}} \Big),$$
/// for $k$ classes, $n$ source rows and $\delta = 0.05$; then $\theta$ is multiplied by `trust`. Both lengths are under no square: where the
/// penalty is small the solution is BBSE's, exactly. Elsewhere a ridge is found at which
/// the program with squares has the same solution.
/// Intervals are those of BBSE at this point and do not know of the pull.
///
/// # When to use
/// Label shift with few rows or many classes, where BBSE's inverse is unsteady.
///
/// # Differences
/// The paper's bound on the error of $A$ is $\Delta$ with `penalty = 1`; the authors' program and others take a hundredth of it, the default here.
///
/// # Example
/// ```
/// use acclimate_shift::Rlls;
/// use acclimate_stats::learn::Labels;
/// use ndarray::array;
///
/// let y = Labels::Classes { of: vec![0, 0, 1, 1], count: 2 };
/// let source = array![[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]];
/// let found = Rlls { penalty: 100.0, ..Rlls::default() }.weights(source.view(), &y, array![[0.9, 0.1]].view())?;
/// assert!((found.prior[0] - 0.5).abs() < 1e-6);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Azizzadenesheli, Liu, Yang and Anandkumar, *Regularized learning for domain adaptation under label shifts*, ICLR 2019, arXiv:1903.09734.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "rlls", title = "RLLS", catalogue = [60], paper = "arxiv:1903.09734", year = 2019)]
#[method(needs(labels), case = "", case = "moment = \"hard\"\npenalty = 1.0\ntrust = 0.5")]
pub struct Rlls {
    /// What of the answers is averaged: `hard` or `soft`.
    pub moment: Moment,
    /// The share of the bound on the error that the pull is.
    #[method(min = 0)]
    pub penalty: f64,
    /// The share of the step away from no shift that is taken.
    #[method(min = 0, max = 1)]
    pub trust: f64,
    /// What the shares are used for: `rows` or `answers`.
    #[serde(rename = "use")]
    pub r#use: Use,
    /// Folds in which the learner answers source rows that it has not seen.
    #[method(min = 2)]
    pub folds: usize,
}

impl Default for Rlls {
    fn default() -> Self {
        Self { moment: Moment::Soft, penalty: 0.01, trust: 1.0, r#use: Use::Rows, folds: 5 }
    }
}

impl Rlls {
    /// The estimate from probabilities `[rows, classes]` alone; those of the source must come from fits that have not seen its rows.
    ///
    /// # Errors
    /// When sizes differ, numbers are not probabilities, or a class has no row in the source.
    pub fn weights(
        &self,
        source: ArrayView2<'_, f64>,
        labels: &Labels,
        target: ArrayView2<'_, f64>,
    ) -> Result<PriorEstimate> {
        let answers = Answers::new(Self::CARD.name, source, labels, target)?;
        let moments = Moments::new(self.moment.of(source), answers.of, self.moment.of(target));
        let (n, classes) = (source.nrows() as f64, answers.shares.len());
        let unsure = (2.0 * classes as f64 / 0.05).ln();
        let pull = self.penalty * 3.0 * (2.0 * unsure / (3.0 * n) + (2.0 * unsure / n).sqrt());
        let theta = shrunken(&moments, pull)?;
        let weights = theta.mapv(|theta| 1.0 + self.trust * theta).to_vec();
        moments.estimate(answers.of, &answers.shares, weights)
    }
}

/// `min |A θ − d| + pull |θ|` over `θ ≥ −1`.
fn shrunken(moments: &Moments, pull: f64) -> Result<Array1<f64>> {
    let classes = moments.b.len();
    let (a, d) = (&moments.a, &moments.b - &moments.a.sum_axis(Axis(1)));
    let (square, linear) = (a.t().dot(a), -a.t().dot(&d));
    let length = |x: &Array1<f64>| x.dot(x).sqrt();
    // Where the pull is at least the slope at no shift, no shift is the solution.
    if length(&linear) <= pull * length(&d) {
        return Ok(Array1::zeros(classes));
    }
    // Where it is too weak to leave a residual, the solution of the equations is: a unit vector `u` with `Aᵀ u = pull θ / |θ|` proves it.
    if let Ok(exact) = linalg::solve(a.view(), d.view().insert_axis(Axis(1))).map(|found| found.remove_axis(Axis(1)))
        && exact.iter().all(|theta| *theta > -1.0)
    {
        let slope = &exact * (pull / length(&exact));
        let unit = linalg::solve(a.t(), slope.view().insert_axis(Axis(1)))?.remove_axis(Axis(1));
        if length(&unit) <= 1.0 {
            return Ok(exact);
        }
    }
    let (lower, upper) = (Array1::from_elem(classes, -1.0), Array1::from_elem(classes, 1e6));
    let ones = Array1::ones(classes);
    let mut theta = Array1::zeros(classes);
    let mut solve = |ridge: f64| -> Result<Array1<f64>> {
        let quadratic = &square + &(Array2::<f64>::eye(classes) * ridge);
        let qp = Qp {
            quadratic: quadratic.view(),
            linear: linear.view(),
            lower: lower.view(),
            upper: upper.view(),
            coefficients: ones.view(),
            slab: [-1e9, 1e9],
        };
        theta = qp.solve(theta.view(), 1e-14, 0.0, 200_000)?.x;
        Ok(theta.clone())
    };
    // With squares the program has the same solution at the ridge where `ridge |θ| = pull |A θ − d|`; the left over the right only rises.
    let scale = square.diag().sum();
    let (mut low, mut high) = ((1e-14 * scale).ln(), (1e6 * scale).ln());
    for _ in 0..80 {
        let ridge = 0.5 * (low + high);
        let theta = solve(ridge.exp())?;
        if ridge.exp() * length(&theta) > pull * length(&(a.dot(&theta) - &d)) { high = ridge } else { low = ridge }
    }
    solve((0.5 * (low + high)).exp())
}

impl Align for Rlls {
    type View = Priors;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Priors>> {
        let estimate = |held: ArrayView2<'_, f64>, seen: ArrayView2<'_, f64>| self.weights(held, source.y, seen);
        by_answers(Self::CARD.name, (source, target, host), self.folds, self.r#use, estimate)
    }
}
