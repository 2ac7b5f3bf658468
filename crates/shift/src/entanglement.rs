use crate::{Calculator, Source};
use acclimate_core::{Error, Method, Result, Rng};
use acclimate_stats::learn::{largest, select};
use acclimate_stats::transport::{Metric, Sinkhorn, costs, exact, median, sinkhorn, uniform};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// The loss whose risks are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Penalty {
    /// One less the probability of the label.
    #[default]
    Probability,
    /// One where the most probable class is another. Outputs are then that class alone.
    ZeroOne,
    /// The squared distance from the probabilities to the one-hot label.
    Brier,
}

/// How the labels' distribution at an output is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditional {
    /// By the label of each row.
    #[default]
    Sample,
    /// By the shares of labels among rows with one predicted class and about the same confidence.
    Binned,
}

/// Splits the gap between the risks of two domains into what matching can close and what it cannot.
///
/// # Mathematics
/// A row has the output $u$, a vector of probabilities, and the label $y$. With $d(u, u') = \frac12 \lVert u - u' \rVert_1$, $[y \ne y']$
/// as the distance of labels and a loss with $\lvert \ell(u, y) - \ell(u', y') \rvert \le L (d(u, u') + [y \ne y'])$, any coupling $\pi$ of
/// the outputs and any coupling $\gamma$ of the labels of both domains give
/// $$\lvert R_t - R_s \rvert \le L\, W(P_s, P_t) \le L \big(\underbrace{E_\pi\, d(u, u')}_{\text{alignment}} +
///   \underbrace{E_\pi\, W(P_s(y \mid u), P_t(y \mid u'))}_{\text{prediction entanglement}}\big),$$
/// $$L\, W(P_s, P_t) \le L \big(\underbrace{E_\gamma [y \ne y']}_{\text{label shift}} +
///   \underbrace{E_\gamma\, W(P_s(u \mid y), P_t(u \mid y'))}_{\text{label entanglement}}\big).$$
/// $W$ is the Wasserstein distance, of outputs and labels together in $W(P_s, P_t)$, the `joint` term. $\pi$ has the least alignment and,
/// of those that tie (to $10^{-6}$), the least entanglement. $\gamma$ leaves as many labels as they are as it can and shares out the rest
/// in proportion. $L$ is one for $1 - u_y$ and for 0-1 loss, and four for Brier's. With `conditionals = "sample"` each row is its own cell:
/// entanglement is $\sum_{ij} \pi_{ij} [y_i \ne y_j]$, and the bounds hold for the rows given. With `binned` rows of one predicted class
/// and confidence share a cell, whose output is their mean over both domains.
///
/// # When to use
/// To see why an adaptation helped or harmed: audit labelled rows of both domains before and after. Methods that match outputs lower the
/// alignment term alone; where that raises the entanglement by more, the target loses. Differences between two audits tell more than the
/// bounds, which are often near one. With guesses as labels of the target the numbers are a hint and no bound. Nothing here may be used to
/// fit: it sees the target's labels.
///
/// # Differences
/// The inequalities have the paper's terms and are derived here, from couplings that are glued along the outputs or the labels. With
/// `binned` the bounds hold for the means of cells, not for the rows.
///
/// # Example
/// ```
/// use acclimate_shift::{Entanglement, Source};
/// use acclimate_stats::learn::Labels;
/// use ndarray::array;
///
/// // The outputs are the same and half of the labels are not.
/// let outputs = array![[0.9, 0.1], [0.2, 0.8]];
/// let labels = |of: [usize; 2]| Labels::Classes { of: of.to_vec(), count: 2 };
/// let (ours, theirs) = (labels([0, 1]), labels([0, 0]));
/// let (source, target) = (Source::new(outputs.view(), &ours)?, Source::new(outputs.view(), &theirs)?);
/// let found = Entanglement::default().audit(&source, &target)?;
/// assert!(found.alignment < 1e-9 && (found.prediction_entanglement - 0.5).abs() < 1e-9);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Koç, Soen, Chiang and Sugiyama, *Domain Adaptation and Entanglement: an Optimal Transport Perspective*, AISTATS 2025, arXiv:2503.08155.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "entanglement", title = "Entanglement", catalogue = [72], paper = "arxiv:2503.08155", year = 2025)]
#[method(
    needs(labels),
    case = "",
    case = "loss = \"brier\"",
    case = "loss = \"zero_one\"",
    case = "conditionals = \"binned\""
)]
pub struct Entanglement {
    /// The loss: `probability`, `zero_one` or `brier`.
    pub loss: Penalty,
    /// How the labels' distribution at an output is known: `sample` or `binned`.
    pub conditionals: Conditional,
    /// Cells of confidence for each predicted class, where `binned`.
    #[method(min = 1)]
    pub bins: usize,
    /// Rows of a domain up to which couplings are of least cost; above, they are entropic with exact marginals.
    #[method(min = 1)]
    pub rows: usize,
    /// The weight of the entropy, as a share of the median cost.
    #[method(above = 0)]
    pub reg: f64,
}

impl Default for Entanglement {
    fn default() -> Self {
        Self { loss: Penalty::Probability, conditionals: Conditional::Sample, bins: 10, rows: 2000, reg: 0.01 }
    }
}

impl Calculator for Entanglement {}

/// The terms of an audit. Terms by class are by the class of the target, and add up to the whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entangled {
    /// The mean loss on the source.
    pub source_risk: f64,
    /// The mean loss on the target.
    pub target_risk: f64,
    /// By how much the loss can differ for each unit of distance, $L$.
    pub slope: f64,
    /// The expected distance of coupled outputs.
    pub alignment: f64,
    /// The expected distance of the labels' distributions at coupled outputs.
    pub prediction_entanglement: f64,
    /// The share of labels that have to change.
    pub label_shift: f64,
    /// The expected distance of the outputs' distributions at coupled labels.
    pub label_entanglement: f64,
    /// The distance of outputs and labels together; no bound of this kind can be below.
    pub joint: f64,
    /// The alignment by class.
    pub alignment_by_class: Vec<f64>,
    /// The prediction entanglement by class.
    pub prediction_by_class: Vec<f64>,
    /// The label entanglement by class.
    pub label_by_class: Vec<f64>,
}

impl Entangled {
    /// What the target's risk is at most by alignment and prediction entanglement.
    pub fn bound(&self) -> f64 {
        self.source_risk + self.slope * (self.alignment + self.prediction_entanglement)
    }

    /// What the target's risk is at most by label shift and label entanglement.
    pub fn bound_by_labels(&self) -> f64 {
        self.source_risk + self.slope * (self.label_shift + self.label_entanglement)
    }

    /// What the target's risk is at most by the joint distance.
    pub fn bound_by_both(&self) -> f64 {
        self.source_risk + self.slope * self.joint
    }

    /// By how much alignment, prediction entanglement and the target's risk rose since another audit.
    pub fn since(&self, before: &Self) -> [f64; 3] {
        [
            self.alignment - before.alignment,
            self.prediction_entanglement - before.prediction_entanglement,
            self.target_risk - before.target_risk,
        ]
    }
}

/// The parts of the labels' distance, and of the outputs' squared distance, in costs that tie. Distances of this kind tie as a rule, and
/// terms by class would depend on the order of rows.
const TIES: [f64; 2] = [1e-6, 1e-9];

/// Outputs with their masses and what labels they have, each row a cell.
struct Cells {
    outputs: Array2<f64>,
    masses: Array1<f64>,
    labels: Array2<f64>,
}

impl Entanglement {
    /// All terms, from probabilities of classes as rows and labels of both domains.
    ///
    /// # Errors
    /// When rows are no probabilities, labels are numbers, or the domains differ in their classes.
    pub fn audit(&self, source: &Source<'_>, target: &Source<'_>) -> Result<Entangled> {
        self.check()?;
        let (ours, theirs) = (self.outputs("source", source)?, self.outputs("target", target)?);
        let ((of, count), (other, others)) = (source.y.classes(Self::CARD.name)?, target.y.classes(Self::CARD.name)?);
        if count != others {
            return refused(format!("the source has {count} classes and the target {others}; name them alike"));
        }
        let [from, to] = self.cells([(&ours, of), (&theirs, other)], count);
        let apart = costs(Metric::Cityblock, from.outputs.view(), to.outputs.view()) * 0.5;
        let unlike = costs(Metric::Cityblock, from.labels.view(), to.labels.view()) * 0.5;
        let squares = costs(Metric::Sqeuclidean, from.outputs.view(), to.outputs.view());
        let cost = &apart + &(&unlike * TIES[0]) + &(squares * TIES[1]);
        let plan = self.coupling(&cost, from.masses.view(), to.masses.view())?;
        let (mut alignment, mut prediction) = (vec![0.0; count], vec![0.0; count]);
        for ((i, j), mass) in plan.indexed_iter().filter(|(_, mass)| **mass > 0.0) {
            for class in 0..count {
                let (here, there) = (from.labels[[i, class]], to.labels[[j, class]]);
                alignment[class] += mass * apart[[i, j]] * there;
                // What is missing to a class has to come from others: over all classes that is the distance.
                prediction[class] += mass * (there - here).max(0.0);
            }
        }
        let label = self.by_labels([(&ours, of), (&theirs, other)], count)?;
        let (p, q) = (shares(of, count), shares(other, count));
        let apart = costs(Metric::Cityblock, ours.view(), theirs.view()) * 0.5;
        let joint = Array2::from_shape_fn(apart.dim(), |(i, j)| apart[[i, j]] + f64::from(u8::from(of[i] != other[j])));
        let masses = (uniform(of.len()), uniform(other.len()));
        Ok(Entangled {
            source_risk: self.risk(&ours, of),
            target_risk: self.risk(&theirs, other),
            slope: if self.loss == Penalty::Brier { 4.0 } else { 1.0 },
            alignment: alignment.iter().sum(),
            prediction_entanglement: prediction.iter().sum(),
            label_shift: p.iter().zip(&q).map(|(p, q)| (p - q).max(0.0)).sum(),
            label_entanglement: label.iter().sum(),
            joint: (self.coupling(&joint, masses.0.view(), masses.1.view())? * &joint).sum(),
            alignment_by_class: alignment,
            prediction_by_class: prediction,
            label_by_class: label,
        })
    }

    /// Audits of rows drawn again with replacement in both domains; their quantiles tell how certain the terms are. Distances of few rows
    /// are too large on average, and those of rows drawn again more so.
    ///
    /// # Errors
    /// As [`Entanglement::audit`].
    pub fn resampled(
        &self,
        source: &Source<'_>,
        target: &Source<'_>,
        times: usize,
        seed: u64,
    ) -> Result<Vec<Entangled>> {
        let one = |time: usize| {
            let mut rng = Rng::new(seed, "entanglement", time as u64);
            let mut draw = |domain: &Source<'_>| {
                let rows: Vec<usize> = (0..domain.x.nrows()).map(|_| rng.below(domain.x.nrows())).collect();
                (select(domain.x, &rows), domain.y.select(&rows))
            };
            let ((x, y), (t, z)) = (draw(source), draw(target));
            self.audit(&Source { x: x.view(), y: &y }, &Source { x: t.view(), y: &z })
        };
        (0..times).map(one).collect()
    }

    /// The audit of one half of a domain against the other: what the terms are where there is no shift.
    ///
    /// # Errors
    /// As [`Entanglement::audit`], and when there are fewer than two rows.
    pub fn halves(&self, domain: &Source<'_>, seed: u64) -> Result<Entangled> {
        let mut order: Vec<usize> = (0..domain.x.nrows()).collect();
        if order.len() < 2 {
            return refused("one row has no halves; give more".to_owned());
        }
        Rng::new(seed, "halves", 0).shuffle(&mut order);
        let (one, other) = order.split_at(order.len() / 2);
        let half = |rows: &[usize]| (select(domain.x, rows), domain.y.select(rows));
        let ((x, y), (t, z)) = (half(one), half(other));
        self.audit(&Source { x: x.view(), y: &y }, &Source { x: t.view(), y: &z })
    }

    /// The outputs that the loss looks at.
    fn outputs(&self, whose: &str, domain: &Source<'_>) -> Result<Array2<f64>> {
        let (_, count) = domain.y.classes(Self::CARD.name)?;
        let sound = |row: ArrayView1<'_, f64>| row.iter().all(|p| *p >= 0.0) && (row.sum() - 1.0).abs() < 1e-6;
        if domain.x.ncols() != count {
            return refused(format!(
                "the {whose} has outputs of {} classes and labels of {count}; give a probability for each class",
                domain.x.ncols()
            ));
        }
        if let Some(row) = domain.x.rows().into_iter().position(|row| !sound(row)) {
            return refused(format!("row {} of the {whose} is not one of probabilities; apply a softmax", row + 1));
        }
        if self.loss != Penalty::ZeroOne {
            return Ok(domain.x.to_owned());
        }
        let of = largest(domain.x);
        Ok(Array2::from_shape_fn(domain.x.dim(), |(row, class)| f64::from(u8::from(of[row] == class))))
    }

    fn risk(&self, outputs: &Array2<f64>, of: &[usize]) -> f64 {
        let loss = |(output, class): (ArrayView1<'_, f64>, &usize)| match self.loss {
            Penalty::Probability | Penalty::ZeroOne => 1.0 - output[*class],
            Penalty::Brier => output.dot(&output) - 2.0 * output[*class] + 1.0,
        };
        outputs.rows().into_iter().zip(of).map(loss).sum::<f64>() / of.len() as f64
    }

    fn cells(&self, domains: [(&Array2<f64>, &[usize]); 2], count: usize) -> [Cells; 2] {
        if self.conditionals == Conditional::Sample {
            return domains.map(|(outputs, of)| Cells {
                outputs: outputs.clone(),
                masses: uniform(of.len()),
                labels: Array2::from_shape_fn((of.len(), count), |(row, class)| f64::from(u8::from(of[row] == class))),
            });
        }
        let cell = |outputs: ArrayView2<'_, f64>| -> Vec<usize> {
            let bin = |(row, class): (ArrayView1<'_, f64>, usize)| {
                class * self.bins + ((row[class] * self.bins as f64) as usize).min(self.bins - 1)
            };
            outputs.rows().into_iter().zip(largest(outputs)).map(bin).collect()
        };
        let mut means = Array2::<f64>::zeros((count * self.bins, count));
        let mut rows = Array1::<f64>::zeros(count * self.bins);
        let placed = domains.map(|(outputs, of)| {
            let places = cell(outputs.view());
            for (row, place) in outputs.rows().into_iter().zip(&places) {
                let mut mean = means.row_mut(*place);
                mean += &row;
                rows[*place] += 1.0;
            }
            (places, of)
        });
        means /= &rows.mapv(|rows| rows.max(1.0)).insert_axis(Axis(1));
        placed.map(|(places, of)| {
            let mut labels = Array2::<f64>::zeros(means.dim());
            for (place, class) in places.iter().zip(of) {
                labels[[*place, *class]] += 1.0;
            }
            let sums = labels.sum_axis(Axis(1));
            let held: Vec<usize> = (0..sums.len()).filter(|place| sums[*place] > 0.0).collect();
            let sums = sums.select(Axis(0), &held);
            let labels = labels.select(Axis(0), &held) / sums.view().insert_axis(Axis(1));
            Cells { outputs: means.select(Axis(0), &held), masses: sums / places.len() as f64, labels }
        })
    }

    /// The label entanglement by class of the target.
    fn by_labels(&self, domains: [(&Array2<f64>, &[usize]); 2], count: usize) -> Result<Vec<f64>> {
        let [p, q] = domains.map(|(_, of)| shares(of, count));
        let less = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| (a - b).max(0.0)).collect() };
        let (left, wanted) = (less(&p, &q), less(&q, &p));
        let moved: f64 = left.iter().sum();
        let rows = |(outputs, of): (&Array2<f64>, &[usize]), class: usize| {
            let rows: Vec<usize> = (0..of.len()).filter(|row| of[*row] == class).collect();
            select(outputs.view(), &rows)
        };
        let mut found = vec![0.0; count];
        for from in 0..count {
            for to in 0..count {
                let kept = if from == to { p[from].min(q[to]) } else { 0.0 };
                let mass = kept + if moved > 0.0 { left[from] * wanted[to] / moved } else { 0.0 };
                if mass > 0.0 {
                    let (ours, theirs) = (rows(domains[0], from), rows(domains[1], to));
                    let cost = costs(Metric::Cityblock, ours.view(), theirs.view()) * 0.5;
                    let plan = self.coupling(&cost, uniform(ours.nrows()).view(), uniform(theirs.nrows()).view())?;
                    found[to] += mass * (plan * &cost).sum();
                }
            }
        }
        Ok(found)
    }

    /// A coupling with the marginals that were asked for, of least cost where there are few rows.
    fn coupling(&self, cost: &Array2<f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Result<Array2<f64>> {
        let scale = median(cost.view());
        if a.len().max(b.len()) <= self.rows || scale <= 0.0 {
            return Ok(exact(cost.view(), a, b)?.coupling());
        }
        let settings = Sinkhorn { reg: self.reg * scale, tolerance: 1e-6, steps: 1000 };
        Ok(sinkhorn(cost.view(), a, b, &settings)?.coupling)
    }
}

fn shares(of: &[usize], count: usize) -> Vec<f64> {
    let rows = |class: usize| of.iter().filter(|of| **of == class).count();
    (0..count).map(|class| rows(class) as f64 / of.len() as f64).collect()
}

fn refused<T>(what: String) -> Result<T> {
    Err(Error::Other(format!("entanglement: {what}")))
}
