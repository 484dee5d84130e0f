//! What a transformer is made of: sizes, biases, norms, windows and rotary scaling.
//!
//! One struct describes every family; a family is what this file reads from its
//! `config.json` or GGUF metadata, plus a weight-name map ([`crate::names`]). Anything
//! that would change the numbers and is not understood is an error, never ignored.

mod hf;
mod gguf;
mod rope;

pub use rope::{RopeConfig, RopeScaling};

use thiserror::Error;

/// The families whose checkpoints can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama, SmolLM2 and their descendants.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
}

impl Family {
    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }
}

/// A decoder-only transformer: pre-norm blocks of attention and a gated feed-forward.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Where the numbers come from.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even. Need not be `hidden / heads`.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// The output head is the embedding.
    pub tied_head: bool,
    /// The projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The output projection of attention has a bias.
    pub output_bias: bool,
    /// The feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Per layer: how many last positions a token sees; none is all.
    pub windows: Vec<Option<usize>>,
    /// Rotary frequencies.
    pub rope: RopeConfig,
    /// Positions that the model was trained for.
    pub max_positions: usize,
}

/// Why a config cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No JSON.
    #[error("`config.json` is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// GGUF metadata is missing or of another type.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// A field is missing.
    #[error("`{0}` is missing from the model's config")]
    Missing(String),
    /// A field has a value that this program does not support or that makes no sense.
    #[error("`{field}` is {value} in the model's config; expected {expected}")]
    Unsupported {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What is supported.
        expected: String,
    },
}

impl ConfigError {
    pub(crate) fn unsupported(
        field: impl Into<String>,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        ConfigError::Unsupported {
            field: field.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

/// Sizes beyond this are damage, not models; they keep products inside `usize`.
const MAX_SIZE: usize = 1 << 24;

impl ModelConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("vocab_size", self.vocab),
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        for (field, size) in sizes {
            if size == 0 || size > MAX_SIZE {
                return Err(ConfigError::unsupported(field, size, format!("1 to {MAX_SIZE}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.heads);
            return Err(ConfigError::unsupported("num_key_value_heads", self.kv_heads, expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::unsupported("head_dim", self.head_dim, "an even number"));
        }
        if self.windows.len() != self.layers {
            let expected = format!("one for each of {} layers", self.layers);
            return Err(ConfigError::unsupported("layer_types", self.windows.len(), expected));
        }
        if self.windows.contains(&Some(0)) {
            return Err(ConfigError::unsupported("sliding_window", 0, "at least 1"));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps < 1.0) {
            return Err(ConfigError::unsupported("rms_norm_eps", self.rms_norm_eps, "0 to 1"));
        }
        self.rope.validate()
    }

    /// Number of weights, biases and norms included, a tied head counted once.
    pub fn parameters(&self) -> usize {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut layer = self.hidden * (2 * q + 2 * kv + 3 * self.intermediate + 2);
        layer += usize::from(self.qkv_bias) * (q + 2 * kv);
        layer += usize::from(self.output_bias) * self.hidden;
        layer += usize::from(self.mlp_bias) * (2 * self.intermediate + self.hidden);
        layer += usize::from(self.qk_norm) * 2 * self.head_dim;
        let heads = if self.tied_head { 1 } else { 2 };
        heads * self.vocab * self.hidden + self.layers * layer + self.hidden
    }

    /// Bytes that one token takes in a key-value cache of `bytes_per_value`.
    pub fn kv_bytes_per_token(&self, bytes_per_value: usize) -> usize {
        self.layers * 2 * self.kv_heads * self.head_dim * bytes_per_value
    }
}
