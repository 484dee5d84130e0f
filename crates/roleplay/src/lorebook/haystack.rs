//! The text in which an entry's keys are looked for.
//!
//! Newest message first, each as `Name: text` behind a `\x01` mark that patterns can
//! anchor to; then the prompts that are searched with the chat; then, in a recursion
//! pass, the texts of entries that have become active.

use super::MatchIn;
use super::keys::Searched;
use std::collections::HashMap;
use std::rc::Rc;
use troupe_dialogue::Message;

const MARK: &str = "\u{1}";
/// More different depths than this are not kept at once: a hostile book could ask for a
/// copy of the chat with each entry.
const MAX_KEPT: usize = 16;

/// Texts beside the chat that an entry may want searched; see [`MatchIn`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MatchTexts<'a> {
    /// The user's description.
    pub persona: &'a str,
    /// The character's description.
    pub description: &'a str,
    /// The character's personality.
    pub personality: &'a str,
    /// The text that the card inserts at a depth.
    pub depth_prompt: &'a str,
    /// The scenario.
    pub scenario: &'a str,
    /// The creator's notes.
    pub creator_notes: &'a str,
}

/// Makes and keeps the texts of one scan.
pub(super) struct Haystack<'a> {
    /// Newest first.
    messages: Vec<String>,
    prompts: &'a [&'a str],
    texts: MatchTexts<'a>,
    recursion: Vec<String>,
    made: HashMap<(usize, MatchIn, bool), Rc<Searched>>,
}

impl<'a> Haystack<'a> {
    pub(super) fn new(
        messages: &[Message],
        with_names: bool,
        prompts: &'a [&'a str],
        texts: MatchTexts<'a>,
    ) -> Self {
        let line = |m: &Message| match &m.name {
            Some(name) if with_names => format!("{name}: {}", m.content),
            _ => m.content.clone(),
        };
        let messages = messages.iter().rev().map(line).collect();
        Haystack { messages, prompts, texts, recursion: Vec::new(), made: HashMap::new() }
    }

    /// Adds the text of an active entry for the recursion passes to come.
    pub(super) fn add_recursion(&mut self, text: String) {
        self.recursion.push(text);
        self.made.retain(|(_, _, recursive), _| !recursive);
    }

    /// The text for one entry. A depth of 0 searches nothing at all.
    pub(super) fn text(&mut self, depth: usize, extra: MatchIn, recursive: bool) -> Rc<Searched> {
        let depth = depth.min(self.messages.len().max(1));
        if let Some(made) = self.made.get(&(depth, extra, recursive)) {
            return Rc::clone(made);
        }
        let mut parts: Vec<&str> = Vec::new();
        if depth > 0 {
            parts.extend(self.messages.iter().take(depth).map(String::as_str));
            parts.extend(self.prompts);
            let wanted = [
                (extra.persona, self.texts.persona),
                (extra.description, self.texts.description),
                (extra.personality, self.texts.personality),
                (extra.depth_prompt, self.texts.depth_prompt),
                (extra.scenario, self.texts.scenario),
                (extra.creator_notes, self.texts.creator_notes),
            ];
            parts.extend(wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, text)| text));
            if recursive {
                parts.extend(self.recursion.iter().map(String::as_str));
            }
        }
        let mut text = String::new();
        for part in parts {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.extend([gap, MARK, part]);
        }
        let made = Rc::new(Searched::new(text));
        if self.made.len() >= MAX_KEPT {
            self.made.clear();
        }
        self.made.insert((depth, extra, recursive), Rc::clone(&made));
        made
    }
}
