//! What a run's output file already holds.
//!
//! A run that was killed leaves whole lines and perhaps a torn one. Dialogues are
//! written when they are complete, so a line is either all there or is played again,
//! with the same result. This module reads; cutting the file is for its owner.

use super::{DialogueKey, RECORD_KIND};
use crate::scene::RowProblem;
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufRead};
use troupe_dialogue::DialogueTree;

/// What was found in an output file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The dialogues that are complete.
    pub done: HashSet<DialogueKey>,
    /// Where the last whole line ends, in bytes: what follows is torn, and new lines
    /// belong here.
    pub valid_bytes: u64,
    /// Fingerprints of the settings that the dialogues were played with; see
    /// [`super::PlaySettings::fingerprint`]. More than one, or another than the run's,
    /// means that the file mixes runs.
    pub runs: BTreeSet<String>,
    /// Whole lines that are no complete dialogue of a self-play run. They are kept.
    pub problems: Vec<RowProblem>,
}

/// Reads an output file from its start, one line in memory at a time. A last line
/// without its line feed is torn, whatever it holds.
///
/// # Errors
/// Those of reading; lines of any content are no error.
pub fn read_progress(mut output: impl BufRead) -> io::Result<Progress> {
    let mut progress = Progress::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        output.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            break; // the end, or a torn line
        }
        progress.valid_bytes += line.len() as u64;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match read_record(&line) {
            Ok((key, run)) => {
                progress.done.insert(key);
                progress.runs.insert(run);
            }
            Err(reason) => progress.problems.push(RowProblem { line: number, reason }),
        }
    }
    Ok(progress)
}

fn read_record(line: &[u8]) -> Result<(DialogueKey, String), String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let tree = DialogueTree::from_json(text).map_err(|error| error.to_string())?;
    let meta = |key: &str| tree.meta.get(key).unwrap_or(&Value::Null);
    let expect = |key: &str, expected: &str| match meta(key) {
        Value::String(got) if got == expected => Ok(()),
        got => Err(format!("`{key}` is {got}; expected `{expected}`")),
    };
    expect("kind", RECORD_KIND)?;
    expect("outcome", "complete")?;
    let scene = meta("scene")["id"].as_str().ok_or("`scene.id` is missing")?;
    let repeat = meta("repeat").as_u64().and_then(|n| u32::try_from(n).ok());
    let repeat = repeat.ok_or("`repeat` is missing")?;
    let run = meta("run").as_str().unwrap_or_default();
    Ok((DialogueKey { scene: scene.to_owned(), repeat }, run.to_owned()))
}
