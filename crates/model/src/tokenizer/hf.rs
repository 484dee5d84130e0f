//! A tokenizer from a Hugging Face folder.
//!
//! `tokenizer.json` has everything about ids; the files beside it say which tokens have
//! a role. The rules are those of transformers 5 (`tokenization_utils_tokenizers.py`,
//! 5.23.0): added tokens of the config extend or override those of `tokenizer.json`, and
//! `add_bos_token` or `add_eos_token` in the config replace its post-processor.
//! Departures: a BOS or EOS token that is in no vocabulary is an error here, where
//! transformers would add a token that the model has no row for; padding and truncation
//! of the file are ignored, as they are in training and serving there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::AddedToken;

use super::{Affixes, Special, Tokenizer, TokenizerError, guarded};

/// No known `tokenizer.json` has more than some 40 MB; parsing takes a few times that.
const MAX_FILE_BYTES: u64 = 512 << 20;

const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

pub(super) fn load(dir: &Path) -> Result<Tokenizer, TokenizerError> {
    let path = dir.join("tokenizer.json");
    let bytes = read(&path)?;
    let mut inner = guarded("load", || tokenizers::Tokenizer::from_bytes(&bytes))
        .map_err(|error| field(&path, "tokenizer.json", error.to_string()))?;
    drop(bytes);
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|error| field(&path, "truncation", error.to_string()))?;

    let config_path = dir.join("tokenizer_config.json");
    let config = Json { value: read_json(&config_path)?, path: config_path };
    let map_path = dir.join("special_tokens_map.json");
    let map = Json { value: read_json(&map_path)?, path: map_path };
    add_tokens(&mut inner, &config)?;

    let size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
    let mut tokenizer = Tokenizer {
        inner,
        vocab_size: size,
        special: Special::default(),
        affixes: Affixes::PostProcessor,
        note: None,
    };
    tokenizer.special.named = named_tokens(&config, &map)?;
    let role = |name: &str| -> Result<Option<u32>, TokenizerError> {
        let Some(text) = tokenizer.special.named.get(name) else { return Ok(None) };
        match tokenizer.token_to_id(text) {
            None if ["bos_token", "eos_token"].contains(&name) => {
                Err(field(&config.path, name, format!("`{text}` is not in the vocabulary")))
            }
            id => Ok(id),
        }
    };
    let (bos, eos) = (role("bos_token")?, role("eos_token")?);
    let (pad, unk) = (role("pad_token")?, role("unk_token")?);
    tokenizer.affixes = affixes(&config, bos, eos)?;
    tokenizer.special = Special { bos, pad, unk, ..tokenizer.special };
    tokenizer.special.eos.extend(eos);
    tokenizer.special.eos.extend(declared_ends(dir, size)?);
    tokenizer.add_known_ends();
    Ok(tokenizer)
}

/// A JSON file that may be absent (`Null`), with its path for messages.
struct Json {
    value: Value,
    path: PathBuf,
}

fn field(path: &Path, name: &str, why: impl Into<String>) -> TokenizerError {
    TokenizerError::Field { path: path.to_owned(), field: name.to_owned(), why: why.into() }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > MAX_FILE_BYTES {
        let why = format!("{len} bytes, at most {MAX_FILE_BYTES} are read");
        return Err(field(path, "file size", why));
    }
    std::fs::read(path).map_err(io)
}

fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    match read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| TokenizerError::Json { path: path.to_owned(), source }),
        Err(TokenizerError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Value::Null)
        }
        Err(error) => Err(error),
    }
}

/// The added tokens of `tokenizer_config.json`, in the order of their ids. One that is new
/// must get the id that it is declared with.
fn add_tokens(inner: &mut tokenizers::Tokenizer, config: &Json) -> Result<(), TokenizerError> {
    const NAME: &str = "added_tokens_decoder";
    let Some(declared) = config.value.get(NAME).and_then(Value::as_object) else { return Ok(()) };
    let mut tokens = BTreeMap::new();
    for (key, token) in declared {
        let id: u32 =
            key.parse().map_err(|_| field(&config.path, NAME, format!("`{key}` is no id")))?;
        let mut token = token.clone();
        if let Some(fields) = token.as_object_mut() {
            // Files of old versions leave out what is false.
            for name in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
                fields.entry(name).or_insert(Value::Bool(false));
            }
        }
        let token: AddedToken = serde_json::from_value(token)
            .map_err(|error| field(&config.path, NAME, format!("`{key}`: {error}")))?;
        tokens.insert(id, token);
    }
    guarded("load", || inner.add_tokens(tokens.values().cloned()))?;
    for (id, token) in tokens {
        let got = inner.token_to_id(&token.content);
        if got != Some(id) && !token.content.is_empty() {
            let got = got.map_or("none".to_owned(), |got| got.to_string());
            let why =
                format!("`{}` should have id {id}, tokenizer.json gives {got}", token.content);
            return Err(field(&config.path, NAME, why));
        }
    }
    Ok(())
}

/// The texts of tokens with a role; each is a string or an object with `content`.
fn named_tokens(config: &Json, map: &Json) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut named = BTreeMap::new();
    for name in ROLES {
        let found = [config, map].into_iter().find_map(|file| {
            file.value.get(name).filter(|value| !value.is_null()).map(|value| (file, value))
        });
        let Some((file, value)) = found else { continue };
        let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
        let text = text.ok_or_else(|| {
            field(&file.path, name, "expected a string or an object with a string `content`")
        })?;
        named.insert(name.to_owned(), text.to_owned());
    }
    Ok(named)
}

fn affixes(config: &Json, bos: Option<u32>, eos: Option<u32>) -> Result<Affixes, TokenizerError> {
    let flag = |name| match config.value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(set)) => Ok(Some(*set)),
        Some(other) => Err(field(&config.path, name, format!("expected a bool, got `{other}`"))),
    };
    let (add_bos, add_eos) = (flag("add_bos_token")?, flag("add_eos_token")?);
    if add_bos.is_none() && add_eos.is_none() {
        return Ok(Affixes::PostProcessor);
    }
    Ok(Affixes::Tokens {
        first: bos.filter(|_| add_bos == Some(true)),
        last: eos.filter(|_| add_eos == Some(true)),
    })
}

/// `eos_token_id` of the generation config or, where that has none, of the model's.
fn declared_ends(dir: &Path, vocab_size: usize) -> Result<Vec<u32>, TokenizerError> {
    const NAME: &str = "eos_token_id";
    for file in ["generation_config.json", "config.json"] {
        let path = dir.join(file);
        let json = read_json(&path)?;
        let ids = match json.get(NAME) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(ids)) => ids.clone(),
            Some(one) => vec![one.clone()],
        };
        let id = |value: &Value| {
            let id = value.as_u64().filter(|&id| id < vocab_size as u64);
            id.map(|id| id as u32).ok_or_else(|| {
                let why = format!("expected ids below {vocab_size}, got `{value}`");
                field(&path, NAME, why)
            })
        };
        return ids.iter().map(id).collect();
    }
    Ok(Vec::new())
}
