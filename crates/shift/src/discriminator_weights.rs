use crate::{Align, Aligned, Host, Lesson, Source, Target, View, ratio};
use acclimate_core::{Method, Result};
use acclimate_stats::learn::{Fitted, Labels, Learner, Logistic, Nearest, Svc, select};
use ndarray::{Array1, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

/// Weighs each source row by the odds with which a classifier takes it for the target's.
///
/// # Mathematics
/// A classifier is fitted on the rows of both domains with the domain as the class; with its probability $P(t \mid x)$,
/// $$w(x) = \frac{n_s}{n_t} \cdot \frac{P(t \mid x)}{P(s \mid x)} \approx \frac{p_t(x)}{p_s(x)},$$
/// brought to mean one over the source, which takes the first factor away. $P(s \mid x)$ counts as at least the machine's epsilon.
///
/// # When to use
/// Covariate shift in many columns, where densities are out of reach. `logistic` gives $\log w$ linear in the columns, which is exact for
/// Gaussians of one covariance; `svc` and `nearest` bend. A classifier that separates the domains gives weights of zero but for a few rows.
///
/// # Differences
/// skada weighs by $P(s \mid x) / P(t \mid x)$, the inverse: rows far from the target count most. `compat = true` does so. Its nearest-neighbour
/// classifier is not registered there; it works here.
///
/// # Example
/// ```
/// use acclimate_shift::DiscriminatorWeights;
/// use acclimate_core::Method;
///
/// let method = DiscriminatorWeights::from_table(&"learner = \"svc\"".parse().unwrap())?;
/// assert!(!method.compat);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Bickel, Brückner and Scheffer, *Discriminative learning under covariate shift*, Journal of Machine Learning Research 10, 2009. Sugiyama,
/// Suzuki and Kanamori, *Density Ratio Estimation in Machine Learning*, 2012, doi:10.1017/CBO9781139035613.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "discriminator_weights", title = "Discriminator weights", catalogue = [28])]
#[method(paper = "doi:10.1017/CBO9781139035613", year = 2009)]
#[method(case = "", case = "learner = \"nearest\"", case = "learner = \"svc\"")]
pub struct DiscriminatorWeights {
    /// The classifier, with its own settings as they are: `logistic`, `svc` or `nearest`.
    pub learner: Discriminator,
    /// Weighs by the inverse, as skada 0.4.0 does.
    pub compat: bool,
}

/// Who tells the domains apart in [`DiscriminatorWeights`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discriminator {
    /// Logistic regression with a light penalty.
    #[default]
    Logistic,
    /// Support vectors with a Gaussian kernel and fitted probabilities.
    Svc,
    /// The five nearest rows.
    Nearest,
}

impl Discriminator {
    fn learner(self, seed: u64) -> Box<dyn Learner> {
        match self {
            Self::Logistic => Box::new(Logistic::default()),
            Self::Svc => Box::new(Svc { probability: true, seed, ..Svc::default() }),
            Self::Nearest => Box::new(Nearest::default()),
        }
    }
}

/// The fitted classifier.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Odds {
    learner: Discriminator,
    fitted: serde_json::Value,
    inverse: bool,
    mean: f64,
}

impl View for Odds {
    fn weigh(&self, rows: ArrayView2<'_, f64>) -> Option<Result<Array1<f64>>> {
        let fitted = self.learner.learner(0).restore(self.fitted.clone());
        Some(fitted.and_then(|fitted| Ok(odds(fitted.as_ref(), rows, self.inverse)? / self.mean)))
    }
}

fn odds(fitted: &dyn Fitted, rows: ArrayView2<'_, f64>, inverse: bool) -> Result<Array1<f64>> {
    let odds = |row: ndarray::ArrayView1<'_, f64>| {
        let (over, under) = if inverse { (row[0], row[1]) } else { (row[1], row[0]) };
        over / under.max(f64::EPSILON)
    };
    Ok(fitted.answers(rows)?.rows().into_iter().map(odds).collect())
}

impl Align for DiscriminatorWeights {
    type View = Odds;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Odds>> {
        let rows = concatenate![Axis(0), source.x, target.x];
        // A learner may deal rows out as they come.
        let order = ratio::drawn_order(rows.view(), host.seed, Self::CARD.name);
        let of = order.iter().map(|row| usize::from(*row >= source.x.nrows())).collect();
        let y = Labels::Classes { of, count: 2 };
        let fitted = self.learner.learner(host.seed).fit(select(rows.view(), &order).view(), &y, None)?;
        let raw = odds(fitted.as_ref(), source.x, self.compat)?;
        let (weights, mean) = ratio::mean_one(Self::CARD.name, raw)?;
        let facts = ratio::facts(weights.view());
        let view = Odds { learner: self.learner, fitted: fitted.save(), inverse: self.compat, mean };
        Ok(Aligned { lesson: Lesson::weighted(source, weights), facts, view })
    }
}
