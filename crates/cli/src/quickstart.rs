//! `acclimate quickstart`.

use crate::{render, tune};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Adapts a model that comes with the program to data that come with it, and writes a report; offline, in under a minute.
#[derive(Args)]
pub(crate) struct Quickstart {
    /// Where the model, the run and the report go.
    #[arg(long, short, value_name = "FOLDER", default_value = "quickstart")]
    out: PathBuf,
}

impl Quickstart {
    pub(crate) fn run(&self) -> Result<()> {
        let mut shown = tune::Shown::new(false);
        let outcome = acclimate::quickstart::run(&self.out, &mut |event| shown.on(event))?;
        shown.end();
        let mut rows = vec![["", "labels", "accuracy, 95 % interval"].map(render::bold).to_vec()];
        rows.extend(
            outcome
                .rows
                .iter()
                .map(|(name, labels, score)| vec![name.clone(), labels.to_string(), tune::score(*score)]),
        );
        let sentence = render::wrap(&outcome.sentence, render::width(), 0);
        let files = [
            ("report", outcome.report.display().to_string()),
            ("next", "acclimate tune --model asset:minilm --data your.csv".to_owned()),
            ("then", "acclimate predict --run runs/minilm-your-seed0 --data new.csv".to_owned()),
        ];
        render::print(&format!("\n{}\n{sentence}\n{}", render::table(&rows), render::facts(&files)))
    }
}
