//! `acclimate methods`: the catalogue, from the cards alone.

use crate::render;
use acclimate::{CardView, Family};
use acclimate_core::ParamInfo;
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub(crate) enum Methods {
    /// Lists all methods by family.
    List {
        /// Only this family.
        #[arg(long, short)]
        family: Option<String>,
        /// One JSON array, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Explains a method: its mathematics, when to use it, its settings.
    Explain {
        /// The method's name, as `list` shows it.
        name: String,
    },
}

impl Methods {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::List { family, json } => {
                let mut families = acclimate::catalogue();
                if let Some(name) = family {
                    let names: Vec<&str> = families.iter().map(|f| f.name).collect();
                    if !names.contains(&name.as_str()) {
                        return Err(acclimate_core::Error::unknown("family", name, names).into());
                    }
                    families.retain(|f| f.name == name);
                }
                render::print(&if *json { list_json(&families)? } else { list(&families) })
            }
            Self::Explain { name } => {
                let (family, view) = acclimate::catalogue::find(name)?;
                render::print(&explain(family, &view))
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn list(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        text.push_str(&format!("{} ({}): {}\n", render::bold(family.title), family.name, family.about));
        let row = |view: &CardView| {
            let card = &view.card;
            vec![card.name.to_owned(), card.year.to_string(), one_line(card.summary())]
        };
        let rows: Vec<Vec<String>> = family.cards.iter().map(row).collect();
        text.push_str(&render::table(&rows));
        text.push('\n');
    }
    text.push_str("`acclimate methods explain NAME` shows a method's mathematics and settings.\n");
    text
}

/// A setting's value; JSON has no infinity, so numbers it cannot hold are words.
fn json_value(value: &toml::Value) -> Value {
    match value {
        toml::Value::Float(x) if !x.is_finite() => json!(x.to_string()),
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}

fn list_json(families: &[Family]) -> Result<String> {
    let mut all = vec![];
    for family in families {
        for view in &family.cards {
            let card = &view.card;
            let param = |p: &ParamInfo| {
                json!({
                    "name": p.name,
                    "type": p.ty,
                    "doc": one_line(p.doc),
                    "default": view.defaults.get(p.name).map(json_value),
                    "min": p.min,
                    "max": p.max,
                    "above": p.above,
                })
            };
            all.push(json!({
                "name": card.name,
                "title": card.title,
                "family": family.name,
                "catalogue": card.catalogue,
                "paper": card.paper,
                "year": card.year,
                "summary": one_line(card.summary()),
                "params": card.params.iter().map(param).collect::<Vec<_>>(),
                "preset": view.preset,
                "needs": card.needs,
                "promises": card.promises,
                "evidence": view.evidence,
            }));
        }
    }
    render::json(&Value::Array(all))
}

fn explain(family: &str, view: &CardView) -> String {
    let card = &view.card;
    let width = render::width();
    let mut text = format!("{} ({}, {family}, {})\n\n", render::bold(card.title), card.name, card.year);
    text.push_str(&render::document(card.doc, width));
    if !view.preset.is_empty() {
        text.push_str(&format!("\n{}\n", render::bold("Preset")));
        text.push_str("  These settings lie under your own:\n");
        view.preset.trim().lines().for_each(|line| text.push_str(&format!("      {line}\n")));
    }
    text.push_str(&format!("\n{}\n", render::bold("Settings")));
    if card.params.is_empty() {
        text.push_str("  none\n");
    }
    let longest = card.params.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for p in card.params {
        let default = view.defaults.get(p.name).map_or("none".to_owned(), typed);
        text.push_str(&format!("  {:longest$}  {}, default {default}{}\n", p.name, p.ty, range(p)));
        text.push_str(&render::wrap(p.doc, width, longest + 4));
    }
    let words = |values: Vec<Value>| {
        let names: Vec<String> = values.iter().filter_map(Value::as_str).map(|name| name.replace('_', " ")).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let needs = words(card.needs.iter().map(|need| json!(need)).collect());
    let promises = words(card.promises.iter().map(|promise| json!(promise)).collect());
    text.push_str(&format!("\n{}\n  {needs}\n\n{}\n  {promises}\n", render::bold("Needs"), render::bold("Promises")));
    let link = match card.paper.split_once(':') {
        Some(("arxiv", id)) => Some(format!("https://arxiv.org/abs/{id}")),
        Some(("doi", id)) => Some(format!("https://doi.org/{id}")),
        _ => None,
    };
    if let Some(link) = link {
        text.push_str(&format!("\n{}\n  {link}\n", render::bold("Paper")));
    }
    text
}

/// A value as one types it: `1e-30`, not thirty zeros.
fn typed(value: &toml::Value) -> String {
    value.as_float().map_or_else(|| value.to_string(), number)
}

fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:e}") } else { toml::Value::Float(x).to_string() }
}

fn range(param: &ParamInfo) -> String {
    let low = param.min.map(|min| format!("{} {}", if param.above { "above" } else { "at least" }, number(min)));
    let high = param.max.map(|max| format!("at most {}", number(max)));
    let parts: Vec<String> = low.into_iter().chain(high).collect();
    if parts.is_empty() { String::new() } else { format!(", {}", parts.join(", ")) }
}
