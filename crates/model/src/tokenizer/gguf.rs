//! A byte-level BPE tokenizer from GGUF metadata.
//!
//! `tokenizer.ggml.tokens`, `.token_type` and `.merges` are the vocabulary, `.pre` names
//! the rules that cut words (`pre.rs`). Control and user-defined tokens are cut out of the
//! text before everything else, as the added tokens of the Hugging Face original are.
//! What that original knows and the file does not keep: whether an added token swallows
//! the spaces beside it, and which tokens llama.cpp's converter marked as control tokens
//! only for their looks.

use std::collections::HashMap;

use tokenizers::AddedToken;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};

use super::pre;
use super::{Affixes, Special, Tokenizer, TokenizerError, guarded};
use crate::gguf::{Array, GgufFile, TextArray};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// What `tokenizer.ggml.token_type` says of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Found in text as a whole; `special` where decoding may leave it out.
    Added {
        special: bool,
    },
    /// A row of the model without a token (padding of the vocabulary).
    Unused,
}

pub(super) fn load(file: &GgufFile) -> Result<Tokenizer, TokenizerError> {
    let model: &str = file.get(MODEL)?;
    if model != "gpt2" {
        let (path, model) = (file.path().to_owned(), model.to_owned());
        return Err(TokenizerError::UnsupportedModel { path, model });
    }
    let name: &str = file.get(PRE)?;
    let pre = pre::by_name(name).ok_or_else(|| TokenizerError::UnknownPre {
        path: file.path().to_owned(),
        pre: name.to_owned(),
    })?;

    let tokens: &TextArray = file.get(TOKENS)?;
    let kinds = token_kinds(file, tokens.len())?;
    let vocab = vocabulary(file, tokens, &kinds)?;
    let merges = merges(file, &vocab, &kinds)?;
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(&kinds)
        .filter_map(|(token, kind)| match kind {
            Kind::Added { special } if !token.is_empty() => {
                Some(AddedToken::from(token, *special).normalized(false))
            }
            _ => None,
        })
        .collect();
    let ids: Vocab = vocab.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect();
    drop(vocab);
    let inner = guarded("load", || {
        let bpe = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre.ignore_merges);
        let mut inner = tokenizers::Tokenizer::new(bpe.build()?);
        inner.with_normalizer(pre.normalizer())?;
        inner.with_pre_tokenizer(Some(pre.pre_tokenizer()?));
        inner.with_decoder(Some(ByteLevel::default()));
        inner.add_tokens(added)?;
        Ok(inner)
    })?;

    let mut tokenizer = Tokenizer {
        inner,
        vocab_size: tokens.len(),
        special: special(file, tokens)?,
        affixes: Affixes::PostProcessor,
        note: pre.note,
    };
    tokenizer.affixes = affixes(file, &tokenizer.special, pre.adds_bos)?;
    tokenizer.add_known_ends();
    Ok(tokenizer)
}

fn field(file: &GgufFile, name: impl Into<String>, why: impl Into<String>) -> TokenizerError {
    let path = file.path().to_owned();
    TokenizerError::Field { path, field: name.into(), why: why.into() }
}

fn token_kinds(file: &GgufFile, count: usize) -> Result<Vec<Kind>, TokenizerError> {
    if count == 0 || u32::try_from(count).is_err() {
        return Err(field(file, TOKENS, format!("{count} tokens")));
    }
    let types = file.get::<&Array>(TYPES)?;
    let types =
        types.integers().ok_or_else(|| field(file, TYPES, "expected an array of integers"))?;
    if types.len() != count {
        let why = format!("{} entries for the {count} of `{TOKENS}`", types.len());
        return Err(field(file, TYPES, why));
    }
    types
        .enumerate()
        .map(|(id, kind)| match kind {
            // 0 is undefined, 6 a byte of SentencePiece; both are plain tokens in a BPE.
            0 | 1 | 6 => Ok(Kind::Normal),
            2 | 3 => Ok(Kind::Added { special: true }),
            4 => Ok(Kind::Added { special: false }),
            5 => Ok(Kind::Unused),
            _ => Err(field(file, format!("{TYPES}[{id}]"), format!("{kind} is no token type"))),
        })
        .collect()
}

/// Tokens to ids, without unused rows. Added tokens are among them, which fixes their ids.
fn vocabulary<'a>(
    file: &GgufFile,
    tokens: &'a TextArray,
    kinds: &[Kind],
) -> Result<HashMap<&'a str, u32>, TokenizerError> {
    let mut vocab = HashMap::with_capacity(tokens.len());
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        if *kind == Kind::Unused || token.is_empty() {
            continue;
        }
        if let Some(first) = vocab.insert(token, id as u32) {
            let why = format!("`{}` is also token {first}", token.escape_debug());
            return Err(field(file, format!("{TOKENS}[{id}]"), why));
        }
    }
    Ok(vocab)
}

/// The merges as pairs, each of plain tokens whose joined text is a token too.
fn merges(
    file: &GgufFile,
    vocab: &HashMap<&str, u32>,
    kinds: &[Kind],
) -> Result<Vec<(String, String)>, TokenizerError> {
    let lines: &TextArray = file.get(MERGES)?;
    let mut pairs = Vec::with_capacity(lines.len());
    let mut ranks = HashMap::with_capacity(lines.len());
    let known =
        |token: &str| vocab.get(token).copied().filter(|&id| kinds[id as usize] == Kind::Normal);
    let mut joined = String::new();
    for (rank, line) in lines.iter().enumerate() {
        let invalid = |why| field(file, format!("{MERGES}[{rank}]"), why);
        let (left, right) = line
            .split_once(' ')
            .ok_or_else(|| invalid(format!("`{}` is not two tokens", line.escape_debug())))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let missing = [left, right, &joined].into_iter().find(|token| known(token).is_none());
        if let Some(token) = missing {
            return Err(invalid(format!("`{}` is not in `{TOKENS}`", token.escape_debug())));
        }
        if let Some(first) = ranks.insert(line, rank) {
            return Err(invalid(format!("it repeats merge {first}")));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

fn special(file: &GgufFile, tokens: &TextArray) -> Result<Special, TokenizerError> {
    let role = |name: &str| -> Result<Option<u32>, TokenizerError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match file.find::<u32>(&key)? {
            Some(id) if id as usize >= tokens.len() => {
                let why = format!("{id} is outside the {} tokens of `{TOKENS}`", tokens.len());
                Err(field(file, key, why))
            }
            id => Ok(id),
        }
    };
    let (bos, eos, pad, unk) = (role("bos")?, role("eos")?, role("padding")?, role("unknown")?);
    let ends = [eos, role("eot")?, role("eom")?];
    let names = [("bos_token", bos), ("eos_token", eos), ("pad_token", pad), ("unk_token", unk)];
    let named = names.into_iter().filter_map(|(name, id)| {
        let text = tokens.get(id? as usize)?;
        Some((name.to_owned(), text.to_owned()))
    });
    Ok(Special { bos, pad, unk, eos: ends.into_iter().flatten().collect(), named: named.collect() })
}

fn affixes(
    file: &GgufFile,
    special: &Special,
    default_bos: bool,
) -> Result<Affixes, TokenizerError> {
    let wanted = |key: &str, id: Option<u32>, default: bool| match file.find::<bool>(key)? {
        Some(true) if id.is_none() => {
            Err(field(file, key, "it is true, but there is no such token"))
        }
        Some(set) => Ok(id.filter(|_| set)),
        None => Ok(id.filter(|_| default)),
    };
    Ok(Affixes::Tokens {
        first: wanted("tokenizer.ggml.add_bos_token", special.bos, default_bos)?,
        last: wanted("tokenizer.ggml.add_eos_token", special.eos.first().copied(), false)?,
    })
}
