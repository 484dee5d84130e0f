//! Lorebooks and World Info: texts that enter a prompt when the chat mentions them.
//!
//! A [`Lorebook`] is one normalised form of a card's `character_book`, a stand-alone V3
//! file, a SillyTavern World Info file and the books of RisuAI, Agnai and NovelAI.
//! [`activate()`] decides which entries a prompt gets, in SillyTavern's order of tests.
//! Nothing here knows a clock, a generator or a tokenizer: they are arguments.
//!
//! Not done: vector search, and lookups by RisuAI's and NovelAI's scripts.
//!
//! Read `lorebook/read.rs` for the formats, then `lorebook/activate.rs` for the rules.

mod read;
mod write;
mod decorators;
mod keys;
mod script_regex;
mod timed;
mod groups;
mod haystack;
mod candidate;
mod outcome;
mod activate;
#[cfg(test)]
mod tests;

pub use activate::{Scan, ScanSettings, activate};
pub use decorators::{Decorators, UiPrompt};
pub use haystack::MatchTexts;
pub use outcome::{Activation, ActiveEntry, DroppedEntry};
pub use timed::{TimedEffect, TimedState};

pub(crate) use read::{FileKind, from_character_book, kind_of_file};

use crate::card::{CardError, Warning, parse_json, read_file};
use serde_json::{Map, Value};
use std::fmt;
use std::path::Path;
use troupe_dialogue::Role;

/// A book of entries with its own settings; `None` leaves a setting to the reader.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lorebook {
    /// For people; also tells the entries of several books apart.
    pub name: String,
    /// For people.
    pub description: String,
    /// How many of the newest messages are searched for keys.
    pub scan_depth: Option<u32>,
    /// Most tokens that the book's entries may take together.
    pub token_budget: Option<u32>,
    /// Whether the texts of active entries are searched for keys of this book.
    pub recursive_scanning: Option<bool>,
    /// The entries, in the order of the file.
    pub entries: Vec<Entry>,
    /// What other programs have stored, kept as it is.
    pub extensions: Map<String, Value>,
    /// Fields that no specification names.
    pub other_fields: Map<String, Value>,
}

/// One text and the conditions under which it enters the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Tells the entry apart from others of its book, if the file does.
    pub id: Option<EntryId>,
    /// For people.
    pub name: String,
    /// For people.
    pub comment: String,
    /// Any of these in the searched text activates the entry. `/pattern/flags` is a
    /// regular expression, anything else a text.
    pub keys: Vec<String>,
    /// A second condition, if `selective`.
    pub secondary_keys: Vec<String>,
    /// Whether `secondary_keys` count.
    pub selective: bool,
    /// How `secondary_keys` count.
    pub logic: SelectiveLogic,
    /// The text, decorators included; macros unexpanded.
    pub content: String,
    /// A disabled entry is never active.
    pub enabled: bool,
    /// Active without any key.
    pub constant: bool,
    /// V3's statement that the keys are patterns. Kept for export and otherwise unused:
    /// SillyTavern writes it on every entry and goes by the key's form, as we do.
    pub use_regex: bool,
    /// Lower goes earlier in the prompt, higher is nearer to its end and is served
    /// first when tokens are short.
    pub order: i64,
    /// Lower is dropped first when tokens are short; goes before `order`.
    pub priority: Option<i64>,
    /// Where the text goes.
    pub position: Position,
    /// Whether keys must match in case.
    pub case_sensitive: Option<bool>,
    /// Whether a key of one word must not be part of a longer one.
    pub match_whole_words: Option<bool>,
    /// How many of the newest messages are searched.
    pub scan_depth: Option<u32>,
    /// Percent, 0 to 100.
    pub probability: f64,
    /// Names of inclusion groups, of which only one entry each becomes active.
    pub groups: Vec<String>,
    /// Wins in its groups by order instead of by chance.
    pub group_override: bool,
    /// Weight of the draw in its groups.
    pub group_weight: u32,
    /// Whether more matching keys beat fewer in its groups.
    pub use_group_scoring: Option<bool>,
    /// Stays active for so many messages; 0 is off.
    pub sticky: u32,
    /// Cannot become active for so many messages after it was; 0 is off.
    pub cooldown: u32,
    /// Cannot become active before the chat has so many messages; 0 is off.
    pub delay: u32,
    /// Texts of other entries do not activate it.
    pub exclude_recursion: bool,
    /// Its text activates no other entries.
    pub prevent_recursion: bool,
    /// Only texts of other entries activate it; higher levels open later. 0 is off.
    pub delay_until_recursion: u32,
    /// Takes no part in the token budget.
    pub ignore_budget: bool,
    /// For which characters it is meant.
    pub character_filter: Option<CharacterFilter>,
    /// For which kinds of generation it is meant (`normal`, `continue`, `swipe`, ...);
    /// empty for all.
    pub triggers: Vec<String>,
    /// Which texts beside the chat are searched for its keys.
    pub match_in: MatchIn,
    /// What other programs have stored, kept as it is.
    pub extensions: Map<String, Value>,
    /// Fields that no specification names.
    pub other_fields: Map<String, Value>,
}

/// An entry's id: numbers in SillyTavern, text in some others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryId {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryId::Number(number) => write!(f, "{number}"),
            EntryId::Text(text) => f.write_str(text),
        }
    }
}

/// What the secondary keys must do, once a primary key has matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelectiveLogic {
    /// At least one matches.
    #[default]
    AndAny,
    /// At least one does not match.
    NotAll,
    /// None matches.
    NotAny,
    /// Each one matches.
    AndAll,
}

/// Where an entry's text goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Position {
    /// Before the character's description.
    #[default]
    BeforeCharacter,
    /// After the character's description.
    AfterCharacter,
    /// Before the author's note.
    NoteTop,
    /// After the author's note.
    NoteBottom,
    /// In the chat, before the newest `depth` messages.
    AtDepth {
        /// How many messages stand after it.
        depth: u32,
        /// In whose voice.
        role: Role,
    },
    /// Before the example dialogues.
    BeforeExamples,
    /// After the example dialogues.
    AfterExamples,
    /// Where a prompt says `{{outlet::name}}`.
    Outlet(String),
    /// With the character's personality; only decorators ask for it.
    Personality,
    /// With the scenario; only decorators ask for it.
    Scenario,
}

/// For which characters an entry is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CharacterFilter {
    /// Characters, by name.
    pub names: Vec<String>,
    /// Characters, by one of their tags.
    pub tags: Vec<String>,
    /// Turns the filter round: meant for all others.
    pub exclude: bool,
}

/// Which texts beside the chat are searched for an entry's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MatchIn {
    /// The user's description.
    pub persona: bool,
    /// The character's description.
    pub description: bool,
    /// The character's personality.
    pub personality: bool,
    /// The text that the card inserts at a depth.
    pub depth_prompt: bool,
    /// The scenario.
    pub scenario: bool,
    /// The creator's notes.
    pub creator_notes: bool,
}

impl Default for Entry {
    /// An enabled entry without keys or text, with SillyTavern's defaults.
    fn default() -> Self {
        Entry {
            id: None,
            name: String::new(),
            comment: String::new(),
            keys: Vec::new(),
            secondary_keys: Vec::new(),
            selective: false,
            logic: SelectiveLogic::AndAny,
            content: String::new(),
            enabled: true,
            constant: false,
            use_regex: false,
            order: 100,
            priority: None,
            position: Position::BeforeCharacter,
            case_sensitive: None,
            match_whole_words: None,
            scan_depth: None,
            probability: 100.0,
            groups: Vec::new(),
            group_override: false,
            group_weight: 100,
            use_group_scoring: None,
            sticky: 0,
            cooldown: 0,
            delay: 0,
            exclude_recursion: false,
            prevent_recursion: false,
            delay_until_recursion: 0,
            ignore_budget: false,
            character_filter: None,
            triggers: Vec::new(),
            match_in: MatchIn::default(),
            extensions: Map::new(),
            other_fields: Map::new(),
        }
    }
}

impl Entry {
    /// The decorators at the head of the content, and the text after them.
    pub fn decorated(&self) -> (Decorators, &str) {
        decorators::parse(&self.content)
    }

    /// A name for messages: the entry's own, its comment, its first key or its id.
    pub fn label(&self) -> String {
        let texts = [&self.name, &self.comment].into_iter().chain(self.keys.first());
        let named = texts.map(|t| t.trim()).find(|t| !t.is_empty());
        match (named, &self.id) {
            (Some(name), _) => name.chars().take(60).collect(),
            (None, Some(id)) => id.to_string(),
            (None, None) => "unnamed".to_owned(),
        }
    }
}

impl Lorebook {
    /// Reads a lorebook from a JSON file of any of the formats.
    ///
    /// # Errors
    /// [`CardError`]: the file cannot be read, is too large, or holds no lorebook.
    pub fn load(path: impl AsRef<Path>) -> Result<(Lorebook, Vec<Warning>), CardError> {
        read::lorebook(parse_json(&read_file(path.as_ref())?, "the file")?)
    }

    /// Reads a lorebook from JSON text; a byte order mark is allowed.
    ///
    /// # Errors
    /// [`CardError`], as for [`Lorebook::load`].
    pub fn from_json(json: &str) -> Result<(Lorebook, Vec<Warning>), CardError> {
        read::lorebook(parse_json(json.as_bytes(), "the text")?)
    }

    /// The book as it stands in a card's `character_book`. What SillyTavern knows and
    /// the specification does not goes to each entry's `extensions`, as there.
    pub fn to_json(&self) -> Value {
        write::book(self)
    }

    /// The book as a stand-alone V3 file.
    pub fn to_v3_json(&self) -> Value {
        serde_json::json!({ "spec": "lorebook_v3", "data": self.to_json() })
    }
}
