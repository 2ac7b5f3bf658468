use crate::{Align, Aligned, Host, Lesson, Plain, Source, Target};
use acclimate_core::{Error, Method, Result};
use acclimate_stats::learn::{Fitted, Labels, largest, select};
use ndarray::{Array1, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

/// Swaps rows of the source, step by step, for rows of the target under guessed labels.
///
/// # Mathematics
/// A learner of two classes with margin one decides by $f$: half the difference of its decisions for the second and the first class.
/// It is first fitted on the source. Each step then
/// 1. takes, of the target's rows inside the margin ($0 < \lvert f \rvert < 1$) that are not in yet, on each side the `swap` with the
///    largest $\lvert f \rvert$, with the sign of $f$ as their label;
/// 2. drops, of the source's rows that are still in, on each side the `swap` with the largest $\lvert f \rvert$;
/// 3. fits again, and lets rows of the target go whose label that changes.
///
/// It ends when no row of the target is left in the margin, a class would lose its last row, or after `steps` fits. The lesson is the
/// target with the last fit's labels.
///
/// # When to use
/// Two classes whose boundary moves a little, so that the first fit is right about most rows of the target. It has no way back from a
/// wrong start. Made for support vector machines; the learner's decisions must have a margin of one.
///
/// # Differences
/// In the paper the price of the source's rows falls and that of the target's rises over the steps; here each row counts once while it is
/// in. skada 0.4.0 does the same, and finds the same rows again for each of the `swap` it should find, so that at most one a side is
/// swapped, which may lie on the wrong side of the boundary: `compat = true`. Its probabilities come from the fit on the source, but its
/// decisions from the last; an alignment has one learner, so that slip is not reproduced.
///
/// # Example
/// ```
/// use acclimate_core::Method;
/// use acclimate_shift::Dasvm;
///
/// assert!(Dasvm { swap: 0, ..Dasvm::default() }.check().is_err());
/// ```
///
/// # References
/// Bruzzone and Marconcini, *Domain Adaptation Problems: A DASVM Classification Technique and a Circular Validation Strategy*, IEEE
/// Transactions on Pattern Analysis and Machine Intelligence 32, 2010, doi:10.1109/TPAMI.2009.57.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "dasvm", title = "DASVM", catalogue = [28], paper = "doi:10.1109/TPAMI.2009.57", year = 2010)]
#[method(needs(labels), case = "", case = "swap = 1\nsteps = 5", case = "compat = true")]
pub struct Dasvm {
    /// Rows that are swapped on each side of the boundary in a step.
    #[method(min = 1)]
    pub swap: usize,
    /// Fits at most, with the first and without the last.
    #[method(min = 1)]
    pub steps: usize,
    /// Swaps at most one row a side, found as skada 0.4.0 finds it.
    pub compat: bool,
}

impl Default for Dasvm {
    fn default() -> Self {
        Self { swap: 3, steps: 200, compat: false }
    }
}

impl Align for Dasvm {
    type View = Plain;

    fn align(&self, source: &Source<'_>, target: &Target<'_>, host: &Host<'_>) -> Result<Aligned<Plain>> {
        let (of, count) = source.y.classes(Self::CARD.name)?;
        if count != 2 {
            return Err(Error::Unsupported {
                who: Self::CARD.name.to_owned(),
                what: format!("tell {count} classes apart"),
                instead: "give two".to_owned(),
            });
        }
        let mut kept = vec![true; of.len()];
        let mut taken = vec![false; target.x.nrows()];
        let mut learner = host.learn(&Lesson::of(source))?;
        let mut fits = 1;
        loop {
            let decisions = decide(learner.as_ref(), source.x)?;
            for row in self.choose(&decisions, |row| kept[row]) {
                kept[row] = false;
            }
            let decisions = decide(learner.as_ref(), target.x)?;
            let inside = |row: usize| decisions[row] != 0.0 && decisions[row].abs() < 1.0;
            let found = self.choose(&decisions, |row| !taken[row] && inside(row));
            for row in &found {
                taken[*row] = true;
            }
            if found.is_empty() || fits >= self.steps {
                break;
            }
            let ours: Vec<usize> = (0..kept.len()).filter(|row| kept[*row]).collect();
            let theirs: Vec<usize> = (0..taken.len()).filter(|row| taken[*row]).collect();
            let rows = select(target.x, &theirs);
            let guesses = largest(learner.decisions(rows.view())?.view());
            let labels: Vec<usize> = ours.iter().map(|row| of[*row]).chain(guesses.iter().copied()).collect();
            if !(labels.contains(&0) && labels.contains(&1)) {
                break;
            }
            let x = concatenate(Axis(0), &[select(source.x, &ours).view(), rows.view()]).expect("domains of one width");
            learner = host.learn(&Lesson { x, y: Labels::Classes { of: labels, count }, weights: None })?;
            fits += 1;
            let changed = largest(learner.decisions(rows.view())?.view());
            for ((row, old), new) in theirs.into_iter().zip(guesses).zip(changed) {
                taken[row] = old == new;
            }
        }
        let guesses = largest(learner.decisions(target.x)?.view());
        let y = Labels::Classes { of: guesses, count };
        let facts = vec![("fits", fits as f64), ("source rows left", kept.iter().filter(|kept| **kept).count() as f64)];
        Ok(Aligned { lesson: Lesson { x: target.x.to_owned(), y, weights: None }, facts, view: Plain {} })
    }
}

impl Dasvm {
    /// The rows to swap, on each side of the boundary those farthest from it.
    fn choose(&self, decisions: &Array1<f64>, among: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..decisions.len()).filter(|row| among(*row)).collect();
        // Of equals the first, in both directions.
        rows.sort_by(|a, b| decisions[*a].total_cmp(&decisions[*b]));
        let low: Vec<usize> = rows.iter().copied().filter(|row| self.compat || decisions[*row] < 0.0).collect();
        rows.sort_by(|a, b| decisions[*b].total_cmp(&decisions[*a]));
        let high: Vec<usize> = rows.into_iter().filter(|row| self.compat || decisions[*row] > 0.0).collect();
        let swap = if self.compat { 1 } else { self.swap };
        let mut both: Vec<usize> = low.into_iter().take(swap).chain(high.into_iter().take(swap)).collect();
        both.dedup();
        both
    }
}

/// Half the difference of the decisions for the second and the first class.
fn decide(learner: &dyn Fitted, x: ArrayView2<'_, f64>) -> Result<Array1<f64>> {
    let decisions = learner.decisions(x)?;
    Ok((&decisions.column(1) - &decisions.column(0)) / 2.0)
}
