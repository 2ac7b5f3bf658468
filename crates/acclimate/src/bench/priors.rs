//! Estimates of the shares of classes under label shift, on real tables whose shares are drawn anew.

use super::side_by_side;
use crate::bench::shift::Aligner;
use crate::domains::{Domains, read_labels};
use crate::report::{Report, Section, Tone, Verdict};
use acclimate_core::{Error, Result, Rng};
use acclimate_data::{Assets, Target as Meant};
use acclimate_shift::{Fit, Host, Source, SourceOnly, Target};
use acclimate_stats::learn::{Labels, Logistic, select};
use ndarray::Array2;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of the rows of a class that are not in the source so many are used by the class that has the most of its share.
const USED: f64 = 0.8;

/// A table with a class for each row.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Its name.
    pub name: String,
    /// `[rows, features]`.
    pub x: Array2<f64>,
    /// The class of each row.
    pub of: Vec<usize>,
    /// How many classes there are.
    pub classes: usize,
}

impl Rows {
    /// An asset with classes.
    ///
    /// # Errors
    /// An unknown name, or what fetching meets.
    pub fn open(name: &str, assets: &Assets) -> Result<Self> {
        let (table, columns) = assets.table(name)?;
        let label =
            columns.target.ok_or_else(|| Error::Other(format!("asset `{name}` has no classes; use another")))?;
        let (labels, names) = read_labels(&table, &label, &Meant::Auto)?;
        let domains = Domains::read(&table, &table, &columns.features, &[&label])?;
        let of = labels.classes("priors")?.0.to_vec();
        Ok(Self { name: name.to_owned(), x: domains.source, of, classes: names.len() })
    }
}

/// What is to be compared.
#[derive(Debug)]
pub struct Plan {
    /// The tables.
    pub tables: Vec<Rows>,
    /// Methods whose fit estimates shares.
    pub methods: Vec<Aligner>,
    /// Draws of a source from each table.
    pub seeds: u64,
    /// Shares that are drawn, evenly from the simplex, for each source.
    pub priors: u64,
}

/// A method on one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimated {
    /// Draws that were estimated.
    pub draws: usize,
    /// Draws that the method refused.
    pub refused: usize,
    /// Half the sum of the differences of the estimated and the true shares, on average.
    pub error: f64,
    /// The same of the shares of the source: what is lost by not looking.
    pub unmoved: f64,
    /// How often the 95 % interval of a share held it.
    pub coverage: f64,
    /// The accuracy on the target less that of the learner by itself, on average.
    pub gain: f64,
    /// The standard error of that mean over sources.
    pub gain_error: f64,
    /// The share of draws in which the method was less accurate by more than half a point.
    pub harm: f64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Draws of a source.
    pub seeds: u64,
    /// Shares for each.
    pub priors: u64,
    /// By table and by method.
    pub tables: BTreeMap<String, BTreeMap<String, Estimated>>,
}

/// One draw of one method: the error, that of the source's shares, the share of intervals that hold, and the gain.
type Draw = Option<[f64; 4]>;

/// Runs a plan: half of each class is the source, and the target is drawn from the other half by shares from the simplex. The learner is
/// logistic regression. `told` hears how many sources are done, of how many, and which it was.
///
/// # Errors
/// No table or method, and the learner's own; a method that refuses a draw is a result.
pub fn run(plan: &Plan, told: &(dyn Fn(usize, usize, &str) + Sync)) -> Result<Outcome> {
    if plan.tables.is_empty() || plan.methods.is_empty() || plan.seeds == 0 || plan.priors == 0 {
        return Err(Error::Other(
            "a comparison needs a table, a method, a seed and a draw of shares at least".to_owned(),
        ));
    }
    let jobs: Vec<(&Rows, u64)> =
        plan.tables.iter().flat_map(|rows| (0..plan.seeds).map(move |seed| (rows, seed))).collect();
    let (all, done) = (jobs.len(), AtomicUsize::new(0));
    let found = side_by_side(jobs, |&(rows, seed)| {
        let draws = source(plan, rows, seed)?;
        told(done.fetch_add(1, Ordering::Relaxed) + 1, all, &format!("{}, seed {seed}", rows.name));
        Ok(draws)
    })?;
    let mut tables = BTreeMap::new();
    for (rows, seeds) in plan.tables.iter().zip(found.chunks(plan.seeds as usize)) {
        let of = |(at, method): (usize, &Aligner)| (method.name.clone(), estimated(seeds, at));
        tables.insert(rows.name.clone(), plan.methods.iter().enumerate().map(of).collect());
    }
    Ok(Outcome { seeds: plan.seeds, priors: plan.priors, tables })
}

/// All draws of shares for one source: method by method, draw by draw.
fn source(plan: &Plan, rows: &Rows, seed: u64) -> Result<Vec<Vec<Draw>>> {
    let mut pools = vec![vec![]; rows.classes];
    let mut known = vec![];
    let mut order: Vec<usize> = (0..rows.of.len()).collect();
    Rng::new(seed, "priors", 0).shuffle(&mut order);
    let mut seen = vec![0usize; rows.classes];
    for row in order {
        let class = rows.of[row];
        seen[class] += 1;
        if seen[class] % 2 == 1 { known.push(row) } else { pools[class].push(row) }
    }
    let of = |picked: &[usize]| picked.iter().map(|row| rows.of[*row]).collect::<Vec<_>>();
    let labels = Labels::Classes { of: of(&known), count: rows.classes };
    let x = select(rows.x.view(), &known);
    let source = Source::new(x.view(), &labels)?;
    let host = Host { learner: &Logistic::default(), seed };
    let mut found = vec![vec![]; plan.methods.len()];
    for prior in 0..plan.priors {
        let mut rng = Rng::new(seed, "shares", prior);
        let (shares, picked) = target(&pools, &mut rng);
        let t = select(rows.x.view(), &picked);
        let truth = of(&picked);
        let target = Target::new(t.view(), &source)?;
        let accuracy = |fit: &Fit| -> Result<f64> {
            Ok(fit.predict(t.view())?.iter().zip(&truth).filter(|(a, b)| a == b).count() as f64 / truth.len() as f64)
        };
        let plain = accuracy(&Fit::new(&SourceOnly::default(), &source, &target, &host)?)?;
        let own: Vec<f64> = pools.iter().map(|pool| pool.len() as f64).collect();
        let total: f64 = own.iter().sum();
        for (method, draws) in plan.methods.iter().zip(&mut found) {
            let one = || -> Result<[f64; 4]> {
                let fit = Fit::new(method.method.as_ref(), &source, &target, &host)?;
                let (prior, intervals) = told(&fit, &method.name)?;
                let apart = |to: &dyn Fn(usize) -> f64| {
                    shares.iter().enumerate().map(|(class, share)| (share - to(class)).abs()).sum::<f64>() / 2.0
                };
                let holds = |(share, [low, high]): &(&f64, [f64; 2])| low <= *share && *share <= high;
                let inside = shares.iter().zip(intervals).filter(holds).count() as f64 / shares.len() as f64;
                Ok([apart(&|class| prior[class]), apart(&|class| own[class] / total), inside, accuracy(&fit)? - plain])
            };
            draws.push(one().ok());
        }
    }
    Ok(found)
}

/// Shares drawn evenly from the simplex, and rows whose classes are drawn by them.
fn target(pools: &[Vec<usize>], rng: &mut Rng) -> (Vec<f64>, Vec<usize>) {
    let mut shares: Vec<f64> = pools.iter().map(|_| -(1.0 - rng.uniform()).ln()).collect();
    let total: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= total);
    let room = pools.iter().zip(&shares).map(|(pool, share)| pool.len() as f64 / share.max(1e-9));
    let rows = (USED * room.fold(f64::INFINITY, f64::min)).floor().max(1.0) as usize;
    let mut left: Vec<Vec<usize>> = pools.to_vec();
    left.iter_mut().for_each(|pool| rng.shuffle(pool));
    let mut picked = vec![];
    for _ in 0..rows {
        let mut u = rng.uniform();
        let class = shares.iter().position(|share| {
            u -= share;
            u < 0.0
        });
        picked.extend(left[class.unwrap_or(shares.len() - 1)].pop());
    }
    (shares, picked)
}

/// The shares that a fit estimates, and their intervals.
fn told(fit: &Fit, method: &str) -> Result<(Vec<f64>, Vec<[f64; 2]>)> {
    let saved = fit.view.save();
    let read = |key: &str| saved.get(key).cloned().unwrap_or(Value::Null);
    let both = (serde_json::from_value(read("prior")), serde_json::from_value(read("interval")));
    match both {
        (Ok(prior), Ok(intervals)) => Ok((prior, intervals)),
        _ => Err(Error::Unsupported {
            who: method.to_owned(),
            what: "estimate shares of classes".to_owned(),
            instead: "use a method of label shift".to_owned(),
        }),
    }
}

fn estimated(seeds: &[Vec<Vec<Draw>>], method: usize) -> Estimated {
    let all: Vec<&Draw> = seeds.iter().flat_map(|seed| &seed[method]).collect();
    let good: Vec<[f64; 4]> = all.iter().filter_map(|draw| **draw).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let values: Vec<f64> = values.collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let of = |at: usize| mean(&mut good.iter().map(|draw| draw[at]));
    let by_seed: Vec<f64> = seeds
        .iter()
        .map(|seed| mean(&mut seed[method].iter().flatten().map(|draw| draw[3])))
        .filter(|gain| gain.is_finite())
        .collect();
    let (count, gain) = (by_seed.len() as f64, of(3));
    let square: f64 = by_seed.iter().map(|one| (one - gain).powi(2)).sum();
    Estimated {
        draws: good.len(),
        refused: all.len() - good.len(),
        error: of(0),
        unmoved: of(1),
        coverage: of(2),
        gain,
        gain_error: (square / (count - 1.0) / count).sqrt(),
        harm: good.iter().filter(|draw| draw[3] < -0.005).count() as f64 / good.len() as f64,
    }
}

impl Outcome {
    /// A row for each table and method under a heading.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let head =
            ["table", "method", "error of shares", "of the source's", "intervals hold", "gain in accuracy", "harm"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (table, methods) in &self.tables {
            rows.extend(methods.iter().map(|(name, found)| {
                let refused = if found.refused > 0 { format!(" ({} refused)", found.refused) } else { String::new() };
                vec![
                    table.clone(),
                    format!("{name}{refused}"),
                    format!("{:.3}", found.error),
                    format!("{:.3}", found.unmoved),
                    format!("{:.1} %", 100.0 * found.coverage),
                    format!("{:+.3} ± {:.3}", found.gain, found.gain_error),
                    format!("{:.0} %", 100.0 * found.harm),
                ]
            }));
        }
        rows
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_page(&self, file: &Path) -> Result<()> {
        let mut rows = self.rows();
        let header = rows.remove(0);
        let names: Vec<String> =
            self.tables.values().next().map_or(vec![], |methods| methods.keys().cloned().collect());
        let report = Report {
            title: "Shares of classes under label shift".to_owned(),
            subtitle: format!("{} sources of each table, {} draws of shares each", self.seeds, self.priors),
            verdict: Verdict {
                chosen: names.join(", "),
                gain: None,
                interval: None,
                sentence: "Classes of the target have shares drawn evenly from the simplex; no method sees its labels.".to_owned(),
                tone: Tone::Neutral,
            },
            sections: vec![Section::Table {
                title: "Shares".to_owned(),
                note: "Errors are half the sum of absolute differences. Intervals are those of 95 %. The gain is that over the learner by itself, \
                       with its standard error over sources; harm is the share of draws that lose more than half a point."
                    .to_owned(),
                header,
                rows,
            }],
        };
        report.write(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two normal classes, two deviations apart.
    fn rows() -> Rows {
        let mut rng = Rng::new(0, "rows", 0);
        let of: Vec<usize> = (0..400).map(|row| row % 2).collect();
        let x = Array2::from_shape_fn((400, 2), |(row, _)| rng.normal() + 1.4 * of[row] as f64);
        Rows { name: "normal".to_owned(), x, of, classes: 2 }
    }

    #[test]
    fn shares_are_found_and_their_intervals_hold_them() {
        let methods = ["em", "bbse", "coral"].map(|name| Aligner::parse(name).unwrap()).into();
        let outcome = run(&Plan { tables: vec![rows()], methods, seeds: 4, priors: 6 }, &|_, _, _| ()).unwrap();
        let found = &outcome.tables["normal"];
        for name in ["em", "bbse"] {
            let found = &found[name];
            assert_eq!((found.draws, found.refused), (24, 0), "{name}");
            assert!(found.error < 0.5 * found.unmoved && found.gain > 0.0, "{name}: {found:?}");
            // Of 24 draws 22.8 are expected, with a standard deviation of about one; three of them.
            assert!(found.coverage > 0.82, "{name}: {found:?}");
        }
        assert_eq!((found["coral"].draws, found["coral"].refused), (0, 24), "it estimates no shares");
    }

    #[test]
    fn targets_have_the_shares_that_were_drawn() {
        let pools = vec![(0..3000).collect::<Vec<_>>(), (3000..6000).collect(), (6000..9000).collect()];
        let (shares, picked) = target(&pools, &mut Rng::new(1, "shares", 0));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for (class, share) in shares.iter().enumerate() {
            let got = picked.iter().filter(|row| **row / 3000 == class).count() as f64 / picked.len() as f64;
            // Four standard errors of 3000 rows at most.
            assert!((got - share).abs() < 4.0 * 0.5 / (picked.len() as f64).sqrt(), "{share} and {got}");
        }
    }
}
