//! `acclimate align`: a model for a table without labels.

use crate::diagnose::Columns;
use crate::predict::Form;
use crate::render;
use acclimate::align::{LearnerKind, Outcome, Plan, run};
use acclimate_core::write_whole;
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;

const HELP: &str = "\
Examples:
  acclimate align last-year.csv this-year.csv --out answers.csv
  acclimate align source.csv target.csv --label income --methods 'coral; lin_ot; map_ot' --score class_ami --report page.html
  acclimate align reviews.csv tweets.csv --model asset:minilm --learner linear

The learner by itself is always a candidate. A method answers only where a shift is found (as by `acclimate diagnose`, p at most 0.05);
of several methods the one whose score, which sees no label of the target, is surely above the learner's. If the target has labels they
judge what was chosen, and nothing else: no fit and no choice sees them. `acclimate methods list --family shift` shows methods and scores.";

/// Fits a model on a labelled table for another without labels, and says whether adapting helped.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct AlignCommand {
    /// The labelled table.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The table to answer.
    #[arg(value_name = "TARGET")]
    target: String,
    #[command(flatten)]
    domains: Columns,
    /// The methods, separated by semicolons, each with settings that are not as they come.
    #[arg(long, value_name = "LIST", value_delimiter = ';', default_value = "explained")]
    methods: Vec<String>,
    /// What is fitted on the rows that a method makes.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Kind::Kernel)]
    learner: Kind,
    /// The score that chooses, where several methods are named.
    #[arg(long, value_name = "SCORE")]
    score: Option<String>,
    /// Splits in which it is taken.
    #[arg(long, value_name = "NUMBER", default_value_t = Plan::default().splits)]
    splits: usize,
    /// Lets a method answer even where nothing tells that it helps.
    #[arg(long)]
    no_gate: bool,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for the answers, `.csv`, `.tsv` or `.jsonl`; without it they go to stdout.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The file for a page, `.html`.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The numbers as JSON on stdout in place of the summary; without `--out` no answers are shown.
    #[arg(long)]
    json: bool,
}

/// What is fitted.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Support vectors or kernel ridge regression, with Gaussian kernels.
    Kernel,
    /// Logistic or ridge regression.
    Linear,
    /// A random forest.
    Forest,
    /// Boosted trees, for classes.
    Boosted,
    /// The five nearest rows, for classes.
    Nearest,
}

impl AlignCommand {
    pub(crate) fn run(self) -> Result<()> {
        let form = self.out.as_deref().map(Form::of).transpose()?;
        let plan = Plan {
            question: self.domains.question(self.source, self.target),
            methods: self.methods,
            learner: match self.learner {
                Kind::Kernel => LearnerKind::Kernel,
                Kind::Linear => LearnerKind::Linear,
                Kind::Forest => LearnerKind::Forest,
                Kind::Boosted => LearnerKind::Boosted,
                Kind::Nearest => LearnerKind::Nearest,
            },
            score: self.score,
            splits: self.splits,
            ungated: self.no_gate,
            seed: self.seed,
        };
        let outcome = run(&plan)?;
        if let Some(file) = &self.report {
            outcome.write_page(file)?;
        }
        if let (Some(file), Some(form)) = (&self.out, form) {
            write_whole(file, table(&outcome, &form)?.as_bytes())?;
        }
        if self.json {
            return render::print(&render::json(&serde_json::to_value(&outcome)?)?);
        }
        let mut text = render::wrap(&outcome.sentence(), render::width(), 0);
        text.push_str(&format!("\n{}", render::table(&outcome.rows())));
        let files = [("written to", self.out.as_ref()), ("report", self.report.as_ref())];
        let files: Vec<(&str, String)> =
            files.into_iter().filter_map(|(name, file)| Some((name, file?.display().to_string()))).collect();
        text.push_str(&render::facts(&files));
        if self.out.is_some() {
            return render::print(&text);
        }
        render::say(text.trim_end());
        render::print(&table(&outcome, &Form::Cells(b'\t'))?)
    }
}

fn table(outcome: &Outcome, form: &Form) -> Result<String> {
    let number = |row: usize| vec![json!(row + 1), json!(outcome.answers[[row, 0]])];
    if outcome.classes.is_empty() {
        return form.table(&["row", "answer"], (0..outcome.answers.nrows()).map(number));
    }
    let columns: Vec<String> = outcome.classes.iter().map(|name| format!("p_{name}")).collect();
    let header: Vec<&str> = ["row", "answer"].into_iter().chain(columns.iter().map(String::as_str)).collect();
    let row = |row: usize| {
        let class = json!(outcome.classes[outcome.predicted[row]]);
        let shares = outcome.answers.row(row).iter().map(|share| json!(share)).collect::<Vec<Value>>();
        [vec![json!(row + 1), class], shares].concat()
    };
    form.table(&header, (0..outcome.predicted.len()).map(row))
}
