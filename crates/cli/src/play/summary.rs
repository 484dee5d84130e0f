//! What a run came to, for people and for programs.

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use troupe_dialogue::DialogueTree;
use troupe_engine::LocalEngine;
use troupe_roleplay::selfplay::{PlayProgress, PlaySummary, SideCounts};

/// Counts of one run, without what earlier runs left in the file.
pub struct Summary {
    out: String,
    total: usize,
    skipped: usize,
    seconds: f64,
    progress: PlayProgress,
    stopped: bool,
    preemptions: usize,
    retries: usize,
    fallbacks: usize,
    shortened: usize,
    /// Most messages that one prompt had to leave out.
    dropped_messages: usize,
    stops: BTreeMap<String, usize>,
}

impl Summary {
    /// Nothing played yet; of `total` dialogues `skipped` were there before.
    pub fn new(out: &Path, total: usize, skipped: usize) -> Self {
        Summary {
            out: out.display().to_string(),
            total,
            skipped,
            seconds: 0.0,
            progress: PlayProgress::default(),
            stopped: false,
            preemptions: 0,
            retries: 0,
            fallbacks: 0,
            shortened: 0,
            dropped_messages: 0,
            stops: BTreeMap::new(),
        }
    }

    /// Adds the counts of a complete dialogue.
    pub fn count(&mut self, tree: &DialogueTree) {
        let sides = tree.meta.get("sides").and_then(Value::as_object);
        for side in sides.into_iter().flat_map(|sides| sides.values()) {
            let counts = SideCounts::deserialize(&side["counts"]).unwrap_or_default();
            self.retries += counts.retries;
            self.fallbacks += counts.fallbacks;
            self.shortened += counts.shortened;
            self.dropped_messages = self.dropped_messages.max(counts.dropped_messages);
            for (stop, count) in counts.stops {
                *self.stops.entry(stop).or_default() += count;
            }
        }
    }

    /// The run is over.
    pub fn end(&mut self, outcome: &PlaySummary, elapsed: Duration, engine: &LocalEngine) {
        self.seconds = elapsed.as_secs_f64();
        self.progress = outcome.progress;
        self.stopped = outcome.stopped;
        self.preemptions = engine.stats().preemptions;
    }

    /// Says it on standard error, and as one object on standard output if asked to.
    pub fn print(&self, as_json: bool) -> Result<()> {
        if self.seconds > 0.0 {
            eprintln!("{}", self.in_words());
        }
        if as_json {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", self.to_json())?;
            out.flush()?;
        }
        Ok(())
    }

    fn tokens_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.progress.tokens as f64 / self.seconds } else { 0.0 }
    }

    fn in_words(&self) -> String {
        let PlayProgress { dialogues_complete, turns, tokens, .. } = self.progress;
        let in_file = self.skipped + dialogues_complete;
        let (total, out) = (self.total, &self.out);
        let speed = self.tokens_per_second();
        let mut text = format!(
            "{in_file} of {total} dialogues in `{out}`; this run: {dialogues_complete} dialogues, \
             {turns} turns, {tokens} tokens in {:.0} s ({speed:.0} tokens/s)",
            self.seconds,
        );
        let stops: Vec<String> =
            self.stops.iter().map(|(stop, count)| format!("{stop} {count}")).collect();
        if !stops.is_empty() {
            text.push_str(&format!("\nturns ended by: {}", stops.join(", ")));
        }
        let odd = [
            ("empty texts asked for again", self.retries),
            ("turns with `…` for an empty text", self.fallbacks),
            ("turns shortened", self.shortened),
            ("messages left out of the longest prompt", self.dropped_messages),
        ];
        let odd: Vec<String> = odd
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{what}: {count}"))
            .collect();
        if !odd.is_empty() {
            text.push_str(&format!("\n{}", odd.join(", ")));
        }
        if let Some(peak) = peak_memory_mib() {
            text.push_str(&format!("\npeak memory: {peak} MiB"));
        }
        text
    }

    fn to_json(&self) -> Value {
        json!({
            "out": self.out,
            "dialogues": self.progress.dialogues_complete,
            "dialogues_total": self.total,
            "dialogues_skipped": self.skipped,
            "dialogues_failed": self.progress.dialogues_failed,
            "stopped": self.stopped,
            "turns": self.progress.turns,
            "tokens": self.progress.tokens,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "tokens_per_second": (self.tokens_per_second() * 10.0).round() / 10.0,
            "prompt_tokens": self.progress.prompt_tokens,
            "cached_tokens": self.progress.cached_tokens,
            "dropped_messages": self.dropped_messages,
            "retries": self.retries,
            "fallbacks": self.fallbacks,
            "shortened": self.shortened,
            "preemptions": self.preemptions,
            "stops": self.stops,
            "peak_memory_mib": peak_memory_mib(),
        })
    }
}

/// Most memory that the process has held; Linux alone says it.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}
