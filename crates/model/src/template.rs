//! Chat templates: how a conversation becomes text, and which text is whose.
//!
//! Renders what transformers renders from the same template, as a whole
//! ([`ChatTemplate::render`]) and cut at the messages
//! ([`ChatTemplate::render_segments`]), so that the tokens of each message and reply are
//! known exactly ([`ChatTemplate::tokenise`]). A template that writes its history anew when
//! a message is added is noticed. What a template accepts is found by trying it
//! ([`ChatTemplate::traits`]); [`ChatTemplate::adapt`] makes a conversation acceptable.
//!
//! A template is untrusted: it fails when it takes too much time or memory. Tools and
//! documents are not passed to templates yet.
//!
//! Next: `template/segments.rs`, `template/tokens.rs`, `template/adapt.rs`; the engine is in
//! `template/engine.rs`, `source.rs` and `python.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::NaiveDateTime;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Value as Json;
use troupe_dialogue::Message;

use crate::gguf::{GgufError, GgufFile};
use crate::tokenizer::{Tokenizer, TokenizerError};

mod segments;
mod tokens;
mod adapt;
mod engine;
mod source;
mod python;

pub use adapt::{Adaptation, Adapted, OPENING_LINE, Traits};
pub use segments::{Rendered, Rewrite, Segment, SegmentKind};
pub use tokens::{ReplyTokens, TokenSegment, TokenisedChat};

/// Texts longer than this are refused: 64 MB, a hundred times what any model reads.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// A compiled chat template with the variables it sees.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    engine: Arc<Environment<'static>>,
    source: Arc<str>,
    /// Special tokens, extra variables, and `strftime_now` where a time is set.
    variables: BTreeMap<String, Value>,
    eos_token: Option<String>,
    traits: OnceLock<Traits>,
}

/// A template could not be read, compiled or rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("`{}` is not valid json", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the text is wrong.
        source: serde_json::Error,
    },
    /// The model comes without a chat template: a base model, or one to be given by hand.
    #[error("`{}` has no chat template", path.display())]
    Missing {
        /// The folder or file.
        path: PathBuf,
    },
    /// The field with the template has an unusable form.
    #[error("`{}`: `chat_template`: {why}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The template is not one that the engine can compile.
    #[error("the chat template does not compile: {why}")]
    Compile {
        /// What is wrong, with the line.
        why: String,
    },
    /// The template refuses this conversation (`raise_exception`).
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// What the template says.
        message: String,
    },
    /// The template failed, as on a missing variable or a method that does not exist.
    #[error("the chat template failed: {why}")]
    Failed {
        /// What went wrong, with the line.
        why: String,
    },
    /// The template takes more work or makes more text than is allowed.
    #[error("the chat template takes too much {what}")]
    TooMuch {
        /// `work` or `text`.
        what: &'static str,
    },
    /// The metadata of a GGUF file could not be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The text could not be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl ChatTemplate {
    /// Compiles a template that sees these special tokens (`bos_token` and so on, see
    /// [`Tokenizer::named_tokens`]).
    pub fn new(
        source: &str,
        named_tokens: &BTreeMap<String, String>,
    ) -> Result<Self, TemplateError> {
        if source.len() > engine::MAX_SOURCE_BYTES {
            let (len, most) = (source.len(), engine::MAX_SOURCE_BYTES);
            let why = format!("it has {len} bytes, at most {most} are compiled");
            return Err(TemplateError::Compile { why });
        }
        let engine = engine::on_own_stack(|| engine::compile(source))
            .map_err(no_stack)?
            .map_err(|error| TemplateError::Compile { why: error.to_string() })?;
        let tokens = named_tokens.iter().map(|(name, text)| (name.clone(), text.into()));
        Ok(ChatTemplate {
            engine: Arc::new(engine),
            source: source.into(),
            variables: tokens.collect(),
            eos_token: named_tokens.get("eos_token").cloned(),
            traits: OnceLock::new(),
        })
    }

    /// The template of a Hugging Face folder: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json` (a text, or a list of named ones with a `default`).
    pub fn from_hf_dir(
        dir: impl AsRef<Path>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, TemplateError> {
        let source = hf_source(dir.as_ref())?;
        Self::new(&source, tokenizer.named_tokens())
    }

    /// The template in `tokenizer.chat_template` of a GGUF file.
    pub fn from_gguf(file: &GgufFile, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        match file.find::<&str>("tokenizer.chat_template")? {
            Some(source) => Self::new(source, tokenizer.named_tokens()),
            None => Err(TemplateError::Missing { path: file.path().to_owned() }),
        }
    }

    /// The template with one more variable, as in `enable_thinking`.
    ///
    /// Variables of this name that were set before are replaced; those that a rendering
    /// sets itself (`messages`, `add_generation_prompt`, `tools`, `documents`) stay.
    pub fn with_variable(mut self, name: impl Into<String>, value: &Json) -> Self {
        self.variables.insert(name.into(), from_json(value));
        self.traits = OnceLock::new();
        self
    }

    /// The template with a time for `strftime_now`. Without one the function does not
    /// exist, and templates that test for it (Llama 3.1) fall back to a fixed date: pass a
    /// time only where renderings need not repeat.
    pub fn with_now(mut self, now: NaiveDateTime) -> Self {
        self.variables.insert("strftime_now".into(), engine::strftime_now(now));
        self.traits = OnceLock::new();
        self
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the model's
    /// reply begins, if the template has a generation prompt.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let values = message_values(messages);
        self.run(|run| run.render(&values, add_generation_prompt))
    }

    /// What the template accepts and does, found by trying it (once).
    pub fn traits(&self) -> &Traits {
        self.traits.get_or_init(|| Traits::probe(self))
    }

    /// Renders several times on the engine's own stack.
    fn run<T: Send>(
        &self,
        body: impl FnOnce(&Run) -> Result<T, TemplateError> + Send,
    ) -> Result<T, TemplateError> {
        engine::on_own_stack(|| body(&Run { template: self })).map_err(no_stack)?
    }
}

/// Renders within [`ChatTemplate::run`].
struct Run<'a> {
    template: &'a ChatTemplate,
}

impl Run<'_> {
    fn render(&self, messages: &[Value], generate: bool) -> Result<String, TemplateError> {
        let own = [
            ("messages", messages.iter().cloned().collect()),
            ("add_generation_prompt", Value::from(generate)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let set =
            self.template.variables.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let text = engine::render(&self.template.engine, Value::from_pairs(set.chain(own)))
            .map_err(|error| match engine::raised(&error) {
                Some(message) => TemplateError::Refused { message: message.to_owned() },
                None if error.kind() == ErrorKind::OutOfFuel => {
                    TemplateError::TooMuch { what: "work" }
                }
                None => TemplateError::Failed { why: error.to_string() },
            })?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(TemplateError::TooMuch { what: "text" });
        }
        Ok(text)
    }
}

/// Messages as templates see them.
fn message_values(messages: &[Message]) -> Vec<Value> {
    let value = |message: &Message| {
        let mut fields = vec![
            ("role", Value::from(message.role.as_str())),
            ("content", (&message.content).into()),
        ];
        fields.extend(message.name.as_ref().map(|name| ("name", name.into())));
        Value::from_pairs(fields)
    };
    messages.iter().map(value).collect()
}

fn no_stack(error: std::io::Error) -> TemplateError {
    TemplateError::Failed { why: error.to_string() }
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(set) => (*set).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(integer)) => integer.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.into(),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), from_json(value))))
        }
    }
}

fn hf_source(dir: &Path) -> Result<String, TemplateError> {
    let read = |name: &str| {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some((path, bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TemplateError::Io { path, source }),
        }
    };
    if let Some((path, bytes)) = read("chat_template.jinja")? {
        return String::from_utf8(bytes)
            .map_err(|_| TemplateError::Field { path, why: "the file is not utf-8".into() });
    }
    let missing = || TemplateError::Missing { path: dir.to_owned() };
    let (path, bytes) = read("tokenizer_config.json")?.ok_or_else(missing)?;
    let config: Json = serde_json::from_slice(&bytes)
        .map_err(|source| TemplateError::Json { path: path.clone(), source })?;
    let field = |why: String| TemplateError::Field { path: path.clone(), why };
    match config.get("chat_template") {
        None | Some(Json::Null) => Err(missing()),
        Some(Json::String(source)) => Ok(source.clone()),
        Some(Json::Array(named)) => {
            let name = |entry: &Json| entry.get("name").and_then(Json::as_str).map(str::to_owned);
            let default = named.iter().find(|entry| name(entry).as_deref() == Some("default"));
            let source = default.and_then(|entry| entry.get("template")).and_then(Json::as_str);
            source.map(str::to_owned).ok_or_else(|| {
                let names: Vec<String> = named.iter().filter_map(name).collect();
                field(format!("none of the templates {names:?} is the `default`"))
            })
        }
        Some(_) => Err(field("expected a text or a list of named texts".into())),
    }
}
