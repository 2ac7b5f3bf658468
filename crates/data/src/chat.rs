//! Dialogues, and the templates that write them out the way a model was trained to read them.

use std::path::Path;

use acclimate_core::{Error, Gguf, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

use crate::tokens::read_json;

/// The role whose turns a model writes.
pub(crate) const ASSISTANT: &str = "assistant";

/// One turn of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's template for dialogues, in Jinja.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    origin: String,
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// A template that is not Jinja.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(source) = gguf.str("tokenizer.chat_template") else { return Ok(None) };
        let token = |key: &str| {
            let id = usize::try_from(gguf.u64(key)?).ok()?;
            gguf.strings("tokenizer.ggml.tokens")?.get(id).cloned()
        };
        let [bos, eos] = ["bos", "eos"].map(|end| token(&format!("tokenizer.ggml.{end}_token_id")).unwrap_or_default());
        Self::new(gguf.file(), source, bos, eos).map(Some)
    }

    /// The template of a model's folder, if it has one: `chat_template.jinja`, or `chat_template` in its
    /// `tokenizer_config.json` (of several the one named `default`).
    ///
    /// # Errors
    /// A file that cannot be read, or a template that is not Jinja.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>> {
        let (file, alone) = (folder.join("tokenizer_config.json"), folder.join("chat_template.jinja"));
        let config = read_json(&file)?.unwrap_or_default();
        let token = |key: &str| match &config[key] {
            Json::String(token) => token.clone(),
            token => token["content"].as_str().unwrap_or_default().to_owned(),
        };
        let (bos, eos) = (token("bos_token"), token("eos_token"));
        match std::fs::read_to_string(&alone) {
            Ok(source) => return Self::new(&alone, &source, bos, eos).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&alone, e)),
        }
        let source = match &config["chat_template"] {
            Json::Array(several) => several.iter().find(|one| one["name"] == "default").map(|one| &one["template"]),
            one => Some(one),
        };
        source.and_then(Json::as_str).map(|source| Self::new(&file, source, bos, eos)).transpose()
    }

    fn new(file: &Path, source: &str, bos: String, eos: String) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters do not clash"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |what: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        environment.add_filter("tojson", to_json);
        // Python's Jinja takes every end of a line for `\n`, and files were written where it is another.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        environment.add_template_owned(NAME, source).map_err(|e| {
            Error::format(file, format!("the chat template cannot be read: {e}; put a chat_template.jinja beside it"))
        })?;
        Ok(Self { origin: file.display().to_string(), environment, bos, eos })
    }

    /// A dialogue as text; with `generation` it ends where the assistant's next turn begins.
    ///
    /// # Errors
    /// A dialogue that the template refuses, such as one with an unknown role.
    pub fn render(&self, messages: &[Message], generation: bool) -> Result<String> {
        let (bos_token, eos_token) = (&self.bos, &self.eos);
        let turn = |Message { role, content }: &Message| context! { role, content };
        let messages: Vec<_> = messages.iter().map(turn).collect();
        let values = context! { messages, add_generation_prompt => generation, bos_token, eos_token };
        let template = self.environment.get_template(NAME).expect("it was added when this was made");
        template.render(values).map_err(|e| {
            let why = e.detail().map_or_else(|| e.to_string(), str::to_owned);
            Error::Other(format!("{}: the chat template refuses a dialogue: {why}; change its turns", self.origin))
        })
    }
}

/// A value as JSON the way Python writes it: the library's own, but with the characters that it makes safe for web pages.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let safe = minijinja::filters::tojson(value, indent, options)?.to_string();
    let (mut json, mut rest) = (String::with_capacity(safe.len()), &safe[..]);
    while let Some(place) = rest.find('\\') {
        json.push_str(&rest[..place]);
        let escape = &rest[place..];
        let plain = [(r"\u003c", '<'), (r"\u003e", '>'), (r"\u0026", '&'), (r"\u0027", '\'')];
        match plain.into_iter().find(|(code, _)| escape.starts_with(code)) {
            Some((code, plain)) => {
                json.push(plain);
                rest = &escape[code.len()..];
            }
            None => {
                // What follows a backslash is its own, another backslash too.
                let (kept, after) = escape.split_at_checked(2).unwrap_or((escape, ""));
                json.push_str(kept);
                rest = after;
            }
        }
    }
    json.push_str(rest);
    Ok(json)
}

/// The name of the only template of an environment.
const NAME: &str = "chat";

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{% for message in messages %}
    {% if message.role.strip() not in ['system', 'user', 'assistant'] %}
        {{ raise_exception('no role ' + message['role']) }}
    {% endif %}
{{ bos_token if loop.first }}<{{ message['role'] }}>{{ message.content.strip() }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}";

    #[test]
    fn templates_of_folders_and_their_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ChatTemplate::from_folder(folder.path()).unwrap().is_none());
        let file = folder.path().join("tokenizer_config.json");
        let write = |template: Json| {
            let config = serde_json::json!({
                "bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template,
            });
            std::fs::write(&file, config.to_string()).unwrap();
        };
        write(serde_json::json!([{"name": "tools", "template": "no"}, {"name": "default", "template": TEMPLATE}]));
        let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
        let turns = [Message::new("user", " Hi\n"), Message::new("assistant", "Ho")];
        // The newline after a `</s>` stands in the template; those after blocks and the spaces before them do not count.
        assert_eq!(template.render(&turns, false).unwrap(), "<s><user>Hi</s>\n<assistant>Ho</s>\n");
        assert_eq!(template.render(&turns[..1], true).unwrap(), "<s><user>Hi</s>\n<assistant>");
        let error = template.render(&[Message::new("bot", "x")], true).unwrap_err().to_string();
        assert!(error.ends_with("the chat template refuses a dialogue: no role bot; change its turns"), "{error}");
        write("{% for %}".into());
        let error = ChatTemplate::from_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json: the chat template cannot be read"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages|length }}").unwrap();
        let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
        assert_eq!(template.render(&turns, false).unwrap(), "2");
    }

    #[test]
    fn templates_mean_what_they_mean_in_python() {
        let folder = tempfile::tempdir().unwrap();
        let render = |source: &str, content: &str| {
            std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
            let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
            template.render(&[Message::new("user", content)], false)
        };
        let lines = "{% for m in messages %}\r\n{{ m.content }}\r\n{% endfor %}\rend";
        assert_eq!(render(lines, "a\r\nb").unwrap(), "a\r\nb\nend");
        // The same from json.dumps(…, ensure_ascii=False), which transformers puts in place of Jinja's own.
        assert_eq!(
            render("{{ [messages[0].content, 1, true] | tojson }}", "<é>&'\"").unwrap(),
            r#"["<é>&'\"", 1, true]"#
        );
        assert_eq!(render("{{ {'a': [1, {}]} | tojson }}", "").unwrap(), r#"{"a": [1, {}]}"#);
        assert_eq!(render("{{ {'a': [1]} | tojson(indent=1) }}", "").unwrap(), "{\n \"a\": [\n  1\n ]\n}");
        assert!(render("{{ 1 | tojson(colour=1) }}", "").unwrap_err().to_string().contains("colour"));
    }
}
