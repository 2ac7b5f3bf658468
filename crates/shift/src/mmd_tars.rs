use crate::prior::{Answers, Moments, Priors, Use, used};
use crate::ratio::{Gamma, GammaRule};
use crate::{Align, Aligned, Host, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::{kernel::rbf, linalg, qp::Qp};
use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};

/// Finds the target's shares of classes by meeting its mean in a kernel's space with the means of the source's classes.
///
/// # Mathematics
/// With the kernel $k(x, x') = e^{-\gamma |x - x'|^2}$, one-hot labels $R$ of the $n$ source rows and $m$ target rows,
/// $$\min_\alpha\ \tfrac12 \alpha^\top P \alpha + q^\top \alpha, \qquad P = S^\top R^\top K R\, S, \quad
///   q = -\tfrac n m S^\top R^\top K_{st} 1, \quad S = N (N + \lambda I)^{-1}, \quad N = R^\top R,$$
/// where $0 \le \alpha_c \le B$ and $|\sum_c n_c \alpha_c - n| \le n \varepsilon$ with $\varepsilon = B / (4 \sqrt n)$: the distance between the mean of
/// the target and that of the class means under shares $\alpha_c n_c / n$. $S$ is what smoothing over equal labels leaves of a one-hot label.
/// The weights are brought to mean one. The first-order covariance is that of moments $h_c(x) = \frac{1}{n_c} \sum_{i \in c} k(x, x_i)$
/// in $A \omega = b$; intervals are at 95 %.
///
/// # When to use
/// Label shift where no learner is to be trusted with it. BBSE and ELSA have the sharper moments when one is.
///
/// # Differences
/// skada smooths labels by $L (L + \lambda I)^{-1}$ with the kernel $L$ between class numbers, an inverse of a matrix of low rank; here
/// classes have no distance, which for small $\lambda$ gives the same and is solved with as many unknowns as classes. The weights of skada are
/// not brought to mean one. Numbers as labels, where the paper asks for more, are for ReTaSA.
///
/// # Example
/// ```
/// use acclimate_shift::MmdTars;
/// use acclimate_core::Method;
///
/// let method = MmdTars::from_table(&"gamma = 0.1\nbound = 5.0".parse().unwrap())?;
/// assert_eq!(method.bound, 5.0);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Zhang, Schölkopf, Muandet and Wang, *Domain adaptation under target and conditional shift*, ICML 2013 (PMLR 28).
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "mmd_tars", title = "MMDTarS", catalogue = [28], paper = "-", year = 2013)]
#[method(needs(labels), case = "", case = "gamma = \"median\"\nuse = \"answers\"")]
pub struct MmdTars {
    /// The kernel's width, $\gamma$: a number, `auto`, `scale` or `median`.
    pub gamma: Gamma,
    /// The ridge of the smoothing over labels, $\lambda$.
    #[method(min = 0)]
    pub ridge: f64,
    /// The largest weight, $B$.
    #[method(min = 1)]
    pub bound: f64,
    /// What the shares are used for: `rows` or `answers`.
    #[serde(rename = "use")]
    pub r#use: Use,
}

impl Default for MmdTars {
    fn default() -> Self {
        Self { gamma: Gamma::Rule(GammaRule::Scale), ridge: 1e-10, bound: 10.0, r#use: Use::Rows }
    }
}

impl Align for MmdTars {
    type View = Priors;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, _: &Host<'_>) -> Result<Aligned<Priors>> {
        let who = Self::CARD.name;
        let (of, classes) = source.y.classes(who)?;
        let mut one = Array2::zeros((of.len(), classes));
        of.iter().enumerate().for_each(|(row, class)| one[[row, *class]] = 1.0);
        // The one-hot labels are the answers of a learner that is always right; their check is that every class has a row.
        let shares = Answers::new(who, one.view(), source.y, one.view())?.shares;
        let gamma = self.gamma.of(who, source.x, target.x)?;
        let rows = of.len() as f64;
        let counts = Array1::from(shares.clone()) * rows;
        let (near, far) = (rbf(source.x, source.x, gamma), rbf(target.x, source.x, gamma));
        let smooth = counts.mapv(|count| count / (count + self.ridge));
        let (near, far) = (linalg::product(near.view(), one.view()), linalg::product(far.view(), one.view()));
        let quadratic =
            one.t().dot(&near) * &smooth * smooth.view().insert_axis(Axis(1)) + Array2::<f64>::eye(classes) * 1e-12;
        let linear = linalg::column_means(far.view()) * &smooth * -rows;
        let slack = (self.bound / (4.0 * rows.sqrt())).min(1.0) * rows;
        let (lower, upper) = (Array1::zeros(classes), Array1::from_elem(classes, self.bound));
        let qp = Qp {
            quadratic: quadratic.view(),
            linear: linear.view(),
            lower: lower.view(),
            upper: upper.view(),
            coefficients: counts.view(),
            slab: [rows - slack, rows + slack],
        };
        let scale = linear.iter().map(|number| number.abs()).fold(f64::MIN_POSITIVE, f64::max);
        let found = qp.solve(Array1::ones(classes).view(), 1e-12 * scale, 0.0, 1_000_000)?;
        let mean = found.x.dot(&counts) / rows;
        let weights: Vec<f64> = found.x.iter().map(|weight| weight / mean).collect();
        let moments = Moments::new(near / &counts, of, far / &counts);
        let estimate = moments.estimate(of, &shares, weights)?;
        let (lesson, mut facts, view) = used(source, estimate, self.r#use, None)?;
        facts.push(("gap", found.gap / found.value.abs().max(f64::MIN_POSITIVE)));
        Ok(Aligned { lesson, facts, view })
    }
}
