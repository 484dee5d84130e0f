//! Files of rows: JSON lines in and out, `-` for the standard streams.

use crate::fail::WithHint;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use troupe_dialogue::Message;

/// Reads a whole file, or standard input for `-`.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// A conversation: a JSON array of messages, or an object with `messages`.
pub fn read_messages(path: &Path) -> Result<Vec<Message>> {
    let text = read_text(path)?;
    let shown = path.display();
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("`{shown}` is not JSON"))
        .hint(r#"expected [{"role": "user", "content": "..."}]"#)?;
    let list = match value {
        Value::Object(mut object) => object.remove("messages").unwrap_or(Value::Null),
        list => list,
    };
    messages_of(list).with_context(|| format!("`{shown}`"))
}

/// Messages from JSON.
pub fn messages_of(list: Value) -> Result<Vec<Message>> {
    let messages: Vec<Message> = serde_json::from_value(list)
        .context("not a list of messages")
        .hint(r#"expected [{"role": "system|user|assistant", "content": "..."}]"#)?;
    if messages.is_empty() {
        bail!("the list of messages is empty");
    }
    Ok(messages)
}

/// Opens a file for writing, or standard output for none and `-`.
pub fn writer(path: Option<&Path>) -> Result<Box<dyn Write>> {
    match path {
        None => Ok(Box::new(io::stdout().lock())),
        Some(path) if path == Path::new("-") => Ok(Box::new(io::stdout().lock())),
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
            Ok(Box::new(BufWriter::new(file)))
        }
    }
}
