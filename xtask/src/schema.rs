//! The JSON schema of recipes, for editors: one section per family, one alternative per method.
use acclimate::{CardView, Family};
use acclimate_core::ParamInfo;
use anyhow::Result;
use serde_json::{Map, Value, json};

/// The schema of a recipe file. Sections that belong to no family are left open: the program itself checks them.
pub fn recipe(families: &[Family]) -> Result<String> {
    let mut sections = Map::new();
    for family in families {
        let methods = family.cards.iter().map(method).collect::<Result<Vec<_>>>()?;
        sections.insert(family.name.to_owned(), json!({ "title": family.title, "oneOf": methods }));
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "acclimate recipe",
        "type": "object",
        "properties": sections,
    });
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

fn method(view: &CardView) -> Result<Value> {
    let mut properties = Map::new();
    properties.insert("name".to_owned(), json!({ "const": view.card.name }));
    for param in view.card.params {
        properties.insert(param.name.to_owned(), parameter(param, view.defaults.get(param.name))?);
    }
    Ok(json!({
        "title": view.card.title,
        "description": view.card.summary().replace('\n', " "),
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": false,
    }))
}

fn parameter(param: &ParamInfo, default: Option<&toml::Value>) -> Result<Value> {
    let mut schema = Map::new();
    if let Some(kind) = kind(param.ty, default) {
        schema.insert("type".to_owned(), json!(kind));
    }
    schema.insert("description".to_owned(), json!(param.doc.trim().replace('\n', " ")));
    if let Some(min) = param.min {
        schema.insert(if param.above { "exclusiveMinimum" } else { "minimum" }.to_owned(), json!(min));
    }
    if let Some(max) = param.max {
        schema.insert("maximum".to_owned(), json!(max));
    }
    // TOML knows infinity, JSON does not.
    if let Some(default) = default.filter(|value| value.as_float().is_none_or(f64::is_finite)) {
        schema.insert("default".to_owned(), serde_json::to_value(default)?);
    }
    Ok(Value::Object(schema))
}

/// The JSON type of a Rust type; of an own type, that of its default.
fn kind(ty: &str, default: Option<&toml::Value>) -> Option<&'static str> {
    let ty = ty.replace(' ', "");
    let inner = ty.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(&ty);
    match inner {
        "f32" | "f64" => Some("number"),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => Some("integer"),
        "bool" => Some("boolean"),
        "String" => Some("string"),
        list if list.starts_with("Vec<") || list.starts_with('[') => Some("array"),
        _ => match default? {
            toml::Value::String(_) => Some("string"),
            toml::Value::Table(_) => Some("object"),
            _ => None,
        },
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
        assert_eq!(dog["properties"]["name"]["const"], "dog");
        assert_eq!(dog["properties"]["eps"]["type"], "number");
        assert_eq!(dog["properties"]["eps"]["exclusiveMinimum"], 0.0);
        assert_eq!(dog["properties"]["eps"]["default"], 1e-8);
    }

    #[test]
    fn types_become_json_types() {
        assert_eq!(kind("Option < usize >", None), Some("integer"));
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
