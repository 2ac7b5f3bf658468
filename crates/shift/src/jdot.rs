use crate::coupling::{carried, exact, ground, taught};
use crate::{Align, Aligned, Host, Norm, Plain, Source, Target};
use acclimate_core::{Method, Result};
use acclimate_stats::learn::{Fitted, Labels};
use acclimate_stats::transport::Metric;
use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// How a learner's answer for a class is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pricing {
    /// The negative logarithm of the probability.
    #[default]
    CrossEntropy,
    /// What the decisions lack to a margin of one, summed over the classes.
    Hinge,
}

/// Couples rows together with labels: a coupling and a learner on the target, fitted in turn.
///
/// # Mathematics
/// With features' costs $D_{ij} = d(x_i, t_j) / s$, where $s$ is their mean, a loss $\ell$ and a learner $f$,
/// $$\min_{P, f} \sum_{ij} P_{ij} \big((1 - \alpha) D_{ij} + \alpha\, \ell(y_i, f(t_j))\big)
///   \quad\text{where}\quad P \ge 0,\ P 1 = \tfrac1n 1,\ P^\top 1 = \tfrac1m 1.$$
/// The first coupling $P$ has the features' costs alone. Then in turn the learner is fitted on the target's rows with the labels
/// $\hat Y = m\, P^\top Y$ that the coupling carries, a row once for each class with its share as weight, and the coupling of least cost is
/// sought. It ends when the sum changes by less than `tolerance` from one fit to the next, or after `steps` fits. The lesson is that of the
/// last fit. Losses, with one-hot labels $y_c$, are
/// $$-\sum_c y_c \log p_c, \qquad \sum_c \max\big(0, 1 - (2 y_c - 1) f_c\big), \qquad (y - f)^2,$$
/// by probabilities, by decisions, or of numbers, whatever `loss` says.
///
/// # When to use
/// Where labels change with the features along the shift, and the shares of classes are like in both domains. The loss should be the one
/// that the learner lowers: `cross_entropy` for logistic regression, `hinge` for support vector machines, and least squares for numbers;
/// else the sum need not fall, and only `steps` is sure to end it.
///
/// # Differences
/// The paper writes $\alpha D + \ell$. skada 0.4.0 has the weights as here. Its hinge loss of two classes takes the decision for the second
/// class as that for the first too, so that both classes cost the same, no coupling depends on the learner, and the result is that of label
/// propagation: `compat = true`. It also ends when the learner's loss on its own lesson changes little. Probabilities below $10^{-16}$
/// count as that.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::{Jdot, Pricing};
///
/// let method = Jdot::from_table(&"alpha = 0.1\nloss = 'hinge'".parse().unwrap())?;
/// assert_eq!(method.loss, Pricing::Hinge);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Courty, Flamary, Habrard and Rakotomamonjy, *Joint Distribution Optimal Transportation for Domain Adaptation*, NeurIPS 2017,
/// arXiv:1705.08848.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "jdot", title = "JDOT", catalogue = [28], paper = "arxiv:1705.08848", year = 2017)]
#[method(needs(labels), case = "", case = "loss = \"hinge\"\nalpha = 0.1", case = "metric = \"cityblock\"\nsteps = 2")]
pub struct Jdot {
    /// The share of the labels in the costs, $\alpha$.
    #[method(min = 0, max = 1)]
    pub alpha: f64,
    /// How classes are priced: `cross_entropy` or `hinge`.
    pub loss: Pricing,
    /// The features' cost of a pair of rows, $d$: `sqeuclidean`, `cosine` or `cityblock`.
    pub metric: Metric,
    /// What the features' costs are divided by, $s$: `none`, `median` or `mean`.
    pub norm: Norm,
    /// Fits at most.
    #[method(min = 1)]
    pub steps: usize,
    /// The change of the sum at which it ends.
    #[method(min = 0)]
    pub tolerance: f64,
    /// Prices both of two classes by the decision for the second, as skada 0.4.0 does with `hinge`.
    pub compat: bool,
}

impl Default for Jdot {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            loss: Pricing::CrossEntropy,
            metric: Metric::Sqeuclidean,
            norm: Norm::Mean,
            steps: 100,
            tolerance: 1e-5,
            compat: false,
        }
    }
}

impl Align for Jdot {
    type View = Plain;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Plain>> {
        let features = ground(self.metric, self.norm, source, target).settled(self.metric, source, target);
        let mut plan = exact(&features)?;
        let features = features * (1.0 - self.alpha);
        let mut before = f64::INFINITY;
        let mut fits = 0;
        loop {
            let lesson = taught(target.x, &carried(&plan, source.y), source.y);
            let cost = &features + &(self.losses(host.learn(&lesson)?.as_ref(), source.y, target.x)? * self.alpha);
            let sum = (&plan * &cost).sum();
            fits += 1;
            if fits == self.steps || (before - sum).abs() < self.tolerance {
                let facts = vec![("fits", fits as f64), ("objective", sum)];
                return Ok(Aligned { lesson, facts, view: Plain {} });
            }
            before = sum;
            plan = exact(&cost)?;
        }
    }
}

impl Jdot {
    /// What each label of the source costs at each row of the target, `[source, target]`.
    fn losses(&self, learner: &dyn Fitted, y: &Labels, x: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let of = match y {
            Labels::Numbers(numbers) => {
                let found = learner.answers(x)?;
                let square = |(i, j): (usize, usize)| (numbers[i] - found[[j, 0]]) * (numbers[i] - found[[j, 0]]);
                return Ok(Array2::from_shape_fn((numbers.len(), x.nrows()), square));
            }
            Labels::Classes { of, .. } => of,
        };
        let prices = match self.loss {
            Pricing::CrossEntropy => learner.answers(x)?.mapv(|p| -p.max(1e-16).ln()),
            Pricing::Hinge => {
                let mut decisions = learner.decisions(x)?;
                if self.compat && decisions.ncols() == 2 {
                    let second = decisions.column(1).to_owned();
                    decisions.column_mut(0).assign(&second);
                }
                let lack = |margin: f64| (1.0 - margin).max(0.0);
                // Of each class: its own price, and for all others that they are not meant.
                let not = decisions.mapv(|decision| lack(-decision));
                let all = not.sum_axis(ndarray::Axis(1)).insert_axis(ndarray::Axis(1));
                decisions.mapv(lack) - &not + &all
            }
        };
        Ok(Array2::from_shape_fn((of.len(), x.nrows()), |(i, j)| prices[[j, of[i]]]))
    }
}
