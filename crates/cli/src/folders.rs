//! `acclimate doctor` and `acclimate convert`: patch folders looked over, and patches as a LoRA.

use crate::render;
use acclimate::core::{Error, Patch};
use acclimate::dataset::Loaded;
use acclimate::models::Base;
use acclimate::peft::{Finding, Level};
use acclimate::{Ranks, saved};
use acclimate_data::Assets;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which model a folder is held against, and how.
#[derive(Args)]
struct Against {
    /// The model: a folder, a GGUF file or `asset:NAME`; without one, what the folder names.
    #[arg(long, short)]
    model: Option<String>,
    /// Fetch nothing.
    #[arg(long)]
    offline: bool,
}

impl Against {
    fn load(&self, name: &str) -> Result<Loaded> {
        Ok(Loaded::open(name, Base::Dense, 512, &Assets::open(self.offline)?)?)
    }
}

/// Looks over a run or patch folder, of acclimate or of the `peft` package, and says what is wrong with it.
#[derive(Args)]
pub(crate) struct Doctor {
    /// The folder.
    folder: PathBuf,
    #[command(flatten)]
    against: Against,
    /// One JSON array, for programs.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let folder = saved::patch_folder(&self.folder);
        // A model that the folder only names may be gone; one named by the user must be there.
        let (model, absent) = match (&self.against.model, saved::base_of(&folder)) {
            (Some(name), _) => (Some(self.against.load(name)?), None),
            (None, Some(name)) => {
                self.against.load(&name).map_or_else(|e| (None, Some(e.to_string())), |m| (Some(m), None))
            }
            (None, None) => (None, None),
        };
        let findings = acclimate::doctor(&folder, model.as_ref().map(|loaded| loaded.model.as_ref()))?;
        if self.json {
            render::print(&render::json(&serde_json::to_value(&findings)?)?)?;
        } else {
            render::print(&told(&findings))?;
            match (&model, absent) {
                (Some(_), _) => {}
                (None, None) => {
                    render::say("without a model, names and shapes were not checked; name one with `--model`")
                }
                (None, Some(why)) => render::say(&format!("names and shapes were not checked: {why}")),
            }
        }
        let broken = findings.iter().any(|finding| finding.level == Level::Error);
        Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn told(findings: &[Finding]) -> String {
    let (mut text, mut at) = (String::new(), 0);
    while let Some(Finding { level, code, file, what, remedy }) = findings.get(at) {
        let level = match level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        text += &format!("{} {code}: {}\n", render::bold(level), file.display());
        text += &render::wrap(what, render::width(), 2);
        // One mistake shows in every layer.
        let alike =
            findings[at + 1..].iter().take_while(|other| other.code == *code && other.remedy == *remedy).count();
        if alike > 0 {
            text += &format!("  and {alike} more like it\n");
        }
        text += &render::wrap(&format!("→ {remedy}"), render::width(), 2);
        at += 1 + alike;
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => text + "nothing is wrong with it\n",
        (errors, warnings) => {
            let some = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            text + &format!("{}, {}\n", some(errors, "error"), some(warnings, "warning"))
        }
    }
}

/// Turns any patch on weights into a LoRA, and says what that loses.
#[derive(Args)]
pub(crate) struct Convert {
    /// The run folder, or a patch folder.
    #[arg(long, short, value_name = "FOLDER")]
    run: PathBuf,
    /// Where the LoRA is written.
    #[arg(long, short, value_name = "FOLDER")]
    out: PathBuf,
    /// The rank everywhere.
    #[arg(long, required_unless_present = "keep", conflicts_with = "keep")]
    rank: Option<usize>,
    /// At each site the smallest rank that keeps this share of the change, such as 0.99.
    #[arg(long, value_name = "SHARE")]
    keep: Option<f64>,
    #[command(flatten)]
    against: Against,
    /// One JSON array of the sites, for programs.
    #[arg(long)]
    json: bool,
}

impl Convert {
    pub(crate) fn run(&self) -> Result<()> {
        let folder = saved::patch_folder(&self.run);
        if self.out.exists() {
            let what = format!("{}: exists already; name another folder with `--out`", self.out.display());
            return Err(Error::Other(what).into());
        }
        let loaded = self.against.load(&saved::model_for(&folder, self.against.model.as_deref())?)?;
        let model = loaded.model.as_ref();
        let patch: Patch = acclimate::peft::load(&folder, model)?;
        let ranks = self.rank.map_or(Ranks::Share(self.keep.unwrap_or(1.0)), Ranks::Fixed);
        let conversion = acclimate::to_lora(&patch, model, ranks)?;
        saved::write_beside(&folder, &self.out, &conversion.patch, model)?;
        if self.json {
            return render::print(&render::json(&serde_json::to_value(&conversion.sites)?)?);
        }
        let mut sites = conversion.sites.clone();
        sites.sort_by(|a, b| b.lost.total_cmp(&a.lost));
        let mut rows = vec![["site", "rank", "change", "lost"].map(str::to_owned).to_vec()];
        rows.extend(sites.iter().take(8).map(|site| {
            vec![site.site.clone(), site.rank.to_string(), format!("{:.3e}", site.change), format!("{:.3e}", site.lost)]
        }));
        let mut text = render::table(&rows);
        if sites.len() > 8 {
            text += &format!("  and {} sites that lose less\n", sites.len() - 8);
        }
        text += &format!(
            "change: ‖ΔW‖/‖W‖; lost: ‖ΔW − BA‖/‖ΔW‖\nwritten to {}; {} numbers in place of {}\n",
            self.out.display(),
            conversion.patch.params.count(),
            patch.params.count()
        );
        render::print(&text)
    }
}
