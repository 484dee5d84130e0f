//! The contract between those who want text and those who make it.
//!
//! A [`ChatModel`] takes requests at any time and is driven by [`ChatModel::poll`];
//! it owns no thread of its own that a caller could see. Replies carry the ids that
//! were sampled and their log-probabilities, so nothing is ever tokenised a second
//! time to learn from it.

use crate::{Message, Sampling};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names a request between [`ChatModel::submit`] and its [`Finished`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, rendered by the model's chat template up to the place where
    /// the assistant's next message begins. When it is too long for the context,
    /// the oldest messages after the system text are left out and counted.
    Messages(Vec<Message>),
    /// Text that is tokenised as it stands; never put through a template.
    Text(String),
    /// Token ids, used as they are.
    Ids(Vec<u32>),
}

/// One request for one reply.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The reply ends after this many tokens.
    pub max_new_tokens: usize,
    /// The reply ends before the first of these that appears in its text.
    pub stop: Vec<String>,
    /// The same request with the same seed gives the same reply.
    pub seed: u64,
    /// Goes on past the model's end-of-turn token; for measurements.
    pub ignore_eos: bool,
}

impl ChatRequest {
    /// A request with default sampling, 256 new tokens, no stop strings and seed 0.
    pub fn new(prompt: Prompt) -> Self {
        ChatRequest {
            prompt,
            sampling: Sampling::default(),
            max_new_tokens: 256,
            stop: Vec::new(),
            seed: 0,
            ignore_eos: false,
        }
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string appeared.
    StopString,
    /// `max_new_tokens` was reached.
    Length,
    /// The context was full.
    ContextFull,
    /// The caller cancelled.
    Cancelled,
}

/// A finished reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The text without the end-of-turn token and without the stop string.
    pub text: String,
    /// Sampled ids, the end-of-turn token included where the model gave one.
    pub ids: Vec<u32>,
    /// Per id: log-probability under the unmodified model, in nats.
    pub log_probs: Vec<f32>,
    /// Per id: log-probability under the logits divided by the temperature, before
    /// any other setting, in nats. Equal to `log_probs` for greedy decoding.
    pub tempered_log_probs: Vec<f32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens of the prompt that was used.
    pub prompt_tokens: usize,
    /// Of those, how many were found in the key-value cache.
    pub cached_tokens: usize,
    /// Messages left out at the front, after the system text, for want of context.
    pub dropped_messages: usize,
}

impl Reply {
    /// Sum of [`Reply::log_probs`], accumulated in f64.
    pub fn log_prob_sum(&self) -> f64 {
        self.log_probs.iter().map(|&x| f64::from(x)).sum()
    }
}

/// A piece of a reply on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenChunk {
    /// Text that is final: whole characters, and no part of a possible stop string.
    pub text: String,
    /// Tokens sampled so far.
    pub n_tokens: usize,
}

/// Receives a reply while it is made.
pub trait TokenSink: Send {
    /// Called with each piece of final text, in order; the pieces add up to the
    /// reply's text.
    fn push(&mut self, chunk: TokenChunk);
}

impl<F: FnMut(TokenChunk) + Send> TokenSink for F {
    fn push(&mut self, chunk: TokenChunk) {
        self(chunk);
    }
}

/// What [`ChatModel::poll`] hands back: the request, and its reply or its failure.
#[derive(Debug)]
pub struct Finished {
    /// Which request.
    pub id: RequestId,
    /// The reply, or why there is none. One request's failure leaves others alone.
    pub reply: Result<Reply, ChatError>,
}

/// Something that answers conversations: the local engine, a remote server, a script.
pub trait ChatModel {
    /// Takes a request; work happens in [`ChatModel::poll`].
    ///
    /// # Errors
    /// A request that can never be answered: bad settings, an empty or too long
    /// prompt, a conversation that the template refuses.
    fn submit(
        &mut self,
        request: ChatRequest,
        sink: Option<Box<dyn TokenSink>>,
    ) -> Result<RequestId, ChatError>;

    /// Does one unit of work for all requests and returns those that ended with it.
    /// Returns an empty list at once when nothing is pending.
    ///
    /// # Errors
    /// A failure of the model as a whole; single requests fail in [`Finished`].
    fn poll(&mut self) -> Result<Vec<Finished>, ChatError>;

    /// Ends a request; its reply comes from the next poll with what it has so far
    /// and [`StopReason::Cancelled`]. Unknown ids are ignored: it may just have ended.
    fn cancel(&mut self, id: RequestId);

    /// Requests submitted and not yet handed back.
    fn pending(&self) -> usize;

    /// Most tokens of prompt and reply together.
    fn context_tokens(&self) -> usize;

    /// How many tokens a plain text has, for budgets.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    fn count_tokens(&self, text: &str) -> Result<usize, ChatError>;
}

/// Why a request, or the model, failed.
#[derive(Debug, Clone, Error, PartialEq)]
pub enum ChatError {
    /// A setting or a part of the request is out of range.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The prompt leaves no room to answer.
    #[error("the prompt has {prompt} tokens and the context holds {context}: no room for a reply")]
    ContextTooLong {
        /// Tokens of the shortest prompt that could be made.
        prompt: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// The chat template refused the conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// The model failed.
    #[error("model: {0}")]
    Model(String),
}

/// Submits one request and polls until its reply is there.
///
/// # Errors
/// Those of [`ChatModel::submit`] and [`ChatModel::poll`], and the request's own.
pub fn complete(model: &mut dyn ChatModel, request: ChatRequest) -> Result<Reply, ChatError> {
    let mut replies = complete_all(model, vec![request])?;
    Ok(replies.remove(0))
}

/// Submits several requests at once and polls until all replies are there, in order.
///
/// # Errors
/// The first failure; the other requests are then cancelled.
pub fn complete_all(
    model: &mut dyn ChatModel,
    requests: Vec<ChatRequest>,
) -> Result<Vec<Reply>, ChatError> {
    let mut ids = Vec::with_capacity(requests.len());
    let mut replies: Vec<Option<Reply>> = vec![None; requests.len()];
    let outcome = (|| {
        for request in requests {
            ids.push(model.submit(request, None)?);
        }
        while replies.iter().any(Option::is_none) {
            for finished in model.poll()? {
                if let Some(i) = ids.iter().position(|&id| id == finished.id) {
                    replies[i] = Some(finished.reply?);
                }
            }
        }
        Ok(())
    })();
    if let Err(error) = outcome {
        for id in ids {
            model.cancel(id);
        }
        return Err(error);
    }
    Ok(replies.into_iter().flatten().collect())
}
