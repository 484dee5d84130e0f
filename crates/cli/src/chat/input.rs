//! Lines from standard input, without losing sight of Ctrl-C.
//!
//! A thread of its own reads, because a read cannot be interrupted; what was typed ahead
//! waits in order.

use crate::interrupt;
use anyhow::{Context, Result};
use std::io::{self, BufRead};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How long a wait for a line goes on before Ctrl-C is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line, or several that were joined by a backslash at the end.
    Line(String),
    /// There is no more.
    End,
    /// Ctrl-C while nothing else was going on.
    Interrupted,
}

/// Standard input, line by line.
pub struct Lines {
    lines: Receiver<io::Result<Vec<u8>>>,
}

impl Lines {
    /// Begins to read.
    pub fn from_stdin() -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut line = Vec::new();
                let read = input.read_until(b'\n', &mut line);
                let over = !matches!(read, Ok(n) if n > 0);
                let sent = match read {
                    Ok(0) => break,
                    Ok(_) => sender.send(Ok(line)),
                    Err(error) => sender.send(Err(error)),
                };
                if over || sent.is_err() {
                    break;
                }
            }
        });
        Lines { lines }
    }

    /// Waits for the next line; `prompt` is called before each wait, with whether the
    /// line is a later part of a longer one.
    pub fn next(&self, mut prompt: impl FnMut(bool) -> io::Result<()>) -> Result<Input> {
        let mut text = String::new();
        let mut parts = 0;
        loop {
            prompt(parts > 0)?;
            let Some(line) = self.wait()? else {
                let interrupted = interrupt::requested();
                return Ok(match (interrupted, parts) {
                    (true, _) => Input::Interrupted,
                    (false, 0) => Input::End,
                    (false, _) => Input::Line(text),
                });
            };
            match line.strip_suffix('\\') {
                Some(part) => {
                    text.push_str(part);
                    text.push('\n');
                    parts += 1;
                }
                None => {
                    text.push_str(&line);
                    return Ok(Input::Line(text));
                }
            }
        }
    }

    /// One line without its ending; none at the end and at Ctrl-C.
    fn wait(&self) -> Result<Option<String>> {
        loop {
            if interrupt::requested() {
                return Ok(None);
            }
            match self.lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    let line = line.context("cannot read standard input")?;
                    // A stray byte must not end a chat.
                    let line = String::from_utf8_lossy(&line);
                    let line = line.trim_end_matches(['\n', '\r']).trim_start_matches('\u{feff}');
                    return Ok(Some(line.to_owned()));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
