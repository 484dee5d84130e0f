//! What a scan of lorebooks gives: texts, and where in the prompt they go.

use super::Position;
use super::decorators::UiPrompt;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use troupe_dialogue::Role;

/// What a scan has found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Activation {
    /// The active entries that have a text, lowest order first.
    pub entries: Vec<ActiveEntry>,
    /// Entries that were due but found no tokens left.
    pub dropped: Vec<DroppedEntry>,
    /// Tokens of all active texts.
    pub tokens: usize,
    /// Prompts of the user's own that active entries switch off.
    pub disabled_prompts: BTreeSet<UiPrompt>,
    /// Keys that cannot work, and why.
    pub problems: Vec<String>,
}

/// An entry that goes into the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveEntry {
    /// Which of the books.
    pub book: usize,
    /// Which of the book's entries.
    pub entry: usize,
    /// The text: decorators removed, macros replaced.
    pub text: String,
    /// Where it goes.
    pub position: Position,
    /// Its order.
    pub order: i64,
    /// Its tokens.
    pub tokens: usize,
}

/// An entry that found no tokens left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedEntry {
    /// Which of the books.
    pub book: usize,
    /// Which of the book's entries.
    pub entry: usize,
    /// A name for messages.
    pub label: String,
}

impl Activation {
    /// The texts for one place, in order, one under the other; empty if there are none.
    pub fn text_at(&self, position: &Position) -> String {
        let here = self.entries.iter().filter(|e| e.position == *position);
        here.map(|e| e.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// The texts that go into the chat, by depth and role; those of the same depth and
    /// role are one text.
    pub fn at_depth(&self) -> Vec<(u32, Role, String)> {
        let mut places: Vec<(u32, Role)> = Vec::new();
        for entry in &self.entries {
            if let Position::AtDepth { depth, role } = entry.position
                && !places.contains(&(depth, role))
            {
                places.push((depth, role));
            }
        }
        places.sort_by_key(|&(depth, role)| (Reverse(depth), role as u8));
        let text = |(depth, role)| (depth, role, self.text_at(&Position::AtDepth { depth, role }));
        places.into_iter().map(text).collect()
    }

    /// The texts of the named outlets.
    pub fn outlets(&self) -> BTreeMap<String, String> {
        let names = self.entries.iter().filter_map(|e| match &e.position {
            Position::Outlet(name) => Some(name.clone()),
            _ => None,
        });
        names.map(|n| (n.clone(), self.text_at(&Position::Outlet(n)))).collect()
    }
}
