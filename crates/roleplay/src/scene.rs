//! A scene: who plays, what each side knows, how things stand, who speaks when.
//!
//! One [`Scene`] holds an NPC and a User, their relationship, the opening context and
//! the [`TurnRules`]. It refuses to guess a name for the NPC: there is no scene without
//! one. `scene/rows.rs` reads files and is tolerant; `scene/character.rs` makes a scene
//! of a card. Words for the model are made in [`crate::prompt`]; read that next.
//!
//! # The shape
//! One JSON object a line, or the same keys in TOML; only `npc.name` is required.
//!
//! ```json
//! {"id": "gull-point", "lang": "en",
//!  "npc": {"name": "Marrow", "persona": "told to this side only",
//!          "visible": "what the other side can see",
//!          "greeting": "first line", "alternate_greetings": ["another first line"],
//!          "example": "Marrow: how he talks"},
//!  "user": {"name": "Ines", "persona": "...", "visible": "..."},
//!  "relationship": "known to both", "context": "known to both",
//!  "turns": {"first": "user", "order": ["npc", "npc", "user"], "max_characters": 600},
//!  "system_prompt": "instead of the NPC's rules; `{{original}}` puts them back",
//!  "post_history": "a last word to the NPC before each of its turns"}
//! ```

mod rows;
mod character;

pub use character::{CardScene, CharacterFields};
pub use rows::{RowProblem, read_scenes};

use rows::SceneRow;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use troupe_dialogue::Side;

/// A scene of two, ready to be played.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SceneRow")]
pub struct Scene {
    /// Names the scene in records: the row's `id`, else its `source`, else a hash of
    /// its content.
    pub id: String,
    /// The language of the system texts.
    pub lang: Lang,
    /// The character.
    pub npc: Persona,
    /// The person who talks to the character; may have no name and no persona.
    pub user: Persona,
    /// How the two stand to each other; both sides are told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub relationship: String,
    /// Where and when, and what just happened; both sides are told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub context: String,
    /// Who speaks when, and how much.
    #[serde(skip_serializing_if = "TurnRules::is_default")]
    pub turns: TurnRules,
    /// Replaces the rules at the end of the NPC's system text when not empty;
    /// `{{original}}` in it stands for those rules.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_prompt: String,
    /// Instructions that follow the conversation in each of the NPC's prompts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub post_history: String,
}

/// One side of a scene.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Persona {
    /// What the side is called; the user's may be empty.
    pub name: String,
    /// Who the side is, its wants and secrets; only its own view holds this.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub persona: String,
    /// What the other side can see of it; both views hold this.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub visible: String,
    /// The NPC's first line; empty when there is none. Not used for the user.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub greeting: String,
    /// Other first lines of the NPC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternate_greetings: Vec<String>,
    /// A few lines that show how the side talks.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub example: String,
}

/// The languages that system texts are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// English.
    En,
    /// Chinese.
    Zh,
}

/// Who speaks when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TurnRules {
    /// Who opens an alternating scene that has no greeting; default `user`, because
    /// the user is told whom to talk to and why.
    pub first: Side,
    /// A repeating pattern of sides, such as npc, npc, user; empty is alternation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<Side>,
    /// Longer turns are shortened to this many characters; none is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_characters: Option<usize>,
}

/// Why a value of the right form is no scene.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SceneError {
    /// The NPC has no name.
    #[error("`npc.name` is missing or empty")]
    NoName,
    /// An id that is neither text nor number.
    #[error("`id` is {0}; expected text or a number")]
    Id(String),
}

impl Scene {
    /// One side's persona.
    pub fn persona(&self, side: Side) -> &Persona {
        match side {
            Side::Npc => &self.npc,
            Side::User => &self.user,
        }
    }

    /// A name to show: a user without one is `User` or `用户`.
    pub fn display_name(&self, side: Side) -> &str {
        match (self.persona(side).name.as_str(), self.lang) {
            ("", Lang::En) => "User",
            ("", Lang::Zh) => "用户",
            (name, _) => name,
        }
    }

    /// The NPC's first lines: the greeting, then the alternates.
    pub fn greetings(&self) -> impl Iterator<Item = &str> {
        let first = Some(&self.npc.greeting).filter(|text| !text.is_empty());
        first.into_iter().chain(&self.npc.alternate_greetings).map(String::as_str)
    }

    /// Who speaks turn `turn`, counted from 0. A greeting is turn 0 and the NPC's: it
    /// fills the first place of an order that begins with the NPC, and stands before
    /// one that begins with the user.
    pub fn side_at(&self, turn: usize) -> Side {
        let greeted = self.greetings().next().is_some();
        let first = if greeted { Side::Npc } else { self.turns.first };
        let alternating = [first, first.other()];
        let order: &[Side] =
            if self.turns.order.is_empty() { &alternating } else { &self.turns.order };
        match turn {
            0 if greeted => Side::Npc,
            _ if greeted && order[0] == Side::User => order[(turn - 1) % order.len()],
            _ => order[turn % order.len()],
        }
    }
}

impl Lang {
    /// `en` or `zh`.
    pub fn as_str(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Zh => "zh",
        }
    }

    /// Chinese when at least three in ten of the letters are Han characters.
    pub fn detect<'a>(texts: impl IntoIterator<Item = &'a str>) -> Lang {
        let (mut han, mut letters) = (0usize, 0usize);
        for c in texts.into_iter().flat_map(str::chars).filter(|c| c.is_alphabetic()) {
            letters += 1;
            han += usize::from(is_han(c));
        }
        if letters > 0 && han * 10 >= letters * 3 { Lang::Zh } else { Lang::En }
    }
}

impl Default for TurnRules {
    fn default() -> Self {
        TurnRules { first: Side::User, order: Vec::new(), max_characters: None }
    }
}

impl TurnRules {
    fn is_default(&self) -> bool {
        *self == TurnRules::default()
    }
}

/// Whether a character is Chinese writing (Han ideographs, with extensions).
pub(crate) fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}')
}
