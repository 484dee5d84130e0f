//! Text to token ids and back, from a Hugging Face folder or from GGUF metadata.
//!
//! Both kinds give the ids that the Hugging Face tokenizer gives. The work itself is the
//! `tokenizers` crate's; here is what stands around it: which tokens are special, which
//! end a turn, whether a BOS token is added, and decoding token by token. Refused, by
//! name: tokenizer models other than byte-level BPE in GGUF files (SentencePiece comes
//! with a later version), pre-tokenizers that we do not know, and vocabularies that
//! contradict themselves.
//!
//! Next: `tokenizer/hf.rs`, `tokenizer/gguf.rs` with its table `tokenizer/pre.rs`, and
//! `tokenizer/stream.rs`. Chat templates are in `template.rs`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::DecoderWrapper;

use crate::gguf::{GgufError, GgufFile};

mod hf;
mod gguf;
mod pre;
mod stream;

pub use stream::DecodeStream;

/// A tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    special: Special,
    affixes: Affixes,
    note: Option<&'static str>,
}

/// The tokens that have a role.
#[derive(Debug, Clone, Default)]
struct Special {
    bos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    /// In order of authority: see [`Tokenizer::eos_ids`].
    eos: Vec<u32>,
    /// `bos_token` and so on with their texts, for chat templates.
    named: BTreeMap<String, String>,
}

/// What encoding puts around a text when special tokens are asked for.
#[derive(Debug, Clone)]
enum Affixes {
    /// What the post-processor of `tokenizer.json` says.
    PostProcessor,
    /// These tokens.
    Tokens { first: Option<u32>, last: Option<u32> },
}

/// A tokenizer could not be built, or could not encode or decode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("`{}` is not valid json", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the text is wrong.
        source: serde_json::Error,
    },
    /// A field of a tokenizer file or of GGUF metadata is unusable.
    #[error("`{}`: `{field}`: {why}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The GGUF file holds a kind of tokenizer that we cannot build.
    #[error(
        "`{}` holds a `{model}` tokenizer; only byte-level bpe (`gpt2`) can be built from gguf \
         metadata so far, others come with a later version",
        path.display()
    )]
    UnsupportedModel {
        /// The file.
        path: PathBuf,
        /// The value of `tokenizer.ggml.model`.
        model: String,
    },
    /// The GGUF file names a pre-tokenizer that we do not know.
    #[error(
        "`{}` names the unknown pre-tokenizer `{pre}` (`tokenizer.ggml.pre`); with another one \
         the ids would be wrong",
        path.display()
    )]
    UnknownPre {
        /// The file.
        path: PathBuf,
        /// The value of `tokenizer.ggml.pre`.
        pre: String,
    },
    /// The metadata of a GGUF file is incomplete or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Encoding or decoding failed.
    #[error("cannot {action}: {why}")]
    Run {
        /// What was tried.
        action: &'static str,
        /// What the tokenizer said.
        why: String,
    },
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where present, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` and `config.json` of a folder.
    pub fn from_hf_dir(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        hf::load(dir.as_ref())
    }

    /// Builds the tokenizer that the metadata of a GGUF file describes.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TokenizerError> {
        gguf::load(file)
    }

    /// The ids of a text. Special tokens written out in the text become their ids, as in
    /// transformers; `add_special` adds BOS and EOS where the model's rule says so.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let post_process = add_special && matches!(self.affixes, Affixes::PostProcessor);
        let encoding = guarded("encode", || self.inner.encode_fast(text, post_process))?;
        let mut ids = encoding.get_ids().to_vec();
        if let Affixes::Tokens { first, last } = self.affixes
            && add_special
        {
            ids.splice(0..0, first);
            ids.extend(last);
        }
        Ok(ids)
    }

    /// The text of ids. Ids outside the vocabulary (a model's padding rows) add nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        guarded("decode", || self.inner.decode(ids, skip_special))
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token in its written form, as in `<|im_end|>` or `Ġthe`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The written form of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary().simple_id_to_token(id);
        added.or_else(|| self.inner.id_to_token(id))
    }

    /// Whether decoding leaves the id out when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The token that starts a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that fills up short rows, if the model has one.
    pub fn pad_id(&self) -> Option<u32> {
        self.special.pad
    }

    /// The token for what cannot be written, if the model has one.
    pub fn unk_id(&self) -> Option<u32> {
        self.special.unk
    }

    /// The first of [`eos_ids`](Self::eos_ids).
    pub fn eos_id(&self) -> Option<u32> {
        self.special.eos.first().copied()
    }

    /// All tokens that end a reply, without repetition.
    ///
    /// First those that the files declare: `eos_token` of the tokenizer's config, then
    /// `eos_token_id` of `generation_config.json` (of `config.json` where the former has
    /// none); in a GGUF file the `eos`, `eot` and `eom` ids. Then well-known ends of a turn
    /// (`<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`, `</s>`, ...) that this vocabulary has
    /// as special tokens: chat fine-tunes often leave them undeclared, while a text such as
    /// `</s>` that is an ordinary token stays one. `<|end|>` does not count where the
    /// vocabulary also has `<|return|>` or `<|flush|>` besides a call token: there it ends
    /// one part of a reply (gpt-oss, Solar).
    pub fn eos_ids(&self) -> &[u32] {
        &self.special.eos
    }

    /// Whether `add_special` puts the BOS token in front.
    pub fn adds_bos(&self) -> bool {
        let bos = self.special.bos;
        bos.is_some() && self.encode("", true).is_ok_and(|ids| ids.first() == bos.as_ref())
    }

    /// `bos_token`, `eos_token`, `pad_token`, `unk_token` and others with their texts.
    pub fn named_tokens(&self) -> &BTreeMap<String, String> {
        &self.special.named
    }

    /// A caution about this tokenizer that a user should see, if there is one.
    pub fn note(&self) -> Option<&'static str> {
        self.note
    }

    fn is_byte_level(&self) -> bool {
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }
}

/// Texts that end a turn in some family. Source: llama.cpp, `src/llama-vocab.cpp`, commit
/// 00ad355e (`special_eog_ids`), without those for code completion and calls.
const END_OF_TURN: [&str; 12] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "</s>",
];

impl Tokenizer {
    /// Adds the well-known ends of a turn after the declared ones.
    fn add_known_ends(&mut self) {
        let special = |text: &str| self.token_to_id(text).filter(|&id| self.is_special(id));
        let has = |text| special(text).is_some();
        let calls = has("<|call|>") || has("<|calls|>");
        let end_is_inner = calls && (has("<|return|>") || has("<|flush|>"));
        let known: Vec<u32> = END_OF_TURN
            .iter()
            .filter(|&&text| !(end_is_inner && text == "<|end|>"))
            .filter_map(|text| special(text))
            .collect();
        self.special.eos.extend(known);
        let mut seen = Vec::new();
        self.special.eos.retain(|id| {
            let new = !seen.contains(id);
            seen.push(*id);
            new
        });
    }
}

/// Runs the tokenizers crate, which panics on some malformed files (a merge longer than
/// every token) and where an expression from a file backtracks without end.
fn guarded<T>(
    action: &'static str,
    run: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    // Nothing of ours is left half-changed: a failed load drops the tokenizer, and
    // encoding and decoding do not change it.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => {
            result.map_err(|error| TokenizerError::Run { action, why: error.to_string() })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let why =
                format!("the tokenizers library failed: {}", text.unwrap_or("no reason given"));
            Err(TokenizerError::Run { action, why })
        }
    }
}
