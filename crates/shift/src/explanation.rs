//! What kinds of shift turn a source into a target: each kind as a density, held against the target's rows.

use crate::ratio::drawn_order;
use crate::{Affine, Source, Target};
use acclimate_core::{Error, Result, Rng};
use acclimate_stats::learn::{Labels, select};
use acclimate_stats::linalg::{column_means, covariance, symmetric_eigen};
use acclimate_stats::mixture::{Mixture, MixtureSettings, log_sum_exp};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

/// A kind of shift, from the one that changes least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Both domains are alike.
    None,
    /// Shares of the classes differ, $p_T(x) = \sum_c \pi_c\, p_S(x \mid c)$.
    Label,
    /// Rows are stretched along the columns and moved, and keep their labels.
    Conditional,
    /// Rows are turned over along principal axes or columns, stretched and moved, and keep their labels.
    Subspace,
    /// Where rows lie differs in a way that none of the others gives; labels follow the same rule as before.
    Covariate,
}

impl Kind {
    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Label => "label",
            Self::Conditional => "conditional",
            Self::Subspace => "subspace",
            Self::Covariate => "covariate",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One kind of shift and how well it accounts for the target.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The kind.
    pub kind: Kind,
    /// The log-likelihood of all rows of the target less the cost of what was fitted to them, as its BIC counts it, in nats. That of
    /// [`Kind::Covariate`] is of each row under a density fitted without it.
    pub score: f64,
}

/// How the target may have come out of the source.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Every kind that was tried.
    pub candidates: Vec<Candidate>,
    /// The shares of the classes under [`Kind::Label`]; empty where labels are numbers.
    pub shares: Vec<f64>,
    /// The shares of the classes in the source; empty where labels are numbers.
    pub source_shares: Vec<f64>,
    /// How rows of the source go over to the target under [`Kind::Conditional`].
    pub stretched: Affine,
    /// The same under [`Kind::Subspace`].
    pub turned: Affine,
    /// How many numbers the source's density has: about so many nats a kind that is true may lose by not knowing the source better.
    pub slack: f64,
    source: Mixture,
    target: Mixture,
}

/// Principal axes above this number are not turned: there would be too many ways.
const MOST_TURNED: usize = 6;
/// Folds in which the target's own density is judged.
const FOLDS: usize = 5;

impl Explanation {
    /// Fits a density to the source, class by class, and asks for each kind how likely it makes the target.
    ///
    /// # Errors
    /// When a domain has fewer than ten rows, or a column is constant in one.
    pub fn new(source: &Source<'_>, target: &Target<'_>, settings: &MixtureSettings) -> Result<Self> {
        let (rows, width) = target.x.dim();
        if rows < 10 || source.x.nrows() < 10 {
            return Err(Error::Other(
                "a kind of shift is told by ten rows of each domain at least; give more".to_owned(),
            ));
        }
        // Densities are begun at drawn rows: what is drawn may not depend on the order in which rows are given.
        let order = |x: ArrayView2<'_, f64>| drawn_order(x, settings.seed, "explanation");
        let y = source.y.select(&order(source.x));
        let [ours, theirs] = [source.x, target.x].map(|x| select(x, &order(x)));
        let (source, target) = (&Source { x: ours.view(), y: &y }, &Target { x: theirs.view() });
        let classes: Vec<ClassDensity> = match source.y {
            Labels::Classes { of, count } => (0..*count)
                .map(|class| -> Result<Option<ClassDensity>> {
                    let of: Vec<usize> = (0..of.len()).filter(|row| of[*row] == class).collect();
                    if of.is_empty() {
                        return Ok(None);
                    }
                    let share = of.len() as f64 / source.y.len() as f64;
                    let density = Mixture::fit(select(source.x, &of).view(), settings)?;
                    Ok(Some(ClassDensity { class, share, density }))
                })
                .filter_map(Result::transpose)
                .collect::<Result<_>>()?,
            Labels::Numbers(_) => {
                vec![ClassDensity { class: 0, share: 1.0, density: Mixture::fit(source.x, settings)? }]
            }
        };
        let price = |numbers: usize| 0.5 * numbers as f64 * (rows as f64).ln();
        let mut candidates = Vec::new();
        let plain = class_log_densities(&classes, target.x);
        candidates.push(Candidate { kind: Kind::None, score: mixed(&plain, &classes).sum() });
        let (mut shares, mut source_shares) = (Vec::new(), Vec::new());
        if let Labels::Classes { count, .. } = source.y {
            let (found, likelihood) = class_shares(&plain, &classes);
            candidates.push(Candidate { kind: Kind::Label, score: likelihood - price(classes.len() - 1) });
            (shares, source_shares) = (vec![0.0; *count], vec![0.0; *count]);
            for (class, share) in classes.iter().zip(found) {
                shares[class.class] = share;
                source_shares[class.class] = class.share;
            }
        }
        let stretched = stretch(source.x, target.x)?;
        let likelihood = pulled_back(&stretched, &classes, target.x)?;
        candidates.push(Candidate { kind: Kind::Conditional, score: likelihood - price(2 * width) });
        let (turned, likelihood, ways) = turn(source.x, target.x, &classes)?;
        let cost = price(width + width * (width + 1) / 2) + (ways as f64).ln();
        candidates.push(Candidate { kind: Kind::Subspace, score: likelihood - cost });
        candidates.push(Candidate { kind: Kind::Covariate, score: held_out(target.x, settings)? });
        let slack = classes.iter().map(|class| class.density.freedom() as f64).sum();
        let (source, target) = (Mixture::fit(source.x, settings)?, Mixture::fit(target.x, settings)?);
        Ok(Self { candidates, shares, source_shares, stretched, turned, slack, source, target })
    }

    /// The score of a kind, if it was tried.
    pub fn score(&self, kind: Kind) -> Option<f64> {
        self.candidates.iter().find(|candidate| candidate.kind == kind).map(|candidate| candidate.score)
    }

    /// The density of the target over that of the source at any rows, both fitted as they are.
    pub fn ratio(&self, rows: ArrayView2<'_, f64>) -> Array1<f64> {
        (self.target.log_density(rows) - self.source.log_density(rows)).mapv(f64::exp)
    }
}

/// The density of the rows of a class.
struct ClassDensity {
    class: usize,
    share: f64,
    density: Mixture,
}

/// `[rows, classes]`.
fn class_log_densities(classes: &[ClassDensity], x: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut found = Array2::zeros((x.nrows(), classes.len()));
    for (mut column, class) in found.columns_mut().into_iter().zip(classes) {
        column.assign(&class.density.log_density(x));
    }
    found
}

/// The log-density of each row under the source's shares.
fn mixed(by_class: &Array2<f64>, classes: &[ClassDensity]) -> Array1<f64> {
    let shares: Vec<f64> = classes.iter().map(|class| class.share).collect();
    let at = |row: ArrayView1<'_, f64>| log_sum_exp(row.iter().zip(&shares).map(|(log, share)| log + share.ln()));
    by_class.rows().into_iter().map(at).collect()
}

/// The shares of classes that make the rows most likely, and that log-likelihood. The likelihood is concave: where it starts does not matter.
fn class_shares(by_class: &Array2<f64>, classes: &[ClassDensity]) -> (Vec<f64>, f64) {
    let mut shares: Vec<f64> = classes.iter().map(|class| class.share).collect();
    let mut likelihood = 0.0;
    for _ in 0..1000 {
        let mut next = vec![0.0; shares.len()];
        likelihood = 0.0;
        for row in by_class.rows() {
            let joint = |k: usize| row[k] + shares[k].ln();
            let whole = log_sum_exp((0..shares.len()).map(joint));
            likelihood += whole;
            for (k, next) in next.iter_mut().enumerate() {
                *next += (joint(k) - whole).exp() / by_class.nrows() as f64;
            }
        }
        let moved = next.iter().zip(&shares).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        shares = next;
        if moved < 1e-10 {
            break;
        }
    }
    (shares, likelihood)
}

/// The log-likelihood of the target where it is the mapped source.
fn pulled_back(map: &Affine, classes: &[ClassDensity], x: ArrayView2<'_, f64>) -> Result<f64> {
    let identity = Array2::eye(map.after.len());
    let inverse = acclimate_stats::linalg::solve(map.matrix.view(), identity.view())?;
    let back = (&x - &map.after).dot(&inverse) + &map.before;
    // |det A| by its singular values.
    let (_, singular, _) = acclimate_stats::linalg::svd(map.matrix.view())?;
    let log_det: f64 = singular.iter().map(|s| s.ln()).sum();
    Ok(mixed(&class_log_densities(classes, back.view()), classes).sum() - x.nrows() as f64 * log_det)
}

/// Columns to the target's means and deviations.
fn stretch(source: ArrayView2<'_, f64>, target: ArrayView2<'_, f64>) -> Result<Affine> {
    let deviation = |name: &str, x: ArrayView2<'_, f64>| {
        let deviations = x.std_axis(ndarray::Axis(0), 0.0);
        match deviations.iter().position(|deviation| *deviation <= 0.0) {
            Some(column) => Err(Error::Other(format!("column {} of the {name} is constant; leave it out", column + 1))),
            None => Ok(deviations),
        }
    };
    let (from, to) = (deviation("source", source)?, deviation("target", target)?);
    Ok(Affine { before: column_means(source), matrix: Array2::from_diag(&(to / from)), after: column_means(target) })
}

/// Principal axes to principal axes, or columns to columns, each either way round: the way that makes the target most likely, without those
/// that turn nothing.
fn turn(
    source: ArrayView2<'_, f64>,
    target: ArrayView2<'_, f64>,
    classes: &[ClassDensity],
) -> Result<(Affine, f64, usize)> {
    let ((s_values, s_axes), (t_values, t_axes)) =
        (symmetric_eigen(covariance(source, 0).view())?, symmetric_eigen(covariance(target, 0).view())?);
    let width = s_values.len();
    // The sign of an eigenvector is arbitrary: an axis of the target points where the source's does, as far as they are alike.
    let mut t_axes = t_axes;
    for (mut axis, other) in t_axes.columns_mut().into_iter().zip(s_axes.columns()) {
        if axis.dot(&other) < 0.0 {
            axis *= -1.0;
        }
    }
    let (from, to) = (column_means(source), column_means(target));
    let floor = |value: f64| value.max(f64::MIN_POSITIVE).sqrt();
    let turned = width.min(MOST_TURNED);
    let signs = (1usize << turned) - 1;
    // The axes of most variance are the last.
    let sign = |way: usize, axis: usize| {
        if axis + turned >= width && (way >> (width - 1 - axis)) & 1 == 1 { -1.0 } else { 1.0 }
    };
    let along_axes = |way: usize| {
        let stretch = |axis: usize| sign(way, axis) * floor(t_values[axis]) / floor(s_values[axis]);
        (&s_axes * &(0..width).map(stretch).collect::<Array1<f64>>()).dot(&t_axes.t())
    };
    // Where variances are near one another axes are anywhere; columns are where they were.
    let spread = |x: ArrayView2<'_, f64>| x.std_axis(ndarray::Axis(0), 0.0);
    let columns = spread(target) / spread(source);
    let along_columns = |way: usize| {
        Array2::from_diag(&columns.iter().enumerate().map(|(axis, by)| sign(way, axis) * by).collect::<Array1<f64>>())
    };
    let mut ways: Vec<Array2<f64>> = (1..=signs).map(along_axes).collect();
    if turned == width {
        ways.extend((1..=signs).map(along_columns));
    }
    let count = ways.len();
    let mut best: Option<(Affine, f64)> = None;
    for matrix in ways {
        let map = Affine { before: from.clone(), matrix, after: to.clone() };
        let likelihood = pulled_back(&map, classes, target)?;
        if best.as_ref().is_none_or(|(_, most)| likelihood > *most) {
            best = Some((map, likelihood));
        }
    }
    let (map, likelihood) = best.ok_or_else(|| Error::Other("rows have no column; give one at least".to_owned()))?;
    Ok((map, likelihood, count))
}

/// The log-likelihood of each row under a density of the other folds.
fn held_out(x: ArrayView2<'_, f64>, settings: &MixtureSettings) -> Result<f64> {
    let mut order: Vec<usize> = (0..x.nrows()).collect();
    Rng::new(settings.seed, "explanation folds", 0).shuffle(&mut order);
    let mut total = 0.0;
    for fold in 0..FOLDS {
        let (held, train): (Vec<_>, Vec<_>) =
            order.iter().copied().enumerate().partition(|(place, _)| place % FOLDS == fold);
        let rows = |picked: Vec<(usize, usize)>| picked.into_iter().map(|(_, row)| row).collect::<Vec<_>>();
        let density = Mixture::fit(select(x, &rows(train)).view(), settings)?;
        total += density.log_density(select(x, &rows(held)).view()).sum();
    }
    Ok(total)
}
