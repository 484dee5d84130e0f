//! Failing in one line, with one hint.

use std::fmt;
use std::process::ExitCode;
use troupe_dialogue::ChatError;
use troupe_engine::LoadError;
use troupe_ops::DeviceError;

/// Prints `error: ...` on one line and `hint: ...` where there is one.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // A reader that went away (`troupe ... | head`) is no failure worth a message.
    let broken_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::FAILURE;
    }
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if cause.downcast_ref::<Hint>().is_none() && !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    eprintln!("error: {}", line.replace('\n', " "));
    if let Some(hint) = hint(error) {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}

/// A hint that a command attaches to its error.
#[derive(Debug)]
struct Hint {
    hint: String,
    cause: anyhow::Error,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Hint {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

/// Attaching a hint to a failure.
pub trait WithHint<T> {
    /// What to try when this fails.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|e| anyhow::Error::new(Hint { hint: hint.into(), cause: e.into() }))
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    let find =
        |cause: &(dyn std::error::Error + 'static)| -> Option<String> {
            if let Some(hint) = cause.downcast_ref::<Hint>() {
                return Some(hint.hint.clone());
            }
            if let Some(error) = cause.downcast_ref::<DeviceError>() {
                return Some(match error {
                DeviceError::NotCompiled(_) => {
                    "build with `--features cuda` or `--features metal`, or use `--device cpu`"
                }
                _ => "`troupe doctor` lists the devices; `--device cpu` always works",
            }
            .into());
            }
            if let Some(error) = cause.downcast_ref::<ChatError>() {
                return match error {
                    ChatError::ContextTooLong { .. } => {
                        Some("shorten the prompt or raise `--context`".into())
                    }
                    _ => None,
                };
            }
            if cause.downcast_ref::<LoadError>().is_some() {
                return Some(
                    "`--model` takes a folder with config.json, tokenizer.json and safetensors, \
                 or a .gguf file"
                        .into(),
                );
            }
            None
        };
    error.chain().find_map(find)
}
