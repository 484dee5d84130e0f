//! Which part of a rendering is whose.
//!
//! Each prefix of the conversation is rendered by itself. Where the rendering of the first
//! `n` messages is the beginning of the whole text, a message ends there. Where it is not,
//! the template has rewritten its history (it strips the thinking of earlier replies, say),
//! and where a prefix is refused (a system message alone, say), nothing is known: in both
//! cases the message stays together with the one after it.
//!
//! So the segments always make up the text exactly. Rendering all prefixes costs the square
//! of the number of messages, which for two hundred is still a fraction of a second.

use std::fmt;
use std::ops::Range;

use minijinja::Value;
use troupe_dialogue::{Message, Role};

use super::{ChatTemplate, Run, TemplateError, message_values, python};

/// A conversation's text, cut into segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What [`ChatTemplate::render`] gives.
    pub text: String,
    /// The parts of the text in order; together they are all of it, and each message is in
    /// exactly one.
    pub segments: Vec<Segment>,
    /// Where the template writes earlier messages anew when one is added, if it does so in
    /// this conversation. Then the text of a reply here is not what the model wrote or
    /// read when it was the last: train such a reply on the conversation up to it.
    pub rewrites_history: Option<Rewrite>,
}

/// A part of a rendering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What the part is.
    pub kind: SegmentKind,
    /// The messages in it by index: one, or several that could not be told apart; none in
    /// the other kinds.
    pub messages: Range<usize>,
    /// The role of the last of its messages.
    pub role: Option<Role>,
    /// Its bytes in the text.
    pub text: Range<usize>,
    /// Where the last message's own content begins, if that is an assistant's: after the
    /// generation prompt where the message begins with it, else where the content stands
    /// if it stands there once. `None` where neither holds.
    pub reply_start: Option<usize>,
}

/// What a part of a rendering is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// What stands before the first message, as a BOS token.
    Leading,
    /// One or more messages.
    Messages,
    /// What asks the model for a reply.
    GenerationPrompt,
    /// What ends a conversation that nobody is asked to continue, as Phi-3's EOS token.
    Closing,
}

/// A message that a template writes anew when others follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The first such message, by index.
    pub message: usize,
    /// How it was written while it was the last (a few words around the difference).
    pub alone: String,
    /// How it is written in the whole.
    pub within: String,
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rewrite { message, alone, within } = self;
        write!(f, "message {message} is `{alone}` at the end but `{within}` with others after it")
    }
}

impl ChatTemplate {
    /// The text of a conversation with the part of each message.
    pub fn render_segments(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let closing = self.traits().closing.clone();
        self.run(|run| segments(run, messages, add_generation_prompt, closing.as_deref()))
    }
}

/// Ends of messages that have been found, with what is needed to name a rewrite.
struct Ends {
    /// `(number of messages, bytes)`, both rising.
    found: Vec<(usize, usize)>,
    rewrite: Option<Rewrite>,
}

fn segments(
    run: &Run,
    messages: &[Message],
    generate: bool,
    closing: Option<&str>,
) -> Result<Rendered, TemplateError> {
    let values = message_values(messages);
    let text = run.render(&values, generate)?;
    let ends = find_ends(run, &values, &text, generate, closing);

    let mut segments = Vec::new();
    let (mut count, mut start) = (0, 0);
    for &(next_count, end) in &ends.found {
        if next_count > 0 {
            segments.push(message_segment(
                run,
                &text,
                messages,
                &values,
                count..next_count,
                start..end,
            ));
        } else if end > 0 {
            segments.push(other_segment(SegmentKind::Leading, 0..end));
        }
        (count, start) = (next_count, end);
    }
    if count < messages.len() {
        // The whole does not begin with itself as rendered for prefixes, as where a template
        // adds a generation prompt in the midst of the last message.
        let all = count..messages.len();
        segments.push(message_segment(run, &text, messages, &values, all, start..text.len()));
    } else if start < text.len() {
        let kind = if generate { SegmentKind::GenerationPrompt } else { SegmentKind::Closing };
        segments.push(other_segment(kind, start..text.len()));
    }
    Ok(Rendered { text, segments, rewrites_history: ends.rewrite })
}

fn find_ends(
    run: &Run,
    values: &[Value],
    text: &str,
    generate: bool,
    closing: Option<&str>,
) -> Ends {
    let mut ends = Ends { found: Vec::new(), rewrite: None };
    for count in 0..=values.len() {
        let rendered = match count == values.len() && !generate {
            true => text.to_owned(),
            // A prefix that is refused says nothing about the text.
            false => match run.render(&values[..count], false) {
                Ok(rendered) => rendered,
                Err(_) => continue,
            },
        };
        let open = closing.and_then(|closing| rendered.strip_suffix(closing)).unwrap_or(&rendered);
        let last = ends.found.last().map_or(0, |&(_, end)| end);
        if text.starts_with(open) && open.len() >= last {
            ends.found.push((count, open.len()));
        } else if count > 0 && ends.rewrite.is_none() {
            ends.rewrite = Some(rewrite(count - 1, open, text));
        }
    }
    ends
}

fn rewrite(message: usize, alone: &str, within: &str) -> Rewrite {
    const SHOWN_CHARS: usize = 40;
    let same = alone.bytes().zip(within.bytes()).take_while(|(a, b)| a == b).count();
    let shown = |text: &str| {
        let mut from = same.min(text.len());
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        text[from..].chars().take(SHOWN_CHARS).collect::<String>().escape_debug().to_string()
    };
    Rewrite { message, alone: shown(alone), within: shown(within) }
}

fn other_segment(kind: SegmentKind, text: Range<usize>) -> Segment {
    Segment { kind, messages: 0..0, role: None, text, reply_start: None }
}

fn message_segment(
    run: &Run,
    text: &str,
    messages: &[Message],
    values: &[Value],
    range: Range<usize>,
    bytes: Range<usize>,
) -> Segment {
    let last = range.end - 1;
    let role = messages[last].role;
    let reply_start = (role == Role::Assistant)
        .then(|| {
            let prompt = run.render(&values[..last], true).ok();
            let after_prompt = prompt
                .filter(|prompt| text[..bytes.end].starts_with(prompt.as_str()))
                .map(|prompt| prompt.len())
                .filter(|&at| at >= bytes.start);
            after_prompt.or_else(|| {
                let content = python::stripped(&messages[last].content);
                let mut places = text[bytes.clone()].match_indices(content).map(|(at, _)| at);
                let first = places.next().filter(|_| !content.is_empty())?;
                places.next().is_none().then_some(bytes.start + first)
            })
        })
        .flatten();
    Segment {
        kind: SegmentKind::Messages,
        messages: range,
        role: Some(role),
        text: bytes,
        reply_start,
    }
}
