//! One config-driven transformer, its loaders, tokenizer and chat templates.
//!
//! Loads HF folders and GGUF files, trusts neither, and owns no clock or random number;
//! a chat template runs on a short-lived thread with a deep stack. Read [`config`] for what a model is made of, [`transformer`] for what it does,
//! [`template`] for how a conversation becomes tokens.

pub mod config;
pub mod names;
pub mod gguf;
pub mod tokenizer;
pub mod template;
pub mod source;
pub mod kv;
pub mod transformer;
pub mod load;

pub use config::{ConfigError, Family, ModelConfig};
pub use kv::KvPool;
pub use load::{LoadError, Model};
pub use source::{SourceError, WeightDtype, WeightSource};
pub use template::{ChatTemplate, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
pub use transformer::{KvCache, Transformer};
