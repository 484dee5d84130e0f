//! Generation: many requests at once over one paged, prefix-sharing key-value cache.
//!
//! [`LocalEngine`] is the local `ChatModel`: requests join and leave between steps, a long
//! prompt is read in chunks beside the others' decoding, and a reply depends on its own
//! request and seed alone. [`score`] reads log-probabilities of given completions.
//!
//! Read [`local`] first, then [`pages`] and [`sampler`].

pub mod local;
pub mod fit;
pub mod pages;
pub mod sampler;
pub mod stops;
mod sequence;
pub mod score;

pub use local::{EngineConfig, EngineStats, LocalEngine};
pub use score::{ScoreRow, score_rows};
pub use troupe_model::template::{SegmentKind, TokenisedChat};
pub use troupe_model::{ChatTemplate, LoadError, Model, TemplateError, Tokenizer, WeightDtype};
