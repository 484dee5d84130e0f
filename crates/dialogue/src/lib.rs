//! What every other crate speaks in: messages, dialogue trees, sampling settings,
//! and the traits that stand between Troupe's walls.
//!
//! This crate knows no tensor, no file format of others and no network; it holds
//! plain data and the contracts, so that role-play code can be tested on a
//! [`ScriptedModel`] without any weights.
//!
//! Read [`tree`] next (the one idea: a dialogue is a tree), then [`chat`].

pub mod message;
pub mod tree;
pub mod sampling;
pub mod chat;
pub mod scripted;

pub use chat::{
    ChatError, ChatModel, ChatRequest, Finished, Prompt, Reply, RequestId, StopReason, TokenChunk,
    TokenSink, complete, complete_all,
};
pub use message::{Message, Role};
pub use sampling::{Sampling, SamplingError};
pub use scripted::ScriptedModel;
pub use tree::{DialogueTree, Node, NodeId, Origin, SampleInfo, Side, Speaker, TreeError};
