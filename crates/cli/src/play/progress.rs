//! How far a run is: a bar on a terminal, a line now and then in a log.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use troupe_roleplay::selfplay::PlayProgress;

/// How often a log gets a line.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// More failures are not told one by one.
const MOST_FAILURES: usize = 20;

/// Shows progress on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    logged: Instant,
    failures: usize,
}

impl Progress {
    /// Begins to count the time.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} turns, {msg}");
            let bar = ProgressBar::new(0);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Progress { bar, begun: Instant::now(), logged: Instant::now(), failures: 0 }
    }

    /// Shows how far the run is.
    pub fn update(&mut self, counts: &PlayProgress) {
        let elapsed = self.begun.elapsed();
        match &self.bar {
            Some(bar) => {
                bar.set_length(counts.turns_total as u64);
                bar.set_position(counts.turns as u64);
                bar.set_message(in_words(counts, elapsed));
            }
            None if self.logged.elapsed() >= LOG_INTERVAL => {
                self.logged = Instant::now();
                let PlayProgress { turns, turns_total, .. } = counts;
                eprintln!("{turns}/{turns_total} turns, {}", in_words(counts, elapsed));
            }
            None => {}
        }
    }

    /// Says why a dialogue ended early, without tearing the bar; after some it only counts.
    pub fn failure(&mut self, text: &str) {
        self.failures += 1;
        let say = || match self.failures {
            ..=MOST_FAILURES => eprintln!("note: a dialogue ended early: {text}"),
            _ => eprintln!("note: more ended early; they are only counted from here on"),
        };
        match &self.bar {
            _ if self.failures > MOST_FAILURES + 1 => {}
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn in_words(counts: &PlayProgress, elapsed: Duration) -> String {
    let PlayProgress { dialogues_complete, dialogues_total, tokens, .. } = counts;
    let speed = *tokens as f64 / elapsed.as_secs_f64().max(1e-3);
    let failed = match counts.dialogues_failed {
        0 => String::new(),
        failed => format!(" ({failed} failed)"),
    };
    let left = time_left(counts, elapsed).map_or(String::new(), |left| format!(", {left} left"));
    format!(
        "{dialogues_complete}/{dialogues_total} dialogues{failed}, {tokens} tokens, \
         {speed:.0} tokens/s{left}"
    )
}

/// The time that the missing turns take at the speed so far; none at the very start.
fn time_left(counts: &PlayProgress, elapsed: Duration) -> Option<String> {
    let turns = counts.turns.checked_sub(1)?.max(1) as f64;
    let left = counts.turns_total.saturating_sub(counts.turns) as f64;
    let seconds = elapsed.as_secs_f64() / turns * left;
    (elapsed >= Duration::from_secs(2)).then(|| duration(seconds as u64))
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress() {
        let counts = PlayProgress {
            dialogues_total: 4,
            dialogues_complete: 1,
            turns_total: 40,
            turns: 21,
            tokens: 500,
            ..PlayProgress::default()
        };
        // 20 turns in 10 s leave 19 turns, 9.5 s.
        assert_eq!(
            in_words(&counts, Duration::from_secs(10)),
            "1/4 dialogues, 500 tokens, 50 tokens/s, 9 s left"
        );
        assert_eq!(duration(3725), "1 h 2 min");
    }
}
