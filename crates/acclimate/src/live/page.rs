//! The page of a stream.

use super::folder::Folder;
use super::{Line, Outcome};
use crate::report::{Report, Section, Series, Tone, Verdict};
use acclimate_core::{Error, Result};
use acclimate_tta::Reset;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Most points of a curve: a stream may have any number of batches.
const POINTS: u64 = 200;

/// Most events and classes shown.
const SHOWN: usize = 50;

/// Batches that stand next to one another, as one point.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    frames: u64,
    entropy: f64,
    labelled: u64,
    wrong: u64,
}

/// What the batches' file tells.
struct Course {
    /// The last frame of each point, and the point.
    bins: Vec<(u64, Bin)>,
    /// Milliseconds per frame of every batch, sorted.
    milliseconds: Vec<f64>,
    forwards: u64,
    backwards: u64,
}

impl Course {
    fn read(file: &Path, batches: u64) -> Result<Self> {
        let per_bin = batches.div_ceil(POINTS).max(1);
        let mut course = Self { bins: vec![], milliseconds: vec![], forwards: 0, backwards: 0 };
        let (mut bin, mut frames) = (Bin::default(), 0);
        for line in BufReader::new(File::open(file).map_err(|e| Error::io(file, e))?).lines() {
            let line = line.map_err(|e| Error::io(file, e))?;
            let line: Line = serde_json::from_str(&line).map_err(|e| Error::format(file, e.to_string()))?;
            bin.frames += line.frames;
            bin.entropy += line.entropy * line.frames as f64;
            bin.labelled += line.labelled;
            bin.wrong += line.wrong;
            frames += line.frames;
            course.milliseconds.push(line.milliseconds / line.frames.max(1) as f64);
            course.forwards += line.forwards;
            course.backwards += line.backwards;
            if line.batch.is_multiple_of(per_bin) || line.batch == batches {
                course.bins.push((frames, std::mem::take(&mut bin)));
            }
        }
        course.milliseconds.sort_by(f64::total_cmp);
        Ok(course)
    }

    /// The milliseconds per frame that so large a share of batches does not pass.
    fn quantile(&self, share: f64) -> f64 {
        let at = (share * self.milliseconds.len().saturating_sub(1) as f64).round() as usize;
        self.milliseconds.get(at).copied().unwrap_or_default()
    }
}

pub(super) fn page(outcome: &Outcome, names: &[String], folder: &Folder) -> Result<Report> {
    let (book, plan) = (&outcome.book, &outcome.about.plan);
    let course = Course::read(&folder.file("batches.jsonl"), book.batches)?;
    let over = |f: &dyn Fn(&Bin) -> Option<f64>| -> Vec<(f64, f64)> {
        course.bins.iter().filter_map(|(frame, bin)| Some((*frame as f64, f(bin)?))).collect()
    };
    let error = |wrong: u64, labelled: u64| (labelled > 0).then(|| 100.0 * wrong as f64 / labelled as f64);
    let mut sections = vec![];
    if book.labelled > 0 {
        let (mut wrong, mut labelled) = (0, 0);
        let so_far = course.bins.iter().filter_map(|(frame, bin)| {
            (wrong, labelled) = (wrong + bin.wrong, labelled + bin.labelled);
            Some((*frame as f64, error(wrong, labelled)?))
        });
        let so_far: Vec<(f64, f64)> = so_far.collect();
        sections.push(Section::Curves {
            title: "Error over time".to_owned(),
            note: format!("Of {} frames whose class is known. The method saw none of the classes.", book.labelled),
            x: "frame".to_owned(),
            y: "error, %".to_owned(),
            log_y: false,
            series: vec![
                Series {
                    name: "here".to_owned(),
                    points: over(&|bin| error(bin.wrong, bin.labelled)),
                    emphasis: false,
                },
                Series { name: "so far".to_owned(), points: so_far, emphasis: true },
            ],
        });
    }
    sections.push(Section::Curves {
        title: "Entropy over time".to_owned(),
        note: "Of the answers, in nats: low where the model is certain, rightly or not.".to_owned(),
        x: "frame".to_owned(),
        y: "nats".to_owned(),
        log_y: false,
        series: vec![Series {
            name: "entropy".to_owned(),
            points: over(&|bin| Some(bin.entropy / bin.frames.max(1) as f64)),
            emphasis: true,
        }],
    });
    sections.push(predicted(outcome, names));
    sections.push(Section::Text { title: "Events".to_owned(), paragraphs: events(outcome, folder)? });
    sections.push(costs(outcome, &course));
    sections.extend(moved(outcome));
    sections.push(facts(outcome));
    let verdict = match outcome.error {
        Some(error) => format!("{:.1} % of the frames whose class is known were answered wrongly.", 100.0 * error),
        None => "No class is known, so nothing says how many answers are right.".to_owned(),
    };
    Ok(Report {
        title: format!("{} on a stream", plan.method),
        subtitle: format!("{} frames in {} batches of {}", book.frames, book.batches, plan.batch),
        verdict: Verdict {
            chosen: plan.method.clone(),
            gain: None,
            interval: None,
            sentence: format!("{verdict} {} fresh starts, {} events.", book.resets, book.events),
            tone: if book.events > 0 { Tone::Bad } else { Tone::Neutral },
        },
        sections,
    })
}

fn predicted(outcome: &Outcome, names: &[String]) -> Section {
    let book = &outcome.book;
    let mut classes: Vec<(usize, u64)> = book.predicted.iter().copied().enumerate().collect();
    classes.sort_by_key(|(class, count)| (std::cmp::Reverse(*count), *class));
    let row = |(class, count): &(usize, u64)| {
        let name = names.get(*class).cloned().unwrap_or_else(|| class.to_string());
        vec![name, count.to_string(), format!("{:.1}", 100.0 * *count as f64 / book.frames.max(1) as f64)]
    };
    Section::Table {
        title: "Predicted classes".to_owned(),
        note: match classes.len() > SHOWN {
            true => format!("The {SHOWN} most frequent of {}.", classes.len()),
            false => String::new(),
        },
        header: ["class", "frames", "share, %"].map(str::to_owned).to_vec(),
        rows: classes.iter().take(SHOWN).map(row).collect(),
    }
}

fn events(outcome: &Outcome, folder: &Folder) -> Result<Vec<String>> {
    let count = outcome.book.events;
    if count == 0 {
        return Ok(vec!["None: no collapse, no number that was not finite.".to_owned()]);
    }
    let file = folder.file("events.jsonl");
    let mut all = vec![];
    for line in BufReader::new(File::open(&file).map_err(|e| Error::io(&file, e))?).lines().take(SHOWN) {
        let line = line.map_err(|e| Error::io(&file, e))?;
        let event: Value = serde_json::from_str(&line).map_err(|e| Error::format(&file, e.to_string()))?;
        all.push(event["text"].as_str().unwrap_or(&line).to_owned());
    }
    if count > all.len() as u64 {
        all.push(format!("… and {} more, see events.jsonl", count - all.len() as u64));
    }
    Ok(all)
}

fn costs(outcome: &Outcome, course: &Course) -> Section {
    let (book, counts) = (&outcome.book, &outcome.counts);
    let per_frame = |rows: u64| format!("{:.3}", rows as f64 / book.frames.max(1) as f64);
    let per_batch = |passes: u64| format!("{:.3}", passes as f64 / book.batches.max(1) as f64);
    let mean = book.milliseconds / book.frames.max(1) as f64;
    let rows = [
        ("forwards, rows per frame", per_frame(counts.forward_rows)),
        ("backwards, rows per frame", per_frame(counts.backward_rows)),
        ("forwards per batch", per_batch(course.forwards)),
        ("backwards per batch", per_batch(course.backwards)),
        ("changes of the patch", counts.updates.to_string()),
        ("passes of the deployed model for comparison", counts.source.to_string()),
        ("milliseconds per frame, mean", format!("{mean:.3}")),
        ("milliseconds per frame, median of batches", format!("{:.3}", course.quantile(0.5))),
        ("milliseconds per frame, 99 % of batches", format!("{:.3}", course.quantile(0.99))),
        ("peak memory", outcome.peak_memory_mib.map_or("unknown".to_owned(), |mib| format!("{mib:.0} MiB"))),
    ];
    Section::Facts {
        title: "What a frame costs".to_owned(),
        rows: rows.map(|(name, value)| (name.to_owned(), value)).to_vec(),
    }
}

fn moved(outcome: &Outcome) -> Option<Section> {
    let audit = outcome.book.audit.as_ref()?;
    let names = |wanted: &dyn Fn(Option<f64>) -> bool| {
        let names: Vec<&str> = audit.tensors.iter().filter(|t| wanted(t.gradient)).map(|t| t.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let rows = [
        ("tensors", audit.tensors.len().to_string()),
        ("numbers", audit.numbers().to_string()),
        ("first gradient zero", names(&|gradient| gradient == Some(0.0))),
        ("first gradient absent or not finite", names(&|gradient| gradient.is_none())),
        ("batch norms", audit.batch_norms.to_string()),
        ("their statistics", audit.statistics.clone().unwrap_or_else(|| "none".to_owned())),
    ];
    let rows = rows.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Some(Section::Facts { title: "What may move".to_owned(), rows })
}

fn facts(outcome: &Outcome) -> Section {
    let (about, book) = (&outcome.about, &outcome.book);
    let plan = &about.plan;
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let settings = |table: &toml::Table| table.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>().join(", ");
    let optional = |name: &str, value: Option<String>| value.map(|value| (name.to_owned(), value));
    let statistics = plan.statistics.as_ref().map(|name| format!("{name} {}", settings(&plan.statistics_settings)));
    let optimiser = outcome.optimiser.as_ref().map(|(name, table)| format!("{name} {}", settings(table)));
    let reset = match plan.reset {
        Reset::Never => "never".to_owned(),
        Reset::Every(batches) => format!("every {batches} batches"),
        Reset::Episodic => "before every batch".to_owned(),
    };
    let rows = [
        optional("frames", plan.data.clone().or_else(|| path(&plan.logits))),
        optional("run", path(&plan.run)),
        optional("model", plan.model.clone()),
        optional("method", Some(format!("{} {}", plan.method, settings(&plan.settings)))),
        optional("adapter", plan.adapter.clone()),
        optional("optimiser", optimiser),
        optional("statistics", statistics),
        optional("reference", plan.reference.clone()),
        optional("starts anew", Some(reset)),
        optional("frames left out", Some(book.skipped.to_string())),
        optional("model, SHA-256", Some(about.model.clone())),
        optional("patch, SHA-256", about.patch.clone()),
        optional("frames, SHA-256 chained over batches", Some(book.sha256.clone())),
        optional("acclimate", Some(about.version.clone())),
    ];
    Section::Facts { title: "The stream".to_owned(), rows: rows.into_iter().flatten().collect() }
}
