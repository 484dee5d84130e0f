//! Waiting for the model: one reply that is shown while it comes, or several lines at
//! once. Ctrl-C ends the wait and keeps what is there.

use super::screen::Screen;
use crate::interrupt;
use anyhow::Result;
use serde_json::{Value, json};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use troupe_dialogue::{
    ChatError, ChatModel, ChatRequest, Reply, RequestId, StopReason, TokenChunk, TokenSink,
};
use troupe_roleplay::prompt::StreamCleaner;
use troupe_roleplay::suggest::{Suggester, Suggestions};

/// A reply, and how it went.
pub struct Spoken {
    /// The reply.
    pub reply: Reply,
    /// What was shown of it so far.
    pub shown: String,
    /// From the request to the end.
    pub elapsed: Duration,
    /// From the request to the first text.
    pub first_text: Option<Duration>,
}

/// Figures of the last reply.
pub struct Measured {
    tokens: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    dropped_messages: usize,
    stop: StopReason,
    elapsed: Duration,
    first_text: Option<Duration>,
}

/// Asks for one reply and shows it as it comes. A failure of this request is the inner
/// error; the chat can go on.
pub fn speak(
    model: &mut dyn ChatModel,
    request: ChatRequest,
    mut cleaner: StreamCleaner,
    name: &str,
    screen: &Screen,
) -> Result<Result<Spoken, ChatError>> {
    let begun = Instant::now();
    let (sender, pieces) = channel::<TokenChunk>();
    let sink: Box<dyn TokenSink> = Box::new(move |chunk| {
        // The receiver is gone only when the chat has failed.
        let _ = sender.send(chunk);
    });
    let id = match model.submit(request, Some(sink)) {
        Ok(id) => id,
        Err(error) => return Ok(Err(error)),
    };
    let mut shown = String::new();
    let mut first_text = None;
    let mut show = |text: String| -> Result<()> {
        if !text.is_empty() {
            if shown.is_empty() {
                first_text = Some(begun.elapsed());
                screen.begin(name)?;
            }
            screen.piece(&text)?;
            shown.push_str(&text);
        }
        Ok(())
    };
    let reply = loop {
        if interrupt::requested() {
            model.cancel(id);
        }
        let finished = match model.poll() {
            Ok(finished) => finished,
            Err(error) => return Ok(Err(error)),
        };
        for piece in pieces.try_iter() {
            show(cleaner.push(&piece.text))?;
        }
        if let Some(done) = finished.into_iter().find(|done| done.id == id) {
            break done.reply;
        }
    };
    show(cleaner.finish())?;
    Ok(reply.map(|reply| Spoken { reply, shown, elapsed: begun.elapsed(), first_text }))
}

/// Looks for lines that the user could say. Ctrl-C gives what was found before it.
pub fn suggest(
    model: &mut dyn ChatModel,
    mut suggester: Suggester,
) -> Result<Suggestions, ChatError> {
    loop {
        let wave = suggester.next_wave();
        if wave.is_empty() {
            return Ok(suggester.finish());
        }
        let mut ids: Vec<RequestId> = Vec::with_capacity(wave.len());
        let mut replies: Vec<Option<Reply>> = vec![None; wave.len()];
        let outcome = (|| {
            for request in wave {
                ids.push(model.submit(request, None)?);
            }
            while replies.iter().any(Option::is_none) {
                if interrupt::requested() {
                    return Ok(false);
                }
                for done in model.poll()? {
                    if let Some(at) = ids.iter().position(|&id| id == done.id) {
                        replies[at] = Some(done.reply?);
                    }
                }
            }
            Ok(true)
        })();
        if !matches!(outcome, Ok(true)) {
            release(model, &ids);
        }
        if !outcome? {
            return Ok(suggester.finish());
        }
        let replies: Vec<Reply> = replies.into_iter().flatten().collect();
        suggester.offer(&replies);
    }
}

/// Gives requests up and waits until the model has let go of them.
fn release(model: &mut dyn ChatModel, ids: &[RequestId]) {
    for &id in ids {
        model.cancel(id);
    }
    while model.pending() > 0 && model.poll().is_ok() {}
}

impl Measured {
    /// The figures of this reply.
    pub fn of(spoken: &Spoken) -> Self {
        let reply = &spoken.reply;
        Measured {
            tokens: reply.ids.len(),
            prompt_tokens: reply.prompt_tokens,
            cached_tokens: reply.cached_tokens,
            dropped_messages: reply.dropped_messages,
            stop: reply.stop,
            elapsed: spoken.elapsed,
            first_text: spoken.first_text,
        }
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Whether messages had to be left out.
    pub fn is_context_full(&self) -> bool {
        self.dropped_messages > 0
    }

    /// For people.
    pub fn in_words(&self) -> String {
        let first = self.first_text.map_or(String::new(), |first| {
            format!(", the first text after {:.2} s", first.as_secs_f64())
        });
        let dropped = match self.dropped_messages {
            0 => String::new(),
            count => format!("; {count} oldest messages did not fit"),
        };
        format!(
            "last reply: {} tokens in {:.1} s ({:.1} tokens/s{first}), prompt of {} tokens \
             ({} from the cache){dropped}",
            self.tokens,
            self.elapsed.as_secs_f64(),
            self.tokens_per_second(),
            self.prompt_tokens,
            self.cached_tokens,
        )
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "dropped_messages": self.dropped_messages,
            "stop": self.stop,
            "seconds": rounded(self.elapsed.as_secs_f64()),
            "tokens_per_second": rounded(self.tokens_per_second()),
        })
    }
}

/// Milliseconds are enough for people and programs.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
