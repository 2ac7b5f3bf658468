//! The page of a tuning run.

use crate::gate::{self, Candidate, Score};
use crate::recipe::Recipe;
use crate::report::{self, CandidateRow, ExampleRow, Interval, Picture, Report, Section, Series, Tone};
use crate::tasks::{Outputs, Prepared, Task};
use crate::train::History;
use crate::tune::{CandidateResult, Session, Summary};
use acclimate_data::{Examples, Inputs, Labels};
use std::collections::BTreeMap;

/// Examples shown in the report.
const SHOWN: usize = 12;

/// A score between 0 and 1 as a number of hundredths.
fn points(score: Score) -> (f64, Option<Interval>) {
    (100.0 * score.value, Some(Interval { low: 100.0 * score.low, high: 100.0 * score.high }))
}

/// The course of a run as charts.
pub(crate) fn curves(history: &History) -> Vec<Section> {
    let points = |f: &dyn Fn(&crate::train::StepLine) -> Option<f64>| -> Vec<(f64, f64)> {
        history.steps.iter().filter_map(|line| Some((line.step as f64, f(line)?))).collect()
    };
    let mut smooth = f64::NAN;
    let average: Vec<(f64, f64)> = history
        .steps
        .iter()
        .map(|line| {
            smooth = if smooth.is_nan() { line.loss } else { 0.9 * smooth + 0.1 * line.loss };
            (line.step as f64, smooth)
        })
        .collect();
    let mut sections = vec![Section::Curves {
        title: "Loss".to_owned(),
        note: "Training loss per batch, and its running average.".to_owned(),
        x: "step".to_owned(),
        y: "loss".to_owned(),
        log_y: false,
        series: vec![
            Series { name: "batch".to_owned(), points: points(&|line| Some(line.loss)), emphasis: false },
            Series { name: "average".to_owned(), points: average, emphasis: true },
        ],
    }];
    let logged = |name: &str| points(&|line| line.log.iter().find(|(n, _)| n == name).map(|(_, x)| *x));
    let d = logged("d");
    if !d.is_empty() {
        let rate: Vec<(f64, f64)> = history
            .steps
            .iter()
            .filter_map(|line| Some((line.step as f64, line.multiplier * line.log.iter().find(|(n, _)| n == "d")?.1)))
            .collect();
        sections.push(Section::Curves {
            title: "The rate that found itself".to_owned(),
            note: "D-Adaptation's estimate d of the distance to the solution, and d times the schedule's multiplier, of which the step takes the share `lr`.".to_owned(),
            x: "step".to_owned(),
            y: "d".to_owned(),
            log_y: true,
            series: vec![
                Series { name: "d".to_owned(), points: d, emphasis: true },
                Series { name: "d, scheduled".to_owned(), points: rate.into_iter().filter(|(_, y)| *y > 0.0).collect(), emphasis: false },
            ],
        });
    }
    let rows = logged("batch_size");
    if !rows.is_empty() {
        sections.push(Section::Curves {
            title: "The batch that grows".to_owned(),
            note: "Rows per step, and how many a test on the batch asked for.".to_owned(),
            x: "step".to_owned(),
            y: "rows".to_owned(),
            log_y: true,
            series: vec![
                Series { name: "batch".to_owned(), points: rows, emphasis: true },
                Series {
                    name: "asked for".to_owned(),
                    points: logged("batch_wanted").into_iter().filter(|(_, y)| *y > 0.0 && y.is_finite()).collect(),
                    emphasis: false,
                },
            ],
        });
    }
    if !history.valid.is_empty() {
        sections.push(Section::Curves {
            title: "Held-out score".to_owned(),
            note: "On the rows set aside for early stopping.".to_owned(),
            x: "epoch".to_owned(),
            y: "score".to_owned(),
            log_y: false,
            series: vec![Series {
                name: "score".to_owned(),
                points: history.valid.iter().map(|(epoch, score)| (*epoch as f64, *score)).collect(),
                emphasis: true,
            }],
        });
    }
    sections
}

pub(crate) fn page(
    session: &Session,
    recipe: &Recipe,
    summary: &Summary,
    history: &History,
    outside: &BTreeMap<Candidate, Outputs>,
) -> Report {
    let task = session.task.as_ref();
    let detail = |candidate: Candidate| match candidate {
        Candidate::Unadapted if gate::own_head(session.model(), task) || task.outputs().is_none() => {
            "the model as it is"
        }
        Candidate::Unadapted => "no head for this task: the most common answer",
        Candidate::Probe => "a linear model on the frozen features",
        Candidate::Patch => "the trained patch",
    };
    let mut sections = vec![];
    let rows = |score: &dyn Fn(&CandidateResult) -> Option<Score>| -> Vec<CandidateRow> {
        let row = |result: &CandidateResult| {
            let (score, interval) = points(score(result)?);
            Some(CandidateRow {
                name: result.name.name().to_owned(),
                detail: detail(result.name).to_owned(),
                score,
                interval,
                chosen: result.name == summary.chosen,
            })
        };
        summary.candidates.iter().filter_map(row).collect()
    };
    let unit = format!("{}, %", summary.metric);
    if summary.test_rows > 0 {
        sections.push(Section::Candidates {
            title: "On untouched rows".to_owned(),
            note: format!(
                "{} rows that nothing was fitted or chosen on. Bars are 95 % bootstrap intervals.",
                summary.test_rows
            ),
            score: unit.clone(),
            rows: rows(&|result| result.test),
        });
    }
    sections.push(Section::Candidates {
        title: "Why this one was chosen".to_owned(),
        note: format!(
            "{}. The highest score is kept; a tie goes to the cheaper candidate.",
            match recipe.folds(task.kind()) {
                1 => format!("On a tenth of the {} training rows, set aside for it", summary.train_rows),
                folds => format!(
                    "Inside the {} training rows, each row answered by fits that had not seen it ({folds} folds)",
                    summary.train_rows
                ),
            }
        ),
        score: unit,
        rows: rows(&|result| result.crossfit),
    });
    sections.extend(curves(history));
    let test = session.test.as_ref().zip(session.parts.test.as_ref());
    if let (Some((data, examples)), Some(before), Some(after)) =
        (test, outside.get(&summary.baseline), outside.get(&summary.chosen))
        && let Labels::Classes { names, index } = &examples.labels
    {
        let matrix = |outputs: &Outputs| {
            let said: Vec<usize> = outputs.iter().map(|o| task.class(o).unwrap_or(0)).collect();
            let counts = acclimate_data::metrics::confusion(index, &said, names.len());
            counts.into_iter().map(|row| row.into_iter().map(|n| n as u64).collect()).collect::<Vec<Vec<u64>>>()
        };
        sections.push(Section::Confusion {
            title: "Confusion".to_owned(),
            labels: names.clone(),
            before: Some(matrix(before)),
            after: matrix(after),
        });
        let changed = (0..index.len()).filter(|&row| task.class(&before[row]) != task.class(&after[row]));
        let examples = changed
            .take(SHOWN)
            .map(|row| example(task, data, examples, row, &before[row], &after[row], index[row], names));
        sections.push(Section::Examples {
            title: "Answers that changed".to_owned(),
            note: format!(
                "From {} to {}, the first {SHOWN} of the untouched rows.",
                summary.baseline.name(),
                summary.chosen.name()
            ),
            rows: examples.collect(),
        });
    }
    if !summary.metrics.is_empty() {
        sections.push(Section::Facts {
            title: "All numbers on the untouched rows".to_owned(),
            rows: summary.metrics.iter().map(|(name, x)| (name.clone(), compared(summary, name, *x))).collect(),
        });
    }
    if !summary.notes.is_empty() {
        sections
            .push(Section::Text { title: "What happened on the way".to_owned(), paragraphs: summary.notes.clone() });
    }
    sections.push(Section::Facts {
        title: "The run".to_owned(),
        rows: vec![
            ("model".to_owned(), recipe.model.clone()),
            ("data".to_owned(), recipe.data.clone()),
            ("adapter".to_owned(), recipe.adapter.method.clone()),
            ("optimiser".to_owned(), recipe.optim.method.clone()),
            ("trained numbers".to_owned(), summary.trained.to_string()),
            (
                "epochs, batch size".to_owned(),
                format!(
                    "{}, {}{}",
                    recipe.epochs(task.kind(), summary.train_rows),
                    recipe.rows_per_step(task.kind()),
                    if recipe.batch.test.is_some() { " at first" } else { "" }
                ),
            ),
            ("seed".to_owned(), recipe.seed.to_string()),
            ("training time".to_owned(), format!("{:.0} s", summary.cost.training_seconds)),
            (
                "peak memory".to_owned(),
                summary.cost.peak_memory_mib.map_or("unknown".to_owned(), |mib| format!("{mib:.0} MiB")),
            ),
        ],
    });
    Report {
        title: format!("{} on {}", recipe.model, recipe.data),
        subtitle: format!("{} rows to train on, {} untouched rows", summary.train_rows, summary.test_rows),
        verdict: verdict(summary),
        sections,
    }
}

/// A number about the chosen, with the baseline's where that is another.
fn compared(summary: &Summary, name: &str, x: f64) -> String {
    match summary.baseline_metrics.get(name).filter(|_| summary.chosen != summary.baseline) {
        Some(before) => format!("{x:.4} ({}: {before:.4})", summary.baseline.name()),
        None => format!("{x:.4}"),
    }
}

/// The report's first sentence.
pub(crate) fn verdict(summary: &Summary) -> report::Verdict {
    let Some(gain) = summary.gain else {
        return report::Verdict {
            chosen: summary.chosen.name().to_owned(),
            gain: None,
            interval: None,
            sentence: format!(
                "The {} was chosen inside the training rows; no rows were held out to show by how much.",
                summary.chosen.name()
            ),
            tone: Tone::Neutral,
        };
    };
    if summary.chosen == summary.baseline {
        return report::Verdict {
            chosen: summary.chosen.name().to_owned(),
            gain: Some(0.0),
            interval: None,
            sentence: format!(
                "The {} is kept: nothing trained scored higher inside the training rows.",
                summary.chosen.name()
            ),
            tone: Tone::Neutral,
        };
    }
    let (gain, interval) = points(gain);
    report::Verdict::compare(summary.chosen.name(), gain, interval)
}

#[expect(clippy::too_many_arguments, reason = "one row of a table, used once")]
fn example(
    task: &dyn Task,
    data: &Prepared,
    examples: &Examples,
    row: usize,
    before: &[f64],
    after: &[f64],
    truth: usize,
    names: &[String],
) -> ExampleRow {
    let text = match &examples.inputs {
        Inputs::Texts(texts) => Some(texts[row].clone()),
        Inputs::Pairs(pairs) => Some(format!("{}  ·  {}", pairs[row].0, pairs[row].1)),
        Inputs::Words(words) => Some(words[row].join(" ")),
        _ => None,
    };
    let good = match (task.class(before) == Some(truth), task.class(after) == Some(truth)) {
        (false, true) => Some(true),
        (true, false) => Some(false),
        _ => None,
    };
    ExampleRow {
        text,
        picture: picture(data, row),
        truth: Some(names[truth].clone()),
        before: task.describe(before),
        after: task.describe(after),
        good,
    }
}

/// The first channel of an image row.
pub(crate) fn picture(data: &Prepared, row: usize) -> Option<Picture> {
    let ([_, height, width], pixels) = data.left.pixels(row)?;
    Some(Picture::from_values(width as u32, height as u32, &pixels[..height * width], 0.0, 1.0))
}
