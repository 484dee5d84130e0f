//! Character cards: V1, V2, V3 and the Pygmalion keys, from JSON, PNG and CHARX.
//!
//! A [`Card`] is one normalised form of all of them. Cards are written by strangers:
//! each size is limited before anything is unpacked, wrong fields become [`Warning`]s,
//! nothing is fetched from a network and no asset is opened. Fields that no
//! specification names are kept and exported again.
//!
//! Not read: WEBP and JPEG metadata, compressed PNG text, YAML.
//!
//! Read `card/read.rs` for the shapes of JSON, `card/png.rs` and `card/charx.rs` for
//! the containers; the book inside a card is [`crate::lorebook`].

mod error;
pub(crate) mod fields;
mod json;
mod png;
mod charx;
mod read;
mod write;
mod examples;

pub use error::{CardError, Warning};
pub use examples::{ExampleDialogue, ExampleLine, parse_examples};

pub(crate) use json::parse_json;
pub(crate) use write::add_missing;

use crate::lorebook::Lorebook;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use troupe_dialogue::Role;

/// A file larger than this is not opened. CHARX archives with pictures and sounds reach
/// some hundred MiB; the whole file is held in memory while it is read.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// A card's or lorebook's JSON larger than this is not parsed, wherever it comes from.
/// RisuAI stops at about 5 MiB; the largest public books have a few MiB of text.
pub const MAX_JSON_BYTES: usize = 16 << 20;
/// A CHARX archive that lists more members than this is not read: the zip reader keeps
/// a record of each in memory. Cards with a full set of pictures have some hundreds.
pub const MAX_CHARX_ENTRIES: usize = 10_000;

/// The specification that a card was written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardSpec {
    /// Six texts at the top level; also the keys of Pygmalion and text-generation-webui.
    V1,
    /// `chara_card_v2`.
    V2,
    /// `chara_card_v3`, and whatever comes after it.
    V3,
}

/// A character, as its author wrote it: no macro is expanded here.
///
/// Fields are named as in the specifications. Texts are empty when missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// What the card was read from; exports state their own.
    pub spec: CardSpec,
    /// The character's name; never empty in a card that was read.
    pub name: String,
    /// Who the character is; always part of the prompt.
    pub description: String,
    /// A short summary of character traits.
    pub personality: String,
    /// Where and how the scene begins.
    pub scenario: String,
    /// The greeting: the character's first message.
    pub first_mes: String,
    /// Example dialogues as one text; see [`Card::examples`].
    pub mes_example: String,
    /// For the person who uses the card; never part of a prompt.
    pub creator_notes: String,
    /// Replaces the user's system prompt unless empty; may hold `{{original}}`.
    pub system_prompt: String,
    /// Replaces the user's text after the chat unless empty; may hold `{{original}}`.
    pub post_history_instructions: String,
    /// Other greetings to choose from.
    pub alternate_greetings: Vec<String>,
    /// The character's own lorebook.
    pub character_book: Option<Lorebook>,
    /// For sorting; never part of a prompt.
    pub tags: Vec<String>,
    /// Who made the card; never part of a prompt.
    pub creator: String,
    /// The author's version; never part of a prompt.
    pub character_version: String,
    /// V3: what `{{char}}` becomes instead of the name.
    pub nickname: Option<String>,
    /// V3: greetings that only fit group chats.
    pub group_only_greetings: Vec<String>,
    /// V3: creator's notes by ISO 639-1 language code.
    pub creator_notes_multilingual: BTreeMap<String, String>,
    /// V3: where the card comes from, as ids or addresses.
    pub source: Vec<String>,
    /// V3: pictures and the like; listed, not opened.
    pub assets: Vec<Asset>,
    /// V3: Unix time in seconds; 0 for "not told".
    pub creation_date: Option<i64>,
    /// V3: Unix time in seconds; 0 for "not told".
    pub modification_date: Option<i64>,
    /// What other programs have stored, kept as it is.
    pub extensions: Map<String, Value>,
    /// Fields of `data` that no specification names.
    pub other_fields: Map<String, Value>,
    /// Fields beside `data` that no specification names.
    pub other_outer_fields: Map<String, Value>,
}

/// An asset of a V3 card. Its address is not followed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asset {
    /// `type`: icon, background, emotion, user_icon or another word.
    pub kind: String,
    /// `embeded://`, `ccdefault:`, `data:`, `__asset:` or a network address.
    pub uri: String,
    /// Which one of its kind.
    pub name: String,
    /// The file extension, lower case, without a dot.
    pub ext: String,
    /// Fields that the specification does not name.
    pub other_fields: Map<String, Value>,
}

/// A text to be inserted at a depth in the chat (SillyTavern's "character's note").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepthPrompt {
    /// The text; not empty.
    pub prompt: String,
    /// How many messages stand after it.
    pub depth: u32,
    /// In whose voice.
    pub role: Role,
}

impl Card {
    /// Reads a card from a file of any of the formats.
    ///
    /// # Errors
    /// [`CardError`]: the file cannot be read, is too large, or holds no card.
    pub fn load(path: impl AsRef<Path>) -> Result<(Card, Vec<Warning>), CardError> {
        Card::from_bytes(&read_file(path.as_ref())?)
    }

    /// Reads a card from a file's content: a PNG signature means PNG, a zip end record
    /// means CHARX (whatever comes before it), anything else must be JSON.
    ///
    /// # Errors
    /// [`CardError`], as for [`Card::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<(Card, Vec<Warning>), CardError> {
        if bytes.starts_with(png::SIGNATURE) {
            return from_png(bytes);
        }
        if charx::has_end_record(bytes) {
            return from_json_bytes(&charx::card_json(bytes)?, "`card.json`");
        }
        if let Some(found) = other_format(bytes) {
            return Err(CardError::OtherFormat { found });
        }
        from_json_bytes(bytes, "the file")
    }

    /// Reads a card from JSON text; a byte order mark is allowed.
    ///
    /// # Errors
    /// [`CardError`], as for [`Card::load`].
    pub fn from_json(json: &str) -> Result<(Card, Vec<Warning>), CardError> {
        from_json_bytes(json.as_bytes(), "the text")
    }

    /// The card as a V2 object. The fields of V3, where set, go along as additional
    /// keys, so that nothing is lost on the way through a V2 program.
    pub fn to_v2_json(&self) -> Value {
        write::card(self, CardSpec::V2)
    }

    /// The card as a V3 object.
    pub fn to_v3_json(&self) -> Value {
        write::card(self, CardSpec::V3)
    }

    /// What `{{char}}` becomes: the nickname if there is one, else the name.
    pub fn spoken_name(&self) -> &str {
        self.nickname.as_deref().unwrap_or(&self.name)
    }

    /// The greetings in the order of their index: `first_mes`, then the alternatives.
    pub fn greetings(&self) -> Vec<&str> {
        let others = self.alternate_greetings.iter().map(String::as_str);
        std::iter::once(self.first_mes.as_str()).chain(others).collect()
    }

    /// The example dialogues, macros unexpanded. Lines may also begin with the
    /// character's name or with `user`, the user's name, which may be empty.
    pub fn examples(&self, user: &str) -> Vec<ExampleDialogue> {
        parse_examples(&self.mes_example, &[self.spoken_name(), &self.name], &[user])
    }

    /// The text to be inserted at a depth, from `extensions.depth_prompt`, if there is
    /// one. SillyTavern's defaults apply: depth 4, role system.
    pub fn depth_prompt(&self) -> Option<DepthPrompt> {
        let stored = self.extensions.get("depth_prompt")?;
        let prompt = stored.get("prompt")?.as_str()?.trim();
        let depth = stored.get("depth").and_then(Value::as_u64).unwrap_or(4);
        let role = match stored.get("role").and_then(Value::as_str) {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => Role::System,
        };
        let depth = u32::try_from(depth).unwrap_or(u32::MAX);
        (!prompt.is_empty()).then(|| DepthPrompt { prompt: prompt.to_owned(), depth, role })
    }
}

/// The whole of a file, if it is not too large.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CardError> {
    let failed = |source| CardError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(CardError::TooLarge { what: "the file", bytes, limit: MAX_FILE_BYTES });
    }
    std::fs::read(path).map_err(failed)
}

fn from_json_bytes(bytes: &[u8], place: &str) -> Result<(Card, Vec<Warning>), CardError> {
    read::card(parse_json(bytes, place)?)
}

/// V3 wins over V2; a damaged one gives way to the other, with a warning.
fn from_png(bytes: &[u8]) -> Result<(Card, Vec<Warning>), CardError> {
    let chunks = png::card_chunks(bytes)?;
    let chosen = match (chunks.ccv3, chunks.chara) {
        (Some(ccv3), None) => from_text_chunk(ccv3, "the `ccv3` chunk"),
        (None, Some(chara)) => from_text_chunk(chara, "the `chara` chunk"),
        (Some(ccv3), Some(chara)) => from_text_chunk(ccv3, "the `ccv3` chunk").or_else(|problem| {
            let (card, mut warnings) = from_text_chunk(chara, "the `chara` chunk")?;
            let problem = format!("{problem}; the `chara` chunk was read instead");
            fields::warn(&mut warnings, "", problem);
            Ok((card, warnings))
        }),
        (None, None) => Err(CardError::PngWithoutCard { others: String::new() }),
    };
    let (card, mut warnings) = chosen?;
    if let Some(cut) = chunks.cut {
        fields::warn(&mut warnings, "", format!("{cut}; the card before that place was read"));
    }
    Ok((card, warnings))
}

fn from_text_chunk(chunk: &[u8], place: &str) -> Result<(Card, Vec<Warning>), CardError> {
    let limit = MAX_JSON_BYTES / 3 * 4 + 4; // base64 turns three bytes into four
    let text: Vec<u8> = chunk.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    if text.len() > limit {
        let (bytes, limit) = (text.len() as u64, limit as u64);
        return Err(CardError::TooLarge { what: "the text chunk", bytes, limit });
    }
    if text.starts_with(b"{") {
        return from_json_bytes(chunk, place); // some writers skip the base64
    }
    let tolerant = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let json = GeneralPurpose::new(&STANDARD, tolerant).decode(&text).map_err(|problem| {
        let problem = problem.to_string().to_lowercase();
        let problem = problem.trim_end_matches('.').to_owned();
        CardError::Base64 { place: place.to_owned(), problem }
    })?;
    from_json_bytes(&json, place)
}

/// Names a file that is certainly no card, by its first bytes.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    const KNOWN: &[(&[u8], &str)] = &[
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"RIFF", "a WEBP picture"),
        (b"GIF8", "a GIF picture"),
        (b"BM", "a BMP picture"),
        (b"PK\x03\x04", "a zip archive that is cut short"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"%PDF", "a PDF document"),
        (b"GGUF", "a model"),
        (b"\xff\xfe", "UTF-16 text"),
        (b"\xfe\xff", "UTF-16 text"),
        (b"<", "a web page or XML"),
    ];
    KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|&(_, name)| name)
}
