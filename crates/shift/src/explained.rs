use crate::affine::width;
use crate::{Affine, Align, Aligned, Explanation, Host, Kind, Lesson, Source, Target, View, ratio};
use acclimate_core::{Method, Result};
use acclimate_stats::mixture::MixtureSettings;
use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// Finds out which kind of shift accounts for the target, and does what mends that kind: nothing, weights of classes, a stretch, a turn, or
/// weights of rows.
///
/// # Mathematics
/// With a mixture of normal distributions for each class of the source, $\hat p(x \mid c)$, each kind is a density $q_k$ of the target's $n$
/// rows with $\theta_k$ fitted numbers, and scores
/// $$s_k = \sum_j \log q_k(t_j) - \tfrac12 \theta_k \log n .$$
/// `none` is $\sum_c p_c\, \hat p(x \mid c)$, `label` has shares $\pi_c$ in place of $p_c$, `conditional` moves and stretches the columns,
/// `subspace` turns principal axes, or columns, over too, and `covariate` is a mixture of the target's own, each row under one fitted without it. Then, in
/// this order:
///
/// 1. `subspace` where it beats all before it by `turn` nats for each row;
/// 2. `covariate` where all of `none`, `label`, `conditional` stay behind it by `free` nats for each row;
/// 3. `label` where it beats `none` and, by `margin` nats for each row, `conditional`;
/// 4. `conditional` where it beats `none`; else `none`.
///
/// Weights of classes are $\pi_c / p_c$; weights of rows are the two domains' densities over each other, brought to mean one.
///
/// # When to use
/// When the kind of shift is not known. Other shares of classes and a stretch can make much the same rows, and without labels of the target
/// only the rows speak: `margin` is what shares must be ahead by, for they fit a stretch they did not cause better than a stretch fits them.
/// Rows are few columns of numbers; above some ten columns mixtures are too coarse.
///
/// # Differences
/// Our own construction; its parts are the textbook's. `turn` and `free` were set on the simulated pairs of the seeds 100 to 117, `margin` on
/// those of 100 to 139, and judged on 0 to 9; other data may want others.
///
/// # Example
/// ```
/// use acclimate_shift::{Explained, Fit, Host, ShiftKind, ShiftedPair, Source, Target};
/// use acclimate_stats::learn::{Labels, Svc};
///
/// let pair = ShiftedPair::new(ShiftKind::Subspace, 0);
/// let labels = Labels::Classes { of: pair.source_labels.clone(), count: 2 };
/// let source = Source::new(pair.source.view(), &labels)?;
/// let target = Target::new(pair.target.view(), &source)?;
/// let fit = Fit::new(&Explained::default(), &source, &target, &Host { learner: &Svc::default(), seed: 0 })?;
/// let right = fit.predict(pair.target.view())?.iter().zip(&pair.target_labels).filter(|(a, b)| a == b).count();
/// assert!(right * 10 > 9 * pair.target_labels.len());
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Lalou et al., *SKADA-Bench*, arXiv:2407.11676, whose simulated kinds it tells apart. Saerens, Latinne and Decaestecker, *Adjusting the
/// outputs of a classifier to new a priori probabilities*, Neural Computation 14, 2002, for the shares.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "explained", title = "Explained shift", catalogue = [28], paper = "arxiv:2407.11676", year = 2024)]
#[method(case = "", case = "components = 2")]
pub struct Explained {
    /// Normal distributions of a density at most.
    #[method(min = 1)]
    pub components: usize,
    /// Nats for each row by which turned axes must beat all that moves less.
    #[method(min = 0)]
    pub turn: f64,
    /// Nats for each row by which all that moves or weighs classes may stay behind a density of the target's own.
    #[method(min = 0)]
    pub free: f64,
    /// Nats for each row by which other shares of classes must beat a stretch.
    #[method(min = 0)]
    pub margin: f64,
}

impl Default for Explained {
    fn default() -> Self {
        Self { components: 5, turn: 0.5, free: 0.1, margin: 0.0375 }
    }
}

/// Rows of the source moved onto the target, where they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// What the target was taken for.
    pub kind: Kind,
    /// The map of the source; none leaves it as it is.
    pub map: Option<Affine>,
    features: usize,
}

impl View for Moved {
    fn show(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        width(self.features, rows).map(|()| rows.to_owned())
    }

    fn show_source(&self, rows: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        match &self.map {
            Some(map) => map.of(rows),
            None => self.show(rows),
        }
    }
}

impl Explained {
    /// The kind that the scores speak for.
    pub(crate) fn kind(&self, found: &Explanation, rows: usize) -> Kind {
        let score = |kind| found.score(kind).unwrap_or(f64::NEG_INFINITY);
        let (none, label, conditional) = (score(Kind::None), score(Kind::Label), score(Kind::Conditional));
        let best = none.max(label).max(conditional);
        if score(Kind::Subspace) - best > self.turn * rows as f64 {
            Kind::Subspace
        } else if score(Kind::Covariate) - best > self.free * rows as f64 {
            Kind::Covariate
        } else if label > none && label - conditional > self.margin * rows as f64 {
            Kind::Label
        } else if conditional > none {
            Kind::Conditional
        } else {
            Kind::None
        }
    }
}

impl Align for Explained {
    type View = Moved;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Moved>> {
        let settings = MixtureSettings { components: self.components, seed: host.seed, ..MixtureSettings::default() };
        let found = Explanation::new(source, target, &settings)?;
        let kind = self.kind(&found, target.x.nrows());
        let mut facts: Vec<(&'static str, f64)> =
            found.candidates.iter().map(|candidate| (candidate.kind.name(), candidate.score)).collect();
        let mut weigh = |weights: Array1<f64>| -> Result<Lesson> {
            let (weights, _) = ratio::mean_one(Self::CARD.name, weights)?;
            facts.extend(ratio::facts(weights.view()));
            Ok(Lesson::weighted(source, weights))
        };
        let moved = |map: &Affine| -> Result<Lesson> {
            Ok(Lesson { x: map.of(source.x)?, y: source.y.clone(), weights: None })
        };
        let (lesson, map) = match kind {
            Kind::None => (Lesson::of(source), None),
            Kind::Label => {
                let (of, _) = source.y.classes(Self::CARD.name)?;
                (weigh(of.iter().map(|class| found.shares[*class] / found.source_shares[*class]).collect())?, None)
            }
            Kind::Conditional => (moved(&found.stretched)?, Some(found.stretched)),
            Kind::Subspace => (moved(&found.turned)?, Some(found.turned)),
            Kind::Covariate => (weigh(found.ratio(source.x))?, None),
        };
        Ok(Aligned { lesson, facts, view: Moved { kind, map, features: source.x.ncols() } })
    }
}
