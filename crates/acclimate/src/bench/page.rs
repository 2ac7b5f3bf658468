//! The page of a comparison of optimisers.

use super::{EntrantOutcome, Outcome, ProblemOutcome};
use crate::report::{Report, Section, Series, Tone, Verdict};

/// Points of a drawn course.
const DRAWN: usize = 120;

pub(super) fn page(outcome: &Outcome) -> Report {
    let count = outcome.problems.len();
    let nearest = outcome.gaps.iter().min_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let sentence = match nearest {
        Some((name, gap)) => format!(
            "{name}, without a rate to choose, is within a point of the best tuned optimiser on {} of {count} problems.",
            gap.within_a_point
        ),
        None => format!("{count} problems, the same budget for all."),
    };
    let names: Vec<&str> =
        outcome.problems.first().map_or(vec![], |p| p.entrants.iter().map(|e| e.name.as_str()).collect());
    let mut sections = vec![scores(outcome, &names), needs(outcome, &names)];
    for problem in &outcome.problems {
        sections.extend(curves(problem));
    }
    Report {
        title: "Optimisers beside each other".to_owned(),
        subtitle: format!("{count} problems, {} seeds each", seeds(outcome)),
        verdict: Verdict {
            chosen: nearest.map_or_else(|| names.join(", "), |(name, _)| name.clone()),
            gain: nearest.map(|(_, gap)| -gap.mean),
            interval: None,
            sentence,
            tone: Tone::Neutral,
        },
        sections,
    }
}

fn seeds(outcome: &Outcome) -> usize {
    outcome.problems.first().and_then(|p| p.entrants.first()).map_or(0, |entrant| entrant.seeds.len())
}

fn scores(outcome: &Outcome, names: &[&str]) -> Section {
    let header = ["problem", "score"].into_iter().chain(names.iter().copied()).map(str::to_owned).collect();
    let cell = |entrant: &EntrantOutcome| {
        let half = 100.0 * (entrant.test.high - entrant.test.low) / 2.0;
        let at = if entrant.tuned { format!(", at × {:.3}", entrant.multiplier) } else { String::new() };
        let spread = if half.is_finite() { format!(" ± {half:.1}") } else { String::new() };
        format!("{:.1}{spread}{at}", 100.0 * entrant.test.value)
    };
    let row = |problem: &ProblemOutcome| {
        let head = [problem.name.clone(), problem.metric.clone()];
        head.into_iter().chain(problem.entrants.iter().map(cell)).collect()
    };
    Section::Table {
        title: "Scores on untouched rows, %".to_owned(),
        note: "Means over seeds with 95 % intervals. Where a learning rate must be chosen, its multiplier is the best on rows that are kept for choosing.".to_owned(),
        header,
        rows: outcome.problems.iter().map(row).collect(),
    }
}

/// What choosing the rate gained each optimiser.
fn needs(outcome: &Outcome, names: &[&str]) -> Section {
    let row = |(at, name): (usize, &&str)| {
        let of: Vec<&EntrantOutcome> = outcome.problems.iter().map(|problem| &problem.entrants[at]).collect();
        let lost = of.iter().map(|entrant| {
            let best = entrant.points.iter().map(|point| point.test).fold(f64::NEG_INFINITY, f64::max);
            100.0 * (best - entrant.points[entrant.points.len() / 2].test)
        });
        let lost: Vec<f64> = lost.collect();
        let most = lost.iter().copied().fold(0.0, f64::max);
        vec![
            (*name).to_owned(),
            format!("{:.1}", lost.iter().sum::<f64>() / lost.len().max(1) as f64),
            format!("{most:.1}"),
            of.iter().map(|entrant| entrant.restarts).sum::<usize>().to_string(),
            of.iter().flat_map(|entrant| &entrant.points).map(|point| point.ruined).sum::<usize>().to_string(),
        ]
    };
    let header = ["optimiser", "points lost", "at most", "restarts", "ruined"];
    Section::Table {
        title: "Which needed tuning".to_owned(),
        note: "Points lost, on average and at most, by taking the middle of an optimiser's grid, which is what one gets without choosing, instead of the best of the grid on the untouched rows; a grid of one point tells nothing. Restarts by the watch where it is judged, and runs of the whole grid that were ruined.".to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows: names.iter().enumerate().map(row).collect(),
    }
}

fn curves(problem: &ProblemOutcome) -> Vec<Section> {
    let series = |points: &dyn Fn(&EntrantOutcome) -> Vec<(f64, f64)>| -> Vec<Series> {
        let one = |(at, entrant): (usize, &EntrantOutcome)| Series {
            name: entrant.name.clone(),
            points: points(entrant),
            emphasis: at == 0,
        };
        problem.entrants.iter().enumerate().map(one).filter(|series| series.points.len() > 1).collect()
    };
    let loss = series(&|entrant| smooth(entrant.course.iter().map(|line| (line.step as f64, line.loss)).collect()));
    let d = series(&|entrant| {
        let found = entrant.course.iter().filter_map(|line| Some((line.step as f64, line.log.first()?.1)));
        thin(found.collect())
    });
    let robust = series(&|entrant| {
        let told = entrant.points.iter().filter_map(|point| Some((point.multiplier.log10(), point.loss?)));
        told.collect()
    });
    let curve = |what: &str, note: &str, x: &str, y: &str, log_y: bool, series: Vec<Series>| Section::Curves {
        title: format!("{}: {what}", problem.name),
        note: note.to_owned(),
        x: x.to_owned(),
        y: y.to_owned(),
        log_y,
        series,
    };
    let all = [
        curve(
            "loss",
            "The first seed, at the multiplier that is judged; means over neighbouring steps.",
            "step",
            "loss",
            true,
            loss,
        ),
        curve("what they find for themselves", "The first number each reports, such as d.", "step", "d", true, d),
        curve(
            "robustness",
            "The final loss against the multiplier of the rate; runs that were ruined are left out.",
            "multiplier, powers of ten",
            "loss",
            true,
            robust,
        ),
    ];
    all.into_iter().filter(|section| !matches!(section, Section::Curves { series, .. } if series.is_empty())).collect()
}

/// Means over neighbours, so that noise does not hide the course.
fn smooth(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let width = points.len().div_ceil(DRAWN / 2).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|point| point.0).sum::<f64>() / n, part.iter().map(|point| point.1).sum::<f64>() / n)
    };
    points.chunks(width).map(mean).collect()
}

fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let by = points.len().div_ceil(DRAWN).max(1);
    points.into_iter().step_by(by).collect()
}
