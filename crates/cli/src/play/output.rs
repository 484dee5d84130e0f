//! The file that a run writes, and what an earlier run left in it.
//!
//! Only whole lines count: what a crash has torn is cut off and played again. A file that
//! somebody else wrote, or that was played with other settings, is refused untouched.

use crate::chat::save::check_folder;
use crate::fail::WithHint;
use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use troupe_dialogue::DialogueTree;
use troupe_dialogue::tree::FORMAT;
use troupe_roleplay::selfplay::{DialogueKey, PlaySettings, read_progress};

/// The key of a record's meta that says which model played.
pub const MODEL: &str = "model";

const OTHER_OUT: &str = "choose another `--out`, or `--fresh` to begin the file anew";

/// What is in the file before the run.
#[derive(Debug, Default)]
pub struct Found {
    /// Dialogues that are complete.
    pub done: HashSet<DialogueKey>,
    path: PathBuf,
    /// The size of the file; none when it is to begin anew.
    bytes: Option<u64>,
    /// Where the last whole line ends.
    valid_bytes: u64,
    /// Fingerprints of the settings.
    runs: BTreeSet<String>,
    /// The meta of the first dialogue.
    first: Value,
}

/// Reads what is there; changes nothing.
pub fn look(path: &Path, fresh: bool) -> Result<Found> {
    let shown = path.display();
    if path == Path::new("-") {
        return Err(anyhow!("`--out` is `-`; a run is written to a file")).hint("name a file");
    }
    check_folder(path)?;
    let found = Found { path: path.to_owned(), ..Found::default() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Found { bytes: Some(0), ..found });
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read `{shown}`")),
    };
    if fresh {
        return Ok(found);
    }
    let failed = || format!("cannot read `{shown}`");
    let bytes = file.metadata().with_context(failed)?.len();
    let progress = read_progress(BufReader::new(&file)).with_context(failed)?;
    let mut first = Vec::new();
    (&file).seek(SeekFrom::Start(0)).with_context(failed)?;
    BufReader::new(&file).read_until(b'\n', &mut first).with_context(failed)?;
    if let Some(problem) = progress.problems.first() {
        let line = problem.line;
        return Err(anyhow!("`{shown}` line {line} is no self-play record: {}", problem.reason))
            .hint(OTHER_OUT);
    }
    let torn = bytes > progress.valid_bytes;
    if torn && progress.done.is_empty() && !begins_a_record(&first) {
        return Err(anyhow!("`{shown}` is no file of self-play records")).hint(OTHER_OUT);
    }
    if torn {
        eprintln!("note: the last line of `{shown}` is not whole; that dialogue is played again");
    }
    let mut first: Value = serde_json::from_slice(&first).unwrap_or_default();
    Ok(Found {
        done: progress.done,
        bytes: Some(bytes),
        valid_bytes: progress.valid_bytes,
        runs: progress.runs,
        first: first["meta"].take(),
        ..found
    })
}

impl Found {
    /// Refuses to mix dialogues of different settings.
    pub fn check_settings(&self, settings: &PlaySettings) -> Result<()> {
        let run = settings.fingerprint();
        if self.runs.iter().all(|other| *other == run) {
            return Ok(());
        }
        let mut differences = Vec::new();
        let meta = |key: &str| self.first.get(key).unwrap_or(&Value::Null);
        compare("turns", meta("turns"), &json!(settings.turns), &mut differences);
        compare("seed", meta("seed"), &json!(settings.seed), &mut differences);
        for (name, side) in [("npc", &settings.npc), ("user", &settings.user)] {
            for (key, value) in as_written(side).as_object().into_iter().flatten() {
                let before = &meta("sides")[name][key];
                compare(&format!("{name}.{key}"), before, value, &mut differences);
            }
        }
        if differences.is_empty() {
            differences.push("other settings".into()); // such as the number of retries
        }
        let (shown, what) = (self.path.display(), differences.join(", "));
        Err(anyhow!("`{shown}` was played with {what}"))
            .hint(format!("give the same settings again, {OTHER_OUT}"))
    }

    /// Refuses to mix dialogues of different models.
    pub fn check_model(&self, model: &Value) -> Result<()> {
        let mut differences = Vec::new();
        if let Some(before) = self.first.get(MODEL) {
            compare(MODEL, before, model, &mut differences);
        }
        if differences.is_empty() {
            return Ok(());
        }
        let (shown, what) = (self.path.display(), differences.join(", "));
        Err(anyhow!("`{shown}` was played with {what}"))
            .hint(format!("take the same model, `--context` and `--date` again, {OTHER_OUT}"))
    }
}

/// The file, open for as long as the run lasts.
pub struct OutputFile {
    file: File,
}

impl OutputFile {
    /// Opens the file behind what is whole in it, for this run alone.
    pub fn open(path: &Path, found: &Found) -> Result<Self> {
        let failed = || format!("cannot write `{}`", path.display());
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let mut file = options.with_context(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(anyhow!("another run writes `{}`", path.display()))
                    .hint("wait for it, or choose another `--out`");
            }
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => {}
        }
        let bytes = file.metadata().with_context(failed)?.len();
        if found.bytes.is_some_and(|before| before != bytes) {
            return Err(anyhow!("another run has written `{}` meanwhile", path.display()))
                .hint("the same command again goes on from there");
        }
        file.set_len(found.valid_bytes).with_context(failed)?;
        file.seek(SeekFrom::End(0)).with_context(failed)?;
        Ok(OutputFile { file })
    }

    /// Adds a dialogue as one line.
    pub fn append(&mut self, tree: &DialogueTree) -> io::Result<()> {
        let mut line = tree.to_json();
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }
}

/// Whether a torn line is the beginning of one of ours.
fn begins_a_record(line: &[u8]) -> bool {
    let start = format!("{{\"format\":\"{FORMAT}\"");
    let shared = line.len().min(start.len());
    line[..shared] == start.as_bytes()[..shared]
}

/// Says where `before` and `now` differ, field by field.
fn compare(name: &str, before: &Value, now: &Value, differences: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            for (key, now) in now {
                let before = before.get(key).unwrap_or(&Value::Null);
                compare(&format!("{name}.{key}"), before, now, differences);
            }
        }
        _ if before == now => {}
        _ => differences.push(format!("`{name}` {before} instead of {now}")),
    }
}

/// Settings as records have them: 0.9, not 0.8999999761581421.
fn as_written(settings: &impl Serialize) -> Value {
    let json = serde_json::to_string(settings).unwrap_or_default();
    serde_json::from_str(&json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_torn_lines_are_cut() {
        assert!(begins_a_record(b""));
        assert!(begins_a_record(b"{\"for"));
        assert!(begins_a_record(b"{\"format\":\"troupe-dialogue\",\"version\":1,\"me"));
        assert!(!begins_a_record(b"{\"id\": \"gull-point\"}"));
        assert!(!begins_a_record(b"{\"format\":\"something-else\""));
    }

    #[test]
    fn differences_are_named() {
        let mut found = Vec::new();
        let before = json!({ "temperature": 0.9, "top_k": 0 });
        compare("npc", &before, &json!({ "temperature": 1.0, "top_k": 0 }), &mut found);
        assert_eq!(found, ["`npc.temperature` 0.9 instead of 1.0"]);
    }
}
