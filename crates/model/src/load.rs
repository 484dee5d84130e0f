//! A whole model from a path: weights, tokenizer and chat template.

use crate::config::{ConfigError, ModelConfig};
use crate::gguf::{GgufError, GgufFile};
use crate::source::{Folder, SourceError, WeightDtype, WeightSource};
use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::transformer::Transformer;
use candle_core::Device;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A model that can read, speak and be spoken to.
#[derive(Debug)]
pub struct Model {
    /// The weights.
    pub transformer: Transformer,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text; base models have none.
    pub template: Option<ChatTemplate>,
    /// A short name for people: the folder's or the file's.
    pub name: String,
    /// What a user should know about how the model was read.
    pub notes: Vec<String>,
}

/// Why a model cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Nothing is there.
    #[error("there is no file or folder `{}`", .0.display())]
    NotFound(PathBuf),
    /// Neither a folder nor a GGUF file.
    #[error("`{}` is neither a model folder nor a .gguf file", .0.display())]
    Kind(PathBuf),
    /// A file that cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Tokens without embeddings.
    #[error("the tokenizer has {tokenizer} tokens, the model embeds {vocab}")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding.
        vocab: usize,
    },
}

impl Model {
    /// Loads an HF folder or a GGUF file.
    ///
    /// # Errors
    /// The first file or field that cannot be used, by name.
    pub fn load(path: &Path, dtype: WeightDtype, device: &Device) -> Result<Self, LoadError> {
        let (transformer, tokenizer, template) = match open(path)? {
            Opened::Folder => {
                let file = path.join("config.json");
                let text = std::fs::read_to_string(&file)
                    .map_err(|source| LoadError::Io { path: file, source })?;
                let config = ModelConfig::from_hf_json(&text)?;
                let (tokenizer, template) = folder_text_side(path)?;
                let source = WeightSource::Folder(Folder::open(path)?);
                (Transformer::load(config, &source, dtype, device)?, tokenizer, template)
            }
            Opened::Gguf(file) => {
                let config = ModelConfig::from_gguf(&file)?;
                let (tokenizer, template) = gguf_text_side(&file)?;
                let interleaved = file.get::<&str>("general.architecture")? == "llama";
                let source = WeightSource::Gguf { file: &file, interleaved };
                (Transformer::load(config, &source, dtype, device)?, tokenizer, template)
            }
        };
        let vocab = transformer.config().vocab;
        if tokenizer.vocab_size() > vocab {
            return Err(LoadError::Vocabulary { tokenizer: tokenizer.vocab_size(), vocab });
        }
        let mut notes: Vec<String> = tokenizer.note().map(str::to_string).into_iter().collect();
        if template.is_none() {
            notes.push("the model has no chat template: it can continue text only".into());
        }
        Ok(Model { transformer, tokenizer, template, name: name_of(path), notes })
    }

    /// Loads tokenizer and template only.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_text_side(path: &Path) -> Result<TextSide, LoadError> {
        match open(path)? {
            Opened::Folder => folder_text_side(path),
            Opened::Gguf(file) => gguf_text_side(&file),
        }
    }

    /// Ids that end a turn.
    pub fn eos_ids(&self) -> &[u32] {
        self.tokenizer.eos_ids()
    }
}

enum Opened {
    Folder,
    Gguf(GgufFile),
}

fn open(path: &Path) -> Result<Opened, LoadError> {
    if path.is_dir() {
        Ok(Opened::Folder)
    } else if !path.exists() {
        Err(LoadError::NotFound(path.into()))
    } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        Ok(Opened::Gguf(GgufFile::open(path)?))
    } else {
        Err(LoadError::Kind(path.into()))
    }
}

fn name_of(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.into());
    let name = if path.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
}

type TextSide = (Tokenizer, Option<ChatTemplate>);

fn folder_text_side(path: &Path) -> Result<TextSide, LoadError> {
    let tokenizer = Tokenizer::from_hf_dir(path)?;
    let template = optional(ChatTemplate::from_hf_dir(path, &tokenizer))?;
    Ok((tokenizer, template))
}

fn gguf_text_side(file: &GgufFile) -> Result<TextSide, LoadError> {
    let tokenizer = Tokenizer::from_gguf(file)?;
    let template = optional(ChatTemplate::from_gguf(file, &tokenizer))?;
    Ok((tokenizer, template))
}

/// A missing template is a base model, any other failure is one.
fn optional(
    template: Result<ChatTemplate, TemplateError>,
) -> Result<Option<ChatTemplate>, LoadError> {
    match template {
        Ok(template) => Ok(Some(template)),
        Err(TemplateError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
