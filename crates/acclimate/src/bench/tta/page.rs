//! The page of a comparison of test-time methods.

use super::{CourseOutcome, Outcome, Ran, mean};
use crate::report::{Report, Section, Tone, Verdict};

pub(super) fn page(outcome: &Outcome) -> Report {
    let names: Vec<&str> =
        outcome.courses.first().map_or(vec![], |course| course.entrants.iter().map(|ran| ran.name.as_str()).collect());
    let gate = outcome.gates.iter().next();
    let sentence = gate.map_or_else(
            || format!("{} streams, the same networks and orders for all.", outcome.courses.len()),
            |(name, gate)| {
                format!(
                    "{name} loses at most {:.2} points against the deployed model and keeps {:.0} % of the best method's gain.",
                    gate.worst.max(0.0),
                    100.0 * gate.kept
                )
            },
        );
    let seeds = outcome.courses.first().and_then(|course| course.entrants.first()).map_or(0, |ran| ran.seeds.len());
    Report {
        title: "Test-time methods beside each other".to_owned(),
        subtitle: format!("{} streams, {seeds} seeds each", outcome.courses.len()),
        verdict: Verdict {
            chosen: gate.map_or_else(|| names.join(", "), |(name, _)| name.clone()),
            gain: gate.map(|(_, gate)| -mean(&gate.loss.values().map(|[loss, _]| *loss).collect::<Vec<_>>())),
            interval: None,
            sentence,
            tone: gate.map_or(Tone::Neutral, |(_, gate)| if gate.worst_bound <= 1.0 { Tone::Good } else { Tone::Bad }),
        },
        sections: std::iter::once(accuracies(outcome, &names))
            .chain(outcome.courses.iter().map(errors))
            .chain([costs(outcome, &names)])
            .collect(),
    }
}

fn accuracies(outcome: &Outcome, names: &[&str]) -> Section {
    let cell = |ran: &Ran| {
        if ran.seeds.is_empty() { "–".to_owned() } else { format!("{:.1}", 100.0 * ran.accuracy.value) }
    };
    let row = |(at, name): (usize, &&str)| {
        let cells = outcome.courses.iter().map(|course| cell(&course.entrants[at]));
        let harm = outcome.harm.get(*name).map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
        std::iter::once((*name).to_owned()).chain(cells).chain([harm]).collect()
    };
    let streams = outcome.courses.iter().map(|course| course.name.as_str());
    Section::Table {
            title: "Accuracy on the way, %".to_owned(),
            note: "Means over domains and seeds; 95 % intervals are among the numbers. Harm is the share of streams, draw by draw, on \
                   which a method is below the deployed model (`source`); a dash is a method that cannot work there."
                .to_owned(),
            header: std::iter::once("method").chain(streams).chain(["harm"]).map(str::to_owned).collect(),
            rows: names.iter().enumerate().map(row).collect(),
        }
}

fn costs(outcome: &Outcome, names: &[&str]) -> Section {
    let row = |name: &&str| {
        let rans = || outcome.courses.iter().flat_map(|course| &course.entrants).filter(|ran| ran.name == **name);
        let rans = || rans().filter(|ran| !ran.seeds.is_empty());
        let mean = |number: fn(&Ran) -> f64| rans().map(number).sum::<f64>() / rans().count() as f64;
        let numbers = [mean(|ran| ran.forwards), mean(|ran| ran.backwards), mean(|ran| ran.milliseconds)];
        std::iter::once((*name).to_owned()).chain(numbers.map(|x| format!("{x:.2}"))).collect()
    };
    Section::Table {
        title: "Costs of a row".to_owned(),
        note: "Means over all streams. Passes of the deployed model count as passes forth.".to_owned(),
        header: ["method", "passes forth", "passes back", "milliseconds"].map(str::to_owned).to_vec(),
        rows: names.iter().map(row).collect(),
    }
}

/// The errors of one stream, domain by domain.
fn errors(course: &CourseOutcome) -> Section {
    let domains: Vec<String> =
        course.entrants.first().map_or(vec![], |ran| ran.domains.iter().map(|d| d.0.clone()).collect());
    let row = |ran: &Ran| {
        let cells = ran.domains.iter().map(|(_, accuracy)| format!("{:.1}", 100.0 * (1.0 - accuracy)));
        let all = format!("{:.1}", 100.0 * (1.0 - ran.accuracy.value));
        std::iter::once(ran.name.clone()).chain(cells).chain([all]).collect()
    };
    let header = std::iter::once("method".to_owned()).chain(domains).chain(["mean".to_owned()]).collect();
    Section::Table {
        title: format!("Errors on {}, %", course.name),
        note: format!(
            "{} rows of each draw; the scenario's hash at the first seed is {}.",
            course.rows,
            &course.hash[..16]
        ),
        header,
        rows: course.entrants.iter().filter(|ran| !ran.seeds.is_empty()).map(row).collect(),
    }
}
