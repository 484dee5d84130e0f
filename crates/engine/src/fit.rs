//! Making a conversation fit the context: the oldest messages go first.
//!
//! Leading system messages always stay, and so does the last message. When a conversation
//! outgrows its room it is cut back to three quarters of it, not just below: the next
//! turns then begin with the same tokens, and the key-value cache still holds them. The
//! cut depends on the messages alone, so every turn of a dialogue cuts at the same place.

use troupe_dialogue::{ChatError, Message, Role};
use troupe_model::{ChatTemplate, Model, TemplateError};

/// The prompt's ids and how many messages were left out.
///
/// # Errors
/// A conversation that the template refuses; system text and last message alone beyond
/// `room` tokens.
pub(crate) fn fit_messages(
    model: &Model,
    messages: &[Message],
    room: usize,
) -> Result<(Vec<u32>, usize), ChatError> {
    let template = template_of(model)?;
    let render = |messages: &[Message]| prompt_of(model, template, messages);
    if messages.is_empty() {
        return Err(ChatError::BadRequest("the conversation has no messages".into()));
    }
    let whole = render(messages)?;
    if whole.len() <= room {
        return Ok((whole, 0));
    }
    let system = messages.iter().take_while(|m| m.role == Role::System).count();
    let overhead = overhead(&render)?;
    let mut weights = Vec::with_capacity(messages.len());
    for message in messages {
        let content = model.tokenizer.encode(&message.content, false).map_err(failed)?;
        weights.push(content.len() + overhead);
    }
    let mut dropped = cut(&weights, system, room);
    // The weights are estimates; what counts is the rendering.
    loop {
        let last = messages.len().saturating_sub(system + 1);
        dropped = dropped.min(last);
        let kept: Vec<Message> =
            messages[..system].iter().chain(&messages[system + dropped..]).cloned().collect();
        let ids = render(&kept)?;
        if ids.len() <= room {
            return Ok((ids, dropped));
        }
        if dropped == last {
            return Err(ChatError::ContextTooLong { prompt: ids.len(), context: room });
        }
        dropped += 1;
    }
}

/// The ids of a conversation up to where the assistant's next message begins.
///
/// # Errors
/// No template, or one that refuses the conversation.
pub fn prompt_ids(model: &Model, messages: &[Message]) -> Result<Vec<u32>, ChatError> {
    prompt_of(model, template_of(model)?, messages)
}

fn template_of(model: &Model) -> Result<&ChatTemplate, ChatError> {
    let missing = || ChatError::Template("the model has none: it can continue text only".into());
    model.template.as_ref().ok_or_else(missing)
}

fn prompt_of(
    model: &Model,
    template: &ChatTemplate,
    messages: &[Message],
) -> Result<Vec<u32>, ChatError> {
    let adapted = template.adapt(messages);
    let text = template.render(&adapted.messages, true).map_err(refused)?;
    model.tokenizer.encode(&text, false).map_err(failed)
}

/// Tokens that the template adds around a message.
fn overhead(
    render: &impl Fn(&[Message]) -> Result<Vec<u32>, ChatError>,
) -> Result<usize, ChatError> {
    let one = render(&[Message::user("a")])?.len();
    let three = [Message::user("a"), Message::assistant("a"), Message::user("a")];
    Ok((render(&three)?.len().saturating_sub(one) / 2).saturating_sub(1))
}

/// How many messages after the first `system` to leave out: plays the conversation turn by
/// turn, and whenever it exceeds `room` cuts it back to three quarters of that.
fn cut(weights: &[usize], system: usize, room: usize) -> usize {
    let mut total: usize = weights[..system].iter().sum();
    let mut first = system;
    for (i, weight) in weights.iter().enumerate().skip(system) {
        total += weight;
        if total > room {
            while total > room / 4 * 3 && first < i {
                total -= weights[first];
                first += 1;
            }
        }
    }
    first - system
}

fn refused(error: TemplateError) -> ChatError {
    ChatError::Template(error.to_string())
}

fn failed(error: impl std::fmt::Display) -> ChatError {
    ChatError::BadRequest(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_dialogue_keeps_its_cut_for_several_turns() {
        // System 10, then turns of 10 in a room of 100: full at 9 turns, cut to 75.
        let mut weights = vec![10];
        let mut cuts = Vec::new();
        for _ in 0..16 {
            weights.push(10);
            cuts.push(cut(&weights, 1, 100));
        }
        assert_eq!(cuts, [0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8]);
    }

    #[test]
    fn the_last_message_stays_even_when_it_is_too_long() {
        assert_eq!(cut(&[10, 10, 500], 1, 100), 1);
        assert_eq!(cut(&[500], 0, 100), 0);
    }
}
