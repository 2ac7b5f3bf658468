//! The report: one HTML file that tells what a run did and whether it helped.
//!
//! A [`Report`] is plain data in, one page out. The page needs nothing else: no network, no scripts, no fonts. It
//! follows the reader's light or dark setting, fits a phone, and prints. Every text is escaped, so rows of data can
//! never become markup; numbers that are not finite are left out, and the page says so.
//!
//! ```
//! use acclimate::report::{Interval, Report, Section, Verdict};
//!
//! let report = Report {
//!     title: "Reviews".into(),
//!     subtitle: "minilm, 400 labelled rows".into(),
//!     verdict: Verdict::compare("patch", 8.2, Some(Interval { low: 4.1, high: 12.3 })),
//!     sections: vec![Section::Facts { title: "Run".into(), rows: vec![("Seed".into(), "7".into())] }],
//! };
//! assert!(report.to_html().contains("The patch wins by 8.2 points (95 % interval 4.1 to 12.3)."));
//! ```

mod chart;
mod picture;
mod sections;
mod text;

use serde::Serialize;
use std::path::Path;
use text::{Esc, fixed, signed};

/// A whole report: a heading, the verdict, and sections in reading order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The heading, a few words.
    pub title: String,
    /// One line under the heading: model, data, date.
    pub subtitle: String,
    /// Did it help? Shown first and large.
    pub verdict: Verdict,
    /// The evidence, in reading order.
    pub sections: Vec<Section>,
}

/// What the gate decided, in one number and one sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The name of the candidate that was chosen; empty where there was nothing to choose from.
    pub chosen: String,
    /// The gain over the unadapted model in points (hundredths of the score), if it was measured.
    pub gain: Option<f64>,
    /// The 95 % interval of the gain, in points.
    pub interval: Option<Interval>,
    /// The decision as a sentence.
    pub sentence: String,
    /// Good, neutral or bad news.
    pub tone: Tone,
}

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How a verdict or a caption is meant. Always shown by a word or a sign as well as by colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// A win, or a right answer.
    Good,
    /// A tie, or plain information.
    #[default]
    Neutral,
    /// A loss, or a wrong answer.
    Bad,
}

/// One block of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Section {
    /// Names and values: the model, the data, the seed, the cost.
    Facts {
        /// The heading.
        title: String,
        /// Name and value.
        rows: Vec<(String, String)>,
    },
    /// The candidates of the gate: scores with intervals, drawn beside the table.
    Candidates {
        /// The heading.
        title: String,
        /// A sentence under the heading; may be empty.
        note: String,
        /// What the score is and its unit: "accuracy, %".
        score: String,
        /// The candidates. The first is the unadapted model: the others are compared with it.
        rows: Vec<CandidateRow>,
    },
    /// Lines over a common x axis: learning curves, the estimate of D-Adaptation, the rate multiplier.
    Curves {
        /// The heading.
        title: String,
        /// A sentence under the heading; may be empty.
        note: String,
        /// The name of the x axis.
        x: String,
        /// The name of the y axis.
        y: String,
        /// Whether the y axis is logarithmic; values that are not positive are then left out.
        log_y: bool,
        /// The lines.
        series: Vec<Series>,
    },
    /// Confusion matrices as heat maps: rows are the truth, columns the prediction.
    Confusion {
        /// The heading.
        title: String,
        /// The classes, in the order of rows and columns.
        labels: Vec<String>,
        /// Counts of the unadapted model, shown beside the others if present.
        before: Option<Vec<Vec<u64>>>,
        /// Counts of the chosen model. Missing cells count as zero.
        after: Vec<Vec<u64>>,
    },
    /// Examples whose prediction changed.
    Examples {
        /// The heading.
        title: String,
        /// A sentence under the heading; may be empty.
        note: String,
        /// The examples.
        rows: Vec<ExampleRow>,
    },
    /// A wall of small pictures.
    Pictures {
        /// The heading.
        title: String,
        /// A sentence under the heading; may be empty.
        note: String,
        /// The pictures.
        items: Vec<PictureItem>,
    },
    /// Any other table. Columns that hold only numbers are set to the right.
    Table {
        /// The heading.
        title: String,
        /// A sentence under the heading; may be empty.
        note: String,
        /// The names of the columns.
        header: Vec<String>,
        /// The rows; short ones are filled with empty cells.
        rows: Vec<Vec<String>>,
    },
    /// Prose.
    Text {
        /// The heading.
        title: String,
        /// The paragraphs, plain text.
        paragraphs: Vec<String>,
    },
}

/// One candidate of the gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateRow {
    /// Its name: "unadapted", "probe", "patch".
    pub name: String,
    /// A few words on what it is or costs; may be empty.
    pub detail: String,
    /// The score on held-out data.
    pub score: f64,
    /// The 95 % interval of the score.
    pub interval: Option<Interval>,
    /// Whether the gate chose it.
    pub chosen: bool,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// x and y in drawing order. Points that are not finite leave a gap.
    pub points: Vec<(f64, f64)>,
    /// Whether this is the line to look at: drawn last, stronger, in the accent colour.
    pub emphasis: bool,
}

/// One example before and after adapting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExampleRow {
    /// The example, if it is a text.
    pub text: Option<String>,
    /// The example, if it is a picture.
    pub picture: Option<Picture>,
    /// The label, if it is known.
    pub truth: Option<String>,
    /// What the unadapted model says.
    pub before: String,
    /// What the chosen model says.
    pub after: String,
    /// Whether the change is for the better, if it is known.
    pub good: Option<bool>,
}

/// A small picture with a caption.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureItem {
    /// The picture.
    pub picture: Picture,
    /// A few words under it.
    pub caption: String,
    /// How the caption is meant.
    pub tone: Tone,
}

/// A small picture: one byte per pixel (grey) or three (red, green, blue), row by row from the top left.
///
/// If the number of bytes fits neither, the page shows an empty frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// Pixels per row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// The bytes, `width × height` or three times as many.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A grey picture from values where `black` is drawn black and `white` white; values between are shades, values
    /// outside are clipped, and values that are not numbers are black.
    pub fn from_values(width: u32, height: u32, values: &[f32], black: f32, white: f32) -> Self {
        let shade = |v: &f32| (((v - black) / (white - black)).clamp(0.0, 1.0) * 255.0).round() as u8;
        Self { width, height, pixels: values.iter().map(shade).collect() }
    }
}

impl Verdict {
    /// The verdict on a candidate that was compared with the unadapted model: a win or a loss if the interval lies on
    /// one side of zero, else a tie. Without an interval nothing is claimed.
    pub fn compare(chosen: &str, gain: f64, interval: Option<Interval>) -> Self {
        let interval = interval.filter(|i| i.low.is_finite() && i.high.is_finite());
        let gain = Some(gain).filter(|g| g.is_finite());
        let (tone, sentence) = match (gain, interval) {
            (None, _) => (Tone::Neutral, format!("The {chosen} was chosen; its gain could not be measured.")),
            (Some(g), None) => (
                Tone::Neutral,
                format!(
                    "The {chosen} differs from the unadapted model by {} points; without an interval this is no proof.",
                    signed(g, 1)
                ),
            ),
            (Some(g), Some(i)) if i.low > 0.0 => (
                Tone::Good,
                format!(
                    "The {chosen} wins by {} points (95 % interval {} to {}).",
                    fixed(g, 1),
                    fixed(i.low, 1),
                    fixed(i.high, 1)
                ),
            ),
            (Some(g), Some(i)) if i.high < 0.0 => (
                Tone::Bad,
                format!(
                    "The {chosen} loses by {} points (95 % interval {} to {}).",
                    fixed(-g, 1),
                    fixed(-i.high, 1),
                    fixed(-i.low, 1)
                ),
            ),
            (Some(g), Some(i)) => (
                Tone::Neutral,
                format!(
                    "The {chosen} ties with the unadapted model: {} points (95 % interval {} to {}).",
                    signed(g, 1),
                    fixed(i.low, 1),
                    fixed(i.high, 1)
                ),
            ),
        };
        Self { chosen: chosen.to_owned(), gain, interval, sentence, tone }
    }
}

impl Report {
    /// The page.
    pub fn to_html(&self) -> String {
        let title = Esc(&self.title);
        let sections: String = self.sections.iter().map(sections::section).collect();
        let subtitle = match self.subtitle.as_str() {
            "" => String::new(),
            s => format!("<p class=\"subtitle\">{}</p>\n", Esc(s)),
        };
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
             <title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1 dir=\"auto\">{title}</h1>\n{subtitle}</header>\n{verdict}{sections}\
             <footer>Written by acclimate. Intervals are 95 % intervals.</footer>\n</main>\n</body>\n</html>\n",
            style = include_str!("report/style.css"),
            verdict = sections::verdict(&self.verdict),
        )
    }

    /// Writes the page. The file appears whole or not at all: a reader never sees half a page.
    ///
    /// # Errors
    /// When the disk refuses; the error names the file.
    pub fn write(&self, file: &Path) -> acclimate_core::Result<()> {
        acclimate_core::write_whole(file, self.to_html().as_bytes())
    }
}
