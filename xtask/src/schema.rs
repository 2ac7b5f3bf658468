//! The JSON schema of recipes, for editors: the recipe's own keys, and one alternative per method where a method is named.
use acclimate::recipe::{AdapterRecipe, Key, OptimRecipe, Recipe};
use acclimate::{CardView, Family};
use acclimate_core::ParamInfo;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The recipe's tables that name a method, each with the family it comes from.
const METHOD_SECTIONS: [(&str, &[Key], &str); 2] =
    [("adapter", AdapterRecipe::KEYS, "peft"), ("optim", OptimRecipe::KEYS, "optim")];

/// The schema of a recipe file.
pub fn recipe(families: &[Family]) -> Result<String> {
    let defaults = toml::Table::try_from(Recipe::default())?;
    let inside = |name: &str| defaults.get(name).and_then(toml::Value::as_table).context("a section is a table");
    let mut properties = keys(Recipe::KEYS, &defaults)?;
    for (name, section) in Recipe::CLOSED {
        properties.insert(name.to_owned(), closed(keys(section, inside(name)?)?));
    }
    for (name, section, family) in METHOD_SECTIONS {
        let own = keys(section, inside(name)?)?;
        let default = inside(name)?.get("method").and_then(toml::Value::as_str);
        let family =
            families.iter().find(|f| f.name == family).with_context(|| format!("there is no family `{family}`"))?;
        let methods = family.cards.iter().map(|view| method(view, &own, default)).collect::<Result<Vec<_>>>()?;
        properties.insert(name.to_owned(), json!({ "title": family.title, "type": "object", "oneOf": methods }));
    }
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("acclimate recipe"));
    schema.extend(closed(properties).as_object().cloned().unwrap_or_default());
    Ok(serde_json::to_string_pretty(&Value::Object(schema))? + "\n")
}

/// A table in which only these keys may stand.
fn closed(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// The recipe's own keys, typed by their defaults; a key without a default is left open.
fn keys(keys: &[Key], defaults: &toml::Table) -> Result<Map<String, Value>> {
    let mut properties = Map::new();
    for key in keys {
        let name = key.name.rsplit('.').next().unwrap_or(key.name);
        let mut schema = Map::new();
        let default = defaults.get(name);
        if let Some(kind) = default.and_then(kind_of) {
            schema.insert("type".to_owned(), json!(kind));
        }
        schema.insert("description".to_owned(), json!(one_line(key.doc)));
        insert_default(&mut schema, default)?;
        properties.insert(name.to_owned(), Value::Object(schema));
    }
    Ok(properties)
}

/// One alternative: the section's keys, the method's own, and its name, which may be left out of the default method's.
fn method(view: &CardView, own: &Map<String, Value>, default: Option<&str>) -> Result<Value> {
    let card = &view.card;
    let mut properties = own.clone();
    for param in card.params {
        properties.insert(param.name.to_owned(), parameter(param, view.defaults.get(param.name))?);
    }
    properties.insert("method".to_owned(), json!({ "const": card.name }));
    let required: &[&str] = if default == Some(card.name) { &[] } else { &["method"] };
    Ok(json!({
        "title": card.title,
        "description": one_line(card.summary()),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }))
}

fn parameter(param: &ParamInfo, default: Option<&toml::Value>) -> Result<Value> {
    let mut schema = Map::new();
    if let Some(kind) = kind(param.ty, default) {
        schema.insert("type".to_owned(), json!(kind));
    }
    schema.insert("description".to_owned(), json!(one_line(param.doc)));
    if let Some(min) = param.min {
        schema.insert(if param.above { "exclusiveMinimum" } else { "minimum" }.to_owned(), json!(min));
    }
    if let Some(max) = param.max {
        schema.insert("maximum".to_owned(), json!(max));
    }
    insert_default(&mut schema, default)?;
    Ok(Value::Object(schema))
}

/// TOML knows infinity, JSON does not; a table's defaults stand with its own keys.
fn insert_default(schema: &mut Map<String, Value>, default: Option<&toml::Value>) -> Result<()> {
    if let Some(default) = default.filter(|value| !value.is_table() && value.as_float().is_none_or(f64::is_finite)) {
        schema.insert("default".to_owned(), serde_json::to_value(default)?);
    }
    Ok(())
}

fn one_line(doc: &str) -> String {
    doc.trim().replace('\n', " ")
}

/// The JSON type of a Rust type; of an own type, that of its default.
fn kind(ty: &str, default: Option<&toml::Value>) -> Option<&'static str> {
    let inner = ty.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(ty);
    match inner {
        "f32" | "f64" => Some("number"),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => Some("integer"),
        "bool" => Some("boolean"),
        "String" => Some("string"),
        list if list.starts_with("Vec<") || list.starts_with('[') => Some("array"),
        _ => default.and_then(kind_of),
    }
}

fn kind_of(value: &toml::Value) -> Option<&'static str> {
    match value {
        toml::Value::String(_) => Some("string"),
        toml::Value::Integer(_) => Some("integer"),
        toml::Value::Float(_) => Some("number"),
        toml::Value::Boolean(_) => Some("boolean"),
        toml::Value::Array(_) => Some("array"),
        toml::Value::Table(_) => Some("object"),
        toml::Value::Datetime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_one_alternative() {
        let text = recipe(&crate::pages::tests::families()).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        let dog = &schema["properties"]["optim"]["oneOf"][0];
        assert_eq!(dog["properties"]["method"]["const"], "dog");
        assert_eq!(dog["properties"]["eps"]["type"], "number");
        assert_eq!(dog["properties"]["eps"]["exclusiveMinimum"], 0.0);
        assert_eq!(dog["properties"]["eps"]["default"], 1e-8);
        assert_eq!(dog["properties"]["weight_decay"]["type"], "number");
        assert_eq!(dog["required"], json!(["method"]));
        assert_eq!(schema["properties"]["seed"]["default"], 0);
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn the_default_method_need_not_be_named() {
        let view = &crate::pages::tests::families()[0].cards[0];
        assert_eq!(method(view, &Map::new(), Some("dog")).unwrap()["required"], json!([]));
    }

    #[test]
    fn types_become_json_types() {
        assert_eq!(kind("Option<usize>", None), Some("integer"));
        assert_eq!(kind("Vec<String>", None), Some("array"));
        assert_eq!(kind("Init", Some(&toml::Value::String("zero".into()))), Some("string"));
        assert_eq!(kind("Init", None), None);
    }

    #[test]
    fn an_infinite_default_is_left_out() {
        let param = ParamInfo { name: "growth", ty: "f64", doc: "", min: None, max: None, above: false };
        let schema = parameter(&param, Some(&toml::Value::Float(f64::INFINITY))).unwrap();
        assert_eq!(schema.get("default"), None);
    }
}
