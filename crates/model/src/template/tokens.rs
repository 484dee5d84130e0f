//! A conversation as tokens, message by message.
//!
//! The ids of the whole are those of transformers: the rendered text encoded at once,
//! without added special tokens. Each segment is encoded by itself too; where the two
//! disagree a token reaches over a boundary, and the result says where. A reply is encoded
//! apart from the header before it, since that is how it comes about when the model is
//! asked for it.

use std::ops::Range;

use troupe_dialogue::Message;

use super::{ChatTemplate, Rewrite, Segment, TemplateError, python};
use crate::tokenizer::Tokenizer;

/// A conversation's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenisedChat {
    /// The rendered text.
    pub text: String,
    /// The text's ids as transformers gives them.
    pub ids: Vec<u32>,
    /// The parts of the text with their own ids.
    pub segments: Vec<TokenSegment>,
    /// The first segment whose ids are not those that the whole text has there, because a
    /// token reaches over its start or end; `None` where the segments' ids in a row are
    /// exactly `ids`.
    pub differs_at: Option<usize>,
    /// As in [`super::Rendered`].
    pub rewrites_history: Option<Rewrite>,
}

/// A part of a conversation with its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSegment {
    /// Its messages and its bytes in the text.
    pub segment: Segment,
    /// The ids of its text by itself.
    pub ids: Vec<u32>,
    /// Its place among the ids of all segments in a row (and, where
    /// [`TokenisedChat::differs_at`] is `None`, in the ids of the whole).
    pub tokens: Range<usize>,
    /// The reply in it, where its last message is an assistant's and its start is known.
    pub reply: Option<ReplyTokens>,
}

/// An assistant's message as prompt and reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTokens {
    /// The segment's text up to the reply: what the generation prompt gives the model.
    pub header: Vec<u32>,
    /// What the model writes: the content and the token that ends the turn.
    pub reply: Vec<u32>,
    /// What the template puts after the end of the turn; belongs to the next prompt.
    pub tail: Vec<u32>,
    /// The reply's bytes in the text.
    pub text: Range<usize>,
    /// Whether the reply ends with an end-of-turn token.
    pub ends_turn: bool,
}

impl ChatTemplate {
    /// The tokens of a conversation, and of each message in it.
    pub fn tokenise(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<TokenisedChat, TemplateError> {
        let rendered = self.render_segments(messages, add_generation_prompt)?;
        let ids = tokenizer.encode(&rendered.text, false)?;
        let mut segments = Vec::with_capacity(rendered.segments.len());
        let mut differs_at = None;
        let mut start = 0;
        for (idx, segment) in rendered.segments.into_iter().enumerate() {
            let own = tokenizer.encode(&rendered.text[segment.text.clone()], false)?;
            let tokens = start..start + own.len();
            if differs_at.is_none() && ids.get(tokens.clone()) != Some(&own) {
                differs_at = Some(idx);
            }
            let reply = reply(tokenizer, &rendered.text, &segment, messages)?;
            start = tokens.end;
            segments.push(TokenSegment { segment, ids: own, tokens, reply });
        }
        if differs_at.is_none() && start != ids.len() {
            differs_at = segments.len().checked_sub(1);
        }
        let rewrites_history = rendered.rewrites_history;
        Ok(TokenisedChat { text: rendered.text, ids, segments, differs_at, rewrites_history })
    }
}

fn reply(
    tokenizer: &Tokenizer,
    text: &str,
    segment: &Segment,
    messages: &[Message],
) -> Result<Option<ReplyTokens>, TemplateError> {
    let Some(start) = segment.reply_start else { return Ok(None) };
    let written = &text[start..segment.text.end];
    // The content may hold the text of an end of a turn, so look behind it.
    let content = python::stripped(&messages[segment.messages.end - 1].content);
    let content_end = written.find(content).map_or(0, |at| at + content.len());
    let end = tokenizer
        .eos_ids()
        .iter()
        .filter_map(|&id| tokenizer.id_to_token(id))
        .filter_map(|token| {
            let at = written[content_end..].find(&token)? + content_end;
            Some((at, at + token.len()))
        })
        .min()
        .map(|(_, end)| start + end);
    let end_of_reply = end.unwrap_or(segment.text.end);
    let encode = |range: Range<usize>| tokenizer.encode(&text[range], false);
    Ok(Some(ReplyTokens {
        header: encode(segment.text.start..start)?,
        reply: encode(start..end_of_reply)?,
        tail: encode(end_of_reply..segment.text.end)?,
        text: start..end_of_reply,
        ends_turn: end.is_some(),
    }))
}
