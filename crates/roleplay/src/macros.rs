//! Macros: the `{{placeholders}}` in cards, lorebooks and prompts.
//!
//! An [`Expander`] replaces them as SillyTavern does: names in any case, nesting,
//! `{{if}}` blocks, variables, dice, time. What it does not know stays in the text as
//! it is and is reported. Time and chance are arguments; nothing is looked up.
//!
//! Texts come from strangers. A value that is put in is not searched for macros again,
//! but for the card's own fields, and those never inside themselves; the number of
//! macros, their nesting, their output and the variables are all limited.
//!
//! Read `macros/syntax.rs` for what counts as a macro, then `macros/values.rs` for
//! what each one becomes.

mod syntax;
mod values;
mod time;
mod chance;
mod variables;
#[cfg(test)]
mod tests;

pub use variables::Variables;

pub(crate) use chance::{fnv1a, fnv1a_continue, unit_interval};

use crate::card::Card;
use chrono::{DateTime, FixedOffset, TimeDelta};
use rand_core::RngCore;
use std::collections::BTreeMap;
use syntax::{Source, Tag};

/// Deeper nesting stays in the text as it is. Honest cards use three or four levels.
pub const MAX_DEPTH: usize = 16;
/// More macros in one text stay as they are; a long card has some hundred.
pub const MAX_MACROS: usize = 20_000;
/// Macros may add so much to one text. Far more than any context holds.
pub const MAX_ADDED_BYTES: usize = 4 << 20;
/// A longer text is left as it is.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// More unknown names than this are not listed.
const MAX_REPORTED: usize = 100;

/// What the macros speak about. Fields may be empty.
#[derive(Debug, Clone, PartialEq)]
pub struct MacroContext {
    /// `{{char}}`: the character's spoken name.
    pub character: String,
    /// `{{user}}`.
    pub user: String,
    /// `{{group}}`: the members' names in a group chat; empty in others.
    pub group: Vec<String>,
    /// `{{description}}`; macros in it are replaced.
    pub description: String,
    /// `{{personality}}`; macros in it are replaced.
    pub personality: String,
    /// `{{scenario}}`; macros in it are replaced.
    pub scenario: String,
    /// `{{persona}}`, the user's description; macros in it are replaced.
    pub persona: String,
    /// `{{mesExamples}}`; macros in it are replaced.
    pub message_examples: String,
    /// `{{lastMessage}}`.
    pub last_message: String,
    /// `{{lastUserMessage}}`.
    pub last_user_message: String,
    /// `{{lastCharMessage}}`.
    pub last_character_message: String,
    /// `{{lastMessageId}}`: index of the last message.
    pub last_message_id: Option<usize>,
    /// `{{currentSwipeId}}`: number of the shown alternative, from 1.
    pub current_swipe_id: Option<usize>,
    /// `{{lastSwipeId}}`: how many alternatives there are.
    pub last_swipe_id: Option<usize>,
    /// `{{input}}`: what the user is typing.
    pub input: String,
    /// `{{model}}`.
    pub model: String,
    /// `{{maxPrompt}}`, in tokens.
    pub max_prompt: Option<usize>,
    /// The texts of `{{outlet::name}}`.
    pub outlets: BTreeMap<String, String>,
    /// The present time with the user's time zone.
    pub now: DateTime<FixedOffset>,
    /// Time since the user's last message.
    pub idle: Option<TimeDelta>,
    /// Fixes the choices of `{{pick}}` for a chat.
    pub chat_id: String,
}

impl MacroContext {
    /// A context with names and time, and nothing else.
    pub fn new(
        character: impl Into<String>,
        user: impl Into<String>,
        now: DateTime<FixedOffset>,
    ) -> Self {
        MacroContext {
            character: character.into(),
            user: user.into(),
            group: Vec::new(),
            description: String::new(),
            personality: String::new(),
            scenario: String::new(),
            persona: String::new(),
            message_examples: String::new(),
            last_message: String::new(),
            last_user_message: String::new(),
            last_character_message: String::new(),
            last_message_id: None,
            current_swipe_id: None,
            last_swipe_id: None,
            input: String::new(),
            model: String::new(),
            max_prompt: None,
            outlets: BTreeMap::new(),
            now,
            idle: None,
            chat_id: String::new(),
        }
    }

    /// A context with what a card says.
    pub fn for_card(card: &Card, user: impl Into<String>, now: DateTime<FixedOffset>) -> Self {
        MacroContext {
            description: card.description.clone(),
            personality: card.personality.clone(),
            scenario: card.scenario.clone(),
            message_examples: card.mes_example.clone(),
            ..MacroContext::new(card.spoken_name(), user, now)
        }
    }
}

/// A text with its macros replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The text.
    pub text: String,
    /// Names of macros that were left as they are, unknown or with arguments that make
    /// no sense; each once, in order.
    pub unknown: Vec<String>,
    /// Words of `{{hidden_key:...}}`: not in the text, but lorebooks look at them.
    pub hidden_keys: Vec<String>,
    /// Words of `{{banned "..."}}`: the model should not say them.
    pub banned: Vec<String>,
    /// A limit was met; the macros beyond it were left as they are.
    pub limited: bool,
}

impl Expansion {
    /// A text that is taken as it stands.
    pub fn literal(text: impl Into<String>) -> Self {
        Expansion { text: text.into(), ..Expansion::default() }
    }
}

/// Replaces macros.
pub struct Expander<'a> {
    context: &'a MacroContext,
    variables: &'a mut Variables,
    random: &'a mut dyn RngCore,
}

impl<'a> Expander<'a> {
    /// `variables` are read and written by the macros; `{{random}}` and `{{roll}}` draw
    /// from `random`.
    pub fn new(
        context: &'a MacroContext,
        variables: &'a mut Variables,
        random: &'a mut dyn RngCore,
    ) -> Self {
        Expander { context, variables, random }
    }

    /// Replaces the macros of a text. `{{original}}` is unknown here.
    pub fn expand(&mut self, text: &str) -> Expansion {
        self.run(text, None)
    }

    /// Replaces the macros of one of a card's two overriding texts, `system_prompt` and
    /// `post_history_instructions`: the first `{{original}}` becomes the user's own text
    /// with its macros replaced, further ones vanish.
    pub fn expand_override(&mut self, text: &str, original: &str) -> Expansion {
        self.run(text, Some(original))
    }

    fn run(&mut self, text: &str, original: Option<&str>) -> Expansion {
        if text.len() > MAX_TEXT_BYTES {
            return Expansion { limited: true, ..Expansion::literal(text) };
        }
        let mut run = Run {
            context: self.context,
            variables: self.variables,
            random: self.random,
            overriding: original.is_some(),
            original,
            open_fields: Vec::new(),
            macros_left: MAX_MACROS,
            bytes_left: MAX_ADDED_BYTES,
            found: Expansion::default(),
        };
        let text = run.source(text, 0);
        Expansion { text, ..run.found }
    }
}

/// What a macro becomes.
enum Value {
    Text(String),
    /// There is no such macro.
    Unknown,
    /// There is, but its arguments make no sense, or a limit was met.
    Refused,
}

/// One call of the expander.
struct Run<'r> {
    context: &'r MacroContext,
    variables: &'r mut Variables,
    random: &'r mut dyn RngCore,
    /// Whether `{{original}}` means something.
    overriding: bool,
    /// What it means, until it is used.
    original: Option<&'r str>,
    /// Fields of the context that are being expanded; not to be entered again.
    open_fields: Vec<&'static str>,
    macros_left: usize,
    bytes_left: usize,
    /// Everything but the text.
    found: Expansion,
}

impl Run<'_> {
    /// Replaces the macros of a whole text.
    fn source(&mut self, text: &str, depth: usize) -> String {
        let source = Source::new(text);
        self.range(&source, 0..text.len(), depth)
    }

    /// Replaces the macros of a part of a text.
    fn range(
        &mut self,
        source: &Source<'_>,
        range: std::ops::Range<usize>,
        depth: usize,
    ) -> String {
        let tags = source.tags(range.clone());
        self.found.limited |= tags.len() == syntax::MAX_TAGS;
        let mut out = String::new();
        let (mut at, mut i) = (range.start, 0);
        while let Some(tag) = tags.get(i) {
            self.plain(&source.text[at..tag.span.start], &mut out);
            let closer = tag.closer.and_then(|c| tags.get(c));
            let end = closer.map_or(tag.span.end, |closer| closer.span.end);
            let scope = closer.map(|closer| tag.span.end..closer.span.start);
            (at, i) = (end, tag.closer.map_or(i + 1, |closer| closer + 1));
            if depth >= MAX_DEPTH || self.macros_left == 0 {
                self.found.limited = true;
                out.push_str(&source.text[tag.span.start..end]);
                continue;
            }
            self.macros_left -= 1;
            if scope.is_none() && tag.is_bare("trim") {
                out.truncate(out.trim_end_matches(['\n', '\r']).len());
                let rest = &source.text[at..range.end];
                at += rest.len() - rest.trim_start_matches(['\n', '\r']).len();
                continue;
            }
            match self.value(source, tag, scope.clone(), depth) {
                Value::Text(value) if value.len() <= self.bytes_left => {
                    self.bytes_left -= value.len();
                    out.push_str(&value);
                }
                Value::Text(_) => {
                    self.found.limited = true;
                    out.push_str(&source.text[tag.span.start..end]);
                }
                Value::Refused => {
                    self.report(source, tag);
                    out.push_str(&source.text[tag.span.start..end]);
                }
                Value::Unknown => {
                    self.report(source, tag);
                    self.leave(source, tag, scope.map(|scope| (scope, end)), depth, &mut out);
                }
            }
        }
        self.plain(&source.text[at..range.end], &mut out);
        out
    }

    /// Remembers the name of a macro that stays in the text.
    fn report(&mut self, source: &Source<'_>, tag: &Tag) {
        let name = source.text[tag.inner()].trim();
        let name = name.split([':', '{', ' ', '\n']).next().unwrap_or_default();
        let name: String = name.chars().take(60).collect();
        if !self.found.unknown.contains(&name) && self.found.unknown.len() < MAX_REPORTED {
            self.found.unknown.push(name);
        }
    }

    /// Leaves an unknown macro in the text, with what is inside it replaced.
    fn leave(
        &mut self,
        source: &Source<'_>,
        tag: &Tag,
        scope: Option<(std::ops::Range<usize>, usize)>,
        depth: usize,
        out: &mut String,
    ) {
        let inner = self.range(source, tag.inner(), depth + 1);
        out.extend(["{{", &inner, "}}"]);
        if let Some((scope, end)) = scope {
            let inner = self.range(source, scope.clone(), depth + 1);
            out.extend([&inner, &source.text[scope.end..end]]);
        }
    }

    /// Text between macros: `<USER>` and its like, and escaped braces.
    fn plain(&mut self, text: &str, out: &mut String) {
        let mut rest = text;
        while let Some(at) = rest.find(['<', '\\']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some((name, after)) = syntax::angle_name(rest) {
                out.push_str(&self.name_value(name));
                rest = after;
            } else if let Some(after) = rest.strip_prefix(r"\{\{") {
                out.push_str("{{");
                rest = after;
            } else if let Some(after) = rest.strip_prefix(r"\}\}") {
                out.push_str("}}");
                rest = after;
            } else {
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
    }
}
