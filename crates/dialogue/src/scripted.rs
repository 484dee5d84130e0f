//! A [`ChatModel`] without weights: it answers from a script, for tests.

use crate::{
    ChatError, ChatModel, ChatRequest, Finished, Message, Prompt, Reply, RequestId, Role,
    StopReason, TokenChunk, TokenSink,
};

type Script = Box<dyn FnMut(&ChatRequest) -> String + Send>;

struct Waiting {
    id: RequestId,
    request: ChatRequest,
    dropped: usize,
    sink: Option<Box<dyn TokenSink>>,
}

/// Answers each request with what its script says, one poll later.
///
/// A token is a character here: `ids` are code points, log-probabilities are -1.
/// Conversations that exceed the context lose their oldest messages after the system
/// text, as the contract asks.
pub struct ScriptedModel {
    script: Script,
    context: usize,
    next_id: u64,
    waiting: Vec<Waiting>,
    cancelled: Vec<RequestId>,
    requests: Vec<ChatRequest>,
}

impl ScriptedModel {
    /// A model that asks `script` for each reply.
    pub fn new(script: impl FnMut(&ChatRequest) -> String + Send + 'static) -> Self {
        ScriptedModel {
            script: Box::new(script),
            context: usize::MAX,
            next_id: 0,
            waiting: Vec::new(),
            cancelled: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// A model that gives these replies in order, then repeats the last.
    pub fn from_replies<S: Into<String>>(replies: impl IntoIterator<Item = S>) -> Self {
        let replies: Vec<String> = replies.into_iter().map(Into::into).collect();
        assert!(!replies.is_empty(), "a script needs at least one reply");
        let mut next = 0;
        Self::new(move |_| {
            let reply = replies[next.min(replies.len() - 1)].clone();
            next += 1;
            reply
        })
    }

    /// Limits the context, in characters.
    pub fn with_context(mut self, characters: usize) -> Self {
        self.context = characters;
        self
    }

    /// Every request so far, as it was submitted.
    pub fn requests(&self) -> &[ChatRequest] {
        &self.requests
    }

    fn fit(&self, request: &mut ChatRequest) -> Result<usize, ChatError> {
        let room = self.context.saturating_sub(request.max_new_tokens.min(self.context / 2));
        let Prompt::Messages(messages) = &mut request.prompt else { return Ok(0) };
        let system = messages.iter().take_while(|m| m.role == Role::System).count();
        let length = |ms: &[Message]| ms.iter().map(|m| m.content.chars().count()).sum::<usize>();
        let mut dropped = 0;
        while length(messages) > room {
            if messages.len() <= system + 1 {
                let prompt = length(messages);
                return Err(ChatError::ContextTooLong { prompt, context: self.context });
            }
            messages.remove(system);
            dropped += 1;
        }
        Ok(dropped)
    }
}

impl ChatModel for ScriptedModel {
    fn submit(
        &mut self,
        mut request: ChatRequest,
        sink: Option<Box<dyn TokenSink>>,
    ) -> Result<RequestId, ChatError> {
        request.sampling.validate().map_err(|e| ChatError::BadRequest(e.to_string()))?;
        self.requests.push(request.clone());
        let dropped = self.fit(&mut request)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push(Waiting { id, request, dropped, sink });
        Ok(id)
    }

    fn poll(&mut self) -> Result<Vec<Finished>, ChatError> {
        let mut finished = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let Waiting { id, request, dropped, sink } = waiting;
            let cancelled = self.cancelled.contains(&id);
            let mut text = if cancelled { String::new() } else { (self.script)(&request) };
            let mut stop = if cancelled { StopReason::Cancelled } else { StopReason::EndOfTurn };
            if let Some(at) = request.stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                text.truncate(at);
                stop = StopReason::StopString;
            }
            if text.chars().count() > request.max_new_tokens {
                text = text.chars().take(request.max_new_tokens).collect();
                stop = StopReason::Length;
            }
            let ids: Vec<u32> = text.chars().map(u32::from).collect();
            if let Some(mut sink) = sink {
                sink.push(TokenChunk { text: text.clone(), n_tokens: ids.len() });
            }
            let prompt_tokens = match &request.prompt {
                Prompt::Messages(ms) => ms.iter().map(|m| m.content.chars().count()).sum(),
                Prompt::Text(t) => t.chars().count(),
                Prompt::Ids(ids) => ids.len(),
            };
            let reply = Reply {
                text,
                log_probs: vec![-1.0; ids.len()],
                tempered_log_probs: vec![-1.0; ids.len()],
                ids,
                stop,
                prompt_tokens,
                cached_tokens: 0,
                dropped_messages: dropped,
            };
            finished.push(Finished { id, reply: Ok(reply) });
        }
        self.cancelled.clear();
        Ok(finished)
    }

    fn cancel(&mut self, id: RequestId) {
        self.cancelled.push(id);
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn context_tokens(&self) -> usize {
        self.context
    }

    fn count_tokens(&self, text: &str) -> Result<usize, ChatError> {
        Ok(text.chars().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{complete, complete_all};

    fn ask(text: &str) -> ChatRequest {
        ChatRequest::new(Prompt::Messages(vec![Message::user(text)]))
    }

    #[test]
    fn replies_come_in_order_and_stop_strings_cut() {
        let mut model = ScriptedModel::from_replies(["one", "two END three"]);
        let mut second = ask("b");
        second.stop = vec!["END".into()];
        let replies = complete_all(&mut model, vec![ask("a"), second]).unwrap();
        assert_eq!(replies[0].text, "one");
        assert_eq!((replies[1].text.as_str(), replies[1].stop), ("two ", StopReason::StopString));
        assert_eq!(model.pending(), 0);
    }

    #[test]
    fn oldest_messages_go_first_and_are_counted() {
        let mut model = ScriptedModel::new(|r| match &r.prompt {
            Prompt::Messages(ms) => ms.iter().map(|m| m.content.as_str()).collect(),
            _ => unreachable!(),
        })
        .with_context(20);
        let messages = vec![
            Message::system("sys"),
            Message::user("aaaaaaaa"),
            Message::assistant("bbbbbb"),
            Message::user("cc"),
        ];
        let mut request = ChatRequest::new(Prompt::Messages(messages));
        request.max_new_tokens = 8;
        let reply = complete(&mut model, request).unwrap();
        assert_eq!((reply.text.as_str(), reply.dropped_messages), ("sysbbbbb", 1));
    }

    #[test]
    fn a_failed_submit_cancels_its_siblings() {
        let mut model = ScriptedModel::from_replies(["x"]);
        let mut bad = ask("b");
        bad.sampling.top_p = 2.0;
        assert!(complete_all(&mut model, vec![ask("a"), bad]).is_err());
        let left = model.poll().unwrap();
        assert_eq!(left[0].reply.as_ref().unwrap().stop, StopReason::Cancelled);
    }
}
