//! What a chat shows: for people on a terminal, for pipes, or as JSON lines.
//!
//! Standard output carries what was said and asked for; notes and errors go to standard
//! error. Texts come from models and strangers, so control characters are left out.

use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};

/// Where a chat is shown.
pub struct Screen {
    json: bool,
    prompts: bool,
    colour: bool,
}

impl Screen {
    /// Names and prompts are shown to people who type; pipes get the bare texts.
    pub fn new(json: bool) -> Self {
        let prompts = io::stdin().is_terminal() && !json;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen { json, prompts, colour: prompts && io::stdout().is_terminal() && !no_colour }
    }

    /// Whether a person types.
    pub fn is_interactive(&self) -> bool {
        self.prompts
    }

    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Asks for a line.
    pub fn prompt(&self, name: &str, continued: bool) -> io::Result<()> {
        if !self.prompts {
            return Ok(());
        }
        match continued {
            true => show("... "),
            false => show(&format!("{}> ", printable(name))),
        }
    }

    /// Shows a whole text of somebody.
    pub fn say(&self, name: &str, text: &str) -> io::Result<()> {
        self.begin(name)?;
        self.piece(text)?;
        self.end()
    }

    /// Somebody begins to speak.
    pub fn begin(&self, name: &str) -> io::Result<()> {
        match (self.prompts, self.colour) {
            (false, _) => Ok(()),
            (true, false) => show(&format!("{}: ", printable(name))),
            (true, true) => show(&format!("\x1b[1m{}:\x1b[0m ", printable(name))),
        }
    }

    /// The next piece of what is said.
    pub fn piece(&self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { show(&printable(text)) }
    }

    /// Nothing more is said.
    pub fn end(&self) -> io::Result<()> {
        if self.json { Ok(()) } else { show("\n") }
    }

    /// Shows lines that were asked for, or the object that stands for them.
    pub fn answer(&self, lines: &str, object: Value) -> io::Result<()> {
        if self.json { self.object(object) } else { show(&format!("{}\n", printable(lines))) }
    }

    /// Shows a JSON line to programs.
    pub fn object(&self, object: Value) -> io::Result<()> {
        if self.json { show(&format!("{object}\n")) } else { Ok(()) }
    }

    /// Something worth knowing.
    pub fn note(&self, text: &str) {
        eprintln!("note: {}", printable(text));
    }

    /// Something did not work; the chat goes on.
    pub fn problem(&self, text: &str, hint: Option<&str>) -> io::Result<()> {
        eprintln!("error: {}", printable(text));
        if let Some(hint) = hint {
            eprintln!("hint: {hint}");
        }
        self.object(json!({ "type": "error", "message": text, "hint": hint }))
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Without the characters that would move a terminal's cursor or change its title.
fn printable(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b]0;title\x07b\r\u{9b}1m\tc\n"), "a]0;titleb1m\tc\n");
    }
}
